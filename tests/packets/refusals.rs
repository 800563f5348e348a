//! What pollgate refuses, and how the client is told.

use std::time::Duration;

use super::IS_V6;
use super::support::builder::{Ip, other, tcp, udp};
use super::support::family::QUOTED;
use super::support::lab::{Lab, OUTSIDE, PODS};
use super::support::objects::{echo, shop, web};

#[test]
fn a_tcp_client_of_a_service_without_endpoints_gets_the_reset_of_rfc_9293() {
    let mut lab = Lab::new(&web(&[]));
    let cases = [
        // flags, payload, (flags, sequence, acknowledgement) of the reset
        ("S", 0, ("RA", 0, 1001)),
        ("S", 10, ("RA", 0, 1011)),
        ("SF", 0, ("RA", 0, 1002)),
        ("A", 0, ("R", 5555, 0)),
        ("PA", 10, ("R", 5555, 0)),
        ("FA", 0, ("R", 5555, 0)),
    ];
    for (flags, payload, expected) in cases {
        let packet = tcp("10.244.1.5:40000", "10.96.0.50:80").flags(flags).numbers(1000, 5555);
        let seen = lab.through(PODS, packet.payload(vec![1; payload]), PODS);
        let (text, number, ack) = expected;
        assert_eq!(seen.to_string(), format!("tcp 10.96.0.50:80 > 10.244.1.5:40000 {text} ttl 64"));
        assert_eq!((seen.tcp().sequence_number, seen.tcp().acknowledgment_number), (number, ack), "{flags}");
    }
    lab.send(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80").flags("R"));
    lab.counters(&[("rx", 7), ("originated", 6), ("tx", 6), ("reject_no_endpoints", 7)]);
}

#[test]
fn a_udp_client_gets_port_unreachable_from_the_gateway_quoting_its_packet() {
    let mut lab = Lab::new(&echo(&[]));
    for payload in [0, 5, 548, 1400] {
        let packet = udp("10.244.1.5:40000", "10.96.0.60:7").payload(vec![0x33; payload]);
        let sent = packet.datagram();
        let seen = lab.through(PODS, packet, PODS);
        assert_eq!(seen.to_string(), "icmp 192.168.50.10 > 10.244.1.5 port-unreachable ttl 64");
        assert_eq!(seen.payload, sent[..sent.len().min(QUOTED)]);
    }
    lab.counters(&[("rx", 4), ("originated", 4), ("tx", 4), ("reject_no_endpoints", 4)]);
}

#[test]
fn a_refusal_of_a_packet_left_to_offload_is_complete() {
    let mut lab = Lab::new(&format!("{}{}", web(&[]), echo(&[])));
    let reset = lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80").partial(), PODS);
    let error = lab.through(PODS, udp("10.244.1.5:40000", "10.96.0.60:7").partial(), PODS);
    assert!(!reset.packet.offload.is_partial() && !error.packet.offload.is_partial());
    lab.counters(&[("rx", 2), ("originated", 2), ("tx", 2), ("reject_no_endpoints", 2)]);
}

#[test]
fn an_undefined_port_is_refused_on_a_cluster_ip_and_dropped_elsewhere() {
    let mut lab = Lab::new(&shop("", &["10.244.1.10"]));
    let seen = lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.70:81"), PODS);
    assert_eq!(seen.to_string(), "tcp 10.96.0.70:81 > 10.244.1.5:40000 RA ttl 64");
    let seen = lab.through(PODS, udp("10.244.1.5:40000", "10.96.0.70:80"), PODS);
    assert_eq!(seen.to_string(), "icmp 192.168.50.10 > 10.244.1.5 port-unreachable ttl 64");
    let seen = lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.10:9153"), PODS);
    assert_eq!(seen.to_string(), "tcp 10.96.0.10:9153 > 10.244.1.5:40000 RA ttl 64");
    for address in ["192.168.50.10:30081", "203.0.113.7:81", "198.51.100.7:81"] {
        lab.send(OUTSIDE, tcp("192.168.50.100:50000", address));
        lab.send(OUTSIDE, udp("192.168.50.100:50000", address));
    }
    lab.send(OUTSIDE, tcp("192.168.50.100:50000", "192.168.50.10:20000"));
    let refused = [("originated", 3), ("tx", 3), ("reject_undefined_port", 3)];
    lab.counters(&[&[("rx", 10), ("undefined_port", 6), ("stale_reply", 1)], &refused[..]].concat());
}

#[test]
fn an_unallocated_cluster_ip_is_dropped_and_a_stranger_passed() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    lab.send(PODS, tcp("10.244.1.5:40000", "10.96.7.7:80"));
    lab.send(PODS, other("10.244.1.5", "10.96.7.7", 47));
    lab.send(PODS, tcp("10.244.1.5:40000", "192.0.2.1:80"));
    // The host's own address, and one in the Pods' network that no flow knows.
    lab.send(OUTSIDE, tcp("192.168.50.100:40000", "192.168.50.2:22"));
    lab.send(PODS, udp("10.244.1.10:7007", "10.244.1.5:40000"));
    lab.counters(&[("rx", 5), ("no_such_cluster_ip", 2), ("not_owned", 3)]);
}

#[test]
fn nobody_may_send_from_an_impossible_address_or_one_of_ours() {
    let mut lab = Lab::new(&shop("", &["10.244.1.10"]));
    let sources = [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "10.96.0.70",
        "192.168.50.10",
        "203.0.113.7",
        "10.96.7.7",
    ];
    for source in sources {
        lab.send(OUTSIDE, tcp(&format!("{source}:40000"), "192.168.50.10:30080"));
        lab.send(OUTSIDE, udp(&format!("{source}:40000"), "10.96.0.10:53"));
        lab.send(OUTSIDE, other(source, "192.168.50.10", 47));
    }
    // The last is no Service's, and no host's either: it is in the Service CIDR.
    lab.counters(&[("rx", 24), ("bad_source", 24)]);
}

#[test]
fn a_packet_at_its_last_hop_is_told_about_not_forwarded() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    for ttl in [1, 0] {
        let packet = tcp("10.244.1.5:40000", "10.96.0.50:80").ttl(ttl);
        let sent = packet.datagram();
        let seen = lab.through(PODS, packet, PODS);
        assert_eq!(seen.to_string(), "icmp 192.168.50.10 > 10.244.1.5 time-exceeded ttl 64");
        assert_eq!(seen.payload, sent, "quoted as it came");
    }
    lab.counters(&[("rx", 2), ("originated", 2), ("tx", 2), ("ttl_expired", 2)]);
    let seen = lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80").ttl(2), PODS);
    assert_eq!(seen.to_string(), "tcp 10.244.1.5:40000 > 10.244.1.10:8080 S ttl 1");
    let flow = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];
    lab.counters(&[&[("rx", 3), ("originated", 2), ("tx", 3), ("ttl_expired", 2)], &flow[..]].concat());
    // Of a known flow as well.
    lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80").ttl(1), PODS);
    lab.counters(&[&[("rx", 4), ("originated", 3), ("tx", 4), ("ttl_expired", 3)], &flow[..]].concat());
}

#[test]
fn refusals_per_second_are_bounded() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    let sent = |lab: &mut Lab, from: &dyn Fn(u32) -> String, packet: fn(&str, &str) -> Ip| {
        (0..12_000).for_each(|n| lab.push(0, OUTSIDE, packet(&from(n), "10.96.0.50:81")));
        lab.run();
        lab.take(OUTSIDE).len()
    };
    // Two hosts of one prefix; then clients of so many prefixes that their buckets hold more than the worker may send.
    let near = |n: u32| format!("203.0.114.{}:40000", 1 + n % 2);
    let everywhere = |n: u32| format!("100.{}.{}.7:40000", 64 + n / 250 % 48, n % 250);
    // The IPv6 addresses of this suite are all of one prefix.
    let rest = |datagrams: usize, segments: usize| if IS_V6 { (0, 0) } else { (datagrams, segments) };
    assert_eq!((sent(&mut lab, &near, udp), sent(&mut lab, &near, tcp)), (100, 1000));
    assert_eq!((sent(&mut lab, &everywhere, udp), sent(&mut lab, &everywhere, tcp)), rest(900, 9000));
    lab.wait(Duration::from_millis(500));
    assert_eq!((sent(&mut lab, &near, udp), sent(&mut lab, &near, tcp)), (50, 500));
    assert_eq!((sent(&mut lab, &everywhere, udp), sent(&mut lab, &everywhere, tcp)), rest(450, 4500));
    let refused = if IS_V6 { 1650 } else { 16_500 };
    lab.counters(&[("rx", 96_000), ("originated", refused), ("tx", refused), ("reject_undefined_port", 96_000)]);
}

#[test]
fn other_protocols_are_not_translated() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    lab.send(PODS, other("10.244.1.5", "10.96.0.50", 47));
    lab.send(PODS, other("10.244.1.5", "192.0.2.1", 47));
    lab.counters(&[("rx", 2), ("protocol", 1), ("not_owned", 1)]);
}

//! Pods to ClusterIPs: translated there and back, chosen consistently, the source left alone.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use super::support::builder::{Ip, tcp, udp};
use super::support::family::{CHANGED, HEADER};
use super::support::lab::{Lab, PODS};
use super::support::objects::{echo, endpoints, service, web};
use super::support::seen::Seen;

const THREE: [&str; 3] = ["10.244.1.10", "10.244.1.11", "10.244.2.15"];

#[test]
fn a_connection_of_a_pod_is_translated_there_and_back() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    let seen = lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80"), PODS);
    assert_eq!(seen.to_string(), "tcp 10.244.1.5:40000 > 10.244.1.10:8080 S ttl 63");
    let seen = lab.through(PODS, tcp("10.244.1.10:8080", "10.244.1.5:40000").flags("SA"), PODS);
    assert_eq!(seen.to_string(), "tcp 10.96.0.50:80 > 10.244.1.5:40000 SA ttl 63");
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
    lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80").flags("A"), PODS);
    lab.counters(&[("rx", 3), ("tx", 3), ("flows_opened", 1), ("flows_live", 1)]);
    assert_eq!(lab.carried("default/web:80"), (3, 1));
}

#[test]
fn a_datagram_of_a_pod_is_translated_there_and_back() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let seen = lab.through(PODS, udp("10.244.1.5:40000", "10.96.0.60:7"), PODS);
    assert_eq!(seen.to_string(), "udp 10.244.1.5:40000 > 10.244.1.10:7007 ttl 63");
    lab.counters(&[("rx", 1), ("tx", 1), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
    let seen = lab.through(PODS, udp("10.244.1.10:7007", "10.244.1.5:40000").payload("answer"), PODS);
    assert_eq!(seen.to_string(), "udp 10.96.0.60:7 > 10.244.1.5:40000 ttl 63");
    assert_eq!(seen.payload, b"answer");
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
    lab.through(PODS, udp("10.244.1.5:40000", "10.96.0.60:7"), PODS);
    lab.counters(&[("rx", 3), ("tx", 3), ("flows_opened", 1), ("flows_live", 1)]);
}

#[test]
fn everything_but_addresses_ports_ttl_and_sums_arrives_as_it_was_sent() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    let options = [2, 4, 5, 0xb4, 1, 3, 3, 7];
    let packets: [(&str, Ip); 4] = [
        ("an odd number of bytes", tcp("10.244.1.5:40000", "10.96.0.50:80").flags("PA").payload("odd")),
        ("TCP options", tcp("10.244.1.5:40001", "10.96.0.50:80").tcp_options(&options)),
        ("IP options", tcp("10.244.1.5:40002", "10.96.0.50:80").ip_options([148, 4, 0, 0])),
        ("a full frame", tcp("10.244.1.5:40003", "10.96.0.50:80").flags("A").payload(vec![0xa5; 1480 - HEADER])),
    ];
    for (what, packet) in packets {
        let sent = packet.datagram();
        let seen = lab.through(PODS, packet, PODS);
        let mut got = seen.packet.bytes[14..].to_vec();
        let header = seen.ip.len;
        // Put back what may differ: in the IP header, the destination port and the TCP sum.
        for range in CHANGED.iter().cloned().chain([header + 2..header + 4, header + 16..header + 18]) {
            got[range.clone()].copy_from_slice(&sent[range]);
        }
        assert_eq!(got, sent, "{what}");
    }
    lab.counters(&[("rx", 4), ("tx", 4), ("flows_opened", 4), ("flows_live", 4), ("flows_half_open", 4)]);
}

#[test]
fn two_gateways_choose_the_same_endpoint_and_all_get_their_share() {
    let (mut one, mut two) = (Lab::new(&web(&THREE)), Lab::new(&web(&[THREE[2], THREE[0], THREE[1]])));
    let mut share: BTreeMap<SocketAddrV4, u32> = BTreeMap::new();
    for port in 40000..40900 {
        let syn = tcp(&format!("10.244.1.5:{port}"), "10.96.0.50:80");
        let there = one.through(PODS, syn.clone(), PODS).dst();
        assert_eq!(two.through(PODS, syn, PODS).dst(), there, "client port {port}");
        *share.entry(there).or_default() += 1;
    }
    assert_eq!(share.len(), 3);
    share.iter().for_each(|(endpoint, n)| assert!((230..370).contains(n), "{endpoint} got {n} of 900"));
    let opened = [("rx", 900), ("tx", 900), ("flows_opened", 900), ("flows_live", 900), ("flows_half_open", 900)];
    one.counters(&opened);
    two.counters(&opened);
}

#[test]
fn a_connection_stays_with_its_endpoint() {
    let mut lab = Lab::new(&web(&THREE));
    let first = lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80"), PODS).dst();
    for _ in 0..10 {
        let seen = lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80").flags("A"), PODS);
        assert_eq!(seen.dst(), first);
    }
    lab.counters(&[("rx", 11), ("tx", 11), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn a_segment_in_mid_stream_opens_its_flow_where_another_gateway_had_it() {
    let (mut failed, mut heir) = (Lab::new(&web(&THREE)), Lab::new(&web(&THREE)));
    for port in 40000..40020 {
        let from = format!("10.244.1.5:{port}");
        let there = failed.through(PODS, tcp(&from, "10.96.0.50:80"), PODS).dst();
        let seen = heir.through(PODS, tcp(&from, "10.96.0.50:80").flags("PA").payload("more"), PODS);
        assert_eq!(seen.dst(), there);
    }
    heir.counters(&[("rx", 20), ("tx", 20), ("flows_opened", 20), ("flows_live", 20), ("flows_half_open", 20)]);
    failed.take(PODS);
}

#[test]
fn what_no_connection_in_mid_stream_sends_opens_nothing() {
    let mut lab = Lab::new(&web(&THREE));
    for flags in ["R", "RA", "SA", "SR", "F", "P", ""] {
        lab.send(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80").flags(flags));
    }
    // All but the resets are answered with one (RFC 9293 §3.10.7.1).
    let resets: Vec<String> = lab.take(PODS).iter().map(Seen::to_string).collect();
    let reset = |flags| format!("tcp 10.96.0.50:80 > 10.244.1.5:40000 {flags} ttl 64");
    assert_eq!(resets, ["R", "RA", "RA", "RA"].map(reset));
    lab.counters(&[("rx", 7), ("tcp_no_flow", 7), ("originated", 4), ("tx", 4)]);
}

#[test]
fn no_udp_checksum_stays_none_both_ways() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let there = lab.through(PODS, udp("10.244.1.5:40000", "10.96.0.60:7").no_checksum(), PODS);
    let back = lab.through(PODS, udp("10.244.1.10:7007", "10.244.1.5:40000").no_checksum(), PODS);
    for seen in [there, back] {
        let Some(etherparse::TransportHeader::Udp(header)) = &seen.transport else { panic!("UDP") };
        assert_eq!(header.checksum, 0, "{seen}");
    }
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn a_checksum_left_to_offload_stays_left_to_it() {
    let mut lab = Lab::new(&format!("{}{}", web(&["10.244.1.10"]), echo(&["10.244.1.11"])));
    let cases = [
        tcp("10.244.1.5:40000", "10.96.0.50:80").partial(),
        tcp("10.244.1.10:8080", "10.244.1.5:40000").flags("SA").partial(),
        udp("10.244.1.5:40000", "10.96.0.60:7").partial(),
        udp("10.244.1.11:7007", "10.244.1.5:40000").partial(),
    ];
    for packet in cases {
        // `Seen` has verified the sum.
        let seen = lab.through(PODS, packet, PODS);
        assert!(seen.packet.offload.is_partial(), "{seen}");
    }
    lab.counters(&[("rx", 4), ("tx", 4), ("flows_opened", 2), ("flows_live", 2), ("flows_half_open", 2)]);
}

#[test]
fn a_super_frame_passes_whole_and_an_oversized_frame_does_not() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    let segment = || tcp("10.244.1.5:40000", "10.96.0.50:80").flags("A");
    let seen = lab.through(PODS, segment().payload(vec![7; 60_000]).gso(1428), PODS);
    assert_eq!((seen.payload.len(), seen.packet.offload.gso_size), (60_000, 1428));
    let seen = lab.through(PODS, segment().payload(vec![7; 1481 - HEADER]), PODS);
    assert_eq!(seen.to_string(), "icmp 192.168.50.10 > 10.244.1.5 too-big ttl 64");
    let flow = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];
    lab.counters(&[&[("rx", 2), ("originated", 1), ("tx", 2), ("tx_too_long", 1)], &flow[..]].concat());
}

#[test]
fn bytes_behind_the_ip_packet_are_nobodys() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let seen = lab.through(PODS, udp("10.244.1.5:40000", "10.96.0.60:7").payload("x").padding(17), PODS);
    assert_eq!(seen.payload, b"x");
    lab.counters(&[("rx", 1), ("tx", 1), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn each_port_and_protocol_of_a_service_is_balanced_by_itself() {
    let ports =
        "[{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}, {name: web, port: 80, targetPort: 8080}]";
    let slice = endpoints("multi", "TCP", 1, &["10.244.1.10"]).replace(
        "[{name: \"\", protocol: TCP, port: 1}]",
        "[{name: dns, protocol: UDP, port: 53}, {name: dns-tcp, port: 5353}, {name: web, port: 8080}]",
    );
    let mut lab = Lab::new(&(service("multi", &format!("clusterIP: 10.96.0.80, ports: {ports}")) + &slice));
    let to = |packet: Ip, lab: &mut Lab| lab.through(PODS, packet, PODS).dst().port();
    assert_eq!(to(udp("10.244.1.5:40000", "10.96.0.80:53"), &mut lab), 53);
    assert_eq!(to(tcp("10.244.1.5:40000", "10.96.0.80:53"), &mut lab), 5353);
    assert_eq!(to(tcp("10.244.1.5:40000", "10.96.0.80:80"), &mut lab), 8080);
    lab.counters(&[("rx", 3), ("tx", 3), ("flows_opened", 3), ("flows_live", 3), ("flows_half_open", 3)]);
    for port in ["dns", "dns-tcp", "web"] {
        assert_eq!(lab.carried(&format!("default/multi:{port}")), (1, 1), "{port}");
    }
}

//! Control messages about packets: those that pollgate originates because of the next link, and those of others about flows.

use etherparse::{Icmpv4Type, Icmpv6Type, TransportHeader};

use std::time::Duration;

use super::IS_V6;
use super::support::builder::{Ip, about, folded, tcp, udp};
use super::support::family::{ERRORS, HEADER, HOPS, QUOTED};
use super::support::lab::{GATEWAY, Lab, OUTSIDE, PODS, Setup};
use super::support::objects::{echo, shop, web};
use super::support::seen::Seen;

const CLIENT: &str = "10.244.1.5:40000";
const VIP: &str = "10.96.0.50:80";
const SERVER: &str = "10.244.1.10:8080";

/// The MTU that a message names.
fn mtu(seen: &Seen) -> u32 {
    use etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded;
    match &seen.transport {
        Some(TransportHeader::Icmpv4(header)) => match header.icmp_type {
            Icmpv4Type::DestinationUnreachable(FragmentationNeeded { next_hop_mtu }) => next_hop_mtu.into(),
            _ => panic!("{seen}"),
        },
        Some(TransportHeader::Icmpv6(header)) => match header.icmp_type {
            Icmpv6Type::PacketTooBig { mtu } => mtu,
            _ => panic!("{seen}"),
        },
        _ => panic!("{seen}"),
    }
}

/// A connection of [`CLIENT`] to [`VIP`].
fn connected(config: &str) -> Lab {
    let mut lab = Lab::configured(config, &web(&["10.244.1.10"]));
    lab.through(PODS, tcp(CLIENT, VIP), PODS);
    lab.through(PODS, tcp(SERVER, CLIENT).flags("SA"), PODS);
    lab.through(PODS, tcp(CLIENT, VIP).flags("A"), PODS);
    lab
}

#[test]
fn the_sender_of_a_packet_larger_than_the_next_link_learns_its_mtu() {
    let mut lab = connected("");
    lab.network(|facts| facts.links[PODS].mtu = 1300);
    let cases: [(Ip, &str); 2] = [(tcp(CLIENT, VIP), "10.244.1.5"), (tcp(SERVER, CLIENT), "10.244.1.10")];
    for (packet, sender) in cases {
        let packet = packet.flags("A").payload(vec![0x33; 1400]);
        let sent = packet.datagram();
        let seen = lab.through(PODS, packet, PODS);
        assert_eq!(seen.to_string(), format!("icmp 192.168.50.10 > {sender} too-big ttl 64"));
        assert_eq!(mtu(&seen), 1300);
        assert_eq!(seen.payload, sent[..sent.len().min(QUOTED)], "quoted as it came");
    }
    let flow = [("flows_opened", 1), ("flows_live", 1)];
    lab.counters(&[&[("rx", 5), ("originated", 2), ("tx", 5), ("tx_too_long", 2)], &flow[..]].concat());
}

#[test]
fn of_a_super_frame_the_segments_count() {
    let mut lab = connected("");
    lab.network(|facts| facts.links[PODS].mtu = 1300);
    let headers = if IS_V6 { 60 } else { 40 };
    let of = |size: u16| tcp(CLIENT, VIP).flags("A").payload(vec![7; 20_000]).gso(size);
    let seen = lab.through(PODS, of(1300 - headers), PODS);
    assert_eq!(seen.payload.len(), 20_000);
    let seen = lab.through(PODS, of(1301 - headers), PODS);
    assert_eq!((seen.to_string(), mtu(&seen)), ("icmp 192.168.50.10 > 10.244.1.5 too-big ttl 64".to_owned(), 1300));
    let flow = [("flows_opened", 1), ("flows_live", 1)];
    lab.counters(&[&[("rx", 5), ("originated", 1), ("tx", 5), ("tx_too_long", 1)], &flow[..]].concat());
}

/// Verifies that an error quotes `sent`, with any number of hops left.
fn quotes(error: &Seen, sent: &[u8]) {
    let (mut quoted, mut sent) = (error.payload.clone(), sent[..error.payload.len()].to_vec());
    assert!(IS_V6 || folded(&quoted[..HEADER]) == 0xffff, "the quoted header's sum");
    for bytes in [&mut quoted, &mut sent] {
        HOPS.iter().for_each(|&at| bytes[at] = 0);
    }
    assert_eq!(quoted, sent, "{error}");
}

/// How many bytes an error may quote: little more than the ports, the whole TCP header, all.
const LENGTHS: [usize; 3] = [HEADER + 8, HEADER + 20, 1000];

#[test]
fn an_error_about_a_packet_to_an_endpoint_reaches_the_client_as_it_sent_the_packet() {
    let mut lab = connected("");
    let request = tcp(CLIENT, VIP).flags("PA").payload("request");
    let seen = lab.through(PODS, request.clone(), PODS);
    // A router keeps its address; the endpoint gets the one that the client knows.
    for (from, shown) in [("10.244.1.7", "10.244.1.7"), ("10.244.1.10", "10.96.0.50")] {
        for kind in ERRORS {
            for len in LENGTHS {
                let error = lab.through(PODS, about(from, &seen, kind, len), PODS);
                assert_eq!(
                    (error.src().ip().to_string(), error.dst().ip().to_string()),
                    (shown.into(), "10.244.1.5".into())
                );
                assert_eq!(error.ip.time_to_live, 63);
                quotes(&error, &request.datagram());
            }
        }
    }
    lab.counters(&[("rx", 22), ("tx", 22), ("flows_opened", 1), ("flows_live", 1)]);
}

#[test]
fn an_error_about_a_reply_reaches_the_endpoint() {
    let mut lab = connected("");
    let reply = tcp(SERVER, CLIENT).flags("PA").payload("reply");
    let seen = lab.through(PODS, reply.clone(), PODS);
    for (from, shown) in [("10.244.1.7", "10.244.1.7"), ("10.244.1.5", "10.244.1.5")] {
        let error = lab.through(PODS, about(from, &seen, ERRORS[2], LENGTHS[1]), PODS);
        assert_eq!((error.src().ip().to_string(), error.dst().ip().to_string()), (shown.into(), "10.244.1.10".into()));
        assert_eq!(mtu(&error), 1300);
        quotes(&error, &reply.datagram());
    }
    lab.counters(&[("rx", 6), ("tx", 6), ("flows_opened", 1), ("flows_live", 1)]);
}

#[test]
fn where_the_source_is_translated_both_ends_still_learn_of_errors() {
    let mut lab = Lab::new(&shop("", &["10.244.1.10"]));
    let request = tcp("192.168.50.100:50000", "203.0.113.7:80");
    let there = lab.through(OUTSIDE, request.clone(), PODS);
    assert_eq!(there.src().ip().to_string(), GATEWAY);
    let reply = tcp(SERVER, &there.src().to_string()).flags("SA");
    let back = lab.through(PODS, reply.clone(), OUTSIDE);
    let error = lab.through(PODS, about("10.244.1.10", &there, ERRORS[1], LENGTHS[0]), OUTSIDE);
    assert_eq!(error.to_string(), "icmp 203.0.113.7 > 192.168.50.100 port-unreachable ttl 63");
    quotes(&error, &request.datagram());
    // The client's own address is not for the endpoint to see.
    let error = lab.through(OUTSIDE, about("192.168.50.100", &back, ERRORS[0], LENGTHS[0]), PODS);
    assert_eq!(error.to_string(), format!("icmp {GATEWAY} > 10.244.1.10 time-exceeded ttl 63"));
    quotes(&error, &reply.datagram());
    lab.counters(&[("rx", 4), ("tx", 4), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn a_datagram_without_a_receiver_is_refused_to_the_client() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let datagram = udp("10.244.1.5:40000", "10.96.0.60:7");
    let seen = lab.through(PODS, datagram.clone(), PODS);
    let error = lab.through(PODS, about("10.244.1.10", &seen, ERRORS[1], 1000), PODS);
    assert_eq!(error.to_string(), "icmp 10.96.0.60 > 10.244.1.5 port-unreachable ttl 63");
    quotes(&error, &datagram.datagram());
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn errors_keep_no_flow_alive_and_end_none() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let seen = lab.through(PODS, udp("10.244.1.5:40000", "10.96.0.60:7"), PODS);
    let error = || about("10.244.1.10", &seen, ERRORS[1], 1000);
    for _ in 0..3 {
        lab.wait(Duration::from_secs(9));
        lab.through(PODS, error(), PODS);
    }
    lab.wait(Duration::from_secs(6));
    // Without a flow, an error to an address that is not pollgate's is the kernel's.
    lab.send(PODS, error());
    lab.counters(&[("rx", 5), ("tx", 4), ("flows_opened", 1), ("flows_expired", 1), ("not_owned", 1)]);
}

#[test]
fn errors_that_are_about_no_flow_go_nowhere() {
    let mut lab = Lab::new(&shop("", &["10.244.1.10"]));
    let there = lab.through(OUTSIDE, tcp("192.168.50.100:50000", "203.0.113.7:80"), PODS);
    let back = lab.through(PODS, tcp(SERVER, &there.src().to_string()).flags("SA"), OUTSIDE);
    // Of another connection; cut within the ports; from an address of the gateway; at its last hop.
    let mut other = Seen::read(back.packet.clone());
    other.packet.bytes[14 + HEADER + 3] ^= 1;
    lab.send(OUTSIDE, about("192.168.50.1", &other, ERRORS[0], 1000));
    lab.send(OUTSIDE, about("192.168.50.1", &back, ERRORS[0], HEADER + 3));
    lab.send(OUTSIDE, about(GATEWAY, &back, ERRORS[0], 1000));
    lab.send(OUTSIDE, about("192.168.50.1", &back, ERRORS[0], 1000).ttl(1));
    let flows = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];
    lab.counters(&[&[("rx", 6), ("tx", 2), ("icmp", 2), ("bad_source", 1), ("ttl_expired", 1)], &flows[..]].concat());
}

#[test]
fn errors_find_the_worker_that_has_the_flow() {
    let mut lab = Lab::with(Setup { workers: 2, ..Setup::default() }, &web(&["10.244.1.10"]));
    let mut handed_over = 0;
    for n in 0..20u16 {
        let client = format!("10.244.1.5:{}", 40000 + n);
        let seen = lab.through(PODS, tcp(&client, VIP), PODS);
        for worker in 0..2 {
            let before = lab.totals().handed_over;
            lab.push(worker, PODS, about("10.244.1.7", &seen, ERRORS[0], LENGTHS[0]));
            lab.run();
            quotes(&lab.expect(PODS), &tcp(&client, VIP).datagram());
            handed_over += lab.totals().handed_over - before;
        }
    }
    assert_eq!(handed_over, 20, "each came to one worker that has the flow, and to one that has not");
}

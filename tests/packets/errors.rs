//! Control messages about packets: those that pollgate originates because of the next link, and those of others about flows.

use etherparse::{Icmpv4Type, Icmpv6Type, TransportHeader};

use super::IS_V6;
use super::support::builder::{Ip, tcp};
use super::support::family::QUOTED;
use super::support::lab::{Lab, PODS};
use super::support::objects::web;
use super::support::seen::Seen;

const CLIENT: &str = "10.244.1.5:40000";
const VIP: &str = "10.96.0.50:80";
const SERVER: &str = "10.244.1.10:8080";

/// The MTU that a message names.
fn mtu(seen: &Seen) -> u32 {
    use etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded;
    match &seen.transport {
        TransportHeader::Icmpv4(header) => match header.icmp_type {
            Icmpv4Type::DestinationUnreachable(FragmentationNeeded { next_hop_mtu }) => next_hop_mtu.into(),
            _ => panic!("{seen}"),
        },
        TransportHeader::Icmpv6(header) => match header.icmp_type {
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

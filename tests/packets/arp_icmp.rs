//! What pollgate says for its addresses besides Services: ARP and echo; and what it leaves to the kernel.

use std::net::IpAddr;

use etherparse::{ArpOperation, ArpPacketSlice, Icmpv4Type, TransportHeader};
use pollgate_common::conflicts::Claim;

use super::support::builder::{MacBytes, arp, arp_as, icmp, ip, link_mac, mac_of, tcp, udp};
use super::support::lab::{Lab, OUTSIDE, OWN, PODS};
use super::support::objects::{echo, shop};

const OWNED: [&str; 5] = ["192.168.50.10", "10.96.0.10", "10.96.0.70", "203.0.113.7", "198.51.100.7"];

fn lab() -> Lab {
    Lab::new(&shop("", &["10.244.1.10"]))
}

#[test]
fn arp_for_an_owned_address_is_answered_on_every_interface() {
    let mut lab = lab();
    for (port, who) in [(OUTSIDE, "192.168.50.100"), (PODS, "10.244.1.5")] {
        for address in OWNED {
            lab.send(port, arp(ArpOperation::REQUEST, who, address));
            let reply = lab.pop(port).expect("a reply").bytes;
            let asker = mac_of(ip(who));
            assert_eq!((&reply[..6], &reply[6..12], &reply[12..14]), (&asker[..], &OWN[port][..], &[8, 6][..]));
            let arp = ArpPacketSlice::from_slice(&reply[14..]).expect("an ARP packet");
            assert_eq!(arp.operation(), ArpOperation::REPLY);
            assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&OWN[port][..], &ip(address).octets()[..]));
            assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&asker[..], &ip(who).octets()[..]));
            assert_eq!(reply.len(), 60, "as long as the question");
        }
    }
    lab.counters(&[("rx", 10), ("tx", 10)]);
}

#[test]
fn a_probe_for_an_owned_address_is_answered() {
    let mut lab = lab();
    let prober: MacBytes = [2, 0, 0, 0, 0, 9];
    lab.send(OUTSIDE, arp_as(ArpOperation::REQUEST, prober, "0.0.0.0", "192.168.50.10"));
    let reply = lab.pop(OUTSIDE).expect("a reply").bytes;
    let arp = ArpPacketSlice::from_slice(&reply[14..]).expect("an ARP packet");
    assert_eq!((arp.sender_protocol_addr(), arp.target_protocol_addr()), (&[192, 168, 50, 10][..], &[0; 4][..]));
    assert_eq!(lab.conflicts(), [(conflicting("192.168.50.10"), prober, OUTSIDE, Claim::Wanted)]);
    lab.counters(&[("rx", 1), ("tx", 1), ("address_conflicts", 1)]);
}

fn conflicting(address: &str) -> IpAddr {
    ip(address).into()
}

/// RFC 5227 §2.4: any ARP packet whose sender has one of our addresses and not our MAC address, whatever it asks or says.
#[test]
fn another_host_that_uses_an_owned_address_is_counted_and_reported() {
    let mut lab = lab();
    let other: MacBytes = [2, 0, 0, 0, 0, 9];
    let mut consumed = 0;
    for port in [OUTSIDE, PODS] {
        for address in OWNED {
            for (operation, target) in [
                (ArpOperation::REQUEST, address),
                (ArpOperation::REPLY, address),
                (ArpOperation::REPLY, "192.168.50.100"),
                (ArpOperation::REQUEST, "192.168.50.2"),
                (ArpOperation::REQUEST, "192.168.50.100"),
            ] {
                lab.send(port, arp_as(operation, other, address, target));
                assert!(lab.pop(port).is_none());
                assert_eq!(lab.conflicts(), [(conflicting(address), other, port, Claim::Used)]);
                consumed += 1;
            }
        }
    }
    // One that asks for another of our addresses gets its reply, too.
    lab.send(OUTSIDE, arp_as(ArpOperation::REQUEST, other, "192.168.50.10", "10.96.0.10"));
    assert!(lab.pop(OUTSIDE).is_some());
    assert_eq!(lab.conflicts(), [(conflicting("192.168.50.10"), other, OUTSIDE, Claim::Used)]);
    lab.counters(&[("rx", 51), ("tx", 1), ("consumed", consumed), ("address_conflicts", consumed + 1)]);
}

/// RFC 5227 §2.4: a packet from any of the host's own interfaces is none. Two of them may be on one link.
#[test]
fn our_own_announcements_are_no_conflict() {
    let mut lab = lab();
    for own in [OWN[OUTSIDE], OWN[PODS]] {
        for operation in [ArpOperation::REQUEST, ArpOperation::REPLY] {
            lab.send(OUTSIDE, arp_as(operation, own, "192.168.50.10", "192.168.50.10"));
        }
    }
    // Nor is what another host says of its own address.
    lab.send(OUTSIDE, arp(ArpOperation::REPLY, "192.168.50.100", "192.168.50.100"));
    // RFC 5227 §2.1.1: a probe for an address that is not ours.
    lab.send(OUTSIDE, arp(ArpOperation::REQUEST, "0.0.0.0", "192.168.50.100"));
    assert_eq!(lab.conflicts(), []);
    lab.counters(&[("rx", 6), ("arp", 6)]);
}

/// One report of each address waits: a flood about one keeps out no other, and its cost is bounded. Every frame is counted.
#[test]
fn a_flood_of_conflicts_is_counted_and_one_of_each_address_reported() {
    let mut lab = lab();
    for number in 0..200 {
        lab.send(OUTSIDE, arp_as(ArpOperation::REPLY, [2, 0, 0, 0, 1, number], "192.168.50.10", "192.168.50.10"));
    }
    lab.send(OUTSIDE, arp_as(ArpOperation::REPLY, [2, 0, 0, 0, 1, 9], "203.0.113.7", "203.0.113.7"));
    let reported = |address, last| (conflicting(address), [2, 0, 0, 0, 1, last], OUTSIDE, Claim::Used);
    assert_eq!(lab.conflicts(), [reported("192.168.50.10", 0), reported("203.0.113.7", 9)]);
    lab.counters(&[("rx", 201), ("consumed", 201), ("address_conflicts", 201)]);
}

#[test]
fn other_arp_is_the_kernels() {
    let mut lab = lab();
    let request = |who, target| arp(ArpOperation::REQUEST, who, target);
    let mut foreign = request("192.168.50.100", "192.168.50.10");
    foreign[14] = 0xff;
    for (what, frame) in [
        ("the host's own address", request("192.168.50.100", "192.168.50.2")),
        ("a neighbour's", request("192.168.50.100", "192.168.50.101")),
        ("an address a Service could have, but has not", request("192.168.50.100", "203.0.113.9")),
        ("an announcement of a neighbour", request("192.168.50.100", "192.168.50.100")),
        ("a reply", arp(ArpOperation::REPLY, "192.168.50.100", "192.168.50.10")),
        ("not over Ethernet", foreign),
        ("cut off", request("192.168.50.100", "192.168.50.10")[..41].to_vec()),
    ] {
        lab.send(OUTSIDE, frame);
        assert!(lab.pop(OUTSIDE).is_none(), "{what}");
    }
    lab.counters(&[("rx", 7), ("arp", 7)]);
}

#[test]
fn an_echo_to_an_owned_address_is_answered() {
    let mut lab = lab();
    for address in OWNED {
        for payload in [0, 1, 56, 1400] {
            let request = icmp("192.168.50.100", address, 8, 0, [0, 7, 0, 1]).payload(vec![0x61; payload]).ttl(1);
            let seen = lab.through(OUTSIDE, request, OUTSIDE);
            assert_eq!(seen.to_string(), format!("icmp {address} > 192.168.50.100 echo-reply ttl 64"));
            assert_eq!(seen.payload, vec![0x61; payload]);
            let Some(TransportHeader::Icmpv4(header)) = &seen.transport else { panic!("ICMP") };
            let Icmpv4Type::EchoReply(echo) = header.icmp_type else { panic!("an echo reply") };
            assert_eq!((echo.id, echo.seq), (7, 1));
        }
    }
    let seen = lab.through(PODS, icmp("10.244.1.5", "10.96.0.70", 8, 0, [0; 4]).ip_options([148, 4, 0, 0]), PODS);
    assert_eq!(seen.to_string(), "icmp 10.96.0.70 > 10.244.1.5 echo-reply ttl 64");
    lab.counters(&[("rx", 21), ("tx", 21)]);
}

#[test]
fn other_icmp_to_an_owned_address_is_dropped_and_for_others_passed() {
    let mut lab = lab();
    for (kind, code) in [(0, 0), (3, 3), (3, 4), (5, 0), (8, 1), (11, 0), (13, 0)] {
        lab.send(OUTSIDE, icmp("192.168.50.100", "192.168.50.10", kind, code, [0; 4]));
    }
    let mut short =
        super::support::builder::other("192.168.50.100", "192.168.50.10", 1).payload(vec![8, 0, 0xf7, 0xff]);
    short = short.padding(22);
    lab.send(OUTSIDE, short);
    lab.send(OUTSIDE, icmp("192.168.50.100", "192.168.50.2", 8, 0, [0; 4]));
    lab.counters(&[("rx", 9), ("icmp", 8), ("not_owned", 1)]);
}

#[test]
fn frames_that_are_none_of_our_business_are_the_kernels() {
    let mut lab = lab();
    let syn = || tcp("192.168.50.100:50000", "192.168.50.10:30080");
    let ethernet = |to: MacBytes, ether_type: u16| {
        let mut frame = [&to[..], &link_mac(ip("192.168.50.100")), &ether_type.to_be_bytes()].concat();
        frame.resize(60, 0);
        frame
    };
    lab.send(OUTSIDE, syn().addressed([2, 0, 0, 0, 0, 0x77]));
    lab.send(OUTSIDE, arp_to([2, 0, 0, 0, 0, 0x77]));
    lab.send(OUTSIDE, syn().addressed([0xff; 6]));
    lab.send(OUTSIDE, udp("192.168.50.100:5353", "224.0.0.251:5353").addressed([1, 0, 0x5e, 0, 0, 0xfb]));
    lab.send(OUTSIDE, ethernet(OWN[OUTSIDE], 0x86dd));
    lab.send(OUTSIDE, ethernet([0x33, 0x33, 0, 0, 0, 1], 0x86dd));
    lab.send(OUTSIDE, ethernet(OWN[OUTSIDE], 0x8100));
    lab.send(OUTSIDE, ethernet(OWN[OUTSIDE], 0x0600));
    lab.counters(&[("rx", 8), ("other_mac", 2), ("group", 3), ("ip_header", 1), ("ether_type", 2)]);
}

fn arp_to(mac: MacBytes) -> Vec<u8> {
    let mut frame = arp(ArpOperation::REQUEST, "192.168.50.100", "192.168.50.10");
    frame[..6].copy_from_slice(&mac);
    frame
}

#[test]
fn a_sender_that_lets_routers_fragment_is_told_nothing() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    lab.through(PODS, udp("10.244.1.5:40000", "10.96.0.60:7"), PODS);
    lab.network(|facts| facts.links[PODS].mtu = 1300);
    lab.send(PODS, udp("10.244.1.5:40000", "10.96.0.60:7").payload(vec![0; 1400]).fragment(0, false));
    let flow = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];
    lab.counters(&[&[("rx", 2), ("tx", 1), ("tx_too_long", 1)], &flow[..]].concat());
}

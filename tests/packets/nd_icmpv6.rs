//! What pollgate says for its IPv6 addresses besides Services: neighbour discovery and echo; and what it leaves to the kernel.

use std::net::Ipv6Addr;

use etherparse::icmpv6::{Icmpv6PayloadSlice, NdpOptionSlice, NeighborAdvertisementHeader};
use etherparse::{
    EtherType, Ethernet2Header, Icmpv6Slice, Icmpv6Type, IpNumber, Ipv6Header, NetHeaders, PacketHeaders,
};
use pollgate_common::conflicts::Claim;

use pollgate_dataplane::port::memory::Packet;

use super::support::builder::{icmp, ip, other, solicitation, tcp, udp};
use super::support::family::wire;
use super::support::lab::{Lab, OUTSIDE, OWN, PODS};
use super::support::objects::{shop, web};

const OWNED: [&str; 5] = ["192.168.50.10", "10.96.0.10", "10.96.0.70", "203.0.113.7", "198.51.100.7"];
/// The MAC of who asks.
const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 0x64];

fn lab() -> Lab {
    Lab::new(&shop("", &["10.244.1.10"]))
}

fn v6(text: &str) -> String {
    wire(ip(text)).to_string()
}

/// An advertisement that left: destination MAC, source, destination, target, solicited, MAC of the target.
fn advertised(lab: &mut Lab, port: usize) -> ([u8; 6], String, String, String, bool, [u8; 6]) {
    let bytes = lab.pop(port).expect("a reply").bytes;
    let headers = PacketHeaders::from_ethernet_slice(&bytes).expect("a sound packet");
    let Some(NetHeaders::Ipv6(header, _)) = headers.net else { panic!("no IPv6 header") };
    assert_eq!((header.hop_limit, &bytes[6..12]), (255, &OWN[port][..]));
    let message = Icmpv6Slice::from_slice(&bytes[54..]).expect("a message");
    assert!(message.is_checksum_valid(header.source, header.destination));
    let Icmpv6Type::NeighborAdvertisement(NeighborAdvertisementHeader { router, solicited, r#override }) =
        message.icmp_type()
    else {
        panic!("{message:?}")
    };
    assert_eq!((router, r#override), (false, true));
    let Ok(Icmpv6PayloadSlice::NeighborAdvertisement(payload)) = message.payload_slice() else { panic!("{message:?}") };
    let mut options = payload.options_iterator();
    let Some(Ok(NdpOptionSlice::TargetLinkLayerAddress(option))) = options.next() else { panic!("no MAC address") };
    assert!(options.next().is_none());
    let mac = option.link_layer_address().try_into().expect("six bytes");
    let text = |octets: [u8; 16]| Ipv6Addr::from(octets).to_string();
    let to = bytes[..6].try_into().expect("six bytes");
    (to, text(header.source), text(header.destination), payload.target_address().to_string(), solicited, mac)
}

#[test]
fn a_solicitation_of_an_owned_address_is_answered_on_every_interface() {
    let mut lab = lab();
    for port in [OUTSIDE, PODS] {
        for address in OWNED.map(v6) {
            for asker in ["fe80::64", &v6("192.168.50.100")] {
                lab.send(port, solicitation(asker, &address));
                let expected = (ASKER, address.clone(), asker.to_owned(), address.clone(), true, OWN[port]);
                assert_eq!(advertised(&mut lab, port), expected);
            }
        }
    }
    lab.counters(&[("rx", 20), ("tx", 20)]);
}

/// RFC 4861 §7.3.1: a neighbour that was reachable is asked itself.
#[test]
fn a_solicitation_to_the_address_itself_is_answered() {
    let mut lab = lab();
    let target = v6("192.168.50.10");
    let mut frame = solicitation("fe80::64", &target);
    frame[..6].copy_from_slice(&OWN[OUTSIDE]);
    let address: Ipv6Addr = target.parse().expect("IPv6");
    readdress(&mut frame, address);
    lab.send(OUTSIDE, frame);
    let expected = (ASKER, target.clone(), "fe80::64".to_owned(), target, true, OWN[OUTSIDE]);
    assert_eq!(advertised(&mut lab, OUTSIDE), expected);
    lab.counters(&[("rx", 1), ("tx", 1)]);
}

/// Changes the destination, and the sum with it.
fn readdress(frame: &mut [u8], to: Ipv6Addr) {
    let sum = |bytes: &[u8]| u32::from(!super::support::builder::folded(bytes));
    let (old, new) = (sum(&frame[38..54]), sum(&to.octets()));
    let field = u32::from(u16::from_be_bytes([frame[56], frame[57]]));
    // RFC 1624 with both sums complemented.
    let changed = field + new + (0xffff - old);
    let changed = (changed & 0xffff) + (changed >> 16);
    let changed = (changed & 0xffff) + (changed >> 16);
    frame[56..58].copy_from_slice(&changed.to_be_bytes()[2..]);
    frame[38..54].copy_from_slice(&to.octets());
}

/// RFC 4861 §7.2.4, RFC 4862 §5.4.3: who probes has no address, so the reply is to all nodes.
#[test]
fn an_owned_address_is_defended_against_who_wants_to_use_it() {
    let mut lab = lab();
    for address in OWNED.map(v6) {
        lab.send(OUTSIDE, solicitation("::", &address));
        let all = ([0x33, 0x33, 0, 0, 0, 1], address.clone(), "ff02::1".to_owned(), address, false, OWN[OUTSIDE]);
        assert_eq!(advertised(&mut lab, OUTSIDE), all);
    }
    let wanted = OWNED.map(|address| (ip(address).into(), ASKER, OUTSIDE, Claim::Wanted));
    assert_eq!(lab.conflicts(), wanted);
    lab.counters(&[("rx", 5), ("tx", 5), ("address_conflicts", 5)]);
}

/// An advertisement of `target` that `mac` sends to all nodes, with `flags` and these options behind it.
fn advertisement(mac: [u8; 6], target: &str, flags: u8, options: &[u8]) -> Vec<u8> {
    let (source, target): (Ipv6Addr, Ipv6Addr) = ("fe80::9".parse().expect("IPv6"), target.parse().expect("IPv6"));
    let all: Ipv6Addr = "ff02::1".parse().expect("IPv6");
    let payload = [&target.octets()[..], options].concat();
    let message = Icmpv6Type::Unknown { type_u8: 136, code_u8: 0, bytes5to8: [flags, 0, 0, 0] };
    let header = message.to_header(source.octets(), all.octets(), &payload).expect("it fits a packet");
    let ip = Ipv6Header {
        payload_length: u16::try_from(8 + payload.len()).expect("it fits a packet"),
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: 255,
        source: source.octets(),
        destination: all.octets(),
        ..Ipv6Header::default()
    };
    let ethernet = Ethernet2Header { source: mac, destination: [0x33, 0x33, 0, 0, 0, 1], ether_type: EtherType::IPV6 };
    [&ethernet.to_bytes()[..], &ip.to_bytes(), &header.to_bytes(), &payload].concat()
}

/// RFC 4861 §7.2.6, §4.4: whoever advertises one of our addresses uses it, by the MAC address that it names.
#[test]
fn another_host_that_uses_an_owned_address_is_counted_and_reported() {
    let mut lab = lab();
    let other = [2, 0, 0, 0, 0, 9];
    for port in [OUTSIDE, PODS] {
        for address in OWNED {
            for options in [&[2, 1, 2, 0, 0, 0, 0, 9][..], &[]] {
                lab.send(port, advertisement(other, &v6(address), 0x20, options));
                assert_eq!(lab.conflicts(), [(ip(address).into(), other, port, Claim::Used)]);
            }
        }
    }
    // One that asks with our address as its own: for another address of ours, and for a neighbour's.
    for (target, mac) in [("10.96.0.10", ASKER), ("192.168.50.101", ASKER)] {
        lab.send(OUTSIDE, solicitation(&v6("192.168.50.10"), &v6(target)));
        assert_eq!(lab.conflicts(), [(ip("192.168.50.10").into(), mac, OUTSIDE, Claim::Used)]);
    }
    assert!(lab.pop(OUTSIDE).is_none() && lab.pop(PODS).is_none());
    lab.counters(&[("rx", 22), ("consumed", 21), ("bad_source", 1), ("address_conflicts", 22)]);
}

/// Our own announcements may come back, also by another interface; what others say of their own addresses is no conflict. RFC 4861
/// §7.1.2: an advertisement that is not valid says nothing.
#[test]
fn our_own_announcements_and_invalid_ones_are_no_conflict() {
    let mut lab = lab();
    for own in [OWN[OUTSIDE], OWN[PODS]] {
        let option = [&[2, 1][..], &own].concat();
        lab.send(OUTSIDE, advertisement(own, &v6("192.168.50.10"), 0x20, &option));
    }
    lab.send(OUTSIDE, advertisement(ASKER, &v6("192.168.50.100"), 0x20, &[]));
    lab.send(OUTSIDE, solicitation("::", &v6("192.168.50.100")));
    // Solicited, and yet to all nodes; an option of no length; a wrong sum.
    lab.send(OUTSIDE, advertisement(ASKER, &v6("192.168.50.10"), 0x60, &[]));
    lab.send(OUTSIDE, advertisement(ASKER, &v6("192.168.50.10"), 0x20, &[2, 0, 2, 0, 0, 0, 0, 9]));
    let mut damaged = advertisement(ASKER, &v6("192.168.50.10"), 0x20, &[]);
    damaged[57] ^= 1;
    lab.send(OUTSIDE, damaged);
    assert_eq!(lab.conflicts(), []);
    lab.counters(&[("rx", 7), ("neighbour_discovery", 4), ("neighbour_solicitation", 3)]);
}

#[test]
fn the_advertisement_goes_to_the_mac_address_that_the_solicitation_names() {
    let mut lab = lab();
    let target = v6("10.96.0.70");
    let mut frame = solicitation("fe80::64", &target);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    lab.send(OUTSIDE, frame);
    assert_eq!(advertised(&mut lab, OUTSIDE).0, ASKER);
    lab.counters(&[("rx", 1), ("tx", 1)]);
}

#[test]
fn other_neighbour_discovery_is_the_kernels() {
    let mut lab = lab();
    for (what, frame) in [
        ("the host's own address", solicitation("fe80::64", &v6("192.168.50.2"))),
        ("a neighbour's", solicitation("fe80::64", &v6("192.168.50.101"))),
        ("an address a Service could have, but has not", solicitation("fe80::64", &v6("203.0.113.9"))),
        ("a link-local address", solicitation("fe80::64", "fe80::1")),
        ("a neighbour's advertisement", advertisement(ASKER, &v6("192.168.50.101"), 0x20, &[])),
    ] {
        lab.send(OUTSIDE, frame);
        assert!(lab.pop(OUTSIDE).is_none(), "{what}");
    }
    lab.counters(&[("rx", 5), ("neighbour_discovery", 5)]);
}

#[test]
fn an_invalid_or_spoofed_solicitation_is_dropped() {
    let mut lab = lab();
    let target = v6("192.168.50.10");
    let damaged = |at: usize, value: u8| {
        let mut frame = solicitation("fe80::64", &target);
        frame[at] = value;
        frame
    };
    for frame in [damaged(21, 64), damaged(55, 1), damaged(56, 0), damaged(79, 0), damaged(79, 2)] {
        lab.send(OUTSIDE, frame);
    }
    for source in [v6("192.168.50.10"), "::1".to_owned(), "ff02::1".to_owned()] {
        lab.send(OUTSIDE, solicitation(&source, &target));
    }
    // The first of them uses an address of ours.
    assert_eq!(lab.conflicts(), [(ip("192.168.50.10").into(), ASKER, OUTSIDE, Claim::Used)]);
    lab.counters(&[("rx", 8), ("neighbour_solicitation", 5), ("bad_source", 3), ("address_conflicts", 1)]);
}

#[test]
fn an_echo_to_an_owned_address_is_answered() {
    let mut lab = lab();
    for address in OWNED {
        for payload in [0, 1, 56, 1400] {
            let request = icmp("192.168.50.100", address, 128, 0, [0, 7, 0, 1]).payload(vec![0x61; payload]).ttl(1);
            let seen = lab.through(OUTSIDE, request, OUTSIDE);
            assert_eq!(seen.to_string(), format!("icmp {address} > 192.168.50.100 echo-reply ttl 64"));
            assert_eq!(seen.payload, vec![0x61; payload]);
        }
    }
    let request = icmp("10.244.1.5", "10.96.0.70", 128, 0, [0; 4]).ip_options([148, 4, 0, 0]);
    let seen = lab.through(PODS, request, PODS);
    assert_eq!(seen.to_string(), "icmp 10.96.0.70 > 10.244.1.5 echo-reply ttl 64");
    lab.counters(&[("rx", 21), ("tx", 21)]);
}

#[test]
fn other_messages_to_an_owned_address_are_dropped_and_for_others_passed() {
    let mut lab = lab();
    for (kind, code) in [(1, 4), (2, 0), (3, 0), (4, 1), (128, 1), (129, 0), (134, 0), (137, 0), (143, 0)] {
        lab.send(OUTSIDE, icmp("192.168.50.100", "192.168.50.10", kind, code, [0; 4]));
    }
    lab.send(OUTSIDE, other("192.168.50.100", "192.168.50.10", 58).payload(vec![128, 0, 0, 0]));
    lab.send(OUTSIDE, icmp("192.168.50.100", "192.168.50.2", 128, 0, [0; 4]));
    lab.counters(&[("rx", 11), ("icmp", 10), ("not_owned", 1)]);
}

/// RFC 8200 §4, §4.4: what a gateway does not look behind is not its business, except to an address of its own.
#[test]
fn extension_headers_are_skipped_within_a_bound() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    let packet = || tcp("10.244.1.5:40000", "10.96.0.50:80");
    let seen = lab.through(PODS, packet().ip_options([1; 4]), PODS);
    assert_eq!(seen.to_string(), "tcp 10.244.1.5:40000 > 10.244.1.10:8080 S ttl 63");
    let chain = |count: usize, first: u8, last: [u8; 8]| {
        let mut bytes = packet().datagram();
        let extensions = [[60, 0, 1, 4, 0, 0, 0, 0].repeat(count), last.to_vec()].concat();
        let length = u16::try_from(bytes.len() - 40 + extensions.len()).expect("small");
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        bytes[6] = first;
        bytes.splice(40..40, extensions);
        [&OWN[PODS][..], &[2, 0, 10, 244, 1, 5, 0x86, 0xdd], &bytes].concat()
    };
    let tcp_next = [6, 0, 1, 4, 0, 0, 0, 0];
    lab.send(PODS, chain(7, 60, tcp_next));
    // `etherparse` does not read that many.
    let port = |packet: Packet| packet.bytes[14 + 40 + 64 + 2..][..2].to_vec();
    assert_eq!(lab.pop(PODS).map(port), Some(8080u16.to_be_bytes().to_vec()), "eight headers");
    lab.send(PODS, chain(8, 60, tcp_next));
    let routing = [6, 0, 0, 1, 0, 0, 0, 0];
    lab.send(PODS, chain(0, 43, routing));
    let flow = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];
    lab.counters(&[&[("rx", 4), ("tx", 2), ("protocol", 2)], &flow[..]].concat());
}

/// RFC 4291 §2.5.6: no packet from a link-local address leaves its link. What needs no forwarding is answered.
#[test]
fn a_link_local_client_is_not_forwarded() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    let from_link_local = |packet: super::support::builder::Ip| {
        let mut bytes = packet.datagram();
        bytes[8..24].copy_from_slice(&"fe80::64".parse::<Ipv6Addr>().expect("IPv6").octets());
        [&OWN[PODS][..], &ASKER, &[0x86, 0xdd], &bytes].concat()
    };
    lab.send(PODS, from_link_local(tcp("10.244.1.5:40000", "10.96.0.50:80")));
    lab.send(PODS, from_link_local(udp("10.244.1.5:40000", "10.96.0.50:81")));
    lab.send(PODS, from_link_local(icmp("10.244.1.5", "10.96.0.50", 128, 0, [0; 4])));
    assert!(lab.pop(PODS).is_some(), "an echo reply");
    lab.counters(&[("rx", 3), ("tx", 1), ("bad_source", 2)]);
}

//! Damage to IPv6 frames: cut anywhere, any bit flipped, noise. Nothing panics, every frame is counted, and no correct
//! checksum is broken.

use std::net::Ipv6Addr;

use pollgate_common::reasons::DropReason;
use proptest::prelude::*;

use super::support::builder::{Ip, Sendable, crc32c, folded, icmp, init, ip, sctp, solicitation, tcp, udp};
use super::support::family::{ECHO_REQUEST, wire};
use super::support::lab::{Lab, OUTSIDE, OWN, PODS};
use super::support::objects::{echo, registry, shop, web};

fn lab() -> Lab {
    let shop = shop("", &["10.244.1.10", "10.244.3.3"]);
    Lab::new(&[web(&["10.244.1.10"]), echo(&["10.244.1.11"]), shop, registry(&["10.244.1.12"])].concat())
}

/// One sound frame of each kind, and the port it comes in by.
fn sound() -> Vec<(&'static str, usize, Vec<u8>)> {
    let bytes = |packet: Ip, port: usize| packet.frame(OWN[port]).bytes;
    let owned = wire(ip("192.168.50.10")).to_string();
    vec![
        ("a SYN", PODS, bytes(tcp("10.244.1.5:40000", "10.96.0.50:80").tcp_options(&[2, 4, 5, 0xb4]), PODS)),
        ("data", PODS, bytes(tcp("10.244.1.5:40001", "10.96.0.50:80").flags("PA").payload("data!"), PODS)),
        ("from outside", OUTSIDE, bytes(tcp("192.168.50.100:40000", "203.0.113.7:80"), OUTSIDE)),
        ("extension headers", PODS, bytes(tcp("10.244.1.5:40002", "10.96.0.50:80").ip_options([1; 4]), PODS)),
        ("a datagram", PODS, bytes(udp("10.244.1.5:40000", "10.96.0.60:7").payload("a datagram"), PODS)),
        (
            "an echo request",
            OUTSIDE,
            bytes(icmp("192.168.50.100", "192.168.50.10", ECHO_REQUEST, 0, [0; 4]).payload("ping"), OUTSIDE),
        ),
        ("an INIT", PODS, bytes(init("10.244.1.5:40000", "10.96.0.80:2905", 1, 0, 7), PODS)),
        (
            "chunks",
            PODS,
            bytes(
                sctp("10.244.1.5:40001", "10.96.0.80:2905", 7).chunk((10, 0), b"a cookie").chunk((0, 3), &[0; 13]),
                PODS,
            ),
        ),
        ("a solicitation", OUTSIDE, solicitation("fe80::64", &owned)),
        ("a probe", OUTSIDE, solicitation("::", &owned)),
    ]
}

/// Whether the transport's sum is right; a frame without one, or with extension headers, has nothing wrong.
fn is_right(frame: &[u8]) -> bool {
    if frame.len() < 54 || frame[12..14] != [0x86, 0xdd] || frame[14] >> 4 != 6 {
        return true;
    }
    let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
    let Some(l4) = frame.get(54..54 + length) else { return false };
    let l4 = match frame[20] {
        17 if l4.len() < 8 || l4[6..8] == [0, 0] => return true,
        17 => &l4[..usize::from(u16::from_be_bytes([l4[4], l4[5]])).min(l4.len())],
        6 | 58 => l4,
        132 if l4.len() >= 12 => {
            return crc32c(&[&l4[..8], &[0; 4], &l4[12..]].concat()).to_le_bytes() == l4[8..12];
        }
        _ => return true,
    };
    let len = u16::try_from(l4.len()).expect("within a packet").to_be_bytes();
    folded(&[&frame[22..54], &[0, frame[20]], &len, l4].concat()) == 0xffff
}

/// Sends a damaged frame; what leaves must be no worse than what came.
fn survive(lab: &mut Lab, port: usize, frame: &[u8], what: &str) {
    let was_right = is_right(frame);
    lab.send(port, frame.to_vec());
    for out in [OUTSIDE, PODS] {
        while let Some(packet) = lab.pop(out) {
            let is_right = is_right(&packet.bytes);
            assert!(is_right || !was_right, "{what}: a right sum left wrong: {frame:02x?} {:02x?}", packet.bytes);
        }
    }
    lab.balance();
}

#[test]
fn a_sound_frame_of_each_kind_gets_through() {
    // Otherwise the other tests would prove nothing.
    for (what, port, frame) in sound() {
        let mut lab = lab();
        assert!(is_right(&frame), "{what}");
        lab.send(port, frame);
        assert_eq!(lab.totals().tx + lab.totals().held, 1, "{what}");
    }
}

#[test]
fn a_frame_cut_anywhere_is_counted_and_harms_nobody() {
    let mut lab = lab();
    for (what, port, frame) in sound() {
        for len in 0..frame.len() {
            survive(&mut lab, port, &frame[..len], what);
        }
    }
    let totals = lab.totals();
    assert_eq!(totals.rx, sound().iter().map(|(_, _, frame)| frame.len() as u64).sum::<u64>());
    assert_eq!(totals.drops_of(DropReason::Runt), 14 * sound().len() as u64);
    assert_eq!((totals.tx, totals.flows_opened), (0, 0), "none of them is padded");
}

#[test]
fn a_single_flipped_bit_is_counted_and_breaks_no_sum() {
    let mut lab = lab();
    for (what, port, frame) in sound() {
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            survive(&mut lab, port, &damaged, &format!("{what}, bit {bit}"));
        }
    }
    let totals = lab.totals();
    // Four bits of the version in each; all of a solicitation but its addresses and MACs is verified.
    assert!(totals.drops_of(DropReason::IpHeader) >= 4 * 6 && totals.drops_of(DropReason::IpLength) > 20, "{totals:?}");
    assert!(totals.drops_of(DropReason::NeighbourSolicitation) > 100, "{totals:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_chain_of_extension_headers_makes_it_panic_or_lose_count(
        first in prop_oneof![Just(0u8), Just(43), Just(44), Just(50), Just(51), Just(58), Just(60), Just(6), Just(17)],
        chain in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(6), Just(17), Just(43), Just(44), Just(60), any::<u8>()], 0..160),
        to_group in any::<bool>(),
    ) {
        let mut lab = lab();
        let (from, to) = (wire(ip("10.244.1.5")), wire(ip("10.96.0.50")));
        let octets = |address: std::net::IpAddr| address.to_string().parse::<Ipv6Addr>().expect("IPv6").octets();
        let length = u16::try_from(chain.len()).expect("short").to_be_bytes();
        let mac = if to_group { [0x33, 0x33, 0xff, 0, 0, 0x10] } else { OWN[PODS] };
        let head = [0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], first, 255];
        lab.send(PODS, [&mac[..], &[2, 0, 10, 244, 1, 5], &head, &octets(from), &octets(to), &chain].concat());
        while lab.pop(PODS).is_some() {}
        lab.balance();
        prop_assert_eq!(lab.totals().rx, 1);
    }
}

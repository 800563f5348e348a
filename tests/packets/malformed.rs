//! Damage: cut frames, flipped bits, noise. Nothing panics, every frame is counted, and no sound checksum is broken.

use proptest::prelude::*;

use etherparse::ArpOperation;
use pollgate_common::reasons::DropReason;
use pollgate_dataplane::port::Offload;
use pollgate_dataplane::port::memory::Packet;

use super::support::builder::{Sendable, arp, crc32c, folded, icmp, init, sctp, tcp, udp};
use super::support::lab::{Lab, OUTSIDE, OWN, PODS};
use super::support::objects::{echo, registry, shop, web};

fn lab() -> Lab {
    let shop = shop("", &["10.244.1.10", "10.244.3.3"]);
    Lab::new(&[web(&["10.244.1.10"]), echo(&["10.244.1.11"]), shop, registry(&["10.244.1.12"])].concat())
}

/// One sound frame of each kind, and the port it comes in by.
fn sound() -> Vec<(&'static str, usize, Vec<u8>)> {
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\x01\x03web\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01\
                  \0\0\x29\x10\0\0\0\0\0\0\0";
    let ip = |packet: super::support::builder::Ip, port: usize| packet.frame(OWN[port]).bytes;
    vec![
        ("a SYN", PODS, ip(tcp("10.244.1.5:40000", "10.96.0.50:80").tcp_options(&[2, 4, 5, 0xb4]), PODS)),
        ("data", PODS, ip(tcp("10.244.1.5:40001", "10.96.0.50:80").flags("PA").payload("data!"), PODS)),
        ("from outside", OUTSIDE, ip(tcp("192.168.50.100:40000", "203.0.113.7:80"), OUTSIDE)),
        ("IP options", PODS, ip(tcp("10.244.1.5:40002", "10.96.0.50:80").ip_options([148, 4, 0, 0]), PODS)),
        ("a datagram", PODS, ip(udp("10.244.1.5:40000", "10.96.0.60:7"), PODS)),
        ("a query", PODS, ip(udp("10.244.1.5:40000", "10.96.0.10:53").payload(&query[..]), PODS)),
        (
            "an echo request",
            OUTSIDE,
            ip(icmp("192.168.50.100", "192.168.50.10", 8, 0, [0; 4]).payload("ping"), OUTSIDE),
        ),
        ("an error about a flow", PODS, ip(error(), PODS)),
        ("an INIT", PODS, ip(init("10.244.1.5:40000", "10.96.0.80:2905", 1, 0, 7), PODS)),
        (
            "chunks",
            PODS,
            ip(
                sctp("10.244.1.5:40001", "10.96.0.80:2905", 7).chunk((10, 0), b"a cookie").chunk((0, 3), &[0; 13]),
                PODS,
            ),
        ),
        ("ARP", OUTSIDE, arp(ArpOperation::REQUEST, "192.168.50.100", "192.168.50.10")),
    ]
}

/// An error about the SYN, as it came to the endpoint.
fn error() -> super::support::builder::Ip {
    let quoted = tcp("10.244.1.5:40000", "10.244.1.10:8080").datagram();
    icmp("10.244.1.10", "10.244.1.5", 3, 4, [0, 0, 5, 0]).payload(&quoted[..28])
}

/// Whether the IP header's sum and the transport's are right; a frame without them has nothing wrong.
fn sums(frame: &[u8]) -> (bool, bool) {
    if frame.len() < 34 || frame[12..14] != [8, 0] || frame[14] >> 4 != 4 {
        return (true, true);
    }
    let packet = &frame[14..];
    let (header, total) = (usize::from(packet[0] & 15) * 4, usize::from(u16::from_be_bytes([packet[2], packet[3]])));
    if header < 20 || total < header || total > packet.len() {
        return (false, false);
    }
    (folded(&packet[..header]) == 0xffff, transport_sum(&packet[..header], &packet[header..total]))
}

fn transport_sum(header: &[u8], l4: &[u8]) -> bool {
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let l4 = match header[9] {
        17 if l4.len() < 8 || l4[6..8] == [0, 0] => return true,
        17 => &l4[..usize::from(u16::from_be_bytes([l4[4], l4[5]])).min(l4.len())],
        6 => l4,
        1 => return folded(l4) == 0xffff,
        132 if l4.len() >= 12 => {
            let (before, after) = (&l4[..8], &l4[12..]);
            return fragment || crc32c(&[before, &[0; 4], after].concat()).to_le_bytes() == l4[8..12];
        }
        _ => return true,
    };
    let len = u16::try_from(l4.len()).expect("within a packet").to_be_bytes();
    fragment || folded(&[&header[12..20], &[0, header[9]], &len, l4].concat()) == 0xffff
}

/// Sends a damaged frame; what leaves must be no worse than what came.
fn survive(lab: &mut Lab, port: usize, frame: &[u8], what: &str) {
    let (_, was_right) = sums(frame);
    lab.send(port, frame.to_vec());
    for out in [OUTSIDE, PODS] {
        while let Some(Packet { bytes, .. }) = lab.pop(out) {
            let (header, transport) = sums(&bytes);
            assert!(header, "{what}: the IP header that left has a wrong sum: {bytes:02x?}");
            assert!(
                transport || !was_right,
                "{what}: the transport sum was right when it came: {frame:02x?} {bytes:02x?}"
            );
        }
    }
    lab.balance();
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
    let cut: usize = sound().iter().map(|(_, _, frame)| frame.len()).sum();
    assert_eq!(totals.rx, cut as u64);
    // Below 14 bytes there is no Ethernet header, and none of these is padded but ARP, which ends at 42.
    assert_eq!(totals.drops_of(DropReason::Runt), 14 * sound().len() as u64);
    assert_eq!(totals.tx, 60 - 42, "only ARP's padding may go");
    assert_eq!(totals.flows_opened, 0);
}

#[test]
fn a_single_flipped_bit_is_counted_and_breaks_no_sum() {
    let mut lab = lab();
    for (what, port, frame) in sound() {
        survive(&mut lab, port, &frame, what);
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            survive(&mut lab, port, &damaged, &format!("{what}, bit {bit}"));
        }
    }
    let totals = lab.totals();
    // Each bit of an IP header but those the sum does not decide on: version, header length, total length.
    assert!(totals.drops_of(DropReason::IpChecksum) > 700, "{totals:?}");
    assert!(totals.drops_of(DropReason::IpHeader) > 20 && totals.drops_of(DropReason::IpLength) > 20);
}

#[test]
fn a_sound_frame_of_each_kind_gets_through() {
    // Otherwise the two tests above would prove nothing.
    let mut lab = lab();
    for (number, (what, port, frame)) in (1..).zip(sound()) {
        assert_eq!(sums(&frame), (true, true), "{what}");
        lab.send(port, frame);
        assert_eq!(lab.totals().tx + lab.totals().held, number, "{what}");
    }
}

#[test]
fn length_fields_that_lie_are_told_apart() {
    let mut lab = lab();
    let ip_with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = udp("10.244.1.5:40000", "10.96.0.60:7").frame(OWN[PODS]).bytes;
        change(&mut frame);
        // A sound IP header all the same.
        frame[24..26].copy_from_slice(&[0, 0]);
        let header = (usize::from(frame[14] & 15) * 4).clamp(20, frame.len() - 14);
        let sum = !folded(&frame[14..14 + header]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let cases: [(&str, Vec<u8>); 8] = [
        ("ip_header", ip_with(&|f| f[14] = 0x44)),
        ("ip_header", ip_with(&|f| f[14] = 0x65)),
        ("ip_header", ip_with(&|f| f[14] = 0x4f)),
        ("ip_length", ip_with(&|f| f[17] += 1)),
        ("ip_length", ip_with(&|f| f[17] = 19)),
        ("l4_header", ip_with(&|f| f[39] += 1)),
        ("l4_header", ip_with(&|f| f[39] = 7)),
        ("l4_header", ip_with(&|f| f[17] = 27)),
    ];
    for (reason, frame) in cases {
        let reason = DropReason::from_name(reason).expect("a reason");
        let before = lab.totals().drops_of(reason);
        lab.send(PODS, frame);
        assert_eq!(lab.totals().drops_of(reason), before + 1, "{reason:?}");
    }
    let mut short_tcp = tcp("10.244.1.5:40000", "10.96.0.50:80").frame(OWN[PODS]).bytes;
    short_tcp[46] = 0x60;
    lab.send(PODS, short_tcp);
    lab.counters(&[("rx", 9), ("ip_header", 3), ("ip_length", 2), ("l4_header", 4)]);
}

prop_compose! {
    /// A sound frame with some bytes overwritten, cut somewhere, with whatever the sender says of offload.
    fn noisy()(
        kind in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((0usize..100, any::<u8>()), 0..6),
        noise in proptest::collection::vec(any::<u8>(), 0..120),
        keep in 0usize..200,
        numbers in any::<[u16; 4]>(),
        bits in any::<[u8; 2]>(),
        plain in any::<bool>(),
    ) -> (usize, Packet) {
        let (_, port, mut bytes) = kind.get(&sound()).clone();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(keep);
        bytes.extend(noise);
        let [hdr_len, gso_size, csum_start, csum_offset] = numbers;
        let offload = Offload { flags: bits[0], gso_type: bits[1], hdr_len, gso_size, csum_start, csum_offset };
        (port, Packet { bytes, offload: if plain { Offload::default() } else { offload } })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_noise_makes_it_panic_or_lose_count(frames in proptest::collection::vec(noisy(), 1..60)) {
        let mut lab = lab();
        let sent = frames.len() as u64;
        for (port, packet) in frames {
            lab.send(port, packet);
            lab.balance();
        }
        let mut left = 0;
        for port in [OUTSIDE, PODS] {
            while let Some(packet) = lab.pop(port) {
                left += 1;
                prop_assert!(sums(&packet.bytes).0, "a wrong IP header left: {:02x?}", packet.bytes);
            }
        }
        let totals = lab.totals();
        prop_assert_eq!((totals.rx, totals.tx), (sent, left));
        prop_assert_eq!(totals.drops_of(DropReason::TxError) + totals.drops_of(DropReason::HandoverFull), 0);
    }
}

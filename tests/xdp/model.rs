//! The steering program against a naive model of its rules, on frames made of likely and unlikely parts.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pollgate_common::flow::Protocol;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, Lab};
use crate::xdp::support::{Cable, LEFT, RIGHT, ip};

tests! {
    [Lab, Bpf] =>
        the_program_takes_what_the_rules_say;
}

const CASES: u32 = 10_000;

/// Addresses that mean something: two owned, two of an endpoint, two of the host, two of nobody's.
const ADDRESSES: [&str; 8] = [
    "10.0.0.2",
    "2001:db8::2",
    "10.244.1.10",
    "2001:db8:244::10",
    "10.0.0.9",
    "2001:db8::9",
    "198.51.100.7",
    "2001:db8:99::7",
];

struct Model {
    owned: HashSet<IpAddr>,
    served: HashSet<(IpAddr, u16, u8)>,
    host: HashSet<IpAddr>,
}

impl Model {
    fn set_up(cable: &Cable) -> Model {
        let addresses = ADDRESSES.map(ip);
        let served = [
            (addresses[2], 80, Protocol::Tcp),
            (addresses[3], 53, Protocol::Udp),
            (addresses[2], 53, Protocol::Sctp),
            (addresses[3], 80, Protocol::Sctp),
        ];
        addresses[..2].iter().for_each(|&address| cable.rules.own(address).expect("owned"));
        served
            .iter()
            .for_each(|&(address, port, protocol)| cable.rules.serve(address, port, protocol).expect("served"));
        served.iter().for_each(|&(address, ..)| cable.rules.take_fragments(address).expect("taken"));
        addresses[4..6].iter().for_each(|&address| cable.rules.add_host_address(address).expect("added"));
        Model {
            owned: addresses[..2].iter().copied().collect(),
            served: served.iter().map(|&(address, port, protocol)| (address, port, protocol.number())).collect(),
            host: addresses[4..6].iter().copied().collect(),
        }
    }

    /// The rules as they are written down; `None` where the frame ends too early to say.
    fn takes(&self, frame: &[u8]) -> Option<bool> {
        let ours = frame[..6] == RIGHT.0;
        let group = frame[0] & 1 != 0;
        match two(frame, 12)? {
            0x0806 if ours || group => {
                let ethernet_and_ipv4 = frame.get(14..20)? == [0, 1, 8, 0, 6, 4];
                let (sender, target) = (v4(frame, 28)?, v4(frame, 38)?);
                let is_reply = two(frame, 20)? == 2;
                let is_used = self.owned.contains(&sender) && (is_reply || !self.host.contains(&target));
                Some(ethernet_and_ipv4 && (self.owned.contains(&target) || is_used))
            }
            0x0800 if ours => self.ipv4(frame),
            0x86dd if ours || group => self.ipv6(frame, ours),
            _ => Some(false),
        }
    }

    fn ipv4(&self, frame: &[u8]) -> Option<bool> {
        let to = v4(frame, 30)?;
        let header = usize::from(frame[14] & 15) * 4;
        if self.owned.contains(&to) {
            return Some(true);
        }
        if two(frame, 20)? & 0x3fff != 0 {
            return Some(self.may_reply(v4(frame, 26)?, to));
        }
        if header < 20 {
            return Some(false);
        }
        let l4 = 14 + header;
        match frame[23] {
            1 => self.is_error(frame, l4, &[3, 11, 12], to),
            protocol => self.is_served(v4(frame, 26)?, two(frame, l4).filter(|_| frame.len() >= l4 + 4)?, protocol, to),
        }
    }

    fn ipv6(&self, frame: &[u8], ours: bool) -> Option<bool> {
        let to = v6(frame, 38)?;
        let kind = frame.get(54).filter(|_| frame[20] == 58).copied();
        let target = v6(frame, 62).filter(|_| matches!(kind, Some(135 | 136)));
        let asked = target.is_some_and(|target| self.owned.contains(&target));
        let asker = target.filter(|_| kind == Some(135) && self.owned.contains(&v6(frame, 22).expect("a source")));
        if let (false, Some(target)) = (asked, asker) {
            return Some(!self.host.contains(&target));
        }
        if asked || (ours && self.owned.contains(&to)) {
            return Some(true);
        }
        if !ours {
            return Some(false);
        }
        let (protocol, l4) = transport(frame, frame[20], 54)?;
        match protocol {
            44 => Some(self.may_reply(v6(frame, 22)?, to)),
            58 => self.is_error(frame, l4, &[1, 2, 3, 4], to),
            _ => self.is_served(v6(frame, 22)?, two(frame, l4).filter(|_| frame.len() >= l4 + 4)?, protocol, to),
        }
    }

    /// Whether a fragment may be part of a reply: the address has an endpoint.
    fn may_reply(&self, from: IpAddr, to: IpAddr) -> bool {
        self.served.iter().any(|(address, ..)| *address == from) && !self.host.contains(&to)
    }

    /// Whether this is an endpoint's port, and the destination not the host's.
    fn is_served(&self, address: IpAddr, port: u16, protocol: u8, to: IpAddr) -> Option<bool> {
        Some(self.served.contains(&(address, port, protocol)) && !self.host.contains(&to))
    }

    /// Whether the ICMP message at `at` is an error of one of these types, about a packet of `to`, its receiver, to an owned address
    /// or to an endpoint's port.
    fn is_error(&self, frame: &[u8], at: usize, types: &[u8], to: IpAddr) -> Option<bool> {
        let is_v4 = to.is_ipv4();
        let quoted = at + 8;
        let header = frame.get(quoted..quoted + if is_v4 { 20 } else { 40 })?;
        let (from, target) = match is_v4 {
            true => (v4(header, 12)?, v4(header, 16)?),
            false => (v6(header, 8)?, v6(header, 24)?),
        };
        if !types.contains(&frame[at]) || from != to {
            return Some(false);
        }
        if self.owned.contains(&target) {
            return Some(!self.host.contains(&to));
        }
        let (protocol, l4) = match (is_v4, header[0] >> 4) {
            (true, 4) if header[0] >= 0x45 && two(header, 6)? & 0x1fff == 0 => {
                (header[9], quoted + usize::from(header[0] & 15) * 4)
            }
            (false, 6) => match transport(frame, header[6], quoted + 40)? {
                (44, at) if two(frame.get(at..at + 8)?, 2)? & 0xfff8 == 0 => (frame[at], at + 8),
                (44, _) => return Some(false),
                other => other,
            },
            _ => return Some(false),
        };
        frame.get(l4..l4 + 4)?;
        self.is_served(target, two(frame, l4 + 2)?, protocol, to)
    }
}

/// What follows the extension headers from `at` on, of which the first has the type `next`, and where; `None` if the frame ends. A
/// fragment header is not skipped.
fn transport(frame: &[u8], mut next: u8, mut at: usize) -> Option<(u8, usize)> {
    for _ in 0..8 {
        match next {
            0 | 43 | 60 => {
                let header = frame.get(at..at + 8)?;
                if next == 43 && header[3] != 0 {
                    break;
                }
                (next, at) = (header[0], at + 8 * (1 + usize::from(header[1])));
            }
            _ => break,
        }
    }
    Some((next, at))
}

fn two(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

fn v4(frame: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn v6(frame: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

/// The bytes of the address of that meaning, of the family of an EtherType.
fn address(meaning: usize, kind: u16) -> Vec<u8> {
    match ip(ADDRESSES[meaning * 2 + usize::from(kind == 0x86dd)]) {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

const LENGTH: usize = 200;

/// IP packets with options or extension headers; most are ICMP errors, which quote another packet.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(0x0800u16), Just(0x86dd)];
    let is_error = prop_oneof![3 => Just(true), 1 => Just(false)];
    let message = prop_oneof![Just(1u8), Just(2), Just(3), Just(4), Just(11), Just(12), Just(128)];
    let sender = prop_oneof![4 => Just(None), 1 => (0..4usize).prop_map(Some)];
    let port = prop_oneof![2 => Just(80u16), 2 => Just(53), 1 => any::<u16>()];
    let protocol = prop_oneof![1 => Just(6u8), 1 => Just(17)];
    let parts = (kind, is_error, message, 0..4usize, 0..4usize, sender, port, protocol, chains(), chains());
    parts.prop_map(|(kind, is_error, message, to, target, sender, port, protocol, outer, inner)| {
        let mut frame = [&RIGHT.0[..], &LEFT.0, &kind.to_be_bytes()].concat();
        let ports = |source: u16, destination: u16| [source.to_be_bytes(), destination.to_be_bytes()].concat();
        if is_error {
            let control = if kind == 0x86dd { 58 } else { 1 };
            frame.extend(header(kind, control, &address(3, kind), &address(to, kind), &outer));
            frame.extend([message, 0, 0, 0, 0, 0, 0, 0]);
            frame.extend(header(kind, protocol, &address(sender.unwrap_or(to), kind), &address(target, kind), &inner));
            frame.extend(ports(7, port));
        } else {
            frame.extend(header(kind, protocol, &address(target, kind), &address(to, kind), &outer));
            frame.extend(ports(port, 7));
        }
        frame.resize(LENGTH, 0);
        frame
    })
}

/// Extension headers: types, units of eight bytes beyond the first, and what stands for segments left or a fragment's offset.
fn chains() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    let one = (
        prop_oneof![Just(0u8), Just(43), Just(44), Just(60), Just(51)],
        0..2u8,
        prop_oneof![5 => Just(0u8), 1 => Just(8)],
    );
    prop_oneof![3 => Just(Vec::new()), 2 => proptest::collection::vec(one.clone(), 1..3), 1 => proptest::collection::vec(one, 7..10)]
}

/// An IP header with these extension headers; for IPv4 one word of options for each, as far as there is room.
fn header(kind: u16, protocol: u8, from: &[u8], to: &[u8], chain: &[(u8, u8, u8)]) -> Vec<u8> {
    if kind == 0x0800 {
        let words = u8::try_from(chain.len().min(3)).expect("small");
        let mut bytes = vec![0; 20 + usize::from(words) * 4];
        (bytes[0], bytes[9]) = (0x45 + words, protocol);
        // A fragment's offset in the same place.
        bytes[7] = chain.first().map_or(0, |one| one.2);
        bytes[12..16].copy_from_slice(from);
        bytes[16..20].copy_from_slice(to);
        return bytes;
    }
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, chain.first().map_or(protocol, |one| one.0), 64];
    bytes.extend([from, to].concat());
    for (at, &(kind, more, word)) in chain.iter().enumerate() {
        let next = chain.get(at + 1).map_or(protocol, |one| one.0);
        let mut extension = vec![0; if kind == 44 { 8 } else { 8 + usize::from(more) * 8 }];
        (extension[0], extension[1], extension[3]) = (next, more, word);
        bytes.extend(extension);
    }
    bytes
}

/// Frames with the right things in the right places, mostly: then cut, and a byte changed.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let mac = prop_oneof![8 => Just(RIGHT.0), 1 => Just(LEFT.0), 2 => Just([0xff; 6]), 1 => Just([2, 0, 0, 0, 0, 3])];
    let kind = prop_oneof![3 => Just(0x0800u16), 3 => Just(0x86dd), 2 => Just(0x0806), 1 => Just(0x8100)];
    let protocol =
        prop_oneof![3 => Just(6u8), 3 => Just(17), 3 => Just(132), 2 => Just(58), 1 => Just(44), 1 => Just(1)];
    let port = prop_oneof![3 => Just(80u16), 3 => Just(53), 1 => any::<u16>()];
    let header = prop_oneof![5 => Just(0x45u8), 1 => Just(0x46), 1 => Just(0x4f), 1 => Just(0x44)];
    let offset = prop_oneof![4 => Just(0u16), 1 => Just(0x2000), 1 => Just(0x4000), 1 => Just(0x2064), 1 => Just(0x64)];
    let parts = (mac, kind, protocol, port, header, offset, 0..4usize, 0..4usize, any::<bool>(), any::<bool>());
    let made = parts.prop_map(|(mac, kind, protocol, port, header, offset, from, to, solicits, replies)| {
        let (from, to) = (address(from, kind), address(to, kind));
        let mut frame = vec![0; LENGTH];
        frame[..6].copy_from_slice(&mac);
        frame[6..12].copy_from_slice(&LEFT.0);
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
        match kind {
            0x0806 => {
                put(14, &[0, 1, 8, 0, 6, 4, 0, if replies { 2 } else { 1 }]);
                put(28, &from[..4]);
                put(38, &to[..4]);
            }
            0x86dd => {
                put(20, &[protocol]);
                put(22, &from);
                put(38, &to);
                put(54, &port.to_be_bytes());
                if solicits && protocol == 58 {
                    put(54, &[if replies { 136 } else { 135 }, 0]);
                    put(62, &to);
                    put(38, &[0xff, 2]);
                }
            }
            _ => {
                put(14, &[header]);
                put(20, &offset.to_be_bytes());
                put(23, &[protocol]);
                put(26, &from[..4]);
                put(30, &to[..4]);
                put(14 + usize::from(header & 15) * 4, &port.to_be_bytes());
            }
        }
        frame
    });
    let cut = prop_oneof![3 => Just(LENGTH), 1 => 14..LENGTH];
    let change = prop_oneof![3 => Just(None), 1 => (0..LENGTH, any::<u8>()).prop_map(Some)];
    (prop_oneof![made, packets()], cut, change).prop_map(|(mut frame, length, change)| {
        if let Some((at, to)) = change {
            frame[at] = to;
        }
        frame.truncate(length);
        frame
    })
}

fn the_program_takes_what_the_rules_say() {
    let cable = Cable::new();
    let _port = cable.open();
    let model = Model::set_up(&cable);
    let mut counts = [0; 2];
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let result = runner.run(&frames(), |frame| {
        let expected = model.takes(&frame).unwrap_or(false);
        prop_assert_eq!(cable.program.takes(&frame).expect("a run"), expected, "{:02x?}", frame);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    let mut runner = TestRunner::deterministic();
    for _ in 0..1000 {
        let frame = frames().new_tree(&mut runner).expect("a frame").current();
        counts[usize::from(model.takes(&frame).unwrap_or(false))] += 1;
    }
    println!("of 1000 such frames {} are left and {} taken", counts[0], counts[1]);
    assert!(counts.iter().all(|&count| count > 100), "a test of both answers: {counts:?}");
}

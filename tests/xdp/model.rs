//! The steering program against a naive model of its rules, on frames made of likely and unlikely parts.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

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
        Some(header >= 20 && self.replies(frame, 26..30, 14 + header, to)?)
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
        if ours && frame[20] == 44 {
            return Some(self.may_reply(v6(frame, 22)?, to));
        }
        Some(ours && self.replies(frame, 22..38, 54, to)?)
    }

    /// Whether a fragment may be part of a reply: the address has an endpoint.
    fn may_reply(&self, from: IpAddr, to: IpAddr) -> bool {
        self.served.iter().any(|(address, ..)| *address == from) && !self.host.contains(&to)
    }

    /// Whether it comes from an endpoint, and not to the host.
    fn replies(&self, frame: &[u8], from: Range<usize>, l4: usize, to: IpAddr) -> Option<bool> {
        frame.get(l4..l4 + 4)?;
        let (from, protocol) = match from.len() {
            4 => (v4(frame, from.start)?, frame[23]),
            _ => (v6(frame, from.start)?, frame[20]),
        };
        Some(self.served.contains(&(from, two(frame, l4)?, protocol)) && !self.host.contains(&to))
    }
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
        let mut frame = vec![0; 100];
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
    let cut = prop_oneof![3 => Just(100usize), 1 => 14..100usize];
    let change = prop_oneof![3 => Just(None), 1 => (0..100usize, any::<u8>()).prop_map(Some)];
    (made, cut, change).prop_map(|(mut frame, length, change)| {
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

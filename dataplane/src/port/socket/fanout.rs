//! The program with which the kernel chooses the worker of a frame: the rule of [`crate::steer`], in classic BPF.
//!
//! ```text
//!  IPv4, IPv6 ─▶ TCP, UDP, SCTP, whole? ──no──────────────────────────────▶ hash(source address, 0): any worker
//!                       │
//!                       ├ to a gateway address, a port of nat.ports, no Service there ─▶ the share the port is in
//!                       ├ to an owned address ──────────────────────────────────────────▶ hash(source address, port)
//!                       └ to an unowned address ────────────────────────────────────────▶ hash(destination address, port)
//!  else worker 0
//! ```
//!
//! Without privileges only classic BPF is allowed. It has no maps, so owned addresses are compiled into the program, as the
//! ends of ranges in a binary search. Correctness does not depend on the program: a frame at the wrong worker is handed
//! over. This also happens to frames for addresses beyond the limits below (the kernel accepts 4096 instructions).
//!
//! Offsets count from the network header. The data of a received frame starts there when the kernel runs the program. A VLAN
//! tag that the kernel removed, or one that it left in the frame, does not move them. Reading relative to the data instead of
//! by SKF_NET_OFF also finds headers that the driver left in pages.

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pollgate_common::pair;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::FrontendKey;

use super::super::device::{get, set};
use crate::bpf::classic::{Assembler, If, Label, Math, Program};
use crate::steer::{C1, C2, Steering, words};

/// Maximum number of ranges of owned addresses in the program, per family.
const RANGES_V4: usize = 256;
const RANGES_V6: usize = 32;
/// Maximum number of gateway addresses in the program, per family.
const GATEWAYS: usize = 16;
/// Maximum number of Services at gateway addresses inside nat.ports in the program.
const SERVICES: usize = 64;

/// The input of the program's choice.
#[derive(Clone, Copy)]
pub struct FanoutRules<'a> {
    /// The hash and the number of workers. The workers use the same.
    pub steering: &'a Steering,
    /// For the gateway addresses and the ports of translated sources.
    pub settings: &'a DataplaneSettings,
    /// Owned addresses, the most important first. Those beyond the limit are ignored.
    pub owned: &'a [RangeInclusive<IpAddr>],
    /// Frontends at gateway addresses inside nat.ports. Others are ignored.
    pub services: &'a [FrontendKey],
}

impl FanoutRules<'_> {
    /// The program for these rules.
    pub fn program(&self) -> Program {
        let mut code = Assembler::default();
        let (v4, v6) = (code.label(), code.label());
        code.load_word((libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL).cast_unsigned());
        code.jump_if(If::Equal, 0x0800, v4);
        code.jump_if(If::Equal, 0x86dd, v6);
        code.give(0);
        code.bind(v4);
        Family::new(self, &mut code, &V4).write();
        code.bind(v6);
        Family::new(self, &mut code, &V6).write();
        code.finish()
    }
}

/// A group of ports that share an interface: others join it, and its program can be changed, from any thread.
///
/// It holds the socket of one worker. The socket stays in its group and counts as a worker there until this is dropped, so
/// drop this together with the workers.
#[derive(Debug)]
pub struct Fanout {
    socket: OwnedFd,
}

impl Fanout {
    pub(in crate::port) fn new(socket: OwnedFd) -> Fanout {
        Fanout { socket }
    }

    /// The kernel's number of the group (packet(7)).
    pub(super) fn number(&self) -> io::Result<u32> {
        let mut group = 0u32;
        get(self.socket.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT, &mut group)?;
        Ok(group & 0xffff)
    }

    /// Makes the kernel use `rules` from now on. Waits until no CPU runs the old program, some milliseconds. No frame is
    /// lost meanwhile.
    pub fn update(&self, rules: &FanoutRules<'_>) -> io::Result<()> {
        set_program(self.socket.as_fd(), &rules.program())
    }
}

/// Gives the program to the group. The kernel copies it. Until a group has one, all frames go to the first socket.
pub(super) fn set_program(socket: BorrowedFd<'_>, program: &Program) -> io::Result<()> {
    let instructions = program.instructions();
    let len = libc::c_ushort::try_from(instructions.len()).unwrap_or(libc::c_ushort::MAX);
    let program = libc::sock_fprog { len, filter: instructions.as_ptr().cast_mut() };
    set(socket, libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, &program)
}

/// Offsets in a family's headers.
struct Shape {
    source: u32,
    destination: u32,
    /// Number of words of an address.
    words: u32,
    protocol: u32,
    ranges: usize,
    /// The address as a number, if it is of this family. Its words are the low ones.
    bits: fn(IpAddr) -> Option<u128>,
}

static V4: Shape = Shape {
    source: 12,
    destination: 16,
    words: 1,
    protocol: 9,
    ranges: RANGES_V4,
    bits: |ip| if let IpAddr::V4(v4) = ip { Some(v4.to_bits().into()) } else { None },
};

static V6: Shape = Shape {
    source: 8,
    destination: 24,
    words: 4,
    protocol: 6,
    ranges: RANGES_V6,
    bits: |ip| if let IpAddr::V6(v6) = ip { Some(v6.to_bits()) } else { None },
};

/// The program's memory: both addresses, word by word, then the other inputs of the choice.
const SOURCE: u32 = 0;
const DESTINATION: u32 = 4;
const PROTOCOL: u32 = 8;
const SOURCE_PORT: u32 = 9;
const DESTINATION_PORT: u32 = 10;

/// Assembles the part for one family.
struct Family<'a> {
    rules: &'a FanoutRules<'a>,
    code: &'a mut Assembler,
    shape: &'a Shape,
    /// The client is the source.
    by_source: Label,
    /// The client is the destination.
    by_destination: Label,
    by_port: Label,
    /// The packet has no ports.
    other: Label,
}

impl<'a> Family<'a> {
    fn new(rules: &'a FanoutRules<'a>, code: &'a mut Assembler, shape: &'a Shape) -> Family<'a> {
        let [by_source, by_destination, by_port, other] = std::array::from_fn(|_| code.label());
        Family { rules, code, shape, by_source, by_destination, by_port, other }
    }

    fn write(mut self) {
        self.read();
        self.gateways();
        let ends = self.ends();
        self.code.recall(DESTINATION);
        self.search(&ends, false);
        self.code.bind(self.by_port);
        self.share();
        self.code.bind(self.by_source);
        self.hash(SOURCE, Some(SOURCE_PORT));
        self.code.bind(self.by_destination);
        self.hash(DESTINATION, Some(DESTINATION_PORT));
        self.code.bind(self.other);
        self.hash(SOURCE, None);
    }

    /// Copies addresses, and ports if the packet has them, to memory.
    fn read(&mut self) {
        for word in 0..self.shape.words {
            self.code.load_word(self.shape.source + 4 * word);
            self.code.store(SOURCE + word);
            self.code.load_word(self.shape.destination + 4 * word);
            self.code.store(DESTINATION + word);
        }
        self.ports();
        self.code.load_half_indexed(0);
        self.code.store(SOURCE_PORT);
        self.code.load_half_indexed(2);
        self.code.store(DESTINATION_PORT);
    }

    /// Sets X to the offset of the ports. Jumps away if there are none. A fragment of IPv6 has another protocol number.
    fn ports(&mut self) {
        let ported = self.code.label();
        if self.shape.words == 1 {
            const FRAGMENT: u32 = 0x3fff;
            self.code.load_half(6);
            self.code.jump_if(If::AnyOf, FRAGMENT, self.other);
        }
        self.code.load_byte(self.shape.protocol);
        self.code.store(PROTOCOL);
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_SCTP] {
            self.code.jump_if(If::Equal, protocol.cast_unsigned(), ported);
        }
        self.code.jump(self.other);
        self.code.bind(ported);
        match self.shape.words {
            1 => self.code.index_by_header_length(0),
            _ => self.code.index(40),
        }
    }

    /// Gateway addresses: the port is a Service's or a SNAT port.
    fn gateways(&mut self) {
        let settings = self.rules.settings;
        let pair = pair::DATA_ADDRESSES.into_iter().filter(|_| settings.host_pair);
        let all = settings.gateway_addresses().chain(pair);
        for address in all.filter(|&address| (self.shape.bits)(address).is_some()).take(GATEWAYS) {
            let next = self.code.label();
            self.unless(address, next);
            self.code.recall(DESTINATION_PORT);
            self.code.math(Math::ShiftLeft, 8);
            self.code.recall_index(PROTOCOL);
            self.code.math_index(Math::Or);
            let inside = |key: &&FrontendKey| settings.snat_ports.contains(&key.port);
            for key in self.rules.services.iter().filter(inside).take(SERVICES).filter(|key| key.address == address) {
                let both = u32::from(key.port) << 8 | u32::from(key.protocol.number());
                self.code.jump_if(If::Equal, both, self.by_source);
            }
            self.code.jump(self.by_port);
            self.code.bind(next);
        }
    }

    /// Jumps to `elsewhere` if the destination is another address.
    fn unless(&mut self, address: IpAddr, elsewhere: Label) {
        for (at, word) in self.words_of((self.shape.bits)(address).unwrap_or(0)) {
            let same = self.code.label();
            self.code.recall(DESTINATION + at);
            self.code.jump_if(If::Equal, word, same);
            self.code.jump(elsewhere);
            self.code.bind(same);
        }
    }

    fn words_of(&self, bits: u128) -> impl Iterator<Item = (u32, u32)> + use<> {
        let count = self.shape.words;
        (0..count).zip(words(bits).into_iter().skip(4 - count as usize))
    }

    /// The ends of the owned ranges, in order. An address is inside a range if an odd number of ends is not above it.
    fn ends(&self) -> Vec<u128> {
        let of_family = |range: &RangeInclusive<IpAddr>| {
            Some(((self.shape.bits)(*range.start())?, (self.shape.bits)(*range.end())?))
        };
        let mut ranges: Vec<_> = self.rules.owned.iter().filter_map(of_family).take(self.shape.ranges).collect();
        ranges.sort_unstable();
        let last = u128::MAX >> (128 - 32 * self.shape.words);
        let mut ends: Vec<u128> = Vec::new();
        for (first, last_in) in ranges.into_iter().filter(|(first, last)| first <= last) {
            let after = last_in.saturating_add(1);
            match ends.last_mut() {
                Some(end) if *end >= first => *end = after.max(*end),
                _ => ends.extend([first, after]),
            }
        }
        // After the last address there is nothing to compare with.
        ends.retain(|&end| end <= last);
        ends
    }

    /// The binary search. `inside` is the result for addresses before the first of `ends`.
    fn search(&mut self, ends: &[u128], inside: bool) {
        if ends.is_empty() {
            return self.code.jump(if inside { self.by_source } else { self.by_destination });
        }
        let (below, rest) = ends.split_at(ends.len() / 2);
        let right = self.code.label();
        self.unless_below(rest[0], right);
        self.search(below, inside);
        self.code.bind(right);
        self.search(&rest[1..], inside ^ (below.len() % 2 == 0));
    }

    /// Jumps to `elsewhere` if the destination is `end` or above it.
    fn unless_below(&mut self, end: u128, elsewhere: Label) {
        let below = self.code.label();
        let last = self.shape.words - 1;
        for (at, word) in self.words_of(end) {
            // The only word of an IPv4 address stays in A during the whole search.
            if last > 0 {
                self.code.recall(DESTINATION + at);
            }
            if at == last {
                self.code.jump_if(If::NotBelow, word, elsewhere);
                break;
            }
            let same = self.code.label();
            self.code.jump_if(If::Above, word, elsewhere);
            self.code.jump_if(If::Equal, word, same);
            self.code.jump(below);
            self.code.bind(same);
        }
        self.code.bind(below);
    }

    /// The worker whose share contains the destination port; the hash of the source if no share contains it.
    fn share(&mut self) {
        let ports = &self.rules.settings.snat_ports;
        let (first, last) = (u32::from(*ports.start()), u32::from(*ports.end()));
        let inside = self.code.label();
        self.code.recall(DESTINATION_PORT);
        self.code.jump_if(If::Above, last, self.by_source);
        self.code.jump_if(If::NotBelow, first, inside);
        self.code.jump(self.by_source);
        self.code.bind(inside);
        self.code.math(Math::Subtract, first);
        self.code.math(Math::Modulo, self.rules.steering.workers().into());
        self.code.give_result();
    }

    /// The hash of [`crate::steer`]. Without ports, the port is 0.
    fn hash(&mut self, address: u32, port: Option<u32>) {
        let [first, second] = self.rules.steering.seeds();
        self.code.recall(address);
        self.code.math(Math::Xor, first);
        for word in 0..self.shape.words {
            if word > 0 {
                self.code.recall_index(address + word);
                self.code.math_index(Math::Xor);
            }
            self.code.math(Math::Multiply, C1);
            self.code.copy_to_index();
            self.code.math(Math::ShiftRight, 15);
            self.code.math_index(Math::Xor);
        }
        if let Some(port) = port {
            self.code.recall_index(port);
            self.code.math_index(Math::Xor);
        }
        self.code.math(Math::Xor, second);
        self.code.math(Math::Multiply, C2);
        self.code.math(Math::ShiftRight, 16);
        self.code.math(Math::Multiply, self.rules.steering.workers().into());
        self.code.math(Math::ShiftRight, 16);
        self.code.give_result();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use pollgate_common::flow::{self, Address, FlowKey, Protocol};
    use pollgate_common::hash::RingHash;
    use proptest::prelude::*;

    use pollgate_common::settings::Masquerade;

    use super::*;
    use crate::bpf::classic::{MOST, machine};
    use crate::steer::Towards;

    /// The inputs of a program, and the owners to compare its results with.
    #[derive(Debug)]
    struct World {
        settings: DataplaneSettings,
        owned: Vec<RangeInclusive<IpAddr>>,
        services: Vec<FrontendKey>,
        workers: u16,
        seed: u64,
    }

    impl World {
        fn steering(&self) -> Steering {
            Steering::new(self.workers, [self.seed, !self.seed, 7, 8])
        }

        fn program(&self) -> Program {
            let steering = self.steering();
            let (settings, owned, services) = (&self.settings, &self.owned, &self.services);
            FanoutRules { steering: &steering, settings, owned, services }.program()
        }

        fn owner<A: Address>(&self, key: &FlowKey<A>, protocol: Protocol) -> u16 {
            let address: IpAddr = key.dst.into();
            let DataplaneSettings { gateway_v4, gateway_v6, .. } = &self.settings;
            let is_gateway = match address {
                IpAddr::V4(v4) => gateway_v4.contains(&v4),
                IpAddr::V6(v6) => gateway_v6.contains(&v6),
            };
            let is_service = self.services.contains(&FrontendKey { address, port: key.dst_port, protocol });
            let is_owned = self.owned.iter().any(|range| range.contains(&address));
            let towards = match (is_gateway, is_service, is_owned) {
                (true, false, _) => Towards::SnatPort,
                (true, true, _) | (_, _, true) => Towards::Service,
                _ => Towards::Client,
            };
            self.steering().owner(key, towards, &self.settings)
        }
    }

    fn settings(
        gateway_v4: Vec<Ipv4Addr>,
        gateway_v6: Vec<Ipv6Addr>,
        snat_ports: RangeInclusive<u16>,
    ) -> DataplaneSettings {
        let ring_hash = RingHash::new("");
        let (dns, pod_cidrs, service_cidrs) = (vec![], vec![], vec![]);
        DataplaneSettings {
            gateway_v4,
            gateway_v6,
            dns,
            pod_cidrs,
            service_cidrs,
            masquerade: Masquerade::Kubernetes,
            host_pair: false,
            snat_ports,
            ring_hash,
        }
    }

    /// Few addresses, so that packets often match rules.
    fn some_v4() -> impl Strategy<Value = Ipv4Addr> {
        prop_oneof![(0..64u32).prop_map(|n| Ipv4Addr::from(0x0a00_0000 + n)), any::<u32>().prop_map(Ipv4Addr::from)]
    }

    fn some_v6() -> impl Strategy<Value = Ipv6Addr> {
        let near = (0..4u128, 0..4u128, 0..8u128).prop_map(|(a, b, c)| (a << 96 | b << 64 | c << 32 | (a + b)).into());
        prop_oneof![near, any::<u128>().prop_map(Ipv6Addr::from)]
    }

    fn some_port() -> impl Strategy<Value = u16> {
        prop_oneof![995..1010u16, any::<u16>()]
    }

    fn some_protocol() -> impl Strategy<Value = Protocol> {
        prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
    }

    fn some_range() -> impl Strategy<Value = RangeInclusive<IpAddr>> {
        let v4 =
            (some_v4(), 0..20u32).prop_map(|(a, n)| IpAddr::V4(a)..=IpAddr::V4(a.to_bits().saturating_add(n).into()));
        let v6 = (some_v6(), 0..u128::MAX >> 60)
            .prop_map(|(a, n)| IpAddr::V6(a)..=IpAddr::V6(a.to_bits().saturating_add(n).into()));
        prop_oneof![v4, v6]
    }

    fn some_world() -> impl Strategy<Value = World> {
        let gateways = (prop::collection::vec(some_v4(), 0..4), prop::collection::vec(some_v6(), 0..3));
        let ports = (990..1000u16, 1000..1012u16).prop_map(|(first, last)| first..=last);
        let owned = prop::collection::vec(some_range(), 0..30);
        let services = prop::collection::vec((any::<prop::sample::Index>(), some_port(), some_protocol()), 0..8);
        (gateways, ports, owned, services, 1..9u16, any::<u64>()).prop_map(
            |((v4, v6), ports, owned, services, workers, seed)| {
                let all: Vec<IpAddr> =
                    v4.iter().copied().map(IpAddr::V4).chain(v6.iter().copied().map(IpAddr::V6)).collect();
                let key = |(at, port, protocol): (prop::sample::Index, u16, Protocol)| {
                    (!all.is_empty()).then(|| FrontendKey { address: *at.get(&all), port, protocol })
                };
                let services = services.into_iter().filter_map(key).collect();
                World { settings: settings(v4, v6, ports), owned, services, workers, seed }
            },
        )
    }

    fn packet_v4(key: &FlowKey<flow::V4>, options: usize) -> Vec<u8> {
        let mut packet = vec![0u8; 20 + options * 4 + 8];
        packet[0] = 0x45 + u8::try_from(options).expect("few");
        packet[9] = key.protocol;
        packet[12..16].copy_from_slice(&key.src.0.octets());
        packet[16..20].copy_from_slice(&key.dst.0.octets());
        let l4 = 20 + options * 4;
        packet[l4..l4 + 2].copy_from_slice(&key.src_port.to_be_bytes());
        packet[l4 + 2..l4 + 4].copy_from_slice(&key.dst_port.to_be_bytes());
        packet
    }

    fn packet_v6(key: &FlowKey<flow::V6>) -> Vec<u8> {
        let mut packet = vec![0u8; 48];
        (packet[0], packet[6]) = (0x60, key.protocol);
        packet[8..24].copy_from_slice(&key.src.0.octets());
        packet[24..40].copy_from_slice(&key.dst.0.octets());
        packet[40..42].copy_from_slice(&key.src_port.to_be_bytes());
        packet[42..44].copy_from_slice(&key.dst_port.to_be_bytes());
        packet
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn the_program_chooses_the_owner(
            world in some_world(),
            v4 in prop::collection::vec((some_v4(), some_v4(), 0..11usize), 20),
            v6 in prop::collection::vec((some_v6(), some_v6()), 20),
            ports in prop::collection::vec((some_port(), some_port(), some_protocol()), 20),
        ) {
            let program = world.program();
            // Every rule matches some packet: the ends of ranges and the gateways are also destinations.
            let ends = world.owned.iter().flat_map(|range| [*range.start(), *range.end()]);
            let gateways = world.settings.gateway_v4.iter().copied().map(IpAddr::V4);
            let gateways = gateways.chain(world.settings.gateway_v6.iter().copied().map(IpAddr::V6));
            let special: Vec<IpAddr> = ends.chain(gateways).collect();
            for (at, &(src_port, dst_port, transport)) in ports.iter().enumerate() {
                let protocol = transport.number();
                let meant = special.iter().skip(at).step_by(ports.len()).copied();
                for dst in meant.chain([IpAddr::V4(v4[at].1), IpAddr::V6(v6[at].1)]) {
                    let (found, expected) = match dst {
                        IpAddr::V4(dst) => {
                            let (src, dst) = (flow::V4(v4[at].0), flow::V4(dst));
                            let key = FlowKey { src, dst, src_port, dst_port, protocol };
                            let packet = packet_v4(&key, v4[at].2);
                            (machine::run(&program, 0x0800, &packet), world.owner(&key, transport))
                        }
                        IpAddr::V6(dst) => {
                            let (src, dst) = (flow::V6(v6[at].0), flow::V6(dst));
                            let key = FlowKey { src, dst, src_port, dst_port, protocol };
                            (machine::run(&program, 0x86dd, &packet_v6(&key)), world.owner(&key, transport))
                        }
                    };
                    prop_assert_eq!(found, u32::from(expected), "to {} port {}", dst, dst_port);
                }
            }
        }
    }

    fn world(workers: u16, owned: Vec<RangeInclusive<IpAddr>>) -> World {
        World { settings: settings(vec![], vec![], 1024..=29999), owned, services: vec![], workers, seed: 5 }
    }

    #[test]
    fn packets_without_ports_go_to_any_worker() {
        let world = world(4, vec![]);
        let program = world.program();
        let key = |n: u32, protocol| FlowKey {
            src: flow::V4(n.into()),
            dst: flow::V4([10, 0, 0, 1].into()),
            src_port: 1,
            dst_port: 2,
            protocol,
        };
        let mut seen = [[false; 4]; 3];
        for n in 0..200 {
            let mut fragment = packet_v4(&key(n, 17), 0);
            fragment[7] = 100;
            let icmp = packet_v4(&key(n, 1), 0);
            for (packet, seen) in [&icmp[..], &fragment, &icmp[..20]].iter().zip(&mut seen) {
                seen[machine::run(&program, 0x0800, packet) as usize] = true;
            }
        }
        assert_eq!(seen, [[true; 4]; 3]);
        assert_eq!(machine::run(&program, 0x0806, &[0; 28]), 0, "ARP");
        assert_eq!(machine::run(&program, 0x0800, &packet_v4(&key(1, 17), 0)[..21]), 0, "cut before its ports");
    }

    #[test]
    fn beyond_the_limits_the_most_important_are_kept_and_the_kernel_accepts_the_program() {
        let v4 = |n: u32| IpAddr::V4((0x0a00_0000 + 2 * n).into());
        let v6 = |n: u128| IpAddr::V6((0xfd00 << 112 | n << 80 | n << 33).into());
        let gateways = (0..40).map(|n| 0xc000_0200 + n);
        let owned = (0..2000).map(|n| v4(n)..=v4(n)).chain((0..2000).map(|n| v6(n)..=v6(n))).collect();
        let mut world = world(2, owned);
        world.settings.gateway_v4 = gateways.clone().map(Ipv4Addr::from).collect();
        world.settings.gateway_v6 = (0..40u128).map(|n| (0xfd01u128 << 112 | n).into()).collect();
        world.services = (0..500)
            .map(|n| FrontendKey { address: IpAddr::V4(0xc000_0200.into()), port: 2000 + n, protocol: Protocol::Tcp })
            .collect();
        let program = world.program();
        assert!(program.instructions().len() <= MOST, "{} instructions", program.instructions().len());
        let agree = |dst: u32| {
            (1..100u16).all(|port| {
                let (src, dst) = (flow::V4([192, 168, 1, 1].into()), flow::V4(dst.into()));
                let key = FlowKey { src, dst, src_port: 40000 + port, dst_port: 80, protocol: 6 };
                machine::run(&program, 0x0800, &packet_v4(&key, 0)) == u32::from(world.owner(&key, Protocol::Tcp))
            })
        };
        let limit = 2 * u32::try_from(RANGES_V4).expect("small");
        assert!((0..limit).all(|n| agree(0x0a00_0000 + n)), "as many as there is room for, and what lies between");
        assert!(!agree(0x0a00_0000 + limit), "one too many");
    }
}

//! Floods of packets from spoofed sources, at a Service whose one backend is alive and replies to each of them.
//!
//! ```text
//!   spoofed ──SYN──▶ Service ──▶ backend ──SYN-ACK──▶ (unreachable: no acknowledgement ever comes)
//!   100 clients from before, 100 during, 20 after: all must be served
//! ```
//!
//! 40,000 sources in four seconds of virtual time, ten per millisecond. A real client acknowledges the reply after
//! [`ROUND_TRIP`]. The backend keeps the half-open connections of the flood, as one without SYN cookies does: it challenges a
//! SYN that reuses the port of one of them (RFC 5961 §4), and the client then resets that one and tries again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use etherparse::TransportHeader;

use super::support::builder::{Ip, Sendable, at, init, sctp, tcp, udp};
use super::support::lab::{Lab, OUTSIDE, OWN, PODS};
use super::support::objects::{echo, registry, web};
use super::support::seen::Seen;

const FLOOD: u32 = 40_000;
const PER_MILLISECOND: u32 = 10;
/// In milliseconds.
const ROUND_TRIP: u32 = 100;
/// Milliseconds after which a client repeats a SYN (RFC 6298 §2).
const RETRY: u32 = 1000;
/// The backend's initial sequence number.
const BACKEND: u32 = 2_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Tcp,
    Udp,
    Sctp,
}

/// What floods: SYNs, INITs, or so many datagrams of each source, a millisecond apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flood {
    Syns,
    Inits,
    Datagrams(u32),
}

/// One flood: of what, with which real clients beside it, from which side, so that sources are translated or not.
struct World {
    lab: Lab,
    flood: Flood,
    clients: Transport,
    /// The port that clients are behind.
    side: usize,
    /// What real clients got, not looked at yet.
    inbox: BTreeMap<SocketAddrV4, VecDeque<Seen>>,
    backend: Backend,
    spoofed: u32,
    /// Times that a client met a half-open connection.
    again: u32,
    /// Sources that send further datagrams, with how many.
    further: VecDeque<(SocketAddrV4, u32)>,
}

/// How far a client has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Served,
    /// Its first packet must be repeated.
    Again,
    Failed,
}

impl World {
    fn new(flood: Flood, clients: Transport, side: usize, config: &str) -> World {
        let services = [web(&["10.244.1.10"]), echo(&["10.244.1.10"]), registry(&["10.244.1.10"])];
        let lab = Lab::configured(config, &services.concat());
        let (inbox, backend, further) = (BTreeMap::new(), Backend::default(), VecDeque::new());
        World { lab, flood, clients, side, inbox, backend, spoofed: 0, again: 0, further }
    }

    /// A packet of a client: TCP as the flags and numbers say, SCTP that means the same, or a datagram.
    fn packet(&self, client: SocketAddrV4, flags: &str, (seq, ack): (u32, u32)) -> Ip {
        match self.clients {
            Transport::Tcp => segment(client, flags, (seq, ack)),
            Transport::Udp => datagram(client),
            Transport::Sctp if flags == "S" => association(client, 0, seq),
            Transport::Sctp => chunk(client, ack, DATA),
        }
    }

    /// The socket of the real client with this number: an address that nothing spoofs.
    fn client(&self, number: u16) -> SocketAddrV4 {
        let address = if self.side == PODS { "10.244.1.50:0" } else { "192.168.50.100:0" };
        SocketAddrV4::new(*at(address).ip(), 1024 + number)
    }

    /// The next spoofed source: one of 39 Pods, or of many hosts outside.
    fn spoof(&mut self) {
        let n = self.spoofed;
        self.spoofed += 1;
        let [_, _, high, low] = n.to_be_bytes();
        let port = 1024 + u16::try_from(n / 39).expect("small");
        let client = match self.side {
            PODS => SocketAddrV4::new([10, 244, 1, 11 + u8::try_from(n % 39).expect("small")].into(), port),
            _ => SocketAddrV4::new([198, 18, high, low].into(), port),
        };
        let packet = match self.flood {
            Flood::Syns => segment(client, "S", (n.wrapping_mul(0x9e37_79b9), 0)),
            Flood::Inits => association(client, 0, n.wrapping_mul(0x9e37_79b9) | 1),
            Flood::Datagrams(count) => {
                self.further.push_back((client, count - 1));
                datagram(client)
            }
        };
        self.lab.push(0, self.side, packet);
    }

    /// The datagrams that follow the first ones of the millisecond before.
    fn spoof_further(&mut self) {
        for _ in 0..self.further.len() {
            let Some((client, left)) = self.further.pop_front() else { return };
            if left > 0 {
                self.lab.push(0, self.side, datagram(client));
                self.further.push_back((client, left - 1));
            }
        }
    }

    /// Lets the gateway work and the backend reply, until nothing moves.
    fn settle(&mut self) {
        self.lab.run();
        loop {
            let mut replies = Vec::new();
            for port in [PODS, OUTSIDE] {
                while let Some(frame) = self.lab.pop(port) {
                    let seen = Seen::read(frame);
                    let to = seen.dst();
                    if port == PODS && to.ip().octets() == [10, 244, 1, 10] {
                        replies.extend(self.backend.reply(&seen));
                    } else if to.ip() == self.client(0).ip() {
                        self.inbox.entry(to).or_default().push_back(seen);
                    }
                }
            }
            if replies.is_empty() {
                return;
            }
            self.lab.send_all(PODS, replies);
        }
    }

    /// The next packet that a real client has got.
    fn received(&mut self, client: SocketAddrV4) -> Option<Seen> {
        self.inbox.get_mut(&client)?.pop_front()
    }

    /// A real client's first packet.
    fn begin(&mut self, number: u16) {
        let packet = self.packet(self.client(number), "S", (first_number(number), 0));
        self.lab.send(self.side, packet);
        self.settle();
    }

    /// Its second, once the reply has come; whether that is answered as well.
    fn go_on(&mut self, number: u16) -> Progress {
        let client = self.client(number);
        let Some(reply) = self.received(client) else { return Progress::Failed };
        let next = match &reply.transport {
            Some(TransportHeader::Tcp(header)) if header.acknowledgment_number != first_number(number) + 1 => {
                let reset = self.packet(client, "R", (header.acknowledgment_number, 0));
                self.lab.send(self.side, reset);
                self.settle();
                self.again += 1;
                return Progress::Again;
            }
            Some(TransportHeader::Tcp(header)) => {
                assert!(header.syn && header.ack, "{reply}");
                (first_number(number) + 1, header.sequence_number.wrapping_add(1))
            }
            None => {
                assert!(reply.tag() == first_number(number) && reply.payload[0] == INIT_ACK, "{reply}");
                let echo = chunk(client, BACKEND, COOKIE_ECHO);
                self.lab.send(self.side, echo);
                self.settle();
                if self.received(client).is_none_or(|seen| seen.payload[0] != COOKIE_ACK) {
                    return Progress::Failed;
                }
                (0, BACKEND)
            }
            Some(_) => (0, 0),
        };
        let packet = self.packet(client, "PA", next);
        let packet = if self.clients == Transport::Sctp { packet } else { packet.payload("hello") };
        match self.is_echoed(client, packet) {
            true => Progress::Served,
            false => Progress::Failed,
        }
    }

    /// Whether an open connection still works.
    fn works(&mut self, number: u16) -> bool {
        let client = self.client(number);
        let packet = match self.clients {
            Transport::Sctp => chunk(client, BACKEND, DATA),
            Transport::Tcp | Transport::Udp => {
                self.packet(client, "PA", (first_number(number) + 6, BACKEND + 6)).payload("again")
            }
        };
        self.is_echoed(client, packet)
    }

    /// Sends a packet of a real client; whether the next that the client gets carries the same, byte for byte.
    fn is_echoed(&mut self, client: SocketAddrV4, packet: Ip) -> bool {
        let sent = Seen::read(packet.clone().frame(OWN[self.side])).payload;
        self.lab.send(self.side, packet);
        self.settle();
        self.received(client).is_some_and(|echo| echo.payload == sent)
    }
}

fn segment(client: SocketAddrV4, flags: &str, (seq, ack): (u32, u32)) -> Ip {
    tcp(&client.to_string(), "10.96.0.50:80").flags(flags).numbers(seq, ack)
}

fn datagram(client: SocketAddrV4) -> Ip {
    udp(&client.to_string(), "10.96.0.60:7")
}

/// Types of SCTP chunks.
const DATA: u8 = 0;
const INIT_ACK: u8 = 2;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

fn association(client: SocketAddrV4, tag: u32, initiate: u32) -> Ip {
    init(&client.to_string(), "10.96.0.80:2905", 1, tag, initiate)
}

fn chunk(client: SocketAddrV4, tag: u32, kind: u8) -> Ip {
    let value = if kind == DATA { &b"............hello"[..] } else { b"a cookie" };
    sctp(&client.to_string(), "10.96.0.80:2905", tag).chunk((kind, if kind == DATA { 3 } else { 0 }), value)
}

fn first_number(client: u16) -> u32 {
    1_000_000 + u32::from(client) * 1000
}

/// The backend: it accepts, and echoes what it is sent.
#[derive(Default)]
struct Backend {
    /// The next sequence number of each half-open connection's client.
    half_open: HashMap<SocketAddrV4, u32>,
}

impl Backend {
    fn reply(&mut self, seen: &Seen) -> Option<Ip> {
        let (from, to) = (seen.dst().to_string(), seen.src().to_string());
        match &seen.transport {
            Some(TransportHeader::Tcp(header)) if header.rst => {
                let is_exact = self.half_open.get(&seen.src()) == Some(&header.sequence_number);
                is_exact.then(|| self.half_open.remove(&seen.src()));
                None
            }
            Some(TransportHeader::Tcp(header)) if header.syn => {
                let next = header.sequence_number.wrapping_add(1);
                let expected = *self.half_open.entry(seen.src()).or_insert(next);
                let (flags, seq) = if expected == next { ("SA", BACKEND) } else { ("A", BACKEND + 1) };
                Some(tcp(&from, &to).flags(flags).numbers(seq, expected))
            }
            Some(TransportHeader::Tcp(header)) if !seen.payload.is_empty() => {
                self.half_open.remove(&seen.src());
                let ack = header.sequence_number.wrapping_add(u32::try_from(seen.payload.len()).expect("small"));
                let echo = tcp(&from, &to).flags("PA").numbers(header.acknowledgment_number, ack);
                Some(echo.payload(seen.payload.clone()))
            }
            Some(TransportHeader::Udp(_)) => Some(udp(&from, &to).payload(seen.payload.clone())),
            None => self.reply_to_chunk(seen, &from, &to),
            _ => None,
        }
    }

    /// It keeps nothing before the cookie comes back (RFC 9260 §5.1.3), and knows by it which tag to send.
    fn reply_to_chunk(&mut self, seen: &Seen, from: &str, to: &str) -> Option<Ip> {
        match seen.payload[0] {
            1 => {
                let tag = u32::from_be_bytes(*seen.payload[4..].first_chunk().expect("an initiate tag"));
                self.half_open.insert(seen.src(), tag);
                Some(init(from, to, 2, tag, BACKEND))
            }
            COOKIE_ECHO if seen.tag() == BACKEND => {
                Some(sctp(from, to, self.half_open[&seen.src()]).chunk((COOKIE_ACK, 0), b""))
            }
            DATA if seen.tag() == BACKEND => {
                Some(sctp(from, to, self.half_open[&seen.src()]).payload(seen.payload.clone()))
            }
            _ => None,
        }
    }
}

/// The flood, and clients before, during and after it; the world afterwards.
fn flooded(flood: Flood, clients: Transport, side: usize, config: &str) -> World {
    let mut world = World::new(flood, clients, side, config);
    let (before, during, after) = (0..100u16, 100..200u16, 200..220u16);
    for number in before.clone() {
        world.begin(number);
        assert_eq!(world.go_on(number), Progress::Served, "client {number}, before the flood");
    }
    // By when: clients that wait for a reply, and clients that repeat their first packet.
    let (mut waiting, mut again) = (VecDeque::<(u32, u16)>::new(), VecDeque::<(u32, u16)>::new());
    let mut arrivals = during.clone();
    let mut served = 0;
    for millisecond in 0.. {
        if millisecond > FLOOD / PER_MILLISECOND && waiting.is_empty() && again.is_empty() {
            break;
        }
        world.spoof_further();
        if millisecond < FLOOD / PER_MILLISECOND {
            (0..PER_MILLISECOND).for_each(|_| world.spoof());
        }
        let arrives = if millisecond % 40 == 20 { arrivals.next() } else { None };
        let repeats = again.pop_front_if(|(due, _)| *due <= millisecond).map(|(_, number)| number);
        for number in arrives.into_iter().chain(repeats) {
            world.begin(number);
            waiting.push_back((millisecond + ROUND_TRIP, number));
        }
        while let Some((_, number)) = waiting.pop_front_if(|(due, _)| *due == millisecond) {
            match world.go_on(number) {
                Progress::Served => served += 1,
                Progress::Again => again.push_back((millisecond + RETRY, number)),
                Progress::Failed => {}
            }
        }
        world.settle();
        world.lab.wait(Duration::from_millis(1));
    }
    assert_eq!(served, 100, "of 100 clients that came during the flood: {:?}", world.lab.totals());
    for number in after {
        world.begin(number);
        world.lab.wait(Duration::from_millis(u64::from(ROUND_TRIP)));
        let progress = match world.go_on(number) {
            Progress::Again => {
                world.begin(number);
                world.go_on(number)
            }
            progress => progress,
        };
        assert_eq!(progress, Progress::Served, "client {number}, after the flood: {:?}", world.lab.totals());
    }
    for number in before.chain(during) {
        assert!(world.works(number), "the connection of client {number}");
    }
    world
}

/// Packets of 220 clients and the flood: three each way for 200 of the clients, two for 20, one for each spoofed one.
const PACKETS: u64 = 2 * (200 * 3 + 20 * 2 + FLOOD as u64);

/// The counters after a flood of unconfirmed flows: what is left, and how the rest went.
fn finish(mut world: World, bound: std::ops::RangeInclusive<u64>, how: &str) {
    // A cookie and its acknowledgement come between reply and data.
    let cookies = if world.clients == Transport::Sctp { 220 * 2 } else { 0 };
    let live = world.lab.totals().flows_live;
    assert!(bound.contains(&(live - 220)), "{:?}", world.lab.totals());
    let flows = [("flows_opened", 40_220), ("flows_live", live), ("flows_half_open", live - 220), (how, 40_220 - live)];
    // SYN, challenge and RST of each client that met a half-open connection.
    let packets = PACKETS + 3 * u64::from(world.again) + cookies;
    world.lab.counters(&[&[("rx", packets), ("tx", packets)], &flows[..]].concat());
}

/// Half of the table, less the few clients that were confirmed after the flood had ended.
const UNCONFIRMED: std::ops::RangeInclusive<u64> = 32_760..=32_768;
/// There are 28,976 ports towards the one backend, of which each search tries 64.
const PORTS: std::ops::RangeInclusive<u64> = 28_000..=28_976;

#[test]
fn a_flood_of_spoofed_syns_costs_clients_nothing() {
    finish(flooded(Flood::Syns, Transport::Tcp, PODS, "flows: {max: 65536}\n"), UNCONFIRMED, "flows_displaced");
}

#[test]
fn a_flood_of_spoofed_syns_takes_no_source_port_for_good() {
    let world = flooded(Flood::Syns, Transport::Tcp, OUTSIDE, "flows: {max: 1048576}\n");
    assert!(world.again > 20, "{} clients met a half-open connection", world.again);
    finish(world, PORTS, "ports_taken_over");
}

#[test]
fn a_flood_of_spoofed_inits_costs_clients_nothing() {
    finish(flooded(Flood::Inits, Transport::Sctp, PODS, "flows: {max: 65536}\n"), UNCONFIRMED, "flows_displaced");
}

#[test]
fn a_flood_of_spoofed_inits_takes_no_source_port_for_good() {
    finish(flooded(Flood::Inits, Transport::Sctp, OUTSIDE, "flows: {max: 1048576}\n"), PORTS, "ports_taken_over");
}

#[test]
fn a_flood_of_spoofed_datagrams_costs_clients_nothing() {
    let flood = Flood::Datagrams(1);
    finish(flooded(flood, Transport::Udp, PODS, "flows: {max: 65536}\n"), UNCONFIRMED, "flows_displaced");
}

#[test]
fn a_flood_of_spoofed_datagrams_takes_no_source_port_for_good() {
    let flood = Flood::Datagrams(1);
    finish(flooded(flood, Transport::Udp, OUTSIDE, "flows: {max: 1048576}\n"), PORTS, "ports_taken_over");
}

/// The counters after a flood of datagrams that confirms its flows: nothing was dropped, and nearly all flows of the flood that
/// are gone made room `how`.
fn finish_confirmed(world: World, how: &str) {
    let totals = world.lab.totals();
    world.lab.balance();
    assert_eq!((totals.rx, totals.dropped(), totals.passed()), (totals.tx, 0, 0));
    let removed: HashMap<&str, u64> = totals.counters().map(|(counter, value)| (counter.name, value)).collect();
    assert_eq!(removed[how], totals.flows_opened - totals.flows_live, "{totals:?}");
    assert!(removed[how] > 10_000, "{totals:?}");
}

#[test]
fn a_flood_of_confirmed_datagram_flows_makes_room_in_a_full_table() {
    for (datagrams, clients) in [(2, Transport::Tcp), (3, Transport::Udp)] {
        let world = flooded(Flood::Datagrams(datagrams), clients, PODS, "flows: {max: 16384}\n");
        finish_confirmed(world, "flows_evicted");
    }
}

#[test]
fn a_flood_of_confirmed_datagram_flows_takes_no_source_port_for_good() {
    for datagrams in [2, 3] {
        let world = flooded(Flood::Datagrams(datagrams), Transport::Udp, OUTSIDE, "flows: {max: 1048576}\n");
        finish_confirmed(world, "ports_taken_over");
    }
}

//! Floods of packets from spoofed sources, at a Service whose one backend is alive and replies to each of them.
//!
//! ```text
//!   spoofed ──SYN──▶ Service ──▶ backend ──SYN-ACK──▶ (nobody: no acknowledgement ever comes)
//!   100 clients from before, 100 during, 20 after: all must be served
//! ```
//!
//! 40,000 in four seconds of virtual time, ten per millisecond. A real client acknowledges the reply after [`ROUND_TRIP`].

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use etherparse::TransportHeader;

use super::support::builder::{Ip, at, tcp, udp};
use super::support::lab::{Lab, OUTSIDE, PODS};
use super::support::objects::{echo, web};
use super::support::seen::Seen;

const FLOOD: u32 = 40_000;
const PER_MILLISECOND: u32 = 10;
/// In milliseconds.
const ROUND_TRIP: u32 = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Tcp,
    Udp,
}

/// One flood: at which Service, from which side, so that sources are translated or not.
struct World {
    lab: Lab,
    transport: Transport,
    /// The port that clients are behind.
    side: usize,
    /// What real clients got, not looked at yet.
    inbox: BTreeMap<SocketAddrV4, VecDeque<Seen>>,
    spoofed: u32,
}

impl World {
    fn new(transport: Transport, side: usize, config: &str) -> World {
        let lab = Lab::configured(config, &(web(&["10.244.1.10"]) + &echo(&["10.244.1.10"])));
        World { lab, transport, side, inbox: BTreeMap::new(), spoofed: 0 }
    }

    /// A packet of a client: TCP as the flags and numbers say, or a datagram.
    fn packet(&self, client: SocketAddrV4, flags: &str, (seq, ack): (u32, u32)) -> Ip {
        match self.transport {
            Transport::Tcp => tcp(&client.to_string(), "10.96.0.50:80").flags(flags).numbers(seq, ack),
            Transport::Udp => udp(&client.to_string(), "10.96.0.60:7"),
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
        let packet = self.packet(client, "S", (n.wrapping_mul(0x9e37_79b9), 0));
        self.lab.push(0, self.side, packet);
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
                        replies.extend(reply(&seen));
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
    fn go_on(&mut self, number: u16) -> bool {
        let client = self.client(number);
        let Some(reply) = self.received(client) else { return false };
        let next = match &reply.transport {
            TransportHeader::Tcp(header) => {
                assert!(header.syn && header.ack, "{reply}");
                (first_number(number) + 1, header.sequence_number.wrapping_add(1))
            }
            _ => (0, 0),
        };
        let packet = self.packet(client, "PA", next).payload("hello");
        self.lab.send(self.side, packet);
        self.settle();
        self.received(client).is_some_and(|echo| echo.payload == b"hello")
    }

    /// Whether an open connection still works.
    fn works(&mut self, number: u16) -> bool {
        let client = self.client(number);
        let packet = self.packet(client, "PA", (first_number(number) + 6, 2_000_006)).payload("again");
        self.lab.send(self.side, packet);
        self.settle();
        self.received(client).is_some_and(|echo| echo.payload == b"again")
    }
}

fn first_number(client: u16) -> u32 {
    1_000_000 + u32::from(client) * 1000
}

/// What the backend sends back: it accepts, and echoes what it is sent.
fn reply(seen: &Seen) -> Option<Ip> {
    let (from, to) = (seen.dst().to_string(), seen.src().to_string());
    match &seen.transport {
        TransportHeader::Tcp(header) if header.syn => {
            Some(tcp(&from, &to).flags("SA").numbers(2_000_000, header.sequence_number.wrapping_add(1)))
        }
        TransportHeader::Tcp(header) if !seen.payload.is_empty() => {
            let ack = header.sequence_number.wrapping_add(u32::try_from(seen.payload.len()).expect("small"));
            let echo = tcp(&from, &to).flags("PA").numbers(header.acknowledgment_number, ack);
            Some(echo.payload(seen.payload.clone()))
        }
        TransportHeader::Udp(_) => Some(udp(&from, &to).payload(seen.payload.clone())),
        _ => None,
    }
}

/// The flood, and clients before, during and after it; the world afterwards.
fn flooded(transport: Transport, side: usize, config: &str) -> World {
    let mut world = World::new(transport, side, config);
    let (before, during, after) = (0..100u16, 100..200u16, 200..220u16);
    for number in before.clone() {
        world.begin(number);
        assert!(world.go_on(number), "client {number}, before the flood");
    }
    let mut waiting: VecDeque<(u32, u16)> = VecDeque::new();
    let mut arrivals = during.clone();
    let mut served = 0;
    for millisecond in 0..FLOOD / PER_MILLISECOND + ROUND_TRIP {
        if millisecond < FLOOD / PER_MILLISECOND {
            (0..PER_MILLISECOND).for_each(|_| world.spoof());
        }
        if millisecond % 40 == 20
            && let Some(number) = arrivals.next()
        {
            world.begin(number);
            waiting.push_back((millisecond + ROUND_TRIP, number));
        }
        while let Some((_, number)) = waiting.pop_front_if(|(due, _)| *due == millisecond) {
            served += u32::from(world.go_on(number));
        }
        world.settle();
        world.lab.wait(Duration::from_millis(1));
    }
    assert_eq!(served, 100, "of 100 clients that came during the flood: {:?}", world.lab.totals());
    for number in after {
        world.begin(number);
        world.lab.wait(Duration::from_millis(u64::from(ROUND_TRIP)));
        assert!(world.go_on(number), "client {number}, after the flood");
    }
    for number in before.chain(during) {
        assert!(world.works(number), "the connection of client {number}");
    }
    world
}

/// Packets of 220 clients and the flood: three each way for 200 of the clients, two for 20, one for each spoofed one.
const PACKETS: u64 = 2 * (200 * 3 + 20 * 2 + FLOOD as u64);

/// The counters after a flood: what is left, and how the rest went.
fn finish(mut world: World, bound: std::ops::RangeInclusive<u64>, how: &str) {
    let live = world.lab.totals().flows_live;
    assert!(bound.contains(&(live - 220)), "{:?}", world.lab.totals());
    let flows = [("flows_opened", 40_220), ("flows_live", live), ("flows_half_open", live - 220), (how, 40_220 - live)];
    world.lab.counters(&[&[("rx", PACKETS), ("tx", PACKETS)], &flows[..]].concat());
}

/// Half of the table, less the few clients that were confirmed after the flood had ended.
const UNCONFIRMED: std::ops::RangeInclusive<u64> = 32_760..=32_768;
/// There are 28,976 ports towards the one backend, of which each search tries 64.
const PORTS: std::ops::RangeInclusive<u64> = 28_000..=28_976;

#[test]
fn a_flood_of_spoofed_syns_costs_clients_nothing() {
    finish(flooded(Transport::Tcp, PODS, "flows: {max: 65536}\n"), UNCONFIRMED, "flows_displaced");
}

#[test]
fn a_flood_of_spoofed_syns_takes_no_source_port_for_good() {
    finish(flooded(Transport::Tcp, OUTSIDE, "flows: {max: 1048576}\n"), PORTS, "ports_taken_over");
}

#[test]
fn a_flood_of_spoofed_datagrams_costs_clients_nothing() {
    finish(flooded(Transport::Udp, PODS, "flows: {max: 65536}\n"), UNCONFIRMED, "flows_displaced");
}

#[test]
fn a_flood_of_spoofed_datagrams_takes_no_source_port_for_good() {
    finish(flooded(Transport::Udp, OUTSIDE, "flows: {max: 1048576}\n"), PORTS, "ports_taken_over");
}

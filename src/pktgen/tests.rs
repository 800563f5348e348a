//! Sender and sink over plain memory, with everything that can happen on the way between them.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use pollgate_common::net::{Mac, PortId};
use pollgate_common::reasons::DropReason;
use pollgate_common::time::Instant;
use pollgate_dataplane::port::memory::{MemoryPort, Packet, Wire};
use pollgate_dataplane::port::{Frame, Port, Returned, Sent};

use super::addresses::{Block, Tuples};
use super::arrival::Way;
use super::clock::Clock;
use super::flows::{FlowPlan, Order};
use super::pace::Rate;
use super::sender::{Churn, SendPlan, Sender, Size};
use super::share::Share;
use super::side::{Side, Task};
use super::tally::Span;

const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 1]);
const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 2]);
const SINK: Mac = Mac([2, 0, 0, 0, 0, 3]);
const RUN: u16 = 77;
const BURST: usize = 32;

fn block(text: &str) -> Block {
    text.parse().expect(text)
}

fn plan(flows: u32) -> SendPlan {
    let tuples = Tuples::new(block("10.0.0.0/24"), vec!["10.96.0.1:80".parse().expect("a target")]);
    let flows = FlowPlan { count: flows, first: 0, tuples, tcp_share: Share::NONE, order: Order::Turn, seed: 1 };
    SendPlan {
        rate: Rate::Max,
        burst: BURST,
        size: Size::Bytes(64),
        flows,
        churn: Churn::None,
        hits: Share::ALL,
        stray_port: 9,
        run: RUN,
    }
}

fn side(mac: Mac, port: Box<dyn Port>, id: PortId, flows: u32, end: Way, reply: bool) -> Side {
    let task = Task {
        run: RUN,
        clients: block("10.0.0.0/24"),
        answers: Vec::new(),
        endpoints: vec![block("10.96.0.1")],
        reply,
        end,
        slots: flows,
    };
    let mut side = Side::new(task, id, mac, port, 64);
    side.start(everything());
    side
}

/// Everything that is sent counts.
fn everything() -> Span {
    Span { from: Instant(0), until: Instant(0).plus(Duration::from_secs(3600)) }
}

/// A client and a sink, each with the far end of its memory port: the test is the gateway.
struct Pair {
    clock: Clock,
    sender: Sender,
    client: (Side, Wire),
    sink: (Side, Wire),
}

impl Pair {
    fn new(plan: SendPlan, reply: bool) -> Pair {
        let (clock, flows) = (Clock::start(), plan.flows.count);
        let end = if reply { Way::Back } else { Way::There };
        let ((near, near_wire), (far, far_wire)) = (MemoryPort::new(PortId(0)), MemoryPort::new(PortId(1)));
        let client = side(CLIENT, Box::new(near), PortId(0), flows, end, false);
        let sink = side(SINK, Box::new(far), PortId(1), flows, end, reply);
        let sender = Sender::new(plan, Instant(0), everything(), CLIENT, GATEWAY);
        Pair { clock, sender, client: (client, near_wire), sink: (sink, far_wire) }
    }

    /// One burst, as it leaves.
    fn burst(&mut self) -> Vec<Packet> {
        assert_eq!(self.sender.send(&mut self.client.0, &self.clock), BURST as u64);
        std::iter::from_fn(|| self.client.1.pop()).collect()
    }

    fn arrive(&mut self, packets: impl IntoIterator<Item = Packet>) {
        packets.into_iter().for_each(|packet| self.sink.1.push(packet));
        while self.sink.0.receive(&self.clock) > 0 {}
    }
}

#[test]
fn what_happens_on_the_way_is_what_is_counted() {
    let mut pair = Pair::new(plan(1), false);
    let mut packets = pair.burst();
    packets.swap(3, 4);
    packets.remove(20);
    packets.insert(10, packets[9].clone());
    packets.push(vec![0; 60].into());
    pair.arrive(packets);
    let tally = &pair.sink.0.seen.tally;
    assert_eq!((tally.received, tally.reordered, tally.duplicates), (31, 1, 1));
    assert_eq!((pair.sender.sent, pair.sender.bytes), (32, 32 * 64));
    assert_eq!((tally.first.len(), tally.steady.len()), (1, 30));
    assert_eq!(pair.sink.0.seen.endpoints[0].packets, 32, "the duplicate was seen there too");
    let packets = pair.burst();
    pair.arrive(packets);
    assert_eq!(pair.sink.0.seen.tally.received, 63, "buffers came home: it goes on");
}

#[test]
fn a_reply_comes_back_as_a_round_trip() {
    let mut pair = Pair::new(plan(8), true);
    let packets = pair.burst();
    pair.arrive(packets);
    assert_eq!((pair.sink.0.seen.halfway, pair.sink.0.seen.tally.received), (32, 0));
    let answers: Vec<Packet> = std::iter::from_fn(|| pair.sink.1.pop()).collect();
    assert_eq!(answers.len(), 32);
    // Nothing on the way here changes hardware addresses: the sink answers whom the frame is from.
    assert!(answers.iter().all(|packet| packet.bytes[..12] == [CLIENT.0, SINK.0].concat()));
    answers.into_iter().for_each(|packet| pair.client.1.push(packet));
    assert_eq!(pair.client.0.receive(&pair.clock), 32);
    let tally = &pair.client.0.seen.tally;
    assert_eq!((tally.received, tally.reordered, tally.duplicates), (32, 0, 0));
}

#[test]
fn packets_due_in_the_warm_up_do_not_count() {
    let mut pair = Pair::new(plan(1), false);
    let later = Span { from: pair.clock.now().plus(Duration::from_secs(1800)), ..everything() };
    pair.sender = Sender::new(plan(1), Instant(0), later, CLIENT, GATEWAY);
    pair.sink.0.start(later);
    let packets = pair.burst();
    pair.arrive(packets);
    let tally = &pair.sink.0.seen.tally;
    assert_eq!((pair.sender.sent, tally.received, tally.bytes), (0, 0, 0));
    assert_eq!(pair.sink.0.seen.endpoints[0].packets, 0);
    assert!(pair.sink.0.seen.endpoints[0].first.is_some(), "but that somebody is there is known");
}

/// Refuses every other frame, as a full queue does.
struct Stuttering {
    count: u64,
}

impl Port for Stuttering {
    fn rx(&mut self, _: Instant, _: usize, _: &mut Vec<Frame>) {}

    fn tx(&mut self, _: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        for frame in batch.drain(..) {
            self.count += 1;
            let dropped = self.count.is_multiple_of(2).then_some(DropReason::TxFull);
            back.push(Returned { frame, dropped });
        }
        Sent::default()
    }

    fn release(&mut self, _: Frame) {
        panic!("it has handed out nothing");
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_idle(&self) -> bool {
        true
    }
}

#[test]
fn what_the_port_refuses_was_not_sent() {
    let plan = SendPlan { hits: Share::new(500_000).expect("half"), ..plan(4) };
    let mut client = side(CLIENT, Box::new(Stuttering { count: 0 }), PortId(0), 4, Way::There, false);
    let mut sender = Sender::new(plan, Instant(0), everything(), CLIENT, GATEWAY);
    let clock = Clock::start();
    for _ in 0..10 {
        assert_eq!(sender.send(&mut client, &clock), BURST as u64, "every buffer is back");
    }
    assert_eq!((sender.sent, sender.strays), (160, 160));
    assert_eq!(client.seen.unsent.get("tx_full"), Some(&160));
    // Hits and strays take turns, and so do frames that are refused: all the refused ones are of one kind.
    assert_eq!(client.seen.unsent_counted.iter().sum::<u64>(), 160);
    assert!(client.seen.unsent_counted.contains(&160), "{:?}", client.seen.unsent_counted);
    assert_eq!(client.seen.unsent_bytes, 160 * 64);
}

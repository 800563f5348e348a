//! The packet's life, on one screen.
//!
//! A burst goes through in passes, so that the cache misses of its packets overlap instead of adding up: all headers are
//! asked for before the first is read, all buckets before the first is searched, all entries before the first is compared.

use pollgate_common::flow::{Address, Protocol};
use pollgate_common::net::NoNextHop;
use pollgate_common::reasons::DropReason;
use pollgate_common::tables::Tables;
use pollgate_common::time::Instant;

use crate::burst::Burst;
use crate::classify::{self, Destination};
use crate::egress::pending;
use crate::flow::life::{Life, Side, Signal};
use crate::flow::{Entry, FlowTable};
use crate::packet::{Account, Outcome, Packet, Refusal, Verdict};
use crate::port::{BURST, Frame};
use crate::reply::{self, arp, dns, reject};
use crate::state::{Lane, Shared, State};
use crate::wire::Ip;
use crate::{open, parse, rewrite, select};

/// Decides what becomes of every frame of a burst, and rewrites those that go on.
pub(crate) fn run(state: &mut State, frames: &mut [Frame], burst: &mut Burst, tables: &Tables, now: Instant) {
    parse::all(frames, burst, tables.net());
    for index in burst.arp() {
        burst.settle(index, Outcome::of(arp::reply(&mut frames[index], tables)));
    }
    let (packets, outcomes) = burst.v4_lane();
    lane(&mut state.shared, &mut state.v4, frames, packets, outcomes, tables, now);
}

/// The packets of one family.
#[inline]
fn lane<I: Ip>(
    shared: &mut Shared,
    lane: &mut Lane<I>,
    frames: &mut [Frame],
    packets: &mut [Packet<I::Address>],
    outcomes: &mut [Outcome; BURST],
    tables: &Tables,
    now: Instant,
) {
    let with_flow = packets.iter_mut().filter(|packet| packet.can_have_flow());
    lane.flows.hash_all(with_flow.map(|packet| (&packet.key, &mut packet.hash)));
    for packet in packets.iter_mut().filter(|packet| packet.can_have_flow()) {
        packet.candidate = lane.flows.probe(packet.hash);
    }
    for packet in &*packets {
        let index = usize::from(packet.frame) % BURST;
        if let Some(frame) = frames.get_mut(index) {
            outcomes[index] = decide(shared, lane, frame, packet, tables, now);
        }
    }
}

#[inline]
fn decide<I: Ip>(
    shared: &mut Shared,
    lane: &mut Lane<I>,
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    tables: &Tables,
    now: Instant,
) -> Outcome {
    if !packet.can_have_flow() {
        let verdict = classify::without_flow(packet, tables);
        return Outcome::of(reply::act::<I>(frame, packet, verdict, tables.settings()));
    }
    if dns::is_for_us(packet, tables.settings()) {
        return Outcome::of(dns::reply::<I>(frame, packet, tables));
    }
    if let Some(index) = known(&mut lane.flows, packet, tables, now) {
        return translate(lane, frame, packet, index, false, tables, now);
    }
    match new_flow(shared, lane, packet, tables, now) {
        Ok(index) => translate(lane, frame, packet, index, true, tables, now),
        Err(verdict) => {
            let verdict = reject::within_rate(verdict, &mut shared.resets, now);
            Outcome::of(reply::act::<I>(frame, packet, verdict, tables.settings()))
        }
    }
}

/// The index of the flow that the packet belongs to, if there is one and it still holds.
#[inline]
fn known<A: Address>(flows: &mut FlowTable<A>, packet: &Packet<A>, tables: &Tables, now: Instant) -> Option<u32> {
    let index = flows.confirm(packet.candidate, packet.hash, &packet.key)?;
    // The sweeper may not have come by: a worker that slept wakes up with this very packet.
    if flows.expire(index, now.ticks()) {
        return None;
    }
    let entry = flows.entry(index);
    let reopened = entry.state.life() == Life::Closing && packet.segment.signal() == Signal::Syn;
    if !reopened && (is_checked(entry, tables) || open::still_serves(flows, index, tables)) {
        return Some(index);
    }
    flows.close(index);
    None
}

/// Whether the flow's backend need not be looked up again: a TCP connection keeps it for as long as it lasts, a UDP flow for as
/// long as the tables are the same. Only the client's packets ask.
#[inline]
fn is_checked<A: Address>(entry: &Entry<A>, tables: &Tables) -> bool {
    match entry.protocol() {
        Some(Protocol::Tcp | Protocol::Sctp) | None => true,
        Some(Protocol::Udp) => entry.state.side() == Side::Backend || entry.mark == open::low(tables.generation()),
    }
}

/// Classify, steer, select, open. Returns the index of the new flow.
#[cold]
fn new_flow<I: Ip>(
    shared: &mut Shared,
    lane: &mut Lane<I>,
    packet: &Packet<I::Address>,
    tables: &Tables,
    now: Instant,
) -> Result<u32, Verdict> {
    let destination = Destination::of(&packet.key, tables)?;
    let owner = shared.steering.owner(&packet.key, destination.towards(), tables.settings());
    if owner != shared.worker {
        return Err(Verdict::HandOver(owner));
    }
    let frontend = classify::new_flow(packet, destination, tables)?;
    let choice = select::choose(packet, frontend, tables)?;
    open::flow(shared, &mut lane.flows, packet, &choice, tables, now).map_err(|reason| match reason {
        DropReason::TcpNoFlow => reject::unknown_connection(packet, reason),
        _ => Verdict::Drop(reason),
    })
}

/// Applies the flow's translation and finds the next hop.
#[inline]
fn translate<I: Ip>(
    lane: &mut Lane<I>,
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    index: u32,
    is_new: bool,
    tables: &Tables,
    now: Instant,
) -> Outcome {
    let opened = Account { service: lane.flows.entry(index).service, packets: 0, flows: u8::from(is_new) };
    if packet.hop_limit <= 1 {
        let verdict = Verdict::Refuse(DropReason::TtlExpired, Refusal::TimeExceeded);
        return Outcome { verdict: reply::act::<I>(frame, packet, verdict, tables.settings()), account: opened };
    }
    let Some(entry) = lane.flows.touch(index, now.ticks(), &packet.segment) else {
        return Outcome { verdict: Verdict::Drop(DropReason::TcpOutOfWindow), account: opened };
    };
    rewrite::translate::<I>(frame, packet, &entry.translation);
    let verdict = match lane.next_hops.of(entry, tables.net()) {
        Ok(next) if rewrite::is_too_long(packet.ip_len(), frame, next) => Verdict::Drop(DropReason::TxTooLong),
        Ok(next) => {
            rewrite::address(frame, next);
            Verdict::Send(next.port)
        }
        Err(NoNextHop::Neighbour(_)) => Verdict::Pend,
        Err(no) => Verdict::Drop(pending::reason(no)),
    };
    Outcome { verdict, account: Account { packets: 1, ..opened } }
}

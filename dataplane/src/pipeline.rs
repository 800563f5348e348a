//! The packet's life, on one screen.
//!
//! A burst goes through in passes, so that the cache misses of its packets overlap instead of adding up: all buckets are
//! asked for before the first is read, all entries before the first is compared.

use pollgate_common::tables::Tables;
use pollgate_common::time::Instant;

use crate::flow::entry::{CLOSING, REPLY};
use crate::packet::{Fate, Kind, Packet};
use crate::wire::tcp;
use crate::worker::State;
use crate::{arp, classify, dns, hold, reject, rewrite, select};

/// Decides the fate of every packet of a parsed burst, and rewrites those that go on.
pub(crate) fn run(state: &mut State, burst: &mut [Packet], tables: &Tables, now: Instant) {
    for packet in burst.iter_mut().filter(|packet| packet.fate.is_none() && packet.has_ports()) {
        packet.hash = state.flows.hash(&packet.key);
        state.flows.prefetch_bucket(packet.hash);
    }
    for packet in burst.iter().filter(|packet| packet.fate.is_none() && packet.has_ports()) {
        state.flows.probe(packet.hash);
    }
    for packet in burst.iter_mut().filter(|packet| packet.fate.is_none()) {
        packet.fate = Some(decide(state, packet, tables, now));
    }
}

#[inline]
fn decide(state: &mut State, packet: &mut Packet, tables: &Tables, now: Instant) -> Fate {
    match packet.kind {
        Kind::Arp => arp::answer(packet, tables),
        Kind::Icmp | Kind::OtherIp | Kind::Fragment => classify::without_flow(packet, tables),
        Kind::Tcp | Kind::Udp if dns::is_for_us(packet, tables.settings()) => dns::answer(packet, tables),
        Kind::Tcp | Kind::Udp => match known(state, packet, tables, now) {
            Some(place) => translate(state, packet, place, tables, now),
            None => match classify::new_flow(state, packet, tables)
                .and_then(|f| select::open(state, packet, f, tables, now))
            {
                Ok(place) => translate(state, packet, place, tables, now),
                Err(fate) => fate,
            },
        },
    }
}

/// The flow the packet belongs to, if there is one and it still holds.
#[inline]
fn known(state: &mut State, packet: &Packet, tables: &Tables, now: Instant) -> Option<u32> {
    let place = state.flows.find(packet.hash, &packet.key)?;
    // The sweeper may not have come by: a worker that slept wakes up with this very packet.
    if state.flows.expire(place, now.ticks()) {
        return None;
    }
    let entry = state.flows.entry(place);
    let reopened = entry.is(CLOSING) && packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    let checked = entry.is_tcp() || entry.is(REPLY) || u64::from(entry.generation) == tables.generation() & 0xffff_ffff;
    if !reopened && (checked || select::still_serves(state, place, tables)) {
        return Some(place);
    }
    state.flows.close(place);
    None
}

/// Applies the flow's translation and finds the way on.
#[inline]
fn translate(state: &mut State, packet: &mut Packet, place: u32, tables: &Tables, now: Instant) -> Fate {
    if packet.ttl <= 1 {
        return reject::time_exceeded(packet, tables.settings());
    }
    state.flows.saw(place, now.ticks(), packet.tcp_flags);
    let entry = state.flows.entry_mut(place);
    let hop = state.hops.of(entry, tables.net());
    rewrite::translate(packet, &entry.translation);
    if let Some(service) = state.counters.service(usize::from(state.worker), entry.service) {
        service.packets.add(1);
        service.bytes.add(packet.frame.len() as u64);
    }
    match hop {
        Ok(hop) if rewrite::is_too_long(&packet.frame, &hop) => Fate::Drop(pollgate_common::drops::Drop::TxTooLong),
        Ok(hop) => {
            rewrite::address(&mut packet.frame, &hop);
            Fate::Send(hop.port)
        }
        Err(pollgate_common::net::NoHop::Neighbour(query)) => Fate::Hold(query),
        Err(no) => Fate::Drop(hold::reason(no)),
    }
}

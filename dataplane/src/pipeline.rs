//! The packet's life, on one screen.
//!
//! A burst goes through in passes, so that the cache misses of its packets overlap instead of adding up: all headers are
//! asked for before the first is read, all buckets before the first is searched, all entries before the first is compared.

use pollgate_common::net::NoHop;
use pollgate_common::reasons::Drop;
use pollgate_common::tables::Tables;
use pollgate_common::time::Instant;

use crate::egress::pending;
use crate::flow::entry::{CLOSING, REPLY};
use crate::packet::{Fate, Kind, Packet};
use crate::port::Frame;
use crate::reply::{arp, dns, reject};
use crate::wire::tcp;
use crate::worker::State;
use crate::{classify, parse, rewrite, select};

/// Decides the fate of every frame of a burst, and rewrites those that go on.
pub(crate) fn run(state: &mut State, frames: &mut [Frame], packets: &mut [Packet], tables: &Tables, now: Instant) {
    parse::all(frames, packets, tables.net());
    let with_ports = packets.iter_mut().filter(|packet| packet.has_ports());
    state.flows.hash_all(with_ports.map(|packet| (&packet.key, &mut packet.hash)));
    for packet in packets.iter_mut().filter(|packet| packet.has_ports()) {
        packet.likely = state.flows.probe(packet.hash);
    }
    for (frame, packet) in frames.iter_mut().zip(packets).filter(|(_, packet)| packet.fate.is_none()) {
        packet.fate = Some(decide(state, frame, packet, tables, now));
    }
}

#[inline]
fn decide(state: &mut State, frame: &mut Frame, packet: &Packet, tables: &Tables, now: Instant) -> Fate {
    match packet.kind {
        Kind::Arp => arp::answer(frame, packet, tables),
        Kind::Icmp | Kind::OtherIp | Kind::Fragment => classify::without_flow(frame, packet, tables),
        Kind::Tcp | Kind::Udp if dns::is_for_us(packet, tables.settings()) => dns::answer(frame, packet, tables),
        Kind::Tcp | Kind::Udp => {
            let place = match known(state, packet, tables, now) {
                Some(place) => Ok(place),
                None => classify::new_flow(state, frame, packet, tables)
                    .and_then(|frontend| select::open(state, frame, packet, frontend, tables, now)),
            };
            place.map_or_else(|fate| fate, |place| translate(state, frame, packet, place, tables, now))
        }
    }
}

/// The flow the packet belongs to, if there is one and it still holds.
#[inline]
fn known(state: &mut State, packet: &Packet, tables: &Tables, now: Instant) -> Option<u32> {
    let place = state.flows.confirm(packet.likely, packet.hash, &packet.key)?;
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
fn translate(state: &mut State, frame: &mut Frame, packet: &Packet, place: u32, tables: &Tables, now: Instant) -> Fate {
    if packet.ttl <= 1 {
        return reject::time_exceeded(frame, packet, tables.settings());
    }
    let entry = state.flows.saw(place, now.ticks(), packet.tcp_flags);
    if let Some(service) = state.counters.service(usize::from(state.worker), entry.service) {
        service.packets.add(1);
        service.bytes.add(frame.len() as u64);
    }
    rewrite::translate(frame, packet, &entry.translation);
    match state.hops.of(entry, tables.net()) {
        Ok(hop) if rewrite::is_too_long(packet.ip_len(), frame, hop) => Fate::Drop(Drop::TxTooLong),
        Ok(hop) => {
            rewrite::address(frame, hop);
            Fate::Send(hop.port)
        }
        Err(NoHop::Neighbour(_)) => Fate::Hold,
        Err(no) => Fate::Drop(pending::reason(no)),
    }
}

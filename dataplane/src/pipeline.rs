//! The packet's life, on one screen.
//!
//! A burst goes through in passes, so that the cache misses of its packets overlap instead of adding up: all headers are
//! asked for before the first is read, all buckets before the first is searched, all entries before the first is compared.

use pollgate_common::net::NoNextHop;
use pollgate_common::reasons::DropReason;
use pollgate_common::tables::Tables;
use pollgate_common::time::Instant;

use crate::egress::pending;
use crate::flow::entry::{CLOSING, REPLY_DIRECTION};
use crate::packet::{Kind, Packet, Verdict};
use crate::port::Frame;
use crate::reply::{arp, dns, reject};
use crate::wire::tcp;
use crate::worker::State;
use crate::{classify, parse, rewrite, select};

/// Decides the verdict of every frame of a burst, and rewrites those that go on.
pub(crate) fn run(state: &mut State, frames: &mut [Frame], packets: &mut [Packet], tables: &Tables, now: Instant) {
    parse::all(frames, packets, tables.net());
    let with_ports = packets.iter_mut().filter(|packet| packet.has_ports());
    state.flows.hash_all(with_ports.map(|packet| (&packet.key, &mut packet.hash)));
    for packet in packets.iter_mut().filter(|packet| packet.has_ports()) {
        packet.candidate = state.flows.probe(packet.hash);
    }
    for (frame, packet) in frames.iter_mut().zip(packets).filter(|(_, packet)| packet.verdict.is_none()) {
        packet.verdict = Some(decide(state, frame, packet, tables, now));
    }
}

#[inline]
fn decide(state: &mut State, frame: &mut Frame, packet: &Packet, tables: &Tables, now: Instant) -> Verdict {
    match packet.kind {
        Kind::Arp => arp::answer(frame, packet, tables),
        Kind::Icmp | Kind::OtherIp | Kind::Fragment => classify::without_flow(frame, packet, tables),
        Kind::Tcp | Kind::Udp if dns::is_for_us(packet, tables.settings()) => dns::answer(frame, packet, tables),
        Kind::Tcp | Kind::Udp => {
            let index = match known(state, packet, tables, now) {
                Some(index) => Ok(index),
                None => classify::new_flow(state, frame, packet, tables)
                    .and_then(|frontend| select::open(state, frame, packet, frontend, tables, now)),
            };
            index.map_or_else(|verdict| verdict, |index| translate(state, frame, packet, index, tables, now))
        }
    }
}

/// The flow the packet belongs to, if there is one and it still holds.
#[inline]
fn known(state: &mut State, packet: &Packet, tables: &Tables, now: Instant) -> Option<u32> {
    let index = state.flows.confirm(packet.candidate, packet.hash, &packet.key)?;
    // The sweeper may not have come by: a worker that slept wakes up with this very packet.
    if state.flows.expire(index, now.ticks()) {
        return None;
    }
    let entry = state.flows.entry(index);
    let reopened = entry.is(CLOSING) && packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    let checked =
        entry.is_tcp() || entry.is(REPLY_DIRECTION) || u64::from(entry.generation) == tables.generation() & 0xffff_ffff;
    if !reopened && (checked || select::still_serves(state, index, tables)) {
        return Some(index);
    }
    state.flows.close(index);
    None
}

/// Applies the flow's translation and finds the way on.
#[inline]
fn translate(
    state: &mut State,
    frame: &mut Frame,
    packet: &Packet,
    index: u32,
    tables: &Tables,
    now: Instant,
) -> Verdict {
    if packet.ttl <= 1 {
        return reject::time_exceeded(frame, packet, tables.settings());
    }
    let entry = state.flows.touch(index, now.ticks(), packet.tcp_flags);
    if let Some(service) = state.counters.service(usize::from(state.worker), entry.service) {
        service.packets.add(1);
        service.bytes.add(frame.len() as u64);
    }
    rewrite::translate(frame, packet, &entry.translation);
    match state.hops.of(entry, tables.net()) {
        Ok(hop) if rewrite::is_too_long(packet.ip_len(), frame, hop) => Verdict::Drop(DropReason::TxTooLong),
        Ok(hop) => {
            rewrite::address(frame, hop);
            Verdict::Send(hop.port)
        }
        Err(NoNextHop::Neighbour(_)) => Verdict::Hold,
        Err(no) => Verdict::Drop(pending::reason(no)),
    }
}

//! DNS answered inline: the query's frame becomes the answer ([`pollgate_common::dns::answer`]).
//!
//! ```text
//!  read all queries ─ look up all names ─ write all answers
//!   prefetch slots      prefetch nodes
//! ```
//!
//! Three passes over the queries of a burst, so that the cache misses of their names overlap. A query for a name outside the zones goes
//! to the resolver ([`pollgate_common::dns::forward`]), if there is one; its response comes back as a message, and gets a frame of
//! this worker's.
//!
//! **Abuse.** A response goes to an address that anyone may have written. It has at most 512 bytes, with EDNS 1232, and one client prefix
//! gets only so many per second: beyond them, every other query gets an empty response that says "truncated" (a real client then asks
//! by TCP, which proves its address), and the rest gets none. A query that takes the resolver counts as [`FORWARDED`].

use std::net::IpAddr;
use std::sync::Arc;

use pollgate_common::counters::WorkerCounters;
use pollgate_common::dns::answer::{self, Answered, NoAnswer, Rule};
use pollgate_common::dns::forward::{HEADERS, Reply, Request, Requests, Way};
use pollgate_common::dns::message::Query;
use pollgate_common::dns::totals::Totals;
use pollgate_common::flow::FlowKey;
use pollgate_common::reasons::DropReason;
use pollgate_common::tables::Tables;
use pollgate_common::time::Instant;
use zerocopy::IntoBytes;

use crate::classify;
use crate::memory::prefetch;
use crate::packet::{Action, Outcome, Packet, Verdict};
use crate::port::{BURST, Frame, Offload};
use crate::rate::{ByPrefix, Rate};
use crate::rewrite;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::udp::{self, Udp};
use crate::wire::{Header, Ip, checksum};

/// Responses that one counts as which takes the resolver: a task and a socket of the one thread that all workers share.
const FORWARDED: u32 = 10;

/// What a worker keeps for DNS.
pub(crate) struct Server {
    /// The queries of a burst.
    queries: Box<[Query; BURST]>,
    /// Responses that each client prefix may still get; `None` if there is no limit.
    rates: Option<ByPrefix<Rate>>,
    /// Queries beyond the rate.
    limited: u64,
    /// Where queries go that take a resolver; `None` if there is none.
    resolver: Option<Arc<Requests>>,
    worker: u16,
    totals: Totals,
}

/// What a query gets.
enum Response {
    Answer,
    Slip,
    None(DropReason),
}

impl Server {
    /// That of a worker, with a limit of responses per client prefix and second; 0: none.
    pub(crate) fn new(worker: u16, rate: u32, resolver: Option<Arc<Requests>>, hasher: ahash::RandomState) -> Server {
        let query = || Query { can_forward: resolver.is_some(), ..Query::default() };
        Server {
            queries: Box::new(std::array::from_fn(|_| query())),
            rates: (rate > 0).then(|| ByPrefix::new(hasher, || Rate::new(rate))),
            limited: 0,
            resolver,
            worker,
            totals: Totals::default(),
        }
    }

    /// Whether a client gets its answer.
    #[inline]
    fn admit(&mut self, at: usize, client: IpAddr, now: Instant) -> Response {
        if self.rates.as_mut().is_none_or(|rates| rates.of(client).take(now)) {
            return Response::Answer;
        }
        self.limited += 1;
        // What is no query is not asked again by TCP.
        let is_query = self.queries.get(at).is_some_and(|query| query.unreadable.is_none());
        if is_query && self.limited.is_multiple_of(2) { Response::Slip } else { Response::None(DropReason::DnsRate) }
    }

    /// Gives the query to the resolver. Returns whether there was room.
    #[cold]
    fn forward<A>(&mut self, at: usize, frame: &mut Frame, packet: &Packet<A>, client: IpAddr, now: Instant) -> bool {
        // One has been taken already.
        let may = self.rates.as_mut().is_none_or(|rates| rates.of(client).take_many(FORWARDED - 1, now));
        let request = || {
            let (resolver, query) = (self.resolver.as_ref()?, self.queries.get(at)?);
            let end = packet.l4 + udp::LEN;
            let mut headers = [0; HEADERS];
            headers.get_mut(..end)?.copy_from_slice(frame.bytes().get(..end)?);
            let way = Way { port: frame.received_on(), own: packet.own, headers, l4: u8::try_from(packet.l4).ok()? };
            let (head, len) = query.head(frame.bytes().get(end..)?)?;
            let request = Request { worker: self.worker, way, client, head, len, edns: query.edns };
            resolver.push(request).then_some(())
        };
        let is_taken = may && request().is_some();
        self.totals.forwarded += u64::from(is_taken);
        is_taken
    }

    /// SERVFAIL for a query that the resolver has no room for.
    #[cold]
    fn refuse<A>(&mut self, at: usize, frame: &mut Frame, packet: &Packet<A>) -> Result<Answered, NoAnswer> {
        let query = self.queries.get(at).ok_or(NoAnswer::NotAQuery)?;
        let message = frame.buffer_mut().get_mut(packet.l4 + udp::LEN..).ok_or(NoAnswer::NoRoom)?;
        answer::fail(query, message, Rule::Busy)
    }

    /// Copies the totals to the worker's counters.
    pub(crate) fn report(&self, counters: &WorkerCounters) {
        self.totals.report(counters);
    }
}

/// Answers the queries of a burst.
pub(crate) fn answer<I: Ip>(
    server: &mut Server,
    frames: &mut [Frame],
    packets: &[Packet<I::Address>],
    outcomes: &mut [Outcome; BURST],
    tables: &Tables,
    now: Instant,
) {
    let names = tables.zone().names();
    let mut readable = 0u64;
    for (at, (packet, query)) in packets.iter().zip(server.queries.iter_mut()).enumerate() {
        let Some(frame) = frames.get_mut(usize::from(packet.frame)) else { continue };
        let (start, len) = message(frame, packet);
        let is_read = frame.buffer_mut().get(start..).and_then(|message| query.read(message, len, names.seed()));
        if is_read.is_some() {
            readable |= 1 << at;
            prefetch(names.slot(query.name.hash()));
        }
    }
    for query in server.queries.iter().take(packets.len()) {
        // What was not read has the hash of an earlier query: it is looked up in vain.
        if let Some(node) = names.candidate(query.name.hash()) {
            prefetch(node);
            prefetch(node.wrapping_add(64));
        }
    }
    for (at, packet) in packets.iter().enumerate() {
        let index = usize::from(packet.frame) % BURST;
        if let Some(frame) = frames.get_mut(index) {
            let action = match (classify::dns(packet, tables), readable >> at & 1) {
                (Some(Verdict::Drop(reason)), _) => Action::Drop(reason),
                (_, 1) => one::<I>(server, at, frame, packet, tables, now),
                _ => Action::Drop(DropReason::DnsMalformed),
            };
            outcomes[index] = Outcome::of(action);
        }
    }
}

/// Where the message starts in the frame, and its length.
#[inline]
fn message<A>(frame: &Frame, packet: &Packet<A>) -> (usize, usize) {
    let length = Udp::at(frame.bytes(), packet.l4).map_or(0, Udp::length);
    (packet.l4 + udp::LEN, length.min(packet.l4_len).saturating_sub(udp::LEN))
}

/// Turns the query in the frame, the `at`th that was read, into its answer.
#[inline]
fn one<I: Ip>(
    server: &mut Server,
    at: usize,
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    tables: &Tables,
    now: Instant,
) -> Action {
    let client: IpAddr = packet.key.src.into();
    let response = server.admit(at, client, now);
    let Some(query) = server.queries.get(at) else { return Action::Drop(DropReason::DnsMalformed) };
    let rtype = query.rtype;
    let start = packet.l4 + udp::LEN;
    let Some(message) = frame.buffer_mut().get_mut(start..) else { return Action::Drop(DropReason::NoRoomForAnswer) };
    let answered = match response {
        Response::Answer => answer::respond(query, message, tables.zone(), Some(client)),
        Response::Slip => answer::slip(query, message),
        Response::None(reason) => return Action::Drop(reason),
    };
    let answered = match answered {
        Err(NoAnswer::Forward) => {
            if server.forward(at, frame, packet, client, now) {
                return Action::Consume;
            }
            server.refuse(at, frame, packet)
        }
        other => other,
    };
    let written = match answered {
        Ok(answered) => address::<I>(frame, packet, answered.len).map(|()| answered),
        Err(NoAnswer::NotAQuery) => return Action::Drop(DropReason::DnsMalformed),
        Err(NoAnswer::NoRoom | NoAnswer::Forward) => None,
    };
    match (written, response) {
        (Some(_), Response::Slip) => server.totals.slipped += 1,
        (Some(answered), _) => server.totals.count(rtype, &answered),
        (None, _) => return Action::Drop(DropReason::NoRoomForAnswer),
    }
    Action::Send(frame.received_on())
}

/// Makes the frame, which holds the headers of a query, the response to it.
pub(crate) fn reply(frame: &mut Frame, reply: &Reply) -> Option<()> {
    let at = usize::from(reply.way.l4) + udp::LEN;
    let message = reply.message.get(..reply.len)?;
    frame.buffer_mut().get_mut(at..at + message.len())?.copy_from_slice(message);
    match Ethernet::at(frame.bytes(), 0)?.ether_type() {
        ethernet::IPV4 => respond::<Ipv4>(frame, &reply.way, message.len()),
        ethernet::IPV6 => respond::<Ipv6>(frame, &reply.way, message.len()),
        _ => None,
    }
}

fn respond<I: Ip>(frame: &mut Frame, way: &Way, len: usize) -> Option<()> {
    let l4 = usize::from(way.l4);
    let (ip, ports) = (I::at(frame.bytes(), ethernet::LEN)?, Udp::at(frame.bytes(), l4)?);
    let (src_port, dst_port) = (ports.src_port(), ports.dst_port());
    let key = FlowKey { src: ip.src(), dst: ip.dst(), src_port, dst_port, protocol: udp::PROTOCOL };
    address::<I>(frame, &Packet { key, l4, own: way.own, ..Packet::new() }, len)
}

/// Addresses the answer of `len` bytes, in place behind the UDP header, back to the client.
#[inline]
fn address<I: Ip>(frame: &mut Frame, packet: &Packet<I::Address>, len: usize) -> Option<()> {
    let (key, l4) = (packet.key, packet.l4);
    let udp_len = udp::LEN + len;
    let end = l4 + udp_len;
    if end > frame.room() {
        return None;
    }
    let mut header = Udp::make(key.dst_port, key.src_port, u16::try_from(udp_len).ok()?);
    let message = frame.buffer_mut().get(l4 + udp::LEN..end)?;
    let pseudo = checksum::pseudo(key.dst, key.src, udp::PROTOCOL, udp_len);
    header.set_checksum(!checksum::fold(pseudo + checksum::sum(header.as_bytes()) + checksum::sum(message)));
    frame.buffer_mut().get_mut(l4..l4 + udp::LEN)?.copy_from_slice(header.as_bytes());
    frame.set_len(end);
    frame.set_offload(Offload::default());
    rewrite::set_total_len::<I>(frame, u16::try_from(end - ethernet::LEN).ok()?);
    rewrite::reply_in_place::<I>(frame, packet.own);
    Some(())
}

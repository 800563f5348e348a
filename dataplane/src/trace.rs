//! What would become of a packet: the decisions of the packet path, without the packet.
//!
//! ```text
//!  DNS? → flow ──known──────────────────────────────────────→ next hop → PacketTrace
//!          └─not─→ pipeline::choose (classify, steer, select) → open::plain, open::source ──↗
//! ```
//!
//! Every decision is made by the function that makes it for packets, and nothing is changed: no flow opens or expires, no
//! client is remembered, nothing is counted. What depends on chance (the source port) or on the moment (rates, a full table) is left open.

use std::net::{IpAddr, SocketAddr};

use pollgate_common::flow::{Address, FlowKey, Protocol};
use pollgate_common::tables::Tables;
use pollgate_common::time::{Instant, Ticks};
use pollgate_common::trace::{self, End, KnownFlow, PacketTrace, Policy, SentPacket, Told, TracedPacket};

use crate::classify::{self, Destination};
use crate::flow::FlowTable;
use crate::flow::life::Side;
use crate::flow::table::peer;
use crate::inspect::record;
use crate::packet::{Packet, Refusal, Transport, Verdict};
use crate::pipeline;
use crate::select::{self, Choice};
use crate::snat::{Sender, Source};
use crate::state::{Lane, Shared, State};
use crate::wire::Ip;
use crate::wire::sctp::{Kind, Message};
use crate::wire::tcp;
use crate::{open, snat};

/// Hop limit of a traced packet.
const HOP_LIMIT: u8 = 64;

/// What this worker would do with the packet.
pub(crate) fn packet(state: &State, packet: &TracedPacket, tables: &Tables, now: Instant) -> PacketTrace {
    let mut trace = PacketTrace {
        worker: state.shared.worker,
        owner: state.shared.worker,
        generation: tables.generation(),
        is_dns: false,
        flow: None,
        destination: None,
        policy: None,
        choice: None,
        sent: None,
        next_hop: None,
        reply: None,
        end: End::Elsewhere,
    };
    match packet.from.ip() {
        IpAddr::V4(_) => lane(&state.shared, &state.v4, packet, tables, now, &mut trace),
        IpAddr::V6(_) => lane(&state.shared, &state.v6, packet, tables, now, &mut trace),
    }
    trace
}

fn lane<I: Ip>(
    shared: &Shared,
    lane: &Lane<I>,
    traced: &TracedPacket,
    tables: &Tables,
    now: Instant,
    trace: &mut PacketTrace,
) {
    let Some(mut packet) = first_packet(traced, tables) else { return };
    packet.hash = lane.flows.hash(&packet.key);
    let verdict =
        decide::<I::Address>(shared, &lane.flows, packet, tables, now, trace).unwrap_or_else(|verdict| verdict);
    if let Verdict::HandOver(owner) | Verdict::HandOn(owner) = verdict {
        trace.owner = owner;
    }
    trace.end = end::<I::Address>(verdict, tables);
}

/// The packet that would open a flow. `None` if its addresses are of two families.
fn first_packet<A: Address>(traced: &TracedPacket, tables: &Tables) -> Option<Packet<A>> {
    let (src, dst) = (A::from_ip(traced.from.ip())?, A::from_ip(traced.to.ip())?);
    let (src_port, dst_port) = (traced.from.port(), traced.to.port());
    let mut packet = Packet::new();
    packet.key = FlowKey { src, dst, src_port, dst_port, protocol: traced.protocol.number() };
    packet.hop_limit = HOP_LIMIT;
    let net = tables.net();
    // What the host sends comes by the host pair.
    if net.is_behind_pair(src.into())
        && let Ok(pair) = net.next_hop(src.into())
    {
        packet.own = pair.src;
    }
    packet.transport = match traced.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp(Message { tag: 0, kind: Kind::Init(1) }),
    };
    if traced.protocol == Protocol::Tcp {
        packet.segment.flags = tcp::SYN;
    }
    Some(packet)
}

/// As [`pipeline`] decides, without acting.
fn decide<A: Address>(
    shared: &Shared,
    flows: &FlowTable<A>,
    packet: Packet<A>,
    tables: &Tables,
    now: Instant,
    trace: &mut PacketTrace,
) -> Result<Verdict, Verdict> {
    if let Some(verdict) = classify::dns(&packet, tables) {
        trace.is_dns = true;
        return Ok(verdict);
    }
    let destination = Destination::of(&packet, tables);
    trace.destination = destination.ok().map(shown);
    if !packet.can_have_flow() {
        return Ok(classify::without_flow(&packet, tables));
    }
    if let Some(index) = known(flows, &packet, tables, now.ticks()) {
        return Ok(in_flow(flows, index, tables, now.ticks(), trace));
    }
    if let Ok(frontend) = classify::new_flow(&packet, destination?, tables)
        && let Some(service) = tables.service(frontend.service)
    {
        let sender = select::sender(&packet, tables);
        let snat::Policy { local, snat } = snat::policy(frontend.kind, service, sender, tables.settings().masquerade);
        trace.policy = Some(Policy { local, snat, sender: who(sender) });
    }
    let choice = pipeline::choose(shared, &packet, tables, now)?;
    opened(flows, &packet, &choice, tables, now.ticks(), trace)
}

/// The index of the flow that the packet belongs to, if a packet in the middle of it would find it.
fn known<A: Address>(flows: &FlowTable<A>, packet: &Packet<A>, tables: &Tables, now: Ticks) -> Option<u32> {
    let index = flows.find(packet.hash, &packet.key).filter(|&index| !flows.is_expired(index, now))?;
    let entry = flows.entry(index);
    (pipeline::is_checked(entry, tables) || open::serves(entry, tables)).then_some(index)
}

fn in_flow<A: Address>(
    flows: &FlowTable<A>,
    index: u32,
    tables: &Tables,
    now: Ticks,
    trace: &mut PacketTrace,
) -> Verdict {
    let (entry, other) = (flows.entry(index), flows.entry(peer(index)));
    let is_from_client = entry.state.side() == Side::Client;
    let flow = if is_from_client { record(entry, other, now) } else { record(other, entry, now) };
    trace.flow = Some(KnownFlow { flow, is_from_client });
    let to = &entry.translation.to;
    sent((to.src, Some(to.src_port)), (to.dst, to.dst_port), other.translation.to.dst, tables, trace)
}

/// The packet as the flow that it opens sends it on.
fn opened<A: Address>(
    flows: &FlowTable<A>,
    packet: &Packet<A>,
    choice: &Choice,
    tables: &Tables,
    now: Ticks,
    trace: &mut PacketTrace,
) -> Result<Verdict, Verdict> {
    let backend = SocketAddr::new(choice.backend.address, choice.backend.port);
    let snat = choice.source != Source::Client;
    trace.choice = Some(trace::Choice { backend, kept: choice.kept, snat });
    let plain = open::plain(packet, choice)?;
    let to = (plain.dst, plain.dst_port);
    if let Some(source) = open::source(packet.key.src, choice, tables)? {
        return Ok(sent((source, None), to, packet.key.src, tables, trace));
    }
    let reply = plain.reversed();
    let taken = flows.find(flows.hash(&reply), &reply).is_some_and(|index| !flows.is_expired(index, now));
    Ok(sent((plain.src, (!taken).then_some(plain.src_port)), to, packet.key.src, tables, trace))
}

/// Sent on from `source` to `to`; the reply goes to `back`.
fn sent<A: Address>(
    (source, port): (A, Option<u16>),
    (dst, dst_port): (A, u16),
    back: A,
    tables: &Tables,
    trace: &mut PacketTrace,
) -> Verdict {
    let next = tables.net().next_hop(dst.into());
    trace.sent = Some(SentPacket { source: source.into(), port, to: SocketAddr::new(dst.into(), dst_port) });
    trace.next_hop = Some(next);
    trace.reply = Some(tables.net().next_hop(back.into()));
    pipeline::towards(next.as_ref().map_err(|no| *no))
}

fn who(sender: Sender) -> trace::Sender {
    match sender {
        Sender::Pod => trace::Sender::Pod,
        Sender::Node => trace::Sender::Node,
        Sender::Outside => trace::Sender::Outside,
    }
}

fn shown(destination: Destination) -> trace::Destination {
    match destination {
        Destination::Frontend(frontend) => trace::Destination::Frontend(frontend),
        Destination::UndefinedPort(kind) => trace::Destination::UndefinedPort(kind),
        Destination::Unowned => trace::Destination::Unowned,
    }
}

fn end<A: Address>(verdict: Verdict, tables: &Tables) -> End {
    // A reply comes from a gateway address of the family, if there is one.
    let is_answered = || snat::first_address::<A>(tables.settings()).is_some();
    match verdict {
        Verdict::Send(_) => End::Sent,
        Verdict::EchoReply | Verdict::DnsReply => End::Answered,
        Verdict::Refuse(reason, Refusal::Reset) => End::Refused(reason, Told::Reset),
        Verdict::Refuse(reason, Refusal::Abort) => End::Refused(reason, Told::Abort),
        Verdict::Refuse(reason, _) if !is_answered() => End::Dropped(reason),
        Verdict::Refuse(reason, Refusal::PortUnreachable) => End::Refused(reason, Told::PortUnreachable),
        Verdict::Refuse(reason, Refusal::TimeExceeded) => End::Refused(reason, Told::TimeExceeded),
        Verdict::Refuse(reason, Refusal::TooBig(mtu)) => End::Refused(reason, Told::TooBig(mtu)),
        Verdict::Pend | Verdict::Hold(_) => End::Held,
        Verdict::HandOver(_) | Verdict::HandOn(_) => End::Elsewhere,
        Verdict::Pass(reason) => End::Passed(reason),
        Verdict::Drop(reason) => End::Dropped(reason),
    }
}

//! Opening a flow: the chosen backend becomes a translation, and the translation two entries of the flow table.

use pollgate_common::flow::{Address, FlowKey, Protocol};
use pollgate_common::reasons::DropReason;
use pollgate_common::tables::{FrontendKey, Tables};
use pollgate_common::time::{Instant, Ticks};

use crate::classify;
use crate::flow::room::{self, Room};
use crate::flow::sequence::Numbers;
use crate::flow::table::{CANDIDATES, FlowOrigin, Full};
use crate::flow::{Entry, FlowTable, tags};
use crate::packet::{Packet, Transport, Verdict};
use crate::reply::reject;
use crate::select::Choice;
use crate::snat::{self, Source};
use crate::state::Shared;
use crate::steer::Towards;

const _: () = assert!(snat::TRIES as usize <= CANDIDATES, "or a search for a port allocates");

/// Opens the flow of `packet`, its first, as chosen. Returns the index of the entry of its client direction. The flows of the
/// other family, in `other`, count towards the same limits.
pub(crate) fn flow<A: Address>(
    shared: &mut Shared,
    flows: &mut FlowTable<A>,
    other: &mut dyn Room,
    packet: &Packet<A>,
    choice: &Choice,
    tables: &Tables,
    now: Instant,
) -> Result<u32, Verdict> {
    if !shared.new_flows.take(now) {
        return Err(Verdict::Drop(DropReason::NewFlowRate));
    }
    let now = now.ticks();
    let to = target(shared, flows, packet, choice, tables, now)?;
    let origin = FlowOrigin {
        service: choice.service,
        backend: choice.slot,
        backend_incarnation: choice.backend.incarnation,
        generation: low(tables.generation()),
    };
    let opened = room::make(flows, other, now)
        .and_then(|()| flows.open(packet.key, to, origin, numbers(packet), now))
        .map_err(|Full| Verdict::Drop(DropReason::FlowTableFull))?;
    if choice.source == Source::Pair && classify::is_for_dns(&packet.key, &tables.settings().dns) {
        shared.dns_clients.note(to.src_port, packet.key.src.into());
    }
    Ok(opened)
}

/// What both sides expect of the connection that the packet opens.
fn numbers<A>(packet: &Packet<A>) -> Numbers {
    match packet.transport {
        Transport::Tcp => Numbers::opened_by(&packet.segment),
        Transport::Sctp(message) => tags::opened_by(&message),
        Transport::Udp | Transport::Icmp(_) | Transport::Other => Numbers::default(),
    }
}

/// Whether the backend of the UDP flow at `index` still serves, now that the tables have moved on; notes so if it does.
#[cold]
pub(crate) fn still_serves<A: Address>(flows: &mut FlowTable<A>, index: u32, tables: &Tables) -> bool {
    let entry = flows.entry_mut(index);
    let serves = serves(entry, tables);
    if serves {
        entry.mark = low(tables.generation());
    }
    serves
}

/// Whether the backend of a flow serves under these tables.
pub(crate) fn serves<A: Address>(entry: &Entry<A>, tables: &Tables) -> bool {
    let service = tables.service_by_id(entry.service_id());
    service.is_some_and(|service| service.still_serves(entry.backend, entry.backend_incarnation))
}

/// The part of a generation that an entry keeps.
pub(crate) fn low(generation: u64) -> u32 {
    u32::try_from(generation & 0xffff_ffff).unwrap_or(0)
}

/// What the client's packets become. If the backend already knows this client's address and port from another
/// Service, the replies of both would look alike: then the source port is another one, unless that would break a connection
/// that was taken over.
fn target<A: Address>(
    shared: &mut Shared,
    flows: &mut FlowTable<A>,
    packet: &Packet<A>,
    choice: &Choice,
    tables: &Tables,
    now: Ticks,
) -> Result<FlowKey<A>, Verdict> {
    let plain = plain(packet, choice)?;
    if let Some(src) = source(packet.key.src, choice, tables)? {
        return translated(shared, flows, &plain, src, tables, now);
    }
    if flows.make_free(&plain.reversed(), now) {
        return Ok(plain);
    }
    if choice.mid_stream {
        return Err(reject::no_flow(packet));
    }
    from_another_port(shared, flows, &plain, tables, now)
}

/// The packet as it would go to the chosen backend with its source as it is.
pub(crate) fn plain<A: Address>(packet: &Packet<A>, choice: &Choice) -> Result<FlowKey<A>, Verdict> {
    let dst = A::from_ip(choice.backend.address).ok_or(Verdict::Drop(DropReason::RejectNoEndpoints))?;
    Ok(FlowKey { dst, dst_port: choice.backend.port, ..packet.key })
}

/// The address that takes the client's place; `None` if the client keeps its own.
pub(crate) fn source<A: Address>(client: A, choice: &Choice, tables: &Tables) -> Result<Option<A>, Verdict> {
    let settings = tables.settings();
    let src = match choice.source {
        Source::Client => return Ok(None),
        Source::Gateway => snat::address(settings, settings.ring_hash.source(client.into())),
        Source::Pair => snat::pair_address(),
    };
    src.map(Some).ok_or(Verdict::Drop(DropReason::SnatPortsExhausted))
}

/// `plain` with the client's address and another port of those that this worker owns, such that the reply's key is free.
fn from_another_port<A: Address>(
    shared: &mut Shared,
    flows: &mut FlowTable<A>,
    plain: &FlowKey<A>,
    tables: &Tables,
    now: Ticks,
) -> Result<FlowKey<A>, Verdict> {
    let seed = shared.random.next();
    let with = |src_port| FlowKey { src_port, ..*plain };
    let owner = |to: &FlowKey<A>| shared.steering.owner(&to.reversed(), Towards::Client, tables.settings());
    let candidates =
        snat::client_ports(seed).map(with).filter(|to| owner(to) == shared.worker).take(snat::TRIES as usize);
    free(flows, candidates, now)
}

/// `plain` with the source `src`, and a port of the worker's share such that the reply's key is free.
fn translated<A: Address>(
    shared: &mut Shared,
    flows: &mut FlowTable<A>,
    plain: &FlowKey<A>,
    src: A,
    tables: &Tables,
    now: Ticks,
) -> Result<FlowKey<A>, Verdict> {
    let protocol = Protocol::from_number(plain.protocol).ok_or(Verdict::Drop(DropReason::Protocol))?;
    // A Service may have an external IP that is a gateway address: its ports are not for sources.
    let frontend = |port| tables.frontend(&FrontendKey { address: src.into(), port, protocol }).is_some();
    let ports = shared.ports.candidates(shared.random.next()).filter(|&port| !frontend(port));
    free(flows, ports.map(|src_port| FlowKey { src, src_port, ..*plain }), now)
}

/// The first candidate whose reply's key is free, or can be made free.
fn free<A: Address>(
    flows: &mut FlowTable<A>,
    candidates: impl Iterator<Item = FlowKey<A>> + Clone,
    now: Ticks,
) -> Result<FlowKey<A>, Verdict> {
    let replies = candidates.map(FlowKey::reversed);
    // One of the first two is nearly always free. The backend may still hold its end of a flow that is over (TIME_WAIT, RFC 9293
    // §3.3.2) and turn away the first try of one that looks the same: such a port is the second choice. The ports towards one
    // backend are few: a flood from spoofed sources must not keep them.
    let unused = replies.clone().take(2).find(|reply| flows.live_index(reply, now).is_none());
    let taken = unused.or_else(|| flows.free_key(replies, now)).map(FlowKey::reversed);
    taken.ok_or(Verdict::Drop(DropReason::SnatPortsExhausted))
}

//! Selection: a new flow gets its backend, and is remembered.
//!
//! The choice is Maglev's: a keyed hash of the 5-tuple (of the source address alone under ClientIP affinity) picks from
//! the pool's ring, so every gateway with the same configuration chooses the same backend.
//!
//! A TCP segment in the middle of a connection nobody here knows may open a flow the same way: that is fail-over, the
//! other gateway chose by the same ring. Not with RST or SYN, not without ACK, and only where the source is not translated, since the
//! port the other gateway chose is not known.

use std::net::IpAddr;

use pollgate_common::flow::{Address, FlowKey, Protocol};
use pollgate_common::reasons::DropReason;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::{Backend, Frontend, FrontendKey, FrontendKind, ServicePort, Tables};
use pollgate_common::time::{Instant, Ticks};

use crate::flow::entry::CLOSING;
use crate::flow::table::FlowOrigin;
use crate::packet::{Kind, Packet, Verdict};
use crate::port::Frame;
use crate::reply::reject;
use crate::snat::{self, Policy};
use crate::wire::tcp;
use crate::worker::State;

/// Opens the flow of `packet` towards `frontend`; answers its index, or what becomes of the packet instead.
#[cold]
pub(crate) fn open(
    state: &mut State,
    frame: &mut Frame,
    packet: &Packet,
    frontend: Frontend,
    tables: &Tables,
    now: Instant,
) -> Result<u32, Verdict> {
    let settings = tables.settings();
    let service = tables.service(frontend.service).ok_or(Verdict::Drop(DropReason::UndefinedPort))?;
    let from = IpAddr::V4(packet.key.src.0);
    if frontend.kind == FrontendKind::LoadBalancer && !lets_in(service, from) {
        return Err(Verdict::Drop(DropReason::SourceNotAllowed));
    }
    let policy = snat::policy(frontend.kind, service, settings.is_pod(from), settings.masquerade_all);
    let (slot, backend) = choose(service, policy, &packet.key, settings).map_err(|refusal| match refusal {
        DropReason::RejectNoEndpoints => reject::refuse(frame, packet, refusal, settings),
        reason => Verdict::Drop(reason),
    })?;
    let snat = policy.snat || from == backend.address;
    let joins = packet.kind == Kind::Tcp && packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) != tcp::SYN;
    if joins && (snat || packet.tcp_flags & (tcp::SYN | tcp::RST | tcp::ACK) != tcp::ACK) {
        return Err(Verdict::Drop(DropReason::TcpNoFlow));
    }
    let to = target(state, packet.key, backend, snat, joins, tables, now.ticks()).map_err(Verdict::Drop)?;
    let generation = low(tables.generation());
    let owner = FlowOrigin { service: service.id, backend: slot, backend_incarnation: backend.incarnation, generation };
    let index =
        state.flows.open(packet.key, to, owner, now.ticks()).map_err(|_| Verdict::Drop(DropReason::FlowTableFull))?;
    state.opened(service.id.index);
    Ok(index)
}

/// Whether the backend of the UDP flow at `index` still serves, now that the tables have moved on; notes so if it does.
#[cold]
pub(crate) fn still_serves(state: &mut State, index: u32, tables: &Tables) -> bool {
    let entry = state.flows.entry_mut(index);
    let service = tables.service_by_id(entry.service_id());
    let serves = service.is_some_and(|service| service.still_serves(entry.backend, entry.backend_incarnation));
    if serves {
        entry.generation = low(tables.generation());
    }
    serves
}

fn low(generation: u64) -> u32 {
    u32::try_from(generation & 0xffff_ffff).unwrap_or(0)
}

fn lets_in(service: &ServicePort, from: IpAddr) -> bool {
    if service.source_ranges.is_empty() {
        return !service.closed_to_family;
    }
    service.source_ranges.iter().any(|range| range.contains(&from))
}

fn choose<'a, A: Address>(
    service: &'a ServicePort,
    policy: Policy,
    key: &FlowKey<A>,
    settings: &DataplaneSettings,
) -> Result<(u16, &'a Backend), DropReason> {
    if !service.has_any {
        return Err(DropReason::RejectNoEndpoints);
    }
    let (src, dst): (IpAddr, IpAddr) = (key.src.into(), key.dst.into());
    let protocol = Protocol::from_number(key.protocol).ok_or(DropReason::Protocol)?;
    let hash = match service.client_ip_affinity {
        true => settings.ring_hash.source(src),
        false => settings.ring_hash.flow(src, dst, key.src_port, key.dst_port, protocol),
    };
    let pool = if policy.local { &service.local } else { &service.cluster };
    let nobody = if policy.local { DropReason::NoLocalEndpoints } else { DropReason::RejectNoEndpoints };
    service.choose(pool, hash).ok_or(nobody)
}

/// What the client's packets become. Where the backend already knows this client's address and port from another Service,
/// the replies of both would look alike: then the source is translated too, unless that would break a joined connection.
fn target<A: Address>(
    state: &mut State<A>,
    key: FlowKey<A>,
    backend: &Backend,
    snat: bool,
    joins: bool,
    tables: &Tables,
    now: Ticks,
) -> Result<FlowKey<A>, DropReason> {
    let dst = A::from_ip(backend.address).ok_or(DropReason::RejectNoEndpoints)?;
    let plain = FlowKey { dst, dst_port: backend.port, ..key };
    if !snat {
        if is_free(state, &plain, now) {
            return Ok(plain);
        }
        if joins {
            return Err(DropReason::TcpNoFlow);
        }
    }
    let settings = tables.settings();
    let client = settings.ring_hash.source(key.src.into());
    let src: A = snat::address(settings, client).ok_or(DropReason::SnatPortsExhausted)?;
    let protocol = Protocol::from_number(key.protocol).ok_or(DropReason::Protocol)?;
    // A Service may have an external IP that is a gateway address: its ports are not for sources.
    let frontend = |port| tables.frontend(&FrontendKey { address: src.into(), port, protocol }).is_some();
    let ports = state.ports.candidates(state.random.next()).filter(|&port| !frontend(port));
    let mut candidates = ports.map(|src_port| FlowKey { src, src_port, ..plain });
    // The backend may still hold its end of a flow that is over (TIME_WAIT, RFC 9293 §3.3.2) and turn away the first try of
    // one that looks the same: such a port is the second choice.
    let unused = candidates.clone().find(|to| known(state, to, now).is_none());
    unused.or_else(|| candidates.find(|to| is_free(state, to, now))).ok_or(DropReason::SnatPortsExhausted)
}

/// Whether replies to `to` are nobody's yet. A flow that is over, but not swept away yet, makes room.
fn is_free<A: Address>(state: &mut State<A>, to: &FlowKey<A>, now: Ticks) -> bool {
    let Some(index) = known(state, to, now) else { return true };
    let over = state.flows.entry(index).is(CLOSING);
    if over {
        state.flows.close(index);
    }
    over
}

/// The flow that replies to `to` belong to.
fn known<A: Address>(state: &mut State<A>, to: &FlowKey<A>, now: Ticks) -> Option<u32> {
    let reply = to.reversed();
    let index = state.flows.find(state.flows.hash(&reply), &reply)?;
    (!state.flows.expire(index, now)).then_some(index)
}

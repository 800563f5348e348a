//! Selection: which backend a new flow gets, and whether its source is translated.
//!
//! The choice is the ring's: a keyed hash of the 5-tuple (of the source address alone under ClientIP affinity) picks from
//! the pool's ring, so every gateway with the same configuration picks the same backend. Under ClientIP affinity a backend that the client
//! was given before comes first ([`crate::affinity`]).
//!
//! A TCP segment in the middle of an unknown connection may open a flow the same way: that is fail-over, since the other
//! gateway picked by the same ring. Not with RST or SYN, not without ACK, and only where the source is not translated: the
//! source port that the other gateway chose is not known here. The same holds for SCTP: not with ABORT, INIT or INIT ACK.
//!
//! Nothing here changes anything: from a packet, the tables and what is remembered of its client to a choice or a verdict.

use std::net::IpAddr;
use std::time::Duration;

use pollgate_common::flow::{Address, FlowKey, Protocol};
use pollgate_common::reasons::DropReason;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::{Backend, Frontend, FrontendKind, Pool, ServiceId, ServicePort, Tables};
use pollgate_common::time::Ticks;

use crate::affinity::{Affinity, Client};
use crate::flow::life::Signal;
use crate::packet::{Packet, Transport, Verdict};
use crate::reply::reject;
use crate::snat::{self, Policy, Sender, Source};

/// What a new flow gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The service port.
    pub(crate) service: ServiceId,
    /// The backend's slot in it.
    pub(crate) slot: u16,
    /// The backend.
    pub(crate) backend: Backend,
    /// What the Service's traffic policy says.
    pub(crate) policy: Policy,
    /// The client had the backend before; it was not the ring that chose it.
    pub(crate) kept: bool,
    /// The source its packets get.
    pub(crate) source: Source,
    /// The packet is from the middle of a connection that another gateway opened.
    pub(crate) mid_stream: bool,
    /// How long the client keeps the backend, if it does.
    pub(crate) affinity: Option<Duration>,
}

/// The backend for the flow that `packet` opens to `frontend`.
pub(crate) fn choose<A: Address>(
    packet: &Packet<A>,
    frontend: Frontend,
    tables: &Tables,
    affinity: &Affinity,
    now: Ticks,
) -> Result<Choice, Verdict> {
    let settings = tables.settings();
    let service = tables.service(frontend.service).ok_or(Verdict::Drop(DropReason::UndefinedPort))?;
    let from = packet.key.src.into();
    let sender = sender(packet, tables);
    if frontend.kind == FrontendKind::LoadBalancer && !lets_in(service, from, sender, settings) {
        return Err(Verdict::Drop(DropReason::SourceNotAllowed));
    }
    let policy = snat::policy(frontend.kind, service, sender, settings.masquerade);
    let pool = if policy.local { &service.local } else { &service.cluster };
    let kept = kept(from, service, pool, affinity, now);
    let (slot, backend) = match kept {
        Some(kept) => kept,
        None => backend(packet, service, policy, pool, settings)?,
    };
    let source = match policy.snat || from == backend.address {
        _ if tables.net().is_behind_pair(backend.address) => Source::Pair,
        true => Source::Gateway,
        false => Source::Client,
    };
    let mid_stream = is_mid_stream(packet);
    if mid_stream && (source != Source::Client || !can_take_over(packet.signal())) {
        return Err(reject::no_flow(packet));
    }
    let affinity = service.client_ip_affinity;
    let (backend, kept) = (*backend, kept.is_some());
    Ok(Choice { service: service.id, slot, backend, policy, kept, source, mid_stream, affinity })
}

/// The backend that the client was given before, if the Service remembers and `pool` has it.
fn kept<'a>(
    from: IpAddr,
    service: &'a ServicePort,
    pool: &Pool,
    affinity: &Affinity,
    now: Ticks,
) -> Option<(u16, &'a Backend)> {
    service.client_ip_affinity?;
    let endpoint = affinity.remembered(Client { service: service.id, address: from }, now)?;
    service.chosen_before(pool, endpoint.slot, endpoint.incarnation)
}

/// Who sends the packet.
pub(crate) fn sender<A: Address>(packet: &Packet<A>, tables: &Tables) -> Sender {
    match tables.settings().is_pod(packet.key.src.into()) {
        _ if tables.net().is_pair(packet.own) => Sender::Node,
        true => Sender::Pod,
        false => Sender::Outside,
    }
}

/// Whether the Service's source ranges allow the client. The gateway's addresses are those of the node, as which the host connects
/// (Kubernetes `pkg/proxy/iptables/proxier.go`: ranges apply to the node too).
fn lets_in(service: &ServicePort, from: IpAddr, sender: Sender, settings: &DataplaneSettings) -> bool {
    if service.source_ranges.is_empty() {
        return !service.closed_to_family;
    }
    let allows = |address| service.source_ranges.iter().any(|range| range.contains(&address));
    allows(from) || sender == Sender::Node && settings.gateway_addresses().any(allows)
}

fn is_mid_stream<A: Address>(packet: &Packet<A>) -> bool {
    match packet.transport {
        Transport::Tcp | Transport::Sctp(_) => packet.signal() != Signal::Syn,
        Transport::Udp | Transport::Icmp(_) | Transport::Other => false,
    }
}

/// Whether a packet with this signal may open a flow in the middle of its connection.
fn can_take_over(signal: Signal) -> bool {
    match signal {
        Signal::Segment | Signal::Fin | Signal::End => true,
        Signal::Datagram | Signal::Syn | Signal::SynAck | Signal::Reset | Signal::Restart | Signal::Nothing => false,
    }
}

fn backend<'a, A: Address>(
    packet: &Packet<A>,
    service: &'a ServicePort,
    policy: Policy,
    pool: &Pool,
    settings: &DataplaneSettings,
) -> Result<(u16, &'a Backend), Verdict> {
    if !service.has_any {
        return Err(reject::verdict(packet, DropReason::RejectNoEndpoints));
    }
    let hash = ring_hash(&packet.key, service, settings)?;
    service.choose(pool, hash).ok_or_else(|| match policy.local {
        true => Verdict::Drop(DropReason::NoLocalEndpoints),
        false => reject::verdict(packet, DropReason::RejectNoEndpoints),
    })
}

fn ring_hash<A: Address>(
    key: &FlowKey<A>,
    service: &ServicePort,
    settings: &DataplaneSettings,
) -> Result<u64, Verdict> {
    let (src, dst): (IpAddr, IpAddr) = (key.src.into(), key.dst.into());
    let protocol = Protocol::from_number(key.protocol).ok_or(Verdict::Drop(DropReason::Protocol))?;
    Ok(match service.client_ip_affinity {
        Some(_) => settings.ring_hash.source(src),
        None => settings.ring_hash.flow(src, dst, key.src_port, key.dst_port, protocol),
    })
}

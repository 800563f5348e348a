//! One Service, compiled: a pure step from what it says to what the workers look at.
//!
//! Which endpoints may serve follows Kubernetes `pkg/proxy/topology.go`, CategorizeEndpoints: the ready ones, or, when
//! there are none, those that are terminating but still serving; computed apart for the cluster-wide set and the local
//! one, so that a node whose last Pod is on its way out does not send its clients away while others have ready Pods.
//! Among the ready ones of the cluster-wide set, topology hints may prefer some ([`super::topology`]); the local set ignores them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use pollgate_common::tables::{FrontendKey, FrontendKind, Pool, Service, Settings};

use super::ids::{Ids, PortName};
use super::maglev::Identity;
use super::rings::{Rings, TooMany};
use super::topology::{self, Place};
use crate::resolve::{Family, ResolvedEndpoint, ResolvedPort, ResolvedService};

/// What compiling needs to know besides the Service.
pub struct Context<'a> {
    /// The process' settings.
    pub settings: &'a Settings,
    /// Where this gateway stands.
    pub place: Place<'a>,
}

/// The ports of a Service a client can connect to, one for each family it has addresses of.
pub fn port_names(service: &ResolvedService) -> BTreeSet<(usize, Family)> {
    let addresses = service.cluster_ips.iter().chain(&service.load_balancer_ips).chain(&service.external_ips);
    let families: BTreeSet<Family> = addresses.map(|address| Family::of(*address)).collect();
    let ports = if service.headless { 0 } else { service.ports.len() };
    (0..ports).flat_map(|port| families.iter().map(move |&family| (port, family))).collect()
}

/// The name under which a port of a Service has its place.
pub fn port_name(service: &ResolvedService, port: &ResolvedPort, family: Family) -> PortName {
    PortName { service: service.name.clone(), port: port.name.clone(), protocol: port.protocol, family }
}

/// Compiles one port of `service` for one family.
pub fn compile(
    service: &ResolvedService,
    port: &ResolvedPort,
    family: Family,
    context: &Context<'_>,
    ids: &mut Ids,
    rings: &mut Rings,
) -> Result<Service, Error> {
    let endpoints: Vec<&ResolvedEndpoint> = port.endpoints.iter().filter(|e| Family::of(e.address) == family).collect();
    let cluster = usable(topology::preferred(&endpoints, context.place).into_iter());
    let local = usable(endpoints.iter().copied().filter(|e| context.place.is_local(e)));
    let rings = [rings.ring(&cluster)?, rings.ring(&local)?];
    let (id, slots) = ids.claim(&port_name(service, port, family))?;
    let alive = endpoints.iter().filter(|e| e.ready || e.serving);
    slots.assign(&alive.map(|e| ((e.address, e.port), true)).collect::<BTreeMap<Identity, bool>>());
    let order = |members: &[Identity]| members.iter().filter_map(|m| slots.slot(m)).collect::<Box<[u16]>>();
    let pool =
        |ring, members: &[Identity]| if members.is_empty() { Pool::empty() } else { Pool::new(ring, order(members)) };
    let [cluster_ring, local_ring] = rings;
    let (cluster_pool, local_pool) = (pool(cluster_ring, &cluster), pool(local_ring, &local));
    Ok(Service {
        id,
        name: display_name(service, port),
        frontends: frontends(service, port, family, context.settings),
        internal_local: service.internal_local,
        external_local: service.external_local,
        client_ip_affinity: service.affinity_timeout.is_some(),
        source_ranges: service
            .source_ranges
            .iter()
            .filter(|range| Family::of(range.addr()) == family)
            .copied()
            .collect(),
        closed_to_family: !service.source_ranges.is_empty()
            && service.source_ranges.iter().all(|range| Family::of(range.addr()) != family),
        backends: slots.backends().into(),
        has_any: !cluster.is_empty(),
        cluster: cluster_pool,
        local: local_pool,
        counted: Default::default(),
    })
}

/// Why a port could not be compiled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Too many endpoints.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// Too many services.
    #[error(transparent)]
    NoPlace(#[from] super::ids::NoPlace),
}

/// The ready ones, or else those that are terminating but serving; in order, each once.
fn usable<'a>(endpoints: impl Iterator<Item = &'a ResolvedEndpoint> + Clone) -> Vec<Identity> {
    let identity = |e: &ResolvedEndpoint| (e.address, e.port);
    let ready: BTreeSet<Identity> = endpoints.clone().filter(|e| e.ready).map(identity).collect();
    if !ready.is_empty() {
        return ready.into_iter().collect();
    }
    endpoints.filter(|e| e.serving && e.terminating).map(identity).collect::<BTreeSet<_>>().into_iter().collect()
}

fn frontends(
    service: &ResolvedService,
    port: &ResolvedPort,
    family: Family,
    settings: &Settings,
) -> Box<[(FrontendKey, FrontendKind)]> {
    let gateway =
        settings.gateway_v4.iter().map(|a| IpAddr::V4(*a)).chain(settings.gateway_v6.iter().map(|a| IpAddr::V6(*a)));
    let node_ports =
        port.node_port.into_iter().flat_map(|node_port| gateway.clone().map(move |address| (address, node_port)));
    let at_port = |addresses: &[IpAddr], kind| -> Vec<(IpAddr, u16, FrontendKind)> {
        addresses.iter().map(|&address| (address, port.port, kind)).collect()
    };
    let mut all = at_port(&service.cluster_ips, FrontendKind::ClusterIp);
    all.extend(node_ports.map(|(address, node_port)| (address, node_port, FrontendKind::NodePort)));
    all.extend(at_port(&service.load_balancer_ips, FrontendKind::LoadBalancer));
    all.extend(at_port(&service.external_ips, FrontendKind::External));
    let protocol = port.protocol;
    let mut seen = BTreeSet::new();
    let of_family = all.into_iter().filter(|(address, ..)| Family::of(*address) == family);
    of_family
        .map(|(address, port, kind)| (FrontendKey { address, port, protocol }, kind))
        .filter(|(key, _)| seen.insert(*key))
        .collect()
}

fn display_name(service: &ResolvedService, port: &ResolvedPort) -> Arc<str> {
    let name = &service.name;
    let port = if port.name.is_empty() { port.port.to_string() } else { port.name.clone() };
    format!("{}/{}:{port}", name.namespace, name.name).into()
}

//! One Service, compiled: from its draft and its indexes to what the workers read.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::{FrontendKey, FrontendKind, Pool, ServicePort};

use super::draft::{Choice, PortDraft, Share};
use super::ids::{Ids, NoIndex, PortName};
use super::rings::TooMany;
use crate::compile::resolve::{Family, ResolvedPort, ResolvedService};

/// The name under which a port of a Service has its index.
pub fn port_name(service: &ResolvedService, port: &ResolvedPort, family: Family) -> PortName {
    PortName { service: service.name.clone(), port: port.name.clone(), protocol: port.protocol, family }
}

/// Compiles one port of `service` for one family.
pub fn compile(
    service: &ResolvedService,
    draft: PortDraft,
    settings: &DataplaneSettings,
    ids: &mut Ids,
) -> Result<ServicePort, Error> {
    let (port, family) = (&service.ports[draft.at], draft.family);
    let Choice { alive, cluster, local } = draft.choice?;
    let (id, slots) = ids.claim(&port_name(service, port, family))?;
    slots.assign(&alive);
    let pool = |Share { members, ring }: Share| match &*members {
        [] => Pool::empty(),
        members => Pool::new(ring, members.iter().filter_map(|member| slots.slot(member)).collect()),
    };
    let (cluster, local) = (pool(cluster), pool(local));
    Ok(ServicePort {
        id,
        name: display_name(service, port),
        frontends: frontends(service, port, family, settings),
        internal_local: service.internal_local,
        external_local: service.external_local,
        client_ip_affinity: service.affinity_timeout,
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
        cluster,
        local,
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
    NoIndex(#[from] NoIndex),
}

fn frontends(
    service: &ResolvedService,
    port: &ResolvedPort,
    family: Family,
    settings: &DataplaneSettings,
) -> Box<[(FrontendKey, FrontendKind)]> {
    let node_ports = port
        .node_port
        .into_iter()
        .flat_map(|node_port| settings.gateway_addresses().map(move |address| (address, node_port)));
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

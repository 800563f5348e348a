//! ClusterIPs, node ports and LoadBalancer addresses.
//!
//! ```text
//! range       |<- static band ->|<------------- dynamic band ------------->|
//! requested   anywhere
//! assigned     2nd: from a hash of the name, walking   1st: likewise
//! ```
//!
//! The bands are Kubernetes' (KEP-3070 for addresses, KEP-3668 for node ports): a low number that is picked by hand does not
//! collide with one that was assigned before. The messages are those of `pkg/registry/core/service/{ipallocator,portallocator}`.
//!
//! Kubernetes assigns addresses at random. Here the search starts at a hash of the Service's name, so the same manifests
//! get the same addresses on every gateway and in every replay, and a Service that is deleted and created again gets its old address back.
//! What is taken follows from the objects themselves; there is no bitmap that could disagree with them.

use std::net::IpAddr;
use std::ops::Range;

use ahash::{HashMap, HashSet};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};

use crate::admission::validate;
use crate::cluster::index::ingress_addresses;
use crate::cluster::names::hash;
use crate::cluster::overlay::Overlay;
use crate::cluster::settings::{ClusterSettings, IpRange};
use crate::objects::Object;
use crate::objects::fault::{Fault, Faults};
use crate::objects::service::{Family, NONE, ServiceName, ServiceType, SpecExt, parse_ip};

const ALLOCATED: &str = "provided port is already allocated";

/// Settles `ipFamilyPolicy` and `ipFamilies` (K `pkg/registry/core/service/storage/alloc.go`, `initIPFamilyFields`). Without a
/// policy the previous one stays: leaving it out adds or removes no address.
pub(crate) fn settle_families(
    service: &mut Service,
    old: Option<&Service>,
    settings: &ClusterSettings,
    faults: &mut Faults,
) {
    let Some(spec) = service.spec.as_mut().filter(|spec| spec.needs_cluster_ip()) else {
        return;
    };
    let old = old.and_then(|old| old.spec.as_ref()).filter(|old| old.needs_cluster_ip());
    if old.is_some_and(|old| prefers_as_before(spec, old)) {
        return;
    }
    validate::addresses_and_families(spec, old, faults);
    if !faults.is_empty() {
        return; // What follows would only blur them.
    }
    let configured = settings.families();
    let mut families: Vec<Family> = spec.ip_families.iter().flatten().filter_map(|f| Family::parse(f)).collect();
    let detached = spec.is_headless() && spec.selector().is_none();
    let policy = spec.ip_family_policy.clone().or_else(|| old?.ip_family_policy.clone());
    let policy = policy.unwrap_or_else(|| if detached { "RequireDualStack" } else { "SingleStack" }.to_owned());
    check_counts(spec, old, &policy, faults);
    infer_from_addresses(spec, &mut families, &configured, faults);
    if !faults.is_empty() {
        return;
    }
    if !detached {
        check_families(&policy, &families, &configured, faults);
        if !faults.is_empty() {
            return;
        }
    }
    if families.is_empty() {
        families.extend(configured.first());
    }
    // A headless Service without a selector may have both where the cluster has one.
    let both = policy != "SingleStack" && (detached || configured.len() == 2);
    if let ([only], true) = (families.as_slice(), both) {
        families.push(if *only == Family::V4 { Family::V6 } else { Family::V4 });
    }
    spec.ip_families = Some(families.iter().map(|family| family.as_str().to_owned()).collect());
    spec.ip_family_policy = Some(policy);
}

/// A preference is acted upon when it is stated, and not again because the gateway's ranges have changed since.
fn prefers_as_before(spec: &ServiceSpec, old: &ServiceSpec) -> bool {
    let prefers = |spec: &ServiceSpec| spec.ip_family_policy.as_deref() == Some("PreferDualStack");
    let same = spec.cluster_ips == old.cluster_ips && spec.ip_families == old.ip_families;
    prefers(spec) && prefers(old) && same
}

/// Whether as many addresses and families are named as the policy has.
fn check_counts(spec: &ServiceSpec, old: Option<&ServiceSpec>, policy: &str, faults: &mut Faults) {
    let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    let single = policy == "SingleStack";
    let lists = [
        ("cluster IP", count(&spec.cluster_ips), old.map_or(0, |old| count(&old.cluster_ips)), "cluster IPs"),
        ("IP family", count(&spec.ip_families), old.map_or(0, |old| count(&old.ip_families)), "IP families"),
    ];
    for (one, now, before, many) in lists {
        let detail = if single && now == 2 {
            format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {many} are specified")
        } else if !single && now > 0 && now < before {
            format!("must be 'SingleStack' to release the secondary {one}")
        } else {
            continue;
        };
        faults.push(Fault::invalid("spec.ipFamilyPolicy", policy, &detail));
    }
}

/// The families of the addresses behind those that are named.
fn infer_from_addresses(spec: &ServiceSpec, families: &mut Vec<Family>, configured: &[Family], faults: &mut Faults) {
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let named = families.len();
    for (index, address) in spec.cluster_addresses().into_iter().enumerate().skip(named) {
        let family = Family::of(address);
        if configured.contains(&family) {
            families.push(family);
        } else {
            let detail = format!("{} is not configured on this cluster", family.as_str());
            faults.push(Fault::invalid(format!("spec.clusterIPs[{index}]"), ips, &detail));
        }
    }
}

fn check_families(policy: &str, families: &[Family], configured: &[Family], faults: &mut Faults) {
    if policy == "RequireDualStack" && configured.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        faults.push(Fault::invalid("spec.ipFamilyPolicy", policy, detail));
    }
    for (index, family) in families.iter().enumerate().filter(|(_, family)| !configured.contains(family)) {
        let field = format!("spec.ipFamilies[{index}]");
        faults.push(Fault::invalid(field, family.as_str(), "not configured on this cluster"));
    }
}

/// Allocates what a Service needs and does not have, and checks what it requests: addresses, node ports, and the port of the
/// health check. The first of these at fault is reported alone, as by the API server.
pub(crate) fn allocate(view: &Overlay<'_>, service: &mut Service, old: Option<&Service>, faults: &mut Faults) {
    let name = ServiceName::of(service);
    let Some(spec) = service.spec.as_mut() else {
        return;
    };
    let old = old.and_then(|old| old.spec.as_ref());
    // Validation refuses to make a headless Service another one.
    if old.is_none_or(|old| !old.is_headless() || spec.is_headless()) {
        cluster_ips(view, spec, &name, faults);
    }
    if faults.is_empty() {
        node_ports(view, spec, old, &name, faults);
    }
    if faults.is_empty() {
        health_check_port(view, spec, &name, faults);
    }
}

/// Gives a valid LoadBalancer the addresses it lacks, as far as there are any.
pub(crate) fn allocate_balancer(view: &Overlay<'_>, service: &mut Service) {
    let name = ServiceName::of(service);
    balancer_addresses(view, service, &name);
}

/// Assigns LoadBalancer addresses to the Services that wait for one, as long as any is free.
pub(crate) fn serve_waiting(view: &mut Overlay<'_>) {
    if view.settings().load_balancer_pools.is_empty() {
        return;
    }
    // A Service that requested an address in this batch has it by now, or cannot have it.
    view.forget_requests();
    let waiting = view.waiting().into_iter().filter_map(|name| view.object(&name.key()).cloned());
    let (asking, others): (Vec<_>, Vec<_>) = waiting.partition(|service| wants_an_address(service));
    for object in asking.into_iter().chain(others) {
        let Object::Service(mut service) = (*object).clone() else {
            continue;
        };
        let name = ServiceName::of(&service);
        balancer_addresses(view, &mut service, &name);
        view.put(Object::Service(service));
    }
}

/// Whether it waits for one certain address: it is served before those that take any.
fn wants_an_address(service: &Object) -> bool {
    let spec = service.as_service().and_then(|service| service.spec.as_ref());
    spec.is_some_and(|spec| spec.load_balancer_ip.as_deref().and_then(parse_ip).is_some())
}

fn cluster_ips(view: &Overlay<'_>, spec: &mut ServiceSpec, name: &ServiceName, faults: &mut Faults) {
    if !spec.needs_cluster_ip() {
        return;
    }
    if spec.is_headless() {
        spec.cluster_ip = Some(NONE.to_owned());
        spec.cluster_ips = Some(vec![NONE.to_owned()]);
        return;
    }
    let families = spec.families();
    let mut ips = spec.cluster_ips.take().unwrap_or_default();
    ips.truncate(families.len());
    for (index, family) in families.into_iter().enumerate() {
        match ips.get(index) {
            Some(asked) => check_cluster_ip(view, asked, name, faults),
            None => match free_cluster_ip(view, family, name) {
                Some(address) => ips.push(address.to_string()),
                None => {
                    let detail = format!("failed to allocate a {} address: range is full", family.as_str());
                    faults.push(Fault::invalid("spec.clusterIPs", &*ips, &detail));
                }
            },
        }
    }
    spec.cluster_ip = ips.first().cloned();
    spec.cluster_ips = Some(ips);
}

fn check_cluster_ip(view: &Overlay<'_>, asked: &str, name: &ServiceName, faults: &mut Faults) {
    let Some(address) = parse_ip(asked) else {
        return;
    };
    let owner = view.address_owner(address);
    if owner == Some(name) {
        return;
    }
    let cidr = view.settings().service_cidr(Family::of(address));
    let range = cidr.map(|cidr| usable(cidr.into()));
    let detail = if owner.is_some() {
        "provided IP is already allocated".to_owned()
    } else if view.settings().gateway_addresses.contains(&address) {
        "it is an address of the gateway".to_owned()
    } else if !range.is_some_and(|range| range.contains(address)) {
        let ranges: Vec<String> = view.settings().service_cidrs.iter().map(ToString::to_string).collect();
        let range = cidr.map_or_else(|| ranges.join(", "), |cidr| cidr.to_string());
        format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}")
    } else {
        return;
    };
    let value = [asked.to_owned()];
    let detail = format!("failed to allocate IP {asked}: {detail}");
    faults.push(Fault::invalid("spec.clusterIPs", value.as_slice(), &detail));
}

fn free_cluster_ip(view: &Overlay<'_>, family: Family, name: &ServiceName) -> Option<IpAddr> {
    let cidr = view.settings().service_cidr(family)?;
    let range = usable(cidr.into());
    let bands = address_bands(IpRange::from(cidr).len(), range.len());
    let seed = hash(&name.to_string(), 0);
    bands.into_iter().find_map(|band| free_address(view, &range, band, seed, name))
}

/// The lowest ClusterIP of the default family that is neither the gateway's, DNS's nor `taken`.
pub(crate) fn lowest_free(settings: &ClusterSettings, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let range = usable((*settings.service_cidrs.first()?).into());
    let reserved =
        |address: &IpAddr| settings.gateway_addresses.contains(address) || settings.dns_addresses.contains(address);
    (0..range.len()).filter_map(|offset| range.at(offset)).find(|address| !reserved(address) && !taken(*address))
}

/// Walks one band from a hashed start. Among more candidates than there are taken addresses one is free, so the walk
/// is bounded by what is taken even where the band is all of IPv6.
fn free_address(
    view: &Overlay<'_>,
    range: &IpRange,
    band: Range<u128>,
    seed: u64,
    name: &ServiceName,
) -> Option<IpAddr> {
    let settings = view.settings();
    let reserved =
        |address: &IpAddr| settings.gateway_addresses.contains(address) || settings.dns_addresses.contains(address);
    let taken = view.address_bound() + settings.gateway_addresses.len() + settings.dns_addresses.len();
    let steps = (taken as u128).saturating_add(1);
    let candidates = walk(band, seed, steps).filter_map(|offset| range.at(offset));
    candidates.into_iter().find(|address| !reserved(address) && !view.address_taken(*address, name))
}

/// The offsets of a band in a circle from a hashed start, at most `steps` of them.
fn walk(band: Range<u128>, seed: u64, steps: u128) -> impl Iterator<Item = u128> {
    let size = band.end.saturating_sub(band.start);
    let start = if size == 0 { 0 } else { u128::from(seed) % size };
    (0..steps.min(size)).map(move |step| band.start + (start + step) % size)
}

/// Without the network's own address and, in IPv4, its broadcast address.
fn usable(range: IpRange) -> IpRange {
    let last = range.len().saturating_sub(if range.first().is_ipv4() { 2 } else { 1 });
    let (first, last) = (range.at(1), range.at(last));
    first.zip(last).and_then(|(first, last)| IpRange::new(first, last)).unwrap_or(range)
}

/// Offsets into the usable addresses: dynamic band, then static band (KEP-3070).
fn address_bands(size: u128, usable: u128) -> [Range<u128>; 2] {
    let fixed = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }.min(usable);
    [fixed..usable, 0..fixed]
}

/// Offsets into the node ports: dynamic band, then static band (KEP-3668).
fn port_bands(size: u128) -> [Range<u128>; 2] {
    let fixed = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
    [fixed..size, 0..fixed]
}

/// Allocates node ports (K `initNodePorts`, `updateNodePorts`). Only when a Service is created do two ports with the same number
/// and different protocols get one node port; a later change gives each its own.
fn node_ports(
    view: &Overlay<'_>,
    spec: &mut ServiceSpec,
    old: Option<&ServiceSpec>,
    name: &ServiceName,
    faults: &mut Faults,
) {
    if !spec.needs_node_ports() {
        spec.ports.iter_mut().flatten().for_each(|port| port.node_port = requested_port(port));
        return;
    }
    let wanted = spec.allocates_node_ports();
    let mut ports = spec.ports.take().unwrap_or_default();
    let mut requested = NodePorts::default();
    for port in &ports {
        requested_port(port).into_iter().for_each(|node_port| requested.add(port.port, node_port));
    }
    let former: HashSet<i32> = old.iter().flat_map(|old| old.ports()).filter_map(requested_port).collect();
    let mut held: HashSet<i32> = requested.owners.keys().copied().collect();
    held.extend(spec.health_check_node_port);
    // What this write has taken so far.
    let mut taken = NodePorts::default();
    let mut full = false;
    for (index, port) in ports.iter_mut().enumerate() {
        let field = format!("spec.ports[{index}].nodePort");
        let sibling = || {
            let found = taken.of_port.get(&port.port).or_else(|| requested.of_port.get(&port.port));
            found.copied().filter(|_| old.is_none() && wanted)
        };
        let Some(asked) = requested_port(port).or_else(sibling) else {
            port.node_port = None;
            if wanted {
                let seed = format!("{name}/{}", port.name.as_deref().unwrap_or_default());
                // What one search through the whole range has not found, none finds.
                port.node_port = if full { None } else { free_node_port(view, &seed, &held, name) };
                full = port.node_port.is_none();
                match port.node_port {
                    Some(free) => taken.add(port.port, free),
                    None => faults.push(Fault::invalid(field, 0, "failed to allocate a nodePort: range is full")),
                }
                held.extend(port.node_port);
            }
            continue;
        };
        let by_another = taken.owners.get(&asked).is_some_and(|owner| *owner != Some(port.port));
        if by_another && old.is_none() {
            faults.push(Fault::invalid(&*field, asked, ALLOCATED));
        } else if !former.contains(&asked) {
            check_node_port(view, asked, &field, name, faults);
        }
        port.node_port = Some(asked);
        taken.add(port.port, asked);
    }
    spec.ports = (!ports.is_empty()).then_some(ports);
}

/// Node ports of a Service's ports.
#[derive(Default)]
struct NodePorts {
    /// By the Service port, the first one.
    of_port: HashMap<i32, i32>,
    /// The Service port of each; nothing if there are several.
    owners: HashMap<i32, Option<i32>>,
}

impl NodePorts {
    fn add(&mut self, port: i32, node_port: i32) {
        self.of_port.entry(port).or_insert(node_port);
        let owner = self.owners.entry(node_port).or_insert(Some(port));
        *owner = owner.filter(|owner| *owner == port);
    }
}

fn requested_port(port: &ServicePort) -> Option<i32> {
    port.node_port.filter(|port| *port != 0)
}

fn health_check_port(view: &Overlay<'_>, spec: &mut ServiceSpec, name: &ServiceName, faults: &mut Faults) {
    if !spec.needs_health_check_port() {
        return;
    }
    let field = "spec.healthCheckNodePort";
    if let Some(asked) = spec.health_check_node_port.filter(|port| *port != 0) {
        if spec.ports().iter().any(|port| port.node_port == Some(asked)) {
            faults.push(Fault::invalid(field, asked, ALLOCATED));
        }
        return check_node_port(view, asked, field, name, faults);
    }
    let held: HashSet<i32> = spec.ports().iter().filter_map(|port| port.node_port).collect();
    spec.health_check_node_port = free_node_port(view, &format!("{name}/health-check"), &held, name);
    if spec.health_check_node_port.is_none() {
        faults.push(Fault::invalid(field, 0, "failed to allocate a healthCheckNodePort: range is full"));
    }
}

fn check_node_port(view: &Overlay<'_>, asked: i32, field: &str, name: &ServiceName, faults: &mut Faults) {
    let range = &view.settings().node_port_range;
    let port = u16::try_from(asked).ok().filter(|port| range.contains(port));
    let owner = port.and_then(|port| view.node_port_owner(port));
    if owner == Some(name) {
        return;
    }
    if owner.is_some() {
        faults.push(Fault::invalid(field, asked, ALLOCATED));
    } else if port.is_none() {
        let (first, last) = (range.start(), range.end());
        let detail = format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
        faults.push(Fault::invalid(field, asked, &detail));
    }
}

fn free_node_port(view: &Overlay<'_>, seed: &str, held: &HashSet<i32>, name: &ServiceName) -> Option<i32> {
    let range = &view.settings().node_port_range;
    let size = u128::try_from(range.len()).unwrap_or_default();
    let offsets = port_bands(size).into_iter().flat_map(|band| walk(band, hash(seed, 0), size));
    let ports = offsets.filter_map(|offset| u16::try_from(u128::from(*range.start()) + offset).ok());
    let mut free = ports.filter(|port| !held.contains(&i32::from(*port)) && !view.node_port_taken(*port, name));
    free.next().map(i32::from)
}

/// Keeps the LoadBalancer addresses a Service may keep and assigns those it lacks. Without a free one it waits.
fn balancer_addresses(view: &Overlay<'_>, service: &mut Service, name: &ServiceName) {
    let Some(spec) = &service.spec else { return };
    if spec.service_type() != ServiceType::LoadBalancer || spec.load_balancer_class.is_some() {
        return;
    }
    let wanted = spec.load_balancer_ip.as_deref().and_then(parse_ip);
    let families = spec.families();
    let pools = &view.settings().load_balancer_pools;
    let pooled = |address: IpAddr| pools.iter().any(|pool| pool.contains(address));
    let foreign = ingress_addresses(service).any(|address| !pooled(address));
    let hostname = ingress(service).iter().any(|point| point.hostname.is_some());
    if foreign || hostname {
        return;
    }
    let held: Vec<IpAddr> = ingress_addresses(service).filter(|address| !view.address_taken(*address, name)).collect();
    let given: Vec<IpAddr> = families
        .into_iter()
        .filter_map(|family| {
            let of_family = |address: &IpAddr| Family::of(*address) == family;
            match wanted.filter(of_family) {
                Some(wanted) => (pooled(wanted) && claimable(view, wanted, name)).then_some(wanted),
                None => held.iter().copied().find(of_family).or_else(|| free_pool_address(view, family, name)),
            }
        })
        .collect();
    if given.iter().copied().eq(ingress_addresses(service)) {
        return;
    }
    let balancer = service.status.get_or_insert_default().load_balancer.get_or_insert_default();
    balancer.ingress = (!given.is_empty()).then(|| given.into_iter().map(virtual_ip).collect());
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

fn claimable(view: &Overlay<'_>, address: IpAddr, name: &ServiceName) -> bool {
    let settings = view.settings();
    !settings.gateway_addresses.contains(&address)
        && !settings.dns_addresses.contains(&address)
        && view.address_owner(address).is_none_or(|owner| owner == name)
}

fn free_pool_address(view: &Overlay<'_>, family: Family, name: &ServiceName) -> Option<IpAddr> {
    let seed = hash(&name.to_string(), 0);
    let pools = view.settings().load_balancer_pools.iter().filter(|pool| Family::of(pool.first()) == family);
    pools.into_iter().find_map(|pool| free_address(view, pool, 0..pool.len(), seed, name))
}

fn virtual_ip(address: IpAddr) -> LoadBalancerIngress {
    LoadBalancerIngress { ip: Some(address.to_string()), ip_mode: Some("VIP".to_owned()), ..Default::default() }
}

#[cfg(test)]
mod tests;

//! Rules between keys: values that are valid alone and invalid together.
//!
//! Each is reported at the key an operator would change, and names the other one.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use pollgate_common::dns::name::{Name, Seed, to_wire};
use pollgate_common::dns::reverse::Reverse;

use super::model::{Cluster, DnsZone, Link};
use super::reader::Field;

/// The smallest MTU of a link that carries IPv6 (RFC 8200 §5). With a smaller one, the kernel has no IPv6 there.
const MIN_V6_MTU: u32 = 1280;

/// A link that carries IPv6 has the MTU for it.
pub(super) fn mtu(link: &Link, field: &Field<'_>) {
    let is_v6 = link.addresses.iter().any(|net| net.addr().is_ipv6())
        || link.neighbours.iter().any(|(address, _)| address.is_ipv6())
        || link.routes.iter().any(|route| route.to.addr().is_ipv6());
    if is_v6 && link.mtu < MIN_V6_MTU {
        field.fault(format_args!("at least {MIN_V6_MTU} on an interface with IPv6 addresses, neighbours or routes"));
    }
}

/// The ranges of ClusterIPs, Pods and pools must not overlap: an address would have two owners.
pub(super) fn cluster(cluster: &Cluster, services: &Field<'_>, pods: &Field<'_>, pools: &Field<'_>) {
    let service_cidrs = &cluster.service_cidrs;
    if service_cidrs.is_empty() && services.items().is_empty() {
        services.fault("at least one CIDR such as 10.96.0.0/16");
    }
    if has_family_twice(service_cidrs) {
        services.fault("at most one CIDR per family");
    }
    for net in &cluster.pod_cidrs {
        if let Some(other) = service_cidrs.iter().find(|other| meet(&span(net), &span(other))) {
            let field = if pods.is_present() { pods } else { services };
            field.fault(format_args!("podCIDRs outside serviceCIDRs: {net} overlaps {other}"));
        }
    }
    pools_apart(cluster, pools);
}

fn has_family_twice(nets: &[IpNet]) -> bool {
    let v4 = nets.iter().filter(|net| net.addr().is_ipv4()).count();
    v4 > 1 || nets.len() - v4 > 1
}

fn pools_apart(cluster: &Cluster, field: &Field<'_>) {
    let pools = &cluster.load_balancer_pools;
    for (index, pool) in pools.iter().enumerate() {
        let name = format!("{}-{}", pool.start(), pool.end());
        if pools[..index].iter().any(|other| meet(pool, other)) {
            field.fault(format_args!("pools that do not overlap: {name} overlaps an earlier one"));
        }
        let nets = cluster.service_cidrs.iter().chain(&cluster.pod_cidrs);
        for net in nets.filter(|net| meet(pool, &span(net))) {
            field.fault(format_args!("pools outside serviceCIDRs and podCIDRs: {name} overlaps {net}"));
        }
    }
}

fn span(net: &IpNet) -> RangeInclusive<IpAddr> {
    net.network()..=net.broadcast()
}

/// Whether two ranges share an address. `IpAddr` orders all of IPv4 before all of IPv6, so ranges
/// of different families never do.
fn meet<T: Ord>(a: &RangeInclusive<T>, b: &RangeInclusive<T>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

/// The customary address of cluster DNS: the tenth of the first Service CIDR, as kubeadm has it.
pub(super) fn tenth_address(cluster: &Cluster, field: &Field<'_>) -> Vec<IpAddr> {
    let Some(net) = cluster.service_cidrs.first() else {
        return Vec::new();
    };
    let tenth = match net {
        IpNet::V4(net) => tenth_of_v4(net),
        IpNet::V6(net) => tenth_of_v6(net),
    };
    if tenth.is_none() {
        field.fault(format_args!("an address, because {net} has no tenth address to use as the default"));
    }
    tenth.into_iter().collect()
}

fn tenth_of_v4(net: &Ipv4Net) -> Option<IpAddr> {
    let address = u32::from(net.network()).checked_add(10)?.into();
    (net.contains(&address) && address != net.broadcast()).then_some(IpAddr::V4(address))
}

fn tenth_of_v6(net: &Ipv6Net) -> Option<IpAddr> {
    let address = u128::from(net.network()).checked_add(10)?.into();
    net.contains(&address).then_some(IpAddr::V6(address))
}

/// The address of DNS may be in a Service CIDR (it is then kept from other Services) or outside all
/// of them (an address like any gateway address), but a Pod cannot have it too.
pub(super) fn dns(addresses: &[IpAddr], cluster: &Cluster, field: &Field<'_>) {
    for address in addresses {
        if let Some(net) = cluster.pod_cidrs.iter().find(|net| net.contains(address)) {
            field.fault(format_args!("an address outside podCIDRs: {address} is in {net}"));
        }
    }
}

/// The gateway answers for the cluster's domain itself, and for the reverse zones of its ranges.
pub(super) fn zone_is_not_ours(zone: &str, cluster: &Cluster, field: &Field<'_>) {
    let domain = cluster.domain.as_str();
    if zone == domain || zone.strip_suffix(domain).is_some_and(|above| above.ends_with('.')) {
        field.fault(format_args!("a domain outside cluster.domain {domain}"));
    }
    let name = to_wire(zone).and_then(|wire| Name::of(&[&wire], Seed::random()));
    let Some(reverse) = name.as_ref().and_then(Reverse::read) else { return };
    let mut ranges = cluster.service_cidrs.iter().chain(&cluster.pod_cidrs);
    if let Some(net) = ranges.find(|net| reverse.within(net).is_some()) {
        field.fault(format_args!(
            "a domain outside the reverse zones of serviceCIDRs and podCIDRs: it is in that of {net}"
        ));
    }
}

/// Without an address there are no queries that could go to other servers.
pub(super) fn no_dns_to_forward(fields: &[&Field<'_>]) {
    for field in fields.iter().filter(|field| !field.items().is_empty()) {
        field.fault("none, because dns.address is [] and no query is answered");
    }
}

/// Each zone has one list of servers.
pub(super) fn zones_apart(zones: &[DnsZone], field: &Field<'_>) {
    for (at, zone) in zones.iter().enumerate() {
        if zones[..at].iter().any(|earlier| earlier.name == zone.name) {
            field.fault(format_args!("each zone only once: {} is listed twice", zone.name));
        }
    }
}

/// A NodePort must not be a source port of SNAT: replies and requests could not be distinguished.
pub(super) fn ports_apart(
    nat: &RangeInclusive<u16>,
    nat_field: &Field<'_>,
    node: &RangeInclusive<u16>,
    node_field: &Field<'_>,
) {
    if !meet(nat, node) {
        return;
    }
    let (nat_first, nat_last) = (nat.start(), nat.end());
    let (node_first, node_last) = (node.start(), node.end());
    if nat_field.is_present() {
        nat_field.fault(format_args!("ports outside cluster.nodePortRange {node_first}-{node_last}"));
    } else {
        node_field.fault(format_args!("ports outside nat.ports {nat_first}-{nat_last}"));
    }
}

/// Each CPU is listed once, and there are enough of them.
pub(super) fn cpus(count: Option<usize>, cpus: &[usize], field: &Field<'_>) {
    if let Some(twice) = cpus.iter().enumerate().find(|(i, cpu)| cpus[..*i].contains(cpu)) {
        field.fault(format_args!("each CPU only once: {} is listed twice", twice.1));
    }
    let Some(count) = count else { return };
    if !cpus.is_empty() && cpus.len() < count {
        field.fault(format_args!("at least {count} CPUs, one per worker, or an empty list"));
    }
}

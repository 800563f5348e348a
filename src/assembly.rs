//! From the configuration to the parts: what the running gateway and the offline replay have in common.

use std::net::IpAddr;
use std::sync::Arc;

use pollgate_common::hash::RingHash;
use pollgate_common::net::{Facts, Link, Mac, PortId, Route};
use pollgate_common::settings::DataplaneSettings;
use pollgate_control::cluster::{self, IpRange};
use pollgate_control::compile;
use pollgate_dataplane::flow::{Limits, Timeouts};

use crate::config::{self, Config, PodRecords};

/// What stays the same for the life of the process.
pub fn settings(config: &Config) -> Arc<DataplaneSettings> {
    let v4 = |ip: &IpAddr| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None };
    let v6 = |ip: &IpAddr| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None };
    Arc::new(DataplaneSettings {
        gateway_v4: config.addresses.iter().filter_map(v4).collect(),
        gateway_v6: config.addresses.iter().filter_map(v6).collect(),
        dns: config.dns.addresses.clone(),
        pod_cidrs: config.cluster.pod_cidrs.clone(),
        service_cidrs: config.cluster.service_cidrs.clone(),
        masquerade_all: config.nat.masquerade_all,
        snat_ports: config.nat.ports.clone(),
        ring_hash: RingHash::new(&config.maglev.seed),
    })
}

/// What the cluster's state needs to know.
pub fn cluster_settings(config: &Config) -> cluster::ClusterSettings {
    let pools = config.cluster.load_balancer_pools.iter();
    cluster::ClusterSettings {
        service_cidrs: config.cluster.service_cidrs.clone(),
        node_port_range: config.cluster.node_port_range.clone(),
        load_balancer_pools: pools.filter_map(|pool| IpRange::new(*pool.start(), *pool.end())).collect(),
        gateway_addresses: config.addresses.clone(),
        dns_addresses: config.dns.addresses.clone(),
        node: config.node.clone(),
        zone: config.zone.clone(),
    }
}

/// What compiling needs to know.
pub fn compile_options(config: &Config, settings: &Arc<DataplaneSettings>) -> compile::Options {
    compile::Options {
        settings: Arc::clone(settings),
        node: config.node.clone(),
        zone: config.zone.clone(),
        domain: config.cluster.domain.clone(),
        ttl: u32::try_from(config.dns.ttl.as_secs()).unwrap_or(u32::MAX),
        table_size: config.maglev.table_size,
    }
}

/// One worker's share of the flows, and the time-outs.
pub fn limits(config: &Config, workers: usize) -> Limits {
    let flows = &config.flows;
    Limits {
        connections: flows.max.div_ceil(workers.max(1)),
        timeouts: Timeouts {
            tcp_established: flows.tcp_established,
            tcp_opening: flows.tcp_opening,
            tcp_closing: flows.tcp_closing,
            udp: flows.udp,
            udp_stream: flows.udp_stream,
        },
    }
}

/// The addresses pollgate owns before any object is there.
pub fn owned_from_start(config: &Config) -> Vec<IpAddr> {
    config.addresses.iter().chain(&config.dns.addresses).copied().collect()
}

/// Keys that are valid but ask for something this version does not do: refused rather than ignored.
pub fn not_done(config: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    if config.dns.pods != PodRecords::Disabled {
        keys.push("dns.pods: this version serves no Pod records; set it to disabled".to_owned());
    }
    if !config.dns.upstreams.is_empty() {
        keys.push("dns.upstreams: this version resolves only names of the cluster; leave it empty".to_owned());
    }
    if config.metrics.listen.is_some() {
        keys.push("metrics.listen: this version has no metrics listener; use `pollgate stats -o json`".to_owned());
    }
    keys
}

/// What netlink would have said: the facts of a replay, from its configuration.
pub fn facts(config: &Config) -> Facts {
    let mut facts = Facts::default();
    for (at, interface) in config.interfaces.iter().enumerate() {
        let port = PortId(u16::try_from(at).unwrap_or(u16::MAX));
        let index = u32::from(port.0) + 1;
        if let Some(link) = &interface.link {
            add_link(&mut facts, index, port, &interface.name, link);
        }
    }
    facts
}

fn add_link(facts: &mut Facts, index: u32, port: PortId, name: &str, link: &config::Link) {
    let (name, mac) = (name.to_owned(), Mac(link.mac));
    facts.links.push(Link { index, name, port: Some(port), mac, mtu: 1500, up: true });
    for &address in &link.addresses {
        facts.addresses.push((index, address));
        // An address with a prefix brings the route to its network, as in the kernel.
        facts.routes.push(Route { to: address.trunc(), via: None, link: index, metric: 0 });
    }
    facts.routes.extend(link.routes.iter().map(|r| Route { to: r.to, via: r.via, link: index, metric: 0 }));
    facts.neighbours.extend(link.neighbours.iter().map(|&(ip, mac)| (index, ip, Mac(mac))));
}

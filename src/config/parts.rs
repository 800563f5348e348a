//! From the configuration to the parts of the gateway: each part's own settings are made here, one `impl` per part.
//!
//! ```text
//!             ┌─▶ DataplaneSettings, Limits, Mode      workers
//!  &Config ───┼─▶ ClusterSettings, Options             control thread
//!             ├─▶ OwnedAddresses                       host network
//!             └─▶ Facts                                replay: in place of the host network
//! ```
//!
//! These types are in other crates, which do not know [`Config`]. A part of this crate has its `impl` beside its type.

use std::net::IpAddr;
use std::sync::Arc;

use pollgate_common::dns::name::to_wire;
use pollgate_common::dns::zone::{Forward, ZoneSettings};
use pollgate_common::hash::RingHash;
use pollgate_common::net::{Facts, Link, Mac, PortId, Route};
use pollgate_common::pair;
use pollgate_common::settings::DataplaneSettings;
use pollgate_control::cluster::{ClusterSettings, IpRange};
use pollgate_control::compile::Options;
use pollgate_control::netlink::OwnedAddresses;
use pollgate_dataplane::flow::{Limits, Timeouts};
use pollgate_dataplane::idle::Mode;

use super::model::{self, Config, Dns, DnsZone, Idle};

impl From<&Config> for DataplaneSettings {
    fn from(config: &Config) -> Self {
        let v4 = |ip: &IpAddr| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None };
        let v6 = |ip: &IpAddr| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None };
        Self {
            gateway_v4: config.addresses.iter().filter_map(v4).collect(),
            gateway_v6: config.addresses.iter().filter_map(v6).collect(),
            dns: config.dns.addresses.clone(),
            pod_cidrs: config.cluster.pod_cidrs.clone(),
            service_cidrs: config.cluster.service_cidrs.clone(),
            masquerade: config.nat.masquerade,
            host_pair: config.has_pair(),
            snat_ports: config.nat.ports.clone(),
            ring_hash: RingHash::new(&config.maglev.seed),
        }
    }
}

impl From<&Config> for ClusterSettings {
    fn from(config: &Config) -> Self {
        let pools = config.cluster.load_balancer_pools.iter();
        Self {
            service_cidrs: config.cluster.service_cidrs.clone(),
            node_port_range: config.cluster.node_port_range.clone(),
            load_balancer_pools: pools.filter_map(|pool| IpRange::new(*pool.start(), *pool.end())).collect(),
            gateway_addresses: config.addresses.clone(),
            dns_addresses: config.dns.addresses.clone(),
            node: config.node.clone(),
            zone: config.zone.clone(),
            slice_manager: config.cluster.slice_manager,
            serves_external_ips: config.cluster.external_ips,
            domain: config.cluster.domain.clone(),
            has_pair: config.has_pair(),
            endpoint_pod_names: config.dns.endpoint_pod_names,
            limits: config.limits,
        }
    }
}

impl From<&Config> for ZoneSettings {
    fn from(config: &Config) -> Self {
        let reverse = config.cluster.service_cidrs.iter().chain(&config.cluster.pod_cidrs);
        Self {
            // A domain that is no name is refused where it is read.
            origin: to_wire(&config.cluster.domain).unwrap_or_default(),
            ttl: u32::try_from(config.dns.ttl.as_secs()).unwrap_or(u32::MAX),
            pods: config.dns.pods,
            autopath: config.dns.autopath,
            reverse: reverse.copied().collect(),
            servers: config.dns.addresses.clone(),
            forward: forward(&config.dns),
        }
    }
}

/// Where names outside the cluster are asked. Without servers for all of them, the root has none.
fn forward(dns: &Dns) -> Vec<Forward> {
    let zone = |zone: &DnsZone| Some(Forward { zone: to_wire(&zone.name)?, upstreams: zone.upstreams.clone() });
    let everywhere = dns.upstreams.iter().filter(|upstreams| !upstreams.is_empty());
    let root = everywhere.map(|upstreams| Forward { zone: Box::new([0]), upstreams: upstreams.clone() });
    dns.zones.iter().filter_map(zone).chain(root).collect()
}

/// The compiler's `settings` are those of the workers too: share them, do not make them twice.
impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            settings: Arc::new(DataplaneSettings::from(config)),
            node: config.node.clone(),
            zone: config.zone.clone(),
            dns: Arc::new(ZoneSettings::from(config)),
            table_size: config.maglev.table_size,
        }
    }
}

/// Of a worker that has all flows; of several, each has a [`share`](Limits::share).
impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        let flows = &config.flows;
        Self {
            connections: flows.max,
            unconfirmed: (flows.max * usize::from(flows.unconfirmed_percent)).div_ceil(100),
            new_per_second: flows.new_per_second,
            timeouts: Timeouts {
                tcp_established: flows.tcp_established,
                tcp_opening: flows.tcp_opening,
                tcp_closing: flows.tcp_closing,
                udp: flows.udp,
                udp_stream: flows.udp_stream,
            },
        }
    }
}

impl From<Idle> for Mode {
    fn from(idle: Idle) -> Self {
        match idle {
            Idle::Poll => Self::Poll,
            Idle::Adaptive => Self::Adaptive,
        }
    }
}

impl From<&Config> for OwnedAddresses {
    fn from(config: &Config) -> Self {
        Self::new(config.owned_addresses())
    }
}

/// The links of a replay, as netlink would report them.
impl From<&Config> for Facts {
    fn from(config: &Config) -> Self {
        let mut facts = Self::default();
        for (at, interface) in config.interfaces.iter().enumerate() {
            let port = PortId(u16::try_from(at).unwrap_or(u16::MAX));
            let index = u32::from(port.0) + 1;
            if let Some(link) = &interface.link {
                add_link(&mut facts, index, port, &interface.name, link);
            }
        }
        if config.has_pair() {
            add_host_end(&mut facts);
        }
        facts
    }
}

/// The kernel's end of the host pair, whose other end is replayed.
fn add_host_end(facts: &mut Facts) {
    let index = u32::try_from(facts.links.len()).unwrap_or(u32::MAX) + 1;
    let name = pair::HOST.to_owned();
    facts.links.push(Link { index, name, port: None, mac: pair::HOST_MAC, mtu: 1500, up: true, ups: 1, deletions: 0 });
    facts.addresses.extend(pair::HOST_ADDRESSES.map(|address| (index, address.into())));
}

fn add_link(facts: &mut Facts, index: u32, port: PortId, name: &str, link: &model::Link) {
    let (name, mac) = (name.to_owned(), Mac(link.mac));
    facts.links.push(Link { index, name, port: Some(port), mac, mtu: link.mtu, up: true, ups: 1, deletions: 0 });
    for &address in &link.addresses {
        facts.addresses.push((index, address));
        // An address with a prefix brings the route to its network, as in the kernel.
        facts.routes.push(Route { to: address.trunc(), via: None, link: index, metric: 0 });
    }
    facts.routes.extend(link.routes.iter().map(|r| Route { to: r.to, via: r.via, link: index, metric: 0 }));
    facts.neighbours.extend(link.neighbours.iter().map(|&(ip, mac)| (index, ip, Mac(mac))));
}

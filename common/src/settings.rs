//! Settings that the data plane gets once, at start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::hash::RingHash;

/// Whose source is translated. That of a Pod that reaches itself always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// As kube-proxy does.
    Kubernetes,
    /// Also traffic from Pods to ClusterIPs (kube-proxy's `--masquerade-all`).
    All,
    /// No other source: routing brings replies back through the gateway.
    Never,
}

/// Settings that do not change while the process runs.
#[derive(Debug)]
pub struct DataplaneSettings {
    /// IPv4 gateway addresses. Node ports and SNAT use them.
    pub gateway_v4: Vec<Ipv4Addr>,
    /// IPv6 gateway addresses.
    pub gateway_v6: Vec<Ipv6Addr>,
    /// Addresses at which DNS is answered.
    pub dns: Vec<IpAddr>,
    /// Source addresses in these ranges are Pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Ranges from which ClusterIPs are allocated.
    pub service_cidrs: Vec<IpNet>,
    /// Whose source is translated.
    pub masquerade: Masquerade,
    /// Whether there is a host pair ([`crate::pair`]).
    pub host_pair: bool,
    /// Source ports for SNAT.
    pub snat_ports: RangeInclusive<u16>,
    /// The hash that all gateways of a fleet share.
    pub ring_hash: RingHash,
}

impl DataplaneSettings {
    /// The gateway addresses of both families.
    pub fn gateway_addresses(&self) -> impl Iterator<Item = IpAddr> + Clone + '_ {
        let v4 = self.gateway_v4.iter().map(|&address| IpAddr::V4(address));
        v4.chain(self.gateway_v6.iter().map(|&address| IpAddr::V6(address)))
    }

    /// Whether `address` belongs to a Pod.
    pub fn is_pod(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|cidr| cidr.contains(&address))
    }

    /// Whether `address` lies in a range of ClusterIPs.
    pub fn is_service_cidr(&self, address: IpAddr) -> bool {
        self.service_cidrs.iter().any(|cidr| cidr.contains(&address))
    }
}

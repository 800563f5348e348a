//! What the data plane is told once, at start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::hash::RingHash;

/// What stays the same for the life of the process.
#[derive(Debug)]
pub struct DataplaneSettings {
    /// IPv4 gateway addresses: node ports and SNAT live on them.
    pub gateway_v4: Vec<Ipv4Addr>,
    /// IPv6 gateway addresses.
    pub gateway_v6: Vec<Ipv6Addr>,
    /// Addresses at which DNS is answered.
    pub dns: Vec<IpAddr>,
    /// Sources in here are Pods.
    pub pod_cidrs: Vec<IpNet>,
    /// ClusterIPs lie in here.
    pub service_cidrs: Vec<IpNet>,
    /// SNAT Pods' traffic to ClusterIPs as well (kube-proxy's `--masquerade-all`).
    pub masquerade_all: bool,
    /// Source ports for SNAT.
    pub snat_ports: RangeInclusive<u16>,
    /// The hash two gateways agree on.
    pub ring_hash: RingHash,
}

impl DataplaneSettings {
    /// Whether `address` is a Pod's.
    pub fn is_pod(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|cidr| cidr.contains(&address))
    }

    /// Whether `address` lies where ClusterIPs come from.
    pub fn is_service_cidr(&self, address: IpAddr) -> bool {
        self.service_cidrs.iter().any(|cidr| cidr.contains(&address))
    }
}

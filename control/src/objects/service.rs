//! A Service's name, type and protocols, and what follows from its spec.
//!
//! Kubernetes' spec is a bag of optional text. The rules that follow from it ("does it have a ClusterIP?", "can
//! it be reached from outside?") are asked by defaulting, validation, allocation, resolving and printing alike, so they
//! stand here once, under the names kubernetes/kubernetes gives them (`pkg/apis/core/helper`, `pkg/registry/core/service`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use crate::objects::{Key, Kind, Object};
pub use pollgate_common::flow::Protocol;

/// A Service with this label is another proxy's: it keeps its DNS name and is not proxied here.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Marks Services, and their slices, that no proxy handles.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Older than `spec.loadBalancerSourceRanges`, and still in use.
pub const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// `spec.clusterIP` of a headless Service.
pub const NONE: &str = "None";

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: String,
    /// The name within it.
    pub name: String,
}

impl ServiceName {
    /// The name of `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> ServiceName {
        ServiceName { namespace: namespace.into(), name: name.into() }
    }

    /// The name of this Service.
    pub fn of(service: &Service) -> ServiceName {
        let metadata = &service.metadata;
        ServiceName::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
    }

    /// The key under which the cluster keeps the Service.
    pub fn key(&self) -> Key {
        Key::new(Kind::Service, &*self.namespace, &*self.name)
    }

    /// The Service an EndpointSlice says it belongs to.
    pub fn of_slice(slice: &Object) -> Option<ServiceName> {
        let name = slice.label(crate::objects::SERVICE_NAME_LABEL)?;
        Some(ServiceName::new(slice.namespace(), name))
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceType {
    /// A virtual IP inside the cluster, or none at all ("headless").
    ClusterIp,
    /// That, and a port on every gateway address.
    NodePort,
    /// That, and an address of its own for clients outside.
    LoadBalancer,
    /// A DNS alias, nothing else.
    ExternalName,
}

impl ServiceType {
    /// The spellings Kubernetes accepts, in the order its messages list them.
    pub const NAMES: [&'static str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

    /// The type of a Service; an absent or unknown one counts as the default.
    pub fn of(spec: &ServiceSpec) -> ServiceType {
        match spec.type_.as_deref() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        }
    }

    /// As manifests spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
            ServiceType::ExternalName => "ExternalName",
        }
    }
}

/// The protocol a port names; absent means TCP.
pub fn parse_protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

/// IP family as Services and EndpointSlices spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// `IPv4` or `IPv6`; nothing for `FQDN` and everything else.
    pub fn parse(text: &str) -> Option<Family> {
        match text {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        }
    }

    /// As objects spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// An address, read as generously as kube-proxy does: leading zeros are decimal, not octal (K `TestBadIPs`).
/// IPv4 in IPv6 is IPv4.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let address: Option<IpAddr> = text.parse().ok().or_else(|| parse_sloppy_v4(text).map(IpAddr::V4));
    address.map(|address| address.to_canonical())
}

/// A range, read strictly: no leading zeros.
pub(crate) fn parse_strict_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let plain = length == "0" || !length.starts_with(['0', '+']);
    IpNet::new(address.parse().ok()?, length.parse().ok().filter(|_| plain)?).ok()
}

/// A range, read as generously. Its address may have bits behind the prefix.
pub(crate) fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    IpNet::new(parse_ip(address)?, length.parse().ok().filter(|_| digits)?).ok()
}

fn parse_sloppy_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let digits = parts.next()?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = digits.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| octets.into())
}

/// Whether labels carry every pair of a selector.
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// What follows from a Service's spec.
pub trait SpecExt {
    /// The type; the default for what is absent or unknown.
    fn service_type(&self) -> ServiceType;
    /// `clusterIP: None`.
    fn is_headless(&self) -> bool;
    /// Has ClusterIPs or is headless: everything but ExternalName.
    fn needs_cluster_ip(&self) -> bool;
    /// Is of a type that has node ports (which it may yet have declined).
    fn needs_node_ports(&self) -> bool;
    /// Gets a node port for each port that requests none: of such a type, and not declined.
    fn allocates_node_ports(&self) -> bool;
    /// A LoadBalancer that keeps to local endpoints.
    fn needs_health_check_port(&self) -> bool;
    /// NodePort, LoadBalancer, or with external IPs.
    fn externally_accessible(&self) -> bool;
    /// Its ports; none if absent.
    fn ports(&self) -> &[ServicePort];
    /// Its selector; `None` if absent or empty, which mean the same: the endpoints are managed by others.
    fn selector(&self) -> Option<&BTreeMap<String, String>>;
    /// The parsed ClusterIPs, primary first; none if headless.
    fn cluster_addresses(&self) -> Vec<IpAddr>;
    /// The families of the Service, primary first: as written, else those of its ClusterIPs.
    fn families(&self) -> Vec<Family>;
}

impl SpecExt for ServiceSpec {
    fn service_type(&self) -> ServiceType {
        ServiceType::of(self)
    }

    fn is_headless(&self) -> bool {
        let first = self.cluster_ips.as_ref().and_then(|ips| ips.first());
        self.needs_cluster_ip() && first.or(self.cluster_ip.as_ref()).is_some_and(|ip| ip == NONE)
    }

    fn needs_cluster_ip(&self) -> bool {
        self.service_type() != ServiceType::ExternalName
    }

    fn needs_node_ports(&self) -> bool {
        matches!(self.service_type(), ServiceType::NodePort | ServiceType::LoadBalancer)
    }

    fn allocates_node_ports(&self) -> bool {
        let declined =
            self.service_type() == ServiceType::LoadBalancer && self.allocate_load_balancer_node_ports == Some(false);
        self.needs_node_ports() && !declined
    }

    fn needs_health_check_port(&self) -> bool {
        self.service_type() == ServiceType::LoadBalancer && self.external_traffic_policy.as_deref() == Some("Local")
    }

    fn externally_accessible(&self) -> bool {
        let external_ips = self.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
        self.needs_node_ports() || (self.service_type() == ServiceType::ClusterIp && external_ips)
    }

    fn ports(&self) -> &[ServicePort] {
        self.ports.as_deref().unwrap_or_default()
    }

    fn selector(&self) -> Option<&BTreeMap<String, String>> {
        if !self.needs_cluster_ip() {
            return None;
        }
        self.selector.as_ref().filter(|selector| !selector.is_empty())
    }

    fn cluster_addresses(&self) -> Vec<IpAddr> {
        if !self.needs_cluster_ip() {
            return Vec::new();
        }
        match self.cluster_ips.as_deref() {
            Some(ips) if !ips.is_empty() => ips.iter().filter_map(|ip| parse_ip(ip)).collect(),
            _ => self.cluster_ip.iter().filter_map(|ip| parse_ip(ip)).collect(),
        }
    }

    fn families(&self) -> Vec<Family> {
        let written: Vec<Family> = self.ip_families.iter().flatten().filter_map(|f| Family::parse(f)).collect();
        if !written.is_empty() {
            return written;
        }
        let addresses = self.cluster_addresses();
        match addresses.is_empty() {
            true => vec![Family::V4, Family::V6],
            false => addresses.into_iter().map(Family::of).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_kube_proxy_reads_them() {
        for (text, parsed) in [
            ("172.30.0.041", Some("172.30.0.41")),
            ("010.000.0.1", Some("10.0.0.1")),
            ("10.0.0", None),
            ("10.0.0.256", None),
            ("10.0.0.1.2", None),
            ("10.0.0.+1", None),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("1234::5678:0000:0000:9abc:def0", Some("1234::5678:0:0:9abc:def0")),
        ] {
            assert_eq!(parse_ip(text).map(|ip| ip.to_string()).as_deref(), parsed, "{text}");
        }
    }
}

//! What the compiler needs of one Service: its addresses, its ports, and the endpoints of each.
//!
//! ```text
//! Service ──────────────┐ addresses, policies
//! EndpointSlice ─ ports ┴─ joined by (port name, protocol) ─▶ ResolvedPort ─▶ endpoints
//! ```
//!
//! The join is kube-proxy's (K `pkg/proxy/endpointslicecache.go`, `pkg/proxy/serviceport.go`), down to its defaults: an absent `ready` or
//! `serving` counts as true, a port without name or number is ignored, only the first address of an endpoint is
//! proxied to. It works from slices alone, never from Pods: slices of other writers count as much as ours.
//! Choosing among the endpoints (policies, fallback to terminating ones) is the compiler's task.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ahash::HashMap;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice};
use pollgate_common::dns::name::MAX_LABEL;

use crate::cluster::{Cluster, ClusterSettings};
use crate::objects::Object;
pub use crate::objects::service::{Family, Protocol, ServiceName, ServiceType, SpecExt};
use crate::objects::service::{HEADLESS_LABEL, PROXY_NAME_LABEL, SOURCE_RANGES_ANNOTATION, parse_ip, parse_protocol};
use crate::objects::weight;

/// A Service with everything that follows from its slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedService {
    /// Its name.
    pub name: ServiceName,
    /// Its type.
    pub kind: ServiceType,
    /// False if its labels hand it to another proxy: it then keeps its DNS records, and none of its addresses is ours. `ports`,
    /// `load_balancer_ips` and `external_ips` are empty in that case.
    pub proxied: bool,
    /// Its ClusterIPs, primary first; none if headless or ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// Its LoadBalancer addresses, without those that another proxy terminates (`ipMode: Proxy`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `clusterIP: None`: only DNS.
    pub headless: bool,
    /// Where an ExternalName points, without a trailing dot.
    pub external_name: Option<String>,
    /// ClientIP affinity, and how long it lasts.
    pub affinity_timeout: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Clients that may use the LoadBalancer addresses; empty means all.
    pub source_ranges: Vec<IpNet>,
    /// Where local readiness is reported, if it is.
    pub health_check_node_port: Option<u16>,
    /// Its ports, in the order of the spec.
    pub ports: Vec<ResolvedPort>,
    /// The ready addresses, for DNS; in order, each once.
    pub ready_addresses: Vec<ResolvedAddress>,
    /// The ports of the spec, for DNS: a Service of another proxy has them too.
    pub published_ports: Vec<PublishedPort>,
    /// The ready addresses and ports of each slice, for the records of endpoints.
    pub published: Vec<PublishedSlice>,
}

/// A port as DNS has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedPort {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number, if it has one.
    pub port: Option<u16>,
}

/// The ready addresses of one slice, and the ports that all of them have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedSlice {
    /// The ports.
    pub ports: Vec<PublishedPort>,
    /// The addresses.
    pub addresses: Vec<ResolvedAddress>,
}

impl PublishedSlice {
    /// The numbers of the ports.
    pub fn numbers(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().filter_map(|port| port.port)
    }
}

/// One port of a Service and its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedPort {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port clients connect to.
    pub port: u16,
    /// The port on the gateway's own addresses.
    pub node_port: Option<u16>,
    /// Its endpoints, of both families, in order of address and port, each once.
    pub endpoints: Vec<ResolvedEndpoint>,
}

/// One endpoint of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Takes new connections.
    pub ready: bool,
    /// Would take connections, were it not terminating.
    pub serving: bool,
    /// Is terminating.
    pub terminating: bool,
    /// Its share of new flows, relative to the others; 0: none.
    pub weight: u16,
    /// The node it runs on.
    pub node: Option<String>,
    /// The zone it runs in.
    pub zone: Option<String>,
    /// The nodes and zones it is meant for; none if for all.
    pub hints: Hints,
}

impl ResolvedEndpoint {
    /// Whether it takes new connections, be it only if no other does.
    pub fn is_usable(&self) -> bool {
        self.ready || (self.serving && self.terminating)
    }
}

/// The clients an endpoint should be used by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Clients on these nodes.
    pub nodes: Vec<String>,
    /// Clients in these zones.
    pub zones: Vec<String>,
}

/// A ready address, with the name that its endpoint has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResolvedAddress {
    /// The address.
    pub address: IpAddr,
    /// Its own label below the Service's name.
    pub hostname: Option<String>,
}

/// The Service of that name, resolved; `None` if it does not exist.
pub fn resolve(cluster: &Cluster, name: &ServiceName) -> Option<ResolvedService> {
    let object = cluster.object(&name.key())?;
    let service = object.as_service()?;
    let spec = service.spec.as_ref()?;
    let headless = spec.is_headless();
    let proxied = [PROXY_NAME_LABEL, HEADLESS_LABEL].iter().all(|label| object.label(label).is_none());
    let proxied_ip = |ips: Vec<IpAddr>| {
        if proxied && !headless { ips } else { Vec::new() }
    };
    let slices: Vec<(Family, &EndpointSlice)> = usable_slices(cluster, name, headless).collect();
    let settings = cluster.settings();
    let here = settings.node.as_deref();
    let mut ports = if proxied { resolve_ports(spec, &slices, here) } else { Vec::new() };
    if !spec.needs_node_ports() {
        ports.iter_mut().for_each(|port| port.node_port = None);
    }
    Some(ResolvedService {
        name: name.clone(),
        kind: spec.service_type(),
        proxied,
        cluster_ips: spec.cluster_addresses(),
        load_balancer_ips: proxied_ip(load_balancer_ips(service)),
        external_ips: proxied_ip(if settings.serves_external_ips { external_ips(spec) } else { Vec::new() }),
        headless,
        external_name: external_name(spec),
        affinity_timeout: affinity_timeout(spec),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        source_ranges: source_ranges(service, spec),
        health_check_node_port: spec.health_check_node_port.and_then(nonzero_port),
        ports,
        ready_addresses: ready_addresses(&slices, settings),
        published_ports: spec.ports().iter().filter_map(published_port).collect(),
        published: slices.iter().map(|(family, slice)| published(*family, slice, settings)).collect(),
    })
}

/// The slices of the Service that carry addresses, with their family. The label `headless` sits on every slice of a
/// headless Service; on any other it withdraws the slice.
fn usable_slices<'a>(
    cluster: &'a Cluster,
    name: &'a ServiceName,
    headless: bool,
) -> impl Iterator<Item = (Family, &'a EndpointSlice)> {
    let withdrawn = move |slice: &Object| {
        !headless && (slice.label(HEADLESS_LABEL).is_some() || slice.label(PROXY_NAME_LABEL).is_some())
    };
    let slices = cluster.slices(name).filter(move |slice| !withdrawn(slice));
    slices.filter_map(|slice| slice.as_slice()).filter_map(|slice| Some((Family::parse(&slice.address_type)?, slice)))
}

fn resolve_ports(spec: &ServiceSpec, slices: &[(Family, &EndpointSlice)], here: Option<&str>) -> Vec<ResolvedPort> {
    let slices: Vec<PortsOfSlice<'_>> =
        slices.iter().map(|(family, slice)| PortsOfSlice::new(*family, slice)).collect();
    let ports = spec.ports().iter();
    ports.filter_map(|port| resolve_port(port, &slices, here)).collect()
}

/// A slice, with its port numbers by name and protocol: a Service may have thousands of ports.
struct PortsOfSlice<'a> {
    family: Family,
    slice: &'a EndpointSlice,
    weight: u16,
    numbers: HashMap<(&'a str, Protocol), Vec<u16>>,
}

impl<'a> PortsOfSlice<'a> {
    fn new(family: Family, slice: &'a EndpointSlice) -> Self {
        let mut numbers: HashMap<_, Vec<u16>> = HashMap::default();
        for port in slice.ports.iter().flatten() {
            let found = port.name.as_deref().zip(parse_protocol(port.protocol.as_deref()));
            if let Some((identity, number)) = found.zip(port.port.and_then(nonzero_port)) {
                numbers.entry(identity).or_default().push(number);
            }
        }
        Self { family, slice, weight: weight::of_slice(&slice.metadata), numbers }
    }
}

fn resolve_port(port: &ServicePort, slices: &[PortsOfSlice<'_>], here: Option<&str>) -> Option<ResolvedPort> {
    let name = port.name.clone().unwrap_or_default();
    let protocol = parse_protocol(port.protocol.as_deref())?;
    let mut endpoints = BTreeMap::new();
    for PortsOfSlice { family, slice, weight, numbers } in slices {
        for number in numbers.get(&(name.as_str(), protocol)).into_iter().flatten() {
            for endpoint in slice.endpoints.iter().filter_map(|e| resolve_endpoint(e, *family, *number, *weight)) {
                keep_better(&mut endpoints, endpoint, here);
            }
        }
    }
    Some(ResolvedPort {
        name,
        protocol,
        port: nonzero_port(port.port)?,
        node_port: port.node_port.and_then(nonzero_port),
        endpoints: endpoints.into_values().collect(),
    })
}

/// One endpoint in two slices is one endpoint. kube-proxy prefers the copy that is local, which is on the node `here`; a copy without
/// a node never is.
fn keep_better(
    endpoints: &mut BTreeMap<(IpAddr, u16), ResolvedEndpoint>,
    endpoint: ResolvedEndpoint,
    here: Option<&str>,
) {
    let rank = |endpoint: &ResolvedEndpoint| match endpoint.node.as_deref() {
        None => 0,
        node if node == here => 2,
        Some(_) => 1,
    };
    let known = endpoints.get(&(endpoint.address, endpoint.port));
    if known.is_none_or(|known| rank(known) < rank(&endpoint)) {
        endpoints.insert((endpoint.address, endpoint.port), endpoint);
    }
}

fn resolve_endpoint(endpoint: &Endpoint, family: Family, port: u16, weight: u16) -> Option<ResolvedEndpoint> {
    let address = parse_ip(endpoint.addresses.first()?).filter(|address| Family::of(*address) == family)?;
    let conditions = endpoint.conditions.as_ref();
    Some(ResolvedEndpoint {
        address,
        port,
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        weight,
        node: endpoint.node_name.clone().filter(|node| !node.is_empty()),
        zone: endpoint.zone.clone().filter(|zone| !zone.is_empty()),
        hints: endpoint.hints.as_ref().map(resolve_hints).unwrap_or_default(),
    })
}

fn resolve_hints(hints: &EndpointHints) -> Hints {
    Hints {
        nodes: hints.for_nodes.iter().flatten().map(|node| node.name.clone()).collect(),
        zones: hints.for_zones.iter().flatten().map(|zone| zone.name.clone()).collect(),
    }
}

/// All addresses of each ready endpoint: CoreDNS, unlike kube-proxy, looks beyond the first.
fn ready_addresses(slices: &[(Family, &EndpointSlice)], settings: &ClusterSettings) -> Vec<ResolvedAddress> {
    let all = slices.iter().flat_map(|(family, slice)| ready_of_slice(*family, slice, settings));
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

fn ready_of_slice<'a>(
    family: Family,
    slice: &'a EndpointSlice,
    settings: &'a ClusterSettings,
) -> impl Iterator<Item = ResolvedAddress> + 'a {
    let ready = slice.endpoints.iter().filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    ready.flat_map(move |endpoint| {
        let hostname = endpoint_name(endpoint, settings);
        let of_family = endpoint.addresses.iter().filter_map(|a| parse_ip(a)).filter(move |a| Family::of(*a) == family);
        of_family.map(move |address| ResolvedAddress { address, hostname: hostname.cloned() })
    })
}

/// The hostname, or else the Pod's name if that is wanted (CoreDNS `endpoint_pod_names`).
fn endpoint_name<'a>(endpoint: &'a Endpoint, settings: &ClusterSettings) -> Option<&'a String> {
    let target = endpoint.target_ref.as_ref().filter(|_| settings.endpoint_pod_names);
    let target = target.and_then(|target| target.name.as_ref()).filter(|name| name.len() <= MAX_LABEL);
    endpoint.hostname.as_ref().filter(|hostname| !hostname.is_empty()).or(target)
}

fn published_port(port: &ServicePort) -> Option<PublishedPort> {
    let protocol = parse_protocol(port.protocol.as_deref())?;
    Some(PublishedPort { name: port.name.clone().unwrap_or_default(), protocol, port: nonzero_port(port.port) })
}

/// A slice as DNS has it. A port without a number is none to go to, but its name selects the addresses.
fn published(family: Family, slice: &EndpointSlice, settings: &ClusterSettings) -> PublishedSlice {
    let port = |port: &EndpointPort| {
        let protocol = parse_protocol(port.protocol.as_deref())?;
        let number = port.port.and_then(nonzero_port);
        Some(PublishedPort { name: port.name.clone().unwrap_or_default(), protocol, port: number })
    };
    PublishedSlice {
        ports: slice.ports.iter().flatten().filter_map(port).collect(),
        addresses: ready_of_slice(family, slice, settings).collect(),
    }
}

fn external_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    spec.external_ips.iter().flatten().filter_map(|ip| parse_ip(ip)).collect()
}

fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let ours = ingress.filter(|point| point.ip_mode.as_deref() != Some("Proxy"));
    ours.filter_map(|point| parse_ip(point.ip.as_deref()?)).collect()
}

fn external_name(spec: &ServiceSpec) -> Option<String> {
    let name = spec.external_name.as_deref().filter(|_| spec.service_type() == ServiceType::ExternalName)?;
    Some(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
}

fn affinity_timeout(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).and_then(|s| u64::try_from(s).ok());
    Some(Duration::from_secs(seconds.unwrap_or(10_800)))
}

fn source_ranges(service: &Service, spec: &ServiceSpec) -> Vec<IpNet> {
    if spec.service_type() != ServiceType::LoadBalancer {
        return Vec::new();
    }
    let parse = |text: &str| text.trim().parse::<IpNet>().ok().map(|net| net.trunc());
    let written = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !written.is_empty() {
        return written.iter().filter_map(|range| parse(range)).collect();
    }
    let annotation = service.metadata.annotations.as_ref().and_then(|a| a.get(SOURCE_RANGES_ANNOTATION));
    annotation.iter().flat_map(|text| text.split(',')).filter_map(parse).collect()
}

fn nonzero_port(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::ClusterSettings;
    use crate::testing::{World, pod, service, web};

    fn resolved(world: &World, name: &str) -> ResolvedService {
        resolve(&world.cluster, &ServiceName::new("default", name)).unwrap()
    }

    fn slice(name: &str, family: &str, ports: Value, endpoints: Value) -> Value {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "a"}}, "ports": ports, "endpoints": endpoints})
    }

    fn addresses(port: &ResolvedPort) -> Vec<String> {
        port.endpoints.iter().map(|e| std::net::SocketAddr::new(e.address, e.port).to_string()).collect()
    }

    #[test]
    fn ports_join_by_name_and_protocol() {
        let mut world = World::new();
        world.apply([
            service("a", json!({"ports": [{"name": "dns", "port": 53}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]})),
            slice("a-1", "IPv4", json!([{"name": "dns", "port": 5353}, {"name": "dns-udp", "port": 5354, "protocol": "UDP"}, {"name": "dns-udp2", "port": 1}]), json!([{"addresses": ["10.0.0.41", "10.0.0.42"]}])),
            slice("a-2", "IPv4", json!([{"name": "dns"}, {"name": "dns-udp", "port": 9, "protocol": "TCP"}]), json!([{"addresses": ["10.0.0.9"]}])),
            slice("a-3", "FQDN", json!([{"name": "dns", "port": 5353}]), json!([{"addresses": ["x.example"]}])),
            slice("a-4", "IPv6", json!([{"name": "dns", "port": 5353}]), json!([{"addresses": ["fd00::1"]}])),
        ]);
        let service = resolved(&world, "a");
        assert_eq!(addresses(&service.ports[0]), ["10.0.0.41:5353", "[fd00::1]:5353"]);
        assert_eq!(addresses(&service.ports[1]), ["10.0.0.41:5354"]);
        assert_eq!(service.ready_addresses.len(), 4);
    }

    #[test]
    fn absent_conditions_have_kube_proxys_defaults() {
        let mut world = World::new();
        let cases = [
            (json!({}), (true, true, false)),
            (json!({"ready": false}), (false, true, false)),
            (json!({"ready": false, "serving": false, "terminating": true}), (false, false, true)),
        ];
        for (conditions, expected) in cases {
            world.apply([
                service("a", json!({"ports": [{"port": 80}]})),
                slice(
                    "a-1",
                    "IPv4",
                    json!([{"name": "", "port": 80}]),
                    json!([{"addresses": ["10.0.0.1"], "conditions": conditions}]),
                ),
            ]);
            let endpoint = resolved(&world, "a").ports[0].endpoints[0].clone();
            assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), expected);
        }
    }

    #[test]
    fn one_endpoint_in_two_slices_is_one() {
        for (here, kept) in [(None, "n1"), (Some("n1"), "n1"), (Some("n2"), "n2"), (Some("n3"), "n1")] {
            let mut world =
                World::with(ClusterSettings { node: here.map(str::to_owned), ..ClusterSettings::default() });
            let port = || json!([{"name": "", "port": 80}]);
            world.apply([
                service("a", json!({"ports": [{"port": 80}]})),
                slice("a-1", "IPv4", port(), json!([{"addresses": ["10.0.0.1"]}])),
                slice("a-2", "IPv4", port(), json!([{"addresses": ["10.0.0.1"], "nodeName": "n1"}])),
                slice("a-3", "IPv4", port(), json!([{"addresses": ["10.0.0.1"], "nodeName": "n2"}])),
            ]);
            let endpoints = resolved(&world, "a").ports[0].endpoints.clone();
            assert_eq!((endpoints.len(), endpoints[0].node.as_deref()), (1, Some(kept)), "a gateway on {here:?}");
        }
    }

    #[test]
    fn a_weight_is_that_of_the_slice() {
        let mut world = World::new();
        let with = |number: u8, annotations: Value| {
            let address = format!("10.0.0.{number}");
            let ports = json!([{"name": "", "port": 80}]);
            let mut slice = slice(&format!("a-{number}"), "IPv4", ports, json!([{"addresses": [address]}]));
            slice["metadata"]["annotations"] = annotations;
            slice
        };
        world.apply([
            service("a", json!({"ports": [{"port": 80}]})),
            with(1, json!({})),
            with(2, json!({"service.cilium.io/weight": "7"})),
            with(3, json!({"service.cilium.io/weight": "7", "pollgate.io/weight": "0"})),
        ]);
        let weights: Vec<u16> = resolved(&world, "a").ports[0].endpoints.iter().map(|e| e.weight).collect();
        assert_eq!(weights, [100, 7, 0]);
    }

    #[test]
    fn a_service_of_another_proxy_keeps_its_name_only() {
        let mut world = World::new();
        let mut other = web("a");
        other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
        world.apply([other, pod("p", "a", "10.0.0.1")]);
        let withdrawn = resolved(&world, "a");
        assert!(!withdrawn.proxied && withdrawn.ports.is_empty() && withdrawn.cluster_ips.len() == 1);
        let commit = world.apply([web("a")]);
        assert!(commit.touched().services.contains(&ServiceName::new("default", "a")));
        let back = resolved(&world, "a");
        assert!(back.proxied && back.ports[0].endpoints.len() == 1);
    }

    #[test]
    fn everything_else_a_spec_says() {
        let mut world = World::new();
        let mut balancer = service(
            "a",
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": [" 10.0.0.0/8"], "externalIPs": ["198.51.100.1"], "ports": [{"port": 80}]}),
        );
        balancer["status"] =
            json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "Proxy"}, {"ip": "203.0.113.2"}]}});
        world.apply([
            balancer,
            service("h", json!({"clusterIP": "None", "selector": {"app": "a"}})),
            pod("p", "a", "10.0.0.1"),
        ]);
        let a = resolved(&world, "a");
        assert_eq!(a.load_balancer_ips, ["203.0.113.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(a.source_ranges, ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
        assert_eq!(a.affinity_timeout, Some(Duration::from_secs(10_800)));
        assert!(
            a.internal_local
                && a.external_local
                && a.health_check_node_port.is_some()
                && a.ports[0].node_port.is_some()
        );
        let h = resolved(&world, "h");
        assert!(h.headless && h.cluster_ips.is_empty() && h.ready_addresses.len() == 1);
        world.apply([service("e", json!({"type": "ExternalName", "externalName": "db.example.com."}))]);
        assert_eq!(resolved(&world, "e").external_name.as_deref(), Some("db.example.com"));
        assert_eq!(resolve(&world.cluster, &ServiceName::new("default", "none")), None);
    }
}

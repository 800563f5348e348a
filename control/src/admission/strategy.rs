//! Defaults, and values that an update keeps: from what was typed to what the rest of the control plane can rely on.
//!
//! Kubernetes spreads this over defaulting (`pkg/apis/core/v1/defaults.go`) and the registry's strategy
//! (`pkg/registry/core/service/strategy.go`: `patchAllocatedValues`, `NormalizeClusterIPs`, `dropTypeDependentFields`).
//! The order is theirs and matters: default, keep what was allocated, bring `clusterIP` and `clusterIPs` into line, drop
//! what the new type does not use. Only then is the object validated.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::net::IpAddr;

use ahash::HashMap;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ClientIPConfig, Node, Pod, PodIP, PodStatus, Secret, Service, ServicePort, ServiceSpec, ServiceStatus,
    SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::objects::Object;
use crate::objects::service::{ServiceType, SpecExt, parse_ip};

/// How long a client sticks to its endpoint if the Service does not say, in seconds.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// Fills in what the object leaves open, from the defaults and from its former self.
pub(crate) fn prepare(object: &mut Object, old: Option<&Object>) {
    keep_status(object, old);
    match object {
        Object::Service(service) => prepare_service(service, old.and_then(Object::as_service)),
        Object::Endpoints(endpoints) => {
            let subsets = endpoints.subsets.iter_mut().flatten();
            for port in subsets.flat_map(|subset| subset.ports.iter_mut().flatten()) {
                port.protocol.get_or_insert_with(|| "TCP".to_owned());
            }
        }
        Object::EndpointSlice(slice) => {
            for port in slice.ports.iter_mut().flatten() {
                port.name.get_or_insert_default();
                port.protocol.get_or_insert_with(|| "TCP".to_owned());
            }
        }
        Object::Pod(pod) => prepare_pod(pod),
        Object::Namespace(namespace) => {
            let phase = &mut namespace.status.get_or_insert_default().phase;
            phase.get_or_insert_with(|| "Active".to_owned());
            if let Some(name) = &namespace.metadata.name {
                let labels = namespace.metadata.labels.get_or_insert_default();
                labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
            }
        }
        Object::Secret(secret) => prepare_secret(secret),
        Object::Node(node) => prepare_node(node),
        Object::ConfigMap(_) | Object::Event(_) => {}
    }
}

/// The object without its status.
pub(crate) fn without_status(object: &Object) -> Object {
    let mut object = object.clone();
    match &mut object {
        Object::Namespace(namespace) => namespace.status = None,
        Object::Node(node) => node.status = None,
        Object::Pod(pod) => pod.status = None,
        Object::Service(service) => service.status = None,
        _ => {}
    }
    object
}

/// An update that says nothing of the status keeps it: most manifests have none. Services: see [`settle_status`].
fn keep_status(object: &mut Object, old: Option<&Object>) {
    match (object, old) {
        (Object::Namespace(new), Some(Object::Namespace(old))) if new.status.is_none() => {
            new.status.clone_from(&old.status);
        }
        (Object::Node(new), Some(Object::Node(old))) if new.status.is_none() => new.status.clone_from(&old.status),
        (Object::Pod(new), Some(Object::Pod(old))) if new.status.is_none() => new.status.clone_from(&old.status),
        _ => {}
    }
}

/// The addresses a Service requests.
pub(crate) fn explicit_addresses(service: &Service) -> impl Iterator<Item = IpAddr> + '_ {
    let wanted = service.spec.iter().filter_map(|spec| parse_ip(spec.load_balancer_ip.as_deref()?));
    crate::cluster::index::claimed_addresses(service).chain(wanted)
}

/// Of the defaults of a Pod only what a client depends on: `kubectl debug` requires the security context, and clients select by
/// restart policy and scheduler.
fn prepare_pod(pod: &mut Pod) {
    let status = pod.status.get_or_insert_default();
    status.phase.get_or_insert_with(|| "Pending".to_owned());
    settle_pod_addresses(status);
    let Some(spec) = &mut pod.spec else { return };
    spec.security_context.get_or_insert_default();
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.scheduler_name, "default-scheduler");
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for port in containers.flat_map(|container| container.ports.iter_mut().flatten()) {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
}

/// `podIP` is the first of `podIPs`; if they differ, `podIP` counts (K `Convert_v1_PodStatus_To_core_PodStatus`).
fn settle_pod_addresses(status: &mut PodStatus) {
    let first = status.pod_ips.as_ref().and_then(|ips| ips.first()).map(|first| first.ip.clone());
    match status.pod_ip.clone().filter(|ip| !ip.is_empty()) {
        None => status.pod_ip = first,
        primary if primary == first => {}
        Some(ip) => status.pod_ips = Some(vec![PodIP { ip }]),
    }
}

/// The same for `podCIDR` and `podCIDRs`.
fn prepare_node(node: &mut Node) {
    let Some(spec) = &mut node.spec else { return };
    let first = spec.pod_cidrs.as_ref().and_then(|cidrs| cidrs.first()).cloned();
    match spec.pod_cidr.clone().filter(|cidr| !cidr.is_empty()) {
        None => spec.pod_cidr = first,
        primary if primary == first => {}
        Some(cidr) => spec.pod_cidrs = Some(vec![cidr]),
    }
}

/// `stringData` is another way to write `data`, and never read back.
fn prepare_secret(secret: &mut Secret) {
    if secret.type_.as_deref().unwrap_or_default().is_empty() {
        secret.type_ = Some("Opaque".to_owned());
    }
    for (key, text) in secret.string_data.take().into_iter().flatten() {
        secret.data.get_or_insert_default().insert(key, ByteString(text.into_bytes()));
    }
}

fn prepare_service(service: &mut Service, old: Option<&Service>) {
    let spec = service.spec.get_or_insert_default();
    default(spec);
    match old.and_then(|old| old.spec.as_ref()) {
        Some(old) => {
            keep_allocated(spec, old);
            normalise_cluster_ips(spec, Some(old));
            release_secondary(spec, old);
            drop_unneeded(spec, old);
        }
        None => normalise_cluster_ips(spec, None),
    }
    settle_status(service, old);
}

/// Sets a text that is not given.
fn text(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.to_owned());
    }
}

fn default(spec: &mut ServiceSpec) {
    text(&mut spec.type_, "ClusterIP");
    text(&mut spec.session_affinity, "None");
    match spec.session_affinity.as_deref() {
        // Without affinity there is nothing to configure: as the API server, drop it silently.
        Some("None") => spec.session_affinity_config = None,
        Some("ClientIP") => {
            let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
            let client_ip = config.client_ip.get_or_insert_with(ClientIPConfig::default);
            client_ip.timeout_seconds.get_or_insert(DEFAULT_AFFINITY_SECONDS);
        }
        _ => {}
    }
    if spec.externally_accessible() {
        text(&mut spec.external_traffic_policy, "Cluster");
    }
    let kind = spec.service_type();
    if kind != ServiceType::ExternalName {
        text(&mut spec.internal_traffic_policy, "Cluster");
    }
    if kind == ServiceType::LoadBalancer {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    if spec.selector.as_ref().is_some_and(|selector| selector.is_empty()) {
        spec.selector = None;
    }
    for port in spec.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
        let open = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if open {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
}

/// An update that leaves an allocated value empty keeps it (K `patchAllocatedValues`), so that a manifest without
/// ClusterIP and node ports can be applied again and again.
fn keep_allocated(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if old.needs_cluster_ip() && spec.needs_cluster_ip() {
        if spec.cluster_ip.as_deref().unwrap_or_default().is_empty() {
            spec.cluster_ip = old.cluster_ip.clone();
        }
        if spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) && spec.cluster_ip == old.cluster_ip {
            spec.cluster_ips = old.cluster_ips.clone();
        }
        if spec.ip_families.as_ref().is_none_or(Vec::is_empty) && spec.ip_family_policy.is_none() {
            spec.ip_families = old.ip_families.clone();
            spec.ip_family_policy = old.ip_family_policy.clone();
        }
    }
    if old.allocates_node_ports() && spec.allocates_node_ports() {
        keep_node_ports(spec, old);
    }
    if old.needs_health_check_port() && spec.needs_health_check_port() && unset(spec.health_check_node_port) {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// An update to a single stack need not say which address to drop (K `trimFieldsForDualStackDowngrade`).
fn release_secondary(spec: &mut ServiceSpec, old: &ServiceSpec) {
    let dual = matches!(old.ip_family_policy.as_deref(), Some("PreferDualStack" | "RequireDualStack"));
    if !dual || spec.ip_family_policy.as_deref() != Some("SingleStack") {
        return;
    }
    for (list, old) in [(&mut spec.cluster_ips, &old.cluster_ips), (&mut spec.ip_families, &old.ip_families)] {
        if let Some(list) = list.as_mut().filter(|list| Some(&**list) == old.as_ref()) {
            list.truncate(1);
        }
    }
}

/// A port keeps the node port of the old one with its name, whatever else changed (K `patchAllocatedValues`). One that was
/// renamed, where Kubernetes gives a new one, keeps that of the old port with its number and protocol.
fn keep_node_ports(spec: &mut ServiceSpec, old: &ServiceSpec) {
    keep_node_ports_by(spec, old, |port| port.name.clone());
    keep_node_ports_by(spec, old, |port| (port.port, port.protocol.clone()));
}

fn keep_node_ports_by<K: Eq + Hash>(spec: &mut ServiceSpec, old: &ServiceSpec, identity: fn(&ServicePort) -> K) {
    let mut former: HashMap<K, Option<i32>> = HashMap::default();
    for port in old.ports() {
        former.entry(identity(port)).or_insert(port.node_port);
    }
    let mut used: BTreeSet<(Option<String>, i32)> = spec
        .ports()
        .iter()
        .filter_map(|port| Some((port.protocol.clone(), port.node_port.filter(|port| *port != 0)?)))
        .collect();
    for port in spec.ports.iter_mut().flatten().filter(|port| unset(port.node_port)) {
        let before = former.get(&identity(port)).copied().flatten();
        let Some(node_port) = before.filter(|port| *port != 0) else {
            continue;
        };
        if used.insert((port.protocol.clone(), node_port)) {
            port.node_port = Some(node_port);
        }
    }
}

/// `clusterIP` is the first of `clusterIPs`; one of them alone counts for both.
fn normalise_cluster_ips(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    if spec.cluster_ip.as_deref() == Some("") {
        spec.cluster_ip = None;
    }
    if spec.cluster_ips.as_ref().is_some_and(Vec::is_empty) {
        spec.cluster_ips = None;
    }
    let primary_changed = old.is_some_and(|old| old.cluster_ip != spec.cluster_ip);
    let list_changed = old.is_none_or(|old| old.cluster_ips != spec.cluster_ips);
    match (&spec.cluster_ip, &mut spec.cluster_ips) {
        (Some(primary), list @ None) => *list = Some(vec![primary.clone()]),
        (Some(primary), Some(list)) if primary_changed && !list_changed => list[0].clone_from(primary),
        (None, list @ Some(_)) if primary_changed && !list_changed => *list = None,
        _ => {}
    }
}

/// A change of type drops what the new type does not use, unless the same update changed it too: then it is intended, and
/// validation reports that the two do not fit (K `dropTypeDependentFields`).
fn drop_unneeded(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if old.needs_cluster_ip() && !spec.needs_cluster_ip() {
        if spec.cluster_ip == old.cluster_ip && spec.cluster_ips == old.cluster_ips {
            spec.cluster_ip = None;
            spec.cluster_ips = None;
        }
        drop_same(&mut spec.ip_families, &old.ip_families);
        drop_same(&mut spec.ip_family_policy, &old.ip_family_policy);
        drop_same(&mut spec.internal_traffic_policy, &old.internal_traffic_policy);
    }
    if old.allocates_node_ports() && !spec.allocates_node_ports() && node_ports(spec).is_subset(&node_ports(old)) {
        spec.ports.iter_mut().flatten().for_each(|port| port.node_port = None);
    }
    if old.needs_health_check_port() && !spec.needs_health_check_port() {
        drop_same(&mut spec.health_check_node_port, &old.health_check_node_port);
    }
    let balancer = |spec: &ServiceSpec| spec.service_type() == ServiceType::LoadBalancer;
    if balancer(old) && !balancer(spec) {
        drop_same(&mut spec.allocate_load_balancer_node_ports, &old.allocate_load_balancer_node_ports);
        drop_same(&mut spec.load_balancer_class, &old.load_balancer_class);
        drop_same(&mut spec.load_balancer_source_ranges, &old.load_balancer_source_ranges);
    }
    if old.externally_accessible() && !spec.externally_accessible() {
        drop_same(&mut spec.external_traffic_policy, &old.external_traffic_policy);
    }
}

fn drop_same<T: PartialEq>(field: &mut Option<T>, old: &Option<T>) {
    if field == old {
        *field = None;
    }
}

fn node_ports(spec: &ServiceSpec) -> BTreeSet<i32> {
    spec.ports().iter().filter_map(|port| port.node_port).filter(|port| *port != 0).collect()
}

fn unset(port: Option<i32>) -> bool {
    port.unwrap_or_default() == 0
}

/// A status that came with the object is kept (there may be no cloud behind this); one that did not is the old one. Only
/// a LoadBalancer has addresses in it.
fn settle_status(service: &mut Service, old: Option<&Service>) {
    let given = service.status.take().filter(says_something);
    let mut status = given.or_else(|| old?.status.clone()).unwrap_or_default();
    let kind = service.spec.as_ref().map(SpecExt::service_type);
    if kind != Some(ServiceType::LoadBalancer) {
        status.load_balancer = None;
    }
    let balancer = status.load_balancer.get_or_insert_default();
    for point in balancer.ingress.iter_mut().flatten().filter(|point| point.ip.is_some()) {
        point.ip_mode.get_or_insert_with(|| "VIP".to_owned());
    }
    service.status = Some(status);
}

/// A dumped Service without addresses carries an empty status: that must not remove the ones it has now.
fn says_something(status: &ServiceStatus) -> bool {
    let balancer = status.load_balancer.as_ref();
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
    [status.conditions.as_ref().map(Vec::len), ingress.map(Vec::len)].into_iter().flatten().any(|count| count > 0)
}

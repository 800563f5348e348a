//! Which Pods are endpoints of a Service, and why the others are not.
//!
//! ```text
//! Service.selector ─▶ Pods ─ membership ─▶ Conditions: an endpoint, ready or not
//!                               └─────────▶ Exclusion: none, and why
//! ```
//!
//! The rules are Kubernetes' (kubernetes/endpointslice `util/controller_utils.go`, `utils.go`). EndpointSlices, Endpoints and the
//! explanations of `explain` all use them, so that they cannot disagree.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::overlay::Overlay;
use crate::objects::service::{ServiceName, SpecExt, parse_ip};
use crate::objects::{Key, Kind, Object};

/// Where a Node says in which zone it is.
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// And in which region.
const REGION_LABEL: &str = "topology.kubernetes.io/region";

/// A Pod has the zone and the region of its Node as labels (K `plugin/pkg/admission/podtopologylabels`).
pub(crate) fn copy_topology(view: &Overlay<'_>, pod: &mut Pod) {
    let node = node_name(pod).and_then(|node| view.object(&Key::new(Kind::Node, "", node)));
    let found = [ZONE_LABEL, REGION_LABEL].map(|label| Some((label, node?.label(label)?.to_owned())));
    for (label, value) in found.into_iter().flatten() {
        pod.metadata.labels.get_or_insert_default().insert(label.to_owned(), value);
    }
}

/// The conditions of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
}

/// Why a Pod that matches is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exclusion {
    /// Its phase is `Failed` or `Succeeded`.
    Finished(String),
    /// It has no address.
    NoAddress,
    /// Its Node does not exist.
    NodeMissing(String),
}

/// Whether a Pod with the right labels is an endpoint, and in what condition.
pub(crate) fn membership(spec: &ServiceSpec, pod: &Pod, node_missing: bool) -> Result<Conditions, Exclusion> {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Failed" | "Succeeded") {
        return Err(Exclusion::Finished(phase.to_owned()));
    }
    if pod_addresses(pod).is_empty() {
        return Err(Exclusion::NoAddress);
    }
    let publish = spec.publish_not_ready_addresses == Some(true);
    if node_missing && !publish {
        return Err(Exclusion::NodeMissing(node_name(pod).unwrap_or_default().to_owned()));
    }
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let serving = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    Ok(Conditions { ready: publish || (serving && !terminating), serving, terminating })
}

/// The addresses of a Pod.
pub(crate) fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().filter_map(|ip| parse_ip(&ip.ip));
    let mut addresses: Vec<IpAddr> = listed.collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.as_deref().and_then(parse_ip));
    }
    addresses
}

/// The Node a Pod runs on.
pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// The number a Service port has on this Pod: a number as it is; a name by the first container that has a port of that
/// name and protocol, then by the first sidecar (an init container that is restarted always).
pub(crate) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match port.target_port.as_ref() {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let protocol = |text: &Option<String>| text.clone().unwrap_or_else(|| "TCP".to_owned());
    let mut ports = ports.filter(|candidate| {
        candidate.name.as_ref() == Some(name) && protocol(&candidate.protocol) == protocol(&port.protocol)
    });
    ports.next().map(|found| found.container_port)
}

/// One port of a slice, in a form that can be compared and ordered: name, number, protocol, application protocol.
pub(super) type SlicePort = (String, Option<i32>, Option<String>, Option<String>);
/// The ports of a slice.
pub(super) type Ports = Vec<SlicePort>;
/// A Pod that is an endpoint of a Service.
pub(super) struct Member {
    pub(super) pod: Arc<Object>,
    pub(super) conditions: Conditions,
    /// The Service's ports, as far as this Pod has them.
    pub(super) ports: Ports,
    pub(super) zone: Option<String>,
}

/// The Pods that are endpoints of a Service, by name.
pub(super) fn members(view: &Overlay<'_>, name: &ServiceName, spec: &ServiceSpec) -> Vec<Member> {
    let pods = spec.selector().map(|selector| view.selected_pods(&name.namespace, selector)).unwrap_or_default();
    pods.into_iter().filter_map(|pod| member(view, spec, pod)).collect()
}

fn member(view: &Overlay<'_>, spec: &ServiceSpec, object: Arc<Object>) -> Option<Member> {
    let pod = object.as_pod()?;
    let node = node_name(pod).and_then(|node| view.object(&Key::new(Kind::Node, "", node)));
    let node_missing = node.is_none() && node_name(pod).is_some() && view.has_nodes();
    let conditions = membership(spec, pod, node_missing).ok()?;
    let zone = node.and_then(|node| node.label(ZONE_LABEL)).map(str::to_owned);
    let ports = spec.ports().iter().filter_map(|port| {
        let name = port.name.clone().unwrap_or_default();
        Some((name, Some(find_port(pod, port)?), port.protocol.clone(), port.app_protocol.clone()))
    });
    let ports = ports.collect();
    Some(Member { pod: object, conditions, ports, zone })
}

/// The label a Pod has below the name of a headless Service: its hostname, if its subdomain is the Service's name.
pub(super) fn hostname(pod: &Pod, service: &ServiceName) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain.as_deref() == Some(&service.name)).then_some(hostname)
}

pub(super) fn reference(pod: &Object) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace().to_owned()),
        name: Some(pod.name().to_owned()),
        uid: pod.metadata().uid.clone(),
        ..Default::default()
    }
}

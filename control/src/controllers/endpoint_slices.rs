//! The endpoint controller: Pods a Service selects become EndpointSlices.
//!
//! ```text
//! Service.selector ─▶ Pods ─ judge ─▶ endpoints ─ group by resolved ports ─▶ pack, 100 a slice
//!                                                                            └ in place: a slice keeps what it has
//! ```
//!
//! The rules are Kubernetes' (kubernetes/endpointslice `util/controller_utils.go`, `utils.go`, `reconciler.go`). It works from scratch
//! each time it looks at a Service, which makes it level-triggered: whatever was missed or tampered with is put right by
//! the next look. What changes is only what has to: endpoints stay in the slice and the place they are in, room is
//! filled before slices are made, and an emptied slice is reused, so that watchers see one small change for one Pod.
//!
//! Only slices with our own `managed-by` are ours. Slices written by hand or dumped from a cluster carry another, or none.
//!
//! The same look at the Pods also gives the Service's Endpoints, the older form of the same list ([`super::endpoints_v1`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::names::generated_name;
use crate::cluster::overlay::Overlay;
use crate::objects::service::{Family, HEADLESS_LABEL, ServiceName, ServiceType, SpecExt, parse_ip};
use crate::objects::{Key, Kind, Object, SERVICE_NAME_LABEL};

use super::{endpoints_v1, hints};

/// Whose slices are whose.
pub(crate) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Ours.
pub(crate) const MANAGED_BY: &str = "endpointslice-controller.pollgate";
/// When what stands behind a Service changed last, as kube-proxy's latency metric wants to know it.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Where a Node says in which zone it is.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Endpoints packed into one slice; kube-controller-manager's default.
const SLICE_SIZE: usize = 100;

/// What an endpoint says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
}

/// Why a Pod that matches is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exclusion {
    /// It has run to its end.
    Finished(String),
    /// It has no address.
    NoAddress,
    /// Its Node is not there.
    NodeMissing(String),
}

/// Whether a Pod with the right labels is an endpoint, and in what condition.
pub(crate) fn judge(spec: &ServiceSpec, pod: &Pod, node_missing: bool) -> Result<Conditions, Exclusion> {
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

/// Brings the slices of every Service the batch may have affected up to date.
pub(super) fn run(tx: &mut Overlay<'_>) {
    for service in affected(tx) {
        reconcile(tx, &service);
    }
}

fn affected(tx: &Overlay<'_>) -> BTreeSet<ServiceName> {
    let mut services = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    for (key, old) in tx.touched() {
        let new = tx.object(key);
        let versions = [old, new];
        let versions = versions.into_iter().flatten();
        match key.kind {
            Kind::Service => drop(services.insert(ServiceName::new(&*key.namespace, &*key.name))),
            Kind::Pod => services.extend(versions.flat_map(|pod| tx.services_selecting(pod))),
            Kind::EndpointSlice => {
                services
                    .extend(versions.filter(|slice| is_ours(slice)).filter_map(|slice| ServiceName::of_slice(slice)));
            }
            Kind::Node if old.map(|node| node.label(ZONE_LABEL)) != new.map(|node| node.label(ZONE_LABEL)) => {
                nodes.insert(key.name.as_str());
            }
            Kind::Endpoints => drop(services.insert(ServiceName::new(&*key.namespace, &*key.name))),
            Kind::Node | Kind::Namespace | Kind::Event => {}
        }
    }
    if !nodes.is_empty() {
        // With the first Node, and without the last one, the rule of the missing Node begins and ends for every Pod.
        let all = tx.has_nodes() != tx.had_nodes();
        let on_them = |pod: &Arc<Object>| all || pod.as_pod().and_then(node_name).is_some_and(|n| nodes.contains(n));
        let pods = tx.objects(Kind::Pod, None).into_iter().filter(on_them);
        services.extend(pods.flat_map(|pod| tx.services_selecting(&pod)));
    }
    services
}

fn reconcile(tx: &mut Overlay<'_>, name: &ServiceName) {
    let Some(object) = tx.object(&name.key()).cloned() else {
        return;
    };
    let Some(service) = object.as_service() else {
        return;
    };
    let Some(spec) = &service.spec else { return };
    let ours = own_slices(tx, name, service);
    let families = match (spec.service_type(), spec.selector()) {
        (ServiceType::ExternalName, _) => Vec::new(),
        // A selector taken away leaves the endpoints to whoever took it away.
        (_, None) => return,
        (_, Some(_)) => spec.families(),
    };
    for slice in ours.iter().filter(|slice| !Family::parse(&slice.address_type).is_some_and(|f| families.contains(&f)))
    {
        tx.remove(&key(slice));
    }
    let Some(&primary) = families.first() else {
        return endpoints_v1::remove(tx, name);
    };
    let members = members(tx, name, spec);
    for family in families {
        let own = ours.iter().filter(|slice| slice.address_type == family.as_str()).cloned().collect();
        let Packing { keep, spare } = pack(own, grouped(&members, name, spec, family));
        for slice in spare {
            tx.remove(&key(&slice));
        }
        for slice in keep {
            put_slice(tx, slice, service, name, family);
        }
    }
    endpoints_v1::write(tx, name, service, &members, primary);
}

/// The controller's own slices of a Service. Those it made for another Service of that name, as their owner says, are removed:
/// who watches them learns that they are others now.
fn own_slices(tx: &mut Overlay<'_>, name: &ServiceName, service: &Service) -> Vec<EndpointSlice> {
    let slices = tx.slices(name).into_iter().filter(|slice| is_ours(slice));
    let (own, former): (Vec<_>, Vec<_>) = slices.partition(|slice| owner_uid(slice) == service.metadata.uid.as_deref());
    for slice in former {
        tx.remove(&slice.key());
    }
    own.iter().filter_map(|slice| slice.as_slice().cloned()).collect()
}

fn owner_uid(slice: &Object) -> Option<&str> {
    let owners = slice.metadata().owner_references.as_ref()?;
    Some(owners.iter().find(|owner| owner.kind == "Service")?.uid.as_str())
}

/// Whether a slice goes when its Service goes: a controller made it, or it names the Service as its owner. By name alone:
/// a dumped slice carries a dumped uid.
pub(crate) fn belongs_to(slice: &Object, service: &ServiceName) -> bool {
    let owners = slice.metadata().owner_references.iter().flatten();
    let mut owners = owners.filter(|owner| owner.kind == "Service" && owner.name == service.name);
    is_ours(slice) || super::mirror::is_ours(slice) || owners.next().is_some()
}

/// One port of a slice, in a form that can be compared and ordered: name, number, protocol, application protocol.
pub(super) type SlicePort = (String, Option<i32>, Option<String>, Option<String>);
/// The ports of a slice.
pub(super) type Ports = Vec<SlicePort>;
/// Endpoints by Pod.
type Endpoints = BTreeMap<String, Endpoint>;

/// A Pod that stands behind a Service.
pub(super) struct Member {
    pub(super) pod: Arc<Object>,
    pub(super) conditions: Conditions,
    /// The Service's ports, as far as this Pod has them.
    pub(super) ports: Ports,
    zone: Option<String>,
}

/// The Pods behind a Service, by name.
fn members(tx: &Overlay<'_>, name: &ServiceName, spec: &ServiceSpec) -> Vec<Member> {
    let pods = spec.selector().map(|selector| tx.selected_pods(&name.namespace, selector)).unwrap_or_default();
    pods.into_iter().filter_map(|pod| member(tx, spec, pod)).collect()
}

fn member(tx: &Overlay<'_>, spec: &ServiceSpec, object: Arc<Object>) -> Option<Member> {
    let pod = object.as_pod()?;
    let node = node_name(pod).and_then(|node| tx.object(&Key::new(Kind::Node, "", node)));
    let node_missing = node.is_none() && node_name(pod).is_some() && tx.has_nodes();
    let conditions = judge(spec, pod, node_missing).ok()?;
    let zone = node.and_then(|node| node.label(ZONE_LABEL)).map(str::to_owned);
    let ports = spec.ports().iter().filter_map(|port| {
        let name = port.name.clone().unwrap_or_default();
        Some((name, Some(find_port(pod, port)?), port.protocol.clone(), port.app_protocol.clone()))
    });
    let ports = ports.collect();
    Some(Member { pod: object, conditions, ports, zone })
}

/// The endpoints of one family, those with the same ports together. A Pod without an address of it is none of them.
fn grouped(members: &[Member], name: &ServiceName, spec: &ServiceSpec, family: Family) -> BTreeMap<Ports, Endpoints> {
    let mut groups: BTreeMap<Ports, Endpoints> = BTreeMap::new();
    for member in members {
        let Some(endpoint) = endpoint(member, name, spec, family) else { continue };
        groups.entry(member.ports.clone()).or_default().insert(member.pod.name().to_owned(), endpoint);
    }
    groups
}

fn endpoint(member: &Member, service: &ServiceName, spec: &ServiceSpec, family: Family) -> Option<Endpoint> {
    let (pod, conditions) = (member.pod.as_pod()?, member.conditions);
    let address = pod_addresses(pod).into_iter().find(|address| Family::of(*address) == family)?;
    let mut endpoint = Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(conditions.ready),
            serving: Some(conditions.serving),
            terminating: Some(conditions.terminating),
        }),
        hostname: hostname(pod, service),
        node_name: node_name(pod).map(str::to_owned),
        target_ref: Some(reference(&member.pod)),
        zone: member.zone.clone(),
        ..Default::default()
    };
    endpoint.hints = hints::of(spec, &endpoint);
    Some(endpoint)
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

/// The slices of one family as they should be, and those no longer needed.
struct Packing {
    keep: Vec<EndpointSlice>,
    spare: Vec<EndpointSlice>,
}

/// Puts endpoints into slices, disturbing as little as can be. Slices that are new have no name yet.
fn pack(own: Vec<EndpointSlice>, mut wanted: BTreeMap<Ports, Endpoints>) -> Packing {
    let mut packing = Packing { keep: Vec::new(), spare: Vec::new() };
    let mut by_ports: BTreeMap<Ports, Vec<(bool, EndpointSlice)>> = BTreeMap::new();
    for mut slice in own {
        let ports = ports_of(&slice);
        let before = slice.endpoints.len();
        let Some(group) = wanted.get_mut(&ports) else {
            packing.spare.push(slice);
            continue;
        };
        let old = std::mem::take(&mut slice.endpoints);
        slice.endpoints = old.iter().filter_map(|endpoint| group.remove(pod_of(endpoint)?)).collect();
        let changed = slice.endpoints.len() != before || slice.endpoints != old;
        match slice.endpoints.is_empty() {
            true => packing.spare.push(slice),
            false => by_ports.entry(ports).or_default().push((changed, slice)),
        }
    }
    for (ports, group) in wanted {
        let slices = by_ports.remove(&ports).unwrap_or_default();
        fill(&mut packing, &ports, slices, group.into_values().collect());
    }
    if packing.keep.is_empty() {
        let mut placeholder = packing.spare.pop().unwrap_or_default();
        placeholder.endpoints = Vec::new();
        placeholder.ports = Some(Vec::new());
        packing.keep.push(placeholder);
    }
    packing
}

/// New endpoints go where something changes anyway, then into the fullest slice with room, then into fresh ones.
fn fill(packing: &mut Packing, ports: &Ports, mut slices: Vec<(bool, EndpointSlice)>, endpoints: Vec<Endpoint>) {
    slices.sort_by_key(|(changed, slice)| (!*changed, std::cmp::Reverse(slice.endpoints.len())));
    let mut endpoints = endpoints.into_iter().peekable();
    for (_, mut slice) in slices {
        let room = SLICE_SIZE.saturating_sub(slice.endpoints.len());
        slice.endpoints.extend(endpoints.by_ref().take(room));
        packing.keep.push(slice);
    }
    while endpoints.peek().is_some() {
        let mut slice = packing.spare.pop().unwrap_or_default();
        slice.endpoints = endpoints.by_ref().take(SLICE_SIZE).collect();
        slice.ports = Some(ports.iter().cloned().map(port_of).collect());
        packing.keep.push(slice);
    }
}

pub(super) fn ports_of(slice: &EndpointSlice) -> Ports {
    let ports = slice.ports.iter().flatten();
    ports.map(|p| (p.name.clone().unwrap_or_default(), p.port, p.protocol.clone(), p.app_protocol.clone())).collect()
}

pub(super) fn port_of((name, port, protocol, app_protocol): SlicePort) -> EndpointPort {
    EndpointPort { name: Some(name), port, protocol, app_protocol }
}

fn pod_of(endpoint: &Endpoint) -> Option<&str> {
    endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?.name.as_deref()
}

/// Puts a slice in place; one that says nothing new stays as it is, trigger time included.
fn put_slice(tx: &mut Overlay<'_>, mut slice: EndpointSlice, service: &Service, name: &ServiceName, family: Family) {
    if slice.metadata.name.is_none() {
        slice.metadata.name = Some(free_name(tx, name, family.as_str()));
        slice.metadata.generate_name = Some(format!("{}-", name.name));
    }
    slice.metadata.namespace = Some(name.namespace.clone());
    slice.address_type = family.as_str().to_owned();
    slice.metadata.labels = Some(labels(service, name));
    slice.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: name.name.clone(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]);
    let before = tx.object(&key(&slice)).and_then(|object| object.as_slice());
    if before != Some(&slice) {
        let annotations = slice.metadata.annotations.get_or_insert_default();
        annotations.insert(TRIGGER_TIME.to_owned(), tx.now().to_string());
        tx.put(Object::EndpointSlice(Box::new(slice)));
    }
}

/// The Service's labels, and those that say what this slice is.
fn labels(service: &Service, name: &ServiceName) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if service.spec.as_ref().is_some_and(SpecExt::is_headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME_LABEL.to_owned(), name.name.clone());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels
}

/// `<service>-` and five characters that follow from the name and `salt`; the next five while those are taken.
pub(super) fn free_name(tx: &Overlay<'_>, service: &ServiceName, salt: &str) -> String {
    let prefix = format!("{}-", service.name);
    let names = (0u64..).map(|n| generated_name(&prefix, &format!("{service}/{salt}/{n}")));
    let mut free =
        names.filter(|name| tx.object(&Key::new(Kind::EndpointSlice, &*service.namespace, &**name)).is_none());
    free.next().unwrap_or_default()
}

fn is_ours(slice: &Object) -> bool {
    slice.label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
}

fn key(slice: &EndpointSlice) -> Key {
    let metadata = &slice.metadata;
    Key::new(
        Kind::EndpointSlice,
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests;

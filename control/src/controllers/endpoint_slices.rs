//! The endpoint controller: Pods a Service selects become EndpointSlices.
//!
//! ```text
//! Service.selector ─▶ Pods ─ membership ─▶ endpoints ─ group by ports, weight ─▶ pack, 100 per slice
//!                                                                                 └ in place: a slice keeps what it has
//! ```
//!
//! The rules are Kubernetes' (kubernetes/endpointslice `reconciler.go`). It works from scratch each time it looks at a
//! Service, which makes it level-triggered: whatever was missed or tampered with is repaired by the next look. Only what
//! has to change does: see [`super::slices`].
//!
//! Only slices with our `managed-by` are ours: Kubernetes' by default, so that those dumped from a cluster with their Services are
//! taken over, as its controller would; with another setting a name that no cluster has. Slices written by hand have none.
//!
//! The same look at the Pods also gives the Service's Endpoints, the older form of the same list ([`super::endpoints_v1`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::membership::{Member, ZONE_LABEL, hostname, members, node_name, pod_addresses, reference};
use super::slices::{Endpoints, Group, MANAGED_BY_LABEL, Packing, free_name, is_ours, owner_uid, pack};
use super::{endpoints_v1, hints};
use crate::admission::validate::names::unusable_address;
use crate::cluster::overlay::Overlay;
use crate::cluster::settings::SliceManager;
use crate::objects::service::{Family, HEADLESS_LABEL, ServiceName, ServiceType, SpecExt};
use crate::objects::trigger::TRIGGER_TIME;
use crate::objects::weight;
use crate::objects::{Key, Kind, Object, SERVICE_NAME_LABEL};

/// Brings the slices of every Service the batch may have affected up to date.
pub(super) fn run(view: &mut Overlay<'_>) {
    for service in affected(view) {
        reconcile(view, &service);
    }
}

fn affected(view: &Overlay<'_>) -> BTreeSet<ServiceName> {
    let mut services = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    let manager = view.settings().slice_manager;
    for (key, old) in view.touched() {
        let new = view.object(key);
        let versions = [old, new];
        let versions = versions.into_iter().flatten();
        match key.kind {
            Kind::Service => drop(services.insert(ServiceName::new(&*key.namespace, &*key.name))),
            Kind::Pod => services.extend(versions.flat_map(|pod| view.services_selecting(pod))),
            Kind::EndpointSlice => {
                services.extend(
                    versions.filter(|slice| is_ours(manager, slice)).filter_map(|slice| ServiceName::of_slice(slice)),
                );
            }
            Kind::Node if old.map(|node| node.label(ZONE_LABEL)) != new.map(|node| node.label(ZONE_LABEL)) => {
                nodes.insert(key.name.as_str());
            }
            Kind::Endpoints => drop(services.insert(ServiceName::new(&*key.namespace, &*key.name))),
            Kind::Node | Kind::Namespace | Kind::ConfigMap | Kind::Secret | Kind::Event => {}
        }
    }
    if !nodes.is_empty() {
        // The rule of the missing Node begins for every Pod with the first Node and ends with the last one.
        let all = view.has_nodes() != view.had_nodes();
        let on_them = |pod: &Arc<Object>| all || pod.as_pod().and_then(node_name).is_some_and(|n| nodes.contains(n));
        let pods = view.objects(Kind::Pod, None).into_iter().filter(on_them);
        services.extend(pods.flat_map(|pod| view.services_selecting(&pod)));
    }
    services
}

fn reconcile(view: &mut Overlay<'_>, name: &ServiceName) {
    let Some(object) = view.object(&name.key()).cloned() else {
        return;
    };
    let Some(service) = object.as_service() else {
        return;
    };
    let Some(spec) = &service.spec else { return };
    let families = match (spec.service_type(), spec.selector()) {
        (ServiceType::ExternalName, _) => Vec::new(),
        // When a selector is removed, its endpoints stay for the client to manage.
        (_, None) => return,
        (_, Some(_)) => spec.families(),
    };
    let ours = own_slices(view, name, service);
    for slice in ours.iter().filter(|slice| !Family::parse(&slice.address_type).is_some_and(|f| families.contains(&f)))
    {
        view.remove(&key(slice));
    }
    let Some(&primary) = families.first() else {
        return endpoints_v1::remove(view, name);
    };
    let members = members(view, name, spec);
    let triggered = is_triggered(view, name, &members);
    for family in families {
        let own = ours.iter().filter(|slice| slice.address_type == family.as_str()).cloned().collect();
        let Packing { keep, spare } = pack(own, grouped(&members, name, spec, family));
        for slice in spare {
            view.remove(&key(&slice));
        }
        for mut slice in keep {
            slice.address_type = family.as_str().to_owned();
            put_slice(view, slice, service, name, triggered);
        }
    }
    endpoints_v1::write(view, name, service, &members, primary);
}

/// The controller's own slices of a Service. Those it made for another Service of that name, by their owner's uid, are
/// removed, so that watchers see a deletion.
fn own_slices(view: &mut Overlay<'_>, name: &ServiceName, service: &Service) -> Vec<EndpointSlice> {
    let manager = view.settings().slice_manager;
    let slices = view.slices(name).into_iter().filter(|slice| is_ours(manager, slice));
    let (own, former): (Vec<_>, Vec<_>) = slices.partition(|slice| owner_uid(slice) == service.metadata.uid.as_deref());
    for slice in former {
        view.remove(&slice.key());
    }
    own.iter().filter_map(|slice| slice.as_slice().cloned()).collect()
}

/// The endpoints of one family, those with the same ports and weight together. A Pod without an address of it is none of them.
fn grouped(members: &[Member], name: &ServiceName, spec: &ServiceSpec, family: Family) -> BTreeMap<Group, Endpoints> {
    let mut groups: BTreeMap<Group, Endpoints> = BTreeMap::new();
    for member in members {
        let Some(endpoint) = endpoint(member, name, spec, family) else { continue };
        let weight = weight::of_pod(member.pod.metadata()).map(|weight| weight.to_string());
        let group = Group { ports: member.ports.clone(), weight };
        groups.entry(group).or_default().insert(member.pod.name().to_owned(), endpoint);
    }
    groups
}

fn endpoint(member: &Member, service: &ServiceName, spec: &ServiceSpec, family: Family) -> Option<Endpoint> {
    let (pod, conditions) = (member.pod.as_pod()?, member.conditions);
    let address = pod_addresses(pod).into_iter().find(|address| Family::of(*address) == family)?;
    // A slice with such an address would be refused, and with it all its other endpoints.
    if unusable_address("", address).is_some() {
        return None;
    }
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

/// Stores a slice; one that did not change stays as it is, trigger time included.
fn put_slice(view: &mut Overlay<'_>, mut slice: EndpointSlice, service: &Service, name: &ServiceName, triggered: bool) {
    if slice.metadata.name.is_none() {
        slice.metadata.name = Some(free_name(view, name, &slice.address_type));
        slice.metadata.generate_name = Some(format!("{}-", name.name));
    }
    slice.metadata.namespace = Some(name.namespace.clone());
    slice.metadata.labels = Some(labels(service, name, view.settings().slice_manager));
    slice.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: name.name.clone(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]);
    let before = view.object(&key(&slice)).and_then(|object| object.as_slice());
    if before != Some(&slice) {
        let annotations = slice.metadata.annotations.get_or_insert_default();
        match triggered {
            true => drop(annotations.insert(TRIGGER_TIME.to_owned(), view.now().to_string())),
            false => drop(annotations.remove(TRIGGER_TIME)),
        }
        view.put(Object::EndpointSlice(Box::new(slice)));
    }
}

/// Whether what changed is something whose effect is to be measured: a Service that is new, or a Pod that became ready or stopped
/// being so (kubernetes/endpointslice `trigger_time_tracker.go`). Other changes leave no trigger time.
fn is_triggered(view: &Overlay<'_>, name: &ServiceName, members: &[Member]) -> bool {
    let service = name.key();
    let ready = |pod: &Object| {
        let conditions = pod.as_pod().and_then(|pod| pod.status.as_ref()?.conditions.clone());
        conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready")
    };
    view.touched().any(|(key, old)| match key.kind {
        Kind::Service => *key == service && old.is_none(),
        Kind::Pod => {
            let member = members.iter().find(|member| member.pod.key() == *key);
            member.is_some_and(|member| ready(&member.pod) != old.and_then(|old| ready(old)))
        }
        _ => false,
    })
}

/// The Service's labels, and those that say what this slice is.
fn labels(service: &Service, name: &ServiceName, manager: SliceManager) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if service.spec.as_ref().is_some_and(SpecExt::is_headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME_LABEL.to_owned(), name.name.clone());
    labels.insert(MANAGED_BY_LABEL.to_owned(), manager.endpoints().to_owned());
    labels
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

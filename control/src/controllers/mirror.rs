//! Endpoints written by hand become EndpointSlices, so that a Service without a selector is served by either form.
//!
//! ```text
//! Endpoints ─ subsets ─ by family and ports ─▶ EndpointSlices of the same name
//! ```
//!
//! The rules are Kubernetes' (K `pkg/controller/endpointslicemirroring`): only where the Service is there and has no selector, not
//! where the Endpoints are labelled `endpointslice.kubernetes.io/skip-mirror: "true"` (their author writes slices too) or hold a
//! leader's lock; at most 1,000 addresses of a subset, ready ones first; addresses are normalised; what is no address is left
//! out. What is ours is told by `managed-by`, as with slices from Pods.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::membership::Ports;
use super::slices::{MANAGED_BY_LABEL, free_name, port_of, ports_of};
use crate::admission::apply::LAST_APPLIED;
use crate::cluster::overlay::Overlay;
use crate::cluster::settings::SliceManager;
use crate::objects::service::{Family, ServiceName, SpecExt, parse_ip};
use crate::objects::trigger::TRIGGER_TIME;
use crate::objects::{Key, Kind, Object, SERVICE_NAME_LABEL};

/// Says that the author of the Endpoints writes slices too.
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are no endpoints but a lock.
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";
/// Most addresses taken of one subset, and most of one slice.
const SLICE_CAPACITY: usize = 1000;

/// Whether this controller made the slice.
pub(crate) fn is_ours(manager: SliceManager, slice: &Object) -> bool {
    slice.label(MANAGED_BY_LABEL).is_some_and(|label| manager.is_ours(label, SliceManager::mirror))
}

/// Brings the mirrors of all Endpoints the batch may have affected up to date.
pub(super) fn run(view: &mut Overlay<'_>) {
    for name in affected(view) {
        reconcile(view, &name);
    }
}

fn affected(view: &Overlay<'_>) -> BTreeSet<ServiceName> {
    let mut names = BTreeSet::new();
    let manager = view.settings().slice_manager;
    for (key, old) in view.touched() {
        match key.kind {
            Kind::Service | Kind::Endpoints => drop(names.insert(ServiceName::new(&*key.namespace, &*key.name))),
            Kind::EndpointSlice => {
                let versions = [old, view.object(key)].into_iter().flatten();
                names.extend(
                    versions.filter(|slice| is_ours(manager, slice)).filter_map(|slice| ServiceName::of_slice(slice)),
                );
            }
            _ => {}
        }
    }
    names
}

fn reconcile(view: &mut Overlay<'_>, name: &ServiceName) {
    let mut own = own_slices(view, name);
    let source = view.object(&Key::new(Kind::Endpoints, &*name.namespace, &*name.name)).cloned();
    let source =
        source.as_ref().and_then(|object| object.as_endpoints()).filter(|source| is_mirrored(view, name, source));
    for ((family, ports), endpoints) in source.map(wanted).unwrap_or_default() {
        for endpoints in endpoints.chunks(SLICE_CAPACITY) {
            let same = |slice: &EndpointSlice| slice.address_type == family.as_str() && ports_of(slice) == ports;
            let mut slice = own.iter().position(same).map(|at| own.remove(at)).unwrap_or_default();
            slice.address_type = family.as_str().to_owned();
            slice.ports = Some(ports.iter().cloned().map(port_of).collect());
            slice.endpoints = endpoints.to_vec();
            put_slice(view, slice, name, source);
        }
    }
    for slice in own {
        view.remove(&Object::EndpointSlice(Box::new(slice)).key());
    }
}

fn own_slices(view: &Overlay<'_>, name: &ServiceName) -> Vec<EndpointSlice> {
    let manager = view.settings().slice_manager;
    view.slices(name)
        .iter()
        .filter(|slice| is_ours(manager, slice))
        .filter_map(|slice| slice.as_slice().cloned())
        .collect()
}

fn is_mirrored(view: &Overlay<'_>, name: &ServiceName, endpoints: &Endpoints) -> bool {
    let metadata = &endpoints.metadata;
    let skipped = metadata.labels.as_ref().and_then(|labels| labels.get(SKIP_LABEL)).is_some_and(|skip| skip == "true");
    let lock = metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER_ANNOTATION));
    let spec = view.object(&name.key()).and_then(|object| object.as_service()?.spec.as_ref());
    let by_hand = spec.is_some_and(|spec| spec.needs_cluster_ip() && spec.selector().is_none());
    by_hand && !skipped && !lock
}

/// Endpoints by family and ports. Subsets with the same ports are one.
fn wanted(endpoints: &Endpoints) -> BTreeMap<(Family, Ports), Vec<Endpoint>> {
    let mut wanted: BTreeMap<(Family, Ports), Vec<Endpoint>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        for (family, endpoint) in addresses(subset).take(SLICE_CAPACITY) {
            let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
            // An address may stand in two subsets of the same ports; what is there first is what counts.
            if seen.insert((ports.clone(), endpoint.addresses.clone(), uid)) {
                wanted.entry((family, ports.clone())).or_default().push(endpoint);
            }
        }
    }
    wanted
}

fn ports(subset: &EndpointSubset) -> Ports {
    let ports = subset.ports.iter().flatten();
    let mut ports: Ports = ports
        .map(|p| (p.name.clone().unwrap_or_default(), Some(p.port), p.protocol.clone(), p.app_protocol.clone()))
        .collect();
    ports.sort();
    ports
}

fn addresses(subset: &EndpointSubset) -> impl Iterator<Item = (Family, Endpoint)> + '_ {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    ready.chain(not_ready).filter_map(|(address, ready)| endpoint(address, ready))
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(Family, Endpoint)> {
    let ip = parse_ip(&address.ip)?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    };
    Some((Family::of(ip), endpoint))
}

fn put_slice(view: &mut Overlay<'_>, mut slice: EndpointSlice, name: &ServiceName, source: Option<&Endpoints>) {
    let metadata = source.map(|source| source.metadata.clone()).unwrap_or_default();
    if slice.metadata.name.is_none() {
        slice.metadata.name = Some(free_name(view, name, &slice.address_type));
        slice.metadata.generate_name = Some(format!("{}-", name.name));
    }
    slice.metadata.namespace = Some(name.namespace.clone());
    let mut labels = metadata.labels.unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), name.name.clone());
    labels.insert(MANAGED_BY_LABEL.to_owned(), view.settings().slice_manager.mirror().to_owned());
    slice.metadata.labels = Some(labels);
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.retain(|key, _| key != LAST_APPLIED && key != TRIGGER_TIME);
    slice.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    slice.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Endpoints".to_owned(),
        name: name.name.clone(),
        uid: metadata.uid.unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]);
    view.put(Object::EndpointSlice(Box::new(slice)));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::compile::resolve::resolve;
    use crate::testing::{World, pod, service, web};

    fn endpoints(subsets: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "a"}, "subsets": subsets})
    }

    fn db() -> Value {
        service("a", json!({"ports": [{"name": "sql", "port": 5432}]}))
    }

    fn one(ip: &str) -> Value {
        endpoints(json!([{"addresses": [{"ip": ip}], "ports": [{"name": "sql", "port": 5432}]}]))
    }

    /// Endpoints of each mirrored slice: `type ports: address=ready …`.
    fn mirrored(world: &World) -> Vec<String> {
        let slices = world.slices("a").into_iter().filter(|slice| {
            slice
                .metadata
                .labels
                .as_ref()
                .is_some_and(|labels| labels[MANAGED_BY_LABEL] == SliceManager::Kubernetes.mirror())
        });
        let mut shown: Vec<String> = slices
            .map(|slice| {
                let ports: Vec<String> = slice.ports.iter().flatten().map(|p| p.port.unwrap().to_string()).collect();
                let endpoints = slice.endpoints.iter().map(|endpoint| {
                    let conditions = endpoint.conditions.clone().unwrap();
                    assert_eq!((conditions.serving, conditions.terminating), (None, None));
                    format!(" {}={}", endpoint.addresses[0], conditions.ready.unwrap())
                });
                format!("{} {}:{}", slice.address_type, ports.join(","), endpoints.collect::<String>())
            })
            .collect();
        shown.sort();
        shown
    }

    #[test]
    fn endpoints_by_hand_serve_a_service_without_a_selector() {
        let mut world = World::new();
        world.apply([
            db(),
            endpoints(json!([
                {"addresses": [{"ip": "10.0.0.41", "nodeName": "n1", "hostname": "h"}, {"ip": "fd00:0:0::1"}],
                 "notReadyAddresses": [{"ip": "10.0.0.42"}], "ports": [{"name": "sql", "port": 5432}]},
                {"addresses": [{"ip": "10.0.0.43"}], "ports": [{"name": "sql", "port": 5433}]},
            ])),
        ]);
        let expected =
            ["IPv4 5432: 10.0.0.41=true 10.0.0.42=false", "IPv4 5433: 10.0.0.43=true", "IPv6 5432: fd00::1=true"];
        assert_eq!(mirrored(&world), expected);
        let served = resolve(&world.cluster, &ServiceName::new("default", "a")).unwrap();
        let ready = served.ports[0].endpoints.iter().filter(|e| e.ready).count();
        assert_eq!(ready, 3);
        let slices = world.slices("a");
        let slice = slices.iter().find(|slice| slice.endpoints[0].hostname.as_deref() == Some("h")).unwrap();
        assert_eq!(slice.endpoints[0].node_name.as_deref(), Some("n1"));
        let owner = &slice.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Endpoints", "a"));
        assert!(slice.metadata.annotations.is_none(), "the manifest that was applied is not the slice's");
    }

    #[test]
    fn a_mirror_follows_its_endpoints_and_is_put_right() {
        let mut world = World::new();
        world.apply([one("10.0.0.1")]);
        assert!(mirrored(&world).is_empty(), "no Service");
        world.apply([db()]);
        assert_eq!(mirrored(&world), ["IPv4 5432: 10.0.0.1=true"]);
        let name = world.slices("a")[0].metadata.name.clone().unwrap();
        let commit = world.apply([one("10.0.0.2")]);
        assert_eq!(commit.changes.len(), 2);
        assert_eq!(
            (mirrored(&world), &world.slices("a")[0].metadata.name),
            (vec!["IPv4 5432: 10.0.0.2=true".to_owned()], &Some(name.clone()))
        );
        world.delete(Kind::EndpointSlice, &name);
        assert_eq!(mirrored(&world), ["IPv4 5432: 10.0.0.2=true"]);
        world.delete(Kind::Endpoints, "a");
        assert!(world.slices("a").is_empty());
        world.apply([one("10.0.0.2")]);
        world.delete(Kind::Service, "a");
        assert!(world.slices("a").is_empty());
        assert_eq!(world.cluster.objects(Kind::Endpoints, None).count(), 0);
    }

    #[test]
    fn every_exception() {
        let mut world = World::new();
        for (field, value) in
            [("labels", json!({SKIP_LABEL: "true"})), ("annotations", json!({LEADER_ANNOTATION: "{}"}))]
        {
            let mut skipped = one("10.0.0.1");
            skipped["metadata"][field] = value;
            world.apply([db(), skipped]);
            assert!(world.slices("a").is_empty(), "{field}");
            world.apply([one("10.0.0.1")]);
            assert_eq!(mirrored(&world).len(), 1, "{field} is gone");
        }
        // With a selector the slices come from Pods, and the Endpoints follow them.
        world.apply([web("a"), pod("p", "a", "10.0.0.9")]);
        assert!(mirrored(&world).is_empty());
        assert_eq!(world.slices("a")[0].endpoints[0].addresses, ["10.0.0.9"]);
    }

    #[test]
    fn a_subset_is_mirrored_up_to_a_thousand() {
        let mut world = World::new();
        let many = |third: usize, count: usize| -> Vec<Value> {
            (0..count).map(|i| json!({"ip": format!("10.{third}.{}.{}", i / 200, i % 200 + 1)})).collect()
        };
        let ports = json!([{"name": "sql", "port": 5432}]);
        world.apply([
            db(),
            endpoints(json!([
                {"addresses": many(1, 990), "notReadyAddresses": many(2, 20), "ports": ports},
                {"addresses": many(3, 5), "ports": ports},
            ])),
        ]);
        let mut sizes: Vec<usize> = world.slices("a").iter().map(|slice| slice.endpoints.len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [5, 1000]);
    }
}

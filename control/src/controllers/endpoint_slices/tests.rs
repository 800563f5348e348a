use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::cluster::Write;
use crate::controllers::membership::find_port;
use crate::controllers::slices::port_of;
use crate::testing::{World, node, object, pod, service, web};

/// Patches a Pod, asks for its endpoint: (ready, serving, terminating), or nothing.
fn conditions(patch: Value, publish: bool) -> Option<(bool, bool, bool)> {
    let mut world = World::new();
    let mut value = pod("p", "a", "10.0.0.1");
    for (path, patch) in patch.as_object().unwrap() {
        *value.pointer_mut(path).unwrap() = patch.clone();
    }
    let spec = json!({"selector": {"app": "a"}, "publishNotReadyAddresses": publish, "ports": [{"port": 80}]});
    world.apply([service("a", spec), value]);
    let slices = world.slices("a");
    assert_eq!(slices.len(), 1);
    let conditions = slices[0].endpoints.first()?.conditions.clone()?;
    Some((conditions.ready?, conditions.serving?, conditions.terminating?))
}

/// K TestShouldPodBeInEndpoints and TestPodToEndpoint.
#[test]
fn every_state_of_a_pod() {
    let gone = json!({"name": "p", "labels": {"app": "a"}, "deletionTimestamp": "2024-01-01T00:00:00Z"});
    let cases = [
        ("running and ready", json!({}), Some((true, true, false)), Some((true, true, false))),
        ("failed", json!({"/status/phase": "Failed"}), None, None),
        ("succeeded", json!({"/status/phase": "Succeeded"}), None, None),
        ("without an address", json!({"/status/podIP": null}), None, None),
        (
            "pending",
            json!({"/status/phase": "Pending", "/status/conditions": []}),
            Some((false, false, false)),
            Some((true, false, false)),
        ),
        (
            "unknown, once ready",
            json!({"/status/phase": "Unknown"}),
            Some((true, true, false)),
            Some((true, true, false)),
        ),
        (
            "not ready",
            json!({"/status/conditions/0/status": "False"}),
            Some((false, false, false)),
            Some((true, false, false)),
        ),
        ("no condition", json!({"/status/conditions": []}), Some((false, false, false)), Some((true, false, false))),
        ("terminating", json!({"/metadata": gone}), Some((false, true, true)), Some((true, true, true))),
        (
            "terminating, not ready",
            json!({"/metadata": gone, "/status/conditions": []}),
            Some((false, false, true)),
            Some((true, false, true)),
        ),
    ];
    for (name, patch, plain, published) in cases {
        assert_eq!(conditions(patch.clone(), false), plain, "{name}");
        assert_eq!(conditions(patch, true), published, "{name}, publishNotReadyAddresses");
    }
}

#[test]
fn a_slice_says_whose_it_is() {
    let mut world = World::new();
    let mut web = web("a");
    web["metadata"]["labels"] = json!({"team": "x", "service.kubernetes.io/headless": "lie"});
    let mut pod = pod("p", "a", "1234::5678:0000:0000:9abc:def0");
    pod["spec"]["nodeName"] = json!("n1");
    pod["spec"]["hostname"] = json!("h");
    pod["spec"]["subdomain"] = json!("a");
    pod["status"]["podIPs"] = json!([{"ip": "1234::5678:0000:0000:9abc:def0"}, {"ip": "10.0.0.1"}]);
    world.apply([web, pod, node("n1", "z1")]);
    let slices = world.slices("a");
    let slice = &slices[0];
    let labels: Vec<(&str, &str)> = slice.metadata.labels.iter().flatten().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(
        labels,
        [
            ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"),
            ("kubernetes.io/service-name", "a"),
            ("team", "x")
        ]
    );
    assert!(slice.metadata.name.as_ref().unwrap().starts_with("a-"));
    assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].uid, world.service("a").metadata.uid.unwrap());
    let endpoint = &slice.endpoints[0];
    assert_eq!(
        (
            endpoint.addresses[0].as_str(),
            endpoint.hostname.as_deref(),
            endpoint.zone.as_deref(),
            endpoint.node_name.as_deref()
        ),
        ("10.0.0.1", Some("h"), Some("z1"), Some("n1"))
    );
    assert_eq!(endpoint.target_ref.as_ref().unwrap().name.as_deref(), Some("p"));
    assert_eq!(slice.ports.as_ref().unwrap()[0], port_of((String::new(), Some(80), Some("TCP".to_owned()), None)));
}

#[test]
fn hostnames_need_the_subdomain_of_the_service() {
    for (subdomain, expected) in [(json!("a"), Some("h")), (json!("b"), None), (json!(null), None)] {
        let mut world = World::new();
        let mut pod = pod("p", "a", "10.0.0.1");
        pod["spec"]["hostname"] = json!("h");
        pod["spec"]["subdomain"] = subdomain;
        world.apply([web("a"), pod]);
        assert_eq!(world.slices("a")[0].endpoints[0].hostname.as_deref(), expected);
    }
}

#[test]
fn nobody_selected_leaves_a_placeholder_and_the_first_pod_takes_it() {
    let mut world = World::new();
    world.apply([web("a")]);
    let before = world.slices("a");
    assert_eq!((before.len(), before[0].endpoints.len(), before[0].ports.clone()), (1, 0, Some(Vec::new())));
    world.apply([pod("p", "a", "10.0.0.1")]);
    let after = world.slices("a");
    assert_eq!((after.len(), after[0].endpoints.len()), (1, 1));
    assert_eq!(after[0].metadata.name, before[0].metadata.name);
    world.delete(Kind::Pod, "p");
    assert!(world.slices("a")[0].endpoints.is_empty());
}

#[test]
fn no_selector_and_aliases_get_no_slices() {
    let mut world = World::new();
    world.apply([
        service("none", json!({"ports": [{"port": 80}]})),
        service("empty", json!({"selector": {}, "ports": [{"port": 80}]})),
        service("ext", json!({"type": "ExternalName", "externalName": "x.example", "selector": {"app": "a"}})),
        pod("p", "a", "10.0.0.1"),
    ]);
    assert!(["none", "empty", "ext"].iter().all(|name| world.slices(name).is_empty()));
    world.apply([web("a")]);
    world.apply([service("a", json!({"type": "ExternalName", "externalName": "x.example"}))]);
    assert!(world.slices("a").is_empty());
}

/// K TestFindPort, TestReconcileEndpointSlicesNamedPorts.
#[test]
fn named_ports_are_the_pods_own() {
    let mut world = World::new();
    let named = |name: &str, ip: &str, port: i32| {
        let mut pod = pod(name, "a", ip);
        pod["spec"] = json!({"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 1, "protocol": "UDP"}]},
                {"name": "d", "ports": [{"name": "http", "containerPort": port}]}],
            "initContainers": [{"name": "i", "ports": [{"name": "init", "containerPort": 7}]}, {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9}]}]});
        pod
    };
    let pods = (0..300).map(|i| named(&format!("p{i:03}"), &format!("10.0.{}.{}", i / 200, i % 200 + 1), 8080 + i % 5));
    world.apply(
        pods.chain([service("a", json!({"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": "http"}]}))]),
    );
    let mut groups: Vec<(i32, usize)> =
        world.slices("a").iter().map(|s| (s.ports.as_ref().unwrap()[0].port.unwrap(), s.endpoints.len())).collect();
    groups.sort();
    assert_eq!(groups, [(8080, 60), (8081, 60), (8082, 60), (8083, 60), (8084, 60)]);
    let pod = object(named("p", "10.0.0.1", 8080));
    for (target, found) in [("side", Some(9)), ("init", None), ("nope", None), ("http", Some(8080))] {
        let port = ServicePort {
            port: 80,
            protocol: Some("TCP".to_owned()),
            target_port: Some(IntOrString::String(target.to_owned())),
            ..Default::default()
        };
        assert_eq!(find_port(pod.as_pod().unwrap(), &port), found, "{target}");
    }
}

#[test]
fn a_pod_without_the_port_is_listed_without_it() {
    let mut world = World::new();
    world.apply([
        service("a", json!({"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": "nope"}]})),
        pod("p", "a", "10.0.0.1"),
    ]);
    let slices = world.slices("a");
    assert_eq!((slices.len(), slices[0].endpoints.len(), slices[0].ports.clone()), (1, 1, Some(Vec::new())));
}

#[test]
fn a_missing_node_excludes_unless_published_or_there_are_no_nodes() {
    let mut world = World::new();
    let mut on_node = pod("p", "a", "10.0.0.1");
    on_node["spec"]["nodeName"] = json!("n1");
    world.apply([web("a"), on_node.clone()]);
    let count = |world: &World| world.slices("a").iter().map(|slice| slice.endpoints.len()).sum::<usize>();
    assert_eq!(count(&world), 1);
    world.apply([node("n2", "z")]);
    assert_eq!(count(&world), 0);
    world.apply([node("n1", "z")]);
    assert_eq!((count(&world), world.slices("a")[0].endpoints[0].zone.as_deref()), (1, Some("z")));
    world.apply([node("n1", "other")]);
    assert_eq!(world.slices("a")[0].endpoints[0].zone.as_deref(), Some("other"));
    world.delete(Kind::Node, "n1");
    assert_eq!(count(&world), 0);
    world.delete(Kind::Node, "n2");
    assert_eq!(count(&world), 1);
}

/// K TestReconcileManyPods.
#[test]
fn packing_fills_slices_and_a_change_stays_where_it_is() {
    let mut world = World::new();
    let many = |range: std::ops::Range<i32>| {
        range.map(|i| pod(&format!("p{i:03}"), "a", &format!("10.0.{}.{}", i / 200, i % 200 + 1))).collect::<Vec<_>>()
    };
    world.apply(many(0..250).into_iter().chain([web("a")]));
    let sizes = |world: &World| {
        let mut sizes: Vec<usize> = world.slices("a").iter().map(|slice| slice.endpoints.len()).collect();
        sizes.sort();
        sizes
    };
    assert_eq!(sizes(&world), [50, 100, 100]);

    let mut changed = pod("p120", "a", "10.0.0.121");
    changed["status"]["conditions"] = json!([]);
    let before = world.slices("a");
    let commit = world.apply([changed]);
    assert_eq!(commit.changes.iter().filter(|change| change.key.kind == Kind::EndpointSlice).count(), 1);
    let moved = before
        .iter()
        .zip(world.slices("a"))
        .flat_map(|(old, new)| old.endpoints.clone().into_iter().zip(new.endpoints))
        .filter(|(old, new)| old.addresses != new.addresses);
    assert_eq!(moved.count(), 0);

    let commit = world.delete(Kind::Pod, "p007");
    assert_eq!(commit.changes.len(), 3, "the Pod, one slice, the Endpoints");
    world.apply(many(300..301));
    assert_eq!(sizes(&world), [50, 100, 100]);
    world.apply(many(400..460));
    assert_eq!(sizes(&world), [10, 100, 100, 100]);
}

#[test]
fn slices_of_others_are_left_alone_and_ours_are_put_right() {
    let mut world = World::new();
    world.apply([web("a"), pod("p", "a", "10.0.0.1")]);
    let foreign = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "a-dump", "labels": {"kubernetes.io/service-name": "a", "endpointslice.kubernetes.io/managed-by": "by-hand"}},
        "endpoints": [{"addresses": ["10.9.9.9"]}], "ports": [{"port": 80}]});
    world.apply([foreign]);
    assert_eq!(world.slices("a").len(), 2);
    let ours = world.slices("a").into_iter().find(|slice| slice.metadata.name.as_deref() != Some("a-dump")).unwrap();
    let name = ours.metadata.name.clone().unwrap();
    world.delete(Kind::EndpointSlice, &name);
    assert_eq!(world.slices("a").len(), 2);
    world.delete(Kind::Service, "a");
    let left: Vec<_> = world.slices("a").into_iter().filter_map(|slice| slice.metadata.name).collect();
    assert_eq!(left, ["a-dump"], "what somebody else wrote stays");
}

/// K TestReconcileEndpointSlicesRecreation.
#[test]
fn slices_of_a_former_service_of_that_name_are_made_anew() {
    let mut world = World::new();
    world.apply([web("a"), pod("p", "a", "10.0.0.1")]);
    let before = world.slices("a").remove(0);
    let mut stolen = before.clone();
    stolen.metadata.owner_references.as_mut().unwrap()[0].uid = "another".to_owned();
    world.write(vec![Write::Replace(Object::EndpointSlice(Box::new(stolen)))]).unwrap();
    let after = world.slices("a");
    assert_eq!((after.len(), &after[0].endpoints), (1, &before.endpoints));
    assert_ne!(after[0].metadata.uid, before.metadata.uid);
    assert_eq!(after[0].metadata.owner_references, before.metadata.owner_references);
}

#[test]
fn a_slice_that_names_the_service_as_its_owner_goes_with_it() {
    let mut world = World::new();
    let owner =
        json!([{"apiVersion": "v1", "kind": "Service", "name": "a", "uid": "of the cluster it was dumped from"}]);
    let dumped = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "a-dump", "labels": {"kubernetes.io/service-name": "a"}, "ownerReferences": owner}, "endpoints": []});
    world.apply([web("a"), dumped]);
    world.delete(Kind::Service, "a");
    assert!(world.slices("a").is_empty());
}

#[test]
fn a_change_has_its_time_and_nothing_else_has() {
    let mut world = World::new();
    world.apply([web("a"), pod("p", "a", "10.0.0.1")]);
    let time = |world: &World| world.slices("a")[0].metadata.annotations.clone().unwrap()[TRIGGER_TIME].clone();
    assert_eq!(time(&world), "2023-11-14T22:13:20Z");
    let later = crate::testing::now() + jiff::SignedDuration::from_secs(60);
    let plan = |world: &mut World, pod: Value| {
        let commit = world.cluster.plan(vec![Write::Apply(object(pod))], later).unwrap();
        world.cluster.adopt(&commit);
        commit.changes.len()
    };
    let mut busy = pod("p", "a", "10.0.0.1");
    busy["metadata"]["annotations"] = json!({"note": "of no interest to the Service"});
    assert_eq!(plan(&mut world, busy.clone()), 1, "the Pod alone");
    assert_eq!(time(&world), "2023-11-14T22:13:20Z");
    busy["status"]["conditions"] = json!([]);
    assert_eq!(plan(&mut world, busy), 3, "the Pod, its slice, its Endpoints");
    assert_eq!(time(&world), "2023-11-14T22:14:20Z");
}

#[test]
fn a_pod_that_changes_its_labels_moves_from_service_to_service() {
    let mut world = World::new();
    world.apply([web("a"), web("b"), pod("p", "a", "10.0.0.1")]);
    let commit = world.apply([pod("p", "b", "10.0.0.1")]);
    assert_eq!(commit.changes.len(), 5, "the Pod, two slices, two Endpoints");
    assert_eq!((world.slices("a")[0].endpoints.len(), world.slices("b")[0].endpoints.len()), (0, 1));
}

#[test]
fn a_pods_weight_is_its_slices() {
    let mut world = World::new();
    let weighted = |name: &str, ip: &str, weight: Option<&str>| {
        let mut pod = pod(name, "a", ip);
        pod["metadata"]["annotations"] = weight.map_or(json!(null), |weight| json!({"pollgate.io/weight": weight}));
        pod
    };
    let seen = |world: &World| -> Vec<(Option<String>, Vec<String>)> {
        let weight = |slice: &EndpointSlice| slice.metadata.annotations.as_ref()?.get("pollgate.io/weight").cloned();
        let addresses = |slice: &EndpointSlice| slice.endpoints.iter().flat_map(|e| e.addresses.clone()).collect();
        let mut seen: Vec<_> = world.slices("a").iter().map(|slice| (weight(slice), addresses(slice))).collect();
        seen.sort();
        seen
    };
    let slice = |weight: Option<&str>, addresses: &[&str]| {
        (weight.map(str::to_owned), addresses.iter().map(|&address| address.to_owned()).collect::<Vec<_>>())
    };
    world.apply([web("a"), weighted("p1", "10.0.0.1", None), weighted("p2", "10.0.0.2", None)]);
    assert_eq!(seen(&world), [slice(None, &["10.0.0.1", "10.0.0.2"])]);
    world.apply([weighted("p2", "10.0.0.2", Some("050")), weighted("p3", "10.0.0.3", Some("50"))]);
    assert_eq!(seen(&world), [slice(None, &["10.0.0.1"]), slice(Some("50"), &["10.0.0.2", "10.0.0.3"])]);
    world.apply([weighted("p2", "10.0.0.2", Some("0")), weighted("p3", "10.0.0.3", None)]);
    assert_eq!(seen(&world), [slice(None, &["10.0.0.1", "10.0.0.3"]), slice(Some("0"), &["10.0.0.2"])]);
    world.delete(Kind::Pod, "p1");
    world.delete(Kind::Pod, "p2");
    world.delete(Kind::Pod, "p3");
    assert_eq!(seen(&world), [slice(None, &[])], "the last slice has no weight");
}

#[test]
fn a_trigger_time_is_that_of_readiness_alone() {
    let mut world = World::new();
    let trigger = |world: &World| {
        let annotations = world.slices("a")[0].metadata.annotations.clone();
        annotations.is_some_and(|annotations| annotations.contains_key(TRIGGER_TIME))
    };
    world.apply([web("a"), pod("p", "a", "10.0.0.1"), pod("q", "a", "10.0.0.2")]);
    assert!(trigger(&world), "the Service is new");
    let mut labelled = web("a");
    labelled["metadata"]["labels"] = json!({"team": "x"});
    world.apply([labelled]);
    assert!(!trigger(&world), "only a label changed");
    let mut unready = pod("p", "a", "10.0.0.1");
    unready["status"]["conditions"][0]["status"] = json!("False");
    world.apply([unready]);
    assert!(trigger(&world), "a Pod is no longer ready");
    world.delete(Kind::Pod, "q");
    assert!(!trigger(&world), "a Pod is gone");
}

#[test]
fn slices_of_either_name_are_taken_over() {
    let slice = |manager: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
            "metadata": {"name": "dumped", "labels": {SERVICE_NAME_LABEL: "a", MANAGED_BY_LABEL: manager}}})
    };
    let names = |settings: crate::cluster::ClusterSettings, manager: &str| {
        let mut world = World::with(settings);
        world.apply([web("a"), pod("p", "a", "10.0.0.1"), slice(manager)]);
        let managers =
            world.slices("a").into_iter().map(|slice| slice.metadata.labels.unwrap()[MANAGED_BY_LABEL].clone());
        managers.collect::<Vec<String>>()
    };
    let (theirs, ours) = (SliceManager::Kubernetes.endpoints(), SliceManager::Pollgate.endpoints());
    let settings = |slice_manager| crate::cluster::ClusterSettings { slice_manager, ..Default::default() };
    assert_eq!(names(settings(SliceManager::Kubernetes), theirs), [theirs]);
    assert_eq!(names(settings(SliceManager::Kubernetes), ours), [theirs], "of an earlier setting");
    assert_eq!(names(settings(SliceManager::Pollgate), ours), [ours]);
    let mut both = names(settings(SliceManager::Pollgate), theirs);
    both.sort();
    assert_eq!(both, [theirs, ours], "a cluster's stays");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever Pods, Services and Endpoints are admitted, what a controller makes of them would be admitted too.
    #[test]
    fn what_a_controller_writes_is_valid(
        ips in prop::collection::vec(prop::sample::select(vec![
            "10.0.0.1", "127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "fd00::1", "fe80::1", "::1", "010.0.0.7",
        ]), 1..5),
        names in prop::collection::vec(prop::sample::select(vec!["http", "80", "a--b", "A", "x.y", ""]), 3),
        numbers in prop::collection::vec(-1..70_000i32, 2),
        node in prop::sample::select(vec!["n", "N n", ""]),
        headless: bool,
    ) {
        let mut world = World::new();
        let mut try_to = |value: Value| {
            // What is not a valid object has no effect.
            let Ok(object) = Object::from_value(&value, "default") else { return };
            let _ = world.write(vec![crate::cluster::Write::Create(object)]);
        };
        let ports = json!([{"name": "p", "port": 80, "targetPort": names[0]}, {"name": "q", "port": 81, "targetPort": numbers[0]}]);
        let cluster_ip = if headless { json!("None") } else { Value::Null };
        try_to(service("a", json!({"selector": {"app": "a"}, "ports": ports, "clusterIP": cluster_ip})));
        try_to(service("b", json!({"ports": [{"port": 80}]})));
        for (index, ip) in ips.iter().enumerate() {
            let mut value = pod(&format!("p{index}"), "a", ip);
            value["spec"]["hostname"] = json!(names[1]);
            value["spec"]["subdomain"] = json!("a");
            value["spec"]["nodeName"] = json!(node);
            value["spec"]["containers"][0]["ports"] = json!([{"name": names[2], "containerPort": numbers[1]}]);
            try_to(value);
            try_to(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "b"}, "subsets": [
                {"addresses": [{"ip": ip, "hostname": names[1], "nodeName": node}], "ports": [{"name": names[0], "port": numbers[0]}]}]}));
        }
        for slice in world.cluster.objects(Kind::EndpointSlice, None) {
            let mut faults = crate::objects::fault::Faults::new();
            crate::admission::validate::object(slice, None, &mut faults);
            prop_assert!(faults.is_empty(), "{faults:?}");
        }
    }
}

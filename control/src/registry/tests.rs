use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cluster::index::{claimed_addresses, ingress_addresses};
use crate::objects::service::{Family, ServiceType, SpecExt};
use crate::testing::{World, node, now, object, pod, service, web};

#[test]
fn a_batch_is_all_or_nothing_and_tells_every_refusal() {
    let mut world = World::new();
    let writes = vec![
        Write::Create(object(web("a"))),
        Write::Create(object(web("a"))),
        Write::delete(Key::new(Kind::Pod, "default", "none")),
        Write::Create(object(service("b", json!({"ports": [{"port": 0}]})))),
    ];
    let refusals = world.write(writes).unwrap_err();
    let told: Vec<(usize, u16, &str)> =
        refusals.iter().map(|r| (r.index, r.reason.code(), r.message.as_str())).collect();
    let range = "must be between 1 and 65535, inclusive";
    let invalid = format!(
        "Service \"b\" is invalid: [spec.ports[0].port: Invalid value: 0: {range}, spec.ports[0].targetPort: Invalid value: 0: {range}]"
    );
    assert_eq!(
        told,
        [(1, 409, "services \"a\" already exists"), (2, 404, "pods \"none\" not found"), (3, 422, &invalid)]
    );
    assert_eq!((world.cluster.revision(), world.cluster.objects(Kind::Service, None).count()), (1, 1));
}

#[test]
fn the_metadata_that_is_ours_is_ours() {
    let mut world = World::new();
    let mut dumped = web("a");
    dumped["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    dumped["metadata"]["resourceVersion"] = json!("999");
    dumped["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    world.write(vec![Write::Create(object(dumped))]).unwrap();
    let created = world.service("a").metadata;
    assert_eq!((created.resource_version.as_deref(), created.creation_timestamp.unwrap().0), (Some("2"), now()));
    let uid = created.uid.unwrap();
    assert_eq!((uid.len(), uid.as_bytes()[14]), (36, b'8'));
    let mut again = World::new();
    again.apply([web("a")]);
    assert_eq!(again.service("a").metadata.uid.unwrap(), uid);
}

/// A file that was dumped from a cluster has the owners of the fields there.
#[test]
fn who_owns_a_field_is_not_for_a_manifest_to_say() {
    let mut dumped = web("a");
    dumped["metadata"]["managedFields"] = json!([{"manager": "theirs", "operation": "Apply", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:selector": {}}}}]);
    for write in [Write::Apply as fn(Object) -> Write, Write::Follow] {
        let mut world = World::new();
        world.write(vec![write(object(dumped.clone()))]).unwrap();
        assert_eq!(world.service("a").metadata.managed_fields, None, "created");
        world.write(vec![write(object(dumped.clone()))]).unwrap();
        assert_eq!(world.service("a").metadata.managed_fields, None, "applied again");
    }
}

#[test]
fn two_writers_of_one_version_conflict() {
    let mut world = World::new();
    world.apply([web("a")]);
    let mut first = Object::Service(Box::new(world.service("a")));
    first.metadata_mut().labels = Some([("x".to_owned(), "1".to_owned())].into());
    let mut second = first.clone();
    second.metadata_mut().labels = Some([("x".to_owned(), "2".to_owned())].into());
    world.write(vec![Write::Replace(first)]).unwrap();
    let refusal = &world.write(vec![Write::Replace(second)]).unwrap_err()[0];
    assert_eq!(refusal.reason, RefusalReason::Conflict);
    assert_eq!(
        refusal.message,
        "Operation cannot be fulfilled on services \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    assert_eq!(world.service("a").metadata.labels.unwrap()["x"], "1");
}

/// The preconditions of a client that has read `web("a")` just now.
fn as_read(world: &World) -> Preconditions {
    let metadata = world.service("a").metadata;
    Preconditions { uid: metadata.uid, resource_version: metadata.resource_version }
}

#[test]
fn a_deletion_is_of_the_object_that_is_meant_even_within_a_batch() {
    let mut world = World::new();
    world.apply([web("a")]);
    let key = Key::new(Kind::Service, "default", "a");
    let read = as_read(&world);
    let mut changed = Object::Service(Box::new(world.service("a")));
    changed.metadata_mut().labels = Some([("x".to_owned(), "1".to_owned())].into());
    let refusals =
        world.write(vec![Write::Replace(changed.clone()), Write::Delete(key.clone(), read.clone())]).unwrap_err();
    assert_eq!((refusals[0].index, refusals[0].reason.code()), (1, 409));
    let message = "Operation cannot be fulfilled on Service \"a\": the ResourceVersion in the precondition (2) does not \
                   match the ResourceVersion in record (3). The object might have been modified";
    assert_eq!(refusals[0].message, message);

    let again = vec![Write::delete(key.clone()), Write::Create(object(web("a"))), Write::Delete(key.clone(), read)];
    let refusals = world.write(again).unwrap_err();
    assert_eq!((refusals[0].index, refusals[0].reason.code()), (2, 409));
    assert!(refusals[0].message.ends_with("The object might have been deleted and then recreated"), "{refusals:?}");

    let read = as_read(&world);
    let twice = vec![Write::Delete(key.clone(), read.clone()), Write::Delete(key.clone(), read.clone())];
    assert_eq!(world.write(twice).unwrap_err()[0].reason, RefusalReason::NotFound);
    world.write(vec![Write::Delete(key.clone(), read)]).unwrap();
    assert!(world.cluster.object(&key).is_none());
}

#[test]
fn a_pod_that_is_not_meant_does_not_terminate() {
    let mut world = World::new();
    world.apply([pod("p", "a", "10.1.0.1")]);
    let key = Key::new(Kind::Pod, "default", "p");
    let other = Preconditions { uid: Some("other".to_owned()), ..Preconditions::default() };
    let refusals = world.write(vec![Write::Terminate(key.clone(), 30, other)]).unwrap_err();
    assert_eq!(refusals[0].reason, RefusalReason::PreconditionFailed);
    assert!(world.cluster.object(&key).unwrap().metadata().deletion_timestamp.is_none());
}

#[test]
fn namespaces_come_with_their_first_object_and_take_everything_along() {
    let mut world = World::new();
    let mut there = web("a");
    there["metadata"]["namespace"] = json!("shop");
    let commit = world.apply([there, web("b")]);
    let key = Key::new(Kind::Namespace, "", "shop");
    assert!(commit.change(&key).is_some());
    let commit = world.write(vec![Write::delete(key.clone())]).unwrap();
    assert_eq!(commit.changes.len(), 4, "the Namespace, the Service, its slice and its Endpoints");
    assert!(commit.changes.iter().all(|change| change.new.is_none()));
    assert_eq!(world.cluster.objects(Kind::Service, None).count(), 2);
    let refusal = &world.write(vec![Write::delete(Key::new(Kind::Namespace, "", "default"))]).unwrap_err()[0];
    assert_eq!(
        (refusal.reason.code(), refusal.message.as_str()),
        (403, "namespaces \"default\" is forbidden: this namespace may not be deleted")
    );
}

#[test]
fn what_leaves_the_files_goes_if_it_came_from_them() {
    let mut world = World::new();
    world.apply([web("applied")]);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let follow = |value| Write::Follow(object(value));
    world.write(vec![follow(web("applied")), follow(web("ours")), follow(web("taken")), follow(namespace)]).unwrap();
    let key = |name: &str| Key::new(Kind::Service, "default", name);
    assert_eq!(world.cluster.followed().collect::<Vec<_>>(), [key("ours"), key("taken")]);
    // kubectl's apply leaves the mark alone; a replacement without it makes the object another client's.
    world.apply([web("ours")]);
    world.write(vec![Write::Replace(object(web("taken")))]).unwrap();
    let again = world.write(vec![follow(web("ours"))]).unwrap();
    assert_eq!(again.changes, [], "following twice changes nothing");
    let shop = Key::new(Kind::Namespace, "", "shop");
    let gone = ["applied", "ours", "taken", "never there"].map(|name| Write::Unfollow(key(name)));
    world.write(gone.into_iter().chain([Write::Unfollow(shop.clone())]).collect()).unwrap();
    let left = world.cluster.objects(Kind::Service, None).map(|object| object.name().to_owned());
    assert_eq!(left.collect::<Vec<_>>(), ["applied", "kubernetes", "taken"]);
    assert!(world.cluster.object(&shop).is_some());
}

#[test]
fn generated_names_differ() {
    let mut world = World::new();
    let mut pod = pod("", "a", "10.0.0.1");
    pod["metadata"] = json!({"generateName": "web-"});
    let commit = world.write(vec![Write::Create(object(pod.clone())), Write::Create(object(pod))]).unwrap();
    assert!(commit.written.iter().all(|key| key.name.starts_with("web-") && key.name.len() == 9));
    assert_ne!(commit.written[0], commit.written[1]);
}

#[test]
fn a_state_with_a_double_address_is_refused() {
    let twice = |name: &str| object(service(name, json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]})));
    let error = Cluster::restore(ClusterSettings::default(), [twice("a"), twice("b")], 7).unwrap_err();
    assert_eq!(error.to_string(), "the saved state assigns address 10.96.0.5 to both default/a and default/b");
}

/// Found by the property below: the index must not depend on the order of the changes.
#[test]
fn an_address_that_changes_hands_within_a_commit_is_the_new_owners() {
    let mut world = World::with(tight());
    let one = |name: &str| service(name, json!({"type": "LoadBalancer", "ports": [{"port": 80}]}));
    world.apply([one("b")]);
    world.apply([one("c")]);
    world.apply([one("d"), service("b", json!({"ports": [{"port": 80}]}))]);
    let d = world.service("d");
    let address = ingress_addresses(&d).next().expect("what b gave up");
    assert_eq!(world.cluster.address_owner(address), Some(&ServiceName::new("default", "d")));
    world.apply([one("e")]);
    assert_nothing_given_twice(&world.cluster);
}

fn any_write() -> impl Strategy<Value = Write> {
    let name = prop::sample::select(vec!["a", "b", "c", "d", "e"]);
    let kind = prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    let asked = (prop::option::of(1u8..14), prop::option::of(0u16..6), any::<bool>());
    let families =
        prop::sample::select(vec![None, Some("SingleStack"), Some("PreferDualStack"), Some("RequireDualStack")]);
    let balancer = (prop::option::of(0u8..4), prop::sample::select(vec!["", "", "class", "no node ports"]));
    let spec =
        (kind, asked, families, balancer).prop_map(|(kind, (ip, node_port, local), families, (wanted, special))| {
            let mut spec = json!({"type": kind, "selector": {"app": "a"},
            "ports": [{"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}]});
            if let (Some(policy), true) = (families, kind != "ExternalName") {
                spec["ipFamilyPolicy"] = json!(policy);
            }
            if let (Some(wanted), "LoadBalancer") = (wanted, kind) {
                spec["loadBalancerIP"] = json!(format!("192.0.2.{wanted}"));
            }
            match (special, kind) {
                ("class", "LoadBalancer") => spec["loadBalancerClass"] = json!("example.com/other"),
                ("no node ports", "LoadBalancer") => spec["allocateLoadBalancerNodePorts"] = json!(false),
                _ => {}
            }
            match (kind, ip) {
                ("ExternalName", _) => spec["externalName"] = json!("x.example"),
                (_, Some(ip)) => spec["clusterIP"] = json!(format!("10.0.0.{ip}")),
                _ => {}
            }
            if let (Some(port), "NodePort" | "LoadBalancer") = (node_port, kind) {
                spec["ports"][0]["nodePort"] = json!(30000 + port);
            }
            if local && kind == "LoadBalancer" {
                spec["externalTrafficPolicy"] = json!("Local");
            }
            spec
        });
    prop_oneof![
        4 => (name.clone(), spec.clone()).prop_map(|(name, spec)| Write::Apply(object(service(name, spec)))),
        1 => (name.clone(), spec).prop_map(|(name, spec)| Write::Replace(object(service(name, spec)))),
        1 => name.clone().prop_map(|name| Write::delete(Key::new(Kind::Service, "default", name))),
        1 => (name.clone(), any::<bool>()).prop_map(|(name, ours)| Write::Apply(object(pod(name, if ours { "a" } else { "b" }, "10.1.0.1")))),
        1 => name.clone().prop_map(|name| Write::delete(Key::new(Kind::Pod, "default", name))),
        1 => name.prop_map(|name| Write::Apply(object(node(name, "z")))),
    ]
}

fn tight() -> ClusterSettings {
    ClusterSettings {
        service_cidrs: vec!["10.0.0.0/28".parse().unwrap(), "fd00::/125".parse().unwrap()],
        node_port_range: 30000..=30005,
        load_balancer_pools: vec!["192.0.2.0/31".parse().unwrap()],
        gateway_addresses: vec!["10.0.0.1".parse().unwrap()],
        dns_addresses: vec!["10.0.0.2".parse().unwrap()],
        ..ClusterSettings::default()
    }
}

fn assert_nothing_given_twice(cluster: &Cluster) {
    let (mut addresses, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for object in cluster.objects(Kind::Service, None) {
        let service = object.as_service().unwrap();
        for address in claimed_addresses(service) {
            assert!(addresses.insert(address), "{address} twice");
            assert_ne!(address.to_string(), "10.0.0.1", "the gateway's");
        }
        let own: BTreeSet<u16> = claimed_node_ports(service).collect();
        assert!(own.iter().all(|port| ports.insert(*port)), "a node port twice");
    }
}

/// The name of the Service that this write makes a LoadBalancer without allocated node ports.
fn declining(write: &Write) -> Option<String> {
    let (Write::Apply(Object::Service(service)) | Write::Replace(Object::Service(service))) = write else {
        return None;
    };
    let declines = service.spec.as_ref()?.allocate_load_balancer_node_ports == Some(false);
    service.metadata.name.clone().filter(|_| declines)
}

/// `once_declined`: names of the Services that have ever been a LoadBalancer without allocated node ports.
fn assert_everybody_has_what_it_needs(cluster: &Cluster, once_declined: &BTreeSet<String>) {
    let settings = cluster.settings();
    for object in cluster.objects(Kind::Service, None) {
        let spec = object.as_service().unwrap().spec.as_ref().unwrap();
        let families = if spec.needs_cluster_ip() { spec.families() } else { Vec::new() };
        let addresses = spec.cluster_addresses();
        assert_eq!(addresses.iter().copied().map(Family::of).collect::<Vec<_>>(), families, "{spec:?}");
        assert!(addresses.iter().all(|ip| settings.service_cidrs.iter().any(|cidr| cidr.contains(ip))), "{spec:?}");
        let declines = spec.needs_node_ports() && !spec.allocates_node_ports();
        // An ExternalName may have a node port left over from a LoadBalancer that declined its allocation, as in Kubernetes
        // (pkg/registry/core/service/strategy.go, dropTypeDependentFields). It is neither claimed nor served.
        let may_be_left_over =
            spec.service_type() == ServiceType::ExternalName && once_declined.contains(object.name());
        for port in spec.ports() {
            let given = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
            assert!(given.is_none_or(|port| settings.node_port_range.contains(&port)), "{spec:?}");
            let is_allowed = given.is_some() == spec.needs_node_ports() || declines || may_be_left_over;
            assert!(is_allowed, "{} {spec:?}", object.name());
        }
        let health = spec.health_check_node_port.filter(|port| *port != 0);
        assert_eq!(health.is_some(), spec.needs_health_check_port(), "{spec:?}");
        assert!(health.is_none() || spec.ports().iter().all(|port| port.node_port != health), "{spec:?}");
        let balanced = ingress_addresses(object.as_service().unwrap()).next().is_some();
        assert!(!balanced || (spec.service_type() == ServiceType::LoadBalancer && spec.load_balancer_class.is_none()));
    }
}

/// No Service waits for an address that is free.
fn assert_nobody_waits_in_vain(cluster: &Cluster) {
    let taken: BTreeSet<IpAddr> = cluster
        .objects(Kind::Service, None)
        .flat_map(|object| ingress_addresses(object.as_service().unwrap()).collect::<Vec<_>>())
        .collect();
    let pool = &cluster.settings().load_balancer_pools[0];
    let free: Vec<IpAddr> = (0..pool.len()).filter_map(|at| pool.at(at)).filter(|ip| !taken.contains(ip)).collect();
    for object in cluster.objects(Kind::Service, None) {
        let service = object.as_service().unwrap();
        let spec = service.spec.as_ref().unwrap();
        let waits = spec.service_type() == ServiceType::LoadBalancer
            && spec.load_balancer_class.is_none()
            && spec.families().contains(&Family::V4)
            && ingress_addresses(service).next().is_none();
        let wanted = spec.load_balancer_ip.as_deref().map(|ip| ip.parse::<IpAddr>().unwrap());
        let served = match wanted {
            Some(wanted) => free.contains(&wanted),
            None => !free.is_empty(),
        };
        assert!(!(waits && served), "{} waits, and {free:?} is free", object.name());
    }
}

/// One changed Pod among many Services touches its own Service's slice and nothing else.
#[test]
fn a_change_touches_only_what_depends_on_it() {
    let mut world = World::new();
    let pods = (0..200)
        .flat_map(|s| (0..3).map(move |p| pod(&format!("p{s}-{p}"), &format!("s{s}"), &format!("10.1.{s}.{}", p + 1))));
    world.apply((0..200).map(|s| web(&format!("s{s}"))).chain(pods));
    let mut gone = pod("p7-1", "s7", "10.1.7.2");
    gone["status"]["conditions"] = json!([]);
    let commit = world.apply([gone]);
    let keys: Vec<Kind> = commit.changes.iter().map(|change| change.key.kind).collect();
    assert_eq!(keys, [Kind::Pod, Kind::EndpointSlice, Kind::Endpoints]);
    let touched = commit.touched().services;
    assert_eq!(touched.into_iter().collect::<Vec<_>>(), [ServiceName::new("default", "s7")]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_given_twice_and_a_restored_cluster_is_the_same(batches in prop::collection::vec(prop::collection::vec(any_write(), 1..4), 1..12)) {
        let mut world = World::with(tight());
        let mut once_declined = BTreeSet::new();
        for batch in batches {
            let before = world.cluster.clone();
            once_declined.extend(batch.iter().filter_map(declining));
            if world.write(batch).is_err() {
                prop_assert_eq!(&world.cluster, &before);
            }
            assert_nothing_given_twice(&world.cluster);
            assert_everybody_has_what_it_needs(&world.cluster, &once_declined);
            assert_nobody_waits_in_vain(&world.cluster);
        }
        let saved = Kind::ALL.into_iter().flat_map(|kind| world.cluster.objects(kind, None).map(|o| (**o).clone()));
        let texts: Vec<String> = saved.map(|object| object.to_value().to_string()).collect();
        let objects = texts.iter().map(|text| Object::from_value(&serde_json::from_str(text).unwrap(), "").unwrap());
        let restored = Cluster::restore(tight(), objects, world.cluster.revision()).unwrap();
        prop_assert_eq!(&restored, &world.cluster);
    }
}

fn limited(limits: crate::cluster::Limits) -> World {
    World::with(ClusterSettings { limits, ..ClusterSettings::default() })
}

/// The one refusal of these writes: its reason and text.
fn refusal(world: &mut World, values: Vec<serde_json::Value>) -> (RefusalReason, String) {
    let refused = world.write(values.into_iter().map(|value| Write::Apply(object(value))).collect()).unwrap_err();
    assert_eq!(refused.len(), 1, "{refused:?}");
    (refused[0].reason, refused[0].message.clone())
}

#[test]
fn objects_of_a_kind_are_bounded_and_those_that_are_there_can_be_changed() {
    let mut world = limited(crate::cluster::Limits { objects: 4, ..Default::default() });
    // One of them is default/kubernetes.
    world.apply(["a", "b", "c"].map(web));
    let told = "services \"d\" is forbidden: there are 4 services, the most that limits.objects allows";
    assert_eq!(refusal(&mut world, vec![web("d")]), (RefusalReason::Forbidden, told.to_owned()));
    let mut changed = web("a");
    changed["metadata"]["labels"] = json!({"x": "y"});
    world.apply([changed]);
    world.delete(Kind::Service, "a");
    world.apply([web("d")]);
    // A namespace that comes with its first object counts too: four there are from the start.
    let mut elsewhere = pod("p", "x", "10.0.0.1");
    elsewhere["metadata"]["namespace"] = json!("elsewhere");
    let told = "namespaces \"elsewhere\" is forbidden: there are 4 namespaces, the most that limits.objects allows";
    assert_eq!(refusal(&mut world, vec![elsewhere]).1, told);
    // Within one batch as over several.
    let pods: Vec<_> = (1..=5).map(|n| pod(&format!("p{n}"), "x", &format!("10.0.0.{n}"))).collect();
    assert!(refusal(&mut world, pods).1.starts_with("pods \"p5\" is forbidden"));
}

#[test]
fn endpoints_are_bounded_in_all_and_per_service() {
    let limits = crate::cluster::Limits { endpoints_per_service: 3, endpoints: 5, ..Default::default() };
    let mut world = limited(limits);
    world.apply([web("a"), web("b")]);
    let pods = |app: &str, from: usize, count: usize| -> Vec<_> {
        (from..from + count).map(|n| pod(&format!("{app}{n}"), app, &format!("10.0.{}.{n}", app.len()))).collect()
    };
    // The controller's own default/kubernetes has no endpoints.
    world.apply(pods("a", 1, 3));
    let told = "pods \"a4\" is forbidden: Service default/a would have 4 endpoints, more than limits.endpointsPerService \
                allows (3)";
    assert_eq!(refusal(&mut world, pods("a", 4, 1)), (RefusalReason::Forbidden, told.to_owned()));
    world.apply(pods("b", 11, 2));
    let told = "pods \"b13\" is forbidden: there would be 6 endpoints, more than limits.endpoints allows (5)";
    assert_eq!(refusal(&mut world, pods("b", 13, 1)).1, told);
    // What was more before, such as after a restart with other limits, can still be made less and be changed.
    let objects: Vec<Object> = Kind::ALL
        .into_iter()
        .flat_map(|kind| world.cluster.objects(kind, None).map(|object| Object::clone(object)).collect::<Vec<_>>())
        .collect();
    let fewer = crate::cluster::Limits { endpoints_per_service: 1, endpoints: 1, objects: 1, ..Default::default() };
    let settings = ClusterSettings { limits: fewer, ..ClusterSettings::default() };
    let mut world = World { cluster: Cluster::restore(settings, objects, world.cluster.revision()).unwrap() };
    let mut unready = pods("a", 1, 1).remove(0);
    unready["status"]["conditions"] = json!([]);
    world.apply([unready]);
    world.delete(Kind::Pod, "a2");
}

use serde_json::json;

use super::*;
use crate::cluster::Write;
use crate::objects::Kind;
use crate::testing::{World, object, service, web};

fn cluster_ip(world: &World, name: &str) -> String {
    world.service(name).spec.unwrap().cluster_ip.unwrap()
}

fn node_port(world: &World, name: &str, index: usize) -> i32 {
    world.service(name).spec.unwrap().ports()[index].node_port.unwrap_or_default()
}

fn ingress_of(world: &World, name: &str) -> Vec<String> {
    ingress_addresses(&world.service(name)).map(|address| address.to_string()).collect()
}

fn small(cidr: &str) -> World {
    World::with(ClusterSettings {
        service_cidrs: vec![cidr.parse().unwrap()],
        dns_addresses: Vec::new(),
        ..ClusterSettings::default()
    })
}

#[test]
fn bands_are_those_of_the_enhancement_proposals() {
    for (size, usable, fixed) in [
        (16, 14, 0),
        (32, 30, 16),
        (64, 62, 16),
        (256, 254, 16),
        (1024, 1022, 64),
        (4096, 4094, 256),
        (65536, 65534, 256),
    ] {
        assert_eq!(address_bands(size, usable), [fixed..usable, 0..fixed], "{size}");
    }
    for (size, fixed) in [(16, 0), (17, 16), (2768, 86), (8192, 128)] {
        assert_eq!(port_bands(size), [fixed..size, 0..fixed], "{size}");
    }
}

#[test]
fn given_addresses_come_from_the_upper_band_and_follow_the_name() {
    let (mut one, mut two) = (World::new(), World::new());
    one.apply([web("a"), web("b")]);
    two.apply([web("b")]);
    two.apply([web("a")]);
    for name in ["a", "b"] {
        assert_eq!(cluster_ip(&one, name), cluster_ip(&two, name));
        let offset = u32::from(cluster_ip(&one, name).parse::<std::net::Ipv4Addr>().unwrap()) - 0x0a60_0000;
        assert!((257..65535).contains(&offset), "{offset}");
    }
    let before = cluster_ip(&one, "a");
    one.delete(Kind::Service, "a");
    one.apply([web("a")]);
    assert_eq!(cluster_ip(&one, "a"), before);
}

#[test]
fn a_range_is_given_away_to_its_end_and_no_further() {
    let mut world = small("10.0.0.0/27");
    for index in 0..29 {
        world.apply([web(&format!("s{index}"))]);
        if index < 14 {
            // 30 usable, 16 of them static, one of those given to default/kubernetes: the first 14 come from above.
            let last: u8 = cluster_ip(&world, &format!("s{index}")).rsplit('.').next().unwrap().parse().unwrap();
            assert!(last >= 17, "{last}");
        }
    }
    let faults = world.faults(web("one-too-many"));
    assert_eq!(faults, ["spec.clusterIPs: Invalid value: []: failed to allocate a IPv4 address: range is full"]);
}

#[test]
fn asked_addresses_are_checked_with_the_allocators_words() {
    let mut world = World::new();
    let ask = |name: &str, ip: &str| service(name, json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    world.apply([ask("a", "10.96.0.50"), ask("dns", "10.96.0.10")]);
    let told = |ip: &str, detail: &str| {
        format!("spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: {detail}")
    };
    assert_eq!(world.faults(ask("b", "10.96.0.50")), [told("10.96.0.50", "provided IP is already allocated")]);
    for ip in ["10.97.0.1", "10.96.0.0", "10.96.255.255"] {
        let detail =
            format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is 10.96.0.0/16");
        assert_eq!(world.faults(ask("b", ip)), [told(ip, &detail)]);
    }
}

#[test]
fn an_address_asked_for_later_in_the_batch_is_not_given_away_before() {
    let mut world = small("10.0.0.0/29");
    let names: Vec<String> = (0..4).map(|index| format!("s{index}")).collect();
    let asked = service("asked", json!({"clusterIP": "10.0.0.3", "ports": [{"port": 80}]}));
    world.apply(names.iter().map(|name| web(name)).chain([asked]));
    assert_eq!(cluster_ip(&world, "asked"), "10.0.0.3");
}

#[test]
fn node_ports_are_given_kept_shared_and_refused() {
    let mut world = World::new();
    let both = json!({"type": "NodePort", "ports": [{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "x", "port": 80}]});
    world.apply([service("dns", both.clone())]);
    let given = node_port(&world, "dns", 0);
    assert!((30086..=32767).contains(&given), "{given}");
    assert_eq!(node_port(&world, "dns", 1), given);
    assert_ne!(node_port(&world, "dns", 2), given);
    assert!(world.apply([service("dns", both)]).changes.is_empty());

    let ask = |port: i32| {
        service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port, "protocol": "UDP"}]}))
    };
    assert_eq!(
        world.faults(ask(given)),
        [format!("spec.ports[0].nodePort: Invalid value: {given}: provided port is already allocated")]
    );
    let detail = "provided port is not in the valid range. The range of valid ports is 30000-32767";
    for port in [29999, 32768, 70000] {
        assert_eq!(world.faults(ask(port)), [format!("spec.ports[0].nodePort: Invalid value: {port}: {detail}")]);
    }
    world.apply([ask(30000)]);
}

#[test]
fn node_ports_run_out_with_a_word() {
    let mut world = World::with(ClusterSettings { node_port_range: 30000..=30001, ..ClusterSettings::default() });
    let one = |name: &str| service(name, json!({"type": "NodePort", "ports": [{"port": 80}]}));
    world.apply([one("a"), one("b")]);
    let told = "spec.ports[0].nodePort: Invalid value: 0: failed to allocate a nodePort: range is full";
    assert_eq!(world.faults(one("c")), [told]);
}

#[test]
fn changes_of_type_give_and_free() {
    let mut world = World::new();
    let of = |kind: &str| service("a", json!({"type": kind, "selector": {"app": "a"}, "ports": [{"port": 80}]}));
    world.apply([of("ClusterIP")]);
    let ip = cluster_ip(&world, "a");
    world.apply([of("LoadBalancer")]);
    assert_eq!((cluster_ip(&world, "a"), ingress_of(&world, "a").len()), (ip.clone(), 1));
    let port = node_port(&world, "a", 0);
    assert_ne!(port, 0);
    world.apply([of("NodePort")]);
    assert_eq!((node_port(&world, "a", 0), ingress_of(&world, "a")), (port, vec![]));
    assert_eq!(world.service("a").spec.unwrap().allocate_load_balancer_node_ports, None);
    world.apply([service("a", json!({"type": "ExternalName", "externalName": "x.example.com"}))]);
    let spec = world.service("a").spec.unwrap();
    assert_eq!(
        (spec.cluster_ip, spec.cluster_ips, spec.ip_families, spec.external_traffic_policy),
        (None, None, None, None)
    );
    assert!(spec.ports.is_none());
    world
        .apply([service("b", json!({"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": port}]}))]);
    world.apply([of("ClusterIP")]);
    assert_ne!(cluster_ip(&world, "a"), ip);
}

/// K `pkg/registry/core/service/strategy.go`, `dropTypeDependentFields`: `needsNodePort` before and not after.
#[test]
fn an_external_name_gives_up_the_node_port_that_was_allocated() {
    let mut world = World::new();
    world.apply([service("a", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))]);
    let given = node_port(&world, "a", 0);
    assert_ne!(given, 0);
    let ports = json!([{"port": 80, "nodePort": given}]);
    world.apply([service("a", json!({"type": "ExternalName", "externalName": "x.example.com", "ports": ports}))]);
    assert_eq!(world.service("a").spec.unwrap().ports()[0].node_port, None);
    world.apply([service("b", json!({"type": "NodePort", "ports": ports}))]);
    assert_eq!(node_port(&world, "b", 0), given);
}

/// The same: where allocation was declined, `needsNodePort` is false before and after, and the number is what is written.
#[test]
fn an_external_name_has_the_node_port_that_was_not_allocated_as_written_and_holds_nothing_by_it() {
    let named = json!([{"port": 80, "nodePort": 30003}]);
    for (ports, left) in [(named.clone(), 30003), (json!([{"port": 80}]), 0)] {
        let mut world = World::new();
        world.apply([service(
            "a",
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": named}),
        )]);
        assert_eq!(node_port(&world, "a", 0), 30003);
        assert_eq!(world.faults(service("b", json!({"type": "NodePort", "ports": named}))).len(), 1, "it is taken");
        world.apply([service("a", json!({"type": "ExternalName", "externalName": "x.example.com", "ports": ports}))]);
        assert_eq!(node_port(&world, "a", 0), left);
        world.apply([service("b", json!({"type": "NodePort", "ports": named}))]);
        assert_eq!(node_port(&world, "b", 0), 30003);
    }
}

#[test]
fn health_check_ports_belong_to_local_balancers() {
    let mut world = World::new();
    let of = |policy: &str| {
        service("a", json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "ports": [{"port": 80}]}))
    };
    world.apply([of("Local")]);
    let port = world.service("a").spec.unwrap().health_check_node_port.unwrap();
    assert_ne!(port, node_port(&world, "a", 0));
    world.apply([of("Local")]);
    assert_eq!(world.service("a").spec.unwrap().health_check_node_port, Some(port));
    world.apply([of("Cluster")]);
    assert_eq!(world.service("a").spec.unwrap().health_check_node_port, None);
}

#[test]
fn balancer_addresses_come_from_the_pool_and_waiting_services_get_the_freed_one() {
    let mut world = World::new();
    let one = |name: &str| service(name, json!({"type": "LoadBalancer", "ports": [{"port": 80}]}));
    world.apply(["a", "b", "c", "d"].map(one));
    let mut all: Vec<String> = ["a", "b", "c", "d"].iter().flat_map(|name| ingress_of(&world, name)).collect();
    all.sort();
    assert_eq!(all, ["192.0.2.10", "192.0.2.11", "192.0.2.8", "192.0.2.9"]);
    world.apply([one("e")]);
    assert!(ingress_of(&world, "e").is_empty());
    let freed = ingress_of(&world, "b");
    world.delete(Kind::Service, "b");
    assert_eq!(ingress_of(&world, "e"), freed);
    let served = world.service("e");
    let point = &ingress(&served)[0];
    assert_eq!(point.ip_mode.as_deref(), Some("VIP"));
}

#[test]
fn balancer_addresses_that_are_asked_for_or_foreign() {
    let mut world = World::new();
    let wants = |name: &str, ip: &str| {
        service(name, json!({"type": "LoadBalancer", "loadBalancerIP": ip, "ports": [{"port": 80}]}))
    };
    world.apply([wants("a", "192.0.2.9"), wants("b", "192.0.2.9"), wants("c", "203.0.113.1")]);
    assert_eq!(ingress_of(&world, "a"), ["192.0.2.9"]);
    assert!(ingress_of(&world, "b").is_empty() && ingress_of(&world, "c").is_empty());
    world.apply([wants("a", "192.0.2.10")]);
    assert_eq!(
        (ingress_of(&world, "a"), ingress_of(&world, "b")),
        (vec!["192.0.2.10".to_owned()], vec!["192.0.2.9".to_owned()])
    );

    let mut given = service("d", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}));
    given["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7", "ipMode": "Proxy"}]}});
    let class = service(
        "e",
        json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other", "ports": [{"port": 80}]}),
    );
    world.apply([given, class]);
    assert_eq!(ingress_of(&world, "d"), ["203.0.113.7"]);
    assert!(ingress_of(&world, "e").is_empty());
}

#[test]
fn families_follow_policy_and_cluster() {
    let dual = || {
        World::with(ClusterSettings {
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
            ..ClusterSettings::default()
        })
    };
    let one = |policy: serde_json::Value| service("a", json!({"ipFamilyPolicy": policy, "ports": [{"port": 80}]}));
    let families = |world: &World| world.service("a").spec.unwrap().ip_families.unwrap().join(",");
    for (policy, single_stack, dual_stack) in [
        (json!(null), "IPv4", "IPv4"),
        (json!("SingleStack"), "IPv4", "IPv4"),
        (json!("PreferDualStack"), "IPv4", "IPv4,IPv6"),
    ] {
        for (mut world, expected) in [(World::new(), single_stack), (dual(), dual_stack)] {
            world.apply([one(policy.clone())]);
            assert_eq!(families(&world), expected, "{policy}");
            assert_eq!(world.service("a").spec.unwrap().cluster_addresses().len(), expected.split(',').count());
        }
    }
    let told = r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#;
    assert_eq!(World::new().faults(one(json!("RequireDualStack"))), [told]);
    let mut world = World::new();
    world.apply([service("a", json!({"clusterIP": "None"}))]);
    assert_eq!(families(&world), "IPv4,IPv6");
    let mut world = dual();
    world.apply([service("a", json!({"clusterIP": "fd00:96::5", "ports": [{"port": 80}]}))]);
    assert_eq!(families(&world), "IPv6");
    world.apply([service(
        "a",
        json!({"clusterIP": "fd00:96::5", "ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]}),
    )]);
    assert_eq!(families(&world), "IPv6,IPv4");
    assert_eq!(world.service("a").spec.unwrap().cluster_addresses()[0].to_string(), "fd00:96::5");
}

#[test]
fn an_update_keeps_what_it_does_not_mention_and_may_not_move_the_address() {
    let mut world = World::new();
    world.apply([service(
        "a",
        json!({"type": "NodePort", "ports": [{"name": "x", "port": 80}, {"name": "y", "port": 81}]}),
    )]);
    let (ip, x, y) = (cluster_ip(&world, "a"), node_port(&world, "a", 0), node_port(&world, "a", 1));
    let replaced =
        service("a", json!({"type": "NodePort", "ports": [{"name": "new", "port": 81}, {"name": "x", "port": 90}]}));
    world.write(vec![Write::Replace(object(replaced))]).unwrap();
    assert_eq!((cluster_ip(&world, "a"), node_port(&world, "a", 0), node_port(&world, "a", 1)), (ip, y, x));
    let ports = json!([{"name": "z", "port": 80}]);
    let moved = service("a", json!({"type": "NodePort", "clusterIP": "10.96.0.77", "ports": ports}));
    assert_eq!(world.faults(moved), [r#"spec.clusterIPs[0]: Invalid value: ["10.96.0.77"]: may not change once set"#]);
}

#[test]
fn a_port_keeps_its_node_port_by_name_whatever_else_changes() {
    let mut world = World::new();
    let of = |ports: serde_json::Value| service("a", json!({"type": "NodePort", "ports": ports}));
    world.apply([of(json!([{"name": "x", "port": 80}, {"name": "y", "port": 81}]))]);
    let (x, y) = (node_port(&world, "a", 0), node_port(&world, "a", 1));
    for ports in [
        json!([{"name": "x", "port": 81}, {"name": "y", "port": 80}]),
        json!([{"name": "x", "port": 80, "protocol": "UDP"}, {"name": "y", "port": 80}]),
    ] {
        world.write(vec![Write::Replace(object(of(ports)))]).unwrap();
        assert_eq!((node_port(&world, "a", 0), node_port(&world, "a", 1)), (x, y));
    }
}

#[test]
fn families_are_not_guessed_where_the_policy_is_left_out() {
    let dual = || {
        World::with(ClusterSettings {
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
            ..ClusterSettings::default()
        })
    };
    let with = |more: serde_json::Value| {
        let mut spec = json!({"selector": {"app": "a"}, "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service("a", spec)
    };
    let told = |policy: &str, detail: &str| format!("spec.ipFamilyPolicy: Invalid value: \"{policy}\": {detail}");
    let several = |what: &str| {
        told(
            "SingleStack",
            &format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"),
        )
    };
    let both = json!({"clusterIP": "10.96.0.50", "clusterIPs": ["10.96.0.50", "fd00:96::5"]});
    assert_eq!(dual().faults(with(json!({"ipFamilies": ["IPv4", "IPv6"]}))), [several("IP families")]);
    assert_eq!(dual().faults(with(both)), [several("cluster IPs")]);

    let mut world = dual();
    world.apply([with(json!({"ipFamilyPolicy": "PreferDualStack"}))]);
    let before = world.service("a").spec.unwrap();
    let replace = |value| vec![Write::Replace(object(value))];
    world.write(replace(with(json!({"publishNotReadyAddresses": true})))).unwrap();
    let after = world.service("a").spec.unwrap();
    assert_eq!((&after.ip_family_policy, &after.cluster_ips), (&before.ip_family_policy, &before.cluster_ips));
    let refusals = world.write(replace(with(json!({"ipFamilies": ["IPv4"]})))).unwrap_err();
    let detail = "must be 'SingleStack' to release the secondary IP family";
    assert_eq!(refusals[0].faults[0].to_string(), told("PreferDualStack", detail));
}

#[test]
fn other_ranges_change_no_service_that_preferred_both() {
    let dual = ClusterSettings {
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
        ..ClusterSettings::default()
    };
    for (then, now, count) in [(ClusterSettings::default(), dual.clone(), 1), (dual, ClusterSettings::default(), 2)] {
        let mut world = World::with(then);
        world.apply([service("a", json!({"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]}))]);
        let objects = Kind::ALL.into_iter().flat_map(|kind| world.cluster.objects(kind, None));
        let objects: Vec<Object> = objects.map(|object| (**object).clone()).collect();
        let mut world = World { cluster: crate::cluster::Cluster::restore(now, objects, 9).unwrap() };
        let mut service = world.service("a");
        service.metadata.labels = Some([("x".to_owned(), "y".to_owned())].into());
        world.write(vec![Write::Replace(Object::Service(Box::new(service)))]).unwrap();
        assert_eq!(world.service("a").spec.unwrap().cluster_ips.unwrap().len(), count);
    }
}

#[test]
fn what_configures_an_affinity_goes_with_it() {
    let mut world = World::new();
    let of = |affinity: &str| {
        let config = json!({"clientIP": {"timeoutSeconds": 5}});
        service("a", json!({"sessionAffinity": affinity, "sessionAffinityConfig": config, "ports": [{"port": 80}]}))
    };
    world.apply([of("ClientIP")]);
    assert!(world.service("a").spec.unwrap().session_affinity_config.is_some());
    world.apply([of("None")]);
    assert_eq!(world.service("a").spec.unwrap().session_affinity_config, None);
}

#[test]
fn a_replacement_with_an_empty_status_keeps_the_address() {
    let mut world = World::new();
    let of = |status: serde_json::Value| {
        let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        let mut value = service("a", spec);
        value["status"] = status;
        value
    };
    world.apply([
        service("other", json!({"type": "LoadBalancer", "loadBalancerIP": "192.0.2.8", "ports": [{"port": 80}]})),
        of(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.11"}]}})),
    ]);
    let replaced = Write::Replace(object(of(json!({"loadBalancer": {}}))));
    world.write(vec![replaced]).unwrap();
    assert_eq!(ingress_of(&world, "a"), ["192.0.2.11"]);
}

#[test]
fn the_secondary_address_comes_and_goes_and_the_primary_stays() {
    let mut world = World::with(ClusterSettings {
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
        ..ClusterSettings::default()
    });
    let of = |policy: &str| {
        service("a", json!({"ipFamilyPolicy": policy, "selector": {"app": "a"}, "ports": [{"port": 80}]}))
    };
    let addresses = |world: &World| world.service("a").spec.unwrap().cluster_ips.unwrap();
    let slices = |world: &World| -> Vec<String> { world.slices("a").into_iter().map(|s| s.address_type).collect() };
    world.apply([of("PreferDualStack")]);
    let both = addresses(&world);
    assert_eq!((both.len(), slices(&world).len()), (2, 2));
    world.apply([of("SingleStack")]);
    assert_eq!((addresses(&world), slices(&world)), (vec![both[0].clone()], vec!["IPv4".to_owned()]));
    assert_eq!(world.service("a").spec.unwrap().ip_families.unwrap(), ["IPv4"]);
    // What was released is free.
    let asks = json!({"clusterIP": both[1], "ipFamilies": ["IPv6"], "ports": [{"port": 80}]});
    world.apply([service("b", asks)]);
    world.apply([of("RequireDualStack")]);
    let again = addresses(&world);
    assert_eq!((again.len(), &again[0]), (2, &both[0]));
    assert_ne!(again[1], both[1]);
}

#[test]
fn a_freed_address_goes_to_who_asked_for_it_and_a_wish_in_vain_keeps_nobody_waiting() {
    let mut world = World::new();
    let of = |name: &str, more: serde_json::Value| {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service(name, spec)
    };
    world.apply(["a", "b", "c"].map(|name| of(name, json!({}))));
    world.apply([of("holder", json!({"loadBalancerIP": "192.0.2.8"}))]);
    let last = ingress_of(&world, "a").remove(0);
    world.apply([of("m", json!({})), of("z", json!({"loadBalancerIP": last}))]);
    world.delete(Kind::Service, "a");
    assert_eq!((ingress_of(&world, "z"), ingress_of(&world, "m").len()), (vec![last], 0));
    let freed = ingress_of(&world, "b").remove(0);
    let class = of("other", json!({"loadBalancerIP": freed, "loadBalancerClass": "example.com/other"}));
    let key = crate::objects::Key::new(Kind::Service, "default", "b");
    world.write(vec![Write::delete(key), Write::Apply(object(class))]).unwrap();
    assert_eq!(ingress_of(&world, "m"), [freed]);
}

#[test]
fn a_balancer_that_changes_hands_keeps_nothing_of_ours() {
    let mut world = World::new();
    let of = |more: serde_json::Value| {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service("a", spec)
    };
    world.apply([of(json!({"allocateLoadBalancerNodePorts": false}))]);
    assert_eq!((node_port(&world, "a", 0), ingress_of(&world, "a").len()), (0, 1));
    world.apply([service("a", json!({"ports": [{"port": 80}]}))]);
    assert!(ingress_of(&world, "a").is_empty());
    world.apply([of(json!({"loadBalancerClass": "example.com/other"}))]);
    assert!(ingress_of(&world, "a").is_empty() && node_port(&world, "a", 0) != 0);
    let asks = json!({"type": "LoadBalancer", "loadBalancerIP": "not an address", "ports": [{"port": 80}]});
    world.apply([service("b", asks)]);
    assert_eq!(ingress_of(&world, "b").len(), 1, "what is no address is no wish");
}

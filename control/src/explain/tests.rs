use serde_json::json;

use super::*;
use crate::testing::{World, node, pod, service, web};

fn told(world: &World, name: &str) -> Explanation {
    explain(&world.cluster, &ServiceName::new("default", name)).unwrap()
}

fn labelled(name: &str, ip: &str, labels: serde_json::Value) -> serde_json::Value {
    let mut pod = pod(name, "x", ip);
    pod["metadata"]["labels"] = labels;
    pod
}

/// The guide's story: two Pods that match, one of another app, one of another version.
fn guide() -> World {
    let mut world = World::new();
    let selector = json!({"app": "backend", "version": "v1"});
    let ports = json!([{"name": "http", "port": 8080}]);
    world.apply([
        service("backend-service", json!({"clusterIP": "10.96.0.50", "selector": selector, "ports": ports})),
        labelled("backend-a", "10.244.1.10", json!({"app": "backend", "version": "v1"})),
        labelled("backend-b", "10.244.2.15", json!({"app": "backend", "version": "v1"})),
        labelled("frontend", "10.244.1.20", json!({"app": "frontend"})),
        labelled("backend-next", "10.244.2.22", json!({"app": "backend", "version": "v2"})),
    ]);
    world
}

#[test]
fn the_guides_service_explained() {
    let expected = "\
Service default/backend-service (ClusterIP), selects app=backend, version=v1

Answers on
  DNS         backend-service.default.svc
  ClusterIP   10.96.0.50:8080/TCP (http)    2 ready

Pods in namespace default: 2 of 4 are endpoints
  POD            IP            ENDPOINT   LABELS   WHY
  backend-a      10.244.1.10   yes        2/2      10.244.1.10:8080/TCP
  backend-b      10.244.2.15   yes        2/2      10.244.2.15:8080/TCP
  backend-next   10.244.2.22   no         1/2      label differs: version: v2 ≠ v1
  frontend       10.244.1.20   no         0/2      label differs: app: frontend ≠ backend
";
    assert_eq!(told(&guide(), "backend-service").text(), expected);
}

#[test]
fn a_selector_that_matches_nothing_names_the_nearest_miss() {
    let mut world = guide();
    world.apply([service("lost", json!({"selector": {"app": "backend", "version": "v3"}, "ports": [{"port": 80}]}))]);
    let mut elsewhere = labelled("other", "10.0.0.9", json!({"app": "backend", "version": "v3"}));
    elsewhere["metadata"]["namespace"] = json!("stage");
    world.apply([elsewhere]);
    let expected = [
        "The selector matches no Pod in namespace default. Nearest: Pod backend-a, 1 of 2 pairs; label differs: version: v1 ≠ v3. \
         Pods that match are in another namespace: stage.",
        "No endpoint is ready: connections are refused.",
    ];
    assert_eq!(told(&world, "lost").notes, expected);
}

#[test]
fn every_rule_has_its_sentence() {
    let state = |name: &str, path: &str, value: serde_json::Value| {
        let mut pod = pod(name, "a", "10.0.0.1");
        *pod.pointer_mut(path).unwrap() = value;
        pod
    };
    let mut missing_node = pod("node", "a", "10.0.0.2");
    missing_node["spec"]["nodeName"] = json!("n9");
    let mut world = World::new();
    world.apply([
        service("a", json!({"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": "http"}]})),
        node("n1", "z"),
        missing_node,
        state("failed", "/status/phase", json!("Failed")),
        state("no-ip", "/status/podIP", json!(null)),
        state("no-status", "/status", json!(null)),
        state("not-ready", "/status/conditions", json!([])),
        state(
            "leaving",
            "/metadata",
            json!({"name": "leaving", "labels": {"app": "a"}, "deletionTimestamp": "2024-01-01T00:00:00Z"}),
        ),
        state("v6", "/status/podIP", json!("fd00::1")),
        state("no-port", "/spec/containers", json!([{"name": "c"}])),
        labelled("bare", "10.0.0.7", json!({})),
    ]);
    let reasons: BTreeMap<String, String> =
        told(&world, "a").pods.iter().map(|pod| (pod.name.clone(), pod.verdict.reason())).collect();
    let expected = [
        ("bare", "label missing: app (wanted a)"),
        ("failed", "phase Failed"),
        ("leaving", "terminating: used only if no ready endpoint is left"),
        ("no-ip", "no IP: status.podIP is not set"),
        ("no-port", "port name not found: no container has a port named http"),
        ("no-status", "no IP: status.podIP is not set"),
        ("node", "its Node n9 does not exist"),
        ("not-ready", "its Ready condition is not True"),
        ("v6", "no IP of family IPv4"),
    ];
    let reasons: Vec<(&str, &str)> = reasons.iter().map(|(name, reason)| (&**name, &**reason)).collect();
    assert_eq!(reasons, expected);
}

#[test]
fn every_type_says_where_it_answers() {
    let mut world = World::new();
    world.apply([
        service("lb", json!({"type": "LoadBalancer", "clusterIP": "10.96.0.60", "loadBalancerIP": "192.0.2.9", "externalIPs": ["198.51.100.1"], "selector": {"app": "a"}, "ports": [{"port": 80, "nodePort": 30080}]})),
        service("ext", json!({"type": "ExternalName", "externalName": "db.example.com"})),
        service("wait", json!({"type": "LoadBalancer", "loadBalancerIP": "192.0.2.9", "selector": {"app": "a"}, "ports": [{"port": 80}]})),
        pod("p", "a", "10.0.0.1"),
    ]);
    let places: Vec<String> =
        told(&world, "lb").answers.iter().map(|answer| format!("{} {}", answer.via, answer.address)).collect();
    assert_eq!(
        places,
        [
            "DNS lb.default.svc",
            "ClusterIP 10.96.0.60:80/TCP",
            "NodePort 192.168.50.10:30080/TCP",
            "LoadBalancer 192.0.2.9:80/TCP",
            "external IP 198.51.100.1:80/TCP"
        ]
    );
    assert_eq!(
        told(&world, "ext").text(),
        "Service default/ext (ExternalName), no selector\n\nAnswers on\n  DNS   ext.default.svc is an alias of db.example.com\n"
    );
    assert_eq!(
        told(&world, "wait").notes,
        ["No LoadBalancer address: 192.0.2.9 is in no pool (cluster.loadBalancerPools), or already in use."]
    );
}

#[test]
fn every_protocol_is_served() {
    let mut world = World::new();
    let ports = json!([{"name": "a", "port": 7, "protocol": "SCTP"}, {"name": "b", "port": 7, "protocol": "UDP"},
        {"name": "c", "port": 7}]);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "endpoints": [{"addresses": ["10.9.9.9"]}], "ports": ports});
    world.apply([service("s", json!({"clusterIP": "10.96.0.50", "ports": ports})), slice]);
    let explanation = told(&world, "s");
    for port in ["7/SCTP (a)   1 ready", "7/UDP (b)    1 ready", "7/TCP (c)    1 ready"] {
        assert!(explanation.text().contains(&format!("ClusterIP   10.96.0.50:{port}")), "{}", explanation.text());
    }
    let unserved = |note: &String| note.contains("SCTP") || note.contains("IPv6");
    assert!(!explanation.notes.iter().any(unserved), "{:?}", explanation.notes);
}

#[test]
fn slices_of_others_are_named_and_the_data_survives_json() {
    let mut world = World::new();
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "a-mine", "labels": {"kubernetes.io/service-name": "a"}},
        "endpoints": [{"addresses": ["10.9.9.9"]}], "ports": [{"port": 80}]});
    world.apply([service("a", json!({"clusterIP": "10.96.0.50", "ports": [{"port": 80}]})), slice]);
    let explanation = told(&world, "a");
    let expected = "\
Service default/a (ClusterIP), no selector
  ! No selector: the endpoints come from its EndpointSlices, which the gateway does not update.

Answers on
  DNS         a.default.svc
  ClusterIP   10.96.0.50:80/TCP   1 ready

EndpointSlices written by other clients, used as they are
  a-mine (without a manager): 1 endpoint
";
    assert_eq!(explanation.text(), expected);
    let text = serde_json::to_string(&told(&guide(), "backend-service")).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), told(&guide(), "backend-service"));
    assert_eq!(explain(&world.cluster, &ServiceName::new("default", "none")), None);
}

#[test]
fn a_service_without_a_selector_says_where_its_endpoints_come_from() {
    let mut world = World::new();
    world.apply([service("a", json!({"clusterIP": "10.96.0.50", "ports": [{"port": 80}]}))]);
    let nobody =
        "No selector, and no EndpointSlice or Endpoints names it: it has no endpoints until a client writes one.";
    assert_eq!(told(&world, "a").notes, [nobody, "No endpoint is ready: connections are refused."]);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "a"},
        "subsets": [{"addresses": [{"ip": "10.9.9.9"}], "ports": [{"port": 80}]}]});
    world.apply([endpoints]);
    let explanation = told(&world, "a");
    let mirrored = "No selector: the endpoints come from its Endpoints, which the gateway does not update.";
    assert_eq!(explanation.notes, [mirrored]);
    let text = explanation.text();
    assert!(text.contains("10.96.0.50:80/TCP   1 ready"), "{text}");
    assert!(text.ends_with(" (mirrored from Endpoints): 1 endpoint\n"), "{text}");
}

#[test]
fn a_crowd_of_strangers_is_counted() {
    let mut world = World::new();
    let strangers = (0..25).map(|i| pod(&format!("s{i:02}"), "other", &format!("10.0.0.{}", i + 1)));
    world.apply(strangers.chain([web("a"), pod("p", "a", "10.0.1.1")]));
    let text = told(&world, "a").text();
    assert!(text.ends_with("  and 15 more Pods without any label of the selector\n"), "{text}");
}

#[test]
fn an_external_name_that_is_no_use_is_not_called_an_alias() {
    let mut world = World::new();
    let alias = |name: &str, target: &str| service(name, json!({"type": "ExternalName", "externalName": target}));
    world.apply([
        alias("ip", "10.1.2.3"),
        alias("itself", "itself.default.svc.cluster.local"),
        alias("ping", "pong.default.svc.cluster.local"),
        alias("pong", "ping.default.svc.cluster.local"),
        alias("good", "www.example.org"),
    ]);
    let answer = |name: &str| told(&world, name).answers[0].address.clone();
    assert_eq!(answer("ip"), "ip.default.svc does not exist");
    assert_eq!(answer("itself"), "itself.default.svc has no records");
    assert_eq!(answer("good"), "good.default.svc is an alias of www.example.org");
    assert!(told(&world, "ip").notes[0].starts_with("spec.externalName: 10.1.2.3 is an address and not a name"));
    assert!(told(&world, "itself").notes[0].contains("an alias of itself"));
    let circle = "spec.externalName: the aliases lead in a circle and to no address: default/ping → default/pong → default/ping.";
    assert_eq!(told(&world, "ping").notes, [circle]);
    assert_eq!(told(&world, "good").notes, [""; 0]);
}

/// `kube-dns`, imported from a cluster: its endpoints are not those of the gateway, which answers itself.
#[test]
fn the_gateways_own_port_is_not_refused() {
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]);
    let spec = |ports: &serde_json::Value| json!({"clusterIP": "10.96.0.10", "selector": {"app": "x"}, "ports": ports});
    let mut world = World::new();
    world.apply([service("kube-dns", spec(&ports))]);
    let dns = told(&world, "kube-dns");
    let via: Vec<(&str, &str)> = dns.answers.iter().map(|answer| (&*answer.via, &*answer.address)).collect();
    let expected =
        [("DNS", "kube-dns.default.svc"), ("gateway", "10.96.0.10:53/UDP"), ("gateway", "10.96.0.10:53/TCP")];
    assert_eq!(via, expected);
    let note = "The gateway answers DNS queries to 10.96.0.10:53/UDP, 10.96.0.10:53/TCP itself (`dns.address`): the endpoints of \
                this Service get none of them.";
    assert!(dns.notes.iter().any(|told| told == note), "{:?}", dns.notes);
    assert!(!dns.notes.iter().any(|told| told.contains("refused")), "{:?}", dns.notes);
    assert!(dns.text().contains("the gateway's own DNS"), "{}", dns.text());
    // Another port is the Service's own, and so is TCP without the host pair.
    let mut more = ports.clone();
    more.as_array_mut().expect("ports").push(json!({"name": "metrics", "port": 9153}));
    world.apply([service("kube-dns", spec(&more))]);
    assert!(told(&world, "kube-dns").notes.iter().any(|told| told.contains("refused")));
    let settings = crate::cluster::ClusterSettings { has_pair: false, ..World::new().cluster.settings().clone() };
    let mut world = World::with(settings);
    world.apply([service("kube-dns", spec(&ports))]);
    let via: Vec<String> = told(&world, "kube-dns").answers.into_iter().map(|answer| answer.via).collect();
    assert_eq!(via, ["DNS", "gateway", "ClusterIP"]);
}

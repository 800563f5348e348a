//! `pollgate dump` of a running gateway: the tables it serves by, and the flows that its workers have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};

use pollgate::lab::traffic::{ask_udp, connect, greeting};
use serde_json::Value;

use crate::live::support::{CLUSTER_IP, GATEWAY, NODE_PORT, PATIENCE, Site, UDP, at};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;

tests! {
    [Lab] =>
        flows_are_dumped_as_the_workers_have_them,
        tables_are_dumped_as_they_are_published;
}

fn dumped(site: &Site, words: &[&str]) -> Vec<Value> {
    let text = site.cli(&[&["dump"], words, &["-o", "json"]].concat()).expect("dumped");
    let page: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    page["items"].as_array().expect("items").clone()
}

fn text<'a>(item: &'a Value, field: &str) -> &'a str {
    item[field].as_str().unwrap_or_else(|| panic!("{field} of {item}"))
}

fn flows_are_dumped_as_the_workers_have_them() {
    // More than a page, to both workers.
    const EACH: usize = 300;
    let site = Site::new();
    assert_eq!(dumped(&site, &["flows"]), Vec::<Value>::new());
    let open = |from: &str, to: &str| {
        let stream = connect(site.host(from), at(to), PATIENCE).expect("a connection");
        greeting(&stream).expect("a greeting");
        stream
    };
    let inside: Vec<TcpStream> = (0..EACH).map(|_| open("frontend-app", CLUSTER_IP)).collect();
    let outside: Vec<TcpStream> = (0..EACH).map(|_| open("outside-client", CLUSTER_IP)).collect();
    ask_udp(site.host("frontend-app"), at(UDP), "who?", PATIENCE).expect("an answer");

    let flows = dumped(&site, &["flows"]);
    assert_eq!(flows.len(), 2 * EACH + 1);
    let clients: BTreeSet<&str> = flows.iter().map(|flow| text(flow, "client")).collect();
    for stream in inside.iter().chain(&outside) {
        let client = stream.local_addr().expect("an address").to_string();
        assert!(clients.contains(client.as_str()), "{client} is not in {clients:?}");
    }
    for flow in flows.iter().filter(|flow| text(flow, "protocol") == "TCP") {
        assert_eq!((text(flow, "frontend"), text(flow, "state")), (CLUSTER_IP, "established"), "{flow}");
        assert!(["10.244.1.10:8080", "10.244.2.15:8080"].contains(&text(flow, "backend")), "{flow}");
        assert!(text(flow, "service").starts_with("default/backend-service:"), "{flow}");
        // Pods are seen as they are; clients from outside by the gateway's address.
        let source: SocketAddr = text(flow, "source").parse().expect("an address");
        let client = text(flow, "client");
        let is_outside = outside.iter().any(|stream| stream.local_addr().expect("an address").to_string() == client);
        let expected = if is_outside { GATEWAY } else { client.split(':').next().expect("an address") };
        assert_eq!(source.ip().to_string(), expected, "{flow}");
    }
    let by_worker = site.by_worker(|worker| worker.flows_live.value());
    for (worker, live) in by_worker.iter().enumerate() {
        let found = flows.iter().filter(|flow| flow["worker"] == worker).count() as u64;
        assert_eq!(found, *live, "of worker {worker}");
    }

    // Statistics count the same flows.
    let stats: Value = serde_json::from_str(&site.cli(&["stats", "-o", "json"]).expect("counted")).expect("JSON");
    let services = stats["services"].as_object().expect("services");
    let live: u64 = services.values().map(|service| service["live"].as_u64().expect("counted")).sum();
    assert_eq!((live, &stats["flows"]["departed"]), (flows.len() as u64, &0.into()), "{stats:#}");
    let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
    for flow in &flows {
        let key = (text(flow, "service").to_owned(), text(flow, "backend").to_owned());
        *expected.entry(key).or_default() += 1;
    }
    let mut found = BTreeMap::new();
    for (name, service) in services {
        let backends = service["backends"].as_object();
        for (backend, values) in backends.into_iter().flatten() {
            found.insert((name.clone(), backend.clone()), values["live"].as_u64().expect("counted"));
        }
        // Every endpoint is there, so each packet is an endpoint's.
        for number in ["packets", "bytes", "flows"] {
            let values = backends.into_iter().flatten().map(|(_, values)| values[number].as_u64().expect("a number"));
            assert_eq!(service[number], values.sum::<u64>(), "{number} of {name}");
        }
    }
    assert_eq!(found, expected);

    let one = inside[7].local_addr().expect("an address");
    let (address, port) = (one.ip().to_string(), one.port().to_string());
    let found = dumped(&site, &["flows", "--address", &address, "--port", &port]);
    assert!(found.iter().any(|flow| text(flow, "client") == one.to_string()), "{found:?}");
    assert_eq!(dumped(&site, &["flows", "--protocol", "udp"]).len(), 1);
    assert_eq!(dumped(&site, &["flows", "--service", "default/backend-service"]).len(), 2 * EACH);
    assert_eq!(dumped(&site, &["flows", "--service", "default/no-such"]), Vec::<Value>::new());
    let table = site.cli(&["dump", "flows", "--address", &address, "--port", &port]).expect("dumped");
    assert!(table.starts_with("WORKER   PROTOCOL   CLIENT ") && table.contains(" established "), "{table}");
    drop((inside, outside));
    site.at_rest(&[]);
}

fn tables_are_dumped_as_they_are_published() {
    let site = Site::new();
    let frontends = dumped(&site, &["frontends", "--service", "default/backend-service"]);
    let frontend = frontends.iter().find(|item| text(item, "kind") == "ClusterIP").expect("a ClusterIP");
    assert_eq!(format!("{}:{}", text(frontend, "address"), frontend["port"]), CLUSTER_IP);
    let node_port = at(NODE_PORT).port().to_string();
    let found = dumped(&site, &["frontends", "--port", &node_port]);
    assert!(found.iter().all(|item| text(item, "kind") == "NodePort" && text(item, "address") == GATEWAY), "{found:?}");
    let owned = dumped(&site, &["owned", "--address", GATEWAY]);
    assert_eq!(text(&owned[0], "kind"), "Gateway");
    let rings = dumped(&site, &["rings", "--service", "default/backend-service"]);
    assert_eq!(rings[0]["backends"].as_array().map(Vec::len), Some(2), "{rings:?}");
    let all = site.cli(&["dump"]).expect("dumped");
    for line in ["Frontends", "Services", "Rings", "Owned addresses", "DNS zone", "Flows"] {
        assert!(all.lines().any(|other| other == line), "{line} is missing in\n{all}");
    }
    assert!(all.contains("\nbackend-service.default.svc.cluster.local. "), "{all}");
    site.cli(&["delete", "service", "backend-service"]).expect("deleted");
    assert_eq!(dumped(&site, &["frontends", "--service", "default/backend-service"]), Vec::<Value>::new());
    site.at_rest(&[]);
}

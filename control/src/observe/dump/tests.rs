use std::collections::BTreeSet;

use pollgate_common::counters::Counters;
use pollgate_common::dns::name::to_wire;
use pollgate_common::dns::zone::ZoneSettings;
use pollgate_common::hash::RingHash;
use pollgate_common::settings::{DataplaneSettings, Masquerade};
use serde_json::{Value, json};

use super::*;
use crate::compile::sink::TableSink;
use crate::compile::{Compiler, Options};
use crate::objects::Kind;
use crate::testing::{World, service};

fn settings() -> Arc<DataplaneSettings> {
    Arc::new(DataplaneSettings {
        gateway_v4: vec!["192.168.50.10".parse().unwrap()],
        gateway_v6: vec![],
        dns: vec!["10.96.0.10".parse().unwrap()],
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        masquerade: Masquerade::Kubernetes,
        host_pair: false,
        snat_ports: 1024..=29999,
        ring_hash: RingHash::new("pollgate"),
    })
}

pub(crate) fn options() -> Options {
    Options {
        settings: settings(),
        node: None,
        zone: None,
        dns: Arc::new(ZoneSettings { origin: to_wire("cluster.local").unwrap(), ttl: 5, ..ZoneSettings::default() }),
        table_size: Some(251),
    }
}

fn slice(name: &str, ips: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": "n1"})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-s"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

/// The tables of three Services: one with a node port and two endpoints, one alias, one of UDP without endpoints.
fn source() -> Source {
    let mut world = World::new();
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}]);
    world.apply([
        service(
            "web",
            json!({"type": "NodePort", "clusterIP": "10.96.0.50", "ports": ports, "externalTrafficPolicy": "Local"}),
        ),
        service("ext", json!({"type": "ExternalName", "externalName": "ext.example.com"})),
        service("time", json!({"clusterIP": "10.96.0.51", "ports": [{"name": "ntp", "port": 123, "protocol": "UDP"}]})),
        slice("web", &["10.244.1.10", "10.244.2.15"]),
    ]);
    let mut compiler = Compiler::new(options(), Arc::new(Counters::new(1)));
    compiler.changed(&world.cluster, &world.cluster.all_of(Kind::ALL));
    compiler.publish();
    compiler.source()
}

fn query(limit: usize) -> Query {
    Query { limit, ..Query::default() }
}

fn dumped(source: &Source, table: Table, query: &Query) -> Page {
    let reader = source.reader();
    let page = page(reader.pin().load(), table, query).expect("a token of this table").expect("a table");
    // What is sent is what is read.
    let sent = serde_json::to_value(&page).unwrap();
    assert_eq!(sent["table"], table.name());
    assert_eq!(serde_json::from_value::<Page>(sent).unwrap(), page);
    page
}

fn items(source: &Source, table: Table, filter: Filter) -> Value {
    let page = dumped(source, table, &Query { filter, limit: LIMIT, after: None });
    assert_eq!(page.rest, None);
    serde_json::to_value(page).unwrap()["items"].take()
}

#[test]
fn frontends_lead_to_their_services() {
    let source = source();
    let web = |address: &str, port: u16, kind: &str| json!({"address": address, "port": port, "protocol": "TCP", "kind": kind, "service": "default/web:http"});
    let web = [web("10.96.0.50", 80, "ClusterIP"), web("192.168.50.10", 30080, "NodePort")];
    let found = items(&source, Table::Frontends, Filter { service: Some("default/web".into()), ..Filter::default() });
    assert_eq!(found, json!(web));
    let udp = Filter { protocol: Some(Protocol::Udp), ..Filter::default() };
    assert_eq!(items(&source, Table::Frontends, udp)[0]["address"], "10.96.0.51");
    let port = Filter { port: Some(30080), ..Filter::default() };
    assert_eq!(items(&source, Table::Frontends, port), json!(web[1..]));
}

#[test]
fn services_have_their_policies_and_backends() {
    let source = source();
    let found =
        items(&source, Table::Services, Filter { service: Some("default/web:http".into()), ..Filter::default() });
    let web = &found[0];
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    assert_eq!((&web["internalTrafficPolicy"], &web["externalTrafficPolicy"]), (&json!("Cluster"), &json!("Local")));
    assert_eq!((&web["sessionAffinity"], &web["hasEndpoints"]), (&json!("None"), &json!(true)));
    assert_eq!(web["frontends"].as_array().map(Vec::len), Some(2));
    let backends = web["backends"].as_array().unwrap();
    let addresses: BTreeSet<&str> = backends.iter().filter_map(|backend| backend["address"].as_str()).collect();
    assert_eq!(addresses, BTreeSet::from(["10.244.1.10", "10.244.2.15"]));
    assert!(backends.iter().all(|b| b["serving"] == true && b["cluster"] == true && b["port"] == 8080), "{found}");
    // By a backend's address, and by a part of a name, which is none.
    let backend = Filter { address: Some("10.244.1.10".parse().unwrap()), ..Filter::default() };
    assert_eq!(items(&source, Table::Services, backend).as_array().map(Vec::len), Some(1));
    let part = Filter { service: Some("default/we".into()), ..Filter::default() };
    assert_eq!(items(&source, Table::Services, part), json!([]));
}

#[test]
fn rings_show_each_backends_share_and_a_digest() {
    let Items::Rings(rings) = dumped(&source(), Table::Rings, &query(LIMIT)).items else { panic!("rings") };
    let cluster = rings.iter().find(|ring| ring.policy == "Cluster" && ring.service == "default/web:http").unwrap();
    assert_eq!((cluster.size, cluster.backends.len()), (251, 2));
    assert_eq!(cluster.backends.iter().map(|share| share.entries).sum::<usize>(), 251);
    assert!(cluster.backends.iter().all(|share| share.entries > 100), "{cluster:?}");
    // Another process has the same.
    let Items::Rings(again) = dumped(&source(), Table::Rings, &query(LIMIT)).items else { panic!("rings") };
    assert_eq!(rings, again);
}

#[test]
fn owned_addresses_and_names() {
    let source = source();
    let found =
        items(&source, Table::Owned, Filter { address: Some("10.96.0.50".parse().unwrap()), ..Filter::default() });
    assert_eq!(found, json!([{"address": "10.96.0.50", "kind": "ClusterIP"}]));
    let Items::Zone(zone) = dumped(&source, Table::Zone, &query(LIMIT)).items else { panic!("a zone") };
    let of = |name: &str| zone.iter().find(|item| item.name == name).unwrap_or_else(|| panic!("{name}: {zone:?}"));
    let record = |name: &str, rtype: &str, data: &[&str]| ZoneItem {
        name: name.to_owned(),
        rtype: rtype.to_owned(),
        ttl: 5,
        data: data.iter().map(ToString::to_string).collect(),
    };
    for expected in [
        record("web.default.svc.cluster.local.", "A", &["10.96.0.50"]),
        record("ext.default.svc.cluster.local.", "CNAME", &["ext.example.com."]),
        record("default.svc.cluster.local.", "", &[]),
    ] {
        assert_eq!(of(&expected.name), &expected);
    }
    assert!(zone.is_sorted_by_key(|item| item.name.clone()));
    let address = Filter { address: Some("10.96.0.51".parse().unwrap()), ..Filter::default() };
    let found = items(&source, Table::Zone, address);
    let names: Vec<&str> = found.as_array().unwrap().iter().filter_map(|item| item["name"].as_str()).collect();
    assert_eq!(names, ["_ntp._udp.time.default.svc.cluster.local.", "time.default.svc.cluster.local."]);
    let of_service = |service: &str| -> Vec<String> {
        let found = items(&source, Table::Zone, Filter { service: Some(service.to_owned()), ..Filter::default() });
        let names = found.as_array().expect("items").iter().filter_map(|item| item["name"].as_str());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.dedup();
        names
    };
    let whole = ["_http._tcp.web.default.svc.cluster.local.", "web.default.svc.cluster.local."];
    assert_eq!(of_service("default/web"), whole);
    assert_eq!(of_service("default/web:http"), whole[..1]);
    for other in ["default/eb", "default/we", "default/web:ttp", "efault/web", "web"] {
        assert_eq!(of_service(other), [""; 0], "{other}");
    }
}

#[test]
fn pages_together_are_the_whole() {
    let source = source();
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Flows) {
        let whole = items(&source, table, Filter::default());
        for limit in 1..4 {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let page = dumped(&source, table, &Query { after, ..query(limit) });
                let rest = page.rest.clone();
                let Value::Array(found) = serde_json::to_value(page).unwrap()["items"].take() else { panic!("items") };
                assert!(!found.is_empty() && found.len() <= limit, "{table:?}: {found:?}");
                all.extend(found);
                after = rest;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(Value::Array(all), whole, "{table:?} by {limit}");
        }
    }
}

#[test]
fn a_token_of_another_table_is_refused() {
    let source = source();
    let reader = source.reader();
    let pin = reader.pin();
    for (table, after) in [(Table::Owned, "7"), (Table::Services, "\"a\""), (Table::Zone, "["), (Table::Frontends, "")]
    {
        let query = Query { after: Some(after.to_owned()), ..query(1) };
        assert_eq!(page(pin.load(), table, &query), Err(BadToken), "{table:?} {after}");
    }
    assert_eq!(page(pin.load(), Table::Flows, &query(1)), Ok(None));
    assert_eq!(flow_place(Some(&flow_token(3, 8))), Ok((3, 8)));
    assert_eq!((flow_place(None), flow_place(Some("x"))), (Ok((0, 0)), Err(BadToken)));
}

#[test]
fn flows_get_the_names_of_their_services() {
    let source = source();
    let reader = source.reader();
    let pin = reader.pin();
    let tables = pin.load();
    let filter = Filter { service: Some("default/web".into()), ..Filter::default() };
    let ids = flow_filter(tables, &filter).services.expect("ids");
    assert_eq!(ids.len(), 1);
    let at = |text: &str| text.parse().unwrap();
    let mut flow = FlowRecord {
        protocol: Some(Protocol::Tcp),
        client: at("10.0.0.1:1000"),
        frontend: at("10.96.0.50:80"),
        source: at("10.0.0.1:1000"),
        backend: at("10.244.1.10:8080"),
        service: ids[0],
        state: "established",
        client_idle: std::time::Duration::from_secs(3),
        backend_idle: std::time::Duration::ZERO,
    };
    let item = flow_item(tables, 1, &flow);
    let expected = json!({"worker": 1, "protocol": "TCP", "client": "10.0.0.1:1000", "frontend": "10.96.0.50:80",
        "source": "10.0.0.1:1000", "backend": "10.244.1.10:8080", "service": "default/web:http", "state": "established",
        "clientIdle": 3, "backendIdle": 0});
    assert_eq!(serde_json::to_value(&item).unwrap(), expected);
    flow.service.incarnation += 1;
    assert_eq!(flow_item(tables, 1, &flow).service, None);
}

#[test]
fn live_flows_are_counted_by_service_port_and_endpoint() {
    use crate::observe::stats::{LiveFlows, Stats, Values};
    let source = source();
    let reader = source.reader();
    let pin = reader.pin();
    let tables = pin.load();
    let id = |name: &str| tables.services().find(|service| &*service.name == name).expect("a Service port").id;
    let at = |text: &str| text.parse().expect("an address");
    let flow = |service: ServiceId, backend: &str| FlowRecord {
        protocol: Some(Protocol::Tcp),
        client: at("10.0.0.1:1"),
        frontend: at("10.96.0.50:80"),
        source: at("10.0.0.1:1"),
        backend: at(backend),
        service,
        state: "established",
        client_idle: std::time::Duration::ZERO,
        backend_idle: std::time::Duration::ZERO,
    };
    let (web, gone) = (id("default/web:http"), ServiceId { index: 9, incarnation: 9 });
    let mut flows = LiveFlows::default();
    // Also an endpoint that the Service has no more.
    for backend in ["10.244.1.10:8080", "10.244.1.10:8080", "10.244.9.9:8080"] {
        flows.add(&flow(web, backend));
    }
    flows.add(&flow(gone, "10.244.1.10:8080"));
    flows.add(&flow(ServiceId { incarnation: web.incarnation + 1, ..web }, "10.244.1.10:8080"));
    let mut stats = Stats::collect(&Counters::new(1), &source, 10);
    assert_eq!((stats.services["default/web:http"].all.live, stats.flows.departed), (None, None), "not counted yet");
    stats.count(&flows, tables);
    let web = &stats.services["default/web:http"];
    let backends = [("10.244.1.10:8080", 2), ("10.244.9.9:8080", 1)];
    let values = |live| Values { live: Some(live), ..Values::default() };
    let backends = backends.map(|(backend, live)| (backend.to_owned(), values(live))).into();
    assert_eq!((web.all.live, &web.backends), (Some(3), &backends));
    assert_eq!((stats.services["default/time:ntp"].all.live, stats.flows.departed), (Some(0), Some(2)));
}

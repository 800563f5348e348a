//! Health checks by real clients: of Services, and of the gateway itself.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pollgate::lab::Namespace;
use pollgate::lab::topology::{Network, guide};
use pollgate::lab::traffic::connect;
use pollgate_common::reasons::DropReason as Reason;
use serde_json::json;

use crate::live::dual_stack::{self, NODES, dual_pod};
use crate::live::process::Place;
use crate::live::support::{PATIENCE, SHORT, Site, apply_object, at, ip, servers};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Lab, Program};
use crate::shared::until;

tests! {
    [Lab] =>
        a_load_balancer_learns_whether_there_are_local_endpoints,
        a_health_check_goes_with_the_policy_and_with_the_service,
        the_gateway_reports_itself,
        the_node_decides_about_healthz_and_not_about_livez,
        slow_clients_keep_nobody_from_asking,
        health_is_served_again_after_a_kill;
    [Lab, Program("curl")] =>
        curl_prints_what_kube_proxy_sends;
}

const PORT: u16 = 30999;

fn balanced(policy: &str) -> String {
    let port = if policy == "Local" { ", healthCheckNodePort: 30999" } else { "" };
    format!(
        "{{ apiVersion: v1, kind: Service, metadata: {{ name: checked }}, spec: {{ type: LoadBalancer, \
         externalTrafficPolicy: {policy}{port}, selector: {{ app: backend, version: v1 }}, \
         ports: [{{ name: api, port: 8080, nodePort: 30990 }}, {{ name: http, port: 80, nodePort: 30991 }}] }} }}"
    )
}

fn dual(policy: &str) -> String {
    balanced(policy).replace("type:", "ipFamilyPolicy: RequireDualStack, type:")
}

/// Head and body of the response.
fn get(from: &Namespace, to: SocketAddr, path: &str) -> io::Result<(Vec<String>, String)> {
    let mut stream = connect(from, to, PATIENCE)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other(format!("no head: {text:?}")))?;
    Ok((head.split("\r\n").map(str::to_owned).collect(), body.to_owned()))
}

fn status(from: &Namespace, to: SocketAddr, path: &str) -> String {
    let (head, _) = get(from, to, path).unwrap_or_else(|error| panic!("{to}{path}: {error}"));
    head[0].clone()
}

/// K `pkg/proxy/healthcheck/service_health.go`, ServeHTTP.
fn expected(count: usize) -> (Vec<String>, String) {
    let status = if count > 0 { "HTTP/1.1 200 OK" } else { "HTTP/1.1 503 Service Unavailable" };
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"checked\"\n\t}},\n\
         \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": true\n}}"
    );
    let head = vec![
        status.to_owned(),
        "Connection: close".to_owned(),
        format!("Content-Length: {}", body.len()),
        "Content-Type: application/json".to_owned(),
        "X-Content-Type-Options: nosniff".to_owned(),
        format!("X-Load-Balancing-Endpoint-Weight: {count}"),
    ];
    (head, body)
}

/// The head without its date, in order of the names.
fn settled((head, body): (Vec<String>, String)) -> (Vec<String>, String) {
    let (first, rest) = head.split_first().expect("a status line");
    let mut rest: Vec<String> =
        rest.iter().filter(|line| !line.to_lowercase().starts_with("date: ")).cloned().collect();
    rest.iter_mut().filter(|line| line.to_lowercase().starts_with("connection")).for_each(|line| {
        // The spelling of the name and of `close` is anybody's choice (RFC 9110 §5.1, §7.6.1).
        assert!(line.eq_ignore_ascii_case("connection: close"), "{line}");
        *line = "Connection: close".to_owned();
    });
    rest.sort_unstable();
    ([vec![first.clone()], rest].concat(), body)
}

fn a_load_balancer_learns_whether_there_are_local_endpoints() {
    let (site, _servers) = dual_stack::site("packet", 1);
    site.apply(&dual("Local"));
    let from = [site.host("outside-client"), site.host("frontend-app"), site.network.gateway()];
    let ask = |count: usize| {
        for (from, address) in from.iter().flat_map(|from| NODES.map(|address| (from, address))) {
            let answer = get(from, SocketAddr::new(ip(address), PORT), "/any/path?q").expect("an answer");
            assert_eq!(settled(answer), expected(count), "{address}");
        }
    };
    // Two endpoints with two ports each.
    ask(2);
    let move_away = |name: &str, address: &str, version: &str| {
        apply_object(&site.client(), &dual_pod(name, address, version));
    };
    move_away("backend-1", "10.244.1.10", "v0");
    ask(1);
    move_away("backend-2", "10.244.2.15", "v0");
    ask(0);
    move_away("backend-2", "10.244.2.15", "v1");
    ask(1);
    site.at_rest(&[]);
}

fn a_health_check_goes_with_the_policy_and_with_the_service() {
    let site = Site::new();
    let outside = site.host("outside-client");
    let to = at("192.168.50.10:30999");
    connect(outside, to, SHORT).expect_err("no such Service yet");
    site.apply(&balanced("Local"));
    assert_eq!(status(outside, to, "/"), "HTTP/1.1 200 OK");
    site.apply(&balanced("Cluster"));
    assert_eq!(connect(outside, to, SHORT).expect_err("policy Cluster").kind(), io::ErrorKind::TimedOut);
    site.apply(&balanced("Local").replace("30999", "30998"));
    assert_eq!(status(outside, at("192.168.50.10:30998"), "/"), "HTTP/1.1 200 OK");
    site.cli(&["delete", "service", "checked"]).expect("deleted");
    assert_eq!(connect(outside, at("192.168.50.10:30998"), SHORT).expect_err("gone").kind(), io::ErrorKind::TimedOut);
    site.at_rest(&[Reason::UndefinedPort]);
}

/// K `pkg/proxy/healthcheck/proxy_health.go`.
fn the_gateway_reports_itself() {
    let (site, _servers) = dual_stack::site("packet", 1);
    for from in [site.host("outside-client"), site.host("frontend-app"), site.network.gateway()] {
        for address in NODES {
            let to = SocketAddr::new(ip(address), 10256);
            let (head, body) = get(from, to, "/healthz").expect("an answer");
            assert_eq!(head[0], "HTTP/1.1 200 OK", "{body}");
            for line in ["Content-Type: application/json", "X-Content-Type-Options: nosniff"] {
                assert!(head.iter().any(|found| found == line), "{line}: {head:?}");
            }
            assert!(body.starts_with("{\"lastUpdated\": \"20"), "{body}");
            assert!(
                body.contains("\",\"currentTime\": \"20") && body.ends_with("\", \"nodeEligible\": true}"),
                "{body}"
            );
            let (head, body) = get(from, to, "/livez").expect("an answer");
            assert_eq!(head[0], "HTTP/1.1 200 OK", "{body}");
            assert!(!body.contains("nodeEligible") && body.ends_with("\"}"), "{body}");
            let (head, body) = get(from, to, "/metrics").expect("an answer");
            assert_eq!((head[0].as_str(), body.as_str()), ("HTTP/1.1 404 Not Found", "404 page not found\n"));
        }
    }
    site.at_rest(&[]);
}

/// KEP-3836: a load balancer takes a node that is to be deleted out of service; it is not restarted for that.
fn the_node_decides_about_healthz_and_not_about_livez() {
    let site = Site::configured(Network::new(&guide(), 1).expect("a network"), |text| format!("{text}node: node-1\n"));
    let node = |taints: serde_json::Value| {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-1" }, "spec": { "taints": taints } });
        apply_object(&site.client(), &node);
    };
    let outside = site.host("outside-client");
    let ask = |path: &str| status(outside, at("192.168.50.10:10256"), path);
    let (good, bad) = ("HTTP/1.1 200 OK", "HTTP/1.1 503 Service Unavailable");
    assert_eq!((ask("/healthz").as_str(), ask("/livez").as_str()), (good, good), "no such Node");
    node(json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }]));
    assert_eq!((ask("/healthz").as_str(), ask("/livez").as_str()), (bad, good));
    node(json!([]));
    assert_eq!((ask("/healthz").as_str(), ask("/livez").as_str()), (good, good));
    site.at_rest(&[]);
}

fn slow_clients_keep_nobody_from_asking() {
    let site = Site::new();
    let outside = site.host("outside-client");
    let to = at("192.168.50.10:10256");
    let mut slow: Vec<TcpStream> = (0..300).map(|_| connect(outside, to, PATIENCE).expect("connected")).collect();
    slow.iter_mut().for_each(|stream| stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").expect("sent"));
    let asked = Instant::now();
    assert_eq!(status(outside, to, "/healthz"), "HTTP/1.1 200 OK");
    assert!(asked.elapsed() < Duration::from_secs(4), "before the slow ones are over: {:?}", asked.elapsed());
    // Those that came first have made room; the last has run out of time.
    let is_closed = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let ended = stream.read_to_end(&mut Vec::new());
        ended.is_ok() || ended.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    };
    assert!(slow[..40].iter_mut().all(is_closed), "they made room");
    assert!(asked.elapsed() < Duration::from_secs(4), "at once: {:?}", asked.elapsed());
    assert!(is_closed(&mut slow[299]), "a head must come in time");
    drop(slow);
    site.at_rest(&[]);
}

fn health_is_served_again_after_a_kill() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let outside = &place.network.host("outside-client").namespace;
    let process = place.start();
    place.apply_guide();
    let file = place.write("checked.yaml", &balanced("Local"));
    // It warns that the whole cluster is local.
    assert!(place.cli(&["apply", "-f", &file]).status.success());
    let ask = || settled(get(outside, at("192.168.50.10:30999"), "/").expect("an answer"));
    assert_eq!(ask(), expected(2));
    process.signal(libc::SIGKILL);
    process.wait();
    connect(outside, at("192.168.50.10:30999"), SHORT).expect_err("nobody is there");
    let process = place.start();
    until("it is served", || get(outside, at("192.168.50.10:30999"), "/").is_ok());
    assert_eq!(ask(), expected(2));
    process.signal(libc::SIGTERM);
    assert!(process.wait().success(), "{}", place.log());
}

fn curl_prints_what_kube_proxy_sends() {
    let site = Site::new();
    site.apply(&balanced("Local"));
    let curl = |url: &str| {
        let arguments = ["--silent", "--show-error", "--include", "--max-time", "20", url];
        let output = site.host("outside-client").command("curl").args(arguments).output().expect("started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let text = curl("http://192.168.50.10:30999/healthz");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let (_, expected_body) = expected(2);
    assert_eq!(body, expected_body);
    assert!(head.contains("\r\nX-Load-Balancing-Endpoint-Weight: 2\r\n"), "{head}");
    assert!(curl("http://192.168.50.10:10256/healthz").contains("\"nodeEligible\": true}"));
    site.at_rest(&[]);
}

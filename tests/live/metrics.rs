//! Metrics of a running gateway: what a scrape shows is what `pollgate stats` shows, and Prometheus' own tools take it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Stdio;

use pollgate::lab::Namespace;
use pollgate::lab::topology::{Network, guide};
use pollgate::lab::traffic::{ask_dns, ask_tcp, connect};
use pollgate_common::counters::{DECLARED, Kind};
use serde_json::Value;

use crate::live::support::{CLUSTER_IP, DNS, PATIENCE, Site, at, ip};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Lab, Program};
use crate::shared::until;

tests! {
    [Lab] =>
        a_scrape_shows_what_stats_shows,
        health_is_at_the_same_port;
    [Lab, Program("promtool")] =>
        promtool_finds_no_fault;
}

const LISTEN: &str = "127.0.0.1:9090";

/// The body of the response, which is 200.
pub(crate) fn scrape(from: &Namespace, to: SocketAddr, path: &str) -> String {
    let (status, body) = ask(from, to, path);
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn ask(from: &Namespace, to: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = connect(from, to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}"));
    write!(stream, "GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body.to_owned())
}

/// A site whose gateway has metrics, and has translated and dropped something.
fn site(more: &str) -> Site {
    let network = Network::new(&guide(), 1).expect("a network");
    let listen = format!("metrics: {{ listen: {LISTEN}{more} }}\n");
    let site = Site::configured(network, |text| text + &listen);
    site.resolve_neighbours();
    for _ in 0..4 {
        ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE).expect("an answer");
    }
    let name = "backend-service.default.svc.cluster.local";
    ask_dns(site.host("frontend-app"), at(DNS), name, PATIENCE).expect("an answer");
    connect(site.host("frontend-app"), at("10.96.0.70:80"), PATIENCE).expect_err("no endpoints");
    site
}

/// The values of all series with this name, by their labels.
fn series<'a>(page: &'a str, name: &str) -> BTreeMap<&'a str, u64> {
    let of_name = |line: &'a str| {
        let (series, value) = line.rsplit_once(' ')?;
        let labels = series.strip_prefix(name)?;
        let is_it = labels.is_empty() || labels.starts_with('{');
        is_it.then(|| (labels, value.parse::<f64>().ok())).and_then(|(labels, value)| Some((labels, value? as u64)))
    };
    page.lines().filter(|line| !line.starts_with('#')).filter_map(of_name).collect()
}

fn stats(site: &Site) -> Value {
    serde_json::from_str(&site.cli(&["stats", "-o", "json"]).expect("statistics")).expect("JSON")
}

/// Counters that move although no packet does.
const RESTLESS: [&str; 4] = ["bursts", "polls", "sleeps", "generation"];

fn a_scrape_shows_what_stats_shows() {
    let site = site("");
    site.balanced(&[pollgate_common::reasons::DropReason::RejectNoEndpoints]);
    let gateway = site.network.gateway();
    let same = |page: &str, stats: &Value| {
        let settled = DECLARED.iter().filter(|declared| !RESTLESS.contains(&declared.name));
        let counters = settled.clone().all(|declared| {
            let suffix = if declared.kind == Kind::Counter { "_total" } else { "" };
            let sum: u64 = series(page, &format!("pollgate_{}{suffix}", declared.metric())).values().sum();
            stats["counters"][declared.name] == sum
        });
        let drops = series(page, "pollgate_dropped_frames_total");
        let dropped: u64 = drops.values().sum();
        let by_reason = stats["counters"]["drops"].as_object().expect("drops");
        counters && dropped == by_reason.values().filter_map(Value::as_u64).sum::<u64>()
    };
    // Both are of one moment only if nothing moves between them.
    until("the scrape and the statistics agree", || same(&scrape(gateway, at(LISTEN), "/metrics"), &stats(&site)));
    let (page, stats) = (scrape(gateway, at(LISTEN), "/metrics"), stats(&site));
    let refused = series(&page, "pollgate_dropped_frames_total");
    let refused: u64 =
        refused.iter().filter(|(labels, _)| labels.contains("reason=\"reject_no_endpoints\"")).map(|(_, n)| n).sum();
    assert_eq!(stats["counters"]["drops"]["reject_no_endpoints"], refused);
    assert!(refused > 0);
    for (metric, field) in [("packets", "packets"), ("bytes", "bytes"), ("flows", "flows")] {
        let shown = series(&page, &format!("pollgate_service_{metric}_total"));
        let label = "{namespace=\"default\",service=\"backend-service\",port=\"api\"}";
        let told = &stats["services"]["default/backend-service:api"][field];
        assert_eq!(shown.get(label).copied(), told.as_u64(), "{metric}: {shown:?}");
    }
    assert_eq!(series(&page, "pollgate_service_flows_total").values().sum::<u64>(), {
        let services = stats["services"].as_object().expect("Services");
        services.values().filter_map(|service| service["flows"].as_u64()).sum::<u64>()
    });
    assert_eq!(series(&page, "pollgate_interface_up").len(), 4, "three and the host pair");
    assert!(series(&page, "pollgate_check_ok").values().all(|ok| *ok == 1), "{page}");
    // Nobody else reaches it: it is on the gateway's own loopback.
    for address in ["192.168.50.10", "192.168.50.1"] {
        let to = SocketAddr::new(ip(address), at(LISTEN).port());
        connect(site.host("outside-client"), to, crate::live::support::SHORT).expect_err("not there");
    }
}

fn health_is_at_the_same_port() {
    let site = site("");
    let gateway = site.network.gateway();
    for path in ["/healthz", "/livez", "/readyz", "/health", "/ready"] {
        assert_eq!(ask(gateway, at(LISTEN), path), (200, "ok".to_owned()), "{path}");
    }
    gateway.down("outside").expect("down");
    until("it is not ready", || ask(gateway, at(LISTEN), "/readyz").0 == 500);
    assert_eq!(ask(gateway, at(LISTEN), "/livez").0, 200);
    let (_, text) = ask(gateway, at(LISTEN), "/ready");
    assert!(text.contains("[-]interface-outside failed: reason withheld\n"), "{text}");
    until("and the page says so", || {
        let page = scrape(gateway, at(LISTEN), "/metrics");
        series(&page, "pollgate_check_ok")["{check=\"interface-outside\",scope=\"ready\"}"] == 0
            && series(&page, "pollgate_interface_up")["{interface=\"outside\"}"] == 0
    });
}

fn promtool_finds_no_fault() {
    let site = site(", services: 1");
    let page = scrape(site.network.gateway(), at(LISTEN), "/metrics");
    assert!(page.contains("{namespace=\"\",service=\"other\",port=\"\"}"), "{page}");
    let mut promtool = std::process::Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("started");
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("read");
    let output = promtool.wait_with_output().expect("ended");
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.is_empty(), "{told}");
}

//! Metrics of a running gateway: what a scrape shows is what `pollgate stats` shows, and Prometheus' own tools take it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pollgate::lab::Namespace;
use pollgate::lab::topology::{Network, guide};
use pollgate::lab::traffic::{ask_dns, ask_tcp, connect};
use pollgate_common::counters::{DECLARED, Kind};
use serde_json::Value;

use crate::live::support::{CLUSTER_IP, DNS, PATIENCE, Site, apply_object, at, ip, pod};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Lab, Program};
use crate::shared::until;

tests! {
    [Lab] =>
        a_scrape_shows_what_stats_shows,
        health_is_at_the_same_port,
        a_change_is_measured_from_the_pod_to_the_last_worker;
    [Lab, Program("promtool")] =>
        promtool_finds_no_fault;
    [Program("promtool")] =>
        the_rules_are_valid_and_alert_when_they_should;
    [Lab, Program("prometheus")] =>
        a_prometheus_scrapes_and_evaluates_everything;
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
        // Counters are whole, and may be written as `1.0`; times have a fraction.
        let whole = value.split_once('.').map_or(value, |(whole, _)| whole);
        is_it.then(|| whole.parse().ok().map(|value| (labels, value))).flatten()
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

fn a_change_is_measured_from_the_pod_to_the_last_worker() {
    let site = site("");
    let count = |name: &str| {
        let page = scrape(site.network.gateway(), at(LISTEN), "/metrics");
        let one = |suffix: &str| series(&page, &format!("pollgate_{name}_{suffix}"));
        let longest = one("duration_seconds_bucket")["{le=\"+Inf\"}"];
        assert_eq!(one("duration_seconds_count")[""], longest, "{name}");
        longest
    };
    let before = (count("publish"), count("network_programming"));
    // No Service selects this one: it is no change of a slice.
    apply_object(&site.client(), &pod("idle", "10.244.1.77", "nothing", "v1"));
    apply_object(&site.client(), &pod("backend-9", "10.244.1.79", "backend", "v1"));
    // One slice of each of the Services that select it.
    until("both are everywhere", || count("publish") > before.0 && count("network_programming") > before.1);
    let page = scrape(site.network.gateway(), at(LISTEN), "/metrics");
    assert_eq!(series(&page, "pollgate_changes_pending").values().sum::<u64>(), 0);
    assert!(series(&page, "pollgate_last_publication_timestamp_seconds")[""] > 1_700_000_000);
    let published = series(&page, "pollgate_published_generation")[""];
    let stats = stats(&site);
    assert_eq!(stats["publications"]["programming"]["count"], count("network_programming"));
    assert!(stats["generation"].as_u64() >= Some(published));
}

fn promtool_finds_no_fault() {
    let site = site(", services: 1");
    let page = scrape(site.network.gateway(), at(LISTEN), "/metrics");
    assert!(page.contains("{namespace=\"\",service=\"other\",port=\"\"}"), "{page}");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("started");
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("read");
    let output = promtool.wait_with_output().expect("ended");
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.is_empty(), "{told}");
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/prometheus")
}

fn the_rules_are_valid_and_alert_when_they_should() {
    for words in [
        ["check", "rules", "alerts.yaml"],
        ["check", "config", "prometheus.yaml"],
        ["test", "rules", "alerts.test.yaml"],
    ] {
        let output = Command::new("promtool").args(words).current_dir(examples()).output().expect("started");
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !told.contains("FAILED"), "{words:?}: {told}");
    }
}

/// A Prometheus on the gateway's host; it is killed if the test ends before it.
struct Prometheus {
    child: Child,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PROMETHEUS: &str = "127.0.0.1:9091";

impl Prometheus {
    fn start(directory: &Path, host: &Namespace) -> Prometheus {
        let alerts = examples().join("alerts.yaml");
        let text = fs::read_to_string(examples().join("prometheus.yaml")).expect("the example");
        let text = text.replace("15s", "1s").replace("alerts.yaml", &alerts.display().to_string());
        let config = directory.join("prometheus.yaml");
        fs::write(&config, text).expect("written");
        let log = fs::File::create(directory.join("prometheus.log")).expect("a log");
        let mut command = host.command("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("tsdb").display()));
        command.arg(format!("--web.listen-address={PROMETHEUS}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Prometheus { child: command.spawn().expect("started") }
    }

    /// What its HTTP API says at a path.
    fn ask(host: &Namespace, path: &str) -> Option<Value> {
        let mut stream = connect(host, at(PROMETHEUS), PATIENCE).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// The result of a query: labels and value of each series.
    fn query(host: &Namespace, query: &str) -> Vec<(Value, f64)> {
        let coded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = Prometheus::ask(host, &format!("/api/v1/query?query={coded}")).expect("an answer");
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array().expect("a vector").iter();
        let value = |series: &Value| series["value"][1].as_str().expect("a value").parse().expect("a number");
        series.map(|series| (series["metric"].clone(), value(series))).collect()
    }
}

fn a_prometheus_scrapes_and_evaluates_everything() {
    let site = site(", compatible: true");
    site.balanced(&[pollgate_common::reasons::DropReason::RejectNoEndpoints]);
    let host = site.network.gateway();
    let directory = tempfile::TempDir::new().expect("a directory");
    let _prometheus = Prometheus::start(directory.path(), host);
    let log = || fs::read_to_string(directory.path().join("prometheus.log")).unwrap_or_default();
    let targets = || Prometheus::ask(host, "/api/v1/targets");
    until("it scrapes the gateway", || {
        targets().is_some_and(|targets| targets["data"]["activeTargets"][0]["health"] == "up")
    });
    assert_eq!(targets().expect("targets")["data"]["activeTargets"][0]["lastError"], "", "{}", log());
    // What it has is what `pollgate stats` shows.
    let one = |query: &str| Prometheus::query(host, query).first().map(|(_, value)| *value);
    let told = |stats: &Value, counter: &str| stats["counters"][counter].as_f64();
    until("Prometheus and the statistics agree", || {
        let stats = stats(&site);
        let counters = [("rx", "rx_frames"), ("tx", "tx_frames"), ("dns_a", "dns_a"), ("flows_opened", "flows_opened")];
        counters.iter().all(|(name, metric)| one(&format!("sum(pollgate_{metric}_total)")) == told(&stats, name))
    });
    let stats = stats(&site);
    let service = &stats["services"]["default/backend-service:api"];
    let selected = "{namespace=\"default\",service=\"backend-service\",port=\"api\"}";
    assert_eq!(one(&format!("pollgate_service_packets_total{selected}")), service["packets"].as_f64());
    let refused = "sum(pollgate_dropped_frames_total{reason=\"reject_no_endpoints\",severity=\"warning\"})";
    assert_eq!(one(refused), stats["counters"]["drops"]["reject_no_endpoints"].as_f64());
    assert_eq!(one("sum(coredns_dns_requests_total{type=\"A\"})"), told(&stats, "dns_a"));
    let kinds = Prometheus::ask(host, "/api/v1/metadata?metric=kubeproxy_network_programming_duration_seconds");
    let kinds = kinds.expect("metadata");
    assert_eq!(kinds["data"]["kubeproxy_network_programming_duration_seconds"][0]["type"], "histogram", "{kinds}");
    // Every query of the dashboard has a result. A rate takes two scrapes.
    until("there are two scrapes", || one("count_over_time(up[1m])") >= Some(3.0));
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(examples().join("dashboard.json")).expect("it is there"))
            .expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let queries: Vec<String> = panels
        .flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default())
        .map(|target| target["expr"].as_str().expect("an expression").to_owned())
        .collect();
    assert!(queries.len() > 30, "{queries:?}");
    for query in queries {
        let query = query.replace("$__rate_interval", "1m").replace("$instance", ".*");
        assert!(!Prometheus::query(host, &query).is_empty(), "no result: {query}");
    }
    // Every rule can be evaluated, and a gateway that works alerts nobody.
    until("all rules have been evaluated", || {
        let rules = Prometheus::ask(host, "/api/v1/rules").expect("rules");
        let rules = rules["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")
    });
    let firing = Prometheus::query(host, "ALERTS{alertstate=\"firing\"}");
    assert!(firing.is_empty(), "{firing:?}");
}

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use pollgate_common::counters::DECLARED;
use pollgate_common::reasons::{DropReason, PassReason};

use super::compatible::COMPATIBLE;
use super::list::{Kind, all};
use super::*;
use crate::compile::publications::{Bucket, Histogram, PublicationStats, Publications};
use crate::dns::resolver::UpstreamStats;
use crate::observe::checks::Check;
use crate::observe::stats::{
    CounterValues, FlowUse, InterfaceState, ManifestState, ServiceValues, StateFile, Stats, Values,
};

/// Every counter of a thread, each with a value of its own from `first` on.
fn counters(first: u64) -> CounterValues {
    let counters = DECLARED.iter().zip(first..).map(|(declared, value)| (declared.name.to_owned(), value)).collect();
    let drops = [(DropReason::NoRoute.name().to_owned(), first)].into();
    let passes = [(PassReason::Arp.name().to_owned(), first)].into();
    CounterValues { passed: first, drops, passes, counters }
}

fn service(packets: u64) -> ServiceValues {
    let all = Values { packets, bytes: packets * 100, flows: 1, live: None };
    ServiceValues { all, ..ServiceValues::default() }
}

fn stats() -> Stats {
    let services = [("default/db:5432", 5), ("default/web:http", 7), ("shop/web:http", 9)];
    Stats {
        counters: counters(9000),
        services: services.into_iter().map(|(name, packets)| (name.to_owned(), service(packets))).collect(),
        flows: FlowUse { live: 3, max: 1024, departed: None },
        workers: vec![counters(1000), counters(2000)],
        threads: [("announcer".to_owned(), CounterValues::default()), ("dns".to_owned(), counters(3000))].into(),
        interfaces: [("eth1".to_owned(), InterfaceState { up: true, mtu: 1500 })].into(),
        generation: 17,
        manifests: Some(ManifestState { path: "/m".to_owned(), objects: 12, faults: vec!["x".to_owned()] }),
        upstreams: [(
            "192.0.2.53:53".to_owned(),
            UpstreamStats { queries: 4, failures: 1, ..UpstreamStats::default() },
        )]
        .into(),
        log_lines_lost: 2,
        state: StateFile { bytes: 4096, objects: 100 },
        panicked_requests: 1,
        publications: PublicationStats {
            services_changed: 3,
            slices_pending: 4,
            last_publication: 1_500_250,
            publish: Histogram {
                count: 6,
                sum: 2_500_000,
                buckets: [(100, 2), (1_000_000, 3)].map(|(up_to, count)| Bucket { up_to, count }).into(),
            },
            ..Publications::default().stats()
        },
        ..Stats::default()
    }
}

fn parts(services: usize) -> MetricsParts {
    let checks = Arc::new(Checks::default());
    checks.set(vec![Check::live("worker-0", None), Check::ready("interface-eth1", Some("it is down".to_owned()))]);
    MetricsParts { stats: Arc::new(stats), checks, services, compatible: true }
}

fn page(format: Format) -> String {
    let page = Metrics::new(parts(2)).page(format);
    String::from_utf8(page.to_vec()).expect("text")
}

/// Each series of a page with its value.
fn series(page: &str) -> BTreeMap<&str, &str> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' ')).collect()
}

#[test]
fn every_metric_is_on_the_page_with_its_declaration() {
    for (format, suffix_of_family) in [(Format::OpenMetrics, false), (Format::Prometheus, true)] {
        let page = page(format);
        let lines: BTreeSet<&str> = page.lines().collect();
        for metric in all().iter().chain(COMPATIBLE) {
            let name = metric.name();
            let kind = if suffix_of_family && metric.kind == Kind::Info { "gauge" } else { metric.kind.name() };
            let family = if suffix_of_family {
                name.as_str()
            } else {
                name.trim_end_matches("_total").trim_end_matches("_info")
            };
            assert!(lines.contains(&*format!("# HELP {family} {}", metric.help)), "{format:?} {name}");
            assert!(lines.contains(&*format!("# TYPE {family} {kind}")), "{format:?} {name}");
            assert!(!metric.help.contains(['\\', '\n']), "{name}: to be escaped");
            let of_metric = series(&page);
            // Of a histogram, the others have no bound.
            let (series_name, bound) = match metric.kind {
                Kind::Histogram => (format!("{name}_bucket"), Some("le")),
                Kind::Counter | Kind::Gauge | Kind::Info => (name.clone(), None),
            };
            let found = of_metric.keys().filter(|found| found.split('{').next() == Some(&series_name));
            let mut count = 0;
            for found in found {
                let labels = found.split_once('{').map(|(_, labels)| labels.trim_end_matches('}')).unwrap_or_default();
                let names: Vec<&str> = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0)).collect();
                let expected: Vec<&str> = metric.labels.iter().copied().chain(bound).collect();
                assert_eq!(names, expected, "{found}");
                count += 1;
            }
            assert!(count > 0, "{name} has no series");
        }
        assert_eq!(page.ends_with("# EOF\n"), format == Format::OpenMetrics);
    }
}

#[test]
fn names_are_unique_and_end_as_their_kind_does() {
    let names: Vec<String> = all().iter().chain(COMPATIBLE).map(list::Metric::name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let named = |metric: &list::Metric, prefixes: &[&str]| {
        let name = metric.name();
        assert!(prefixes.iter().any(|prefix| name.starts_with(prefix)), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
    };
    all().iter().for_each(|metric| named(metric, &["pollgate_", "process_"]));
    COMPATIBLE.iter().for_each(|metric| named(metric, &["kubeproxy_", "coredns_"]));
}

#[test]
fn other_names_are_shown_only_if_that_is_asked_for() {
    let page = Metrics::new(MetricsParts { compatible: false, ..parts(2) }).page(Format::OpenMetrics);
    let page = String::from_utf8(page.to_vec()).expect("text");
    assert!(!page.contains("kubeproxy_") && !page.contains("coredns_"), "{page}");
}

#[test]
fn other_names_have_the_values_of_their_equivalents() {
    let page = page(Format::OpenMetrics);
    let series = series(&page);
    let value = |name: &str| *series.get(name).unwrap_or_else(|| panic!("no {name}"));
    let total = |name: &str| {
        let position = DECLARED.iter().position(|declared| declared.name == name).expect("declared");
        9000 + position
    };
    for (label, counter) in [("A", "dns_a"), ("AAAA", "dns_aaaa"), ("other", "dns_other")] {
        assert_eq!(value(&format!("coredns_dns_requests_total{{type=\"{label}\"}}")), total(counter).to_string());
    }
    let noerror = total("dns_answered") + total("dns_no_data");
    assert_eq!(value("coredns_dns_responses_total{rcode=\"NOERROR\"}"), noerror.to_string());
    assert_eq!(value("coredns_cache_hits_total"), total("dns_cached").to_string());
    assert_eq!(value("kubeproxy_sync_proxy_rules_service_changes_total"), "3");
    assert_eq!(value("kubeproxy_sync_proxy_rules_endpoint_changes_pending"), "4");
    assert_eq!(value("kubeproxy_sync_proxy_rules_last_timestamp_seconds"), "1500.25");
    assert_eq!(value("kubeproxy_sync_proxy_rules_duration_seconds_count"), "6");
}

/// Every response has one code, and every query one type: nothing is left out.
#[test]
fn every_counter_of_queries_and_responses_is_in_one_of_the_other_names() {
    let page = page(Format::OpenMetrics);
    let sum = |name: &str| -> usize {
        let of_name = series(&page).into_iter().filter(|(series, _)| series.starts_with(name));
        of_name.map(|(_, value)| value.parse::<usize>().expect("a number")).sum()
    };
    let position = |name: &str| DECLARED.iter().position(|declared| declared.name == name).expect("declared");
    let from_to =
        |first: &str, count: usize| -> usize { (position(first)..position(first) + count).map(|at| 9000 + at).sum() };
    assert_eq!(sum("coredns_dns_requests_total{"), from_to("dns_a", 5));
    assert_eq!(sum("coredns_dns_responses_total{"), from_to("dns_answered", 11));
}

#[test]
fn the_values_are_those_of_the_statistics() {
    let page = page(Format::OpenMetrics);
    let series = series(&page);
    let value = |name: &str| *series.get(name).unwrap_or_else(|| panic!("no {name}"));
    let position = |name: &str| DECLARED.iter().position(|declared| declared.name == name).expect("declared");
    assert_eq!(value("pollgate_rx_frames_total{thread=\"worker-0\"}"), format!("{}", 1000 + position("rx")));
    assert_eq!(value("pollgate_rx_frames_total{thread=\"announcer\"}"), "0");
    assert_eq!(value("pollgate_dns_tcp_total{thread=\"dns\"}"), format!("{}", 3000 + position("dns_tcp")));
    assert_eq!(value("pollgate_generation{thread=\"worker-1\"}"), format!("{}", 2000 + position("generation")));
    assert!(!series.contains_key("pollgate_generation{thread=\"announcer\"}"), "it would be the smallest");
    let dropped = |thread: &str, reason: &str, severity: &str| {
        value(&format!(
            "pollgate_dropped_frames_total{{thread=\"{thread}\",reason=\"{reason}\",severity=\"{severity}\"}}"
        ))
    };
    assert_eq!((dropped("worker-1", "no_route", "error"), dropped("worker-1", "runt", "notice")), ("2000", "0"));
    assert_eq!(value("pollgate_passed_frames_total{thread=\"worker-0\",reason=\"arp\"}"), "1000");
    assert_eq!(value("pollgate_flows_max"), "1024");
    assert_eq!(value("pollgate_published_generation"), "17");
    let packets = |namespace: &str, service: &str, port: &str| {
        value(&format!(
            "pollgate_service_packets_total{{namespace=\"{namespace}\",service=\"{service}\",port=\"{port}\"}}"
        ))
    };
    assert_eq!((packets("default", "db", "5432"), packets("default", "web", "http")), ("5", "7"));
    assert_eq!(packets("", "other", ""), "9");
    assert_eq!((value("pollgate_services{series=\"own\"}"), value("pollgate_services{series=\"other\"}")), ("2", "1"));
    assert_eq!(value("pollgate_interface_mtu_bytes{interface=\"eth1\"}"), "1500");
    for (check, scope, ok) in
        [("store", "ready", "1"), ("worker-0", "live", "1"), ("interface-eth1", "ready", "0"), ("checks", "live", "1")]
    {
        assert_eq!(value(&format!("pollgate_check_ok{{check=\"{check}\",scope=\"{scope}\"}}")), ok);
    }
    for (bound, count) in [("0.0001", "2"), ("1.0", "5"), ("+Inf", "6")] {
        assert_eq!(value(&format!("pollgate_publish_duration_seconds_bucket{{le=\"{bound}\"}}")), count);
    }
    assert_eq!(value("pollgate_publish_duration_seconds_count"), "6");
    assert_eq!(value("pollgate_publish_duration_seconds_sum"), "2.5");
    assert_eq!(value("pollgate_network_programming_duration_seconds_bucket{le=\"0.25\"}"), "0");
    assert_eq!(value("pollgate_changes_total{object=\"service\"}"), "3");
    assert_eq!(value("pollgate_changes_pending{object=\"endpointslice\"}"), "4");
    assert_eq!(value("pollgate_last_publication_timestamp_seconds"), "1500.25");
    assert_eq!(value("pollgate_upstream_failures_total{upstream=\"192.0.2.53:53\"}"), "1");
    assert_eq!((value("pollgate_manifest_objects"), value("pollgate_manifest_errors")), ("12", "1"));
    assert_eq!(value(&format!("pollgate_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), "1");
}

#[test]
fn a_page_is_made_a_few_times_a_second_however_often_it_is_asked_for() {
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let source: StatsSource = Arc::new(move || {
        let generation = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Stats { generation, ..stats() }
    });
    let metrics = Metrics::new(MetricsParts { stats: source, ..parts(2) });
    let clock = std::cell::Cell::new(Instant::now());
    let page = |format| metrics.page_at(format, || clock.get());
    let (first, second) = (page(Format::OpenMetrics), page(Format::Prometheus));
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1, "both formats are one scrape");
    let value = |page: &Bytes| {
        let page = String::from_utf8(page.to_vec()).expect("text");
        series(&page)["pollgate_published_generation"].to_owned()
    };
    assert_eq!((value(&first), value(&second)), ("0".to_owned(), "0".to_owned()));
    clock.set(clock.get() + FRESH);
    assert_eq!(value(&page(Format::OpenMetrics)), "1");
    // One that takes a second, by the clock that each look at it moves on.
    clock.set(clock.get() + FRESH);
    let slow = || clock.replace(clock.get() + Duration::from_secs(1)) + Duration::from_secs(1);
    assert_eq!(value(&metrics.page_at(Format::OpenMetrics, slow)), "2");
    clock.set(clock.get() + Duration::from_millis(3900));
    assert_eq!(value(&page(Format::OpenMetrics)), "2", "four times as long as it took");
    clock.set(clock.get() + Duration::from_millis(200));
    assert_eq!(value(&page(Format::OpenMetrics)), "3");
}

/// Status line, headers and body.
fn get(to: SocketAddr, head: &str) -> (String, String, String) {
    let mut stream = TcpStream::connect(to).expect("connected");
    write!(stream, "{head}Host: x\r\nConnection: close\r\n\r\n").expect("open");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let (status, headers) = head.split_once("\r\n").expect("headers");
    (status.to_owned(), headers.to_lowercase(), body.to_owned())
}

fn server() -> MetricsServer {
    let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    MetricsServer::start(listener, parts(2)).expect("started")
}

#[test]
fn the_page_and_health_are_served() {
    let server = server();
    let ask = |head: &str| get(server.address(), head);
    let (status, headers, body) = ask("GET /metrics HTTP/1.1\r\n");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{headers}");
    assert!(body.contains("# TYPE pollgate_rx_frames_total counter\n"));
    let (_, headers, body) = ask("GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0\r\n");
    assert!(headers.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{headers}");
    assert!(body.ends_with("# EOF\n"));
    let (status, headers, body) = ask("HEAD /metrics HTTP/1.1\r\n");
    assert!(status.ends_with("200 OK") && headers.contains("content-length: ") && body.is_empty());
    for path in ["/livez", "/health"] {
        let (status, _, body) = ask(&format!("GET {path} HTTP/1.1\r\n"));
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "ok"), "{path}");
    }
    let failed = "[+]ping ok\n[+]store ok\n[+]worker-0 ok\n[-]interface-eth1 failed: reason withheld\n[+]checks ok\n";
    for (path, name) in [("/readyz", "readyz"), ("/ready", "readyz"), ("/healthz?verbose", "healthz")] {
        let (status, _, body) = ask(&format!("GET {path} HTTP/1.1\r\n"));
        assert_eq!(status, "HTTP/1.1 500 Internal Server Error", "{path}");
        assert_eq!(body, format!("{failed}{name} check failed\n"), "{path}");
    }
    let (status, _, body) = ask("GET /readyz?exclude=interface-eth1 HTTP/1.1\r\n");
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "ok"));
    assert_eq!(ask("GET / HTTP/1.1\r\n").0, "HTTP/1.1 404 Not Found");
    assert_eq!(ask("GET /readyz/store HTTP/1.1\r\n").0, "HTTP/1.1 404 Not Found");
    assert_eq!(ask("DELETE /metrics HTTP/1.1\r\n").0, "HTTP/1.1 405 Method Not Allowed");
    let address = server.address();
    drop(server);
    TcpStream::connect(address).expect_err("closed");
}

#[test]
fn clients_that_say_nothing_keep_nobody_from_asking() {
    let server = server();
    let mut silent: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(server.address()).expect("connected")).collect();
    assert_eq!(get(server.address(), "GET /livez HTTP/1.1\r\n").0, "HTTP/1.1 200 OK");
    // The first has made room.
    assert_eq!(silent[0].read(&mut [0]).expect("closed by the server"), 0);
}

#[test]
fn an_address_in_use_is_named() {
    let server = server();
    let told = bind(server.address()).expect_err("in use").to_string();
    let start = format!("metrics.listen {}: cannot listen: Address already in use", server.address());
    assert!(told.starts_with(&start) && told.contains("ss -ltnp"), "{told}");
}

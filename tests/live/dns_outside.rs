//! Names outside the cluster, asked of upstreams: of NSD, and of servers that do what a test says.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel;
use pollgate::lab::Namespace;
use pollgate::lab::topology::{Network, guide};
use pollgate::lab::traffic::{DnsAnswer, ask_dns, ask_dns_v6};
use pollgate_common::counters::Totals;
use serde_json::Value;
use tempfile::TempDir;

use crate::live::dns_tcp::{A, BIG, big, query, read};
use crate::live::dual_stack;
use crate::live::support::{DNS, PATIENCE, SHORT, Site, at, ip};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Lab, Program};
use crate::shared::until;

tests! {
    [Lab] =>
        a_name_outside_is_answered_by_an_upstream_and_then_from_the_cache,
        the_second_upstream_is_used_when_the_first_is_silent_or_cannot,
        clients_do_not_wait_for_an_upstream_that_is_down,
        an_upstream_that_does_not_know_edns_is_asked_without,
        an_expired_answer_does_not_wait_for_a_silent_upstream,
        without_an_answer_the_client_gets_servfail_and_an_expired_one_if_wanted,
        forged_and_wrong_responses_are_ignored,
        a_truncated_response_is_fetched_over_tcp,
        equal_questions_are_asked_once,
        a_flood_of_slow_names_costs_itself,
        an_external_name_is_answered_with_the_targets_addresses,
        a_zone_has_its_own_servers,
        names_outside_are_answered_over_tcp_and_over_ipv6,
        queries_of_a_connection_do_not_wait_for_one_another,
        who_takes_no_responses_keeps_nobody_from_asking,
        the_trace_says_who_is_asked;
    [Lab, Program("nsd"), Program("dig")] =>
        nsd_is_asked_for_names_outside;
}

/// The upstreams' addresses, of the outside host.
const FIRST: &str = "192.168.50.100:5301";
const SECOND: &str = "192.168.50.100:5302";
const CLIENT: &str = "frontend-app";

/// A query as an upstream sees it.
struct Asked<'a> {
    name: &'a str,
    rtype: u16,
    message: &'a [u8],
    is_tcp: bool,
}

impl Asked<'_> {
    /// The response with this code and these records: type, TTL, data.
    fn response(&self, code: u8, records: &[(u16, u32, Vec<u8>)]) -> Vec<u8> {
        let end = self.message[12..].iter().position(|&byte| byte == 0).expect("a name") + 12 + 5;
        let mut response = self.message[..end].to_vec();
        response[2] |= 0x80;
        response[3] = 0x80 | code;
        response[6..12].copy_from_slice(&[0, u8::try_from(records.len()).expect("few"), 0, 0, 0, 0]);
        for (rtype, ttl, data) in records {
            response.extend([0xc0, 12]);
            response.extend(rtype.to_be_bytes());
            response.extend([0, 1]);
            response.extend(ttl.to_be_bytes());
            response.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
            response.extend(data);
        }
        response
    }

    /// The response with an address.
    fn address(&self, ttl: u32, address: [u8; 4]) -> Vec<u8> {
        match self.rtype {
            1 => self.response(0, &[(1, ttl, address.to_vec())]),
            _ => self.response(0, &[]),
        }
    }
}

/// What an upstream sends, in order.
type Script = dyn Fn(&Asked<'_>) -> Vec<Vec<u8>> + Send + Sync;

/// A server of the outside host that does as its script says, over UDP and TCP.
struct Upstream {
    /// How often each name was asked for.
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Upstream {
    fn start(
        site: &Site,
        address: &str,
        script: impl Fn(&Asked<'_>) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::on(site.host("outside-client"), at(address), script)
    }

    fn on(
        host: &Namespace,
        address: SocketAddr,
        script: impl Fn(&Asked<'_>) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Upstream {
        let (socket, listener) = host.run(|| (UdpSocket::bind(address), TcpListener::bind(address)));
        let (socket, listener) = (socket.expect("bound"), listener.expect("bound"));
        let asked = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let script: Arc<Script> = Arc::new(script);
        let (counts, inside) = (Arc::clone(&asked), Arc::clone(&script));
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                for response in respond(&buffer[..length], false, &counts, &*inside) {
                    socket.send_to(&response, from).expect("sent");
                }
            }
        });
        let counts = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut length = [0; 2];
                let mut query = Vec::new();
                if stream.read_exact(&mut length).is_ok() {
                    query.resize(u16::from_be_bytes(length).into(), 0);
                    stream.read_exact(&mut query).expect("a query");
                }
                for response in respond(&query, true, &counts, &*script) {
                    let length = u16::try_from(response.len()).expect("short").to_be_bytes();
                    stream.write_all(&[&length[..], &response].concat()).expect("sent");
                }
            }
        });
        Upstream { asked }
    }

    fn asked(&self, name: &str) -> usize {
        self.asked.lock().expect("no panic").get(name).copied().unwrap_or(0)
    }

    fn total(&self) -> usize {
        self.asked.lock().expect("no panic").values().sum()
    }
}

fn respond(query: &[u8], is_tcp: bool, counts: &Mutex<BTreeMap<String, usize>>, script: &Script) -> Vec<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
        at = end;
    }
    let name = labels.join(".");
    *counts.lock().expect("no panic").entry(name.clone()).or_default() += 1;
    let rtype = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    script(&Asked { name: &name, rtype, message: query, is_tcp })
}

/// A site that asks these.
fn site(dns: &str) -> Site {
    let site =
        Site::configured(Network::new(&guide(), 1).expect("a network"), |text| format!("{text}dns: {{ {dns} }}\n"));
    site.resolve_neighbours();
    site
}

fn both() -> Site {
    site(&format!("upstreams: [\"{FIRST}\", \"{SECOND}\"]"))
}

fn ask(site: &Site, name: &str) -> io::Result<DnsAnswer> {
    ask_dns(site.host(CLIENT), at(DNS), name, PATIENCE)
}

fn answer(addresses: &[&str]) -> DnsAnswer {
    DnsAnswer { rcode: 0, addresses: addresses.iter().map(|address| ip(address)).collect(), aliases: Vec::new() }
}

fn code(rcode: u8) -> DnsAnswer {
    DnsAnswer { rcode, ..answer(&[]) }
}

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

/// The name on the wire.
fn wire(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[u8::try_from(label.len()).expect("short")], label.as_bytes()].concat();
    [name.split('.').flat_map(label).collect(), vec![0]].concat()
}

fn counters(site: &Site) -> Totals {
    site.gateway().counters().totals()
}

fn a_name_outside_is_answered_by_an_upstream_and_then_from_the_cache() {
    let site = both();
    let upstream = Upstream::start(&site, FIRST, |asked| match asked.name {
        "www.example.com" => vec![asked.address(300, [192, 0, 2, 1])],
        "short.example.com" => vec![asked.address(0, [192, 0, 2, 2])],
        _ => {
            // RFC 2308 §3: a denial carries the zone's SOA.
            let mut denial = asked.response(3, &[]);
            denial[9] = 1;
            denial.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0]);
            denial.extend([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 60]);
            vec![denial]
        }
    });
    for _ in 0..5 {
        assert_eq!(ask(&site, "www.example.com").expect("an answer"), answer(&["192.0.2.1"]));
        assert_eq!(ask(&site, "none.example.com").expect("an answer"), code(NXDOMAIN));
        assert_eq!(ask(&site, "short.example.com").expect("an answer"), answer(&["192.0.2.2"]));
    }
    // What may not be kept is asked for every time.
    let counts = ["www.example.com", "none.example.com", "short.example.com"].map(|name| upstream.asked(name));
    assert_eq!(counts, [1, 1, 5]);
    // Another type is another question; a zone of the gateway's is not asked for.
    assert_eq!(ask_dns_v6(site.host(CLIENT), at(DNS), "www.example.com", PATIENCE).expect("an answer"), answer(&[]));
    assert_eq!(ask(&site, "no-such.default.svc.cluster.local").expect("an answer"), code(NXDOMAIN));
    assert_eq!(ask(&site, "9.9.96.10.in-addr.arpa").expect("an answer"), code(NXDOMAIN));
    assert_eq!(upstream.total(), 8);
    let totals = site.at_rest(&[]);
    assert_eq!((totals.dns_forwarded, totals.dns_cached, totals.dns_upstream_queries), (16, 8, 8));
    assert_eq!((totals.dns_answered, totals.dns_nxdomain, totals.dns_no_data, totals.dns_a), (10, 7, 1, 17));
    assert_eq!((totals.consumed, totals.originated), (16, 16), "each forwarded query, and its response");
    let stats: Value = serde_json::from_str(&site.cli(&["stats", "-o", "json"]).expect("the counters")).expect("JSON");
    assert_eq!((&stats["upstreams"][FIRST]["queries"], &stats["upstreams"][FIRST]["failures"]), (&8.into(), &0.into()));
    assert!(
        stats["upstreams"][FIRST]["p99"].as_u64().is_some_and(|latency| (1..10_000_000).contains(&latency)),
        "{stats}"
    );
    let text = site.cli(&["stats"]).expect("the counters");
    assert!(text.contains("DNS upstreams") && text.contains(FIRST), "{text}");
}

fn the_second_upstream_is_used_when_the_first_is_silent_or_cannot() {
    let site = both();
    let first = Upstream::start(&site, FIRST, |asked| match asked.name {
        name if name.starts_with("silent") => Vec::new(),
        // SERVFAIL; a truncated message that is none.
        "error.example.com" => vec![asked.response(2, &[])],
        "malformed.example.com" => {
            let mut response = asked.address(60, [192, 0, 2, 9]);
            response.truncate(response.len() - 2);
            vec![response]
        }
        _ => vec![asked.address(60, [192, 0, 2, 1])],
    });
    let second = Upstream::start(&site, SECOND, |asked| vec![asked.address(60, [192, 0, 2, 2])]);
    assert_eq!(ask(&site, "fine.example.com").expect("an answer"), answer(&["192.0.2.1"]));
    for name in ["error.example.com", "malformed.example.com", "silent.example.com"] {
        assert_eq!(ask(&site, name).expect("an answer"), answer(&["192.0.2.2"]), "{name}");
        assert_eq!((first.asked(name), second.asked(name)), (1, 1), "{name}");
    }
    // What cannot be read comes from an upstream that lives. Silent twice in a row, it is asked last.
    for name in ["silent-1.example.com", "silent-2.example.com", "later.example.com"] {
        assert_eq!(ask(&site, name).expect("an answer"), answer(&["192.0.2.2"]), "{name}");
        let expected = if name == "silent-2.example.com" || name == "later.example.com" { 0 } else { 1 };
        assert_eq!((first.asked(name), second.asked(name)), (expected, 1), "{name}");
    }
    assert_eq!(counters(&site).dns_upstream_failures, 4);
    site.at_rest(&[]);
}

/// It is asked again beside the queries, which do not wait for it.
fn clients_do_not_wait_for_an_upstream_that_is_down() {
    let site = both();
    let works = Arc::new(AtomicBool::new(false));
    let inside = Arc::clone(&works);
    let first = Upstream::start(&site, FIRST, move |asked| match inside.load(Ordering::Relaxed) {
        true => vec![asked.address(60, [192, 0, 2, 1])],
        false => Vec::new(),
    });
    Upstream::start(&site, SECOND, |asked| vec![asked.address(60, [192, 0, 2, 2])]);
    let names = Cell::new(0);
    let ask_next = || {
        names.set(names.get() + 1);
        let started = Instant::now();
        let found = ask(&site, &format!("n{}.example.com", names.get())).expect("an answer");
        (found, started.elapsed())
    };
    let is_down = || {
        let stats: Value = serde_json::from_str(&site.cli(&["stats", "-o", "json"]).expect("counters")).expect("JSON");
        stats["upstreams"][FIRST]["down"] == true
    };
    until("the first is known to be down", || ask_next().0 == answer(&["192.0.2.2"]) && is_down());
    let asked = first.total();
    until("it has been asked again, twice", || {
        let (found, took) = ask_next();
        assert!(found == answer(&["192.0.2.2"]) && took < Duration::from_millis(1400), "{found:?} after {took:?}");
        first.total() >= asked + 2
    });
    works.store(true, Ordering::Relaxed);
    until("it is used again", || ask_next().0 == answer(&["192.0.2.1"]));
    assert!(!is_down());
    site.at_rest(&[]);
}

/// RFC 6891 §6.2.2 and §7.
fn an_upstream_that_does_not_know_edns_is_asked_without() {
    let site = site(&format!("upstreams: [\"{FIRST}\"]"));
    let upstream = Upstream::start(&site, FIRST, |asked| {
        if asked.message[11] == 0 {
            return vec![asked.address(60, [192, 0, 2, 1])];
        }
        // With and without the question.
        let mut error = asked.response(if asked.name.starts_with("header") { 1 } else { 4 }, &[]);
        if asked.name.starts_with("header") {
            error.truncate(12);
            error[5] = 0;
        }
        vec![error]
    });
    assert_eq!(ask(&site, "header.example.com").expect("an answer"), answer(&["192.0.2.1"]));
    assert_eq!(upstream.asked("header.example.com"), 2);
    assert_eq!(ask(&site, "www.example.com").expect("an answer"), answer(&["192.0.2.1"]));
    assert_eq!(upstream.asked("www.example.com"), 1, "it is known now");
    assert_eq!(counters(&site).dns_upstream_failures, 0);
    site.at_rest(&[]);
}

/// RFC 8767 §5: a client waits 1.8 s.
fn an_expired_answer_does_not_wait_for_a_silent_upstream() {
    let site = site(&format!("upstreams: [\"{FIRST}\"], serveStale: true"));
    let works = Arc::new(AtomicBool::new(true));
    let inside = Arc::clone(&works);
    Upstream::start(&site, FIRST, move |asked| match inside.load(Ordering::Relaxed) {
        true => vec![asked.address(1, [192, 0, 2, 1])],
        false => Vec::new(),
    });
    assert_eq!(ask(&site, "www.example.com").expect("an answer"), answer(&["192.0.2.1"]));
    works.store(false, Ordering::Relaxed);
    let mut longest = Duration::ZERO;
    until("an expired answer, and that there is no other is known", || {
        let started = Instant::now();
        assert_eq!(ask(&site, "www.example.com").expect("an answer"), answer(&["192.0.2.1"]));
        longest = longest.max(started.elapsed());
        let totals = counters(&site);
        totals.dns_stale > 0 && totals.dns_upstream_failures >= 3
    });
    assert!(longest > Duration::from_millis(1500) && longest < Duration::from_secs(4), "{longest:?}");
    let started = Instant::now();
    assert_eq!(ask(&site, "www.example.com").expect("an answer"), answer(&["192.0.2.1"]));
    assert!(started.elapsed() < Duration::from_millis(1500), "nobody is asked so soon after a failure");
    site.at_rest(&[]);
}

fn without_an_answer_the_client_gets_servfail_and_an_expired_one_if_wanted() {
    for serve_stale in [false, true] {
        let site = site(&format!("upstreams: [\"{FIRST}\"], serveStale: {serve_stale}"));
        let works = Arc::new(Mutex::new(true));
        let inside = Arc::clone(&works);
        let upstream = Upstream::start(&site, FIRST, move |asked| match *inside.lock().expect("no panic") {
            true => vec![asked.address(1, [192, 0, 2, 1])],
            // REFUSED.
            false => vec![asked.response(5, &[])],
        });
        assert_eq!(ask(&site, "www.example.com").expect("an answer"), answer(&["192.0.2.1"]));
        *works.lock().expect("no panic") = false;
        let expected = if serve_stale { answer(&["192.0.2.1"]) } else { code(SERVFAIL) };
        // Until then it is in the cache; shortly before, it is asked for again.
        until("it has expired", || {
            let found = ask(&site, "www.example.com").expect("an answer");
            let is_stale = counters(&site).dns_stale > 0;
            upstream.asked("www.example.com") == 2 && found == expected && is_stale == serve_stale
        });
        for _ in 0..3 {
            assert_eq!(ask(&site, "www.example.com").expect("an answer"), expected);
        }
        assert_eq!(ask(&site, "new.example.com").expect("an answer"), code(SERVFAIL));
        assert_eq!(upstream.asked("www.example.com"), 2, "that there is no answer is kept, too");
        let totals = site.at_rest(&[]);
        assert_eq!(totals.dns_stale > 0, serve_stale);
    }
}

/// RFC 5452 §9.1: number and question must be those of the query.
fn forged_and_wrong_responses_are_ignored() {
    let site = site(&format!("upstreams: [\"{FIRST}\"]"));
    Upstream::start(&site, FIRST, |asked| {
        let good = asked.address(60, [192, 0, 2, 1]);
        let bad = asked.address(60, [192, 0, 2, 66]);
        let with = |at: usize, xor: u8| {
            let mut message = bad.clone();
            message[at] ^= xor;
            message
        };
        // Another number, name, type, class, a query, and something that is no message.
        let type_at = bad.len() - 16 - 4;
        let forged =
            vec![with(1, 1), with(13, 1), with(type_at + 1, 2), with(type_at + 3, 2), with(2, 0x80), vec![1, 2, 3]];
        match asked.name {
            "guessed.example.com" => vec![with(0, 1); 20],
            _ => [forged, vec![good]].concat(),
        }
    });
    assert_eq!(ask(&site, "www.example.com").expect("an answer"), answer(&["192.0.2.1"]));
    assert_eq!(counters(&site).dns_upstream_bogus, 6);
    assert_eq!(ask(&site, "guessed.example.com").expect("an answer"), code(SERVFAIL));
    site.at_rest(&[]);
}

/// RFC 1035 §4.2.1, RFC 2181 §9.
fn a_truncated_response_is_fetched_over_tcp() {
    let site = site(&format!("upstreams: [\"{FIRST}\"]"));
    let upstream = Upstream::start(&site, FIRST, |asked| {
        if asked.is_tcp {
            let address = |n: u8| (1, 60, vec![192, 0, 2, n]);
            return vec![asked.response(0, &(1..=20).map(address).collect::<Vec<_>>())];
        }
        let mut response = asked.address(60, [192, 0, 2, 66]);
        response[2] |= 2;
        vec![response]
    });
    let mut found = ask(&site, "many.example.com").expect("an answer").addresses;
    found.sort_unstable();
    assert_eq!(found, (1..=20).map(|n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))).collect::<Vec<_>>());
    assert_eq!(upstream.asked("many.example.com"), 2);
    assert_eq!(counters(&site).dns_upstream_tcp, 1);
    site.at_rest(&[]);
}

fn equal_questions_are_asked_once() {
    let site = site(&format!("upstreams: [\"{FIRST}\"]"));
    let upstream = Upstream::start(&site, FIRST, |asked| {
        thread::sleep(SHORT);
        vec![asked.address(60, [192, 0, 2, 1])]
    });
    thread::scope(|scope| {
        let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| ask(&site, "www.example.com"))).collect();
        for asked in asking {
            assert_eq!(asked.join().expect("no panic").expect("an answer"), answer(&["192.0.2.1"]));
        }
    });
    assert_eq!(upstream.asked("www.example.com"), 1);
    let totals = site.at_rest(&[]);
    // All but the first, and those that came after the answer.
    assert_eq!(totals.dns_coalesced + totals.dns_cached, 19);
    assert!(totals.dns_coalesced > 0, "{totals:?}");
}

fn a_flood_of_slow_names_costs_itself() {
    let site = site(&format!("upstreams: [\"{FIRST}\"]"));
    Upstream::start(&site, FIRST, |asked| match asked.name.ends_with(".slow.example.com") {
        true => Vec::new(),
        false => vec![asked.address(60, [192, 0, 2, 1])],
    });
    let flood = site.host("outside-client").run(|| UdpSocket::bind("192.168.50.100:0")).expect("bound");
    let query = |n: u16| {
        let mut message = n.to_be_bytes().to_vec();
        message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(wire(&format!("n{n}.slow.example.com")));
        message.extend([0, 1, 0, 1]);
        message
    };
    for n in 0..1500 {
        flood.send_to(&query(n), DNS).expect("sent");
        if n % 50 == 0 {
            // Another client's names are answered meanwhile.
            let asked = Instant::now();
            assert_eq!(ask(&site, &format!("n{n}.example.com")).expect("an answer"), answer(&["192.0.2.1"]));
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        }
    }
    // One prefix has so many waiting; those that wait longest get SERVFAIL.
    until("every query has its response", || counters(&site).dns_servfail == 1500);
    assert!(counters(&site).dns_no_room > 0);
    site.at_rest(&[]);
}

/// CoreDNS `plugin/backend_lookup.go`: the alias, then what the upstream has; a target that does not exist leaves the alias.
fn an_external_name_is_answered_with_the_targets_addresses() {
    let site = site(&format!("upstreams: [\"{FIRST}\"]"));
    Upstream::start(&site, FIRST, |asked| match asked.name {
        "my.database.example.com" => {
            // RFC 1034 §3.6.2: an alias of its own.
            let alias = (5, 60, wire("db.example.net"));
            let mut response = asked.response(0, &[alias]);
            response[7] = 2;
            response.extend([wire("db.example.net"), vec![0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]].concat());
            vec![response]
        }
        "gone.example.com" => vec![asked.response(3, &[])],
        _ => vec![asked.response(2, &[])],
    });
    let name = "external-service.default.svc.cluster.local";
    let expected = DnsAnswer {
        aliases: ["my.database.example.com", "db.example.net"].map(str::to_owned).into(),
        ..answer(&["192.0.2.7"])
    };
    assert_eq!(ask(&site, name).expect("an answer"), expected);
    assert_eq!(ask(&site, name).expect("an answer"), expected, "from the cache");
    for (service, target) in [("gone", "gone.example.com"), ("broken", "broken.example.com")] {
        site.apply(&format!(
            "{{ apiVersion: v1, kind: Service, metadata: {{ name: {service} }}, spec: {{ type: ExternalName, externalName: {target} }} }}"
        ));
    }
    let alias = DnsAnswer { aliases: vec!["gone.example.com".to_owned()], ..answer(&[]) };
    assert_eq!(ask(&site, "gone.default.svc.cluster.local").expect("an answer"), alias);
    assert_eq!(
        ask(&site, "broken.default.svc.cluster.local").expect("an answer"),
        code(SERVFAIL),
        "no part of an answer"
    );
    site.at_rest(&[]);
}

fn a_zone_has_its_own_servers() {
    let site = site(&format!(
        "upstreams: [], zones: [{{ name: corp.example, upstreams: [\"{FIRST}\"] }}, \
         {{ name: sub.corp.example, upstreams: \"{SECOND}\" }}]"
    ));
    Upstream::start(&site, FIRST, |asked| vec![asked.address(60, [192, 0, 2, 1])]);
    Upstream::start(&site, SECOND, |asked| vec![asked.address(60, [192, 0, 2, 2])]);
    for (name, expected) in [
        ("corp.example", answer(&["192.0.2.1"])),
        ("WWW.Corp.Example", answer(&["192.0.2.1"])),
        ("sub.corp.example", answer(&["192.0.2.2"])),
        ("a.b.sub.corp.example", answer(&["192.0.2.2"])),
        ("notcorp.example", code(REFUSED)),
        ("example", code(REFUSED)),
    ] {
        assert_eq!(ask(&site, name).expect("an answer"), expected, "{name}");
    }
    site.at_rest(&[]);
}

fn names_outside_are_answered_over_tcp_and_over_ipv6() {
    let upstreams = format!("upstreams: [\"{FIRST}\"]");
    let site = dual_stack::plain(|text| text.replace("upstreams: []", &upstreams));
    Upstream::start(&site, FIRST, |asked| vec![asked.address(60, [192, 0, 2, 1])]);
    for server in [DNS, "[fd00:10:96::10]:53"] {
        for host in [CLIENT, "outside-client"] {
            let found = ask_dns(site.host(host), at(server), "www.example.com", PATIENCE);
            assert_eq!(found.expect("an answer"), answer(&["192.0.2.1"]), "{host} of {server}");
            let mut stream = pollgate::lab::traffic::connect(site.host(host), at(server), PATIENCE).expect("connected");
            let query =
                [&b"\0\x21\x12\x34\x01\0\0\x01\0\0\0\0\0\0"[..], &wire("tcp.example.com"), b"\0\x01\0\x01"].concat();
            stream.write_all(&query).expect("sent");
            let mut response = [0; 2 + 0x21 + 16];
            stream.read_exact(&mut response).expect("a response");
            assert_eq!(
                (&response[2..4], response[9], &response[response.len() - 4..]),
                (&b"\x12\x34"[..], 1, &[192, 0, 2, 1][..])
            );
        }
    }
    let totals = site.at_rest(&[]);
    assert_eq!((totals.dns_forwarded, totals.dns_tcp, totals.dns_upstream_queries), (8, 4, 2));
}

/// RFC 7766 §6.2.1.1.
fn queries_of_a_connection_do_not_wait_for_one_another() {
    let site = site(&format!("upstreams: [\"{FIRST}\"], zones: [{{ name: corp.example, upstreams: [\"{SECOND}\"] }}]"));
    let (release, held) = channel::bounded::<()>(0);
    Upstream::start(&site, FIRST, |asked| vec![asked.address(60, [192, 0, 2, 1])]);
    Upstream::start(&site, SECOND, move |asked| {
        // Until the test lets it go; then for good.
        let _ = held.recv_timeout(PATIENCE);
        vec![asked.address(60, [192, 0, 2, 2])]
    });
    let mut stream = pollgate::lab::traffic::connect(site.host(CLIENT), at(DNS), PATIENCE).expect("connected");
    let queries = [
        query(1, "slow.corp.example", A),
        query(2, "kubernetes.default.svc.cluster.local", A),
        query(3, "other.example.com", A),
    ];
    stream.write_all(&queries.concat()).expect("sent");
    // Queries that came whole are answered although nothing follows them.
    stream.shutdown(Shutdown::Write).expect("half closed");
    let mut next = || read(&mut stream).expect("a response").id;
    // RFC 7766 §6.2.1.1: responses come as they are ready.
    assert_eq!([next(), next()], [2, 3]);
    release.send(()).expect("the upstream waits");
    drop(release);
    assert_eq!(next(), 1);
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
}

/// As many questions as may be asked at a time, from connections whose client has asked for long responses and takes none.
fn who_takes_no_responses_keeps_nobody_from_asking() {
    let site = site(&format!("upstreams: [\"{FIRST}\"]"));
    Upstream::start(&site, FIRST, |asked| match asked.name.starts_with("slow") {
        true => Vec::new(),
        false => vec![asked.address(60, [192, 0, 2, 1])],
    });
    big(&site, 3000);
    let connection = |number: u16| {
        let mut stream = pollgate::lab::traffic::connect(site.host("outside-client"), at(DNS), PATIENCE)?;
        let slow = (0..63).map(|n| query(n, &format!("slow-{number}-{n}.example.com"), A));
        let long = (63..120).map(|n| query(n, BIG, A));
        stream.write_all(&slow.chain(long).collect::<Vec<_>>().concat())?;
        Ok::<_, io::Error>(stream)
    };
    let _greedy: Vec<_> = (0..70).map(|number| connection(number).expect("asked")).collect();
    until("there is no room for all", || counters(&site).dns_no_room > 0);
    for n in 0..5 {
        assert_eq!(ask(&site, &format!("n{n}.example.com")).expect("an answer"), answer(&["192.0.2.1"]));
    }
}

fn the_trace_says_who_is_asked() {
    let site = site(&format!("upstreams: [\"{FIRST}\"], zones: [{{ name: corp.example, upstreams: [\"{SECOND}\"] }}]"));
    let trace = |name: &str| site.cli(&["trace", "--dns", name]).expect("traced");
    let outside = trace("www.example.com");
    assert!(outside.contains(&format!("forwarded to {FIRST}")), "{outside}");
    let zone = trace("www.corp.example");
    assert!(zone.contains(&format!("forwarded to {SECOND}")) && zone.contains("corp.example"), "{zone}");
    let alias = trace("external-service.default.svc.cluster.local");
    assert!(alias.contains("my.database.example.com") && alias.contains(&format!("forwarded to {FIRST}")), "{alias}");
    site.at_rest(&[]);
}

/// NSD in the outside host, with a zone of its own.
struct Nsd {
    child: Child,
    _directory: TempDir,
}

impl Nsd {
    fn start(site: &Site, zone: &str) -> Nsd {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().display();
        let user = "\"\"";
        let configuration = format!(
            "server:\n  ip-address: 192.168.50.100@5301\n  username: {user}\n  zonesdir: \"{path}\"\n  database: \"\"\n  \
             zonelistfile: \"{path}/zone.list\"\n  xfrdfile: \"{path}/xfrd.state\"\n  xfrdir: \"{path}\"\n  pidfile: \"\"\n  \
             cookie-secret-file: \"\"\n\
             remote-control:\n  control-enable: no\nzone:\n  name: example.org\n  zonefile: example.org.zone\n"
        );
        fs::write(directory.path().join("nsd.conf"), configuration).expect("written");
        fs::write(directory.path().join("example.org.zone"), zone).expect("written");
        let mut command = site.host("outside-client").command("nsd");
        command.arg("-d").arg("-c").arg(directory.path().join("nsd.conf"));
        let log = fs::File::create(directory.path().join("log")).expect("created");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the file again")).stderr(log);
        let child = command.spawn().expect("started");
        Nsd { child, _directory: directory }
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        // Both fail for one that has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn nsd_is_asked_for_names_outside() {
    let site = site(&format!("upstreams: [\"{FIRST}\"]"));
    let zone: String = "$ORIGIN example.org.\n$TTL 600\n@ SOA ns hostmaster 1 7200 1800 86400 20\n@ NS ns\n\
                        ns A 192.0.2.53\nwww A 192.0.2.1\nwww AAAA 2001:db8::1\nalias CNAME www\n@ MX 10 mail\nmail A 192.0.2.25\n"
        .to_owned()
        + &(1..=100).map(|n| format!("many A 192.0.2.{n}\n")).collect::<String>()
        + &(1..=40).map(|n| format!("text TXT \"{}{n}\"\n", "x".repeat(100))).collect::<String>();
    let _nsd = Nsd::start(&site, &zone);
    let dig = |words: &[&str]| {
        let common = ["@10.96.0.10", "+tries=1", "+time=6"];
        let output = site.host(CLIENT).command("dig").args(common).args(words).output().expect("started");
        String::from_utf8(output.stdout).expect("text").replace('\t', " ")
    };
    until("NSD serves its zone", || dig(&["+short", "ns.example.org"]) == "192.0.2.53\n");
    let www = dig(&["www.example.org"]);
    assert!(www.contains("status: NOERROR") && www.contains(" qr rd ra;") && www.contains("192.0.2.1"), "{www}");
    // At most half a minute, although the zone says more.
    let ttl =
        www.lines().find(|line| line.starts_with("www.example.org.")).and_then(|line| line.split_whitespace().nth(1));
    assert!(ttl.is_some_and(|ttl| ttl.parse().is_ok_and(|ttl: u32| (20..=30).contains(&ttl))), "{www}");
    assert_eq!(dig(&["+short", "AAAA", "www.example.org"]), "2001:db8::1\n");
    assert_eq!(dig(&["+short", "alias.example.org"]), "www.example.org.\n192.0.2.1\n");
    assert_eq!(dig(&["+short", "MX", "example.org"]), "10 mail.example.org.\n");
    let unknown = dig(&["no-such.example.org"]);
    assert!(unknown.contains("status: NXDOMAIN") && unknown.contains("SOA ns.example.org."), "{unknown}");
    let no_data = dig(&["MX", "www.example.org"]);
    assert!(
        no_data.contains("status: NOERROR") && no_data.contains("ANSWER: 0") && no_data.contains("SOA"),
        "{no_data}"
    );
    // Truncated by UDP to the client, and by UDP from NSD: both ask again by TCP.
    let many = dig(&["+short", "many.example.org"]);
    assert_eq!(many.lines().filter(|line| line.starts_with("192.0.2.")).count(), 100, "{many}");
    assert_eq!(dig(&["+short", "TXT", "text.example.org"]).lines().filter(|line| line.starts_with('"')).count(), 40);
    // NSD refuses what it does not serve.
    let refused = dig(&["www.example.com"]);
    assert!(refused.contains("status: SERVFAIL"), "{refused}");
    for answer in [&www, &unknown, &no_data] {
        assert!(!answer.contains("malformed") && !answer.contains("extra bytes"), "{answer}");
    }
    assert!(counters(&site).dns_upstream_tcp >= 2);
    site.at_rest(&[]);
}

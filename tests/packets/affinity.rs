//! ClientIP affinity: a client keeps its endpoint through changes of others (K `pkg/proxy/nftables/proxier.go`, affinity sets; e2e "should have
//! session affinity work", "should have session affinity timeout work").

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use super::support::builder::{tcp, udp};
use super::support::lab::{Lab, OUTSIDE, PODS, Setup};
use super::support::objects::{endpoints, service, shop};

const STICKY: &str = ", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 100}}, externalTrafficPolicy: Local";
const FOUR: [&str; 4] = ["10.244.1.10", "10.244.1.11", "10.244.1.12", "10.244.1.13"];
const ADDRESSES: [&str; 3] = ["203.0.113.7:80", "198.51.100.7:80", "192.168.50.10:30080"];
const CLIENTS: u16 = 40;

/// The endpoint that each client is given for a new connection to one of the Service's addresses.
fn connect(lab: &mut Lab, port: u16) -> BTreeMap<u16, SocketAddrV4> {
    let to = ADDRESSES[usize::from(port) % ADDRESSES.len()];
    let mut connect = |client| lab.through(OUTSIDE, tcp(&format!("192.168.7.{client}:{port}"), to), PODS).dst();
    (1..=CLIENTS).map(|client| (client, connect(client))).collect()
}

/// Clients that were given another endpoint than before.
fn moved<'a>(
    before: &'a BTreeMap<u16, SocketAddrV4>,
    after: &'a BTreeMap<u16, SocketAddrV4>,
) -> impl Iterator<Item = (&'a SocketAddrV4, &'a SocketAddrV4)> {
    before.values().zip(after.values()).filter(|(before, after)| before != after)
}

fn opened(lab: &mut Lab, flows: u64, more: &[(&str, u64)]) {
    let flows =
        [("rx", flows), ("tx", flows), ("flows_opened", flows), ("flows_live", flows), ("flows_half_open", flows)];
    lab.counters(&[&flows[..], more].concat());
}

#[test]
fn changes_of_other_endpoints_move_no_client_and_all_addresses_share_the_memory() {
    let mut lab = Lab::new(&shop(STICKY, &FOUR));
    let first = connect(&mut lab, 50_000);
    for (round, others) in (1u16..).zip([
        &["10.244.1.10", "10.244.1.11", "10.244.1.12", "10.244.1.13", "10.244.1.20", "10.244.1.21", "10.244.1.22"][..],
        &["10.244.1.10", "10.244.1.11", "10.244.1.12", "10.244.1.13", "10.244.1.22"],
        &["10.244.1.9", "10.244.1.10", "10.244.1.11", "10.244.1.12", "10.244.1.13", "10.244.1.23"],
    ]) {
        lab.apply(&endpoints("shop", "TCP", 8080, others));
        assert_eq!(connect(&mut lab, 50_000 + round), first, "{others:?}");
    }
    opened(&mut lab, 160, &[("affinity_remembered", 40)]);
}

#[test]
fn a_client_whose_endpoint_goes_gets_another_and_keeps_that() {
    let mut lab = Lab::new(&shop(STICKY, &FOUR));
    let first = connect(&mut lab, 50_000);
    lab.apply(&endpoints("shop", "TCP", 8080, &FOUR[1..]));
    let second = connect(&mut lab, 50_001);
    let gone: Vec<_> = moved(&first, &second).collect();
    assert!(gone.len() > 3 && gone.iter().all(|(before, _)| before.ip().to_string() == FOUR[0]), "{gone:?}");
    lab.apply(&endpoints("shop", "TCP", 8080, &FOUR));
    assert_eq!(connect(&mut lab, 50_002), second, "the endpoint is back, but was forgotten");
    opened(&mut lab, 120, &[("affinity_remembered", 40)]);
}

#[test]
fn an_endpoint_that_may_not_be_chosen_now_is_not() {
    let mut lab = Lab::new(&shop(STICKY, &FOUR));
    let first = connect(&mut lab, 50_000);
    let terminating = ["10.244.1.10~", "10.244.1.11", "10.244.1.12", "10.244.1.13"];
    lab.apply(&endpoints("shop", "TCP", 8080, &terminating));
    let second = connect(&mut lab, 50_001);
    let gone: Vec<_> = moved(&first, &second).collect();
    assert!(gone.len() > 3 && gone.iter().all(|(before, _)| before.ip().to_string() == FOUR[0]), "{gone:?}");
    opened(&mut lab, 80, &[("affinity_remembered", 40)]);
}

#[test]
fn the_time_out_starts_with_each_new_connection() {
    let mut lab = Lab::new(&shop(STICKY, &FOUR));
    let first = connect(&mut lab, 50_000);
    lab.apply(&endpoints(
        "shop",
        "TCP",
        8080,
        &["10.244.1.10", "10.244.1.11", "10.244.1.12", "10.244.1.13", "10.244.1.20"],
    ));
    for round in 1..=3 {
        lab.jump(Duration::from_secs(55));
        assert_eq!(connect(&mut lab, 50_000 + round), first, "after {} s", 55 * round);
    }
    lab.jump(Duration::from_secs(103));
    let after = connect(&mut lab, 50_010);
    let new: Vec<_> = moved(&first, &after).collect();
    assert!(!new.is_empty() && new.iter().all(|(_, after)| after.ip().to_string() == "10.244.1.20"), "{new:?}");
    assert_eq!(lab.totals().affinity_remembered, 80);
}

#[test]
fn each_port_of_a_service_has_its_own_memory_and_a_service_without_affinity_none() {
    let two = "clusterIP: 10.96.0.70, sessionAffinity: ClientIP, \
               ports: [{name: a, port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: 8081}]";
    let slice = |a: &str| {
        let of = |port: &str, number: u16| {
            let name = format!("name: {port}-1,");
            endpoints("two", "TCP", number, &[a, "10.244.1.11"])
                .replace("name: two-1,", &name)
                .replace("name: \"\"", &format!("name: {port}"))
        };
        of("a", 8080) + &of("b", 8081)
    };
    let mut lab = Lab::new(&(service("two", two) + &slice("10.244.1.10")));
    let connect = |lab: &mut Lab, source: u16, to: u16| {
        lab.through(PODS, tcp(&format!("10.244.1.5:{source}"), &format!("10.96.0.70:{to}")), PODS).dst()
    };
    let (a, b) = (connect(&mut lab, 1000, 80), connect(&mut lab, 1000, 81));
    lab.apply(&slice("10.244.1.9"));
    assert_eq!((a.port(), b.port()), (8080, 8081));
    let (a, b) = (connect(&mut lab, 1001, 80), connect(&mut lab, 1001, 81));
    assert_eq!((connect(&mut lab, 1002, 80), connect(&mut lab, 1002, 81)), (a, b));
    opened(&mut lab, 6, &[("affinity_remembered", 2)]);
}

#[test]
fn switching_affinity_on_and_off_works_at_once() {
    let mut lab = Lab::new(&shop("", &FOUR));
    let distinct = |lab: &mut Lab, ports: std::ops::Range<u16>| {
        let all = ports.map(|port| lab.through(OUTSIDE, tcp(&format!("192.168.7.1:{port}"), ADDRESSES[0]), PODS).dst());
        all.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert!(distinct(&mut lab, 50_000..50_040) > 1);
    lab.apply(&shop(", sessionAffinity: ClientIP", &FOUR));
    assert_eq!(distinct(&mut lab, 51_000..51_040), 1);
    lab.apply(&shop(", sessionAffinity: None", &FOUR));
    assert!(distinct(&mut lab, 52_000..52_040) > 1);
    opened(&mut lab, 120, &[("affinity_remembered", 1)]);
}

#[test]
fn workers_share_the_memory() {
    let mut lab = Lab::with(Setup { workers: 2, ..Setup::default() }, &shop(STICKY, &FOUR));
    let from = |port: u16| format!("192.168.7.1:{port}");
    let first = lab.through(OUTSIDE, tcp(&from(50_000), ADDRESSES[0]), PODS).dst();
    for round in 0..5u8 {
        let more: Vec<String> = (0..10).map(|n| format!("10.244.2.{}", 10 * round + n)).collect();
        let all: Vec<&str> = FOUR.into_iter().chain(more.iter().map(String::as_str)).collect();
        lab.apply(&endpoints("shop", "TCP", 8080, &all));
        for port in 0..20 {
            let port = 51_000 + u16::from(round) * 100 + port;
            assert_eq!(lab.through(OUTSIDE, tcp(&from(port), ADDRESSES[0]), PODS).dst(), first);
        }
    }
    let opened: Vec<u64> = (0..2).map(|worker| lab.totals_of(worker).flows_opened).collect();
    assert!(opened.iter().all(|&opened| opened > 20), "{opened:?}");
    assert_eq!(lab.totals().affinity_remembered, 1);
    lab.balance();
}

#[test]
fn a_flood_of_spoofed_sources_moves_no_client_with_a_connection() {
    let mut lab = Lab::configured("flows: {affinity: 64}\n", &shop(STICKY, &FOUR));
    let mut kept = Vec::new();
    for client in 1..=5 {
        let from = format!("192.168.7.{client}:50000");
        let there = lab.through(OUTSIDE, tcp(&from, ADDRESSES[0]), PODS).dst();
        lab.through(PODS, tcp(&there.to_string(), &from).flags("SA"), OUTSIDE);
        lab.through(OUTSIDE, tcp(&from, ADDRESSES[0]).flags("A"), PODS);
        kept.push(there);
    }
    for n in 0..2000u16 {
        lab.through(OUTSIDE, tcp(&format!("172.16.{}.{}:1", n / 250, n % 250 + 1), ADDRESSES[0]), PODS);
    }
    lab.apply(&endpoints("shop", "TCP", 8080, &[&FOUR[..], &["10.244.1.20", "10.244.1.21", "10.244.1.22"]].concat()));
    for (client, there) in (1..=5).zip(kept) {
        let from = format!("192.168.7.{client}:50001");
        assert_eq!(lab.through(OUTSIDE, tcp(&from, ADDRESSES[0]), PODS).dst(), there, "client {client}");
    }
    let totals = lab.totals();
    assert_eq!(totals.affinity_remembered + totals.affinity_refused, 2005, "each once");
    assert!((1900..=2005).contains(&(totals.affinity_displaced + totals.affinity_refused)), "{totals:?}");
    lab.balance();
}

#[test]
fn datagrams_without_a_reply_keep_their_endpoint_too() {
    let spec = "clusterIP: 10.96.0.60, sessionAffinity: ClientIP, ports: [{port: 7, protocol: UDP, targetPort: 7007}]";
    let mut lab = Lab::new(&(service("echo", spec) + &endpoints("echo", "UDP", 7007, &FOUR)));
    let send = |lab: &mut Lab, client: u16, port: u16| {
        lab.through(PODS, udp(&format!("10.244.9.{client}:{port}"), "10.96.0.60:7"), PODS).dst()
    };
    let first: Vec<_> = (1..=20).map(|client| send(&mut lab, client, 1000)).collect();
    lab.apply(&endpoints("echo", "UDP", 7007, &[&FOUR[..], &["10.244.1.20", "10.244.1.21"]].concat()));
    let second: Vec<_> = (1..=20).map(|client| send(&mut lab, client, 1001)).collect();
    assert_eq!(first, second);
    opened(&mut lab, 40, &[("affinity_remembered", 20)]);
}

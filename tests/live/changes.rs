//! Objects change while packets flow: what is established stays, what is new follows the change.

use std::io;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use pollgate::lab::traffic::{ask_tcp, connect};
use pollgate_common::reasons::DropReason as Reason;
use serde_json::json;

use crate::live::support::{
    BACKENDS, CLUSTER_IP, LOAD_BALANCER, PATIENCE, SHORT, Site, StopOnDrop, Talk, UDP, answered_by, apply_object, at,
    pod,
};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::shared::until;

tests! {
    [Lab] =>
        a_thousand_changes_during_traffic_lose_no_established_connection,
        a_pod_that_leaves_keeps_its_connections_and_gets_no_new_ones,
        deleting_a_service_leaves_the_flows_of_others_untouched,
        a_rolling_replacement_of_all_backends_fails_no_request,
        datagrams_of_a_removed_pod_go_to_another,
        new_services_are_served_when_their_apply_returns;
}

/// So many changes, of all kinds that a busy cluster makes.
const CHANGES: u16 = 1000;

/// One of them: another Service's port and labels, or a Pod that joins or leaves the Service under traffic. Of its two
/// first Pods, which hold the connections, one leaves and returns as well.
fn change(site: &Site, number: u16) {
    let client = site.client();
    let (kind, round) = (number % 4, number / 4);
    let on = round % 2 == 0;
    match kind {
        0 => apply_object(
            &client,
            &json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "other", "labels": { "round": format!("r{round}") } },
                "spec": { "clusterIP": "10.96.0.80", "selector": { "app": "frontend" },
                    "ports": [{ "port": 1000 + round, "targetPort": 8080 }] },
            }),
        ),
        1 => apply_object(&client, &pod("backend-canary", "10.244.2.22", "backend", if on { "v1" } else { "v2" })),
        2 => apply_object(&client, &pod("backend-2", "10.244.2.15", "backend", if on { "v0" } else { "v1" })),
        _ => apply_object(&client, &pod("frontend-1", "10.244.1.20", if on { "backend" } else { "frontend" }, "v1")),
    }
}

fn a_thousand_changes_during_traffic_lose_no_established_connection() {
    let site = Site::new();
    let ways =
        [("frontend-app", CLUSTER_IP), ("frontend-2", "10.96.0.60:7001"), ("outside-client", "192.168.50.10:30701")];
    let talks: Vec<Talk> =
        ways.iter().cycle().take(60).map(|(from, to)| Talk::start(site.host(from), at(to))).collect();
    assert!(BACKENDS.iter().all(|name| talks.iter().any(|talk| talk.server == *name)), "both Pods have some");
    let generation = site.gateway().counters().totals().generation;
    let started = Instant::now();
    (0..CHANGES).for_each(|number| change(&site, number));
    println!("{CHANGES} changes in {:?}", started.elapsed());
    for talk in &talks {
        talk.still_works().unwrap_or_else(|error| panic!("after the changes: {error}"));
    }
    let applied = site.gateway().counters().totals().generation - generation;
    assert!(applied >= u64::from(CHANGES), "the workers saw {applied} generations");
    // The last round took Pods away: new connections know, old ones do not care.
    let round = (CHANGES - 1) / 4;
    assert_eq!(round % 2, 1, "the last round puts the Pods back where they were");
    answered_by(40, &BACKENDS, || ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE));
    let blocks: u64 = talks.into_iter().map(|talk| talk.finish().expect("nothing lost")).sum();
    println!("{blocks} blocks of 4096 bytes came back");
    site.at_rest(&[]);
}

fn a_pod_that_leaves_keeps_its_connections_and_gets_no_new_ones() {
    let site = Site::new();
    let talks: Vec<Talk> = (0..12).map(|_| Talk::start(site.host("frontend-app"), at(CLUSTER_IP))).collect();
    assert!(talks.iter().any(|talk| talk.server == "backend-2"), "some are with the Pod that leaves");
    site.cli(&["delete", "pod", "backend-2"]).expect("deleted");
    answered_by(30, &["backend-1"], || ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE));
    site.apply(&pod("backend-3", "10.244.2.22", "backend", "v1").to_string());
    answered_by(30, &["backend-1", "backend-v2"], || ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE));
    for talk in talks {
        talk.still_works().expect("established connections stay");
        talk.finish().expect("to their end");
    }
    site.at_rest(&[]);
}

/// Pods that can be backends: their name, address, and the host they run on.
const PLACES: [[&str; 3]; 4] = [
    ["backend-1", "10.244.1.10", "backend-1"],
    ["backend-2", "10.244.2.15", "backend-2"],
    ["frontend-1", "10.244.1.20", "frontend-2"],
    ["backend-canary", "10.244.2.22", "backend-v2"],
];

/// One Pod after another is replaced as a Deployment does it: the next is ready before the last terminates, and its servers stop
/// when no client can have a request with them any more. Meanwhile clients make one connection after another.
fn a_rolling_replacement_of_all_backends_fails_no_request() {
    let site = Site::new();
    let ways =
        [("frontend-app", CLUSTER_IP), ("outside-client", "192.168.50.10:30701"), ("outside-client", LOAD_BALANCER)];
    let requests: [AtomicU64; 6] = Default::default();
    let failed = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // A panic below ends the threads too, or the scope would wait for them for ever.
        let _stopped = StopOnDrop(&stop);
        for ((from, to), done) in ways.iter().cycle().zip(&requests) {
            let (host, to, failed, stop) = (site.host(from), at(to), &failed, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match ask_tcp(host, to, PATIENCE) {
                        Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                        Err(error) => return failed.lock().expect("no panic").push(error),
                    };
                }
            });
        }
        for round in 0..8 {
            replace(&site, PLACES[(round + 2) % 4], PLACES[round % 4], || go_on(&requests, &failed));
        }
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "{failed:?}");
    println!("{requests:?} requests");
    site.at_rest(&[]);
}

/// Waits until every client has ended what it had begun before, and more.
fn go_on(requests: &[AtomicU64], failed: &Mutex<Vec<io::Error>>) {
    let before: Vec<u64> = requests.iter().map(|done| done.load(Ordering::Relaxed)).collect();
    until("every client has gone on", || {
        let failed = std::mem::take(&mut *failed.lock().expect("no panic"));
        assert!(failed.is_empty(), "{failed:?}");
        requests.iter().zip(&before).all(|(done, before)| done.load(Ordering::Relaxed) >= before + 3)
    });
}

fn replace(site: &Site, next: [&str; 3], last: [&str; 3], go_on: impl Fn()) {
    site.serve(next[2], true);
    apply_object(&site.client(), &pod(next[0], next[1], "backend", "v1"));
    let mut terminating = pod(last[0], last[1], "backend", "v1");
    terminating["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    terminating["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    apply_object(&site.client(), &terminating);
    go_on();
    site.serve(last[2], false);
    site.cli(&["delete", "pod", last[0]]).expect("deleted");
    go_on();
}

fn deleting_a_service_leaves_the_flows_of_others_untouched() {
    let site = Site::new();
    let others: Vec<Talk> = ["10.96.0.60:7001", "192.168.50.10:30701"]
        .iter()
        .cycle()
        .take(10)
        .map(|to| Talk::start(site.host("outside-client"), at(to)))
        .collect();
    ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE).expect("an answer");
    site.cli(&["delete", "service", "backend-service", "loadbalancer-service"]).expect("deleted");
    for gone in [CLUSTER_IP, LOAD_BALANCER] {
        connect(site.host("outside-client"), at(gone), SHORT).expect_err("served no longer");
    }
    for talk in others {
        talk.still_works().expect("another Service's connection");
        talk.finish().expect("nothing lost");
    }
    // The load-balancer address is nobody's now: it is not even resolved.
    let totals = site.at_rest(&[Reason::NoSuchClusterIp]);
    assert!(totals.drops_of(Reason::NoSuchClusterIp) > 0);
}

fn datagrams_of_a_removed_pod_go_to_another() {
    let site = Site::new();
    // A client that keeps its port, as a resolver does: the same flow before and after.
    let namespace = site.host("frontend-app");
    let socket = namespace.run(|| UdpSocket::bind("10.244.1.5:5000")).expect("a socket");
    socket.connect(at(UDP)).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let ask = || {
        let mut answer = [0; 64];
        socket.send(b"who?").expect("sent");
        let length = socket.recv(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer[..length]).trim_end_matches(" who?").to_owned()
    };
    let first = ask();
    assert_eq!([ask(), ask()], [first.clone(), first.clone()], "a flow stays where it is");
    site.cli(&["delete", "pod", &first]).expect("deleted");
    let other = BACKENDS.iter().find(|name| **name != first).expect("two of them");
    assert_eq!(ask(), *other, "the first datagram after the change");
    site.at_rest(&[]);
}

fn new_services_are_served_when_their_apply_returns() {
    let site = Site::new();
    let client = site.client();
    for number in 0..50u8 {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("fresh-{number}") },
            "spec": { "clusterIP": format!("10.96.1.{number}"), "selector": { "app": "backend", "version": "v1" },
                "ports": [{ "port": 80, "targetPort": 8080 }] },
        });
        apply_object(&client, &service);
        let to = at(&format!("10.96.1.{number}:80"));
        ask_tcp(site.host("frontend-app"), to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
    site.at_rest(&[]);
}

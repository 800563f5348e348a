//! Two workers: many flows, each whole on one of them; and what they do when there is nothing to do.

use std::fs;
use std::thread;
use std::time::Duration;

use pollgate::lab::topology::{Network, guide};
use pollgate::lab::traffic::{ask_tcp, connect, greeting};
use pollgate_control::observe::stats::services;

use crate::live::support::{BACKENDS, CLUSTER_IP, LOAD_BALANCER, PATIENCE, Site, apply_object, at, pod};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, IoUring, Lab};
use crate::shared::until;

tests! {
    [Lab] =>
        hundreds_of_connections_at_once_are_shared_by_the_workers,
        short_connections_one_after_the_other_all_succeed,
        no_flow_is_ever_served_by_two_workers,
        the_kernel_learns_of_external_addresses,
        idle_workers_sleep_and_wake_for_the_next_frame;
    [Lab, IoUring] =>
        no_flow_is_ever_served_by_two_workers_over_io_uring;
    [Lab, Bpf] =>
        no_flow_is_ever_served_by_two_workers_over_af_xdp;
}

fn hundreds_of_connections_at_once_are_shared_by_the_workers() {
    use std::io::{Read, Write};
    const EACH: usize = 150;
    let site = Site::new();
    let clients = [
        ("frontend-app", CLUSTER_IP),
        ("frontend-2", "10.96.0.60:7001"),
        ("backend-v2", CLUSTER_IP),
        ("outside-client", "192.168.50.10:30701"),
    ];
    let open = |(from, to): (&str, &str)| {
        let one = |n| {
            let stream = connect(site.host(from), at(to), PATIENCE);
            let stream = stream.unwrap_or_else(|error| panic!("{from} to {to}, number {n}: {error}"));
            let name = greeting(&stream).expect("a greeting");
            assert!(BACKENDS.contains(&name.as_str()), "{name}");
            (stream, name)
        };
        (0..EACH).map(one).collect::<Vec<_>>()
    };
    let open = &open;
    let mut all: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = clients.iter().map(|&client| scope.spawn(move || open(client))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("all connections")).collect()
    });
    // All are open now. Each still reaches the Pod that greeted it.
    for (number, (stream, _)) in all.iter_mut().enumerate() {
        let text = format!("connection {number:5}");
        stream.write_all(text.as_bytes()).expect("sent");
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(back, text.as_bytes());
    }
    let count = all.len();
    let first = all.iter().filter(|(_, name)| name == BACKENDS[0]).count();
    assert!((count / 3..2 * count / 3).contains(&first), "{first} of {count} went to {}", BACKENDS[0]);
    let totals = site.at_rest(&[]);
    assert_eq!(totals.flows_opened, count as u64);
    // Each of the two has a fair share, whatever the kernel made of the frames.
    let opened = site.by_worker(|worker| worker.flows_opened.value());
    assert!(opened.iter().all(|&flows| flows > count as u64 / 4), "flows by worker: {opened:?}");
    // Replies come in by another interface than requests; the kernel's program sends both to the flow's owner. What
    // came while the sockets joined, and ICMP, may still meet the other one.
    println!("{} of {} frames handed over", totals.handed_over, totals.rx);
    assert!(totals.handed_over * 50 < totals.rx, "{} of {} frames", totals.handed_over, totals.rx);
    assert_eq!(totals.handed_over, totals.handed_in);
    drop(all);
    site.at_rest(&[]);
}

fn short_connections_one_after_the_other_all_succeed() {
    let site = Site::new();
    let run = |from: &str, to: &str| {
        for n in 0..500 {
            let name = ask_tcp(site.host(from), at(to), PATIENCE);
            let name = name.unwrap_or_else(|error| panic!("{from} to {to}, number {n}: {error}"));
            assert!(BACKENDS.contains(&name.as_str()), "{name}");
        }
    };
    let run = &run;
    thread::scope(|scope| {
        scope.spawn(move || run("frontend-app", CLUSTER_IP));
        scope.spawn(move || run("outside-client", "192.168.50.10:30701"));
    });
    let totals = site.at_rest(&[]);
    assert_eq!(totals.flows_opened, 1000);
}

fn no_flow_is_ever_served_by_two_workers() {
    each_flow_has_one_worker("packet", 1);
}

fn no_flow_is_ever_served_by_two_workers_over_io_uring() {
    each_flow_has_one_worker("uring", 1);
}

/// A queue a worker; which of them a frame comes in by is the sender's choice, so that many change hands.
fn no_flow_is_ever_served_by_two_workers_over_af_xdp() {
    each_flow_has_one_worker("xdp", 2);
}

/// Thousands of connections while endpoints come and go. A flow that two workers took for theirs would be counted twice.
fn each_flow_has_one_worker(backend: &str, queues: u32) {
    const EACH: u64 = 700;
    let site = Site::polled_by(backend, Network::new(&guide(), queues).expect("a network"));
    let ways = [
        ("frontend-app", CLUSTER_IP, "default/backend-service:api"),
        ("frontend-2", "10.96.0.60:7001", "default/udp:bulk"),
        ("outside-client", LOAD_BALANCER, "default/loadbalancer-service:http"),
        ("outside-client", "192.168.50.10:30701", "default/udp:bulk"),
    ];
    let run = |(from, to, _): (&str, &str, &str)| {
        for n in 0..EACH {
            let name = ask_tcp(site.host(from), at(to), PATIENCE);
            name.unwrap_or_else(|error| panic!("{from} to {to}, number {n}: {error}"));
        }
    };
    let run = &run;
    let changes = thread::scope(|scope| {
        let clients = ways.map(|way| scope.spawn(move || run(way)));
        let mut changes = 0;
        while !clients.iter().all(thread::ScopedJoinHandle::is_finished) {
            let version = if changes % 2 == 0 { "v0" } else { "v1" };
            apply_object(&site.client(), &pod("backend-2", "10.244.2.15", "backend", version));
            changes += 1;
            thread::sleep(Duration::from_millis(5));
        }
        changes
    });
    let totals = site.at_rest(&[]);
    println!("{backend}: {changes} changes; {} of {} frames handed over", totals.handed_over, totals.rx);
    assert!(changes > 20, "only {changes} changes in between");
    let opened = site.by_worker(|worker| worker.flows_opened.value());
    assert_eq!(opened.iter().sum::<u64>(), EACH * ways.len() as u64, "flows by worker: {opened:?}");
    assert!(opened.iter().all(|&flows| flows > EACH), "flows by worker: {opened:?}");
    let reader = site.gateway().source().reader();
    let services = services(site.gateway().counters(), reader.pin().load());
    for (_, _, service) in ways {
        let made = EACH * ways.iter().filter(|way| way.2 == service).count() as u64;
        assert_eq!(services[service].all.flows, made, "{service}: {services:?}");
    }
}

const OUTER: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: outer }
spec:
  clusterIP: 10.96.0.90
  externalIPs: [203.0.113.7]
  selector: { app: backend, version: v1 }
  ports: [{ port: 80 }]
"#;

fn the_kernel_learns_of_external_addresses() {
    const CONNECTIONS: u64 = 200;
    let site = Site::new();
    site.apply(OUTER);
    // A thread of its own tells the kernel; until then, many frames come to a worker that has to hand them over.
    until("the kernel sends the frames to the right worker", || {
        let before = site.at_rest(&[]);
        for n in 0..CONNECTIONS {
            ask_tcp(site.host("frontend-app"), at("203.0.113.7:80"), PATIENCE)
                .unwrap_or_else(|error| panic!("number {n}: {error}"));
        }
        let after = site.at_rest(&[]);
        let (frames, handed) = (after.rx - before.rx, after.handed_over - before.handed_over);
        assert_eq!(after.flows_opened - before.flows_opened, CONNECTIONS);
        println!("{handed} of {frames} frames handed over");
        handed * 50 < frames
    });
}

/// CPU time of each worker of the site so far, in clock ticks (proc_pid_stat(5)). Other tests' workers have the same
/// names: those meant live in this site's namespace.
fn worker_ticks(site: &Site) -> Vec<u64> {
    let net = |path: &str| fs::read_link(path).ok();
    let home = site.network.gateway().run(|| net("/proc/thread-self/ns/net")).expect("a namespace");
    let mut ticks = Vec::new();
    for task in fs::read_dir("/proc/self/task").expect("the threads").flatten() {
        let path = task.path().display().to_string();
        let Ok(stat) = fs::read_to_string(format!("{path}/stat")) else { continue };
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        if name.contains("(worker-") && net(&format!("{path}/ns/net")).as_ref() == Some(&home) {
            let field = |n: usize| rest.split_whitespace().nth(n).and_then(|text| text.parse::<u64>().ok());
            ticks.push(field(11).expect("utime") + field(12).expect("stime"));
        }
    }
    ticks
}

fn idle_workers_sleep_and_wake_for_the_next_frame() {
    let site = Site::new();
    ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE).expect("an answer");
    site.at_rest(&[]);
    let (ticks, sleeps) = (worker_ticks(&site), site.by_worker(|worker| worker.sleeps.value()));
    assert_eq!(ticks.len(), 2, "two workers");
    thread::sleep(Duration::from_secs(1));
    for (worker, after) in worker_ticks(&site).iter().enumerate() {
        let used = after - ticks[worker];
        assert!(used <= 5, "worker {worker} used {used} of 100 ticks with nothing to do");
    }
    until("each worker has slept", || {
        let now = site.by_worker(|worker| worker.sleeps.value());
        now.iter().zip(&sleeps).all(|(now, before)| now > before)
    });
    ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE).expect("an answer");
}

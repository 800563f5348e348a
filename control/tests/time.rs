//! What a request may cost in time: in proportion to what it is about, and to nobody else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::support::Gateway;

mod support;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const APPLY: &str = "/apis/pollgate.io/v1alpha1/apply";

fn service(kind: &str, ports: usize, label: &str) -> Value {
    let ports: Vec<Value> = (1..=ports)
        .map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP", "targetPort": port}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "many", "labels": {"a": label}},
        "spec": {"type": kind, "selector": {"app": "x"}, "ports": ports}})
}

/// The shortest time of a few tries.
fn least(mut run: impl FnMut(usize)) -> Duration {
    let times = (0..3).map(|attempt| {
        let start = Instant::now();
        run(attempt);
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

/// How long a label change of a Service with so many ports takes, by each way of writing it.
fn label_changes(ports: usize) -> Vec<(&'static str, Duration)> {
    let gateway = Gateway::new();
    let code = gateway.request("POST", SERVICES, JSON, service("ClusterIP", ports, "0").to_string().as_bytes());
    assert_eq!(code, 201);
    let endpoint = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"app": "x"}},
        "status": {"podIP": "10.244.0.9", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(gateway.request("POST", "/api/v1/namespaces/default/pods", JSON, endpoint.to_string().as_bytes()), 201);
    let path = format!("{SERVICES}/many");
    let mut times = Vec::new();
    let whole = least(|attempt| {
        let body = service("ClusterIP", ports, &format!("r{attempt}")).to_string();
        assert_eq!(gateway.request("PUT", &path, JSON, body.as_bytes()), 200);
    });
    times.push(("replace", whole));
    for kind in ["merge", "strategic-merge"] {
        let media = format!("application/{kind}-patch+json");
        let patched = least(|attempt| {
            let body = json!({"metadata": {"labels": {"a": format!("{kind}{attempt}")}}}).to_string();
            assert_eq!(gateway.request("PATCH", &path, &media, body.as_bytes()), 200);
        });
        times.push((kind, patched));
    }
    let ports: Vec<Value> =
        (1..=ports / 4).map(|port| json!({"port": port, "protocol": "TCP", "name": format!("q{port}")})).collect();
    let renamed = least(|_| {
        let body = json!({"spec": {"ports": ports}}).to_string();
        let media = "application/strategic-merge-patch+json";
        assert_eq!(gateway.request("PATCH", &path, media, body.as_bytes()), 200);
    });
    times.push(("strategic-merge of a quarter of the ports", renamed));
    drop(gateway.stop());
    times
}

/// On a busy machine one of the two may have been interrupted: what is linear is linear in one of a few attempts, and what is quadratic
/// in none.
#[test]
fn a_change_of_twice_the_ports_takes_about_twice_the_time() {
    let slower = || {
        let (few, many) = (label_changes(2_500), label_changes(10_000));
        let pairs = few.into_iter().zip(many);
        // Quadratic would be sixteen times.
        let slower = pairs.filter(|((_, few), (_, many))| *many >= *few * 9);
        slower.map(|((what, few), (_, many))| format!("{what}: {few:?} became {many:?}")).collect::<Vec<_>>()
    };
    let attempts: Vec<_> = (0..4).map(|_| slower()).take_while(|slower| !slower.is_empty()).collect();
    assert!(attempts.len() < 4, "{attempts:?}");
}

/// Nearly all of these ports get none, and each would search the whole range.
#[test]
fn node_ports_that_are_not_there_are_searched_for_once() {
    let gateway = Gateway::new();
    let time = |ports: usize| {
        least(|_| {
            let body = service("NodePort", ports, "0").to_string();
            assert_eq!(gateway.request("POST", SERVICES, JSON, body.as_bytes()), 422);
        })
    };
    let (few, many) = (time(4_000), time(16_000));
    println!("{few:?}, {many:?} for four times the ports");
    assert!(many < few * 9, "{few:?} became {many:?}");
    drop(gateway.stop());
}

#[test]
fn names_are_generated_for_many_objects_in_proportion() {
    let gateway = Gateway::new();
    let apply = |count: usize, prefix: &str| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": prefix}});
        let body = json!({"apiVersion": "v1", "kind": "List", "items": vec![map; count]}).to_string();
        let start = Instant::now();
        assert_eq!(gateway.request("POST", APPLY, JSON, body.as_bytes()), 200);
        start.elapsed()
    };
    apply(10, "warm-");
    let (few, many) = (apply(1_500, "a-"), apply(6_000, "b-"));
    println!("{few:?}, {many:?} for four times the objects");
    assert!(many < few * 9, "{few:?} became {many:?}");
    drop(gateway.stop());
}

/// A reader on a connection of its own is answered while others' bodies are decoded.
#[test]
fn readers_do_not_wait_for_the_bodies_of_others() {
    let gateway = Gateway::new();
    let large = service("ClusterIP", 30_000, "0").to_string();
    let block = format!("kind: Service\nx:\n{}", "- a\n".repeat(700_000));
    let done = AtomicBool::new(false);
    let (alone, beside) = thread::scope(|scope| {
        let alone = slowest_read(&gateway, 50);
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (gateway, done, large, block) = (&gateway, &done, &large, &block);
                scope.spawn(move || {
                    let mut sent = 0;
                    while !done.load(Relaxed) {
                        // A dry run: only the API has work with it.
                        let path = format!("{SERVICES}?dryRun=All");
                        match writer % 2 {
                            0 => gateway.request("POST", &path, JSON, large.as_bytes()),
                            _ => gateway.request("POST", SERVICES, YAML, block.as_bytes()),
                        };
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        let beside = slowest_read(&gateway, 300);
        done.store(true, Relaxed);
        let sent: usize = writers.into_iter().map(|writer| writer.join().expect("no panic")).sum();
        assert!(sent >= 4, "each writer was at work");
        (alone, beside)
    });
    println!("a read takes at most {alone:?} alone, {beside:?} beside large bodies");
    // One body alone takes longer than that to decode.
    assert!(beside < Duration::from_millis(500), "{beside:?}");
    drop(gateway.stop());
}

/// The longest that one of so many reads took.
fn slowest_read(gateway: &Gateway, reads: usize) -> Duration {
    let mut stream = UnixStream::connect(gateway.socket()).expect("listening");
    let mut buffer = [0; 4096];
    let times = (0..reads).map(|_| {
        let start = Instant::now();
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").expect("open");
        assert!(stream.read(&mut buffer).expect("an answer") > 0);
        start.elapsed()
    });
    times.max().unwrap_or_default()
}

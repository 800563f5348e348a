//! `pollgate trace` of a running gateway: by the worker that has the flow, with its flows as they are.

use std::net::SocketAddr;

use pollgate::lab::traffic::{connect, greeting};
use serde_json::Value;

use crate::live::support::{CLUSTER_IP, GATEWAY, NODE_PORT, PATIENCE, Site, at};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;

tests! {
    [Lab] =>
        connections_are_traced_by_the_worker_that_has_them;
}

fn traced(site: &Site, from: &str, to: &str) -> Value {
    let text = site.cli(&["trace", "--from", from, "--to", to, "-o", "json"]).expect("traced");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn stages(report: &Value) -> Vec<(&str, &str)> {
    let steps = report["steps"].as_array().expect("steps");
    steps
        .iter()
        .map(|step| (step["stage"].as_str().expect("a stage"), step["decision"].as_str().expect("a decision")))
        .collect()
}

fn connections_are_traced_by_the_worker_that_has_them() {
    let site = Site::new();
    let mut workers = [0; 2];
    for round in 0..16 {
        // Pods are not translated, clients from outside are.
        let host = if round % 2 == 0 { "frontend-app" } else { "outside-client" };
        let stream = connect(site.host(host), at(CLUSTER_IP), PATIENCE).expect("a connection");
        greeting(&stream).expect("a greeting");
        let client = stream.local_addr().expect("an address");
        let report = traced(&site, &client.to_string(), CLUSTER_IP);
        let worker = report["worker"].as_u64().expect("a worker");
        workers[usize::try_from(worker).expect("one of two")] += 1;
        let flow = format!("known to worker {worker}, established");
        assert!(stages(&report).contains(&("flow", flow.as_str())), "{report:#}");
        let dumped = site.cli(&[
            "dump",
            "flows",
            "--address",
            &client.ip().to_string(),
            "--port",
            &client.port().to_string(),
            "-o",
            "json",
        ]);
        let dumped: Value = serde_json::from_str(&dumped.expect("dumped")).expect("JSON");
        let flow = &dumped["items"][0];
        assert_eq!((&report["translated"]["to"], &flow["worker"]), (&flow["backend"], &worker.into()), "{report:#}");
        let source: SocketAddr = flow["source"].as_str().expect("a source").parse().expect("an address");
        assert_eq!(report["translated"]["source"], source.ip().to_string(), "{report:#}");
        assert_eq!(report["translated"]["sourcePort"], source.port(), "{report:#}");
        assert_eq!(report["translated"]["snat"], source.ip().to_string() == GATEWAY, "{report:#}");
        // The reply, which knows its worker by the port or the client.
        let reply = traced(&site, flow["backend"].as_str().expect("a backend"), &source.to_string());
        assert_eq!(
            (&reply["worker"], &reply["translated"]["to"]),
            (&worker.into(), &client.to_string().into()),
            "{reply:#}"
        );
    }
    assert!(workers.iter().all(|count| *count > 0), "{workers:?}");
    // A client that has no flow: the worker that would open one decides.
    let report = traced(&site, "192.0.2.7:40000", NODE_PORT);
    assert!(stages(&report).contains(&("flow", "none")), "{report:#}");
    let error = site.cli(&["trace", "--from", "192.0.2.7", "--to", &format!("{GATEWAY}:1")]).expect_err("no such port");
    assert_eq!(error.to_string(), "error: the packet would be dropped: undefined_port");
    let name = site.cli(&["trace", "--dns", "backend-service.default.svc.cluster.local"]).expect("answered");
    assert!(name.ends_with(&format!("\nANSWERED: NOERROR, {}\n", at(CLUSTER_IP).ip())), "{name}");
    site.at_rest(&[]);
}

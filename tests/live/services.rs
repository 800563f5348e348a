//! Each kind of Service, reached in each way it can be.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};

use pollgate::lab::traffic::{ask_dns, ask_http, ask_tcp, ask_udp, connect};
use pollgate_common::reasons::DropReason as Reason;

use crate::live::support::{
    BACKENDS, CLUSTER_IP, DNS, GATEWAY, LOAD_BALANCER, NODE_PORT, PATIENCE, SHORT, Site, UDP, answered_by, at, ip, ping,
};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;

tests! {
    [Lab] =>
        every_kind_of_address_leads_to_the_pods_that_match_and_to_no_others,
        a_pod_reaches_itself_through_its_service,
        datagrams_reach_the_pods_and_answers_come_from_the_address_that_was_asked,
        pods_see_who_asks_unless_the_answer_would_miss_the_gateway,
        names_are_answered_for_pods_and_for_outside,
        what_cannot_be_served_is_refused_at_once_or_dropped_and_counted,
        owned_addresses_answer_echo_requests_and_others_are_the_kernels;
}

fn every_kind_of_address_leads_to_the_pods_that_match_and_to_no_others() {
    let site = Site::new();
    let (pod, outside) = (site.host("frontend-app"), site.host("outside-client"));
    answered_by(40, &BACKENDS, || ask_tcp(pod, at(CLUSTER_IP), PATIENCE));
    answered_by(40, &BACKENDS, || ask_tcp(outside, at(CLUSTER_IP), PATIENCE));
    for from in [pod, outside] {
        answered_by(40, &BACKENDS, || ask_http(from, at(NODE_PORT), "/", PATIENCE));
        answered_by(40, &BACKENDS, || ask_http(from, at(LOAD_BALANCER), "/", PATIENCE));
    }
    let totals = site.at_rest(&[]);
    assert_eq!(totals.flows_opened, 6 * 40, "{}", site.cli(&["stats"]).expect("the counters"));
    assert_eq!(totals.originated, 0);
}

fn a_pod_reaches_itself_through_its_service() {
    let site = Site::new();
    answered_by(40, &BACKENDS, || ask_tcp(site.host("backend-1"), at(CLUSTER_IP), PATIENCE));
    answered_by(40, &BACKENDS, || ask_udp(site.host("backend-2"), at(UDP), "who?", PATIENCE));
    site.at_rest(&[]);
}

fn datagrams_reach_the_pods_and_answers_come_from_the_address_that_was_asked() {
    let site = Site::new();
    // One byte, an odd length, and as much as a frame holds.
    for text in ["?", "odd", &"x".repeat(1472 - "backend-1 ".len())] {
        answered_by(20, &BACKENDS, || ask_udp(site.host("frontend-app"), at(UDP), text, PATIENCE));
        answered_by(20, &BACKENDS, || ask_udp(site.host("outside-client"), at("192.168.50.10:30700"), text, PATIENCE));
    }
    site.at_rest(&[]);
}

/// What address a Pod sees when asked at `to`.
fn seen_by_the_pod(site: &Site, from: &str, to: SocketAddr, listener: &TcpListener) -> io::Result<String> {
    let mut client = connect(site.host(from), to, PATIENCE)?;
    let (mut accepted, peer) = listener.accept()?;
    assert_eq!(client.peer_addr()?, to);
    accepted.write_all(b"seen")?;
    drop(accepted);
    let mut text = String::new();
    client.read_to_string(&mut text)?;
    assert_eq!(text, "seen");
    Ok(peer.ip().to_string())
}

fn pods_see_who_asks_unless_the_answer_would_miss_the_gateway() {
    let site = Site::new();
    site.apply(
        "{ apiVersion: v1, kind: Service, metadata: { name: witness }, spec: { type: LoadBalancer, \
         clusterIP: 10.96.0.61, loadBalancerIP: 192.168.50.205, selector: { app: frontend-app }, \
         ports: [{ port: 9000, nodePort: 30900 }] } }",
    );
    let witness = site.network.host("frontend-app");
    let listener = witness.namespace.run(|| TcpListener::bind((witness.address, 9000))).expect("a listener");
    let cases = [
        ("backend-2", "10.96.0.61:9000", "10.244.2.15", "a Pod at the ClusterIP"),
        ("backend-2", "192.168.50.10:30900", GATEWAY, "a Pod at the node port"),
        ("outside-client", "10.96.0.61:9000", GATEWAY, "outside at the ClusterIP"),
        ("outside-client", "192.168.50.10:30900", GATEWAY, "outside at the node port"),
        ("outside-client", "192.168.50.205:9000", GATEWAY, "outside at the load-balancer address"),
        ("frontend-app", "10.96.0.61:9000", GATEWAY, "the Pod itself"),
    ];
    for (from, to, expected, who) in cases {
        let seen = seen_by_the_pod(&site, from, at(to), &listener);
        assert_eq!(seen.unwrap_or_else(|error| panic!("{who}: {error}")), expected, "{who}");
    }
    site.at_rest(&[]);
}

fn names_are_answered_for_pods_and_for_outside() {
    let site = Site::new();
    for host in ["frontend-app", "outside-client"] {
        let ask = |name| ask_dns(site.host(host), at(DNS), name, PATIENCE).expect("an answer");
        for name in ["backend-service.default.svc.cluster.local", "BackEnd-Service.default.SVC.cluster.local"] {
            let answer = ask(name);
            assert_eq!((answer.rcode, answer.addresses), (0, vec![ip("10.96.0.50")]), "{name}");
        }
        assert_eq!(ask("no-such-service.default.svc.cluster.local").rcode, 3);
    }
    site.cli(&["delete", "service", "backend-service"]).expect("deleted");
    let gone = ask_dns(site.host("frontend-app"), at(DNS), "backend-service.default.svc.cluster.local", PATIENCE);
    assert_eq!(gone.expect("an answer").rcode, 3, "served no longer");
    let totals = site.at_rest(&[]);
    assert_eq!(totals.flows_opened, 0, "answers need no flow");
}

fn what_cannot_be_served_is_refused_at_once_or_dropped_and_counted() {
    let site = Site::new();
    let (pod, outside) = (site.host("frontend-app"), site.host("outside-client"));
    for (to, reason) in [("10.96.0.70:80", "no endpoints"), ("10.96.0.50:81", "no such port")] {
        let error = connect(pod, at(to), PATIENCE).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{reason}");
    }
    let error = ask_udp(pod, at("10.96.0.50:81"), "anybody?", PATIENCE).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "port unreachable");
    for (from, to) in [(outside, "192.168.50.10:31999"), (outside, "192.168.50.200:81"), (pod, "10.96.200.200:80")] {
        let error = connect(from, at(to), SHORT).expect_err("nobody answers");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{to}");
    }
    use Reason::{NoSuchClusterIp, RejectNoEndpoints, RejectUndefinedPort, UndefinedPort};
    let totals = site.at_rest(&[NoSuchClusterIp, RejectNoEndpoints, RejectUndefinedPort, UndefinedPort]);
    // The first question is refused, and not one that is repeated a second later.
    assert_eq!(totals.originated, 3);
    assert_eq!((totals.drops_of(RejectNoEndpoints), totals.drops_of(RejectUndefinedPort)), (1, 2));
    // A SYN may have been repeated before the client gave up.
    assert!(totals.drops_of(UndefinedPort) >= 2 && totals.drops_of(NoSuchClusterIp) >= 1, "{totals:?}");
}

fn owned_addresses_answer_echo_requests_and_others_are_the_kernels() {
    let site = Site::new();
    for from in ["frontend-app", "outside-client"] {
        for owned in [GATEWAY, "10.96.0.50", "192.168.50.200", "10.96.0.10"] {
            ping(site.host(from), ip(owned), PATIENCE).unwrap_or_else(|error| panic!("{from} to {owned}: {error}"));
        }
    }
    let before = site.at_rest(&[]);
    ping(site.host("frontend-app"), ip("10.244.1.1"), PATIENCE).expect("the kernel's own address");
    let after = site.at_rest(&[]);
    assert_eq!(before.tx, after.tx, "the kernel's echo was answered by the kernel");
    ping(site.host("frontend-app"), ip("10.244.2.15"), SHORT).expect_err("nobody forwards from Pod to Pod");
}

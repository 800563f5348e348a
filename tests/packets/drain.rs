//! Endpoints that are on their way out: they keep their flows, and get new ones only if no other is left (K `pkg/proxy/topology.go`,
//! CategorizeEndpoints; KEP-1669). Weight 0 asks for the same at any time, but has no such fall-back.

use std::collections::BTreeSet;

use super::support::builder::{Ip, tcp, udp};
use super::support::lab::{Lab, OUTSIDE, PODS};
use super::support::objects::{echo, endpoints, shop, web};

fn stream(port: u16) -> Ip {
    tcp(&format!("10.244.1.5:{port}"), "10.96.0.50:80")
}

/// The endpoints that new connections are given.
fn chosen(lab: &mut Lab, ports: std::ops::Range<u16>) -> BTreeSet<String> {
    ports.map(|port| lab.through(PODS, stream(port), PODS).dst().ip().to_string()).collect()
}

fn set(addresses: &[&str]) -> BTreeSet<String> {
    addresses.iter().map(|&address| address.to_owned()).collect()
}

#[test]
fn a_terminating_endpoint_keeps_its_flows_and_gets_new_ones_only_as_the_last() {
    let mut lab = Lab::new(&web(&["10.244.1.10", "10.244.1.11"]));
    let before: Vec<_> = (40_000..40_020).map(|port| lab.through(PODS, stream(port), PODS).dst()).collect();
    assert_eq!(before.iter().map(|to| to.ip().to_string()).collect::<BTreeSet<_>>().len(), 2);
    lab.apply(&endpoints("web", "TCP", 8080, &["10.244.1.10~", "10.244.1.11"]));
    assert_eq!(chosen(&mut lab, 41_000..41_020), set(&["10.244.1.11"]), "one that is ready is left");
    for (port, there) in (40_000..40_020).zip(&before) {
        assert_eq!(lab.through(PODS, stream(port).flags("A"), PODS).dst(), *there, "its flows stay");
        let back = lab.through(PODS, tcp(&there.to_string(), &format!("10.244.1.5:{port}")).flags("SA"), PODS);
        assert_eq!(back.src().to_string(), "10.96.0.50:80");
    }
    lab.apply(&endpoints("web", "TCP", 8080, &["10.244.1.10~", "10.244.1.11~"]));
    assert_eq!(chosen(&mut lab, 42_000..42_020), set(&["10.244.1.10", "10.244.1.11"]), "all are terminating");
    lab.apply(&endpoints("web", "TCP", 8080, &["10.244.1.10~"]));
    assert_eq!(chosen(&mut lab, 43_000..43_020), set(&["10.244.1.10"]));
    let flows = [("flows_opened", 80), ("flows_live", 80), ("flows_half_open", 80)];
    lab.counters(&[&[("rx", 120), ("tx", 120)], &flows[..]].concat());
}

#[test]
fn datagram_flows_stay_with_a_terminating_endpoint_that_serves() {
    let mut lab = Lab::new(&echo(&["10.244.1.10", "10.244.1.11"]));
    let send =
        |lab: &mut Lab, port: u16| lab.through(PODS, udp(&format!("10.244.1.5:{port}"), "10.96.0.60:7"), PODS).dst();
    let before: Vec<_> = (40_000..40_020).map(|port| send(&mut lab, port)).collect();
    lab.apply(&endpoints("echo", "UDP", 7007, &["10.244.1.10~", "10.244.1.11"]));
    let after: Vec<_> = (40_000..40_020).map(|port| send(&mut lab, port)).collect();
    assert_eq!(before, after);
    let flows = [("flows_opened", 20), ("flows_live", 20), ("flows_half_open", 20)];
    lab.counters(&[&[("rx", 40), ("tx", 40)], &flows[..]].concat());
}

#[test]
fn the_local_set_falls_back_by_itself() {
    let local = ", externalTrafficPolicy: Local";
    let mut lab = Lab::configured("node: node-1\n", &shop(local, &["10.244.1.10@node-1~", "10.244.2.15@node-2"]));
    let outside = lab.through(OUTSIDE, tcp("192.168.50.100:50000", "203.0.113.7:80"), PODS);
    assert_eq!(outside.dst().ip().to_string(), "10.244.1.10", "terminating, but the only local one");
    let inside = lab.through(PODS, tcp("10.244.1.5:50000", "10.96.0.70:80"), PODS);
    assert_eq!(inside.dst().ip().to_string(), "10.244.2.15", "the cluster has one that is ready");
    let flows = [("flows_opened", 2), ("flows_live", 2), ("flows_half_open", 2)];
    lab.counters(&[&[("rx", 2), ("tx", 2)], &flows[..]].concat());
}

#[test]
fn an_endpoint_of_weight_0_keeps_its_flows_and_gets_no_new_ones() {
    let slice = |number: u8, weight: &str| {
        endpoints("web", "TCP", 8080, &[&format!("10.244.1.{number}")]).replace(
            "name: web-1,",
            &format!("name: web-{number}, annotations: {{service.cilium.io/weight: \"{weight}\"}},"),
        )
    };
    let mut lab = Lab::new(&(web(&[]) + &slice(10, "100") + &slice(11, "300")));
    let count = |lab: &mut Lab, first: u16| {
        let all = (0..1000).map(|port| lab.through(PODS, stream(first + port), PODS).dst().ip().to_string());
        all.filter(|to| to == "10.244.1.10").count()
    };
    let quarter = count(&mut lab, 10_000);
    assert!((200..300).contains(&quarter), "{quarter} of 1000 are one quarter");
    lab.apply(&slice(11, "0"));
    assert_eq!(count(&mut lab, 20_000), 1000);
    let there = (10_000..11_000).map(|port| lab.through(PODS, stream(port).flags("A"), PODS).dst().ip().to_string());
    assert_eq!(there.filter(|to| to == "10.244.1.11").count(), 1000 - quarter, "flows stay");
    lab.apply(&slice(10, "0"));
    lab.send(PODS, stream(30_000));
    let reset = lab.take(PODS);
    assert!(reset.len() == 1 && reset[0].tcp().rst, "no endpoint takes new connections");
    let flows = [("flows_opened", 2000), ("flows_live", 2000), ("flows_half_open", 2000)];
    let refused = [("originated", 1), ("reject_no_endpoints", 1)];
    lab.counters(&[&[("rx", 3001), ("tx", 3001)], &flows[..], &refused[..]].concat());
}

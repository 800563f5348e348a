//! A port that is replaced while its worker runs: the interface was deleted and created again, or has a larger MTU. No frame is lost that the
//! worker had, no buffer goes astray, and flows do not notice (`dataplane/src/egress/exchange.rs`).

use pollgate_common::net::Mac;

use super::support::builder::{Ip, ip, mac_of, tcp};
use super::support::lab::{Lab, OUTSIDE, PODS};
use super::support::objects::{shop, web};

fn client() -> Ip {
    tcp("192.168.50.100:50000", "203.0.113.7:80")
}

/// A connection from outside whose client is seen by its own address.
fn connected() -> Lab {
    let mut lab = Lab::configured("node: node-1\n", &shop(", externalTrafficPolicy: Local", &["10.244.1.10@node-1"]));
    lab.through(OUTSIDE, client(), PODS);
    lab
}

fn reply() -> Ip {
    tcp("10.244.1.10:8080", "192.168.50.100:50000").flags("SA")
}

const FLOW: [(&str, u64); 2] = [("flows_opened", 1), ("flows_live", 1)];

#[test]
fn what_a_port_has_received_is_processed_before_it_is_closed() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    for port in 40_000..40_100u16 {
        lab.push(0, PODS, tcp(&format!("10.244.1.5:{port}"), "10.96.0.50:80"));
    }
    lab.close(PODS);
    // The frames were to leave by the port that they came by, and did.
    for _ in 40_000..40_100u16 {
        lab.expect(PODS);
    }
    assert!(lab.has_returned(), "with every buffer");
    let flows = [("flows_opened", 100), ("flows_live", 100), ("flows_half_open", 100)];
    lab.counters(&[&[("rx", 100), ("tx", 100)], &flows[..]].concat());
}

#[test]
fn frames_to_a_closed_port_are_dropped_and_its_flows_go_on_by_the_next_one() {
    let mut lab = connected();
    lab.close(OUTSIDE);
    assert!(lab.has_returned());
    lab.send(PODS, reply());
    lab.counters(&[&[("rx", 2), ("tx", 1), ("tx_closed", 1), ("flows_half_open", 1)], &FLOW[..]].concat());
    lab.open(OUTSIDE);
    assert!(lab.has_returned(), "what stood in for it");
    assert_eq!(
        lab.through(PODS, reply(), OUTSIDE).src().to_string(),
        "203.0.113.7:80",
        "a segment that was sent again"
    );
    assert_eq!(lab.through(OUTSIDE, client().flags("A"), PODS).dst().to_string(), "10.244.1.10:8080");
    lab.counters(&[&[("rx", 4), ("tx", 3), ("tx_closed", 1)], &FLOW[..]].concat());
}

#[test]
fn a_port_may_be_closed_and_opened_between_any_two_frames() {
    let mut lab = connected();
    for port in [PODS, OUTSIDE, PODS, OUTSIDE] {
        lab.close(port);
        assert!(lab.has_returned());
        lab.open(port);
        assert!(lab.has_returned());
        lab.through(PODS, reply(), OUTSIDE);
        lab.through(OUTSIDE, client().flags("A"), PODS);
    }
    lab.counters(&[&[("rx", 9), ("tx", 9)], &FLOW[..]].concat());
}

#[test]
fn frames_that_wait_for_a_neighbour_leave_by_the_port_that_has_come_meanwhile() {
    const STRANGER: &str = "10.244.3.3";
    let mut lab = Lab::new(&web(&[STRANGER]));
    lab.send(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80"));
    lab.close(PODS);
    assert!(lab.has_returned(), "a frame that waits has no buffer of the port");
    let flows = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];
    lab.counters(&[&[("rx", 1), ("held", 1)], &flows[..]].concat());
    lab.open(PODS);
    let address = ip(STRANGER);
    lab.network(|facts| facts.neighbours.push((2, address.into(), Mac(mac_of(address)))));
    assert_eq!(lab.expect(PODS).dst().to_string(), "10.244.3.3:8080");
    lab.counters(&[&[("rx", 1), ("tx", 1)], &flows[..]].concat());
}

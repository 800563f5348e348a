//! Next hops: missing ones are asked for while a few frames wait; routes, links and MACs are followed as they change.

use std::net::IpAddr;
use std::time::Duration;

use pollgate_common::net::{Facts, Link, Mac, Route};

use super::support::builder::{ip, mac_of, tcp};
use super::support::family::HEADER;
use super::support::lab::{Lab, PODS};
use super::support::objects::web;

/// A drop reason, and the change of the network that leads to it.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Facts));

/// An endpoint whose MAC nobody has told.
const STRANGER: &str = "10.244.3.3";
/// The interface index of the port towards the Pods.
const LINK: u32 = 2;

fn syn(port: u16) -> super::support::builder::Ip {
    tcp(&format!("10.244.1.5:{port}"), "10.96.0.50:80")
}

fn appears(address: &str) -> impl FnOnce(&mut Facts) {
    let address = ip(address);
    move |facts| facts.neighbours.push((LINK, address.into(), Mac(mac_of(address))))
}

fn flows(count: u64) -> [(&'static str, u64); 3] {
    [("flows_opened", count), ("flows_live", count), ("flows_half_open", count)]
}

#[test]
fn frames_wait_for_a_neighbour_that_is_asked_for_once_and_go_in_order() {
    let mut lab = Lab::new(&web(&[STRANGER]));
    (40000..40003).for_each(|port| lab.send(PODS, syn(port)));
    assert_eq!(lab.asked(), [IpAddr::V4(ip(STRANGER))]);
    lab.counters(&[&[("rx", 3), ("held", 3)], &flows(3)[..]].concat());
    lab.network(appears(STRANGER));
    for port in 40000..40003 {
        assert_eq!(lab.expect(PODS).to_string(), format!("tcp 10.244.1.5:{port} > 10.244.3.3:8080 S ttl 63"));
    }
    lab.send(PODS, syn(40000));
    lab.expect(PODS);
    lab.counters(&[&[("rx", 4), ("tx", 4)], &flows(3)[..]].concat());
    assert!(lab.asked().is_empty());
}

#[test]
fn news_of_others_leaves_them_waiting() {
    let mut lab = Lab::new(&web(&[STRANGER]));
    lab.send(PODS, syn(40000));
    lab.network(appears("10.244.3.4"));
    lab.counters(&[&[("rx", 1), ("held", 1)], &flows(1)[..]].concat());
}

#[test]
fn a_neighbour_that_does_not_answer_is_asked_again_each_second_and_once_however_many_wait() {
    let mut lab = Lab::new(&web(&[STRANGER]));
    lab.send_all(PODS, (0..10).map(|n| syn(40000 + n)));
    assert_eq!(lab.asked().len(), 1);
    for tenth in 1..=29 {
        lab.wait(Duration::from_millis(100));
        let due = [11, 22].contains(&tenth);
        assert_eq!(lab.asked().len(), usize::from(due), "after {tenth} tenths of a second");
    }
    lab.counters(&[&[("rx", 10), ("held", 10)], &flows(10)[..]].concat());
}

#[test]
fn after_three_seconds_the_wait_is_over_and_the_next_frame_asks_again() {
    let mut lab = Lab::new(&web(&[STRANGER]));
    lab.send(PODS, syn(40000));
    lab.wait(Duration::from_secs(3));
    lab.counters(&[&[("rx", 1), ("held", 1)], &flows(1)[..]].concat());
    lab.wait(Duration::from_millis(1));
    lab.counters(&[&[("rx", 1), ("neighbour_unresolved", 1)], &flows(1)[..]].concat());
    lab.asked();
    lab.send(PODS, syn(40000));
    assert_eq!(lab.asked().len(), 1);
    lab.counters(&[&[("rx", 2), ("held", 1), ("neighbour_unresolved", 1)], &flows(1)[..]].concat());
}

#[test]
fn few_frames_wait_for_one_neighbour() {
    let mut lab = Lab::new(&web(&[STRANGER]));
    lab.send_all(PODS, (0..20).map(|n| syn(40000 + n)));
    lab.counters(&[&[("rx", 20), ("held", 16), ("neighbour_queue_full", 4)], &flows(20)[..]].concat());
    lab.network(appears(STRANGER));
    assert_eq!(lab.take(PODS).len(), 16);
    lab.counters(&[&[("rx", 20), ("tx", 16), ("neighbour_queue_full", 4)], &flows(20)[..]].concat());
}

#[test]
fn not_many_frames_wait_in_all() {
    let strangers: Vec<String> = (1..=40).map(|n| format!("10.244.3.{n}")).collect();
    let mut lab = Lab::new(&web(&strangers.iter().map(String::as_str).collect::<Vec<_>>()));
    lab.send_all(PODS, (0..200).map(|n| syn(40000 + n)));
    lab.counters(&[&[("rx", 200), ("held", 128), ("neighbour_queue_full", 72)], &flows(200)[..]].concat());
    assert!(lab.asked().len() >= 40);
    lab.wait(Duration::from_secs(4));
    let lost = [("neighbour_unresolved", 128), ("neighbour_queue_full", 72)];
    lab.counters(&[&[("rx", 200)], &lost[..], &flows(200)].concat());
}

#[test]
fn a_frame_too_long_for_the_link_is_so_after_waiting_too() {
    let mut lab = Lab::new(&web(&[STRANGER]));
    lab.send(PODS, syn(40000).flags("A").payload(vec![0; 1481 - HEADER]));
    lab.send(PODS, syn(40000).flags("A").payload(vec![0; 20_000]).gso(1428));
    lab.network(appears(STRANGER));
    assert_eq!(lab.expect(PODS).payload.len(), 20_000);
    lab.counters(&[&[("rx", 2), ("tx", 1), ("tx_too_long", 1)], &flows(1)[..]].concat());
}

#[test]
fn without_a_way_a_frame_is_dropped_for_what_is_missing() {
    let host = || "10.244.3.3/32".parse().expect("a prefix");
    let unpolled = |facts: &mut Facts| {
        let link = Link {
            index: 9,
            name: "eth9".into(),
            port: None,
            mac: Mac([9; 6]),
            mtu: 1500,
            up: true,
            ups: 1,
            deletions: 0,
        };
        facts.links.push(link);
        facts.routes.push(Route { to: host(), via: None, link: 9, metric: 0 });
    };
    let down = |facts: &mut Facts| facts.links[PODS].up = false;
    let nowhere = |facts: &mut Facts| facts.routes.clear();
    let cases: [Case<'_>; 3] = [("unpolled_interface", &unpolled), ("link_down", &down), ("no_route", &nowhere)];
    for (reason, change) in cases {
        // Before the first frame.
        let mut lab = Lab::new(&web(&[STRANGER]));
        lab.network(change);
        lab.send(PODS, syn(40000));
        lab.counters(&[&[("rx", 1), (reason, 1)], &flows(1)[..]].concat());
        // While a frame waits.
        let mut lab = Lab::new(&web(&[STRANGER]));
        lab.send(PODS, syn(40000));
        lab.network(change);
        lab.counters(&[&[("rx", 1), (reason, 1)], &flows(1)[..]].concat());
    }
}

#[test]
fn a_new_mac_or_route_reaches_an_established_flow_with_its_next_packet() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    lab.through(PODS, syn(40000), PODS);
    lab.through(PODS, tcp("10.244.1.10:8080", "10.244.1.5:40000").flags("SA"), PODS);
    let target = IpAddr::V4(ip("10.244.1.10"));
    lab.network(|facts| {
        let entry = facts.neighbours.iter_mut().find(|(_, address, _)| *address == target).expect("known");
        entry.2 = Mac([2, 0, 0, 0, 0, 0x99]);
    });
    lab.send(PODS, syn(40000).flags("A"));
    assert_eq!(lab.pop(PODS).expect("sent").bytes[..6], [2, 0, 0, 0, 0, 0x99]);
    // Now by the other interface's router.
    lab.network(|facts| {
        let (to, via) = ("10.244.1.10/32".parse().expect("a prefix"), Some(IpAddr::V4(ip("192.168.50.1"))));
        facts.routes.push(Route { to, via, link: 1, metric: 0 });
    });
    lab.send(PODS, syn(40000).flags("A"));
    assert_eq!(lab.pop(0).expect("sent").bytes[..6], mac_of(ip("192.168.50.1")));
    lab.counters(&[("rx", 4), ("tx", 4), ("flows_opened", 1), ("flows_live", 1)]);
}

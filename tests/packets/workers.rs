//! Two workers: both directions of a flow meet on one, whichever worker's port they come in by.

use std::collections::BTreeSet;

use super::support::builder::{at, tcp, udp};
use super::support::family::ECHO_REQUEST;
use super::support::lab::{Lab, OUTSIDE, PODS, Setup};
use super::support::objects::{echo, endpoints, service, shop, web};

fn two(manifests: &str) -> Lab {
    Lab::with(Setup { workers: 2, ..Setup::default() }, manifests)
}

/// Every counter that says what happened to flows is the same as if one worker had done it all.
fn finish(mut lab: Lab, packets: u64, flows: u64) {
    let totals = lab.totals();
    assert!(totals.handed_over > packets / 4, "{} of {packets} handed over", totals.handed_over);
    assert_eq!(totals.handed_over, totals.handed_in);
    for worker in 0..2 {
        let share = lab.totals_of(worker).flows_live;
        assert!(share > flows / 4, "worker {worker} has {share} of {flows} flows");
    }
    let handed = [("handed_over", totals.handed_over), ("handed_in", totals.handed_in)];
    // As many flows as connections: none is in two tables.
    let flows = [("flows_opened", flows), ("flows_live", flows)];
    lab.counters(&[&[("rx", packets), ("tx", packets)], &handed[..], &flows].concat());
}

#[test]
fn untranslated_sources_meet_their_replies() {
    let mut lab = two(&format!("{}{}", web(&["10.244.1.10", "10.244.1.11"]), echo(&["10.244.1.12"])));
    for n in 0..100u16 {
        let client = format!("10.244.1.5:{}", 40000 + n);
        for worker in 0..4 {
            lab.push(worker % 2, PODS, tcp(&client, "10.96.0.50:80").flags(if worker == 0 { "S" } else { "A" }));
            lab.run();
            let there = lab.expect(PODS).dst();
            lab.push(worker / 2, PODS, tcp(&there.to_string(), &client).flags("SA"));
            lab.run();
            assert_eq!(lab.expect(PODS).to_string(), format!("tcp 10.96.0.50:80 > {client} SA ttl 63"));
        }
        lab.push(usize::from(n % 2), PODS, udp(&client, "10.96.0.60:7"));
        lab.run();
        let there = lab.expect(PODS).dst();
        lab.push(usize::from(n / 2 % 2), PODS, udp(&there.to_string(), &client));
        lab.run();
        assert_eq!(lab.expect(PODS).src(), at("10.96.0.60:7"));
        lab.push(usize::from(n % 2), PODS, udp(&client, "10.96.0.60:7"));
        lab.run();
        lab.expect(PODS);
    }
    finish(lab, 1100, 200);
}

#[test]
fn translated_sources_meet_their_replies_by_their_port() {
    let mut lab = two(&shop("", &["10.244.1.10", "10.244.1.11"]));
    let mut ports = [BTreeSet::new(), BTreeSet::new()];
    for n in 0..100u16 {
        let client = format!("192.168.50.100:{}", 40000 + n);
        for (vip, worker) in [("203.0.113.7:80", 0), ("192.168.50.10:30080", 1)] {
            lab.push(worker, OUTSIDE, tcp(&client, vip));
            lab.run();
            let there = lab.expect(PODS);
            ports[usize::from(there.src().port() % 2)].insert(there.src().port());
            lab.push(1 - usize::from(n % 2), PODS, tcp(&there.dst().to_string(), &there.src().to_string()).flags("SA"));
            lab.run();
            assert_eq!(lab.expect(OUTSIDE).to_string(), format!("tcp {vip} > {client} SA ttl 63"));
            lab.push(worker, OUTSIDE, tcp(&client, vip).flags("A"));
            lab.run();
            lab.expect(PODS);
        }
    }
    assert!(ports.iter().all(|share| share.len() > 20), "both shares of the ports are used: {ports:?}");
    finish(lab, 600, 200);
}

#[test]
fn an_external_ip_that_is_a_gateway_address_is_no_port_for_sources() {
    let spec = "clusterIP: 10.96.0.80, externalIPs: [192.168.50.10], externalTrafficPolicy: Local, \
                ports: [{ port: 5000, targetPort: 8080 }]";
    let mut lab = two(&format!("{}{}", service("edge", spec), endpoints("edge", "TCP", 8080, &["10.244.1.10"])));
    for n in 0..100u16 {
        let client = format!("192.168.50.100:{}", 40000 + n);
        lab.push(usize::from(n % 2), OUTSIDE, tcp(&client, "192.168.50.10:5000"));
        lab.run();
        assert_eq!(lab.expect(PODS).to_string(), format!("tcp {client} > 10.244.1.10:8080 S ttl 63"));
        lab.push(usize::from(n / 2 % 2), PODS, tcp("10.244.1.10:8080", &client).flags("SA"));
        lab.run();
        assert_eq!(lab.expect(OUTSIDE).to_string(), format!("tcp 192.168.50.10:5000 > {client} SA ttl 63"));
        lab.push(usize::from(n % 2), OUTSIDE, tcp(&client, "192.168.50.10:5000").flags("A"));
        lab.run();
        lab.expect(PODS);
    }
    finish(lab, 300, 100);
}

#[test]
fn what_needs_no_flow_is_done_where_it_arrives() {
    let mut lab = two(&web(&["10.244.1.10"]));
    for worker in 0..2 {
        lab.push(worker, PODS, super::support::builder::icmp("10.244.1.5", "10.96.0.50", ECHO_REQUEST, 0, [0; 4]));
        lab.run();
        lab.expect(PODS);
        assert_eq!((lab.totals_of(worker).rx, lab.totals_of(worker).tx), (1, 1));
    }
    lab.counters(&[("rx", 2), ("tx", 2)]);
}

#[test]
fn what_is_nobodys_is_passed_once_wherever_it_arrives() {
    let mut lab = two(&web(&["10.244.1.10"]));
    for n in 0..40 {
        lab.push(n % 2, PODS, tcp(&format!("10.244.1.10:{}", 8080 + n), "192.168.50.100:40000"));
        lab.push(n % 2, PODS, tcp(&format!("10.244.1.5:{}", 8080 + n), "192.168.50.10:9999"));
    }
    lab.run();
    let handed = lab.totals().handed_over;
    assert!(handed > 20);
    let all = [("rx", 80), ("not_owned", 40), ("stale_reply", 40), ("handed_over", handed), ("handed_in", handed)];
    lab.counters(&all);
}

#[test]
fn a_worker_that_does_not_keep_up_costs_frames_and_they_are_counted() {
    let mut lab = two(&web(&["10.244.1.10"]));
    (0..2000).for_each(|n| lab.push(0, PODS, tcp(&format!("10.244.1.5:{}", 20000 + n), "10.96.0.50:80")));
    while lab.poll(0) > 0 {}
    let at_rest = lab.totals();
    assert_eq!((at_rest.rx, at_rest.handed_over, at_rest.waiting()), (2000, 512, 512), "what the ring holds");
    let full = at_rest.drops_of(pollgate_common::reasons::DropReason::HandoverFull);
    assert_eq!(at_rest.tx + full + 512, 2000);
    assert!(full > 200);
    lab.balance();
    lab.run();
    let sent = lab.take(PODS).len() as u64;
    let shed = lab.totals().drops_of(pollgate_common::reasons::DropReason::Overload);
    assert!((64..=128).contains(&shed), "while its queue is nearly full: {shed}");
    assert_eq!(sent + full + shed, 2000);
    let handed = [("handed_over", 512), ("handed_in", 512), ("handover_full", full), ("overload", shed)];
    let flows = [("flows_opened", sent), ("flows_live", sent), ("flows_half_open", sent)];
    lab.counters(&[&[("rx", 2000), ("tx", sent)], &handed[..], &flows].concat());
}

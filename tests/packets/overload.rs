//! Overload: what a worker sheds when its receive ring fills up, and what it never sheds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollgate_common::reasons::DropReason;
use pollgate_dataplane::port::{BURST, Backlog};

use super::support::builder::{Ip, tcp, udp};
use super::support::faulty::Backlogged;
use super::support::lab::{Lab, PODS, Setup};
use super::support::objects::{echo, web};
use super::support::pieces::cut;

const CLIENT: &str = "10.244.1.5:40000";
const WEB: &str = "10.96.0.50:80";
const ECHO: &str = "10.96.0.60:7";

/// A gateway whose ports report this backlog behind each full burst.
fn lab(workers: u16) -> (Lab, Arc<Mutex<Backlog>>) {
    let backlog = Arc::new(Mutex::new(Backlog::Little));
    let shared = Arc::clone(&backlog);
    let wrap = move |_, inner| Box::new(Backlogged { inner, backlog: Arc::clone(&shared) }) as Box<_>;
    let setup = Setup { wrap: Box::new(wrap), workers, ..Setup::default() };
    (Lab::with(setup, &[web(&["10.244.1.10"]), echo(&["10.244.1.10"])].concat()), backlog)
}

fn set(backlog: &Mutex<Backlog>, to: Backlog) {
    *backlog.lock().expect("not poisoned") = to;
}

/// SYNs from so many ports, from this one on.
fn new_clients(first: usize, count: usize) -> impl Iterator<Item = Ip> {
    (first..first + count).map(|port| tcp(&format!("10.244.1.6:{port}"), WEB))
}

/// A connection of `CLIENT` that both sides have confirmed.
fn establish(lab: &mut Lab) {
    lab.through(PODS, tcp(CLIENT, WEB), PODS);
    lab.through(PODS, tcp("10.244.1.10:8080", CLIENT).flags("SA"), PODS);
    lab.through(PODS, tcp(CLIENT, WEB).flags("A"), PODS);
}

#[test]
fn known_flows_and_what_opens_none_go_before_new_ones() {
    let (mut lab, backlog) = lab(1);
    establish(&mut lab);
    lab.through(PODS, udp(CLIENT, ECHO), PODS);
    set(&backlog, Backlog::Large);
    let known = [
        tcp(CLIENT, WEB).flags("PA").payload("request"),
        tcp("10.244.1.10:8080", CLIENT).flags("PA").payload("response"),
        udp(CLIENT, ECHO).payload("datagram"),
        udp("10.244.1.10:7007", CLIENT).payload("reply"),
        // Not pollgate's: the kernel has its own copy.
        udp("10.244.1.10:7007", "10.244.1.5:40001"),
    ];
    let burst = known.into_iter().chain(new_clients(1024, BURST - 5));
    lab.send_all(PODS, burst);
    let payloads: Vec<_> = lab.take(PODS).into_iter().map(|seen| seen.payload).collect();
    assert_eq!(payloads, [&b"request"[..], b"response", b"datagram", b"reply"]);
    lab.counters(&[
        ("rx", 68),
        ("tx", 8),
        ("not_owned", 1),
        ("overload", 59),
        ("flows_opened", 2),
        ("flows_live", 2),
        ("flows_half_open", 1),
    ]);
}

#[test]
fn new_flows_open_again_as_soon_as_the_backlog_is_gone() {
    let (mut lab, backlog) = lab(1);
    set(&backlog, Backlog::Large);
    lab.send_all(PODS, new_clients(1024, BURST));
    lab.wait(Duration::from_secs(1));
    set(&backlog, Backlog::Little);
    lab.send_all(PODS, new_clients(2048, BURST));
    assert_eq!(lab.take(PODS).len(), BURST);
    lab.counters(&[
        ("rx", 128),
        ("tx", 64),
        ("overload", 64),
        ("flows_opened", 64),
        ("flows_live", 64),
        ("flows_half_open", 64),
    ]);
}

#[test]
fn a_backlog_that_stays_sheds_more_with_each_millisecond() {
    let (mut lab, backlog) = lab(1);
    set(&backlog, Backlog::Standing);
    let mut opened = Vec::new();
    for millisecond in 0..60 {
        lab.jump(Duration::from_millis(1));
        new_clients(1024 + millisecond * BURST, BURST).for_each(|client| lab.push(0, PODS, client));
        lab.poll(0);
        opened.push(lab.take(PODS).len());
    }
    let sum = |part: std::ops::Range<usize>| opened[part].iter().sum::<usize>();
    assert_eq!(sum(0..5), 5 * BURST, "a pause of some milliseconds sheds nothing: {opened:?}");
    let tenths = [sum(5..15), sum(25..35), sum(45..55)];
    assert!(tenths[0] > 10 * BURST * 3 / 4, "{opened:?}");
    assert!((10 * BURST / 3..10 * BURST * 2 / 3).contains(&tenths[1]), "{opened:?}");
    assert!(tenths[2] < 10 * BURST / 4 && sum(56..60) == 0, "{opened:?}");
    let all = sum(0..60) as u64;
    lab.counters(&[
        ("rx", 60 * BURST as u64),
        ("tx", all),
        ("overload", 60 * BURST as u64 - all),
        ("flows_opened", all),
        ("flows_live", all),
        ("flows_half_open", all),
    ]);
}

#[test]
fn a_flood_of_datagrams_leaves_new_connections_alone() {
    let (mut lab, backlog) = lab(1);
    set(&backlog, Backlog::Large);
    let datagrams = |first: usize| (first..first + BURST - 1).map(|port| udp(&format!("10.244.1.7:{port}"), ECHO));
    // What comes is judged by what came before.
    lab.send_all(PODS, datagrams(1024).chain([udp("10.244.1.7:9", ECHO)]));
    for n in 0..20 {
        let one = new_clients(1024 + n, 1);
        lab.send_all(PODS, datagrams(2048 + n * BURST).chain(one));
    }
    let connections = lab.take(PODS);
    assert!(connections.iter().all(|seen| seen.src().port() < 1100), "no datagram");
    let opened = connections.len() as u64;
    assert!(opened >= 18, "{opened} of 20 connections");
    lab.counters(&[
        ("rx", 21 * BURST as u64),
        ("tx", opened),
        ("overload", 21 * BURST as u64 - opened),
        ("flows_opened", opened),
        ("flows_live", opened),
        ("flows_half_open", opened),
    ]);
}

#[test]
fn fragments_of_known_flows_go_on_and_those_that_would_wait_do_not() {
    let (mut lab, backlog) = lab(1);
    lab.through(PODS, udp(CLIENT, ECHO), PODS);
    set(&backlog, Backlog::Large);
    let known = cut(&udp(CLIENT, ECHO).payload(vec![7; 70]), 1, 48);
    let unknown = (2..).map(|id| cut(&udp("10.244.1.7:9", ECHO).payload(vec![7; 70]), id, 48).remove(1));
    lab.send_all(PODS, known.into_iter().chain(unknown).take(BURST));
    assert!(lab.pop(PODS).is_some() && lab.pop(PODS).is_some());
    lab.counters(&[
        ("rx", 65),
        ("tx", 3),
        ("overload", 62),
        ("flows_opened", 1),
        ("flows_live", 1),
        ("flows_half_open", 1),
    ]);
}

#[test]
fn what_another_worker_may_know_is_handed_over_and_not_shed() {
    let (mut lab, backlog) = lab(2);
    set(&backlog, Backlog::Large);
    for client in new_clients(1024, BURST) {
        lab.push(0, PODS, client);
    }
    lab.poll(0);
    let handed = lab.totals_of(1);
    let shed = lab.totals().drops_of(DropReason::Overload);
    assert!(handed.rx == 0 && (16..48).contains(&shed), "half of them are the other worker's: {shed}");
    lab.run();
    let opened = BURST as u64 - shed;
    assert_eq!(lab.take(PODS).len() as u64, opened);
    lab.counters(&[
        ("rx", BURST as u64),
        ("tx", opened),
        ("overload", shed),
        ("handed_over", opened),
        ("handed_in", opened),
        ("flows_opened", opened),
        ("flows_live", opened),
        ("flows_half_open", opened),
    ]);
}

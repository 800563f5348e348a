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

/// The counters after so many received and sent frames and opened flows. All others were shed.
fn counters(lab: &mut Lab, [rx, tx, opened, half_open]: [u64; 4], more: &[(&str, u64)]) {
    let ends = ["not_owned", "held", "fragments_full"];
    let others: u64 = more.iter().filter(|(name, _)| ends.contains(name)).map(|(_, count)| count).sum();
    let flows = [("flows_opened", opened), ("flows_live", opened), ("flows_half_open", half_open)];
    lab.counters(&[&[("rx", rx), ("tx", tx), ("overload", rx - tx - others)], &flows[..], more].concat());
}

const BURSTS: usize = 40;
const ALL: u64 = (BURSTS * BURST) as u64;

/// Sends bursts, each at once, and returns how many packets have left.
fn bursts(lab: &mut Lab, burst: impl Fn(usize) -> Vec<Ip>) -> u64 {
    let mut left = 0;
    for n in 0..BURSTS {
        let packets = burst(n);
        assert_eq!(packets.len(), BURST);
        lab.send_all(PODS, packets);
        left += std::iter::from_fn(|| lab.pop(PODS)).count() as u64;
    }
    left
}

fn port(n: usize, at: usize) -> usize {
    1024 + n * BURST + at
}

#[test]
fn known_flows_and_what_opens_none_go_before_new_ones() {
    let (mut lab, backlog) = lab(1);
    establish(&mut lab);
    lab.through(PODS, udp(CLIENT, ECHO), PODS);
    set(&backlog, Backlog::Large);
    let left = bursts(&mut lab, |n| {
        let known = [
            tcp(CLIENT, WEB).flags("PA").payload("request"),
            tcp("10.244.1.10:8080", CLIENT).flags("PA").payload("response"),
            udp(CLIENT, ECHO).payload("datagram"),
            udp("10.244.1.10:7007", CLIENT).payload("reply"),
            // Not pollgate's: the kernel has its own copy.
            udp("10.244.1.10:7007", "10.244.1.5:40001"),
        ];
        known.into_iter().chain(new_clients(port(n, 0), BURST - 5)).collect()
    });
    let opened = left - 4 * BURSTS as u64;
    assert!(opened < ALL / 8, "{opened} new ones");
    let passed = BURSTS as u64;
    counters(&mut lab, [4 + ALL, 4 + left, 2 + opened, opened], &[("not_owned", passed)]);
}

#[test]
fn new_flows_open_again_as_soon_as_the_backlog_is_gone() {
    let (mut lab, backlog) = lab(1);
    set(&backlog, Backlog::Large);
    let opened = bursts(&mut lab, |n| new_clients(port(n, 0), BURST).collect());
    assert!(opened < ALL / 8, "{opened} new ones");
    // The burst is full, but little waits behind it.
    set(&backlog, Backlog::Little);
    lab.send_all(PODS, new_clients(10_000, BURST));
    assert_eq!(lab.take(PODS).len(), BURST);
    let opened = opened + BURST as u64;
    counters(&mut lab, [ALL + BURST as u64, opened, opened, opened], &[]);
}

#[test]
fn a_backlog_that_stays_sheds_more_with_each_millisecond_and_a_burst_that_takes_all_sheds_nothing() {
    let (mut lab, backlog) = lab(1);
    set(&backlog, Backlog::Standing);
    let mut opened = Vec::new();
    for millisecond in 0..70 {
        lab.jump(Duration::from_millis(1));
        new_clients(port(millisecond, 0), BURST).for_each(|client| lab.push(0, PODS, client));
        lab.poll(0);
        opened.push(lab.take(PODS).len());
    }
    let sum = |part: std::ops::Range<usize>| opened[part].iter().sum::<usize>();
    assert_eq!(sum(0..5), 5 * BURST, "a pause of some milliseconds sheds nothing: {opened:?}");
    let tenths = [sum(5..15), sum(25..35), sum(60..70)];
    assert!(tenths[0] > 10 * BURST * 3 / 4, "{opened:?}");
    assert!((10 * BURST / 3..10 * BURST * 2 / 3).contains(&tenths[1]), "{opened:?}");
    assert!((1..10 * BURST / 8).contains(&tenths[2]), "one of sixteen is never shed: {opened:?}");
    lab.send_all(PODS, new_clients(10_000, BURST - 1));
    assert_eq!(lab.take(PODS).len(), BURST - 1);
    let (rx, all) = (71 * BURST as u64 - 1, (sum(0..70) + BURST - 1) as u64);
    counters(&mut lab, [rx, all, all, all], &[]);
}

#[test]
fn a_flood_of_datagrams_leaves_new_connections_alone() {
    let (mut lab, backlog) = lab(1);
    set(&backlog, Backlog::Large);
    let datagrams = |n| (1..BURST).map(move |at| udp(&format!("10.244.1.7:{}", port(n, at)), ECHO));
    let mut seen = Vec::new();
    for n in 0..BURSTS {
        lab.send_all(PODS, datagrams(n).chain(new_clients(port(n, 0), 1)));
        seen.extend(lab.take(PODS).into_iter().map(|seen| seen.src().to_string()));
    }
    let connections = seen.iter().filter(|from| from.contains("10.244.1.6:") || from.contains("1:6]")).count();
    let all = seen.len() as u64;
    assert!(connections >= BURSTS - 6, "{connections} of {BURSTS} connections");
    assert!(all < ALL / 8, "{all} flows");
    counters(&mut lab, [ALL, all, all, all], &[]);
}

#[test]
fn a_flood_of_one_known_flow_leaves_new_ones_alone() {
    let (mut lab, backlog) = lab(1);
    lab.through(PODS, udp(CLIENT, ECHO), PODS);
    set(&backlog, Backlog::Large);
    let left = bursts(&mut lab, |n| {
        let known = std::iter::repeat_with(|| udp(CLIENT, ECHO)).take(BURST - 1);
        new_clients(port(n, 0), 1).chain(known).collect()
    });
    let opened = left - (BURSTS * (BURST - 1)) as u64;
    assert!(opened >= BURSTS as u64 / 3, "{opened} of {BURSTS} connections");
    counters(&mut lab, [1 + ALL, 1 + left, 1 + opened, 1 + opened], &[]);
}

#[test]
fn fragments_of_known_flows_go_on_and_those_that_would_wait_do_not() {
    let (mut lab, backlog) = lab(1);
    lab.through(PODS, udp(CLIENT, ECHO), PODS);
    set(&backlog, Backlog::Large);
    let pieces =
        |client: &str, id: usize| cut(&udp(client, ECHO).payload(vec![7; 70]), u32::try_from(id).expect("small"), 48);
    let mut left = 0;
    for n in 0..BURSTS {
        let unknown = (1..).map(|at| pieces("10.244.1.7:9", port(n, at)).remove(1));
        lab.send_all(PODS, pieces(CLIENT, n).into_iter().chain(unknown).take(BURST));
        left += std::iter::from_fn(|| lab.pop(PODS)).count();
    }
    assert_eq!(left, 2 * BURSTS, "all of the known flow");
    let (held, displaced) = (lab.totals().held, lab.totals().drops_of(DropReason::FragmentsFull));
    assert!(held + displaced < ALL / 8, "{held} wait, {displaced} have waited");
    counters(&mut lab, [1 + ALL, 1 + left as u64, 1, 1], &[("held", held), ("fragments_full", displaced)]);
}

#[test]
fn what_another_worker_may_know_is_handed_over_and_not_shed() {
    let (mut lab, backlog) = lab(2);
    set(&backlog, Backlog::Large);
    // No more than may be unconfirmed.
    let bursts = 20;
    let all = (bursts * BURST) as u64;
    let (mut handed, mut shed) = (0, 0);
    for n in 0..bursts {
        new_clients(port(n, 0), BURST).for_each(|client| lab.push(0, PODS, client));
        lab.poll(0);
        shed = lab.totals_of(0).drops_of(DropReason::Overload);
        handed = lab.totals_of(0).handed_over;
        lab.poll(1);
    }
    assert!(handed > all / 4 && shed > all / 4, "half of them are the other worker's: {handed} and {shed}");
    assert_eq!(lab.totals_of(1).drops_of(DropReason::Overload), 0, "which has nothing else to do");
    lab.run();
    let opened = lab.take(PODS).len() as u64;
    counters(&mut lab, [all, opened, opened, opened], &[("handed_over", handed), ("handed_in", handed)]);
}

#[test]
fn a_worker_sheds_when_others_hand_over_more_than_it_takes() {
    let (mut lab, backlog) = lab(2);
    set(&backlog, Backlog::Little);
    // Only the first worker runs, until the queue of the second is nearly full.
    let mut sent = 0;
    while lab.totals_of(0).handed_over < 500 {
        lab.push(0, PODS, new_clients(1024 + sent, 1).next().expect("one"));
        sent += 1;
        lab.poll(0);
    }
    let handed = lab.totals_of(0).handed_over;
    lab.run();
    let shed = lab.totals_of(1).drops_of(DropReason::Overload);
    assert!((32..200).contains(&shed), "while its queue is nearly full, and no longer: {shed}");
    let opened = lab.take(PODS).len() as u64;
    counters(&mut lab, [sent as u64, opened, opened, opened], &[("handed_over", handed), ("handed_in", handed)]);
}

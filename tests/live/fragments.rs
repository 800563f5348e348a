//! Datagrams larger than the links' MTU on real sockets: the kernels at both ends cut them and put them together.

use std::net::SocketAddr;

use pollgate::lab::Namespace;
use pollgate::lab::traffic::ask_udp;

use crate::live::dual_stack::{self, CLUSTER_IPS, LOAD_BALANCER, NODES};
use crate::live::support::{BACKENDS, PATIENCE, Site, answered_by, ip};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, IoUring, Lab};

tests! {
    [Lab] =>
        datagrams_of_9000_bytes_pass_both_ways;
    [Lab, IoUring] =>
        datagrams_of_9000_bytes_pass_both_ways_over_io_uring;
    [Lab, Bpf] =>
        datagrams_of_9000_bytes_pass_both_ways_over_af_xdp;
}

/// Fragments of 9,000 bytes at an MTU of 1,500: 1,480 bytes in each, or 1,448.
const FRAGMENTS: u64 = 7;
const TIMES: usize = 20;

/// With two workers, to every kind of address of both families: with and without a translated source.
fn large_datagrams(site: &Site) {
    let text = "0123456789".repeat(900);
    let ask = |from: &Namespace, address: &str, port| {
        answered_by(TIMES, &BACKENDS, || ask_udp(from, SocketAddr::new(ip(address), port), &text, PATIENCE));
    };
    for from in ["frontend-app", "outside-client"].map(|name| site.host(name)) {
        CLUSTER_IPS.iter().for_each(|address| ask(from, address, 7000));
        NODES.iter().for_each(|address| ask(from, address, 30882));
        ask(from, LOAD_BALANCER, 7000);
    }
    // From the gateway's host, too.
    CLUSTER_IPS.iter().for_each(|address| ask(site.network.gateway(), address, 7000));
    // No fragment was lost, and none came in vain.
    let totals = site.at_rest(&[]);
    let datagrams = 2 * (2 * 5 + 2) * TIMES as u64;
    assert!(totals.rx >= datagrams * FRAGMENTS, "{totals:?}");
    assert_eq!(totals.handed_over, totals.handed_in);
    assert!(totals.handed_over > 0, "the flows of a source are not all of one worker: {totals:?}");
    let packets = site.by_worker(|worker| worker.tx.value());
    assert!(packets.iter().all(|&sent| sent > datagrams), "both workers translate: {packets:?}");
}

fn datagrams_of_9000_bytes_pass_both_ways() {
    large_datagrams(&dual_stack::site("packet", 1).0);
}

fn datagrams_of_9000_bytes_pass_both_ways_over_io_uring() {
    large_datagrams(&dual_stack::site("uring", 1).0);
}

fn datagrams_of_9000_bytes_pass_both_ways_over_af_xdp() {
    large_datagrams(&dual_stack::site("xdp", 2).0);
}

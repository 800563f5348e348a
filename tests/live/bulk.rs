//! Gigabytes through the gateway, each byte compared: with what the kernel leaves to offload, and without.

use std::net::SocketAddr;
use std::time::Instant;

use pollgate::lab::topology::{Network, guide};
use pollgate::lab::traffic::{connect, echo_bulk, greeting};
use pollgate::lab::{Namespace, OffloadSwitch};
use pollgate_common::counters::Totals;
use pollgate_common::reasons::DropReason as Reason;

use crate::live::support::{CLUSTER_IP, PATIENCE, Site, at};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::shared::until;

tests! {
    [Lab] =>
        a_gigabyte_comes_back_as_it_was_in_super_frames,
        bulk_is_source_translated_in_super_frames_too,
        bulk_comes_back_as_it_was_where_nothing_is_left_to_offload,
        several_bulks_at_once_share_the_workers,
        a_connection_goes_on_when_the_next_link_carries_less;
}

/// Payload of a full TCP segment on Ethernet, with time stamps.
const SEGMENT: u64 = 1448;

/// Sends so many bytes there and back; answers the counters of just that.
fn bulk(site: &Site, from: &Namespace, to: SocketAddr, bytes: u64) -> Totals {
    let before = site.at_rest(&[]);
    let started = Instant::now();
    let stream = connect(from, to, PATIENCE).expect("a connection");
    greeting(&stream).expect("a greeting");
    echo_bulk(&stream, bytes).unwrap_or_else(|error| panic!("{error}; {:?}", site.gateway().counters().totals()));
    let took = started.elapsed();
    let mut after = site.at_rest(&[]);
    after.tx -= before.tx;
    after.tx_bytes -= before.tx_bytes;
    println!("{bytes} bytes each way in {took:?}: {} frames of {} bytes", after.tx, after.tx_bytes / after.tx);
    assert!(after.tx_bytes > 2 * bytes, "the bytes went another way: {after:?}");
    after
}

fn a_gigabyte_comes_back_as_it_was_in_super_frames() {
    const BYTES: u64 = 1 << 30;
    let site = Site::new();
    let totals = bulk(&site, site.host("frontend-app"), at(CLUSTER_IP), BYTES);
    let frames = 2 * BYTES / SEGMENT;
    assert!(totals.tx < frames / 4, "{} frames: without super-frames they would be {frames}", totals.tx);
}

fn bulk_is_source_translated_in_super_frames_too() {
    const BYTES: u64 = 100 << 20;
    let site = Site::new();
    // Echoed at 8080, which the Service `udp` has as its second port.
    let totals = bulk(&site, site.host("outside-client"), at("192.168.50.10:30701"), BYTES);
    assert!(totals.tx < 2 * BYTES / SEGMENT / 4, "{} frames", totals.tx);
}

fn bulk_comes_back_as_it_was_where_nothing_is_left_to_offload() {
    const BYTES: u64 = 100 << 20;
    let network = Network::new(&guide(), 1).expect("a network");
    for host in network.hosts() {
        plain(&host.namespace, "eth0");
        // A window of fewer frames than a receive ring holds: so nothing may be lost, however long a worker is kept
        // from its CPU. Loss of what does not fit is the kernel's to count, and other tests'.
        host.namespace.sysctl("net.ipv4.tcp_rmem", "4096 131072 262144").expect("set");
    }
    for interface in network.interfaces() {
        plain(network.gateway(), interface);
    }
    let site = Site::on(network);
    for (from, to) in [("frontend-app", CLUSTER_IP), ("outside-client", "192.168.50.10:30701")] {
        let totals = bulk(&site, site.host(from), at(to), BYTES / 2);
        assert!(totals.tx >= BYTES / SEGMENT, "{} frames cannot have carried it one segment each", totals.tx);
        assert!(totals.tx_bytes / totals.tx <= SEGMENT + 66, "frames of {} bytes", totals.tx_bytes / totals.tx);
    }
}

/// The client's packets fit its own link, and suddenly not the one behind the gateway: it must learn of that from the gateway.
fn a_connection_goes_on_when_the_next_link_carries_less() {
    for has_offloads in [true, false] {
        let network = Network::new(&guide(), 1).expect("a network");
        if !has_offloads {
            network.hosts().iter().for_each(|host| plain(&host.namespace, "eth0"));
            network.interfaces().iter().for_each(|interface| plain(network.gateway(), interface));
        }
        let site = Site::on(network);
        let stream = connect(site.host("outside-client"), at("192.168.50.10:30701"), PATIENCE).expect("a connection");
        greeting(&stream).expect("a greeting");
        let shrunk = std::thread::scope(|scope| {
            let bulk = scope.spawn(|| echo_bulk(&stream, 100 << 20).expect("all of it"));
            until("much of it has gone", || site.gateway().counters().totals().tx_bytes > 20 << 20);
            let pods = site.network.hosts().iter().filter(|host| host.address.to_string().starts_with("10.244."));
            pods.for_each(|pod| pod.namespace.set_mtu("eth0", 1300).expect("set"));
            for interface in ["node-1", "node-2"] {
                site.network.gateway().set_mtu(interface, 1300).expect("set");
            }
            let shrunk = Instant::now();
            bulk.join().expect("no panic");
            shrunk
        });
        println!("the rest took {:?}", shrunk.elapsed());
        let totals = site.at_rest(&[Reason::TxTooLong]);
        // What was on its way before the workers knew of the change is dropped by the port.
        assert!(totals.originated > 0 && totals.drops_of(Reason::TxTooLong) >= totals.originated, "{totals:?}");
    }
}

/// Complete checksums and single segments on the wire.
fn plain(namespace: &Namespace, interface: &str) {
    for switch in [OffloadSwitch::TxChecksum, OffloadSwitch::Tso, OffloadSwitch::Gso, OffloadSwitch::Gro] {
        namespace.offload(interface, switch, false).expect("switched off");
        assert!(!namespace.has_offload(interface, switch).expect("a switch"), "{switch:?} of {interface}");
    }
}

fn several_bulks_at_once_share_the_workers() {
    let site = Site::new();
    let from = [("frontend-app", CLUSTER_IP), ("frontend-2", CLUSTER_IP), ("outside-client", "192.168.50.10:30701")];
    std::thread::scope(|scope| {
        for (from, to) in from.iter().cycle().take(12) {
            let namespace = site.host(from);
            scope.spawn(move || {
                let stream = connect(namespace, at(to), PATIENCE).expect("a connection");
                greeting(&stream).expect("a greeting");
                echo_bulk(&stream, 16 << 20).unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
            });
        }
    });
    let totals = site.gateway().counters().totals();
    println!("{totals:?}");
    assert_eq!(totals.flows_opened, 12);
    assert!(totals.tx_bytes > 2 * 12 * (16 << 20));
}

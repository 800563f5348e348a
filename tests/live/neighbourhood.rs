//! The kernel around the gateway: neighbours, links, and the traffic that is the host's own.

use std::fs;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use pollgate::lab::traffic::{Server, ask_tcp, ask_udp, connect, echo_bulk, greeting};
use pollgate_common::net::{Mac, PortId};
use pollgate_common::reasons::DropReason as Reason;

use crate::live::support::{BACKENDS, CLUSTER_IP, PATIENCE, Site, Talk, UDP, answered_by, at, ip, ping};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::shared::until;

tests! {
    [Lab] =>
        a_first_packet_waits_until_its_neighbour_is_known,
        a_pod_that_does_not_exist_costs_its_own_frames_and_no_others,
        a_pod_that_changes_its_mac_keeps_its_connections,
        an_interface_that_goes_down_and_up_serves_again,
        a_link_that_is_back_at_once_has_its_neighbours_resolved_anew,
        traffic_of_the_host_itself_is_left_alone;
}

/// Whether the gateway's kernel knows the MAC address of a neighbour.
fn is_known(site: &Site, address: &str) -> bool {
    let table = site.network.gateway().run(|| fs::read_to_string("/proc/thread-self/net/arp")).expect("the table");
    table.lines().any(|line| line.starts_with(&format!("{address} ")) && !line.contains("00:00:00:00:00:00"))
}

fn a_first_packet_waits_until_its_neighbour_is_known() {
    let site = Site::unresolved();
    assert!(BACKENDS.iter().zip(["10.244.1.10", "10.244.2.15"]).all(|(_, pod)| !is_known(&site, pod)), "too early");
    // Datagrams, since nobody sends them again.
    answered_by(20, &BACKENDS, || ask_udp(site.host("frontend-app"), at(UDP), "who?", PATIENCE));
    assert!(is_known(&site, "10.244.1.10") && is_known(&site, "10.244.2.15"));
    site.at_rest(&[]);
}

fn a_pod_that_does_not_exist_costs_its_own_frames_and_no_others() {
    let site = Site::new();
    site.apply(
        "{ apiVersion: v1, kind: Pod, metadata: { name: ghost, labels: { app: ghost } }, spec: { containers: \
         [{ name: app, image: ghost }] }, status: { phase: Running, podIP: 10.244.2.99, podIPs: [{ ip: 10.244.2.99 }], \
         conditions: [{ type: Ready, status: 'True' }] } }\n---\n\
         { apiVersion: v1, kind: Service, metadata: { name: ghost }, spec: { clusterIP: 10.96.0.90, selector: \
         { app: ghost }, ports: [{ port: 80 }] } }",
    );
    let talk = Talk::start(site.host("frontend-app"), at(CLUSTER_IP));
    thread::scope(|scope| {
        for _ in 0..40 {
            let from = site.host("frontend-2");
            scope.spawn(|| connect(from, at("10.96.0.90:80"), Duration::from_secs(4)).expect_err("nobody is there"));
        }
    });
    talk.still_works().expect("not disturbed");
    talk.finish().expect("nothing lost");
    let totals = site.at_rest(&[Reason::NeighbourUnresolved, Reason::NeighbourQueueFull]);
    assert!(totals.drops_of(Reason::NeighbourUnresolved) > 0, "{totals:?}");
}

fn a_pod_that_changes_its_mac_keeps_its_connections() {
    for announced in [true, false] {
        // Neighbours that the gateway itself has asked for are those that its kernel keeps up to date.
        let site = Site::unresolved();
        let gateway = site.network.gateway();
        for interface in ["node-1", "node-2"] {
            // The kernel asks again for what it has not heard of for half a minute; here within a second or two.
            let often = [
                ("base_reachable_time_ms", "500"),
                ("delay_first_probe_time", "1"),
                ("interval_probe_time_ms", "1000"),
                ("retrans_time_ms", "200"),
                ("locktime", "0"),
            ];
            for (key, value) in often {
                gateway.sysctl(&format!("net.ipv4.neigh.{interface}.{key}"), value).expect("set");
            }
        }
        let talks: Vec<Talk> = (0..8).map(|_| Talk::start(site.host("frontend-app"), at(CLUSTER_IP))).collect();
        for (number, name) in (1..).zip(BACKENDS) {
            let notify = if announced { "1" } else { "0" };
            site.host(name).sysctl("net.ipv4.conf.eth0.arp_notify", notify).expect("set");
            site.host(name).set_mac("eth0", Mac([2, 0xfe, 0, 0, 0, number])).expect("a new MAC");
        }
        for talk in talks {
            talk.still_works().unwrap_or_else(|error| panic!("announced {announced}: {error}"));
            talk.finish().expect("nothing lost");
        }
        answered_by(20, &BACKENDS, || ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE));
        site.at_rest(&[]);
    }
}

fn an_interface_that_goes_down_and_up_serves_again() {
    let site = Site::new();
    let talks: Vec<Talk> = (0..8).map(|_| Talk::start(site.host("frontend-app"), at(CLUSTER_IP))).collect();
    for _ in 0..3 {
        site.network.gateway().down("node-2").expect("down");
        until("the gateway knows that the link is down", || !site.is_up(PortId(1)));
        site.network.gateway().up("node-2").expect("up");
        let up = Instant::now();
        for talk in &talks {
            talk.still_works().expect("the connection outlived it");
        }
        println!("all connections go on {:?} after the link came up", up.elapsed());
    }
    for talk in talks {
        talk.finish().expect("nothing lost");
    }
    answered_by(20, &BACKENDS, || ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE));
    // What came while the link was away was lost, and said so.
    site.at_rest(&[Reason::LinkDown, Reason::NoRoute, Reason::TxLinkDown, Reason::NeighbourUnresolved]);
}

fn a_link_that_is_back_at_once_has_its_neighbours_resolved_anew() {
    // Not yet resolved: the gateway is to ask for it just before.
    let site = Site::unresolved();
    site.apply(
        "{ apiVersion: v1, kind: Service, metadata: { name: canary }, spec: { clusterIP: 10.96.0.91, selector: \
         { version: v2 }, ports: [{ port: 7000, protocol: UDP }] } }",
    );
    let from = site.host("frontend-app");
    assert_eq!(ask_udp(from, at("10.96.0.91:7000"), "who?", PATIENCE).expect("an answer"), "backend-v2");
    // The kernel forgets the neighbours of a link that goes down, right after it was asked for this one.
    site.network.gateway().down("node-2").expect("down");
    site.network.gateway().up("node-2").expect("up");
    let up = Instant::now();
    // One socket, until the end: the client's kernel would refuse late answers to one that is closed, by ICMP. What is sent
    // while the link is away is lost, so it is sent again, but rarely: only a few frames may wait for a neighbour.
    let socket = from.run(|| UdpSocket::bind("10.244.1.5:0")).expect("a socket");
    socket.connect(at("10.96.0.91:7000")).expect("connected");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
    until("an answer", || {
        socket.send(b"who?").expect("sent");
        socket.recv(&mut [0; 64]).is_ok()
    });
    println!("answered {:?} after the link came up", up.elapsed());
    // None has waited in vain for what was not asked for again.
    site.at_rest(&[Reason::LinkDown, Reason::NoRoute, Reason::TxLinkDown]);
}

fn traffic_of_the_host_itself_is_left_alone() {
    let site = Site::new();
    let (gateway, outside) = (site.network.gateway(), site.host("outside-client"));
    gateway.add_address("outside", "fd00:50::1/64".parse().expect("an address")).expect("the address");
    outside.add_address("eth0", "fd00:50::100/64".parse().expect("an address")).expect("the address");
    let own = ["10.244.1.1:22", "192.168.50.1:22", "[fd00:50::1]:22"].map(at);
    let _servers = own.map(|address| Server::tcp(gateway, address, "the host").expect("a server"));
    // IPv4 from both sides, also by the address of the other link, and IPv6.
    for (from, to) in [("frontend-app", own[0]), ("outside-client", own[1]), ("outside-client", own[2])] {
        let stream = connect(site.host(from), to, PATIENCE).unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
        assert_eq!(greeting(&stream).expect("a greeting"), "the host");
        echo_bulk(&stream, 4 << 20).expect("a session of the host");
    }
    ping(outside, ip("fd00:50::1"), PATIENCE).expect("an echo over IPv6");
    // And the host as a client.
    ask_tcp(gateway, at("10.244.2.15:8080"), PATIENCE).expect("a Pod, reached by the host's kernel");
    let totals = site.at_rest(&[]);
    assert_eq!((totals.tx, totals.originated, totals.flows_opened), (0, 0, 0), "{totals:?}");
    assert!(totals.passed() > 100, "{totals:?}");
}

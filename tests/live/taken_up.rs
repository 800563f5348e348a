//! Interfaces that are deleted and created again, or get another MTU or MAC address, while packets flow.

use std::net::SocketAddr;
use std::time::Duration;
use std::{fs, io};

use pollgate::lab::Namespace;
use pollgate::lab::topology::{Network, guide};
use pollgate::lab::traffic::{ask_tcp, ask_udp};
use pollgate_common::net::Mac;
use pollgate_common::reasons::DropReason as Reason;

use crate::live::dual_stack;
use crate::live::process::Place;
use crate::live::support::{
    BACKENDS, CLUSTER_IP, PATIENCE, Site, Talk, UDP, answered_by, asked, at, configuration, ip, servers, socket,
};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, IoUring, Lab};
use crate::shared::until;

tests! {
    [Lab] =>
        packet_takes_up_an_interface_that_was_created_again,
        packet_takes_up_another_mtu,
        packet_takes_up_another_mac_address,
        one_worker_takes_up_what_changes,
        what_hosts_know_of_an_interface_is_put_right,
        a_backend_that_alone_has_something_to_send_learns_the_new_mac_address,
        packet_takes_up_an_interface_of_the_same_index,
        a_limited_process_takes_up_packet_ports,
        an_interface_that_may_not_be_polled_is_taken_up_when_it_may;
    [Lab, IoUring] =>
        uring_takes_up_an_interface_that_was_created_again,
        uring_takes_up_another_mtu,
        uring_takes_up_another_mac_address,
        a_limited_process_takes_up_uring_ports;
    [Lab, Bpf] =>
        xdp_takes_up_an_interface_that_was_created_again,
        xdp_takes_up_another_mtu,
        xdp_takes_up_another_mac_address,
        xdp_keeps_an_interface_whose_mtu_does_not_fit,
        a_limited_process_takes_up_xdp_ports;
}

/// What frames to an interface that is not there, or not polled, are dropped for.
const AWAY: [Reason; 7] = [
    Reason::LinkDown,
    Reason::NoRoute,
    Reason::TxLinkDown,
    Reason::TxClosed,
    Reason::NeighbourUnresolved,
    Reason::NeighbourQueueFull,
    Reason::HandoverFull,
];

/// The interface that changes. One of the backends is behind it.
const NODE: &str = "node-2";

fn site(backend: &str) -> Site {
    // AF_XDP needs a queue per worker.
    Site::polled_by(backend, Network::new(&guide(), 2).expect("a network"))
}

/// A connection that neither end of uses the interface that changes, and one to a backend behind it.
fn talks(site: &Site) -> (Talk, Talk) {
    let (mut beside, mut behind) = (None, None);
    until("connections to both backends", || {
        let talk = Talk::start(site.host("outside-client"), at("192.168.50.10:30701"));
        let place = if talk.server == "backend-1" { &mut beside } else { &mut behind };
        match place {
            Some(_) => drop(talk.finish().expect("nothing lost")),
            None => *place = Some(talk),
        }
        beside.is_some() && behind.is_some()
    });
    (beside.expect("one"), behind.expect("one"))
}

fn readyz(site: &Site) -> (u16, String) {
    asked(&site.socket(), "/readyz")
}

fn fails(site: &Site, fault: &str) {
    let line = format!("[-]interface-{NODE} failed: {fault}");
    until(&line, || readyz(site).1.contains(&line));
    assert!(site.cli(&["stats"]).expect("stats").contains(&format!("\n  interface-{NODE}: {fault}")));
}

fn is_ready(site: &Site) {
    until("every check passes", || readyz(site) == (200, "ok".to_owned()));
}

/// Both kinds of connections go on, new ones are made, and every frame is accounted for.
fn all_is_well(site: &Site, (beside, behind): (Talk, Talk), expected: &[Reason]) {
    is_ready(site);
    behind.still_works().expect("an established connection by that interface goes on");
    beside.still_works().expect("the others have not noticed");
    for talk in [beside, behind] {
        talk.finish().expect("nothing lost");
    }
    answered_by(20, &BACKENDS, || ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE));
    // An AF_XDP port misses frames that are longer than it was opened for.
    site.balanced(expected);
}

fn created_again(backend: &str) {
    let site = site(backend);
    let talks = talks(&site);
    for _ in 0..2 {
        site.network.gateway().remove(NODE).expect("removed");
        fails(&site, &format!("the interface {NODE} does not exist"));
        talks.0.still_works().expect("the others do not notice");
        site.network.relink(NODE).expect("created again");
        is_ready(&site);
        talks.1.still_works().expect("an established connection by that interface goes on");
    }
    all_is_well(&site, talks, &AWAY);
}

/// Gives every interface on the way to the hosts of a segment this MTU.
fn set_mtu(site: &Site, mtu: u32) {
    for segment in ["node-1", NODE] {
        site.network.set_mtu(segment, mtu).expect("set");
    }
}

/// A datagram of this many bytes there and back, in one piece: its sender forbids fragments.
fn carries(from: &Namespace, length: usize) -> io::Result<()> {
    let text = "x".repeat(length);
    ask_udp(from, at(UDP), &text, Duration::from_secs(2)).map(drop)
}

fn another_mtu(backend: &str) {
    let site = site(backend);
    let talks = talks(&site);
    let client = site.host("frontend-app");
    // Larger than the chunks of AF_XDP and the slots of the ring were, and small again.
    for (mtu, fits) in [(3000, 2900), (1400, 1300), (1500, 1400)] {
        set_mtu(&site, mtu);
        until("a datagram of the new MTU passes", || (0..20).all(|_| carries(client, fits).is_ok()));
        is_ready(&site);
        talks.0.still_works().expect("goes on");
        talks.1.still_works().expect("goes on");
    }
    // A veth peer with a smaller MTU refuses a frame, which AF_XDP reports like a full queue.
    all_is_well(&site, talks, &[&AWAY[..], &[Reason::TxTooLong, Reason::TxFull]].concat());
}

fn another_mac_address(backend: &str) {
    let site = site(backend);
    let talks = talks(&site);
    let gateway = site.network.gateway();
    for last in [7, 8] {
        gateway.set_mac(NODE, Mac([2, 0, 0, 0, 9, last])).expect("set");
        answered_by(20, &BACKENDS, || ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE));
        talks.1.still_works().expect("an established connection by that interface goes on");
    }
    all_is_well(&site, talks, &AWAY);
}

fn packet_takes_up_an_interface_that_was_created_again() {
    created_again("packet");
}

fn packet_takes_up_another_mtu() {
    another_mtu("packet");
}

fn packet_takes_up_another_mac_address() {
    another_mac_address("packet");
}

fn uring_takes_up_an_interface_that_was_created_again() {
    created_again("uring");
}

fn uring_takes_up_another_mtu() {
    another_mtu("uring");
}

fn uring_takes_up_another_mac_address() {
    another_mac_address("uring");
}

fn xdp_takes_up_an_interface_that_was_created_again() {
    created_again("xdp");
}

fn xdp_takes_up_another_mtu() {
    another_mtu("xdp");
}

fn xdp_takes_up_another_mac_address() {
    another_mac_address("xdp");
}

/// Without a group among which the kernel chooses.
fn one_worker_takes_up_what_changes() {
    let site = Site::configured(Network::new(&guide(), 1).expect("a network"), |text| {
        text.replace("count: 2", "count: 1").replace("{ name: ", "{ backend: packet, name: ")
    });
    let talks = talks(&site);
    site.network.gateway().remove(NODE).expect("removed");
    fails(&site, &format!("the interface {NODE} does not exist"));
    site.network.relink(NODE).expect("created again");
    is_ready(&site);
    set_mtu(&site, 3000);
    until("a datagram of the new MTU passes", || carries(site.host("frontend-app"), 2900).is_ok());
    all_is_well(&site, talks, &[&AWAY[..], &[Reason::TxTooLong]].concat());
}

/// With the capabilities, files and system calls that its threads have in a process of their own.
fn limited(backend: &str) {
    let place = Place::new();
    let text = configuration(place.path(), "").replace("{ name: ", &format!("{{ backend: {backend}, name: "));
    place.write("gateway.yaml", &text.replace("count: 2", "count: 1"));
    let process = place.start();
    place.network.gateway().remove(NODE).expect("removed");
    let line = format!("[-]interface-{NODE} failed: ");
    until(&line, || asked(&socket(place.path()), "/readyz").1.contains(&line));
    place.network.relink(NODE).expect("created again");
    until("every check passes", || asked(&socket(place.path()), "/readyz").0 == 200);
    let again = format!("{NODE} is polled again by {backend}");
    assert!(place.log().contains(&again), "{}", place.log());
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0), "{}", place.log());
}

fn a_limited_process_takes_up_packet_ports() {
    limited("packet");
}

fn a_limited_process_takes_up_uring_ports() {
    limited("uring");
}

fn a_limited_process_takes_up_xdp_ports() {
    limited("xdp");
}

/// Hosts ask in the interface's multicast groups, and know the gateway by the old MAC address.
fn what_hosts_know_of_an_interface_is_put_right() {
    let (site, _servers) = dual_stack::site("packet", 2);
    let gateway = site.network.gateway();
    // The solicited-node group of the gateway's address (RFC 4291 §2.7.1).
    let is_asked = || {
        let groups = gateway.run(|| fs::read_to_string("/proc/thread-self/net/igmp6")).expect("the groups");
        let on_link = groups.lines().filter(|line| line.split_whitespace().nth(1) == Some("outside"));
        on_link
            .filter_map(|line| line.split_whitespace().nth(2))
            .any(|group| group == "ff0200000000000000000001ff000010")
    };
    let announced = || site.gateway().counters().totals().announced;
    assert!(is_asked());
    gateway.remove("outside").expect("removed");
    until("it is seen to be gone", || readyz(&site).1.contains("[-]interface-outside failed: "));
    let count = announced();
    site.network.relink("outside").expect("created again");
    is_ready(&site);
    until("the group is joined again", is_asked);
    until("the addresses are announced again", || announced() > count);
    for address in dual_stack::NODES {
        ask_tcp(site.host("outside-client"), SocketAddr::new(ip(address), 30880), PATIENCE).expect("an answer");
    }
    site.at_rest(&AWAY);
}

/// Nothing is sent to the backend, so that the gateway's kernel does not ask for it and shows its MAC address that way.
fn a_backend_that_alone_has_something_to_send_learns_the_new_mac_address() {
    let site = site("packet");
    let host = site.host("backend-2");
    let ip = |arguments: &[&str]| {
        let output = host.command("ip").args(arguments).output().expect("ip");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let own = || site.network.gateway().mac(NODE).expect("a MAC address").to_string();
    let before = own();
    // It has just heard from its router: without news, it does not ask again during this test.
    host.sysctl("net.ipv4.neigh.eth0.base_reachable_time_ms", "600000").expect("set");
    ip(&["neigh", "replace", "10.244.2.1", "lladdr", &before, "dev", "eth0", "nud", "reachable"]);
    site.network.gateway().remove(NODE).expect("removed");
    fails(&site, &format!("the interface {NODE} does not exist"));
    site.network.relink(NODE).expect("created again");
    is_ready(&site);
    assert_ne!(own(), before);
    until("it is told", || {
        ip(&["-4", "neigh", "show", "dev", "eth0"]).contains(&format!("10.244.2.1 lladdr {}", own()))
    });
    answered_by(20, &BACKENDS, || ask_tcp(site.host("frontend-app"), at(CLUSTER_IP), PATIENCE));
    site.at_rest(&AWAY);
}

/// While the process does not look, so that the index is as before.
fn packet_takes_up_an_interface_of_the_same_index() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let text = configuration(place.path(), "").replace("{ name: ", "{ backend: packet, name: ");
    place.write("gateway.yaml", &text);
    let process = place.start();
    place.apply_guide();
    let served = || answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    served();
    let index = || place.network.gateway().index(NODE).expect("an index");
    let before = index();
    process.signal(libc::SIGSTOP);
    place.network.replace_link(NODE).expect("another one");
    assert_eq!(index(), before);
    process.signal(libc::SIGCONT);
    until("it is polled again", || place.log().contains(&format!("{NODE} is polled again by packet")));
    served();
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0), "{}", place.log());
}

/// The checks of the start are made again, and what they find is tried again.
fn an_interface_that_may_not_be_polled_is_taken_up_when_it_may() {
    let site = site("packet");
    let talks = talks(&site);
    let gateway = site.network.gateway();
    let forwarding = format!("net.ipv4.conf.{NODE}.forwarding");

    gateway.remove(NODE).expect("removed");
    gateway.sysctl("net.ipv4.conf.default.forwarding", "1").expect("set");
    site.network.relink(NODE).expect("created again");
    gateway.sysctl("net.ipv4.conf.default.forwarding", "0").expect("set");
    fails(&site, &format!("it was deleted and created again, and is not polled yet: {forwarding} is 1"));
    let address = "10.96.0.10/32".parse().expect("the address of DNS");
    gateway.add_address(NODE, address).expect("added");
    gateway.sysctl(&forwarding, "0").expect("set");
    let taken = format!("the kernel has 10.96.0.10 on {NODE}");
    fails(&site, &format!("it was deleted and created again, and is not polled yet: {taken}"));
    gateway.remove_address(NODE, address).expect("removed");
    all_is_well(&site, talks, &AWAY);
}

/// A frame of that MTU has no place in a page: the interface is polled on as it was, and the check says why.
fn xdp_keeps_an_interface_whose_mtu_does_not_fit() {
    let site = site("xdp");
    let talks = talks(&site);
    site.network.gateway().set_mtu(NODE, 9000).expect("set");
    fails(&site, "its MTU was 1500 and is 9000, and is still polled with the old one: node-2: backend: xdp: ");
    talks.1.still_works().expect("an established connection by that interface goes on");
    site.network.gateway().set_mtu(NODE, 1500).expect("set");
    all_is_well(&site, talks, &AWAY);
}

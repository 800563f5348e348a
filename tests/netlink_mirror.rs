//! The netlink mirror against a kernel that is really changed under it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use pollgate::lab::traffic::{Server, ask_udp};
use pollgate::lab::{Namespace, Veth};
use pollgate_common::net::{Mac, NeighbourQuery, Net, NextHop, NoNextHop, PortId};
use pollgate_control::netlink::{HostEvent, HostNetwork, OwnedAddresses};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourExtFlags, NeighbourMessage};

use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::shared::{PATIENCE, until};

tests! {
    [Lab] =>
        the_first_net_is_whole_and_a_question_gets_the_neighbour,
        a_peer_that_changes_its_mac_is_followed,
        the_state_of_an_entry_may_change_without_a_new_generation,
        routes_and_links_are_followed_also_where_the_kernel_says_nothing,
        the_kernel_keeps_a_neighbour_resolved_until_the_mirror_ends,
        an_owned_address_that_the_kernel_has_is_told_whenever_it_comes_to_be,
        a_flood_of_changes_ends_in_the_truth;
}

const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A gateway with one polled interface, and a peer on it.
struct Site {
    gateway: Namespace,
    peer: Namespace,
    mirror: HostNetwork,
    owned: OwnedAddresses,
    news: mpsc::Receiver<HostEvent>,
    net: Arc<Net>,
}

impl Site {
    fn new(owned: &[&str]) -> Site {
        let gateway = Namespace::new("gateway").expect("a namespace");
        let peer = Namespace::new("peer").expect("a namespace");
        Veth::new((&gateway, "eth0"), (&peer, "eth0")).macs(GATEWAY, PEER).make().expect("a veth pair");
        gateway.add_address("eth0", "10.0.0.1/24".parse().expect("an address")).expect("the address");
        peer.add_address("eth0", "10.0.0.2/24".parse().expect("an address")).expect("the address");
        let owned = OwnedAddresses::new(owned.iter().map(|text| ip(text)));
        let (tell, news) = mpsc::channel();
        let listener = Box::new(move |news| drop(tell.send(news)));
        let interfaces = vec![("eth0".to_owned(), PortId(0))];
        let (mirror, net) = gateway.run(|| HostNetwork::start(interfaces, owned.clone(), listener)).expect("a mirror");
        Site { gateway, peer, mirror, owned, news, net }
    }

    /// Follows the news until a net says so.
    fn wait(&mut self, what: &str, enough: impl Fn(&Net) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.net) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.news.recv_timeout(left) {
                Ok(HostEvent::Net(net)) => {
                    assert!(net.generation() > self.net.generation(), "a generation is never told twice");
                    self.net = net;
                }
                Ok(HostEvent::AddressConflict { .. }) => {}
                Err(_) => panic!("{what}: not within {PATIENCE:?}; last {:?}", self.net.facts()),
            }
        }
    }

    fn conflict(&self) -> (IpAddr, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(HostEvent::AddressConflict { address, interface }) => return (address, interface),
                Ok(HostEvent::Net(_)) => {}
                Err(_) => panic!("no conflict was told within {PATIENCE:?}"),
            }
        }
    }

    fn ask(&self, address: &str) {
        let link = self.net.port_link(PortId(0)).expect("the link").index;
        self.mirror.resolver().ask(NeighbourQuery { link, address: ip(address) });
    }
}

fn leads_to(net: &Net, address: &str, dst: Mac) -> bool {
    net.next_hop(ip(address)) == Ok(NextHop { port: PortId(0), src: GATEWAY, dst, mtu: 1500 })
}

fn the_first_net_is_whole_and_a_question_gets_the_neighbour() {
    let mut site = Site::new(&[]);
    assert_eq!(site.net.generation(), 1);
    let link = site.net.port_link(PortId(0)).expect("the link").clone();
    assert_eq!((link.name.as_str(), link.mac, link.mtu, link.up), ("eth0", GATEWAY, 1500, true));
    assert_eq!(site.net.kernel_has(ip("10.0.0.1")), Some(link.index));
    let query = NeighbourQuery { link: link.index, address: ip("10.0.0.2") };
    assert_eq!(site.net.next_hop(ip("10.0.0.2")), Err(NoNextHop::Neighbour(query)));
    for _ in 0..1000 {
        site.ask("10.0.0.2");
    }
    site.wait("the neighbour", |net| leads_to(net, "10.0.0.2", PEER));
    assert_eq!(site.net.generation(), 2, "one neighbour, one generation");
}

fn a_peer_that_changes_its_mac_is_followed() {
    let mut site = Site::new(&[]);
    site.ask("10.0.0.2");
    site.wait("the neighbour", |net| leads_to(net, "10.0.0.2", PEER));
    let new = Mac([2, 0, 0, 0, 0, 9]);
    site.peer.set_mac("eth0", new).expect("set");
    // The kernel probes what it keeps every few seconds; traffic of the peer's own is quicker.
    let kernel = SocketAddr::new(ip("10.0.0.1"), 9);
    let _server = Server::udp(&site.gateway, kernel, "kernel").expect("a server");
    until("the peer is reached under its new MAC", || {
        site.ask("10.0.0.2");
        ask_udp(&site.peer, kernel, "hello", Duration::from_millis(200)).is_ok()
    });
    site.wait("the new MAC", |net| leads_to(net, "10.0.0.2", new));
}

fn the_state_of_an_entry_may_change_without_a_new_generation() {
    let mut site = Site::new(&[]);
    // Entries go stale after one second, and are probed again at once by traffic.
    for (key, value) in [("base_reachable_time_ms", "500"), ("gc_stale_time", "1"), ("delay_first_probe_time", "1")] {
        site.gateway.sysctl(&format!("net.ipv4.neigh.eth0.{key}"), value).expect("set");
    }
    site.ask("10.0.0.2");
    site.wait("the neighbour", |net| leads_to(net, "10.0.0.2", PEER));
    let peer = SocketAddr::new(ip("10.0.0.2"), 9);
    let _server = Server::udp(&site.peer, peer, "peer").expect("a server");
    let mut states = BTreeSet::new();
    until("the entry has been in more than one state", || {
        ask_udp(&site.gateway, peer, "hello", PATIENCE).expect("an answer");
        states.extend(neighbours(&site.gateway).iter().map(|entry| format!("{:?}", entry.header.state)));
        states.len() > 1
    });
    let told: Vec<_> = site.news.try_iter().collect();
    assert!(told.is_empty(), "nothing that concerns a hop has changed: {told:?}");
}

fn routes_and_links_are_followed_also_where_the_kernel_says_nothing() {
    let mut site = Site::new(&[]);
    site.ask("10.0.0.2");
    site.wait("the neighbour", |net| leads_to(net, "10.0.0.2", PEER));
    assert_eq!(site.net.next_hop(ip("10.244.1.7")), Err(NoNextHop::NoRoute));
    let cluster = "10.244.0.0/16".parse().expect("a prefix");
    site.gateway.add_route(cluster, Some(ip("10.0.0.2")), "eth0").expect("a route");
    site.wait("the route", |net| leads_to(net, "10.244.1.7", PEER));
    // The carrier goes: the link is down, its routes are not usable any more.
    site.peer.down("eth0").expect("down");
    site.wait("the lost carrier", |net| net.port_link(PortId(0)).is_some_and(|link| !link.up));
    site.wait("the dead route", |net| net.next_hop(ip("10.244.1.7")).is_err());
    site.peer.up("eth0").expect("up");
    site.ask("10.0.0.2");
    site.wait("the route again", |net| net.route(ip("10.244.1.7")).is_some());
    // Switched off by its owner: IPv4 routes go without a report.
    site.gateway.down("eth0").expect("down");
    site.wait("the routes that went", |net| net.route(ip("10.244.1.7")).is_none());
    assert_eq!(site.net.next_hop(ip("10.244.1.7")), Err(NoNextHop::NoRoute));
}

fn the_kernel_keeps_a_neighbour_resolved_until_the_mirror_ends() {
    let mut site = Site::new(&[]);
    site.ask("10.0.0.2");
    site.wait("the neighbour", |net| leads_to(net, "10.0.0.2", PEER));
    assert_eq!(managed_neighbours(&site.gateway), 1);
    let Site { gateway, mirror, peer: _peer, .. } = site;
    drop(mirror);
    assert_eq!(managed_neighbours(&gateway), 0, "entries that the kernel still keeps for us");
}

/// The kernel's neighbour entries.
fn neighbours(namespace: &Namespace) -> Vec<NeighbourMessage> {
    let dump = async {
        let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
        tokio::spawn(connection);
        handle.neighbours().get().execute().try_collect().await.expect("the entries")
    };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    namespace.run(|| runtime().block_on(dump))
}

/// How many of them it keeps resolved.
fn managed_neighbours(namespace: &Namespace) -> usize {
    let managed = |attribute: &NeighbourAttribute| matches!(attribute, NeighbourAttribute::ExtFlags(flags) if flags.contains(NeighbourExtFlags::Managed));
    neighbours(namespace).iter().filter(|entry| entry.attributes.iter().any(managed)).count()
}

fn an_owned_address_that_the_kernel_has_is_told_whenever_it_comes_to_be() {
    let site = Site::new(&["10.0.0.1", "10.96.0.10"]);
    assert_eq!(site.conflict(), (ip("10.0.0.1"), "eth0".to_owned()), "from the start");
    site.gateway.add_address("lo", "10.96.0.10/32".parse().expect("an address")).expect("the address");
    assert_eq!(site.conflict(), (ip("10.96.0.10"), "lo".to_owned()), "given to the kernel later");
    site.gateway.add_address("lo", "10.96.0.11/32".parse().expect("an address")).expect("the address");
    site.owned.change([], [ip("10.96.0.11")]);
    assert_eq!(site.conflict(), (ip("10.96.0.11"), "lo".to_owned()), "owned later");
}

fn a_flood_of_changes_ends_in_the_truth() {
    let mut site = Site::new(&[]);
    for n in 0..200u8 {
        let mac = Mac([2, 1, 0, 0, 0, n]);
        site.gateway.add_neighbour("eth0", IpAddr::from([10, 0, 0, 20 + n]), mac).expect("a neighbour");
    }
    site.wait("all neighbours", |net| net.facts().neighbours.len() == 200);
    assert!(leads_to(&site.net, "10.0.0.219", Mac([2, 1, 0, 0, 0, 199])));
    assert!(site.net.generation() < 150, "bursts are one generation, not {}", site.net.generation());
}

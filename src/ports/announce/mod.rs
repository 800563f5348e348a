//! Announces owned addresses to the links they are on, so that hosts that know them by another MAC address (that of a gateway
//! that served them before) send to this one at once: gratuitous ARP and unsolicited neighbour advertisements.
//!
//! ```text
//!  publications: addresses, links ─▶ events ─▶ thread "announcer" ─▶ a packet socket that only sends
//! ```
//!
//! An address is announced when the gateway starts (once its workers poll, never before), when it becomes owned, and when a link
//! comes up, gets another MAC address or network, or is polled again after it was created again; each time in three rounds (`schedule`). A thread of its own does it, so that
//! neither the workers nor the control thread wait for the rate.
//!
//! **On which links:** workers reply to ARP and neighbour solicitations for every owned address on every interface. An address is
//! announced where one of the interface's own networks contains it. If none of them does, it is announced on all interfaces, since
//! clients may have it on any link; but not ClusterIPs, which clients have a route to.
//!
//! **The host's own addresses, too, when a polled link has another MAC address**: they are the kernel's, but backends send by them (as
//! their router), and the kernel announces none. A backend that alone has something to send would send to the old MAC address for up to
//! a minute: the kernel asks for a backend, and thereby shows its new MAC address, only when the worker has something for it.
//!
//! The thread also looks, twice a second, at what the workers report of other hosts that use an owned address: it logs it, and
//! announces such an address once more (`guard`).

mod guard;
mod schedule;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use ipnet::IpNet;
use pollgate_common::conflicts::{Claim, Conflict, Conflicts};
use pollgate_common::counters::Counters;
use pollgate_common::net::{Link, Mac, Net, PortId};
use pollgate_common::tables::{OwnedKind, Tables};
use pollgate_control::threads::{self, Role};
use pollgate_dataplane::announce::frames;
use pollgate_dataplane::port::send_only::SendOnly;
use tracing::warn;

use self::guard::Guard;
use self::schedule::{Schedule, Target};

/// How often the workers' reports are read.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// The thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Announcer {
    events: Sender<Event>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told.
enum Event {
    /// Addresses that are not owned any more, and that now are, with their reach.
    Owned {
        removed: Vec<IpAddr>,
        added: Vec<(IpAddr, Reach)>,
    },
    Network(Arc<Net>),
    /// The workers poll this link, by its index.
    Polled(PortId, u32),
    /// The workers poll.
    Begin,
    End,
}

/// How clients reach an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// By a route, unless it is in a network of a link.
    Route,
    /// It may be on any link.
    Link,
}

impl Announcer {
    /// Starts the thread in the calling thread's network namespace, with the addresses that are owned from the start, each with
    /// whether clients reach it by a route.
    pub fn start(
        owned: impl Iterator<Item = (IpAddr, bool)>,
        net: Arc<Net>,
        counters: Arc<Counters>,
        conflicts: Arc<Conflicts>,
    ) -> io::Result<Announcer> {
        let output = Output { socket: SendOnly::open()?, counters, failing: BTreeSet::new() };
        let (mut state, now) = (State::new(), Instant::now());
        state.follow_network(net, now);
        let added = owned.map(|(address, is_routed)| (address, if is_routed { Reach::Route } else { Reach::Link }));
        state.apply(Event::Owned { removed: Vec::new(), added: added.collect() }, now);
        let (events, received) = channel::unbounded();
        let thread = threads::spawn(Role::Announcer, "announcer", move || run(&received, &conflicts, state, output))?;
        Ok(Announcer { events, thread: Some(thread) })
    }

    /// Lets the announcements begin: the workers poll.
    pub fn begin(&self) {
        let _ = self.events.send(Event::Begin);
    }

    /// Where it is reported that an interface is polled again.
    pub(super) fn polls(&self) -> Polls {
        Polls(self.events.clone())
    }

    /// What publications are reported to.
    pub(super) fn follower(&self) -> Follower {
        Follower { events: self.events.clone(), net_generation: 0 }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        let _ = self.events.send(Event::End);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

/// Passes on to the thread which links are polled.
pub(super) struct Polls(Sender<Event>);

impl Polls {
    /// The port's interface is polled again, and has this index.
    pub(super) fn polled(&self, port: PortId, index: u32) {
        // A thread that has ended needs no events.
        let _ = self.0.send(Event::Polled(port, index));
    }
}

/// Passes publications on to the thread.
pub(super) struct Follower {
    events: Sender<Event>,
    net_generation: u64,
}

impl Follower {
    /// Follows a publication: addresses that are not owned any more, and that now are, and the kernel's network.
    pub(super) fn follow(&mut self, removed: &[IpAddr], added: &[IpAddr], tables: &Tables) {
        // A thread that has ended needs no events.
        if tables.net().generation() != self.net_generation {
            self.net_generation = tables.net().generation();
            let _ = self.events.send(Event::Network(Arc::clone(tables.net())));
        }
        let added: Vec<_> =
            added.iter().filter_map(|&address| Some((address, reach(tables.owned(address)?)))).collect();
        if !removed.is_empty() || !added.is_empty() {
            let _ = self.events.send(Event::Owned { removed: removed.to_vec(), added });
        }
    }
}

fn reach(kind: OwnedKind) -> Reach {
    if kind.may_be_on_link() { Reach::Link } else { Reach::Route }
}

/// The thread's body.
fn run(received: &Receiver<Event>, conflicts: &Conflicts, mut state: State, mut output: Output) {
    loop {
        let now = Instant::now();
        std::iter::from_fn(|| conflicts.take()).for_each(|conflict| state.meet(conflict, now));
        if let Some(count) = state.guard.left_out(now) {
            warn!(
                "other hosts use {count} further addresses of the gateway, or want to: within the last minute, too many to log each"
            );
        }
        while let Some(target) = state.schedule.pop(now) {
            if state.is_current(target) {
                output.announce(target, &state.net);
            }
        }
        let look = now + BETWEEN_LOOKS;
        match received.recv_deadline(state.schedule.next(now).map_or(look, |next| next.min(look))) {
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(events) => state.apply(events, Instant::now()),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// What is owned, where, and what waits to be announced.
struct State {
    owned: HashMap<IpAddr, Reach>,
    net: Arc<Net>,
    /// The index of the interface that is polled; what is there at first is.
    polled: BTreeMap<PortId, u32>,
    links: BTreeMap<PortId, LinkState>,
    /// The MAC address by which hosts know an address of the host itself.
    known: HashMap<Target, Mac>,
    schedule: Schedule,
    guard: Guard,
    has_begun: bool,
}

/// Addresses of the host that are remembered, with those that it has no more.
const REMEMBERED: usize = 1024;

/// What announcements on a link depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LinkState {
    index: u32,
    mac: Mac,
    /// Up, and polled.
    up: bool,
    /// How often it has come up.
    ups: u32,
    /// The networks of its own addresses.
    networks: BTreeSet<IpNet>,
}

impl State {
    fn new() -> State {
        State {
            owned: HashMap::new(),
            net: Arc::default(),
            polled: BTreeMap::new(),
            links: BTreeMap::new(),
            known: HashMap::new(),
            schedule: Schedule::new(),
            guard: Guard::default(),
            has_begun: false,
        }
    }

    fn apply(&mut self, events: Event, now: Instant) {
        match events {
            Event::Owned { removed, added } => {
                removed.into_iter().for_each(|address| self.forget(address));
                for (address, reach) in added {
                    self.owned.insert(address, reach);
                    let ports: Vec<PortId> = self.links.keys().copied().collect();
                    ports.into_iter().for_each(|port| self.add(port, address, reach, now));
                }
            }
            Event::Network(net) => self.follow_network(net, now),
            Event::Polled(port, index) => {
                self.polled.insert(port, index);
                self.follow_network(Arc::clone(&self.net), now);
            }
            Event::Begin if self.has_begun => {}
            Event::Begin => {
                self.has_begun = true;
                let ports: Vec<PortId> = self.links.keys().copied().collect();
                ports.into_iter().for_each(|port| self.add_all(port, now));
            }
            Event::End => {}
        }
    }

    fn link_states(&mut self, net: &Net) -> BTreeMap<PortId, LinkState> {
        let facts = net.facts();
        let mut state = |link: &Link| {
            let own = facts.addresses.iter().filter(|(index, _)| *index == link.index);
            let networks = own.map(|(_, address)| address.trunc()).filter(|network| !is_link_local(network)).collect();
            let port = link.port?;
            let up = link.up && *self.polled.entry(port).or_insert(link.index) == link.index;
            Some((port, LinkState { index: link.index, mac: link.mac, up, ups: link.ups, networks }))
        };
        // No host asks on the host pair.
        facts.links.iter().filter(|link| !net.is_pair(link.mac)).filter_map(&mut state).collect()
    }

    fn forget(&mut self, address: IpAddr) {
        self.owned.remove(&address);
        self.links.keys().for_each(|&port| self.schedule.cancel((port, address)));
    }

    fn follow_network(&mut self, net: Arc<Net>, now: Instant) {
        let links = self.link_states(&net);
        let before = std::mem::replace(&mut self.links, links);
        self.net = net;
        let changed = |(port, link): (&PortId, &LinkState)| {
            (link.up && before.get(port).is_none_or(|known| known != link)).then_some(*port)
        };
        let changed: Vec<PortId> = self.links.iter().filter_map(changed).collect();
        changed.into_iter().for_each(|port| self.add_all(port, now));
        self.add_own(now);
    }

    /// Announces addresses of the host that hosts know by another MAC address.
    fn add_own(&mut self, now: Instant) {
        let net = Arc::clone(&self.net);
        let target = |(index, address): &(u32, IpNet)| {
            let (port, link) = self.links.iter().find(|(_, link)| link.index == *index && link.up)?;
            Some(((*port, address.addr()), link.mac))
        };
        // Link-local ones come of the MAC address.
        let present = net.facts().addresses.iter().filter(|(_, address)| !is_link_local(address));
        let present: Vec<(Target, Mac)> = present.filter_map(target).collect();
        if self.known.len() > REMEMBERED {
            self.known.clear();
        }
        for (target, mac) in present {
            if self.known.insert(target, mac).is_some_and(|known| known != mac) && self.has_begun {
                self.schedule.add(target, now);
            }
        }
    }

    /// Whether an address that waits is still to be announced.
    fn is_current(&self, (port, address): Target) -> bool {
        let own = self.links.get(&port).is_some_and(|link| self.net.kernel_has(address) == Some(link.index));
        own || self.owned.contains_key(&address)
    }

    /// Announces every address on this link, as far as it is on it.
    fn add_all(&mut self, port: PortId, now: Instant) {
        let owned: Vec<_> = self.owned.iter().map(|(&address, &reach)| (address, reach)).collect();
        owned.into_iter().for_each(|(address, reach)| self.add(port, address, reach, now));
    }

    fn add(&mut self, port: PortId, address: IpAddr, reach: Reach, now: Instant) {
        if self.has_begun && self.is_announced(port, address, reach) {
            self.schedule.add((port, address), now);
        }
    }

    /// Another host uses an owned address, or wants to.
    fn meet(&mut self, conflict: Conflict, now: Instant) {
        let Conflict { address, mac, port, claim } = conflict;
        if !self.owned.contains_key(&address) {
            return;
        }
        if self.guard.may_log(address, now) {
            let interface = self.net.port_link(port).map_or("an interface that is gone", |link| &link.name);
            match claim {
                Claim::Used => warn!(
                    "{address}: the host with the MAC address {mac} on {interface} uses this address of the gateway too, and \
                     gets part of its packets: remove the address there, or stop one of two gateways"
                ),
                Claim::Wanted => warn!(
                    "{address}: the host with the MAC address {mac} on {interface} wants to use this address of the gateway, and \
                     was told that it is in use: give that host another address"
                ),
            }
        }
        // Who only asked has had its reply.
        if claim == Claim::Used && self.guard.may_defend(address, now) {
            self.schedule.add_once((port, address), now);
        }
    }

    fn is_announced(&self, port: PortId, address: IpAddr, reach: Reach) -> bool {
        let contains = |link: &LinkState| link.networks.iter().any(|network| network.contains(&address));
        let Some(link) = self.links.get(&port).filter(|link| link.up) else { return false };
        // What the kernel has as well is not ours to announce.
        if self.net.kernel_has(address).is_some() {
            return false;
        }
        contains(link) || (reach == Reach::Link && !self.links.values().any(contains))
    }
}

/// Link-local networks, which every IPv6 link has, contain no owned address. They come a while after the link.
fn is_link_local(network: &IpNet) -> bool {
    matches!(network, IpNet::V6(v6) if v6.addr().is_unicast_link_local())
}

/// Where announcements go.
struct Output {
    socket: SendOnly,
    counters: Arc<Counters>,
    /// Interfaces on which the last one was not sent.
    failing: BTreeSet<PortId>,
}

impl Output {
    fn announce(&mut self, (port, address): Target, net: &Net) {
        // A link that comes up again has everything announced anew.
        let Some(link) = net.port_link(port).filter(|link| link.up) else { return };
        for frame in frames(address, link.mac) {
            match self.socket.send(link.index, &frame) {
                Ok(()) => {
                    self.counters.beside_workers().announced.add(1);
                    self.failing.remove(&port);
                }
                Err(error) if self.failing.insert(port) => {
                    warn!(
                        "{}: announcing {address}: {error}; hosts that know it by another MAC address find it later",
                        link.name
                    );
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pollgate_common::net::Facts;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Two polled links and one that is not: 192.168.0.0/24 and 2001:db8:1::/64; 10.0.0.0/8; 172.16.0.0/12.
    fn facts() -> Facts {
        let link = |index: u32, port: Option<u16>| {
            let mac = Mac([2, 0, 0, 0, 0, u8::try_from(index).expect("small")]);
            Link {
                index,
                name: format!("eth{index}"),
                port: port.map(PortId),
                mac,
                mtu: 1500,
                up: true,
                ups: 1,
                deletions: 0,
            }
        };
        let address = |index, text: &str| (index, text.parse().expect("a prefix"));
        Facts {
            links: vec![link(1, Some(0)), link(2, Some(1)), link(3, None)],
            addresses: vec![
                address(1, "192.168.0.1/24"),
                address(1, "2001:db8:1::1/64"),
                address(2, "10.0.0.1/8"),
                address(3, "172.16.0.1/12"),
            ],
            ..Facts::default()
        }
    }

    struct Bench {
        state: State,
        facts: Facts,
        generation: u64,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            let mut bench = Bench { state: State::new(), facts: facts(), generation: 0, now: Instant::now() };
            bench.network(|_| {});
            bench
        }

        fn network(&mut self, change: impl FnOnce(&mut Facts)) {
            change(&mut self.facts);
            self.generation += 1;
            let net = Arc::new(Net::new(self.generation, self.facts.clone()));
            self.state.apply(Event::Network(net), self.now);
        }

        fn owned(&mut self, removed: &[&str], added: &[(&str, Reach)]) {
            let removed = removed.iter().map(|address| ip(address)).collect();
            let added = added.iter().map(|&(address, reach)| (ip(address), reach)).collect();
            self.state.apply(Event::Owned { removed, added }, self.now);
        }

        fn begin(&mut self) {
            self.state.apply(Event::Begin, self.now);
        }

        /// What is announced at once: port and address.
        fn announced(&mut self) -> BTreeSet<(u16, String)> {
            let popped: Vec<Target> = std::iter::from_fn(|| self.state.schedule.pop(self.now)).collect();
            let current = popped.into_iter().filter(|target| self.state.is_current(*target));
            let seen = current.map(|(PortId(port), address)| (port, address.to_string())).collect();
            // Later rounds are the schedule's own.
            self.state.schedule = Schedule::new();
            seen
        }
    }

    fn expected(targets: &[(u16, &str)]) -> BTreeSet<(u16, String)> {
        targets.iter().map(|&(port, address)| (port, address.to_owned())).collect()
    }

    #[test]
    fn nothing_is_announced_before_the_workers_poll() {
        let mut bench = Bench::new();
        bench.owned(&[], &[("192.168.0.10", Reach::Link)]);
        bench.network(|facts| facts.links[0].mac = Mac([2; 6]));
        assert_eq!(bench.announced(), expected(&[]));
        bench.begin();
        assert_eq!(bench.announced(), expected(&[(0, "192.168.0.10")]));
        bench.begin();
        assert_eq!(bench.announced(), expected(&[]), "the gateway starts once");
    }

    #[test]
    fn an_address_is_announced_on_its_own_link_or_on_all_if_no_link_has_it() {
        let mut bench = Bench::new();
        bench.begin();
        bench.owned(
            &[],
            &[
                ("192.168.0.10", Reach::Link),
                ("2001:db8:1::10", Reach::Link),
                ("203.0.113.7", Reach::Link),
                ("10.96.0.50", Reach::Route),
                ("198.18.0.1", Reach::Route),
                ("172.16.0.9", Reach::Link),
            ],
        );
        let all = [
            (0, "192.168.0.10"),
            (0, "2001:db8:1::10"),
            (0, "203.0.113.7"),
            (1, "203.0.113.7"),
            (1, "10.96.0.50"),
            (0, "172.16.0.9"),
            (1, "172.16.0.9"),
        ];
        assert_eq!(bench.announced(), expected(&all));
    }

    #[test]
    fn an_address_is_announced_when_it_appears_and_not_once_it_is_gone() {
        let mut bench = Bench::new();
        bench.begin();
        bench.owned(&[], &[("192.168.0.10", Reach::Link)]);
        bench.owned(&["192.168.0.10"], &[("192.168.0.11", Reach::Link)]);
        assert_eq!(bench.announced(), expected(&[(0, "192.168.0.11")]));
        bench.network(|facts| facts.links[0].up = false);
        bench.network(|facts| facts.links[0].up = true);
        assert_eq!(bench.announced(), expected(&[(0, "192.168.0.11")]));
    }

    #[test]
    fn a_link_that_comes_up_or_changes_announces_what_is_on_it() {
        let mut bench = Bench::new();
        bench.owned(&[], &[("192.168.0.10", Reach::Link), ("10.0.0.10", Reach::Link)]);
        bench.network(|facts| facts.links[1].up = false);
        bench.begin();
        assert_eq!(bench.announced(), expected(&[(0, "192.168.0.10")]));
        bench.network(|facts| facts.links[1].up = true);
        assert_eq!(bench.announced(), expected(&[(1, "10.0.0.10")]));
        bench.network(|facts| facts.links[1].ups += 1);
        assert_eq!(bench.announced(), expected(&[(1, "10.0.0.10")]), "it was down for an instant");
        bench.network(|facts| facts.links[0].mac = Mac([2; 6]));
        assert_eq!(
            bench.announced(),
            expected(&[(0, "192.168.0.1"), (0, "2001:db8:1::1"), (0, "192.168.0.10")]),
            "another MAC address: the host's own, too"
        );
        bench.network(|facts| facts.addresses.push((2, "192.168.0.2/24".parse().expect("a prefix"))));
        assert_eq!(bench.announced(), expected(&[(1, "192.168.0.10"), (1, "10.0.0.10")]), "another network");
        bench.network(|facts| facts.links[0].mtu = 9000);
        bench.network(|facts| facts.neighbours.push((1, ip("192.168.0.7"), Mac([7; 6]))));
        bench.network(|facts| facts.links[2].mac = Mac([3; 6]));
        assert_eq!(bench.announced(), expected(&[]), "nothing that concerns announcements");
    }

    #[test]
    fn a_link_that_was_created_again_announces_when_it_is_polled() {
        let mut bench = Bench::new();
        bench.owned(&[], &[("192.168.0.10", Reach::Link), ("10.0.0.10", Reach::Link)]);
        bench.begin();
        bench.announced();
        bench.network(|facts| {
            facts.links[0].index = 9;
            facts.addresses.iter_mut().filter(|(index, _)| *index == 1).for_each(|(index, _)| *index = 9);
        });
        assert_eq!(bench.announced(), expected(&[]), "nobody would get what is sent there");
        bench.state.apply(Event::Polled(PortId(0), 9), bench.now);
        assert_eq!(bench.announced(), expected(&[(0, "192.168.0.10")]));
        bench.state.apply(Event::Polled(PortId(0), 9), bench.now);
        assert_eq!(bench.announced(), expected(&[]));
    }

    #[test]
    fn the_hosts_own_addresses_are_announced_when_their_link_has_another_mac_address() {
        let mut bench = Bench::new();
        bench.begin();
        assert_eq!(bench.announced(), expected(&[]), "the kernel's, and known");
        bench.network(|facts| facts.links[0].mac = Mac([2; 6]));
        assert_eq!(bench.announced(), expected(&[(0, "192.168.0.1"), (0, "2001:db8:1::1")]));
        bench.network(|facts| facts.links[2].mac = Mac([3; 6]));
        assert_eq!(bench.announced(), expected(&[]), "it is not polled");
        // Deleted, and created again: the address comes after the link.
        bench.network(|facts| {
            facts.links.remove(0);
            facts.addresses.retain(|(index, _)| *index != 1);
        });
        let link = Link { index: 9, mac: Mac([9; 6]), port: Some(PortId(0)), ..facts().links[0].clone() };
        bench.network(|facts| facts.links.push(link));
        bench.state.apply(Event::Polled(PortId(0), 9), bench.now);
        assert_eq!(bench.announced(), expected(&[]));
        bench.network(|facts| facts.addresses.push((9, "192.168.0.1/24".parse().expect("a prefix"))));
        assert_eq!(bench.announced(), expected(&[(0, "192.168.0.1")]));
        bench.network(|facts| facts.addresses.push((9, "192.168.0.2/24".parse().expect("a prefix"))));
        assert_eq!(bench.announced(), expected(&[]), "no host knows it by another");
        // One that goes while it waits is not announced.
        bench.network(|facts| facts.links.iter_mut().for_each(|link| link.mac = Mac([4; 6])));
        bench.network(|facts| facts.addresses.clear());
        assert_eq!(bench.announced(), expected(&[]));
    }

    #[test]
    fn an_address_that_another_host_uses_is_announced_once_more_where_that_host_is() {
        let mut bench = Bench::new();
        bench.owned(&[], &[("192.168.0.10", Reach::Link), ("192.168.0.11", Reach::Link)]);
        bench.begin();
        bench.announced();
        let conflict =
            |address: &str, claim| Conflict { address: ip(address), mac: Mac([9; 6]), port: PortId(1), claim };
        bench.state.meet(conflict("192.168.0.10", Claim::Used), bench.now);
        bench.state.meet(conflict("192.168.0.10", Claim::Used), bench.now);
        bench.state.meet(conflict("192.168.0.11", Claim::Wanted), bench.now);
        bench.state.meet(conflict("192.168.0.12", Claim::Used), bench.now);
        assert_eq!(bench.state.schedule.pop(bench.now), Some((PortId(1), ip("192.168.0.10"))));
        assert_eq!((bench.state.schedule.pop(bench.now), bench.state.schedule.next(bench.now)), (None, None));
    }

    #[test]
    fn an_address_that_the_kernel_has_too_is_not_announced() {
        let mut bench = Bench::new();
        bench.network(|facts| facts.addresses.push((3, "192.168.0.10/32".parse().expect("a prefix"))));
        bench.owned(&[], &[("192.168.0.10", Reach::Link)]);
        bench.begin();
        assert_eq!(bench.announced(), expected(&[]));
    }
}

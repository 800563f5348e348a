//! The host's network as the kernel knows it, in the form that workers use.
//!
//! Links, routes and neighbours are managed by the kernel and its usual tools. This is an immutable copy of them. The host
//! network (netlink) makes it, or offline the configuration; it is published with the tables. A worker uses it for one
//! look-up, [`Net::next_hop`]: the port and the MAC address for a destination.
//!
//! ```text
//!  destination ─longest prefix─▶ route ─▶ link (+ gateway or the destination itself) ─▶ neighbour ─▶ NextHop
//! ```
//!
//! A next hop is looked up when a flow opens and again when [`Net::generation`] has changed. So the look-up may cost one
//! hash probe per prefix length in use (rarely more than four), and routes are kept as the kernel has them, without a
//! flattened table. If a route has several next hops, the first is used. Policy routing rules are ignored.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::hash::{HashMap, new_map};
use crate::pair;

/// A hardware (MAC) address, in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether the group bit is set (multicast, broadcast): IEEE 802-2014 §8.2.2.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = || format!("expected a MAC address such as 02:00:00:00:00:01, found {text:?}");
        let mut mac = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(fault)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| fault())?;
        }
        if parts.next().is_some() { Err(fault()) } else { Ok(Mac(mac)) }
    }
}

/// Number of a worker's port: the interface's position in the configuration, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// The network that a source is counted with, where hosts share a limit: its /24 (IPv4) or /56 (IPv6), by which name servers limit their
/// responses. IPv4 networks are those of mapped addresses (RFC 4291 §2.5.5.2).
#[inline]
pub fn source_prefix(source: IpAddr) -> u128 {
    match source {
        IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits() >> 8) << 8,
        IpAddr::V6(address) => (address.to_bits() >> 72) << 72,
    }
}

/// One link of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The kernel's interface index.
    pub index: u32,
    /// The interface's name, for messages.
    pub name: String,
    /// The port that polls the link; `None` if the configuration does not name it.
    pub port: Option<PortId>,
    /// The link's own hardware address.
    pub mac: Mac,
    /// Largest IP packet the link carries, in bytes.
    pub mtu: u32,
    /// Whether the link is administratively up and has carrier.
    pub up: bool,
    /// How often its carrier has come: it differs after a link was down, however short.
    pub ups: u32,
    /// How often the kernel has reported that a link of this port was deleted: it differs after a link was created again, also under
    /// the same index. 0 for links without a port.
    pub deletions: u32,
}

/// One route of the main table, to one next hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Destination prefix.
    pub to: IpNet,
    /// The next hop's address; `None` if the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// Interface index of the outgoing link.
    pub link: u32,
    /// Among routes to the same prefix the smallest metric wins.
    pub metric: u32,
}

/// Links, addresses, routes and neighbours from the kernel, in any order: the input of [`Net::new`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// All links, whether polled or not.
    pub links: Vec<Link>,
    /// The addresses configured on links, with their prefix: (interface index, address).
    pub addresses: Vec<(u32, IpNet)>,
    /// Unicast routes of the main table.
    pub routes: Vec<Route>,
    /// Usable neighbour entries: (interface index, address, MAC).
    pub neighbours: Vec<(u32, IpAddr, Mac)>,
}

/// Where a frame goes next: the port, both MAC addresses and the MTU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The outgoing port.
    pub port: PortId,
    /// Source MAC: the link's own.
    pub src: Mac,
    /// Destination MAC: the neighbour's.
    pub dst: Mac,
    /// Largest IP packet the link carries, in bytes.
    pub mtu: u32,
}

/// Why there is no next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoNextHop {
    /// The neighbour's MAC address is not known yet. The kernel must be asked for it.
    Neighbour(NeighbourQuery),
    /// No route covers the destination.
    NoRoute,
    /// No port polls the link of the route.
    Unpolled,
    /// The link is down.
    LinkDown,
}

/// A neighbour to resolve. A worker passes it to the control thread, which asks the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct NeighbourQuery {
    /// Interface index.
    pub link: u32,
    /// The neighbour's address.
    pub address: IpAddr,
}

/// An immutable copy of the host's network, compiled for look-ups.
#[derive(Debug, Default)]
pub struct Net {
    generation: u64,
    facts: Facts,
    ports: Vec<Option<usize>>,
    by_index: HashMap<u32, usize>,
    /// Prefix length → (network → route), longest first, separate for IPv4 and IPv6.
    v4: Vec<(u8, HashMap<IpAddr, usize>)>,
    v6: Vec<(u8, HashMap<IpAddr, usize>)>,
    neighbours: HashMap<(u32, IpAddr), Mac>,
    local: HashMap<IpAddr, u32>,
    /// Where packets to the kernel's own addresses go.
    pair: Option<NextHop>,
}

impl Net {
    /// Compiles `facts`. `generation` must differ from that of every other `Net` that a worker may have seen.
    pub fn new(generation: u64, facts: Facts) -> Net {
        let mut net = Net { generation, ..Net::default() };
        net.by_index = new_map();
        for (at, link) in facts.links.iter().enumerate() {
            net.by_index.insert(link.index, at);
            if let Some(port) = link.port {
                let slot = usize::from(port.0);
                if net.ports.len() <= slot {
                    net.ports.resize(slot + 1, None);
                }
                net.ports[slot] = Some(at);
            }
        }
        for (at, route) in facts.routes.iter().enumerate() {
            net.add_route(&facts, at, route);
        }
        net.v4.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        net.v6.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        net.neighbours = facts.neighbours.iter().map(|&(link, ip, mac)| ((link, ip), mac)).collect();
        net.local = facts.addresses.iter().map(|(link, ip)| (ip.addr(), *link)).collect();
        net.pair = pair_hop(&facts);
        net.facts = facts;
        net
    }

    fn add_route(&mut self, facts: &Facts, at: usize, route: &Route) {
        let levels = if route.to.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let len = route.to.prefix_len();
        let level = match levels.iter().position(|(l, _)| *l == len) {
            Some(level) => level,
            None => {
                levels.push((len, new_map()));
                levels.len() - 1
            }
        };
        let slot = levels[level].1.entry(route.to.network()).or_insert(at);
        if route.metric < facts.routes[*slot].metric {
            *slot = at;
        }
    }

    /// Changes whenever anything a next hop depends on has changed. It is 0 only before the first view of the network.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The links, addresses, routes and neighbours it was compiled from.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The link that `port` polls, if the kernel has it.
    pub fn port_link(&self, port: PortId) -> Option<&Link> {
        let at = (*self.ports.get(usize::from(port.0))?)?;
        self.facts.links.get(at)
    }

    /// Whether a polled link has this MAC address.
    pub fn is_own_mac(&self, mac: Mac) -> bool {
        self.ports.iter().flatten().any(|&at| self.facts.links[at].mac == mac)
    }

    /// The interface index of the link on which the kernel has `address` configured.
    pub fn kernel_has(&self, address: IpAddr) -> Option<u32> {
        self.local.get(&address).copied()
    }

    /// Whether a port whose link has this MAC address is the workers' end of the host pair.
    pub fn is_pair(&self, own: Mac) -> bool {
        self.pair.is_some_and(|pair| pair.src == own)
    }

    /// The next hop into the host pair.
    pub fn pair(&self) -> Option<&NextHop> {
        self.pair.as_ref()
    }

    /// Whether `address` is the kernel's and reached through the host pair.
    pub fn is_behind_pair(&self, address: IpAddr) -> bool {
        self.pair.is_some() && self.is_local(address)
    }

    /// Whether packets to `address` are for a process of the host. Loopback addresses are never on a link.
    fn is_local(&self, address: IpAddr) -> bool {
        !address.is_loopback() && self.local.contains_key(&address)
    }

    /// The next hop for `destination`.
    pub fn next_hop(&self, destination: IpAddr) -> Result<NextHop, NoNextHop> {
        if let Some(pair) = self.pair.filter(|_| self.is_local(destination)) {
            return Ok(pair);
        }
        let route = self.route(destination).ok_or(NoNextHop::NoRoute)?;
        let link = self.by_index.get(&route.link).map(|&at| &self.facts.links[at]).ok_or(NoNextHop::NoRoute)?;
        let port = link.port.ok_or(NoNextHop::Unpolled)?;
        if !link.up {
            return Err(NoNextHop::LinkDown);
        }
        let address = route.via.unwrap_or(destination);
        match self.neighbours.get(&(link.index, address)) {
            Some(&dst) => Ok(NextHop { port, src: link.mac, dst, mtu: link.mtu }),
            None => Err(NoNextHop::Neighbour(NeighbourQuery { link: link.index, address })),
        }
    }

    /// The route with the longest prefix that covers `destination`.
    pub fn route(&self, destination: IpAddr) -> Option<&Route> {
        let levels = if destination.is_ipv4() { &self.v4 } else { &self.v6 };
        levels.iter().find_map(|(len, networks)| {
            let network = IpNet::new(destination, *len).ok()?.network();
            networks.get(&network).map(|&at| &self.facts.routes[at])
        })
    }
}

/// The next hop into the host pair, if both ends are there and up.
fn pair_hop(facts: &Facts) -> Option<NextHop> {
    let end = |name: &str| facts.links.iter().find(|link| link.name == name && link.up);
    let (data, host) = (end(pair::DATA)?, end(pair::HOST)?);
    Some(NextHop { port: data.port?, src: data.mac, dst: host.mac, mtu: data.mtu })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn link(index: u32, port: Option<u16>) -> Link {
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
    }

    fn route(to: &str, via: Option<&str>, link: u32, metric: u32) -> Route {
        Route { to: to.parse().expect("a prefix"), via: via.map(ip), link, metric }
    }

    fn net() -> Net {
        Net::new(
            1,
            Facts {
                links: vec![link(1, Some(0)), link(2, None), link(3, Some(1))],
                addresses: vec![(1, "192.168.0.1/24".parse().expect("a prefix"))],
                routes: vec![
                    route("0.0.0.0/0", Some("192.168.0.254"), 1, 100),
                    route("0.0.0.0/0", Some("10.9.9.9"), 2, 200),
                    route("192.168.0.0/24", None, 1, 0),
                    route("10.244.0.0/16", None, 3, 0),
                    route("10.244.7.0/24", None, 2, 0),
                ],
                neighbours: vec![(1, ip("192.168.0.254"), Mac([2; 6])), (1, ip("192.168.0.7"), Mac([7; 6]))],
            },
        )
    }

    #[test]
    fn the_longest_prefix_wins_then_the_smaller_metric() {
        let net = net();
        assert_eq!(net.next_hop(ip("192.168.0.7")).map(|h| (h.port, h.dst)), Ok((PortId(0), Mac([7; 6]))));
        assert_eq!(
            net.next_hop(ip("8.8.8.8")).map(|h| h.dst),
            Ok(Mac([2; 6])),
            "the default route with the smaller metric"
        );
        assert_eq!(net.next_hop(ip("10.244.7.1")), Err(NoNextHop::Unpolled));
    }

    #[test]
    fn the_kernels_own_addresses_are_reached_through_the_host_pair() {
        let mut facts = net().facts().clone();
        let end = |name: &str, index, port| Link { name: name.to_owned(), ..link(index, port) };
        facts.addresses.push((1, "127.0.0.1/8".parse().expect("a prefix")));
        facts.links.extend([end(pair::HOST, 8, None), end(pair::DATA, 9, Some(2))]);
        let net = Net::new(2, facts.clone());
        let hop = NextHop { port: PortId(2), src: Mac([2, 0, 0, 0, 0, 9]), dst: Mac([2, 0, 0, 0, 0, 8]), mtu: 1500 };
        assert_eq!(net.next_hop(ip("192.168.0.1")), Ok(hop));
        assert!(net.is_pair(hop.src) && !net.is_pair(hop.dst) && net.is_behind_pair(ip("192.168.0.1")));
        assert_eq!(net.next_hop(ip("192.168.0.7")).map(|hop| hop.port), Ok(PortId(0)), "a neighbour");
        assert!(!net.is_behind_pair(ip("127.0.0.1")), "never on a link");
        facts.links.iter_mut().filter(|link| link.index == 8).for_each(|link| link.up = false);
        let down = Net::new(3, facts);
        assert!(!down.is_pair(hop.src) && !down.is_behind_pair(ip("192.168.0.1")));
    }

    #[test]
    fn a_missing_neighbour_is_named() {
        let query = NeighbourQuery { link: 3, address: ip("10.244.1.2") };
        assert_eq!(net().next_hop(ip("10.244.1.2")), Err(NoNextHop::Neighbour(query)));
        assert_eq!(net().next_hop(ip("2001:db8::1")), Err(NoNextHop::NoRoute));
    }

    #[test]
    fn macs_read_back_as_they_print() {
        let mac: Mac = "02:00:00:00:fe:01".parse().expect("a MAC");
        assert_eq!(mac.to_string(), "02:00:00:00:fe:01");
        for wrong in
            ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:0", "02-00-00-00-00-01", "0g:00:00:00:00:01"]
        {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}

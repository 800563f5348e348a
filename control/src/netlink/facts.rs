//! Netlink messages to facts. Pure: what a message means, and whether it concerns us at all.

use std::net::IpAddr;

use ipnet::IpNet;
use pollgate_common::hash::HashMap;
use pollgate_common::net::{Link, Mac, NeighbourQuery, PortId, Route};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteType,
    RouteVia,
};

/// A link. One without a hardware address (a tunnel) gets zeroes: no port polls it.
pub(super) fn link(message: &LinkMessage, ports: &HashMap<String, PortId>) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        port: None,
        mac: Mac::default(),
        mtu: 0,
        up: false,
        ups: 0,
        deletions: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::CarrierUpCount(count) => link.ups = *count,
            LinkAttribute::Address(bytes) => link.mac = mac(bytes).unwrap_or_default(),
            _ => {}
        }
    }
    link.up = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    link.port = ports.get(&link.name).copied();
    link
}

/// An interface's own address. On a point-to-point link `Local` is ours and `Address` the peer's.
pub(super) fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let (mut local, mut shown) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => shown = Some(*address),
            _ => {}
        }
    }
    let own = IpNet::new(local.or(shown)?, message.header.prefix_len).ok()?;
    Some((message.header.index, own))
}

/// A unicast route of the main table, by its first usable next hop.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let dead = RouteFlags::Dead | RouteFlags::Linkdown | RouteFlags::Cloned;
    if header.kind != RouteType::Unicast || header.flags.intersects(dead) || table(message) != MAIN {
        return None;
    }
    let mut to = None;
    let mut metric = 0;
    let mut hop = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(hops) => hop = first_usable(hops)?,
            other => hop_part(other, &mut hop),
        }
    }
    let unspecified = || match header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet => Some(IpAddr::from([0u8; 4])),
        rtnetlink::packet_route::AddressFamily::Inet6 => Some(IpAddr::from([0u8; 16])),
        _ => None,
    };
    let to = IpNet::new(to.or_else(unspecified)?, header.destination_prefix_length).ok()?;
    Some(Route { to, via: hop.1, link: hop.0?, metric })
}

const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

fn table(message: &RouteMessage) -> u32 {
    let wide = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    wide.unwrap_or_else(|| u32::from(message.header.table))
}

/// Link and gateway of a next hop, as far as one attribute says.
fn hop_part(attribute: &RouteAttribute, hop: &mut (Option<u32>, Option<IpAddr>)) {
    match attribute {
        RouteAttribute::Oif(index) => hop.0 = Some(*index),
        RouteAttribute::Gateway(address) => hop.1 = ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => hop.1 = Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => hop.1 = Some((*address).into()),
        _ => {}
    }
}

fn first_usable(hops: &[RouteNextHop]) -> Option<(Option<u32>, Option<IpAddr>)> {
    let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
    let first = hops.iter().find(|hop| !hop.flags.intersects(dead))?;
    let mut hop = (Some(first.interface_index), None);
    first.attributes.iter().for_each(|attribute| hop_part(attribute, &mut hop));
    Some(hop)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// What is known about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Its MAC, good for use.
    Mac(Mac),
    /// It did not respond.
    Failed,
    /// Nothing yet.
    Nothing,
}

/// An IP neighbour and what is known of it. A group address has no neighbour.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourQuery, Known)> {
    let (mut address, mut lladdr) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::from(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::from(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = mac(bytes),
            _ => {}
        }
    }
    let address = address.filter(|address| !address.is_multicast())?;
    if lladdr.is_some_and(Mac::is_group) {
        return None;
    }
    let known = match message.header.state {
        NeighbourState::Failed => Known::Failed,
        state if is_usable(state) => lladdr.map_or(Known::Nothing, Known::Mac),
        _ => Known::Nothing,
    };
    Some((NeighbourQuery { link: message.header.ifindex, address }, known))
}

/// Stale, delayed and probed entries are as good as reachable ones: the kernel itself sends to them (RFC 4861 §7.3).
fn is_usable(state: NeighbourState) -> bool {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    matches!(state, Permanent | Noarp | Reachable | Stale | Delay | Probe)
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollgate_common::hash::new_map;
    use rtnetlink::packet_route::AddressFamily;

    fn v4(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn route_message(attributes: Vec<RouteAttribute>, length: u8) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = length;
        message.attributes = attributes;
        message
    }

    fn destination(text: &str) -> RouteAttribute {
        RouteAttribute::Destination(v4(text).into())
    }

    #[test]
    fn a_default_route_has_no_destination_and_a_link_route_no_gateway() {
        let gateway = RouteAttribute::Gateway(v4("192.168.0.254").into());
        let default = route_message(vec![gateway, RouteAttribute::Oif(2), RouteAttribute::Priority(100)], 0);
        let expected =
            Route { to: "0.0.0.0/0".parse().expect("a prefix"), via: Some(v4("192.168.0.254")), link: 2, metric: 100 };
        assert_eq!(route(&default), Some(expected));
        let on_link = route_message(vec![destination("10.0.0.0"), RouteAttribute::Oif(3)], 8);
        let expected = Route { to: "10.0.0.0/8".parse().expect("a prefix"), via: None, link: 3, metric: 0 };
        assert_eq!(route(&on_link), Some(expected));
    }

    #[test]
    fn other_tables_types_and_dead_routes_are_not_ours() {
        let ours = || route_message(vec![destination("10.0.0.0"), RouteAttribute::Oif(3)], 8);
        assert!(route(&ours()).is_some());
        let mut other = ours();
        other.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(route(&other), None);
        let mut other = ours();
        other.header.kind = RouteType::BlackHole;
        assert_eq!(route(&other), None);
        let mut other = ours();
        other.header.flags = RouteFlags::Linkdown;
        assert_eq!(route(&other), None);
    }

    #[test]
    fn of_several_next_hops_the_first_living_one_is_taken() {
        let hop = |index, gateway: &str, flags| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop.flags = flags;
            hop.attributes = vec![RouteAttribute::Gateway(v4(gateway).into())];
            hop
        };
        let hops = |first| vec![hop(1, "10.1.0.1", first), hop(2, "10.2.0.1", RouteNextHopFlags::empty())];
        let of =
            |first| route(&route_message(vec![RouteAttribute::MultiPath(hops(first))], 0)).map(|r| (r.link, r.via));
        assert_eq!(of(RouteNextHopFlags::empty()), Some((1, Some(v4("10.1.0.1")))));
        assert_eq!(of(RouteNextHopFlags::Dead), Some((2, Some(v4("10.2.0.1")))));
    }

    fn neighbour_message(address: &str, state: NeighbourState, lladdr: Option<[u8; 6]>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = state;
        message.attributes = vec![NeighbourAttribute::Destination(v4(address).into())];
        message.attributes.extend(lladdr.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
        message
    }

    #[test]
    fn a_neighbour_is_known_by_its_mac_in_every_state_the_kernel_sends_in() {
        use NeighbourState::{Delay, Failed, Incomplete, None as New, Permanent, Probe, Reachable, Stale};
        let known = |state, lladdr| neighbour(&neighbour_message("10.0.0.7", state, lladdr)).map(|(_, known)| known);
        let mac = [2, 0, 0, 0, 0, 7];
        for state in [Permanent, Reachable, Stale, Delay, Probe] {
            assert_eq!(known(state, Some(mac)), Some(Known::Mac(Mac(mac))), "{state:?}");
        }
        assert_eq!(known(Incomplete, None), Some(Known::Nothing));
        assert_eq!(known(New, Some(mac)), Some(Known::Nothing));
        assert_eq!(known(Failed, Some(mac)), Some(Known::Failed));
        assert_eq!(known(NeighbourState::Noarp, Some([1, 0, 0x5e, 0, 0, 1])), None, "a group MAC");
        assert_eq!(neighbour(&neighbour_message("224.0.0.1", Stale, Some(mac))), None, "a group address");
    }

    #[test]
    fn a_link_is_up_with_its_carrier_and_knows_its_port() {
        let mut message = LinkMessage::default();
        message.header.index = 4;
        message.header.flags = LinkFlags::Up;
        message.attributes =
            vec![LinkAttribute::IfName("eth1".to_owned()), LinkAttribute::Mtu(1500), LinkAttribute::CarrierUpCount(7)];
        let mut ports = new_map();
        ports.insert("eth1".to_owned(), PortId(3));
        let without_carrier = link(&message, &ports);
        assert_eq!((without_carrier.up, without_carrier.port, without_carrier.mtu), (false, Some(PortId(3)), 1500));
        message.header.flags |= LinkFlags::LowerUp;
        let with_carrier = link(&message, &ports);
        assert_eq!((with_carrier.up, with_carrier.ups), (true, 7));
    }
}

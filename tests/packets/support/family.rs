//! The family of the suite that this module is compiled into.
//!
//! Tests write every address as IPv4. In the IPv6 suite it stands for an IPv6 address: `a.b.c.d` is `2001:db8::a.b.c.d` on the
//! wire and in every object; the addresses of the host pair stand for those of that family. So one test shows the same rule for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use pollgate_common::net::Facts;
use pollgate_common::pair;

use super::super::IS_V6;

/// EtherType of the family.
pub(crate) const ETHER_TYPE: u16 = if IS_V6 { 0x86dd } else { 0x0800 };
/// Type of an echo request.
pub(crate) const ECHO_REQUEST: u8 = if IS_V6 { 128 } else { 8 };
/// Type and code of the errors that others send: time exceeded, port unreachable, packet too big.
pub(crate) const ERRORS: [(u8, u8); 3] = if IS_V6 { [(3, 0), (1, 4), (2, 0)] } else { [(11, 0), (3, 3), (3, 4)] };
/// Offsets of the bytes of an IP header that say how many hops are left, with the header's sum.
pub(crate) const HOPS: &[usize] = if IS_V6 { &[7] } else { &[8, 10, 11] };
/// Counter of questions for a link-layer address that are left to the kernel.
pub(crate) const RESOLUTION: &str = if IS_V6 { "neighbour_discovery" } else { "arp" };
/// Bytes of an IP header without options or extension headers.
pub(crate) const HEADER: usize = if IS_V6 { 40 } else { 20 };
/// Most bytes of a packet that an ICMP error quotes: RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c).
pub(crate) const QUOTED: usize = if IS_V6 { 1280 - 48 } else { 576 - 28 };
/// The bytes of an IP header that translating the destination changes: hop limit, header sum, address.
pub(crate) const CHANGED: &[std::ops::Range<usize>] = if IS_V6 { &[7..8, 24..40] } else { &[8..9, 10..12, 16..20] };

const NETWORK: u128 = 0x2001_0db8 << 96;

/// What `address` is on the wire.
pub(crate) fn wire(address: Ipv4Addr) -> IpAddr {
    if !IS_V6 {
        return address.into();
    }
    match address {
        _ if address.is_unspecified() => Ipv6Addr::UNSPECIFIED.into(),
        _ if address.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        _ if address.is_broadcast() => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        _ if address.is_multicast() => Ipv6Addr::from_bits(0xff0e << 112 | u128::from(address.to_bits())).into(),
        pair::HOST_V4 => pair::HOST_V6.into(),
        pair::DATA_V4 => pair::DATA_V6.into(),
        _ => Ipv6Addr::from_bits(NETWORK | u128::from(address.to_bits())).into(),
    }
}

/// How a test writes an address of the wire.
pub(crate) fn written(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(pair::HOST_V6) => pair::HOST_V4,
        IpAddr::V6(pair::DATA_V6) => pair::DATA_V4,
        IpAddr::V6(v6) => {
            let bits = v6.to_bits() ^ NETWORK;
            let host = u32::try_from(bits).unwrap_or_else(|_| panic!("{v6} stands for no address of a test"));
            Ipv4Addr::from_bits(host)
        }
    }
}

/// The octets of an address on the wire.
pub(crate) fn octets(address: Ipv4Addr) -> Vec<u8> {
    match wire(address) {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn wire_net(net: IpNet) -> IpNet {
    match net {
        IpNet::V4(v4) if IS_V6 => {
            let len = if v4.prefix_len() == 0 { 0 } else { v4.prefix_len() + 96 };
            IpNet::new(wire(v4.addr()), len).expect("at most 128")
        }
        other => other,
    }
}

/// What the kernel would say.
pub(crate) fn wire_facts(facts: &Facts) -> Facts {
    let address = |address: IpAddr| if let IpAddr::V4(v4) = address { wire(v4) } else { address };
    let mut facts = facts.clone();
    facts.addresses.iter_mut().for_each(|(_, net)| *net = wire_net(*net));
    facts.neighbours.iter_mut().for_each(|(_, neighbour, _)| *neighbour = address(*neighbour));
    for route in &mut facts.routes {
        route.to = wire_net(route.to);
        route.via = route.via.map(address);
    }
    facts
}

/// YAML with every IPv4 address and network in it replaced by what it stands for.
pub(crate) fn wire_yaml(text: &str) -> String {
    if !IS_V6 {
        return text.to_owned();
    }
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let is_inside_word = rest[..start].ends_with(|c: char| c.is_alphanumeric() || "-_.:".contains(c));
        let end =
            rest[start..].find(|c: char| !c.is_ascii_digit() && !"./".contains(c)).map_or(rest.len(), |n| start + n);
        out.push_str(&rest[..start]);
        match address_or_net(&rest[start..end]) {
            Some(mapped) if !is_inside_word && out.ends_with('"') => out.push_str(&mapped),
            Some(mapped) if !is_inside_word => out.push_str(&format!("\"{mapped}\"")),
            _ => out.push_str(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    (out + rest).replace("addressType: IPv4", "addressType: IPv6")
}

fn address_or_net(text: &str) -> Option<String> {
    match text.parse::<Ipv4Addr>() {
        Ok(address) => Some(wire(address).to_string()),
        Err(_) => text.parse().ok().map(|net| wire_net(net).to_string()),
    }
}

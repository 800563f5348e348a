//! A Service's names, in wire format (Kubernetes DNS specification 1.1.0, §2.3–2.5).
//!
//! | Service | name | records |
//! |---|---|---|
//! | with ClusterIP | `svc.ns.svc.ZONE` | A of each IPv4 ClusterIP, AAAA of each IPv6 one |
//! | headless | `svc.ns.svc.ZONE` | A/AAAA of each ready endpoint; without any, the name does not exist |
//! | ExternalName | `svc.ns.svc.ZONE` | CNAME |
//!
//! The namespaces above them exist without records (RFC 8020: what has something below it exists).

use std::net::IpAddr;

use pollgate_common::dns::zone::{Node, RrSet, rr, to_wire};

use crate::compile::resolve::ResolvedService;

/// The node at a Service's own name; `None` if that name does not exist.
pub fn node(service: &ResolvedService, ttl: u32) -> Option<Node> {
    if let Some(target) = &service.external_name {
        // An address is no name: such a Service has no record (as with CoreDNS).
        let target = Some(target).filter(|name| name.parse::<IpAddr>().is_err()).and_then(|name| to_wire(name))?;
        return Some(Node { cname: Some(set(rr::CNAME, ttl, [&*target])), sets: Vec::new() });
    }
    let addresses: Vec<IpAddr> = match service.headless {
        true => service.ready_addresses.iter().map(|ready| ready.address).collect(),
        false => service.cluster_ips.clone(),
    };
    if addresses.is_empty() {
        return None;
    }
    Some(Node { cname: None, sets: address_sets(&addresses, ttl) })
}

/// The name of a Service below `domain`, on the wire; `None` if the parts make no name.
pub fn service_name(service: &ResolvedService, domain: &str) -> Option<Box<[u8]>> {
    to_wire(&format!("{}.{}.svc.{domain}", service.name.name, service.name.namespace))
}

/// The name of a namespace below `domain`, on the wire.
pub fn namespace_name(namespace: &str, domain: &str) -> Option<Box<[u8]>> {
    to_wire(&format!("{namespace}.svc.{domain}"))
}

fn address_sets(addresses: &[IpAddr], ttl: u32) -> Vec<(u16, RrSet)> {
    let mut v4: Vec<[u8; 4]> = Vec::new();
    let mut v6: Vec<[u8; 16]> = Vec::new();
    for address in addresses {
        match address {
            IpAddr::V4(v4_address) => v4.push(v4_address.octets()),
            IpAddr::V6(v6_address) => v6.push(v6_address.octets()),
        }
    }
    v4.sort_unstable();
    v4.dedup();
    v6.sort_unstable();
    v6.dedup();
    let sets = [
        (rr::A, set(rr::A, ttl, v4.iter().map(<[u8; 4]>::as_slice))),
        (rr::AAAA, set(rr::AAAA, ttl, v6.iter().map(<[u8; 16]>::as_slice))),
    ];
    sets.into_iter().filter(|(_, set)| set.count > 0).collect()
}

/// Records of one type over `data`, each with the pointer to the question's name (RFC 1035 §3.2.1).
fn set<'a>(rtype: u16, ttl: u32, data: impl IntoIterator<Item = &'a [u8]>) -> RrSet {
    const IN: u16 = 1;
    let (mut bytes, mut count) = (Vec::new(), 0u16);
    for rdata in data {
        let Ok(len) = u16::try_from(rdata.len()) else { continue };
        bytes.extend([0xc0, 0x0c]);
        bytes.extend(rtype.to_be_bytes());
        bytes.extend(IN.to_be_bytes());
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(rdata);
        count += 1;
    }
    RrSet { count, bytes: bytes.into() }
}

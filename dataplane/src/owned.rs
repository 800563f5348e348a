//! Rules about owned addresses that more than one stage needs.

use std::net::IpAddr;

use pollgate_common::flow::Address;
use pollgate_common::tables::{OwnedKind, Tables};

use crate::packet::Packet;

/// Whether `src` is an IPv6 address that is unique on its link only: no packet from it may leave the link (RFC 4291 §2.5.6).
fn is_link_local(src: IpAddr) -> bool {
    matches!(src, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether `src` may be the source of a packet to an owned address. RFC 1122 §3.2.1.3 lists the sources that no host may use;
/// and no other host may use an owned address, or one that may become a ClusterIP.
pub(crate) fn may_send(src: IpAddr, tables: &Tables) -> bool {
    let broadcast = matches!(src, IpAddr::V4(v4) if v4.is_broadcast());
    let impossible = src.is_unspecified() || src.is_loopback() || src.is_multicast() || broadcast;
    !impossible && tables.owned(src).is_none() && !tables.settings().is_service_cidr(src)
}

/// Whether `packet` may open a flow: by the host pair only the host itself sends, and by no other interface.
pub(crate) fn may_open<A: Address>(packet: &Packet<A>, tables: &Tables) -> bool {
    let src = packet.key.src.into();
    let is_host = tables.net().is_pair(packet.own);
    is_host == tables.net().is_behind_pair(src) && may_go_on(src, is_host, tables)
}

/// Whether `packet`, to an owned address of this kind, came by an interface that the address is not on: those of the host pair are on no
/// other link (RFC 1122 §3.3.4.2, RFC 3927 §2.7: no router passes them on).
pub(crate) fn is_astray<A: Address>(packet: &Packet<A>, kind: OwnedKind, tables: &Tables) -> bool {
    match kind {
        OwnedKind::Pair => !tables.net().is_pair(packet.own),
        OwnedKind::Gateway | OwnedKind::ClusterIp | OwnedKind::LoadBalancer | OwnedKind::External => false,
    }
}

/// Whether a packet from `src` may be translated and sent on. `is_host`: it came by the host pair. Its link-local addresses do
/// not leave the host, since the source is translated.
pub(crate) fn may_go_on(src: IpAddr, is_host: bool, tables: &Tables) -> bool {
    if is_host { may_send(src, tables) } else { may_pass(src, tables) }
}

/// Whether a packet from `src` may be translated and sent on.
fn may_pass(src: IpAddr, tables: &Tables) -> bool {
    may_send(src, tables) && !is_link_local(src)
}

/// Whether pollgate answers for `address` on every link. The kernel knows the MAC address of the host pair, and no other host asks.
pub(crate) fn is_on_links(address: IpAddr, tables: &Tables) -> bool {
    match tables.owned(address) {
        Some(OwnedKind::Gateway | OwnedKind::ClusterIp | OwnedKind::LoadBalancer | OwnedKind::External) => true,
        Some(OwnedKind::Pair) | None => false,
    }
}

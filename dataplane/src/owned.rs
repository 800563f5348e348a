//! Rules about owned addresses that more than one stage needs.

use std::net::IpAddr;

use pollgate_common::tables::Tables;

/// Whether `src` is an IPv6 address that is unique on its link only: no packet from it may leave the link (RFC 4291 §2.5.6).
fn is_link_local(src: IpAddr) -> bool {
    matches!(src, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether `src` may be the source of a packet to an owned address. RFC 1122 §3.2.1.3 lists the sources that no host may use;
/// and no other host may use an owned address.
pub(crate) fn may_send(src: IpAddr, tables: &Tables) -> bool {
    let broadcast = matches!(src, IpAddr::V4(v4) if v4.is_broadcast());
    let impossible = src.is_unspecified() || src.is_loopback() || src.is_multicast() || broadcast;
    !impossible && tables.owned(src).is_none()
}

/// Whether a packet from `src` may be translated and sent on.
pub(crate) fn may_pass(src: IpAddr, tables: &Tables) -> bool {
    may_send(src, tables) && !is_link_local(src)
}

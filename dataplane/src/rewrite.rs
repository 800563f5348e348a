//! Rewriting: a flow's translation applied to one packet, and frames turned round where they stand.
//!
//! Checksums are updated by the flow's precomputed differences; see [`crate::wire::checksum`] for complete and partial
//! sums. Nothing here can fail on a packet that parsing has let through: if a header were not there, it is left alone.

use std::net::IpAddr;

use pollgate_common::flow::V4;
use pollgate_common::net::{Mac, NextHop};

use crate::flow::Translation;
use crate::packet::{Kind, Packet};
use crate::port::Frame;
use crate::wire::Header;
use crate::wire::checksum::Transport;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::Ipv4;
use crate::wire::tcp::Tcp;
use crate::wire::udp::Udp;

/// New addresses, ports and sums; one hop less.
#[inline]
pub(crate) fn translate(frame: &mut Frame, packet: &Packet, translation: &Translation<V4>) {
    let to = &translation.to;
    let delta = match frame.offload().is_partial() {
        true => Transport::partial(translation.addresses),
        false => Transport::full(translation.whole),
    };
    let l4 = packet.l4;
    let bytes = frame.bytes_mut();
    if let Some(ip) = Ipv4::at_mut(bytes, ethernet::LEN) {
        ip.translate(to.src.0, to.dst.0, translation.addresses);
    }
    match packet.kind {
        Kind::Tcp => {
            if let Some(tcp) = Tcp::at_mut(bytes, l4) {
                tcp.translate(to.src_port, to.dst_port, delta);
            }
        }
        _ => {
            if let Some(udp) = Udp::at_mut(bytes, l4) {
                udp.translate(to.src_port, to.dst_port, delta);
            }
        }
    }
}

/// Addresses the frame to the next hop.
#[inline]
pub(crate) fn address(frame: &mut Frame, hop: &NextHop) {
    if let Some(header) = Ethernet::at_mut(frame.bytes_mut(), 0) {
        header.set_addresses(hop.src, hop.dst);
    }
}

/// Whether the IP packet of `len` bytes in the frame is more than the next hop's link carries. A super-frame never is.
#[inline]
pub(crate) fn is_too_long(len: usize, frame: &Frame, hop: &NextHop) -> bool {
    len > hop.mtu as usize && !frame.offload().is_gso()
}

/// Bytes of the IPv4 packet in the frame, as it says itself.
pub(crate) fn total_len(frame: &Frame) -> usize {
    Ipv4::at(frame.bytes(), ethernet::LEN).map_or(0, Ipv4::total_len)
}

/// Sends an IPv4 packet back to its sender: MACs and addresses change places, the time to live starts anew. The sum
/// follows from the same rule as any translation: swapping two words changes nothing.
pub(crate) fn reply_in_place(frame: &mut Frame, own: Mac) {
    let bytes = frame.bytes_mut();
    if let Some(header) = Ethernet::at_mut(bytes, 0) {
        header.reply_in_place(own);
    }
    if let Some(ip) = Ipv4::at_mut(bytes, ethernet::LEN) {
        ip.reply_in_place();
    }
}

/// Says how long the IPv4 packet in the frame is.
pub(crate) fn set_total_len(frame: &mut Frame, total_len: u16) {
    if let Some(ip) = Ipv4::at_mut(frame.bytes_mut(), ethernet::LEN) {
        ip.set_total_len(total_len);
    }
}

/// Whom the IPv4 packet in the frame is for.
pub(crate) fn destination(frame: &Frame) -> Option<IpAddr> {
    Ipv4::at(frame.bytes(), ethernet::LEN).map(|ip| IpAddr::V4(ip.dst()))
}

//! Rewriting: a flow's translation applied to one packet, and frames sent back where they came from.
//!
//! Checksums are updated by the flow's precomputed differences; see [`crate::wire::checksum`] for complete and partial
//! sums, and [`crate::wire::sctp`] for SCTP's. Nothing here can fail on a packet that parsing has let through: a header that is not
//! there is left alone.

use std::ops::Range;

use pollgate_common::net::{Mac, NextHop};

use crate::flow::Translation;
use crate::packet::{Packet, Transport};
use crate::port::{Frame, Offload};
use crate::wire::checksum;
use crate::wire::control::{Control, Ports};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::sctp::{self, Sctp};
use crate::wire::tcp::{self, Tcp};
use crate::wire::udp::{self, Udp};
use crate::wire::{Header, Ip, Piece};

/// New addresses, ports and sums; one hop less.
#[inline]
pub(crate) fn translate<I: Ip>(frame: &mut Frame, packet: &Packet<I::Address>, translation: &Translation<I::Address>) {
    let to = &translation.to;
    let delta = match frame.offload().is_partial() {
        true => checksum::Transport::partial(translation.addresses),
        false => checksum::Transport::full(translation.whole),
    };
    let l4 = packet.l4;
    let bytes = frame.bytes_mut();
    if let Some(ip) = I::at_mut(bytes, ethernet::LEN) {
        ip.translate(to.src, to.dst, translation.addresses);
    }
    match packet.transport {
        Transport::Tcp => {
            if let Some(tcp) = Tcp::at_mut(bytes, l4) {
                tcp.translate(to.src_port, to.dst_port, delta);
            }
        }
        Transport::Udp => {
            if let Some(udp) = Udp::at_mut(bytes, l4) {
                udp.translate(to.src_port, to.dst_port, delta);
            }
        }
        Transport::Sctp(_) if packet.piece == Piece::First => {
            if let Some(sctp) = Sctp::at_mut(bytes, l4) {
                sctp.translate(to.src_port, to.dst_port, packet.whole_len.into());
            }
        }
        Transport::Sctp(_) => translate_sctp(frame, l4..l4 + packet.l4_len, (to.src_port, to.dst_port)),
        // They have no flows: `Packet::can_have_flow`.
        Transport::Icmp(_) | Transport::Other => {}
    }
}

/// New ports for the SCTP packet in these bytes of the frame. A checksum that the sender has left to hardware is computed here, since
/// the kernel takes what a frame leaves to offload for an Internet checksum (struct virtio_net_hdr cannot say CRC32c).
#[cold]
fn translate_sctp(frame: &mut Frame, at: Range<usize>, (src_port, dst_port): (u16, u16)) {
    let is_left_to_hardware = frame.offload().is_partial();
    let Some(packet) = frame.bytes_mut().get_mut(at) else { return };
    sctp::translate(packet, src_port, dst_port);
    if is_left_to_hardware {
        sctp::complete(packet);
        frame.set_offload(Offload::default());
    }
}

/// New addresses for a fragment without transport header; one hop less.
pub(crate) fn later<I: Ip>(frame: &mut Frame, translation: &Translation<I::Address>) {
    if let Some(ip) = I::at_mut(frame.bytes_mut(), ethernet::LEN) {
        ip.translate(translation.to.src, translation.to.dst, translation.addresses);
    }
}

/// An ICMP error about a packet of a flow, for the end that sent the packet (RFC 5508 §4.2, for both families): the quoted packet
/// becomes what that end has sent, the error goes to it, and comes from the address that it knows if the other end sent it.
pub(crate) fn quoted<I: Ip>(frame: &mut Frame, packet: &Packet<I::Address>, translation: &Translation<I::Address>) {
    let (to, l4) = (&translation.to, packet.l4);
    let end = l4 + packet.l4_len;
    let Some(bytes) = frame.bytes_mut().get_mut(..end) else { return };
    let Some(outer) = I::at_mut(bytes, ethernet::LEN) else { return };
    let words = |address: I::Address| -> std::net::IpAddr { address.into() };
    let from = outer.src();
    let src = if from == packet.key.src { to.src } else { from };
    let before = [words(from).into(), words(outer.dst()).into()];
    let addresses = checksum::delta(&before, &[words(src).into(), words(to.dst).into()]);
    outer.translate(src, to.dst, addresses);
    if packet.piece == Piece::Later {
        return;
    }
    let Some(data) = bytes.get_mut(l4 + size_of::<I::Control>()..) else { return };
    let before = checksum::sum(data);
    sent_as::<I>(data, translation);
    let delta = checksum::fold(checksum::sum(data) + u32::from(!checksum::fold(before)));
    if let Some(message) = I::Control::at_mut(bytes, l4) {
        message.adjust(delta, addresses);
    }
}

/// The packet of the opposite direction at the start of `quoted`, as its sender has sent it. It may be truncated.
fn sent_as<I: Ip>(quoted: &mut [u8], translation: &Translation<I::Address>) {
    let to = &translation.to;
    let Some((ip, upper)) = I::quoted(quoted) else { return };
    let len = ip.total_len().saturating_sub(upper.offset);
    if let Some(ip) = I::at_mut(quoted, 0) {
        ip.set_addresses(to.dst, to.src, translation.addresses);
    }
    let delta = checksum::Transport::full(translation.whole);
    match upper.protocol {
        tcp::PROTOCOL => {
            if let Some(tcp) = Tcp::at_mut(quoted, upper.offset) {
                return tcp.translate(to.dst_port, to.src_port, delta);
            }
        }
        udp::PROTOCOL => {
            if let Some(udp) = Udp::at_mut(quoted, upper.offset) {
                return udp.translate(to.dst_port, to.src_port, delta);
            }
        }
        sctp::PROTOCOL if upper.piece == Piece::Whole => {
            if let Some(sctp) = Sctp::at_mut(quoted, upper.offset) {
                return sctp.translate(to.dst_port, to.src_port, len);
            }
        }
        // Of a fragment, the length that the checksum depends on is not known.
        sctp::PROTOCOL => {}
        // Parsing lets no other protocol through.
        _ => return,
    }
    if let Some(ports) = Ports::at_mut(quoted, upper.offset) {
        ports.set(to.dst_port, to.src_port);
    }
}

/// Addresses the frame to the next hop.
#[inline]
pub(crate) fn address(frame: &mut Frame, next: &NextHop) {
    if let Some(header) = Ethernet::at_mut(frame.bytes_mut(), 0) {
        header.set_addresses(next.src, next.dst);
    }
}

/// Whether the IP packet of `len` bytes in the frame is more than the next hop's link carries. Of a super-frame, the segments
/// count that the kernel or the hardware makes of it.
#[inline]
pub(crate) fn is_too_long(len: usize, frame: &Frame, next: &NextHop) -> bool {
    len > next.mtu as usize && (!frame.offload().is_gso() || segment_len(len, frame) > next.mtu as usize)
}

/// Bytes of the IP packets that a super-frame of `len` bytes becomes. Its transport header is where its sum starts.
#[cold]
fn segment_len(len: usize, frame: &Frame) -> usize {
    let offload = frame.offload();
    let l4 = usize::from(offload.csum_start);
    let header = match usize::from(offload.csum_offset) {
        tcp::CHECKSUM => Tcp::at(frame.bytes(), l4).map_or(tcp::LEN, Tcp::header_len),
        _ => udp::LEN,
    };
    len.min((l4 + header + usize::from(offload.gso_size)).saturating_sub(ethernet::LEN))
}

/// Sends an IP packet back to its sender: MAC and IP addresses are swapped, the hop limit starts anew.
pub(crate) fn reply_in_place<I: Ip>(frame: &mut Frame, own: Mac) {
    let bytes = frame.bytes_mut();
    if let Some(header) = Ethernet::at_mut(bytes, 0) {
        header.reply_in_place(own);
    }
    if let Some(ip) = I::at_mut(bytes, ethernet::LEN) {
        ip.reply_in_place();
    }
}

/// Sets the length of the IP packet in the frame.
pub(crate) fn set_total_len<I: Ip>(frame: &mut Frame, total_len: u16) {
    if let Some(ip) = I::at_mut(frame.bytes_mut(), ethernet::LEN) {
        ip.set_total_len(total_len);
    }
}

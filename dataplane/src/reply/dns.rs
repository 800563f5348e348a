//! DNS answered inline: the query's frame becomes the answer ([`pollgate_common::dns::answer`]).

use pollgate_common::dns::answer::{NoAnswer, answer};
use pollgate_common::dns::zone::Zone;
use pollgate_common::reasons::DropReason;
use zerocopy::IntoBytes;

use crate::packet::{Action, Packet};
use crate::port::{Frame, Offload};
use crate::rewrite;
use crate::wire::udp::{self, Udp};
use crate::wire::{Header, Ip, checksum, ethernet};

/// Turns the query in the frame into its answer.
pub(crate) fn write<I: Ip>(frame: &mut Frame, packet: &Packet<I::Address>, zone: &Zone) -> Action {
    let start = packet.l4 + udp::LEN;
    let length = Udp::at(frame.bytes(), packet.l4).map_or(0, Udp::length);
    let query = length.min(packet.l4_len).saturating_sub(udp::LEN);
    let Some(message) = frame.buffer_mut().get_mut(start..) else { return Action::Drop(DropReason::NoRoomForAnswer) };
    let written = match answer(message, query, zone) {
        Ok(len) => address::<I>(frame, packet, len),
        Err(NoAnswer::NotAQuery) => return Action::Drop(DropReason::DnsMalformed),
        Err(NoAnswer::NoRoom) => None,
    };
    match written {
        Some(()) => Action::Send(frame.received_on()),
        None => Action::Drop(DropReason::NoRoomForAnswer),
    }
}

/// Addresses the answer of `len` bytes, in place behind the UDP header, back to the client.
fn address<I: Ip>(frame: &mut Frame, packet: &Packet<I::Address>, len: usize) -> Option<()> {
    let (key, l4) = (packet.key, packet.l4);
    let udp_len = udp::LEN + len;
    let end = l4 + udp_len;
    if end > frame.room() {
        return None;
    }
    let mut header = Udp::make(key.dst_port, key.src_port, u16::try_from(udp_len).ok()?);
    let message = frame.buffer_mut().get(l4 + udp::LEN..end)?;
    let pseudo = checksum::pseudo(key.dst, key.src, udp::PROTOCOL, udp_len);
    header.set_checksum(!checksum::fold(pseudo + checksum::sum(header.as_bytes()) + checksum::sum(message)));
    frame.buffer_mut().get_mut(l4..l4 + udp::LEN)?.copy_from_slice(header.as_bytes());
    frame.set_len(end);
    frame.set_offload(Offload::default());
    rewrite::set_total_len::<I>(frame, u16::try_from(end - ethernet::LEN).ok()?);
    rewrite::reply_in_place::<I>(frame, packet.own);
    Some(())
}

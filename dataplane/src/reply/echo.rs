//! ICMP echo for owned addresses (RFC 792, RFC 1122 §3.2.2.6), answered in the same buffer.

use pollgate_common::reasons::DropReason;

use crate::packet::{Packet, Verdict};
use crate::port::Frame;
use crate::rewrite;
use crate::wire::Header;
use crate::wire::icmp::{self, Icmp};

/// Answers an echo request; any other message to an owned address is a counted drop.
pub(crate) fn answer(frame: &mut Frame, packet: &Packet) -> Verdict {
    let port = frame.received_on();
    let l4 = packet.l4;
    // Behind a shorter message the frame has padding, not a header.
    if packet.l4_len < icmp::LEN {
        return Verdict::Drop(DropReason::Icmp);
    }
    let Some(icmp) = Icmp::at_mut(frame.bytes_mut(), l4) else { return Verdict::Drop(DropReason::Icmp) };
    if !icmp.is_echo_request() {
        return Verdict::Drop(DropReason::Icmp);
    }
    icmp.answer();
    rewrite::reply_in_place(frame, packet.own);
    Verdict::Send(port)
}

//! Echo replies of owned addresses (RFC 792, RFC 1122 §3.2.2.6; RFC 4443 §4.2), in the request's own buffer.

use pollgate_common::reasons::DropReason;

use crate::packet::{Action, Packet};
use crate::port::Frame;
use crate::rewrite;
use crate::wire::{Control, Header, Ip, Piece};

/// Turns the echo request in the frame into its reply. A later fragment of one has no header to turn.
pub(crate) fn write<I: Ip>(frame: &mut Frame, packet: &Packet<I::Address>) -> Action {
    if packet.piece != Piece::Later {
        let message = I::Control::at_mut(frame.bytes_mut(), packet.l4);
        let Some(message) = message else { return Action::Drop(DropReason::Icmp) };
        message.reply_in_place();
    }
    rewrite::reply_in_place::<I>(frame, packet.own);
    Action::Send(frame.received_on())
}

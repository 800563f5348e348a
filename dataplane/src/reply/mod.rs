//! Replies: frames that pollgate writes itself, each in the buffer of the frame that caused it.
//!
//! * [`arp`]: who has an owned address.
//! * [`echo`]: echo replies of owned addresses.
//! * [`dns`]: answers of the cluster's DNS server.
//! * [`reject`]: what a refused sender gets.

pub(crate) mod arp;
pub(crate) mod dns;
pub(crate) mod echo;
pub(crate) mod reject;

use pollgate_common::settings::DataplaneSettings;

use crate::packet::{Packet, Verdict};
use crate::port::Frame;
use crate::wire::Ip;

/// Writes the reply that `verdict` asks for, if any, into the frame. Returns what then becomes of the frame: the reply is sent
/// by the port the frame came by, and a refusal that cannot be written is a plain drop.
pub(crate) fn act<I: Ip>(
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    verdict: Verdict,
    settings: &DataplaneSettings,
) -> Verdict {
    match verdict {
        Verdict::EchoReply => echo::reply::<I>(frame, packet),
        Verdict::Refuse(reason, how) => match reject::write::<I>(frame, packet, how, settings) {
            Some(()) => verdict,
            None => Verdict::Drop(reason),
        },
        Verdict::Send(_) | Verdict::Pend | Verdict::HandOver(_) | Verdict::Pass(_) | Verdict::Drop(_) => verdict,
    }
}

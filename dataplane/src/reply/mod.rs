//! Replies: frames that pollgate writes itself, each in the buffer of the frame that caused it.
//!
//! * [`arp`]: who has an owned address.
//! * [`nd`]: the same for IPv6.
//! * [`echo`]: echo replies of owned addresses.
//! * [`dns`]: answers of the cluster's DNS server.
//! * [`reject`]: what a refused sender gets.

pub(crate) mod arp;
pub(crate) mod dns;
pub(crate) mod echo;
pub(crate) mod nd;
pub(crate) mod reject;

use pollgate_common::reasons::DropReason;
use pollgate_common::tables::Tables;

use crate::packet::{Action, Packet, Verdict};
use crate::port::Frame;
use crate::wire::Ip;

/// Carries out `verdict` as far as a reply is to be written into the frame. A refusal that cannot be written is a plain drop.
#[inline]
pub(crate) fn act<I: Ip>(frame: &mut Frame, packet: &Packet<I::Address>, verdict: Verdict, tables: &Tables) -> Action {
    // Most packets are sent on: they cost no call.
    match verdict {
        Verdict::Send(port) => Action::Send(port),
        other => rarer::<I>(frame, packet, other, tables),
    }
}

#[inline(never)]
fn rarer<I: Ip>(frame: &mut Frame, packet: &Packet<I::Address>, verdict: Verdict, tables: &Tables) -> Action {
    match verdict {
        Verdict::Send(port) => Action::Send(port),
        Verdict::EchoReply => echo::write::<I>(frame, packet),
        // Whole queries are answered before; fragments are dropped with their reason.
        Verdict::DnsReply => Action::Drop(DropReason::DnsFragment),
        Verdict::Refuse(reason, how) => match reject::write::<I>(frame, packet, how, tables.settings()) {
            Some(()) => Action::SendRefusal(reason),
            None => Action::Drop(reason),
        },
        Verdict::Pend => Action::Pend,
        Verdict::HandOver(worker) => Action::HandOver(worker),
        Verdict::HandOn(worker) => Action::HandOn(worker),
        Verdict::Hold(slot) => Action::Hold(slot),
        Verdict::Pass(reason) => Action::Pass(reason),
        Verdict::Drop(reason) => Action::Drop(reason),
    }
}

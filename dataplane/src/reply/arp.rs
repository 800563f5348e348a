//! ARP for owned addresses (RFC 826; RFC 5227 §2.1.1 for probes, which are answered too: the address is taken).

use std::net::IpAddr;

use pollgate_common::reasons::PassReason;
use pollgate_common::tables::Tables;

use crate::packet::{Packet, Verdict};
use crate::port::Frame;
use crate::wire::Header;
use crate::wire::arp::Arp;
use crate::wire::ethernet::{self, Ethernet};

/// Answers "who has" for an owned address, in the same buffer; anything else is the kernel's.
pub(crate) fn answer(frame: &mut Frame, packet: &Packet, tables: &Tables) -> Verdict {
    let (port, own) = (frame.received_on(), packet.own);
    let Some(arp) = Arp::at_mut(frame.bytes_mut(), ethernet::LEN) else { return Verdict::Pass(PassReason::Arp) };
    let announces = arp.sender_ip() == arp.target_ip();
    if !arp.is_request() || announces || tables.owned(IpAddr::V4(arp.target_ip())).is_none() {
        return Verdict::Pass(PassReason::Arp);
    }
    arp.answer(own);
    if let Some(header) = Ethernet::at_mut(frame.bytes_mut(), 0) {
        header.reply_in_place(own);
    }
    Verdict::Send(port)
}

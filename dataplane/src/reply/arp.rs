//! ARP for owned addresses (RFC 826; RFC 5227 §2.1.1 for probes, which are answered too: the address is in use).

use std::net::IpAddr;

use pollgate_common::net::Mac;
use pollgate_common::reasons::PassReason;
use pollgate_common::tables::Tables;

use crate::owned::is_on_links;
use crate::packet::Action;
use crate::port::Frame;
use crate::wire::Header;
use crate::wire::arp::Arp;
use crate::wire::ethernet::{self, Ethernet};

/// Answers "who has" for an owned address, in the same buffer. Any other ARP packet is left to the kernel.
pub(crate) fn reply(frame: &mut Frame, tables: &Tables) -> Action {
    let port = frame.received_on();
    let own: Mac = tables.net().port_link(port).map(|link| link.mac).unwrap_or_default();
    let Some(arp) = Arp::at_mut(frame.bytes_mut(), ethernet::LEN) else { return Action::Pass(PassReason::Arp) };
    let announces = arp.sender_ip() == arp.target_ip();
    if !arp.is_request() || announces || !is_on_links(IpAddr::V4(arp.target_ip()), tables) {
        return Action::Pass(PassReason::Arp);
    }
    arp.answer(own);
    if let Some(header) = Ethernet::at_mut(frame.bytes_mut(), 0) {
        header.reply_in_place(own);
    }
    Action::Send(port)
}

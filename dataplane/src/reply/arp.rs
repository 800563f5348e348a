//! ARP for owned addresses (RFC 826; RFC 5227 §2.1.1 for probes, which are answered too: the address is in use). Hosts that
//! use an owned address are reported (RFC 5227 §2.4).

use std::net::IpAddr;

use pollgate_common::conflicts::{Claim, Conflict};
use pollgate_common::net::{Mac, PortId};
use pollgate_common::reasons::PassReason;
use pollgate_common::tables::Tables;

use crate::owned::is_on_links;
use crate::packet::Action;
use crate::port::Frame;
use crate::state::Shared;
use crate::wire::Header;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::{self, Ethernet};

/// Answers "who has" for an owned address, in the same buffer, and reads what others say of one. Any other ARP packet is left to
/// the kernel.
pub(crate) fn reply(frame: &mut Frame, shared: &mut Shared, tables: &Tables) -> Action {
    let port = frame.received_on();
    let own: Mac = tables.net().port_link(port).map(|link| link.mac).unwrap_or_default();
    let Some(arp) = Arp::at_mut(frame.bytes_mut(), ethernet::LEN) else { return Action::Pass(PassReason::Arp) };
    let Some(operation) = arp.operation() else { return Action::Pass(PassReason::Arp) };
    let (sender, target) = (arp.sender_ip(), arp.target_ip());
    let asks = operation == Operation::Request && sender != target && is_on_links(IpAddr::V4(target), tables);
    let conflict = conflict(arp, asks, port, tables);
    if let Some(conflict) = conflict {
        shared.report(conflict);
    }
    if !asks {
        return if conflict.is_some() { Action::Consume } else { Action::Pass(PassReason::Arp) };
    }
    arp.answer(own);
    if let Some(header) = Ethernet::at_mut(frame.bytes_mut(), 0) {
        header.reply_in_place(own);
    }
    Action::Send(port)
}

/// The use of an owned address by another host: as the sender of the packet, or in a probe, whose sender has no address yet.
fn conflict(arp: &Arp, asks: bool, port: PortId, tables: &Tables) -> Option<Conflict> {
    let sender = IpAddr::V4(arp.sender_ip());
    let (address, claim) = match is_on_links(sender, tables) {
        true => (sender, Claim::Used),
        false if asks && sender.is_unspecified() => (IpAddr::V4(arp.target_ip()), Claim::Wanted),
        false => return None,
    };
    let mac = arp.sender_mac();
    (!tables.net().is_own_mac(mac)).then_some(Conflict { address, mac, port, claim })
}

//! Neighbour discovery for owned addresses (RFC 4861 §7.2.3, §7.2.4). A probe of a host that wants to use the address is
//! answered too, so that it does not (RFC 4862 §5.4). Hosts that use an owned address, or want to, are reported.

use std::net::IpAddr;

use pollgate_common::conflicts::{Claim, Conflict};
use pollgate_common::flow::V6;
use pollgate_common::net::Mac;
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_common::tables::Tables;

use crate::owned::{is_on_links, may_send};
use crate::packet::Action;
use crate::port::{Frame, Offload};
use crate::state::Shared;
use crate::wire::Header;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::nd::{self, Kind, Solicitation};

/// Answers the solicitation of an owned address, in the same buffer, and reads what others say of one. Any other message is left
/// to the kernel.
pub(crate) fn reply(frame: &mut Frame, shared: &mut Shared, tables: &Tables) -> Action {
    let is_owned = |target: V6| is_on_links(IpAddr::V6(target.0), tables);
    match nd::target(frame.bytes(), ethernet::LEN) {
        Some((Kind::Solicitation, target)) if is_owned(target) => answer(frame, shared, tables),
        Some((Kind::Solicitation, _)) => solicitation_of_another(frame, shared, tables),
        Some((Kind::Advertisement, target)) if is_owned(target) => advertisement(frame, target, shared, tables),
        Some((Kind::Advertisement, _)) | None => Action::Pass(PassReason::NeighbourDiscovery),
    }
}

fn answer(frame: &mut Frame, shared: &mut Shared, tables: &Tables) -> Action {
    let is_partial = frame.offload().is_partial();
    let Some(solicitation) = Solicitation::check(frame.bytes(), ethernet::LEN, is_partial) else {
        return Action::Drop(DropReason::NeighbourSolicitation);
    };
    if solicitation.is_probe() {
        report(frame, solicitation.target, sender(frame), Claim::Wanted, shared, tables);
    } else if !may_send(IpAddr::V6(solicitation.src.0), tables) {
        report(frame, solicitation.src, sender(frame), Claim::Used, shared, tables);
        return Action::Drop(DropReason::BadSource);
    }
    match write(frame, &solicitation, tables) {
        Some(()) => Action::Send(frame.received_on()),
        None => Action::Drop(DropReason::NoRoomForAnswer),
    }
}

/// A solicitation of an address that is not owned; its sender may have one that is.
fn solicitation_of_another(frame: &Frame, shared: &mut Shared, tables: &Tables) -> Action {
    let solicitation = Solicitation::check(frame.bytes(), ethernet::LEN, frame.offload().is_partial());
    let is_conflict = solicitation
        .is_some_and(|solicitation| report(frame, solicitation.src, sender(frame), Claim::Used, shared, tables));
    if is_conflict { Action::Consume } else { Action::Pass(PassReason::NeighbourDiscovery) }
}

fn advertisement(frame: &Frame, target: V6, shared: &mut Shared, tables: &Tables) -> Action {
    let Some(mac) = nd::advertised_mac(frame.bytes(), ethernet::LEN, frame.offload().is_partial()) else {
        return Action::Drop(DropReason::NeighbourSolicitation);
    };
    if report(frame, target, mac, Claim::Used, shared, tables) {
        return Action::Consume;
    }
    Action::Pass(PassReason::NeighbourDiscovery)
}

fn sender(frame: &Frame) -> Mac {
    Ethernet::at(frame.bytes(), 0).map(Ethernet::src).unwrap_or_default()
}

/// Reports that the host with the MAC address `mac` has a claim on the address; returns whether it has: the address is owned, and
/// the MAC address not our own.
fn report(frame: &Frame, address: V6, mac: Mac, claim: Claim, shared: &mut Shared, tables: &Tables) -> bool {
    let address = IpAddr::V6(address.0);
    let is_conflict = is_on_links(address, tables) && !tables.net().is_own_mac(mac);
    if is_conflict {
        shared.report(Conflict { address, mac, port: frame.received_on(), claim });
    }
    is_conflict
}

/// Replaces the solicitation by its reply; `None` if the buffer is too small.
fn write(frame: &mut Frame, solicitation: &Solicitation, tables: &Tables) -> Option<()> {
    let own: Mac = tables.net().port_link(frame.received_on()).map(|link| link.mac).unwrap_or_default();
    let end = solicitation.answer_in_place(own, frame.buffer_mut())?;
    frame.set_len(end);
    frame.set_offload(Offload::default());
    Some(())
}

//! Neighbour discovery for owned addresses (RFC 4861 §7.2.3, §7.2.4). A probe of a host that wants to use the address is
//! answered too, so that it does not (RFC 4862 §5.4).

use std::net::IpAddr;

use pollgate_common::net::Mac;
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_common::tables::Tables;

use crate::owned::{is_on_links, may_send};
use crate::packet::Action;
use crate::port::{Frame, Offload};
use crate::wire::ethernet;
use crate::wire::nd::{self, Solicitation};

/// Answers the solicitation of an owned address, in the same buffer. Any other one is left to the kernel.
pub(crate) fn reply(frame: &mut Frame, tables: &Tables) -> Action {
    match nd::target(frame.bytes(), ethernet::LEN) {
        Some(target) if is_on_links(IpAddr::V6(target.0), tables) => {}
        Some(_) | None => return Action::Pass(PassReason::NeighbourDiscovery),
    }
    let is_partial = frame.offload().is_partial();
    let Some(solicitation) = Solicitation::check(frame.bytes(), ethernet::LEN, is_partial) else {
        return Action::Drop(DropReason::NeighbourSolicitation);
    };
    if !solicitation.is_probe() && !may_send(IpAddr::V6(solicitation.src.0), tables) {
        return Action::Drop(DropReason::BadSource);
    }
    match write(frame, &solicitation, tables) {
        Some(()) => Action::Send(frame.received_on()),
        None => Action::Drop(DropReason::NoRoomForAnswer),
    }
}

/// Replaces the solicitation by its reply; `None` if the buffer is too small.
fn write(frame: &mut Frame, solicitation: &Solicitation, tables: &Tables) -> Option<()> {
    let own: Mac = tables.net().port_link(frame.received_on()).map(|link| link.mac).unwrap_or_default();
    let end = solicitation.answer_in_place(own, frame.buffer_mut())?;
    frame.set_len(end);
    frame.set_offload(Offload::default());
    Some(())
}

//! Classification: what a packet that belongs to no known flow is to us.
//!
//! Rules of ownership: a packet for no owned address is the kernel's. For an owned one, Kubernetes decides
//! (`pkg/proxy/nftables/README.md`): an undefined port of a ClusterIP is rejected, an unallocated ClusterIP is dropped, an
//! undefined port of any other address is a counted drop.

use std::net::{IpAddr, Ipv4Addr};

use pollgate_common::flow::Protocol;
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_common::tables::{Frontend, FrontendKey, OwnedKind, Tables};

use crate::packet::{Kind, Packet, Verdict};
use crate::port::Frame;
use crate::reply::{echo, reject};
use crate::steer::Towards;
use crate::worker::State;

/// The frontend a new flow is for, or what becomes of the packet instead.
pub(crate) fn new_flow(
    state: &State,
    frame: &mut Frame,
    packet: &Packet,
    tables: &Tables,
) -> Result<Frontend, Verdict> {
    let key = packet.key;
    let (settings, dst) = (tables.settings(), IpAddr::V4(key.dst.0));
    let protocol = Protocol::from_number(key.protocol).ok_or(Verdict::Drop(DropReason::Protocol))?;
    let frontend = tables.frontend(&FrontendKey { address: dst, port: key.dst_port, protocol });
    // Where there is a Service, the address is owned; its kind matters only where there is none.
    let owned = frontend.map_or_else(|| tables.owned(dst), |frontend| Some(frontend.kind.owned()));
    if owned.is_none() {
        not_owned(dst, tables)?;
    }
    let towards = match (owned, frontend) {
        (None, _) => Towards::Client,
        (Some(OwnedKind::Gateway), None) => Towards::SnatPort,
        (Some(_), _) => Towards::Service,
    };
    let owner = state.steering.owner(&key, towards, settings);
    if owner != state.worker {
        return Err(Verdict::HandOver(owner));
    }
    let Some(kind) = owned else { return Err(Verdict::Pass(PassReason::NotOwned)) };
    if !may_send(key.src.0, tables) {
        return Err(Verdict::Drop(DropReason::BadSource));
    }
    frontend.ok_or_else(|| undefined_port(frame, packet, kind, tables))
}

/// ICMP, other protocols and fragments: answered or dropped for an owned address, the kernel's otherwise.
pub(crate) fn without_flow(frame: &mut Frame, packet: &Packet, tables: &Tables) -> Verdict {
    let dst = IpAddr::V4(packet.key.dst.0);
    if tables.owned(dst).is_none() {
        return not_owned(dst, tables).err().unwrap_or(Verdict::Pass(PassReason::NotOwned));
    }
    match packet.kind {
        _ if !may_send(packet.key.src.0, tables) => Verdict::Drop(DropReason::BadSource),
        Kind::Fragment => Verdict::Drop(DropReason::Fragment),
        Kind::Icmp => echo::answer(frame, packet),
        _ => Verdict::Drop(DropReason::Protocol),
    }
}

/// What is decided about an address pollgate does not own without asking the flow's owner: the kernel's own addresses are
/// the kernel's, unallocated ClusterIPs are nobody's.
fn not_owned(dst: IpAddr, tables: &Tables) -> Result<(), Verdict> {
    if tables.net().kernel_has(dst).is_some() {
        return Err(Verdict::Pass(PassReason::NotOwned));
    }
    if tables.settings().is_service_cidr(dst) {
        return Err(Verdict::Drop(DropReason::NoSuchClusterIp));
    }
    Ok(())
}

/// RFC 1122 §3.2.1.3: sources nobody may have; and nobody else has our addresses.
pub(crate) fn may_send(src: Ipv4Addr, tables: &Tables) -> bool {
    let impossible = src.is_unspecified() || src.is_loopback() || src.is_multicast() || src.is_broadcast();
    !impossible && tables.owned(IpAddr::V4(src)).is_none()
}

fn undefined_port(frame: &mut Frame, packet: &Packet, kind: OwnedKind, tables: &Tables) -> Verdict {
    let settings = tables.settings();
    match kind {
        OwnedKind::ClusterIp => reject::refuse(frame, packet, DropReason::RejectUndefinedPort, settings),
        OwnedKind::Gateway if settings.snat_ports.contains(&packet.key.dst_port) => {
            Verdict::Drop(DropReason::StaleReply)
        }
        _ => Verdict::Drop(DropReason::UndefinedPort),
    }
}

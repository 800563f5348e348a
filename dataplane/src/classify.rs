//! Classification: what the destination of a packet is, and what follows for one that belongs to no known flow.
//!
//! Rules of ownership: a packet to an unowned address is left to the kernel. For an owned one, Kubernetes decides
//! (`pkg/proxy/nftables/README.md`): an undefined port of a ClusterIP is rejected, an unallocated ClusterIP is dropped, an
//! undefined port of any other address is a counted drop.
//!
//! Everything here is pure: from a key and the tables to a verdict.

use std::net::IpAddr;

use pollgate_common::dns::message;
use pollgate_common::flow::{Address, FlowKey, Protocol};
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_common::tables::{Frontend, FrontendKey, OwnedKind, Tables};

use crate::owned::{is_astray, may_open, may_send};
use crate::packet::{Packet, Transport, Verdict};
use crate::reply::reject;
use crate::steer::Towards;
use crate::wire::control::Kind;

/// What an address and port lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A Service.
    Frontend(Frontend),
    /// An owned address on which no Service has that port.
    UndefinedPort(OwnedKind),
    /// An unowned address.
    Unowned,
}

impl Destination {
    /// What the packet's key leads to; or the verdict on an address that needs no flow: the kernel's own one, a ClusterIP that no Service
    /// has, or one that no packet of this interface may be for.
    pub(crate) fn of<A: Address>(packet: &Packet<A>, tables: &Tables) -> Result<Destination, Verdict> {
        let key = &packet.key;
        let address = key.dst.into();
        let protocol = Protocol::from_number(key.protocol).ok_or(Verdict::Drop(DropReason::Protocol))?;
        // A Service's address is owned; its kind matters only where no Service has the port.
        if let Some(frontend) = tables.frontend(&FrontendKey { address, port: key.dst_port, protocol }) {
            return Ok(Destination::Frontend(frontend));
        }
        match tables.owned(address) {
            Some(kind) if is_astray(packet, kind, tables) => Err(Verdict::Drop(DropReason::BadSource)),
            Some(kind) => Ok(Destination::UndefinedPort(kind)),
            None => unowned(address, tables).map(|()| Destination::Unowned),
        }
    }

    /// Which steering rule finds the flow's owner.
    pub(crate) fn towards(self) -> Towards {
        match self {
            Destination::Frontend(_) => Towards::Service,
            Destination::UndefinedPort(OwnedKind::Gateway | OwnedKind::Pair) => Towards::SnatPort,
            Destination::UndefinedPort(OwnedKind::ClusterIp | OwnedKind::LoadBalancer | OwnedKind::External) => {
                Towards::Service
            }
            Destination::Unowned => Towards::Client,
        }
    }
}

/// Whether the packet is for the cluster's DNS server, which has the addresses `dns`.
pub(crate) fn is_query<A: Address>(packet: &Packet<A>, dns: &[IpAddr]) -> bool {
    packet.transport == Transport::Udp && is_for_dns(&packet.key, dns)
}

/// The same, over any transport.
pub(crate) fn is_for_dns<A: Address>(key: &FlowKey<A>, dns: &[IpAddr]) -> bool {
    key.dst_port == message::PORT && dns.contains(&key.dst.into())
}

/// The verdict on a packet for the cluster's DNS server; `None` for any other.
pub(crate) fn dns<A: Address>(packet: &Packet<A>, tables: &Tables) -> Option<Verdict> {
    is_query(packet, &tables.settings().dns).then(|| match may_send(packet.key.src.into(), tables) {
        true => Verdict::DnsReply,
        false => Verdict::Drop(DropReason::BadSource),
    })
}

/// The frontend that a packet without a flow opens one to.
pub(crate) fn new_flow<A: Address>(
    packet: &Packet<A>,
    destination: Destination,
    tables: &Tables,
) -> Result<Frontend, Verdict> {
    match destination {
        Destination::Unowned => Err(Verdict::Pass(PassReason::NotOwned)),
        _ if !may_open(packet, tables) => Err(Verdict::Drop(DropReason::BadSource)),
        Destination::Frontend(frontend) => Ok(frontend),
        Destination::UndefinedPort(kind) => Err(undefined_port(packet, kind, tables)),
    }
}

/// The verdict on a packet that cannot have a flow.
pub(crate) fn without_flow<A: Address>(packet: &Packet<A>, tables: &Tables) -> Verdict {
    let dst = packet.key.dst.into();
    let Some(kind) = tables.owned(dst) else {
        return unowned(dst, tables).err().unwrap_or(Verdict::Pass(PassReason::NotOwned));
    };
    if is_astray(packet, kind, tables) || !may_send(packet.key.src.into(), tables) {
        return Verdict::Drop(DropReason::BadSource);
    }
    match packet.transport {
        Transport::Icmp(Kind::EchoRequest) => Verdict::EchoReply,
        Transport::Icmp(Kind::Error | Kind::Other) => Verdict::Drop(DropReason::Icmp),
        Transport::Tcp | Transport::Udp | Transport::Sctp(_) | Transport::Other => Verdict::Drop(DropReason::Protocol),
    }
}

/// Whether a fragment is to an owned address; otherwise it may be part of a reply. The verdict on one that needs no first fragment.
pub(crate) fn fragment(src: IpAddr, dst: IpAddr, tables: &Tables) -> Result<bool, Verdict> {
    if tables.owned(dst).is_none() {
        return unowned(dst, tables).map(|()| false);
    }
    if may_send(src, tables) { Ok(true) } else { Err(Verdict::Drop(DropReason::BadSource)) }
}

/// The verdict on an unowned address that no flow can change.
fn unowned(dst: IpAddr, tables: &Tables) -> Result<(), Verdict> {
    if tables.net().kernel_has(dst).is_some() {
        return Err(Verdict::Pass(PassReason::NotOwned));
    }
    if tables.settings().is_service_cidr(dst) {
        return Err(Verdict::Drop(DropReason::NoSuchClusterIp));
    }
    Ok(())
}

fn undefined_port<A: Address>(packet: &Packet<A>, kind: OwnedKind, tables: &Tables) -> Verdict {
    let is_snat_port = tables.settings().snat_ports.contains(&packet.key.dst_port);
    match kind {
        OwnedKind::ClusterIp => reject::verdict(packet, DropReason::RejectUndefinedPort),
        OwnedKind::Gateway | OwnedKind::Pair if is_snat_port => {
            reject::unknown_connection(packet, DropReason::StaleReply)
        }
        OwnedKind::Gateway | OwnedKind::LoadBalancer | OwnedKind::External | OwnedKind::Pair => {
            Verdict::Drop(DropReason::UndefinedPort)
        }
    }
}

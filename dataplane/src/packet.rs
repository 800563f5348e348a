//! A packet on its way through the pipeline: its frame, what parsing found, and what becomes of it.

use pollgate_common::flow::{FlowKey, V4};
use pollgate_common::net::{Mac, PortId};
use pollgate_common::reasons::{DropReason, PassReason};

use crate::flow::table::{Candidate, FlowHash};
use crate::wire::ethernet;

/// What a frame carries, as far as the pipeline cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An ARP packet.
    Arp,
    /// TCP over IPv4, not a fragment.
    Tcp,
    /// UDP over IPv4, not a fragment.
    Udp,
    /// ICMP over IPv4, not a fragment.
    Icmp,
    /// Another protocol over IPv4.
    OtherIp,
    /// A fragment of an IPv4 packet.
    Fragment,
}

/// What becomes of a frame. Stages decide it; only `dispatch` acts on it and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send by this port: translated and addressed, or turned into its own answer.
    Send(PortId),
    /// Dropped with this reason; what is in the buffer now is our reply to it, to be sent by this port.
    Refuse(DropReason, PortId),
    /// Translated, but the next hop's MAC is not known: wait for it.
    Hold,
    /// Another worker owns the flow.
    HandOver(u16),
    /// Not ours: the kernel has its own copy.
    Pass(PassReason),
    /// Dropped.
    Drop(DropReason),
}

/// What is known about a frame. The frames of a burst stay where the port put them; what parsing and the stages find out
/// about each is written here, in place, burst after burst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// Addresses always, ports for TCP and UDP.
    pub(crate) key: FlowKey<V4>,
    /// TCP flags; zero for anything else.
    pub(crate) tcp_flags: u8,
    pub(crate) ttl: u8,
    pub(crate) hash: FlowHash,
    /// Where its flow's entry is, if it has one: what the tags say.
    pub(crate) candidate: Candidate,
    pub(crate) kind: Kind,
    /// The MAC of the interface it came in by.
    pub(crate) own: Mac,
    /// Where the transport header starts, from the first byte of the frame.
    pub(crate) l4: usize,
    /// Bytes of transport header and payload.
    pub(crate) l4_len: usize,
    /// `None` until some stage has decided.
    pub(crate) verdict: Option<Verdict>,
}

impl Packet {
    /// Nothing is known yet.
    pub(crate) fn new() -> Packet {
        Packet {
            key: FlowKey::default(),
            tcp_flags: 0,
            ttl: 0,
            hash: FlowHash::default(),
            candidate: Candidate::default(),
            kind: Kind::OtherIp,
            own: Mac::default(),
            l4: 0,
            l4_len: 0,
            verdict: None,
        }
    }

    /// Whether it can belong to a flow.
    #[inline]
    pub(crate) fn has_ports(&self) -> bool {
        matches!(self.kind, Kind::Tcp | Kind::Udp)
    }

    /// Bytes of the IP packet.
    #[inline]
    pub(crate) fn ip_len(&self) -> usize {
        self.l4 + self.l4_len - ethernet::LEN
    }
}

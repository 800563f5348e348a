//! A packet on its way through the pipeline: what parsing found, what the stages decide, and what was done.
//!
//! ```text
//!  Frame ─parse─▶ Packet ─classify, select─▶ Verdict ─reply─▶ Action ─dispatch─▶ sent, dropped, passed, …
//! ```

use pollgate_common::flow::{Address, FlowKey};
use pollgate_common::net::{Mac, PortId};
use pollgate_common::reasons::{DropReason, PassReason};

use crate::flow::entry::Entry;
use crate::flow::life::Signal;
use crate::flow::table::{Candidate, FlowHash};
use crate::fragment::held::Slot;
use crate::wire::sctp::Message;
use crate::wire::tcp::Segment;
use crate::wire::{Piece, control, ethernet};

/// The transport layer of a packet. A new transport does not compile until every stage handles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TCP, header proved.
    Tcp,
    /// UDP, header proved.
    Udp,
    /// SCTP, header and first chunk proved, and what it says about its association.
    Sctp(Message),
    /// A control message of the packet's own family.
    Icmp(control::Kind),
    /// Any other protocol.
    Other,
}

/// What is to be done with a packet. Stages return it and write no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send by this port: translated and addressed.
    Send(PortId),
    /// Send an echo reply.
    EchoReply,
    /// Answer the DNS query.
    DnsReply,
    /// Drop with this reason, and send the sender this reply.
    Refuse(DropReason, Refusal),
    /// Translated, but the next hop's MAC address is not known: keep it until it is.
    Pend,
    /// Another worker owns the flow.
    HandOver(u16),
    /// Another worker owns the flow of this fragment, which this worker may have been handed over itself.
    HandOn(u16),
    /// A fragment whose first one has not come: keep it in this slot.
    Hold(Slot),
    /// Not pollgate's: the kernel has its own copy.
    Pass(PassReason),
    /// Drop.
    Drop(DropReason),
}

/// The reply that a refused sender gets, unless too many have been sent within the last second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A TCP reset from the address it tried.
    Reset,
    /// The same for SCTP: an ABORT, or the SHUTDOWN COMPLETE that ends an unknown association.
    Abort,
    /// ICMP port unreachable from the gateway's address.
    PortUnreachable,
    /// ICMP time exceeded from the gateway's address.
    TimeExceeded,
    /// ICMP fragmentation needed, or ICMPv6 packet too big, with this MTU in bytes, from the gateway's address.
    TooBig(u16),
}

/// What is left to do with a frame once its verdict is carried out: every reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send by this port.
    Send(PortId),
    /// The packet is dropped with this reason. The frame holds pollgate's reply to it: send it by the port it came by.
    SendRefusal(DropReason),
    /// Keep until the next hop's MAC address is known.
    Pend,
    /// Hand over to this worker.
    HandOver(u16),
    /// Hand over to this worker, also if it was handed over before.
    HandOn(u16),
    /// Keep in this slot until the datagram's first fragment comes.
    Hold(Slot),
    /// It was for pollgate itself, which has read it.
    Consume,
    /// Leave to the kernel.
    Pass(PassReason),
    /// Drop.
    Drop(DropReason),
}

/// What a frame adds to the counters of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Index of the service port in the tables; [`Account::NONE`]'s is beyond them.
    pub(crate) service: u32,
    /// The endpoint's slot in the service port.
    pub(crate) slot: u16,
    /// Packets translated, 0 or 1.
    pub(crate) packets: u8,
    /// Flows opened, 0 or 1.
    pub(crate) flows: u8,
}

impl Account {
    /// Nothing.
    pub(crate) const NONE: Account = Account { service: u32::MAX, slot: 0, packets: 0, flows: 0 };

    /// Of a packet of a flow: so many packets and flows.
    #[inline]
    pub(crate) fn of<A>(entry: &Entry<A>, packets: u8, flows: u8) -> Account {
        Account { service: entry.service, slot: entry.backend, packets, flows }
    }
}

/// What is left to do with a frame, and what it counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) action: Action,
    pub(crate) account: Account,
}

impl Outcome {
    /// An action that no endpoint counts.
    pub(crate) const fn of(action: Action) -> Outcome {
        Outcome { action, account: Account::NONE }
    }
}

/// What is known about one packet of a burst. Overwritten in place, burst after burst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<A> {
    /// Addresses always, ports for a TCP, UDP or SCTP packet that is whole or a first fragment. Of an ICMP error about one: the
    /// reverse of the packet that it quotes, so that it belongs to the same flow as what its receiver gets.
    pub(crate) key: FlowKey<A>,
    /// Index of its frame in the burst.
    pub(crate) frame: u8,
    /// What a TCP connection's life depends on; nothing for anything else.
    pub(crate) segment: Segment,
    pub(crate) hop_limit: u8,
    pub(crate) transport: Transport,
    pub(crate) piece: Piece,
    pub(crate) hash: FlowHash,
    /// Where its flow's entry is if it has one, as far as the tags show.
    pub(crate) candidate: Candidate,
    /// The MAC address of the interface it was received on.
    pub(crate) own: Mac,
    /// Where the transport header starts, from the first byte of the frame.
    pub(crate) l4: usize,
    /// Bytes of transport header and payload.
    pub(crate) l4_len: usize,
    /// First fragment of SCTP: the same of the whole packet.
    pub(crate) whole_len: u16,
}

impl<A: Address> Packet<A> {
    /// Nothing is known yet.
    pub(crate) fn new() -> Packet<A> {
        Packet {
            key: FlowKey::default(),
            frame: 0,
            segment: Segment::default(),
            hop_limit: 0,
            transport: Transport::Other,
            piece: Piece::Whole,
            hash: FlowHash::default(),
            candidate: Candidate::default(),
            own: Mac::default(),
            l4: 0,
            l4_len: 0,
            whole_len: 0,
        }
    }

    /// Whether it can belong to a flow as it is.
    #[inline]
    pub(crate) fn can_have_flow(&self) -> bool {
        self.has_ports() && self.piece == Piece::Whole
    }

    /// Whether its datagram can belong to a flow.
    #[inline]
    pub(crate) fn has_ports(&self) -> bool {
        match self.transport {
            Transport::Tcp | Transport::Udp | Transport::Sctp(_) | Transport::Icmp(control::Kind::Error) => true,
            Transport::Icmp(control::Kind::EchoRequest | control::Kind::Other) | Transport::Other => false,
        }
    }

    /// What the packet says to a connection.
    #[inline]
    pub(crate) fn signal(&self) -> Signal {
        match self.transport {
            Transport::Tcp => self.segment.signal(),
            Transport::Sctp(message) => message.signal(),
            Transport::Udp | Transport::Icmp(_) | Transport::Other => Signal::Datagram,
        }
    }

    /// Whether the packet may open or close a connection. SCTP has its own look at each packet.
    #[inline]
    pub(crate) fn is_ordinary(&self) -> bool {
        self.segment.is_ordinary() && !matches!(self.transport, Transport::Sctp(_))
    }

    /// Bytes of the IP packet.
    #[inline]
    pub(crate) fn ip_len(&self) -> usize {
        self.l4 + self.l4_len - ethernet::LEN
    }
}

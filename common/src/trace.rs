//! What a worker would do with a packet: its decisions, as data.
//!
//! The worker makes them with the functions of its packet path and changes nothing. Who asks turns them into words.

use std::net::{IpAddr, SocketAddr};

use crate::flow::Protocol;
use crate::inspect::FlowRecord;
use crate::net::{NextHop, NoNextHop};
use crate::reasons::{DropReason, PassReason};
use crate::tables::{Frontend, OwnedKind};

/// The packet that is traced. If its flow is known it is one in the middle of it, otherwise the first of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedPacket {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source.
    pub from: SocketAddr,
    /// Destination, of the same family.
    pub to: SocketAddr,
}

/// What a worker would do with a packet. What a stage decides is missing if no packet like this gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketTrace {
    /// The worker that was asked.
    pub worker: u16,
    /// The worker that has the flow, or would open it.
    pub owner: u16,
    /// The generation of its tables.
    pub generation: u64,
    /// Whether it is a query for the cluster's DNS server.
    pub is_dns: bool,
    /// The flow it belongs to.
    pub flow: Option<KnownFlow>,
    /// What its destination is.
    pub destination: Option<Destination>,
    /// Which endpoints may get it, and whether its source is to be translated.
    pub policy: Option<Policy>,
    /// The endpoint.
    pub choice: Option<Choice>,
    /// The packet as it is sent on.
    pub sent: Option<SentPacket>,
    /// Where it is sent.
    pub next_hop: Option<Result<NextHop, NoNextHop>>,
    /// Where the reply is sent.
    pub reply: Option<Result<NextHop, NoNextHop>>,
    /// What becomes of it.
    pub end: End,
}

/// A flow in a worker's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownFlow {
    /// The flow.
    pub flow: FlowRecord,
    /// Whether the packet is one of the client's; otherwise it is the backend's.
    pub is_from_client: bool,
}

/// What an address and port are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A Service's.
    Frontend(Frontend),
    /// An owned address on which no Service has that port.
    UndefinedPort(OwnedKind),
    /// An address that pollgate does not own.
    Unowned,
}

/// What a traffic policy decides about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Only endpoints on the gateway's node.
    pub local: bool,
    /// The source is translated.
    pub snat: bool,
    /// Who the client is.
    pub sender: Sender,
}

/// Who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A Pod.
    Pod,
    /// A process of the gateway host.
    Node,
    /// Any other host.
    Outside,
}

/// The endpoint that a new flow gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The endpoint.
    pub backend: SocketAddr,
    /// The client had it before (ClientIP affinity); otherwise the ring chose it.
    pub kept: bool,
    /// The source is translated.
    pub snat: bool,
}

/// The packet as it is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentPacket {
    /// Source address.
    pub source: IpAddr,
    /// Source port; `None` if it is chosen when the flow opens.
    pub port: Option<u16>,
    /// Destination.
    pub to: SocketAddr,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is sent on.
    Sent,
    /// It waits until the next hop's MAC address is known, then it is sent.
    Held,
    /// The worker answers it.
    Answered,
    /// It is dropped, and its sender is told.
    Refused(DropReason, Told),
    /// It is dropped.
    Dropped(DropReason),
    /// It is left to the kernel.
    Passed(PassReason),
    /// Another worker decides.
    Elsewhere,
}

/// What a refused sender gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A TCP reset from the address it tried.
    Reset,
    /// The same for SCTP.
    Abort,
    /// ICMP port unreachable.
    PortUnreachable,
    /// ICMP time exceeded.
    TimeExceeded,
    /// ICMP fragmentation needed, or packet too big, with this MTU in bytes.
    TooBig(u16),
}

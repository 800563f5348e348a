//! Frames that wait for a neighbour's MAC address.
//!
//! The control side is asked once per neighbour. While the kernel resolves it, a few frames wait. They are already
//! translated and lack only the MAC addresses. They are sent as soon as a new view of the network has the MAC address. The
//! kernel's own queue (`net.ipv4.neigh.*.unres_qlen`) is as short, for the same reason: senders retransmit, and memory must
//! stay bounded.

use std::net::IpAddr;
use std::time::Duration;

use pollgate_common::net::{NeighbourQuery, Net, NextHop, NoNextHop};
use pollgate_common::reasons::DropReason;
use pollgate_common::time::Instant;

use crate::port::Frame;
use crate::rewrite;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::{Header, Ip};

/// Maximum number of waiting frames per worker.
pub(crate) const CAPACITY: usize = 128;
/// Maximum number of waiting frames per neighbour.
const PER_NEIGHBOUR: usize = 16;
/// How long a frame waits. The kernel gives up on a neighbour after three probes, one second apart.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// Time between two requests for the same neighbour: a request to the kernel may be lost.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// A frame and what it waits for.
struct Waiting {
    frame: Frame,
    query: NeighbourQuery,
    packet: IpPacket,
    since: Instant,
    /// Time of the last request for the neighbour.
    requested: Instant,
}

/// What is kept of the IP packet in a frame, for either family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpPacket {
    /// Destination address, for the route look-up.
    pub(crate) destination: IpAddr,
    /// Bytes of header and payload.
    len: usize,
}

impl IpPacket {
    /// The IP packet in the frame.
    pub(crate) fn of(frame: &Frame) -> Option<IpPacket> {
        match Ethernet::at(frame.bytes(), 0)?.ether_type() {
            ethernet::IPV4 => IpPacket::read::<Ipv4>(frame),
            ethernet::IPV6 => IpPacket::read::<Ipv6>(frame),
            _ => None,
        }
    }

    fn read<I: Ip>(frame: &Frame) -> Option<IpPacket> {
        let ip = I::at(frame.bytes(), ethernet::LEN)?;
        Some(IpPacket { destination: ip.dst().into(), len: ip.total_len() })
    }
}

/// The waiting frames of one worker.
pub(crate) struct Pending {
    waiting: Vec<Waiting>,
}

impl Pending {
    pub(crate) fn new() -> Pending {
        Pending { waiting: Vec::with_capacity(CAPACITY) }
    }

    /// An empty list without capacity, used while the real one is reviewed. Allocates nothing.
    pub(crate) fn empty() -> Pending {
        Pending { waiting: Vec::new() }
    }

    /// Whether one more frame for `query` may wait, and whether another frame already waits for it (the request is then made).
    pub(crate) fn room_for(&self, query: &NeighbourQuery) -> (bool, bool) {
        let waiting = self.waiting.iter().filter(|waiting| waiting.query == *query).count();
        (self.waiting.len() < CAPACITY && waiting < PER_NEIGHBOUR, waiting > 0)
    }

    /// Keeps a frame that carries `packet`.
    pub(crate) fn add(&mut self, frame: Frame, query: NeighbourQuery, packet: IpPacket, since: Instant) {
        self.waiting.push(Waiting { frame, query, packet, since, requested: since });
    }

    /// Number of waiting frames.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The next neighbour to request again at `now`; `None` if no more is due. Each neighbour is returned once, even if many
    /// frames wait for it.
    pub(crate) fn due(&mut self, now: Instant) -> Option<NeighbourQuery> {
        let query = self.waiting.iter().find(|waiting| now.since(waiting.requested) > REQUEST_INTERVAL)?.query;
        self.waiting.iter_mut().filter(|waiting| waiting.query == query).for_each(|waiting| waiting.requested = now);
        Some(query)
    }

    /// Passes every frame whose wait is over to `done`, in order of arrival, with its next hop or the reason why it has none.
    /// `moved`: the network has changed.
    pub(crate) fn review(
        &mut self,
        net: &Net,
        moved: bool,
        now: Instant,
        mut done: impl FnMut(Frame, Result<NextHop, DropReason>),
    ) {
        let mut at = 0;
        while at < self.waiting.len() {
            match self.waiting[at].result(net, moved, now) {
                // `remove` keeps the order; the list is short.
                Some(result) => done(self.waiting.remove(at).frame, result),
                None => at += 1,
            }
        }
    }
}

impl Waiting {
    /// `None` if the frame must wait longer.
    fn result(&self, net: &Net, moved: bool, now: Instant) -> Option<Result<NextHop, DropReason>> {
        if moved {
            match net.next_hop(self.packet.destination) {
                Ok(next) if rewrite::is_too_long(self.packet.len, &self.frame, &next) => {
                    return Some(Err(DropReason::TxTooLong));
                }
                Ok(next) => return Some(Ok(next)),
                Err(NoNextHop::Neighbour(_)) => {}
                Err(no) => return Some(Err(reason(no))),
            }
        }
        (now.since(self.since) > MAX_WAIT).then_some(Err(DropReason::NeighbourUnresolved))
    }
}

/// The drop reason for a packet without a next hop.
pub(crate) fn reason(no: NoNextHop) -> DropReason {
    match no {
        NoNextHop::Neighbour(_) => DropReason::NeighbourUnresolved,
        NoNextHop::NoRoute => DropReason::NoRoute,
        NoNextHop::Unpolled => DropReason::UnpolledInterface,
        NoNextHop::LinkDown => DropReason::LinkDown,
    }
}

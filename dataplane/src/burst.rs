//! A burst sorted by family: the packets of each lane, the frames that are neither, and what became of each frame.
//!
//! ```text
//!  frames     0   1   2   3   4        (they stay where the port put them)
//!  v4.flows   0       2                packets that can belong to a flow, each with its frame's index
//!  v4.queries                          packets to the cluster's DNS server
//!  v4.others              3            other packets of the family
//!  v6                                  the same
//!  arp            1
//!  nd                                  neighbour solicitations and advertisements
//!  outcomes   ·   ·   ·   ·   ·        one per frame; frame 4 got its own while parsing
//! ```

use std::net::IpAddr;

use pollgate_common::dns::message;
use pollgate_common::flow::{Address, V4, V6};
use pollgate_common::reasons::DropReason;

use crate::classify;
use crate::packet::{Action, Outcome, Packet};
use crate::port::BURST;

/// A list of packets that is filled anew with each burst.
pub(crate) struct Packets<A> {
    list: Box<[Packet<A>; BURST]>,
    count: usize,
}

impl<A: Address> Packets<A> {
    fn new() -> Packets<A> {
        Packets { list: Box::new([Packet::new(); BURST]), count: 0 }
    }

    /// The packet that parsing writes next. It is part of the burst once [`Packets::keep`] was called.
    #[inline]
    pub(crate) fn next(&mut self) -> &mut Packet<A> {
        // Never full: a burst has BURST frames at most.
        &mut self.list[self.count.min(BURST - 1)]
    }

    /// Keeps what was written to [`Packets::next`].
    #[inline]
    pub(crate) fn keep(&mut self) {
        self.count += 1;
    }

    /// Adds a copy of `packet`.
    fn push(&mut self, packet: Packet<A>) {
        *self.next() = packet;
        self.keep();
    }

    /// All of them, in the order of their frames.
    #[inline]
    pub(crate) fn as_mut(&mut self) -> &mut [Packet<A>] {
        &mut self.list[..self.count.min(BURST)]
    }

    /// The same, to be read.
    #[inline]
    pub(crate) fn as_ref(&self) -> &[Packet<A>] {
        &self.list[..self.count.min(BURST)]
    }
}

/// The packets of one family in a burst.
pub(crate) struct Family<A> {
    /// Those that can belong to a flow: nearly all.
    pub(crate) flows: Packets<A>,
    /// Those for the cluster's DNS server.
    pub(crate) queries: Packets<A>,
    /// The others: fragments, control messages, protocols without ports.
    pub(crate) others: Packets<A>,
}

impl<A: Address> Family<A> {
    fn new() -> Family<A> {
        Family { flows: Packets::new(), queries: Packets::new(), others: Packets::new() }
    }

    fn clear(&mut self) {
        self.flows.count = 0;
        self.queries.count = 0;
        self.others.count = 0;
    }

    /// Whether the burst has no packet of the family.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.flows.count + self.queries.count + self.others.count == 0
    }

    /// Keeps what was written to `flows.next()`, where it belongs.
    #[inline]
    pub(crate) fn keep_flow(&mut self, dns: &[IpAddr]) {
        let packet = self.flows.next();
        if packet.key.dst_port == message::PORT && classify::is_query(packet, dns) {
            self.queries.push(*packet);
        } else {
            self.flows.keep();
        }
    }

    /// Keeps what was written to `others.next()`, where it belongs.
    pub(crate) fn keep(&mut self, dns: &[IpAddr]) {
        let packet = *self.others.next();
        if !packet.can_have_flow() {
            return self.others.keep();
        }
        *self.flows.next() = packet;
        self.keep_flow(dns);
    }
}

/// Indexes of frames.
pub(crate) struct Indexes {
    list: [u8; BURST],
    count: usize,
}

impl Indexes {
    const NONE: Indexes = Indexes { list: [0; BURST], count: 0 };

    pub(crate) fn add(&mut self, index: u8) {
        if let Some(slot) = self.list.get_mut(self.count) {
            *slot = index;
            self.count += 1;
        }
    }

    /// All of them, in order.
    #[inline]
    pub(crate) fn as_ref(&self) -> &[u8] {
        &self.list[..self.count.min(BURST)]
    }
}

/// What is known about one burst.
pub(crate) struct Burst {
    /// The IPv4 packets.
    pub(crate) v4: Family<V4>,
    /// The IPv6 packets.
    pub(crate) v6: Family<V6>,
    /// The frames that are ARP.
    pub(crate) arp: Indexes,
    /// The frames that are neighbour solicitations or advertisements.
    pub(crate) nd: Indexes,
    /// What becomes of each frame.
    pub(crate) outcomes: Box<[Outcome; BURST]>,
}

impl Burst {
    pub(crate) fn new() -> Burst {
        let undecided = Outcome::of(Action::Drop(DropReason::Protocol));
        let outcomes = Box::new([undecided; BURST]);
        Burst { v4: Family::new(), v6: Family::new(), arp: Indexes::NONE, nd: Indexes::NONE, outcomes }
    }

    /// Forgets the last burst.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
        self.arp.count = 0;
        self.nd.count = 0;
    }

    /// Notes what becomes of the frame at `index`.
    pub(crate) fn settle(&mut self, index: u8, outcome: Outcome) {
        self.outcomes[usize::from(index) % BURST] = outcome;
    }

    /// The outcomes of the first `count` frames.
    #[inline]
    pub(crate) fn outcomes(&self, count: usize) -> &[Outcome] {
        &self.outcomes[..count.min(BURST)]
    }
}

//! A burst sorted by family: the packets of each lane, the frames that are neither, and what became of each frame.
//!
//! ```text
//!  frames     0   1   2   3   4        (they stay where the port put them)
//!  v4.flows   0       2                packets that can belong to a flow, each with its frame's index
//!  v4.others              3            other packets of the family
//!  arp            1
//!  outcomes   ·   ·   ·   ·   ·        one per frame; frame 4 got its own while parsing
//! ```

use pollgate_common::flow::{Address, V4};
use pollgate_common::reasons::DropReason;

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
    /// The others: fragments, control messages, protocols without ports.
    pub(crate) others: Packets<A>,
}

impl<A: Address> Family<A> {
    /// Keeps what was written to `others.next()`, where it belongs.
    pub(crate) fn keep(&mut self) {
        let packet = *self.others.next();
        if packet.can_have_flow() { self.flows.push(packet) } else { self.others.keep() }
    }
}

/// What is known about one burst.
pub(crate) struct Burst {
    /// The IPv4 packets.
    pub(crate) v4: Family<V4>,
    /// What becomes of each frame.
    pub(crate) outcomes: Box<[Outcome; BURST]>,
    arp: [u8; BURST],
    arp_count: usize,
}

impl Burst {
    pub(crate) fn new() -> Burst {
        let undecided = Outcome::of(Action::Drop(DropReason::Protocol));
        let v4 = Family { flows: Packets::new(), others: Packets::new() };
        Burst { v4, outcomes: Box::new([undecided; BURST]), arp: [0; BURST], arp_count: 0 }
    }

    /// Forgets the last burst.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.v4.flows.count = 0;
        self.v4.others.count = 0;
        self.arp_count = 0;
    }

    /// Notes that the frame at `index` is ARP.
    pub(crate) fn add_arp(&mut self, index: u8) {
        if let Some(slot) = self.arp.get_mut(self.arp_count) {
            *slot = index;
            self.arp_count += 1;
        }
    }

    /// The indexes of the frames that are ARP.
    #[inline]
    pub(crate) fn arp(&self) -> &[u8] {
        &self.arp[..self.arp_count.min(BURST)]
    }

    /// Notes what becomes of the frame at `index`.
    #[inline]
    pub(crate) fn settle(&mut self, index: usize, outcome: Outcome) {
        self.outcomes[index % BURST] = outcome;
    }

    /// The outcomes of the first `count` frames.
    #[inline]
    pub(crate) fn outcomes(&self, count: usize) -> &[Outcome] {
        &self.outcomes[..count.min(BURST)]
    }
}

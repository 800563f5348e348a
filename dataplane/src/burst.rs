//! A burst sorted by family: the packets of each lane, the frames that are neither, and what became of each frame.
//!
//! ```text
//!  frames    0   1   2   3   4        (they stay where the port put them)
//!  v4        0       2       4        packets, each with its frame's index
//!  arp           1
//!  outcomes  ·   ·   ·   ·   ·        one per frame
//! ```

use pollgate_common::flow::{Address, V4};
use pollgate_common::reasons::DropReason;

use crate::packet::{Outcome, Packet, Verdict};
use crate::port::BURST;

/// The packets of one family in a burst.
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

/// What is known about one burst.
pub(crate) struct Burst {
    /// The IPv4 lane's packets.
    pub(crate) v4: Packets<V4>,
    arp: [u8; BURST],
    arp_count: usize,
    outcomes: Box<[Outcome; BURST]>,
}

impl Burst {
    pub(crate) fn new() -> Burst {
        let undecided = Outcome::of(Verdict::Drop(DropReason::Protocol));
        Burst { v4: Packets::new(), arp: [0; BURST], arp_count: 0, outcomes: Box::new([undecided; BURST]) }
    }

    /// Forgets the last burst.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.v4.count = 0;
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
    pub(crate) fn arp(&self) -> impl Iterator<Item = usize> + use<> {
        let (arp, count) = (self.arp, self.arp_count);
        (0..count).map(move |at| usize::from(arp[at]))
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

    /// The IPv4 lane's packets, and where their outcomes go.
    #[inline]
    pub(crate) fn v4_lane(&mut self) -> (&mut [Packet<V4>], &mut [Outcome; BURST]) {
        (self.v4.as_mut(), &mut self.outcomes)
    }
}

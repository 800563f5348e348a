//! Fragments that wait for the first of their datagram: which frame waits where, and for how long.
//!
//! ```text
//!  pipeline: Hold(slot) ─▶ dispatch: slots[slot] = frame
//!  pipeline: the first came ──▶ ended: (slot, Again) ─┐
//!  time-out, no more room ────▶ ended: (slot, …) ─────┴▶ worker: frame goes through the pipeline again, or is dropped
//! ```
//!
//! The frames themselves are with dispatch, which owns all buffers; here are only their slots. A slot is free again when the worker
//! has carried out its end, after the burst. A burst needs at most as many slots as it has frames, and free slots are used in turn: so
//! none is used again within the burst in which its frame's wait ended.

use std::collections::VecDeque;

use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_common::time::Instant;

use super::WAIT;
use crate::port::BURST;

/// Most frames that wait, per worker.
pub(crate) const CAPACITY: usize = 512;
/// Most frames of one source that wait: as many as a datagram may have.
const PER_SOURCE: u16 = 128;
/// Slots, with those whose end is not carried out yet.
pub(crate) const SLOTS: usize = CAPACITY + BURST;
/// Numbers of sources that are told apart: buckets of two families.
const SOURCES: usize = 256;

/// Where a frame waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u16);

/// How a wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The frame goes through the pipeline again.
    Again,
    /// The frame is left to the kernel.
    Pass(PassReason),
    /// The frame is dropped.
    Drop(DropReason),
}

/// A frame that waits.
struct Waiting {
    slot: Slot,
    /// The datagram it belongs to.
    serial: u32,
    /// Number of its source.
    source: u8,
    /// Whether it is to an owned address. Otherwise it may still be part of a reply.
    is_ours: bool,
    since: Instant,
}

impl Waiting {
    /// What becomes of it if its first fragment does not come.
    fn in_vain(&self, reason: DropReason) -> End {
        if self.is_ours { End::Drop(reason) } else { End::Pass(PassReason::NotOwned) }
    }
}

/// The waiting frames of a worker.
pub(crate) struct Held {
    /// The oldest first.
    waiting: VecDeque<Waiting>,
    free: VecDeque<Slot>,
    ended: VecDeque<(Slot, End)>,
    per_source: Box<[u16; SOURCES]>,
    serial: u32,
    /// Whether the burst is of frames whose wait is over.
    pub(crate) is_replaying: bool,
}

impl Held {
    pub(crate) fn new() -> Held {
        let mut free = VecDeque::with_capacity(SLOTS);
        free.extend((0u16..).take(SLOTS).map(Slot));
        Held {
            waiting: VecDeque::with_capacity(CAPACITY + 1),
            free,
            ended: VecDeque::with_capacity(SLOTS),
            per_source: Box::new([0; SOURCES]),
            serial: 0,
            is_replaying: false,
        }
    }

    /// A number for one more datagram.
    pub(crate) fn serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// A slot for one more frame of the datagram. If there is no room, the oldest frame's wait ends: of the same source if that has its
    /// share, of any otherwise.
    pub(crate) fn take(&mut self, serial: u32, source: u8, is_ours: bool, now: Instant) -> Slot {
        let oldest = match () {
            () if self.per_source[usize::from(source)] >= PER_SOURCE => {
                self.waiting.iter().position(|waiting| waiting.source == source)
            }
            () if self.waiting.len() >= CAPACITY => Some(0),
            () => None,
        };
        if let Some(oldest) = oldest {
            self.end(oldest, |waiting| waiting.in_vain(DropReason::FragmentsFull));
        }
        // Never empty: see the module.
        let slot = self.free.pop_front().unwrap_or(Slot(u16::MAX));
        self.per_source[usize::from(source)] += 1;
        self.waiting.push_back(Waiting { slot, serial, source, is_ours, since: now });
        slot
    }

    /// The first fragment of the datagram has come: those that wait for it go on, in order of arrival.
    pub(crate) fn again(&mut self, serial: u32) {
        let mut at = 0;
        while at < self.waiting.len() {
            match self.waiting[at].serial == serial {
                true => self.end(at, |_| End::Again),
                false => at += 1,
            }
        }
    }

    /// Ends what has waited for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.waiting.front().is_some_and(|oldest| now.since(oldest.since) > WAIT) {
            self.end(0, |waiting| waiting.in_vain(DropReason::FragmentTimeout));
        }
    }

    fn end(&mut self, at: usize, how: impl FnOnce(&Waiting) -> End) {
        let Some(waiting) = self.waiting.remove(at) else { return };
        self.per_source[usize::from(waiting.source)] -= 1;
        self.ended.push_back((waiting.slot, how(&waiting)));
    }

    /// Whether nothing waits and nothing is to be carried out.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.ended.is_empty()
    }

    /// Whether a frame's wait is over and not carried out.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// The next slot whose frame's wait is over, and how it ends. The slot is free again.
    pub(crate) fn next_ended(&mut self) -> Option<(Slot, End)> {
        let ended = self.ended.pop_front()?;
        self.free.push_back(ended.0);
        Some(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(held: &mut Held) -> Vec<(Slot, End)> {
        std::iter::from_fn(|| held.next_ended()).collect()
    }

    const FULL: End = End::Drop(DropReason::FragmentsFull);

    #[test]
    fn one_source_has_its_share_and_displaces_its_own_oldest() {
        let mut held = Held::new();
        let other = held.take(1, 7, true, Instant(0));
        let slots: Vec<Slot> = (0..200).map(|n| held.take(2 + n, 9, true, Instant(1))).collect();
        let gone: Vec<_> = slots[..200 - usize::from(PER_SOURCE)].iter().map(|&slot| (slot, FULL)).collect();
        assert_eq!(ended(&mut held), gone);
        held.again(1);
        assert_eq!(ended(&mut held), [(other, End::Again)]);
    }

    #[test]
    fn the_oldest_of_all_goes_when_all_is_full() {
        let mut held = Held::new();
        let sources = |n: usize| u8::try_from(n % 250).expect("small");
        let slots: Vec<Slot> =
            (0..CAPACITY + BURST).map(|n| held.take(0, sources(n), n % 2 == 0, Instant(0))).collect();
        let gone = ended(&mut held);
        assert_eq!(gone.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), slots[..BURST]);
        let pass = End::Pass(PassReason::NotOwned);
        assert_eq!((gone[0].1, gone[1].1), (FULL, pass), "what may not be pollgate's is left to the kernel");
        held.expire(Instant(1_000_000_001));
        assert_eq!(ended(&mut held).len(), CAPACITY);
        assert!(held.is_idle() && held.free.len() == SLOTS && held.per_source.iter().all(|&count| count == 0));
    }

    #[test]
    fn frames_of_a_datagram_go_on_in_their_order() {
        let mut held = Held::new();
        let slots: Vec<Slot> = (0..6).map(|n| held.take(n % 2, 0, true, Instant(n.into()))).collect();
        held.again(1);
        assert_eq!(ended(&mut held), [slots[1], slots[3], slots[5]].map(|slot| (slot, End::Again)));
        assert!(!held.is_idle());
    }
}

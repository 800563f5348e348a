//! What arrived: how much, in which order, with which latency.
//!
//! Per flow, 16 bytes: the number expected next and a window of 64 numbers before it.
//!
//! ```text
//!  number ≥ next ────────────────▶ in order                     next = number + 1
//!  number < next ─ seen in the window ─▶ duplicate              not received again
//!                └ not seen, or older ─▶ reordered
//! ```
//!
//! *Reordered* is RFC 4737's singleton (§3.3): a packet whose number is smaller than one that has arrived before it, with
//! duplicates set apart. A packet more than 64 numbers late cannot be distinguished from a duplicate and counts as reordered.
//!
//! **Latency** runs from the time the packet was due to the time its burst was taken from the port.

use std::time::Duration;

use hdrhistogram::Histogram;
use pollgate_common::time::Instant;

use super::stamp::Stamp;

/// The longest latency that is recorded exactly.
const LONGEST: Duration = Duration::from_secs(100);

/// Packets due within it are counted; those of the warm-up before it are not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// From here.
    pub(super) from: Instant,
    /// Up to here, but not at it.
    pub(super) until: Instant,
}

impl Span {
    /// Whether a packet that was due at `due` counts.
    pub(super) fn has(&self, due: Instant) -> bool {
        (self.from..self.until).contains(&due)
    }
}

/// What arrived in a run.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    span: Span,
    flows: Vec<Seen>,
    /// Packets, each once.
    pub(super) received: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Duplicates.
    pub(super) duplicates: u64,
    /// Packets that arrived after a later one of their flow.
    pub(super) reordered: u64,
    /// Packets of a flow that had been replaced when they arrived: their order is unknown.
    pub(super) outdated: u64,
    /// Latency of the first packets of flows, ns.
    pub(super) first: Histogram<u64>,
    /// Of all others, ns.
    pub(super) steady: Histogram<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    flow: u32,
    next: u32,
    /// Bit n: number `next − 1 − n` was seen.
    window: u64,
}

/// What a packet is among those of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    InOrder,
    Reordered,
    Duplicate,
    Outdated,
}

impl Tally {
    /// For flows in `slots` slots.
    pub(super) fn new(slots: u32, span: Span) -> Tally {
        // With bounds, a histogram never allocates again; three digits.
        let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
        let empty: Histogram<u64> = Histogram::new_with_max(longest, 3).expect("these bounds are valid");
        let flows = (0..slots.max(1)).map(|flow| Seen { flow, ..Seen::default() }).collect();
        Tally {
            span,
            flows,
            received: 0,
            bytes: 0,
            duplicates: 0,
            reordered: 0,
            outdated: 0,
            first: empty.clone(),
            steady: empty,
        }
    }

    /// One packet of `len` bytes, at `now`.
    pub(super) fn record(&mut self, stamp: &Stamp, len: usize, now: Instant) {
        let slot = stamp.flow() as usize % self.flows.len();
        let place = self.flows[slot].place(stamp.flow(), stamp.number());
        if !self.span.has(stamp.due()) {
            return;
        }
        match place {
            Place::Duplicate => {
                self.duplicates += 1;
                return;
            }
            Place::Reordered => self.reordered += 1,
            Place::Outdated => self.outdated += 1,
            Place::InOrder => {}
        }
        self.received += 1;
        self.bytes += len as u64;
        let latency = u64::try_from(now.since(stamp.due()).as_nanos()).unwrap_or(u64::MAX);
        let histogram = if stamp.number() == 0 { &mut self.first } else { &mut self.steady };
        histogram.saturating_record(latency);
    }

    /// Adds what another thread has counted.
    pub(super) fn add(&mut self, other: &Tally) {
        self.received += other.received;
        self.bytes += other.bytes;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.outdated += other.outdated;
        self.first += &other.first;
        self.steady += &other.steady;
    }
}

impl Seen {
    fn place(&mut self, flow: u32, number: u32) -> Place {
        if flow < self.flow {
            return Place::Outdated;
        }
        if flow > self.flow {
            *self = Seen { flow, ..Seen::default() };
        }
        if number >= self.next {
            let step = number - self.next + 1;
            self.window = self.window.checked_shl(step).unwrap_or(0) | 1;
            self.next = number.saturating_add(1);
            return Place::InOrder;
        }
        let age = self.next - 1 - number;
        let Some(bit) = 1u64.checked_shl(age) else { return Place::Reordered };
        if self.window & bit != 0 {
            return Place::Duplicate;
        }
        self.window |= bit;
        Place::Reordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        Tally::new(4, Span { from: Instant(1000), until: Instant(2000) })
    }

    fn come(tally: &mut Tally, flow: u32, numbers: &[u32]) {
        for &number in numbers {
            tally.record(&Stamp::new(0, flow, number, Instant(1000)), 64, Instant(51_000));
        }
    }

    #[test]
    fn late_is_not_twice() {
        let mut tally = tally();
        come(&mut tally, 1, &[0, 1, 4, 3, 3, 2, 5, 5, 5]);
        assert_eq!((tally.received, tally.reordered, tally.duplicates), (6, 2, 3));
        come(&mut tally, 2, &[0, 1, 2]);
        assert_eq!((tally.received, tally.reordered, tally.bytes), (9, 2, 9 * 64));
    }

    #[test]
    fn what_is_too_late_to_tell_counts_as_reordered() {
        let mut tally = tally();
        come(&mut tally, 0, &[0, 64, 0]);
        assert_eq!((tally.received, tally.reordered, tally.duplicates), (3, 1, 0), "64 before: out of the window");
        come(&mut tally, 0, &[1]);
        assert_eq!((tally.reordered, tally.duplicates), (2, 0), "63 before: within");
        come(&mut tally, 0, &[1]);
        assert_eq!(tally.duplicates, 1);
    }

    #[test]
    fn a_loss_is_no_reordering() {
        let mut tally = tally();
        come(&mut tally, 3, &[0, 1, 7, 8, 900]);
        assert_eq!((tally.received, tally.reordered, tally.duplicates), (5, 0, 0));
    }

    #[test]
    fn a_successor_starts_anew_and_late_packets_of_the_old_flow_are_outdated() {
        let mut tally = tally();
        come(&mut tally, 1, &[0, 1, 2]);
        come(&mut tally, 5, &[0, 1]);
        come(&mut tally, 1, &[3]);
        come(&mut tally, 5, &[2]);
        assert_eq!((tally.received, tally.reordered, tally.duplicates, tally.outdated), (7, 0, 0, 1));
    }

    #[test]
    fn only_what_was_due_in_the_span_counts() {
        let mut tally = tally();
        let mut at = |due| tally.record(&Stamp::new(0, 0, 0, Instant(due)), 64, Instant(2500));
        [999, 1999, 2000].into_iter().for_each(&mut at);
        assert_eq!((tally.received, tally.duplicates), (0, 1), "number 0 was seen, in the warm-up");
    }

    #[test]
    fn latency_counts_from_when_the_packet_was_due_and_sets_first_packets_apart() {
        let mut tally = tally();
        come(&mut tally, 1, &[0, 1, 2]);
        assert_eq!((tally.first.len(), tally.steady.len()), (1, 2));
        let ns = tally.steady.value_at_quantile(0.5);
        assert!((49_900..=50_100).contains(&ns), "{ns}");
        let mut sum = tally.clone();
        sum.add(&tally);
        assert_eq!((sum.received, sum.steady.len()), (6, 4));
    }
}

//! When packets are due: an open loop on virtual time.
//!
//! Packet `k` is due at `start + k / rate`, whatever happened to those before it. A generator that was held up owes the
//! packets it has missed and sends them as fast as it can, each with the time it was due. Nothing here reads a clock.

use pollgate_common::time::Instant;

const SECOND: u64 = 1_000_000_000;

/// The highest rate that can be requested, in packets per second.
pub(super) const MAX_RATE: u64 = SECOND;

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Packets per second, 1 to 10⁹.
    PerSecond(u64),
    /// As fast as the port takes them: a packet is due when it is sent.
    Max,
}

/// Packets that are due one after the other.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    rate: Rate,
    start: Instant,
    released: u64,
}

impl Pacer {
    /// The first one is due at `start`.
    pub(super) fn new(rate: Rate, start: Instant) -> Pacer {
        Pacer { rate, start, released: 0 }
    }

    /// Takes at most `room` packets that are due by `now`; returns how many.
    pub(super) fn take(&mut self, now: Instant, room: usize) -> Due {
        let room = room as u64;
        let (first, count) = (self.released, self.due_by(now).map_or(room, |due| room.min(due - self.released)));
        self.released += count;
        match self.rate {
            Rate::Max => Due { rate: None, start: now, first, count },
            Rate::PerSecond(rate) => Due { rate: Some(rate), start: self.start, first, count },
        }
    }

    /// Packets due up to and at `now` since the start; `None`: any number.
    fn due_by(&self, now: Instant) -> Option<u64> {
        let Rate::PerSecond(rate) = self.rate else { return None };
        let Some(passed) = now.0.checked_sub(self.start.0) else { return Some(self.released) };
        let due = (passed / SECOND).saturating_mul(rate) + passed % SECOND * rate / SECOND + 1;
        Some(due.max(self.released))
    }
}

/// Some packets in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    rate: Option<u64>,
    start: Instant,
    first: u64,
    count: u64,
}

impl Due {
    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// When each of them should leave.
    pub(super) fn times(self) -> impl Iterator<Item = Instant> {
        (self.first..self.first + self.count).map(move |k| self.time(k))
    }

    fn time(&self, k: u64) -> Instant {
        // In two parts: k · 10⁹ would overflow after a few hours.
        self.rate.map_or(self.start, |rate| Instant(self.start.0 + k / rate * SECOND + k % rate * SECOND / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pacer: &mut Pacer, now: u64, room: usize) -> Vec<u64> {
        pacer.take(Instant(now), room).times().map(|time| time.0).collect()
    }

    #[test]
    fn packets_are_due_at_even_intervals_and_none_before_its_time() {
        let mut pacer = Pacer::new(Rate::PerSecond(1_000_000), Instant(500));
        assert_eq!(taken(&mut pacer, 499, 64), [0u64; 0]);
        assert_eq!(taken(&mut pacer, 500, 64), [500]);
        assert_eq!(taken(&mut pacer, 1499, 64), [0u64; 0]);
        assert_eq!(taken(&mut pacer, 3500, 64), [1500, 2500, 3500]);
    }

    #[test]
    fn what_was_missed_is_owed_with_the_time_it_was_due() {
        let mut pacer = Pacer::new(Rate::PerSecond(1_000), Instant(0));
        assert_eq!(taken(&mut pacer, 10_000_000, 4), [0, 1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(taken(&mut pacer, 10_000_000, 64).len(), 7);
        assert_eq!(taken(&mut pacer, 10_000_000, 64).len(), 0);
    }

    #[test]
    fn a_day_at_an_odd_rate_neither_drifts_nor_overflows() {
        let rate = 1_488_095;
        let day = 86_400 * SECOND;
        let mut pacer = Pacer::new(Rate::PerSecond(rate), Instant(0));
        let due = pacer.take(Instant(day), usize::MAX);
        assert_eq!(due.count(), 86_400 * rate + 1);
        assert_eq!(due.time(86_400 * rate), Instant(day));
    }

    #[test]
    fn at_the_maximum_all_are_due_now() {
        let mut pacer = Pacer::new(Rate::Max, Instant(0));
        assert_eq!(taken(&mut pacer, 77, 3), [77, 77, 77]);
    }
}

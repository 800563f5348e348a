//! So many events a second, and no more: a token bucket that holds one second's worth. Time is an argument.

use std::net::IpAddr;
use std::time::Duration;

use pollgate_common::net::source_prefix;
use pollgate_common::time::Instant;

/// What one event costs, in the unit of credit: a second gives as many units times 10⁹ as events are allowed.
const COST: u64 = 1_000_000_000;

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: u64,
    credit: u64,
    at: Instant,
}

impl Rate {
    /// A full bucket for `per_second` events a second.
    pub(crate) fn new(per_second: u32) -> Rate {
        let per_second = u64::from(per_second);
        Rate { per_second, credit: per_second * COST, at: Instant(0) }
    }

    /// Whether one more event may happen now; counts it if so.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.take_many(1, now)
    }

    /// The same for an event that counts as so many.
    pub(crate) fn take_many(&mut self, events: u32, now: Instant) -> bool {
        if now != self.at {
            // Never more than a second's: the product stays below 2⁶³ for any rate.
            let elapsed = now.since(self.at).min(Duration::from_secs(1));
            let more = u64::try_from(elapsed.as_nanos()).unwrap_or(COST) * self.per_second;
            self.credit = (self.credit + more).min(self.per_second * COST);
            self.at = now;
        }
        let cost = u64::from(events) * COST;
        let may = self.credit >= cost;
        if may {
            self.credit -= cost;
        }
        may
    }
}

/// Source prefixes share so many buckets, by their hash: memory does not grow with the number of sources.
const BUCKETS: usize = 1024;

/// What each source prefix ([`source_prefix`]) may still have.
pub(crate) struct ByPrefix<T> {
    buckets: Box<[T; BUCKETS]>,
    /// Keyed, so that a sender cannot choose the bucket of another one.
    hasher: ahash::RandomState,
}

impl<T> ByPrefix<T> {
    /// With a bucket from `make` for each.
    pub(crate) fn new(hasher: ahash::RandomState, make: impl Fn() -> T) -> ByPrefix<T> {
        ByPrefix { buckets: Box::new(std::array::from_fn(|_| make())), hasher }
    }

    /// That of the prefix of `source`.
    #[inline]
    pub(crate) fn of(&mut self, source: IpAddr) -> &mut T {
        let hash = self.hasher.hash_one(source_prefix(source));
        &mut self.buckets[usize::try_from(hash % BUCKETS as u64).unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rate: &mut Rate, at: u64, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(rate.take(Instant(at)))).sum()
    }

    #[test]
    fn a_second_gives_what_it_says_at_once_or_bit_by_bit() {
        let mut rate = Rate::new(1000);
        assert_eq!(taken(&mut rate, 0, 5000), 1000, "a full bucket");
        assert_eq!(taken(&mut rate, 500_000_000, 5000), 500);
        assert_eq!((1..=3000).map(|n| taken(&mut rate, 500_000_000 + n * 333_333, 5)).sum::<u32>(), 999);
        assert_eq!(taken(&mut rate, u64::MAX, 5000), 1000, "no more than a second's, however long the pause");
        assert_eq!(taken(&mut rate, 7, 5), 0, "time does not run backwards");
        let mut rate = Rate::new(25);
        assert_eq!((0..5).map(|_| u32::from(rate.take_many(10, Instant(0)))).sum::<u32>(), 2);
        assert_eq!(taken(&mut rate, 0, 9), 5, "what is left is for smaller ones");
    }

    #[test]
    fn the_highest_rate_does_not_overflow() {
        let mut rate = Rate::new(u32::MAX);
        assert!(rate.take(Instant(0)) && rate.take(Instant(u64::MAX)));
    }
}

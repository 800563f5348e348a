//! Slots that clients take, so many of one and so many in all, and which of them is given up for a new one.

use std::time::Instant;

/// How many slots there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) all: usize,
    pub(super) per_client: usize,
}

#[derive(Debug)]
struct Slot<K, T> {
    number: u64,
    client: K,
    /// Whether it has been used since it was taken.
    is_used: bool,
    /// When it was used last, or taken.
    since: Instant,
    holder: T,
}

/// The slots that are taken, by clients `K`. `T` is what ends the use of one.
#[derive(Debug)]
pub(super) struct Slots<K, T> {
    limits: Limits,
    next: u64,
    taken: Vec<Slot<K, T>>,
}

impl<K: PartialEq, T> Slots<K, T> {
    pub(super) fn new(limits: Limits) -> Slots<K, T> {
        Slots { limits, next: 0, taken: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.taken.len()
    }

    /// The number of the next slot.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes a slot. If the client, or all clients together, have as many as allowed, one of them is given up, and its holder is
    /// returned: the oldest that was never used, else the one that was used least recently.
    pub(super) fn take(&mut self, number: u64, client: K, holder: T, now: Instant) -> Option<T> {
        let own = self.taken.iter().filter(|slot| slot.client == client).count();
        let displaced = match (own >= self.limits.per_client, self.taken.len() >= self.limits.all) {
            (true, _) => self.give_up(|slot| slot.client == client),
            (false, true) => self.give_up(|_| true),
            (false, false) => None,
        };
        self.taken.push(Slot { number, client, is_used: false, since: now, holder });
        displaced
    }

    fn give_up(&mut self, is_eligible: impl Fn(&Slot<K, T>) -> bool) -> Option<T> {
        let eligible = self.taken.iter().enumerate().filter(|(_, slot)| is_eligible(slot));
        let (at, _) = eligible.min_by_key(|(_, slot)| (slot.is_used, slot.since))?;
        Some(self.taken.swap_remove(at).holder)
    }

    /// Notes that a slot is used.
    pub(super) fn used(&mut self, number: u64, now: Instant) {
        if let Some(slot) = self.taken.iter_mut().find(|slot| slot.number == number) {
            (slot.is_used, slot.since) = (true, now);
        }
    }

    /// Frees a slot.
    pub(super) fn leave(&mut self, number: u64) {
        self.taken.retain(|slot| slot.number != number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Bench {
        slots: Slots<u8, u64>,
        start: Instant,
    }

    impl Bench {
        fn new(all: usize, per_client: usize) -> Bench {
            Bench { slots: Slots::new(Limits { all, per_client }), start: Instant::now() }
        }

        /// Takes a slot at this second; the number of the one that was given up.
        fn take(&mut self, client: u8, second: u64) -> Option<u64> {
            let number = self.slots.number();
            self.slots.take(number, client, number, self.start + Duration::from_secs(second))
        }
    }

    #[test]
    fn a_client_with_too_many_gives_up_its_own_oldest() {
        let mut bench = Bench::new(10, 2);
        assert_eq!([bench.take(1, 0), bench.take(2, 1), bench.take(2, 2)], [None; 3]);
        assert_eq!(bench.take(2, 3), Some(2), "not the other client's, which is older");
        bench.slots.used(3, bench.start + Duration::from_secs(4));
        assert_eq!(bench.take(2, 5), Some(4), "the other one has been used since");
        assert_eq!(bench.slots.len(), 3);
    }

    /// Those that are taken and never used do not outrank the others by being new.
    #[test]
    fn what_was_never_used_is_given_up_first() {
        let mut bench = Bench::new(3, 3);
        assert_eq!([bench.take(1, 0), bench.take(2, 1), bench.take(3, 2)], [None; 3]);
        bench.slots.used(1, bench.start + Duration::from_secs(1));
        assert_eq!([bench.take(4, 3), bench.take(5, 4), bench.take(6, 5)], [Some(2), Some(3), Some(4)]);
    }

    #[test]
    fn all_clients_together_give_up_the_oldest() {
        let mut bench = Bench::new(3, 2);
        assert_eq!([bench.take(1, 0), bench.take(2, 1), bench.take(3, 2)], [None; 3]);
        assert_eq!((bench.take(4, 3), bench.slots.len()), (Some(1), 3));
        bench.slots.leave(2);
        assert_eq!(bench.take(5, 4), None, "one is free");
        bench.slots.leave(77);
        assert_eq!(bench.slots.len(), 3);
    }
}

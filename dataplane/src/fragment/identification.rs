//! New identifications for datagrams whose source is rewritten.
//!
//! They must not repeat for as long as fragments of an earlier datagram may be around, per source, destination and protocol (RFC 6864
//! §4.3). Who sees some must not know those of others (RFC 7739 §5.3):
//!
//! ```text
//!  identification = worker's share of the numbers, from: keyed hash(destination) + count[keyed hash(destination) mod 256]
//! ```
//!
//! The shares of the workers are disjoint, since all of them use the same source addresses.

use crate::wire::Ip;

/// Number of counters.
const COUNTERS: usize = 256;

/// A worker's identifications.
pub(crate) struct Identifications {
    hasher: ahash::RandomState,
    counters: Box<[u32; COUNTERS]>,
    worker: u16,
    workers: u16,
}

impl Identifications {
    pub(crate) fn new(hasher: ahash::RandomState, worker: u16, workers: u16) -> Identifications {
        Identifications { hasher, counters: Box::new([0; COUNTERS]), worker, workers: workers.max(1) }
    }

    /// One more for this destination.
    pub(crate) fn next<I: Ip>(&mut self, destination: I::Address) -> u32 {
        let hash = self.hasher.hash_one(destination);
        let counter = &mut self.counters[usize::try_from(hash >> 56).unwrap_or(0) % COUNTERS];
        *counter = counter.wrapping_add(1);
        let share = I::IDENTIFICATIONS / u64::from(self.workers);
        let within = (hash & 0xffff_ffff).wrapping_add(u64::from(*counter)) % share;
        u32::try_from(u64::from(self.worker) * share + within).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use pollgate_common::flow::{V4, V6};
    use pollgate_common::hash::HashSet;

    use super::*;
    use crate::wire::ipv4::Ipv4;
    use crate::wire::ipv6::Ipv6;

    fn of(worker: u16, workers: u16) -> Identifications {
        Identifications::new(ahash::RandomState::with_seeds(1, 2, 3, 4), worker, workers)
    }

    #[test]
    fn none_repeats_within_a_share_and_shares_are_disjoint() {
        let mut seen = HashSet::default();
        for worker in 0..3 {
            let mut ids = of(worker, 3);
            let destination = V4(Ipv4Addr::new(10, 244, 1, 10));
            for _ in 0..65_536 / 3 {
                let id = ids.next::<Ipv4>(destination);
                assert!(id < 65_536 && seen.insert(id), "worker {worker}: {id}");
            }
        }
        let mut ids = of(1, 2);
        let v6: HashSet<u32> = (0..100_000).map(|_| ids.next::<Ipv6>(V6::default())).collect();
        assert!(v6.len() == 100_000 && v6.iter().all(|&id| id >= 1 << 31));
    }

    #[test]
    fn destinations_do_not_share_a_sequence() {
        let mut ids = of(0, 1);
        let firsts: HashSet<u32> =
            (0..=255).map(|host| ids.next::<Ipv4>(V4(Ipv4Addr::new(10, 244, 1, host)))).collect();
        assert!(firsts.len() > 250, "{} different ones of 256", firsts.len());
    }
}

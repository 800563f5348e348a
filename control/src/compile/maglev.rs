//! Maglev look-up tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4).
//!
//! Every backend has its own permutation of the table's slots, from two hashes of its identity; in turns, each takes the
//! next slot of its permutation that is still free. So backends get almost equal shares, and when one goes, few of the
//! slots it did not have change hands. A heavier backend gets more turns.
//!
//! Two gateways agree because nothing local enters: the hash is keyed by `maglev.seed` alone, backends are taken in the
//! order of their identity, and identity is address and port. A pure function; the sizes are a fixed, published list.

use std::net::IpAddr;

use pollgate_common::hash::{RingHash, wide};
use pollgate_common::tables::Ring;

use self::fill::{Table, Walk};

mod fill;

/// Table sizes: primes, so that every skip visits every slot.
pub const SIZES: [u32; 12] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65537, 131_071, 262_139, 524_287];

/// Slots per backend, at least, in tables of up to [`LARGE`] slots. Turns make few backends collide with each other more
/// than many: with 100 slots each, ten backends move 2.2 % needlessly when one goes; with 320, 1.2 %.
pub const PLACES_PER_BACKEND: u32 = 320;
/// Tables from here on are large enough that fewer slots per backend do.
pub const LARGE: u32 = 65537;
/// Slots per backend, at least, in large tables.
pub const PLACES_PER_BACKEND_IN_LARGE: u32 = 100;

/// The most backends a table serves.
pub const MOST_BACKENDS: usize = (SIZES[SIZES.len() - 1] / PLACES_PER_BACKEND_IN_LARGE) as usize;

/// The identity of a backend, from which its permutation follows.
pub type Identity = (IpAddr, u16);

/// One backend of a table to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// Its identity.
    pub identity: Identity,
    /// Its share, relative to the others; 0 gets nothing.
    pub weight: u32,
}

/// The size for `backends` backends; `None` if no size serves so many.
pub fn size_for(backends: usize) -> Option<u32> {
    let backends = u32::try_from(backends).ok()?;
    let each = |size| if size < LARGE { PLACES_PER_BACKEND } else { PLACES_PER_BACKEND_IN_LARGE };
    SIZES.into_iter().find(|&size| size / each(size) >= backends)
}

/// The table of `size` slots for `backends`, which are in the order of their identity. Ordinals are positions in that order.
pub fn build(hash: &RingHash, backends: &[Weighted], size: u32) -> Ring {
    let heaviest = backends.iter().map(|b| b.weight).max().unwrap_or(0);
    if heaviest == 0 || size < 2 {
        return Ring::new(Box::default());
    }
    if let [_] = backends {
        return Ring::new(vec![0; size as usize].into_boxed_slice());
    }
    let mut walks: Vec<Walk> = backends.iter().map(|backend| walk(hash, backend, size)).collect();
    let mut turns = Turns::new(backends, heaviest);
    let mut table = Table::new(size);
    loop {
        for (ordinal, walk) in walks.iter_mut().enumerate() {
            if !turns.has(ordinal) {
                continue;
            }
            table.take_next(walk, u16::try_from(ordinal).unwrap_or(u16::MAX));
            if let Some(slots) = table.filled() {
                return Ring::new(slots);
            }
        }
    }
}

/// Where a backend's permutation starts, and its step.
fn walk(hash: &RingHash, backend: &Weighted, size: u32) -> Walk {
    let (address, port) = backend.identity;
    let mut input = [0u8; 19];
    input[..16].copy_from_slice(&wide(address));
    input[16..18].copy_from_slice(&port.to_be_bytes());
    let below = |value: u64, limit: u32| u32::try_from(value % u64::from(limit)).unwrap_or(0);
    let at = below(hash.bytes(&input), size);
    input[18] = 1;
    let skip = below(hash.bytes(&input), size - 1) + 1;
    Walk { at, skip }
}

/// Which backends have a turn in a round: the heaviest in each, the others in proportion.
struct Turns {
    heaviest: u64,
    /// Weight and credit of each; empty where all weigh the same.
    unequal: Vec<(u64, u64)>,
}

impl Turns {
    fn new(backends: &[Weighted], heaviest: u32) -> Turns {
        let equal = backends.iter().all(|backend| backend.weight == heaviest);
        let weights = backends.iter().filter(|_| !equal).map(|backend| (u64::from(backend.weight), 0));
        Turns { heaviest: heaviest.into(), unequal: weights.collect() }
    }

    #[inline]
    fn has(&mut self, ordinal: usize) -> bool {
        let Some((weight, credit)) = self.unequal.get_mut(ordinal) else {
            return true;
        };
        *credit += *weight;
        let enough = *credit >= self.heaviest;
        if enough {
            *credit -= self.heaviest;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn backends(n: u32) -> Vec<Weighted> {
        let identity = |i: u32| (IpAddr::V4(Ipv4Addr::from(0x0af4_0000 + i)), 8080);
        (0..n).map(|i| Weighted { identity: identity(i), weight: 1 }).collect()
    }

    fn owners(backends: &[Weighted], size: u32) -> Vec<Identity> {
        let ring = build(&RingHash::new("pollgate"), backends, size);
        ring.entries().iter().map(|&ordinal| backends[usize::from(ordinal)].identity).collect()
    }

    /// Share of the slots that changed hands though their owner stayed, averaged over some of the `n` that may go.
    fn needless(n: u32, size: u32) -> f64 {
        let all = backends(n);
        let before = owners(&all, size);
        let tries: Vec<usize> = (0..n.min(12)).map(|i| (i * n / n.min(12)) as usize).collect();
        let moved = |&gone: &usize| {
            let mut rest = all.clone();
            let lost = rest.remove(gone).identity;
            before.iter().zip(&owners(&rest, size)).filter(|(b, a)| **b != lost && b != a).count()
        };
        tries.iter().map(moved).sum::<usize>() as f64 / f64::from(size) / tries.len() as f64
    }

    #[test]
    fn sizes_are_prime_and_ascending() {
        for size in SIZES {
            assert!((2..).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size}");
        }
        assert!(SIZES.is_sorted());
        assert_eq!(
            (size_for(0), size_for(1), size_for(10), size_for(102)),
            (Some(251), Some(509), Some(4093), Some(32749))
        );
        assert_eq!((size_for(103), size_for(655), size_for(656)), (Some(65537), Some(65537), Some(131_071)));
        assert_eq!(size_for(MOST_BACKENDS), Some(524_287));
        assert_eq!(size_for(MOST_BACKENDS + 1), None);
    }

    #[test]
    fn shares_are_even() {
        for n in [2, 10, 100, 655] {
            let size = size_for(n as usize).expect("a size");
            let ring = build(&RingHash::new("pollgate"), &backends(n), size);
            let mut counts = vec![0u32; n as usize];
            ring.entries().iter().for_each(|&o| counts[usize::from(o)] += 1);
            let (least, most) = (counts.iter().min().expect("some"), counts.iter().max().expect("some"));
            assert!(most - least <= 1, "{n}: turns give every backend the same, to one slot: {least}..{most}");
        }
    }

    #[test]
    fn few_move_needlessly_when_one_goes() {
        let at_100 = needless(100, 65537);
        assert!(at_100 <= 0.01, "{at_100}");
        // The most backends each size serves are the hardest case for it.
        for n in [2, 3, 5, 6, 10, 12, 20, 25, 51, 80, 102, 103, 204, 655, 1310] {
            let share = needless(n, size_for(n as usize).expect("a size"));
            assert!(share <= 0.015, "{n} backends: {share}");
        }
    }

    #[test]
    fn weights_are_shares() {
        let mut weighted = backends(3);
        weighted[0].weight = 2;
        weighted[2].weight = 0;
        let ring = build(&RingHash::new("pollgate"), &weighted, 1021);
        let count = |ordinal| ring.entries().iter().filter(|&&o| o == ordinal).count();
        assert_eq!(count(2), 0);
        assert!((680..=682).contains(&count(0)), "{}", count(0));
        assert!(build(&RingHash::new(""), &[], 1021).entries().is_empty());
    }

    /// Golden: what two gateways of different versions must agree on.
    #[test]
    fn the_table_never_changes() {
        let ring = build(&RingHash::new("pollgate"), &backends(5), 251);
        let sum = ring.entries().iter().fold(0u64, |sum, &o| sum.wrapping_mul(31).wrapping_add(u64::from(o)));
        assert_eq!((&ring.entries()[..12], sum), (&GOLDEN.0[..], GOLDEN.1));
    }

    const GOLDEN: ([u16; 12], u64) = ([0, 4, 1, 0, 2, 4, 2, 0, 3, 3, 4, 0], 10_872_663_974_419_941_124);

    proptest! {
        #[test]
        fn every_place_is_filled_by_somebody_there(n in 1u32..60, size in prop::sample::select(&SIZES[..4])) {
            let ring = build(&RingHash::new("x"), &backends(n), size);
            prop_assert_eq!(ring.entries().len(), size as usize);
            prop_assert!(ring.entries().iter().all(|&o| u32::from(o) < n));
        }
    }
}

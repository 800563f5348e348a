//! Look-up tables that choose a backend: Maglev's permutations (Eisenbud et al., "Maglev: A Fast and Reliable Software
//! Network Load Balancer", NSDI 2016, §3.4), quotas, and cells.
//!
//! ```text
//! every backend walks through all cells in an order of its own, from two hashes of its identity
//! in rounds: each looks at the next cell of its walk, and takes what is free there up to its quota
//!
//! up to 40 backends    4 093 cells ×   1 slot  │a│c│b│a│…            more backends split every cell,
//! up to 654            4 093 cells ×  16 slots │aaaaaaaaadddd…│…     they do not move it
//! up to 5 239          4 093 cells × 128 slots
//! ```
//!
//! In the paper a backend walks on in its turn until it finds a free slot. Here it looks once per round. So a slot belongs to the
//! backend that comes to it earliest on its own walk, of those that still have a quota: the walks and quotas alone decide, and the
//! result is a stable matching (Gale, Shapley 1962). When a backend comes or goes, quotas change by a few slots, and half as
//! many slots change hands needlessly as in the paper's tables.
//!
//! A table needs about a hundred slots per backend for even shares, so its size depends on their number. The walk depends
//! on the cells only, and their number is always the same: a table with more slots per cell gives nearly every cell to the
//! same backend, and crossing the limit costs no more moves than any other step. A forced size is one slot in each of that many cells.
//!
//! Two gateways agree because nothing local enters: the hash is keyed by `maglev.seed` alone, backends are taken in the
//! order of their identity, and identity is address and port. A pure function; the sizes are a fixed, published list.

use std::net::IpAddr;

use pollgate_common::hash::{RingHash, wide};
use pollgate_common::tables::Ring;

use self::fill::Walk;

mod fill;

/// Sizes that can be forced: primes, so that every skip visits every cell.
pub const SIZES: [u32; 12] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65537, 131_071, 262_139, 524_287];

/// Cells of a table whose size follows the number of its backends.
const CELLS: u32 = 4093;

/// Slots in each of its cells.
const SLOTS_PER_CELL: [u32; 3] = [1, 16, 128];

/// Slots per backend, at least, if the size follows their number: shares differ by one slot, that is by one percent.
const SLOTS_PER_BACKEND: u32 = 100;

/// The most backends a table serves.
pub const MOST_BACKENDS: usize = (CELLS * SLOTS_PER_CELL[SLOTS_PER_CELL.len() - 1] / SLOTS_PER_BACKEND) as usize;

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

/// How large a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    cells: u32,
    each: u32,
}

impl Shape {
    /// `cells` cells of one slot each. A prime of [`SIZES`].
    pub fn forced(cells: u32) -> Shape {
        Shape { cells, each: 1 }
    }

    /// The shape for `backends` backends; `None` if no table serves so many.
    pub fn for_backends(backends: usize) -> Option<Shape> {
        let backends = u32::try_from(backends).ok()?;
        let shapes = SLOTS_PER_CELL.into_iter().map(|each| Shape { cells: CELLS, each });
        shapes.into_iter().find(|shape| shape.slots() / SLOTS_PER_BACKEND >= backends)
    }

    /// Slots in all cells.
    pub fn slots(self) -> u32 {
        self.cells * self.each
    }
}

/// The table for `backends`, which are in the order of their identity. Ordinals are positions in that order.
pub fn build(hash: &RingHash, backends: &[Weighted], shape: Shape) -> Ring {
    let quotas = quotas(backends, shape.slots());
    if quotas.iter().all(|&quota| quota == 0) {
        return Ring::new(Box::default());
    }
    let each = backends.iter().zip(quotas).zip(0..);
    let walks = each.map(|((backend, quota), owner)| walk(hash, backend, shape.cells, quota, owner)).collect();
    Ring::new(fill::fill(walks, shape.cells, shape.each))
}

/// How many of `slots` slots each backend gets: its share, rounded, and at least one unless its weight is 0. The sum is
/// `slots`, or 0 if no backend has a weight. There must not be more backends than slots.
fn quotas(backends: &[Weighted], slots: u32) -> Vec<u32> {
    let weights: Vec<u64> = backends.iter().map(|backend| u64::from(backend.weight)).collect();
    let mut least = vec![false; weights.len()];
    let (mut total, mut left) = (weights.iter().sum::<u64>(), u64::from(slots));
    // Those whose share is less than one slot get one. That leaves less for the others, and may make more of them.
    loop {
        let short = |&at: &usize| weights[at] > 0 && !least[at] && weights[at] * left < total;
        let found: Vec<usize> = (0..weights.len()).filter(short).collect();
        if found.is_empty() {
            break;
        }
        for at in found {
            least[at] = true;
            total -= weights[at];
            left -= 1;
        }
    }
    let shares = |at: usize| if least[at] || total == 0 { 0 } else { weights[at] * left };
    let whole = |at: usize| u32::try_from(shares(at) / total.max(1)).unwrap_or_default();
    let mut quotas: Vec<u32> = (0..weights.len()).map(|at| whole(at) + u32::from(least[at])).collect();
    let given: u32 = quotas.iter().sum();
    if given == 0 {
        return quotas;
    }
    // The rest goes to the largest remainders; of equal ones, to the first.
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|&at| std::cmp::Reverse(shares(at) % total.max(1)));
    by_remainder.iter().take((slots - given) as usize).for_each(|&at| quotas[at] += 1);
    quotas
}

/// Where a backend's walk starts, and its step.
fn walk(hash: &RingHash, backend: &Weighted, cells: u32, quota: u32, owner: u16) -> Walk {
    let (address, port) = backend.identity;
    let mut input = [0u8; 19];
    input[..16].copy_from_slice(&wide(address));
    input[16..18].copy_from_slice(&port.to_be_bytes());
    let below = |value: u64, limit: u32| u32::try_from(value % u64::from(limit)).unwrap_or(0);
    let at = below(hash.bytes(&input), cells);
    input[18] = 1;
    let skip = below(hash.bytes(&input), cells - 1) + 1;
    Walk { at, skip, quota, owner }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    fn equal(identities: impl IntoIterator<Item = u32>) -> Vec<Weighted> {
        let identity = |address: u32| (IpAddr::V4(Ipv4Addr::from(address)), 8080);
        identities.into_iter().map(|address| Weighted { identity: identity(address), weight: 1 }).collect()
    }

    fn backends(n: u32) -> Vec<Weighted> {
        equal((0..n).map(|i| 0x0af4_0000 + i))
    }

    fn auto(n: u32) -> Shape {
        Shape::for_backends(n as usize).expect("few")
    }

    fn table(backends: &[Weighted], shape: Shape) -> Ring {
        build(&RingHash::new("pollgate"), backends, shape)
    }

    fn owners(backends: &[Weighted], shape: Shape) -> Vec<Identity> {
        table(backends, shape).entries().iter().map(|&ordinal| backends[usize::from(ordinal)].identity).collect()
    }

    /// Share of the slots that changed hands though their owner stayed, averaged over some of the `n` that may go.
    fn needless(n: u32, shape: Shape) -> f64 {
        let all = backends(n);
        let before = owners(&all, shape);
        let tries: Vec<usize> = (0..n.min(12)).map(|i| (i * n / n.min(12)) as usize).collect();
        let moved = |&gone: &usize| {
            let mut rest = all.clone();
            let lost = rest.remove(gone).identity;
            before.iter().zip(&owners(&rest, shape)).filter(|(b, a)| **b != lost && b != a).count()
        };
        tries.iter().map(moved).sum::<usize>() as f64 / f64::from(shape.slots()) / tries.len() as f64
    }

    fn counts(ring: &Ring, n: u32) -> Vec<u32> {
        let mut counts = vec![0u32; n as usize];
        ring.entries().iter().for_each(|&ordinal| counts[usize::from(ordinal)] += 1);
        counts
    }

    #[test]
    fn sizes_are_prime_and_ascending() {
        for size in SIZES.into_iter().chain([CELLS]) {
            assert!((2..).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size}");
        }
        assert!(SIZES.is_sorted() && SLOTS_PER_CELL.is_sorted());
        let slots = |n| Shape::for_backends(n).map(Shape::slots);
        assert_eq!((slots(0), slots(40), slots(41)), (Some(4093), Some(4093), Some(65_488)));
        assert_eq!((slots(654), slots(655), slots(MOST_BACKENDS)), (Some(65_488), Some(523_904), Some(523_904)));
        assert_eq!((MOST_BACKENDS, slots(MOST_BACKENDS + 1)), (5239, None));
    }

    #[test]
    fn shares_are_even() {
        for n in [1, 2, 10, 40, 41, 100, 654, 655, 5239] {
            let counts = counts(&table(&backends(n), auto(n)), n);
            let (least, most) = (counts.iter().min().expect("some"), counts.iter().max().expect("some"));
            assert!(most - least <= 1, "{n}: every backend has the same, to one slot: {least}..{most}");
        }
    }

    #[test]
    fn few_move_needlessly_when_one_goes() {
        let at_100 = needless(100, Shape::forced(65537));
        assert!(at_100 <= 0.01, "{at_100}");
        for n in [2, 3, 4, 5, 6, 7, 10, 12, 20, 25, 40, 41, 60, 80, 100, 120, 200, 400, 654, 655, 1310] {
            let share = needless(n, auto(n));
            assert!(share <= 0.015, "{n} backends: {share}");
        }
    }

    /// Every step from N to N + 1 and back: the tables are the same either way. The steps to another size are among them. Twelve
    /// thousand hashes stand for all.
    #[test]
    fn no_step_up_to_a_thousand_backends_moves_more() {
        let hash = RingHash::new("which comes next");
        let mut identities = BTreeSet::new();
        let points: Vec<u64> = (0..CELLS * 3).map(|point| hash.bytes(&point.to_be_bytes())).collect();
        let at = |identities: &BTreeSet<u32>| -> Vec<Identity> {
            let backends = equal(identities.iter().copied());
            let shape = auto(u32::try_from(backends.len()).expect("few"));
            let ring = table(&backends, shape);
            points.iter().map(|&point| backends[usize::from(ring.pick(point).expect("full"))].identity).collect()
        };
        identities.insert(0x0a00_0000);
        let mut before = at(&identities);
        let (mut worst, mut sum) = ((0.0, 0), 0.0);
        for n in 2..=1000u64 {
            let new = (0u64..).map(|salt| 0x0a00_0000 | (hash.bytes(&(n << 32 | salt).to_be_bytes()) & 0xff_ffff));
            let new = new.map(|new| u32::try_from(new).expect("32 bits")).find(|new| identities.insert(*new));
            let new = equal(new)[0].identity;
            let after = at(&identities);
            let moved = before.iter().zip(&after).filter(|(b, a)| **a != new && b != a).count();
            let share = moved as f64 / after.len() as f64;
            worst = if share > worst.0 { (share, n) } else { worst };
            sum += share;
            before = after;
        }
        assert!(worst.0 <= 0.016, "{:.4} of the slots moved needlessly at the step to {} backends", worst.0, worst.1);
        assert!(sum / 999.0 <= 0.01, "{} on average", sum / 999.0);
    }

    #[test]
    fn weights_are_shares() {
        let weighted = |weights: &[u32]| {
            let mut all = backends(u32::try_from(weights.len()).expect("few"));
            all.iter_mut().zip(weights).for_each(|(backend, &weight)| backend.weight = weight);
            all
        };
        let counted = |weights: &[u32], slots| {
            let ring = table(&weighted(weights), Shape::forced(slots));
            counts(&ring, u32::try_from(weights.len()).expect("few"))
        };
        assert_eq!(counted(&[2, 1, 0], 1021), [681, 340, 0]);
        assert_eq!(counted(&[30, 30, 30], 1021), [341, 340, 340]);
        assert_eq!(counted(&[65_535, 1, 1], 251), [249, 1, 1], "no weight but 0 means none");
        assert_eq!(counted(&[1, 2, 3, 4], 4093), [409, 819, 1228, 1637]);
        assert!(table(&weighted(&[0, 0]), Shape::forced(1021)).entries().is_empty());
        assert!(table(&[], Shape::forced(1021)).entries().is_empty());
    }

    #[test]
    fn a_weight_that_changes_moves_its_own_share() {
        let mut all = backends(10);
        let before = owners(&all, auto(10));
        let heavy = all[3].identity;
        all[3].weight = 2;
        let after = owners(&all, auto(10));
        let share = |owners: &[Identity]| owners.iter().filter(|owner| **owner == heavy).count();
        assert_eq!((share(&before), share(&after)), (409, 745), "one tenth, two elevenths");
        let needless = before.iter().zip(&after).filter(|(b, a)| **a != heavy && b != a).count();
        assert!(needless <= 4093 * 2 / 100, "{needless}");
    }

    /// Golden: what two gateways of different versions must agree on.
    #[test]
    fn the_table_never_changes() {
        let sum = |ring: &Ring| {
            ring.entries().iter().fold(0u64, |sum, &ordinal| sum.wrapping_mul(31).wrapping_add(u64::from(ordinal)))
        };
        let small = table(&backends(5), Shape::forced(251));
        assert_eq!((&small.entries()[..12], sum(&small)), (&GOLDEN.0[..], GOLDEN.1));
        assert_eq!(sum(&table(&backends(50), auto(50))), GOLDEN_CELLS);
    }

    const GOLDEN: ([u16; 12], u64) = ([1, 4, 4, 0, 2, 4, 3, 0, 3, 3, 4, 0], 15_566_038_093_660_066_222);
    const GOLDEN_CELLS: u64 = 10_683_854_827_982_906_160;

    proptest! {
        #[test]
        fn every_slot_has_an_owner_and_every_weight_its_share(
            weights in prop::collection::vec(prop_oneof![Just(0), Just(1), 0u32..=65535], 1..60),
            size in prop::sample::select(&SIZES[..4]),
        ) {
            let backends: Vec<Weighted> =
                backends(60).iter().zip(&weights).map(|(b, &weight)| Weighted { weight, ..*b }).collect();
            let ring = build(&RingHash::new("x"), &backends, Shape::forced(size));
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            prop_assert_eq!(ring.entries().len(), if total == 0 { 0 } else { size as usize });
            let counts = counts(&ring, 60);
            for (&weight, &count) in weights.iter().zip(&counts) {
                prop_assert_eq!(weight > 0, count > 0);
                // Those that have one slot instead of less leave the others less.
                let share = u64::from(weight) * u64::from(size) / total.max(1);
                prop_assert!(u64::from(count) <= share + 1);
            }
        }
    }
}

//! Filling a table: what rounds of one look per backend would give, found in two ways.
//!
//! ```text
//! most cells have room    every backend looks at the next cell of its walk     no branch on what it finds there
//! few, known by name      how many looks away is each? the nearest pairs       a multiplication for each
//! ```
//!
//! A look takes what the cell has left, up to the backend's quota. Whether a cell has room is a coin toss that no branch
//! predictor learns, so in cells of one slot the look writes in any case. And rounds take ln(cells) looks per cell, half of them for
//! the last √cells. A walk is `at, at + skip, at + 2·skip, …` modulo a prime, so the number of looks to a cell is a
//! division by `skip` in that field: a multiplication by its inverse. The pairs of a backend and a cell, sorted by that
//! number, are the looks that find room, in their order.

/// A slot without an owner. Owners are fewer.
const FREE: u16 = u16::MAX;

/// A backend on its walk through the cells.
pub(super) struct Walk {
    /// The cell it looks at next.
    pub(super) at: u32,
    /// From one cell to the next; not zero, less than the number of cells.
    pub(super) skip: u32,
    /// The slots it still gets.
    pub(super) quota: u32,
    /// What is written into its slots.
    pub(super) owner: u16,
}

/// The slots of a table of `cells` cells, `each` slots in a cell. Together, the walks' quotas are all slots; in each round the
/// walks look in their order.
pub(super) fn fill(walks: Vec<Walk>, cells: u32, each: u32) -> Box<[u16]> {
    let field = Field::new(cells);
    match each {
        1 => Singles { slots: vec![FREE; cells as usize], field }.filled(walks),
        _ => Cells { slots: vec![0; (cells * each) as usize], each: each as usize, field }.filled(walks),
    }
}

/// Cells of one slot each. Their number is a prime of at most 20 bits.
struct Singles {
    slots: Vec<u16>,
    field: Field,
}

impl Singles {
    fn filled(mut self, mut walks: Vec<Walk>) -> Box<[u16]> {
        let mut left = self.slots.len();
        // Pairs grow with the square.
        let few = left.isqrt() / 4;
        walks.retain(|walk| walk.quota > 0);
        while left > few {
            let mut done = false;
            for walk in &mut walks {
                let slot = &mut self.slots[walk.at as usize];
                let free = *slot == FREE;
                *slot = if free { walk.owner } else { *slot };
                walk.quota -= u32::from(free);
                walk.at = self.field.add(walk.at, walk.skip);
                left -= usize::from(free);
                done |= walk.quota == 0;
            }
            if done {
                walks.retain(|walk| walk.quota > 0);
            }
        }
        self.fill_nearest(&mut walks);
        self.slots.into_boxed_slice()
    }

    /// The last cells: all pairs of a walk and a cell, the nearest first.
    fn fill_nearest(&mut self, walks: &mut [Walk]) {
        let free: Vec<u32> = (0..).zip(&self.slots).filter(|(_, slot)| **slot == FREE).map(|(cell, _)| cell).collect();
        let mut pairs = Vec::with_capacity(walks.len() * free.len());
        for (index, walk) in (0u64..).zip(&*walks) {
            let inverse = self.field.inverse(walk.skip);
            let looks = |cell: u32| u64::from(self.field.multiply(self.field.subtract(cell, walk.at), inverse));
            // Looks, then the order of the walks; 20 bits each.
            pairs.extend(free.iter().map(|&cell| looks(cell) << 40 | index << 20 | u64::from(cell)));
        }
        pairs.sort_unstable();
        let low = |bits: u64| usize::try_from(bits & 0xf_ffff).unwrap_or_default();
        for pair in pairs {
            let (walk, slot) = (&mut walks[low(pair >> 20)], &mut self.slots[low(pair)]);
            if walk.quota > 0 && *slot == FREE {
                *slot = walk.owner;
                walk.quota -= 1;
            }
        }
    }
}

/// Cells of several slots, each filled from its first slot on. Their number is a prime of at most 20 bits.
struct Cells {
    slots: Vec<u16>,
    each: usize,
    field: Field,
}

impl Cells {
    fn filled(mut self, mut walks: Vec<Walk>) -> Box<[u16]> {
        let mut taken = vec![0usize; self.slots.len() / self.each];
        walks.retain(|walk| walk.quota > 0);
        while !walks.is_empty() {
            for walk in &mut walks {
                let cell = walk.at as usize;
                walk.at = self.field.add(walk.at, walk.skip);
                let takes = (self.each - taken[cell]).min(walk.quota as usize);
                let first = cell * self.each + taken[cell];
                self.slots[first..first + takes].fill(walk.owner);
                taken[cell] += takes;
                walk.quota -= u32::try_from(takes).unwrap_or_default();
            }
            walks.retain(|walk| walk.quota > 0);
        }
        self.slots.into_boxed_slice()
    }
}

/// Arithmetic modulo a prime.
struct Field {
    size: u32,
    /// 2⁶⁴ / size, rounded up: what is multiplied with instead of dividing. Exact for products of 40 bits by a divisor of
    /// 20 (Lemire, Kaser, Kurz, "Faster remainder by direct computation", 2019, theorem 1).
    reciprocal: u64,
}

impl Field {
    fn new(size: u32) -> Field {
        Field { size, reciprocal: u64::MAX / u64::from(size) + 1 }
    }

    #[inline]
    fn add(&self, a: u32, b: u32) -> u32 {
        let sum = a + b;
        if sum >= self.size { sum - self.size } else { sum }
    }

    #[inline]
    fn subtract(&self, a: u32, b: u32) -> u32 {
        if a >= b { a - b } else { a + self.size - b }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a quotient by 2⁶⁴ fits, and a remainder is below the size")]
    fn multiply(&self, a: u32, b: u32) -> u32 {
        let product = u64::from(a) * u64::from(b);
        let quotient = ((u128::from(product) * u128::from(self.reciprocal)) >> 64) as u64;
        (product - quotient * u64::from(self.size)) as u32
    }

    /// Euclid's algorithm, extended.
    fn inverse(&self, value: u32) -> u32 {
        let size = i64::from(self.size);
        let (mut rest, mut next_rest) = (size, i64::from(value));
        let (mut factor, mut next_factor) = (0, 1);
        while next_rest != 0 {
            let quotient = rest / next_rest;
            (rest, next_rest) = (next_rest, rest - quotient * next_rest);
            (factor, next_factor) = (next_factor, factor - quotient * next_factor);
        }
        u32::try_from(factor.rem_euclid(size)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::SIZES;
    use super::*;

    /// The definition: in each round, each backend with a quota looks at one cell and takes what it finds there.
    fn by_rounds(mut walks: Vec<Walk>, cells: u32, each: u32) -> Vec<u16> {
        let mut slots: Vec<Vec<u16>> = vec![Vec::new(); cells as usize];
        while walks.iter().any(|walk| walk.quota > 0) {
            for walk in &mut walks {
                let cell = &mut slots[walk.at as usize];
                while walk.quota > 0 && cell.len() < each as usize {
                    cell.push(walk.owner);
                    walk.quota -= 1;
                }
                walk.at = (walk.at + walk.skip) % cells;
            }
        }
        slots.concat()
    }

    proptest! {
        #[test]
        fn the_field_divides(size in prop::sample::select(&SIZES[..]), a in any::<u32>(), b in any::<u32>()) {
            let field = Field::new(size);
            let (a, b) = (a % size, b % (size - 1) + 1);
            let expected = u64::from(a) * u64::from(b) % u64::from(size);
            prop_assert_eq!(u64::from(field.multiply(a, b)), expected);
            prop_assert_eq!(field.multiply(b, field.inverse(b)), 1);
            prop_assert_eq!(field.add(field.subtract(a, b), b), a);
        }

        #[test]
        fn both_ways_take_the_slots_that_rounds_would(
            cells in prop::sample::select(&SIZES[..5]),
            each in 1u32..20,
            seeds in prop::collection::vec((any::<u32>(), any::<u32>(), 0u32..100), 1..40),
        ) {
            let slots = cells * each;
            let weights: u32 = seeds.iter().map(|seed| seed.2).sum::<u32>() + 1;
            let walk = |(owner, &(at, skip, weight)): (u16, &(u32, u32, u32))| {
                Walk { at: at % cells, skip: skip % (cells - 1) + 1, quota: slots * weight / weights, owner }
            };
            let walks = || -> Vec<Walk> {
                let mut walks: Vec<Walk> = (0..).zip(&seeds).map(walk).collect();
                walks[0].quota = slots - walks[1..].iter().map(|walk| walk.quota).sum::<u32>();
                walks
            };
            prop_assert_eq!(&*fill(walks(), cells, each), by_rounds(walks(), cells, each));
        }
    }
}

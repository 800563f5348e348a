//! Filling a table: the same slots as one walk after another would take step by step, found in three ways.
//!
//! ```text
//! most slots free     one step after another until a slot is free       the first or second is
//! fewer               eight steps at a time, their slots seen at once    a free one among them is picked without a branch
//! few, known by name  how many steps away is each? the nearest           a multiplication for each
//! ```
//!
//! A loop of single steps ends after a random number of them, which no branch predictor learns: in the second way, a
//! misprediction costs more than a needless look. And it takes ln(size) steps per slot, half of them for the last √size slots. A
//! permutation is `at, at + skip, at + 2·skip, …` modulo a prime, so the number of steps to a slot is a division by `skip` in
//! that field: a multiplication by its inverse.

/// Steps taken at once.
const AT_ONCE: usize = 8;

/// A backend on its way through its permutation of the slots.
pub(super) struct Walk {
    /// The next slot to look at.
    pub(super) at: u32,
    /// From one slot to the next; not zero, less than the size.
    pub(super) skip: u32,
}

/// A table that is being filled. Its size is a prime of at most 20 bits.
pub(super) struct Table {
    slots: Vec<u16>,
    /// 1 for a slot that is taken. A byte each: words that are written and read alternately would stall.
    taken: Vec<u8>,
    left: usize,
    /// From so few free slots on, several steps are taken at once.
    fewer: usize,
    /// From so few free slots on, they are known one by one.
    few: usize,
    free: Vec<u32>,
    field: Field,
}

impl Table {
    pub(super) fn new(size: u32) -> Table {
        let len = size as usize;
        Table {
            slots: vec![0; len],
            taken: vec![0; len],
            left: len,
            fewer: len * 7 / 10,
            few: len.isqrt() * 7 / 10,
            free: Vec::new(),
            field: Field::new(size),
        }
    }

    /// The slots, once all are taken.
    pub(super) fn filled(&mut self) -> Option<Box<[u16]>> {
        (self.left == 0).then(|| std::mem::take(&mut self.slots).into_boxed_slice())
    }

    /// Gives the walk's owner the next free slot on its way. There must be one.
    #[inline]
    pub(super) fn take_next(&mut self, walk: &mut Walk, owner: u16) {
        let slot = match self.left {
            left if left > self.fewer => self.step(walk),
            left if left > self.few => self.steps(walk),
            _ => self.nearest(walk),
        };
        walk.at = self.field.add(slot, walk.skip);
        self.taken[slot as usize] = 1;
        self.slots[slot as usize] = owner;
        self.left -= 1;
    }

    #[inline]
    fn step(&self, walk: &Walk) -> u32 {
        let mut slot = walk.at;
        while self.taken[slot as usize] != 0 {
            slot = self.field.add(slot, walk.skip);
        }
        slot
    }

    #[inline]
    fn steps(&self, walk: &Walk) -> u32 {
        let add = |slot, skip| self.field.add(slot, skip);
        let two = add(walk.skip, walk.skip);
        let four = add(two, two);
        let mut first = walk.at;
        loop {
            let second = add(first, walk.skip);
            let half = [first, second, add(first, two), add(second, two)];
            let slots: [u32; AT_ONCE] = std::array::from_fn(|i| if i < 4 { half[i] } else { add(half[i - 4], four) });
            let bits = slots.iter().rev().fold(0u32, |bits, &at| (bits << 1) | u32::from(self.taken[at as usize]));
            if let Some(&slot) = slots.get(bits.trailing_ones() as usize) {
                return slot;
            }
            first = add(slots[AT_ONCE - 1], walk.skip);
        }
    }

    fn nearest(&mut self, walk: &Walk) -> u32 {
        if self.free.is_empty() {
            self.free = (0..self.field.size).filter(|&slot| self.taken[slot as usize] == 0).collect();
        }
        let inverse = self.field.inverse(walk.skip);
        let steps = |slot: u32| self.field.multiply(self.field.subtract(slot, walk.at), inverse);
        // Steps are different for different slots: there is one nearest. In one number, so that no branch is guessed.
        let numbered = self.free.iter().zip(0u64..).map(|(&slot, index)| (u64::from(steps(slot)) << 32) | index);
        let nearest = numbered.min().unwrap_or_default() & u64::from(u32::MAX);
        self.free.swap_remove(usize::try_from(nearest).unwrap_or_default())
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

        /// Against the definition: each backend in turn steps to the next free slot.
        #[test]
        fn both_ways_take_the_places_that_steps_would(
            size in prop::sample::select(&SIZES[..5]),
            seeds in prop::collection::vec((any::<u32>(), any::<u32>()), 1..40),
        ) {
            let walk = |&(at, skip): &(u32, u32)| Walk { at: at % size, skip: skip % (size - 1) + 1 };
            let (mut walks, mut plain): (Vec<Walk>, Vec<Walk>) = seeds.iter().map(|s| (walk(s), walk(s))).unzip();
            let (mut table, mut expected) = (Table::new(size), vec![None; size as usize]);
            for turn in 0..size as usize {
                let owner = turn % walks.len();
                table.take_next(&mut walks[owner], u16::try_from(owner).expect("few"));
                let walk = &mut plain[owner];
                while expected[walk.at as usize].is_some() {
                    walk.at = (walk.at + walk.skip) % size;
                }
                expected[walk.at as usize] = Some(u16::try_from(owner).expect("few"));
            }
            let slots: Vec<Option<u16>> = table.filled().expect("full").iter().copied().map(Some).collect();
            prop_assert_eq!(slots, expected);
        }
    }
}

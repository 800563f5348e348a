//! How much memory the reading of a request may take.
//!
//! Two bytes of JSON (`0,`) are a value of 32 bytes, three bytes (`{},`) may be a container of a kilobyte, and nine bytes of YAML
//! refer to a megabyte. So whatever is built from a body is counted while it is built, as the allocator will: a list by the
//! capacity it grows to, a map by its nodes. What is beyond the allowance is not built.

use std::cell::Cell;
use std::fmt;

/// Memory per byte of a body: the body itself and what is made of it.
pub(crate) const PER_BYTE: usize = 8;

/// Memory that any body may take: a small object takes more than [`PER_BYTE`] times its text.
const BASE: usize = 4 << 20;

/// What may still be built.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: Cell<usize>,
    whole: usize,
}

/// The allowance is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMuch {
    whole: usize,
}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it has so many small parts that reading it takes more than {} bytes of memory, {PER_BYTE} per byte and {BASE} \
             besides; send less in one object",
            self.whole
        )
    }
}

impl Allowance {
    /// No bound: for what the operator's own command line reads.
    pub(crate) fn unlimited() -> Allowance {
        Allowance { left: Cell::new(usize::MAX), whole: usize::MAX }
    }

    /// That of a text of so many bytes, which is in memory already.
    pub(crate) fn of_text(bytes: usize) -> Allowance {
        let whole = bytes.saturating_mul(PER_BYTE).saturating_add(BASE);
        Allowance { left: Cell::new(whole - bytes), whole }
    }

    /// That of a patch of so many bytes: it is in memory as a value, again in the object that it is merged into, and as the
    /// object that this becomes.
    pub(crate) fn of_patch(bytes: usize) -> Allowance {
        Allowance::of_text(bytes / 4)
    }

    /// What was taken and not given back.
    pub(crate) fn taken(&self) -> usize {
        self.whole - self.left.get()
    }

    /// Takes memory that is about to be allocated.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), TooMuch> {
        let left = self.left.get().checked_sub(bytes).ok_or(TooMuch { whole: self.whole })?;
        self.left.set(left);
        Ok(())
    }

    /// Gives memory back that was freed.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.left.set(self.left.get().saturating_add(bytes).min(self.whole));
    }
}

/// A list that grows as `Vec` does: to twice its capacity, the old items in memory until they are moved.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    items: usize,
    capacity: usize,
}

impl Growth {
    /// That of a list that is there.
    pub(crate) fn of<T>(list: &Vec<T>) -> Growth {
        Growth { items: list.len(), capacity: list.capacity() }
    }

    /// Takes what one more item of `size` bytes needs.
    pub(crate) fn push(&mut self, size: usize, allowance: &Allowance) -> Result<(), TooMuch> {
        if self.items == self.capacity {
            let least = if size > 1024 { 1 } else { 4 };
            let larger = (self.capacity * 2).max(least);
            allowance.take(larger.saturating_mul(size))?;
            allowance.give_back(self.capacity * size);
            self.capacity = larger;
        }
        self.items += 1;
        Ok(())
    }
}

/// Takes what one more entry of `size` bytes needs in a `BTreeMap` of `entries`: a node holds eleven, and after a split at least five.
pub(crate) fn take_entry(entries: usize, size: usize, allowance: &Allowance) -> Result<(), TooMuch> {
    const NODE: usize = 11;
    const SPLIT: usize = 5;
    /// Parent, length, and a share of the inner nodes.
    const HEAD: usize = 40;
    if entries == 0 || entries >= NODE && entries.is_multiple_of(SPLIT) {
        return allowance.take(NODE * size + HEAD);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_bounded_and_can_be_given_back() {
        let allowance = Allowance::of_text(1000);
        assert_eq!(allowance.taken(), 1000, "the text itself");
        assert_eq!(allowance.take(BASE + 7000), Ok(()));
        assert_eq!(allowance.take(1), Err(TooMuch { whole: BASE + 8000 }));
        allowance.give_back(1);
        assert_eq!(allowance.take(1), Ok(()));
        assert_eq!(Allowance::unlimited().take(usize::MAX), Ok(()));
    }

    #[test]
    fn a_list_takes_its_capacity_and_while_it_grows_both() {
        let (allowance, mut list) = (Allowance::unlimited(), Growth::default());
        let mut real: Vec<[u8; 100]> = Vec::new();
        for _ in 0..1000 {
            list.push(100, &allowance).unwrap();
            real.push([0; 100]);
            assert_eq!(allowance.taken(), real.capacity() * 100);
        }
        // Growing from 4 to 8 needs twelve at once.
        let (allowance, mut list) = (Allowance { left: Cell::new(1100), whole: 1100 }, Growth::default());
        assert!((0..4).all(|_| list.push(100, &allowance).is_ok()));
        assert!(list.push(100, &allowance).is_err());
    }
}

//! The table of names: open addressing in shards that generations share.
//!
//! ```text
//!  hash ─┬─ bits 40…47 ─▶ shard (behind an Arc)
//!        ├─ low bits ───▶ first slot; then the next ones
//!        └─ all ────────▶ compared with the slot's, before the node is read
//! ```
//!
//! A look-up reads one slot and one node, each a cache line or two, and both can be prefetched: the slot by the hash, the node by
//! the slot. (That is why it is no [`crate::sharded::Sharded`], whose tables do not tell where they will read.) A change copies one
//! shard, and only if another generation shares it.

use std::sync::Arc;

use super::name::{Name, Seed};
use super::records::Node;
use crate::sharded::{SHARDS, shard_of};

/// Two slots on a cache line, never one on two.
#[derive(Clone, Debug, Default)]
#[repr(align(32))]
struct Slot {
    hash: u64,
    node: Option<Node>,
}

/// At most half of the slots are used, so that every search ends, and soon.
#[derive(Clone, Debug, Default)]
struct Shard {
    /// A power of two, or none.
    slots: Box<[Slot]>,
    used: usize,
}

/// The names of a zone.
#[derive(Clone, Debug)]
pub struct Names {
    seed: Seed,
    shards: Box<[Arc<Shard>]>,
    len: usize,
}

impl Default for Names {
    fn default() -> Names {
        let empty = Arc::new(Shard::default());
        Names { seed: Seed::random(), shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(), len: 0 }
    }
}

impl Names {
    /// The seed of the names' hashes.
    #[inline]
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no names.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first slot that a look-up reads, to be prefetched.
    #[inline]
    pub fn slot(&self, hash: u64) -> *const u8 {
        let slots = &self.shard(hash).slots;
        slots.as_ptr().wrapping_add(index(hash, slots.len())).cast()
    }

    /// The node that a look-up reads, to be prefetched, if there is one with this hash.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Option<*const u8> {
        self.shard(hash).find(hash, |_| true).map(|(_, node)| node.as_ptr())
    }

    /// The node of `name`.
    #[inline]
    pub fn get(&self, name: &Name) -> Option<&Node> {
        self.shard(name.hash()).find(name.hash(), |node| node.name() == name.as_bytes()).map(|(_, node)| node)
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[shard_of(hash)]
    }

    /// Adds or replaces the node of its name. Returns the node that the name had.
    pub fn insert(&mut self, node: Node) -> Option<Node> {
        let name = Name::of(&[node.name()], self.seed)?;
        let shard = Arc::make_mut(&mut self.shards[shard_of(name.hash())]);
        if let Some((at, _)) = shard.find(name.hash(), |known| known.name() == name.as_bytes()) {
            return shard.slots[at].node.replace(node);
        }
        shard.add(name.hash(), node);
        self.len += 1;
        None
    }

    /// Removes the node of `name` (wire format, lower case). Returns it.
    pub fn remove(&mut self, name: &[u8]) -> Option<Node> {
        let name = Name::of(&[name], self.seed)?;
        self.get(&name)?;
        let shard = Arc::make_mut(&mut self.shards[shard_of(name.hash())]);
        let (at, _) = shard.find(name.hash(), |known| known.name() == name.as_bytes())?;
        self.len -= 1;
        shard.take(at)
    }

    /// All nodes, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.shards.iter().flat_map(|shard| shard.slots.iter()).filter_map(|slot| slot.node.as_ref())
    }
}

/// The first slot of a hash among `slots`, a power of two or 0.
#[inline]
fn index(hash: u64, slots: usize) -> usize {
    usize::try_from(hash & 0xffff_ffff).unwrap_or(0) & slots.wrapping_sub(1)
}

impl Shard {
    /// The first node with this hash that `is` the wanted one, and its slot.
    #[inline]
    fn find(&self, hash: u64, is: impl Fn(&Node) -> bool) -> Option<(usize, &Node)> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = index(hash, self.slots.len());
        loop {
            let slot = self.slots.get(at)?;
            let node = slot.node.as_ref()?;
            if slot.hash == hash && is(node) {
                return Some((at, node));
            }
            at = (at + 1) & mask;
        }
    }

    fn add(&mut self, hash: u64, node: Node) {
        if (self.used + 1) * 2 > self.slots.len() {
            let size = (self.slots.len() * 2).max(4);
            let slots = std::mem::replace(&mut self.slots, (0..size).map(|_| Slot::default()).collect());
            slots
                .into_iter()
                .filter_map(|slot| Some((slot.hash, slot.node?)))
                .for_each(|(h, node)| self.place(h, node));
        }
        self.place(hash, node);
        self.used += 1;
    }

    /// Puts a node into the first free slot of its hash.
    fn place(&mut self, hash: u64, node: Node) {
        let mask = self.slots.len() - 1;
        let mut at = index(hash, self.slots.len());
        while self.slots[at].node.is_some() {
            at = (at + 1) & mask;
        }
        self.slots[at] = Slot { hash, node: Some(node) };
    }

    /// Empties a slot, and puts those behind it where a search finds them.
    fn take(&mut self, at: usize) -> Option<Node> {
        let taken = self.slots[at].node.take();
        self.used -= 1;
        let mask = self.slots.len() - 1;
        let mut next = (at + 1) & mask;
        while let Some(node) = self.slots[next].node.take() {
            let hash = self.slots[next].hash;
            self.place(hash, node);
            next = (next + 1) & mask;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::to_wire;
    use super::super::records::{Set, rr};
    use super::*;

    fn node(n: u32, version: u8) -> Node {
        let name = to_wire(&format!("web-{n}.default.svc")).expect("a name");
        Node::new(&name, &[Set::of(rr::A, 5, [&[version, 0, 0, 0][..]])])
    }

    fn found(names: &Names, n: u32) -> Option<u8> {
        let name = Name::of(&[node(n, 0).name()], names.seed()).expect("a name");
        names.get(&name).and_then(|node| node.answer(rr::A)?.data()?.first().copied())
    }

    #[test]
    fn it_is_a_map_and_its_copies_keep_what_they_had() {
        let mut names = Names::default();
        assert!((0..10_000).all(|n| names.insert(node(n, 1)).is_none()));
        let before = names.clone();
        assert_eq!(names.insert(node(7, 2)), Some(node(7, 1)));
        assert_eq!(names.remove(node(8, 0).name()), Some(node(8, 1)));
        assert_eq!(names.remove(node(8, 0).name()), None);
        assert_eq!((names.len(), found(&names, 7), found(&names, 8)), (9_999, Some(2), None));
        assert_eq!((before.len(), found(&before, 7), found(&before, 8)), (10_000, Some(1), Some(1)));
        let shared = names.shards.iter().zip(&before.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= SHARDS - 2, "{shared} of {SHARDS} shards shared");
        assert_eq!(names.iter().count(), 9_999);
    }

    #[test]
    fn whatever_is_removed_all_others_are_still_found() {
        let mut names = Names::default();
        (0..2000).for_each(|n| drop(names.insert(node(n, 1))));
        for gone in (0..2000).step_by(3) {
            assert!(names.remove(node(gone, 0).name()).is_some());
        }
        assert!((0..2000).all(|n| found(&names, n).is_some() == (n % 3 != 0)));
        (0..2000).filter(|n| n % 3 != 0).for_each(|n| drop(names.remove(node(n, 0).name())));
        assert!(names.is_empty() && names.iter().next().is_none());
    }
}

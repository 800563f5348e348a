//! A map whose copies share their unchanged parts.
//!
//! ```text
//!  hash ─┬─ bits 40…47 ─▶ shard (behind an Arc)
//!        └─ the rest ───▶ index and tag in the shard's table
//! ```
//!
//! Copying the map copies one pointer per shard. A change copies one shard, and only if another map shares it. A key is
//! hashed once for both steps: the tables are hashbrown's, which take a ready hash. (The standard library's map is the same
//! table, but always hashes by itself.)

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashTable;

/// Shards of each map.
pub const SHARDS: usize = 256;

/// Lowest bit of the shard's number in a hash. hashbrown takes the index from the low bits and the tag from the top seven.
const SHARD_SHIFT: u32 = 40;

type Shard<K, V> = HashTable<(K, V)>;

/// A hash map in shards that its copies share.
#[derive(Debug)]
pub struct Sharded<K, V> {
    hasher: ahash::RandomState,
    pub(crate) shards: Box<[Arc<Shard<K, V>>]>,
    len: usize,
}

impl<K, V> Clone for Sharded<K, V> {
    fn clone(&self) -> Self {
        Sharded { hasher: self.hasher.clone(), shards: self.shards.clone(), len: self.len }
    }
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        let shards = (0..SHARDS).map(|_| Arc::clone(&empty)).collect();
        Sharded { hasher: ahash::RandomState::new(), shards, len: 0 }
    }
}

/// The shard that a hash belongs to.
#[inline]
pub(crate) fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> SHARD_SHIFT).unwrap_or(0) % SHARDS
}

impl<K: Hash + Eq + Clone, V: Clone> Sharded<K, V> {
    /// The value of `key`.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        self.shards[shard_of(hash)].find(hash, |(known, _)| known.borrow() == key).map(|(_, value)| value)
    }

    /// Sets the value of `key`, copying its shard if others share it.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = self.hasher.hash_one(&key);
        let shard = Arc::make_mut(&mut self.shards[shard_of(hash)]);
        if let Some((_, known)) = shard.find_mut(hash, |(known, _)| *known == key) {
            return Some(std::mem::replace(known, value));
        }
        let hasher = &self.hasher;
        shard.insert_unique(hash, (key, value), |(known, _)| hasher.hash_one(known));
        self.len += 1;
        None
    }

    /// Removes `key`, copying its shard if others share it. Returns its value.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get(key)?;
        let hash = self.hasher.hash_one(key);
        let shard = Arc::make_mut(&mut self.shards[shard_of(hash)]);
        let entry = shard.find_entry(hash, |(known, _)| known.borrow() == key).ok()?;
        self.len -= 1;
        Some(entry.remove().0.1)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map_and_its_copies_keep_what_they_had() {
        let mut map: Sharded<Box<[u8]>, u32> = Sharded::default();
        let key = |n: u32| -> Box<[u8]> { n.to_be_bytes().into() };
        assert!((0..10_000).all(|n| map.insert(key(n), n).is_none()));
        let before = map.clone();
        assert_eq!(map.insert(key(7), 70), Some(7));
        assert_eq!(map.remove(&key(8)[..]), Some(8));
        assert_eq!(map.remove(&key(8)[..]), None);
        assert_eq!((map.len(), map.get(&key(7)[..]), map.get(&key(8)[..])), (9_999, Some(&70), None));
        assert_eq!((before.len(), before.get(&key(7)[..]), before.get(&key(8)[..])), (10_000, Some(&7), Some(&8)));
        assert_eq!(map.iter().count(), 9_999);
        let shared = map.shards.iter().zip(&before.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= SHARDS - 2, "{shared} of {SHARDS} shards shared");
    }

    #[test]
    fn keys_are_spread_over_the_shards() {
        let mut map: Sharded<u32, ()> = Sharded::default();
        assert!((0..25_600).all(|n| map.insert(n, ()).is_none()));
        let (least, most) = (map.shards.iter().map(|s| s.len()).min(), map.shards.iter().map(|s| s.len()).max());
        assert!(least > Some(50) && most < Some(170), "{least:?} to {most:?} of 100 on average");
    }
}

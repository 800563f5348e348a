//! Rings, built once per set of backends and shared by all Services with the same set.
//!
//! Used by several threads at a cold start. A ring is built outside of the lock; if two threads build the same at once, the
//! first to insert its ring shares it with the other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pollgate_common::hash::{HashMap, RingHash, new_map, wide};
use pollgate_common::tables::Ring;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

use super::maglev::{self, MOST_BACKENDS, Shape, Weighted};

/// All rings in use, by the set of backends they are built over.
pub struct Rings {
    hash: RingHash,
    forced: Option<u32>,
    /// Over any one backend: it has every slot, so one slot is enough.
    single: Arc<Ring>,
    /// By a 128-bit hash of the set: a collision is as likely as a broken machine.
    known: Mutex<HashMap<u128, Weak<Ring>>>,
}

/// More backends than a ring serves.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{found} endpoints are more than one service port can balance over ({limit}); split the Service")]
pub struct TooMany {
    /// How many there are.
    pub found: usize,
    /// How many there may be.
    pub limit: usize,
}

impl Rings {
    /// Rings under `hash`; `forced` is `maglev.tableSize`, or `None` for a size by the number of backends.
    pub fn new(hash: RingHash, forced: Option<u32>) -> Rings {
        Rings { hash, forced, single: Arc::new(Ring::new(Box::new([0]))), known: Mutex::new(new_map()) }
    }

    /// The ring over `members`, which are in the order of their identity, each there once and with a weight.
    pub fn ring(&self, members: &[Weighted]) -> Result<Arc<Ring>, TooMany> {
        let shape = self.shape(members.len())?;
        if let [_] = members {
            return Ok(Arc::clone(&self.single));
        }
        let members = reduced(members);
        let key = key(&members, shape);
        let known = self.known().get(&key).and_then(Weak::upgrade);
        if let Some(ring) = known {
            return Ok(ring);
        }
        let built = Arc::new(maglev::build(&self.hash, &members, shape));
        let mut known = self.known();
        if let Some(ring) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(ring);
        }
        known.insert(key, Arc::downgrade(&built));
        Ok(built)
    }

    /// Drops rings that are no longer in use.
    pub fn tidy(&self) {
        self.known().retain(|_, ring| ring.strong_count() > 0);
    }

    /// Consistent at every moment, so also after a thread panicked holding it.
    fn known(&self) -> MutexGuard<'_, HashMap<u128, Weak<Ring>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shape(&self, members: usize) -> Result<Shape, TooMany> {
        let Some(size) = self.forced else {
            return Shape::for_backends(members).ok_or(TooMany { found: members, limit: MOST_BACKENDS });
        };
        // A ring's entries have 16 bits, and one value of them is no backend.
        let limit = (size as usize).min(usize::from(u16::MAX));
        if members > limit {
            return Err(TooMany { found: members, limit });
        }
        Ok(Shape::forced(size))
    }
}

/// The same shares in the smallest numbers, so that equal weights are one ring, whatever they are.
fn reduced(members: &[Weighted]) -> Vec<Weighted> {
    let divisor = members.iter().fold(0, |divisor, member| common_divisor(divisor, member.weight)).max(1);
    members.iter().map(|member| Weighted { weight: member.weight / divisor, ..*member }).collect()
}

fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn key(members: &[Weighted], shape: Shape) -> u128 {
    let mut hasher = SipHasher13::new();
    hasher.write_u32(shape.slots());
    for Weighted { identity: (address, port), weight } in members {
        hasher.write(&wide(*address));
        hasher.write_u16(*port);
        hasher.write_u32(*weight);
    }
    hasher.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(n: u8, weight: u32) -> Vec<Weighted> {
        let identity = |i| (format!("10.244.0.{i}").parse().expect("an address"), 80);
        (1..=n).map(|i| Weighted { identity: identity(i), weight }).collect()
    }

    #[test]
    fn equal_sets_share_one_ring_and_unused_ones_go() {
        let rings = Rings::new(RingHash::new("pollgate"), None);
        let first = rings.ring(&members(3, 100)).expect("few");
        assert!(Arc::ptr_eq(&first, &rings.ring(&members(3, 100)).expect("few")));
        assert!(Arc::ptr_eq(&first, &rings.ring(&members(3, 7)).expect("few")), "equal weights");
        let mut heavier = members(3, 100);
        heavier[0].weight = 200;
        assert!(!Arc::ptr_eq(&first, &rings.ring(&heavier).expect("few")));
        let other = rings.ring(&members(4, 100)).expect("few");
        assert!(!Arc::ptr_eq(&first, &other));
        let single = rings.ring(&members(1, 100)).expect("few");
        assert!(Arc::ptr_eq(&single, &rings.ring(&members(2, 7)[1..]).expect("few")), "one has all, whichever it is");
        drop((first, other));
        rings.tidy();
        assert!(rings.known().is_empty());
    }

    #[test]
    fn a_forced_size_holds_for_all_and_limits_say_so() {
        let rings = Rings::new(RingHash::new("pollgate"), Some(251));
        assert_eq!(rings.ring(&members(3, 100)).expect("few").entries().len(), 251);
        let identity = |port| ("10.0.0.1".parse().expect("an address"), port);
        let many: Vec<Weighted> = (0..252).map(|port| Weighted { identity: identity(port), weight: 1 }).collect();
        assert_eq!(rings.ring(&many).err(), Some(TooMany { found: 252, limit: 251 }));
    }
}

//! Other hosts that use an owned address: what the workers saw, for a thread that may log it and act.
//!
//! Any host of a link can send such frames at any rate, so only a few reports wait; further ones are counted by the workers and
//! otherwise lost. One report of each address and port waits, whatever MAC addresses are in the frames: a flood about one address does not
//! keep out the reports of others. Neither side locks, waits or allocates.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::net::{Mac, PortId};

/// Reports that may wait.
const CAPACITY: usize = 64;

/// A host that uses an owned address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// The host's MAC address.
    pub mac: Mac,
    /// Where its frame was received.
    pub port: PortId,
    /// How far it has come.
    pub claim: Claim,
}

impl Conflict {
    /// The same for reports of which one is enough. Never zero.
    fn subject(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.address, self.port, self.claim).hash(&mut hasher);
        hasher.finish() | 1
    }
}

/// What a host does with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// It asks whether another host uses it, and would use it otherwise.
    Wanted,
    /// It uses it.
    Used,
}

/// The reports of all workers.
#[derive(Debug)]
pub struct Conflicts {
    reports: ArrayQueue<Conflict>,
    /// What the reports that wait are about; zero: free.
    waiting: [AtomicU64; CAPACITY],
}

impl Default for Conflicts {
    fn default() -> Conflicts {
        Conflicts { reports: ArrayQueue::new(CAPACITY), waiting: [const { AtomicU64::new(0) }; CAPACITY] }
    }
}

impl Conflicts {
    /// The workers' side. With as many reports as may wait, or one of the same address, it does nothing.
    pub fn report(&self, conflict: Conflict) {
        let subject = conflict.subject();
        let is_waiting = self.waiting.iter().any(|slot| slot.load(Ordering::Relaxed) == subject);
        if !is_waiting && self.exchange(0, subject) && self.reports.push(conflict).is_err() {
            self.exchange(subject, 0);
        }
    }

    /// The other side: the next report.
    pub fn take(&self) -> Option<Conflict> {
        let conflict = self.reports.pop()?;
        self.exchange(conflict.subject(), 0);
        Some(conflict)
    }

    /// Replaces one `old` by `new`, if there is any.
    fn exchange(&self, old: u64, new: u64) -> bool {
        let relaxed = Ordering::Relaxed;
        self.waiting.iter().any(|slot| slot.compare_exchange(old, new, relaxed, relaxed).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reports_wait_and_the_rest_is_lost() {
        let conflicts = Conflicts::default();
        let conflict = |last: u8| Conflict {
            address: [10, 0, 0, last].into(),
            mac: Mac([2; 6]),
            port: PortId(0),
            claim: Claim::Used,
        };
        (0..100).for_each(|last| conflicts.report(conflict(last)));
        let taken: Vec<Conflict> = std::iter::from_fn(|| conflicts.take()).collect();
        assert_eq!(taken, (0..64).map(conflict).collect::<Vec<_>>());
        conflicts.report(conflict(7));
        assert_eq!((conflicts.take(), conflicts.take()), (Some(conflict(7)), None));
    }

    #[test]
    fn a_flood_about_one_address_keeps_out_no_other() {
        let conflicts = Conflicts::default();
        let conflict = |last: u8, mac: u8| Conflict {
            address: [10, 0, 0, last].into(),
            mac: Mac([2, 0, 0, 0, 0, mac]),
            port: PortId(0),
            claim: Claim::Used,
        };
        for _ in 0..3 {
            (0..200).for_each(|mac| conflicts.report(conflict(1, mac)));
            conflicts.report(conflict(2, 9));
            let taken: Vec<Conflict> = std::iter::from_fn(|| conflicts.take()).collect();
            assert_eq!(taken, [conflict(1, 0), conflict(2, 9)]);
        }
    }
}

//! Other hosts that use an owned address: what the workers saw, for a thread that may log it and act.
//!
//! Any host of a link can send such frames at any rate, so only a few reports wait; further ones are counted by the workers and
//! otherwise lost. Neither side locks, waits or allocates.

use std::net::IpAddr;

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

/// What a host does with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Default for Conflicts {
    fn default() -> Conflicts {
        Conflicts { reports: ArrayQueue::new(CAPACITY) }
    }
}

impl Conflicts {
    /// The workers' side. With as many reports as may wait it does nothing.
    pub fn report(&self, conflict: Conflict) {
        let _ = self.reports.push(conflict);
    }

    /// The other side: the next report.
    pub fn take(&self) -> Option<Conflict> {
        self.reports.pop()
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
}

//! Whether the picture of the network is the kernel's: what the check `network` reports.
//!
//! ```text
//!  a change is reported ─▶ due ──read──▶ up to date       read late, or in vain for LATE: a fault
//!  reports were lost (ENOBUFS), or the socket ─▶ lost ──everything read again──▶ up to date       a fault until then
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a reading may be due. Readings take at most a fifth of the time, so those of large tables wait for a while.
const LATE: Duration = Duration::from_secs(10);

/// How far the picture is behind.
#[derive(Debug, Default)]
pub struct Lag(Mutex<Option<Behind>>);

#[derive(Debug)]
struct Behind {
    since: Instant,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// Something has changed and is to be read.
    Due,
    /// What has changed is not known: everything is to be read. How it came to that.
    Lost(String),
}

impl Lag {
    /// Something has changed and is to be read.
    pub(super) fn due(&self) {
        self.lock().get_or_insert_with(|| Behind { since: Instant::now(), why: Why::Due });
    }

    /// It is not known what has changed: everything is to be read.
    pub(super) fn lost(&self, how: impl Into<String>) {
        let mut behind = self.lock();
        let since = match &*behind {
            Some(Behind { since, why: Why::Lost(_) }) => *since,
            Some(Behind { why: Why::Due, .. }) | None => Instant::now(),
        };
        *behind = Some(Behind { since, why: Why::Lost(how.into()) });
    }

    /// What is known is what the kernel has.
    pub(super) fn caught_up(&self) {
        *self.lock() = None;
    }

    /// What is wrong, if anything.
    pub fn fault(&self) -> Option<String> {
        self.fault_at(Instant::now())
    }

    fn fault_at(&self, now: Instant) -> Option<String> {
        let behind = self.lock();
        let Behind { since, why } = behind.as_ref()?;
        let age = now.saturating_duration_since(*since);
        match why {
            Why::Lost(how) => Some(format!("{how}, so routes and neighbours may be wrong: they are being read again")),
            Why::Due => (age >= LATE).then(|| {
                let seconds = age.as_secs();
                format!("the host's links or routes changed {seconds} s ago, and have not been read since: check the CPUs' load")
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Behind>> {
        // Whole between any two changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_may_be_due_for_a_while_and_what_is_lost_is_a_fault_until_it_is_read() {
        let lag = Lag::default();
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(lag.fault(), None);
        lag.due();
        assert_eq!((lag.fault(), lag.fault_at(later(9))), (None, None));
        assert!(lag.fault_at(later(11)).is_some_and(|fault| fault.contains("changed 11 s ago")));
        lag.lost("notifications were lost");
        lag.due();
        assert!(lag.fault().is_some_and(|fault| fault.starts_with("notifications were lost, so routes")));
        lag.lost("the socket failed");
        assert!(lag.fault().is_some_and(|fault| fault.starts_with("the socket failed, so")));
        lag.caught_up();
        assert_eq!((lag.fault(), lag.fault_at(later(3600))), (None, None));
    }
}

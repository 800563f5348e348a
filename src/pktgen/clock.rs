//! The one clock of a run, shared by its threads.

use std::time::Instant as Monotonic;

use pollgate_common::time::Instant;

/// Counts from when it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Monotonic);

impl Clock {
    /// At zero.
    pub(super) fn start() -> Clock {
        Clock(Monotonic::now())
    }

    /// The time since.
    pub(super) fn now(&self) -> Instant {
        Instant(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

//! Time as an argument.
//!
//! No code below `worker` reads a clock. The caller passes the time to the worker once per burst: a live gateway passes the
//! monotonic clock, `replay` passes the capture's time stamps, a test passes any value.

use std::time::Duration;

/// A point in time: nanoseconds since an origin that the caller chose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// The coarse clock of flow entries: units of 2³⁰ ns (1.07 s), wrapping after 146 years.
    pub fn ticks(self) -> Ticks {
        Ticks(u32::try_from((self.0 >> Ticks::SHIFT) & u64::from(u32::MAX)).unwrap_or(0))
    }

    /// The time `span` later; saturates.
    pub fn plus(self, span: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero if `earlier` is later than `self`.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Coarse time, in the units of [`Instant::ticks`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Ticks(pub u32);

impl Ticks {
    /// A tick is 2 to this power, in nanoseconds.
    pub const SHIFT: u32 = 30;

    /// Ticks from `earlier` to `self`.
    pub fn since(self, earlier: Ticks) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The number of whole ticks that last at least `span`, so that nothing expires early.
    pub fn span(span: Duration) -> u32 {
        let ticks = (span.as_nanos() >> Ticks::SHIFT) + 1;
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_about_a_second_and_never_short() {
        assert_eq!(Instant(0).ticks(), Ticks(0));
        assert_eq!(Instant(1 << 30).ticks(), Ticks(1));
        assert_eq!(Ticks::span(Duration::from_secs(30)), 28);
        assert!(u64::from(Ticks::span(Duration::from_secs(30))) << 30 >= 30_000_000_000);
        assert_eq!(Ticks(2).since(Ticks(u32::MAX)), 3);
    }
}

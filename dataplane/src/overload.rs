//! Overload: frames come faster than the worker processes them.
//!
//! Then the port's receive ring fills up, and the kernel or the NIC drops whatever comes, established connections included. So the worker
//! sheds load before that: it drops a share of the packets that would open a flow: a flood is made of them, and they cost the
//! most. It drops them before they cost more than a look-up. Packets of known flows are never shed.
//!
//! ```text
//!  backlog after a burst          share of new flows that is shed
//!    little                       falls, by all of it in FALL
//!    standing (some bursts)       rises, by all of it in RISE
//!    large (much of the ring)     all, for this burst
//! ```
//!
//! A backlog of some bursts for some milliseconds is what a worker finds that was not scheduled for a while; hence the ramp. A queue
//! that stays is overload: the share settles where the rest is what the worker can take, and the queue stays short (the idea of PIE,
//! RFC 8033: drop by the length of the queue and by its trend, not when it is full).
//!
//! A flow is shed by its hash and the time, so that a client that tries again, after a second or so, draws again.

use std::time::Duration;

use pollgate_common::time::Instant;

use crate::port::Backlog;

/// How long a standing backlog takes to shed all new flows.
const RISE: Duration = Duration::from_millis(50);
/// How long it takes until none is shed once the backlog is gone.
const FALL: Duration = Duration::from_millis(200);
/// Longest time of which a backlog is held to have stood all along.
const STEP: Duration = Duration::from_millis(5);
/// All new flows.
const ALL: u32 = 1 << 16;
/// Odd, with its bits spread evenly: the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// How much of a port's load a worker sheds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overload {
    /// The share of new flows, of [`ALL`].
    share: u32,
    at: Instant,
}

impl Overload {
    /// Notes the backlog after a burst. Returns the share of new flows to shed, of 65,536.
    #[inline]
    pub(crate) fn after(&mut self, backlog: Backlog, now: Instant) -> u32 {
        match (backlog, self.share) {
            (Backlog::Little, 0) => 0,
            (Backlog::Little | Backlog::Standing | Backlog::Large, _) => self.step(backlog, now),
        }
    }

    #[cold]
    fn step(&mut self, backlog: Backlog, now: Instant) -> u32 {
        let elapsed = now.since(self.at);
        self.at = now;
        self.share = match backlog {
            Backlog::Little => self.share.saturating_sub(part(elapsed, FALL)),
            Backlog::Standing | Backlog::Large => (self.share + part(elapsed.min(STEP), RISE)).min(ALL),
        };
        if backlog == Backlog::Large { ALL } else { self.share }
    }
}

/// The part of [`ALL`] that `elapsed` is of `whole`.
fn part(elapsed: Duration, whole: Duration) -> u32 {
    u32::try_from(elapsed.as_nanos() * u128::from(ALL) / whole.as_nanos()).unwrap_or(ALL)
}

/// Whether a new flow with this keyed hash is shed if this share of 65,536 is.
#[inline]
pub(crate) fn sheds(share: u32, hash: u64, now: Instant) -> bool {
    share > 0 && draw(hash, now) < share
}

/// A number below 65,536 that is another one for each flow, and in each second.
#[cold]
fn draw(hash: u64, now: Instant) -> u32 {
    let mixed = (hash ^ u64::from(now.ticks().0).wrapping_mul(SPREAD)).wrapping_mul(SPREAD);
    u32::try_from(mixed >> 48).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn after(overload: &mut Overload, backlog: Backlog, milliseconds: std::ops::Range<u64>) -> u32 {
        milliseconds.map(|at| overload.after(backlog, Instant(at * MILLISECOND))).last().unwrap_or(0)
    }

    #[test]
    fn a_backlog_that_stays_sheds_more_and_more_and_one_that_goes_less_and_less() {
        let mut overload = Overload::default();
        assert_eq!(after(&mut overload, Backlog::Little, 0..1000), 0);
        let some = after(&mut overload, Backlog::Standing, 1000..1008);
        assert!((1..ALL / 4).contains(&some), "a pause of the worker sheds little: {some}");
        assert_eq!(after(&mut overload, Backlog::Standing, 1008..1070), ALL);
        let less = after(&mut overload, Backlog::Little, 1070..1170);
        assert!((ALL / 3..ALL * 2 / 3).contains(&less), "{less}");
        assert_eq!(after(&mut overload, Backlog::Little, 1170..1300), 0);
    }

    #[test]
    fn a_ring_that_is_nearly_full_sheds_all_new_flows_and_only_while_it_is() {
        let mut overload = Overload::default();
        assert_eq!(after(&mut overload, Backlog::Large, 10..11), ALL);
        assert!(after(&mut overload, Backlog::Little, 11..12) < ALL / 4);
    }

    #[test]
    fn a_long_pause_counts_as_a_short_one() {
        let mut overload = Overload::default();
        assert!(after(&mut overload, Backlog::Standing, 100_000..100_001) <= ALL / 10);
    }

    #[test]
    fn who_tries_again_draws_again() {
        let second = |n: u64| Instant(n << 30);
        let shed = |flow: u64, n| sheds(ALL / 2, flow.wrapping_mul(0x2545_f491_4f6c_dd1d), second(n));
        let flows = 10_000;
        for n in 0..20 {
            let count = (0..flows).filter(|&flow| shed(flow, n)).count();
            assert!((4_500..5_500).contains(&count), "second {n}: {count} of {flows}");
        }
        let never = (0..flows).filter(|&flow| (0..20).all(|n| shed(flow, n))).count();
        assert!(never < 10, "{never} of {flows} never get through");
        assert!(!sheds(0, 1, second(1)) && sheds(ALL, 1, second(1)));
    }
}

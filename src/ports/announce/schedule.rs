//! When what is announced: three rounds per address and interface, no faster than [`RATE`].
//!
//! ```text
//!  add ─▶ round 0, at once ── 0.2 s ─▶ round 1 ── 0.8 s ─▶ round 2
//! ```
//!
//! A single frame can get lost, and a port of a switch may not forward yet when its link comes up. An address that is announced the
//! first time goes before repetitions of others. Each pair of address and interface waits in one round at most, so what waits
//! is bounded by their number.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pollgate_common::net::PortId;

/// Announcements a second, all interfaces together: at most twice as many frames (IPv4 has two each), a few megabits per second.
/// Every host of the link has to look at each. 10,000 addresses take five seconds per round.
pub(super) const RATE: u32 = 2000;
/// So many go out at once.
const BURST: u32 = 20;
/// From each round to the next.
const GAPS: [Duration; ROUNDS - 1] = [Duration::from_millis(200), Duration::from_millis(800)];
const ROUNDS: usize = 3;

/// An address, announced by an interface.
pub(super) type Target = (PortId, IpAddr);

/// What waits to be announced.
pub(super) struct Schedule {
    /// By round.
    rounds: [BTreeSet<(Instant, Target)>; ROUNDS],
    /// Where each target waits.
    waiting: HashMap<Target, (usize, Instant)>,
    /// When the next one may go at the earliest, if no burst is left.
    paid_until: Option<Instant>,
}

impl Schedule {
    pub(super) fn new() -> Schedule {
        Schedule { rounds: std::array::from_fn(|_| BTreeSet::new()), waiting: HashMap::new(), paid_until: None }
    }

    /// Announces `target` in three rounds, the first of them now.
    pub(super) fn add(&mut self, target: Target, now: Instant) {
        if self.waiting.get(&target).is_some_and(|(round, _)| *round == 0) {
            return;
        }
        self.cancel(target);
        self.put(0, now, target);
    }

    /// Announces `target` once, now, unless it waits already.
    pub(super) fn add_once(&mut self, target: Target, now: Instant) {
        if !self.waiting.contains_key(&target) {
            self.put(ROUNDS - 1, now, target);
        }
    }

    /// Announces it no more.
    pub(super) fn cancel(&mut self, target: Target) {
        if let Some((round, due)) = self.waiting.remove(&target) {
            self.rounds[round].remove(&(due, target));
        }
    }

    /// The next target to announce, if one is due and the rate allows it.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Target> {
        if self.earliest(now) > now {
            return None;
        }
        let is_due = |round: &BTreeSet<(Instant, Target)>| round.first().is_some_and(|(due, _)| *due <= now);
        let round = self.rounds.iter().position(is_due)?;
        let (_, target) = self.rounds[round].pop_first()?;
        self.waiting.remove(&target);
        if let Some(gap) = GAPS.get(round) {
            self.put(round + 1, now + *gap, target);
        }
        self.paid_until = Some(self.paid_until.map_or(now, |paid| paid.max(now)) + Duration::from_secs(1) / RATE);
        Some(target)
    }

    /// When [`Schedule::pop`] has something again.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.rounds.iter().filter_map(|round| round.first()).map(|(due, _)| *due).min()?;
        Some(due.max(self.earliest(now)))
    }

    fn put(&mut self, round: usize, due: Instant, target: Target) {
        self.rounds[round].insert((due, target));
        self.waiting.insert(target, (round, due));
    }

    /// When the rate allows another one.
    fn earliest(&self, now: Instant) -> Instant {
        let burst = Duration::from_secs(1) * (BURST - 1) / RATE;
        self.paid_until.and_then(|paid| paid.checked_sub(burst)).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(n: u32) -> Target {
        (PortId(0), IpAddr::from(0x0a00_0000u32.wrapping_add(n).to_be_bytes()))
    }

    /// Lets time pass until nothing waits; what was announced when, in milliseconds.
    fn all(schedule: &mut Schedule, start: Instant, mut now: Instant) -> Vec<(u128, Target)> {
        let mut seen = Vec::new();
        while let Some(next) = schedule.next(now) {
            now = next.max(now);
            while let Some(target) = schedule.pop(now) {
                seen.push((now.duration_since(start).as_millis(), target));
            }
        }
        seen
    }

    #[test]
    fn an_address_is_announced_at_once_and_after_a_fifth_of_a_second_and_a_second() {
        let (mut schedule, start) = (Schedule::new(), Instant::now());
        schedule.add(target(1), start);
        schedule.add(target(1), start);
        let seen = all(&mut schedule, start, start);
        assert_eq!(seen, [(0, target(1)), (200, target(1)), (1000, target(1))]);
        assert!(schedule.waiting.is_empty());
    }

    #[test]
    fn an_address_that_is_announced_again_begins_anew_and_waits_once() {
        let (mut schedule, start) = (Schedule::new(), Instant::now());
        schedule.add(target(1), start);
        assert_eq!((schedule.pop(start), schedule.pop(start)), (Some(target(1)), None));
        let later = start + Duration::from_millis(300);
        assert_eq!(schedule.pop(later), Some(target(1)), "the second round");
        schedule.add(target(1), later);
        let times: Vec<u128> = all(&mut schedule, start, later).into_iter().map(|(time, _)| time).collect();
        assert_eq!(times, [300, 500, 1300]);
    }

    #[test]
    fn one_that_is_cancelled_is_not_announced_any_more() {
        let (mut schedule, start) = (Schedule::new(), Instant::now());
        (0..3).for_each(|n| schedule.add(target(n), start));
        schedule.cancel(target(1));
        assert_eq!((schedule.pop(start), schedule.pop(start)), (Some(target(0)), Some(target(2))));
        schedule.cancel(target(2));
        assert!(all(&mut schedule, start, start).iter().all(|(_, seen)| *seen == target(0)));
    }

    #[test]
    fn many_are_paced_and_a_new_one_does_not_wait_for_repetitions() {
        let (mut schedule, start) = (Schedule::new(), Instant::now());
        let many = 10_000;
        (0..many).for_each(|n| schedule.add(target(n), start));
        let half = start + Duration::from_millis(5500);
        let mut first = Vec::new();
        let mut now = start;
        while now < half {
            first.extend(std::iter::from_fn(|| schedule.pop(now)));
            now = schedule.next(now).expect("more").max(now);
        }
        assert!((10_900..=11_100).contains(&first.len()), "{} in 5.5 s", first.len());
        let distinct: std::collections::HashSet<_> = first[..10_000].iter().collect();
        assert_eq!(distinct.len(), 10_000, "all have been announced once before any is repeated");
        schedule.add(target(many), now);
        assert_eq!(schedule.pop(now), Some(target(many)), "before the repetitions that are due");
        let rest = all(&mut schedule, start, now);
        assert_eq!(first.len() + 1 + rest.len(), 3 * 10_001);
        let last = rest.last().map(|(time, _)| *time).unwrap_or_default();
        assert!((14_900..16_500).contains(&last), "{last} ms");
        // Never more than the rate, and one burst.
        let mut window = std::collections::VecDeque::new();
        for (time, _) in rest {
            window.push_back(time);
            while window.front().is_some_and(|first| time - first >= 100) {
                window.pop_front();
            }
            assert!(window.len() <= (RATE / 10 + BURST) as usize, "{} within 100 ms", window.len());
        }
    }
}

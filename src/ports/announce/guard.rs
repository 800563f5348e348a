//! How often a host that uses an owned address is logged, and the address defended.
//!
//! RFC 5227 §2.4 (c): who means to keep an address announces it once, and not again within ten seconds, or two hosts that both mean
//! to would announce it to each other for ever. RFC 4861 §7.2.6 permits the same for IPv6.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const BETWEEN_DEFENCES: Duration = Duration::from_secs(10);
/// An address is logged once within this time, and so many addresses at most.
const BETWEEN_LINES: Duration = Duration::from_secs(60);
const LINES: usize = 16;

/// What was done lately, by address. Only owned addresses come in.
#[derive(Debug, Default)]
pub(super) struct Guard {
    logged: HashMap<IpAddr, Instant>,
    defended: HashMap<IpAddr, Instant>,
    /// Addresses not logged, since too many others were, and since when.
    left_out: HashSet<IpAddr>,
    since: Option<Instant>,
}

impl Guard {
    /// Whether the address is to be logged now.
    pub(super) fn may_log(&mut self, address: IpAddr, now: Instant) -> bool {
        let may = once(&mut self.logged, address, now, BETWEEN_LINES, LINES);
        if !may && !self.logged.contains_key(&address) {
            self.left_out.insert(address);
            self.since.get_or_insert(now);
        }
        may
    }

    /// How many addresses were not logged within the last minute, once a minute, if there are any.
    pub(super) fn left_out(&mut self, now: Instant) -> Option<usize> {
        self.since.take_if(|since| now.duration_since(*since) >= BETWEEN_LINES)?;
        Some(std::mem::take(&mut self.left_out).len())
    }

    /// Whether the address is to be announced now.
    pub(super) fn may_defend(&mut self, address: IpAddr, now: Instant) -> bool {
        once(&mut self.defended, address, now, BETWEEN_DEFENCES, usize::MAX)
    }
}

/// Whether `address` was not yet let through within `span`, nor `most` others.
fn once(done: &mut HashMap<IpAddr, Instant>, address: IpAddr, now: Instant, span: Duration, most: usize) -> bool {
    done.retain(|_, time| now.duration_since(*time) < span);
    if done.len() >= most || done.contains_key(&address) {
        return false;
    }
    done.insert(address, now);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_logged_once_a_minute_and_defended_every_ten_seconds() {
        let (mut guard, start, address) = (Guard::default(), Instant::now(), IpAddr::from([10, 0, 0, 1]));
        let (mut logged, mut defended) = (Vec::new(), Vec::new());
        for second in 0..=120 {
            let now = start + Duration::from_secs(second);
            logged.extend(guard.may_log(address, now).then_some(second));
            defended.extend(guard.may_defend(address, now).then_some(second));
        }
        assert_eq!(logged, [0, 60, 120]);
        assert_eq!(defended, (0..=12).map(|n| n * 10).collect::<Vec<_>>());
    }

    #[test]
    fn a_flood_of_many_addresses_fills_no_log() {
        let (mut guard, now) = (Guard::default(), Instant::now());
        let addresses = (0..100).map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!(addresses.clone().filter(|address| guard.may_log(*address, now)).count(), LINES);
        // The others are counted, each once.
        assert_eq!(addresses.filter(|address| guard.may_log(*address, now)).count(), 0);
        assert_eq!(guard.left_out(now), None, "the minute is not over");
        let later = now + BETWEEN_LINES;
        assert_eq!((guard.left_out(later), guard.left_out(later)), (Some(100 - LINES), None));
    }
}

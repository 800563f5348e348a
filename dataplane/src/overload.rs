//! Overload: frames come faster than the worker processes them.
//!
//! Then the port's receive ring fills up, and the kernel or the NIC drops whatever comes, established connections included. So the worker
//! sheds load before that. It drops a share of the packets that would open a flow: a flood is made of them, and they cost the
//! most. It drops them before they cost more than a look-up. Packets of known flows are never shed.
//!
//! ```text
//!  backlog after a burst             share of new flows that is shed
//!    little                          falls, by all of it in FALL
//!    standing, for less than HOLD    the same as before
//!    standing, for longer            rises, by all of it in RISE
//!    large (half of the ring)        all, for this burst
//! ```
//!
//! A queue that comes and goes is a sender's burst, or what a worker finds that was not scheduled for a while. Only a queue that stays is
//! overload (RFC 8289 §3.2). Then the share settles where the rest is what the worker can take, and the queue stays short: it follows
//! the queue's length and its trend, instead of waiting until the queue is full (RFC 8033).
//!
//! **Which new flows.** Each kind ([`Class`]) is shed by its part of what comes, up to the whole share: a flood of datagrams leaves new
//! TCP connections alone. Within a kind, a flow is shed by its hash and the time, so that a client that tries again, after a
//! second or so, draws again.

use std::time::Duration;

use pollgate_common::time::Instant;

use crate::packet::Transport;
use crate::port::Backlog;

/// How long a backlog must stand before anything is shed.
const HOLD: Duration = Duration::from_millis(5);
/// How long a standing backlog takes to shed all new flows.
const RISE: Duration = Duration::from_millis(50);
/// How long it takes until none is shed once the backlog is gone.
const FALL: Duration = Duration::from_millis(200);
/// Longest time of which a backlog is held to have stood all along.
const STEP: Duration = Duration::from_millis(5);
/// All new flows.
const ALL: u32 = 1 << 16;
/// What came of each kind counts half after so many more.
const MEMORY: u32 = 4096;
/// Odd, with its bits spread evenly: the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// How much of a port's load a worker sheds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// The share of new flows, of [`ALL`].
    share: u32,
    /// The last step.
    at: Instant,
    /// Since when the backlog has stood.
    standing: Option<Instant>,
}

impl Load {
    /// Notes the backlog after a burst. Returns the share of new flows to shed, of 65,536.
    #[inline]
    pub(crate) fn after(&mut self, backlog: Backlog, now: Instant) -> u32 {
        match (backlog, self.share, self.standing) {
            (Backlog::Little, 0, None) => 0,
            (Backlog::Little | Backlog::Standing | Backlog::Large, ..) => self.step(backlog, now),
        }
    }

    #[cold]
    fn step(&mut self, backlog: Backlog, now: Instant) -> u32 {
        let elapsed = now.since(self.at);
        self.at = now;
        match backlog {
            Backlog::Little => {
                self.standing = None;
                self.share = self.share.saturating_sub(part(elapsed, FALL));
            }
            Backlog::Standing | Backlog::Large => {
                let since = *self.standing.get_or_insert(now);
                if now.since(since) >= HOLD {
                    self.share = (self.share + part(elapsed.min(STEP), RISE)).min(ALL);
                }
            }
        }
        if backlog == Backlog::Large { ALL } else { self.share }
    }
}

/// The part of [`ALL`] that `elapsed` is of `whole`.
fn part(elapsed: Duration, whole: Duration) -> u32 {
    u32::try_from(elapsed.as_nanos() * u128::from(ALL) / whole.as_nanos()).unwrap_or(ALL)
}

/// What would open a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A TCP segment or SCTP packet.
    Connection,
    /// A datagram.
    Datagram,
    /// A fragment whose first one has not come, which would have to wait.
    Fragment,
}

impl Class {
    /// That of a packet with this transport.
    pub(crate) fn of(transport: Transport) -> Class {
        match transport {
            Transport::Tcp | Transport::Sctp(_) => Class::Connection,
            Transport::Udp | Transport::Icmp(_) | Transport::Other => Class::Datagram,
        }
    }
}

/// Decides which new flows are shed.
#[derive(Debug, Default)]
pub(crate) struct Shedding {
    /// The share of the burst, of [`ALL`].
    share: u32,
    /// What has come of each kind, while anything was shed.
    came: [u32; 3],
}

impl Shedding {
    /// The share of new flows that the next burst sheds, of 65,536.
    #[inline]
    pub(crate) fn begin(&mut self, share: u32) {
        self.share = share;
    }

    /// Whether a new flow of this kind and with this keyed hash is shed.
    #[inline]
    pub(crate) fn sheds(&mut self, class: Class, hash: u64, now: Instant) -> bool {
        self.share > 0 && self.draw(class, hash, now)
    }

    #[cold]
    fn draw(&mut self, class: Class, hash: u64, now: Instant) -> bool {
        self.came[class as usize] += 1;
        let all: u32 = self.came.iter().sum();
        if all >= MEMORY {
            self.came = self.came.map(|came| came / 2);
        }
        // Of a kind that is half of what comes, or more: the whole share.
        let of_class = u64::from(self.share) * 2 * u64::from(self.came[class as usize]) / u64::from(all);
        number(hash, now) < of_class.min(self.share.into())
    }
}

/// A number below 65,536 that is another one for each flow, and in each second.
fn number(hash: u64, now: Instant) -> u64 {
    let second = u64::from(now.ticks().0).wrapping_mul(SPREAD);
    (hash ^ second).wrapping_mul(SPREAD) >> 48
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn after(load: &mut Load, backlog: Backlog, milliseconds: std::ops::Range<u64>) -> u32 {
        milliseconds.map(|at| load.after(backlog, Instant(at * MILLISECOND))).last().unwrap_or(0)
    }

    #[test]
    fn a_backlog_that_stays_sheds_more_and_more_and_one_that_goes_less_and_less() {
        let mut load = Load::default();
        assert_eq!(after(&mut load, Backlog::Little, 0..1000), 0);
        assert_eq!(after(&mut load, Backlog::Standing, 1000..1005), 0, "a pause of the worker sheds nothing");
        let some = after(&mut load, Backlog::Standing, 1005..1010);
        assert!((1..ALL / 4).contains(&some), "{some}");
        assert_eq!(after(&mut load, Backlog::Standing, 1010..1070), ALL);
        let less = after(&mut load, Backlog::Little, 1070..1170);
        assert!((ALL / 3..ALL * 2 / 3).contains(&less), "{less}");
        assert_eq!(after(&mut load, Backlog::Little, 1170..1300), 0);
    }

    #[test]
    fn a_backlog_that_comes_and_goes_sheds_nothing() {
        let mut load = Load::default();
        for at in (0..1000).step_by(5) {
            assert_eq!(after(&mut load, Backlog::Standing, at..at + 4), 0);
            assert_eq!(after(&mut load, Backlog::Little, at + 4..at + 5), 0);
        }
    }

    #[test]
    fn a_ring_that_is_half_full_sheds_all_new_flows_and_only_while_it_is() {
        let mut load = Load::default();
        assert_eq!(after(&mut load, Backlog::Large, 10..11), ALL);
        assert_eq!(after(&mut load, Backlog::Little, 11..12), 0);
    }

    #[test]
    fn a_long_pause_counts_as_a_short_one_for_the_backlog_and_as_it_is_without() {
        let mut load = Load::default();
        after(&mut load, Backlog::Standing, 0..6);
        let one = after(&mut load, Backlog::Standing, 1000..1001);
        assert!((1..=ALL / 8).contains(&one), "{one}");
        assert_eq!(after(&mut load, Backlog::Little, 2000..2001), 0);
    }

    fn second(n: u64) -> Instant {
        Instant(n << 30)
    }

    fn flow(n: u64) -> u64 {
        n.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    #[test]
    fn who_tries_again_draws_again() {
        let flows = 10_000;
        let mut shedding = Shedding::default();
        assert!(!shedding.sheds(Class::Datagram, flow(1), second(1)));
        shedding.begin(ALL / 2);
        let mut times = vec![0; 10_000];
        for n in 0..20 {
            let shed: Vec<usize> =
                (0..10_000).filter(|&at| shedding.sheds(Class::Datagram, flow(at as u64), second(n))).collect();
            assert!((4_500..5_500).contains(&shed.len()), "second {n}: {} of {flows}", shed.len());
            shed.into_iter().for_each(|at| times[at] += 1);
        }
        let never = times.iter().filter(|&&times| times == 20).count();
        assert!(never < 10, "{never} of {flows} never get through");
        shedding.begin(ALL);
        assert!(shedding.sheds(Class::Datagram, flow(1), second(1)));
    }

    #[test]
    fn a_flood_of_one_kind_leaves_the_others_alone() {
        let mut shedding = Shedding::default();
        shedding.begin(ALL);
        // One connection among a thousand datagrams.
        let shed = (0..1_000_000u64)
            .filter(|&n| {
                let class = if n % 1000 == 0 { Class::Connection } else { Class::Datagram };
                shedding.sheds(class, flow(n), second(n / 1000)) && class == Class::Connection
            })
            .count();
        assert!(shed < 20, "{shed} of 1000 connections");
        // As many of each: nothing tells the flood from the others.
        let half = (0..1000).filter(|&n| {
            shedding.sheds(Class::Datagram, flow(n), second(1));
            shedding.sheds(Class::Connection, flow(n + 5000), second(1))
        });
        assert!(half.count() > 300);
    }
}

//! Overload: frames come faster than the worker processes them.
//!
//! Then the port's receive ring fills up, and the kernel or the NIC drops whatever comes, established connections included. So the worker
//! sheds load before that. It drops a share of the packets that would open a flow: a flood is made of them, and they cost the
//! most. It drops them before they cost more than a look-up. Packets of known flows are never shed.
//!
//! ```text
//!  what waits after a burst          share of new flows that is shed
//!    nothing: the burst took all     none, for this burst; falls
//!    little                          falls; from all to none in FALL
//!    standing, for less than HOLD    the same as before
//!    standing, for longer            rises; from none to all in RISE
//!    large (most of the ring)        all, for this burst
//! ```
//!
//! A queue that comes and goes is a sender's burst, or what a worker finds that was not scheduled for a while. Only a queue that stays is
//! overload (RFC 8289 §3.2). Then the share settles where the rest is what the worker can take, and the queue stays short: it follows
//! the queue's length and its trend, instead of waiting until the queue is full (RFC 8033).
//!
//! **Which new flows.** Each kind ([`Class`]) is shed by its part of the work, up to the whole share. So a flood of datagrams leaves new
//! TCP connections alone; and a flood of anything else, such as packets of one known flow, leaves all new flows alone, since to shed
//! them would help nobody. Within a kind, a flow is shed by its hash and the time, so that a client that tries again, after a
//! second or so, draws again; and one of sixteen is never shed.

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
/// Most that is shed: if known flows alone are too much, clients that try again still get through.
const MOST: u32 = ALL - ALL / 16;
/// Work of a new flow, if that of another frame is 1.
const NEW: u32 = 16;
/// What was done counts half after so much more.
const MEMORY: u32 = 1 << 16;
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
    /// Notes what waits after a burst. Returns the share of new flows to shed in it, of 65,536.
    #[inline]
    pub(crate) fn after(&mut self, waiting: Waiting, now: Instant) -> u32 {
        match (waiting, self.share, self.standing) {
            (Waiting::Nothing | Waiting::More(Backlog::Little), 0, None) => 0,
            (Waiting::Nothing | Waiting::More(_), ..) => self.step(waiting, now),
        }
    }

    #[cold]
    fn step(&mut self, waiting: Waiting, now: Instant) -> u32 {
        let elapsed = now.since(self.at);
        self.at = now;
        // Nothing has stood since the last step.
        if self.standing.is_none() {
            self.share = self.share.saturating_sub(part(elapsed, FALL));
        }
        match waiting {
            Waiting::Nothing => {
                self.standing = None;
                0
            }
            Waiting::More(Backlog::Little) => {
                self.standing = None;
                self.share
            }
            Waiting::More(backlog @ (Backlog::Standing | Backlog::Large)) => {
                let since = *self.standing.get_or_insert(now);
                if now.since(since) >= HOLD {
                    self.share = (self.share + part(elapsed.min(STEP), RISE)).min(ALL);
                }
                if backlog == Backlog::Large { ALL } else { self.share }
            }
        }
    }
}

/// What waits after a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nothing: the burst was not full.
    Nothing,
    /// So much, perhaps.
    More(Backlog),
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
    const COUNT: usize = 3;

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
    /// Work that new flows were, by kind, and all frames, while anything was shed.
    new: [u32; Class::COUNT],
    frames: u32,
}

impl Shedding {
    /// A burst of so many frames begins, which sheds this share of its new flows, of 65,536.
    #[inline]
    pub(crate) fn begin(&mut self, share: u32, frames: usize) {
        self.share = share;
        if share > 0 {
            // No more than is remembered: without new flows nothing would ever halve it.
            self.frames = (self.frames + u32::try_from(frames).unwrap_or(0)).min(MEMORY);
        }
    }

    /// Whether a new flow of this kind and with this keyed hash is shed.
    #[inline]
    pub(crate) fn sheds(&mut self, class: Class, hash: u64, now: Instant) -> bool {
        self.share > 0 && self.draw(class, hash, now)
    }

    #[cold]
    fn draw(&mut self, class: Class, hash: u64, now: Instant) -> bool {
        self.new[class as usize] += NEW;
        let all = self.frames + self.new.iter().sum::<u32>();
        // A kind that is one of as many as there are, or more, is shed by the whole share.
        let kinds = Class::COUNT as u64;
        let of_class = u64::from(self.share) * kinds * u64::from(self.new[class as usize]) / u64::from(all);
        if all >= MEMORY {
            self.frames /= 2;
            self.new = self.new.map(|new| new / 2);
        }
        number(hash, now) < of_class.min(self.share.min(MOST).into())
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
    const LITTLE: Waiting = Waiting::More(Backlog::Little);
    const STANDING: Waiting = Waiting::More(Backlog::Standing);
    const LARGE: Waiting = Waiting::More(Backlog::Large);

    fn after(load: &mut Load, waiting: Waiting, milliseconds: std::ops::Range<u64>) -> u32 {
        milliseconds.map(|at| load.after(waiting, Instant(at * MILLISECOND))).last().unwrap_or(0)
    }

    #[test]
    fn a_backlog_that_stays_sheds_more_and_more_and_one_that_goes_less_and_less() {
        let mut load = Load::default();
        assert_eq!(after(&mut load, LITTLE, 0..1000), 0);
        assert_eq!(after(&mut load, STANDING, 1000..1005), 0, "a pause of the worker sheds nothing");
        let some = after(&mut load, STANDING, 1005..1010);
        assert!((1..ALL / 4).contains(&some), "{some}");
        assert_eq!(after(&mut load, STANDING, 1010..1070), ALL);
        let less = after(&mut load, LITTLE, 1070..1170);
        assert!((ALL / 3..ALL * 2 / 3).contains(&less), "{less}");
        assert_eq!(after(&mut load, LITTLE, 1170..1300), 0);
    }

    #[test]
    fn a_backlog_that_comes_and_goes_sheds_nothing() {
        let mut load = Load::default();
        for at in (0..1000).step_by(5) {
            assert_eq!(after(&mut load, STANDING, at..at + 4), 0);
            assert_eq!(after(&mut load, LITTLE, at + 4..at + 5), 0);
        }
    }

    #[test]
    fn a_burst_that_took_all_sheds_nothing_and_what_follows_at_once_does() {
        let mut load = Load::default();
        assert_eq!(after(&mut load, STANDING, 0..70), ALL);
        assert_eq!(after(&mut load, Waiting::Nothing, 70..71), 0);
        assert!(after(&mut load, LITTLE, 71..72) > ALL * 9 / 10);
    }

    #[test]
    fn a_ring_that_is_nearly_full_sheds_all_new_flows_and_only_while_it_is() {
        let mut load = Load::default();
        assert_eq!(after(&mut load, LARGE, 10..11), ALL);
        assert_eq!(after(&mut load, LITTLE, 11..12), 0);
    }

    #[test]
    fn a_long_pause_counts_as_a_short_one_for_a_backlog_and_as_it_is_without() {
        let mut load = Load::default();
        after(&mut load, STANDING, 0..6);
        let one = after(&mut load, STANDING, 1000..1001);
        assert!((1..=ALL / 8).contains(&one), "{one}");
        assert_eq!(after(&mut load, STANDING, 1001..1070), ALL);
        after(&mut load, LITTLE, 1070..1071);
        assert_eq!(after(&mut load, STANDING, 2070..2071), 0, "nothing stood in that second");
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
        shedding.begin(ALL / 2, 0);
        let mut times = vec![0; 10_000];
        for n in 0..20 {
            let shed: Vec<usize> =
                (0..10_000).filter(|&at| shedding.sheds(Class::Datagram, flow(at as u64), second(n))).collect();
            assert!((4_500..5_500).contains(&shed.len()), "second {n}: {} of {flows}", shed.len());
            shed.into_iter().for_each(|at| times[at] += 1);
        }
        let never = times.iter().filter(|&&times| times == 20).count();
        assert!(never < 10, "{never} of {flows} never get through");
    }

    /// How many of a thousand connections are shed, each after `others`.
    fn shed_beside(share: u32, mut others: impl FnMut(&mut Shedding, u64)) -> usize {
        let mut shedding = Shedding::default();
        // What was before does not count for long.
        let mut round = |n: u64| {
            shedding.begin(share, 0);
            others(&mut shedding, n);
            shedding.sheds(Class::Connection, flow(n * 1_000_003), second(n))
        };
        for n in 0..200 {
            round(n);
        }
        (200..1200).filter(|&n| round(n)).count()
    }

    #[test]
    fn what_is_no_flood_is_left_alone() {
        let datagrams = |shedding: &mut Shedding, n: u64| {
            for m in 1..1000 {
                shedding.sheds(Class::Datagram, flow(n * 1000 + m), second(n));
            }
        };
        assert!(shed_beside(ALL, datagrams) < 10, "one connection among a thousand datagrams");
        // Packets of known flows, echo requests, ARP: to shed new flows would not help.
        let known = |shedding: &mut Shedding, _| (0..16).for_each(|_| shedding.begin(ALL, 64));
        let shed = shed_beside(ALL, known);
        assert!(shed < 80, "one connection among a thousand other frames: {shed}");
    }

    #[test]
    fn frames_without_a_new_flow_do_not_add_up_for_ever() {
        let mut shedding = Shedding::default();
        (0..10).for_each(|_| shedding.begin(ALL, usize::try_from(u32::MAX / 4).expect("64 bits")));
        assert!(!shedding.sheds(Class::Connection, flow(1), second(1)), "one among so many frames");
        assert!(shedding.frames <= MEMORY);
    }

    #[test]
    fn what_is_a_flood_is_shed_but_for_a_sixteenth() {
        let alone = shed_beside(ALL, |_, _| {});
        assert!((900..960).contains(&alone), "{alone}");
        let even = |shedding: &mut Shedding, n| {
            shedding.sheds(Class::Datagram, flow(n), second(n));
            shedding.sheds(Class::Fragment, flow(n), second(n));
        };
        let mixed = shed_beside(ALL, even);
        assert!((880..960).contains(&mixed), "as many of each kind: {mixed}");
        let half = shed_beside(ALL / 2, even);
        assert!((400..600).contains(&half), "{half}");
    }
}

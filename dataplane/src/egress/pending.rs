//! Frames that wait for a neighbour's MAC address.
//!
//! The mirror is asked once per neighbour; while the kernel resolves it, a few frames wait (translated already, only the
//! MACs missing) and are sent as soon as a new view of the network names the MAC. The kernel's own queue is as short
//! (`net.ipv4.neigh.*.unres_qlen`), and for the same reason: a sender retransmits, a memory does not grow.

use std::net::IpAddr;
use std::time::Duration;

use pollgate_common::net::{NeighbourQuery, Net, NextHop, NoNextHop};
use pollgate_common::reasons::DropReason;
use pollgate_common::time::Instant;

use crate::port::Frame;

/// Frames a worker holds in all.
pub(crate) const CAPACITY: usize = 128;
/// Frames held for one neighbour.
const PER_NEIGHBOUR: usize = 16;
/// How long a frame waits; the kernel gives up on a neighbour after three probes a second apart.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a neighbour is asked for while frames wait for it: a question may be lost on its way to the kernel.
const ASK_EVERY: Duration = Duration::from_secs(1);

struct Waiting {
    frame: Frame,
    query: NeighbourQuery,
    /// Whom the packet is for, as the route look-up wants it.
    destination: IpAddr,
    since: Instant,
    /// When the neighbour was last asked for.
    asked: Instant,
}

/// What became of a frame that waited.
pub(crate) enum Outcome {
    /// It can go.
    Ready(NextHop),
    /// It can not.
    Dropped(DropReason),
}

/// See the module's text.
pub(crate) struct Pending {
    held: Vec<Waiting>,
}

impl Pending {
    pub(crate) fn new() -> Pending {
        Pending { held: Vec::with_capacity(CAPACITY) }
    }

    /// With room for nobody: what stands in while the real one is reviewed. Allocates nothing.
    pub(crate) fn empty() -> Pending {
        Pending { held: Vec::new() }
    }

    /// Whether one more frame for `query` may wait; and whether somebody already waits for it (so it has been asked).
    pub(crate) fn room_for(&self, query: &NeighbourQuery) -> (bool, bool) {
        let waiting = self.held.iter().filter(|held| held.query == *query).count();
        (self.held.len() < CAPACITY && waiting < PER_NEIGHBOUR, waiting > 0)
    }

    /// Lets a frame wait.
    pub(crate) fn add(&mut self, frame: Frame, query: NeighbourQuery, destination: IpAddr, since: Instant) {
        self.held.push(Waiting { frame, query, destination, since, asked: since });
    }

    /// Frames waiting.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// The next neighbour to be asked for again at `now`, until there is none: each once, however many wait for it.
    pub(crate) fn due(&mut self, now: Instant) -> Option<NeighbourQuery> {
        let query = self.held.iter().find(|held| now.since(held.asked) > ASK_EVERY)?.query;
        self.held.iter_mut().filter(|held| held.query == query).for_each(|held| held.asked = now);
        Some(query)
    }

    /// Passes every frame whose wait is over to `done`, in the order they came. `moved`: the network has changed.
    pub(crate) fn review(&mut self, net: &Net, moved: bool, now: Instant, mut done: impl FnMut(Frame, Outcome)) {
        if self.held.is_empty() {
            return;
        }
        let mut at = 0;
        while at < self.held.len() {
            match self.held[at].outcome(net, moved, now) {
                // `remove` keeps the order; the list is short.
                Some(outcome) => done(self.held.remove(at).frame, outcome),
                None => at += 1,
            }
        }
    }
}

impl Waiting {
    fn outcome(&self, net: &Net, moved: bool, now: Instant) -> Option<Outcome> {
        if moved {
            match net.hop(self.destination) {
                Ok(hop) => return Some(Outcome::Ready(hop)),
                Err(NoNextHop::Neighbour(_)) => {}
                Err(no) => return Some(Outcome::Dropped(reason(no))),
            }
        }
        (now.since(self.since) > PATIENCE).then_some(Outcome::Dropped(DropReason::NeighbourUnresolved))
    }
}

/// The drop reason for a packet without a next hop.
pub(crate) fn reason(no: NoNextHop) -> DropReason {
    match no {
        NoNextHop::Neighbour(_) => DropReason::NeighbourUnresolved,
        NoNextHop::NoRoute => DropReason::NoRoute,
        NoNextHop::Unpolled => DropReason::UnpolledInterface,
        NoNextHop::LinkDown => DropReason::LinkDown,
    }
}

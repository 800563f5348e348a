//! The flows that packets are sent on, a fixed number at any time.
//!
//! ```text
//!  slot     0      1      2     …  N−1
//!  flow     N+0    N+1    2     …  N−1        the oldest, in slot 2, is the next to be replaced, by flow N+2
//! ```
//!
//! Flow `f` lives in slot `f mod N`. So the receiver of a packet finds its flow without a look-up, and can distinguish a
//! packet of a replaced flow from one of its successor.

use super::addresses::{Tuple, Tuples};
use super::share::Share;

/// In which order the flows take their turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// In turn: all flows are equally busy, which is the worst case for caches.
    Turn,
    /// Chosen at random for each packet.
    Random,
}

/// One flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// Its number.
    pub(super) id: u32,
    /// Packets it has sent.
    pub(super) sent: u32,
    /// Its addresses and ports.
    pub(super) tuple: Tuple,
    /// TCP, or else UDP.
    pub(super) is_tcp: bool,
}

/// What the flows are made of.
#[derive(Clone, Debug)]
pub(super) struct FlowPlan {
    /// Number of concurrent flows, at least one.
    pub(super) count: u32,
    /// Number of the first one, a multiple of `count`.
    pub(super) first: u32,
    /// Their tuples.
    pub(super) tuples: Tuples,
    /// How many are TCP.
    pub(super) tcp_share: Share,
    /// Their order.
    pub(super) order: Order,
    /// Of the random order.
    pub(super) seed: u64,
}

/// All flows of the moment.
#[derive(Debug)]
pub(super) struct Flows {
    plan: FlowPlan,
    slots: Vec<Flow>,
    turn: usize,
    lent: usize,
    opened: u64,
    random: u64,
}

impl Flows {
    /// The first `count` flows.
    pub(super) fn new(plan: FlowPlan) -> Flows {
        let slots = (0..plan.count).map(|slot| open(&plan, plan.first.saturating_add(slot))).collect();
        // xorshift must not start at zero.
        let random = plan.seed | 1;
        Flows { slots, turn: 0, lent: 0, opened: u64::from(plan.count), random, plan }
    }

    /// The flow whose turn it is; it has sent one more when this returns.
    pub(super) fn next(&mut self) -> Flow {
        let slot = match self.plan.order {
            Order::Turn => self.advance(),
            Order::Random => usize::try_from(self.random() % self.slots.len() as u64).unwrap_or(0),
        };
        let flow = self.slots[slot];
        self.slots[slot].sent = flow.sent.wrapping_add(1);
        flow
    }

    /// One flow after the other for packets that only borrow its addresses: they are none of its own.
    pub(super) fn borrow(&mut self) -> Flow {
        self.lent = (self.lent + 1) % self.slots.len();
        self.slots[self.lent]
    }

    /// Ends the oldest flow and starts a new one in its place; returns the first packet of the new flow.
    pub(super) fn fresh(&mut self) -> Flow {
        let slot = self.replace_oldest();
        let flow = self.slots[slot];
        self.slots[slot].sent = 1;
        flow
    }

    /// Ends the oldest flow and puts a new one in its place, which has sent nothing yet.
    pub(super) fn replace_oldest(&mut self) -> usize {
        let slot = usize::try_from(self.opened % self.slots.len() as u64).unwrap_or(0);
        // Round at a multiple of the slots, or a number would change its slot.
        let round = u32::MAX / self.plan.count * self.plan.count;
        let id = self.slots[slot].id.checked_add(self.plan.count).filter(|id| *id < round);
        let first = u32::try_from(slot).unwrap_or(0);
        self.slots[slot] = open(&self.plan, id.unwrap_or(first));
        self.opened += 1;
        slot
    }

    /// Flows there have been.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    fn advance(&mut self) -> usize {
        let slot = self.turn;
        self.turn = if slot + 1 == self.slots.len() { 0 } else { slot + 1 };
        slot
    }

    /// xorshift64 (Marsaglia 2003): any order will do, as long as the seed repeats it.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

fn open(plan: &FlowPlan, id: u32) -> Flow {
    Flow { id, sent: 0, tuple: plan.tuples.of(id), is_tcp: plan.tcp_share.picks(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows(count: u32, order: Order) -> Flows {
        flows_from(0, count, order)
    }

    fn flows_from(first: u32, count: u32, order: Order) -> Flows {
        let tuples = Tuples::new("10.0.0.0/24".parse().expect("a block"), vec!["10.96.0.1:80".parse().expect("one")]);
        Flows::new(FlowPlan { count, first, tuples, tcp_share: Share::NONE, order, seed: 4 })
    }

    #[test]
    fn they_take_turns() {
        let mut flows = flows(3, Order::Turn);
        let turns: Vec<_> = (0..7).map(|_| flows.next()).map(|flow| (flow.id, flow.sent)).collect();
        assert_eq!(turns, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2)]);
    }

    #[test]
    fn a_borrowed_flow_has_sent_nothing() {
        let mut flows = flows(3, Order::Turn);
        let lent: Vec<_> = (0..4).map(|_| flows.borrow().id).collect();
        assert_eq!(lent, [1, 2, 0, 1]);
        assert_eq!((flows.next().id, flows.next().sent), (0, 0));
    }

    #[test]
    fn the_oldest_is_replaced_and_keeps_its_slot() {
        let mut flows = flows(3, Order::Turn);
        let before = flows.next();
        flows.replace_oldest();
        assert_eq!(flows.opened(), 4);
        let round: Vec<_> = (0..3).map(|_| flows.next().id).collect();
        assert_eq!(round, [1, 2, 3], "flow 3 in the slot of flow 0");
        let after = flows.next();
        assert_ne!((after.tuple, after.id), (before.tuple, before.id));
        let fresh: Vec<_> = (0..4).map(|_| flows.fresh()).map(|flow| (flow.id, flow.sent)).collect();
        assert_eq!(fresh, [(4, 0), (5, 0), (6, 0), (7, 0)], "each packet a flow of its own");
    }

    #[test]
    fn another_beginning_means_other_flows_in_the_same_slots() {
        let mut flows = flows_from(30, 3, Order::Turn);
        let ids: Vec<_> = (0..3).map(|_| flows.next().id).collect();
        assert_eq!(ids, [30, 31, 32]);
        assert_eq!(flows.fresh().id, 33);
        let mut last = flows_from(u32::MAX / 3 * 3 - 3, 3, Order::Turn);
        let ids: Vec<_> = (0..4).map(|_| last.fresh().id).collect();
        assert_eq!(ids, [0, 1, 2, 3], "the numbers are used up: they begin again, in their slots");
    }

    #[test]
    fn a_random_order_visits_all_and_is_repeated_by_its_seed() {
        let ids = |mut flows: Flows| (0..1000).map(|_| flows.next().id).collect::<Vec<_>>();
        let drawn = ids(flows(50, Order::Random));
        assert_eq!(drawn, ids(flows(50, Order::Random)));
        assert!((0..50).all(|id| drawn.contains(&id)));
    }
}

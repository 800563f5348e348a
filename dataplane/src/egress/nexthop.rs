//! A worker's cache of next hops.
//!
//! A flow keeps the index of its next hop in the lane's list, so that route and neighbour are not looked up per packet. The
//! list is emptied whenever the network's generation changes. Its epoch then changes too, and a flow with the old epoch
//! looks up its next hop again. So a changed route or MAC address reaches every flow with its next packet.

use pollgate_common::flow::Address;
use pollgate_common::hash::{HashMap, new_map};
use pollgate_common::net::{Mac, Net, NextHop, NoNextHop, PortId};

use crate::flow::Entry;

/// Maximum number of cached next hops. When the list is full it is emptied.
const CAPACITY: usize = 4096;

/// The next hops of one family's flows.
pub(crate) struct NextHops<A> {
    net_generation: u64,
    epoch: u32,
    list: Vec<NextHop>,
    indexes: HashMap<(PortId, Mac), u16>,
    /// The next hop of a destination: a route is looked up once for all flows to an endpoint.
    destinations: HashMap<A, u16>,
}

impl<A: Address> NextHops<A> {
    pub(crate) fn new() -> NextHops<A> {
        let mut indexes = new_map();
        indexes.reserve(CAPACITY);
        let mut destinations = new_map();
        destinations.reserve(CAPACITY);
        NextHops { net_generation: 0, epoch: 1, list: Vec::with_capacity(CAPACITY), indexes, destinations }
    }

    /// Empties the cache if the network has changed, and returns whether it has. Called once per poll.
    pub(crate) fn follow(&mut self, net: &Net) -> bool {
        let changed = net.generation() != self.net_generation;
        if changed {
            self.net_generation = net.generation();
            self.start_over();
        }
        changed
    }

    /// The next hop for one direction of a flow.
    #[inline]
    pub(crate) fn of(&mut self, entry: &mut Entry<A>, net: &Net) -> Result<&NextHop, NoNextHop> {
        if entry.hop_epoch != self.epoch {
            self.look_up(entry, net)?;
        }
        self.list.get(usize::from(entry.hop)).ok_or(NoNextHop::NoRoute)
    }

    #[cold]
    fn look_up(&mut self, entry: &mut Entry<A>, net: &Net) -> Result<(), NoNextHop> {
        let destination = entry.translation.to.dst;
        entry.hop = match self.destinations.get(&destination) {
            Some(&index) => index,
            None => {
                let index = self.index_of(net.next_hop(destination.into())?);
                if self.destinations.len() < CAPACITY {
                    self.destinations.insert(destination, index);
                }
                index
            }
        };
        entry.hop_epoch = self.epoch;
        Ok(())
    }

    fn index_of(&mut self, next: NextHop) -> u16 {
        if let Some(&index) = self.indexes.get(&(next.port, next.dst)) {
            return index;
        }
        if self.list.len() == CAPACITY {
            self.start_over();
        }
        let index = u16::try_from(self.list.len()).unwrap_or(0);
        self.list.push(next);
        self.indexes.insert((next.port, next.dst), index);
        index
    }

    fn start_over(&mut self) {
        self.list.clear();
        self.indexes.clear();
        self.destinations.clear();
        self.epoch = self.epoch.wrapping_add(1).max(1);
    }
}

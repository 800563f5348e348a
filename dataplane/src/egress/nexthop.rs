//! Next hops, as a worker remembers them.
//!
//! A flow keeps the place of its next hop in the worker's list instead of asking the mirror for route and neighbour with
//! each packet. The list is emptied whenever the mirror's generation moves; its epoch then moves too, and a flow that
//! comes with the old one looks its hop up again. So a changed route or MAC reaches every flow with its next packet.

use std::net::IpAddr;

use pollgate_common::flow::V4;
use pollgate_common::hash::{HashMap, new_map};
use pollgate_common::net::{Mac, Net, NextHop, NoNextHop, PortId};

use crate::flow::Entry;

/// Different next hops remembered at once; beyond that the list starts over.
const CAPACITY: usize = 4096;

/// See the module's text.
pub(crate) struct NextHops {
    net_generation: u64,
    epoch: u32,
    list: Vec<NextHop>,
    places: HashMap<(PortId, Mac), u32>,
    /// Where a destination's hop is: routes are looked up once for all flows to an endpoint, not for each.
    destinations: HashMap<V4, u32>,
}

impl NextHops {
    pub(crate) fn new() -> NextHops {
        let mut places = new_map();
        places.reserve(CAPACITY);
        let mut destinations = new_map();
        destinations.reserve(CAPACITY);
        NextHops { net_generation: 0, epoch: 1, list: Vec::with_capacity(CAPACITY), places, destinations }
    }

    /// Once a burst: forgets everything if the network has changed. Answers whether it had.
    pub(crate) fn follow(&mut self, net: &Net) -> bool {
        let changed = net.generation() != self.net_generation;
        if changed {
            self.net_generation = net.generation();
            self.start_over();
        }
        changed
    }

    /// The next hop of a flow's direction.
    #[inline]
    pub(crate) fn of(&mut self, entry: &mut Entry<V4>, net: &Net) -> Result<&NextHop, NoNextHop> {
        if entry.hop_epoch != self.epoch {
            self.look_up(entry, net)?;
        }
        self.list.get(entry.hop as usize).ok_or(NoNextHop::NoRoute)
    }

    #[cold]
    fn look_up(&mut self, entry: &mut Entry<V4>, net: &Net) -> Result<(), NoNextHop> {
        let destination = entry.translation.to.dst;
        entry.hop = match self.destinations.get(&destination) {
            Some(&place) => place,
            None => {
                let place = self.place(net.hop(IpAddr::from(destination))?);
                if self.destinations.len() < CAPACITY {
                    self.destinations.insert(destination, place);
                }
                place
            }
        };
        entry.hop_epoch = self.epoch;
        Ok(())
    }

    fn place(&mut self, hop: NextHop) -> u32 {
        if let Some(&place) = self.places.get(&(hop.port, hop.dst)) {
            return place;
        }
        if self.list.len() == CAPACITY {
            self.start_over();
        }
        let place = u32::try_from(self.list.len()).unwrap_or(0);
        self.list.push(hop);
        self.places.insert((hop.port, hop.dst), place);
        place
    }

    fn start_over(&mut self) {
        self.list.clear();
        self.places.clear();
        self.destinations.clear();
        self.epoch = self.epoch.wrapping_add(1).max(1);
    }
}

//! What a worker remembers from burst to burst: a part that is shared, and a lane per family.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pollgate_common::clients::Clients;
use pollgate_common::conflicts::{Conflict, Conflicts};
use pollgate_common::net::Net;
use pollgate_common::time::Ticks;

use crate::affinity::{Affinity, AffinityTotals, Client, Endpoint};
use crate::egress::nexthop::NextHops;
use crate::flow::table::FlowTotals;
use crate::flow::{FlowTable, Limits};
use crate::fragment::held::Held;
use crate::fragment::identification::Identifications;
use crate::fragment::table::Table as Fragments;
use crate::overload::Shedding;
use crate::rate::Rate;
use crate::reply::{dns, reject};
use crate::snat;
use crate::steer::Steering;
use crate::wire::Ip;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;

/// The shared part.
pub(crate) struct Shared {
    /// The worker's number, from 0.
    pub(crate) worker: u16,
    pub(crate) steering: Steering,
    pub(crate) ports: snat::Ports,
    pub(crate) random: Random,
    /// Flows that may be opened.
    pub(crate) new_flows: Rate,
    pub(crate) shedding: Shedding,
    pub(crate) refusals: reject::Rates,
    pub(crate) dns: dns::Server,
    /// Where the clients of DNS over TCP are noted.
    pub(crate) dns_clients: Arc<Clients>,
    /// Fragments that wait for the first of their datagram.
    pub(crate) held: Held,
    pub(crate) identifications: Identifications,
    /// Which endpoints clients keep; shared with the other workers.
    pub(crate) affinity: Arc<Affinity>,
    pub(crate) affinity_totals: AffinityTotals,
    /// Where other hosts that use an owned address are reported, and how many frames of theirs there were.
    pub(crate) conflicts: Arc<Conflicts>,
    pub(crate) conflicting_frames: u64,
}

impl Shared {
    /// Counts and reports another host's use of an owned address.
    #[cold]
    pub(crate) fn report(&mut self, conflict: Conflict) {
        self.conflicting_frames += 1;
        self.conflicts.report(conflict);
    }

    /// Notes that a flow of the client was opened or `confirmed`.
    pub(crate) fn note(&mut self, client: Client, endpoint: Endpoint, timeout: Duration, confirmed: bool, now: Ticks) {
        self.affinity.note(client, endpoint, timeout, confirmed, now, &mut self.affinity_totals);
    }
}

/// What is kept per IP family.
pub(crate) struct Lane<I: Ip> {
    pub(crate) flows: FlowTable<I::Address>,
    pub(crate) next_hops: NextHops<I::Address>,
    pub(crate) fragments: Fragments<I::Address>,
}

impl<I: Ip> Lane<I> {
    /// A lane for `limits`. Fails if the memory cannot be mapped.
    pub(crate) fn new(limits: &Limits, seeds: [u64; 4]) -> io::Result<Lane<I>> {
        let [a, b, c, d] = seeds;
        let fragments = Fragments::new(ahash::RandomState::with_seeds(b, a, d, c))?;
        Ok(Lane { flows: FlowTable::new(limits, seeds)?, next_hops: NextHops::new(), fragments })
    }
}

/// Everything a worker remembers.
pub(crate) struct State {
    pub(crate) shared: Shared,
    pub(crate) v4: Lane<Ipv4>,
    pub(crate) v6: Lane<Ipv6>,
}

impl State {
    /// Once per poll: forgets the next hops if the network has changed. Returns whether it has.
    pub(crate) fn follow(&mut self, net: &Net) -> bool {
        self.v4.next_hops.follow(net) | self.v6.next_hops.follow(net)
    }

    /// Removes expired flows among the next `budget` flows of each lane.
    pub(crate) fn sweep(&mut self, now: Ticks, budget: usize) {
        self.v4.flows.sweep(now, budget);
        self.v6.flows.sweep(now, budget);
    }

    /// How many flows there are and were.
    pub(crate) fn flow_totals(&self) -> FlowTotals {
        self.v4.flows.totals() + self.v6.flows.totals()
    }
}

/// Random numbers for source ports: a keyed hash over a counter, so that a sender that sees some cannot guess the next.
pub(crate) struct Random {
    hasher: ahash::RandomState,
    count: u64,
}

impl Random {
    pub(crate) fn new(hasher: ahash::RandomState) -> Random {
        Random { hasher, count: 0 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.count += 1;
        self.hasher.hash_one(self.count)
    }
}

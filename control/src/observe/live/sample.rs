//! Numbers of one second.

use std::time::Duration;

use pollgate_common::counters::{Carried, Counters, Totals, WorkerCounters};
use pollgate_common::hash::HashMap;
use pollgate_common::tables::{ServiceId, Tables};
use serde::Serialize;

use super::listing::Listing;
use crate::observe::stats::CounterValues;

/// Services with a rate of their own in a message; what the others carried is one sum.
const BUSIEST: usize = 500;

/// The numbers of a moment. Counters are totals, so that nothing is lost to a reader that skips a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tick {
    /// Counts the messages since the page is open.
    pub number: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    /// Milliseconds since the tick before; 0 for the first, which has no differences.
    pub elapsed: u64,
    /// The generation of the tables.
    pub generation: u64,
    /// The revision of the objects.
    pub revision: u64,
    /// The counters of all workers, as in `stats`.
    pub counters: CounterValues,
    /// The use of the flow tables.
    pub flows: Flows,
    /// What the busiest Services carried since the tick before.
    pub services: Vec<Carry>,
    /// How many Services carried something, and all of it.
    pub busy: usize,
    /// All that Services carried since the tick before: packets, bytes, flows opened.
    pub all: (u64, u64, u64),
    /// Each worker.
    pub workers: Vec<WorkerValues>,
    /// Checks that fail: name and fault.
    pub faults: Vec<(String, String)>,
}

/// How full the flow tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Flows {
    /// Flows there are.
    pub live: u64,
    /// `flows.max`.
    pub max: u64,
}

/// What a Service carried since the tick before: its number in the list, packets, bytes, flows opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Carry(pub u32, pub u64, pub u64, pub u64);

/// The counters of a worker that say how busy it is. Totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerValues {
    /// Frames received.
    pub rx: u64,
    /// Frames sent.
    pub tx: u64,
    /// Frames dropped.
    pub drops: u64,
    /// Frames the kernel dropped before they were received.
    pub missed: u64,
    /// Bursts.
    pub bursts: u64,
    /// Rounds of the loop.
    pub polls: u64,
    /// Times it slept.
    pub sleeps: u64,
    /// Frames handed over to other workers.
    pub handed_over: u64,
    /// Flows in its table.
    pub flows: u64,
    /// Flows opened.
    pub opened: u64,
    /// Flows that their client has not confirmed.
    pub half_open: u64,
    /// The generation of tables it used last.
    pub generation: u64,
}

impl From<&WorkerCounters> for WorkerValues {
    fn from(worker: &WorkerCounters) -> WorkerValues {
        let mut own = Totals::default();
        worker.add_to(&mut own);
        WorkerValues {
            rx: own.rx,
            tx: own.tx,
            drops: own.dropped(),
            missed: own.missed,
            bursts: own.bursts,
            polls: own.polls,
            sleeps: own.sleeps,
            handed_over: own.handed_over,
            flows: own.flows_live,
            opened: own.flows_opened,
            half_open: own.flows_half_open,
            generation: own.generation,
        }
    }
}

/// What the tick before showed of each Service port, by its index.
#[derive(Debug, Default)]
pub struct Sampler {
    ports: Vec<Option<Port>>,
    names: u64,
    number: u64,
}

#[derive(Debug, Clone, Copy)]
struct Port {
    id: ServiceId,
    carried: Carried,
    /// The Service's number in the list.
    service: u32,
}

impl Sampler {
    /// What has happened since the call before, `elapsed` ago.
    pub fn sample(
        &mut self,
        counters: &Counters,
        max_flows: usize,
        tables: &Tables,
        listing: &mut Listing,
        elapsed: Duration,
    ) -> Tick {
        let is_first = self.number == 0;
        self.number += 1;
        let carried = self.differences(counters, tables, listing);
        let busy = carried.len();
        let all = carried.values().copied().sum::<Carried>();
        let totals = counters.totals();
        Tick {
            number: self.number,
            time: 0,
            elapsed: if is_first { 0 } else { u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX) },
            generation: tables.generation(),
            revision: 0,
            counters: CounterValues::from(&totals),
            flows: Flows { live: totals.flows_live, max: max_flows as u64 },
            services: busiest(carried),
            busy,
            all: (all.packets, all.bytes, all.flows),
            workers: counters.workers().map(WorkerValues::from).collect(),
            faults: Vec::new(),
        }
    }

    /// What each Service carried since the call before, by its number in the list; those that carried something.
    fn differences(&mut self, counters: &Counters, tables: &Tables, listing: &mut Listing) -> HashMap<u32, Carried> {
        let is_renamed = self.names != listing.names();
        let mut differences = HashMap::default();
        for service in tables.services() {
            let index = service.id.index as usize;
            if index >= self.ports.len() {
                self.ports.resize(index + 1, None);
            }
            let now = counters.carried(service.id.index) - service.counted.all;
            let known = self.ports[index].filter(|port| port.id == service.id);
            let number = match known {
                Some(port) if !is_renamed => port.service,
                _ => listing.number(of_port(&service.name)),
            };
            self.ports[index] = Some(Port { id: service.id, carried: now, service: number });
            // A Service port that is new is counted from its first tick on.
            let carried = known.map_or_else(Carried::default, |port| now - port.carried);
            if carried != Carried::default() {
                let sum: &mut Carried = differences.entry(number).or_default();
                *sum = *sum + carried;
            }
        }
        self.names = listing.names();
        differences
    }
}

/// `namespace/name` of `namespace/name:port`.
fn of_port(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(service, _)| service)
}

/// Those with the most packets, most first.
fn busiest(carried: HashMap<u32, Carried>) -> Vec<Carry> {
    let mut all: Vec<Carry> = carried
        .into_iter()
        .map(|(number, carried)| Carry(number, carried.packets, carried.bytes, carried.flows))
        .collect();
    let order = |carry: &Carry| (std::cmp::Reverse(carry.1), carry.0);
    if all.len() > BUSIEST {
        all.select_nth_unstable_by_key(BUSIEST, order);
        all.truncate(BUSIEST);
    }
    all.sort_unstable_by_key(order);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_are_few_and_in_order() {
        let carried = |packets| Carried { packets, bytes: packets * 100, flows: 1 };
        let all: HashMap<u32, Carried> = (0..2000).map(|number| (number, carried(u64::from(number) + 1))).collect();
        let shown = busiest(all);
        assert_eq!(shown.len(), BUSIEST);
        assert_eq!((shown[0], shown[BUSIEST - 1]), (Carry(1999, 2000, 200_000, 1), Carry(1500, 1501, 150_100, 1)));
        assert!(shown.is_sorted_by_key(|carry| std::cmp::Reverse(carry.1)));
    }

    #[test]
    fn a_port_belongs_to_its_service() {
        assert_eq!([of_port("default/web:http"), of_port("a/b:80")], ["default/web", "a/b"]);
    }
}

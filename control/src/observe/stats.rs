//! The statistics: one type, which the API sends, the command line reads, and metrics will be made from.
//!
//! ```json
//! {"counters": {"rx": 100, "tx": 90, …, "passed": 5, "held": 2, "drops": {"runt": 1}, "passes": {"arp": 5}},
//!  "services": {"default/web:80": {"packets": 80, "bytes": 8000, "flows": 4, "live": 2,
//!                                  "backends": {"10.244.1.10:8080": {"packets": 80, "bytes": 8000, "flows": 4, "live": 2}}}},
//!  "flows": {"live": 4, "max": 1024}, "workers": [{…}, {…}], "threads": {"announcer": {…}, "dns": {…}}, "generation": 7,
//!  "interfaces": {"eth1": {"up": true, "mtu": 1500}},
//!  "manifests": {"path": "/etc/pollgate", "objects": 12, "faults": []}, "publications": {…}, "state": {"bytes": 1589248, "objects": 20480}}
//! ```
//!
//! Names, meanings, kinds and units are declared beside the counters in `pollgate-common`. Here are only values. What another
//! version of pollgate sends is read as far as it is understood: a missing value is 0, an unknown counter is kept.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pollgate_common::counters::{Carried, Counters, Totals, WorkerCounters};
use pollgate_common::epoch::Source;
use pollgate_common::hash::HashMap;
use pollgate_common::inspect::FlowRecord;
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_common::tables::{ServiceId, ServicePort, Tables};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::checks::Check;
use crate::compile::publications::PublicationStats;
use crate::dns::resolver::UpstreamStats;
use crate::store::Size;
use crate::threads::Role;

/// The statistics of the running gateway.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// The counters of all workers together. `generation` is the oldest that a worker still uses.
    pub counters: CounterValues,
    /// Each Service port that is served, by its name.
    pub services: ServiceStats,
    /// The use of the flow tables.
    pub flows: FlowUse,
    /// The counters of each worker.
    pub workers: Vec<CounterValues>,
    /// The counters of the threads beside the workers, by the thread's name.
    pub threads: BTreeMap<String, CounterValues>,
    /// The interfaces that are polled, by name.
    pub interfaces: BTreeMap<String, InterfaceState>,
    /// The generation of the tables that were published last.
    pub generation: u64,
    /// The manifests that are followed, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<ManifestState>,
    /// What each DNS upstream has been asked, by its address.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub upstreams: BTreeMap<String, UpstreamStats>,
    /// Lines of the log that could not be written.
    pub log_lines_lost: u64,
    /// What must hold, and whether it does.
    pub checks: Vec<Check>,
    /// How long changes take until every worker has them.
    pub publications: PublicationStats,
    /// The state file.
    pub state: StateFile,
    /// Requests of the API that have ended by a panic.
    pub panicked_requests: u64,
}

/// An interface that is polled, as the workers see it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceState {
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// The largest IP packet that it sends, bytes.
    pub mtu: u32,
}

/// How large the state file is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateFile {
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of the objects in it.
    pub objects: u64,
}

impl From<&Size> for StateFile {
    fn from(size: &Size) -> StateFile {
        StateFile { bytes: size.file(), objects: size.objects() }
    }
}

/// The counters of one worker, or of all together.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CounterValues {
    /// Frames left to the kernel, all reasons.
    pub passed: u64,
    /// Frames dropped, by reason. Reasons without a frame are left out.
    pub drops: BTreeMap<String, u64>,
    /// Frames left to the kernel, by reason. Reasons without a frame are left out.
    pub passes: BTreeMap<String, u64>,
    /// Every declared counter by its name. `held` includes the frames on the way between two workers.
    #[serde(flatten, deserialize_with = "numbers")]
    pub counters: BTreeMap<String, u64>,
}

/// The counters of all Service ports, by name (`default/web:80`).
pub type ServiceStats = BTreeMap<String, ServiceValues>;

/// What a Service port has carried since it was given its index in the tables.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceValues {
    /// All of it.
    #[serde(flatten)]
    pub all: Values,
    /// By endpoint (address and port): those that carried something, or have flows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub backends: BTreeMap<String, Values>,
    /// Of endpoints that are gone, once others have their places, and of those that are too many to be counted one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<Values>,
}

/// What was carried.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Values {
    /// Packets translated, both directions.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
    /// Flows opened.
    pub flows: u64,
    /// Flows in the tables; `None` if they were not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<u64>,
}

impl Values {
    fn add(&mut self, carried: Carried) {
        self.packets += carried.packets;
        self.bytes += carried.bytes;
        self.flows += carried.flows;
    }
}

/// How many flows there are, and how many there can be.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowUse {
    /// Flows in the tables.
    pub live: u64,
    /// `flows.max`.
    pub max: u64,
    /// Flows of Service ports that are gone; `None` if they were not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub departed: Option<u64>,
}

/// Flows that were counted, by Service port and endpoint.
#[derive(Debug, Default)]
pub struct LiveFlows(HashMap<(ServiceId, SocketAddr), u64>);

impl LiveFlows {
    /// Counts one more.
    pub fn add(&mut self, flow: &FlowRecord) {
        *self.0.entry((flow.service, flow.backend)).or_default() += 1;
    }
}

/// The manifests that are followed.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ManifestState {
    /// The file or directory.
    pub path: String,
    /// The objects served from it.
    pub objects: u64,
    /// Why its present content is not served.
    pub faults: Vec<String>,
}

/// The counters as `replay --counters` writes them.
#[derive(Debug, Serialize)]
pub struct ReplayStats {
    /// The worker's counters.
    #[serde(flatten)]
    pub counters: CounterValues,
    /// Each Service port, by its name.
    pub services: ServiceStats,
}

impl Stats {
    /// Reads the counters and the published tables.
    pub fn collect(counters: &Counters, source: &Source, max_flows: usize) -> Stats {
        let reader = source.reader();
        let pin = reader.pin();
        let tables = pin.load();
        let totals = counters.totals();
        let mut all = CounterValues::from(&totals);
        // A sum of generations means nothing.
        let oldest = counters.workers().map(|worker| worker.generation.value()).min();
        all.counters.insert("generation".to_owned(), oldest.unwrap_or(0));
        let one = |block: &WorkerCounters| {
            let mut own = Totals::default();
            block.add_to(&mut own);
            CounterValues::from(&own)
        };
        let beside = [(Role::Announcer, counters.beside_workers()), (Role::Dns, counters.dns())];
        Stats {
            counters: all,
            services: services(counters, tables),
            flows: FlowUse { live: totals.flows_live, max: max_flows as u64, departed: None },
            workers: counters.workers().map(one).collect(),
            threads: beside.into_iter().map(|(role, block)| (role.name().to_owned(), one(block))).collect(),
            interfaces: interfaces(tables),
            generation: tables.generation(),
            manifests: None,
            upstreams: BTreeMap::new(),
            log_lines_lost: 0,
            publications: PublicationStats::default(),
            state: StateFile::default(),
            checks: Vec::new(),
            panicked_requests: 0,
        }
    }

    /// Adds the flows that were counted, each to its endpoint, also to one that is gone. A Service port that these tables do not have is
    /// gone.
    pub fn count(&mut self, flows: &LiveFlows, tables: &Tables) {
        for service in self.services.values_mut() {
            let (all, backends, others) = (&mut service.all, service.backends.values_mut(), service.others.iter_mut());
            backends.chain(others).chain([all]).for_each(|values| values.live = Some(0));
        }
        let mut departed = 0;
        for ((id, backend), live) in &flows.0 {
            let service = tables.service_by_id(*id).and_then(|known| self.services.get_mut(&*known.name));
            let Some(service) = service else {
                departed += live;
                continue;
            };
            let backend = service.backends.entry(backend.to_string()).or_default();
            *service.all.live.get_or_insert(0) += live;
            *backend.live.get_or_insert(0) += live;
        }
        self.flows.departed = Some(departed);
    }
}

impl From<&Totals> for CounterValues {
    fn from(totals: &Totals) -> Self {
        let mut counters: BTreeMap<String, u64> =
            totals.counters().map(|(counter, value)| (counter.name.to_owned(), value)).collect();
        counters.insert("held".to_owned(), totals.waiting());
        let drops = DropReason::ALL.iter().map(|&reason| (reason.name(), totals.drops_of(reason)));
        let passes = PassReason::ALL.iter().map(|&reason| (reason.name(), totals.passes_of(reason)));
        CounterValues { passed: totals.passed(), drops: nonzero(drops), passes: nonzero(passes), counters }
    }
}

impl CounterValues {
    /// A counter by its name; 0 if it is not there.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// Frames dropped, all reasons.
    pub fn dropped(&self) -> u64 {
        self.drops.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Both sides of the balance: frames received and created, frames accounted for.
    pub fn balance(&self) -> (u64, u64) {
        let parts = [self.counter("tx"), self.passed, self.counter("consumed"), self.dropped(), self.counter("held")];
        let came = self.counter("rx").saturating_add(self.counter("originated"));
        (came, parts.into_iter().fold(0, u64::saturating_add))
    }
}

fn interfaces(tables: &Tables) -> BTreeMap<String, InterfaceState> {
    let polled = tables.net().facts().links.iter().filter(|link| link.port.is_some());
    polled.map(|link| (link.name.clone(), InterfaceState { up: link.up, mtu: link.mtu })).collect()
}

/// What each Service port has carried since it was given its index.
pub fn services(counters: &Counters, tables: &Tables) -> ServiceStats {
    let mut all = ServiceStats::new();
    for service in tables.services() {
        // A Service port with addresses of both families has an index for each.
        all.entry(service.name.to_string()).or_default().add(counters, service);
    }
    all
}

impl ServiceValues {
    /// Adds what a Service port of the tables has carried since it was given its index.
    pub(crate) fn add(&mut self, counters: &Counters, service: &ServicePort) {
        let index = service.id.index;
        // Workers go on counting: each number is read once, so that they add up.
        let rest = counters.carried_from(index, service.backends.len());
        let (mut whole, mut listed) = (rest, Carried::default());
        for (slot, backend) in (0..).zip(&service.backends) {
            let shown = counters.carried_by(index, slot);
            let carried = shown - service.counted.of(slot);
            whole = whole + shown;
            listed = listed + carried;
            if carried != Carried::default() {
                let endpoint = SocketAddr::new(backend.address, backend.port).to_string();
                self.backends.entry(endpoint).or_default().add(carried);
            }
        }
        let carried = whole - service.counted.all;
        self.all.add(carried);
        if carried != listed {
            self.others.get_or_insert_default().add(carried - listed);
        }
    }
}

fn nonzero(counts: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
    counts.filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect()
}

/// The numbers among values; what else another version may send beside them is left out.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, u64>, D::Error> {
    let values = BTreeMap::<String, Value>::deserialize(deserializer)?;
    Ok(values.into_iter().filter_map(|(name, value)| Some((name, value.as_u64()?))).collect())
}

#[cfg(test)]
mod tests {
    use pollgate_common::counters::DECLARED;
    use serde_json::json;

    use super::*;
    use crate::compile::publications::Publications;

    fn totals() -> Totals {
        let mut totals = Totals { rx: 9, tx: 3, held: 1, handed_over: 5, handed_in: 3, ..Totals::default() };
        totals.drops[DropReason::NoRoute.index()] = 2;
        totals.passes[PassReason::Arp.index()] = 1;
        totals
    }

    #[test]
    fn the_block_has_every_counter_and_only_reasons_that_happened() {
        let value = serde_json::to_value(CounterValues::from(&totals())).unwrap();
        let mut expected: BTreeMap<&str, Value> = DECLARED.iter().map(|counter| (counter.name, json!(0))).collect();
        expected.extend([
            ("rx", json!(9)),
            ("tx", json!(3)),
            ("handed_over", json!(5)),
            ("handed_in", json!(3)),
            ("held", json!(3)),
            ("passed", json!(1)),
            ("drops", json!({"no_route": 2})),
            ("passes", json!({"arp": 1})),
        ]);
        assert_eq!(value, json!(expected));
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let values = CounterValues::from(&totals());
        assert_eq!(values.balance(), totals().balance());
        let values_of = |n| Values { packets: n, bytes: 2 * n, flows: n, live: None };
        let backends = [("10.244.1.10:8080".to_owned(), values_of(2))].into();
        let all = Values { live: Some(3), ..values_of(3) };
        let service = ServiceValues { all, backends, others: Some(values_of(1)) };
        let stats = Stats {
            counters: values.clone(),
            services: [("default/web:80".to_owned(), service)].into(),
            flows: FlowUse { live: 4, max: 5, departed: Some(1) },
            workers: vec![values.clone()],
            threads: [("dns".to_owned(), values)].into(),
            interfaces: [("eth1".to_owned(), InterfaceState { up: true, mtu: 1500 })].into(),
            generation: 6,
            upstreams: [("192.0.2.53:53".to_owned(), UpstreamStats { queries: 9, p99: 7, ..UpstreamStats::default() })]
                .into(),
            manifests: Some(ManifestState { path: "/m".to_owned(), objects: 7, faults: vec!["x".to_owned()] }),
            log_lines_lost: 8,
            checks: vec![Check::live("ping", None), Check::ready("store", Some("full".to_owned()))],
            publications: Publications::default().stats(),
            state: StateFile { bytes: 9, objects: 1 },
            panicked_requests: 2,
        };
        let value = serde_json::to_value(&stats).unwrap();
        assert_eq!(serde_json::from_value::<Stats>(value).unwrap(), stats);
    }

    #[test]
    fn another_version_is_read_as_far_as_it_is_understood() {
        let sent = json!({"counters": {"rx": 1, "later": 2, "shape": {"a": 1}, "drops": {"gremlins": 1}}, "later": []});
        let stats: Stats = serde_json::from_value(sent).unwrap();
        assert_eq!(
            (stats.counters.counter("rx"), stats.counters.counter("later"), stats.counters.counter("tx")),
            (1, 2, 0)
        );
        assert_eq!((stats.counters.counter("shape"), stats.counters.dropped()), (0, 1));
    }

    #[test]
    fn the_replay_writes_one_block_with_the_services_beside() {
        let services = [("default/web:80".to_owned(), ServiceValues::default())].into();
        let value = serde_json::to_value(ReplayStats { counters: CounterValues::from(&totals()), services }).unwrap();
        assert_eq!((&value["rx"], &value["held"], &value["drops"]["no_route"]), (&json!(9), &json!(3), &json!(2)));
        assert_eq!(value["services"], json!({"default/web:80": {"packets": 0, "bytes": 0, "flows": 0}}));
    }
}

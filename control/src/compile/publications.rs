//! How long changes take until every worker has them.
//!
//! ```text
//!  Pod ready ─ trigger time ─▶ slice ─▶ batch ─ compiled ─ on disk ─▶ published ─▶ every worker
//!      ├──────────────────────── programming ──────────────────────────────────────┤
//!                                  ├ compile ┤        ├────── publish ──────────────┤
//! ```
//!
//! Measured on the control thread, once per batch, with buckets of fixed bounds: a sum over gateways and times means something, which
//! a sum of quantiles does not. *Every worker has them* if it has gone a round with the new tables, or sleeps: then its next packet finds
//! them. The control thread looks again after a quarter of the time that has passed, 100 µs at least: a time is shown as up to that much longer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::cluster::Changes;

/// Upper bounds of compiling and publishing, in microseconds.
const QUICK: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Times, in buckets of fixed bounds.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// How many there were.
    pub count: u64,
    /// All together, microseconds.
    pub sum: u64,
    /// How many were in each bucket, and in none before it; those that were longer are in none.
    pub buckets: Vec<Bucket>,
}

/// Times up to a bound.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bucket {
    /// The bound, microseconds.
    pub up_to: u64,
    /// How many.
    pub count: u64,
}

impl Histogram {
    /// None yet. The bounds grow.
    fn new(bounds: impl IntoIterator<Item = u64>) -> Histogram {
        let buckets = bounds.into_iter().map(|up_to| Bucket { up_to, count: 0 }).collect();
        Histogram { count: 0, sum: 0, buckets }
    }

    fn add(&mut self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum = self.sum.saturating_add(time);
        let at = self.buckets.partition_point(|bucket| bucket.up_to < time);
        if let Some(bucket) = self.buckets.get_mut(at) {
            bucket.count += 1;
        }
    }
}

/// The bounds of kube-proxy's histogram of the same meaning, in microseconds (K `pkg/proxy/metrics/metrics.go`).
fn programming_bounds() -> impl Iterator<Item = u64> {
    let quarters = (1..=2).map(|n| n * 250_000);
    let seconds = (1..=59).map(|n| n * 1_000_000);
    let fives = (0..12).map(|n| (60 + 5 * n) * 1_000_000);
    let thirties = (0..7).map(|n| (120 + 30 * n) * 1_000_000);
    quarters.chain(seconds).chain(fives).chain(thirties)
}

/// What changed, and how long it took.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PublicationStats {
    /// Changes of Services that were published.
    pub services_changed: u64,
    /// Changes of EndpointSlices that were published.
    pub slices_changed: u64,
    /// Changes of Services that wait to be published.
    pub services_pending: u64,
    /// Changes of EndpointSlices that wait to be published.
    pub slices_pending: u64,
    /// When the last change came, milliseconds since 1970; 0: none has.
    pub last_change: u64,
    /// When changes were published last, milliseconds since 1970; 0: never.
    pub last_publication: u64,
    /// Compiling a batch of changes.
    pub compile: Histogram,
    /// From the moment a batch is on disk until every worker has it.
    pub publish: Histogram,
    /// From the trigger time of an EndpointSlice until every worker has it.
    pub programming: Histogram,
}

/// Keeps them.
#[derive(Debug)]
pub struct Publications {
    /// Trigger times before it are of another process, or of a dump.
    start: Timestamp,
    state: Mutex<PublicationStats>,
}

impl Default for Publications {
    fn default() -> Self {
        Self::starting(Timestamp::now())
    }
}

impl Publications {
    fn starting(start: Timestamp) -> Publications {
        let stats = PublicationStats {
            compile: Histogram::new(QUICK),
            publish: Histogram::new(QUICK),
            programming: Histogram::new(programming_bounds()),
            ..PublicationStats::default()
        };
        Publications { start, state: Mutex::new(stats) }
    }

    /// All of it.
    pub fn stats(&self) -> PublicationStats {
        self.lock().clone()
    }

    /// Changes were compiled, in so much time.
    pub(crate) fn compiled(&self, changes: &Changes, time: Duration) {
        let mut state = self.lock();
        state.services_pending += changes.services;
        state.slices_pending += changes.slices;
        state.last_change = now();
        state.compile.add(time);
    }

    /// What was pending is published.
    pub(crate) fn published(&self) {
        let mut state = self.lock();
        state.services_changed += std::mem::take(&mut state.services_pending);
        state.slices_changed += std::mem::take(&mut state.slices_pending);
        state.last_publication = now();
    }

    /// What was pending never happened.
    pub(crate) fn undone(&self) {
        let mut state = self.lock();
        (state.services_pending, state.slices_pending) = (0, 0);
    }

    /// Every worker has what was published so long ago, which slices with these trigger times were part of.
    pub(crate) fn confirmed(&self, time: Duration, triggers: &[Timestamp]) {
        self.confirmed_at(Timestamp::now(), time, triggers);
    }

    fn confirmed_at(&self, now: Timestamp, time: Duration, triggers: &[Timestamp]) {
        let mut state = self.lock();
        state.publish.add(time);
        for trigger in triggers.iter().filter(|trigger| **trigger > self.start) {
            // A clock that is ahead, elsewhere, gives a negative time.
            let time = now.duration_since(*trigger).max(SignedDuration::ZERO);
            state.programming.add(time.unsigned_abs());
        }
    }

    fn lock(&self) -> MutexGuard<'_, PublicationStats> {
        // Whole between any two changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use pollgate_common::counters::Counters;
    use pollgate_common::flow::Protocol;
    use pollgate_common::hash::RingHash;
    use pollgate_common::settings::{DataplaneSettings, Masquerade};
    use pollgate_common::tables::FrontendKey;
    use serde_json::{Value, json};

    use super::*;
    use crate::compile::sink::TableSink;
    use crate::compile::{Compiler, Options};
    use crate::testing::{World, pod, service, web};

    fn filled(histogram: &Histogram) -> Vec<(u64, u64)> {
        histogram.buckets.iter().filter(|bucket| bucket.count > 0).map(|bucket| (bucket.up_to, bucket.count)).collect()
    }

    #[test]
    fn a_time_is_in_the_first_bucket_that_is_large_enough() {
        let mut histogram = Histogram::new([10, 20]);
        for micros in [0, 10, 11, 20, 21, 1000] {
            histogram.add(Duration::from_micros(micros));
        }
        assert_eq!((histogram.count, histogram.sum), (6, 1062));
        assert_eq!(filled(&histogram), [(10, 2), (20, 2)], "and two in none");
    }

    /// K `pkg/proxy/metrics/metrics.go`, NetworkProgrammingLatency.
    #[test]
    fn the_bounds_are_those_of_kube_proxy() {
        let bounds: Vec<u64> = programming_bounds().map(|micros| micros / 10_000).collect();
        assert_eq!((bounds.len(), &bounds[..4]), (80, &[25, 50, 100, 200][..]));
        assert_eq!((bounds[60], bounds[61], bounds[62], bounds[72], bounds[73]), (5900, 6000, 6500, 11500, 12000));
        assert_eq!(bounds.last(), Some(&30000));
        assert!(bounds.is_sorted() && QUICK.is_sorted());
    }

    #[test]
    fn a_trigger_time_counts_from_there_to_the_last_worker() {
        let start = Timestamp::from_second(1000).expect("a time");
        let at = |seconds: i64| Timestamp::from_second(1000 + seconds).expect("a time");
        let publications = Publications::starting(start);
        // K `pkg/proxy/endpointschangetracker.go`: times before the start are not measured. One is in the future.
        let triggers = [at(-5), at(0), at(7), at(9), at(90)];
        publications.confirmed_at(at(10), Duration::from_micros(300), &triggers);
        let stats = publications.stats();
        assert_eq!(filled(&stats.programming), [(250_000, 1), (1_000_000, 1), (3_000_000, 1)]);
        assert_eq!(stats.programming.sum, 4_000_000);
        assert_eq!(filled(&stats.publish), [(500, 1)]);
    }

    #[test]
    fn changes_are_pending_until_they_are_published_or_undone() {
        let publications = Publications::default();
        let changes = |services, slices| Changes { services, slices, triggers: Vec::new() };
        let shown = || {
            let stats = publications.stats();
            (stats.services_changed, stats.slices_changed, stats.services_pending, stats.slices_pending)
        };
        publications.compiled(&changes(1, 2), Duration::ZERO);
        publications.compiled(&changes(0, 3), Duration::ZERO);
        assert_eq!(shown(), (0, 0, 1, 5));
        assert_eq!(publications.stats().last_publication, 0);
        publications.published();
        assert_eq!(shown(), (1, 5, 0, 0));
        publications.compiled(&changes(1, 1), Duration::ZERO);
        publications.undone();
        assert_eq!(shown(), (1, 5, 0, 0));
        assert_eq!(publications.stats().compile.count, 3);
        assert!(publications.stats().last_publication > 0 && publications.stats().last_change > 0);
    }

    fn compiler() -> Compiler {
        let settings = DataplaneSettings {
            gateway_v4: vec!["192.168.50.10".parse().expect("an address")],
            gateway_v6: vec![],
            dns: vec![],
            pod_cidrs: vec![],
            service_cidrs: vec![],
            masquerade: Masquerade::Kubernetes,
            host_pair: false,
            snat_ports: 1024..=29999,
            ring_hash: RingHash::new("pollgate"),
        };
        let options = Options {
            settings: Arc::new(settings),
            node: None,
            zone: None,
            dns: Arc::default(),
            table_size: Some(251),
        };
        let mut compiler = Compiler::new(options, Arc::new(Counters::new(1)));
        compiler.publications = Arc::new(Publications::starting(Timestamp::UNIX_EPOCH));
        compiler
    }

    #[test]
    fn a_publication_is_measured_until_every_worker_has_it() {
        let (mut world, mut compiler) = (World::new(), compiler());
        let newest = Arc::new(AtomicU64::new(0));
        let of_workers = Arc::clone(&newest);
        compiler.measure(Box::new(move |generation| of_workers.load(Relaxed) >= generation));
        let mut apply = |compiler: &mut Compiler, objects: Vec<Value>| {
            let commit = world.apply(objects);
            compiler.changed(&world.cluster, &commit.touched());
            compiler.publish();
        };
        let measured = |compiler: &Compiler| {
            let stats = compiler.publications.stats();
            (stats.publish.count, stats.programming.count)
        };
        apply(&mut compiler, vec![web("a"), pod("p", "a", "10.1.0.1")]);
        assert!(compiler.confirm().is_none(), "without workers there is nothing to wait for");
        compiler.progress().begin();
        // A Pod that is ready gives its slice a trigger time.
        apply(&mut compiler, vec![pod("q", "a", "10.1.0.2")]);
        assert!(compiler.confirm().is_some() && measured(&compiler) == (0, 0), "no worker has it");
        newest.store(compiler.generation(), Relaxed);
        assert!(compiler.confirm().is_none());
        assert_eq!(measured(&compiler), (1, 1));
        // A new label of the Service is one of its slices, and no reason to measure.
        let mut labelled = web("a");
        labelled["metadata"]["labels"] = json!({"tier": "front"});
        apply(&mut compiler, vec![labelled]);
        apply(&mut compiler, vec![pod("r", "a", "10.1.0.3")]);
        newest.store(compiler.generation() - 1, Relaxed);
        assert!(compiler.confirm().is_some(), "one of two");
        newest.store(compiler.generation(), Relaxed);
        assert!(compiler.confirm().is_none());
        assert_eq!(measured(&compiler), (3, 2));
        assert_eq!(compiler.publications.stats().compile.count, 4);
    }

    /// What a Service had and another one gets in the same change is no conflict, and no line of the log.
    #[test]
    fn a_node_port_that_moves_is_not_contested() {
        let (mut world, mut compiler) = (World::new(), compiler());
        let mut apply = |objects: Vec<Value>| {
            let commit = world.apply(objects);
            compiler.changed(&world.cluster, &commit.touched());
            compiler.publish();
            let tables = compiler.builder.tables();
            let address = "192.168.50.10".parse().expect("an address");
            let at = |port| {
                let key = FrontendKey { address, port, protocol: Protocol::Tcp };
                let frontend = tables.frontend(&key)?;
                tables.service(frontend.service).map(|service| service.name.to_string())
            };
            (at(30_080), at(30_081), compiler.contested.clone())
        };
        let with = |name: &str, node_port: u16| {
            service(name, json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]}))
        };
        let port_of = |name: &str| Some(format!("default/{name}:80"));
        let nothing = std::collections::BTreeSet::new();
        assert_eq!(apply(vec![with("a", 30_080), with("b", 30_081)]), (port_of("a"), port_of("b"), nothing.clone()));
        assert_eq!(apply(vec![with("a", 30_082), with("b", 30_080)]), (port_of("b"), None, nothing));
    }

    #[test]
    fn what_is_undone_is_not_measured() {
        let (mut world, mut compiler) = (World::new(), compiler());
        compiler.measure(Box::new(|_| true));
        compiler.progress().begin();
        let commit = world.apply([web("a"), pod("p", "a", "10.1.0.1")]);
        let touched = commit.touched();
        assert_eq!((touched.changes.services, touched.changes.triggers.len()), (1, 1));
        compiler.changed(&world.cluster, &touched);
        world.cluster.adopt(&commit.inverse());
        compiler.changed(&world.cluster, &touched);
        compiler.undone();
        compiler.publish();
        assert!(compiler.confirm().is_none());
        let stats = compiler.publications.stats();
        assert_eq!((stats.programming.count, stats.services_changed, stats.services_pending), (0, 0, 0));
    }
}

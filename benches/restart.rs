//! From a state file to tables that workers can read: the time of a restart before the first packet.
//!
//! ```text
//!  open ─ verify ─ read ─ decode ──▶ objects ─ index ──▶ cluster ─ compile ─ publish ──▶ tables
//!  ╰─────────── open ───────────╯ ╰──── restore ────╯ ╰────── compile.rs ─────────╯
//!  ╰───────────────────────────── all ───────────────────────────────────────────────────╯
//! ```
//!
//! There are two cases: EndpointSlices from another client without Pods, and one Pod per endpoint. The file is in the page
//! cache, as after a restart of the process alone. After a reboot, reading it from the disk takes additional time.

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pollgate_control::cluster::{Cluster, ClusterSettings, Write};
use pollgate_control::store::{Restored, Store};
use support::control::{ENDPOINTS, compiled};
use tempfile::TempDir;

/// Makes this many Services with this many endpoints each.
type Make = fn(u32, u32) -> Vec<Write>;

fn restart(c: &mut Criterion) {
    let mut group = c.benchmark_group("restart");
    group.sample_size(10).measurement_time(Duration::from_secs(15));
    let services = if support::is_trial() { 100 } else { 10_000 };
    let kinds: [(&str, Make); 2] =
        [("slices", support::cluster::services), ("pods", support::cluster::services_of_pods)];
    for (kind, objects) in kinds {
        let mut state = None;
        group.bench_function(BenchmarkId::new(format!("open/{kind}"), services), |b| {
            let state = state.get_or_insert_with(|| State::new(objects(services, ENDPOINTS)));
            b.iter_with_large_drop(|| state.open());
        });
        group.bench_function(BenchmarkId::new(format!("restore/{kind}"), services), |b| {
            let state = state.get_or_insert_with(|| State::new(objects(services, ENDPOINTS)));
            let restored = || state.open().1;
            b.iter_batched(restored, |restored| state.restore(restored), criterion::BatchSize::PerIteration);
        });
        group.bench_function(BenchmarkId::new(format!("all/{kind}"), services), |b| {
            let state = state.get_or_insert_with(|| State::new(objects(services, ENDPOINTS)));
            b.iter_with_large_drop(|| {
                let (store, restored) = state.open();
                let (cluster, replica) = state.restore(restored);
                let compiler = compiled(&cluster);
                (store, cluster, replica, compiler)
            });
        });
    }
    group.finish();
}

/// A state file.
struct State {
    _directory: TempDir,
    path: PathBuf,
    objects: usize,
}

impl State {
    fn new(writes: Vec<Write>) -> State {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("state.db");
        let mut cluster = Cluster::new(ClusterSettings::default());
        let commit = cluster.plan(writes, jiff::Timestamp::UNIX_EPOCH).expect("valid objects");
        cluster.adopt(&commit);
        let objects = commit.changes.len();
        Store::open(&path).expect("a new file").0.commit(&[Arc::new(commit)]).expect("a working disk");
        let bytes = std::fs::metadata(&path).map_or(0, |found| found.len());
        println!("{objects} objects in a file of {} MB", bytes >> 20);
        State { _directory: directory, path, objects }
    }

    fn open(&self) -> (Store, Restored) {
        let (store, restored) = Store::open(&self.path).expect("a whole file");
        assert_eq!(restored.objects.len(), self.objects);
        (store, restored)
    }

    /// The cluster of the control thread, and the cluster of the API.
    fn restore(&self, restored: Restored) -> (Cluster, Cluster) {
        let cluster = Cluster::restore(ClusterSettings::default(), restored.objects, restored.revision);
        let cluster = cluster.expect("nothing is held twice");
        let replica = cluster.clone();
        (cluster, replica)
    }
}

criterion_group!(benches, restart);
criterion_main!(benches);

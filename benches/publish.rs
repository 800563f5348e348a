//! The time from the change of one endpoint among 10 000 × 10 until every worker sees it.
//!
//! ```text
//!  store commit ── compile ─ publish ──▶ worker pins, loads ─▶ reads the new endpoints
//!       ╰──────────────── measured ────────────────╯
//! ```
//!
//! The control thread compiles a batch while the batch is written to the disk. Here the disk takes no time, so the measured
//! time is the maximum after the commit. Workers are threads that pin and load in a loop, one per CPU except the control
//! thread's.
//!
//! The budget is for a percentile, and criterion has no percentiles. So they are printed, and written to publish.json in
//! cargo's directory for temporary files, where `benches/table` reads them.

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

mod support;

use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hdrhistogram::Histogram;
use pollgate::host;
use pollgate_common::epoch::Source;
use pollgate_control::compile::sink::TableSink;
use support::control::Control;

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish");
    group.measurement_time(Duration::from_secs(10));
    let services = if support::is_trial() { 100 } else { 10_000 };
    let mut control = None;
    // From a nanosecond to a minute. Without bounds the histogram would start with a maximum of 2 ns.
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("sound bounds");
    group.bench_function(BenchmarkId::new("seen-by-all", services), |b| {
        let control = control.get_or_insert_with(|| Control::new(services));
        b.iter_custom(|changes| {
            with_workers(control, |control, seen| {
                let each = (0..changes).map(|_| one_change(control, seen));
                each.inspect(|took| latencies.record(took.as_nanos() as u64).expect("less than a minute")).sum()
            })
        });
    });
    if !latencies.is_empty() {
        report(services, &latencies);
    }
    group.finish();
}

/// The newest generation that a worker has seen, on its own cache line.
#[derive(Default)]
#[repr(align(128))]
struct Seen(AtomicU64);

/// Runs `work` on this thread, pinned, while workers read on the other CPUs.
fn with_workers(control: &mut Control, work: impl FnOnce(&mut Control, &[Seen]) -> Duration) -> Duration {
    // Read only once: afterwards this thread is pinned to one CPU.
    static CPUS: LazyLock<Vec<usize>> = LazyLock::new(|| host::allowed_cpus().expect("the CPUs of this process"));
    let (own, others) = CPUS.split_first().expect("at least one CPU");
    host::pin_to_cpu(*own).expect("a CPU of this process");
    let workers = if others.is_empty() { &CPUS } else { others };
    let seen: Vec<Seen> = workers.iter().map(|_| Seen::default()).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also dropped on a panic; otherwise the scope would wait for the workers without end.
        let _stop = StopAtLast(&stop);
        for (&cpu, seen) in workers.iter().zip(&seen) {
            let (source, stop) = (control.compiler.source(), &stop);
            scope.spawn(move || watch(cpu, &source, seen, stop));
        }
        work(control, &seen)
    })
}

struct StopAtLast<'a>(&'a AtomicBool);

impl Drop for StopAtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A worker without packets: pins, loads, and reports its generation.
fn watch(cpu: usize, source: &Source, seen: &Seen, stop: &AtomicBool) {
    host::pin_to_cpu(cpu).expect("a CPU of this process");
    let reader = source.reader();
    while !stop.load(Relaxed) {
        let generation = reader.pin().load().generation();
        seen.0.store(generation, Relaxed);
    }
}

/// The time from the commit of one endpoint's change until all workers have seen it.
fn one_change(control: &mut Control, seen: &[Seen]) -> Duration {
    let (_, _, touched) = control.change();
    let before = control.compiler.generation();
    let committed = Instant::now();
    control.publish(&touched);
    let published = control.compiler.generation();
    while seen.iter().any(|seen| seen.0.load(Relaxed) < published) {
        std::hint::spin_loop();
    }
    let took = committed.elapsed();
    assert_eq!(published, before + 1, "there was something to publish");
    control.compiler.tick();
    took
}

fn report(services: u32, latencies: &Histogram<u64>) {
    let at = |quantile: f64| latencies.value_at_quantile(quantile);
    let (p50, p99, most) = (at(0.5), at(0.99), latencies.max());
    println!(
        "publish/seen-by-all/{services}: p50 {p50} ns, p99 {p99} ns, max {most} ns of {} changes",
        latencies.len()
    );
    if support::is_trial() {
        return;
    }
    let report =
        serde_json::json!({ "services": services, "changes": latencies.len(), "p50": p50, "p99": p99, "max": most });
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("publish.json");
    std::fs::write(&path, report.to_string()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

criterion_group!(benches, publish);
criterion_main!(benches);

//! A scrape of `/metrics`: read all counters and tables, and write the page.
//!
//! Without criterion's name of a bench: `page/SERVICES/SERIES`, where so many Service ports have series of their own. Each Service has two
//! ports. The bytes of the page are printed, too. In the gateway a page is made at most four times a second.

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

mod support;

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pollgate_common::counters::Counters;
use pollgate_control::observe::checks::Checks;
use pollgate_control::observe::metrics::{Metrics, MetricsParts};
use pollgate_control::observe::stats::Stats;
use support::control::Control;
use support::sizes;

/// Workers, each with its own counters.
const WORKERS: usize = 8;

fn page(c: &mut Criterion) {
    let mut group = c.benchmark_group("metrics");
    group.sample_size(20);
    for services in sizes(&[100, 10_000], 100) {
        for series in [1_000, 100_000] {
            let mut metrics = None;
            group.bench_function(BenchmarkId::new(format!("page/{services}"), series), |b| {
                let (metrics, _) = metrics.get_or_insert_with(|| metrics_of(services, series));
                b.iter_with_large_drop(|| metrics.scrape());
            });
        }
    }
    group.finish();
}

/// Of a gateway with so many Services, all of which have carried something.
fn metrics_of(services: u32, series: usize) -> (Metrics, Control) {
    let control = Control::new(services);
    let (counters, tables) = (Arc::new(Counters::new(WORKERS)), control.compiler.source());
    for service in 0..services * 2 {
        for worker in 0..WORKERS {
            counters.services(worker).open(service, 0);
            counters.services(worker).add(service, 0, 1_000_000 + u64::from(service), 1_000_000_000);
        }
    }
    let stats = Arc::new(move || Stats::collect(&counters, &tables, 1 << 20));
    let metrics =
        Metrics::new(MetricsParts { stats, checks: Arc::new(Checks::default()), services: series, compatible: true });
    println!("metrics/page/{services}/{series}: {} bytes", metrics.scrape().len());
    (metrics, control)
}

criterion_group!(benches, page);
criterion_main!(benches);

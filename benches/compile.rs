//! Compiling objects to tables: all objects, and the change of one endpoint among many.

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pollgate_control::compile::Compiler;
use pollgate_control::compile::sink::TableSink;
use support::control::{Control, ENDPOINTS, compiled};
use support::sizes;

/// Ports per Service: UDP and TCP.
const PORTS: usize = 2;

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    for services in sizes(&[100, 1_000, 10_000], 100) {
        let mut control = None;
        group.sample_size(10).measurement_time(Duration::from_secs(10));
        group.bench_function(BenchmarkId::new("cold", services), |b| {
            let control = control.get_or_insert_with(|| Control::new(services));
            all_are_there(&control.compiler, services);
            // The result is dropped outside the measured time.
            b.iter_with_large_drop(|| compiled(&control.cluster));
        });
        group.sample_size(100).measurement_time(Duration::from_secs(5));
        group.bench_function(BenchmarkId::new("one", services), |b| {
            let control = control.get_or_insert_with(|| Control::new(services));
            b.iter_custom(|count| changes(control, count));
        });
    }
    group.finish();
}

fn all_are_there(compiler: &Compiler, services: u32) {
    let reader = compiler.source().reader();
    let pin = reader.pin();
    // The Service that exists from the start is not one of them.
    let ours = pin.load().services().filter(|service| !service.name.starts_with("default/kubernetes:"));
    assert_eq!(ours.count(), services as usize * PORTS);
}

/// The time to compile and publish `changes` changes of one endpoint each, without the time to plan them.
fn changes(control: &mut Control, changes: u64) -> Duration {
    let mut took = Duration::ZERO;
    for change in 0..changes {
        let (service, is_gone, touched) = control.change();
        let start = Instant::now();
        control.publish(&touched);
        took += start.elapsed();
        if change == 0 {
            endpoints_of(control, service, ENDPOINTS as usize - usize::from(is_gone));
        }
        control.compiler.tick();
    }
    took
}

/// Checks the number of endpoints of the Service in the tables.
fn endpoints_of(control: &Control, service: u32, count: usize) {
    let reader = control.compiler.source().reader();
    let pin = reader.pin();
    let prefix = format!("default/{}:", support::cluster::name(service));
    let found: Vec<usize> = pin
        .load()
        .services()
        .filter(|service| service.name.starts_with(&prefix))
        .map(|service| service.cluster.slots().len())
        .collect();
    assert_eq!(found, [count; PORTS]);
}

criterion_group!(benches, compile);
criterion_main!(benches);

//! Building Maglev tables: sizes by the number of backends, and forced ones, of which 65 537 × 1 000 has a time budget.

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pollgate_common::hash::RingHash;
use pollgate_control::compile::maglev::{MOST_BACKENDS, Shape, Weighted, build};

fn maglev(c: &mut Criterion) {
    let mut group = c.benchmark_group("maglev");
    let hash = RingHash::new("pollgate");
    for (shape, count) in cases() {
        let size = shape.slots();
        let backends = backends(count);
        group.throughput(Throughput::Elements(u64::from(size)));
        group.bench_function(BenchmarkId::new("build", format!("{size}x{count}")), |b| {
            let ring = build(&hash, &backends, shape);
            let highest = ring.entries().iter().max().copied();
            assert_eq!((ring.entries().len(), highest), (size as usize, Some(count as u16 - 1)), "all are in it");
            b.iter(|| black_box(build(&hash, black_box(&backends), shape)));
        });
    }
    group.finish();
}

/// Shapes with numbers of backends.
fn cases() -> Vec<(Shape, u32)> {
    let auto = [2, 10, 40, 100, 654, 1000, MOST_BACKENDS];
    let auto = auto.into_iter().map(|count| (Shape::for_backends(count).expect("not too many"), count as u32));
    let forced = [(65_537, 10), (65_537, 1_000), (524_287, 5_242)];
    auto.chain(forced.into_iter().map(|(size, count)| (Shape::forced(size), count))).collect()
}

fn backends(count: u32) -> Vec<Weighted> {
    let identity = |at: u32| (IpAddr::V4(Ipv4Addr::from(0x0af0_0001 + at)), 8080);
    (0..count).map(|at| Weighted { identity: identity(at), weight: 1 }).collect()
}

criterion_group!(benches, maglev);
criterion_main!(benches);

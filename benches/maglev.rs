//! Building Maglev tables: every size with the most backends that it is used for, and the one with a time budget,
//! 65 537 × 1 000.

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pollgate_common::hash::RingHash;
use pollgate_control::compile::maglev::{
    LARGE, PLACES_PER_BACKEND, PLACES_PER_BACKEND_IN_LARGE, SIZES, Weighted, build, size_for,
};

fn maglev(c: &mut Criterion) {
    let mut group = c.benchmark_group("maglev");
    let hash = RingHash::new("pollgate");
    for (size, count) in cases() {
        let backends = backends(count);
        group.throughput(Throughput::Elements(u64::from(size)));
        group.bench_function(BenchmarkId::new("build", format!("{size}x{count}")), |b| {
            let ring = build(&hash, &backends, size);
            let highest = ring.entries().iter().max().copied();
            assert_eq!((ring.entries().len(), highest), (size as usize, Some(count as u16 - 1)), "all are in it");
            b.iter(|| black_box(build(&hash, black_box(&backends), size)));
        });
    }
    group.finish();
}

/// Sizes with numbers of backends.
fn cases() -> Vec<(u32, u32)> {
    let most = |size| size / if size < LARGE { PLACES_PER_BACKEND } else { PLACES_PER_BACKEND_IN_LARGE };
    // The smallest size is for a Service without backends.
    let mut cases: Vec<(u32, u32)> =
        SIZES.into_iter().map(|size| (size, most(size))).filter(|case| case.1 > 0).collect();
    assert!(cases.iter().all(|&(size, most)| size_for(most as usize) == Some(size)), "as the compiler would choose");
    cases.push((65_537, 1_000));
    cases
}

fn backends(count: u32) -> Vec<Weighted> {
    let identity = |at: u32| (IpAddr::V4(Ipv4Addr::from(0x0af0_0001 + at)), 8080);
    (0..count).map(|at| Weighted { identity: identity(at), weight: 1 }).collect()
}

criterion_group!(benches, maglev);
criterion_main!(benches);

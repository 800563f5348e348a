//! The whole pipeline in memory: frames in, translated frames out, no I/O.
//!
//! The same run measures the **memory floor**: the same frames made in the same way. The packet's cache line and a random
//! flow's line are accessed with the same prefetching, and nothing else is done. The difference is the pipeline's own cost.
//!
//! One iteration is a burst of 64 frames per worker. The throughput is in packets ("elem").

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

mod support;

use std::hint::black_box;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pollgate_common::time;
use pollgate_dataplane::port::BURST;
use support::frames::{IMIX, OUTSIDE, SHORT};
use support::site::MAC;
use support::{Mix, Scene, Site, Source, prefetch, sizes};

/// Number of flows, if it is not the measured parameter.
const FLOWS: u32 = 10_000;

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(BURST as u64));
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    group
}

/// Packets of random open flows.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, scene: impl Fn() -> Scene) {
    let mut site = None;
    group.bench_function(id, |b| {
        let site = site.get_or_insert_with(|| Site::opened(&scene()));
        b.iter(|| site.poll());
    });
    if let Some(site) = &mut site {
        site.check();
    }
}

/// By the number of flows.
fn established(c: &mut Criterion) {
    let mut group = group(c, "established");
    for flows in sizes(&[1_000, 10_000, 100_000, 1_000_000, 4_000_000], 10_000) {
        let mut ground = None;
        group.bench_function(BenchmarkId::new("floor", flows), |b| {
            let ground = ground.get_or_insert_with(|| Floor::new(flows));
            b.iter(|| black_box(ground.touch()));
        });
        for (name, mix) in [("udp", Mix::Udp), ("tcp", Mix::Tcp)] {
            let source = || Source::new(MAC, mix, flows, 1);
            measure(&mut group, BenchmarkId::new(name, flows), || Scene::new(source()));
            measure(&mut group, BenchmarkId::new(format!("{name}6"), flows), || Scene::new(source().v6()));
        }
    }
    group.finish();
}

/// By kind of packets: mixed protocols and sizes.
fn mixed(c: &mut Criterion) {
    let mut group = group(c, "mixed");
    let both = || Source::new(MAC, Mix::Both, FLOWS, 1);
    measure(&mut group, BenchmarkId::new("tcp+udp", FLOWS), || Scene::new(both()));
    measure(&mut group, BenchmarkId::new("tcp+udp6", FLOWS), || Scene::new(both().v6()));
    measure(&mut group, BenchmarkId::new("imix", FLOWS), || {
        let source = both().sized(IMIX);
        Scene { stride: 2048, ..Scene::new(source) }
    });
    group.finish();
}

/// By the number of Services.
fn services(c: &mut Criterion) {
    let mut group = group(c, "services");
    for services in sizes(&[1, 10, 100, 1_000, 10_000], 100) {
        let source = || Source::new(MAC, Mix::Udp, FLOWS.max(services), services);
        measure(&mut group, BenchmarkId::new("udp", services), || Scene::new(source()));
        measure(&mut group, BenchmarkId::new("udp6", services), || Scene::new(source().v6()));
    }
    group.finish();
}

/// Every packet opens a new flow, in a table with room and in a full one, in which each new flow evicts another.
fn new_flows(c: &mut Criterion) {
    const ROOM: u32 = 1 << 20;
    const SMALL: u32 = 1 << 16;
    // Enough numbers that they do not repeat too soon.
    const NUMBERS: u32 = 1 << 27;
    let mut group = group(c, "new");
    let from_pods = || Source::new(MAC, Mix::Udp, NUMBERS, 1_000);
    let from_outside = || from_pods().from(OUTSIDE);
    let with_room =
        [("room", from_pods()), ("room6", from_pods().v6()), ("snat", from_outside()), ("snat6", from_outside().v6())];
    for (name, source) in with_room {
        let mut site = None;
        group.bench_function(name, |b| {
            let site = site.get_or_insert_with(|| Site::of(source.family, source.clone(), 128, source.services, ROOM));
            b.iter_custom(|bursts| open_with_room(site, bursts, ROOM / BURST as u32));
        });
        if let Some(site) = &site {
            assert_eq!(site.totals().flows_opened, site.totals().rx, "every packet was a new flow");
            assert_eq!(site.totals().flows_evicted, 0, "there was room");
            site.all_sent();
        }
    }
    for (name, source) in [("full", from_pods()), ("full6", from_pods().v6())] {
        let mut site = None;
        group.bench_function(name, |b| {
            let site = site.get_or_insert_with(|| {
                let mut site = Site::of(source.family, source.clone(), 128, source.services, SMALL);
                (0..SMALL / BURST as u32).for_each(|_| site.poll());
                site
            });
            b.iter(|| site.poll());
        });
        if let Some(site) = &mut site {
            site.check();
            let totals = site.totals();
            assert_eq!(totals.flows_opened, totals.rx, "every packet was a new flow");
            assert_eq!(totals.flows_evicted, totals.flows_opened - u64::from(SMALL), "and each evicted one");
        }
    }
    group.finish();
}

/// The time for `bursts` bursts of new flows. When the table has `room` bursts of flows they expire, which is not measured.
fn open_with_room(site: &mut Site, bursts: u64, room: u32) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = bursts;
    while left > 0 {
        let live = site.totals().flows_live / BURST as u64;
        let chunk = left.min(u64::from(room) - live);
        let start = Instant::now();
        for _ in 0..chunk {
            site.poll();
        }
        took += start.elapsed();
        left -= chunk;
        if site.totals().flows_live / BURST as u64 == u64::from(room) {
            expire_all(site);
        }
    }
    took
}

fn expire_all(site: &mut Site) {
    site.remote.silent(true);
    while site.totals().flows_live > 0 {
        site.now = time::Instant(site.now.0 + 3_600_000_000_000);
        (0..10_000).for_each(|_| site.poll());
    }
    site.remote.silent(false);
}

/// Parallel workers, each with its own table. They share only the machine's resources.
fn workers(c: &mut Criterion) {
    let mut group = c.benchmark_group("workers");
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for workers in [1usize, 2] {
        let mut crew = None;
        group.throughput(Throughput::Elements((workers * BURST) as u64));
        group.bench_function(BenchmarkId::new("udp", workers), |b| {
            let crew = crew.get_or_insert_with(|| Crew::new(workers));
            b.iter_custom(|bursts| crew.run(bursts));
        });
    }
    group.finish();
}

/// Threads with one gateway each. They receive a number of bursts, run them and report the time.
struct Crew {
    orders: Vec<mpsc::Sender<u64>>,
    done: mpsc::Receiver<Duration>,
}

impl Crew {
    fn new(workers: usize) -> Crew {
        let (report, done) = mpsc::channel();
        let barrier = Arc::new(Barrier::new(workers));
        let hire = |_| {
            let (order, orders) = mpsc::channel();
            let (report, barrier) = (report.clone(), Arc::clone(&barrier));
            thread::spawn(move || work(&orders, &report, &barrier));
            order
        };
        Crew { orders: (0..workers).map(hire).collect(), done }
    }

    /// The time until the last thread has run its bursts.
    fn run(&self, bursts: u64) -> Duration {
        self.orders.iter().for_each(|order| order.send(bursts).expect("a running worker"));
        self.orders.iter().map(|_| self.done.recv().expect("a running worker")).max().unwrap_or_default()
    }
}

/// Runs bursts as ordered, until the sender of orders is dropped.
fn work(orders: &mpsc::Receiver<u64>, report: &mpsc::Sender<Duration>, barrier: &Barrier) {
    let mut site = Site::opened(&Scene::new(Source::new(MAC, Mix::Udp, FLOWS, 1)));
    for bursts in orders {
        barrier.wait();
        let start = Instant::now();
        for _ in 0..bursts {
            site.poll();
        }
        let took = start.elapsed();
        site.all_sent();
        report.send(took).expect("a receiver");
    }
}

/// Makes the frames, accesses their cache lines and a random line of as many entries as the flows have, and does nothing
/// else.
struct Floor {
    source: Source,
    table: Vec<[u8; SHORT]>,
    buffers: Vec<[u8; 128]>,
    chosen: [u32; BURST],
}

impl Floor {
    fn new(flows: u32) -> Floor {
        let source = Source::new(MAC, Mix::Udp, flows * 2, 1).at_random();
        let table = vec![[1; SHORT]; flows as usize * 2];
        Floor { source, table, buffers: vec![[0; 128]; BURST], chosen: [0; BURST] }
    }

    fn touch(&mut self) -> u32 {
        for (buffer, chosen) in self.buffers.iter_mut().zip(&mut self.chosen) {
            *chosen = self.source.choose();
            self.source.write(*chosen, buffer);
            prefetch(&self.table[*chosen as usize]);
        }
        let touch = |(buffer, &at): (&[u8; 128], &u32)| u32::from(buffer[30]) + u32::from(self.table[at as usize][0]);
        self.buffers.iter().zip(&self.chosen).map(touch).sum()
    }
}

criterion_group!(benches, established, mixed, services, new_flows, workers);
criterion_main!(benches);

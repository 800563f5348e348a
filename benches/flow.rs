//! One worker's flow table: the passes over a burst as in the pipeline, and flows that open and close.
//!
//! The same run measures:
//! * the **memory floor**: one bucket line and one entry line of tables of the same size, prefetched and accessed;
//! * **hashbrown** with ahash, with the same keys and values of 64 bytes: the usual choice for such a table.
//!
//! Each of ours is measured with IPv4 keys and, as `hit6` and so on, with IPv6 keys: their entries are 128 bytes instead of 64.
//!
//! One iteration is a burst of 64 look-ups.

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

mod support;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pollgate_common::flow::{Address, FlowKey, V4, V6};
use pollgate_common::tables::ServiceId;
use pollgate_common::time::Ticks;
use pollgate_dataplane::flow::sequence::Numbers;
use pollgate_dataplane::flow::table::{Candidate, FlowHash, FlowOrigin};
use pollgate_dataplane::flow::{FlowTable, Limits, Timeouts};
use support::cluster::PREFIX;
use support::{Random, prefetch, sizes, without_allocation};

const BURST: usize = pollgate_dataplane::port::BURST;
const SIZES: &[u32] = &[1_000, 10_000, 100_000, 1_000_000, 4_000_000];

fn flow_table(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow");
    group.throughput(Throughput::Elements(BURST as u64));
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for flows in sizes(SIZES, 10_000) {
        let mut floor = None;
        group.bench_function(BenchmarkId::new("floor", flows), |b| {
            let floor = floor.get_or_insert_with(|| Floor::new(flows));
            b.iter(|| black_box(floor.touch()));
        });
        drop(floor);
        lookups::<V4>(&mut group, ["hit", "miss"], flows);
        lookups::<V6>(&mut group, ["hit6", "miss6"], flows);
        let mut rival = None;
        group.bench_function(BenchmarkId::new("hashbrown", flows), |b| {
            let rival = rival.get_or_insert_with(|| Rival::new(flows));
            assert_eq!(rival.burst(), BURST, "all are there");
            b.iter(|| black_box(rival.burst()));
        });
        drop(rival);
        turnover::<V4>(&mut group, "turnover", flows);
        turnover::<V6>(&mut group, "turnover6", flows);
    }
    group.finish();
}

/// Look-ups of flows that exist, and of others.
fn lookups<A: Numbered>(group: &mut BenchmarkGroup<'_, WallTime>, names: [&str; 2], flows: u32) {
    // One table for both, made when the first of them is measured.
    let table = RefCell::new(None);
    for (name, first, expected) in [(names[0], 0, BURST), (names[1], flows, 0)] {
        group.bench_function(BenchmarkId::new(name, flows), |b| {
            let mut table = table.borrow_mut();
            let table = table.get_or_insert_with(|| Lookups::<A>::new(flows));
            without_allocation(name, || assert_eq!(table.burst(first), expected, "{name}"));
            b.iter(|| black_box(table.burst(first)));
        });
    }
}

/// Flows that close, and others that open in their place.
fn turnover<A: Numbered>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, flows: u32) {
    let mut turnover = None;
    group.bench_function(BenchmarkId::new(name, flows), |b| {
        let turnover = turnover.get_or_insert_with(|| Turnover::<A>::new(flows));
        b.iter(|| turnover.burst());
        assert_eq!(turnover.table.live(), u64::from(flows), "as many as before");
    });
    if let Some(turnover) = &mut turnover {
        without_allocation(name, || (0..1_000).for_each(|_| turnover.burst()));
    }
}

/// Addresses by number.
trait Numbered: Address {
    fn numbered(number: u32) -> Self;
}

impl Numbered for V4 {
    #[inline]
    fn numbered(number: u32) -> V4 {
        V4(Ipv4Addr::from_bits(number))
    }
}

impl Numbered for V6 {
    #[inline]
    fn numbered(number: u32) -> V6 {
        V6(Ipv6Addr::from_bits(PREFIX | u128::from(number)))
    }
}

/// The key of a client's packet to a Service, and of the translated packet to the backend.
#[inline]
fn keys<A: Numbered>(flow: u32) -> (FlowKey<A>, FlowKey<A>) {
    let client = A::numbered(0x0af8_0000 + (flow >> 15));
    let (service, backend) = (A::numbered(0x0a60_0032), A::numbered(0x0af0_0001));
    let src_port = (flow & 0x7fff) as u16 + 1024;
    let forward = FlowKey { src: client, dst: service, src_port, dst_port: 80, protocol: 17 };
    (forward, FlowKey { dst: backend, dst_port: 8080, ..forward })
}

const ORIGIN: FlowOrigin =
    FlowOrigin { service: ServiceId { index: 0, incarnation: 0 }, backend: 0, backend_incarnation: 0, generation: 1 };

/// An empty table for as many connections.
fn table<A: Numbered>(flows: u32) -> FlowTable<A> {
    let day = Duration::from_secs(86_400);
    let timeouts = Timeouts { tcp_established: day, tcp_opening: day, tcp_closing: day, udp: day, udp_stream: day };
    let limits =
        Limits { connections: flows as usize, unconfirmed: flows as usize, new_per_second: u32::MAX, timeouts };
    FlowTable::new(&limits, [1, 2, 3, 4]).expect("memory for the table")
}

fn open<A: Numbered>(table: &mut FlowTable<A>, flow: u32) -> u32 {
    let (forward, to) = keys(flow);
    table.open(forward, to, ORIGIN, Numbers::default(), Ticks(0)).expect("room for the flow")
}

/// A full table and the passes of a burst over it.
struct Lookups<A: Address> {
    table: FlowTable<A>,
    flows: u32,
    random: Random,
    keys: [(FlowKey<A>, FlowHash, Candidate); BURST],
}

impl<A: Numbered> Lookups<A> {
    fn new(flows: u32) -> Lookups<A> {
        let mut table = table(flows);
        for flow in 0..flows {
            open(&mut table, flow);
        }
        assert_eq!(table.live(), u64::from(flows));
        Lookups { table, flows, random: Random::new(), keys: [Default::default(); BURST] }
    }

    /// Looks up the flows with numbers from `first` up. Returns how many exist.
    fn burst(&mut self, first: u32) -> usize {
        let Lookups { table, flows, random, keys: burst } = self;
        for (key, ..) in burst.iter_mut() {
            *key = keys(first + random.below(*flows)).0;
        }
        table.hash_all(burst.iter_mut().map(|(key, hash, _)| (&*key, hash)));
        for (_, hash, candidate) in burst.iter_mut() {
            *candidate = table.probe(*hash);
        }
        burst.iter().filter(|(key, hash, candidate)| table.confirm(*candidate, *hash, key).is_some()).count()
    }
}

/// As many lines as the table has: 2 entries per flow, buckets of eight that are 65 % full.
struct Floor {
    buckets: Vec<[u32; 16]>,
    entries: Vec<[u32; 16]>,
    random: Random,
    chosen: [(u32, u32); BURST],
}

impl Floor {
    fn new(flows: u32) -> Floor {
        let entries = flows as usize * 2;
        let lines = |count: usize| vec![[1u32; 16]; count];
        let buckets = (entries / 8 * 20).div_ceil(13) + 2;
        Floor { buckets: lines(buckets), entries: lines(entries), random: Random::new(), chosen: [(0, 0); BURST] }
    }

    fn touch(&mut self) -> u32 {
        let Floor { buckets, entries, random, chosen } = self;
        for slot in chosen.iter_mut() {
            *slot = (random.below(buckets.len() as u32), random.below(entries.len() as u32));
            prefetch(&buckets[slot.0 as usize]);
        }
        let mut sum = 0;
        for (bucket, entry) in chosen.iter() {
            sum += buckets[*bucket as usize][0];
            prefetch(&entries[*entry as usize]);
        }
        sum + chosen.iter().map(|(_, entry)| entries[*entry as usize][0]).sum::<u32>()
    }
}

/// hashbrown over the same keys, both directions of each flow.
struct Rival {
    table: hashbrown::HashMap<FlowKey<V4>, [u64; 8], ahash::RandomState>,
    flows: u32,
    random: Random,
}

impl Rival {
    fn new(flows: u32) -> Rival {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut table = hashbrown::HashMap::with_capacity_and_hasher(flows as usize * 2, hasher);
        for flow in 0..flows {
            let (forward, to) = keys(flow);
            table.insert(forward, [u64::from(flow); 8]);
            table.insert(to.reversed(), [u64::from(flow); 8]);
        }
        Rival { table, flows, random: Random::new() }
    }

    fn burst(&mut self) -> usize {
        let Rival { table, flows, random } = self;
        (0..BURST)
            .filter(|_| table.get(&keys::<V4>(random.below(*flows)).0).is_some_and(|value| value[7] != u64::MAX))
            .count()
    }
}

/// A full table, in which new flows evict the oldest.
struct Turnover<A: Address> {
    table: FlowTable<A>,
    indexes: VecDeque<u32>,
    next: u32,
}

impl<A: Numbered> Turnover<A> {
    fn new(flows: u32) -> Turnover<A> {
        // Room for the flows of one more burst.
        let mut table = table(flows + BURST as u32);
        let indexes = (0..flows).map(|flow| open(&mut table, flow)).collect();
        Turnover { table, indexes, next: flows }
    }

    fn burst(&mut self) {
        for _ in 0..BURST {
            let oldest = self.indexes.pop_front().expect("a flow");
            self.table.close(oldest);
            self.indexes.push_back(open(&mut self.table, self.next));
            // There are clients for this many numbers.
            self.next = (self.next + 1) & 0x7ff_ffff;
        }
    }
}

criterion_group!(benches, flow_table);
criterion_main!(benches);

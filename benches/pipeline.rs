//! The whole pipeline in memory: frames in, translated frames out, no I/O.
//!
//! Beside it, in the same run, the **memory floor**: the same frames made in the same way, the packet's line and a random
//! flow's line touched with the same prefetching, and nothing done. What the pipeline costs above that is its own.
//!
//! One iteration is a burst of 64 frames; the times reported are per frame ("elem").

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

mod support;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pollgate::config::{Config, Purpose};
use pollgate::replay::Offline;
use pollgate_common::net::PortId;
use pollgate_common::time::Instant;
use pollgate_control::manifest;
use pollgate_dataplane::port::{BURST, Port};
use support::{Counting, Endless, FRAME, Order, Source};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 50), 8080);
const UDP: u8 = 17;
const TCP: u8 = 6;

const CONFIG: &str = "
interfaces:
  - name: eth0
    mac: 02:00:00:00:00:01
    ip: 192.168.0.1/24
    neighbours: { 192.168.0.254: '02:00:00:00:00:fe' }
    routes: [ { to: 0.0.0.0/0, via: 192.168.0.254 } ]
addresses: 192.168.50.10
flows: { max: 2097152 }
";

fn manifests() -> String {
    let ports = "ports: [{ name: u, port: 8080, protocol: UDP }, { name: t, port: 8080 }]";
    let endpoint = |n: u32| format!("{{ addresses: [10.244.{}.10], conditions: {{ ready: true }} }}", n);
    let endpoints: Vec<String> = (1..=10).map(endpoint).collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: backend }}
spec: {{ clusterIP: 10.96.0.50, {ports} }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: backend-1, labels: {{ kubernetes.io/service-name: backend }} }}
addressType: IPv4
{ports}
endpoints: [{}]
",
        endpoints.join(", ")
    )
}

/// A gateway whose flow table holds every flow of `source`, each opened by its first packet.
fn gateway(mut source: Source, flows: u32) -> Offline {
    let config = Config::parse("bench", CONFIG, Purpose::Replay).expect("a valid configuration");
    source.set_tcp_flags(0x02);
    let open = Endless::new(PortId(0), source.clone());
    let ports: Vec<Box<dyn Port>> =
        vec![Box::new(Switch { now: open, then: None, left: flows.div_ceil(BURST as u32) })];
    let mut offline = Offline::empty(&config, ports).expect("memory for the flow table");
    offline.load(&manifest::parse("bench", &manifests()).expect("valid manifests")).expect("valid objects");
    offline
}

/// First opens every flow in turn, then sends at random.
struct Switch {
    now: Endless,
    then: Option<()>,
    left: u32,
}

impl Port for Switch {
    fn rx(&mut self, now: Instant, room: usize, into: &mut Vec<pollgate_dataplane::port::Frame>) {
        self.now.rx(now, room, into);
        self.left = self.left.saturating_sub(1);
        if self.left == 0 && self.then.is_none() {
            self.then = Some(());
            self.now.source.order = Order::Random;
            self.now.source.set_tcp_flags(0x10);
        }
    }

    fn tx(
        &mut self,
        now: Instant,
        batch: &mut Vec<pollgate_dataplane::port::Frame>,
        back: &mut Vec<pollgate_dataplane::port::Returned>,
    ) -> pollgate_dataplane::port::Sent {
        self.now.tx(now, batch, back)
    }

    fn release(&mut self, frame: pollgate_dataplane::port::Frame) {
        self.now.release(frame);
    }

    fn wait_on(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

fn established(c: &mut Criterion) {
    let mut group = c.benchmark_group("established");
    group.throughput(Throughput::Elements(BURST as u64));
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for flows in [10_000u32, 1_000_000] {
        group.bench_with_input(BenchmarkId::new("floor", flows), &flows, |b, &flows| floor(b, flows));
        for (name, protocol) in [("udp", UDP), ("tcp", TCP)] {
            let mut offline = gateway(Source::new(protocol, MAC, VIP, flows), flows);
            for _ in 0..=flows.div_ceil(BURST as u32) {
                offline.poll_once(Instant(0));
            }
            check(&offline, flows);
            group.bench_with_input(BenchmarkId::new(name, flows), &flows, |b, _| {
                b.iter(|| offline.poll_once(Instant(0)))
            });
            no_allocation(&mut offline);
        }
    }
    group.finish();
}

/// What is measured is what is meant: every flow open, every frame sent.
fn check(offline: &Offline, flows: u32) {
    let totals = offline.counters().totals();
    assert_eq!(
        (totals.flows_live, totals.rx),
        (u64::from(flows), totals.tx),
        "{:?}",
        offline.counters_json().to_string()
    );
}

fn no_allocation(offline: &mut Offline) {
    let before = support::allocations();
    for _ in 0..10_000 {
        offline.poll_once(Instant(0));
    }
    assert_eq!(support::allocations() - before, 0, "allocations in 640 000 packets");
}

/// Makes the frames, touches their lines and one random line of as many entries as the flows have, and does nothing.
fn floor(b: &mut criterion::Bencher<'_>, flows: u32) {
    let mut source = Source::new(UDP, MAC, VIP, flows * 2);
    source.order = Order::Random;
    let table = vec![[1u8; 64]; flows as usize * 2];
    let mut buffers = vec![[0u8; 128]; BURST];
    let mut chosen = [0u32; BURST];
    b.iter(|| {
        for (buffer, chosen) in buffers.iter_mut().zip(&mut chosen) {
            *chosen = source.choose();
            let (frame, _) = buffer.split_first_chunk_mut::<FRAME>().expect("longer than a frame");
            source.write(*chosen, frame);
            prefetch(&table[*chosen as usize]);
        }
        let touched =
            buffers.iter().zip(&chosen).map(|(buffer, &at)| u32::from(buffer[30]) + u32::from(table[at as usize][0]));
        black_box(touched.sum::<u32>())
    });
}

#[inline]
fn prefetch(line: &[u8; 64]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch does not fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

criterion_group!(benches, established);
criterion_main!(benches);

//! A worker: one pinned thread's loop.
//!
//! ```text
//!   pin the tables ─ poll: returns ─ per port: rx → pipeline → dispatch ─ inbox likewise
//!               ─ waiting frames ─ flush ─ sweep ─ unpin
//! ```
//!
//! Work in one poll is bounded: [`BURST`] frames a port, as many from the inbox, a fixed number of entries swept. Nothing
//! allocates, locks, logs or reads a clock per packet; time comes from the caller.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pollgate_common::counters::{Counters, WorkerCounters};
use pollgate_common::epoch::Source;
use pollgate_common::flow::{Address, V4};
use pollgate_common::net::PortId;
use pollgate_common::reasons::DropReason;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::Tables;
use pollgate_common::time::Instant;

pub use crate::egress::dispatch::AskNeighbour;
use crate::egress::dispatch::Egress;
use crate::egress::nexthop::NextHops;
use crate::egress::pending::{self, Pending};
use crate::egress::pool::BufferPool;
use crate::flow::table::{SWEEP, SWEEP_IDLE};
use crate::flow::{FlowTable, Limits};
use crate::idle::Idle;
use crate::packet::{Packet, Verdict};
use crate::port::{BURST, Frame, Port};
use crate::steer::{Mesh, QUEUE, Steering};
use crate::{pipeline, snat};

/// Buffers a worker has for frames that outlive their burst.
pub const RESERVE: usize = pending::CAPACITY + QUEUE;

/// Polls after the stop flag was seen, so that what is in the rings still goes out.
const DRAIN: usize = 64;

/// What a worker remembers between bursts and packets change.
pub(crate) struct State<A: Address = V4> {
    pub(crate) worker: u16,
    pub(crate) flows: FlowTable<A>,
    pub(crate) hops: NextHops,
    pub(crate) steering: Steering,
    pub(crate) ports: snat::Ports,
    pub(crate) random: Random,
    pub(crate) counters: Arc<Counters>,
}

/// What a worker is made of. All of it may be sent to its thread.
pub struct Parts {
    /// Its number, from 0.
    pub worker: u16,
    /// Its ports, in the order of the configuration: `ports[n]` is `PortId(n)`.
    pub ports: Vec<Box<dyn Port>>,
    /// Where frames for other workers go.
    pub mesh: Arc<Mesh>,
    /// Which worker owns what.
    pub steering: Steering,
    /// Its flow table's size and time-outs.
    pub limits: Limits,
    /// The process' settings.
    pub settings: Arc<DataplaneSettings>,
    /// Where it counts.
    pub counters: Arc<Counters>,
    /// How it asks for a neighbour.
    pub ask: AskNeighbour,
    /// Seeds of its flow hash and of the choice of source ports: random, or fixed for a replay.
    pub seeds: [u64; 4],
}

/// See the module's text.
pub struct Worker {
    state: State,
    egress: Egress,
    frames: Vec<Frame>,
    packets: Box<[Packet; BURST]>,
}

impl Worker {
    /// Puts the parts together; fails if the memory for flows or buffers cannot be had.
    pub fn new(parts: Parts) -> io::Result<Worker> {
        let [a, b, c, d] = parts.seeds;
        let workers = parts.steering.workers();
        let ports = parts.ports.len();
        let state = State {
            worker: parts.worker,
            flows: FlowTable::new(&parts.limits, parts.seeds)?,
            hops: NextHops::new(),
            ports: snat::Ports::new(&parts.settings.snat_ports, parts.worker, workers),
            random: Random::new(ahash::RandomState::with_seeds(d, c, b, a)),
            steering: parts.steering,
            counters: parts.counters,
        };
        let egress = Egress {
            worker: parts.worker,
            ports: parts.ports,
            pool: BufferPool::new(u32::try_from(RESERVE).unwrap_or(u32::MAX))?,
            pending: Pending::new(),
            mesh: parts.mesh,
            ask: parts.ask,
            out: (0..ports).map(|_| Vec::with_capacity((ports + 2) * BURST + pending::CAPACITY)).collect(),
            back: Vec::with_capacity((ports + 2) * BURST + pending::CAPACITY),
        };
        Ok(Worker { state, egress, frames: Vec::with_capacity(BURST), packets: Box::new([Packet::new(); BURST]) })
    }

    /// One round under one generation of the tables; answers how many frames it took in.
    pub fn poll(&mut self, tables: &Tables, now: Instant) -> usize {
        let Worker { state, egress, frames, packets } = self;
        let counters = Arc::clone(&state.counters);
        let counters = counters.worker(usize::from(state.worker));
        let moved = state.hops.follow(tables.net());
        egress.take_returns();
        let mut taken = 0;
        for port in 0..egress.ports.len() {
            egress.ports[port].rx(now, BURST, frames);
            counters.rx.add(frames.len() as u64);
            counters.rx_bytes.add(frames.iter().map(|frame| frame.len() as u64).sum());
            counters.missed.add(egress.ports[port].missed());
            taken += frames.len();
            round(state, egress, frames, packets, tables, counters, now);
        }
        frames.extend(std::iter::from_fn(|| egress.mesh.receive(state.worker)).take(BURST));
        counters.handed_in.add(frames.len() as u64);
        taken += frames.len();
        round(state, egress, frames, packets, tables, counters, now);
        egress.review(tables.net(), moved, now, counters);
        egress.flush(now, counters);
        state.flows.sweep(now.ticks(), if taken > 0 { SWEEP } else { SWEEP_IDLE });
        state.flows.report(counters);
        counters.generation.set(tables.generation());
        taken
    }

    /// Polls until `stop` is set, then drains what is in the rings. The tables are pinned and `clock` is read once a poll.
    pub fn run(mut self, tables: &Source, stop: &AtomicBool, mut idle: Idle, clock: impl Fn() -> Instant) {
        let reader = tables.reader();
        while !stop.load(Relaxed) {
            let taken = self.poll(reader.pin().load(), clock());
            let slept = idle.after(taken, &self.egress.mesh, self.state.worker, || {
                self.egress.ports.iter().filter_map(|port| port.wait_on()).collect()
            });
            self.counters().sleeps.add(u64::from(slept));
        }
        for _ in 0..DRAIN {
            if self.poll(reader.pin().load(), clock()) == 0 && !self.egress.is_sending() {
                break;
            }
        }
    }

    fn counters(&self) -> &WorkerCounters {
        self.state.counters.worker(usize::from(self.state.worker))
    }
}

/// Takes one burst, of [`BURST`] frames at most, from parse to dispatch; leaves `frames` empty.
#[inline]
fn round(
    state: &mut State,
    egress: &mut Egress,
    frames: &mut Vec<Frame>,
    packets: &mut [Packet; BURST],
    tables: &Tables,
    counters: &WorkerCounters,
    now: Instant,
) {
    if frames.is_empty() {
        return;
    }
    counters.bursts.add(1);
    let packets = &mut packets[..frames.len()];
    pipeline::run(state, frames, packets, tables, now);
    if let Some(port) = common_way(packets)
        && egress.queue_all(frames, port)
    {
        return;
    }
    for (frame, packet) in frames.drain(..).zip(packets) {
        let verdict = packet.verdict.unwrap_or(Verdict::Drop(DropReason::Protocol));
        egress.dispatch(frame, verdict, tables.net(), counters, now);
    }
}

/// The port that all packets leave by, if it is one.
#[inline]
fn common_way(packets: &[Packet]) -> Option<PortId> {
    let first = packets.first()?.verdict;
    let Some(Verdict::Send(port)) = first else { return None };
    packets.iter().all(|packet| packet.verdict == first).then_some(port)
}

impl<A: Address> State<A> {
    /// Counts a flow opened for the service at `index`.
    pub(crate) fn opened(&self, index: u32) {
        let worker = usize::from(self.worker);
        self.counters.worker(worker).flows_opened.add(1);
        if let Some(service) = self.counters.service(worker, index) {
            service.flows.add(1);
        }
    }
}

/// Random numbers for source ports: a keyed hash over a counter, so that who sees some cannot guess the next.
pub(crate) struct Random {
    hasher: ahash::RandomState,
    count: u64,
}

impl Random {
    fn new(hasher: ahash::RandomState) -> Random {
        Random { hasher, count: 0 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.count += 1;
        self.hasher.hash_one(self.count)
    }
}

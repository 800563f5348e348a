//! A worker: one pinned thread's loop.
//!
//! ```text
//!   pin the tables ─ poll: returns ─ ports to replace ─ per port: rx → pipeline → dispatch ─ inbox likewise
//!               ─ pending frames ─ flush ─ copy flows ─ sweep ─ unpin
//! ```
//!
//! Work in one poll is bounded: [`BURST`] frames per port, as many from the inbox, a fixed number of entries swept. Nothing
//! allocates, locks, logs or reads a clock per packet; time comes from the caller.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pollgate_common::clients::Clients;
use pollgate_common::conflicts::Conflicts;
use pollgate_common::counters::Counters;
use pollgate_common::dns::forward::{REPLIES, Requests};
use pollgate_common::epoch::Source;
use pollgate_common::inspect::Mailbox;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::Tables;
use pollgate_common::time::Instant;
use pollgate_common::trace::{PacketTrace, TracedPacket};

use crate::affinity::{Affinity, AffinityTotals};
use crate::burst::Burst;
pub use crate::egress::dispatch::AskNeighbour;
use crate::egress::dispatch::Egress;
use crate::egress::exchange::{Change, Exchange, Request};
use crate::egress::mesh::{Mesh, QUEUE};
use crate::egress::pending::{self, Pending};
use crate::egress::pool::BufferPool;
use crate::egress::slots::Slots;
use crate::flow::Limits;
use crate::flow::table::{SWEEP, SWEEP_IDLE};
use crate::fragment::held::{self, Held};
use crate::fragment::identification::Identifications;
use crate::idle::Idle;
use crate::inspect::Inspector;
use crate::overload::{Load, Shedding};
use crate::port::{BURST, Frame, Port};
use crate::rate::Rate;
use crate::reply::{dns, reject};
use crate::state::{Lane, Random, Shared, State};
use crate::steer::Steering;
use crate::{pipeline, snat, trace};

/// Buffers a worker has for frames that outlive their burst.
pub const RESERVE: usize = pending::CAPACITY + QUEUE + held::SLOTS + REPLIES;

/// Polls after the stop flag was seen, so that what is in the rings still goes out.
const DRAIN: usize = 64;

/// Most bursts of fragments whose wait is over, per poll: as many as can wait, once more for each, and one to find that there are no
/// more. A safety net: no frame goes through twice.
const END_PASSES: usize = 2 * held::SLOTS.div_ceil(BURST) + 1;

/// Most bursts that are taken from a port before it is closed. One on a living interface receives on meanwhile.
const LAST_ROUNDS: usize = 64;

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
    /// The size of its flow tables, and time-outs.
    pub limits: Limits,
    /// The process' settings.
    pub settings: Arc<DataplaneSettings>,
    /// Where it counts.
    pub counters: Arc<Counters>,
    /// Which endpoints clients keep: one table for all workers.
    pub affinity: Arc<Affinity>,
    /// Where it reports other hosts that use an owned address.
    pub conflicts: Arc<Conflicts>,
    /// Where requests for copies of its flows are left.
    pub mailbox: Arc<Mailbox>,
    /// Where other ports are left, and those that they replace.
    pub exchange: Arc<Exchange>,
    /// DNS responses that one client prefix gets per second; 0: no limit.
    pub dns_rate: u32,
    /// Where it gives DNS queries that take a resolver; `None` if there is none.
    pub resolver: Option<Arc<Requests>>,
    /// Where it notes the clients of DNS over TCP.
    pub dns_clients: Arc<Clients>,
    /// How it asks for a neighbour.
    pub ask: AskNeighbour,
    /// Seeds of its flow hash and of the choice of source ports: random, or fixed for a replay.
    pub seeds: [u64; 4],
}

/// One worker: its state, its frames, and what moves them.
pub struct Worker {
    state: State,
    egress: Egress,
    frames: Vec<Frame>,
    burst: Burst,
    inspector: Inspector,
    /// By port.
    loads: Vec<Load>,
    /// The same of what other workers hand over.
    handed_over: Load,
}

impl Worker {
    /// Puts the parts together. Fails if the memory for flows or buffers cannot be mapped.
    pub fn new(parts: Parts) -> io::Result<Worker> {
        let [a, b, c, d] = parts.seeds;
        let ports = parts.ports.len();
        let shared = Shared {
            worker: parts.worker,
            ports: snat::Ports::new(&parts.settings.snat_ports, parts.worker, parts.steering.workers()),
            random: Random::new(ahash::RandomState::with_seeds(d, c, b, a)),
            new_flows: Rate::new(parts.limits.new_per_second),
            shedding: Shedding::default(),
            refusals: reject::Rates::new(ahash::RandomState::with_seeds(b, a, d, c)),
            held: Held::new(),
            identifications: Identifications::new(
                ahash::RandomState::with_seeds(c, a, d, b),
                parts.worker,
                parts.steering.workers(),
            ),
            dns: dns::Server::new(
                parts.worker,
                parts.dns_rate,
                parts.resolver,
                ahash::RandomState::with_seeds(c, d, b, a),
            ),
            dns_clients: parts.dns_clients,
            steering: parts.steering,
            affinity: parts.affinity,
            affinity_totals: AffinityTotals::default(),
            conflicts: parts.conflicts,
            conflicting_frames: 0,
        };
        // Each family's table is as large as the limits allow; the limits hold for both together (`flow::room`).
        let (v4, v6) = (Lane::new(&parts.limits, parts.seeds)?, Lane::new(&parts.limits, parts.seeds)?);
        let egress = Egress {
            worker: parts.worker,
            ports: parts.ports,
            pool: BufferPool::new(u32::try_from(RESERVE).unwrap_or(u32::MAX))?,
            pending: Pending::new(),
            held: Slots::new(),
            mesh: parts.mesh,
            ask: parts.ask,
            counters: parts.counters,
            exchange: parts.exchange,
            closing: 0,
            out: (0..ports).map(|_| Vec::with_capacity((ports + 2) * BURST + pending::CAPACITY)).collect(),
            back: Vec::with_capacity((ports + 2) * BURST + pending::CAPACITY),
        };
        let state = State { shared, v4, v6 };
        Ok(Worker {
            state,
            egress,
            frames: Vec::with_capacity(BURST),
            burst: Burst::new(),
            inspector: Inspector::new(parts.mailbox),
            loads: vec![Load::default(); ports],
            handed_over: Load::default(),
        })
    }

    /// One round under one generation of the tables. Returns how many frames it took in or made.
    pub fn poll(&mut self, tables: &Tables, now: Instant) -> usize {
        let moved = self.state.follow(tables.net());
        self.egress.take_returns();
        let mut taken = 0;
        if self.egress.exchange.is_called() {
            taken += self.exchange_ports(tables, now);
        }
        let mut most = 0;
        for port in 0..self.egress.ports.len() {
            let waiting = self.egress.receive(port, &mut self.frames, now);
            let share = self.loads[port].after(waiting, now);
            self.state.shared.shedding.begin(share, self.frames.len());
            most = most.max(share);
            taken += self.round(tables, now);
        }
        let waiting = self.egress.receive_handed_over(&mut self.frames);
        // Overload of this worker is not that of the one which received them.
        let share = self.handed_over.after(waiting, now).max(most);
        self.state.shared.shedding.begin(share, self.frames.len());
        taken += self.round(tables, now);
        taken += self.egress.send_replies();
        if !self.state.shared.held.is_idle() {
            self.state.shared.held.expire(now);
            self.end_waits(tables, now);
        }
        self.egress.review(tables.net(), moved, now);
        self.egress.flush(now);
        let State { v4, v6, .. } = &self.state;
        self.inspector
            .poll((&v4.flows, &v6.flows), now.ticks(), |packet| trace::packet(&self.state, packet, tables, now));
        self.state.sweep(now.ticks(), if taken > 0 { SWEEP } else { SWEEP_IDLE });
        self.egress.report(self.state.flow_totals(), &self.state.shared, tables.generation());
        taken
    }

    /// What would become of a packet. Changes nothing.
    pub fn trace(&self, packet: &TracedPacket, tables: &Tables, now: Instant) -> PacketTrace {
        trace::packet(&self.state, packet, tables, now)
    }

    /// Takes one burst, of [`BURST`] frames at most, from parse to dispatch. Returns how many frames it had.
    #[inline]
    fn round(&mut self, tables: &Tables, now: Instant) -> usize {
        let Worker { state, egress, frames, burst, .. } = self;
        let count = frames.len();
        if count > 0 {
            pipeline::run(state, frames, burst, tables, now);
            egress.dispatch(frames, burst.outcomes(count), tables.net(), now);
            if self.state.shared.held.has_ended() {
                self.end_waits(tables, now);
            }
        }
        count
    }

    /// Carries out what becomes of fragments that need not wait any more. Those whose first fragment has come go through the pipeline.
    #[cold]
    fn end_waits(&mut self, tables: &Tables, now: Instant) {
        let Worker { state, egress, frames, burst, .. } = self;
        for _ in 0..END_PASSES {
            while frames.len() < BURST
                && let Some((slot, end)) = state.shared.held.next_ended()
            {
                frames.extend(egress.end_wait(slot, end, tables.net()));
            }
            if frames.is_empty() {
                break;
            }
            let count = frames.len();
            state.shared.held.is_replaying = true;
            pipeline::run(state, frames, burst, tables, now);
            state.shared.held.is_replaying = false;
            egress.carry_out(frames, burst.outcomes(count), tables.net(), now);
        }
        egress.count_held();
    }

    /// Does what the thread that opens ports asks for. Returns how many frames it took in.
    #[cold]
    fn exchange_ports(&mut self, tables: &Tables, now: Instant) -> usize {
        let mut taken = 0;
        while let Some(Request { port, change }) = self.egress.exchange.next() {
            match change {
                Change::Close(placeholder) => {
                    taken += self.finish(usize::from(port.0), tables, now);
                    self.egress.close(usize::from(port.0), placeholder);
                }
                Change::Open(another) => self.egress.open(port, another),
            }
        }
        // A port that is not idle yet is checked again in the next poll.
        if self.egress.return_closed() {
            self.egress.exchange.settle();
        }
        taken
    }

    /// Processes what a port has received, before it is closed: as much as its ring can hold.
    fn finish(&mut self, port: usize, tables: &Tables, now: Instant) -> usize {
        let mut taken = 0;
        for _ in 0..LAST_ROUNDS {
            self.egress.receive(port, &mut self.frames, now);
            let count = self.round(tables, now);
            self.egress.flush(now);
            taken += count;
            if count == 0 {
                break;
            }
        }
        taken
    }

    /// Polls until `stop` is set, then drains what is in the rings. The tables are pinned and `clock` is read once per poll.
    pub fn run(mut self, tables: &Source, stop: &AtomicBool, mut idle: Idle, clock: impl Fn() -> Instant) {
        let reader = tables.reader();
        while !stop.load(Relaxed) {
            let taken = self.poll(reader.pin().load(), clock());
            let busy = taken + usize::from(self.inspector.is_busy());
            let slept = idle.after(busy, &self.egress.mesh, self.state.shared.worker, || {
                self.egress.ports.iter().filter_map(|port| port.wait_on()).collect()
            });
            if slept {
                self.egress.slept();
            }
        }
        for _ in 0..DRAIN {
            if self.poll(reader.pin().load(), clock()) == 0 && !self.egress.is_sending() {
                break;
            }
        }
    }
}

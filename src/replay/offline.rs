//! A gateway without threads, devices and clocks: one worker over any ports, and the control code behind it.

use std::path::Path;
use std::sync::Arc;

use pollgate_common::counters::Counters;
use pollgate_common::epoch::Reader;
use pollgate_common::net::Net;
use pollgate_common::time::Instant;
use pollgate_common::trace::{PacketTrace, TracedPacket};
use pollgate_control::cluster::{Cluster, Commit, Refusal, Write};
use pollgate_control::compile::sink::TableSink;
use pollgate_control::compile::{Compiler, Options};
use pollgate_control::objects::Kind;
use pollgate_control::observe::stats::{self, CounterValues, ReplayStats};
use pollgate_dataplane::affinity::Affinity;
use pollgate_dataplane::egress::mesh::Mesh;
use pollgate_dataplane::port::Port;
use pollgate_dataplane::steer::Steering;
use pollgate_dataplane::worker::{Parts, RESERVE, Worker};

use super::ReplayError;
use super::batch::Batch;
use super::changes::timestamp;
use crate::config::Config;

/// The fixed seeds of a replay.
const SEEDS: [u64; 4] = [0x706f_6c6c, 0x6761_7465, 0x7265_706c, 0x6179_2121];

/// A worker over any ports, with a cluster, driven by its caller: replay, and tests.
pub struct Offline {
    worker: Worker,
    reader: Reader,
    compiler: Compiler,
    cluster: Cluster,
    counters: Arc<Counters>,
}

impl Offline {
    /// With the objects of `manifests` (a file or directory), loaded at `now`, in the first generation the worker sees.
    pub fn new(
        config: &Config,
        manifests: &Path,
        ports: Vec<Box<dyn Port>>,
        now: Instant,
    ) -> Result<Offline, ReplayError> {
        let batch = Batch::apply(manifests).map_err(ReplayError::Manifests)?;
        let mut offline = Offline::empty(config, ports)?;
        let commit = batch.plan(&offline.cluster, timestamp(now)).map_err(ReplayError::Manifests)?;
        offline.adopt(&commit);
        Ok(offline)
    }

    /// With no objects at all.
    pub fn empty(config: &Config, ports: Vec<Box<dyn Port>>) -> Result<Offline, ReplayError> {
        let counters = Arc::new(Counters::new(1));
        let options = Options::from(config);
        let settings = Arc::clone(&options.settings);
        let mut compiler = Compiler::new(options, Arc::clone(&counters));
        compiler.network(Arc::new(Net::new(1, config.into())));
        let parts = Parts {
            worker: 0,
            ports,
            mesh: Arc::new(Mesh::new(vec![None], RESERVE)),
            steering: Steering::new(1, SEEDS),
            limits: config.into(),
            settings,
            counters: Arc::clone(&counters),
            affinity: Arc::new(Affinity::new(config.flows.affinity, SEEDS).map_err(ReplayError::Memory)?),
            conflicts: Arc::default(),
            mailbox: Arc::default(),
            exchange: Arc::default(),
            ask: Box::new(|_| {}),
            dns_rate: config.dns.responses_per_second,
            resolver: None,
            dns_clients: Arc::default(),
            seeds: SEEDS,
        };
        let worker = Worker::new(parts).map_err(ReplayError::Memory)?;
        let cluster = Cluster::new(config.into());
        // What is there from the start is published together with the first objects.
        compiler.changed(&cluster, &cluster.all_of(Kind::ALL));
        compiler.loaded(true);
        let reader = compiler.source().reader();
        Ok(Offline { worker, reader, compiler, cluster, counters })
    }

    /// Plans, adopts, compiles and publishes `writes`.
    pub fn write(&mut self, writes: Vec<Write>) -> Result<(), Vec<Refusal>> {
        let commit = self.cluster.plan(writes, jiff::Timestamp::UNIX_EPOCH)?;
        self.adopt(&commit);
        Ok(())
    }

    /// Adopts a commit that was planned on the present state, compiles and publishes it.
    pub(super) fn adopt(&mut self, commit: &Commit) {
        self.cluster.adopt(commit);
        self.compiler.changed(&self.cluster, &commit.touched());
        self.compiler.publish();
        self.compiler.tick();
    }

    /// Replaces the network that the kernel would report.
    pub fn network(&mut self, net: Net) {
        self.compiler.network(Arc::new(net));
    }

    /// Polls at `time` until nothing more happens at that time.
    pub fn run_at(&mut self, time: Instant) {
        while self.poll_once(time) > 0 {}
    }

    /// One poll; returns how many frames the worker received.
    pub fn poll_once(&mut self, time: Instant) -> usize {
        self.worker.poll(self.reader.pin().load(), time)
    }

    /// What the worker would do with a packet now, at the origin of time.
    pub fn trace(&self, packet: &TracedPacket) -> PacketTrace {
        self.worker.trace(packet, self.reader.pin().load(), Instant::default())
    }

    /// The worker's counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The cluster's objects.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Where the tables are read.
    pub fn source(&self) -> pollgate_common::epoch::Source {
        self.compiler.source()
    }

    /// The counters as `--counters` writes them.
    pub fn stats(&self) -> ReplayStats {
        let source = self.compiler.source();
        let reader = source.reader();
        let pin = reader.pin();
        ReplayStats {
            counters: CounterValues::from(&self.counters.totals()),
            services: stats::services(&self.counters, pin.load()),
        }
    }
}

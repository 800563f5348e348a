//! `pollgate replay`: capture files through the same pipeline, in virtual time.
//!
//! Everything that could differ between runs is an input: time comes from the captures, seeds are fixed, the
//! network is in the configuration. There is one worker. The same input always gives the same output.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pollgate_common::counters::Counters;
use pollgate_common::epoch::Reader;
use pollgate_common::net::{Net, PortId};
use pollgate_common::time::Instant;
use pollgate_control::cluster::{Cluster, Write};
use pollgate_control::compile::sink::TableSink;
use pollgate_control::compile::{Compiler, Options};
use pollgate_control::objects::fault::Fault;
use pollgate_control::objects::manifest::{self, Document, ManifestError};
use pollgate_control::objects::service::ServiceName;
use pollgate_control::objects::{Kind, Object};
use pollgate_control::observe::stats::{self, CounterValues, ReplayStats};
use pollgate_dataplane::affinity::Affinity;
use pollgate_dataplane::egress::mesh::Mesh;
use pollgate_dataplane::port::Port;
use pollgate_dataplane::port::pcap::{self, PcapError, PcapPort, Record, Track};
use pollgate_dataplane::steer::Steering;
use pollgate_dataplane::worker::{Parts, RESERVE, Worker};
use serde_json::json;

use crate::cli::{Capture, ReplayArgs};
use crate::config::{Config, Purpose};
use crate::failure::Failure;

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Not a capture, or a broken one.
    #[error("{}: {source}", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PcapError,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// `--in` or `--out` names an interface the configuration does not have.
    #[error("{option} {interface}: the configuration has no such interface; it has {known}")]
    Interface {
        /// `--in` or `--out`.
        option: &'static str,
        /// The name.
        interface: String,
        /// The names there are.
        known: String,
    },
    /// The manifests are refused.
    #[error("{0}")]
    Manifests(String),
    /// The configuration needs what this version does not support.
    #[error("{0}")]
    NotDone(String),
    /// A table could not be allocated.
    #[error("flows.max, flows.affinity: cannot map the tables: {0}")]
    Memory(io::Error),
}

/// Runs the replay.
pub fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config, Purpose::Replay)?;
    replay(args, &config).map_err(|error| Failure::refused(error.to_string()))
}

fn replay(args: &ReplayArgs, config: &Config) -> Result<(), ReplayError> {
    let unsupported = config.unsupported();
    if !unsupported.is_empty() {
        let source = args.config.display();
        return Err(ReplayError::NotDone(
            unsupported.iter().map(|key| format!("{source}: {key}")).collect::<Vec<_>>().join("\n"),
        ));
    }
    let inputs = by_interface("--in", &args.inputs, config)?;
    let outputs = by_interface("--out", &args.outputs, config)?;
    let tracks: Vec<(Track, Track)> = config.interfaces.iter().map(|_| Default::default()).collect();
    let mut ports: Vec<Box<dyn Port>> = Vec::new();
    for (at, (input, output)) in tracks.iter().enumerate() {
        let id = PortId(u16::try_from(at).unwrap_or(u16::MAX));
        ports.push(Box::new(PcapPort::new(id, Arc::clone(input), Arc::clone(output))));
    }
    let mut offline = Offline::new(config, &args.manifests, ports)?;
    // By time, then by the order of --in, then as captured; the sort is stable.
    let mut timeline = read_all(&args.inputs)?;
    timeline.sort_by_key(|(nth, record)| (record.time, *nth));
    let port_of: BTreeMap<usize, usize> = inputs.iter().map(|(&at, &nth)| (nth, at)).collect();
    for group in timeline.chunk_by(|a, b| (a.0, a.1.time) == (b.0, b.1.time)) {
        let Some(&at) = group.first().and_then(|(nth, _)| port_of.get(nth)) else { continue };
        group.iter().for_each(|(_, record)| tracks[at].0.push(record.clone()));
        offline.run_at(group[0].1.time);
    }
    let sent: Vec<&Track> = tracks.iter().map(|(_, output)| output).collect();
    write_captures(&args.outputs, &outputs, &sent)?;
    match &args.counters {
        Some(path) => write_file(path, &format!("{:#}\n", json!(offline.stats()))),
        None => Ok(()),
    }
}

/// A worker over any ports, with a cluster, driven by its caller: replay, and tests.
pub struct Offline {
    worker: Worker,
    reader: Reader,
    compiler: Compiler,
    cluster: Cluster,
    counters: Arc<Counters>,
}

impl Offline {
    /// With the objects of `manifests` (a file or directory) in the first generation the worker sees.
    pub fn new(config: &Config, manifests: &Path, ports: Vec<Box<dyn Port>>) -> Result<Offline, ReplayError> {
        let documents =
            manifest::read(manifests).map_err(|error: ManifestError| ReplayError::Manifests(error.to_string()))?;
        let mut offline = Offline::empty(config, ports)?;
        offline.load(&documents)?;
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
            mailbox: Arc::default(),
            ask: Box::new(|_| {}),
            seeds: SEEDS,
        };
        let worker = Worker::new(parts).map_err(ReplayError::Memory)?;
        let cluster = Cluster::new(config.into());
        // What is there from the start is published together with the first objects.
        let services = cluster.objects(Kind::Service, None).filter_map(|object| object.as_service());
        compiler.changed(&cluster, &services.map(ServiceName::of).collect());
        let reader = compiler.source().reader();
        Ok(Offline { worker, reader, compiler, cluster, counters })
    }

    /// Applies `documents`, all or none, and publishes what follows.
    pub fn load(&mut self, documents: &[Document]) -> Result<(), ReplayError> {
        let mut faults = Vec::new();
        let mut writes = Vec::new();
        for document in documents {
            match Object::from_value(&document.value, "default") {
                Ok(object) => writes.push(Write::Apply(object)),
                Err(found) => faults.extend(found.iter().map(|fault: &Fault| document.tell(fault))),
            }
        }
        if !faults.is_empty() {
            return Err(ReplayError::Manifests(faults.join("\n")));
        }
        self.write(writes).map_err(|refusals| {
            let line = |(index, field, message): &(usize, String, String)| match documents.get(*index) {
                Some(document) => format!("{}:{}: {field}: {message}", document.source(), document.line_of(field)),
                None => message.clone(),
            };
            ReplayError::Manifests(refusals.iter().map(line).collect::<Vec<_>>().join("\n"))
        })
    }

    /// Plans, adopts, compiles and publishes `writes`; refused ones come back as (which write, field, message).
    pub fn write(&mut self, writes: Vec<Write>) -> Result<(), Vec<(usize, String, String)>> {
        let commit = self.cluster.plan(writes, jiff::Timestamp::UNIX_EPOCH).map_err(|refusals| {
            let told = |refusal: pollgate_control::cluster::Refusal| {
                let (index, message) = (refusal.index, refusal.message);
                if refusal.faults.is_empty() {
                    return vec![(index, String::new(), message)];
                }
                refusal.faults.into_iter().map(|fault| (index, fault.field, fault.message)).collect()
            };
            refusals.into_iter().flat_map(told).collect::<Vec<_>>()
        })?;
        self.cluster.adopt(&commit);
        self.compiler.changed(&self.cluster, &commit.touched_services());
        self.compiler.publish();
        self.compiler.tick();
        Ok(())
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

/// The fixed seeds of a replay.
const SEEDS: [u64; 4] = [0x706f_6c6c, 0x6761_7465, 0x7265_706c, 0x6179_2121];

fn position(config: &Config, interface: &str) -> Option<usize> {
    config.interfaces.iter().position(|known| known.name == interface)
}

/// Which capture each interface (by place) has.
fn by_interface(
    option: &'static str,
    captures: &[Capture],
    config: &Config,
) -> Result<BTreeMap<usize, usize>, ReplayError> {
    let mut places = BTreeMap::new();
    for (nth, capture) in captures.iter().enumerate() {
        let known = || config.interfaces.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ");
        let unknown = || ReplayError::Interface { option, interface: capture.interface.clone(), known: known() };
        places.insert(position(config, &capture.interface).ok_or_else(unknown)?, nth);
    }
    Ok(places)
}

/// The frames of all captures, each with its capture's number.
fn read_all(captures: &[Capture]) -> Result<Vec<(usize, Record)>, ReplayError> {
    let mut all = Vec::new();
    for (nth, capture) in captures.iter().enumerate() {
        let path = || capture.path.clone();
        let file = fs::read(&capture.path).map_err(|source| ReplayError::File { path: path(), source })?;
        let records = pcap::read(&file).map_err(|source| ReplayError::Capture { path: path(), source })?;
        all.extend(records.into_iter().map(|record| (nth, record)));
    }
    Ok(all)
}

fn write_captures(captures: &[Capture], places: &BTreeMap<usize, usize>, sent: &[&Track]) -> Result<(), ReplayError> {
    for (&at, &nth) in places {
        let path = &captures[nth].path;
        let write = || -> io::Result<()> {
            let mut writer = pcap::Writer::new(BufWriter::new(File::create(path)?))?;
            while let Some(record) = sent[at].pop() {
                writer.write(&record)?;
            }
            writer.finish().map(drop)
        };
        write().map_err(|source| ReplayError::File { path: path.clone(), source })?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<(), ReplayError> {
    fs::write(path, text).map_err(|source| ReplayError::File { path: path.to_owned(), source })
}

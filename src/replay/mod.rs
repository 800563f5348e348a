//! `pollgate replay`: capture files through the same pipeline, in virtual time.
//!
//! Everything that could differ between runs is an input: time comes from the captures, seeds are fixed, the
//! network is in the configuration. There is one worker. The same input always gives the same output.
//!
//! ```text
//!  --in ───────▶ frames by time ──────────────────┐
//!  --manifests ▶ first generation                 ├─▶ worker ─▶ --out, --counters
//!  --then ─────▶ changes by time, planned at once ┘
//! ```

mod batch;
mod changes;
mod offline;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pollgate_common::net::PortId;
use pollgate_dataplane::port::Port;
use pollgate_dataplane::port::pcap::{self, PcapError, PcapPort, Record, Track};
use serde_json::json;

use crate::cli::{Capture, ReplayArgs};
use crate::config::{Config, Purpose};
use crate::failure::Failure;
pub use changes::Then;
use changes::{Planned, plan};
pub use offline::Offline;

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
    let inputs = by_interface("--in", &args.inputs, config)?;
    let outputs = by_interface("--out", &args.outputs, config)?;
    let tracks: Vec<(Track, Track)> = config.interfaces.iter().map(|_| Default::default()).collect();
    let mut ports: Vec<Box<dyn Port>> = Vec::new();
    for (at, (input, output)) in tracks.iter().enumerate() {
        let id = PortId(u16::try_from(at).unwrap_or(u16::MAX));
        ports.push(Box::new(PcapPort::new(id, Arc::clone(input), Arc::clone(output))));
    }
    // By time, then by the order of --in, then as captured; the sort is stable.
    let mut timeline = read_all(&args.inputs)?;
    timeline.sort_by_key(|(nth, record)| (record.time, *nth));
    let time_of = |frame: Option<&(usize, Record)>| frame.map(|(_, record)| record.time);
    let first = time_of(timeline.first()).unwrap_or_default();
    let end = time_of(timeline.last()).unwrap_or_default();
    let mut offline = Offline::new(config, &args.manifests, ports, first)?;
    let mut changes = plan(offline.cluster(), &args.then, first, end)?.into_iter().peekable();
    let port_of: BTreeMap<usize, usize> = inputs.iter().map(|(&at, &nth)| (nth, at)).collect();
    for group in timeline.chunk_by(|a, b| (a.0, a.1.time) == (b.0, b.1.time)) {
        let Some(&at) = group.first().and_then(|(nth, _)| port_of.get(nth)) else { continue };
        let now = group[0].1.time;
        // Changes come before the frames of the same time.
        while let Some(change) = changes.next_if(|change| change.time <= now) {
            make(&mut offline, &change);
        }
        group.iter().for_each(|(_, record)| tracks[at].0.push(record.clone()));
        offline.run_at(now);
    }
    changes.for_each(|change| make(&mut offline, &change));
    let sent: Vec<&Track> = tracks.iter().map(|(_, output)| output).collect();
    write_captures(&args.outputs, &outputs, &sent)?;
    match &args.counters {
        Some(path) => write_file(path, &format!("{:#}\n", json!(offline.stats()))),
        None => Ok(()),
    }
}

/// Publishes what a change leads to, and has the worker see it.
fn make(offline: &mut Offline, Planned { time, commit }: &Planned) {
    offline.adopt(commit);
    offline.run_at(*time);
}

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

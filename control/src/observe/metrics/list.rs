//! Every metric, declared once: its name, kind, labels and meaning, and how it is read.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use pollgate_common::counters::{self, DECLARED, Declaration};
use pollgate_common::reasons::{DropReason, PassReason};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

use super::process::Usage;
use super::services::{Shares, parts};
use crate::compile::publications::Histogram;
use crate::observe::checks::Scope;
use crate::observe::stats::{CounterValues, Stats, Values};

/// What a scrape has read.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Without Services.
    pub(super) stats: Stats,
    pub(super) services: Shares,
    pub(super) process: Option<Usage>,
}

impl Snapshot {
    /// The counters of every thread that has some, by its name.
    fn threads(&self) -> impl Iterator<Item = (Cow<'_, str>, &CounterValues)> {
        let workers = self.stats.workers.iter().enumerate();
        let workers = workers.map(|(at, values)| (Cow::from(format!("worker-{at}")), values));
        workers.chain(self.stats.threads.iter().map(|(name, values)| (Cow::from(name.as_str()), values)))
    }
}

/// What kind of number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, and starts at 0 with the process. Its series end in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many were not longer than each bound. Its series end in `_bucket` (with the bound as `le`), `_count` and `_sum`.
    Histogram,
    /// Always 1: its labels are what it says. Its series end in `_info`.
    Info,
}

impl Kind {
    /// The word in documentation.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }
}

/// A metric.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Without the suffix of its kind.
    family: Cow<'static, str>,
    /// Its kind.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: Cow<'static, str>,
    read: Read,
}

#[derive(Debug, Clone, Copy)]
enum Read {
    /// A counter of every thread that counts.
    Counter(&'static Declaration),
    /// Anything else.
    By(Reader),
}

type Reader = fn(&Snapshot, &mut Series<'_>) -> fmt::Result;

impl Metric {
    /// The name of its series.
    pub fn name(&self) -> String {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram => "",
            Kind::Info => "_info",
        };
        format!("{}{suffix}", self.family)
    }

    pub(super) fn encode(&self, from: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let encoder = encoder.encode_descriptor(&self.family, &self.help, None, kind)?;
        let mut series = Series { encoder, kind: self.kind, names: self.labels };
        match self.read {
            Read::Counter(declared) => counter(from, declared, &mut series),
            Read::By(reader) => reader(from, &mut series),
        }
    }
}

/// Where a reader puts the values of a metric.
pub(super) struct Series<'a> {
    encoder: MetricEncoder<'a>,
    kind: Kind,
    names: &'static [&'static str],
}

impl Series<'_> {
    /// The value of the series with these labels, one per declared name.
    pub(super) fn put(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        let set = Labels { names: self.names, values: labels };
        match self.kind {
            Kind::Info => self.encoder.encode_info(&set),
            _ if labels.is_empty() => number(&mut self.encoder, self.kind, value),
            _ => number(&mut self.encoder.encode_family(&set)?, self.kind, value),
        }
    }

    /// The same for a number of seconds, of a metric without labels.
    pub(super) fn put_seconds(&mut self, value: f64) -> fmt::Result {
        match self.kind {
            Kind::Counter => self.encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
            Kind::Gauge | Kind::Histogram | Kind::Info => self.encoder.encode_gauge(&value),
        }
    }

    /// All series of a histogram, in seconds.
    pub(super) fn put_histogram(&mut self, times: &Histogram) -> fmt::Result {
        let longer = times.count - times.buckets.iter().map(|bucket| bucket.count).sum::<u64>().min(times.count);
        let mut buckets: Vec<(f64, u64)> =
            times.buckets.iter().map(|bucket| (seconds(bucket.up_to), bucket.count)).collect();
        buckets.push((f64::INFINITY, longer));
        self.encoder.encode_histogram::<NoLabelSet>(seconds(times.sum), times.count, &buckets, None)
    }
}

/// Of microseconds.
pub(super) fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

fn number(to: &mut MetricEncoder<'_>, kind: Kind, value: u64) -> fmt::Result {
    match kind {
        Kind::Counter => to.encode_counter::<NoLabelSet, u64, f64>(&value, None),
        Kind::Gauge | Kind::Histogram | Kind::Info => to.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX)),
    }
}

#[derive(Debug)]
struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [&'a str],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.names.iter().zip(self.values).try_for_each(|label| (*label.0, *label.1).encode(encoder.encode_label()))
    }
}

/// All metrics, in the order of the page: the counters as they are declared, then the rest.
pub fn all() -> &'static [Metric] {
    static ALL: LazyLock<Vec<Metric>> = LazyLock::new(|| {
        let counter = |declared: &'static Declaration| Metric {
            family: format!("pollgate_{}", declared.metric()).into(),
            kind: match declared.kind {
                counters::Kind::Counter => Kind::Counter,
                counters::Kind::Gauge => Kind::Gauge,
            },
            labels: &["thread"],
            help: declared.sentence.into(),
            read: Read::Counter(declared),
        };
        DECLARED.iter().map(counter).chain(OTHERS.iter().cloned()).collect()
    });
    &ALL
}

/// A counter is there for every thread from the start, so that its first increment is seen. A gauge belongs to the workers; another
/// thread that has none would only be the smallest.
fn counter(from: &Snapshot, declared: &Declaration, to: &mut Series<'_>) -> fmt::Result {
    for (thread, values) in from.threads() {
        let value = values.counter(declared.name);
        if declared.kind == counters::Kind::Counter || thread.starts_with("worker-") || value > 0 {
            to.put(&[&thread], value)?;
        }
    }
    Ok(())
}

pub(super) const fn metric(
    family: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    read: Reader,
) -> Metric {
    Metric { family: Cow::Borrowed(family), kind, labels, help: Cow::Borrowed(help), read: Read::By(read) }
}

const SERVICE: &[&str] = &["namespace", "service", "port"];

const OTHERS: &[Metric] = &[
    metric(
        "pollgate_dropped_frames",
        Kind::Counter,
        &["thread", "reason", "severity"],
        "Frames dropped, by reason.",
        |from, to| {
            for (thread, values) in from.threads() {
                for reason in DropReason::ALL {
                    let count = values.drops.get(reason.name()).copied().unwrap_or(0);
                    to.put(&[&thread, reason.name(), reason.severity().name()], count)?;
                }
            }
            Ok(())
        },
    ),
    metric(
        "pollgate_passed_frames",
        Kind::Counter,
        &["thread", "reason"],
        "Frames left to the kernel, by reason.",
        |from, to| {
            for (thread, values) in from.threads() {
                for reason in PassReason::ALL {
                    to.put(&[&thread, reason.name()], values.passes.get(reason.name()).copied().unwrap_or(0))?;
                }
            }
            Ok(())
        },
    ),
    metric(
        "pollgate_flows_max",
        Kind::Gauge,
        &[],
        "Most flows that there can be, over all workers (`flows.max`).",
        |from, to| to.put(&[], from.stats.flows.max),
    ),
    metric(
        "pollgate_published_generation",
        Kind::Gauge,
        &[],
        "Generation of the tables that were published last.",
        |from, to| to.put(&[], from.stats.generation),
    ),
    metric(
        "pollgate_compile_duration_seconds",
        Kind::Histogram,
        &[],
        "Time to compile a batch of changes.",
        |from, to| to.put_histogram(&from.stats.publications.compile),
    ),
    metric(
        "pollgate_publish_duration_seconds",
        Kind::Histogram,
        &[],
        "Time from the moment a batch of changes is on disk until every worker has it.",
        |from, to| to.put_histogram(&from.stats.publications.publish),
    ),
    metric(
        "pollgate_network_programming_duration_seconds",
        Kind::Histogram,
        &[],
        "Time from the change of a Pod or a new Service (the trigger time of the EndpointSlice) until every worker has it.",
        |from, to| to.put_histogram(&from.stats.publications.programming),
    ),
    metric(
        "pollgate_changes",
        Kind::Counter,
        &["object"],
        "Changes of Services and EndpointSlices that were published.",
        |from, to| {
            to.put(&["service"], from.stats.publications.services_changed)?;
            to.put(&["endpointslice"], from.stats.publications.slices_changed)
        },
    ),
    metric(
        "pollgate_changes_pending",
        Kind::Gauge,
        &["object"],
        "Changes of Services and EndpointSlices that wait to be published.",
        |from, to| {
            to.put(&["service"], from.stats.publications.services_pending)?;
            to.put(&["endpointslice"], from.stats.publications.slices_pending)
        },
    ),
    metric(
        "pollgate_last_publication_timestamp_seconds",
        Kind::Gauge,
        &[],
        "When changes were published last, in seconds since 1970; 0: never.",
        |from, to| to.put_seconds(seconds(from.stats.publications.last_publication * 1000)),
    ),
    metric(
        "pollgate_service_packets",
        Kind::Counter,
        SERVICE,
        "Packets of a Service port that were translated, both directions.",
        |from, to| services(from, to, |values| values.packets),
    ),
    metric(
        "pollgate_service_bytes",
        Kind::Counter,
        SERVICE,
        "Bytes of a Service port's packets, Ethernet headers included.",
        |from, to| services(from, to, |values| values.bytes),
    ),
    metric("pollgate_service_flows", Kind::Counter, SERVICE, "Flows opened to a Service port.", |from, to| {
        services(from, to, |values| values.flows)
    }),
    metric(
        "pollgate_services",
        Kind::Gauge,
        &["series"],
        "Service ports that are served: with series of their own (`own`), or in the sum of the others (`other`).",
        |from, to| {
            to.put(&["own"], from.services.named.len() as u64)?;
            to.put(&["other"], from.services.others)
        },
    ),
    metric(
        "pollgate_interface_up",
        Kind::Gauge,
        &["interface"],
        "Whether a polled interface is up and has a carrier.",
        |from, to| from.stats.interfaces.iter().try_for_each(|(name, state)| to.put(&[name], u64::from(state.up))),
    ),
    metric(
        "pollgate_interface_mtu_bytes",
        Kind::Gauge,
        &["interface"],
        "Largest IP packet that a polled interface sends.",
        |from, to| from.stats.interfaces.iter().try_for_each(|(name, state)| to.put(&[name], u64::from(state.mtu))),
    ),
    metric(
        "pollgate_check_ok",
        Kind::Gauge,
        &["check", "scope"],
        "Whether a check of `/livez` (scope `live`) and `/readyz` (both scopes) holds.",
        |from, to| {
            from.stats.checks.iter().try_for_each(|check| {
                let scope = match check.scope {
                    Scope::Live => "live",
                    Scope::Ready => "ready",
                };
                to.put(&[&check.name, scope], u64::from(check.fault.is_none()))
            })
        },
    ),
    metric(
        "pollgate_upstream_queries",
        Kind::Counter,
        &["upstream"],
        "DNS queries to an upstream, over UDP or TCP.",
        |from, to| from.stats.upstreams.iter().try_for_each(|(name, stats)| to.put(&[name], stats.queries)),
    ),
    metric(
        "pollgate_upstream_failures",
        Kind::Counter,
        &["upstream"],
        "DNS queries to an upstream without a usable response.",
        |from, to| from.stats.upstreams.iter().try_for_each(|(name, stats)| to.put(&[name], stats.failures)),
    ),
    metric(
        "pollgate_upstream_down",
        Kind::Gauge,
        &["upstream"],
        "Whether an upstream is asked last, because it has failed.",
        |from, to| from.stats.upstreams.iter().try_for_each(|(name, stats)| to.put(&[name], u64::from(stats.down))),
    ),
    metric(
        "pollgate_manifest_objects",
        Kind::Gauge,
        &[],
        "Objects that are served from the files of `--manifests`.",
        |from, to| from.stats.manifests.as_ref().map_or(Ok(()), |followed| to.put(&[], followed.objects)),
    ),
    metric(
        "pollgate_manifest_errors",
        Kind::Gauge,
        &[],
        "Errors in the files of `--manifests`: with any, the objects before are still served.",
        |from, to| from.stats.manifests.as_ref().map_or(Ok(()), |followed| to.put(&[], followed.faults.len() as u64)),
    ),
    metric("pollgate_state_file_bytes", Kind::Gauge, &[], "Size of the state file.", |from, to| {
        to.put(&[], from.stats.state.bytes)
    }),
    metric("pollgate_state_objects_bytes", Kind::Gauge, &[], "Bytes of the objects in the state file.", |from, to| {
        to.put(&[], from.stats.state.objects)
    }),
    metric("pollgate_log_lines_lost", Kind::Counter, &[], "Lines of the log that could not be written.", |from, to| {
        to.put(&[], from.stats.log_lines_lost)
    }),
    metric(
        "pollgate_panicked_requests",
        Kind::Counter,
        &[],
        "Requests of the API that have ended by a panic.",
        |from, to| to.put(&[], from.stats.panicked_requests),
    ),
    metric("pollgate_build", Kind::Info, &["version"], "The version of pollgate.", |_, to| {
        to.put(&[env!("CARGO_PKG_VERSION")], 1)
    }),
    metric("process_cpu_seconds", Kind::Counter, &[], "CPU time of the process, in the kernel too.", |from, to| {
        from.process.map_or(Ok(()), |usage| to.put_seconds(usage.cpu_seconds))
    }),
    metric("process_resident_memory_bytes", Kind::Gauge, &[], "Memory of the process that is in RAM.", |from, to| {
        from.process.map_or(Ok(()), |usage| to.put(&[], usage.resident_bytes))
    }),
    metric(
        "process_virtual_memory_bytes",
        Kind::Gauge,
        &[],
        "Address space of the process; most of it is reserved and never used.",
        |from, to| from.process.map_or(Ok(()), |usage| to.put(&[], usage.virtual_bytes)),
    ),
    metric(
        "process_start_time_seconds",
        Kind::Gauge,
        &[],
        "When the process was started, in seconds since 1970.",
        |from, to| from.process.map_or(Ok(()), |usage| to.put_seconds(usage.start_seconds)),
    ),
];

/// A number of each Service port, and the sum of the others: without a namespace, so that no Service has its labels.
fn services(from: &Snapshot, to: &mut Series<'_>, number: fn(&Values) -> u64) -> fmt::Result {
    for (name, values) in &from.services.named {
        to.put(&parts(name), number(values))?;
    }
    to.put(&["", "other", ""], number(&from.services.sum))
}

//! Metrics for Prometheus: the statistics, in its words.
//!
//! ```text
//!  counters, tables ──▶ Stats ──┬─▶ `pollgate stats`
//!                               └─▶ Page ──▶ list: each metric with how it is read ──▶ prometheus-client ──▶ OpenMetrics
//!                                    ▲                                                                └▶ text: Prometheus
//!                       services: which have series of their own
//! ```
//!
//! Nothing is counted here. A scrape reads what `pollgate stats` reads, by the same function: atomics that the workers write anyhow.
//! What is shown is declared once: counters and reasons in `pollgate-common`, the rest in [`list`] and [`compatible`]. The guide's table, the encoder and
//! the tests of dashboards and alerts follow from that.
//!
//! **What a scrape may cost.** The page is made at most every 250 ms; between two, clients get the last one. Its size is bounded
//! by the numbers of threads, interfaces, upstreams and reasons, and by `metrics.services`.

pub mod compatible;
pub mod list;
mod process;
mod server;
mod services;
mod text;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text as encoding};
use prometheus_client::registry::Registry;

use self::list::Snapshot;
use self::process::Process;
pub use self::server::{MetricsError, MetricsServer, OPEN_FILES, bind};
use self::services::Named;
pub use self::text::Format;
use super::checks::Checks;
use crate::api::StatsSource;

/// How old a page may be.
const FRESH: Duration = Duration::from_millis(250);

/// What metrics are made of.
pub struct MetricsParts {
    /// The counters: the same as the API's.
    pub stats: StatsSource,
    /// Whether the gateway works.
    pub checks: Arc<Checks>,
    /// Service ports that have series of their own, at most.
    pub services: usize,
    /// Whether the names of [`compatible`] are shown, too.
    pub compatible: bool,
}

/// Makes the page.
pub struct Metrics {
    parts: MetricsParts,
    process: Option<Process>,
    state: Mutex<State>,
}

struct State {
    named: Named,
    /// The last page in each format, as far as it was asked for, and until when it is shown.
    last: Option<(Instant, [Option<Bytes>; 2])>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Opens what it reads of the process: to be called before its thread is narrowed.
    pub fn new(parts: MetricsParts) -> Metrics {
        let state = State { named: Named::new(parts.services), last: None };
        Metrics { parts, process: Process::open().ok(), state: Mutex::new(state) }
    }

    /// The page of now, or of a moment ago.
    pub fn page(&self, format: Format) -> Bytes {
        self.page_at(format, Instant::now)
    }

    fn page_at(&self, format: Format, now: impl Fn() -> Instant) -> Bytes {
        // Whole between any two changes.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { named, last } = &mut *state;
        let begun = now();
        let (until, pages) = match last.take() {
            Some((until, pages)) if begun < until => (until, pages),
            _ => {
                let page = self.make(named).into();
                let end = now();
                // A page that takes long is made no more often than leaves the thread four fifths of its time.
                (end + FRESH.max(end.saturating_duration_since(begun) * 4), [Some(page), None])
            }
        };
        let [open, plain] = pages;
        let open = open.unwrap_or_default();
        let plain = match format {
            Format::OpenMetrics => plain,
            Format::Prometheus => Some(plain.unwrap_or_else(|| text::from_open_metrics(&open).into())),
        };
        let page = match format {
            Format::OpenMetrics => open.clone(),
            Format::Prometheus => plain.clone().unwrap_or_default(),
        };
        *last = Some((until, [Some(open), plain]));
        page
    }

    /// The page of now, as OpenMetrics, whenever the last one was made.
    pub fn scrape(&self) -> String {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.make(&mut state.named)
    }

    fn make(&self, named: &mut Named) -> String {
        let mut stats = (self.parts.stats)();
        stats.checks = self.parts.checks.all();
        let services = named.share(std::mem::take(&mut stats.services));
        let process = self.process.as_ref().and_then(Process::usage);
        let mut registry = Registry::default();
        let more = if self.parts.compatible { compatible::COMPATIBLE } else { &[] };
        registry.register_collector(Box::new(Page(Snapshot { stats, services, process }, more)));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encoding::encode(&mut text, &registry);
        text
    }
}

/// One scrape, and the metrics that it shows beside those of [`list`].
#[derive(Debug)]
struct Page(Snapshot, &'static [list::Metric]);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        list::all().iter().chain(self.1).try_for_each(|metric| metric.encode(&self.0, &mut encoder))
    }
}

#[cfg(test)]
mod tests;

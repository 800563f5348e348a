//! The result of a run, for people and for programs.
//!
//! ```text
//!  sent ──▶ gateway ──▶ received          lost = sent − received
//!   └ strays, to a port without a Service: none should arrive
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use pollgate_common::reasons::DropReason;
use serde_json::{Map, Value, json};

use super::addresses::Block;
use super::pace::Rate;
use super::side::{Endpoint, Seen};
use super::tally::Tally;

/// Below this share of the requested rate, the generator has not kept up; in thousandths.
const KEPT_UP: u64 = 990;
/// Endpoints that are listed by name in the JSON at most; the others are in the summary.
const LISTED: usize = 4096;

/// Counted packets that were made.
pub(super) struct Sent {
    /// For Services.
    pub(super) packets: u64,
    /// For the stray port.
    pub(super) strays: u64,
    /// Bytes of both.
    pub(super) bytes: u64,
    /// Flows opened, including those of the warm-up.
    pub(super) flows: u64,
    /// Flows that can differ.
    pub(super) tuples: u64,
}

/// A run that is over.
pub(super) struct Outcome {
    pub(super) rate: Rate,
    pub(super) elapsed: Duration,
    pub(super) interrupted: bool,
    pub(super) sent: Sent,
    pub(super) endpoints: Vec<Block>,
    pub(super) began_unix_ns: u128,
    pub(super) seen: Vec<Seen>,
}

/// The numbers of the report.
pub(super) struct Report {
    outcome: Outcome,
    tally: Tally,
    sent: u64,
    strays_sent: u64,
    unsent: BTreeMap<&'static str, u64>,
}

impl Report {
    /// All sides together.
    pub(super) fn new(outcome: Outcome) -> Report {
        let (first, rest) = outcome.seen.split_first().expect("there is always the clients' side");
        let mut tally = first.tally.clone();
        rest.iter().for_each(|seen| tally.add(&seen.tally));
        let mut unsent = BTreeMap::new();
        for (reason, count) in outcome.seen.iter().flat_map(|seen| &seen.unsent) {
            *unsent.entry(*reason).or_insert(0) += count;
        }
        let taken_back = |kind: usize| -> u64 { outcome.seen.iter().map(|seen| seen.unsent_counted[kind]).sum() };
        let sent = outcome.sent.packets.saturating_sub(taken_back(0));
        let strays_sent = outcome.sent.strays.saturating_sub(taken_back(1));
        Report { tally, sent, strays_sent, unsent, outcome }
    }

    /// Packets that arrived at their end.
    pub(super) fn received(&self) -> u64 {
        self.tally.received
    }

    /// Whether any packet was expected.
    pub(super) fn expected_any(&self) -> bool {
        self.sent > 0
    }

    fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.tally.received)
    }

    /// `count` a second.
    fn per_second(&self, count: u64) -> u64 {
        let ns = self.outcome.elapsed.as_nanos().max(1);
        u64::try_from(u128::from(count) * 1_000_000_000 / ns).unwrap_or(u64::MAX)
    }

    fn sum(&self, number: impl Fn(&Seen) -> u64) -> u64 {
        self.outcome.seen.iter().map(number).sum()
    }

    /// What was requested and not sent, as a sentence.
    fn shortfall(&self) -> Option<String> {
        let Rate::PerSecond(asked) = self.outcome.rate else { return None };
        let sent = self.per_second(self.sent + self.strays_sent);
        let asked_in_all = u128::from(asked) * self.outcome.elapsed.as_nanos() / 1_000_000_000;
        let kept_up = u128::from(self.sent + self.strays_sent) * 1000 >= asked_in_all * u128::from(KEPT_UP);
        let text = || format!("the generator could not keep up: asked {}, sent {}", rate(asked), rate(sent));
        (!kept_up).then(text)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let Report { tally, sent, .. } = self;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<14}{value}");
        };
        let seconds = self.outcome.elapsed.as_secs_f64();
        let early = if self.outcome.interrupted { ", ended early" } else { "" };
        line("measured", format!("{seconds:.2} s{early}"));
        line("sent", format!("{sent} packets, {}", rate(self.per_second(*sent))));
        let gbps = mbit(self.per_second(tally.bytes));
        line("received", format!("{} packets, {}, {gbps}", tally.received, rate(self.per_second(tally.received))));
        line("lost", format!("{} ({})", self.lost(), percent(self.lost(), *sent)));
        line("reordered", format!("{} ({}, RFC 4737)", tally.reordered, percent(tally.reordered, tally.received)));
        line("duplicates", tally.duplicates.to_string());
        if self.strays_sent > 0 {
            let came = self.sum(|seen| seen.strays);
            line("strays", format!("{} sent to a port without a Service, {came} arrived", self.strays_sent));
        }
        line("latency", latency_line(&tally.steady));
        line("  first", latency_line(&tally.first));
        for note in self.notes() {
            let _ = writeln!(text, "note: {note}");
        }
        text
    }

    /// Notes for the reader of the numbers.
    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.shortfall().into_iter().collect();
        let why = |name: &str| DropReason::from_name(name).map_or("", DropReason::sentence);
        notes.extend(self.unsent.iter().map(|(name, count)| format!("{count} frames not sent: {name}. {}", why(name))));
        let missed = self.sum(|seen| seen.missed);
        if missed > 0 {
            notes.push(format!("{missed} frames lost in pktgen's own receive ring, not in the gateway"));
        }
        if self.outcome.sent.flows > self.outcome.sent.tuples {
            let tuples = self.outcome.sent.tuples;
            notes.push(format!("flows were repeated after {tuples}: add addresses to --from"));
        }
        notes
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let Report { tally, sent, outcome, .. } = self;
        let mut all = tally.steady.clone();
        all += &tally.first;
        json!({
            "seconds": outcome.elapsed.as_secs_f64(),
            "interrupted": outcome.interrupted,
            "began_unix_ns": outcome.began_unix_ns.to_string(),
            "rate": {
                "asked": match outcome.rate { Rate::Max => "max".into(), Rate::PerSecond(rate) => Value::from(rate) },
                "sent": self.per_second(*sent),
                "received": self.per_second(tally.received),
            },
            "sent": { "packets": sent, "bytes": outcome.sent.bytes - self.sum(|seen| seen.unsent_bytes), "strays": self.strays_sent },
            "received": { "packets": tally.received, "bytes": tally.bytes, "strays": self.sum(|seen| seen.strays) },
            "halfway": self.sum(|seen| seen.halfway),
            "lost": { "packets": self.lost(), "percent": ratio(self.lost(), *sent) * 100.0 },
            "reordered": tally.reordered,
            "duplicates": tally.duplicates,
            "outdated": tally.outdated,
            "flows": { "opened": outcome.sent.flows, "distinct": outcome.sent.tuples },
            "latency_us": { "all": latency(&all), "first": latency(&tally.first), "steady": latency(&tally.steady) },
            "arp_answered": self.sum(|seen| seen.arp_answered),
            "not_sent": self.unsent,
            "missed": self.sum(|seen| seen.missed),
            "endpoints": self.endpoints(),
            "shortfall": self.shortfall(),
        })
    }

    /// How the packets were spread.
    fn endpoints(&self) -> Value {
        let all = self.outcome.endpoints.iter().flat_map(|block| (0..block.count()).map(|n| block.nth(n)));
        let merged = |at: usize| {
            let of = |seen: &Seen| seen.endpoints.get(at).copied().unwrap_or_default();
            self.outcome.seen.iter().map(of).fold(Endpoint::default(), |sum, one| Endpoint {
                packets: sum.packets + one.packets,
                first: sum.first.into_iter().chain(one.first).min(),
            })
        };
        let used = all.enumerate().map(|(at, address)| (address, merged(at))).filter(|(_, one)| one.first.is_some());
        let used: Vec<_> = used.collect();
        let packets = used.iter().map(|(_, one)| one.packets);
        let listed: Map<String, Value> = used
            .iter()
            .take(LISTED)
            .map(|(address, one)| (address.to_string(), json!({ "packets": one.packets, "first_ns": one.first })))
            .collect();
        json!({ "used": used.len(), "packets": packets.clone().sum::<u64>(), "least": packets.clone().min(), "most": packets.max(), "listed": listed })
    }
}

const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

fn latency(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let mut told = Map::new();
    for (name, quantile) in QUANTILES {
        told.insert(name.to_owned(), micros(histogram.value_at_quantile(quantile)).into());
    }
    told.insert("max".to_owned(), micros(histogram.max()).into());
    told.insert("count".to_owned(), histogram.len().into());
    told.into()
}

fn latency_line(histogram: &Histogram<u64>) -> String {
    if histogram.is_empty() {
        return "no packets".to_owned();
    }
    let mut line = String::new();
    for (name, quantile) in QUANTILES {
        let _ = write!(line, "{name} {:.1}  ", micros(histogram.value_at_quantile(quantile)));
    }
    let _ = write!(line, "max {:.1} µs", micros(histogram.max()));
    line
}

fn micros(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1e6
}

/// A rate with a unit for people.
fn rate(per_second: u64) -> String {
    match per_second {
        1_000_000.. => format!("{}.{:02} M/s", per_second / 1_000_000, per_second / 10_000 % 100),
        1_000.. => format!("{}.{} k/s", per_second / 1_000, per_second / 100 % 10),
        _ => format!("{per_second}/s"),
    }
}

fn mbit(bytes_per_second: u64) -> String {
    let kilobits = bytes_per_second / 125;
    format!("{}.{} Mb/s", kilobits / 1000, kilobits / 100 % 10)
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.4} %", ratio(part, whole) * 100.0)
}

fn ratio(part: u64, whole: u64) -> f64 {
    // By way of durations: they become floats without a lossy cast.
    let float = |n: u64| Duration::from_nanos(n).as_secs_f64();
    if whole == 0 { 0.0 } else { float(part) / float(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_told_in_the_units_people_talk_in() {
        assert_eq!(rate(999), "999/s");
        assert_eq!(rate(250_000), "250.0 k/s");
        assert_eq!(rate(1_488_095), "1.48 M/s");
        assert_eq!(mbit(125_000_000), "1000.0 Mb/s");
        assert_eq!(percent(1, 3), "33.3333 %");
        assert_eq!(percent(0, 0), "0.0000 %");
    }
}

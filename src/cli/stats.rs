//! `pollgate stats`: the counters with their meaning, and whether they add up.
//!
//! The gateway sends numbers; names, sentences and advice are declared beside the counters in `pollgate-common` and come
//! with this binary, so text and meaning cannot drift apart.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use pollgate_common::counters::{DECLARED, Declaration};
use pollgate_common::reasons::{DropReason, PassReason, Severity};
use pollgate_control::api::STATS_PATH;
use pollgate_control::dns::resolver::UpstreamStats;
use pollgate_control::observe::checks::Check;
use pollgate_control::observe::stats::{CounterValues, FlowUse, ManifestState, ServiceStats, StateFile, Stats, Values};

use super::args::StatsArgs;
use super::client::Client;
use crate::failure::Failure;
use crate::output::Machine;

/// Before the endpoints of a Service port.
const INDENT: &str = "  ";

/// The name of the endpoints that are not listed.
const OTHERS: &str = "(others)";

/// `pollgate stats`
///
/// # Errors
/// If the gateway cannot be asked or the answer not be written.
pub fn stats(args: &StatsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let answer = Client::new(&args.connection.socket)?.get(STATS_PATH)?;
    if args.output == Some(Machine::Json) {
        return Ok(writeln!(out, "{answer:#}")?);
    }
    let stats: Stats = serde_json::from_value(answer).map_err(|error| {
        Failure::refused(format!(
            "error: the gateway's counters have a format that this pollgate does not know: {error}"
        ))
    })?;
    Ok(write!(out, "{}", Shown(&stats))?)
}

/// The statistics as a page of text.
struct Shown<'a>(&'a Stats);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.0;
        frames(f, &stats.counters)?;
        drops(f, &stats.counters.drops)?;
        passes(f, &stats.counters.passes)?;
        let FlowUse { live, max, departed } = stats.flows;
        writeln!(f, "\nFlows: {live} of {max} in use ({})", percent(live, max))?;
        if let Some(departed @ 1..) = departed {
            writeln!(f, "  {departed} of Service ports that are gone: they stay until they end")?;
        }
        services(f, &stats.services)?;
        upstreams(f, &stats.upstreams)?;
        workers(f, &stats.workers)?;
        writeln!(f, "\nTables: generation {}", stats.generation)?;
        checks(f, &stats.checks)?;
        let StateFile { bytes, objects } = stats.state;
        writeln!(f, "State file: {bytes} bytes, {objects} of them objects")?;
        if stats.panicked_requests > 0 {
            let requests = stats.panicked_requests;
            writeln!(
                f,
                "API: {requests} requests met a bug of the gateway and got 500: report what its log says of them"
            )?;
        }
        if stats.log_lines_lost > 0 {
            let lost = stats.log_lines_lost;
            writeln!(f, "Log: {lost} lines lost: what reads the gateway's stderr is too slow, full or gone")?;
        }
        stats.manifests.as_ref().map_or(Ok(()), |followed| manifests(f, followed))
    }
}

/// Who was asked for names outside the cluster.
fn upstreams(f: &mut fmt::Formatter<'_>, all: &BTreeMap<String, UpstreamStats>) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let width = all.keys().map(String::len).max().unwrap_or(0);
    writeln!(f, "\nDNS upstreams, and how long their responses took")?;
    writeln!(
        f,
        "  {:<width$}  {:>12}{:>12}{:>12}{:>12}{:>12}{:>12}",
        "", "queries", "failures", "50 %", "90 %", "99 %", "all"
    )?;
    for (name, UpstreamStats { queries, failures, down, p50, p90, p99, max }) in all {
        // Without a response there is nothing to measure.
        let time = |micros: &u64| if *max > 0 { format!("{micros} us") } else { "-".to_owned() };
        let [p50, p90, p99, max] = [p50, p90, p99, max].map(time);
        let down = if *down { "  asked last" } else { "" };
        writeln!(f, "  {name:<width$}  {queries:>12}{failures:>12}{p50:>12}{p90:>12}{p99:>12}{max:>12}{down}")?;
    }
    Ok(())
}

fn checks(f: &mut fmt::Formatter<'_>, checks: &[Check]) -> fmt::Result {
    let failed: Vec<(&str, &str)> =
        checks.iter().filter_map(|check| Some((check.name.as_str(), check.fault.as_deref()?))).collect();
    if failed.is_empty() {
        return writeln!(f, "Checks: {} passed", checks.len());
    }
    writeln!(f, "Checks: {} of {} failed", failed.len(), checks.len())?;
    failed.iter().try_for_each(|(name, fault)| writeln!(f, "  {name}: {fault}"))
}

fn manifests(f: &mut fmt::Formatter<'_>, ManifestState { path, objects, faults }: &ManifestState) -> fmt::Result {
    if faults.is_empty() {
        return writeln!(f, "Manifests: {path}: {objects} objects");
    }
    writeln!(f, "Manifests: {path}: errors; the previous objects are still served ({objects} objects)")?;
    faults.iter().try_for_each(|fault| writeln!(f, "  {fault}"))
}

fn frames(f: &mut fmt::Formatter<'_>, counters: &CounterValues) -> fmt::Result {
    let lines = [
        ("rx", counters.counter("rx")),
        ("originated", counters.counter("originated")),
        ("tx", counters.counter("tx")),
        ("passed", counters.passed),
        ("consumed", counters.counter("consumed")),
        ("dropped", counters.dropped()),
        ("held", counters.counter("held")),
    ];
    writeln!(f, "Frames")?;
    for (name, value) in lines {
        let declared = DECLARED.iter().find(|counter| counter.name == name);
        let sentence = declared.map_or_else(|| sum_sentence(name), |counter| counter.sentence);
        writeln!(f, "  {name:<11}{value:>15}  {sentence}")?;
    }
    for Declaration { name, sentence, .. } in
        DECLARED.iter().filter(|counter| lines.iter().all(|(line, _)| line != &counter.name))
    {
        if let Some(value) = counters.counters.get(*name) {
            writeln!(f, "  {name:<11}{value:>15}  {sentence}")?;
        }
    }
    balance(f, counters)
}

/// The meaning of the numbers that are sums, not counters of their own.
fn sum_sentence(name: &str) -> &'static str {
    match name {
        "passed" => "Frames left to the kernel because they are not for the gateway.",
        _ => "Frames that were not delivered; listed by reason below.",
    }
}

fn balance(f: &mut fmt::Formatter<'_>, counters: &CounterValues) -> fmt::Result {
    let (came, went) = counters.balance();
    let sum = "rx + originated = tx + passed + consumed + dropped + held";
    match came.abs_diff(went) {
        0 => writeln!(f, "  It adds up: {sum} = {came}"),
        // A worker's counters are read while it works: what it has in hand is on one side only.
        difference => writeln!(
            f,
            "  {came} frames came in and {went} are accounted for; the workers are processing {difference} now. With \
             idle workers both sides are equal ({sum}); if the difference stays, report a bug."
        ),
    }
}

fn drops(f: &mut fmt::Formatter<'_>, drops: &BTreeMap<String, u64>) -> fmt::Result {
    let mut rows: Vec<_> = drops.iter().filter(|(_, count)| **count > 0).collect();
    if rows.is_empty() {
        return writeln!(f, "\nDrops: none");
    }
    // What needs somebody comes first, the biggest first.
    rows.sort_by_key(|(name, count)| {
        let severity = DropReason::from_name(name).map_or(Severity::Error, DropReason::severity);
        std::cmp::Reverse((severity, **count))
    });
    writeln!(f, "\nDrops")?;
    for (name, count) in rows {
        let Some(reason) = DropReason::from_name(name) else {
            writeln!(
                f,
                "  {name:<24}{count:>15}  A reason that this pollgate does not know: use the same version as the gateway."
            )?;
            continue;
        };
        let severity = format!("{:?}", reason.severity()).to_lowercase();
        writeln!(f, "  {name:<24}{count:>15}  {severity}: {}", reason.sentence())?;
        writeln!(f, "  {:<39}  What to do: {}", "", reason.action())?;
    }
    Ok(())
}

fn passes(f: &mut fmt::Formatter<'_>, passes: &BTreeMap<String, u64>) -> fmt::Result {
    let rows: Vec<_> = passes.iter().filter(|(_, count)| **count > 0).collect();
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nLeft to the kernel")?;
    for (name, count) in rows {
        let sentence =
            PassReason::from_name(name).map_or("A reason that this pollgate does not know.", PassReason::sentence);
        writeln!(f, "  {name:<24}{count:>15}  {sentence}")?;
    }
    Ok(())
}

fn services(f: &mut fmt::Formatter<'_>, services: &ServiceStats) -> fmt::Result {
    if services.is_empty() {
        return writeln!(f, "\nServices: none");
    }
    let names = services.iter().flat_map(|(name, service)| {
        let backends = service.backends.keys().map(|backend| backend.len() + INDENT.len());
        backends.chain([name.len()])
    });
    let width = names.max().unwrap_or(0).max("Services".len());
    let head = format!("{:<width$}", "Services", width = width + 2);
    writeln!(f, "\n{head}{:>15}{:>20}{:>15}{:>15}", "packets", "bytes", "flows opened", "live flows")?;
    let mut line = |name: &str, Values { packets, bytes, flows, live }: &Values| {
        let live = live.map_or("?".to_owned(), |live| live.to_string());
        writeln!(f, "  {name:<width$}{packets:>15}{bytes:>20}{flows:>15}{live:>15}")
    };
    for (name, service) in services {
        line(name, &service.all)?;
        let backends = service.backends.iter().map(|(backend, values)| (backend.as_str(), values));
        for (backend, values) in backends.chain(service.others.iter().map(|values| (OTHERS, values))) {
            line(&format!("{INDENT}{backend}"), values)?;
        }
    }
    Ok(())
}

fn workers(f: &mut fmt::Formatter<'_>, workers: &[CounterValues]) -> fmt::Result {
    if workers.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nWorkers{:>15}{:>15}{:>15}{:>15}", "rx", "tx", "passed", "dropped")?;
    for (index, worker) in workers.iter().enumerate() {
        let (rx, tx, passed, dropped) = (worker.counter("rx"), worker.counter("tx"), worker.passed, worker.dropped());
        writeln!(f, "  {index:<5}{rx:>15}{tx:>15}{passed:>15}{dropped:>15}")?;
    }
    Ok(())
}

/// `part` of `whole` in per cent, to a tenth; integers, so that no count is ever rounded to a float.
fn percent(part: u64, whole: u64) -> String {
    let tenths = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{} %", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(value: serde_json::Value) -> String {
        Shown(&serde_json::from_value(value).unwrap()).to_string()
    }

    #[test]
    fn the_whole_page() {
        let text = rendered(json!({
            "counters": {"rx": 100, "originated": 3, "tx": 90, "passed": 5, "consumed": 1, "held": 2,
                "bursts": 40, "drops": {"runt": 1, "no_route": 4}, "passes": {"arp": 5}},
            "services": {
                "default/web:80": {"packets": 80, "bytes": 8000, "flows": 4, "live": 3,
                    "backends": {"10.244.1.10:8080": {"packets": 50, "bytes": 5000, "flows": 2, "live": 2},
                        "10.244.1.11:8080": {"packets": 20, "bytes": 2000, "flows": 1, "live": 1}},
                    "others": {"packets": 10, "bytes": 1000, "flows": 1, "live": 0}},
                "default/dns:53": {"packets": 1, "bytes": 2, "flows": 1}},
            "flows": {"live": 4, "max": 1024, "departed": 1},
            "workers": [{"rx": 60, "tx": 50, "drops": {"runt": 1}}, {"rx": 40, "tx": 40, "passed": 5}],
            "generation": 7, "state": {"bytes": 1589248, "objects": 20480}
        }));
        for line in [
            "  rx                     100  Frames received.",
            "  passed                   5  Frames left to the kernel because they are not for the gateway.",
            "  dropped                  5  Frames that were not delivered; listed by reason below.",
            "  bursts                  40  Bursts processed.",
            "  It adds up: rx + originated = tx + passed + consumed + dropped + held = 103",
            "  runt                                  1  notice: The frame is shorter than an Ethernet header.",
            "  arp                                   5  An ARP packet that is not about an owned address.",
            "State file: 1589248 bytes, 20480 of them objects",
            "Flows: 4 of 1024 in use (0.3 %)",
            "  1 of Service ports that are gone: they stay until they end",
            "Services                    packets               bytes   flows opened     live flows",
            "  default/web:80                 80                8000              4              3",
            "    10.244.1.10:8080             50                5000              2              2",
            "    10.244.1.11:8080             20                2000              1              1",
            "    (others)                     10                1000              1              0",
            "  default/dns:53                  1                   2              1              ?",
            "Workers             rx             tx         passed        dropped",
            "  0                 60             50              0              1",
            "Tables: generation 7",
        ] {
            assert!(text.lines().any(|other| other == line), "{line:?} is missing in\n{text}");
        }
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("no_route") < at("runt "), "an error comes before a notice:\n{text}");
        assert!(text.contains("What to do: Add the route on the gateway host"), "{text}");
    }

    #[test]
    fn an_upstream_without_a_response_has_no_times() {
        let text = rendered(json!({"upstreams": {
            "192.0.2.53:53": {"queries": 3, "failures": 1, "p50": 0, "p90": 900, "p99": 900, "max": 900},
            "192.0.2.54:53": {"queries": 2, "failures": 2, "down": true}}}));
        for line in [
            "  192.0.2.53:53             3           1        0 us      900 us      900 us      900 us",
            "  192.0.2.54:53             2           2           -           -           -           -  asked last",
        ] {
            assert!(text.lines().any(|other| other == line), "{line:?} is missing in\n{text}");
        }
    }

    #[test]
    fn what_does_not_add_up_is_said() {
        let text = rendered(json!({"counters": {"rx": 100, "tx": 64}}));
        assert!(
            text.contains("100 frames came in and 64 are accounted for; the workers are processing 36 now."),
            "{text}"
        );
    }

    #[test]
    fn an_idle_gateway() {
        let text = rendered(json!({}));
        assert!(text.contains("Drops: none") && text.contains("Services: none"), "{text}");
        assert!(text.contains("It adds up"), "{text}");
    }

    #[test]
    fn a_reason_of_another_version_is_shown_and_not_hidden() {
        let text = rendered(json!({"counters": {"rx": 1, "drops": {"gremlins": 1}}}));
        assert!(text.contains("gremlins") && text.contains("does not know"), "{text}");
    }

    #[test]
    fn percentages() {
        assert_eq!((percent(0, 0), percent(1, 3), percent(5, 5)), ("0.0 %".into(), "33.3 %".into(), "100.0 %".into()));
    }
}

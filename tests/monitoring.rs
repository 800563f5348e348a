//! The dashboard and the alerts in `examples/prometheus` use metrics and labels that exist, and alerts point to text that exists.

use std::collections::BTreeMap;
use std::path::Path;

use pollgate_control::observe::metrics::compatible::COMPATIBLE;
use pollgate_control::observe::metrics::list::{self, Kind};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every series that a gateway has, with its labels.
fn series() -> BTreeMap<String, Vec<&'static str>> {
    let mut all = BTreeMap::new();
    for metric in list::all().iter().chain(COMPATIBLE) {
        let name = metric.name();
        if metric.kind == Kind::Histogram {
            let bound = metric.labels.iter().copied().chain(["le"]).collect();
            all.insert(format!("{name}_bucket"), bound);
            all.insert(format!("{name}_sum"), metric.labels.to_vec());
            all.insert(format!("{name}_count"), metric.labels.to_vec());
        } else {
            all.insert(name, metric.labels.to_vec());
        }
    }
    all
}

/// The names of series in a text, each with the labels that it is selected by.
fn used(text: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut used = Vec::new();
    for prefix in ["pollgate_", "process_", "kubeproxy_", "coredns_"] {
        for (at, _) in text.match_indices(prefix) {
            if text[..at].ends_with(is_name) {
                continue;
            }
            let rest = &text[at..];
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            let matchers = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
            let label = |matcher: &str| Some(matcher.split(['=', '!']).next()?.trim().to_owned());
            let labels = matchers.split(',').filter_map(label).filter(|label| !label.is_empty());
            used.push((name.to_owned(), labels.collect()));
        }
    }
    used
}

#[test]
fn what_dashboard_and_alerts_use_exists() {
    let all = series();
    for name in ["dashboard.json", "alerts.yaml", "alerts.test.yaml"] {
        // Quotation marks within JSON's strings.
        let text = file(&format!("examples/prometheus/{name}")).replace("\\\"", "\"");
        let used = used(&text);
        assert!(used.len() > 15, "{name}: {used:?}");
        for (metric, labels) in used {
            let known = all.get(&metric).unwrap_or_else(|| panic!("{name}: there is no {metric}"));
            for label in labels {
                // Prometheus adds the first two.
                let exists = ["instance", "job"].contains(&&*label) || known.contains(&&*label);
                assert!(exists, "{name}: {metric} has no {label}");
            }
        }
    }
}

#[test]
fn every_alert_is_tried_both_ways_and_points_to_the_guide() {
    let (alerts, tests) = (file("examples/prometheus/alerts.yaml"), file("examples/prometheus/alerts.test.yaml"));
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        for kind in ["fires", "is quiet"] {
            assert!(tests.contains(&format!("- name: {name} {kind}\n")), "{name}: no test that it {kind}");
        }
    }
    let runbooks: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("runbook: ")).collect();
    assert_eq!(runbooks.len(), names.len());
    for runbook in runbooks {
        for guide in ["docs/operations.md", "docs/security.md"] {
            let text = file(guide);
            for (at, _) in runbook.match_indices(&format!("{guide}, ")) {
                let section = runbook[at + guide.len() + 2..].split([':', ';', '.', '"', '?']).next().expect("a name");
                let has = |heading: &str| text.contains(&format!("\n{heading} {section}"));
                assert!(has("##") || has("###"), "{runbook}: {guide} has no section {section:?}");
            }
        }
    }
}

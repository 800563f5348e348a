//! The operations guide lists every counter as it is declared. `UPDATE_DOCS=1 cargo test --test offline docs` writes the lists anew.

use std::fmt::Write as _;
use std::path::Path;

use pollgate::host::capability::{GATEWAY, Need, PACKET, XDP};
use pollgate_common::counters::{DECLARED, Declaration};
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_control::observe::metrics;
use pollgate_control::observe::metrics::list::Metric;
use pollgate_control::threads::Role;

fn lists() -> [(&'static str, String); 5] {
    let mut counters = String::from("| counter | kind | unit | meaning |\n|---|---|---|---|\n");
    for Declaration { name, kind, unit, sentence } in DECLARED {
        let _ = writeln!(counters, "| `{name}` | {} | {} | {sentence} |", kind.name(), unit.name());
    }
    let mut drops = String::from("| reason | what happened | what to do | severity |\n|---|---|---|---|\n");
    for reason in DropReason::ALL {
        let (name, severity) = (reason.name(), reason.severity().name());
        let _ = writeln!(drops, "| `{name}` | {} | {} | {severity} |", reason.sentence(), reason.action());
    }
    let mut passes = String::from("| reason | what it was | what to do |\n|---|---|---|\n");
    for reason in PassReason::ALL {
        let _ = writeln!(passes, "| `{}` | {} | {} |", reason.name(), reason.sentence(), reason.action());
    }
    let [metrics, compatible] = [metrics::list::all(), metrics::compatible::COMPATIBLE].map(metric_table);
    [
        ("counters", counters),
        ("drops", drops),
        ("passes", passes),
        ("metrics", metrics),
        ("compatible metrics", compatible),
    ]
}

fn metric_table(metrics: &[Metric]) -> String {
    let mut table = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for metric in metrics {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels) = (metric.name(), metric.kind.name(), labels.join(", "));
        let _ = writeln!(table, "| `{name}` | {kind} | {labels} | {} |", metric.help);
    }
    table
}

#[test]
fn the_operations_guide_lists_every_counter_as_declared() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let mut text = std::fs::read_to_string(&path).expect("docs/operations.md");
    let before = text.clone();
    for (name, list) in lists() {
        let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let start = text.find(&open).expect("the list's start") + open.len();
        let end = text.find(&close).expect("the list's end");
        text.replace_range(start..end, &list);
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).expect("writing docs/operations.md");
        return;
    }
    assert!(
        before == text,
        "docs/operations.md differs from the declarations: UPDATE_DOCS=1 cargo test --test offline docs"
    );
}

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn names<'a>(needs: impl IntoIterator<Item = &'a Need>) -> Vec<&'static str> {
    let mut names: Vec<&str> = needs.into_iter().map(|need| need.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn the_unit_gives_the_capabilities_of_every_port_and_no_others() {
    let unit = file("packaging/pollgate.service");
    let setting =
        |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).expect("a setting");
    let capabilities = |key: &str| {
        let mut names: Vec<&str> = setting(key).split(' ').collect();
        names.sort_unstable();
        names
    };
    let mut needed = names(GATEWAY.iter().chain(PACKET).chain(XDP));
    // The limit does the same.
    needed.retain(|name| *name != "CAP_IPC_LOCK");
    assert_eq!(setting("LimitMEMLOCK"), "infinity");
    assert_eq!(capabilities("AmbientCapabilities"), needed);
    assert_eq!(capabilities("CapabilityBoundingSet"), needed);
}

#[test]
fn the_guides_list_every_capability_and_every_thread() {
    let (operations, security) = (file("docs/operations.md"), file("docs/security.md"));
    let row = |text: &str, start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    for name in names(GATEWAY.iter().chain(PACKET).chain(XDP)) {
        assert_eq!(row(&operations, &format!("| {name} | ")), 1, "{name}");
    }
    let (_, section) = security.split_once("\n## What each part may do\n").expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let table: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    for role in Role::ALL {
        let name = match role {
            Role::Main => "`pollgate`",
            Role::Worker => "`worker-N`",
            other => &format!("`{}`", other.name()),
        };
        let first = |line: &&&str| line.split(" | ").next().is_some_and(|threads| threads.contains(name));
        assert_eq!(table.iter().filter(first).count(), 1, "{name}");
    }
}

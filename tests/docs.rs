//! The operations guide lists every counter as it is declared. `UPDATE_DOCS=1 cargo test --test offline docs` writes the lists anew.

use std::fmt::Write as _;
use std::path::Path;

use pollgate_common::counters::{DECLARED, Declaration};
use pollgate_common::reasons::{DropReason, PassReason, Severity};

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn lists() -> [(&'static str, String); 3] {
    let mut counters = String::from("| counter | kind | unit | meaning |\n|---|---|---|---|\n");
    for Declaration { name, kind, unit, sentence } in DECLARED {
        let _ = writeln!(counters, "| `{name}` | {} | {} | {sentence} |", kind.name(), unit.name());
    }
    let mut drops = String::from("| reason | what happened | what to do | severity |\n|---|---|---|---|\n");
    for reason in DropReason::ALL {
        let (name, severity_word) = (reason.name(), severity(reason.severity()));
        let _ = writeln!(drops, "| `{name}` | {} | {} | {severity_word} |", reason.sentence(), reason.action());
    }
    let mut passes = String::from("| reason | what it was | what to do |\n|---|---|---|\n");
    for reason in PassReason::ALL {
        let _ = writeln!(passes, "| `{}` | {} | {} |", reason.name(), reason.sentence(), reason.action());
    }
    [("counters", counters), ("drops", drops), ("passes", passes)]
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

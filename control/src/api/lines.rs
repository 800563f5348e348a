//! The lines of a watch: one event each, as JSON.
//!
//! ```text
//! change of a commit ─ Event::of (each watcher's selectors) ─▶ ADDED | MODIFIED | DELETED
//!                                                                   └─ Lines::line ─▶ {"type":…,"object":…}\n
//! ```
//!
//! An event is the same bytes for every client that gets it in the same form, so it is encoded once and shared: a thousand
//! watchers of one kind cost a thousand writes of one buffer. Encoded lines are kept while [`KEPT`] bytes have room for
//! them, which is for the most recent commits. For a watcher further behind they are encoded again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ahash::HashMap;
use axum::body::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::form::{Form, Media, MetaVersion, View};
use super::protobuf;
use super::render;
use super::selector::Wanted;
use super::status::Status;
use crate::cluster::{Change, Commit};
use crate::objects::{Kind, Object};

/// The annotation of the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Encoded lines that are kept for sharing, bytes.
const KEPT: usize = 8 << 20;

/// What a change is to a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    Added,
    Modified,
    Deleted,
}

impl Event {
    /// The event of `change` for a client that selects these objects. An object that no longer matches is deleted for it, and
    /// one that begins to match is added, whatever happened to the object itself.
    pub(crate) fn of(change: &Change, wanted: &Wanted) -> Option<Self> {
        if !wanted.covers(&change.key) {
            return None;
        }
        let selected = |object: &Option<Arc<Object>>| object.as_ref().is_some_and(|object| wanted.selects(object));
        match (selected(&change.old), selected(&change.new)) {
            (false, false) => None,
            (false, true) => Some(Self::Added),
            (true, true) => Some(Self::Modified),
            (true, false) => Some(Self::Deleted),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }

    /// The object to show: its current version, or its last one with the revision of its deletion.
    fn object(self, change: &Change, revision: u64) -> Option<Arc<Object>> {
        if self != Self::Deleted {
            return change.new.clone();
        }
        let mut object = Object::clone(change.old.as_deref()?);
        object.metadata_mut().resource_version = Some(revision.to_string());
        Some(Arc::new(object))
    }
}

/// Recently encoded lines.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<Kept>);

/// Which line: of which commit and change, as which event, in which form. Tables show ages, so theirs are per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    revision: u64,
    index: usize,
    event: Event,
    form: Form,
    second: i64,
}

#[derive(Debug, Default)]
struct Kept {
    lines: HashMap<Name, Bytes>,
    order: VecDeque<Name>,
    bytes: usize,
}

impl Lines {
    /// The line of `commit`'s change number `index`. Tables come without their columns.
    pub(crate) fn line(&self, commit: &Commit, index: usize, event: Event, form: Form) -> Option<Bytes> {
        let now = Timestamp::now();
        let second = if matches!(form.view, View::Table(..)) { now.as_second() } else { 0 };
        let name = Name { revision: commit.revision, index, event, form, second };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = kept.lines.get(&name) {
            return Some(line.clone());
        }
        let object = event.object(commit.changes.get(index)?, commit.revision)?;
        let line = Bytes::from(line(event, &object, form, None, now));
        kept.keep(name, line.clone());
        Some(line)
    }
}

impl Kept {
    fn keep(&mut self, name: Name, line: Bytes) {
        self.bytes += line.len();
        self.order.push_back(name);
        self.lines.insert(name, line);
        while self.bytes > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.lines.remove(&oldest).map_or(0, |line| line.len());
        }
    }
}

/// The line of an event; `columns` go with the first Table of a watch.
fn line(event: Event, object: &Object, form: Form, columns: Option<&Value>, now: Timestamp) -> Vec<u8> {
    let shown = match form.view {
        View::Table(version, include) => {
            let revision = object.metadata().resource_version.as_deref().unwrap_or_default();
            table(version, revision, columns, render::row(object, include, version, now))
        }
        view => view.of(object).unwrap_or_default(),
    };
    encoded(event.name(), &shown, form.media)
}

fn table(version: MetaVersion, revision: &str, columns: Option<&Value>, row: Option<Value>) -> Value {
    let rows: Vec<Value> = row.into_iter().collect();
    json!({
        "kind": "Table", "apiVersion": version.api_version(), "metadata": {"resourceVersion": revision},
        "columnDefinitions": columns, "rows": rows,
    })
}

/// An `ADDED` for an object that existed before the watch began.
pub(crate) fn initial(object: &Object, form: Form, columns: Option<&Value>) -> Vec<u8> {
    line(Event::Added, object, form, columns, Timestamp::now())
}

/// The first line of a watch of Tables: `commit`'s change with the columns. It is not shared.
pub(crate) fn first_table(commit: &Commit, index: usize, event: Event, form: Form, columns: &Value) -> Option<Bytes> {
    let object = event.object(commit.changes.get(index)?, commit.revision)?;
    Some(line(event, &object, form, Some(columns), Timestamp::now()).into())
}

/// A bookmark: everything up to `revision` has been sent.
pub(crate) fn bookmark(kind: Kind, revision: u64, form: Form, ends_initial_events: bool) -> Bytes {
    let revision = revision.to_string();
    let (name, version) = match form.view {
        View::Metadata(version) => ("PartialObjectMetadata", version.api_version()),
        View::Whole | View::Table(..) => (kind.name(), kind.api_version()),
    };
    let mut object = match form.view {
        View::Table(version, _) => table(version, &revision, None, None),
        View::Whole | View::Metadata(_) => {
            json!({"kind": name, "apiVersion": version, "metadata": {"resourceVersion": revision}})
        }
    };
    if ends_initial_events {
        object["metadata"]["annotations"] = json!({INITIAL_EVENTS_END: "true"});
    }
    encoded("BOOKMARK", &object, form.media).into()
}

/// The end of a watch that cannot continue.
pub(crate) fn error(status: &Status, form: Form) -> Bytes {
    encoded("ERROR", &status.to_value(), form.media).into()
}

fn encoded(event: &str, object: &Value, media: Media) -> Vec<u8> {
    match media {
        Media::Protobuf => protobuf::watch_event(event, object),
        Media::Json | Media::Yaml => format!("{{\"type\":\"{event}\",\"object\":{object}}}\n").into_bytes(),
    }
}

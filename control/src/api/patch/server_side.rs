//! Server-side apply: several appliers, each with the fields it wants.
//!
//! ```text
//! applied ─▶ its fields ─┬─ another applier's, with another value ─▶ conflict, unless forced: then it loses them
//!                        ├─ laid over the object, lists by their keys
//!                        └─ applied before, not now, and by no other applier ─▶ removed
//! ```
//!
//! What is stored is who applied what (`managedFields` of operation `Apply`, see [`crate::admission::ownership`]), which is what the three
//! rules above need. Other writers are not recorded: a field that another client changed by an ordinary write has
//! no owner, so the next apply sets it again without a conflict, where the API server would report one.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::super::body;
use super::super::decode::{Decoded, Sent};
use super::super::request::{Part, Target};
use super::super::status::Status;
use super::result::{decode_result, pin};
use crate::admission::ownership::{self, FieldManager, FieldSet};
use crate::objects::allowance::Allowance;
use crate::objects::decode::Source;
use crate::objects::fault::Fault;
use crate::objects::merge::{Rules, overlay, without_nulls};
use crate::objects::schema::Shape;
use crate::objects::{Draft, Object};

/// What was applied, by whom.
pub(super) struct Apply {
    manager: String,
    subresource: &'static str,
    force: bool,
    shape: &'static Shape,
    wanted: Value,
    fields: FieldSet,
}

impl Apply {
    pub(super) async fn read(target: &Target, bytes: Vec<u8>) -> Result<Self, Status> {
        let manager = target.options.manager.clone();
        if manager.is_empty() {
            let fault = Fault::required("fieldManager", "is required for apply patch");
            return Err(Status::invalid_options("PatchOptions", &fault.into()));
        }
        let mut wanted = without_nulls(body::decode_one(bytes, "application/yaml").await?.value);
        settle_header(target, &mut wanted)?;
        let subresource = if target.part == Part::Status { "status" } else { "" };
        if let (Part::Status, Some(fields)) = (target.part, wanted.as_object_mut()) {
            fields.retain(|name, _| name != "spec");
        }
        let shape = Shape::of(target.kind);
        let fields = FieldSet::of(shape, &wanted).map_err(|reason| untyped(target, &reason))?;
        Ok(Self { manager, subresource, force: target.options.force == Some(true), shape, wanted, fields })
    }

    /// The object with what was applied, or the conflicts.
    pub(super) fn apply(&self, target: &Target, current: Option<&Object>, size: usize) -> Result<Decoded, Status> {
        let size = size + current.map_or(0, Object::json_length);
        if current.is_none() && target.part == Part::Status {
            return Err(Status::not_found(&target.key()));
        }
        let live = current.map(Object::to_value);
        let mut managers = current.map(ownership::managers).unwrap_or_default();
        let mine = managers.iter().position(|manager| self.is(manager)).map(|index| managers.remove(index));
        self.settle_conflicts(live.as_ref(), &mut managers)?;
        let mut value = self.lay_over(live.clone());
        for path in self.dropped(mine.as_ref(), &managers) {
            ownership::remove(&mut value, path);
        }
        if let Some(current) = current {
            pin(target, current, &mut value)?;
        }
        let unchanged = Some(&value) == live.as_ref();
        let mut decoded = self.decode(target, value, size)?;
        managers.push(match mine {
            Some(mine) if unchanged && mine.fields == self.fields => mine,
            _ => FieldManager::new(&decoded.object, &self.manager, self.subresource, self.fields.clone(), now()),
        });
        ownership::record(&mut decoded.object, managers);
        Ok(decoded)
    }

    fn is(&self, manager: &FieldManager) -> bool {
        manager.name == self.manager && manager.subresource == self.subresource
    }

    /// Takes fields with another value over from other managers, if `force` is set.
    fn settle_conflicts(&self, live: Option<&Value>, managers: &mut [FieldManager]) -> Result<(), Status> {
        let find = |value: Option<&Value>, path: &ownership::Path| {
            value.and_then(|value| ownership::find(value, path)).cloned()
        };
        let differs = |path: &ownership::Path| {
            let item = path.last().is_some_and(|step| step.starts_with("k:"));
            !item && find(live, path) != find(Some(&self.wanted), path)
        };
        let mut conflicts = Vec::new();
        for manager in managers {
            let disputed = manager.fields.0.intersection(&self.fields.0).filter(|path| differs(path));
            let disputed: BTreeSet<ownership::Path> = disputed.cloned().collect();
            let name = match manager.subresource.as_str() {
                "" => format!("{:?}", manager.name),
                part => format!("{:?} with subresource {part:?}", manager.name),
            };
            conflicts.extend(disputed.iter().map(|path| (name.clone(), ownership::told(path))));
            manager.fields.0.retain(|path| !disputed.contains(path));
        }
        match conflicts.is_empty() || self.force {
            true => Ok(()),
            false => Err(Status::apply_conflict(&conflicts)),
        }
    }

    fn lay_over(&self, live: Option<Value>) -> Value {
        let Some(mut value) = live else {
            return self.wanted.clone();
        };
        overlay(Rules::ServerSide, self.shape, &mut value, self.wanted.clone());
        value
    }

    /// Fields that were applied before and are not now, and that no other applier has.
    fn dropped<'a>(
        &'a self,
        mine: Option<&'a FieldManager>,
        others: &'a [FieldManager],
    ) -> impl Iterator<Item = &'a ownership::Path> {
        let held = move |path: &ownership::Path| {
            let below = |set: &FieldSet| set.0.range(path.clone()..).next().is_some_and(|next| next.starts_with(path));
            below(&self.fields) || others.iter().any(|manager| below(&manager.fields))
        };
        mine.into_iter().flat_map(|manager| &manager.fields.0).filter(move |path| !held(path))
    }

    fn decode(&self, target: &Target, value: Value, size: usize) -> Result<Decoded, Status> {
        let mut draft = Draft::read(Source::Value(&value), None, &Allowance::of_text(size))
            .map_err(|unread| Status::unread(&unread))?;
        let unknown = std::mem::take(&mut draft.unknown);
        draft.leniently(target.namespace()).map_err(|faults| Status::from_faults(&self.wanted, &faults))?;
        match unknown.first() {
            Some(fault) => Err(untyped(target, &format!(".{}: field not declared in schema", fault.field))),
            None => decode_result(target, &Sent::from(value), size, Value::to_string),
        }
    }
}

/// Checks the header of an applied object, and fills in what it may leave to the path.
fn settle_header(target: &Target, wanted: &mut Value) -> Result<(), Status> {
    let kind = target.kind;
    let text = |pointer: &str| wanted.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, name) = (text("/apiVersion"), text("/kind"));
    if (version, name) != (kind.api_version(), kind.name()) {
        return Err(Status::bad_request(format!(
            "the applied object must be a {} of {:?}, found kind {name:?} and apiVersion {version:?}",
            kind.name(),
            kind.api_version()
        )));
    }
    if wanted.pointer("/metadata/managedFields").is_some() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let Some(fields) = wanted.as_object_mut() else {
        return Err(Status::bad_request("the applied object must be a map"));
    };
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.entry("name").or_insert_with(|| target.name.clone().into());
        if kind.namespaced() {
            metadata.entry("namespace").or_insert_with(|| target.namespace().into());
        }
    }
    Ok(())
}

fn untyped(target: &Target, reason: &str) -> Status {
    let (kind, key) = (target.kind, target.key());
    let name = if key.namespace.is_empty() { key.name } else { format!("{}/{}", key.namespace, key.name) };
    let version = kind.api_version();
    let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
    Status::bad_request(format!(
        "failed to create typed patch object ({name}; {version}, Kind={}): {reason}",
        kind.name()
    ))
}

/// The current time as objects store it: to the second.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

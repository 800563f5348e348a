//! The options of a deletion: `DeleteOptions`, in the query or in the body.
//!
//! `gracePeriodSeconds` makes a Pod terminating for that time; without it, and for every other kind, the object is removed at
//! once. `propagationPolicy` is validated and has no effect: what belongs to an object (a Service's EndpointSlices, everything
//! in a namespace) is deleted in the same commit, so nothing is deleted in the background and nothing is orphaned.

use serde_json::Value;

use super::query::dry_run;
use super::status::Status;
use crate::cluster::{Preconditions, Write};
use crate::objects::{Key, Kind};

/// The options of a deletion.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Deletion {
    pub(crate) dry_run: bool,
    /// Seconds of terminating; `None` if not given.
    pub(crate) grace: Option<u32>,
    /// Which object is meant. Checked where the deletion is planned: the replica may be behind.
    pub(crate) preconditions: Preconditions,
}

impl Deletion {
    /// From the query.
    pub(crate) fn parse(grace: &str, policy: &str) -> Result<Self, Status> {
        check_policy(policy)?;
        let grace = if grace.is_empty() { None } else { Some(seconds(&Value::from(grace.parse::<i64>().ok()))?) };
        Ok(Self { grace, ..Self::default() })
    }

    /// With the options in the body, which take precedence.
    pub(crate) fn with_body(self, options: &Value) -> Result<Self, Status> {
        let text = |field: &str| options.get(field).and_then(Value::as_str).unwrap_or_default();
        check_policy(text("propagationPolicy"))?;
        let grace = options.get("gracePeriodSeconds").filter(|grace| !grace.is_null()).map(seconds).transpose()?;
        let dry = options.get("dryRun").and_then(Value::as_array).and_then(|values| values.first());
        let dry = dry.map(|value| dry_run(value.as_str().unwrap_or("not a text"))).transpose()?;
        let precondition = |field: &str| {
            let value = options.pointer(&format!("/preconditions/{field}"));
            value.and_then(Value::as_str).map(str::to_owned)
        };
        let preconditions =
            Preconditions { uid: precondition("uid"), resource_version: precondition("resourceVersion") };
        Ok(Self { dry_run: self.dry_run || dry == Some(true), grace: grace.or(self.grace), preconditions })
    }

    /// The write that deletes an object.
    pub(crate) fn write(&self, key: Key) -> Write {
        let preconditions = self.preconditions.clone();
        match self.grace {
            Some(grace) if grace > 0 && key.kind == Kind::Pod => Write::Terminate(key, grace, preconditions),
            _ => Write::Delete(key, preconditions),
        }
    }
}

fn seconds(value: &Value) -> Result<u32, Status> {
    let seconds = value.as_i64().and_then(|seconds| u32::try_from(seconds).ok());
    seconds.ok_or_else(|| {
        Status::bad_request("gracePeriodSeconds: Invalid value: must be a number of seconds, 0 or more".to_owned())
    })
}

fn check_policy(policy: &str) -> Result<(), Status> {
    match policy {
        "" | "Orphan" | "Background" | "Foreground" => Ok(()),
        other => Err(Status::invalid_option(
            "DeleteOptions",
            "propagationPolicy",
            &format!("Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""),
        )),
    }
}

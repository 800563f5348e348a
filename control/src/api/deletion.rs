//! The options of a deletion: `DeleteOptions`, in the query or in the body.
//!
//! `gracePeriodSeconds` makes a Pod terminating for that time; without it, and for every other kind, the object is removed at
//! once. `propagationPolicy` is validated and has no effect: what belongs to an object (a Service's EndpointSlices, everything
//! in a namespace) is deleted in the same commit, so nothing is deleted in the background and nothing is orphaned.

use serde_json::Value;

use super::query::{dry_run, number};
use super::status::Status;
use crate::cluster::{Preconditions, Write};
use crate::objects::fault::{Fault, Faults};
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
    pub(crate) fn parse(grace: &str, policy: &str, faults: &mut Faults) -> Result<Self, Status> {
        check_policy(policy, faults);
        let grace = number(grace)?.map(seconds);
        Ok(Self { grace, ..Self::default() })
    }

    /// With the options in the body, which take precedence.
    pub(crate) fn with_body(self, options: &Value) -> Result<Self, Status> {
        let text = |field: &str| options.get(field).and_then(Value::as_str).unwrap_or_default();
        let mut faults = Faults::new();
        check_policy(text("propagationPolicy"), &mut faults);
        let grace = match options.get("gracePeriodSeconds") {
            None | Some(Value::Null) => None,
            Some(grace) => Some(seconds(grace.as_i64().ok_or_else(|| {
                Status::bad_request("gracePeriodSeconds: Invalid value: expected a number of seconds")
            })?)),
        };
        let dry = options.get("dryRun").and_then(Value::as_array).and_then(|values| values.first());
        let dry = dry.map(|value| dry_run(value.as_str().unwrap_or("not a text"), &mut faults));
        if !faults.is_empty() {
            return Err(Status::invalid_options("DeleteOptions", &faults));
        }
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

/// As in Kubernetes, less than nothing is a second.
fn seconds(given: i64) -> u32 {
    if given < 0 { 1 } else { u32::try_from(given).unwrap_or(u32::MAX) }
}

fn check_policy(policy: &str, faults: &mut Faults) {
    const POLICIES: [&str; 3] = ["Foreground", "Background", "Orphan"];
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        faults.push(Fault::not_supported("propagationPolicy", policy, &[&POLICIES[..], &["nil"]].concat()));
    }
}

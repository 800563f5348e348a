//! What a deletion asks beyond its object: `DeleteOptions`, in the query or in the body.
//!
//! `gracePeriodSeconds` makes a Pod terminating for that time; without it, and for every other kind, the object goes at
//! once. `propagationPolicy` is checked and changes nothing: what belongs to an object (a Service's EndpointSlices, all of a
//! namespace) goes with it in the same commit, so there is neither a background to wait for nor an orphan.

use serde_json::Value;

use super::query::dry_run;
use super::status::Status;
use super::view::Replica;
use crate::cluster::Write;
use crate::objects::{Key, Kind};

/// What is asked of a deletion.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deletion {
    pub(crate) dry_run: bool,
    /// Seconds of terminating; nothing if it was not said.
    pub(crate) grace: Option<u32>,
}

impl Deletion {
    /// From the parameters of the query.
    pub(crate) fn parse(grace: &str, policy: &str) -> Result<Self, Status> {
        check_policy(policy)?;
        let grace = if grace.is_empty() { None } else { Some(seconds(&Value::from(grace.parse::<i64>().ok()))?) };
        Ok(Self { dry_run: false, grace })
    }

    /// With what the body says, which counts more.
    pub(crate) fn with_body(self, options: &Value) -> Result<Self, Status> {
        let text = |field: &str| options.get(field).and_then(Value::as_str).unwrap_or_default();
        check_policy(text("propagationPolicy"))?;
        let grace = options.get("gracePeriodSeconds").filter(|grace| !grace.is_null()).map(seconds).transpose()?;
        let dry = options.get("dryRun").and_then(Value::as_array).and_then(|values| values.first());
        let dry = dry.map(|value| dry_run(value.as_str().unwrap_or("not a text"))).transpose()?;
        Ok(Self { dry_run: self.dry_run || dry == Some(true), grace: grace.or(self.grace) })
    }

    /// What is done with an object.
    pub(crate) fn write(self, key: Key) -> Write {
        match self.grace {
            Some(grace) if grace > 0 && key.kind == Kind::Pod => Write::Terminate(key, grace),
            _ => Write::Delete(key),
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

/// Whether the object is the one that the body of its deletion means. Checked against the replica; an object that changes
/// in the instant after that goes as it then is, as if the request had come a little later.
pub(crate) fn check_preconditions(replica: &Replica, key: &Key, options: &Value) -> Result<(), Status> {
    let object = replica.object(key).ok_or_else(|| Status::not_found(key))?;
    let metadata = object.metadata();
    let fields = [
        ("uid", "UID", &metadata.uid, "deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", &metadata.resource_version, "modified"),
    ];
    for (field, name, found, happened) in fields {
        let wanted = options.pointer(&format!("/preconditions/{field}")).and_then(Value::as_str);
        if let Some(wanted) = wanted
            && found.as_deref() != Some(wanted)
        {
            let found = found.as_deref().unwrap_or_default();
            return Err(Status::conflict(
                key,
                &format!(
                    "the {name} in the precondition ({wanted}) does not match the {name} in record ({found}). The \
                     object might have been {happened}"
                ),
            ));
        }
    }
    Ok(())
}

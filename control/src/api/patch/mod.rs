//! Patches: changes of one object, made where the object is.
//!
//! ```text
//! current object ─ json, merge, strategic ─▶ value ─▶ decoded, validated whole ─▶ written at the version it was made from
//!        ▲       └ server_side (with who owns what)                                   │ somebody was faster
//!        └──────────────────────── made anew, a few times ◀───────────────────────────┘
//! ```
//!
//! | `Content-Type` | what it is |
//! |---|---|
//! | `application/json-patch+json` | operations, RFC 6902 |
//! | `application/merge-patch+json` | a merge patch, RFC 7396 |
//! | `application/strategic-merge-patch+json` | a merge patch that knows lists: [`strategic`] |
//! | `application/apply-patch+yaml` | a server-side apply: [`server_side`] |
//!
//! A patch never waits for the control thread to look at the object: it is made from the API's own replica. If that
//! is behind, or somebody writes meanwhile, the write is a conflict, and the commit it conflicts with has reached the replica
//! before its answer did. So another attempt sees it. A patch that names a version means that one: its conflict is told.

mod json;
mod server_side;
mod strategic;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::{Map, Value};

use self::server_side::Apply;
use super::Api;
use super::body::{self, OBJECT_LIMIT};
use super::decode::{Decoded, Sent, decode, warn};
use super::resources::{Part, Target, answer};
use super::status::Status;
use crate::admission::ownership;
use crate::admission::validate;
use crate::cluster::{RefusalReason, Write};
use crate::objects::Object;
use crate::objects::schema::Shape;
use crate::runtime::WriteError;

/// The media types of patches.
pub(crate) const PATCH_TYPES: &[&str] = &[JSON, MERGE, STRATEGIC, APPLY];
const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// How often a change is made anew because somebody else wrote the object meanwhile.
const ATTEMPTS: usize = 5;

/// A patch, read and not yet applied.
enum Patch {
    Json(json::Operations),
    Merge(Sent),
    Strategic(Sent),
    Apply(Box<Apply>),
}

/// `PATCH` of an object or its status.
pub(super) async fn patch(
    State(api): State<Api>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Status> {
    if !headers.contains_key(header::CONTENT_TYPE) {
        return Err(Status::unsupported_media("", PATCH_TYPES));
    }
    let (_claim, bytes, media) = body::read(&api.budget, &headers, body, PATCH_TYPES, OBJECT_LIMIT).await?;
    let size = bytes.len();
    let patch = Patch::read(&target, bytes, media).await?;
    change(&api, &target, size, |current| patch.apply(&target, current)).await
}

/// Makes a change of the object as it is now, and makes it anew while others are faster.
pub(super) async fn change(
    api: &Api,
    target: &Target,
    size: usize,
    make: impl Fn(Option<&Object>) -> Result<Decoded, Status>,
) -> Result<Response, Status> {
    let key = target.key();
    for attempt in 1.. {
        let current = api.replica.object(&key);
        let Decoded { object, warnings } = make(current.as_deref())?;
        let code = if current.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        let write = vec![Write::Exact(object)];
        match api.write(write, target.options.dry_run, api.budget.claim(size)?).await? {
            Ok(commit) => return answer(api, target, &key, &commit, code).map(|response| warn(response, &warnings)),
            Err(error) if was_overtaken(&error) && attempt < ATTEMPTS => {}
            Err(error) => return Err(Status::from_write_error(&key, &error)),
        }
    }
    Err(Status::conflict(&key, "the object keeps changing; please try again"))
}

fn was_overtaken(error: &WriteError) -> bool {
    let WriteError::Refused(refusals) = error else {
        return false;
    };
    refusals.iter().any(|refusal| matches!(refusal.reason, RefusalReason::Conflict | RefusalReason::NotFound))
}

impl Patch {
    async fn read(target: &Target, bytes: Vec<u8>, media: &'static str) -> Result<Self, Status> {
        if media == APPLY {
            return Apply::read(target, bytes).await.map(|apply| Self::Apply(Box::new(apply)));
        }
        if target.options.force.is_some() {
            let fault = "Forbidden: may not be specified for non-apply patch";
            return Err(Status::invalid_option("PatchOptions", "force", fault));
        }
        if media == JSON {
            return json::Operations::read(&bytes).map(Self::Json);
        }
        let sent = body::decode_one(bytes, media).await?;
        if !sent.value.is_object() {
            return Err(Status::bad_request("a merge patch of an object must be a JSON object"));
        }
        Ok(if media == MERGE { Self::Merge(sent) } else { Self::Strategic(sent) })
    }

    fn apply(&self, target: &Target, current: Option<&Object>) -> Result<Decoded, Status> {
        if let Self::Apply(apply) = self {
            return apply.apply(target, current);
        }
        let current = current.ok_or_else(|| Status::not_found(&target.key()))?;
        let before = current.to_value();
        let mut after = before.clone();
        let repeated = match self {
            Self::Json(operations) => operations.apply(&mut after).map(|()| Vec::new())?,
            Self::Merge(patch) => {
                json_patch::merge(&mut after, &patch.value);
                patch.repeated.clone()
            }
            Self::Strategic(patch) => {
                after = strategic::merge(Shape::of(target.kind), after, &patch.value)
                    .map_err(|reason| Status::bad_request(format!("the patch does not fit the object: {reason}")))?;
                patch.repeated.clone()
            }
            Self::Apply(_) => Vec::new(),
        };
        if target.part == Part::Status {
            after = only_status(before, after);
        }
        finish(target, current, Sent { value: after, repeated })
    }
}

/// The object with nothing of `sent` but its status, and the version it is for.
pub(super) fn only_status(current: Value, mut sent: Value) -> Value {
    let mut value = current;
    let version = sent.pointer("/metadata/resourceVersion").filter(|version| version.is_string()).cloned();
    if let (Some(version), Some(metadata)) = (version, value.get_mut("metadata")) {
        metadata["resourceVersion"] = version;
    }
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
        fields
            .extend(sent.get_mut("status").filter(|status| !status.is_null()).map(|s| ("status".to_owned(), s.take())));
    }
    value
}

/// Checks what became of `current`, and who still owns what in it.
pub(super) fn finish(target: &Target, current: &Object, mut sent: Sent) -> Result<Decoded, Status> {
    pin(target, current, &mut sent.value)?;
    let mut decoded = decode_result(target, &sent)?;
    ownership::carry(current, &mut decoded.object);
    Ok(decoded)
}

/// What came of a change, if it is an object still. Whoever reports an address of a Service that cannot have one is told so; on the
/// main path it is dropped in silence, for there it may be what is left of another type.
fn decode_result(target: &Target, sent: &Sent) -> Result<Decoded, Status> {
    let decoded = decode(target, sent)?;
    let misplaced = decoded.object.as_service().and_then(validate::misplaced_addresses);
    match misplaced.filter(|_| target.part == Part::Status) {
        Some(fault) => Err(Status::from_faults(&sent.value, &[fault])),
        None => Ok(decoded),
    }
}

/// Whoever names a version means that one; who names none means the one that was read.
fn pin(target: &Target, current: &Object, value: &mut Value) -> Result<(), Status> {
    let version = current.metadata().resource_version.clone().unwrap_or_default();
    let Some(metadata) = metadata_of(value) else {
        return Ok(());
    };
    match metadata.get("resourceVersion").and_then(Value::as_str) {
        Some(given) if !given.is_empty() && given != version => Err(Status::conflict(
            &target.key(),
            "the object has been modified; please apply your changes to the latest version and try again",
        )),
        _ => {
            metadata.insert("resourceVersion".to_owned(), version.into());
            Ok(())
        }
    }
}

fn metadata_of(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.get_mut("metadata")?.as_object_mut()
}

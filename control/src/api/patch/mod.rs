//! Patches: changes of one object.
//!
//! ```text
//! current object ─ json, merge, strategic ─▶ value ─▶ decoded, validated whole ─▶ written at the version it was made from
//!        ▲       └ server_side (with who owns what)                                   │ conflict
//!        └──────────────────────── repeated, a few times ◀────────────────────────────┘
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
//! is behind, or another client writes meanwhile, the write is a conflict, and the commit it conflicts with has reached the replica
//! before its response did. So another attempt sees it. A patch that names a version applies to that one only: its conflict is
//! returned.

mod json;
mod result;
mod server_side;
mod strategic;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::Value;

pub(super) use self::result::{finish, with_spec_of};
use self::server_side::Apply;
use super::answer::answer;
use super::body::{self, OBJECT_LIMIT};
use super::decode::{Decoded, Sent, warn};
use super::request::{Part, Target};
use super::shared::Api;
use super::status::Status;
use crate::cluster::{RefusalReason, Write};
use crate::objects::Object;
use crate::objects::fault::Fault;
use crate::objects::schema::Shape;
use crate::runtime::WriteError;

/// The media types of patches.
pub(crate) const PATCH_TYPES: &[&str] = &[JSON, MERGE, STRATEGIC, APPLY];
const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// How often a change is made again because another client wrote the object meanwhile.
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
        return Err(Status::unsupported_media(PATCH_TYPES));
    }
    let (_claim, bytes, media) = body::read(&api.budget, &headers, body, PATCH_TYPES, OBJECT_LIMIT).await?;
    let size = bytes.len();
    let patch = Patch::read(&target, bytes, media).await?;
    change(&api, &target, size, |current| patch.apply(&target, current, size)).await
}

/// Changes the current object, and repeats it while other clients are faster.
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
            Ok(commit) => return answer(api, target, &key, &commit, code).map(|response| warn(response, warnings)),
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
            let fault = Fault::forbidden("force", "may not be specified for non-apply patch");
            return Err(Status::invalid_options("PatchOptions", &fault.into()));
        }
        if media == JSON {
            return body::aside(bytes.len(), move || json::Operations::read(&bytes)).await.map(Self::Json);
        }
        let stage = if media == MERGE { "error decoding patch: " } else { "" };
        let sent = body::decode_one(bytes, media).await.map_err(|status| status.after(stage))?;
        let other = match &sent.value {
            Value::Object(_) | Value::Null => None,
            Value::Array(_) => Some("array"),
            Value::String(_) => Some("string"),
            Value::Number(_) => Some("number"),
            Value::Bool(_) => Some("bool"),
        };
        if let Some(found) = other {
            let fault = format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
            return Err(Status::bad_request(fault).after(stage));
        }
        Ok(if media == MERGE { Self::Merge(sent) } else { Self::Strategic(sent) })
    }

    /// `size`: bytes of the patch.
    fn apply(&self, target: &Target, current: Option<&Object>, size: usize) -> Result<Decoded, Status> {
        if let Self::Apply(apply) = self {
            return apply.apply(target, current, size);
        }
        let current = current.ok_or_else(|| Status::not_found(&target.key()))?;
        let mut after = current.to_value();
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
            after = with_spec_of(&current.to_value(), after);
        }
        let shown = |after: &Value| match self {
            Self::Strategic(patch) => go_format(&patch.value),
            Self::Json(_) | Self::Merge(_) | Self::Apply(_) => after.to_string(),
        };
        finish(target, current, Sent { value: after, repeated }, size, shown)
    }
}

/// A value as Go's `%+v` prints it, which is how the API server shows a strategic merge patch.
fn go_format(value: &Value) -> String {
    let joined = |texts: Vec<String>| texts.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(go_format).collect())),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name}:{}", go_format(value)));
            format!("map[{}]", joined(fields.collect()))
        }
    }
}

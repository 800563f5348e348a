//! `DELETE` of a collection: what a list would show, in one commit.
//!
//! The API server deletes the objects one after the other, and a failure in the middle leaves the rest. Here all of them go
//! in one revision, so that no packet meets half of a deletion. The objects deleted are those that exist at that moment: if
//! another client deletes one of them meanwhile, the list is made again.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;

use super::body::{self, OBJECT_LIMIT, OBJECT_TYPES};
use super::deletion::Deletion;
use super::form::Form;
use super::query::{Parameters, text};
use super::render::{self, ListMeta};
use super::selector::Wanted;
use super::shared::Api;
use super::status::Status;
use crate::cluster::RefusalReason;
use crate::objects::{Kind, Object};
use crate::runtime::WriteError;

/// How often a list is made again because another client deleted one of its objects meanwhile.
const ATTEMPTS: usize = 5;

/// Whether a collection of the kind can be deleted at once. As with the API server, Namespaces go one by one.
pub(crate) fn can_be_deleted(kind: Kind) -> bool {
    kind != Kind::Namespace
}

/// Deletes the objects `wanted`, and returns the list of them.
pub(crate) async fn delete(
    api: &Api,
    wanted: &Wanted,
    form: Form,
    parameters: &Parameters,
    deletion: Deletion,
    request: (&HeaderMap, Body),
) -> Result<Response, Status> {
    for name in ["limit", "continue", "resourceVersion"] {
        if !text(parameters, name).is_empty() {
            return Err(Status::bad_request(format!(
                "{name}: not supported here: a collection is deleted completely \
                                                    and in its current state"
            )));
        }
    }
    let (headers, body) = request;
    let deletion = with_body(api, headers, body, deletion).await?;
    for _ in 0..ATTEMPTS {
        let (revision, objects) = api.replica.list(wanted);
        if objects.is_empty() {
            return answer(wanted, revision, objects, form).await;
        }
        let writes = objects.iter().map(|object| deletion.write(object.key())).collect();
        match api.write(writes, deletion.dry_run, api.budget.claim(0)?).await? {
            Ok(commit) => return answer(wanted, commit.revision, objects, form).await,
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(refused(&error)),
        }
    }
    Err(Status::too_many_requests())
}

/// The options of the query, with those of a `DeleteOptions` in the body.
async fn with_body(api: &Api, headers: &HeaderMap, body: Body, deletion: Deletion) -> Result<Deletion, Status> {
    let (_claim, bytes, media) = body::read(&api.budget, headers, body, OBJECT_TYPES, OBJECT_LIMIT).await?;
    match bytes.is_empty() {
        true => Ok(deletion),
        false => deletion.with_body(&body::decode(bytes, media).await?),
    }
}

async fn answer(wanted: &Wanted, revision: u64, objects: Vec<Arc<Object>>, form: Form) -> Result<Response, Status> {
    let meta = ListMeta { revision, token: None, remaining: None };
    render::list(wanted.kind, &meta, objects.into_iter().map(Ok), form).await
}

/// Whether another client has changed or deleted one of them meanwhile.
fn is_gone(error: &WriteError) -> bool {
    matches!(error, WriteError::Refused(refusals) if refusals.iter().all(|no| no.reason == RefusalReason::NotFound))
}

fn refused(error: &WriteError) -> Status {
    match error {
        WriteError::Refused(refusals) => Status::from_item_refusals(refusals),
        WriteError::Store(reason) => Status::internal(reason),
    }
}

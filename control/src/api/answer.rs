//! Responses to writes that were committed.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;

use super::decode::warn;
use super::render;
use super::request::{Part, Target};
use super::shared::Api;
use super::status::{self, Status};
use crate::cluster::{Change, Commit};
use crate::explain::warnings::warnings;
use crate::objects::{Key, Kind, Object};

/// The response to a create, a replacement or a patch: the object as it is stored now.
pub(super) fn answer(
    api: &Api,
    target: &Target,
    key: &Key,
    commit: &Commit,
    code: StatusCode,
) -> Result<Response, Status> {
    let mut object = written(api, key, commit).ok_or_else(|| Status::not_found(key))?;
    if target.options.dry_run {
        // Nothing was written, so the version is that of what is there: `kubectl diff` would show another as a change.
        let there = api.replica.object(key).and_then(|there| there.metadata().resource_version.clone());
        Arc::make_mut(&mut object).metadata_mut().resource_version = there;
    }
    let response = render::object(code, &object, target.options.form);
    match target.part {
        Part::Whole => Ok(warn(response, warnings(&object, api.replica.read().cluster.settings()))),
        Part::Status => Ok(response),
    }
}

/// The object as the commit left it. One that did not change is not in the commit, but it is in the replica.
pub(super) fn written(api: &Api, key: &Key, commit: &Commit) -> Option<Arc<Object>> {
    match commit.change(key) {
        Some(change) => change.new.clone(),
        None => api.replica.object(key),
    }
}

/// The response to a deletion. As in Kubernetes, it is the last version of a Service or Pod, and a Status for other kinds.
pub(super) fn deleted(api: &Api, target: &Target, key: &Key, commit: &Commit) -> Result<Response, Status> {
    let last = commit.change(key).and_then(last_version);
    let last = last.or_else(|| api.replica.object(key)).ok_or_else(|| Status::not_found(key))?;
    Ok(match key.kind {
        Kind::Service | Kind::Pod => render::object(StatusCode::OK, &last, target.options.form),
        _ => render::value(StatusCode::OK, &status::deleted(&last), target.options.form.media),
    })
}

/// The object that was deleted: the terminating version, or the last one before it went. If another object took its place
/// in the same commit (as for `default/kubernetes`), that one is not returned: a client that waits for the deletion waits
/// for this uid to disappear.
fn last_version(change: &Change) -> Option<Arc<Object>> {
    let (old, new) = (change.old.as_ref(), change.new.as_ref());
    let uid = |object: &Arc<Object>| object.metadata().uid.clone();
    let terminating = new.filter(|new| old.is_none_or(|old| uid(old) == uid(new)));
    terminating.or(old).cloned()
}

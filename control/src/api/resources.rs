//! Get, create, replace and delete: one set of handlers for every kind. Patches, lists, watches and the deletion of
//! whole collections are in modules of their own.
//!
//! The paths are made from [`Kind`], so a new kind is served as soon as it exists.

use std::collections::HashMap;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get};
use serde_json::Value;

use super::answer::{answer, deleted};
use super::body::{self, Claim, OBJECT_LIMIT, OBJECT_TYPES};
use super::decode::{Decoded, Sent, decode, warn};
use super::patch::{change, finish, patch, with_spec_of};
use super::request::{Options, Part, Target};
use super::shared::Api;
use super::status::Status;
use super::{collection, listing, query, render, watch};
use crate::cluster::Write;
use crate::explain::advice;
use crate::objects::{Key, Kind, Object};

pub(crate) fn router() -> Router<Api> {
    Kind::ALL.into_iter().fold(Router::new(), |router, kind| router.merge(kind_router(kind)))
}

fn kind_router(kind: Kind) -> Router<Api> {
    let root = if kind.group().is_empty() { "/api" } else { "/apis" };
    let (root, plural) = (format!("{root}/{}", kind.api_version()), kind.plural());
    let object = get(read).put(replace).patch(patch).delete(delete);
    let objects = if collection::can_be_deleted(kind) { get(list).delete(delete_collection) } else { get(list) };
    let router = if kind.namespaced() {
        Router::new()
            .route(&format!("{root}/{plural}"), get(list))
            .route(&format!("{root}/namespaces/{{namespace}}/{plural}"), objects.post(create))
            .route(&format!("{root}/namespaces/{{namespace}}/{plural}/{{name}}"), object)
    } else {
        Router::new()
            .route(&format!("{root}/{plural}"), objects.post(create))
            .route(&format!("{root}/{plural}/{{name}}"), object)
    };
    let router = router.layer(Extension(Part::Whole)).merge(absent_router(kind, &root));
    let router = match kind.has_status() {
        true => router.merge(status_router(kind, &root)),
        false => router,
    };
    let router = router.layer(Extension(kind));
    match kind {
        Kind::Endpoints => router.layer(map_response(async |response| warn(response, [advice::ENDPOINTS]))),
        _ => router,
    }
}

/// Subresources that Kubernetes has (`kubectl logs`, `exec`, `scale`): the error names what is missing.
fn absent_router(kind: Kind, root: &str) -> Router<Api> {
    if kind == Kind::Namespace {
        return Router::new(); // What is below its path are the resources in it.
    }
    let absent = async move |Path(path): Path<HashMap<String, String>>| {
        let name = path.get("subresource").map_or("", String::as_str);
        Status::no_subresource(&format!("{}/{name}", kind.plural()))
    };
    Router::new().route(&format!("{}/{{subresource}}", object_path(kind, root)), any(absent))
}

fn object_path(kind: Kind, root: &str) -> String {
    let namespace = if kind.namespaced() { "/namespaces/{namespace}" } else { "" };
    format!("{root}{namespace}/{}/{{name}}", kind.plural())
}

fn status_router(kind: Kind, root: &str) -> Router<Api> {
    let path = format!("{}/status", object_path(kind, root));
    Router::new().route(&path, get(read).put(replace).patch(patch)).layer(Extension(Part::Status))
}

async fn list(State(api): State<Api>, target: Target) -> Result<Response, Status> {
    let (wanted, Options { form, parameters, .. }) = target.into_wanted();
    if query::flag(&parameters, "watch").unwrap_or(false) {
        return watch::watch(&api, wanted, form, &parameters);
    }
    listing::list(&api, &wanted, form, &parameters).await
}

async fn delete_collection(
    State(api): State<Api>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Status> {
    let (wanted, Options { dry_run, form, parameters, mut deletion, .. }) = target.into_wanted();
    deletion.dry_run |= dry_run;
    collection::delete(&api, &wanted, form, &parameters, deletion, (&headers, body)).await
}

async fn read(State(api): State<Api>, target: Target) -> Result<Response, Status> {
    let key = target.key();
    if let Some(revision) = listing::revision(&target.options.parameters)? {
        listing::reach(&api, revision).await?;
    }
    let object = api.replica.object(&key).ok_or_else(|| Status::not_found(&key))?;
    Ok(render::object(StatusCode::OK, &object, target.options.form))
}

async fn create(State(api): State<Api>, target: Target, headers: HeaderMap, body: Body) -> Result<Response, Status> {
    let (claim, Decoded { object, warnings }) = receive(&api, &target, &headers, body).await?;
    let response = write(&api, &target, object.key(), Write::Create(object), claim).await?;
    Ok(warn(response, warnings))
}

async fn replace(State(api): State<Api>, target: Target, headers: HeaderMap, body: Body) -> Result<Response, Status> {
    if target.part == Part::Status {
        return replace_status(&api, &target, &headers, body).await;
    }
    let (claim, Decoded { object, warnings }) = receive(&api, &target, &headers, body).await?;
    let response = write(&api, &target, target.key(), Write::Replace(object), claim).await?;
    Ok(warn(response, warnings))
}

/// The request has a whole object, which is validated like any other; only its status is used.
async fn replace_status(api: &Api, target: &Target, headers: &HeaderMap, body: Body) -> Result<Response, Status> {
    let (_claim, bytes, media) = body::read(&api.budget, headers, body, OBJECT_TYPES, OBJECT_LIMIT).await?;
    let size = bytes.len();
    let sent = body::decode_one(bytes, media).await?;
    decode(target, &sent, size)?;
    let make = |current: Option<&Object>| {
        let current = current.ok_or_else(|| Status::not_found(&target.key()))?;
        let value = with_spec_of(&current.to_value(), sent.value.clone());
        finish(target, current, Sent { value, repeated: sent.repeated.clone() }, size, Value::to_string)
    };
    change(api, target, size, make).await
}

async fn delete(State(api): State<Api>, target: Target, headers: HeaderMap, body: Body) -> Result<Response, Status> {
    let key = target.key();
    let (claim, bytes, media) = body::read(&api.budget, &headers, body, OBJECT_TYPES, OBJECT_LIMIT).await?;
    let mut options = target.options.deletion.clone();
    options.dry_run |= target.options.dry_run;
    if !bytes.is_empty() {
        let body = body::decode(bytes, media).await?;
        options = options.with_body(&body)?;
    }
    let commit = api.write(vec![options.write(key.clone())], options.dry_run, claim).await?;
    let commit = commit.map_err(|error| Status::from_write_error(&key, &error))?;
    deleted(&api, &target, &key, &commit)
}

async fn receive(api: &Api, target: &Target, headers: &HeaderMap, body: Body) -> Result<(Claim, Decoded), Status> {
    let (mut claim, bytes, media) = body::read(&api.budget, headers, body, OBJECT_TYPES, OBJECT_LIMIT).await?;
    let (decoded, memory) = body::object(target.expected(), bytes, media).await?;
    claim.cover(&api.budget, memory)?;
    Ok((claim, decoded))
}

async fn write(api: &Api, target: &Target, key: Key, write: Write, claim: Claim) -> Result<Response, Status> {
    let commit = api.write(vec![write], target.options.dry_run, claim).await?;
    let commit = commit.map_err(|error| Status::from_write_error(&key, &error))?;
    let key = commit.written.first().unwrap_or(&key).clone();
    let made = commit.change(&key).is_some_and(|change| change.old.is_none());
    let code = if made { StatusCode::CREATED } else { StatusCode::OK };
    answer(api, target, &key, &commit, code)
}

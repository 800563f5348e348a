//! Get, create, replace and delete: one set of handlers for every kind. Patches, lists, watches and what deletes a whole
//! collection are in modules of their own.
//!
//! The paths are made from [`Kind`], so a new kind is served as soon as it exists. What a request may ask beyond its path
//! (selectors, `dryRun`) is read in one place, [`Options`]. Parameters that only tune an answer (`pretty`) are not obeyed,
//! as Kubernetes allows; one that would change what happens is never ignored.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};

use super::body::{self, CREATED_TYPES, Claim, OBJECT_LIMIT, OBJECT_TYPES};
use super::decode::{Decoded, FieldValidation, Sent, decode, warn};
use super::deletion::{Deletion, check_preconditions};
use super::listing::{self, Parameters};
use super::patch::{change, finish, only_status, patch};
use super::render::{self, Form};
use super::selector::{FieldSelector, LabelSelector, Wanted};
use super::status::{self, Status};
use super::{Api, collection, watch};
use crate::cluster::{Change, Commit, Write};
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
    router.layer(Extension(kind))
}

/// `kubectl logs`, `exec`, `scale` and their like ask for subresources that Kubernetes has: told by name that they are not here.
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

/// What of an object a path is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// Its subresource `status`: a write changes nothing else.
    Status,
}

/// What the path names and the query asks.
pub(crate) struct Target {
    pub(super) kind: Kind,
    pub(super) part: Part,
    /// Empty for a cluster-scoped kind; nothing for a list of all namespaces.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) options: Options,
}

/// The query of a request. Parameters not named here are ignored.
#[derive(Debug, Default)]
pub(super) struct Options {
    labels: LabelSelector,
    fields: FieldSelector,
    pub(super) dry_run: bool,
    form: Form,
    pub(super) validation: FieldValidation,
    /// Who writes, for server-side apply.
    pub(super) manager: String,
    /// Whether server-side apply takes fields from others; nothing if it was not said.
    pub(super) force: Option<bool>,
    deletion: Deletion,
    /// All of them, for lists and watches.
    parameters: Parameters,
}

impl Target {
    pub(super) fn key(&self) -> Key {
        Key::new(self.kind, self.namespace(), self.name.as_str())
    }

    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The objects of a list, and how they are asked for.
    fn into_wanted(self) -> (Wanted, Options) {
        let Options { labels, fields, .. } = &self.options;
        let (labels, fields) = (labels.clone(), fields.clone());
        (Wanted { kind: self.kind, namespace: self.namespace, labels, fields }, self.options)
    }
}

impl FromRequestParts<Api> for Target {
    type Rejection = Status;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Status> {
        let Extension(kind) = Extension::<Kind>::from_request_parts(parts, api)
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let Extension(part) = Extension::<Part>::from_request_parts(parts, api)
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let Path(mut path) = Path::<HashMap<String, String>>::from_request_parts(parts, api)
            .await
            .map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Self {
            kind,
            part,
            namespace: path.remove("namespace"),
            name: path.remove("name").unwrap_or_default(),
            options: Options::from_parts(parts, kind)?,
        })
    }
}

impl Options {
    fn from_parts(parts: &Parts, kind: Kind) -> Result<Self, Status> {
        let query = query(parts)?;
        let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        Ok(Self {
            labels: LabelSelector::parse(text("labelSelector")).map_err(Status::bad_request)?,
            fields: FieldSelector::parse(text("fieldSelector"), kind).map_err(Status::bad_request)?,
            dry_run: dry_run(text("dryRun"))?,
            form: Form::of(&parts.headers, text("includeObject"))?,
            validation: FieldValidation::parse(text("fieldValidation"))?,
            manager: text("fieldManager").to_owned(),
            force: boolean("force", text("force"))?,
            deletion: Deletion::parse(text("gracePeriodSeconds"), text("propagationPolicy"))?,
            parameters: query,
        })
    }
}

/// The query's parameters; of one given twice the last counts.
pub(super) fn query(parts: &Parts) -> Result<Parameters, Status> {
    let query = Query::<Parameters>::try_from_uri(&parts.uri);
    query.map(|Query(query)| query).map_err(|error| Status::bad_request(error.to_string()))
}

fn boolean(name: &str, value: &str) -> Result<Option<bool>, Status> {
    match value {
        "" => Ok(None),
        "true" | "1" => Ok(Some(true)),
        "false" | "0" => Ok(Some(false)),
        other => Err(Status::bad_request(format!("{name}: Invalid value: {other:?}: expected true or false"))),
    }
}

/// Whether `dryRun` asks for a dry run. Anything but `All` is refused: half a dry run would be a real write.
pub(super) fn dry_run(value: &str) -> Result<bool, Status> {
    match value {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(Status::bad_request(format!("dryRun: Unsupported value: {other:?}: supported values: \"All\""))),
    }
}

async fn list(State(api): State<Api>, target: Target) -> Result<Response, Status> {
    let (wanted, Options { form, parameters, .. }) = target.into_wanted();
    if listing::flag(&parameters, "watch").unwrap_or(false) {
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
    let (claim, sent, _) = receive(&api, &headers, body, CREATED_TYPES).await?;
    let Decoded { object, warnings } = decode(&target, &sent)?;
    let response = write(&api, &target, object.key(), Write::Create(object), claim).await?;
    Ok(warn(response, &warnings))
}

async fn replace(State(api): State<Api>, target: Target, headers: HeaderMap, body: Body) -> Result<Response, Status> {
    let (claim, sent, size) = receive(&api, &headers, body, OBJECT_TYPES).await?;
    if target.part == Part::Status {
        drop(claim);
        return replace_status(&api, &target, sent, size).await;
    }
    let Decoded { object, warnings } = decode(&target, &sent)?;
    let response = write(&api, &target, target.key(), Write::Replace(object), claim).await?;
    Ok(warn(response, &warnings))
}

/// A whole object is sent, as checked as any; its status is what counts.
async fn replace_status(api: &Api, target: &Target, sent: Sent, size: usize) -> Result<Response, Status> {
    decode(target, &sent)?;
    let make = |current: Option<&Object>| {
        let current = current.ok_or_else(|| Status::not_found(&target.key()))?;
        let value = only_status(current.to_value(), sent.value.clone());
        finish(target, current, Sent { value, repeated: sent.repeated.clone() })
    };
    change(api, target, size, make).await
}

async fn delete(State(api): State<Api>, target: Target, headers: HeaderMap, body: Body) -> Result<Response, Status> {
    let key = target.key();
    let (claim, bytes, media) = body::read(&api.budget, &headers, body, OBJECT_TYPES, OBJECT_LIMIT).await?;
    let mut options = target.options.deletion;
    options.dry_run |= target.options.dry_run;
    if !bytes.is_empty() {
        let body = body::single(body::decode(bytes, media).await?)?;
        check_preconditions(&api.replica, &key, &body)?;
        options = options.with_body(&body)?;
    }
    let commit = api.write(vec![options.write(key.clone())], options.dry_run, claim).await?;
    let commit = commit.map_err(|error| Status::from_write_error(&key, &error))?;
    let last = commit.change(&key).and_then(last_version);
    let last = last.or_else(|| api.replica.object(&key)).ok_or_else(|| Status::not_found(&key))?;
    // As in Kubernetes: Services and Pods answer with the object that was, the others with a Status.
    Ok(match key.kind {
        Kind::Service | Kind::Pod => render::object(StatusCode::OK, &last, target.options.form),
        _ => axum::Json(status::deleted(&last)).into_response(),
    })
}

/// What a deletion was about: the object that is terminating, or the one that went. Not the one that came in its place in
/// the same commit (`default/kubernetes` does): a client that waits for the end waits for that of this uid.
fn last_version(change: &Change) -> Option<Arc<Object>> {
    let (old, new) = (change.old.as_ref(), change.new.as_ref());
    let uid = |object: &Arc<Object>| object.metadata().uid.clone();
    let terminating = new.filter(|new| old.is_none_or(|old| uid(old) == uid(new)));
    terminating.or(old).cloned()
}

async fn receive(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    known: &'static [&'static str],
) -> Result<(Claim, Sent, usize), Status> {
    let (claim, bytes, media) = body::read(&api.budget, headers, body, known, OBJECT_LIMIT).await?;
    let size = bytes.len();
    Ok((claim, body::decode_one(bytes, media).await?, size))
}

async fn write(api: &Api, target: &Target, key: Key, write: Write, claim: Claim) -> Result<Response, Status> {
    let commit = api.write(vec![write], target.options.dry_run, claim).await?;
    let commit = commit.map_err(|error| Status::from_write_error(&key, &error))?;
    let key = commit.written.first().unwrap_or(&key).clone();
    let made = commit.change(&key).is_some_and(|change| change.old.is_none());
    let code = if made { StatusCode::CREATED } else { StatusCode::OK };
    answer(api, target, &key, &commit, code)
}

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
    Ok(render::object(code, &object, target.options.form))
}

/// The object as the commit left it. One that did not change is not in the commit, but it is in the replica.
pub(super) fn written(api: &Api, key: &Key, commit: &Commit) -> Option<Arc<Object>> {
    match commit.change(key) {
        Some(change) => change.new.clone(),
        None => api.replica.object(key),
    }
}

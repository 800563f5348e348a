//! Get, create, replace, patch and delete: one set of handlers for every kind; lists, watches and what deletes a whole
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
use axum::routing::get;
use serde_json::Value;

use super::body::{self, Claim, OBJECT_LIMIT, OBJECT_TYPES};
use super::listing::{self, Parameters};
use super::render::{self, Form};
use super::selector::{FieldSelector, LabelSelector, Wanted};
use super::status::{self, Status};
use super::{Api, collection, view, watch};
use crate::cluster::{Commit, Write};
use crate::objects::{Key, Kind, Object};
use crate::runtime::WriteError;

/// A JSON merge patch, RFC 7386.
const MERGE_PATCH: &[&str] = &["application/merge-patch+json"];

/// How often a patch is made anew because somebody else wrote the object meanwhile.
pub(super) const PATCH_ATTEMPTS: usize = 5;

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
    router.layer(Extension(kind))
}

/// What the path names and the query asks.
pub(crate) struct Target {
    kind: Kind,
    /// Empty for a cluster-scoped kind; nothing for a list of all namespaces.
    namespace: Option<String>,
    name: String,
    options: Options,
}

/// The query of a request. Parameters not named here are ignored.
#[derive(Debug, Default)]
struct Options {
    labels: LabelSelector,
    fields: FieldSelector,
    dry_run: bool,
    form: Form,
    /// All of them, for lists and watches.
    parameters: Parameters,
}

impl Target {
    fn key(&self) -> Key {
        Key::new(self.kind, self.namespace(), self.name.as_str())
    }

    fn namespace(&self) -> &str {
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
        let Path(mut path) = Path::<HashMap<String, String>>::from_request_parts(parts, api)
            .await
            .map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Self {
            kind,
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
            parameters: query,
        })
    }
}

/// The query's parameters; of one given twice the last counts.
pub(super) fn query(parts: &Parts) -> Result<Parameters, Status> {
    let query = Query::<Parameters>::try_from_uri(&parts.uri);
    query.map(|Query(query)| query).map_err(|error| Status::bad_request(error.to_string()))
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
    let (wanted, Options { dry_run, form, parameters, .. }) = target.into_wanted();
    collection::delete(&api, &wanted, form, &parameters, dry_run, (&headers, body)).await
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
    let (claim, value) = receive(&api, &headers, body).await?;
    let object = decode(&target, &value)?;
    write(&api, &target, object.key(), Write::Create(object), claim, StatusCode::CREATED).await
}

async fn replace(State(api): State<Api>, target: Target, headers: HeaderMap, body: Body) -> Result<Response, Status> {
    let (claim, value) = receive(&api, &headers, body).await?;
    let object = decode(&target, &value)?;
    write(&api, &target, target.key(), Write::Replace(object), claim, StatusCode::OK).await
}

/// Applies a merge patch to the object as it is now. If somebody else writes it meanwhile, the patch is made anew, unless it
/// names the version it is for: then that is a conflict.
async fn patch(State(api): State<Api>, target: Target, headers: HeaderMap, body: Body) -> Result<Response, Status> {
    let (_claim, bytes, _) = body::read(&api.budget, &headers, body, MERGE_PATCH, OBJECT_LIMIT).await?;
    let patch: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Status::bad_request(format!("the patch is not valid JSON: {error}")))?;
    if !patch.is_object() {
        return Err(Status::bad_request("a merge patch of an object must be a JSON object"));
    }
    let key = target.key();
    let pinned = patch.pointer("/metadata/resourceVersion").is_some_and(|version| !version.is_null());
    for attempt in 1.. {
        let current = api.replica.object(&key).ok_or_else(|| Status::not_found(&key))?;
        let mut value = current.to_value();
        merge(&mut value, &patch);
        let write = Write::Replace(decode(&target, &value)?);
        match api.write(vec![write], target.options.dry_run, api.budget.claim(bytes.len())?).await? {
            Ok(commit) => return answer(&api, &target, &key, &commit, StatusCode::OK),
            Err(error) if is_conflict(&error) && !pinned && attempt < PATCH_ATTEMPTS => {}
            Err(error) => return Err(Status::from_write_error(&key, &error)),
        }
    }
    Err(Status::conflict(&key, "the object keeps changing; please try again"))
}

async fn delete(State(api): State<Api>, target: Target, headers: HeaderMap, body: Body) -> Result<Response, Status> {
    let key = target.key();
    let (claim, bytes, media) = body::read(&api.budget, &headers, body, OBJECT_TYPES, OBJECT_LIMIT).await?;
    let dry_run = match bytes.is_empty() {
        true => target.options.dry_run,
        false => delete_options(&api.replica, &key, bytes, media).await? || target.options.dry_run,
    };
    let commit = api.write(vec![Write::Delete(key.clone())], dry_run, claim).await?;
    let commit = commit.map_err(|error| Status::from_write_error(&key, &error))?;
    let deleted = commit.change(&key).and_then(|change| change.old.clone()).ok_or_else(|| Status::not_found(&key))?;
    // As in Kubernetes: Services and Pods answer with the object that was, the others with a Status.
    Ok(match key.kind {
        Kind::Service | Kind::Pod => render::object(StatusCode::OK, &deleted, target.options.form),
        _ => axum::Json(status::deleted(&deleted)).into_response(),
    })
}

/// What a `DeleteOptions` asks: whether it is a dry run. Its preconditions are checked against the replica; an object
/// that changes in the instant after that goes as it then is, as if the request had come a little later.
async fn delete_options(
    replica: &view::Replica,
    key: &Key,
    bytes: Vec<u8>,
    media: &'static str,
) -> Result<bool, Status> {
    let options = single(body::decode(bytes, media).await?)?;
    let object = replica.object(key).ok_or_else(|| Status::not_found(key))?;
    let metadata = object.metadata();
    for (field, found) in [("uid", &metadata.uid), ("resourceVersion", &metadata.resource_version)] {
        let wanted = options.pointer(&format!("/preconditions/{field}")).and_then(Value::as_str);
        if let Some(wanted) = wanted
            && found.as_deref() != Some(wanted)
        {
            let found = found.as_deref().unwrap_or_default();
            return Err(Status::conflict(
                key,
                &format!("Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {found}"),
            ));
        }
    }
    match options.get("dryRun").and_then(Value::as_array).and_then(|values| values.first()) {
        None => Ok(false),
        Some(value) => dry_run(value.as_str().unwrap_or("not a text")),
    }
}

async fn receive(api: &Api, headers: &HeaderMap, body: Body) -> Result<(Claim, Value), Status> {
    let (claim, bytes, media) = body::read(&api.budget, headers, body, OBJECT_TYPES, OBJECT_LIMIT).await?;
    Ok((claim, single(body::decode(bytes, media).await?)?))
}

pub(super) fn single(mut values: Vec<Value>) -> Result<Value, Status> {
    match values.len() {
        1 => Ok(values.remove(0)),
        found => Err(Status::bad_request(format!("expected one object in the body, found {found}"))),
    }
}

/// The object that was sent, if it is what the path says it is.
fn decode(target: &Target, value: &Value) -> Result<Object, Status> {
    let object = Object::from_value(value, target.namespace()).map_err(|faults| Status::from_faults(value, &faults))?;
    let (kind, found) = (target.kind, object.kind());
    if found != kind {
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: no kind {0:?} is served here",
            found.name(),
            found.api_version(),
            kind.name()
        )));
    }
    if object.namespace() != target.namespace() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if !target.name.is_empty() && object.name() != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            target.name
        )));
    }
    Ok(object)
}

async fn write(
    api: &Api,
    target: &Target,
    key: Key,
    write: Write,
    claim: Claim,
    code: StatusCode,
) -> Result<Response, Status> {
    let commit = api.write(vec![write], target.options.dry_run, claim).await?;
    let commit = commit.map_err(|error| Status::from_write_error(&key, &error))?;
    let key = commit.written.first().unwrap_or(&key).clone();
    answer(api, target, &key, &commit, code)
}

fn answer(api: &Api, target: &Target, key: &Key, commit: &Commit, code: StatusCode) -> Result<Response, Status> {
    let object = written(api, key, commit).ok_or_else(|| Status::not_found(key))?;
    Ok(render::object(code, &object, target.options.form))
}

/// The object as the commit left it. One that did not change is not in the commit, but it is in the replica.
pub(super) fn written(api: &Api, key: &Key, commit: &Commit) -> Option<Arc<Object>> {
    match commit.change(key) {
        Some(change) => change.new.clone(),
        None => api.replica.object(key),
    }
}

fn is_conflict(error: &WriteError) -> bool {
    let WriteError::Refused(refusals) = error else {
        return false;
    };
    refusals.iter().any(|refusal| refusal.reason == crate::cluster::RefusalReason::Conflict)
}

/// RFC 7386: objects merge, null removes, everything else replaces. Bounded in depth by the JSON parser.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = target else {
        return;
    };
    for (name, value) in patch {
        match value {
            Value::Null => drop(fields.remove(name)),
            value => merge(fields.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patches_as_the_rfc_shows() {
        let cases = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":"foo"}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
        ];
        for (mut target, patch, expected) in cases {
            merge(&mut target, &patch);
            assert_eq!(target, expected, "{patch}");
        }
    }
}

//! `pollgate.io/v1alpha1`: requests that Kubernetes does not have.
//!
//! | path | what |
//! |---|---|
//! | `POST apply` | a whole list of objects, all or nothing, in one revision and one publish |
//! | `GET namespaces/{ns}/services/{name}/explain` | which Pods are endpoints and which are not, and why |
//! | `GET stats` | the counters, and live flows: [`stats`](super::stats) |
//! | `GET dump/TABLE` | compiled tables and flows: [`dump`](super::dump) |
//! | `GET trace` | what would become of a packet or a DNS query: [`trace`](super::trace) |
//!
//! Why `apply` beside the API server's own patches: those change one object at a time, so a half-applied directory is
//! served until the client gets to its end, or indefinitely if it does not.
//!
//! `apply` takes a `List` (or one object; or YAML documents), `?namespace=` for objects that name none and
//! `?dryRun=All`. It returns
//!
//! ```json
//! {"kind": "ApplyResult", "apiVersion": "pollgate.io/v1alpha1", "metadata": {"resourceVersion": "42"},
//!  "items": [{"result": "created", "object": {"apiVersion": "v1", "kind": "Service", …}}]}
//! ```
//!
//! with an item for each object sent, in their order, and `result` one of `created`, `configured`, `unchanged`; after a dry run also
//! `moved`: which endpoints would join Services or leave them. If
//! any object is refused, none is applied, and the `Status` has a cause for every fault of every object, its field
//! beginning with `items[i]`: of the first hundred.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::answer::written;
use super::body::{self, APPLY_LIMIT, Format, OBJECT_TYPES};
use super::list;
use super::query::{dry_run, query};
use super::render;
use super::shared::Api;
use super::status::{ItemFaults, Status};
use crate::cluster::{Change, Commit, Write};
use crate::compile::resolve::ServiceName;
use crate::explain::explain;
use crate::explain::warnings::warnings;
use crate::objects::allowance::Allowance;
use crate::objects::decode::Source;
use crate::objects::fault::Faults;
use crate::objects::{Draft, Key, Kind, Object};
use crate::observe::live::news;
use crate::runtime::WriteError;

/// Where a list of objects is applied.
pub const APPLY_PATH: &str = "/apis/pollgate.io/v1alpha1/apply";

/// What an apply did to one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyOutcome {
    /// It did not exist.
    Created,
    /// It existed and is different now.
    Configured,
    /// It existed, exactly as sent.
    Unchanged,
}

impl ApplyOutcome {
    /// The word in the response, and the one `kubectl apply` prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }

    fn of(change: Option<&Change>) -> Self {
        match change {
            None => Self::Unchanged,
            Some(change) if change.old.is_none() => Self::Created,
            Some(_) => Self::Configured,
        }
    }
}

pub(crate) fn router() -> Router<Api> {
    Router::new()
        .route(APPLY_PATH, post(apply))
        .route("/apis/pollgate.io/v1alpha1/namespaces/{namespace}/services/{name}/explain", get(explain_service))
}

async fn apply(State(api): State<Api>, request: Request) -> Result<Response, Status> {
    let (parts, body) = request.into_parts();
    let query = query(&parts)?;
    let parameter = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let mut faults = Faults::new();
    let dry_run = dry_run(parameter("dryRun"), &mut faults);
    if !faults.is_empty() {
        return Err(Status::invalid_options("CreateOptions", &faults));
    }
    let namespace = match parameter("namespace") {
        "" => "default",
        namespace => namespace,
    };
    let (claim, objects) = receive(&api, &parts.headers, body, namespace).await?;
    let count = objects.len();
    let writes = objects.into_iter().map(Write::Apply).collect();
    match api.write(writes, dry_run, claim).await? {
        Ok(commit) => Ok(answer(&api, count, commit, dry_run)),
        Err(WriteError::Refused(refusals)) => Err(Status::from_item_refusals(&refusals)),
        Err(WriteError::Store(reason)) => Err(Status::internal(reason)),
    }
}

async fn receive(
    api: &Api,
    headers: &axum::http::HeaderMap,
    body: Body,
    namespace: &str,
) -> Result<(body::Claim, Vec<Object>), Status> {
    let (mut claim, bytes, media) = body::read(&api.budget, headers, body, OBJECT_TYPES, APPLY_LIMIT).await?;
    let (namespace, budget) = (namespace.to_owned(), api.budget.clone());
    let most = api.replica.read().cluster.settings().limits.items_per_request;
    body::aside(bytes.len(), move || {
        // Twice: first each by itself, so that a request that is refused never has all of its objects in memory.
        let mut checked = Checked::new(&namespace, most);
        list::each(&bytes, Format::of(media), &mut |item, allowance| checked.add(item, allowance))?;
        claim.cover(&budget, bytes.len() + checked.finish()?)?;
        let mut objects = Vec::new();
        list::each(&bytes, Format::of(media), &mut |item, allowance| {
            objects.extend(object(item, &namespace, allowance)?);
            Ok(())
        })?;
        Ok((claim, objects))
    })
    .await
}

/// The items of a request, each read and forgotten.
struct Checked<'a> {
    namespace: &'a str,
    most: usize,
    items: usize,
    memory: usize,
    faulty: ItemFaults,
}

impl<'a> Checked<'a> {
    fn new(namespace: &'a str, most: usize) -> Self {
        Self { namespace, most, items: 0, memory: 0, faulty: ItemFaults::default() }
    }

    fn add(&mut self, item: Source<'_>, allowance: &Allowance) -> Result<(), Status> {
        if self.items == self.most {
            return Err(Status::too_much(format!(
                "it has more than {} items (limits.itemsPerRequest); send the objects in several requests",
                self.most
            )));
        }
        let before = allowance.taken();
        let object = object(item, self.namespace, allowance)
            .map_err(|status| status.within(&format!("items[{}]", self.items)))?;
        if let Err(faults) = object {
            self.faulty.push(self.items, faults);
        }
        self.memory += allowance.taken() - before;
        self.items += 1;
        Ok(())
    }

    /// The memory of all objects.
    fn finish(self) -> Result<usize, Status> {
        if self.faulty.is_empty() { Ok(self.memory) } else { Err(Status::from_item_faults(&self.faulty)) }
    }
}

/// The object of an item, or what is wrong with it.
fn object(item: Source<'_>, namespace: &str, allowance: &Allowance) -> Result<Result<Object, Faults>, Status> {
    let draft = Draft::read(item, None, allowance).map_err(|unread| Status::unread(&unread))?;
    Ok(draft.strictly(namespace))
}

fn answer(api: &Api, count: usize, commit: Arc<Commit>, dry_run: bool) -> Response {
    let mut head = vec![
        ("kind", json!("ApplyResult")),
        ("apiVersion", json!("pollgate.io/v1alpha1")),
        ("metadata", json!({"resourceVersion": commit.revision.to_string()})),
    ];
    if dry_run {
        head.push(("moved", json!(news(&commit))));
    }
    let changes: std::collections::HashMap<Key, usize> =
        commit.changes.iter().enumerate().map(|(index, change)| (change.key.clone(), index)).collect();
    let settings = api.replica.read().cluster.settings().clone();
    let api = api.clone();
    let results = (0..count).filter_map(move |index| {
        let key = commit.written.get(index)?;
        let change = changes.get(key).and_then(|&index| commit.changes.get(index));
        let object = match change {
            Some(change) => change.new.clone(),
            None => written(&api, key, &commit),
        };
        let warnings =
            object.as_ref().map(|object| warnings(object, &settings)).filter(|warnings| !warnings.is_empty());
        let mut result =
            json!({"result": ApplyOutcome::of(change).as_str(), "object": object.map(|object| object.to_value())});
        if let Some(warnings) = warnings {
            result["warnings"] = json!(warnings);
        }
        Some(result)
    });
    render::stream(&head, "items", results)
}

async fn explain_service(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, Status> {
    let service = ServiceName { namespace, name };
    let explanation = explain(&api.replica.read().cluster, &service);
    let explanation = explanation.ok_or_else(|| {
        Status::not_found(&Key::new(Kind::Service, service.namespace.as_str(), service.name.as_str()))
    })?;
    Ok(Json(explanation).into_response())
}

//! What the API has, told the way clients ask for it: groups, versions, resources, the server's version, its health.
//!
//! `kubectl` and client libraries read these before anything else and believe them, so the verbs listed are the verbs
//! that work.

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};

use super::{Api, collection};
use crate::objects::Kind;

/// Group and version of what Kubernetes has no word for.
pub(crate) const OWN_GROUP: &str = "pollgate.io";
/// The version of [`OWN_GROUP`].
pub(crate) const OWN_VERSION: &str = "v1alpha1";

/// What every kind can do today, besides [`DELETE_COLLECTION`].
const VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];
/// Not for every kind.
const DELETE_COLLECTION: &str = "deletecollection";

pub(crate) fn router() -> Router<Api> {
    Router::new()
        .route("/version", get(async || Json(version())))
        .route(
            "/api",
            get(async || Json(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))),
        )
        .route("/api/v1", get(async || Json(resources("v1"))))
        .route("/apis", get(async || Json(groups())))
        .route("/apis/discovery.k8s.io", get(async || Json(group("discovery.k8s.io", "v1"))))
        .route("/apis/discovery.k8s.io/v1", get(async || Json(resources("discovery.k8s.io/v1"))))
        .route("/apis/pollgate.io", get(async || Json(group(OWN_GROUP, OWN_VERSION))))
        .route("/apis/pollgate.io/v1alpha1", get(async || Json(resources("pollgate.io/v1alpha1"))))
        .route("/healthz", get(async || "ok"))
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(ready))
}

/// The API level follows the object types; what is ours is after the plus sign, as semantic versions have it.
fn version() -> Value {
    json!({
        "major": "1", "minor": "33",
        "gitVersion": concat!("v1.33.0+pollgate-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
        "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn resources(group_version: &str) -> Value {
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.api_version() == group_version);
    let resources: Vec<Value> = kinds.map(resource).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn resource(kind: Kind) -> Value {
    let mut verbs = VERBS.to_vec();
    if collection::can_be_deleted(kind) {
        verbs.push(DELETE_COLLECTION);
        verbs.sort_unstable();
    }
    json!({
        "name": kind.plural(), "singularName": kind.singular(), "namespaced": kind.namespaced(),
        "kind": kind.name(), "verbs": verbs, "shortNames": kind.short_names(),
    })
}

fn groups() -> Value {
    let mut groups = [group("discovery.k8s.io", "v1"), group(OWN_GROUP, OWN_VERSION)];
    for group in groups.iter_mut().filter_map(Value::as_object_mut) {
        group.remove("kind");
        group.remove("apiVersion");
    }
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version})
}

/// Not ready while nothing can be written; reads and packets work all the same.
async fn ready(State(api): State<Api>) -> (StatusCode, String) {
    match api.store_failure() {
        None => (StatusCode::OK, "ok".to_owned()),
        Some(reason) => (StatusCode::INTERNAL_SERVER_ERROR, format!("[-]store failed: {reason}\n")),
    }
}

//! Discovery: groups, versions, resources, the server's version.
//!
//! `kubectl` and client libraries read these documents first and rely on them, so the verbs listed are exactly the verbs
//! that work. There are two forms: a document for each group and version, and, for clients whose `Accept` asks for an
//! `APIGroupDiscoveryList`, all of them at once at `/api` and `/apis` (KEP-3352).

use axum::Json;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::collection;
use super::review::Review;
use super::shared::Api;
use crate::objects::Kind;

/// The group of resources that Kubernetes does not have.
pub(crate) const OWN_GROUP: &str = "pollgate.io";
/// The version of [`OWN_GROUP`].
pub(crate) const OWN_VERSION: &str = "v1alpha1";

/// All groups besides the core group.
const GROUPS: [&str; 4] = ["authentication.k8s.io", "authorization.k8s.io", "discovery.k8s.io", OWN_GROUP];

/// The verbs of every kind, besides [`DELETE_COLLECTION`].
const VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];
/// Not for every kind.
const DELETE_COLLECTION: &str = "deletecollection";
/// The verbs of a status.
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// The media type of all groups at once.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub(crate) fn router() -> Router<Api> {
    Router::new()
        .route("/version", get(async || Json(version())))
        .route("/api", get(async |headers: HeaderMap| either(&headers, core(), &[""])))
        .route("/api/v1", get(async || Json(resources("v1"))))
        .route("/apis", get(async |headers: HeaderMap| either(&headers, groups(), &GROUPS)))
        .route("/apis/discovery.k8s.io", get(async || Json(group("discovery.k8s.io", "v1"))))
        .route("/apis/discovery.k8s.io/v1", get(async || Json(resources("discovery.k8s.io/v1"))))
        .route("/apis/pollgate.io", get(async || Json(group(OWN_GROUP, OWN_VERSION))))
        .route("/apis/pollgate.io/v1alpha1", get(async || Json(resources("pollgate.io/v1alpha1"))))
        .merge(reviews())
}

/// The documents of the groups of reviews.
fn reviews() -> Router<Api> {
    Review::GROUPS.into_iter().fold(Router::new(), |router, name| {
        let path = format!("/apis/{name}");
        let resources = move || {
            let resources = Review::ALL.into_iter().filter(|review| review.group() == name).map(review_resource);
            let resources: Vec<Value> = resources.collect();
            let version = format!("{name}/v1");
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})
        };
        router
            .route(&path, get(async move || Json(group(name, "v1"))))
            .route(&format!("{path}/v1"), get(async move || Json(resources())))
    })
}

fn review_resource(review: Review) -> Value {
    json!({
        "name": review.plural(), "singularName": singular(review), "namespaced": false, "kind": review.kind(),
        "verbs": ["create"],
    })
}

fn singular(review: Review) -> &'static str {
    review.plural().trim_end_matches('s')
}

/// The level of Kubernetes whose behaviour this is; what is ours is after the plus sign, as semantic versions have it.
fn version() -> Value {
    json!({
        "major": "1", "minor": "36",
        "gitVersion": concat!("v1.36.0+pollgate-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
        "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn core() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// The plain document, or the groups with all their resources for a client that asks for that first.
fn either(headers: &HeaderMap, plain: Value, groups: &[&str]) -> Response {
    if !wants_aggregated(headers) {
        return Json(plain).into_response();
    }
    let groups: Vec<Value> = groups.iter().map(|group| aggregated(group)).collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups,
    });
    let mut response = Json(list).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
}

/// Whether the first range of `Accept` that can be served is that of [`AGGREGATED`].
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in ranges.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        if !matches!(parts.next(), Some("application/json" | "application/*" | "*/*")) {
            continue;
        }
        let parameters: Vec<&str> = parts.collect();
        if !parameters.iter().any(|parameter| parameter.starts_with("as=")) {
            return false;
        }
        if AGGREGATED.split(';').skip(1).all(|wanted| parameters.contains(&wanted)) {
            return true;
        }
    }
    false
}

fn aggregated(group: &str) -> Value {
    let version = if group == OWN_GROUP { OWN_VERSION } else { "v1" };
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.group() == group);
    let reviews = Review::ALL.into_iter().filter(|review| review.group() == group).map(aggregated_review);
    let resources: Vec<Value> = kinds.map(aggregated_resource).chain(reviews).collect();
    json!({
        "metadata": {"name": group},
        "versions": [{"version": version, "freshness": "Current", "resources": resources}],
    })
}

fn aggregated_resource(kind: Kind) -> Value {
    let version = kind.api_version().rsplit('/').next().unwrap_or_default();
    let response = json!({"group": kind.group(), "version": version, "kind": kind.name()});
    let status = json!({"subresource": "status", "responseKind": response, "verbs": STATUS_VERBS});
    json!({
        "resource": kind.plural(), "singularResource": kind.singular(), "responseKind": response,
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "verbs": verbs(kind), "shortNames": kind.short_names(), "categories": kind.categories(),
        "subresources": if kind.has_status() { vec![status] } else { Vec::new() },
    })
}

fn aggregated_review(review: Review) -> Value {
    let response = json!({"group": review.group(), "version": "v1", "kind": review.kind()});
    json!({
        "resource": review.plural(), "singularResource": singular(review), "responseKind": response, "scope": "Cluster",
        "verbs": ["create"],
    })
}

fn resources(group_version: &str) -> Value {
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.api_version() == group_version);
    let resources: Vec<Value> = kinds.flat_map(|kind| [Some(resource(kind)), status(kind)]).flatten().collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn verbs(kind: Kind) -> Vec<&'static str> {
    let mut verbs = VERBS.to_vec();
    if collection::can_be_deleted(kind) {
        verbs.push(DELETE_COLLECTION);
        verbs.sort_unstable();
    }
    verbs
}

fn resource(kind: Kind) -> Value {
    json!({
        "name": kind.plural(), "singularName": kind.singular(), "namespaced": kind.namespaced(),
        "kind": kind.name(), "verbs": verbs(kind), "shortNames": kind.short_names(), "categories": kind.categories(),
    })
}

fn status(kind: Kind) -> Option<Value> {
    kind.has_status().then(|| {
        json!({
            "name": format!("{}/status", kind.plural()), "singularName": "", "namespaced": kind.namespaced(),
            "kind": kind.name(), "verbs": STATUS_VERBS,
        })
    })
}

fn groups() -> Value {
    let mut groups = GROUPS.map(|name| group(name, if name == OWN_GROUP { OWN_VERSION } else { "v1" }));
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

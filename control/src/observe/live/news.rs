//! Who joined a Service or left it, and because of which change.
//!
//! ```text
//!  commit ─┬─ what was written:   Pod default/web-1, label version: v1 → v2     ─▶ causes
//!          └─ what followed:      EndpointSlices, before and after              ─▶ joined, left
//! ```
//!
//! The slices are those that the endpoint controller, or another writer, made: nothing is concluded here but the difference. A dry run has such
//! a commit too, so the same shows what a change would move.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use crate::cluster::{Change, Commit};
use crate::objects::service::ServiceName;
use crate::objects::{Key, Kind, Object};

/// Services of one commit that are told.
const SERVICES: usize = 20;
/// Endpoints of a Service that are told, and causes.
const SHOWN: usize = 10;

/// What a commit changed about a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct News {
    /// The revision of the commit.
    pub revision: u64,
    /// `namespace/name`.
    pub service: String,
    /// Endpoints that take new connections now, and did not before: `web-1 10.244.1.10:8080`.
    pub joined: Vec<String>,
    /// Endpoints that no longer do.
    pub left: Vec<String>,
    /// Further ones, of both.
    pub more: usize,
    /// What was written.
    pub causes: Vec<String>,
}

/// What a commit changed about endpoints, Service by Service.
pub fn news(commit: &Commit) -> Vec<News> {
    let mut services: BTreeMap<ServiceName, [BTreeMap<String, bool>; 2]> = BTreeMap::new();
    for change in commit.changes.iter().filter(|change| change.key.kind == Kind::EndpointSlice) {
        for (at, object) in [&change.old, &change.new].into_iter().enumerate() {
            let Some(object) = object.as_deref() else { continue };
            let Some(name) = ServiceName::of_slice(object) else { continue };
            let endpoints = &mut services.entry(name).or_default()[at];
            each_endpoint(object, |endpoint, is_ready| *endpoints.entry(endpoint).or_default() |= is_ready);
        }
    }
    let told = services.into_iter().filter_map(|(name, [before, after])| told(commit, &name, &before, &after));
    told.take(SERVICES).collect()
}

fn told(
    commit: &Commit,
    name: &ServiceName,
    before: &BTreeMap<String, bool>,
    after: &BTreeMap<String, bool>,
) -> Option<News> {
    let only = |these: &BTreeMap<String, bool>, those: &BTreeMap<String, bool>| -> Vec<String> {
        let is_new = |endpoint: &String| these.get(endpoint) == Some(&true) && those.get(endpoint) != Some(&true);
        these.keys().filter(|endpoint| is_new(endpoint)).cloned().collect()
    };
    let (mut joined, mut left) = (only(after, before), only(before, after));
    if joined.is_empty() && left.is_empty() {
        return None;
    }
    let causes = causes(commit, name, joined.iter().chain(&left));
    let more = joined.len().saturating_sub(SHOWN) + left.len().saturating_sub(SHOWN);
    joined.truncate(SHOWN);
    left.truncate(SHOWN);
    Some(News { revision: commit.revision, service: name.to_string(), joined, left, more, causes })
}

/// Each endpoint with each of the slice's ports. Without a port (a name that no container has), nothing is served there.
fn each_endpoint(slice: &Object, mut each: impl FnMut(String, bool)) {
    let Some(slice) = slice.as_slice() else { return };
    let ports: BTreeSet<i32> = slice.ports.iter().flatten().filter_map(|port| port.port).collect();
    for endpoint in &slice.endpoints {
        let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
        for (address, port) in
            endpoint.addresses.iter().flat_map(|address| ports.iter().map(move |port| (address, port)))
        {
            let at = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
            each(pod.map_or_else(|| at.clone(), |pod| format!("{pod} {at}")), is_ready);
        }
    }
}

/// Of what was written: the Pods that joined or left, and the Service with its slices; without these, all there is.
fn causes<'a>(commit: &Commit, name: &ServiceName, moved: impl Iterator<Item = &'a String>) -> Vec<String> {
    let pods: Vec<&str> = moved.filter_map(|endpoint| endpoint.split(' ').next()).collect();
    let is_about = |key: &&Key| match key.kind {
        Kind::Pod => key.namespace == name.namespace && pods.contains(&&*key.name),
        Kind::Service => **key == name.key(),
        _ => true,
    };
    let mut written: Vec<&Key> = commit.written.iter().collect();
    written.dedup();
    let about: Vec<&Key> = written.iter().copied().filter(is_about).collect();
    let chosen = if about.is_empty() { written } else { about };
    chosen.into_iter().filter_map(|key| Some(cause(commit.change(key)?))).take(SHOWN).collect()
}

fn cause(change: &Change) -> String {
    let Key { kind, name, .. } = &change.key;
    let what = match (&change.old, &change.new) {
        (None, _) => "created".to_owned(),
        (_, None) => "deleted".to_owned(),
        (Some(old), Some(new)) => difference(old, new),
    };
    format!("{} {name}: {what}", kind.name())
}

/// What differs between two versions, in words.
fn difference(old: &Arc<Object>, new: &Arc<Object>) -> String {
    let empty = BTreeMap::new();
    let labels = |object: &Arc<Object>| object.metadata().labels.clone().unwrap_or_else(|| empty.clone());
    let (before, after) = (labels(old), labels(new));
    let mut told = Vec::new();
    for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))) {
        let value = |of: &BTreeMap<String, String>| of.get(key).map_or_else(|| "none".to_owned(), Clone::clone);
        if before.get(key) != after.get(key) {
            told.push(format!("label {key}: {} → {}", value(&before), value(&after)));
        }
    }
    if old.metadata().deletion_timestamp.is_none() && new.metadata().deletion_timestamp.is_some() {
        told.push("terminating".to_owned());
    }
    if let (Some(old), Some(new)) = (old.as_pod(), new.as_pod()) {
        let differs = [("Ready", ready(old), ready(new)), ("phase", phase(old), phase(new)), ("IP", ip(old), ip(new))];
        let differs = differs.into_iter().filter(|(_, old, new)| old != new);
        told.extend(differs.map(|(what, old, new)| format!("{what}: {old} → {new}")));
    }
    if told.is_empty() { "changed".to_owned() } else { told.join(", ") }
}

fn ready(pod: &Pod) -> String {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.map_or_else(|| "none".to_owned(), |condition| condition.status.clone())
}

fn phase(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_else(|| "none".to_owned())
}

fn ip(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or_else(|| "none".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, pod, service};

    fn world() -> World {
        let mut world = World::new();
        let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
        world.apply([service("web", spec), pod("a", "web", "10.244.0.1")]);
        world
    }

    fn one(commit: &Commit) -> News {
        let mut news = news(commit);
        assert_eq!(news.len(), 1, "{news:?}");
        news.remove(0)
    }

    #[test]
    fn who_joins_and_who_leaves_is_told_with_the_cause() {
        let mut world = world();
        let commit = world.apply([pod("b", "web", "10.244.0.2")]);
        let joined = one(&commit);
        assert_eq!(
            (joined.service.as_str(), joined.joined.as_slice()),
            ("default/web", &["b 10.244.0.2:80".to_owned()][..])
        );
        assert_eq!(
            (joined.left.len(), joined.causes, joined.revision),
            (0, vec!["Pod b: created".to_owned()], commit.revision)
        );

        let left = one(&world.apply([pod("a", "api", "10.244.0.1")]));
        assert_eq!(left.left, ["a 10.244.0.1:80"]);
        assert_eq!(left.causes, ["Pod a: label app: web → api"]);

        let mut unready = pod("b", "web", "10.244.0.2");
        unready["status"]["conditions"][0]["status"] = json!("False");
        let left = one(&world.apply([unready]));
        assert_eq!(
            (left.left, left.causes),
            (vec!["b 10.244.0.2:80".to_owned()], vec!["Pod b: Ready: True → False".to_owned()])
        );

        // Another port is another endpoint; a port that no container has is none.
        let to = |port: serde_json::Value| {
            service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": port}]}))
        };
        world.apply([pod("d", "web", "10.244.0.4")]);
        let moved = one(&world.apply([to(json!(81))]));
        assert_eq!(
            (moved.joined, moved.left),
            (vec!["d 10.244.0.4:81".to_owned()], vec!["d 10.244.0.4:80".to_owned()])
        );
        let gone = one(&world.apply([to(json!("nosuch"))]));
        assert_eq!(
            (gone.joined.len(), gone.left, gone.causes),
            (0, vec!["d 10.244.0.4:81".to_owned()], vec!["Service web: changed".to_owned()])
        );

        // A change that moves nothing is no news.
        assert!(news(&world.apply([pod("c", "api", "10.244.0.3")])).is_empty());
    }

    #[test]
    fn much_news_is_bounded() {
        let mut world = world();
        let one = |n: u32| pod(&format!("p{n:02}"), "web", &format!("10.244.1.{n}"));
        let told = super::news(&world.apply((1..=30).map(one)));
        assert_eq!((told[0].joined.len(), told[0].more, told[0].causes.len()), (SHOWN, 20, SHOWN));
    }
}

//! `kubectl apply`'s three-way merge, done where the objects are.
//!
//! ```text
//! last applied (annotation) ─┐
//! manifest                  ─┼─▶ what the manifest dropped is removed, what it says is merged, the rest stays
//! live object               ─┘
//! ```
//!
//! Same annotation as kubectl's client-side apply (`kubectl.kubernetes.io/last-applied-configuration`), so objects applied by either
//! tool can be applied by the other. Maps merge; lists are replaced as a whole, like in a JSON merge patch (RFC 7386),
//! where kubectl would merge some of them by key: what a manifest's list says is what there is, and a Service's allocated
//! node ports are kept by port anyway.

use serde_json::{Map, Value};

use crate::fault::Fault;
use crate::objects::Object;

/// Where the manifest that was applied last is kept.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Metadata that is the server's to write; dumped values of it mean nothing.
const SERVER_OWNED: [&str; 6] =
    ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"];

/// The object that applying `manifest` to `live` leads to.
///
/// # Errors
/// If the merged object is none any more, which only a live object of another make can bring about.
pub(crate) fn merge(manifest: &Object, live: Option<&Object>) -> Result<Object, Vec<Fault>> {
    let mut wanted = manifest.to_value();
    strip(&mut wanted);
    let text = format!("{wanted}\n");
    let mut object = match live {
        None => manifest.clone(),
        Some(live) => {
            let last = last_applied(live);
            let mut merged = live.to_value();
            remove_dropped(&mut merged, &last, &wanted);
            overlay(&mut merged, wanted);
            Object::from_value(&merged, manifest.namespace())?
        }
    };
    let annotations = object.metadata_mut().annotations.get_or_insert_default();
    annotations.insert(LAST_APPLIED.to_owned(), text);
    Ok(object)
}

fn strip(value: &mut Value) {
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    metadata.retain(|key, _| !SERVER_OWNED.contains(&key.as_str()));
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
}

fn last_applied(live: &Object) -> Value {
    let text = live.metadata().annotations.as_ref().and_then(|annotations| annotations.get(LAST_APPLIED));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Removes from `live` what `last` said and `wanted` no longer says.
fn remove_dropped(live: &mut Value, last: &Value, wanted: &Value) {
    let (Value::Object(live), Value::Object(last)) = (live, last) else {
        return;
    };
    for (key, last) in last {
        match (wanted.get(key), live.get_mut(key)) {
            (None, Some(_)) => drop(live.remove(key)),
            (Some(wanted), Some(live)) => remove_dropped(live, last, wanted),
            _ => {}
        }
    }
}

fn overlay(live: &mut Value, wanted: Value) {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            for (key, value) in wanted.into_iter().filter(|(_, value)| !value.is_null()) {
                overlay(live.entry(key).or_insert_with(|| Value::Object(Map::new())), value);
            }
        }
        (live, wanted) => *live = wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, object, pod, service};

    #[test]
    fn what_a_manifest_drops_goes_and_what_others_wrote_stays() {
        let mut live = object(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "1", "y": "2"}}}),
        );
        live = merge(&live, None).unwrap();
        live.metadata_mut().labels.as_mut().unwrap().insert("theirs".to_owned(), "3".to_owned());
        let next = object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"y": "5"}}}));
        let merged = merge(&next, Some(&live)).unwrap();
        let labels = merged.metadata().labels.clone().unwrap();
        assert_eq!(labels, [("theirs".to_owned(), "3".to_owned()), ("y".to_owned(), "5".to_owned())].into());
    }

    #[test]
    fn the_annotation_is_kubectls() {
        let mut dumped = object(service("a", json!({"ports": [{"port": 80}]})));
        dumped.metadata_mut().uid = Some("x".to_owned());
        dumped.metadata_mut().resource_version = Some("77".to_owned());
        let merged = merge(&dumped, None).unwrap();
        let text = &merged.metadata().annotations.as_ref().unwrap()[LAST_APPLIED];
        let expected = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","namespace":"default"},"spec":{"ports":[{"port":80}]}}"#;
        assert_eq!(text, &format!("{expected}\n"));
    }

    #[test]
    fn applying_twice_changes_nothing_and_a_dropped_port_goes() {
        let mut world = World::new();
        let two = service(
            "a",
            json!({"selector": {"app": "a"}, "ports": [{"name": "x", "port": 80}, {"name": "y", "port": 81}]}),
        );
        let commit = world.apply([two.clone(), pod("p", "a", "10.0.0.1")]);
        assert_eq!(commit.revision, 2);
        let again = world.apply([two, pod("p", "a", "10.0.0.1")]);
        assert_eq!((again.revision, again.changes.len(), again.written.len()), (2, 0, 2));
        world.apply([service("a", json!({"selector": {"app": "a"}, "ports": [{"port": 80}]}))]);
        assert_eq!(world.service("a").spec.unwrap().ports.unwrap().len(), 1);
    }
}

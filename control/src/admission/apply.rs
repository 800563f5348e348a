//! `kubectl apply`'s three-way merge, done where the objects are.
//!
//! ```text
//! last applied (annotation) ─┐
//! manifest                  ─┼─▶ what the manifest dropped is removed, what it says is merged, the rest stays
//! live object               ─┘
//! ```
//!
//! Same annotation as kubectl's client-side apply (`kubectl.kubernetes.io/last-applied-configuration`), so objects applied by either
//! tool can be applied by the other. Maps merge, and so do lists whose items have keys (ports, containers, conditions: see
//! [`crate::objects::schema`]), as with kubectl: a port that another client added stays, one the manifest dropped is removed.

use ahash::HashMap;
use serde_json::Value;

use crate::admission::validate::MAX_ANNOTATIONS;
use crate::objects::Object;
use crate::objects::fault::{Fault, Faults};
use crate::objects::merge::{Merge, Rules, overlay};
use crate::objects::schema::Shape;

/// Where the manifest that was applied last is kept.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Longest manifest that is merged, server-owned fields and an old annotation included.
const MOST: usize = 4 * MAX_ANNOTATIONS;

/// Metadata that only the server writes; dumped values of it are ignored.
const SERVER_OWNED: [&str; 6] =
    ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"];

/// The object that applying `manifest` to `live` leads to.
///
/// # Errors
/// If the merge gives no object of that kind; objects that were admitted never do.
pub(crate) fn merge(manifest: &Object, live: Option<&Object>) -> Result<Object, Faults> {
    // Too long for the annotation, so it would be refused: a value of it is not made first.
    if manifest.json_length() > MOST {
        return Err(Fault::too_long("metadata.annotations", MAX_ANNOTATIONS).into());
    }
    let mut wanted = manifest.to_value();
    strip(&mut wanted);
    let text = format!("{wanted}\n");
    let mut object = match live {
        None => manifest.clone(),
        Some(live) => {
            let last = last_applied(live);
            let mut merged = live.to_value();
            let shape = Shape::of(manifest.kind());
            remove_dropped(shape, &mut merged, &last, &wanted);
            overlay(Rules::Kubectl, shape, &mut merged, wanted);
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
fn remove_dropped(shape: &'static Shape, live: &mut Value, last: &Value, wanted: &Value) {
    match (live, last, wanted) {
        (Value::Object(live), Value::Object(last), Value::Object(wanted)) => {
            for (key, last) in last {
                match (wanted.get(key), live.get_mut(key)) {
                    (None, Some(_)) => drop(live.remove(key)),
                    (Some(wanted), Some(live)) => remove_dropped(shape.field(key), live, last, wanted),
                    _ => {}
                }
            }
        }
        (Value::Array(live), Value::Array(last), Value::Array(wanted)) => {
            if let Shape::List { items, merge } = shape {
                remove_dropped_items(items, &Rules::Kubectl.of(merge), live, last, wanted);
            }
        }
        _ => {}
    }
}

fn remove_dropped_items(shape: &'static Shape, merge: &Merge, live: &mut Vec<Value>, last: &[Value], wanted: &[Value]) {
    let identified = merge.identities(live).zip(merge.identities(last)).zip(merge.identities(wanted));
    let Some(((identities, was), is)) = identified else {
        return;
    };
    let was: HashMap<&String, &Value> = was.iter().zip(last).collect();
    let is: HashMap<&String, &Value> = is.iter().zip(wanted).collect();
    let mut identities = identities.iter();
    live.retain_mut(|item| {
        let identity = identities.next();
        match identity.map(|identity| (was.get(identity), is.get(identity))) {
            Some((Some(_), None)) => false,
            Some((Some(was), Some(is))) => {
                remove_dropped(shape, item, was, is);
                true
            }
            _ => true,
        }
    });
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

    #[test]
    fn a_status_that_a_manifest_drops_goes_and_one_that_others_wrote_stays() {
        let mut world = World::new();
        let bare = || {
            let mut value = pod("p", "a", "10.0.0.1");
            value.as_object_mut().unwrap().remove("status");
            value
        };
        let address = |world: &World| {
            let key = crate::objects::Key::new(crate::objects::Kind::Pod, "default", "p");
            let status = world.cluster.object(&key).unwrap().as_pod().unwrap().status.clone();
            status.and_then(|status| status.pod_ip)
        };
        world.apply([pod("p", "a", "10.0.0.1")]);
        assert_eq!(address(&world).as_deref(), Some("10.0.0.1"));
        world.apply([bare()]);
        assert_eq!(address(&world), None);
        world.write(vec![crate::cluster::Write::Replace(object(pod("p", "a", "10.0.0.2")))]).unwrap();
        world.apply([bare()]);
        assert_eq!(address(&world).as_deref(), Some("10.0.0.2"));
    }

    #[test]
    fn lists_with_keys_merge_by_them_as_kubectls_do() {
        let mut world = World::new();
        let ports = |ports: serde_json::Value| service("a", json!({"selector": {"app": "a"}, "ports": ports}));
        world.apply([ports(json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]))]);
        let mut edited = world.service("a");
        let added = serde_json::from_value(json!({"name": "theirs", "port": 9090, "protocol": "TCP"})).unwrap();
        edited.spec.as_mut().unwrap().ports.as_mut().unwrap().insert(1, added);
        world.write(vec![crate::cluster::Write::Replace(Object::Service(Box::new(edited)))]).unwrap();
        world.apply([ports(json!([{"name": "a", "port": 80, "targetPort": 8080}, {"name": "c", "port": 82}]))]);
        let live = world.service("a").spec.unwrap().ports.unwrap();
        let names: Vec<&str> = live.iter().filter_map(|port| port.name.as_deref()).collect();
        assert_eq!(names, ["a", "c", "theirs"]);
    }

    #[test]
    fn one_number_for_two_protocols_is_two_ports() {
        let mut world = World::new();
        let dns = |ports: serde_json::Value| service("dns", json!({"ports": ports}));
        let (tcp, udp) = (json!({"name": "t", "port": 53}), json!({"name": "u", "port": 53, "protocol": "UDP"}));
        world.apply([dns(json!([tcp, udp]))]);
        world.apply([dns(json!([tcp]))]);
        let left = world.service("dns").spec.unwrap().ports.unwrap();
        assert_eq!((left.len(), left[0].name.as_deref()), (1, Some("t")));
        world.apply([dns(json!([udp, tcp]))]);
        assert_eq!(world.service("dns").spec.unwrap().ports.unwrap().len(), 2);
    }
}

//! An object's JSON as the API server shows it.
//!
//! The generated types leave out what is empty. Go leaves out what is marked so: a time that is not given is `null`, a list
//! without that mark is `null`, and a struct is there with nothing in it. Generated clients require some of these.

use serde_json::{Value, json};

use super::{NO_TIME, Object};

/// The JSON of an object.
pub(crate) fn shown(object: &Object) -> Value {
    let mut value = object.to_value();
    match object {
        Object::Service(_) => {
            for condition in items(&mut value, "/status/conditions") {
                let time = &mut condition["lastTransitionTime"];
                if time == NO_TIME {
                    *time = Value::Null;
                }
            }
        }
        Object::Pod(_) => {
            for condition in items(&mut value, "/status/conditions") {
                fill(condition, &["lastProbeTime", "lastTransitionTime"], &Value::Null);
            }
        }
        Object::Node(_) => {
            for condition in items(&mut value, "/status/conditions") {
                fill(condition, &["lastHeartbeatTime", "lastTransitionTime"], &Value::Null);
            }
        }
        Object::Namespace(_) => {
            for condition in items(&mut value, "/status/conditions") {
                fill(condition, &["lastTransitionTime"], &Value::Null);
            }
            fill(&mut value, &["spec"], &json!({}));
        }
        Object::EndpointSlice(_) => {
            for endpoint in items(&mut value, "/endpoints") {
                fill(endpoint, &["conditions"], &json!({}));
            }
            for list in ["endpoints", "ports"] {
                if value[list].as_array().is_none_or(Vec::is_empty) {
                    value[list] = Value::Null;
                }
            }
        }
        Object::Event(_) => {
            fill(&mut value, &["firstTimestamp", "lastTimestamp", "eventTime"], &Value::Null);
            fill(&mut value, &["source"], &json!({}));
            fill(&mut value, &["reportingComponent", "reportingInstance"], &json!(""));
        }
        Object::Endpoints(_) | Object::ConfigMap(_) | Object::Secret(_) => {}
    }
    value
}

/// Whether [`shown`] is the object's JSON as it is: then it need not be made first.
pub(crate) fn is_shown_as_it_is(object: &Object) -> bool {
    match object {
        Object::Service(service) => {
            let conditions = service.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.is_none_or(Vec::is_empty)
        }
        Object::Pod(pod) => pod.status.as_ref().and_then(|status| status.conditions.as_ref()).is_none_or(Vec::is_empty),
        Object::Node(node) => {
            node.status.as_ref().and_then(|status| status.conditions.as_ref()).is_none_or(Vec::is_empty)
        }
        Object::Endpoints(_) | Object::ConfigMap(_) | Object::Secret(_) => true,
        Object::Namespace(_) | Object::EndpointSlice(_) | Object::Event(_) => false,
    }
}

/// Sets the fields that are not there.
fn fill(value: &mut Value, fields: &[&str], with: &Value) {
    if let Some(object) = value.as_object_mut() {
        for field in fields {
            object.entry(*field).or_insert_with(|| with.clone());
        }
    }
}

fn items<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    #[test]
    fn what_go_shows_of_nothing_is_shown() {
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a"},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]});
        let seen = shown(&object(slice));
        assert_eq!((&seen["ports"], &seen["endpoints"][0]["conditions"]), (&Value::Null, &json!({})));
        assert!(seen.as_object().unwrap().contains_key("ports"));
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "involvedObject": {}});
        let seen = shown(&object(event));
        assert_eq!((&seen["source"], seen.get("eventTime")), (&json!({}), Some(&Value::Null)));
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": {"x": null}},
            "status": {"conditions": [{"type": "T", "status": "True", "reason": "R", "message": "", "lastTransitionTime": null}]}});
        let seen = shown(&object(service));
        assert_eq!(seen["status"]["conditions"][0].get("lastTransitionTime"), Some(&Value::Null));
        assert_eq!(seen["metadata"]["labels"]["x"], "");
    }

    /// What is shown can be sent again, and is the same object.
    #[test]
    fn what_is_shown_is_read_back() {
        for value in [
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a", "namespace": "default"},
                "addressType": "IPv4", "endpoints": [], "ports": null}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "default"},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        ] {
            let before = object(value);
            assert_eq!(object(shown(&before)).to_value(), before.to_value());
        }
    }
}

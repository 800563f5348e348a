//! `ValidateConfigMap` and `ValidateSecret` (K `pkg/apis/core/validation/validation.go`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::names;
use crate::objects::fault::{Fault, Faults};

/// Most bytes of all values of one ConfigMap or Secret.
const MAX_SIZE: usize = 1 << 20;

const FROZEN: &str = "field is immutable when `immutable` is set";

/// Adds what is wrong with a ConfigMap, and with its change from `old`.
pub(super) fn config_map(map: &ConfigMap, old: Option<&ConfigMap>, faults: &mut Faults) {
    keys("data", map.data.as_ref(), faults);
    keys("binaryData", map.binary_data.as_ref(), faults);
    let both = |key: &&String| map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(*key));
    for key in map.data.iter().flat_map(BTreeMap::keys).filter(both) {
        let detail = "duplicate of key present in binaryData";
        faults.push(Fault::invalid(format!("data[{key}]"), key, detail));
    }
    let text = map.data.iter().flatten().map(|(_, value)| value.len()).sum::<usize>();
    let bytes = map.binary_data.iter().flatten().map(|(_, value)| value.0.len()).sum::<usize>();
    if text + bytes > MAX_SIZE {
        // The API server's path of the object as a whole.
        faults.push(Fault::too_long("[]", MAX_SIZE));
    }
    let Some(old) = old.filter(|old| old.immutable == Some(true)) else { return };
    let changes = [
        ("immutable", map.immutable != Some(true)),
        ("data", map.data != old.data),
        ("binaryData", map.binary_data != old.binary_data),
    ];
    frozen(&changes, faults);
}

/// Adds what is wrong with a defaulted Secret, and with its change from `old`.
pub(super) fn secret(secret: &Secret, old: Option<&Secret>, faults: &mut Faults) {
    keys("data", secret.data.as_ref(), faults);
    if secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum::<usize>() > MAX_SIZE {
        faults.push(Fault::too_long("data", MAX_SIZE));
    }
    required_by_type(secret, faults);
    let Some(old) = old else { return };
    if secret.type_ != old.type_ {
        faults.push(Fault::invalid("type", secret.type_.as_deref().unwrap_or_default(), "field is immutable"));
    }
    if old.immutable == Some(true) {
        frozen(&[("immutable", secret.immutable != Some(true)), ("data", secret.data != old.data)], faults);
    }
}

/// The keys that Secrets of the well-known types must have.
fn required_by_type(secret: &Secret, faults: &mut Faults) {
    let value = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let mut require = |key: &str| {
        if value(key).is_none() {
            faults.push(Fault::required(format!("data[{key}]"), ""));
        }
    };
    match secret.type_.as_deref().unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let annotations = secret.metadata.annotations.as_ref();
            if annotations.and_then(|annotations| annotations.get(ACCOUNT)).is_none_or(String::is_empty) {
                faults.push(Fault::required(format!("metadata.annotations[{ACCOUNT}]"), ""));
            }
        }
        "kubernetes.io/dockercfg" => json_at(".dockercfg", value(".dockercfg"), faults),
        "kubernetes.io/dockerconfigjson" => json_at(".dockerconfigjson", value(".dockerconfigjson"), faults),
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            faults.push(Fault::required("data[ssh-privatekey]", ""));
        }
        "kubernetes.io/tls" => {
            require("tls.crt");
            require("tls.key");
        }
        _ => {}
    }
}

/// A value that must be a JSON object; its text is secret and not shown.
fn json_at(key: &str, value: Option<&ByteString>, faults: &mut Faults) {
    let field = format!("data[{key}]");
    let Some(value) = value else {
        return faults.push(Fault::required(field, ""));
    };
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&value.0) {
        faults.push(Fault::invalid(field, "<secret contents redacted>", &error.to_string()));
    }
}

fn keys<V>(field: &str, data: Option<&BTreeMap<String, V>>, faults: &mut Faults) {
    let keys: BTreeSet<&String> = data.into_iter().flat_map(BTreeMap::keys).collect();
    for key in keys {
        for detail in names::config_key(key) {
            faults.push(Fault::invalid(format!("{field}[{key}]"), key, &detail));
        }
    }
}

fn frozen(changes: &[(&str, bool)], faults: &mut Faults) {
    faults.extend(changes.iter().filter(|(_, changed)| *changed).map(|(field, _)| Fault::forbidden(*field, FROZEN)));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{World, object};

    fn config_map(more: Value) -> Value {
        with("ConfigMap", more)
    }

    fn with(kind: &str, more: Value) -> Value {
        let mut value = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    }

    fn refused(value: Value) -> Vec<String> {
        let refusals = World::new().write(vec![crate::cluster::Write::Create(object(value))]).unwrap_err();
        refusals[0].faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_are_told_in_kubernetes_words() {
        let key = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
                   'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
        for (value, expected) in [
            (config_map(json!({"data": {"a b": ""}})), format!("data[a b]: Invalid value: \"a b\": {key}")),
            (
                config_map(json!({"data": {"..a": ""}})),
                "data[..a]: Invalid value: \"..a\": must not start with '..'".into(),
            ),
            (
                config_map(json!({"data": {"a": ""}, "binaryData": {"a": ""}})),
                "data[a]: Invalid value: \"a\": duplicate of key present in binaryData".into(),
            ),
            (
                config_map(json!({"data": {"a": "x".repeat((1 << 20) + 1)}})),
                "[]: Too long: may not be more than 1048576 bytes".into(),
            ),
            (
                with("Secret", json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})),
                "data[tls.key]: Required value".into(),
            ),
            (with("Secret", json!({"type": "kubernetes.io/ssh-auth"})), "data[ssh-privatekey]: Required value".into()),
        ] {
            assert_eq!(refused(value), [expected]);
        }
        let docker = with("Secret", json!({"type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": "hidden"}}));
        let told = refused(docker);
        assert!(told[0].starts_with("data[.dockercfg]: Invalid value: \"<secret contents redacted>\": "), "{told:?}");
    }

    #[test]
    fn string_data_becomes_data_and_immutable_ones_stay() {
        let mut world = World::new();
        let secret =
            |text: &str| with("Secret", json!({"immutable": true, "stringData": {"a": text}, "data": {"b": "Yg=="}}));
        world.apply([secret("one")]);
        let stored = world.cluster.objects(crate::objects::Kind::Secret, None).next().unwrap().to_value();
        assert_eq!(stored["data"], json!({"a": "b25l", "b": "Yg=="}));
        assert_eq!((&stored["stringData"], &stored["type"]), (&Value::Null, &json!("Opaque")));
        assert_eq!(world.faults(secret("two")), ["data: Forbidden: field is immutable when `immutable` is set"]);
        let other = object(with("Secret", json!({"type": "x"})));
        let refusals = world.write(vec![crate::cluster::Write::Replace(other)]).unwrap_err();
        let told: Vec<String> = refusals[0].faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "type: Invalid value: \"x\": field is immutable",
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }

    #[test]
    fn the_sum_of_all_is_bounded() {
        let mut world = World::new();
        let large = |n: usize| {
            let mut value = config_map(json!({"data": {"a": "x".repeat(1 << 20)}}));
            value["metadata"]["name"] = json!(format!("c{n}"));
            value
        };
        let create = |n| crate::cluster::Write::Create(object(large(n)));
        world.write((0..31).map(create).collect()).unwrap();
        let refusal = &world.write(vec![create(99)]).unwrap_err()[0];
        assert_eq!(refusal.reason.code(), 403);
        assert_eq!(
            refusal.message,
            "configmaps \"c99\" is forbidden: all ConfigMaps and Secrets together may not exceed 33554432 bytes"
        );
        // Written again, and in place of another, there is room.
        world.write(vec![crate::cluster::Write::Replace(object(large(0)))]).unwrap();
        world.delete(crate::objects::Kind::ConfigMap, "c0");
        world.write(vec![create(99)]).unwrap();
    }
}

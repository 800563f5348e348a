//! Objects that are nearly valid: those of the guide and one of each other kind, changed in places.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::choices::Choices;
use crate::objects::manifest;

/// At least one object of each kind.
pub(crate) static OBJECTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let guide = manifest::parse("guide.yaml", include_str!("../../../examples/guide.yaml")).expect("readable");
    let others = [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "clusterIP": "10.96.0.177", "sessionAffinity": "ClientIP",
                "ports": [{"name": "a", "port": 80, "targetPort": "http", "nodePort": 30177, "protocol": "TCP"},
                    {"name": "b", "port": 53, "protocol": "UDP"}, {"name": "c", "port": 9, "protocol": "SCTP"}],
                "externalIPs": ["198.51.100.7"], "loadBalancerSourceRanges": ["192.0.2.0/24"],
                "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "trafficDistribution": "PreferClose"},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "out"},
            "spec": {"type": "ExternalName", "externalName": "example.org"}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "a", "protocol": "TCP", "port": 8080}],
            "endpoints": [{"addresses": ["10.244.1.10"], "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": "node-1", "zone": "a", "hostname": "h", "hints": {"forZones": [{"name": "a"}]},
                "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"}}]}),
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"},
            "subsets": [{"addresses": [{"ip": "10.244.1.11", "hostname": "x"}], "notReadyAddresses": [{"ip": "10.244.1.12"}],
                "ports": [{"name": "a", "port": 8080, "protocol": "TCP"}]}]}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other", "annotations": {"a": "b"}}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": {"a": "b"}, "binaryData": {"c": "AAEC"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"}, "type": "Opaque", "data": {"a": "AAEC"},
            "stringData": {"b": "text"}}),
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "event.1"}, "reason": "Because", "message": "of this",
            "involvedObject": {"kind": "Service", "name": "web", "namespace": "default"}, "type": "Warning", "count": 3,
            "firstTimestamp": "2026-01-01T00:00:00Z", "eventTime": "2026-01-01T00:00:00.000000Z"}),
    ];
    guide.into_iter().map(|document| document.value).chain(others).collect()
});

/// A value that is there instead of another one.
pub(crate) fn odd(choices: &mut Choices<'_>) -> Value {
    const TEXTS: &str = "TCP UDP SCTP 10.96.0.50 10.96.0.10 fd00::1 255.255.255.255 0.0.0.0 127.0.0.1 10.0.0.0/8 ::/0 a..b -a A_b \
                         ClientIP Local None LoadBalancer ExternalName ClusterIP v1 v2 Service Pod web default \
                         kubernetes.io/service-name 2026-01-01T00:00:00Z 9999-99-99T99:99:99Z \\u0000 $patch delete replace";
    let texts: Vec<&str> = TEXTS.split_whitespace().collect();
    match choices.below(14) {
        0 => Value::Null,
        1 => true.into(),
        2 => choices.of_list(&[0i64, 1, -1, 80, 65_535, 65_536, 30_080, i64::MAX, i64::MIN]).into(),
        3 => json!(1.5e300),
        4 => json!([]),
        5 => json!({}),
        6 => json!([[], {}, null]),
        7 => String::from_utf8_lossy(choices.bytes(8)).into(),
        8 => "x".repeat(choices.of_list(&[0, 1, 63, 64, 253, 254, 5000])).into(),
        9 => "\u{1b}[31m\u{9b}\u{202e}\u{7f}".into(),
        _ => choices.of_list(&texts).into(),
    }
}

/// Changes an object in up to six places.
pub(crate) fn changed(mut value: Value, choices: &mut Choices<'_>) -> Value {
    for _ in 0..choices.below(7) {
        change(&mut value, choices, 0);
    }
    value
}

fn change(value: &mut Value, choices: &mut Choices<'_>, depth: usize) {
    let goes_down = depth < 12 && !choices.one_in(4);
    match value {
        Value::Object(fields) if goes_down && !fields.is_empty() => {
            let at = choices.below(fields.len());
            if let Some(field) = fields.values_mut().nth(at) {
                change(field, choices, depth + 1);
            }
        }
        Value::Array(items) if goes_down && !items.is_empty() => {
            let at = choices.below(items.len());
            change(&mut items[at], choices, depth + 1);
        }
        Value::Object(fields) => change_map(fields, choices),
        Value::Array(items) => change_list(items, choices),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => *value = odd(choices),
    }
}

fn change_map(fields: &mut Map<String, Value>, choices: &mut Choices<'_>) {
    const NAMES: [&str; 18] = [
        "spec",
        "status",
        "metadata",
        "name",
        "namespace",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "ports",
        "protocol",
        "clusterIPs",
        "ipFamilies",
        "deletionTimestamp",
        "managedFields",
        "$patch",
        "$retainKeys",
        "$setElementOrder/ports",
    ];
    let name = fields.keys().nth(choices.below(fields.len())).cloned();
    match (choices.below(4), name) {
        (0, Some(name)) => drop(fields.remove(&name)),
        (1, Some(name)) => drop(fields.insert(name, odd(choices))),
        (2, Some(name)) => {
            let moved = fields.remove(&name).unwrap_or_default();
            fields.insert(String::from_utf8_lossy(choices.bytes(6)).into_owned(), moved);
        }
        _ => drop(fields.insert(choices.of_list(&NAMES).to_owned(), odd(choices))),
    }
}

fn change_list(items: &mut Vec<Value>, choices: &mut Choices<'_>) {
    let at = choices.below(items.len());
    match choices.below(4) {
        0 if !items.is_empty() => drop(items.remove(at)),
        1 if !items.is_empty() => {
            let times = choices.of_list(&[1, 2, 100, 1001]);
            items.extend(vec![items[at].clone(); times]);
        }
        2 => items.reverse(),
        _ => items.push(odd(choices)),
    }
}

/// Changes a text in up to three places, in one of three cases.
pub(crate) fn damaged(mut bytes: Vec<u8>, choices: &mut Choices<'_>) -> Vec<u8> {
    if !choices.one_in(3) {
        return bytes;
    }
    for _ in 0..=choices.below(3) {
        let at = usize::from(choices.half()) % (bytes.len() + 1);
        match choices.below(4) {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(at..at, choices.bytes(6).iter().copied())),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            _ if at < bytes.len() => bytes[at] = choices.byte(),
            _ => {}
        }
    }
    bytes
}

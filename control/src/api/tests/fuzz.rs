//! The targets of requests: bodies of all encodings to every kind's path, and patches of all kinds. The whole way from the socket to
//! admission, as a dry run, so that one input leaves nothing for the next.

use std::cell::RefCell;

use serde_json::{Map, Value, json};

use super::Gateway;
use crate::api::body::OBJECT_TYPES;
use crate::api::patch::PATCH_TYPES;
use crate::api::protobuf::{PROTOBUF, encode};
use crate::fuzz::choices::Choices;
use crate::fuzz::values::{OBJECTS, changed, damaged, odd};
use crate::objects::Kind;

thread_local! {
    static GATEWAY: RefCell<Option<Gateway>> = const { RefCell::new(None) };
}

/// A gateway with one object of each kind.
fn gateway() -> Gateway {
    let gateway = Gateway::new();
    for object in OBJECTS.iter() {
        let kind = Kind::from_name(object["kind"].as_str().unwrap_or_default()).expect("a kind");
        let answer = gateway.post(&collection(kind), object);
        assert!(answer.code == 201 || answer.code == 409, "{object}: {}", answer.text);
    }
    gateway
}

fn collection(kind: Kind) -> String {
    let root = if kind.group().is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}", kind.api_version()) };
    let namespace = if kind.namespaced() { "/namespaces/default" } else { "" };
    format!("{root}{namespace}/{}", kind.plural())
}

/// Sends a request, and checks that its response is whole and no failure of the gateway.
fn send(method: &str, path: &str, media: &str, body: &[u8]) {
    GATEWAY.with_borrow_mut(|known| {
        let gateway = known.get_or_insert_with(gateway);
        let path = format!("{path}{}dryRun=All&fieldManager=fuzz", if path.contains('?') { '&' } else { '?' });
        let answer = gateway.send_bytes(method, &path, &[("Content-Type", media)], body);
        let text = String::from_utf8_lossy(body);
        let shown = || format!("{method} {path} as {media} of {text:?}: {} {}", answer.code, answer.text);
        assert!(answer.code < 500, "{}", shown());
        let value: Value = serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {}", shown()));
        let is_refused = answer.code >= 400;
        assert!(!is_refused || value["kind"] == "Status" && value["code"] == answer.code, "{}", shown());
    });
}

fn object<'a>(choices: &mut Choices<'_>) -> &'a Value {
    &OBJECTS[choices.below(OBJECTS.len())]
}

fn kind_of(object: &Value) -> Kind {
    Kind::from_name(object["kind"].as_str().unwrap_or_default()).expect("a kind")
}

/// The target of whole objects: bytes as they are, or an object that is nearly valid.
pub(crate) fn bodies(bytes: &[u8]) {
    let mut choices = Choices::of(bytes);
    let is_raw = choices.byte() & 1 == 0;
    let object = object(&mut choices);
    let kind = if choices.one_in(8) { choices.of_list(&Kind::ALL) } else { kind_of(object) };
    let media = choices.of_list(OBJECT_TYPES);
    let (mut method, mut path) = ("POST", collection(kind));
    match choices.below(4) {
        0 => path = crate::api::APPLY_PATH.to_owned(),
        1 | 2 => {
            method = "PUT";
            path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or("x"));
            if choices.one_in(4) {
                path += "/status";
            }
        }
        _ => {}
    }
    if choices.one_in(4) {
        path += "?fieldValidation=Strict";
    }
    let body = match is_raw {
        true => choices.rest().to_vec(),
        false => {
            let value = changed(object.clone(), &mut choices);
            let text = match media {
                PROTOBUF => encode(&value),
                media if media.ends_with("json") => value.to_string().into_bytes(),
                _ => serde_saphyr::to_string(&value).unwrap_or_default().into_bytes(),
            };
            damaged(text, &mut choices)
        }
    };
    send(method, &path, media, &body);
}

/// The target of patches: bytes as they are, or a patch of one of the objects that are there.
pub(crate) fn patches(bytes: &[u8]) {
    let mut choices = Choices::of(bytes);
    let is_raw = choices.byte() & 1 == 0;
    let object = object(&mut choices);
    let media = choices.of_list(PATCH_TYPES);
    let mut path = format!("{}/{}", collection(kind_of(object)), object["metadata"]["name"].as_str().unwrap_or("x"));
    if choices.one_in(6) {
        path += "/status";
    }
    if choices.one_in(6) {
        path += "?force=true";
    }
    let body = if is_raw { choices.rest().to_vec() } else { patch(object, media, &mut choices) };
    send("PATCH", &path, media, &body);
}

fn patch(object: &Value, media: &str, choices: &mut Choices<'_>) -> Vec<u8> {
    let patch = match media {
        "application/json-patch+json" => (0..choices.below(6)).map(|_| operation(object, choices)).collect(),
        "application/apply-patch+yaml" => applied(object, choices),
        _ => {
            let mut part = part_of(object, choices);
            direct(&mut part, choices, 0);
            part
        }
    };
    damaged(patch.to_string().into_bytes(), choices)
}

/// A pointer to somewhere in the value, or beside it.
fn pointer(value: &Value, choices: &mut Choices<'_>) -> String {
    let mut path = String::new();
    let mut at = value;
    while !choices.one_in(4) {
        let (step, next) = match at {
            Value::Object(fields) => match fields.iter().nth(choices.below(fields.len())) {
                Some((name, next)) => (name.replace('~', "~0").replace('/', "~1"), next),
                None => break,
            },
            Value::Array(items) => {
                let index = choices.below(items.len() + 1);
                (index.to_string(), items.get(index).unwrap_or(&Value::Null))
            }
            _ => break,
        };
        path = format!("{path}/{step}");
        at = next;
    }
    if choices.one_in(8) {
        path += choices.of_list(&["/-", "/x", "/0", "/-1", "/99999999999999999999", "/~", "/~2", "//", ""]);
    }
    path
}

/// RFC 6902 §4.
fn operation(object: &Value, choices: &mut Choices<'_>) -> Value {
    let op = choices.of_list(&["add", "remove", "replace", "move", "copy", "test", "jump"]);
    json!({"op": op, "path": pointer(object, choices), "from": pointer(object, choices), "value": odd(choices)})
}

fn applied(object: &Value, choices: &mut Choices<'_>) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    changed(object, choices)
}

/// Some fields of the object, changed.
fn part_of(object: &Value, choices: &mut Choices<'_>) -> Value {
    let fields = object.as_object().cloned().unwrap_or_default();
    let kept: Map<String, Value> = fields.into_iter().filter(|_| choices.one_in(2)).collect();
    changed(kept.into(), choices)
}

/// Puts directives of strategic merge patches into the maps.
fn direct(value: &mut Value, choices: &mut Choices<'_>, depth: usize) {
    match value {
        Value::Object(fields) if depth < 6 => {
            fields.values_mut().for_each(|field| direct(field, choices, depth + 1));
            let names: Vec<Value> = fields.keys().map(|name| name.as_str().into()).collect();
            match choices.below(12) {
                0 => drop(
                    fields.insert("$patch".to_owned(), choices.of_list(&["delete", "replace", "merge", "x"]).into()),
                ),
                1 => drop(fields.insert("$retainKeys".to_owned(), names.into())),
                2 => drop(fields.insert(
                    "$setElementOrder/ports".to_owned(),
                    json!([{"port": 53, "protocol": "UDP"}, {"port": 80}]),
                )),
                3 => drop(fields.insert("$deleteFromPrimitiveList/externalIPs".to_owned(), json!(["198.51.100.7"]))),
                4 => drop(fields.insert("$deleteFromPrimitiveList/finalizers".to_owned(), odd(choices))),
                _ => {}
            }
        }
        Value::Array(items) if depth < 6 => items.iter_mut().for_each(|item| direct(item, choices, depth + 1)),
        _ => {}
    }
}

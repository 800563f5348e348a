//! From a body to an object, and what to do about unknown fields.
//!
//! | `fieldValidation` | an unknown or repeated field |
//! |---|---|
//! | `Strict` | is an error: 400 |
//! | `Warn`, or nothing | is left out, with a `Warning` header that `kubectl` shows |
//! | `Ignore` | is left out |
//!
//! `kubectl` asks for `Strict`. Old clients and generators that send more than this version knows continue to work. If a
//! field is given twice, the last one counts, as with the API server. The command line's own manifests are always strict: see
//! [`Object::from_value`].

use std::borrow::Cow;
use std::fmt;

use axum::http::HeaderValue;
use axum::http::header::WARNING;
use axum::response::Response;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::request::{FieldValidation, Target};
use super::status::Status;
use crate::objects::Object;
use crate::objects::fault::Fault;

/// Most warnings in one response, and most characters in each, as for the API server.
const MOST_WARNINGS: usize = 64;
const LONGEST_WARNING: usize = 256;

/// A body that was read, and the fields it gives more than once.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) value: Value,
    pub(crate) repeated: Vec<String>,
}

impl From<Value> for Sent {
    fn from(value: Value) -> Self {
        Self { value, repeated: Vec::new() }
    }
}

/// An object, and the warnings for its sender.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) object: Object,
    pub(crate) warnings: Vec<String>,
}

/// The object that was sent, if it is what the path says it is.
pub(crate) fn decode(target: &Target, sent: &Sent) -> Result<Decoded, Status> {
    let value = with_header(target, &sent.value);
    check_version(target, &value)?;
    let lenient = Object::from_value_lenient(&value, target.namespace());
    let (object, unknown) = lenient.map_err(|faults| Status::from_faults(&value, &faults))?;
    check_path(target, &object)?;
    let texts = || {
        let repeated = sent.repeated.iter().map(|field| format!("duplicate field {field:?}"));
        unknown.iter().map(unknown_field).chain(repeated).collect::<Vec<_>>()
    };
    let warnings = match target.options.validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => texts(),
        FieldValidation::Strict if unknown.is_empty() && sent.repeated.is_empty() => Vec::new(),
        FieldValidation::Strict => return Err(Status::strict_decoding(&object, &texts(), &unknown)),
    };
    Ok(Decoded { object, warnings })
}

/// `unknown field "spec.prots"`.
fn unknown_field(fault: &Fault) -> String {
    format!("unknown field {:?}", fault.field)
}

/// An object may omit its kind, which the path names: the official Python client does.
fn with_header<'a>(target: &Target, value: &'a Value) -> Cow<'a, Value> {
    let header = [("apiVersion", target.kind.api_version()), ("kind", target.kind.name())];
    let open = |field: &str| value.get(field).is_none_or(|text| text.is_null() || text == "");
    if !value.is_object() || !header.iter().any(|(field, _)| open(field)) {
        return Cow::Borrowed(value);
    }
    let mut whole = value.clone();
    for (field, text) in header.into_iter().filter(|(field, _)| open(field)) {
        whole[field] = text.into();
    }
    Cow::Owned(whole)
}

fn check_version(target: &Target, value: &Value) -> Result<(), Status> {
    let expected = target.kind.api_version();
    match value.get("apiVersion").and_then(Value::as_str).filter(|version| *version != expected) {
        None => Ok(()),
        Some(version) => Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        ))),
    }
}

fn check_path(target: &Target, object: &Object) -> Result<(), Status> {
    let (kind, found) = (target.kind, object.kind());
    if found != kind {
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: no kind {0:?} is served here",
            found.name(),
            found.api_version(),
            kind.name()
        )));
    }
    if object.namespace() != target.namespace() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if !target.name.is_empty() && object.name() != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            target.name
        )));
    }
    Ok(())
}

/// Adds the warnings to a response, each as a `Warning` header.
pub(crate) fn warn(mut response: Response, warnings: impl IntoIterator<Item = impl ToString>) -> Response {
    for warning in warnings.into_iter().take(MOST_WARNINGS) {
        let text: String = warning.to_string().chars().filter(|c| !c.is_control()).take(LONGEST_WARNING).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        // Only control characters could be refused, and there are none left.
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

/// Reads JSON, and notes fields that are given more than once; `serde_json` alone does not report them.
pub(crate) fn json(bytes: &[u8]) -> Result<Sent, serde_json::Error> {
    let mut repeated = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Noting { path: String::new(), repeated: &mut repeated }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Sent { value, repeated })
}

/// Builds a value and notes repeated fields below `path`.
struct Noting<'a> {
    path: String,
    repeated: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Noting<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Noting<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, items.len());
            match list.next_element_seed(Noting { path, repeated: &mut *self.repeated })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let dot = if self.path.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{name}", self.path);
            if fields.contains_key(&name) && self.repeated.len() < MOST_WARNINGS {
                self.repeated.push(path.clone());
            }
            let value = map.next_value_seed(Noting { path, repeated: &mut *self.repeated })?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn repeated_fields_are_noted_and_the_last_counts() {
        let body = json(br#"{"a": 1, "b": [{"c": 1, "c": [2]}], "a": -2.5, "a": null}"#).unwrap();
        assert_eq!(body.value, json!({"a": null, "b": [{"c": [2]}]}));
        assert_eq!(body.repeated, ["b[0].c", "a", "a"]);
        for bad in ["", "{", "{} x", "[1,]", r#"{"a" 1}"#] {
            assert!(json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(json("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn a_warning_cannot_break_the_head_of_an_answer() {
        let long = "x".repeat(1000);
        let response = warn(Response::default(), ["a \"b\"\r\nX: y".to_owned(), long, "ünï".to_owned()]);
        let values: Vec<&[u8]> = response.headers().get_all(WARNING).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values[0], br#"299 - "a \"b\"X: y""#);
        assert_eq!(values[1].len(), LONGEST_WARNING + 8);
        assert_eq!(values[2], "299 - \"ünï\"".as_bytes());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f32>().prop_map(|f| Value::from(f64::from(f))),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn without_repetition_it_is_what_serde_json_reads(value in any_json()) {
            let text = value.to_string();
            let body = json(text.as_bytes()).unwrap();
            prop_assert!(body.repeated.is_empty());
            prop_assert_eq!(body.value, serde_json::from_str::<Value>(&text).unwrap());
        }
    }
}

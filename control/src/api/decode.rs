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

use axum::http::HeaderValue;
use axum::http::header::WARNING;
use axum::response::Response;
use serde_json::Value;

use super::request::{FieldValidation, Target};
use super::status::{Status, is_of_types, strict};
use crate::objects::allowance::Allowance;
use crate::objects::decode::Source;
use crate::objects::fault::{Fault, Faults};
use crate::objects::{Draft, Kind, Object, Unread};

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

/// What the path says of an object, and what is to be done about fields that its kind does not have.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    /// Empty if the path has none.
    pub(crate) name: String,
    pub(crate) validation: FieldValidation,
    /// Whether the object is written in place of another: then its name is looked at first.
    pub(crate) replaces: bool,
}

/// The object that a value is, if it is what the path says it is. `size`: bytes of what was sent, and of what it changes.
pub(crate) fn decode(target: &Target, sent: &Sent, size: usize) -> Result<Decoded, Status> {
    let decoded = decode_unfinished(target, sent, size);
    decoded.map_err(|unfit| unfit.of_body(target.kind))
}

/// The same of what a patch has made.
pub(crate) fn decode_unfinished(target: &Target, sent: &Sent, size: usize) -> Result<Decoded, Unfit> {
    target.expected().decode(Source::Value(&sent.value), &sent.repeated, &Allowance::of_text(size))
}

/// Why something is no object of the kind.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// For a reason that does not depend on where it came from.
    Refused(Box<Status>),
    /// It does not have the shape of one; and its header.
    Shape(Value, Faults),
    /// It has unknown or repeated fields, which the client does not allow.
    Strict(Vec<String>),
}

impl From<Status> for Unfit {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl Unfit {
    /// The error of a request whose body it was.
    pub(crate) fn of_body(self, kind: Kind) -> Status {
        match self {
            Self::Refused(status) => *status,
            Self::Shape(header, faults) => Status::from_faults(&header, &faults),
            Self::Strict(texts) => Status::strict_decoding(kind, &texts),
        }
    }

    /// The error of a patch whose result it was, which is `shown`.
    pub(crate) fn of_patch(self, kind: Kind, shown: impl FnOnce() -> String) -> Status {
        match self {
            Self::Shape(_, faults) if is_of_types(&faults) => Status::unfit_patch(&shown(), &faults.to_string()),
            Self::Strict(texts) => Status::unfit_patch(&shown(), &strict(&texts)),
            other => other.of_body(kind),
        }
    }
}

impl Expected {
    /// The object that was sent, if it is what is expected. `repeated`: fields that its sender gave more than once, as far as
    /// the source does not show them.
    pub(crate) fn decode(
        &self,
        source: Source<'_>,
        repeated: &[String],
        allowance: &Allowance,
    ) -> Result<Decoded, Unfit> {
        const STAGE: &str = "couldn't get version/kind; json parse error: ";
        let body = source.text();
        let mut draft = Draft::read(source, Some(self.kind), allowance).map_err(|unread| match unread {
            Unread::NotJson(_) => Status::unread(&unread).unrecognized(self.kind, STAGE, body.unwrap_or_default()),
            Unread::TooMuch(_) => Status::unread(&unread),
        })?;
        if let (false, Some(body)) = (draft.header.is_object(), body) {
            return Err(Status::bad_request("expected an object").unrecognized(self.kind, STAGE, body).into());
        }
        self.check_kind(&draft.header)?;
        let unknown = std::mem::take(&mut draft.unknown);
        let repeated = [std::mem::take(&mut draft.repeated).as_slice(), repeated].concat();
        let header = std::mem::take(&mut draft.header);
        let object = draft.leniently(&self.namespace).map_err(|faults| Unfit::Shape(header, faults))?;
        self.check_path(&object)?;
        let texts = || {
            let repeated = repeated.iter().map(|field| format!("duplicate field {field:?}"));
            unknown.iter().map(unknown_field).chain(repeated).collect::<Vec<_>>()
        };
        let warnings = match self.validation {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn => texts(),
            FieldValidation::Strict if unknown.is_empty() && repeated.is_empty() => Vec::new(),
            FieldValidation::Strict => return Err(Unfit::Strict(texts())),
        };
        Ok(Decoded { object, warnings })
    }

    /// Whether the body is of the kind that the path names; it need not say so.
    fn check_kind(&self, header: &Value) -> Result<(), Status> {
        let text = |field: &str| header.get(field).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if !header.is_object() || (version, kind) == (self.kind.api_version(), self.kind.name()) {
            return Ok(());
        }
        let known = Kind::from_name(kind.strip_suffix("List").unwrap_or(kind)).map(Kind::api_version);
        let known = known.or_else(|| (kind == "List").then_some("v1"));
        let why = match known.filter(|known| *known == version) {
            Some(_) => {
                let expected = match self.kind.group() {
                    "" => "core",
                    group => group.split('.').next().unwrap_or_default(),
                };
                format!("converting (v1.{kind}) to ({expected}.{}): unknown conversion", self.kind.name())
            }
            None => format!("no kind {kind:?} is registered for version {version:?}"),
        };
        Err(Status::other_kind(kind, version, self.kind, &why))
    }

    fn check_path(&self, object: &Object) -> Result<(), Status> {
        if self.replaces && object.name() != self.name {
            return Err(self.other_name(object));
        }
        if self.replaces && object.namespace() != self.namespace {
            return Err(Status::bad_request(format!(
                "the namespace of the object ({}) does not match the namespace on the request ({})",
                object.namespace(),
                self.namespace
            )));
        }
        if object.namespace() != self.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        match self.name.is_empty() || object.name() == self.name {
            true => Ok(()),
            false => Err(self.other_name(object)),
        }
    }

    fn other_name(&self, object: &Object) -> Status {
        Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            self.name
        ))
    }
}

/// `unknown field "spec.prots"`.
fn unknown_field(fault: &Fault) -> String {
    format!("unknown field {:?}", fault.field)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::objects::decode::value;

    fn json(bytes: &[u8]) -> Result<Sent, Unread> {
        value(bytes, &Allowance::unlimited()).map(|(value, repeated)| Sent { value, repeated })
    }

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

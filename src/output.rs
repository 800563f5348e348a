//! Reading and printing of what the gateway sent, for all commands.

use clap::ValueEnum;
use pollgate_control::objects::{Kind, Object};
use serde_json::Value;

use crate::failure::Failure;

/// Output for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// JSON.
    Json,
}

/// The items of a list.
pub(crate) fn items(answer: &mut Value, kind: Kind) -> Vec<Value> {
    let Some(Value::Array(mut items)) = answer.get_mut("items").map(Value::take) else {
        return Vec::new();
    };
    // Items of a typed list do not have these fields; outside of the list they need them.
    for fields in items.iter_mut().filter_map(Value::as_object_mut) {
        fields.insert("apiVersion".to_owned(), kind.api_version().into());
        fields.insert("kind".to_owned(), kind.name().into());
    }
    items
}

/// `values` as objects of `kind`.
pub(crate) fn objects(values: &[Value], kind: Kind) -> Result<Vec<Object>, Failure> {
    values.iter().map(|value| object(value, kind)).collect()
}

/// One object of `kind`.
pub(crate) fn object(value: &Value, kind: Kind) -> Result<Object, Failure> {
    Object::from_value(value, "").map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        let (kind, name) = (kind.singular(), name_of(value));
        strange(&format_args!("{kind} {name:?}: {}", faults.join(", ")))
    })
}

pub(crate) fn name_of(value: &Value) -> &str {
    value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// As kubectl writes it: keys in alphabetical order, a long text on one line.
pub(crate) fn yaml(value: &Value) -> Result<String, Failure> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(value, options)
        .map_err(|error| Failure::refused(format!("error: cannot be written as YAML: {error}")))
}

/// A response in a format this version does not know.
pub(crate) fn strange(what: &dyn std::fmt::Display) -> Failure {
    Failure::refused(format!(
        "error: the gateway's response has a format that this pollgate does not know (do both have the same \
         version?): {what}"
    ))
}

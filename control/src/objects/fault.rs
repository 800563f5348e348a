//! One fault of an object, in Kubernetes' words.
//!
//! A fault is Kubernetes' `field.Error` (apimachinery `pkg/util/validation/field/errors.go`): the path of the
//! field, a reason from a closed list, and the text after the path. Operators search the web for these texts and
//! client libraries match on the reasons, so both are reproduced word for word: ``spec.ports[0].nodePort:
//! Forbidden: may not be used when `type` is 'ClusterIP'``.

use std::fmt;
use std::ops::Deref;

use serde_json::Value;

/// Most faults that are reported of one request; further ones are only counted.
pub(crate) const MAX_FAULTS: usize = 100;

/// Most bytes of a value or of a path in a fault.
pub(crate) const LONGEST: usize = 1 << 10;

/// One fault: where, what kind, and the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field, `spec.ports[0].port`; empty for the object as a whole.
    pub field: String,
    /// What kind of fault it is.
    pub reason: FaultReason,
    /// The text after the path: `Invalid value: 0: must be between 1 and 65535, inclusive`.
    pub message: String,
}

/// The kinds of fault, Kubernetes' `field.ErrorType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultReason {
    /// A field that must be given is not.
    Required,
    /// The value is not allowed.
    Invalid,
    /// The value is not one of a closed list.
    NotSupported,
    /// The value occurs twice where it may only once.
    Duplicate,
    /// The field may not be set, or not be changed, here.
    Forbidden,
    /// The list is too long.
    TooMany,
    /// The text is too long.
    TooLong,
    /// The value has the wrong type.
    TypeInvalid,
    /// The object's kind has no such field.
    UnknownField,
}

impl FaultReason {
    /// Kubernetes' name of the cause in a `Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            FaultReason::Required => "FieldValueRequired",
            FaultReason::Invalid | FaultReason::UnknownField => "FieldValueInvalid",
            FaultReason::NotSupported => "FieldValueNotSupported",
            FaultReason::Duplicate => "FieldValueDuplicate",
            FaultReason::Forbidden => "FieldValueForbidden",
            FaultReason::TooMany => "FieldValueTooMany",
            FaultReason::TooLong => "FieldValueTooLong",
            FaultReason::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

impl Fault {
    /// A field that must be given is not. `detail` may be empty.
    pub fn required(field: impl Into<String>, detail: &str) -> Fault {
        Fault::new(field, FaultReason::Required, with_detail("Required value", detail))
    }

    /// The value is not allowed, for the reason in `detail`.
    pub fn invalid(field: impl Into<String>, value: impl Quoted, detail: &str) -> Fault {
        let text = format!("Invalid value: {}", shown(&value));
        Fault::new(field, FaultReason::Invalid, with_detail(&text, detail))
    }

    /// The value is not one of `supported`. It is of a type of its own and so printed as JSON.
    pub fn not_supported(field: impl Into<String>, value: &str, supported: &[&str]) -> Fault {
        let list: Vec<String> = supported.iter().map(|s| s.quoted()).collect();
        let value = &Value::from(value);
        let text = format!("Unsupported value: {}: supported values: {}", shown(&value), list.join(", "));
        Fault::new(field, FaultReason::NotSupported, text)
    }

    /// None of the values is supported, or not all of them.
    pub(crate) fn not_supported_values(field: impl Into<String>, values: &[String], detail: &str) -> Fault {
        let text = format!("Unsupported value: {}", shown(&values));
        Fault::new(field, FaultReason::NotSupported, with_detail(&text, detail))
    }

    /// The same for each of `details`.
    pub(crate) fn all_invalid<'a>(
        field: impl Into<String>,
        value: &'a str,
        details: Vec<String>,
    ) -> impl Iterator<Item = Fault> + 'a {
        let field = field.into();
        details.into_iter().map(move |detail| Fault::invalid(field.as_str(), value, &detail))
    }

    /// The value occurs twice.
    pub fn duplicate(field: impl Into<String>, value: impl Quoted) -> Fault {
        Fault::duplicate_because(field, value, "")
    }

    /// The value occurs twice where it may not, for the reason in `detail`.
    pub(crate) fn duplicate_because(field: impl Into<String>, value: impl Quoted, detail: &str) -> Fault {
        let text = format!("Duplicate value: {}", shown(&value));
        Fault::new(field, FaultReason::Duplicate, with_detail(&text, detail))
    }

    /// The field may not be set or changed here.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Fault {
        Fault::new(field, FaultReason::Forbidden, with_detail("Forbidden", detail))
    }

    /// The list holds `actual` items where `most` are allowed.
    pub fn too_many(field: impl Into<String>, actual: usize, most: usize) -> Fault {
        let text = format!("Too many: {actual}: must have at most {most} items");
        Fault::new(field, FaultReason::TooMany, text)
    }

    /// The text takes more than the `most` bytes allowed.
    pub fn too_long(field: impl Into<String>, most: usize) -> Fault {
        Fault::new(field, FaultReason::TooLong, format!("Too long: may not be more than {most} bytes"))
    }

    /// The value has the wrong type; `detail` says what was found and expected.
    pub fn wrong_type(field: impl Into<String>, detail: &str) -> Fault {
        Fault::new(field, FaultReason::TypeInvalid, with_detail("Invalid value", detail))
    }

    /// The kind has no such field.
    pub fn unknown_field(field: impl Into<String>) -> Fault {
        Fault::new(field, FaultReason::UnknownField, "unknown field".to_owned())
    }

    fn new(field: impl Into<String>, reason: FaultReason, message: String) -> Fault {
        Fault { field: shortened(field.into(), ""), reason, message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.is_empty() {
            true => f.write_str(&self.message),
            false => write!(f, "{}: {}", self.field, self.message),
        }
    }
}

/// The faults of an object or a request: the first `MAX_FAULTS`, and how many there are besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    kept: Vec<Fault>,
    more: usize,
}

impl Faults {
    /// None yet.
    pub fn new() -> Faults {
        Faults::default()
    }

    /// Adds a fault.
    pub fn push(&mut self, fault: Fault) {
        match self.kept.len() < MAX_FAULTS {
            true => self.kept.push(fault),
            false => self.more += 1,
        }
    }

    /// Adds others, and how many there are besides them.
    pub(crate) fn append(&mut self, others: Faults) {
        let more = others.more;
        self.extend(others);
        self.more += more;
    }
}

impl Deref for Faults {
    type Target = [Fault];

    fn deref(&self) -> &[Fault] {
        &self.kept
    }
}

impl Extend<Fault> for Faults {
    fn extend<I: IntoIterator<Item = Fault>>(&mut self, faults: I) {
        faults.into_iter().for_each(|fault| self.push(fault));
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Faults {
        let mut all = Faults::new();
        all.extend(faults);
        all
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Faults {
        Faults { kept: vec![fault], more: 0 }
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.kept.into_iter()
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.kept.iter()
    }
}

impl fmt::Display for Faults {
    /// As apimachinery joins an error list: in brackets if there is more than one, each text once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut texts: Vec<String> = Vec::with_capacity(self.kept.len());
        for text in self.kept.iter().map(ToString::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        if let ([one], 0) = (&*texts, self.more) {
            return f.write_str(one);
        }
        write!(f, "[{}", texts.join(", "))?;
        match self.more {
            0 => f.write_str("]"),
            more => write!(f, ", and {more} more]"),
        }
    }
}

/// A value as it is shown in a fault.
fn shown(value: &impl Quoted) -> String {
    shortened(value.quoted(), "\"")
}

/// A text that is cut if it is long; `end` closes it then.
fn shortened(mut text: String, end: &str) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text = format!("{text}…{}", if text.starts_with('"') { end } else { "" });
    }
    text
}

fn with_detail(text: &str, detail: &str) -> String {
    match detail.is_empty() {
        true => text.to_owned(),
        false => format!("{text}: {detail}"),
    }
}

/// A value as `field.Error` prints it: numbers bare, strings in Go's quotes, everything else as JSON.
pub trait Quoted {
    /// The printed form.
    fn quoted(&self) -> String;
}

impl Quoted for i32 {
    fn quoted(&self) -> String {
        self.to_string()
    }
}

impl Quoted for &str {
    fn quoted(&self) -> String {
        let mut text = String::with_capacity(self.len() + 2);
        text.push('"');
        self.chars().for_each(|character| quote(character, &mut text));
        text.push('"');
        text
    }
}

impl Quoted for &String {
    fn quoted(&self) -> String {
        self.as_str().quoted()
    }
}

impl Quoted for &[String] {
    fn quoted(&self) -> String {
        json(&Value::from(self.to_vec()))
    }
}

impl Quoted for &Value {
    fn quoted(&self) -> String {
        json(self)
    }
}

/// A Go structure without JSON tags: its fields in their order.
pub(crate) struct Structure<'a>(pub(crate) &'a [(&'a str, Value)]);

impl Quoted for Structure<'_> {
    fn quoted(&self) -> String {
        let fields: Vec<String> = self.0.iter().map(|(name, value)| format!("\"{name}\":{}", json(value))).collect();
        format!("{{{}}}", fields.join(","))
    }
}

/// Appends a character as Go's `%q` does: what does not print as an escape.
fn quote(character: char, text: &mut String) {
    let short = match character {
        '"' | '\\' => Some(character),
        '\u{7}' => Some('a'),
        '\u{8}' => Some('b'),
        '\u{c}' => Some('f'),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        '\u{b}' => Some('v'),
        _ => None,
    };
    let code = u32::from(character);
    match short {
        Some(letter) => text.extend(['\\', letter]),
        None if character == '\'' || character.escape_debug().count() == 1 => text.push(character),
        None if code < 0x80 => *text += &format!("\\x{code:02x}"),
        None if code < 0x1_0000 => *text += &format!("\\u{code:04x}"),
        None => *text += &format!("\\U{code:08x}"),
    }
}

/// JSON as Go writes it: safe inside HTML.
fn json(value: &Value) -> String {
    let (text, mut safe) = (value.to_string(), String::new());
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => safe += &format!("\\u{:04x}", u32::from(character)),
            character => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_as_field_errors_do() {
        let cases = [
            (Fault::required("metadata.name", ""), "metadata.name: Required value"),
            (
                Fault::required("metadata.name", "name or generateName is required"),
                "metadata.name: Required value: name or generateName is required",
            ),
            (
                Fault::invalid("spec.ports[0].port", 0, "must be between 1 and 65535, inclusive"),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                Fault::not_supported("spec.type", "Foo", &["ClusterIP", "NodePort"]),
                r#"spec.type: Unsupported value: "Foo": supported values: "ClusterIP", "NodePort""#,
            ),
            (Fault::duplicate("spec.ports[1].name", "a"), r#"spec.ports[1].name: Duplicate value: "a""#),
            (Fault::forbidden("spec.x", "not here"), "spec.x: Forbidden: not here"),
            (Fault::too_many("endpoints", 1001, 1000), "endpoints: Too many: 1001: must have at most 1000 items"),
            (
                Fault::too_long("metadata.annotations", 7),
                "metadata.annotations: Too long: may not be more than 7 bytes",
            ),
            (Fault::unknown_field("spec.prots"), "spec.prots: unknown field"),
            // Text as Go quotes it, everything else as Go's JSON.
            (Fault::invalid("a", "é\"\\\n\u{1}\u{200b}'", "no"), r#"a: Invalid value: "é\"\\\n\x01\u200b'": no"#),
            (
                Fault::not_supported("a", "<b>", &["c"]),
                r#"a: Unsupported value: "\u003cb\u003e": supported values: "c""#,
            ),
            (Fault::invalid("a", &Value::Null, "no"), "a: Invalid value: null: no"),
        ];
        for (fault, text) in cases {
            assert_eq!(fault.to_string(), text);
        }
    }
}

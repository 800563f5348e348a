//! What was typed: the YAML document as a tree whose every node knows its line.
//!
//! A derived `Deserialize` stops at the first wrong type and the first unknown key, and an operator
//! who repairs a file over a slow console then meets its faults one by one. So the text becomes this
//! tree first, which accepts anything that is YAML, and the schema reads the tree and keeps going.
//! Lines come from serde-saphyr's [`Spanned`]; syntax errors (and duplicate keys, and alias bombs,
//! which it bounds) are its own.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Spanned, UserMessageFormatter};

/// One YAML value and the line it starts on (from 1).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) value: Value,
}

/// The value itself. Text that YAML reads as a number or a boolean is one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping, in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) value: Node,
}

/// Why a text is not YAML at all.
#[derive(Debug)]
pub(super) struct Syntax {
    pub(super) line: u64,
    pub(super) message: String,
}

/// Reads one YAML document; an empty text is an empty mapping.
pub(super) fn parse(text: &str) -> Result<Node, Syntax> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let node = serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options);
    node.map(Node::from).map_err(|error| Syntax {
        line: error.location().map_or(1, |location| location.line()),
        message: sentence(&error),
    })
}

/// The parser's message without its own "line X column Y", which the caller prints in front.
fn sentence(error: &serde_saphyr::Error) -> String {
    let rendered = error.without_snippet().render_with_formatter(&UserMessageFormatter);
    let first = rendered.lines().next().unwrap_or_default();
    let end = first.find(" at line ").or_else(|| first.find(" (line "));
    first[..end.unwrap_or(first.len())].to_owned()
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { line: spanned.referenced.line(), value: spanned.value }
    }
}

impl fmt::Display for Node {
    /// As an error names it: short, on one line, recognisable in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Null => f.write_str("nothing"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Text(text) => f.write_str(&shown(text)),
            Value::List(items) => write!(f, "a list of {}", items.len()),
            Value::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// A text fit for a line of an error: quoted where it would not show, shortened where it is long.
fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
        return format!("{text:?}");
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            items.push(Node::from(item));
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = Node::from(map.next_value::<Spanned<Value>>()?);
            entries.push(Entry { key: key.value, line: key.referenced.line(), value });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Entry {
        let Value::Map(entries) = &node.value else { panic!("not a mapping: {node}") };
        entries.iter().find(|entry| entry.key == key).expect(key)
    }

    #[test]
    fn every_node_knows_its_line() {
        let tree = parse("a: 1\nb:\n  - x\n  - {c: true,\n     d: ~}\n").unwrap();
        assert_eq!(entry(&tree, "a").line, 1);
        assert_eq!(entry(&tree, "a").value.value, Value::Integer(1));
        let Value::List(items) = &entry(&tree, "b").value.value else { panic!("b is a list") };
        assert_eq!((items[0].line, items[1].line), (3, 4));
        assert_eq!(entry(&items[1], "d").line, 5);
        assert_eq!(entry(&items[1], "d").value.value, Value::Null);
    }

    #[test]
    fn plain_texts_stay_what_was_typed() {
        for text in ["24h", "30000-32767", "10.96.0.10", "02:00:00:00:00:01", "no", "fd00::1/64"] {
            let tree = parse(&format!("a: {text}\n")).unwrap();
            assert_eq!(entry(&tree, "a").value.value, Value::Text(text.to_owned()));
        }
    }

    #[test]
    fn an_alias_is_told_at_the_line_of_its_use() {
        let tree = parse("a: &x 5\nb: *x\n").unwrap();
        assert_eq!(entry(&tree, "b").value, Node { line: 2, value: Value::Integer(5) });
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        for (text, line) in [("a: 1\nb: [1\n", 3), ("a: 1\na: 2\n", 2), ("a: 1\n---\nb: 1\n", 2)] {
            let syntax = parse(text).unwrap_err();
            assert!(syntax.line.abs_diff(line) <= 1, "{text:?}: {syntax:?}");
            assert!(!syntax.message.is_empty() && !syntax.message.contains('\n'), "{syntax:?}");
        }
    }

    #[test]
    fn deep_and_bombing_documents_are_refused() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let item = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [item.as_str(); 10].join(","));
        }
        assert!(parse(&bomb).is_err());
    }
}

//! The YAML document as a tree; every node has its line.
//!
//! A derived `Deserialize` stops at the first wrong type and the first unknown key, and an operator
//! who repairs a file over a slow console then meets its faults one by one. So the text becomes this
//! tree first, which accepts anything that is YAML, and the schema reads the whole tree.
//! Lines and syntax errors come from [`pollgate_control::yaml`], which reads manifests too.

use std::fmt;

use pollgate_control::yaml::{self, Parsed, Tree, field_path};

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

/// One `key: value` of a mapping.
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
    let Parsed { trees, errors } = yaml::parse(text);
    if let Some(error) = errors.into_iter().next() {
        return Err(Syntax { line: number(error.line), message: error.message });
    }
    let mut trees = trees.into_iter();
    let Some(tree) = trees.next() else {
        return Ok(Node { line: 1, value: Value::Null });
    };
    match trees.next() {
        Some(second) => Err(Syntax { line: number(second.line), message: "expected only one document".to_owned() }),
        None => Ok(node(&tree, &tree.value, "", tree.line)),
    }
}

/// The value at `path`. What an alias stands for has the line of its use.
fn node(tree: &Tree, value: &serde_json::Value, path: &str, line: usize) -> Node {
    let child = |value: &serde_json::Value, path: String| {
        let line = tree.lines.get(&path).copied().unwrap_or(line);
        (line, node(tree, value, &path, line))
    };
    let value = match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(value) => match value.as_i128() {
            Some(integer) => Value::Integer(integer),
            None => Value::Float(value.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::Text(text.clone()),
        serde_json::Value::Array(items) => {
            let items = items.iter().enumerate();
            Value::List(items.map(|(index, item)| child(item, format!("{path}[{index}]")).1).collect())
        }
        serde_json::Value::Object(fields) => {
            let entry = |(key, value): (&String, &serde_json::Value)| {
                let (line, value) = child(value, field_path(path, key));
                Entry { key: key.clone(), line: number(line), value }
            };
            Value::Map(fields.iter().map(entry).collect())
        }
    };
    Node { line: number(line), value }
}

fn number(line: usize) -> u64 {
    u64::try_from(line).unwrap_or(u64::MAX)
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

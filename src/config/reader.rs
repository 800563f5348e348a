//! Reading a tree by a schema; every fault is reported, not only the first.
//!
//! ```text
//! Section "cluster" ── field("domain") ──▶ Field "cluster.domain" ── text() ──▶ Some(..)
//!        │                                                        └─ fault noted, None
//!        └─ finish(): a key that was not read is a fault
//! ```
//!
//! A reader returns `None` both for a missing key and for a wrong one; the schema
//! then takes its default and continues. Such a configuration is not used: it is refused if
//! any fault was noted. The known keys are those the schema reads, so they are written once.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;

use super::tree::{Entry, Node, Value};

/// One fault of a configuration file: where, which key, what is expected there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Line in the file, from 1.
    pub line: u64,
    /// Path of the key, such as `cluster.serviceCIDRs[1]`; empty for the file itself.
    pub key: String,
    /// What is expected, and in parentheses what was found.
    pub message: String,
}

impl fmt::Display for Fault {
    /// `LINE: KEY: MESSAGE`, to be printed after the file's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.line, self.message),
            key => write!(f, "{}: {key}: {}", self.line, self.message),
        }
    }
}

/// Where faults are collected while a tree is read.
#[derive(Debug, Default)]
pub(super) struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    /// All that was noted, in the order of the file.
    pub(super) fn into_sorted(self) -> Vec<Fault> {
        let mut faults = self.0.into_inner();
        faults.sort();
        faults.dedup();
        faults
    }

    fn note(&self, line: u64, key: &str, message: String) {
        self.0.borrow_mut().push(Fault { line, key: key.to_owned(), message });
    }
}

/// A mapping being read.
pub(super) struct Section<'a> {
    path: String,
    line: u64,
    entries: &'a [Entry],
    known: Vec<&'static str>,
    faults: &'a Faults,
}

impl<'a> Section<'a> {
    /// The whole file. An empty file is an empty mapping.
    pub(super) fn root(tree: &'a Node, faults: &'a Faults) -> Self {
        Field { path: String::new(), line: tree.line.max(1), node: Some(tree), faults }.section()
    }

    /// The value of `key`, present or not.
    pub(super) fn field(&mut self, key: &'static str) -> Field<'a> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key);
        Field {
            path: joined(&self.path, key),
            line: entry.map_or(self.line, |entry| entry.line),
            // `key:` without a value counts as missing, as in Kubernetes.
            node: entry.map(|entry| &entry.value).filter(|node| node.value != Value::Null),
            faults: self.faults,
        }
    }

    /// Every key that no [`Section::field`] read is a fault.
    pub(super) fn finish(self) {
        for entry in self.entries {
            if self.known.contains(&entry.key.as_str()) {
                continue;
            }
            let message = match nearest(&entry.key, &self.known) {
                Some(near) => format!("unknown key; did you mean {near}?"),
                None => format!("unknown key; known here: {}", self.known.join(", ")),
            };
            self.faults.note(entry.line, &joined(&self.path, &entry.key), message);
        }
    }
}

/// One value being read; remembers its place for the faults it and others find in it.
#[derive(Clone)]
pub(super) struct Field<'a> {
    path: String,
    line: u64,
    node: Option<&'a Node>,
    faults: &'a Faults,
}

impl<'a> Field<'a> {
    /// Whether the file has a value here.
    pub(super) fn is_present(&self) -> bool {
        self.node.is_some()
    }

    /// Notes that the value in the file is not what is `expected`.
    pub(super) fn fault(&self, expected: impl fmt::Display) {
        let found = self.node.map_or_else(|| "nothing".to_owned(), Node::to_string);
        self.faults.note(self.line, &self.path, format!("expected {expected} (found {found})"));
    }

    /// A mapping; an empty one if the key is missing.
    pub(super) fn section(self) -> Section<'a> {
        let entries = match self.node.map(|node| &node.value) {
            Some(Value::Map(entries)) => entries.as_slice(),
            None | Some(Value::Null) => &[],
            Some(_) => {
                self.fault("a mapping of keys");
                &[]
            }
        };
        Section { path: self.path, line: self.line, entries, known: Vec::new(), faults: self.faults }
    }

    /// The items of a list; a single value is a list of one.
    pub(super) fn items(&self) -> Vec<Field<'a>> {
        let Some(node) = self.node else {
            return Vec::new();
        };
        let Value::List(items) = &node.value else {
            return vec![self.clone()];
        };
        let field = |(index, node): (usize, &'a Node)| Field {
            path: format!("{}[{index}]", self.path),
            line: node.line,
            node: Some(node),
            faults: self.faults,
        };
        items.iter().enumerate().map(field).collect()
    }

    /// The entries of a mapping whose keys are data (addresses, not names of the schema).
    pub(super) fn pairs(&self) -> Vec<(&'a str, Field<'a>)> {
        let entries = match self.node.map(|node| &node.value) {
            None => return Vec::new(),
            Some(Value::Map(entries)) => entries,
            Some(_) => {
                self.fault("a mapping");
                return Vec::new();
            }
        };
        let pair = |entry: &'a Entry| {
            let path = format!("{}[{}]", self.path, entry.key);
            let node = Some(&entry.value);
            (entry.key.as_str(), Field { path, line: entry.line, node, faults: self.faults })
        };
        entries.iter().map(pair).collect()
    }

    /// Text that `parse` understands; `expected` describes it.
    pub(super) fn parsed<T>(&self, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        self.node?;
        let value = self.text().and_then(|text| parse(text.trim()));
        if value.is_none() {
            self.fault(expected);
        }
        value
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let listed: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let expected = match listed.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        };
        self.parsed(&expected, |text| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.node?.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.fault("true or false");
                None
            }
        }
    }

    /// A whole number within `range`.
    pub(super) fn integer<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + fmt::Display,
    {
        self.node?;
        let value = self.number::<T>().filter(|value| range.contains(value));
        if value.is_none() {
            let digits = if self.is_whole_float() { ", in digits only" } else { "" };
            self.fault(format_args!("a whole number from {} to {}{digits}", range.start(), range.end()));
        }
        value
    }

    /// The whole number, if it is one that fits; no fault if it is not.
    pub(super) fn number<T: TryFrom<i128>>(&self) -> Option<T> {
        match self.node?.value {
            Value::Integer(value) => T::try_from(value).ok(),
            _ => None,
        }
    }

    /// Whether it is a whole number to people, written with a dot or an exponent: `1e6`.
    fn is_whole_float(&self) -> bool {
        self.node.is_some_and(|node| matches!(node.value, Value::Float(value) if value.fract() == 0.0))
    }

    /// The text, if it is one; no fault if it is not.
    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

fn joined(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// The known key that was probably meant: equal but for case, or most of its letters are right.
fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let near = known.iter().map(|key| (distance(&typed, &key.to_lowercase()), *key)).min()?;
    (near.0 <= 2 && 2 * near.0 < typed.chars().count()).then_some(near.1)
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree::parse;

    #[test]
    fn faults_are_sorted_by_line_and_all_told() {
        let tree = parse("bool: x\na: [1, y]\nc: 7\nboool: 1\n").unwrap();
        let faults = Faults::default();
        let mut root = Section::root(&tree, &faults);
        for item in root.field("a").items() {
            item.integer(1..=9_u8);
        }
        root.field("bool").boolean();
        root.field("c").integer(1..=6_u8);
        root.finish();
        let told: Vec<_> = faults.into_sorted().iter().map(Fault::to_string).collect();
        assert_eq!(
            told,
            [
                "1: bool: expected true or false (found x)",
                "2: a[1]: expected a whole number from 1 to 9 (found y)",
                "3: c: expected a whole number from 1 to 6 (found 7)",
                "4: boool: unknown key; did you mean bool?",
            ]
        );
    }

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in [("", "", 0), ("abc", "abc", 0), ("abc", "ab", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }
}

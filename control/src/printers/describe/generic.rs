//! `printUnstructuredContent`: a kind kubectl has no words for, field by field.

use serde_json::{Map, Value};

use super::Page;
use crate::objects::Object;

/// What stands above the fields already, or is of no interest.
const LEFT_OUT: [&str; 5] = ["managedFields", "name", "namespace", "labels", "annotations"];

/// Words that are written in capitals.
const ACRONYMS: [&str; 5] = ["API", "URL", "UID", "OSB", "GUID"];

pub(super) fn describe(page: &mut Page, object: &Object) {
    page.identity(object.metadata());
    let mut content = object.to_value();
    if let Some(metadata) = content.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| !LEFT_OUT.contains(&key.as_str()));
    }
    if let Some(fields) = content.as_object() {
        describe_fields(page, fields, 0);
    }
}

fn describe_fields(page: &mut Page, fields: &Map<String, Value>, level: usize) {
    let indent = "  ".repeat(level);
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(key, _)| *key);
    for (key, value) in fields {
        let label = format!("{indent}{}:", title(key));
        match value {
            Value::Object(fields) => {
                page.cells([&label]);
                describe_fields(page, fields, level + 1);
            }
            Value::Array(items) => {
                page.cells([&label]);
                describe_items(page, items, level + 1);
            }
            scalar => page.line(&label, text(scalar)),
        }
    }
}

fn describe_items(page: &mut Page, items: &[Value], level: usize) {
    for item in items {
        match item {
            Value::Object(fields) => describe_fields(page, fields, level),
            scalar => page.cells([&format!("{}{}", "  ".repeat(level), text(scalar))]),
        }
    }
}

fn text(scalar: &Value) -> String {
    match scalar {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

/// `involvedObject` as `Involved Object`, `uid` as `UID`. A key with more than letters and dashes in it stays as it is.
fn title(key: &str) -> String {
    if key.chars().any(|c| !c.is_alphabetic() && c != '-') {
        return key.to_owned();
    }
    words(key).iter().map(|word| capitalised(word)).collect::<Vec<_>>().join(" ")
}

fn capitalised(word: &str) -> String {
    let upper = word.to_uppercase();
    if ACRONYMS.contains(&upper.as_str()) {
        return upper;
    }
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The words of a camelCase key: one begins where small letters end, and with the last of several capitals before a small one.
fn words(key: &str) -> Vec<String> {
    let letters: Vec<char> = key.chars().collect();
    let mut words: Vec<String> = Vec::new();
    for (index, &letter) in letters.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| letters[before]);
        let ends_capitals = letter.is_uppercase() && letters.get(index + 1).is_some_and(|next| next.is_lowercase());
        let begins = before
            .is_none_or(|before| class(before) != class(letter) && !(before.is_uppercase() && letter.is_lowercase()));
        if begins || (ends_capitals && before.is_some_and(char::is_uppercase)) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(letter);
        }
    }
    words
}

fn class(letter: char) -> u8 {
    match letter {
        letter if letter.is_lowercase() => 0,
        letter if letter.is_uppercase() => 1,
        _ => 2,
    }
}

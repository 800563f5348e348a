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
        if before.is_none_or(|before| begins_word(before, letter, letters.get(index + 1).copied())) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(letter);
        }
    }
    words
}

fn begins_word(before: char, letter: char, after: Option<char>) -> bool {
    match (before.is_uppercase(), letter.is_uppercase()) {
        (true, true) => after.is_some_and(char::is_lowercase),
        (true, false) => !letter.is_lowercase(),
        (false, _) => class(before) != class(letter),
    }
}

fn class(letter: char) -> u8 {
    match letter {
        letter if letter.is_lowercase() => 0,
        letter if letter.is_uppercase() => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{described, object};
    use super::*;

    #[test]
    fn an_event_reads_as_kubectl_describes_what_it_does_not_know() {
        let event = object(
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "uid": "u-1", "finalizers": ["a/b", "c/d"]},
            "count": 3, "involvedObject": {"kind": "Pod", "name": "p"}, "message": "one\ntwo", "reason": "Sync"}),
        );
        let expected = "\
Name:         e
Namespace:    foo
Labels:       <none>
Annotations:  <none>
API Version:  v1
Count:        3
Involved Object:
  Kind:   Pod
  Name:   p
Kind:     Event
Message:  one
two
Metadata:
  Finalizers:
    a/b
    c/d
  UID:   u-1
Reason:  Sync
Events:  <none>
";
        assert_eq!(described(&event, &[], &[]), expected);
    }

    #[test]
    fn keys_become_titles() {
        for (key, words) in [
            ("apiVersion", "API Version"),
            ("uid", "UID"),
            ("involvedObject", "Involved Object"),
            ("podIPs", "Pod I Ps"),
            ("URLPath", "URL Path"),
            ("two-parts", "Two - Parts"),
            ("ipv4", "ipv4"),
            ("example.com/key", "example.com/key"),
        ] {
            assert_eq!(title(key), words);
        }
    }
}

//! An object field by field: kubectl's `printUnstructuredContent`, which prints the kinds it has no printer for.
//!
//! Of a list of objects kubectl prints all fields in one block. For Events that stays so, byte for byte. In Pods and Nodes,
//! whose lists are long, [`Items::Marked`] shows where an item begins:
//!
//! ```text
//! Containers:
//!   - Image:  web:3
//!     Name:   web
//!   - Image:  helper:4
//!     Name:   helper
//! ```

use serde_json::{Map, Value};

use super::page::Page;
use crate::objects::Object;
use crate::objects::shown::shown;

/// Fields that are printed at the top, or not at all.
const LEFT_OUT: [&str; 5] = ["managedFields", "name", "namespace", "labels", "annotations"];

/// Words that are written in capitals.
const ACRONYMS: [&str; 5] = ["API", "URL", "UID", "OSB", "GUID"];

/// How the items of a list of objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Items {
    /// One after the other, as kubectl does.
    Plain,
    /// Each with a dash at its first field.
    Marked,
}

pub(super) fn describe(page: &mut Page, object: &Object, items: Items) {
    page.identity(object.metadata());
    let mut content = match items {
        Items::Plain => shown(object),
        Items::Marked => object.to_value(),
    };
    if let Some(metadata) = content.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| !LEFT_OUT.contains(&key.as_str()));
    }
    if let Some(fields) = content.as_object() {
        describe_fields(page, fields, "", items);
    }
}

/// Prints the fields below `indent`; a dash at its end marks the first of them only.
fn describe_fields(page: &mut Page, fields: &Map<String, Value>, indent: &str, items: Items) {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(key, _)| *key);
    let rest = indent.replace('-', " ");
    for (index, (key, value)) in fields.into_iter().enumerate() {
        let label = format!("{}{}:", if index == 0 { indent } else { &rest }, title(key));
        match value {
            Value::Object(fields) => {
                page.cells([&label]);
                describe_fields(page, fields, &format!("{rest}  "), items);
            }
            Value::Array(list) => {
                page.cells([&label]);
                describe_items(page, list, &format!("{rest}  "), items);
            }
            scalar => page.line(&label, text(scalar)),
        }
    }
}

fn describe_items(page: &mut Page, list: &[Value], indent: &str, items: Items) {
    for item in list {
        match item {
            Value::Object(fields) if items == Items::Marked => {
                describe_fields(page, fields, &format!("{indent}- "), items)
            }
            Value::Object(fields) => describe_fields(page, fields, indent, items),
            scalar => page.cells([&format!("{indent}{}", text(scalar))]),
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
    fn an_event_reads_as_kubectl_describes_it() {
        let event = object(
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "uid": "u-1", "finalizers": ["a/b", "c/d"]},
            "count": 3, "involvedObject": {"kind": "Pod", "name": "p"}, "message": "one\ntwo", "reason": "Sync"}),
        );
        let expected = concat!(
            "Name:             e\n",
            "Namespace:        foo\n",
            "Labels:           <none>\n",
            "Annotations:      <none>\n",
            "API Version:      v1\n",
            "Count:            3\n",
            "Event Time:       <nil>\n",
            "First Timestamp:  <nil>\n",
            "Involved Object:\n",
            "  Kind:          Pod\n",
            "  Name:          p\n",
            "Kind:            Event\n",
            "Last Timestamp:  <nil>\n",
            "Message:         one\n",
            "two\n",
            "Metadata:\n",
            "  Finalizers:\n",
            "    a/b\n",
            "    c/d\n",
            "  UID:                u-1\n",
            "Reason:               Sync\n",
            "Reporting Component:  \n",
            "Reporting Instance:   \n",
            "Source:\n",
            "Events:  <none>\n",
        );
        assert_eq!(described(&event, &[], &[]), expected);
    }

    #[test]
    fn a_pod_reads_field_by_field() {
        let pod = object(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "labels": {"app": "web"}, "uid": "u-1"},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "web", "image": "web:3", "args": ["-v", "-p"], "ports": [{"containerPort": 80}, {"containerPort": 443, "name": "tls"}]},
                {"name": "helper", "image": "helper:4"}]},
            "status": {"podIP": "10.0.0.1"}}),
        );
        let expected = "\
Name:         web-1
Namespace:    foo
Labels:       app=web
Annotations:  <none>
API Version:  v1
Kind:         Pod
Metadata:
  UID:  u-1
Spec:
  Containers:
    - Args:
        -v
        -p
      Image:  web:3
      Name:   web
      Ports:
        - Container Port:  80
        - Container Port:  443
          Name:            tls
    - Image:               helper:4
      Name:                helper
  Node Name:               n1
Status:
  Pod IP:  10.0.0.1
Events:    <none>
";
        assert_eq!(described(&pod, &[], &[]), expected);
    }

    #[test]
    fn a_node_reads_field_by_field() {
        let node = object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "spec": {"taints": [{"effect": "NoSchedule", "key": "busy"}]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.7.1"}, {"type": "Hostname", "address": "n1"}]}}));
        let expected = "\
Name:         n1
Namespace:    \nLabels:       <none>
Annotations:  <none>
API Version:  v1
Kind:         Node
Metadata:
Spec:
  Taints:
    - Effect:  NoSchedule
      Key:     busy
Status:
  Addresses:
    - Address:  192.168.7.1
      Type:     InternalIP
    - Address:  n1
      Type:     Hostname
Events:         <none>
";
        assert_eq!(described(&node, &[], &[]), expected);
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

//! The objects of a bulk request, one at a time: the items of a `List`, the documents of YAML, or one object.
//!
//! A tree of the whole body would take many times its memory, so of JSON only the ends of the items are looked for, and of YAML
//! one document is in memory at a time.

use std::ops::Range;

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

use super::body::{Format, OBJECT_LIMIT, each_document, protobuf};
use super::status::Status;
use crate::objects::Unread;
use crate::objects::allowance::Allowance;
use crate::objects::decode::Source;
use crate::objects::manifest;

/// What is done with an item, and what it may take.
type Each<'a> = &'a mut dyn FnMut(Source<'_>, &Allowance) -> Result<(), Status>;

/// Hands over every item of a body.
pub(super) fn each(bytes: &[u8], format: Format, each: Each<'_>) -> Result<(), Status> {
    match format {
        Format::Json => each_in_json(bytes, each),
        Format::Yaml => each_in_yaml(bytes, each),
        Format::Protobuf => {
            let allowance = Allowance::of_text(bytes.len());
            each_in_value(protobuf(bytes, &allowance)?, &allowance, each)
        }
    }
}

fn each_in_json(bytes: &[u8], each: Each<'_>) -> Result<(), Status> {
    let outline = Source::Text(bytes).outline().map_err(|error| Status::unread(&Unread::NotJson(error)))?;
    let items = match outline["kind"] == "List" {
        true => Text { bytes, at: 0 }.field("items").filter(|items| bytes[items.start] == b'['),
        false => None,
    };
    let Some(items) = items else {
        return each_sized(bytes, each);
    };
    let mut text = Text { bytes, at: items.start + 1 };
    while let Some(item) = text.item() {
        each_sized(&bytes[item], each)?;
    }
    Ok(())
}

/// The elements of a text that is one list in JSON.
///
/// # Errors
/// If it is not JSON. Of anything but a list there are none.
pub(super) fn elements(bytes: &[u8]) -> Result<impl Iterator<Item = &[u8]>, serde_json::Error> {
    serde_json::from_slice::<IgnoredAny>(bytes)?;
    let mut text = Text { bytes, at: 0 };
    text.skip(|_| false);
    let is_list = bytes.get(text.at) == Some(&b'[');
    text.at += 1;
    Ok(std::iter::from_fn(move || text.item().filter(|_| is_list).map(|item| &bytes[item])))
}

fn each_sized(item: &[u8], each: Each<'_>) -> Result<(), Status> {
    if item.len() > OBJECT_LIMIT {
        let length = item.len();
        return Err(Status::too_much(format!("one object has {length} bytes; the limit is {OBJECT_LIMIT}")));
    }
    each(Source::Text(item), &Allowance::of_text(item.len()))
}

fn each_in_yaml(bytes: &[u8], each: Each<'_>) -> Result<(), Status> {
    let allowance = Allowance::of_text(bytes.len());
    let mut done = Ok(());
    each_document(bytes, &allowance, &mut |value| {
        let before = allowance.taken();
        if done.is_ok() {
            done = each_in_value(value, &allowance, each);
        }
        allowance.give_back(before - bytes.len());
    })?;
    done
}

/// The items of a list, which may leave out what the list says; or the object itself.
fn each_in_value(value: Value, allowance: &Allowance, each: Each<'_>) -> Result<(), Status> {
    for item in manifest::items(value) {
        let before = allowance.taken();
        each(Source::Value(&item), allowance)?;
        allowance.give_back(allowance.taken() - before);
    }
    Ok(())
}

/// JSON that is known to be valid, and a place in it.
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Text<'_> {
    /// Where the value of a field of this object is; the last, if there are several.
    fn field(mut self, name: &str) -> Option<Range<usize>> {
        self.skip(|byte| byte == b'{');
        let mut found = None;
        while let Some(key) = self.item() {
            let is_it = serde_json::from_slice::<String>(&self.bytes[key]).is_ok_and(|key| key == name);
            self.skip(|byte| byte == b':');
            let value = self.value()?;
            if is_it {
                found = Some(value);
            }
        }
        found
    }

    /// The next value before the end of the list or object.
    fn item(&mut self) -> Option<Range<usize>> {
        self.skip(|byte| byte == b',');
        match self.bytes.get(self.at)? {
            b']' | b'}' => None,
            _ => self.value(),
        }
    }

    fn value(&mut self) -> Option<Range<usize>> {
        let mut values = Deserializer::from_slice(&self.bytes[self.at..]).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let start = self.at;
        self.at += values.byte_offset();
        Some(start..self.at)
    }

    fn skip(&mut self, too: impl Fn(u8) -> bool) {
        let blank = |byte: &u8| byte.is_ascii_whitespace() || too(*byte);
        self.at += self.bytes[self.at..].iter().take_while(|byte| blank(byte)).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str, format: Format) -> Vec<String> {
        let mut found = Vec::new();
        let read = each(text.as_bytes(), format, &mut |item, _| {
            found.push(match item {
                Source::Text(text) => String::from_utf8_lossy(text).into_owned(),
                Source::Value(value) => value.to_string(),
            });
            Ok(())
        });
        read.expect("items");
        found
    }

    #[test]
    fn the_items_of_json_are_found_by_their_ends() {
        let list = r#" { "items" : [ {"a":"]}\"" } ,{},5 , "x", [1, 2] ] , "x": {"items": [7]}, "kind":"List" } "#;
        assert_eq!(items(list, Format::Json), [r#"{"a":"]}\"" }"#, "{}", "5", "\"x\"", "[1, 2]"]);
        let twice = r#"{"kind":"List","items":[1],"items":[2,3]}"#;
        assert_eq!(items(twice, Format::Json), ["2", "3"]);
        for one in [r#"{"kind":"Pod","items":[1]}"#, r#"{"kind":"List","items":5}"#, r#"{"kind":"List"}"#, "[1]", "5"] {
            assert_eq!(items(one, Format::Json), [one]);
        }
        assert_eq!(items(r#"{"kind":"List","items":[]}"#, Format::Json), [""; 0]);
    }

    #[test]
    fn the_documents_of_yaml_and_the_items_in_them_are_found() {
        let text = "a: 1\n---\n---\nkind: PodList\napiVersion: v1\nitems:\n- x: 1\n- y: 2\n";
        let pod = |field: &str| format!(r#"{{"apiVersion":"v1","kind":"Pod",{field}}}"#);
        assert_eq!(items(text, Format::Yaml), [r#"{"a":1}"#.to_owned(), pod("\"x\":1"), pod("\"y\":2")]);
    }
}

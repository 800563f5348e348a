//! Messages by description: between the bytes and the JSON of an object.
//!
//! `messages.txt` has the fields of every message: number, JSON name, type. `generate.py` makes it from k8s-pb, the types that
//! prost generates from Kubernetes' own descriptions, and from the JSON names in k8s-openapi. No crate converts between the two,
//! and 180 conversions by hand would be 180 places to err; one walk along a description has none of them. The tests have
//! k8s-pb decode and encode again whatever is written here.
//!
//! Go's encoders write every field that is not a pointer, also if it is zero; in JSON such a field is left out. So zeros are
//! dropped when read, except in pointer fields (`?` in the table), where zero is a value: `gracePeriodSeconds: 0`.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::objects::Unread;
use crate::objects::allowance::{Allowance, Growth, TooMuch, take_entry};
use crate::objects::decode;

use super::wire::{self, Wire, put_bytes, put_number};

/// Deepest message in a message.
const MAX_DEPTH: usize = 32;
/// Longest text of a time.
const LONGEST_TIME: usize = 32;

/// What is wrong with bytes.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// They are not what the message says.
    Bad(String),
    /// What they say takes too much memory.
    TooMuch(TooMuch),
}

impl Unreadable {
    /// The same, in a field.
    fn within(self, name: &str) -> Self {
        match self {
            Unreadable::Bad(reason) => Unreadable::Bad(format!("{name}: {reason}")),
            too_much @ Unreadable::TooMuch(_) => too_much,
        }
    }
}

impl From<String> for Unreadable {
    fn from(reason: String) -> Self {
        Unreadable::Bad(reason)
    }
}

impl From<&str> for Unreadable {
    fn from(reason: &str) -> Self {
        Unreadable::Bad(reason.to_owned())
    }
}

impl From<TooMuch> for Unreadable {
    fn from(too_much: TooMuch) -> Self {
        Unreadable::TooMuch(too_much)
    }
}

/// A message: its fields, by number.
#[derive(Debug)]
pub(super) struct Message {
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    number: u64,
    /// The JSON name; empty for a message whose fields stand in the object itself.
    name: &'static str,
    kind: FieldKind,
    shape: FieldShape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldShape {
    /// One value; zero means that it is not given.
    Single,
    /// One value, or none.
    Pointer,
    List,
    /// From texts to values.
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldKind {
    Text,
    Int,
    Bool,
    /// Base64 in JSON.
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// JSON as text.
    FieldsV1,
    Message(usize),
}

struct Messages {
    all: Vec<Message>,
    by_name: HashMap<&'static str, usize>,
}

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| parse(include_str!("messages.txt")));

/// The message of a type.
pub(super) fn find(name: &str) -> Option<&'static Message> {
    MESSAGES.by_name.get(name).map(|index| &MESSAGES.all[*index])
}

fn parse(text: &'static str) -> Messages {
    let names = text.lines().filter(|line| !line.starts_with([' ', '#']));
    let by_name: HashMap<&'static str, usize> = names.enumerate().map(|(index, name)| (name, index)).collect();
    let mut all: Vec<Message> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            None => all.push(Message { fields: Vec::new() }),
            Some(field) => {
                let field = parse_field(field, &by_name).unwrap_or_else(|| panic!("messages.txt: {field}"));
                all.last_mut().expect("a name comes first").fields.push(field);
            }
        }
    }
    for message in &mut all {
        message.fields.sort_by_key(|field| field.number);
    }
    Messages { all, by_name }
}

fn parse_field(text: &'static str, messages: &HashMap<&'static str, usize>) -> Option<Field> {
    let mut words = text.splitn(3, ' ');
    let (number, name, rest) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (shape, kind) = if let Some(kind) = rest.strip_prefix("list ") {
        (FieldShape::List, kind)
    } else if let Some(kind) = rest.strip_prefix("map ") {
        (FieldShape::Map, kind)
    } else if let Some(kind) = rest.strip_suffix('?') {
        (FieldShape::Pointer, kind)
    } else {
        (FieldShape::Single, rest)
    };
    let kind = match kind {
        "string" => FieldKind::Text,
        "int" => FieldKind::Int,
        "bool" => FieldKind::Bool,
        "bytes" => FieldKind::Bytes,
        "Time" => FieldKind::Time,
        "MicroTime" => FieldKind::MicroTime,
        "Quantity" => FieldKind::Quantity,
        "IntOrString" => FieldKind::IntOrString,
        "FieldsV1" => FieldKind::FieldsV1,
        message => FieldKind::Message(*messages.get(message)?),
    };
    Some(Field { number, name: if name == "*" { "" } else { name }, kind, shape })
}

impl Message {
    /// Appends the fields of `object`. What the message does not have is left out.
    pub(super) fn write(&self, object: &Map<String, Value>, out: &mut Vec<u8>) {
        for field in &self.fields {
            if field.name.is_empty() {
                // Its fields stand in the object itself.
                if let FieldKind::Message(index) = field.kind {
                    let mut inner = Vec::new();
                    MESSAGES.all[index].write(object, &mut inner);
                    put_bytes(out, field.number, &inner);
                }
                continue;
            }
            match (field.shape, object.get(field.name)) {
                (_, None | Some(Value::Null)) => {}
                (FieldShape::List, Some(list)) => {
                    list.as_array().into_iter().flatten().for_each(|value| field.kind.write(field.number, value, out));
                }
                (FieldShape::Map, Some(map)) => {
                    for (key, value) in map.as_object().into_iter().flatten() {
                        let mut pair = Vec::new();
                        put_bytes(&mut pair, 1, key.as_bytes());
                        field.kind.write(2, value, &mut pair);
                        put_bytes(out, field.number, &pair);
                    }
                }
                (FieldShape::Single | FieldShape::Pointer, Some(value)) => field.kind.write(field.number, value, out),
            }
        }
    }

    /// Reads fields into `object`. Fields that the message does not have are skipped.
    ///
    /// # Errors
    /// What is wrong, after the names of the fields that lead to it; or that it takes too much memory.
    pub(super) fn read(
        &self,
        bytes: &[u8],
        object: &mut Map<String, Value>,
        allowance: &Allowance,
    ) -> Result<(), Unreadable> {
        self.read_at(bytes, object, Reader { allowance, depth: 0 })
    }

    fn read_at(&self, mut bytes: &[u8], object: &mut Map<String, Value>, reader: Reader<'_>) -> Result<(), Unreadable> {
        if reader.depth > MAX_DEPTH {
            return Err("it is nested too deep".into());
        }
        while !bytes.is_empty() {
            let (number, wire) = wire::field(&mut bytes)?;
            let Ok(index) = self.fields.binary_search_by_key(&number, |field| field.number) else {
                continue;
            };
            let field = &self.fields[index];
            let wire = wire.ok_or_else(|| format!("{}: it is of another type", field.name))?;
            field.read(wire, object, reader).map_err(|reason| reason.within(field.name))?;
        }
        Ok(())
    }
}

/// How deep a reader is, and what it may still build.
#[derive(Clone, Copy)]
struct Reader<'a> {
    allowance: &'a Allowance,
    depth: usize,
}

impl Reader<'_> {
    fn deeper(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }

    /// Takes what a new field of an object needs.
    fn take_field(self, object: &Map<String, Value>, name: &str) -> Result<(), TooMuch> {
        if object.contains_key(name) {
            return Ok(());
        }
        self.allowance.take(name.len())?;
        take_entry(object.len(), size_of::<(String, Value)>(), self.allowance)
    }
}

impl Field {
    fn read(&self, wire: Wire<'_>, object: &mut Map<String, Value>, reader: Reader<'_>) -> Result<(), Unreadable> {
        if let ("", FieldKind::Message(index), Wire::Bytes(bytes)) = (self.name, self.kind, wire) {
            return MESSAGES.all[index].read_at(bytes, object, reader.deeper());
        }
        match self.shape {
            FieldShape::List => {
                let value = self.kind.read(wire, reader)?.unwrap_or_default();
                reader.take_field(object, self.name)?;
                if let Value::Array(list) = object.entry(self.name).or_insert_with(|| json!([])) {
                    Growth::of(list).push(size_of::<Value>(), reader.allowance)?;
                    list.push(value);
                }
            }
            FieldShape::Map => {
                let Wire::Bytes(pair) = wire else {
                    return Err("it is of another type".into());
                };
                let (key, value) = self.read_pair(pair, reader)?;
                reader.take_field(object, self.name)?;
                if let Value::Object(pairs) = object.entry(self.name).or_insert_with(|| json!({})) {
                    reader.take_field(pairs, &key)?;
                    pairs.insert(key, value);
                }
            }
            FieldShape::Single | FieldShape::Pointer => {
                let value = self.kind.read(wire, reader)?;
                let zero = |value: &Value| *value == "" || *value == 0 || *value == false;
                if let Some(value) = value.filter(|value| self.shape == FieldShape::Pointer || !zero(value)) {
                    reader.take_field(object, self.name)?;
                    object.insert(self.name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    fn read_pair(&self, mut pair: &[u8], reader: Reader<'_>) -> Result<(String, Value), Unreadable> {
        let (mut key, mut value) = (String::new(), None);
        while !pair.is_empty() {
            match wire::field(&mut pair)? {
                (1, Some(Wire::Bytes(bytes))) => key = text(bytes)?.to_owned(),
                (2, Some(wire)) => value = self.kind.read(wire, reader)?,
                _ => {}
            }
        }
        Ok((key, value.unwrap_or_else(|| json!(""))))
    }
}

impl FieldKind {
    /// A value of another JSON type than the field's is left out; objects that were admitted have none.
    fn write(self, number: u64, value: &Value, out: &mut Vec<u8>) {
        match self {
            FieldKind::Text => put_bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
            FieldKind::Int => put_number(out, number, value.as_i64().unwrap_or_default().cast_unsigned()),
            FieldKind::Bool => put_number(out, number, u64::from(value == true)),
            FieldKind::Bytes => {
                put_bytes(out, number, &BASE64.decode(value.as_str().unwrap_or_default()).unwrap_or_default());
            }
            FieldKind::Time | FieldKind::MicroTime => {
                let time = value.as_str().and_then(|text| text.parse::<Timestamp>().ok()).unwrap_or_default();
                let mut parts = Vec::new();
                put_number(&mut parts, 1, time.as_second().cast_unsigned());
                put_number(&mut parts, 2, i64::from(time.subsec_nanosecond()).cast_unsigned());
                put_bytes(out, number, &parts);
            }
            FieldKind::Quantity => {
                let mut parts = Vec::new();
                put_bytes(&mut parts, 1, value.as_str().unwrap_or_default().as_bytes());
                put_bytes(out, number, &parts);
            }
            FieldKind::IntOrString => {
                let mut parts = Vec::new();
                put_number(&mut parts, 1, u64::from(value.is_string()));
                put_number(&mut parts, 2, value.as_i64().unwrap_or_default().cast_unsigned());
                put_bytes(&mut parts, 3, value.as_str().unwrap_or_default().as_bytes());
                put_bytes(out, number, &parts);
            }
            FieldKind::FieldsV1 => {
                let mut parts = Vec::new();
                put_bytes(&mut parts, 1, value.to_string().as_bytes());
                put_bytes(out, number, &parts);
            }
            FieldKind::Message(index) => {
                let mut inner = Vec::new();
                if let Some(object) = value.as_object() {
                    MESSAGES.all[index].write(object, &mut inner);
                }
                put_bytes(out, number, &inner);
            }
        }
    }

    /// `None` for a time that is not given.
    fn read(self, wire: Wire<'_>, reader: Reader<'_>) -> Result<Option<Value>, Unreadable> {
        if let Wire::Bytes(bytes) = wire {
            match self {
                FieldKind::Bytes => reader.allowance.take(bytes.len().div_ceil(3) * 4)?,
                FieldKind::Text | FieldKind::Quantity | FieldKind::IntOrString => reader.allowance.take(bytes.len())?,
                FieldKind::Time | FieldKind::MicroTime => reader.allowance.take(LONGEST_TIME)?,
                FieldKind::Int | FieldKind::Bool | FieldKind::FieldsV1 | FieldKind::Message(_) => {}
            }
        }
        Ok(Some(match (self, wire) {
            (FieldKind::Text, Wire::Bytes(bytes)) => json!(text(bytes)?),
            (FieldKind::Int, Wire::Number(number)) => json!(number.cast_signed()),
            (FieldKind::Bool, Wire::Number(number)) => json!(number != 0),
            (FieldKind::Bytes, Wire::Bytes(bytes)) => json!(BASE64.encode(bytes)),
            (FieldKind::Time | FieldKind::MicroTime, Wire::Bytes(bytes)) => {
                let Parts { first: Some(seconds), second, .. } = Parts::of(bytes)? else {
                    return Ok(None);
                };
                let nanoseconds = i32::try_from(second.unwrap_or_default()).map_err(|error| error.to_string())?;
                let time = Timestamp::new(seconds, nanoseconds).map_err(|error| error.to_string())?;
                match self {
                    FieldKind::MicroTime => json!(format!("{time:.6}")),
                    _ => json!(format!("{time:.0}")),
                }
            }
            (FieldKind::Quantity, Wire::Bytes(bytes)) => json!(text(Parts::of(bytes)?.first_bytes)?),
            (FieldKind::IntOrString, Wire::Bytes(bytes)) => {
                let parts = Parts::of(bytes)?;
                match parts.first {
                    None | Some(0) => json!(parts.second.unwrap_or_default()),
                    Some(_) => json!(text(parts.third_bytes)?),
                }
            }
            (FieldKind::FieldsV1, Wire::Bytes(bytes)) => {
                match decode::value(Parts::of(bytes)?.first_bytes, reader.allowance) {
                    Ok((value, _)) => value,
                    Err(Unread::NotJson(error)) => return Err(error.to_string().into()),
                    Err(Unread::TooMuch(too_much)) => return Err(too_much.into()),
                }
            }
            (FieldKind::Message(index), Wire::Bytes(bytes)) => {
                let mut object = Map::new();
                MESSAGES.all[index].read_at(bytes, &mut object, reader.deeper())?;
                Value::Object(object)
            }
            _ => return Err("it is of another type".into()),
        }))
    }
}

/// The fields of the small messages that are one value in JSON.
#[derive(Default)]
struct Parts<'a> {
    first: Option<i64>,
    second: Option<i64>,
    first_bytes: &'a [u8],
    third_bytes: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(mut bytes: &'a [u8]) -> Result<Self, String> {
        let mut parts = Self::default();
        while !bytes.is_empty() {
            match wire::field(&mut bytes)? {
                (1, Some(Wire::Number(number))) => parts.first = Some(number.cast_signed()),
                (2, Some(Wire::Number(number))) => parts.second = Some(number.cast_signed()),
                (1, Some(Wire::Bytes(bytes))) => parts.first_bytes = bytes,
                (3, Some(Wire::Bytes(bytes))) => parts.third_bytes = bytes,
                _ => {}
            }
        }
        Ok(parts)
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
pub(super) mod samples {
    //! Objects with every field of their message.

    use super::*;

    /// A value in every field; messages below `depth` are empty.
    pub(in super::super) fn full(message: &Message, depth: usize) -> Map<String, Value> {
        let mut object = Map::new();
        fill(message, depth, &mut object);
        object
    }

    fn fill(message: &Message, depth: usize, object: &mut Map<String, Value>) {
        for field in &message.fields {
            if let ("", FieldKind::Message(index)) = (field.name, field.kind) {
                fill(&MESSAGES.all[index], depth, object);
                continue;
            }
            let value = sample(field.kind, depth);
            let value = match field.shape {
                FieldShape::Single | FieldShape::Pointer => value,
                FieldShape::List => json!([value.clone(), value]),
                FieldShape::Map => json!({"a": value.clone(), "b": value}),
            };
            object.insert(field.name.to_owned(), value);
        }
    }

    fn sample(kind: FieldKind, depth: usize) -> Value {
        match kind {
            FieldKind::Text => json!("text"),
            FieldKind::Int => json!(7),
            FieldKind::Bool => json!(true),
            FieldKind::Bytes => json!("Ynl0ZXM="),
            FieldKind::Time => json!("2026-01-02T03:04:05Z"),
            FieldKind::MicroTime => json!("2026-01-02T03:04:05.678901Z"),
            FieldKind::Quantity => json!("100m"),
            FieldKind::IntOrString => json!("http"),
            FieldKind::FieldsV1 => json!({"f:metadata": {}}),
            FieldKind::Message(_) if depth == 0 => json!({}),
            FieldKind::Message(index) => Value::Object(full(&MESSAGES.all[index], depth - 1)),
        }
    }
}

//! An OpenAPI 2 document as protobuf: gnostic's `openapi.v2.Document`.
//!
//! `kubectl` and `helm` accept `/openapi/v2` in this form only. They read it whenever a file holds a kind that the version 3
//! documents do not describe, or a `List`; without it they give up on the whole file. Written are the parts that
//! [`super::super::openapi`] makes.

use serde_json::{Map, Value};

use super::wire::{put_bytes, put_number};

/// The media type. Clients ask for it with a `@` before `v1.0`, which no media type may have, and refuse to read such an answer.
pub(crate) const OPENAPI_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A message in the making.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    /// The text of a field, if the object has it.
    fn text(&mut self, number: u64, object: &Value, field: &str) {
        if let Some(text) = object.get(field).and_then(Value::as_str) {
            put_bytes(&mut self.0, number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, object: &Value, field: &str) {
        for text in items(object, field).iter().filter_map(Value::as_str) {
            put_bytes(&mut self.0, number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u64, object: &Value, field: &str) {
        if object.get(field) == Some(&Value::Bool(true)) {
            put_number(&mut self.0, number, 1);
        }
    }

    fn message(&mut self, number: u64, message: Out) {
        put_bytes(&mut self.0, number, &message.0);
    }

    /// A message, if the object has the field.
    fn maybe(&mut self, number: u64, object: &Value, field: &str, write: impl Fn(&Value) -> Out) {
        if let Some(value) = object.get(field) {
            self.message(number, write(value));
        }
    }

    /// Pairs of a name and a message.
    fn named<'a>(
        &mut self,
        number: u64,
        pairs: impl Iterator<Item = (&'a String, &'a Value)>,
        write: impl Fn(&Value) -> Out,
    ) {
        for (name, value) in pairs {
            let mut pair = Out::default();
            put_bytes(&mut pair.0, 1, name.as_bytes());
            pair.message(2, write(value));
            self.message(number, pair);
        }
    }

    /// The fields of an object that begin with `x-`.
    fn extensions(&mut self, number: u64, object: &Value) {
        self.named(number, fields(object).filter(|(name, _)| name.starts_with("x-")), any);
    }
}

/// The document, from its JSON.
pub(crate) fn document(document: &Value) -> Vec<u8> {
    let mut out = Out::default();
    out.text(1, document, "swagger");
    out.maybe(2, document, "info", |info| {
        let mut out = Out::default();
        out.text(1, info, "title");
        out.text(2, info, "version");
        out
    });
    out.maybe(8, document, "paths", |paths| {
        let mut out = Out::default();
        out.named(2, fields(paths), path_item);
        out
    });
    out.maybe(9, document, "definitions", schemas);
    out.0
}

/// Any value is a YAML text, of which JSON is a part.
fn any(value: &Value) -> Out {
    let mut out = Out::default();
    put_bytes(&mut out.0, 2, value.to_string().as_bytes());
    out
}

fn schemas(schemas: &Value) -> Out {
    let mut out = Out::default();
    out.named(1, fields(schemas), schema);
    out
}

fn schema(value: &Value) -> Out {
    let mut out = Out::default();
    out.text(1, value, "$ref");
    out.text(2, value, "format");
    out.text(4, value, "description");
    out.maybe(5, value, "default", any);
    out.texts(19, value, "required");
    out.maybe(21, value, "additionalProperties", |values| {
        let mut out = Out::default();
        match values {
            Value::Bool(whether) => put_number(&mut out.0, 2, u64::from(*whether)),
            values => out.message(1, schema(values)),
        }
        out
    });
    if value.get("type").is_some() {
        let mut names = Out::default();
        names.text(1, value, "type");
        names.texts(1, value, "type");
        out.message(22, names);
    }
    out.maybe(23, value, "items", |items| {
        let mut out = Out::default();
        out.message(1, schema(items));
        out
    });
    items(value, "allOf").iter().for_each(|part| out.message(24, schema(part)));
    out.maybe(25, value, "properties", schemas);
    out.extensions(31, value);
    out
}

fn path_item(item: &Value) -> Out {
    let mut out = Out::default();
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        out.maybe(number, item, method, operation);
    }
    items(item, "parameters").iter().for_each(|one| out.message(9, parameter(one)));
    out
}

fn operation(operation: &Value) -> Out {
    let mut out = Out::default();
    out.text(5, operation, "operationId");
    out.texts(6, operation, "produces");
    out.texts(7, operation, "consumes");
    items(operation, "parameters").iter().for_each(|one| out.message(8, parameter(one)));
    out.maybe(9, operation, "responses", |responses| {
        let mut out = Out::default();
        out.named(1, fields(responses), response);
        out
    });
    out.extensions(13, operation);
    out
}

/// A `ResponseValue`, which is a `Response` here.
fn response(response: &Value) -> Out {
    let mut inner = Out::default();
    inner.text(1, response, "description");
    inner.maybe(2, response, "schema", |value| {
        let mut item = Out::default();
        item.message(1, schema(value));
        item
    });
    let mut out = Out::default();
    out.message(1, inner);
    out
}

/// A `ParametersItem`: a `Parameter` in the body, or a `NonBodyParameter` in the query or the path.
fn parameter(parameter: &Value) -> Out {
    let mut inner = Out::default();
    let choice = match parameter.get("in").and_then(Value::as_str) {
        Some("body") => {
            inner.text(1, parameter, "description");
            inner.text(2, parameter, "name");
            inner.text(3, parameter, "in");
            inner.flag(4, parameter, "required");
            inner.maybe(5, parameter, "schema", schema);
            1
        }
        place => {
            inner.flag(1, parameter, "required");
            inner.text(2, parameter, "in");
            inner.text(3, parameter, "description");
            inner.text(4, parameter, "name");
            let in_query = place == Some("query");
            inner.text(if in_query { 6 } else { 5 }, parameter, "type");
            let mut outer = Out::default();
            outer.message(if in_query { 3 } else { 4 }, inner);
            inner = outer;
            2
        }
    };
    let (mut chosen, mut out) = (Out::default(), Out::default());
    chosen.message(choice, inner);
    out.message(1, chosen);
    out
}

fn items<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn fields(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::wire::{Wire, field};
    use super::*;

    /// The texts at a path of field numbers.
    fn at(bytes: &[u8], path: &[u64]) -> Vec<String> {
        let Some((first, rest)) = path.split_first() else {
            return vec![String::from_utf8_lossy(bytes).into_owned()];
        };
        let (mut bytes, mut found) = (bytes, Vec::new());
        while !bytes.is_empty() {
            if let (number, Some(Wire::Bytes(inner))) = field(&mut bytes).expect("a field")
                && number == *first
            {
                found.extend(at(inner, rest));
            }
        }
        found
    }

    #[test]
    fn what_clients_look_for_is_where_they_look() {
        let kinds = json!([{"group": "", "version": "v1", "kind": "Service"}]);
        let patch = json!({
            "x-kubernetes-group-version-kind": kinds[0], "consumes": ["application/json"],
            "parameters": [
                {"name": "fieldValidation", "in": "query", "type": "string", "required": false, "description": "d"},
                {"name": "body", "in": "body", "required": true, "schema": {"type": "object"}}],
            "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/S"}}},
        });
        let bytes = document(&json!({
            "swagger": "2.0", "info": {"title": "t", "version": "v"},
            "paths": {"/p": {"patch": patch, "parameters": [{"name": "name", "in": "path", "type": "string"}]}},
            "definitions": {"S": {"type": "object", "x-kubernetes-group-version-kind": kinds, "properties":
                {"list": {"type": "array", "items": {"$ref": "#/definitions/I"}}, "map": {"additionalProperties": {"type": "string"}}}}},
        }));
        for (path, expected) in [
            (&[1][..], json!(["2.0"])),
            (&[2, 1], json!(["t"])),
            (&[8, 2, 1], json!(["/p"])),
            // A query's parameter: name and type.
            (&[8, 2, 2, 8, 8, 1, 2, 3, 4], json!(["fieldValidation"])),
            (&[8, 2, 2, 8, 8, 1, 2, 3, 6], json!(["string"])),
            // A body's.
            (&[8, 2, 2, 8, 8, 1, 1, 2], json!(["body"])),
            // A path's.
            (&[8, 2, 2, 9, 1, 2, 4, 4], json!(["name"])),
            (&[8, 2, 2, 8, 13, 1], json!(["x-kubernetes-group-version-kind"])),
            (&[8, 2, 2, 8, 13, 2, 2], json!([kinds[0].to_string()])),
            (&[8, 2, 2, 8, 9, 1, 2, 1, 2, 1, 1], json!(["#/definitions/S"])),
            (&[9, 1, 1], json!(["S"])),
            (&[9, 1, 2, 22, 1], json!(["object"])),
            (&[9, 1, 2, 25, 1, 1], json!(["list", "map"])),
            (&[9, 1, 2, 25, 1, 2, 23, 1, 1], json!(["#/definitions/I"])),
            (&[9, 1, 2, 25, 1, 2, 21, 1, 22, 1], json!(["string"])),
            (&[9, 1, 2, 31, 2, 2], json!([kinds.to_string()])),
        ] {
            assert_eq!(json!(at(&bytes, path)), expected, "{path:?}");
        }
    }
}

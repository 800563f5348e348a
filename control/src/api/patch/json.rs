//! JSON patches (RFC 6902).
//!
//! The operations are implemented by the `json-patch` crate. This module adds bounds: the number of operations, and the size of
//! the result, which `copy` may double with every operation. They are applied one at a time because the crate recurses once
//! per operation of a patch. If one fails, the object is half patched, which is harmless: it is a copy.

use json_patch::{PatchOperation, patch};
use serde_json::Value;

use super::super::body::OBJECT_LIMIT;
use super::super::list;
use super::super::status::Status;
use crate::objects::allowance::Allowance;
use crate::objects::{Unread, decode};

/// Most operations in a patch: the API server's limit.
const MAX_OPERATIONS: usize = 10_000;

/// Memory of a small mapping.
const MAPPING: usize = 700;

/// The operations of a patch.
pub(super) struct Operations(Vec<PatchOperation>);

impl Operations {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Status> {
        let told = |error| Status::bad_request(format!("error decoding patch: {error}"));
        let found = list::elements(bytes).map_err(told)?.count();
        if found > MAX_OPERATIONS {
            let limit = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {found}");
            return Err(Status::too_much(limit));
        }
        if found == 0 {
            return serde_json::from_slice(bytes).map(Self).map_err(told);
        }
        let allowance = Allowance::of_patch(bytes.len());
        let operation = |item: &[u8]| {
            let before = allowance.taken();
            let (value, _) = decode::value(item, &allowance).map_err(|unread| Status::unread(&unread))?;
            let operation: PatchOperation = serde_json::from_value(value).map_err(told)?;
            // Of the value that described it, its own mapping is not kept.
            allowance.give_back((allowance.taken() - before).min(MAPPING));
            allowance
                .take(size_of::<PatchOperation>())
                .map_err(|too_much| Status::unread(&Unread::TooMuch(too_much)))?;
            Ok(operation)
        };
        list::elements(bytes).map_err(told)?.map(operation).collect::<Result<_, Status>>().map(Self)
    }

    /// Applies all, or returns which one failed.
    pub(super) fn apply(&self, value: &mut Value) -> Result<(), Status> {
        let mut copied = 0;
        for (index, operation) in self.0.iter().enumerate() {
            if let PatchOperation::Copy(copy) = operation {
                copied += value.pointer(copy.from.as_str()).map_or(0, size);
                if copied > OBJECT_LIMIT {
                    return Err(Status::bad_patch(copy.path.as_str(), "the copy operations make the object too large"));
                }
            }
            patch(value, std::slice::from_ref(operation)).map_err(|error| {
                let (path, kind) = (&error.path, &error.kind);
                Status::bad_patch(path.as_str(), &format!("operation {index}: {kind}"))
            })?;
        }
        Ok(())
    }
}

/// A measure of a value's size: about that of its text.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + size(value) + 1).sum(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(document: Value, operations: Value) -> Result<Value, String> {
        let mut value = document;
        let operations = Operations::read(operations.to_string().as_bytes()).map_err(|status| format!("{status:?}"))?;
        operations.apply(&mut value).map(|()| value).map_err(|status| format!("{status:?}"))
    }

    /// The cases of RFC 6902, appendix A.
    #[test]
    fn operations_do_what_the_rfc_shows() {
        let add = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
        let cases = [
            (json!({"foo": "bar"}), add("/baz", json!("qux")), json!({"foo": "bar", "baz": "qux"})),
            (json!({"foo": ["bar", "baz"]}), add("/foo/1", json!("qux")), json!({"foo": ["bar", "qux", "baz"]})),
            (json!({"a": 1, "b": 2}), json!([{"op": "remove", "path": "/a"}]), json!({"b": 2})),
            (json!({"a": [1, 2, 3]}), json!([{"op": "remove", "path": "/a/1"}]), json!({"a": [1, 3]})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/a", "value": 2}]), json!({"a": 2})),
            (
                json!({"foo": {"bar": 1, "waldo": 2}, "qux": {"corge": 3}}),
                json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
                json!({"foo": {"bar": 1}, "qux": {"corge": 3, "thud": 2}}),
            ),
            (
                json!({"foo": ["all", "grass", "cows", "eat"]}),
                json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
                json!({"foo": ["all", "cows", "eat", "grass"]}),
            ),
            (
                json!({"baz": "qux", "foo": ["a", 2, "c"]}),
                json!([{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}]),
                json!({"baz": "qux", "foo": ["a", 2, "c"]}),
            ),
            (json!({"foo": "bar"}), add("/child", json!({"g": {}})), json!({"foo": "bar", "child": {"g": {}}})),
            (
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
                json!({"foo": "bar", "baz": "qux"}),
            ),
            (
                json!({"/": 9, "~1": 10}),
                json!([{"op": "test", "path": "/~01", "value": 10}]),
                json!({"/": 9, "~1": 10}),
            ),
            (json!({"foo": ["bar"]}), add("/foo/-", json!(["abc"])), json!({"foo": ["bar", ["abc"]]})),
            (
                json!({"a": {"b": 1}}),
                json!([{"op": "copy", "from": "/a", "path": "/c"}]),
                json!({"a": {"b": 1}, "c": {"b": 1}}),
            ),
        ];
        for (document, operations, expected) in cases {
            assert_eq!(patched(document, operations.clone()), Ok(expected), "{operations}");
        }
    }

    #[test]
    fn what_does_not_go_is_told_with_its_operation() {
        let cases = [
            (json!([{"op": "test", "path": "/baz", "value": "bar"}]), "operation 0: value did not match"),
            (json!([{"op": "add", "path": "/x/y", "value": 1}]), "operation 0: path is invalid"),
            (json!([{"op": "remove", "path": "/none"}]), "operation 0: path is invalid"),
            (json!([{"op": "copy", "from": "/none", "path": "/x"}]), "\\\"from\\\" path is invalid"),
            (json!([{"op": "jump", "path": "/x"}]), "error decoding patch: "),
            (json!([{"op": "add", "path": "/x"}]), "error decoding patch: "),
            (json!({"op": "add"}), "error decoding patch: "),
        ];
        for (operations, expected) in cases {
            let told = patched(json!({"baz": "qux"}), operations.clone()).unwrap_err();
            assert!(told.contains(expected), "{operations}: {told}");
        }
    }

    #[test]
    fn a_patch_cannot_grow_without_bound() {
        let doubling = |n: usize| {
            let copies = (0..n).map(|i| json!({"op": "copy", "from": "", "path": format!("/c{i}")}));
            patched(json!({"a": "x".repeat(1000)}), copies.collect())
        };
        assert!(doubling(5).is_ok());
        assert!(doubling(60).unwrap_err().contains("too large"));
        let many = |n: usize| patched(json!({}), vec![json!({"op": "add", "path": "/a", "value": 1}); n].into());
        assert!(many(MAX_OPERATIONS).is_ok());
        assert!(many(MAX_OPERATIONS + 1).unwrap_err().contains("got 10001"));
    }
}

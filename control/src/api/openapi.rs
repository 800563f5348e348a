//! The API as OpenAPI: `/openapi/v3`, a document for each group and version, and `/openapi/v2`.
//!
//! `kubectl` reads these before it sends anything: `explain` prints the descriptions, `apply` finds the merge keys of lists
//! and which parameters a patch takes (without `fieldValidation` among them it would validate by itself). The
//! schemas are those of the generated types, so they describe what is actually read; the merge keys are [`crate::objects::schema`]'s, so
//! they are those that patches use.
//!
//! Documents are JSON; that of version 2 is also there as protobuf, which is all that `kubectl` and `helm` accept for it. Each
//! is built once, at the first request, and kept: two megabytes in all.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, Value, json};

use super::body::OBJECT_TYPES;
use super::form::{Form, Media};
use super::patch::PATCH_TYPES;
use super::protobuf::openapi::{self as gnostic, OPENAPI_V2};
use super::shared::Api;
use super::status::Status;
use crate::objects::Kind;
use crate::objects::schema::{List, Patch, REFERENCE, definitions, is_atomic_map, list_type, short};

/// Groups and versions, as paths name them.
const GROUP_VERSIONS: [(&str, &str); 2] = [("api/v1", "v1"), ("apis/discovery.k8s.io/v1", "discovery.k8s.io/v1")];

/// Parameters of every write.
const WRITE: &[(&str, &str, &str)] = &[
    ("dryRun", "string", "With All, nothing is changed: the response is what it would have been."),
    ("fieldManager", "string", "The name of the manager that makes the change."),
    ("fieldValidation", "string", "How to handle unknown and duplicate fields: Ignore, Warn or Strict."),
];
const FORCE: &[(&str, &str, &str)] =
    &[("force", "boolean", "Whether a server-side apply takes over fields from other managers.")];
const LIST: &[(&str, &str, &str)] = &[
    ("labelSelector", "string", "Selects objects by their labels."),
    ("fieldSelector", "string", "Selects objects by their fields."),
];
const DELETE: &[(&str, &str, &str)] = &[
    ("dryRun", "string", "With All, nothing is changed."),
    (
        "gracePeriodSeconds",
        "integer",
        "How long a Pod is terminating before it is removed; with 0 or without a value \
                                       it is removed at once.",
    ),
    ("propagationPolicy", "string", "Accepted; what belongs to an object is always deleted with it."),
];

/// The version of OpenAPI a document is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

static CORE: LazyLock<Bytes> = LazyLock::new(|| bytes(&document(Dialect::V3, &[GROUP_VERSIONS[0].1])));
static DISCOVERY: LazyLock<Bytes> = LazyLock::new(|| bytes(&document(Dialect::V3, &[GROUP_VERSIONS[1].1])));
static V2: LazyLock<Bytes> = LazyLock::new(|| bytes(&v2()));
static V2_PROTOBUF: LazyLock<Bytes> = LazyLock::new(|| gnostic::document(&v2()).into());

pub(crate) fn router() -> Router<Api> {
    Router::new()
        .route("/openapi/v2", get(async |headers: HeaderMap| answer_v2(&headers)))
        .route("/openapi/v3", get(async || axum::Json(index())))
        .route("/openapi/v3/api/v1", get(async |headers: HeaderMap| answer(&headers, &CORE)))
        .route("/openapi/v3/apis/discovery.k8s.io/v1", get(async |headers: HeaderMap| answer(&headers, &DISCOVERY)))
}

fn v2() -> Value {
    document(Dialect::V2, &GROUP_VERSIONS.map(|(_, version)| version))
}

fn answer(headers: &HeaderMap, document: &'static LazyLock<Bytes>) -> Result<Response, Status> {
    if Form::of(headers, "")?.media == Media::Protobuf {
        return Err(Status::not_acceptable(&["application/json"]));
    }
    Ok(body("application/json", document))
}

/// In the first of the forms that the client names.
fn answer_v2(headers: &HeaderMap) -> Result<Response, Status> {
    const SPELLINGS: [&str; 2] = [OPENAPI_V2, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"];
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in accepts.flat_map(|value| value.split(',')) {
        match range.split(';').next().unwrap_or_default().trim() {
            "application/json" | "application/*" | "*/*" => break,
            spelling if SPELLINGS.contains(&spelling) => return Ok(body(OPENAPI_V2, &V2_PROTOBUF)),
            _ => {}
        }
    }
    answer(headers, &V2)
}

fn body(media: &'static str, document: &'static LazyLock<Bytes>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(media))], Bytes::clone(document)).into_response()
}

fn bytes(document: &Value) -> Bytes {
    Bytes::from(document.to_string())
}

fn index() -> Value {
    let path = |(path, _): (&str, &str)| (path.to_owned(), json!({"serverRelativeURL": format!("/openapi/v3/{path}")}));
    json!({"paths": GROUP_VERSIONS.map(path).into_iter().collect::<Map<_, _>>()})
}

fn document(dialect: Dialect, versions: &[&str]) -> Value {
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| versions.contains(&kind.api_version())).collect();
    let all = definitions();
    let mut schemas = needed(&all, &kinds);
    for (name, schema) in &mut schemas {
        annotate(short(name), schema);
        translate(dialect, schema);
    }
    for kind in &kinds {
        if let Some(schema) = schemas.get_mut(&type_name(*kind)) {
            schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(*kind)]);
        }
    }
    let paths: Map<String, Value> = kinds.iter().flat_map(|kind| paths(dialect, *kind)).collect();
    let info = json!({"title": "pollgate", "version": env!("CARGO_PKG_VERSION")});
    match dialect {
        Dialect::V2 => json!({"swagger": "2.0", "info": info, "paths": paths, "definitions": schemas}),
        Dialect::V3 => json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}),
    }
}

/// `io.k8s.api.core.v1.Service`.
fn type_name(kind: Kind) -> String {
    let package = if kind == Kind::EndpointSlice { "discovery" } else { "core" };
    format!("io.k8s.api.{package}.v1.{}", kind.name())
}

fn group_version_kind(kind: Kind) -> Value {
    let version = kind.api_version().rsplit('/').next().unwrap_or_default();
    json!({"group": kind.group(), "version": version, "kind": kind.name()})
}

/// The types of the kinds and of all that is in them.
fn needed(all: &Map<String, Value>, kinds: &[Kind]) -> Map<String, Value> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> = kinds.iter().map(|kind| type_name(*kind)).collect();
    while let Some(name) = next.pop() {
        if let Some(schema) = all.get(&name)
            && names.insert(name)
        {
            references(schema, &mut next);
        }
    }
    all.iter().filter(|(name, _)| names.contains(*name)).map(|(name, schema)| (name.clone(), schema.clone())).collect()
}

fn references(schema: &Value, names: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            names.extend(reference.and_then(|text| text.strip_prefix(REFERENCE)).map(str::to_owned));
            fields.values().for_each(|value| references(value, names));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, names)),
        _ => {}
    }
}

/// Writes how lists and maps merge beside them.
fn annotate(owner: &str, schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (field, schema) in properties {
        if is_atomic_map(owner, field) {
            schema["x-kubernetes-map-type"] = json!("atomic");
        }
        let Some(list) = list_type(owner, field) else {
            continue;
        };
        let (name, keys) = match list.list {
            List::Atomic => ("atomic", None),
            List::Set => ("set", None),
            List::Map(keys) => ("map", Some(keys)),
        };
        schema["x-kubernetes-list-type"] = json!(name);
        if let Some(keys) = keys {
            schema["x-kubernetes-list-map-keys"] = json!(keys);
        }
        if list.patch != Patch::Replace {
            schema["x-kubernetes-patch-strategy"] = json!("merge");
        }
        if let Patch::MergeBy(key) = list.patch {
            schema["x-kubernetes-patch-merge-key"] = json!(key);
        }
    }
}

/// From JSON Schema, as it is generated, to what clients of OpenAPI understand.
fn translate(dialect: Dialect, schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(|value| translate(dialect, value));
            if fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                int_or_string(dialect, fields);
            }
            translate_reference(dialect, fields);
        }
        Value::Array(items) => items.iter_mut().for_each(|value| translate(dialect, value)),
        _ => {}
    }
}

fn int_or_string(dialect: Dialect, fields: &mut Map<String, Value>) {
    fields.remove("x-kubernetes-int-or-string");
    fields.insert("format".to_owned(), json!("int-or-string"));
    match dialect {
        Dialect::V2 => fields.insert("type".to_owned(), json!("string")),
        Dialect::V3 => fields.insert("oneOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}])),
    };
}

/// Version 3 ignores what stands beside a reference, so the reference goes into an `allOf`.
fn translate_reference(dialect: Dialect, fields: &mut Map<String, Value>) {
    let Some(reference) = fields.get("$ref").and_then(Value::as_str).map(str::to_owned) else {
        return;
    };
    match dialect {
        Dialect::V2 => {
            fields.insert("$ref".to_owned(), reference.replace(REFERENCE, "#/definitions/").into());
        }
        Dialect::V3 if fields.len() > 1 => {
            fields.remove("$ref");
            fields.insert("allOf".to_owned(), json!([{"$ref": reference}]));
        }
        Dialect::V3 => {}
    }
}

fn paths(dialect: Dialect, kind: Kind) -> Vec<(String, Value)> {
    let root = if kind.group().is_empty() { "/api" } else { "/apis" };
    let root = format!("{root}/{}", kind.api_version());
    let (plural, operations) = (kind.plural(), Operations { dialect, kind });
    let collection = match kind.namespaced() {
        true => format!("{root}/namespaces/{{namespace}}/{plural}"),
        false => format!("{root}/{plural}"),
    };
    let object = format!("{collection}/{{name}}");
    let mut paths = vec![
        (collection, operations.path(&["get", "post"], "list", "")),
        (object.clone(), operations.path(&["get", "put", "patch", "delete"], "get", "")),
    ];
    if kind.namespaced() {
        paths.push((format!("{root}/{plural}"), operations.path(&["get"], "list", "ForAllNamespaces")));
    }
    if kind.has_status() {
        paths.push((format!("{object}/status"), operations.path(&["get", "put", "patch"], "get", "Status")));
    }
    paths
}

/// The operations of one kind.
struct Operations {
    dialect: Dialect,
    kind: Kind,
}

impl Operations {
    fn path(&self, methods: &[&str], read: &str, suffix: &str) -> Value {
        let mut item: Map<String, Value> =
            methods.iter().map(|method| ((*method).to_owned(), self.operation(method, read, suffix))).collect();
        let named = read == "get";
        let spaced = self.kind.namespaced() && suffix != "ForAllNamespaces";
        let parameters = [("name", named), ("namespace", spaced)].into_iter().filter(|(_, there)| *there);
        let parameters: Vec<Value> = parameters.map(|(name, _)| self.parameter(name, "string", "", "path")).collect();
        item.insert("parameters".to_owned(), parameters.into());
        Value::Object(item)
    }

    fn operation(&self, method: &str, read: &str, suffix: &str) -> Value {
        let (action, query): (&str, Vec<&[_]>) = match method {
            "get" if read == "list" => ("list", vec![LIST]),
            "get" => ("get", vec![]),
            "post" => ("post", vec![WRITE]),
            "put" => ("put", vec![WRITE]),
            "patch" => ("patch", vec![WRITE, FORCE]),
            _ => ("delete", vec![DELETE]),
        };
        let query = query.into_iter().flatten();
        let parameters = query.map(|(name, of, about)| self.parameter(name, of, about, "query")).collect();
        let mut operation = json!({
            "operationId": format!("{action}{}{suffix}", self.kind.name()),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": group_version_kind(self.kind),
            "parameters": Value::Array(parameters),
            "responses": {"200": self.content("OK", &["application/json"], self.answer(action))},
        });
        match method {
            "post" | "put" => self.set_body(&mut operation, OBJECT_TYPES, &self.reference()),
            "patch" => self.set_body(&mut operation, PATCH_TYPES, &json!({"type": "object"})),
            _ => {}
        }
        operation
    }

    fn answer(&self, action: &str) -> Value {
        match action {
            "list" => json!({"type": "object", "properties": {"items": {"type": "array", "items": self.reference()}}}),
            "delete" => json!({"type": "object"}),
            _ => self.reference(),
        }
    }

    fn reference(&self) -> Value {
        let root = if self.dialect == Dialect::V2 { "#/definitions/" } else { REFERENCE };
        json!({"$ref": format!("{root}{}", type_name(self.kind))})
    }

    fn parameter(&self, name: &str, of: &str, about: &str, place: &str) -> Value {
        let mut parameter = json!({"name": name, "in": place, "description": about, "required": place == "path"});
        match self.dialect {
            Dialect::V2 => parameter["type"] = json!(of),
            Dialect::V3 => parameter["schema"] = json!({"type": of}),
        }
        parameter
    }

    fn content(&self, about: &str, media: &[&str], schema: Value) -> Value {
        match self.dialect {
            Dialect::V2 => json!({"description": about, "schema": schema}),
            Dialect::V3 => json!({"description": about, "content": by_media(media, &schema)}),
        }
    }

    fn set_body(&self, operation: &mut Value, media: &[&str], schema: &Value) {
        match self.dialect {
            Dialect::V2 => {
                operation["consumes"] = json!(media);
                let body = json!({"name": "body", "in": "body", "required": true, "schema": schema});
                if let Some(parameters) = operation["parameters"].as_array_mut() {
                    parameters.push(body);
                }
            }
            Dialect::V3 => operation["requestBody"] = json!({"required": true, "content": by_media(media, schema)}),
        }
    }
}

fn by_media(media: &[&str], schema: &Value) -> Map<String, Value> {
    media.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_reference(document: &Value) -> Vec<String> {
        match document {
            Value::Object(fields) => {
                let here = fields.get("$ref").and_then(Value::as_str).map(str::to_owned);
                here.into_iter().chain(fields.values().flat_map(every_reference)).collect()
            }
            Value::Array(items) => items.iter().flat_map(every_reference).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_type_is_referred_to() {
        for (dialect, root) in [(Dialect::V2, "/definitions"), (Dialect::V3, "/components/schemas")] {
            let document = document(dialect, &["v1"]);
            let there: BTreeSet<String> =
                document.pointer(root).unwrap().as_object().unwrap().keys().cloned().collect();
            let prefix = format!("#{root}/");
            let referred =
                every_reference(&document).into_iter().map(|text| text.strip_prefix(&prefix).unwrap().to_owned());
            assert_eq!(referred.collect::<BTreeSet<_>>(), there);
        }
    }

    #[test]
    fn merge_keys_and_descriptions_stand_beside_the_fields() {
        let document = document(Dialect::V3, &["v1"]);
        let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.ServiceSpec"]["properties"];
        assert_eq!(spec["ports"]["x-kubernetes-patch-merge-key"], "port");
        assert_eq!(spec["ports"]["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
        assert_eq!(spec["selector"]["x-kubernetes-map-type"], "atomic");
        assert!(spec["externalName"]["description"].as_str().is_some_and(|text| text.contains("CNAME")));
        let service = &document["components"]["schemas"]["io.k8s.api.core.v1.Service"];
        assert_eq!(
            service["x-kubernetes-group-version-kind"],
            json!([{"group": "", "version": "v1", "kind": "Service"}])
        );
        assert!(service["properties"]["spec"]["description"].is_string());
        assert_eq!(
            service["properties"]["spec"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.api.core.v1.ServiceSpec"
        );
    }
}

//! Response bodies: single objects, lists, and Tables for clients that ask for them.
//!
//! Lists are streamed: an item is looked up and encoded when the connection has room for it, so a list of 100 000 objects
//! costs one page of them and one chunk, not a hundred megabytes per client.
//!
//! `Accept: application/json;as=Table;v=v1;g=meta.k8s.io` (what `kubectl get` sends) asks for the columns that `kubectl` shows.
//! They come from the printers that the command line uses too.

use std::io::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::status::Status;
use super::view::NoState;
use crate::objects::{Kind, Object};
use crate::printers::{Column, Table};

/// Encoded items are collected into chunks of at least this many bytes.
const CHUNK: usize = 64 << 10;

/// The form a client wants objects in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// As they are.
    #[default]
    Json,
    /// As rows of a `Table`, each with the requested part of the object.
    Table(Include),
}

/// What a row of a Table holds besides its cells.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Include {
    /// The object's metadata, as a `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
    /// Nothing.
    Nothing,
}

impl Form {
    /// The first form in `Accept` that is supported; `include` is the parameter `includeObject`.
    pub(crate) fn of(headers: &HeaderMap, include: &str) -> Result<Self, Status> {
        let mut accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
        if accepts.peek().is_none() {
            return Ok(Self::Json);
        }
        accepts
            .flat_map(|value| value.split(','))
            .find_map(|range| Self::of_range(range, include).transpose())
            .unwrap_or_else(|| Err(Status::not_acceptable()))
    }

    /// The form that one media range asks for; `None` if it is not supported.
    fn of_range(range: &str, include: &str) -> Result<Option<Self>, Status> {
        let mut parts = range.split(';').map(str::trim);
        if !matches!(parts.next(), Some("application/json" | "application/*" | "*/*")) {
            return Ok(None);
        }
        let parameter = |name: &str| {
            range.split(';').skip(1).filter_map(|part| part.trim().split_once('=')).find(|(key, _)| *key == name)
        };
        match (parameter("as"), parameter("v")) {
            (None, _) => Ok(Some(Self::Json)),
            (Some((_, "Table")), Some((_, "v1"))) => Include::parse(include).map(|include| Some(Self::Table(include))),
            _ => Ok(None),
        }
    }
}

impl Include {
    fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            "None" => Ok(Self::Nothing),
            other => Err(Status::bad_request(format!(
                "includeObject: Unsupported value: {other:?}: supported values: \"None\", \"Metadata\", \"Object\""
            ))),
        }
    }

    fn of(self, object: &Object) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Object => object.to_value(),
            Self::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.metadata(),
            }),
        }
    }
}

/// One object.
pub(crate) fn object(code: StatusCode, object: &Arc<Object>, form: Form) -> Response {
    match form {
        Form::Json => (code, Json(object.to_value())).into_response(),
        Form::Table(include) => {
            let version = object.metadata().resource_version.clone().unwrap_or_default();
            let meta = json!({"resourceVersion": version});
            (code, table(object.kind(), &meta, std::iter::once(Ok(Arc::clone(object))), include)).into_response()
        }
    }
}

/// The objects of a response, each of which may be unavailable.
pub(crate) trait Objects: Iterator<Item = Result<Arc<Object>, NoState>> + Send + 'static {}

impl<I: Iterator<Item = Result<Arc<Object>, NoState>> + Send + 'static> Objects for I {}

/// The metadata of a list.
#[derive(Debug)]
pub(crate) struct ListMeta {
    /// The state it shows.
    pub(crate) revision: u64,
    /// Where it continues, if there is more.
    pub(crate) token: Option<String>,
    /// How many objects are not in it, if that is known.
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut value = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.token {
            value["continue"] = json!(token);
        }
        if let Some(remaining) = self.remaining {
            value["remainingItemCount"] = json!(remaining);
        }
        value
    }
}

/// A list of objects of one kind.
pub(crate) fn list(kind: Kind, meta: &ListMeta, objects: impl Objects, form: Form) -> Response {
    let meta = meta.to_value();
    match form {
        Form::Json => {
            let (name, version) = (kind.name(), kind.api_version());
            let head = format!(r#"{{"kind":"{name}List","apiVersion":"{version}","metadata":{meta},"items":["#);
            stream_while(head, objects.map(|object| object.map(|object| object.to_value())))
        }
        Form::Table(include) => table(kind, &meta, objects, include),
    }
}

/// All columns, wide ones with priority 1, and nothing shortened: the client decides what it shows.
fn table(kind: Kind, meta: &Value, objects: impl Objects, include: Include) -> Response {
    let now = jiff::Timestamp::now();
    let columns = columns(kind);
    let head = format!(
        r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{meta},"columnDefinitions":{columns},"rows":["#
    );
    stream_while(head, objects.filter_map(move |object| object.map(|object| row(&object, include, now)).transpose()))
}

/// The definitions of a kind's columns.
pub(crate) fn columns(kind: Kind) -> Value {
    Table::of(kind, [], true, jiff::Timestamp::UNIX_EPOCH).columns.iter().map(column).collect()
}

/// An object's row.
pub(crate) fn row(object: &Object, include: Include, now: jiff::Timestamp) -> Option<Value> {
    let row = Table::of(object.kind(), [object], true, now).rows.pop()?;
    Some(json!({"cells": row.cells, "object": include.of(object)}))
}

fn column(column: &Column) -> Value {
    let format = if column.name == "Name" { "name" } else { "" };
    json!({
        "name": column.name, "type": "string", "format": format, "description": "",
        "priority": i32::from(column.wide),
    })
}

/// Streams `head`, the items with commas between them, and the closing `]}`.
pub(crate) fn stream(head: String, items: impl Iterator<Item = Value> + Send + 'static) -> Response {
    stream_while(head, items.map(Ok))
}

/// The same for items that may be unavailable: then the response and its connection are cut off.
fn stream_while(head: String, items: impl Iterator<Item = Result<Value, NoState>> + Send + 'static) -> Response {
    let chunks = Chunks { pending: head.into_bytes(), items: Some(items), first: true };
    let body = Body::from_stream(futures_util::stream::iter(chunks));
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], body).into_response()
}

struct Chunks<I> {
    pending: Vec<u8>,
    /// Nothing once the end is written.
    items: Option<I>,
    first: bool,
}

impl<I: Iterator<Item = Result<Value, NoState>>> Iterator for Chunks<I> {
    type Item = Result<Bytes, NoState>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(items) = self.items.as_mut().filter(|_| self.pending.len() < CHUNK) {
            match items.next() {
                Some(Ok(item)) => {
                    let comma = if std::mem::take(&mut self.first) { "" } else { "," };
                    // Writing to memory does not fail.
                    let _ = write!(self.pending, "{comma}{item}");
                }
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    self.pending.extend_from_slice(b"]}");
                    self.items = None;
                }
            }
        }
        let chunk = std::mem::take(&mut self.pending);
        (!chunk.is_empty()).then(|| Ok(Bytes::from(chunk)))
    }
}

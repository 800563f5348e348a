//! Response bodies: single objects, lists, and Tables for clients that ask for them.
//!
//! Lists are streamed: an item is looked up and encoded when the connection has room for it, so a list of 100 000 objects
//! costs one page of them and one chunk, not a hundred megabytes per client. In protobuf a list begins with its length, so
//! its objects are encoded twice: once to be counted, on another thread, and once to be sent.
//!
//! The columns of Tables come from the printers that the command line uses too.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::form::{Form, Include, Media, MetaVersion, View};
use super::protobuf;
use super::status::Status;
use super::view::NoState;
use crate::objects::shown::is_shown_as_it_is;
use crate::objects::{Kind, Object};
use crate::printers::{Column, Table};

/// Encoded items are collected into chunks of at least this many bytes.
const CHUNK: usize = 64 << 10;

/// One object.
pub(crate) fn object(code: StatusCode, object: &Arc<Object>, form: Form) -> Response {
    if form == Form::default() && is_shown_as_it_is(object) {
        let mut body = Vec::new();
        // Writing to memory does not fail, and every object can be written.
        let _ = object.write_json(&mut body);
        return (code, [(header::CONTENT_TYPE, form.media.content_type())], body).into_response();
    }
    match (form.view, form.view.of(object)) {
        (View::Table(version, include), _) => {
            let revision = object.metadata().resource_version.clone().unwrap_or_default();
            let rows: Vec<Value> = row(object, include, version, jiff::Timestamp::now()).into_iter().collect();
            let table = json!({
                "kind": "Table", "apiVersion": version.api_version(), "metadata": {"resourceVersion": revision},
                "columnDefinitions": columns(object.kind()), "rows": rows,
            });
            value(code, &table, form.media)
        }
        (_, shown) => value(code, &shown.unwrap_or_default(), form.media),
    }
}

/// Any object, from its JSON.
pub(crate) fn value(code: StatusCode, value: &Value, media: Media) -> Response {
    let body = match media {
        Media::Json => value.to_string().into_bytes(),
        Media::Yaml => yaml(value),
        Media::Protobuf => protobuf::encode(value),
    };
    (code, [(header::CONTENT_TYPE, media.content_type())], body).into_response()
}

fn yaml(value: &Value) -> Vec<u8> {
    // Writing to memory does not fail, and every JSON value can be written.
    serde_saphyr::to_string(value).unwrap_or_default().into_bytes()
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
pub(crate) async fn list(kind: Kind, meta: &ListMeta, objects: impl Objects, form: Form) -> Result<Response, Status> {
    let meta = meta.to_value();
    let (name, version) = match form.view {
        View::Whole => (format!("{}List", kind.name()), kind.api_version()),
        View::Metadata(version) => ("PartialObjectMetadataList".to_owned(), version.api_version()),
        View::Table(version, _) => ("Table".to_owned(), version.api_version()),
    };
    if form.media == Media::Protobuf {
        return protobuf_list(kind, (&name, version), &meta, objects, form.view).await;
    }
    let now = jiff::Timestamp::now();
    let items = objects.filter_map(move |object| {
        let shown = |object: Arc<Object>| match form.view {
            View::Table(version, include) => row(&object, include, version, now),
            view => view.of(&object).map(|value| as_item(value, view)),
        };
        object.map(shown).transpose()
    });
    let fields = match form.view {
        View::Table(..) => vec![("columnDefinitions", columns(kind))],
        View::Whole | View::Metadata(_) => Vec::new(),
    };
    let list = if matches!(form.view, View::Table(..)) { "rows" } else { "items" };
    let head = [vec![("kind", json!(name)), ("apiVersion", json!(version)), ("metadata", meta)], fields].concat();
    Ok(stream_while(form.media, &head, list, items))
}

/// In a list of whole objects the list alone has a kind.
fn as_item(mut value: Value, view: View) -> Value {
    if let (View::Whole, Some(fields)) = (view, value.as_object_mut()) {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    value
}

async fn protobuf_list(
    kind: Kind,
    (name, version): (&str, &str),
    meta: &Value,
    objects: impl Objects,
    view: View,
) -> Result<Response, Status> {
    let message = if view == View::Whole { kind.name() } else { "PartialObjectMetadata" };
    let item = move |object: &Object| protobuf::list_item(message, &view.of(object).unwrap_or_default());
    let count = move || {
        let objects: Vec<Arc<Object>> = objects.collect::<Result<_, NoState>>()?;
        let length = objects.iter().map(|object| item(object).len()).sum::<usize>();
        Ok((objects, length))
    };
    let counted = tokio::task::spawn_blocking(count).await.map_err(|error| Status::internal(error.to_string()))?;
    let (objects, length) = counted.map_err(|error: NoState| Status::internal(error.to_string()))?;
    let first = protobuf::list_head(meta);
    let head = protobuf::head(version, name, first.len() + length);
    let items = objects.into_iter().map(move |object| Ok(item(&object)));
    let chunks = Chunks { pending: [head, first].concat(), items: Some(items), end: Vec::new() };
    Ok(chunked(Media::Protobuf, chunks))
}

/// The definitions of a kind's columns: all of them, wide ones with priority 1, and nothing shortened: the client decides what
/// it shows.
pub(crate) fn columns(kind: Kind) -> Value {
    Table::of(kind, [], true, jiff::Timestamp::UNIX_EPOCH).columns.iter().map(column).collect()
}

/// An object's row.
pub(crate) fn row(object: &Object, include: Include, version: MetaVersion, now: jiff::Timestamp) -> Option<Value> {
    let row = Table::of(object.kind(), [object], true, now).rows.pop()?;
    Some(json!({"cells": row.cells, "object": include.of(object, version)}))
}

fn column(column: &Column) -> Value {
    let format = if column.name == "Name" { "name" } else { "" };
    json!({
        "name": column.name, "type": "string", "format": format, "description": "",
        "priority": i32::from(column.wide),
    })
}

/// Streams an object of the fields `head` and of a list of `items`, in JSON.
pub(crate) fn stream(
    head: &[(&str, Value)],
    list: &str,
    items: impl Iterator<Item = Value> + Send + 'static,
) -> Response {
    stream_while(Media::Json, head, list, items.map(Ok))
}

/// The same for items that may be unavailable: then the response and its connection are cut off.
fn stream_while(
    media: Media,
    head: &[(&str, Value)],
    list: &str,
    mut items: impl Iterator<Item = Result<Value, NoState>> + Send + 'static,
) -> Response {
    let mut fields = String::new();
    if media == Media::Yaml {
        let fields: serde_json::Map<String, Value> =
            head.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let mut pending = yaml(&Value::Object(fields));
        let first = items.next();
        pending.extend(format!("{list}:{}\n", if first.is_none() { " []" } else { "" }).bytes());
        // A list of one item, for each of them.
        let items = first.into_iter().chain(items).map(|item| item.map(|item| yaml(&json!([item]))));
        return chunked(media, Chunks { pending, items: Some(items), end: Vec::new() });
    }
    for (name, value) in head {
        fields.push_str(&format!("{name:?}:{value},"));
    }
    let mut first = true;
    let items = items.map(move |item| {
        let comma = if std::mem::take(&mut first) { "" } else { "," };
        item.map(|item| format!("{comma}{item}").into_bytes())
    });
    let pending = format!("{{{fields}{list:?}:[").into_bytes();
    chunked(media, Chunks { pending, items: Some(items), end: b"]}".to_vec() })
}

fn chunked<I>(media: Media, chunks: Chunks<I>) -> Response
where
    I: Iterator<Item = Result<Vec<u8>, NoState>> + Send + 'static,
{
    let body = Body::from_stream(futures_util::stream::iter(chunks));
    ([(header::CONTENT_TYPE, media.content_type())], body).into_response()
}

struct Chunks<I> {
    pending: Vec<u8>,
    /// Nothing once the end is written.
    items: Option<I>,
    end: Vec<u8>,
}

impl<I: Iterator<Item = Result<Vec<u8>, NoState>>> Iterator for Chunks<I> {
    type Item = Result<Bytes, NoState>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(items) = self.items.as_mut().filter(|_| self.pending.len() < CHUNK) {
            match items.next() {
                Some(Ok(item)) => self.pending.extend(item),
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    self.pending.append(&mut self.end);
                    self.items = None;
                }
            }
        }
        let chunk = std::mem::take(&mut self.pending);
        (!chunk.is_empty()).then(|| Ok(Bytes::from(chunk)))
    }
}

//! Request bodies: bounded in size, in time, and in the memory of all together.
//!
//! Every write holds a [`Claim`] on one budget, from before its first byte is read until the response. So neither many
//! small writes nor a few large ones can take more memory than the budget allows; a write that does not fit gets 429. A
//! body that is too long, too slow or incomplete ends with a `Status` and a closed connection.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::decode::{self, Sent};
use super::protobuf::{self, PROTOBUF};
use super::status::Status;
use crate::objects::manifest;

/// Longest body of one object, bytes: the API server's own limit.
pub(crate) const OBJECT_LIMIT: usize = 3 << 20;
/// Longest body of `apply`, bytes: a dump of some 100 000 Pods.
pub(crate) const APPLY_LIMIT: usize = 64 << 20;
/// All bodies in progress together, bytes.
const BUDGET: usize = 96 << 20;
/// Unit of the budget, bytes. A write without a body costs one unit.
const UNIT: usize = 64 << 10;
/// A whole body must arrive within this.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Bodies of this size or more are decoded on another thread, so that the API's thread can serve other clients.
const LARGE: usize = 256 << 10;
/// If a client sends too much, this many more bytes are read, so that it reads the response instead of finding the
/// connection closed while it sends.
const PATIENCE: usize = 16 << 20;

/// A share of the budget; returned when dropped.
#[derive(Debug)]
pub(crate) struct Claim(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// The budget of all bodies.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET / UNIT)))
    }

    pub(crate) fn claim(&self, bytes: usize) -> Result<Claim, Status> {
        let units = u32::try_from(bytes.div_ceil(UNIT).max(1)).map_err(|_| Status::too_many_requests())?;
        Arc::clone(&self.0).try_acquire_many_owned(units).map(Claim).map_err(|_| Status::too_many_requests())
    }
}

/// The media types of whole objects.
pub(crate) const OBJECT_TYPES: &[&str] = &["application/json", "application/yaml", PROTOBUF];

/// Reads a body of one of the media types `known`; without a `Content-Type` it is read as the first of them.
pub(crate) async fn read(
    budget: &Budget,
    headers: &HeaderMap,
    body: Body,
    known: &'static [&'static str],
    limit: usize,
) -> Result<(Claim, Vec<u8>, &'static str), Status> {
    let media = media_type(headers, known)?;
    let length = content_length(headers);
    if length.is_some_and(|length| length > limit) {
        discard(body, length).await;
        return Err(Status::too_large(limit));
    }
    // A chunked body counts with its longest allowed length.
    let claim = budget.claim(length.unwrap_or(limit))?;
    let bytes = collect(body, limit, length.unwrap_or(0)).await?;
    Ok((claim, bytes, media))
}

/// Decodes JSON, protobuf, or YAML of one or more documents; a `List` in YAML gives its items.
pub(crate) async fn decode(bytes: Vec<u8>, media: &'static str) -> Result<Vec<Value>, Status> {
    if bytes.len() < LARGE {
        return decode_now(&bytes, media);
    }
    let decoded = tokio::task::spawn_blocking(move || decode_now(&bytes, media)).await;
    decoded.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
}

/// Decodes one object, and notes fields that its JSON contains twice. YAML with such fields is refused.
pub(crate) async fn decode_one(bytes: Vec<u8>, media: &'static str) -> Result<Sent, Status> {
    let few = bytes.len() < LARGE;
    let decode = move || match media.ends_with("json") {
        true => decode::json(&bytes).map_err(|error| not_json(&error)),
        false => single(decode_now(&bytes, media)?).map(Sent::from),
    };
    if few {
        return decode();
    }
    let decoded = tokio::task::spawn_blocking(decode).await;
    decoded.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
}

/// The one object of a body.
pub(crate) fn single(mut values: Vec<Value>) -> Result<Value, Status> {
    match values.len() {
        1 => Ok(values.remove(0)),
        found => Err(Status::bad_request(format!("expected one object in the body, found {found}"))),
    }
}

fn not_json(error: &serde_json::Error) -> Status {
    Status::bad_request(format!("the body is not valid JSON: {error}"))
}

fn decode_now(bytes: &[u8], media: &str) -> Result<Vec<Value>, Status> {
    if media.ends_with("json") {
        let value = serde_json::from_slice(bytes).map_err(|error| not_json(&error))?;
        return Ok(vec![value]);
    }
    if media == PROTOBUF {
        let value = protobuf::decode(bytes);
        let told = |reason| Status::bad_request(format!("the body is not valid protobuf: {reason}"));
        return value.map(|value| vec![value]).map_err(told);
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| Status::bad_request(format!("the body is not UTF-8: {error}")))?;
    let documents = manifest::parse("body", text).map_err(|error| Status::bad_request(error.to_string()))?;
    Ok(documents.into_iter().map(|document| document.value).collect())
}

fn media_type(headers: &HeaderMap, known: &'static [&'static str]) -> Result<&'static str, Status> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(known[0]);
    };
    let found = value.to_str().unwrap_or_default();
    let essence = found.split(';').next().unwrap_or_default().trim();
    known
        .iter()
        .find(|known| known.eq_ignore_ascii_case(essence))
        .copied()
        .ok_or_else(|| Status::unsupported_media(found, known))
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(body: Body, limit: usize, expected: usize) -> Result<Vec<u8>, Status> {
    let deadline = Instant::now() + BODY_TIME;
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::with_capacity(expected);
    loop {
        let chunk = timeout_at(deadline, chunks.next())
            .await
            .map_err(|_| Status::body_failed(format!("the body did not arrive within {} s", BODY_TIME.as_secs())))?;
        let Some(chunk) = chunk else { return Ok(bytes) };
        let chunk = chunk.map_err(|error| Status::body_failed(format!("the body ended early: {error}")))?;
        if bytes.len() + chunk.len() > limit {
            return Err(Status::too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
}

async fn discard(body: Body, length: Option<usize>) {
    if length.is_some_and(|length| length > APPLY_LIMIT + PATIENCE) {
        return;
    }
    let deadline = Instant::now() + BODY_TIME;
    let mut chunks = body.into_data_stream();
    while let Ok(Some(Ok(_))) = timeout_at(deadline, chunks.next()).await {}
}

//! Request bodies: bounded in size, in time, and in the memory of all together.
//!
//! Every write holds a [`Claim`] on one budget, from before its first byte is read until the response. So neither many
//! small writes nor a few large ones can take more memory than the budget allows; a write that does not fit gets 429. A
//! body that is too long, too slow or incomplete ends with a `Status` and a closed connection. What is not needed of a body is read
//! and thrown away: see [`Patient`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, Request, header};
use futures_util::StreamExt;
use hyper::body::{Frame, Incoming, SizeHint};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::decode::{Decoded, Expected, Sent};
use super::protobuf::{self, PROTOBUF, Unreadable};
use super::status::Status;
use crate::objects::allowance::Allowance;
use crate::objects::decode::{self, Source};
use crate::yaml;

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
const LARGE: usize = 16 << 10;
/// Memory that one byte of the budget stands for: what is made of a body is bounded by it too.
const PER_BYTE: usize = crate::objects::allowance::PER_BYTE;
/// Longest pause in a body which is not needed.
const PAUSE: Duration = Duration::from_millis(500);
/// Most bytes that are read of a body which is not needed.
const PATIENCE: usize = APPLY_LIMIT + (16 << 20);

/// The body of a request. If it is dropped before it was read, the rest is read, within bounds, and thrown away: a client that
/// still sends would otherwise find its connection reset, and never see the response that says why.
pub(crate) struct Patient {
    /// Nothing once it has been read, or failed.
    body: Option<Incoming>,
    /// Whether the client waits for a word before it sends the body. Without one it does not send it.
    held_back: bool,
}

impl Patient {
    pub(crate) fn wrap(request: Request<Incoming>) -> Request<Self> {
        let held_back = request.headers().contains_key(header::EXPECT);
        request.map(|body| Self { body: Some(body), held_back })
    }
}

impl HttpBody for Patient {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.held_back = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        let body = self.body.take().filter(|body| !body.is_end_stream() && !self.held_back);
        if let (Some(body), Ok(runtime)) = (body, Handle::try_current()) {
            runtime.spawn(discard(Body::new(body)));
        }
    }
}

async fn discard(body: Body) {
    let deadline = Instant::now() + BODY_TIME;
    let (mut chunks, mut left) = (body.into_data_stream(), PATIENCE);
    // A client that has stopped sending is reading, or gone.
    let soon = || deadline.min(Instant::now() + PAUSE);
    while let Ok(Some(Ok(chunk))) = timeout_at(soon(), chunks.next()).await {
        match left.checked_sub(chunk.len()) {
            Some(less) => left = less,
            None => return,
        }
    }
}

/// A share of the budget; returned when dropped.
#[derive(Debug)]
pub(crate) struct Claim(OwnedSemaphorePermit);

impl Claim {
    /// Claims more, if the objects of the request take more memory than the budget has for its body.
    pub(crate) fn cover(&mut self, budget: &Budget, memory: usize) -> Result<(), Status> {
        let needed = (memory / PER_BYTE).div_ceil(UNIT);
        if needed > BUDGET / UNIT {
            return Err(Status::too_much(format!(
                "its objects take {memory} bytes of memory; the limit is {}",
                BUDGET * PER_BYTE
            )));
        }
        let more = needed.saturating_sub(self.0.num_permits());
        if more > 0 {
            self.0.merge(budget.claim(more * UNIT)?.0);
        }
        Ok(())
    }
}

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
        return Err(Status::too_large(limit));
    }
    // A chunked body counts with its longest allowed length.
    let claim = budget.claim(length.unwrap_or(limit))?;
    let bytes = collect(body, limit, length.unwrap_or(0)).await?;
    Ok((claim, bytes, media))
}

/// Runs what reads a body of this size: a large one on another thread.
pub(crate) async fn aside<T: Send + 'static>(
    size: usize,
    read: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    if size < LARGE {
        return read();
    }
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(error) => match error.try_into_panic() {
            // The request ends by it, as if it had been read here.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Status::internal(error.to_string())),
        },
    }
}

/// Decodes the one object of a body, of a kind that is not stored: options, or a review.
pub(crate) async fn decode(bytes: Vec<u8>, media: &'static str) -> Result<Value, Status> {
    aside(bytes.len(), move || {
        let allowance = Allowance::of_text(bytes.len());
        match Format::of(media) {
            Format::Json => json(&bytes, &allowance).map(|sent| sent.value),
            Format::Yaml => {
                let mut values = documents(&bytes, &allowance)?;
                match values.len() {
                    1 => Ok(values.remove(0)),
                    found => Err(Status::bad_request(format!("expected one object in the body, found {found}"))),
                }
            }
            Format::Protobuf => protobuf(&bytes, &allowance),
        }
    })
    .await
}

/// Decodes a patch, or an object of which a part is used, as a value, and notes fields that its JSON contains twice. YAML with such fields is refused.
pub(crate) async fn decode_one(bytes: Vec<u8>, media: &'static str) -> Result<Sent, Status> {
    aside(bytes.len(), move || {
        let allowance = Allowance::of_patch(bytes.len());
        match Format::of(media) {
            Format::Json => json(&bytes, &allowance),
            Format::Yaml => first_document(&bytes, &allowance).map(Sent::from),
            Format::Protobuf => protobuf(&bytes, &allowance).map(Sent::from),
        }
    })
    .await
}

/// Decodes the object that is expected, and returns it with the memory it takes.
pub(crate) async fn object(
    expected: Expected,
    bytes: Vec<u8>,
    media: &'static str,
) -> Result<(Decoded, usize), Status> {
    aside(bytes.len(), move || {
        let allowance = Allowance::of_text(bytes.len());
        let from_value = |value: Result<Value, Status>| {
            let value = value.map_err(|status| status.unrecognized(expected.kind, "", &bytes))?;
            expected.decode(Source::Value(&value), &[], &allowance)
        };
        let decoded = match Format::of(media) {
            Format::Json => expected.decode(Source::Text(&bytes), &[], &allowance),
            Format::Yaml => from_value(first_document(&bytes, &allowance)),
            Format::Protobuf => from_value(protobuf(&bytes, &allowance)),
        };
        let decoded = decoded.map_err(|unfit| unfit.of_body(expected.kind))?;
        Ok((decoded, allowance.taken()))
    })
    .await
}

/// The encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    pub(crate) fn of(media: &str) -> Self {
        match media {
            PROTOBUF => Self::Protobuf,
            media if media.ends_with("json") => Self::Json,
            _ => Self::Yaml,
        }
    }
}

pub(crate) fn json(bytes: &[u8], allowance: &Allowance) -> Result<Sent, Status> {
    let read = decode::value(bytes, allowance);
    read.map(|(value, repeated)| Sent { value, repeated }).map_err(|unread| Status::unread(&unread))
}

/// Of several documents the API server reads the first.
fn first_document(bytes: &[u8], allowance: &Allowance) -> Result<Value, Status> {
    let mut first = None;
    let read = each_document(bytes, allowance, &mut |value| first = first.take().or(Some(value)));
    match (first, read) {
        (Some(first), _) => Ok(first),
        (None, Err(status)) => Err(status),
        (None, Ok(())) => Err(Status::bad_request("expected one object in the body, found 0")),
    }
}

fn documents(bytes: &[u8], allowance: &Allowance) -> Result<Vec<Value>, Status> {
    let mut values = Vec::new();
    each_document(bytes, allowance, &mut |value| values.push(value)).map(|()| values)
}

/// Hands over the documents of a YAML text that are not empty.
pub(crate) fn each_document(bytes: &[u8], allowance: &Allowance, each: &mut dyn FnMut(Value)) -> Result<(), Status> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| Status::bad_request(format!("the body is not UTF-8: {error}")))?;
    let mut filled = |value: Value| {
        if !value.is_null() {
            each(value);
        }
    };
    yaml::documents(text, allowance, &mut filled).map_err(|error| {
        let told = format!("yaml: line {}: {}", error.line, error.message);
        if error.too_much.is_some() { Status::too_much(told) } else { Status::bad_request(told) }
    })
}

/// The object of a body in protobuf.
pub(crate) fn protobuf(bytes: &[u8], allowance: &Allowance) -> Result<Value, Status> {
    protobuf::decode(bytes, allowance).map_err(|unreadable| match unreadable {
        Unreadable::Bad(reason) => Status::bad_request(format!("the body is not valid protobuf: {reason}")),
        Unreadable::TooMuch(too_much) => Status::too_much(too_much.to_string()),
    })
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
        .ok_or_else(|| Status::unsupported_media(known))
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

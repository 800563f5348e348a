//! Errors as Kubernetes' `Status` objects.
//!
//! Client libraries decide by `code` and `reason`, `kubectl` prints `message`, and editors jump to `details.causes`: all
//! follow apimachinery `pkg/api/errors/errors.go`, word for word where a text is fixed there.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::cluster::{Refusal, RefusalReason};
use crate::objects::fault::{Fault, FaultReason, Faults, MAX_FAULTS};
use crate::objects::{Key, Kind, Object, Unread};
use crate::runtime::WriteError;

/// A failure on its way to the client.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Box<Details>,
    /// Seconds after which the client should try again.
    retry_after: Option<u32>,
    /// The rest of the request was not read, so the connection cannot be used again.
    close: bool,
    /// Where to continue a list that cannot be finished at its revision; otherwise empty.
    resume: String,
}

/// What the failure is about.
#[derive(Debug, Clone, Default)]
struct Details {
    kind: String,
    group: String,
    name: String,
    causes: Vec<Value>,
}

impl Status {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        let (message, details) = (message.into(), Box::default());
        Self { code, reason, message, details, retry_after: None, close: false, resume: String::new() }
    }

    /// The request is malformed.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// No such path.
    pub(crate) fn no_resource() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    /// No such part of an object.
    pub(crate) fn no_subresource(name: &str) -> Self {
        let message = format!("the server could not find the requested resource: {name} is not served here");
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// The request has no valid token for the HTTPS listener. The text is the API server's.
    pub(crate) fn unauthorized() -> Self {
        let mut status = Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
        status.close = true;
        status
    }

    /// The request is from a web page of another host.
    pub(crate) fn other_origin() -> Self {
        let message = "the request is for another host (Host), or from a web page of another one (Origin): use the gateway's address or localhost";
        let mut status = Self::new(StatusCode::FORBIDDEN, "Forbidden", message);
        status.close = true;
        status
    }

    /// As many pages are open as may be.
    pub(crate) fn too_many_viewers(limit: usize) -> Self {
        let message = format!("{limit} pages are open, which is the limit; close one, or try again later");
        let mut status = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        status.retry_after = Some(5);
        status
    }

    /// There is no HTTPS listener.
    pub(crate) fn no_listener() -> Self {
        let message = "api.listen is off: set it to a loopback address and port such as 127.0.0.1:6443 in gateway.yaml and restart the gateway";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// No such object.
    pub(crate) fn not_found(key: &Key) -> Self {
        let message = format!("{} {:?} not found", qualified_plural(key.kind), key.name);
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(key.kind.plural(), key.kind.group(), &key.name)
    }

    /// The precondition or version that came with the request is not that of the object.
    pub(crate) fn conflict(key: &Key, detail: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {:?}: {detail}", qualified_plural(key.kind), key.name);
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(key.kind.plural(), key.kind.group(), &key.name)
    }

    /// The path exists, but not for this method.
    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// No format that the client accepts is among those that are `served`.
    pub(crate) fn not_acceptable(served: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", served.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// The body's media type is not supported.
    pub(crate) fn unsupported_media(known: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            known.join(", ")
        );
        let mut status = Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message);
        status.close = true;
        status
    }

    /// The body is longer than `limit` bytes.
    pub(crate) fn too_large(limit: usize) -> Self {
        let mut status = Self::too_much(format!("limit is {limit}"));
        status.close = true;
        status
    }

    /// What the body says is more than one request may say, or takes too much memory.
    pub(crate) fn too_much(message: impl Into<String>) -> Self {
        let message = format!("Request entity too large: {}", message.into());
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// The same, of a part of the request.
    pub(crate) fn within(mut self, part: &str) -> Self {
        self.message = format!("{part}: {}", self.message);
        self
    }

    /// The body cannot be read.
    pub(crate) fn unread(unread: &Unread) -> Self {
        match unread {
            Unread::NotJson(error) if error.is_eof() => Self::bad_request("unexpected end of JSON input"),
            Unread::NotJson(error) => Self::bad_request(error.to_string()),
            Unread::TooMuch(too_much) => Self::too_much(too_much.to_string()),
        }
    }

    /// The same, with what was being done before it.
    pub(crate) fn after(mut self, stage: &str) -> Self {
        self.message.insert_str(0, stage);
        self
    }

    /// The same of a body that was to be an object of `kind`: which one, what came before the fault, and how the body begins.
    pub(crate) fn unrecognized(mut self, kind: Kind, stage: &str, body: &[u8]) -> Self {
        if self.code == StatusCode::BAD_REQUEST {
            let (kind, message, body) = (kind.name(), &self.message, summary(body));
            self.message =
                format!("the object provided is unrecognized (must be of type {kind}): {stage}{message} ({body})");
        }
        self
    }

    /// The body names another kind or version than the path.
    pub(crate) fn other_kind(kind: &str, version: &str, expected: Kind, why: &str) -> Self {
        let version = version.rsplit('/').next().unwrap_or_default();
        Self::bad_request(format!("{kind} in version {version:?} cannot be handled as a {}: {why}", expected.name()))
    }

    /// The body did not arrive in time or is incomplete.
    pub(crate) fn body_failed(message: impl Into<String>) -> Self {
        let mut status = Self::bad_request(message);
        status.close = true;
        status
    }

    /// Too many writes are in progress.
    pub(crate) fn too_many_requests() -> Self {
        let message = "too many writes are in progress, please try again later";
        let mut status = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        status.retry_after = Some(1);
        status.close = true;
        status
    }

    /// The maximum number of watches is open.
    pub(crate) fn too_many_watches(limit: u32) -> Self {
        let message = format!("{limit} watches are open, which is the limit; please try again later");
        let mut status = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        status.retry_after = Some(10);
        status
    }

    /// Options of the request, such as `ListOptions`, are invalid or contradict each other.
    pub(crate) fn invalid_options(kind: &str, faults: &Faults) -> Self {
        Self::invalid(&format!("{kind}.meta.k8s.io"), "", faults).about(kind, "meta.k8s.io", "")
    }

    fn invalid(what: &str, name: &str, faults: &Faults) -> Self {
        let message = format!("{what} {name:?} is invalid: {faults}");
        let mut status = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        status.details.causes = faults.iter().map(|fault| cause("", fault)).collect();
        status
    }

    /// The result of a patch is no object of the kind. Kubernetes names neither kind nor object.
    pub(crate) fn unfit_patch(shown: &str, why: &str) -> Self {
        Self::invalid("", "", &Fault::invalid("patch", shown, why).into())
    }

    /// The requested revision is forgotten.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The state of a list's first page is forgotten; `token` gives the rest in its current state.
    pub(crate) fn list_expired(token: String) -> Self {
        let mut status = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter, or use the continue token in this response to retrieve the remainder of \
             the results. Continuing with the provided token results in an inconsistent list - objects that were \
             created, modified, or deleted between the time the first chunk was returned and now may show up in the \
             list.",
        );
        status.resume = token;
        status
    }

    /// The requested revision does not exist yet.
    pub(crate) fn future_revision(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut status = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        status.details.causes.push(cause);
        status.retry_after = Some(1);
        status
    }

    /// The maximum number of clients is connected.
    pub(crate) fn too_many_connections() -> Self {
        let mut status = Self::too_many_requests();
        status.message = "too many clients are connected, please try again later".to_owned();
        status
    }

    /// The write was passed on and no result came in time: it may still be done.
    pub(crate) fn timed_out(seconds: u64) -> Self {
        let message = format!("no response from the state file within {seconds} s; the write may still be done");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    /// The control thread has stopped or is stopping.
    pub(crate) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the gateway is stopping")
    }

    /// The server failed; the request is not at fault.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let cause = message.into();
        let message = format!("Internal error occurred: {cause}");
        let mut status = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message);
        status.details.causes.push(json!({"message": cause}));
        status
    }

    /// The body is not an object of its kind. `value` is the body, for its kind and name.
    pub(crate) fn from_faults(value: &Value, faults: &Faults) -> Self {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        let known = Kind::from_name(kind);
        if is_of_types(faults) {
            let version = text("/apiVersion").rsplit('/').next().unwrap_or_default();
            let what = match kind {
                "" => "the object provided is unrecognized".to_owned(),
                kind => format!("{kind} in version {version:?} cannot be handled as a {kind}"),
            };
            return Self::bad_request(format!("{what}: {faults}"));
        }
        let qualified = known.map_or_else(|| kind.to_owned(), qualified_kind);
        Self::invalid(&qualified, name, faults).about(kind, known.map_or("", Kind::group), name)
    }

    /// The object has unknown or duplicate fields, and the client asked for strict validation.
    pub(crate) fn strict_decoding(kind: Kind, texts: &[String]) -> Self {
        Self::other_kind(kind.name(), kind.api_version(), kind, &strict(texts))
    }

    /// The patch cannot be applied to the object. The cause says why, which Kubernetes keeps to itself.
    pub(crate) fn bad_patch(path: &str, reason: &str) -> Self {
        let message = "the server rejected our request due to an error in our request";
        let mut status = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        status.details.causes = vec![json!({"reason": "UnexpectedServerResponse", "message": reason, "field": path})];
        status
    }

    /// A review of access must name one thing.
    pub(crate) fn incomplete_access_review() -> Self {
        let fault = Fault::invalid(
            "spec.resourceAttributes",
            &[][..],
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
        Self::invalid("SelfSubjectAccessReview.authorization.k8s.io", "", &fault.into()).about(
            "SelfSubjectAccessReview",
            "authorization.k8s.io",
            "",
        )
    }

    /// Fields of an applied object belong to other managers and have another value: manager and path of each.
    pub(crate) fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let message = match conflicts {
            [(manager, path)] => format!("Apply failed with 1 conflict: conflict with {manager}: {path}"),
            _ => format!("Apply failed with {} conflicts: {}", conflicts.len(), conflicts_by_manager(conflicts)),
        };
        let mut status = Self::new(StatusCode::CONFLICT, "Conflict", message);
        let cause = |(manager, path): &(String, String)| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": path});
        status.details.causes = conflicts.iter().map(cause).collect();
        status
    }

    /// Several objects of one request, each with its faults: causes name the object as `items[i]`.
    pub(crate) fn from_item_faults(items: &ItemFaults) -> Self {
        let causes = items
            .kept
            .iter()
            .flat_map(|(index, faults)| faults.iter().map(move |fault| cause(&format!("items[{index}]"), fault)));
        let texts = items.kept.iter().map(|(index, faults)| format!("items[{index}]: {faults}"));
        let mut status = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", listed(texts, items.more));
        status.details.causes = causes.take(MAX_FAULTS).collect();
        status
    }

    /// The one object of a request was refused.
    pub(crate) fn from_refusals(key: &Key, refusals: &[Refusal]) -> Self {
        let Some(first) = refusals.first() else {
            return Self::internal("refused without a reason");
        };
        let mut status = Self::new(code_of(first), first.reason.as_str(), first.message.clone());
        status.details.causes =
            refusals.iter().flat_map(|refusal| &refusal.faults).map(|fault| cause("", fault)).collect();
        let by_kind = matches!(first.reason, RefusalReason::Invalid | RefusalReason::PreconditionFailed);
        let kind = if by_kind { key.kind.name() } else { key.kind.plural() };
        status.about(kind, key.kind.group(), &key.name)
    }

    /// Objects of a list were refused: causes name them as `items[i]`.
    ///
    /// A refusal without faults of fields (such as a conflict) is a cause for the item as a whole.
    pub(crate) fn from_item_refusals(refusals: &[Refusal]) -> Self {
        let Some(first) = refusals.first() else {
            return Self::internal("refused without a reason");
        };
        let texts = refusals.iter().map(|refusal| format!("items[{}]: {}", refusal.index, refusal.message));
        let mut status = Self::new(code_of(first), first.reason.as_str(), listed(texts, 0));
        status.details.causes = refusals.iter().flat_map(item_causes).take(MAX_FAULTS).collect();
        status
    }

    /// A write of the object `key` failed.
    pub(crate) fn from_write_error(key: &Key, error: &WriteError) -> Self {
        match error {
            WriteError::Refused(refusals) => Self::from_refusals(key, refusals),
            WriteError::Store(reason) => Self::internal(reason),
        }
    }

    fn about(mut self, kind: &str, group: &str, name: &str) -> Self {
        self.details.kind = kind.to_owned();
        self.details.group = group.to_owned();
        self.details.name = name.to_owned();
        self
    }

    /// The `Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut details = serde_json::Map::new();
        for (key, text) in [("name", &self.details.name), ("group", &self.details.group), ("kind", &self.details.kind)]
        {
            if !text.is_empty() {
                details.insert(key.to_owned(), json!(text));
            }
        }
        if !self.details.causes.is_empty() {
            details.insert("causes".to_owned(), json!(self.details.causes));
        }
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".to_owned(), json!(seconds));
        }
        let metadata = match self.resume.as_str() {
            "" => json!({}),
            token => json!({"continue": token}),
        };
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": details, "code": self.code.as_u16(),
        })
    }
}

impl IntoResponse for Status {
    fn into_response(self) -> Response {
        let mut response = (self.code, Json(self.to_value())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == StatusCode::UNAUTHORIZED {
            // RFC 9110 requires the supported types.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The `Status` of a completed deletion.
pub(crate) fn deleted(object: &Object) -> Value {
    let kind = object.kind();
    let mut details = json!({"name": object.name(), "kind": kind.plural(), "uid": object.metadata().uid});
    if !kind.group().is_empty() {
        details["group"] = json!(kind.group());
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Whether they are about the shape of an object, not its values.
pub(crate) fn is_of_types(faults: &Faults) -> bool {
    faults.iter().all(|fault| matches!(fault.reason, FaultReason::TypeInvalid | FaultReason::UnknownField))
}

/// Unknown and repeated fields, as strict decoding reports them.
pub(crate) fn strict(texts: &[String]) -> String {
    format!("strict decoding error: {}", texts.join(", "))
}

/// How a body begins: as text if it looks like JSON, else in hexadecimal digits.
fn summary(body: &[u8]) -> String {
    const MOST: usize = 30;
    let begin = &body[..body.len().min(MOST)];
    let text = match body.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(begin).into_owned(),
        Some(_) => begin.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if body.len() > MOST { text + " ..." } else { text }
}

fn conflicts_by_manager(conflicts: &[(String, String)]) -> String {
    let mut managers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (manager, path) in conflicts {
        managers.entry(manager).or_default().push(format!("- {path}"));
    }
    let texts = managers.iter().map(|(manager, paths)| format!("conflicts with {manager}:\n{}", paths.join("\n")));
    texts.collect::<Vec<_>>().join("\n")
}

fn cause(prefix: &str, fault: &Fault) -> Value {
    let dot = if prefix.is_empty() || fault.field.is_empty() { "" } else { "." };
    json!({"reason": fault.reason.as_str(), "message": fault.message, "field": format!("{prefix}{dot}{}", fault.field)})
}

fn item_causes(refusal: &Refusal) -> Vec<Value> {
    let item = format!("items[{}]", refusal.index);
    if refusal.faults.is_empty() {
        return vec![json!({"reason": refusal.reason.as_str(), "message": refusal.message, "field": item})];
    }
    refusal.faults.iter().map(|fault| cause(&item, fault)).collect()
}

/// Faults by the item they are in: the first ones, and how many items there are besides.
#[derive(Debug, Default)]
pub(crate) struct ItemFaults {
    kept: Vec<(usize, Faults)>,
    faults: usize,
    more: usize,
}

impl ItemFaults {
    pub(crate) fn push(&mut self, index: usize, faults: Faults) {
        if self.faults >= MAX_FAULTS {
            self.more += 1;
            return;
        }
        self.faults += faults.len();
        self.kept.push((index, faults));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

/// Most bytes of a message.
const LONGEST_MESSAGE: usize = 256 << 10;

/// The texts that have room in a message, and how many there are besides.
fn listed(texts: impl Iterator<Item = String>, more: usize) -> String {
    let (mut list, mut left_out) = (String::new(), more);
    for text in texts {
        if list.len() + text.len() > LONGEST_MESSAGE {
            left_out += 1;
            continue;
        }
        let separator = if list.is_empty() { "" } else { "; " };
        list += separator;
        list += &text;
    }
    match left_out {
        0 => list,
        more => format!("{list}; and {more} more items"),
    }
}

fn code_of(refusal: &Refusal) -> StatusCode {
    StatusCode::from_u16(refusal.reason.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// `services`, `endpointslices.discovery.k8s.io`.
fn qualified_plural(kind: Kind) -> String {
    with_group(kind.plural(), kind)
}

/// `Service`, `EndpointSlice.discovery.k8s.io`.
fn qualified_kind(kind: Kind) -> String {
    with_group(kind.name(), kind)
}

fn with_group(name: &str, kind: Kind) -> String {
    match kind.group() {
        "" => name.to_owned(),
        group => format!("{name}.{group}"),
    }
}

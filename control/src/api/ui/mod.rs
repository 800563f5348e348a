//! `GET /ui`: the files of the live page, which are part of the binary.
//!
//! ```text
//!  index.html ─ style.css, icon.svg
//!      └ app.js ─ services.js (lanes.js), ask.js, drops.js, events.js, workers.js, guide.js    a view each
//!               └ state.js     what is known ─ stream.js   the stream of `live`, and requests
//!               └ dom.js, format.js
//! ```
//!
//! No framework and no build step: what is here is what the browser gets. The page asks no other host for anything, and its policy
//! (CSP) forbids it to. It shows names that others choose (of Services, Pods, labels), and makes text of them, never HTML.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::shared::Api;

/// The page.
pub const UI_PATH: &str = "/ui";

/// What browsers let the page do: only what is its own.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! files {
    ($($name:literal $media:ident,)*) => {
        /// Path, media type and content of each file.
        const FILES: &[(&str, &str, &str)] = &[
            (UI_PATH, HTML, include_str!("page/index.html")),
            $((concat!("/ui/", $name), $media, include_str!(concat!("page/", $name))),)*
        ];
    };
}

files! {
    "app.js" SCRIPT,
    "dom.js" SCRIPT,
    "format.js" SCRIPT,
    "state.js" SCRIPT,
    "stream.js" SCRIPT,
    "services.js" SCRIPT,
    "lanes.js" SCRIPT,
    "drops.js" SCRIPT,
    "ask.js" SCRIPT,
    "events.js" SCRIPT,
    "workers.js" SCRIPT,
    "guide.js" SCRIPT,
    "style.css" STYLE,
    "icon.svg" IMAGE,
}

/// Headers of every file.
const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // Another version of the gateway has other files.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

pub(crate) fn router() -> Router<Api> {
    FILES.iter().fold(Router::new(), |router, (path, media, content)| {
        router.route(path, get(async move || file(media, content)))
    })
}

fn file(media: &'static str, content: &'static str) -> Response {
    let mut response = ([(header::CONTENT_TYPE, media)], content).into_response();
    response.headers_mut().extend(HEADERS);
    response
}

/// Whether a request is for one of the files.
pub(super) fn is_file(request: &Request) -> bool {
    let path = request.uri().path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let is_known = FILES.iter().any(|(known, ..)| *known == path);
    is_known && [Method::GET, Method::HEAD].contains(request.method())
}

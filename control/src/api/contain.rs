//! A panic in a request ends that request.
//!
//! A bug that one request meets must not end the process that carries everybody's packets. So what serves a connection is marked
//! while it runs, and a panic in a handler becomes a response with 500. Panics elsewhere on the API's thread, such as in what keeps
//! the replica up to date, are not contained: what is served after them could be wrong.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::status::Status;

/// The threads that decode bodies. A panic there ends the request that waits for it.
pub(super) const DECODERS: &str = "api-decode";

thread_local! {
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Whether a panic in this thread, at this moment, ends a request or a connection and nothing else.
pub fn panic_is_contained() -> bool {
    SERVES.get() || thread::current().name() == Some(DECODERS)
}

/// Requests that have ended by a panic.
pub fn panicked_requests() -> u64 {
    PANICS.load(Relaxed)
}

/// Marks the thread while it serves a connection.
pub(super) async fn serving<F: Future>(connection: F) -> F::Output {
    let mut connection = pin!(connection);
    poll_fn(move |context| {
        let _mark = Mark::set();
        connection.as_mut().poll(context)
    })
    .await
}

/// The response of a handler, or 500 if it panics.
pub(super) async fn answer(handler: impl Future<Output = Result<Response, Infallible>>) -> Response {
    match AssertUnwindSafe(handler).catch_unwind().await {
        Ok(Ok(answer)) => answer,
        Ok(Err(never)) => match never {},
        Err(_) => {
            PANICS.fetch_add(1, Relaxed);
            // Where and why is in the report of the panic itself.
            tracing::error!(
                "a request panicked; it got 500, and nothing else is affected. This is a bug: please report it"
            );
            Status::internal("the request met a bug of the gateway, whose log says where").into_response()
        }
    }
}

/// The mark; gone with it, also when the connection panics.
struct Mark(bool);

impl Mark {
    fn set() -> Self {
        Self(SERVES.replace(true))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        SERVES.set(self.0);
    }
}

//! HTTP connections of strangers: few at a time, short, and without bodies.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How long a request head may take, and a connection be idle.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a connection may last.
const LIFETIME: Duration = Duration::from_secs(60);
/// Longest request head, bytes; the least that hyper takes.
const HEAD_SIZE: usize = 8 << 10;

/// The connections of a thread, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Connections {
    most: usize,
    open: Mutex<VecDeque<AbortHandle>>,
}

impl Connections {
    /// At most so many at a time.
    pub(crate) fn new(most: usize) -> Connections {
        Connections { most, open: Mutex::default() }
    }

    /// Serves a connection on the runtime of the caller. If there are as many as may be, the oldest makes room. `respond` must not
    /// block.
    pub(crate) fn admit(
        &self,
        stream: TcpStream,
        respond: impl Fn(&Request<Incoming>) -> Response<Body> + Send + 'static,
    ) {
        let connection = tokio::spawn(serve(stream, respond)).abort_handle();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.most {
            open.retain(|other| !other.is_finished());
        }
        if open.len() >= self.most
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(connection);
    }
}

async fn serve(stream: TcpStream, respond: impl Fn(&Request<Incoming>) -> Response<Body>) {
    let respond = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_SIZE).title_case_headers(true);
    // Whatever ends it, the client sees its connection closed.
    drop(timeout(LIFETIME, builder.serve_connection(TokioIo::new(stream), respond)).await);
}

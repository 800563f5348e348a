//! The listener and its thread.
//!
//! ```text
//!  /metrics                    the page, in the format that `Accept` prefers
//!  /healthz /livez /readyz     as the API's, without reasons
//!  /health  /ready             the names of CoreDNS for /livez and /readyz
//! ```
//!
//! **What strangers cost.** There is no TLS and no token: whoever reaches the address may read. At most [`CONNECTIONS`] connections are
//! open, each for a minute at most; the page is made at most four times a second, for all of them together.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};

use super::{Format, Metrics, MetricsParts};
use crate::api::healthz;
use crate::local::{Connections, ServiceThread, accept};
use crate::observe::checks::Checks;
use crate::threads::Role;

/// Connections at a time: some Prometheus servers, and probes.
const CONNECTIONS: usize = 32;

/// File descriptors that the listener needs.
pub const OPEN_FILES: u64 = CONNECTIONS as u64 + 8;

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address cannot be bound.
    #[error(
        "metrics.listen {address}: cannot listen: {source}; find the process that uses the port with `ss -ltnp`, or use \
         another address"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The thread or its runtime cannot be created.
    #[error("cannot start the metrics thread: {0}")]
    Thread(#[source] io::Error),
}

/// Opens the listener.
///
/// # Errors
/// If the address is in use, or not the host's, or its port needs a capability.
pub fn bind(address: SocketAddr) -> Result<TcpListener, MetricsError> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|source| MetricsError::Listen { address, source })
}

/// The thread. Dropping it ends the thread and closes the listener.
#[derive(Debug)]
pub struct MetricsServer {
    _thread: ServiceThread,
    address: SocketAddr,
}

impl MetricsServer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, if no thread can be started.
    pub fn start(listener: TcpListener, parts: MetricsParts) -> Result<MetricsServer, MetricsError> {
        let address = listener.local_addr().map_err(MetricsError::Thread)?;
        let shared = Arc::new((Arc::clone(&parts.checks), Metrics::new(parts)));
        let serve = async move {
            // It fails without a runtime only.
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let connections = Connections::new(CONNECTIONS);
            let admit = |stream, _| {
                let shared = Arc::clone(&shared);
                connections.admit(stream, move |request| respond(&shared.0, &shared.1, request));
            };
            accept(listener, admit).await;
        };
        let thread = ServiceThread::start(Role::Metrics, serve).map_err(MetricsError::Thread)?;
        Ok(MetricsServer { _thread: thread, address })
    }

    /// Where it listens; for port 0 with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn respond<B>(checks: &Checks, metrics: &Metrics, request: &Request<B>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    let health = match request.uri().path() {
        "/metrics" => return page(metrics, request),
        "/health" => healthz::for_strangers(checks, &Uri::from_static("/livez")),
        "/ready" => healthz::for_strangers(checks, &Uri::from_static("/readyz")),
        _ => healthz::for_strangers(checks, request.uri()),
    };
    health.unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "see /metrics, /healthz, /livez and /readyz\n"))
}

fn page<B>(metrics: &Metrics, request: &Request<B>) -> Response<Body> {
    let accept = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
    with_type(StatusCode::OK, format.media_type(), Body::from(metrics.page(format)))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", Body::from(text))
}

fn with_type(status: StatusCode, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

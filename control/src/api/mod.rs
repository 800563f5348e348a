//! The API: Kubernetes' own, a subset, over HTTP/1.1 on a Unix socket.
//!
//! ```text
//! server     the socket, connections, their bounds      idle  which connection is closed first if there are too many
//! contain    a panic ends the request it is in           origin  no request of another web page is served
//! https      the same API over TLS with a token, for kubectl; identity: its certificate and that token
//!   └ handlers: discovery   which resources there are
//!               openapi     their schemas
//!               resources   get, create, replace, delete of every kind, one set of handlers
//!                 patch       the four kinds of patch
//!                 listing     lists, in pages, of the current or an earlier revision
//!                 collection  delete everything a list would show
//!                 watch       changes, event by event            lines  each event encoded once for all clients
//!               review      what a client may do: everything
//!               gateway     pollgate.io: apply a whole list at once, explain
//!               dump        pollgate.io: compiled tables and flows, in pages
//!               stats       pollgate.io: counters and live flows
//!               trace       pollgate.io: what a worker would do with a packet
//!               live        pollgate.io: what happens, once a second     ui  the page that shows it
//!               kubeconfig  what clients of https need; only on the Unix socket
//!      requests: request   the path and the options              query   the query's parameters
//!                body      read and decoded, bounded             decode  from values to objects; unknown fields
//!                list      the objects of a bulk request, one at a time
//!                selector  label and field selectors             deletion  DeleteOptions
//!     responses: form      what a client accepts                 answer  to committed writes
//!                render    objects, lists, Tables, streamed      status  errors as Status objects
//!          both: protobuf  the other encoding of objects, lists and events
//! shared     what the handlers share: the replica, and the way to the control thread
//!   view     the replica that all reads come from             history  its recent changes
//! ```
//!
//! Why Kubernetes' API and not one of our own: a client that manages Services through an API server can manage the gateway in
//! the same way. Differences: there is no kubelet, so a `status` in a created or applied Pod, Node or Service is stored, and
//! a deleted Pod is removed at once, or after the grace period of the request. A namespace is created with its first object.
//!
//! The API has a thread and a single-threaded runtime of its own. It waits for the control thread only for
//! the result of a write, and never delays the control thread.

mod answer;
mod ask;
mod body;
mod collection;
mod contain;
mod decode;
mod deletion;
mod discovery;
mod dump;
mod error;
mod form;
mod gateway;
pub(crate) mod healthz;
mod history;
mod https;
mod identity;
mod idle;
mod kubeconfig;
mod lines;
mod list;
mod listing;
mod live;
mod openapi;
mod origin;
mod patch;
mod protobuf;
mod query;
mod render;
mod request;
mod resources;
mod review;
mod selector;
mod server;
mod shared;
mod stats;
mod status;
mod trace;
mod ui;
mod view;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, map_request};
use crossbeam::channel::Sender;
use tokio::sync::{mpsc, watch as signal};

use self::https::Listener;
use self::identity::Identities;
use self::server::{Limits, Places, Socket};
use self::shared::Api;
use self::status::Status;
use self::view::Replica;
use crate::cluster::Cluster;
use crate::observe::checks::Checks;
use crate::observe::dump::DumpSource;
use crate::runtime::{Command, Settled, SettledSink};
use crate::threads::{self, Role};

pub use self::contain::{panic_is_contained, panicked_requests};
pub use self::dump::DUMP_PATH;
pub use self::error::ApiError;
pub use self::gateway::{APPLY_PATH, ApplyOutcome};
pub use self::https::Https;
pub use self::identity::IdentityError;
pub use self::kubeconfig::KUBECONFIG_PATH;
pub use self::live::LIVE_PATH;
pub use self::server::OPEN_FILES;
pub use self::shared::StatsSource;
pub use self::stats::STATS_PATH;
pub use self::trace::TRACE_PATH;
pub use self::ui::UI_PATH;

/// The parts of the API server.
pub struct ApiParts {
    /// Where to listen. Missing directories are created.
    pub socket: PathBuf,
    /// The HTTPS listener, if any.
    pub https: Option<Https>,
    /// The initial state for reads: the same as the control thread's.
    pub replica: Cluster,
    /// The way to the control thread.
    pub commands: Sender<Command>,
    /// The counters.
    pub stats: StatsSource,
    /// Whether the gateway works, besides the API and the state.
    pub checks: Arc<Checks>,
    /// Where to read what is dumped; `None` if there are no tables.
    pub dump: Option<DumpSource>,
}

/// The running API server. Dropping it stops it.
#[derive(Debug)]
pub struct ApiHandle {
    settled: mpsc::UnboundedSender<Settled>,
    https: Option<SocketAddr>,
    identities: Option<Arc<Identities>>,
    stop: Option<signal::Sender<()>>,
    urgent: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ApiHandle {
    /// Where the control thread puts finished requests: they are applied to the replica, then the clients get the response.
    pub fn settled_sink(&self) -> SettledSink {
        let settled = self.settled.clone();
        // A stopped API has no client left.
        Box::new(move |done| drop(settled.send(done)))
    }

    /// The address of the HTTPS listener, if any; for port 0 with the port that the system chose.
    pub fn https(&self) -> Option<SocketAddr> {
        self.https
    }

    /// Reads the certificate and the token of the HTTPS listener again. Returns whether they differ from those before; `false` if
    /// there is no listener.
    ///
    /// # Errors
    /// Why those before stay in use.
    pub fn read_identity_again(&self) -> Result<bool, IdentityError> {
        self.identities.as_ref().map_or(Ok(false), |identities| identities.read_again())
    }

    /// As [`ApiHandle::stop`], but cuts off requests in progress.
    pub fn stop_at_once(mut self) {
        self.urgent.store(true, SeqCst);
        self.join();
    }

    /// Accepts no further connections, lets requests in progress finish within five seconds, and removes the socket.
    ///
    /// Stop the API before the control thread: requests in progress need it.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the API thread panicked");
        }
    }
}

impl Drop for ApiHandle {
    fn drop(&mut self) {
        self.join();
    }
}

/// Binds the socket, and the HTTPS listener if configured, and serves on a thread of its own. Writes wait until the control
/// thread takes commands.
///
/// # Errors
/// If the socket or the listener cannot be bound, or no thread can be started.
pub fn spawn(parts: ApiParts) -> Result<ApiHandle, ApiError> {
    spawn_with(parts, Limits::default().within(server::open_files()))
}

fn spawn_with(parts: ApiParts, limits: Limits) -> Result<ApiHandle, ApiError> {
    let socket = Socket::bind(&parts.socket)?;
    let listener = parts.https.as_ref().map(Listener::bind).transpose()?;
    let https = listener.as_ref().map(|listener| listener.address);
    let identities = listener.as_ref().map(|listener| Arc::clone(&listener.identities));
    let urgent = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Large bodies are decoded on other threads, but not on every core that the workers need.
        .max_blocking_threads(2)
        .thread_name(contain::DECODERS)
        .build()
        .map_err(ApiError::Thread)?;
    let (settled, done) = mpsc::unbounded_channel();
    let (stop, stopped) = signal::channel(());
    let api = Api::new(
        Replica::new(parts.replica),
        parts.commands,
        (parts.stats, parts.checks),
        parts.dump,
        limits,
        stopped.clone(),
    );
    let places = Arc::new(Places::new(limits, stopped, Arc::clone(&urgent)));
    let serve = move || {
        let served = runtime.block_on(async move {
            tokio::spawn(follow(api.clone(), done));
            serve_all(api, socket, listener, &places).await
        });
        if let Err(error) = served {
            tracing::error!("the API stopped: {error}");
        }
    };
    let thread = threads::spawn(Role::Api, "api", serve).map_err(ApiError::Thread)?;
    Ok(ApiHandle { settled, https, identities, stop: Some(stop), urgent, thread: Some(thread) })
}

/// Serves on the socket and, if configured, on the HTTPS listener, until `stop` changes.
async fn serve_all(api: Api, socket: Socket, listener: Option<Listener>, places: &Arc<Places>) -> io::Result<()> {
    let kubeconfig = kubeconfig::router(listener.as_ref().map(kubeconfig::Server::from));
    let local = server::serve(socket, router(api.clone(), kubeconfig), places);
    let Some(listener) = listener else { return local.await };
    let remote = https::serve(listener, router(api, Router::new()), places);
    let (local, remote) = tokio::join!(local, remote);
    local.and(remote)
}

/// All paths, and those that only one of the two listeners has.
fn router(api: Api, only_here: Router<Api>) -> Router {
    let paths = Router::new()
        .merge(discovery::router())
        .merge(openapi::router())
        .merge(resources::router())
        .merge(review::router())
        .merge(gateway::router())
        .merge(dump::router())
        .merge(healthz::router())
        .merge(stats::router())
        .merge(trace::router())
        .merge(live::router())
        .merge(ui::router())
        .merge(only_here)
        .fallback(async || Status::no_resource())
        .method_not_allowed_fallback(async || Status::method_not_allowed())
        .with_state(api);
    let paths = Router::new().fallback_service(paths);
    paths.layer(map_request(async |request| without_slash(request))).layer(from_fn(origin::check))
}

/// Client libraries end some paths with a slash; to an API server those are the same paths.
fn without_slash(mut request: Request) -> Request {
    let uri = request.uri();
    if let Some(path) = uri.path().strip_suffix('/').filter(|path| !path.is_empty()) {
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        // A path without its last byte is still a path.
        if let Ok(shorter) = format!("{path}{query}").parse() {
            *request.uri_mut() = shorter;
        }
    }
    request
}

/// Updates the replica and then sends the responses.
async fn follow(api: Api, mut settled: mpsc::UnboundedReceiver<Settled>) {
    while let Some(done) = settled.recv().await {
        api.replica.apply(done.commits());
        api.checks.set_store_failure(done.store_failure());
        done.answer();
    }
}

#[cfg(test)]
pub(crate) mod tests;

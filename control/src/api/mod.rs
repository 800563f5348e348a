//! The API: Kubernetes' own, a subset, over HTTP/1.1 on a Unix socket.
//!
//! ```text
//! server     the socket, connections, their bounds
//! https      the same API behind TLS and a token, for kubectl; identity: its certificate and that token
//!   └ routes: discovery   what there is
//!             openapi     what it looks like
//!             resources   get, create, replace, delete of every kind, one set of handlers
//!               patch       the four kinds of patch
//!               listing     lists, in pages, of now or of before       collection  delete what a list would show
//!               watch       what happens next, event by event          lines       each event encoded once for all
//!             gateway     pollgate.io: apply a whole list at once, explain, stats
//!             kubeconfig  what clients of https need, told on the Unix socket alone
//!                 body    reads and decodes what is sent, bounded      render  lists, Tables, streamed
//!                 decode  from values to objects; unknown fields       selector
//!                 status  errors as Status objects                     deletion
//!                 protobuf  the little that comes in no other form
//!   view     the replica that all reads come from      history  what changed in it lately
//!   idle     which connection goes first when there are too many
//! ```
//!
//! Why Kubernetes' API and not one of our own: what speaks to an API server about Services speaks to the gateway, so that
//! nobody learns a dialect. Where a gateway differs: there is no kubelet, so a `status` in a created or applied Pod, Node or
//! Service is kept, and a deleted Pod goes at once, or after the grace period the request names; a namespace comes to be
//! with its first object.
//!
//! The API has a thread and a single-threaded runtime of its own. It never waits for the control thread except for
//! the answer to a write, and nothing it does holds the control thread up.

mod body;
mod collection;
mod decode;
mod deletion;
mod discovery;
mod gateway;
mod history;
mod https;
mod identity;
mod idle;
mod kubeconfig;
mod lines;
mod listing;
mod openapi;
mod patch;
mod protobuf;
mod render;
mod resources;
mod selector;
mod server;
mod status;
mod view;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use axum::Router;
use axum::extract::Request;
use axum::middleware::map_request;
use crossbeam::channel::Sender;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot, watch as signal};
use tokio::time::timeout;

use self::body::{Budget, Claim};
use self::https::Listener;
use self::lines::Lines;
use self::server::{Limits, Places, Socket};
use self::status::Status;
use self::view::Replica;
use crate::cluster::{Cluster, Commit, Write};
use crate::runtime::{Command, Settled, SettledSink, WriteError, WriteRequest};

pub use self::gateway::{APPLY_PATH, ApplyOutcome};
pub use self::https::Https;
pub use self::identity::IdentityError;
pub use self::kubeconfig::KUBECONFIG_PATH;
pub use self::server::OPEN_FILES;

/// How long a client waits for its write before it is told that the outcome is open.
const WRITE_TIME: Duration = Duration::from_secs(60);

/// Gives the counters as JSON, whenever asked. Called on the API's thread: it must not block.
pub type StatsSource = Arc<dyn Fn() -> Value + Send + Sync>;

/// What the API server is made of.
pub struct ApiParts {
    /// Where to listen. Missing directories are made.
    pub socket: PathBuf,
    /// Where else, if anywhere.
    pub https: Option<Https>,
    /// The state reads start from: the same as the control thread's.
    pub replica: Cluster,
    /// The way to the control thread.
    pub commands: Sender<Command>,
    /// The counters.
    pub stats: StatsSource,
}

/// Why the API server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Somebody answers on the socket.
    #[error(
        "{}: another pollgate listens on this socket; stop it, or give this one its own `api.socket`",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket is in its place. It was left alone.
    #[error("{}: exists and is not a socket; move it away, or change `api.socket`", path.display())]
    NotASocket {
        /// What was found.
        path: PathBuf,
    },
    /// The file system refused.
    #[error(
        "{}: cannot listen: {source}; `api.socket` must be a path of at most 107 bytes in a directory this user may write",
        path.display()
    )]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The address of the HTTPS listener cannot be had.
    #[error(
        "api.listen {address}: cannot listen: {source}; find the process that uses the port with `ss -ltnp`, or \
         use another port"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The HTTPS listener has no certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No thread or runtime to be had.
    #[error("cannot start the API's thread: {0}")]
    Thread(#[source] io::Error),
}

/// The running API server. Dropping it stops it.
#[derive(Debug)]
pub struct ApiHandle {
    settled: mpsc::UnboundedSender<Settled>,
    https: Option<SocketAddr>,
    stop: Option<signal::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiHandle {
    /// Where the control thread puts requests that are done: they reach the replica, and then the clients.
    pub fn settled_sink(&self) -> SettledSink {
        let settled = self.settled.clone();
        // A stopped API has nobody left to answer.
        Box::new(move |done| drop(settled.send(done)))
    }

    /// Where HTTPS is spoken, if it is: the port that was asked for, or the one the system gave for port 0.
    pub fn https(&self) -> Option<SocketAddr> {
        self.https
    }

    /// Takes no further connections, lets requests under way finish within five seconds, and removes the socket.
    ///
    /// Stop the API before the control thread: requests under way need it.
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

/// Binds the socket, and the HTTPS listener if there is to be one, and starts to serve on a thread of its own. Writes wait
/// until the control thread takes commands.
///
/// # Errors
/// If the socket or the listener cannot be had, or no thread.
pub fn spawn(parts: ApiParts) -> Result<ApiHandle, ApiError> {
    spawn_with(parts, Limits::default().within(server::open_files()))
}

fn spawn_with(parts: ApiParts, limits: Limits) -> Result<ApiHandle, ApiError> {
    let socket = Socket::bind(&parts.socket)?;
    let listener = parts.https.as_ref().map(Listener::bind).transpose()?;
    let https = listener.as_ref().map(|listener| listener.address);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Large bodies are decoded beside the API's thread, but not on every core the packets want.
        .max_blocking_threads(2)
        .thread_name("api-decode")
        .build()
        .map_err(ApiError::Thread)?;
    let (settled, done) = mpsc::unbounded_channel();
    let (stop, stopped) = signal::channel(());
    let api = Api::new(parts, limits, stopped.clone());
    let serve = move || {
        let served = runtime.block_on(async move {
            tokio::spawn(follow(api.clone(), done));
            serve_all(api, socket, listener, limits, stopped).await
        });
        if let Err(error) = served {
            tracing::error!("the API stopped: {error}");
        }
    };
    let thread = thread::Builder::new().name("api".into()).spawn(serve).map_err(ApiError::Thread)?;
    Ok(ApiHandle { settled, https, stop: Some(stop), thread: Some(thread) })
}

/// Serves on the socket, and to those who have the token where there is a listener, until `stop` changes.
async fn serve_all(
    api: Api,
    socket: Socket,
    listener: Option<Listener>,
    limits: Limits,
    stop: signal::Receiver<()>,
) -> io::Result<()> {
    let kubeconfig = kubeconfig::router(listener.as_ref().map(kubeconfig::of));
    let places = Arc::new(Places::new(limits, stop));
    let local = server::serve(socket, router(api.clone(), kubeconfig), &places);
    let Some(listener) = listener else { return local.await };
    let remote = https::serve(listener, router(api, Router::new()), &places);
    let (local, remote) = tokio::join!(local, remote);
    local.and(remote)
}

/// All paths, and those that only one way to the API has.
fn router(api: Api, only_here: Router<Api>) -> Router {
    let paths = Router::new()
        .merge(discovery::router())
        .merge(openapi::router())
        .merge(resources::router())
        .merge(gateway::router())
        .merge(only_here)
        .fallback(async || Status::no_resource())
        .method_not_allowed_fallback(async || Status::method_not_allowed())
        .with_state(api);
    Router::new().fallback_service(paths).layer(map_request(async |request| without_slash(request)))
}

/// Client libraries end some paths with a slash; to an API server those are the same paths.
fn without_slash(mut request: Request) -> Request {
    let uri = request.uri();
    if let Some(path) = uri.path().strip_suffix('/').filter(|path| !path.is_empty()) {
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        // A path without its last byte is a path still.
        if let Ok(shorter) = format!("{path}{query}").parse() {
            *request.uri_mut() = shorter;
        }
    }
    request
}

/// Brings the replica up to date and answers clients, in that order.
async fn follow(api: Api, mut settled: mpsc::UnboundedReceiver<Settled>) {
    while let Some(done) = settled.recv().await {
        api.replica.apply(done.commits());
        *api.store_failure.lock().unwrap_or_else(PoisonError::into_inner) = done.store_failure().map(str::to_owned);
        done.answer();
    }
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

impl std::ops::Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// See [`Api`].
pub(crate) struct Shared {
    replica: Replica,
    commands: Sender<Command>,
    stats: StatsSource,
    budget: Budget,
    limits: Limits,
    /// One for each watch that may be open.
    watches: Arc<Semaphore>,
    /// The events of watches, encoded.
    lines: Lines,
    /// Changes when the server stops.
    stop: signal::Receiver<()>,
    store_failure: Mutex<Option<String>>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    fn new(parts: ApiParts, limits: Limits, stop: signal::Receiver<()>) -> Self {
        Self::assemble(Replica::new(parts.replica), parts.commands, parts.stats, limits, stop)
    }

    fn assemble(
        replica: Replica,
        commands: Sender<Command>,
        stats: StatsSource,
        limits: Limits,
        stop: signal::Receiver<()>,
    ) -> Self {
        Self(Arc::new(Shared {
            replica,
            commands,
            stats,
            budget: Budget::new(),
            limits,
            watches: Arc::new(Semaphore::new(limits.watches as usize)),
            lines: Lines::default(),
            stop,
            store_failure: Mutex::new(None),
        }))
    }

    /// Why nothing can be written, if so.
    fn store_failure(&self) -> Option<String> {
        self.store_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands writes to the control thread and waits for their outcome. `claim` is held until it is there, whether
    /// the client still waits or not. The outer error is that there is no outcome.
    async fn write(
        &self,
        writes: Vec<Write>,
        dry_run: bool,
        claim: Claim,
    ) -> Result<Result<Arc<Commit>, WriteError>, Status> {
        let (reply, outcome) = oneshot::channel();
        let reply = Box::new(move |outcome| {
            drop(claim);
            // The client may be gone by now.
            drop(reply.send(outcome));
        });
        let request = WriteRequest { writes, dry_run, reply };
        self.commands.send(Command::Write(request)).map_err(|_| Status::stopping())?;
        let outcome = timeout(WRITE_TIME, outcome).await.map_err(|_| Status::timed_out(WRITE_TIME.as_secs()))?;
        outcome.map_err(|_| Status::stopping())
    }
}

#[cfg(test)]
mod tests;

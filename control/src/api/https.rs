//! The HTTPS listener: the same API for clients that cannot open a Unix socket, above all kubectl.
//!
//! ```text
//!   loopback ──▶ stranger ──handshake──▶ request ──▶ token? ──no──▶ 401, closed
//!                bounded: the oldest goes              └─yes─▶ known ──▶ the router
//!                                                              bounded: 429
//! ```
//!
//! Every user of the host can connect to the port, so the token is the whole access control, and what comes before it must
//! cost little. A connection is a stranger until it has shown the token; there is room for a fixed number of them, and a
//! further one takes the place of the oldest. A flood of silent or half-open connections thus ends itself, and a client
//! that shows its token within its first moments, as they all do, is served in the middle of it. Waiting for a place to
//! become free, as clients of the Unix socket do, would let any user of the host keep all others out.
//!
//! Served without it are `/livez`, `/readyz` and `/healthz`, for probes that have no token: they say which checks fail, but not why.
//! And the files of the page, which are the same in every gateway: what they show, they ask for with the token.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{self, AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::error::ApiError;
use super::healthz;
use super::identity::Identities;
use super::idle::Idle;
use super::server::{Place, Places, STOP_TIME};
use super::status::Status;
use super::ui;

/// Connections that have not sent the token. A handshake and a request take milliseconds: a client is replaced only if this
/// many others connect in that time.
const STRANGERS: usize = 256;

/// What Go's server, and so every API server, returns to a client that used `http`.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Where to listen, and the file of the listener's certificate and token.
#[derive(Debug, Clone)]
pub struct Https {
    /// A loopback address and a port.
    pub listen: SocketAddr,
    /// The file of certificate, key and token; it is created if it does not exist.
    pub identity: PathBuf,
}

impl Https {
    /// With the file beside the state file, and named after it.
    pub fn beside(state: &Path, listen: SocketAddr) -> Self {
        let mut identity = state.as_os_str().to_owned();
        identity.push(".tls");
        Self { listen, identity: identity.into() }
    }
}

/// The bound listener.
pub(super) struct Listener {
    socket: StdListener,
    pub(super) address: SocketAddr,
    pub(super) identities: Arc<Identities>,
}

impl Listener {
    pub(super) fn bind(https: &Https) -> Result<Self, ApiError> {
        let unusable = |source| ApiError::Listen { address: https.listen, source };
        let identities = Arc::new(Identities::load(https.identity.clone(), https.listen.ip())?);
        let socket = StdListener::bind(https.listen).map_err(unusable)?;
        socket.set_nonblocking(true).map_err(unusable)?;
        let address = socket.local_addr().map_err(unusable)?;
        tracing::info!("API at https://{address}; clients need the token that `pollgate kubeconfig` prints");
        Ok(Self { socket, address, identities })
    }
}

/// Serves `router` to clients with the token until `stop` changes, then lets requests in progress finish, within bounds.
pub(super) async fn serve(listener: Listener, router: Router, places: &Arc<Places>) -> io::Result<()> {
    let mut stop = places.stop.clone();
    let socket = TcpListener::from_std(listener.socket)?;
    let identities = listener.identities;
    let door = Arc::new(Door::new(Arc::clone(&identities), Arc::clone(places)));
    let router = router.layer(from_fn_with_state(Arc::clone(&door), ask));
    let mut visits = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(ended) = visits.join_next_with_id() => {
                door.leave(ended.map_or_else(|error| error.id(), |(visit, ())| visit));
                continue;
            }
            _ = stop.changed() => break,
        };
        match accepted {
            // The visit cannot begin before this thread is through here, so no connection is known before it was a stranger.
            Ok((stream, _)) => {
                let acceptor = TlsAcceptor::from(Arc::clone(&identities.current().tls));
                door.enter(visits.spawn(visit(stream, acceptor, router.clone(), places.outside(&door.idle))));
            }
            Err(error) => {
                // Out of file descriptors, most likely: connections that end will free some.
                tracing::warn!("cannot accept on {}: {error}", listener.address);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(socket);
    let all_gone = async { while visits.join_next().await.is_some() {} };
    if timeout(places.stop_time(), all_gone).await.is_err() && !places.is_urgent() {
        tracing::warn!("closing the connections of HTTPS clients that are still busy after {} s", STOP_TIME.as_secs());
    }
    Ok(())
}

/// One connection, from its first byte to its end.
async fn visit(stream: TcpStream, acceptor: TlsAcceptor, router: Router, mut place: Place) {
    let shaken = tokio::select! {
        shaken = timeout(place.limits.head_time, handshake(stream, acceptor)) => shaken,
        _ = place.stop.changed() => return,
    };
    match shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => place.serve(stream, router).await,
        // Any local user can cause this at any rate: not for the log of an operator.
        Err(error) => tracing::debug!("TLS handshake failed: {error}"),
    }
}

async fn handshake(mut stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let mut first = [0; 4096];
    stream.peek(&mut first[..1]).await?;
    // A TLS record begins with 22, a request with a method.
    if first[0].is_ascii_uppercase() {
        // Read first: closing a connection with unread data may discard the response.
        let _ = stream.read(&mut first).await?;
        stream.write_all(PLAIN_HTTP).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "plain HTTP"));
    }
    acceptor.accept(stream).await
}

/// Checks the token of every request.
async fn ask(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let has_token = door.is_shown_the_token(request.headers());
    if !has_token && healthz::PATHS.iter().any(|(name, _)| request.uri().path().strip_prefix('/') == Some(name)) {
        request.extensions_mut().insert(healthz::Stranger);
        return next.run(request).await;
    }
    // A browser cannot show a token before the page has one.
    if !has_token && ui::is_file(&request) {
        return next.run(request).await;
    }
    if !has_token {
        return Status::unauthorized().into_response();
    }
    if !door.recognise(task::id()) {
        return Status::too_many_connections().into_response();
    }
    next.run(request).await
}

/// The open connections, each by the task that serves it.
struct Door {
    identities: Arc<Identities>,
    /// Known connections share them with the clients of the Unix socket.
    places: Arc<Places>,
    idle: Arc<Idle>,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    /// Oldest first.
    strangers: VecDeque<AbortHandle>,
    /// With the slot of each.
    known: HashMap<task::Id, OwnedSemaphorePermit>,
}

impl Door {
    fn new(identities: Arc<Identities>, places: Arc<Places>) -> Self {
        Self { identities, places, idle: Arc::default(), inside: Mutex::default() }
    }

    fn enter(&self, visit: AbortHandle) {
        let mut inside = self.inside();
        inside.strangers.push_back(visit);
        if inside.strangers.len() > STRANGERS
            && let Some(oldest) = inside.strangers.pop_front()
        {
            oldest.abort();
        }
    }

    fn leave(&self, visit: task::Id) {
        let mut inside = self.inside();
        inside.known.remove(&visit);
        inside.strangers.retain(|stranger| stranger.id() != visit);
    }

    /// Makes a stranger known, unless all slots are taken. Then an idle connection is closed for the next attempt.
    fn recognise(&self, visit: task::Id) -> bool {
        let mut inside = self.inside();
        if inside.known.contains_key(&visit) {
            return true;
        }
        let Some(slot) = self.places.slot() else {
            self.idle.displace_one();
            return false;
        };
        inside.strangers.retain(|stranger| stranger.id() != visit);
        inside.known.insert(visit, slot);
        true
    }

    /// `Authorization: Bearer TOKEN`, RFC 6750.
    fn is_shown_the_token(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return false;
        };
        let Some((scheme, shown)) = value.as_bytes().split_at_checked(b"Bearer ".len()) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && self.identities.current().token.is(shown.trim_ascii())
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The Unix socket and the connections on it.
//!
//! Why a Unix socket: a user who may open it (mode 0660) may change the gateway, so the file system's users and groups
//! are the whole access control, with no secret to keep. What a client can cost is bounded: connections, of them watches, the
//! length of a request head, the time it may take or a connection may idle, the time an answer may wait to be read;
//! bodies are bounded where they are read.
//!
//! ```text
//! 6,144 connections ─┬─ at most 4,096 watches; further ones get 429
//!                    └─ the others: requests, and idle connections, which new ones displace (see `idle`)
//! ```
//!
//! Watches stay connected, so they may not use all slots: a third is left to other requests. A watcher costs its
//! connection's buffers, some ten kilobytes; docs/operations.md has the measured figure.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::response::Response;
use futures_util::StreamExt;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::Mode;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Sleep, sleep, timeout};

use super::body::Patient;
use super::contain;
use super::error::ApiError;
use super::idle::{Busy, Idle, Seat};
use crate::store::make_directory;

/// How long requests in progress may take after the server stops.
pub(super) const STOP_TIME: Duration = Duration::from_secs(5);

/// How long a new connection waits before another idle one is asked to close.
const DISPLACE_TIME: Duration = Duration::from_millis(20);

/// Longest request head, bytes; also what is read or written at once.
const HEAD_SIZE: usize = 32 << 10;

/// Connections that the kernel lets wait, as far as the system allows.
const BACKLOG: i32 = 4_096;

/// Connections served at once, if there are file descriptors for them.
const CONNECTIONS: u32 = 6_144;
/// File descriptors that are left to the rest of the process.
const OTHER_FILES: u32 = 512;

/// File descriptors the process should be allowed to have open, for the API to serve as many clients as it can.
pub const OPEN_FILES: u64 = (CONNECTIONS + OTHER_FILES) as u64;

/// Limits on the cost of clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections served at once; further ones wait in the listen queue.
    pub(super) connections: u32,
    /// How many of them may be watches.
    pub(super) watches: u32,
    /// For a request head, and for an idle connection.
    pub(super) head_time: Duration,
    /// How long a client may leave a response unread before it is cut off.
    pub(super) unread_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let (head_time, unread_time) = (Duration::from_secs(30), Duration::from_secs(30));
        Self { connections: 0, watches: 0, head_time, unread_time }.of_connections(CONNECTIONS)
    }
}

impl Limits {
    /// Fewer connections, if the process may not open as many files.
    pub(super) fn within(self, files: Option<u32>) -> Self {
        let most = files.map_or(self.connections, |files| files.saturating_sub(OTHER_FILES).max(files / 2));
        if most >= self.connections {
            return self;
        }
        tracing::warn!(
            "the API serves at most {most} clients at once instead of {}: this process may not open more files \
             (ulimit -n, LimitNOFILE)",
            self.connections
        );
        self.of_connections(most)
    }

    /// Two thirds for watches, and at least one connection for the others.
    fn of_connections(self, connections: u32) -> Self {
        let connections = connections.max(2);
        Self { connections, watches: connections / 3 * 2, ..self }
    }
}

/// How many files the process may open; `None` if the system does not report it.
pub(super) fn open_files() -> Option<u32> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    soft_limit(&limits)
}

fn soft_limit(limits: &str) -> Option<u32> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u32::MAX),
        number => number.parse::<u64>().ok().map(|number| u32::try_from(number).unwrap_or(u32::MAX)),
    }
}

/// The bound socket; its file is removed with it, unless another process has replaced it by then.
pub(super) struct Socket {
    listener: StdListener,
    path: PathBuf,
    /// Device and inode of our file.
    identity: (u64, u64),
}

impl Socket {
    /// Binds `path`, replacing a socket that no process listens on any more.
    pub(super) fn bind(path: &Path) -> Result<Self, ApiError> {
        let unusable = |source| ApiError::Socket { path: path.to_owned(), source };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            make_directory(directory).map_err(unusable)?;
        }
        remove_stale(path)?;
        let listener = bind(path).map_err(unusable)?;
        // The umask may have taken from the group what is its.
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(unusable)?;
        let identity = identity(path).map_err(unusable)?;
        Ok(Self { listener, path: path.to_owned(), identity })
    }
}

/// The socket's mode: whoever may write it may change the gateway.
const MODE: u32 = 0o660;

/// Binds a socket that never has more than [`MODE`], whatever the umask: the file gets the mode of the open socket. Setting it
/// after `bind` would leave a moment in which any user can connect.
fn bind(path: &Path) -> io::Result<StdListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    net::listen(&socket, BACKLOG)?;
    Ok(StdListener::from(socket))
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("{}: cannot remove the socket: {error}", self.path.display());
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

fn remove_stale(path: &Path) -> Result<(), ApiError> {
    let unusable = |source| ApiError::Socket { path: path.to_owned(), source };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(error)),
    };
    if !found.file_type().is_socket() {
        return Err(ApiError::NotASocket { path: path.to_owned() });
    }
    match connect(path) {
        // A full queue, which would make another client wait, has somebody behind it too.
        Ok(()) => Err(ApiError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ApiError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(unusable),
        Err(error) => Err(unusable(error)),
    }
}

/// Connects and hangs up, without waiting for a process that does not accept.
fn connect(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(net::connect(&socket, &SocketAddrUnix::new(path)?)?)
}

/// Serves `router` on `socket` until `stop` changes, then lets requests in progress finish, within bounds.
pub(super) async fn serve(socket: Socket, router: Router, places: &Places) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let mut stop = places.stop.clone();
    loop {
        // The connection first, so that it is known that a client waits; behind it the kernel's queue costs nothing.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let Some(place) = places.take().await else { break };
                tokio::spawn(place.serve(stream, router.clone()));
            }
            Err(error) => {
                // Probably out of file descriptors: connections that end free some.
                tracing::warn!("cannot accept on {}: {error}", socket.path.display());
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(socket);
    if timeout(places.stop_time(), places.empty()).await.is_err() && !places.is_urgent() {
        tracing::warn!("closing the connections of clients that are still busy after {} s", STOP_TIME.as_secs());
    }
    Ok(())
}

/// The places there are for connections, of whatever listener.
pub(super) struct Places {
    slots: Arc<Semaphore>,
    idle: Arc<Idle>,
    pub(super) limits: Limits,
    pub(super) stop: watch::Receiver<()>,
    /// Whether a stop waits for nobody.
    urgent: Arc<AtomicBool>,
}

/// A place for one connection.
pub(super) struct Place {
    seat: Arc<Seat>,
    pub(super) limits: Limits,
    pub(super) stop: watch::Receiver<()>,
    /// Nothing for one whose client has yet to show that it may take one.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Places {
    pub(super) fn new(limits: Limits, stop: watch::Receiver<()>, urgent: Arc<AtomicBool>) -> Self {
        let slots = Arc::new(Semaphore::new(limits.connections as usize));
        Self { slots, idle: Arc::default(), limits, stop, urgent }
    }

    /// Whether the server stops without waiting for its clients.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent.load(SeqCst)
    }

    /// How long requests in progress may take after the server stops.
    pub(super) fn stop_time(&self) -> Duration {
        if self.is_urgent() { Duration::ZERO } else { STOP_TIME }
    }

    /// A place for a connection that is there already: a free one, or that of an idle connection. Nothing, if the
    /// server stops meanwhile.
    pub(super) async fn take(&self) -> Option<Place> {
        let mut stop = self.stop.clone();
        let mut slot = self.slot();
        while slot.is_none() {
            self.idle.displace_one();
            slot = tokio::select! {
                slot = timeout(DISPLACE_TIME, Arc::clone(&self.slots).acquire_owned()) => slot.ok().and_then(Result::ok),
                _ = stop.changed() => return None,
            };
        }
        slot.map(|slot| Place { seat: self.idle.seat(), limits: self.limits, stop, _slot: Some(slot) })
    }

    /// A place that is not counted, for a connection whose client may take a [`Places::slot`] later.
    pub(super) fn outside(&self, idle: &Arc<Idle>) -> Place {
        Place { seat: idle.seat(), limits: self.limits, stop: self.stop.clone(), _slot: None }
    }

    /// A slot, if there is one now.
    pub(super) fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Waits until every connection has ended.
    async fn empty(&self) {
        // The semaphore is never closed.
        drop(self.slots.acquire_many(self.limits.connections).await);
    }
}

impl Place {
    /// Serves a connection until it ends, is idle and displaced, or the server stops.
    pub(super) async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
        contain::serving(self.serve_marked(stream, router)).await;
    }

    async fn serve_marked(mut self, stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
        let Limits { head_time, unread_time, .. } = self.limits;
        let io = TokioIo::new(Impatient { stream, patience: unread_time, stalled: None });
        let seat = Arc::clone(&self.seat);
        let router = TowerToHyperService::new(router);
        let service = service_fn(move |request| {
            let busy = seat.busy();
            let answer = contain::answer(router.call(Patient::wrap(request)));
            async move { Ok::<_, Infallible>(busy_until_sent(answer.await, busy)) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(head_time).max_buf_size(HEAD_SIZE);
        let mut connection = pin!(builder.serve_connection(io, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.seat.displaced() => return,
            _ = self.stop.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("connection ended: {error}");
        }
    }
}

/// The response. Its connection is busy until the last of it is handed over; a response that is completely in memory already is.
fn busy_until_sent(answer: Response, busy: Busy) -> Response {
    if answer.body().size_hint().exact().is_some() {
        return answer;
    }
    answer.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            // Held until the stream is dropped.
            let _ = &busy;
        }))
    })
}

/// A stream that fails if a write waits longer than `patience` for its reader.
///
/// A client that asks for a large list and never reads it would otherwise keep its connection and its response indefinitely.
struct Impatient<S> {
    stream: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    /// Returns `progress`, and counts the time while there is none.
    fn watch<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_allows_bounds_what_is_served() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             1                    2                    processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(
            soft_limit("Max open files            unlimited            unlimited            files"),
            Some(u32::MAX)
        );
        assert_eq!(soft_limit(""), None);
        assert!(open_files().is_some_and(|files| files > 0));

        let usual = Limits::default();
        assert_eq!((usual.connections, usual.watches), (6_144, 4_096));
        assert_eq!(usual.within(None).connections, 6_144);
        assert_eq!(usual.within(Some(1 << 20)).connections, 6_144);
        let few = usual.within(Some(1024));
        assert_eq!((few.connections, few.watches), (512, 340));
        assert_eq!(usual.within(Some(100)).connections, 50);
    }
}

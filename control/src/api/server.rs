//! The Unix socket and the connections on it.
//!
//! Why a Unix socket: whoever may open it (mode 0660) may change the gateway, so the file system's users and groups are
//! the whole access control, with no secret to keep. What a client can cost is bounded: connections, the time a request
//! head may take or a connection may idle, the time an answer may wait to be read; bodies are bounded where they are read.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Sleep, sleep, timeout};

use super::ApiError;

/// How long requests under way may go on once the server stops.
const STOP_TIME: Duration = Duration::from_secs(5);

/// What clients may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections served at once; further ones wait in the listen queue.
    pub(super) connections: u32,
    /// For a request head, and for an idle connection.
    pub(super) head_time: Duration,
    /// How long a client may leave an answer unread before it is cut off.
    pub(super) unread_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 256, head_time: Duration::from_secs(30), unread_time: Duration::from_secs(30) }
    }
}

/// The bound socket; its file is removed with it, unless somebody else's is in its place by then.
pub(super) struct Socket {
    listener: StdListener,
    path: PathBuf,
    /// Device and inode of our file.
    identity: (u64, u64),
}

impl Socket {
    /// Binds `path`, in the place of a socket that nobody listens on any more.
    pub(super) fn bind(path: &Path) -> Result<Self, ApiError> {
        let unusable = |source| ApiError::Socket { path: path.to_owned(), source };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(unusable)?;
        }
        remove_stale(path)?;
        let listener = StdListener::bind(path).map_err(unusable)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(unusable)?;
        listener.set_nonblocking(true).map_err(unusable)?;
        let identity = identity(path).map_err(unusable)?;
        Ok(Self { listener, path: path.to_owned(), identity })
    }
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
    match StdStream::connect(path) {
        Ok(_) => Err(ApiError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(unusable),
        Err(error) => Err(unusable(error)),
    }
}

/// Serves `router` on `socket` until `stop` changes, then lets requests under way finish, within bounds.
pub(super) async fn serve(
    socket: Socket,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<()>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let slots = Arc::new(Semaphore::new(limits.connections as usize));
    loop {
        // The slot before the connection: who finds none waits in the kernel's queue and costs nothing.
        let accept = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, slot))
        };
        let accepted = tokio::select! {
            accepted = accept => accepted,
            _ = stop.changed() => break,
        };
        match accepted {
            Ok((stream, slot)) => {
                let connection = connection(stream, router.clone(), limits, stop.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: connections that end will free some.
                tracing::warn!("cannot accept on {}: {error}", socket.path.display());
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(socket);
    if timeout(STOP_TIME, slots.acquire_many(limits.connections)).await.is_err() {
        tracing::warn!("clients still busy after {} s are cut off", STOP_TIME.as_secs());
    }
    Ok(())
}

async fn connection(stream: UnixStream, router: Router, limits: Limits, mut stop: watch::Receiver<()>) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head_time);
    let io = TokioIo::new(Impatient { stream, patience: limits.unread_time, stalled: None });
    let mut connection = pin!(builder.serve_connection(io, TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection ended: {error}");
    }
}

/// A stream that fails once a write has waited for its reader for as long as `patience`.
///
/// A client that asks for a large list and never reads it would otherwise keep its connection and its answer for ever.
struct Impatient {
    stream: UnixStream,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    /// Passes `progress` on, and keeps the time while there is none.
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

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Impatient {
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

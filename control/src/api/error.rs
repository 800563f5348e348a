//! Why the API server cannot start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::identity::IdentityError;

/// Why the API server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Another process listens on the socket.
    #[error(
        "{}: another pollgate listens on this socket; stop it, or give this one its own `api.socket`",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket has the socket's path. It was not touched.
    #[error("{}: exists and is not a socket; move it away, or change `api.socket`", path.display())]
    NotASocket {
        /// The path.
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
        /// The system's error.
        source: io::Error,
    },
    /// The address of the HTTPS listener cannot be bound.
    #[error(
        "api.listen {address}: cannot listen: {source}; find the process that uses the port with `ss -ltnp`, or \
         use another port"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The HTTPS listener has no certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The thread or its runtime cannot be created.
    #[error("cannot start the API's thread: {0}")]
    Thread(#[source] io::Error),
}

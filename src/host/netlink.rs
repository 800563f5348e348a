//! Netlink requests from code that is not asynchronous.

use std::io;

use rtnetlink::Handle;
use tokio::runtime::{Builder, Runtime};

/// What a request runs on.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().build()
}

/// A netlink connection of the current thread's network namespace, served by the current runtime.
pub(crate) fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The kernel's own error number out of rtnetlink's, so that the message is the familiar one.
pub(crate) fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

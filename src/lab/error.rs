//! Why a step of a laboratory failed.

use std::io;

/// Why a step of a laboratory failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct LabError {
    what: String,
    source: io::Error,
}

impl LabError {
    pub(super) fn new(what: impl Into<String>, source: io::Error) -> LabError {
        LabError { what: what.into(), source }
    }
}

/// Adds to an error what was being done.
pub(super) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|source| LabError::new(what(), source))
    }
}

impl<T> Doing<T> for Result<T, rtnetlink::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|error| LabError::new(what(), plain(error)))
    }
}

/// The kernel's own error number out of rtnetlink's, so that the message is the familiar one.
pub(super) fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

//! Why a step of a laboratory failed.

use std::io;

use crate::host::netlink::plain;

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

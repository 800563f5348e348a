//! Why a command failed.

use std::fmt;
use std::io;

use crate::config::ConfigError;
use crate::terminal::PlainText;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// It was refused or failed; each line says what, where and what to do. Exit code 1.
    Refused(String),
    /// The gateway could not be reached, so further requests are pointless. Exit code 1.
    Unreachable(String),
    /// The results could not be written to stdout.
    Output(io::Error),
}

impl Failure {
    /// Refused or failed, as `text` says.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::Refused(text.into())
    }

    /// The command line is wrong, as `text` says.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// An error with its causes: `error: cannot open eth1: no such device`.
    pub fn caused(error: &dyn std::error::Error) -> Self {
        let mut text = format!("error: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let told = error.to_string();
            // Some errors already repeat their cause in their own text.
            if !text.ends_with(&told) {
                text.push_str(": ");
                text.push_str(&told);
            }
            cause = error.source();
        }
        Self::Refused(text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Refused(text) => PlainText(text).fmt(f),
            Self::Unreachable(text) => write!(f, "error: {}", PlainText(text)),
            Self::Output(error) => write!(f, "error: cannot write the result: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open eth1")]
        struct Outer(#[source] io::Error);
        let missing = io::Error::other("no such device");
        assert_eq!(Failure::caused(&Outer(missing)).to_string(), "error: cannot open eth1: no such device");

        #[derive(Debug, thiserror::Error)]
        #[error("cannot open eth1: {0}")]
        struct Repeating(#[source] io::Error);
        let missing = io::Error::other("no such device");
        assert_eq!(Failure::caused(&Repeating(missing)).to_string(), "error: cannot open eth1: no such device");
    }
}

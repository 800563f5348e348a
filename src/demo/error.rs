//! Why the demo failed.

use std::io;

use crate::failure::Failure;
use crate::gateway::GatewayError;
use crate::lab::{LabError, Unavailable};

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Network namespaces cannot be created here.
    #[error("the demo builds its network in namespaces, but {0}")]
    Unavailable(#[from] Unavailable),
    /// The lab could not be built.
    #[error("building the lab: {0}")]
    Lab(#[from] LabError),
    /// The gateway did not start in the lab.
    #[error("starting the gateway in the lab: {0}")]
    Gateway(#[from] GatewayError),
    /// The gateway's API refused what it should accept.
    #[error("{doing}: {source}")]
    Refused {
        /// What was requested.
        doing: &'static str,
        /// Why it was refused.
        source: Failure,
    },
    /// The system.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: String,
        /// The error of the system.
        source: io::Error,
    },
    /// Checks failed; the page lists them.
    #[error("{wrong} of {checks} checks failed; they are listed above")]
    NotAsItShouldBe {
        /// How many failed.
        wrong: usize,
        /// Of how many.
        checks: usize,
    },
}

pub(super) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> DemoError {
    move |source| DemoError::System { doing: doing.into(), source }
}

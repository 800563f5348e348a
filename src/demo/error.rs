//! Why the demo did not end well.

use std::io;

use crate::cli::Failure;
use crate::gateway::GatewayError;
use crate::lab::{LabError, Unavailable};

/// Why the demo did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// This machine or user can make no network namespaces.
    #[error("the demo builds its network in namespaces, but {0}")]
    Unavailable(#[from] Unavailable),
    /// The lab did not come up.
    #[error("building the lab: {0}")]
    Lab(#[from] LabError),
    /// The gateway did not start in it.
    #[error("starting the gateway in the lab: {0}")]
    Gateway(#[from] GatewayError),
    /// The gateway's API refused something it should take.
    #[error("{doing}: {source}")]
    Refused {
        /// What was asked for.
        doing: &'static str,
        /// What was said.
        source: Failure,
    },
    /// The system.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something it showed was not as it should be; the page says what.
    #[error("{wrong} of {checks} checks failed; they are listed above")]
    NotAsItShouldBe {
        /// How many were not.
        wrong: usize,
        /// Of how many.
        checks: usize,
    },
}

pub(super) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> DemoError {
    move |source| DemoError::System { doing: doing.into(), source }
}

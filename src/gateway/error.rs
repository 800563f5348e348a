//! Why a gateway does not start, or does not go on.

use std::io;
use std::path::PathBuf;

use pollgate_control::api::ApiError;
use pollgate_control::cluster::RestoreError;
use pollgate_control::netlink::HostNetworkError;
use pollgate_control::observe::metrics::MetricsError;
use pollgate_control::store::StoreError;

use crate::host::HostFault;
use crate::host::pair::PairError;
use crate::ports::PortsError;
use crate::privileges::PrivilegesError;

/// Why the gateway did not start: what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The host is not ready: one line per fault.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Host(Vec<HostFault>),
    /// The state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state contradicts itself.
    #[error(
        "{}: {reason}; the file was not changed. Replace it with a backup, or start without it: `pollgate run \
         --set-aside-damaged`",
        path.display()
    )]
    Restore {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Box<RestoreError>,
    },
    /// The damaged state file could not be renamed.
    #[error("{}: damaged, and it cannot be renamed: {source}; move it away yourself (mv)", path.display())]
    SetAside {
        /// The state file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The manifests: one line per fault.
    #[error("{}", .0.join("\n"))]
    Manifests(Vec<String>),
    /// The kernel's network could not be read.
    #[error(transparent)]
    HostNetwork(#[from] HostNetworkError),
    /// The API could not be opened.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The interfaces could not be opened.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// Another gateway polls the interface.
    #[error(
        "{interface}: another pollgate already polls this interface; both would answer for the same addresses: stop \
         the other one"
    )]
    Taken {
        /// The interface.
        interface: String,
    },
    /// Another gateway has the host pair.
    #[error(
        "another pollgate on this host has the host pair, and there can be only one: set host.pair: false in one of the two \
         configurations"
    )]
    PairTaken,
    /// A thread has panicked.
    #[error(
        "the gateway has stopped because of a bug, which it has reported above as a panic; its workers have drained. Start it \
         again, and please report the bug"
    )]
    Panicked,
    /// The process could not become what it is configured to be.
    #[error(transparent)]
    Privileges(#[from] PrivilegesError),
    /// There is no host pair.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// Memory, threads, signals.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

pub(crate) fn system(doing: &'static str) -> impl Fn(io::Error) -> GatewayError {
    move |source| GatewayError::System { doing, source }
}

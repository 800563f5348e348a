//! What [`HostNetwork`](super::HostNetwork) reports, and its errors.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use pollgate_common::net::Net;

/// What happened on the host.
#[derive(Clone, Debug)]
pub enum HostEvent {
    /// A next hop may have changed: workers must look theirs up again.
    Net(Arc<Net>),
    /// The kernel has an address that pollgate owns: both would answer for it. Reported once, and again if the address
    /// was removed and comes back.
    AddressConflict {
        /// The address.
        address: IpAddr,
        /// The kernel's interface that has it.
        interface: String,
    },
}

/// Called on the thread of [`HostNetwork`](super::HostNetwork) with each event; it must not block.
pub type Listener = Box<dyn Fn(HostEvent) + Send>;

/// Why the host's network cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub struct HostNetworkError {
    doing: &'static str,
    source: io::Error,
}

impl HostNetworkError {
    pub(super) fn new(doing: &'static str, source: impl Into<io::Error>) -> HostNetworkError {
        HostNetworkError { doing, source: source.into() }
    }
}

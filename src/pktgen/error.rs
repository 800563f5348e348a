//! Why there was no run.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::ports::InterfaceError;

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum PktgenError {
    /// An interface cannot be used.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// No ARP reply for the gateway's address.
    #[error(
        "no ARP reply from {gateway} on {interface} within {} s: check that the gateway is up and connected to this \
         interface, or set its hardware address with --gateway-mac",
        patience.as_secs()
    )]
    NoAnswer {
        /// The address that was resolved.
        gateway: Ipv4Addr,
        /// The interface.
        interface: String,
        /// How long.
        patience: Duration,
    },
    /// Stopped before it began.
    #[error("interrupted while resolving {gateway} on {interface}: nothing was sent")]
    Interrupted {
        /// The address that was resolved.
        gateway: Ipv4Addr,
        /// The interface.
        interface: String,
    },
    /// Signals cannot be caught.
    #[error("catching signals")]
    Signals(#[source] io::Error),
}

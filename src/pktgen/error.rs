//! Why there was no run.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::ports::InterfaceError;

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum PktgenError {
    /// An interface cannot be used.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// No reply for the gateway's address.
    #[error(
        "no reply to {} from {gateway} on {interface} within {} s: check that the gateway is up and connected to this \
         interface, or set its hardware address with --gateway-mac",
        if gateway.is_ipv4() { "ARP" } else { "neighbour solicitations" },
        patience.as_secs()
    )]
    NoAnswer {
        /// The address that was resolved.
        gateway: IpAddr,
        /// The interface.
        interface: String,
        /// How long.
        patience: Duration,
    },
    /// Stopped before it began.
    #[error("interrupted while resolving {gateway} on {interface}: nothing was sent")]
    Interrupted {
        /// The address that was resolved.
        gateway: IpAddr,
        /// The interface.
        interface: String,
    },
    /// Signals cannot be caught.
    #[error("catching signals")]
    Signals(#[source] io::Error),
}

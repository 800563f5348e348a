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
    /// Nobody has the gateway's address.
    #[error(
        "no ARP reply from {gateway} on {interface} within {} s: check that the gateway is up and connected to this \
         interface, or set its hardware address with --gateway-mac",
        patience.as_secs()
    )]
    NoAnswer {
        /// Who was asked for.
        gateway: Ipv4Addr,
        /// Where.
        interface: String,
        /// How long.
        patience: Duration,
    },
    /// Stopped before it had begun.
    #[error("interrupted while resolving {gateway} on {interface}: nothing was sent")]
    Interrupted {
        /// Who was asked for.
        gateway: Ipv4Addr,
        /// Where.
        interface: String,
    },
    /// Signals cannot be caught.
    #[error("catching signals")]
    Signals(#[source] io::Error),
}

//! One gateway per interface: a claim prevents a second one.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use pollgate_common::pair;

use super::error::GatewayError;
use crate::config::{self, Config};

/// Claims every interface for this process: an abstract socket belongs to the network namespace, and ends with the process
/// however that ends.
pub(super) fn claim_interfaces(config: &Config) -> Result<Vec<UnixListener>, GatewayError> {
    let claim = |interface: &config::Interface| {
        let name = SocketAddr::from_abstract_name(claim_name(&interface.name));
        name.and_then(|name| UnixListener::bind_addr(&name)).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse if interface.name == pair::DATA => GatewayError::PairTaken,
            io::ErrorKind::AddrInUse => GatewayError::Taken { interface: interface.name.clone() },
            _ => GatewayError::System { doing: "claiming an interface", source },
        })
    };
    config.interfaces.iter().map(claim).collect()
}

fn claim_name(interface: &str) -> String {
    format!("pollgate/{interface}")
}

/// Whether a gateway polls the interface now. Reads the kernel's list: a connection to see it would stay in the queue.
pub(crate) fn is_claimed(interface: &str) -> bool {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    let name = format!("@{}", claim_name(interface));
    sockets.lines().any(|line| line.split_whitespace().last() == Some(&name))
}

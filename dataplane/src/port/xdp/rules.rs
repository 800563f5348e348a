//! What the steering programs know: tables shared by all of them, written by the control thread while frames pass.
//!
//! A change is one system call an entry and is seen by the very next frame. The order is the caller's: own an address
//! before it is announced, stop serving an endpoint when its last flow may have ended.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use pollgate_common::flow::Protocol;

use super::super::device::OpenError;
use super::steering::Tables;
use crate::bpf::{Kind, Map};

/// Room in the tables. Memory is taken for entries that are there, and 16 bytes for each that could be.
const OWNED: u32 = 1 << 15;
const SERVED: u32 = 1 << 18;
const HOST: u32 = 1 << 12;

/// An address; IPv4 mapped into IPv6.
type Address = [u8; 16];
/// Address, port in network order, protocol, a zero.
type Endpoint = [u8; 20];

/// The tables. Clones are the same tables.
#[derive(Clone, Debug)]
pub struct Rules {
    maps: Arc<Maps>,
}

#[derive(Debug)]
struct Maps {
    owned: Map<16, 1>,
    served: Map<20, 1>,
    host: Map<16, 1>,
}

/// A table could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}{}", full(source))]
pub struct RuleError {
    what: String,
    source: io::Error,
}

impl Rules {
    /// Empty tables: nothing is pollgate's.
    pub fn new() -> Result<Rules, OpenError> {
        Rules::with_room(OWNED)
    }

    /// The same with room for so many owned addresses: a load generator stands for more hosts than a gateway has Services.
    pub fn with_room(owned: u32) -> Result<Rules, OpenError> {
        let make = || {
            Ok(Maps {
                owned: Map::new(Kind::Hash, "pg_owned", owned.max(OWNED))?,
                served: Map::new(Kind::Hash, "pg_served", SERVED)?,
                host: Map::new(Kind::Hash, "pg_host", HOST)?,
            })
        };
        let maps = make().map_err(|source| OpenError::xdp("creating the steering program's tables", source))?;
        Ok(Rules { maps: Arc::new(maps) })
    }

    /// Takes everything sent to this address from now on.
    pub fn own(&self, address: IpAddr) -> Result<(), RuleError> {
        self.maps.owned.insert(&key(address), &[1]).map_err(RuleError::doing(|| format!("owning {address}")))
    }

    /// Leaves the address to the kernel again; fine if it was not owned.
    pub fn disown(&self, address: IpAddr) -> Result<(), RuleError> {
        self.maps.owned.remove(&key(address)).map(drop).map_err(RuleError::doing(|| format!("disowning {address}")))
    }

    /// Takes what this endpoint sends from this port to anybody but the host. Adding it twice is adding it once.
    pub fn serve(&self, address: IpAddr, port: u16, protocol: Protocol) -> Result<(), RuleError> {
        let served = self.maps.served.insert(&endpoint(address, port, protocol), &[1]);
        served.map_err(RuleError::doing(|| format!("serving {protocol:?} {address} port {port}")))
    }

    /// No longer; fine if it was not served.
    pub fn unserve(&self, address: IpAddr, port: u16, protocol: Protocol) -> Result<(), RuleError> {
        let gone = self.maps.served.remove(&endpoint(address, port, protocol)).map(drop);
        gone.map_err(RuleError::doing(|| format!("no longer serving {protocol:?} {address} port {port}")))
    }

    /// The host has this address: what endpoints send to it is the kernel's.
    pub fn add_host_address(&self, address: IpAddr) -> Result<(), RuleError> {
        self.maps
            .host
            .insert(&key(address), &[1])
            .map_err(RuleError::doing(|| format!("adding the host's address {address}")))
    }

    /// The host no longer has it; fine if it had not.
    pub fn remove_host_address(&self, address: IpAddr) -> Result<(), RuleError> {
        let gone = self.maps.host.remove(&key(address)).map(drop);
        gone.map_err(RuleError::doing(|| format!("removing the host's address {address}")))
    }

    /// For a program with these tables of its own.
    pub(super) fn tables<'a>(&'a self, mac: &'a Map<4, 8>, sockets: &'a Map<4, 4>) -> Tables<'a> {
        Tables {
            owned: self.maps.owned.as_fd(),
            served: self.maps.served.as_fd(),
            host: self.maps.host.as_fd(),
            mac: mac.as_fd(),
            sockets: sockets.as_fd(),
        }
    }
}

impl RuleError {
    /// Adds to an error what was being done.
    pub(super) fn doing(what: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> RuleError {
        |source| RuleError { what: format!("{} in the steering program's tables", what()), source }
    }
}

fn full(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::E2BIG) => " (the table is full: use backend: packet, which has no such table)",
        Some(libc::ENOMEM) => " (the kernel has no memory for it: check the service's MemoryMax=)",
        _ => "",
    }
}

fn key(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn endpoint(address: IpAddr, port: u16, protocol: Protocol) -> Endpoint {
    let mut endpoint = [0; 20];
    endpoint[..16].copy_from_slice(&key(address));
    endpoint[16..18].copy_from_slice(&port.to_be_bytes());
    endpoint[18] = protocol.number();
    endpoint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_the_program_puts_them_together() {
        let v4: IpAddr = "10.1.2.3".parse().expect("an address");
        assert_eq!(key(v4), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]);
        let v6: IpAddr = "2001:db8::7".parse().expect("an address");
        assert_eq!(key(v6), [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(endpoint(v4, 0x1f90, Protocol::Udp)[12..], [10, 1, 2, 3, 0x1f, 0x90, 17, 0]);
    }
}

//! The tables of the steering programs. All programs share them, and the control thread changes them while frames pass.
//!
//! A change is one system call per entry and applies to the next frame. The caller must keep the order: own an address before
//! it is announced, and stop serving an endpoint only when its last flow may have ended.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use pollgate_common::flow::Protocol;

use super::super::device::OpenError;
use super::steering::Tables;
use crate::bpf::{Kind, Map};

/// Capacity of the tables. The kernel allocates memory for existing entries, and 16 bytes per possible entry.
const OWNED: u32 = 1 << 15;
/// Endpoints, and as many addresses.
const SERVED: u32 = 1 << 19;
const HOST: u32 = 1 << 12;

/// An address; IPv4 is mapped into IPv6.
type Address = [u8; 16];
/// Address, port in network order, protocol, and a zero byte; or an address, three zero bytes, and 1.
type Endpoint = [u8; 20];

/// A handle to the tables. Clones refer to the same tables.
#[derive(Clone, Debug)]
pub struct Rules {
    maps: Arc<Maps>,
}

#[derive(Debug)]
struct Maps {
    owned: Map<16, 1>,
    /// Endpoints, and their addresses.
    served: Map<20, 1>,
    host: Map<16, 1>,
}

/// The error of a table that could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}{}", full(source))]
pub struct RuleError {
    what: String,
    source: io::Error,
}

impl Rules {
    /// Empty tables: no frame is taken.
    pub fn new() -> Result<Rules, OpenError> {
        Rules::with_room(OWNED)
    }

    /// Empty tables with room for at least `owned` owned addresses: a load generator stands for more hosts than a gateway
    /// has Services.
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

    /// Takes all frames to this address from now on.
    pub fn own(&self, address: IpAddr) -> Result<(), RuleError> {
        self.maps.owned.insert(&key(address), &[1]).map_err(RuleError::doing(|| format!("owning {address}")))
    }

    /// Leaves the address to the kernel again. No error if it was not owned.
    pub fn disown(&self, address: IpAddr) -> Result<(), RuleError> {
        self.maps.owned.remove(&key(address)).map(drop).map_err(RuleError::doing(|| format!("disowning {address}")))
    }

    /// Takes the frames that this endpoint sends from this port to any address except the host's. Adding an endpoint again
    /// changes nothing.
    pub fn serve(&self, address: IpAddr, port: u16, protocol: Protocol) -> Result<(), RuleError> {
        let served = self.maps.served.insert(&endpoint(address, port, protocol), &[1]);
        served.map_err(RuleError::doing(|| format!("serving {protocol:?} {address} port {port}")))
    }

    /// Stops taking the endpoint's frames. No error if it was not served.
    pub fn unserve(&self, address: IpAddr, port: u16, protocol: Protocol) -> Result<(), RuleError> {
        let gone = self.maps.served.remove(&endpoint(address, port, protocol)).map(drop);
        gone.map_err(RuleError::doing(|| format!("no longer serving {protocol:?} {address} port {port}")))
    }

    /// Takes all fragments from this address, which has an endpoint, to any address except the host's.
    pub fn take_fragments(&self, address: IpAddr) -> Result<(), RuleError> {
        let taken = self.maps.served.insert(&any_port(address), &[1]);
        taken.map_err(RuleError::doing(|| format!("taking the fragments of {address}")))
    }

    /// Leaves them to the kernel again. No error if they were not taken.
    pub fn leave_fragments(&self, address: IpAddr) -> Result<(), RuleError> {
        let left = self.maps.served.remove(&any_port(address)).map(drop);
        left.map_err(RuleError::doing(|| format!("leaving the fragments of {address}")))
    }

    /// Adds an address of the host. Frames from endpoints to it go to the kernel.
    pub fn add_host_address(&self, address: IpAddr) -> Result<(), RuleError> {
        self.maps
            .host
            .insert(&key(address), &[1])
            .map_err(RuleError::doing(|| format!("adding the host's address {address}")))
    }

    /// Removes an address of the host. No error if the host did not have it.
    pub fn remove_host_address(&self, address: IpAddr) -> Result<(), RuleError> {
        let gone = self.maps.host.remove(&key(address)).map(drop);
        gone.map_err(RuleError::doing(|| format!("removing the host's address {address}")))
    }

    /// All tables for a program that has these two of its own.
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
    /// Adds the failed operation to an error.
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

/// The key of an endpoint's address, whatever the port.
fn any_port(address: IpAddr) -> Endpoint {
    let mut any = [0; 20];
    any[..16].copy_from_slice(&key(address));
    any[19] = 1;
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_layout_of_the_program() {
        let v4: IpAddr = "10.1.2.3".parse().expect("an address");
        assert_eq!(key(v4), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]);
        let v6: IpAddr = "2001:db8::7".parse().expect("an address");
        assert_eq!(key(v6), [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(endpoint(v4, 0x1f90, Protocol::Udp)[12..], [10, 1, 2, 3, 0x1f, 0x90, 17, 0]);
        assert_eq!(any_port(v4)[12..], [10, 1, 2, 3, 0, 0, 0, 1]);
    }
}

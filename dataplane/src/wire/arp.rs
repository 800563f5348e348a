//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! ```text
//!  0       2       4    5    6      8       14      18      24      28
//!  │ hw 1  │ 0x0800│ 6  │ 4  │ op   │ sha   │ spa   │ tha   │ tpa   │
//! ```

use std::net::Ipv4Addr;

use pollgate_common::net::Mac;
use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Header;

/// The hardware type.
const ETHERNET: u16 = 1;

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// An ARP packet for IPv4 over Ethernet.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Arp {
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}

impl Header for Arp {}

/// What an ARP packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It asks for a MAC address.
    Request,
    /// It gives one.
    Reply,
}

impl Arp {
    /// Announces to all hosts that `address` is at the MAC address `own`: sender and target are the same address (RFC 5227 §3; for
    /// a reply, which has no form there, RFC 5944 §4.6).
    pub fn announcement(operation: Operation, address: Ipv4Addr, own: Mac) -> Arp {
        let (operation, target_mac) = match operation {
            Operation::Request => (REQUEST, [0; 6]),
            Operation::Reply => (REPLY, own.0),
        };
        Arp {
            hardware: U16::new(ETHERNET),
            protocol: U16::new(super::ethernet::IPV4),
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(operation),
            sender_mac: own.0,
            sender_ip: address.octets(),
            target_mac,
            target_ip: address.octets(),
        }
    }

    /// What it does; `None` if it is not about IPv4 over Ethernet, or does something else.
    pub fn operation(&self) -> Option<Operation> {
        let is_ours = self.hardware.get() == ETHERNET
            && self.protocol.get() == super::ethernet::IPV4
            && (self.hardware_len, self.protocol_len) == (6, 4);
        match self.operation.get() {
            REQUEST if is_ours => Some(Operation::Request),
            REPLY if is_ours => Some(Operation::Reply),
            _ => None,
        }
    }

    /// The requested address.
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.target_ip)
    }

    /// The MAC address of the sender.
    pub fn sender_mac(&self) -> Mac {
        Mac(self.sender_mac)
    }

    /// The address of the sender.
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.sender_ip)
    }

    /// Turns the request into its reply, with `own` as the MAC address of the requested address.
    pub fn answer(&mut self, own: Mac) {
        let asked = self.target_ip;
        self.operation = U16::new(REPLY);
        self.target_mac = self.sender_mac;
        self.target_ip = self.sender_ip;
        self.sender_mac = own.0;
        self.sender_ip = asked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_its_reply() {
        let mut bytes = [0u8; 28];
        bytes.copy_from_slice(
            b"\0\x01\x08\0\x06\x04\0\x01\xaa\xaa\xaa\xaa\xaa\xaa\x0a\0\0\x01\0\0\0\0\0\0\x0a\x60\0\x32",
        );
        let arp = Arp::at_mut(&mut bytes, 0).expect("long enough");
        assert_eq!(arp.operation(), Some(Operation::Request));
        assert_eq!(arp.target_ip(), Ipv4Addr::new(10, 96, 0, 50));
        arp.answer(Mac([2; 6]));
        assert_eq!(
            &bytes,
            b"\0\x01\x08\0\x06\x04\0\x02\x02\x02\x02\x02\x02\x02\x0a\x60\0\x32\xaa\xaa\xaa\xaa\xaa\xaa\x0a\0\0\x01"
        );
    }
}

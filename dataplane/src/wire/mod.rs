//! Headers on the wire, one file each, all with the same skeleton: field map, check, get, set, test.
//!
//! A header is a `#[repr(C)]` struct of bytes and big-endian integers, laid over the frame by `zerocopy`. Laying it over
//! is the check: it answers `None` when the bytes are too few, and after that every accessor is a plain field access and
//! cannot panic. Nothing outside this module indexes packet bytes.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod plain;
pub mod sctp;
pub mod tcp;
pub mod udp;

pub use ip::{Ip, Piece};
pub use pollgate_common::header::Header;

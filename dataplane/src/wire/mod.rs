//! Headers on the wire, one file each, all with the same structure: field map, check, get, set, test.
//!
//! A header is a `#[repr(C)]` struct of bytes and big-endian integers, which `zerocopy` lays over the frame. This step checks
//! the length and returns `None` if there are too few bytes. After it, every accessor is a plain field access and cannot
//! panic. Code outside this module does not index packet bytes.

pub mod arp;
pub mod checksum;
pub mod control;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod plain;
pub mod sctp;
pub mod tcp;
pub mod udp;

pub use control::Control;
pub use ip::{Fragment, Ip, Piece, Upper};
pub use pollgate_common::header::Header;

//! Headers on the wire, one file each, all with the same skeleton: field map, check, get, set, test.
//!
//! A header is a `#[repr(C)]` struct of bytes and big-endian integers, laid over the frame by `zerocopy`. Laying it over
//! is the check: it answers `None` when the bytes are too few, and after that every accessor is a plain field access and
//! cannot panic. Nothing outside this module indexes packet bytes.

pub mod arp;
pub mod checksum;
pub mod dns;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod plain;
pub mod tcp;
pub mod udp;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A header that can be laid over bytes.
pub trait Header: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Sized {
    /// The header at `at`, if all of it is there.
    #[inline]
    fn at(bytes: &[u8], at: usize) -> Option<&Self> {
        Self::ref_from_prefix(bytes.get(at..)?).ok().map(|(header, _)| header)
    }

    /// The same, to be changed.
    #[inline]
    fn at_mut(bytes: &mut [u8], at: usize) -> Option<&mut Self> {
        Self::mut_from_prefix(bytes.get_mut(at..)?).ok().map(|(header, _)| header)
    }
}

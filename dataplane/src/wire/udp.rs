//! UDP (RFC 768).
//!
//! ```text
//!  0       2       4        6         8
//!  │ sport │ dport │ length │ checksum│ payload
//! ```

use pollgate_common::reasons::DropReason;
use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Header, checksum};

/// Bytes of the header.
pub const LEN: usize = 8;
/// IANA protocol number.
pub const PROTOCOL: u8 = 17;

/// A UDP header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Udp {
    src_port: U16,
    dst_port: U16,
    length: U16,
    checksum: U16,
}

impl Header for Udp {}

impl Udp {
    /// The verified header at `at`: its length is at most `len`, the number of bytes that IP has for it. In a super-frame
    /// (`gso`) the length may be smaller or zero, because each segment gets its own length.
    #[inline]
    pub fn check(frame: &[u8], at: usize, len: usize, gso: bool) -> Result<&Udp, DropReason> {
        let udp = Udp::at(frame, at).ok_or(DropReason::L4Header)?;
        let length = usize::from(udp.length.get());
        if len < LEN || (!gso && (length < LEN || length > len)) { Err(DropReason::L4Header) } else { Ok(udp) }
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        self.src_port.get()
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        self.dst_port.get()
    }

    /// Bytes of header and payload.
    #[inline]
    pub fn length(&self) -> usize {
        usize::from(self.length.get())
    }

    /// Sets both ports. `delta` is the difference that addresses and ports make to the sum. "No checksum" (zero, RFC 768)
    /// stays unchanged. A sum of zero is sent as all ones. `partial`: the field contains a pseudo-header's sum, for which zero
    /// is a normal value.
    #[inline]
    pub fn translate(&mut self, src_port: u16, dst_port: u16, delta: checksum::Transport) {
        self.src_port = U16::new(src_port);
        self.dst_port = U16::new(dst_port);
        let old = self.checksum.get();
        if old == 0 && !delta.is_partial() {
            return;
        }
        let new = delta.apply(old);
        self.checksum = U16::new(if new == 0 && !delta.is_partial() { 0xffff } else { new });
    }

    /// A header for our own datagram of `length` bytes. Its checksum is still zero.
    pub fn make(src_port: u16, dst_port: u16, length: u16) -> Udp {
        Udp {
            src_port: U16::new(src_port),
            dst_port: U16::new(dst_port),
            length: U16::new(length),
            checksum: U16::new(0),
        }
    }

    /// Sets the checksum field, zero as all ones.
    pub fn set_checksum(&mut self, sum: u16) {
        self.checksum = U16::new(if sum == 0 { 0xffff } else { sum });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_field_must_fit() {
        let header = |length: u16| Udp::make(1, 2, length).as_bytes().to_vec();
        assert!(Udp::check(&header(8), 0, 8, false).is_ok());
        assert!(Udp::check(&header(8), 0, 20, false).is_ok(), "RFC 768 lets IP carry more");
        assert_eq!(Udp::check(&header(9), 0, 8, false).err(), Some(DropReason::L4Header));
        assert_eq!(Udp::check(&header(7), 0, 8, false).err(), Some(DropReason::L4Header));
        assert!(Udp::check(&header(0), 0, 40000, true).is_ok());
        assert_eq!(Udp::check(&header(8)[..7], 0, 7, false).err(), Some(DropReason::L4Header));
    }

    #[test]
    fn no_checksum_stays_no_checksum() {
        let mut udp = Udp::make(1, 2, 8);
        udp.translate(3, 4, checksum::Transport::full(0x1234));
        assert_eq!((udp.src_port(), udp.dst_port(), udp.checksum.get()), (3, 4, 0));
    }
}

//! Ethernet II (IEEE 802.3 §3.2.6).
//!
//! ```text
//!  0         6         12        14
//!  │ dst MAC │ src MAC │ type    │ payload
//! ```

use pollgate_common::net::Mac;
use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Header;

/// Bytes of the header.
pub const LEN: usize = 14;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// An Ethernet header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Ethernet {
    dst: [u8; 6],
    src: [u8; 6],
    ether_type: U16,
}

impl Header for Ethernet {}

impl Ethernet {
    /// A header.
    pub fn new(src: Mac, dst: Mac, ether_type: u16) -> Ethernet {
        Ethernet { dst: dst.0, src: src.0, ether_type: U16::new(ether_type) }
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Mac {
        Mac(self.dst)
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Mac {
        Mac(self.src)
    }

    /// EtherType of the payload.
    #[inline]
    pub fn ether_type(&self) -> u16 {
        self.ether_type.get()
    }

    /// Sets both addresses.
    #[inline]
    pub fn set_addresses(&mut self, src: Mac, dst: Mac) {
        self.src = src.0;
        self.dst = dst.0;
    }

    /// Makes the old source the destination, and `own` the source.
    pub fn reply_in_place(&mut self, own: Mac) {
        self.dst = self.src;
        self.src = own.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_standard_says() {
        let mut bytes = *b"\x01\x02\x03\x04\x05\x06\x0a\x0b\x0c\x0d\x0e\x0f\x08\x00rest";
        let header = Ethernet::at_mut(&mut bytes, 0).expect("long enough");
        assert_eq!((header.dst().0[0], header.src().0[0], header.ether_type()), (1, 10, IPV4));
        header.reply_in_place(Mac([2; 6]));
        assert_eq!(&bytes[..12], b"\x0a\x0b\x0c\x0d\x0e\x0f\x02\x02\x02\x02\x02\x02");
        assert!(Ethernet::at(&bytes[..13], 0).is_none());
    }
}

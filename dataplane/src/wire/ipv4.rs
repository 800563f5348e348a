//! IPv4 (RFC 791 §3.1).
//!
//! ```text
//!  0          1     2        4    6            8     9      10        12    16    20
//!  │ ver│ihl  │ tos │ length │ id │ flags│frag │ ttl │ prot │ checksum│ src │ dst │ options…
//! ```

use std::net::Ipv4Addr;

use pollgate_common::flow::V4;
use pollgate_common::reasons::DropReason;
use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::icmp::Icmp;
use super::{Fragment, Header, Ip, Piece, Upper, checksum, ethernet};

/// Bytes of a header without options.
pub const LEN: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fixed part of an IPv4 header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total_len: U16,
    id: U16,
    fragment: U16,
    ttl: u8,
    protocol: u8,
    checksum: U16,
    src: [u8; 4],
    dst: [u8; 4],
}

impl Header for Ipv4 {}

impl Ipv4 {
    /// Bytes of the header with its options.
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0xf) * 4
    }

    /// Which part of the original packet it is.
    pub fn piece(&self) -> Piece {
        match (self.fragment.get() & FRAGMENT_OFFSET, self.fragment.get() & MORE_FRAGMENTS) {
            (0, 0) => Piece::Whole,
            (0, _) => Piece::First,
            (_, _) => Piece::Later,
        }
    }
}

impl Ip for Ipv4 {
    type Address = V4;
    type Control = Icmp;
    const LEN: usize = LEN;
    const ETHER_TYPE: u16 = ethernet::IPV4;
    const IDENTIFICATIONS: u64 = 1 << 16;

    #[inline]
    fn check(frame: &[u8], at: usize) -> Result<(&Ipv4, Upper), DropReason> {
        let ip = Ipv4::at(frame, at).ok_or(DropReason::IpHeader)?;
        let header_len = ip.header_len();
        if ip.version_ihl >> 4 != 4 || header_len < LEN {
            return Err(DropReason::IpHeader);
        }
        let header = frame.get(at..at + header_len).ok_or(DropReason::IpHeader)?;
        if ip.total_len() < header_len || frame.len() - at < ip.total_len() {
            return Err(DropReason::IpLength);
        }
        if checksum::fold(checksum::sum(header)) != 0xffff {
            return Err(DropReason::IpChecksum);
        }
        Ok((ip, Upper { protocol: ip.protocol, offset: header_len, piece: ip.piece() }))
    }

    fn quoted(packet: &[u8]) -> Option<(&Ipv4, Upper)> {
        let ip = Ipv4::at(packet, 0)?;
        let header_len = ip.header_len();
        let fits = ip.version_ihl >> 4 == 4 && (LEN..=packet.len()).contains(&header_len);
        fits.then_some((ip, Upper { protocol: ip.protocol, offset: header_len, piece: ip.piece() }))
    }

    #[inline]
    fn is_plain(&self) -> bool {
        let whole = self.fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0;
        self.version_ihl == 0x45 && whole && checksum::is_right(zerocopy::transmute_ref!(self))
    }

    #[inline]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline]
    fn src(&self) -> V4 {
        V4(Ipv4Addr::from(self.src))
    }

    #[inline]
    fn dst(&self) -> V4 {
        V4(Ipv4Addr::from(self.dst))
    }

    #[inline]
    fn total_len(&self) -> usize {
        usize::from(self.total_len.get())
    }

    #[inline]
    fn hop_limit(&self) -> u8 {
        self.ttl
    }

    fn fragment(packet: &[u8]) -> Option<Fragment> {
        let ip = Ipv4::at(packet, 0)?;
        let header_len = ip.header_len();
        (ip.piece() != Piece::Whole).then(|| Fragment {
            identification: ip.id.get().into(),
            protocol: ip.protocol,
            offset: usize::from(ip.fragment.get() & FRAGMENT_OFFSET) * 8,
            more: ip.fragment.get() & MORE_FRAGMENTS != 0,
            data: header_len,
            counted: header_len,
        })
    }

    fn set_identification(packet: &mut [u8], identification: u32) {
        let Some(ip) = Ipv4::at_mut(packet, 0) else { return };
        let id = u16::try_from(identification & 0xffff).unwrap_or(0);
        let change = u32::from(id) + u32::from(!ip.id.get());
        ip.id = U16::new(id);
        ip.checksum = U16::new(checksum::update(ip.checksum.get(), change));
    }

    fn may_fragment(&self) -> bool {
        self.fragment.get() & DONT_FRAGMENT == 0
    }

    #[inline]
    fn translate(&mut self, src: V4, dst: V4, delta: u16) {
        self.src = src.0.octets();
        self.dst = dst.0.octets();
        // The TTL is the high byte of its word. A decrement by one is −0x0100, which in one's complement is +0xfeff.
        self.ttl = self.ttl.wrapping_sub(1);
        self.checksum = U16::new(checksum::update(self.checksum.get(), u32::from(delta) + 0xfeff));
    }

    fn set_addresses(&mut self, src: V4, dst: V4, delta: u16) {
        self.src = src.0.octets();
        self.dst = dst.0.octets();
        self.checksum = U16::new(checksum::update(self.checksum.get(), delta.into()));
    }

    fn reply_in_place(&mut self) {
        // Swapping two words does not change a sum. Only the TTL does.
        std::mem::swap(&mut self.src, &mut self.dst);
        let change = u32::from(64u16 << 8) + u32::from(!(u16::from(self.ttl) << 8));
        self.ttl = 64;
        self.checksum = U16::new(checksum::update(self.checksum.get(), change));
    }

    fn set_total_len(&mut self, total_len: u16) {
        let change = u32::from(total_len) + u32::from(!self.total_len.get());
        self.total_len = U16::new(total_len);
        self.checksum = U16::new(checksum::update(self.checksum.get(), change));
    }

    fn make(src: V4, dst: V4, protocol: u8, total_len: u16) -> Ipv4 {
        let mut ip = Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(total_len),
            id: U16::new(0),
            fragment: U16::new(DONT_FRAGMENT),
            ttl: 64,
            protocol,
            checksum: U16::new(0),
            src: src.0.octets(),
            dst: dst.0.octets(),
        };
        ip.checksum = U16::new(!checksum::fold(checksum::sum(ip.as_bytes())));
        ip
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::Ipv4HeaderSlice;

    fn header() -> Vec<u8> {
        Ipv4::make(V4(Ipv4Addr::new(10, 0, 0, 1)), V4(Ipv4Addr::new(10, 96, 0, 50)), 6, 20).as_bytes().to_vec()
    }

    #[test]
    fn another_parser_agrees_with_what_is_made_and_translated() {
        let mut bytes = header();
        assert!(Ipv4::check(&bytes, 0).is_ok());
        let old = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 96, 0, 50));
        let new = (Ipv4Addr::new(192, 168, 50, 10), Ipv4Addr::new(10, 244, 1, 10));
        let delta = checksum::delta(&[old.0.into(), old.1.into()], &[new.0.into(), new.1.into()]);
        Ipv4::at_mut(&mut bytes, 0).expect("long enough").translate(V4(new.0), V4(new.1), delta);
        let seen = Ipv4HeaderSlice::from_slice(&bytes).expect("a header").to_header();
        assert_eq!((seen.source, seen.destination, seen.time_to_live), (new.0.octets(), new.1.octets(), 63));
        assert_eq!(seen.header_checksum, seen.calc_header_checksum());
    }

    #[test]
    fn a_fragment_is_read_and_its_identification_changed() {
        let mut bytes = header();
        assert_eq!(Ipv4::fragment(&bytes), None, "a whole packet");
        bytes[4..8].copy_from_slice(&[0x12, 0x34, 0x20, 185]);
        bytes[10..12].fill(0);
        let sum = !checksum::fold(checksum::sum(&bytes));
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        let fragment =
            Fragment { identification: 0x1234, protocol: 6, offset: 1480, more: true, data: 20, counted: 20 };
        assert_eq!(Ipv4::fragment(&bytes), Some(fragment));
        Ipv4::set_identification(&mut bytes, 0xfedc);
        let seen = Ipv4HeaderSlice::from_slice(&bytes).expect("a header").to_header();
        assert_eq!((seen.identification, seen.header_checksum), (0xfedc, seen.calc_header_checksum()));
        assert_eq!(Ipv4::fragment(&bytes), Some(Fragment { identification: 0xfedc, ..fragment }));
    }

    #[test]
    fn each_wrong_field_has_its_reason() {
        let good = header();
        let check = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Ipv4::check(&bytes, 0).err()
        };
        assert_eq!(check(&|b| b.truncate(19)), Some(DropReason::IpHeader));
        assert_eq!(check(&|b| b[0] = 0x65), Some(DropReason::IpHeader));
        assert_eq!(check(&|b| b[0] = 0x44), Some(DropReason::IpHeader));
        assert_eq!(check(&|b| b[0] = 0x46), Some(DropReason::IpHeader), "options beyond the frame");
        assert_eq!(check(&|b| b[3] = 21), Some(DropReason::IpLength));
        assert_eq!(check(&|b| b[3] = 19), Some(DropReason::IpLength));
        assert_eq!(check(&|b| b[8] = 1), Some(DropReason::IpChecksum));
        assert_eq!(check(&|b| b.extend([0; 26])), None, "padding is ignored");
    }
}

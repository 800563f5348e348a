//! IPv6 (RFC 8200 §3, §4).
//!
//! ```text
//!  0             4         6      7           8     24    40
//!  │ ver│tc│flow │ payload │ next │ hop limit │ src │ dst │ extension headers …
//! ```
//!
//! Extension headers in front of the transport header are skipped: hop-by-hop options, destination options, a routing header
//! that has done its work, and a fragment header, which also says which piece the packet is. The walk is bounded. Where it
//! ends, the packet's protocol is: at an unknown header, at one that is out of place, at a routing header that still has
//! somewhere to go, at IPsec. Such a packet belongs to no flow.

use std::net::Ipv6Addr;

use pollgate_common::flow::V6;
use pollgate_common::reasons::DropReason;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::icmpv6::Icmpv6;
use super::{Fragment, Header, Ip, Piece, Upper, ethernet};

/// Bytes of the fixed header.
pub const LEN: usize = 40;

/// Extension headers that are skipped at most. A packet in the recommended order has four without IPsec (RFC 8200 §4.1).
const MOST_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

const MORE_FRAGMENTS: u16 = 1;
const FRAGMENT_OFFSET: u16 = 0xfff8;

/// The fixed IPv6 header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv6 {
    version_class_flow: U32,
    payload_len: U16,
    next: u8,
    hop_limit: u8,
    src: [u8; 16],
    dst: [u8; 16],
}

impl Header for Ipv6 {}

/// The first bytes of an extension header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Extension {
    next: u8,
    /// Units of eight bytes beyond the first eight; nothing in a fragment header.
    length: u8,
    /// Fragment header: offset and flag. Routing header: type and segments left.
    third: U16,
    rest: [u8; 4],
}

impl Header for Extension {}

impl Extension {
    fn len(&self) -> usize {
        (usize::from(self.length) + 1) * 8
    }

    /// Routing header: how many stops are ahead.
    fn segments_left(&self) -> u16 {
        self.third.get() & 0xff
    }

    /// Fragment header: the identification.
    fn identification(&self) -> u32 {
        u32::from_be_bytes(self.rest)
    }

    /// Fragment header: a packet in one piece may have one too (RFC 6946).
    fn piece(&self) -> Piece {
        match (self.third.get() & FRAGMENT_OFFSET, self.third.get() & MORE_FRAGMENTS) {
            (0, 0) => Piece::Whole,
            (0, _) => Piece::First,
            (_, _) => Piece::Later,
        }
    }
}

impl Ipv6 {
    /// The same with another hop limit.
    pub fn with_hop_limit(self, hop_limit: u8) -> Ipv6 {
        Ipv6 { hop_limit, ..self }
    }

    /// What follows the extension headers of this packet, whose bytes are `packet`, and where its fragment header is. Fails if a
    /// header is truncated. A first fragment must hold all of them (RFC 7112).
    fn chain(&self, packet: &[u8]) -> Result<(Upper, Option<usize>), DropReason> {
        let mut upper = Upper { protocol: self.next, offset: LEN, piece: Piece::Whole };
        let mut fragment = None;
        let truncated = |piece| match piece {
            Piece::First => DropReason::FragmentTiny,
            Piece::Whole | Piece::Later => DropReason::IpHeader,
        };
        for _ in 0..MOST_EXTENSIONS {
            let is_known = match upper.protocol {
                // Only behind the fixed header (RFC 8200 §4.1).
                HOP_BY_HOP => upper.offset == LEN,
                FRAGMENT => fragment.is_none(),
                ROUTING | DESTINATION_OPTIONS => true,
                _ => false,
            };
            if !is_known {
                break;
            }
            let extension = Extension::at(packet, upper.offset).ok_or_else(|| truncated(upper.piece))?;
            let len = match upper.protocol {
                ROUTING if extension.segments_left() > 0 => break,
                FRAGMENT => {
                    fragment = Some(upper.offset);
                    upper.piece = extension.piece();
                    size_of::<Extension>()
                }
                _ => extension.len(),
            };
            upper.protocol = extension.next;
            upper.offset += len;
            if upper.piece == Piece::Later {
                break;
            }
        }
        if upper.offset <= packet.len() { Ok((upper, fragment)) } else { Err(truncated(upper.piece)) }
    }
}

impl Ip for Ipv6 {
    type Address = V6;
    type Control = Icmpv6;
    const LEN: usize = LEN;
    const ETHER_TYPE: u16 = ethernet::IPV6;
    const IDENTIFICATIONS: u64 = 1 << 32;

    #[inline]
    fn check(frame: &[u8], at: usize) -> Result<(&Ipv6, Upper), DropReason> {
        let ip = Ipv6::at(frame, at).ok_or(DropReason::IpHeader)?;
        if !ip.is_plain() {
            return Err(DropReason::IpHeader);
        }
        let packet = frame.get(at..at + ip.total_len()).ok_or(DropReason::IpLength)?;
        Ok((ip, ip.chain(packet)?.0))
    }

    fn quoted(packet: &[u8]) -> Option<(&Ipv6, Upper)> {
        let ip = Ipv6::at(packet, 0)?;
        if ip.is_plain() { Some((ip, ip.chain(packet).ok()?.0)) } else { None }
    }

    /// The version is all there is to check; extension headers are protocols of their own.
    #[inline]
    fn is_plain(&self) -> bool {
        self.version_class_flow.get() >> 28 == 6
    }

    #[inline]
    fn protocol(&self) -> u8 {
        self.next
    }

    #[inline]
    fn src(&self) -> V6 {
        V6(Ipv6Addr::from(self.src))
    }

    #[inline]
    fn dst(&self) -> V6 {
        V6(Ipv6Addr::from(self.dst))
    }

    #[inline]
    fn total_len(&self) -> usize {
        LEN + usize::from(self.payload_len.get())
    }

    #[inline]
    fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    fn fragment(packet: &[u8]) -> Option<Fragment> {
        let at = Ipv6::at(packet, 0)?.chain(packet).ok()?.1?;
        let header = Extension::at(packet, at)?;
        let data = at + size_of::<Extension>();
        (header.piece() != Piece::Whole).then(|| Fragment {
            identification: header.identification(),
            protocol: 0,
            offset: usize::from(header.third.get() & FRAGMENT_OFFSET),
            more: header.third.get() & MORE_FRAGMENTS != 0,
            data,
            counted: at - LEN,
        })
    }

    fn set_identification(packet: &mut [u8], identification: u32) {
        let at = Ipv6::at(packet, 0).and_then(|ip| ip.chain(packet).ok()?.1);
        if let Some(header) = at.and_then(|at| Extension::at_mut(packet, at)) {
            header.rest = identification.to_be_bytes();
        }
    }

    /// Only the sender may (RFC 8200 §5).
    fn may_fragment(&self) -> bool {
        false
    }

    /// There is no header sum.
    #[inline]
    fn translate(&mut self, src: V6, dst: V6, _delta: u16) {
        self.src = src.0.octets();
        self.dst = dst.0.octets();
        self.hop_limit = self.hop_limit.wrapping_sub(1);
    }

    fn set_addresses(&mut self, src: V6, dst: V6, _delta: u16) {
        self.src = src.0.octets();
        self.dst = dst.0.octets();
    }

    fn reply_in_place(&mut self) {
        std::mem::swap(&mut self.src, &mut self.dst);
        self.hop_limit = 64;
    }

    fn set_total_len(&mut self, total_len: u16) {
        self.payload_len = U16::new(total_len.saturating_sub(40));
    }

    fn make(src: V6, dst: V6, protocol: u8, total_len: u16) -> Ipv6 {
        Ipv6 {
            version_class_flow: U32::new(6 << 28),
            payload_len: U16::new(total_len.saturating_sub(40)),
            next: protocol,
            hop_limit: 64,
            src: src.0.octets(),
            dst: dst.0.octets(),
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::Ipv6HeaderSlice;
    use proptest::prelude::*;

    use super::*;

    fn address(last: u16) -> V6 {
        V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
    }

    /// A packet whose first next header is `next`, with these bytes behind the fixed header.
    fn packet(next: u8, behind: &[u8]) -> Vec<u8> {
        let total = u16::try_from(LEN + behind.len()).expect("small");
        let mut bytes = Ipv6::make(address(1), address(2), next, total).as_bytes().to_vec();
        bytes.extend(behind);
        bytes
    }

    fn upper(next: u8, behind: &[u8]) -> Result<(u8, usize, Piece), DropReason> {
        Ipv6::check(&packet(next, behind), 0).map(|(_, upper)| (upper.protocol, upper.offset, upper.piece))
    }

    #[test]
    fn another_parser_agrees_with_what_is_made_and_translated() {
        let mut bytes = packet(6, &[0; 20]);
        Ipv6::at_mut(&mut bytes, 0).expect("long enough").translate(address(7), address(8), 0x1234);
        let seen = Ipv6HeaderSlice::from_slice(&bytes).expect("a header");
        assert_eq!((seen.source_addr(), seen.destination_addr()), (address(7).0, address(8).0));
        assert_eq!((seen.hop_limit(), seen.payload_length(), seen.next_header().0), (63, 20, 6));
        let ip = Ipv6::at_mut(&mut bytes, 0).expect("long enough");
        ip.reply_in_place();
        ip.set_total_len(140);
        let seen = Ipv6HeaderSlice::from_slice(&bytes).expect("a header");
        assert_eq!((seen.source_addr(), seen.destination_addr()), (address(8).0, address(7).0));
        assert_eq!((seen.hop_limit(), seen.payload_length()), (64, 100));
    }

    #[test]
    fn each_wrong_field_has_its_reason() {
        let good = packet(17, &[0; 8]);
        let check = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Ipv6::check(&bytes, 0).err()
        };
        assert_eq!(check(&|b| b.truncate(39)), Some(DropReason::IpHeader));
        assert_eq!(check(&|b| b[0] = 0x45), Some(DropReason::IpHeader));
        assert_eq!(check(&|b| b[5] = 9), Some(DropReason::IpLength));
        assert_eq!(check(&|b| b.extend([0; 26])), None, "padding is ignored");
    }

    #[test]
    fn extension_headers_are_skipped() {
        let eight = |next: u8| [next, 0, 0, 0, 0, 0, 0, 0];
        let sixteen = |next: u8| [&[next, 1][..], &[0; 14]].concat();
        assert_eq!(upper(6, &[]), Ok((6, 40, Piece::Whole)));
        assert_eq!(upper(HOP_BY_HOP, &eight(17)), Ok((17, 48, Piece::Whole)));
        let chain = [&eight(DESTINATION_OPTIONS)[..], &sixteen(ROUTING), &eight(FRAGMENT), &eight(6)].concat();
        assert_eq!(upper(HOP_BY_HOP, &chain), Ok((6, 80, Piece::Whole)), "a fragment header of a whole packet");
    }

    #[test]
    fn a_fragment_header_names_the_piece() {
        let fragment = |third: u16, next: u8| {
            let [a, b] = third.to_be_bytes();
            [next, 0, a, b, 0, 0, 0, 1]
        };
        assert_eq!(upper(FRAGMENT, &fragment(1, 17)), Ok((17, 48, Piece::First)));
        assert_eq!(upper(FRAGMENT, &fragment(8, 17)), Ok((17, 48, Piece::Later)), "the last");
        assert_eq!(upper(FRAGMENT, &fragment(0x5a9, 17)), Ok((17, 48, Piece::Later)));
        // What follows a later fragment's header is data, whatever its number.
        assert_eq!(upper(FRAGMENT, &fragment(8, DESTINATION_OPTIONS)), Ok((60, 48, Piece::Later)));
        let two = [fragment(1, FRAGMENT), fragment(0, 17)].concat();
        assert_eq!(upper(FRAGMENT, &two), Ok((FRAGMENT, 48, Piece::First)), "one at most");
    }

    #[test]
    fn the_walk_ends_at_what_is_not_skipped() {
        let chain = |first: u8, next: u8| [[first, 0, 0, 0, 0, 0, 0, 0], [next, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(upper(DESTINATION_OPTIONS, &chain(HOP_BY_HOP, 6)), Ok((HOP_BY_HOP, 48, Piece::Whole)), "not first");
        let routing = [6, 0, 0, 2, 0, 0, 0, 0];
        assert_eq!(upper(ROUTING, &routing), Ok((ROUTING, 40, Piece::Whole)), "two stops are ahead");
        for ipsec in [50, 51] {
            assert_eq!(upper(DESTINATION_OPTIONS, &chain(ipsec, 6)), Ok((ipsec, 48, Piece::Whole)));
        }
        let many = [DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 0].repeat(9);
        assert_eq!(upper(DESTINATION_OPTIONS, &many), Ok((DESTINATION_OPTIONS, 40 + 64, Piece::Whole)), "the bound");
        assert_eq!(upper(HOP_BY_HOP, &[6, 0, 0]), Err(DropReason::IpHeader), "truncated");
        assert_eq!(upper(HOP_BY_HOP, &[6, 1, 0, 0, 0, 0, 0, 0]), Err(DropReason::IpHeader), "longer than the packet");
    }

    #[test]
    fn a_fragment_is_read_and_its_identification_changed() {
        let later = [60, 0, 0x05, 0xc9, 1, 2, 3, 4, 9, 9, 9, 9, 9, 9, 9, 9];
        let options = [44, 0, 1, 4, 0, 0, 0, 0];
        let mut bytes = packet(60, &[&options[..], &later].concat());
        let fragment =
            Fragment { identification: 0x0102_0304, protocol: 0, offset: 1480, more: true, data: 56, counted: 8 };
        assert_eq!(Ipv6::fragment(&bytes), Some(fragment));
        Ipv6::set_identification(&mut bytes, 0xfedc_ba98);
        assert_eq!(Ipv6::fragment(&bytes), Some(Fragment { identification: 0xfedc_ba98, ..fragment }));
        assert_eq!(bytes[56..], [9; 8]);
        // In one piece, and none at all.
        assert_eq!(Ipv6::fragment(&packet(44, &[17, 0, 0, 0, 1, 2, 3, 4])), None);
        assert_eq!(Ipv6::fragment(&packet(17, &[0; 8])), None);
    }

    #[test]
    fn a_first_fragment_that_does_not_hold_all_headers_is_tiny() {
        let first = [60, 0, 0, 1, 1, 2, 3, 4];
        let options = [17, 1, 1, 12, 0, 0, 0, 0];
        let bytes = [&first[..], &options].concat();
        assert_eq!(upper(44, &bytes), Err(DropReason::FragmentTiny), "RFC 7112: the options go on elsewhere");
        assert_eq!(upper(44, &first), Err(DropReason::FragmentTiny));
        assert_eq!(upper(44, &first[..4]), Err(DropReason::IpHeader), "the fragment header itself is cut");
    }

    proptest! {
        #[test]
        fn the_upper_layer_is_within_the_packet(next in any::<u8>(), behind in proptest::collection::vec(any::<u8>(), 0..90)) {
            if let Ok((_, offset, _)) = upper(next, &behind) {
                prop_assert!((LEN..=LEN + behind.len()).contains(&offset));
            }
        }
    }
}

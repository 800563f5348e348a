//! Neighbour discovery (RFC 4861 §4.3, §4.4): solicitations and advertisements, right behind the fixed IPv6 header.
//!
//! ```text
//!  0      1      2          4       8        24
//!  │ type │ code │ checksum │ flags │ target │ options: type, length in units of eight bytes, …
//! ```
//!
//! Neither has extension headers in front (a fragmented one is to be ignored: RFC 6980), so it is found at a fixed offset.

use std::net::Ipv6Addr;

use pollgate_common::flow::V6;
use pollgate_common::net::Mac;
use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::{self, Ethernet};
use super::icmpv6::Icmpv6;
use super::ipv6::{self, Ipv6};
use super::{Control, Header, Ip, checksum};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// The advertisement replies to a solicitation.
const SOLICITED: u8 = 0x40;
/// Receivers replace the address that they have.
const OVERRIDE: u8 = 0x20;

const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// Neighbour discovery is never forwarded: any smaller hop limit comes from elsewhere (RFC 4861 §7.1).
const HOP_LIMIT: u8 = 255;

/// All nodes of the link (RFC 4291 §2.7.1).
const ALL_NODES: V6 = V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));

/// What solicitations and advertisements begin with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Message {
    kind: u8,
    code: u8,
    checksum: U16,
    flags: u8,
    reserved: [u8; 3],
    target: [u8; 16],
}

impl Header for Message {}

/// An option with a link-layer address.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct LinkAddress {
    kind: u8,
    length: u8,
    mac: [u8; 6],
}

impl Header for LinkAddress {}

/// A solicitation or advertisement of one address: IPv6 header, message and the option with the sender's MAC address.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Discovery {
    ip: Ipv6,
    message: Message,
    option: LinkAddress,
}

impl Header for Discovery {}

/// A valid solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// The sender; unspecified if it probes whether the target is in use.
    pub src: V6,
    /// The address it asks about.
    pub target: V6,
    /// The sender's MAC address, if the message has it.
    pub mac: Option<Mac>,
}

/// A solicitation or an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It asks for a MAC address.
    Solicitation,
    /// It gives one.
    Advertisement,
}

/// What the packet whose IPv6 header is at `at` is, and its target; `None` if it is something else. Nothing else is verified.
pub fn target(frame: &[u8], at: usize) -> Option<(Kind, V6)> {
    let (ip, message) = (Ipv6::at(frame, at)?, Message::at(frame, at + ipv6::LEN)?);
    let kind = match message.kind {
        SOLICITATION => Kind::Solicitation,
        ADVERTISEMENT => Kind::Advertisement,
        _ => return None,
    };
    (ip.protocol() == Icmpv6::PROTOCOL).then(|| (kind, V6(Ipv6Addr::from(message.target))))
}

/// The multicast group in which the owner of `address` receives solicitations (RFC 4291 §2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// The MAC address of a multicast group (RFC 2464 §7).
pub fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

impl Solicitation {
    /// Whether the sender has no address yet and asks whether it may use the target.
    pub fn is_probe(&self) -> bool {
        self.src.0.is_unspecified()
    }

    /// Replaces the solicitation, whose frame `buffer` starts with, by its reply from the host with the MAC address `own`. Returns
    /// the length of that frame; `None` if the buffer is too small.
    pub fn answer_in_place(&self, own: Mac, buffer: &mut [u8]) -> Option<usize> {
        let (advertisement, group) = Discovery::reply(self, own);
        let end = ethernet::LEN + size_of::<Discovery>();
        buffer.get_mut(ethernet::LEN..end)?.copy_from_slice(advertisement.as_bytes());
        let header = Ethernet::at_mut(buffer, 0)?;
        let to = group.or(self.mac).unwrap_or_else(|| header.src());
        header.set_addresses(own, to);
        Some(end)
    }

    /// The solicitation whose IPv6 header is at `at`, if it is valid by RFC 4861 §7.1.1. `is_partial`: its sum is left to
    /// offload.
    pub fn check(frame: &[u8], at: usize, is_partial: bool) -> Option<Solicitation> {
        let (ip, message, options) = intact(frame, at, is_partial, SOLICITATION)?;
        let mac = link_address(options, SOURCE_LINK_ADDRESS)?;
        let (src, target) = (ip.src(), V6(Ipv6Addr::from(message.target)));
        let solicitation = Solicitation { src, target, mac };
        let may_probe = ip.dst().0 == solicited_node(target.0) && mac.is_none();
        (!solicitation.is_probe() || may_probe).then_some(solicitation)
    }
}

/// The MAC address that the advertisement whose IPv6 header is at `at` gives for its target, or else that of its sender; `None` if
/// it is not valid by RFC 4861 §7.1.2. `is_partial`: its sum is left to offload.
pub fn advertised_mac(frame: &[u8], at: usize, is_partial: bool) -> Option<Mac> {
    let (ip, message, options) = intact(frame, at, is_partial, ADVERTISEMENT)?;
    let mac = link_address(options, TARGET_LINK_ADDRESS)?;
    // What goes to all replies to nobody.
    let may_be = !ip.dst().0.is_multicast() || message.flags & SOLICITED == 0;
    may_be.then_some(mac.or_else(|| Some(Ethernet::at(frame, 0)?.src()))?)
}

/// The header, the message of this kind and its options, if it meets what both kinds must.
fn intact(frame: &[u8], at: usize, is_partial: bool, kind: u8) -> Option<(&Ipv6, &Message, &[u8])> {
    let (ip, upper) = Ipv6::check(frame, at).ok()?;
    let bytes = frame.get(at + upper.offset..at + ip.total_len())?;
    let message = Message::at(bytes, 0)?;
    let pseudo = checksum::pseudo(ip.src(), ip.dst(), Icmpv6::PROTOCOL, bytes.len());
    let has_sum = is_partial || checksum::fold(pseudo + checksum::sum(bytes)) == 0xffff;
    let is_it =
        (upper.protocol, upper.offset) == (Icmpv6::PROTOCOL, ipv6::LEN) && (message.kind, message.code) == (kind, 0);
    let is_intact = is_it && has_sum && ip.hop_limit() == HOP_LIMIT && !Ipv6Addr::from(message.target).is_multicast();
    is_intact.then(|| (ip, message, &bytes[size_of::<Message>()..]))
}

/// The link-layer address among the options; `Some(None)` if there is none, `None` if the options are malformed.
fn link_address(mut options: &[u8], kind: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while !options.is_empty() {
        let len = usize::from(*options.get(1)?) * 8;
        let option = options.get(..len).filter(|option| !option.is_empty())?;
        if option[0] == kind && len == size_of::<LinkAddress>() {
            found = LinkAddress::at(option, 0).map(|option| Mac(option.mac));
        }
        options = &options[len..];
    }
    Some(found)
}

impl Discovery {
    /// The reply to `solicitation` from the host with the MAC address `own`, and the group it goes to if it is for all nodes:
    /// who probes has no address yet (RFC 4861 §7.2.4).
    fn reply(solicitation: &Solicitation, own: Mac) -> (Discovery, Option<Mac>) {
        let Solicitation { src, target, .. } = *solicitation;
        if solicitation.is_probe() {
            let (advertisement, group) = Discovery::announcement(target, own);
            return (advertisement, Some(group));
        }
        (Discovery::new(target, src, (ADVERTISEMENT, SOLICITED | OVERRIDE), target, own), None)
    }

    /// Announces to all nodes that `address` is at the MAC address `own`, whatever they have for it (RFC 4861 §7.2.6), and the
    /// group it goes to.
    pub fn announcement(address: V6, own: Mac) -> (Discovery, Mac) {
        (Discovery::new(address, ALL_NODES, (ADVERTISEMENT, OVERRIDE), address, own), group_mac(ALL_NODES.0))
    }

    /// The question of `src`, which has the MAC address `own`, for that of `target`, and the group it goes to.
    pub fn question(src: V6, target: V6, own: Mac) -> (Discovery, Mac) {
        let group = solicited_node(target.0);
        (Discovery::new(src, V6(group), (SOLICITATION, 0), target, own), group_mac(group))
    }

    fn new(src: V6, dst: V6, (kind, flags): (u8, u8), target: V6, own: Mac) -> Discovery {
        let total = u16::try_from(size_of::<Discovery>()).unwrap_or(0);
        let ip = Ipv6::make(src, dst, Icmpv6::PROTOCOL, total).with_hop_limit(HOP_LIMIT);
        let (checksum, target) = (U16::new(0), target.0.octets());
        let mut message = Message { kind, code: 0, checksum, flags, reserved: [0; 3], target };
        let option_kind = if kind == SOLICITATION { SOURCE_LINK_ADDRESS } else { TARGET_LINK_ADDRESS };
        let option = LinkAddress { kind: option_kind, length: 1, mac: own.0 };
        let pseudo = checksum::pseudo(src, dst, Icmpv6::PROTOCOL, usize::from(total) - ipv6::LEN);
        let sum = pseudo + checksum::sum(message.as_bytes()) + checksum::sum(option.as_bytes());
        message.checksum = U16::new(!checksum::fold(sum));
        Discovery { ip, message, option }
    }

    /// The address that the advertisement in the frame is about, and its MAC address. Only what a reply of a neighbour has is
    /// read: the option must come first.
    pub fn advertised(frame: &[u8], at: usize) -> Option<(V6, Mac)> {
        let Discovery { ip, message, option } = Discovery::at(frame, at)?;
        let is_it = ip.protocol() == Icmpv6::PROTOCOL
            && message.kind == ADVERTISEMENT
            && (option.kind, option.length) == (TARGET_LINK_ADDRESS, 1);
        is_it.then(|| (V6(Ipv6Addr::from(message.target)), Mac(option.mac)))
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv6Slice, Icmpv6Type};
    use proptest::prelude::*;

    use super::*;

    const HOST: V6 = V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x64));
    const TARGET: V6 = V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x1234, 0x5678));
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    fn solicitation(src: V6, dst: V6, options: &[u8]) -> Vec<u8> {
        let message = Message {
            kind: SOLICITATION,
            code: 0,
            checksum: U16::new(0),
            flags: 0,
            reserved: [0; 3],
            target: TARGET.0.octets(),
        };
        let mut bytes = message.as_bytes().to_vec();
        bytes.extend(options);
        let sum = checksum::pseudo(src, dst, 58, bytes.len()) + checksum::sum(&bytes);
        bytes[2..4].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        let total = u16::try_from(ipv6::LEN + bytes.len()).expect("small");
        [Ipv6::make(src, dst, 58, total).with_hop_limit(255).as_bytes(), &bytes].concat()
    }

    fn own_option() -> [u8; 8] {
        [SOURCE_LINK_ADDRESS, 1, 2, 0, 0, 0, 0, 7]
    }

    #[test]
    fn the_groups_are_those_of_the_standards() {
        let group = solicited_node(TARGET.0);
        assert_eq!(group, "ff02::1:ff34:5678".parse::<Ipv6Addr>().expect("an address"));
        assert_eq!(group_mac(group), Mac([0x33, 0x33, 0xff, 0x34, 0x56, 0x78]));
    }

    #[test]
    fn a_valid_solicitation_is_read() {
        let group = V6(solicited_node(TARGET.0));
        let bytes = solicitation(HOST, group, &own_option());
        assert_eq!(target(&bytes, 0), Some((Kind::Solicitation, TARGET)));
        let expected = Solicitation { src: HOST, target: TARGET, mac: Some(MAC) };
        assert_eq!(Solicitation::check(&bytes, 0, false), Some(expected));
        let to_us = solicitation(HOST, TARGET, &[]);
        assert_eq!(Solicitation::check(&to_us, 0, false), Some(Solicitation { mac: None, ..expected }));
        let probe = solicitation(V6::default(), group, &[14, 1, 1, 2, 3, 4, 5, 6]);
        let expected = Solicitation { src: V6::default(), target: TARGET, mac: None };
        assert_eq!(Solicitation::check(&probe, 0, false), Some(expected), "a nonce is skipped");
    }

    #[test]
    fn an_invalid_solicitation_is_not() {
        let group = V6(solicited_node(TARGET.0));
        let check = |bytes: &[u8]| Solicitation::check(bytes, 0, false);
        let good = solicitation(HOST, group, &own_option());
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(check(&with(7, 254)), None, "it was forwarded");
        assert_eq!(check(&with(41, 1)), None, "code");
        assert_eq!(check(&with(63, good[63] ^ 1)), None, "checksum");
        assert_eq!(check(&solicitation(HOST, group, &[1, 0, 0, 0, 0, 0, 0, 0])), None, "an option of no length");
        assert_eq!(check(&solicitation(HOST, group, &[1, 2, 0, 0, 0, 0, 0, 0])), None, "an option beyond the packet");
        assert_eq!(check(&solicitation(HOST, group, &[1])), None, "half an option");
        assert_eq!(check(&solicitation(V6::default(), TARGET, &[])), None, "a probe is to the group");
        assert_eq!(check(&solicitation(V6::default(), group, &own_option())), None, "a probe has no address");
        assert_eq!(check(&good[..ipv6::LEN + 20]), None, "truncated");
    }

    #[test]
    fn another_parser_reads_the_advertisements() {
        let solicitation = Solicitation { src: HOST, target: TARGET, mac: None };
        let probe = Solicitation { src: V6::default(), ..solicitation };
        for (asked, dst, mac, solicited) in
            [(solicitation, HOST, None, true), (probe, ALL_NODES, Some(Mac([0x33, 0x33, 0, 0, 0, 1])), false)]
        {
            let (advertisement, group) = Discovery::reply(&asked, MAC);
            let bytes = advertisement.as_bytes();
            assert_eq!(group, mac);
            let (ip, upper) = Ipv6::check(bytes, 0).expect("a header");
            assert_eq!((ip.src(), ip.dst(), ip.hop_limit()), (TARGET, dst, 255));
            let slice = Icmpv6Slice::from_slice(&bytes[upper.offset..]).expect("a message");
            assert!(slice.is_checksum_valid(TARGET.0.octets(), dst.0.octets()));
            let Icmpv6Type::NeighborAdvertisement(header) = slice.icmp_type() else { panic!("{slice:?}") };
            assert_eq!((header.router, header.solicited, header.r#override), (false, solicited, true));
            assert_eq!(&slice.payload()[16..], [2, 1, 2, 0, 0, 0, 0, 7]);
            assert_eq!(Discovery::advertised(bytes, 0), Some((TARGET, MAC)));
        }
    }

    #[test]
    fn a_question_is_a_valid_solicitation() {
        let (question, group) = Discovery::question(HOST, TARGET, MAC);
        let expected = Solicitation { src: HOST, target: TARGET, mac: Some(MAC) };
        assert_eq!(Solicitation::check(question.as_bytes(), 0, false), Some(expected));
        assert_eq!(
            (group, Discovery::advertised(question.as_bytes(), 0)),
            (Mac([0x33, 0x33, 0xff, 0x34, 0x56, 0x78]), None)
        );
    }

    /// RFC 4861 §7.1.2.
    #[test]
    fn a_valid_advertisement_gives_a_mac_address() {
        let frame = |discovery: Discovery, changes: &[(usize, u8)]| {
            let mut bytes = [Ethernet::new(Mac([9; 6]), MAC, ethernet::IPV6).as_bytes(), discovery.as_bytes()].concat();
            for &(at, value) in changes {
                bytes[ethernet::LEN + at] = value;
            }
            if !changes.is_empty() {
                bytes[ethernet::LEN + 42..ethernet::LEN + 44].fill(0);
                let (ip, upper) = Ipv6::check(&bytes, ethernet::LEN).expect("a header");
                let message = &bytes[ethernet::LEN + upper.offset..];
                let sum = checksum::pseudo(ip.src(), ip.dst(), 58, message.len()) + checksum::sum(message);
                bytes[ethernet::LEN + 42..ethernet::LEN + 44].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
            }
            bytes
        };
        let mac = |bytes: &[u8]| advertised_mac(bytes, ethernet::LEN, false);
        let to_all = Discovery::announcement(TARGET, MAC).0;
        let solicited = Discovery::reply(&Solicitation { src: HOST, target: TARGET, mac: None }, MAC).0;
        assert_eq!(target(&frame(to_all, &[]), ethernet::LEN), Some((Kind::Advertisement, TARGET)));
        assert_eq!((mac(&frame(to_all, &[])), mac(&frame(solicited, &[]))), (Some(MAC), Some(MAC)));
        assert_eq!(mac(&frame(to_all, &[(64, 14)])), Some(Mac([9; 6])), "without the option, the sender's");
        assert_eq!(mac(&frame(to_all, &[(44, SOLICITED)])), None, "solicited, and to all");
        assert_eq!(mac(&frame(to_all, &[(7, 254)])), None, "it was forwarded");
        assert_eq!(mac(&frame(to_all, &[(41, 1)])), None, "code");
        assert_eq!(mac(&frame(to_all, &[(48, 0xff)])), None, "a group");
        assert_eq!(mac(&frame(to_all, &[(65, 0)])), None, "an option of no length");
        let mut damaged = frame(to_all, &[]);
        damaged[ethernet::LEN + 43] ^= 1;
        assert_eq!(mac(&damaged), None, "checksum");
        assert_eq!(advertised_mac(&damaged, ethernet::LEN, true), Some(MAC), "left to offload");
    }

    proptest! {
        #[test]
        fn options_are_read_within_bounds(options in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bytes = solicitation(HOST, V6(solicited_node(TARGET.0)), &options);
            let _ = Solicitation::check(&bytes, 0, false);
            let _ = advertised_mac(&bytes, 0, true);
        }
    }
}

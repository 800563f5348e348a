//! Frames made beforehand, and what is written into a copy of one per packet.
//!
//! ```text
//!  Ethernet │ IPv4 ……… sum src dst │ ports … sum │ stamp │ zeros
//!                       ▲   ▲   ▲    ▲        ▲     ▲
//!                       └───┴───┴────┴────────┴─────┴── written per packet, the rest is the template's
//! ```
//!
//! IPv6 is the same without the header's sum.
//!
//! A template has zeros where packets differ, and sums that are right for the zeros: adding the words written over them
//! (RFC 1624, equation 3, with m = 0) makes them right for the packet.
//!
//! **TCP** is the least that a connection tracker calls one: a SYN with sequence number 0, then segments that all start
//! at 1 and acknowledge 1, as retransmissions do. No window ever fills, whatever is lost, so the load stays what was
//! asked for. It is no TCP for an end point: a real server needs real clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::{Ipv4Flags, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::tcp::{self, MutableTcpPacket, TcpFlags};
use pnet::packet::udp::{self, MutableUdpPacket};
use pnet::util::MacAddr;
use pollgate_common::net::Mac;
use pollgate_dataplane::port::Frame;
use pollgate_dataplane::wire::{checksum, ethernet, ipv4, ipv6, tcp as tcp_header, udp as udp_header};
use zerocopy::IntoBytes;

use super::addresses::{Family, Tuple};
use super::stamp::{self, Stamp};

const IP_AT: usize = ethernet::LEN;
const IP_SUM: usize = IP_AT + 10;
/// Bytes of the longest headers and the stamp.
const HEAD: usize = IP_AT + ipv6::LEN + tcp_header::LEN + stamp::LEN;

impl Family {
    /// Where the transport header is.
    const fn l4_at(self) -> usize {
        match self {
            Family::V4 => IP_AT + ipv4::LEN,
            Family::V6 => IP_AT + ipv6::LEN,
        }
    }

    /// Where the addresses are: the end of the IP header.
    const fn addresses(self) -> Range<usize> {
        match self {
            Family::V4 => self.l4_at() - 8..self.l4_at(),
            Family::V6 => self.l4_at() - 32..self.l4_at(),
        }
    }
}

/// The smallest frame with a stamp in it, without FCS.
pub(super) const fn smallest(family: Family, is_tcp: bool) -> usize {
    family.l4_at() + stamp::LEN + if is_tcp { tcp_header::LEN } else { udp_header::LEN }
}

/// What kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A UDP datagram.
    Udp,
    /// The first segment of a connection.
    Syn,
    /// Any other.
    Ack,
}

impl Kind {
    fn header_len(self) -> usize {
        if self == Kind::Udp { udp_header::LEN } else { tcp_header::LEN }
    }

    /// Where the sum is, from the start of the header.
    fn sum_at(self) -> usize {
        if self == Kind::Udp { 6 } else { 16 }
    }

    fn protocol(self) -> IpNextHeaderProtocol {
        if self == Kind::Udp { IpNextHeaderProtocols::Udp } else { IpNextHeaderProtocols::Tcp }
    }
}

/// A frame of one kind and size, to be copied.
#[derive(Clone, Debug)]
pub(super) struct Template {
    family: Family,
    kind: Kind,
    len: usize,
    head: [u8; HEAD],
    ip_sum: u16,
    l4_sum: u16,
}

impl Template {
    /// A frame of `len` bytes without FCS, at least [`smallest`].
    pub(super) fn new(family: Family, kind: Kind, len: usize, src: Mac, dst: Mac) -> Template {
        let mut frame = vec![0u8; len];
        build_ethernet(&mut frame, family, src, dst);
        build_transport(&mut frame[family.l4_at()..], family, kind);
        match family {
            Family::V4 => build_ipv4(&mut frame[IP_AT..], kind),
            Family::V6 => build_ipv6(&mut frame[IP_AT..], kind),
        }
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let (ip_sum, l4_sum) = (word(IP_SUM), word(family.l4_at() + kind.sum_at()));
        let mut head = [0; HEAD];
        let used = HEAD.min(len);
        head[..used].copy_from_slice(&frame[..used]);
        Template { family, kind, len, head, ip_sum, l4_sum }
    }

    /// Bytes of its frames.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Makes `frame`, whose buffer holds zeros after [`HEAD`], the packet of `tuple` with `stamp`.
    pub(super) fn write(&self, frame: &mut Frame, tuple: &Tuple, stamp: &Stamp) {
        frame.set_len(self.len);
        let l4_at = self.family.l4_at();
        let payload = l4_at + self.kind.header_len();
        let bytes = frame.buffer_mut();
        bytes[..HEAD].copy_from_slice(&self.head);
        let addresses = &mut bytes[self.family.addresses()];
        let (src, dst) = addresses.split_at_mut(addresses.len() / 2);
        write_address(src, tuple.src);
        write_address(dst, tuple.dst);
        let addresses = checksum::sum(addresses);
        bytes[l4_at..][..2].copy_from_slice(&tuple.src_port.to_be_bytes());
        bytes[l4_at + 2..][..2].copy_from_slice(&tuple.dst_port.to_be_bytes());
        bytes[payload..][..stamp::LEN].copy_from_slice(stamp.as_bytes());
        let rest = checksum::sum(&bytes[l4_at..][..4]) + checksum::sum(stamp.as_bytes());
        if self.family == Family::V4 {
            let ip_sum = checksum::update(self.ip_sum, addresses);
            bytes[IP_SUM..][..2].copy_from_slice(&ip_sum.to_be_bytes());
        }
        let sum = checksum::update(self.l4_sum, addresses + rest);
        // Zero means "no checksum" in UDP (RFC 768), and cannot happen in TCP but by the same sum.
        let sum = if sum == 0 && self.kind == Kind::Udp { 0xffff } else { sum };
        bytes[l4_at + self.kind.sum_at()..][..2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// All addresses of a run are of its family, so that they fit.
fn write_address(field: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(v4) => field.copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => field.copy_from_slice(&v6.octets()),
    }
}

/// The builders are made for buffers that are long enough, which these are.
const LONG_ENOUGH: &str = "a template is longer than its headers";

fn build_ethernet(frame: &mut [u8], family: Family, src: Mac, dst: Mac) {
    let mut ethernet = MutableEthernetPacket::new(frame).expect(LONG_ENOUGH);
    ethernet.set_source(MacAddr::from(src.0));
    ethernet.set_destination(MacAddr::from(dst.0));
    ethernet.set_ethertype(match family {
        Family::V4 => EtherTypes::Ipv4,
        Family::V6 => EtherTypes::Ipv6,
    });
}

fn build_ipv6(packet: &mut [u8], kind: Kind) {
    let len = u16::try_from(packet.len() - ipv6::LEN).unwrap_or(u16::MAX);
    let mut ip = MutableIpv6Packet::new(packet).expect(LONG_ENOUGH);
    ip.set_version(6);
    ip.set_payload_length(len);
    ip.set_next_header(kind.protocol());
    ip.set_hop_limit(64);
}

fn build_ipv4(packet: &mut [u8], kind: Kind) {
    let len = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    let mut ip = MutableIpv4Packet::new(packet).expect(LONG_ENOUGH);
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length(len);
    ip.set_flags(Ipv4Flags::DontFragment);
    ip.set_ttl(64);
    ip.set_next_level_protocol(kind.protocol());
    let sum = pnet::packet::ipv4::checksum(&ip.to_immutable());
    ip.set_checksum(sum);
}

/// With addresses of zero in the pseudo-header.
fn build_transport(segment: &mut [u8], family: Family, kind: Kind) {
    let (v4, v6) = (&Ipv4Addr::UNSPECIFIED, &Ipv6Addr::UNSPECIFIED);
    if kind == Kind::Udp {
        let len = u16::try_from(segment.len()).unwrap_or(u16::MAX);
        let mut header = MutableUdpPacket::new(segment).expect(LONG_ENOUGH);
        header.set_length(len);
        let sum = match family {
            Family::V4 => udp::ipv4_checksum(&header.to_immutable(), v4, v4),
            Family::V6 => udp::ipv6_checksum(&header.to_immutable(), v6, v6),
        };
        header.set_checksum(sum);
        return;
    }
    let mut header = MutableTcpPacket::new(segment).expect(LONG_ENOUGH);
    header.set_data_offset(5);
    header.set_window(u16::MAX);
    header.set_flags(if kind == Kind::Syn { TcpFlags::SYN } else { TcpFlags::ACK });
    header.set_sequence(u32::from(kind == Kind::Ack));
    header.set_acknowledgement(u32::from(kind == Kind::Ack));
    let sum = match family {
        Family::V4 => tcp::ipv4_checksum(&header.to_immutable(), v4, v4),
        Family::V6 => tcp::ipv6_checksum(&header.to_immutable(), v6, v6),
    };
    header.set_checksum(sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::pool::Pool;
    use etherparse::{EtherType, SlicedPacket, TransportSlice};
    use pollgate_common::net::PortId;
    use pollgate_common::time::Instant;
    use proptest::prelude::*;

    const SRC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const DST: Mac = Mac([2, 0, 0, 0, 0, 2]);

    /// An independent parser finds everything in the frame as requested, checksums included.
    fn checked(kind: Kind, frame: &[u8], tuple: &Tuple, stamp: &Stamp) {
        let seen = SlicedPacket::from_ethernet(frame).expect("a packet");
        let Some(etherparse::LinkSlice::Ethernet2(link)) = seen.link else { panic!("not Ethernet") };
        assert_eq!((link.source(), link.destination()), (SRC.0, DST.0));
        let addresses: (IpAddr, IpAddr) = match seen.net.expect("a network header") {
            etherparse::NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!((header.time_to_live, header.dont_fragment), (64, true));
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!((usize::from(header.total_len), link.ether_type()), (frame.len() - 14, EtherType::IPV4));
                (header.source.into(), header.destination.into())
            }
            etherparse::NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                assert_eq!((header.hop_limit, link.ether_type()), (64, EtherType::IPV6));
                assert_eq!(usize::from(header.payload_length), frame.len() - 54);
                (header.source.into(), header.destination.into())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(addresses, (tuple.src, tuple.dst));
        let sum_of = |v4: &dyn Fn([u8; 4], [u8; 4]) -> u16, v6: &dyn Fn([u8; 16], [u8; 16]) -> u16| match addresses {
            (IpAddr::V4(src), IpAddr::V4(dst)) => v4(src.octets(), dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => v6(src.octets(), dst.octets()),
            mixed => panic!("{mixed:?}"),
        };
        let (ports, payload, sums) = match seen.transport.expect("a transport header") {
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                let sum = sum_of(
                    &|src, dst| header.calc_checksum_ipv4_raw(src, dst, udp.payload()).expect("a sum"),
                    &|src, dst| header.calc_checksum_ipv6_raw(src, dst, udp.payload()).expect("a sum"),
                );
                assert_eq!(kind, Kind::Udp);
                ((header.source_port, header.destination_port), udp.payload(), (header.checksum, sum))
            }
            TransportSlice::Tcp(tcp) => {
                let header = tcp.to_header();
                let sum = sum_of(
                    &|src, dst| header.calc_checksum_ipv4_raw(src, dst, tcp.payload()).expect("a sum"),
                    &|src, dst| header.calc_checksum_ipv6_raw(src, dst, tcp.payload()).expect("a sum"),
                );
                let numbers = (header.syn, header.ack, header.sequence_number, header.acknowledgment_number);
                assert_eq!(numbers, if kind == Kind::Syn { (true, false, 0, 0) } else { (false, true, 1, 1) });
                ((header.source_port, header.destination_port), tcp.payload(), (header.checksum, sum))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(ports, (tuple.src_port, tuple.dst_port));
        assert_eq!(sums.0, sums.1, "checksum");
        assert_eq!(&payload[..stamp::LEN], stamp.as_bytes());
        assert!(payload[stamp::LEN..].iter().all(|byte| *byte == 0));
    }

    proptest! {
        #[test]
        fn another_parser_reads_what_was_meant(
            kind in prop_oneof![Just(Kind::Udp), Just(Kind::Syn), Just(Kind::Ack)],
            is_v6 in any::<bool>(), src in any::<u128>(), dst in any::<u128>(), src_port in any::<u16>(), dst_port in any::<u16>(),
            stamps in any::<(u16, u32, u32, u64)>(), extra in 0usize..1455,
        ) {
            let mut pool = Pool::new(1);
            let family = if is_v6 { Family::V6 } else { Family::V4 };
            let len = (smallest(family, kind != Kind::Udp) + extra).min(1514);
            let address = |bits: u128| match family {
                Family::V4 => IpAddr::from(Ipv4Addr::from_bits((bits & 0xffff_ffff).try_into().expect("32 bits"))),
                Family::V6 => IpAddr::from(Ipv6Addr::from_bits(bits)),
            };
            let tuple = Tuple { src: address(src), dst: address(dst), src_port, dst_port };
            let stamp = Stamp::new(stamps.0, stamps.1, stamps.2, Instant(stamps.3));
            let mut frame = pool.lend(len, PortId(0)).expect("a buffer");
            Template::new(family, kind, len, SRC, DST).write(&mut frame, &tuple, &stamp);
            checked(kind, frame.bytes(), &tuple, &stamp);
            pool.release(frame);
        }
    }

    #[test]
    fn a_buffer_used_for_a_long_header_is_clean_for_a_short_one() {
        let mut pool = Pool::new(1);
        let tuple = Tuple { src: [10, 0, 0, 1].into(), dst: [10, 96, 0, 1].into(), src_port: 1024, dst_port: 80 };
        let (stamp, family) = (Stamp::new(1, 2, 3, Instant(4)), Family::V4);
        for (kind, len) in [(Kind::Syn, 72), (Kind::Udp, 1514), (Kind::Ack, 1514), (Kind::Udp, 60), (Kind::Udp, 64)] {
            let mut frame = pool.lend(len, PortId(0)).expect("a buffer");
            Template::new(family, kind, len, SRC, DST).write(&mut frame, &tuple, &stamp);
            checked(kind, frame.bytes(), &tuple, &stamp);
            pool.release(frame);
        }
    }

    #[test]
    fn the_smallest_frames_hold_their_stamp() {
        assert_eq!((smallest(Family::V4, false), smallest(Family::V4, true)), (60, 72));
        assert_eq!((smallest(Family::V6, false), smallest(Family::V6, true)), (80, 92));
    }
}

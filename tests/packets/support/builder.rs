//! Packets to send, built by `etherparse`, so that what the gateway reads was written by somebody else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use domain::base::iana::{Class, Rtype};
use domain::base::{MessageBuilder, Name};
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header,
    Ipv4Options, Ipv6Header, TcpHeader, UdpHeader,
};
use pollgate_common::pair;
use pollgate_dataplane::port::Offload;
use pollgate_dataplane::port::memory::Packet;

use super::super::IS_V6;
use super::family::{ETHER_TYPE, HEADER, octets, wire};
use super::seen::Seen;

/// An Ethernet address.
pub(crate) type MacBytes = [u8; 6];

/// The MAC that the host with this address has in the lab.
pub(crate) fn mac_of(address: Ipv4Addr) -> MacBytes {
    let [a, b, c, d] = address.octets();
    [2, 0, a, b, c, d]
}

/// The MAC a frame from or to `address` carries on the lab's links: the host's own, or the router's for who is elsewhere. That of the
/// gateway host is its end of the host pair.
pub(crate) fn link_mac(address: Ipv4Addr) -> MacBytes {
    match address.octets() {
        [169, 254, 112, 1] | [192, 168, 50, 2] => pair::HOST_MAC.0,
        [10, 244, ..] | [192, 168, 50, _] => mac_of(address),
        _ => mac_of(Ipv4Addr::new(192, 168, 50, 1)),
    }
}

/// An address in a test.
pub(crate) fn ip(text: &str) -> Ipv4Addr {
    text.parse().expect("an IPv4 address")
}

/// An address and port in a test.
pub(crate) fn at(text: &str) -> SocketAddrV4 {
    text.parse().expect("an IPv4 address and port")
}

/// What can be sent, once it is known to which MAC.
pub(crate) trait Sendable {
    /// The frame for the interface with the MAC `to`.
    fn frame(self, to: MacBytes) -> Packet;
}

impl Sendable for Packet {
    fn frame(self, _to: MacBytes) -> Packet {
        self
    }
}

impl Sendable for Vec<u8> {
    fn frame(self, _to: MacBytes) -> Packet {
        self.into()
    }
}

enum L4 {
    Tcp(Box<TcpHeader>),
    Udp(UdpHeader),
    /// Ports and verification tag; chunks are the payload.
    Sctp(u16, u16, u32),
    /// Type, code and the rest of the header; the protocol is ICMP's.
    Icmp([u8; 6]),
    /// Anything else: no header of its own.
    Raw,
}

/// An IP packet of the suite's family, described by the fields of an IPv4 header.
#[derive(Clone)]
pub(crate) struct Ip {
    header: Ipv4Header,
    l4: std::rc::Rc<L4>,
    payload: Vec<u8>,
    to: Option<MacBytes>,
    partial: bool,
    no_checksum: bool,
    gso: Option<u16>,
    padding: usize,
}

impl Ip {
    fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, l4: L4) -> Ip {
        let header = Ipv4Header {
            identification: 0x1234,
            dont_fragment: true,
            ..Ipv4Header::new(0, 64, IpNumber(protocol), src.octets(), dst.octets()).expect("a payload of nothing fits")
        };
        Ip {
            header,
            l4: std::rc::Rc::new(l4),
            payload: Vec::new(),
            to: None,
            partial: false,
            no_checksum: false,
            gso: None,
            padding: 0,
        }
    }

    fn tcp_header(mut self, change: impl FnOnce(&mut TcpHeader)) -> Ip {
        let L4::Tcp(header) = &*self.l4 else { panic!("not TCP") };
        let mut header = header.clone();
        change(&mut header);
        self.l4 = std::rc::Rc::new(L4::Tcp(header));
        self
    }

    /// With the flags named: S, A, F, R, P in any order; all others are off. The numbers become those of a connection of which
    /// nothing but the handshake was seen.
    pub(crate) fn flags(self, flags: &str) -> Ip {
        let has = |flag| flags.contains(flag);
        self.tcp_header(|h| {
            (h.syn, h.ack, h.fin, h.rst, h.psh) = (has('S'), has('A'), has('F'), has('R'), has('P'));
            h.sequence_number = if h.syn { INITIAL } else { INITIAL + 1 };
            h.acknowledgment_number = if h.ack { INITIAL + 1 } else { 0 };
        })
    }

    /// With these sequence and acknowledgement numbers.
    pub(crate) fn numbers(self, seq: u32, ack: u32) -> Ip {
        self.tcp_header(|h| (h.sequence_number, h.acknowledgment_number) = (seq, ack))
    }

    /// With TCP options.
    pub(crate) fn tcp_options(self, options: &[u8]) -> Ip {
        self.tcp_header(|h| h.set_options_raw(options).expect("at most 40 bytes"))
    }

    /// With one more SCTP chunk.
    pub(crate) fn chunk(mut self, (kind, flags): (u8, u8), value: &[u8]) -> Ip {
        let length = u16::try_from(4 + value.len()).expect("it fits a packet").to_be_bytes();
        self.payload.extend([&[kind, flags][..], &length, value].concat());
        self.payload.resize(self.payload.len().next_multiple_of(4), 0);
        self
    }

    /// With this payload.
    pub(crate) fn payload(mut self, payload: impl Into<Vec<u8>>) -> Ip {
        self.payload = payload.into();
        self
    }

    /// With this time to live, or hop limit.
    pub(crate) fn ttl(mut self, ttl: u8) -> Ip {
        self.header.time_to_live = ttl;
        self
    }

    /// With IP options (a multiple of four bytes); IPv6 has destination options instead.
    pub(crate) fn ip_options<const N: usize>(mut self, options: [u8; N]) -> Ip
    where
        Ipv4Options: From<[u8; N]>,
    {
        self.header.options = options.into();
        self
    }

    /// A fragment: offset in units of eight bytes, and whether more follow.
    pub(crate) fn fragment(mut self, offset: u16, more: bool) -> Ip {
        self.header.dont_fragment = false;
        self.header.more_fragments = more;
        self.header.fragment_offset = IpFragOffset::try_new(offset).expect("thirteen bits");
        self
    }

    /// In a frame to this MAC instead of the interface's.
    pub(crate) fn addressed(mut self, mac: MacBytes) -> Ip {
        self.to = Some(mac);
        self
    }

    /// With its checksum left to offload: only the pseudo-header's sum is there; nothing for SCTP.
    pub(crate) fn partial(mut self) -> Ip {
        self.partial = true;
        self
    }

    /// Without a UDP or SCTP checksum (RFC 768, RFC 9653).
    pub(crate) fn no_checksum(mut self) -> Ip {
        self.no_checksum = true;
        self
    }

    /// A super-frame whose segments carry `size` bytes.
    pub(crate) fn gso(mut self, size: u16) -> Ip {
        self.gso = Some(size);
        self.partial()
    }

    /// With bytes behind the IP packet, as short Ethernet frames have.
    pub(crate) fn padding(mut self, bytes: usize) -> Ip {
        self.padding = bytes;
        self
    }

    /// The IP packet alone.
    pub(crate) fn datagram(&self) -> Vec<u8> {
        let transport = self.transport();
        if IS_V6 {
            return self.datagram_v6(&transport);
        }
        let mut header = self.header.clone();
        header.set_payload_len(transport.len()).expect("it fits a packet");
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(transport);
        bytes
    }

    fn datagram_v6(&self, transport: &[u8]) -> Vec<u8> {
        let (extensions, next) = self.extensions();
        let (source, destination) = self.addresses();
        let header = Ipv6Header {
            payload_length: u16::try_from(extensions.len() + transport.len()).expect("it fits a packet"),
            next_header: IpNumber(next),
            hop_limit: self.header.time_to_live,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv6Header::default()
        };
        [&header.to_bytes()[..], &extensions, transport].concat()
    }

    /// The extension headers, and the number of the first: destination options, then a fragment header.
    fn extensions(&self) -> (Vec<u8>, u8) {
        let (mut bytes, mut next) = (Vec::new(), self.header.protocol.0);
        if self.header.more_fragments || self.header.fragment_offset.value() > 0 {
            let third = self.header.fragment_offset.value() << 3 | u16::from(self.header.more_fragments);
            bytes = [&[next, 0][..], &third.to_be_bytes(), &[0, 0, 0x12, 0x34]].concat();
            next = 44;
        }
        if !self.header.options.is_empty() {
            // Six bytes of padding.
            bytes = [&[next, 0, 1, 4, 0, 0, 0, 0][..], &bytes].concat();
            next = 60;
        }
        (bytes, next)
    }

    fn addresses(&self) -> (Ipv6Addr, Ipv6Addr) {
        let v6 = |address: [u8; 4]| match wire(address.into()) {
            IpAddr::V6(v6) => v6,
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        };
        (v6(self.header.source), v6(self.header.destination))
    }

    fn header_len(&self) -> usize {
        if IS_V6 { HEADER + self.extensions().0.len() } else { self.header.header_len() }
    }

    fn transport(&self) -> Vec<u8> {
        let (source, destination) = self.addresses();
        let (source, destination) = (source.octets(), destination.octets());
        let mut bytes = match &*self.l4 {
            L4::Tcp(header) => {
                let mut header = header.clone();
                let sum = match IS_V6 {
                    true => header.calc_checksum_ipv6_raw(source, destination, &self.payload),
                    false => header.calc_checksum_ipv4(&self.header, &self.payload),
                };
                header.checksum = sum.expect("it fits a packet");
                header.to_bytes().to_vec()
            }
            L4::Udp(header) => {
                let mut header = header.clone();
                header.length = u16::try_from(8 + self.payload.len()).expect("it fits a packet");
                let sum = match IS_V6 {
                    true => header.calc_checksum_ipv6_raw(source, destination, &self.payload),
                    false => header.calc_checksum_ipv4(&self.header, &self.payload),
                };
                header.checksum = if self.no_checksum { 0 } else { sum.expect("it fits a packet") };
                header.to_bytes().to_vec()
            }
            L4::Sctp(source, destination, tag) => {
                let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
                let mut bytes = [&ports[..], &tag.to_be_bytes(), &[0; 4]].concat();
                if !self.no_checksum && !self.partial {
                    let sum = crc32c(&[&bytes[..], &self.payload].concat());
                    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
                }
                bytes
            }
            L4::Icmp([kind, code, rest @ ..]) => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                let pseudo = self.pseudo_sum(bytes.len() + self.payload.len()).to_be_bytes();
                let pseudo = if IS_V6 { &pseudo[..] } else { &[] };
                let sum = !folded(&[pseudo, &bytes, &self.payload].concat());
                bytes[2..4].copy_from_slice(&sum.to_be_bytes());
                bytes
            }
            L4::Raw => Vec::new(),
        };
        if self.partial && !matches!(*self.l4, L4::Sctp(..)) {
            let sum = self.pseudo_sum(bytes.len() + self.payload.len());
            let field = self.checksum_offset();
            bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn checksum_offset(&self) -> usize {
        match *self.l4 {
            L4::Tcp(_) => 16,
            L4::Sctp(..) => 8,
            L4::Udp(_) | L4::Icmp(_) | L4::Raw => 6,
        }
    }

    /// The pseudo-header's sum as the kernel leaves it (CHECKSUM_PARTIAL): folded, not complemented.
    fn pseudo_sum(&self, len: usize) -> u16 {
        let len = u16::try_from(len).expect("it fits a packet");
        let protocol = [0, self.header.protocol.0];
        let [source, destination] = [self.header.source, self.header.destination].map(|ip| octets(ip.into()));
        folded(&[&source[..], &destination, &protocol, &len.to_be_bytes()].concat())
    }

    fn offload(&self) -> Offload {
        if !self.partial {
            return Offload::default();
        }
        let start = u16::try_from(14 + self.header_len()).expect("small");
        let offset = u16::try_from(self.checksum_offset()).expect("small");
        let tcp = matches!(*self.l4, L4::Tcp(_));
        Offload {
            flags: Offload::NEEDS_CSUM,
            gso_type: self.gso.map_or(0, |_| match (tcp, IS_V6) {
                (true, false) => 1,
                (true, true) => 4,
                (false, _) => 5,
            }),
            hdr_len: if self.gso.is_some() { start + if tcp { 20 } else { 8 } } else { 0 },
            gso_size: self.gso.unwrap_or(0),
            csum_start: start,
            csum_offset: offset,
        }
    }
}

impl Sendable for Ip {
    fn frame(self, to: MacBytes) -> Packet {
        let header = Ethernet2Header {
            source: link_mac(self.header.source.into()),
            destination: self.to.unwrap_or(to),
            ether_type: EtherType(ETHER_TYPE),
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(self.datagram());
        bytes.extend(std::iter::repeat_n(0x5a, self.padding));
        Packet { bytes, offload: self.offload() }
    }
}

/// The question of the host at `from` for the link-layer address of `target`.
pub(crate) fn who_has(from: &str, target: &str) -> Vec<u8> {
    match IS_V6 {
        true => solicitation(&wire(ip(from)).to_string(), &wire(ip(target)).to_string()),
        false => arp(ArpOperation::REQUEST, from, target),
    }
}

/// A neighbour solicitation of the host with the MAC 02:00:00:00:00:64, to the target's group.
pub(crate) fn solicitation(from: &str, target: &str) -> Vec<u8> {
    let (from, target): (Ipv6Addr, Ipv6Addr) = (from.parse().expect("IPv6"), target.parse().expect("IPv6"));
    let [.., x, y, z] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
    let mac = [2, 0, 0, 0, 0, 0x64];
    let options = if from.is_unspecified() { Vec::new() } else { [&[1, 1][..], &mac].concat() };
    let payload = [&target.octets()[..], &options].concat();
    let message = Icmpv6Type::NeighborSolicitation;
    let header = message.to_header(from.octets(), group.octets(), &payload).expect("it fits a packet");
    let length = u16::try_from(8 + payload.len()).expect("it fits a packet");
    let ip = Ipv6Header {
        payload_length: length,
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: 255,
        source: from.octets(),
        destination: group.octets(),
        ..Ipv6Header::default()
    };
    let ethernet =
        Ethernet2Header { source: mac, destination: [0x33, 0x33, 0xff, x, y, z], ether_type: EtherType::IPV6 };
    [&ethernet.to_bytes()[..], &ip.to_bytes(), &header.to_bytes(), &payload].concat()
}

/// The one's-complement sum of RFC 1071, word by word.
pub(crate) fn folded(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let sum = words.fold(0, |sum, word| (sum + word) % 0x1_0000 + (sum + word) / 0x1_0000);
    u16::try_from(sum).expect("folded")
}

/// SCTP's checksum (RFC 9260 appendix A), by a library that the gateway does not use.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(bytes)
}

/// Both sides' initial sequence number.
const INITIAL: u32 = 1000;

/// A TCP SYN from one socket to another.
pub(crate) fn tcp(from: &str, to: &str) -> Ip {
    let (from, to) = (at(from), at(to));
    let header = TcpHeader { syn: true, ..TcpHeader::new(from.port(), to.port(), INITIAL, 64240) };
    Ip::new(*from.ip(), *to.ip(), 6, L4::Tcp(Box::new(header)))
}

/// A UDP datagram with a small payload.
pub(crate) fn udp(from: &str, to: &str) -> Ip {
    let (from, to) = (at(from), at(to));
    let header = UdpHeader { source_port: from.port(), destination_port: to.port(), length: 8, checksum: 0 };
    Ip::new(*from.ip(), *to.ip(), 17, L4::Udp(header)).payload("hello")
}

/// A DNS query by the library `domain`, with the RD bit.
pub(crate) fn query(name: &str, rtype: Rtype, id: u16) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    let name: Name<Vec<u8>> = name.parse().expect("a name");
    question.push((name, rtype, Class::IN)).expect("room");
    question.finish()
}

/// An SCTP packet with this verification tag and without chunks.
pub(crate) fn sctp(from: &str, to: &str, tag: u32) -> Ip {
    let (from, to) = (at(from), at(to));
    Ip::new(*from.ip(), *to.ip(), 132, L4::Sctp(from.port(), to.port(), tag))
}

/// An INIT (type 1) or INIT ACK (type 2) with this initiate tag, for ten streams each way.
pub(crate) fn init(from: &str, to: &str, kind: u8, tag: u32, initiate: u32) -> Ip {
    let fixed = [&initiate.to_be_bytes()[..], &[0, 1, 0, 0], &[0, 10, 0, 10], &[0, 0, 0, 1]].concat();
    sctp(from, to, tag).chunk((kind, 0), &fixed)
}

/// An ICMP message; `rest` is the header's second word.
pub(crate) fn icmp(from: &str, to: &str, kind: u8, code: u8, rest: [u8; 4]) -> Ip {
    let [a, b, c, d] = rest;
    Ip::new(ip(from), ip(to), if IS_V6 { 58 } else { 1 }, L4::Icmp([kind, code, a, b, c, d]))
}

/// An error of the router or host `from` about the first `len` bytes of a packet that was sent to it; it goes to that packet's
/// sender. The MTU counts for one error only.
pub(crate) fn about(from: &str, seen: &Seen, (kind, code): (u8, u8), len: usize) -> Ip {
    let packet = &seen.packet.bytes[14..];
    let mtu = 1300u16.to_be_bytes();
    let sender = seen.src().ip().to_string();
    icmp(from, &sender, kind, code, [0, 0, mtu[0], mtu[1]]).payload(&packet[..len.min(packet.len())])
}

/// A packet of some other protocol.
pub(crate) fn other(from: &str, to: &str, protocol: u8) -> Ip {
    Ip::new(ip(from), ip(to), protocol, L4::Raw).payload(vec![0; 32])
}

/// An ARP packet from `sender` about `target`, sent to everybody.
pub(crate) fn arp(operation: ArpOperation, sender: &str, target: &str) -> Vec<u8> {
    let from = mac_of(ip(sender));
    arp_as(operation, from, sender, target)
}

/// An ARP packet from the host with the MAC `from`.
pub(crate) fn arp_as(operation: ArpOperation, from: MacBytes, sender: &str, target: &str) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &from,
        &ip(sender).octets(),
        &[0; 6],
        &ip(target).octets(),
    )
    .expect("lengths of Ethernet and IPv4");
    let header = Ethernet2Header { source: from, destination: [0xff; 6], ether_type: EtherType::ARP };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(packet.to_bytes());
    // As a sender pads it to the least Ethernet carries.
    bytes.resize(60, 0);
    bytes
}

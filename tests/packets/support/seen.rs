//! Packets the gateway sent, read and verified by `etherparse`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use etherparse::{Icmpv4Type, Icmpv6Type, LinkHeader, NetHeaders, PacketHeaders, TcpHeader, TransportHeader};
use pollgate_dataplane::port::memory::Packet;

use super::super::IS_V6;
use super::builder::{MacBytes, crc32c, folded};
use super::family::written;

/// IANA number of SCTP.
const SCTP: u8 = 132;

/// An IP packet of the suite's family that left the gateway; every length and checksum in it has been verified.
///
/// Prints as one line, without what hardly any test cares about: `tcp 10.0.0.1:4 > 10.0.0.2:80 SA ttl 63`.
pub(crate) struct Seen {
    /// The frame and what is left to offload.
    pub(crate) packet: Packet,
    /// Its source MAC.
    pub(crate) from: MacBytes,
    /// Its destination MAC.
    pub(crate) to: MacBytes,
    /// Its IP header.
    pub(crate) ip: Network,
    /// Its transport header; `None` for SCTP, which `etherparse` does not read.
    pub(crate) transport: Option<TransportHeader>,
    /// What is behind that: for SCTP the chunks.
    pub(crate) payload: Vec<u8>,
}

/// What tests look at in an IP header.
pub(crate) struct Network {
    /// Source address.
    pub(crate) source: Ipv4Addr,
    /// Destination address.
    pub(crate) destination: Ipv4Addr,
    /// Time to live, or hop limit.
    pub(crate) time_to_live: u8,
    /// Bytes of the header, extension headers included.
    pub(crate) len: usize,
    protocol: u8,
    /// Both addresses on the wire.
    addresses: Vec<u8>,
}

impl Network {
    /// Reads the header and verifies its sum, if it has one.
    fn read(headers: &NetHeaders) -> Network {
        match headers {
            NetHeaders::Ipv4(ip, _) if !IS_V6 => {
                assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP header checksum");
                Network {
                    source: ip.source.into(),
                    destination: ip.destination.into(),
                    time_to_live: ip.time_to_live,
                    len: ip.header_len(),
                    protocol: ip.protocol.0,
                    addresses: [ip.source, ip.destination].concat(),
                }
            }
            NetHeaders::Ipv6(ip, extensions) if IS_V6 => Network {
                source: written(Ipv6Addr::from(ip.source).into()),
                destination: written(Ipv6Addr::from(ip.destination).into()),
                time_to_live: ip.hop_limit,
                len: ip.header_len() + extensions.header_len(),
                protocol: extensions.next_header(ip.next_header).expect("a sound chain").0,
                addresses: [ip.source, ip.destination].concat(),
            },
            other => panic!("not of the suite's family: {other:?}"),
        }
    }
}

impl Seen {
    /// Reads `packet`.
    ///
    /// # Panics
    /// If it is no sound packet of the suite's family with a known transport.
    pub(crate) fn read(packet: Packet) -> Seen {
        let headers =
            PacketHeaders::from_ethernet_slice(&packet.bytes).expect("etherparse reads what the gateway sends");
        let Some(LinkHeader::Ethernet2(ethernet)) = headers.link else { panic!("no Ethernet header") };
        let ip = Network::read(&headers.net.expect("an IP header"));
        let transport = headers.transport;
        let payload = headers.payload.slice();
        let payload = if ip.protocol == SCTP { payload[12..].to_vec() } else { payload.to_vec() };
        assert_eq!(transport.is_none(), ip.protocol == SCTP, "a known transport");
        let seen = Seen { from: ethernet.source, to: ethernet.destination, ip, transport, payload, packet };
        seen.verify();
        seen
    }

    fn verify(&self) {
        if self.packet.offload.is_partial() {
            return self.verify_partial();
        }
        let l4 = &self.packet.bytes[14 + self.ip.len..];
        match &self.transport {
            None => {
                let mut l4 = l4[..l4.len() - self.padding()].to_vec();
                let sum: Vec<u8> = l4.splice(8..12, [0; 4]).collect();
                assert_eq!(sum, crc32c(&l4).to_le_bytes(), "CRC32c of {self}");
            }
            Some(TransportHeader::Udp(udp)) if udp.checksum == 0 => {}
            Some(TransportHeader::Tcp(_) | TransportHeader::Udp(_) | TransportHeader::Icmpv6(_)) => {
                let length = l4.len() - self.padding();
                let pseudo = self.pseudo_sum(length).to_be_bytes();
                assert_eq!(folded(&[&pseudo, &l4[..length]].concat()), 0xffff, "transport checksum of {self}");
            }
            Some(TransportHeader::Icmpv4(_)) => assert_eq!(folded(l4), 0xffff, "transport checksum of {self}"),
            Some(other @ TransportHeader::Igmp(_)) => panic!("unexpected transport {other:?}"),
        }
    }

    /// Bytes behind the packet.
    fn padding(&self) -> usize {
        let header = match &self.transport {
            None => 12,
            Some(TransportHeader::Tcp(tcp)) => tcp.header_len(),
            Some(
                TransportHeader::Udp(_)
                | TransportHeader::Icmpv4(_)
                | TransportHeader::Icmpv6(_)
                | TransportHeader::Igmp(_),
            ) => 8,
        };
        self.packet.bytes.len() - 14 - self.ip.len - header - self.payload.len()
    }

    /// The pseudo-header's folded sum for so many bytes.
    fn pseudo_sum(&self, length: usize) -> u16 {
        let length = u16::try_from(length).expect("it fits a packet");
        folded(&[&self.ip.addresses[..], &[0, self.ip.protocol], &length.to_be_bytes()].concat())
    }

    /// Left to offload: the field is the pseudo-header's folded sum, and the offsets name it.
    fn verify_partial(&self) {
        let offload = self.packet.offload;
        let start = 14 + self.ip.len;
        let (is, field) = match &self.transport {
            Some(TransportHeader::Tcp(tcp)) => (tcp.checksum, 16),
            Some(TransportHeader::Udp(udp)) => (udp.checksum, 6),
            other => panic!("unexpected transport {other:?}"),
        };
        assert_eq!(
            (usize::from(offload.csum_start), usize::from(offload.csum_offset)),
            (start, field),
            "offsets of {self}"
        );
        assert_eq!(is, self.pseudo_sum(self.packet.bytes.len() - start), "partial checksum of {self}");
    }

    /// Source address and port; port 0 for ICMP.
    pub(crate) fn src(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip.source, self.ports().0)
    }

    /// Destination address and port; port 0 for ICMP.
    pub(crate) fn dst(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip.destination, self.ports().1)
    }

    fn ports(&self) -> (u16, u16) {
        match &self.transport {
            None => (self.half(0), self.half(2)),
            Some(TransportHeader::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
            Some(TransportHeader::Udp(udp)) => (udp.source_port, udp.destination_port),
            Some(_) => (0, 0),
        }
    }

    /// The TCP header.
    ///
    /// # Panics
    /// If it is something else.
    pub(crate) fn tcp(&self) -> &TcpHeader {
        let Some(TransportHeader::Tcp(tcp)) = &self.transport else { panic!("not TCP: {self}") };
        tcp
    }

    /// The verification tag of an SCTP packet.
    pub(crate) fn tag(&self) -> u32 {
        u32::from(self.half(4)) << 16 | u32::from(self.half(6))
    }

    /// The checksum field of an SCTP packet.
    pub(crate) fn crc(&self) -> u32 {
        (u32::from(self.half(8)) << 16 | u32::from(self.half(10))).swap_bytes()
    }

    /// Two bytes of the transport header.
    fn half(&self, at: usize) -> u16 {
        let at = 14 + self.ip.len + at;
        u16::from_be_bytes([self.packet.bytes[at], self.packet.bytes[at + 1]])
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ttl = self.ip.time_to_live;
        let (src, dst) = (self.ip.source, self.ip.destination);
        match &self.transport {
            None => {
                let (src, dst) = (self.src(), self.dst());
                write!(f, "sctp {src} > {dst} {} tag {} ttl {ttl}", chunks(&self.payload), self.tag())
            }
            Some(TransportHeader::Tcp(h)) => write!(f, "tcp {} > {} {} ttl {ttl}", self.src(), self.dst(), flags(h)),
            Some(TransportHeader::Udp(_)) => write!(f, "udp {} > {} ttl {ttl}", self.src(), self.dst()),
            Some(TransportHeader::Icmpv4(h)) => write!(f, "icmp {src} > {dst} {} ttl {ttl}", kind(&h.icmp_type)),
            Some(TransportHeader::Icmpv6(h)) => write!(f, "icmp {src} > {dst} {} ttl {ttl}", kind_v6(&h.icmp_type)),
            Some(other @ TransportHeader::Igmp(_)) => write!(f, "{other:?} {src} > {dst} ttl {ttl}"),
        }
    }
}

/// The types of the chunks; `(T)` where the T bit is set.
fn chunks(mut bytes: &[u8]) -> String {
    const NAMES: [&str; 15] = [
        "DATA",
        "INIT",
        "INIT-ACK",
        "SACK",
        "HEARTBEAT",
        "HEARTBEAT-ACK",
        "ABORT",
        "SHUTDOWN",
        "SHUTDOWN-ACK",
        "ERROR",
        "COOKIE-ECHO",
        "COOKIE-ACK",
        "ECNE",
        "CWR",
        "SHUTDOWN-COMPLETE",
    ];
    let mut names = Vec::new();
    while let [kind, flags, high, low, ..] = *bytes {
        let name = NAMES.get(usize::from(kind)).copied().unwrap_or("?");
        names.push(format!("{name}{}", if flags & 1 == 1 && [6, 14].contains(&kind) { "(T)" } else { "" }));
        let length = usize::from(u16::from_be_bytes([high, low])).max(4).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    names.join("+")
}

fn flags(tcp: &TcpHeader) -> String {
    let all = [(tcp.syn, 'S'), (tcp.fin, 'F'), (tcp.rst, 'R'), (tcp.psh, 'P'), (tcp.ack, 'A')];
    all.iter().filter(|(on, _)| *on).map(|(_, name)| name).collect()
}

fn kind(icmp: &Icmpv4Type) -> &'static str {
    use etherparse::icmpv4::DestUnreachableHeader::{FragmentationNeeded, Port};
    use etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit;
    match icmp {
        Icmpv4Type::EchoReply(_) => "echo-reply",
        Icmpv4Type::DestinationUnreachable(Port) => "port-unreachable",
        Icmpv4Type::DestinationUnreachable(FragmentationNeeded { .. }) => "too-big",
        Icmpv4Type::TimeExceeded(TtlExceededInTransit) => "time-exceeded",
        other => panic!("unexpected ICMP {other:?}"),
    }
}

fn kind_v6(icmp: &Icmpv6Type) -> &'static str {
    use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode};
    match icmp {
        Icmpv6Type::EchoReply(_) => "echo-reply",
        Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port) => "port-unreachable",
        Icmpv6Type::PacketTooBig { .. } => "too-big",
        Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded) => "time-exceeded",
        other => panic!("unexpected ICMPv6 {other:?}"),
    }
}

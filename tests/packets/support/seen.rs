//! Packets the gateway sent, read and verified by `etherparse`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{Icmpv4Type, Ipv4Header, LinkHeader, NetHeaders, PacketHeaders, TcpHeader, TransportHeader};
use pollgate_dataplane::port::memory::Packet;

use super::builder::{MacBytes, folded};

/// An IPv4 packet that left the gateway; every length and checksum in it has been verified.
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
    pub(crate) ip: Ipv4Header,
    /// Its transport header.
    pub(crate) transport: TransportHeader,
    /// What is behind that.
    pub(crate) payload: Vec<u8>,
}

impl Seen {
    /// Reads `packet`.
    ///
    /// # Panics
    /// If it is no sound IPv4 packet with a known transport.
    pub(crate) fn read(packet: Packet) -> Seen {
        let headers =
            PacketHeaders::from_ethernet_slice(&packet.bytes).expect("etherparse reads what the gateway sends");
        let Some(LinkHeader::Ethernet2(ethernet)) = headers.link else { panic!("no Ethernet header") };
        let Some(NetHeaders::Ipv4(ip, _)) = headers.net else { panic!("no IPv4 header") };
        let transport = headers.transport.expect("a transport header");
        let payload = headers.payload.slice().to_vec();
        let seen = Seen { from: ethernet.source, to: ethernet.destination, ip, transport, payload, packet };
        seen.verify();
        seen
    }

    fn verify(&self) {
        assert_eq!(self.ip.header_checksum, self.ip.calc_header_checksum(), "IP header checksum of {self}");
        if self.packet.offload.is_partial() {
            return self.verify_partial();
        }
        let (is, should) = match &self.transport {
            TransportHeader::Tcp(tcp) => (tcp.checksum, tcp.calc_checksum_ipv4(&self.ip, &self.payload).expect("fits")),
            TransportHeader::Udp(udp) if udp.checksum == 0 => (0, 0),
            TransportHeader::Udp(udp) => (udp.checksum, udp.calc_checksum_ipv4(&self.ip, &self.payload).expect("fits")),
            // Of the two zeros of one's complement a receiver takes either, unless all else is zero too.
            TransportHeader::Icmpv4(_) => (folded(&self.packet.bytes[14 + self.ip.header_len()..]), 0xffff),
            other => panic!("unexpected transport {other:?}"),
        };
        assert_eq!(is, should, "transport checksum of {self}");
    }

    /// Left to offload: the field is the pseudo-header's folded sum, and the offsets name it.
    fn verify_partial(&self) {
        let offload = self.packet.offload;
        let start = 14 + self.ip.header_len();
        let (is, field) = match &self.transport {
            TransportHeader::Tcp(tcp) => (tcp.checksum, 16),
            TransportHeader::Udp(udp) => (udp.checksum, 6),
            other => panic!("unexpected transport {other:?}"),
        };
        assert_eq!(
            (usize::from(offload.csum_start), usize::from(offload.csum_offset)),
            (start, field),
            "offsets of {self}"
        );
        let length = u16::try_from(self.packet.bytes.len() - start).expect("fits");
        let protocol = [0, self.ip.protocol.0];
        let pseudo = [&self.ip.source[..], &self.ip.destination, &protocol, &length.to_be_bytes()].concat();
        assert_eq!(is, folded(&pseudo), "partial checksum of {self}");
    }

    /// Source address and port; port 0 for ICMP.
    pub(crate) fn src(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip.source.into(), self.ports().0)
    }

    /// Destination address and port; port 0 for ICMP.
    pub(crate) fn dst(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip.destination.into(), self.ports().1)
    }

    fn ports(&self) -> (u16, u16) {
        match &self.transport {
            TransportHeader::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
            TransportHeader::Udp(udp) => (udp.source_port, udp.destination_port),
            _ => (0, 0),
        }
    }

    /// The TCP header.
    ///
    /// # Panics
    /// If it is something else.
    pub(crate) fn tcp(&self) -> &TcpHeader {
        let TransportHeader::Tcp(tcp) = &self.transport else { panic!("not TCP: {self}") };
        tcp
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ttl = self.ip.time_to_live;
        let (src, dst) = (Ipv4Addr::from(self.ip.source), Ipv4Addr::from(self.ip.destination));
        match &self.transport {
            TransportHeader::Tcp(h) => write!(f, "tcp {} > {} {} ttl {ttl}", self.src(), self.dst(), flags(h)),
            TransportHeader::Udp(_) => write!(f, "udp {} > {} ttl {ttl}", self.src(), self.dst()),
            TransportHeader::Icmpv4(h) => write!(f, "icmp {src} > {dst} {} ttl {ttl}", kind(&h.icmp_type)),
            other => write!(f, "{other:?} {src} > {dst} ttl {ttl}"),
        }
    }
}

fn flags(tcp: &TcpHeader) -> String {
    let all = [(tcp.syn, 'S'), (tcp.fin, 'F'), (tcp.rst, 'R'), (tcp.psh, 'P'), (tcp.ack, 'A')];
    all.iter().filter(|(on, _)| *on).map(|(_, name)| name).collect()
}

fn kind(icmp: &Icmpv4Type) -> &'static str {
    use etherparse::icmpv4::{DestUnreachableHeader::Port, TimeExceededCode::TtlExceededInTransit};
    match icmp {
        Icmpv4Type::EchoReply(_) => "echo-reply",
        Icmpv4Type::DestinationUnreachable(Port) => "port-unreachable",
        Icmpv4Type::TimeExceeded(TtlExceededInTransit) => "time-exceeded",
        other => panic!("unexpected ICMP {other:?}"),
    }
}

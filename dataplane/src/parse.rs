//! Parsing: from bytes to a key, or to the reason why not.
//!
//! Nothing here looks at tables: only what the frame itself says, checked once. What is no IPv4 or ARP for this
//! interface's own MAC is passed; what claims to be IPv4 and lies is dropped. Host requirements: RFC 1122 §3.2.1 (header
//! checks), §3.2.2.6 (broadcast).

use pollgate_common::drops::{Drop, Pass};
use pollgate_common::flow::{FlowKey, V4};
use pollgate_common::net::Mac;

use crate::packet::{Fate, Kind, Packet};
use crate::port::Frame;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::Ipv4;
use crate::wire::tcp::{self, Tcp};
use crate::wire::udp::Udp;
use crate::wire::{Header, icmp};

/// Reads `frame`, received on an interface whose MAC is `own`.
#[inline]
pub(crate) fn parse(frame: Frame, own: Mac) -> Packet {
    let mut packet = Packet::new(frame, own);
    if let Err(fate) = ethernet(&mut packet) {
        packet.fate = Some(fate);
    }
    packet
}

#[inline]
fn ethernet(packet: &mut Packet) -> Result<(), Fate> {
    let Some(header) = Ethernet::at(packet.frame.bytes(), 0) else { return Err(Fate::Drop(Drop::Runt)) };
    let to_us = header.dst() == packet.own;
    match header.ether_type() {
        ethernet::IPV4 if to_us => ipv4(packet),
        ethernet::ARP if to_us || header.dst().is_group() => {
            packet.kind = Kind::Arp;
            Ok(())
        }
        _ if !to_us && !header.dst().is_group() => Err(Fate::Pass(Pass::OtherMac)),
        ethernet::IPV4 => Err(Fate::Pass(Pass::Group)),
        ethernet::IPV6 => Err(Fate::Pass(Pass::Ipv6)),
        _ => Err(Fate::Pass(Pass::EtherType)),
    }
}

#[inline]
fn ipv4(packet: &mut Packet) -> Result<(), Fate> {
    let ip = Ipv4::check(packet.frame.bytes(), ethernet::LEN).map_err(Fate::Drop)?;
    let (src, dst, protocol) = (V4(ip.src()), V4(ip.dst()), ip.protocol());
    packet.l4 = ethernet::LEN + ip.header_len();
    packet.l4_len = ip.total_len() - ip.header_len();
    packet.ttl = ip.ttl();
    packet.key = FlowKey { src, dst, src_port: 0, dst_port: 0, protocol };
    if ip.is_fragment() {
        packet.kind = Kind::Fragment;
        return Ok(());
    }
    match protocol {
        6 => tcp(packet),
        17 => udp(packet),
        icmp::PROTOCOL => {
            packet.kind = Kind::Icmp;
            Ok(())
        }
        _ => Ok(()),
    }
}

#[inline]
fn tcp(packet: &mut Packet) -> Result<(), Fate> {
    let tcp = Tcp::check(packet.frame.bytes(), packet.l4, packet.l4_len).map_err(Fate::Drop)?;
    let (src_port, dst_port, flags) = (tcp.src_port(), tcp.dst_port(), tcp.flags());
    packet.kind = Kind::Tcp;
    packet.tcp_flags = flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK);
    packet.key = FlowKey { src_port, dst_port, ..packet.key };
    Ok(())
}

#[inline]
fn udp(packet: &mut Packet) -> Result<(), Fate> {
    let gso = packet.frame.offload().is_gso();
    let udp = Udp::check(packet.frame.bytes(), packet.l4, packet.l4_len, gso).map_err(Fate::Drop)?;
    let (src_port, dst_port) = (udp.src_port(), udp.dst_port());
    packet.kind = Kind::Udp;
    packet.key = FlowKey { src_port, dst_port, ..packet.key };
    Ok(())
}

//! Parsing: from bytes to a key, or to the reason why not.
//!
//! Nothing here looks at tables but for the interfaces' MACs: only what the frame itself says, checked once. What is no IPv4 or ARP for this
//! interface's own MAC is passed; what claims to be IPv4 and lies is dropped. Host requirements: RFC 1122 §3.2.1 (header
//! checks), §3.2.2.6 (broadcast).

use pollgate_common::flow::{FlowKey, V4};
use pollgate_common::net::{Mac, Net};
use pollgate_common::reasons::{DropReason, PassReason};

use crate::memory::prefetch;
use crate::packet::{Kind, Packet, Verdict};
use crate::port::Frame;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::plain::{self, Plain};
use crate::wire::tcp::{self, Tcp};
use crate::wire::udp::Udp;
use crate::wire::{Header, icmp};

/// The flags that say something about a connection's state.
const STATE_FLAGS: u8 = tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK;

/// Reads all frames of a burst, each into the packet at its place.
#[inline]
pub(crate) fn all(frames: &[Frame], packets: &mut [Packet], net: &Net) {
    frames.iter().for_each(|frame| prefetch(frame.as_ptr()));
    // Frames that come in a burst mostly come by one port.
    let mut last = (None, Mac::default());
    for (frame, packet) in frames.iter().zip(packets) {
        let port = frame.received_on();
        if last.0 != Some(port) {
            last = (Some(port), net.port_link(port).map(|link| link.mac).unwrap_or_default());
        }
        packet.own = last.1;
        packet.verdict = None;
        if !plain(frame, packet) {
            general(frame, packet);
        }
    }
}

/// What nearly every frame is. Answers whether this one was.
#[inline]
fn plain(frame: &Frame, packet: &mut Packet) -> bool {
    let Some(headers) = Plain::check(frame.bytes(), packet.own, frame.offload().is_gso()) else { return false };
    let ip = headers.ip();
    packet.key = headers.key();
    packet.tcp_flags = headers.tcp_flags() & STATE_FLAGS;
    packet.ttl = ip.ttl();
    packet.kind = if headers.is_tcp() { Kind::Tcp } else { Kind::Udp };
    packet.l4 = plain::L4;
    packet.l4_len = ip.total_len() - ipv4::LEN;
    true
}

/// Everything else, and everything that is wrong.
#[cold]
fn general(frame: &Frame, packet: &mut Packet) {
    packet.kind = Kind::OtherIp;
    packet.tcp_flags = 0;
    packet.verdict = ethernet(frame, packet).err();
}

fn ethernet(frame: &Frame, packet: &mut Packet) -> Result<(), Verdict> {
    let Some(header) = Ethernet::at(frame.bytes(), 0) else { return Err(Verdict::Drop(DropReason::Runt)) };
    let to_us = header.dst() == packet.own;
    match header.ether_type() {
        ethernet::IPV4 if to_us => ipv4(frame, packet),
        ethernet::ARP if to_us || header.dst().is_group() => {
            packet.kind = Kind::Arp;
            Ok(())
        }
        _ if !to_us && !header.dst().is_group() => Err(Verdict::Pass(PassReason::OtherMac)),
        ethernet::IPV4 => Err(Verdict::Pass(PassReason::Group)),
        ethernet::IPV6 => Err(Verdict::Pass(PassReason::Ipv6)),
        _ => Err(Verdict::Pass(PassReason::EtherType)),
    }
}

fn ipv4(frame: &Frame, packet: &mut Packet) -> Result<(), Verdict> {
    let ip = Ipv4::check(frame.bytes(), ethernet::LEN).map_err(Verdict::Drop)?;
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
        6 => tcp(frame, packet),
        17 => udp(frame, packet),
        icmp::PROTOCOL => {
            packet.kind = Kind::Icmp;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn tcp(frame: &Frame, packet: &mut Packet) -> Result<(), Verdict> {
    let tcp = Tcp::check(frame.bytes(), packet.l4, packet.l4_len).map_err(Verdict::Drop)?;
    let (src_port, dst_port, flags) = (tcp.src_port(), tcp.dst_port(), tcp.flags());
    packet.kind = Kind::Tcp;
    packet.tcp_flags = flags & STATE_FLAGS;
    packet.key = FlowKey { src_port, dst_port, ..packet.key };
    Ok(())
}

fn udp(frame: &Frame, packet: &mut Packet) -> Result<(), Verdict> {
    let gso = frame.offload().is_gso();
    let udp = Udp::check(frame.bytes(), packet.l4, packet.l4_len, gso).map_err(Verdict::Drop)?;
    let (src_port, dst_port) = (udp.src_port(), udp.dst_port());
    packet.kind = Kind::Udp;
    packet.key = FlowKey { src_port, dst_port, ..packet.key };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use pollgate_common::net::PortId;
    use proptest::prelude::*;

    use super::*;
    use crate::port::Origin;
    use crate::wire::checksum;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

    /// A frame for us with a right IP checksum, whatever else `changes` do to it.
    fn frame(protocol: u8, payload: usize, changes: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = vec![0u8; plain::L4 + 20 + payload];
        bytes[..6].copy_from_slice(&OWN.0);
        bytes[12..14].copy_from_slice(&[8, 0]);
        let total = u16::try_from(bytes.len() - ethernet::LEN).expect("small").to_be_bytes();
        bytes[14..24].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol]);
        match protocol {
            17 => bytes[39] = u8::try_from(20 + payload).expect("small"),
            _ => bytes[46] = 0x50,
        }
        for &(at, with) in changes {
            let at = at % bytes.len();
            bytes[at] ^= with;
        }
        bytes[24..26].fill(0);
        let sum = !checksum::fold(checksum::sum(&bytes[14..34]));
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn read(bytes: &mut [u8], how: impl Fn(&Frame, &mut Packet)) -> Packet {
        let len = u32::try_from(bytes.len()).expect("small");
        let (port, ptr) = (PortId(0), NonNull::from(bytes).cast());
        // SAFETY: the bytes are borrowed for as long as the frame is there.
        let frame = unsafe { Frame::new(ptr, len, len, Origin::Port(port), port, 0) };
        let mut packet = Packet::new();
        packet.own = OWN;
        how(&frame, &mut packet);
        packet
    }

    proptest! {
        #[test]
        fn the_short_way_says_what_the_long_way_says(
            udp in any::<bool>(), payload in 0usize..30, cut in 0usize..70,
            changes in proptest::collection::vec((0usize..54, any::<u8>()), 0..3),
        ) {
            let mut bytes = frame(if udp { 17 } else { 6 }, payload, &changes);
            bytes.truncate(bytes.len() - cut.saturating_sub(50));
            let taken = std::cell::Cell::new(false);
            let short = read(&mut bytes, |frame, packet| taken.set(plain(frame, packet)));
            let long = read(&mut bytes, general);
            if taken.get() {
                prop_assert_eq!(format!("{short:?}"), format!("{long:?}"));
            } else {
                // What it leaves is wrong, or has something that is rare.
                let rare = bytes.len() < plain::L4 + 20 || bytes[14] != 0x45;
                prop_assert!(long.verdict.is_some() || !long.has_ports() || rare, "{long:?}");
            }
        }
    }
}

//! Parsing: from bytes to a key, or to the reason why not. Sorts a burst into lanes.
//!
//! Only what the frame itself holds is checked, once; of the tables only the interfaces' MAC addresses are read. A frame that is
//! neither IP nor ARP for this interface's own MAC address is passed. A frame that claims to be IP and is malformed is dropped.
//! Host requirements: RFC 1122 §3.2.1 (header checks), §3.2.2.6 (broadcast).

use pollgate_common::flow::{FlowKey, V4};
use pollgate_common::net::{Mac, Net};
use pollgate_common::reasons::{DropReason, PassReason};

use crate::burst::Burst;
use crate::memory::prefetch;
use crate::packet::{Action, Outcome, Packet, Transport};
use crate::port::Frame;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmp::{self, Icmp};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::plain::{self, Plain};
use crate::wire::tcp::{self, Segment, Tcp};
use crate::wire::udp::{self, Udp};
use crate::wire::{Header, Ip, Piece, sctp};

/// Reads all frames of a burst into `burst`.
#[inline]
pub(crate) fn all(frames: &[Frame], burst: &mut Burst, net: &Net) {
    burst.clear();
    frames.iter().for_each(|frame| prefetch(frame.as_ptr()));
    // Frames of one burst mostly come by one port.
    let mut last = (None, Mac::default());
    for (index, frame) in (0u8..).zip(frames) {
        let port = frame.received_on();
        if last.0 != Some(port) {
            last = (Some(port), net.port_link(port).map(|link| link.mac).unwrap_or_default());
        }
        let packet = burst.v4.flows.next();
        (packet.frame, packet.own) = (index, last.1);
        if plain(frame, packet) {
            burst.v4.flows.keep();
        } else {
            general(frame, index, burst, last.1);
        }
    }
}

/// What nearly every frame is. Returns whether this one was.
#[inline]
fn plain(frame: &Frame, packet: &mut Packet<V4>) -> bool {
    let Some(headers) = Plain::check(frame.bytes(), packet.own, frame.offload().is_gso()) else { return false };
    let ip = headers.ip();
    packet.key = headers.key();
    packet.segment = headers.segment();
    if packet.segment.flags & tcp::SYN != 0 {
        packet.segment = segment(frame.bytes(), plain::L4);
    }
    packet.hop_limit = ip.hop_limit();
    packet.transport = if headers.is_tcp() { Transport::Tcp } else { Transport::Udp };
    packet.piece = Piece::Whole;
    packet.l4 = plain::L4;
    packet.l4_len = ip.total_len() - ipv4::LEN;
    true
}

/// Everything else, and everything that is wrong.
#[cold]
fn general(frame: &Frame, index: u8, burst: &mut Burst, own: Mac) {
    let result = match network(frame, own) {
        Ok(Network::V4) => {
            let packet = burst.v4.others.next();
            (packet.frame, packet.own) = (index, own);
            ip::<Ipv4>(frame, packet).map(|()| burst.v4.keep()).map_err(Action::Drop)
        }
        Ok(Network::Arp) => {
            burst.add_arp(index);
            Ok(())
        }
        Err(action) => Err(action),
    };
    if let Err(action) = result {
        burst.settle(usize::from(index), Outcome::of(action));
    }
}

/// The network layers that pollgate handles.
enum Network {
    V4,
    Arp,
}

fn network(frame: &Frame, own: Mac) -> Result<Network, Action> {
    let Some(header) = Ethernet::at(frame.bytes(), 0) else { return Err(Action::Drop(DropReason::Runt)) };
    let (to_us, to_group) = (header.dst() == own, header.dst().is_group());
    match header.ether_type() {
        ethernet::IPV4 if to_us => Ok(Network::V4),
        ethernet::ARP if to_us || to_group => Ok(Network::Arp),
        _ if !to_us && !to_group => Err(Action::Pass(PassReason::OtherMac)),
        ethernet::IPV4 => Err(Action::Pass(PassReason::Group)),
        ethernet::IPV6 => Err(Action::Pass(PassReason::Ipv6)),
        _ => Err(Action::Pass(PassReason::EtherType)),
    }
}

fn ip<I: Ip>(frame: &Frame, packet: &mut Packet<I::Address>) -> Result<(), DropReason> {
    let ip = I::check(frame.bytes(), ethernet::LEN)?;
    packet.segment = Segment::default();
    packet.hop_limit = ip.hop_limit();
    packet.piece = ip.piece();
    packet.l4 = ethernet::LEN + ip.header_len();
    packet.l4_len = ip.total_len() - ip.header_len();
    packet.key = FlowKey { src: ip.src(), dst: ip.dst(), src_port: 0, dst_port: 0, protocol: ip.protocol() };
    packet.transport = transport::<I>(ip.protocol());
    if packet.piece == Piece::Whole { whole(frame, packet) } else { Ok(()) }
}

fn transport<I: Ip>(protocol: u8) -> Transport {
    match protocol {
        tcp::PROTOCOL => Transport::Tcp,
        udp::PROTOCOL => Transport::Udp,
        sctp::PROTOCOL => Transport::Sctp,
        _ if protocol == I::ICMP => Transport::Icmp(icmp::Kind::Other),
        _ => Transport::Other,
    }
}

/// Reads the transport header of a packet that is not a fragment.
fn whole<A>(frame: &Frame, packet: &mut Packet<A>) -> Result<(), DropReason> {
    let (bytes, l4, len) = (frame.bytes(), packet.l4, packet.l4_len);
    match packet.transport {
        Transport::Tcp => {
            let tcp = Tcp::check(bytes, l4, len)?;
            (packet.key.src_port, packet.key.dst_port) = (tcp.src_port(), tcp.dst_port());
            packet.segment = segment(bytes, l4);
        }
        Transport::Udp => {
            let udp = Udp::check(bytes, l4, len, frame.offload().is_gso())?;
            (packet.key.src_port, packet.key.dst_port) = (udp.src_port(), udp.dst_port());
        }
        // A message shorter than its header is followed by padding, which is not a header.
        Transport::Icmp(_) if len >= icmp::LEN => {
            let kind = Icmp::at(bytes, l4).map_or(icmp::Kind::Other, Icmp::kind);
            packet.transport = Transport::Icmp(kind);
        }
        Transport::Icmp(_) | Transport::Sctp | Transport::Other => {}
    }
    Ok(())
}

/// What a connection's life depends on in the segment whose header is at `l4`, options included.
#[cold]
fn segment(bytes: &[u8], l4: usize) -> Segment {
    let Some(tcp) = Tcp::at(bytes, l4) else { return Segment::default() };
    let options = bytes.get(l4 + tcp::LEN..l4 + tcp.header_len());
    tcp.segment(options.unwrap_or_default())
}

#[cfg(test)]
#[allow(unsafe_code, reason = "frames over the bytes of a test")]
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

    /// The packet that `how` finds in the bytes, and its verdict if it has one.
    fn read(bytes: &mut [u8], how: impl Fn(&Frame, &mut Packet<V4>) -> Option<Action>) -> (Packet<V4>, Option<Action>) {
        let len = u32::try_from(bytes.len()).expect("small");
        let (port, ptr) = (PortId(0), NonNull::from(bytes).cast());
        // SAFETY: the bytes are borrowed for as long as the frame is there.
        let frame = unsafe { Frame::new(ptr, len, len, Origin::Port(port), port, 0) };
        let mut packet = Packet::new();
        packet.own = OWN;
        let verdict = how(&frame, &mut packet);
        (packet, verdict)
    }

    /// The way of a packet that `plain` leaves.
    fn long_way(frame: &Frame, packet: &mut Packet<V4>) -> Option<Action> {
        match network(frame, OWN) {
            Ok(Network::V4) => ip::<Ipv4>(frame, packet).err().map(Action::Drop),
            Ok(Network::Arp) => None,
            Err(action) => Some(action),
        }
    }

    proptest! {
        #[test]
        fn the_short_way_finds_what_the_long_way_finds(
            udp in any::<bool>(), payload in 0usize..30, cut in 0usize..70,
            changes in proptest::collection::vec((0usize..54, any::<u8>()), 0..3),
        ) {
            let mut bytes = frame(if udp { 17 } else { 6 }, payload, &changes);
            bytes.truncate(bytes.len() - cut.saturating_sub(50));
            let taken = std::cell::Cell::new(false);
            let short = read(&mut bytes, |frame, packet| {
                taken.set(plain(frame, packet));
                None
            });
            let long = read(&mut bytes, long_way);
            if taken.get() {
                prop_assert_eq!(format!("{short:?}"), format!("{long:?}"));
            } else {
                // What it leaves is wrong, or has something that is rare.
                let rare = bytes.len() < plain::L4 + 20 || bytes[14] != 0x45;
                let (packet, verdict) = long;
                prop_assert!(verdict.is_some() || !packet.can_have_flow() || rare, "{packet:?}");
            }
        }
    }
}

//! Parsing: from bytes to a key, or to the reason why not. Sorts a burst into lanes.
//!
//! Only what the frame itself holds is checked, once; of the tables only the interfaces' MAC addresses and the address of DNS are read. A frame that is
//! neither IP, ARP nor neighbour discovery for this interface's own MAC address is passed. A frame that claims to be IP and is
//! malformed is dropped. Host requirements: RFC 1122 §3.2.1 (header checks), §3.2.2.6 (broadcast).

use std::net::IpAddr;

use pollgate_common::flow::FlowKey;
use pollgate_common::net::{Mac, Net};
use pollgate_common::reasons::{DropReason, PassReason};

use crate::burst::Burst;
use crate::memory::prefetch;
use crate::packet::{Action, Outcome, Packet, Transport};
use crate::port::Frame;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::plain::Plain;
use crate::wire::sctp::{self, Message, Sctp};
use crate::wire::tcp::{self, Segment, Tcp};
use crate::wire::udp::{self, Udp};
use crate::wire::{Control, Header, Ip, Piece, control, nd};

/// Reads all frames of a burst into `burst`. `dns`: where the cluster's DNS server is.
#[inline]
pub(crate) fn all(frames: &[Frame], burst: &mut Burst, net: &Net, dns: &[IpAddr]) {
    burst.clear();
    frames.iter().for_each(|frame| prefetch(frame.as_ptr()));
    // Frames of one burst mostly come by one port.
    let mut last = (None, Mac::default());
    for (index, frame) in (0u8..).zip(frames) {
        let port = frame.received_on();
        if last.0 != Some(port) {
            last = (Some(port), net.port_link(port).map(|link| link.mac).unwrap_or_default());
        }
        if plain::<Ipv4>(frame, index, last.1, burst.v4.flows.next()) {
            burst.v4.keep_flow(dns);
        } else if plain::<Ipv6>(frame, index, last.1, burst.v6.flows.next()) {
            burst.v6.keep_flow(dns);
        } else {
            general(frame, index, burst, last.1, dns);
        }
    }
}

/// What nearly every frame is. Returns whether this one was.
#[inline]
fn plain<I: Ip>(frame: &Frame, index: u8, own: Mac, packet: &mut Packet<I::Address>) -> bool {
    let Some(headers) = Plain::<I>::check(frame.bytes(), own, frame.offload().is_gso()) else { return false };
    let ip = headers.ip();
    (packet.frame, packet.own) = (index, own);
    packet.key = headers.key();
    packet.segment = headers.segment();
    if packet.segment.flags & tcp::SYN != 0 {
        packet.segment = segment(frame.bytes(), Plain::<I>::L4);
    }
    packet.hop_limit = ip.hop_limit();
    packet.transport = if headers.is_tcp() { Transport::Tcp } else { Transport::Udp };
    packet.piece = Piece::Whole;
    packet.l4 = Plain::<I>::L4;
    packet.l4_len = ip.total_len() - I::LEN;
    true
}

/// Everything else, and everything that is wrong.
#[cold]
fn general(frame: &Frame, index: u8, burst: &mut Burst, own: Mac, dns: &[IpAddr]) {
    let result = match network(frame, own) {
        Ok(Network::V4) => ip::<Ipv4>(frame, index, own, burst.v4.others.next()).map(|()| burst.v4.keep(dns)),
        Ok(Network::V6) => ip::<Ipv6>(frame, index, own, burst.v6.others.next()).map(|()| burst.v6.keep(dns)),
        Ok(Network::Arp) => {
            burst.arp.add(index);
            Ok(())
        }
        Ok(Network::Discovery) => {
            burst.nd.add(index);
            Ok(())
        }
        Err(action) => Err(action),
    };
    if let Err(action) = result {
        burst.settle(index, Outcome::of(action));
    }
}

/// The network layers that pollgate handles.
enum Network {
    V4,
    V6,
    Arp,
    Discovery,
}

fn network(frame: &Frame, own: Mac) -> Result<Network, Action> {
    let Some(header) = Ethernet::at(frame.bytes(), 0) else { return Err(Action::Drop(DropReason::Runt)) };
    let (to_us, to_group) = (header.dst() == own, header.dst().is_group());
    match header.ether_type() {
        ethernet::IPV4 if to_us => Ok(Network::V4),
        ethernet::ARP if to_us || to_group => Ok(Network::Arp),
        _ if !to_us && !to_group => Err(Action::Pass(PassReason::OtherMac)),
        ethernet::IPV6 if nd::target(frame.bytes(), ethernet::LEN).is_some() => Ok(Network::Discovery),
        ethernet::IPV6 if to_us => Ok(Network::V6),
        ethernet::IPV4 | ethernet::IPV6 => Err(Action::Pass(PassReason::Group)),
        _ => Err(Action::Pass(PassReason::EtherType)),
    }
}

fn ip<I: Ip>(frame: &Frame, index: u8, own: Mac, packet: &mut Packet<I::Address>) -> Result<(), Action> {
    let (ip, upper) = I::check(frame.bytes(), ethernet::LEN).map_err(Action::Drop)?;
    (packet.frame, packet.own) = (index, own);
    packet.segment = Segment::default();
    packet.hop_limit = ip.hop_limit();
    packet.piece = upper.piece;
    packet.l4 = ethernet::LEN + upper.offset;
    packet.l4_len = ip.total_len() - upper.offset;
    packet.key = FlowKey { src: ip.src(), dst: ip.dst(), src_port: 0, dst_port: 0, protocol: upper.protocol };
    packet.transport = transport::<I>(upper.protocol);
    let result = match packet.piece {
        Piece::Whole => transport_header::<I>(frame, packet),
        // RFC 1858, RFC 7112.
        Piece::First => transport_header::<I>(frame, packet).map_err(|_| DropReason::FragmentTiny),
        Piece::Later => Ok(()),
    };
    result.map_err(Action::Drop)
}

fn transport<I: Ip>(protocol: u8) -> Transport {
    match protocol {
        tcp::PROTOCOL => Transport::Tcp,
        udp::PROTOCOL => Transport::Udp,
        sctp::PROTOCOL => Transport::Sctp(Message::default()),
        _ if protocol == I::Control::PROTOCOL => Transport::Icmp(control::Kind::Other),
        _ => Transport::Other,
    }
}

/// Reads the transport header. That of a first fragment is for the whole datagram, so its length is not checked.
fn transport_header<I: Ip>(frame: &Frame, packet: &mut Packet<I::Address>) -> Result<(), DropReason> {
    let (bytes, l4, len) = (frame.bytes(), packet.l4, packet.l4_len);
    match packet.transport {
        Transport::Tcp => {
            let tcp = Tcp::check(bytes, l4, len)?;
            (packet.key.src_port, packet.key.dst_port) = (tcp.src_port(), tcp.dst_port());
            packet.segment = segment(bytes, l4);
        }
        Transport::Udp => {
            let udp = Udp::check(bytes, l4, len, frame.offload().is_gso() || packet.piece == Piece::First)?;
            (packet.key.src_port, packet.key.dst_port) = (udp.src_port(), udp.dst_port());
        }
        Transport::Sctp(_) => {
            let (sctp, message) = Sctp::check(bytes, l4, len, packet.piece == Piece::First)?;
            (packet.key.src_port, packet.key.dst_port) = (sctp.src_port(), sctp.dst_port());
            packet.transport = Transport::Sctp(message);
        }
        // A message shorter than its header is followed by padding, which is not a header.
        Transport::Icmp(_) if len >= size_of::<I::Control>() => {
            let kind = I::Control::at(bytes, l4).map_or(control::Kind::Other, I::Control::kind);
            packet.transport = Transport::Icmp(match kind {
                control::Kind::Error => about::<I>(bytes, packet),
                control::Kind::EchoRequest | control::Kind::Other => kind,
            });
        }
        Transport::Icmp(_) if packet.piece == Piece::First => return Err(DropReason::FragmentTiny),
        Transport::Icmp(_) | Transport::Other => {}
    }
    Ok(())
}

/// Reads the packet that an ICMP error quotes. If it can belong to a flow, the error gets that flow's key; any other error is a
/// message like others. An error goes to the sender of the packet (RFC 792; RFC 4443 §2.4): one that does not is not about it.
fn about<I: Ip>(bytes: &[u8], packet: &mut Packet<I::Address>) -> control::Kind {
    let quoted = bytes.get(packet.l4 + size_of::<I::Control>()..packet.l4 + packet.l4_len).unwrap_or_default();
    let Some((ip, upper)) = I::quoted(quoted) else { return control::Kind::Other };
    let Some(ports) = control::Ports::at(quoted, upper.offset) else { return control::Kind::Other };
    let has_ports = match transport::<I>(upper.protocol) {
        Transport::Tcp | Transport::Udp | Transport::Sctp(_) => upper.piece != Piece::Later,
        Transport::Icmp(_) | Transport::Other => false,
    };
    if !has_ports || ip.src() != packet.key.dst {
        return control::Kind::Other;
    }
    packet.key = FlowKey {
        src: ip.dst(),
        dst: ip.src(),
        src_port: ports.dst(),
        dst_port: ports.src(),
        protocol: upper.protocol,
    };
    control::Kind::Error
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

    use pollgate_common::flow::Address;
    use pollgate_common::net::PortId;
    use proptest::prelude::*;

    use super::*;
    use crate::port::Origin;
    use crate::wire::checksum;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

    /// A packet, and its verdict if it has one.
    type Found<A> = (Packet<A>, Option<Action>);

    const IPV4_L4: usize = Plain::<Ipv4>::L4;
    const IPV6_L4: usize = Plain::<Ipv6>::L4;

    /// An IPv4 frame for us with a right IP checksum, whatever else `changes` do to it.
    fn frame(protocol: u8, payload: usize, changes: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = vec![0u8; IPV4_L4 + 20 + payload];
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

    /// The same for IPv6, which has no sum.
    fn frame_v6(protocol: u8, payload: usize, changes: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = vec![0u8; IPV6_L4 + 20 + payload];
        bytes[..6].copy_from_slice(&OWN.0);
        bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        let length = u16::try_from(20 + payload).expect("small").to_be_bytes();
        bytes[18..22].copy_from_slice(&[length[0], length[1], protocol, 64]);
        match protocol {
            17 => bytes[59] = length[1],
            _ => bytes[66] = 0x50,
        }
        for &(at, with) in changes {
            let at = at % bytes.len();
            bytes[at] ^= with;
        }
        bytes
    }

    /// The packet that `how` finds in the bytes, and its verdict if it has one.
    fn read<A: Address>(bytes: &mut [u8], how: impl Fn(&Frame, &mut Packet<A>) -> Option<Action>) -> Found<A> {
        let len = u32::try_from(bytes.len()).expect("small");
        let (port, ptr) = (PortId(0), NonNull::from(bytes).cast());
        // SAFETY: the bytes are borrowed for as long as the frame is there.
        let frame = unsafe { Frame::new(ptr, len, len, Origin::Port(port), port, 0) };
        let mut packet = Packet::new();
        let verdict = how(&frame, &mut packet);
        (packet, verdict)
    }

    /// The way of a packet of this family that `plain` leaves.
    fn long_way<I: Ip>(frame: &Frame, packet: &mut Packet<I::Address>) -> Option<Action> {
        match network(frame, OWN) {
            Ok(Network::V4 | Network::V6) => ip::<I>(frame, 0, OWN, packet).err(),
            Ok(Network::Arp | Network::Discovery) => None,
            Err(action) => Some(action),
        }
    }

    /// The packet and verdict of the long way; those of the short way if it takes the frame.
    fn both<I: Ip>(bytes: &mut [u8]) -> (Found<I::Address>, Option<String>) {
        let taken = std::cell::Cell::new(false);
        let short = read(bytes, |frame, packet| {
            taken.set(plain::<I>(frame, 0, OWN, packet));
            None
        });
        (read(bytes, long_way::<I>), taken.get().then(|| format!("{short:?}")))
    }

    proptest! {
        #[test]
        fn the_short_way_finds_what_the_long_way_finds(
            udp in any::<bool>(), payload in 0usize..30, cut in 0usize..70,
            changes in proptest::collection::vec((0usize..54, any::<u8>()), 0..3),
        ) {
            let mut bytes = frame(if udp { 17 } else { 6 }, payload, &changes);
            bytes.truncate(bytes.len() - cut.saturating_sub(50));
            let (long, short) = both::<Ipv4>(&mut bytes);
            if let Some(short) = short {
                prop_assert_eq!(short, format!("{long:?}"));
            } else {
                // What it leaves is wrong, or has something that is rare.
                let rare = bytes.len() < IPV4_L4 + 20 || bytes[14] != 0x45;
                let (packet, verdict) = long;
                prop_assert!(verdict.is_some() || !packet.can_have_flow() || rare, "{packet:?}");
            }
        }

        #[test]
        fn and_so_it_does_for_ipv6(
            udp in any::<bool>(), payload in 0usize..30, cut in 0usize..70,
            changes in proptest::collection::vec((0usize..74, any::<u8>()), 0..3),
        ) {
            let mut bytes = frame_v6(if udp { 17 } else { 6 }, payload, &changes);
            bytes.truncate(bytes.len() - cut.saturating_sub(50));
            let (long, short) = both::<Ipv6>(&mut bytes);
            if let Some(short) = short {
                prop_assert_eq!(short, format!("{long:?}"));
            } else {
                let rare = bytes.len() < IPV6_L4 + 20 || ![6, 17].contains(&bytes[20]);
                let (packet, verdict) = long;
                prop_assert!(verdict.is_some() || !packet.can_have_flow() || rare, "{packet:?}");
            }
        }
    }
}

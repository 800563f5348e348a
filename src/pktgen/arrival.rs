//! A frame that has arrived: whether it belongs to the run, in which direction it goes, and how it is sent back.
//!
//! ```text
//!  client ──there──▶ gateway ──there──▶ sink ──back──▶ gateway ──back──▶ client
//! ```
//!
//! A packet to a client's address is on its way back, any other on its way there: so one interface can be both sides.

use std::net::IpAddr;

use pollgate_common::net::Mac;
use pollgate_dataplane::port::Frame;
use pollgate_dataplane::wire::ethernet::{self, Ethernet};
use pollgate_dataplane::wire::ipv4::Ipv4;
use pollgate_dataplane::wire::ipv6::{self, Ipv6};
use pollgate_dataplane::wire::tcp::{self, Tcp};
use pollgate_dataplane::wire::{Header, Ip, checksum, udp};
use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32};

use super::addresses::Block;
use super::stamp::Stamp;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Sequence number, acknowledgement number, offset and flags, from the start of a TCP header.
const TCP_STATE: std::ops::Range<usize> = 4..14;
const TCP_SUM: std::ops::Range<usize> = 16..18;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To a backend.
    There,
    /// To a client.
    Back,
}

/// A packet of this run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Which way it goes.
    pub(super) way: Way,
    /// Whom it is for.
    pub(super) dst: IpAddr,
    /// What it carries.
    pub(super) stamp: Stamp,
    transport_at: usize,
    /// Flags and payload bytes of a TCP segment.
    segment: Option<(u8, u32)>,
}

impl Arrival {
    /// What a frame is, if it is of this run.
    pub(super) fn read(frame: &[u8], run: u16, clients: &Block) -> Option<Arrival> {
        let Network { protocol, dst, header, total } = Network::read(frame)?;
        let transport_at = ethernet::LEN + header;
        let segment = match protocol {
            UDP => None,
            TCP => Some(Tcp::at(frame, transport_at)?),
            _ => return None,
        };
        let header_len = segment.map_or(udp::LEN, Tcp::header_len);
        let stamp = Stamp::of_run(frame, transport_at + header_len, run)?;
        let payload = total.saturating_sub(header + header_len);
        let segment = segment.map(|tcp| (tcp.flags(), u32::try_from(payload).unwrap_or(0)));
        let way = if clients.position(dst).is_some() { Way::Back } else { Way::There };
        Some(Arrival { way, dst, stamp, transport_at, segment })
    }

    /// Turns the frame into its reply: addresses and ports are swapped, which changes no checksum; a SYN becomes a SYN-ACK,
    /// any other segment acknowledges the one received.
    pub(super) fn reply_in_place(&self, frame: &mut Frame, own: Mac) {
        let sum_is_complete = !frame.offload().is_partial();
        let bytes = frame.bytes_mut();
        if let Some(ethernet) = Ethernet::at_mut(bytes, 0) {
            ethernet.reply_in_place(own);
        }
        match self.dst {
            IpAddr::V4(_) => reply_in_place::<Ipv4>(bytes),
            IpAddr::V6(_) => reply_in_place::<Ipv6>(bytes),
        }
        let Some(transport) = bytes.get_mut(self.transport_at..) else { return };
        if let Some([a, b, c, d]) = transport.first_chunk_mut() {
            std::mem::swap(a, c);
            std::mem::swap(b, d);
        }
        if let Some((flags, payload)) = self.segment {
            acknowledge(transport, flags, payload, sum_is_complete);
        }
    }
}

fn reply_in_place<I: Ip>(frame: &mut [u8]) {
    if let Some(ip) = I::at_mut(frame, ethernet::LEN) {
        ip.reply_in_place();
    }
}

/// What matters of an IP header.
struct Network {
    protocol: u8,
    dst: IpAddr,
    /// Bytes of the header.
    header: usize,
    /// Bytes of header and payload.
    total: usize,
}

impl Network {
    /// Of a frame. IPv6 extension headers are not skipped: a packet of this run has none.
    fn read(frame: &[u8]) -> Option<Network> {
        match Ethernet::at(frame, 0)?.ether_type() {
            ethernet::IPV4 => {
                let ip = Ipv4::at(frame, ethernet::LEN)?;
                let (dst, header, total) = (ip.dst().0.into(), ip.header_len(), ip.total_len());
                Some(Network { protocol: ip.protocol(), dst, header, total })
            }
            ethernet::IPV6 => {
                let ip = Ipv6::at(frame, ethernet::LEN)?;
                let (dst, header, total) = (ip.dst().0.into(), ipv6::LEN, ip.total_len());
                Some(Network { protocol: ip.protocol(), dst, header, total })
            }
            _ => None,
        }
    }
}

/// `sum_is_complete`: the field covers the header; otherwise the sender of the frame completes it.
fn acknowledge(segment: &mut [u8], flags: u8, payload: u32, sum_is_complete: bool) {
    let opens = flags & tcp::SYN != 0;
    let flags = if opens { tcp::SYN | tcp::ACK } else { tcp::ACK };
    let (number, acked) = if opens { (0, 1) } else { (1, 1 + payload) };
    let offset = segment.get(12).map_or(0x50, |byte| byte & 0xf0);
    let (number, acked, last) = (U32::new(number), U32::new(acked), U16::from_bytes([offset, flags]));
    let Some(state) = segment.get_mut(TCP_STATE) else { return };
    let before = checksum::fold(checksum::sum(state));
    state[..4].copy_from_slice(number.as_bytes());
    state[4..8].copy_from_slice(acked.as_bytes());
    state[8..].copy_from_slice(last.as_bytes());
    let change = checksum::sum(state) + u32::from(!before);
    if let Some(field) = segment.get_mut(TCP_SUM).filter(|_| sum_is_complete) {
        let sum = checksum::update(u16::from_be_bytes([field[0], field[1]]), change);
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::addresses::{Family, Tuple};
    use crate::pktgen::pool::Pool;
    use crate::pktgen::template::{Kind, Template};
    use etherparse::{SlicedPacket, TransportSlice};
    use pollgate_common::net::PortId;
    use pollgate_common::time::Instant;

    const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const SINK: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const RUN: u16 = 9;

    /// A client's address, a Service's, and the clients.
    fn ends(family: Family) -> (IpAddr, IpAddr, Block) {
        let ip = |text: &str| text.parse().expect("an address");
        match family {
            Family::V4 => (ip("10.0.0.1"), ip("10.96.0.1"), "10.0.0.0/24".parse().expect("a block")),
            Family::V6 => (ip("2001:db8::1"), ip("2001:db8:96::1"), "2001:db8::/120".parse().expect("a block")),
        }
    }

    fn packet(pool: &mut Pool, family: Family, kind: Kind) -> Frame {
        let (src, dst, _) = ends(family);
        let tuple = Tuple { src, dst, src_port: 1024, dst_port: 80 };
        let mut frame = pool.lend(120, PortId(0)).expect("a buffer");
        Template::new(family, kind, 120, CLIENT, SINK).write(&mut frame, &tuple, &Stamp::new(RUN, 5, 6, Instant(7)));
        frame
    }

    #[test]
    fn it_knows_its_own_and_which_way_they_go() {
        let mut pool = Pool::new(1);
        for (family, least) in [(Family::V4, 60), (Family::V6, 80)] {
            let clients = ends(family).2;
            let mut frame = packet(&mut pool, family, Kind::Udp);
            let arrival = Arrival::read(frame.bytes(), RUN, &clients).expect("one of ours");
            assert_eq!((arrival.way, arrival.stamp.flow(), arrival.stamp.number()), (Way::There, 5, 6));
            assert!(Arrival::read(frame.bytes(), RUN + 1, &clients).is_none(), "another run's");
            assert!((0..least).all(|len| Arrival::read(&frame.bytes()[..len], RUN, &clients).is_none()), "cut");
            arrival.reply_in_place(&mut frame, SINK);
            assert_eq!(Arrival::read(frame.bytes(), RUN, &clients).map(|arrival| arrival.way), Some(Way::Back));
            pool.release(frame);
        }
    }

    #[test]
    fn answers_have_right_sums_and_acknowledge() {
        let mut pool = Pool::new(1);
        let cases = [(Family::V4, 66), (Family::V6, 46)].into_iter().flat_map(|(family, payload)| {
            [(family, Kind::Syn, (true, 0, 1)), (family, Kind::Ack, (false, 1, 1 + payload))]
        });
        for (family, kind, expected) in cases {
            let (client, service, clients) = ends(family);
            let mut frame = packet(&mut pool, family, kind);
            let arrival = Arrival::read(frame.bytes(), RUN, &clients).expect("one of ours");
            arrival.reply_in_place(&mut frame, SINK);
            let bytes = frame.bytes().to_vec();
            pool.release(frame);
            let seen = SlicedPacket::from_ethernet(&bytes).expect("a packet");
            let Some(TransportSlice::Tcp(tcp)) = seen.transport else { panic!("not TCP") };
            let header = tcp.to_header();
            assert!(header.ack);
            assert_eq!((header.syn, header.sequence_number, header.acknowledgment_number), expected);
            assert_eq!((header.source_port, header.destination_port), (80, 1024));
            let (addresses, sum): ((IpAddr, IpAddr), _) = match seen.net {
                Some(etherparse::NetSlice::Ipv4(ip)) => {
                    let ip = ip.header().to_header();
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    let sum = header.calc_checksum_ipv4(&ip, tcp.payload());
                    ((ip.source.into(), ip.destination.into()), sum.expect("a sum"))
                }
                Some(etherparse::NetSlice::Ipv6(ip)) => {
                    let ip = ip.header().to_header();
                    let sum = header.calc_checksum_ipv6(&ip, tcp.payload());
                    ((ip.source.into(), ip.destination.into()), sum.expect("a sum"))
                }
                other => panic!("{other:?}"),
            };
            assert_eq!((addresses, header.checksum), ((service, client), sum));
            assert_eq!(bytes[..12], [CLIENT.0, SINK.0].concat());
        }
    }
}

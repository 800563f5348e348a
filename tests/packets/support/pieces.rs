//! IP packets cut into fragments, and put together again by `etherparse`.

use etherparse::defrag::IpDefragPool;
use etherparse::{NetSlice, SlicedPacket};
use pollgate_dataplane::port::memory::Packet;

use super::super::IS_V6;
use super::builder::{Ip, MacBytes, Sendable, folded, link_mac};
use super::family::{HEADER, written};
use super::lab::{Lab, OWN};
use super::seen::Seen;

/// A fragment to send.
#[derive(Clone)]
pub(crate) struct Piece {
    packet: Vec<u8>,
}

impl Sendable for Piece {
    fn frame(self, to: MacBytes) -> Packet {
        let source = match IS_V6 {
            false => <[u8; 4]>::try_from(&self.packet[12..16]).expect("four bytes").into(),
            true => written(<[u8; 16]>::try_from(&self.packet[8..24]).expect("sixteen bytes").into()),
        };
        let ether_type: [u8; 2] = if IS_V6 { [0x86, 0xdd] } else { [8, 0] };
        [&to[..], &link_mac(source), &ether_type, &self.packet].concat().into()
    }
}

impl Piece {
    /// With another hop limit.
    pub(crate) fn ttl(mut self, ttl: u8) -> Piece {
        self.packet[if IS_V6 { 7 } else { 8 }] = ttl;
        self.summed()
    }

    /// With the right header sum, if the family has one.
    fn summed(mut self) -> Piece {
        if !IS_V6 {
            sum(&mut self.packet[..HEADER]);
        }
        self
    }
}

/// Writes the sum of an IPv4 header.
fn sum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = !folded(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The fragment of `packet` with the bytes of `data` at `start`; no byte of it need be the packet's own.
pub(crate) fn piece(packet: &Ip, id: u32, start: usize, data: &[u8], more: bool) -> Piece {
    let mut header = packet.datagram()[..HEADER].to_vec();
    let low = id.to_be_bytes();
    if IS_V6 {
        let length = u16::try_from(8 + data.len()).expect("small").to_be_bytes();
        header[4..6].copy_from_slice(&length);
        let next = std::mem::replace(&mut header[6], 44);
        let place = u16::try_from(start).expect("in a packet") | u16::from(more);
        let fragment = [&[next, 0][..], &place.to_be_bytes(), &low].concat();
        return Piece { packet: [&header[..], &fragment, data].concat() };
    }
    let length = u16::try_from(HEADER + data.len()).expect("small").to_be_bytes();
    header[2..4].copy_from_slice(&length);
    header[4..6].copy_from_slice(&low[2..]);
    let place = u16::try_from(start / 8).expect("thirteen bits") | u16::from(more) << 13;
    header[6..8].copy_from_slice(&place.to_be_bytes());
    Piece { packet: [&header[..], data].concat() }.summed()
}

/// The fragments of `packet`, of `size` bytes each, in order.
pub(crate) fn cut(packet: &Ip, id: u32, size: usize) -> Vec<Piece> {
    let whole = packet.datagram();
    let data = &whole[HEADER..];
    let starts = (0..data.len()).step_by(size);
    starts
        .map(|start| piece(packet, id, start, &data[start..data.len().min(start + size)], start + size < data.len()))
        .collect()
}

/// Puts fragments together, and verifies each.
#[derive(Default)]
pub(crate) struct Receiver {
    pool: IpDefragPool,
    /// Identifications seen, in order.
    pub(crate) ids: Vec<u32>,
}

impl Receiver {
    /// Adds a frame that the gateway sent. Returns the whole packet once all of it has come.
    pub(crate) fn add(&mut self, frame: &Packet) -> Option<Seen> {
        let slices = SlicedPacket::from_ethernet(&frame.bytes).expect("etherparse reads what the gateway sends");
        let (header, id) = match slices.net.as_ref().expect("an IP header") {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP header checksum");
                (frame.bytes[14..14 + HEADER].to_vec(), header.identification.into())
            }
            NetSlice::Ipv6(_) => {
                let id = <[u8; 4]>::try_from(&frame.bytes[14 + HEADER + 4..][..4]).expect("a fragment header");
                (frame.bytes[14..14 + HEADER].to_vec(), u32::from_be_bytes(id))
            }
            NetSlice::Arp(_) => panic!("not an IP packet"),
        };
        self.ids.push(id);
        let whole = self.pool.process_sliced_packet(&slices, (), ()).expect("fragments that fit")?;
        Some(Seen::read(together(&frame.bytes[..14], header, whole.ip_number.0, &whole.payload)))
    }

    /// Adds all that has left by a port. Returns the packets that are complete with it.
    pub(crate) fn take(&mut self, lab: &mut Lab, port: usize) -> Vec<Seen> {
        let frames = std::iter::from_fn(|| lab.pop(port));
        let mut seen = Vec::new();
        for frame in frames {
            assert_eq!(frame.bytes[6..12], OWN[port], "the interface's own MAC");
            seen.extend(self.add(&frame));
        }
        seen
    }
}

/// The whole packet of a fragment's headers and the data of all.
fn together(ethernet: &[u8], mut header: Vec<u8>, protocol: u8, data: &[u8]) -> Packet {
    if IS_V6 {
        header[4..6].copy_from_slice(&u16::try_from(data.len()).expect("a packet").to_be_bytes());
        header[6] = protocol;
    } else {
        header[2..4].copy_from_slice(&u16::try_from(HEADER + data.len()).expect("a packet").to_be_bytes());
        header[6..8].fill(0);
        sum(&mut header);
    }
    [ethernet, &header, data].concat().into()
}

//! Generated packets: the flow's number decides client, port, protocol and Service.

use std::net::Ipv4Addr;

use pollgate_dataplane::wire::checksum;

use super::cluster::{Family, PREFIX};
use super::endless::Make;
use super::{Random, cluster};

/// Order of flows: all in turn, or random.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    InTurn,
    Random,
}

/// Which transport protocols.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    Udp,
    Tcp,
    /// Every other flow.
    Both,
}

/// Bytes of the shortest frame.
pub(crate) const SHORT: usize = 64;

/// Bytes of the shortest IPv6 frame: its payload is as long.
const SHORT_V6: usize = SHORT + 20;

/// One size.
pub(crate) const SMALL: &[usize] = &[SHORT];

/// The common internet mix (IMIX, RFC 6985): seven small, four medium, one large.
pub(crate) const IMIX: &[usize] = &[64, 64, 594, 64, 64, 594, 64, 1514, 64, 594, 64, 594];

/// Clients that are Pods, from 10.248.0.0 up. Their source is not translated.
pub(crate) const PODS: Ipv4Addr = Ipv4Addr::new(10, 248, 0, 0);

/// Clients that are not Pods. Their source is translated.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);

/// Makes the frames of `flows` flows.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) flows: u32,
    pub(crate) services: u32,
    pub(crate) family: Family,
    order: Order,
    mix: Mix,
    clients: Ipv4Addr,
    sizes: &'static [usize],
    udp: Template,
    tcp: Template,
    udp_v6: [u8; SHORT_V6],
    tcp_v6: [u8; SHORT_V6],
    next: u32,
    nth: usize,
    random: Random,
}

/// The start of a frame, and the sum of its IP header without length, source and destination.
#[derive(Clone)]
struct Template {
    bytes: [u8; SHORT],
    sum: u32,
}

impl Template {
    fn new(mac: [u8; 6], protocol: u8) -> Template {
        let mut bytes = [0u8; SHORT];
        bytes[..6].copy_from_slice(&mac);
        bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xfe]);
        bytes[12..14].copy_from_slice(&[8, 0]);
        bytes[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol]);
        bytes[36..38].copy_from_slice(&cluster::PORT.to_be_bytes());
        if protocol == TCP {
            bytes[46] = 0x50;
        }
        Template { sum: checksum::sum(&bytes[14..34]), bytes }
    }
}

/// The start of an IPv6 frame, without lengths, addresses and ports.
fn template_v6(mac: [u8; 6], protocol: u8) -> [u8; SHORT_V6] {
    let mut bytes = [0u8; SHORT_V6];
    bytes[..6].copy_from_slice(&mac);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xfe]);
    bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    bytes[20..22].copy_from_slice(&[protocol, 64]);
    bytes[56..58].copy_from_slice(&cluster::PORT.to_be_bytes());
    match protocol {
        TCP => bytes[66] = 0x50,
        // IPv6 requires a checksum of UDP (RFC 8200 §8.1); that it is wrong costs a gateway nothing.
        _ => bytes[60] = 1,
    }
    bytes
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Offset of the TCP flags.
const FLAGS: usize = 47;

impl Source {
    /// 64-byte frames of `flows` flows in turn from Pods to `services` Services, for a gateway of this MAC.
    pub(crate) fn new(mac: [u8; 6], mix: Mix, flows: u32, services: u32) -> Source {
        Source {
            flows,
            order: Order::InTurn,
            mix,
            clients: PODS,
            services,
            family: Family::V4,
            sizes: SMALL,
            udp: Template::new(mac, UDP),
            tcp: Template::new(mac, TCP),
            udp_v6: template_v6(mac, UDP),
            tcp_v6: template_v6(mac, TCP),
            next: 0,
            nth: 0,
            random: Random::new(),
        }
    }

    /// With IPv6 addresses. A frame is 20 bytes longer than the same frame of IPv4.
    pub(crate) fn v6(self) -> Source {
        Source { family: Family::V6, ..self }
    }

    /// With frames of these sizes, repeated.
    pub(crate) fn sized(self, sizes: &'static [usize]) -> Source {
        Source { sizes, ..self }
    }

    /// With these clients and the ones after them.
    pub(crate) fn from(self, clients: Ipv4Addr) -> Source {
        Source { clients, ..self }
    }

    /// With random flows.
    pub(crate) fn at_random(self) -> Source {
        Source { order: Order::Random, ..self }
    }

    /// The number of the next frame's flow.
    #[inline]
    pub(crate) fn choose(&mut self) -> u32 {
        match self.order {
            Order::InTurn => {
                self.next = if self.next + 1 == self.flows { 0 } else { self.next + 1 };
                self.next
            }
            Order::Random => self.random.below(self.flows),
        }
    }

    /// Writes the frame of flow `flow` (32 768 flows per client) and returns its length.
    #[inline]
    pub(crate) fn write(&mut self, flow: u32, buffer: &mut [u8]) -> usize {
        let size = self.sizes[self.nth];
        self.nth = if self.nth + 1 == self.sizes.len() { 0 } else { self.nth + 1 };
        let is_tcp = match self.mix {
            Mix::Udp => false,
            Mix::Tcp => true,
            Mix::Both => flow & 1 == 1,
        };
        if self.family == Family::V6 {
            return self.write_v6(flow, size, is_tcp, buffer);
        }
        let template = if is_tcp { &self.tcp } else { &self.udp };
        let (frame, _) = buffer.split_first_chunk_mut::<SHORT>().expect("longer than a frame");
        *frame = template.bytes;
        let (client, port, service) = self.tuple(flow);
        let total = size as u32 - 14;
        frame[16..18].copy_from_slice(&(total as u16).to_be_bytes());
        frame[26..30].copy_from_slice(&client.to_be_bytes());
        frame[30..34].copy_from_slice(&service.to_be_bytes());
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        if !is_tcp {
            frame[38..40].copy_from_slice(&(total as u16 - 20).to_be_bytes());
        }
        let words = [total, client >> 16, client & 0xffff, service >> 16, service & 0xffff];
        let sum = !checksum::fold(template.sum + words.iter().sum::<u32>());
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        size
    }
}

impl Source {
    /// Client address, client port and Service address of a flow.
    #[inline]
    fn tuple(&self, flow: u32) -> (u32, u16, u32) {
        let client = u32::from(self.clients) + (flow >> 15);
        let port = (flow & 0x7fff) as u16 + 1024;
        let service =
            cluster::address(((u64::from(flow.wrapping_mul(0x9e37_79b9)) * u64::from(self.services)) >> 32) as u32);
        (client, port, u32::from(service))
    }

    #[inline]
    fn write_v6(&self, flow: u32, size: usize, is_tcp: bool, buffer: &mut [u8]) -> usize {
        let (frame, _) = buffer.split_first_chunk_mut::<SHORT_V6>().expect("longer than a frame");
        *frame = if is_tcp { self.tcp_v6 } else { self.udp_v6 };
        let (client, port, service) = self.tuple(flow);
        let length = ((size - 34) as u16).to_be_bytes();
        frame[18..20].copy_from_slice(&length);
        frame[22..38].copy_from_slice(&(PREFIX | u128::from(client)).to_be_bytes());
        frame[38..54].copy_from_slice(&(PREFIX | u128::from(service)).to_be_bytes());
        frame[54..56].copy_from_slice(&port.to_be_bytes());
        if !is_tcp {
            frame[58..60].copy_from_slice(&length);
        }
        size + 20
    }
}

impl Make for Source {
    #[inline]
    fn make(&mut self, buffer: &mut [u8]) -> usize {
        let flow = self.choose();
        self.write(flow, buffer)
    }

    fn follow(&mut self, order: Order, tcp_flags: u8) {
        self.order = order;
        self.tcp.bytes[FLAGS] = tcp_flags;
        self.tcp_v6[FLAGS + 20] = tcp_flags;
    }
}

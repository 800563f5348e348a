//! A frame as the checker sees it. Nothing of the gateway's own code is used here: offsets are found by hand, sums are those of
//! `etherparse` and `crc`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use etherparse::checksum::Sum16BitWords;
use pollgate_dataplane::port::memory::Packet;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;
pub(super) const ICMP: [u8; 2] = [1, 58];
/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;

/// CRC32c (RFC 9260 appendix A), by a library that is not the gateway's.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(bytes)
}

/// An IP packet at some offset of some bytes: a frame's own one, or one that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Where it starts.
    pub(super) start: usize,
    /// Where its transport header starts.
    pub(super) l4: usize,
    /// Where it ends, by its own length.
    pub(super) end: usize,
    pub(super) protocol: u8,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) hops: u8,
    /// Whether it is a fragment, and not the first.
    pub(super) is_later: bool,
    /// Whether it is a fragment.
    pub(super) is_fragment: bool,
    /// Where its identification is.
    pub(super) identification: Option<(usize, usize)>,
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

impl View {
    /// The IP packet of a frame, if that is what it holds.
    pub(super) fn of_frame(frame: &[u8]) -> Option<View> {
        match half(frame, 12)? {
            0x0800 => View::v4(frame, ETHERNET),
            0x86dd => View::v6(frame, ETHERNET),
            _ => None,
        }
    }

    /// The packet that the ICMP error `self` quotes.
    pub(super) fn quoted(&self, bytes: &[u8]) -> Option<View> {
        match self.protocol {
            1 => View::v4(bytes, self.l4 + 8),
            58 => View::v6(bytes, self.l4 + 8),
            _ => None,
        }
    }

    fn v4(bytes: &[u8], start: usize) -> Option<View> {
        let header = bytes.get(start..start + 20)?;
        let length = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || length < 20 {
            return None;
        }
        let piece = half(header, 6)?;
        Some(View {
            start,
            l4: start + length,
            end: start + usize::from(half(header, 2)?),
            protocol: header[9],
            source: Ipv4Addr::from(<[u8; 4]>::try_from(&header[12..16]).ok()?).into(),
            destination: Ipv4Addr::from(<[u8; 4]>::try_from(&header[16..20]).ok()?).into(),
            hops: header[8],
            is_later: piece & 0x1fff != 0,
            is_fragment: piece & 0x3fff != 0,
            identification: Some((start + 4, 2)),
        })
    }

    fn v6(bytes: &[u8], start: usize) -> Option<View> {
        let header = bytes.get(start..start + 40)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let mut view = View {
            start,
            l4: start + 40,
            end: start + 40 + usize::from(half(header, 4)?),
            protocol: header[6],
            source: Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?).into(),
            destination: Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?).into(),
            hops: header[7],
            is_later: false,
            is_fragment: false,
            identification: None,
        };
        // Hop-by-hop, routing, destination options, fragment (RFC 8200 §4).
        while let 0 | 43 | 44 | 60 = view.protocol {
            let extension = bytes.get(view.l4..view.l4 + 8)?;
            if view.protocol == 44 {
                let piece = half(extension, 2)?;
                view.is_later |= piece & !7 != 0;
                view.is_fragment |= piece & !6 != 0;
                view.identification = Some((view.l4 + 4, 4));
                view.l4 += 8;
            } else {
                view.l4 += 8 + usize::from(extension[1]) * 8;
            }
            view.protocol = extension[0];
            if view.is_later {
                break;
            }
        }
        Some(view)
    }

    pub(super) fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    pub(super) fn is_icmp(&self) -> bool {
        self.protocol == ICMP[usize::from(!self.is_v4())]
    }

    /// Whether it is an ICMP error (RFC 792, RFC 4443 §2.1) with its header.
    pub(super) fn is_error(&self, bytes: &[u8]) -> bool {
        let kind = bytes.get(self.l4).copied().unwrap_or(255);
        self.is_icmp() && !self.is_later && if self.is_v4() { [3, 4, 5, 11, 12].contains(&kind) } else { kind < 128 }
    }

    pub(super) fn has_ports(&self) -> bool {
        !self.is_later && [TCP, UDP, SCTP].contains(&self.protocol)
    }

    /// Source and destination; port 0 if there are none.
    pub(super) fn ends(&self, bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        let ports = if self.has_ports() { (half(bytes, self.l4)?, half(bytes, self.l4 + 2)?) } else { (0, 0) };
        Some((SocketAddr::new(self.source, ports.0), SocketAddr::new(self.destination, ports.1)))
    }

    /// Where the addresses are.
    pub(super) fn addresses(&self) -> Range<usize> {
        if self.is_v4() { self.start + 12..self.start + 20 } else { self.start + 8..self.start + 40 }
    }

    /// Where the hop limit is.
    pub(super) fn hops_at(&self) -> usize {
        self.start + if self.is_v4() { 8 } else { 7 }
    }

    /// Where the transport's sum is.
    pub(super) fn sum(&self) -> Option<Range<usize>> {
        let (at, size) = match self.protocol {
            TCP => (16, 2),
            UDP => (6, 2),
            SCTP => (8, 4),
            _ if self.is_icmp() => (2, 2),
            _ => return None,
        };
        (!self.is_later).then_some(self.l4 + at..self.l4 + at + size)
    }

    /// Whether the IPv4 header's sum is right; IPv6 has none.
    pub(super) fn header_is_right(&self, bytes: &[u8]) -> bool {
        !self.is_v4() || bytes.get(self.start..self.l4).is_some_and(|header| folded(&[header]) == 0xffff)
    }

    /// What the transport's Internet checksum is off by: the folded sum of pseudo-header and all bytes there are, which is 0xffff (or
    /// 0) if it is right. Translation must not change it.
    pub(super) fn residue(&self, bytes: &[u8]) -> u16 {
        let data = bytes.get(self.l4..self.end.min(bytes.len())).unwrap_or_default();
        modulo(if self.has_pseudo() { folded(&[&self.pseudo(bytes), data]) } else { folded(&[data]) })
    }

    /// The same of a sum that is left to hardware: what the field is off by from the sum of the pseudo-header.
    pub(super) fn partial_residue(&self, bytes: &[u8]) -> Option<u16> {
        let field = half(bytes, self.sum()?.start)?;
        Some(modulo(folded(&[&self.pseudo(bytes), &(!field).to_be_bytes()])))
    }

    /// What the CRC32c is off by. CRCs are linear: it is the same for equal lengths whatever the data.
    pub(super) fn crc_residue(&self, bytes: &[u8]) -> Option<u32> {
        let mut data = bytes.get(self.l4..self.end)?.to_vec();
        let field = data.get_mut(8..12)?;
        let is = u32::from_le_bytes((&*field).try_into().ok()?);
        field.fill(0);
        Some(is ^ crc32c(&data))
    }

    fn has_pseudo(&self) -> bool {
        self.protocol != 1
    }

    fn pseudo(&self, bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(self.end.saturating_sub(self.l4)).unwrap_or_default().to_be_bytes();
        [&bytes[self.addresses()], &[0, self.protocol], &length].concat()
    }

    /// Sets addresses and ports, and no sum.
    pub(super) fn set_ends(&self, bytes: &mut [u8], source: SocketAddr, destination: SocketAddr) {
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let both = [octets(source.ip()), octets(destination.ip())].concat();
        bytes[self.addresses()].copy_from_slice(&both);
        if self.has_ports()
            && let Some(ports) = bytes.get_mut(self.l4..self.l4 + 4)
        {
            ports[..2].copy_from_slice(&source.port().to_be_bytes());
            ports[2..].copy_from_slice(&destination.port().to_be_bytes());
        }
    }

    /// Makes the sums right for what is in the packet; a partial one for hardware.
    pub(super) fn set_sums(&self, bytes: &mut [u8], is_partial: bool) {
        if self.is_v4() {
            bytes[self.start + 10..self.start + 12].fill(0);
            let sum = !folded(&[&bytes[self.start..self.l4]]);
            bytes[self.start + 10..self.start + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let Some(at) = self.sum().filter(|at| at.end <= self.end && self.end <= bytes.len()) else { return };
        bytes[at.clone()].fill(0);
        let data = &bytes[self.l4..self.end];
        let sum = match self.protocol {
            SCTP => crc32c(data).to_le_bytes().to_vec(),
            _ if is_partial => folded(&[&self.pseudo(bytes)]).to_be_bytes().to_vec(),
            _ if !self.has_pseudo() => (!folded(&[data])).to_be_bytes().to_vec(),
            _ => match !folded(&[&self.pseudo(bytes), data]) {
                0 if self.protocol == UDP => vec![0xff; 2],
                sum => sum.to_be_bytes().to_vec(),
            },
        };
        bytes[at].copy_from_slice(&sum);
    }
}

/// The folded sum of 16-bit words, not complemented; only the last part may have an odd number of bytes.
pub(super) fn folded(parts: &[&[u8]]) -> u16 {
    let sum = parts.iter().fold(Sum16BitWords::new(), |sum, part| sum.add_slice(part));
    // The library's result is complemented and in network order.
    !u16::from_be_bytes(sum.ones_complement().to_ne_bytes())
}

/// Of the two representations of zero, one.
fn modulo(sum: u16) -> u16 {
    if sum == 0xffff { 0 } else { sum }
}

/// A frame that left, and by which port.
#[derive(Clone, Debug)]
pub(super) struct Out {
    pub(super) port: usize,
    pub(super) packet: Packet,
}

//! Checksums that a virtual peer left to offload, which AF_XDP cannot express.
//!
//! ```text
//!  veth peer ─▶ field = pseudo-header's sum ─look─▶ NEEDS_CSUM ─▶ pipeline keeps it partial ─finish─▶ whole sum ─▶ device
//! ```
//!
//! The kernel marks such a packet CHECKSUM_PARTIAL in its own buffer. An AF_XDP socket gets only the bytes, not the mark. So
//! on devices whose other end is a kernel on the same machine (veth, tun, virtio), a TCP or UDP field that equals the
//! pseudo-header's sum counts as partial. On real NICs, whose frames have crossed a wire, the field is not checked.
//!
//! A complete checksum has this value by chance once in 65,536 packets. That does no harm: [`finish`] recomputes the whole
//! sum from the data, and for an undamaged packet the result is the same. Any other outgoing port of a partial frame does
//! the same. The field cannot mean "no checksum" either: a pseudo-header's sum is never zero, because its protocol is not.
//!
//! SCTP has no pseudo-header: the kernel leaves the field zero. The translation computes the whole checksum ([`crate::wire::sctp`]).
//!
//! On sending, AF_XDP cannot request a checksum from the device. So a partial checksum is completed here, as
//! `skb_checksum_help` in the kernel does it: over all bytes from the transport header to the end of the frame.

use std::ops::Range;

use crate::port::{Frame, Offload};
use crate::wire::checksum::{fold, sum};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::{Header, Ip, Piece, sctp};

/// Drivers whose frames may come from this machine.
const VIRTUAL: [&str; 3] = ["veth", "tun", "virtio_net"];

const V4_ADDRESSES: Range<usize> = ethernet::LEN + 12..ethernet::LEN + 20;
const V6_ADDRESSES: Range<usize> = ethernet::LEN + 8..ethernet::LEN + 40;

/// Whether frames of this driver must be checked.
pub(super) fn may_be_partial(driver: &str) -> bool {
    VIRTUAL.contains(&driver)
}

/// Marks a frame whose checksum is partial.
#[inline]
pub(super) fn look(frame: &mut Frame) {
    if let Some((csum_start, csum_offset)) = partial(frame.bytes()) {
        let flags = Offload::NEEDS_CSUM;
        frame.set_offload(Offload { flags, csum_start, csum_offset, ..Offload::default() });
    }
}

/// Completes the checksum of a frame, if it is partial.
#[inline]
pub(super) fn finish(frame: &mut Frame) {
    let offload = *frame.offload();
    if !offload.is_partial() {
        return;
    }
    let start = usize::from(offload.csum_start);
    let at = usize::from(offload.csum_offset);
    if let Some(summed) = frame.bytes_mut().get_mut(start..)
        && let whole = !fold(sum(summed))
        && let Some(field) = summed.get_mut(at..at + 2)
    {
        // In UDP zero would mean "no checksum". All ones is the same number.
        let whole = if whole == 0 { 0xffff } else { whole };
        field.copy_from_slice(&whole.to_be_bytes());
    }
    frame.set_offload(Offload::default());
}

/// Start of the summed data, and the offset of the field from there, if the field contains only the pseudo-header's sum.
fn partial(bytes: &[u8]) -> Option<(u16, u16)> {
    let (start, protocol, length, addresses) = match Ethernet::at(bytes, 0)?.ether_type() {
        ethernet::IPV4 => v4(bytes)?,
        ethernet::IPV6 => v6(bytes)?,
        _ => return None,
    };
    let offset: u16 = match protocol {
        6 => 16,
        17 => 6,
        sctp::PROTOCOL => return no_crc(bytes, start),
        _ => return None,
    };
    let field = number(bytes.get(start + usize::from(offset)..)?)?;
    let pseudo = sum(addresses) + u32::from(protocol) + u32::from(length);
    (field == fold(pseudo)).then_some((u16::try_from(start).ok()?, offset))
}

/// The same for SCTP.
#[cold]
fn no_crc(bytes: &[u8], start: usize) -> Option<(u16, u16)> {
    let field = bytes.get(start + sctp::CHECKSUM..start + sctp::LEN)?;
    (field == [0; 4]).then_some((u16::try_from(start).ok()?, u16::try_from(sctp::CHECKSUM).ok()?))
}

type Transport<'a> = (usize, u8, u16, &'a [u8]);

fn v4(bytes: &[u8]) -> Option<Transport<'_>> {
    let ip = Ipv4::at(bytes, ethernet::LEN)?;
    if ip.piece() != Piece::Whole {
        return None;
    }
    let length = ip.total_len().checked_sub(ip.header_len())?;
    Some((ethernet::LEN + ip.header_len(), ip.protocol(), u16::try_from(length).ok()?, bytes.get(V4_ADDRESSES)?))
}

fn v6(bytes: &[u8]) -> Option<Transport<'_>> {
    let (ip, upper) = Ipv6::check(bytes, ethernet::LEN).ok()?;
    if upper.piece != Piece::Whole {
        return None;
    }
    let length = u16::try_from(ip.total_len() - upper.offset).ok()?;
    Some((ethernet::LEN + upper.offset, upper.protocol, length, bytes.get(V6_ADDRESSES)?))
}

fn number(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|two| u16::from_be_bytes(*two))
}

#[cfg(test)]
#[allow(unsafe_code, reason = "frames over the bytes of a test")]
mod tests {
    use super::*;
    use std::ptr::NonNull;

    use etherparse::PacketBuilder;
    use pollgate_common::net::PortId;

    use crate::port::Origin;

    /// A frame and the offset of its checksum field.
    type Made = (Vec<u8>, usize);

    fn udp4(payload: &[u8]) -> Made {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(7, 9);
        built(|bytes| builder.write(bytes, payload).expect("a packet"), 40)
    }

    fn tcp4(payload: &[u8]) -> Made {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(7, 9, 1, 512);
        built(|bytes| builder.write(bytes, payload).expect("a packet"), 50)
    }

    fn tcp6(payload: &[u8]) -> Made {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [9; 16], 64).tcp(7, 9, 1, 512);
        built(|bytes| builder.write(bytes, payload).expect("a packet"), 70)
    }

    fn built(write: impl FnOnce(&mut Vec<u8>), field: usize) -> Made {
        let mut bytes = Vec::new();
        write(&mut bytes);
        (bytes, field)
    }

    /// The field as a virtual peer leaves it, computed word by word as in the definition.
    fn left_undone((bytes, field): &Made) -> Vec<u8> {
        let mut bytes = bytes.clone();
        let v6 = bytes[12] == 0x86;
        let (addresses, l4) = if v6 { (22..54, 54) } else { (26..34, 34) };
        let protocol: u32 = if *field == 40 { 17 } else { 6 };
        let words = bytes[addresses].chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
        let mut total = words.sum::<u32>() + protocol + u32::try_from(bytes.len() - l4).expect("short");
        while total > 0xffff {
            total = (total >> 16) + (total & 0xffff);
        }
        bytes[*field..field + 2].copy_from_slice(&total.to_be_bytes()[2..]);
        bytes
    }

    fn over(bytes: &mut [u8]) -> Frame {
        let length = u32::try_from(bytes.len()).expect("short");
        // SAFETY: every caller keeps the bytes until it is done with the frame.
        unsafe { Frame::new(NonNull::from(bytes).cast(), length, length, Origin::Worker(0), PortId(0), 0) }
    }

    #[test]
    fn partial_checksums_are_found_and_completed_like_an_independent_builder() {
        for made in [udp4(b"odd"), udp4(b"even"), tcp4(&[0xff; 1460]), tcp4(b""), tcp6(b"odd"), tcp6(&[7; 1000])] {
            let mut bytes = left_undone(&made);
            let mut frame = over(&mut bytes);
            look(&mut frame);
            assert!(frame.offload().is_partial());
            let l4 = if made.0[12] == 0x86 { 54 } else { 34 };
            assert_eq!(usize::from(frame.offload().csum_start + frame.offload().csum_offset), made.1);
            assert_eq!(frame.offload().csum_start, l4);
            finish(&mut frame);
            assert_eq!((frame.bytes(), *frame.offload()), (&made.0[..], Offload::default()));
        }
    }

    /// An SCTP packet of one chunk, with this checksum.
    fn sctp4(checksum: [u8; 4]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let packet = [&[0, 7, 0, 9, 0, 0, 0, 1][..], &checksum, &[11, 0, 0, 4]].concat();
        ip.write(&mut bytes, etherparse::IpNumber(132), &packet).expect("a packet");
        bytes
    }

    #[test]
    fn an_sctp_field_of_zero_is_left_to_hardware_and_any_other_is_not() {
        let mut bytes = sctp4([0; 4]);
        let mut frame = over(&mut bytes);
        look(&mut frame);
        let offload = frame.offload();
        assert!(offload.is_partial());
        assert_eq!((offload.csum_start, offload.csum_offset), (34, 8));
        for at in 0..4 {
            let mut checksum = [0; 4];
            checksum[at] = 1;
            assert_eq!(partial(&sctp4(checksum)), None);
        }
        for length in 0..46 {
            assert_eq!(partial(&sctp4([0; 4])[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn a_whole_checksum_is_left_alone() {
        for (mut bytes, _) in [udp4(b"data"), tcp4(b"data"), tcp6(b"data")] {
            let before = bytes.clone();
            let mut frame = over(&mut bytes);
            look(&mut frame);
            finish(&mut frame);
            assert_eq!((frame.bytes(), *frame.offload()), (&before[..], Offload::default()));
        }
    }

    #[test]
    fn no_checksum_fragments_and_truncated_frames_are_left_alone() {
        let made = udp4(b"data");
        let partial_bytes = left_undone(&made);
        let mut none = partial_bytes.clone();
        none[40..42].fill(0);
        let mut fragment = partial_bytes.clone();
        fragment[20] = 0x20;
        assert!(partial(&partial_bytes).is_some());
        assert_eq!((partial(&none), partial(&fragment)), (None, None));
        for length in 0..42 {
            assert_eq!(partial(&partial_bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn offsets_outside_the_frame_change_nothing() {
        for (csum_start, csum_offset) in [(9999, 0), (40, 9999), (45, 1)] {
            let mut bytes = udp4(b"data").0;
            let before = bytes.clone();
            let offload = Offload { flags: Offload::NEEDS_CSUM, csum_start, csum_offset, ..Offload::default() };
            let mut frame = over(&mut bytes).with_offload(offload);
            finish(&mut frame);
            assert_eq!(frame.bytes(), before);
        }
    }

    #[test]
    fn only_frames_of_virtual_devices_are_checked() {
        assert!(may_be_partial("veth") && may_be_partial("virtio_net") && may_be_partial("tun"));
        assert!(!may_be_partial("mlx5_core") && !may_be_partial(""));
    }
}

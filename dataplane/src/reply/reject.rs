//! Refusals: what a client gets when pollgate says no.
//!
//! TCP is answered with a reset from the address it tried (RFC 9293 §3.10.7.1), UDP with ICMP port unreachable from the
//! gateway's address (RFC 1122 §4.1.3.1): both make the client see "connection refused" at once, as kube-proxy's REJECT
//! does (Kubernetes `pkg/proxy/nftables/proxier.go`). The refused frame is a drop with its reason; the reply is built in
//! its buffer and counted as originated.

use pollgate_common::flow::{Protocol, V4};
use pollgate_common::net::Mac;
use pollgate_common::reasons::DropReason;
use pollgate_common::settings::DataplaneSettings;
use zerocopy::IntoBytes;

use crate::packet::{Kind, Packet, Verdict};
use crate::port::{Frame, Offload};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmp::{self, Icmp};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::tcp::{self, Tcp};
use crate::wire::{Header, checksum};

/// Most bytes an ICMP error has in all (RFC 1812 §4.3.2.3).
const ERROR_LEN: usize = 576;

/// Turns the packet into its refusal for `reason`.
pub(crate) fn refuse(frame: &mut Frame, packet: &Packet, reason: DropReason, settings: &DataplaneSettings) -> Verdict {
    let made = match packet.kind {
        // A reset is never answered with a reset.
        Kind::Tcp if packet.tcp_flags & tcp::RST != 0 => None,
        Kind::Tcp => reset(frame, packet),
        _ => error(frame, packet, icmp::Error::PortUnreachable, settings),
    };
    verdict(frame, reason, made)
}

/// Turns the packet, whose time to live ran out, into the message that says so.
pub(crate) fn time_exceeded(frame: &mut Frame, packet: &Packet, settings: &DataplaneSettings) -> Verdict {
    let made = error(frame, packet, icmp::Error::TimeExceeded, settings);
    verdict(frame, DropReason::TtlExpired, made)
}

fn verdict(frame: &Frame, reason: DropReason, made: Option<()>) -> Verdict {
    match made {
        Some(()) => Verdict::Refuse(reason, frame.received_on()),
        None => Verdict::Drop(reason),
    }
}

fn reset(frame: &mut Frame, packet: &Packet) -> Option<()> {
    let key = packet.key;
    let segment = Tcp::at(frame.bytes(), packet.l4)?;
    let payload = u32::try_from(packet.l4_len.checked_sub(segment.header_len())?).ok()?;
    let mut reset = segment.reset(payload);
    let pseudo = checksum::pseudo(key.dst, key.src, Protocol::Tcp.number(), tcp::LEN);
    reset.set_checksum(!checksum::fold(pseudo + checksum::sum(reset.as_bytes())));
    write(frame, packet.own, (key.dst, key.src), Protocol::Tcp.number(), reset.as_bytes(), 0)
}

fn error(frame: &mut Frame, packet: &Packet, error: icmp::Error, settings: &DataplaneSettings) -> Option<()> {
    let from = V4(*settings.gateway_v4.first()?);
    let client = packet.key.src;
    let quoted = (packet.l4 - ethernet::LEN + packet.l4_len).min(ERROR_LEN - ipv4::LEN - icmp::LEN);
    // The quoted packet moves back to make room for the headers in front of it.
    let start = ethernet::LEN + ipv4::LEN + icmp::LEN;
    let buffer = frame.buffer_mut();
    if buffer.len() < start + quoted {
        return None;
    }
    buffer.copy_within(ethernet::LEN..ethernet::LEN + quoted, start);
    let header = Icmp::error(error, buffer.get(start..start + quoted)?);
    write(frame, packet.own, (from, client), icmp::PROTOCOL, header.as_bytes(), quoted)
}

/// Writes Ethernet, IP and `header` in front of `payload` bytes that are in place already.
fn write(frame: &mut Frame, own: Mac, (src, dst): (V4, V4), protocol: u8, header: &[u8], payload: usize) -> Option<()> {
    let total = ipv4::LEN + header.len() + payload;
    let ip = Ipv4::make(src.0, dst.0, protocol, u16::try_from(total).ok()?);
    let buffer = frame.buffer_mut();
    Ethernet::at_mut(buffer, 0)?.reply_in_place(own);
    let l4 = ethernet::LEN + ipv4::LEN;
    buffer.get_mut(ethernet::LEN..l4)?.copy_from_slice(ip.as_bytes());
    buffer.get_mut(l4..l4 + header.len())?.copy_from_slice(header);
    frame.set_len(ethernet::LEN + total);
    frame.set_offload(Offload::default());
    Some(())
}

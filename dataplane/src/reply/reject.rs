//! Refusals: what the sender gets when pollgate refuses its packet.
//!
//! TCP is answered with a reset from the address it tried (RFC 9293 §3.10.7.1), UDP with ICMP port unreachable from the
//! gateway's address (RFC 1122 §4.1.3.1, RFC 4443 §3.1): both make the client see "connection refused" at once, as kube-proxy's REJECT
//! does (Kubernetes `pkg/proxy/nftables/proxier.go`). The refused frame is a drop with its reason; the reply is built in
//! its buffer and counted as originated.

use pollgate_common::flow::Address;
use pollgate_common::net::Mac;
use pollgate_common::reasons::DropReason;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::time::Instant;
use zerocopy::IntoBytes;

use crate::flow::life::Signal;
use crate::packet::{Packet, Refusal, Transport, Verdict};
use crate::port::{Frame, Offload};
use crate::rate::Rate;
use crate::snat;
use crate::wire::control::{self, Control};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::tcp::{self, Tcp};
use crate::wire::{Header, Ip, checksum};

/// The verdict that refuses `packet` in the way its transport knows.
pub(crate) fn verdict<A: Address>(packet: &Packet<A>, reason: DropReason) -> Verdict {
    match packet.transport {
        // A reset is never answered with a reset (RFC 9293 §3.10.7.1).
        Transport::Tcp if packet.segment.flags & tcp::RST != 0 => Verdict::Drop(reason),
        Transport::Tcp => Verdict::Refuse(reason, Refusal::Reset),
        Transport::Udp | Transport::Sctp => Verdict::Refuse(reason, Refusal::PortUnreachable),
        // An ICMP error never answers an ICMP message (RFC 1122 §3.2.2).
        Transport::Icmp(_) | Transport::Other => Verdict::Drop(reason),
    }
}

/// The verdict on a packet that the next hop's link, of `mtu` bytes, cannot carry: its sender gets an ICMP error with the MTU
/// (RFC 1191 §4, RFC 8201 §4). A packet that a router may fragment gets none.
pub(crate) fn too_big<I: Ip>(frame: &Frame, mtu: u32) -> Verdict {
    let asks = I::at(frame.bytes(), ethernet::LEN).is_some_and(|ip| !ip.may_fragment());
    match u16::try_from(mtu) {
        Ok(mtu) if asks => Verdict::Refuse(DropReason::TxTooLong, Refusal::TooBig(mtu)),
        _ => Verdict::Drop(DropReason::TxTooLong),
    }
}

/// TCP resets that a worker sends per second. A reset is no larger than what it answers.
const RESETS_PER_SECOND: u32 = 10_000;

/// ICMP errors that a worker sends per second (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)). An error quotes the packet, so it can be twice
/// as large: fewer of them, or spoofed packets would make the gateway a reflector.
const ERRORS_PER_SECOND: u32 = 1000;

/// The refusals that a worker may still send.
pub(crate) struct Rates {
    resets: Rate,
    errors: Rate,
}

impl Rates {
    /// None has been sent.
    pub(crate) fn new() -> Rates {
        Rates { resets: Rate::new(RESETS_PER_SECOND), errors: Rate::new(ERRORS_PER_SECOND) }
    }

    /// `verdict`, or a plain drop if it is a refusal beyond its rate.
    pub(crate) fn limit(&mut self, verdict: Verdict, now: Instant) -> Verdict {
        let Verdict::Refuse(reason, how) = verdict else { return verdict };
        let rate = match how {
            Refusal::Reset => &mut self.resets,
            Refusal::PortUnreachable | Refusal::TimeExceeded | Refusal::TooBig(_) => &mut self.errors,
        };
        if rate.take(now) { verdict } else { Verdict::Drop(reason) }
    }
}

/// The verdict on a packet of a connection that is not known and cannot be taken over. A TCP segment is answered with a reset, as
/// a host does that has forgotten the connection (RFC 9293 §3.10.7.1): a client that lost its connection with a restart or an
/// eviction notices at once instead of by its own time-out, and a backend whose flow is gone can give up its end. A SYN belongs
/// to no connection: one to a source-translation port gets no reply, like any undefined port of that address.
pub(crate) fn unknown_connection<A: Address>(packet: &Packet<A>, reason: DropReason) -> Verdict {
    match (packet.transport, packet.segment.signal()) {
        (Transport::Tcp, Signal::SynAck | Signal::Segment | Signal::Fin | Signal::Nothing) => {
            Verdict::Refuse(reason, Refusal::Reset)
        }
        (Transport::Tcp, Signal::Syn | Signal::Reset | Signal::Restart | Signal::Datagram) => Verdict::Drop(reason),
        (Transport::Udp | Transport::Sctp | Transport::Icmp(_) | Transport::Other, _) => Verdict::Drop(reason),
    }
}

/// Turns the packet into its refusal; `None` if it cannot be written: no address to send it from, or no room.
pub(crate) fn write<I: Ip>(
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    how: Refusal,
    settings: &DataplaneSettings,
) -> Option<()> {
    match how {
        Refusal::Reset => reset::<I>(frame, packet),
        Refusal::PortUnreachable => error::<I>(frame, packet, control::Error::PortUnreachable, settings),
        Refusal::TimeExceeded => error::<I>(frame, packet, control::Error::TimeExceeded, settings),
        Refusal::TooBig(mtu) => error::<I>(frame, packet, control::Error::TooBig(mtu), settings),
    }
}

fn reset<I: Ip>(frame: &mut Frame, packet: &Packet<I::Address>) -> Option<()> {
    let key = packet.key;
    let segment = Tcp::at(frame.bytes(), packet.l4)?;
    let payload = u32::try_from(packet.l4_len.checked_sub(segment.header_len())?).ok()?;
    let mut reset = segment.reset(payload);
    let pseudo = checksum::pseudo(key.dst, key.src, tcp::PROTOCOL, tcp::LEN);
    reset.set_checksum(!checksum::fold(pseudo + checksum::sum(reset.as_bytes())));
    write_packet::<I>(frame, packet.own, (key.dst, key.src), tcp::PROTOCOL, reset.as_bytes(), 0)
}

fn error<I: Ip>(
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    error: control::Error,
    settings: &DataplaneSettings,
) -> Option<()> {
    let from: I::Address = snat::first_address(settings)?;
    let client = packet.key.src;
    let headers = I::LEN + size_of::<I::Control>();
    let quoted = packet.ip_len().min(I::Control::ERROR_LEN - headers);
    // The quoted packet moves back to make room for the headers in front of it.
    let start = ethernet::LEN + headers;
    let buffer = frame.buffer_mut();
    if buffer.len() < start + quoted {
        return None;
    }
    buffer.copy_within(ethernet::LEN..ethernet::LEN + quoted, start);
    let header = I::Control::error(error, from, client, buffer.get(start..start + quoted)?);
    write_packet::<I>(frame, packet.own, (from, client), I::Control::PROTOCOL, header.as_bytes(), quoted)
}

/// Writes Ethernet, IP and `header` in front of `payload` bytes that are in place already.
fn write_packet<I: Ip>(
    frame: &mut Frame,
    own: Mac,
    (src, dst): (I::Address, I::Address),
    protocol: u8,
    header: &[u8],
    payload: usize,
) -> Option<()> {
    let total = I::LEN + header.len() + payload;
    let ip = I::make(src, dst, protocol, u16::try_from(total).ok()?);
    let buffer = frame.buffer_mut();
    Ethernet::at_mut(buffer, 0)?.reply_in_place(own);
    let l4 = ethernet::LEN + I::LEN;
    buffer.get_mut(ethernet::LEN..l4)?.copy_from_slice(ip.as_bytes());
    buffer.get_mut(l4..l4 + header.len())?.copy_from_slice(header);
    frame.set_len(ethernet::LEN + total);
    frame.set_offload(Offload::default());
    Some(())
}

//! Refusals: what the sender gets when pollgate refuses its packet.
//!
//! TCP is answered with a reset from the address it tried (RFC 9293 §3.10.7.1), SCTP with ABORT (RFC 9260 §8.4; a host ignores port
//! unreachable for SCTP, §10, ICMP3), UDP with ICMP port unreachable from the gateway's address (RFC 1122 §4.1.3.1, RFC 4443 §3.1): all
//! make the client see "connection refused" at once, as kube-proxy's REJECT does (Kubernetes `pkg/proxy/nftables/proxier.go`). The
//! refused frame is a drop with its reason; the reply is built in its buffer and counted as originated.

use pollgate_common::flow::Address;
use pollgate_common::net::Mac;
use pollgate_common::reasons::DropReason;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::time::Instant;
use zerocopy::IntoBytes;

use crate::flow::life::Signal;
use crate::packet::{Packet, Refusal, Transport, Verdict};
use crate::port::{Frame, Offload};
use crate::rate::{ByPrefix, Rate};
use crate::snat;
use crate::wire::control::{self, Control};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::sctp::{self, Sctp};
use crate::wire::tcp::{self, Tcp};
use crate::wire::{Header, Ip, checksum};

/// The verdict that refuses `packet` in the way its transport knows.
pub(crate) fn verdict<A: Address>(packet: &Packet<A>, reason: DropReason) -> Verdict {
    match packet.transport {
        // A reset is never answered with a reset (RFC 9293 §3.10.7.1).
        Transport::Tcp if packet.segment.flags & tcp::RST != 0 => Verdict::Drop(reason),
        Transport::Tcp => Verdict::Refuse(reason, Refusal::Reset),
        Transport::Sctp(message) if message.is_answered() => Verdict::Refuse(reason, Refusal::Abort),
        Transport::Sctp(_) => Verdict::Drop(reason),
        Transport::Udp => Verdict::Refuse(reason, Refusal::PortUnreachable),
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

/// TCP resets and SCTP ABORTs that a worker sends per second. Neither is larger than what it answers.
const RESETS_PER_SECOND: u32 = 10_000;

/// ICMP errors that a worker sends per second (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)). An error quotes the packet, so it can be twice
/// as large: fewer of them, or spoofed packets would make the gateway a reflector.
const ERRORS_PER_SECOND: u32 = 1000;

/// One source prefix gets at most one in so many of a worker's refusals: no host uses up what others need.
const SHARES: u32 = 10;

/// The refusals that a worker may still send, in all and to each source prefix.
pub(crate) struct Rates {
    all: Kinds,
    prefixes: ByPrefix<Kinds>,
}

/// What may still be sent, by kind.
struct Kinds {
    resets: Rate,
    errors: Rate,
}

impl Rates {
    /// None has been sent.
    pub(crate) fn new(hasher: ahash::RandomState) -> Rates {
        Rates { all: Kinds::new(1), prefixes: ByPrefix::new(hasher, || Kinds::new(SHARES)) }
    }

    /// `verdict` on a packet from `source`, or a plain drop if it is a refusal beyond its rate.
    pub(crate) fn limit<A: Address>(&mut self, verdict: Verdict, source: A, now: Instant) -> Verdict {
        let Verdict::Refuse(reason, how) = verdict else { return verdict };
        let may = self.prefixes.of(source.into()).of(how).take(now) && self.all.of(how).take(now);
        if may { verdict } else { Verdict::Drop(reason) }
    }
}

impl Kinds {
    /// A `share`th of a worker's refusals.
    fn new(share: u32) -> Kinds {
        Kinds { resets: Rate::new(RESETS_PER_SECOND / share), errors: Rate::new(ERRORS_PER_SECOND / share) }
    }

    fn of(&mut self, how: Refusal) -> &mut Rate {
        match how {
            Refusal::Reset | Refusal::Abort => &mut self.resets,
            Refusal::PortUnreachable | Refusal::TimeExceeded | Refusal::TooBig(_) => &mut self.errors,
        }
    }
}

/// The verdict on a packet of a connection that is not known and cannot be taken over. A TCP segment is answered with a reset, as
/// a host does that has forgotten the connection (RFC 9293 §3.10.7.1): a client that lost its connection with a restart or an
/// eviction notices at once instead of by its own time-out, and a backend whose flow is gone can give up its end. A SYN belongs
/// to no connection: one to a source-translation port gets no reply, like any undefined port of that address. SCTP is answered alike
/// (RFC 9260 §8.4).
pub(crate) fn unknown_connection<A: Address>(packet: &Packet<A>, reason: DropReason) -> Verdict {
    match (packet.transport, packet.signal()) {
        (Transport::Tcp, Signal::SynAck | Signal::Segment | Signal::Fin | Signal::Nothing) => {
            Verdict::Refuse(reason, Refusal::Reset)
        }
        (Transport::Tcp, Signal::Syn | Signal::Reset | Signal::End | Signal::Restart | Signal::Datagram) => {
            Verdict::Drop(reason)
        }
        (Transport::Sctp(_), Signal::Syn) => Verdict::Drop(reason),
        (Transport::Sctp(_), _) => verdict(packet, reason),
        (Transport::Udp | Transport::Icmp(_) | Transport::Other, _) => Verdict::Drop(reason),
    }
}

/// The same for a packet to a Service.
pub(crate) fn no_flow<A: Address>(packet: &Packet<A>) -> Verdict {
    let reason = match packet.transport {
        Transport::Sctp(_) => DropReason::SctpNoFlow,
        Transport::Tcp | Transport::Udp | Transport::Icmp(_) | Transport::Other => DropReason::TcpNoFlow,
    };
    unknown_connection(packet, reason)
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
        Refusal::Abort => abort::<I>(frame, packet),
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

fn abort<I: Ip>(frame: &mut Frame, packet: &Packet<I::Address>) -> Option<()> {
    let Transport::Sctp(message) = packet.transport else { return None };
    let abort = Sctp::at(frame.bytes(), packet.l4)?.refusal(message)?;
    let (src, dst) = (packet.key.dst, packet.key.src);
    write_packet::<I>(frame, packet.own, (src, dst), sctp::PROTOCOL, abort.as_bytes(), 0)
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

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use pollgate_common::flow::V6;

    use super::*;

    /// Refusals of each of two sources within an instant, beside one another.
    fn granted(sources: [&str; 2]) -> [u32; 2] {
        let mut rates = Rates::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        let verdict = Verdict::Refuse(DropReason::RejectNoEndpoints, Refusal::PortUnreachable);
        let sources: [Ipv6Addr; 2] = sources.map(|source| source.parse().expect("an address"));
        let mut granted = [0; 2];
        for _ in 0..2000 {
            for (source, granted) in sources.iter().zip(&mut granted) {
                let limited = rates.limit(verdict, V6(*source), Instant(5));
                *granted += u32::from(matches!(limited, Verdict::Refuse(..)));
            }
        }
        granted
    }

    #[test]
    fn one_prefix_leaves_refusals_for_others() {
        assert_eq!(granted(["2001:db8:0:100::1", "2001:db8:0:1ff:9::2"]), [50, 50], "one /56");
        assert_eq!(granted(["2001:db8:0:100::1", "2001:db8:0:200::1"]), [100, 100], "two of them");
    }
}

//! Fragments: IP packets in pieces, translated piece by piece.
//!
//! Only the first fragment has a transport header. It is decided about like a whole packet. What it was and what became of it is
//! remembered for one second, and the later fragments of its datagram follow it. Nothing is reassembled.
//!
//! ```text
//!  parse ─▶ fragment ─┬─ first ──▶ hash, flow, rewrite as for a whole packet ──▶ entry: key, fate, identification
//!                     │                                                            │
//!                     │            ┌──────────── its waiting fragments ◀───────────┤
//!                     ├─ later, first is known ──▶ the same fate: addresses rewritten, dropped, handed over, …
//!                     └─ later, first is not known ──▶ held ──(1 s)──▶ dropped: `fragment_timeout`
//! ```
//!
//! SCTP's checksum depends on ports and length: a first fragment of SCTP also waits, until the last one has told the length.
//!
//! **Which worker.** All fragments of a datagram have to meet, and the later ones name no port. So they meet at the worker that
//! hash(source address, 0) names, which is also where the fanout program sends them. It learns the ports from the first
//! fragment. If another worker owns the flow, that one gets all fragments in order, first one first, and remembers the same
//! for itself:
//!
//! ```text
//!  worker 0 (got it from the NIC) ─ 1st ─▶ worker 1 = hash(source) ─ 2nd ─▶ worker 2 (owns the flow) ─▶ port.tx
//! ```
//!
//! A fragment may be handed over twice, a whole packet only once. The owner never hands it on.
//!
//! **What is checked.** A first fragment holds the whole transport header (RFC 1858, RFC 3128, RFC 7112). No two fragments of a
//! datagram overlap or contradict each other; if they do, that one and all that follow are dropped, so that the
//! receiver never completes it (RFC 5722). An exact duplicate is dropped alone. No fragment ends beyond 65,535 bytes. An IPv6 packet
//! with a fragment header that is in one piece is not a fragment (RFC 6946).
//!
//! **The identification.** If the source is rewritten, two senders become one. Their datagrams get new identifications, one per
//! datagram (RFC 6864 §5.3): [`identification`]. ICMP errors about them quote the new one; hosts do not look at it.
//!
//! **Bounds.** Any sender can create entries and have frames held, with packets from any address, so both are of little worth to it:
//! * [`table`]: 4096 datagrams per worker and family, 32 per bucket. The bucket is chosen by the source, so one source has one bucket. Half of it
//!   is kept for datagrams whose first fragment was sent on, and a flood of anything else cannot displace them.
//! * [`held`]: 512 frames per worker, 128 per source. The oldest goes. Fragments that come in order are never held, but those of SCTP.
//! * 128 fragments per datagram, more than 65,535 bytes need on a link of 576.
//! * One second. A host waits 30 or 60 (RFC 1122 §3.3.2, RFC 8200 §4.5) because it has nothing to do with the buffer; fragments of a
//!   datagram leave their sender together, and identifications come round: 65,536 datagrams of 9,000 bytes take 5 s at 1 Gbit/s
//!   (RFC 4963).
//!
//! A forged fragment with another host's address and the right identification spoils that datagram, as it does at any receiver.

pub(crate) mod held;
pub(crate) mod identification;
pub(crate) mod table;

use std::time::Duration;

use pollgate_common::flow::FlowKey;
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_common::tables::Tables;
use pollgate_common::time::Instant;

use crate::classify;
use crate::overload;
use crate::packet::{Packet, Transport, Verdict};
use crate::port::{Frame, Origin};
use crate::state::Shared;
use crate::wire::sctp::Message;
use crate::wire::{Ip, Piece, ethernet, tcp};

use table::{Class, Key, Part, Table};

/// How long a datagram is remembered and a frame held.
pub(crate) const WAIT: Duration = Duration::from_secs(1);

/// Bytes that an IP packet may have (RFC 791 §3.1, RFC 8200 §3).
const LONGEST: usize = 65_535;

/// What became of a first fragment, and becomes of those that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Translated and sent.
    Translate,
    /// Sent back: part of an echo request.
    Echo,
    /// Another worker owns the flow.
    HandOn(u16),
    /// Left to the kernel.
    Pass(PassReason),
    /// Dropped.
    Drop(DropReason),
}

impl Fate {
    /// The fate that the verdict on the first fragment seals.
    fn of(verdict: Verdict) -> Fate {
        match verdict {
            Verdict::Send(_) | Verdict::Pend => Fate::Translate,
            Verdict::EchoReply => Fate::Echo,
            Verdict::HandOn(worker) => Fate::HandOn(worker),
            Verdict::Pass(reason) => Fate::Pass(reason),
            Verdict::Refuse(reason, _) | Verdict::Drop(reason) => Fate::Drop(reason),
            Verdict::DnsReply => Fate::Drop(DropReason::DnsFragment),
            // A fragment's owner never hands it on. No first fragment is held.
            Verdict::HandOver(_) | Verdict::Hold(_) => Fate::Drop(DropReason::HandedOverTwice),
        }
    }

    fn class(self) -> Class {
        match self {
            Fate::Translate | Fate::HandOn(_) => Class::Served,
            Fate::Echo | Fate::Pass(_) | Fate::Drop(_) => Class::Other,
        }
    }
}

/// What a first fragment was, and what became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First<A> {
    /// As parsing found it.
    key: FlowKey<A>,
    transport: Transport,
    pub(crate) fate: Fate,
    /// The datagram's identification if its source is rewritten.
    pub(crate) identification: u32,
}

/// What is to be done with a fragment.
pub(crate) enum Step<A> {
    /// Decide about it as about a whole packet, then call [`decided`].
    First(Meeting<A>),
    /// Do as was done with the first one. The packet has the key of its flow.
    Later(Packet<A>, First<A>),
}

/// Where a first fragment was entered.
pub(crate) struct Meeting<A> {
    at: usize,
    source: A,
    /// Bytes of transport header and payload of the whole packet; 0 if it is not known.
    pub(crate) whole_len: u16,
    /// Whether fragments may be waiting for it.
    is_awaited: bool,
    /// Whether this is the worker where the datagram's fragments meet.
    is_here: bool,
}

/// Enters a fragment, and finds what its datagram is; or the verdict, if that settles it.
pub(crate) fn arrive<I: Ip>(
    shared: &mut Shared,
    table: &mut Table<I::Address>,
    frame: &Frame,
    packet: &Packet<I::Address>,
    tables: &Tables,
    now: Instant,
) -> Result<Step<I::Address>, Verdict> {
    let (key, part, headers) = read::<I>(frame, packet).map_err(Verdict::Drop)?;
    let is_ours = classify::fragment(key.src.into(), key.dst.into(), tables)?;
    let meets_at = shared.steering.of_fragments(key.src);
    let is_here = meets_at == shared.worker;
    if !is_here && !matches!(frame.origin(), Origin::Worker(_)) {
        return Err(Verdict::HandOver(meets_at));
    }
    let found = table.find(&key, now);
    let first = found.and_then(|at| table.first(at));
    match (packet.piece, first) {
        // Not a fragment: it does not come here.
        (Piece::Whole, _) => Err(Verdict::Drop(DropReason::FragmentLength)),
        // New ports change SCTP's checksum by the length of the whole packet, which only the last fragment tells.
        (Piece::First, None) if is_sctp(packet) && found.and_then(|at| table.end(at)).is_none() => {
            let at = found.unwrap_or_else(|| table.make(key, shared.held.serial(), now));
            table.wait_for_end(at);
            Err(Verdict::Hold(shared.held.take(table.serial(at), table.source(at), is_ours, now)))
        }
        (Piece::First, first) => {
            let at = found.unwrap_or_else(|| table.make(key, shared.held.serial(), now));
            let is_other = first.is_some_and(|first| first.key != packet.key);
            table.add(at, part, is_other).map_err(Verdict::Drop)?;
            let whole_len = table.end(at).unwrap_or_default().saturating_sub(headers);
            Ok(Step::First(Meeting { at, whole_len, source: key.src, is_awaited: found.is_some(), is_here }))
        }
        (Piece::Later, Some(first)) => {
            let at = found.unwrap_or_default();
            table.add(at, part, false).map_err(Verdict::Drop)?;
            if table.is_complete(at) {
                table.forget(at);
            }
            let packet = Packet { key: first.key, transport: first.transport, ..*packet };
            Ok(Step::Later(packet, first))
        }
        (Piece::Later, None) if is_ours && shared.shedding.sheds(overload::Class::Fragment, table.hash(&key), now) => {
            Err(Verdict::Drop(DropReason::Overload))
        }
        (Piece::Later, None) => {
            let at = found.unwrap_or_else(|| table.make(key, shared.held.serial(), now));
            let slot = shared.held.take(table.serial(at), table.source(at), is_ours, now);
            // Not for a frame that has waited and finds its datagram forgotten: more datagrams than a bucket holds would make one
            // another go round for ever.
            if part.is_last && table.note_end(at, part.end) && !shared.held.is_replaying {
                shared.held.again(table.serial(at));
            }
            Err(Verdict::Hold(slot))
        }
    }
}

fn is_sctp<A>(packet: &Packet<A>) -> bool {
    match packet.transport {
        Transport::Sctp(_) => true,
        Transport::Tcp | Transport::Udp | Transport::Icmp(_) | Transport::Other => false,
    }
}

/// Notes the verdict on a first fragment, gives it its new identification if it was translated, and ends the wait of the others. Returns
/// the verdict to carry out.
pub(crate) fn decided<I: Ip>(
    shared: &mut Shared,
    table: &mut Table<I::Address>,
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    meeting: &Meeting<I::Address>,
    verdict: Verdict,
) -> Verdict {
    let verdict = match verdict {
        Verdict::HandOver(worker) if meeting.is_here => Verdict::HandOn(worker),
        Verdict::DnsReply => Verdict::Drop(DropReason::DnsFragment),
        other => other,
    };
    let fate = Fate::of(verdict);
    let destination = I::at(frame.bytes(), ethernet::LEN).map(I::dst);
    let identification = shared.identifications.next::<I>(destination.unwrap_or_default());
    identify::<I>(frame, meeting.source, identification);
    let first = First { key: packet.key, transport: of_later(packet.transport), fate, identification };
    table.settle(meeting.at, first, fate.class());
    if meeting.is_awaited {
        shared.held.again(table.serial(meeting.at));
    }
    verdict
}

/// The transport of the later fragments of a datagram: what the first one says of its connection was said.
fn of_later(transport: Transport) -> Transport {
    match transport {
        Transport::Sctp(_) => Transport::Sctp(Message::default()),
        Transport::Tcp | Transport::Udp | Transport::Icmp(_) | Transport::Other => transport,
    }
}

/// The datagram that a fragment belongs to, its place in it, and how many bytes of it precede the transport header.
fn read<I: Ip>(frame: &Frame, packet: &Packet<I::Address>) -> Result<(Key<I::Address>, Part, u16), DropReason> {
    let ip = I::at(frame.bytes(), ethernet::LEN).ok_or(DropReason::IpHeader)?;
    let fragment = frame.bytes().get(ethernet::LEN..).and_then(I::fragment).ok_or(DropReason::IpHeader)?;
    let len = ip.total_len().saturating_sub(fragment.data);
    let end = fragment.offset + len;
    let is_broken = len == 0 || (fragment.more && len % 8 != 0) || fragment.counted + end > LONGEST;
    if is_broken {
        return Err(DropReason::FragmentLength);
    }
    // RFC 3128: it would overwrite the header that the first one holds.
    if packet.piece == Piece::Later && packet.transport == Transport::Tcp && fragment.offset < tcp::LEN {
        return Err(DropReason::FragmentTiny);
    }
    let key =
        Key { src: ip.src(), dst: ip.dst(), identification: fragment.identification, protocol: fragment.protocol };
    let bytes = |number| u16::try_from(number).map_err(|_| DropReason::FragmentLength);
    let headers = bytes(packet.l4.saturating_sub(ethernet::LEN + fragment.data))?;
    Ok((key, Part { start: bytes(fragment.offset)?, end: bytes(end)?, is_last: !fragment.more }, headers))
}

/// Gives the datagram's fragment in the frame its new identification, if its source has become another one.
pub(crate) fn identify<I: Ip>(frame: &mut Frame, before: I::Address, identification: u32) {
    let Some(packet) = frame.bytes_mut().get_mut(ethernet::LEN..) else { return };
    if I::at(packet, 0).is_some_and(|ip| ip.src() != before) {
        I::set_identification(packet, identification);
    }
}

/// The source address of the packet in the frame.
pub(crate) fn source<I: Ip>(frame: &Frame) -> I::Address {
    I::at(frame.bytes(), ethernet::LEN).map(I::src).unwrap_or_default()
}

//! DNS answered inline: the query's buffer becomes the answer.
//!
//! The zone is compiled into wire format beforehand ([`pollgate_common::dns::zone`]), so an answer is a look-up, a copy behind
//! the question, and two headers. Rules: RFC 1035 §4.3.2 (the algorithm), RFC 2308 (negative answers carry the SOA), RFC
//! 6891 (EDNS), and the Kubernetes DNS specification for what exists. Outside the zone the answer is REFUSED: this is an
//! authoritative server.

use std::net::IpAddr;

use pollgate_common::dns::zone::{RrSet, Zone};
use pollgate_common::flow::Protocol;
use pollgate_common::reasons::DropReason;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::Tables;
use zerocopy::IntoBytes;

use crate::packet::{Kind, Packet, Verdict};
use crate::port::{Frame, Offload};
use crate::wire::dns::{self, Asked, NameRoom, Query, Rcode};
use crate::wire::ethernet;
use crate::wire::udp::{self, Udp};
use crate::wire::{Header, checksum};
use crate::{classify, rewrite};

/// The DNS port.
const PORT: u16 = 53;

/// Whether the packet is for the DNS server.
#[inline]
pub(crate) fn is_for_us(packet: &Packet, settings: &DataplaneSettings) -> bool {
    packet.kind == Kind::Udp && packet.key.dst_port == PORT && settings.dns.contains(&IpAddr::V4(packet.key.dst.0))
}

/// Answers the query in its own buffer.
pub(crate) fn answer(frame: &mut Frame, packet: &Packet, tables: &Tables) -> Verdict {
    if !classify::may_send(packet.key.src.0, tables) {
        return Verdict::Drop(DropReason::BadSource);
    }
    let start = packet.l4 + udp::LEN;
    let length = Udp::at(frame.bytes(), packet.l4).map_or(0, Udp::length);
    let end = packet.l4 + length.min(packet.l4_len);
    let mut room = NameRoom::default();
    let query = frame.bytes().get(start..end).and_then(|message| Query::read(message, &mut room));
    let Some(query) = query else { return Verdict::Drop(DropReason::DnsMalformed) };
    let response = respond(&query, tables.zone());
    let written = frame.buffer_mut().get_mut(start..).and_then(|message| response.write(&query, message));
    match written.and_then(|len| address(frame, packet, len)) {
        Some(()) => Verdict::Send(frame.received_on()),
        None => Verdict::Drop(DropReason::NoRoomForAnswer),
    }
}

/// What to say.
struct Response<'a> {
    rcode: Rcode,
    authoritative: bool,
    truncated: bool,
    answer: Option<&'a RrSet>,
    soa: Option<[u8; dns::SOA_LEN]>,
}

fn respond<'a>(query: &Query<'_>, zone: &'a Zone) -> Response<'a> {
    let asked = match &query.question {
        Ok(asked) => asked,
        Err(rcode) => return Response::error(*rcode),
    };
    if asked.edns.is_some_and(|opt| opt.version() != 0) {
        return Response::error(Rcode::BadVers);
    }
    if asked.class != dns::IN {
        return Response::error(Rcode::Refused);
    }
    // A name that is found is the zone's.
    match zone.find(asked.name) {
        Some(node) => match node.answer(asked.rtype) {
            Some(answer) => Response::positive(asked, answer),
            None => Response::negative(asked, zone, Rcode::NoError),
        },
        None if zone.holds(asked.name) => Response::negative(asked, zone, Rcode::NxDomain),
        None => Response::error(Rcode::Refused),
    }
}

impl<'a> Response<'a> {
    fn error(rcode: Rcode) -> Response<'a> {
        Response { rcode, authoritative: false, truncated: false, answer: None, soa: None }
    }

    /// Truncated to nothing rather than to a part, so that no client takes the part for the whole (RFC 2181 §9).
    fn positive(asked: &Asked<'_>, answer: &'a RrSet) -> Response<'a> {
        let limit = asked.edns.map_or(dns::PLAIN_SIZE, |opt| opt.size());
        let opt = if asked.edns.is_some() { size_of::<dns::Opt>() } else { 0 };
        let truncated = asked.end + answer.bytes.len() + opt > limit;
        let answer = Some(answer).filter(|_| !truncated);
        Response { rcode: Rcode::NoError, authoritative: true, truncated, answer, soa: None }
    }

    fn negative(asked: &Asked<'_>, zone: &Zone, rcode: Rcode) -> Response<'a> {
        // The question's name ends in the zone's: the record points there.
        let origin = dns::LEN + asked.name.len() - zone.origin.len();
        let soa = u16::try_from(origin).ok().map(|origin| dns::soa(origin, zone.serial, zone.ttl));
        Response { rcode, authoritative: true, truncated: false, answer: None, soa }
    }

    /// Writes it over the query at the start of `message`; answers its length, or `None` if there is no room.
    fn write(&self, query: &Query<'_>, message: &mut [u8]) -> Option<usize> {
        let asked = query.question.as_ref().ok();
        let edns = asked.and_then(|asked| asked.edns).map(|opt| opt.response(self.rcode));
        let count = [self.answer.map_or(0, |set| set.count), u16::from(self.soa.is_some()), u16::from(edns.is_some())];
        let questions = u16::from(asked.is_some());
        let header = query.header.response(self.rcode, self.authoritative, self.truncated, questions, count);
        message.get_mut(..dns::LEN)?.copy_from_slice(header.as_bytes());
        let mut at = asked.map_or(dns::LEN, |asked| asked.end);
        let records: [&[u8]; 3] = [
            self.answer.map_or(&[], |set| &set.bytes),
            self.soa.as_ref().map_or(&[], |soa| soa),
            edns.as_ref().map_or(&[], |opt| opt.as_bytes()),
        ];
        for record in records {
            message.get_mut(at..at + record.len())?.copy_from_slice(record);
            at += record.len();
        }
        Some(at)
    }
}

/// Addresses the answer of `len` bytes, in place behind the UDP header, back to who asked.
fn address(frame: &mut Frame, packet: &Packet, len: usize) -> Option<()> {
    let (key, l4) = (packet.key, packet.l4);
    let udp_len = udp::LEN + len;
    let end = l4 + udp_len;
    if end > frame.room() {
        return None;
    }
    let mut header = Udp::make(key.dst_port, key.src_port, u16::try_from(udp_len).ok()?);
    let message = frame.buffer_mut().get(l4 + udp::LEN..end)?;
    let pseudo = checksum::pseudo(key.dst, key.src, Protocol::Udp.number(), udp_len);
    header.set_checksum(!checksum::fold(pseudo + checksum::sum(header.as_bytes()) + checksum::sum(message)));
    frame.buffer_mut().get_mut(l4..l4 + udp::LEN)?.copy_from_slice(header.as_bytes());
    finish(frame, packet.own, end)
}

fn finish(frame: &mut Frame, own: pollgate_common::net::Mac, end: usize) -> Option<()> {
    frame.set_len(end);
    frame.set_offload(Offload::default());
    rewrite::set_total_len(frame, u16::try_from(end - ethernet::LEN).ok()?);
    rewrite::reply_in_place(frame, own);
    Some(())
}

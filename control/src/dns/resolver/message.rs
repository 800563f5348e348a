//! Messages of upstreams, read by the `domain` crate.

use domain::base::iana::{Class, Rcode as Code};
use domain::base::message::RecordSection;
use domain::base::name::ToName;
use domain::base::rdata::ComposeRecordData;
use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;
use pollgate_common::dns::message::Rcode;
use pollgate_common::dns::records::rr;
use pollgate_common::dns::relay::{Record, Relayed};

/// The most seconds that an answer is kept, here and by clients (as CoreDNS' `cache 30`).
const LONGEST_TTL: u32 = 30;

/// What is asked of other servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    /// Whose servers are asked: the index of the forwarded zone.
    pub(crate) zone: usize,
    /// On the wire, lower case.
    pub(crate) name: Box<[u8]>,
    pub(crate) rtype: u16,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
    Answer(Relayed),
    /// The rest is to be had over TCP.
    Truncated,
    /// Another code than NOERROR and NXDOMAIN.
    Error(u8),
    /// It responds to the question, and cannot be read.
    Malformed,
    /// It does not respond to the question.
    Bogus,
}

/// Reads the response to the query with the number `id`.
pub(super) fn read(bytes: &[u8], id: u16, question: &Question) -> Response {
    let Ok(message) = Message::from_octets(bytes) else { return Response::Bogus };
    let header = message.header();
    let is_response = header.qr() && header.id() == id && header.opcode().to_int() == 0;
    if !is_response || !repeats(&message, question) {
        return Response::Bogus;
    }
    let rcode = match header.rcode() {
        Code::NOERROR => Rcode::NoError,
        Code::NXDOMAIN => Rcode::NxDomain,
        other => return Response::Error(other.to_int()),
    };
    if header.tc() {
        return Response::Truncated;
    }
    records(&message, rcode, question).map_or(Response::Malformed, Response::Answer)
}

/// Whether the message repeats the question, in any case of letters. An error need not (RFC 1035 §4.1.1 leaves it open), but what
/// does not cannot be told from a forged one.
fn repeats(message: &Message<&[u8]>, question: &Question) -> bool {
    message.sole_question().is_ok_and(|asked| {
        asked.qtype().to_int() == question.rtype
            && asked.qclass() == Class::IN
            && asked.qname().to_vec().as_slice().eq_ignore_ascii_case(&question.name)
    })
}

fn records(message: &Message<&[u8]>, rcode: Rcode, question: &Question) -> Option<Relayed> {
    let answer = message.answer().ok()?;
    let authority = answer.next_section().ok()??;
    let mut answers = section(answer, |_| true)?;
    // Aliases first, as clients expect it; the rest in its order.
    answers.sort_by_key(|record| record.rtype != rr::CNAME);
    let is_wanted = |rtype: u16| rtype == rr::SOA || question.dnssec_ok;
    let mut relayed = Relayed { rcode, answers, authority: Vec::new() };
    if !relayed.has(question.rtype) {
        relayed.authority = section(authority, is_wanted)?;
    }
    Some(relayed)
}

fn section(records: RecordSection<'_, &[u8]>, is_wanted: impl Fn(u16) -> bool) -> Option<Vec<Record>> {
    let mut all = Vec::new();
    for record in records {
        let record = record.ok()?;
        let rtype = record.rtype().to_int();
        if record.class() != Class::IN || rtype == rr::OPT || !is_wanted(rtype) {
            continue;
        }
        let (owner, ttl) = (record.owner().to_vec(), record.ttl().as_secs());
        let read = record.into_any_record::<AllRecordData<_, ParsedName<_>>>().ok()?;
        let mut data = Vec::new();
        read.data().compose_rdata(&mut data).ok()?;
        // A time to live with its first bit set is none (RFC 2181 §8).
        let ttl = if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl.min(LONGEST_TTL) };
        all.push(Record { owner: owner.as_slice().into(), rtype, ttl, data: data.into() });
    }
    Some(all)
}

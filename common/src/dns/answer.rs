//! The authoritative answer to a query, from the compiled zone.
//!
//! Rules: RFC 1035 §4.3.2 (the algorithm), RFC 2308 (negative answers carry the SOA), RFC 6891 (EDNS), and the Kubernetes DNS
//! specification for what exists. A name outside the zone is REFUSED.
//!
//! The zone holds records in wire format ([`super::zone`]). An answer is a look-up, a copy after the question, and a header.
//! Every DNS server calls [`answer`]: the worker in the query's own frame, others in their own buffer.

use zerocopy::IntoBytes;

use super::message::{self, NameBuffer, Query, Question, Rcode};
use super::zone::{RrSet, Zone};

/// Why a message gets no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The message is not a query: it is too short for a header, or a response.
    NotAQuery,
    /// The buffer is too small for the response.
    NoRoom,
}

/// Overwrites the query in the first `len` bytes of `buffer` with its response. Returns the response's length in bytes.
pub fn answer(buffer: &mut [u8], len: usize, zone: &Zone) -> Result<usize, NoAnswer> {
    let mut room = NameBuffer::default();
    let query = buffer.get(..len).and_then(|message| Query::read(message, &mut room)).ok_or(NoAnswer::NotAQuery)?;
    respond(&query, zone).write(&query, buffer).ok_or(NoAnswer::NoRoom)
}

/// A response before it is written.
struct Response<'a> {
    rcode: Rcode,
    authoritative: bool,
    truncated: bool,
    answer: Option<&'a RrSet>,
    soa: Option<[u8; message::SOA_LEN]>,
}

fn respond<'a>(query: &Query<'_>, zone: &'a Zone) -> Response<'a> {
    let question = match &query.question {
        Ok(question) => question,
        Err(rcode) => return Response::error(*rcode),
    };
    if question.edns.is_some_and(|opt| opt.version() != 0) {
        return Response::error(Rcode::BadVers);
    }
    if question.class != message::IN {
        return Response::error(Rcode::Refused);
    }
    // A name that is found belongs to the zone.
    match zone.find(question.name) {
        Some(node) => match node.answer(question.rtype) {
            Some(answer) => Response::positive(question, answer),
            None => Response::negative(question, zone, Rcode::NoError),
        },
        None if zone.holds(question.name) => Response::negative(question, zone, Rcode::NxDomain),
        None => Response::error(Rcode::Refused),
    }
}

impl<'a> Response<'a> {
    fn error(rcode: Rcode) -> Response<'a> {
        Response { rcode, authoritative: false, truncated: false, answer: None, soa: None }
    }

    /// Truncates to no records at all, so that no client takes a part for the whole set (RFC 2181 §9).
    fn positive(question: &Question<'_>, answer: &'a RrSet) -> Response<'a> {
        let limit = question.edns.map_or(message::PLAIN_SIZE, |opt| opt.size());
        let opt = if question.edns.is_some() { size_of::<message::Opt>() } else { 0 };
        let truncated = question.end + answer.bytes.len() + opt > limit;
        let answer = Some(answer).filter(|_| !truncated);
        Response { rcode: Rcode::NoError, authoritative: true, truncated, answer, soa: None }
    }

    fn negative(question: &Question<'_>, zone: &Zone, rcode: Rcode) -> Response<'a> {
        // The question's name ends with the zone's name. The record points there.
        let origin = message::LEN + question.name.len() - zone.origin.len();
        let soa = u16::try_from(origin).ok().map(|origin| message::soa(origin, zone.serial, zone.ttl));
        Response { rcode, authoritative: true, truncated: false, answer: None, soa }
    }

    /// Writes the response over the query at the start of `message`. Returns its length, or `None` if there is no room.
    fn write(&self, query: &Query<'_>, buffer: &mut [u8]) -> Option<usize> {
        let question = query.question.as_ref().ok();
        let edns = question.and_then(|question| question.edns).map(|opt| opt.response(self.rcode));
        let count = [self.answer.map_or(0, |set| set.count), u16::from(self.soa.is_some()), u16::from(edns.is_some())];
        let questions = u16::from(question.is_some());
        let header = query.header.response(self.rcode, self.authoritative, self.truncated, questions, count);
        buffer.get_mut(..message::LEN)?.copy_from_slice(header.as_bytes());
        let mut at = question.map_or(message::LEN, |question| question.end);
        let records: [&[u8]; 3] = [
            self.answer.map_or(&[], |set| &set.bytes),
            self.soa.as_ref().map_or(&[], |soa| soa),
            edns.as_ref().map_or(&[], |opt| opt.as_bytes()),
        ];
        for record in records {
            buffer.get_mut(at..at + record.len())?.copy_from_slice(record);
            at += record.len();
        }
        Some(at)
    }
}

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

/// Aliases that are followed in an answer.
const LONGEST_CHAIN: usize = 16;
/// RFC 6672.
const DNAME: u16 = 39;

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
    if !is_response {
        return Response::Bogus;
    }
    // Who cannot read a query cannot repeat its question.
    let says_nothing = message.header_counts().qdcount() == 0 && header.rcode() == Code::FORMERR;
    if !says_nothing && !repeats(&message, question) {
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

/// Whether the message repeats the question, in any case of letters.
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
    keep_what_was_asked_for(&mut answers, &question.name);
    let is_wanted = |rtype: u16| rtype == rr::SOA || question.dnssec_ok;
    let mut relayed = Relayed { rcode, answers, authority: Vec::new() };
    if !relayed.has(question.rtype) {
        relayed.authority = section(authority, is_wanted)?;
    }
    Some(relayed)
}

/// Leaves out records of names that the question does not lead to: nobody has asked for them (RFC 5452 §6).
fn keep_what_was_asked_for(answers: &mut Vec<Record>, name: &[u8]) {
    let mut names = vec![name.to_vec()];
    while let Some(last) = names.last().filter(|_| names.len() <= LONGEST_CHAIN) {
        let is_its_alias = |record: &&Record| record.rtype == rr::CNAME && record.owner.eq_ignore_ascii_case(last);
        match answers.iter().find(is_its_alias).map(|record| record.data.to_vec()) {
            Some(target) => names.push(target),
            None => break,
        }
    }
    // A DNAME record is the reason for an alias, and belongs to a name above it (RFC 6672 §3.1).
    let is_above = |record: &Record| {
        let ends = |name: &Vec<u8>| name.to_ascii_lowercase().ends_with(&record.owner.to_ascii_lowercase());
        record.rtype == DNAME && names.iter().any(ends)
    };
    answers.retain(|record| names.iter().any(|name| record.owner.eq_ignore_ascii_case(name)) || is_above(record));
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

#[cfg(test)]
mod tests {
    use pollgate_common::dns::name::to_wire;

    use super::*;

    const ID: u16 = 0x1234;

    fn wire(name: &str) -> Vec<u8> {
        to_wire(name).expect("a name").into()
    }

    fn question() -> Question {
        let name = wire("www.example").into();
        Question { zone: 0, name, rtype: rr::A, dnssec_ok: false, checking_disabled: false }
    }

    fn record(owner: &str, rtype: u16, data: &[u8]) -> Vec<u8> {
        let head = [&rtype.to_be_bytes()[..], &[0, 1, 0, 0, 0, 60]].concat();
        [wire(owner), head, u16::try_from(data.len()).expect("short").to_be_bytes().to_vec(), data.to_vec()].concat()
    }

    /// A response with this code to the question, with these records.
    fn response(code: u8, records: &[Vec<u8>]) -> Vec<u8> {
        let count = u8::try_from(records.len()).expect("few");
        let [high, low] = ID.to_be_bytes();
        let header = [high, low, 0x80, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
        [header.to_vec(), wire("www.example"), vec![0, 1, 0, 1], records.concat()].concat()
    }

    fn owners(message: &[u8]) -> Vec<Box<[u8]>> {
        match read(message, ID, &question()) {
            Response::Answer(answer) => answer.answers.into_iter().map(|record| record.owner).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// RFC 5452 §6: only what the question leads to, in any case of letters.
    #[test]
    fn records_that_nobody_asked_for_are_left_out() {
        let address = |owner: &str| record(owner, rr::A, &[192, 0, 2, 1]);
        let alias = |owner: &str, target: &str| record(owner, rr::CNAME, &wire(target));
        let names = |names: &[&str]| names.iter().map(|name| wire(name).into()).collect::<Vec<Box<[u8]>>>();
        let all = [address("www.example"), address("web.default.svc.cluster.local"), address("Www.Example")];
        assert_eq!(owners(&response(0, &all)), names(&["www.example", "Www.Example"]).as_slice());
        let chain = [alias("b.test", "c.test"), alias("www.example", "B.test"), address("c.test"), address("d.test")];
        assert_eq!(owners(&response(0, &chain)), names(&["b.test", "www.example", "c.test"]).as_slice());
        let two = [alias("www.example", "b.test"), alias("www.example", "evil.test"), address("evil.test")];
        assert_eq!(owners(&response(0, &two)).len(), 2, "a name has one alias");
        let circle = [alias("www.example", "b.test"), alias("b.test", "www.example")];
        assert_eq!(owners(&response(0, &circle)).len(), 2);
        // RFC 6672 §3.1.
        let by_dname = [
            record("example", DNAME, &wire("other")),
            alias("www.example", "www.other"),
            address("www.other"),
            record("test", DNAME, &wire("x")),
        ];
        assert_eq!(owners(&response(0, &by_dname)), names(&["www.example", "example", "www.other"]).as_slice());
    }

    #[test]
    fn what_does_not_respond_to_the_question_is_bogus_except_that_it_was_not_understood() {
        let header = |code: u8, questions: u8| {
            let mut message = response(code, &[])[..12].to_vec();
            message[5] = questions;
            message
        };
        assert_eq!(read(&header(1, 0), ID, &question()), Response::Error(1));
        for (bytes, id) in [(header(0, 0), ID), (header(2, 0), ID), (header(1, 0), ID + 1), (header(1, 1), ID)] {
            assert_eq!(read(&bytes, id, &question()), Response::Bogus);
        }
    }
}

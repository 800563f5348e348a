//! The answer of another server, written as the response to a client's query.

use super::answer::{ANSWER, AUTHORITY, Answered, NoAnswer, Outcome, Rule, Writer};
use super::message::{Query, Rcode};
use super::records::{QUESTION, head, pointer, rr};

/// A record, its names uncompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner's name on the wire.
    pub owner: Box<[u8]>,
    /// Its type.
    pub rtype: u16,
    /// Its time to live, seconds.
    pub ttl: u32,
    /// Its data.
    pub data: Box<[u8]>,
}

impl Record {
    /// An alias.
    pub fn alias(owner: &[u8], target: &[u8], ttl: u32) -> Record {
        Record { owner: owner.into(), rtype: rr::CNAME, ttl, data: target.into() }
    }

    fn is_address(&self) -> bool {
        matches!(self.rtype, rr::A | rr::AAAA)
    }
}

/// What another server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// NOERROR or NXDOMAIN.
    pub rcode: Rcode,
    /// Its answer section: aliases first.
    pub answers: Vec<Record>,
    /// Its authority section, as far as it is about a negative answer.
    pub authority: Vec<Record>,
}

impl Relayed {
    /// Whether it has records of this type, and not only aliases.
    pub fn has(&self, rtype: u16) -> bool {
        self.answers.iter().any(|record| record.rtype == rtype || rtype == rr::ANY)
    }
}

/// Overwrites a query that was read from `buffer` with what another server answered `age` seconds ago. `aliases` lead from the
/// question to the name that server was asked for: then the question's name exists, whatever that name does (as with CoreDNS).
///
/// # Errors
/// If there is no room.
pub fn relay(
    query: &Query,
    buffer: &mut [u8],
    aliases: &[Record],
    answer: &Relayed,
    age: u32,
) -> Result<Answered, NoAnswer> {
    let mut writer = Writer::new(query, buffer);
    let mut known = Names { question: query.name.as_bytes(), targets: Vec::new() };
    let (chain, rest) =
        answer.answers.split_at(answer.answers.iter().take_while(|record| !record.is_address()).count());
    // As with the zone's own records: the query's number says with which address to start.
    let first = (usize::from(query.header.id()) * rest.len()) >> 16;
    let (last, first) = rest.split_at(first);
    let mut put = |record, age, section| known.put(&mut writer, section, record, age);
    // What does not fit ends it: thousands of records may follow.
    let _ = aliases.iter().all(|record| put(record, 0, ANSWER))
        && chain.iter().chain(first).chain(last).all(|record| put(record, age, ANSWER))
        && answer.authority.iter().all(|record| put(record, age, AUTHORITY));
    // The zone has the question's name if it is an alias (RFC 1035 §4.1.1, AA).
    let outcome = match aliases.is_empty() {
        true => Outcome::error(answer.rcode, Rule::Upstream),
        false => Outcome::of(Rcode::NoError, Rule::Upstream),
    };
    writer.finish(query, outcome)
}

/// The names that the response has already: the question's, and what aliases lead to.
struct Names<'a> {
    question: &'a [u8],
    targets: Vec<(&'a [u8], [u8; 2])>,
}

impl<'a> Names<'a> {
    /// Returns whether it was written.
    fn put(&mut self, writer: &mut Writer<'_>, section: usize, record: &'a Record, age: u32) -> bool {
        let ttl = record.ttl.saturating_sub(age);
        let head = head(QUESTION, record.rtype, ttl, record.data.len());
        let pointer_to = |name: &[u8]| match name.eq_ignore_ascii_case(self.question) {
            true => Some(QUESTION),
            false => self.targets.iter().find(|(target, _)| target.eq_ignore_ascii_case(name)).map(|(_, at)| *at),
        };
        let pointer_to = pointer_to(&record.owner);
        let owner = pointer_to.as_ref().map_or(&*record.owner, |pointer| &pointer[..]);
        let is_written = writer.put(section, 1, &[owner, &head[QUESTION.len()..], &record.data]);
        if is_written
            && record.rtype == rr::CNAME
            && let Some(at) = pointer(writer.at - record.data.len())
        {
            self.targets.push((&record.data, at));
        }
        is_written
    }
}

#[cfg(test)]
mod tests {
    use super::super::message;
    use super::super::name::{Seed, to_wire};
    use super::*;

    fn wire(name: &str) -> Box<[u8]> {
        to_wire(name).expect("a name")
    }

    fn address(owner: &str, last: u8) -> Record {
        Record { owner: wire(owner), rtype: rr::A, ttl: 30, data: Box::new([192, 0, 2, last]) }
    }

    /// The response to a query with this number: its length, answers, and whether it is truncated; and its bytes.
    fn relayed(id: u8, aliases: &[Record], answer: &Relayed) -> (Answered, Vec<u8>) {
        let mut buffer = message::query(&wire("a.example"), rr::A);
        buffer[0] = id;
        let len = buffer.len();
        buffer.resize(message::PLAIN_SIZE, 0);
        let mut query = Query::default();
        query.read(&buffer, len, Seed::random()).expect("a query");
        let answered = relay(&query, &mut buffer, aliases, answer, 7).expect("room");
        buffer.truncate(answered.len);
        (answered, buffer.split_off(len))
    }

    fn answer(rcode: Rcode, answers: Vec<Record>) -> Relayed {
        Relayed { rcode, answers, authority: Vec::new() }
    }

    /// RFC 1035 §4.1.4: a name that is there already is pointed to.
    #[test]
    fn names_are_compressed_and_time_passes() {
        let alias = Record::alias(&wire("A.Example"), &wire("b.example"), 30);
        let (answered, records) =
            relayed(0, &[], &answer(Rcode::NoError, vec![alias, address("b.EXAMPLE", 1), address("c.example", 2)]));
        assert_eq!((answered.answers, answered.truncated, answered.rule), (3, false, Rule::Upstream));
        // The question's name is at 12, the records start at 27, and the alias' data at 39.
        let expected = [
            &b"\xc0\x0c\0\x05\0\x01\0\0\0\x17\0\x0b\x01b\x07example\0"[..],
            b"\xc0\x27\0\x01\0\x01\0\0\0\x17\0\x04\xc0\0\x02\x01",
            b"\x01c\x07example\0\0\x01\0\x01\0\0\0\x17\0\x04\xc0\0\x02\x02",
        ];
        assert_eq!(records, expected.concat());
    }

    #[test]
    fn addresses_start_with_another_one_for_each_query() {
        let all = answer(Rcode::NoError, (0..4).map(|n| address("a.example", n)).collect());
        let firsts = [0, 64, 128, 255].map(|id| relayed(id, &[], &all).1[15]);
        assert_eq!(firsts, [0, 1, 2, 3]);
    }

    /// As CoreDNS: an alias of the cluster exists, whatever becomes of its target.
    #[test]
    fn a_target_that_does_not_exist_leaves_the_alias() {
        let nothing = answer(Rcode::NxDomain, Vec::new());
        let alias = Record::alias(&wire("a.example"), &wire("gone.test"), 5);
        let (answered, records) = relayed(0, &[alias], &nothing);
        assert_eq!((answered.rcode, answered.answers), (Rcode::NoError, 1));
        assert_eq!(records[6..10], [0, 0, 0, 5], "the zone's own time to live");
        assert_eq!(relayed(0, &[], &nothing).0.rcode, Rcode::NxDomain);
    }

    /// RFC 1035 §4.1.1: authoritative for the question's name, which is the zone's if it is an alias.
    #[test]
    fn the_zones_own_alias_makes_the_answer_authoritative() {
        let alias = Record::alias(&wire("a.example"), &wire("b.test"), 5);
        for (aliases, expected) in [(&[alias][..], true), (&[], false)] {
            let mut buffer = message::query(&wire("a.example"), rr::A);
            let len = buffer.len();
            buffer.resize(message::PLAIN_SIZE, 0);
            let mut query = Query::default();
            query.read(&buffer, len, Seed::random()).expect("a query");
            relay(&query, &mut buffer, aliases, &answer(Rcode::NoError, Vec::new()), 0).expect("room");
            assert_eq!(buffer[2] & 4 != 0, expected);
        }
    }

    /// RFC 2181 §9.
    #[test]
    fn what_does_not_fit_is_truncated_to_none() {
        let all = answer(Rcode::NoError, (0..40).map(|n| address("a.example", n)).collect());
        let (answered, records) = relayed(0, &[], &all);
        assert_eq!((answered.truncated, answered.answers, records.len()), (true, 0, 0));
    }
}

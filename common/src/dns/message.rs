//! DNS messages (RFC 1035 §4.1) and EDNS (RFC 6891), as far as an authoritative answer needs them.
//!
//! ```text
//!  0    2       4         6         8         10        12
//!  │ id │ flags │ qdcount │ ancount │ nscount │ arcount │ question: name, type, class │ … │ OPT
//!         QR opcode AA TC RD RA Z AD CD rcode
//! ```
//!
//! A query is read to its last byte: what its counts promise must be there, and nothing behind it.

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::name::{MAX_LABEL, Name, Seed};
use super::records::{QUESTION, rr};
use crate::header::Header;

/// The port of DNS servers (RFC 1035 §4.2).
pub const PORT: u16 = 53;
/// Bytes of the header.
pub const LEN: usize = 12;
/// Bytes of a question behind its name.
pub const QUESTION_FIELDS: usize = 4;
/// The most bytes of a header with its question.
pub const HEAD: usize = LEN + super::name::MAX_NAME + QUESTION_FIELDS;
/// Class IN.
pub const IN: u16 = 1;
/// The UDP payload size that every client must accept (RFC 1035 §2.3.4).
pub const PLAIN_SIZE: usize = 512;
/// The largest UDP payload we send or accept, even if the client allows more. It fits every path (DNS flag day 2020).
pub const EDNS_SIZE: u16 = 1232;
/// The longest message in a stream: its length takes two bytes (RFC 1035 §4.2.2).
pub const STREAM_SIZE: usize = u16::MAX as usize;

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const CD: u16 = 0x0010;
const DO: u16 = 0x8000;

/// Response codes (RFC 1035 §4.1.1, RFC 6891 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// No error.
    NoError,
    /// The query could not be read.
    FormErr,
    /// The server could not answer.
    ServFail,
    /// The name does not exist.
    NxDomain,
    /// This kind of query is not implemented.
    NotImp,
    /// Refused by policy: the name is outside our zone.
    Refused,
    /// This EDNS version is not implemented.
    BadVers,
}

impl Rcode {
    /// Its number.
    pub fn number(self) -> u16 {
        match self {
            Rcode::NoError => 0,
            Rcode::FormErr => 1,
            Rcode::ServFail => 2,
            Rcode::NxDomain => 3,
            Rcode::NotImp => 4,
            Rcode::Refused => 5,
            Rcode::BadVers => 16,
        }
    }
}

/// What is wrong with a query that gets FORMERR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Its name is too long, cut off, or has a compression pointer; or a record's name has one that does not lead back.
    Name,
    /// It has no question or several, or ends before what its counts promise.
    Counts,
    /// Its OPT record is cut off, stands in another section, has a name, or is one of two.
    Opt,
    /// Bytes follow its last record.
    Trailing,
}

/// Why a query is not answered from the zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// FORMERR.
    Malformed(Malformed),
    /// NOTIMP: another opcode than QUERY.
    Opcode,
}

/// The header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Dns {
    id: U16,
    flags: U16,
    questions: U16,
    answers: U16,
    authorities: U16,
    additionals: U16,
}

impl Header for Dns {}

impl Dns {
    /// The header of the response to this query. `records`: number of answers, authorities, additionals.
    #[inline]
    pub fn response(&self, rcode: Rcode, aa: bool, tc: bool, questions: u16, records: [u16; 3]) -> Dns {
        let bit = |on: bool, bit: u16| if on { bit } else { 0 };
        let kept = self.flags.get() & (OPCODE | RD | CD);
        let flags = QR | kept | bit(aa, AA) | bit(tc, TC) | (rcode.number() & 0xf);
        let [answers, authorities, additionals] = records.map(U16::new);
        Dns { id: self.id, flags: U16::new(flags), questions: U16::new(questions), answers, authorities, additionals }
    }

    /// The header of a response that took a resolver (RFC 1035 §4.1.1).
    #[must_use]
    pub fn with_recursion(mut self) -> Dns {
        self.flags = U16::new(self.flags.get() | RA);
        self
    }

    /// Whether the client forbids the resolver to validate (RFC 4035 §3.2.2).
    pub fn checking_disabled(&self) -> bool {
        self.flags.get() & CD != 0
    }

    /// The query's number, which the client chose at random.
    #[inline]
    pub fn id(&self) -> u16 {
        self.id.get()
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct QuestionFields {
    rtype: U16,
    class: U16,
}

impl Header for QuestionFields {}

/// What follows a record's name (RFC 1035 §3.2.1).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct RecordFields {
    rtype: U16,
    class: U16,
    ttl: U32,
    len: U16,
}

impl Header for RecordFields {}

/// The OPT pseudo-record, including its root name (RFC 6891 §6.1.2).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Opt {
    name: u8,
    rtype: U16,
    size: U16,
    extended_rcode: u8,
    version: u8,
    flags: U16,
    len: U16,
}

impl Header for Opt {}

impl Opt {
    /// UDP payload bytes that the client accepts.
    #[inline]
    pub fn size(&self) -> usize {
        usize::from(self.size.get().min(EDNS_SIZE)).max(PLAIN_SIZE)
    }

    /// EDNS version.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Whether the client wants DNSSEC records (RFC 3225 §3).
    pub fn dnssec_ok(&self) -> bool {
        self.flags.get() & DO != 0
    }

    /// The OPT record of our response: same DO bit (RFC 3225 §3), no options.
    #[inline]
    pub fn response(&self, rcode: Rcode) -> Opt {
        Opt {
            name: 0,
            rtype: U16::new(rr::OPT),
            size: U16::new(EDNS_SIZE),
            extended_rcode: u8::try_from(rcode.number() >> 4).unwrap_or(0),
            version: 0,
            flags: U16::new(self.flags.get() & DO),
            len: U16::new(0),
        }
    }
}

/// How a query comes, which decides how long its response may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// In a datagram: what the client accepts.
    #[default]
    Udp,
    /// In a stream: what its length prefix can say (RFC 1035 §4.2.2).
    Tcp,
}

/// A query, read; written anew with each one.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// How it comes; reading another query leaves it as it is.
    pub carrier: Carrier,
    /// Whether there is a resolver for names outside the zones; reading another query leaves it as it is.
    pub can_forward: bool,
    /// The question's name.
    pub name: Name,
    /// Its header.
    pub header: Dns,
    /// The record type.
    pub rtype: u16,
    /// The class.
    pub class: u16,
    /// Offset of the end of the question, from the message's first byte.
    pub end: usize,
    /// The EDNS record, if there is one.
    pub edns: Option<Opt>,
    /// Why the rest is not to be used, if it is not.
    pub unreadable: Option<Unreadable>,
}

impl Query {
    /// Reads the message in the first `len` bytes of `buffer`. `None` if it is not a query: too short for a header, or a
    /// response. Such a message must get no response, so that two servers cannot send responses to each other without end.
    #[inline]
    pub fn read(&mut self, buffer: &[u8], len: usize, seed: Seed) -> Option<()> {
        self.header = *Dns::at(buffer.get(..len)?, 0)?;
        if self.header.flags.get() & QR != 0 {
            return None;
        }
        self.unreadable = match self.header.flags.get() & OPCODE {
            0 => self.question(buffer, len, seed).err().map(Unreadable::Malformed),
            _ => Some(Unreadable::Opcode),
        };
        Some(())
    }

    /// Its header and question alone, to be read again elsewhere. `buffer` holds the message.
    pub fn head(&self, buffer: &[u8]) -> Option<([u8; HEAD], usize)> {
        let mut head = [0; HEAD];
        head.get_mut(..self.end)?.copy_from_slice(buffer.get(..self.end)?);
        // No other records.
        head[6..LEN].fill(0);
        Some((head, self.end))
    }

    /// Bytes of the longest response, without an OPT record.
    #[inline]
    pub fn limit(&self) -> usize {
        let longest = match (self.carrier, self.edns) {
            (Carrier::Udp, None) => PLAIN_SIZE,
            (Carrier::Udp, Some(opt)) => opt.size(),
            (Carrier::Tcp, _) => STREAM_SIZE,
        };
        longest - self.edns.map_or(0, |_| size_of::<Opt>())
    }

    #[inline]
    fn question(&mut self, buffer: &[u8], len: usize, seed: Seed) -> Result<(), Malformed> {
        self.edns = None;
        if self.header.questions.get() != 1 {
            return Err(Malformed::Counts);
        }
        let (message, name) = (buffer.get(..len), buffer.get(LEN..));
        let (message, name) = message.zip(name).ok_or(Malformed::Counts)?;
        self.name.read(name, len - LEN, seed).ok_or(Malformed::Name)?;
        let at = LEN + self.name.len();
        let fields = QuestionFields::at(message, at).ok_or(Malformed::Counts)?;
        (self.rtype, self.class) = (fields.rtype.get(), fields.class.get());
        self.end = at + QUESTION_FIELDS;
        let others = [self.header.answers, self.header.authorities, self.header.additionals];
        match (others.map(U16::get), len - self.end) {
            ([0, 0, 0], 0) => Ok(()),
            ([0, 0, 1], 11) => self.lone_opt(message),
            _ => self.records(message),
        }
    }

    /// What nearly every resolver sends behind the question: one OPT without options.
    #[inline]
    fn lone_opt(&mut self, message: &[u8]) -> Result<(), Malformed> {
        match Opt::at(message, self.end).filter(|opt| opt.name == 0 && opt.rtype.get() == rr::OPT && opt.len.get() == 0)
        {
            Some(opt) => {
                self.edns = Some(*opt);
                Ok(())
            }
            None => self.records(message),
        }
    }

    /// Goes through whatever follows the question. Each record has at least eleven bytes: the message's length bounds this.
    #[cold]
    fn records(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut at = self.end;
        let sections = [self.header.answers, self.header.authorities, self.header.additionals];
        for (section, count) in sections.into_iter().enumerate() {
            for _ in 0..count.get() {
                let name = at;
                at = skip_name(message, at)?;
                let Some(fields) = RecordFields::at(message, at) else { return Err(cut(message, at)) };
                at += size_of::<RecordFields>() + usize::from(fields.len.get());
                let is_opt = fields.rtype.get() == rr::OPT;
                if at > message.len() {
                    return Err(if is_opt { Malformed::Opt } else { Malformed::Counts });
                }
                if is_opt {
                    let opt = Opt::at(message, name).filter(|opt| opt.name == 0 && section == 2 && self.edns.is_none());
                    let opt = opt.ok_or(Malformed::Opt)?;
                    let options = message.get(name + size_of::<Opt>()..at).unwrap_or_default();
                    are_options(options).then_some(()).ok_or(Malformed::Opt)?;
                    self.edns = Some(*opt);
                }
            }
        }
        if at == message.len() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

/// What a record that ends too early is: an OPT, if as much of it is there.
fn cut(message: &[u8], at: usize) -> Malformed {
    let rtype = message.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    if rtype == Some(rr::OPT) { Malformed::Opt } else { Malformed::Counts }
}

/// The offset behind the name at `at`. A pointer must lead to an earlier offset (RFC 1035 §4.1.4: "a prior occurrence"), so that
/// none leads in a circle; it is not followed.
fn skip_name(message: &[u8], start: usize) -> Result<usize, Malformed> {
    let mut at = start;
    loop {
        let label = usize::from(*message.get(at).ok_or(Malformed::Counts)?);
        match label {
            0 => return Ok(at + 1),
            0xc0.. => {
                let low = usize::from(*message.get(at + 1).ok_or(Malformed::Counts)?);
                let target = (label & 0x3f) << 8 | low;
                return if (LEN..start).contains(&target) { Ok(at + 2) } else { Err(Malformed::Name) };
            }
            _ if label > MAX_LABEL => return Err(Malformed::Name),
            _ => at += label + 1,
        }
        if at - start >= super::name::MAX_NAME {
            return Err(Malformed::Name);
        }
    }
}

/// How an upstream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edns {
    /// Without an OPT record, as the upstream does not know it.
    None,
    /// With one. `dnssec_ok`: with signatures.
    Opt {
        /// DO (RFC 3225).
        dnssec_ok: bool,
    },
}

/// The query with the number `id` that asks an upstream for `name` (in wire format), recursively.
pub fn upstream_query(id: u16, name: &[u8], rtype: u16, checking_disabled: bool, edns: Edns) -> Vec<u8> {
    let flags = RD | if checking_disabled { CD } else { 0 };
    let header = Dns { id: U16::new(id), flags: U16::new(flags), ..Dns::default() };
    let Edns::Opt { dnssec_ok } = edns else { return asking(header, name, rtype) };
    let header = Dns { additionals: U16::new(1), ..header };
    let opt = Opt {
        name: 0,
        rtype: U16::new(rr::OPT),
        size: U16::new(EDNS_SIZE),
        extended_rcode: 0,
        version: 0,
        flags: U16::new(if dnssec_ok { DO } else { 0 }),
        len: U16::new(0),
    };
    [&asking(header, name, rtype), opt.as_bytes()].concat()
}

/// A query for the records of `name` (in wire format) of type `rtype`.
pub fn query(name: &[u8], rtype: u16) -> Vec<u8> {
    asking(Dns { flags: U16::new(RD), ..Dns::default() }, name, rtype)
}

/// A message with this header and this one question.
fn asking(header: Dns, name: &[u8], rtype: u16) -> Vec<u8> {
    let header = Dns { questions: U16::new(1), ..header };
    let fields = QuestionFields { rtype: U16::new(rtype), class: U16::new(IN) };
    [header.as_bytes(), name, fields.as_bytes()].concat()
}

/// Whether EDNS options fill their record (RFC 6891 §6.1.2). What they are does not matter: unknown ones are ignored.
fn are_options(mut options: &[u8]) -> bool {
    while let Some(([_, _, high, low], rest)) = options.split_first_chunk::<4>() {
        match rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(next) => options = next,
            None => return false,
        }
    }
    options.is_empty()
}

/// The zone's SOA record for an authority section, with pointers to the question where the zone's name is to be
/// ([`SOA_POINTERS`]). The record's TTL limits how long the negative answer is cached (RFC 2308 §3).
pub fn soa(serial: u32, ttl: u32) -> [u8; SOA_LEN] {
    let mut record = [0; SOA_LEN];
    let numbers = [serial, 7200, 1800, 86400, ttl].map(U32::new);
    let parts: [&[u8]; 9] = [
        &QUESTION,
        &rr::SOA.to_be_bytes(),
        &IN.to_be_bytes(),
        &ttl.min(300).to_be_bytes(),
        &SOA_RDATA.to_be_bytes(),
        b"\x02ns\x03dns",
        &QUESTION,
        b"\x0ahostmaster",
        &QUESTION,
    ];
    let mut rest = &mut record[..];
    for part in parts.into_iter().chain([numbers.as_bytes()]) {
        let (here, after) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = after;
    }
    record
}

const SOA_RDATA: u16 = 7 + 2 + 11 + 2 + 20;
/// Bytes of [`soa`]'s record.
pub const SOA_LEN: usize = 12 + SOA_RDATA as usize;
/// Where the pointers to the zone's name are in it.
pub const SOA_POINTERS: [usize; 3] = [0, 19, 32];

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &[u8]) -> Vec<u8> {
        let mut message = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0".to_vec();
        message.extend(name);
        message.extend(b"\0\x01\0\x01");
        message
    }

    fn read(message: &[u8]) -> Option<Query> {
        let mut query = Query::default();
        query.read(message, message.len(), Seed::random()).map(|()| query)
    }

    fn malformed(message: &[u8]) -> Option<Malformed> {
        match read(message).expect("a query").unreadable {
            Some(Unreadable::Malformed(how)) => Some(how),
            Some(Unreadable::Opcode) => panic!("another opcode"),
            None => None,
        }
    }

    /// A query with these additional records.
    fn with_additional(records: &[&[u8]]) -> Vec<u8> {
        let mut message = query(b"\x01a\0");
        message[11] = u8::try_from(records.len()).expect("few");
        records.iter().for_each(|record| message.extend(*record));
        message
    }

    #[test]
    fn a_question_is_read_in_lower_case() {
        let read = read(&query(b"\x03WwW\x02Ab\0")).expect("a query");
        let found = (read.name.as_bytes(), read.rtype, read.class, read.end, read.unreadable);
        assert_eq!(found, (&b"\x03www\x02ab\0"[..], 1, 1, 24, None));
        assert!(read.edns.is_none());
    }

    #[test]
    fn what_is_no_query_is_not_read() {
        assert!(read(b"short").is_none());
        let mut response = query(b"\x01a\0");
        response[2] |= 0x80;
        assert!(read(&response).is_none());
    }

    #[test]
    fn each_malformed_query_has_its_reason() {
        let with = |at: usize, value: u8| {
            let mut message = query(b"\x01a\0");
            message[at] = value;
            message
        };
        assert_eq!(read(&with(2, 0x28)).expect("a query").unreadable, Some(Unreadable::Opcode));
        assert_eq!(malformed(&with(5, 0)), Some(Malformed::Counts), "no question");
        assert_eq!(malformed(&with(5, 2)), Some(Malformed::Counts), "two questions");
        assert_eq!(malformed(&with(7, 1)), Some(Malformed::Counts), "an answer that is not there");
        assert_eq!(malformed(&with(11, 1)), Some(Malformed::Counts), "an additional record that is not there");
        assert_eq!(malformed(&with(12, 0xc0)), Some(Malformed::Name), "a pointer");
        assert_eq!(malformed(&with(12, 60)), Some(Malformed::Name), "beyond the end");
        let too_long = [&b"\x09ninebytes".repeat(26)[..], b"\0"].concat();
        assert_eq!(malformed(&query(&too_long)), Some(Malformed::Name), "261 bytes");
        assert_eq!(malformed(&query(b"\x01a\0")[..18]), Some(Malformed::Counts), "a cut question");
        assert_eq!(malformed(&[&query(b"\x01a\0")[..], b"x"].concat()), Some(Malformed::Trailing));
    }

    /// RFC 1035 §2.3.4 and §4.2.2, RFC 6891 §6.2.3: the OPT record of the response counts, too.
    #[test]
    fn the_carrier_and_the_client_limit_the_response() {
        let with = |carrier, edns: Option<[u8; 2]>| {
            let opt = edns.map(|[high, low]| [&[0, 0, 41, high, low][..], &[0; 6]].concat());
            let message = with_additional(opt.as_deref().as_slice());
            let mut query = Query { carrier, ..Query::default() };
            query.read(&message, message.len(), Seed::random()).expect("a query");
            query.limit()
        };
        for (edns, datagram, stream) in [
            (None, 512, 65535),
            (Some([0, 100]), 512 - 11, 65535 - 11),
            (Some([4, 0]), 1024 - 11, 65535 - 11),
            (Some([0xff, 0xff]), 1232 - 11, 65535 - 11),
        ] {
            assert_eq!((with(Carrier::Udp, edns), with(Carrier::Tcp, edns)), (datagram, stream), "{edns:?}");
        }
    }

    #[test]
    fn an_opt_record_is_found_wherever_it_stands() {
        const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0";
        const OTHER: &[u8] = b"\xc0\x0c\0\x10\0\x01\0\0\0\0\0\x02\x01x";
        const COOKIE: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\x0c\0\x0a\0\x0812345678";
        for records in [&[OPT][..], &[OTHER, OPT], &[OPT, OTHER], &[COOKIE]] {
            let query = read(&with_additional(records)).expect("a query");
            assert_eq!((query.unreadable, query.edns.map(|opt| opt.size())), (None, Some(1232)), "{records:?}");
        }
        let mut authority = with_additional(&[OTHER, OPT]);
        (authority[9], authority[11]) = (1, 1);
        assert!(read(&authority).expect("a query").edns.is_some());
        assert_eq!(malformed(&with_additional(&[OPT, OPT])), Some(Malformed::Opt), "two");
        assert_eq!(malformed(&with_additional(&[&OPT[..9]])), Some(Malformed::Opt), "cut short");
        assert_eq!(malformed(&with_additional(&[&COOKIE[..20]])), Some(Malformed::Opt), "its options cut short");
        let named = [b"\x01x", OPT].concat();
        assert_eq!(malformed(&with_additional(&[&named])), Some(Malformed::Opt), "with a name");
        let mut lies = COOKIE.to_vec();
        lies[14] = 9;
        assert_eq!(malformed(&with_additional(&[&lies])), Some(Malformed::Opt), "an option beyond its end");
        let mut answer = with_additional(&[OPT]);
        (answer[7], answer[11]) = (1, 0);
        assert_eq!(malformed(&answer), Some(Malformed::Opt), "in the answer section");
    }

    #[test]
    fn no_pointer_leads_in_a_circle() {
        // The record's name starts at 19.
        for (pointer, is_fine) in
            [(b"\xc0\x0c", true), (b"\xc0\x13", false), (b"\xc0\x14", false), (b"\xc0\x05", false)]
        {
            let record = [&pointer[..], b"\0\x10\0\x01\0\0\0\0\0\0"].concat();
            let expected = (!is_fine).then_some(Malformed::Name);
            assert_eq!(malformed(&with_additional(&[&record])), expected, "{pointer:?}");
        }
    }

    #[test]
    fn the_soa_record_has_the_length_in_its_header() {
        let record = soa(7, 5);
        assert_eq!(&record[..12], b"\xc0\x0c\0\x06\0\x01\0\0\0\x05\0\x2a");
        assert_eq!(&record[SOA_LEN - 20..SOA_LEN - 16], &7u32.to_be_bytes());
        assert!(SOA_POINTERS.iter().all(|&at| record[at..at + 2] == [0xc0, 12]));
    }
}

//! DNS messages (RFC 1035 §4.1) and EDNS (RFC 6891), as far as an authoritative answer needs them.
//!
//! ```text
//!  0    2       4         6         8         10        12
//!  │ id │ flags │ qdcount │ ancount │ nscount │ arcount │ question: name, type, class │ … │ OPT
//!         QR opcode AA TC RD RA  rcode
//! ```

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::zone::{MAX_NAME, rr};
use crate::header::Header;

/// Bytes of the header.
pub const LEN: usize = 12;
/// Class IN.
pub const IN: u16 = 1;
/// The UDP payload size that every client must accept (RFC 1035 §2.3.4).
pub const PLAIN_SIZE: usize = 512;
/// The largest UDP payload we send or accept, even if the client allows more. It fits every path (DNS flag day 2020).
pub const EDNS_SIZE: u16 = 1232;

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
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
    /// The code in a header, if it has a name here. The upper bits of an extended code are not in it.
    fn in_header(number: u16) -> Option<Rcode> {
        use Rcode::{FormErr, NoError, NotImp, NxDomain, Refused, ServFail};
        [NoError, FormErr, ServFail, NxDomain, NotImp, Refused].into_iter().find(|rcode| rcode.number() == number)
    }

    fn number(self) -> u16 {
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

/// The header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
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
    pub fn response(&self, rcode: Rcode, aa: bool, tc: bool, questions: u16, records: [u16; 3]) -> Dns {
        let bit = |on: bool, bit: u16| if on { bit } else { 0 };
        let kept = self.flags.get() & (OPCODE | RD);
        let flags = QR | kept | bit(aa, AA) | bit(tc, TC) | (rcode.number() & 0xf);
        let [answers, authorities, additionals] = records.map(U16::new);
        Dns { id: self.id, flags: U16::new(flags), questions: U16::new(questions), answers, authorities, additionals }
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct QuestionFields {
    rtype: U16,
    class: U16,
}

impl Header for QuestionFields {}

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
    pub fn size(&self) -> usize {
        usize::from(self.size.get().min(EDNS_SIZE)).max(PLAIN_SIZE)
    }

    /// EDNS version.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// The OPT record of our response: same DO bit (RFC 3225 §3), no options.
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

/// A buffer for a name in lower case. It is on the caller's stack, so the name is written where it is used.
#[derive(Debug)]
pub struct NameBuffer([u8; MAX_NAME]);

impl Default for NameBuffer {
    fn default() -> NameBuffer {
        NameBuffer([0; MAX_NAME])
    }
}

impl NameBuffer {
    /// The name at `at` in lower case, including the root label. Compression pointers are not accepted: a question has
    /// nothing to point to. `None` if the name is cut off, too long, or has a label of more than 63 bytes.
    fn read(&mut self, message: &[u8], at: usize) -> Option<&[u8]> {
        let name = message.get(at..)?;
        let len = name_len(name)?;
        let room = self.0.get_mut(..len)?;
        room.copy_from_slice(name.get(..len)?);
        // Length bytes are below 64, so they are not letters. The whole name can be converted at once.
        room.make_ascii_lowercase();
        Some(room)
    }
}

/// Length of the name at the start, including the root label.
fn name_len(bytes: &[u8]) -> Option<usize> {
    let mut len = 0;
    loop {
        let label = usize::from(*bytes.get(len)?);
        len += label + 1;
        if label > 63 || len > MAX_NAME {
            return None;
        }
        if label == 0 {
            return Some(len);
        }
    }
}

/// A parsed query.
#[derive(Debug)]
pub struct Query<'a> {
    /// Its header.
    pub header: Dns,
    /// The question, or the response code that reports why it could not be read.
    pub question: Result<Question<'a>, Rcode>,
}

/// One question.
#[derive(Debug)]
pub struct Question<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The record type.
    pub rtype: u16,
    /// The class.
    pub class: u16,
    /// Offset of the end of the question section, from the message's first byte.
    pub end: usize,
    /// The EDNS record, if there is one.
    pub edns: Option<Opt>,
}

impl<'a> Query<'a> {
    /// Reads `message`. `None` if it is not a query: too short for a header, or a response. Such a message must get no
    /// response, so that two servers cannot send responses to each other without end.
    pub fn read(message: &[u8], room: &'a mut NameBuffer) -> Option<Query<'a>> {
        let header = *Dns::at(message, 0)?;
        if header.flags.get() & QR != 0 {
            return None;
        }
        let question = match (header.flags.get() & OPCODE, header.questions.get()) {
            (0, 1) => Question::read(message, &header, room).ok_or(Rcode::FormErr),
            (0, 0) => Err(Rcode::ServFail),
            (0, _) => Err(Rcode::FormErr),
            _ => Err(Rcode::NotImp),
        };
        Some(Query { header, question })
    }
}

impl<'a> Question<'a> {
    fn read(message: &[u8], header: &Dns, room: &'a mut NameBuffer) -> Option<Question<'a>> {
        let name = room.read(message, LEN)?;
        let at = LEN + name.len();
        let question = QuestionFields::at(message, at)?;
        let end = at + size_of::<QuestionFields>();
        // The OPT record is found without parsing only if the additional section directly follows the question.
        let bare = header.answers.get() == 0 && header.authorities.get() == 0 && header.additionals.get() > 0;
        let edns = Opt::at(message, end).filter(|opt| bare && opt.name == 0 && opt.rtype.get() == rr::OPT).copied();
        Some(Question { name, rtype: question.rtype.get(), class: question.class.get(), end, edns })
    }
}

/// A query for the records of `name` (in wire format) of type `rtype`.
pub fn query(name: &[u8], rtype: u16) -> Vec<u8> {
    let header = Dns {
        id: U16::ZERO,
        flags: U16::new(RD),
        questions: U16::new(1),
        answers: U16::ZERO,
        authorities: U16::ZERO,
        additionals: U16::ZERO,
    };
    let fields = QuestionFields { rtype: U16::new(rtype), class: U16::new(IN) };
    [header.as_bytes(), name, fields.as_bytes()].concat()
}

/// Of a response: the code in its header, whether it is truncated, and its number of answers.
pub fn outcome(response: &[u8]) -> Option<(Rcode, bool, u16)> {
    let header = Dns::at(response, 0)?;
    let flags = header.flags.get();
    Some((Rcode::in_header(flags & 0xf)?, flags & TC != 0, header.answers.get()))
}

/// The zone's SOA record for an authority section. `origin` is the offset of the zone's name in the message. The record's
/// TTL limits how long the negative answer is cached (RFC 2308 §3).
pub fn soa(origin: u16, serial: u32, ttl: u32) -> [u8; SOA_LEN] {
    let pointer = (0xc000 | origin).to_be_bytes();
    let mut record = [0; SOA_LEN];
    let numbers = [serial, 7200, 1800, 86400, ttl].map(U32::new);
    let parts: [&[u8]; 9] = [
        &pointer,
        &rr::SOA.to_be_bytes(),
        &IN.to_be_bytes(),
        &ttl.min(300).to_be_bytes(),
        &SOA_RDATA.to_be_bytes(),
        b"\x02ns\x03dns",
        &pointer,
        b"\x0ahostmaster",
        &pointer,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &[u8]) -> Vec<u8> {
        let mut message = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0".to_vec();
        message.extend(name);
        message.extend(b"\0\x01\0\x01");
        message
    }

    #[test]
    fn a_question_is_read_in_lower_case() {
        let mut room = NameBuffer::default();
        let read = Query::read(&query(b"\x03WwW\x02Ab\0"), &mut room).expect("a query");
        let question = read.question.expect("readable");
        assert_eq!((question.name, question.rtype, question.class, question.end), (&b"\x03www\x02ab\0"[..], 1, 1, 24));
        assert!(question.edns.is_none());
    }

    #[test]
    fn each_unreadable_message_has_its_own_code() {
        let code = |message: &[u8]| Query::read(message, &mut NameBuffer::default()).map(|q| q.question.err());
        assert_eq!(code(b"short"), None);
        let mut response = query(b"\x01a\0");
        response[2] |= 0x80;
        assert_eq!(code(&response), None);
        let with = |at: usize, value: u8| {
            let mut message = query(b"\x01a\0");
            message[at] = value;
            code(&message)
        };
        assert_eq!(with(2, 0x28), Some(Some(Rcode::NotImp)));
        assert_eq!(with(5, 0), Some(Some(Rcode::ServFail)));
        assert_eq!(with(5, 2), Some(Some(Rcode::FormErr)));
        assert_eq!(with(12, 0xc0), Some(Some(Rcode::FormErr)), "a pointer");
        assert_eq!(with(12, 60), Some(Some(Rcode::FormErr)), "beyond the end");
        let long: Vec<u8> = std::iter::repeat_n(b"\x0912345678x".iter().copied(), 26).flatten().chain([0]).collect();
        assert_eq!(code(&query(&long)), Some(Some(Rcode::FormErr)));
    }

    #[test]
    fn the_soa_record_has_the_length_in_its_header() {
        let record = soa(12, 7, 5);
        assert_eq!(&record[..12], b"\xc0\x0c\0\x06\0\x01\0\0\0\x05\0\x2a");
        assert_eq!(&record[SOA_LEN - 20..SOA_LEN - 16], &7u32.to_be_bytes());
    }
}

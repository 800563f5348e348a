//! Records in wire format (RFC 1035 §3.2.1), prepared when a Service is compiled and copied into answers as they are.
//!
//! ```text
//!  Set     answers: │ c0 0c │ type │ IN │ TTL │ length │ data │ …   the owner is a pointer to the question's name
//!          extras:  │ owner │ type │ IN │ TTL │ length │ data │ …   for the additional section
//!
//!  Node    │ name length │ sets │ head of each set │ name │ answers and extras of each set │
//! ```
//!
//! A [`Node`] is one piece of memory: the name, its index and all of its records are on one or two cache lines.

use std::net::IpAddr;
use std::sync::Arc;

use zerocopy::byteorder::{LE, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::message;

/// Record types that have a name here (RFC 1035 §3.2.2, RFC 3596, RFC 2782).
pub mod rr {
    /// A host address.
    pub const A: u16 = 1;
    /// An authoritative name server.
    pub const NS: u16 = 2;
    /// The canonical name for an alias.
    pub const CNAME: u16 = 5;
    /// Start of a zone of authority.
    pub const SOA: u16 = 6;
    /// A domain name pointer.
    pub const PTR: u16 = 12;
    /// Host information; the reply to ANY (RFC 8482).
    pub const HINFO: u16 = 13;
    /// Text strings.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// The location of a service.
    pub const SRV: u16 = 33;
    /// EDNS (RFC 6891).
    pub const OPT: u16 = 41;
    /// Incremental zone transfer (RFC 1995).
    pub const IXFR: u16 = 251;
    /// Zone transfer.
    pub const AXFR: u16 = 252;
    /// All records.
    pub const ANY: u16 = 255;
}

/// The pointer to the question's name, which starts right behind the header (RFC 1035 §4.1.4).
pub const QUESTION: [u8; 2] = [0xc0, 0x0c];

/// Bytes in front of a record's data if its owner is a pointer.
pub const RECORD: usize = 12;

/// The most bytes of one set. With the longest question, an alias, and OPT they fit the longest message. A set of more records is cut.
const MAX_SET: usize = 65_535 - message::LEN - super::name::MAX_NAME - 4 - (RECORD + super::name::MAX_NAME) - 11;

/// Offsets up to this can be pointed to.
const MAX_POINTER: usize = 0x3fff;

/// The type and data of an address record.
pub fn address(address: &IpAddr) -> (u16, [u8; 16], usize) {
    let mut data = [0; 16];
    match address {
        IpAddr::V4(v4) => {
            data[..4].copy_from_slice(&v4.octets());
            (rr::A, data, 4)
        }
        IpAddr::V6(v6) => (rr::AAAA, v6.octets(), 16),
    }
}

/// What is in front of a record's data.
pub fn head(owner: [u8; 2], rtype: u16, ttl: u32, len: usize) -> [u8; RECORD] {
    let [r0, r1] = rtype.to_be_bytes();
    let [c0, c1] = message::IN.to_be_bytes();
    let [t0, t1, t2, t3] = ttl.to_be_bytes();
    let [l0, l1] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    [owner[0], owner[1], r0, r1, c0, c1, t0, t1, t2, t3, l0, l1]
}

/// The weight of each of the SRV records made of this many addresses and ports: a hundredth part, as CoreDNS shares them out.
pub fn srv_weight(candidates: usize) -> u16 {
    let share = 100usize.checked_div(candidates).unwrap_or(100);
    u16::try_from(share.max(1)).unwrap_or(1)
}

/// A pointer to an offset in the message.
pub fn pointer(offset: usize) -> Option<[u8; 2]> {
    let offset = u16::try_from(offset).ok().filter(|&offset| usize::from(offset) <= MAX_POINTER)?;
    Some((0xc000 | offset).to_be_bytes())
}

/// Records of one name and type, while they are collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    rtype: u16,
    count: u16,
    extra: u16,
    is_cut: bool,
    answers: Vec<u8>,
    extras: Vec<u8>,
}

impl Set {
    /// No records of this type.
    pub fn new(rtype: u16) -> Set {
        Set { rtype, ..Set::default() }
    }

    /// Records of one type over `data`.
    pub fn of<'a>(rtype: u16, ttl: u32, data: impl IntoIterator<Item = &'a [u8]>) -> Set {
        let mut set = Set::new(rtype);
        for data in data {
            let _ = set.push(ttl, data);
        }
        set
    }

    /// Adds a record. Returns the offset of its data from the first answer, or `None` if no message could hold it.
    pub fn push(&mut self, ttl: u32, data: &[u8]) -> Option<usize> {
        if self.answers.len() + RECORD + data.len() > MAX_SET {
            self.is_cut = true;
            return None;
        }
        self.answers.extend(head(QUESTION, self.rtype, ttl, data.len()));
        let at = self.answers.len();
        self.answers.extend(data);
        self.count += 1;
        Some(at)
    }

    /// Adds an address of `owner` for the additional section. The owner's name is at `at` among the answers, which follow a
    /// question for a name of `question` bytes. An address that fits no message is left out.
    pub fn push_extra(&mut self, ttl: u32, owner: &[u8], (at, question): (usize, usize), of: &IpAddr) {
        let (rtype, data, len) = address(of);
        let target = message::LEN + question + message::QUESTION_FIELDS + at;
        let pointer = pointer(target);
        let name = pointer.as_ref().map_or(owner, |pointer| pointer);
        if self.answers.len() + self.extras.len() + name.len() + RECORD + len > MAX_SET {
            return;
        }
        self.extras.extend(name);
        self.extras.extend(&head(QUESTION, rtype, ttl, len)[2..]);
        self.extras.extend(&data[..len]);
        self.extra += 1;
    }

    /// Number of answers.
    pub fn count(&self) -> u16 {
        self.count
    }
}

/// The entry of a set in its node.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Head {
    rtype: U16<LE>,
    count: U16<LE>,
    extra: U16<LE>,
    answers_len: U16<LE>,
    extras_len: U16<LE>,
    /// 1: there are more records than any message holds.
    is_cut: u8,
    /// Where its answers start; its extras follow.
    at: U32<LE>,
}

/// Bytes in front of the first head.
const NODE: usize = 2;

/// A name with all of its records, as one piece of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node(Arc<[u8]>);

impl Node {
    /// The node of `name` (wire format, lower case). A CNAME must be the only set (RFC 1034 §3.6.2).
    pub fn new(name: &[u8], sets: &[Set]) -> Node {
        let sets: Vec<&Set> = sets.iter().filter(|set| set.count > 0).collect();
        let mut at = NODE + sets.len() * size_of::<Head>() + name.len();
        let mut bytes = Vec::with_capacity(at + sets.iter().map(|s| s.answers.len() + s.extras.len()).sum::<usize>());
        let small = |len: usize| u8::try_from(len).unwrap_or(u8::MAX);
        bytes.extend([small(name.len()), small(sets.len())]);
        for set in &sets {
            let len = |bytes: &[u8]| U16::new(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
            let head = Head {
                rtype: U16::new(set.rtype),
                count: U16::new(set.count),
                extra: U16::new(set.extra),
                answers_len: len(&set.answers),
                extras_len: len(&set.extras),
                is_cut: set.is_cut.into(),
                at: U32::new(u32::try_from(at).unwrap_or(u32::MAX)),
            };
            bytes.extend(head.as_bytes());
            at += set.answers.len() + set.extras.len();
        }
        bytes.extend(name);
        for set in &sets {
            bytes.extend(&set.answers);
            bytes.extend(&set.extras);
        }
        Node(bytes.into())
    }

    /// Its memory, to be prefetched.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    /// The name.
    #[inline]
    pub fn name(&self) -> &[u8] {
        let [len, sets] = self.lengths();
        let start = NODE + sets * size_of::<Head>();
        self.0.get(start..start + len).unwrap_or_default()
    }

    #[inline]
    fn lengths(&self) -> [usize; 2] {
        self.0.first_chunk::<NODE>().map_or([0; 2], |lengths| lengths.map(usize::from))
    }

    fn heads(&self) -> &[Head] {
        let [_, sets] = self.lengths();
        let heads = self.0.get(NODE..NODE + sets * size_of::<Head>()).unwrap_or_default();
        <[Head]>::ref_from_bytes(heads).unwrap_or_default()
    }

    /// All sets.
    pub fn sets(&self) -> impl Iterator<Item = Records<'_>> {
        self.heads().iter().map(|head| self.records(head))
    }

    /// The answer to a query for `rtype`: the alias if it has one, whatever the type; `None` means "no data".
    #[inline]
    pub fn answer(&self, rtype: u16) -> Option<Records<'_>> {
        let head = self.heads().iter().find(|head| head.rtype.get() == rtype || head.rtype.get() == rr::CNAME)?;
        Some(self.records(head))
    }

    #[inline]
    fn records(&self, head: &Head) -> Records<'_> {
        let at = usize::try_from(head.at.get()).unwrap_or(usize::MAX);
        let records = self.0.get(at..).unwrap_or_default();
        let (answers, rest) = records.split_at_checked(head.answers_len.get().into()).unwrap_or_default();
        let extras = rest.get(..head.extras_len.get().into()).unwrap_or_default();
        let (rtype, count, extra) = (head.rtype.get(), head.count.get(), head.extra.get());
        Records { rtype, count, extra, is_cut: head.is_cut != 0, answers, extras }
    }
}

/// Records of one name and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Records<'a> {
    /// Their type.
    pub rtype: u16,
    /// Number of answers.
    pub count: u16,
    /// Number of records for the additional section.
    pub extra: u16,
    /// Whether there are more than any message holds.
    pub is_cut: bool,
    /// The answers; each begins with [`QUESTION`].
    pub answers: &'a [u8],
    /// The records for the additional section. They are right only behind all answers, in that order.
    pub extras: &'a [u8],
}

impl Records<'_> {
    /// Data of the first answer.
    pub fn data(&self) -> Option<&[u8]> {
        let len = usize::from(u16::from_be_bytes(*self.answers.get(RECORD - 2..)?.first_chunk()?));
        self.answers.get(RECORD..RECORD + len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gives_back_what_it_was_made_of() {
        let mut srv = Set::new(rr::SRV);
        let at = srv.push(5, b"\0\0\0\x64\0\x50\x01a\0").expect("fits");
        srv.push_extra(5, b"\x01a\0", (at + 6, 3), &[10, 0, 0, 1].into());
        let a = Set::of(rr::A, 5, [&[10, 0, 0, 1][..], &[10, 0, 0, 2]]);
        let node = Node::new(b"\x01a\0", &[a.clone(), Set::new(rr::AAAA), srv]);
        assert_eq!((node.name(), node.sets().count()), (&b"\x01a\0"[..], 2), "no empty set");
        let found = node.answer(rr::A).expect("records");
        assert_eq!((found.count, found.answers, found.data()), (2, &*a.answers, Some(&[10, 0, 0, 1][..])));
        let found = node.answer(rr::SRV).expect("records");
        // The owner is the target of the record: behind the header, the question, the record's head, and its numbers.
        assert_eq!(found.extras[..2], [0xc0, 12 + 7 + 12 + 6]);
        assert_eq!((found.count, found.extra, found.extras.len()), (1, 1, 16));
        assert_eq!(node.answer(rr::TXT), None);
    }

    #[test]
    fn an_alias_answers_every_type() {
        let alias = Node::new(b"\x01a\0", &[Set::of(rr::CNAME, 5, [&b"\x01b\0"[..]])]);
        assert_eq!(alias.answer(rr::AAAA).map(|set| (set.rtype, set.count)), Some((rr::CNAME, 1)));
    }

    #[test]
    fn a_set_is_cut_to_what_a_message_holds() {
        let addresses: Vec<[u8; 4]> = (0..10_000u32).map(u32::to_be_bytes).collect();
        let set = Set::of(rr::A, 5, addresses.iter().map(<[u8; 4]>::as_slice));
        assert_eq!(usize::from(set.count()), MAX_SET / 16);
        let node = Node::new(b"\0", &[set]);
        let found = node.answer(rr::A).expect("records");
        assert_eq!((found.answers.len(), found.is_cut), (MAX_SET / 16 * 16, true));
        let whole = Node::new(b"\0", &[Set::of(rr::A, 5, addresses[..MAX_SET / 16].iter().map(<[u8; 4]>::as_slice))]);
        assert_eq!(whole.answer(rr::A).map(|set| set.is_cut), Some(false));
    }
}

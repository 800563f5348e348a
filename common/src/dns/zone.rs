//! The compiled DNS zone: maps names in wire format to answers in wire format.
//!
//! ```text
//!   \x0fbackend-service\x07default\x03svc\x07cluster\x05local\0   ─▶  Node { CNAME │ A: 1 record, 16 bytes │ ... }
//! ```
//!
//! A worker converts the query's name to lower case on its stack, finds the [`Node`], and copies an [`RrSet`] after the
//! question. The records start with the pointer 0xC00C to the query's own name (RFC 1035 §4.1.4), so the answer has the
//! query's spelling. A name without a node does not exist. A node without the requested type is "no data" (RFC 2308).

use std::sync::Arc;

use crate::sharded::Sharded;

/// Record types that have a name here (RFC 1035 §3.2.2, RFC 3596, RFC 2782).
pub mod rr {
    /// A host address.
    pub const A: u16 = 1;
    /// The canonical name for an alias.
    pub const CNAME: u16 = 5;
    /// Start of a zone of authority.
    pub const SOA: u16 = 6;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// EDNS (RFC 6891).
    pub const OPT: u16 = 41;
}

/// Longest name on the wire, bytes (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 255;

/// Records of one name and type, ready to be copied into an answer section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RrSet {
    /// Number of records.
    pub count: u16,
    /// The records in wire format; each begins with 0xC00C.
    pub bytes: Box<[u8]>,
}

/// The records of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The alias, which is the answer to a query of any type.
    pub cname: Option<RrSet>,
    /// Records by type.
    pub sets: Vec<(u16, RrSet)>,
}

impl Node {
    /// The answer to a query for `rtype`; `None` means "no data".
    pub fn answer(&self, rtype: u16) -> Option<&RrSet> {
        self.cname.as_ref().or_else(|| self.sets.iter().find(|(t, _)| *t == rtype).map(|(_, set)| set))
    }
}

/// The zone of the cluster domain.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// The zone's name on the wire, lower case, ending in the root label.
    pub origin: Box<[u8]>,
    /// TTL of the records, in seconds.
    pub ttl: u32,
    /// The SOA's serial number.
    pub serial: u32,
    /// Names (wire format, lower case) and their records.
    pub names: Sharded<Box<[u8]>, Arc<Node>>,
}

impl Zone {
    /// Whether `name` (wire format, lower case) is the origin or below it.
    pub fn holds(&self, name: &[u8]) -> bool {
        let Some(cut) = name.len().checked_sub(self.origin.len()) else { return false };
        !self.origin.is_empty() && name[cut..] == *self.origin && is_label_boundary(name, cut)
    }

    /// The records of `name` (wire format, lower case); `None` if the name does not exist.
    pub fn find(&self, name: &[u8]) -> Option<&Node> {
        self.names.get(name).map(|node| &**node)
    }
}

/// Whether a label of `name` starts at `at`.
fn is_label_boundary(name: &[u8], at: usize) -> bool {
    let mut here = 0;
    while here < at {
        match name.get(here) {
            Some(&len) => here += usize::from(len) + 1,
            None => return false,
        }
    }
    here == at
}

/// `name` (dotted text, with or without the final dot) in wire format, lower case. `None` if a label is empty or longer
/// than 63 bytes, or the whole name is longer than [`MAX_NAME`].
pub fn to_wire(name: &str) -> Option<Box<[u8]>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut wire = Vec::with_capacity(name.len() + 2);
    if !name.is_empty() {
        for label in name.split('.') {
            let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
            wire.push(len);
            wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        }
    }
    wire.push(0);
    (wire.len() <= MAX_NAME).then(|| wire.into_boxed_slice())
}

/// `name` (on the wire) as text with the final dot. Bytes that are not printable and dots in labels are escaped (RFC 1035 §5.1).
pub fn from_wire(mut name: &[u8]) -> String {
    let mut text = String::new();
    while let Some((&len, rest)) = name.split_first() {
        let (label, rest) = rest.split_at(rest.len().min(usize::from(len)));
        if len == 0 {
            break;
        }
        for &byte in label {
            match byte {
                b'.' | b'\\' => text.extend(['\\', char::from(byte)]),
                b'!'..=b'~' => text.push(char::from(byte)),
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
        text.push('.');
        name = rest;
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        Zone { origin: to_wire("cluster.local").expect("a name"), ttl: 5, serial: 1, names: Sharded::default() }
    }

    #[test]
    fn names_go_to_the_wire_in_lower_case() {
        assert_eq!(&*to_wire("Ab.c.").expect("a name"), b"\x02ab\x01c\0");
        assert_eq!(&*to_wire("").expect("the root"), b"\0");
        assert_eq!(to_wire("a..b"), None);
        assert_eq!(to_wire(&"x".repeat(64)), None);
        assert_eq!(to_wire(&"abcdefg.".repeat(40)), None);
    }

    #[test]
    fn the_zone_holds_what_ends_in_it_at_a_label() {
        let zone = zone();
        let holds = |name: &str| zone.holds(&to_wire(name).expect("a name"));
        assert!(holds("cluster.local") && holds("a.svc.cluster.local"));
        assert!(!holds("local") && !holds("xcluster.local") && !holds("example.com"));
        // A label whose bytes look like the origin's length byte and name is still one label.
        assert!(!zone.holds(b"\x0fx\x07cluster\x05local\0"));
    }

    #[test]
    fn an_alias_answers_every_type() {
        let set = |count| RrSet { count, bytes: Box::default() };
        let alias = Node { cname: Some(set(1)), sets: vec![] };
        assert_eq!(alias.answer(rr::AAAA), Some(&set(1)));
        let host = Node { cname: None, sets: vec![(rr::A, set(2))] };
        assert_eq!((host.answer(rr::A), host.answer(rr::AAAA)), (Some(&set(2)), None));
    }

    #[test]
    fn names_come_back_as_text() {
        for name in ["web.default.svc.cluster.local.", "."] {
            assert_eq!(from_wire(&to_wire(name).expect("a name")), name);
        }
        assert_eq!(from_wire(b"\x05a.b\\\x1b\x01c\0"), "a\\.b\\\\\\027.c.");
        // Cut off.
        assert_eq!(from_wire(b"\x05ab"), "ab.");
    }
}

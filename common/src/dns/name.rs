//! Names in wire format (RFC 1035 §3.1): a query's own in lower case with its hash, and names as text.
//!
//! ```text
//!  \x03Web\x07default\x03svc\x07cluster\x05local\0  ─▶  lower case, where each label starts, hash
//! ```
//!
//! Lower-casing and hashing are one pass over blocks of 16 bytes. Length bytes are below 64, so none is taken for a letter.

/// Longest name on the wire, in bytes (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 255;

/// Longest label, in bytes.
pub const MAX_LABEL: usize = 63;

/// The most labels of a name, without the root: each has at least two bytes.
const MAX_LABELS: usize = MAX_NAME / 2;

/// Bytes that are hashed at once.
const BLOCK: usize = 16;

/// Makes the hashes of one process differ from those of another, so that nobody can prepare names with the same hash.
#[derive(Clone, Copy, Debug)]
pub struct Seed([u64; 2]);

impl Seed {
    /// A random one.
    pub fn random() -> Seed {
        let state = ahash::RandomState::new();
        Seed([state.hash_one(1u8) | 1, state.hash_one(2u8) | 1])
    }
}

/// A name in lower case.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Name {
    /// The name; zero from its end to the end of the block.
    bytes: [u8; MAX_NAME + 1],
    /// Offsets of the labels.
    labels: [u8; MAX_LABELS + 1],
    len: u8,
    count: u8,
    hash: u64,
}

impl Default for Name {
    fn default() -> Name {
        Name { bytes: [0; MAX_NAME + 1], labels: [0; MAX_LABELS + 1], len: 1, count: 0, hash: 0 }
    }
}

impl Name {
    /// Reads the name at the start of `bytes`, of which the first `len` are the message's; the others may be anything. `None`
    /// if the name is cut off, too long, or has a label of more than 63 bytes. A compression pointer is such a label: a
    /// question has nothing to point to.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], len: usize, seed: Seed) -> Option<()> {
        let mut at = 0;
        let mut count = 0;
        loop {
            let label = usize::from(*bytes.get(at).filter(|_| at < len)?);
            if label == 0 {
                break;
            }
            if label > MAX_LABEL || at + label + 2 > MAX_NAME {
                return None;
            }
            *self.labels.get_mut(count)? = u8::try_from(at).ok()?;
            count += 1;
            at += label + 1;
        }
        self.len = u8::try_from(at + 1).ok()?;
        self.count = u8::try_from(count).ok()?;
        self.fill(bytes, seed);
        Some(())
    }

    /// A name put together from parts in wire format; `None` if that is no name.
    pub fn of(parts: &[&[u8]], seed: Seed) -> Option<Name> {
        let mut bytes = [0; MAX_NAME + 1];
        let mut at = 0;
        for part in parts {
            bytes.get_mut(at..at + part.len())?.copy_from_slice(part);
            at += part.len();
        }
        let mut name = Name::default();
        name.read(&bytes, at, seed)?;
        (name.len() == at).then_some(name)
    }

    /// Copies the name from `bytes`, in lower case, and hashes it.
    #[inline]
    fn fill(&mut self, bytes: &[u8], Seed([first, second]): Seed) {
        let len = self.len();
        let mut state = first ^ u64::from(self.len);
        for (index, out) in self.bytes.chunks_exact_mut(BLOCK).enumerate() {
            let at = index * BLOCK;
            if at >= len {
                break;
            }
            let block = block(bytes, at, len - at).map(lower);
            for (half, word) in out.chunks_exact_mut(8).zip(block) {
                half.copy_from_slice(&word.to_le_bytes());
            }
            state = fold(block[0] ^ second, block[1] ^ state);
        }
        self.hash = fold(state, second);
    }

    /// Its bytes, the root label included.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or_default()
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Never: the root has a byte too.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Number of labels, without the root.
    #[inline]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Its hash.
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Offset of label `index`, from the left; of the root label if there are no more.
    #[inline]
    pub fn offset(&self, index: usize) -> usize {
        match self.labels.get(index).filter(|_| index < self.count()) {
            Some(&at) => usize::from(at),
            None => self.len() - 1,
        }
    }

    /// Label `index`, from the left, without its length byte.
    pub fn label(&self, index: usize) -> &[u8] {
        self.bytes.get(self.offset(index) + 1..self.offset(index + 1)).unwrap_or_default()
    }

    /// The name without its first `labels` labels.
    #[inline]
    pub fn parent(&self, labels: usize) -> &[u8] {
        self.as_bytes().get(self.offset(labels)..).unwrap_or_default()
    }

    /// The first `labels` labels, without a root label.
    pub fn head(&self, labels: usize) -> &[u8] {
        self.as_bytes().get(..self.offset(labels)).unwrap_or_default()
    }
}

/// 16 bytes at `at`, of which only the first `len` count; the others are zero.
#[inline]
fn block(bytes: &[u8], at: usize, len: usize) -> [u64; 2] {
    let Some((block, _)) = bytes.get(at..).and_then(|rest| rest.split_first_chunk::<BLOCK>()) else {
        return short_block(bytes, at, len);
    };
    let wide = u128::from_le_bytes(*block);
    let wide = if len < BLOCK { wide & ((1 << (8 * len)) - 1) } else { wide };
    halves(wide)
}

/// The same close to the end of the buffer.
#[cold]
fn short_block(bytes: &[u8], at: usize, len: usize) -> [u64; 2] {
    let mut block = [0; BLOCK];
    block.iter_mut().zip(bytes.iter().skip(at)).take(len).for_each(|(to, from)| *to = *from);
    halves(u128::from_le_bytes(block))
}

#[inline]
fn halves(wide: u128) -> [u64; 2] {
    [wide & u128::from(u64::MAX), wide >> 64].map(|half| u64::try_from(half).unwrap_or(0))
}

/// The ASCII capitals among eight bytes in lower case.
#[inline]
fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    let low = word & !HIGH;
    // Each byte's high bit: from 'A' on, and beyond 'Z'.
    let from_a = low + (0x80 - 0x41) * ONES;
    let beyond_z = low + (0x7f - 0x5a) * ONES;
    let capital = from_a & !beyond_z & !word & HIGH;
    word | capital >> 2
}

/// Both halves of a product, as one.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let [low, high] = halves(u128::from(a) * u128::from(b));
    low ^ high
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

    const SEED: Seed = Seed([3, 5]);

    fn read(bytes: &[u8]) -> Option<Name> {
        let mut name = Name::default();
        name.read(bytes, bytes.len(), SEED).map(|()| name)
    }

    #[test]
    fn a_name_is_read_in_lower_case_with_its_labels() {
        let name = read(b"\x03WwW\x02Ab\0\0\x01\0\x01").expect("a name");
        assert_eq!(name.as_bytes(), b"\x03www\x02ab\0");
        assert_eq!((name.count(), name.label(0), name.label(1), name.label(2)), (2, &b"www"[..], &b"ab"[..], &b""[..]));
        assert_eq!((name.parent(1), name.head(1)), (&b"\x02ab\0"[..], &b"\x03www"[..]));
        let root = read(b"\0").expect("the root");
        assert_eq!((root.as_bytes(), root.count()), (&b"\0"[..], 0));
    }

    #[test]
    fn every_byte_but_a_capital_stays_as_it_is() {
        for first in 0..=255u8 {
            let label: Vec<u8> = (0..20).map(|n| first.wrapping_add(n)).collect();
            let wire = [&[20], &*label, &[0]].concat();
            let name = read(&wire).expect("a name");
            assert_eq!(name.label(0), label.to_ascii_lowercase(), "from {first}");
        }
    }

    #[test]
    fn the_hash_depends_on_the_name_alone() {
        let mut hashes = std::collections::HashSet::new();
        for len in 1..=60usize {
            let lower = [&[u8::try_from(len).expect("short")], &vec![b'x'; len][..], &[0]].concat();
            let alone = read(&lower).expect("a name");
            // Within a message, and in capitals.
            let within = [lower.to_ascii_uppercase(), vec![0xff; 40]].concat();
            let within = read(&within).expect("a name");
            assert_eq!((alone.hash(), alone.as_bytes()), (within.hash(), within.as_bytes()), "{len}");
            assert!(hashes.insert(alone.hash()), "{len}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert!(read(b"").is_none() && read(b"\x03ab").is_none() && read(b"\x03abc").is_none());
        assert!(read(b"\xc0\x0c").is_none(), "a pointer");
        let long: Vec<u8> = std::iter::repeat_n(b"\x0912345678x".iter().copied(), 26).flatten().chain([0]).collect();
        assert!(read(&long).is_none());
        let most: Vec<u8> = std::iter::repeat_n([1, b'a'], 127).flatten().chain([0]).collect();
        assert_eq!(read(&most).map(|name| (name.len(), name.count())), Some((255, 127)));
        let mut name = Name::default();
        assert!(name.read(b"\x01a\0", 2, SEED).is_none(), "the rest is not the message's");
        assert_eq!(Name::of(&[b"\x01a", b"\x01b\0"], SEED).map(|name| name.len()), Some(5));
        assert!(Name::of(&[b"\x01a\0", b"\x01b\0"], SEED).is_none());
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
    fn names_come_back_as_text() {
        for name in ["web.default.svc.cluster.local.", "."] {
            assert_eq!(from_wire(&to_wire(name).expect("a name")), name);
        }
        assert_eq!(from_wire(b"\x05a.b\\\x1b\x01c\0"), "a\\.b\\\\\\027.c.");
        // Cut off.
        assert_eq!(from_wire(b"\x05ab"), "ab.");
    }
}

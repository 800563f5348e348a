//! SCTP (RFC 9260 §3).
//!
//! ```text
//!  0       2       4     8          12
//!  │ sport │ dport │ tag │ checksum │ chunk │ chunk │ …
//!
//!  0      1       2        4
//!  │ type │ flags │ length │ value │ padding to four bytes      one chunk
//! ```
//!
//! **The checksum** is the CRC32c of header and chunks with the field itself as zero (RFC 9260 §6.8, appendix A). It does not
//! include addresses: only new ports change it. A CRC is linear, so the change follows from the ports and the number of bytes after
//! them ([`ports_delta`]): a checksum that was correct stays correct, a wrong one stays wrong.
//!
//! A zero field is also how a sender says that it has not computed one (RFC 9653). It stays zero, unless zero was correct.

use pollgate_common::reasons::DropReason;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian};

use super::Header;
use crate::flow::life::Signal;

/// Bytes of the common header.
pub const LEN: usize = 12;
/// IANA protocol number.
pub const PROTOCOL: u8 = 132;
/// Offset of the checksum in the header.
pub const CHECKSUM: usize = 8;

/// Chunks read of one packet. The packets that open or close an association have fewer (RFC 9260 §6.10).
const MOST_CHUNKS: usize = 16;

/// Chunk types (RFC 9260 §3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The T bit: the verification tag is the one that the other end's packets carry (RFC 9260 §3.3.7, §3.3.13).
const REFLECTED: u8 = 1;

/// The common header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Sctp {
    src_port: U16,
    dst_port: U16,
    tag: U32,
    checksum: little_endian::U32,
}

impl Header for Sctp {}

/// The start of a chunk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Chunk {
    kind: u8,
    flags: u8,
    length: U16,
}

impl Header for Chunk {}

/// What a packet says about its association.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The verification tag.
    pub tag: u32,
    /// What its chunks are about.
    pub kind: Kind,
}

/// What the chunks of a packet are about. If they differ, the one that is last in this order counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing: they have not been read, or their receiver discards them, since an INIT or INIT ACK has not the tags that it must
    /// have, or any other packet has none (RFC 9260 §3.3.2, §8.5).
    #[default]
    Nothing,
    /// DATA, SACK, HEARTBEAT, COOKIE ECHO, …
    Ordinary,
    /// ERROR.
    Error,
    /// COOKIE ACK.
    CookieAck,
    /// INIT, with the tag that its sender wants to be sent.
    Init(u32),
    /// INIT ACK, with the tag that its sender wants to be sent.
    InitAck(u32),
    /// SHUTDOWN.
    Shutdown,
    /// SHUTDOWN ACK.
    ShutdownAck,
    /// SHUTDOWN COMPLETE.
    ShutdownComplete {
        /// The T bit.
        reflected: bool,
    },
    /// ABORT.
    Abort {
        /// The T bit.
        reflected: bool,
    },
}

/// A packet of one chunk that refuses another packet.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Refusal {
    header: Sctp,
    chunk: Chunk,
}

impl Message {
    /// The signal for the association.
    pub fn signal(self) -> Signal {
        match self.kind {
            Kind::Nothing => Signal::Nothing,
            Kind::Ordinary | Kind::Error | Kind::CookieAck => Signal::Segment,
            Kind::Init(_) => Signal::Syn,
            Kind::InitAck(_) => Signal::SynAck,
            Kind::Shutdown => Signal::Fin,
            Kind::ShutdownAck | Kind::ShutdownComplete { .. } => Signal::End,
            Kind::Abort { .. } => Signal::Reset,
        }
    }

    /// Whether its sender gets a reply if the packet is refused ([`Sctp::refusal`]).
    pub fn is_answered(self) -> bool {
        self.answer().is_some()
    }

    /// Type, flags and verification tag of the chunk that answers a packet for which there is no association (RFC 9260 §8.4): an
    /// INIT has the tag to send, to any other packet its own tag goes back.
    fn answer(self) -> Option<(u8, u8, u32)> {
        match self.kind {
            Kind::Init(tag) => Some((ABORT, 0, tag)),
            Kind::Ordinary | Kind::InitAck(_) | Kind::Shutdown => Some((ABORT, REFLECTED, self.tag)),
            Kind::ShutdownAck => Some((SHUTDOWN_COMPLETE, REFLECTED, self.tag)),
            Kind::Nothing | Kind::Error | Kind::CookieAck | Kind::ShutdownComplete { .. } | Kind::Abort { .. } => None,
        }
    }
}

impl Sctp {
    /// The header at `at` and what its chunks say. Header and first chunk are verified to lie within the `len` bytes that IP has for
    /// them. The packet's receiver finds what is wrong further back. Of a first fragment (`is_cut`), the chunk may go on in the next.
    pub fn check(frame: &[u8], at: usize, len: usize, is_cut: bool) -> Result<(&Sctp, Message), DropReason> {
        let sctp = Sctp::at(frame, at).ok_or(DropReason::L4Header)?;
        let chunks = frame.get(at + LEN..at + len.max(LEN)).ok_or(DropReason::L4Header)?;
        let kind = kind(sctp.tag.get(), Chunks { rest: chunks, is_cut }).ok_or(DropReason::L4Header)?;
        Ok((sctp, Message { tag: sctp.tag.get(), kind }))
    }

    /// Source port.
    pub fn src_port(&self) -> u16 {
        self.src_port.get()
    }

    /// Destination port.
    pub fn dst_port(&self) -> u16 {
        self.dst_port.get()
    }

    /// Sets both ports of a packet that has `len` bytes, this header included, and changes the checksum as that does. The chunks
    /// need not be there: the packet may be truncated or the first fragment of its whole.
    pub fn translate(&mut self, src_port: u16, dst_port: u16, len: usize) {
        if self.checksum.get() != 0 {
            self.checksum ^= ports_delta((self.src_port(), self.dst_port()), (src_port, dst_port), len);
        }
        (self.src_port, self.dst_port) = (U16::new(src_port), U16::new(dst_port));
    }

    /// The packet that refuses this one, with its checksum; `None` if it gets no reply.
    pub fn refusal(&self, message: Message) -> Option<Refusal> {
        let (kind, flags, tag) = message.answer()?;
        let header = Sctp { src_port: self.dst_port, dst_port: self.src_port, tag: U32::new(tag), checksum: 0.into() };
        let length = U16::new(u16::try_from(size_of::<Chunk>()).ok()?);
        let mut refusal = Refusal { header, chunk: Chunk { kind, flags, length } };
        refusal.header.checksum.set(sum(refusal.as_bytes()));
        Some(refusal)
    }
}

/// Sets both ports of the whole packet at `packet`, with its checksum.
pub fn translate(packet: &mut [u8], src_port: u16, dst_port: u16) {
    let len = packet.len();
    let is_right_zero = Sctp::at(packet, 0).is_some_and(|sctp| sctp.checksum.get() == 0) && sum(packet) == 0;
    if let Some(sctp) = Sctp::at_mut(packet, 0) {
        sctp.translate(src_port, dst_port, len);
    }
    if is_right_zero {
        complete(packet);
    }
}

/// Computes the checksum of the whole packet at `packet`, which its sender has left to hardware.
pub fn complete(packet: &mut [u8]) {
    let sum = sum(packet);
    if let Some(sctp) = Sctp::at_mut(packet, 0) {
        sctp.checksum.set(sum);
    }
}

/// The difference (exclusive or) that new ports make to the checksum of a packet with `len` bytes, common header included.
pub fn ports_delta(old: (u16, u16), new: (u16, u16), len: usize) -> u32 {
    static ZEROS: [u8; 2048] = [0; 2048];
    let bytes = |(src, dst): (u16, u16)| (u32::from(src) << 16 | u32::from(dst)).to_be_bytes();
    // Equal bytes add nothing: what is left is the ports' difference, followed by zeros.
    let mut delta = crc32c::crc32c(&bytes(old)) ^ crc32c::crc32c(&bytes(new));
    let mut after = len.saturating_sub(size_of_val(&bytes(old)));
    while delta != 0 && after > 0 {
        let now = after.min(ZEROS.len());
        // The function complements the register before and after.
        delta = !crc32c::crc32c_append(!delta, &ZEROS[..now]);
        after -= now;
    }
    delta
}

/// The checksum that the packet should have.
fn sum(packet: &[u8]) -> u32 {
    let (header, chunks) = packet.split_at(packet.len().min(LEN));
    let before = crc32c::crc32c(&header[..header.len().min(CHECKSUM)]);
    crc32c::crc32c_append(crc32c::crc32c_append(before, &[0; 4]), chunks)
}

/// The chunks of a packet, up to the first that is malformed.
struct Chunks<'a> {
    rest: &'a [u8],
    /// The last one may be longer than what is there.
    is_cut: bool,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a Chunk, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = Chunk::at(self.rest, 0)?;
        let length = usize::from(chunk.length.get());
        let there = if self.is_cut { length.min(self.rest.len()) } else { length };
        let value = self.rest.get(size_of::<Chunk>()..there)?;
        // The last one may come without its padding.
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((chunk, value))
    }
}

/// What the chunks of a packet with this verification tag are about; `None` if there is none, or the first is malformed.
fn kind(tag: u32, mut chunks: Chunks<'_>) -> Option<Kind> {
    let (first, value) = chunks.next()?;
    let kind = match first.kind {
        // They come alone (RFC 9260 §6.10).
        INIT => wanted_tag(value).filter(|_| tag == 0).map_or(Kind::Nothing, Kind::Init),
        INIT_ACK => wanted_tag(value).filter(|_| tag != 0).map_or(Kind::Nothing, Kind::InitAck),
        _ => {
            let rest = chunks.take(MOST_CHUNKS - 1).map(|(chunk, _)| kind_of(chunk));
            rest.fold(kind_of(first), Kind::max)
        }
    };
    let is_valid = match kind {
        // The sender may not know a tag yet.
        Kind::Init(_) | Kind::Abort { .. } => true,
        Kind::Nothing
        | Kind::Ordinary
        | Kind::Error
        | Kind::CookieAck
        | Kind::InitAck(_)
        | Kind::Shutdown
        | Kind::ShutdownAck
        | Kind::ShutdownComplete { .. } => tag != 0,
    };
    Some(if is_valid { kind } else { Kind::Nothing })
}

/// The initiate tag of an INIT or INIT ACK, which is not zero.
fn wanted_tag(value: &[u8]) -> Option<u32> {
    let tag = value.first_chunk().map(|tag| u32::from_be_bytes(*tag))?;
    (tag != 0).then_some(tag)
}

fn kind_of(chunk: &Chunk) -> Kind {
    let reflected = chunk.flags & REFLECTED != 0;
    match chunk.kind {
        ERROR => Kind::Error,
        COOKIE_ACK => Kind::CookieAck,
        SHUTDOWN => Kind::Shutdown,
        SHUTDOWN_ACK => Kind::ShutdownAck,
        SHUTDOWN_COMPLETE => Kind::ShutdownComplete { reflected },
        ABORT => Kind::Abort { reflected },
        _ => Kind::Ordinary,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// CRC32c by its definition, bit by bit, least significant bit first (RFC 9260 appendix A).
    fn naive(bytes: &[u8]) -> u32 {
        let step = |crc: u32| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
    }

    /// A packet of these chunks with a correct checksum.
    fn packet(tag: u32, chunks: &[u8]) -> Vec<u8> {
        let mut bytes = [&[0x9c, 0x40, 0x0b, 0x59][..], &tag.to_be_bytes(), &[0; 4], chunks].concat();
        let sum = naive(&bytes);
        bytes[CHECKSUM..LEN].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn is_right(packet: &[u8]) -> bool {
        let mut bytes = packet.to_vec();
        bytes[CHECKSUM..LEN].fill(0);
        naive(&bytes).to_le_bytes() == packet[CHECKSUM..LEN]
    }

    fn read(tag: u32, chunks: &[u8]) -> Result<Kind, DropReason> {
        let bytes = packet(tag, chunks);
        Sctp::check(&bytes, 0, bytes.len(), false).map(|(_, message)| message.kind)
    }

    const DATA: [u8; 20] = [0, 3, 0, 17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'x', 0, 0, 0];

    #[test]
    fn chunks_say_what_the_rfc_says() {
        let init = |kind: u8, tag: u8| [&[kind, 0, 0, 20, 0, 0, 0, tag][..], &[0; 12]].concat();
        assert_eq!(read(0, &init(INIT, 7)), Ok(Kind::Init(7)));
        assert_eq!(read(9, &init(INIT_ACK, 7)), Ok(Kind::InitAck(7)));
        assert_eq!(read(9, &DATA), Ok(Kind::Ordinary));
        // COOKIE ECHO, DATA.
        assert_eq!(read(9, &[&[10, 0, 0, 8, 1, 2, 3, 4][..], &DATA].concat()), Ok(Kind::Ordinary));
        assert_eq!(read(9, &[&[11, 0, 0, 4][..], &DATA].concat()), Ok(Kind::CookieAck));
        assert_eq!(read(9, &[7, 0, 0, 8, 0, 0, 0, 1]), Ok(Kind::Shutdown));
        // SACK, SHUTDOWN.
        let sack = [3, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0];
        assert_eq!(read(9, &[&sack[..], &[7, 0, 0, 8, 0, 0, 0, 1]].concat()), Ok(Kind::Shutdown));
        assert_eq!(read(9, &[8, 0, 0, 4]), Ok(Kind::ShutdownAck));
        for reflected in [false, true] {
            assert_eq!(read(9, &[14, u8::from(reflected), 0, 4]), Ok(Kind::ShutdownComplete { reflected }));
            assert_eq!(read(9, &[6, u8::from(reflected), 0, 4]), Ok(Kind::Abort { reflected }));
            // ERROR, ABORT.
            let both = [9, 0, 0, 8, 0, 3, 0, 4, 6, u8::from(reflected), 0, 4];
            assert_eq!(read(9, &both), Ok(Kind::Abort { reflected }));
        }
    }

    #[test]
    fn a_packet_without_its_tags_says_nothing() {
        let init = |kind: u8, tag: u8| [&[kind, 0, 0, 20, 0, 0, 0, tag][..], &[0; 12]].concat();
        for (tag, chunks) in [(5, init(INIT, 7)), (0, init(INIT, 0)), (0, init(INIT_ACK, 7)), (5, init(INIT_ACK, 0))] {
            assert_eq!(read(tag, &chunks), Ok(Kind::Nothing), "{tag} {chunks:?}");
        }
        assert_eq!(read(0, &DATA), Ok(Kind::Nothing));
        assert_eq!(read(0, &[INIT, 0, 0, 4]), Ok(Kind::Nothing), "too short for a tag");
        assert_eq!(read(0, &[ABORT, 0, 0, 4]), Ok(Kind::Abort { reflected: false }), "before the INIT ACK");
    }

    #[test]
    fn the_first_chunk_must_fit() {
        for chunks in [&[][..], &[0], &[0, 3, 0], &[0, 3, 0, 0], &[0, 3, 0, 3], &[0, 3, 0, 5], &[0, 3, 0xff, 0xff]] {
            assert_eq!(read(9, chunks), Err(DropReason::L4Header), "{chunks:?}");
        }
        let whole = packet(9, &DATA);
        for len in 0..16 {
            assert_eq!(Sctp::check(&whole, 0, len, false).err(), Some(DropReason::L4Header), "{len}");
            assert_eq!(Sctp::check(&whole[..len], 0, whole.len(), false).err(), Some(DropReason::L4Header), "{len}");
        }
        // Of a first fragment, one byte less than the header of a chunk is too little.
        let kind = |len: usize| Sctp::check(&whole, 0, len, true).map(|(_, message)| message.kind);
        assert_eq!((kind(15), kind(16), kind(24)), (Err(DropReason::L4Header), Ok(Kind::Ordinary), Ok(Kind::Ordinary)));
        // What is wrong further back is for the receiver to find.
        assert_eq!(read(9, &[&DATA[..], &[6, 0, 0, 0]].concat()), Ok(Kind::Ordinary));
        assert_eq!(read(9, &[&DATA[..], &[6, 0, 0, 5]].concat()), Ok(Kind::Ordinary));
        assert_eq!(read(9, &DATA[..17]), Ok(Kind::Ordinary), "without padding");
    }

    #[test]
    fn no_packet_has_more_chunks_read_than_the_bound() {
        let many = |count: usize| [&[5, 0, 0, 4].repeat(count)[..], &[ABORT, 0, 0, 4]].concat();
        assert_eq!(read(9, &many(MOST_CHUNKS - 1)), Ok(Kind::Abort { reflected: false }));
        assert_eq!(read(9, &many(MOST_CHUNKS)), Ok(Kind::Ordinary));
    }

    #[test]
    fn a_packet_without_a_checksum_stays_without() {
        let mut bytes = packet(9, &DATA);
        bytes[CHECKSUM..LEN].fill(0);
        translate(&mut bytes, 1, 2);
        assert_eq!(bytes[..4], [0, 1, 0, 2]);
        assert_eq!(bytes[CHECKSUM..LEN], [0; 4]);
        complete(&mut bytes);
        assert!(is_right(&bytes));
    }

    #[test]
    fn a_checksum_that_is_zero_by_right_is_followed() {
        // Four bytes of data bring the sum to any value; these to zero.
        let mut bytes = packet(9, &DATA);
        bytes[CHECKSUM..LEN].fill(0);
        let register = !naive(&bytes);
        bytes.extend((register ^ reach(u32::MAX)).to_le_bytes());
        assert_eq!(naive(&bytes), 0);
        translate(&mut bytes, 1, 2);
        assert!(is_right(&bytes));
    }

    /// The word that brings a register of zero to `wanted`.
    fn reach(wanted: u32) -> u32 {
        (0..32).fold(wanted, |word, _| if word >> 31 == 1 { (word ^ 0x82f6_3b78) << 1 | 1 } else { word << 1 })
    }

    #[test]
    fn a_refusal_has_the_tag_that_the_rfc_asks_for_and_never_answers_one() {
        let to = |tag, kind| {
            let bytes = packet(tag, &DATA);
            let refusal = Sctp::at(&bytes, 0).expect("a header").refusal(Message { tag, kind })?;
            assert!(
                is_right(refusal.as_bytes()) && (refusal.header.src_port(), refusal.header.dst_port()) == (2905, 40000)
            );
            Some((refusal.header.tag.get(), refusal.chunk.kind, refusal.chunk.flags, refusal.chunk.length.get()))
        };
        assert_eq!(to(0, Kind::Init(7)), Some((7, ABORT, 0, 4)));
        for kind in [Kind::Ordinary, Kind::InitAck(7), Kind::Shutdown] {
            assert_eq!(to(9, kind), Some((9, ABORT, REFLECTED, 4)), "{kind:?}");
        }
        assert_eq!(to(9, Kind::ShutdownAck), Some((9, SHUTDOWN_COMPLETE, REFLECTED, 4)));
        let (abort, complete) = (Kind::Abort { reflected: false }, Kind::ShutdownComplete { reflected: true });
        for kind in [Kind::Nothing, Kind::Error, Kind::CookieAck, abort, complete] {
            assert_eq!(to(9, kind), None, "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn ports_change_a_correct_checksum_into_a_correct_one_and_a_wrong_one_into_a_wrong_one(
            tag in any::<u32>(), chunks in proptest::collection::vec(any::<u8>(), 0..5000),
            (src, dst) in any::<(u16, u16)>(), damage in any::<u32>(),
        ) {
            let mut bytes = packet(tag, &chunks);
            translate(&mut bytes, src, dst);
            prop_assert!(is_right(&bytes));
            prop_assert_eq!(&bytes[..4], &[src.to_be_bytes(), dst.to_be_bytes()].concat()[..]);
            translate(&mut bytes, 40000, 2905);
            prop_assert_eq!(&bytes, &packet(tag, &chunks), "and back");
            let field: Vec<u8> = bytes[CHECKSUM..LEN].iter().zip(damage.to_le_bytes()).map(|(a, b)| a ^ b).collect();
            bytes[CHECKSUM..LEN].copy_from_slice(&field);
            let damaged = bytes.clone();
            translate(&mut bytes, src, dst);
            prop_assert_eq!(is_right(&bytes), damage == 0);
            complete(&mut bytes);
            prop_assert!(is_right(&bytes));
            prop_assert_eq!(&bytes[LEN..], &damaged[LEN..]);
        }

        /// A first fragment or a quoted packet has only the start of it.
        #[test]
        fn the_header_alone_is_enough(
            tag in any::<u32>(), chunks in proptest::collection::vec(any::<u8>(), 0..100), (src, dst) in any::<(u16, u16)>(),
        ) {
            let mut bytes = packet(tag, &chunks);
            let len = bytes.len();
            Sctp::at_mut(&mut bytes[..LEN], 0).expect("a header").translate(src, dst, len);
            prop_assert!(is_right(&bytes));
        }

        #[test]
        fn any_chunks_are_read_to_their_end(tag in any::<u32>(), bytes in proptest::collection::vec(any::<u8>(), 0..200), len in 0usize..300) {
            let _ = Sctp::check(&bytes, 0, len, len % 2 == 0);
            let _ = read(tag, &bytes);
        }
    }
}

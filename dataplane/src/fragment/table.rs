//! The datagrams of which fragments have come.
//!
//! ```text
//!  bucket = keyed hash(source)       32 ways: tag │ serial │ since │ class
//!                                             head: key, what the first fragment was
//!                                             spans: start and end of each fragment, at most 128
//! ```
//!
//! A bucket that is full gives up its oldest datagram, of the class that has more than half of it.

#![allow(unsafe_code, reason = "declares that all-zero bytes are a span")]

use std::io;

use pollgate_common::flow::{Address, FlowKey};
use pollgate_common::reasons::DropReason;
use pollgate_common::time::Instant;

use super::{Fate, First, WAIT};
use crate::memory::{Mapped, Zeroed};
use crate::packet::Transport;

const BUCKETS: usize = 128;
const WAYS: usize = 32;
/// Most fragments of a datagram.
const PARTS: usize = 128;

/// What identifies a datagram while its fragments are around (RFC 791 §3.2; RFC 8200 §4.5, where the protocol is not part of it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key<A> {
    pub(crate) src: A,
    pub(crate) dst: A,
    pub(crate) identification: u32,
    /// IANA number; always 0 in IPv6.
    pub(crate) protocol: u8,
}

/// A fragment's place in its datagram, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) start: u16,
    pub(crate) end: u16,
    pub(crate) is_last: bool,
}

/// How much a datagram is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Nothing is there.
    Free,
    /// Its first fragment was sent on.
    Served,
    /// Its first fragment has not come, or was not sent on.
    Other,
}

#[derive(Clone, Copy)]
struct Way {
    tag: u32,
    /// The datagram's number, in the order of their coming.
    serial: u32,
    class: Class,
    since: Instant,
}

#[derive(Clone, Copy)]
struct Head<A> {
    key: Key<A>,
    first: Option<First<A>>,
    /// Fragments and their bytes.
    parts: usize,
    bytes: u32,
    /// Where the last fragment ends.
    end: Option<u16>,
    /// Whether the first fragment is held until that is known.
    waits_for_end: bool,
}

/// Where a fragment starts and ends.
#[derive(Clone, Copy)]
#[repr(C)]
struct Span {
    start: u16,
    end: u16,
}

// SAFETY: two integers.
unsafe impl Zeroed for Span {}

/// A worker's datagrams of one family.
pub(crate) struct Table<A> {
    hasher: ahash::RandomState,
    ways: Box<[Way]>,
    heads: Box<[Head<A>]>,
    spans: Mapped<Span>,
}

impl<A: Address> Table<A> {
    /// Fails if the memory cannot be mapped.
    pub(crate) fn new(hasher: ahash::RandomState) -> io::Result<Table<A>> {
        let free = Way { tag: 0, serial: 0, class: Class::Free, since: Instant(0) };
        let head = Head { key: Key::default(), first: None, parts: 0, bytes: 0, end: None, waits_for_end: false };
        let count = BUCKETS * WAYS;
        Ok(Table {
            hasher,
            ways: vec![free; count].into(),
            heads: vec![head; count].into(),
            spans: Mapped::new(count * PARTS)?,
        })
    }

    fn bucket(&self, source: A) -> usize {
        usize::try_from(self.hasher.hash_one(source)).unwrap_or(0) % BUCKETS
    }

    /// Keyed, so that no sender can choose it.
    pub(crate) fn hash(&self, key: &Key<A>) -> u64 {
        self.hasher.hash_one((key.src.words(), key.dst.words(), key.identification, key.protocol))
    }

    fn tag(&self, key: &Key<A>) -> u32 {
        u32::try_from(self.hash(key) >> 32).unwrap_or(0)
    }

    /// The index of the datagram, if any of it has come within the last second.
    pub(crate) fn find(&self, key: &Key<A>, now: Instant) -> Option<usize> {
        let tag = self.tag(key);
        let start = self.bucket(key.src) * WAYS;
        (start..start + WAYS).find(|&at| {
            let way = &self.ways[at];
            way.tag == tag && way.is_used(now) && self.heads[at].key == *key
        })
    }

    /// Enters a datagram that is not there. Returns its index.
    pub(crate) fn make(&mut self, key: Key<A>, serial: u32, now: Instant) -> usize {
        let at = self.room(self.bucket(key.src) * WAYS, serial, now);
        self.ways[at] = Way { tag: self.tag(&key), serial, class: Class::Other, since: now };
        self.heads[at] = Head { key, first: None, parts: 0, bytes: 0, end: None, waits_for_end: false };
        at
    }

    fn room(&self, start: usize, newest: u32, now: Instant) -> usize {
        let ways = &self.ways[start..start + WAYS];
        if let Some(free) = ways.iter().position(|way| !way.is_used(now)) {
            return start + free;
        }
        let others = ways.iter().filter(|way| way.class == Class::Other).count();
        let class = if others >= WAYS / 2 { Class::Other } else { Class::Served };
        let of_class = ways.iter().enumerate().filter(|(_, way)| way.class == class);
        start + of_class.max_by_key(|(_, way)| newest.wrapping_sub(way.serial)).map_or(0, |(at, _)| at)
    }

    /// What the first fragment was, if it has come.
    pub(crate) fn first(&self, at: usize) -> Option<First<A>> {
        self.heads[at].first
    }

    /// The datagram's number.
    pub(crate) fn serial(&self, at: usize) -> u32 {
        self.ways[at].serial
    }

    /// The number of the datagram's source among those that share held frames.
    pub(crate) fn source(&self, at: usize) -> u8 {
        let family = if A::IS_V4 { 0 } else { BUCKETS };
        u8::try_from(at / WAYS + family).unwrap_or(0)
    }

    /// Where the datagram ends, if that is known.
    pub(crate) fn end(&self, at: usize) -> Option<u16> {
        self.heads[at].end
    }

    /// Notes that the first fragment has come, and waits for the datagram's end to be known.
    pub(crate) fn wait_for_end(&mut self, at: usize) {
        self.heads[at].waits_for_end = true;
    }

    /// Notes where the datagram ends, ahead of the first fragment. Returns whether that waits for it.
    pub(crate) fn note_end(&mut self, at: usize, end: u16) -> bool {
        let head = &mut self.heads[at];
        let is_news = head.end.is_none();
        head.end = head.end.or(Some(end));
        is_news && head.waits_for_end
    }

    /// Notes what the first fragment was.
    pub(crate) fn settle(&mut self, at: usize, first: First<A>, class: Class) {
        self.heads[at].first = Some(first);
        self.ways[at].class = class;
    }

    /// Adds a fragment; `is_other`: it contradicts what has come. Fails if it has come before, overlaps with another one, or is one too
    /// many; the last two spoil the datagram.
    pub(crate) fn add(&mut self, at: usize, part: Part, is_other: bool) -> Result<(), DropReason> {
        let head = &mut self.heads[at];
        let spans = &mut self.spans[at * PARTS..(at + 1) * PARTS];
        let spoilt = head.first.map(|first| first.fate);
        if let Some(Fate::Drop(reason @ (DropReason::FragmentOverlap | DropReason::FragmentsTooMany))) = spoilt {
            return Err(reason);
        }
        let overlap = spans[..head.parts].iter().find(|span| span.start < part.end && part.start < span.end);
        let highest = spans[..head.parts].iter().map(|span| span.end).max().unwrap_or(0);
        let is_same = overlap.is_some_and(|span| (span.start, span.end) == (part.start, part.end));
        let fits = match head.end {
            Some(end) => part.end < end || (part.end == end && part.is_last),
            None => !part.is_last || highest <= part.end,
        };
        let reason = match () {
            () if is_same && fits && !is_other && part.is_last == (head.end == Some(part.end)) => {
                return Err(DropReason::FragmentDuplicate);
            }
            () if overlap.is_some() || !fits || is_other => DropReason::FragmentOverlap,
            () if head.parts == PARTS => DropReason::FragmentsTooMany,
            () => {
                spans[head.parts] = Span { start: part.start, end: part.end };
                head.parts += 1;
                head.bytes += u32::from(part.end - part.start);
                head.end = head.end.or_else(|| part.is_last.then_some(part.end));
                return Ok(());
            }
        };
        self.spoil(at, reason);
        Err(reason)
    }

    /// All that follows of the datagram is dropped.
    fn spoil(&mut self, at: usize, reason: DropReason) {
        let fate = Fate::Drop(reason);
        let none = First { key: FlowKey::default(), transport: Transport::Other, fate, identification: 0 };
        let first = self.heads[at].first.unwrap_or(none);
        self.settle(at, First { fate, ..first }, Class::Other);
    }

    /// Whether all fragments have come.
    pub(crate) fn is_complete(&self, at: usize) -> bool {
        let head = &self.heads[at];
        head.end.is_some_and(|end| u32::from(end) == head.bytes)
    }

    /// Forgets the datagram.
    pub(crate) fn forget(&mut self, at: usize) {
        self.ways[at].class = Class::Free;
    }
}

impl Way {
    fn is_used(&self, now: Instant) -> bool {
        self.class != Class::Free && now.since(self.since) <= WAIT
    }
}

//! The flow table of one worker, for one family.
//!
//! ```text
//!  hash ─▶ bucket (one cache line)                      entries
//!          │ 8 tags │ 8 indexes │ overflow │  ─index─▶  │ Entry │ Entry │ …
//! ```
//!
//! * **Buckets** hold eight 16-bit tags and the indexes of their entries. A flow direction lives in the bucket its hash
//!   names first, or, if that is full, in a second one; a full first bucket counts how many it sent on (`overflow`), so a
//!   miss reads a second line only where there is one. If both are full, one of the sixteen moves to its own other bucket
//!   (tag and index; the entry itself never moves).
//! * **Entries** are found by exact comparison of the whole key; the tag only saves fetching the wrong line.
//! * **Expiry** is a coarse clock in the entry, written when it changes, and a sweeper that looks at a bounded number of
//!   flows per call. No timers, no list to relink per packet.
//! * **Lists**: flows that the client has not confirmed are in one list, flows that are over in another, each in the order
//!   in which they came to be so. The links are in the entries; only a change of life touches them.
//! * **SCTP** associations are treated as TCP connections throughout.
//! * **Full**: the flow that is evicted for a new one is the one that has been over longest, then an unconfirmed one that is
//!   idle for `HANDSHAKE`. If there is neither, the kind of which there are more makes room: the unconfirmed flow opened
//!   first, or the confirmed UDP flow idle longest among a bounded sample. So a flood pays for itself, whichever kind of flow
//!   it makes. Last comes a TCP connection that one side has closed, if both have been silent for the closing time-out. No
//!   other established TCP connection is ever evicted; if there is nothing else, the new flow is refused.
//! * **Source ports** that are all taken are given up by the same rule, among the flows that hold the candidates.
//! * **Unconfirmed flows** are bounded in number as well: beyond the bound, the one opened first makes room. A flood of them
//!   costs the clients that connect meanwhile nothing, as long as one handshake takes less time than that many new flows.
//!
//! A look-up is split in three so that a burst's cache misses overlap: [`FlowTable::hash_all`] (which prefetches the
//! buckets), [`FlowTable::probe`] (which prefetches the entry), [`FlowTable::confirm`].
//!
//! Memory for IPv4: 2 × 64 B entries + 2 × 64 B / 8 / 0.65 of bucket = 153 B a connection. IPv6 has entries of 128 B: 281 B.

#![allow(unsafe_code, reason = "declares that all-zero bytes are a bucket, and reads tags as one vector")]

use std::io;
use std::time::Duration;

use pollgate_common::flow::{Address, FlowKey, Protocol};
use pollgate_common::tables::ServiceId;
use pollgate_common::time::Ticks;

use smallvec::SmallVec;

use super::entry::{Entry, State, Translation};
pub use super::hash::FlowHash;
use super::hash::FlowHasher;
use super::life::{self, Life, Side, Signal};
use super::sequence::{Numbers, STEP};
use super::tags;
use crate::memory::{Mapped, Zeroed, prefetch};
use crate::wire::sctp::Message;
use crate::wire::tcp::Segment;

/// Tags a bucket holds.
const WAYS: usize = 8;
/// Flows looked at to find a UDP flow to evict.
const SAMPLE: usize = 32;
/// Flows looked at if there is none among the first of them: connections opened one after the other lie side by side.
const MOST_SAMPLE: usize = 512;
/// Keys that a new flow can have, at most.
pub const CANDIDATES: usize = 64;
/// Longer than any handshake: an unconfirmed flow that is idle for so many ticks (3.2 s) is given up first.
const HANDSHAKE: u32 = 3;
/// Flows the sweeper looks at in one call of a busy worker.
pub const SWEEP: usize = 16;
/// And of one with nothing else to do.
pub const SWEEP_IDLE: usize = 256;
/// The longest an unconfirmed TCP flow may be idle once the table is three quarters full.
const CROWDED: Duration = Duration::from_secs(10);
/// No flow: the end of a list.
const NONE: u32 = u32::MAX;

/// How long a flow may be idle, by its state.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP, confirmed by the client.
    pub tcp_established: Duration,
    /// TCP, not confirmed; less once the table of its family is three quarters full.
    pub tcp_opening: Duration,
    /// TCP, after FIN both ways or RST.
    pub tcp_closing: Duration,
    /// UDP, not confirmed.
    pub udp: Duration,
    /// UDP, confirmed by the client.
    pub udp_stream: Duration,
}

/// Size and time-outs of a table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections (each takes two entries).
    pub connections: usize,
    /// How many of them the client may not have confirmed.
    pub unconfirmed: usize,
    /// New flows per second, of each worker.
    pub new_per_second: u32,
    /// Time-outs.
    pub timeouts: Timeouts,
}

impl Limits {
    /// What each of so many workers gets, if they share the flows.
    #[must_use]
    pub fn share(self, workers: usize) -> Limits {
        let share = |flows: usize| flows.div_ceil(workers.max(1));
        Limits { connections: share(self.connections), unconfirmed: share(self.unconfirmed), ..self }
    }
}

#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// Zero: free.
    tags: [u16; WAYS],
    indexes: [u32; WAYS],
    /// Directions that belong here and live in their second bucket.
    overflow: u32,
}

// SAFETY: integers; zero is an empty bucket.
unsafe impl Zeroed for Bucket {}

const _: () = assert!(size_of::<Bucket>() == 64);

/// Where a direction's entry is, going by its tag alone: to be confirmed by comparing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate(u32);

impl Default for Candidate {
    /// Nowhere.
    fn default() -> Candidate {
        Candidate(u32::MAX)
    }
}

/// Which service and backend a flow belongs to.
#[derive(Clone, Copy, Debug)]
pub struct FlowOrigin {
    /// The service.
    pub service: ServiceId,
    /// The backend's slot.
    pub backend: u16,
    /// The slot's incarnation.
    pub backend_incarnation: u16,
    /// Generation of the tables that was true in.
    pub generation: u32,
}

/// How many connections there are and were, in one table or in several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// In the table.
    pub live: u64,
    /// Of these, not confirmed by their client.
    pub half_open: u64,
    /// Removed after their time-out.
    pub expired: u64,
    /// Removed from a full table to make room.
    pub evicted: u64,
    /// Removed because there were as many unconfirmed ones as may be.
    pub displaced: u64,
    /// Removed for their source port.
    pub taken_over: u64,
    /// RSTs and FINs that did not fit their connection.
    pub out_of_window: u64,
    /// ABORTs and SHUTDOWNs that did not fit their association.
    pub wrong_tag: u64,
}

impl std::ops::Add for FlowTotals {
    type Output = FlowTotals;

    fn add(self, other: FlowTotals) -> FlowTotals {
        FlowTotals {
            live: self.live + other.live,
            half_open: self.half_open + other.half_open,
            expired: self.expired + other.expired,
            evicted: self.evicted + other.evicted,
            displaced: self.displaced + other.displaced,
            taken_over: self.taken_over + other.taken_over,
            out_of_window: self.out_of_window + other.out_of_window,
            wrong_tag: self.wrong_tag + other.wrong_tag,
        }
    }
}

/// The table was full and nothing could be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// All flows of one worker, found by key.
pub struct FlowTable<A: Address> {
    hasher: FlowHasher,
    buckets: Mapped<Bucket>,
    entries: Mapped<Entry<A>>,
    /// Flows never used yet start here; the index of the client's direction, as everywhere a flow is named by one index.
    fresh: u32,
    /// The free flow that is used next; the rest follow by [`Entry::link`].
    free: u32,
    /// Unconfirmed flows, in the order of opening.
    opening: List,
    /// Flows that are over, in the order in which they ended.
    closing: List,
    /// UDP flows that their client has confirmed.
    streams: u64,
    live: u64,
    /// Flows opened so far.
    opened: u32,
    expired: u64,
    evicted: u64,
    displaced: u64,
    taken_over: u64,
    out_of_window: u64,
    wrong_tag: u64,
    cursor: u32,
    /// Flows that were looked at within a tick without one to give up.
    fruitless: (Ticks, u32),
    swept_at: Ticks,
    idle: IdleTimes,
    /// Flows of `opening` at most.
    most_unconfirmed: u64,
}

/// The first and last flow of a list, and how many there are.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
    len: u64,
}

impl List {
    const EMPTY: List = List { first: NONE, last: NONE, len: 0 };

    fn first(self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }
}

/// Who holds what another flow needs, by kind.
struct Holders<T> {
    unconfirmed: Crowd<T>,
    streams: Crowd<T>,
    half_closed: Crowd<T>,
}

impl<T> Default for Holders<T> {
    fn default() -> Holders<T> {
        Holders { unconfirmed: Crowd::default(), streams: Crowd::default(), half_closed: Crowd::default() }
    }
}

impl<T> Holders<T> {
    /// The one that is needed least. `is_stale`: the oldest unconfirmed one has had time for a handshake.
    fn least(self, is_stale: bool) -> Option<T> {
        let stream = self.streams.oldest.filter(|&(idle, _)| idle > 0);
        let first = match is_stale || self.unconfirmed.count >= self.streams.count {
            true => self.unconfirmed.oldest.or(stream),
            false => stream.or(self.unconfirmed.oldest),
        };
        first.or(self.half_closed.oldest).map(|(_, flow)| flow)
    }
}

/// Flows of one kind that hold something which another needs.
struct Crowd<T> {
    count: u32,
    /// The one of the highest age, with its age.
    oldest: Option<(u32, T)>,
}

impl<T> Default for Crowd<T> {
    fn default() -> Crowd<T> {
        Crowd { count: 0, oldest: None }
    }
}

impl<T> Crowd<T> {
    fn add(&mut self, age: u32, flow: T) {
        self.count += 1;
        if self.oldest.as_ref().is_none_or(|(oldest, _)| age > *oldest) {
            self.oldest = Some((age, flow));
        }
    }
}

/// [`Timeouts`] in ticks.
struct IdleTimes {
    tcp_established: u32,
    tcp_opening: u32,
    tcp_opening_crowded: u32,
    tcp_closing: u32,
    udp: u32,
    udp_stream: u32,
}

impl IdleTimes {
    fn new(timeouts: &Timeouts) -> IdleTimes {
        IdleTimes {
            tcp_established: Ticks::span(timeouts.tcp_established),
            tcp_opening: Ticks::span(timeouts.tcp_opening),
            tcp_opening_crowded: Ticks::span(timeouts.tcp_opening.min(CROWDED)),
            tcp_closing: Ticks::span(timeouts.tcp_closing),
            udp: Ticks::span(timeouts.udp),
            udp_stream: Ticks::span(timeouts.udp_stream),
        }
    }
}

/// The index of the other direction.
#[inline]
pub fn peer(index: u32) -> u32 {
    index ^ 1
}

/// The index of the flow's client direction.
#[inline]
fn client_of(index: u32) -> u32 {
    index & !1
}

impl<A: Address> FlowTable<A> {
    /// A table for `limits`, its hash keyed by `seeds`. Fails if the memory cannot be mapped.
    pub fn new(limits: &Limits, seeds: [u64; 4]) -> io::Result<FlowTable<A>> {
        let entries = limits.connections.max(1).saturating_mul(2).min(NONE as usize - 1);
        // Thirteen twentieths full at most: one in fifteen flows is in its second bucket then.
        let buckets = (entries / WAYS * 20).div_ceil(13) + 2;
        Ok(FlowTable {
            hasher: FlowHasher::new(seeds),
            buckets: Mapped::new(buckets)?,
            entries: Mapped::new(entries)?,
            fresh: 0,
            free: NONE,
            opening: List::EMPTY,
            closing: List::EMPTY,
            streams: 0,
            live: 0,
            opened: 0,
            expired: 0,
            evicted: 0,
            displaced: 0,
            taken_over: 0,
            out_of_window: 0,
            wrong_tag: 0,
            cursor: 0,
            fruitless: (Ticks(0), 0),
            swept_at: Ticks(0),
            idle: IdleTimes::new(&limits.timeouts),
            most_unconfirmed: limits.unconfirmed.max(1) as u64,
        })
    }

    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &FlowKey<A>) -> FlowHash {
        self.hasher.one(key)
    }

    /// First pass: hashes all keys and asks for their buckets' lines.
    #[inline]
    pub fn hash_all<'a>(&self, keys: impl Iterator<Item = (&'a FlowKey<A>, &'a mut FlowHash)>) {
        self.hasher.each(keys, |hash| prefetch(self.buckets.as_ptr().wrapping_add(self.first(hash))));
    }

    /// Second pass: reads the bucket and asks for the line of the entry whose tag fits.
    #[inline]
    pub fn probe(&self, hash: FlowHash) -> Candidate {
        let bucket = &self.buckets[self.first(hash)];
        let mask = matching(&bucket.tags, hash.tag());
        if mask == 0 {
            if bucket.overflow > 0 {
                self.prefetch_second(hash);
            }
            return Candidate::default();
        }
        let index = bucket.indexes[way(mask)];
        prefetch(self.entries.as_ptr().wrapping_add(index as usize));
        Candidate(index)
    }

    #[cold]
    fn prefetch_second(&self, hash: FlowHash) {
        prefetch(self.buckets.as_ptr().wrapping_add(self.second(hash)));
    }

    /// Third pass: the index of the direction with exactly this key.
    #[inline]
    pub fn confirm(&self, candidate: Candidate, hash: FlowHash, key: &FlowKey<A>) -> Option<u32> {
        match self.entries.get(candidate.0 as usize) {
            Some(entry) if entry.state.is_used() && entry.key == *key => Some(candidate.0),
            _ => self.find(hash, key),
        }
    }

    /// The same without the passes before it.
    pub fn find(&self, hash: FlowHash, key: &FlowKey<A>) -> Option<u32> {
        let first = &self.buckets[self.first(hash)];
        if let Some(index) = self.find_in(first, hash, key) {
            return Some(index);
        }
        if first.overflow == 0 {
            return None;
        }
        self.find_in(&self.buckets[self.second(hash)], hash, key)
    }

    #[inline]
    fn find_in(&self, bucket: &Bucket, hash: FlowHash, key: &FlowKey<A>) -> Option<u32> {
        ways(matching(&bucket.tags, hash.tag()))
            .map(|way| bucket.indexes[way])
            .find(|&index| self.entries[index as usize].key == *key)
    }

    /// The entry at an index that `find` named.
    #[inline]
    pub fn entry(&self, index: u32) -> &Entry<A> {
        &self.entries[index as usize]
    }

    /// The same, to be changed.
    #[inline]
    pub fn entry_mut(&mut self, index: u32) -> &mut Entry<A> {
        &mut self.entries[index as usize]
    }

    /// Opens a flow with its client's first packet, which says what both sides expect: `forward` is what the client sends, rewritten
    /// to `to`; the reply direction is the mirror image. Returns the client direction's index.
    pub fn open(
        &mut self,
        forward: FlowKey<A>,
        to: FlowKey<A>,
        origin: FlowOrigin,
        numbers: Numbers,
        now: Ticks,
    ) -> Result<u32, Full> {
        self.bound_unconfirmed(now);
        let client = self.allocate(now)?;
        let reply = to.reversed();
        let entry = Entry {
            last_seen: now,
            service: origin.service.index,
            service_incarnation: origin.service.incarnation,
            backend: origin.backend,
            backend_incarnation: origin.backend_incarnation,
            ..Entry::default()
        };
        let translation = translation(&forward, &to);
        self.entries[client as usize] = Entry { key: forward, translation, mark: origin.generation, ..entry };
        let translation = translation_back(&forward, &reply);
        self.entries[peer(client) as usize] = Entry { key: reply, translation, mark: self.opened, ..entry };
        self.link_both(client).inspect_err(|_| self.give_back(client))?;
        self.set_numbers(client, numbers);
        self.set_life(client, Life::NEW);
        self.append(client);
        self.live += 1;
        self.opened = self.opened.wrapping_add(1);
        Ok(client)
    }

    /// Notes that a packet came for the direction at `index`, and returns its entry. A RST or FIN that does not fit the
    /// connection is counted, and does not keep it alive.
    #[inline]
    pub fn touch(&mut self, index: u32, now: Ticks, segment: &Segment) -> &mut Entry<A> {
        let entry = &self.entries[index as usize];
        let has_moved = segment.ack.wrapping_sub(entry.expects) > STEP;
        if (has_moved || !segment.is_ordinary() || !entry.state.is_quiet()) && !self.advance(index, segment) {
            self.out_of_window += 1;
            return &mut self.entries[index as usize];
        }
        let entry = &mut self.entries[index as usize];
        // Most packets come within a tick of the last: then the line stays clean.
        if entry.last_seen != now {
            entry.last_seen = now;
        }
        entry
    }

    /// The packets that may change a flow's life or its numbers: few of an established flow's. Returns whether the packet
    /// fits.
    #[cold]
    fn advance(&mut self, index: u32, segment: &Segment) -> bool {
        let entry = &self.entries[index as usize];
        let (side, life) = (entry.state.side(), entry.state.life());
        let signal = match entry.protocol() {
            Some(Protocol::Tcp) => {
                let mut numbers = self.numbers(index);
                let Some(signal) = numbers.read(life, side, segment) else { return false };
                self.set_numbers(index, numbers);
                signal
            }
            Some(Protocol::Udp) => Signal::Datagram,
            // SCTP has a function of its own; there is no other.
            Some(Protocol::Sctp) | None => Signal::Nothing,
        };
        self.live_on(index, signal);
        true
    }

    /// The same as [`FlowTable::touch`], for a packet of an SCTP association.
    #[cold]
    pub fn touch_association(&mut self, index: u32, now: Ticks, message: &Message) -> &mut Entry<A> {
        let state = self.entries[index as usize].state;
        let mut numbers = self.numbers(index);
        if let Some(signal) = tags::read(&mut numbers, state.life(), state.side(), message) {
            self.set_numbers(index, numbers);
            self.live_on(index, signal);
            self.entries[index as usize].last_seen = now;
        } else {
            self.wrong_tag += 1;
        }
        &mut self.entries[index as usize]
    }

    /// Changes the flow's life as a packet of the direction at `index` says.
    fn live_on(&mut self, index: u32, signal: Signal) {
        let state = self.entries[index as usize].state;
        let after = life::next(state.life(), state.side(), signal);
        if after != state.life() {
            self.change_life(client_of(index), after);
        }
    }

    fn change_life(&mut self, client: u32, after: Life) {
        let before = self.entries[client as usize].state.life();
        if before.is_opening() == after.is_opening() && before.is_over() == after.is_over() {
            // It keeps its place in its list.
            self.set_life(client, after);
            return;
        }
        let backend = &mut self.entries[peer(client) as usize];
        if after.is_opening() {
            backend.mark = self.opened;
        } else if before.is_opening() {
            // No SYN yet of another connection: the next number is that of this one's.
            backend.mark = backend.expects;
        }
        self.remove(client);
        self.set_life(client, after);
        self.append(client);
    }

    fn numbers(&self, index: u32) -> Numbers {
        let client = client_of(index);
        let expected = |index: u32| self.entries[index as usize].expected();
        let syn = self.entries[peer(client) as usize].mark;
        Numbers { client: expected(client), backend: expected(peer(client)), syn }
    }

    fn set_numbers(&mut self, index: u32, numbers: Numbers) {
        let client = client_of(index);
        self.entries[client as usize].expect(numbers.client);
        let backend = &mut self.entries[peer(client) as usize];
        backend.expect(numbers.backend);
        if !backend.state.life().is_opening() {
            backend.mark = numbers.syn;
        }
    }

    fn set_life(&mut self, index: u32, life: Life) {
        let client = client_of(index);
        self.entries[client as usize].state = State::new(Side::Client, life);
        self.entries[peer(client) as usize].state = State::new(Side::Backend, life);
    }

    /// The first of `keys` that belongs to no flow, or is made free: by a flow that is over, or by the one that is needed least
    /// among those that the keys belong to. `None`: all of them are connections and UDP flows in use.
    #[cold]
    pub fn free_key(&mut self, keys: impl Iterator<Item = FlowKey<A>>, now: Ticks) -> Option<FlowKey<A>> {
        let mut keys: SmallVec<[(FlowKey<A>, FlowHash); CANDIDATES]> =
            keys.map(|key| (key, FlowHash::default())).collect();
        self.hash_all(keys.iter_mut().map(|(key, hash)| (&*key, hash)));
        let probed: SmallVec<[Candidate; CANDIDATES]> = keys.iter().map(|(_, hash)| self.probe(*hash)).collect();
        let (mut over, mut holders) = (None, Holders::default());
        for ((key, hash), candidate) in keys.into_iter().zip(probed) {
            let Some(index) = self.confirm(candidate, hash, &key) else { return Some(key) };
            if self.expire(index, now) {
                return Some(key);
            }
            let client = client_of(index);
            if over.is_none() && self.is_over(client, now) {
                over = Some((client, key));
            }
            self.add(&mut holders, (client, key), now);
        }
        if let Some((client, key)) = over {
            self.close(client);
            return Some(key);
        }
        let is_stale = holders.unconfirmed.oldest.is_some_and(|(_, (client, _))| self.idle(client, now) >= HANDSHAKE);
        let (client, key) = holders.least(is_stale)?;
        self.close(client);
        self.taken_over += 1;
        Some(key)
    }

    /// Adds the flow to those of its kind, if it may have to give up its key.
    fn add(&self, holders: &mut Holders<(u32, FlowKey<A>)>, flow: (u32, FlowKey<A>), now: Ticks) {
        let client = flow.0;
        match self.unconfirmed_for(client) {
            Some(age) => holders.unconfirmed.add(age, flow),
            None if self.is_stream(client) => holders.streams.add(self.idle(client, now), flow),
            None if self.is_left_half_closed(client, now) => holders.half_closed.add(self.idle(client, now), flow),
            None => {}
        }
    }

    /// Whether the connection is over, as far as is known.
    fn is_over(&self, client: u32, now: Ticks) -> bool {
        match self.entry(client).state.life() {
            Life::Closing => true,
            // Its ends may still go on.
            Life::Reset { .. } => self.idle(client, now) >= HANDSHAKE,
            Life::Opening { .. } | Life::Established { .. } => false,
        }
    }

    /// Whether one side has closed the connection, and both have been silent for as long as one that is over stays.
    fn is_left_half_closed(&self, client: u32, now: Ticks) -> bool {
        let life = self.entries[client as usize].state.life();
        matches!(life, Life::Established { fin: Some(_) }) && self.idle(client, now) > self.idle.tcp_closing
    }

    /// Whether the backend has not replied to the client's last packets.
    pub fn is_silent(&self, client: u32) -> bool {
        let (there, back) = (self.entries[client as usize].last_seen, self.entries[peer(client) as usize].last_seen);
        there > back && there.since(back) >= HANDSHAKE
    }

    /// Whether the flow is of UDP, and confirmed.
    fn is_stream(&self, client: u32) -> bool {
        let entry = &self.entries[client as usize];
        entry.state.is_used() && entry.protocol() == Some(Protocol::Udp) && !entry.state.life().is_opening()
    }

    /// Ticks since the last packet of the flow.
    fn idle(&self, client: u32, now: Ticks) -> u32 {
        let idle = |index: u32| now.since(self.entries[index as usize].last_seen);
        idle(client).min(idle(peer(client)))
    }

    /// How many flows have been opened since the one at `index`, if its client has not confirmed it.
    fn unconfirmed_for(&self, index: u32) -> Option<u32> {
        let backend = &self.entries[peer(client_of(index)) as usize];
        backend.state.life().is_opening().then(|| self.opened.wrapping_sub(backend.mark))
    }

    /// The live flow with exactly this key; one that has expired is removed.
    pub fn live_index(&mut self, key: &FlowKey<A>, now: Ticks) -> Option<u32> {
        let index = self.find(self.hash(key), key)?;
        (!self.expire(index, now)).then_some(index)
    }

    /// Whether `key` belongs to no flow. A flow that is over, but not swept away yet, makes room.
    pub fn make_free(&mut self, key: &FlowKey<A>, now: Ticks) -> bool {
        let Some(index) = self.live_index(key, now) else { return true };
        let over = self.is_over(client_of(index), now);
        if over {
            self.close(index);
        }
        over
    }

    /// Ends the flow one of whose directions is at `index`.
    pub fn close(&mut self, index: u32) {
        let client = client_of(index);
        self.remove(client);
        self.live -= 1;
        self.unlink(client);
        self.unlink(peer(client));
        self.give_back(client);
    }

    /// Looks at the next `budget` flows and ends those that have been idle for too long. Once round, it rests until the
    /// clock ticks.
    pub fn sweep(&mut self, now: Ticks, budget: usize) {
        if self.cursor == 0 {
            if self.swept_at == now {
                return;
            }
            self.swept_at = now;
        }
        for _ in 0..budget {
            if self.cursor >= self.fresh {
                self.cursor = 0;
                return;
            }
            let client = self.cursor;
            self.cursor += 2;
            if self.entries[client as usize].state.is_used() {
                self.expire(client, now);
            }
        }
    }

    /// Whether neither direction of the flow has been seen within its time-out. Reads the peer only if this one is idle.
    #[inline]
    pub fn is_expired(&self, index: u32, now: Ticks) -> bool {
        let entry = &self.entries[index as usize];
        if entry.last_seen == now {
            return false;
        }
        self.is_overdue(index, now)
    }

    #[cold]
    fn is_overdue(&self, index: u32, now: Ticks) -> bool {
        let entry = &self.entries[index as usize];
        let limit = self.idle_limit(entry);
        now.since(entry.last_seen) > limit && now.since(self.entries[peer(index) as usize].last_seen) > limit
    }

    fn idle_limit(&self, entry: &Entry<A>) -> u32 {
        let idle = &self.idle;
        match (entry.protocol(), entry.state.life()) {
            (Some(Protocol::Udp) | None, Life::Opening { .. }) => idle.udp,
            (Some(Protocol::Udp) | None, Life::Established { .. } | Life::Reset { .. } | Life::Closing) => {
                idle.udp_stream
            }
            (Some(Protocol::Tcp | Protocol::Sctp), Life::Opening { .. }) if self.is_crowded() => {
                idle.tcp_opening_crowded
            }
            (Some(Protocol::Tcp | Protocol::Sctp), Life::Opening { .. }) => idle.tcp_opening,
            (Some(Protocol::Tcp | Protocol::Sctp), Life::Established { .. }) => idle.tcp_established,
            (Some(Protocol::Tcp | Protocol::Sctp), Life::Reset { .. } | Life::Closing) => idle.tcp_closing,
        }
    }

    /// Whether the table is three quarters full.
    fn is_crowded(&self) -> bool {
        self.live * 8 >= self.entries.len() as u64 * 3
    }

    /// Ends the flow at `index` if it has been idle for too long; returns whether it had.
    #[inline]
    pub fn expire(&mut self, index: u32, now: Ticks) -> bool {
        let over = self.is_expired(index, now);
        if over {
            self.close(index);
            self.expired += 1;
        }
        over
    }

    /// Entries that have ever been used: none behind them is.
    pub fn used(&self) -> u32 {
        self.fresh
    }

    /// Connections in the table.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// How many connections there are and were.
    pub fn totals(&self) -> FlowTotals {
        let FlowTable { live, expired, evicted, displaced, taken_over, out_of_window, wrong_tag, .. } = *self;
        let half_open = self.opening.len;
        FlowTotals { live, half_open, expired, evicted, displaced, taken_over, out_of_window, wrong_tag }
    }

    /// Connections that fit.
    pub fn capacity(&self) -> u64 {
        self.entries.len() as u64 / 2
    }

    /// Entries that there are.
    pub fn entries(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(NONE)
    }

    /// Connections that the client has not confirmed.
    pub fn unconfirmed(&self) -> u64 {
        self.opening.len
    }

    /// Connections that may be evicted: all but established TCP.
    pub fn spare(&self) -> u64 {
        self.closing.len + self.opening.len + self.streams
    }

    /// How many connections there may be that the client has not confirmed.
    pub fn most_unconfirmed(&self) -> u64 {
        self.most_unconfirmed
    }

    /// Ends the flow that has been unconfirmed longest, if there is one.
    pub fn displace(&mut self, now: Ticks) {
        if let Some(client) = self.opening.first()
            && !self.end(client, now)
        {
            self.displaced += 1;
        }
    }

    /// Makes room for one more unconfirmed flow, if there are as many as there may be.
    #[inline]
    fn bound_unconfirmed(&mut self, now: Ticks) {
        if self.opening.len < self.most_unconfirmed {
            return;
        }
        let is_full = self.free == NONE && !self.has_fresh();
        match (self.end(self.opening.first, now), is_full) {
            (true, _) => {}
            (false, true) => self.evicted += 1,
            (false, false) => self.displaced += 1,
        }
    }

    fn has_fresh(&self) -> bool {
        (self.fresh as usize) + 1 < self.entries.len()
    }

    /// A free flow, if need be by evicting one.
    fn allocate(&mut self, now: Ticks) -> Result<u32, Full> {
        if let Some(client) = self.take_free() {
            return Ok(client);
        }
        if self.has_fresh() {
            self.fresh += 2;
            return Ok(self.fresh - 2);
        }
        self.evict(now)?;
        self.take_free().ok_or(Full)
    }

    /// Ends the flow that is needed least.
    #[cold]
    pub fn evict(&mut self, now: Ticks) -> Result<(), Full> {
        let client = self.needed_least(now).ok_or(Full)?;
        let has_expired = self.end(client, now);
        self.evicted += u64::from(!has_expired);
        Ok(())
    }

    /// Ends a flow that is over, or unconfirmed and idle for longer than a handshake takes; returns whether there was one.
    pub fn evict_spent(&mut self, now: Ticks) -> bool {
        let Some(client) = self.spent(now) else { return false };
        let has_expired = self.end(client, now);
        self.evicted += u64::from(!has_expired);
        true
    }

    fn spent(&self, now: Ticks) -> Option<u32> {
        let stale = self.opening.first().filter(|&client| self.idle(client, now) >= HANDSHAKE);
        self.closing.first().or(stale)
    }

    fn needed_least(&mut self, now: Ticks) -> Option<u32> {
        if let Some(client) = self.spent(now) {
            return Some(client);
        }
        let unconfirmed = self.opening.first();
        match self.streams > self.opening.len {
            true => self.most_idle(now).or(unconfirmed),
            false => unconfirmed.or_else(|| self.most_idle(now)),
        }
    }

    /// Ends a flow; returns whether its time was over anyway.
    fn end(&mut self, client: u32, now: Ticks) -> bool {
        let has_expired = self.expire(client, now);
        if !has_expired {
            self.close(client);
        }
        has_expired
    }

    /// The flow idle longest among the next [`SAMPLE`], or a few more, that need not stay: confirmed UDP, or any whose time is over.
    fn most_idle(&mut self, now: Ticks) -> Option<u32> {
        // What was never used need not be looked at: in a gateway with two families, that may be most of the table.
        let total = self.fresh / 2;
        if self.fruitless.0 != now {
            self.fruitless = (now, 0);
        }
        // Once round in vain: nothing can be given up before the clock ticks.
        if self.fruitless.1 >= total {
            return None;
        }
        let (mut best, mut half_closed) = (Crowd::default(), Crowd::default());
        for looked_at in 0..MOST_SAMPLE {
            if looked_at >= SAMPLE && best.count > 0 {
                break;
            }
            self.cursor = if self.cursor + 3 >= 2 * total { 0 } else { self.cursor + 2 };
            let client = self.cursor;
            let is_used = self.entries[client as usize].state.is_used();
            if self.is_stream(client) || is_used && self.is_expired(client, now) {
                best.add(self.idle(client, now), client);
            } else if is_used && self.is_left_half_closed(client, now) {
                half_closed.add(self.idle(client, now), client);
            }
        }
        let found = best.oldest.or(half_closed.oldest).map(|(_, client)| client);
        let looked_at = u32::try_from(MOST_SAMPLE).unwrap_or(u32::MAX);
        self.fruitless.1 = if found.is_some() { 0 } else { self.fruitless.1.saturating_add(looked_at) };
        found
    }

    /// The list of flows in this life, if there is one.
    fn list(&mut self, life: Life) -> Option<&mut List> {
        match life {
            Life::Opening { .. } => Some(&mut self.opening),
            Life::Established { .. } => None,
            Life::Reset { .. } | Life::Closing => Some(&mut self.closing),
        }
    }

    /// Appends a flow to the list of its life.
    fn append(&mut self, client: u32) {
        self.streams += u64::from(self.is_stream(client));
        let Some(list) = self.list(self.entries[client as usize].state.life()) else { return };
        let before = std::mem::replace(&mut list.last, client);
        list.len += 1;
        if before == NONE {
            list.first = client;
        } else {
            self.entries[before as usize].link = client;
        }
        self.entries[client as usize].link = NONE;
        self.entries[peer(client) as usize].link = before;
    }

    /// Takes a flow out of the list of its life.
    fn remove(&mut self, client: u32) {
        self.streams -= u64::from(self.is_stream(client));
        let (next, before) = (self.entries[client as usize].link, self.entries[peer(client) as usize].link);
        let Some(list) = self.list(self.entries[client as usize].state.life()) else { return };
        list.len -= 1;
        if next == NONE {
            list.last = before;
        }
        if before == NONE {
            list.first = next;
        }
        if next != NONE {
            self.entries[peer(next) as usize].link = before;
        }
        if before != NONE {
            self.entries[before as usize].link = next;
        }
    }

    /// Makes both directions findable, or neither.
    fn link_both(&mut self, client: u32) -> Result<(), Full> {
        self.link(client)?;
        self.link(peer(client)).inspect_err(|_| self.unlink(client))
    }

    fn link(&mut self, index: u32) -> Result<(), Full> {
        let hash = self.hash(&self.entries[index as usize].key);
        let (first, second) = (self.first(hash), self.second(hash));
        if self.put(first, hash, index) {
            return Ok(());
        }
        if self.put(second, hash, index) {
            self.buckets[first].overflow += 1;
            return Ok(());
        }
        if self.make_room(first) && self.put(first, hash, index) {
            return Ok(());
        }
        if self.make_room(second) && self.put(second, hash, index) {
            self.buckets[first].overflow += 1;
            return Ok(());
        }
        Err(Full)
    }

    /// Moves one direction out of the full `bucket` to its other one, if any of them has room there.
    #[cold]
    fn make_room(&mut self, bucket: usize) -> bool {
        for way in 0..WAYS {
            let index = self.buckets[bucket].indexes[way];
            let hash = self.hash(&self.entries[index as usize].key);
            let (first, second) = (self.first(hash), self.second(hash));
            let other = if bucket == first { second } else { first };
            if other != bucket && self.put(other, hash, index) {
                self.buckets[bucket].tags[way] = 0;
                let overflow = &mut self.buckets[first].overflow;
                *overflow = if other == second { *overflow + 1 } else { *overflow - 1 };
                return true;
            }
        }
        false
    }

    fn put(&mut self, bucket: usize, hash: FlowHash, index: u32) -> bool {
        let bucket = &mut self.buckets[bucket];
        let free = matching(&bucket.tags, 0);
        if free == 0 {
            return false;
        }
        let way = way(free);
        bucket.tags[way] = hash.tag();
        bucket.indexes[way] = index;
        true
    }

    fn unlink(&mut self, index: u32) {
        let hash = self.hash(&self.entries[index as usize].key);
        let (first, second) = (self.first(hash), self.second(hash));
        if self.take(first, index) {
            return;
        }
        if self.take(second, index) {
            self.buckets[first].overflow -= 1;
        }
    }

    fn take(&mut self, bucket: usize, index: u32) -> bool {
        let bucket = &mut self.buckets[bucket];
        let way = (0..WAYS).find(|&way| bucket.tags[way] != 0 && bucket.indexes[way] == index);
        if let Some(way) = way {
            bucket.tags[way] = 0;
        }
        way.is_some()
    }

    fn give_back(&mut self, client: u32) {
        let entry = &mut self.entries[client as usize];
        entry.state = State::default();
        entry.link = self.free;
        self.entries[peer(client) as usize].state = State::default();
        self.free = client;
    }

    fn take_free(&mut self) -> Option<u32> {
        let client = self.free;
        self.free = self.entries.get(client as usize)?.link;
        Some(client)
    }

    #[inline]
    fn first(&self, hash: FlowHash) -> usize {
        scale(hash.0 >> 32, self.buckets.len())
    }

    #[inline]
    fn second(&self, hash: FlowHash) -> usize {
        // Other bits of the same hash, so that flows of one full bucket spread over all others.
        scale(u64::from(hash.low().wrapping_mul(0x9e37_79b9)), self.buckets.len())
    }
}

impl FlowHash {
    #[inline]
    fn low(self) -> u32 {
        u32::try_from(self.0 & 0xffff_ffff).unwrap_or(0)
    }

    /// Never zero, which is "free".
    #[inline]
    fn tag(self) -> u16 {
        u16::try_from(self.0 & 0xffff).unwrap_or(0) | 1
    }
}

/// 32 random bits onto `0..len`, without a division (Lemire 2019).
#[inline]
fn scale(bits: u64, len: usize) -> usize {
    usize::try_from((bits * len as u64) >> 32).unwrap_or(0)
}

/// Which ways hold `tag`: one bit in every two (a vector comparison says it in bytes).
#[inline]
fn matching(tags: &[u16; WAYS], tag: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi16};
        const LOW_BYTES: u32 = 0x5555;
        // SAFETY: SSE2 is part of x86-64; the load is of the array's sixteen bytes.
        let bytes = unsafe {
            let tags = _mm_loadu_si128(tags.as_ptr().cast::<__m128i>());
            _mm_movemask_epi8(_mm_cmpeq_epi16(tags, _mm_set1_epi16(tag.cast_signed())))
        };
        bytes.cast_unsigned() & LOW_BYTES
    }
    #[cfg(not(target_arch = "x86_64"))]
    tags.iter().enumerate().map(|(way, &have)| u32::from(have == tag) << (2 * way)).sum()
}

/// The first way of a mask that is not zero.
#[inline]
fn way(mask: u32) -> usize {
    // Below 8 for any mask; the compiler cannot know.
    (mask.trailing_zeros() / 2) as usize % WAYS
}

/// All ways of a mask.
#[inline]
fn ways(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let first = (mask != 0).then(|| way(mask));
        mask &= mask.wrapping_sub(1);
        first
    })
}

/// What turns a packet of `from` into one of `to`.
fn translation<A: Address>(from: &FlowKey<A>, to: &FlowKey<A>) -> Translation<A> {
    use crate::wire::checksum::delta;
    let ip = |a: A| -> std::net::IpAddr { a.into() };
    let (old, new) = ([ip(from.src).into(), ip(from.dst).into()], [ip(to.src).into(), ip(to.dst).into()]);
    let addresses = delta(&old, &new);
    let old = [old[0], old[1], from.src_port.into(), from.dst_port.into()];
    let new = [new[0], new[1], to.src_port.into(), to.dst_port.into()];
    Translation { to: (*to).into(), addresses, whole: delta(&old, &new) }
}

/// What turns a reply into what the client expects: the mirror image of what it sent.
fn translation_back<A: Address>(forward: &FlowKey<A>, reply: &FlowKey<A>) -> Translation<A> {
    translation(reply, &forward.reversed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tcp;
    use pollgate_common::flow::V4;
    use pollgate_common::hash::{HashMap, new_map};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const TIMEOUTS: Timeouts = Timeouts {
        tcp_established: Duration::from_secs(86400),
        tcp_opening: Duration::from_secs(60),
        tcp_closing: Duration::from_secs(60),
        udp: Duration::from_secs(30),
        udp_stream: Duration::from_secs(180),
    };
    const ORIGIN: FlowOrigin = FlowOrigin {
        service: ServiceId { index: 1, incarnation: 0 },
        backend: 0,
        backend_incarnation: 0,
        generation: 1,
    };

    /// A table in which all connections may be unconfirmed.
    fn table(connections: usize) -> FlowTable<V4> {
        bounded(connections, connections)
    }

    fn bounded(connections: usize, unconfirmed: usize) -> FlowTable<V4> {
        let limits = Limits { connections, unconfirmed, new_per_second: 1, timeouts: TIMEOUTS };
        FlowTable::new(&limits, [1, 2, 3, 4]).expect("memory")
    }

    const SYN: Segment = Segment { seq: 100, ack: 0, flags: tcp::SYN, scale: 0 };
    const SYN_ACK: Segment = Segment { seq: 900, ack: 101, flags: tcp::SYN | tcp::ACK, scale: 0 };
    const DATAGRAM: Segment = Segment { seq: 0, ack: 0, flags: 0, scale: 0 };

    /// A segment from the client, and one from the backend.
    fn from_client(flags: u8) -> Segment {
        Segment { seq: 101, ack: 901, flags, scale: 0 }
    }

    fn from_backend(flags: u8) -> Segment {
        Segment { seq: 901, ack: 101, flags, scale: 0 }
    }

    fn open(table: &mut FlowTable<V4>, n: u32, protocol: Protocol, now: Ticks) -> Result<u32, Full> {
        let (forward, to) = keys(n, protocol);
        let numbers = if protocol == Protocol::Tcp { Numbers::opened_by(&SYN) } else { Numbers::default() };
        table.open(forward, to, ORIGIN, numbers, now)
    }

    /// Replies to a new flow and has the client confirm it.
    fn confirm(table: &mut FlowTable<V4>, client: u32, now: Ticks) {
        let is_tcp = table.entry(client).protocol() == Some(Protocol::Tcp);
        let (reply, next) = if is_tcp { (SYN_ACK, from_client(tcp::ACK)) } else { (DATAGRAM, DATAGRAM) };
        table.touch(peer(client), now, &reply);
        table.touch(client, now, &next);
    }

    fn life(table: &FlowTable<V4>, index: u32) -> Life {
        table.entry(index).state.life()
    }

    fn keys(n: u32, protocol: Protocol) -> (FlowKey<V4>, FlowKey<V4>) {
        let client = V4(Ipv4Addr::from(0x0a00_0000 + n / 60000));
        let src_port = u16::try_from(n % 60000).expect("small") + 1;
        let vip = V4(Ipv4Addr::new(10, 96, 0, 50));
        let pod = V4(Ipv4Addr::new(10, 244, 1, 10));
        let forward = FlowKey { src: client, dst: vip, src_port, dst_port: 80, protocol: protocol.number() };
        (forward, FlowKey { dst: pod, dst_port: 8080, ..forward })
    }

    fn find(table: &FlowTable<V4>, key: &FlowKey<V4>) -> Option<u32> {
        table.find(table.hash(key), key)
    }

    #[test]
    fn both_directions_are_found_and_mirror_each_other() {
        let mut table = table(16);
        let (forward, to) = keys(0, Protocol::Tcp);
        let index = open(&mut table, 0, Protocol::Tcp, Ticks(0)).expect("room");
        assert_eq!(find(&table, &forward), Some(index));
        let back = find(&table, &to.reversed()).expect("the reply direction");
        assert_eq!(table.entry(back).translation.to, forward.reversed().into());
        assert_eq!((peer(index), peer(back)), (back, index));
        let whole = |index: u32| table.entry(index).translation.whole;
        assert_eq!(u32::from(whole(index)) + u32::from(whole(back)), 0xffff, "there and back adds nothing");
        table.close(back);
        assert_eq!((find(&table, &forward), find(&table, &to.reversed()), table.live()), (None, None, 0));
    }

    #[test]
    fn lives_follow_the_packets_and_time_out_accordingly() {
        let mut table = table(16);
        let there = open(&mut table, 0, Protocol::Tcp, Ticks(0)).expect("room");
        let back = peer(there);
        assert!(!table.is_expired(there, Ticks(56)) && table.is_expired(there, Ticks(57)), "60 s unconfirmed");
        table.touch(back, Ticks(1), &SYN_ACK);
        assert!(life(&table, there).is_opening() && table.is_expired(there, Ticks(58)), "a reply confirms nothing");
        table.touch(there, Ticks(1), &from_client(tcp::ACK));
        assert!(life(&table, back) == Life::ESTABLISHED && !table.is_expired(there, Ticks(50_000)));
        table.touch(there, Ticks(2), &from_client(tcp::FIN | tcp::ACK));
        assert_eq!(life(&table, back), Life::Established { fin: Some(Side::Client) }, "half closed is not closed");
        table.touch(back, Ticks(3), &from_backend(tcp::FIN | tcp::ACK));
        assert_eq!((life(&table, there), life(&table, back)), (Life::Closing, Life::Closing));
        assert!(table.is_expired(there, Ticks(3 + 57)));
    }

    #[test]
    fn a_blind_reset_changes_nothing_not_even_the_time() {
        let mut table = table(16);
        let there = open(&mut table, 0, Protocol::Tcp, Ticks(0)).expect("room");
        confirm(&mut table, there, Ticks(0));
        for index in [there, peer(there)] {
            for flags in [tcp::RST, tcp::RST | tcp::ACK, tcp::FIN | tcp::ACK] {
                let blind = Segment { seq: 0x7000_0000, ack: 0x7000_0000, flags, scale: 0 };
                table.touch(index, Ticks(5), &blind);
            }
            assert_eq!((life(&table, index), table.entry(index).last_seen), (Life::ESTABLISHED, Ticks(0)));
        }
        assert_eq!(table.totals().out_of_window, 6);
        table.touch(there, Ticks(5), &from_client(tcp::RST));
        assert_eq!(life(&table, there), Life::Reset { spoken: None });
        assert_eq!(table.totals().out_of_window, 6);
    }

    #[test]
    fn the_sweeper_ends_idle_flows_and_only_those() {
        let mut table = table(2000);
        for n in 0..1000 {
            open(&mut table, n, if n % 2 == 0 { Protocol::Udp } else { Protocol::Tcp }, Ticks(0)).expect("room");
        }
        for _ in 0..1000 {
            table.sweep(Ticks(40), SWEEP);
        }
        assert_eq!(table.live(), 500, "UDP after 30 s, unconfirmed TCP not yet");
        for _ in 0..1000 {
            table.sweep(Ticks(100), SWEEP);
        }
        assert_eq!(table.live(), 0);
    }

    #[test]
    fn unconfirmed_flows_have_ten_seconds_in_a_crowd() {
        let mut table = table(100);
        for n in 0..74 {
            open(&mut table, n, Protocol::Tcp, Ticks(0)).expect("room");
        }
        assert!(!table.is_expired(0, Ticks(56)), "60 s");
        open(&mut table, 74, Protocol::Tcp, Ticks(0)).expect("room");
        assert!(!table.is_expired(0, Ticks(10)) && table.is_expired(0, Ticks(11)), "10 s");
        confirm(&mut table, 0, Ticks(0));
        assert!(!table.is_expired(0, Ticks(50_000)), "a day for those that are confirmed");
    }

    #[test]
    fn a_full_table_evicts_the_unconfirmed_and_never_the_established() {
        let mut table = table(512);
        for n in 0..512 {
            let there = open(&mut table, n, Protocol::Tcp, Ticks(0)).expect("room");
            if n % 4 != 0 {
                confirm(&mut table, there, Ticks(0));
            }
        }
        let mut refused = 0;
        for n in 512..2000 {
            match open(&mut table, n, Protocol::Tcp, Ticks(1)) {
                // At once established, so that it stays.
                Ok(there) => confirm(&mut table, there, Ticks(1)),
                Err(Full) => refused += 1,
            }
        }
        assert_eq!(refused, 1488 - 128, "128 unconfirmed ones made room");
        for n in (0..512).filter(|n| n % 4 != 0) {
            assert!(find(&table, &keys(n, Protocol::Tcp).0).is_some(), "established {n} is still there");
        }
        assert_eq!((table.live(), table.evicted), (512, 128));
    }

    #[test]
    fn a_full_table_gives_up_what_is_over_then_what_is_unconfirmed_then_datagrams_idle_longest() {
        let mut table = table(4);
        let indices: Vec<u32> = [Protocol::Udp, Protocol::Udp, Protocol::Tcp, Protocol::Tcp]
            .into_iter()
            .zip(0..)
            .map(|(protocol, n)| open(&mut table, n, protocol, Ticks(0)).expect("room"))
            .collect();
        confirm(&mut table, indices[0], Ticks(9));
        confirm(&mut table, indices[1], Ticks(0));
        confirm(&mut table, indices[3], Ticks(0));
        table.touch(indices[3], Ticks(0), &from_client(tcp::RST));
        let mut evicts = |n: u32| {
            let there = open(&mut table, n, Protocol::Tcp, Ticks(9)).expect("room");
            confirm(&mut table, there, Ticks(9));
            let all = [Protocol::Udp, Protocol::Udp, Protocol::Tcp, Protocol::Tcp].into_iter().zip(0..);
            let gone = all.filter(|&(protocol, n)| find(&table, &keys(n, protocol).0).is_none()).map(|(_, n)| n);
            gone.collect::<Vec<u32>>()
        };
        assert_eq!(evicts(10), [3], "over");
        assert_eq!(evicts(11), [2, 3], "unconfirmed for long");
        assert_eq!(evicts(12), [1, 2, 3], "the datagrams idle longest");
        assert_eq!(evicts(13), [0, 1, 2, 3], "and the others");
        assert_eq!(open(&mut table, 14, Protocol::Tcp, Ticks(9)), Err(Full), "connections stay");
    }

    #[test]
    fn the_kind_of_which_there_are_more_makes_room() {
        let mut table = table(10);
        // Six confirmed datagram flows, four handshakes that have just begun.
        for n in 0..10 {
            let protocol = if n < 6 { Protocol::Udp } else { Protocol::Tcp };
            let there = open(&mut table, n, protocol, Ticks(u32::from(n > 0))).expect("room");
            if n < 6 {
                confirm(&mut table, there, Ticks(u32::from(n > 0)));
            }
        }
        let is_there = |table: &FlowTable<V4>, n| {
            find(table, &keys(n, if n < 6 { Protocol::Udp } else { Protocol::Tcp }).0).is_some()
        };
        open(&mut table, 10, Protocol::Tcp, Ticks(2)).expect("room");
        assert!(!is_there(&table, 0), "the datagrams idle longest");
        open(&mut table, 11, Protocol::Tcp, Ticks(2)).expect("room");
        assert!(!is_there(&table, 6), "as many handshakes as datagram flows: the one begun first");
        open(&mut table, 12, Protocol::Tcp, Ticks(9)).expect("room");
        assert!(!is_there(&table, 7) && (1..6).all(|n| is_there(&table, n)), "an old one in any case");
        assert_eq!((table.streams, table.opening.len, table.evicted), (5, 5, 3));
    }

    #[test]
    fn a_source_port_is_given_up_by_the_kind_that_holds_more_of_them() {
        let mut table = table(10);
        for n in 0..6 {
            let there = open(&mut table, n, Protocol::Udp, Ticks(0)).expect("room");
            if n < 4 {
                confirm(&mut table, there, Ticks(u32::from(n != 2)));
            }
        }
        // Keys that belong to a flow; the port of the one that is made free.
        let free = |table: &mut FlowTable<V4>, now: u32| {
            let all = (0..6).map(|n| keys(n, Protocol::Udp).0).filter(|key| find(table, key).is_some());
            let taken: Vec<_> = all.collect();
            table.free_key(taken.into_iter(), Ticks(now)).map(|key| key.src_port - 1)
        };
        assert_eq!(free(&mut table, 2), Some(2), "idle longest");
        assert_eq!(free(&mut table, 1), Some(4), "those in use stay");
        assert_eq!(free(&mut table, 3), Some(5), "unconfirmed for long");
        assert_eq!((free(&mut table, 1), table.taken_over, table.streams), (None, 3, 3));
        let unused = keys(5, Protocol::Udp).0;
        assert_eq!(table.free_key([unused].into_iter(), Ticks(1)), Some(unused), "it has no flow");
    }

    #[test]
    fn a_half_closed_connection_gives_up_its_key_and_place_if_both_sides_are_silent() {
        let mut table = table(1);
        let there = open(&mut table, 0, Protocol::Tcp, Ticks(0)).expect("room");
        confirm(&mut table, there, Ticks(0));
        let key = keys(0, Protocol::Tcp).0;
        assert_eq!(table.free_key([key].into_iter(), Ticks(900)), None, "a connection is never given up");
        assert_eq!(open(&mut table, 1, Protocol::Tcp, Ticks(900)), Err(Full));
        table.touch(peer(there), Ticks(900), &from_backend(tcp::FIN | tcp::ACK));
        assert_eq!(table.free_key([key].into_iter(), Ticks(900 + 56)), None, "60 s");
        assert_eq!(open(&mut table, 1, Protocol::Tcp, Ticks(900 + 56)), Err(Full));
        assert_eq!(table.free_key([key].into_iter(), Ticks(900 + 57)), Some(key));
        let there = open(&mut table, 0, Protocol::Tcp, Ticks(1000)).expect("room");
        confirm(&mut table, there, Ticks(1000));
        table.touch(there, Ticks(1000), &from_client(tcp::FIN | tcp::ACK));
        open(&mut table, 1, Protocol::Tcp, Ticks(1000 + 57)).expect("its place");
    }

    #[test]
    fn a_connection_that_was_reset_keeps_its_key_while_it_may_go_on() {
        let mut table = table(10);
        let there = open(&mut table, 0, Protocol::Tcp, Ticks(0)).expect("room");
        confirm(&mut table, there, Ticks(0));
        table.touch(there, Ticks(0), &from_client(tcp::RST));
        let key = keys(0, Protocol::Tcp).0;
        assert!(!table.make_free(&key, Ticks(2)));
        assert!(table.make_free(&key, Ticks(3)) && find(&table, &key).is_none());
    }

    #[test]
    fn beyond_their_bound_the_unconfirmed_flow_opened_first_makes_room() {
        let mut table = bounded(100, 10);
        let first = open(&mut table, 0, Protocol::Tcp, Ticks(0)).expect("room");
        confirm(&mut table, first, Ticks(0));
        for n in 1..=10 {
            open(&mut table, n, Protocol::Tcp, Ticks(0)).expect("room");
        }
        assert_eq!((table.live(), table.displaced), (11, 0));
        // One of them repeats itself: the order is that of opening.
        let repeats = find(&table, &keys(1, Protocol::Tcp).0).expect("it is open");
        table.touch(repeats, Ticks(1), &SYN);
        for n in 11..15 {
            open(&mut table, n, Protocol::Tcp, Ticks(1)).expect("room");
        }
        let is_there = |n: u32| find(&table, &keys(n, Protocol::Tcp).0).is_some();
        assert_eq!((0..15).filter(|&n| is_there(n)).collect::<Vec<_>>(), [0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        assert_eq!((table.live(), table.opening.len, table.displaced, table.evicted), (11, 10, 4, 0));
    }

    #[test]
    fn it_fills_to_its_promise() {
        let mut table = table(100_000);
        for n in 0..100_000 {
            open(&mut table, n, Protocol::Udp, Ticks(0)).expect("room for as many as promised");
        }
        assert!((0..100_000).all(|n| find(&table, &keys(n, Protocol::Udp).0).is_some()));
        assert_eq!(table.evicted, 0);
    }

    /// The flows of a list, by walking its links both ways.
    fn walk(table: &FlowTable<V4>, list: List) -> Vec<u32> {
        let follow = |from: u32, link: fn(u32) -> u32| {
            let next = move |&at: &u32| Some(table.entry(link(at)).link).filter(|&next| next != NONE);
            std::iter::successors(Some(from).filter(|&from| from != NONE), next).collect::<Vec<u32>>()
        };
        let forth = follow(list.first, |at| at);
        let mut back = follow(list.last, peer);
        back.reverse();
        assert_eq!(forth, back);
        assert_eq!(forth.len() as u64, list.len);
        forth
    }

    proptest! {
        /// Against the obvious model: opens and closes in any order.
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((any::<bool>(), 0u32..200), 1..400)) {
            let mut table = table(1000);
            let mut model: HashMap<FlowKey<V4>, FlowKey<V4>> = new_map();
            for (opens, n) in steps {
                let (forward, to) = keys(n, Protocol::Tcp);
                match (opens, find(&table, &forward)) {
                    (true, None) => {
                        open(&mut table, n, Protocol::Tcp, Ticks(0)).expect("room");
                        model.insert(forward, to);
                    }
                    (false, Some(index)) => { table.close(index); model.remove(&forward); }
                    _ => {}
                }
            }
            prop_assert_eq!(table.live(), model.len() as u64);
            for n in 0..200 {
                let (forward, to) = keys(n, Protocol::Tcp);
                prop_assert_eq!(find(&table, &forward).is_some(), model.contains_key(&forward));
                prop_assert_eq!(find(&table, &to.reversed()).is_some(), model.contains_key(&forward));
            }
        }

        /// Against plain vectors: flows open, are confirmed, reset and closed in any order, and the lists keep theirs.
        #[test]
        fn its_lists_are_in_order(steps in proptest::collection::vec((0u8..4, 0u32..40), 1..200)) {
            let mut table = bounded(1000, 20);
            let (mut opening, mut closing): (Vec<u32>, Vec<u32>) = (vec![], vec![]);
            for (step, n) in steps {
                let index = find(&table, &keys(n, Protocol::Tcp).0);
                match (step, index) {
                    (0, None) => {
                        if opening.len() == 20 {
                            opening.remove(0);
                        }
                        opening.push(open(&mut table, n, Protocol::Tcp, Ticks(0)).expect("room"));
                    }
                    (1, Some(index)) => {
                        confirm(&mut table, index, Ticks(0));
                        opening.retain(|&open| open != index);
                    }
                    (2, Some(index)) => {
                        table.touch(peer(index), Ticks(0), &from_backend(tcp::RST | tcp::ACK));
                        opening.retain(|&open| open != index);
                        if !closing.contains(&index) {
                            closing.push(index);
                        }
                    }
                    (3, Some(index)) => {
                        table.close(index);
                        opening.retain(|&open| open != index);
                        closing.retain(|&over| over != index);
                    }
                    _ => {}
                }
                prop_assert_eq!(walk(&table, table.opening), opening.clone());
                prop_assert_eq!(walk(&table, table.closing), closing.clone());
            }
        }
    }
}

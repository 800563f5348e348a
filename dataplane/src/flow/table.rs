//! The flow table of one worker.
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
//!   entries a call. No timers, no list to relink per packet.
//! * **Full**: the connection that is evicted for a new one is the one idle longest among a bounded sample, half-open ones
//!   and closed ones before UDP; an established TCP connection never is. If the sample has none, the new flow is refused.
//!
//! A look-up is split in three so that a burst's cache misses overlap: [`FlowTable::hash_all`] (which prefetches the
//! buckets), [`FlowTable::probe`] (which prefetches the entry), [`FlowTable::confirm`].
//!
//! Memory for IPv4: 2 × 64 B entries + 2 × 64 B / 8 / 0.65 of bucket = 153 B a connection.

use std::io;
use std::time::Duration;

use pollgate_common::flow::{Address, FlowKey, Protocol};
use pollgate_common::tables::ServiceId;
use pollgate_common::time::Ticks;

use super::entry::{ASSURED, CLOSING, Entry, FIN, REPLY_DIRECTION, Translation, USED};
pub use super::hash::FlowHash;
use super::hash::FlowHasher;
use crate::memory::{Mapped, Zeroed, prefetch};
use crate::wire::tcp;

/// Tags a bucket holds.
const WAYS: usize = 8;
/// Entries looked at to find one to evict.
const SAMPLE: usize = 64;
/// Entries the sweeper looks at in one call of a busy worker.
pub const SWEEP: usize = 32;
/// And of one with nothing else to do.
pub const SWEEP_IDLE: usize = 512;

/// How long a flow may be idle, by its state.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP, both directions seen.
    pub tcp_established: Duration,
    /// TCP, one direction seen.
    pub tcp_opening: Duration,
    /// TCP, after FIN both ways or RST.
    pub tcp_closing: Duration,
    /// UDP, one direction seen.
    pub udp: Duration,
    /// UDP, both directions seen.
    pub udp_stream: Duration,
}

/// Size and time-outs of a table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections (each takes two entries).
    pub connections: usize,
    /// Time-outs.
    pub timeouts: Timeouts,
}

impl Limits {
    /// What each of so many workers gets, if they share the flows.
    #[must_use]
    pub fn share(self, workers: usize) -> Limits {
        Limits { connections: self.connections.div_ceil(workers.max(1)), ..self }
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

/// How many connections there are and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// In the table.
    pub live: u64,
    /// Of these, not assured yet.
    pub half_open: u64,
    /// Removed after their time-out.
    pub expired: u64,
    /// Removed to make room.
    pub evicted: u64,
}

/// The table was full and nothing could be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module's text.
pub struct FlowTable<A: Address> {
    hasher: FlowHasher,
    buckets: Mapped<Bucket>,
    entries: Mapped<Entry<A>>,
    /// Places never used yet start here.
    fresh: u32,
    /// The free index that is used next; the rest follow by [`Entry::peer`].
    free: Option<u32>,
    live: u64,
    half_open: u64,
    expired: u64,
    evicted: u64,
    cursor: u32,
    swept_at: Ticks,
    idle: [u32; 5],
}

impl<A: Address> FlowTable<A> {
    /// A table for `limits`, its hash keyed by `seeds`. Fails if the memory cannot be mapped.
    pub fn new(limits: &Limits, seeds: [u64; 4]) -> io::Result<FlowTable<A>> {
        let entries = limits.connections.max(1).saturating_mul(2).min(u32::MAX as usize - 1);
        // Thirteen twentieths full at most: one in fifteen flows is in its second bucket then.
        let buckets = (entries / WAYS * 20).div_ceil(13) + 2;
        let t = &limits.timeouts;
        let idle = [t.tcp_established, t.tcp_opening, t.tcp_closing, t.udp, t.udp_stream].map(Ticks::span);
        Ok(FlowTable {
            hasher: FlowHasher::new(seeds),
            buckets: Mapped::new(buckets)?,
            entries: Mapped::new(entries)?,
            fresh: 0,
            free: None,
            live: 0,
            half_open: 0,
            expired: 0,
            evicted: 0,
            cursor: 0,
            swept_at: Ticks(0),
            idle,
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
            Some(entry) if entry.is(USED) && entry.key == *key => Some(candidate.0),
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

    /// The entry at a index that `find` named.
    #[inline]
    pub fn entry(&self, index: u32) -> &Entry<A> {
        &self.entries[index as usize]
    }

    /// The same, to be changed.
    #[inline]
    pub fn entry_mut(&mut self, index: u32) -> &mut Entry<A> {
        &mut self.entries[index as usize]
    }

    /// Opens a flow: `forward` is what the client sends, rewritten to `to`; the reply direction is the mirror image.
    /// Answers the forward direction's index.
    pub fn open(&mut self, forward: FlowKey<A>, to: FlowKey<A>, origin: FlowOrigin, now: Ticks) -> Result<u32, Full> {
        let reply = to.reversed();
        let (there, back) = (self.allocate(now)?, self.allocate(now));
        let Ok(back) = back else {
            self.give_back(there);
            return Err(Full);
        };
        let entry = Entry {
            state: USED,
            last_seen: now,
            service: origin.service.index,
            service_incarnation: origin.service.incarnation,
            backend: origin.backend,
            backend_incarnation: origin.backend_incarnation,
            generation: origin.generation,
            ..Entry::default()
        };
        let translation = translation(&forward, &to);
        self.entries[there as usize] = Entry { key: forward, translation, peer: back, ..entry };
        let translation = translation_back(&forward, &reply);
        self.entries[back as usize] =
            Entry { key: reply, translation, peer: there, state: USED | REPLY_DIRECTION, ..entry };
        if self.link(there).is_err() {
            self.release(there, back);
            return Err(Full);
        }
        if self.link(back).is_err() {
            self.unlink(there);
            self.release(there, back);
            return Err(Full);
        }
        self.live += 1;
        self.half_open += 1;
        Ok(there)
    }

    /// Notes that a packet came for the direction at `index`, and gives its entry.
    #[inline]
    pub fn touch(&mut self, index: u32, now: Ticks, tcp_flags: u8) -> &mut Entry<A> {
        let entry = &self.entries[index as usize];
        if tcp_flags & (tcp::FIN | tcp::RST) != 0 || entry.state & (REPLY_DIRECTION | ASSURED) == REPLY_DIRECTION {
            self.change_state(index, tcp_flags);
        }
        let entry = &mut self.entries[index as usize];
        // Most packets come within a tick of the last: then the line stays clean.
        if entry.last_seen != now {
            entry.last_seen = now;
        }
        entry
    }

    /// First reply, FIN or RST: the few packets of a flow that touch both entries.
    #[cold]
    fn change_state(&mut self, index: u32, tcp_flags: u8) {
        let peer = self.entries[index as usize].peer;
        let mine = self.entries[index as usize].state;
        let mut both = 0;
        if mine & (REPLY_DIRECTION | ASSURED) == REPLY_DIRECTION {
            both |= ASSURED;
            self.half_open -= 1;
        }
        let own = if tcp_flags & tcp::FIN != 0 { FIN } else { 0 };
        let other_closed = self.entries[peer as usize].is(FIN);
        if tcp_flags & tcp::RST != 0 || ((mine | own) & FIN != 0 && other_closed) {
            both |= CLOSING;
        }
        self.entries[index as usize].state |= own | both;
        self.entries[peer as usize].state |= both;
    }

    /// Ends the flow one of whose directions is at `index`.
    pub fn close(&mut self, index: u32) {
        let peer = self.entries[index as usize].peer;
        if !self.entries[index as usize].is(ASSURED) {
            self.half_open -= 1;
        }
        self.live -= 1;
        self.unlink(index);
        self.unlink(peer);
        self.release(index, peer);
    }

    /// Looks at the next `budget` entries and ends the flows that have been idle for too long. Once round, it rests until
    /// the clock ticks.
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
            let index = self.cursor;
            self.cursor += 1;
            let entry = &self.entries[index as usize];
            // One look per flow: from its forward direction.
            if entry.is(USED) && !entry.is(REPLY_DIRECTION) {
                self.expire(index, now);
            }
        }
    }

    /// Whether neither direction of the flow has been seen within its time-out. Reads the peer only if this one is idle.
    #[inline]
    fn is_expired(&self, index: u32, now: Ticks) -> bool {
        let entry = &self.entries[index as usize];
        if entry.last_seen == now {
            return false;
        }
        let limit = self.idle[Self::idle_class(entry)];
        now.since(entry.last_seen) > limit && now.since(self.entries[entry.peer as usize].last_seen) > limit
    }

    fn idle_class(entry: &Entry<A>) -> usize {
        match (entry.key.protocol == Protocol::Udp.number(), entry.is(ASSURED), entry.is(CLOSING)) {
            (true, false, _) => 3,
            (true, true, _) => 4,
            (false, _, true) => 2,
            (false, false, _) => 1,
            (false, true, _) => 0,
        }
    }

    /// Ends the flow at `index` if it has been idle for too long; answers whether it had.
    #[inline]
    pub fn expire(&mut self, index: u32, now: Ticks) -> bool {
        let over = self.is_expired(index, now);
        if over {
            self.close(index);
            self.expired += 1;
        }
        over
    }

    /// Connections in the table.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// How many connections there are and were.
    pub fn totals(&self) -> FlowTotals {
        let FlowTable { live, half_open, expired, evicted, .. } = *self;
        FlowTotals { live, half_open, expired, evicted }
    }

    /// The live flow with exactly this key; one that has expired is removed.
    pub fn live_index(&mut self, key: &FlowKey<A>, now: Ticks) -> Option<u32> {
        let index = self.find(self.hash(key), key)?;
        (!self.expire(index, now)).then_some(index)
    }

    /// Whether `key` belongs to no flow. A flow that is over, but not swept away yet, makes room.
    pub fn make_free(&mut self, key: &FlowKey<A>, now: Ticks) -> bool {
        let Some(index) = self.live_index(key, now) else { return true };
        let over = self.entry(index).is(CLOSING);
        if over {
            self.close(index);
        }
        over
    }

    fn allocate(&mut self, now: Ticks) -> Result<u32, Full> {
        if let Some(index) = self.take_free() {
            return Ok(index);
        }
        if (self.fresh as usize) < self.entries.len() {
            self.fresh += 1;
            return Ok(self.fresh - 1);
        }
        self.evict(now)?;
        self.take_free().ok_or(Full)
    }

    /// Ends the least useful flow among the next [`SAMPLE`] entries.
    #[cold]
    fn evict(&mut self, now: Ticks) -> Result<(), Full> {
        let total = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let mut best: Option<(u32, u32)> = None;
        for _ in 0..SAMPLE {
            self.cursor = if self.cursor + 1 >= total { 0 } else { self.cursor + 1 };
            let index = self.cursor;
            if let Some(worth) = self.eviction_worth(index, now)
                && best.is_none_or(|(most, _)| worth > most)
            {
                best = Some((worth, index));
            }
        }
        let (_, index) = best.ok_or(Full)?;
        self.close(index);
        self.evicted += 1;
        Ok(())
    }

    /// How much better off the table is without the flow at `index`; `None`: it must stay.
    fn eviction_worth(&self, index: u32, now: Ticks) -> Option<u32> {
        let entry = &self.entries[index as usize];
        if !entry.is(USED) || entry.is(REPLY_DIRECTION) || (entry.is_precious() && !self.is_expired(index, now)) {
            return None;
        }
        let idle = now.since(entry.last_seen).min(now.since(self.entries[entry.peer as usize].last_seen));
        // Half-open and closed before any UDP, then the longest idle.
        let first = entry.is(CLOSING) || !entry.is(ASSURED);
        Some(idle.min(u32::MAX >> 1) | if first { 1 << 31 } else { 0 })
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

    fn release(&mut self, index: u32, peer: u32) {
        self.give_back(index);
        self.give_back(peer);
    }

    fn give_back(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.state = 0;
        // The last of the list names itself.
        entry.peer = self.free.unwrap_or(index);
        self.free = Some(index);
    }

    fn take_free(&mut self) -> Option<u32> {
        let index = self.free?;
        let next = self.entries[index as usize].peer;
        self.free = (next != index).then_some(next);
        Some(index)
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

    fn table(connections: usize) -> FlowTable<V4> {
        let limits = Limits { connections, timeouts: TIMEOUTS };
        FlowTable::new(&limits, [1, 2, 3, 4]).expect("memory")
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
        let index = table.open(forward, to, ORIGIN, Ticks(0)).expect("room");
        assert_eq!(find(&table, &forward), Some(index));
        let back = find(&table, &to.reversed()).expect("the reply direction");
        assert_eq!(table.entry(back).translation.to, forward.reversed().into());
        assert_eq!(table.entry(index).peer, back);
        let whole = |p: u32| table.entry(p).translation.whole;
        assert_eq!(u32::from(whole(index)) + u32::from(whole(back)), 0xffff, "there and back adds nothing");
        table.close(back);
        assert_eq!((find(&table, &forward), find(&table, &to.reversed()), table.live()), (None, None, 0));
    }

    #[test]
    fn states_follow_the_packets_and_time_out_accordingly() {
        let mut table = table(16);
        let (forward, to) = keys(0, Protocol::Tcp);
        let there = table.open(forward, to, ORIGIN, Ticks(0)).expect("room");
        let back = table.entry(there).peer;
        assert!(!table.is_expired(there, Ticks(56)) && table.is_expired(there, Ticks(57)), "60 s half open");
        table.touch(back, Ticks(1), tcp::SYN | tcp::ACK);
        assert!(table.entry(there).is_precious() && !table.is_expired(there, Ticks(50_000)));
        table.touch(there, Ticks(2), tcp::FIN | tcp::ACK);
        assert!(!table.entry(there).is(CLOSING), "half closed is not closed");
        table.touch(back, Ticks(3), tcp::FIN | tcp::ACK);
        assert!(table.entry(there).is(CLOSING) && table.entry(back).is(CLOSING));
        assert!(table.is_expired(there, Ticks(3 + 57)));
    }

    #[test]
    fn the_sweeper_ends_idle_flows_and_only_those() {
        let mut table = table(1000);
        for n in 0..1000 {
            let (forward, to) = keys(n, if n % 2 == 0 { Protocol::Udp } else { Protocol::Tcp });
            table.open(forward, to, ORIGIN, Ticks(0)).expect("room");
        }
        for _ in 0..1000 {
            table.sweep(Ticks(40), SWEEP);
        }
        assert_eq!(table.live(), 500, "UDP after 30 s, half-open TCP not yet");
        for _ in 0..1000 {
            table.sweep(Ticks(100), SWEEP);
        }
        assert_eq!(table.live(), 0);
    }

    #[test]
    fn a_full_table_evicts_the_half_open_and_never_the_established() {
        let mut table = table(512);
        for n in 0..512 {
            let (forward, to) = keys(n, Protocol::Tcp);
            let there = table.open(forward, to, ORIGIN, Ticks(0)).expect("room");
            if n % 4 != 0 {
                let back = table.entry(there).peer;
                table.touch(back, Ticks(0), tcp::SYN | tcp::ACK);
            }
        }
        let mut refused = 0;
        for n in 512..2000 {
            let (forward, to) = keys(n, Protocol::Tcp);
            match table.open(forward, to, ORIGIN, Ticks(1)) {
                // At once established, so that it stays.
                Ok(there) => drop(table.touch(table.entry(there).peer, Ticks(1), tcp::ACK)),
                Err(Full) => refused += 1,
            }
        }
        assert_eq!(refused, 1488 - 128, "128 half-open ones made room");
        for n in (0..512).filter(|n| n % 4 != 0) {
            assert!(find(&table, &keys(n, Protocol::Tcp).0).is_some(), "established {n} is still there");
        }
        assert_eq!(table.live(), 512);
    }

    #[test]
    fn it_fills_to_its_promise() {
        let mut table = table(100_000);
        for n in 0..100_000 {
            let (forward, to) = keys(n, Protocol::Udp);
            table.open(forward, to, ORIGIN, Ticks(0)).expect("room for as many as promised");
        }
        assert!((0..100_000).all(|n| find(&table, &keys(n, Protocol::Udp).0).is_some()));
        assert_eq!(table.evicted, 0);
    }

    proptest! {
        /// Against the obvious model: opens and closes in any order.
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((any::<bool>(), 0u32..200), 1..400)) {
            let mut table = table(1000);
            let mut model: HashMap<FlowKey<V4>, FlowKey<V4>> = new_map();
            for (open, n) in steps {
                let (forward, to) = keys(n, Protocol::Tcp);
                match (open, find(&table, &forward)) {
                    (true, None) => { table.open(forward, to, ORIGIN, Ticks(0)).expect("room"); model.insert(forward, to); }
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
    }
}

//! ClientIP affinity: which endpoint each client of a Service port was given last.
//!
//! ```text
//!  new flow ─ remembered, and that endpoint may be chosen? ─ yes ─▶ the same endpoint
//!                                                           └ no ──▶ the ring's, by the source address
//!           ─ opened ──▶ note: the endpoint, for so long        (unconfirmed)
//!  client confirms ────▶ note: the same                         (confirmed)
//! ```
//!
//! Kubernetes' rules (K `pkg/proxy/nftables`, `pkg/proxy/iptables`): the key is the Service port and the source address alone, so all
//! addresses of a port share it; each new flow starts the time-out again; an endpoint that may not be chosen any more is
//! forgotten. The endpoint is named by slot and incarnation, so changes of other endpoints do not matter, and an endpoint that
//! is gone is never confused with its successor.
//!
//! **One table for all workers**, touched only when a flow opens or is confirmed. An entry is two words, neither of which is locked:
//!
//! ```text
//!  check = tag ^ value      tag: keyed hash of Service port and client, 63 bits
//!  value = slot 16 │ incarnation 16 │ expires 31 │ confirmed 1
//! ```
//!
//! A reader takes an entry whose words give its own tag. Halves of two writes give a tag that no client has (one chance in
//! 2⁶³), so such an entry is not found and makes room like any other. The key of the hash is random: no sender can aim at another's
//! entry, or at its bucket.
//!
//! **Bounds.** Any sender can create an entry, with one packet from any address. There are as many entries as the table was made for, eight
//! to a bucket. If a bucket is full, a client that is not confirmed takes the place of another such, never of a confirmed
//! one; a confirmed one prefers their places too. A displaced client gets the ring's choice, which is the same endpoint unless endpoints
//! have changed in the meantime.

#![allow(unsafe_code, reason = "declares that all-zero bytes are a bucket")]

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use pollgate_common::hash::wide;
use pollgate_common::tables::{Backend, ServiceId};
use pollgate_common::time::Ticks;

use crate::memory::{Mapped, Zeroed};

/// Entries of a bucket.
const WAYS: usize = 8;

/// An endpoint of a Service port, as a flow names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Its slot.
    pub(crate) slot: u16,
    /// The slot's incarnation.
    pub(crate) incarnation: u16,
}

impl Endpoint {
    pub(crate) fn new(slot: u16, backend: &Backend) -> Endpoint {
        Endpoint { slot, incarnation: backend.incarnation }
    }
}

/// A client of a Service port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) service: ServiceId,
    pub(crate) address: IpAddr,
}

/// What a worker did to the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AffinityTotals {
    /// Clients that were not in the table and are now.
    pub(crate) remembered: u64,
    /// Clients that made room for others.
    pub(crate) displaced: u64,
    /// Clients for whom there was no room.
    pub(crate) refused: u64,
}

/// The table.
pub struct Affinity {
    hasher: ahash::RandomState,
    buckets: Mapped<Bucket>,
    /// Whether anything was ever written.
    is_used: AtomicBool,
}

#[repr(C, align(128))]
struct Bucket([Entry; WAYS]);

// SAFETY: integers; zero is a bucket of empty entries.
unsafe impl Zeroed for Bucket {}

struct Entry {
    check: AtomicU64,
    value: AtomicU64,
}

/// The value of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value(u64);

impl Value {
    /// Of the clock's bits.
    const CLOCK: u32 = u32::MAX >> 1;

    fn new(endpoint: Endpoint, expires: Ticks, confirmed: bool) -> Value {
        let expires = u64::from(expires.0 & Value::CLOCK);
        let endpoint = u64::from(endpoint.slot) << 16 | u64::from(endpoint.incarnation);
        Value(endpoint << 32 | expires << 1 | u64::from(confirmed))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the bits are taken apart")]
    fn endpoint(self) -> Endpoint {
        Endpoint { slot: (self.0 >> 48) as u16, incarnation: (self.0 >> 32) as u16 }
    }

    fn is_confirmed(self) -> bool {
        self.0 & 1 != 0
    }

    /// The clock wraps: what lies more than half of it ahead lies behind.
    fn is_live(self, now: Ticks) -> bool {
        let expires = u32::try_from(self.0 >> 1 & u64::from(Value::CLOCK)).unwrap_or_default();
        let left = expires.wrapping_sub(now.0) & Value::CLOCK;
        self.0 != 0 && left <= Value::CLOCK / 2
    }
}

impl Entry {
    /// The tag and the value; of an empty entry, both are 0.
    fn read(&self) -> (u64, Value) {
        let value = self.value.load(Relaxed);
        (self.check.load(Relaxed) ^ value, Value(value))
    }

    fn write(&self, tag: u64, value: Value) {
        self.value.store(value.0, Relaxed);
        self.check.store(tag ^ value.0, Relaxed);
    }

    fn clear(&self) {
        self.write(0, Value(0));
    }
}

impl Affinity {
    /// A table for so many clients, its hash keyed by `seeds`. Fails if the memory cannot be mapped.
    pub fn new(clients: usize, seeds: [u64; 4]) -> io::Result<Affinity> {
        let [a, b, c, d] = seeds;
        let hasher = ahash::RandomState::with_seeds(a, b, c, d);
        Ok(Affinity { hasher, buckets: Mapped::new(clients.div_ceil(WAYS).max(1))?, is_used: AtomicBool::new(false) })
    }

    /// Whether any client was ever remembered.
    #[inline]
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Relaxed)
    }

    /// The endpoint that the client was given last, if that is not too long ago. It may be gone.
    pub(crate) fn remembered(&self, client: Client, now: Ticks) -> Option<Endpoint> {
        let (tag, bucket) = self.place(client);
        let mut entries = bucket.0.iter().map(Entry::read);
        entries.find(|&(found, value)| found == tag && value.is_live(now)).map(|(_, value)| value.endpoint())
    }

    /// A flow of the client has been opened, or `confirmed`, to this endpoint: it is remembered for `timeout` from now on.
    pub(crate) fn note(
        &self,
        client: Client,
        endpoint: Endpoint,
        timeout: Duration,
        confirmed: bool,
        now: Ticks,
        totals: &mut AffinityTotals,
    ) {
        if !self.is_used() {
            self.is_used.store(true, Relaxed);
        }
        let (tag, bucket) = self.place(client);
        let expires = Ticks(now.0.wrapping_add(Ticks::span(timeout)));
        let mut own = bucket.0.iter().filter(|entry| entry.read().0 == tag);
        if let Some(entry) = own.next() {
            // Two workers may have made one each at the same time.
            own.for_each(Entry::clear);
            let before = entry.read().1;
            let is_live = before.is_live(now);
            totals.remembered += u64::from(!is_live);
            // The flow that is confirmed may be older than the last one that was opened, which got another endpoint.
            let endpoint = if confirmed && is_live { before.endpoint() } else { endpoint };
            return entry.write(tag, Value::new(endpoint, expires, confirmed || (is_live && before.is_confirmed())));
        }
        let Some((entry, is_live)) = room(bucket, tag, confirmed, now) else {
            totals.refused += 1;
            return;
        };
        totals.remembered += 1;
        totals.displaced += u64::from(is_live);
        entry.write(tag, Value::new(endpoint, expires, confirmed));
    }

    fn place(&self, client: Client) -> (u64, &Bucket) {
        let ServiceId { index, incarnation } = client.service;
        let hash = self.hasher.hash_one((index, incarnation, wide(client.address)));
        let at = (u128::from(hash) * self.buckets.len() as u128) >> 64;
        // Zero is no tag.
        (hash | 1, &self.buckets[usize::try_from(at).unwrap_or_default()])
    }
}

/// The entry that a new client gets, and whether another loses it: one that is not live, or else one of the unconfirmed, or
/// else, for a confirmed client, one of the others. Which of several is a matter of the tag, so of chance: no Service's clients give
/// way more than another's.
fn room(bucket: &Bucket, tag: u64, confirmed: bool, now: Ticks) -> Option<(&Entry, bool)> {
    let start = usize::try_from(tag >> 1 & 0xff).unwrap_or_default();
    let entries = || (0..WAYS).map(move |step| &bucket.0[(start + step) % WAYS]);
    let free = entries().find(|entry| !entry.read().1.is_live(now));
    let unconfirmed = || entries().find(|entry| !entry.read().1.is_confirmed());
    let any = || entries().next().filter(|_| confirmed);
    free.map(|entry| (entry, false)).or_else(|| unconfirmed().or_else(any).map(|entry| (entry, true)))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn table(clients: usize) -> Affinity {
        Affinity::new(clients, [1, 2, 3, 4]).expect("memory")
    }

    fn client(n: u32) -> Client {
        Client { service: ServiceId { index: 7, incarnation: 1 }, address: IpAddr::from(n.to_be_bytes()) }
    }

    fn endpoint(slot: u16) -> Endpoint {
        Endpoint { slot, incarnation: 3 }
    }

    fn opened(table: &Affinity, n: u32, slot: u16, now: u32) -> AffinityTotals {
        let mut totals = AffinityTotals::default();
        table.note(client(n), endpoint(slot), HOUR, false, Ticks(now), &mut totals);
        totals
    }

    fn confirmed(table: &Affinity, n: u32, slot: u16, now: u32) -> AffinityTotals {
        let mut totals = AffinityTotals::default();
        table.note(client(n), endpoint(slot), HOUR, true, Ticks(now), &mut totals);
        totals
    }

    fn slot(table: &Affinity, n: u32, now: u32) -> Option<u16> {
        table.remembered(client(n), Ticks(now)).map(|endpoint| endpoint.slot)
    }

    #[test]
    fn a_client_of_a_service_port_is_remembered_until_the_time_out_after_its_last_flow() {
        let table = table(100);
        assert!(!table.is_used());
        assert_eq!(opened(&table, 1, 5, 10), AffinityTotals { remembered: 1, ..AffinityTotals::default() });
        assert!(table.is_used());
        assert_eq!(table.remembered(client(1), Ticks(10)), Some(endpoint(5)));
        assert_eq!((slot(&table, 2, 10), slot(&table, 1, 10 + 3353)), (None, Some(5)));
        assert_eq!(slot(&table, 1, 10 + 3354), None, "3354 ticks are the first beyond an hour");
        assert_eq!(opened(&table, 1, 5, 1000), AffinityTotals::default(), "each flow starts the time-out again");
        assert_eq!(slot(&table, 1, 1000 + 3353), Some(5));
        let other = |service| table.remembered(Client { service, ..client(1) }, Ticks(1000));
        assert_eq!(other(ServiceId { index: 8, incarnation: 1 }), None);
        assert_eq!(other(ServiceId { index: 7, incarnation: 2 }), None, "the index's next holder has other clients");
        opened(&table, 1, 6, 1000);
        assert_eq!(slot(&table, 1, 1000), Some(6), "the last endpoint counts");
    }

    /// K `pkg/proxy/nftables`: the affinity set is updated by new connections alone.
    #[test]
    fn a_flow_that_is_confirmed_late_does_not_bring_its_endpoint_back() {
        let table = table(100);
        opened(&table, 1, 5, 10);
        opened(&table, 1, 6, 20);
        assert_eq!(confirmed(&table, 1, 5, 30), AffinityTotals::default());
        assert_eq!(
            (slot(&table, 1, 30), slot(&table, 1, 30 + 3353)),
            (Some(6), Some(6)),
            "it starts the time-out again"
        );
        assert_eq!(confirmed(&table, 1, 7, 5000), AffinityTotals { remembered: 1, ..AffinityTotals::default() });
        assert_eq!(slot(&table, 1, 5000), Some(7), "the time was over");
    }

    #[test]
    fn an_ipv6_client_is_not_its_neighbour() {
        let table = table(100);
        let at = |text: &str| Client { address: text.parse().expect("an address"), ..client(0) };
        let mut totals = AffinityTotals::default();
        table.note(at("2001:db8::1"), endpoint(5), HOUR, false, Ticks(0), &mut totals);
        assert_eq!(table.remembered(at("2001:db8::1"), Ticks(0)), Some(endpoint(5)));
        assert_eq!(table.remembered(at("2001:db8::2"), Ticks(0)), None);
    }

    #[test]
    fn the_clock_may_wrap() {
        let table = table(100);
        let late = u32::MAX >> 1;
        opened(&table, 1, 5, late);
        assert_eq!((slot(&table, 1, late), slot(&table, 1, late.wrapping_add(3000))), (Some(5), Some(5)));
        assert_eq!(slot(&table, 1, late.wrapping_add(4000)), None);
    }

    #[test]
    fn unconfirmed_clients_never_displace_confirmed_ones() {
        let table = table(WAYS);
        for n in 0..8 {
            opened(&table, n, 5, 0);
        }
        assert_eq!(opened(&table, 8, 5, 0), AffinityTotals { remembered: 1, displaced: 1, refused: 0 });
        for n in 100..105 {
            assert_eq!(confirmed(&table, n, 6, 0).displaced, 1, "it takes the place of an unconfirmed one");
        }
        for n in 1000..2000 {
            assert_eq!(opened(&table, n, 7, 0), AffinityTotals { remembered: 1, displaced: 1, refused: 0 });
        }
        assert!((100..105).all(|n| slot(&table, n, 0) == Some(6)));
        assert_eq!(opened(&table, 100, 6, 1), AffinityTotals::default());
        for n in 105..108 {
            confirmed(&table, n, 6, 0);
        }
        assert_eq!(opened(&table, 9, 5, 1), AffinityTotals { refused: 1, ..AffinityTotals::default() });
        assert_eq!((slot(&table, 9, 1), slot(&table, 100, 1)), (None, Some(6)), "another flow left it confirmed");
        assert_eq!(confirmed(&table, 108, 6, 1), AffinityTotals { remembered: 1, displaced: 1, refused: 0 });
        assert_eq!(opened(&table, 9, 5, 4000), AffinityTotals { remembered: 1, displaced: 0, refused: 0 }, "time-outs");
    }

    /// What a reader finds was written for that client, whatever others write at the same time into the same bucket.
    #[test]
    fn workers_share_it_without_mixing_up_clients() {
        let table = table(WAYS);
        let worker = |seed: u32| {
            let table = &table;
            move || {
                let mut found = 0u32;
                for round in 0..200_000u32 {
                    let n = (round.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) % 24;
                    match slot(table, n, 0) {
                        Some(slot) => {
                            assert_eq!(u32::from(slot) % 24, n, "another client's endpoint");
                            found += 1;
                        }
                        None => drop(opened(table, n, u16::try_from(n + round % 100 * 24).expect("small"), 0)),
                    }
                }
                found
            }
        };
        let found: u32 = thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|seed| scope.spawn(worker(seed))).collect();
            workers.into_iter().map(|worker| worker.join().expect("no client is mixed up")).sum()
        });
        assert!(found > 1000, "{found}");
    }

    #[test]
    fn of_two_entries_for_one_client_one_is_left() {
        let table = table(WAYS);
        opened(&table, 1, 5, 0);
        let (tag, bucket) = table.place(client(1));
        let twin = bucket.0.iter().find(|entry| entry.read().0 == 0).expect("room");
        twin.write(tag, Value::new(endpoint(6), Ticks(100), true));
        opened(&table, 1, 5, 0);
        let left = bucket.0.iter().filter(|entry| entry.read().0 == tag).count();
        assert_eq!((left, slot(&table, 1, 0)), (1, Some(5)));
    }
}

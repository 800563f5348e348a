//! Counters: one block per worker, written only by that worker, read by any thread; one for what is sent beside the workers; and
//! one for DNS over TCP and for names outside the cluster.
//!
//! A counter is an atomic only so that reading it from another thread is defined; the worker's increment is a load, an add
//! and a store (no locked instruction). Relaxed is enough: no reader concludes anything from one counter about another,
//! except the totals: they add up exactly when the worker is idle, and differ by at most a burst before that.
//!
//! ```text
//!   rx + originated = tx + passed + consumed + Σ drops + held
//! ```
//!
//! `rx` counts frames a port handed up, on the worker whose port it was; a frame handed over to another worker is
//! counted (sent, dropped, ...) by the one that ends it, so the equation holds over the sum of the workers, with the
//! frames on their hand-over rings as part of `held`.

mod services;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;
use zerocopy::FromZeros;

pub use self::services::{Carried, MAX_SERVICES, ServiceCounters};

use crate::reasons::{DropReason, PassReason};

/// One number, written by one thread.
#[derive(Debug, Default, FromZeros)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets a number that is kept elsewhere. Only the owning worker may call it.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Reads it, from any thread.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Whether a number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, and starts at 0 with the process.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// The word in documentation and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Ethernet frames.
    Frames,
    /// Bytes, Ethernet headers included.
    Bytes,
    /// Translated packets.
    Packets,
    /// Flows.
    Flows,
    /// Occurrences of what the counter's name says.
    Events,
    /// Nothing: a number in a sequence.
    Number,
}

impl Unit {
    /// The word in documentation and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Frames => "frames",
            Unit::Bytes => "bytes",
            Unit::Packets => "packets",
            Unit::Flows => "flows",
            Unit::Events => "events",
            Unit::Number => "number",
        }
    }
}

/// How a counter is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declaration {
    /// Its name: snake case, stable.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// Its meaning, in a sentence.
    pub sentence: &'static str,
}

impl Declaration {
    /// Its name in metrics, without the prefix of all names and without the suffix of counters: with its unit, once.
    pub fn metric(&self) -> String {
        let unit = match self.unit {
            Unit::Frames | Unit::Bytes | Unit::Packets | Unit::Flows => self.unit.name(),
            Unit::Events | Unit::Number => return self.name.to_owned(),
        };
        let has_it = self.name.split('_').any(|word| word == unit);
        if has_it { self.name.to_owned() } else { format!("{}_{unit}", self.name) }
    }
}

macro_rules! counters {
    ($($field:ident $kind:ident $unit:ident $sentence:literal,)*) => {
        /// Every counter of a worker besides those by reason, in the order of the declaration.
        pub const DECLARED: &[Declaration] = &[$(Declaration {
            name: stringify!($field),
            kind: Kind::$kind,
            unit: Unit::$unit,
            sentence: $sentence,
        },)*];

        /// The counters of one worker.
        #[derive(Debug)]
        pub struct WorkerCounters {
            $(#[doc = $sentence] pub $field: Counter,)*
            /// Frames dropped, by reason.
            pub drops: [Counter; DropReason::COUNT],
            /// Frames left to the kernel, by reason.
            pub passes: [Counter; PassReason::COUNT],
        }

        impl Default for WorkerCounters {
            fn default() -> Self {
                WorkerCounters {
                    $($field: Counter::default(),)*
                    drops: std::array::from_fn(|_| Counter::default()),
                    passes: std::array::from_fn(|_| Counter::default()),
                }
            }
        }

        /// A copy of one worker's counters, or the sum of several.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Totals {
            $(#[doc = $sentence] pub $field: u64,)*
            /// Frames dropped, by reason, in the order of [`DropReason::ALL`].
            pub drops: [u64; DropReason::COUNT],
            /// Frames left to the kernel, by reason, in the order of [`PassReason::ALL`].
            pub passes: [u64; PassReason::COUNT],
        }

        impl Default for Totals {
            fn default() -> Self {
                Totals { $($field: 0,)* drops: [0; DropReason::COUNT], passes: [0; PassReason::COUNT] }
            }
        }

        impl WorkerCounters {
            /// Adds this worker's numbers to `totals`.
            pub fn add_to(&self, totals: &mut Totals) {
                $(totals.$field += self.$field.value();)*
                for (total, counter) in totals.drops.iter_mut().zip(&self.drops) {
                    *total += counter.value();
                }
                for (total, counter) in totals.passes.iter_mut().zip(&self.passes) {
                    *total += counter.value();
                }
            }
        }

        impl Totals {
            /// Each counter of [`DECLARED`] with its value.
            pub fn counters(&self) -> impl Iterator<Item = (&'static Declaration, u64)> {
                DECLARED.iter().zip([$(self.$field,)*])
            }
        }
    };
}

counters! {
    rx Counter Frames "Frames received.",
    rx_bytes Counter Bytes "Bytes received, Ethernet headers included.",
    originated Counter Frames "Frames created by pollgate: resets, ICMP errors, and responses to forwarded DNS queries.",
    tx Counter Frames "Frames sent.",
    tx_bytes Counter Bytes "Bytes sent, Ethernet headers included.",
    consumed Counter Frames "Frames for pollgate itself that were processed without a reply.",
    held Gauge Frames "Frames currently waiting for a neighbour's MAC address or for the first fragment of their datagram, or being handed over between workers.",
    handed_over Counter Frames "Frames handed over to the worker that owns their flow.",
    handed_in Counter Frames "Frames received from other workers.",
    flows_live Gauge Flows "Flows currently in the table.",
    flows_half_open Gauge Flows "Flows currently in the table that their client has not confirmed.",
    flows_opened Counter Flows "Flows opened.",
    flows_expired Counter Flows "Flows removed after their time-out.",
    flows_evicted Counter Flows "Flows evicted from a full table to make room for new ones.",
    flows_displaced Counter Flows "Unconfirmed flows removed for new ones, because there were as many as `flows.unconfirmedPercent` allows.",
    ports_taken_over Counter Flows "Unconfirmed flows, idle UDP flows and half-closed connections removed because a new flow needed their source-translation port.",
    tcp_out_of_window Counter Frames "TCP RSTs and FINs whose sequence number does not fit the connection: sent on, but the flow is unchanged.",
    sctp_wrong_tag Counter Frames "SCTP ABORTs and SHUTDOWNs whose verification tag does not fit the association: sent on, but the flow is unchanged.",
    affinity_remembered Counter Events "Clients of Services with ClientIP affinity that began to be remembered.",
    affinity_displaced Counter Events "Remembered clients that were forgotten to make room for others.",
    affinity_refused Counter Events "Clients that were not remembered, because confirmed clients have all the room.",
    address_conflicts Counter Frames "ARP packets and neighbour discovery messages of other hosts that use an owned address, or ask whether they may.",
    dns_a Counter Events "DNS queries for A records. This and the next four: well-formed queries by type.",
    dns_aaaa Counter Events "DNS queries for AAAA records.",
    dns_srv Counter Events "DNS queries for SRV records.",
    dns_ptr Counter Events "DNS queries for PTR records.",
    dns_other Counter Events "DNS queries for records of other types.",
    dns_answered Counter Events "DNS responses with records (NOERROR). This and the next ten: responses by code.",
    dns_no_data Counter Events "DNS responses that the name exists, but not with this type (NOERROR without records).",
    dns_nxdomain Counter Events "DNS responses that the name does not exist (NXDOMAIN).",
    dns_servfail Counter Events "DNS responses that the objects are not loaded yet, that no upstream gave an answer, or that there was no room to ask (SERVFAIL).",
    dns_refused Counter Events "DNS responses that the name is in no zone of the cluster, that its class is not IN, or that zones are not transferred (REFUSED).",
    dns_notimp Counter Events "DNS responses to an opcode other than QUERY (NOTIMP).",
    dns_badvers Counter Events "DNS responses to an EDNS version other than 0 (BADVERS).",
    dns_bad_name Counter Events "DNS responses to a malformed name, or to a compression pointer that leads nowhere (FORMERR).",
    dns_bad_counts Counter Events "DNS responses to a query without exactly one question, or shorter than its counts say (FORMERR).",
    dns_bad_opt Counter Events "DNS responses to a malformed EDNS record, or to two of them (FORMERR).",
    dns_trailing Counter Events "DNS responses to a query with bytes behind its last record (FORMERR).",
    dns_truncated Counter Events "DNS responses without records because these are longer than the client accepts by UDP.",
    dns_search_list Counter Events "DNS responses with records of another domain of the Pod's search list (`dns.autopath`).",
    dns_slipped Counter Events "DNS queries beyond the rate that got an empty, truncated response.",
    dns_tcp Counter Events "DNS queries over TCP. The counters by type and by code have them, too.",
    dns_tcp_accepted Counter Events "DNS connections accepted.",
    dns_tcp_open Gauge Number "DNS connections currently open.",
    dns_tcp_displaced Counter Events "DNS connections closed for a newer one, because the client, or all clients together, had as many as allowed.",
    dns_tcp_timed_out Counter Events "DNS connections closed because no whole query came in time, or because the client did not read its responses.",
    dns_tcp_malformed Counter Events "DNS connections closed because of a message that is not a query, or of a length that none has.",
    dns_forwarded Counter Events "DNS queries for names outside the cluster, or for aliases of such names, that took the resolver. The counters by type and by code have them, too.",
    dns_cached Counter Events "Forwarded DNS queries that were answered from the resolver's cache.",
    dns_stale Counter Events "Forwarded DNS queries that were answered with an expired answer, because no upstream gave another (`dns.serveStale`).",
    dns_coalesced Counter Events "Forwarded DNS queries that waited for the answer to an equal one.",
    dns_no_room Counter Events "Forwarded DNS queries that got SERVFAIL, or no response, for lack of room: the client, or all clients together, had as many waiting as allowed, one client prefix asked for more than a tenth of `dns.responsesPerSecond`, a queue between a worker and the resolver was full, or the query had more extension headers than are kept.",
    dns_upstream_queries Counter Events "DNS queries sent to upstreams, over UDP or TCP.",
    dns_upstream_tcp Counter Events "Those of them over TCP, because the response over UDP was truncated.",
    dns_upstream_failures Counter Events "DNS queries to upstreams without a usable response: none in time, an error, or a malformed message.",
    dns_upstream_bogus Counter Events "Messages from upstreams that do not respond to the query: another number or another question.",
    dns_prefetched Counter Events "Names that were asked for again before their answer in the cache expired.",
    announced Counter Frames "Frames that announced where owned addresses are: gratuitous ARP and unsolicited neighbour advertisements. Not part of `originated` and `tx`.",
    missed Counter Frames "Frames the kernel dropped before pollgate received them (receive ring full).",
    given_to_host Counter Frames "Frames that an AF_XDP port took from the kernel although they were not for pollgate, given back by the host pair. They count as sent.",
    bursts Counter Events "Bursts processed.",
    polls Counter Events "Rounds of the worker's loop, with frames or without.",
    sleeps Counter Events "Times the worker slept while waiting for frames.",
    generation Gauge Number "Generation of the tables that the worker used last.",
}

impl WorkerCounters {
    /// Counts a drop.
    #[inline]
    pub fn drop(&self, reason: DropReason) {
        self.drops[reason.index()].add(1);
    }

    /// Counts a frame left to the kernel.
    #[inline]
    pub fn pass(&self, reason: PassReason) {
        self.passes[reason.index()].add(1);
    }
}

impl Totals {
    /// Frames left to the kernel, all reasons.
    pub fn passed(&self) -> u64 {
        self.passes.iter().sum()
    }

    /// Frames dropped, all reasons.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Frames dropped for `reason`.
    pub fn drops_of(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// Frames left to the kernel for `reason`.
    pub fn passes_of(&self, reason: PassReason) -> u64 {
        self.passes[reason.index()]
    }

    /// Frames pollgate has and has not decided on: waiting for a neighbour or a first fragment, or on the way between two workers.
    pub fn waiting(&self) -> u64 {
        self.held + self.handed_over.saturating_sub(self.handed_in)
    }

    /// Both sides of the equation of the module: frames that came to be, frames accounted for.
    pub fn balance(&self) -> (u64, u64) {
        (self.rx + self.originated, self.tx + self.passed() + self.consumed + self.dropped() + self.waiting())
    }
}

/// All counters of all workers.
#[derive(Debug)]
pub struct Counters {
    workers: Box<[CachePadded<WorkerCounters>]>,
    beside: CachePadded<WorkerCounters>,
    dns: CachePadded<WorkerCounters>,
    services: Box<[ServiceCounters]>,
}

impl Counters {
    /// For `workers` workers.
    pub fn new(workers: usize) -> Counters {
        Counters {
            workers: (0..workers).map(|_| CachePadded::default()).collect(),
            beside: CachePadded::default(),
            dns: CachePadded::default(),
            services: (0..workers).map(|_| ServiceCounters::new()).collect(),
        }
    }

    /// The blocks, one per worker.
    pub fn workers(&self) -> impl ExactSizeIterator<Item = &WorkerCounters> {
        self.workers.iter().map(|block| &**block)
    }

    /// One worker's block.
    ///
    /// # Panics
    /// If there is no such worker: a mistake at start-up, never caused by a packet.
    pub fn worker(&self, worker: usize) -> &WorkerCounters {
        &self.workers[worker]
    }

    /// The block of the thread that announces addresses: what is sent beside the workers.
    pub fn beside_workers(&self) -> &WorkerCounters {
        &self.beside
    }

    /// The block of the thread that answers DNS queries over TCP, and for names outside the cluster.
    pub fn dns(&self) -> &WorkerCounters {
        &self.dns
    }

    /// What the Services' endpoints carried by way of one worker.
    ///
    /// # Panics
    /// If there is no such worker: a mistake at start-up, never caused by a packet.
    #[inline]
    pub fn services(&self, worker: usize) -> &ServiceCounters {
        &self.services[worker]
    }

    /// The sum over all workers, and what is counted beside them.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for block in self.workers().chain([self.beside_workers(), self.dns()]) {
            block.add_to(&mut totals);
        }
        totals
    }

    /// What all endpoints of the Service port with this index carried, since the process started.
    pub fn carried(&self, service: u32) -> Carried {
        self.carried_from(service, 0)
    }

    /// What endpoints carried in the slots from this one on, and endpoints that are counted together ([`ServiceCounters`]).
    pub fn carried_from(&self, service: u32, slot: usize) -> Carried {
        self.services.iter().map(|worker| worker.from(service, slot)).sum()
    }

    /// What the endpoint in a slot carried, and those before it in the slot, since the process started.
    pub fn carried_by(&self, service: u32, slot: u16) -> Carried {
        self.services.iter().map(|worker| worker.of(service, slot)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_the_sum_and_balance() {
        let counters = Counters::new(2);
        counters.worker(0).rx.add(3);
        counters.worker(1).rx.add(2);
        counters.worker(0).tx.add(1);
        counters.worker(1).drop(DropReason::Runt);
        counters.worker(1).pass(PassReason::Arp);
        counters.worker(0).consumed.add(1);
        counters.worker(0).held.set(1);
        counters.beside_workers().announced.add(4);
        let totals = counters.totals();
        assert_eq!((totals.rx, totals.announced), (5, 4));
        assert_eq!(totals.balance(), (5, 5));
        assert_eq!((totals.drops_of(DropReason::Runt), totals.passes_of(PassReason::Arp)), (1, 1));
    }

    #[test]
    fn a_metric_has_the_unit_in_its_name_once() {
        let name = |counter: &str| DECLARED.iter().find(|declared| declared.name == counter).map(Declaration::metric);
        for (counter, metric) in
            [("rx", "rx_frames"), ("rx_bytes", "rx_bytes"), ("flows_live", "flows_live"), ("bursts", "bursts")]
        {
            assert_eq!(name(counter).as_deref(), Some(metric));
        }
    }

    #[test]
    fn a_counter_comes_with_its_own_declaration() {
        let totals = Totals { rx: 3, flows_live: 5, generation: 7, ..Totals::default() };
        let told: Vec<_> = totals.counters().filter(|(_, value)| *value > 0).collect();
        let told: Vec<_> =
            told.iter().map(|(counter, value)| (counter.name, counter.kind, counter.unit, *value)).collect();
        let expected = [
            ("rx", Kind::Counter, Unit::Frames, 3),
            ("flows_live", Kind::Gauge, Unit::Flows, 5),
            ("generation", Kind::Gauge, Unit::Number, 7),
        ];
        assert_eq!(told, expected);
    }
}

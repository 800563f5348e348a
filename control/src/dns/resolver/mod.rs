//! Names that the zones do not have, asked of other servers.
//!
//! ```text
//!  question ─▶ cache ──hit──────────────────────────────────────▶ answer
//!                └─miss─▶ slot (bounded) ─▶ flight, one for equal questions ─▶ upstreams: UDP, TCP if truncated, the next one
//!                                               └─▶ cache
//! ```
//!
//! **What strangers cost.** Everybody who reaches the DNS address may ask. At most 2048 questions wait, of which 512 from one client prefix
//! (IPv4 /24, IPv6 /56). Beyond them, the one that has waited longest gets SERVFAIL: honest names are answered in milliseconds, so
//! those that wait long are the ones of a flood. A flight without anyone who waits for it ends. Each question takes 4.5 s at most. The
//! cache has bounds by number and by bytes, for answers and denials apart, so that a flood of names that do not exist displaces no
//! answer.
//!
//! **Forged responses** (RFC 5452): each query has a random number and a socket of its own, with a random port, which takes datagrams
//! from its upstream alone. What does not repeat number and question is ignored, and after a few of these the upstream is given up.

mod cache;
#[cfg(test)]
pub(crate) mod fuzz;
mod message;
mod pool;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pollgate_common::counters::{Counters, WorkerCounters};
use pollgate_common::dns::answer::{self, Answered, NoAnswer, Rule};
use pollgate_common::dns::message::Query;
use pollgate_common::dns::name::{Name, from_wire};
use pollgate_common::dns::relay::{Record, Relayed, relay};
use pollgate_common::dns::zone::{Zone, ZoneSettings};
use pollgate_common::net::source_prefix;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::sleep;

use self::cache::{Cache, Found};
pub(super) use self::message::Question;
use self::pool::Pool;
use self::upstream::NoResponse;
pub use self::upstream::UpstreamStats;
use super::slots::{Limits, Slots};

/// Questions that may wait, from all clients.
const SLOTS: usize = 2048;
/// Questions that may wait, from one client prefix.
const SLOTS_PER_CLIENT: usize = 512;
/// How long a client waits for a new answer before it gets an expired one (RFC 8767 §5).
const STALE_AFTER: Duration = Duration::from_millis(1800);
/// Names that may be asked for without anybody who waits for them.
const PREFETCHES: usize = 64;

/// Questions and flights from which on no question is taken. One that has lost its slot keeps its socket until its task runs next.
const LIVE: usize = 2 * SLOTS + 256;

/// File descriptors that asking needs: a socket for each flight. The last question that is taken may start one more.
pub(super) const OPEN_FILES: u64 = (LIVE + 1) as u64;

/// An answer, or why there is none.
#[derive(Clone, Debug)]
pub(super) enum Resolved {
    /// What an upstream answered so many seconds ago.
    Answer(Arc<Relayed>, u32),
    Failed,
    NoRoom,
}

/// What is asked of other servers for a query, and the aliases of the zone that lead there.
#[derive(Debug)]
pub(super) struct ForwardedQuestion {
    pub(super) question: Question,
    aliases: Vec<Record>,
}

/// Asks other servers.
pub struct Resolver {
    /// By zone, as in the settings.
    pools: Vec<Pool>,
    settings: Arc<ZoneSettings>,
    serve_stale: bool,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Question, Flight>>,
    slots: Mutex<Slots<u128, oneshot::Sender<()>>>,
    prefetches: Arc<Semaphore>,
    live: Arc<Gate>,
    counters: Arc<Counters>,
}

/// Sends the outcome to all who wait for it.
type Flight = watch::Sender<Option<Outcome>>;
/// Without an answer: none of the upstreams gave one.
type Outcome = Option<Arc<Relayed>>;

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Resolver {
    /// For the zones that `settings` forwards. `serve_stale`: expired answers are better than none.
    pub fn new(settings: Arc<ZoneSettings>, serve_stale: bool, counters: Arc<Counters>) -> Resolver {
        Resolver {
            pools: settings.forward.iter().map(|forward| Pool::new(&forward.upstreams)).collect(),
            settings,
            serve_stale,
            cache: Mutex::new(Cache::new(serve_stale)),
            flights: Mutex::default(),
            slots: Mutex::new(Slots::new(Limits { all: SLOTS, per_client: SLOTS_PER_CLIENT })),
            prefetches: Arc::new(Semaphore::new(PREFETCHES)),
            live: Arc::default(),
            counters,
        }
    }

    /// What each upstream has been asked, by its address, and how long it took. One that has several zones is listed for each.
    pub fn stats(&self) -> BTreeMap<String, UpstreamStats> {
        let zones = self.settings.forward.iter().zip(&self.pools);
        zones
            .flat_map(|(forward, pool)| pool.stats().map(|(address, stats)| (named(address, &forward.zone), stats)))
            .collect()
    }

    /// What is to be asked for a query that takes a resolver.
    pub(super) fn forwarded(&self, query: &Query, zone: &Zone) -> Option<ForwardedQuestion> {
        let mut owner = query.name.clone();
        let mut aliases = Vec::new();
        let (target, at) = answer::outside_name(zone, query.name.clone(), |name: &Name| {
            aliases.push(Record::alias(owner.as_bytes(), name.as_bytes(), self.settings.ttl));
            owner = name.clone();
        })?;
        let question = Question {
            zone: at,
            name: target.as_bytes().into(),
            rtype: query.rtype,
            dnssec_ok: query.edns.is_some_and(|opt| opt.dnssec_ok()),
            checking_disabled: query.header.checking_disabled(),
        };
        Some(ForwardedQuestion { question, aliases })
    }

    /// An answer from the cache.
    pub(super) fn cached(self: &Arc<Self>, forwarded: &ForwardedQuestion) -> Option<Resolved> {
        // Not locked while what follows locks it again.
        let found = self.cache().find(&forwarded.question, Instant::now())?;
        match found {
            Found::Fresh { answer, age, expires_soon } => {
                self.block().dns_cached.add(1);
                if expires_soon {
                    self.prefetch(forwarded);
                }
                Some(Resolved::Answer(answer, age))
            }
            Found::Failure => {
                self.block().dns_cached.add(1);
                Some(self.stale(forwarded).unwrap_or(Resolved::Failed))
            }
        }
    }

    /// An expired answer, if these are served (RFC 8767).
    fn stale(&self, forwarded: &ForwardedQuestion) -> Option<Resolved> {
        if !self.serve_stale {
            return None;
        }
        let answer = self.cache().stale(&forwarded.question, Instant::now())?;
        self.block().dns_stale.add(1);
        Some(Resolved::Answer(answer, 0))
    }

    /// Permission to ask one more question. Without it, those that have lost their slot must have their turn first.
    pub(super) fn enter(&self) -> Option<Live> {
        self.live.has_room().then(|| Live::new(&self.live))
    }

    /// Waits until there is room for one more question.
    pub(super) async fn room(&self) {
        while !self.live.has_room() {
            self.live.freed.notified().await;
        }
    }

    /// The answer to a question that the cache does not have.
    pub(super) async fn look_up(
        self: &Arc<Self>,
        client: IpAddr,
        forwarded: &ForwardedQuestion,
        _live: Live,
    ) -> Resolved {
        let (cancel, mut cancelled) = oneshot::channel();
        let _place = self.take_slot(client, cancel);
        let mut flight = self.join(forwarded);
        let stale_after = sleep(STALE_AFTER);
        tokio::pin!(stale_after);
        let outcome = loop {
            tokio::select! {
                outcome = landed(&mut flight) => break outcome,
                () = &mut stale_after, if self.serve_stale && !stale_after.is_elapsed() => {
                    if let Some(stale) = self.stale(forwarded) {
                        self.see_through(flight.clone());
                        return stale;
                    }
                }
                _ = &mut cancelled => return Resolved::NoRoom,
            }
        };
        match outcome {
            Some(Some(answer)) => Resolved::Answer(answer, 0),
            Some(None) | None => self.stale(forwarded).unwrap_or(Resolved::Failed),
        }
    }

    /// Writes the response over the query in `buffer`.
    pub(super) fn respond(
        query: &Query,
        buffer: &mut [u8],
        forwarded: &ForwardedQuestion,
        resolved: &Resolved,
    ) -> Result<Answered, NoAnswer> {
        match resolved {
            Resolved::Answer(answer, age) => relay(query, buffer, &forwarded.aliases, answer, *age),
            Resolved::Failed => answer::fail(query, buffer, Rule::UpstreamFailed),
            Resolved::NoRoom => answer::fail(query, buffer, Rule::Busy),
        }
    }

    /// Keeps a flight up that nobody waits for any more: what it brings is for the next.
    fn see_through(self: &Arc<Self>, mut flight: watch::Receiver<Option<Outcome>>) {
        if let Ok(slot) = Arc::clone(&self.prefetches).try_acquire_owned() {
            tokio::spawn(async move {
                landed(&mut flight).await;
                drop(slot);
            });
        }
    }

    fn take_slot(self: &Arc<Self>, client: IpAddr, cancel: oneshot::Sender<()>) -> Slot {
        let mut slots = self.slots();
        let number = slots.number();
        // Dropping it tells the one who waited.
        drop(slots.take(number, source_prefix(client), cancel, Instant::now()));
        Slot { number, resolver: Arc::clone(self) }
    }

    /// The flight of the question; starts one if there is none.
    fn join(self: &Arc<Self>, forwarded: &ForwardedQuestion) -> watch::Receiver<Option<Outcome>> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&forwarded.question) {
            self.block().dns_coalesced.add(1);
            return flight.subscribe();
        }
        self.start(&mut flights, &forwarded.question, None)
    }

    /// Asks again for an answer that is used and about to expire.
    fn prefetch(self: &Arc<Self>, forwarded: &ForwardedQuestion) {
        let mut flights = self.flights();
        if flights.contains_key(&forwarded.question) {
            return;
        }
        let Ok(slot) = Arc::clone(&self.prefetches).try_acquire_owned() else { return };
        self.block().dns_prefetched.add(1);
        drop(self.start(&mut flights, &forwarded.question, Some(slot)));
    }

    fn start(
        self: &Arc<Self>,
        flights: &mut HashMap<Question, Flight>,
        question: &Question,
        slot: Option<OwnedSemaphorePermit>,
    ) -> watch::Receiver<Option<Outcome>> {
        let (flight, receiver) = watch::channel(None);
        flights.insert(question.clone(), flight.clone());
        // Counted from here on, and not when it has its first turn.
        let live = Live::new(&self.live);
        tokio::spawn(Arc::clone(self).resolve(question.clone(), flight, slot, live));
        receiver
    }

    /// Asks, until there is an outcome, or, unless it has a `slot` of its own, nobody waits for it.
    async fn resolve(
        self: Arc<Self>,
        question: Question,
        flight: Flight,
        slot: Option<OwnedSemaphorePermit>,
        _live: Live,
    ) {
        let Some(pool) = self.pools.get(question.zone) else { return };
        let mut asked = std::pin::pin!(pool.ask(&question, &self.counters));
        let outcome = loop {
            tokio::select! {
                outcome = &mut asked => break outcome.map(Arc::new),
                () = flight.closed(), if slot.is_none() => {
                    let mut flights = self.flights();
                    // Nobody can join while the list is locked.
                    if flight.receiver_count() == 0 {
                        flights.remove(&question);
                        return;
                    }
                }
            }
        };
        // A question that was not asked says nothing of its answer.
        if outcome.as_ref().err() != Some(&NoResponse::NotAsked) {
            self.cache().insert(&question, outcome.as_ref().ok(), Instant::now());
        }
        self.flights().remove(&question);
        flight.send_replace(Some(outcome.ok()));
    }

    fn block(&self) -> &WorkerCounters {
        self.counters.dns()
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        locked(&self.cache)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Question, Flight>> {
        locked(&self.flights)
    }

    fn slots(&self) -> MutexGuard<'_, Slots<u128, oneshot::Sender<()>>> {
        locked(&self.slots)
    }
}

/// Waits for the outcome of a flight; without one, the thread ends.
async fn landed(flight: &mut watch::Receiver<Option<Outcome>>) -> Option<Outcome> {
    flight.wait_for(Option::is_some).await.ok()?.clone()
}

/// The address, and the zone unless it is the root.
fn named(address: SocketAddr, zone: &[u8]) -> String {
    if zone == [0] { address.to_string() } else { format!("{address} ({})", from_wire(zone).trim_end_matches('.')) }
}

/// What is locked is whole between any two of its operations.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many questions and flights there are.
#[derive(Default)]
struct Gate {
    live: AtomicUsize,
    /// Told when one ends.
    freed: Notify,
}

impl Gate {
    fn has_room(&self) -> bool {
        self.live.load(Ordering::Relaxed) < LIVE
    }
}

/// A question or a flight, as long as it is there.
pub(super) struct Live(Arc<Gate>);

impl Live {
    fn new(gate: &Arc<Gate>) -> Live {
        gate.live.fetch_add(1, Ordering::Relaxed);
        Live(Arc::clone(gate))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

/// A slot that is taken; dropping it frees it.
struct Slot {
    number: u64,
    resolver: Arc<Resolver>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.resolver.slots().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However fast they come, and however late those that lost their slot have their turn.
    #[test]
    fn there_are_never_more_questions_than_allowed() {
        let resolver = Resolver::new(Arc::default(), false, Arc::new(Counters::new(1)));
        let mut live: Vec<Live> = std::iter::from_fn(|| resolver.enter()).take(100_000).collect();
        assert_eq!(live.len(), LIVE);
        live.pop();
        live.extend(resolver.enter());
        assert_eq!((live.len(), resolver.enter().is_some()), (LIVE, false));
    }
}

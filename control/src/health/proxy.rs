//! Whether the gateway does its work: from what its threads do, not from what they say.
//!
//! ```text
//!  control thread: ticks ─────────────────────────┐
//!  a change: compiled … published ────────────────┼─▶ healthy, unless one of them is overdue
//!  each worker: rounds of its loop (a counter) ───┘
//!  the Node object: deleted, or to be deleted ────▶ eligible or not (`/healthz` only: KEP-3836)
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pollgate_common::counters::Counters;

use super::page::Moment;

/// How long a change may wait to be published, and the control thread be busy. kube-proxy's, with its defaults: twice the sync period.
const PUBLICATION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a worker may take for one round. An idle one sleeps for 50 ms at most.
const WORKER_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of the gateway's threads.
#[derive(Debug)]
pub struct ProxyHealth {
    start: Instant,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the control thread last ticked.
    ticked: Instant,
    /// Since when a change waits to be published.
    pending: Option<Instant>,
    /// When a change was published last.
    updated: Option<Moment>,
    node_is_eligible: bool,
    /// Whether the workers have been started.
    begun: bool,
    /// Each worker's number of rounds, and since when it is that.
    workers: Vec<(u64, Instant)>,
}

impl ProxyHealth {
    /// Healthy, with workers that have not started.
    pub fn new(counters: Arc<Counters>) -> ProxyHealth {
        let start = Instant::now();
        let workers = counters.workers().map(|_| (0, start)).collect();
        let state =
            State { ticked: start, pending: None, updated: None, node_is_eligible: true, begun: false, workers };
        ProxyHealth { start, counters, state: Mutex::new(state) }
    }

    /// The control thread is at work.
    pub fn tick(&self) {
        self.lock().ticked = Instant::now();
    }

    /// The workers have been started: from now on, each must go round its loop.
    pub fn begin(&self) {
        self.begin_at(Instant::now());
    }

    fn begin_at(&self, now: Instant) {
        let mut state = self.lock();
        state.begun = true;
        state.workers.iter_mut().for_each(|seen| seen.1 = now);
    }

    /// Whether the workers have been started.
    pub fn has_begun(&self) -> bool {
        self.lock().begun
    }

    /// A change waits to be published.
    pub fn pending(&self) {
        self.lock().pending.get_or_insert_with(Instant::now);
    }

    /// Nothing waits any more; `published`: because it was published.
    pub fn settled(&self, published: bool) {
        let now = self.moment();
        let mut state = self.lock();
        state.pending = None;
        if published {
            state.updated = Some(now);
        }
    }

    /// Whether the Node object lets the gateway take traffic.
    pub fn node(&self, is_eligible: bool) {
        self.lock().node_is_eligible = is_eligible;
    }

    pub(crate) fn is_eligible(&self) -> bool {
        self.lock().node_is_eligible
    }

    pub(super) fn updated(&self) -> Option<Moment> {
        self.lock().updated
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { wall: Timestamp::now(), since_start: self.start.elapsed() }
    }

    /// Whether nothing is overdue. To be asked often: a worker's rounds are only compared with those of the last time.
    pub(super) fn is_healthy(&self) -> bool {
        self.is_healthy_at(Instant::now())
    }

    fn is_healthy_at(&self, now: Instant) -> bool {
        self.faults_at(now).iter().all(Option::is_none)
    }

    /// What is overdue: of the control thread, then of each worker.
    pub fn faults(&self) -> Vec<Option<String>> {
        self.faults_at(Instant::now())
    }

    fn faults_at(&self, now: Instant) -> Vec<Option<String>> {
        let mut state = self.lock();
        // Until they are started, workers wait for the objects of the manifests.
        let begun = state.begun;
        for (worker, seen) in self.counters.workers().zip(&mut state.workers) {
            let rounds = worker.polls.value();
            if rounds != seen.0 || !begun {
                *seen = (rounds, now);
            }
        }
        let late = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        let control = if late(state.ticked, PUBLICATION_TIMEOUT) {
            Some(format!("the control thread has been busy for {PUBLICATION_TIMEOUT:?}"))
        } else {
            let waits = state.pending.is_some_and(|since| late(since, PUBLICATION_TIMEOUT));
            waits.then(|| format!("a change has waited for {PUBLICATION_TIMEOUT:?} to be published"))
        };
        let worker = |(_, since): &(u64, Instant)| {
            late(*since, WORKER_TIMEOUT).then(|| format!("no progress for {WORKER_TIMEOUT:?}"))
        };
        [control].into_iter().chain(state.workers.iter().map(worker)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gateway's health, and the time so many seconds after its start.
    fn started(counters: &Arc<Counters>) -> (ProxyHealth, impl Fn(u64) -> Instant + use<>) {
        let health = ProxyHealth::new(Arc::clone(counters));
        let start = health.start;
        (health, move |seconds| start + Duration::from_secs(seconds))
    }

    #[test]
    fn a_publication_may_take_a_minute() {
        let (health, after) = started(&Arc::new(Counters::new(1)));
        assert!(health.is_healthy_at(after(1)));
        health.pending();
        health.pending();
        assert!(health.is_healthy_at(after(59)) && !health.is_healthy_at(after(61)));
        assert!(health.updated().is_none());
        health.settled(false);
        assert!(health.is_healthy_at(after(59)) && health.updated().is_none(), "a change that was undone");
        health.pending();
        health.settled(true);
        assert!(health.updated().is_some());
        // The control thread has not ticked either.
        assert!(!health.is_healthy_at(after(61)));
        health.state.lock().expect("no panic").ticked = after(60);
        assert!(health.is_healthy_at(after(61)));
    }

    #[test]
    fn every_worker_must_go_round() {
        let counters = Arc::new(Counters::new(2));
        let (health, after) = started(&counters);
        health.state.lock().expect("no panic").ticked = after(50);
        assert!(health.is_healthy_at(after(20)), "they have not been started");
        health.begin_at(after(20));
        assert!(health.is_healthy_at(after(24)) && !health.is_healthy_at(after(25)), "started, and no first round");
        counters.workers().for_each(|worker| worker.polls.add(1));
        assert!(health.is_healthy_at(after(21)));
        assert!(health.is_healthy_at(after(25)) && !health.is_healthy_at(after(26)), "neither goes round");
        counters.worker(0).polls.add(7);
        assert!(!health.is_healthy_at(after(27)), "only one does");
        counters.worker(1).polls.add(1);
        assert!(health.is_healthy_at(after(28)));
    }
}

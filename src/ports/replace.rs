//! Replaces ports of workers that run, those of several interfaces at a time.
//!
//! ```text
//!  request ─▶ each worker's exchange ─▶ worker: at its next poll, or when the last frame of the old port is back
//!  finish  ◀─ all have returned theirs ◀─┘
//! ```
//!
//! A port that is closed stays with its worker until every buffer of it is back, since the kernel may still read from them. A frame can
//! be in the transmit queue of another interface, which may be stuck. So nobody knows when this ends, and nothing waits for it: the
//! caller looks again later, and other interfaces go on meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pollgate_common::net::PortId;
use pollgate_dataplane::egress::exchange::{Change, Exchange};
use pollgate_dataplane::port::Port;

/// After this time, it is worth a line in the log.
const SLOW: Duration = Duration::from_secs(5);
/// Between two looks for what workers have returned, at first and at most.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// What the workers have been requested to do, and have not done yet.
pub(super) struct Replacements {
    /// Of the workers, in their order.
    exchanges: Vec<Arc<Exchange>>,
    open: BTreeMap<PortId, Replacement>,
}

/// One port of each worker.
struct Replacement {
    since: Instant,
    is_reported: bool,
    /// What each worker has returned.
    returned: Vec<Option<Box<dyn Port>>>,
}

impl Replacements {
    pub(super) fn new(exchanges: Vec<Arc<Exchange>>) -> Replacements {
        Replacements { exchanges, open: BTreeMap::new() }
    }

    pub(super) fn workers(&self) -> usize {
        self.exchanges.len()
    }

    /// Gives each worker its change of this port. One before it must be finished.
    pub(super) fn request(&mut self, port: PortId, changes: impl IntoIterator<Item = Change>, now: Instant) {
        for (exchange, change) in self.exchanges.iter().zip(changes) {
            exchange.request(port, change);
        }
        let returned = self.exchanges.iter().map(|_| None).collect();
        self.open.insert(port, Replacement { since: now, is_reported: false, returned });
    }

    /// Takes what the workers have returned.
    pub(super) fn collect(&mut self) {
        for (worker, exchange) in self.exchanges.iter().enumerate() {
            while let Some((port, old)) = exchange.returned() {
                if let Some(replacement) = self.open.get_mut(&port) {
                    replacement.returned[worker] = Some(old);
                }
            }
        }
    }

    /// When to look again; `None` if nothing is open.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let wait = |replacement: &Replacement| {
            let age = now.saturating_duration_since(replacement.since);
            (age / 16).clamp(FIRST_LOOK, LONGEST_LOOK)
        };
        self.open.values().map(wait).min().map(|wait| now + wait)
    }

    /// What all workers have returned, once they have.
    pub(super) fn finish(&mut self, port: PortId) -> Option<Vec<Box<dyn Port>>> {
        if self.open.get(&port)?.returned.iter().any(Option::is_none) {
            return None;
        }
        self.open.remove(&port).map(|replacement| replacement.returned.into_iter().flatten().collect())
    }

    /// The workers that have not returned this port for a long time. Once.
    pub(super) fn late(&mut self, port: PortId, now: Instant) -> Option<Vec<usize>> {
        let replacement = self.open.get_mut(&port)?;
        if replacement.is_reported || now.saturating_duration_since(replacement.since) < SLOW {
            return None;
        }
        replacement.is_reported = true;
        let missing = replacement.returned.iter().enumerate().filter(|(_, port)| port.is_none());
        Some(missing.map(|(worker, _)| worker).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use pollgate_common::counters::Counters;
    use pollgate_common::dns::zone::Zone;
    use pollgate_common::tables::Builder;
    use pollgate_common::time::Instant as Time;
    use pollgate_control::compile::Options;
    use pollgate_dataplane::affinity::Affinity;
    use pollgate_dataplane::egress::mesh::Mesh;
    use pollgate_dataplane::port::{Frame, Returned, Sent};
    use pollgate_dataplane::steer::Steering;
    use pollgate_dataplane::worker::{Parts, RESERVE, Worker};

    use super::*;
    use crate::config::{Config, Purpose};

    /// A port of which a frame is still being sent until `is_idle`.
    struct Sending {
        is_idle: Arc<AtomicBool>,
    }

    impl Port for Sending {
        fn rx(&mut self, _now: Time, _room: usize, _into: &mut Vec<Frame>) {}

        fn tx(&mut self, _now: Time, _batch: &mut Vec<Frame>, _back: &mut Vec<Returned>) -> Sent {
            Sent::default()
        }

        fn release(&mut self, _frame: Frame) {}

        fn wait_on(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn is_idle(&self) -> bool {
            self.is_idle.load(SeqCst)
        }
    }

    fn configuration() -> Config {
        let text = "interfaces: [{name: eth0}, {name: eth1}]\naddresses: [10.0.0.1]\n";
        Config::parse("gateway.yaml", text, Purpose::Run).expect("a configuration")
    }

    /// A worker with two ports, each idle as its flag says.
    fn worker(number: u16, exchange: &Arc<Exchange>, idle: [&Arc<AtomicBool>; 2]) -> Worker {
        let config = configuration();
        let port = |is_idle: &Arc<AtomicBool>| Box::new(Sending { is_idle: Arc::clone(is_idle) }) as Box<dyn Port>;
        let seeds = [1, 2, 3, 4];
        let parts = Parts {
            worker: number,
            ports: idle.map(port).into(),
            mesh: Arc::new(Mesh::new(vec![None, None], RESERVE)),
            steering: Steering::new(2, seeds),
            limits: (&config).into(),
            settings: Options::from(&config).settings,
            counters: Arc::new(Counters::new(2)),
            affinity: Arc::new(Affinity::new(64, seeds).expect("memory")),
            conflicts: Arc::default(),
            mailbox: Arc::default(),
            exchange: Arc::clone(exchange),
            ask: Box::new(|_| {}),
            dns_rate: 0,
            resolver: None,
            dns_clients: Arc::default(),
            seeds,
        };
        Worker::new(parts).expect("memory")
    }

    #[test]
    fn an_interface_whose_port_is_still_sending_keeps_no_other_from_being_replaced() {
        let (idle, busy) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let exchanges = [Arc::<Exchange>::default(), Arc::default()];
        // The first interface is stuck at the second worker.
        let mut workers = [worker(0, &exchanges[0], [&idle, &idle]), worker(1, &exchanges[1], [&busy, &idle])];
        let zone = Arc::new(Zone::new(Arc::default()));
        let tables = Builder::new(Options::from(&configuration()).settings, zone).build(1);
        let mut poll = || {
            for worker in &mut workers {
                worker.poll(&tables, Time(0));
            }
        };
        let mut replacements = Replacements::new(exchanges.to_vec());
        let start = Instant::now();
        let (stuck, other) = (PortId(0), PortId(1));
        let close = || (0..2).map(|_| Change::Close(Box::default()));
        replacements.request(stuck, close(), start);
        replacements.request(other, close(), start);
        assert!(replacements.finish(other).is_none());
        poll();
        replacements.collect();
        assert_eq!(replacements.finish(other).map(|old| old.len()), Some(2));
        let open = (0..2).map(|_| Change::Open(Box::new(Sending { is_idle: Arc::clone(&idle) })));
        replacements.request(other, open, start);
        poll();
        replacements.collect();
        assert_eq!(replacements.finish(other).map(|placeholders| placeholders.len()), Some(2));

        // What is waited for is reported once.
        assert!(replacements.finish(stuck).is_none() && replacements.late(stuck, start).is_none());
        let later = start + SLOW;
        assert_eq!(replacements.late(stuck, later), Some(vec![1]));
        assert_eq!(replacements.late(stuck, later), None);
        assert_eq!(replacements.next_look(later), Some(later + LONGEST_LOOK));
        busy.store(true, SeqCst);
        poll();
        replacements.collect();
        assert_eq!(replacements.finish(stuck).map(|old| old.len()), Some(2));
        assert!(replacements.next_look(later).is_none());
    }
}

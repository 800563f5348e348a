//! Keeps the interfaces polled: one that was deleted and created again, or has a larger MTU, is opened again while packets of the
//! others flow.
//!
//! ```text
//!  network: link gone, back, changed ─┐                      ┌─▶ workers: close … open   (dataplane/src/egress/exchange.rs)
//!  rules of the fanout programs ──────┼─▶ thread "ports" ────┼─▶ kernel: fanout and steering programs, sockets
//!  a while after a failure ───────────┘                      └─▶ status (the check of the interface), announcer
//! ```
//!
//! The thread is the only one that opens ports or changes what chooses their frames once the gateway runs, so it alone needs the
//! rights for it. The kernel takes milliseconds for each of these; no other thread waits for them.
//!
//! **In which order.** First the checks of the start, so that an interface that still is there is given up only for what can be polled. Then
//! each worker closes its port: it processes what the port has received, and the port leaves it with its last buffer. Then the
//! checks are made once more, the ports are opened, and each worker gets its own. Frames to an interface without a port are dropped
//! (`tx_closed`). If anything is in the way, it is tried again when the interface changes, and with back-off.
//!
//! **No interface waits for another one's workers** (`replace`). It only waits while the kernel opens sockets for another: milliseconds,
//! or a second or two if a receive queue of AF_XDP is not free yet.
//!
//! What else depends on the interface follows the network by itself: next hops, neighbours, multicast groups. Its addresses are announced
//! when it is polled.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, iter};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use pollgate_common::net::{Link, Net, PortId};
use pollgate_common::pair;
use pollgate_control::threads::{self, Role};
use pollgate_dataplane::egress::exchange::{Change, Exchange};
use tracing::{info, warn};

use super::announce::Polls;
use super::fanout::Rules;
use super::opener::Opener;
use super::port_id;
use super::replace::Replacements;
use super::status::{Polled, Status};
use crate::host::pair::Remaker;

/// From a failure to the next attempt, at first and at most. A change of the interface makes it the first again.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// The thread. Dropping it ends the thread.
pub struct Keeper {
    events: Sender<Event>,
    status: Arc<Status>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread follows.
pub(super) enum Event {
    Network(Arc<Net>),
    Fanout(Box<Rules>),
    End,
}

impl Keeper {
    /// Starts the thread, in the calling thread's network namespace. `exchanges`: of the workers, in their order.
    /// `pair`: makes the host pair again, if there is one.
    pub(super) fn start(
        opener: Opener,
        exchanges: Vec<Arc<Exchange>>,
        polls: Polls,
        pair: Option<Remaker>,
    ) -> io::Result<Keeper> {
        let (events, received) = channel::unbounded();
        let status = Arc::new(Status::new(opener.polled()));
        let interfaces = opener.polled().into_iter().map(Interface::new).collect();
        let mut body = Body {
            interfaces,
            opener,
            replacements: Replacements::new(exchanges),
            polls,
            pair,
            net: Arc::default(),
            status: Arc::clone(&status),
        };
        let thread = threads::spawn(Role::Ports, "ports", move || body.run(&received))?;
        Ok(Keeper { events, status, thread: Some(thread) })
    }

    /// Which interfaces are polled.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Where events are sent.
    pub(super) fn events(&self) -> Sender<Event> {
        self.events.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.events.send(Event::End);
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed.
            let _ = thread.join();
        }
    }
}

struct Body {
    opener: Opener,
    replacements: Replacements,
    interfaces: Vec<Interface>,
    polls: Polls,
    pair: Option<Remaker>,
    net: Arc<Net>,
    status: Arc<Status>,
}

/// An interface, as far as it is opened again.
struct Interface {
    polled: Polled,
    backoff: Backoff,
    step: Option<Step>,
}

/// What all workers have been requested to do with an interface's ports.
enum Step {
    Close,
    /// As these ports were opened.
    Open(Polled),
}

impl Interface {
    fn new(polled: Polled) -> Interface {
        Interface { polled, backoff: Backoff::default(), step: None }
    }
}

/// When to try again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Backoff {
    /// Since the last failure; the wait after it.
    failed: Option<(Instant, Duration)>,
}

impl Backoff {
    fn fail(&mut self, now: Instant) {
        let wait = self.failed.map_or(FIRST_BACKOFF, |(_, wait)| (wait * 2).min(LONGEST_BACKOFF));
        self.failed = Some((now, wait));
    }

    /// The next attempt is due soon after the last failure.
    fn shorten(&mut self) {
        if let Some((_, wait)) = &mut self.failed {
            *wait = FIRST_BACKOFF;
        }
    }

    fn succeed(&mut self) {
        self.failed = None;
    }

    /// `None`: at any time.
    fn due(&self) -> Option<Instant> {
        self.failed.map(|(since, wait)| since + wait)
    }
}

impl Body {
    fn run(&mut self, events: &Receiver<Event>) {
        loop {
            let first = match self.next_look(Instant::now()) {
                Some(next) => events.recv_deadline(next),
                None => events.recv().map_err(RecvTimeoutError::from),
            };
            match first {
                Ok(first) => {
                    // Only the newest of each kind counts.
                    let all: Vec<Event> = iter::once(first).chain(events.try_iter()).collect();
                    if !self.follow(all) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.replacements.collect();
            (0..self.interfaces.len()).for_each(|at| self.proceed(at));
        }
    }

    fn next_look(&self, now: Instant) -> Option<Instant> {
        let attempts = self.interfaces.iter().filter(|interface| interface.step.is_none());
        attempts.filter_map(|interface| interface.backoff.due()).chain(self.replacements.next_look(now)).min()
    }

    /// Returns `false` at the end.
    fn follow(&mut self, all: Vec<Event>) -> bool {
        let mut rules = None;
        for event in all {
            match event {
                Event::Network(net) => {
                    for (at, interface) in self.interfaces.iter_mut().enumerate() {
                        if differs(&self.net, &net, port_id(at)) {
                            interface.backoff.shorten();
                        }
                    }
                    self.net = net;
                }
                Event::Fanout(newest) => rules = Some(newest),
                Event::End => return false,
            }
        }
        if let Some(rules) = rules {
            self.opener.update_fanout(*rules);
        }
        true
    }

    /// Takes the next step with an interface, if there is one to take.
    fn proceed(&mut self, at: usize) {
        if self.interfaces[at].step.is_none() {
            return self.compare(at);
        }
        let Some(returned) = self.replacements.finish(port_id(at)) else { return self.report_late(at) };
        // Sockets are closed before others are opened: a receive queue has one AF_XDP socket at a time.
        drop(returned);
        match self.interfaces[at].step.take() {
            Some(Step::Open(polled)) => self.complete(at, polled),
            Some(Step::Close) | None => {
                self.interfaces[at].polled.is_closed = true;
                self.interfaces[at].polled.obstacle = None;
                self.report(at);
            }
        }
        self.compare(at);
    }

    /// Compares an interface with what is polled, and opens it again if they differ.
    fn compare(&mut self, at: usize) {
        let Some(link) = self.net.port_link(port_id(at)).cloned() else {
            return self.miss(at);
        };
        let interface = &mut self.interfaces[at];
        if interface.polled.is(&link) {
            interface.backoff.succeed();
            return self.opener.set_mac(at, link.mac);
        }
        let now = Instant::now();
        if interface.backoff.due().is_some_and(|due| now < due) {
            return;
        }
        if let Err(obstacle) = self.reopen(at, &link) {
            let interface = &mut self.interfaces[at];
            interface.backoff.fail(Instant::now());
            interface.polled.obstacle = Some(obstacle);
            self.report(at);
        }
    }

    /// The kernel has no such interface. If it is the host pair's, it is made again.
    fn miss(&mut self, at: usize) {
        // Before the first event, nothing is known.
        if self.net.generation() == 0 {
            return;
        }
        let (interface, now) = (&mut self.interfaces[at], Instant::now());
        if !interface.polled.is_gone {
            interface.polled.is_gone = true;
            interface.backoff.succeed();
            self.status.set(at, &interface.polled);
        }
        let Some(pair) = self.pair.as_ref().filter(|_| self.opener.name(at) == pair::DATA) else {
            // Nothing is to be tried: what has failed before says nothing about the interface that comes.
            interface.backoff.succeed();
            return;
        };
        if interface.backoff.due().is_some_and(|due| now < due) {
            return;
        }
        match pair.make() {
            Ok(()) => info!("the host pair was deleted, and has been made again"),
            Err(error) => warn!(
                "the host pair was deleted, and is not made again: {error}; if this stays so, restart the gateway"
            ),
        }
        // Until it is seen.
        interface.backoff.fail(now);
    }

    /// Begins to close the interface's ports, or opens them as it is now, if they are closed.
    ///
    /// # Errors
    /// What is in the way.
    fn reopen(&mut self, at: usize, link: &Link) -> Result<(), String> {
        let choice = self.opener.check(at)?;
        let (port, now) = (port_id(at), Instant::now());
        if !self.interfaces[at].polled.is_closed {
            let placeholders = (0..self.replacements.workers()).map(|_| Change::Close(Box::default()));
            self.replacements.request(port, placeholders, now);
            self.interfaces[at].step = Some(Step::Close);
            return Ok(());
        }
        let (ports, polled) = self.opener.open_again(at, choice).map_err(|error| error.to_string())?;
        self.replacements.request(port, ports.into_iter().map(Change::Open), now);
        self.interfaces[at].step = Some(Step::Open(Polled { deletions: link.deletions, ..polled }));
        Ok(())
    }

    /// All workers have their new ports.
    fn complete(&mut self, at: usize, polled: Polled) {
        let interface = &mut self.interfaces[at];
        interface.polled = polled;
        interface.backoff.succeed();
        self.report(at);
        self.polls.polled(port_id(at), self.interfaces[at].polled.index);
        let (name, choice) = (self.opener.name(at), self.opener.choice(at));
        info!("{name} is polled again by {}: {}", choice.mode, choice.reason);
    }

    /// Reports workers that keep an interface waiting for long.
    fn report_late(&mut self, at: usize) {
        let Some(workers) = self.replacements.late(port_id(at), Instant::now()) else { return };
        let workers = workers.iter().map(|worker| format!("worker-{worker}")).collect::<Vec<_>>().join(", ");
        let obstacle = format!(
            "waiting for {workers} to give up the former port: frames of it are still in the transmit queue of an interface, or the \
             worker is stuck"
        );
        warn!("{}: {obstacle}; other interfaces are not affected", self.opener.name(at));
        self.interfaces[at].polled.obstacle = Some(obstacle);
        self.report(at);
    }

    fn report(&self, at: usize) {
        self.status.set(at, &self.interfaces[at].polled);
    }
}

/// Whether anything of the port's link is another, or of the addresses on it: what the checks and the opening depend on.
fn differs(before: &Net, after: &Net, port: PortId) -> bool {
    let view = |net: &Net| {
        let link = net.port_link(port)?;
        let own = net.facts().addresses.iter().filter(|(index, _)| *index == link.index);
        Some((link.clone(), own.map(|(_, address)| *address).collect::<Vec<_>>()))
    };
    view(before) != view(after)
}

#[cfg(test)]
mod tests {
    use pollgate_common::net::{Facts, Mac};

    use super::*;

    #[test]
    fn attempts_become_rarer_until_a_change_or_success() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.due(), None);
        let waits: Vec<u128> = (0..9)
            .map(|_| {
                backoff.fail(start);
                backoff.due().expect("a failure").duration_since(start).as_millis()
            })
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.shorten();
        assert_eq!(backoff.due(), Some(start + FIRST_BACKOFF));
        backoff.succeed();
        assert_eq!(backoff.due(), None);
        backoff.shorten();
        assert_eq!(backoff.due(), None, "there was no failure");
    }

    #[test]
    fn only_changes_of_an_interface_concern_it() {
        let link = |index: u32, port: u16| Link {
            index,
            name: format!("eth{index}"),
            port: Some(PortId(port)),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            ups: 1,
            deletions: 0,
        };
        let facts = || Facts {
            links: vec![link(1, 0), link(2, 1)],
            addresses: vec![(1, "10.0.0.1/24".parse().expect("a prefix"))],
            ..Facts::default()
        };
        let concerned = |change: &dyn Fn(&mut Facts)| {
            let mut changed = facts();
            change(&mut changed);
            let (before, after) = (Net::new(1, facts()), Net::new(2, changed));
            [0, 1].map(|port| differs(&before, &after, PortId(port)))
        };
        assert_eq!(concerned(&|_| {}), [false, false]);
        assert_eq!(concerned(&|facts| facts.links[0].mtu = 9000), [true, false]);
        assert_eq!(concerned(&|facts| facts.links[1].deletions = 1), [false, true]);
        assert_eq!(concerned(&|facts| drop(facts.links.remove(1))), [false, true]);
        assert_eq!(concerned(&|facts| facts.addresses.clear()), [true, false]);
        let address = "10.96.0.10/32".parse().expect("a prefix");
        assert_eq!(concerned(&|facts| facts.addresses.push((2, address))), [false, true]);
        let neighbour = (1, [10, 0, 0, 7].into(), Mac([2, 0, 0, 0, 0, 7]));
        assert_eq!(concerned(&|facts| facts.neighbours.push(neighbour)), [false, false]);
    }
}

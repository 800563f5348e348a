//! Keeps the interfaces polled: one that was deleted and created again, or has a larger MTU, is taken up anew while packets of the
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
//! ports are opened, and each worker gets its own. Frames to an interface without a port are dropped (`tx_closed`). If anything is
//! in the way, it is tried again when the network changes, and with back-off.
//!
//! What else hangs on the interface follows the network by itself: next hops, neighbours, multicast groups. Its addresses are announced
//! when it is polled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, iter};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use pollgate_common::net::{Link, Net};
use pollgate_control::threads::{self, Role};
use pollgate_dataplane::egress::exchange::{Change, Exchange};
use pollgate_dataplane::port::Port;
use tracing::info;

use super::announce::Polls;
use super::fanout::Rules;
use super::opener::Opener;
use super::port_id;
use super::status::{Polled, Status};

/// How often the workers' returns are looked for.
const LOOK: Duration = Duration::from_millis(1);
/// From a failure to the next attempt, at first and at most. A change of the network makes it the first again.
const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// The thread. Dropping it ends the thread.
pub struct Keeper {
    news: Sender<News>,
    stop: Arc<AtomicBool>,
    status: Arc<Status>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told.
pub(super) enum News {
    Network(Arc<Net>),
    Fanout(Box<Rules>),
    End,
}

impl Keeper {
    /// Starts the thread, in the calling thread's network namespace. `exchanges`: of the workers, in their order.
    pub(super) fn start(opener: Opener, exchanges: Vec<Arc<Exchange>>, polls: Polls) -> io::Result<Keeper> {
        let (news, heard) = channel::unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let status = Arc::new(Status::new(opener.polled()));
        let interfaces = opener.polled().into_iter().map(Interface::new).collect();
        let mut body = Body {
            interfaces,
            opener,
            exchanges,
            polls,
            net: Arc::default(),
            status: Arc::clone(&status),
            stop: Arc::clone(&stop),
        };
        let thread = threads::spawn(Role::Ports, "ports", move || body.run(&heard))?;
        Ok(Keeper { news, stop, status, thread: Some(thread) })
    }

    /// Which interfaces are polled.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Where news go.
    pub(super) fn news(&self) -> Sender<News> {
        self.news.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = self.news.send(News::End);
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed.
            let _ = thread.join();
        }
    }
}

struct Body {
    opener: Opener,
    exchanges: Vec<Arc<Exchange>>,
    interfaces: Vec<Interface>,
    polls: Polls,
    net: Arc<Net>,
    status: Arc<Status>,
    stop: Arc<AtomicBool>,
}

/// An interface, and when it is tried next.
struct Interface {
    polled: Polled,
    rest: Duration,
    tried: Option<Instant>,
}

impl Interface {
    fn new(polled: Polled) -> Interface {
        Interface { polled, rest: FIRST_REST, tried: None }
    }

    fn due(&self) -> Option<Instant> {
        self.tried.map(|tried| tried + self.rest)
    }
}

impl Body {
    fn run(&mut self, heard: &Receiver<News>) {
        loop {
            let next = self.interfaces.iter().filter_map(Interface::due).min();
            let first = match next {
                Some(next) => heard.recv_deadline(next),
                None => heard.recv().map_err(RecvTimeoutError::from),
            };
            match first {
                Ok(first) => {
                    // Only the newest of each kind counts.
                    let all: Vec<News> = iter::once(first).chain(heard.try_iter()).collect();
                    if !self.learn(all) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            (0..self.interfaces.len()).for_each(|at| self.tend(at));
        }
    }

    /// `false`: the end.
    fn learn(&mut self, all: Vec<News>) -> bool {
        let mut rules = None;
        for news in all {
            match news {
                News::Network(net) => {
                    self.net = net;
                    self.interfaces.iter_mut().for_each(|interface| interface.rest = FIRST_REST);
                }
                News::Fanout(newest) => rules = Some(newest),
                News::End => return false,
            }
        }
        if let Some(rules) = rules {
            self.opener.update_fanout(*rules);
        }
        true
    }

    /// Compares an interface with what is polled.
    fn tend(&mut self, at: usize) {
        let Some(link) = self.net.port_link(port_id(at)).cloned() else {
            // Before the first news, nothing is known.
            if self.net.generation() > 0 {
                self.interfaces[at].polled.is_gone = true;
                self.interfaces[at].tried = None;
                self.tell(at);
            }
            return;
        };
        let interface = &mut self.interfaces[at];
        if interface.polled.is(&link) {
            interface.tried = None;
            return self.opener.set_mac(at, link.mac);
        }
        let now = Instant::now();
        if interface.due().is_some_and(|due| now < due) {
            return;
        }
        match self.take_up(at, &link) {
            Ok(polled) => {
                let Interface { polled: known, rest, tried } = &mut self.interfaces[at];
                (*known, *rest, *tried) = (polled, FIRST_REST, None);
                self.tell(at);
                self.polls.polled(port_id(at), self.interfaces[at].polled.index);
            }
            Err(obstacle) => {
                let Interface { polled, rest, tried } = &mut self.interfaces[at];
                *rest = if tried.is_some() { (*rest * 2).min(LONGEST_REST) } else { FIRST_REST };
                *tried = Some(Instant::now());
                polled.obstacle = Some(obstacle);
                self.tell(at);
            }
        }
    }

    /// Takes the interface up as it is now.
    ///
    /// # Errors
    /// What is in the way.
    fn take_up(&mut self, at: usize, link: &Link) -> Result<Polled, String> {
        let choice = self.opener.check(at)?;
        if !self.interfaces[at].polled.is_closed {
            self.close(at)?;
        }
        let (ports, polled) = self.opener.open_again(at, choice).map_err(|error| error.to_string())?;
        let given = ports.into_iter().map(Change::Open).collect();
        // The stand-ins.
        drop(self.exchange(at, given)?);
        let choice = self.opener.choice(at);
        info!("{} is polled again by {}: {}", link.name, choice.mode, choice.reason);
        Ok(polled)
    }

    /// Has every worker close its port.
    fn close(&mut self, at: usize) -> Result<(), String> {
        let stand_ins = self.exchanges.iter().map(|_| Change::Close(Box::default())).collect();
        let old = self.exchange(at, stand_ins)?;
        self.interfaces[at].polled.is_closed = true;
        self.tell(at);
        // Their sockets are closed before others are opened: a receive queue has one AF_XDP socket at a time.
        drop(old);
        Ok(())
    }

    /// Gives each worker its request, and waits for what each returns.
    fn exchange(&self, at: usize, requests: Vec<Change>) -> Result<Vec<Box<dyn Port>>, String> {
        for (exchange, request) in self.exchanges.iter().zip(requests) {
            exchange.request(port_id(at), request);
        }
        let mut returned = Vec::with_capacity(self.exchanges.len());
        for exchange in &self.exchanges {
            returned.push(loop {
                if let Some((_, port)) = exchange.returned() {
                    break port;
                }
                if self.stop.load(SeqCst) {
                    return Err("the gateway is stopping".to_owned());
                }
                thread::sleep(LOOK);
            });
        }
        Ok(returned)
    }

    fn tell(&self, at: usize) {
        self.status.set(at, &self.interfaces[at].polled);
    }
}

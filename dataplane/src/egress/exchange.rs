//! Replacing a port of a worker that runs.
//!
//! ```text
//!  thread that opens ports ── Close(placeholder) ──▶ worker: processes what the port has received, replaces it by the placeholder
//!           ▲   ◀── the port, once its last buffer is back ──┘
//!           └── Open(another port) ──▶ worker: replaces the placeholder  ◀── the placeholder ──┘
//! ```
//!
//! The worker reads one flag per poll. It neither opens, allocates, frees nor waits: the other thread does. What comes back is in the order of
//! the requests for one port.

use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Relaxed, Ordering::Release};

use crossbeam::queue::ArrayQueue;
use pollgate_common::net::PortId;
use pollgate_common::sleep::Waker;

use crate::port::Port;
use crate::port::closing::Closing;

/// Requests that wait, and ports that were not fetched. There is one request at a time for a port.
const CAPACITY: usize = 256;

/// What is to be done with a port.
pub enum Change {
    /// Take it out of service.
    Close(Box<Closing>),
    /// Put this one into the place of a closed one.
    Open(Box<dyn Port>),
}

/// A request to a worker.
pub(crate) struct Request {
    pub(crate) port: PortId,
    pub(crate) change: Change,
}

/// Where requests to one worker are left, and what it returns.
pub struct Exchange {
    is_called: AtomicBool,
    requests: ArrayQueue<Request>,
    returns: ArrayQueue<(PortId, Box<dyn Port>)>,
    waker: Option<Waker>,
}

impl Default for Exchange {
    /// For a worker that never sleeps.
    fn default() -> Exchange {
        Exchange::new(None)
    }
}

impl Exchange {
    /// For the worker that `waker` wakes.
    pub fn new(waker: Option<Waker>) -> Exchange {
        Exchange {
            is_called: AtomicBool::new(false),
            requests: ArrayQueue::new(CAPACITY),
            returns: ArrayQueue::new(CAPACITY),
            waker,
        }
    }

    /// The other thread's side: leaves a request. A request before it for the same port must have been answered.
    pub fn request(&self, port: PortId, change: Change) {
        // Never full: a port has one request at a time, and there are fewer ports.
        let _ = self.requests.push(Request { port, change });
        self.is_called.store(true, Release);
        if let Some(waker) = &self.waker {
            waker();
        }
    }

    /// The other thread's side: a port that has left the worker.
    pub fn returned(&self) -> Option<(PortId, Box<dyn Port>)> {
        self.returns.pop()
    }

    /// The worker's side, once per poll: whether there is anything to do.
    #[inline]
    pub(crate) fn is_called(&self) -> bool {
        self.is_called.load(Relaxed)
    }

    /// The worker's side: the next request.
    pub(crate) fn next(&self) -> Option<Request> {
        self.requests.pop()
    }

    /// The worker's side: returns a port.
    pub(crate) fn give_back(&self, port: PortId, old: Box<dyn Port>) {
        // As above.
        let _ = self.returns.push((port, old));
    }

    /// The worker's side: has nothing more to do, unless there is a request.
    pub(crate) fn settle(&self) {
        self.is_called.swap(false, AcqRel);
        // One that came before the flag fell; a later one raises it again.
        if !self.requests.is_empty() {
            self.is_called.store(true, Release);
        }
    }
}

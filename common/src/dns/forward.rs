//! Queries that take a resolver, on their way from a worker to its thread and back.
//!
//! ```text
//!  worker ── Request ──▶ Requests (bounded) ──▶ resolver ── Reply ──▶ the worker's inbox (bounded) ──▶ sent
//! ```
//!
//! No worker waits. What it needs to address the response, the headers of the query's frame, goes along; the frame's buffer does
//! not. If [`Requests`] is full, the query gets SERVFAIL at once.

use std::fmt;
use std::net::IpAddr;

use crossbeam::queue::ArrayQueue;

use super::message::{EDNS_SIZE, HEAD, Opt, Query};
use super::name::Seed;
use crate::net::{Mac, PortId};
use crate::sleep::{Sleeper, Waker};

/// Requests that may wait to be taken.
pub const REQUESTS: usize = 1024;
/// Replies that may wait to be sent, per worker.
pub const REPLIES: usize = 1024;
/// The most bytes of headers: Ethernet, IP with options, UDP.
pub const HEADERS: usize = 96;

/// The frame that a query came in, as far as its response needs it. Only a worker reads it.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Where it came.
    pub port: PortId,
    /// The MAC address of that interface.
    pub own: Mac,
    /// Its headers.
    pub headers: [u8; HEADERS],
    /// Where the UDP header starts in them.
    pub l4: u8,
}

/// A query that takes a resolver.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The worker that sends the response.
    pub worker: u16,
    /// How it gets to the client.
    pub way: Way,
    /// The client.
    pub client: IpAddr,
    /// Header and question.
    pub head: [u8; HEAD],
    /// Length of these.
    pub len: usize,
    /// The EDNS record, if there is one.
    pub edns: Option<Opt>,
}

impl Request {
    /// Reads the query; `None` if it is none, which no worker sends.
    pub fn query(&self, seed: Seed) -> Option<Query> {
        let mut query = Query { can_forward: true, ..Query::default() };
        query.read(&self.head, self.len, seed)?;
        query.edns = self.edns;
        query.unreadable.is_none().then_some(query)
    }
}

/// A response.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// How it gets to the client.
    pub way: Way,
    /// The message.
    pub message: [u8; EDNS_SIZE as usize],
    /// Its length.
    pub len: usize,
}

/// The queue of requests of all workers.
pub struct Requests {
    queue: ArrayQueue<Request>,
    resolver: Sleeper,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("waiting", &self.queue.len()).finish_non_exhaustive()
    }
}

impl Requests {
    /// An empty queue.
    pub fn new(waker: Waker) -> Requests {
        Requests { queue: ArrayQueue::new(REQUESTS), resolver: Sleeper::new(Some(waker)) }
    }

    /// Adds a request, and wakes the resolver if it sleeps. Returns whether there was room.
    pub fn push(&self, request: Request) -> bool {
        let has_room = self.queue.push(request).is_ok();
        if has_room {
            self.resolver.wake();
        }
        has_room
    }

    /// Takes the next one.
    pub fn pop(&self) -> Option<Request> {
        self.queue.pop()
    }

    /// Announces that the resolver is about to sleep. Returns false, and withdraws that, if a request waits for it.
    pub fn may_sleep(&self) -> bool {
        self.resolver.may_sleep(|| self.queue.is_empty())
    }
}

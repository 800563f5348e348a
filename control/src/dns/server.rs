//! The thread for DNS beside the workers.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use pollgate_common::clients::Clients;
use pollgate_common::counters::{Counters, WorkerCounters};
use pollgate_common::dns::answer::{self, Answered, NoAnswer, Rule};
use pollgate_common::dns::forward::{Request, Requests};
use pollgate_common::dns::message::Query;
use pollgate_common::dns::totals::Totals;
use pollgate_common::epoch::Source;

use super::door::{self, Bell, ReplyTo};
use super::resolver::{self, ForwardedQuestion, Resolved, Resolver};
use super::tcp;
use crate::local::ServiceThread;
use crate::threads::Role;

/// File descriptors that the thread needs.
pub const OPEN_FILES: u64 = tcp::OPEN_FILES + resolver::OPEN_FILES;

/// What the thread is made of.
pub struct DnsParts {
    /// Where the zone is published.
    pub tables: Source,
    /// The clients behind the source ports of the host pair.
    pub clients: Arc<Clients>,
    /// Where it counts.
    pub counters: Arc<Counters>,
    /// What asks other servers.
    pub resolver: Arc<Resolver>,
    /// The workers' queries that take a resolver, and what tells of them.
    pub requests: (Arc<Requests>, Bell),
    /// Gives responses to workers.
    pub reply_to: ReplyTo,
}

/// The thread. Dropping it ends the thread and closes all connections.
#[derive(Debug)]
pub struct DnsServer {
    thread: ServiceThread,
    shared: Arc<Shared>,
}

impl DnsServer {
    /// Starts the thread, in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the system refuses a thread or its files.
    pub fn start(parts: DnsParts) -> io::Result<DnsServer> {
        let DnsParts { tables, clients, counters, resolver, requests, reply_to } = parts;
        let totals = Mutex::default();
        let shared = Arc::new(Shared { tables, clients, counters, resolver, reply_to, totals });
        let (queue, bell) = requests;
        let thread = ServiceThread::start(Role::Dns, door::serve(queue, bell, Arc::clone(&shared)))?;
        Ok(DnsServer { thread, shared })
    }

    /// What opens and closes the listeners for TCP.
    pub fn listeners(&self) -> tcp::Listeners {
        tcp::Listeners::new(self.thread.handle().clone(), Arc::clone(&self.shared))
    }
}

/// What its tasks share.
pub(super) struct Shared {
    pub(super) tables: Source,
    pub(super) clients: Arc<Clients>,
    counters: Arc<Counters>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) reply_to: ReplyTo,
    totals: Mutex<Totals>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("resolver", &self.resolver).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn block(&self) -> &WorkerCounters {
        self.counters.dns()
    }

    /// Changes what is counted of queries.
    pub(super) fn count(&self, change: impl FnOnce(&mut Totals)) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut totals);
        totals.report(self.block());
    }

    /// A worker's query, and what is to be asked for it, if the zone still says so.
    pub(super) fn forwarded(&self, request: &Request) -> Option<(Query, Option<ForwardedQuestion>)> {
        let reader = self.tables.reader();
        let pin = reader.pin();
        let zone = pin.load().zone();
        let query = request.query(zone.names().seed())?;
        let forwarded = self.resolver.forwarded(&query, zone);
        Some((query, forwarded))
    }

    /// Writes a response over the query in `buffer`, and counts it. Returns its length.
    pub(super) fn respond(
        &self,
        query: &Query,
        buffer: &mut [u8],
        forwarded: &ForwardedQuestion,
        resolved: &Resolved,
    ) -> Option<usize> {
        self.counted(query, Resolver::respond(query, buffer, forwarded, resolved))
    }

    /// The same if there is nothing to be asked any more: the client asks again, and gets what is published now.
    pub(super) fn fail(&self, query: &Query, buffer: &mut [u8]) -> Option<usize> {
        self.counted(query, answer::fail(query, buffer, Rule::UpstreamFailed))
    }

    fn counted(&self, query: &Query, answered: Result<Answered, NoAnswer>) -> Option<usize> {
        let answered = answered.ok()?;
        self.count(|totals| totals.count(query.rtype, &answered));
        Some(answered.len)
    }
}

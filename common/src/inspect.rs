//! Looking at a worker's flows, and asking what it would do with a packet, from another thread.
//!
//! ```text
//!  asker ── request with an empty buffer ──▶ Mailbox ──▶ worker: a few entries per poll, copied into the buffer
//!    ▲                                                                              │
//!    └────────────────────────── the same request, answered ◀── Mailbox ◀───────────┘
//! ```
//!
//! Only the worker touches its flow table, so it copies out what is asked for. With no request it reads one flag per poll;
//! with one it looks at a bounded number of entries per poll. The asker supplies the buffer and takes it back: the worker
//! neither allocates nor frees, locks nor waits.
//!
//! A mailbox holds one request. It has a number, so that the answer to an asker that went away is not taken for that of the
//! next one. A request that takes too long is cut short with [`Mailbox::hurry`].

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;

use crate::flow::Protocol;
use crate::tables::ServiceId;
use crate::trace::{PacketTrace, TracedPacket};

/// A copy of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Transport protocol; `None` if this version has no name for it.
    pub protocol: Option<Protocol>,
    /// The client.
    pub client: SocketAddr,
    /// What the client connects to.
    pub frontend: SocketAddr,
    /// The source that the backend sees: the client, or a gateway address and a port of the worker.
    pub source: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// The Service port.
    pub service: ServiceId,
    /// How far the flow has come.
    pub state: &'static str,
    /// Since the client's last packet.
    pub client_idle: Duration,
    /// Since the backend's last packet.
    pub backend_idle: Duration,
}

/// Which flows are asked for. What is not set matches every flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// One of the flow's four addresses.
    pub address: Option<IpAddr>,
    /// One of the flow's four ports.
    pub port: Option<u16>,
    /// The transport protocol.
    pub protocol: Option<Protocol>,
    /// One of these Service ports, in order of their index.
    pub services: Option<Box<[ServiceId]>>,
}

impl FlowFilter {
    /// Whether the flow is asked for.
    pub fn matches(&self, flow: &FlowRecord) -> bool {
        let ends = [flow.client, flow.frontend, flow.source, flow.backend];
        let known = |services: &[ServiceId]| {
            services
                .binary_search_by_key(&flow.service.index, |service| service.index)
                .is_ok_and(|at| services[at] == flow.service)
        };
        self.protocol.is_none_or(|protocol| flow.protocol == Some(protocol))
            && self.address.is_none_or(|address| ends.iter().any(|end| end.ip() == address))
            && self.port.is_none_or(|port| ends.iter().any(|end| end.port() == port))
            && self.services.as_deref().is_none_or(known)
    }
}

/// A request, and its answer.
#[derive(Debug)]
pub enum Request {
    /// For flows.
    Flows(FlowRequest),
    /// For what would become of a packet.
    Trace(Box<TraceRequest>),
}

/// A request for what would become of a packet, and its answer.
#[derive(Debug)]
pub struct TraceRequest {
    packet: TracedPacket,
    trace: Option<PacketTrace>,
}

impl TraceRequest {
    /// For this packet.
    pub fn new(packet: TracedPacket) -> TraceRequest {
        TraceRequest { packet, trace: None }
    }

    /// The packet.
    pub fn packet(&self) -> &TracedPacket {
        &self.packet
    }

    /// Notes the answer.
    pub fn fill(&mut self, trace: PacketTrace) {
        self.trace = Some(trace);
    }

    /// The answer, if it is there.
    pub fn trace(&self) -> Option<&PacketTrace> {
        self.trace.as_ref()
    }
}

/// A request for flows, and its answer.
#[derive(Debug)]
pub struct FlowRequest {
    filter: FlowFilter,
    flows: Vec<FlowRecord>,
    limit: usize,
    /// Where in the table it goes on.
    next: u32,
    is_end: bool,
}

impl FlowRequest {
    /// For `limit` flows at most, at `from` in the table and behind.
    pub fn new(filter: FlowFilter, from: u32, limit: usize) -> FlowRequest {
        FlowRequest { filter, flows: Vec::with_capacity(limit), limit, next: from, is_end: false }
    }

    /// Adds the flow if it is asked for. Only while the request is not full.
    pub fn offer(&mut self, flow: FlowRecord) {
        if !self.is_full() && self.filter.matches(&flow) {
            self.flows.push(flow);
        }
    }

    /// Whether there is no room for another flow.
    pub fn is_full(&self) -> bool {
        self.flows.len() >= self.limit
    }

    /// Where the worker goes on looking.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Notes where to go on; `is_end` if the table has nothing there.
    pub fn advance(&mut self, next: u32, is_end: bool) {
        (self.next, self.is_end) = (next, is_end);
    }

    /// The flows that were found.
    pub fn flows(&self) -> &[FlowRecord] {
        &self.flows
    }

    /// Where another request would go on; `None` at the end of the table.
    pub fn rest(&self) -> Option<u32> {
        (!self.is_end).then_some(self.next)
    }
}

/// A request with its number.
#[derive(Debug)]
pub struct Letter {
    number: u64,
    /// The request.
    pub request: Request,
}

impl Letter {
    /// With a request that has no number yet.
    pub fn new(request: Request) -> Box<Letter> {
        Box::new(Letter { number: 0, request })
    }
}

/// Where a request to one worker is left, and its answer.
#[derive(Debug)]
pub struct Mailbox {
    is_asked: AtomicBool,
    is_hurried: AtomicBool,
    asked: AtomicU64,
    request: ArrayQueue<Box<Letter>>,
    answer: ArrayQueue<Box<Letter>>,
}

impl Default for Mailbox {
    fn default() -> Mailbox {
        Mailbox {
            is_asked: AtomicBool::new(false),
            is_hurried: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            request: ArrayQueue::new(1),
            answer: ArrayQueue::new(1),
        }
    }
}

impl Mailbox {
    /// The asker's side: leaves a request. Returns its number, or the request if there is another one that the worker has
    /// not seen.
    pub fn ask(&self, mut request: Box<Letter>) -> Result<u64, Box<Letter>> {
        let number = self.asked.fetch_add(1, Relaxed);
        request.number = number;
        self.is_hurried.store(false, Relaxed);
        self.request.push(request)?;
        self.is_asked.store(true, Relaxed);
        Ok(number)
    }

    /// The asker's side: has the worker answer with what it has found so far.
    pub fn hurry(&self) {
        self.is_hurried.store(true, Relaxed);
    }

    /// The asker's side: the answer to the request with this number, if it is there. Answers to others are dropped.
    pub fn answer(&self, number: u64) -> Option<Box<Letter>> {
        self.answer.pop().filter(|answer| answer.number == number)
    }

    /// The worker's side, once per poll: the request, if there is one.
    #[inline]
    pub fn take(&self) -> Option<Box<Letter>> {
        if !self.is_asked.load(Relaxed) {
            return None;
        }
        self.take_asked()
    }

    /// The flag may be seen before the request: then it stays set for the next poll.
    #[cold]
    fn take_asked(&self) -> Option<Box<Letter>> {
        let request = self.request.pop()?;
        self.is_asked.store(false, Relaxed);
        Some(request)
    }

    /// The worker's side: whether to answer with what it has.
    pub fn is_hurried(&self) -> bool {
        self.is_hurried.load(Relaxed)
    }

    /// The worker's side: answers. Returns the request if an earlier answer was not taken.
    pub fn give(&self, request: Box<Letter>) -> Result<(), Box<Letter>> {
        self.answer.push(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> FlowRecord {
        let at = |text: &str| text.parse().expect("an address");
        FlowRecord {
            protocol: Some(Protocol::Tcp),
            client: at("10.0.0.1:1000"),
            frontend: at("10.96.0.1:80"),
            source: at("192.168.50.10:2000"),
            backend: at("10.244.0.1:8080"),
            service: ServiceId { index: 7, incarnation: 1 },
            state: "established",
            client_idle: Duration::ZERO,
            backend_idle: Duration::ZERO,
        }
    }

    #[test]
    fn a_filter_matches_each_end_and_all_that_it_names() {
        let yes = |filter: FlowFilter| assert!(filter.matches(&flow()), "{filter:?}");
        let no = |filter: FlowFilter| assert!(!filter.matches(&flow()), "{filter:?}");
        yes(FlowFilter::default());
        for address in ["10.0.0.1", "10.96.0.1", "192.168.50.10", "10.244.0.1"] {
            yes(FlowFilter { address: Some(address.parse().expect("one")), ..FlowFilter::default() });
        }
        for port in [1000, 80, 2000, 8080] {
            yes(FlowFilter { port: Some(port), ..FlowFilter::default() });
        }
        no(FlowFilter { address: Some([10, 0, 0, 2].into()), ..FlowFilter::default() });
        no(FlowFilter { port: Some(1001), ..FlowFilter::default() });
        yes(FlowFilter { protocol: Some(Protocol::Tcp), port: Some(80), ..FlowFilter::default() });
        no(FlowFilter { protocol: Some(Protocol::Udp), port: Some(80), ..FlowFilter::default() });
        let services = |incarnation| Some([3, 7, 9].map(|index| ServiceId { index, incarnation }).into());
        yes(FlowFilter { services: services(1), ..FlowFilter::default() });
        no(FlowFilter { services: services(2), ..FlowFilter::default() });
        no(FlowFilter { services: Some(Box::default()), ..FlowFilter::default() });
    }

    #[test]
    fn a_full_request_takes_nothing_more() {
        let mut request = FlowRequest::new(FlowFilter::default(), 0, 2);
        (0..3).for_each(|_| request.offer(flow()));
        assert_eq!((request.flows().len(), request.is_full()), (2, true));
        request.advance(6, false);
        assert_eq!(request.rest(), Some(6));
        request.advance(8, true);
        assert_eq!(request.rest(), None);
    }

    #[test]
    fn one_request_at_a_time_goes_there_and_back() {
        let mailbox = Mailbox::default();
        let request = || Letter::new(Request::Flows(FlowRequest::new(FlowFilter::default(), 4, 1)));
        assert!(mailbox.take().is_none());
        let number = mailbox.ask(request()).expect("no other request");
        assert!(mailbox.answer(number).is_none());
        assert!(mailbox.ask(request()).is_err(), "one at a time");
        mailbox.hurry();
        let taken = mailbox.take().expect("the request");
        assert!(mailbox.take().is_none() && mailbox.is_hurried());
        assert!(mailbox.give(taken).is_ok());
        assert!(mailbox.give(request()).is_err(), "the first was not taken");
        assert!(
            matches!(mailbox.answer(number).map(|answer| answer.request), Some(Request::Flows(flows)) if flows.next() == 4)
        );
        // The asker goes away; the next one does not get the answer to that request.
        let left = mailbox.ask(request()).expect("no other request");
        let taken = mailbox.take().expect("the request");
        let number = mailbox.ask(request()).expect("taken");
        assert!(left != number && !mailbox.is_hurried() && mailbox.give(taken).is_ok());
        assert!(mailbox.answer(number).is_none());
        assert!(mailbox.give(mailbox.take().expect("the other one")).is_ok() && mailbox.answer(number).is_some());
    }
}

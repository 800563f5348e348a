//! The listeners and connections of DNS over TCP.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pollgate_common::counters::{Counter, WorkerCounters};
use pollgate_common::dns::answer::{self, NoAnswer};
use pollgate_common::dns::message::{Carrier, Query, STREAM_SIZE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{sleep_until, timeout};

use crate::compile::resolve::Family;
use crate::dns::framing::{self, LONGEST_QUERY, PREFIX};
use crate::dns::resolver::{ForwardedQuestion, Resolved};
use crate::dns::server::Shared;
use crate::dns::slots::{Limits, Slots};
use crate::local::OpenListeners;

/// Connections: of all clients, and of one. A node's resolver that asks by TCP alone keeps a few dozen.
const LIMITS: Limits = Limits { all: 1024, per_client: 128 };
/// How long a connection may be without a whole query or a response, and a client may take for its responses (RFC 7766 §6.2.3: "a few
/// seconds").
const IDLE: Duration = Duration::from_secs(10);
/// Queries of one connection that may wait for another server. The resolver bounds those of all.
const WAITING: usize = 64;
/// From this number of bytes on, responses are sent before the next query is answered.
const FLUSH: usize = 16 << 10;

/// One per family.
const LISTENERS: usize = 2;

/// File descriptors that DNS over TCP needs.
pub(crate) const OPEN_FILES: u64 = (LIMITS.all + LISTENERS) as u64;

/// The listeners, and what their connections share.
#[derive(Debug)]
pub struct Listeners {
    server: Arc<Server>,
    open: OpenListeners<Family>,
}

impl Listeners {
    pub(in crate::dns) fn new(handle: Handle, shared: Arc<Shared>) -> Listeners {
        let server =
            Server { shared, connections: Mutex::new(Slots::new(LIMITS)), responder: Mutex::new(Responder::new()) };
        Listeners { server: Arc::new(server), open: OpenListeners::new(handle, LISTENERS) }
    }

    /// Where the family's listener is; opens it if there is none.
    pub(crate) fn listen(&mut self, family: Family) -> io::Result<SocketAddr> {
        let server = Arc::clone(&self.server);
        self.open.listen(&family, family, move |stream, peer| admit(stream, server.client(peer), &server))
    }

    pub(crate) fn close(&mut self, family: Family) {
        self.open.close(&family);
    }
}

#[derive(Debug)]
struct Server {
    shared: Arc<Shared>,
    connections: Mutex<Slots<IpAddr, AbortHandle>>,
    responder: Mutex<Responder>,
}

/// Where queries are answered, one at a time.
#[derive(Debug)]
struct Responder {
    query: Query,
    buffer: Box<[u8]>,
}

/// What becomes of a query.
enum Step {
    /// Its response is written.
    Done,
    /// It takes a resolver.
    Forward(Box<(Query, ForwardedQuestion)>),
}

/// A query that took a resolver, and its outcome.
struct Lookup {
    message: Box<[u8]>,
    asked: Box<(Query, ForwardedQuestion)>,
    resolved: Resolved,
}

impl Responder {
    fn new() -> Responder {
        let query = Query { carrier: Carrier::Tcp, can_forward: true, ..Query::default() };
        Responder { query, buffer: vec![0; STREAM_SIZE].into() }
    }

    /// Appends the response to `message` to `out`. `None`: it is no query.
    fn answer(&mut self, message: &[u8], shared: &Shared, client: IpAddr, out: &mut Vec<u8>) -> Option<Step> {
        let reader = shared.tables.reader();
        let pin = reader.pin();
        let zone = pin.load().zone();
        self.buffer.get_mut(..message.len())?.copy_from_slice(message);
        self.query.read(&self.buffer, message.len(), zone.names().seed())?;
        match answer::respond(&self.query, &mut self.buffer, zone, Some(client)) {
            Ok(answered) => {
                shared.count(|totals| totals.count(self.query.rtype, &answered));
                framing::push(out, self.buffer.get(..answered.len)?);
                Some(Step::Done)
            }
            Err(NoAnswer::Forward) => {
                shared.count(|totals| totals.forwarded += 1);
                if let Some(forwarded) = shared.resolver.forwarded(&self.query, zone) {
                    return Some(Step::Forward(Box::new((self.query.clone(), forwarded))));
                }
                let len = shared.fail(&self.query, &mut self.buffer)?;
                framing::push(out, self.buffer.get(..len)?);
                Some(Step::Done)
            }
            Err(NoAnswer::NotAQuery | NoAnswer::NoRoom) => None,
        }
    }

    /// Appends the response to a query that took a resolver.
    fn relay(&mut self, lookup: &Lookup, shared: &Shared, out: &mut Vec<u8>) {
        let Lookup { message, asked, resolved } = lookup;
        let (query, forwarded) = &**asked;
        if let Some(to) = self.buffer.get_mut(..message.len()) {
            to.copy_from_slice(message);
        }
        let len = shared.respond(query, &mut self.buffer, forwarded, resolved);
        if let Some(response) = len.and_then(|len| self.buffer.get(..len)) {
            framing::push(out, response);
        }
    }
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client has closed it, or it broke.
    Closed,
    TimedOut,
    Malformed,
}

impl Server {
    fn connections(&self) -> MutexGuard<'_, Slots<IpAddr, AbortHandle>> {
        // Whole between any two of its operations.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn responder(&self) -> MutexGuard<'_, Responder> {
        // Written anew for each query.
        self.responder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn block(&self) -> &WorkerCounters {
        self.shared.block()
    }

    /// The client of a connection; its own address if the workers have noted none.
    fn client(&self, peer: SocketAddr) -> IpAddr {
        self.shared.clients.of_port(peer.port(), peer.is_ipv4()).unwrap_or_else(|| peer.ip())
    }

    /// Appends the response to `message` to `out`, or adds what waits for it to `waiting`.
    fn answer(
        &self,
        message: &[u8],
        client: IpAddr,
        out: &mut Vec<u8>,
        waiting: &mut JoinSet<Lookup>,
    ) -> Result<(), End> {
        let step = self.responder().answer(message, &self.shared, client, out).ok_or(End::Malformed)?;
        self.block().dns_tcp.add(1);
        let Step::Forward(asked) = step else { return Ok(()) };
        let message = message.into();
        let resolver = Arc::clone(&self.shared.resolver);
        let resolved = match resolver.cached(&asked.1) {
            Some(resolved) => resolved,
            None => match resolver.enter() {
                Some(live) => {
                    // A task of its own: it ends, and frees its slot, also while the client takes no responses.
                    waiting.spawn(async move {
                        let resolved = resolver.look_up(client, &asked.1, live).await;
                        Lookup { message, asked, resolved }
                    });
                    return Ok(());
                }
                None => Resolved::NoRoom,
            },
        };
        self.relay(&Lookup { message, asked, resolved }, out);
        Ok(())
    }

    fn relay(&self, lookup: &Lookup, out: &mut Vec<u8>) {
        self.responder().relay(lookup, &self.shared, out);
    }

    /// The same for a task that has ended. One that panicked has said so; its query gets no response.
    fn relay_joined(&self, lookup: Result<Lookup, JoinError>, out: &mut Vec<u8>) {
        if let Ok(lookup) = lookup {
            self.relay(&lookup, out);
        }
    }

    fn ended(&self, how: End) {
        let counter: Option<&Counter> = match how {
            End::Closed => None,
            End::TimedOut => Some(&self.block().dns_tcp_timed_out),
            End::Malformed => Some(&self.block().dns_tcp_malformed),
        };
        counter.inspect(|counter| counter.add(1));
    }

    fn count_open(&self, connections: &Slots<IpAddr, AbortHandle>) {
        self.block().dns_tcp_open.set(connections.len() as u64);
    }
}

fn admit(stream: TcpStream, client: IpAddr, server: &Arc<Server>) {
    let mut connections = server.connections();
    let number = connections.number();
    let connection = Connection { number, client, server: Arc::clone(server) };
    let task = tokio::spawn(async move {
        let end = connection.serve(stream).await;
        connection.server.ended(end);
    });
    server.block().dns_tcp_accepted.add(1);
    if let Some(displaced) = connections.take(number, host(client), task.abort_handle(), Instant::now()) {
        displaced.abort();
        server.block().dns_tcp_displaced.add(1);
    }
    server.count_open(&connections);
}

/// What a client's connections are counted by: its address, or its IPv6 network, in which a host has as many as it likes.
fn host(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// One connection. Dropping it takes it from the list.
struct Connection {
    number: u64,
    client: IpAddr,
    server: Arc<Server>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut connections = self.server.connections();
        connections.leave(self.number);
        self.server.count_open(&connections);
    }
}

impl Connection {
    async fn serve(&self, mut stream: TcpStream) -> End {
        // Without it, a response may wait for the client's acknowledgement of the one before.
        if stream.set_nodelay(true).is_err() {
            return End::Closed;
        }
        let (mut from, mut to) = stream.split();
        let mut work = Work::default();
        let mut deadline = Instant::now() + IDLE;
        let end = loop {
            let next = self.answer(&mut work);
            if let Err(end) = write(&mut to, &mut work.out).await {
                return end;
            }
            match next {
                Ok(Next::Answer) => continue,
                Ok(Next::Wait) => {}
                Err(end) => break end,
            }
            tokio::select! {
                read = read(&mut from, &mut work.received), if work.has_room() => match read {
                    Ok(()) => {
                        deadline = Instant::now() + IDLE;
                        self.server.connections().used(self.number, Instant::now());
                    }
                    Err(end) => break end,
                },
                Some(lookup) = work.waiting.join_next() => {
                    deadline = Instant::now() + IDLE;
                    self.server.relay_joined(lookup, &mut work.out);
                }
                () = sleep_until(deadline.into()) => break End::TimedOut,
            }
        };
        // The client may have closed its side alone: queries that were read get their responses.
        while let Some(lookup) = work.waiting.join_next().await {
            self.server.relay_joined(lookup, &mut work.out);
            if write(&mut to, &mut work.out).await.is_err() {
                break;
            }
        }
        end
    }

    /// Answers the queries that have come whole, as far as there is room for what they need.
    fn answer(&self, work: &mut Work) -> Result<Next, End> {
        let mut at = 0;
        let next = loop {
            if work.out.len() >= FLUSH {
                break Ok(Next::Answer);
            }
            if !work.has_room() {
                break Ok(Next::Wait);
            }
            match framing::first(&work.received[at..]) {
                Ok(None) => break Ok(Next::Wait),
                Ok(Some(message)) => {
                    at += PREFIX + message.len();
                    if let Err(end) = self.server.answer(message, self.client, &mut work.out, &mut work.waiting) {
                        break Err(end);
                    }
                }
                Err(framing::BadLength) => break Err(End::Malformed),
            }
        };
        work.received.drain(..at);
        next
    }
}

/// What a connection does after its responses are written.
enum Next {
    /// More queries may be there.
    Answer,
    /// Nothing can be done before something comes.
    Wait,
}

/// The work of a connection.
#[derive(Default)]
struct Work {
    received: Vec<u8>,
    out: Vec<u8>,
    /// Queries that take a resolver. Their responses are sent as they come (RFC 7766 §6.2.1.1).
    waiting: JoinSet<Lookup>,
}

impl Work {
    fn has_room(&self) -> bool {
        self.waiting.len() < WAITING
    }
}

/// Reads until there is a whole query at the start of `received`.
async fn read(stream: &mut ReadHalf<'_>, received: &mut Vec<u8>) -> Result<(), End> {
    const LONGEST: usize = PREFIX + LONGEST_QUERY;
    loop {
        match framing::first(received) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(()),
            Err(framing::BadLength) => return Err(End::Malformed),
        }
        let room = LONGEST.saturating_sub(received.len()) as u64;
        match stream.take(room).read_buf(received).await {
            Ok(0) | Err(_) => return Err(End::Closed),
            Ok(_) => {}
        }
    }
}

async fn write(stream: &mut WriteHalf<'_>, out: &mut Vec<u8>) -> Result<(), End> {
    let written = timeout(IDLE, stream.write_all(out)).await.map_err(|_| End::TimedOut)?;
    written.map_err(|_| End::Closed)?;
    // A connection that was sent something long does not keep the memory.
    match out.capacity() > FLUSH {
        true => *out = Vec::new(),
        false => out.clear(),
    }
    Ok(())
}

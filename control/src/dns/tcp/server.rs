//! The listeners and connections of DNS over TCP.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pollgate_common::counters::{Counter, WorkerCounters};
use pollgate_common::dns::answer::{self, NoAnswer};
use pollgate_common::dns::message::{Carrier, Query, STREAM_SIZE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::compile::resolve::Family;
use crate::dns::framing::{self, LONGEST_QUERY, PREFIX};
use crate::dns::places::{Limits, Places};
use crate::dns::resolver::{Errand, Resolved};
use crate::dns::server::Shared;
use crate::local::listener;

/// Connections: of all clients, and of one. A node's resolver that asks by TCP alone keeps a few dozen.
const LIMITS: Limits = Limits { all: 1024, per_client: 128 };
/// How long a connection may be without a whole query, and a client may take for its responses (RFC 7766 §6.2.3: "a few
/// seconds").
const IDLE: Duration = Duration::from_secs(10);
/// From this number of bytes on, responses are sent before the next query is answered.
const FLUSH: usize = 16 << 10;

/// File descriptors that DNS over TCP needs.
pub(crate) const OPEN_FILES: u64 = LIMITS.all as u64 + 2;

/// The listeners, and what their connections share.
#[derive(Debug)]
pub struct Listeners {
    handle: Handle,
    server: Arc<Server>,
    open: HashMap<Family, (SocketAddr, AbortHandle)>,
}

impl Listeners {
    pub(in crate::dns) fn new(handle: Handle, shared: Arc<Shared>) -> Listeners {
        let server = Server { shared, connections: Mutex::new(Places::new(LIMITS)), desk: Mutex::new(Desk::new()) };
        Listeners { handle, server: Arc::new(server), open: HashMap::new() }
    }

    /// Where the family's listener is; opens it if there is none.
    pub(crate) fn listen(&mut self, family: Family) -> io::Result<SocketAddr> {
        if let Some((address, _)) = self.open.get(&family) {
            return Ok(*address);
        }
        let _inside = self.handle.enter();
        let listener = listener(family)?;
        let address = listener.local_addr()?;
        let task = self.handle.spawn(accept(listener, Arc::clone(&self.server)));
        self.open.insert(family, (address, task.abort_handle()));
        Ok(address)
    }

    pub(crate) fn close(&mut self, family: Family) {
        if let Some((_, task)) = self.open.remove(&family) {
            task.abort();
        }
    }
}

#[derive(Debug)]
struct Server {
    shared: Arc<Shared>,
    connections: Mutex<Places<IpAddr, AbortHandle>>,
    desk: Mutex<Desk>,
}

/// Where queries are answered, one at a time.
#[derive(Debug)]
struct Desk {
    query: Query,
    buffer: Box<[u8]>,
}

/// What becomes of a query.
enum Step {
    /// Its response is written.
    Done,
    /// It takes a resolver.
    Forward(Box<(Query, Errand)>),
}

impl Desk {
    fn new() -> Desk {
        let query = Query { carrier: Carrier::Tcp, can_forward: true, ..Query::default() };
        Desk { query, buffer: vec![0; STREAM_SIZE].into() }
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
                let errand = shared.resolver.errand(&self.query, zone)?;
                Some(Step::Forward(Box::new((self.query.clone(), errand))))
            }
            Err(NoAnswer::NotAQuery | NoAnswer::NoRoom) => None,
        }
    }

    /// Appends the response to a query that took a resolver.
    fn relay(
        &mut self,
        message: &[u8],
        shared: &Shared,
        asked: &(Query, Errand),
        resolved: &Resolved,
        out: &mut Vec<u8>,
    ) {
        let (query, errand) = asked;
        if let Some(to) = self.buffer.get_mut(..message.len()) {
            to.copy_from_slice(message);
        }
        let len = shared.respond(query, &mut self.buffer, errand, resolved);
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
    fn connections(&self) -> MutexGuard<'_, Places<IpAddr, AbortHandle>> {
        // Whole between any two of its operations.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Written anew for each query.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn block(&self) -> &WorkerCounters {
        self.shared.block()
    }

    /// The client of a connection; its own address if the workers have noted none.
    fn client(&self, peer: SocketAddr) -> IpAddr {
        self.shared.clients.of_port(peer.port(), peer.is_ipv4()).unwrap_or_else(|| peer.ip())
    }

    async fn answer(
        &self,
        message: &[u8],
        client: IpAddr,
        stream: &mut TcpStream,
        out: &mut Vec<u8>,
    ) -> Result<(), End> {
        let step = self.desk().answer(message, &self.shared, client, out).ok_or(End::Malformed)?;
        self.block().dns_tcp.add(1);
        if let Step::Forward(asked) = step {
            let resolver = &self.shared.resolver;
            let resolved = match resolver.cached(&asked.1) {
                Some(resolved) => resolved,
                None => {
                    // What is ready does not wait for another server.
                    if !out.is_empty() {
                        write(stream, out).await?;
                    }
                    resolver.look_up(client, &asked.1).await
                }
            };
            self.desk().relay(message, &self.shared, &asked, &resolved, out);
        }
        Ok(())
    }

    fn ended(&self, how: End) {
        let counter: Option<&Counter> = match how {
            End::Closed => None,
            End::TimedOut => Some(&self.block().dns_tcp_timed_out),
            End::Malformed => Some(&self.block().dns_tcp_malformed),
        };
        counter.inspect(|counter| counter.add(1));
    }

    fn count_open(&self, connections: &Places<IpAddr, AbortHandle>) {
        self.block().dns_tcp_open.set(connections.len() as u64);
    }
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => admit(stream, server.client(peer), &server),
            Err(error) => {
                tracing::debug!("DNS over TCP: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
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
    if let Some(displaced) = connections.take(number, client, task.abort_handle(), Instant::now()) {
        displaced.abort();
        server.block().dns_tcp_displaced.add(1);
    }
    server.count_open(&connections);
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
        let (mut received, mut out) = (Vec::new(), Vec::new());
        loop {
            let whole = timeout(IDLE, read(&mut stream, &mut received)).await;
            match whole.map_err(|_| End::TimedOut).and_then(|read| read) {
                Ok(()) => self.server.connections().used(self.number, Instant::now()),
                Err(end) => return end,
            }
            let written = self.respond(&mut stream, &mut received, &mut out).await;
            if let Err(end) = written {
                return end;
            }
        }
    }

    /// Answers every query that has come whole.
    async fn respond(&self, stream: &mut TcpStream, received: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), End> {
        let mut at = 0;
        let mut end = Ok(());
        while end.is_ok() {
            match framing::first(&received[at..]) {
                Ok(None) => break,
                Ok(Some(message)) => {
                    at += PREFIX + message.len();
                    end = self.server.answer(message, self.client, stream, out).await;
                }
                Err(framing::BadLength) => end = Err(End::Malformed),
            }
            if out.len() >= FLUSH {
                write(stream, out).await?;
            }
        }
        received.drain(..at);
        write(stream, out).await?;
        end
    }
}

/// Reads until there is a whole query at the start of `received`.
async fn read(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<(), End> {
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

async fn write(stream: &mut TcpStream, out: &mut Vec<u8>) -> Result<(), End> {
    let written = timeout(IDLE, stream.write_all(out)).await.map_err(|_| End::TimedOut)?;
    written.map_err(|_| End::Closed)?;
    // A connection that was sent something long does not keep the memory.
    match out.capacity() > FLUSH {
        true => *out = Vec::new(),
        false => out.clear(),
    }
    Ok(())
}

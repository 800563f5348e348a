//! The thread that answers DNS queries over TCP.

use std::collections::HashMap;
use std::fmt;
use std::future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pollgate_common::clients::Clients;
use pollgate_common::counters::{Counter, Counters, WorkerCounters};
use pollgate_common::dns::answer;
use pollgate_common::dns::message::{Carrier, Query, STREAM_SIZE};
use pollgate_common::dns::totals::Totals;
use pollgate_common::epoch::Source;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::connections::{Connections, Limits};
use super::framing::{self, LONGEST_QUERY, PREFIX};
use crate::compile::resolve::Family;
use crate::local::{ServiceThread, listener};

/// Connections: of all clients, and of one. A node's resolver that asks by TCP alone keeps a few dozen.
const LIMITS: Limits = Limits { all: 1024, per_client: 128 };
/// How long a connection may be without a whole query, and a client may take for its responses (RFC 7766 §6.2.3: "a few
/// seconds").
const IDLE: Duration = Duration::from_secs(10);
/// From this number of bytes on, responses are sent before the next query is answered.
const FLUSH: usize = 16 << 10;

/// File descriptors that DNS over TCP needs.
pub const OPEN_FILES: u64 = LIMITS.all as u64 + 2;

/// The thread. Dropping it ends the thread and closes all connections.
#[derive(Debug)]
pub struct DnsServer {
    thread: ServiceThread,
    shared: Arc<Shared>,
}

impl DnsServer {
    /// Starts the thread, in the calling thread's network namespace. It answers from what `tables` publishes, to `clients`.
    pub fn start(tables: Source, clients: Arc<Clients>, counters: Arc<Counters>) -> io::Result<DnsServer> {
        let shared = Arc::new(Shared {
            tables,
            clients,
            counters,
            connections: Mutex::new(Connections::new(LIMITS)),
            desk: Mutex::new(Desk::new()),
        });
        Ok(DnsServer { thread: ServiceThread::start("dns", future::pending())?, shared })
    }

    /// What opens and closes its listeners.
    pub fn listeners(&self) -> Listeners {
        Listeners { handle: self.thread.handle().clone(), shared: Arc::clone(&self.shared), open: HashMap::new() }
    }
}

/// The listeners of a [`DnsServer`].
#[derive(Debug)]
pub struct Listeners {
    handle: Handle,
    shared: Arc<Shared>,
    open: HashMap<Family, (SocketAddr, AbortHandle)>,
}

impl Listeners {
    /// Where the family's listener is; opens it if there is none.
    pub(crate) fn listen(&mut self, family: Family) -> io::Result<SocketAddr> {
        if let Some((address, _)) = self.open.get(&family) {
            return Ok(*address);
        }
        let _inside = self.handle.enter();
        let listener = listener(family)?;
        let address = listener.local_addr()?;
        let task = self.handle.spawn(accept(listener, Arc::clone(&self.shared)));
        self.open.insert(family, (address, task.abort_handle()));
        Ok(address)
    }

    pub(crate) fn close(&mut self, family: Family) {
        if let Some((_, task)) = self.open.remove(&family) {
            task.abort();
        }
    }
}

struct Shared {
    tables: Source,
    clients: Arc<Clients>,
    counters: Arc<Counters>,
    connections: Mutex<Connections>,
    desk: Mutex<Desk>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Where queries are answered, one at a time.
struct Desk {
    query: Query,
    buffer: Box<[u8]>,
    totals: Totals,
}

impl Desk {
    fn new() -> Desk {
        let query = Query { carrier: Carrier::Tcp, ..Query::default() };
        Desk { query, buffer: vec![0; STREAM_SIZE].into(), totals: Totals::default() }
    }

    /// Appends the response to `message` to `out`. `None`: it is no query.
    fn answer(&mut self, message: &[u8], tables: &Source, client: IpAddr, out: &mut Vec<u8>) -> Option<()> {
        let reader = tables.reader();
        let pin = reader.pin();
        let zone = pin.load().zone();
        self.buffer.get_mut(..message.len())?.copy_from_slice(message);
        self.query.read(&self.buffer, message.len(), zone.names().seed())?;
        let answered = answer::respond(&self.query, &mut self.buffer, zone, Some(client)).ok()?;
        self.totals.count(self.query.rtype, &answered);
        framing::push(out, self.buffer.get(..answered.len)?);
        Some(())
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

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        // Whole between any two of its operations.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn block(&self) -> &WorkerCounters {
        self.counters.dns()
    }

    /// The client of a connection; its own address if the workers have noted none.
    fn client(&self, peer: SocketAddr) -> IpAddr {
        self.clients.of_port(peer.port(), peer.is_ipv4()).unwrap_or_else(|| peer.ip())
    }

    fn answer(&self, message: &[u8], client: IpAddr, out: &mut Vec<u8>) -> Result<(), End> {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        desk.answer(message, &self.tables, client, out).ok_or(End::Malformed)?;
        self.block().dns_tcp.add(1);
        desk.totals.report(self.block());
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

    fn count_open(&self, connections: &Connections) {
        self.block().dns_tcp_open.set(connections.len() as u64);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => admit(stream, shared.client(peer), &shared),
            Err(error) => {
                tracing::debug!("DNS over TCP: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit(stream: TcpStream, client: IpAddr, shared: &Arc<Shared>) {
    let mut connections = shared.connections();
    let number = connections.number();
    let connection = Connection { number, client, shared: Arc::clone(shared) };
    let task = tokio::spawn(async move {
        let end = connection.serve(stream).await;
        connection.shared.ended(end);
    });
    let displaced = connections.admit(number, client, task.abort_handle(), Instant::now());
    shared.block().dns_tcp_accepted.add(1);
    shared.block().dns_tcp_displaced.add(u64::from(displaced));
    shared.count_open(&connections);
}

/// One connection. Dropping it takes it from the list.
struct Connection {
    number: u64,
    client: IpAddr,
    shared: Arc<Shared>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut connections = self.shared.connections();
        connections.ended(self.number);
        self.shared.count_open(&connections);
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
                Ok(()) => self.shared.connections().used(self.number, Instant::now()),
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
                    end = self.shared.answer(message, self.client, out);
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

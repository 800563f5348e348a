//! Small servers that send their name, and clients for them.
//!
//! | protocol | the server | the client |
//! |---|---|---|
//! | TCP | writes `NAME\n`, then echoes until the client closes its half | [`ask_tcp`], [`echo_bulk`] |
//! | HTTP | responds to any request with `NAME` as a plain body, then closes | [`ask_http`] |
//! | UDP | replies to each datagram with `NAME ` and the datagram | [`ask_udp`] |
//!
//! Blocking sockets and one thread per connection: for tests and the demo, which check which server responded, and by
//! which address.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Namespace;

/// How often a server looks whether it should stop.
const LOOK: Duration = Duration::from_millis(50);

/// A server in a namespace; it stops, and closes its connections, when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    served: AtomicU64,
    open: Mutex<BTreeMap<u64, TcpStream>>,
    peers: Mutex<BTreeMap<IpAddr, u64>>,
}

impl Server {
    /// A TCP echo server that first sends its name.
    pub fn tcp(namespace: &Namespace, address: SocketAddr, name: &str) -> io::Result<Server> {
        Server::listen(namespace, address, name, echo)
    }

    /// An HTTP/1.1 server that responds to every request with its name.
    pub fn http(namespace: &Namespace, address: SocketAddr, name: &str) -> io::Result<Server> {
        Server::listen(namespace, address, name, respond)
    }

    /// A UDP echo server that puts its name first.
    pub fn udp(namespace: &Namespace, address: SocketAddr, name: &str) -> io::Result<Server> {
        let socket = namespace.run(|| UdpSocket::bind(address))?;
        let address = socket.local_addr()?;
        let name = name.to_owned();
        Server::start(namespace, address, move |shared| serve_udp(&socket, &name, shared))
    }

    fn listen(
        namespace: &Namespace,
        address: SocketAddr,
        name: &str,
        serve: fn(&TcpStream, &str) -> io::Result<()>,
    ) -> io::Result<Server> {
        let listener = namespace.run(|| TcpListener::bind(address))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let name: Arc<str> = name.into();
        Server::start(namespace, address, move |shared| accept(&listener, &name, serve, shared))
    }

    fn start(
        namespace: &Namespace,
        address: SocketAddr,
        work: impl FnOnce(&Arc<Shared>) + Send + 'static,
    ) -> io::Result<Server> {
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = namespace.spawn(move || work(&inside))?;
        Ok(Server { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted, or datagrams answered, so far.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// The source addresses it saw, each with its connections or datagrams so far.
    pub fn peers(&self) -> BTreeMap<IpAddr, u64> {
        self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn saw(&self, peer: SocketAddr) {
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner).entry(peer.ip()).or_default() += 1;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The panic of a server has been printed already.
            let _ = thread.join();
        }
        for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            // The other side may have closed it meanwhile.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(
    listener: &TcpListener,
    name: &Arc<str>,
    serve: fn(&TcpStream, &str) -> io::Result<()>,
    shared: &Arc<Shared>,
) {
    use std::os::fd::AsFd;
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else {
            wait_readable(listener.as_fd(), LOOK);
            continue;
        };
        shared.saw(peer);
        let id = shared.served.fetch_add(1, Ordering::Relaxed);
        let (name, shared) = (Arc::clone(name), Arc::clone(shared));
        thread::spawn(move || {
            if let Ok(handle) = stream.try_clone() {
                shared.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, handle);
            }
            // A client that has gone is not an error of the server.
            let _ = serve(&stream, &name);
            shared.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }
}

fn echo(mut stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name}\n").as_bytes())?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            read => stream.write_all(&buffer[..read])?,
        }
    }
}

fn respond(mut stream: &TcpStream, name: &str) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    let length = name.len() + 1;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close";
    stream.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n{name}\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)
}

fn serve_udp(socket: &UdpSocket, name: &str, shared: &Shared) {
    if socket.set_read_timeout(Some(LOOK)).is_err() {
        return;
    }
    let mut datagram = vec![0; 1 << 16];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
        shared.saw(from);
        let answer = [name.as_bytes(), b" ", &datagram[..length]].concat();
        if socket.send_to(&answer, from).is_ok() {
            shared.served.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Connects from inside `namespace`.
pub fn connect(namespace: &Namespace, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = namespace.run(|| TcpStream::connect_timeout(&to, patience))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// Opens a connection to a [`Server::tcp`], closes it in order, and returns the name of the server.
pub fn ask_tcp(namespace: &Namespace, to: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = connect(namespace, to, patience)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

/// The name a [`Server::tcp`] gives first on a connection that stays open.
pub fn greeting(mut stream: &TcpStream) -> io::Result<String> {
    let mut name = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        name.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Sends `bytes` pseudo-random bytes through a [`Server::tcp`] connection whose greeting has been read and compares
/// what comes back, byte for byte.
pub fn echo_bulk(stream: &TcpStream, bytes: u64) -> io::Result<()> {
    let seed = 0x9e37_79b9_7f4a_7c15;
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut noise = Noise::new(seed, bytes);
            while let Some(block) = noise.block() {
                (&mut &*stream).write_all(block)?;
            }
            stream.shutdown(Shutdown::Write)
        });
        let compared = compare(stream, seed, bytes);
        if compared.is_err() {
            // Wakes the writer, which would otherwise wait for room that never comes.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        compared.and(written)
    })
}

fn compare(mut stream: &TcpStream, seed: u64, bytes: u64) -> io::Result<()> {
    let mut noise = Noise::new(seed, bytes);
    let mut received = vec![0; NOISE_BLOCK];
    let mut done = 0;
    while let Some(expected) = noise.block() {
        let part = &mut received[..expected.len()];
        stream.read_exact(part)?;
        if part != expected {
            let at = part.iter().zip(expected).take_while(|(got, sent)| got == sent).count();
            return Err(io::Error::other(format!("byte {} of {bytes} came back changed", done + at)));
        }
        done += expected.len();
    }
    match stream.read(&mut received)? {
        0 => Ok(()),
        more => Err(io::Error::other(format!("{more} bytes came back that were never sent"))),
    }
}

const NOISE_BLOCK: usize = 256 << 10;

/// A stream of bytes that two sides can both generate: one pseudo-random block over and over, each time under its own
/// number, so that no block passes for another. Cheap, since it must not be what a test measures.
struct Noise {
    left: u64,
    number: u64,
    block: Vec<u8>,
}

impl Noise {
    fn new(mut seed: u64, bytes: u64) -> Noise {
        let mut block = vec![0; NOISE_BLOCK];
        for word in block.chunks_exact_mut(8) {
            // xorshift64 (Marsaglia 2003).
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            word.copy_from_slice(&seed.to_le_bytes());
        }
        Noise { left: bytes, number: 0, block }
    }

    /// The next block, shorter at the end; `None` after the last.
    fn block(&mut self) -> Option<&[u8]> {
        if self.left == 0 {
            return None;
        }
        self.number += 1;
        self.block[..8].copy_from_slice(&self.number.to_le_bytes());
        let length = usize::try_from(self.left).unwrap_or(NOISE_BLOCK).min(NOISE_BLOCK);
        self.left -= length as u64;
        Some(&self.block[..length])
    }
}

/// Requests a path of a [`Server::http`]; returns the body.
pub fn ask_http(namespace: &Namespace, to: SocketAddr, path: &str, patience: Duration) -> io::Result<String> {
    let mut stream = connect(namespace, to, patience)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(format!("expected 200 OK, found {:?}", head.lines().next().unwrap_or_default())));
    }
    Ok(body.trim_end().to_owned())
}

/// Sends one datagram to a [`Server::udp`] from a fresh port and returns the name of the server. A reply from another address
/// is not seen: the socket is connected.
pub fn ask_udp(namespace: &Namespace, to: SocketAddr, text: &str, patience: Duration) -> io::Result<String> {
    let answer = datagram(namespace, to, text.as_bytes(), patience)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match answer.strip_suffix(text).and_then(|name| name.strip_suffix(' ')) {
        Some(name) => Ok(name.to_owned()),
        None => Err(io::Error::other(format!("expected a name and {text:?}, found {answer:?}"))),
    }
}

fn datagram(namespace: &Namespace, to: SocketAddr, payload: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = namespace.run(|| UdpSocket::bind((any, 0)))?;
    namespace.run(|| socket.connect(to))?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(payload)?;
    let mut answer = vec![0; 1 << 16];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// The response of a DNS server to a query for addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// RFC 1035 §4.1.1: 0 no error, 3 no such name.
    pub rcode: u8,
    /// The A and AAAA records of the answer section.
    pub addresses: Vec<IpAddr>,
    /// The targets of its CNAME records, in order, without the final dot.
    pub aliases: Vec<String>,
}

/// Queries a DNS server for a name's A records (RFC 1035), over UDP.
pub fn ask_dns(namespace: &Namespace, server: SocketAddr, name: &str, patience: Duration) -> io::Result<DnsAnswer> {
    query_dns(namespace, server, name, TYPE_A, patience)
}

/// The same for its AAAA records (RFC 3596).
pub fn ask_dns_v6(namespace: &Namespace, server: SocketAddr, name: &str, patience: Duration) -> io::Result<DnsAnswer> {
    query_dns(namespace, server, name, TYPE_AAAA, patience)
}

const TYPE_A: u8 = 1;
const TYPE_AAAA: u8 = 28;

fn query_dns(
    namespace: &Namespace,
    server: SocketAddr,
    name: &str,
    kind: u8,
    patience: Duration,
) -> io::Result<DnsAnswer> {
    let id = 0x7067u16;
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..64).contains(n));
        query.push(length.ok_or_else(|| io::Error::other(format!("{name:?} is not a DNS name")))?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, kind, 0, 1]);
    let answer = datagram(namespace, server, &query, patience)?;
    parse_dns(&answer, &query).ok_or_else(|| io::Error::other(format!("a malformed DNS answer: {answer:02x?}")))
}

fn parse_dns(answer: &[u8], query: &[u8]) -> Option<DnsAnswer> {
    let is_ours = answer.len() >= query.len() && answer[..2] == query[..2] && answer[2] & 0x80 != 0;
    if !is_ours || answer[4..6] != [0, 1] {
        return None;
    }
    let records = u16::from_be_bytes([answer[6], answer[7]]);
    let mut rest = answer.get(query.len()..)?;
    let (mut addresses, mut aliases) = (Vec::new(), Vec::new());
    for _ in 0..records {
        rest = rest.get(name_length(rest)?..)?;
        let kind = rest.get(..2)?;
        let length = usize::from(u16::from_be_bytes([*rest.get(8)?, *rest.get(9)?]));
        let data = rest.get(10..10 + length)?;
        match kind {
            [0, TYPE_A] => addresses.push(<[u8; 4]>::try_from(data).ok()?.into()),
            [0, TYPE_AAAA] => addresses.push(<[u8; 16]>::try_from(data).ok()?.into()),
            [0, 5] => aliases.push(read_name(answer, answer.len() - rest.len() + 10)?),
            _ => {}
        }
        rest = &rest[10 + length..];
    }
    Some(DnsAnswer { rcode: answer[3] & 15, addresses, aliases })
}

/// The name at `at` of a message, with its compression pointers followed.
fn read_name(message: &[u8], mut at: usize) -> Option<String> {
    let mut labels = Vec::new();
    // A name has at most 127 labels (RFC 1035 §2.3.4), each with at most one pointer before it; more is a loop.
    for _ in 0..256 {
        match *message.get(at)? {
            0 => return Some(labels.join(".")),
            high if high >= 0xc0 => at = usize::from(high & 0x3f) << 8 | usize::from(*message.get(at + 1)?),
            length => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                at += 1 + usize::from(length);
            }
        }
    }
    None
}

/// Bytes of an encoded name: labels up to the root or a compression pointer (RFC 1035 §4.1.4).
fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            label => at += 1 + usize::from(label),
        }
    }
}

/// Waits until there is something to read, or until the time-out.
fn wait_readable(fd: BorrowedFd<'_>, patience: Duration) {
    let patience = Timespec::try_from(patience).ok();
    // The caller reads in any case, whatever the result.
    let _ = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], patience.as_ref());
}

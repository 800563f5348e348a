//! One upstream: a query over UDP, over TCP if the response is truncated, and how long that took.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pollgate_common::counters::WorkerCounters;
use pollgate_common::dns::message::{Edns, upstream_query};
use pollgate_common::dns::relay::Relayed;
use pollgate_common::hash::random_seed;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::locked;
use super::message::{Question, Response, read};
use crate::dns::framing;

/// How long one response may take, over UDP or over TCP.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// How long a question may take altogether: stub resolvers ask again after five seconds.
pub(super) const PATIENCE: Duration = Duration::from_millis(4500);
/// Messages that do not respond to the query, until the upstream is given up: an attacker guesses (RFC 5452 §9).
const BOGUS: u32 = 16;
/// Queries in a row, each in whose time it has answered nothing else, until an upstream is asked last. A name that its server is
/// silent about is no reason.
const FAILURES: u32 = 2;
/// How long until it is asked whether it answers again.
const DOWN: Duration = Duration::from_secs(5);
/// For how long an upstream that does not know EDNS is asked without (RFC 6891 §6.2.2).
const PLAIN: Duration = Duration::from_secs(900);
// RFC 1035 §4.1.1.
const FORMERR: u8 = 1;
const NOTIMP: u8 = 4;
/// The longest latency that is told from longer ones, microseconds.
const LONGEST: u64 = 10_000_000;

/// What an upstream has been asked.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamStats {
    /// Queries, over UDP or TCP.
    pub queries: u64,
    /// Those without a usable response.
    pub failures: u64,
    /// Whether it is asked last, because of these.
    pub down: bool,
    /// Half of the responses took so many microseconds, or fewer.
    pub p50: u64,
    /// 90 % did.
    pub p90: u64,
    /// 99 % did.
    pub p99: u64,
    /// All did.
    pub max: u64,
}

/// Why there is no usable response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoResponse {
    /// None came in time, or none that can be read.
    Silence,
    /// The upstream cannot answer this, or not so that it can be read. To ask it again is no use.
    Error,
    /// It was not asked: this host has no socket or memory for it.
    NotAsked,
}

/// An upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    record: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    queries: u64,
    failures: u64,
    in_a_row: u32,
    /// When it answered something last.
    answered: Option<Instant>,
    /// While it is down, and until a query is answered again.
    down_until: Option<Instant>,
    /// It is asked without EDNS until then.
    plain_until: Option<Instant>,
    latency: Histogram<u64>,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr) -> Upstream {
        // Three digits, up to the time that no response takes; both are in range.
        let latency = Histogram::new_with_max(LONGEST, 3).expect("bounds that a histogram can have");
        let record =
            Log { queries: 0, failures: 0, in_a_row: 0, answered: None, down_until: None, plain_until: None, latency };
        Upstream { address, record: Mutex::new(record) }
    }

    pub(super) fn is_down(&self) -> bool {
        locked(&self.record).down_until.is_some()
    }

    pub(super) fn stats(&self) -> UpstreamStats {
        let down = self.is_down();
        let record = locked(&self.record);
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|quantile| record.latency.value_at_quantile(quantile));
        let max = record.latency.max();
        UpstreamStats { queries: record.queries, failures: record.failures, down, p50, p90, p99, max }
    }

    /// Whether it is time to find out if it answers again. Returns true at most once per [`DOWN`].
    pub(super) fn takes_probe(&self, now: Instant) -> bool {
        let mut record = locked(&self.record);
        let is_over = record.down_until.is_some_and(|until| now >= until);
        if is_over {
            record.down_until = Some(now + DOWN);
        }
        is_over
    }

    /// Asks once, not longer than until `deadline`.
    pub(super) async fn ask(
        &self,
        question: &Question,
        deadline: Instant,
        counters: &WorkerCounters,
    ) -> Result<Relayed, NoResponse> {
        let started = Instant::now();
        let knows_edns = locked(&self.record).plain_until.is_none_or(|until| started >= until);
        let mut answer = Err(NoResponse::NotAsked);
        if knows_edns {
            let edns = Edns::Opt { dnssec_ok: question.dnssec_ok };
            answer = self.exchange(question, edns, deadline, counters).await;
        }
        if !knows_edns || matches!(answer, Ok(Response::Error(FORMERR | NOTIMP))) {
            answer = self.exchange(question, Edns::None, deadline, counters).await;
            if knows_edns && matches!(answer, Ok(Response::Answer(_))) {
                locked(&self.record).plain_until = Some(Instant::now() + PLAIN);
            }
        }
        let answer = match answer {
            Ok(Response::Answer(answer)) => Ok(answer),
            Ok(Response::Error(_) | Response::Malformed) => Err(NoResponse::Error),
            Ok(Response::Truncated | Response::Bogus) => Err(NoResponse::Silence),
            Err(no_response) => Err(no_response),
        };
        self.note(started, answer.as_ref().err(), counters);
        answer
    }

    fn note(&self, started: Instant, failure: Option<&NoResponse>, counters: &WorkerCounters) {
        if failure == Some(&NoResponse::NotAsked) {
            return;
        }
        let mut record = locked(&self.record);
        let was_down = record.down_until.is_some();
        if failure.is_none() {
            let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(LONGEST);
            record.latency.saturating_record(took);
        } else {
            counters.dns_upstream_failures.add(1);
            record.failures += 1;
        }
        if failure != Some(&NoResponse::Silence) {
            (record.in_a_row, record.answered) = (0, Some(Instant::now()));
        } else if record.answered.is_none_or(|answered| answered < started) {
            record.in_a_row += 1;
        }
        record.down_until = (record.in_a_row >= FAILURES).then(|| Instant::now() + DOWN);
        match (was_down, record.down_until.is_some()) {
            (false, true) => tracing::warn!(
                "DNS upstream {} has not answered {FAILURES} queries in a row; it is asked last until it answers again",
                self.address
            ),
            (true, false) => tracing::info!("DNS upstream {} answers again", self.address),
            (true, true) | (false, false) => {}
        }
    }

    /// Over UDP, and over TCP if the response is truncated.
    async fn exchange(
        &self,
        question: &Question,
        edns: Edns,
        deadline: Instant,
        counters: &WorkerCounters,
    ) -> Result<Response, NoResponse> {
        let by_datagram = datagram(self.address, question, edns, counters);
        let response = self.within(question, deadline, counters, by_datagram).await;
        if response != Ok(Response::Truncated) {
            return response;
        }
        counters.dns_upstream_tcp.add(1);
        self.within(question, deadline, counters, stream(self.address, question, edns)).await
    }

    async fn within(
        &self,
        question: &Question,
        deadline: Instant,
        counters: &WorkerCounters,
        exchange: impl Future<Output = io::Result<Response>>,
    ) -> Result<Response, NoResponse> {
        counters.dns_upstream_queries.add(1);
        locked(&self.record).queries += 1;
        let patience = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
        let response = timeout(patience, exchange).await.map_err(io::Error::from).and_then(|response| response);
        response.map_err(|error| {
            tracing::debug!("asking {} for {:?}: {error}", self.address, question);
            if is_own(&error) { NoResponse::NotAsked } else { NoResponse::Silence }
        })
    }
}

/// Whether an error says something of this host alone.
fn is_own(error: &io::Error) -> bool {
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| own.iter().any(|own| own.raw_os_error() == code))
}

fn query(question: &Question, edns: Edns) -> (u16, Vec<u8>) {
    let [seed, ..] = random_seed();
    let id = u16::try_from(seed & 0xffff).unwrap_or(0);
    (id, upstream_query(id, &question.name, question.rtype, question.checking_disabled, edns))
}

fn unspecified(server: SocketAddr) -> SocketAddr {
    let address = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    SocketAddr::new(address, 0)
}

/// Over UDP: from a port that the kernel chooses at random, and which takes datagrams of this server alone.
async fn datagram(
    server: SocketAddr,
    question: &Question,
    edns: Edns,
    counters: &WorkerCounters,
) -> io::Result<Response> {
    let socket = UdpSocket::bind(unspecified(server)).await?;
    socket.connect(server).await?;
    let (id, message) = query(question, edns);
    socket.send(&message).await?;
    let mut buffer = [0; 4096];
    for _ in 0..BOGUS {
        let len = socket.recv(&mut buffer).await?;
        match read(&buffer[..len], id, question) {
            Response::Bogus => counters.dns_upstream_bogus.add(1),
            response => return Ok(response),
        }
    }
    Err(io::Error::other("too many messages that do not respond to the query"))
}

/// Over TCP (RFC 7766).
async fn stream(server: SocketAddr, question: &Question, edns: Edns) -> io::Result<Response> {
    let mut stream = TcpStream::connect(server).await?;
    let (id, message) = query(question, edns);
    let mut framed = Vec::new();
    framing::push(&mut framed, &message);
    stream.write_all(&framed).await?;
    let mut response = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut response).await?;
    Ok(read(&response, id, question))
}

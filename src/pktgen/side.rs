//! One side of the gateway: a port, and what is done with the frames that come in by it.
//!
//! ```text
//!  rx ─▶ ARP or neighbour solicitation for an address of ours ─▶ reply
//!     └▶ a packet of this run ─▶ counted ─▶ sent back (the sink, with --reply)
//!     └▶ anything else ─▶ given back
//! ```
//!
//! A side belongs to one thread. Nothing here allocates per packet, and the clock is read once per burst.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use pollgate_common::net::{Mac, PortId};
use pollgate_common::reasons::DropReason;
use pollgate_common::time::Instant;
use pollgate_dataplane::port::{BURST, Frame, Port, Returned};

use super::addresses::Block;
use super::arrival::{Arrival, Way};
use super::clock::Clock;
use super::neighbour;
use super::pool::{ORIGIN, Pool};
use super::stamp::STRAY;
use super::tally::{Span, Tally};

/// The parameters of a run for one side.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// The run's number, in every stamp.
    pub(super) run: u16,
    /// The clients' addresses.
    pub(super) clients: Block,
    /// Addresses for which this side replies to ARP and neighbour solicitations.
    pub(super) answers: Vec<Block>,
    /// Endpoints to be counted one by one.
    pub(super) endpoints: Vec<Block>,
    /// Whether packets to backends are sent back.
    pub(super) reply: bool,
    /// Where packets end.
    pub(super) end: Way,
    /// Number of concurrent flows.
    pub(super) slots: u32,
}

/// Before the run.
const NOTHING: Span = Span { from: Instant(u64::MAX), until: Instant(u64::MAX) };

/// One side: a port and its counters.
pub(super) struct Side {
    task: Task,
    id: PortId,
    mac: Mac,
    port: Box<dyn Port>,
    pool: Pool,
    frames: Vec<Frame>,
    out: Vec<Frame>,
    back: Vec<Returned>,
    span: Span,
    /// What has been counted.
    pub(super) seen: Seen,
}

/// What has been counted.
pub(super) struct Seen {
    /// Packets that arrived at their end.
    pub(super) tally: Tally,
    /// Counted packets that passed here and were not at their end.
    pub(super) halfway: u64,
    /// Packets to a port without a Service, which should not arrive.
    pub(super) strays: u64,
    /// Replies to ARP requests.
    pub(super) arp_answered: u64,
    /// Frames the port could not hand over in time: lost here, not in the gateway.
    pub(super) missed: u64,
    /// Frames not sent, by reason.
    pub(super) unsent: BTreeMap<&'static str, u64>,
    /// Counted packets among them, and strays.
    pub(super) unsent_counted: [u64; 2],
    /// The bytes of both.
    pub(super) unsent_bytes: u64,
    /// Packets by endpoint, and when the first came.
    pub(super) endpoints: Vec<Endpoint>,
    /// For a reader on another thread: `tally.received`.
    pub(super) received: Arc<AtomicU64>,
}

/// One endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Endpoint {
    /// Counted packets.
    pub(super) packets: u64,
    /// When the first came, in the warm-up or after; ns since the start.
    pub(super) first: Option<u64>,
}

impl Side {
    /// With `buffers` buffers for packets of its own.
    pub(super) fn new(task: Task, id: PortId, mac: Mac, port: Box<dyn Port>, buffers: usize) -> Side {
        let endpoints: u64 = task.endpoints.iter().map(Block::count).sum();
        let seen = Seen {
            tally: Tally::new(task.slots, NOTHING),
            halfway: 0,
            strays: 0,
            arp_answered: 0,
            missed: 0,
            unsent: BTreeMap::new(),
            unsent_counted: [0; 2],
            unsent_bytes: 0,
            endpoints: vec![Endpoint::default(); usize::try_from(endpoints).unwrap_or(0)],
            received: Arc::default(),
        };
        let room = 2 * BURST + buffers;
        Side {
            id,
            mac,
            port,
            pool: Pool::new(buffers),
            frames: Vec::with_capacity(BURST),
            out: Vec::with_capacity(room),
            back: Vec::with_capacity(room),
            span: NOTHING,
            seen,
            task,
        }
    }

    /// From now on, packets that are due in `span` count.
    pub(super) fn start(&mut self, span: Span) {
        self.span = span;
        self.seen.tally = Tally::new(self.task.slots, span);
    }

    /// Its hardware address.
    pub(super) fn mac(&self) -> Mac {
        self.mac
    }

    /// Packets that could be made now.
    pub(super) fn room(&self) -> usize {
        self.pool.free()
    }

    /// A buffer for a packet of `len` bytes, to be given to [`Side::queue`].
    pub(super) fn lend(&mut self, len: usize) -> Option<Frame> {
        self.pool.lend(len, self.id)
    }

    /// Leaves a frame for the next [`Side::send`].
    pub(super) fn queue(&mut self, frame: Frame) {
        self.out.push(frame);
    }

    /// Sends what is queued, and looks after what was sent before.
    pub(super) fn send(&mut self, clock: &Clock) {
        if !self.out.is_empty() || self.port.is_sending() {
            self.port.tx(clock.now(), &mut self.out, &mut self.back);
        }
        while let Some(Returned { frame, dropped }) = self.back.pop() {
            if let Some(reason) = dropped {
                self.count_unsent(&frame, reason);
            }
            self.release(frame);
        }
    }

    /// Receives and processes a burst; returns the number of frames.
    pub(super) fn receive(&mut self, clock: &Clock) -> usize {
        self.port.rx(clock.now(), BURST, &mut self.frames);
        self.seen.missed += self.port.missed();
        let count = self.frames.len();
        if count > 0 {
            self.take_all(clock.now());
            self.seen.received.store(self.seen.tally.received, Relaxed);
        }
        self.send(clock);
        count
    }

    /// Asks for the hardware address of `wanted`.
    pub(super) fn ask(&mut self, wanted: IpAddr, clock: &Clock) {
        let request = neighbour::request(self.mac, self.task.clients.nth(0), wanted);
        if let Some(mut frame) = self.lend(request.len()) {
            frame.bytes_mut().copy_from_slice(&request);
            self.queue(frame);
            self.send(clock);
        }
    }

    /// Receives a burst only to find the reply for `wanted`; replies to others meanwhile.
    pub(super) fn listen(&mut self, wanted: IpAddr, clock: &Clock) -> Option<Mac> {
        self.port.rx(clock.now(), BURST, &mut self.frames);
        let told = self.frames.iter().find_map(|frame| neighbour::told(frame.bytes(), wanted));
        self.take_all(clock.now());
        self.send(clock);
        told
    }

    /// In the order they came: it is what is measured.
    fn take_all(&mut self, now: Instant) {
        let mut frames = std::mem::take(&mut self.frames);
        frames.drain(..).for_each(|frame| self.take(frame, now));
        self.frames = frames;
    }

    fn take(&mut self, mut frame: Frame, now: Instant) {
        let Some(arrival) = Arrival::read(frame.bytes(), self.task.run, &self.task.clients) else {
            if neighbour::answer(&mut frame, &self.task.answers, self.mac) {
                self.seen.arp_answered += 1;
                return self.out.push(frame);
            }
            return self.release(frame);
        };
        self.count(&arrival, frame.len(), now);
        if self.task.reply && arrival.way == Way::There {
            arrival.reply_in_place(&mut frame, self.mac);
            return self.out.push(frame);
        }
        self.release(frame);
    }

    fn count(&mut self, arrival: &Arrival, len: usize, now: Instant) {
        let Seen { tally, strays, halfway, endpoints, .. } = &mut self.seen;
        let counts = self.span.has(arrival.stamp.due());
        if arrival.stamp.flow() == STRAY {
            *strays += u64::from(counts);
            return;
        }
        if arrival.way == Way::There
            && let Some(endpoint) = position(&self.task.endpoints, arrival.dst).and_then(|at| endpoints.get_mut(at))
        {
            endpoint.packets += u64::from(counts);
            endpoint.first.get_or_insert(now.0);
        }
        if arrival.way == self.task.end {
            tally.record(&arrival.stamp, len, now);
        } else {
            *halfway += u64::from(counts);
        }
    }

    fn count_unsent(&mut self, frame: &Frame, reason: DropReason) {
        *self.seen.unsent.entry(reason.name()).or_default() += 1;
        if frame.origin() != ORIGIN {
            return;
        }
        let packet = Arrival::read(frame.bytes(), self.task.run, &self.task.clients);
        if let Some(stamp) = packet.map(|packet| packet.stamp).filter(|stamp| self.span.has(stamp.due())) {
            self.seen.unsent_counted[usize::from(stamp.flow() == STRAY)] += 1;
            self.seen.unsent_bytes += frame.len() as u64;
        }
    }

    fn release(&mut self, frame: Frame) {
        if frame.origin() == ORIGIN { self.pool.release(frame) } else { self.port.release(frame) }
    }
}

/// Which of all addresses of `blocks` it is.
fn position(blocks: &[Block], address: IpAddr) -> Option<usize> {
    let mut before = 0;
    for block in blocks {
        if let Some(position) = block.position(address) {
            return Some(before + position);
        }
        before += usize::try_from(block.count()).ok()?;
    }
    None
}

//! Dispatch: turns verdicts into sent frames, counters and returned buffers. Only this module counts.

use std::sync::Arc;

use pollgate_common::counters::{Counters, WorkerCounters};
use pollgate_common::dns::forward::Reply;
use pollgate_common::net::{NeighbourQuery, Net, NoNextHop, PortId};
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_common::time::Instant;

use crate::egress::exchange::Exchange;
use crate::egress::mesh::Mesh;
use crate::egress::pending::{IpPacket, Pending};
use crate::egress::pool::BufferPool;
use crate::egress::slots::Slots;
use crate::flow::table::FlowTotals;
use crate::fragment::held::{End, Slot};
use crate::overload::Waiting;
use crate::packet::{Account, Action, Outcome};
use crate::port::closing::Closing;
use crate::port::{BURST, Frame, Origin, Port, Returned};
use crate::reply::dns;
use crate::rewrite;
use crate::state::Shared;

/// Asks the kernel, through the control side, to resolve a neighbour. Must not wait.
pub type AskNeighbour = Box<dyn Fn(NeighbourQuery) + Send>;

/// The part of a worker that moves frames and counts them.
pub(crate) struct Egress {
    pub(crate) worker: u16,
    pub(crate) ports: Vec<Box<dyn Port>>,
    pub(crate) pool: BufferPool,
    pub(crate) pending: Pending,
    pub(crate) held: Slots,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) ask: AskNeighbour,
    pub(crate) counters: Arc<Counters>,
    /// By which ports are replaced.
    pub(crate) exchange: Arc<Exchange>,
    /// How many ports are being closed.
    pub(crate) closing: usize,
    /// Frames to send, by port.
    pub(crate) out: Vec<Vec<Frame>>,
    pub(crate) back: Vec<Returned>,
}

impl Egress {
    /// Receives a burst from a port. Returns what still waits there. Inlined although it has a second, rare caller: as a function it would cost 20 instructions more.
    #[inline(always)]
    pub(crate) fn receive(&mut self, port: usize, frames: &mut Vec<Frame>, now: Instant) -> Waiting {
        self.ports[port].rx(now, BURST, frames);
        let missed = self.ports[port].missed();
        let counters = self.counters();
        counters.rx.add(frames.len() as u64);
        counters.rx_bytes.add(frames.iter().map(|frame| frame.len() as u64).sum());
        counters.missed.add(missed);
        if frames.len() < BURST { Waiting::Nothing } else { Waiting::More(self.ports[port].backlog()) }
    }

    /// Takes a burst of frames that other workers handed over. Returns what still waits.
    #[inline]
    pub(crate) fn receive_handed_over(&mut self, frames: &mut Vec<Frame>) -> Waiting {
        frames.extend(std::iter::from_fn(|| self.mesh.receive(self.worker)).take(BURST));
        self.counters().handed_in.add(frames.len() as u64);
        if frames.len() < BURST { Waiting::Nothing } else { Waiting::More(self.mesh.backlog(self.worker)) }
    }

    /// Sends the responses to forwarded DNS queries that have come, at most a burst of them. Returns how many.
    pub(crate) fn send_replies(&mut self) -> usize {
        let mut count = 0;
        while count < BURST
            && self.pool.has_free()
            && let Some(reply) = self.mesh.next_reply(self.worker)
        {
            self.send_reply(&reply);
            count += 1;
        }
        count
    }

    #[cold]
    fn send_reply(&mut self, reply: &Reply) {
        let headers = &reply.way.headers;
        let Some(mut frame) = self.pool.make(headers, Origin::Worker(self.worker), reply.way.port) else { return };
        self.counters().originated.add(1);
        match dns::reply(&mut frame, reply) {
            Some(()) => self.queue(frame, reply.way.port),
            None => self.drop(frame, DropReason::NoRoomForAnswer),
        }
    }

    /// Carries out the verdicts of a burst. Leaves `frames` empty.
    #[inline]
    pub(crate) fn dispatch(&mut self, frames: &mut Vec<Frame>, outcomes: &[Outcome], net: &Net, now: Instant) {
        self.counters().bursts.add(1);
        self.carry_out(frames, outcomes, net, now);
    }

    /// The same for frames that were counted as received before.
    #[inline]
    pub(crate) fn carry_out(&mut self, frames: &mut Vec<Frame>, outcomes: &[Outcome], net: &Net, now: Instant) {
        self.account(frames, outcomes);
        if let Some(port) = common_port(outcomes)
            && let Some(out) = self.out.get_mut(usize::from(port.0))
        {
            return out.append(frames);
        }
        for (frame, outcome) in frames.drain(..).zip(outcomes) {
            self.act(frame, outcome.action, net, now);
        }
    }

    /// Counts for the endpoints.
    #[inline]
    fn account(&self, frames: &[Frame], outcomes: &[Outcome]) {
        let counters = self.counters.services(usize::from(self.worker));
        for (frame, outcome) in frames.iter().zip(outcomes) {
            let Account { service, slot, packets, flows } = outcome.account;
            if flows > 0 {
                counters.open(service, slot);
                self.counters().flows_opened.add(1);
            }
            let packets = u64::from(packets);
            counters.add(service, slot, packets, packets * frame.len() as u64);
        }
    }

    /// Does what is left to do.
    #[inline]
    fn act(&mut self, frame: Frame, action: Action, net: &Net, now: Instant) {
        match action {
            Action::Send(port) => self.queue(frame, port),
            Action::SendRefusal(reason) => {
                self.counters().drop(reason);
                self.counters().originated.add(1);
                let port = frame.received_on();
                self.queue(frame, port);
            }
            Action::Pend => self.pend(frame, net, now),
            Action::Consume => {
                self.counters().consumed.add(1);
                self.release(frame);
            }
            // Two workers with different generations of the tables can each name the other. So a frame is handed over only once.
            Action::HandOver(_) if matches!(frame.origin(), Origin::Worker(_)) => {
                self.drop(frame, DropReason::HandedOverTwice);
            }
            Action::HandOver(worker) | Action::HandOn(worker) => self.hand_over(frame, worker),
            Action::Hold(slot) => self.hold(frame, slot),
            Action::Pass(reason) => self.pass(frame, reason, net),
            Action::Drop(reason) => self.drop(frame, reason),
        }
    }

    fn pass(&mut self, frame: Frame, reason: PassReason, net: &Net) {
        if !self.kernel_has(&frame) {
            return self.give_back(frame, reason, net);
        }
        self.counters().pass(reason);
        self.release(frame);
    }

    /// Gives the kernel a packet for the host that it has not seen: by the host pair, where it counts as sent.
    #[cold]
    fn give_back(&mut self, mut frame: Frame, reason: PassReason, net: &Net) {
        match net.pair().filter(|_| reason == PassReason::NotOwned) {
            Some(next) => {
                rewrite::address(&mut frame, next);
                self.counters().given_to_host.add(1);
                self.queue(frame, next.port);
            }
            None => self.drop(frame, DropReason::NotPassed),
        }
    }

    /// Whether the kernel also has this frame, so that it may be left to the kernel.
    fn kernel_has(&self, frame: &Frame) -> bool {
        self.ports.get(usize::from(frame.received_on().0)).is_none_or(|port| port.kernel_has_copy())
    }

    #[inline]
    fn queue(&mut self, frame: Frame, port: PortId) {
        match self.out.get_mut(usize::from(port.0)) {
            Some(out) => out.push(frame),
            None => self.drop(frame, DropReason::UnpolledInterface),
        }
    }

    fn drop(&mut self, frame: Frame, reason: DropReason) {
        self.counters().drop(reason);
        self.release(frame);
    }

    #[cold]
    fn pend(&mut self, frame: Frame, net: &Net, now: Instant) {
        let packet = IpPacket::of(&frame);
        let Some((packet, Err(NoNextHop::Neighbour(query)))) = packet.map(|it| (it, net.next_hop(it.destination)))
        else {
            // Not reached: the same look-up reported an unresolved neighbour just before.
            return self.drop(frame, DropReason::NeighbourUnresolved);
        };
        let (room, requested) = self.pending.room_for(&query);
        if !requested {
            (self.ask)(query);
        }
        let kept = if room { self.keep(frame) } else { Err(frame) };
        match kept {
            Ok(frame) => self.pending.add(frame, query, packet, now),
            Err(frame) => self.drop(frame, DropReason::NeighbourQueueFull),
        }
        self.count_held();
    }

    #[cold]
    fn hand_over(&mut self, frame: Frame, worker: u16) {
        match self.keep(frame) {
            Ok(frame) => match self.mesh.send(worker, frame) {
                Ok(()) => self.counters().handed_over.add(1),
                Err(frame) => self.drop(frame, DropReason::HandoverFull),
            },
            Err(frame) => self.drop(frame, DropReason::HandoverFull),
        }
    }

    /// Keeps a fragment in its slot, in a buffer of this worker: held in another worker's buffers, fragments could keep that one from
    /// handing frames over.
    #[cold]
    fn hold(&mut self, frame: Frame, slot: Slot) {
        let kept = match frame.origin() {
            Origin::Worker(worker) if worker == self.worker => Ok(frame),
            Origin::Worker(_) | Origin::Port(_) => self.copy(frame),
        };
        if let Err(frame) = kept.and_then(|frame| self.held.put(slot, frame)) {
            self.drop(frame, DropReason::FragmentsFull);
        }
        self.count_held();
    }

    /// Ends the wait of the fragment in the slot. Returns it if it goes through the pipeline again.
    pub(crate) fn end_wait(&mut self, slot: Slot, end: End, net: &Net) -> Option<Frame> {
        let frame = self.held.take(slot)?;
        match end {
            End::Again => return Some(frame),
            End::Pass(reason) => self.pass(frame, reason, net),
            End::Drop(reason) => self.drop(frame, reason),
        }
        None
    }

    /// Counts the frames that wait.
    pub(crate) fn count_held(&self) {
        self.counters().held.set(self.pending.len() as u64 + self.held.count());
    }

    /// The frame in a buffer that may outlive the burst. A frame of a pool keeps its buffer. Otherwise this is a copy, and the
    /// original goes back to its port.
    fn keep(&mut self, frame: Frame) -> Result<Frame, Frame> {
        if matches!(frame.origin(), Origin::Worker(_)) {
            return Ok(frame);
        }
        self.copy(frame)
    }

    /// A copy of the frame in a buffer of this worker.
    fn copy(&mut self, frame: Frame) -> Result<Frame, Frame> {
        match self.pool.copy(&frame, Origin::Worker(self.worker)) {
            Some(copy) => {
                self.release(frame);
                Ok(copy)
            }
            None => Err(frame),
        }
    }

    /// Sends or drops the frames whose wait for a neighbour is over.
    pub(crate) fn review(&mut self, net: &Net, moved: bool, now: Instant) {
        if self.pending.len() == 0 {
            return;
        }
        let mut pending = std::mem::replace(&mut self.pending, Pending::empty());
        pending.review(net, moved, now, |mut frame, result| match result {
            Ok(next) => {
                rewrite::address(&mut frame, &next);
                self.queue(frame, next.port);
            }
            Err(reason) => self.drop(frame, reason),
        });
        self.pending = pending;
        while let Some(query) = self.pending.due(now) {
            (self.ask)(query);
        }
        self.count_held();
    }

    /// Sends all queued frames, port by port, and collects the buffers of frames that were sent.
    pub(crate) fn flush(&mut self, now: Instant) {
        for at in 0..self.ports.len() {
            if self.out[at].is_empty() && !self.ports[at].is_sending() {
                continue;
            }
            let sent = self.ports[at].tx(now, &mut self.out[at], &mut self.back);
            self.counters().tx.add(sent.frames);
            self.counters().tx_bytes.add(sent.bytes);
        }
        while let Some(Returned { frame, dropped }) = self.back.pop() {
            match dropped {
                Some(reason) => self.drop(frame, reason),
                None => self.release(frame),
            }
        }
    }

    /// Replaces the port by `placeholder`, which gives it up when it is idle.
    pub(crate) fn close(&mut self, at: usize, placeholder: Box<Closing>) {
        if let Some(port) = self.ports.get_mut(at) {
            placeholder.replace(port);
            self.closing += 1;
        }
    }

    /// Replaces the placeholder by `port`, and returns it.
    pub(crate) fn open(&mut self, at: PortId, port: Box<dyn Port>) {
        if let Some(slot) = self.ports.get_mut(usize::from(at.0)) {
            let placeholder = std::mem::replace(slot, port);
            self.exchange.give_back(at, placeholder);
        }
    }

    /// Returns the ports that are idle now. Returns whether all are.
    pub(crate) fn return_closed(&mut self) -> bool {
        for (at, port) in (0u16..).zip(&mut self.ports) {
            if let Some(old) = port.take_closed() {
                self.exchange.give_back(PortId(at), old);
                self.closing -= 1;
            }
        }
        self.closing == 0
    }

    /// Copies the totals that others keep, at the end of a poll.
    pub(crate) fn report(&self, flows: FlowTotals, shared: &Shared, generation: u64) {
        let (counters, affinity) = (self.counters(), shared.affinity_totals);
        counters.flows_live.set(flows.live);
        counters.flows_half_open.set(flows.half_open);
        counters.flows_expired.set(flows.expired);
        counters.flows_evicted.set(flows.evicted);
        counters.flows_displaced.set(flows.displaced);
        counters.ports_taken_over.set(flows.taken_over);
        counters.tcp_out_of_window.set(flows.out_of_window);
        counters.sctp_wrong_tag.set(flows.wrong_tag);
        counters.affinity_remembered.set(affinity.remembered);
        counters.affinity_displaced.set(affinity.displaced);
        counters.affinity_refused.set(affinity.refused);
        counters.address_conflicts.set(shared.conflicting_frames);
        shared.dns.report(counters);
        counters.generation.set(generation);
        counters.polls.add(1);
    }

    /// Counts a sleep.
    pub(crate) fn slept(&self) {
        self.counters().sleeps.add(1);
    }

    /// Whether a port has frames that are not sent yet.
    pub(crate) fn is_sending(&self) -> bool {
        self.ports.iter().any(|port| port.is_sending())
    }

    /// Gives a buffer back to its origin.
    fn release(&mut self, frame: Frame) {
        match frame.origin() {
            Origin::Port(port) => {
                if let Some(port) = self.ports.get_mut(usize::from(port.0)) {
                    port.release(frame);
                }
            }
            Origin::Worker(worker) if worker == self.worker => self.pool.release(frame),
            Origin::Worker(worker) => self.mesh.give_back(worker, frame),
        }
    }

    /// Collects the buffers that other workers have returned.
    pub(crate) fn take_returns(&mut self) {
        while let Some(frame) = self.mesh.returned(self.worker) {
            self.pool.release(frame);
        }
    }

    #[inline]
    fn counters(&self) -> &WorkerCounters {
        self.counters.worker(usize::from(self.worker))
    }
}

/// The outgoing port, if it is the same for all frames of a burst (as in most bursts).
#[inline]
fn common_port(outcomes: &[Outcome]) -> Option<PortId> {
    let first = outcomes.first()?.action;
    let Action::Send(port) = first else { return None };
    outcomes.iter().all(|outcome| outcome.action == first).then_some(port)
}

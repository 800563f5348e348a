//! Dispatch: verdicts become sent frames, counters and returned buffers. The one place that counts.

use std::sync::Arc;

use pollgate_common::counters::WorkerCounters;
use pollgate_common::net::{NeighbourQuery, Net, NoNextHop, PortId};
use pollgate_common::reasons::DropReason;
use pollgate_common::time::Instant;

use crate::egress::pending::{Outcome, Pending};
use crate::egress::pool::BufferPool;
use crate::packet::Verdict;
use crate::port::{Frame, Origin, Port, Returned};
use crate::rewrite;
use crate::steer::Mesh;

/// Asks the kernel, by way of the control side, for a neighbour. Must not wait.
pub type AskNeighbour = Box<dyn Fn(NeighbourQuery) + Send>;

/// Everything of a worker that moves frames.
pub(crate) struct Egress {
    pub(crate) worker: u16,
    pub(crate) ports: Vec<Box<dyn Port>>,
    pub(crate) pool: BufferPool,
    pub(crate) pending: Pending,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) ask: AskNeighbour,
    /// Frames to send, by port.
    pub(crate) out: Vec<Vec<Frame>>,
    pub(crate) back: Vec<Returned>,
}

impl Egress {
    /// Does what was decided.
    #[inline]
    pub(crate) fn dispatch(
        &mut self,
        frame: Frame,
        verdict: Verdict,
        net: &Net,
        counters: &WorkerCounters,
        now: Instant,
    ) {
        match verdict {
            Verdict::Send(port) => return self.queue(frame, usize::from(port.0), counters),
            Verdict::Refuse(reason, port) => {
                counters.drop(reason);
                counters.originated.add(1);
                return self.queue(frame, usize::from(port.0), counters);
            }
            Verdict::Hold => return self.hold(frame, net, counters, now),
            Verdict::HandOver(worker) => return self.hand_over(frame, worker, counters),
            Verdict::Pass(_) if !self.kernel_has(&frame) => counters.drop(DropReason::NotPassed),
            Verdict::Pass(reason) => counters.pass(reason),
            Verdict::Drop(reason) => counters.drop(reason),
        }
        self.release(frame);
    }

    /// Whether the kernel has this frame as well, and may be left with it.
    fn kernel_has(&self, frame: &Frame) -> bool {
        self.ports.get(usize::from(frame.received_on().0)).is_none_or(|port| port.kernel_has_copy())
    }

    /// Sends every frame of a burst by the same port, which is what most bursts do. Answers whether there is such a port.
    #[inline]
    pub(crate) fn queue_all(&mut self, frames: &mut Vec<Frame>, port: PortId) -> bool {
        let out = self.out.get_mut(usize::from(port.0));
        out.map(|out| out.append(frames)).is_some()
    }

    #[inline]
    fn queue(&mut self, frame: Frame, port: usize, counters: &WorkerCounters) {
        match self.out.get_mut(port) {
            Some(out) => out.push(frame),
            None => self.end(frame, DropReason::UnpolledInterface, counters),
        }
    }

    fn end(&mut self, frame: Frame, reason: DropReason, counters: &WorkerCounters) {
        counters.drop(reason);
        self.release(frame);
    }

    #[cold]
    fn hold(&mut self, frame: Frame, net: &Net, counters: &WorkerCounters, now: Instant) {
        let destination = rewrite::destination(&frame);
        let Some((destination, Err(NoNextHop::Neighbour(query)))) = destination.map(|to| (to, net.hop(to))) else {
            // Nobody to wait for: the same look-up said otherwise a moment ago.
            return self.end(frame, DropReason::NeighbourUnresolved, counters);
        };
        let (room, asked) = self.pending.room_for(&query);
        if !asked {
            (self.ask)(query);
        }
        let kept = if room { self.keep(frame) } else { Err(frame) };
        match kept {
            Ok(frame) => self.pending.add(frame, query, destination, now),
            Err(frame) => self.end(frame, DropReason::NeighbourQueueFull, counters),
        }
        counters.held.set(self.pending.len() as u64);
    }

    #[cold]
    fn hand_over(&mut self, frame: Frame, worker: u16, counters: &WorkerCounters) {
        // A frame that was handed to us and is not ours either would go round for ever: it ends here.
        if matches!(frame.origin(), Origin::Worker(_)) {
            return self.end(frame, DropReason::HandoverFull, counters);
        }
        match self.keep(frame) {
            Ok(frame) => match self.mesh.send(worker, frame) {
                Ok(()) => counters.handed_over.add(1),
                Err(frame) => self.end(frame, DropReason::HandoverFull, counters),
            },
            Err(frame) => self.end(frame, DropReason::HandoverFull, counters),
        }
    }

    /// The frame in a buffer that may outlive the burst: its own if it is of a pool, a copy otherwise (the original
    /// goes back to its port).
    fn keep(&mut self, frame: Frame) -> Result<Frame, Frame> {
        if matches!(frame.origin(), Origin::Worker(_)) {
            return Ok(frame);
        }
        match self.pool.copy(&frame, Origin::Worker(self.worker)) {
            Some(copy) => {
                self.release(frame);
                Ok(copy)
            }
            None => Err(frame),
        }
    }

    /// Sends or drops what waited for a neighbour, where the wait is over.
    pub(crate) fn review(&mut self, net: &Net, moved: bool, now: Instant, counters: &WorkerCounters) {
        if self.pending.len() == 0 {
            return;
        }
        let mut pending = std::mem::replace(&mut self.pending, Pending::empty());
        pending.review(net, moved, now, |mut frame, outcome| match outcome {
            Outcome::Ready(hop) if rewrite::is_too_long(rewrite::total_len(&frame), &frame, &hop) => {
                self.end(frame, DropReason::TxTooLong, counters)
            }
            Outcome::Ready(hop) => {
                rewrite::address(&mut frame, &hop);
                self.queue(frame, usize::from(hop.port.0), counters);
            }
            Outcome::Dropped(reason) => self.end(frame, reason, counters),
        });
        self.pending = pending;
        while let Some(query) = self.pending.due(now) {
            (self.ask)(query);
        }
        counters.held.set(self.pending.len() as u64);
    }

    /// Sends everything queued, port by port, and asks after what is still on its way out.
    pub(crate) fn flush(&mut self, now: Instant, counters: &WorkerCounters) {
        for at in 0..self.ports.len() {
            if self.out[at].is_empty() && !self.ports[at].is_sending() {
                continue;
            }
            let sent = self.ports[at].tx(now, &mut self.out[at], &mut self.back);
            counters.tx.add(sent.frames);
            counters.tx_bytes.add(sent.bytes);
        }
        while let Some(Returned { frame, dropped }) = self.back.pop() {
            if let Some(reason) = dropped {
                counters.drop(reason);
            }
            self.release(frame);
        }
    }

    /// Whether a port has frames that are not out yet.
    pub(crate) fn is_sending(&self) -> bool {
        self.ports.iter().any(|port| port.is_sending())
    }

    /// Gives a buffer back to whose it is.
    pub(crate) fn release(&mut self, frame: Frame) {
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

    /// Takes in the buffers that came home from other workers.
    pub(crate) fn take_returns(&mut self) {
        while let Some(frame) = self.mesh.returned(self.worker) {
            self.pool.release(frame);
        }
    }
}

//! Sending: descriptors in the transmit ring, kicks, and completed buffers.
//!
//! ```text
//!  frame in the memory  ──────────────▶ descriptor ─▶ transmit ring ─kick─▶ kernel ─▶ completion ring ─▶ its owner
//!  frame from elsewhere ─copy─▶ chunk ──▲
//! ```
//!
//! **Kicks.** In copy mode the kernel sends inside the system call, at most 32 frames per call. So the call is repeated until
//! the ring is empty or the kernel takes no more, at most [`KICKS`] times. The rest of the ring goes with the next call, which
//! the worker makes while [`Transmitter::is_sending`]. With zero copy the driver reports whether it needs a kick
//! (XDP_USE_NEED_WAKEUP).
//!
//! **A link that is down** shows in two ways. If it is administratively down, the first kick fails (ENETDOWN) before the
//! kernel has read any new descriptor, so in copy mode they can be withdrawn. Without carrier the kernel takes each frame
//! and drops it (EBUSY, one frame per call), as it does if the device's queue is full. The interface's flags show which it
//! is, up to a second late. While the link is down, the first frame of each batch is a probe. The rest of a batch is sent
//! only after a probe succeeds.
//!
//! A refused frame (EBUSY) is the one before the ring's consumer. It completes like the others and is then reported with its
//! reason. A refused frame of an earlier batch was already reported as sent.

#![allow(unsafe_code, reason = "takes completed chunks out of the memory shared with the kernel")]

use pollgate_common::reasons::DropReason;

use super::super::device::Device;
use super::super::{BURST, Frame, Returned, Sent};
use super::checksum;
use super::ring::Producer;
use super::socket::Socket;
use super::umem::Share;

/// Maximum number of system calls per burst: enough for a burst in copy mode in which every frame is refused.
const KICKS: u32 = 80;
/// Length of the shortest frame: an Ethernet header.
const SHORTEST: usize = 14;
const ETHERNET_AND_TAG: usize = 18;

/// The result for a frame of the burst.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Dropped(DropReason),
    /// In the ring, with this number: in its own chunk, or copied to another.
    Queued {
        number: u32,
        copied: bool,
    },
}

/// The result of a burst's kicks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kicked {
    /// The kernel has taken the frames or will take them.
    Taken,
    /// The link was down before the kernel read any frame. They were withdrawn.
    Withdrawn,
}

/// The sending half of a port.
#[derive(Debug)]
pub(super) struct Transmitter {
    ring: Producer<libc::xdp_desc>,
    outcomes: [Outcome; BURST],
    /// Numbers of frames of this burst that the device refused, with the reasons.
    refused: Vec<(u32, DropReason)>,
    /// Refused frames whose chunk is not completed yet.
    returning: Vec<(u64, DropReason)>,
    /// Number of submitted descriptors without completion.
    under_way: u32,
    /// The largest frame that the device accepted when the port was opened.
    largest: usize,
    is_down: bool,
    is_gone: bool,
}

impl Transmitter {
    pub(super) fn new(ring: Producer<libc::xdp_desc>, mtu: usize) -> Transmitter {
        Transmitter {
            ring,
            outcomes: [Outcome::Dropped(DropReason::TxError); BURST],
            refused: Vec::with_capacity(BURST),
            returning: Vec::with_capacity(BURST),
            under_way: 0,
            largest: mtu + ETHERNET_AND_TAG,
            is_down: false,
            is_gone: false,
        }
    }

    /// Whether chunks are being sent that may still complete.
    pub(super) fn is_sending(&self) -> bool {
        self.under_way > 0 && !self.is_gone
    }

    /// Whether every chunk that was submitted is completed.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way == 0
    }

    /// Handles completions. Chunks of other ports go to `back` as frames. Our own go directly to the free list.
    pub(super) fn reap(&mut self, socket: &mut Socket, share: &mut Share, back: &mut Vec<Returned>) {
        while let Some(address) = socket.completion.pop() {
            self.under_way = self.under_way.saturating_sub(1);
            let dropped = self.reason(address);
            if dropped.is_none() && share.owns(address) {
                share.put(address);
                continue;
            }
            // SAFETY: the kernel is done with the chunk: its address has just left the completion ring.
            if let Some(frame) = unsafe { share.hand_out(address, 0, None) } {
                back.push(Returned { frame, dropped });
            }
        }
        socket.completion.release();
    }

    /// Why the frame at `address` was refused, if it was.
    fn reason(&mut self, address: u64) -> Option<DropReason> {
        if self.returning.is_empty() {
            return None;
        }
        let at = self.returning.iter().position(|&(refused, _)| refused == address)?;
        Some(self.returning.swap_remove(at).1)
    }

    /// Sends all of `batch`.
    pub(super) fn send(
        &mut self,
        (socket, device): (&Socket, &Device),
        share: &mut Share,
        batch: &mut Vec<Frame>,
        back: &mut Vec<Returned>,
    ) -> Sent {
        let mut sent = Sent::default();
        if batch.is_empty() {
            self.kick(socket, device, self.ring.next());
        }
        while !batch.is_empty() {
            let count = if self.is_down { 1 } else { batch.len().min(BURST) };
            let first = self.ring.next();
            for (at, frame) in batch[..count].iter_mut().enumerate() {
                self.outcomes[at] = self.queue(share, frame).unwrap_or_else(Outcome::Dropped);
            }
            self.ring.submit();
            let kicked = self.kick(socket, device, first);
            for (at, frame) in batch.drain(..count).enumerate() {
                self.settle(self.outcomes[at], kicked, frame, share, back, &mut sent);
            }
            if self.is_down {
                let down = |frame| Returned { frame, dropped: Some(DropReason::TxLinkDown) };
                back.extend(batch.drain(..).map(down));
            }
        }
        if self.is_gone {
            self.abandon(share, back);
        }
        sent
    }

    /// Takes the chunks back that the kernel has not read, and will not: the interface is gone. They were reported as sent.
    #[cold]
    fn abandon(&mut self, share: &mut Share, back: &mut Vec<Returned>) {
        let (first, end) = (self.ring.consumed(), self.ring.next());
        for offset in 0..end.wrapping_sub(first) {
            let address = self.ring.peek(first.wrapping_add(offset)).addr;
            self.under_way = self.under_way.saturating_sub(1);
            if share.owns(address) {
                share.put(address);
                continue;
            }
            // SAFETY: the chunk was submitted and not read by the kernel, which has no device to send it by.
            if let Some(frame) = unsafe { share.hand_out(address, 0, None) } {
                back.push(Returned { frame, dropped: None });
            }
        }
        self.ring.withdraw_to(first);
    }

    fn queue(&mut self, share: &mut Share, frame: &mut Frame) -> Result<Outcome, DropReason> {
        if frame.len() < SHORTEST {
            return Err(DropReason::TxError);
        }
        if frame.len() > self.largest {
            return Err(DropReason::TxTooLong);
        }
        checksum::finish(frame);
        let number = self.ring.next();
        let (address, copied) = match share.umem().address(frame) {
            Some(address) => (address, false),
            None => (share.copy(frame.bytes()).ok_or(DropReason::TxFull)?, true),
        };
        let len = u32::try_from(frame.len()).map_err(|_| DropReason::TxTooLong)?;
        if !self.ring.push(libc::xdp_desc { addr: address, len, options: 0 }) {
            if copied {
                share.put(address);
            }
            return Err(DropReason::TxFull);
        }
        Ok(Outcome::Queued { number, copied })
    }

    /// Counts a frame and handles its buffer.
    fn settle(
        &mut self,
        outcome: Outcome,
        kicked: Kicked,
        frame: Frame,
        share: &mut Share,
        back: &mut Vec<Returned>,
        sent: &mut Sent,
    ) {
        let (number, copied) = match outcome {
            Outcome::Dropped(reason) => return back.push(Returned { frame, dropped: Some(reason) }),
            Outcome::Queued { number, copied } => (number, copied),
        };
        if kicked == Kicked::Withdrawn {
            if copied {
                share.put(self.ring.peek(number).addr);
            }
            return back.push(Returned { frame, dropped: Some(DropReason::TxLinkDown) });
        }
        self.under_way += 1;
        let refused = self.refused.iter().find(|&&(refused, _)| refused == number).map(|&(_, reason)| reason);
        if refused.is_none() {
            sent.frames += 1;
            sent.bytes += frame.len() as u64;
        }
        if copied {
            return back.push(Returned { frame, dropped: refused });
        }
        if let Some(address) = share.take_in(frame)
            && let Some(reason) = refused
        {
            self.returning.push((address, reason));
        }
    }

    /// Makes the kernel process the ring. The burst's first descriptor has the number `first`.
    fn kick(&mut self, socket: &Socket, device: &Device, first: u32) -> Kicked {
        self.refused.clear();
        let mut stuck = 0;
        for turn in 0..KICKS {
            let before = self.ring.consumed();
            if self.ring.pending() == 0 || !self.ring.needs_wakeup() {
                break;
            }
            match socket.kick() {
                Ok(()) => self.is_down = false,
                Err(libc::EINTR) => {}
                Err(libc::EBUSY) => {
                    self.is_down = self.is_down || (self.refused.is_empty() && !device.is_running());
                    self.refuse(first);
                }
                Err(error @ (libc::ENETDOWN | libc::ENXIO | libc::ENODEV)) => {
                    self.is_gone = error != libc::ENETDOWN;
                    return self.down(socket, turn, first);
                }
                Err(_) => stuck += 1,
            }
            if self.ring.consumed() != before {
                stuck = 0;
            } else if stuck > 1 {
                break;
            }
        }
        Kicked::Taken
    }

    /// Records that the kernel took the frame before the consumer and dropped it.
    fn refuse(&mut self, first: u32) {
        let number = self.ring.consumed().wrapping_sub(1);
        let of_this_burst = number.wrapping_sub(first) < self.ring.next().wrapping_sub(first);
        if of_this_burst {
            let reason = if self.is_down { DropReason::TxLinkDown } else { DropReason::TxFull };
            self.refused.push((number, reason));
        }
    }

    /// Handles a link that is down. If the kernel reads the ring only when called, and has not read the burst yet, the burst
    /// is withdrawn.
    fn down(&mut self, socket: &Socket, turn: u32, first: u32) -> Kicked {
        self.is_down = true;
        if turn > 0 || socket.is_zero_copy() {
            return Kicked::Taken;
        }
        self.ring.withdraw_to(first);
        Kicked::Withdrawn
    }
}

//! Frames that are being sent. Each is in a slot until the kernel is done with it.

use pollgate_common::reasons::DropReason;

use super::super::socket::{Messages, verdict};
use super::super::{BURST, Frame, Returned, Sent};
use super::ring::Ring;

/// The slots, and the frames that are complete.
pub(super) struct Sends {
    messages: Messages,
    slots: [Option<Frame>; BURST],
    /// Whether the frame in the slot got an old error and was sent again.
    again: [bool; BURST],
    /// Numbers of the empty slots. The last one is used next.
    free: Vec<usize>,
    done: Vec<Returned>,
}

impl Sends {
    pub(super) fn new() -> Sends {
        Sends {
            messages: Messages::new(),
            slots: [const { None }; BURST],
            again: [false; BURST],
            free: (0..BURST).rev().collect(),
            done: Vec::with_capacity(BURST),
        }
    }

    /// Whether frames are being sent, or are complete and not taken yet.
    pub(super) fn is_sending(&self) -> bool {
        self.free.len() < BURST || !self.done.is_empty()
    }

    /// Makes requests for as many frames of the batch as there are empty slots.
    pub(super) fn push(&mut self, batch: &mut Vec<Frame>, ring: &mut Ring) {
        let count = batch.len().min(self.free.len());
        for frame in batch.drain(..count) {
            let Some(slot) = self.free.pop() else { break };
            self.messages.prepare(slot, &frame);
            self.slots[slot] = Some(frame);
            self.again[slot] = false;
            self.request(slot, ring);
        }
    }

    fn request(&mut self, slot: usize, ring: &mut Ring) {
        if !ring.push_send(slot, &raw const self.messages.all()[slot].msg_hdr) {
            self.end(slot, Some(DropReason::TxFull));
        }
    }

    /// Handles a completion: the kernel is done with a slot.
    pub(super) fn completed(&mut self, slot: usize, result: i32, ring: &mut Ring) {
        let Some(again) = self.again.get_mut(slot) else { return };
        // A link that was down leaves this error on the socket. The request that gets it sends nothing.
        if result == -libc::ENETDOWN && !std::mem::replace(again, true) {
            return self.request(slot, ring);
        }
        let dropped = (result < 0).then(|| verdict(-result).0);
        self.end(slot, dropped);
    }

    fn end(&mut self, slot: usize, dropped: Option<DropReason>) {
        if let Some(frame) = self.slots[slot].take() {
            self.free.push(slot);
            self.done.push(Returned { frame, dropped });
        }
    }

    /// Refuses the frames for which there was no slot.
    pub(super) fn refuse(batch: &mut Vec<Frame>, back: &mut Vec<Returned>) {
        back.extend(batch.drain(..).map(|frame| Returned { frame, dropped: Some(DropReason::TxFull) }));
    }

    /// Moves complete frames to `back`, and adds the sent ones to `sent`.
    pub(super) fn take_done(&mut self, back: &mut Vec<Returned>, sent: &mut Sent) {
        for returned in self.done.iter().filter(|returned| returned.dropped.is_none()) {
            sent.frames += 1;
            sent.bytes += returned.frame.len() as u64;
        }
        back.append(&mut self.done);
    }
}

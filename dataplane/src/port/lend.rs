//! Lends ordinary memory as frames. The ports without a ring share this.

#![allow(unsafe_code, reason = "lends boxes as frames, which are raw pointers")]

use std::ptr::NonNull;

use pollgate_common::net::PortId;

use super::{Frame, Offload, Origin};

/// Free bytes after a lent packet, so that a reply fits, as in a slot of a kernel ring.
const TAIL: usize = 2048;

/// Boxes that are lent as frames, by token.
#[derive(Default)]
pub(super) struct Lender {
    lent: Vec<Option<Box<[u8]>>>,
    free: Vec<usize>,
}

impl Lender {
    /// A copy of `bytes` as a frame of `port`.
    pub(super) fn lend(&mut self, bytes: &[u8], offload: Offload, port: PortId) -> Frame {
        let mut buffer = vec![0; bytes.len() + TAIL].into_boxed_slice();
        buffer[..bytes.len()].copy_from_slice(bytes);
        let at = self.free.pop().unwrap_or(self.lent.len());
        if at == self.lent.len() {
            self.lent.push(None);
        }
        let buffer = self.lent[at].insert(buffer);
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (len, room) = (clamp(bytes.len()), clamp(buffer.len()));
        let ptr = NonNull::from(&mut **buffer).cast::<u8>();
        // SAFETY: `room` bytes of a box that stays in `lent`, unmoved and not accessed, until `take_back` gets this frame. A
        // port is dropped only with its worker, after the worker's frames.
        unsafe { Frame::new(ptr, len, room, Origin::Port(port), port, at as u64) }.with_offload(offload)
    }

    /// Takes a lent frame back and frees its memory.
    pub(super) fn take_back(&mut self, frame: &Frame) {
        let Ok(at) = usize::try_from(frame.token()) else { return };
        if self.lent.get_mut(at).and_then(Option::take).is_some() {
            self.free.push(at);
        }
    }

    /// Number of frames that are lent now.
    pub(super) fn out(&self) -> usize {
        self.lent.iter().flatten().count()
    }
}

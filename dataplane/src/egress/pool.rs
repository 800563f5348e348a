//! A worker's own buffers, for frames that outlive their burst: pending frames and frames handed over to another worker.
//!
//! All buffers are made at start, and each can hold a whole super-frame. The kernel backs only pages that were written, so
//! a buffer that has held only small frames costs one page.

#![allow(unsafe_code, reason = "lends buffers as frames, which are raw pointers")]

use std::ptr::NonNull;

use pollgate_common::net::PortId;

use crate::memory::{Mapped, Zeroed};
use crate::port::{Frame, Origin};

// SAFETY: zero is a valid byte.
unsafe impl Zeroed for u8 {}

/// Bytes of a buffer: the largest IP packet, its Ethernet header, and some room.
pub(crate) const ROOM: usize = 66 * 1024;

/// A worker's buffers for frames that outlive their burst.
pub(crate) struct BufferPool {
    memory: Mapped<u8>,
    free: Vec<u32>,
}

impl BufferPool {
    /// A pool of `count` buffers.
    pub(crate) fn new(count: u32) -> std::io::Result<BufferPool> {
        Ok(BufferPool { memory: Mapped::new(count as usize * ROOM)?, free: (0..count).rev().collect() })
    }

    /// Whether a buffer is free.
    pub(crate) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// A copy of `frame` in a buffer of this worker's pool (`origin`); `None` if no buffer is free or the frame does not fit.
    pub(crate) fn copy(&mut self, frame: &Frame, origin: Origin) -> Option<Frame> {
        Some(self.make(frame.bytes(), origin, frame.received_on())?.with_offload(*frame.offload()))
    }

    /// A frame of these bytes in a buffer of this worker's pool, as if received on `port`.
    pub(crate) fn make(&mut self, bytes: &[u8], origin: Origin, port: PortId) -> Option<Frame> {
        if bytes.len() > ROOM {
            return None;
        }
        let at = self.free.pop()?;
        let start = at as usize * ROOM;
        let ptr = self.memory.part(start, ROOM)?;
        // By pointer alone: other workers write to other buffers of this memory, and a reference to all of it would claim those too.
        // SAFETY: `part` holds ROOM bytes, at least as many as the frame has; it is no part of the frame, which has a buffer of its own.
        unsafe { ptr.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        let (len, room) = (u32::try_from(bytes.len()).ok()?, u32::try_from(ROOM).ok()?);
        // SAFETY: the buffer is ROOM mapped bytes without another handle: its number has just left `free` and returns there
        // only with this frame. The mapping lives as long as the worker, which outlives its frames.
        Some(unsafe { Frame::new(ptr, len, room, origin, port, u64::from(at)) })
    }

    /// Takes a buffer back.
    pub(crate) fn release(&mut self, frame: Frame) {
        if let Ok(at) = u32::try_from(frame.token()) {
            self.free.push(at);
        }
    }
}

//! Buffers for the packets that are sent.
//!
//! A fixed number, made at start. Ports write headers and stamps only: after them a buffer always holds zeros, so a
//! packet of any size is made by writing its first 92 bytes.
//!
//! `unsafe` here: a frame is a pointer into the pool, lent and taken back by number.

#![allow(unsafe_code, reason = "frames are pointers into the pool")]

use std::ptr::NonNull;

use pollgate_common::net::PortId;
use pollgate_dataplane::port::{Frame, Origin};

/// Bytes of a buffer: any frame of Ethernet's usual MTU.
pub(super) const ROOM: usize = 2048;

/// Who lends these buffers.
pub(super) const ORIGIN: Origin = Origin::Worker(0);

/// A fixed set of buffers that are lent and taken back by number.
pub(super) struct Pool {
    memory: NonNull<[u8]>,
    count: usize,
    /// Numbers of the free ones. The last used is used next: it is warm.
    free: Vec<usize>,
}

// SAFETY: the memory is the pool's own and used through this one handle and the frames it lends.
unsafe impl Send for Pool {}

impl Pool {
    /// `count` buffers of zeros.
    pub(super) fn new(count: usize) -> Pool {
        let memory = Box::leak(vec![0u8; count * ROOM].into_boxed_slice());
        Pool { memory: NonNull::from(memory), count, free: (0..count).collect() }
    }

    /// Buffers that can be lent now.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// A frame of `len` bytes to be sent by `port`; `None` if all buffers are out.
    pub(super) fn lend(&mut self, len: usize, port: PortId) -> Option<Frame> {
        let number = self.free.pop()?;
        let (len, room) = (u32::try_from(len.min(ROOM)).ok()?, u32::try_from(ROOM).ok()?);
        // SAFETY: `number` is below the count, so this stays within the memory.
        let first = unsafe { self.memory.cast::<u8>().add(number * ROOM) };
        // SAFETY: ROOM initialised bytes that have no other owner: the number has left `free` and returns there only with
        // this frame. Drop keeps the memory while any frame is out.
        Some(unsafe { Frame::new(first, len, room, ORIGIN, port, number as u64) })
    }

    /// Takes a buffer back.
    pub(super) fn release(&mut self, frame: Frame) {
        let Some(number) = usize::try_from(frame.token()).ok().filter(|n| *n < self.count) else { return };
        debug_assert!(!self.free.contains(&number), "a buffer given back twice");
        self.free.push(number);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.free.len() < self.count {
            // A port still has a frame; leaking the memory is the only sound way.
            return;
        }
        // SAFETY: the box leaked in `new`; no frame into it is left.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_lent_once_and_come_home() {
        let mut pool = Pool::new(2);
        let mut a = pool.lend(60, PortId(0)).expect("a buffer");
        let b = pool.lend(60, PortId(0)).expect("a buffer");
        assert!(pool.lend(60, PortId(0)).is_none());
        a.bytes_mut().fill(1);
        assert_eq!(b.bytes(), [0; 60]);
        pool.release(a);
        assert_eq!(pool.lend(1514, PortId(0)).map(|frame| (frame.len(), frame.bytes()[59])), Some((1514, 1)));
        pool.release(b);
    }
}

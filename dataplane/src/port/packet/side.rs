//! Buffers for frames that are larger than a slot. They are read from the socket's queue.
//!
//! ```text
//!  buffer ┌ room for a tag ┬ frame … 64 KB ┬ free room ┐
//! ```
//!
//! Their number is fixed, and they are allocated at start in one piece. The kernel backs pages on first use. When all are
//! lent, the large frames wait in the queue, and the ring waits after them.
//!
//! `unsafe` here: frames are pointers into this memory, lent and taken back by number.

#![allow(unsafe_code, reason = "lends buffers as frames, which are raw pointers")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use pollgate_common::net::PortId;

use super::super::socket::{self, TAG_LEN, Tag};
use super::super::{Frame, Offload, Origin};

const BUFFERS: usize = 256;
/// Tokens from this number on are side buffers. Smaller ones are slots of the ring.
pub(super) const SIDE: u64 = 1 << 32;
/// 64 KB of IP packet, the Ethernet header, and room for a reply in place.
const SIZE: usize = (64 << 10) + (4 << 10);

/// The buffers of one port.
#[derive(Debug)]
pub(super) struct SideBuffers {
    memory: NonNull<[u8]>,
    /// Numbers of the free buffers. The last used is used next, because it is in the cache.
    free: Vec<usize>,
}

// SAFETY: the memory belongs to the buffers and is used only through this handle.
unsafe impl Send for SideBuffers {}

impl SideBuffers {
    pub(super) fn new() -> SideBuffers {
        let memory = Box::leak(vec![0u8; BUFFERS * SIZE].into_boxed_slice());
        SideBuffers { memory: NonNull::from(memory), free: (0..BUFFERS).collect() }
    }

    /// Whether a frame could be received.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether none is lent.
    pub(super) fn are_all_free(&self) -> bool {
        self.free.len() == BUFFERS
    }

    /// Takes the head of the socket's queue. `tag` is the tag that was found in its slot. `None` if the frame is not
    /// available whole.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, port: PortId, tag: Option<Tag>) -> Option<Frame> {
        let number = self.free.pop()?;
        let frame = self.receive_into(number, socket, port, tag);
        if frame.is_none() {
            self.free.push(number);
        }
        frame
    }

    fn receive_into(&self, number: usize, socket: BorrowedFd<'_>, port: PortId, tag: Option<Tag>) -> Option<Frame> {
        // SAFETY: `number` came from `free`, so it is below BUFFERS and no other reference to this memory exists.
        let buffer =
            unsafe { std::slice::from_raw_parts_mut(self.memory.cast::<u8>().as_ptr().add(number * SIZE), SIZE) };
        let mut offload = Offload::default();
        let mut length = receive_whole(socket, &mut offload, &mut buffer[TAG_LEN..])?;
        let mut start = TAG_LEN;
        if let Some(tag) = tag {
            start = tag.insert(buffer, start)?;
            length += TAG_LEN;
            offload = socket::shifted(offload);
        }
        let first = NonNull::new(buffer[start..].as_mut_ptr())?;
        let (length, room) = (u32::try_from(length).ok()?, u32::try_from(SIZE - start).ok()?);
        // SAFETY: `room` bytes of the buffer, which is not in `free` until `release`. Drop keeps the memory while any buffer
        // is lent.
        let frame = unsafe { Frame::new(first, length, room, Origin::Port(port), port, SIDE + number as u64) };
        Some(frame.with_offload(offload))
    }

    /// Takes a buffer back.
    pub(super) fn release(&mut self, number: u64) {
        let Some(number) = usize::try_from(number).ok().filter(|n| *n < BUFFERS) else { return };
        debug_assert!(!self.free.contains(&number), "a buffer given back twice");
        self.free.push(number);
    }
}

impl Drop for SideBuffers {
    fn drop(&mut self) {
        if !self.are_all_free() {
            // A frame is still lent. Leaking the memory is the only sound option.
            return;
        }
        // SAFETY: the box leaked in `new`. No frame into it is left.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

/// Reads one message: the offload first, then the frame. Returns its length, if it fits.
fn receive_whole(socket: BorrowedFd<'_>, offload: &mut Offload, buffer: &mut [u8]) -> Option<usize> {
    let mut parts = [
        libc::iovec { iov_base: std::ptr::from_mut(offload).cast(), iov_len: size_of::<Offload>() },
        libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() },
    ];
    // SAFETY: all zero is a valid msghdr: no address, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    // Twice: the first call may only return the error that a link going down left on the socket.
    for _ in 0..2 {
        // SAFETY: the message points to two live buffers of the given lengths.
        let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        if let Ok(read) = usize::try_from(read) {
            let whole = message.msg_flags & libc::MSG_TRUNC == 0;
            return read.checked_sub(size_of::<Offload>()).filter(|_| whole);
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::ENETDOWN) {
            return None;
        }
    }
    None
}

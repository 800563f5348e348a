//! The rings: requests in, completions out.
//!
//! The number of a request is a sent frame's slot, or [`RECEIVE`] for the standing request.
//!
//! `unsafe` here: requests contain pointers to messages. The port keeps the messages until the request is complete.

#![allow(unsafe_code, reason = "requests contain raw pointers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::{BufRingEntry, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::super::BURST;

/// The only group of provided buffers.
const GROUP: u16 = 0;
/// The socket's index among the registered files.
const SOCKET: Fixed = Fixed(0);
const RECEIVE: u64 = u64::MAX;
/// Room for a batch and the standing request.
const REQUESTS: u32 = 128;
const _: () = assert!(REQUESTS as usize > BURST);

/// A completion.
pub(super) enum Event {
    /// A message of `length` bytes is in the buffer. Without `more`, the standing request has ended.
    Received { buffer: u16, length: usize, more: bool },
    /// The standing request has ended.
    Stopped,
    /// The frame in this slot was sent, or `result` is a negative error number.
    Sent { slot: usize, result: i32 },
}

/// An io_uring for one thread.
pub(super) struct Ring {
    uring: IoUring,
    enabled: bool,
}

impl Ring {
    /// A disabled ring for so many provided buffers. It has room for a completion of every buffer and every request, so it
    /// never overflows.
    pub(super) fn new(buffers: u16) -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_r_disabled();
        let completions = 2 * (u32::from(buffers) + REQUESTS);
        let uring = builder.setup_cqsize(completions).build(REQUESTS)?;
        Ok(Ring { uring, enabled: false })
    }

    /// Registers the ring of buffers with the kernel.
    ///
    /// # Safety
    /// `entries` must be `count` zeroed entries on their own page, and must stay valid until this ring is dropped.
    pub(super) unsafe fn register_buffers(&self, entries: *const BufRingEntry, count: u16) -> io::Result<()> {
        // SAFETY: guaranteed by the caller.
        unsafe { self.uring.submitter().register_buf_ring_with_flags(entries as u64, count, GROUP, 0) }
    }

    /// Registers the socket with the kernel, which then need not look it up per request.
    pub(super) fn register(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.uring.submitter().register_files(&[socket.as_raw_fd()])
    }

    /// Queues the standing request. Returns whether there was room for it.
    pub(super) fn push_receive(&mut self, message: *const libc::msghdr) -> bool {
        let request = opcode::RecvMsgMulti::new(SOCKET, message, GROUP).build().user_data(RECEIVE);
        self.push(&request)
    }

    /// Queues the sending of a message, which must not move until [`Event::Sent`]. Returns whether there was room for it.
    pub(super) fn push_send(&mut self, slot: usize, message: *const libc::msghdr) -> bool {
        let flags = libc::MSG_DONTWAIT.cast_unsigned();
        let request = opcode::SendMsg::new(SOCKET, message).flags(flags).build().user_data(slot as u64);
        self.push(&request)
    }

    fn push(&mut self, request: &squeue::Entry) -> bool {
        // SAFETY: the messages are the port's own boxes with pointers to live memory. They are not changed until the
        // completion.
        unsafe { self.uring.submission().push(request) }.is_ok()
    }

    /// Whether requests wait to be submitted.
    pub(super) fn has_requests(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// Calls the kernel if it has work to do.
    pub(super) fn enter_if_needed(&mut self) {
        let requests = self.uring.submission();
        if !requests.is_empty() || requests.taskrun() || requests.cq_overflow() {
            drop(requests);
            self.submit();
        }
    }

    /// Submits the requests and lets the kernel do its deferred work. Returns false if the kernel took no request.
    pub(super) fn submit(&mut self) -> bool {
        if !self.enabled {
            // This can fail only if another thread has done it. Then every call from this thread fails too.
            self.enabled = self.uring.submitter().register_enable_rings().is_ok();
        }
        self.uring.submit().is_ok_and(|taken| taken > 0)
    }

    /// The next completion.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        let entry = self.uring.completion().next()?;
        let more = cqueue::more(entry.flags());
        Some(match (entry.user_data(), usize::try_from(entry.result()), cqueue::buffer_select(entry.flags())) {
            (RECEIVE, Ok(length), Some(buffer)) => Event::Received { buffer, length, more },
            (RECEIVE, ..) => Event::Stopped,
            (slot, ..) => Event::Sent { slot: usize::try_from(slot).unwrap_or(usize::MAX), result: entry.result() },
        })
    }
}

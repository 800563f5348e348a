//! The rings: requests in, completions out.
//!
//! Number of a request: a sent frame's slot, or [`RECEIVE`] for the standing one.
//!
//! `unsafe` here: the kernel is given pointers, to messages that this port keeps until the request is complete.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::{BufRingEntry, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::super::BURST;

/// The one group of provided buffers.
const GROUP: u16 = 0;
/// The socket's place among the registered files.
const SOCKET: Fixed = Fixed(0);
const RECEIVE: u64 = u64::MAX;
/// Room for a batch and the standing request.
const REQUESTS: u32 = 128;
const _: () = assert!(REQUESTS as usize > BURST);

/// What is complete.
pub(super) enum Event {
    /// A message of so many bytes is in the buffer; without `more`, the standing request has ended.
    Received { buffer: u16, length: usize, more: bool },
    /// The standing request has ended.
    Stopped,
    /// The frame in this slot was sent, or not: a negative error number.
    Sent { slot: usize, result: i32 },
}

/// An io_uring of one thread.
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

    /// Gives the kernel the ring of buffers.
    ///
    /// # Safety
    /// `entries` must be `count` zeroed entries on a page of their own that stay until this ring is gone.
    pub(super) unsafe fn register_buffers(&self, entries: *const BufRingEntry, count: u16) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.uring.submitter().register_buf_ring_with_flags(entries as u64, count, GROUP, 0) }
    }

    /// Gives the kernel the socket, so that it need not look it up each time.
    pub(super) fn register(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.uring.submitter().register_files(&[socket.as_raw_fd()])
    }

    /// Queues the standing request. Answers whether there was room for it.
    pub(super) fn push_receive(&mut self, message: *const libc::msghdr) -> bool {
        let request = opcode::RecvMsgMulti::new(SOCKET, message, GROUP).build().user_data(RECEIVE);
        self.push(&request)
    }

    /// Queues the sending of a message, which must stay where it is until [`Event::Sent`]. Answers whether there was
    /// room for it.
    pub(super) fn push_send(&mut self, slot: usize, message: *const libc::msghdr) -> bool {
        let flags = libc::MSG_DONTWAIT.cast_unsigned();
        let request = opcode::SendMsg::new(SOCKET, message).flags(flags).build().user_data(slot as u64);
        self.push(&request)
    }

    fn push(&mut self, request: &squeue::Entry) -> bool {
        // SAFETY: the messages are boxes of the port's own, filled with pointers to live memory, and are left alone until
        // the completion.
        unsafe { self.uring.submission().push(request) }.is_ok()
    }

    /// Whether requests wait to be submitted.
    pub(super) fn has_requests(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// Calls the kernel if it has anything to do.
    pub(super) fn enter_if_needed(&mut self) {
        let requests = self.uring.submission();
        if !requests.is_empty() || requests.taskrun() || requests.cq_overflow() {
            drop(requests);
            self.submit();
        }
    }

    /// Hands the requests over, and lets the kernel do what it put off. False if it took none.
    pub(super) fn submit(&mut self) -> bool {
        if !self.enabled {
            // Can fail only where another thread has done it; then so does every call from here.
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

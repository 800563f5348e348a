//! Sends a batch with one `sendmmsg`, directly from the frames' memory.
//!
//! The call stops at the first frame that fails. It reports the error only if that frame was the first of the call. So the
//! next call starts at that frame to get its error, and sending continues after it.

#![allow(unsafe_code, reason = "sendmmsg(2) takes raw pointers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use pollgate_common::reasons::DropReason;

use super::super::socket::{Messages, Scope, verdict};
use super::super::{BURST, Frame, Returned, Sent};

/// The messages of a batch, and the result of each frame.
pub(super) struct Transmitter {
    messages: Messages,
    /// `None` for sent.
    outcomes: [Option<DropReason>; BURST],
}

impl std::fmt::Debug for Transmitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transmitter").finish_non_exhaustive()
    }
}

impl Transmitter {
    pub(super) fn new() -> Transmitter {
        Transmitter { messages: Messages::new(), outcomes: [None; BURST] }
    }

    /// Sends all of `batch`. Every frame ends in `back`.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        let mut sent = Sent::default();
        while !batch.is_empty() {
            let count = batch.len().min(BURST);
            batch[..count].iter().enumerate().for_each(|(at, frame)| self.messages.prepare(at, frame));
            self.outcomes = [None; BURST];
            self.send_prepared(socket, count);
            for (frame, dropped) in batch.drain(..count).zip(self.outcomes) {
                if dropped.is_none() {
                    sent.frames += 1;
                    sent.bytes += frame.len() as u64;
                }
                back.push(Returned { frame, dropped });
            }
        }
        sent
    }

    fn send_prepared(&mut self, socket: BorrowedFd<'_>, count: usize) {
        let mut at = 0;
        let mut error_was_old = false;
        while at < count {
            match send_some(socket, &mut self.messages.all()[at..count]) {
                Ok(sent) => at += sent,
                Err(libc::EINTR) => {}
                // A link that was down leaves this error on the socket. The call that gets it sends nothing.
                Err(libc::ENETDOWN) if !error_was_old => error_was_old = true,
                Err(error) => {
                    let (reason, scope) = verdict(error);
                    let end = if scope == Scope::Device { count } else { at + 1 };
                    self.outcomes[at..end].fill(Some(reason));
                    at = end;
                }
            }
        }
    }
}

/// How many frames were sent (at least one), or the error number of the first.
fn send_some(socket: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> Result<usize, i32> {
    let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
    // SAFETY: `prepare` made each of these messages point to two live buffers of the given lengths. The kernel only reads
    // them.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    match usize::try_from(sent) {
        Ok(0) => Err(libc::EAGAIN),
        Ok(sent) => Ok(sent),
        Err(_) => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
    }
}

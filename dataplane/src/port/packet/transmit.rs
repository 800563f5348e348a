//! Sending a batch: `sendmmsg`, straight from the frames' memory, all in one call.
//!
//! The call stops at the first frame that fails and says why only if it was the very first of the call; so the next
//! call starts at that frame, gets its error, and goes on behind it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use pollgate_common::reasons::DropReason;

use super::super::socket::{Messages, Scope, verdict};
use super::super::{BURST, Frame, Returned, Sent};

/// The messages of a batch, and what became of each frame.
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

    /// Sends all of `batch`; every frame ends in `back`.
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
                // A link that was down leaves this error on the socket; the call that finds it sends nothing.
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

/// How many were sent, at least one, or the first one's error number.
fn send_some(socket: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> Result<usize, i32> {
    let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
    // SAFETY: `prepare` pointed each of these messages to two live buffers of the lengths given; the kernel only reads
    // what they hold.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    match usize::try_from(sent) {
        Ok(0) => Err(libc::EAGAIN),
        Ok(sent) => Ok(sent),
        Err(_) => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
    }
}

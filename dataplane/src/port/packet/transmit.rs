//! Sending a batch: `sendmmsg`, straight from the frames' memory.
//!
//! ```text
//!  message ─▶ [ virtio_net_hdr | frame ]     one a frame, all in one call
//! ```
//!
//! The call stops at the first frame that fails and says why only if it was the very first of the call; so the next
//! call starts at that frame, gets its error, and goes on behind it.
//!
//! `unsafe` here: the messages are raw pointers. They are filled for each call from frames that outlive it.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use pollgate_common::drops::Drop;

use super::super::{BURST, Frame, Offload, Returned, Sent};

/// The messages of a batch, allocated once.
pub(super) struct Transmitter {
    headers: Box<[Offload]>,
    parts: Box<[[libc::iovec; 2]]>,
    messages: Box<[libc::mmsghdr]>,
    /// What became of each frame: `None` for sent.
    outcomes: [Option<Drop>; BURST],
}

// SAFETY: the pointers inside lead to its own boxes, which move with it, or to frames of a call that has returned.
unsafe impl Send for Transmitter {}

impl std::fmt::Debug for Transmitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transmitter").finish_non_exhaustive()
    }
}

impl Transmitter {
    pub(super) fn new() -> Transmitter {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all zero is a valid mmsghdr: no buffers, no address, no control data.
        let empty: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Transmitter {
            headers: vec![Offload::default(); BURST].into(),
            parts: vec![[none; 2]; BURST].into(),
            messages: vec![empty; BURST].into(),
            outcomes: [None; BURST],
        }
    }

    /// Sends all of `batch`; every frame ends in `back`.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        let mut sent = Sent::default();
        while !batch.is_empty() {
            let count = batch.len().min(BURST);
            self.prepare(&batch[..count]);
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

    fn prepare(&mut self, frames: &[Frame]) {
        for (at, frame) in frames.iter().enumerate() {
            let header = &mut self.headers[at];
            *header = *frame.offload();
            // The kernel refuses more header than there is frame, and it is a hint only.
            header.hdr_len = header.hdr_len.min(u16::try_from(frame.len()).unwrap_or(u16::MAX));
            let bytes = frame.bytes();
            self.parts[at] = [
                libc::iovec { iov_base: std::ptr::from_mut(header).cast(), iov_len: size_of::<Offload>() },
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() },
            ];
            self.messages[at].msg_hdr.msg_iov = self.parts[at].as_mut_ptr();
            self.messages[at].msg_hdr.msg_iovlen = 2;
        }
    }

    fn send_prepared(&mut self, socket: BorrowedFd<'_>, count: usize) {
        let mut at = 0;
        let mut error_was_old = false;
        while at < count {
            match send_some(socket, &mut self.messages[at..count]) {
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

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// This frame; the next may pass.
    Frame,
    /// The socket or device: the rest of the batch would only meet it too.
    Device,
}

fn verdict(error: i32) -> (Drop, Scope) {
    match error {
        libc::EAGAIN => (Drop::TxFull, Scope::Device),
        libc::ENOBUFS => (Drop::TxFull, Scope::Frame),
        libc::EMSGSIZE => (Drop::TxTooLong, Scope::Frame),
        libc::ENETDOWN | libc::ENXIO | libc::ENODEV => (Drop::TxLinkDown, Scope::Device),
        _ => (Drop::TxError, Scope::Frame),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frames_own_fault_does_not_cost_the_next_its_turn() {
        assert_eq!(verdict(libc::EMSGSIZE), (Drop::TxTooLong, Scope::Frame));
        assert_eq!(verdict(libc::ENOBUFS), (Drop::TxFull, Scope::Frame));
        assert_eq!(verdict(libc::EINVAL), (Drop::TxError, Scope::Frame));
        assert_eq!(verdict(libc::EAGAIN), (Drop::TxFull, Scope::Device));
        assert_eq!(verdict(libc::ENXIO), (Drop::TxLinkDown, Scope::Device));
    }
}

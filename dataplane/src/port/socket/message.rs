//! Messages for sending frames, and the meaning of the kernel's errors.
//!
//! ```text
//!  message ─▶ [ virtio_net_hdr | frame ]
//! ```
//!
//! `unsafe` here: the messages are raw pointers to their own boxes and to lent frames.

#![allow(unsafe_code, reason = "the messages are raw pointers to frames")]

use std::mem::size_of;

use pollgate_common::reasons::DropReason;

use super::super::{BURST, Frame, Offload};

/// The messages of a batch, allocated once.
pub(in crate::port) struct Messages {
    headers: Box<[Offload]>,
    parts: Box<[[libc::iovec; 2]]>,
    messages: Box<[libc::mmsghdr]>,
}

// SAFETY: the pointers inside refer to its own boxes, which move with it, or to frames that the user keeps.
unsafe impl Send for Messages {}

impl Messages {
    /// Room for [`BURST`] messages.
    pub(in crate::port) fn new() -> Messages {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all zero is a valid mmsghdr: no buffers, no address, no control data.
        let empty: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Messages {
            headers: vec![Offload::default(); BURST].into(),
            parts: vec![[none; 2]; BURST].into(),
            messages: vec![empty; BURST].into(),
        }
    }

    /// Prepares message `at` for `frame`, which must not move until the kernel is done with the message.
    pub(in crate::port) fn prepare(&mut self, at: usize, frame: &Frame) {
        let header = &mut self.headers[at];
        *header = *frame.offload();
        // The kernel refuses a header length beyond the frame. The value is only a hint.
        header.hdr_len = header.hdr_len.min(u16::try_from(frame.len()).unwrap_or(u16::MAX));
        let bytes = frame.bytes();
        self.parts[at] = [
            libc::iovec { iov_base: std::ptr::from_mut(header).cast(), iov_len: size_of::<Offload>() },
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() },
        ];
        self.messages[at].msg_hdr.msg_iov = self.parts[at].as_mut_ptr();
        self.messages[at].msg_hdr.msg_iovlen = 2;
    }

    /// All messages, prepared or not.
    pub(in crate::port) fn all(&mut self) -> &mut [libc::mmsghdr] {
        &mut self.messages
    }
}

/// What an error applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::port) enum Scope {
    /// Only this frame. The next may succeed.
    Frame,
    /// The socket or device. The rest of the batch would get the same error.
    Device,
}

/// The drop reason for an error number of sending, and what the error applies to.
pub(in crate::port) fn verdict(error: i32) -> (DropReason, Scope) {
    match error {
        libc::EAGAIN => (DropReason::TxFull, Scope::Device),
        libc::ENOBUFS => (DropReason::TxFull, Scope::Frame),
        libc::EMSGSIZE => (DropReason::TxTooLong, Scope::Frame),
        libc::ENETDOWN | libc::ENXIO | libc::ENODEV => (DropReason::TxLinkDown, Scope::Device),
        _ => (DropReason::TxError, Scope::Frame),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_one_frame_does_not_drop_the_next() {
        assert_eq!(verdict(libc::EMSGSIZE), (DropReason::TxTooLong, Scope::Frame));
        assert_eq!(verdict(libc::ENOBUFS), (DropReason::TxFull, Scope::Frame));
        assert_eq!(verdict(libc::EINVAL), (DropReason::TxError, Scope::Frame));
        assert_eq!(verdict(libc::EAGAIN), (DropReason::TxFull, Scope::Device));
        assert_eq!(verdict(libc::ENXIO), (DropReason::TxLinkDown, Scope::Device));
    }
}

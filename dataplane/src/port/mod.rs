//! Ports: where frames come from and go to.
//!
//! A port is tiny on purpose: take a burst of frames, send a batch, give buffers back. All packet logic is elsewhere and
//! needs only [`Frame`]s, so the same pipeline runs over a kernel ring, a capture file or plain memory.
//!
//! ```text
//!            ┌────────── rx ──────────▶ frames ──▶ pipeline ──▶ tx (this port or another of the worker) ─┐
//!   ring / file / memory                                                                                  ▼
//!            ◀───────── release ◀──────────────────────── dropped, passed, or sent and returned ──────────┘
//! ```
//!
//! * [`packet`]: AF_PACKET with a mapped receive ring; checksums left to offload and GSO super-frames survive.
//! * [`xdp`]: AF_XDP sockets behind a steering program; frames before the kernel makes packets of them.
//! * [`uring`]: the same socket by io_uring.
//! * [`memory`]: vectors in, vectors out, for tests and benches.
//! * [`pcap`]: capture files in virtual time, for `replay`.
//!
//! A port belongs to one worker; it is moved to that worker's thread once and never shared.

mod device;
pub mod frame;
mod lend;
pub mod memory;
pub mod packet;
pub mod pcap;
mod socket;
pub mod uring;
pub mod xdp;

use std::os::fd::BorrowedFd;

use pollgate_common::reasons::DropReason;
use pollgate_common::time::Instant;

pub use device::OpenError;
pub use frame::{Frame, Offload, Origin};

/// Most frames a port hands out in one call, and most a worker takes in one burst.
pub const BURST: usize = 64;

/// A frame the port is done with.
#[derive(Debug)]
pub struct Returned {
    /// The buffer; the worker gives it back to its [`Origin`].
    pub frame: Frame,
    /// `None`: it was sent. Otherwise why not.
    pub dropped: Option<DropReason>,
}

/// A source and sink of frames.
pub trait Port: Send {
    /// Appends up to `room` received frames to `into`, in the order they came. Never waits.
    fn rx(&mut self, now: Instant, room: usize, into: &mut Vec<Frame>);

    /// Sends all of `batch`, in order, leaving it empty. Never waits: what the kernel or the ring does not take now is a
    /// drop with its reason. Answers how many frames were sent for good (some ports keep those buffers until the device
    /// is done with them); every frame whose buffer is free again, sent or not, is appended to `back`, except that a port
    /// may keep a buffer of its own that was sent. The frames may come from any port of the worker.
    fn tx(&mut self, now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent;

    /// Takes back a frame this port handed out by `rx`.
    fn release(&mut self, frame: Frame);

    /// Something to sleep on until frames arrive (readable = frames are there), where there is such a thing.
    fn wait_on(&self) -> Option<BorrowedFd<'_>>;

    /// Whether frames it was given are still on their way out: then [`Port::tx`] wants to be called again soon, with an
    /// empty batch if there is nothing more to send, for their buffers to come home.
    fn is_sending(&self) -> bool {
        false
    }

    /// Whether the kernel has a frame of its own for each one this port hands out, so that one that is not ours may be
    /// left to it.
    fn kernel_has_copy(&self) -> bool {
        true
    }

    /// Frames the device or kernel dropped before the port saw them, since the last call (ring full). They are not part
    /// of `rx`.
    fn missed(&mut self) -> u64 {
        0
    }
}

/// What one [`Port::tx`] sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// Their bytes, Ethernet header included, without FCS.
    pub bytes: u64,
}

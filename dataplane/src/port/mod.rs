//! Ports: sources and sinks of frames.
//!
//! A port does little on purpose: receive a burst of frames, send a batch, take buffers back. All packet logic is elsewhere
//! and needs only [`Frame`]s, so the same pipeline runs over a kernel ring, a capture file or plain memory.
//!
//! ```text
//!            ┌────────── rx ──────────▶ frames ──▶ pipeline ──▶ tx (this port or another of the worker) ─┐
//!   ring / file / memory                                                                                  ▼
//!            ◀───────── release ◀──────────────────────── dropped, passed, or sent and returned ──────────┘
//! ```
//!
//! * [`packet`]: AF_PACKET with a mapped receive ring. Keeps checksums left to offload and GSO super-frames.
//! * [`xdp`]: AF_XDP sockets after a steering program. Takes frames before the kernel makes packets of them.
//! * [`uring`]: an AF_PACKET socket used through io_uring.
//! * [`memory`]: vectors in, vectors out, for tests and benches.
//! * [`pcap`]: capture files in virtual time, for `replay`.
//!
//! A port belongs to one worker. It is moved to that worker's thread and never shared. If it is replaced while the worker runs, it leaves
//! the worker when it is at rest ([`closing`]).

pub mod closing;
mod device;
pub mod frame;
mod lend;
pub mod memory;
pub mod packet;
pub mod pcap;
pub mod send_only;
mod socket;
pub mod uring;
pub mod xdp;

use std::os::fd::BorrowedFd;

use pollgate_common::reasons::DropReason;
use pollgate_common::time::Instant;

pub use device::OpenError;
pub use frame::{Frame, Offload, Origin};

/// Maximum number of frames that a port returns per call and a worker processes per burst.
pub const BURST: usize = 64;

/// How many received frames wait for the worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backlog {
    /// No more than what may come while a burst is processed.
    #[default]
    Little,
    /// More: 256 frames, or a quarter of the ring if that is less.
    Standing,
    /// So many that the next pause of the worker may cost frames: three quarters of the ring.
    Large,
}

impl Backlog {
    /// From how many frames on a backlog is [`Backlog::Standing`] if so many can wait.
    pub fn standing(capacity: u32) -> u32 {
        (capacity / 4).clamp(1, 256)
    }

    /// From how many frames on a backlog is [`Backlog::Large`] if so many can wait.
    pub fn large(capacity: u32) -> u32 {
        (capacity - capacity / 4).max(2)
    }

    /// What so many frames are if so many can wait.
    pub fn of(waiting: u32, capacity: u32) -> Backlog {
        match waiting {
            _ if waiting >= Backlog::large(capacity) => Backlog::Large,
            _ if waiting >= Backlog::standing(capacity) => Backlog::Standing,
            _ => Backlog::Little,
        }
    }
}

/// A frame that the port no longer needs.
#[derive(Debug)]
pub struct Returned {
    /// The buffer. The worker returns it to its [`Origin`].
    pub frame: Frame,
    /// Why the frame was not sent; `None` if it was sent.
    pub dropped: Option<DropReason>,
}

/// A source and sink of frames.
pub trait Port: Send {
    /// Appends up to `room` received frames to `into`, in the order they came. Never waits.
    fn rx(&mut self, now: Instant, room: usize, into: &mut Vec<Frame>);

    /// Sends all of `batch`, in order, and leaves it empty. Never waits: a frame that the kernel or the ring does not accept
    /// now is dropped with its reason. Returns how many frames were sent (some ports keep their buffers until the device is
    /// done with them). Every frame whose buffer is free again, sent or not, is appended to `back`, but a port may keep a
    /// buffer of its own that was sent. The frames may come from any port of the worker.
    fn tx(&mut self, now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent;

    /// How many frames wait to be received. Asked after a burst that was full; costs no more than a look or two at the ring. A port that
    /// cannot tell without a system call says little.
    fn backlog(&mut self) -> Backlog {
        Backlog::Little
    }

    /// Takes back a frame that this port returned from `rx`.
    fn release(&mut self, frame: Frame);

    /// A descriptor that is readable when frames have arrived; `None` if the port has no such descriptor.
    fn wait_on(&self) -> Option<BorrowedFd<'_>>;

    /// Whether frames are still being sent. Then [`Port::tx`] must be called again soon to get their buffers back, with an
    /// empty batch if there is nothing more to send.
    fn is_sending(&self) -> bool {
        false
    }

    /// Whether the kernel has its own copy of each frame that this port returns. Then a frame that is not ours can be left
    /// to the kernel.
    fn kernel_has_copy(&self) -> bool {
        true
    }

    /// Number of frames that the device or kernel dropped before the port saw them (ring full), since the last call. They
    /// are not part of `rx`.
    fn missed(&mut self) -> u64 {
        0
    }

    /// Whether every buffer of this port is back, and it holds no buffer of another port: it may be dropped.
    fn is_idle(&self) -> bool;

    /// The port that this one replaces, once that one is idle.
    fn take_closed(&mut self) -> Option<Box<dyn Port>> {
        None
    }
}

/// The result of one [`Port::tx`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames that were sent.
    pub frames: u64,
    /// Their bytes, Ethernet header included, without FCS.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::Backlog::{self, Large, Little, Standing};

    #[test]
    fn a_backlog_is_judged_by_the_ring_it_is_in() {
        for (capacity, standing, large) in
            [(4096, 256, 3072), (1024, 256, 768), (256, 64, 192), (128, 32, 96), (2, 1, 2)]
        {
            let at = |waiting| Backlog::of(waiting, capacity);
            assert_eq!([at(0), at(standing - 1), at(standing)], [Little, Little, Standing], "{capacity}");
            assert_eq!([at(large - 1), at(large), at(capacity)], [Standing, Large, Large], "{capacity}");
        }
        assert_eq!(Backlog::of(0, 0), Little);
    }
}

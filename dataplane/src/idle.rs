//! What a worker does when there is nothing to do.
//!
//! * `Poll`: spin. The lowest latency, one CPU at 100 %.
//! * `Adaptive`: spin for a while, then sleep in the kernel until a frame arrives, another worker hands one over (an
//!   eventfd), or a short time has passed (waiting frames and the sweeper want a look). At rest the CPU is free.
//!
//! One of the few modules with `unsafe`: two system calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::egress::mesh::{Mesh, Waker};

/// Empty polls before an adaptive worker sleeps: some tens of microseconds.
const PATIENCE: u32 = 256;
/// Longest sleep, milliseconds.
const NAP: i32 = 50;

/// How to be idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Never sleep.
    Poll,
    /// Sleep when idle for a while.
    Adaptive,
}

/// A worker's idleness.
pub struct Idle {
    mode: Mode,
    wake: WakeUp,
    empty: u32,
}

impl Idle {
    /// `wake` is what other workers' wakers ([`WakeUp::waker`]) signal.
    pub fn new(mode: Mode, wake: WakeUp) -> Idle {
        Idle { mode, wake, empty: 0 }
    }

    /// After a poll that took in `taken` frames: returns at once, or sleeps until something happens on one of `ports` or
    /// the wake-up. Answers whether it slept.
    pub(crate) fn after<'a>(
        &mut self,
        taken: usize,
        mesh: &Mesh,
        worker: u16,
        ports: impl FnOnce() -> SmallVec<[BorrowedFd<'a>; 8]>,
    ) -> bool {
        if taken > 0 || self.mode == Mode::Poll {
            self.empty = 0;
            std::hint::spin_loop();
            return false;
        }
        self.empty += 1;
        if self.empty < PATIENCE {
            std::hint::spin_loop();
            return false;
        }
        if mesh.may_sleep(worker) {
            wait(ports().iter().copied().chain([self.wake.0.as_fd()]));
            self.wake.clear();
        }
        mesh.awake(worker);
        // One look, then back to sleep if it was for nothing.
        self.empty = PATIENCE - 1;
        true
    }
}

/// An eventfd.
pub struct WakeUp(Arc<OwnedFd>);

impl WakeUp {
    /// Makes one.
    pub fn new() -> io::Result<WakeUp> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        Ok(WakeUp(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// What signals it, from any thread.
    pub fn waker(&self) -> Waker {
        let fd = Arc::clone(&self.0);
        Box::new(move || {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight readable bytes, and a descriptor that `fd` keeps open. A full counter wakes as well.
            unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        })
    }

    fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes, and an open, non-blocking descriptor.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

fn wait<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>) {
    let poll = |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut set: SmallVec<[libc::pollfd; 8]> = fds.map(poll).collect();
    let count = libc::nfds_t::try_from(set.len()).unwrap_or(0);
    // SAFETY: `set` holds `count` entries; the call writes only their `revents`. Its outcome does not matter: whatever
    // ended the sleep, the worker looks everywhere.
    unsafe { libc::poll(set.as_mut_ptr(), count, NAP) };
}

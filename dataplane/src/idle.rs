//! What a worker does when it has nothing to do.
//!
//! * `Poll`: spin. This has the lowest latency and uses 100 % of one CPU.
//! * `Adaptive`: spin for a while, then sleep in the kernel. The worker wakes when a frame arrives, when another worker hands
//!   one over (an eventfd), or after a short time (for pending frames and the sweeper). An idle worker leaves the
//!   CPU almost free.

#![allow(unsafe_code, reason = "eventfd(2) and poll(2) take raw pointers and descriptors")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use smallvec::SmallVec;

use pollgate_common::sleep::Waker;

use crate::egress::mesh::Mesh;

/// Empty polls before an adaptive worker sleeps, some tens of microseconds.
const EMPTY_POLLS: u32 = 256;
/// Longest sleep.
const MAX_SLEEP_MS: i32 = 50;

/// What to do when idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Spin and never sleep.
    Poll,
    /// Sleep after some idle time.
    Adaptive,
}

/// Decides when an idle worker sleeps, and puts it to sleep.
pub struct Idle {
    mode: Mode,
    wake: WakeUp,
    empty: u32,
}

impl Idle {
    /// Other workers signal `wake` through their [`WakeUp::waker`].
    pub fn new(mode: Mode, wake: WakeUp) -> Idle {
        Idle { mode, wake, empty: 0 }
    }

    /// Called after a poll that received `taken` frames. Returns at once, or sleeps until one of `ports` or the wake-up is
    /// readable or the time is over. Returns whether it slept.
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
        if self.empty < EMPTY_POLLS {
            std::hint::spin_loop();
            return false;
        }
        if mesh.may_sleep(worker) {
            wait(ports().iter().copied().chain([self.wake.0.as_fd()]));
            self.wake.clear();
        }
        mesh.awake(worker);
        // Poll once; if nothing came, sleep again.
        self.empty = EMPTY_POLLS - 1;
        true
    }
}

/// An eventfd that wakes a sleeping worker.
pub struct WakeUp(Arc<OwnedFd>);

impl WakeUp {
    /// Creates the eventfd.
    pub fn new() -> io::Result<WakeUp> {
        // SAFETY: the call takes no pointers, and its result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and has no other owner.
        Ok(WakeUp(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Returns a function that signals the eventfd, from any thread.
    pub fn waker(&self) -> Waker {
        let fd = Arc::clone(&self.0);
        Box::new(move || {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight readable bytes, and a descriptor that `fd` keeps open. A full counter also wakes the worker.
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
    // SAFETY: `set` holds `count` entries, and the call writes only their `revents`. Its result is not needed: the worker
    // checks all sources after every sleep.
    unsafe { libc::poll(set.as_mut_ptr(), count, MAX_SLEEP_MS) };
}

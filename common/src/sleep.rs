//! Waking a thread that sleeps while its queues are empty.
//!
//! The sleeper announces its sleep, then looks at its queues once more; a sender pushes, then looks for the announcement. The SeqCst
//! fences between store and load ensure that at least one of them sees the other.

use std::fmt;
use std::sync::atomic::Ordering::SeqCst;

use super::sync::{AtomicBool, fence};

/// Wakes a sleeping thread.
pub type Waker = Box<dyn Fn() + Send + Sync>;

/// A thread that may be asleep.
pub struct Sleeper {
    /// It is asleep, or about to sleep.
    sleeping: AtomicBool,
    waker: Option<Waker>,
}

impl fmt::Debug for Sleeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleeper").field("sleeping", &self.sleeping).finish_non_exhaustive()
    }
}

impl Sleeper {
    /// Awake. Without a waker, it is never woken: it looks by itself.
    pub fn new(waker: Option<Waker>) -> Sleeper {
        Sleeper { sleeping: AtomicBool::new(false), waker }
    }

    /// Wakes it if it sleeps. To be called after a push.
    pub fn wake(&self) {
        fence(SeqCst);
        if self.sleeping.load(SeqCst)
            && self.sleeping.swap(false, SeqCst)
            && let Some(waker) = &self.waker
        {
            waker();
        }
    }

    /// Announces that it is about to sleep. Returns false, and withdraws that, unless the queues `are_empty`.
    pub fn may_sleep(&self, are_empty: impl FnOnce() -> bool) -> bool {
        self.sleeping.store(true, SeqCst);
        fence(SeqCst);
        if are_empty() {
            return true;
        }
        self.awake();
        false
    }

    /// Whether it is asleep, or about to sleep. If so, what the caller published before is seen by the sleeper once it is awake and has
    /// passed a SeqCst fence, as a pin of the epoch is.
    pub fn is_asleep(&self) -> bool {
        fence(SeqCst);
        self.sleeping.load(SeqCst)
    }

    /// Reports that it is awake again.
    pub fn awake(&self) {
        self.sleeping.store(false, SeqCst);
    }
}

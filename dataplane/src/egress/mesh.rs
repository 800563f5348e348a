//! The queues between workers: a frame goes to the worker that owns its flow, and its buffer comes home.
//!
//! ```text
//!  worker 0 ──copy in a buffer of its pool──▶ inbox of worker 1: frames ─▶ worker 1 ends the frame
//!      ▲                                                                        │
//!      └───────────────── inbox of worker 0: returns ◀──────────────────────────┘
//! ```
//!
//! Both queues are bounded. A sleeping worker is woken by its eventfd: the sleeper sets `sleeping`, then looks at its queue
//! once more; the sender pushes, then looks at `sleeping`. The SeqCst fence between push and look makes sure that at least
//! one of them sees the other.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crossbeam::queue::ArrayQueue;

use crate::port::Frame;

/// Frames that may be on their way to one worker.
pub const QUEUE: usize = 512;

/// The queues between workers.
pub struct Mesh {
    inboxes: Box<[Inbox]>,
}

struct Inbox {
    /// Frames to process, from any worker.
    frames: ArrayQueue<Frame>,
    /// This worker's own buffers, coming home.
    returns: ArrayQueue<Frame>,
    /// The worker sleeps, or is about to.
    sleeping: AtomicBool,
    waker: Option<Waker>,
}

/// Wakes a sleeping worker.
pub type Waker = Box<dyn Fn() + Send + Sync>;

impl Mesh {
    /// Queues for as many workers as there are wakers; `returns` is the number of buffers each worker can have away.
    pub fn new(wakers: Vec<Option<Waker>>, returns: usize) -> Mesh {
        let inbox = |waker| Inbox {
            frames: ArrayQueue::new(QUEUE),
            returns: ArrayQueue::new(returns.max(1)),
            sleeping: AtomicBool::new(false),
            waker,
        };
        Mesh { inboxes: wakers.into_iter().map(inbox).collect() }
    }

    /// Hands `frame` to `worker`; the frame comes back if its queue is full.
    pub(crate) fn send(&self, worker: u16, frame: Frame) -> Result<(), Frame> {
        let Some(inbox) = self.inboxes.get(usize::from(worker)) else { return Err(frame) };
        inbox.frames.push(frame)?;
        inbox.wake();
        Ok(())
    }

    /// The next frame that was handed to `worker`.
    pub(crate) fn receive(&self, worker: u16) -> Option<Frame> {
        self.inboxes.get(usize::from(worker))?.frames.pop()
    }

    /// Sends a buffer of `worker`'s pool home.
    pub(crate) fn give_back(&self, worker: u16, frame: Frame) {
        if let Some(inbox) = self.inboxes.get(usize::from(worker)) {
            // Room for every buffer the worker has, so never full.
            let _ = inbox.returns.push(frame);
        }
    }

    /// The next of `worker`'s own buffers that came home.
    pub(crate) fn returned(&self, worker: u16) -> Option<Frame> {
        self.inboxes.get(usize::from(worker))?.returns.pop()
    }

    /// Announces that `worker` is about to sleep. Answers whether it may: not if something is waiting. SeqCst on both
    /// sides: either the sender sees the announcement or the sleeper sees the frame.
    pub(crate) fn may_sleep(&self, worker: u16) -> bool {
        let Some(inbox) = self.inboxes.get(usize::from(worker)) else { return true };
        inbox.sleeping.store(true, SeqCst);
        std::sync::atomic::fence(SeqCst);
        if inbox.frames.is_empty() {
            return true;
        }
        inbox.sleeping.store(false, SeqCst);
        false
    }

    /// The worker is awake again.
    pub(crate) fn awake(&self, worker: u16) {
        if let Some(inbox) = self.inboxes.get(usize::from(worker)) {
            inbox.sleeping.store(false, SeqCst);
        }
    }
}

impl Inbox {
    fn wake(&self) {
        std::sync::atomic::fence(SeqCst);
        if self.sleeping.load(SeqCst)
            && self.sleeping.swap(false, SeqCst)
            && let Some(waker) = &self.waker
        {
            waker();
        }
    }
}

//! Queues between workers. A frame goes to the worker that owns its flow, and its buffer is returned.
//!
//! ```text
//!  worker 0 ──copy in a buffer of its pool──▶ inbox of worker 1: frames ─▶ worker 1 ends the frame
//!      ▲                                                                        │
//!      └───────────────── inbox of worker 0: returns ◀──────────────────────────┘
//! ```
//!
//! Both queues are bounded. An eventfd wakes a sleeping worker ([`Sleeper`]).

use pollgate_common::dns::forward::{REPLIES, Reply};

use super::sync::{ArrayQueue, Sleeper, Waker};
use crate::port::{Backlog, Frame};

/// Capacity of the queue of frames for one worker.
pub const QUEUE: usize = 512;

/// The queues between workers.
pub struct Mesh {
    inboxes: Box<[Inbox]>,
}

struct Inbox {
    /// Frames to process, from all other workers.
    frames: ArrayQueue<Frame>,
    /// This worker's own buffers, returned by other workers.
    returns: ArrayQueue<Frame>,
    /// Responses to DNS queries that the worker has forwarded.
    replies: ArrayQueue<Reply>,
    worker: Sleeper,
}

impl Mesh {
    /// Queues for one worker per waker. `returns` is the number of buffers that one worker can have lent to others.
    pub fn new(wakers: Vec<Option<Waker>>, returns: usize) -> Mesh {
        let inbox = |waker| Inbox {
            frames: ArrayQueue::new(QUEUE),
            returns: ArrayQueue::new(returns.max(1)),
            replies: ArrayQueue::new(REPLIES),
            worker: Sleeper::new(waker),
        };
        Mesh { inboxes: wakers.into_iter().map(inbox).collect() }
    }

    /// Hands `frame` over to `worker`. Returns the frame if the queue is full.
    pub(crate) fn send(&self, worker: u16, frame: Frame) -> Result<(), Frame> {
        let Some(inbox) = self.inboxes.get(usize::from(worker)) else { return Err(frame) };
        inbox.frames.push(frame)?;
        inbox.worker.wake();
        Ok(())
    }

    /// The next frame that was handed over to `worker`.
    pub(crate) fn receive(&self, worker: u16) -> Option<Frame> {
        self.inboxes.get(usize::from(worker))?.frames.pop()
    }

    /// How many frames for `worker` wait.
    pub(crate) fn backlog(&self, worker: u16) -> Backlog {
        let waiting = self.inboxes.get(usize::from(worker)).map_or(0, |inbox| inbox.frames.len());
        let count = |frames| u32::try_from(frames).unwrap_or(u32::MAX);
        Backlog::of(count(waiting), count(QUEUE))
    }

    /// Returns a buffer to `worker`'s pool.
    pub(crate) fn give_back(&self, worker: u16, frame: Frame) {
        if let Some(inbox) = self.inboxes.get(usize::from(worker)) {
            // Never full: the queue has room for every buffer of the worker.
            let _ = inbox.returns.push(frame);
        }
    }

    /// The next of `worker`'s own buffers that was returned.
    pub(crate) fn returned(&self, worker: u16) -> Option<Frame> {
        self.inboxes.get(usize::from(worker))?.returns.pop()
    }

    /// Gives `worker` the response to a DNS query that it has forwarded, from any thread. Returns whether there was room.
    pub fn reply(&self, worker: u16, reply: Reply) -> bool {
        let Some(inbox) = self.inboxes.get(usize::from(worker)) else { return false };
        let is_taken = inbox.replies.push(reply).is_ok();
        inbox.worker.wake();
        is_taken
    }

    /// The next response for `worker`'s clients.
    pub(crate) fn next_reply(&self, worker: u16) -> Option<Reply> {
        // Asked in every poll: popping from an empty queue would cost a fence.
        let replies = &self.inboxes.get(usize::from(worker))?.replies;
        if replies.is_empty() { None } else { replies.pop() }
    }

    /// Announces that `worker` is about to sleep. Returns false, and withdraws the announcement, if a frame waits for it.
    pub(crate) fn may_sleep(&self, worker: u16) -> bool {
        let Some(inbox) = self.inboxes.get(usize::from(worker)) else { return true };
        inbox.worker.may_sleep(|| inbox.frames.is_empty() && inbox.replies.is_empty())
    }

    /// Whether `worker` sleeps: it has seen everything that its next round is to see.
    pub fn is_asleep(&self, worker: u16) -> bool {
        self.inboxes.get(usize::from(worker)).is_some_and(|inbox| inbox.worker.is_asleep())
    }

    /// Reports that the worker is awake again.
    pub(crate) fn awake(&self, worker: u16) {
        if let Some(inbox) = self.inboxes.get(usize::from(worker)) {
            inbox.worker.awake();
        }
    }
}

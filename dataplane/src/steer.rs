//! Which worker owns a flow, and how a frame gets there.
//!
//! ```text
//!  to a SNAT port of a gateway address, no Service there → the worker whose share the port is in
//!  to an owned address otherwise                         → hash(source address, source port)
//!  to anybody else (a reply that was not SNATed)         → hash(destination address, destination port)
//! ```
//!
//! Both directions of a flow give the same answer by construction: a client's packets name it as the source, the replies
//! as the destination. Nothing depends on how the NIC or the kernel spreads frames. A worker finds most frames in its own
//! table and only asks this question on a miss; a foreign frame is copied to a buffer of the reserve and goes over a
//! bounded queue ([`Mesh`]). The buffer comes back the same way.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crossbeam::queue::ArrayQueue;
use pollgate_common::flow::{Address, FlowKey};
use pollgate_common::tables::Settings;

use crate::port::Frame;
use crate::snat;

/// Frames that may be on their way to one worker.
pub const QUEUE: usize = 512;

/// The rule above, for a number of workers.
#[derive(Clone)]
pub struct Steering {
    workers: u16,
    hasher: ahash::RandomState,
}

/// Whom a packet is for, as far as its destination tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// A Service, or another owned address that is no gateway address: the source is the client.
    Service,
    /// A port of a gateway address at which there is no Service: the reply to a translated source, if it is anything.
    SnatPort,
    /// An address that is not owned: the reply to a client whose source was not translated, if it is anything.
    Client,
}

impl Steering {
    /// `seeds` must be the same for all workers of a process.
    pub fn new(workers: u16, seeds: [u64; 4]) -> Steering {
        let [a, b, c, d] = seeds;
        Steering { workers: workers.max(1), hasher: ahash::RandomState::with_seeds(a, b, c, d) }
    }

    /// Workers in all.
    pub fn workers(&self) -> u16 {
        self.workers
    }

    /// The owner of the flow that a packet with `key` belongs to, or would open.
    pub fn owner<A: Address>(&self, key: &FlowKey<A>, towards: Towards, settings: &Settings) -> u16 {
        if self.workers == 1 {
            return 0;
        }
        match towards {
            Towards::Client => self.by_client(key.dst, key.dst_port),
            Towards::Service => self.by_client(key.src, key.src_port),
            Towards::SnatPort => snat::worker_of(key.dst_port, &settings.snat_ports, self.workers)
                .unwrap_or_else(|| self.by_client(key.src, key.src_port)),
        }
    }

    fn by_client<A: Address>(&self, address: A, port: u16) -> u16 {
        let hash = self.hasher.hash_one((address.words(), port));
        u16::try_from(hash % u64::from(self.workers)).unwrap_or(0)
    }
}

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

    /// Sends a buffer of `worker`'s reserve home.
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

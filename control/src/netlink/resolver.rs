//! From the workers to the netlink thread: which neighbours to resolve.
//!
//! A worker must not wait, lock or allocate, so requests go through a bounded queue, with a byte in a socket as the bell. A
//! full queue drops the request; the worker repeats it as long as frames wait. The bell is rung only if it is silent, so
//! a flood of requests causes no flood of wake-ups.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;
use pollgate_common::net::NeighbourQuery;

/// Questions that may wait.
const QUEUE: usize = 1024;

/// The workers' end; cheap to clone.
#[derive(Clone, Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: ArrayQueue<NeighbourQuery>,
    /// Whether the bell has been rung and not been heard yet.
    rung: AtomicBool,
    bell: UnixStream,
}

/// The netlink thread's end.
#[derive(Debug)]
pub(super) struct Questions {
    shared: Arc<Shared>,
    bell: UnixStream,
}

/// Both ends.
pub(super) fn channel() -> io::Result<(Resolver, Questions)> {
    let (ring, hear) = UnixStream::pair()?;
    ring.set_nonblocking(true)?;
    hear.set_nonblocking(true)?;
    let shared = Arc::new(Shared { queue: ArrayQueue::new(QUEUE), rung: AtomicBool::new(false), bell: ring });
    Ok((Resolver { shared: Arc::clone(&shared) }, Questions { shared, bell: hear }))
}

impl Resolver {
    /// Has the kernel resolve the address; the result comes with a later `Net`. Repeating the request is harmless.
    /// Never waits.
    pub fn ask(&self, query: NeighbourQuery) {
        // Full: the request is dropped, and repeated while it matters.
        let _ = self.shared.queue.push(query);
        // AcqRel: the question is in the queue before the bell says so, and `Questions::heard` clears the flag before
        // it looks into the queue. So either this ring is heard, or the flag was set by one that will be.
        if !self.shared.rung.swap(true, Ordering::AcqRel) {
            // The socket's buffer holds the one byte; a thread that has ended reads no more.
            let _ = (&self.shared.bell).write(&[1]);
        }
    }

    /// The same as a function, for crates that do not depend on this one.
    pub fn into_fn(self) -> impl Fn(NeighbourQuery) + Send + Sync + Clone {
        move |query| self.ask(query)
    }
}

impl Questions {
    /// The bell, to wait on.
    pub(super) fn bell(&self) -> io::Result<UnixStream> {
        self.bell.try_clone()
    }

    /// Takes the questions after the bell was heard.
    pub(super) fn heard(&self) -> impl Iterator<Item = NeighbourQuery> + '_ {
        self.shared.rung.swap(false, Ordering::AcqRel);
        std::iter::from_fn(|| self.shared.queue.pop()).take(QUEUE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn query(last: u8) -> NeighbourQuery {
        NeighbourQuery { link: 1, address: [10, 0, 0, last].into() }
    }

    #[test]
    fn the_bell_rings_once_until_it_is_heard() {
        let (resolver, questions) = channel().expect("a channel");
        let ask = resolver.into_fn();
        let mut bell = questions.bell().expect("the bell");
        let mut rings = [0; 8];
        ask(query(1));
        ask(query(2));
        assert_eq!(bell.read(&mut rings).expect("a ring"), 1);
        assert_eq!(questions.heard().collect::<Vec<_>>(), [query(1), query(2)]);
        ask(query(3));
        assert_eq!(bell.read(&mut rings).expect("a ring"), 1);
        assert_eq!(questions.heard().count(), 1);
        assert!(bell.read(&mut rings).is_err(), "silent");
    }

    #[test]
    fn a_full_queue_loses_questions_and_nothing_else() {
        let (resolver, questions) = channel().expect("a channel");
        for _ in 0..5000 {
            resolver.ask(query(1));
        }
        assert_eq!(questions.heard().count(), QUEUE);
        resolver.ask(query(2));
        assert_eq!(questions.heard().collect::<Vec<_>>(), [query(2)]);
    }
}

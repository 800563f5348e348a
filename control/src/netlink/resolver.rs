//! From the workers to the netlink thread: which neighbours to resolve.
//!
//! A worker must not wait, lock or allocate, so requests go through a bounded queue, and a byte in a socket wakes the thread. A
//! full queue drops the request; the worker repeats it as long as frames wait. The byte is sent only if none is there, so
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
    /// Whether the thread has been woken, and has not looked yet.
    is_woken: AtomicBool,
    wake: UnixStream,
}

/// The netlink thread's end.
#[derive(Debug)]
pub(super) struct Questions {
    shared: Arc<Shared>,
    wakeup: UnixStream,
}

/// Both ends.
pub(super) fn channel() -> io::Result<(Resolver, Questions)> {
    let (wake, wakeup) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    wakeup.set_nonblocking(true)?;
    let shared = Arc::new(Shared { queue: ArrayQueue::new(QUEUE), is_woken: AtomicBool::new(false), wake });
    Ok((Resolver { shared: Arc::clone(&shared) }, Questions { shared, wakeup }))
}

impl Resolver {
    /// Has the kernel resolve the address; the result comes with a later `Net`. Repeating the request is harmless.
    /// Never waits.
    pub fn ask(&self, query: NeighbourQuery) {
        // Full: the request is dropped, and repeated while it matters.
        let _ = self.shared.queue.push(query);
        // AcqRel: the question is in the queue before the flag is set, and `Questions::take` clears the flag before it looks
        // into the queue. So either this byte wakes the thread, or the flag was set by one that will.
        if !self.shared.is_woken.swap(true, Ordering::AcqRel) {
            // The socket's buffer holds the one byte; a thread that has ended reads no more.
            let _ = (&self.shared.wake).write(&[1]);
        }
    }

    /// The same as a function, for crates that do not depend on this one.
    pub fn into_fn(self) -> impl Fn(NeighbourQuery) + Send + Sync + Clone {
        move |query| self.ask(query)
    }
}

impl Questions {
    /// What becomes readable when there are questions.
    pub(super) fn wakeup(&self) -> io::Result<UnixStream> {
        self.wakeup.try_clone()
    }

    /// Takes the questions after a wake-up.
    pub(super) fn take(&self) -> impl Iterator<Item = NeighbourQuery> + '_ {
        self.shared.is_woken.swap(false, Ordering::AcqRel);
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
    fn the_thread_is_woken_once_until_it_looks() {
        let (resolver, questions) = channel().expect("a channel");
        let ask = resolver.into_fn();
        let mut wakeup = questions.wakeup().expect("a socket");
        let mut bytes = [0; 8];
        ask(query(1));
        ask(query(2));
        assert_eq!(wakeup.read(&mut bytes).expect("a byte"), 1);
        assert_eq!(questions.take().collect::<Vec<_>>(), [query(1), query(2)]);
        ask(query(3));
        assert_eq!(wakeup.read(&mut bytes).expect("a byte"), 1);
        assert_eq!(questions.take().count(), 1);
        assert!(wakeup.read(&mut bytes).is_err(), "none is left");
    }

    #[test]
    fn a_full_queue_loses_questions_and_nothing_else() {
        let (resolver, questions) = channel().expect("a channel");
        for _ in 0..5000 {
            resolver.ask(query(1));
        }
        assert_eq!(questions.take().count(), QUEUE);
        resolver.ask(query(2));
        assert_eq!(questions.take().collect::<Vec<_>>(), [query(2)]);
    }
}

//! Publishes new generations to the workers: one atomic pointer, epoch reclamation, and a return path.
//!
//! ```text
//!   control thread                                   worker
//!   publish(tables) ── swap ──▶ current ◀── load ─── pin (once per burst)
//!        │                                             │ unpin
//!        └─ defer(old goes to `retired`) … when no worker can see it any more … ─▶ retired ─▶ reclaim(): freed here
//! ```
//!
//! `crossbeam-epoch` runs deferred functions on the thread that happens to collect. Every 128th pin of a worker may do so.
//! Freeing tables takes milliseconds, so the deferred function does not free them. It pushes the box onto `retired`, a
//! bounded queue with room for every outstanding generation. Only the control thread frees.
//!
//! Orderings: the swap is AcqRel. A worker whose load (Acquire) sees the pointer therefore sees the data as well. The queue
//! orders the return path itself.

#![allow(unsafe_code, reason = "crossbeam-epoch leaves to its caller when retired tables may be freed")]

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::Duration;

use super::sync::{ArrayQueue, Atomic, Collector, Guard, LocalHandle, Owned};
use crate::tables::Tables;

/// Generations that may be retired and not yet freed.
const OUTSTANDING: usize = 64;

struct Shared<T: Send + Sync + 'static> {
    collector: Collector,
    current: Atomic<T>,
    /// A type of its own, because deferred functions hold it. They must not hold the collector, which holds them.
    retired: Arc<ArrayQueue<Box<T>>>,
}

/// The control thread's end.
pub struct Publisher<T: Send + Sync + 'static = Tables> {
    shared: Arc<Shared<T>>,
    outstanding: usize,
}

/// Makes readers. It can be sent to the threads that read.
pub struct Source<T: Send + Sync + 'static = Tables>(Arc<Shared<T>>);

/// One worker's end.
pub struct Reader<T: Send + Sync + 'static = Tables> {
    shared: Arc<Shared<T>>,
    handle: LocalHandle,
}

/// Keeps a generation alive while it exists. Drop it at the end of each burst.
pub struct Snapshot<'a, T: Send + Sync + 'static = Tables> {
    shared: &'a Shared<T>,
    guard: Guard,
}

impl<T: Send + Sync + 'static> Publisher<T> {
    /// A publisher whose current generation is `first`.
    pub fn new(first: T) -> Publisher<T> {
        let shared = Shared {
            collector: Collector::new(),
            current: Atomic::new(first),
            retired: Arc::new(ArrayQueue::new(OUTSTANDING)),
        };
        Publisher { shared: Arc::new(shared), outstanding: 0 }
    }

    /// A source of readers, for the threads that read.
    pub fn source(&self) -> Source<T> {
        Source(Arc::clone(&self.shared))
    }

    /// Makes `next` the generation that every later pin sees. Waits (a millisecond at a time) only if so many retired
    /// generations are still in use that `retired` has no room for another one. A worker has then been inside one burst for
    /// all that time.
    pub fn publish(&mut self, next: T) {
        while self.outstanding >= OUTSTANDING {
            if self.reclaim() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let handle = self.shared.collector.register();
        let guard = handle.pin();
        let old = self.shared.current.swap(Owned::new(next), AcqRel, &guard);
        let retired = Arc::clone(&self.shared.retired);
        let old = Retired(old.as_raw().cast_mut());
        self.outstanding += 1;
        // SAFETY: `old` has been unlinked. The deferred function runs after every pin that might have loaded it has
        // ended, so nothing else refers to it then. It came from an `Owned`, which is a `Box`, and is taken back exactly
        // once. The queue has room because `outstanding` is bounded by its size.
        unsafe {
            guard.defer_unchecked(move || {
                let old = old;
                let _ = retired.push(Box::from_raw(old.0));
            });
        }
        guard.flush();
    }

    /// Frees, on this thread, the generations that no worker can see any more. Returns how many.
    pub fn reclaim(&mut self) -> usize {
        // Each flush lets the collector advance. A retired generation needs two advances.
        let handle = self.shared.collector.register();
        for _ in 0..3 {
            handle.pin().flush();
        }
        let mut freed = 0;
        while let Some(old) = self.shared.retired.pop() {
            drop(old);
            freed += 1;
        }
        self.outstanding -= freed;
        freed
    }

    /// Generations retired and not yet freed.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }
}

struct Retired<T>(*mut T);

// SAFETY: the pointer stands for a box of T, which is Send. Only the one deferred function uses it.
unsafe impl<T: Send> Send for Retired<T> {}

impl<T: Send + Sync + 'static> Source<T> {
    /// A reader for the calling thread.
    pub fn reader(&self) -> Reader<T> {
        Reader { shared: Arc::clone(&self.0), handle: self.0.collector.register() }
    }
}

impl<T: Send + Sync + 'static> Clone for Source<T> {
    fn clone(&self) -> Self {
        Source(Arc::clone(&self.0))
    }
}

impl<T: Send + Sync + 'static> Reader<T> {
    /// Holds the newest generation until the snapshot is dropped. Takes no lock, does not wait, does not allocate.
    #[inline]
    pub fn pin(&self) -> Snapshot<'_, T> {
        Snapshot { shared: &self.shared, guard: self.handle.pin() }
    }
}

impl<T: Send + Sync + 'static> Snapshot<'_, T> {
    /// The newest generation. A second call may return a newer one, so call this once per burst.
    #[inline]
    pub fn load(&self) -> &T {
        let current = self.shared.current.load(Acquire, &self.guard);
        // SAFETY: `current` is never null: it starts with a value and is only swapped for values. What it points to is
        // not freed while `guard` is pinned, and `&self` keeps `guard` pinned for the lifetime of the reference.
        unsafe { current.deref() }
    }
}

impl<T: Send + Sync + 'static> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: no publisher, source or reader is left, so no thread can load it again.
        let last = unsafe { std::mem::replace(&mut self.current, Atomic::null()).try_into_owned() };
        drop(last);
    }
}

//! Models, over `loom`, of what [`crate::sync`] brings in.
//!
//! **The collector** promises one thing: a deferred function runs after every pin that was there when it was deferred has ended, on
//! some thread. The model runs it as soon as that is allowed, on the thread whose pin was the last: that of a worker, in some
//! interleavings, which is what the return path is for.

#![allow(unsafe_code, reason = "as what it stands for")]
#![allow(clippy::arc_with_non_send_sync, reason = "the threads of a model are one thread")]

use std::collections::{BTreeSet, VecDeque};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::Mutex;
use loom::sync::atomic::AtomicPtr;

pub(super) use loom::sync::atomic::{AtomicBool, fence};

type Deferred = Box<dyn FnOnce()>;

#[derive(Default)]
struct Pins {
    next: u64,
    active: BTreeSet<u64>,
    /// What is deferred, with the pins it waits for.
    garbage: Vec<(BTreeSet<u64>, Deferred)>,
}

pub(super) struct Collector(Arc<Mutex<Pins>>);

pub(super) struct LocalHandle(Arc<Mutex<Pins>>);

pub(super) struct Guard {
    pins: Arc<Mutex<Pins>>,
    number: u64,
}

impl Collector {
    pub(super) fn new() -> Collector {
        Collector(Arc::new(Mutex::new(Pins::default())))
    }

    pub(super) fn register(&self) -> LocalHandle {
        LocalHandle(Arc::clone(&self.0))
    }
}

impl LocalHandle {
    pub(super) fn pin(&self) -> Guard {
        let mut pins = self.0.lock().expect("not poisoned");
        pins.next += 1;
        let number = pins.next;
        pins.active.insert(number);
        Guard { pins: Arc::clone(&self.0), number }
    }
}

impl Guard {
    /// # Safety
    /// The function may run on any thread.
    pub(super) unsafe fn defer_unchecked(&self, function: impl FnOnce() + 'static) {
        let mut pins = self.pins.lock().expect("not poisoned");
        let active = pins.active.clone();
        pins.garbage.push((active, Box::new(function)));
    }

    pub(super) fn flush(&self) {}
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut pins = self.pins.lock().expect("not poisoned");
        pins.active.remove(&self.number);
        for (waits_for, _) in &mut pins.garbage {
            waits_for.remove(&self.number);
        }
        let (ready, waiting) =
            std::mem::take(&mut pins.garbage).into_iter().partition(|(waits_for, _)| waits_for.is_empty());
        pins.garbage = waiting;
        drop(pins);
        let ready: Vec<(BTreeSet<u64>, Deferred)> = ready;
        ready.into_iter().for_each(|(_, function)| function());
    }
}

/// A pointer to a box.
pub(super) struct Atomic<T>(AtomicPtr<T>);

pub(super) struct Owned<T>(Box<T>);

pub(super) struct Shared<'g, T>(*mut T, PhantomData<&'g T>);

impl<T> Owned<T> {
    pub(super) fn new(value: T) -> Owned<T> {
        Owned(Box::new(value))
    }
}

impl<T> Atomic<T> {
    pub(super) fn new(value: T) -> Atomic<T> {
        Atomic(AtomicPtr::new(Box::into_raw(Box::new(value))))
    }

    pub(super) fn null() -> Atomic<T> {
        Atomic(AtomicPtr::new(std::ptr::null_mut()))
    }

    pub(super) fn load<'g>(&self, order: Ordering, _: &'g Guard) -> Shared<'g, T> {
        Shared(self.0.load(order), PhantomData)
    }

    pub(super) fn swap<'g>(&self, new: Owned<T>, order: Ordering, _: &'g Guard) -> Shared<'g, T> {
        Shared(self.0.swap(Box::into_raw(new.0), order), PhantomData)
    }

    /// # Safety
    /// Nothing else may refer to the value.
    pub(super) unsafe fn try_into_owned(self) -> Option<Owned<T>> {
        let pointer = self.0.load(Ordering::Acquire);
        // SAFETY: it came from a box; the caller's promise.
        (!pointer.is_null()).then(|| Owned(unsafe { Box::from_raw(pointer) }))
    }
}

impl<'g, T> Shared<'g, T> {
    pub(super) fn as_raw(&self) -> *const T {
        self.0
    }

    /// # Safety
    /// The value must live for as long as the guard.
    pub(super) unsafe fn deref(&self) -> &'g T {
        // SAFETY: the caller's promise.
        unsafe { &*self.0 }
    }
}

/// A bounded queue.
pub(super) struct ArrayQueue<T> {
    items: Mutex<VecDeque<T>>,
    capacity: usize,
}

impl<T> ArrayQueue<T> {
    pub(super) fn new(capacity: usize) -> ArrayQueue<T> {
        ArrayQueue { items: Mutex::new(VecDeque::new()), capacity }
    }

    pub(super) fn push(&self, item: T) -> Result<(), T> {
        let mut items = self.items.lock().expect("not poisoned");
        if items.len() == self.capacity {
            return Err(item);
        }
        items.push_back(item);
        Ok(())
    }

    pub(super) fn pop(&self) -> Option<T> {
        self.items.lock().expect("not poisoned").pop_front()
    }
}

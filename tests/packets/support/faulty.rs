//! Ports with faults, in front of a memory port: a device that refuses to send, buffers without room, frames that the
//! kernel has no copy of, a receive ring that fills up.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use pollgate_common::reasons::DropReason as Reason;
use pollgate_common::time::Instant;
use pollgate_dataplane::port::memory::MemoryPort;
use pollgate_dataplane::port::{Backlog, Frame, Port, Returned, Sent};

/// Receives, but sends nothing, always for the same reason.
pub(crate) struct Refusing {
    /// What receives.
    pub(crate) inner: MemoryPort,
    /// Why nothing is sent.
    pub(crate) reason: Reason,
}

impl Port for Refusing {
    fn rx(&mut self, now: Instant, room: usize, into: &mut Vec<Frame>) {
        self.inner.rx(now, room, into);
    }

    fn tx(&mut self, _now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        back.extend(batch.drain(..).map(|frame| Returned { frame, dropped: Some(self.reason) }));
        Sent::default()
    }

    fn release(&mut self, frame: Frame) {
        self.inner.release(frame);
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_idle(&self) -> bool {
        self.inner.is_idle()
    }
}

/// Hands out frames in buffers that end where the packet ends.
pub(crate) struct Tight {
    /// What receives and sends.
    pub(crate) inner: MemoryPort,
    lent: Vec<Box<[u8]>>,
}

impl Tight {
    /// In front of `inner`.
    pub(crate) fn new(inner: MemoryPort) -> Tight {
        Tight { inner, lent: Vec::new() }
    }
}

impl Port for Tight {
    fn rx(&mut self, now: Instant, room: usize, into: &mut Vec<Frame>) {
        let mut frames = Vec::new();
        self.inner.rx(now, room, &mut frames);
        for frame in frames {
            self.lent.push(frame.bytes().into());
            let buffer = self.lent.last_mut().expect("just pushed");
            let len = u32::try_from(buffer.len()).expect("a frame");
            let ptr = NonNull::from(&mut **buffer).cast::<u8>();
            // SAFETY: `len` initialised bytes of a box that stays where it is, untouched, until the port is dropped,
            // which is after its worker's frames.
            into.push(unsafe { Frame::new(ptr, len, len, frame.origin(), frame.received_on(), frame.token()) });
            self.inner.release(frame);
        }
    }

    fn tx(&mut self, now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        self.inner.tx(now, batch, back)
    }

    fn release(&mut self, _frame: Frame) {}

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_idle(&self) -> bool {
        self.inner.is_idle()
    }
}

/// Takes frames away from the kernel.
pub(crate) struct Sole {
    /// What receives and sends.
    pub(crate) inner: MemoryPort,
}

impl Port for Sole {
    fn rx(&mut self, now: Instant, room: usize, into: &mut Vec<Frame>) {
        self.inner.rx(now, room, into);
    }

    fn tx(&mut self, now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        self.inner.tx(now, batch, back)
    }

    fn release(&mut self, frame: Frame) {
        self.inner.release(frame);
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_idle(&self) -> bool {
        self.inner.is_idle()
    }

    fn kernel_has_copy(&self) -> bool {
        false
    }
}

/// Reports the backlog that a test wants.
pub(crate) struct Backlogged {
    /// What receives and sends.
    pub(crate) inner: MemoryPort,
    /// What waits behind a full burst.
    pub(crate) backlog: Arc<Mutex<Backlog>>,
}

impl Port for Backlogged {
    fn rx(&mut self, now: Instant, room: usize, into: &mut Vec<Frame>) {
        self.inner.rx(now, room, into);
    }

    fn backlog(&mut self) -> Backlog {
        *self.backlog.lock().expect("not poisoned")
    }

    fn tx(&mut self, now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        self.inner.tx(now, batch, back)
    }

    fn release(&mut self, frame: Frame) {
        self.inner.release(frame);
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_idle(&self) -> bool {
        self.inner.is_idle()
    }
}

//! A placeholder for a port that is being replaced: its interface was deleted and created again, or has a larger MTU.
//!
//! ```text
//!  worker ─ frames to send ─▶ dropped (`tx_closed`)         rx ─▶ nothing
//!      └─ buffers that come back ─▶ the old port            every buffer is back ─▶ the old port leaves the worker
//! ```
//!
//! Frames of the old port may still be in other ports of the worker, which are sending them, and frames of others in the old
//! port. So it stays here until each buffer is with its owner, and only then may its memory go. What its ring still holds is lost,
//! and counted as missed.

use std::os::fd::BorrowedFd;

use pollgate_common::reasons::DropReason;
use pollgate_common::time::Instant;

use super::{BURST, Frame, Port, Returned, Sent};

/// A placeholder: no port, or one that is being closed.
pub struct Closing {
    /// The port that was there, until it is idle.
    old: Box<dyn Port>,
    is_empty: bool,
    kernel_had_copy: bool,
    lost: Vec<Frame>,
    missed: u64,
}

impl Default for Closing {
    fn default() -> Closing {
        let old = Box::new(Nothing);
        Closing { old, is_empty: true, kernel_had_copy: true, lost: Vec::with_capacity(BURST), missed: 0 }
    }
}

impl Closing {
    /// Takes the place of `port`. Allocates and frees nothing.
    pub(crate) fn replace(mut self: Box<Closing>, port: &mut Box<dyn Port>) {
        self.kernel_had_copy = port.kernel_has_copy();
        self.is_empty = false;
        std::mem::swap(&mut self.old, port);
        *port = self;
    }

    /// Takes what has come since, which no worker looks at any more.
    fn lose(&mut self, now: Instant) {
        self.old.rx(now, BURST, &mut self.lost);
        self.missed += self.lost.len() as u64;
        self.lost.drain(..).for_each(|frame| self.old.release(frame));
    }
}

impl Port for Closing {
    fn rx(&mut self, now: Instant, _room: usize, _into: &mut Vec<Frame>) {
        self.lose(now);
    }

    fn tx(&mut self, now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        back.extend(batch.drain(..).map(|frame| Returned { frame, dropped: Some(DropReason::TxClosed) }));
        self.old.tx(now, batch, back)
    }

    fn release(&mut self, frame: Frame) {
        self.old.release(frame);
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// So that the old port gets back what it still sends.
    fn is_sending(&self) -> bool {
        !self.is_empty
    }

    fn kernel_has_copy(&self) -> bool {
        self.kernel_had_copy
    }

    fn missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed) + self.old.missed()
    }

    fn is_idle(&self) -> bool {
        self.is_empty
    }

    fn take_closed(&mut self) -> Option<Box<dyn Port>> {
        if self.is_empty || !self.old.is_idle() {
            return None;
        }
        self.is_empty = true;
        // A type without a size: no allocation.
        Some(std::mem::replace(&mut self.old, Box::new(Nothing)))
    }
}

/// No port.
struct Nothing;

impl Port for Nothing {
    fn rx(&mut self, _now: Instant, _room: usize, _into: &mut Vec<Frame>) {}

    fn tx(&mut self, _now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        back.extend(batch.drain(..).map(|frame| Returned { frame, dropped: Some(DropReason::TxClosed) }));
        Sent::default()
    }

    /// Not reached: it has lent nothing.
    fn release(&mut self, _frame: Frame) {}

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_idle(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use pollgate_common::net::PortId;

    use super::super::memory::MemoryPort;
    use super::*;

    const NOW: Instant = Instant(0);

    #[test]
    fn the_old_port_leaves_when_its_last_buffer_is_back() {
        let (port, wire) = MemoryPort::new(PortId(0));
        let mut port: Box<dyn Port> = Box::new(port);
        let (mut frames, mut back) = (Vec::new(), Vec::new());
        (0..3u8).for_each(|n| wire.push(vec![n; 60]));
        port.rx(NOW, 2, &mut frames);
        Box::<Closing>::default().replace(&mut port);
        assert!(port.take_closed().is_none() && port.is_sending(), "two frames are out");
        port.rx(NOW, 64, &mut frames);
        assert_eq!((frames.len(), port.missed(), port.missed()), (2, 1, 0), "what had come is lost, and counted once");
        assert_eq!(port.tx(NOW, &mut frames, &mut back), Sent::default());
        assert!(frames.is_empty() && wire.pop().is_none());
        for Returned { frame, dropped } in back.drain(..) {
            assert_eq!(dropped, Some(DropReason::TxClosed));
            assert!(port.take_closed().is_none());
            port.release(frame);
        }
        assert!(port.take_closed().is_some_and(|old| old.is_idle()));
        assert!(port.take_closed().is_none() && !port.is_sending() && port.is_idle());
    }
}

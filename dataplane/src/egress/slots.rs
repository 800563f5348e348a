//! The frames of fragments that wait for the first of their datagram. [`crate::fragment::held`] decides which waits where.

use crate::fragment::held::{SLOTS, Slot};
use crate::port::Frame;

/// The frames, by slot.
pub(crate) struct Slots {
    frames: Box<[Option<Frame>]>,
    count: u64,
}

impl Slots {
    pub(crate) fn new() -> Slots {
        Slots { frames: (0..SLOTS).map(|_| None).collect(), count: 0 }
    }

    /// Keeps a frame; returns it if there is no such slot, or it is not free.
    pub(crate) fn put(&mut self, slot: Slot, frame: Frame) -> Result<(), Frame> {
        match self.frames.get_mut(usize::from(slot.0)) {
            Some(free @ None) => {
                *free = Some(frame);
                self.count += 1;
                Ok(())
            }
            Some(Some(_)) | None => Err(frame),
        }
    }

    /// Takes the frame out.
    pub(crate) fn take(&mut self, slot: Slot) -> Option<Frame> {
        let frame = self.frames.get_mut(usize::from(slot.0))?.take();
        self.count -= u64::from(frame.is_some());
        frame
    }

    /// Number of frames.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

//! What every generated packet carries as the first bytes of its payload.
//!
//! ```text
//!  0       2        6        10              18
//!  │ run   │ flow   │ number │ due           │ zeros up to the frame's size
//! ```
//!
//! Eighteen bytes, because that is the room a UDP packet has in the smallest Ethernet frame (60 bytes without FCS). `due`
//! is when the packet *should* have left, not when it did: a generator that is held up then shows the delay as latency
//! and does not hide it by sending less ("coordinated omission").

use pollgate_common::time::Instant;
use pollgate_dataplane::wire::Header;
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a stamp.
pub(super) const LEN: usize = size_of::<Stamp>();

/// The flow number of packets for a port that no Service has.
pub(super) const STRAY: u32 = u32::MAX;

/// The stamp.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Stamp {
    run: U16,
    flow: U32,
    number: U32,
    due: U64,
}

impl Header for Stamp {}

impl Stamp {
    /// For packet `number` of `flow` in this run.
    pub(super) fn new(run: u16, flow: u32, number: u32, due: Instant) -> Stamp {
        Stamp { run: U16::new(run), flow: U32::new(flow), number: U32::new(number), due: U64::new(due.0) }
    }

    /// The stamp at `at`, if it is one of this run: other runs and other programs may share the wire.
    pub(super) fn of_run(frame: &[u8], at: usize, run: u16) -> Option<Stamp> {
        Stamp::at(frame, at).copied().filter(|stamp| stamp.run.get() == run)
    }

    /// The flow.
    pub(super) fn flow(&self) -> u32 {
        self.flow.get()
    }

    /// Packets of the flow before this one.
    pub(super) fn number(&self) -> u32 {
        self.number.get()
    }

    /// When it should have left.
    pub(super) fn due(&self) -> Instant {
        Instant(self.due.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fits_the_smallest_frame_and_knows_its_run() {
        assert_eq!(14 + 20 + 8 + LEN, 60);
        let stamp = Stamp::new(7, 1, 2, Instant(3));
        let mut bytes = vec![0xff; 4];
        bytes.extend_from_slice(stamp.as_bytes());
        assert_eq!(Stamp::of_run(&bytes, 4, 7), Some(stamp));
        assert_eq!((stamp.flow(), stamp.number(), stamp.due()), (1, 2, Instant(3)));
        assert_eq!(Stamp::of_run(&bytes, 4, 8), None);
        assert_eq!(Stamp::of_run(&bytes[..21], 4, 7), None, "cut");
    }
}

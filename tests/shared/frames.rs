//! Taking frames from a port and giving them back, for the tests of every kind of port.

use std::time::Instant as Clock;

use pollgate_common::time::Instant;
use pollgate_dataplane::port::{Frame, Port};

pub(crate) use super::PATIENCE;

pub(crate) const NOW: Instant = Instant(0);

/// Takes frames until `enough` says so.
pub(crate) fn receive(port: &mut (impl Port + ?Sized), enough: impl Fn(&[Frame]) -> bool) -> Vec<Frame> {
    let mut frames = Vec::new();
    let deadline = Clock::now() + PATIENCE;
    while !enough(&frames) {
        port.rx(NOW, 64, &mut frames);
        assert!(Clock::now() < deadline, "after {PATIENCE:?} there are only {} frames", frames.len());
    }
    frames
}

/// What was lost, once nothing more comes.
pub(crate) fn missed(port: &mut (impl Port + ?Sized)) -> u64 {
    let mut frames = Vec::new();
    (0..64).for_each(|_| port.rx(NOW, 64, &mut frames));
    release(port, frames);
    port.missed()
}

pub(crate) fn release(port: &mut (impl Port + ?Sized), frames: Vec<Frame>) {
    frames.into_iter().for_each(|frame| port.release(frame));
}

/// The frame as it would go back to its sender: addresses of both layers and ports exchanged, sums unchanged by that.
pub(crate) fn reply_in_place(frame: &mut Frame) {
    let bytes = frame.bytes_mut();
    let (to, from) = bytes[..12].split_at_mut(6);
    to.swap_with_slice(from);
    let (source, destination) = bytes[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = bytes[34..38].split_at_mut(2);
    source.swap_with_slice(destination);
}

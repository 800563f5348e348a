//! Single stages of the pipeline, to be measured by themselves.
//!
//! The pipeline calls the very same functions; nothing else should be built on these.

use pollgate_common::flow::V4;
use pollgate_common::net::{Net, NextHop};

use crate::flow::Translation;
use crate::packet::Packet;
use crate::port::{BURST, Frame};
use crate::{parse, rewrite};

/// What parsing found out about a burst.
pub struct Parsed {
    packets: Box<[Packet; BURST]>,
}

impl Default for Parsed {
    fn default() -> Parsed {
        Parsed { packets: Box::new([Packet::new(); BURST]) }
    }
}

impl Parsed {
    /// Parses a burst, [`BURST`] frames at most; answers how many of them can belong to a flow.
    pub fn parse(&mut self, frames: &[Frame], net: &Net) -> usize {
        let packets = &mut self.packets[..frames.len()];
        parse::all(frames, packets, net);
        packets.iter().filter(|packet| packet.has_ports()).count()
    }

    /// Translates the burst that was parsed last, and addresses it to `hop`.
    pub fn rewrite(&self, frames: &mut [Frame], translation: &Translation<V4>, hop: &NextHop) {
        for (frame, packet) in frames.iter_mut().zip(self.packets.iter()) {
            rewrite::translate(frame, packet, translation);
            rewrite::address(frame, hop);
        }
    }
}

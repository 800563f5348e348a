//! Single stages of the pipeline, to be measured by themselves.
//!
//! The pipeline calls the very same functions; nothing else should be built on these.

use pollgate_common::flow::{V4, V6};
use pollgate_common::net::{Net, NextHop};

use crate::burst::Burst;
use crate::flow::Translation;
use crate::port::Frame;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::{parse, rewrite};

/// What parsing found out about a burst.
pub struct Parsed {
    burst: Burst,
}

impl Default for Parsed {
    fn default() -> Parsed {
        Parsed { burst: Burst::new() }
    }
}

impl Parsed {
    /// Parses a burst of [`crate::port::BURST`] frames at most. Returns how many of them can belong to a flow.
    pub fn parse(&mut self, frames: &[Frame], net: &Net) -> usize {
        parse::all(frames, &mut self.burst, net, &[]);
        self.burst.v4.flows.as_ref().len() + self.burst.v6.flows.as_ref().len()
    }

    /// Translates the IPv4 packets of the burst that was parsed last, and addresses them to `next`.
    pub fn rewrite(&self, frames: &mut [Frame], translation: &Translation<V4>, next: &NextHop) {
        for (frame, packet) in frames.iter_mut().zip(self.burst.v4.flows.as_ref()) {
            rewrite::translate::<Ipv4>(frame, packet, translation);
            rewrite::address(frame, next);
        }
    }

    /// The same for the IPv6 packets.
    pub fn rewrite_v6(&self, frames: &mut [Frame], translation: &Translation<V6>, next: &NextHop) {
        for (frame, packet) in frames.iter_mut().zip(self.burst.v6.flows.as_ref()) {
            rewrite::translate::<Ipv6>(frame, packet, translation);
            rewrite::address(frame, next);
        }
    }
}

//! A port of plain memory, for tests: `rx` returns the packets that a test pushes, and the test pops what the pipeline sends.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crossbeam::queue::SegQueue;
use pollgate_common::net::PortId;
use pollgate_common::time::Instant;

use super::lend::Lender;
use super::{Frame, Offload, Port, Returned, Sent};

/// A packet outside the pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The packet from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Work left to the hardware.
    pub offload: Offload,
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Packet {
        Packet { bytes, offload: Offload::default() }
    }
}

/// The test's end of a memory port.
#[derive(Clone, Default)]
pub struct Wire(Arc<Ends>);

#[derive(Default)]
struct Ends {
    towards: SegQueue<Packet>,
    back: SegQueue<Packet>,
}

impl Wire {
    /// Adds a packet that the port will receive.
    pub fn push(&self, packet: impl Into<Packet>) {
        self.0.towards.push(packet.into());
    }

    /// The next packet the port has sent.
    pub fn pop(&self) -> Option<Packet> {
        self.0.back.pop()
    }
}

/// A port between two queues of packets in memory.
pub struct MemoryPort {
    id: PortId,
    wire: Wire,
    lender: Lender,
}

impl MemoryPort {
    /// A port with number `id` in its worker, and the test's end of it.
    pub fn new(id: PortId) -> (MemoryPort, Wire) {
        let wire = Wire::default();
        (MemoryPort { id, wire: wire.clone(), lender: Lender::default() }, wire)
    }
}

impl Port for MemoryPort {
    fn rx(&mut self, _now: Instant, room: usize, into: &mut Vec<Frame>) {
        let packets = std::iter::from_fn(|| self.wire.0.towards.pop()).take(room);
        into.extend(packets.map(|packet| self.lender.lend(&packet.bytes, packet.offload, self.id)));
    }

    fn tx(&mut self, _now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        let mut sent = Sent::default();
        for frame in batch.drain(..) {
            sent.frames += 1;
            sent.bytes += frame.len() as u64;
            self.wire.0.back.push(Packet { bytes: frame.bytes().to_vec(), offload: *frame.offload() });
            back.push(Returned { frame, dropped: None });
        }
        sent
    }

    fn release(&mut self, frame: Frame) {
        self.lender.take_back(&frame);
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_idle(&self) -> bool {
        self.lender.out() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_go_in_and_out_and_every_buffer_returns() {
        let (mut port, wire) = MemoryPort::new(PortId(3));
        let (mut frames, mut back) = (Vec::new(), Vec::new());
        for n in 0..5u8 {
            wire.push(vec![n; 60]);
        }
        port.rx(Instant(0), 3, &mut frames);
        assert_eq!(frames.len(), 3);
        frames[0].bytes_mut()[0] = 9;
        assert_eq!(port.tx(Instant(0), &mut frames, &mut back), Sent { frames: 3, bytes: 180 });
        assert_eq!(wire.pop().map(|p| p.bytes[..2].to_vec()), Some(vec![9, 0]));
        assert_eq!(port.lender.out(), 3);
        back.drain(..).for_each(|returned| port.release(returned.frame));
        assert_eq!(port.lender.out(), 0);
    }
}

//! What the benches share: a port that makes frames out of nothing, and an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pollgate_common::net::PortId;
use pollgate_common::time::Instant;
use pollgate_dataplane::port::{BURST, Frame, Origin, Port, Returned, Sent};
use pollgate_dataplane::wire::checksum;

/// The system's allocator, counting.
pub(crate) struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Allocations so far.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.load(Relaxed)
}

/// Bytes of a frame.
pub(crate) const FRAME: usize = 64;

/// Which flow comes next: all in turn, or at random.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    InTurn,
    Random,
}

/// Makes the frames of `flows` flows: UDP, or TCP segments with ACK (SYN when `opening`).
#[derive(Clone)]
pub(crate) struct Source {
    template: [u8; FRAME],
    header_sum: u32,
    pub(crate) flows: u32,
    pub(crate) order: Order,
    next: u32,
    random: u64,
}

impl Source {
    /// Frames to `dst` on the gateway, whose MAC is `mac`.
    pub(crate) fn new(protocol: u8, mac: [u8; 6], dst: (Ipv4Addr, u16), flows: u32) -> Source {
        let mut template = [0u8; FRAME];
        template[..6].copy_from_slice(&mac);
        template[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xfe]);
        template[12..14].copy_from_slice(&[8, 0]);
        template[14..24].copy_from_slice(&[0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, protocol]);
        template[30..34].copy_from_slice(&dst.0.octets());
        template[36..38].copy_from_slice(&dst.1.to_be_bytes());
        if protocol == 17 {
            template[38..40].copy_from_slice(&30u16.to_be_bytes());
        } else {
            template[46] = 0x50;
        }
        let header_sum = checksum::sum(&template[14..34]);
        Source { template, header_sum, flows, order: Order::InTurn, next: 0, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// The TCP flags of the frames to come.
    pub(crate) fn set_tcp_flags(&mut self, flags: u8) {
        self.template[47] = flags;
    }

    /// The number of the next frame's flow.
    #[inline]
    pub(crate) fn choose(&mut self) -> u32 {
        match self.order {
            Order::InTurn => {
                self.next = (self.next + 1) % self.flows;
                self.next
            }
            Order::Random => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                ((u128::from(self.random) * u128::from(self.flows)) >> 64) as u32
            }
        }
    }

    /// Writes the frame of flow `flow`: clients 10.244.128.0 and up, 32 768 ports each.
    #[inline]
    pub(crate) fn write(&self, flow: u32, frame: &mut [u8; FRAME]) {
        *frame = self.template;
        let client = 0x0af4_8000 + (flow >> 15);
        let port = (flow & 0x7fff) as u16 + 1024;
        frame[26..30].copy_from_slice(&client.to_be_bytes());
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        let sum = !checksum::fold(self.header_sum + (client >> 16) + (client & 0xffff));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A port that receives a full burst of a [`Source`]'s frames at every look, and counts what is sent.
pub(crate) struct Endless {
    id: PortId,
    pub(crate) source: Source,
    buffers: Box<[[u8; 128]]>,
    /// Buffers that are with the worker.
    out: usize,
}

impl Endless {
    pub(crate) fn new(id: PortId, source: Source) -> Endless {
        Endless { id, source, buffers: vec![[0; 128]; BURST].into(), out: 0 }
    }
}

impl Port for Endless {
    fn rx(&mut self, _now: Instant, room: usize, into: &mut Vec<Frame>) {
        assert_eq!(self.out, 0, "every buffer has come back");
        for (at, buffer) in self.buffers.iter_mut().enumerate().take(room) {
            let flow = self.source.choose();
            let (frame, _) = buffer.split_first_chunk_mut::<FRAME>().expect("longer than a frame");
            self.source.write(flow, frame);
            let ptr = NonNull::from(&mut buffer[..]).cast::<u8>();
            // SAFETY: 128 bytes that nobody touches until all frames of the burst have come back (asserted above).
            into.push(unsafe { Frame::new(ptr, 64, 128, Origin::Port(self.id), self.id, at as u64) });
            self.out += 1;
        }
    }

    fn tx(&mut self, _now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        let sent = Sent { frames: batch.len() as u64, bytes: (batch.len() * FRAME) as u64 };
        back.extend(batch.drain(..).map(|frame| Returned { frame, dropped: None }));
        sent
    }

    fn release(&mut self, _frame: Frame) {
        self.out -= 1;
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

//! A port that receives a full burst per poll, counts sent frames, and is controlled from outside.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use pollgate_common::net::PortId;
use pollgate_common::time::Instant;
use pollgate_dataplane::port::{BURST, Frame, Origin, Port, Returned, Sent};

use super::Order;

/// Makes frames.
pub(crate) trait Make: Send {
    /// Writes the next frame and returns its length.
    fn make(&mut self, buffer: &mut [u8]) -> usize;

    /// Applies the state of the remote control.
    fn follow(&mut self, _order: Order, _tcp_flags: u8) {}
}

/// Controls a port while a worker owns it.
#[derive(Default)]
pub(crate) struct Remote {
    at_random: AtomicBool,
    tcp_flags: AtomicU8,
    silent: AtomicBool,
    keep: AtomicBool,
    kept: Mutex<Vec<Vec<u8>>>,
}

impl Remote {
    /// All flows in turn, or random ones.
    pub(crate) fn order(&self, order: Order) {
        self.at_random.store(order == Order::Random, Relaxed);
    }

    /// The flags of TCP segments to come.
    pub(crate) fn tcp_flags(&self, flags: u8) {
        self.tcp_flags.store(flags, Relaxed);
    }

    /// While silent, the port receives nothing.
    pub(crate) fn silent(&self, silent: bool) {
        self.silent.store(silent, Relaxed);
    }

    /// The number of frames that are sent while `work` runs.
    pub(crate) fn sent(&self, work: impl FnOnce()) -> Vec<Vec<u8>> {
        self.keep.store(true, Relaxed);
        work();
        self.keep.store(false, Relaxed);
        std::mem::take(&mut self.kept.lock().expect("no panic in a port"))
    }
}

/// A port with an endless supply of frames.
pub(crate) struct Endless<M> {
    id: PortId,
    make: M,
    remote: Arc<Remote>,
    stride: usize,
    buffers: Box<[u8]>,
    /// Buffers that the worker holds.
    out: usize,
}

impl<M: Make> Endless<M> {
    /// With buffers of `stride` bytes.
    pub(crate) fn new(id: PortId, make: M, stride: usize) -> (Endless<M>, Arc<Remote>) {
        let remote = Arc::new(Remote::default());
        let buffers = vec![0; stride * BURST].into();
        (Endless { id, make, remote: Arc::clone(&remote), stride, buffers, out: 0 }, remote)
    }
}

impl<M: Make> Port for Endless<M> {
    fn rx(&mut self, _now: Instant, room: usize, into: &mut Vec<Frame>) {
        assert_eq!(self.out, 0, "every buffer has come back");
        if self.remote.silent.load(Relaxed) {
            return;
        }
        let order = if self.remote.at_random.load(Relaxed) { Order::Random } else { Order::InTurn };
        self.make.follow(order, self.remote.tcp_flags.load(Relaxed));
        for (at, buffer) in self.buffers.chunks_exact_mut(self.stride).enumerate().take(room) {
            let len = self.make.make(buffer) as u32;
            let (ptr, room) = (NonNull::from(&mut buffer[..]).cast::<u8>(), self.stride as u32);
            // SAFETY: `stride` bytes that are not accessed until all frames of the burst are back (asserted above).
            into.push(unsafe { Frame::new(ptr, len, room, Origin::Port(self.id), self.id, at as u64) });
            self.out += 1;
        }
    }

    fn tx(&mut self, _now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        if self.remote.keep.load(Relaxed) {
            let mut kept = self.remote.kept.lock().expect("no panic in a bench");
            kept.extend(batch.iter().map(|frame| frame.bytes().to_vec()));
        }
        let bytes = batch.iter().map(|frame| frame.len() as u64).sum();
        let sent = Sent { frames: batch.len() as u64, bytes };
        back.extend(batch.drain(..).map(|frame| Returned { frame, dropped: None }));
        sent
    }

    fn release(&mut self, _frame: Frame) {
        self.out -= 1;
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_idle(&self) -> bool {
        self.out == 0
    }
}

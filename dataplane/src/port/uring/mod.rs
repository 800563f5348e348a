//! io_uring: the AF_PACKET socket of [`super::packet`], read and written by rings of requests instead of a mapped ring.
//!
//! ```text
//!              ┌─ provided buffers ◀───────────────── release ─┐
//!  device ──▶ socket's queue ─ one standing request ─▶ CQE ─▶ Frame ─▶ pipeline ─▶ SQE, one a frame ─▶ device
//!                                                                                     └─▶ CQE ─▶ back
//! ```
//!
//! **Receiving** is one multishot `recvmsg` (io_uring_prep_recvmsg_multishot(3)) that takes a buffer from a ring whenever
//! there is a frame. Every buffer holds a super-frame of 64 KB: 256 of 68 KB, 17 MB a port, in huge pages
//! where there are some. That is what a burst needs; what comes beyond waits on the socket's queue. When all buffers are
//! lent the request ends, and is made again once some are back. A VLAN tag the kernel took out comes as PACKET_AUXDATA
//! with the message and is put back.
//!
//! **Sending** is one `sendmsg` request a frame, one system call a batch. MSG_DONTWAIT, so that a full socket is an answer
//! and not a wait: in practice the kernel is done with every frame when the call returns. It does not promise that; a
//! frame stays with the port until its completion has come. SEND_ZC is refused for these sockets (EOPNOTSUPP).
//!
//! **Whose ring.** SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1) spare the kernel locks and interrupts of the worker: it
//! moves frames only inside our own calls. Then the ring belongs to one thread; it is made disabled, where the port is
//! opened, and enabled by the first thread that polls it. After that no other thread may.
//!
//! **What it costs.** It copies as often as the mapped ring, but inside the worker's own calls, and takes each frame off a
//! queue. Over veth, frames of 60 and 1514 bytes in bursts of 64: 600 ns of the worker to receive one, where the mapped
//! ring leaves 60; to send one 0.96 and 1.12 µs, where `sendmmsg` takes 0.84 and 1.02 (medians of nine interleaved rounds).
//! So it is there where somebody wants io_uring, and nothing chooses it by itself.

#[allow(unsafe_code, reason = "the kernel writes the buffers, and frames point into them")]
mod buffers;
#[allow(unsafe_code, reason = "requests contain raw pointers")]
mod ring;
mod send;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pollgate_common::net::PortId;
use pollgate_common::time::Instant;

pub use super::OpenError;
pub use super::socket::{Fanout, FanoutRules, PacketOptions};
use super::{Frame, Origin, Port, Returned, Sent, socket};
use buffers::Buffers;
use ring::{Event, Ring};
use send::Sends;

/// Calls of `rx` between two questions to the kernel for frames it dropped.
const LOOKS_PER_CHECK: u32 = 64;

/// An AF_PACKET socket behind an io_uring; see the module's text.
pub struct UringPort {
    // Closed before the buffers go.
    ring: Ring,
    buffers: Buffers,
    sends: Sends,
    socket: OwnedFd,
    port: PortId,
    /// Buffers that hold a message, and its length.
    received: VecDeque<(u16, usize)>,
    /// Whether the standing request is made.
    receiving: bool,
    missed: u64,
    looks: u32,
}

/// Whether the kernel has io_uring as this port wants it, and lets this process use it.
pub fn permitted() -> io::Result<()> {
    Ring::new(buffers::COUNT).map(drop)
}

impl UringPort {
    /// Opens the port on an interface of the calling thread's network namespace; it receives from then on. The
    /// interface may be down. The first thread to call `rx` or `tx` is the only one to do so.
    ///
    /// `ring_frames` does not matter: what waits, waits on the socket's queue.
    pub fn open(options: &PacketOptions<'_>) -> Result<UringPort, OpenError> {
        let failed = |step| move |error| socket::system(options, step, error);
        let ring = Ring::new(buffers::COUNT).map_err(|error| not_permitted(options, error))?;
        let buffers = Buffers::new().map_err(failed("mapping the receive buffers"))?;
        buffers.register(&ring).map_err(failed("registering the receive buffers with the kernel"))?;
        let mut ask_for_tags = |socket: BorrowedFd<'_>, _| {
            socket::set(socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1i32)
                .map_err(|error| ("requesting VLAN tags", error))
        };
        let (socket, ()) = socket::open(options, true, &mut ask_for_tags)?;
        ring.register(socket.as_fd()).map_err(failed("registering a packet socket with the io_uring"))?;
        Ok(UringPort {
            ring,
            buffers,
            sends: Sends::new(),
            socket,
            port: options.port,
            received: VecDeque::with_capacity(usize::from(buffers::COUNT)),
            receiving: false,
            missed: 0,
            looks: 0,
        })
    }

    /// What changes the program of this port's group; for one opened with a program.
    pub fn fanout(&self) -> io::Result<Fanout> {
        Ok(Fanout::new(self.socket.try_clone()?))
    }

    /// Has the kernel move frames, where it has some or the standing request is to be made.
    fn receive(&mut self) {
        // Twice: a request that ends at once (an old error of the link) must not leave a worker asleep without one.
        for _ in 0..2 {
            if !self.receiving && self.buffers.has_some() {
                self.receiving = self.ring.push_receive(self.buffers.message());
            }
            self.ring.enter_if_needed();
            self.reap();
            if self.receiving {
                break;
            }
        }
    }

    /// Takes in everything that is complete.
    fn reap(&mut self) {
        while let Some(event) = self.ring.next_event() {
            match event {
                Event::Received { buffer, length, more } => {
                    self.buffers.taken();
                    self.received.push_back((buffer, length));
                    self.receiving &= more;
                }
                // Out of buffers; or an error that a link going down left on the socket, which is gone now.
                Event::Stopped => self.receiving = false,
                Event::Sent { slot, result } => self.sends.completed(slot, result, &mut self.ring),
            }
        }
    }
}

impl Port for UringPort {
    fn rx(&mut self, _now: Instant, room: usize, into: &mut Vec<Frame>) {
        self.looks += 1;
        if self.received.len() < room {
            self.receive();
        }
        let mut left = room;
        while left > 0
            && let Some((buffer, length)) = self.received.pop_front()
        {
            match self.buffers.frame(buffer, length, self.port) {
                Some(frame) => {
                    into.push(frame);
                    left -= 1;
                }
                None => self.missed += 1,
            }
        }
    }

    fn tx(&mut self, _now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        let mut sent = Sent::default();
        self.sends.take_done(back, &mut sent);
        loop {
            self.sends.push(batch, &mut self.ring);
            if !self.ring.has_requests() || !self.ring.submit() {
                break;
            }
            self.reap();
            self.sends.take_done(back, &mut sent);
        }
        Sends::refuse(batch, back);
        sent
    }

    fn release(&mut self, frame: Frame) {
        debug_assert_eq!(frame.origin(), Origin::Port(self.port), "a frame of somebody else");
        self.buffers.release(&frame);
    }

    /// The socket: frames stay on its queue until we have the kernel move them. The ring would wake nobody before, for work
    /// that is put off wakes only who waits in io_uring_enter (with it, every exchange took a nap of the worker).
    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn is_sending(&self) -> bool {
        self.sends.is_sending()
    }

    fn missed(&mut self) -> u64 {
        let mut missed = std::mem::take(&mut self.missed);
        if self.looks >= LOOKS_PER_CHECK {
            self.looks = 0;
            missed += socket::dropped_by_kernel(self.socket.as_fd());
        }
        missed
    }
}

fn not_permitted(options: &PacketOptions<'_>, error: io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => {
            OpenError::NoUring { interface: options.interface.to_owned(), source: error }
        }
        _ => socket::system(options, "creating an io_uring (Linux 6.1 or later)", error),
    }
}

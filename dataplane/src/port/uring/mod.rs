//! io_uring: an AF_PACKET socket as in [`super::packet`], used through rings of requests instead of a mapped ring.
//!
//! ```text
//!              ┌─ provided buffers ◀───────────────── release ─┐
//!  device ──▶ socket's queue ─ one standing request ─▶ CQE ─▶ Frame ─▶ pipeline ─▶ one SQE per frame ─▶ device
//!                                                                                     └─▶ CQE ─▶ back
//! ```
//!
//! **Receiving** is one multishot `recvmsg` (io_uring_prep_recvmsg_multishot(3)) that takes a buffer from a ring for each
//! frame. Every buffer can hold a super-frame of 64 KB: 256 buffers of 68 KB, 17 MB per port, in huge pages if there are
//! any. That is enough for a burst. More frames wait on the socket's queue. When all buffers are lent the request ends. It is
//! made again when some are back. A VLAN tag that the kernel removed comes as PACKET_AUXDATA with the message and is put
//! back.
//!
//! **Sending** is one `sendmsg` request per frame and one system call per batch. With MSG_DONTWAIT a full socket is an error
//! and not a wait: in practice the kernel is done with every frame when the call returns. It does not guarantee that, so a
//! frame stays with the port until its completion arrives. These sockets do not support SEND_ZC (EOPNOTSUPP).
//!
//! **Ownership of the ring.** With SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1) the kernel needs no locks and does not
//! interrupt the worker: it moves frames only inside our own calls. The ring then belongs to one thread. It is disabled when
//! the port is opened, and the first thread that polls the port enables it. After that no other thread may use it.
//!
//! **Cost.** It copies as often as the mapped ring, but inside the worker's own calls, and takes each frame off a queue.
//! Measured over veth with frames of 60 and 1514 bytes in bursts of 64: the worker needs 600 ns to receive a frame, with the
//! mapped ring 60 ns. It needs 0.96 and 1.12 µs to send a frame, with `sendmmsg` 0.84 and 1.02 µs (medians of nine
//! interleaved rounds). So this port is used only if the configuration asks for it.

mod buffers;
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

/// Calls of `rx` between two reads of the kernel's drop counter.
const LOOKS_PER_CHECK: u32 = 64;

/// A port on an AF_PACKET socket that is used through an io_uring.
pub struct UringPort {
    // Dropped (closed) before the buffers.
    ring: Ring,
    buffers: Buffers,
    sends: Sends,
    socket: OwnedFd,
    port: PortId,
    /// Buffers that contain a message, with its length.
    received: VecDeque<(u16, usize)>,
    /// Whether the standing request is active.
    receiving: bool,
    missed: u64,
    looks: u32,
}

/// Whether the kernel supports io_uring as this port needs it, and this process may use it.
pub fn permitted() -> io::Result<()> {
    Ring::new(buffers::COUNT).map(drop)
}

impl UringPort {
    /// Opens the port on an interface of the calling thread's network namespace. It receives from then on. The interface
    /// may be down. Only the thread that first calls `rx` or `tx` may call them.
    ///
    /// `ring_frames` has no effect: frames wait on the socket's queue.
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

    /// A handle that changes the program of this port's group. Only for a port opened with a program.
    pub fn fanout(&self) -> io::Result<Fanout> {
        Ok(Fanout::new(self.socket.try_clone()?))
    }

    /// Calls the kernel to move frames, if it has any or the standing request must be made.
    fn receive(&mut self) {
        // Twice: if the request ends at once (an old error of the link), the worker must not sleep without a request.
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

    /// Handles all completions.
    fn reap(&mut self) {
        while let Some(event) = self.ring.next_event() {
            match event {
                Event::Received { buffer, length, more } => {
                    self.buffers.taken();
                    self.received.push_back((buffer, length));
                    self.receiving &= more;
                }
                // No buffers are left, or a link going down left an error on the socket, which is cleared now.
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
        debug_assert_eq!(frame.origin(), Origin::Port(self.port), "the frame has another origin");
        self.buffers.release(&frame);
    }

    /// The socket: frames stay on its queue until our call makes the kernel move them. The ring would not wake the worker
    /// earlier, because deferred work wakes only a thread in io_uring_enter. (With the ring, every exchange had to wait for
    /// the end of the worker's sleep.)
    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn is_sending(&self) -> bool {
        self.sends.is_sending()
    }

    fn is_idle(&self) -> bool {
        !self.buffers.are_lent() && !self.sends.is_sending()
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

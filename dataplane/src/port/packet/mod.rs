//! AF_PACKET: receives frames through a ring that the kernel fills, and sends them directly from their memory.
//!
//! ```text
//!             ┌ small ─▶ slot ──────────────────┐
//!  device ──▶ ring                               ├─▶ Frame ─▶ pipeline ─▶ sendmmsg ─▶ device
//!             └ too large for a slot ─▶ queue ──┘ (side buffer)
//! ```
//!
//! It works on every Ethernet device of the kernel. With PACKET_VNET_HDR each frame has a `virtio_net_hdr`, so work that was
//! left to offloads stays left to them: partial checksums stay partial, and super-frames of up to 64 KB stay in one piece
//! (packet(7); Documentation/networking/packet_mmap.rst; linux/virtio_net.h).
//!
//! **Receiving.** TPACKET_V2 delivers each frame as soon as it arrives. V3 delivers whole blocks, or after a timer when a
//! block does not fill. That is right for capturing and wrong for a gateway's latency. A slot has room for a frame of the
//! device's MTU and for a reply written in place. The kernel leaves larger frames, mostly GSO super-frames, whole on the
//! socket's queue (PACKET_COPY_THRESH) and marks the slot. It fills queue and slots under one lock, so the head of the queue
//! belongs to the first marked slot. The frame is read into a side buffer. Slots of 64 KB would avoid that call, but cost
//! every small frame a TLB miss and the ring 256 MB. A frame that is available whole in neither way is counted as missed. It
//! is never delivered truncated.
//!
//! **Sending.** `sendmmsg` directly from the frames' memory, of any port. It is faster than the mapped transmit ring
//! (measured) and copies as often. The frames go through the device's queueing discipline. Bypassing it
//! (PACKET_QDISC_BYPASS) was not faster, loses the queue that absorbs a burst, and refuses a super-frame if the device cannot
//! segment it.
//!
//! **Several workers** join one fanout group on the interface, in the order of their numbers. With a program
//! ([`FanoutRules`]) the kernel chooses the same worker as the workers themselves. This is not guaranteed: later fragments,
//! ICMP errors and addresses for which the program has no room go to any worker, and the workers hand them over. Without a
//! program the group uses PACKET_FANOUT_HASH, which separates the two directions of most flows. Reassembly by the kernel
//! (FANOUT_FLAG_DEFRAG) is off because it would change the frames.
//!
//! **Stripped VLAN tags** are put back, so a tagged frame looks as it did on the wire.
//!
//! A slot that is kept for long stops the ring when the ring comes round to it. So frames that have to wait are copied to the
//! worker's buffer pool.
//!
//! A link that goes down and comes back keeps its socket. The kernel leaves an error on the socket, which is read and
//! ignored. An interface that is removed does not come back, not even under its name: the port then receives nothing, and drops all
//! frames to send until it is replaced.

mod ring;
mod side;
mod transmit;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pollgate_common::net::PortId;
use pollgate_common::time::Instant;

pub use super::OpenError;
pub use super::socket::{Fanout, FanoutRules, PacketOptions};
use super::{Backlog, Frame, Origin, Port, Returned, Sent, socket};
use ring::{Layout, Ring, Taken};
use side::{SIDE, SideBuffers};
use transmit::Transmitter;

/// Empty polls of the ring between two checks of the socket, for an error left on it and for drops without a later frame.
/// Often enough that an error does not keep waking a sleeping worker, and rarely enough to cost a spinning worker nothing.
const LOOKS_PER_CHECK: u32 = 64;

/// A port on an AF_PACKET socket with a mapped receive ring.
#[derive(Debug)]
pub struct PacketPort {
    ring: Ring,
    side: SideBuffers,
    transmitter: Transmitter,
    socket: OwnedFd,
    port: PortId,
    missed: u64,
    /// Whether the kernel may have dropped frames that are not counted yet.
    may_have_missed: bool,
    empty_looks: u32,
}

impl PacketPort {
    /// Opens the port on an interface of the calling thread's network namespace. It receives from then on. The interface
    /// may be down.
    pub fn open(options: &PacketOptions<'_>) -> Result<PacketPort, OpenError> {
        let mut map = |socket: BorrowedFd<'_>, mtu| {
            let layout = Layout::new(options.ring_frames, mtu);
            ask_for_ring(socket, layout).map_err(|error| ("requesting a receive ring", error))?;
            Ring::map(socket, layout).map_err(|error| ("mapping the receive ring", error))
        };
        let (socket, ring) = socket::open(options, false, &mut map)?;
        Ok(PacketPort {
            ring,
            side: SideBuffers::new(),
            transmitter: Transmitter::new(),
            socket,
            port: options.port,
            missed: 0,
            may_have_missed: false,
            empty_looks: 0,
        })
    }

    /// A handle that changes the program of this port's group. Only for a port opened with a program.
    pub fn fanout(&self) -> io::Result<Fanout> {
        Ok(Fanout::new(self.socket.try_clone()?))
    }

    /// Checks the socket once in a while, when no frames arrive.
    fn look_at_socket(&mut self) {
        self.empty_looks += 1;
        if self.empty_looks >= LOOKS_PER_CHECK {
            self.empty_looks = 0;
            self.may_have_missed = true;
            socket::clear_error(self.socket.as_fd());
        }
    }

    /// The frame, if it is available whole.
    fn whole(&mut self, taken: Taken) -> Option<Frame> {
        match taken {
            Taken::Frame(frame) => Some(frame),
            Taken::OnQueue(tag) => self.side.receive(self.socket.as_fd(), self.port, tag),
            Taken::Cut => None,
        }
    }
}

fn ask_for_ring(socket: BorrowedFd<'_>, layout: Layout) -> io::Result<()> {
    let set_int = |option, value: i32| socket::set(socket, libc::SOL_PACKET, option, &value);
    set_int(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as libc::c_int)?;
    set_int(libc::PACKET_COPY_THRESH, i32::try_from(layout.slot_size()).unwrap_or(i32::MAX))?;
    socket::set(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &layout.request())
}

impl Port for PacketPort {
    fn rx(&mut self, _now: Instant, room: usize, into: &mut Vec<Frame>) {
        let before = into.len();
        while into.len() - before < room {
            let Some(taken) = self.ring.take(self.port, self.side.has_room()) else { break };
            match self.whole(taken) {
                Some(frame) => into.push(frame),
                None => self.missed += 1,
            }
        }
        if into.len() == before {
            self.look_at_socket();
        }
    }

    fn backlog(&mut self) -> Backlog {
        self.ring.backlog()
    }

    fn tx(&mut self, _now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        self.transmitter.send(self.socket.as_fd(), batch, back)
    }

    fn release(&mut self, frame: Frame) {
        debug_assert_eq!(frame.origin(), Origin::Port(self.port), "the frame has another origin");
        let token = frame.token();
        match u32::try_from(token) {
            Ok(slot) => self.ring.release(slot),
            Err(_) => self.side.release(token - SIDE),
        }
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn is_idle(&self) -> bool {
        !self.ring.is_lent() && self.side.are_all_free()
    }

    /// Called per poll, so the kernel is asked only after a frame that reports an earlier loss, or when no frame has
    /// arrived for a while.
    fn missed(&mut self) -> u64 {
        let mut missed = std::mem::take(&mut self.missed);
        if std::mem::take(&mut self.may_have_missed) | self.ring.saw_loss() {
            missed += socket::dropped_by_kernel(self.socket.as_fd());
        }
        missed
    }
}

//! AF_PACKET: frames by a ring that the kernel fills, sent from wherever they lie.
//!
//! ```text
//!             ┌ small ─▶ slot ──────────────────┐
//!  device ──▶ ring                               ├─▶ Frame ─▶ pipeline ─▶ sendmmsg ─▶ device
//!             └ too large for a slot ─▶ queue ──┘ (side buffer)
//! ```
//!
//! It runs on every Ethernet device of the kernel, sees what offloads left undone and hands it on undone: with
//! PACKET_VNET_HDR each frame carries a `virtio_net_hdr`, so partial checksums stay partial and super-frames of up to
//! 64 KB pass through in one piece (packet(7); Documentation/networking/packet_mmap.rst; linux/virtio_net.h).
//!
//! **Receiving.** TPACKET_V2: a frame is ours as soon as it is there. V3 hands over whole blocks, by a timer when they
//! do not fill, which is right for capturing and wrong for a gateway's latency. A slot is sized for a frame of the
//! device's MTU and room behind it for an answer written in place. What is larger, GSO super-frames above all, the
//! kernel leaves whole on the socket's queue (PACKET_COPY_THRESH) and marks the slot; queue and slots are filled under
//! one lock, so the head of the queue belongs to the first marked slot. It is read into a side buffer. Slots of 64 KB
//! would spare that call, and cost every small frame a TLB miss and a ring 256 MB. A frame that could be had neither
//! way whole is counted as missed, never handed up cut.
//!
//! **Sending.** `sendmmsg` straight from the frames' memory, whichever port's it is: measured against the mapped
//! transmit ring it is faster, and it copies as often. The frames go through the device's queueing discipline: bypassing
//! it (PACKET_QDISC_BYPASS) was no faster, loses the queue that takes up a burst, and refuses a super-frame where the
//! device cannot segment it.
//!
//! **Several workers** join one fanout group on the interface, in their own order, and a program ([`FanoutRules`]) has
//! the kernel choose as the workers themselves would. It promises nothing: later fragments, ICMP errors and addresses
//! the program has no room for land anywhere, and the workers sort that out themselves. Without a program it is
//! PACKET_FANOUT_HASH, which parts the two directions of most flows. Reassembly by the kernel (FANOUT_FLAG_DEFRAG) would change the frames, so it is off.
//!
//! **Stripped VLAN tags** are put back, so that a tagged frame looks as it did on the wire.
//!
//! A slot that is kept for long stops the ring once it has gone round to it: frames that have to wait for something
//! belong in the worker's reserve.
//!
//! A link that goes down and comes back keeps its socket; the kernel leaves an error on it that is read away. An
//! interface that is removed does not come back: the port then receives nothing and drops what it is to send.

mod ring;
mod side;
mod transmit;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pollgate_common::net::PortId;
use pollgate_common::time::Instant;

pub use super::OpenError;
pub use super::socket::{Fanout, FanoutRules, PacketOptions};
use super::{Frame, Origin, Port, Returned, Sent, socket};
use ring::{Layout, Ring, Taken};
use side::{SIDE, SideBuffers};
use transmit::Transmitter;

/// Empty looks at the ring between two looks at the socket, for an error left on it and for drops that no frame came
/// after: often enough that a sleeping worker is not woken by an error for long, rarely enough to cost a spinning one
/// nothing.
const LOOKS_PER_CHECK: u32 = 64;

/// An AF_PACKET socket with its ring and buffers; see the module's text.
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
    /// Opens the port on an interface of the calling thread's network namespace; it receives from then on. The
    /// interface may be down.
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

    /// What changes the program of this port's group; for one opened with a program.
    pub fn fanout(&self) -> io::Result<Fanout> {
        Ok(Fanout::new(self.socket.try_clone()?))
    }

    /// Now and then, when nothing comes.
    fn look_at_socket(&mut self) {
        self.empty_looks += 1;
        if self.empty_looks >= LOOKS_PER_CHECK {
            self.empty_looks = 0;
            self.may_have_missed = true;
            socket::clear_error(self.socket.as_fd());
        }
    }

    /// The frame, if it could be had whole.
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

    fn tx(&mut self, _now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        self.transmitter.send(self.socket.as_fd(), batch, back)
    }

    fn release(&mut self, frame: Frame) {
        debug_assert_eq!(frame.origin(), Origin::Port(self.port), "a frame of somebody else");
        let token = frame.token();
        match u32::try_from(token) {
            Ok(slot) => self.ring.release(slot),
            Err(_) => self.side.release(token - SIDE),
        }
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    /// Called every round, so the kernel is asked only after a frame that says it came behind a loss, or when nothing
    /// has come for a while.
    fn missed(&mut self) -> u64 {
        let mut missed = std::mem::take(&mut self.missed);
        if std::mem::take(&mut self.may_have_missed) | self.ring.saw_loss() {
            missed += socket::dropped_by_kernel(self.socket.as_fd());
        }
        missed
    }
}

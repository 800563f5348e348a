//! AF_XDP: frames taken before the kernel makes packets of them, in memory that both share.
//!
//! ```text
//!                 ┌ not ours ─▶ kernel            fill ring ◀── free chunks ◀── release ──┐
//!  device ─▶ steering program                         │                                   │
//!                 └ ours ─▶ socket of the queue ─▶ receive ring ─▶ Frame ─▶ pipeline ─────┤
//!  device ◀─ kick ◀─ transmit ring ◀─────── descriptor, no copy ◀─────────────────────────┤
//!     └──── completion ring ─▶ back to the port whose chunk it was ───────────────────────┘
//! ```
//!
//! A port is an interface as one worker polls it: the sockets of its share of the receive queues ([`open`]). All of a
//! worker's ports share their memory (`umem`), which makes forwarding from one to the other a descriptor. Which
//! frames come is decided by the interface's [`Program`], which all workers share, and by the [`Rules`], which all programs
//! share.
//!
//! **The kernel has no copy.** What the program takes and a worker finds to be none of ours is lost: a counted drop
//! instead of a pass ([`Port::kernel_has_copy`]).
//!
//! **Three modes**, the best that device and driver have ([`XdpPort::mode`]): zero copy, where the driver reads and writes
//! the memory itself; native, where the kernel copies once in the driver's receive path; generic, where it has made a
//! packet of the frame first. veth is native at best. Native XDP on one end of a veth pair switches the *other* end's TCP
//! segmentation offload off; in generic mode that has to be done by hand, since a super-frame fits no chunk and counts as
//! missed. So do other frames longer than the MTU the port was opened with allows: after raising it, restart.
//!
//! **No super-frames, no offloads.** A frame sent out here is at most one MTU long ([`DropReason::TxTooLong`] otherwise, a GSO
//! frame from another kind of port included) and leaves with its checksum complete (`checksum`).
//!
//! **Busy polling** ([`XdpOptions::busy_poll`]) is off by default: it costs a system call for each look that finds nothing,
//! and over veth, which has no interrupts to save, no gain could be measured (2.6 µs of CPU a forwarded packet with it, 2.9
//! without, medians of six interleaved rounds that spread from 2.3 to 3.2).
//!
//! Opening, with one set of rules and one program an interface for all workers:
//!
//! ```no_run
//! use pollgate_common::net::PortId;
//! use pollgate_dataplane::port::xdp::{self, Program, Rules, XdpOptions};
//!
//! let rules = Rules::new()?;
//! let programs = [Program::attach("eth1", &rules)?, Program::attach("eth2", &rules)?];
//! let interfaces = [(&programs[0], PortId(0)), (&programs[1], PortId(1))];
//! let options = XdpOptions { interfaces: &interfaces, worker: 0, workers: 1, frames: 4096, busy_poll: false };
//! for port in xdp::open(&options)? {
//!     println!("port {}: {}", port.port().0, port.mode());
//! }
//! rules.own("192.168.50.10".parse()?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! (Documentation/networking/af_xdp.rst)
//!
//! [`DropReason::TxTooLong`]: pollgate_common::reasons::DropReason::TxTooLong

mod checksum;
mod open;
mod program;
mod ring;
mod rules;
mod socket;
mod steering;
mod transmit;
mod umem;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use pollgate_common::net::PortId;
use pollgate_common::time::Instant;

use super::device::{Device, check};
use super::{Frame, OpenError, Origin, Port, Returned, Sent};
use crate::bpf::XdpMode;
pub use open::{XdpOptions, open};
pub use program::Program;
pub use rules::{RuleError, Rules};
use socket::Socket;
use transmit::Transmitter;
use umem::Share;

/// Looks at the rings between two questions to the kernel after lost frames: so many that found nothing, or so many at
/// all. Rarely enough to cost nothing, often enough for a graph.
const EMPTY_LOOKS_PER_CHECK: u32 = 64;
const LOOKS_PER_CHECK: u32 = 4096;

/// How a port's frames come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The driver uses the frame memory itself.
    ZeroCopy,
    /// The kernel copies each frame once, in the driver's receive path.
    NativeCopy,
    /// The kernel makes a packet of each frame and copies that.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::ZeroCopy => "zero copy",
            Mode::NativeCopy => "native, copying",
            Mode::Generic => "generic",
        })
    }
}

/// The AF_XDP sockets of one interface that one worker polls; see the module's text.
#[derive(Debug)]
pub struct XdpPort {
    /// The first of them also sends.
    sockets: Box<[Socket]>,
    queues: Box<[u32]>,
    /// The socket to be looked at first: by turns, so that a busy queue does not keep the others waiting.
    turn: usize,
    /// Chunks each socket is to have for receiving: the other half is for frames on their way and for copies.
    filled: u32,
    share: Share,
    transmitter: Transmitter,
    /// What sleeps on several sockets at once; `None` for one.
    waiter: Option<OwnedFd>,
    device: Device,
    port: PortId,
    mode: Mode,
    may_be_partial: bool,
    busy_poll: bool,
    looks: u32,
    empty_looks: u32,
    check_due: bool,
    lost: u64,
}

impl XdpPort {
    fn new(
        port: PortId,
        program: &Program,
        mut sockets: Vec<Socket>,
        queues: &[u32],
        share: Share,
        busy_poll: bool,
    ) -> Result<XdpPort, OpenError> {
        let device = Device::find(program.interface(), 0)?;
        let failed = |source| {
            let (interface, step) = (device.name.clone(), "preparing to wait for several queues");
            OpenError::System { interface, worker: 0, step, source }
        };
        let ring = sockets.first_mut().and_then(|socket| socket.transmit.take());
        let ring = ring.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let waiter = if sockets.len() > 1 { Some(epoll(&sockets).map_err(failed)?) } else { None };
        let mode = match program.mode() {
            _ if sockets.first().is_some_and(Socket::is_zero_copy) => Mode::ZeroCopy,
            XdpMode::Native => Mode::NativeCopy,
            XdpMode::Generic => Mode::Generic,
        };
        let sockets_count = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
        let mut port = XdpPort {
            queues: queues.into(),
            turn: 0,
            filled: share.free() / 2 / sockets_count,
            transmitter: Transmitter::new(ring, device.mtu),
            sockets: sockets.into(),
            share,
            waiter,
            may_be_partial: checksum::may_be_partial(&device.driver()),
            busy_poll,
            device,
            port,
            mode,
            looks: 0,
            empty_looks: 0,
            check_due: false,
            lost: 0,
        };
        (0..port.sockets.len()).for_each(|at| port.refill(at));
        Ok(port)
    }

    /// The port's number in the configuration.
    pub fn port(&self) -> PortId {
        self.port
    }

    /// How its frames come and go.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    fn first_socket(&self) -> &Socket {
        &self.sockets[0]
    }

    fn queues(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.queues.iter().copied().zip(self.sockets.iter().map(Socket::as_fd))
    }

    /// Takes up to `room` frames off a socket's receive ring.
    fn take(&mut self, at: usize, room: usize, into: &mut Vec<Frame>) {
        let socket = &mut self.sockets[at];
        let end = into.len() + room;
        while into.len() < end {
            let Some(entry) = socket.receive.pop() else { break };
            socket.posted = socket.posted.saturating_sub(1);
            // SAFETY: the chunk is the kernel's no longer: its descriptor has just come off the receive ring.
            let frame = unsafe { self.share.hand_out(entry.addr, entry.len, Some(self.port)) };
            if let Some(mut frame) = frame {
                if self.may_be_partial {
                    checksum::look(&mut frame);
                }
                into.push(frame);
            }
        }
        socket.receive.release();
    }

    /// Gives a socket chunks to receive into.
    fn refill(&mut self, at: usize) {
        let socket = &mut self.sockets[at];
        while socket.posted < self.filled {
            let Some(address) = self.share.take() else { break };
            if !socket.fill.push(address) {
                self.share.put(address);
                break;
            }
            socket.posted += 1;
        }
        socket.fill.submit();
    }

    fn look_done(&mut self, was_empty: bool) {
        self.looks += 1;
        self.empty_looks += u32::from(was_empty);
        if self.looks >= LOOKS_PER_CHECK || self.empty_looks >= EMPTY_LOOKS_PER_CHECK {
            (self.looks, self.empty_looks, self.check_due) = (0, 0, true);
        }
    }
}

impl Port for XdpPort {
    fn rx(&mut self, _now: Instant, room: usize, into: &mut Vec<Frame>) {
        let before = into.len();
        for step in 0..self.sockets.len() {
            let at = (self.turn + step) % self.sockets.len();
            let taken = into.len();
            self.take(at, room - (taken - before), into);
            self.refill(at);
            if self.sockets[at].fill.needs_wakeup() || (self.busy_poll && into.len() == taken) {
                self.sockets[at].kick_receive();
            }
        }
        self.turn = (self.turn + 1) % self.sockets.len();
        self.look_done(into.len() == before);
    }

    fn tx(&mut self, _now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        let Some(socket) = self.sockets.first_mut() else { return Sent::default() };
        self.transmitter.reap(socket, &mut self.share, back);
        self.transmitter.send((socket, &self.device), &mut self.share, batch, back)
    }

    fn release(&mut self, frame: Frame) {
        debug_assert_eq!(frame.origin(), Origin::Port(self.port), "a frame of somebody else");
        if let Some(address) = self.share.take_in(frame) {
            self.share.put(address);
        }
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        let one = || self.first_socket().as_fd();
        Some(self.waiter.as_ref().map_or_else(one, OwnedFd::as_fd))
    }

    fn is_sending(&self) -> bool {
        self.transmitter.is_sending()
    }

    fn kernel_has_copy(&self) -> bool {
        false
    }

    /// Called every round, so the kernel is asked only now and then.
    fn missed(&mut self) -> u64 {
        if !std::mem::take(&mut self.check_due) {
            return 0;
        }
        let lost: u64 = self.sockets.iter().map(Socket::lost).sum();
        let since = lost.saturating_sub(self.lost);
        self.lost = self.lost.max(lost);
        since
    }
}

/// One descriptor that is readable when any of the sockets is.
fn epoll(sockets: &[Socket]) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    check(fd)?;
    // SAFETY: a fresh descriptor, owned by nobody else.
    let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
    for socket in sockets {
        let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: 0 };
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: a live event, which the kernel reads.
        check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket, &raw mut event) })?;
    }
    Ok(epoll)
}

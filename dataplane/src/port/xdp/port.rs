//! The AF_XDP port of one interface: the sockets that one worker polls.

#![allow(unsafe_code, reason = "takes frames out of the memory shared with the kernel, and calls epoll(7)")]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use pollgate_common::net::PortId;
use pollgate_common::time::Instant;

use super::super::device::{Device, OpenError, check};
use super::super::{Backlog, Frame, Origin, Port, Returned, Sent};
use super::checksum;
use super::program::Program;
use super::socket::Socket;
use super::transmit::Transmitter;
use super::umem::Share;
use crate::bpf::XdpMode;

/// Polls of the rings between two reads of the kernel's counters of lost frames: the number of empty polls, or of all polls.
/// Rarely enough to cost nothing, often enough for a graph.
const EMPTY_LOOKS_PER_CHECK: u32 = 64;
const LOOKS_PER_CHECK: u32 = 4096;

/// How a port's frames are moved.
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

/// A port on the AF_XDP sockets of one interface that one worker polls.
#[derive(Debug)]
pub struct XdpPort {
    /// The first socket also sends.
    sockets: Box<[Socket]>,
    queues: Box<[u32]>,
    /// The socket to poll first. It rotates, so that a busy queue does not delay the others.
    turn: usize,
    /// Number of chunks for receiving per socket. The other half is for frames being sent and for copies.
    filled: u32,
    share: Share,
    transmitter: Transmitter,
    /// An epoll descriptor over several sockets; `None` for one socket.
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
    pub(super) fn new(
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

    /// How the port's frames are moved.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn first_socket(&self) -> &Socket {
        &self.sockets[0]
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.queues.iter().copied().zip(self.sockets.iter().map(Socket::as_fd))
    }

    /// Takes up to `room` frames from a socket's receive ring.
    fn take(&mut self, at: usize, room: usize, into: &mut Vec<Frame>) {
        let socket = &mut self.sockets[at];
        let end = into.len() + room;
        while into.len() < end {
            let Some(entry) = socket.receive.pop() else { break };
            socket.posted = socket.posted.saturating_sub(1);
            // SAFETY: the chunk no longer belongs to the kernel: its descriptor has just left the receive ring.
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

    /// Gives a socket chunks for receiving.
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

    fn backlog(&mut self) -> Backlog {
        let filled = self.filled;
        let waiting = self.sockets.iter_mut().map(|socket| socket.receive.waiting());
        Backlog::of(waiting.max().unwrap_or(0), filled)
    }

    fn tx(&mut self, _now: Instant, batch: &mut Vec<Frame>, back: &mut Vec<Returned>) -> Sent {
        let Some(socket) = self.sockets.first_mut() else { return Sent::default() };
        self.transmitter.reap(socket, &mut self.share, back);
        self.transmitter.send((socket, &self.device), &mut self.share, batch, back)
    }

    fn release(&mut self, frame: Frame) {
        debug_assert_eq!(frame.origin(), Origin::Port(self.port), "the frame has another origin");
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

    /// Every chunk is free or waits for a frame.
    fn is_idle(&self) -> bool {
        let posted: u32 = self.sockets.iter().map(|socket| socket.posted).sum();
        self.transmitter.is_empty() && self.share.free() + posted == self.share.size()
    }

    /// Called per poll, so the kernel is asked only once in a while.
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

/// A descriptor that is readable when any of the sockets is.
fn epoll(sockets: &[Socket]) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    check(fd)?;
    // SAFETY: a new descriptor without another owner.
    let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
    for socket in sockets {
        let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: 0 };
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: the kernel only reads the event, which is alive.
        check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket, &raw mut event) })?;
    }
    Ok(epoll)
}

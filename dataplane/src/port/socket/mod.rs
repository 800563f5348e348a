//! The AF_PACKET socket that several kinds of port use: opening, options and statistics.
//!
//! ```text
//!  socket (no protocol: receives nothing) ─▶ options ─▶ the port's own ring ─▶ bind ─▶ join the workers' group
//! ```
//!
//! The kernel requires this order: the header option before any ring (EBUSY otherwise), the group only after binding.
//! Between the last two steps a socket would receive every frame of the device, which other workers receive already. A
//! filter refuses all frames in that time.
//!
//! With PACKET_VNET_HDR each frame has a `virtio_net_hdr`, so partial checksums stay partial and super-frames of up to 64 KB
//! stay in one piece (packet(7); linux/virtio_net.h).

mod fanout;
mod message;
mod tag;

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use pollgate_common::net::PortId;

use super::device::{Device, check, get};
pub(super) use super::device::{OpenError, set};
use crate::bpf::classic::Program;
use fanout::set_program;
pub use fanout::{Fanout, FanoutRules};
pub(super) use message::{Messages, Scope, verdict};
pub(super) use tag::{TAG_LEN, Tag, shifted};

/// How to open a port.
#[derive(Clone, Copy, Debug)]
pub struct PacketOptions<'a> {
    /// Name of the interface.
    pub interface: &'a str,
    /// The port's number in the configuration.
    pub port: PortId,
    /// Number of the worker, from 0, for messages. The order of opening decides which share of the frames a worker gets, so
    /// workers must open their ports in the order of their numbers.
    pub worker: u16,
    /// How many workers share the interface. If more than one, they join a group.
    pub workers: u16,
    /// The group to join; `None`: a new one. It must not be another opening's: io_uring closes its sockets late, and until then the kernel
    /// counts them among the members.
    pub group: Option<&'a Fanout>,
    /// The program with which the kernel chooses the worker. Without one it uses a hash of its own.
    pub fanout: Option<&'a Program>,
    /// Slots of the ring: 64 to 65536, rounded up to whole blocks of memory (128 KB each).
    pub ring_frames: u32,
}

/// Size of the socket's receive queue in bytes. (If small frames go to a ring, only super-frames go to the queue.) A size
/// above the kernel's limit (net.core.rmem_max) needs CAP_NET_ADMIN. With less, some super-frames of a burst are lost.
const RECEIVE_BUFFER: i32 = 16 << 20;
/// Size for sent frames that a device still has, in bytes. The kernel's limit is net.core.wmem_max.
const SEND_BUFFER: i32 = 4 << 20;

/// A port's own preparation of the socket before frames arrive. Gets the device's MTU.
type Prepare<'a, R> = &'a mut dyn FnMut(BorrowedFd<'_>, usize) -> Result<R, (&'static str, io::Error)>;

/// Opens the socket. If `blocking`, calls wait for frames unless a flag forbids it.
pub(super) fn open<R>(
    options: &PacketOptions<'_>,
    blocking: bool,
    prepare: Prepare<'_, R>,
) -> Result<(OwnedFd, R), OpenError> {
    let failed = |step| move |source| system(options, step, source);
    let socket = packet_socket(options, blocking)?;
    let device = Device::find(options.interface, options.worker)?;
    let index = device.index.cast_signed();
    configure(socket.as_fd()).map_err(failed("preparing a packet socket"))?;
    let prepared = prepare(socket.as_fd(), device.mtu).map_err(|(step, source)| failed(step)(source))?;
    if options.workers > 1 {
        refuse_all(socket.as_fd()).map_err(failed("setting a socket filter"))?;
    }
    bind(socket.as_fd(), index).map_err(failed("binding a packet socket"))?;
    if options.workers > 1 {
        join_group(socket.as_fd(), options).map_err(failed("joining the workers' fanout group"))?;
        accept_all(socket.as_fd()).map_err(failed("removing a socket filter"))?;
    }
    Ok((socket, prepared))
}

/// The error of a failed step.
pub(super) fn system(options: &PacketOptions<'_>, step: &'static str, source: io::Error) -> OpenError {
    OpenError::System { interface: options.interface.to_owned(), worker: options.worker, step, source }
}

fn packet_socket(options: &PacketOptions<'_>, blocking: bool) -> Result<OwnedFd, OpenError> {
    raw_socket(blocking).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => OpenError::NotPermitted { interface: options.interface.to_owned() },
        _ => system(options, "creating a packet socket", error),
    })
}

/// An AF_PACKET socket without a protocol: until it is bound to one it receives nothing.
#[allow(unsafe_code, reason = "socket(2) returns a raw descriptor")]
pub(super) fn raw_socket(blocking: bool) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | if blocking { 0 } else { libc::SOCK_NONBLOCK };
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    check(fd)?;
    // SAFETY: a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn configure(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32)?;
    set(socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
    grow(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
    grow(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)
}

/// Sets the wanted size if allowed, otherwise the kernel's limit.
fn grow(socket: BorrowedFd<'_>, forced: libc::c_int, plain: libc::c_int, bytes: i32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, forced, &bytes).or_else(|_| set(socket, libc::SOL_SOCKET, plain, &bytes))
}

fn refuse_all(socket: BorrowedFd<'_>) -> io::Result<()> {
    let code = u16::try_from(libc::BPF_RET | libc::BPF_K).unwrap_or(0);
    let mut refuse = libc::sock_filter { code, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut refuse };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn accept_all(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0i32)
}

#[allow(unsafe_code, reason = "bind(2) takes a raw pointer")]
fn bind(socket: BorrowedFd<'_>, index: i32) -> io::Result<()> {
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(0).to_be();
    address.sll_ifindex = index;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the address is alive and has the given length.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

/// Joins the workers' group, or makes it with a number that no other group has. A flag of the group makes it ignore our own frames:
/// inside a group the socket's own option has no effect.
fn join_group(socket: BorrowedFd<'_>, options: &PacketOptions<'_>) -> io::Result<()> {
    let kind = if options.fanout.is_some() { libc::PACKET_FANOUT_CBPF } else { libc::PACKET_FANOUT_HASH };
    let mode = kind | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    let (number, mode) = match options.group {
        Some(group) => (group.number()?, mode),
        None => (0, mode | libc::PACKET_FANOUT_FLAG_UNIQUEID),
    };
    set(socket, libc::SOL_PACKET, libc::PACKET_FANOUT, &(number | mode << 16))?;
    options.fanout.map_or(Ok(()), |program| set_program(socket, program))
}

/// Reads an error that was left on the socket (a link that went down). Until it is read the socket looks readable.
pub(super) fn clear_error(socket: BorrowedFd<'_>) {
    let mut error = 0i32;
    // An error of this call itself cannot be handled.
    let _ = get(socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut error);
}

/// Number of frames that the kernel dropped because the ring was full, since the last call.
pub(super) fn dropped_by_kernel(socket: BorrowedFd<'_>) -> u64 {
    let mut counts = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    match get(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut counts) {
        Ok(()) => u64::from(counts.tp_drops),
        Err(_) => 0,
    }
}

//! AF_XDP sockets, one per receive queue, and all their system calls.
//!
//! ```text
//!  socket ─▶ frame memory (first socket only) ─▶ ring sizes ─▶ map rings ─▶ bind to (interface, queue)
//! ```
//!
//! The first socket registers the worker's memory and chooses the mode. The others share both (binding with XDP_SHARED_UMEM
//! accepts no mode of its own).

#![allow(unsafe_code, reason = "socket calls take raw pointers and descriptors")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::super::device::{check, get, set};
use super::ring::{Consumer, Producer};
use super::umem::Umem;

/// Entries of unused rings: a socket that only receives has no completions.
const UNUSED: u32 = 64;
/// Maximum bytes of frames that the kernel may be sending. Beyond it, kicks return EAGAIN.
const SEND_BUFFER: i32 = 4 << 20;
/// How long a busy-polling call may poll for frames, in microseconds, and how many it may take.
const BUSY_POLL: i32 = 20;
const BUSY_POLL_BUDGET: i32 = 64;

/// The source of a socket's memory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Memory<'a> {
    /// The socket registers the memory.
    Register {
        /// The frame memory.
        umem: &'a Umem,
        /// Whether the kernel must copy. Zero copy is then not tried.
        copy: bool,
    },
    /// The socket shares the memory of this one.
    Share(BorrowedFd<'a>),
}

/// An AF_XDP socket with its rings.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) receive: Consumer<libc::xdp_desc>,
    pub(super) fill: Producer<u64>,
    /// Number of chunks that the kernel has for receiving, including received frames that were not taken yet.
    pub(super) posted: u32,
    pub(super) completion: Consumer<u64>,
    /// The transmit ring, for a socket that sends.
    pub(super) transmit: Option<Producer<libc::xdp_desc>>,
    fd: OwnedFd,
}

impl Socket {
    /// An unbound socket with `entries` entries in each ring that is used.
    pub(super) fn new(memory: Memory<'_>, entries: u32, sends: bool, busy_poll: bool) -> io::Result<Socket> {
        let xdp = libc::SOL_XDP;
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: a new descriptor without another owner.
        let owner = unsafe { OwnedFd::from_raw_fd(fd) };
        let fd = owner.as_fd();
        if let Memory::Register { umem, .. } = memory {
            set(fd, xdp, libc::XDP_UMEM_REG, &umem.registration())?;
        }
        let completions = if sends { entries } else { UNUSED };
        set(fd, xdp, libc::XDP_UMEM_FILL_RING, &entries)?;
        set(fd, xdp, libc::XDP_UMEM_COMPLETION_RING, &completions)?;
        set(fd, xdp, libc::XDP_RX_RING, &entries)?;
        let at = offsets(fd)?;
        let (fill, completion) = (libc::XDP_UMEM_PGOFF_FILL_RING, libc::XDP_UMEM_PGOFF_COMPLETION_RING);
        let transmit = match sends {
            true => {
                set(fd, xdp, libc::XDP_TX_RING, &entries)?;
                grow_send_buffer(fd)?;
                Some(Producer::map(fd, entries, libc::XDP_PGOFF_TX_RING, &at.tx)?)
            }
            false => None,
        };
        if busy_poll {
            prefer_busy_poll(fd)?;
        }
        Ok(Socket {
            receive: Consumer::map(fd, entries, libc::XDP_PGOFF_RX_RING, &at.rx)?,
            fill: Producer::map(fd, entries, fill.cast_signed(), &at.fr)?,
            completion: Consumer::map(fd, completions, completion.cast_signed(), &at.cr)?,
            posted: 0,
            transmit,
            fd: owner,
        })
    }

    /// Binds the socket. Fails with EBUSY while the kernel still removes the queue's previous socket.
    pub(super) fn bind(&self, memory: Memory<'_>, interface: u32, queue: u32) -> io::Result<()> {
        let (flags, shared) = match memory {
            Memory::Register { copy, .. } => (libc::XDP_USE_NEED_WAKEUP | if copy { libc::XDP_COPY } else { 0 }, None),
            Memory::Share(with) => (libc::XDP_SHARED_UMEM, Some(with.as_raw_fd().cast_unsigned())),
        };
        let address = libc::sockaddr_xdp {
            sxdp_family: u16::try_from(libc::AF_XDP).unwrap_or(0),
            sxdp_flags: flags,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: shared.unwrap_or(0),
        };
        let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
        // SAFETY: the address is alive and has the given length.
        check(unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), length) })
    }

    /// Whether the driver reads and writes the frame memory itself.
    pub(super) fn is_zero_copy(&self) -> bool {
        let mut options = libc::xdp_options { flags: 0 };
        get(self.as_fd(), libc::SOL_XDP, libc::XDP_OPTIONS, &mut options).is_ok()
            && options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0
    }

    /// Makes the kernel process the transmit ring.
    pub(super) fn kick(&self) -> Result<(), i32> {
        // SAFETY: no data and no address, so the kernel reads no memory.
        let sent =
            unsafe { libc::sendto(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        if sent < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { Ok(()) }
    }

    /// Makes the driver process the fill ring and, with busy polling, poll the device.
    pub(super) fn kick_receive(&self) {
        let null = std::ptr::null_mut();
        // SAFETY: no buffer and no address, so the kernel writes no memory. The result is not needed: the ring shows what
        // has arrived.
        unsafe { libc::recvfrom(self.fd.as_raw_fd(), null, 0, libc::MSG_DONTWAIT, null.cast(), null.cast()) };
    }

    /// Number of frames for this socket that did not get into its ring since it was made: no free chunk, too long for a
    /// chunk (both `rx_dropped`), or the ring was full. `rx_fill_ring_empty_descs` must not be added: in copy mode it counts
    /// the frames without a chunk again, and in zero-copy mode it counts the driver's attempts, not frames.
    pub(super) fn lost(&self) -> u64 {
        let mut counts = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        match get(self.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS, &mut counts) {
            Ok(()) => counts.rx_dropped + counts.rx_ring_full,
            Err(_) => 0,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn offsets(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    const ZERO: libc::xdp_ring_offset = libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = libc::xdp_mmap_offsets { rx: ZERO, tx: ZERO, fr: ZERO, cr: ZERO };
    get(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    Ok(offsets)
}

/// Sets the wanted size if allowed, otherwise the kernel's limit.
fn grow_send_buffer(fd: BorrowedFd<'_>) -> io::Result<()> {
    let (level, size) = (libc::SOL_SOCKET, &SEND_BUFFER);
    set(fd, level, libc::SO_SNDBUFFORCE, size).or_else(|_| set(fd, level, libc::SO_SNDBUF, size))
}

fn prefer_busy_poll(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1i32)?;
    set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &BUSY_POLL)?;
    set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &BUSY_POLL_BUDGET)
}

//! Properties of network devices, read before a port is opened on them, and the reasons why a port cannot be opened.
//!
//! `unsafe` here: system calls that take addresses.

#![allow(unsafe_code, reason = "socket options and if_nameindex(3) are raw pointers")]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use pollgate_common::net::Mac;

use crate::ethtool::Interface;

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No interface has this name.
    #[error(
        "the interface {interface:?} does not exist; the host has {}: correct interfaces[].name or create it",
        present.join(", ")
    )]
    NoInterface {
        /// The name.
        interface: String,
        /// The names of the interfaces that exist.
        present: Vec<String>,
    },
    /// The interface is not Ethernet: it has no MAC addresses and no ARP.
    #[error(
        "the interface {interface} is not an Ethernet device (its type is {kind}, ARPHRD_ETHER is 1): pollgate polls \
         only Ethernet"
    )]
    NotEthernet {
        /// The interface.
        interface: String,
        /// Its ARPHRD_ number (linux/if_arp.h).
        kind: u16,
    },
    /// CAP_NET_RAW is missing.
    #[error(
        "opening a packet socket on {interface} needs CAP_NET_RAW: run as root, or `setcap \
         cap_net_raw,cap_net_admin+ep` the program, or give the service AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// The interface.
        interface: String,
    },
    /// CAP_BPF, CAP_NET_ADMIN or CAP_NET_RAW is missing for AF_XDP.
    #[error(
        "{step} needs CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW in the initial user namespace: run as root, or give the \
         service AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK, or use backend: packet"
    )]
    XdpNotPermitted {
        /// The failed step.
        step: &'static str,
    },
    /// The kernel does not support AF_XDP, or lacks a part that is needed.
    #[error("{step}: {source}; AF_XDP ports need Linux 5.10 or later with CONFIG_XDP_SOCKETS: use backend: packet")]
    XdpMissing {
        /// The failed step.
        step: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel supports AF_XDP, but a step failed.
    #[error("{step}: {source}")]
    Xdp {
        /// The failed step.
        step: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The interface already has an XDP program.
    #[error(
        "{interface} already has an XDP program (`ip link show {interface}` and `bpftool net` show it): stop the \
         program that attached it, or `ip link set {interface} xdp off`, or use backend: packet"
    )]
    ProgramAttached {
        /// The interface.
        interface: String,
    },
    /// The kernel refused the steering program.
    #[error("loading the steering program for {interface}: {source}")]
    Program {
        /// The interface.
        interface: String,
        /// The kernel's error and the verifier's reasons.
        source: crate::bpf::LoadError,
    },
    /// More workers than receive queues.
    #[error(
        "{interface} has {queues} receive queue{} and {workers} workers would poll it, but an AF_XDP socket receives \
         from only one queue: use fewer workers, more queues (ethtool -L {interface} combined {workers}; for a veth \
         pair: numrxqueues when it is created), or backend: packet", if *queues == 1 { "" } else { "s" }
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
        /// Number of receive queues.
        queues: u32,
        /// Number of workers.
        workers: u16,
    },
    /// A frame of this size does not fit a chunk of the frame memory.
    #[error(
        "the MTU of {interface} is {mtu}, but an AF_XDP port supports at most {most}: ip link set {interface} mtu \
         {most}, or use backend: packet"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: usize,
        /// The largest MTU that fits.
        most: usize,
    },
    /// Another AF_XDP socket uses a queue.
    #[error(
        "receive queue {queue} of {interface} is still in use by another AF_XDP socket after {waited} ms: stop the \
         program that uses it (`ss --xdp` shows it)"
    )]
    QueueTaken {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// How long binding was tried, in milliseconds.
        waited: u64,
    },
    /// io_uring is disabled, or forbidden for this process.
    #[error(
        "polling {interface} through io_uring: {source}: the sysctl kernel.io_uring_disabled must be 0 (2 forbids it \
         to all users, 1 to users outside kernel.io_uring_group), and a container's seccomp profile must allow it; or \
         set interfaces[].backend to packet, which does not need it"
    )]
    NoUring {
        /// The interface.
        interface: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error("{step} on {interface} (worker {worker}): {source}")]
    System {
        /// The interface.
        interface: String,
        /// The worker.
        worker: u16,
        /// The failed step.
        step: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

impl OpenError {
    /// An AF_XDP step failed that does not concern one interface: the process lacks a right, the kernel lacks support, or
    /// there is another reason.
    pub(super) fn xdp(step: &'static str, source: io::Error) -> OpenError {
        const UNKNOWN: [i32; 6] = [
            libc::EINVAL,
            libc::ENOSYS,
            libc::EOPNOTSUPP,
            libc::ENOPROTOOPT,
            libc::EAFNOSUPPORT,
            libc::EPROTONOSUPPORT,
        ];
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError::XdpNotPermitted { step },
            Some(error) if UNKNOWN.contains(&error) => OpenError::XdpMissing { step, source },
            _ => OpenError::Xdp { step, source },
        }
    }
}

/// The properties of an Ethernet device when it was looked up.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) mtu: usize,
    pub(super) mac: Mac,
    interface: Interface,
}

impl Device {
    /// The device of that name; `worker` is for messages.
    pub(super) fn find(name: &str, worker: u16) -> Result<Device, OpenError> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::ENODEV) => OpenError::NoInterface { interface: name.to_owned(), present: interfaces() },
            _ => OpenError::System { interface: name.to_owned(), worker, step: "looking up the device", source },
        };
        let interface = Interface::new(name).map_err(failed)?;
        let index = interface.index().map_err(failed)?;
        let (kind, mac) = interface.hardware_address().map_err(failed)?;
        if kind != libc::ARPHRD_ETHER {
            return Err(OpenError::NotEthernet { interface: name.to_owned(), kind });
        }
        let mtu = interface.mtu().map_err(failed)? as usize;
        Ok(Device { name: name.to_owned(), index, mtu, mac, interface })
    }

    /// Whether it is up and has a carrier now.
    pub(super) fn is_running(&self) -> bool {
        self.interface.is_running().unwrap_or(false)
    }

    /// The driver's name; empty if the driver does not report it.
    pub(super) fn driver(&self) -> String {
        self.interface.driver().map_or_else(|_| String::new(), |(driver, _)| driver)
    }

    /// How many receive queues it has now; 1 if the driver does not report it.
    pub(super) fn receive_queues(&self) -> u32 {
        self.interface.queues().ok().flatten().map_or(1, |queues| queues.now.max(1))
    }

    /// Whether it takes VLAN tags out of received frames, so that they are not in the bytes.
    pub(super) fn strips_tags(&self) -> bool {
        self.interface.strips_tags().unwrap_or(false)
    }
}

/// The names of all interfaces in this network namespace.
fn interfaces() -> Vec<String> {
    // SAFETY: no arguments. The result is null, or an array that ends with index 0 and is freed below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Vec::new();
    }
    let mut names = Vec::new();
    let mut at = list;
    // SAFETY: every entry before the one with index 0 has a name that ends in NUL. The list is freed once, after use.
    unsafe {
        while (*at).if_index != 0 {
            names.push(CStr::from_ptr((*at).if_name).to_string_lossy().into_owned());
            at = at.add(1);
        }
        libc::if_freenameindex(list);
    }
    names
}

/// Sets a socket option.
pub(super) fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the value is alive and has the given length. The kernel only reads it.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length) })
}

/// Reads a socket option. `T` must consist of plain numbers, because the kernel may write any bytes to it.
pub(super) fn get<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    let value = std::ptr::from_mut(value).cast();
    // SAFETY: the value is alive and has the given length. The kernel writes no more than that.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value, &raw mut length) })
}

/// Turns the result of a system call into a `Result` with the error from errno.
pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

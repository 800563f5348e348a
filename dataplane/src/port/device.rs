//! Properties of network devices, read by ioctl before a port is opened on them, and the reasons why a port cannot be opened.
//!
//! All requests apply to the calling thread's network namespace. `/sys` is not used: it shows the namespace in which it was
//! mounted (netdevice(7); linux/ethtool.h).
//!
//! `unsafe` here: the requests are unions and contain addresses.

#![allow(unsafe_code, reason = "ioctl(2) takes unions and raw pointers")]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use pollgate_common::net::Mac;

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
    control: OwnedFd,
}

impl Device {
    /// The device with this name. `worker` is for messages.
    pub(super) fn find(name: &str, worker: u16) -> Result<Device, OpenError> {
        let missing = || OpenError::NoInterface { interface: name.to_owned(), present: interfaces() };
        let failed = |source| {
            let step = "looking up the device";
            OpenError::System { interface: name.to_owned(), worker, step, source }
        };
        let control = control_socket().map_err(failed)?;
        let mut request = request(name).ok_or_else(missing)?;
        match ask(control.as_fd(), libc::SIOCGIFINDEX, &mut request) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Err(missing()),
            other => other.map_err(failed)?,
        }
        // SAFETY: SIOCGIFINDEX has just written this member.
        let index = unsafe { request.ifr_ifru.ifru_ifindex }.cast_unsigned();
        ask(control.as_fd(), libc::SIOCGIFHWADDR, &mut request).map_err(failed)?;
        // SAFETY: SIOCGIFHWADDR has just written this member.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(OpenError::NotEthernet { interface: name.to_owned(), kind: address.sa_family });
        }
        let mac = Mac(std::array::from_fn(|at| address.sa_data[at].cast_unsigned()));
        ask(control.as_fd(), libc::SIOCGIFMTU, &mut request).map_err(failed)?;
        // SAFETY: SIOCGIFMTU has just written this member.
        let mtu = usize::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0);
        Ok(Device { name: name.to_owned(), index, mtu, mac, control })
    }

    /// Whether it is up and has carrier now.
    pub(super) fn is_running(&self) -> bool {
        const WANTED: libc::c_int = libc::IFF_UP | libc::IFF_RUNNING;
        let Some(mut request) = request(&self.name) else { return false };
        if ask(self.control.as_fd(), libc::SIOCGIFFLAGS, &mut request).is_err() {
            return false;
        }
        // SAFETY: SIOCGIFFLAGS has just written this member.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        flags & WANTED == WANTED
    }

    /// The driver's name; empty if the driver does not report it.
    pub(super) fn driver(&self) -> String {
        let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        // SAFETY: the command reads and writes `struct ethtool_drvinfo`, 196 bytes.
        match unsafe { self.ethtool(&mut info) } {
            Ok(()) => info.driver.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte)).collect(),
            Err(_) => String::new(),
        }
    }

    /// Current number of receive queues; 1 if the driver does not report it.
    pub(super) fn receive_queues(&self) -> u32 {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        // SAFETY: the command reads and writes `struct ethtool_channels`.
        match unsafe { self.ethtool(&mut channels) } {
            Ok(()) => (channels.receive + channels.combined).max(1),
            Err(_) => 1,
        }
    }

    /// Whether the device removes VLAN tags from received frames, so that they are not in the frame's bytes.
    pub(super) fn strips_tags(&self) -> bool {
        const RECEIVE_VLAN: u32 = 1 << 8;
        let mut flags = [ETHTOOL_GFLAGS, 0u32];
        // SAFETY: the command reads and writes `struct ethtool_value`, which is two numbers.
        unsafe { self.ethtool(&mut flags) }.is_ok() && flags[1] & RECEIVE_VLAN != 0
    }

    /// # Safety
    /// `value` must be the structure that its command (its first number) reads and writes.
    unsafe fn ethtool<T>(&self, value: &mut T) -> io::Result<()> {
        let mut request = request(&self.name).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        request.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
        // SAFETY: the request points to a live structure of the right kind, guaranteed by the caller.
        let result = unsafe { libc::ioctl(self.control.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        check(result)
    }
}

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_drvinfo`; only the driver's name is read.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`: the maximum numbers, then the current ones.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    most: [u32; 4],
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An interface request for a name; `None` if the name is not a valid interface name.
fn request(interface: &str) -> Option<libc::ifreq> {
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = interface.as_bytes();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(&0) {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    Some(request)
}

fn ask(socket: BorrowedFd<'_>, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the SIOCGIF… calls used here read the name and write one member of a live ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_mut(request)) })
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

//! Offload switches of an interface, by the ethtool ioctl (linux/ethtool.h), in the current network namespace.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What a device can do for its host, or leave to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadSwitch {
    /// Transmit checksums: off means the sender's kernel writes complete ones.
    TxChecksum,
    /// TCP segmentation: off means the sender's kernel cuts super-frames up.
    Tso,
    /// Segmentation in the kernel, just before the driver.
    Gso,
    /// Merging of received segments.
    Gro,
}

impl OffloadSwitch {
    /// ETHTOOL_G… and ETHTOOL_S… of linux/ethtool.h.
    fn commands(self) -> (u32, u32) {
        match self {
            OffloadSwitch::TxChecksum => (0x16, 0x17),
            OffloadSwitch::Tso => (0x1e, 0x1f),
            OffloadSwitch::Gso => (0x23, 0x24),
            OffloadSwitch::Gro => (0x2b, 0x2c),
        }
    }
}

/// Sets one.
pub(crate) fn set(interface: &str, switch: OffloadSwitch, on: bool) -> io::Result<()> {
    call(interface, Value { command: switch.commands().1, data: u32::from(on) }).map(drop)
}

/// Reads one.
pub(crate) fn is_on(interface: &str, switch: OffloadSwitch) -> io::Result<bool> {
    Ok(call(interface, Value { command: switch.commands().0, data: 0 })?.data != 0)
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

fn call(interface: &str, mut value: Value) -> io::Result<Value> {
    let name = interface.as_bytes();
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = socket()?;
    // SAFETY: the request points to `value`, the ethtool_value these commands read and write; both outlive the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

//! Whether the kernel lets this process use eBPF for AF_XDP: tried, because nothing else is sure.
//!
//! CAP_BPF is not enough inside a user namespace, lockdown and seccomp profiles forbid it too, and a kernel may have been
//! built without AF_XDP. So the map that a steering program needs is made and closed again at once; it touches no packet.

use std::io;
use std::mem::size_of;
use std::os::fd::{FromRawFd, OwnedFd};

/// The head of `union bpf_attr` for BPF_MAP_CREATE (linux/bpf.h).
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// Makes a map of AF_XDP sockets and closes it.
pub(super) fn try_socket_map() -> io::Result<()> {
    const MAP_CREATE: libc::c_long = 0;
    const XSKMAP: u32 = 17;
    let attributes = MapCreate { map_type: XSKMAP, key_size: 4, value_size: 4, max_entries: 1, map_flags: 0 };
    let size = size_of::<MapCreate>();
    // SAFETY: the attributes live through the call and are as long as said; the kernel takes the rest as zero.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, &raw const attributes, size) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor, owned by nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// What to tell an operator of a failure.
pub(super) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "the kernel refuses eBPF to this process: it needs CAP_BPF and CAP_NET_ADMIN outside of any user namespace"
                .to_owned()
        }
        Some(libc::EINVAL | libc::ENOSYS) => "this kernel was built without AF_XDP or without eBPF".to_owned(),
        _ => format!("the kernel refuses a map of AF_XDP sockets: {error}"),
    }
}

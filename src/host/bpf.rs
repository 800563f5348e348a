//! Whether the kernel lets this process use eBPF for AF_XDP: tried, because no other check is reliable.
//!
//! CAP_BPF is not enough inside a user namespace, lockdown and seccomp profiles forbid it too, and a kernel may have been
//! built without AF_XDP. So the map that a steering program needs is made and closed again at once; it touches no packet.

use std::io;

use pollgate_dataplane::bpf;

/// Whether it does; if not, the reason for the operator.
pub(super) fn permitted() -> Result<(), String> {
    bpf::permitted().map_err(|error| reason(&error))
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "the kernel does not permit eBPF to this process: it needs CAP_BPF and CAP_NET_ADMIN outside of any user \
             namespace"
                .to_owned()
        }
        Some(libc::EINVAL | libc::ENOSYS) => "this kernel was built without AF_XDP or without eBPF".to_owned(),
        _ => format!("the kernel refuses a map of AF_XDP sockets: {error}"),
    }
}

//! Whether the kernel lets this process use eBPF for AF_XDP: tried, because no other check is reliable.
//!
//! CAP_BPF is not enough inside a user namespace, lockdown and seccomp profiles forbid it too, and a kernel may have been
//! built without AF_XDP. So the map that a steering program needs is made and closed again at once; it touches no packet.

use std::io;

use pollgate_dataplane::bpf;

use super::capability::{self, CapabilitySet, Need, XDP};

/// Whether it does, for ports that lock so much memory; if not, the reason for the operator.
pub(super) fn permitted(locked_memory: u64) -> Result<(), String> {
    lacking(capability::effective(locked_memory).unwrap_or(CapabilitySet::empty()), locked_memory)?;
    bpf::permitted().map_err(|error| reason(&error))
}

/// What the map does not show: the verifier needs CAP_PERFMON only for the program, and sockets need others.
fn lacking(has: CapabilitySet, locked_memory: u64) -> Result<(), String> {
    let name = |need: &Need| match need.capability {
        CapabilitySet::IPC_LOCK => {
            format!("{} (or LimitMEMLOCK={}M, for all workers and interfaces)", need.name, locked_memory >> 20)
        }
        _ => need.name.to_owned(),
    };
    let names: Vec<String> = XDP.iter().filter(|need| !has.contains(need.capability)).map(name).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(format!("AF_XDP also needs {}, which this process does not have", names.join(" and ")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_that_is_missing_is_named() {
        let all = capability::set(XDP);
        assert_eq!(lacking(all, 64 << 20), Ok(()));
        assert_eq!(
            lacking(all - CapabilitySet::PERFMON - CapabilitySet::BPF, 64 << 20),
            Err("AF_XDP also needs CAP_BPF and CAP_PERFMON, which this process does not have".to_owned())
        );
        assert_eq!(
            lacking(all - CapabilitySet::IPC_LOCK, 64 << 20),
            Err("AF_XDP also needs CAP_IPC_LOCK (or LimitMEMLOCK=64M, for all workers and interfaces), which this process does not have"
                .to_owned())
        );
    }
}

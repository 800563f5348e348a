//! Which capabilities (capabilities(7)) a gateway needs, and what for: the one list that the check, the process itself and
//! the documentation go by.

use std::fmt;
use std::io;

use rustix::process::{Resource, getrlimit};
pub use rustix::thread::CapabilitySet;
use rustix::thread::capabilities;

use crate::config::{Backend, Config};

/// A capability, and what needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// One bit.
    pub capability: CapabilitySet,
    /// `CAP_…`.
    pub name: &'static str,
    /// What needs it.
    pub purpose: &'static str,
}

const NET_RAW: Need = Need { capability: CapabilitySet::NET_RAW, name: "CAP_NET_RAW", purpose: "packet sockets" };
const NET_ADMIN: Need =
    Need { capability: CapabilitySet::NET_ADMIN, name: "CAP_NET_ADMIN", purpose: "large socket buffers" };

/// Frame memory of an AF_XDP port, in bytes, at most.
const FRAME_MEMORY: u64 = 16 << 20;

/// Every gateway, whatever its ports are.
pub const GATEWAY: &[Need] = &[
    Need { purpose: "announcing addresses", ..NET_RAW },
    Need { purpose: "resolving neighbours and making the host pair", ..NET_ADMIN },
];

/// A port of AF_PACKET, with rings or through io_uring.
pub const PACKET: &[Need] = &[NET_RAW, NET_ADMIN];

/// A port of AF_XDP.
pub const XDP: &[Need] = &[
    Need { purpose: "AF_XDP sockets", ..NET_RAW },
    Need { purpose: "attaching the steering program", ..NET_ADMIN },
    Need { capability: CapabilitySet::BPF, name: "CAP_BPF", purpose: "loading the steering program" },
    // It reads packets at variable offsets, which the verifier allows nobody else.
    Need { capability: CapabilitySet::PERFMON, name: "CAP_PERFMON", purpose: "having the steering program verified" },
    Need {
        capability: CapabilitySet::IPC_LOCK,
        name: "CAP_IPC_LOCK",
        purpose: "locked frame memory, 16 MiB per worker and interface",
    },
];

/// The capabilities without which a port of this kind cannot be opened. `auto` opens a packet port if it lacks any of the others.
pub fn required(backend: Backend) -> &'static [Need] {
    match backend {
        Backend::Auto | Backend::Packet | Backend::Uring => PACKET,
        Backend::Xdp => XDP,
    }
}

/// The capabilities that a port of this kind may use.
pub fn usable(backend: Backend) -> CapabilitySet {
    match backend {
        Backend::Packet | Backend::Uring => set(PACKET),
        Backend::Auto | Backend::Xdp => set(PACKET) | set(XDP),
    }
}

/// How much memory the ports of so many workers lock, in bytes, if every interface that may be polled by AF_XDP is. Nothing else is
/// locked: neither rings nor flow tables count.
pub fn locked_memory(ports: &[(&str, Backend)], workers: usize) -> u64 {
    let may_be = |backend: &Backend| matches!(backend, Backend::Auto | Backend::Xdp);
    let interfaces = ports.iter().filter(|(_, backend)| may_be(backend)).count();
    FRAME_MEMORY.saturating_mul(interfaces as u64).saturating_mul(workers as u64)
}

/// The calling thread's effective capabilities. A limit that allows it to lock that much memory counts as CAP_IPC_LOCK.
///
/// # Errors
/// The system's.
pub fn effective(locked_memory: u64) -> io::Result<CapabilitySet> {
    let has = capabilities(None)?.effective;
    let may_lock = getrlimit(Resource::Memlock).current.is_none_or(|limit| limit >= locked_memory);
    Ok(if may_lock { has | CapabilitySet::IPC_LOCK } else { has })
}

/// What the ports of this configuration may use, and the gateway itself.
pub fn of_gateway(config: &Config) -> CapabilitySet {
    config.interfaces.iter().fold(set(GATEWAY), |all, interface| all | usable(interface.backend))
}

/// All of them in one set.
pub fn set(needs: &[Need]) -> CapabilitySet {
    needs.iter().fold(CapabilitySet::empty(), |set, need| set | need.capability)
}

/// A capability that the process lacks, with everything that needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// `CAP_…`.
    pub name: &'static str,
    /// What needs it, and for which interfaces.
    pub users: Vec<String>,
    /// All that the gateway needs, for a command that adds them.
    pub all: Vec<&'static str>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, users, all) = (self.name, self.users.join("; "), self.all.join(" "));
        let file = all.to_lowercase().replace(' ', ",");
        write!(
            f,
            "{name} is missing ({users}): run as root, or `setcap {file}+ep` the program, or set AmbientCapabilities={all} in the \
             systemd unit"
        )
    }
}

/// What a process with the effective capabilities `has` lacks: `ports` are the names of interfaces and how they are polled.
pub fn missing(has: CapabilitySet, ports: &[(&str, Backend)]) -> Vec<Missing> {
    // Each need once, with the interfaces that have it; the gateway's own have none.
    let mut needs: Vec<(Need, Vec<&str>)> = GATEWAY.iter().map(|need| (*need, Vec::new())).collect();
    for &(interface, backend) in ports {
        for need in required(backend) {
            match needs.iter_mut().find(|(other, _)| other == need) {
                Some((_, interfaces)) => interfaces.push(interface),
                None => needs.push((*need, vec![interface])),
            }
        }
    }
    let mut all: Vec<&'static str> = Vec::new();
    for (need, _) in &needs {
        if !all.contains(&need.name) {
            all.push(need.name);
        }
    }
    let is_lacking = |name: &&str| needs.iter().any(|(need, _)| need.name == *name && !has.contains(need.capability));
    let users = |name| needs.iter().filter(|(need, _)| need.name == name).map(user).collect();
    all.iter()
        .filter(|name| is_lacking(name))
        .map(|name| Missing { name, users: users(*name), all: all.clone() })
        .collect()
}

fn user((need, interfaces): &(Need, Vec<&str>)) -> String {
    if interfaces.is_empty() {
        need.purpose.to_owned()
    } else {
        format!("{} on {}", need.purpose, interfaces.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_that_may_be_of_af_xdp_locks_memory_for_every_worker() {
        let ports =
            [("eth1", Backend::Xdp), ("eth2", Backend::Packet), ("eth3", Backend::Auto), ("eth4", Backend::Uring)];
        assert_eq!(locked_memory(&ports, 3), 3 * 2 * (16 << 20));
        assert_eq!(locked_memory(&ports[..1], 1), 16 << 20);
        assert_eq!(locked_memory(&ports[1..2], 8), 0);
    }

    #[test]
    fn each_missing_capability_is_named_with_its_ports_and_what_to_do() {
        let ports = [("eth1", Backend::Xdp), ("eth2", Backend::Packet), ("eth3", Backend::Auto)];
        assert_eq!(missing(set(PACKET) | set(XDP), &ports), []);
        assert_eq!(missing(set(PACKET), &[("eth1", Backend::Auto)]), [], "it is polled by packet then");
        let told: Vec<String> = missing(CapabilitySet::NET_ADMIN, &ports).iter().map(ToString::to_string).collect();
        let start: Vec<&str> = told.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(start, ["CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON", "CAP_IPC_LOCK"]);
        assert_eq!(
            told[0],
            "CAP_NET_RAW is missing (announcing addresses; AF_XDP sockets on eth1; packet sockets on eth2, eth3): run as root, or `setcap \
             cap_net_raw,cap_net_admin,cap_bpf,cap_perfmon,cap_ipc_lock+ep` the program, or set \
             AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN CAP_BPF CAP_PERFMON CAP_IPC_LOCK in the systemd unit"
        );
    }
}

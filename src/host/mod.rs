//! What must be true of the host before a worker polls, and the CPUs that workers may have.
//!
//! ```text
//!  interfaces exist, are up, are Ethernet? ─┐
//!  the capabilities of its ports?           ├─▶ all faults at once, each with what to do ─▶ refuse
//!  the kernel does not forward there?       │
//!  no owned address is the kernel's?       ─┘
//! ```
//!
//! On AF_PACKET the kernel sees every frame that the workers see. It must not act on those for owned addresses: it
//! does not, because the addresses are not its own and because it does not forward. An interface that forwards would
//! send each packet for a Service on a second time, untranslated.
//!
//! **Forwarding** is switched off only if set in the configuration, and stays off when pollgate ends. If it were switched
//! on again, the kernel would route Service traffic untranslated during every restart. The key is a declaration about the
//! host, like a line in sysctl.conf.
//!
//! Everything is read from the calling thread's network namespace: through sockets and /proc/sys/net, not /sys, which
//! shows the namespace it was mounted in.
//!
//! What need not be true but should be is [advice](advise); [`choose`] says how an interface is polled.

pub mod advise;
mod bpf;
pub mod capability;
mod choose;
mod cpu;
mod cpulist;
mod files;
mod machine;
mod netdev;
pub(crate) mod netlink;
mod nic;
pub mod pair;
mod query;
pub mod resolv;
#[cfg(test)]
pub(crate) mod sample;

use std::fmt;
use std::io;
use std::net::IpAddr;

use capability::Missing;
pub use choose::{Choice, Copying, Mode, choose};
pub use cpu::{allowed_cpus, pin_to_cpu, worker_cpus};
pub use files::allow_open_files;
pub use machine::{Cpu, Machine};
pub use netdev::XdpFeatures;
pub use nic::{Interrupt, Nic, receive_queues};
pub use pollgate_dataplane::ethtool::{Feature, OffloadSwitch, Queues, Rings};
use query::Interface;

use crate::config::{Backend, Config};

/// What pollgate needs of the host.
#[derive(Clone, Debug)]
pub struct Needs<'a> {
    /// Interfaces to be polled, and how.
    pub interfaces: Vec<(&'a str, Backend)>,
    /// Addresses pollgate owns from the start.
    pub owned: Vec<IpAddr>,
    /// Whether forwarding may be switched off on these interfaces.
    pub disable_forwarding: bool,
}

impl Needs<'_> {
    /// How much memory their ports lock with so many workers, in bytes, at most.
    pub fn locked_memory(&self, workers: usize) -> u64 {
        capability::locked_memory(&self.interfaces, workers)
    }
}

impl<'a> From<&'a Config> for Needs<'a> {
    fn from(config: &'a Config) -> Self {
        Self {
            interfaces: config
                .interfaces
                .iter()
                .map(|interface| (interface.name.as_str(), interface.backend))
                .collect(),
            owned: config.owned_addresses(),
            disable_forwarding: config.host.disable_forwarding,
        }
    }
}

/// A reason why pollgate cannot start here: what is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostFault {
    /// A capability the process does not have.
    Capability(Missing),
    /// No interface of that name.
    NoInterface {
        /// The name.
        name: String,
        /// Those that are there.
        present: Vec<String>,
    },
    /// Switched off.
    InterfaceDown {
        /// The name.
        name: String,
    },
    /// Not Ethernet.
    NotEthernet {
        /// The name.
        name: String,
    },
    /// The kernel would forward what pollgate translates.
    Forwards {
        /// The sysctl that is 1.
        sysctl: String,
        /// Why it could not be switched off although that is allowed; `None` when it is not allowed.
        refused: Option<String>,
    },
    /// The kernel has an address that pollgate is to own.
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The interface that has it.
        interface: String,
    },
    /// A query of the host failed.
    Unknown {
        /// What was queried.
        what: String,
        /// What went wrong.
        error: String,
    },
}

impl fmt::Display for HostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostFault::Capability(missing) => missing.fmt(f),
            HostFault::NoInterface { name, .. } if name == pollgate_common::pair::DATA => write!(
                f,
                "the host pair was deleted, and is not made again yet: if this stays so, the log says why; restart the gateway then"
            ),
            HostFault::NoInterface { name, present } => {
                write!(
                    f,
                    "the interface {name} does not exist; the host has {}: correct interfaces[].name or create it",
                    present.join(", ")
                )
            }
            HostFault::InterfaceDown { name } => write!(f, "the interface {name} is down: ip link set {name} up"),
            HostFault::NotEthernet { name } => {
                write!(
                    f,
                    "the interface {name} is not an Ethernet device, and pollgate polls only Ethernet: use another \
                     interface"
                )
            }
            HostFault::Forwards { sysctl, refused: None } => write!(
                f,
                "{sysctl} is 1, so the kernel would also forward Service traffic, untranslated: sysctl -w {sysctl}=0, \
                 or set host.disableForwarding: true to let pollgate do it"
            ),
            HostFault::Forwards { sysctl, refused: Some(error) } => {
                write!(f, "{sysctl} is 1 and could not be set to 0 ({error}): sysctl -w {sysctl}=0")
            }
            HostFault::AddressTaken { address, interface } => write!(
                f,
                "the kernel has {address} on {interface}, so it would answer as well as pollgate: remove it there (ip \
                 address del), or remove it from the configuration"
            ),
            HostFault::Unknown { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

/// Something that was changed on the host, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// What, and how to undo it.
    pub what: String,
}

/// Checks everything and returns all faults, not only the first. Forwarding is switched off, if that is allowed,
/// only if nothing else is in the way. `workers`: how many there will be.
pub fn check(needs: &Needs<'_>, workers: usize) -> Result<Vec<Changed>, Vec<HostFault>> {
    switch_off(look(needs, workers)?)
}

/// As [`check`] for a gateway that runs: forwarding is switched off, if that is allowed, whatever else is wrong. Capabilities are
/// not looked at: the gateway has given up those that it does not need any more.
pub fn keep(needs: &Needs<'_>) -> (Vec<Changed>, Vec<HostFault>) {
    let (on, mut faults) = find(needs);
    let changed = switch_off(on).unwrap_or_else(|refused| {
        faults.extend(refused);
        Vec::new()
    });
    (changed, faults)
}

/// As [`check`], but changes nothing: the sysctls that it would set to 0.
pub fn look(needs: &Needs<'_>, workers: usize) -> Result<Vec<String>, Vec<HostFault>> {
    let mut faults = missing_capabilities(needs, workers);
    let (on, found) = find(needs);
    faults.extend(found);
    if faults.is_empty() { Ok(on) } else { Err(faults) }
}

/// The sysctls that are to be set to 0, and what is wrong.
fn find(needs: &Needs<'_>) -> (Vec<String>, Vec<HostFault>) {
    let present = query::interfaces();
    let mut faults: Vec<HostFault> = needs.interfaces.iter().filter_map(|(name, _)| fault_of(name, &present)).collect();
    faults.extend(taken(&needs.owned, &query::addresses()));
    let mut on = forwarding_sysctls(needs);
    on.retain(|key| query::sysctl(key).as_deref() == Some("1"));
    if !needs.disable_forwarding {
        faults.extend(on.drain(..).map(|sysctl| HostFault::Forwards { sysctl, refused: None }));
    }
    (on, faults)
}

/// Major and minor number of the running kernel's version.
pub fn kernel() -> (u32, u32) {
    query::kernel()
}

/// The first port that a process may listen on without CAP_NET_BIND_SERVICE.
pub fn first_unprivileged_port() -> u16 {
    query::first_unprivileged_port()
}

/// Those of the owned addresses for which the kernel would report "no route" to the sender.
pub fn unrouted(owned: &[IpAddr]) -> Vec<IpAddr> {
    let is_refused = |address: &&IpAddr| matches!(address, IpAddr::V6(v6) if query::is_refused(*v6));
    owned.iter().filter(is_refused).copied().collect()
}

fn missing_capabilities(needs: &Needs<'_>, workers: usize) -> Vec<HostFault> {
    match capability::effective(needs.locked_memory(workers)) {
        Ok(has) => capability::missing(has, &needs.interfaces).into_iter().map(HostFault::Capability).collect(),
        Err(error) => vec![unknown("reading this process's capabilities", &error)],
    }
}

fn fault_of(name: &str, present: &[Interface]) -> Option<HostFault> {
    let name = name.to_owned();
    let Some(found) = present.iter().find(|interface| interface.name == name) else {
        return Some(HostFault::NoInterface { name, present: present.iter().map(|i| i.name.clone()).collect() });
    };
    if !found.is_ethernet {
        return Some(HostFault::NotEthernet { name });
    }
    (!found.is_up).then_some(HostFault::InterfaceDown { name })
}

fn taken<'a>(owned: &'a [IpAddr], present: &'a [(String, IpAddr)]) -> impl Iterator<Item = HostFault> + 'a {
    present
        .iter()
        .filter(|(_, address)| owned.contains(address))
        .map(|(interface, address)| HostFault::AddressTaken { address: *address, interface: interface.clone() })
}

/// The sysctls that must be 0, by the families that are served. IPv6 asks `all` before the interface's own, and since
/// Linux 6.17 an interface can be made to forward by itself.
fn forwarding_sysctls(needs: &Needs<'_>) -> Vec<String> {
    let mut keys = Vec::new();
    if needs.owned.iter().any(IpAddr::is_ipv6) {
        keys.push("net.ipv6.conf.all.forwarding".to_owned());
    }
    for (interface, _) in &needs.interfaces {
        // Dots in an interface's name are slashes in a sysctl's (sysctl(8)).
        let interface = interface.replace('.', "/");
        if needs.owned.iter().any(IpAddr::is_ipv4) {
            keys.push(format!("net.ipv4.conf.{interface}.forwarding"));
        }
        if needs.owned.iter().any(IpAddr::is_ipv6) {
            keys.push(format!("net.ipv6.conf.{interface}.forwarding"));
            keys.push(format!("net.ipv6.conf.{interface}.force_forwarding"));
        }
    }
    keys
}

fn switch_off(keys: Vec<String>) -> Result<Vec<Changed>, Vec<HostFault>> {
    let (mut changed, mut faults) = (Vec::new(), Vec::new());
    for key in keys {
        match query::set_sysctl(&key, "0") {
            Ok(()) => changed.push(Changed { what: format!("set {key}=0; it stays set (undo: sysctl -w {key}=1)") }),
            Err(error) => faults.push(HostFault::Forwards { sysctl: key, refused: Some(error.to_string()) }),
        }
    }
    if faults.is_empty() { Ok(changed) } else { Err(faults) }
}

fn unknown(what: &str, error: &io::Error) -> HostFault {
    HostFault::Unknown { what: what.to_owned(), error: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_forwarding_counts_only_where_ipv6_is_served() {
        let owned = vec![IpAddr::from([10, 0, 0, 10])];
        let needs = Needs { interfaces: vec![("eth0.7", Backend::Auto)], owned, disable_forwarding: false };
        assert_eq!(forwarding_sysctls(&needs), ["net.ipv4.conf.eth0/7.forwarding"]);
        let owned = vec!["2001:db8::1".parse().expect("an address")];
        let keys = forwarding_sysctls(&Needs { owned, ..needs });
        assert_eq!(keys[0], "net.ipv6.conf.all.forwarding");
        assert_eq!(keys.len(), 3);
    }
}

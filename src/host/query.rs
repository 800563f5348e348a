//! Queries of the host: interfaces and their addresses by pnet, sysctls by /proc.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::path::PathBuf;

use pnet::datalink::{self, NetworkInterface};

/// An interface, as far as it matters for polling it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) is_up: bool,
    pub(super) is_ethernet: bool,
}

/// All interfaces, in the kernel's order. Ethernet is what has a hardware address and is not the loopback.
pub(super) fn interfaces() -> Vec<Interface> {
    let link = |interface: &NetworkInterface| Interface {
        name: interface.name.clone(),
        is_up: interface.is_up(),
        is_ethernet: !interface.is_loopback() && interface.mac.is_some_and(|mac| !mac.is_zero()),
    };
    datalink::interfaces().iter().map(link).collect()
}

/// The hardware address of an interface, as /sys writes it.
pub(super) fn hardware_address(name: &str) -> Option<String> {
    let found = datalink::interfaces().into_iter().find(|interface| interface.name == name)?;
    found.mac.map(|mac| mac.to_string())
}

/// All addresses the kernel has, with the interface's name.
pub(super) fn addresses() -> Vec<(String, IpAddr)> {
    let of = |interface: NetworkInterface| {
        let name = interface.name;
        interface.ips.into_iter().map(move |network| (name.clone(), network.ip()))
    };
    datalink::interfaces().into_iter().flat_map(of).collect()
}

/// Whether the kernel would answer a packet for this address that it must not forward: it has no route to it, or one that says
/// so. Connecting a datagram socket looks up the route and sends nothing.
pub(super) fn is_refused(address: Ipv6Addr) -> bool {
    let looked_up = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect((address, 9)));
    let refusals = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES];
    looked_up.is_err_and(|error| error.raw_os_error().is_some_and(|code| refusals.contains(&code)))
}

/// The value of a sysctl, by its name as sysctl(8) writes it; `None` if the kernel does not have it.
pub(super) fn sysctl(key: &str) -> Option<String> {
    fs::read_to_string(sysctl_path(key)).ok().map(|text| text.trim().to_owned())
}

/// Sets a sysctl.
pub(super) fn set_sysctl(key: &str, value: &str) -> io::Result<()> {
    fs::write(sysctl_path(key), value)
}

/// Dots and slashes change places (sysctl(8)): a dot in an interface's name is written as a slash.
fn sysctl_path(key: &str) -> PathBuf {
    let path: String = key
        .chars()
        .map(|c| {
            if c == '.' {
                '/'
            } else if c == '/' {
                '.'
            } else {
                c
            }
        })
        .collect();
    PathBuf::from("/proc/sys").join(path)
}

/// The first port that any process may listen on.
pub(super) fn first_unprivileged_port() -> u16 {
    sysctl("net.ipv4.ip_unprivileged_port_start").and_then(|text| text.parse().ok()).unwrap_or(1024)
}

/// Major and minor number of the running kernel's version; zeros if it has another form.
pub(super) fn kernel() -> (u32, u32) {
    let release = sysctl("kernel.osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

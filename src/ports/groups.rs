//! Multicast groups of owned IPv6 addresses.
//!
//! A host asks for the owner of an IPv6 address by multicast, to the address's solicited-node group (RFC 4861 §7.2.2). A device
//! passes only groups that were joined, and a switch that snoops on MLD forwards only those that were reported. So the groups
//! are joined as a host would, by a socket on each interface: the kernel programs the device and sends the reports. (A veth
//! pair does not filter, so without this only real devices would fail.)
//!
//! ClusterIPs are left out: they are never on a link, clients have a route to them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;

use pollgate_common::net::{Net, PortId};
use pollgate_common::tables::{OwnedKind, Tables};
use pollgate_dataplane::wire::nd::solicited_node;
use rustix::net::sockopt::{set_ipv6_add_membership, set_ipv6_drop_membership};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tracing::warn;

/// The groups, on every interface.
pub(super) struct Groups {
    interfaces: Vec<Interface>,
    /// The addresses whose groups are joined.
    addresses: HashSet<Ipv6Addr>,
    /// How many of them share a group.
    users: HashMap<Ipv6Addr, usize>,
}

struct Interface {
    name: String,
    port: PortId,
    index: u32,
    /// Holds the memberships; made with the first.
    socket: Option<OwnedFd>,
    /// Groups that could not be joined.
    missing: HashSet<Ipv6Addr>,
    /// What the link was when that was tried: its index, whether it was up, and how many addresses it had.
    tried: Option<(u32, bool, usize)>,
}

impl Groups {
    /// None on these interfaces yet: name, port and index.
    pub(super) fn new(interfaces: impl Iterator<Item = (String, PortId, u32)>) -> Groups {
        let interface =
            |(name, port, index)| Interface { name, port, index, socket: None, missing: HashSet::new(), tried: None };
        let interfaces = interfaces.map(interface).collect();
        Groups { interfaces, addresses: HashSet::new(), users: HashMap::new() }
    }

    /// Joins the groups of addresses that are owned from the start.
    pub(super) fn join_all(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            if let IpAddr::V6(v6) = address {
                self.join(*v6);
            }
        }
    }

    /// Follows a publication: addresses that are not owned any more, and that now are.
    pub(super) fn follow(&mut self, removed: &[IpAddr], added: &[IpAddr], tables: &Tables) {
        for address in removed {
            if let IpAddr::V6(v6) = address {
                self.leave(*v6);
            }
        }
        let may_be_on_link = |address: &&IpAddr| tables.owned(**address).is_some_and(OwnedKind::may_be_on_link);
        let added: Vec<IpAddr> = added.iter().filter(may_be_on_link).copied().collect();
        self.join_all(&added);
    }

    /// Joins all groups again on an interface that was created again: its memberships have gone with it. What could not be joined
    /// is tried again: IPv6 may be on by now.
    pub(super) fn follow_network(&mut self, net: &Net) {
        for interface in &mut self.interfaces {
            let Some(link) = net.port_link(interface.port) else { continue };
            if link.index != interface.index {
                (interface.index, interface.socket) = (link.index, None);
                interface.missing = self.users.keys().copied().collect();
            }
            let addresses = net.facts().addresses.iter().filter(|(index, _)| *index == link.index).count();
            let state = (link.index, link.up, addresses);
            if interface.tried.replace(state) == Some(state) {
                continue;
            }
            for group in std::mem::take(&mut interface.missing) {
                // Where this fails at first, it is logged.
                let _ = interface.join(group);
            }
        }
    }

    fn join(&mut self, address: Ipv6Addr) {
        if !self.addresses.insert(address) {
            return;
        }
        let group = solicited_node(address);
        let users = self.users.entry(group).or_default();
        *users += 1;
        if *users > 1 {
            return;
        }
        for interface in &mut self.interfaces {
            if let Err(error) = interface.join(group) {
                warn!(
                    "{}: joining the group {group}, in which hosts ask for {address}: {error}; hosts on this link may not \
                     find the address (net.ipv6.conf.{}.disable_ipv6 must be 0; many addresses need a larger \
                     net.core.optmem_max)",
                    interface.name, interface.name
                );
            }
        }
    }

    fn leave(&mut self, address: Ipv6Addr) {
        if !self.addresses.remove(&address) {
            return;
        }
        let group = solicited_node(address);
        if let Some(users) = self.users.get_mut(&group) {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&group);
                self.interfaces.iter_mut().for_each(|interface| interface.leave(group));
            }
        }
    }
}

impl Interface {
    fn join(&mut self, group: Ipv6Addr) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            // Not bound: it receives nothing.
            None => socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?,
        };
        let joined = set_ipv6_add_membership(&socket, &group, self.index);
        self.socket = Some(socket);
        if joined.is_err() {
            self.missing.insert(group);
        }
        Ok(joined?)
    }

    fn leave(&mut self, group: Ipv6Addr) {
        self.missing.remove(&group);
        if let Some(socket) = &self.socket {
            // Fails only if it was not joined.
            let _ = set_ipv6_drop_membership(socket, &group, self.index);
        }
    }
}

//! A Service's names, in wire format (Kubernetes DNS specification 1.1.0, §2.3–2.5; CoreDNS `plugin/kubernetes`).
//!
//! | Service | name | records |
//! |---|---|---|
//! | with ClusterIP | `svc.ns.svc.ZONE` | A of each IPv4 ClusterIP, AAAA of each IPv6 one; SRV of each port |
//! | | `_port._proto.svc.ns.svc.ZONE` | the same for a port with a name |
//! | headless | `svc.ns.svc.ZONE` | A/AAAA and SRV of each ready endpoint; without any, the name does not exist |
//! | | `_port._proto.svc.ns.svc.ZONE` | the same for the endpoints that have that port |
//! | either | `hostname.svc.ns.svc.ZONE` | A/AAAA and SRV of the ready endpoints with that hostname |
//! | ExternalName | `svc.ns.svc.ZONE` | CNAME |
//!
//! Endpoints without a hostname are called by their address: the zone has no node for each, but knows which Services an
//! address belongs to. PTR records follow from the same.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use pollgate_common::dns::name::{MAX_NAME, to_wire};
use pollgate_common::dns::records::{Node, Set, rr, srv_weight};
use pollgate_common::dns::reverse::Label;
use pollgate_common::dns::zone::{Owner, ZoneSettings, address_sets, label};

use crate::compile::resolve::{Protocol, PublishedPort, ResolvedAddress, ResolvedService};

/// What the zone has of one Service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceNames {
    /// Its name on the wire.
    pub(super) name: Arc<[u8]>,
    /// The names with records; in order.
    pub(super) nodes: Vec<Node>,
    /// Its addresses, and what they are to it; in order.
    pub(super) owners: Vec<(IpAddr, Owner)>,
}

impl ServiceNames {
    /// The node of `name`.
    pub(super) fn node(&self, name: &[u8]) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|node| node.name().cmp(name)).ok()?;
        self.nodes.get(at)
    }

    /// The addresses that are not the same to the Service as they were in `old`.
    pub(super) fn changed_addresses(&self, old: &ServiceNames) -> Vec<IpAddr> {
        let missing = |these: &[(IpAddr, Owner)], those: &[(IpAddr, Owner)]| -> Vec<IpAddr> {
            these.iter().filter(|one| those.binary_search(one).is_err()).map(|(address, _)| *address).collect()
        };
        let mut changed = missing(&self.owners, &old.owners);
        changed.extend(missing(&old.owners, &self.owners));
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// What the Service is to `address`.
    pub(super) fn owners_of(&self, address: IpAddr) -> Vec<Owner> {
        let start = self.owners.partition_point(|(known, _)| *known < address);
        let owners = self.owners[start..].iter().take_while(|(known, _)| *known == address);
        owners.map(|(_, owner)| owner.clone()).collect()
    }
}

/// The names of a Service; none if it has no address, or its name does not fit a name of DNS.
pub(super) fn names(service: &ResolvedService, settings: &ZoneSettings) -> ServiceNames {
    Names::new(service, settings).and_then(Names::all).unwrap_or_default()
}

/// The node of a namespace; `None` if its name does not fit.
pub(super) fn namespace(name: &str, settings: &ZoneSettings) -> Option<Node> {
    let wire = [&*label(name)?, b"\x03svc", &settings.origin].concat();
    (wire.len() <= MAX_NAME).then(|| Node::new(&wire, &[]))
}

/// One address that a name leads to, and the port there.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    /// The target's label below the Service's name; none if it is that name.
    label: Option<Label>,
    /// The same of an endpoint with a hostname.
    hostname: Option<&'a Arc<[u8]>>,
    address: IpAddr,
    port: u16,
}

/// The names while they are made.
struct Names<'a> {
    service: &'a ResolvedService,
    settings: &'a ZoneSettings,
    made: ServiceNames,
    hostnames: BTreeMap<&'a str, Arc<[u8]>>,
}

impl<'a> Names<'a> {
    fn new(service: &'a ResolvedService, settings: &'a ZoneSettings) -> Option<Names<'a>> {
        let (name, namespace) = (label(&service.name.name)?, label(&service.name.namespace)?);
        let name = [&*name, &*namespace, b"\x03svc", &settings.origin].concat();
        let fits = name.len() <= MAX_NAME && !settings.origin.is_empty();
        let made = ServiceNames { name: name.into(), ..ServiceNames::default() };
        let known = service.ready_addresses.iter().filter_map(|ready| ready.hostname.as_deref());
        let hostnames = known.filter_map(|hostname| Some((hostname, label(hostname)?))).collect();
        fits.then_some(Names { service, settings, made, hostnames })
    }

    fn all(mut self) -> Option<ServiceNames> {
        if let Some(target) = &self.service.external_name {
            let set = self.alias(target)?;
            self.made.nodes.push(Node::new(&self.made.name, &set));
            return Some(self.made);
        }
        match self.service.headless {
            true => self.headless()?,
            false => self.cluster_ips()?,
        }
        self.hostnames();
        self.owners();
        self.made.nodes.sort_by(|a, b| a.name().cmp(b.name()));
        Some(self.made)
    }

    /// An address is no name: such a Service has no record (as with CoreDNS). An alias of itself has no data.
    fn alias(&self, target: &str) -> Option<Vec<Set>> {
        let target = Some(target).filter(|name| name.parse::<IpAddr>().is_err()).and_then(to_wire)?;
        let is_itself = *target == *self.made.name;
        Some(if is_itself { vec![] } else { vec![Set::of(rr::CNAME, self.settings.ttl, [&*target])] })
    }

    fn cluster_ips(&mut self) -> Option<()> {
        let addresses = &self.service.cluster_ips;
        if addresses.is_empty() {
            return None;
        }
        let at = |port: &PublishedPort| {
            let port = port.port.unwrap_or_default();
            let one = move |ip: &IpAddr| Candidate { label: None, hostname: None, address: *ip, port };
            addresses.iter().map(one).collect::<Vec<_>>()
        };
        let ports = &self.service.published_ports;
        self.add(&[], addresses, &ports.iter().flat_map(at).collect::<Vec<_>>());
        for port in ports {
            self.add_port(&port.name, port.protocol, addresses, &at(port));
        }
        Some(())
    }

    fn headless(&mut self) -> Option<()> {
        if self.service.ready_addresses.is_empty() {
            return None;
        }
        let service = self.service;
        let hostnames = std::mem::take(&mut self.hostnames);
        let mut all = Vec::new();
        // Slices may give a port of one name different numbers: together they are one name.
        let mut named = BTreeMap::<(&str, Protocol), (Vec<IpAddr>, Vec<Candidate<'_>>)>::new();
        for slice in &service.published {
            for (port, ready) in slice.ports.iter().flat_map(|port| slice.addresses.iter().map(move |a| (port, a))) {
                let candidate = port.port.map(|number| candidate(ready, &hostnames, number));
                all.extend(candidate);
                let (addresses, candidates) = named.entry((&port.name, port.protocol)).or_default();
                addresses.push(ready.address);
                candidates.extend(candidate);
            }
        }
        let addresses: Vec<IpAddr> = service.ready_addresses.iter().map(|ready| ready.address).collect();
        self.add(&[], &addresses, &all);
        for ((name, protocol), (addresses, candidates)) in &named {
            self.add_port(name, *protocol, addresses, candidates);
        }
        drop((all, named));
        self.hostnames = hostnames;
        Some(())
    }

    /// Adds the node of the port `name`, unless that is empty.
    fn add_port(&mut self, name: &str, protocol: Protocol, addresses: &[IpAddr], candidates: &[Candidate<'_>]) {
        if name.is_empty() {
            return;
        }
        let protocol = match protocol {
            Protocol::Tcp => "_tcp",
            Protocol::Udp => "_udp",
            Protocol::Sctp => "_sctp",
        };
        if let Some((name, protocol)) = label(&format!("_{name}")).zip(label(protocol)) {
            self.add(&[&*name, &*protocol].concat(), addresses, candidates);
        }
    }

    /// Adds the node of the name `head` below the Service's name.
    fn add(&mut self, head: &[u8], addresses: &[IpAddr], candidates: &[Candidate<'_>]) {
        let name = [head, &self.made.name].concat();
        if name.len() > MAX_NAME {
            return;
        }
        let [v4, v6] = address_sets(addresses, self.settings.ttl);
        let srv = self.srv(name.len(), candidates);
        self.made.nodes.push(Node::new(&name, &[v4, v6, srv]));
    }

    /// SRV records for a question of `question` bytes: each target and port once, all of the same weight (CoreDNS
    /// `plugin/backend_lookup.go`).
    fn srv(&self, question: usize, candidates: &[Candidate<'_>]) -> Set {
        let ttl = self.settings.ttl;
        let mut set = Set::new(rr::SRV);
        let weight = srv_weight(candidates.len());
        let mut targets: BTreeMap<Vec<u8>, (Vec<u16>, Vec<IpAddr>)> = BTreeMap::new();
        for candidate in candidates {
            let label = candidate.label.as_ref().map_or(&[][..], Label::as_bytes);
            let label = candidate.hostname.map_or(label, |hostname| hostname);
            let (ports, addresses) = targets.entry([label, &self.made.name].concat()).or_default();
            ports.push(candidate.port);
            addresses.push(candidate.address);
        }
        let mut found = Vec::with_capacity(targets.len());
        for (target, (mut ports, addresses)) in targets {
            ports.sort_unstable();
            ports.dedup();
            let mut first = None;
            for port in ports {
                let numbers = [0, weight, port].map(u16::to_be_bytes).concat();
                let at = set.push(ttl, &[&*numbers, &*target].concat()).map(|at| at + numbers.len());
                first = first.or(at);
            }
            found.extend(first.map(|at| (at, target, addresses)));
        }
        for (at, target, mut addresses) in found {
            addresses.sort_unstable();
            addresses.dedup();
            addresses.iter().for_each(|address| set.push_extra(ttl, &target, (at, question), address));
        }
        set
    }

    fn hostnames(&mut self) {
        let service = self.service;
        let hostnames = std::mem::take(&mut self.hostnames);
        let mut named = BTreeMap::<&str, (Vec<IpAddr>, Vec<Candidate<'_>>)>::new();
        for slice in &service.published {
            for ready in slice.addresses.iter().filter(|_| !hostnames.is_empty()) {
                let Some(hostname) = &ready.hostname else { continue };
                let (addresses, candidates) = named.entry(hostname).or_default();
                addresses.push(ready.address);
                candidates.extend(slice.numbers().map(|number| candidate(ready, &hostnames, number)));
            }
        }
        for (hostname, (addresses, candidates)) in &named {
            if let Some(label) = hostnames.get(hostname) {
                self.add(label, addresses, candidates);
            }
        }
        drop(named);
        self.hostnames = hostnames;
    }

    fn owners(&mut self) {
        let own =
            |is_endpoint, hostname, ports| Owner { is_endpoint, service: Arc::clone(&self.made.name), hostname, ports };
        let none: Arc<[u16]> = Arc::default();
        let cluster_ips =
            self.service.cluster_ips.iter().map(|address| (*address, own(false, None, Arc::clone(&none))));
        let hostname =
            |ready: &ResolvedAddress| ready.hostname.as_deref().and_then(|name| self.hostnames.get(name).cloned());
        let ready = self.ports().into_iter().map(|(ready, ports)| (ready.address, own(true, hostname(ready), ports)));
        let mut owners: Vec<(IpAddr, Owner)> = cluster_ips.chain(ready).collect();
        owners.sort_unstable();
        self.made.owners = owners;
    }

    /// The ready addresses, and the ports of each in all slices.
    fn ports(&self) -> BTreeMap<&'a ResolvedAddress, Arc<[u16]>> {
        let mut all = BTreeMap::<&ResolvedAddress, Arc<[u16]>>::new();
        for slice in &self.service.published {
            let mut ports: Vec<u16> = slice.numbers().collect();
            ports.sort_unstable();
            let ports: Arc<[u16]> = ports.into();
            for ready in &slice.addresses {
                all.entry(ready)
                    .and_modify(|known| *known = merged(known, &ports))
                    .or_insert_with(|| Arc::clone(&ports));
            }
        }
        all
    }
}

fn merged(some: &[u16], more: &[u16]) -> Arc<[u16]> {
    let mut all = [some, more].concat();
    all.sort_unstable();
    all.into()
}

fn candidate<'a>(ready: &ResolvedAddress, hostnames: &'a BTreeMap<&str, Arc<[u8]>>, port: u16) -> Candidate<'a> {
    let hostname = ready.hostname.as_deref().and_then(|name| hostnames.get(name));
    let label = hostname.is_none().then(|| Label::of(ready.address));
    Candidate { label, hostname, address: ready.address, port }
}

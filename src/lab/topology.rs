//! Ready-made networks: a gateway namespace in the middle, hosts around it.
//!
//! ```text
//!   pod 10.244.1.10/32 ─┐                 ┌───────── gateway ─────────┐
//!   pod 10.244.1.20/32 ─┤ bridge "node-1" ┤ node-1      10.244.1.1/24 │
//!   pod 10.244.1.5/32  ─┘                 │ node-2      10.244.2.1/24 │
//!   pod 10.244.2.15/32 ── bridge "node-2" ┤ outside   192.168.50.1/24 ├ bridge "outside" ── client 192.168.50.100/24
//!                                         └───────────────────────────┘
//! ```
//!
//! A segment is a bridge in a namespace of its own, as a node's network is, with one link up to the gateway. The
//! addresses on the gateway's links belong to the kernel there and are the hosts' default gateway; the kernel forwards
//! nothing (forwarding is 0), so whatever gets from one host to another was carried by the gateway's workers.
//!
//! Pods have /32 addresses and reach even their neighbours on the segment through the gateway, like the
//! point-to-point links of common cluster networks. Otherwise the reply of a Pod to a client beside it would take the
//! short way, past the translation that the client's packet went through, and be refused.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{LabError, Namespace, Veth};

/// One network at a link of the gateway.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The gateway's interface to it, and the name of its bridge's namespace.
    pub name: String,
    /// The kernel's address on the gateway's interface, with the segment's prefix.
    pub gateway: IpNet,
    /// Its IPv6 address there; none: the segment has no IPv6.
    pub gateway_v6: Option<IpNet>,
    /// The hosts on it.
    pub hosts: Vec<HostPlan>,
}

/// One host to be made.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// Its name, which is its namespace's.
    pub name: String,
    /// Its address on `eth0`. A full-length prefix makes it reach everything through the gateway.
    pub address: IpNet,
    /// Its IPv6 address, likewise.
    pub address_v6: Option<IpNet>,
}

/// The network, made. The namespaces end when it is dropped.
#[derive(Debug)]
pub struct Network {
    gateway: Namespace,
    bridges: Vec<Namespace>,
    hosts: Vec<Host>,
    interfaces: Vec<String>,
    segments: Vec<Segment>,
    queues: u32,
}

/// A host of the network.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where it lives; its interface is `eth0`.
    pub namespace: Namespace,
    /// Its address.
    pub address: IpAddr,
    /// Its IPv6 address, if it has one.
    pub address_v6: Option<IpAddr>,
}

impl Segment {
    /// A segment from text.
    ///
    /// # Panics
    /// When an address is not one with a prefix length: plans are written in the source.
    pub fn new(name: &str, gateway: &str, hosts: &[(&str, &str)]) -> Segment {
        let address = |text: &str| -> IpNet {
            text.parse().unwrap_or_else(|_| panic!("expected ADDRESS/LENGTH, found {text:?}"))
        };
        let host =
            |&(name, text): &(&str, &str)| HostPlan { name: name.to_owned(), address: address(text), address_v6: None };
        Segment {
            name: name.to_owned(),
            gateway: address(gateway),
            gateway_v6: None,
            hosts: hosts.iter().map(host).collect(),
        }
    }

    /// The same with IPv6 addresses beside the IPv4 addresses ([`v6_beside`]).
    #[must_use]
    pub fn dual_stack(mut self) -> Segment {
        self.gateway_v6 = v6_beside(self.gateway);
        self.hosts.iter_mut().for_each(|host| host.address_v6 = v6_beside(host.address));
        self
    }
}

/// The IPv6 address that a host has beside an IPv4 address: `fd00:10:244:1::5/64` beside `10.244.1.5/24`, and `/128` beside
/// `/32`.
pub fn v6_beside(address: IpNet) -> Option<IpNet> {
    let IpNet::V4(v4) = address else { return None };
    let [a, b, c, d] = v4.addr().octets();
    let len = if v4.prefix_len() == 32 { 128 } else { 64 };
    format!("fd00:{a}:{b}:{c}::{d}/{len}").parse().ok()
}

/// The network of the guide's example: two nodes with Pods, and one client outside the cluster.
pub fn guide() -> Vec<Segment> {
    vec![
        Segment::new(
            "node-1",
            "10.244.1.1/24",
            &[("frontend-app", "10.244.1.5/32"), ("backend-1", "10.244.1.10/32"), ("frontend-2", "10.244.1.20/32")],
        ),
        Segment::new("node-2", "10.244.2.1/24", &[("backend-2", "10.244.2.15/32"), ("backend-v2", "10.244.2.22/32")]),
        Segment::new("outside", "192.168.50.1/24", &[("outside-client", "192.168.50.100/24")]),
    ]
}

impl Network {
    /// Makes the network. Each gateway link has `queues` queues.
    pub fn new(segments: &[Segment], queues: u32) -> Result<Network, LabError> {
        let mut network = Network {
            gateway: Namespace::new("gateway")?,
            bridges: Vec::new(),
            hosts: Vec::new(),
            interfaces: Vec::new(),
            segments: segments.to_vec(),
            queues,
        };
        for segment in segments {
            network.add(segment)?;
        }
        if segments.iter().any(|segment| segment.gateway_v6.is_some()) {
            network.gateway.discard_unrouted_v6()?;
        }
        Ok(network)
    }

    fn add(&mut self, segment: &Segment) -> Result<(), LabError> {
        let bridge = Namespace::new(&segment.name)?;
        self.link(segment, &bridge, (0, 0))?;
        let mut ports = vec!["uplink".to_owned()];
        for (at, plan) in segment.hosts.iter().enumerate() {
            let port = format!("port{at}");
            let namespace = Namespace::new(&plan.name)?;
            Veth::new((&bridge, &port), (&namespace, "eth0")).make()?;
            attach(&namespace, plan.address, segment.gateway.addr())?;
            if let (Some(address), Some(gateway)) = (plan.address_v6, segment.gateway_v6) {
                attach(&namespace, address, gateway.addr())?;
            }
            let address_v6 = plan.address_v6.map(|address| address.addr());
            self.hosts.push(Host { namespace, address: plan.address.addr(), address_v6 });
            ports.push(port);
        }
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        bridge.bridge("bridge", &ports)?;
        self.bridges.push(bridge);
        self.interfaces.push(segment.name.clone());
        Ok(())
    }

    /// The gateway's link to a segment, with its addresses.
    /// `indexes`: at the bridge and at the gateway; 0: the kernel chooses.
    fn link(&self, segment: &Segment, bridge: &Namespace, (left, right): (u32, u32)) -> Result<(), LabError> {
        let veth = Veth::new((bridge, "uplink"), (&self.gateway, &segment.name));
        veth.queues(self.queues).indexes(left, right).make()?;
        let mut own = std::iter::once(segment.gateway).chain(segment.gateway_v6);
        own.try_for_each(|address| self.gateway.add_address(&segment.name, address))
    }

    /// Makes the gateway's link to a segment again after it was removed: another interface of the same name.
    pub fn relink(&self, segment: &str) -> Result<(), LabError> {
        self.relink_as(segment, (0, 0))
    }

    /// Removes the gateway's link to a segment, and makes another one of the same name and index.
    pub fn replace_link(&self, segment: &str) -> Result<(), LabError> {
        let (left, right) = (self.segment(segment).1.index("uplink")?, self.gateway.index(segment)?);
        self.gateway.remove(segment)?;
        self.relink_as(segment, (left, right))
    }

    fn relink_as(&self, segment: &str, indexes: (u32, u32)) -> Result<(), LabError> {
        let (segment, bridge) = self.segment(segment);
        self.link(segment, bridge, indexes)?;
        bridge.attach("bridge", "uplink")
    }

    /// Sets the MTU of every interface of a segment, at both ends.
    pub fn set_mtu(&self, segment: &str, mtu: u32) -> Result<(), LabError> {
        let (segment, bridge) = self.segment(segment);
        for (at, plan) in segment.hosts.iter().enumerate() {
            bridge.set_mtu(&format!("port{at}"), mtu)?;
            self.host(&plan.name).namespace.set_mtu("eth0", mtu)?;
        }
        bridge.set_mtu("uplink", mtu)?;
        bridge.set_mtu("bridge", mtu)?;
        self.gateway.set_mtu(&segment.name, mtu)
    }

    fn segment(&self, name: &str) -> (&Segment, &Namespace) {
        let mut segments = self.segments.iter().zip(&self.bridges);
        segments.find(|(segment, _)| segment.name == name).unwrap_or_else(|| panic!("the plan has no segment {name:?}"))
    }

    /// Where the gateway's threads belong.
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// The gateway's interfaces, in the order of the segments.
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// All hosts, in the order of the plan.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host of that name.
    ///
    /// # Panics
    /// When the plan has none: the name is the caller's own.
    pub fn host(&self, name: &str) -> &Host {
        let found = self.hosts.iter().find(|host| host.namespace.name() == name);
        found.unwrap_or_else(|| panic!("the plan has no host {name:?}"))
    }

    /// Every namespace, the gateway's first.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        std::iter::once(&self.gateway).chain(&self.bridges).chain(self.hosts.iter().map(|host| &host.namespace))
    }
}

/// Gives a host its address and the way out.
fn attach(host: &Namespace, address: IpNet, gateway: IpAddr) -> Result<(), LabError> {
    host.add_address("eth0", address)?;
    if !address.contains(&gateway) {
        host.add_route(IpNet::from(gateway), None, "eth0")?;
    }
    let everything =
        if gateway.is_ipv4() { IpNet::V4(ipnet::Ipv4Net::default()) } else { IpNet::V6(ipnet::Ipv6Net::default()) };
    host.add_route(everything, Some(gateway), "eth0")
}

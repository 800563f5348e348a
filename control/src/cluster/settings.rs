//! The part of the configuration that objects depend on, and ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

use crate::objects::service::Family;

/// The name under which the controllers make EndpointSlices: the value of `endpointslice.kubernetes.io/managed-by`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SliceManager {
    /// Kubernetes' own names, by which clients find the slices of its controllers.
    #[default]
    Kubernetes,
    /// Names of our own, for a gateway whose slices must not be taken for a cluster's, or a cluster's for its own.
    Pollgate,
}

impl SliceManager {
    /// The manager of slices made from Pods.
    pub(crate) fn endpoints(self) -> &'static str {
        match self {
            SliceManager::Kubernetes => "endpointslice-controller.k8s.io",
            SliceManager::Pollgate => "endpointslice-controller.pollgate",
        }
    }

    /// The manager of slices made from Endpoints.
    pub(crate) fn mirror(self) -> &'static str {
        match self {
            SliceManager::Kubernetes => "endpointslicemirroring-controller.k8s.io",
            SliceManager::Pollgate => "endpointslicemirroring-controller.pollgate",
        }
    }

    /// Whether a manager of slices is one of ours. Our own names always are: a gateway that had another setting made them.
    pub(crate) fn is_ours(self, manager: &str, name: fn(SliceManager) -> &'static str) -> bool {
        [name(self), name(SliceManager::Pollgate)].contains(&manager)
    }
}

/// The part of the configuration that objects depend on: what the allocators may assign and what they may not, and the
/// gateway's node and zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// ClusterIPs come from here: one range per family, the first is the default family.
    pub service_cidrs: Vec<IpNet>,
    /// Node ports come from here.
    pub node_port_range: RangeInclusive<u16>,
    /// Addresses of LoadBalancer Services come from here, in this order.
    pub load_balancer_pools: Vec<IpRange>,
    /// The gateway's own addresses: never assigned to a Service.
    pub gateway_addresses: Vec<IpAddr>,
    /// Where DNS queries are answered: assigned to a Service only if it requests exactly this address.
    pub dns_addresses: Vec<IpAddr>,
    /// The node the gateway stands for; `None`: the whole cluster is local. For explanations.
    pub node: Option<String>,
    /// Its zone. For explanations.
    pub zone: Option<String>,
    /// The name under which the controllers make EndpointSlices.
    pub slice_manager: SliceManager,
    /// Whether `spec.externalIPs` are served. Whoever may write a Service can take over any address with them (CVE-2020-8554, KEP-5707).
    pub serves_external_ips: bool,
    /// The DNS zone of the cluster: lower case, without the final dot. For explanations.
    pub domain: String,
    /// Whether the gateway has the host pair, behind which it answers DNS over TCP. For explanations.
    pub has_pair: bool,
    /// Whether DNS calls an endpoint without a hostname by its Pod's name.
    pub endpoint_pod_names: bool,
    /// How much it may hold.
    pub limits: Limits,
}

/// How much a gateway may hold, and a request may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Items of one `apply`.
    pub items_per_request: usize,
    /// Objects of each kind.
    pub objects: usize,
    /// Endpoints in all EndpointSlices.
    pub endpoints: usize,
    /// Endpoints in the EndpointSlices of one Service.
    pub endpoints_per_service: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { items_per_request: 200_000, objects: 500_000, endpoints: 1_000_000, endpoints_per_service: 50_000 }
    }
}

impl Default for ClusterSettings {
    /// The defaults of `gateway.yaml`, with no LoadBalancer pool.
    fn default() -> ClusterSettings {
        let cidr = IpNet::new_assert(Ipv4Addr::new(10, 96, 0, 0).into(), 16);
        ClusterSettings {
            service_cidrs: vec![cidr],
            node_port_range: 30000..=32767,
            load_balancer_pools: Vec::new(),
            gateway_addresses: Vec::new(),
            dns_addresses: vec![Ipv4Addr::new(10, 96, 0, 10).into()],
            node: None,
            zone: None,
            slice_manager: SliceManager::default(),
            serves_external_ips: true,
            domain: "cluster.local".to_owned(),
            has_pair: true,
            endpoint_pod_names: false,
            limits: Limits::default(),
        }
    }
}

impl ClusterSettings {
    /// The configured families, default first.
    pub fn families(&self) -> Vec<Family> {
        self.service_cidrs.iter().map(|cidr| Family::of(cidr.addr())).collect()
    }

    /// Whether they are a gateway's: a gateway has an address. Those of `pollgate check` without a configuration have none.
    pub fn is_configured(&self) -> bool {
        !self.gateway_addresses.is_empty()
    }

    /// The ClusterIP range of a family.
    pub fn service_cidr(&self, family: Family) -> Option<IpNet> {
        self.service_cidrs.iter().copied().find(|cidr| Family::of(cidr.addr()) == family)
    }
}

/// Addresses of one family, from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    first: IpAddr,
    last: IpAddr,
}

impl IpRange {
    /// The range between two addresses of one family; `None` if they are of two, or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<IpRange> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(IpRange { first, last })
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(self.first) == Family::of(address) && (self.first..=self.last).contains(&address)
    }

    /// How many addresses it holds; the whole of IPv6 counts as one less than it is.
    pub fn len(&self) -> u128 {
        (bits(self.last) - bits(self.first)).saturating_add(1)
    }

    /// Never: a range holds at least one address.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The address `offset` above the first, if it is in the range.
    pub fn at(&self, offset: u128) -> Option<IpAddr> {
        let value = bits(self.first).checked_add(offset).filter(|value| *value <= bits(self.last))?;
        match self.first {
            IpAddr::V4(_) => u32::try_from(value).ok().map(|v4| IpAddr::V4(Ipv4Addr::from_bits(v4))),
            IpAddr::V6(_) => Some(IpAddr::V6(Ipv6Addr::from_bits(value))),
        }
    }
}

impl From<IpNet> for IpRange {
    fn from(net: IpNet) -> IpRange {
        IpRange { first: net.network(), last: net.broadcast() }
    }
}

impl FromStr for IpRange {
    type Err = String;

    /// A CIDR (`192.0.2.0/28`), a range (`192.0.2.10-192.0.2.20`) or one address.
    fn from_str(text: &str) -> Result<IpRange, String> {
        let expected = || format!("expected a CIDR, FIRST-LAST or one address, found {text:?}");
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| expected());
        if text.contains('/') {
            return text.trim().parse::<IpNet>().map(IpRange::from).map_err(|_| expected());
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        IpRange::new(address(first)?, address(last)?)
            .ok_or_else(|| format!("expected the lower address first and both of one family, found {text:?}"))
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_walked() {
        let range: IpRange = "192.0.2.10-192.0.2.12".parse().unwrap();
        assert_eq!((range.len(), range.at(2), range.at(3)), (3, Some("192.0.2.12".parse().unwrap()), None));
        assert_eq!("fd00::/64".parse::<IpRange>().unwrap().len(), 1 << 64);
        assert_eq!("10.0.0.1".parse::<IpRange>().unwrap().len(), 1);
        for text in ["", "x", "10.0.0.2-10.0.0.1", "10.0.0.1-fd00::1", "10.0.0.0/33"] {
            assert!(text.parse::<IpRange>().is_err(), "{text}");
        }
    }
}

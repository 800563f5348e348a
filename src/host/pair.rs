//! The host pair ([`pollgate_common::pair`]): made at start, removed at stop.
//!
//! ```text
//!            kernel                                          workers
//!   routes to owned addresses ─▶ pg-host ═════════════ pg-data ─▶ as from any interface
//!   via the workers' address     169.254.112.1/30      no address of the kernel
//!   (a permanent neighbour)      fe80::7067:1/64       no IPv6 of the kernel
//! ```
//!
//! **Routes** are those that the configuration justifies: the gateway addresses, the DNS addresses, the Service CIDRs and the
//! load-balancer pools. They stay as they are while Services come and go. An address that only an object names (an external IP, a
//! load-balancer address outside the pools) gets none: whoever may write a Service could otherwise take any address
//! away from the host, its router or its DNS server included.
//!
//! A more specific route of the host goes first, as with any route. So does the kernel's own address, which is in the table `local`.
//! Every route uses the workers' address as its gateway, so one permanent neighbour entry per family is enough, and the kernel
//! never asks who has an owned address. Routes and addresses go with the devices.
//!
//! A pair that is deleted while the gateway runs is made again ([`Remaker`]) under the same indexes: the listeners of local services are
//! bound to them.
//!
//! A pair that a killed process left is replaced: it is known by its MAC addresses. Any other interface of that name is left
//! alone, and the gateway does not start.

use std::fmt;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use pollgate_common::net::Mac;
use pollgate_common::pair;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::Runtime;
use tracing::warn;

use super::netlink::{connect, plain, runtime};
use super::query;
use crate::config::Config;

/// Marks the routes (`ip route show proto 137`).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(137);
/// Their metric: a route of the host to the same prefix goes first only with metric 0.
const METRIC: u32 = 1;
/// The MTU of a link without another.
const ETHERNET_MTU: u32 = 1500;

/// What the pair is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairPlan {
    /// Polled interfaces: the pair carries no longer packets than the one with the smallest MTU.
    interfaces: Vec<String>,
    /// Destinations that lead into it, in the families that it has.
    routes: Vec<IpNet>,
    has_v4: bool,
    has_v6: bool,
}

impl PairPlan {
    /// `None`: the configuration wants no pair. Families without a gateway address are left out: the host's source is always
    /// translated to one.
    pub fn of(config: &Config) -> Option<PairPlan> {
        let has = |v4: bool| config.addresses.iter().any(|address| address.is_ipv4() == v4);
        let (has_v4, has_v6) = (has(true), has(false));
        let mut routes: Vec<IpNet> = config.cluster.service_cidrs.clone();
        let is_covered = |routes: &[IpNet], address: &IpAddr| routes.iter().any(|route| route.contains(address));
        for address in config.owned_addresses() {
            if !is_covered(&routes, &address) {
                routes.push(address.into());
            }
        }
        routes.extend(config.cluster.load_balancer_pools.iter().flat_map(|pool| subnets(*pool.start(), *pool.end())));
        routes.retain(|route| if route.addr().is_ipv4() { has_v4 } else { has_v6 });
        routes.sort_unstable();
        routes.dedup();
        let interfaces = config.interfaces.iter().map(|interface| interface.name.clone()).collect();
        config.host.pair.then_some(PairPlan { interfaces, routes, has_v4, has_v6 })
    }

    /// The families' addresses: the kernel's with its prefix, and the workers'.
    fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8, IpAddr)> {
        let v4 = self.has_v4.then_some((pair::HOST_V4.into(), pair::PREFIX_V4, pair::DATA_V4.into()));
        let v6 = self.has_v6.then_some((pair::HOST_V6.into(), pair::PREFIX_V6, pair::DATA_V6.into()));
        v4.into_iter().chain(v6)
    }

    /// Sysctls in order, with what they must be: the kernel takes no part in what the workers do at `pg-data`, forwards nothing into
    /// the pair, and has no other IPv6 addresses there. A reply may come from an address that has no route into the pair (a
    /// router's ICMP error), so the reverse-path filter is loose.
    fn sysctls(&self) -> Vec<(String, &'static str)> {
        let v4 = |end: &str, key: &str, value| (format!("net.ipv4.conf.{end}.{key}"), value);
        let v6 = |key: &str, value| (format!("net.ipv6.conf.{}.{key}", pair::HOST), value);
        let mut keys = vec![
            v4(pair::DATA, "forwarding", "0"),
            v4(pair::HOST, "forwarding", "0"),
            v4(pair::HOST, "rp_filter", "2"),
        ];
        // Without IPv6 in the kernel there is nothing to switch off.
        if query::sysctl("net.ipv6.conf.all.disable_ipv6").is_none() {
            return keys;
        }
        keys.push((format!("net.ipv6.conf.{}.disable_ipv6", pair::DATA), "1"));
        match self.has_v6 {
            true => keys.extend([
                v6("addr_gen_mode", "1"),
                v6("accept_ra", "0"),
                v6("accept_dad", "0"),
                v6("forwarding", "0"),
                v6("disable_ipv6", "0"),
            ]),
            false => keys.push(v6("disable_ipv6", "1")),
        }
        keys
    }
}

impl fmt::Display for PairPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes: Vec<String> = self.routes.iter().map(ToString::to_string).collect();
        write!(f, "{} and {}, with routes to {}", pair::HOST, pair::DATA, routes.join(", "))
    }
}

fn subnets(first: IpAddr, last: IpAddr) -> Vec<IpNet> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::V4(Ipv4Subnets::new(first, last, 0)).collect(),
        (IpAddr::V6(first), IpAddr::V6(last)) => IpSubnets::V6(Ipv6Subnets::new(first, last, 0)).collect(),
        _ => Vec::new(),
    }
}

/// Why there is no host pair.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// An interface has one of the names.
    #[error(
        "the interface {name} exists and was not made by pollgate: rename or remove it, or set host.pair: false (processes of this \
         host then do not reach Services)"
    )]
    Foreign {
        /// The name.
        name: String,
    },
    /// Another interface is on the pair's network.
    #[error(
        "{interface} has the address {address}, which is on the network of the host pair (169.254.112.0/30): remove it, or set \
         host.pair: false"
    )]
    AddressTaken {
        /// The interface, or its number.
        interface: String,
        /// The address.
        address: IpAddr,
    },
    /// A sysctl could not be set.
    #[error(
        "setting {key}={value} for the host pair: {source}; set it yourself as the default, or set host.pair: false"
    )]
    Sysctl {
        /// The sysctl.
        key: String,
        /// What it must be.
        value: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error("host pair: {doing}: {source}")]
    System {
        /// What was being done.
        doing: String,
        /// The error of the system.
        source: io::Error,
    },
}

fn system(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> PairError {
    move |error| PairError::System { doing: doing.into(), source: plain(error) }
}

/// The pair, in the network namespace of the thread that made it. Dropping it removes it.
#[derive(Debug)]
pub struct HostPair {
    runtime: Runtime,
    requests: Handle,
    indexes: Indexes,
    /// Whether it is removed with this.
    is_owned: bool,
}

/// The interfaces' indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Indexes {
    host: u32,
    data: u32,
}

/// Makes the pair again while its [`HostPair`] lives, which then removes that one.
#[derive(Clone, Debug)]
pub struct Remaker {
    plan: PairPlan,
    indexes: Indexes,
}

impl Remaker {
    /// Makes it, unless it is there.
    ///
    /// # Errors
    /// If the kernel refuses, for example because another interface has one of the indexes by now.
    pub fn make(&self) -> Result<(), PairError> {
        HostPair::make_as(&self.plan, Some(self.indexes)).map(|mut again| again.is_owned = false)
    }
}

impl HostPair {
    /// Makes the pair, after removing what a killed process left of one.
    pub fn make(plan: &PairPlan) -> Result<HostPair, PairError> {
        HostPair::make_as(plan, None)
    }

    /// What makes it again.
    pub fn remaker(&self, plan: PairPlan) -> Remaker {
        Remaker { plan, indexes: self.indexes }
    }

    /// `wanted`: the indexes of the one before; if it is still there, nothing is done.
    fn make_as(plan: &PairPlan, wanted: Option<Indexes>) -> Result<HostPair, PairError> {
        let io = |doing: &str| {
            let doing = doing.to_owned();
            move |source| PairError::System { doing, source }
        };
        let runtime = runtime().map_err(io("starting a runtime"))?;
        let requests = runtime.block_on(async { connect() }).map_err(io("opening a netlink socket"))?;
        let present = runtime.block_on(links(&requests))?;
        if let Some(indexes) = wanted.filter(|wanted| is_there(&present, *wanted)) {
            return Ok(HostPair { runtime, requests, indexes, is_owned: true });
        }
        runtime.block_on(async {
            remove_left_over(&requests, &present).await?;
            look_for_address(&requests, &present).await?;
            add_links(&requests, mtu(&present, &plan.interfaces), wanted).await
        })?;
        let index = |name| runtime.block_on(index(&requests, name));
        let indexes = Indexes { host: index(pair::HOST)?, data: index(pair::DATA)? };
        // From here on, an error removes what there is.
        let made = HostPair { runtime, requests, indexes, is_owned: true };
        set_sysctls(plan)?;
        made.runtime.block_on(made.configure(plan))?;
        Ok(made)
    }

    async fn configure(&self, plan: &PairPlan) -> Result<(), PairError> {
        for (host, prefix, data) in plan.addresses() {
            self.add_address(host, prefix).await?;
            let neighbour =
                self.requests.neighbours().add(self.indexes.host, data).link_layer_address(&pair::DATA_MAC.0);
            neighbour.execute().await.map_err(system(format!("adding the neighbour {data}")))?;
        }
        for name in [pair::DATA, pair::HOST] {
            let up = LinkUnspec::new_with_name(name).up().build();
            self.requests.link().set(up).execute().await.map_err(system(format!("switching {name} on")))?;
        }
        for (host, _, data) in plan.addresses() {
            for route in plan.routes.iter().filter(|route| route.addr().is_ipv4() == host.is_ipv4()) {
                self.add_route(*route, data, host).await?;
            }
        }
        Ok(())
    }

    async fn add_address(&self, address: IpAddr, prefix: u8) -> Result<(), PairError> {
        let mut request = self.requests.address().add(self.indexes.host, address, prefix);
        let header = &mut request.message_mut().header;
        match address {
            // Otherwise the kernel would use it as the source on other links that have no address.
            IpAddr::V4(_) => header.scope = AddressScope::Link,
            IpAddr::V6(_) => header.flags |= AddressHeaderFlags::Nodad,
        }
        request.execute().await.map_err(system(format!("adding the address {address}")))
    }

    async fn add_route(&self, to: IpNet, via: IpAddr, source: IpAddr) -> Result<(), PairError> {
        let invalid =
            |_| PairError::System { doing: format!("a route to {to}"), source: io::ErrorKind::InvalidInput.into() };
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .and_then(|route| route.gateway(via))
            .and_then(|route| route.pref_source(source))
            .map_err(invalid)?
            .output_interface(self.indexes.host)
            .protocol(PROTOCOL)
            .priority(METRIC);
        match self.requests.route().add(route.build()).execute().await.map_err(plain) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                warn!("the host has a route to {to} with metric {METRIC}: its processes do not reach Services there");
                Ok(())
            }
            other => other.map_err(|source| PairError::System { doing: format!("adding the route to {to}"), source }),
        }
    }
}

impl Drop for HostPair {
    fn drop(&mut self) {
        if !self.is_owned {
            return;
        }
        // The other end goes with it, and so do addresses, neighbours and routes.
        let removed = self.runtime.block_on(self.requests.link().del(self.indexes.host).execute()).map_err(plain);
        match removed {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                warn!("the host pair is left: {error}; remove it: ip link del {}", pair::HOST);
            }
            _ => {}
        }
    }
}

/// An interface of the host.
struct Found {
    index: u32,
    name: String,
    mac: Option<Mac>,
    mtu: u32,
    is_veth: bool,
}

impl Found {
    fn of(message: &LinkMessage) -> Found {
        let mut found =
            Found { index: message.header.index, name: String::new(), mac: None, mtu: ETHERNET_MTU, is_veth: false };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => found.name.clone_from(name),
                LinkAttribute::Address(bytes) => found.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
                LinkAttribute::LinkInfo(info) => {
                    found.is_veth = info.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        found
    }

    /// Whether it is an end of a pair that pollgate made.
    fn is_ours(&self) -> bool {
        self.is_veth && [Some(pair::HOST_MAC), Some(pair::DATA_MAC)].contains(&self.mac)
    }
}

async fn links(requests: &Handle) -> Result<Vec<Found>, PairError> {
    let links = requests.link().get().execute().map_ok(|message| Found::of(&message)).try_collect().await;
    links.map_err(system("reading the interfaces"))
}

async fn index(requests: &Handle, name: &str) -> Result<u32, PairError> {
    let doing = || format!("looking for {name}");
    let message = requests.link().get().match_name(name.to_owned()).execute().try_next().await;
    let message = message.map_err(system(doing()))?;
    let message =
        message.ok_or_else(|| PairError::System { doing: doing(), source: io::ErrorKind::NotFound.into() })?;
    Ok(message.header.index)
}

/// The interface of one of the pair's names that pollgate did not make, if there is one.
fn foreign(links: &[Found]) -> Option<&Found> {
    links.iter().find(|link| [pair::HOST, pair::DATA].contains(&link.name.as_str()) && !link.is_ours())
}

/// Whether [`HostPair::make`] would find the names in use by others.
pub fn look() -> Result<(), PairError> {
    let io = |source| PairError::System { doing: "asking the kernel".to_owned(), source };
    let runtime = runtime().map_err(io)?;
    runtime.block_on(async {
        let requests = connect().map_err(io)?;
        let links = links(&requests).await?;
        match foreign(&links) {
            Some(link) => Err(PairError::Foreign { name: link.name.clone() }),
            None => look_for_address(&requests, &links).await,
        }
    })
}

/// Whether the pair that pollgate made under these indexes is there.
fn is_there(links: &[Found], indexes: Indexes) -> bool {
    let has = |name: &str, index| links.iter().any(|link| link.name == name && link.index == index && link.is_ours());
    has(pair::HOST, indexes.host) && has(pair::DATA, indexes.data)
}

async fn remove_left_over(requests: &Handle, links: &[Found]) -> Result<(), PairError> {
    if let Some(link) = foreign(links) {
        return Err(PairError::Foreign { name: link.name.clone() });
    }
    for link in links.iter().filter(|link| [pair::HOST, pair::DATA].contains(&link.name.as_str())) {
        match requests.link().del(link.index).execute().await.map_err(plain) {
            // It went with the other end.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            other => other.map_err(|source| PairError::System { doing: format!("removing {}", link.name), source })?,
        }
    }
    Ok(())
}

/// Looks for another interface on the pair's IPv4 network. IPv6 link-local addresses are separate on each link.
async fn look_for_address(requests: &Handle, links: &[Found]) -> Result<(), PairError> {
    let network = IpNet::new(pair::HOST_V4.into(), pair::PREFIX_V4).map(|net| net.trunc()).ok();
    let mut addresses = requests.address().get().execute();
    while let Some(message) = addresses.try_next().await.map_err(system("reading the addresses"))? {
        if message.header.family != AddressFamily::Inet {
            continue;
        }
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        let link = links.iter().find(|link| link.index == message.header.index);
        let Some(address) = address.filter(|address| network.is_some_and(|network| network.contains(address))) else {
            continue;
        };
        if !link.is_some_and(Found::is_ours) {
            let interface = link.map_or_else(|| message.header.index.to_string(), |link| link.name.clone());
            return Err(PairError::AddressTaken { interface, address });
        }
    }
    Ok(())
}

fn mtu(links: &[Found], interfaces: &[String]) -> u32 {
    let polled = links.iter().filter(|link| interfaces.contains(&link.name)).map(|link| link.mtu);
    polled.min().unwrap_or(ETHERNET_MTU)
}

/// `wanted`: the indexes that they are to have; otherwise the kernel chooses.
async fn add_links(requests: &Handle, mtu: u32, wanted: Option<Indexes>) -> Result<(), PairError> {
    let attributes = |name: &str, mac: Mac| {
        let (name, mac) = (name.to_owned(), mac.0.to_vec());
        [LinkAttribute::IfName(name), LinkAttribute::Address(mac), LinkAttribute::Mtu(mtu)]
    };
    let mut peer = LinkMessage::default();
    peer.attributes.extend(attributes(pair::DATA, pair::DATA_MAC));
    peer.header.index = wanted.map_or(0, |indexes| indexes.data);
    let mut message = LinkVeth::new(pair::HOST, pair::DATA).build();
    message.attributes.clear();
    message.attributes.extend(attributes(pair::HOST, pair::HOST_MAC));
    message.header.index = wanted.map_or(0, |indexes| indexes.host);
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    let doing = format!("creating {} and {}", pair::HOST, pair::DATA);
    requests.link().add(message).execute().await.map_err(system(doing))
}

/// Sets those that are not as they must be.
fn set_sysctls(plan: &PairPlan) -> Result<(), PairError> {
    let wrong = plan.sysctls().into_iter().filter(|(key, value)| query::sysctl(key).as_deref() != Some(*value));
    for (key, value) in wrong {
        query::set_sysctl(&key, value).map_err(|source| PairError::Sysctl { key, value, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Purpose;

    fn plan(more: &str) -> Option<PairPlan> {
        let text = format!("interfaces: [{{name: eth1}}]\n{more}");
        PairPlan::of(&Config::parse("gateway.yaml", &text, Purpose::Run).expect("a config"))
    }

    #[test]
    fn routes_are_what_the_configuration_gives_to_pollgate() {
        let with = "addresses: [192.168.50.10, \"2001:db8:50::10\"]\n\
                    cluster: { serviceCIDRs: [10.96.0.0/16, \"fd00:96::/112\"], \
                    loadBalancerPools: [203.0.113.1-203.0.113.4, 198.51.100.7] }\n\
                    dns: { address: [10.96.0.10, 169.254.20.10] }\n";
        let plan = plan(with).expect("by default there is a pair");
        assert_eq!(
            plan.to_string(),
            "pg-host and pg-data, with routes to 10.96.0.0/16, 169.254.20.10/32, 192.168.50.10/32, 198.51.100.7/32, \
             203.0.113.1/32, 203.0.113.2/31, 203.0.113.4/32, 2001:db8:50::10/128, fd00:96::/112"
        );
    }

    #[test]
    fn a_family_without_a_gateway_address_has_none() {
        let plan = plan("addresses: 192.168.50.10\ncluster: { serviceCIDRs: [10.96.0.0/16, \"fd00:96::/112\"] }\n");
        let plan = plan.expect("a pair");
        assert_eq!(plan.routes.iter().filter(|route| route.addr().is_ipv6()).count(), 0);
        assert_eq!(plan.addresses().count(), 1);
    }

    #[test]
    fn it_can_be_switched_off() {
        assert_eq!(plan("addresses: 192.168.50.10\nhost: { pair: false }\n"), None);
    }
}

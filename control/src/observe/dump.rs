//! The compiled tables and the flows, as the workers see them, in pages.
//!
//! ```json
//! {"table": "frontends", "generation": 7, "continue": "[\"10.96.0.50\",80,6]",
//!  "items": [{"address": "10.96.0.50", "port": 80, "protocol": "TCP", "kind": "ClusterIP", "service": "default/web:http"}]}
//! ```
//!
//! A page is read from one generation, and holds the items behind the key that `continue` of the page before names. Between
//! two pages the tables may change: an item that stays is shown once, one that comes or goes is shown or not. No page costs
//! more memory than its items, and no more time than a look at each entry of one table.
//!
//! Flows are copied by their worker: see [`pollgate_common::inspect`]. Their pages follow the workers, and in each the table.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use pollgate_common::counters::Counters;
use pollgate_common::dns::name::from_wire;
use pollgate_common::dns::records::{Node, Records, rr};
use pollgate_common::epoch::Source;
use pollgate_common::flow::Protocol;
use pollgate_common::inspect::{FlowFilter, FlowRecord, Mailbox};
use pollgate_common::tables::{
    Backend, Frontend, FrontendKey, FrontendKind, OwnedKind, Pool, Ring, ServiceId, ServicePort, Tables,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// Items of a page, if the request names no number.
pub const LIMIT: usize = 500;
/// Items of a page at most.
pub const MAX_LIMIT: usize = 10_000;
/// Backends in all items of a page together, unless its first item has more.
const MAX_BACKENDS: usize = 50_000;

/// What can be dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Addresses, ports and protocols that clients connect to.
    Frontends,
    /// Service ports with their policies and backends.
    Services,
    /// The look-up tables that choose a backend.
    Rings,
    /// Addresses that pollgate owns.
    Owned,
    /// DNS records.
    Zone,
    /// Flows.
    Flows,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 6] =
        [Table::Frontends, Table::Services, Table::Rings, Table::Owned, Table::Zone, Table::Flows];

    /// Its name in paths and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Table::Frontends => "frontends",
            Table::Services => "services",
            Table::Rings => "rings",
            Table::Owned => "owned",
            Table::Zone => "zone",
            Table::Flows => "flows",
        }
    }
}

impl FromStr for Table {
    type Err = ();

    fn from_str(text: &str) -> Result<Table, ()> {
        Table::ALL.into_iter().find(|table| table.name() == text).ok_or(())
    }
}

/// One page of a dump.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The generation of the tables it was read from; for flows, whose Service names it shows.
    pub generation: u64,
    /// Where the next page begins; `None` on the last one.
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<String>,
    /// The table and its items.
    #[serde(flatten)]
    pub items: Items,
}

/// The items of a page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "table", content = "items", rename_all = "lowercase")]
pub enum Items {
    /// In order of address, port and protocol.
    Frontends(Vec<FrontendItem>),
    /// In order of their index.
    Services(Vec<ServiceItem>),
    /// In order of the Service's index.
    Rings(Vec<RingItem>),
    /// In order of the address.
    Owned(Vec<OwnedItem>),
    /// In order of the name.
    Zone(Vec<ZoneItem>),
    /// In order of the worker and its table.
    Flows(Vec<FlowItem>),
}

/// An address, port and protocol that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendItem {
    /// The owned address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The transport protocol.
    pub protocol: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: String,
    /// The Service port it leads to.
    pub service: String,
}

/// A Service port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceItem {
    /// `namespace/name:port`.
    pub service: String,
    /// Its index in the tables.
    pub index: u32,
    /// How many Service ports had this index before.
    pub incarnation: u16,
    /// What clients connect to.
    pub frontends: Vec<FrontendItem>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: String,
    /// `None` or `ClientIP`.
    pub session_affinity: String,
    /// Which clients are let in at load-balancer addresses; all if empty and not closed.
    pub source_ranges: Vec<String>,
    /// Whether the source ranges let no client of this family in.
    pub closed: bool,
    /// Whether any endpoint could serve at all; otherwise clients are refused.
    pub has_endpoints: bool,
    /// The endpoints, by slot.
    pub backends: Vec<BackendItem>,
}

/// An endpoint of a Service port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendItem {
    /// Its slot.
    pub slot: u16,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// How many endpoints had this slot before.
    pub incarnation: u16,
    /// Whether it is serving; UDP flows move off one that is not.
    pub serving: bool,
    /// Whether new flows under policy Cluster may get it.
    pub cluster: bool,
    /// Whether new flows under policy Local may get it.
    pub local: bool,
}

/// A ring of a Service port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingItem {
    /// `namespace/name:port`.
    pub service: String,
    /// The Service's index in the tables.
    pub index: u32,
    /// The traffic policy it is for: `Cluster` or `Local`.
    pub policy: String,
    /// Its entries.
    pub size: usize,
    /// A hash of size, entries and backends. Two gateways with the same digest pick the same backend for every flow.
    pub digest: String,
    /// Its backends, in the ring's order.
    pub backends: Vec<ShareItem>,
}

/// A backend's share of a ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareItem {
    /// The backend.
    pub backend: SocketAddr,
    /// How many entries of the ring name it.
    pub entries: usize,
}

/// An owned address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedItem {
    /// The address.
    pub address: IpAddr,
    /// `Gateway`, `ClusterIP`, `LoadBalancer` or `ExternalIP`.
    pub kind: String,
}

/// The records of one name and type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneItem {
    /// The name, with the final dot.
    pub name: String,
    /// `A`, `AAAA`, `CNAME`, or `TYPE` and a number; empty for a name that exists without records.
    #[serde(rename = "type")]
    pub rtype: String,
    /// Seconds.
    pub ttl: u32,
    /// The records' data.
    pub data: Vec<String>,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowItem {
    /// The worker that has it.
    pub worker: usize,
    /// The transport protocol.
    pub protocol: String,
    /// The client.
    pub client: SocketAddr,
    /// What the client connects to.
    pub frontend: SocketAddr,
    /// The source that the backend sees.
    pub source: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// The Service port; `None` if it is not served any more.
    pub service: Option<String>,
    /// `opening`, `replied`, `established`, `half-closed` or `closing`.
    pub state: String,
    /// Seconds since the client's last packet, to about a second.
    pub client_idle: u64,
    /// Seconds since the backend's last packet, to about a second.
    pub backend_idle: u64,
}

/// Which items are asked for. What is not set matches every item; what an item does not have is not compared.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Filter {
    /// An address of the item.
    pub address: Option<IpAddr>,
    /// A port of the item.
    pub port: Option<u16>,
    /// Its transport protocol.
    pub protocol: Option<Protocol>,
    /// Its Service: `namespace/name`, or one port of it, `namespace/name:port`.
    pub service: Option<String>,
}

impl Filter {
    fn service(&self, name: &str) -> bool {
        self.service.as_deref().is_none_or(|wanted| {
            name.strip_prefix(wanted)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(':') && !wanted.contains(':'))
        })
    }

    /// Whether `name`, as text, is the Service's name in the zone `origin` or below it; with a port, whether it is that port's.
    fn zone_name(&self, name: &str, origin: &str) -> bool {
        let Some(wanted) = self.service.as_deref() else { return true };
        let (service, port) = wanted.split_once(':').map_or((wanted, None), |(service, port)| (service, Some(port)));
        let Some((namespace, own)) = service.split_once('/') else { return false };
        let Some(below) = name.strip_suffix(&format!("{own}.{namespace}.svc.{origin}")) else { return false };
        match port {
            None => below.is_empty() || below.ends_with('.'),
            Some(port) => below.strip_prefix(&format!("_{port}._")).is_some_and(|protocol| protocol.ends_with('.')),
        }
    }

    fn address(&self, address: IpAddr) -> bool {
        self.address.is_none_or(|wanted| wanted == address)
    }

    fn frontend(&self, key: &FrontendKey) -> bool {
        self.address(key.address)
            && self.port.is_none_or(|port| port == key.port)
            && self.protocol.is_none_or(|protocol| protocol == key.protocol)
    }

    /// By name, and by one frontend or backend.
    fn port_of(&self, service: &ServicePort) -> bool {
        let frontend = || service.frontends.iter().any(|(key, _)| self.frontend(key));
        let backend = || {
            self.protocol.is_none()
                && service
                    .backends
                    .iter()
                    .any(|backend| self.address(backend.address) && self.port.is_none_or(|port| port == backend.port))
        };
        let any_end = self.address.is_none() && self.port.is_none() && self.protocol.is_none();
        self.service(&service.name) && (any_end || frontend() || backend())
    }
}

/// What is asked for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which items.
    pub filter: Filter,
    /// How many at most.
    pub limit: usize,
    /// `continue` of the page before.
    pub after: Option<String>,
}

/// Where to read what is dumped.
#[derive(Clone)]
pub struct DumpSource {
    /// The published tables.
    pub tables: Source,
    /// The workers' mailboxes, in their order.
    pub mailboxes: Arc<[Arc<Mailbox>]>,
    /// The workers' counters.
    pub counters: Arc<Counters>,
    /// `flows.max`.
    pub max_flows: usize,
}

/// `continue` was not made here, or for another table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadToken;

/// A page of a compiled table; `None` for flows, which no compiled table holds.
///
/// # Errors
/// If `continue` is not of this table.
pub fn page(tables: &Tables, table: Table, query: &Query) -> Result<Option<Page>, BadToken> {
    let (items, rest) = match table {
        Table::Frontends => frontends(tables, query)?,
        Table::Services => services(tables, query)?,
        Table::Rings => rings(tables, query)?,
        Table::Owned => owned(tables, query)?,
        Table::Zone => zone(tables, query)?,
        Table::Flows => return Ok(None),
    };
    Ok(Some(Page { generation: tables.generation(), rest, items }))
}

/// The filter as a worker understands it, under these tables.
pub fn flow_filter(tables: &Tables, filter: &Filter) -> FlowFilter {
    let Filter { address, port, protocol, service } = filter;
    let services = service.as_ref().map(|_| {
        let named = tables.services().filter(|service| filter.service(&service.name));
        let mut ids: Vec<ServiceId> = named.map(|service| service.id).collect();
        ids.sort_unstable_by_key(|id| id.index);
        ids.into()
    });
    FlowFilter { address: *address, port: *port, protocol: *protocol, services }
}

/// A flow of `worker`, with the name its Service port has under these tables.
pub fn flow_item(tables: &Tables, worker: usize, flow: &FlowRecord) -> FlowItem {
    FlowItem {
        worker,
        protocol: flow.protocol.map(|protocol| protocol.to_string()).unwrap_or_default(),
        client: flow.client,
        frontend: flow.frontend,
        source: flow.source,
        backend: flow.backend,
        service: tables.service_by_id(flow.service).map(|service| service.name.to_string()),
        state: flow.state.to_owned(),
        client_idle: flow.client_idle.as_secs(),
        backend_idle: flow.backend_idle.as_secs(),
    }
}

/// Where a dump of flows goes on: the worker, and the place in its table.
pub fn flow_token(worker: usize, next: u32) -> String {
    token(&(worker, next))
}

/// The reverse of [`flow_token`]; the beginning without one.
///
/// # Errors
/// If it is no such token.
pub fn flow_place(after: Option<&str>) -> Result<(usize, u32), BadToken> {
    Ok(key(after)?.unwrap_or_default())
}

type Answer = (Items, Option<String>);

fn frontends(tables: &Tables, query: &Query) -> Result<Answer, BadToken> {
    let name = |index: u32| tables.service(index).map(|service| &*service.name).unwrap_or_default();
    let wanted = |key: &FrontendKey, frontend: &Frontend| {
        query.filter.frontend(key) && query.filter.service(name(frontend.service))
    };
    let keyed = tables.frontends().filter(|(key, frontend)| wanted(key, frontend));
    let keyed = keyed.map(|(key, frontend)| ((key.address, key.port, key.protocol.number()), (*key, *frontend)));
    let (page, rest) = least(keyed, query)?;
    let item = |(key, frontend): (FrontendKey, Frontend)| frontend_item(&key, frontend.kind, name(frontend.service));
    Ok((Items::Frontends(page.into_iter().map(item).collect()), rest))
}

fn frontend_item(key: &FrontendKey, kind: FrontendKind, service: &str) -> FrontendItem {
    let FrontendKey { address, port, protocol } = *key;
    let kind = match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::External => "ExternalIP",
    };
    let (protocol, kind, service) = (protocol.to_string(), kind.to_owned(), service.to_owned());
    FrontendItem { address, port, protocol, kind, service }
}

fn owned(tables: &Tables, query: &Query) -> Result<Answer, BadToken> {
    let wanted = tables.owned_addresses().filter(|(address, _)| query.filter.address(*address));
    let (page, rest) = least(wanted.map(|owned| (owned.0, owned)), query)?;
    let item = |(address, kind): (IpAddr, OwnedKind)| {
        let kind = match kind {
            OwnedKind::Gateway => "Gateway",
            OwnedKind::ClusterIp => "ClusterIP",
            OwnedKind::LoadBalancer => "LoadBalancer",
            OwnedKind::External => "ExternalIP",
            OwnedKind::Pair => "HostPair",
        };
        OwnedItem { address, kind: kind.to_owned() }
    };
    Ok((Items::Owned(page.into_iter().map(item).collect()), rest))
}

fn services(tables: &Tables, query: &Query) -> Result<Answer, BadToken> {
    let after: Option<u32> = key(query.after.as_deref())?;
    let wanted = tables.services().filter(|service| after.is_none_or(|after| service.id.index > after));
    let mut wanted = wanted.filter(|service| query.filter.port_of(service)).peekable();
    let (mut items, mut backends, mut last) = (Vec::new(), 0, None);
    while let Some(service) = wanted.next_if(|service| has_room(items.len(), backends, service, query.limit)) {
        backends += service.backends.len();
        last = Some(service.id.index);
        items.push(service_item(service));
    }
    let rest = wanted.peek().and(last).map(|index| token(&index));
    Ok((Items::Services(items), rest))
}

/// Whether a page of so many items, with so many backends, takes another one.
fn has_room(items: usize, backends: usize, next: &ServicePort, limit: usize) -> bool {
    items == 0 || items < limit && backends + next.backends.len() <= MAX_BACKENDS
}

fn service_item(service: &ServicePort) -> ServiceItem {
    let policy = |is_local: bool| if is_local { "Local" } else { "Cluster" }.to_owned();
    let affinity = if service.client_ip_affinity.is_some() { "ClientIP" } else { "None" };
    let (cluster, local) = (members(service, &service.cluster), members(service, &service.local));
    let backend = |(slot, backend): (usize, &Backend)| BackendItem {
        slot: u16::try_from(slot).unwrap_or(u16::MAX),
        address: backend.address,
        port: backend.port,
        incarnation: backend.incarnation,
        serving: backend.serving,
        cluster: cluster[slot],
        local: local[slot],
    };
    ServiceItem {
        service: service.name.to_string(),
        index: service.id.index,
        incarnation: service.id.incarnation,
        frontends: service.frontends.iter().map(|(key, kind)| frontend_item(key, *kind, &service.name)).collect(),
        internal_traffic_policy: policy(service.internal_local),
        external_traffic_policy: policy(service.external_local),
        session_affinity: affinity.to_owned(),
        source_ranges: service.source_ranges.iter().map(ToString::to_string).collect(),
        closed: service.closed_to_family,
        has_endpoints: service.has_any,
        backends: service.backends.iter().enumerate().map(backend).collect(),
    }
}

/// By slot, whether the backend is in the pool.
fn members(service: &ServicePort, pool: &Pool) -> Vec<bool> {
    let mut is_in = vec![false; service.backends.len()];
    for &slot in pool.slots() {
        if let Some(is_in) = is_in.get_mut(usize::from(slot)) {
            *is_in = true;
        }
    }
    is_in
}

fn rings(tables: &Tables, query: &Query) -> Result<Answer, BadToken> {
    let after: Option<(u32, bool)> = key(query.after.as_deref())?;
    let pools = tables.services().filter(|service| query.filter.port_of(service)).flat_map(|service| {
        [(false, &service.cluster), (true, &service.local)].map(|(is_local, pool)| (service, is_local, pool))
    });
    let is_behind = |service: &ServicePort, is_local| after.is_none_or(|after| (service.id.index, is_local) > after);
    let mut pools =
        pools.filter(|(service, is_local, pool)| !pool.is_empty() && is_behind(service, *is_local)).peekable();
    let (mut items, mut backends, mut last, mut known) = (Vec::new(), 0, None, BTreeMap::new());
    while let Some((service, is_local, pool)) =
        pools.next_if(|(service, ..)| has_room(items.len(), backends, service, query.limit))
    {
        backends += pool.slots().len();
        last = Some((service.id.index, is_local));
        items.push(ring_item(service, is_local, pool, &mut known));
    }
    let rest = pools.peek().and(last).map(|last| token(&last));
    Ok((Items::Rings(items), rest))
}

/// How often each ordinal is in a ring, by the ring's place in memory: equal pools share one.
type Known = BTreeMap<usize, Arc<[usize]>>;

fn ring_item(service: &ServicePort, is_local: bool, pool: &Pool, known: &mut Known) -> RingItem {
    let ring = pool.ring();
    let counts = known.entry(Arc::as_ptr(ring).addr()).or_insert_with(|| counts(ring, pool.slots().len()));
    let backend = |slot: u16| service.backends.get(usize::from(slot)).map(|b| SocketAddr::new(b.address, b.port));
    let backends = pool.slots().iter().zip(counts.iter());
    let backends: Vec<ShareItem> =
        backends.filter_map(|(&slot, &entries)| Some(ShareItem { backend: backend(slot)?, entries })).collect();
    RingItem {
        service: service.name.to_string(),
        index: service.id.index,
        policy: if is_local { "Local" } else { "Cluster" }.to_owned(),
        size: ring.entries().len(),
        digest: digest(ring, &backends),
        backends,
    }
}

pub(super) fn counts(ring: &Ring, ordinals: usize) -> Arc<[usize]> {
    let mut counts = vec![0; ordinals];
    for &ordinal in ring.entries() {
        if let Some(count) = counts.get_mut(usize::from(ordinal)) {
            *count += 1;
        }
    }
    counts.into()
}

fn digest(ring: &Ring, backends: &[ShareItem]) -> String {
    let mut hasher = SipHasher13::new();
    hasher.write_usize(ring.entries().len());
    ring.entries().iter().for_each(|ordinal| hasher.write(&ordinal.to_be_bytes()));
    backends.iter().for_each(|share| hasher.write(share.backend.to_string().as_bytes()));
    format!("{:016x}", hasher.finish())
}

fn zone(tables: &Tables, query: &Query) -> Result<Answer, BadToken> {
    let zone = tables.zone();
    let origin = from_wire(&zone.settings().origin);
    let is_all = query.filter.service.is_none();
    let nodes = zone.names().iter().filter(|node| is_all || query.filter.zone_name(&from_wire(node.name()), &origin));
    let sets = nodes.flat_map(|node| sets(node).map(move |set| (node.name(), set)));
    let has = |set: &Records<'_>, address| records(set.answers).any(|record| record.address() == Some(address));
    let wanted = |(_, set): &(_, Option<Records<'_>>)| {
        query.filter.address.is_none_or(|address| set.is_some_and(|set| has(&set, address)))
    };
    let key = |name: &[u8], set: Option<Records<'_>>| (from_wire(name), set.map_or(0, |set| set.rtype));
    let keyed = sets.filter(wanted).map(|(name, set)| (key(name, set), (name, set)));
    let (page, rest) = least(keyed, query)?;
    let item = |(name, set): (&[u8], Option<Records<'_>>)| ZoneItem {
        name: from_wire(name),
        rtype: set.map(|set| type_name(set.rtype)).unwrap_or_default(),
        ttl: set.and_then(|set| records(set.answers).next()).map_or_else(|| zone.settings().ttl, |record| record.ttl),
        data: set.into_iter().flat_map(|set| records(set.answers)).map(|record| record.text()).collect(),
    };
    Ok((Items::Zone(page.into_iter().map(item).collect()), rest))
}

/// The record sets of a name; a name without any has one empty line.
fn sets(node: &Node) -> impl Iterator<Item = Option<Records<'_>>> {
    let none = node.sets().next().is_none().then_some(None);
    node.sets().map(Some).chain(none)
}

pub(super) fn type_name(rtype: u16) -> String {
    let name = match rtype {
        rr::A => "A",
        rr::NS => "NS",
        rr::CNAME => "CNAME",
        rr::SOA => "SOA",
        rr::PTR => "PTR",
        rr::HINFO => "HINFO",
        rr::TXT => "TXT",
        rr::AAAA => "AAAA",
        rr::SRV => "SRV",
        other => return format!("TYPE{other}"),
    };
    name.to_owned()
}

/// One record of a set.
struct Record<'a> {
    rtype: u16,
    ttl: u32,
    data: &'a [u8],
}

impl Record<'_> {
    fn address(&self) -> Option<IpAddr> {
        match self.rtype {
            rr::A => <[u8; 4]>::try_from(self.data).ok().map(IpAddr::from),
            rr::AAAA => <[u8; 16]>::try_from(self.data).ok().map(IpAddr::from),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match (self.address(), self.rtype) {
            (Some(address), _) => address.to_string(),
            (None, rr::CNAME | rr::NS | rr::PTR) => from_wire(self.data),
            (None, rr::SRV) => match self.data.split_first_chunk::<6>() {
                Some(([p0, p1, w0, w1, n0, n1], target)) => {
                    let [priority, weight, port] = [[*p0, *p1], [*w0, *w1], [*n0, *n1]].map(u16::from_be_bytes);
                    format!("{priority} {weight} {port} {}", from_wire(target))
                }
                None => String::new(),
            },
            (None, rr::TXT) => {
                let text = self.data.get(1..).map(String::from_utf8_lossy).unwrap_or_default();
                format!("\"{text}\"")
            }
            // RFC 3597 §5.
            (None, _) => {
                let hex: String = self.data.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("\\# {} {hex}", self.data.len())
            }
        }
    }
}

/// The records of a set: pointer to the name, type, class, TTL, length, data (RFC 1035 §3.2.1).
fn records(mut bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<12>()?;
        let [_, _, t0, t1, _, _, ttl @ .., l0, l1] = head;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*l0, *l1])))?;
        bytes = rest;
        Some(Record { rtype: u16::from_be_bytes([*t0, *t1]), ttl: u32::from_be_bytes(*ttl), data })
    })
}

/// The items with the smallest keys behind the query's, as many as a page holds, and the token of the next page.
fn least<K, V>(items: impl Iterator<Item = (K, V)>, query: &Query) -> Result<(Vec<V>, Option<String>), BadToken>
where
    K: Ord + Serialize + DeserializeOwned,
{
    let after: Option<K> = key(query.after.as_deref())?;
    let mut page: Vec<(K, V)> = Vec::new();
    let mut is_cut = false;
    let mut cut = |page: &mut Vec<(K, V)>| {
        if page.len() > query.limit {
            page.select_nth_unstable_by(query.limit - 1, |a, b| a.0.cmp(&b.0));
            page.truncate(query.limit);
            is_cut = true;
        }
    };
    for item in items.filter(|(key, _)| after.as_ref().is_none_or(|after| key > after)) {
        page.push(item);
        // Selecting costs as much as what it looks at: do it once per page of items.
        if page.len() == 2 * query.limit {
            cut(&mut page);
        }
    }
    cut(&mut page);
    page.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let rest = page.last().filter(|_| is_cut).map(|(key, _)| token(key));
    Ok((page.into_iter().map(|(_, value)| value).collect(), rest))
}

fn token(key: &impl Serialize) -> String {
    serde_json::to_string(key).unwrap_or_default()
}

fn key<K: DeserializeOwned>(after: Option<&str>) -> Result<Option<K>, BadToken> {
    after.map(serde_json::from_str).transpose().map_err(|_| BadToken)
}

#[cfg(test)]
pub(crate) mod tests;

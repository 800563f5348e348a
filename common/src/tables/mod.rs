//! The compiled tables: what a worker looks at, and the one builder that proves every index in them.
//!
//! ```text
//!   (address, port, protocol) ─frontends─▶ Frontend ─┐
//!   address ─owned─▶ Owned                           ▼
//!                                    services[index] Service ─ cluster │ local ─▶ Pool: Ring ─ordinal─▶ order ─slot─▶ Backend
//! ```
//!
//! * **Immutable**: a worker reads one pointer a burst and sees one consistent state.
//! * **Structurally shared**: maps are [`Sharded`] and services into chunks, each behind an `Arc`; the next
//!   generation copies a few hundred pointers and only the shards and chunks it changes, not all services. Rings are
//!   shared between all pools with the same backends in the same order.
//! * **Proved once**: [`Builder`] is the only way to make a [`Tables`] and refuses an index that leads nowhere, so the
//!   look-ups below have nothing to fail on; they answer `Option` all the same, and no reader can be made to panic.
//!
//! A *service* here is one port of a Kubernetes Service (namespace/name, port name, protocol): each is balanced by
//! itself, as kube-proxy does (Kubernetes `pkg/proxy/types.go`, ServicePortName).

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;

use crate::counters::MAX_SERVICES;
use crate::dns::zone::Zone;
use crate::flow::Protocol;
use crate::hash::RingHash;
use crate::net::Net;
use crate::sharded::Sharded;

/// What stays the same for the life of the process.
#[derive(Debug)]
pub struct DataplaneSettings {
    /// IPv4 gateway addresses: node ports and SNAT live on them.
    pub gateway_v4: Vec<Ipv4Addr>,
    /// IPv6 gateway addresses.
    pub gateway_v6: Vec<Ipv6Addr>,
    /// Addresses at which DNS is answered.
    pub dns: Vec<IpAddr>,
    /// Sources in here are Pods.
    pub pod_cidrs: Vec<IpNet>,
    /// ClusterIPs lie in here.
    pub service_cidrs: Vec<IpNet>,
    /// SNAT Pods' traffic to ClusterIPs as well (kube-proxy's `--masquerade-all`).
    pub masquerade_all: bool,
    /// Source ports for SNAT.
    pub snat_ports: RangeInclusive<u16>,
    /// The hash two gateways agree on.
    pub ring_hash: RingHash,
}

impl DataplaneSettings {
    /// Whether `address` is a Pod's.
    pub fn is_pod(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|cidr| cidr.contains(&address))
    }

    /// Whether `address` lies where ClusterIPs come from.
    pub fn is_service_cidr(&self, address: IpAddr) -> bool {
        self.service_cidrs.iter().any(|cidr| cidr.contains(&address))
    }
}

/// What kind of address a packet was sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum OwnedKind {
    /// A gateway address.
    Gateway,
    /// A ClusterIP (the DNS address counts as one).
    ClusterIp,
    /// A load balancer's address.
    LoadBalancer,
    /// A Service's external IP.
    External,
}

/// An address pollgate owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owned {
    /// What it is.
    pub kind: OwnedKind,
    /// How many frontends (and settings) claim it.
    claims: u32,
}

/// What a client connects to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct FrontendKey {
    /// The owned address.
    pub address: IpAddr,
    /// Port, host order.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl Hash for FrontendKey {
    /// In as few words as there are: every new flow looks one up.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let rest = u64::from(self.port) << 8 | u64::from(self.protocol.number());
        match self.address {
            IpAddr::V4(v4) => state.write_u64(u64::from(v4.to_bits()) << 32 | rest),
            IpAddr::V6(v6) => {
                state.write_u128(v6.to_bits());
                state.write_u64(rest);
            }
        }
    }
}

/// How a frontend came to be: decides policy and SNAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    /// ClusterIP:port.
    ClusterIp,
    /// Gateway address:nodePort.
    NodePort,
    /// Load-balancer address:port.
    LoadBalancer,
    /// External IP:port.
    External,
}

impl FrontendKind {
    /// Whether the internal traffic policy governs it; otherwise the external one does.
    pub fn is_internal(self) -> bool {
        self == FrontendKind::ClusterIp
    }

    /// What it makes of its address.
    pub fn owned(self) -> OwnedKind {
        match self {
            FrontendKind::ClusterIp => OwnedKind::ClusterIp,
            FrontendKind::NodePort => OwnedKind::Gateway,
            FrontendKind::LoadBalancer => OwnedKind::LoadBalancer,
            FrontendKind::External => OwnedKind::External,
        }
    }
}

/// The value behind a [`FrontendKey`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// Index into the services.
    pub service: u32,
    /// How it came to be.
    pub kind: FrontendKind,
}

/// Names a service across generations: the index is reused, the incarnation then differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct ServiceId {
    /// Place in the tables, below [`MAX_SERVICES`].
    pub index: u32,
    /// Moves when the place goes to another service.
    pub incarnation: u16,
}

/// One endpoint of one service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend {
    /// The Pod's address.
    pub address: IpAddr,
    /// The port on it, host order.
    pub port: u16,
    /// Moves when the slot goes to another endpoint.
    pub incarnation: u16,
    /// Whether it (still) answers: a UDP flow to one that does not is moved.
    pub serving: bool,
}

/// A Maglev look-up table: hash → ordinal of a backend in its pool.
#[derive(Debug, PartialEq, Eq)]
pub struct Ring {
    entries: Box<[u16]>,
    /// One more than the highest ordinal; 0 for an empty ring.
    ordinals: usize,
}

impl Ring {
    /// From its entries.
    pub fn new(entries: Box<[u16]>) -> Ring {
        // Not `max()`: of this the compiler makes vector instructions.
        let highest = entries.iter().fold(0, |highest, &ordinal| ordinal.max(highest));
        let ordinals = if entries.is_empty() { 0 } else { usize::from(highest) + 1 };
        Ring { entries, ordinals }
    }

    /// The ordinal for `hash`: the entry at `⌊hash · size / 2⁶⁴⌋`. `None` only for an empty ring.
    #[inline]
    pub fn pick(&self, hash: u64) -> Option<u16> {
        let at = (u128::from(hash) * self.entries.len() as u128) >> 64;
        self.entries.get(usize::try_from(at).ok()?).copied()
    }

    /// The entries.
    pub fn entries(&self) -> &[u16] {
        &self.entries
    }
}

/// Backends that may be chosen under one policy.
#[derive(Clone, Debug)]
pub struct Pool {
    ring: Arc<Ring>,
    order: Box<[u16]>,
}

impl Pool {
    /// `order[ordinal]` is the slot of the backend that `ring` calls `ordinal`.
    pub fn new(ring: Arc<Ring>, order: Box<[u16]>) -> Pool {
        Pool { ring, order }
    }

    /// A pool nobody is in.
    pub fn empty() -> Pool {
        Pool { ring: Arc::new(Ring::new(Box::default())), order: Box::default() }
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The slots of those in it, in the ring's order.
    pub fn slots(&self) -> &[u16] {
        &self.order
    }

    /// The ring.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }
}

/// One port of a Kubernetes Service, compiled.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Its id.
    pub id: ServiceId,
    /// `namespace/name:port`, for people.
    pub name: Arc<str>,
    /// Everything a client can connect to that leads here.
    pub frontends: Box<[(FrontendKey, FrontendKind)]>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `sessionAffinity: ClientIP`: choose by the source address alone.
    pub client_ip_affinity: bool,
    /// `loadBalancerSourceRanges` of this family; empty lets everybody in, unless `closed_to_family`.
    pub source_ranges: Box<[IpNet]>,
    /// There are source ranges, but none of this family: nobody is let in.
    pub closed_to_family: bool,
    /// Endpoints by slot; slots are stable while the endpoint lives.
    pub backends: Box<[Backend]>,
    /// Who may be chosen under policy Cluster.
    pub cluster: Pool,
    /// Who may be chosen under policy Local.
    pub local: Pool,
    /// Whether any endpoint could serve at all: otherwise REJECT, even where the pool in use is empty.
    pub has_any: bool,
    /// What its counters showed when it got its place: (packets, bytes, flows) of whoever had it before.
    pub counted: (u64, u64, u64),
}

impl ServicePort {
    /// The backend `pool` chooses for `hash`: (slot, backend).
    #[inline]
    pub fn choose<'a>(&'a self, pool: &Pool, hash: u64) -> Option<(u16, &'a Backend)> {
        let ordinal = pool.ring.pick(hash)?;
        let slot = *pool.order.get(usize::from(ordinal))?;
        Some((slot, self.backends.get(usize::from(slot))?))
    }

    /// Whether the backend a flow was given is still that one and still serving.
    #[inline]
    pub fn still_serves(&self, slot: u16, incarnation: u16) -> bool {
        self.backends.get(usize::from(slot)).is_some_and(|b| b.incarnation == incarnation && b.serving)
    }
}

const CHUNK: usize = 64;

type Chunk = [Option<Arc<ServicePort>>; CHUNK];

/// One generation of everything a worker needs to know.
#[derive(Clone, Debug)]
pub struct Tables {
    generation: u64,
    settings: Arc<DataplaneSettings>,
    net: Arc<Net>,
    zone: Arc<Zone>,
    frontends: Sharded<FrontendKey, Frontend>,
    owned: Sharded<IpAddr, Owned>,
    services: Vec<Arc<Chunk>>,
}

impl Tables {
    /// Grows by one with each publication; the first is 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What stays the same.
    pub fn settings(&self) -> &DataplaneSettings {
        &self.settings
    }

    /// The kernel's network.
    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }

    /// The DNS zone.
    pub fn zone(&self) -> &Arc<Zone> {
        &self.zone
    }

    /// What pollgate is to `address`, if it owns it.
    #[inline]
    pub fn owned(&self, address: IpAddr) -> Option<OwnedKind> {
        self.owned.get(&address).map(|owned| owned.kind)
    }

    /// Every owned address.
    pub fn owned_addresses(&self) -> impl Iterator<Item = (IpAddr, OwnedKind)> {
        self.owned.iter().map(|(address, owned)| (*address, owned.kind))
    }

    /// What `key` leads to.
    #[inline]
    pub fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    /// The service at `index`.
    #[inline]
    pub fn service(&self, index: u32) -> Option<&Arc<ServicePort>> {
        let at = index as usize;
        self.services.get(at / CHUNK)?[at % CHUNK].as_ref()
    }

    /// The service with this id, unless its place went to another.
    pub fn service_by_id(&self, id: ServiceId) -> Option<&Arc<ServicePort>> {
        self.service(id.index).filter(|service| service.id == id)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServicePort>> {
        self.services.iter().flat_map(|chunk| chunk.iter().flatten())
    }
}

/// Why tables could not be built. Each is a mistake of the compiler, not of a user.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BuildError {
    /// More services than the tables hold.
    #[error("{name}: place {index} is beyond the {MAX_SERVICES} service ports the tables hold")]
    TooManyServices {
        /// The service.
        name: String,
        /// Its place.
        index: u32,
    },
    /// Two services want the same frontend.
    #[error("{name}: {address}:{port} is taken by {holder}")]
    FrontendTaken {
        /// The service.
        name: String,
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// Who has it.
        holder: String,
    },
    /// A ring entry or an order entry leads nowhere.
    #[error("{name}: its ring or order names a backend it does not have")]
    DanglingIndex {
        /// The service.
        name: String,
    },
}

/// Makes the next generation out of the last one; see the module's text.
#[derive(Debug)]
pub struct Builder {
    tables: Tables,
}

impl Builder {
    /// Starts from nothing: only the addresses of `settings` are owned.
    pub fn new(settings: Arc<DataplaneSettings>, zone: Arc<Zone>) -> Builder {
        let tables = Tables {
            generation: 0,
            net: Arc::new(Net::default()),
            zone,
            frontends: Sharded::default(),
            owned: Sharded::default(),
            services: Vec::new(),
            settings: Arc::clone(&settings),
        };
        let mut builder = Builder { tables };
        let gateway = settings
            .gateway_v4
            .iter()
            .map(|a| IpAddr::V4(*a))
            .chain(settings.gateway_v6.iter().map(|a| IpAddr::V6(*a)));
        gateway.for_each(|address| builder.claim(address, OwnedKind::Gateway));
        settings.dns.iter().for_each(|&address| builder.claim(address, OwnedKind::ClusterIp));
        builder
    }

    /// Replaces the view of the kernel's network.
    pub fn set_net(&mut self, net: Arc<Net>) {
        self.tables.net = net;
    }

    /// Replaces the zone.
    pub fn set_zone(&mut self, zone: Arc<Zone>) {
        self.tables.zone = zone;
    }

    /// Adds or replaces the service at its place, with its frontends; answers which one was there. On an error nothing has
    /// changed.
    pub fn put_service(&mut self, service: Arc<ServicePort>) -> Result<Option<Arc<ServicePort>>, BuildError> {
        self.prove(&service)?;
        let old = self.remove_service(service.id.index);
        let at = service.id.index as usize;
        if self.tables.services.len() <= at / CHUNK {
            self.tables.services.resize_with(at / CHUNK + 1, || Arc::new(std::array::from_fn(|_| None)));
        }
        for &(key, kind) in &service.frontends {
            self.tables.frontends.insert(key, Frontend { service: service.id.index, kind });
            self.claim(key.address, kind.owned());
        }
        self.slot(at).replace(service);
        Ok(old)
    }

    /// Removes the service at `index` and its frontends, and answers it; nothing to do if there is none.
    pub fn remove_service(&mut self, index: u32) -> Option<Arc<ServicePort>> {
        self.tables.service(index)?;
        let old = self.slot(index as usize).take()?;
        for &(key, _) in &old.frontends {
            self.tables.frontends.remove(&key);
            self.disclaim(key.address);
        }
        Some(old)
    }

    /// The tables as they are now, as `generation`.
    pub fn build(&mut self, generation: u64) -> Tables {
        self.tables.generation = generation;
        self.tables.clone()
    }

    /// What is built so far.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    fn slot(&mut self, at: usize) -> &mut Option<Arc<ServicePort>> {
        &mut Arc::make_mut(&mut self.tables.services[at / CHUNK])[at % CHUNK]
    }

    fn prove(&self, service: &ServicePort) -> Result<(), BuildError> {
        let name = || service.name.to_string();
        if service.id.index as usize >= MAX_SERVICES {
            return Err(BuildError::TooManyServices { name: name(), index: service.id.index });
        }
        for pool in [&service.cluster, &service.local] {
            let ring_holds = pool.ring.ordinals <= pool.order.len();
            let order_holds = pool.order.iter().all(|&slot| usize::from(slot) < service.backends.len());
            if !ring_holds || !order_holds || (pool.ring.entries().is_empty() != pool.order.is_empty()) {
                return Err(BuildError::DanglingIndex { name: name() });
            }
        }
        for (key, _) in &service.frontends {
            let holder = self.tables.frontend(key).filter(|f| f.service != service.id.index);
            if let Some(holder) = holder.and_then(|f| self.tables.service(f.service)) {
                let (address, port) = (key.address, key.port);
                return Err(BuildError::FrontendTaken { name: name(), address, port, holder: holder.name.to_string() });
            }
        }
        Ok(())
    }

    fn claim(&mut self, address: IpAddr, kind: OwnedKind) {
        let claims = self.tables.owned.get(&address).map_or(0, |owned| owned.claims);
        let kind = self.tables.owned.get(&address).map_or(kind, |owned| owned.kind);
        self.tables.owned.insert(address, Owned { kind, claims: claims + 1 });
    }

    fn disclaim(&mut self, address: IpAddr) {
        let Some(owned) = self.tables.owned.get(&address).copied() else { return };
        if owned.claims <= 1 {
            self.tables.owned.remove(&address);
        } else {
            self.tables.owned.insert(address, Owned { claims: owned.claims - 1, ..owned });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharded::SHARDS;

    fn settings() -> Arc<DataplaneSettings> {
        Arc::new(DataplaneSettings {
            gateway_v4: vec![Ipv4Addr::new(192, 168, 50, 10)],
            gateway_v6: vec![],
            dns: vec!["10.96.0.10".parse().expect("an address")],
            pod_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a prefix")],
            masquerade_all: false,
            snat_ports: 1024..=29999,
            ring_hash: RingHash::new("pollgate"),
        })
    }

    fn key(address: &str, port: u16) -> FrontendKey {
        FrontendKey { address: address.parse().expect("an address"), port, protocol: Protocol::Tcp }
    }

    fn service(index: u32, address: &str, backends: u16) -> Arc<ServicePort> {
        Arc::new(plain(index, address, backends))
    }

    fn plain(index: u32, address: &str, backends: u16) -> ServicePort {
        let ring = Arc::new(Ring::new((0..backends).collect()));
        let slots: Box<[u16]> = (0..backends).collect();
        let backend =
            Backend { address: "10.244.1.10".parse().expect("an address"), port: 80, incarnation: 0, serving: true };
        ServicePort {
            id: ServiceId { index, incarnation: 0 },
            name: format!("default/s{index}:").into(),
            frontends: Box::new([(key(address, 80), FrontendKind::ClusterIp)]),
            internal_local: false,
            external_local: false,
            client_ip_affinity: false,
            source_ranges: Box::default(),
            backends: (0..backends).map(|_| backend).collect(),
            cluster: Pool::new(Arc::clone(&ring), slots.clone()),
            local: Pool::empty(),
            has_any: backends > 0,
            closed_to_family: false,
            counted: (0, 0, 0),
        }
    }

    fn builder() -> Builder {
        Builder::new(settings(), Arc::new(Zone::default()))
    }

    #[test]
    fn addresses_are_owned_exactly_while_somebody_claims_them() {
        let mut builder = builder();
        let vip = "10.96.0.50".parse().expect("an address");
        let dns = "10.96.0.10".parse().expect("an address");
        builder.put_service(service(0, "10.96.0.50", 1)).expect("fits");
        builder.put_service(service(70, "10.96.0.10", 1)).expect("fits");
        let first = builder.build(1);
        assert_eq!(first.owned(vip), Some(OwnedKind::ClusterIp));
        assert_eq!(first.frontend(&key("10.96.0.50", 80)).map(|f| f.service), Some(0));
        builder.put_service(service(0, "10.96.0.51", 1)).expect("fits");
        builder.remove_service(70);
        let second = builder.build(2);
        assert_eq!(second.owned(vip), None);
        assert_eq!(second.owned(dns), Some(OwnedKind::ClusterIp), "the settings still claim it");
        assert_eq!(second.services().count(), 1);
        assert_eq!(first.owned(vip), Some(OwnedKind::ClusterIp), "the older generation is untouched");
        assert_eq!(first.services().count(), 2);
    }

    #[test]
    fn the_builder_refuses_what_leads_nowhere() {
        let mut builder = builder();
        builder.put_service(service(0, "10.96.0.50", 1)).expect("fits");
        assert!(matches!(builder.put_service(service(1, "10.96.0.50", 1)), Err(BuildError::FrontendTaken { .. })));
        let mut dangling = plain(2, "10.96.0.52", 2);
        dangling.backends = Box::default();
        assert!(matches!(builder.put_service(Arc::new(dangling)), Err(BuildError::DanglingIndex { .. })));
        let too_many = service(u32::try_from(MAX_SERVICES).expect("small"), "10.96.0.53", 1);
        assert!(matches!(builder.put_service(too_many), Err(BuildError::TooManyServices { .. })));
        assert_eq!(builder.build(1).services().count(), 1, "a refusal changes nothing");
    }

    #[test]
    fn a_new_generation_shares_what_did_not_change() {
        let mut builder = builder();
        for index in 0..200 {
            builder.put_service(service(index, &format!("10.96.1.{index}"), 1)).expect("fits");
        }
        let first = builder.build(1);
        builder.put_service(service(0, "10.96.2.0", 1)).expect("fits");
        let second = builder.build(2);
        assert!(!Arc::ptr_eq(&first.services[0], &second.services[0]));
        assert!(Arc::ptr_eq(&first.services[1], &second.services[1]));
        let shared =
            first.frontends.shards.iter().zip(&*second.frontends.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= SHARDS - 2, "{shared} of {SHARDS} shards shared");
    }

    #[test]
    fn the_ring_covers_the_whole_hash_space() {
        let ring = Ring::new(Box::new([7, 8, 9]));
        assert_eq!((ring.pick(0), ring.pick(u64::MAX / 2), ring.pick(u64::MAX)), (Some(7), Some(8), Some(9)));
        assert_eq!(Ring::new(Box::default()).pick(1), None);
    }
}

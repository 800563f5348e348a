//! The builder: the only way to make [`Tables`]. It proves every index in them.

use std::net::IpAddr;
use std::sync::Arc;

use super::frontend::{Frontend, Owned, OwnedKind};
use super::generation::{CHUNK, Tables};
use super::service::ServicePort;
use crate::counters::MAX_SERVICES;
use crate::dns::zone::Zone;
use crate::net::Net;
use crate::pair;
use crate::settings::DataplaneSettings;
use crate::sharded::Sharded;

/// Why tables could not be built. Each is a bug of the control side's compiler, not a mistake of a user.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BuildError {
    /// More services than the tables hold.
    #[error("{name}: index {index} is beyond the {MAX_SERVICES} service ports that the tables can hold")]
    TooManyServices {
        /// The service.
        name: String,
        /// The service's index.
        index: u32,
    },
    /// Two services want the same frontend.
    #[error("{name}: {address}:{port} is already used by {holder}")]
    FrontendTaken {
        /// The service.
        name: String,
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// The service that has it.
        holder: String,
    },
    /// A ring entry or an order entry refers to no backend.
    #[error("{name}: its ring or order refers to a backend that it does not have")]
    DanglingIndex {
        /// The service.
        name: String,
    },
}

/// Makes the next generation of [`Tables`] from the last one.
#[derive(Debug)]
pub struct Builder {
    tables: Tables,
}

impl Builder {
    /// A builder without services: only the addresses of `settings` are owned.
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
        settings.gateway_addresses().for_each(|address| builder.claim(address, OwnedKind::Gateway));
        settings.dns.iter().for_each(|&address| builder.claim(address, OwnedKind::ClusterIp));
        if settings.host_pair {
            pair::DATA_ADDRESSES.into_iter().for_each(|address| builder.claim(address, OwnedKind::Pair));
        }
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

    /// Adds or replaces the service at its index, with its frontends. Returns the service that had the index. On an error
    /// nothing has changed.
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

    /// Removes the service at `index` and its frontends. Returns the service, or `None` if the index is free.
    pub fn remove_service(&mut self, index: u32) -> Option<Arc<ServicePort>> {
        self.tables.service(index)?;
        let old = self.slot(index as usize).take()?;
        for &(key, _) in &old.frontends {
            self.tables.frontends.remove(&key);
            self.disclaim(key.address);
        }
        Some(old)
    }

    /// The current tables, with the number `generation`.
    pub fn build(&mut self, generation: u64) -> Tables {
        self.tables.generation = generation;
        self.tables.clone()
    }

    /// The tables built so far.
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
            if !pool.is_proved_for(service.backends.len()) {
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
    use std::net::Ipv4Addr;

    use super::super::{Backend, Counted, FrontendKey, FrontendKind, Pool, Ring, ServiceId};
    use super::*;
    use crate::flow::Protocol;
    use crate::hash::RingHash;
    use crate::settings::Masquerade;
    use crate::sharded::SHARDS;

    fn settings() -> Arc<DataplaneSettings> {
        Arc::new(DataplaneSettings {
            gateway_v4: vec![Ipv4Addr::new(192, 168, 50, 10)],
            gateway_v6: vec![],
            dns: vec!["10.96.0.10".parse().expect("an address")],
            pod_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a prefix")],
            masquerade: Masquerade::Kubernetes,
            host_pair: false,
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
            client_ip_affinity: None,
            source_ranges: Box::default(),
            backends: (0..backends).map(|_| backend).collect(),
            cluster: Pool::new(Arc::clone(&ring), slots.clone()),
            local: Pool::empty(),
            has_any: backends > 0,
            closed_to_family: false,
            counted: Counted::default(),
        }
    }

    fn builder() -> Builder {
        Builder::new(settings(), Arc::new(Zone::default()))
    }

    #[test]
    fn addresses_are_owned_exactly_while_claimed() {
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
    fn the_builder_refuses_dangling_and_conflicting_indexes() {
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

//! One generation of the tables, and the look-ups in it.

use std::net::IpAddr;
use std::sync::Arc;

use super::frontend::{Frontend, FrontendKey, Owned, OwnedKind};
use super::service::{ServiceId, ServicePort};
use crate::dns::zone::Zone;
use crate::net::Net;
use crate::settings::DataplaneSettings;
use crate::sharded::Sharded;

/// Services per chunk.
pub(super) const CHUNK: usize = 64;

pub(super) type Chunk = [Option<Arc<ServicePort>>; CHUNK];

/// One generation of all data that workers read.
#[derive(Clone, Debug)]
pub struct Tables {
    pub(super) generation: u64,
    pub(super) settings: Arc<DataplaneSettings>,
    pub(super) net: Arc<Net>,
    pub(super) zone: Arc<Zone>,
    pub(super) frontends: Sharded<FrontendKey, Frontend>,
    pub(super) owned: Sharded<IpAddr, Owned>,
    pub(super) services: Vec<Arc<Chunk>>,
}

impl Tables {
    /// Number of this generation: grows by one with each publication; the first is 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The settings, which do not change.
    pub fn settings(&self) -> &DataplaneSettings {
        &self.settings
    }

    /// The host's network.
    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }

    /// The DNS zone.
    pub fn zone(&self) -> &Arc<Zone> {
        &self.zone
    }

    /// The kind of owned address; `None` if pollgate does not own `address`.
    #[inline]
    pub fn owned(&self, address: IpAddr) -> Option<OwnedKind> {
        self.owned.get(&address).map(|owned| owned.kind)
    }

    /// Every owned address.
    pub fn owned_addresses(&self) -> impl Iterator<Item = (IpAddr, OwnedKind)> {
        self.owned.iter().map(|(address, owned)| (*address, owned.kind))
    }

    /// The frontend with this key.
    #[inline]
    pub fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    /// Every frontend, in no particular order.
    pub fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, &Frontend)> {
        self.frontends.iter()
    }

    /// The service at `index`.
    #[inline]
    pub fn service(&self, index: u32) -> Option<&Arc<ServicePort>> {
        let at = index as usize;
        self.services.get(at / CHUNK)?[at % CHUNK].as_ref()
    }

    /// The service with this id; `None` if its index belongs to another service now.
    pub fn service_by_id(&self, id: ServiceId) -> Option<&Arc<ServicePort>> {
        self.service(id.index).filter(|service| service.id == id)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServicePort>> {
        self.services.iter().flat_map(|chunk| chunk.iter().flatten())
    }
}

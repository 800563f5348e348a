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

mod builder;
mod frontend;
mod service;

use std::net::IpAddr;
use std::sync::Arc;

pub use self::builder::{BuildError, Builder};
pub use self::frontend::{Frontend, FrontendKey, FrontendKind, Owned, OwnedKind};
pub use self::service::{Backend, Pool, Ring, ServiceId, ServicePort};
use crate::dns::zone::Zone;
use crate::net::Net;
use crate::settings::DataplaneSettings;
use crate::sharded::Sharded;

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

//! The compiled tables that workers read, and the builder that proves every index in them.
//!
//! ```text
//!   (address, port, protocol) ─frontends─▶ Frontend ─┐
//!   address ─owned─▶ Owned                           ▼
//!                                services[index] ServicePort ─ cluster │ local ─▶ Pool: Ring ─ordinal─▶ order ─slot─▶ Backend
//! ```
//!
//! * **Immutable**: a worker reads one pointer per burst and sees one consistent state.
//! * **Structurally shared**: maps are [`Sharded`] and services are in chunks, each in an `Arc`. The next generation copies
//!   a few hundred pointers, and of the data only the shards and chunks that change. Rings are shared between all pools
//!   with the same backends in the same order.
//! * **Proved once**: [`Builder`] is the only way to make a [`Tables`] and refuses a dangling index, so the look-ups below
//!   cannot fail. They return `Option` all the same, and no reader can panic.
//!
//! A *service port* is one port of a Kubernetes Service (namespace/name, port name, protocol). Each is balanced by itself,
//! as in kube-proxy (Kubernetes `pkg/proxy/types.go`, ServicePortName).

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

/// One generation of all data that workers read.
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

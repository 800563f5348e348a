//! Service ports, their backends, and the rings that choose among them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::frontend::{FrontendKey, FrontendKind};
use crate::counters::Carried;

/// Identifies a service across generations. If the index is reused, the incarnation differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct ServiceId {
    /// Index in the tables, below [`crate::counters::MAX_SERVICES`].
    pub index: u32,
    /// Changes when another service gets the index.
    pub incarnation: u16,
}

/// One endpoint of one service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend {
    /// The Pod's address.
    pub address: IpAddr,
    /// The Pod's port, host order.
    pub port: u16,
    /// Changes when another endpoint gets the slot.
    pub incarnation: u16,
    /// Whether it is serving. UDP flows move off a backend that is not.
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
    /// A ring with these entries.
    pub fn new(entries: Box<[u16]>) -> Ring {
        // Not `max()`: the compiler vectorises this form.
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

/// Backends that may be chosen under one traffic policy.
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

    /// A pool without backends.
    pub fn empty() -> Pool {
        Pool { ring: Arc::new(Ring::new(Box::default())), order: Box::default() }
    }

    /// Whether the pool has no backends.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The slots of its backends, in the ring's order.
    pub fn slots(&self) -> &[u16] {
        &self.order
    }

    /// Whether every ring entry refers to an entry of the order, and the order only to slots below `backends`.
    pub(super) fn is_proved_for(&self, backends: usize) -> bool {
        let ring_holds = self.ring.ordinals <= self.order.len();
        let order_holds = self.order.iter().all(|&slot| usize::from(slot) < backends);
        ring_holds && order_holds && self.ring.entries.is_empty() == self.order.is_empty()
    }

    /// The pool's Maglev table.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }
}

/// One compiled port of a Kubernetes Service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Identity across generations.
    pub id: ServiceId,
    /// `namespace/name:port`, for messages.
    pub name: Arc<str>,
    /// All frontends of this service port.
    pub frontends: Box<[(FrontendKey, FrontendKind)]>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `sessionAffinity: ClientIP`: a client keeps its backend for so long after each new flow.
    pub client_ip_affinity: Option<Duration>,
    /// `loadBalancerSourceRanges` of this family. If empty, every source is allowed unless `closed_to_family`.
    pub source_ranges: Box<[IpNet]>,
    /// There are source ranges, but none of this family: no source is allowed.
    pub closed_to_family: bool,
    /// Endpoints by slot. An endpoint keeps its slot for its whole life.
    pub backends: Box<[Backend]>,
    /// Backends that may be chosen under policy Cluster.
    pub cluster: Pool,
    /// Backends that may be chosen under policy Local.
    pub local: Pool,
    /// Whether any endpoint could serve at all. If not, packets are rejected, also under policy Local. (If only the pool of
    /// policy Local is empty, they are dropped.)
    pub has_any: bool,
    /// What its counters showed when it got its index, and its endpoints their slots.
    pub counted: Counted,
}

/// What counters showed when they got their present holder: what was carried for the holders before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Those of all endpoints together.
    pub all: Carried,
    /// Those of slots that were not all zero, in the slots' order.
    pub by_slot: Box<[(u16, Carried)]>,
}

impl Counted {
    /// Those of a slot.
    pub fn of(&self, slot: u16) -> Carried {
        let found = self.by_slot.binary_search_by_key(&slot, |(slot, _)| *slot);
        found.map(|at| self.by_slot[at].1).unwrap_or_default()
    }
}

impl ServicePort {
    /// The backend that `pool` chooses for `hash`: (slot, backend).
    #[inline]
    pub fn choose<'a>(&'a self, pool: &Pool, hash: u64) -> Option<(u16, &'a Backend)> {
        let ordinal = pool.ring.pick(hash)?;
        let slot = *pool.order.get(usize::from(ordinal))?;
        Some((slot, self.backends.get(usize::from(slot))?))
    }

    /// The backend at `slot`, if it is of this incarnation and `pool` may choose it.
    pub fn chosen_before(&self, pool: &Pool, slot: u16, incarnation: u16) -> Option<(u16, &Backend)> {
        let backend = self.backends.get(usize::from(slot)).filter(|backend| backend.incarnation == incarnation)?;
        pool.order.contains(&slot).then_some((slot, backend))
    }

    /// Whether the slot still holds the backend of this incarnation, and that backend is serving.
    #[inline]
    pub fn still_serves(&self, slot: u16, incarnation: u16) -> bool {
        self.backends.get(usize::from(slot)).is_some_and(|b| b.incarnation == incarnation && b.serving)
    }
}

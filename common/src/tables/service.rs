//! Service ports, their backends, and the rings that choose among them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::frontend::{FrontendKey, FrontendKind};

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

    /// Whether every ring entry names a backend in the order, and the order only slots below `backends`.
    pub(super) fn is_proved_for(&self, backends: usize) -> bool {
        let ring_holds = self.ring.ordinals <= self.order.len();
        let order_holds = self.order.iter().all(|&slot| usize::from(slot) < backends);
        ring_holds && order_holds && self.ring.entries.is_empty() == self.order.is_empty()
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

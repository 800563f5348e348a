//! Indexes in the tables that stay while their holder lives: of services, and of the endpoints within one.
//!
//! A flow names its service and backend by index. An index that becomes free is reused only after many others, and then
//! under another incarnation, so that an old flow can tell that it belongs to another holder now.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pollgate_common::counters::MAX_SERVICES;
use pollgate_common::hash::HashMap;
use pollgate_common::tables::{Backend, ServiceId};

use super::maglev::Identity;
use crate::compile::resolve::{Family, Protocol, ServiceName};

/// Free indexes that are kept back before one is reused.
const REST: usize = 1024;

/// One port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortName {
    /// The Service.
    pub service: ServiceName,
    /// The port's name.
    pub port: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family.
    pub family: Family,
}

/// Which service port has which index.
#[derive(Default)]
pub struct Ids {
    held: HashMap<PortName, Held>,
    ports: HashMap<ServiceName, BTreeSet<PortName>>,
    free: VecDeque<ServiceId>,
    next: u32,
}

struct Held {
    id: ServiceId,
    slots: Slots,
}

/// All indexes are in use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("all {MAX_SERVICES} service ports that the tables can hold are in use")]
pub struct NoIndex;

impl Ids {
    /// The index of `name`, which is its own until it is released, and its endpoints' slots.
    pub fn claim(&mut self, name: &PortName) -> Result<(ServiceId, &mut Slots), NoIndex> {
        if !self.held.contains_key(name) {
            let id = self.fresh()?;
            self.held.insert(name.clone(), Held { id, slots: Slots::default() });
            self.ports.entry(name.service.clone()).or_default().insert(name.clone());
        }
        self.held.get_mut(name).map(|held| (held.id, &mut held.slots)).ok_or(NoIndex)
    }

    /// The ports of `service` that have an index.
    pub fn names_of(&self, service: &ServiceName) -> BTreeSet<PortName> {
        self.ports.get(service).cloned().unwrap_or_default()
    }

    /// Releases the index of `name`.
    pub fn release(&mut self, name: &PortName) {
        if let Some(held) = self.held.remove(name) {
            if let Some(ports) = self.ports.get_mut(&name.service) {
                ports.remove(name);
            }
            let incarnation = held.id.incarnation.wrapping_add(1);
            self.free.push_back(ServiceId { incarnation, ..held.id });
        }
    }

    fn fresh(&mut self) -> Result<ServiceId, NoIndex> {
        let room = (self.next as usize) < MAX_SERVICES;
        if (self.free.len() > REST || !room)
            && let Some(id) = self.free.pop_front()
        {
            return Ok(id);
        }
        if !room {
            return Err(NoIndex);
        }
        self.next += 1;
        Ok(ServiceId { index: self.next - 1, incarnation: 0 })
    }
}

/// The endpoints of one service by slot.
#[derive(Debug, Default)]
pub struct Slots {
    by_identity: BTreeMap<Identity, u16>,
    backends: Vec<Backend>,
    free: VecDeque<u16>,
}

impl Slots {
    /// Makes exactly `endpoints` the holders of slots; those who had one keep it.
    pub fn assign(&mut self, endpoints: &BTreeSet<Identity>) {
        let gone: Vec<Identity> = self.by_identity.keys().filter(|known| !endpoints.contains(known)).copied().collect();
        for identity in gone {
            self.vacate(&identity);
        }
        for &identity in endpoints {
            self.occupy(identity);
        }
    }

    fn vacate(&mut self, identity: &Identity) {
        let Some(slot) = self.by_identity.remove(identity) else { return };
        self.backends[usize::from(slot)].serving = false;
        self.free.push_back(slot);
    }

    fn occupy(&mut self, identity: Identity) {
        let (address, port) = identity;
        if self.by_identity.contains_key(&identity) {
            return;
        }
        // A ring serves fewer than a slot number can say, and the caller has asked for the ring first.
        let fresh = u16::try_from(self.backends.len()).ok();
        let reused = self.free.pop_front();
        let Some(slot) = reused.or(fresh) else { return };
        if reused.is_some() {
            let old = &mut self.backends[usize::from(slot)];
            *old = Backend { address, port, incarnation: old.incarnation.wrapping_add(1), serving: true };
        } else {
            self.backends.push(Backend { address, port, incarnation: 0, serving: true });
        }
        self.by_identity.insert(identity, slot);
    }

    /// All slots, vacant ones not serving.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The slot of an endpoint.
    pub fn slot(&self, identity: &Identity) -> Option<u16> {
        self.by_identity.get(identity).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> PortName {
        let service = ServiceName { namespace: "default".to_owned(), name: format!("s{n}") };
        PortName { service, port: String::new(), protocol: Protocol::Tcp, family: Family::V4 }
    }

    fn set(of: &[u8]) -> BTreeSet<Identity> {
        of.iter().map(|i| (format!("10.244.0.{i}").parse().expect("an address"), 80)).collect()
    }

    #[test]
    fn a_place_is_kept_and_comes_back_as_another_incarnation() {
        let mut ids = Ids::default();
        let first = ids.claim(&name(0)).expect("room").0;
        assert_eq!(ids.claim(&name(0)).expect("room").0, first);
        ids.release(&name(0));
        let later: Vec<ServiceId> = (1..3000)
            .map(|n| {
                let id = ids.claim(&name(n)).expect("room").0;
                ids.release(&name(n));
                id
            })
            .collect();
        let again = later.iter().find(|id| id.index == first.index).expect("used again at last");
        assert_eq!(again.incarnation, 1);
    }

    #[test]
    fn slots_are_kept_and_reused_under_another_incarnation() {
        let mut slots = Slots::default();
        slots.assign(&set(&[1, 2]));
        let two = ("10.244.0.2".parse().expect("an address"), 80);
        assert_eq!(slots.slot(&two), Some(1));
        slots.assign(&set(&[2]));
        assert_eq!(slots.slot(&two), Some(1), "it stays where it is");
        assert!(!slots.backends()[0].serving);
        slots.assign(&set(&[2, 3]));
        assert_eq!(
            (slots.backends()[0].incarnation, slots.backends()[0].serving, slots.backends().len()),
            (1, true, 2)
        );
    }
}

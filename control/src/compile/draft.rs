//! Drafts: everything about a Service that depends on it alone, so that many can be made in parallel.
//!
//! ```text
//!  names ─┬─ resolve ─ choose ─ rings ─┐
//!         ├─ resolve ─ choose ─ rings ─┼─ drafts, in order ─▶ indexes, tables (one thread)
//!         └─ resolve ─ choose ─ rings ─┘
//! ```
//!
//! Which endpoints may serve follows Kubernetes `pkg/proxy/topology.go`, CategorizeEndpoints: the ready ones, or, when
//! there are none, those that are terminating but still serving; computed apart for the cluster-wide set and the local
//! one, so that a node whose last Pod is terminating does not turn clients away while others have ready Pods.
//! Among the ready ones of the cluster-wide set, topology hints may prefer some ([`super::topology`]); the local set ignores them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use pollgate_common::tables::Ring;

use super::maglev::Identity;
use super::rings::{Rings, TooMany};
use super::topology::{self, Locality};
use crate::cluster::Cluster;
use crate::compile::resolve::{Family, ResolvedEndpoint, ResolvedPort, ResolvedService, ServiceName, resolve};

/// A Service, and what was chosen for each of its ports.
pub struct Draft {
    /// What it says.
    pub service: ResolvedService,
    /// The ports a client can connect to, one for each family it has addresses of.
    pub ports: Vec<PortDraft>,
}

/// One port for one family.
pub struct PortDraft {
    /// Which of the Service's ports.
    pub at: usize,
    /// The family.
    pub family: Family,
    /// The endpoints that may serve it.
    pub choice: Result<Choice, TooMany>,
}

/// The endpoints that may serve a port.
pub struct Choice {
    /// Those that take new connections or keep old ones.
    pub alive: BTreeSet<Identity>,
    /// Cluster-wide.
    pub cluster: Share,
    /// On this node alone.
    pub local: Share,
}

/// Those that new connections are shared among.
pub struct Share {
    /// In order, each once.
    pub members: Vec<Identity>,
    /// The ring over them.
    pub ring: Arc<Ring>,
}

/// What drafts are made of.
#[derive(Clone, Copy)]
pub struct Drafter<'a> {
    /// The objects.
    pub cluster: &'a Cluster,
    /// Where the gateway stands.
    pub locality: Locality<'a>,
    /// Rings that exist, and those that are built.
    pub rings: &'a Rings,
}

impl Drafter<'_> {
    /// Drafts of the Services, in their order, made by up to `threads` threads. `None` for those that no longer exist.
    pub fn draft_all(&self, names: &BTreeSet<ServiceName>, threads: usize) -> Vec<Option<Draft>> {
        let names: Vec<&ServiceName> = names.iter().collect();
        let part = |names: &[&ServiceName]| -> Vec<_> { names.iter().map(|name| self.draft(name)).collect() };
        if threads < 2 {
            return part(&names);
        }
        let each = names.len().div_ceil(threads).max(1);
        thread::scope(|scope| {
            let threads: Vec<_> = names.chunks(each).map(|names| scope.spawn(move || part(names))).collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            ended.flat_map(|drafts| drafts.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn draft(&self, name: &ServiceName) -> Option<Draft> {
        let service = resolve(self.cluster, name)?;
        let draft = |(at, family)| PortDraft { at, family, choice: self.choose(&service.ports[at], family) };
        let ports = ports_by_family(&service).map(draft).collect();
        Some(Draft { service, ports })
    }

    fn choose(&self, port: &ResolvedPort, family: Family) -> Result<Choice, TooMany> {
        let endpoints: Vec<&ResolvedEndpoint> =
            port.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family).collect();
        let alive = endpoints.iter().filter(|endpoint| endpoint.ready || endpoint.serving);
        Ok(Choice {
            alive: alive.copied().map(identity).collect(),
            cluster: self.share(usable(topology::preferred(&endpoints, self.locality).into_iter()))?,
            local: self.share(usable(endpoints.iter().copied().filter(|e| self.locality.is_local(e))))?,
        })
    }

    fn share(&self, members: Vec<Identity>) -> Result<Share, TooMany> {
        Ok(Share { ring: self.rings.ring(&members)?, members })
    }
}

fn identity(endpoint: &ResolvedEndpoint) -> Identity {
    (endpoint.address, endpoint.port)
}

/// Each port with each family the Service has addresses of.
pub fn ports_by_family(service: &ResolvedService) -> impl Iterator<Item = (usize, Family)> {
    let addresses = service.cluster_ips.iter().chain(&service.load_balancer_ips).chain(&service.external_ips);
    let families: BTreeSet<Family> = addresses.map(|address| Family::of(*address)).collect();
    let ports = if service.headless { 0 } else { service.ports.len() };
    (0..ports).flat_map(move |port| families.clone().into_iter().map(move |family| (port, family)))
}

/// The ready ones, or else those that are terminating but serving; in order, each once.
fn usable<'a>(endpoints: impl Iterator<Item = &'a ResolvedEndpoint> + Clone) -> Vec<Identity> {
    let ready: BTreeSet<Identity> = endpoints.clone().filter(|e| e.ready).map(identity).collect();
    if !ready.is_empty() {
        return ready.into_iter().collect();
    }
    endpoints.filter(|e| e.serving && e.terminating).map(identity).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use pollgate_common::hash::RingHash;
    use serde_json::json;

    use super::*;
    use crate::testing::{World, pod, service};

    #[test]
    fn many_threads_draft_what_one_does() {
        let mut world = World::new();
        let name = |n: u8| format!("s{n:02}");
        world.apply((0..20).flat_map(|n| {
            let spec = json!({"selector": {"app": name(n)}, "ports": [{"port": 80}]});
            [service(&name(n), spec), pod(&name(n), &name(n), &format!("10.0.0.{n}"))]
        }));
        let mut names: BTreeSet<ServiceName> = (0..20).map(|n| ServiceName::new("default", name(n))).collect();
        names.insert(ServiceName::new("default", "s05-none"));
        let rings = Rings::new(RingHash::new("pollgate"), None);
        let drafter = Drafter { cluster: &world.cluster, locality: Locality::default(), rings: &rings };
        let drafted = |threads| -> Vec<Option<(ResolvedService, Vec<Identity>, usize)>> {
            let told = |draft: Draft| {
                let choice = draft.ports[0].choice.as_ref().expect("few endpoints");
                let share = &choice.cluster;
                (draft.service.clone(), share.members.clone(), share.ring.entries().len())
            };
            drafter.draft_all(&names, threads).into_iter().map(|draft| draft.map(told)).collect()
        };
        let one = drafted(1);
        assert_eq!((one.len(), one[6].is_none(), one.iter().flatten().count()), (21, true, 20));
        for threads in [2, 3, 8, 50] {
            assert_eq!(drafted(threads), one, "{threads} threads");
        }
        assert!(drafter.draft_all(&BTreeSet::new(), 4).is_empty());
    }
}

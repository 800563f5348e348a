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
//! An endpoint of weight 0 keeps its flows, and for new ones it is as if it were not there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use pollgate_common::tables::Ring;

use super::maglev::{Identity, Weighted};
use super::rings::{Rings, TooMany};
use super::topology::{self, Locality};
use crate::cluster::Cluster;
use crate::compile::resolve::{
    Family, ResolvedEndpoint, ResolvedPort, ResolvedService, ServiceName, ServiceType, resolve,
};

/// A Service, and what was chosen for each of its ports.
pub struct Draft {
    /// What it says.
    pub service: ResolvedService,
    /// The ports a client can connect to, one for each family it has addresses of.
    pub ports: Vec<PortDraft>,
    /// What load balancers ask, if they do.
    pub health_check: Option<HealthCheck>,
}

/// The health check of a Service.
pub struct HealthCheck {
    /// The health-check node port.
    pub port: u16,
    /// Ready local endpoints by family (K `pkg/proxy/endpointsmap.go`, LocalReadyEndpoints): each address once. Those of weight 0
    /// are left out, since they get no new connections.
    pub ready: Vec<(Family, usize)>,
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
        let health_check = self.health_check(&service);
        Some(Draft { service, ports, health_check })
    }

    fn health_check(&self, service: &ResolvedService) -> Option<HealthCheck> {
        let is_asked = service.proxied && service.external_local && service.kind == ServiceType::LoadBalancer;
        let port = service.health_check_node_port.filter(|_| is_asked)?;
        let count = |family: Family| {
            let endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
            let takes = |e: &&ResolvedEndpoint| e.ready && e.weight > 0 && self.locality.is_local(e);
            let addresses = endpoints.filter(takes).map(|endpoint| endpoint.address);
            let unique: BTreeSet<_> = addresses.filter(|address| Family::of(*address) == family).collect();
            (family, unique.len())
        };
        Some(HealthCheck { port, ready: families(service).into_iter().map(count).collect() })
    }

    fn choose(&self, port: &ResolvedPort, family: Family) -> Result<Choice, TooMany> {
        let endpoints: Vec<&ResolvedEndpoint> =
            port.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family).collect();
        let alive = endpoints.iter().filter(|endpoint| endpoint.ready || endpoint.serving);
        let alive = alive.copied().map(identity).collect();
        let open: Vec<&ResolvedEndpoint> = endpoints.into_iter().filter(|endpoint| endpoint.weight > 0).collect();
        Ok(Choice {
            alive,
            cluster: self.share(&usable(topology::preferred(&open, self.locality).into_iter()))?,
            local: self.share(&usable(open.iter().copied().filter(|e| self.locality.is_local(e))))?,
        })
    }

    fn share(&self, members: &[Weighted]) -> Result<Share, TooMany> {
        let identities = members.iter().map(|member| member.identity).collect();
        Ok(Share { ring: self.rings.ring(members)?, members: identities })
    }
}

fn identity(endpoint: &ResolvedEndpoint) -> Identity {
    (endpoint.address, endpoint.port)
}

/// The families that the Service has addresses of.
fn families(service: &ResolvedService) -> BTreeSet<Family> {
    let addresses = service.cluster_ips.iter().chain(&service.load_balancer_ips).chain(&service.external_ips);
    addresses.map(|address| Family::of(*address)).collect()
}

/// Each port with each family the Service has addresses of.
pub fn ports_by_family(service: &ResolvedService) -> impl Iterator<Item = (usize, Family)> {
    let families = families(service);
    let ports = if service.headless { 0 } else { service.ports.len() };
    (0..ports).flat_map(move |port| families.clone().into_iter().map(move |family| (port, family)))
}

/// The ready ones, or else those that are terminating but serving; in the order given, which is that of their identity.
fn usable<'a>(endpoints: impl Iterator<Item = &'a ResolvedEndpoint> + Clone) -> Vec<Weighted> {
    let weighted = |e: &ResolvedEndpoint| Weighted { identity: identity(e), weight: e.weight.into() };
    let ready: Vec<Weighted> = endpoints.clone().filter(|e| e.ready).map(weighted).collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints.filter(|e| e.serving && e.terminating).map(weighted).collect()
}

#[cfg(test)]
mod tests {
    use pollgate_common::hash::RingHash;
    use serde_json::json;

    use super::*;
    use crate::testing::{World, pod, service};

    /// `n1 r` is a ready endpoint on node n1; `t` one that is terminating and serves, `g` one that is terminating and does not,
    /// `x` one that is not ready; `0` after it is its weight. Their addresses are numbered from 1. Returns the cluster-wide set, the local one, and
    /// those that keep their flows.
    fn chosen(locality: Locality<'_>, endpoints: &[&str]) -> [String; 3] {
        let mut world = World::new();
        let slice = |(number, text): (usize, &&str)| {
            let words: Vec<&str> = text.split(' ').collect();
            let (ready, serving, terminating) = match words[1] {
                "r" => (true, true, false),
                "t" => (false, true, true),
                "g" => (false, false, true),
                _ => (false, false, false),
            };
            let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
            let annotations = words.get(2).map(|weight| json!({"pollgate.io/weight": weight}));
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": format!("a-{number}"), "labels": {"kubernetes.io/service-name": "a"}, "annotations": annotations},
                "ports": [{"name": "", "port": 80}],
                "endpoints": [{"addresses": [format!("10.0.0.{}", number + 1)], "nodeName": words[0], "conditions": conditions}]})
        };
        world.apply([service("a", json!({"ports": [{"port": 80}]}))]);
        world.apply(endpoints.iter().enumerate().map(slice));
        let rings = Rings::new(RingHash::new("pollgate"), None);
        let drafter = Drafter { cluster: &world.cluster, locality, rings: &rings };
        let names = BTreeSet::from([ServiceName::new("default", "a")]);
        let draft = drafter.draft_all(&names, 1).pop().flatten().expect("there is one");
        let choice = draft.ports[0].choice.as_ref().expect("few endpoints");
        let numbers = |members: &[Identity]| {
            let last = |member: &Identity| member.0.to_string().rsplit('.').next().map(str::to_owned);
            members.iter().filter_map(last).collect::<Vec<_>>().join(" ")
        };
        let alive: Vec<Identity> = choice.alive.iter().copied().collect();
        [numbers(&choice.cluster.members), numbers(&choice.local.members), numbers(&alive)]
    }

    /// K `pkg/proxy/topology_test.go`, TestCategorizeEndpoints.
    #[test]
    fn each_set_falls_back_to_terminating_endpoints_by_itself() {
        let here = Locality { node: Some("n1"), zone: None };
        let cases: [(&str, &[&str], [&str; 3]); 8] = [
            ("ready ones on both nodes", &["n1 r", "n2 r"], ["1 2", "1", "1 2"]),
            ("none here", &["n2 r"], ["1", "", "1"]),
            ("the last one here is terminating", &["n1 t", "n2 r"], ["2", "1", "1 2"]),
            ("a ready one here as well", &["n1 t", "n1 r", "n2 r"], ["2 3", "2", "1 2 3"]),
            ("all are terminating", &["n1 t", "n2 t"], ["1 2", "1", "1 2"]),
            ("one of them no longer serves", &["n1 g", "n2 t"], ["2", "", "2"]),
            ("none is ready, none is terminating", &["n1 x", "n2 x"], ["", "", ""]),
            ("none at all", &[], ["", "", ""]),
        ];
        for (name, endpoints, expected) in cases {
            assert_eq!(chosen(here, endpoints), expected, "{name}");
        }
        assert_eq!(chosen(Locality::default(), &["n1 t", "n2 r"]), ["2", "2", "1 2"], "the whole cluster is local");
    }

    #[test]
    fn an_endpoint_of_weight_0_keeps_its_flows_and_gets_no_new_ones() {
        let here = Locality { node: Some("n1"), zone: None };
        assert_eq!(chosen(here, &["n1 r 0", "n2 r"]), ["2", "", "1 2"]);
        assert_eq!(
            chosen(here, &["n1 r 0", "n1 t", "n2 r 0"]),
            ["2", "2", "1 2 3"],
            "as if only the second were there"
        );
        assert_eq!(chosen(here, &["n1 r 0"]), ["", "", "1"]);
    }

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

//! What the gateway's node and zone decide: Local policies and topology hints, in words.
//!
//! Both make a Service use fewer endpoints than it has, and neither can be seen in the Service itself: the one is
//! decided by the node of each endpoint, the other by hints in its slices, and both by the configuration of this gateway. The
//! decisions are made by the compiler's own code.

use crate::cluster::{Cluster, ClusterSettings};
use crate::compile::draft::ports_by_family;
use crate::compile::resolve::{Family, ResolvedEndpoint, ResolvedService};
use crate::compile::topology::{Locality, Preference, preference, preferred};

/// A sentence for each, over all ports of the Service.
pub(super) fn notes(cluster: &Cluster, service: &ResolvedService) -> Vec<String> {
    let settings = cluster.settings();
    let mut notes: Vec<String> = Vec::new();
    for (at, family) in ports_by_family(service) {
        let endpoints = service.ports[at].endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family);
        let endpoints: Vec<&ResolvedEndpoint> = endpoints.filter(|endpoint| endpoint.weight > 0).collect();
        let found = local_notes(settings, service, &endpoints).into_iter().chain(hint_note(settings, &endpoints));
        let added: Vec<String> = found.filter(|note| !notes.contains(note)).collect();
        notes.extend(added);
    }
    notes
}

pub(super) fn locality(settings: &ClusterSettings) -> Locality<'_> {
    Locality { node: settings.node.as_deref(), zone: settings.zone.as_deref() }
}

fn local_notes(settings: &ClusterSettings, service: &ResolvedService, endpoints: &[&ResolvedEndpoint]) -> Vec<String> {
    let policies = [
        (service.internal_local, "internalTrafficPolicy", "ClusterIPs"),
        (service.external_local, "externalTrafficPolicy", "addresses outside"),
    ];
    let policies = policies.into_iter().filter(|(local, ..)| *local);
    policies.filter_map(|(_, policy, addresses)| local_note(settings, policy, addresses, endpoints)).collect()
}

fn local_note(
    settings: &ClusterSettings,
    policy: &str,
    addresses: &str,
    endpoints: &[&ResolvedEndpoint],
) -> Option<String> {
    let usable = |endpoint: &&&ResolvedEndpoint| endpoint.is_usable();
    let all = endpoints.iter().filter(usable).count();
    if all == 0 {
        return None;
    }
    let Some(node) = &settings.node else {
        return Some(format!(
            "{policy} is Local: this gateway represents the whole cluster, so all endpoints are local."
        ));
    };
    let local = endpoints.iter().filter(usable).filter(|endpoint| locality(settings).is_local(endpoint)).count();
    Some(match local {
        0 => {
            format!("{policy} is Local and no endpoint is on node {node}: connections to its {addresses} are dropped.")
        }
        _ => format!("{policy} is Local: {local} of {all} endpoints are on node {node} and serve its {addresses}."),
    })
}

fn hint_note(settings: &ClusterSettings, endpoints: &[&ResolvedEndpoint]) -> Option<String> {
    let ready: Vec<&ResolvedEndpoint> = endpoints.iter().copied().filter(|endpoint| endpoint.ready).collect();
    let hinted = |endpoint: &&&ResolvedEndpoint| !endpoint.hints.zones.is_empty() || !endpoint.hints.nodes.is_empty();
    if !ready.iter().any(|endpoint| hinted(&endpoint)) {
        return None;
    }
    let locality = locality(settings);
    let name = |name: Option<&str>| name.unwrap_or_default().to_owned();
    let whose = match preference(&ready, locality) {
        Preference::SameNode => format!("node {}", name(locality.node)),
        Preference::SameZone => format!("zone {}", name(locality.zone)),
        Preference::None => return Some(ignored(&ready, locality)),
    };
    let used = preferred(&ready, locality).len();
    Some(format!("Topology hints: {used} of {} ready endpoints are for {whose}, and only these are used.", ready.len()))
}

fn ignored(ready: &[&ResolvedEndpoint], locality: Locality<'_>) -> String {
    let without = ready.iter().filter(|endpoint| endpoint.hints.zones.is_empty()).count();
    let why = match locality.zone {
        None => "this gateway has no zone (`zone` in the configuration)".to_owned(),
        Some(_) if without > 0 => format!("{without} of {} ready endpoints have no zone hint", ready.len()),
        Some(zone) => format!("no ready endpoint is for zone {zone}"),
    };
    format!("Topology hints are ignored: {why}.")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::cluster::ClusterSettings;
    use crate::explain::explain;
    use crate::objects::service::ServiceName;
    use crate::testing::{World, node, pod, service};

    fn notes_of(node_name: Option<&str>, zone: Option<&str>, spec: serde_json::Value) -> Vec<String> {
        let (node_name, zone) = (node_name.map(str::to_owned), zone.map(str::to_owned));
        let mut world = World::with(ClusterSettings { node: node_name, zone, ..ClusterSettings::default() });
        let on = |name: &str, ip: &str, node: &str| {
            let mut pod = pod(name, "a", ip);
            pod["spec"]["nodeName"] = json!(node);
            pod
        };
        world.apply([
            node("n1", "z1"),
            node("n2", "z2"),
            on("p1", "10.0.0.1", "n1"),
            on("p2", "10.0.0.2", "n2"),
            on("p3", "10.0.0.3", "n2"),
            service("a", spec),
        ]);
        explain(&world.cluster, &ServiceName::new("default", "a")).unwrap().notes
    }

    #[test]
    fn local_policies_say_who_is_local() {
        let spec = json!({"selector": {"app": "a"}, "internalTrafficPolicy": "Local", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]});
        let whole =
            "internalTrafficPolicy is Local: this gateway represents the whole cluster, so all endpoints are local.";
        assert_eq!(notes_of(None, None, spec.clone()), [whole]);
        let some = "internalTrafficPolicy is Local: 2 of 3 endpoints are on node n2 and serve its ClusterIPs.";
        assert_eq!(notes_of(Some("n2"), None, spec.clone()), [some]);
        let none =
            "internalTrafficPolicy is Local and no endpoint is on node n3: connections to its ClusterIPs are dropped.";
        assert_eq!(notes_of(Some("n3"), None, spec), [none]);
        let outside = json!({"type": "NodePort", "selector": {"app": "a"}, "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
        let some = "externalTrafficPolicy is Local: 1 of 3 endpoints are on node n1 and serve its addresses outside.";
        assert_eq!(notes_of(Some("n1"), None, outside), [some]);
    }

    #[test]
    fn hints_say_what_became_of_them() {
        let spec = |distribution: &str| json!({"selector": {"app": "a"}, "trafficDistribution": distribution, "ports": [{"port": 80}]});
        let (zone, node) = (spec("PreferSameZone"), spec("PreferSameNode"));
        let used = "Topology hints: 2 of 3 ready endpoints are for zone z2, and only these are used.";
        assert_eq!(notes_of(None, Some("z2"), zone.clone()), [used]);
        let used = "Topology hints: 1 of 3 ready endpoints are for node n1, and only these are used.";
        assert_eq!(notes_of(Some("n1"), Some("z2"), node), [used]);
        let homeless = "Topology hints are ignored: this gateway has no zone (`zone` in the configuration).";
        assert_eq!(notes_of(None, None, zone.clone()), [homeless]);
        assert_eq!(notes_of(None, Some("z9"), zone), ["Topology hints are ignored: no ready endpoint is for zone z9."]);
    }
}

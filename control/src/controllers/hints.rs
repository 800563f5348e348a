//! Topology hints: by which clients an endpoint should be used (kubernetes/endpointslice `trafficdist/trafficdist.go`).
//!
//! | `trafficDistribution` | hint of a ready endpoint |
//! |---|---|
//! | `PreferSameZone`, `PreferClose` | its own zone |
//! | `PreferSameNode` | its own node, and its own zone |
//! | none | none |
//!
//! An endpoint without a zone or a node gets no such hint, and one endpoint without a hint is enough for a proxy to ignore
//! them all: no endpoint is left out by accident. The annotation `service.kubernetes.io/topology-mode`, which shares endpoints out by
//! the CPUs of each zone, is not acted upon: a gateway has no kubelets to count CPUs by.

use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForNode, ForZone};

/// The hints of an endpoint; nothing if it has none.
pub(super) fn of(spec: &ServiceSpec, endpoint: &Endpoint) -> Option<EndpointHints> {
    let distribution = spec.traffic_distribution.as_deref()?;
    if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(true) {
        return None;
    }
    let zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
    let nodes = endpoint.node_name.clone().map(|name| vec![ForNode { name }]);
    let hints = match distribution {
        "PreferClose" | "PreferSameZone" => EndpointHints { for_zones: zones, for_nodes: None },
        "PreferSameNode" => EndpointHints { for_zones: zones, for_nodes: nodes },
        _ => return None,
    };
    (hints != EndpointHints::default()).then_some(hints)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{World, node, pod, service};

    /// The hints of a Service's endpoints, Pod by Pod.
    fn hints(world: &World) -> Vec<Value> {
        let mut endpoints: Vec<_> = world.slices("a").into_iter().flat_map(|slice| slice.endpoints).collect();
        endpoints.sort_by_key(|endpoint| endpoint.addresses.clone());
        endpoints.into_iter().map(|endpoint| serde_json::to_value(endpoint.hints).unwrap()).collect()
    }

    #[test]
    fn every_distribution_has_its_hints() {
        let mut world = World::new();
        let on = |name: &str, ip: &str, node: &str| {
            let mut pod = pod(name, "a", ip);
            pod["spec"]["nodeName"] = json!(node);
            pod
        };
        let mut unready = on("p3", "10.0.0.3", "n1");
        unready["status"]["conditions"] = json!([]);
        let mut nowhere = node("n2", "z");
        nowhere["metadata"]["labels"] = json!({});
        world.apply([node("n1", "z1"), nowhere, on("p1", "10.0.0.1", "n1"), on("p2", "10.0.0.2", "n2"), unready]);
        let zone = json!({"forZones": [{"name": "z1"}]});
        let both = json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]});
        let node_only = json!({"forNodes": [{"name": "n2"}]});
        let cases = [
            (json!(null), [json!(null), json!(null), json!(null)]),
            (json!("PreferClose"), [zone.clone(), json!(null), json!(null)]),
            (json!("PreferSameZone"), [zone, json!(null), json!(null)]),
            (json!("PreferSameNode"), [both, node_only, json!(null)]),
            (json!(null), [json!(null), json!(null), json!(null)]),
        ];
        for (distribution, expected) in cases {
            let spec = json!({"selector": {"app": "a"}, "trafficDistribution": distribution, "ports": [{"port": 80}]});
            world.apply([service("a", spec)]);
            assert_eq!(hints(&world), expected, "{distribution}");
        }
    }

    #[test]
    fn a_node_that_moves_takes_its_hints_along() {
        let mut world = World::new();
        let mut pod = pod("p", "a", "10.0.0.1");
        pod["spec"]["nodeName"] = json!("n1");
        let spec = json!({"selector": {"app": "a"}, "trafficDistribution": "PreferSameZone", "ports": [{"port": 80}]});
        world.apply([node("n1", "z1"), pod, service("a", spec)]);
        world.apply([node("n1", "z2")]);
        assert_eq!(hints(&world), [json!({"forZones": [{"name": "z2"}]})]);
    }
}

//! What the weights of endpoints decide, in words.

use crate::compile::resolve::ResolvedService;

/// A sentence for each effect, over all ports of the Service.
pub(super) fn notes(service: &ResolvedService) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for port in &service.ports {
        let weights: Vec<u16> = port.endpoints.iter().filter(|e| e.ready).map(|e| e.weight).collect();
        let found = drained(&weights).into_iter().chain(unequal(&weights));
        let added: Vec<String> = found.filter(|note| !notes.contains(note)).collect();
        notes.extend(added);
    }
    notes
}

fn drained(weights: &[u16]) -> Option<String> {
    let (drained, all) = (weights.iter().filter(|&&weight| weight == 0).count(), weights.len());
    (drained > 0)
        .then(|| format!("{drained} of {all} ready endpoints: weight 0. They keep their flows and get no new ones."))
}

fn unequal(weights: &[u16]) -> Option<String> {
    let some = || weights.iter().filter(|&&weight| weight > 0);
    let (least, most) = (some().min()?, some().max()?);
    (least < most)
        .then(|| format!("Ready endpoints have weights from {least} to {most}: new flows are shared in proportion."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::explain::explain;
    use crate::objects::service::ServiceName;
    use crate::testing::{World, pod, web};

    #[test]
    fn weights_are_explained() {
        let mut world = World::new();
        let weighted = |name: &str, ip: &str, weight: &str| {
            let mut pod = pod(name, "a", ip);
            pod["metadata"]["annotations"] = json!({"pollgate.io/weight": weight});
            pod
        };
        let notes = |world: &World| explain(&world.cluster, &ServiceName::new("default", "a")).unwrap().notes;
        world.apply([web("a"), weighted("p1", "10.0.0.1", "5"), weighted("p2", "10.0.0.2", "5")]);
        assert!(notes(&world).is_empty());
        world.apply([weighted("p2", "10.0.0.2", "0"), pod("p3", "a", "10.0.0.3")]);
        assert_eq!(
            notes(&world),
            [
                "1 of 3 ready endpoints: weight 0. They keep their flows and get no new ones.",
                "Ready endpoints have weights from 5 to 100: new flows are shared in proportion."
            ]
        );
    }
}

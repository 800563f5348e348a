//! `ValidateNode` and `ValidateNodeUpdate` (K `pkg/apis/core/validation/validation.go`): the spec.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Taint};

use serde_json::json;

use super::names;
use crate::objects::fault::{Fault, Faults, Structure};
use crate::objects::service::{Family, parse_cidr};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Adds what is wrong with a defaulted Node, and with its change from `old`.
pub(super) fn check(node: &Node, old: Option<&Node>, faults: &mut Faults) {
    let spec = node.spec.clone().unwrap_or_default();
    taints(spec.taints.as_deref().unwrap_or_default(), faults);
    let held = old.and_then(|old| old.spec.clone()).unwrap_or_default();
    let held = held.pod_cidrs.as_deref().unwrap_or_default();
    cidrs(spec.pod_cidrs.as_deref().unwrap_or_default(), held, faults);
    let Some(old) = old else { return };
    let old = old.spec.clone().unwrap_or_default();
    let former = old.pod_cidrs.unwrap_or_default();
    if !former.is_empty() && spec.pod_cidrs.unwrap_or_default() != former {
        faults.push(Fault::forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid"));
    }
    let former = old.provider_id.unwrap_or_default();
    if !former.is_empty() && spec.provider_id.unwrap_or_default() != former {
        let detail = "node updates may not change providerID except from \"\" to valid";
        faults.push(Fault::forbidden("spec.providerID", detail));
    }
}

fn taints(taints: &[Taint], faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.iter().enumerate() {
        // The API server's path, although the taints are in the spec.
        let field = format!("metadata.taints[{index}]");
        faults.extend(Fault::all_invalid(format!("{field}.key"), &taint.key, names::qualified(&taint.key)));
        let value = taint.value.as_deref().unwrap_or_default();
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            faults.push(Fault::invalid(format!("{field}.value"), value, &wrong.join(";")));
        }
        match taint.effect.as_str() {
            "" => faults.push(Fault::required(format!("{field}.effect"), "")),
            known if EFFECTS.contains(&known) => {}
            other => faults.push(Fault::not_supported(format!("{field}.effect"), other, &EFFECTS)),
        }
        if !seen.insert((&taint.key, &taint.effect)) {
            let fields = [
                ("Key", json!(taint.key)),
                ("Value", json!(value)),
                ("Effect", json!(taint.effect)),
                ("TimeAdded", json!(taint.time_added)),
            ];
            let detail = "taints must be unique by key and effect pair";
            faults.push(Fault::duplicate_because(field, Structure(&fields), detail));
        }
    }
}

fn cidrs(cidrs: &[String], held: &[String], faults: &mut Faults) {
    let parsed: Vec<Option<IpNet>> = cidrs.iter().map(|cidr| parse_cidr(cidr)).collect();
    for (index, cidr) in cidrs.iter().enumerate().filter(|(_, cidr)| !held.contains(cidr)) {
        let detail = names::strict_cidr(cidr);
        faults.extend(detail.map(|detail| Fault::invalid(format!("spec.podCIDRs[{index}]"), cidr, detail)));
    }
    if cidrs.len() < 2 {
        return;
    }
    let families: BTreeSet<Family> = parsed.iter().flatten().map(|cidr| Family::of(cidr.addr())).collect();
    let whole = parsed.iter().flatten().count() == cidrs.len();
    if whole && (cidrs.len() > 2 || families.len() < 2) {
        let detail = "may specify no more than one CIDR for each IP family";
        faults.push(Fault::invalid("spec.podCIDRs", cidrs, detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::World;

    fn node(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": spec})
    }

    #[test]
    fn faults_are_told_in_kubernetes_words() {
        for (spec, expected) in [
            (
                json!({"podCIDR": "ten"}),
                "spec.podCIDRs[0]: Invalid value: \"ten\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                json!({"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}),
                r#"spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.1.0/24"]: may specify no more than one CIDR for each IP family"#,
            ),
            (
                json!({"taints": [{"key": "a", "effect": "Never"}]}),
                r#"metadata.taints[0].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#,
            ),
            (
                json!({"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}),
                r#"metadata.taints[1]: Duplicate value: {"Key":"a","Value":"","Effect":"NoSchedule","TimeAdded":null}: taints must be unique by key and effect pair"#,
            ),
        ] {
            assert_eq!(World::new().faults(node(spec)), [expected]);
        }
    }

    #[test]
    fn what_a_node_is_stays() {
        let mut world = World::new();
        world.apply([node(json!({}))]);
        world.apply([node(json!({"podCIDR": "10.0.0.0/24", "providerID": "p"}))]);
        let other = node(json!({"podCIDR": "10.0.1.0/24", "providerID": "q"}));
        assert_eq!(
            world.faults(other),
            [
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid"
            ]
        );
    }
}

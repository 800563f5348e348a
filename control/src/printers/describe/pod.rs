//! `describePod`.

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::super::{joined, pairs};
use super::{Page, containers, resources, volumes};

pub(super) fn describe(page: &mut Page, pod: &Pod) {
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    identity(page, pod, &spec, &status);
    phase(page, pod, &spec, &status);
    addresses(page, pod, &status);
    if let Some(resources) = &spec.resources {
        page.cells(["Resources:"]);
        resources::describe(page, resources, "  ");
    }
    containers::describe(page, pod, &spec, &status);
    conditions(page, &spec, &status);
    volumes::describe(page, spec.volumes.as_deref().unwrap_or_default());
    page.line("QoS Class:", resources::class(pod));
    page.several("Node-Selectors:", pairs(spec.node_selector.as_ref()));
    page.several("Tolerations:", tolerations(&spec));
    let spread = spread_constraints(&spec);
    if !spread.is_empty() {
        page.several("Topology Spread Constraints:", spread);
    }
}

fn identity(page: &mut Page, pod: &Pod, spec: &PodSpec, status: &PodStatus) {
    page.name(&pod.metadata);
    page.line("Namespace:", pod.metadata.namespace.as_deref().unwrap_or_default());
    page.maybe("Priority:", spec.priority.map(|priority| priority.to_string()).as_deref());
    page.maybe("Priority Class Name:", spec.priority_class_name.as_deref());
    page.maybe("Runtime Class Name:", spec.runtime_class_name.as_deref());
    page.maybe("Service Account:", spec.service_account_name.as_deref());
    match spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        Some(node) => page.line("Node:", format!("{node}/{}", status.host_ip.as_deref().unwrap_or_default())),
        None => page.line("Node:", "<none>"),
    }
    if status.start_time.is_some() {
        page.line("Start Time:", page.date(status.start_time.as_ref()));
    }
    page.labels(&pod.metadata);
}

fn phase(page: &mut Page, pod: &Pod, spec: &PodSpec, status: &PodStatus) {
    let phase = status.phase.as_deref().unwrap_or_default();
    let going = pod.metadata.deletion_timestamp.as_ref().filter(|_| !matches!(phase, "Failed" | "Succeeded"));
    match going {
        Some(time) => {
            page.line("Status:", format!("Terminating (lasts {})", page.since(Some(time))));
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
            page.line("Termination Grace Period:", format!("{grace}s"));
        }
        None => page.line("Status:", phase),
    }
    page.maybe("Reason:", status.reason.as_deref());
    page.maybe("Message:", status.message.as_deref());
    if let Some(profile) = spec.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref()) {
        page.line("SeccompProfile:", &profile.type_);
        page.maybe("LocalhostProfile:", profile.localhost_profile.as_deref());
    }
}

fn addresses(page: &mut Page, pod: &Pod, status: &PodStatus) {
    page.line("IP:", status.pod_ip.as_deref().unwrap_or_default());
    let addresses = status.pod_ips.as_deref().unwrap_or_default();
    page.heading("IPs:", addresses.is_empty());
    for address in addresses {
        page.line("  IP:", &address.ip);
    }
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    if let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) {
        page.line("Controlled By:", format!("{}/{}", owner.kind, owner.name));
    }
    page.maybe("NominatedNodeName:", status.nominated_node_name.as_deref());
}

fn conditions(page: &mut Page, spec: &PodSpec, status: &PodStatus) {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let status_of = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind).map(|c| c.status.as_str());
    let gates: Vec<_> = spec.readiness_gates.iter().flatten().map(|gate| gate.condition_type.as_str()).collect();
    let gates = gates.into_iter().map(|kind| (kind, status_of(kind).unwrap_or("<none>"))).collect();
    status_table(page, "Readiness Gates:", gates);
    let conditions = conditions.iter().map(|condition| (condition.type_.as_str(), condition.status.as_str())).collect();
    status_table(page, "Conditions:", conditions);
}

fn status_table(page: &mut Page, label: &str, rows: Vec<(&str, &str)>) {
    if rows.is_empty() {
        return;
    }
    page.cells([label]);
    page.cells(["  Type", "Status"]);
    for (kind, status) in rows {
        page.cells([&format!("  {kind} "), &format!("{status} ")]);
    }
}

fn tolerations(spec: &PodSpec) -> Vec<String> {
    let mut tolerations: Vec<_> = spec.tolerations.iter().flatten().collect();
    tolerations.sort_by_key(|toleration| toleration.key.as_deref().unwrap_or_default());
    tolerations.into_iter().map(toleration).collect()
}

/// `key=value:Effect op=Exists for 300s`
fn toleration(toleration: &Toleration) -> String {
    let part = |text: &Option<String>, before: &str| match text.as_deref() {
        None | Some("") => String::new(),
        Some(text) => format!("{before}{text}"),
    };
    let value = part(&toleration.value, "=");
    let mut text = part(&toleration.key, "");
    let exists = toleration.operator.as_deref() == Some("Exists") && value.is_empty();
    text += &(value + &part(&toleration.effect, ":"));
    if exists {
        text += if text.is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = toleration.toleration_seconds {
        text += &format!(" for {seconds}s");
    }
    text
}

fn spread_constraints(spec: &PodSpec) -> Vec<String> {
    let mut constraints: Vec<_> = spec.topology_spread_constraints.iter().flatten().collect();
    constraints.sort_by_key(|constraint| &constraint.topology_key);
    constraints.into_iter().map(spread_constraint).collect()
}

fn spread_constraint(constraint: &TopologySpreadConstraint) -> String {
    let TopologySpreadConstraint { topology_key, when_unsatisfiable, max_skew, .. } = constraint;
    let text = format!("{topology_key}:{when_unsatisfiable} when max skew {max_skew} is exceeded");
    match &constraint.label_selector {
        Some(selector) => format!("{text} for selector {}", selector_text(selector)),
        None => text,
    }
}

/// `FormatLabelSelector`: in order of the keys.
fn selector_text(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| (key, format!("{key}={value}")));
    let others = selector.match_expressions.iter().flatten().map(|rule| (&rule.key, requirement(rule)));
    let mut rules: Vec<_> = equal.chain(others).collect();
    rules.sort_by_key(|(key, _)| *key);
    let rules: Vec<String> = rules.into_iter().map(|(_, text)| text).collect();
    joined(&rules, "<none>")
}

fn requirement(rule: &LabelSelectorRequirement) -> String {
    let mut values = rule.values.clone().unwrap_or_default();
    values.sort();
    let (key, values) = (&rule.key, values.join(","));
    match rule.operator.as_str() {
        "In" => format!("{key} in ({values})"),
        "NotIn" => format!("{key} notin ({values})"),
        "DoesNotExist" => format!("!{key}"),
        _ => key.clone(),
    }
}

//! `describeNode`.

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, Pod, Taint};

use super::super::table::node_roles;
use super::Page;
use super::quantity::{Amount, canonical};
use super::resources::{Amounts, Quantities, Totals, amounts, is_huge_pages};

/// What kubectl is told when it asks the gateway, which keeps no Leases, for the Node's.
const NO_LEASE: &str = "Failed to get lease: the server could not find the requested resource";

pub(super) fn describe(page: &mut Page, node: &Node, pods: &[&Pod]) {
    let (spec, status) = (node.spec.clone().unwrap_or_default(), node.status.clone().unwrap_or_default());
    page.name(&node.metadata);
    page.line("Roles:", node_roles(node));
    page.labels(&node.metadata);
    page.line("CreationTimestamp:", page.date(node.metadata.creation_timestamp.as_ref()));
    page.several("Taints:", taints(&spec));
    page.line("Unschedulable:", spec.unschedulable.unwrap_or_default().to_string());
    page.line("Lease:", NO_LEASE);
    conditions(page, status.conditions.as_deref().unwrap_or_default());
    page.cells(["Addresses:"]);
    for address in status.addresses.iter().flatten() {
        page.line(&format!("  {}:", address.type_), &address.address);
    }
    quantities(page, "Capacity:", status.capacity.as_ref());
    quantities(page, "Allocatable:", status.allocatable.as_ref());
    system(page, &status);
    page.maybe("PodCIDR:", spec.pod_cidr.as_deref());
    page.maybe("PodCIDRs:", Some(&spec.pod_cidrs.unwrap_or_default().join(",")));
    page.maybe("ProviderID:", spec.provider_id.as_deref());
    allocation(page, &allocatable(&status), pods);
}

fn taints(spec: &NodeSpec) -> Vec<String> {
    let mut taints: Vec<_> = spec.taints.iter().flatten().collect();
    taints.sort_by_key(|taint| format!("{},{}", taint.effect, taint.key));
    taints.into_iter().map(taint).collect()
}

fn taint(taint: &Taint) -> String {
    let Taint { key, effect, .. } = taint;
    match taint.value.as_deref().unwrap_or_default() {
        "" if effect.is_empty() => key.clone(),
        "" => format!("{key}:{effect}"),
        value => format!("{key}={value}:{effect}"),
    }
}

fn conditions(page: &mut Page, conditions: &[NodeCondition]) {
    if conditions.is_empty() {
        return;
    }
    page.cells(["Conditions:"]);
    page.cells(["  Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"]);
    page.cells(["  ----", "------", "-----------------", "------------------", "------", "-------"]);
    for condition in conditions {
        let spaced = |text: &str| format!("{text} ");
        page.cells([
            &format!("  {} ", condition.type_),
            &spaced(&condition.status),
            &spaced(&page.date(condition.last_heartbeat_time.as_ref())),
            &spaced(&page.date(condition.last_transition_time.as_ref())),
            &spaced(condition.reason.as_deref().unwrap_or_default()),
            condition.message.as_deref().unwrap_or_default(),
        ]);
    }
}

fn quantities(page: &mut Page, label: &str, quantities: Option<&Quantities>) {
    let Some(quantities) = quantities.filter(|quantities| !quantities.is_empty()) else {
        return;
    };
    page.cells([label]);
    for (name, quantity) in quantities {
        page.line(&format!("  {name}:"), canonical(quantity));
    }
}

fn system(page: &mut Page, status: &NodeStatus) {
    let info = status.node_info.clone().unwrap_or_default();
    page.cells(["System Info:"]);
    page.line("  Machine ID:", info.machine_id);
    page.line("  System UUID:", info.system_uuid);
    page.line("  Boot ID:", info.boot_id);
    page.line("  Kernel Version:", info.kernel_version);
    page.line("  OS Image:", info.os_image);
    page.line("  Operating System:", info.operating_system);
    page.line("  Architecture:", info.architecture);
    page.line("  Container Runtime Version:", info.container_runtime_version);
    page.line("  Kubelet Version:", info.kubelet_version);
}

/// What Pods can have of the node: all of it, if it does not say otherwise.
fn allocatable(status: &NodeStatus) -> Amounts {
    let told = status.allocatable.as_ref().filter(|told| !told.is_empty());
    amounts(told.or(status.capacity.as_ref()))
}

fn allocation(page: &mut Page, allocatable: &Amounts, pods: &[&Pod]) {
    page.line("Non-terminated Pods:", format!("({} in total)", pods.len()));
    page.cells(["  Namespace", "Name", "", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"]);
    page.cells(["  ---------", "----", "", "------------", "----------", "---------------", "-------------", "---"]);
    let mut all = Totals::default();
    for pod in pods {
        // Two measures: kubectl shows what a Pod has, and sums up what Pods say.
        pod_line(page, allocatable, pod, &Totals::in_use(pod));
        all.add(&Totals::specified(pod));
    }
    page.cells(["Allocated resources:"]);
    page.cells(["  (Total limits may be over 100 percent, i.e., overcommitted.)"]);
    page.cells(["  Resource", "Requests", "Limits"]);
    page.cells(["  --------", "--------", "------"]);
    for name in shares_of_interest(allocatable) {
        let (request, limit) = (amount(&all.requests, name), amount(&all.limits, name));
        let text = |amount: Amount| match is_extended(name) {
            true => amount.to_string(),
            false => share(name, amount, allocatable),
        };
        page.cells([&format!("  {name}"), &text(request), &text(limit)]);
    }
}

fn pod_line(page: &mut Page, allocatable: &Amounts, pod: &Pod, totals: &Totals) {
    let name = |text: &Option<String>| text.clone().unwrap_or_default();
    let share = |amounts: &Amounts, name: &str| share(name, amount(amounts, name), allocatable);
    page.cells([
        &format!("  {}", name(&pod.metadata.namespace)),
        &name(&pod.metadata.name),
        "",
        &share(&totals.requests, "cpu"),
        &share(&totals.limits, "cpu"),
        &share(&totals.requests, "memory"),
        &share(&totals.limits, "memory"),
        &page.since(pod.metadata.creation_timestamp.as_ref()),
    ]);
}

/// What every node has, then huge pages, then what only this one has; a number of Pods is no resource of theirs.
fn shares_of_interest(allocatable: &Amounts) -> impl Iterator<Item = &str> {
    let names = || allocatable.keys().map(String::as_str);
    let pages = names().filter(|name| is_huge_pages(name));
    let extended = names().filter(|name| is_extended(name) && *name != "pods");
    ["cpu", "memory", "ephemeral-storage"].into_iter().chain(pages).chain(extended)
}

fn is_extended(name: &str) -> bool {
    !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_pages(name)
}

fn amount(amounts: &Amounts, name: &str) -> Amount {
    amounts.get(name).copied().unwrap_or_default()
}

/// `500m (25%)`
fn share(name: &str, part: Amount, allocatable: &Amounts) -> String {
    let whole = amount(allocatable, name);
    let percent = match name {
        "cpu" => percent(part.thousandths(), whole.thousandths()),
        _ => percent(part.whole(), whole.whole()),
    };
    format!("{part} ({percent}%)")
}

/// With kubectl's own roundings, so in floating point: 290 of 1,000 are 28 per cent.
#[expect(clippy::cast_possible_truncation, reason = "the fraction is what is to be cut off")]
fn percent(part: i128, whole: i128) -> i64 {
    match whole {
        0 => 0,
        whole => (part as f64 / whole as f64 * 100.0) as i64,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{described, object};
    use super::*;
    use crate::objects::Object;

    fn pod(name: &str, cpu: &str, limit: Value) -> Object {
        object(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "creationTimestamp": "2023-11-14T22:13:10Z"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "256Mi"}, "limits": limit}}]}}))
    }

    #[test]
    fn a_node_reads_as_kubectl_describes_it() {
        let node = object(json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}},
            "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"],
                "taints": [{"key": "b", "effect": "NoSchedule"}, {"key": "a", "value": "1", "effect": "NoSchedule"}, {"key": "z", "effect": "NoExecute"}]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}],
                "capacity": {"cpu": "2", "memory": "2048Mi", "pods": "110", "example.com/gpu": "1", "hugepages-2Mi": "0"},
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2023-11-14T22:13:20Z", "reason": "Up", "message": "it is"}],
                "nodeInfo": {"machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6.18", "osImage": "Linux", "operatingSystem": "linux",
                    "architecture": "amd64", "containerRuntimeVersion": "c://2", "kubeletVersion": "v1", "kubeProxyVersion": "v1"}}}));
        let pods = [
            pod("a", "290m", json!({})),
            pod("b", "290m", json!({"cpu": "1.5", "memory": "1G", "example.com/gpu": "1"})),
        ];
        let expected = "\
Name:               n1
Roles:              edge,worker
Labels:             kubernetes.io/role=edge
                    node-role.kubernetes.io/worker=
Annotations:        <none>
CreationTimestamp:  Mon, 01 Jan 0001 00:00:00 +0000
Taints:             z:NoExecute
                    a=1:NoSchedule
                    b:NoSchedule
Unschedulable:      false
Lease:              Failed to get lease: the server could not find the requested resource
Conditions:
  Type    Status  LastHeartbeatTime                 LastTransitionTime                Reason  Message
  ----    ------  -----------------                 ------------------                ------  -------
  Ready   True    Tue, 14 Nov 2023 22:13:20 +0000   Mon, 01 Jan 0001 00:00:00 +0000   Up      it is
Addresses:
  InternalIP:  192.168.0.1
Capacity:
  cpu:              2
  example.com/gpu:  1
  hugepages-2Mi:    0
  memory:           2Gi
  pods:             110
System Info:
  Machine ID:                 m
  System UUID:                s
  Boot ID:                    b
  Kernel Version:             6.18
  OS Image:                   Linux
  Operating System:           linux
  Architecture:               amd64
  Container Runtime Version:  c://2
  Kubelet Version:            v1
PodCIDR:                      10.0.0.0/24
PodCIDRs:                     10.0.0.0/24,fd00::/64
Non-terminated Pods:          (2 in total)
  Namespace                   Name    CPU Requests  CPU Limits   Memory Requests  Memory Limits  Age
  ---------                   ----    ------------  ----------   ---------------  -------------  ---
  foo                         a       290m (14%)    0 (0%)       256Mi (12%)      0 (0%)         10s
  foo                         b       290m (14%)    1500m (75%)  256Mi (12%)      1G (46%)       10s
Allocated resources:
  (Total limits may be over 100 percent, i.e., overcommitted.)
  Resource           Requests     Limits
  --------           --------     ------
  cpu                580m (28%)   1500m (75%)
  memory             512Mi (25%)  1G (46%)
  ephemeral-storage  0 (0%)       0 (0%)
  hugepages-2Mi      0 (0%)       0 (0%)
  example.com/gpu    0            1
Events:              <none>
";
        assert_eq!(described(&node, &pods, &[]), expected);
    }

    #[test]
    fn shares_are_kubectls_of_what_there_is() {
        assert_eq!(percent(290, 1000), 28);
        assert_eq!(percent(3, 2), 150);
        assert_eq!(percent(1, 0), 0);
    }
}

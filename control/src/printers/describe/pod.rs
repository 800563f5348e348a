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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{described, object};
    use super::*;

    #[test]
    fn a_pod_of_a_controller_reads_as_kubectl_describes_it() {
        let pod = object(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-1", "labels": {"app": "web"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": true}]},
            "spec": {"nodeName": "n1", "priority": 0, "nodeSelector": {"zone": "a"},
                "tolerations": [{"key": "down", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
                "containers": [{"name": "web", "image": "web:1", "args": ["-v"],
                    "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
                    "resources": {"requests": {"cpu": "0.1"}},
                    "livenessProbe": {"tcpSocket": {"port": 80}, "timeoutSeconds": 1},
                    "env": [{"name": "A", "value": "1"}, {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp", "readOnly": true}]}],
                "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}, {"name": "old", "flocker": {"datasetName": "d"}}]},
            "status": {"phase": "Running", "hostIP": "192.168.0.1", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
                "startTime": "2023-11-14T22:13:20Z", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "web", "image": "web:1", "imageID": "i", "containerID": "c", "ready": true, "restartCount": 1,
                    "state": {"running": {"startedAt": "2023-11-14T22:13:20Z"}}}]}}));
        let expected = "\
Name:         web-1
Namespace:    foo
Priority:     0
Node:         n1/192.168.0.1
Start Time:   Tue, 14 Nov 2023 22:13:20 +0000
Labels:       app=web
Annotations:  <none>
Status:       Running
IP:           10.0.0.1
IPs:
  IP:           10.0.0.1
Controlled By:  ReplicaSet/web
Containers:
  web:
    Container ID:  c
    Image:         web:1
    Image ID:      i
    Port:          80/TCP (http)
    Host Port:     0/TCP (http)
    Args:
      -v
    State:          Running
      Started:      Tue, 14 Nov 2023 22:13:20 +0000
    Ready:          True
    Restart Count:  1
    Requests:
      cpu:     100m
    Liveness:  tcp-socket :80 delay=0s timeout=1s period=0s successThreshold=0 failureThreshold=0
    Environment:
      A:    1
      KEY:  <set to the key 'k' in secret 's'>  Optional: false
    Mounts:
      /tmp from tmp (ro)
Conditions:
  Type    Status
  Ready   True \nVolumes:
  tmp:
    Type:       EmptyDir (a temporary directory that shares a pod's lifetime)
    Medium:     Memory
    SizeLimit:  <unset>
  old:
  <unknown>
QoS Class:       Burstable
Node-Selectors:  zone=a
Tolerations:     down:NoExecute op=Exists for 300s
Events:          <none>
";
        assert_eq!(described(&pod, &[], &[]), expected);
    }

    #[test]
    fn a_pod_that_says_nothing_and_is_going() {
        let pod = object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p",
            "deletionTimestamp": "2023-11-14T22:13:00Z", "deletionGracePeriodSeconds": 30},
            "spec": {"containers": [{"name": "c"}]}}));
        let expected = "\
Name:                      p
Namespace:                 foo
Node:                      <none>
Labels:                    <none>
Annotations:               <none>
Status:                    Terminating (lasts 20s)
Termination Grace Period:  30s
IP:                        \nIPs:                       <none>
Containers:
  c:
    Image:        \n    Port:         <none>
    Host Port:    <none>
    Environment:  <none>
    Mounts:       <none>
Volumes:          <none>
QoS Class:        BestEffort
Node-Selectors:   <none>
Tolerations:      <none>
Events:           <none>
";
        assert_eq!(described(&pod, &[], &[]), expected);
    }

    #[test]
    fn tolerations_in_all_their_forms() {
        let of = |key: &str, operator: &str, value: &str, effect: &str| {
            let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let toleration = Toleration {
                key: text(key),
                operator: text(operator),
                value: text(value),
                effect: text(effect),
                ..Toleration::default()
            };
            super::toleration(&toleration)
        };
        assert_eq!(of("", "Exists", "", ""), "op=Exists");
        assert_eq!(of("a", "Exists", "", ""), "a op=Exists");
        assert_eq!(of("", "Exists", "", "NoExecute"), ":NoExecute op=Exists");
        assert_eq!(of("a", "Equal", "b", "NoSchedule"), "a=b:NoSchedule");
    }

    #[test]
    fn an_object_says_nothing_to_the_terminal() {
        let pod = object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": []}, "status": {"message": "\u{1b}[2Jnew\r\nline"}}));
        let told = described(&pod, &[], &[]);
        assert!(told.contains("\nMessage:      ^[[2Jnew\\r\nline\n"), "{told}");
        assert!(told.contains("\nContainers: <none>\n"), "{told}");
    }
}

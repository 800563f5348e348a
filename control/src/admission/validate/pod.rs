//! `ValidatePod` (K `pkg/apis/core/validation/validation.go`), as far as endpoints come from it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

use super::fields::protocol;
use super::names;
use crate::objects::fault::{Fault, Faults};
use crate::objects::service::{Family, parse_ip};

/// Adds what is wrong with a defaulted Pod.
pub(super) fn check(pod: &Pod, old: Option<&Pod>, faults: &mut Faults) {
    if let Some(spec) = &pod.spec {
        for (index, container) in spec.containers.iter().enumerate() {
            ports(container, &format!("spec.containers[{index}].ports"), faults);
        }
        for (index, container) in spec.init_containers.iter().flatten().enumerate() {
            ports(container, &format!("spec.initContainers[{index}].ports"), faults);
        }
        let texts = [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)];
        for (field, text) in texts {
            name(&format!("spec.{field}"), text.as_deref(), names::label, faults);
        }
        name("spec.nodeName", spec.node_name.as_deref(), names::subdomain, faults);
    }
    if let Some(status) = &pod.status {
        addresses(status, old.and_then(|old| old.status.as_ref()), faults);
    }
}

fn name(field: &str, text: Option<&str>, details: fn(&str) -> Vec<String>, faults: &mut Faults) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        faults.extend(Fault::all_invalid(field, text, details(text)));
    }
}

fn ports(container: &Container, field: &str, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let field = format!("{field}[{index}]");
        let name = port.name.as_deref().unwrap_or_default();
        let wrong = if name.is_empty() { Vec::new() } else { names::port_name(name) };
        if wrong.is_empty() && !name.is_empty() && !seen.insert(name) {
            faults.push(Fault::duplicate(format!("{field}.name"), name));
        }
        faults.extend(Fault::all_invalid(format!("{field}.name"), name, wrong));
        match port.container_port {
            0 => faults.push(Fault::required(format!("{field}.containerPort"), "")),
            number => number_of_port(number, format!("{field}.containerPort"), faults),
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            number_of_port(number, format!("{field}.hostPort"), faults);
        }
        protocol(port.protocol.as_deref(), &format!("{field}.protocol"), faults);
    }
}

fn number_of_port(number: i32, field: String, faults: &mut Faults) {
    if !(1..=65535).contains(&number) {
        faults.push(Fault::invalid(field, number, names::NOT_A_PORT));
    }
}

fn addresses(status: &PodStatus, old: Option<&PodStatus>, faults: &mut Faults) {
    let ips: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    let held = |ip: &String| old.is_some_and(|old| old.pod_ips.iter().flatten().any(|before| before.ip == *ip));
    for (index, ip) in ips.iter().enumerate().filter(|(_, ip)| !held(ip)) {
        let unusable = || names::unusable_address(ip, parse_ip(ip)?);
        let detail = names::strict_address(ip).map(str::to_owned).or_else(unusable);
        faults.extend(detail.map(|detail| Fault::invalid(format!("status.podIPs[{index}]"), ip, &detail)));
    }
    let families: Option<Vec<Family>> = ips.iter().map(|ip| parse_ip(ip).map(Family::of)).collect();
    let Some(families) = families else { return };
    let distinct: BTreeSet<Family> = families.iter().copied().collect();
    if distinct.len() < families.len() {
        let detail = "may specify no more than one IP for each IP family";
        faults.push(Fault::invalid("status.podIPs", ips.as_slice(), detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{World, pod};

    fn faults(spec: Value, status: Value) -> Vec<String> {
        let mut value = pod("p", "a", "10.1.0.1");
        value["spec"] = spec;
        for (field, given) in status.as_object().unwrap() {
            value["status"][field] = given.clone();
        }
        World::new().faults(value)
    }

    #[test]
    fn faults_are_told_in_kubernetes_words() {
        let port = |port: Value| json!({"containers": [{"name": "c", "ports": [port]}]});
        let ports = "spec.containers[0].ports";
        let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                     and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
        for (spec, expected) in [
            (port(json!({"containerPort": 0})), format!("{ports}[0].containerPort: Required value")),
            (
                port(json!({"containerPort": 70000})),
                format!("{ports}[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"),
            ),
            (
                port(json!({"containerPort": 80, "hostPort": -1})),
                format!("{ports}[0].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive"),
            ),
            (
                port(json!({"containerPort": 80, "protocol": "ICMP"})),
                format!(r#"{ports}[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP""#),
            ),
            (
                port(json!({"containerPort": 80, "name": "80"})),
                format!("{ports}[0].name: Invalid value: \"80\": must contain at least one letter (a-z)"),
            ),
            (
                json!({"containers": [{"name": "c", "ports": [{"name": "a", "containerPort": 1}, {"name": "a", "containerPort": 2}]}]}),
                format!("{ports}[1].name: Duplicate value: \"a\""),
            ),
            (json!({"containers": [], "hostname": "A.b"}), format!("spec.hostname: Invalid value: \"A.b\": {label}")),
            (json!({"containers": [], "subdomain": "-"}), format!("spec.subdomain: Invalid value: \"-\": {label}")),
        ] {
            assert_eq!(faults(spec, json!({})), [expected]);
        }
        for (ip, range) in [
            ("127.0.0.1", "loopback range (127.0.0.0/8, ::1/128)"),
            ("239.0.0.1", "multicast range (224.0.0.0/4, ff00::/8)"),
        ] {
            let told = format!("status.podIPs[0]: Invalid value: \"{ip}\": may not be in the {range}");
            assert_eq!(faults(json!({"containers": []}), json!({"podIP": ip})), [told]);
        }
        let two = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]});
        assert_eq!(
            faults(json!({"containers": []}), two),
            [
                r#"status.podIPs: Invalid value: ["10.0.0.1","10.0.0.2"]: may specify no more than one IP for each IP family"#
            ]
        );
    }
}

//! `ValidateService` and `ValidateServiceUpdate` (K `pkg/apis/core/validation/validation.go`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::fields::{label_pairs, one_of, protocol};
use super::names;
use crate::objects::fault::{Fault, Faults, Structure};
use crate::objects::service::{Family, NONE, SOURCE_RANGES_ANNOTATION, ServiceType, SpecExt, parse_ip};

/// Longest stickiness, in seconds: a day.
const MAX_AFFINITY_SECONDS: i32 = 86_400;
const INGRESS: &str = "status.loadBalancer.ingress";

/// Adds what is wrong with a defaulted Service, in the order of K `validateService`. Addresses that `old` has too are not looked
/// at again.
pub(super) fn check(service: &Service, old: Option<&Service>, faults: &mut Faults) {
    let Some(spec) = &service.spec else {
        return faults.push(Fault::required("spec", ""));
    };
    topology(service, faults);
    if spec.ports().is_empty() && !spec.is_headless() && spec.service_type() != ServiceType::ExternalName {
        faults.push(Fault::required("spec.ports", ""));
    }
    fit_for_type(spec, faults);
    ports(spec, faults);
    if let Some(selector) = &spec.selector {
        label_pairs("spec.selector", selector, faults);
    }
    affinity(spec, faults);
    let old_spec = old.and_then(|old| old.spec.as_ref());
    addresses_and_families(spec, old_spec, faults);
    external_ips(spec, old_spec, faults);
    one_of(spec.type_.as_deref(), "spec.type", &ServiceType::NAMES, faults);
    repeated_ports(spec, faults);
    source_ranges(service, old, faults);
    balancer(spec, faults);
    policies(spec, faults);
    status(service, old, faults);
}

/// Adds what may not be changed from `old`.
pub(super) fn check_change(service: &Service, old: &Service, faults: &mut Faults) {
    let (Some(spec), Some(old)) = (&service.spec, &old.spec) else {
        return;
    };
    if spec.needs_cluster_ip() && old.needs_cluster_ip() {
        cluster_ip_change(spec, old, faults);
        family_change(spec, old, faults);
    }
    let balancer = |spec: &ServiceSpec| spec.service_type() == ServiceType::LoadBalancer;
    if balancer(spec) && balancer(old) && spec.load_balancer_class != old.load_balancer_class {
        let class = &Value::from(spec.load_balancer_class.clone());
        faults.push(Fault::invalid("spec.loadBalancerClass", class, "may not change once set"));
    }
    let held = spec.needs_health_check_port() && old.needs_health_check_port();
    if held && spec.health_check_node_port != old.health_check_node_port {
        faults.push(Fault::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
}

/// The annotation has had two names; where both are given they must agree.
fn topology(service: &Service, faults: &mut Faults) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let annotation = |name: &str| service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name));
    let (Some(mode), Some(hints)) = (annotation(MODE), annotation(HINTS)) else { return };
    if mode != hints {
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        faults.push(Fault::invalid(format!("metadata.annotations[{MODE}]"), mode, &detail));
    }
}

fn fit_for_type(spec: &ServiceSpec, faults: &mut Faults) {
    match spec.service_type() {
        ServiceType::ClusterIp => {}
        kind @ (ServiceType::NodePort | ServiceType::LoadBalancer) => {
            if spec.is_headless() {
                let detail = format!("may not be set to 'None' for {} services", kind.as_str());
                faults.push(Fault::invalid("spec.clusterIPs[0]", NONE, &detail));
            }
        }
        ServiceType::ExternalName => external_name(spec, faults),
    }
}

fn external_name(spec: &ServiceSpec, faults: &mut Faults) {
    let set = [
        ("spec.clusterIPs", spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty())),
        ("spec.ipFamilies", spec.ip_families.as_ref().is_some_and(|families| !families.is_empty())),
        ("spec.ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ];
    for (field, _) in set.into_iter().filter(|(_, set)| *set) {
        faults.push(Fault::forbidden(field, "may not be set for ExternalName services"));
    }
    let name = spec.external_name.as_deref().unwrap_or_default();
    match name.strip_suffix('.').unwrap_or(name) {
        "" => faults.push(Fault::required("spec.externalName", "")),
        name => faults.extend(Fault::all_invalid("spec.externalName", name, names::subdomain(name))),
    }
}

fn ports(spec: &ServiceSpec, faults: &mut Faults) {
    let ports = spec.ports();
    let mut seen_names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        port_name(port, ports.len() > 1, &mut seen_names, &field, faults);
        if !(1..=65535).contains(&port.port) {
            faults.push(Fault::invalid(format!("{field}.port"), port.port, names::NOT_A_PORT));
        }
        protocol(port.protocol.as_deref(), &format!("{field}.protocol"), faults);
        target_port(port, &field, faults);
        if let Some(protocol) = &port.app_protocol {
            faults.extend(Fault::all_invalid(format!("{field}.appProtocol"), protocol, names::qualified(protocol)));
        }
    }
}

fn port_name<'a>(
    port: &'a ServicePort,
    required: bool,
    seen: &mut BTreeSet<&'a str>,
    field: &str,
    faults: &mut Faults,
) {
    let field = format!("{field}.name");
    match port.name.as_deref().unwrap_or_default() {
        "" if required => faults.push(Fault::required(field, "")),
        "" => {}
        name => {
            faults.extend(Fault::all_invalid(field.as_str(), name, names::label(name)));
            if !seen.insert(name) {
                faults.push(Fault::duplicate(field, name));
            }
        }
    }
}

fn target_port(port: &ServicePort, field: &str, faults: &mut Faults) {
    let field = format!("{field}.targetPort");
    match &port.target_port {
        Some(IntOrString::Int(number)) if !(1..=65535).contains(number) => {
            faults.push(Fault::invalid(field, *number, names::NOT_A_PORT));
        }
        Some(IntOrString::String(name)) => {
            faults.extend(Fault::all_invalid(field, name, names::port_name(name)));
        }
        _ => {}
    }
}

fn repeated_ports(spec: &ServiceSpec, faults: &mut Faults) {
    let node_port = |port: &ServicePort| port.node_port.filter(|node_port| *node_port != 0);
    if spec.service_type() == ServiceType::ClusterIp {
        for index in positions(spec.ports(), |port| node_port(port).is_some()) {
            let field = format!("spec.ports[{index}].nodePort");
            faults.push(Fault::forbidden(field, "may not be used when `type` is 'ClusterIP'"));
        }
    }
    let (mut ports, mut node_ports) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in spec.ports().iter().enumerate() {
        let Some(number) = node_port(port) else { continue };
        if !node_ports.insert((port.protocol.as_deref(), number)) {
            faults.push(Fault::duplicate(format!("spec.ports[{index}].nodePort"), number));
        }
    }
    for (index, port) in spec.ports().iter().enumerate() {
        if !ports.insert((port.protocol.as_deref(), port.port)) {
            // Of the API server's key, only two fields are set.
            let fields = [
                ("Name", json!("")),
                ("Protocol", json!(port.protocol)),
                ("AppProtocol", Value::Null),
                ("Port", json!(port.port)),
                ("TargetPort", json!(0)),
                ("NodePort", json!(0)),
            ];
            faults.push(Fault::duplicate(format!("spec.ports[{index}]"), Structure(&fields)));
        }
    }
}

fn affinity(spec: &ServiceSpec, faults: &mut Faults) {
    let affinity = spec.session_affinity.as_deref();
    one_of(affinity, "spec.sessionAffinity", &["ClientIP", "None"], faults);
    let config = spec.session_affinity_config.as_ref();
    let timeout = config.and_then(|config| config.client_ip.as_ref()).and_then(|config| config.timeout_seconds);
    if let Some(seconds) = timeout.filter(|s| affinity == Some("ClientIP") && !(1..=MAX_AFFINITY_SECONDS).contains(s)) {
        let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
        faults.push(Fault::invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, &detail));
    }
}

/// K `ValidateServiceClusterIPsRelatedFields`. It is also checked before anything is allocated.
pub(crate) fn addresses_and_families(spec: &ServiceSpec, old: Option<&ServiceSpec>, faults: &mut Faults) {
    if !spec.needs_cluster_ip() {
        return;
    }
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let field = "spec.clusterIPs";
    match spec.cluster_ip.as_deref() {
        Some(_) if ips.is_empty() => faults.push(Fault::required(field, "")),
        Some(primary) if ips[0] != primary => {
            faults.push(Fault::invalid(field, ips, "first value must match `clusterIP`"));
        }
        None if !ips.is_empty() => {
            faults.push(Fault::invalid(field, ips, "must be empty when `clusterIP` is not specified"));
        }
        _ => {}
    }
    families(spec, faults);
    if cluster_ips(ips, old, faults) && !spec.is_headless() {
        fit_together(spec, ips, faults);
    }
}

fn families(spec: &ServiceSpec, faults: &mut Faults) {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        if Family::parse(family).is_none() {
            faults.push(Fault::not_supported(field.as_str(), family, &["IPv4", "IPv6"]));
        }
        if families[..index].contains(family) {
            faults.push(Fault::duplicate(field, family));
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !policies.contains(&policy.as_str()) {
            faults.push(Fault::not_supported("spec.ipFamilyPolicy", policy, &policies));
        }
    }
}

/// Whether all of them are addresses.
fn cluster_ips(ips: &[String], old: Option<&ServiceSpec>, faults: &mut Faults) -> bool {
    let field = "spec.clusterIPs";
    let held = old.and_then(|old| old.cluster_ips.as_deref()).unwrap_or_default();
    let mut fine = true;
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && ip == NONE {
            if ips.len() > 1 {
                faults.push(Fault::invalid(field, ips, "'None' must be the first and only value"));
                fine = false;
            }
        } else if let Some(detail) = names::strict_address(ip).filter(|_| !held.contains(ip)) {
            faults.push(Fault::invalid(format!("{field}[{index}]"), ip, detail));
            fine = false;
        }
    }
    if ips.len() > 2 {
        faults.push(Fault::invalid(field, ips, "may only hold up to 2 values"));
    }
    fine
}

fn fit_together(spec: &ServiceSpec, ips: &[String], faults: &mut Faults) {
    let of_ips: Vec<Family> = ips.iter().filter_map(|ip| parse_ip(ip)).map(Family::of).collect();
    if ips.len() > 1 && (of_ips.len() < 2 || of_ips.iter().all(|family| *family == of_ips[0])) {
        faults.push(Fault::invalid("spec.clusterIPs", ips, "may specify no more than one IP for each IP family"));
    }
    let families = spec.ip_families.iter().flatten().map(|family| Family::parse(family));
    for (index, ((ip, found), wanted)) in ips.iter().zip(of_ips).zip(families).enumerate() {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            let detail = format!("expected an {} value as indicated by `ipFamilies[{index}]`", wanted.as_str());
            faults.push(Fault::invalid(format!("spec.clusterIPs[{index}]"), ip, &detail));
        }
    }
}

fn external_ips(spec: &ServiceSpec, old: Option<&ServiceSpec>, faults: &mut Faults) {
    let held = old.and_then(|old| old.external_ips.as_deref()).unwrap_or_default();
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        let strict = names::strict_address(ip).filter(|_| !held.contains(ip)).map(str::to_owned);
        let detail = strict.or_else(|| names::unusable_address(ip, parse_ip(ip)?));
        faults.extend(detail.map(|detail| Fault::invalid(format!("spec.externalIPs[{index}]"), ip, &detail)));
    }
}

fn source_ranges(service: &Service, old: Option<&Service>, faults: &mut Faults) {
    let ranges_of = |service: &Service| service.spec.as_ref().and_then(|spec| spec.load_balancer_source_ranges.clone());
    let annotation = |service: &Service| {
        service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SOURCE_RANGES_ANNOTATION)).cloned()
    };
    let balancer = service.spec.as_ref().is_some_and(|spec| spec.service_type() == ServiceType::LoadBalancer);
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = ranges_of(service).unwrap_or_default();
    if !ranges.is_empty() {
        // The path is written like this by the API server.
        let field = "spec.LoadBalancerSourceRanges";
        if !balancer {
            faults.push(Fault::forbidden(field, only));
        }
        let held: Vec<String> =
            old.and_then(ranges_of).into_iter().flatten().map(|range| range.trim().into()).collect();
        for (index, range) in ranges.iter().map(|range| range.trim()).enumerate() {
            let detail = names::strict_cidr(range).filter(|_| !held.iter().any(|held| held == range));
            faults.extend(detail.map(|detail| Fault::invalid(format!("{field}[{index}]"), range, detail)));
        }
    } else if let Some(text) = annotation(service) {
        let field = format!("metadata.annotations[{SOURCE_RANGES_ANNOTATION}]");
        if !balancer {
            faults.push(Fault::forbidden(field.as_str(), only));
        }
        if old.and_then(annotation).as_ref() != Some(&text) && !text.trim().is_empty() {
            for range in text.split(',').map(str::trim) {
                let detail = names::strict_cidr(range);
                faults.extend(detail.map(|detail| Fault::invalid(field.as_str(), range, detail)));
            }
        }
    }
}

fn balancer(spec: &ServiceSpec, faults: &mut Faults) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let balancer = spec.service_type() == ServiceType::LoadBalancer;
    if spec.allocate_load_balancer_node_ports.is_some() && !balancer {
        faults.push(Fault::forbidden("spec.allocateLoadBalancerNodePorts", only));
    }
    match spec.load_balancer_class.as_deref() {
        None => {}
        Some(_) if !balancer => faults.push(Fault::forbidden("spec.loadBalancerClass", only)),
        Some(class) => {
            faults.extend(Fault::all_invalid("spec.loadBalancerClass", class, names::qualified(class)));
        }
    }
}

/// There is no cloud behind this: the addresses in a status may be of any origin (K `ValidateLoadBalancerStatus`).
fn status(service: &Service, old: Option<&Service>, faults: &mut Faults) {
    if let Some(fault) = misplaced_addresses(service) {
        return faults.push(fault);
    }
    for (index, point) in addresses(service).iter().enumerate() {
        let held = old.is_some_and(|old| addresses(old).iter().any(|before| before.ip == point.ip));
        ingress(point, held, &format!("{INGRESS}[{index}]"), faults);
    }
}

/// Addresses of a Service that cannot have any.
pub(crate) fn misplaced_addresses(service: &Service) -> Option<Fault> {
    let balancer = service.spec.as_ref().is_some_and(|spec| spec.service_type() == ServiceType::LoadBalancer);
    let misplaced = !balancer && !addresses(service).is_empty();
    misplaced.then(|| Fault::forbidden(INGRESS, "may only be used when `spec.type` is 'LoadBalancer'"))
}

fn addresses(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

fn ingress(point: &LoadBalancerIngress, held: bool, field: &str, faults: &mut Faults) {
    let ip = point.ip.as_deref().unwrap_or_default();
    if let Some(detail) = names::strict_address(ip).filter(|_| !ip.is_empty() && !held) {
        faults.push(Fault::invalid(format!("{field}.ip"), ip, detail));
    }
    match point.ip_mode.as_deref() {
        Some(_) if ip.is_empty() => {
            faults.push(Fault::forbidden(format!("{field}.ipMode"), "may not be specified when `ip` is not set"));
        }
        Some(mode) => one_of(Some(mode), &format!("{field}.ipMode"), &["Proxy", "VIP"], faults),
        None => {}
    }
    let Some(hostname) = point.hostname.as_deref().filter(|hostname| !hostname.is_empty()) else { return };
    faults.extend(Fault::all_invalid(format!("{field}.hostname"), hostname, names::subdomain(hostname)));
    if parse_ip(hostname).is_some() {
        faults.push(Fault::invalid(format!("{field}.hostname"), hostname, "must be a DNS name, not an IP address"));
    }
}

fn policies(spec: &ServiceSpec, faults: &mut Faults) {
    let reach = ["Cluster", "Local"];
    match spec.external_traffic_policy.as_deref().filter(|policy| !policy.is_empty()) {
        Some(policy) if !spec.externally_accessible() => {
            let detail = "may only be set for externally-accessible services";
            faults.push(Fault::invalid("spec.externalTrafficPolicy", policy, detail));
        }
        policy if spec.externally_accessible() => one_of(policy, "spec.externalTrafficPolicy", &reach, faults),
        _ => {}
    }
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0) {
        let field = "spec.healthCheckNodePort";
        if !spec.needs_health_check_port() {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            faults.push(Fault::invalid(field, port, detail));
        } else if !(1..=65535).contains(&port) {
            faults.push(Fault::invalid(field, port, names::NOT_A_PORT));
        }
    }
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    let given = [
        ("spec.internalTrafficPolicy", &spec.internal_traffic_policy, &reach[..]),
        ("spec.trafficDistribution", &spec.traffic_distribution, &known[..]),
    ];
    for (field, value, known) in given {
        if let Some(value) = value.as_deref().filter(|value| !known.contains(value)) {
            faults.push(Fault::not_supported(field, value, known));
        }
    }
}

/// The secondary address may come and go, the primary one stays (K `validateUpgradeDowngradeClusterIPs`).
fn cluster_ip_change(spec: &ServiceSpec, old: &ServiceSpec, faults: &mut Faults) {
    if spec.is_headless() && old.is_headless() {
        return;
    }
    let (new, old) = (spec.cluster_ips.as_deref().unwrap_or_default(), old.cluster_ips.as_deref().unwrap_or_default());
    if old.is_empty() {
        return;
    }
    if new.is_empty() {
        return faults.push(Fault::invalid("spec.clusterIPs[0]", new, "primary clusterIP can not be unset"));
    }
    let compared = if new.len() == old.len() { new.len() } else { 1 };
    for index in (0..compared).filter(|index| new[*index] != old[*index]) {
        faults.push(Fault::invalid(format!("spec.clusterIPs[{index}]"), new, "may not change once set"));
    }
    released(spec, old.len(), new.len(), "clusterIP", faults);
}

/// The same of families (K `validateUpgradeDowngradeIPFamilies`). A headless Service may change them.
fn family_change(spec: &ServiceSpec, old: &ServiceSpec, faults: &mut Faults) {
    if spec.is_headless() || old.is_headless() {
        return;
    }
    let (new, old) = (spec.ip_families.as_deref().unwrap_or_default(), old.ip_families.as_deref().unwrap_or_default());
    if new.is_empty() || old.is_empty() {
        return;
    }
    let compared = if new.len() == old.len() { new.len() } else { 1 };
    // If their number changes, the API server shows the addresses.
    let shown = if new.len() == old.len() { new } else { spec.cluster_ips.as_deref().unwrap_or_default() };
    for _ in (0..compared).filter(|index| new[*index] != old[*index]) {
        faults.push(Fault::invalid("spec.ipFamilies[0]", shown, "may not change once set"));
    }
    released(spec, old.len(), new.len(), "ipFamily", faults);
}

/// The second of two is given up only where the policy says so.
fn released(spec: &ServiceSpec, before: usize, now: usize, what: &str, faults: &mut Faults) {
    if before > now && now == 1 && spec.ip_family_policy.as_deref() != Some("SingleStack") {
        let policy = &Value::from(spec.ip_family_policy.clone());
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        faults.push(Fault::invalid("spec.ipFamilyPolicy", policy, &detail));
    }
}

fn positions(ports: &[ServicePort], test: impl Fn(&ServicePort) -> bool) -> Vec<usize> {
    ports.iter().enumerate().filter(|(_, port)| test(port)).map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{World, service};

    fn faults(spec: Value) -> Vec<String> {
        World::new().faults(service("a", spec))
    }

    #[test]
    fn faults_are_told_in_kubernetes_words() {
        let port = json!([{"port": 80}]);
        let cases = [
            (json!({}), "spec.ports: Required value"),
            (
                json!({"ports": [{"port": 80, "targetPort": 70000}]}),
                "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"ports": [{"port": 80, "targetPort": "1234"}]}),
                "spec.ports[0].targetPort: Invalid value: \"1234\": must contain at least one letter (a-z)",
            ),
            (
                json!({"ports": [{"port": 80, "protocol": "ICMP"}]}),
                r#"spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP""#,
            ),
            (json!({"ports": [{"port": 80}, {"name": "b", "port": 81}]}), "spec.ports[0].name: Required value"),
            (
                json!({"ports": [{"name": "b", "port": 80}, {"name": "b", "port": 81}]}),
                "spec.ports[1].name: Duplicate value: \"b\"",
            ),
            (
                json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
                r#"spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}"#,
            ),
            (
                json!({"type": "Magic", "ports": port}),
                r#"spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30001}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                json!({"type": "NodePort", "clusterIP": "None", "ports": port}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (
                json!({"type": "ExternalName", "externalName": "x", "clusterIP": "10.96.0.5"}),
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
            ),
            (
                json!({"sessionAffinity": "Cookie", "ports": port}),
                r#"spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", "None""#,
            ),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}, "ports": port}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
            ),
            (
                json!({"externalIPs": ["127.0.0.1"], "ports": port}),
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                json!({"externalTrafficPolicy": "Local", "ports": port}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ),
            (
                json!({"internalTrafficPolicy": "Far", "ports": port}),
                r#"spec.internalTrafficPolicy: Unsupported value: "Far": supported values: "Cluster", "Local""#,
            ),
            (
                json!({"loadBalancerSourceRanges": ["10.0.0.0/8"], "ports": port}),
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0"], "ports": port}),
                "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                json!({"allocateLoadBalancerNodePorts": true, "ports": port}),
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                json!({"healthCheckNodePort": 30500, "ports": port}),
                "spec.healthCheckNodePort: Invalid value: 30500: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ),
            (
                json!({"clusterIP": "ten", "ports": port}),
                "spec.clusterIPs[0]: Invalid value: \"ten\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            (
                json!({"clusterIPs": ["10.96.0.9"], "ports": port}),
                "spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: must be empty when `clusterIP` is not specified",
            ),
            (
                json!({"ipFamilies": ["IPv5"], "ports": port}),
                r#"spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6""#,
            ),
            (
                json!({"ipFamilies": ["IPv6"], "ports": port}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                json!({"trafficDistribution": "Near", "ports": port}),
                r#"spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", "PreferSameZone", "PreferSameNode""#,
            ),
        ];
        for (spec, text) in cases {
            let told = faults(spec.clone());
            assert_eq!(told, [text], "{spec}");
        }
        let port = |field: &str, text: &str| format!("spec.ports[0].{field}: Invalid value: {text}");
        let range = "must be between 1 and 65535, inclusive";
        let several = [
            // The default of one is the other.
            (
                json!({"ports": [{"port": 0}]}),
                vec![port("port", &format!("0: {range}")), port("targetPort", &format!("0: {range}"))],
            ),
            (
                json!({"ports": [{"port": 80, "targetPort": ""}], "type": "Magic", "trafficDistribution": ""}),
                vec![
                    r#"spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#.to_owned(),
                    r#"spec.trafficDistribution: Unsupported value: "": supported values: "PreferClose", "PreferSameZone", "PreferSameNode""#.to_owned(),
                ],
            ),
            (
                json!({"ports": [{"port": 80, "targetPort": "a--"}]}),
                vec![
                    port("targetPort", "\"a--\": must not contain consecutive hyphens"),
                    port("targetPort", "\"a--\": must not begin or end with a hyphen"),
                ],
            ),
        ];
        for (spec, texts) in several {
            assert_eq!(faults(spec.clone()), texts, "{spec}");
        }
    }

    #[test]
    fn what_is_legal_is_let_through() {
        for spec in [
            json!({"clusterIP": "None"}),
            // Kubernetes forbade the kubelet's port until 1.32.
            json!({"type": "LoadBalancer", "ports": [{"port": 10250}]}),
            json!({"type": "ExternalName", "externalName": "db.example.com."}),
            json!({"ports": [{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]}),
            json!({"externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local", "ports": [{"port": 80, "appProtocol": "kubernetes.io/h2c"}]}),
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "loadBalancerSourceRanges": [" 10.0.0.0/8 "], "ports": [{"port": 80}]}),
        ] {
            World::new().apply([service("a", spec)]);
        }
    }

    #[test]
    fn a_refusal_reads_like_the_api_servers() {
        let mut world = World::new();
        let mut bad = service("A", json!({"ports": [{"port": 0}]}));
        bad["metadata"]["labels"] = json!({"ok": "not ok"});
        let refusal = &world.write(vec![crate::cluster::Write::Create(crate::testing::object(bad))]).unwrap_err()[0];
        assert_eq!(refusal.reason.code(), 422);
        assert!(
            refusal.message.starts_with(
                "Service \"A\" is invalid: [metadata.name: Invalid value: \"A\": a lowercase RFC 1123 label"
            ),
            "{}",
            refusal.message
        );
        assert_eq!(refusal.faults.len(), 4);
    }
}

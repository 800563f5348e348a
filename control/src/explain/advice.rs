//! Warnings about what is legal in an object and has no effect, or will be illegal, in the API server's words (K
//! `pkg/api/service/warnings.go`, `pkg/registry/discovery/endpointslice/strategy.go`, apimachinery `pkg/util/validation/ip.go`).

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::objects::Object;
use crate::objects::service::{ServiceType, SpecExt, parse_cidr, parse_ip, parse_strict_cidr};

/// Every request for Endpoints is told this.
pub(crate) const ENDPOINTS: &str = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

pub(super) const OLD_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
pub(super) const HINTS: &str = "service.kubernetes.io/topology-mode";

/// The warnings for the sender of an object.
pub(super) fn advice(object: &Object) -> Vec<String> {
    match object {
        Object::Service(service) => of_service(service),
        Object::EndpointSlice(slice) => of_slice(slice),
        Object::Endpoints(endpoints) => of_endpoints(endpoints),
        Object::Namespace(_)
        | Object::Node(_)
        | Object::Pod(_)
        | Object::ConfigMap(_)
        | Object::Secret(_)
        | Object::Event(_) => Vec::new(),
    }
}

fn of_service(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut warnings = Vec::new();
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if service.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(OLD_HINTS)) {
        warnings.push(format!("annotation {OLD_HINTS} is deprecated, please use {HINTS} instead"));
    }
    let kind = spec.service_type();
    let headless = kind == ServiceType::ClusterIp && spec.is_headless();
    let cluster_ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let cluster_ips = if cluster_ips.is_empty() { spec.cluster_ip.as_slice() } else { cluster_ips };
    warnings.extend(of_addresses("spec.clusterIPs", cluster_ips));
    let external_ips = spec.external_ips.as_deref().unwrap_or_default();
    if headless {
        let sticky = spec.session_affinity.as_deref().is_some_and(|affinity| affinity != "None");
        let ignored = [
            ("loadBalancerIP", given(&spec.load_balancer_ip)),
            ("externalIPs", !external_ips.is_empty()),
            ("SessionAffinity", sticky),
        ];
        let ignored = ignored.into_iter().filter(|(_, set)| *set);
        warnings.extend(ignored.map(|(field, _)| format!("spec.{field} is ignored for headless services")));
    }
    warnings.extend(of_addresses("spec.externalIPs", external_ips));
    if !external_ips.is_empty() && !headless && kind != ServiceType::ExternalName {
        let warning = "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
        warnings.push(warning.to_owned());
    }
    warnings.extend(spec.load_balancer_ip.as_deref().and_then(|ip| of_address("spec.loadBalancerIP", ip)));
    for (index, cidr) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        warnings.extend(of_cidr(&format!("spec.loadBalancerSourceRanges[{index}]"), cidr));
    }
    if kind == ServiceType::ExternalName && !external_ips.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != ServiceType::ExternalName && given(&spec.external_name) {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.traffic_distribution.as_deref() == Some("PreferClose") {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    warnings
}

fn of_slice(slice: &EndpointSlice) -> Vec<String> {
    if slice.address_type == "FQDN" {
        return vec!["addressType: FQDN endpoints are deprecated".to_owned()];
    }
    let addresses = slice.endpoints.iter().enumerate();
    addresses.flat_map(|(index, e)| of_addresses(&format!("endpoints[{index}].addresses"), &e.addresses)).collect()
}

fn of_endpoints(endpoints: &Endpoints) -> Vec<String> {
    let subsets = endpoints.subsets.iter().flatten().enumerate();
    let lists = subsets.flat_map(|(index, subset)| {
        [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)]
            .map(|(name, list)| (format!("subsets[{index}].{name}"), list))
    });
    let addresses = lists.flat_map(|(field, list)| {
        let each = list.iter().flatten().enumerate();
        each.filter_map(move |(index, address)| of_address(&format!("{field}[{index}].ip"), &address.ip))
    });
    addresses.collect()
}

fn of_addresses(field: &str, ips: &[String]) -> Vec<String> {
    ips.iter().enumerate().filter_map(|(index, ip)| of_address(&format!("{field}[{index}]"), ip)).collect()
}

fn of_address(field: &str, text: &str) -> Option<String> {
    let ip = parse_ip(text)?;
    // Leading zeros, or IPv4 in IPv6.
    if text.parse::<IpAddr>() != Ok(ip) {
        let will = "will be considered invalid in a future Kubernetes release";
        return Some(format!("{field}: non-standard IP address {text:?} {will}: use {:?}", ip.to_string()));
    }
    let canonical = ip.to_string();
    (ip.is_ipv6() && canonical != text)
        .then(|| format!("{field}: IPv6 address {text:?} should be in RFC 5952 canonical format ({canonical:?})"))
}

fn of_cidr(field: &str, text: &str) -> Vec<String> {
    let Some(cidr) = parse_cidr(text) else { return Vec::new() };
    let mut warnings = Vec::new();
    let (network, single) = (cidr.trunc().to_string(), IpNet::from(cidr.addr()).to_string());
    if cidr.addr() != cidr.network() {
        warnings.push(format!(
            "{field}: CIDR value {text:?} is ambiguous in this context (should be {network:?} or {single:?}?)"
        ));
    }
    if parse_strict_cidr(text) != Some(cidr) {
        let will = "will be considered invalid in a future Kubernetes release";
        warnings.push(format!("{field}: non-standard CIDR value {text:?} {will}: use {network:?}"));
    } else if warnings.is_empty() && cidr.addr().is_ipv6() && cidr.to_string() != text {
        warnings.push(format!(
            "{field}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({:?})",
            cidr.to_string()
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{object, service};

    #[test]
    fn the_warnings_are_the_api_servers() {
        let future = "will be considered invalid in a future Kubernetes release";
        for (spec, expected) in [
            (json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}), vec![]),
            (
                json!({"clusterIP": "None", "sessionAffinity": "ClientIP", "externalName": "x"}),
                vec![
                    "spec.SessionAffinity is ignored for headless services".to_owned(),
                    "spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned(),
                ],
            ),
            (
                json!({"externalIPs": ["192.0.2.1", "192.000.002.010", "FD00::1"]}),
                vec![
                    format!("spec.externalIPs[1]: non-standard IP address \"192.000.002.010\" {future}: use \"192.0.2.10\""),
                    "spec.externalIPs[2]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")".to_owned(),
                    "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
                ],
            ),
            (
                json!({"loadBalancerIP": "::ffff:1.2.3.4", "loadBalancerSourceRanges": ["10.1.2.3/8", "010.0.0.0/8", "FD00::/8"]}),
                vec![
                    format!("spec.loadBalancerIP: non-standard IP address \"::ffff:1.2.3.4\" {future}: use \"1.2.3.4\""),
                    "spec.loadBalancerSourceRanges[0]: CIDR value \"10.1.2.3/8\" is ambiguous in this context (should be \
                     \"10.0.0.0/8\" or \"10.1.2.3/32\"?)".to_owned(),
                    format!("spec.loadBalancerSourceRanges[1]: non-standard CIDR value \"010.0.0.0/8\" {future}: use \"10.0.0.0/8\""),
                    "spec.loadBalancerSourceRanges[2]: IPv6 CIDR value \"FD00::/8\" should be in RFC 5952 canonical format (\"fd00::/8\")".to_owned(),
                ],
            ),
            (
                json!({"trafficDistribution": "PreferClose"}),
                vec!["spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned()],
            ),
            (
                json!({"type": "ExternalName", "externalName": "x", "externalIPs": ["192.0.2.1"]}),
                vec!["spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned()],
            ),
        ] {
            assert_eq!(advice(&object(service("a", spec))), expected);
        }
        let mut hinted = service("a", json!({}));
        hinted["metadata"]["annotations"] = json!({OLD_HINTS: "auto"});
        let told = format!("annotation {OLD_HINTS} is deprecated, please use {HINTS} instead");
        assert_eq!(advice(&object(hinted)), [told]);
    }

    #[test]
    fn slices_and_endpoints_are_warned_of_too() {
        let slice = |kind: &str, address: &str| -> Value {
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a"},
                "addressType": kind, "endpoints": [{"addresses": [address]}]})
        };
        assert_eq!(advice(&object(slice("FQDN", "a.b"))), ["addressType: FQDN endpoints are deprecated"]);
        let told = advice(&object(slice("IPv6", "FD00::1")));
        assert!(told[0].starts_with("endpoints[0].addresses[0]: IPv6 address \"FD00::1\" should be in"), "{told:?}");
        let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "a"},
            "subsets": [{"notReadyAddresses": [{"ip": "010.0.0.1"}]}]});
        let told = advice(&object(endpoints));
        assert!(told[0].starts_with("subsets[0].notReadyAddresses[0].ip: non-standard IP address"), "{told:?}");
    }
}

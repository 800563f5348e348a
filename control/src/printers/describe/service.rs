//! `describeService`.

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::table::host_port;
use super::super::text::{SHOWN, joined, pairs};
use super::page::Page;

pub(super) fn describe(page: &mut Page, service: &Service, slices: &[&EndpointSlice]) {
    let spec = service.spec.clone().unwrap_or_default();
    identity(page, service, &spec);
    addresses(page, service, &spec);
    for port in spec.ports.iter().flatten() {
        describe_port(page, port, slices);
    }
    policies(page, &spec);
}

fn identity(page: &mut Page, service: &Service, spec: &ServiceSpec) {
    page.identity(&service.metadata);
    page.line("Selector:", joined(&pairs(spec.selector.as_ref()), "<none>"));
    page.line("Type:", spec.type_.clone().unwrap_or_default());
}

fn addresses(page: &mut Page, service: &Service, spec: &ServiceSpec) {
    page.maybe("IP Family Policy:", spec.ip_family_policy.as_deref());
    page.line("IP Families:", joined(spec.ip_families.as_deref().unwrap_or_default(), "<none>"));
    page.line("IP:", spec.cluster_ip.clone().unwrap_or_default());
    page.line("IPs:", joined(spec.cluster_ips.as_deref().unwrap_or_default(), "<none>"));
    page.maybe("External IPs:", Some(&joined(spec.external_ips.as_deref().unwrap_or_default(), "")));
    page.maybe("Desired LoadBalancer IP:", spec.load_balancer_ip.as_deref());
    page.maybe("External Name:", spec.external_name.as_deref());
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    page.maybe("LoadBalancer Ingress:", Some(&points.iter().map(ingress).collect::<Vec<_>>().join(", ")));
}

fn ingress(point: &LoadBalancerIngress) -> String {
    let name = point.ip.as_deref().filter(|ip| !ip.is_empty()).or(point.hostname.as_deref()).unwrap_or_default();
    match &point.ip_mode {
        Some(mode) => format!("{name} ({mode})"),
        None => name.to_owned(),
    }
}

fn describe_port(page: &mut Page, port: &ServicePort, slices: &[&EndpointSlice]) {
    let name = port.name.as_deref().unwrap_or_default();
    let shown = if name.is_empty() { "<unset>" } else { name };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    page.line("Port:", format!("{shown}  {}/{protocol}", port.port));
    let target = match &port.target_port {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(name)) => name.clone(),
        None => port.port.to_string(),
    };
    page.line("TargetPort:", format!("{target}/{protocol}"));
    page.maybe("AppProtocol:", port.app_protocol.as_deref());
    if let Some(node_port) = port.node_port.filter(|node_port| *node_port != 0) {
        page.line("NodePort:", format!("{shown}  {node_port}/{protocol}"));
    }
    page.line("Endpoints:", endpoints(name, slices));
}

/// The first three ready endpoints of a port. kubectl decides that there are more before it looks whether the next one is
/// ready; so does this, or the two would differ by ` + 0 more...`.
pub(super) fn endpoints(port_name: &str, slices: &[&EndpointSlice]) -> String {
    if slices.is_empty() {
        return "<none>".to_owned();
    }
    let (mut shown, mut count, mut more) = (Vec::new(), 0usize, false);
    for slice in slices {
        let ports = slice.ports.as_deref().unwrap_or_default();
        let named = ports.iter().filter(|port| port.name.as_deref().unwrap_or_default() == port_name);
        let numbers: Vec<Option<i32>> = match ports.is_empty() {
            true => vec![None],
            false => named.map(|port| port.port).filter(Option::is_some).collect(),
        };
        for number in numbers {
            for endpoint in &slice.endpoints {
                more |= shown.len() == SHOWN;
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                if number.is_some() && !ready {
                    continue;
                }
                count += 1;
                let address = endpoint.addresses.first().map(String::as_str).unwrap_or_default();
                if !more {
                    shown.push(number.map_or_else(|| address.to_owned(), |port| host_port(address, port)));
                }
            }
        }
    }
    let list = shown.join(",");
    if more { format!("{list} + {} more...", count.saturating_sub(SHOWN)) } else { list }
}

fn policies(page: &mut Page, spec: &ServiceSpec) {
    page.line("Session Affinity:", spec.session_affinity.clone().unwrap_or_default());
    page.maybe("External Traffic Policy:", spec.external_traffic_policy.as_deref());
    page.maybe("Internal Traffic Policy:", spec.internal_traffic_policy.as_deref());
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0) {
        page.line("HealthCheck NodePort:", port.to_string());
    }
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    page.maybe("LoadBalancer Source Ranges:", Some(&joined(ranges, "")));
    page.maybe("Traffic Distribution:", spec.traffic_distribution.as_deref());
}

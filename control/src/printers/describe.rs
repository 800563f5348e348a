//! `kubectl describe service` (kubernetes/kubectl `pkg/describe/describe.go`, `describeService`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::table::host_port;
use super::{SHOWN, align, joined, pairs};
use crate::apply::LAST_APPLIED;
use crate::objects::Object;

/// Longest annotation that stays on one line.
const MAX_ANNOTATION: usize = 140;

/// The description of a Service and of what stands behind it; nothing if `service` is none. `slices` are its
/// EndpointSlices in order of their names, whoever wrote them.
pub fn describe_service<'a>(service: &Object, slices: impl IntoIterator<Item = &'a Object>) -> Option<String> {
    let service = service.as_service()?;
    let spec = service.spec.clone().unwrap_or_default();
    let slices: Vec<&EndpointSlice> = slices.into_iter().filter_map(Object::as_slice).collect();
    let mut page = Page::default();
    identity(&mut page, service, &spec);
    addresses(&mut page, service, &spec);
    for port in spec.ports.iter().flatten() {
        describe_port(&mut page, port, &slices);
    }
    policies(&mut page, &spec);
    page.line("Events:", "<none>");
    Some(align(&page.lines, 2))
}

/// Lines of a label and its text.
#[derive(Default)]
struct Page {
    lines: Vec<Vec<String>>,
}

impl Page {
    fn line(&mut self, label: &str, text: impl Into<String>) {
        self.lines.push(vec![label.to_owned(), text.into()]);
    }

    /// Only if there is a text.
    fn maybe(&mut self, label: &str, text: Option<&str>) {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.line(label, text);
        }
    }

    /// The first text beside the label, the others below it.
    fn several(&mut self, label: &str, texts: Vec<String>) {
        if texts.is_empty() {
            return self.line(label, "<none>");
        }
        for (index, text) in texts.into_iter().enumerate() {
            self.line(if index == 0 { label } else { "" }, text);
        }
    }
}

fn identity(page: &mut Page, service: &Service, spec: &ServiceSpec) {
    let metadata = &service.metadata;
    page.line("Name:", metadata.name.clone().unwrap_or_default());
    page.line("Namespace:", metadata.namespace.clone().unwrap_or_default());
    page.several("Labels:", pairs(metadata.labels.as_ref()));
    page.several("Annotations:", annotations(metadata.annotations.as_ref()));
    page.line("Selector:", joined(&pairs(spec.selector.as_ref()), "<none>"));
    page.line("Type:", spec.type_.clone().unwrap_or_default());
}

fn annotations(annotations: Option<&BTreeMap<String, String>>) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| *key != LAST_APPLIED) {
        let value = value.strip_suffix('\n').unwrap_or(value);
        if key.len() + value.len() + 2 <= MAX_ANNOTATION && !value.contains('\n') {
            lines.push(format!("{key}: {value}"));
            continue;
        }
        lines.push(format!("{key}:"));
        lines.extend(value.lines().map(|line| format!("  {}", shortened(line))));
    }
    lines
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(MAX_ANNOTATION - 2) {
        Some((cut, _)) => format!("{}...", &line[..cut]),
        None => line.to_owned(),
    }
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
fn endpoints(port_name: &str, slices: &[&EndpointSlice]) -> String {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(&value, "foo").unwrap()
    }

    fn slice(endpoints: &[(&str, Option<bool>)]) -> Object {
        let endpoints: Vec<Value> =
            endpoints.iter().map(|(ip, ready)| json!({"addresses": [ip], "conditions": {"ready": ready}})).collect();
        object(
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": {"name": "bar-a"},
            "ports": [{"name": "port-tcp", "port": 9527, "protocol": "TCP"}], "endpoints": endpoints}),
        )
    }

    /// kubectl's own TestDescribeService, case "test2".
    #[test]
    fn a_load_balancer_reads_as_kubectl_describes_it() {
        let service = object(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bar", "namespace": "foo"},
            "spec": {"type": "LoadBalancer", "ports": [{"name": "port-tcp", "port": 8080, "protocol": "TCP", "targetPort": "targetPort", "nodePort": 31111}],
                "selector": {"blah": "heh"}, "clusterIP": "1.2.3.4", "ipFamilies": ["IPv4"], "loadBalancerIP": "5.6.7.8", "sessionAffinity": "None",
                "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "healthCheckNodePort": 32222},
            "status": {"loadBalancer": {"ingress": [{"ip": "5.6.7.8"}]}}}),
        );
        let ready = Some(true);
        let slice = slice(&[
            ("10.244.0.1", ready),
            ("10.244.0.2", None),
            ("10.244.0.3", Some(false)),
            ("10.244.0.4", ready),
            ("10.244.0.5", ready),
        ]);
        let expected = "\
Name:                     bar
Namespace:                foo
Labels:                   <none>
Annotations:              <none>
Selector:                 blah=heh
Type:                     LoadBalancer
IP Families:              IPv4
IP:                       1.2.3.4
IPs:                      <none>
Desired LoadBalancer IP:  5.6.7.8
LoadBalancer Ingress:     5.6.7.8
Port:                     port-tcp  8080/TCP
TargetPort:               targetPort/TCP
NodePort:                 port-tcp  31111/TCP
Endpoints:                10.244.0.1:9527,10.244.0.2:9527,10.244.0.4:9527 + 1 more...
Session Affinity:         None
External Traffic Policy:  Local
Internal Traffic Policy:  Local
HealthCheck NodePort:     32222
Events:                   <none>
";
        assert_eq!(describe_service(&service, [&slice]).unwrap(), expected);
    }

    #[test]
    fn quirks_are_kubectls_too() {
        let three = [("10.0.0.1", None), ("10.0.0.2", None), ("10.0.0.3", None), ("10.0.0.4", Some(false))];
        let slice = slice(&three);
        let slice = [slice.as_slice().unwrap()];
        assert_eq!(endpoints("port-tcp", &slice), "10.0.0.1:9527,10.0.0.2:9527,10.0.0.3:9527 + 0 more...");
        assert_eq!(endpoints("other", &slice), "");
        assert_eq!(endpoints("port-tcp", &[]), "<none>");
    }

    #[test]
    fn an_alias_with_labels_and_annotations() {
        let service = object(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "ext", "labels": {"b": "2", "a": "1"}, "annotations": {"note": "short", "page": "one\ntwo", LAST_APPLIED: "{}"}},
            "spec": {"type": "ExternalName", "externalName": "ext.example.com", "sessionAffinity": "None"}}));
        let expected = "\
Name:              ext
Namespace:         foo
Labels:            a=1
                   b=2
Annotations:       note: short
                   page:
                     one
                     two
Selector:          <none>
Type:              ExternalName
IP Families:       <none>
IP:                \nIPs:               <none>
External Name:     ext.example.com
Session Affinity:  None
Events:            <none>
";
        assert_eq!(describe_service(&service, []).unwrap(), expected);
    }
}

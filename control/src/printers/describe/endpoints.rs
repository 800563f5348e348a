//! `describeEndpoints` and `describeEndpointSliceV1`.

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::super::text::joined;
use super::page::Page;

const UNSET: &str = "<unset>";

pub(super) fn describe(page: &mut Page, endpoints: &Endpoints) {
    page.identity(&endpoints.metadata);
    page.cells(["Subsets:"]);
    for subset in endpoints.subsets.iter().flatten() {
        describe_subset(page, subset);
    }
}

fn describe_subset(page: &mut Page, subset: &EndpointSubset) {
    let list = |addresses: &Option<Vec<EndpointAddress>>| {
        let ips: Vec<String> = addresses.iter().flatten().map(|address| address.ip.clone()).collect();
        joined(&ips, "<none>")
    };
    page.line("  Addresses:", list(&subset.addresses));
    page.line("  NotReadyAddresses:", list(&subset.not_ready_addresses));
    let ports = subset.ports.as_deref().unwrap_or_default();
    if !ports.is_empty() {
        page.cells(["  Ports:"]);
        page.cells(["    Name", "Port", "Protocol"]);
        page.cells(["    ----", "----", "--------"]);
    }
    for port in ports {
        let name = format!("    {}", or_unset(port.name.as_deref()));
        page.cells([&name, &port.port.to_string(), port.protocol.as_deref().unwrap_or_default()]);
    }
    page.cells([""]);
}

pub(super) fn describe_slice(page: &mut Page, slice: &EndpointSlice) {
    page.identity(&slice.metadata);
    page.line("AddressType:", slice.address_type.clone());
    let ports = slice.ports.as_deref().unwrap_or_default();
    if ports.is_empty() {
        page.cells(["Ports: <unset>"]);
    } else {
        page.cells(["Ports:"]);
        page.cells(["  Name", "Port", "Protocol"]);
        page.cells(["  ----", "----", "--------"]);
    }
    for port in ports {
        let name = format!("  {}", or_unset(port.name.as_deref()));
        let number = port.port.map_or_else(|| UNSET.to_owned(), |port| port.to_string());
        page.cells([&name, &number, port.protocol.as_deref().unwrap_or_default()]);
    }
    match slice.endpoints.is_empty() {
        true => page.cells(["Endpoints: <none>"]),
        false => page.cells(["Endpoints:"]),
    }
    for endpoint in &slice.endpoints {
        describe_endpoint(page, endpoint);
    }
}

fn describe_endpoint(page: &mut Page, endpoint: &Endpoint) {
    let addresses = endpoint.addresses.join(", ");
    page.line("  - Addresses:", if addresses.is_empty() { "<none>".to_owned() } else { addresses });
    page.cells(["    Conditions:"]);
    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
    page.line("      Ready:", ready.map_or_else(|| UNSET.to_owned(), |ready| ready.to_string()));
    page.line("    Hostname:", or_unset(endpoint.hostname.as_deref()));
    if let Some(target) = &endpoint.target_ref {
        let name = |text: &Option<String>| text.clone().unwrap_or_default();
        page.line("    TargetRef:", format!("{}/{}", name(&target.kind), name(&target.name)));
    }
    page.line("    NodeName:", or_unset(endpoint.node_name.as_deref()));
    page.line("    Zone:", or_unset(endpoint.zone.as_deref()));
}

fn or_unset(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or(UNSET)
}

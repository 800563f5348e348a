//! `ValidateEndpoints` (K `pkg/apis/core/validation/validation.go`).

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};

use super::fields::protocol;
use super::names;
use crate::objects::fault::{Fault, Faults};
use crate::objects::service::parse_ip;

/// Adds what is wrong with a defaulted Endpoints. Subsets that did not change are not looked at again: a rule that came later
/// must not forbid a new label.
pub(super) fn check(endpoints: &Endpoints, old: Option<&Endpoints>, faults: &mut Faults) {
    if old.is_some_and(|old| old.subsets == endpoints.subsets) {
        return;
    }
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        self::subset(subset, &format!("subsets[{index}]"), faults);
    }
}

fn subset(subset: &EndpointSubset, field: &str, faults: &mut Faults) {
    let lists = [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)];
    if lists.iter().all(|(_, list)| list.as_ref().is_none_or(Vec::is_empty)) {
        faults.push(Fault::required(field, "must specify `addresses` or `notReadyAddresses`"));
    }
    for (name, list) in lists {
        for (index, address) in list.iter().flatten().enumerate() {
            self::address(address, &format!("{field}.{name}[{index}]"), faults);
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        self::port(port, ports.len() > 1, &format!("{field}.ports[{index}]"), faults);
    }
}

fn address(address: &EndpointAddress, field: &str, faults: &mut Faults) {
    let ip = address.ip.as_str();
    let strict = names::strict_address(ip).map(str::to_owned);
    faults.extend(Fault::all_invalid(format!("{field}.ip"), ip, Vec::from_iter(strict)));
    if let Some(hostname) = address.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        faults.extend(Fault::all_invalid(format!("{field}.hostname"), hostname, names::label(hostname)));
    }
    if let Some(node) = &address.node_name {
        faults.extend(Fault::all_invalid(format!("{field}.nodeName"), node, names::subdomain(node)));
    }
    let unusable = match parse_ip(ip) {
        Some(address) => names::unusable_address(ip, address),
        None => Some(names::NO_ADDRESS.to_owned()),
    };
    faults.extend(Fault::all_invalid(format!("{field}.ip"), ip, Vec::from_iter(unusable)));
}

fn port(port: &EndpointPort, name_required: bool, field: &str, faults: &mut Faults) {
    match port.name.as_deref().unwrap_or_default() {
        "" if name_required => faults.push(Fault::required(format!("{field}.name"), "")),
        "" => {}
        name => faults.extend(Fault::all_invalid(format!("{field}.name"), name, names::label(name))),
    }
    if !(1..=65535).contains(&port.port) {
        faults.push(Fault::invalid(format!("{field}.port"), port.port, names::NOT_A_PORT));
    }
    protocol(port.protocol.as_deref(), &format!("{field}.protocol"), faults);
    if let Some(protocol) = &port.app_protocol {
        faults.extend(Fault::all_invalid(format!("{field}.appProtocol"), protocol, names::qualified(protocol)));
    }
}

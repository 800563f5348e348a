//! `ValidateEndpointSlice` (K `pkg/apis/discovery/validation/validation.go`).

use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice};

use super::fields::{label_pairs, protocol};
use super::names;
use crate::objects::fault::{Fault, Faults};
use crate::objects::service::{Family, parse_ip};

/// Most endpoints in one slice.
const MAX_ENDPOINTS: usize = 1000;
/// Most ports in one slice. The API's documentation says 100; this is what the API server takes.
const MAX_PORTS: usize = 20_000;
/// Most addresses of one endpoint.
const MAX_ADDRESSES: usize = 100;
/// Most nodes, and most zones, an endpoint is meant for.
const MAX_HINTS: usize = 8;
/// Most labels of the older form of topology.
const MAX_TOPOLOGY: usize = 16;

/// Adds what is wrong with a defaulted slice, and with its change from `old`.
pub(super) fn check(slice: &EndpointSlice, old: Option<&EndpointSlice>, faults: &mut Faults) {
    const TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
    match slice.address_type.as_str() {
        "" => faults.push(Fault::required("addressType", "")),
        known if TYPES.contains(&known) => {}
        other => faults.push(Fault::not_supported("addressType", other, &TYPES)),
    }
    endpoints(slice, old, faults);
    ports(slice, faults);
    if old.is_some_and(|old| old.address_type != slice.address_type) {
        faults.push(Fault::invalid("addressType", &slice.address_type, "field is immutable"));
    }
}

fn endpoints(slice: &EndpointSlice, old: Option<&EndpointSlice>, faults: &mut Faults) {
    if slice.endpoints.len() > MAX_ENDPOINTS {
        return faults.push(Fault::too_many("endpoints", slice.endpoints.len(), MAX_ENDPOINTS));
    }
    let former: BTreeSet<&String> =
        old.iter().flat_map(|old| &old.endpoints).flat_map(|point| &point.addresses).collect();
    for (index, point) in slice.endpoints.iter().enumerate() {
        endpoint(point, &former, &slice.address_type, &format!("endpoints[{index}]"), faults);
    }
}

fn endpoint(endpoint: &Endpoint, former: &BTreeSet<&String>, address_type: &str, field: &str, faults: &mut Faults) {
    addresses(endpoint, |address| former.contains(address), address_type, field, faults);
    if let Some(node) = &endpoint.node_name {
        faults.extend(Fault::all_invalid(format!("{field}.nodeName"), node, names::subdomain(node)));
    }
    if let Some(topology) = &endpoint.deprecated_topology {
        let field = format!("{field}.deprecatedTopology");
        if topology.len() > MAX_TOPOLOGY {
            faults.push(Fault::too_many(&*field, topology.len(), MAX_TOPOLOGY));
        }
        label_pairs(&field, topology, faults);
    }
    if let Some(hostname) = &endpoint.hostname {
        faults.extend(Fault::all_invalid(format!("{field}.hostname"), hostname, names::label(hostname)));
    }
    if let Some(hints) = &endpoint.hints {
        self::hints(hints, &format!("{field}.hints"), faults);
    }
}

fn addresses(
    endpoint: &Endpoint,
    held: impl Fn(&String) -> bool,
    address_type: &str,
    field: &str,
    faults: &mut Faults,
) {
    if endpoint.addresses.is_empty() {
        faults.push(Fault::required(format!("{field}.addresses"), "must contain at least 1 address"));
    } else if endpoint.addresses.len() > MAX_ADDRESSES {
        faults.push(Fault::too_many(format!("{field}.addresses"), endpoint.addresses.len(), MAX_ADDRESSES));
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        let field = format!("{field}.addresses[{index}]");
        match Family::parse(address_type) {
            Some(family) => {
                let details = address_faults(address, family, held(address));
                faults.extend(Fault::all_invalid(field, address, details));
            }
            None if address_type == "FQDN" => {
                let wrong = names::domain_name(address).into_iter();
                faults.extend(wrong.map(|(text, detail)| Fault::invalid(field.as_str(), text, &detail)));
            }
            None => {}
        }
    }
}

/// What is wrong with an address; one that was `held` before need not be in the strict form.
fn address_faults(address: &str, family: Family, held: bool) -> Vec<String> {
    let strict = names::strict_address(address);
    let ip = match (strict, parse_ip(address)) {
        (Some(detail), ip) if ip.is_none() || !held => return vec![detail.to_owned()],
        (_, ip) => ip,
    };
    let other = ip.filter(|ip| Family::of(*ip) != family).map(|_| format!("must be an {} address", family.as_str()));
    let unusable = ip.and_then(|ip| names::unusable_address(address, ip));
    other.into_iter().chain(unusable).collect()
}

fn hints(hints: &EndpointHints, field: &str, faults: &mut Faults) {
    let zones: Vec<&String> = hints.for_zones.iter().flatten().map(|zone| &zone.name).collect();
    hint_names(&zones, names::label_value, &format!("{field}.forZones"), faults);
    let nodes: Vec<&String> = hints.for_nodes.iter().flatten().map(|node| &node.name).collect();
    hint_names(&nodes, names::subdomain, &format!("{field}.forNodes"), faults);
}

fn hint_names(given: &[&String], details: fn(&str) -> Vec<String>, field: &str, faults: &mut Faults) {
    if given.len() > MAX_HINTS {
        return faults.push(Fault::too_many(field, given.len(), MAX_HINTS));
    }
    for (index, name) in given.iter().copied().enumerate() {
        let field = format!("{field}[{index}].name");
        if given[..index].contains(&name) {
            faults.push(Fault::duplicate(&*field, name));
        }
        faults.extend(Fault::all_invalid(field, name, details(name)));
    }
}

fn ports(slice: &EndpointSlice, faults: &mut Faults) {
    let ports = slice.ports.as_deref().unwrap_or_default();
    if ports.len() > MAX_PORTS {
        return faults.push(Fault::too_many("ports", ports.len(), MAX_PORTS));
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            faults.extend(Fault::all_invalid(format!("ports[{index}].name"), name, names::label(name)));
        }
        if !seen.insert(name) {
            faults.push(Fault::duplicate(format!("ports[{index}].name"), name));
        }
        protocol(port.protocol.as_deref(), &format!("ports[{index}].protocol"), faults);
        // The API server takes any number; one that is no port could only be a mistake.
        if let Some(number) = port.port.filter(|number| !(1..=65535).contains(number)) {
            faults.push(Fault::invalid(format!("ports[{index}].port"), number, names::NOT_A_PORT));
        }
        if let Some(protocol) = &port.app_protocol {
            faults.extend(Fault::all_invalid(
                format!("ports[{index}].appProtocol"),
                protocol,
                names::qualified(protocol),
            ));
        }
    }
}

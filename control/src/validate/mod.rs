//! Whether an object may be, in the API server's own words.
//!
//! Messages are word for word those of K `pkg/apis/core/validation` and apimachinery `pkg/util/validation`: that is what operators
//! search for and what tools match on. Only what pollgate acts on is checked; a Pod's volumes are its kubelet's
//! business, and there is none here.

mod names;
mod service;

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::fault::Fault;
use crate::objects::{Kind, Object};
use crate::service::{Family, parse_ip};

/// Most endpoints in one slice (API `discovery/v1`).
const MAX_ENDPOINTS: usize = 1000;
/// Most ports in one slice.
const MAX_PORTS: usize = 100;
/// Most addresses of one endpoint.
const MAX_ADDRESSES: usize = 100;

/// Adds what is wrong with an object, and with its change from `old`.
pub(crate) fn object(object: &Object, old: Option<&Object>, faults: &mut Vec<Fault>) {
    metadata(object, faults);
    match (object, old) {
        (Object::Service(service), old) => {
            self::service::check(service, faults);
            if let Some(Object::Service(old)) = old {
                self::service::check_change(service, old, faults);
            }
        }
        (Object::EndpointSlice(slice), old) => {
            endpoint_slice(slice, faults);
            if let Some(Object::EndpointSlice(old)) = old
                && old.address_type != slice.address_type
            {
                faults.push(Fault::invalid("addressType", &slice.address_type, "field is immutable"));
            }
        }
        (Object::Pod(pod), _) => pod_addresses(pod, faults),
        _ => {}
    }
}

/// Whether labels carry every pair of a selector.
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

fn metadata(object: &Object, faults: &mut Vec<Fault>) {
    let name = object.name();
    let faults_of_name = match object.kind() {
        Kind::Service | Kind::Namespace => names::label(name),
        Kind::Node | Kind::Pod | Kind::EndpointSlice => names::subdomain(name),
    };
    if name.is_empty() {
        faults.push(Fault::required("metadata.name", "name or generateName is required"));
    } else if let Some(detail) = faults_of_name {
        faults.push(Fault::invalid("metadata.name", name, &detail));
    }
    if object.kind().namespaced()
        && let Some(detail) = names::label(object.namespace())
    {
        faults.push(Fault::invalid("metadata.namespace", object.namespace(), &detail));
    }
    if let Some(labels) = &object.metadata().labels {
        label_pairs("metadata.labels", labels, faults);
    }
}

/// Keys are qualified names, values short words (apimachinery `ValidateLabels`).
fn label_pairs(field: &str, pairs: &BTreeMap<String, String>, faults: &mut Vec<Fault>) {
    for (key, value) in pairs {
        if let Some(detail) = names::qualified(key) {
            faults.push(Fault::invalid(field, key, &detail));
        }
        if let Some(detail) = names::label_value(value) {
            faults.push(Fault::invalid(format!("{field}.{key}"), value, &detail));
        }
    }
}

fn pod_addresses(pod: &k8s_openapi::api::core::v1::Pod, faults: &mut Vec<Fault>) {
    let Some(status) = &pod.status else { return };
    let mut check = |field: String, ip: &str| {
        if !ip.is_empty() && parse_ip(ip).is_none() {
            faults.push(Fault::invalid(field, ip, names::NOT_AN_ADDRESS));
        }
    };
    check("status.podIP".to_owned(), status.pod_ip.as_deref().unwrap_or_default());
    for (index, ip) in status.pod_ips.iter().flatten().enumerate() {
        check(format!("status.podIPs[{index}].ip"), &ip.ip);
    }
}

fn endpoint_slice(slice: &EndpointSlice, faults: &mut Vec<Fault>) {
    const TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
    match slice.address_type.as_str() {
        "" => faults.push(Fault::required("addressType", "")),
        known if TYPES.contains(&known) => {}
        other => faults.push(Fault::not_supported("addressType", other, &TYPES)),
    }
    if slice.endpoints.len() > MAX_ENDPOINTS {
        return faults.push(Fault::too_many("endpoints", slice.endpoints.len(), MAX_ENDPOINTS));
    }
    for (index, point) in slice.endpoints.iter().enumerate() {
        endpoint(point, &slice.address_type, &format!("endpoints[{index}]"), faults);
    }
    slice_ports(slice, faults);
}

fn endpoint(endpoint: &Endpoint, address_type: &str, field: &str, faults: &mut Vec<Fault>) {
    if endpoint.addresses.is_empty() {
        faults.push(Fault::required(format!("{field}.addresses"), "must contain at least 1 address"));
    } else if endpoint.addresses.len() > MAX_ADDRESSES {
        faults.push(Fault::too_many(format!("{field}.addresses"), endpoint.addresses.len(), MAX_ADDRESSES));
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        let field = format!("{field}.addresses[{index}]");
        let parsed = parse_ip(address);
        match (Family::parse(address_type), parsed) {
            (Some(family), Some(ip)) if Family::of(ip) != family => {
                let detail = format!("must be an {} address", family.as_str());
                faults.push(Fault::invalid(field, address, &detail));
            }
            (Some(_), Some(ip)) => {
                if let Some(detail) = names::unusable_address(ip) {
                    faults.push(Fault::invalid(field, address, detail));
                }
            }
            (Some(_), None) => faults.push(Fault::invalid(field, address, names::NOT_AN_ADDRESS)),
            (None, _) => {}
        }
    }
    if let Some(hostname) = endpoint.hostname.as_deref().filter(|hostname| !hostname.is_empty())
        && let Some(detail) = names::label(hostname)
    {
        faults.push(Fault::invalid(format!("{field}.hostname"), hostname, &detail));
    }
}

fn slice_ports(slice: &EndpointSlice, faults: &mut Vec<Fault>) {
    let ports = slice.ports.as_deref().unwrap_or_default();
    if ports.len() > MAX_PORTS {
        return faults.push(Fault::too_many("ports", ports.len(), MAX_PORTS));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let name = port.name.as_deref().unwrap_or_default();
        if !seen.insert(name) {
            faults.push(Fault::duplicate(format!("ports[{index}].name"), name));
        }
        if let (false, Some(detail)) = (name.is_empty(), names::label(name)) {
            faults.push(Fault::invalid(format!("ports[{index}].name"), name, &detail));
        }
        self::service::protocol(port.protocol.as_deref(), &format!("ports[{index}].protocol"), faults);
        if let Some(number) = port.port.filter(|number| !(1..=65535).contains(number)) {
            faults.push(Fault::invalid(format!("ports[{index}].port"), number, names::NOT_A_PORT));
        }
    }
}

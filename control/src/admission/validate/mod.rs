//! Whether an object is valid, in the API server's own words.
//!
//! Messages are word for word those of K `pkg/apis/core/validation`, `pkg/apis/discovery/validation` and apimachinery
//! `pkg/util/validation`: that is what operators search for and what tools match on. Only what pollgate acts on is checked; a Pod's
//! volumes are its kubelet's business, and there is none here.

mod data;
mod endpoints;
mod fields;
pub(crate) mod names;
mod node;
mod pod;
mod service;
mod slice;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Event;

use self::fields::label_pairs;
pub(crate) use self::service::{addresses_and_families, misplaced_addresses};

use crate::objects::fault::{Fault, Faults};
use crate::objects::{Kind, Object, weight};

/// Most bytes of all annotations of an object.
pub(crate) const MAX_ANNOTATIONS: usize = 256 << 10;

/// Adds what is wrong with an object, and with its change from `old`.
pub(crate) fn object(object: &Object, old: Option<&Object>, faults: &mut Faults) {
    metadata(object, faults);
    match (object, old) {
        (Object::Service(service), old) => {
            let old = old.and_then(Object::as_service);
            if let Some(old) = old {
                self::service::check_change(service, old, faults);
            }
            self::service::check(service, old, faults);
        }
        (Object::Endpoints(endpoints), old) => {
            self::endpoints::check(endpoints, old.and_then(Object::as_endpoints), faults);
        }
        (Object::EndpointSlice(slice), old) => self::slice::check(slice, old.and_then(Object::as_slice), faults),
        (Object::Pod(pod), old) => self::pod::check(pod, old.and_then(Object::as_pod), faults),
        (Object::Node(node), old) => self::node::check(node, old.and_then(Object::as_node), faults),
        (Object::Event(event), _) => self::event(event, faults),
        (Object::ConfigMap(map), old) => data::config_map(map, old.and_then(Object::as_config_map), faults),
        (Object::Secret(secret), old) => data::secret(secret, old.and_then(Object::as_secret), faults),
        (Object::Namespace(_), _) => {}
    }
}

fn metadata(object: &Object, faults: &mut Faults) {
    let metadata = object.metadata();
    let faults_of_name: fn(&str) -> Vec<String> = match object.kind() {
        // A Service may begin with a digit since KEP-5311.
        Kind::Service | Kind::Namespace => names::label,
        Kind::Node
        | Kind::Pod
        | Kind::Endpoints
        | Kind::EndpointSlice
        | Kind::ConfigMap
        | Kind::Secret
        | Kind::Event => names::subdomain,
    };
    if let Some(prefix) = metadata.generate_name.as_deref().filter(|prefix| !prefix.is_empty()) {
        let details = faults_of_name(&names::as_prefix(prefix));
        faults.extend(Fault::all_invalid("metadata.generateName", prefix, details));
    }
    match object.name() {
        "" => faults.push(Fault::required("metadata.name", "name or generateName is required")),
        name => faults.extend(Fault::all_invalid("metadata.name", name, faults_of_name(name))),
    }
    if object.kind().namespaced() {
        let namespace = object.namespace();
        faults.extend(Fault::all_invalid("metadata.namespace", namespace, names::label(namespace)));
    }
    if let Some(labels) = &metadata.labels {
        label_pairs("metadata.labels", labels, faults);
    }
    if let Some(pairs) = &metadata.annotations {
        annotations("metadata.annotations", pairs, faults);
    }
    weights(object, faults);
}

/// A weight that cannot be read is refused on the kinds of which one is read: it would not be noticed otherwise.
fn weights(object: &Object, faults: &mut Faults) {
    match object.kind() {
        // Endpoints hand their annotations on to the slices that mirror them.
        Kind::Pod | Kind::Endpoints | Kind::EndpointSlice => {}
        Kind::Service | Kind::Node | Kind::Namespace | Kind::ConfigMap | Kind::Secret | Kind::Event => return,
    }
    for (key, text) in weight::annotations(object.metadata()) {
        if weight::parse(text).is_none() {
            faults.push(Fault::invalid(format!("metadata.annotations[{key}]"), text, weight::NOT_A_WEIGHT));
        }
    }
}

/// Keys are qualified names in any case; of the values only the sum is bounded.
fn annotations(field: &str, pairs: &BTreeMap<String, String>, faults: &mut Faults) {
    for key in pairs.keys() {
        faults.extend(Fault::all_invalid(field, key, names::qualified(&key.to_lowercase())));
    }
    if pairs.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_ANNOTATIONS {
        faults.push(Fault::too_long(field, MAX_ANNOTATIONS));
    }
}

/// An Event is in the namespace of its object; if that has none, in `default`.
fn event(event: &Event, faults: &mut Faults) {
    let own = event.metadata.namespace.as_deref().unwrap_or_default();
    let about = event.involved_object.namespace.as_deref().unwrap_or_default();
    let fits = if about.is_empty() { own == "default" } else { own == about };
    if !fits {
        faults.push(Fault::invalid("involvedObject.namespace", about, "does not match event.namespace"));
    }
}

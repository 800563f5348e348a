//! Warnings about objects that are valid but probably wrong, in a complete set of objects: for `pollgate check`.
//!
//! ```text
//! Service {app=a,…} ── selects ──▶ Pods ── have ──▶ addresses, named ports
//!     └ no Pod: a finding             └ none: a finding  └ none: a finding
//! EndpointSlice ── names ──▶ Service      └ no such Service: a finding
//! Service ── externalName ──▶ Service     └ that leads back: a finding
//! ```
//!
//! With them come the warnings that the API sends with each object ([`super::warnings`]).
//!
//! Findings are not faults: a Service may be applied before its Pods, and slices may be written for a Service that comes
//! later. So a running gateway is not linted (`explain` describes its state), and in a set without Pods selectors are not
//! checked.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Pod, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::Cluster;
use crate::controllers::membership::{find_port, pod_addresses};
use crate::explain::alias::circle;
use crate::explain::warnings::{Warning, warnings};
use crate::explain::{Verdict, explain};
use crate::objects::service::{ServiceName, SpecExt, selects};
use crate::objects::{Key, Kind, Object};

/// Something that is valid but probably wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object it is about.
    pub key: Key,
    /// The field.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}

/// All findings in the objects of a cluster, by kind and name.
pub fn lint(cluster: &Cluster) -> Vec<Finding> {
    let pods = Pods::of(cluster);
    let mut findings = Vec::new();
    for object in cluster.objects(Kind::Service, None) {
        let Some(spec) = object.as_service().and_then(|service| service.spec.as_ref()) else { continue };
        service(cluster, object, spec, &pods, &mut findings);
        let circle = circle(cluster, &ServiceName::new(object.namespace(), object.name()));
        findings.extend(circle.map(|message| Finding {
            key: object.key(),
            field: "spec.externalName".to_owned(),
            message,
        }));
    }
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Endpoints] {
        let objects = cluster.objects(kind, None);
        findings.extend(objects.flat_map(|object| warned(cluster, object)));
    }
    // The one from the start is in every set.
    let mut services = cluster.objects(Kind::Service, None);
    if services.any(|service| service.metadata().creation_timestamp.is_some()) {
        let slices = cluster.objects(Kind::EndpointSlice, None);
        findings.extend(slices.filter_map(|slice| orphan(cluster, slice)));
    }
    findings
}

fn service(cluster: &Cluster, object: &Object, spec: &ServiceSpec, pods: &Pods<'_>, findings: &mut Vec<Finding>) {
    let Some(selector) = spec.selector().filter(|_| !pods.by_label.is_empty()) else {
        return;
    };
    let mut find = |field: String, message: String| findings.push(Finding { key: object.key(), field, message });
    let selected = pods.selected(object.namespace(), selector);
    if selected.is_empty() {
        return find("spec.selector".to_owned(), format!("no Pod has these labels{}", nearest(cluster, object)));
    }
    if selected.iter().all(|pod| pod_addresses(pod).is_empty()) {
        let count = selected.len();
        let message = format!(
            "none of the {count} selected Pods has an address: without a kubelet, a Pod becomes an endpoint through \
             the status in its manifest (podIP, and the condition Ready)"
        );
        find("spec.selector".to_owned(), message);
    }
    for (index, port) in spec.ports().iter().enumerate() {
        if let Some(IntOrString::String(name)) = &port.target_port
            && selected.iter().all(|pod| find_port(pod, port).is_none())
        {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let message = format!("no container of the selected Pods has a {protocol} port named {name:?}");
            find(format!("spec.ports[{index}].targetPort"), message);
        }
    }
}

/// What the API would warn about.
fn warned(cluster: &Cluster, object: &Object) -> impl Iterator<Item = Finding> {
    let warnings = warnings(object, cluster.settings()).into_iter();
    warnings.map(|Warning { field, message }| Finding { key: object.key(), field, message })
}

/// The Pod that nearly has the labels, in `explain`'s words.
fn nearest(cluster: &Cluster, service: &Object) -> String {
    let name = ServiceName::new(service.namespace(), service.name());
    let explanation = explain(cluster, &name);
    let pods = explanation.iter().flat_map(|explanation| &explanation.pods);
    let differs = |verdict: &Verdict| matches!(verdict, Verdict::LabelDiffers { .. });
    // One that has some of them, or at least the same label with another value.
    match pods.filter(|pod| pod.matched > 0 || differs(&pod.verdict)).max_by_key(|pod| pod.matched) {
        Some(pod) => format!("; the nearest is {}: {}", pod.name, pod.verdict.reason()),
        None => String::new(),
    }
}

/// A slice that belongs to no Service.
fn orphan(cluster: &Cluster, slice: &Object) -> Option<Finding> {
    let service = ServiceName::of_slice(slice)?;
    if cluster.object(&service.key()).is_some() {
        return None;
    }
    let message = format!("there is no Service {} in namespace {}", service.name, service.namespace);
    Some(Finding { key: slice.key(), field: "metadata.labels.kubernetes.io/service-name".to_owned(), message })
}

/// Pods by each of their labels, so that a large set does not take the square of its time.
struct Pods<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Object>>,
}

impl<'a> Pods<'a> {
    fn of(cluster: &'a Cluster) -> Pods<'a> {
        let mut by_label: HashMap<_, Vec<&Object>> = HashMap::new();
        for pod in cluster.objects(Kind::Pod, None) {
            for (key, value) in pod.metadata().labels.iter().flatten() {
                by_label.entry((pod.namespace(), key.as_str(), value.as_str())).or_default().push(pod);
            }
        }
        Pods { by_label }
    }

    fn selected(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<&'a Pod> {
        let pods = selector.iter().map(|(key, value)| self.labelled(namespace, key, value));
        let fewest = pods.min_by_key(|pods| pods.len()).unwrap_or_default();
        let selected = fewest.iter().filter(|pod| selects(selector, pod.metadata().labels.as_ref()));
        selected.filter_map(|pod| pod.as_pod()).collect()
    }

    fn labelled<'s>(&'s self, namespace: &'s str, key: &'s str, value: &'s str) -> &'s [&'a Object] {
        self.by_label.get(&(namespace, key, value)).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{World, pod, service, web};

    fn told(objects: impl IntoIterator<Item = Value>) -> Vec<String> {
        let mut world = World::new();
        world.apply(objects);
        lint(&world.cluster).iter().map(|d| format!("{}: {}: {}", d.key, d.field, d.message)).collect()
    }

    fn slice(service: &str) -> Value {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
            "metadata": {"name": "x", "labels": {"kubernetes.io/service-name": service}}})
    }

    #[test]
    fn what_fits_together_has_no_findings() {
        assert!(told([web("a")]).is_empty(), "no Pods to ask");
        assert!(told([slice("gone")]).is_empty(), "slices alone");
        assert!(told([web("a"), pod("p", "a", "10.0.0.1"), slice("a")]).is_empty());
    }

    #[test]
    fn a_selector_that_matches_no_pod_is_found_with_the_nearest_miss() {
        let v1 = service("a", json!({"selector": {"app": "a", "version": "v1"}, "ports": [{"port": 80}]}));
        let mut v2 = pod("p", "a", "10.0.0.1");
        v2["metadata"]["labels"]["version"] = json!("v2");
        let [finding] = &told([v1.clone(), v2])[..] else { panic!("one finding") };
        assert_eq!(
            finding,
            "service/default/a: spec.selector: no Pod has these labels; the nearest is p: label differs: version: v2 ≠ v1"
        );
        let mut stranger = pod("p", "b", "10.0.0.1");
        stranger["metadata"]["labels"] = json!({"tier": "x"});
        assert_eq!(told([v1, stranger]), ["service/default/a: spec.selector: no Pod has these labels"]);
    }

    #[test]
    fn pods_that_cannot_be_endpoints_are_found() {
        let mut without = pod("p", "a", "10.0.0.1");
        without["status"] = json!({});
        let [finding] = &told([web("a"), without])[..] else { panic!("one finding") };
        assert!(finding.contains("none of the 1 selected Pods has an address"), "{finding}");
        let named = service("a", json!({"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": "unknown"}]}));
        let expected = "service/default/a: spec.ports[0].targetPort: no container of the selected Pods has a TCP port \
                        named \"unknown\"";
        assert_eq!(told([named, pod("p", "a", "10.0.0.1")]), [expected]);
    }

    #[test]
    fn aliases_in_a_circle_are_found() {
        let alias = |name: &str, target: &str| {
            service(
                name,
                json!({"type": "ExternalName", "externalName": format!("{target}.default.svc.cluster.local")}),
            )
        };
        assert!(told([alias("a", "b"), alias("b", "c"), web("c")]).is_empty());
        let circle = "spec.externalName: the aliases lead in a circle and to no address: ";
        let expected = [
            format!("service/default/a: {circle}default/b → default/c → default/b"),
            format!("service/default/b: {circle}default/b → default/c → default/b"),
            format!("service/default/c: {circle}default/c → default/b → default/c"),
        ];
        assert_eq!(told([alias("a", "b"), alias("b", "c"), alias("c", "b")]), expected);
        let [itself] = &told([alias("a", "a")])[..] else { panic!("one finding") };
        assert!(itself.contains("an alias of itself"), "{itself}");
    }

    #[test]
    fn a_slice_of_a_service_that_is_not_there_is_found() {
        let [finding] = &told([web("a"), slice("aa")])[..] else { panic!("one finding") };
        assert!(finding.ends_with("there is no Service aa in namespace default"), "{finding}");
    }
}

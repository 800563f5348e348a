//! What a valid object asks for and this gateway does not do.
//!
//! What depends on the configuration (pools, node, zone) is left out if there is none: `pollgate check` without `--config`.

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::cluster::ClusterSettings;
use crate::explain::advice::{HINTS, OLD_HINTS};
use crate::explain::alias::Target;
use crate::explain::warnings::Warning;
use crate::objects::Object;
use crate::objects::service::{
    Family, HEADLESS_LABEL, PROXY_NAME_LABEL, SOURCE_RANGES_ANNOTATION, ServiceName, ServiceType, SpecExt,
};

/// Everything that the object asks for in vain: each field, with what this gateway does instead.
pub(super) fn unserved(object: &Object, settings: &ClusterSettings) -> Vec<Warning> {
    match object {
        Object::Service(service) => of_service(service, settings),
        Object::EndpointSlice(slice) => of_slice(slice),
        Object::Endpoints(_)
        | Object::Namespace(_)
        | Object::Node(_)
        | Object::Pod(_)
        | Object::ConfigMap(_)
        | Object::Secret(_)
        | Object::Event(_) => Vec::new(),
    }
}

#[derive(Default)]
struct List(Vec<Warning>);

impl List {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Warning { field: field.into(), message: message.into() });
    }
}

/// What a Service asks for in vain.
pub(super) fn of_service(service: &Service, settings: &ClusterSettings) -> Vec<Warning> {
    let mut list = List::default();
    let labels = service.metadata.labels.iter().flatten().map(|(key, _)| key.as_str());
    for label in labels.filter(|label| [PROXY_NAME_LABEL, HEADLESS_LABEL].contains(label)) {
        list.add(
            format!("metadata.labels[{label}]"),
            "this label leaves the Service to another proxy; only its DNS names are served here",
        );
    }
    let annotations = service.metadata.annotations.iter().flatten().map(|(key, _)| key.as_str());
    for (key, instead) in annotations.filter_map(|key| Some((key, foreign(key)?))) {
        list.add(format!("metadata.annotations[{key}]"), instead);
    }
    if let Some(spec) = &service.spec {
        alias(&ServiceName::of(service), spec, settings, &mut list);
        addresses(spec, settings, &mut list);
        policies(spec, settings, &mut list);
    }
    list.0
}

/// What replaces an annotation of other implementations; `None` for all others.
fn foreign(key: &str) -> Option<&'static str> {
    const ADDRESS: &str =
        "this annotation is not read; set spec.loadBalancerIP to choose an address of cluster.loadBalancerPools";
    const SHARED: &str = "endpoints are not shared out by the CPUs of their zones; set spec.trafficDistribution";
    let (prefix, _) = key.split_once('/')?;
    match (prefix, key) {
        ("metallb.io" | "metallb.universe.tf" | "lbipam.cilium.io" | "kube-vip.io", _) => Some(ADDRESS),
        (_, "io.cilium/lb-ipam-ips") => Some(ADDRESS),
        (_, HINTS | OLD_HINTS) => Some(SHARED),
        (_, SOURCE_RANGES_ANNOTATION) => None,
        ("service.beta.kubernetes.io", _) => Some("this annotation is for a cloud provider, and is not read"),
        _ => None,
    }
}

fn alias(own: &ServiceName, spec: &ServiceSpec, settings: &ClusterSettings, list: &mut List) {
    let target = spec.external_name.as_deref().filter(|_| spec.service_type() == ServiceType::ExternalName);
    let target = target.map(|target| target.strip_suffix('.').unwrap_or(target));
    let fault = target.and_then(|target| Target::of(own, target, &settings.domain).fault(target));
    if let Some(fault) = fault {
        list.add("spec.externalName", fault);
    }
}

fn addresses(spec: &ServiceSpec, settings: &ClusterSettings, list: &mut List) {
    let kind = spec.service_type();
    if !settings.serves_external_ips && spec.external_ips.iter().flatten().next().is_some() {
        list.add("spec.externalIPs", "not served, because cluster.externalIPs is false in the configuration");
    }
    if let Some(class) = spec.load_balancer_class.as_deref().filter(|_| kind == ServiceType::LoadBalancer) {
        let message = format!("no address is assigned here, because class {class:?} belongs to another implementation");
        list.add("spec.loadBalancerClass", message);
    } else if kind == ServiceType::LoadBalancer && settings.is_configured() && settings.load_balancer_pools.is_empty() {
        list.add(
            "spec.type",
            "a LoadBalancer gets no address until cluster.loadBalancerPools is set in the configuration",
        );
    }
    for family in spec.ip_families.iter().flatten().filter_map(|family| Family::parse(family)) {
        let has = settings.gateway_addresses.iter().any(|address| Family::of(*address) == family);
        if settings.is_configured() && !has {
            let name = family.as_str();
            let message = format!(
                "`addresses` in the configuration has no {name} address: there are no {name} node ports, and packets \
                 that need source translation are dropped"
            );
            list.add("spec.ipFamilies", message);
        }
    }
}

fn policies(spec: &ServiceSpec, settings: &ClusterSettings, list: &mut List) {
    if !settings.is_configured() {
        return;
    }
    let policies = [
        ("spec.externalTrafficPolicy", &spec.external_traffic_policy),
        ("spec.internalTrafficPolicy", &spec.internal_traffic_policy),
    ];
    for (field, _) in policies.into_iter().filter(|(_, policy)| policy.as_deref() == Some("Local")) {
        if settings.node.is_none() {
            list.add(field, "Local uses all endpoints, because `node` is not set in the configuration");
        }
    }
    let (wanted, key) = match spec.traffic_distribution.as_deref() {
        Some("PreferClose" | "PreferSameZone") => (&settings.zone, "zone"),
        Some("PreferSameNode") => (&settings.node, "node"),
        Some(_) | None => return,
    };
    if wanted.is_none() {
        list.add("spec.trafficDistribution", format!("no effect, because `{key}` is not set in the configuration"));
    }
}

fn of_slice(slice: &EndpointSlice) -> Vec<Warning> {
    let mut list = List::default();
    for (index, _) in slice.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.addresses.len() > 1) {
        let message = "only the first address gets traffic, as with kube-proxy";
        list.add(format!("endpoints[{index}].addresses"), message);
    }
    list.0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::service;

    fn configured() -> ClusterSettings {
        ClusterSettings { gateway_addresses: vec!["192.0.2.1".parse().unwrap()], ..ClusterSettings::default() }
    }

    fn of(value: &Value, settings: &ClusterSettings) -> Vec<String> {
        let object = Object::from_value(value, "default").expect("valid");
        unserved(&object, settings).iter().map(|item| item.to_string()).collect()
    }

    #[test]
    fn what_is_served_has_no_warning() {
        let spec = json!({"ports": [{"port": 80}, {"port": 80, "name": "s", "protocol": "SCTP"}],
            "sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.9"], "internalTrafficPolicy": "Cluster"});
        assert_eq!(of(&service("a", spec), &configured()), [""; 0]);
        let alias = json!({"type": "ExternalName", "externalName": "x.example"});
        assert_eq!(of(&service("a", alias), &configured()), [""; 0]);
    }

    #[test]
    fn each_request_in_vain_has_its_warning() {
        let no_external = ClusterSettings { serves_external_ips: false, ..configured() };
        let cases = [
            (json!({"externalIPs": ["192.0.2.9"]}), "spec.externalIPs: not served"),
            (json!({"type": "LoadBalancer"}), "spec.type: a LoadBalancer gets no address"),
            (
                json!({"type": "LoadBalancer", "loadBalancerClass": "a.io/b"}),
                "spec.loadBalancerClass: no address is assigned here, because class \"a.io/b\"",
            ),
            (json!({"internalTrafficPolicy": "Local"}), "spec.internalTrafficPolicy: Local uses all"),
            (
                json!({"type": "NodePort", "externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy: Local uses all",
            ),
            (json!({"trafficDistribution": "PreferSameZone"}), "spec.trafficDistribution: no effect, because `zone`"),
            (json!({"trafficDistribution": "PreferSameNode"}), "spec.trafficDistribution: no effect, because `node`"),
            (json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies: `addresses` in the configuration has no IPv6"),
        ];
        for (mut spec, expected) in cases {
            spec["ports"] = json!([{"port": 80}]);
            let found = of(&service("a", spec.clone()), &no_external);
            let [only] = &found[..] else { panic!("{spec}: {found:?}") };
            assert!(only.starts_with(expected), "{spec}: {only}");
        }
    }

    #[test]
    fn a_target_that_is_no_use_has_its_warning() {
        let cases = [
            ("10.1.2.3", Some("spec.externalName: 10.1.2.3 is an address and not a name")),
            ("a.default.svc.cluster.local", Some("spec.externalName: the Service is an alias of itself")),
            ("A.default.svc.cluster.local.", Some("spec.externalName: the Service is an alias of itself")),
            ("web", Some("spec.externalName: \"web\" is looked up as it is, outside the cluster")),
            ("a.other.svc.cluster.local", None),
            ("x.a.default.svc.cluster.local", None),
            ("www.example.org", None),
        ];
        for (target, expected) in cases {
            // Without a configuration, too.
            for settings in [configured(), ClusterSettings::default()] {
                let alias = service("a", json!({"type": "ExternalName", "externalName": target}));
                let found = of(&alias, &settings);
                assert_eq!(found.len(), expected.iter().count(), "{target}: {found:?}");
                assert!(
                    found.iter().zip(expected).all(|(found, start)| found.starts_with(start)),
                    "{target}: {found:?}"
                );
            }
        }
        let named = service("a", json!({"ports": [{"port": 80}], "externalName": "web"}));
        assert_eq!(of(&named, &configured()), [""; 0], "of another type it is ignored");
        let elsewhere = ClusterSettings { domain: "corp.example".to_owned(), ..configured() };
        let alias = service("a", json!({"type": "ExternalName", "externalName": "a.default.svc.corp.example"}));
        assert_eq!(of(&alias, &elsewhere).len(), 1);
    }

    #[test]
    fn labels_and_annotations_of_others_have_their_warnings() {
        let mut labelled = service("a", json!({"ports": [{"port": 80}]}));
        labelled["metadata"]["labels"] = json!({PROXY_NAME_LABEL: "other"});
        labelled["metadata"]["annotations"] = json!({
            "metallb.io/loadBalancerIPs": "192.0.2.4", "service.kubernetes.io/topology-mode": "Auto",
            "service.beta.kubernetes.io/aws-load-balancer-type": "nlb", "team": "a",
            "service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8",
        });
        let fields: Vec<_> =
            of(&labelled, &configured()).iter().map(|text| text.split(':').next().unwrap().to_owned()).collect();
        assert_eq!(
            fields,
            [
                "metadata.labels[service.kubernetes.io/service-proxy-name]",
                "metadata.annotations[metallb.io/loadBalancerIPs]",
                "metadata.annotations[service.beta.kubernetes.io/aws-load-balancer-type]",
                "metadata.annotations[service.kubernetes.io/topology-mode]",
            ]
        );
    }

    #[test]
    fn without_a_configuration_nothing_is_said_about_it() {
        for spec in [
            json!({"type": "LoadBalancer"}),
            json!({"internalTrafficPolicy": "Local"}),
            json!({"ipFamilies": ["IPv6"]}),
        ] {
            let mut spec = spec;
            spec["ports"] = json!([{"port": 80}]);
            assert_eq!(of(&service("a", spec), &ClusterSettings::default()), [""; 0]);
        }
    }

    #[test]
    fn further_addresses_of_an_endpoint_get_no_traffic() {
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "x"}, "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2", "10.0.0.3"]}]});
        let found = of(&slice, &configured());
        assert!(found.len() == 1 && found[0].starts_with("endpoints[1].addresses: only the first"), "{found:?}");
    }
}

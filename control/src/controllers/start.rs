//! Objects that always exist: they are recreated when they are deleted.
//!
//! | object | why |
//! |---|---|
//! | four Namespaces | tools and manifests expect them |
//! | Service `default/kubernetes` | Pods ask for `kubernetes.default.svc`; the first address of the Service range is its, by custom |
//!
//! The API server creates these, and its own controller recreates them (K `pkg/controlplane/controller`). Here they are part
//! of an empty cluster and are saved only once a client changes them, so a state of an older version has them too. The
//! Service has no selector: until a client writes Endpoints or slices that name the API servers, connections to it are
//! refused.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::allocate;
use crate::admission::strategy;
use crate::cluster::overlay::Overlay;
use crate::cluster::settings::ClusterSettings;
use crate::objects::{Kind, Object};

/// The port API servers listen on, behind the Service's 443.
const API_SERVER_PORT: i32 = 6443;

/// The namespaces that always exist.
const PERMANENT_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// An active namespace.
pub(crate) fn new_namespace(name: &str) -> Object {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    namespace.metadata.labels = Some([("kubernetes.io/metadata.name".to_owned(), name.to_owned())].into());
    namespace.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), ..Default::default() });
    Object::Namespace(Box::new(namespace))
}

/// The objects that always exist. `taken`: whether a Service has the address.
pub(crate) fn objects(settings: &ClusterSettings, taken: impl Fn(IpAddr) -> bool) -> Vec<Object> {
    let namespaces = PERMANENT_NAMESPACES.into_iter().map(new_namespace);
    namespaces.chain(kubernetes(settings, taken)).collect()
}

/// Recreates those that the batch deleted.
pub(super) fn run(view: &mut Overlay<'_>) {
    let concerned = |kind| matches!(kind, Kind::Namespace | Kind::Service);
    if !view.touched().any(|(key, _)| concerned(key.kind) && view.object(key).is_none()) {
        return;
    }
    let all = objects(view.settings(), |address| view.address_owner(address).is_some());
    for object in all {
        if view.object(&object.key()).is_none() {
            view.put(object);
        }
    }
}

/// `None` if the range has no address left, or if there is no range.
fn kubernetes(settings: &ClusterSettings, taken: impl Fn(IpAddr) -> bool) -> Option<Object> {
    let address = allocate::lowest_free(settings, taken)?;
    let mut service = Service::default();
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    service.metadata.name = Some("kubernetes".to_owned());
    service.metadata.namespace = Some("default".to_owned());
    service.metadata.labels = Some([label("component", "apiserver"), label("provider", "kubernetes")].into());
    let port = ServicePort {
        name: Some("https".to_owned()),
        port: 443,
        target_port: Some(IntOrString::Int(API_SERVER_PORT)),
        ..Default::default()
    };
    let spec = ServiceSpec { cluster_ip: Some(address.to_string()), ports: Some(vec![port]), ..Default::default() };
    service.spec = Some(spec);
    let mut object = Object::Service(Box::new(service));
    strategy::prepare(&mut object, None);
    if let Object::Service(service) = &mut object {
        // Its one address is of a configured family: there is no fault to report.
        allocate::settle_families(service, None, settings, &mut crate::objects::fault::Faults::new());
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::{Cluster, Write};
    use crate::objects::Key;
    use crate::testing::{World, object, service};

    fn address(cluster: &Cluster) -> String {
        let key = Key::new(Kind::Service, "default", "kubernetes");
        let object = cluster.object(&key).expect("always there");
        object.as_service().unwrap().spec.clone().unwrap().cluster_ip.unwrap()
    }

    #[test]
    fn an_empty_cluster_is_what_a_client_expects() {
        let world = World::new();
        let names: Vec<&str> = world.cluster.objects(Kind::Namespace, None).map(|n| n.name()).collect();
        assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
        let kubernetes = Object::Service(Box::new(world.service("kubernetes"))).to_value();
        let expected = json!({
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        });
        assert_eq!(kubernetes["spec"], expected);
        assert_eq!(kubernetes["metadata"]["labels"], json!({"component": "apiserver", "provider": "kubernetes"}));
        assert_eq!(kubernetes["metadata"]["resourceVersion"], "1");
        // What a client reads it can write back.
        let mut world = world;
        assert!(world.write(vec![Write::Replace(object(kubernetes))]).unwrap().changes.is_empty());
    }

    #[test]
    fn addresses_of_others_are_left_alone() {
        let settings = ClusterSettings {
            gateway_addresses: vec!["10.96.0.1".parse().unwrap()],
            dns_addresses: vec!["10.96.0.2".parse().unwrap()],
            ..ClusterSettings::default()
        };
        assert_eq!(address(&Cluster::new(settings.clone())), "10.96.0.3");
        // A state from before there was such a Service, in which another Service has its address.
        let old = object(service("a", json!({"clusterIP": "10.96.0.3", "ports": [{"port": 80}]})));
        assert_eq!(address(&Cluster::restore(settings, [old], 7).unwrap()), "10.96.0.4");
        let full =
            ClusterSettings { service_cidrs: vec!["10.0.0.0/30".parse().unwrap()], ..ClusterSettings::default() };
        let taken = ["10.0.0.1", "10.0.0.2"].map(|ip| service(&ip.replace('.', "-"), json!({"clusterIP": ip})));
        let cluster = Cluster::restore(full, taken.map(object), 7).unwrap();
        assert_eq!(cluster.objects(Kind::Service, None).count(), 2, "no room for it, and no harm done");
    }

    #[test]
    fn what_is_deleted_comes_back() {
        let mut world = World::new();
        let before = world.service("kubernetes");
        let commit = world.delete(Kind::Service, "kubernetes");
        let after = world.service("kubernetes");
        assert_eq!((commit.changes.len(), &after.spec), (1, &before.spec));
        assert_ne!(after.metadata.uid, before.metadata.uid);
        world.write(vec![Write::delete(Key::new(Kind::Namespace, "", "kube-node-lease"))]).unwrap();
        assert_eq!(world.cluster.objects(Kind::Namespace, None).count(), 4);
        // Who deletes it and asks for its address in one breath has it: it comes back with the next.
        let taken = service("thief", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
        let key = Key::new(Kind::Service, "default", "kubernetes");
        world.write(vec![Write::delete(key), Write::Create(object(taken))]).unwrap();
        assert_eq!(address(&world.cluster), "10.96.0.2");
    }

    #[test]
    fn a_dump_of_it_and_endpoints_by_hand_are_taken() {
        let mut world = World::new();
        let ports = json!([{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]);
        let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes"},
            "subsets": [{"addresses": [{"ip": "192.0.2.77"}], "ports": [{"name": "https", "port": 6443}]}]});
        world.apply([service("kubernetes", json!({"clusterIP": "10.96.0.1", "ports": ports})), endpoints]);
        let slices = world.slices("kubernetes");
        assert_eq!((slices.len(), slices[0].endpoints[0].addresses.clone()), (1, vec!["192.0.2.77".to_owned()]));
    }
}

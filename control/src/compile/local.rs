//! Local services: frontends whose backend is a listener of the host, behind the host pair ([`pollgate_common::pair`]).
//!
//! ```text
//!  gateway address : port ─┬─▶ ServicePort with one backend ─▶ the kernel's address on the pair : the listener's port
//!  DNS address : 53 ───────┘
//! ```
//!
//! To the workers it is a Service like any other. What makes it local is the backend's address: the kernel's own, so the source is
//! always translated to the workers' address on the pair, and the reply comes back by it.
//!
//! The compiler has the listener opened before it publishes the frontend, and closed after it has withdrawn it. Without anything
//! that can listen (a replay, or no host pair) the frontends do not exist, and packets to them meet an undefined port.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::{FrontendKey, FrontendKind, Pool, Ring, ServicePort};

use super::ids::{Ids, NoIndex, PortName};
use crate::compile::resolve::{Family, Protocol, ServiceName};

/// The name of cluster DNS over TCP in the tables.
pub(crate) const DNS_NAME: &str = "gateway:dns-tcp";

/// A service of the gateway's own, over one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LocalService {
    /// The health-check node port of a Service.
    HealthCheck {
        /// The Service.
        service: ServiceName,
        /// The family.
        family: Family,
    },
    /// `/healthz` and `/livez` of the gateway.
    Proxy {
        /// The family.
        family: Family,
    },
    /// Cluster DNS over TCP.
    Dns {
        /// The family.
        family: Family,
    },
}

impl LocalService {
    /// The family.
    pub fn family(&self) -> Family {
        match self {
            LocalService::HealthCheck { family, .. }
            | LocalService::Proxy { family }
            | LocalService::Dns { family } => *family,
        }
    }

    /// The addresses at which it is served, of both families, and what kind they are.
    fn addresses(&self, settings: &DataplaneSettings) -> (Vec<IpAddr>, FrontendKind) {
        match self {
            LocalService::HealthCheck { .. } | LocalService::Proxy { .. } => {
                (settings.gateway_addresses().collect(), FrontendKind::NodePort)
            }
            LocalService::Dns { .. } => (settings.dns.clone(), FrontendKind::ClusterIp),
        }
    }

    /// Whether the host pair has its family, and it has an address.
    pub(super) fn is_possible(&self, settings: &DataplaneSettings) -> bool {
        let is_its = |address: IpAddr| Family::of(address) == self.family();
        settings.gateway_addresses().any(is_its) && self.addresses(settings).0.into_iter().any(is_its)
    }

    /// The name under which it has its index. No port of a Service has such a name: upper case is not allowed there.
    pub(super) fn port_name(&self) -> PortName {
        let family = self.family();
        let (service, port) = match self {
            LocalService::HealthCheck { service, .. } => (service.clone(), "healthCheckNodePort"),
            LocalService::Proxy { .. } => (gateway(), "healthz"),
            LocalService::Dns { .. } => (gateway(), "dns"),
        };
        PortName { service, port: port.to_owned(), protocol: Protocol::Tcp, family }
    }

    fn display_name(&self) -> Arc<str> {
        match self {
            LocalService::HealthCheck { service, .. } => {
                format!("{}/{}:healthCheckNodePort", service.namespace, service.name).into()
            }
            LocalService::Proxy { .. } => "gateway:healthz".into(),
            LocalService::Dns { .. } => DNS_NAME.into(),
        }
    }
}

/// The name of the gateway among the Services, which no Service has.
pub(super) fn gateway() -> ServiceName {
    ServiceName::new("", "gateway")
}

/// Whether load balancers may send traffic to a node (K `pkg/proxy/healthcheck/proxy_health.go`, SyncNode): it is not being deleted,
/// by a client or by the cluster autoscaler.
pub(super) fn takes_traffic(node: &Node) -> bool {
    const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && !taints.any(|taint| taint.key == TO_BE_DELETED)
}

/// What listens at the kernel's end of the host pair.
pub trait LocalServices: Send {
    /// Where `service` listens; opens a listener if it has none.
    fn listen(&mut self, service: &LocalService) -> io::Result<SocketAddr>;

    /// Closes the listener of `service`.
    fn close(&mut self, service: &LocalService);

    /// The number of ready local endpoints that a health check reports.
    fn report(&mut self, service: &LocalService, ready: usize);
}

/// Compiles a local service at `port` of its addresses, whose listener is at `listener`.
pub(super) fn compile(
    service: &LocalService,
    port: u16,
    listener: SocketAddr,
    settings: &DataplaneSettings,
    ids: &mut Ids,
) -> Result<ServicePort, NoIndex> {
    let (id, slots) = ids.claim(&service.port_name())?;
    let identity = (listener.ip(), listener.port());
    slots.assign(&BTreeSet::from([identity]));
    let order: Box<[u16]> = slots.slot(&identity).into_iter().collect();
    let (addresses, kind) = service.addresses(settings);
    let addresses = addresses.into_iter().filter(|address| Family::of(*address) == service.family());
    let key = |address| FrontendKey { address, port, protocol: Protocol::Tcp };
    Ok(ServicePort {
        id,
        name: service.display_name(),
        frontends: addresses.map(|address| (key(address), kind)).collect(),
        internal_local: false,
        external_local: false,
        client_ip_affinity: None,
        source_ranges: Box::default(),
        closed_to_family: false,
        backends: slots.backends().into(),
        cluster: Pool::new(Arc::new(Ring::new(order.iter().map(|_| 0).collect())), order),
        local: Pool::empty(),
        has_any: true,
        counted: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use pollgate_common::counters::Counters;
    use pollgate_common::hash::RingHash;
    use pollgate_common::pair;
    use pollgate_common::settings::Masquerade;
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::{ClusterSettings, Commit};
    use crate::compile::sink::TableSink;
    use crate::compile::{Compiler, Options};
    use crate::testing::{World, node, pod, service};

    /// Listens nowhere, and notes what it is told.
    struct Notes {
        told: Arc<Mutex<Vec<String>>>,
        fails: bool,
    }

    impl LocalServices for Notes {
        fn listen(&mut self, service: &LocalService) -> io::Result<SocketAddr> {
            if self.fails {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let address: IpAddr = match service.family() {
                Family::V4 => pair::HOST_V4.into(),
                Family::V6 => pair::HOST_V6.into(),
            };
            Ok(SocketAddr::new(address, 9000))
        }

        fn close(&mut self, service: &LocalService) {
            self.told.lock().unwrap().push(format!("close {}", service.display_name()));
        }

        fn report(&mut self, service: &LocalService, ready: usize) {
            self.told.lock().unwrap().push(format!("{:?} {} {ready}", service.family(), service.display_name()));
        }
    }

    struct Bench {
        world: World,
        compiler: Compiler,
        told: Arc<Mutex<Vec<String>>>,
    }

    impl Bench {
        fn new(fails: bool) -> Bench {
            let counters = Arc::new(Counters::new(1));
            let settings = DataplaneSettings {
                gateway_v4: vec!["192.168.50.10".parse().unwrap(), "192.168.50.11".parse().unwrap()],
                gateway_v6: vec!["2001:db8::10".parse().unwrap()],
                dns: vec!["10.96.0.53".parse().unwrap(), "fd00:96::53".parse().unwrap()],
                pod_cidrs: vec![],
                service_cidrs: vec![],
                masquerade: Masquerade::Kubernetes,
                host_pair: true,
                snat_ports: 1024..=29999,
                ring_hash: RingHash::new("pollgate"),
            };
            let options = Options {
                settings: Arc::new(settings),
                node: Some("n1".to_owned()),
                zone: None,
                dns: Arc::default(),
                table_size: Some(251),
            };
            let mut compiler = Compiler::new(options, counters);
            let told = Arc::default();
            compiler.serve_locally(Box::new(Notes { told: Arc::clone(&told), fails }));
            let world = World::with(ClusterSettings {
                service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
                gateway_addresses: vec!["192.168.50.10".parse().unwrap()],
                node: Some("n1".to_owned()),
                ..ClusterSettings::default()
            });
            Bench { world, compiler, told }
        }

        fn follow(&mut self, commit: &Commit) -> Vec<String> {
            self.compiler.changed(&self.world.cluster, &commit.touched());
            self.compiler.publish();
            std::mem::take(&mut *self.told.lock().unwrap())
        }

        fn apply(&mut self, values: impl IntoIterator<Item = Value>) -> Vec<String> {
            let commit = self.world.apply(values);
            self.follow(&commit)
        }

        /// The Service port at this place, and where its only backend is.
        fn at(&self, address: &str, port: u16) -> Option<(String, String)> {
            let reader = self.compiler.source().reader();
            let tables = reader.pin();
            let key = FrontendKey { address: address.parse().unwrap(), port, protocol: Protocol::Tcp };
            let service = tables.load().service(tables.load().frontend(&key)?.service)?.clone();
            let (_, backend) = service.choose(&service.cluster, u64::MAX)?;
            Some((service.name.to_string(), SocketAddr::new(backend.address, backend.port).to_string()))
        }
    }

    fn balanced(policy: &str) -> Value {
        service(
            "web",
            json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "selector": {"app": "web"},
                "ipFamilyPolicy": "PreferDualStack", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}),
        )
    }

    fn on(node: &str, name: &str, address: &str) -> Value {
        let mut pod = pod(name, "web", address);
        pod["spec"]["nodeName"] = json!(node);
        pod
    }

    /// K `pkg/proxy/endpointsmap_test.go`: unique addresses of ready endpoints on the node.
    #[test]
    fn a_health_check_reports_the_addresses_of_ready_local_endpoints_by_family() {
        let mut bench = Bench::new(false);
        let nodes = [node("n1", "a"), node("n2", "a")];
        let told = bench.apply(nodes.into_iter().chain([balanced("Local")]));
        assert_eq!(told, ["V4 default/web:healthCheckNodePort 0", "V6 default/web:healthCheckNodePort 0"]);
        // Two ports, one address each; one elsewhere.
        let told = bench.apply([on("n1", "p1", "10.0.0.1"), on("n1", "p2", "10.0.0.2"), on("n2", "p3", "10.0.0.3")]);
        assert_eq!(told, ["V4 default/web:healthCheckNodePort 2", "V6 default/web:healthCheckNodePort 0"]);
        let mut waiting = on("n1", "p1", "10.0.0.1");
        waiting["status"]["conditions"][0]["status"] = json!("False");
        let mut drained = on("n1", "p2", "10.0.0.2");
        drained["metadata"]["annotations"] = json!({"pollgate.io/weight": "0"});
        let told = bench.apply([waiting, drained]);
        assert_eq!(told[0], "V4 default/web:healthCheckNodePort 0", "not ready, and not given any");
    }

    #[test]
    fn its_frontends_are_at_every_gateway_address_for_as_long_as_the_policy_is_local() {
        let mut bench = Bench::new(false);
        bench.apply([balanced("Local")]);
        let port = bench.world.service("web").spec.unwrap().health_check_node_port.unwrap();
        let port = u16::try_from(port).unwrap();
        let at = |listener: &str| Some(("default/web:healthCheckNodePort".to_owned(), listener.to_owned()));
        for address in ["192.168.50.10", "192.168.50.11"] {
            assert_eq!(bench.at(address, port), at("169.254.112.1:9000"), "{address}");
        }
        assert_eq!(bench.at("2001:db8::10", port), at("[fe80::7067:1]:9000"));
        let told = bench.apply([balanced("Cluster")]);
        assert_eq!(told, ["close default/web:healthCheckNodePort"; 2]);
        assert_eq!(bench.at("192.168.50.10", port), None);
        assert_eq!(bench.at("2001:db8::10", port), None);
        bench.apply([balanced("Local")]);
        let commit = bench.world.delete(crate::objects::Kind::Service, "web");
        assert_eq!(bench.follow(&commit), ["close default/web:healthCheckNodePort"; 2]);
    }

    /// Kubernetes DNS specification 1.1.0 §2: the DNS service is one of the cluster; its port 53 is the gateway's own.
    #[test]
    fn dns_over_tcp_is_at_the_dns_addresses_and_no_service_takes_its_place() {
        let mut bench = Bench::new(false);
        bench.compiler.publish_own(None);
        let spec = json!({"clusterIP": "10.96.0.53", "selector": {"app": "web"},
            "ports": [{"name": "dns-tcp", "port": 53}, {"name": "metrics", "port": 9153}]});
        bench.apply([service("kube-dns", spec), pod("p", "web", "10.0.0.1")]);
        let listener = |listener: &str| Some((DNS_NAME.to_owned(), listener.to_owned()));
        assert_eq!(bench.at("10.96.0.53", 53), listener("169.254.112.1:9000"));
        assert_eq!(bench.at("fd00:96::53", 53), listener("[fe80::7067:1]:9000"));
        let metrics = ("default/kube-dns:metrics".to_owned(), "10.0.0.1:9153".to_owned());
        assert_eq!(bench.at("10.96.0.53", 9153), Some(metrics), "its other ports are the Service's");
        assert_eq!(bench.at("192.168.50.10", 10256), None, "no health port");
    }

    #[test]
    fn a_listener_that_cannot_be_opened_costs_its_frontend_only() {
        let mut bench = Bench::new(true);
        assert_eq!(bench.apply([balanced("Local")]), [] as [&str; 0]);
        bench.compiler.publish_own(Some(10256));
        assert_eq!(bench.at("192.168.50.10", 10256), None);
        let reader = bench.compiler.source().reader();
        assert_eq!(reader.pin().load().services().count(), 4, "two ports in two families");
    }

    /// K `pkg/proxy/healthcheck/proxy_health.go`, SyncNode.
    #[test]
    fn the_gateways_own_health_follows_its_node() {
        let mut bench = Bench::new(false);
        bench.compiler.publish_own(Some(10256));
        let listener = |listener: &str| Some(("gateway:healthz".to_owned(), listener.to_owned()));
        assert_eq!(bench.at("192.168.50.11", 10256), listener("169.254.112.1:9000"));
        assert_eq!(bench.at("2001:db8::10", 10256), listener("[fe80::7067:1]:9000"));
        let tainted = |key: &str| {
            let mut node = node("n1", "a");
            node["spec"] = json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
            node
        };
        for (object, eligible) in
            [(node("n1", "a"), true), (tainted("ToBeDeletedByClusterAutoscaler"), false), (tainted("other"), true)]
        {
            bench.apply([object.clone()]);
            assert_eq!(bench.compiler.progress().is_eligible(), eligible, "{object}");
        }
        // The API keeps no such time for a Node, other sources of objects do.
        let mut leaving = node("n1", "a");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!takes_traffic(&serde_json::from_value(leaving).unwrap()), "it is being deleted");
    }
}

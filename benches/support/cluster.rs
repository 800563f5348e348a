//! Any number of Services with endpoints: maps numbers to names and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pollgate_control::cluster::Write;
use pollgate_control::objects::Object;
use serde_json::{Value, json};

/// Every Service's port, UDP and TCP.
pub(crate) const PORT: u16 = 8080;

/// The family of a cluster's addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// The address that stands for `address`: in IPv6 it is `2001:db8::a.b.c.d`.
    pub(crate) fn address(self, address: Ipv4Addr) -> IpAddr {
        match self {
            Family::V4 => address.into(),
            Family::V6 => Ipv6Addr::from_bits(PREFIX | u128::from(address.to_bits())).into(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// The first 96 bits of every IPv6 address.
pub(crate) const PREFIX: u128 = 0x2001_0db8 << 96;

/// ClusterIP of a Service.
pub(crate) fn address(service: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + service)
}

/// Name of a Service.
pub(crate) fn name(service: u32) -> String {
    format!("service-{service}")
}

/// `services` Services of `endpoints` endpoints each. All endpoints are different.
pub(crate) fn services(services: u32, endpoints: u32) -> Vec<Write> {
    services_of(Family::V4, services, endpoints)
}

/// The same with addresses of this family.
pub(crate) fn services_of(family: Family, services: u32, endpoints: u32) -> Vec<Write> {
    (0..services).flat_map(|at| [service(family, at), slice_of(family, at, endpoints, None)]).collect()
}

/// The same, with one Pod per endpoint. The gateway makes the slices.
pub(crate) fn services_of_pods(services: u32, endpoints: u32) -> Vec<Write> {
    let pods = |at: u32| (0..endpoints).map(move |nth| pod(at, at * endpoints + nth));
    (0..services).flat_map(|at| std::iter::once(selecting(at)).chain(pods(at))).collect()
}

fn selecting(at: u32) -> Write {
    apply(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name(at) },
        "spec": { "clusterIP": address(at), "selector": { "app": name(at) }, "ports": ports() },
    }))
}

/// A Pod like one of a Deployment, without most of the fields that a dump of a cluster has.
fn pod(service: u32, number: u32) -> Write {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 240, 0, 1)) + number);
    apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("{}-7d4b9c6f5-{number:06}", name(service)),
            "labels": { "app": name(service), "pod-template-hash": "7d4b9c6f5" },
        },
        "spec": {
            "nodeName": format!("node-{}", number % 200),
            "containers": [{ "name": "app", "image": "registry.example/app:1.2.3",
                "ports": [{ "name": "u", "containerPort": PORT, "protocol": "UDP" },
                    { "name": "t", "containerPort": PORT, "protocol": "TCP" }] }],
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    }))
}

fn service(family: Family, at: u32) -> Write {
    apply(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name(at) },
        "spec": { "clusterIP": family.address(address(at)), "ports": ports() },
    }))
}

/// The endpoints of a Service. All are ready except the one at `unready`.
pub(crate) fn slice(at: u32, endpoints: u32, unready: Option<u32>) -> Write {
    slice_of(Family::V4, at, endpoints, unready)
}

fn slice_of(family: Family, at: u32, endpoints: u32, unready: Option<u32>) -> Write {
    let endpoint = |nth: u32| {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 240, 0, 1)) + at * endpoints + nth);
        let address = family.address(address);
        json!({ "addresses": [address], "conditions": { "ready": unready != Some(nth) } })
    };
    apply(&json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": format!("{}-1", name(at)), "labels": { "kubernetes.io/service-name": name(at) } },
        "addressType": family.name(),
        "ports": ports(),
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    }))
}

fn ports() -> Value {
    json!([{ "name": "u", "port": PORT, "protocol": "UDP" }, { "name": "t", "port": PORT, "protocol": "TCP" }])
}

fn apply(value: &Value) -> Write {
    Write::Apply(Object::from_value(value, "default").expect("a valid object"))
}

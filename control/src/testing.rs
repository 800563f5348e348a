//! A cluster for tests, fed with the JSON an operator would write.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::cluster::{Cluster, ClusterSettings, Commit, Refusal, Write};
use crate::objects::service::ServiceName;
use crate::objects::{Key, Kind, Object};

/// A cluster with a fixed clock.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
}

impl World {
    /// With a gateway address and a pool of four LoadBalancer addresses.
    pub(crate) fn new() -> World {
        World::with(ClusterSettings {
            load_balancer_pools: vec!["192.0.2.8/30".parse().unwrap()],
            gateway_addresses: vec!["192.168.50.10".parse().unwrap()],
            ..ClusterSettings::default()
        })
    }

    pub(crate) fn with(settings: ClusterSettings) -> World {
        World { cluster: Cluster::new(settings) }
    }

    /// Plans and adopts; panics if refused.
    pub(crate) fn apply(&mut self, values: impl IntoIterator<Item = Value>) -> Commit {
        self.write(values.into_iter().map(|value| Write::Apply(object(value))).collect()).unwrap()
    }

    pub(crate) fn write(&mut self, writes: Vec<Write>) -> Result<Commit, Vec<Refusal>> {
        let commit = self.cluster.plan(writes, now())?;
        self.cluster.adopt(&commit);
        Ok(commit)
    }

    pub(crate) fn delete(&mut self, kind: Kind, name: &str) -> Commit {
        self.write(vec![Write::delete(Key::new(kind, "default", name))]).unwrap()
    }

    /// The faults of applying one object, as text; panics if it is not refused.
    pub(crate) fn faults(&mut self, value: Value) -> Vec<String> {
        let refusals = self.write(vec![Write::Apply(object(value))]).unwrap_err();
        refusals[0].faults.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn service(&self, name: &str) -> Service {
        let key = Key::new(Kind::Service, "default", name);
        self.cluster.object(&key).and_then(|object| object.as_service()).unwrap().clone()
    }

    pub(crate) fn slices(&self, service: &str) -> Vec<EndpointSlice> {
        let name = ServiceName::new("default", service);
        self.cluster.slices(&name).filter_map(|slice| slice.as_slice().cloned()).collect()
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

pub(crate) fn object(value: Value) -> Object {
    Object::from_value(&value, "default").unwrap()
}

pub(crate) fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// A Service of type ClusterIP on port 80 that selects `app=<name>`.
pub(crate) fn web(name: &str) -> Value {
    service(name, json!({"selector": {"app": name}, "ports": [{"port": 80}]}))
}

/// A running, ready Pod with one label.
pub(crate) fn pod(name: &str, app: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}})
}

pub(crate) fn node(name: &str, zone: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}})
}

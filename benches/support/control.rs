//! The control side without threads and disk: a cluster and the compiler of its tables.

use std::sync::Arc;

use pollgate_common::counters::Counters;
use pollgate_common::dns::name::to_wire;
use pollgate_common::dns::zone::ZoneSettings;
use pollgate_common::hash::RingHash;
use pollgate_common::settings::{DataplaneSettings, Masquerade};
use pollgate_control::cluster::{self, Cluster, Commit, Touched, Write};
use pollgate_control::compile::sink::TableSink;
use pollgate_control::compile::{Compiler, Options};
use pollgate_control::runtime;

use super::cluster as objects;

/// Endpoints per Service.
pub(crate) const ENDPOINTS: u32 = 10;

/// A cluster, and the compiler of its tables.
pub(crate) struct Control {
    pub(crate) cluster: Cluster,
    pub(crate) compiler: Compiler,
    services: u32,
    /// Number of changes so far, over all samples of a bench.
    changes: u32,
}

impl Control {
    /// `services` Services of [`ENDPOINTS`] endpoints, compiled and published.
    pub(crate) fn new(services: u32) -> Control {
        let mut cluster = Cluster::new(cluster::ClusterSettings::default());
        adopt(&mut cluster, objects::services(services, ENDPOINTS));
        let compiler = compiled(&cluster);
        Control { cluster, compiler, services, changes: 0 }
    }

    /// Plans and adopts the next change: an endpoint of some Service is removed, and the change after it adds it again.
    /// Returns the Service's number, whether the endpoint was removed, and the affected objects.
    pub(crate) fn change(&mut self) -> (u32, bool, Touched) {
        let (service, is_gone) =
            ((self.changes / 2).wrapping_mul(7919) % self.services, self.changes.is_multiple_of(2));
        self.changes += 1;
        let unready = is_gone.then_some(service % ENDPOINTS);
        let touched = adopt(&mut self.cluster, vec![objects::slice(service, ENDPOINTS, unready)]).touched();
        assert_eq!(touched.services.len(), 1, "one Service is concerned");
        (service, is_gone, touched)
    }

    /// Compiles and publishes the affected objects.
    pub(crate) fn publish(&mut self, touched: &Touched) {
        self.compiler.changed(&self.cluster, touched);
        self.compiler.publish();
    }
}

fn adopt(cluster: &mut Cluster, writes: Vec<Write>) -> Commit {
    let commit = cluster.plan(writes, jiff::Timestamp::UNIX_EPOCH).expect("valid objects");
    cluster.adopt(&commit);
    commit
}

/// A new compiler that has compiled and published all of `cluster`.
pub(crate) fn compiled(cluster: &Cluster) -> Compiler {
    let settings = DataplaneSettings {
        gateway_v4: vec![[192, 168, 50, 10].into()],
        gateway_v6: Vec::new(),
        dns: vec![std::net::Ipv4Addr::new(10, 96, 0, 10).into()],
        pod_cidrs: vec!["10.240.0.0/12".parse().expect("a CIDR")],
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a CIDR")],
        masquerade: Masquerade::Kubernetes,
        host_pair: false,
        snat_ports: 1024..=29_999,
        ring_hash: RingHash::new("pollgate"),
    };
    let options = Options {
        settings: Arc::new(settings),
        node: None,
        zone: None,
        dns: Arc::new(ZoneSettings {
            origin: to_wire("cluster.local").expect("a name"),
            ttl: 5,
            servers: vec![std::net::Ipv4Addr::new(10, 96, 0, 10).into()],
            ..ZoneSettings::default()
        }),
        table_size: None,
    };
    let mut compiler = Compiler::new(options, Arc::new(Counters::new(1)));
    runtime::publish_restored(cluster, &mut compiler);
    compiler
}

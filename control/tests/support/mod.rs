//! A gateway without workers: the API on its socket, the control thread, and the state file.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam::channel::unbounded;
use pollgate_common::counters::Counters;
use pollgate_common::dns::name::to_wire;
use pollgate_common::dns::zone::{PodRecords, ZoneSettings};
use pollgate_common::hash::RingHash;
use pollgate_common::settings::{DataplaneSettings, Masquerade};
use pollgate_control::api::{self, ApiHandle, ApiParts, StatsSource};
use pollgate_control::cluster::{Cluster, ClusterSettings};
use pollgate_control::compile::{Compiler, Options};
use pollgate_control::observe::stats::Stats;
use pollgate_control::runtime::{self, ControlHandle, RuntimeParts};
use pollgate_control::store::Store;
use serde_json::json;

/// The parts of a running gateway.
pub(crate) struct Gateway {
    api: ApiHandle,
    control: ControlHandle,
    directory: tempfile::TempDir,
    socket: PathBuf,
}

impl Gateway {
    /// An empty one, whose objects are compiled to tables.
    pub(crate) fn new() -> Self {
        Self::on(tempfile::tempdir().expect("a directory"))
    }

    /// With the state file in this directory.
    pub(crate) fn on(directory: tempfile::TempDir) -> Self {
        Self::at(directory, "api.sock")
    }

    /// The same, with the socket at a place in it.
    pub(crate) fn at(directory: tempfile::TempDir, socket: &str) -> Self {
        let stats: Stats = serde_json::from_value(json!({"counters": {}})).expect("statistics");
        Self::with(directory, socket, Arc::new(move || stats.clone()))
    }

    /// The same, with these statistics.
    pub(crate) fn with(directory: tempfile::TempDir, socket: &str, stats: StatsSource) -> Self {
        let (store, restored) = Store::open(&directory.path().join("state.db")).expect("a store");
        let cluster = Cluster::restore(ClusterSettings::default(), restored.objects, restored.revision);
        let cluster = cluster.expect("a consistent state");
        let (commands, receiver) = unbounded();
        let socket = directory.path().join(socket);
        let parts = ApiParts {
            socket: socket.clone(),
            https: None,
            replica: cluster.clone(),
            commands,
            stats,
            checks: Arc::default(),
            dump: None,
        };
        let api = api::spawn(parts).expect("a socket");
        let settled = api.settled_sink();
        let parts = RuntimeParts { cluster, store, sink: Box::new(compiler()), commands: receiver, settled };
        Self { api, control: runtime::spawn(parts).expect("threads"), directory, socket }
    }

    /// Where its API is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Where its state is.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state.db")
    }

    /// Sends a request, and returns the code of the response, which is read completely.
    pub(crate) fn request(&self, method: &str, path: &str, media: &str, body: &[u8]) -> u16 {
        let mut stream = UnixStream::connect(self.socket()).expect("listening");
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("the whole body is read");
        let mut buffer = [0; 4096];
        let first = stream.read(&mut buffer).expect("an answer");
        let code: u16 = std::str::from_utf8(&buffer[9..12.min(first)]).expect("text").parse().expect("a code");
        if code >= 400 {
            let text = String::from_utf8_lossy(&buffer[..first]);
            println!("{}", text.chars().take(600).collect::<String>());
        }
        while stream.read(&mut buffer).expect("the rest of the answer") > 0 {}
        code
    }

    /// Stops it, and returns the directory of its state file.
    pub(crate) fn stop(self) -> tempfile::TempDir {
        self.api.stop();
        self.control.stop();
        self.directory
    }
}

fn compiler() -> Compiler {
    let settings = DataplaneSettings {
        gateway_v4: vec![[192, 168, 50, 10].into()],
        gateway_v6: Vec::new(),
        dns: vec![[10, 96, 0, 10].into()],
        pod_cidrs: vec!["10.244.0.0/16".parse().expect("a CIDR")],
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a CIDR")],
        masquerade: Masquerade::Kubernetes,
        host_pair: false,
        snat_ports: 1024..=29999,
        ring_hash: RingHash::new("pollgate"),
    };
    let dns = ZoneSettings {
        origin: to_wire("cluster.local").expect("a name"),
        ttl: 5,
        pods: PodRecords::Disabled,
        autopath: false,
        reverse: Vec::new(),
        servers: vec![[10, 96, 0, 10].into()],
        forward: Vec::new(),
    };
    let options =
        Options { settings: Arc::new(settings), node: None, zone: None, dns: Arc::new(dns), table_size: None };
    Compiler::new(options, Arc::new(Counters::new(1)))
}

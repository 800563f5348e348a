//! The lab with a gateway in it, servers in the Pods, and the objects applied.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Parser;
use ipnet::IpNet;
use pollgate_control::api::APPLY_PATH;
use pollgate_control::explain::Explanation;
use pollgate_control::objects::manifest;
use serde_json::{Value, json};

use super::error::{DemoError, system};
use super::page::{Page, row, table};
use super::scratch::Scratch;
use crate::cli::client::Client;
use crate::cli::{Cli, Command};
use crate::config::{Config, Purpose};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::host;
use crate::lab::Namespace;
use crate::lab::topology::{Network, Segment, guide, v6_beside};
use crate::lab::traffic::Server;

/// The objects of the guide in the repository, and those that only the demo needs.
const MANIFESTS: [(&str, &str); 2] =
    [("examples/guide.yaml", include_str!("../../examples/guide.yaml")), ("more.yaml", include_str!("more.yaml"))];

/// The gateway's configuration, but for what depends on the machine.
const CONFIG: &str = r#"
interfaces: [{ name: node-1 }, { name: node-2 }, { name: outside }]
addresses: [192.168.50.10, "fd00:192:168:50::10"]
cluster:
  loadBalancerPools: 192.168.50.200-192.168.50.219
  serviceCIDRs: [10.96.0.0/16, "fd00:10:96::/112"]
  podCIDRs: [10.244.0.0/16, "fd00:10:244::/48"]
dns: { upstreams: [] }
flows: { max: 65536 }
"#;

/// Where Pods listen: TCP, HTTP and UDP.
const TCP: u16 = 8080;
const HTTP: u16 = 80;
const UDP: u16 = 9007;

/// The client Pod.
pub(super) const FRONTEND: &str = "frontend-app";
/// The client outside the cluster.
pub(super) const OUTSIDE: &str = "outside-client";
/// The Pods that match the selector, in order.
pub(super) const BACKENDS: [&str; 2] = ["backend-1", "backend-2"];
/// For one question, however slow the machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Everything that has been set up.
pub(super) struct Stage {
    pub(super) network: Network,
    pub(super) pods: Vec<PodServers>,
    pub(super) gateway: Gateway,
    objects: Vec<Value>,
    client: Client,
    socket: PathBuf,
}

/// What one Pod serves. The Pods that should get no connection serve too, or their silence would prove nothing.
pub(super) struct PodServers {
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) tcp: Server,
    pub(super) http: Server,
    pub(super) udp: Server,
    /// TCP at its IPv6 address.
    pub(super) tcp_v6: Server,
}

impl Stage {
    /// Builds all of it and prints how long each part took.
    pub(super) fn build(scratch: &Scratch, page: &mut Page) -> Result<Stage, DemoError> {
        page.chapter("The lab");
        let objects = objects()?;
        let plan = named_after_pods(guide().into_iter().map(Segment::dual_stack).collect(), &objects);
        let (network, lab_took) = timed(|| Network::new(&plan, 1));
        let network = network?;
        let pods = serve(&network).map_err(system("starting the Pods' servers"))?;
        page.say(
            "Each host below is a network namespace with its own kernel network stack; a Node is a bridge. The kernel \
             forwards nothing: the gateway's workers carry everything that gets from one host to another.",
        );
        page.show(&picture(&plan));

        let config = config(scratch)?;
        let (gateway, gateway_took) =
            timed(|| network.gateway().run(|| Gateway::start(&config, Arc::new(AtomicBool::new(false)))));
        let gateway = gateway?;
        let socket = config.api.socket;
        let client = Client::new(&socket).map_err(refused("opening the gateway's API"))?;
        let stage = Stage { network, pods, gateway, objects, client, socket };
        let (applied, apply_took) = timed(|| stage.apply(&stage.objects));
        applied.map_err(refused("applying the objects"))?;
        let workers = stage.gateway.counters().workers().len();
        let s = if workers == 1 { "" } else { "s" };
        page.show(&table(&[
            row([&ms(lab_took), &format!("the lab: {} namespaces", stage.network.namespaces().count())]),
            row([
                &ms(gateway_took),
                &format!("the gateway, {workers} worker{s} polling {}", stage.network.interfaces().join(", ")),
            ]),
            row([
                &ms(apply_took),
                &format!("{} objects applied through its API: on disk, and in use by the workers", stage.objects.len()),
            ]),
        ]));
        Ok(stage)
    }

    /// Takes it down in order: no client is active any more when the gateway stops.
    pub(super) fn strike(self) {
        drop(self.pods);
        self.gateway.stop();
    }

    /// A host's namespace.
    pub(super) fn host(&self, name: &str) -> &Namespace {
        &self.network.host(name).namespace
    }

    /// The gateway's socket.
    pub(super) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Applies objects, all or none, as `pollgate apply` does. They are on disk and live when it returns.
    pub(super) fn apply(&self, objects: &[Value]) -> Result<(), Failure> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.client.post(APPLY_PATH, &list).map(drop).map_err(Failure::from)
    }

    /// An object of the manifests, as it was written.
    pub(super) fn manifest(&self, kind: &str, name: &str) -> Result<&Value, String> {
        let found = self.objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        found.ok_or_else(|| format!("the manifests have no {kind} {name}"))
    }

    /// What the command prints that a reader would type.
    pub(super) fn typed(&self, line: &str) -> Result<String, String> {
        let socket = self.socket.display().to_string();
        let words = line.split(' ').chain(["--socket", &socket]);
        let Command::Client(command) = Cli::try_parse_from(words).map_err(|error| error.to_string())?.command else {
            return Err(format!("{line:?} is not a command for a gateway"));
        };
        let mut printed = Vec::new();
        command.run(&mut printed).map_err(|failure| failure.to_string())?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// An object or list, by its path in the namespace `default`.
    pub(super) fn get(&self, path: &str) -> Result<Value, String> {
        let path = format!("/api/v1/namespaces/default/{path}");
        self.client.get(&path).map_err(|error| Failure::from(error).to_string())
    }

    /// Why a Service has the endpoints it has.
    pub(super) fn explanation(&self, service: &str) -> Result<Explanation, String> {
        let path = format!("/apis/pollgate.io/v1alpha1/namespaces/default/services/{service}/explain");
        let answer = self.client.get(&path).map_err(|error| Failure::from(error).to_string())?;
        serde_json::from_value(answer).map_err(|error| format!("the explanation of {service}: {error}"))
    }

    /// The address of a Service: its ClusterIP and first port.
    pub(super) fn cluster_ip(&self, service: &str) -> Result<SocketAddr, String> {
        let spec = &self.get(&format!("services/{service}"))?["spec"];
        socket_address(&spec["clusterIP"], &spec["ports"][0]["port"])
    }

    /// The source addresses that a kind of server saw, over all Pods.
    pub(super) fn sources(&self, server: fn(&PodServers) -> &Server) -> BTreeSet<IpAddr> {
        self.pods.iter().flat_map(|pod| server(pod).peers().into_keys()).collect()
    }
}

/// An address and a port out of an object.
pub(super) fn socket_address(ip: &Value, port: &Value) -> Result<SocketAddr, String> {
    let address = ip.as_str().and_then(|ip| ip.parse().ok());
    let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
    let both = address.zip(port).map(|(address, port): (IpAddr, u16)| SocketAddr::new(address, port));
    both.ok_or_else(|| format!("expected an address and a port, found {ip} and {port:?}"))
}

fn objects() -> Result<Vec<Value>, DemoError> {
    let mut objects = Vec::new();
    for (source, text) in MANIFESTS {
        let documents = manifest::parse(source, text).map_err(|error| Failure::refused(error.to_string()));
        objects.extend(documents.map_err(refused("reading the manifests"))?.into_iter().map(|document| document.value));
    }
    objects.iter_mut().for_each(add_ipv6);
    Ok(objects)
}

/// Gives a Pod the IPv6 address of its host, as the kubelet of a dual-stack cluster would report it.
fn add_ipv6(object: &mut Value) {
    let address = object["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
    let Some(IpNet::V6(beside)) = address.and_then(|address| v6_beside(address.into())) else { return };
    if let Some(all) = object["status"]["podIPs"].as_array_mut() {
        all.push(json!({"ip": beside.addr()}));
    }
}

/// A lab host has the name of the Pod whose address it has, so that servers have the names that `get pods` shows.
fn named_after_pods(mut plan: Vec<Segment>, objects: &[Value]) -> Vec<Segment> {
    for host in plan.iter_mut().flat_map(|segment| &mut segment.hosts) {
        let address = host.address.addr().to_string();
        let pod = objects.iter().find(|object| object["status"]["podIP"] == address.as_str());
        if let Some(name) = pod.and_then(|pod| pod["metadata"]["name"].as_str()) {
            name.clone_into(&mut host.name);
        }
    }
    plan
}

fn serve(network: &Network) -> std::io::Result<Vec<PodServers>> {
    let pods = network.hosts().iter().filter(|host| ![FRONTEND, OUTSIDE].contains(&host.namespace.name()));
    let serve = |host: &crate::lab::topology::Host| {
        let (namespace, name) = (&host.namespace, host.namespace.name());
        let v6 = host.address_v6.ok_or_else(|| std::io::Error::other(format!("{name} has no IPv6 address")))?;
        Ok(PodServers {
            name: name.to_owned(),
            address: host.address,
            tcp: Server::tcp(namespace, (host.address, TCP).into(), name)?,
            http: Server::http(namespace, (host.address, HTTP).into(), name)?,
            udp: Server::udp(namespace, (host.address, UDP).into(), name)?,
            tcp_v6: Server::tcp(namespace, (v6, TCP).into(), name)?,
        })
    };
    pods.map(serve).collect()
}

fn config(scratch: &Scratch) -> Result<Config, DemoError> {
    let config = Config::parse("the demo's gateway.yaml", CONFIG, Purpose::Run);
    let mut config = config.map_err(Failure::from).map_err(refused("reading the configuration"))?;
    let cpus = host::allowed_cpus().map_err(system("reading which CPUs this process may use"))?;
    // Two, to show flows that meet; one where two would only take turns.
    config.workers.count = std::num::NonZeroUsize::new(cpus.len().clamp(1, 2));
    config.api.socket = scratch.file("socket");
    config.api.state = scratch.file("state.db");
    Ok(config)
}

/// The network, one line per host.
fn picture(plan: &[Segment]) -> String {
    let mut rows = Vec::new();
    for segment in plan {
        for (at, host) in segment.hosts.iter().enumerate() {
            let (name, link) = if at == 0 { (segment.name.as_str(), "---- gateway") } else { ("", "") };
            rows.push(row([&host.name, &host.address.addr(), &"--+--", &name, &link]));
        }
    }
    table(&rows)
}

fn refused(doing: &'static str) -> impl FnOnce(Failure) -> DemoError {
    move |source| DemoError::Refused { doing, source }
}

fn timed<R>(work: impl FnOnce() -> R) -> (R, Duration) {
    let started = Instant::now();
    let done = work();
    (done, started.elapsed())
}

fn ms(time: Duration) -> String {
    format!("{:>5} ms", time.as_millis())
}

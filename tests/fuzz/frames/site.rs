//! The gateway of the frame target: two workers in memory, for both families, and what the checker has to know of its Services.
//!
//! ```text
//!   outside 192.168.50.0/24, 2001:db8:50::/64 ── eth0 [OUTSIDE] ┐
//!   (everything else is behind the routers .1 and ::1)          ├─ workers ◀─ tables ◀─ compiler ◀─ objects
//!   Pods 10.244.0.0/16, fd00:244::/64 ────────── eth1 [PODS] ───┘
//! ```
//!
//! The compiler stays from input to input; workers are new for each.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use pollgate::config::{Config, Purpose};
use pollgate_common::clients::Clients;
use pollgate_common::conflicts::Conflicts;
use pollgate_common::counters::{Counters, Totals};
use pollgate_common::epoch::Reader;
use pollgate_common::net::{Facts, Net, PortId};
use pollgate_common::reasons::DropReason;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::time::Instant;
use pollgate_control::cluster::{Cluster, Write};
use pollgate_control::compile::sink::TableSink;
use pollgate_control::compile::{Compiler, Options};
use pollgate_control::objects::{Kind, Object, manifest};
use pollgate_dataplane::affinity::Affinity;
use pollgate_dataplane::egress::mesh::Mesh;
use pollgate_dataplane::flow::Limits;
use pollgate_dataplane::port::Port;
use pollgate_dataplane::port::memory::{MemoryPort, Packet, Wire};
use pollgate_dataplane::steer::Steering;
use pollgate_dataplane::worker::{Parts, RESERVE, Worker};

use super::view::{Out, SCTP, TCP, UDP};

pub(super) const WORKERS: usize = 2;
pub(super) const OUTSIDE: usize = 0;
pub(super) const PODS: usize = 1;
/// The MACs of the interfaces, and the MTUs.
pub(super) const OWN: [[u8; 6]; 2] = [[2, 0xff, 0, 0, 0, 1], [2, 0xff, 0, 0, 0, 2]];
pub(super) const MTU: [usize; 2] = [1500, 1400];
/// The DNS port.
pub(super) const DNS: u16 = 53;

const START: Instant = Instant(1_000_000_000_000);

/// Most polls of one worker until it has nothing to do, for what one step of an input sends.
const MOST_POLLS: usize = 40;

/// Its configuration.
pub(in super::super) const CONFIG: &str = r#"
node: node-1
interfaces:
- name: eth0
  mac: "02:ff:00:00:00:01"
  mtu: 1500
  ip: [192.168.50.2/24, "2001:db8:50::2/64"]
  routes: [{to: 0.0.0.0/0, via: 192.168.50.1}, {to: "::/0", via: "2001:db8:50::1"}]
  neighbours: {192.168.50.1: "02:00:c0:a8:32:01", 192.168.50.100: "02:00:c0:a8:32:64", "2001:db8:50::1": "02:06:00:00:00:01", "2001:db8:50::100": "02:06:00:00:01:00"}
- name: eth1
  mac: "02:ff:00:00:00:02"
  mtu: 1400
  ip: [10.244.0.1/16, "fd00:244::1/64"]
  neighbours: {10.244.1.5: "02:00:0a:f4:01:05", 10.244.1.10: "02:00:0a:f4:01:0a", 10.244.1.11: "02:00:0a:f4:01:0b", 10.244.1.12: "02:00:0a:f4:01:0c", 10.244.1.13: "02:00:0a:f4:01:0d", "fd00:244::5": "02:06:00:00:00:05", "fd00:244::10": "02:06:00:00:00:10", "fd00:244::11": "02:06:00:00:00:11", "fd00:244::12": "02:06:00:00:00:12", "fd00:244::13": "02:06:00:00:00:13"}
cluster:
  loadBalancerPools: 203.0.113.0/24
  serviceCIDRs: [10.96.0.0/16, "fd00:96::/112"]
  podCIDRs: [10.244.0.0/16, "fd00:244::/64"]
addresses: [192.168.50.10, "2001:db8:50::10"]
dns: {address: [10.96.0.10, "fd00:96::a"]}
flows: {max: 512}
maglev: {tableSize: 251}
"#;

/// A Service of the site, as the checker knows it. The objects in [`objects`] say the same to the gateway.
pub(super) struct Service {
    name: &'static str,
    pub(super) protocol: u8,
    pub(super) port: u16,
    node_port: u16,
    target: u16,
    /// The last part of its ClusterIPs and external addresses, in both families.
    number: u8,
    has_load_balancer: bool,
    /// externalTrafficPolicy: Local.
    is_local: bool,
    more: &'static str,
    /// The last parts of its endpoints' addresses, in each state of the cluster.
    endpoints: [&'static [u8]; STATES],
}

/// States of the cluster.
pub(super) const STATES: usize = 3;

/// Endpoints .10 and .12 are on the gateway's node.
const ON_NODE: [u8; 2] = [0x10, 0x12];

pub(super) const SERVICES: [Service; 5] = [
    Service {
        name: "web",
        protocol: TCP,
        port: 80,
        node_port: 30080,
        target: 8080,
        number: 0x50,
        has_load_balancer: true,
        is_local: false,
        more: "",
        endpoints: [&[0x10, 0x11, 0x12], &[0x11, 0x12, 0x13], &[0x10, 0x11, 0x12]],
    },
    Service {
        name: "echo",
        protocol: UDP,
        port: 7,
        node_port: 30007,
        target: 7007,
        number: 0x60,
        has_load_balancer: false,
        is_local: false,
        more: ", sessionAffinity: ClientIP",
        endpoints: [&[0x10, 0x11], &[0x11, 0x13], &[]],
    },
    Service {
        name: "registry",
        protocol: SCTP,
        port: 2905,
        node_port: 30905,
        target: 3905,
        number: 0x70,
        has_load_balancer: false,
        is_local: false,
        more: "",
        endpoints: [&[0x10, 0x12], &[0x10, 0x12], &[0x13]],
    },
    Service {
        name: "none",
        protocol: TCP,
        port: 80,
        node_port: 30081,
        target: 80,
        number: 0x40,
        has_load_balancer: false,
        is_local: false,
        more: "",
        endpoints: [&[], &[], &[]],
    },
    Service {
        name: "near",
        protocol: UDP,
        port: 9,
        node_port: 30009,
        target: 9009,
        number: 0x90,
        has_load_balancer: false,
        is_local: true,
        more: ", externalTrafficPolicy: Local",
        endpoints: [&[0x10, 0x11], &[0x10, 0x11], &[0x11, 0x12]],
    },
];

/// The families: index 0 is IPv4, 1 is IPv6. The last part is written in decimal digits in IPv4, with the same digits in IPv6.
fn address([a, b, c]: [u8; 3], prefix: [u16; 4], number: u8, family: usize) -> IpAddr {
    if family == 1 {
        let [d, e, f, g] = prefix;
        return Ipv6Addr::new(d, e, f, g, 0, 0, 0, number.into()).into();
    }
    [a, b, c, (number >> 4) * 10 + (number & 15)].into()
}

pub(super) fn pod(number: u8, family: usize) -> IpAddr {
    address([10, 244, 1], [0xfd00, 0x244, 0, 0], number, family)
}

pub(super) fn gateway(family: usize) -> IpAddr {
    address([192, 168, 50], [0x2001, 0xdb8, 0x50, 0], 0x10, family)
}

fn cluster_ip(number: u8, family: usize) -> IpAddr {
    address([10, 96, 0], [0xfd00, 0x96, 0, 0], number, family)
}

pub(super) fn dns(family: usize) -> IpAddr {
    if family == 1 { cluster_ip(0xa, family) } else { cluster_ip(0x10, family) }
}

/// Hosts that are no Pods: on the link, and behind the router.
pub(super) fn outsiders(family: usize) -> [IpAddr; 2] {
    match family {
        0 => [[192, 168, 50, 100].into(), [198, 18, 0, 5].into()],
        _ => [[0x50, 0x100], [0x18, 5]].map(|[net, host]| Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host).into()),
    }
}

/// Where the gateway's hosts and Services are reached from: the interface, and the MAC there.
pub(super) fn link(address: IpAddr) -> (usize, [u8; 6]) {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [10, 244, c, d] => (PODS, [2, 0, 10, 244, c, d]),
            [192, 168, 50, d] => (OUTSIDE, [2, 0, 192, 168, 50, d]),
            _ => (OUTSIDE, [2, 0, 192, 168, 50, 1]),
        },
        IpAddr::V6(v6) => {
            let [.., high, low] = v6.octets();
            match v6.segments() {
                [0xfd00, 0x244, 0, 0, ..] => (PODS, [2, 6, 0, 0, high, low]),
                [0x2001, 0xdb8, 0x50, 0, ..] => (OUTSIDE, [2, 6, 0, 0, high, low]),
                _ => (OUTSIDE, [2, 6, 0, 0, 0, 1]),
            }
        }
    }
}

pub(super) fn is_pod(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..2] == [10, 244],
        IpAddr::V6(v6) => v6.segments()[..4] == [0xfd00, 0x244, 0, 0],
    }
}

/// A frontend: where a Service is reached.
#[derive(Clone, Copy)]
pub(super) struct Frontend {
    pub(super) at: SocketAddr,
    pub(super) service: &'static Service,
    is_internal: bool,
}

/// What a new flow gets.
pub(super) struct Expected {
    pub(super) backends: Vec<SocketAddr>,
    pub(super) is_translated: bool,
}

impl Frontend {
    /// All of them, of both families.
    pub(super) fn all() -> &'static [Frontend] {
        static ALL: LazyLock<Vec<Frontend>> = LazyLock::new(Frontend::list);
        &ALL
    }

    fn list() -> Vec<Frontend> {
        let mut all = Vec::new();
        for (service, family) in SERVICES.iter().flat_map(|service| [(service, 0), (service, 1)]) {
            let mut add = |address: IpAddr, port, is_internal| {
                all.push(Frontend { at: SocketAddr::new(address, port), service, is_internal });
            };
            add(cluster_ip(service.number, family), service.port, true);
            add(address([198, 51, 100], [0x2001, 0xdb8, 0x198, 0], service.number, family), service.port, false);
            add(gateway(family), service.node_port, false);
            if service.has_load_balancer && family == 0 {
                add([203, 0, 113, 7].into(), service.port, false);
            }
        }
        all
    }

    /// The rules of Kubernetes (as in the model of `tests/packets/model.rs`): which endpoints a client may get, and whether its source
    /// becomes the gateway's.
    pub(super) fn expected(&self, state: usize, client: IpAddr) -> Expected {
        let family = usize::from(self.at.is_ipv6());
        let is_pod = is_pod(client);
        let is_local = self.service.is_local && !self.is_internal;
        let numbers =
            self.service.endpoints[state].iter().filter(|number| !is_local || is_pod || ON_NODE.contains(number));
        let backends = numbers.map(|number| SocketAddr::new(pod(*number, family), self.service.target)).collect();
        let is_translated = if self.is_internal { !is_pod } else { !is_local };
        Expected { backends, is_translated }
    }
}

/// Addresses that the gateway owns.
pub(super) fn is_owned(address: IpAddr) -> bool {
    [0, 1].map(dns).contains(&address) || Frontend::all().iter().any(|frontend| frontend.at.ip() == address)
}

/// The YAML of the Services, with the endpoints of this state.
fn objects(state: usize) -> String {
    let mut text = String::new();
    for service in &SERVICES {
        let Service { name, port, node_port, target, number, more, .. } = service;
        let protocol = match service.protocol {
            TCP => "TCP",
            UDP => "UDP",
            _ => "SCTP",
        };
        let kind = if service.has_load_balancer { "LoadBalancer, loadBalancerIP: 203.0.113.7" } else { "NodePort" };
        text += &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: {kind}, clusterIP: 10.96.0.{number:x}, \
             clusterIPs: [10.96.0.{number:x}, \"fd00:96::{number:x}\"], ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], \
             externalIPs: [198.51.100.{number:x}, \"2001:db8:198::{number:x}\"], \
             ports: [{{port: {port}, protocol: {protocol}, targetPort: {target}, nodePort: {node_port}}}]{more}}}\n---\n"
        );
        for (family, kind) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let endpoint = |number: &u8| {
                let node = if ON_NODE.contains(number) { "node-1" } else { "node-2" };
                format!("{{addresses: [\"{}\"], nodeName: {node}}}", pod(*number, family))
            };
            let endpoints: Vec<String> = service.endpoints[state].iter().map(endpoint).collect();
            text += &format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {kind}\n\
                 metadata: {{name: {name}-{family}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
                 ports: [{{name: \"\", protocol: {protocol}, port: {target}}}]\nendpoints: [{}]\n---\n",
                endpoints.join(", ")
            );
        }
    }
    text
}

/// The control side.
pub(super) struct Site {
    config: Config,
    settings: Arc<DataplaneSettings>,
    counters: Arc<Counters>,
    compiler: Compiler,
    cluster: Cluster,
    reader: Reader,
    clients: Arc<Clients>,
    facts: Facts,
    nets: u64,
    state: usize,
    is_whole: bool,
}

impl Site {
    pub(super) fn new() -> Site {
        let config = Config::parse("gateway.yaml", CONFIG, Purpose::Replay).unwrap_or_else(|error| panic!("{error}"));
        let options = Options::from(&config);
        let settings = Arc::clone(&options.settings);
        let counters = Arc::new(Counters::new(WORKERS));
        let mut compiler = Compiler::new(options, Arc::clone(&counters));
        let facts = Facts::from(&config);
        compiler.network(Arc::new(Net::new(1, facts.clone())));
        let cluster = Cluster::new((&config).into());
        compiler.changed(&cluster, &cluster.all_of([Kind::Namespace]));
        compiler.loaded(true);
        let reader = compiler.source().reader();
        let clients = Arc::new(Clients::new(&settings.snat_ports));
        let mut site = Site {
            config,
            settings,
            counters,
            compiler,
            cluster,
            reader,
            clients,
            facts,
            nets: 1,
            state: 0,
            is_whole: true,
        };
        site.apply(0);
        site
    }

    /// Brings the cluster into this state.
    pub(super) fn become_state(&mut self, state: usize) {
        if state != self.state {
            self.apply(state);
        }
    }

    pub(super) fn state(&self) -> usize {
        self.state
    }

    fn apply(&mut self, state: usize) {
        let documents = manifest::parse("site.yaml", &objects(state)).expect("readable manifests");
        let object = |document: &manifest::Document| Object::from_value(&document.value, "default").expect("an object");
        let writes = documents.iter().map(|document| Write::Apply(object(document))).collect();
        let commit = self.cluster.plan(writes, jiff::Timestamp::UNIX_EPOCH).expect("valid objects");
        self.cluster.adopt(&commit);
        self.compiler.changed(&self.cluster, &commit.touched());
        self.compiler.publish();
        self.compiler.tick();
        self.state = state;
    }

    /// Whether the kernel knows the MAC of the endpoints .12.
    pub(super) fn know_neighbours(&mut self, all: bool) {
        if all == self.is_whole {
            return;
        }
        let mut facts = self.facts.clone();
        facts.neighbours.retain(|(_, address, _)| all || (0..2).all(|family| *address != pod(0x12, family)));
        self.nets += 1;
        self.compiler.network(Arc::new(Net::new(self.nets, facts)));
        self.compiler.publish();
        self.is_whole = all;
    }
}

/// What the counters have counted since the run began, and what waits now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) rx: u64,
    pub(super) rx_bytes: u64,
    pub(super) originated: u64,
    pub(super) tx: u64,
    pub(super) tx_bytes: u64,
    pub(super) passed: u64,
    pub(super) consumed: u64,
    pub(super) dropped: u64,
    pub(super) waiting: u64,
    /// Flows that have ended for whatever reason.
    pub(super) removed: u64,
}

impl Sums {
    fn of(now: &Totals, base: &Totals) -> Sums {
        Sums {
            rx: now.rx - base.rx,
            rx_bytes: now.rx_bytes - base.rx_bytes,
            originated: now.originated - base.originated,
            tx: now.tx - base.tx,
            tx_bytes: now.tx_bytes - base.tx_bytes,
            passed: now.passed() - base.passed(),
            consumed: now.consumed - base.consumed,
            dropped: now.dropped() - base.dropped(),
            waiting: now.waiting(),
            removed: removed(now) - removed(base),
        }
    }
}

fn removed(totals: &Totals) -> u64 {
    totals.flows_expired + totals.flows_evicted + totals.flows_displaced + totals.ports_taken_over
}

/// Workers that one input drives.
pub(super) struct Run<'a> {
    pub(super) site: &'a mut Site,
    workers: Vec<Worker>,
    wires: Vec<Vec<Wire>>,
    base: Totals,
    now: Instant,
}

impl<'a> Run<'a> {
    pub(super) fn new(site: &'a mut Site) -> Run<'a> {
        site.become_state(0);
        site.know_neighbours(true);
        let mesh = Arc::new(Mesh::new((0..WORKERS).map(|_| None).collect(), RESERVE));
        let affinity = Arc::new(Affinity::new(64, [9, 10, 11, 12]).expect("memory"));
        let limits = Limits::from(&site.config).share(WORKERS);
        let (mut workers, mut wires) = (Vec::new(), Vec::new());
        for worker in 0..WORKERS {
            let (ports, ends) = (0..OWN.len()).map(port).unzip();
            let parts = Parts {
                worker: u16::try_from(worker).expect("few"),
                ports,
                mesh: Arc::clone(&mesh),
                steering: Steering::new(u16::try_from(WORKERS).expect("few"), [1, 2, 3, 4]),
                limits,
                settings: Arc::clone(&site.settings),
                counters: Arc::clone(&site.counters),
                affinity: Arc::clone(&affinity),
                conflicts: Arc::new(Conflicts::default()),
                mailbox: Arc::default(),
                exchange: Arc::default(),
                ask: Box::new(|_| {}),
                dns_rate: site.config.dns.responses_per_second,
                resolver: None,
                dns_clients: Arc::clone(&site.clients),
                seeds: [5, 6, 7, 8 + worker as u64],
            };
            workers.push(Worker::new(parts).expect("memory for a small flow table"));
            wires.push(ends);
        }
        let mut run = Run { site, workers, wires, base: Totals::default(), now: START };
        run.poll();
        run.base = run.site.counters.totals();
        run
    }

    /// Gives a frame to a worker's port.
    pub(super) fn push(&mut self, worker: usize, port: usize, packet: Packet) {
        self.wires[worker][port].push(packet);
    }

    /// Lets time pass.
    pub(super) fn wait(&mut self, milliseconds: u64) {
        self.now = self.now.plus(std::time::Duration::from_millis(milliseconds));
    }

    /// Polls the workers until none has anything to do, and returns what has left.
    ///
    /// # Panics
    /// If that takes more polls than the work of one step needs.
    pub(super) fn poll(&mut self) -> Vec<Out> {
        for _ in 0..MOST_POLLS {
            let pin = self.site.reader.pin();
            let tables = pin.load();
            let taken: usize = self.workers.iter_mut().map(|worker| worker.poll(tables, self.now)).sum();
            if taken == 0 {
                return self.out();
            }
        }
        panic!("after {MOST_POLLS} polls the workers are still busy");
    }

    fn out(&self) -> Vec<Out> {
        let ends = self.wires.iter().flat_map(|ends| ends.iter().enumerate());
        ends.flat_map(|(port, end)| std::iter::from_fn(|| end.pop()).map(move |packet| Out { port, packet })).collect()
    }

    pub(super) fn sums(&self) -> Sums {
        Sums::of(&self.site.counters.totals(), &self.base)
    }

    /// The reasons of drops since the run began, for a message.
    pub(super) fn drops(&self) -> Vec<(&'static str, u64)> {
        let totals = self.site.counters.totals();
        let count = |reason: &DropReason| totals.drops_of(*reason) - self.base.drops_of(*reason);
        DropReason::ALL.iter().map(|reason| (reason.name(), count(reason))).filter(|(_, count)| *count > 0).collect()
    }
}

fn port(at: usize) -> (Box<dyn Port>, Wire) {
    let (port, wire) = MemoryPort::new(PortId(u16::try_from(at).expect("few ports")));
    (Box::new(port), wire)
}

//! A whole gateway in memory: workers, tables and a cluster behind them, driven by hand in virtual time.
//!
//! ```text
//!   outside 192.168.50.0/24 ── eth0 [OUTSIDE] ┐
//!   (router .1, everything else behind it)    ├─ workers ◀─ tables ◀─ compiler ◀─ cluster ◀─ YAML
//!   Pods 10.244.0.0/16 ─────── eth1 [PODS] ───┤
//!   the host 169.254.112.1 ─── pg-data [HOST] ┘ (only with the host pair)
//! ```
//!
//! A test says what it sends, what it expects, and what the counters must be: all of them, named or not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::queue::SegQueue;
use pollgate::config::{Config, Purpose};
use pollgate_common::clients::Clients;
use pollgate_common::conflicts::{Claim, Conflicts};
use pollgate_common::counters::{Counters, Totals};
use pollgate_common::dns::forward::{Reply, Request, Requests};
use pollgate_common::dns::message::EDNS_SIZE;
use pollgate_common::net::{Facts, NeighbourQuery, Net, PortId};
use pollgate_common::pair;
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_common::time::Instant;
use pollgate_common::trace::{PacketTrace, TracedPacket};
use pollgate_control::cluster::{Cluster, Write};
use pollgate_control::compile::local::{LocalService, LocalServices};
use pollgate_control::compile::resolve::Family;
use pollgate_control::compile::sink::TableSink;
use pollgate_control::compile::{Compiler, Options};
use pollgate_control::objects::manifest;
use pollgate_control::objects::{Key, Kind, Object};
use pollgate_control::observe::stats::{self, ServiceValues};
use pollgate_dataplane::affinity::Affinity;
use pollgate_dataplane::egress::exchange::{Change, Exchange};
use pollgate_dataplane::egress::mesh::Mesh;
use pollgate_dataplane::flow::Limits;
use pollgate_dataplane::port::memory::{MemoryPort, Packet, Wire};
use pollgate_dataplane::port::{BURST, Port};
use pollgate_dataplane::steer::Steering;
use pollgate_dataplane::worker::{Parts, RESERVE, Worker};

use super::builder::{MacBytes, Sendable, ip, link_mac};
use super::family::{wire_facts, wire_yaml, written};
use super::seen::Seen;

/// The port towards clients outside the cluster.
pub(crate) const OUTSIDE: usize = 0;
/// The port towards the Pods.
pub(crate) const PODS: usize = 1;
/// The port towards the host, in a lab that has the host pair.
pub(crate) const HOST: usize = 2;
/// The MACs of the interfaces.
pub(crate) const OWN: [MacBytes; 3] = [[2, 0xff, 0, 0, 0, 1], [2, 0xff, 0, 0, 0, 2], pair::DATA_MAC.0];
/// The gateway's address.
pub(crate) const GATEWAY: &str = "192.168.50.10";
/// When tests begin: some time after the origin, so that "long ago" exists.
const START: Instant = Instant(1_000_000_000_000);

/// Puts something else in the place of a memory port.
pub(crate) type Wrap = Box<dyn Fn(usize, MemoryPort) -> Box<dyn Port>>;

/// How a lab differs from the plain one.
pub(crate) struct Setup {
    /// Further configuration, YAML.
    pub(crate) config: String,
    /// Workers.
    pub(crate) workers: u16,
    /// Whether there is a host pair.
    pub(crate) pair: bool,
    /// What each port is.
    pub(crate) wrap: Wrap,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { config: String::new(), workers: 1, pair: false, wrap: Box::new(|_, port| Box::new(port)) }
    }
}

/// A gateway in memory, with one wire per worker and port.
pub(crate) struct Lab {
    workers: Vec<Worker>,
    /// By worker, then port.
    wires: Vec<Vec<Wire>>,
    compiler: Compiler,
    cluster: Cluster,
    counters: Arc<Counters>,
    asked: Arc<SegQueue<NeighbourQuery>>,
    conflicts: Arc<Conflicts>,
    dns_clients: Arc<Clients>,
    resolver: Arc<Requests>,
    mesh: Arc<Mesh>,
    /// By which the first worker's ports are replaced.
    exchange: Arc<Exchange>,
    /// As the test writes it.
    facts: Facts,
    net_generation: u64,
    now: Instant,
    sent_bytes: u64,
    seen_bytes: u64,
    bursts: u64,
    polls: u64,
}

impl Lab {
    /// One worker, plain configuration, these objects.
    pub(crate) fn new(manifests: &str) -> Lab {
        Lab::with(Setup::default(), manifests)
    }

    /// With further configuration.
    pub(crate) fn configured(config: &str, manifests: &str) -> Lab {
        Lab::with(Setup { config: config.to_owned(), ..Setup::default() }, manifests)
    }

    /// With the host pair and further configuration.
    pub(crate) fn with_pair(config: &str, manifests: &str) -> Lab {
        Lab::with(Setup { config: config.to_owned(), pair: true, ..Setup::default() }, manifests)
    }

    /// As `setup` says.
    pub(crate) fn with(setup: Setup, manifests: &str) -> Lab {
        let written = configuration(&setup.config, setup.pair);
        let config = parse(&wire_yaml(&written));
        let options = Options::from(&config);
        let settings = Arc::clone(&options.settings);
        let forward = options.dns.forward.clone();
        let counters = Arc::new(Counters::new(usize::from(setup.workers)));
        let mut compiler = Compiler::new(options, Arc::clone(&counters));
        if setup.pair {
            compiler.serve_locally(Box::new(Listeners));
            compiler.publish_own(config.health.port);
        }
        let facts = Facts::from(&parse(&written));
        compiler.network(Arc::new(Net::new(1, wire_facts(&facts))));
        let mesh = Arc::new(Mesh::new((0..setup.workers).map(|_| None).collect(), RESERVE));
        let steering = Steering::new(setup.workers, [1, 2, 3, 4]);
        let affinity = Arc::new(Affinity::new(config.flows.affinity, [9, 10, 11, 12]).expect("memory"));
        let resolver = Arc::new(Requests::new(Box::new(|| {})));
        let dns_clients = Arc::new(Clients::new(&settings.snat_ports));
        let (asked, conflicts) = (Arc::new(SegQueue::new()), Arc::new(Conflicts::default()));
        let exchanges: Vec<Arc<Exchange>> = (0..setup.workers).map(|_| Arc::default()).collect();
        let (mut workers, mut wires) = (Vec::new(), Vec::new());
        for worker in 0..setup.workers {
            let (ports, ends) = ports(&setup.wrap, if setup.pair { 3 } else { 2 });
            let asked = Arc::clone(&asked);
            let parts = Parts {
                worker,
                ports,
                mesh: Arc::clone(&mesh),
                steering: steering.clone(),
                limits: Limits::from(&config).share(usize::from(setup.workers)),
                settings: Arc::clone(&settings),
                counters: Arc::clone(&counters),
                affinity: Arc::clone(&affinity),
                conflicts: Arc::clone(&conflicts),
                mailbox: Arc::default(),
                exchange: Arc::clone(&exchanges[usize::from(worker)]),
                ask: Box::new(move |query| asked.push(query)),
                dns_rate: config.dns.responses_per_second,
                resolver: (!forward.is_empty()).then(|| Arc::clone(&resolver)),
                dns_clients: Arc::clone(&dns_clients),
                seeds: [5, 6, 7, 8 + u64::from(worker)],
            };
            workers.push(Worker::new(parts).expect("memory for a small flow table"));
            wires.push(ends);
        }
        let cluster = Cluster::new((&config).into());
        compiler.changed(&cluster, &cluster.all_of([Kind::Namespace]));
        compiler.loaded(true);
        let mut lab = Lab {
            workers,
            wires,
            compiler,
            cluster,
            counters,
            asked,
            conflicts,
            dns_clients,
            resolver,
            mesh,
            exchange: Arc::clone(&exchanges[0]),
            facts,
            net_generation: 1,
            now: START,
            sent_bytes: 0,
            seen_bytes: 0,
            bursts: 0,
            polls: 0,
        };
        lab.apply(manifests);
        lab.run();
        lab
    }

    // What happens to the cluster and the network.

    /// Applies objects, all or none.
    pub(crate) fn apply(&mut self, manifests: &str) {
        let documents = manifest::parse("test.yaml", &wire_yaml(manifests)).expect("readable manifests");
        let object = |document: &manifest::Document| Object::from_value(&document.value, "default").expect("an object");
        self.write(documents.iter().map(|document| Write::Apply(object(document))).collect());
    }

    /// Deletes an object of namespace `default`.
    pub(crate) fn delete(&mut self, kind: Kind, name: &str) {
        self.write(vec![Write::delete(Key::new(kind, "default", name))]);
    }

    fn write(&mut self, writes: Vec<Write>) {
        let commit = self.cluster.plan(writes, jiff::Timestamp::UNIX_EPOCH).expect("valid objects");
        self.cluster.adopt(&commit);
        self.compiler.changed(&self.cluster, &commit.touched());
        self.compiler.publish();
        self.compiler.tick();
    }

    /// Has the kernel say something else of the network.
    pub(crate) fn network(&mut self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts);
        self.net_generation += 1;
        self.compiler.network(Arc::new(Net::new(self.net_generation, wire_facts(&self.facts))));
        self.run();
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, span: Duration) {
        self.now = self.now.plus(span);
        self.run();
    }

    /// Moves the clock without a poll: the workers slept, and wake up with the next packet.
    pub(crate) fn jump(&mut self, span: Duration) {
        self.now = self.now.plus(span);
    }

    /// What the workers asked the kernel for since the last call.
    pub(crate) fn asked(&self) -> Vec<IpAddr> {
        std::iter::from_fn(|| self.asked.pop()).map(|query| written(query.address).into()).collect()
    }

    /// The use of owned addresses by other hosts that the workers reported since the last call: address, MAC address, port, and
    /// how far it has come.
    pub(crate) fn conflicts(&self) -> Vec<(IpAddr, MacBytes, usize, Claim)> {
        let reports = std::iter::from_fn(|| self.conflicts.take());
        reports.map(|it| (written(it.address).into(), it.mac.0, usize::from(it.port.0), it.claim)).collect()
    }

    /// The client that a worker has noted for this source port of the host pair.
    pub(crate) fn dns_client(&self, port: u16) -> Option<IpAddr> {
        let is_ipv4 = super::family::wire(Ipv4Addr::UNSPECIFIED).is_ipv4();
        self.dns_clients.of_port(port, is_ipv4).map(|client| written(client).into())
    }

    /// The DNS query that a worker gave the resolver first of those not looked at, if there is one.
    pub(crate) fn forwarded(&self) -> Option<Request> {
        self.resolver.pop()
    }

    /// Who sent it.
    pub(crate) fn client_of(&self, request: &Request) -> String {
        written(request.client).to_string()
    }

    /// Has the resolver respond to such a query with this message.
    pub(crate) fn resolve(&mut self, request: &Request, message: &[u8]) {
        let mut reply = Reply { way: request.way, message: [0; EDNS_SIZE as usize], len: message.len() };
        reply.message[..message.len()].copy_from_slice(message);
        assert!(self.mesh.reply(request.worker, reply), "there is room");
        // A response is no burst of frames.
        let bursts = self.bursts;
        self.run();
        self.bursts = bursts;
    }

    /// Has the first worker close a port.
    pub(crate) fn close(&mut self, port: usize) {
        self.exchange.request(port_id(port), Change::Close(Box::default()));
        self.run();
    }

    /// Has it put a new port into the place of a closed one.
    pub(crate) fn open(&mut self, port: usize) {
        let (opened, wire) = MemoryPort::new(port_id(port));
        self.wires[0][port] = wire;
        self.exchange.request(port_id(port), Change::Open(Box::new(opened)));
        self.run();
    }

    /// Whether a port has left the first worker since the last call. It holds no frame, and none of its frames is held.
    pub(crate) fn has_returned(&self) -> bool {
        self.exchange.returned().is_some_and(|(_, port)| port.is_idle())
    }

    // Packets.

    /// Sends a packet to an interface and lets the gateway work on it.
    pub(crate) fn send(&mut self, port: usize, packet: impl Sendable) {
        self.send_all(port, [packet]);
    }

    /// Sends many at once.
    pub(crate) fn send_all<S: Sendable>(&mut self, port: usize, packets: impl IntoIterator<Item = S>) {
        for packet in packets {
            self.push(0, port, packet);
        }
        self.run();
    }

    /// Gives a packet to one worker's port, to be seen by the next [`Lab::run`].
    pub(crate) fn push(&mut self, worker: usize, port: usize, packet: impl Sendable) {
        let packet = packet.frame(OWN[port]);
        self.sent_bytes += packet.bytes.len() as u64;
        self.wires[worker][port].push(packet);
    }

    /// Polls all workers until none has anything to do.
    pub(crate) fn run(&mut self) {
        while (0..self.workers.len()).map(|worker| self.poll(worker)).sum::<usize>() > 0 {}
    }

    /// Polls one worker once; answers how many frames it took.
    pub(crate) fn poll(&mut self, worker: usize) -> usize {
        let reader = self.compiler.source().reader();
        let taken = self.workers[worker].poll(reader.pin().load(), self.now);
        self.bursts += taken.div_ceil(BURST) as u64;
        self.polls += 1;
        taken
    }

    /// The frame that was sent first of those not looked at, if there is one.
    pub(crate) fn pop(&mut self, port: usize) -> Option<Packet> {
        let packet = self.wires.iter().find_map(|ends| ends[port].pop())?;
        self.seen_bytes += packet.bytes.len() as u64;
        Some(packet)
    }

    /// The next packet out of an interface: sound, from the interface's MAC, to the MAC of its next hop.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn expect(&mut self, port: usize) -> Seen {
        let packet =
            self.pop(port).unwrap_or_else(|| panic!("nothing left on port {port}; counters: {:?}", self.nonzero()));
        let seen = Seen::read(packet);
        assert_eq!(seen.from, OWN[port], "source MAC of {seen}");
        assert_eq!(seen.to, link_mac(seen.ip.destination), "destination MAC of {seen}");
        seen
    }

    /// Sends a packet to one interface and expects it out of another.
    pub(crate) fn through(&mut self, port: usize, packet: impl Sendable, out: usize) -> Seen {
        self.send(port, packet);
        self.expect(out)
    }

    /// All packets out of an interface not looked at yet.
    pub(crate) fn take(&mut self, port: usize) -> Vec<Seen> {
        std::iter::from_fn(|| self.pop(port)).map(Seen::read).collect()
    }

    /// What the worker that has the packet's flow, or would open it, would do with it.
    pub(crate) fn trace(&self, packet: &TracedPacket) -> PacketTrace {
        let reader = self.compiler.source().reader();
        let pin = reader.pin();
        let ask = |worker: usize| self.workers[worker].trace(packet, pin.load(), self.now);
        let first = ask(0);
        if first.owner == first.worker { first } else { ask(first.owner.into()) }
    }

    // Counters.

    /// The sums over all workers.
    pub(crate) fn totals(&self) -> Totals {
        self.counters.totals()
    }

    /// One worker's own.
    pub(crate) fn totals_of(&self, worker: usize) -> Totals {
        let mut totals = Totals::default();
        self.counters.worker(worker).add_to(&mut totals);
        totals
    }

    /// What the Service port has carried: packets, flows.
    pub(crate) fn carried(&self, name: &str) -> (u64, u64) {
        let carried = self.service(name).all;
        (carried.packets, carried.flows)
    }

    /// What the Service port has carried, and by which endpoints.
    pub(crate) fn service(&self, name: &str) -> ServiceValues {
        let reader = self.compiler.source().reader();
        let mut all = stats::services(&self.counters, reader.pin().load());
        all.remove(name).unwrap_or_else(|| panic!("{name} is not in {all:?}"))
    }

    fn nonzero(&self) -> BTreeMap<&'static str, u64> {
        counts(&self.totals()).into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Asserts the whole state: counters named here have these values, all others are zero; the frames add up; bytes,
    /// polls, bursts and generation are what the lab knows them to be; and nothing has left that the test did not look at.
    pub(crate) fn counters(&mut self, expected: &[(&str, u64)]) {
        for port in 0..self.wires[0].len() {
            if let Some(packet) = self.pop(port) {
                panic!("left by port {port} and was not expected: {}", Seen::read(packet));
            }
        }
        let totals = self.totals();
        let known: BTreeSet<&str> = counts(&totals).into_keys().collect();
        expected.iter().for_each(|(name, _)| assert!(known.contains(name), "there is no counter {name}"));
        let expected: BTreeMap<&str, u64> = expected.iter().copied().filter(|(_, count)| *count > 0).collect();
        assert_eq!(self.nonzero(), expected);
        self.balance();
        assert_eq!((totals.rx_bytes, totals.tx_bytes), (self.sent_bytes, self.seen_bytes), "bytes in, bytes out");
        assert_eq!(totals.polls, self.polls, "polls");
        let generation = self.compiler.generation() * self.workers.len() as u64;
        assert_eq!(totals.generation, generation, "generation, summed over the workers");
        if self.workers.len() == 1 {
            assert_eq!(totals.bursts, self.bursts, "bursts");
        }
    }

    /// Asserts that every frame that came to be is accounted for.
    pub(crate) fn balance(&self) {
        let (came, accounted) = self.totals().balance();
        assert_eq!(came, accounted, "frames that came, frames accounted for: {:?}", self.nonzero());
    }
}

/// Where the listeners of local services would be: the gateway's health at 9000, health checks at 9001, DNS at 9053 of the host.
struct Listeners;

impl LocalServices for Listeners {
    fn listen(&mut self, service: &LocalService) -> std::io::Result<SocketAddr> {
        let port = match service {
            LocalService::Proxy { .. } => 9000,
            LocalService::HealthCheck { .. } => 9001,
            LocalService::Dns { .. } => 9053,
        };
        Ok(SocketAddr::new(pair::HOST_ADDRESSES[usize::from(service.family() == Family::V6)], port))
    }

    fn close(&mut self, _service: &LocalService) {}

    fn report(&mut self, _service: &LocalService, _ready: usize) {}
}

/// Whatever a test asserts, in the end every frame is accounted for.
impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.balance();
        }
    }
}

/// Every counter by name, except those [`Lab::counters`] knows itself.
fn counts(totals: &Totals) -> BTreeMap<&'static str, u64> {
    const KNOWN: [&str; 5] = ["rx_bytes", "tx_bytes", "bursts", "polls", "generation"];
    let counters =
        totals.counters().map(|(counter, count)| (counter.name, count)).filter(|(name, _)| !KNOWN.contains(name));
    let drops = DropReason::ALL.iter().map(|&reason| (reason.name(), totals.drops_of(reason)));
    let passes = PassReason::ALL.iter().map(|&reason| (reason.name(), totals.passes_of(reason)));
    counters.chain(drops).chain(passes).collect()
}

fn port_id(at: usize) -> PortId {
    PortId(u16::try_from(at).expect("few ports"))
}

fn ports(wrap: &Wrap, count: usize) -> (Vec<Box<dyn Port>>, Vec<Wire>) {
    let port = |at: usize| {
        let (port, wire) = MemoryPort::new(port_id(at));
        (wrap(at, port), wire)
    };
    (0..count).map(port).unzip()
}

/// The hosts whose MACs the kernel knows.
fn neighbours(addresses: &[Ipv4Addr]) -> String {
    let entry = |address: &Ipv4Addr| format!("{address}: \"{}\"", text(link_mac(*address)));
    addresses.iter().map(entry).collect::<Vec<_>>().join(", ")
}

fn text(mac: MacBytes) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn configuration(more: &str, has_pair: bool) -> String {
    let outside: Vec<Ipv4Addr> = [1, 100, 101].map(|host| Ipv4Addr::new(192, 168, 50, host)).to_vec();
    let pods: Vec<Ipv4Addr> = (1..=50).map(|host| Ipv4Addr::new(10, 244, 1, host)).chain([ip("10.244.2.15")]).collect();
    let addresses = if more.contains("addresses:") { String::new() } else { format!("addresses: [{GATEWAY}]\n") };
    // The rest of a line that says more of the cluster.
    let (cluster, more) = match more.strip_prefix("cluster") {
        Some(line) => line.split_once('\n').unwrap_or((line, "")),
        None => ("", more),
    };
    let flows = if more.contains("flows:") { "" } else { "flows: {max: 4096}\n" };
    let dns = if more.contains("dns:") { "" } else { "dns: {address: 10.96.0.10}\n" };
    format!(
        "interfaces:\n\
         - {{name: eth0, mac: \"{}\", ip: 192.168.50.2/24, neighbours: {{{}}}, routes: [{{to: default, via: 192.168.50.1}}]}}\n\
         - {{name: eth1, mac: \"{}\", ip: 10.244.0.1/16, neighbours: {{{}}}}}\n{}\
         cluster: {{loadBalancerPools: 203.0.113.0/24, serviceCIDRs: 10.96.0.0/16, podCIDRs: 10.244.0.0/16{cluster}}}\n\
         {addresses}{flows}{dns}{more}",
        text(OWN[0]),
        neighbours(&outside),
        text(OWN[1]),
        neighbours(&pods),
        if has_pair { format!("- {{name: {}, mac: \"{}\"}}\n", pair::DATA, pair::DATA_MAC) } else { String::new() },
    )
}

fn parse(yaml: &str) -> Config {
    Config::parse("gateway.yaml", yaml, Purpose::Replay).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

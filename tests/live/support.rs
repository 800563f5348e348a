//! The site every test works on, and what is asked of it again and again.
//!
//! ```text
//!   frontend-app 10.244.1.5  ┐                               ┌ backend-2  10.244.2.15
//!   backend-1    10.244.1.10 ┤ node-1 ── gateway ── node-2 ──┤ backend-v2 10.244.2.22
//!   frontend-2   10.244.1.20 ┘              │                └
//!                                        outside ── outside-client 192.168.50.100
//! ```
//!
//! Every Pod runs the servers, also those that no Service selects: a packet that goes astray is answered, by the wrong
//! name, and not merely lost.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Parser;
use pollgate::cli::client::Client;
use pollgate::cli::{Cli, Command, Failure};
use pollgate::config::{Config, Purpose};
use pollgate::gateway::Gateway;
use pollgate::lab::Namespace;
use pollgate::lab::topology::{Host, Network, guide};
use pollgate::lab::traffic::{Server, connect, greeting};
use pollgate_common::counters::{Totals, WorkerCounters};
use pollgate_common::net::{Net, PortId};
use pollgate_common::reasons::DropReason as Reason;
use pollgate_control::api::APPLY_PATH;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use crate::shared::PATIENCE;
use crate::shared::until;

/// For what should never happen.
pub(crate) const SHORT: Duration = Duration::from_millis(500);

pub(crate) const GATEWAY: &str = "192.168.50.10";
pub(crate) const CLUSTER_IP: &str = "10.96.0.50:8080";
pub(crate) const NODE_PORT: &str = "192.168.50.10:30081";
pub(crate) const LOAD_BALANCER: &str = "192.168.50.200:80";
pub(crate) const DNS: &str = "10.96.0.10:53";
/// ClusterIP of the Service `udp`: 7000 over UDP, 7001 over TCP, node ports 30700 and 30701.
pub(crate) const UDP: &str = "10.96.0.60:7000";

pub(crate) const PODS: [&str; 5] = ["frontend-app", "backend-1", "frontend-2", "backend-2", "backend-v2"];
/// The Pods that the Services select.
pub(crate) const BACKENDS: [&str; 2] = ["backend-1", "backend-2"];

const UDP_SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: udp }
spec:
  type: NodePort
  clusterIP: 10.96.0.60
  selector: { app: backend, version: v1 }
  ports:
    - { name: echo, protocol: UDP, port: 7000, targetPort: 7000, nodePort: 30700 }
    - { name: bulk, protocol: TCP, port: 7001, targetPort: 8080, nodePort: 30701 }
---
apiVersion: v1
kind: Service
metadata: { name: nobody }
spec:
  clusterIP: 10.96.0.70
  selector: { app: nobody }
  ports: [{ port: 80 }]
"#;

/// The guide's network with a gateway of two workers in it, its objects applied and its servers running.
pub(crate) struct Site {
    // Stopped first; its threads belong to the network.
    gateway: Option<Gateway>,
    servers: Mutex<Vec<Server>>,
    pub(crate) network: Network,
    directory: TempDir,
}

impl Site {
    pub(crate) fn new() -> Site {
        Site::on(Network::new(&guide(), 1).expect("a network"))
    }

    /// With a gateway that knows no host yet: the first frame to each waits for its MAC address.
    pub(crate) fn unresolved() -> Site {
        Site::configured(Network::new(&guide(), 1).expect("a network"), |text| text)
    }

    /// On a network that the test has prepared.
    pub(crate) fn on(network: Network) -> Site {
        Site::polled_by("auto", network)
    }

    /// With every interface polled by this kind of port.
    pub(crate) fn polled_by(backend: &str, network: Network) -> Site {
        let site =
            Site::configured(network, |text| text.replace("{ name: ", &format!("{{ backend: {backend}, name: ")));
        site.resolve_neighbours();
        site
    }

    /// With what `change` makes of the configuration's text, and unresolved. Names outside the cluster are refused unless it says
    /// something of DNS.
    pub(crate) fn configured(network: Network, change: impl FnOnce(String) -> String) -> Site {
        let directory = TempDir::new().expect("a directory");
        let mut text = change(configuration(directory.path(), ""));
        if !text.contains("dns:") {
            text.push_str("dns: { upstreams: [] }\n");
        }
        let config = Config::parse("gateway.yaml", &text, Purpose::Run).expect("a config");
        let stop = Arc::new(AtomicBool::new(false));
        let gateway = network.gateway().run(|| Gateway::start(&config, stop)).expect("a running gateway");
        let servers = Mutex::new(servers(&network));
        let site = Site { gateway: Some(gateway), servers, network, directory };
        site.apply(&guide_manifest());
        site.apply(UDP_SERVICE);
        site
    }

    /// Waits until the gateway knows the MAC address of every host. On a busy machine that may take longer than frames wait
    /// for it, and a frame that is dropped would be counted.
    pub(crate) fn resolve_neighbours(&self) {
        let addresses = self.network.hosts().iter().flat_map(|host| [Some(host.address), host.address_v6]);
        for address in &addresses.flatten().collect::<Vec<_>>() {
            ping(self.network.gateway(), *address, PATIENCE).expect("the host's kernel answers the gateway's");
            until("the gateway knows the host", || self.net().next_hop(*address).is_ok());
        }
    }

    /// The network as the workers see it.
    fn net(&self) -> Arc<Net> {
        Arc::clone(self.gateway().source().reader().pin().load().net())
    }

    /// Whether the workers take a link for up.
    pub(crate) fn is_up(&self, port: PortId) -> bool {
        self.net().port_link(port).is_some_and(|link| link.up)
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("it is only taken by drop")
    }

    pub(crate) fn host(&self, name: &str) -> &Namespace {
        &self.network.host(name).namespace
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.socket()).expect("a client")
    }

    /// Stops the servers of a Pod, and starts them again if `run`.
    pub(crate) fn serve(&self, name: &str, run: bool) {
        let address = self.network.host(name).address;
        let mut servers = self.servers.lock().expect("not poisoned");
        servers.retain(|server| server.address().ip() != address);
        if run {
            servers.extend(servers_of(&self.network, name));
        }
    }

    /// Where the gateway listens.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(self.directory.path())
    }

    /// Applies a manifest with the command line's own function.
    pub(crate) fn apply(&self, manifest: &str) {
        let file = self.directory.path().join("manifest.yaml");
        fs::write(&file, manifest).expect("the manifest written");
        self.cli(&["apply", "-f", &file.display().to_string()]).expect("applied");
    }

    /// A command of `pollgate`, in this process; what it printed.
    pub(crate) fn cli(&self, words: &[&str]) -> Result<String, Failure> {
        let socket = self.socket().display().to_string();
        let line = [&["pollgate"], words, &["--socket", &socket]].concat();
        let Command::Client(command) = Cli::try_parse_from(line).expect("a command line").command else {
            panic!("{words:?} is no client's command");
        };
        let mut printed = Vec::new();
        command.run(&mut printed)?;
        Ok(String::from_utf8(printed).expect("text"))
    }

    /// The counters once nothing moves any more: they must balance then, and name no drop but the `expected` ones.
    pub(crate) fn at_rest(&self, expected: &[Reason]) -> Totals {
        let totals = self.balanced(expected);
        assert_eq!(totals.missed, 0, "frames were lost before they were seen");
        totals
    }

    /// The same, but frames may have been lost before they were seen.
    pub(crate) fn balanced(&self, expected: &[Reason]) -> Totals {
        let deadline = Instant::now() + PATIENCE;
        let mut totals = self.gateway().counters().totals();
        loop {
            thread::sleep(Duration::from_millis(100));
            let now = self.gateway().counters().totals();
            let (came, went) = now.balance();
            if (now.rx, now.tx, came) == (totals.rx, totals.tx, went) && now.waiting() == 0 {
                break;
            }
            assert!(Instant::now() < deadline, "the counters do not come to rest: {came} came, {went} went; {now:?}");
            totals = now;
        }
        let totals = self.gateway().counters().totals();
        let drops = Reason::ALL.iter().filter(|reason| totals.drops_of(**reason) > 0 && !expected.contains(reason));
        let told: Vec<_> = drops.map(|&reason| (reason.name(), totals.drops_of(reason))).collect();
        assert!(told.is_empty(), "frames were dropped that should not: {told:?}");
        totals
    }

    /// One number of each worker.
    pub(crate) fn by_worker(&self, number: impl Fn(&WorkerCounters) -> u64) -> Vec<u64> {
        self.gateway().counters().workers().map(number).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.stop();
        }
    }
}

/// The text of a configuration for the guide's network, state and socket in `directory`.
pub(crate) fn configuration(directory: &Path, more: &str) -> String {
    let (socket, state) = (socket(directory), directory.join("state.db"));
    format!(
        "interfaces: [{{ name: node-1 }}, {{ name: node-2 }}, {{ name: outside }}]\n\
         addresses: [{GATEWAY}]\n\
         cluster: {{ loadBalancerPools: [192.168.50.200-192.168.50.209] }}\n\
         workers: {{ count: 2 }}\n\
         flows: {{ max: 65536 }}\n\
         api: {{ socket: {}, state: {} }}\n{more}",
        socket.display(),
        state.display()
    )
}

pub(crate) fn socket(directory: &Path) -> PathBuf {
    directory.join("api.sock")
}

/// What the gateway answers at a path: the code and the text.
pub(crate) fn asked(socket: &Path, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code"), body.to_owned())
}

/// The example's own manifest.
pub(crate) fn guide_manifest() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/guide.yaml");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The servers of all Pods: TCP at 8080, HTTP at 80, UDP at 7000.
pub(crate) fn servers(network: &Network) -> Vec<Server> {
    PODS.iter().flat_map(|name| servers_of(network, name)).collect()
}

fn servers_of(network: &Network, name: &str) -> [Server; 3] {
    let Host { namespace, address, .. } = network.host(name);
    let at = |port| SocketAddr::new(*address, port);
    [
        Server::tcp(namespace, at(8080), name).expect("a TCP server"),
        Server::http(namespace, at(80), name).expect("an HTTP server"),
        Server::udp(namespace, at(7000), name).expect("a UDP server"),
    ]
}

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no ADDRESS:PORT"))
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
}

/// A Pod with its status, as a kubelet would have written it.
pub(crate) fn pod(name: &str, address: &str, app: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": app, "version": version } },
        "spec": { "containers": [{ "name": "app", "image": "backend", "ports": [
            { "name": "api", "containerPort": 8080 }, { "name": "http", "containerPort": 80 }] }] },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

/// Applies one object; it is served once this returns.
pub(crate) fn apply_object(client: &Client, object: &Value) {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [object] });
    client
        .post(&format!("{APPLY_PATH}?namespace=default"), &list)
        .unwrap_or_else(|error| panic!("{error:?}: {object}"));
}

/// Asks `times` times and says which names answered. Each must be one of `allowed`, and each of those must answer.
pub(crate) fn answered_by(times: usize, allowed: &[&str], mut ask: impl FnMut() -> io::Result<String>) {
    let one = |n| ask().unwrap_or_else(|error| panic!("no answer to number {n} of {times}: {error}"));
    let names: BTreeSet<String> = (0..times).map(one).collect();
    assert_eq!(names, allowed.iter().map(|&name| name.to_owned()).collect(), "who answered, of {times} times");
}

/// Tells threads to stop, also when the test panics.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection that never stops talking: blocks of ever new bytes go out and must come back as they were.
pub(crate) struct Talk {
    stream: TcpStream,
    shared: Arc<Shared>,
    thread: JoinHandle<io::Result<()>>,
    pub(crate) server: String,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    rounds: AtomicU64,
}

impl Talk {
    pub(crate) fn start(from: &Namespace, to: SocketAddr) -> Talk {
        let stream = connect(from, to, PATIENCE).unwrap_or_else(|error| panic!("connecting to {to}: {error}"));
        let server = greeting(&stream).expect("a greeting");
        let shared = Arc::new(Shared::default());
        let (inside, socket) = (Arc::clone(&shared), stream.try_clone().expect("the socket again"));
        Talk { stream, thread: thread::spawn(move || talk(&socket, &inside)), shared, server }
    }

    /// Waits for the blocks that are sent from now on to come back. Answers what went wrong, if anything.
    pub(crate) fn still_works(&self) -> io::Result<()> {
        let goal = self.shared.rounds.load(Ordering::Relaxed) + 3;
        let deadline = Instant::now() + PATIENCE;
        while self.shared.rounds.load(Ordering::Relaxed) < goal {
            if self.thread.is_finished() || Instant::now() > deadline {
                return Err(io::Error::other(format!("a connection to {} has stopped", self.server)));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it in order; answers how many blocks came back.
    pub(crate) fn finish(self) -> io::Result<u64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")?;
        self.stream.shutdown(std::net::Shutdown::Write)?;
        let mut rest = Vec::new();
        (&self.stream).read_to_end(&mut rest)?;
        assert!(rest.is_empty(), "{} bytes came that were never sent", rest.len());
        Ok(self.shared.rounds.load(Ordering::Relaxed))
    }
}

fn talk(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let (mut sent, mut received) = (vec![0u8; 4096], vec![0u8; 4096]);
    while !shared.stop.load(Ordering::Relaxed) {
        let round = shared.rounds.load(Ordering::Relaxed);
        for (at, word) in sent.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at as u64).to_le_bytes());
        }
        stream.write_all(&sent)?;
        stream.read_exact(&mut received)?;
        if sent != received {
            return Err(io::Error::other(format!("block {round} came back changed")));
        }
        shared.rounds.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// One ICMP echo (RFC 792) by the kernel's unprivileged kind of socket; an error if no answer comes.
pub(crate) fn ping(from: &Namespace, to: IpAddr, patience: Duration) -> io::Result<()> {
    from.sysctl("net.ipv4.ping_group_range", "0 0").map_err(io::Error::other)?;
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP, 8, 0),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6, 128, 129),
    };
    // SAFETY: no pointers; the result is checked.
    let fd = from.run(|| unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) });
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns. It is a datagram socket: what UdpSocket does fits.
    let socket = unsafe { UdpSocket::from_raw_fd(fd) };
    socket.connect((to, 0))?;
    socket.set_read_timeout(Some(patience))?;
    // The kernel writes the identifier and the checksum.
    let echo =
        [&[request, 0, 0, 0, 0, 0, 0, 1][..], b"echo of 56 bytes, of which these are the first few of all"].concat();
    socket.send(&echo)?;
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer)?;
    assert_eq!((answer[0], answer[1]), (reply, 0), "an echo reply");
    assert_eq!(&answer[6..length], &echo[6..], "sequence number and data");
    Ok(())
}

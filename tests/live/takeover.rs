//! Two gateways with the same addresses, one after the other, on one link: who sends to the first must find the second at once.
//!
//! ```text
//!   gateway-a 192.168.50.2  ┐                     ┌ client 192.168.50.100
//!                           ├── bridge "link" ────┤
//!   gateway-b 192.168.50.3  ┘                     └ pod    192.168.50.50
//! ```
//!
//! Both own 192.168.50.10 and 192.168.50.200, and the same in fd00:50::/64. What the client sends to the load balancer's address
//! gets the gateway's address as its source, so the Pod has to learn where that is, too.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pollgate::lab::traffic::Server;
use pollgate::lab::{Namespace, Veth};
use pollgate_common::net::{Mac, PortId};
use pollgate_dataplane::port::Port;
use pollgate_dataplane::port::packet::{PacketOptions, PacketPort};
use serde_json::Value;
use tempfile::TempDir;

use crate::live::process::{POLLGATE, Process, start_in};
use crate::live::support::{StopOnDrop, ip, ping, socket};
use crate::shared::frames::NOW;
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, Lab};
use crate::shared::until;

tests! {
    [Lab] =>
        owned_addresses_are_announced_at_start_when_they_appear_and_when_the_link_comes_up,
        a_gateway_that_is_killed_is_replaced_within_a_second,
        two_gateways_at_once_are_counted_and_logged_by_both;
    [Lab, Bpf] =>
        a_gateway_that_is_killed_is_replaced_within_a_second_over_af_xdp,
        two_gateways_at_once_are_counted_and_logged_by_both_over_af_xdp;
}

/// The gateway's addresses, and the load balancer's.
const GATEWAY: [&str; 2] = ["192.168.50.10", "fd00:50::10"];
const LOAD_BALANCER: [&str; 2] = ["192.168.50.200", "fd00:50::200"];

const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: echo }
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: { app: echo }
  ports: [{ protocol: UDP, port: 7000, targetPort: 7000 }]
---
apiVersion: v1
kind: Pod
metadata: { name: pod, labels: { app: echo } }
spec: { containers: [{ name: app, image: echo }] }
status:
  phase: Running
  podIP: 192.168.50.50
  podIPs: [{ ip: 192.168.50.50 }, { ip: "fd00:50::50" }]
  conditions: [{ type: Ready, status: "True" }]
"#;

/// The link with its four hosts.
struct Link {
    gateways: [Host; 2],
    client: Namespace,
    _servers: Vec<Server>,
    _others: Vec<Namespace>,
}

/// A gateway's host, with what its gateway reads and writes.
struct Host {
    namespace: Namespace,
    directory: TempDir,
}

impl Link {
    /// With gateways that poll their interface by this kind of port.
    fn new(backend: &str) -> Link {
        let bridge = Namespace::new("link").expect("a namespace");
        let host = |name: &str, number: u8| {
            let namespace = Namespace::new(name).expect("a namespace");
            Veth::new((&bridge, name), (&namespace, "eth0")).queues(2).make().expect("a veth pair");
            for address in [format!("192.168.50.{number}/24"), format!("fd00:50::{number}/64")] {
                namespace.add_address("eth0", address.parse().expect("an address")).expect("added");
            }
            namespace
        };
        let [a, b] = [host("gateway-a", 2), host("gateway-b", 3)];
        let (client, pod) = (host("client", 100), host("pod", 50));
        bridge.bridge("bridge", &["gateway-a", "gateway-b", "client", "pod"]).expect("a bridge");
        let servers = ["192.168.50.50:7000", "[fd00:50::50]:7000"];
        let servers = servers.map(|at| Server::udp(&pod, at.parse().expect("an address"), "pod").expect("a server"));
        let gateways = [a, b].map(|namespace| {
            namespace.discard_unrouted_v6().expect("a route");
            Host::new(namespace, backend)
        });
        Link { gateways, client, _servers: servers.into(), _others: vec![bridge, pod] }
    }

    /// Frames that the client's interface receives.
    fn watch(&self) -> PacketPort {
        let (interface, port) = ("eth0", PortId(0));
        let options =
            PacketOptions { interface, port, worker: 0, workers: 1, group: None, fanout: None, ring_frames: 4096 };
        self.client.run(|| PacketPort::open(&options)).expect("a packet port")
    }
}

impl Host {
    fn new(namespace: Namespace, backend: &str) -> Host {
        let directory = TempDir::new().expect("a directory");
        let (path, [v4, v6]) = (directory.path(), GATEWAY);
        let configuration = format!(
            "interfaces: [{{ name: eth0, backend: {backend} }}]\naddresses: [{v4}, \"{v6}\"]\n\
             cluster: {{ loadBalancerPools: [192.168.50.200/32, \"fd00:50::200/128\"], \
             serviceCIDRs: [10.96.0.0/16, \"fd00:96::/112\"], podCIDRs: [10.244.0.0/16, \"fd00:244::/48\"] }}\n\
             workers: {{ count: 2 }}\nflows: {{ max: 65536 }}\napi: {{ socket: {}, state: {} }}\n",
            socket(path).display(),
            path.join("state.db").display()
        );
        std::fs::write(path.join("gateway.yaml"), configuration).expect("written");
        std::fs::write(path.join("objects.yaml"), OBJECTS).expect("written");
        Host { namespace, directory }
    }

    fn mac(&self) -> Mac {
        self.namespace.mac("eth0").expect("a MAC address")
    }

    /// Starts its gateway and waits until it is ready.
    fn start(&self, with_objects: bool) -> Process {
        let path = self.directory.path();
        let mut command = self.namespace.command(POLLGATE);
        command.args(["run", "--config"]).arg(path.join("gateway.yaml")).env_remove("RUST_LOG");
        if with_objects {
            command.arg("--manifests").arg(path.join("objects.yaml"));
        }
        start_in(path, command)
    }

    fn cli(&self, words: &[&str]) -> String {
        let path = self.directory.path();
        let output = Command::new(POLLGATE).args(words).arg("--socket").arg(socket(path)).output().expect("run");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).expect("the log")
    }

    fn counter(&self, name: &str) -> u64 {
        let stats: Value = serde_json::from_str(&self.cli(&["stats", "-o", "json"])).expect("JSON");
        stats["counters"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"))
    }
}

/// What an announcement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announcement {
    Request(IpAddr),
    Reply(IpAddr),
    Advertisement(IpAddr),
}

/// The announcement in a frame from this host: gratuitous ARP, or an unsolicited advertisement with the override flag.
fn announcement(frame: &[u8], from: Mac) -> Option<Announcement> {
    if frame.get(6..12)? != from.0 {
        return None;
    }
    let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).expect("four bytes"));
    match frame.get(12..14)? {
        [8, 6] if frame[..6] == [0xff; 6] && frame[22..28] == from.0 && address(28) == address(38) => match frame[21] {
            1 => Some(Announcement::Request(address(28))),
            2 => Some(Announcement::Reply(address(28))),
            _ => None,
        },
        [0x86, 0xdd] if frame[..6] == [0x33, 0x33, 0, 0, 0, 1] && frame[20] == 58 && frame[54] == 136 => {
            assert_eq!(
                (frame[58], &frame[78..86]),
                (0x20, &[&[2, 1][..], &from.0].concat()[..]),
                "override, MAC address"
            );
            let target = <[u8; 16]>::try_from(&frame[62..78]).expect("sixteen bytes");
            Some(Announcement::Advertisement(target.into()))
        }
        _ => None,
    }
}

/// Waits until each address has been announced three times, and checks that the second and third time are not too early. The cause
/// came after `since`.
fn three_rounds(watch: &mut PacketPort, from: Mac, addresses: &[&str], since: Instant) {
    let mut expected = Vec::new();
    for address in addresses.iter().map(|address| ip(address)) {
        match address {
            IpAddr::V4(_) => expected.extend([Announcement::Request(address), Announcement::Reply(address)]),
            IpAddr::V6(_) => expected.push(Announcement::Advertisement(address)),
        }
    }
    let mut seen: Vec<(Instant, Announcement)> = Vec::new();
    until("everything is announced three times", || {
        let mut frames = Vec::new();
        watch.rx(NOW, 64, &mut frames);
        seen.extend(frames.iter().filter_map(|frame| Some((Instant::now(), announcement(frame.bytes(), from)?))));
        frames.into_iter().for_each(|frame| watch.release(frame));
        seen.len() >= expected.len() * 3
    });
    assert_eq!(seen.len(), expected.len() * 3, "{seen:?}");
    for announced in expected {
        let times: Vec<Instant> = seen.iter().filter(|(_, one)| *one == announced).map(|(time, _)| *time).collect();
        // When the first was sent is not known: what is seen late makes the next one look early.
        let [_, second, third] = times[..] else { panic!("{announced:?}: {seen:?}") };
        let (second, third) = (second - since, third - since);
        assert!(second >= Duration::from_millis(200) && third >= Duration::from_secs(1), "{second:?} {third:?}");
    }
}

fn owned_addresses_are_announced_at_start_when_they_appear_and_when_the_link_comes_up() {
    let link = Link::new("auto");
    let [host, _] = &link.gateways;
    let (mut watch, mac) = (link.watch(), host.mac());
    let since = Instant::now();
    let _gateway = host.start(false);
    three_rounds(&mut watch, mac, &GATEWAY, since);
    until("they are counted", || host.counter("announced") == 3 * 3);
    let since = Instant::now();
    host.cli(&["apply", "-f", &host.directory.path().join("objects.yaml").display().to_string()]);
    three_rounds(&mut watch, mac, &LOAD_BALANCER, since);
    until("they are counted", || host.counter("announced") == 2 * 3 * 3);
    let since = Instant::now();
    host.namespace.down("eth0").expect("down");
    host.namespace.up("eth0").expect("up");
    three_rounds(&mut watch, mac, &[GATEWAY, LOAD_BALANCER].concat(), since);
    until("they are counted", || host.counter("announced") == 4 * 3 * 3);
    // A Service that is deleted takes its addresses with it.
    host.cli(&["delete", "service", "echo"]);
    let since = Instant::now();
    host.namespace.down("eth0").expect("down");
    host.namespace.up("eth0").expect("up");
    three_rounds(&mut watch, mac, &GATEWAY, since);
}

/// Asks again and again, by one socket, until told to stop; when the last answer came.
struct Asking {
    answered: Mutex<Instant>,
}

impl Asking {
    fn new() -> Asking {
        Asking { answered: Mutex::new(Instant::now()) }
    }

    fn answered(&self) -> Instant {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, stop: &AtomicBool, mut ask: impl FnMut() -> io::Result<()>) {
        while !stop.load(Ordering::Relaxed) {
            match ask() {
                Ok(()) => *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now(),
                // Nobody is there yet, or the kernel says that the host is away.
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// One socket for all requests: one flow.
fn requests(client: &Namespace, to: SocketAddr) -> impl FnMut() -> io::Result<()> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = client.run(|| UdpSocket::bind((any, 0))).expect("a socket");
    socket.connect(to).expect("connected");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
    move || {
        socket.send(b"who?")?;
        socket.recv(&mut [0; 64]).map(drop)
    }
}

fn a_gateway_that_is_killed_is_replaced_within_a_second() {
    killed_and_replaced("packet");
}

fn a_gateway_that_is_killed_is_replaced_within_a_second_over_af_xdp() {
    killed_and_replaced("xdp");
}

fn killed_and_replaced(backend: &str) {
    let link = Link::new(backend);
    let [a, b] = &link.gateways;
    let first = a.start(true);
    // Requests to the load balancer's address, and echo requests to the gateway's.
    let udp = LOAD_BALANCER.map(|address| requests(&link.client, SocketAddr::new(ip(address), 7000)));
    let pings = GATEWAY.map(|address| {
        let client = link.client.clone();
        move || ping(&client, ip(address), Duration::from_millis(20))
    });
    let asking: [Asking; 4] = std::array::from_fn(|_| Asking::new());
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let _stopped = StopOnDrop(stop);
        let [udp_v4, udp_v6, ping_v4, ping_v6] = &asking;
        let [ask_v4, ask_v6] = udp;
        scope.spawn(move || udp_v4.run(stop, ask_v4));
        scope.spawn(move || udp_v6.run(stop, ask_v6));
        let [ask_v4, ask_v6] = pings;
        scope.spawn(move || ping_v4.run(stop, ask_v4));
        scope.spawn(move || ping_v6.run(stop, ask_v6));
        let started = Instant::now();
        let all_answered = |since: Instant| asking.iter().all(|asking| asking.answered() > since);
        until("the first gateway answers", || all_answered(started));
        first.signal(libc::SIGKILL);
        assert_eq!(first.wait().code(), None, "killed");
        let killed = Instant::now();
        thread::sleep(Duration::from_secs(1));
        let silent = asking.each_ref().map(Asking::answered);
        assert!(silent.iter().all(|answered| *answered < killed + Duration::from_millis(800)), "nobody is there");
        let _second = b.start(true);
        let ready = Instant::now();
        until("the second gateway answers", || all_answered(killed + Duration::from_secs(1)));
        println!("answered {:?} after the second gateway was ready", ready.elapsed());
        assert!(ready.elapsed() < Duration::from_secs(1), "{:?}", ready.elapsed());
    });
}

fn two_gateways_at_once_are_counted_and_logged_by_both() {
    at_once("packet");
}

fn two_gateways_at_once_are_counted_and_logged_by_both_over_af_xdp() {
    at_once("xdp");
}

fn at_once(backend: &str) {
    let link = Link::new(backend);
    let [a, b] = &link.gateways;
    let _first = a.start(true);
    until("the first has announced its addresses", || a.counter("announced") == 2 * 3 * 3);
    assert_eq!(a.counter("address_conflicts"), 0);
    let _second = b.start(true);
    // The second announces them too; the first answers with an announcement of each, which the second sees.
    for (host, other) in [(a, b), (b, a)] {
        until("the other gateway is seen", || host.counter("address_conflicts") > 0);
        for address in [GATEWAY, LOAD_BALANCER].concat() {
            let (mac, what) = (other.mac(), "uses this address of the gateway too");
            let line = format!("{address}: the host with the MAC address {mac} on eth0 {what}");
            until("it is logged", || host.log().contains(&line));
            assert_eq!(host.log().matches(&line).count(), 1, "once a minute");
        }
    }
    until("each address is defended once", || a.counter("announced") == (2 * 3 + 2) * 3);
}

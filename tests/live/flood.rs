//! Floods from spoofed sources, over real sockets, at a Service whose one backend replies to each packet.
//!
//! ```text
//!   spoofed sources (raw socket) ──▶ gateway ──▶ frontend-app   (its replies end where nobody listens)
//!   10 connections from before, 80 clients during, 20 after
//! ```
//!
//! How fast the flood is depends on the machine; that every client is served does not.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use pollgate::lab::Namespace;
use pollgate::lab::topology::{Network, guide};
use pollgate::lab::traffic::{ask_tcp, ask_udp};

use crate::live::support::{PATIENCE, Site, Talk, at};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;

tests! {
    [Lab] => spoofed_pods_cost_real_ones_nothing, spoofed_hosts_outside_cost_real_ones_nothing;
}

const FLOOD: u32 = 40_000;
const DURATION: Duration = Duration::from_secs(4);
/// The Service's ports: TCP, UDP.
const PORTS: [u16; 2] = [9000, 9001];
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 62);
const SERVER: &str = "frontend-app";

const SERVICE: &str = "{ apiVersion: v1, kind: Service, metadata: { name: target }, spec: { clusterIP: 10.96.0.62, \
    selector: { app: frontend-app }, ports: [{ name: t, port: 9000, targetPort: 8080 }, \
    { name: u, port: 9001, targetPort: 7000, protocol: UDP }] } }";

/// Who floods, who the clients are, and which addresses are spoofed.
struct Scene {
    flooder: &'static str,
    client: &'static str,
    spoofed: Ipv4Addr,
    link: &'static str,
}

/// Pods: their source is not translated.
const INSIDE: Scene =
    Scene { flooder: "frontend-2", client: "backend-v2", spoofed: Ipv4Addr::new(10, 244, 128, 0), link: "node-1" };
/// Hosts outside the cluster: their source is.
const OUTSIDE: Scene = Scene {
    flooder: "outside-client",
    client: "outside-client",
    spoofed: Ipv4Addr::new(198, 18, 0, 0),
    link: "outside",
};

/// The site, with a route for the spoofed addresses: replies to them reach the flooder, who ignores them.
fn site(scene: &Scene) -> Site {
    let network = Network::new(&guide(), 1).expect("a network");
    let via = network.host(scene.flooder).address;
    let spoofed = ipnet::IpNet::new(scene.spoofed.into(), 17).expect("a prefix");
    network.gateway().add_route(spoofed, Some(via), scene.link).expect("a route");
    let site = Site::on(network);
    site.apply(SERVICE);
    site
}

/// Sends the flood; how many packets have gone can be read meanwhile.
fn flood(from: &Namespace, spoofed: Ipv4Addr, port: u16) -> (Arc<AtomicU32>, JoinHandle<io::Result<()>>) {
    let sent = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&sent);
    let send = move || {
        let socket = raw_socket()?;
        let to = SocketAddr::from((CLUSTER_IP, 0));
        let started = Instant::now();
        for n in 0..FLOOD {
            socket.send_to(&spoofed_packet(n, spoofed, port), to)?;
            count.store(n + 1, Ordering::Relaxed);
            // Every ten milliseconds' worth, waits until that is due; a machine too slow for it does not wait.
            if n % (FLOOD / 400) == 0 {
                thread::sleep((DURATION * n / FLOOD).saturating_sub(started.elapsed()));
            }
        }
        Ok(())
    };
    (sent, from.spawn(send).expect("a thread"))
}

/// A socket whose packets bring their own IP header.
fn raw_socket() -> io::Result<UdpSocket> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns. Sending to an address is the same for every kind of socket.
    Ok(unsafe { UdpSocket::from_raw_fd(fd) })
}

/// The first packet of a client that does not exist.
fn spoofed_packet(n: u32, from: Ipv4Addr, port: u16) -> Vec<u8> {
    let source = Ipv4Addr::from(u32::from(from) + n % 20_000);
    let source_port = u16::try_from(1024 + n / 20_000).expect("small");
    let packet = PacketBuilder::ipv4(source.octets(), CLUSTER_IP.octets(), 64);
    let mut bytes = Vec::with_capacity(64);
    let written = if port == PORTS[0] {
        packet.tcp(source_port, port, n.wrapping_mul(0x9e37_79b9), 64_240).syn().write(&mut bytes, &[])
    } else {
        packet.udp(source_port, port).write(&mut bytes, b"who?")
    };
    written.expect("written to memory");
    bytes
}

/// One client's question, until it is answered or the patience ends. Datagrams are repeated, as every client of UDP does.
fn ask(from: &Namespace, port: u16) -> bool {
    let to = SocketAddr::from((CLUSTER_IP, port));
    if port == PORTS[0] {
        return ask_tcp(from, to, PATIENCE).is_ok_and(|name| name == SERVER);
    }
    (0..20).any(|_| ask_udp(from, to, "who?", PATIENCE / 20).is_ok_and(|answer| answer.starts_with(SERVER)))
}

/// Floods one port of the Service, and has clients arrive.
fn clients_are_served(site: &Site, scene: &Scene, port: u16) {
    let client = site.host(scene.client);
    assert!(ask(client, port), "before the flood");
    let talks: Vec<Talk> = (0..10).map(|_| Talk::start(client, at("10.96.0.62:9000"))).collect();
    let (sent, flood) = flood(site.host(scene.flooder), scene.spoofed, port);
    let served = thread::scope(|scope| {
        let mut clients = Vec::new();
        for n in 0..100 {
            // Of 100, 80 arrive while the flood goes on, and 20 when it is over.
            while sent.load(Ordering::Relaxed) < (n * FLOOD / 80).min(FLOOD) && !flood.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
            clients.push(scope.spawn(move || ask(client, port)));
        }
        clients.into_iter().map(|client| client.join().expect("no panic")).filter(|&served| served).count()
    });
    flood.join().expect("no panic").expect("everything was sent");
    let stats = site.cli(&["stats"]).expect("the counters");
    assert!(served >= 99, "{served} of 100 clients were served\n{stats}");
    for talk in &talks {
        talk.still_works().unwrap_or_else(|error| panic!("{error}\n{stats}"));
    }
    for talk in talks {
        talk.finish().unwrap_or_else(|error| panic!("{error}\n{stats}"));
    }
    let totals = site.gateway().counters().totals();
    assert!(totals.flows_opened > u64::from(FLOOD) / 4, "most of the flood got here\n{stats}");
}

fn flooded(scene: &Scene) {
    let site = site(scene);
    for port in PORTS {
        clients_are_served(&site, scene, port);
    }
}

fn spoofed_pods_cost_real_ones_nothing() {
    flooded(&INSIDE);
}

fn spoofed_hosts_outside_cost_real_ones_nothing() {
    flooded(&OUTSIDE);
}

//! An endpoint behind a router: what the router reports reaches the client, and traceroute shows the way.
//!
//! ```text
//!   frontend-app 10.244.1.5 ── node-1 ── gateway ── node-2 ── router 10.244.2.9 ── far 10.244.3.9
//! ```
//!
//! The client's address is kept (it is a Pod that connects to a ClusterIP), so the router's errors go to the client's address: the
//! gateway does not own it and has to look at what they quote. Each address has an IPv6 address beside it.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use pollgate::lab::topology::{Network, Segment, guide, v6_beside};
use pollgate::lab::traffic::{Server, ask_tcp, ask_udp};
use pollgate::lab::{Namespace, Veth};
use pollgate_common::reasons::DropReason as Reason;

use crate::live::support::{PATIENCE, Site, ip};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, IoUring, Lab, Program};
use crate::shared::until;

tests! {
    [Lab] =>
        errors_of_routers_reach_the_client;
    [Lab, IoUring] =>
        errors_of_routers_reach_the_client_over_io_uring;
    [Lab, Bpf] =>
        errors_of_routers_reach_the_client_over_af_xdp;
    [Lab, Program("traceroute")] =>
        traceroute_shows_the_gateway_and_the_hops_behind_it;
}

/// The Service's addresses.
const SERVICE: [&str; 2] = ["10.96.0.95", "fd00:10:96::95"];
const GATEWAY: [&str; 2] = ["192.168.50.10", "fd00:192:168:50::10"];
const ROUTER: [&str; 2] = ["10.244.2.9", "fd00:10:244:2::9"];
/// The router's link to the endpoint.
const MTU: u32 = 1300;

struct Behind {
    site: Site,
    _far: Namespace,
    _servers: [[Server; 2]; 2],
}

impl Behind {
    fn new(backend: &str) -> Behind {
        let mut plan = guide();
        // The router, and the site's own servers.
        let hosts = [("router", "10.244.2.9/24"), ("backend-2", "10.244.2.15/32"), ("backend-v2", "10.244.2.22/32")];
        plan[1] = Segment::new("node-2", "10.244.2.1/24", &hosts);
        let plan: Vec<Segment> = plan.into_iter().map(Segment::dual_stack).collect();
        let network = Network::new(&plan, 2).expect("a network");
        let far = Namespace::new("far").expect("a namespace");
        let router = network.host("router").namespace.clone();
        Veth::new((&router, "eth1"), (&far, "eth0")).make().expect("a veth pair");
        for (namespace, interface, address) in [(&router, "eth1", "10.244.3.1/24"), (&far, "eth0", "10.244.3.9/24")] {
            for address in [prefix(address), v6_beside(prefix(address)).expect("IPv6")] {
                namespace.add_address(interface, address).expect("added");
            }
        }
        // Only what leaves towards the endpoint is too long.
        router.set_mtu("eth1", MTU).expect("set");
        for family in ["ipv4", "ipv6"] {
            router.sysctl(&format!("net.{family}.conf.all.forwarding"), "1").expect("set");
        }
        // A route for each family, from the endpoint to everybody and from the gateway to the endpoint.
        for (everything, here) in [("0.0.0.0/0", "10.244.3.1"), ("::/0", "fd00:10:244:3::1")] {
            far.add_route(prefix(everything), Some(ip(here)), "eth0").expect("a route");
        }
        for (net, router) in [("10.244.3.0/24", ROUTER[0]), ("fd00:10:244:3::/64", ROUTER[1])] {
            network.gateway().add_route(prefix(net), Some(ip(router)), "node-2").expect("a route");
        }
        let site = Site::configured(network, |text| configured(backend, &text));
        let servers = ["10.244.3.9", "fd00:10:244:3::9"].map(ip).map(|address| {
            let udp = Server::udp(&far, SocketAddr::new(address, 7000), "far").expect("a server");
            let tcp = Server::tcp(&far, SocketAddr::new(address, 8080), "far").expect("a server");
            [udp, tcp]
        });
        site.resolve_neighbours();
        site.apply(OBJECTS);
        Behind { site, _far: far, _servers: servers }
    }

    fn client(&self) -> &Namespace {
        self.site.host("frontend-app")
    }
}

/// Port 7001 has no server.
const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: far }
spec:
  clusterIP: 10.96.0.95
  clusterIPs: [10.96.0.95, "fd00:10:96::95"]
  ipFamilyPolicy: RequireDualStack
  selector: { app: far }
  ports:
    - { name: echo, protocol: UDP, port: 7000 }
    - { name: nobody, protocol: UDP, port: 7001 }
    - { name: talk, port: 8080 }
---
apiVersion: v1
kind: Pod
metadata: { name: far, labels: { app: far } }
spec: { containers: [{ name: app, image: far }] }
status:
  phase: Running
  podIP: 10.244.3.9
  podIPs: [{ ip: 10.244.3.9 }, { ip: "fd00:10:244:3::9" }]
  conditions: [{ type: Ready, status: "True" }]
"#;

fn configured(backend: &str, text: &str) -> String {
    text.replace("{ name: ", &format!("{{ backend: {backend}, name: "))
        .replace("addresses: [192.168.50.10]", &format!("addresses: [{}, \"{}\"]", GATEWAY[0], GATEWAY[1]))
        .replace(
            "cluster: { ",
            "cluster: { serviceCIDRs: [10.96.0.0/16, \"fd00:10:96::/112\"], \
             podCIDRs: [10.244.0.0/16, \"fd00:10:244::/48\"], ",
        )
}

fn prefix(text: &str) -> ipnet::IpNet {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no prefix"))
}

/// A socket of the client whose datagrams must not be fragmented, connected.
fn whole_datagrams(client: &Namespace, to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = client.run(|| UdpSocket::bind((any, 0))).expect("a socket");
    socket.connect(to).expect("connected");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
    let (level, option, always) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
    };
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("small");
    // SAFETY: the value is alive and has the given length.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const always).cast(), length) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    socket
}

fn errors(backend: &str) {
    let behind = Behind::new(backend);
    let client = behind.client();
    for address in SERVICE.map(ip) {
        // The way there and back, and an error of the endpoint's own kernel.
        let answer = ask_udp(client, SocketAddr::new(address, 7000), "who?", PATIENCE).expect("an answer");
        assert_eq!(answer, "far");
        assert_eq!(ask_tcp(client, SocketAddr::new(address, 8080), PATIENCE).expect("an answer"), "far");
        let error = ask_udp(client, SocketAddr::new(address, 7001), "anybody?", PATIENCE).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{address}: port unreachable");
        // The router's: the next hop's link is narrower.
        let socket = whole_datagrams(client, SocketAddr::new(address, 7000));
        let datagram = vec![b'x'; 1400];
        until("the client has learnt the MTU", || match socket.send(&datagram) {
            Ok(_) => {
                let _ = socket.recv(&mut [0; 2048]);
                false
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{address}: {error}");
                true
            }
        });
        let header = if address.is_ipv4() { 28 } else { 48 };
        socket.send(&datagram[..MTU as usize - header]).expect("what fits is sent");
        until("and answered", || socket.recv(&mut [0; 2048]).is_ok());
    }
    let totals = behind.site.at_rest(&[]);
    assert_eq!(totals.originated, 0, "{totals:?}");
}

fn errors_of_routers_reach_the_client() {
    errors("packet");
}

fn errors_of_routers_reach_the_client_over_io_uring() {
    errors("uring");
}

fn errors_of_routers_reach_the_client_over_af_xdp() {
    errors("xdp");
}

/// The hops that traceroute prints: the address, or `*` for one that did not reply.
fn hops(client: &Namespace, arguments: &[&str]) -> Vec<String> {
    let mut command = client.command("traceroute");
    let output = command.args(["-n", "-q", "1", "-w", "5", "-m", "6"]).args(arguments).output().expect("started");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "traceroute {arguments:?}: {}\n{out}\n{err}", output.status);
    out.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap_or_default().to_owned()).collect()
}

/// A hop that is too far away replies: the gateway from its own address, the router from its own; the endpoint as the Service.
fn traceroute_shows_the_gateway_and_the_hops_behind_it() {
    let behind = Behind::new("packet");
    let client = behind.client();
    for at in [0, 1] {
        let way = [GATEWAY[at], ROUTER[at], SERVICE[at]];
        let family = ["-4", "-6"][at];
        // UDP to a port without a server, which is refused; TCP to one with a server, which needs a raw socket.
        let udp = hops(client, &[family, "-U", "-p", "7001", SERVICE[at]]);
        assert_eq!(udp, way, "UDP");
        let tcp = hops(client, &[family, "-T", "-p", "8080", SERVICE[at]]);
        assert_eq!(tcp, way, "TCP");
        // An echo request is answered by the gateway, which has the address.
        assert_eq!(hops(client, &[family, "-I", SERVICE[at]]), [SERVICE[at]], "ICMP");
    }
    behind.site.at_rest(&[Reason::TtlExpired]);
}

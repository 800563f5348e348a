//! The host pair: processes of the gateway host reach Services, and nothing of the pair outlives the gateway.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use pollgate::lab::topology::Network;
use pollgate::lab::traffic::{ask_dns, ask_dns_v6, ask_http, ask_tcp, ask_udp, connect, echo_bulk, greeting};
use pollgate::lab::{Namespace, Veth};
use pollgate_common::reasons::DropReason as Reason;

use crate::live::dual_stack::{self, CLUSTER_IPS, LOAD_BALANCER as LOAD_BALANCER_V6, NODES};
use crate::live::process::Place;
use crate::live::support::{
    BACKENDS, CLUSTER_IP, DNS, GATEWAY, LOAD_BALANCER, NODE_PORT, PATIENCE, SHORT, Site, UDP, answered_by, at,
    configuration, ip, ping, servers,
};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, Lab, Program};
use crate::shared::until;

tests! {
    [Lab] =>
        the_host_reaches_every_kind_of_address_over_both_families,
        a_process_of_the_host_keeps_the_address_it_has_chosen,
        pods_see_the_gateway_when_the_host_asks,
        the_host_is_refused_and_dropped_like_any_client,
        a_process_of_the_host_is_an_endpoint,
        nobody_else_sends_by_the_pair_and_nobody_else_is_the_host,
        nothing_of_the_pair_outlives_the_gateway,
        a_pair_that_a_killed_gateway_left_is_replaced,
        a_pair_that_is_deleted_is_made_again,
        an_interface_that_pollgate_did_not_make_is_refused_and_left_alone,
        without_the_pair_the_host_has_no_device_and_no_route;
    [Lab, Bpf] =>
        the_host_reaches_services_over_af_xdp,
        over_af_xdp_the_kernel_gets_what_is_not_pollgates;
    [Lab, Program("curl")] =>
        curl_on_the_host_reaches_a_service;
}

fn host(site: &Site) -> &Namespace {
    site.network.gateway()
}

fn the_host_reaches_every_kind_of_address_over_both_families() {
    let (site, servers) = dual_stack::site("packet", 1);
    let host = host(&site);
    let reach = |address: &str, ports: [u16; 3]| {
        let to = |port| SocketAddr::new(ip(address), port);
        answered_by(20, &BACKENDS, || ask_tcp(host, to(ports[0]), PATIENCE));
        answered_by(20, &BACKENDS, || ask_http(host, to(ports[1]), "/", PATIENCE));
        answered_by(20, &BACKENDS, || ask_udp(host, to(ports[2]), "who?", PATIENCE));
        // In fragments.
        answered_by(20, &BACKENDS, || ask_udp(host, to(ports[2]), &"x".repeat(4000), PATIENCE));
        ping(host, ip(address), PATIENCE).unwrap_or_else(|error| panic!("{address}: {error}"));
    };
    for address in CLUSTER_IPS {
        reach(address, [8080, 80, 7000]);
    }
    for address in NODES {
        reach(address, [30880, 30881, 30882]);
    }
    reach(LOAD_BALANCER_V6, [8080, 80, 7000]);
    answered_by(20, &BACKENDS, || ask_http(host, at(LOAD_BALANCER), "/", PATIENCE));
    // The name, by either family's DNS address.
    let name = "dual.default.svc.cluster.local";
    for server in [DNS, "[fd00:10:96::10]:53"] {
        assert_eq!(ask_dns(host, at(server), name, PATIENCE).expect("an answer").addresses, [ip(CLUSTER_IPS[0])]);
        assert_eq!(ask_dns_v6(host, at(server), name, PATIENCE).expect("an answer").addresses, [ip(CLUSTER_IPS[1])]);
    }
    // A reply to another address than a gateway address would pass by the gateway.
    let peers: Vec<IpAddr> = servers.iter().flat_map(|server| server.peers().into_keys()).collect();
    assert!(!peers.is_empty() && peers.iter().all(|peer| *peer == ip(NODES[1])), "{peers:?}");
    site.at_rest(&[]);
}

fn a_process_of_the_host_keeps_the_address_it_has_chosen() {
    let site = Site::new();
    for own in ["192.168.50.1", "10.244.1.1", "169.254.112.1"] {
        let answer = host(&site).run(|| {
            let socket = UdpSocket::bind((ip(own), 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(at(UDP))?;
            socket.send(b"who?")?;
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer)?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&answer[..length]).into_owned())
        });
        let answer = answer.unwrap_or_else(|error| panic!("from {own}: {error}"));
        assert!(BACKENDS.iter().any(|name| answer.starts_with(name)), "from {own}: {answer}");
    }
    site.at_rest(&[]);
}

/// Connects to `to`, where only `listener` is, and has it send something. Returns the address that the listener sees.
fn heard(listener: &TcpListener, from: &Namespace, to: &str) -> IpAddr {
    let mut client = connect(from, at(to), PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}"));
    listener.set_nonblocking(true).expect("set");
    let mut accepted = None;
    until("the listener has the connection", || {
        match listener.accept() {
            Ok(connection) => accepted = Some(connection),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{to}: {error}"),
        }
        accepted.is_some()
    });
    let (mut stream, peer) = accepted.expect("until it was");
    stream.write_all(b"heard").expect("sent");
    let mut text = [0; 5];
    client.read_exact(&mut text).expect("received");
    assert_eq!(&text, b"heard", "{to}");
    peer.ip()
}

/// The rows "node to …" of Kubernetes' matrix: always translated, and by policy Local to all endpoints.
fn pods_see_the_gateway_when_the_host_asks() {
    let site = Site::configured(Network::new(&pollgate::lab::topology::guide(), 1).expect("a network"), |text| {
        text + "node: node-1\nnat: { masquerade: never }\n"
    });
    site.resolve_neighbours();
    site.apply(
        "{ apiVersion: v1, kind: Service, metadata: { name: seen }, spec: { type: LoadBalancer, \
         clusterIP: 10.96.0.91, externalTrafficPolicy: Local, ports: [{ port: 9000, nodePort: 30900 }] } }\n---\n\
         { apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: { name: seen-1, \
         labels: { kubernetes.io/service-name: seen } }, ports: [{ name: '', port: 9000 }], \
         endpoints: [{ addresses: [10.244.2.15], nodeName: node-2 }] }",
    );
    let listener = site.host("backend-2").run(|| TcpListener::bind("10.244.2.15:9000")).expect("a listener");
    for to in ["10.96.0.91:9000", "192.168.50.10:30900"] {
        assert_eq!(heard(&listener, host(&site), to), ip(GATEWAY), "{to}");
    }
    site.at_rest(&[]);
}

fn the_host_is_refused_and_dropped_like_any_client() {
    let site = Site::new();
    let host = host(&site);
    let error = connect(host, at("10.96.0.70:80"), PATIENCE).expect_err("no endpoints");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let error = ask_udp(host, at("10.96.0.50:81"), "anybody?", PATIENCE).expect_err("no such port");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let error = connect(host, at("10.96.9.9:80"), SHORT).expect_err("no such ClusterIP");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    site.at_rest(&[Reason::RejectNoEndpoints, Reason::RejectUndefinedPort, Reason::NoSuchClusterIp]);
}

/// A Pod with the host's network has the host's address.
fn a_process_of_the_host_is_an_endpoint() {
    let site = Site::new();
    site.apply(
        "{ apiVersion: v1, kind: Service, metadata: { name: here }, spec: { type: NodePort, clusterIP: 10.96.0.92, \
         ports: [{ port: 80, targetPort: 9100, nodePort: 30910 }] } }\n---\n\
         { apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: { name: here-1, \
         labels: { kubernetes.io/service-name: here } }, ports: [{ name: '', port: 9100 }], \
         endpoints: [{ addresses: [192.168.50.1] }] }",
    );
    let listener = host(&site).run(|| TcpListener::bind("192.168.50.1:9100")).expect("a listener");
    let clients = [site.host("frontend-app"), site.host("outside-client"), host(&site)];
    for (from, to) in clients.iter().flat_map(|from| ["10.96.0.92:80", "192.168.50.10:30910"].map(|to| (from, to))) {
        assert_eq!(heard(&listener, from, to), ip("169.254.112.2"), "its reply must come back by the pair");
    }
    site.at_rest(&[]);
}

fn nobody_else_sends_by_the_pair_and_nobody_else_is_the_host() {
    let site = Site::new();
    // Another network of the host, whose kernel forwards: what it routes into the pair is not the host's own.
    let guest = Namespace::new("guest").expect("a namespace");
    Veth::new((&guest, "eth0"), (host(&site), "guest")).make().expect("a cable");
    guest.add_address("eth0", "10.77.0.2/24".parse().expect("an address")).expect("added");
    host(&site).add_address("guest", "10.77.0.1/24".parse().expect("an address")).expect("added");
    host(&site).sysctl("net.ipv4.conf.guest.forwarding", "1").expect("set");
    guest.add_route("10.96.0.0/16".parse().expect("a prefix"), Some(ip("10.77.0.1")), "eth0").expect("added");
    ask_udp(&guest, at(UDP), "who?", SHORT).expect_err("dropped");
    // A client that claims the host's address.
    let outside = site.host("outside-client");
    outside.add_address("eth0", "192.168.50.1/32".parse().expect("an address")).expect("added");
    let sent = outside.run(|| {
        let socket = UdpSocket::bind("192.168.50.1:0")?;
        socket.connect(at("192.168.50.10:30700"))?;
        socket.send(b"who?")
    });
    sent.expect("sent");
    until("both are dropped", || site.gateway().counters().totals().drops_of(Reason::BadSource) >= 2);
    let totals = site.at_rest(&[Reason::BadSource]);
    assert_eq!(totals.flows_opened, 0);
}

/// With the rights that its threads have in a process of their own. The listeners of local services stay bound to it.
fn a_pair_that_is_deleted_is_made_again() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let process = place.start();
    place.apply_guide();
    let gateway = place.network.gateway();
    let is_well = || {
        answered_by(20, &BACKENDS, || ask_tcp(gateway, at(CLUSTER_IP), PATIENCE));
        connect(place.client(), at("192.168.50.10:10256"), PATIENCE).expect("the port for health checks");
    };
    // But devices, which have counters.
    let settings = || {
        let traces = traces(gateway).into_iter();
        traces
            .filter(|line| ["route", "arp", "fib_trie"].iter().any(|table| line.starts_with(table)))
            .collect::<Vec<_>>()
    };
    is_well();
    let before = settings();
    assert!(!before.is_empty());
    for (round, end) in ["pg-host", "pg-data"].into_iter().enumerate() {
        gateway.remove(end).expect("removed");
        let again = || place.log().matches("pg-data is polled again by packet").count() > round;
        until("it is made and polled again", again);
        assert_eq!(settings(), before);
        is_well();
    }
    assert!(place.log().contains("the host pair was deleted, and has been made again"), "{}", place.log());
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0), "{}", place.log());
    assert_eq!(traces(gateway), [] as [&str; 0], "it is removed at stop");
}

/// What the kernel has of the pair: devices, routes, addresses, neighbours.
fn traces(namespace: &Namespace) -> Vec<String> {
    let tables = ["dev", "route", "ipv6_route", "if_inet6", "arp", "fib_trie"];
    let lines = |table: &str| {
        let text = namespace.run(|| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")));
        let text = text.unwrap_or_else(|error| panic!("{table}: {error}"));
        let is_pair = |line: &&str| line.contains("pg-") || line.contains("169.254.112.");
        text.lines().filter(is_pair).map(|line| format!("{table}: {line}")).collect::<Vec<_>>()
    };
    tables.iter().flat_map(|table| lines(table)).collect()
}

fn nothing_of_the_pair_outlives_the_gateway() {
    let place = Place::new();
    let gateway = place.network.gateway();
    let check = place.run_command("gateway.yaml").arg("--check").output().expect("run");
    let told = String::from_utf8(check.stdout).expect("text");
    let line = "at start: makes the host pair pg-host and pg-data, with routes to 10.96.0.0/16, 192.168.50.10/32, \
                192.168.50.200/29, 192.168.50.208/31; removes it at stop (host.pair)";
    assert!(told.lines().any(|found| found == line), "{told}");
    assert_eq!(traces(gateway), [] as [&str; 0], "a check makes nothing");
    let process = place.start();
    assert!(traces(gateway).len() > 4, "{:?}", traces(gateway));
    process.signal(libc::SIGTERM);
    assert!(process.wait().success(), "{}", place.log());
    assert_eq!(traces(gateway), [] as [&str; 0]);
}

fn a_pair_that_a_killed_gateway_left_is_replaced() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let gateway = place.network.gateway();
    let process = place.start();
    place.apply_guide();
    answered_by(20, &BACKENDS, || ask_tcp(gateway, at(CLUSTER_IP), PATIENCE));
    process.signal(libc::SIGKILL);
    process.wait();
    assert!(!traces(gateway).is_empty(), "a veth pair outlives its maker");
    let process = place.start();
    answered_by(20, &BACKENDS, || ask_tcp(gateway, at(CLUSTER_IP), PATIENCE));
    process.signal(libc::SIGTERM);
    assert!(process.wait().success(), "{}", place.log());
    assert_eq!(traces(gateway), [] as [&str; 0]);
}

fn an_interface_that_pollgate_did_not_make_is_refused_and_left_alone() {
    for name in ["pg-host", "pg-data"] {
        let place = Place::new();
        let gateway = place.network.gateway();
        Veth::new((gateway, name), (gateway, "other")).make().expect("a pair of somebody else");
        let before = gateway.index(name).expect("it is there");
        let told = place.refused(place.run_command("gateway.yaml"));
        let expected = format!(
            "the interface {name} exists and was not made by pollgate: rename or remove it, or set host.pair: false \
             (processes of this host then do not reach Services)\n"
        );
        assert!(told.contains(&expected), "{told}");
        let mut check = place.run_command("gateway.yaml");
        check.arg("--check");
        let output = check.output().expect("run");
        assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("the interface {name} exists")));
        assert_eq!(gateway.index(name).expect("it is still there"), before);
    }
    let place = Place::new();
    let gateway = place.network.gateway();
    gateway.add_address("outside", "169.254.112.2/16".parse().expect("an address")).expect("added");
    let told = place.refused(place.run_command("gateway.yaml"));
    assert!(told.contains("outside has the address 169.254.112.2, which is on the network of the host pair"), "{told}");
    assert!(gateway.index("pg-host").is_err(), "nothing is left of the attempt");
}

fn without_the_pair_the_host_has_no_device_and_no_route() {
    let place = Place::new();
    let _servers = servers(&place.network);
    place.write("gateway.yaml", &configuration(place.path(), "host: { pair: false }\n"));
    let process = place.start();
    place.apply_guide();
    assert_eq!(traces(place.network.gateway()), [] as [&str; 0]);
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    ask_tcp(place.network.gateway(), at(CLUSTER_IP), Duration::from_millis(200)).expect_err("no way there");
    process.signal(libc::SIGTERM);
    assert!(process.wait().success(), "{}", place.log());
}

fn the_host_reaches_services_over_af_xdp() {
    let (site, _servers) = dual_stack::site("xdp", 2);
    for address in CLUSTER_IPS {
        let to = SocketAddr::new(ip(address), 8080);
        answered_by(20, &BACKENDS, || ask_tcp(host(&site), to, PATIENCE));
        // More than a frame holds: the host must not leave the splitting to a port that cannot.
        let stream = connect(host(&site), to, PATIENCE).expect("connected");
        greeting(&stream).expect("a greeting");
        echo_bulk(&stream, 4 << 20).expect("all of it");
    }
    site.at_rest(&[]);
}

/// The steering program takes packets of endpoints, and cannot know which of them belong to a flow.
fn over_af_xdp_the_kernel_gets_what_is_not_pollgates() {
    let (site, _servers) = dual_stack::site("xdp", 2);
    site.apply(
        "{ apiVersion: v1, kind: Service, metadata: { name: silent }, spec: { clusterIP: 10.96.0.93, \
         ports: [{ port: 7999, protocol: UDP }] } }\n---\n\
         { apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: { name: silent-1, \
         labels: { kubernetes.io/service-name: silent } }, ports: [{ name: '', port: 7999, protocol: UDP }], \
         endpoints: [{ addresses: [10.244.1.10] }] }",
    );
    // The host's own packets to an endpoint, and the errors about them, are the kernel's from the start.
    let error = ask_udp(host(&site), at("10.244.1.10:7999"), "who?", PATIENCE).expect_err("nobody listens");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let received = || {
        let table = host(&site).run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("the devices");
        let line = table.lines().find_map(|line| line.trim().strip_prefix("pg-host:")).expect("the pair").to_owned();
        line.split_whitespace().nth(1).and_then(|packets| packets.parse::<u64>().ok()).expect("packets received")
    };
    let before = received();
    let sent =
        site.host("backend-1").run(|| UdpSocket::bind("10.244.1.10:7999")?.send_to(b"unasked", at("192.168.50.100:9")));
    sent.expect("sent");
    let given = || site.by_worker(|worker| worker.given_to_host.value()).iter().sum::<u64>();
    until("the kernel has it", || (given(), received()) == (1, before + 1));
    site.at_rest(&[]);
}

fn curl_on_the_host_reaches_a_service() {
    let (site, _servers) = dual_stack::site("packet", 1);
    let urls = [
        format!("http://{}/", CLUSTER_IPS[0]),
        format!("http://[{}]/", CLUSTER_IPS[1]),
        format!("http://{NODE_PORT}/"),
        format!("http://[{}]:30881/", NODES[1]),
        format!("http://{LOAD_BALANCER}/"),
        format!("http://[{LOAD_BALANCER_V6}]/"),
    ];
    for url in &urls {
        answered_by(20, &BACKENDS, || {
            let arguments = ["--silent", "--show-error", "--fail", "--max-time", "20", url];
            let output = host(&site).command("curl").args(arguments).output()?;
            assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        });
    }
    // A transfer of many segments, there and back.
    let stream = connect(host(&site), at(CLUSTER_IP), PATIENCE).expect("connected");
    greeting(&stream).expect("a greeting");
    echo_bulk(&stream, 16 << 20).expect("all of it");
    site.at_rest(&[]);
}

//! IPv6 beside IPv4 on real sockets: one Service, reached by either family, by every kind of port.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pollgate::lab::Namespace;
use pollgate::lab::topology::{Network, Segment, guide, v6_beside};
use pollgate::lab::traffic::{Server, ask_dns, ask_dns_v6, ask_http, ask_tcp, ask_udp, connect};
use pollgate_common::reasons::DropReason as Reason;
use serde_json::json;

use crate::live::support::{BACKENDS, PATIENCE, SHORT, Site, Talk, answered_by, apply_object, at, ip, ping, pod};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, IoUring, Lab, Program};
use crate::shared::until;

tests! {
    [Lab] =>
        every_kind_of_address_is_reached_by_both_families,
        an_ipv6_connection_waits_for_its_neighbour_and_outlives_its_endpoint,
        what_cannot_be_served_is_refused_over_ipv6,
        owned_addresses_answer_echo_requests_over_ipv6,
        an_owned_address_is_defended_and_its_group_is_joined,
        a_single_stack_service_of_ipv6_is_served_alone;
    [Lab, IoUring] =>
        every_kind_of_address_is_reached_by_both_families_over_io_uring;
    [Lab, Bpf] =>
        every_kind_of_address_is_reached_by_both_families_over_af_xdp;
    [Lab, Program("curl")] =>
        curl_reaches_a_service_over_ipv6;
    [Lab, Program("dig")] =>
        dig_is_answered_over_ipv6;
}

const GATEWAY: &str = "fd00:192:168:50::10";
const DNS: &str = "[fd00:10:96::10]:53";
/// The only IPv6 address of the pool.
pub(crate) const LOAD_BALANCER: &str = "fd00:192:168:50::200";
const NAME: &str = "dual.default.svc.cluster.local";

/// The Service's ClusterIPs, node port's address and load-balancer address, by family.
pub(crate) const CLUSTER_IPS: [&str; 2] = ["10.96.0.90", "fd00:10:96::90"];
pub(crate) const NODES: [&str; 2] = ["192.168.50.10", GATEWAY];

fn network(queues: u32) -> Network {
    let plan: Vec<Segment> = guide().into_iter().map(Segment::dual_stack).collect();
    Network::new(&plan, queues).expect("a network")
}

fn configured(backend: &str, text: &str) -> String {
    text.replace("{ name: ", &format!("{{ backend: {backend}, name: "))
        .replace("addresses: [192.168.50.10]", &format!("addresses: [192.168.50.10, \"{GATEWAY}\"]"))
        .replace(
            "loadBalancerPools: [192.168.50.200-192.168.50.209]",
            "loadBalancerPools: [192.168.50.200-192.168.50.209, \"fd00:192:168:50::200/128\"], \
             serviceCIDRs: [10.96.0.0/16, \"fd00:10:96::/112\"], podCIDRs: [10.244.0.0/16, \"fd00:10:244::/48\"]",
        )
        + "dns: { address: [10.96.0.10, \"fd00:10:96::10\"], upstreams: [] }\n"
}

/// A site with both families, and the servers of its IPv6 addresses; no host's MAC address is known yet.
fn unresolved(backend: &str, queues: u32) -> (Site, Vec<Server>) {
    let site = Site::configured(network(queues), |text| configured(backend, &text));
    let servers = BACKENDS.iter().flat_map(|name| servers(&site, name)).collect();
    for (name, address) in BACKENDS.iter().zip(["10.244.1.10", "10.244.2.15"]) {
        apply_object(&site.client(), &dual_pod(name, address, "v1"));
    }
    site.apply(
        "{ apiVersion: v1, kind: Service, metadata: { name: dual }, spec: { type: LoadBalancer, \
         ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.0.90, clusterIPs: [10.96.0.90, \"fd00:10:96::90\"], \
         selector: { app: backend, version: v1 }, ports: [\
         { name: api, port: 8080, targetPort: 8080, nodePort: 30880 }, \
         { name: http, port: 80, targetPort: 80, nodePort: 30881 }, \
         { name: udp, protocol: UDP, port: 7000, targetPort: 7000, nodePort: 30882 }] } }",
    );
    (site, servers)
}

/// A site with both families, with what `change` makes of the configuration's text.
pub(crate) fn plain(change: impl FnOnce(String) -> String) -> Site {
    let site = Site::configured(network(1), |text| change(configured("packet", &text)));
    site.resolve_neighbours();
    site
}

pub(crate) fn site(backend: &str, queues: u32) -> (Site, Vec<Server>) {
    let (site, servers) = unresolved(backend, queues);
    site.resolve_neighbours();
    (site, servers)
}

fn servers(site: &Site, name: &str) -> [Server; 3] {
    let host = site.network.host(name);
    let at = |port| SocketAddr::new(host.address_v6.expect("an IPv6 address"), port);
    [
        Server::tcp(&host.namespace, at(8080), name).expect("a TCP server"),
        Server::http(&host.namespace, at(80), name).expect("an HTTP server"),
        Server::udp(&host.namespace, at(7000), name).expect("a UDP server"),
    ]
}

pub(crate) fn dual_pod(name: &str, address: &str, version: &str) -> serde_json::Value {
    let v6 = v6_beside(format!("{address}/32").parse().expect("a prefix")).expect("IPv6").addr();
    let mut pod = pod(name, address, "backend", version);
    pod["status"]["podIPs"] = json!([{ "ip": address }, { "ip": v6 }]);
    pod
}

fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

fn all_ways(backend: &str, queues: u32) {
    let (site, servers) = site(backend, queues);
    let hosts = [site.host("frontend-app"), site.host("outside-client")];
    let reach = |from: &Namespace, address: &str, ports: [u16; 3]| {
        answered_by(20, &BACKENDS, || ask_tcp(from, socket(address, ports[0]), PATIENCE));
        answered_by(20, &BACKENDS, || ask_http(from, socket(address, ports[1]), "/", PATIENCE));
        answered_by(20, &BACKENDS, || ask_udp(from, socket(address, ports[2]), "who?", PATIENCE));
        answered_by(20, &BACKENDS, || ask_udp(from, socket(address, ports[2]), &"x".repeat(1400), PATIENCE));
    };
    for from in hosts {
        for address in CLUSTER_IPS {
            reach(from, address, [8080, 80, 7000]);
        }
        for address in NODES {
            reach(from, address, [30880, 30881, 30882]);
        }
        reach(from, LOAD_BALANCER, [8080, 80, 7000]);
    }
    let totals = site.at_rest(&[]);
    // A datagram from a port that was used before belongs to its flow.
    assert!((2 * 5 * 40..=2 * 5 * 80).contains(&totals.flows_opened) && totals.originated == 0, "{totals:?}");
    // A Pod's address is kept at a ClusterIP; at the others the gateway's takes its place, of the same family.
    let peers: Vec<IpAddr> = servers.iter().flat_map(|server| server.peers().into_keys()).collect();
    assert!(peers.iter().all(|peer| [ip(GATEWAY), ip("fd00:10:244:1::5")].contains(peer)), "{peers:?}");
    assert!(peers.contains(&ip(GATEWAY)) && peers.contains(&ip("fd00:10:244:1::5")), "{peers:?}");
}

fn every_kind_of_address_is_reached_by_both_families() {
    all_ways("packet", 1);
}

fn every_kind_of_address_is_reached_by_both_families_over_io_uring() {
    all_ways("uring", 1);
}

fn every_kind_of_address_is_reached_by_both_families_over_af_xdp() {
    all_ways("xdp", 2);
}

fn an_ipv6_connection_waits_for_its_neighbour_and_outlives_its_endpoint() {
    let (site, _servers) = unresolved("packet", 1);
    // Datagrams, since nobody sends them again: the first waits until the kernel has resolved the Pod.
    answered_by(20, &BACKENDS, || ask_udp(site.host("frontend-app"), socket(CLUSTER_IPS[1], 7000), "who?", PATIENCE));
    let talks: Vec<Talk> =
        (0..8).map(|_| Talk::start(site.host("frontend-app"), socket(CLUSTER_IPS[1], 8080))).collect();
    apply_object(&site.client(), &dual_pod("backend-2", "10.244.2.15", "v0"));
    answered_by(20, &BACKENDS[..1], || ask_tcp(site.host("frontend-app"), socket(CLUSTER_IPS[1], 8080), PATIENCE));
    answered_by(20, &BACKENDS[..1], || {
        ask_udp(site.host("frontend-app"), socket(CLUSTER_IPS[1], 7000), "who?", PATIENCE)
    });
    for talk in talks {
        talk.still_works().expect("an established connection stays");
        talk.finish().expect("nothing lost");
    }
    site.at_rest(&[]);
}

fn what_cannot_be_served_is_refused_over_ipv6() {
    let (site, _servers) = site("packet", 1);
    let (pod, outside) = (site.host("frontend-app"), site.host("outside-client"));
    let error = connect(pod, socket(CLUSTER_IPS[1], 81), PATIENCE).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "a reset");
    let error = ask_udp(pod, socket(CLUSTER_IPS[1], 81), "anybody?", PATIENCE).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "port unreachable");
    for (from, to) in [(outside, socket(GATEWAY, 31999)), (outside, socket(LOAD_BALANCER, 81))] {
        let error = connect(from, to, SHORT).expect_err("nobody answers");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{to}");
    }
    let totals = site.at_rest(&[Reason::RejectUndefinedPort, Reason::UndefinedPort]);
    assert_eq!((totals.originated, totals.drops_of(Reason::RejectUndefinedPort)), (2, 2));
}

fn an_owned_address_is_defended_and_its_group_is_joined() {
    let (site, _servers) = site("packet", 1);
    // The gateway's and the load balancer's, on every interface; by their last three bytes.
    let groups = ["ff0200000000000000000001ff000010", "ff0200000000000000000001ff000200"];
    let joined = || {
        let table = site.network.gateway().run(|| std::fs::read_to_string("/proc/thread-self/net/igmp6"));
        let table = table.expect("the groups");
        groups.map(|group| table.lines().filter(|line| line.contains(group)).count())
    };
    until("the groups are joined", || joined() == [3, 3]);
    // A host that wants the address asks first, and does not get it (RFC 4862 §5.4).
    let outside = site.host("outside-client");
    let wanted = format!("{GATEWAY}/64").parse().expect("an address");
    outside.add_address_unless_taken("eth0", wanted).expect("added, and being probed");
    // IFA_F_DADFAILED is 0x08 in the fifth column.
    until("the host has found out", || {
        let table = outside.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6")).expect("the addresses");
        let line = table.lines().find(|line| line.starts_with("fd000192016800500000000000000010"));
        let flags = line.and_then(|line| line.split_whitespace().nth(4)).expect("the address, with its flags");
        u8::from_str_radix(flags, 16).expect("a number") & 0x08 != 0
    });
    // An address that no Service has any more is not asked for, and not defended.
    site.cli(&["delete", "service", "dual"]).expect("deleted");
    until("its group is left", || joined() == [3, 0]);
    site.at_rest(&[]);
}

fn a_single_stack_service_of_ipv6_is_served_alone() {
    let (site, _servers) = site("packet", 1);
    site.apply(
        "{ apiVersion: v1, kind: Service, metadata: { name: six }, spec: { ipFamilies: [IPv6], \
         ipFamilyPolicy: SingleStack, clusterIP: \"fd00:10:96::91\", selector: { app: backend, version: v1 }, \
         ports: [{ port: 8080 }] } }",
    );
    let pod = site.host("frontend-app");
    answered_by(20, &BACKENDS, || ask_tcp(pod, at("[fd00:10:96::91]:8080"), PATIENCE));
    let name = "six.default.svc.cluster.local";
    for server in [at("10.96.0.10:53"), at(DNS)] {
        let answer = ask_dns_v6(pod, server, name, PATIENCE).expect("an answer");
        assert_eq!((answer.rcode, answer.addresses), (0, vec![ip("fd00:10:96::91")]));
        let answer = ask_dns(pod, server, name, PATIENCE).expect("an answer");
        assert_eq!((answer.rcode, answer.addresses), (0, vec![]), "no data, but the name exists");
        let answer = ask_dns(pod, server, NAME, PATIENCE).expect("an answer");
        assert_eq!((answer.rcode, answer.addresses), (0, vec![ip(CLUSTER_IPS[0])]));
        let answer = ask_dns_v6(pod, server, NAME, PATIENCE).expect("an answer");
        assert_eq!((answer.rcode, answer.addresses), (0, vec![ip(CLUSTER_IPS[1])]));
    }
    site.at_rest(&[]);
}

/// What a program inside printed.
fn printed(site: &Site, host: &str, program: &str, arguments: &[&str]) -> String {
    let output = site.host(host).command(program).args(arguments).output().expect("started");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?} on {host}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

fn curl_reaches_a_service_over_ipv6() {
    let (site, _servers) = site("packet", 1);
    for (host, url) in [
        ("frontend-app", format!("http://[{}]/", CLUSTER_IPS[1])),
        ("outside-client", format!("http://[{GATEWAY}]:30881/")),
        ("outside-client", format!("http://[{LOAD_BALANCER}]/")),
    ] {
        let arguments = ["-6", "--silent", "--show-error", "--fail", "--max-time", "20", &url];
        answered_by(20, &BACKENDS, || Ok(printed(&site, host, "curl", &arguments).trim().to_owned()));
    }
    site.at_rest(&[]);
}

fn dig_is_answered_over_ipv6() {
    let (site, _servers) = site("packet", 1);
    for (kind, address) in [("A", CLUSTER_IPS[0]), ("AAAA", CLUSTER_IPS[1])] {
        let arguments = ["-6", "+short", "+tries=1", "+time=10", "@fd00:10:96::10", NAME, kind];
        assert_eq!(printed(&site, "frontend-app", "dig", &arguments).trim(), address);
        assert_eq!(printed(&site, "outside-client", "dig", &arguments).trim(), address);
    }
    site.at_rest(&[]);
}

fn owned_addresses_answer_echo_requests_over_ipv6() {
    let (site, _servers) = site("packet", 1);
    for address in [GATEWAY, LOAD_BALANCER, CLUSTER_IPS[1], "fd00:10:96::10"] {
        for host in ["frontend-app", "outside-client"] {
            ping(site.host(host), ip(address), PATIENCE).unwrap_or_else(|error| panic!("{address}: {error}"));
        }
    }
    let silent = ping(site.host("outside-client"), ip("fd00:192:168:50::209"), Duration::from_secs(1));
    assert!(silent.is_err(), "an address that no Service has");
    site.at_rest(&[]);
}

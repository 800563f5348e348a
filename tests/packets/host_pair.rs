//! The host pair: packets of the gateway host itself, and those to listeners of the host.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use pollgate_dataplane::port::Port;
use pollgate_dataplane::port::memory::MemoryPort;

use super::support::builder::{about, icmp, ip, tcp, udp};
use super::support::family::{ECHO_REQUEST, ERRORS};
use super::support::faulty::Sole;
use super::support::lab::{GATEWAY, HOST, Lab, OUTSIDE, PODS, Setup};
use super::support::objects::{echo, endpoints, service, shop, web};

/// The kernel's address on the pair.
const KERNEL: &str = "169.254.112.1";
/// The workers' address on the pair.
const WORKERS: &str = "169.254.112.2";
/// Another address of the kernel: the one on `eth0`.
const OWN: &str = "192.168.50.2";

const CLUSTER_IP: &str = "10.96.0.70:80";
const NODE_PORT: &str = "192.168.50.10:30080";
const LOAD_BALANCER: &str = "203.0.113.7:80";
const OPENED: [(&str, u64); 3] = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];

fn from(address: &str, port: u16) -> String {
    format!("{address}:{port}")
}

/// A Service whose only endpoint is a process of the host, as of a Pod with the host's network.
fn here() -> String {
    service("here", "type: NodePort, clusterIP: 10.96.0.80, ports: [{port: 80, targetPort: 8080, nodePort: 30081}]")
        + &endpoints("here", "TCP", 8080, &[OWN])
}

#[test]
fn the_host_is_translated_there_and_back_whatever_address_it_uses() {
    for own in [KERNEL, OWN] {
        let mut lab = Lab::with_pair("", &shop("", &["10.244.1.10"]));
        let seen = lab.through(HOST, tcp(&from(own, 40000), CLUSTER_IP), PODS);
        assert_eq!((*seen.src().ip(), seen.dst().to_string()), (ip(GATEWAY), "10.244.1.10:8080".to_owned()));
        // `expect` has checked that the frame's MAC is that of `pg-host`.
        let reply = tcp("10.244.1.10:8080", &seen.src().to_string()).flags("SA");
        let seen = lab.through(PODS, reply, HOST);
        assert_eq!(seen.to_string(), format!("tcp {CLUSTER_IP} > {own}:40000 SA ttl 63"));
        lab.counters(&[&[("rx", 2), ("tx", 2)], &OPENED[..]].concat());
    }
}

/// Kubernetes `pkg/proxy/iptables/proxier_test.go`, TestInternalExternalMasquerade, the rows "node to …".
#[test]
fn the_node_of_kubernetes_matrix_gets_all_endpoints_from_outside_addresses() {
    let (internal, external) = (", internalTrafficPolicy: Local", ", externalTrafficPolicy: Local");
    let (local, all): (&[&str], &[&str]) = (&["10.244.1.10"], &["10.244.1.10", "10.244.2.15"]);
    for (policy, to, expected) in [
        ("", CLUSTER_IP, all),
        ("", NODE_PORT, all),
        (internal, CLUSTER_IP, local),
        (internal, LOAD_BALANCER, all),
        (external, CLUSTER_IP, all),
        (external, NODE_PORT, all),
        (external, LOAD_BALANCER, all),
    ] {
        for masquerade in ["", "nat: {masquerade: never}\n", "nat: {masqueradeAll: true}\n"] {
            let config = format!("node: node-1\n{masquerade}");
            let mut lab = Lab::with_pair(&config, &shop(policy, &["10.244.1.10@node-1", "10.244.2.15@node-2"]));
            lab.send_all(HOST, (0..32).map(|n| tcp(&from(KERNEL, 40000 + n), to)));
            let seen = lab.take(PODS);
            let chosen: BTreeSet<Ipv4Addr> = seen.iter().map(|seen| *seen.dst().ip()).collect();
            assert_eq!(chosen, expected.iter().map(|text| ip(text)).collect(), "{policy} to {to}, {masquerade}");
            assert!(seen.iter().all(|seen| *seen.src().ip() == ip(GATEWAY)), "{policy} to {to}, {masquerade}");
            let opened = [("flows_opened", 32), ("flows_live", 32), ("flows_half_open", 32)];
            lab.counters(&[&[("rx", 32), ("tx", 32)], &opened[..]].concat());
        }
    }
}

/// Kubernetes `pkg/proxy/iptables/proxier.go`: loadBalancerSourceRanges apply to the node, as which the host connects.
#[test]
fn source_ranges_apply_to_the_host_by_its_own_or_the_gateways_address() {
    for (ranges, own, allowed) in [
        ("192.168.50.0/24", KERNEL, true),
        ("192.168.50.2/32", OWN, true),
        ("192.168.50.2/32", KERNEL, false),
        ("192.0.2.0/24", OWN, false),
    ] {
        let mut lab = Lab::with_pair("", &shop(&format!(", loadBalancerSourceRanges: [{ranges}]"), &["10.244.1.10"]));
        lab.send(HOST, tcp(&from(own, 40000), LOAD_BALANCER));
        if allowed {
            lab.expect(PODS);
            lab.counters(&[&[("rx", 1), ("tx", 1)], &OPENED[..]].concat());
        } else {
            lab.counters(&[("rx", 1), ("source_not_allowed", 1)]);
        }
    }
}

/// By the pair only the host's own processes send, so that no other network of the host gets their rights.
#[test]
fn what_the_host_forwards_into_the_pair_is_dropped() {
    let mut lab = Lab::with_pair("", &[web(&["10.244.1.10"]), echo(&["10.244.1.10"])].concat());
    lab.send(HOST, tcp("172.17.0.2:40000", "10.96.0.50:80"));
    lab.send(HOST, udp("10.244.1.5:40000", "10.96.0.60:7"));
    lab.counters(&[("rx", 2), ("bad_source", 2)]);
}

/// RFC 1122 §3.2.1.3, by the rule that no other host has the host's address.
#[test]
fn the_hosts_addresses_from_another_interface_are_spoofed() {
    let mut lab = Lab::with_pair("", &shop("", &["10.244.1.10"]));
    for own in [KERNEL, OWN, WORKERS] {
        lab.send(OUTSIDE, tcp(&from(own, 40000), NODE_PORT));
    }
    lab.counters(&[("rx", 3), ("bad_source", 3)]);
}

/// RFC 1122 §3.3.4.2, RFC 3927 §2.7: the pair's addresses are on no other link, so a packet to one that comes by another is not for it.
#[test]
fn the_workers_address_is_on_no_other_link() {
    let mut lab = Lab::with_pair("", &here());
    for (port, client) in [(OUTSIDE, "192.168.50.100"), (PODS, "10.244.1.5"), (OUTSIDE, OWN)] {
        lab.send(port, icmp(client, WORKERS, ECHO_REQUEST, 0, [0; 4]));
        // A port for translated sources and another one.
        lab.send(port, tcp(&from(client, 8080), &from(WORKERS, 5000)).flags("A"));
        lab.send(port, udp(&from(client, 8080), &from(WORKERS, 40000)));
    }
    lab.through(HOST, icmp(OWN, WORKERS, ECHO_REQUEST, 0, [0; 4]), HOST);
    lab.counters(&[("rx", 10), ("tx", 1), ("bad_source", 9)]);
}

/// A reply to any other address would leave the host by another interface, untranslated.
#[test]
fn a_listener_of_the_host_sees_the_workers_address_and_replies_by_the_pair() {
    for (port, client, to) in [
        (PODS, "10.244.1.5:40000", "10.96.0.80:80"),
        (OUTSIDE, "192.168.50.100:40000", "192.168.50.10:30081"),
        (HOST, "169.254.112.1:40000", "10.96.0.80:80"),
        (HOST, "192.168.50.2:40000", "192.168.50.10:30081"),
    ] {
        for masquerade in ["", "nat: {masquerade: never}\n"] {
            let mut lab = Lab::with_pair(masquerade, &here());
            let seen = lab.through(port, tcp(client, to), HOST);
            assert_eq!((*seen.src().ip(), seen.dst().to_string()), (ip(WORKERS), from(OWN, 8080)), "{client} {to}");
            assert!((1024..=29999).contains(&seen.src().port()), "a port of the worker's share: {seen}");
            let reply = tcp(&from(OWN, 8080), &seen.src().to_string()).flags("SA");
            let seen = lab.through(HOST, reply, port);
            assert_eq!(seen.to_string(), format!("tcp {to} > {client} SA ttl 63"));
            lab.counters(&[&[("rx", 2), ("tx", 2)], &OPENED[..]].concat());
        }
    }
}

/// The replies of a listener name their worker by the port, as those to a gateway address do.
#[test]
fn every_worker_gets_the_replies_to_its_own_flows() {
    let mut lab = Lab::with(Setup { workers: 2, pair: true, ..Setup::default() }, &here());
    for port in 40000..40016 {
        let client = format!("192.168.50.100:{port}");
        lab.push(0, OUTSIDE, tcp(&client, "192.168.50.10:30081"));
        lab.run();
        let seen = lab.expect(HOST);
        lab.push(1, HOST, tcp(&from(OWN, 8080), &seen.src().to_string()).flags("SA"));
        lab.run();
        assert_eq!(lab.expect(OUTSIDE).to_string(), format!("tcp 192.168.50.10:30081 > {client} SA ttl 63"));
    }
    // Each flow has one owner: of its two packets, exactly one came to the other worker.
    let flows = [("flows_opened", 16), ("flows_live", 16), ("flows_half_open", 16)];
    lab.counters(&[&[("rx", 32), ("tx", 32), ("handed_over", 16), ("handed_in", 16)], &flows[..]].concat());
}

/// A connection that the gateway has forgotten is reset at the listener (RFC 9293 §3.10.7.1), which would keep it otherwise.
#[test]
fn a_listeners_stale_connection_is_reset() {
    let mut lab = Lab::with_pair("", &here());
    let seen = lab.through(HOST, tcp(&from(OWN, 8080), &from(WORKERS, 5000)).flags("A"), HOST);
    assert_eq!(seen.to_string(), format!("tcp {WORKERS}:5000 > {OWN}:8080 R ttl 64"));
    lab.send(HOST, udp(&from(OWN, 8080), &from(WORKERS, 40000)));
    lab.counters(&[("rx", 2), ("stale_reply", 1), ("undefined_port", 1), ("originated", 1), ("tx", 1)]);
}

/// RFC 5508 §4.2; the error of a listener's host comes from the address that the client knows.
#[test]
fn icmp_errors_of_the_host_reach_the_client() {
    let manifests =
        service("here", "type: NodePort, clusterIP: 10.96.0.80, ports: [{port: 7, protocol: UDP, nodePort: 30081}]")
            + &endpoints("here", "UDP", 7007, &[OWN]);
    let mut lab = Lab::with_pair("", &manifests);
    let seen = lab.through(OUTSIDE, udp("192.168.50.100:40000", "192.168.50.10:30081"), HOST);
    let error = about(OWN, &seen, ERRORS[1], 576);
    let seen = lab.through(HOST, error, OUTSIDE);
    assert_eq!(seen.to_string(), "icmp 192.168.50.10 > 192.168.50.100 port-unreachable ttl 63");
    lab.counters(&[&[("rx", 2), ("tx", 2)], &OPENED[..]].concat());
}

#[test]
fn owned_addresses_answer_the_hosts_echo_requests_and_refusals_reach_it() {
    let mut lab = Lab::with_pair("", &web(&[]));
    for to in ["10.96.0.50", GATEWAY, WORKERS] {
        let seen = lab.through(HOST, icmp(KERNEL, to, ECHO_REQUEST, 0, [0; 4]), HOST);
        assert_eq!(seen.to_string(), format!("icmp {to} > {KERNEL} echo-reply ttl 64"));
    }
    let seen = lab.through(HOST, tcp(&from(KERNEL, 40000), "10.96.0.50:80"), HOST);
    assert_eq!(seen.to_string(), format!("tcp 10.96.0.50:80 > {KERNEL}:40000 RA ttl 64"));
    lab.counters(&[("rx", 4), ("tx", 4), ("originated", 1), ("reject_no_endpoints", 1)]);
}

/// Who may not be asked for the pair's address is not told that somebody has it.
#[test]
fn without_the_pair_the_hosts_addresses_are_neighbours_like_any() {
    let mut lab = Lab::new(&here());
    lab.send(OUTSIDE, tcp("192.168.50.100:40000", "192.168.50.10:30081"));
    assert_eq!(lab.asked(), [std::net::IpAddr::from(ip(OWN))], "nobody has told it who that is");
    lab.counters(&[&[("rx", 1), ("held", 1)], &OPENED[..]].concat());
}

/// Everything that a client of the host gets wrong is its own.
#[test]
fn a_frame_for_nobody_is_left_to_the_kernel() {
    let mut lab = Lab::with_pair("", &web(&["10.244.1.10"]));
    lab.send(HOST, tcp(&from(KERNEL, 40000), "8.8.8.8:80"));
    lab.send(HOST, tcp(&from(KERNEL, 40000), "10.96.9.9:80"));
    lab.counters(&[("rx", 2), ("not_owned", 1), ("no_such_cluster_ip", 1)]);
}

/// A health-check node port of Service `shop` (Kubernetes `pkg/proxy/healthcheck/service_health.go`: at every node address).
fn checked(policy: &str) -> String {
    let port = if policy == "Local" { ", healthCheckNodePort: 30999" } else { "" };
    shop(&format!(", externalTrafficPolicy: {policy}{port}"), &["10.244.1.10"])
}

#[test]
fn a_health_check_reaches_its_listener_from_everywhere() {
    for (to, listener) in [("192.168.50.10:30999", "169.254.112.1:9001"), ("192.168.50.10:10256", "169.254.112.1:9000")]
    {
        for (port, client) in
            [(OUTSIDE, "192.168.50.100:40000"), (PODS, "10.244.1.5:40000"), (HOST, "169.254.112.1:40000")]
        {
            let mut lab = Lab::with_pair("", &checked("Local"));
            let seen = lab.through(port, tcp(client, to), HOST);
            assert_eq!((*seen.src().ip(), seen.dst().to_string()), (ip(WORKERS), listener.to_owned()), "{client} {to}");
            let seen = lab.through(HOST, tcp(listener, &seen.src().to_string()).flags("SA"), port);
            assert_eq!(seen.to_string(), format!("tcp {to} > {client} SA ttl 63"));
            lab.counters(&[&[("rx", 2), ("tx", 2)], &OPENED[..]].concat());
        }
    }
}

/// Kubernetes `pkg/proxy/serviceport.go`: only with policy Local. The protocol is TCP.
#[test]
fn a_health_check_lives_as_long_as_its_service_has_it() {
    let mut lab = Lab::with_pair("", &checked("Local"));
    let ask = || tcp("192.168.50.100:40000", "192.168.50.10:30999");
    lab.send(OUTSIDE, udp("192.168.50.100:40000", "192.168.50.10:30999"));
    lab.counters(&[("rx", 1), ("undefined_port", 1)]);
    lab.apply(&checked("Cluster"));
    lab.send(OUTSIDE, ask());
    lab.counters(&[("rx", 2), ("undefined_port", 2)]);
    lab.apply(&checked("Local"));
    lab.through(OUTSIDE, ask(), HOST);
    lab.counters(&[&[("rx", 3), ("undefined_port", 2), ("tx", 1)], &OPENED[..]].concat());
}

/// A Service that names the DNS address, and its port.
fn kube_dns() -> String {
    service("kube-dns", "clusterIP: 10.96.0.10, ports: [{port: 53}]")
        + &endpoints("kube-dns", "TCP", 53, &["10.244.1.10"])
}

/// RFC 7766 §5: a server answers over TCP, too.
#[test]
fn dns_over_tcp_reaches_its_listener_which_can_tell_the_client() {
    for (port, client) in [(OUTSIDE, "192.168.50.100:40000"), (PODS, "10.244.1.5:40000"), (HOST, "169.254.112.1:40000")]
    {
        for manifests in [String::new(), kube_dns()] {
            let mut lab = Lab::with_pair("nat: {masquerade: never}\n", &manifests);
            let seen = lab.through(port, tcp(client, "10.96.0.10:53"), HOST);
            assert_eq!((*seen.src().ip(), seen.dst().to_string()), (ip(WORKERS), "169.254.112.1:9053".to_owned()));
            let noted = lab.dns_client(seen.src().port()).map(|noted| from(&noted.to_string(), 40000));
            assert_eq!(noted.as_deref(), Some(client));
            let seen = lab.through(HOST, tcp("169.254.112.1:9053", &seen.src().to_string()).flags("SA"), port);
            assert_eq!(seen.to_string(), format!("tcp 10.96.0.10:53 > {client} SA ttl 63"));
            lab.counters(&[&[("rx", 2), ("tx", 2)], &OPENED[..]].concat());
        }
    }
}

/// Only DNS needs to know the client.
#[test]
fn other_local_services_note_no_client() {
    let mut lab = Lab::with_pair("", &checked("Local"));
    let seen = lab.through(OUTSIDE, tcp("192.168.50.100:40000", "192.168.50.10:30999"), HOST);
    assert_eq!(lab.dns_client(seen.src().port()), None);
    lab.counters(&[&[("rx", 1), ("tx", 1)], &OPENED[..]].concat());
}

/// An undefined port of a ClusterIP is rejected (Kubernetes `pkg/proxy/nftables/README.md`): the client sees a refused connection.
#[test]
fn without_the_pair_dns_over_tcp_is_refused() {
    let mut lab = Lab::new("");
    let seen = lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.10:53"), PODS);
    assert_eq!(seen.to_string(), "tcp 10.96.0.10:53 > 10.244.1.5:40000 RA ttl 64");
    lab.counters(&[("rx", 1), ("reject_undefined_port", 1), ("originated", 1), ("tx", 1)]);
}

/// Nothing listens in a replay, or without the host pair: the port is then undefined.
#[test]
fn without_the_pair_there_are_no_local_services() {
    let mut lab = Lab::new(&checked("Local"));
    lab.send(OUTSIDE, tcp("192.168.50.100:40000", "192.168.50.10:30999"));
    lab.counters(&[("rx", 1), ("undefined_port", 1)]);
}

/// An AF_XDP port takes frames away from the kernel. What it took by mistake goes to the host as it came.
#[test]
fn what_the_kernel_has_not_seen_is_given_to_it_by_the_pair() {
    let wrap = |at: usize, inner: MemoryPort| -> Box<dyn Port> {
        if at == HOST { Box::new(inner) } else { Box::new(Sole { inner }) }
    };
    let setup = Setup { wrap: Box::new(wrap), pair: true, ..Setup::default() };
    let mut lab = Lab::with(setup, &web(&["10.244.1.10"]));
    let seen = lab.through(PODS, tcp("10.244.1.10:8080", &from(OWN, 40000)).flags("A"), HOST);
    assert_eq!(seen.to_string(), format!("tcp 10.244.1.10:8080 > {OWN}:40000 A ttl 64"), "unchanged");
    // Not an IP packet to this interface.
    lab.send(PODS, tcp("10.244.1.10:8080", "10.244.1.5:1").addressed([2, 0, 0, 0, 0, 9]));
    lab.counters(&[("rx", 2), ("tx", 1), ("given_to_host", 1), ("not_passed", 1)]);
}

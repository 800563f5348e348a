//! From outside, and by the addresses meant for outside: who is chosen, and when the source is translated.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::support::builder::{ip, tcp, udp};
use super::support::lab::{GATEWAY, Lab, OUTSIDE, PODS, Setup};
use super::support::objects::{endpoints, service, shop, web};
use super::support::seen::Seen;

const CLUSTER_IP: &str = "10.96.0.70:80";
const NODE_PORT: &str = "192.168.50.10:30080";
const LOAD_BALANCER: &str = "203.0.113.7:80";
const EXTERNAL: &str = "198.51.100.7:80";
const ALL: [&str; 4] = [CLUSTER_IP, NODE_PORT, LOAD_BALANCER, EXTERNAL];
const NODES: [&str; 2] = ["10.244.1.10@node-1", "10.244.2.15@node-2"];

/// Traffic policy, port the clients are on, addresses they try; endpoints they get, and whether they are translated.
type Case<'a> = (&'a str, usize, &'a [&'a str], &'a [&'a str], bool);

/// Opens `count` connections from `port` to `to`; answers the translated SYNs.
fn connect(lab: &mut Lab, port: usize, to: &str, count: u16) -> Vec<Seen> {
    let from = if port == PODS { "10.244.1.5" } else { "192.168.50.100" };
    lab.send_all(port, (0..count).map(|n| tcp(&format!("{from}:{}", 40000 + n), to)));
    lab.take(PODS)
}

fn is_snat(seen: &Seen) -> bool {
    let translated = *seen.src().ip() == ip(GATEWAY);
    assert!(!translated || (1024..=29999).contains(&seen.src().port()), "{seen}");
    translated
}

#[test]
fn a_client_outside_is_translated_there_and_back_at_every_address() {
    for vip in ALL {
        let mut lab = Lab::new(&shop("", &["10.244.1.10"]));
        let seen = lab.through(OUTSIDE, tcp("192.168.50.100:50000", vip), PODS);
        assert!(is_snat(&seen), "{seen}");
        assert_eq!((seen.dst().to_string(), seen.ip.time_to_live), ("10.244.1.10:8080".to_owned(), 63));
        let back = tcp("10.244.1.10:8080", &seen.src().to_string()).flags("SA");
        let seen = lab.through(PODS, back, OUTSIDE);
        assert_eq!(seen.to_string(), format!("tcp {vip} > 192.168.50.100:50000 SA ttl 63"));
        lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
    }
}

#[test]
fn a_client_behind_the_router_gets_its_answers_by_the_router() {
    let mut lab = Lab::new(&shop("", &["10.244.1.10"]));
    let seen = lab.through(OUTSIDE, tcp("8.8.8.8:50000", LOAD_BALANCER), PODS);
    // `expect` has checked that the frame's MAC is the router's.
    let seen = lab.through(PODS, tcp("10.244.1.10:8080", &seen.src().to_string()).flags("SA"), OUTSIDE);
    assert_eq!(seen.to_string(), "tcp 203.0.113.7:80 > 8.8.8.8:50000 SA ttl 63");
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

/// Kubernetes `pkg/proxy/iptables/proxier_test.go`, TestInternalExternalMasquerade, for a gateway on node-1.
#[test]
fn policies_choose_and_translate_as_kubernetes_does() {
    let (internal, external) = (", internalTrafficPolicy: Local", ", externalTrafficPolicy: Local");
    let (local, all): (&[&str], &[&str]) = (&["10.244.1.10"], &["10.244.1.10", "10.244.2.15"]);
    let cases: [Case<'_>; 11] = [
        ("", PODS, &[CLUSTER_IP], all, false),
        ("", PODS, &[NODE_PORT, LOAD_BALANCER, EXTERNAL], all, true),
        ("", OUTSIDE, &ALL, all, true),
        (external, PODS, &[CLUSTER_IP], all, false),
        (external, PODS, &[NODE_PORT, LOAD_BALANCER, EXTERNAL], all, false),
        (external, OUTSIDE, &[CLUSTER_IP], all, true),
        (external, OUTSIDE, &[NODE_PORT, LOAD_BALANCER, EXTERNAL], local, false),
        (internal, PODS, &[CLUSTER_IP], local, false),
        (internal, PODS, &[NODE_PORT, LOAD_BALANCER, EXTERNAL], all, true),
        (internal, OUTSIDE, &[CLUSTER_IP], local, true),
        (internal, OUTSIDE, &[NODE_PORT, LOAD_BALANCER, EXTERNAL], all, true),
    ];
    for (policy, from, addresses, expected, snat) in cases {
        for address in addresses {
            let mut lab = Lab::configured("node: node-1\n", &shop(policy, &NODES));
            let seen = connect(&mut lab, from, address, 32);
            let chosen: BTreeSet<Ipv4Addr> = seen.iter().map(|seen| *seen.dst().ip()).collect();
            let what = format!("{policy} port {from} to {address}");
            assert_eq!(chosen, expected.iter().map(|text| ip(text)).collect(), "{what}");
            assert!(seen.iter().all(|seen| is_snat(seen) == snat), "{what}");
            let opened = [("flows_opened", 32), ("flows_live", 32), ("flows_half_open", 32)];
            lab.counters(&[&[("rx", 32), ("tx", 32)], &opened[..]].concat());
        }
    }
}

/// Two Pods, each in a zone of its own, behind a Service that prefers the zone of who asks.
fn zoned(policy: &str) -> String {
    let pod = |name: &str, zone: &str, address: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n\
             ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: on-{name}, labels: {{app: shop}}}}\n\
             spec: {{nodeName: {name}, containers: [{{name: c}}]}}\n\
             status: {{phase: Running, podIP: {address}, conditions: [{{type: Ready, status: \"True\"}}]}}\n"
        )
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: shop}}\n\
         spec: {{clusterIP: 10.96.0.70, selector: {{app: shop}}, trafficDistribution: PreferSameZone{policy}, \
         ports: [{{port: 80, targetPort: 8080}}]}}\n{}{}",
        pod("node-1", "a", "10.244.1.10"),
        pod("node-2", "b", "10.244.2.15")
    )
}

/// Kubernetes `pkg/proxy/topology.go`: hints are advice to a gateway that has a zone, and nothing to a Local policy.
#[test]
fn hints_keep_connections_in_the_zone_of_the_gateway() {
    let all = ["10.244.1.10", "10.244.2.15"];
    let cases: [(&str, &str, &[&str]); 5] = [
        ("", "", &all),
        ("zone: a\n", "", &all[..1]),
        ("zone: b\n", "", &all[1..]),
        ("zone: c\n", "", &all),
        ("zone: a\nnode: node-2\n", ", internalTrafficPolicy: Local", &all[1..]),
    ];
    for (config, policy, expected) in cases {
        let mut lab = Lab::configured(config, &zoned(policy));
        let chosen: BTreeSet<Ipv4Addr> =
            connect(&mut lab, PODS, CLUSTER_IP, 32).iter().map(|s| *s.dst().ip()).collect();
        assert_eq!(chosen, expected.iter().map(|text| ip(text)).collect(), "{config} {policy}");
        let opened = [("flows_opened", 32), ("flows_live", 32), ("flows_half_open", 32)];
        lab.counters(&[&[("rx", 32), ("tx", 32)], &opened[..]].concat());
    }
}

#[test]
fn without_a_node_the_whole_cluster_is_local() {
    let mut lab = Lab::new(&shop(", externalTrafficPolicy: Local", &NODES));
    let seen = connect(&mut lab, OUTSIDE, LOAD_BALANCER, 32);
    assert_eq!(seen.iter().map(Seen::dst).collect::<BTreeSet<_>>().len(), 2);
    assert!(!seen.iter().any(is_snat));
    let opened = [("flows_opened", 32), ("flows_live", 32), ("flows_half_open", 32)];
    lab.counters(&[&[("rx", 32), ("tx", 32)], &opened[..]].concat());
}

#[test]
fn an_untranslated_client_outside_is_answered_from_the_address_it_asked() {
    let mut lab = Lab::configured("node: node-1\n", &shop(", externalTrafficPolicy: Local", &NODES));
    let seen = lab.through(OUTSIDE, tcp("192.168.50.100:50000", LOAD_BALANCER), PODS);
    assert_eq!(seen.to_string(), "tcp 192.168.50.100:50000 > 10.244.1.10:8080 S ttl 63");
    let seen = lab.through(PODS, tcp("10.244.1.10:8080", "192.168.50.100:50000").flags("SA"), OUTSIDE);
    assert_eq!(seen.to_string(), "tcp 203.0.113.7:80 > 192.168.50.100:50000 SA ttl 63");
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn nobody_local_is_a_drop_and_nobody_at_all_a_refusal() {
    let both = ", externalTrafficPolicy: Local, internalTrafficPolicy: Local";
    let mut lab = Lab::configured("node: node-3\n", &shop(both, &NODES));
    for address in ALL {
        lab.send(OUTSIDE, tcp("192.168.50.100:50000", address));
    }
    lab.counters(&[("rx", 4), ("no_local_endpoints", 4)]);
    let mut lab = Lab::configured("node: node-3\n", &shop(both, &[]));
    for address in ALL {
        let seen = lab.through(OUTSIDE, tcp("192.168.50.100:50000", address), OUTSIDE);
        assert_eq!(seen.to_string(), format!("tcp {address} > 192.168.50.100:50000 RA ttl 64"));
    }
    lab.counters(&[("rx", 4), ("originated", 4), ("tx", 4), ("reject_no_endpoints", 4)]);
}

#[test]
fn a_pod_that_reaches_itself_sees_the_gateway() {
    let mut lab = Lab::configured("node: node-1\n", &shop(", internalTrafficPolicy: Local", &["10.244.1.10@node-1"]));
    let seen = lab.through(PODS, tcp("10.244.1.10:40000", CLUSTER_IP), PODS);
    assert!(is_snat(&seen), "{seen}");
    let seen = lab.through(PODS, tcp("10.244.1.10:8080", &seen.src().to_string()).flags("SA"), PODS);
    assert_eq!(seen.to_string(), "tcp 10.96.0.70:80 > 10.244.1.10:40000 SA ttl 63");
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn masquerade_all_translates_pods_too() {
    let mut lab = Lab::configured("nat: {masqueradeAll: true}\n", &shop("", &["10.244.1.10"]));
    assert!(is_snat(&lab.through(PODS, tcp("10.244.1.5:40000", CLUSTER_IP), PODS)));
    lab.counters(&[("rx", 1), ("tx", 1), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn several_gateway_addresses_all_serve_and_share_the_clients() {
    let mut lab = Lab::configured("addresses: [192.168.50.10, 192.168.50.11]\n", &shop("", &["10.244.1.10"]));
    for gateway in ["192.168.50.10:30080", "192.168.50.11:30080"] {
        lab.send_all(OUTSIDE, (1..=40).map(|n| tcp(&format!("192.168.7.{n}:{}", 50000 + n % 4), gateway)));
    }
    let seen = lab.take(PODS);
    let (first, second) = seen.split_at(40);
    let source = |seen: &Seen| *seen.src().ip();
    assert_eq!(first.iter().map(source).collect::<BTreeSet<_>>().len(), 2, "both addresses are used");
    let same = first.iter().zip(second).filter(|(a, b)| source(a) == source(b)).count();
    assert_eq!(same, 40, "a client is always the same address");
    let opened = [("flows_opened", 80), ("flows_live", 80), ("flows_half_open", 80)];
    lab.counters(&[&[("rx", 80), ("tx", 80)], &opened[..]].concat());
}

/// Two Services of one endpoint each, and two source ports towards each endpoint.
fn two_ports() -> Lab {
    let two = web(&["10.244.1.10"]) + &service("alt", "clusterIP: 10.96.0.51, ports: [{port: 80, targetPort: 8080}]");
    let two = two + &endpoints("alt", "TCP", 8080, &["10.244.1.11"]);
    Lab::configured("nat: {ports: 2000-2001}\n", &two)
}

#[test]
fn source_ports_run_out_towards_one_endpoint_and_not_the_other() {
    let mut lab = two_ports();
    let client = |n: u16, to: &str| tcp(&format!("192.168.50.100:{}", 50000 + n), to);
    let mut ports = BTreeSet::new();
    for n in 0..2 {
        let translated = lab.through(OUTSIDE, client(n, "10.96.0.50:80"), PODS).src();
        lab.through(PODS, tcp("10.244.1.10:8080", &translated.to_string()).flags("SA"), OUTSIDE);
        lab.through(OUTSIDE, client(n, "10.96.0.50:80").flags("A"), PODS);
        ports.insert(translated.port());
    }
    assert_eq!(ports, BTreeSet::from([2000, 2001]));
    lab.send_all(OUTSIDE, (2..5).map(|n| client(n, "10.96.0.50:80")));
    lab.send_all(OUTSIDE, (0..2).map(|n| client(n, "10.96.0.51:80")));
    assert_eq!(lab.take(PODS).len(), 2);
    let flows = [("flows_opened", 4), ("flows_live", 4), ("flows_half_open", 2)];
    lab.counters(&[&[("rx", 11), ("tx", 8), ("snat_ports_exhausted", 3)], &flows[..]].concat());
}

#[test]
fn the_port_of_the_flow_unconfirmed_longest_is_taken_over() {
    let mut lab = two_ports();
    let client = |n: u16| tcp(&format!("192.168.50.100:{}", 50000 + n), "10.96.0.50:80");
    let translated: Vec<String> = (0..4).map(|n| lab.through(OUTSIDE, client(n), PODS).src().to_string()).collect();
    // The third has the first one's port, the fourth the second one's.
    assert_eq!(translated[..2], translated[2..]);
    for n in [2, 3] {
        let to = &translated[usize::from(n)];
        let back = lab.through(PODS, tcp("10.244.1.10:8080", to).flags("SA"), OUTSIDE);
        assert_eq!(back.dst().port(), 50000 + n);
        lab.through(OUTSIDE, client(n).flags("A"), PODS);
    }
    let flows = [("flows_opened", 4), ("flows_live", 2), ("ports_taken_over", 2)];
    lab.counters(&[&[("rx", 8), ("tx", 8)], &flows[..]].concat());
}

#[test]
fn two_services_with_one_endpoint_are_told_apart_though_the_client_uses_one_port() {
    let alt = service("alt", "clusterIP: 10.96.0.51, ports: [{port: 80, targetPort: 8080}]");
    let mut lab = Lab::new(&(web(&["10.244.1.10"]) + &alt + &endpoints("alt", "TCP", 8080, &["10.244.1.10"])));
    let first = lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.50:80"), PODS);
    let second = lab.through(PODS, tcp("10.244.1.5:40000", "10.96.0.51:80"), PODS);
    assert_eq!(first.src().to_string(), "10.244.1.5:40000");
    assert!(second.src().ip() == first.src().ip() && second.src().port() != 40000, "{second}");
    for (seen, vip) in [(first, "10.96.0.50:80"), (second, "10.96.0.51:80")] {
        let back = lab.through(PODS, tcp("10.244.1.10:8080", &seen.src().to_string()).flags("SA"), PODS);
        assert_eq!(back.to_string(), format!("tcp {vip} > 10.244.1.5:40000 SA ttl 63"));
    }
    // A third in mid-stream cannot be translated and must not be mixed up.
    lab.send(PODS, tcp("10.244.1.5:40000", "10.96.0.51:80").flags("R"));
    lab.take(PODS);
    // The first has not been confirmed, the second is over.
    lab.counters(&[("rx", 5), ("tx", 5), ("flows_opened", 2), ("flows_live", 2), ("flows_half_open", 1)]);
}

#[test]
fn a_pod_keeps_its_address_whatever_services_it_reaches_the_same_endpoint_by() {
    let of = |name: &str, address: &str| {
        let spec = format!("clusterIP: {address}, ports: [{{port: 7, protocol: UDP, targetPort: 7007}}]");
        service(name, &spec) + &endpoints(name, "UDP", 7007, &["10.244.1.10"])
    };
    const VIPS: [&str; 3] = ["10.96.0.61", "10.96.0.62", "10.96.0.63"];
    let services: String = ["a", "b", "c"].iter().zip(VIPS).map(|(name, address)| of(name, address)).collect();
    let mut lab = Lab::with(Setup { workers: 2, ..Setup::default() }, &services);
    let mut sources = BTreeSet::new();
    for port in 40_000..40_200 {
        for vip in VIPS {
            let client = format!("10.244.1.5:{port}");
            let seen = lab.through(PODS, udp(&client, &format!("{vip}:7")), PODS);
            assert_eq!(seen.src().ip().to_string(), "10.244.1.5");
            assert!(sources.insert(seen.src()), "each source once");
            let back = lab.through(PODS, udp("10.244.1.10:7007", &seen.src().to_string()), PODS);
            assert_eq!(back.to_string(), format!("udp {vip}:7 > {client} ttl 63"));
        }
    }
    assert_eq!(lab.totals().flows_live, 600);
    assert_eq!(lab.totals().dropped(), 0);
    lab.balance();
}

#[test]
fn without_masquerading_endpoints_see_their_clients() {
    let never = "nat: {masquerade: never}\n";
    let mut lab = Lab::configured(never, &shop("", &["10.244.1.10"]));
    for (n, address) in (0..).zip(ALL) {
        let client = format!("192.168.50.100:{}", 50_000 + n);
        let seen = lab.through(OUTSIDE, tcp(&client, address), PODS);
        assert_eq!(seen.to_string(), format!("tcp {client} > 10.244.1.10:8080 S ttl 63"), "{address}");
        let back = lab.through(PODS, tcp("10.244.1.10:8080", &client).flags("SA"), OUTSIDE);
        assert_eq!(back.to_string(), format!("tcp {address} > {client} SA ttl 63"));
    }
    let hairpin = lab.through(PODS, tcp("10.244.1.10:40000", LOAD_BALANCER), PODS);
    assert!(is_snat(&hairpin), "a Pod that reaches itself: {hairpin}");
    let joined = lab.through(OUTSIDE, tcp("192.168.50.100:60000", NODE_PORT).flags("A"), PODS);
    assert_eq!(joined.dst().to_string(), "10.244.1.10:8080", "another gateway's connection");
    let flows = [("flows_opened", 6), ("flows_live", 6), ("flows_half_open", 6)];
    lab.counters(&[&[("rx", 10), ("tx", 10)], &flows[..]].concat());
}

#[test]
fn a_translated_connection_cannot_be_joined_in_mid_stream() {
    let mut lab = Lab::new(&shop("", &["10.244.1.10"]));
    for address in ALL {
        for flags in ["A", "PA", "FA", "R", "SA"] {
            lab.send(OUTSIDE, tcp("192.168.50.100:50000", address).flags(flags).numbers(5_000, 9_000));
            if flags != "R" {
                // The client is told at once that its connection is gone.
                let reset = lab.expect(OUTSIDE);
                assert_eq!(reset.to_string(), format!("tcp {address} > 192.168.50.100:50000 R ttl 64"));
                assert_eq!(reset.tcp().sequence_number, 9_000, "what it acknowledged");
            }
        }
    }
    lab.counters(&[("rx", 20), ("tcp_no_flow", 20), ("originated", 16), ("tx", 16)]);
}

#[test]
fn a_late_segment_to_a_source_port_is_reset_and_a_syn_or_datagram_is_not() {
    let mut lab = Lab::new(&shop("", &["10.244.1.10"]));
    let late = |flags| tcp("10.244.1.10:8080", "192.168.50.10:5000").flags(flags).numbers(5_000, 9_000);
    for flags in ["SA", "A", "FA", "PA"] {
        let reset = lab.through(PODS, late(flags), PODS);
        assert_eq!(reset.to_string(), "tcp 192.168.50.10:5000 > 10.244.1.10:8080 R ttl 64");
    }
    lab.send(PODS, late("S"));
    lab.send(PODS, late("RA"));
    lab.send(PODS, udp("10.244.1.10:8080", "192.168.50.10:5000"));
    lab.counters(&[("rx", 7), ("stale_reply", 7), ("originated", 4), ("tx", 4)]);
}

/// A host gets what its prefix gets: a tenth of the worker's resets (`refusals` has the others').
#[test]
fn resets_have_a_rate() {
    let mut lab = Lab::new(&shop("", &["10.244.1.10"]));
    let lost = |n: u16| tcp(&format!("192.168.50.100:{}", 20_000 + n), "203.0.113.7:80").flags("A");
    lab.send_all(OUTSIDE, (0..10_050).map(lost));
    assert_eq!(lab.take(OUTSIDE).len(), 1000);
    lab.counters(&[("rx", 10_050), ("tcp_no_flow", 10_050), ("originated", 1000), ("tx", 1000)]);
    // Ten milliseconds later there are ten more.
    lab.wait(std::time::Duration::from_millis(10));
    lab.send_all(OUTSIDE, (0..20).map(lost));
    assert_eq!(lab.take(OUTSIDE).len(), 10);
}

#[test]
fn source_ranges_guard_the_load_balancer_address_alone() {
    let ranges = ", loadBalancerSourceRanges: [192.168.50.0/25, 10.244.1.5/32]";
    let mut lab = Lab::new(&shop(ranges, &["10.244.1.10"]));
    let mut lets_in = |port, from: &str, to| {
        lab.send(port, tcp(from, to));
        !lab.take(PODS).is_empty()
    };
    assert!(lets_in(OUTSIDE, "192.168.50.100:50000", LOAD_BALANCER));
    assert!(lets_in(PODS, "10.244.1.5:50000", LOAD_BALANCER));
    assert!(!lets_in(OUTSIDE, "192.168.50.200:50000", LOAD_BALANCER));
    assert!(!lets_in(PODS, "10.244.1.6:50000", LOAD_BALANCER), "it applies to Pods too");
    for address in [CLUSTER_IP, NODE_PORT, EXTERNAL] {
        assert!(lets_in(OUTSIDE, "192.168.50.200:50000", address), "{address}");
    }
    let flows = [("flows_opened", 5), ("flows_live", 5), ("flows_half_open", 5)];
    lab.counters(&[&[("rx", 7), ("tx", 5), ("source_not_allowed", 2)], &flows[..]].concat());
}

#[test]
fn under_client_ip_affinity_a_client_keeps_its_endpoint_whatever_its_port() {
    let mut lab = Lab::new(&shop(", sessionAffinity: ClientIP", &["10.244.1.10", "10.244.1.11", "10.244.2.15"]));
    let mut chosen = BTreeSet::new();
    for client in 1..=30 {
        let from = |port: u16| format!("192.168.7.{client}:{port}");
        lab.send_all(OUTSIDE, (50000..50004).map(|port| tcp(&from(port), LOAD_BALANCER)));
        lab.send(OUTSIDE, tcp(&from(50004), NODE_PORT));
        let endpoints: BTreeSet<_> = lab.take(PODS).iter().map(Seen::dst).collect();
        assert_eq!(endpoints.len(), 1, "client {client}");
        chosen.extend(endpoints);
    }
    assert_eq!(chosen.len(), 3, "different clients get different ones");
    let opened = [("flows_opened", 150), ("flows_live", 150), ("flows_half_open", 150), ("affinity_remembered", 30)];
    lab.counters(&[&[("rx", 150), ("tx", 150)], &opened[..]].concat());
}

#[test]
fn partial_checksums_and_none_survive_source_translation() {
    let spec =
        "type: NodePort, clusterIP: 10.96.0.60, ports: [{port: 7, protocol: UDP, targetPort: 7007, nodePort: 30007}]";
    let mut lab = Lab::new(&(service("echo", spec) + &endpoints("echo", "UDP", 7007, &["10.244.1.10"])));
    let plain = lab.through(OUTSIDE, udp("192.168.50.100:50000", "192.168.50.10:30007").no_checksum(), PODS);
    let partial = lab.through(OUTSIDE, udp("192.168.50.100:50001", "192.168.50.10:30007").partial(), PODS);
    assert!(is_snat(&plain) && is_snat(&partial) && partial.packet.offload.is_partial());
    let back = lab.through(PODS, udp("10.244.1.10:7007", &partial.src().to_string()).partial(), OUTSIDE);
    assert_eq!(back.to_string(), "udp 192.168.50.10:30007 > 192.168.50.100:50001 ttl 63");
    lab.counters(&[("rx", 3), ("tx", 3), ("flows_opened", 2), ("flows_live", 2), ("flows_half_open", 2)]);
}

/// Kubernetes KEP-5707: an administrator can turn external IPs off; all other addresses of the Service are served.
#[test]
fn external_ips_are_not_ours_if_they_are_turned_off() {
    let mut lab = Lab::configured("cluster, externalIPs: false\n", &shop("", &["10.244.1.10"]));
    for (n, address) in (0..).zip(ALL) {
        lab.send(OUTSIDE, tcp(&format!("192.168.50.100:{}", 50_000 + n), address));
    }
    let to: Vec<_> = lab.take(PODS).iter().map(|seen| seen.dst().to_string()).collect();
    assert_eq!(to, ["10.244.1.10:8080"; 3]);
    let flows = [("flows_opened", 3), ("flows_live", 3), ("flows_half_open", 3)];
    lab.counters(&[&[("rx", 4), ("tx", 3), ("not_owned", 1)], &flows[..]].concat());
}

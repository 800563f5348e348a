//! `pollgate trace` says what becomes of a packet: for any objects, clients and destinations, what the worker then does is what it said.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use pollgate_common::counters::Totals;
use pollgate_common::flow::Protocol;
use pollgate_common::trace::{End, PacketTrace, Told, TracedPacket};
use proptest::prelude::*;

use super::support::builder::{Ip, at, tcp, udp};
use super::support::family::{wire, written};
use super::support::lab::{GATEWAY, Lab, OUTSIDE, PODS, Setup};
use super::support::objects::{echo, endpoints, service, shop};
use super::support::seen::Seen;

/// Clients: Pods (some are endpoints), hosts outside, and addresses that no client may have.
const CLIENTS: [&str; 9] = [
    "10.244.1.5",
    "10.244.1.6",
    "10.244.1.10",
    "10.244.1.11",
    "192.168.50.100",
    "192.168.50.101",
    "198.51.100.99",
    "10.96.0.70",
    "127.0.0.1",
];

/// Destinations: every kind of frontend, owned addresses without the port, and addresses that are not owned.
const TARGETS: [&str; 14] = [
    "10.96.0.70:80",
    "203.0.113.7:80",
    "198.51.100.7:80",
    "192.168.50.10:30080",
    "10.96.0.60:7",
    "10.96.0.61:80",
    "10.96.0.70:81",
    "203.0.113.7:81",
    "198.51.100.7:81",
    "192.168.50.10:31000",
    "192.168.50.10:2000",
    "10.96.0.99:80",
    "192.168.50.2:22",
    "10.244.1.12:8080",
];

const ENDPOINTS: [&str; 6] =
    ["10.244.1.10@n1", "10.244.1.11@n2", "10.244.1.12@n1", "10.244.1.13@n2~", "10.244.1.14@n1~", "10.244.3.9@n1"];

const CONFIGS: [&str; 4] =
    ["", "node: n1\n", "node: n3\nnat: {masqueradeAll: true}\n", "node: n2\nnat: {masquerade: never}\n"];

const SPECS: [&str; 6] = [
    "",
    ", externalTrafficPolicy: Local",
    ", internalTrafficPolicy: Local",
    ", externalTrafficPolicy: Local, internalTrafficPolicy: Local",
    ", sessionAffinity: ClientIP",
    ", loadBalancerSourceRanges: [192.168.50.100/32, 10.244.1.0/24]",
];

/// A packet: client, its port, destination, protocol.
type Sent = (usize, u16, usize, bool);

fn packets() -> impl Strategy<Value = Vec<Sent>> {
    prop::collection::vec((0..CLIENTS.len(), 40000..40003u16, 0..TARGETS.len(), any::<bool>()), 1..24)
}

/// A gateway, and what it is traced with.
struct Traced {
    lab: Lab,
    /// What became of its packets.
    ends: BTreeSet<&'static str>,
}

impl Traced {
    /// Traces a packet, sends it, and compares. Returns what came out.
    fn send(&mut self, from: SocketAddrV4, to: SocketAddrV4, protocol: Protocol, packet: Ip) -> Vec<Seen> {
        let asked = asked(from, to, protocol);
        let trace = self.lab.trace(&asked);
        assert_eq!(self.lab.trace(&asked), trace, "a trace changes nothing");
        let before = self.lab.totals();
        let port = if from.ip().octets()[..2] == [10, 244] { PODS } else { OUTSIDE };
        self.lab.send(port, packet);
        let out: Vec<Seen> = [PODS, OUTSIDE].into_iter().flat_map(|port| self.lab.take(port)).collect();
        let after = self.lab.totals();
        compare(&asked, &trace, &before, &after, &out);
        self.lab.balance();
        self.ends.insert(name(trace.end));
        out
    }
}

/// What has been counted, and what came out, is what the trace says.
fn compare(asked: &TracedPacket, trace: &PacketTrace, before: &Totals, after: &Totals, out: &[Seen]) {
    let told = || format!("{asked:?}: {trace:?}; out: {:?}", out.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut expected = before.clone();
    match trace.end {
        End::Sent => {}
        End::Held => expected.held += 1,
        End::Refused(reason, _) => {
            expected.drops[reason.index()] += 1;
            expected.originated += 1;
        }
        End::Dropped(reason) => expected.drops[reason.index()] += 1,
        End::Passed(reason) => expected.passes[reason.index()] += 1,
        End::Answered | End::Elsewhere => panic!("{}", told()),
    }
    let counts = |totals: &Totals| (totals.drops, totals.passes, totals.originated, totals.held);
    assert_eq!(counts(after), counts(&expected), "{}", told());
    match (trace.end, out) {
        (End::Sent, [packet]) => sent(asked, trace, packet, &told()),
        (End::Refused(_, how), [reply]) => {
            assert_eq!(reply.ip.destination, written(asked.from.ip()), "{}", told());
            let is_reset = matches!(&reply.transport, Some(etherparse::TransportHeader::Tcp(tcp)) if tcp.rst);
            assert_eq!(is_reset, how == Told::Reset, "{}", told());
        }
        (End::Held | End::Dropped(_) | End::Passed(_), []) => {}
        _ => panic!("{}", told()),
    }
}

fn sent(asked: &TracedPacket, trace: &PacketTrace, packet: &Seen, told: &str) {
    let expected = trace.sent.unwrap_or_else(|| panic!("{told}"));
    let on_wire = |address: std::net::Ipv4Addr| -> IpAddr { wire(address) };
    assert_eq!((on_wire(*packet.dst().ip()), packet.dst().port()), (expected.to.ip(), expected.to.port()), "{told}");
    assert_eq!(on_wire(*packet.src().ip()), expected.source, "{told}");
    match expected.port {
        Some(port) => assert_eq!(packet.src().port(), port, "{told}"),
        None => assert!(packet.src().port() != asked.from.port() || expected.source != asked.from.ip(), "{told}"),
    }
    if let Some(Ok(next)) = trace.next_hop {
        assert_eq!(packet.to, next.dst.0, "{told}");
    }
}

/// A packet of the protocol; of TCP with these flags.
fn built(from: SocketAddrV4, to: SocketAddrV4, protocol: Protocol, flags: &str) -> Ip {
    let (from, to) = (from.to_string(), to.to_string());
    if protocol == Protocol::Udp { udp(&from, &to) } else { tcp(&from, &to).flags(flags) }
}

fn check(config: &str, workers: u16, manifests: &str, packets: &[Sent]) -> BTreeSet<&'static str> {
    let lab = Lab::with(Setup { config: config.to_owned(), workers, ..Setup::default() }, manifests);
    let mut traced = Traced { lab, ends: BTreeSet::new() };
    for &(client, port, target, is_udp) in packets {
        let from = SocketAddrV4::new(CLIENTS[client].parse().expect("an address"), port);
        let to: SocketAddrV4 = TARGETS[target].parse().expect("an address");
        let protocol = if is_udp { Protocol::Udp } else { Protocol::Tcp };
        // In the middle of a flow if there is one, as the trace has it.
        let flags = if traced.lab.trace(&asked(from, to, protocol)).flow.is_some() { "A" } else { "S" };
        let out = traced.send(from, to, protocol, built(from, to, protocol, flags));
        // The reply of the endpoint that it was sent to.
        if let [packet] = &out[..]
            && [8080, 7007].contains(&packet.dst().port())
        {
            let (endpoint, source) = (packet.dst(), packet.src());
            traced.send(endpoint, source, protocol, built(endpoint, source, protocol, "A"));
        }
    }
    traced.ends
}

fn asked(from: SocketAddrV4, to: SocketAddrV4, protocol: Protocol) -> TracedPacket {
    let on_wire = |end: SocketAddrV4| SocketAddr::new(wire(*end.ip()), end.port());
    TracedPacket { protocol, from: on_wire(from), to: on_wire(to) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_said_is_what_is_done(
        config in 0..CONFIGS.len(),
        workers in 1..4u16,
        spec in 0..SPECS.len(),
        some in prop::sample::subsequence(ENDPOINTS.to_vec(), 0..ENDPOINTS.len()),
        packets in packets(),
    ) {
        let manifests = [
            shop(SPECS[spec], &some),
            echo(&["10.244.1.11", "10.244.1.20"]),
            // The same endpoints again: a client's port may be known to one of them.
            service("twin", "clusterIP: 10.96.0.61, ports: [{port: 80, targetPort: 8080}]"),
            endpoints("twin", "TCP", 8080, &some),
        ];
        check(CONFIGS[config], workers, &manifests.concat(), &packets);
    }
}

/// The property is about every kind of end: these packets meet each of them.
#[test]
fn every_end_is_met() {
    let manifests = [shop("", &["10.244.1.10", "10.244.3.9"]), echo(&["10.244.1.11"])].concat();
    let packets: Vec<Sent> = (0..CLIENTS.len())
        .flat_map(|client| {
            (0..TARGETS.len()).flat_map(move |target| [(client, 40000, target, false), (client, 40001, target, true)])
        })
        .collect();
    let ends = check("", 2, &manifests, &packets);
    assert_eq!(ends, BTreeSet::from(["sent", "held", "reset", "unreachable", "dropped", "passed"]));
}

fn name(end: End) -> &'static str {
    match end {
        End::Sent => "sent",
        End::Held => "held",
        End::Answered => "answered",
        End::Refused(_, Told::Reset) => "reset",
        End::Refused(_, Told::PortUnreachable) => "unreachable",
        End::Refused(_, Told::Abort) => "abort",
        End::Refused(_, Told::TimeExceeded | Told::TooBig(_)) => "error",
        End::Dropped(_) => "dropped",
        End::Passed(_) => "passed",
        End::Elsewhere => "elsewhere",
    }
}

/// A port that the endpoint knows from another Service is another one on the way out, and the trace says so.
#[test]
fn a_port_that_is_taken_is_left_open() {
    let manifests = [
        service("web", "clusterIP: 10.96.0.50, ports: [{port: 80, targetPort: 8080}]"),
        endpoints("web", "TCP", 8080, &["10.244.1.10"]),
        service("twin", "clusterIP: 10.96.0.61, ports: [{port: 80, targetPort: 8080}]"),
        endpoints("twin", "TCP", 8080, &["10.244.1.10"]),
    ];
    let mut traced = Traced { lab: Lab::new(&manifests.concat()), ends: BTreeSet::new() };
    let from = at("10.244.1.5:40000");
    for (to, port) in [("10.96.0.50:80", Some(40000)), ("10.96.0.61:80", None)] {
        assert_eq!(traced.lab.trace(&asked(from, at(to), Protocol::Tcp)).sent.map(|sent| sent.port), Some(port));
        traced.send(from, at(to), Protocol::Tcp, tcp(&from.to_string(), to));
    }
    let outside = traced.lab.trace(&asked(at("198.51.100.99:1"), at("10.96.0.50:80"), Protocol::Tcp));
    let source = outside.sent.map(|sent| (written(sent.source).to_string(), sent.port));
    assert_eq!(source, Some((GATEWAY.to_owned(), None)), "the port is chosen when the flow opens");
}

//! A naive model of who is chosen, who is refused and whose source is translated, beside the gateway.
//!
//! The model is the text of Kubernetes' rules as functions over lists: K `pkg/proxy/topology.go` (the endpoints), `pkg/proxy/nftables/`
//! `README.md` (refusals), `pkg/proxy/iptables/proxier_test.go` TestInternalExternalMasquerade (translation), `pkg/proxy/conntrack/
//! cleanup.go` (UDP flows of endpoints that no longer serve). Random Services, endpoints and configurations, random packets, and
//! updates between them; every packet that comes out is answered, and the answer must come back to the client as from the address it
//! tried.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::time::Duration;

use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_control::objects::Kind;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::support::builder::{Ip, at, tcp, udp};
use super::support::lab::{GATEWAY, Lab, OUTSIDE, PODS};

const POD: &str = "10.244.1.5";
const CLIENT: &str = "192.168.50.100";
const CLUSTER_IP: &str = "10.96.0.70";
const LOAD_BALANCER: &str = "203.0.113.7";
const EXTERNAL: &str = "198.51.100.7";
const NODE_PORTS: [u16; 2] = [30080, 30081];
/// The translated and the untranslated end of each protocol.
const TARGETS: [u16; 2] = [8080, 7007];

/// What does not change in the life of a gateway.
#[derive(Clone, Debug)]
struct Site {
    node: bool,
    zone: bool,
    masquerade: Masquerade,
    balanced: bool,
    external_ip: bool,
    sticky: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Masquerade {
    Kubernetes,
    All,
    Never,
}

/// What an update changes.
#[derive(Clone, Debug)]
struct State {
    hidden: bool,
    internal_local: bool,
    external_local: bool,
    ranges: Vec<&'static str>,
    endpoints: BTreeMap<&'static str, Endpoint>,
}

#[derive(Clone, Debug)]
struct Endpoint {
    node: Option<&'static str>,
    zones: Option<&'static str>,
    nodes: Option<&'static str>,
    condition: Condition,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Condition {
    Ready,
    NotReady,
    ServesTerminating,
    Terminating,
}

/// A packet that opens a flow.
#[derive(Clone, Copy, Debug)]
struct Try {
    from: &'static str,
    to: To,
    tcp: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    ClusterIp,
    UndefinedPort,
    Unallocated,
    NodePort,
    LoadBalancer,
    External,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq)]
enum Expected {
    Passed,
    Dropped(DropReason),
    Refused(DropReason),
    Sent { to: Vec<&'static str>, snat: bool },
}

// The model.

impl Endpoint {
    fn is_ready(&self) -> bool {
        self.condition == Condition::Ready
    }

    fn serves_terminating(&self) -> bool {
        self.condition == Condition::ServesTerminating
    }

    /// Of all that decide about UDP flows: policies and hints do not.
    fn serves(&self) -> bool {
        self.is_ready() || self.serves_terminating()
    }
}

impl Site {
    fn is_local(&self, endpoint: &Endpoint) -> bool {
        !self.node || endpoint.node == Some("node-1")
    }

    fn cluster_set(&self, state: &State) -> Vec<&'static str> {
        let ready = state.some(Endpoint::is_ready);
        let named = |hint: fn(&Endpoint) -> Option<&'static str>, here: &str| {
            let all = ready.iter().all(|address| hint(&state.endpoints[address]).is_some());
            let ours = ready.iter().copied().filter(|address| hint(&state.endpoints[address]) == Some(here));
            if all { ours.collect() } else { Vec::new() }
        };
        let by_node = if self.node { named(|endpoint| endpoint.nodes, "node-1") } else { Vec::new() };
        let by_zone = if self.zone { named(|endpoint| endpoint.zones, "a") } else { Vec::new() };
        let sets = [by_node, by_zone, ready.clone(), state.some(Endpoint::serves_terminating)];
        sets.into_iter().find(|set| !set.is_empty()).unwrap_or_default()
    }

    fn local_set(&self, state: &State) -> Vec<&'static str> {
        let ready = state.some(|endpoint| self.is_local(endpoint) && endpoint.is_ready());
        let terminating = state.some(|endpoint| self.is_local(endpoint) && endpoint.serves_terminating());
        if ready.is_empty() { terminating } else { ready }
    }

    fn expected(&self, state: &State, packet: Try) -> Expected {
        let is_pod = packet.from != CLIENT;
        match packet.to {
            To::Unallocated => return Expected::Dropped(DropReason::NoSuchClusterIp),
            To::ClusterIp | To::UndefinedPort if state.hidden => return Expected::Dropped(DropReason::NoSuchClusterIp),
            To::UndefinedPort => return Expected::Refused(DropReason::RejectUndefinedPort),
            To::NodePort if state.hidden || !self.balanced => return Expected::Dropped(DropReason::UndefinedPort),
            To::LoadBalancer if state.hidden || !self.balanced => return Expected::Passed,
            To::External if state.hidden || !self.external_ip => return Expected::Passed,
            To::LoadBalancer if !state.lets_in(packet.from) => return Expected::Dropped(DropReason::SourceNotAllowed),
            To::ClusterIp | To::NodePort | To::LoadBalancer | To::External => {}
        }
        if state.some(Endpoint::serves).is_empty() {
            return Expected::Refused(DropReason::RejectNoEndpoints);
        }
        let internal = packet.to == To::ClusterIp;
        let (local, translated) = match (internal, is_pod) {
            (true, true) => (state.internal_local, self.masquerade == Masquerade::All),
            (true, false) => (state.internal_local, true),
            (false, true) => (false, !self.external_local(state)),
            (false, false) => (self.external_local(state), !self.external_local(state)),
        };
        let to = if local { self.local_set(state) } else { self.cluster_set(state) };
        let snat = translated && self.masquerade != Masquerade::Never;
        if to.is_empty() { Expected::Dropped(DropReason::NoLocalEndpoints) } else { Expected::Sent { to, snat } }
    }

    fn external_local(&self, state: &State) -> bool {
        state.external_local && (self.balanced || self.external_ip)
    }
}

impl State {
    fn some(&self, wanted: impl Fn(&Endpoint) -> bool) -> Vec<&'static str> {
        self.endpoints.iter().filter(|(_, endpoint)| wanted(endpoint)).map(|(address, _)| *address).collect()
    }

    fn lets_in(&self, from: &str) -> bool {
        let of_pods = from != CLIENT;
        self.ranges.is_empty() || self.ranges.iter().any(|range| range.starts_with("10.") == of_pods)
    }
}

// What the gateway is told.

impl Site {
    fn config(&self) -> String {
        let nat = match self.masquerade {
            Masquerade::Kubernetes => "",
            Masquerade::All => "nat: {masqueradeAll: true}\n",
            Masquerade::Never => "nat: {masquerade: never}\n",
        };
        let node = if self.node { "node: node-1\n" } else { "" };
        let zone = if self.zone { "zone: a\n" } else { "" };
        format!("{node}{zone}{nat}")
    }

    fn service(&self, state: &State) -> String {
        let labels =
            if state.hidden { "labels: {service.kubernetes.io/service-proxy-name: other}" } else { "labels: {}" };
        let mut spec = format!("clusterIP: {CLUSTER_IP}");
        let mut add = |wanted: bool, text: &str| {
            if wanted {
                spec += &format!(", {text}");
            }
        };
        add(self.balanced, &format!("type: LoadBalancer, loadBalancerIP: {LOAD_BALANCER}"));
        add(self.external_ip, &format!("externalIPs: [{EXTERNAL}]"));
        add(self.sticky, "sessionAffinity: ClientIP");
        add(state.internal_local, "internalTrafficPolicy: Local");
        add(self.external_local(state), "externalTrafficPolicy: Local");
        add(
            self.balanced && !state.ranges.is_empty(),
            &format!("loadBalancerSourceRanges: [{}]", state.ranges.join(", ")),
        );
        let node_port =
            |at: usize| if self.balanced { format!(", nodePort: {}", NODE_PORTS[at]) } else { String::new() };
        let ports = format!(
            "ports: [{{name: t, port: 80, targetPort: 8080{}}}, {{name: u, protocol: UDP, port: 80, targetPort: 7007{}}}]",
            node_port(0),
            node_port(1)
        );
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: shop, {labels}}}\nspec: {{{spec}, {ports}}}\n---\n")
    }
}

impl State {
    fn slice(&self) -> String {
        let list: String = self.endpoints.iter().map(|(address, endpoint)| endpoint.line(address)).collect();
        let list = if list.is_empty() { "endpoints: []\n".to_owned() } else { format!("endpoints:\n{list}") };
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: shop-1, labels: {{kubernetes.io/service-name: shop}}}}\n\
             ports: [{{name: t, protocol: TCP, port: 8080}}, {{name: u, protocol: UDP, port: 7007}}]\n{list}---\n"
        )
    }
}

impl Endpoint {
    fn line(&self, address: &str) -> String {
        let conditions = match self.condition {
            Condition::Ready => "ready: true",
            Condition::NotReady => "ready: false, serving: false, terminating: false",
            Condition::ServesTerminating => "ready: false, serving: true, terminating: true",
            Condition::Terminating => "ready: false, serving: false, terminating: true",
        };
        let node = self.node.map(|node| format!(", nodeName: {node}")).unwrap_or_default();
        let hint = |key: &str, name: Option<&str>| name.map(|name| format!("{key}: [{{name: {name}}}]"));
        let hints: Vec<String> =
            [hint("forZones", self.zones), hint("forNodes", self.nodes)].into_iter().flatten().collect();
        format!("  - {{addresses: [{address}], conditions: {{{conditions}}}{node}, hints: {{{}}}}}\n", hints.join(", "))
    }
}

impl Try {
    fn destination(self) -> String {
        match self.to {
            To::ClusterIp => format!("{CLUSTER_IP}:80"),
            To::UndefinedPort => format!("{CLUSTER_IP}:81"),
            To::Unallocated => "10.96.0.99:80".to_owned(),
            To::NodePort => format!("{GATEWAY}:{}", NODE_PORTS[usize::from(!self.tcp)]),
            To::LoadBalancer => format!("{LOAD_BALANCER}:80"),
            To::External => format!("{EXTERNAL}:80"),
        }
    }

    fn side(self) -> usize {
        if self.from == CLIENT { OUTSIDE } else { PODS }
    }

    fn packet(self, from: &str, to: &str) -> Ip {
        if self.tcp { tcp(from, to) } else { udp(from, to) }
    }
}

// The two beside one another.

/// A flow that was opened: its packets become these.
#[derive(Clone, Copy)]
struct Flow {
    packet: Try,
    client: SocketAddrV4,
    src: SocketAddrV4,
    dst: SocketAddrV4,
}

struct Both {
    site: Site,
    state: State,
    lab: Lab,
    flows: Vec<Flow>,
    /// The endpoint each client has, by protocol.
    kept: BTreeMap<(&'static str, bool), SocketAddrV4>,
    dropped: BTreeMap<DropReason, u64>,
    passed: u64,
    sent: u64,
    refused: u64,
    next_port: u16,
}

impl Both {
    fn new(site: Site, state: State) -> Both {
        let lab = Lab::configured(&site.config(), &(site.service(&state) + &state.slice()));
        let (flows, kept, dropped) = Default::default();
        Both { site, state, lab, flows, kept, dropped, passed: 0, sent: 0, refused: 0, next_port: 40_000 }
    }

    fn update(&mut self, state: State) {
        self.lab.apply(&(self.site.service(&state) + &state.slice()));
        self.lab.wait(Duration::from_secs(1));
        let serves =
            |address: &SocketAddrV4| state.endpoints.get(&*address.ip().to_string()).is_some_and(Endpoint::serves);
        self.kept.retain(|_, address| serves(address) && !state.hidden);
        let flows = std::mem::take(&mut self.flows);
        for flow in flows {
            if flow.packet.tcp || (serves(&flow.dst) && !state.hidden) {
                self.goes_on(flow);
                self.flows.push(flow);
            } else {
                self.state.clone_from(&state);
                self.opens(flow.packet, flow.client);
            }
        }
        self.state = state;
    }

    /// Another packet of a flow, and its answer: the same translation.
    fn goes_on(&mut self, flow: Flow) {
        let (client, to) = (flow.client.to_string(), flow.packet.destination());
        let packet = flow.packet.packet(&client, &to);
        let packet = if flow.packet.tcp { packet.flags("A") } else { packet };
        let seen = self.lab.through(flow.packet.side(), packet, PODS);
        assert_eq!((seen.src(), seen.dst()), (flow.src, flow.dst), "{:?}", flow.packet);
        self.sent += 1;
        self.comes_back(flow);
    }

    fn comes_back(&mut self, flow: Flow) {
        let answer = flow.packet.packet(&flow.dst.to_string(), &flow.src.to_string());
        let answer = if flow.packet.tcp { answer.flags("SA") } else { answer };
        let back = self.lab.through(PODS, answer, flow.packet.side());
        assert_eq!((back.src(), back.dst()), (at(&flow.packet.destination()), flow.client), "{:?}", flow.packet);
        self.sent += 1;
    }

    fn new_flow(&mut self, packet: Try) {
        self.next_port += 1;
        let client = at(&format!("{}:{}", packet.from, self.next_port));
        self.opens(packet, client);
    }

    fn opens(&mut self, packet: Try, client: SocketAddrV4) {
        let expected = self.site.expected(&self.state, packet);
        self.lab.send(packet.side(), packet.packet(&client.to_string(), &packet.destination()));
        match expected {
            Expected::Passed => self.passed += 1,
            Expected::Dropped(reason) => *self.dropped.entry(reason).or_default() += 1,
            Expected::Refused(reason) => self.is_refused(packet, client, reason),
            Expected::Sent { to, snat } => self.is_sent(packet, client, &to, snat),
        }
    }

    fn is_refused(&mut self, packet: Try, client: SocketAddrV4, reason: DropReason) {
        let refusal = self.lab.expect(packet.side()).to_string();
        let expected = match packet.tcp {
            true => format!("tcp {} > {client} RA ttl 64", packet.destination()),
            false => format!("icmp {GATEWAY} > {} port-unreachable ttl 64", packet.from),
        };
        assert_eq!(refusal, expected, "{packet:?}");
        *self.dropped.entry(reason).or_default() += 1;
        self.refused += 1;
    }

    fn is_sent(&mut self, packet: Try, client: SocketAddrV4, to: &[&str], snat: bool) {
        let seen = self.lab.expect(PODS);
        let (src, dst) = (seen.src(), seen.dst());
        self.sent += 1;
        assert!(to.contains(&&*dst.ip().to_string()), "{packet:?}: {dst} of {to:?}");
        assert_eq!(dst.port(), TARGETS[usize::from(!packet.tcp)], "{packet:?}");
        assert_eq!(seen.ip.time_to_live, 63);
        // A Pod that reaches itself is translated always.
        if snat || client.ip() == dst.ip() {
            assert_eq!(src.ip().to_string(), GATEWAY, "{packet:?}");
            assert!((1024..=29999).contains(&src.port()), "{packet:?}");
        } else {
            assert_eq!(src, client, "{packet:?}");
        }
        if self.site.sticky {
            let kept = self.kept.insert((packet.from, packet.tcp), dst);
            let kept = kept.filter(|kept| to.contains(&&*kept.ip().to_string()));
            assert!(kept.is_none_or(|kept| kept == dst), "{packet:?}: {dst} instead of {kept:?}");
        }
        let flow = Flow { packet, client, src, dst };
        self.comes_back(flow);
        self.flows.push(flow);
    }

    fn counters(&self) {
        let totals = self.lab.totals();
        for &reason in DropReason::ALL {
            assert_eq!(
                totals.drops_of(reason),
                self.dropped.get(&reason).copied().unwrap_or_default(),
                "{}",
                reason.name()
            );
        }
        for &reason in PassReason::ALL {
            let expected = if reason == PassReason::NotOwned { self.passed } else { 0 };
            assert_eq!(totals.passes_of(reason), expected, "{}", reason.name());
        }
        assert_eq!((totals.tx, totals.originated), (self.sent + self.refused, self.refused));
        self.lab.balance();
    }
}

// Chance.

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let conditions = [Condition::Ready, Condition::NotReady, Condition::ServesTerminating, Condition::Terminating];
    let node = select(vec![None, Some("node-1"), Some("node-2")]);
    let zone = select(vec![None, Some("a"), Some("a"), Some("b")]);
    let named = select(vec![None, Some("node-1"), Some("node-2")]);
    (node, zone, named, select(conditions.to_vec())).prop_map(|(node, zones, nodes, condition)| Endpoint {
        node,
        zones,
        nodes,
        condition,
    })
}

fn state() -> impl Strategy<Value = State> {
    // The Pod that is a client too is an endpoint now and then.
    let addresses = subsequence(vec![POD, "10.244.1.10", "10.244.1.11", "10.244.1.12", "10.244.2.15"], 0..=5);
    let ranges = subsequence(vec!["192.168.50.0/24", "10.244.0.0/16"], 0..=2);
    let rare = prop::bool::weighted(0.1);
    (rare, any::<[bool; 2]>(), ranges, addresses, vec(endpoint(), 5)).prop_map(
        |(hidden, [internal_local, external_local], ranges, addresses, endpoints)| State {
            hidden,
            internal_local,
            external_local,
            ranges,
            endpoints: addresses.into_iter().zip(endpoints).collect(),
        },
    )
}

fn site() -> impl Strategy<Value = Site> {
    let masquerade = select(vec![Masquerade::Kubernetes, Masquerade::Kubernetes, Masquerade::All, Masquerade::Never]);
    (any::<[bool; 5]>(), masquerade).prop_map(|([node, zone, balanced, external_ip, sticky], masquerade)| Site {
        node,
        zone,
        masquerade,
        balanced,
        external_ip,
        sticky,
    })
}

fn packet() -> impl Strategy<Value = Try> {
    let to = [
        To::ClusterIp,
        To::ClusterIp,
        To::NodePort,
        To::LoadBalancer,
        To::External,
        To::UndefinedPort,
        To::Unallocated,
    ];
    (select(vec![POD, CLIENT]), select(to.to_vec()), any::<bool>()).prop_map(|(from, to, tcp)| Try { from, to, tcp })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_gateway_does_what_the_text_of_the_rules_says(
        site in site(),
        rounds in vec((state(), vec(packet(), 1..30)), 1..5),
    ) {
        let mut rounds = rounds.into_iter();
        let (state, packets) = rounds.next().expect("at least one");
        let mut both = Both::new(site, state);
        packets.into_iter().for_each(|packet| both.new_flow(packet));
        for (state, packets) in rounds {
            both.update(state);
            packets.into_iter().for_each(|packet| both.new_flow(packet));
        }
        both.counters();
        both.lab.delete(Kind::Service, "shop");
        let tcp: BTreeSet<usize> = (0..both.flows.len()).filter(|&index| both.flows[index].packet.tcp).collect();
        tcp.into_iter().for_each(|index| both.goes_on(both.flows[index]));
        both.counters();
    }
}

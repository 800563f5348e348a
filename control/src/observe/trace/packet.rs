//! A packet: the worker's decisions in words.

use std::net::{IpAddr, SocketAddr};

use pollgate_common::net::{Net, NextHop, NoNextHop};
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_common::settings::Masquerade;
use pollgate_common::tables::{Frontend, FrontendKind, OwnedKind, Pool, ServicePort, Tables};
use pollgate_common::trace::{Choice, Destination, End, KnownFlow, PacketTrace, Policy, Sender, Told, TracedPacket};

use super::{EndpointItem, Hop, Packet, Reason, Report, Translated};
use crate::cluster::Cluster;
use crate::compile::resolve::{Family, Protocol};
use crate::explain::endpoints::candidates;
use crate::observe::dump::counts;

/// What is known beside the tables.
#[derive(Clone, Copy, Debug)]
pub struct Objects<'a> {
    /// The objects that the tables were made from.
    pub cluster: &'a Cluster,
    /// Whether links, routes and neighbours are known: not from the configuration of a gateway alone.
    pub network: bool,
}

/// The worker's decisions about a packet in words. `tables` are those it used.
pub fn packet(tables: &Tables, objects: Objects<'_>, asked: &TracedPacket, trace: &PacketTrace) -> Report {
    let teller = Teller { tables, objects, asked, trace };
    let mut report = Report {
        generation: trace.generation,
        worker: Some(trace.owner),
        packet: Some(Packet { protocol: asked.protocol.to_string(), from: asked.from, to: asked.to }),
        ..Report::default()
    };
    teller.tell(&mut report);
    report
}

struct Teller<'a> {
    tables: &'a Tables,
    objects: Objects<'a>,
    asked: &'a TracedPacket,
    trace: &'a PacketTrace,
}

impl Teller<'_> {
    fn tell(&self, report: &mut Report) {
        let TracedPacket { protocol, from, to } = self.asked;
        let kind = match (self.trace.flow, protocol) {
            (Some(_), _) => "in the middle of its flow",
            (None, Protocol::Tcp) => "a SYN",
            (None, Protocol::Udp) => "a datagram",
            (None, Protocol::Sctp) => "an INIT",
        };
        report.step("packet", format!("{protocol} {from} → {to}"), kind);
        self.dns(report);
        if !self.trace.is_dns {
            self.flow(report);
            self.destination(report);
            self.service(report);
            self.sent(report);
        }
        self.end(report);
    }

    fn dns(&self, report: &mut Report) {
        match self.trace.is_dns {
            true => report.step("dns", "a query", "UDP to port 53 of `dns.address`: the worker answers it itself"),
            false => report.step("dns", "no", "not UDP to port 53 of `dns.address`"),
        }
    }

    fn flow(&self, report: &mut Report) {
        let worker = self.trace.owner;
        match &self.trace.flow {
            None => report.step("flow", "none", format!("no flow in the table of worker {worker} has this packet")),
            Some(KnownFlow { flow, is_from_client }) => {
                let side = if *is_from_client { "client" } else { "endpoint" };
                let idle = flow.client_idle.min(flow.backend_idle).as_secs();
                report.step(
                    "flow",
                    format!("known to worker {worker}, {}", flow.state),
                    format!(
                        "{} → {} is translated to {} → {}; this packet is from the {side}; idle for {idle} s",
                        flow.client, flow.frontend, flow.source, flow.backend
                    ),
                );
            }
        }
    }

    fn destination(&self, report: &mut Report) {
        let to = self.asked.to;
        let (decision, why) = match self.trace.destination {
            Some(Destination::Frontend(frontend)) => {
                let name = self.name(frontend);
                report.service = Some(name.clone());
                (format!("{} of {name}", kind_name(frontend.kind)), String::new())
            }
            Some(Destination::UndefinedPort(kind)) => {
                let port = format!("no Service has port {}/{} there", to.port(), self.asked.protocol);
                (owned_name(kind).to_owned(), port)
            }
            Some(Destination::Unowned) => {
                ("not pollgate's".to_owned(), "no Service and no setting has the address".to_owned())
            }
            None if self.tables.net().kernel_has(to.ip()).is_some() => {
                ("the host's own address".to_owned(), "the kernel has it on an interface".to_owned())
            }
            None => ("a ClusterIP that no Service has".to_owned(), "it is in `cluster.serviceCIDRs`".to_owned()),
        };
        report.step("destination", decision, why);
    }

    fn service(&self, report: &mut Report) {
        let Some(Destination::Frontend(frontend)) = self.trace.destination else { return };
        let Some(service) = self.tables.service(frontend.service) else { return };
        if self.trace.flow.is_some() {
            return;
        }
        if frontend.kind == FrontendKind::LoadBalancer {
            self.source_ranges(report, service);
        }
        let Some(policy) = self.trace.policy else { return };
        if self.is_end(DropReason::SourceNotAllowed) {
            return;
        }
        let why = policy_reason(frontend.kind, service, policy);
        report.step("policy", if policy.local { "Local" } else { "Cluster" }, why);
        let pool = if policy.local { &service.local } else { &service.cluster };
        self.endpoints(report, service, pool, policy.local);
        self.affinity(report, service);
        self.choice(report, service, pool, frontend.kind, policy);
    }

    fn source_ranges(&self, report: &mut Report, service: &ServicePort) {
        let from = self.asked.from.ip();
        let ranges: Vec<String> = service.source_ranges.iter().map(ToString::to_string).collect();
        let (decision, why) = if self.is_end(DropReason::SourceNotAllowed) {
            let ranges =
                if ranges.is_empty() { "ranges of the other family only".to_owned() } else { ranges.join(", ") };
            ("not allowed", format!("loadBalancerSourceRanges: {ranges}"))
        } else {
            match service.source_ranges.iter().find(|range| range.contains(&from)) {
                Some(range) => ("allowed", format!("{from} is in {range} of loadBalancerSourceRanges")),
                None => ("allowed", "the Service has no loadBalancerSourceRanges".to_owned()),
            }
        };
        report.step("source ranges", decision, why);
    }

    fn endpoints(&self, report: &mut Report, service: &ServicePort, pool: &Pool, is_local: bool) {
        let at = |slot: &u16| service.backends.get(usize::from(*slot)).map(|b| SocketAddr::new(b.address, b.port));
        let entries = counts(pool.ring(), pool.slots().len());
        let size = pool.ring().entries().len();
        let mut shares: Vec<(SocketAddr, usize)> =
            pool.slots().iter().zip(entries.iter()).filter_map(|(slot, entries)| Some((at(slot)?, *entries))).collect();
        let family = Family::of(self.asked.to.ip());
        let known = candidates(self.objects.cluster, &service.name, self.asked.protocol, family, is_local);
        for candidate in known {
            let share = candidate.endpoint.and_then(|endpoint| {
                let at = shares.iter().position(|(known, _)| *known == endpoint)?;
                Some(shares.swap_remove(at).1)
            });
            report.endpoints.push(EndpointItem {
                endpoint: candidate.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default(),
                pod: candidate.pod,
                used: share.is_some(),
                entries: share.unwrap_or(0),
                size,
                why: if share.is_some() { String::new() } else { candidate.why },
            });
        }
        // Those of tables that are older or newer than the objects.
        shares.sort_unstable();
        report.endpoints.extend(shares.into_iter().map(|(endpoint, entries)| EndpointItem {
            endpoint: endpoint.to_string(),
            used: true,
            entries,
            size,
            ..EndpointItem::default()
        }));
        let all = report.endpoints.iter().filter(|item| !item.endpoint.is_empty()).count();
        report.step("endpoints", format!("{} of {all} may be chosen", pool.slots().len()), "");
    }

    fn affinity(&self, report: &mut Report, service: &ServicePort) {
        let Some(timeout) = service.client_ip_affinity else { return };
        let seconds = timeout.as_secs();
        match self.trace.choice {
            Some(Choice { kept: true, backend, .. }) => {
                report.step(
                    "affinity",
                    format!("remembered: {backend}"),
                    format!("ClientIP, {seconds} s after its last flow"),
                );
            }
            _ => report.step(
                "affinity",
                "not remembered",
                format!("ClientIP, {seconds} s: the first choice is the ring's, by the source address"),
            ),
        }
    }

    fn choice(&self, report: &mut Report, service: &ServicePort, pool: &Pool, kind: FrontendKind, policy: Policy) {
        let Some(choice) = self.trace.choice else { return };
        let size = pool.ring().entries().len();
        let why = match (choice.kept, service.client_ip_affinity) {
            (true, _) => "the client had it before".to_owned(),
            (false, Some(_)) => format!("a ring of size {size}, by the source address"),
            (false, None) => format!("a ring of size {size}, by addresses, ports and protocol"),
        };
        report.step("choice", choice.backend.to_string(), why);
        let (decision, why) = self.translation(service, kind, policy, choice);
        report.step("source", decision, why);
    }

    /// What becomes of the source, and the rule.
    fn translation(
        &self,
        service: &ServicePort,
        kind: FrontendKind,
        policy: Policy,
        choice: Choice,
    ) -> (String, String) {
        let settings = self.tables.settings();
        let sent = self.trace.sent;
        let decision = match (choice.snat, sent.map(|sent| (sent.source, sent.port))) {
            (true, Some((source, _))) => {
                let (first, last) = (settings.snat_ports.start(), settings.snat_ports.end());
                format!("translated to {source}, a free port of {first}-{last}")
            }
            (true, None) => "to be translated, but no gateway address is of this family".to_owned(),
            (false, Some((_, None))) => {
                "kept, with another port: the endpoint knows this one from another Service".to_owned()
            }
            (false, _) => "kept".to_owned(),
        };
        let why = match (choice.snat, policy.snat, settings.masquerade) {
            (true, false, _) if self.tables.net().is_behind_pair(choice.backend.ip()) => {
                "the endpoint is a process of the gateway host, which is reached through the host pair"
            }
            (true, false, _) => "the endpoint is the client itself: its reply has to come back through the gateway",
            (false, _, Masquerade::Never) => "`nat.masquerade: never`",
            _ => matrix_rule(kind, service, policy),
        };
        (decision, why.to_owned())
    }

    fn sent(&self, report: &mut Report) {
        let (Some(sent), Some(next)) = (self.trace.sent, self.trace.next_hop) else { return };
        let snat = sent.source != self.asked.from.ip();
        report.translated = Some(Translated { source: sent.source, source_port: sent.port, to: sent.to, snat });
        let source = sent
            .port
            .map_or_else(|| format!("{}:(chosen)", sent.source), |port| SocketAddr::new(sent.source, port).to_string());
        if !self.objects.network {
            report.step(
                "next hop",
                "not known",
                "the configuration says nothing of links and routes: assumed to be reachable",
            );
            report.step("sent", format!("{source} → {}", sent.to), "");
            return;
        }
        report.next_hop = self.hop(next, sent.to.ip());
        let (decision, why) = self.way(next, sent.to.ip());
        report.step("next hop", decision, why);
        report.step("sent", format!("{source} → {}", sent.to), "");
        self.reply(report, snat);
    }

    /// The reply's way, if the packet gets through.
    fn reply(&self, report: &mut Report, snat: bool) {
        let (Some(back), true) = (self.trace.reply, self.is_delivered()) else { return };
        let client = self.asked.from.ip();
        report.reply = self.hop(back, client);
        let (way, why) = self.way(back, client);
        let comes = match snat {
            true => "comes to the gateway's address",
            false => "comes back only if the endpoint's route to the client leads here",
        };
        let why = if why.is_empty() { comes.to_owned() } else { format!("{comes}; {why}") };
        report.step("reply", format!("{} → {}, {way}", self.asked.to, self.asked.from), why);
    }

    fn hop(&self, next: Result<NextHop, NoNextHop>, to: IpAddr) -> Option<Hop> {
        let (next, net) = (next.ok()?, self.tables.net());
        let via = net.route(to).and_then(|route| route.via);
        Some(Hop { interface: net.port_link(next.port)?.name.clone(), via, mac: next.dst.to_string(), mtu: next.mtu })
    }

    fn way(&self, next: Result<NextHop, NoNextHop>, to: IpAddr) -> (String, String) {
        let net: &Net = self.tables.net();
        let route = net.route(to);
        let link = route.and_then(|route| net.facts().links.iter().find(|link| link.index == route.link));
        let name = link.map_or("?", |link| &link.name);
        let via = route.map_or(String::new(), |route| match route.via {
            Some(via) => format!("route {} via {via}", route.to),
            None => format!("route {}, on the link", route.to),
        });
        match next {
            Ok(next) => (format!("{name}, {}, MTU {}", next.dst, next.mtu), via),
            Err(NoNextHop::Neighbour(query)) => {
                (format!("{name}, MAC address not known"), format!("{via}; the kernel is asked for {}", query.address))
            }
            Err(NoNextHop::NoRoute) => ("none".to_owned(), format!("the kernel has no route to {to}")),
            Err(NoNextHop::Unpolled) => (format!("{name}, not polled"), format!("{via}; it is not in `interfaces`")),
            Err(NoNextHop::LinkDown) => (format!("{name}, down"), via),
        }
    }

    /// Whether it is dropped for this reason.
    fn is_end(&self, reason: DropReason) -> bool {
        matches!(self.trace.end, End::Dropped(end) | End::Refused(end, _) if end == reason)
    }

    fn is_delivered(&self) -> bool {
        matches!(self.trace.end, End::Sent | End::Held)
    }

    fn end(&self, report: &mut Report) {
        let unknown = self.trace.sent.is_some() && !self.objects.network;
        let sent = || self.trace.sent.map(|sent| sent.to.to_string()).unwrap_or_default();
        let (result, summary) = match self.trace.end {
            _ if unknown => ("sent", format!("to {}", sent())),
            End::Sent => ("sent", format!("to {}", sent())),
            End::Held => {
                ("held", format!("until the kernel has resolved the next hop's MAC address, then sent to {}", sent()))
            }
            End::Answered => ("answered", "by the worker itself".to_owned()),
            End::Refused(reason, told) => ("refused", self.refused(report, reason, told)),
            End::Dropped(reason) => ("dropped", dropped(report, reason)),
            End::Passed(reason) => ("passed", passed(report, reason)),
            End::Elsewhere => ("passed", format!("worker {} decides", self.trace.owner)),
        };
        report.delivered = unknown || matches!(self.trace.end, End::Sent | End::Held | End::Answered);
        (report.result, report.summary) = (result.to_owned(), summary);
    }

    fn refused(&self, report: &mut Report, reason: DropReason, told: Told) -> String {
        let gets = match told {
            Told::Reset => format!("a TCP reset from {}", self.asked.to),
            Told::Abort => format!("an SCTP ABORT from {}", self.asked.to),
            Told::PortUnreachable => "ICMP port unreachable".to_owned(),
            Told::TimeExceeded => "ICMP time exceeded".to_owned(),
            Told::TooBig(mtu) => format!("ICMP with the MTU, {mtu}"),
        };
        report.reason = Some(because(reason, &gets));
        format!("the client gets {gets}")
    }

    fn name(&self, frontend: Frontend) -> String {
        self.tables.service(frontend.service).map(|service| service.name.to_string()).unwrap_or_default()
    }
}

fn because(reason: DropReason, gets: &str) -> Reason {
    let (name, sentence, action) = (reason.name(), reason.sentence(), reason.action());
    Reason {
        name: name.to_owned(),
        sentence: sentence.to_owned(),
        action: action.to_owned(),
        sender_gets: gets.to_owned(),
    }
}

fn dropped(report: &mut Report, reason: DropReason) -> String {
    report.reason = Some(because(reason, ""));
    "the client gets no reply".to_owned()
}

fn passed(report: &mut Report, reason: PassReason) -> String {
    let (name, sentence, action) = (reason.name(), reason.sentence(), reason.action());
    let sender_gets = String::new();
    report.reason =
        Some(Reason { name: name.to_owned(), sentence: sentence.to_owned(), action: action.to_owned(), sender_gets });
    "left to the host's kernel".to_owned()
}

fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "node port",
        FrontendKind::LoadBalancer => "load-balancer address",
        FrontendKind::External => "external IP",
    }
}

fn owned_name(kind: OwnedKind) -> &'static str {
    match kind {
        OwnedKind::Gateway => "a gateway address",
        OwnedKind::ClusterIp => "a ClusterIP",
        OwnedKind::LoadBalancer => "a load-balancer address",
        OwnedKind::External => "an external IP",
        OwnedKind::Pair => "the workers' address on the host pair",
    }
}

/// Why a traffic policy applies.
fn policy_reason(kind: FrontendKind, service: &ServicePort, policy: Policy) -> &'static str {
    match (kind.is_internal(), service.internal_local, service.external_local, policy.sender) {
        (true, true, ..) => "internalTrafficPolicy: Local, for a ClusterIP",
        (true, false, ..) => "internalTrafficPolicy: Cluster, for a ClusterIP",
        (false, _, false, _) => "externalTrafficPolicy: Cluster",
        (false, _, true, Sender::Outside) => "externalTrafficPolicy: Local, for a client outside the cluster",
        (false, _, true, Sender::Pod) => "externalTrafficPolicy: Local, but a Pod reaches all endpoints",
        (false, _, true, Sender::Node) => "externalTrafficPolicy: Local, but the host reaches all endpoints",
    }
}

/// The rule of Kubernetes' matrix that decides about the source.
fn matrix_rule(kind: FrontendKind, service: &ServicePort, policy: Policy) -> &'static str {
    match (kind.is_internal(), policy.sender, service.external_local) {
        (_, Sender::Node, _) => "a process of the gateway host: the reply has to come back through the gateway",
        (true, Sender::Pod, _) if policy.snat => "`nat.masqueradeAll`: a Pod to a ClusterIP",
        (true, Sender::Pod, _) => "a Pod (`cluster.podCIDRs`) to a ClusterIP",
        (true, Sender::Outside, _) => "a client outside `cluster.podCIDRs` to a ClusterIP",
        (false, _, false) => "externalTrafficPolicy Cluster: the reply has to come back through the gateway",
        (false, Sender::Pod, true) => "externalTrafficPolicy Local, from a Pod",
        (false, Sender::Outside, true) => "externalTrafficPolicy Local: the endpoints see the client's own address",
    }
}

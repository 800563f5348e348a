//! Why a Service has the endpoints it has.
//!
//! For an operator at 3 a.m.: which addresses the Service answers on, which Pods of its namespace are its endpoints, and for
//! each Pod that is not, the first rule that decided. Pods that match come first, near misses next, because the usual cause
//! is a label that is almost right. The rules are those of the endpoint controller itself (`controllers::membership`): an
//! explanation with its own rules would be wrong one day.
//!
//! What the gateway's own node and zone decide is explained by `explain::locality`.
//!
//! [`explain`] gives data, so that the API can serve it and a script can read it; [`Explanation::text`] is for people.

pub(crate) mod advice;
mod alias;
pub(crate) mod endpoints;
pub mod lint;
mod locality;
mod unserved;
pub mod warnings;
mod weights;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServiceSpec};
use serde::{Deserialize, Serialize};

use pollgate_common::dns::message;

use self::alias::Target;
use crate::cluster::{Cluster, SliceManager};
use crate::compile::resolve::{ResolvedPort, ResolvedService, resolve};
use crate::controllers::membership::{Exclusion, find_port, membership, node_name, pod_addresses};
use crate::controllers::slices::{self, MANAGED_BY_LABEL};
use crate::objects::service::{Family, Protocol, ServiceName, ServiceType, SpecExt};
use crate::objects::{Kind, Object};
use crate::printers::columns;

/// Pods that share no label pair with the selector, beyond which the text only counts them.
const STRANGERS_SHOWN: usize = 10;

/// Why a Service has the endpoints it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// Its type, or `headless`.
    pub kind: String,
    /// Its selector; empty if its endpoints are managed by others.
    pub selector: BTreeMap<String, String>,
    /// Where it answers.
    pub answers: Vec<Answer>,
    /// The Pods of its namespace: endpoints, then those that match, then the others, nearest first.
    pub pods: Vec<PodVerdict>,
    /// Its EndpointSlices that another client wrote.
    pub foreign_slices: Vec<ForeignSlice>,
    /// What else the reader should know, most urgent first.
    pub notes: Vec<String>,
}

/// One address and port a Service answers on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `external IP`, `DNS` (a name), or `gateway` (a port that the gateway's own DNS has).
    pub via: String,
    /// `10.96.0.50:8080/TCP`, or a name.
    pub address: String,
    /// The port's name; empty if it has none.
    pub port_name: String,
    /// How many endpoints behind it are ready.
    pub ready: usize,
}

/// The result for one Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodVerdict {
    /// Its name.
    pub name: String,
    /// Its first address; empty if it has none.
    pub address: String,
    /// What decided.
    pub verdict: Verdict,
    /// How many pairs of the selector its labels carry.
    pub matched: usize,
    /// Where connections to it go, `10.244.1.10:8080/TCP`; empty if it is no endpoint.
    pub endpoints: Vec<String>,
}

/// The first rule that decided about a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "camelCase")]
pub enum Verdict {
    /// It is an endpoint and takes connections.
    Ready,
    /// It is an endpoint, listed as not ready.
    NotReady,
    /// It is a terminating endpoint: used only if no ready one is left.
    Terminating,
    /// It lacks a label of the selector.
    LabelMissing {
        /// The label.
        key: String,
        /// The value the selector wants.
        wanted: String,
    },
    /// A label of the selector has another value.
    LabelDiffers {
        /// The label.
        key: String,
        /// The value the selector wants.
        wanted: String,
        /// The value it has.
        found: String,
    },
    /// Its phase is `Failed` or `Succeeded`.
    Finished {
        /// `Failed` or `Succeeded`.
        phase: String,
    },
    /// It has no address.
    NoAddress,
    /// It has no address of a family of the Service.
    NoAddressOfFamily {
        /// The families of the Service.
        families: String,
    },
    /// Its Node does not exist.
    NodeMissing {
        /// The Node it names.
        node: String,
    },
    /// None of the Service's named ports is a port of its containers.
    PortNotFound {
        /// The first name that was not found.
        port: String,
    },
}

impl Verdict {
    /// Whether the Pod is listed as an endpoint.
    pub fn is_endpoint(&self) -> bool {
        matches!(self, Verdict::Ready | Verdict::NotReady | Verdict::Terminating)
    }

    /// Whether it is an endpoint, in a word: `yes`, `not ready`, `leaving` or `no`.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Ready => "yes",
            Verdict::NotReady => "not ready",
            Verdict::Terminating => "leaving",
            _ => "no",
        }
    }

    /// Why it is no endpoint that takes connections; empty if it is one.
    pub fn reason(&self) -> String {
        match self {
            Verdict::Ready => String::new(),
            Verdict::NotReady => "its Ready condition is not True".to_owned(),
            Verdict::Terminating => "terminating: used only if no ready endpoint is left".to_owned(),
            Verdict::LabelMissing { key, wanted } => {
                format!("label missing: {key} (wanted {wanted})")
            }
            Verdict::LabelDiffers { key, wanted, found } => {
                format!("label differs: {key}: {found} ≠ {wanted}")
            }
            Verdict::Finished { phase } => format!("phase {phase}"),
            Verdict::NoAddress => "no IP: status.podIP is not set".to_owned(),
            Verdict::NoAddressOfFamily { families } => format!("no IP of family {families}"),
            Verdict::NodeMissing { node } => format!("its Node {node} does not exist"),
            Verdict::PortNotFound { port } => {
                format!("port name not found: no container has a port named {port}")
            }
        }
    }
}

/// An EndpointSlice that was not made from Pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForeignSlice {
    /// Its name.
    pub name: String,
    /// Its manager by its own label; empty if it names none.
    pub managed_by: String,
    /// How many endpoints it lists.
    pub endpoints: usize,
}

impl ForeignSlice {
    /// Whether it mirrors Endpoints that a client wrote.
    pub fn is_mirror(&self) -> bool {
        SliceManager::default().is_ours(&self.managed_by, SliceManager::mirror)
    }
}

/// Explains a Service; `None` if it does not exist.
pub fn explain(cluster: &Cluster, name: &ServiceName) -> Option<Explanation> {
    let object = cluster.object(&name.key())?;
    let service = object.as_service()?;
    let spec = service.spec.as_ref()?;
    let resolved = resolve(cluster, name)?;
    let pods = spec.selector().map(|selector| verdicts(cluster, name, spec, selector)).unwrap_or_default();
    let mut explanation = Explanation {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        kind: if spec.is_headless() { "headless".to_owned() } else { spec.service_type().as_str().to_owned() },
        selector: spec.selector().cloned().unwrap_or_default(),
        answers: answers(cluster, &resolved),
        pods,
        foreign_slices: foreign_slices(cluster, name),
        notes: Vec::new(),
    };
    explanation.notes = notes(cluster, service, spec, &resolved, &explanation);
    Some(explanation)
}

fn answers(cluster: &Cluster, service: &ResolvedService) -> Vec<Answer> {
    let mut answers = vec![Answer {
        via: "DNS".to_owned(),
        address: dns_answer(service, &cluster.settings().domain),
        port_name: String::new(),
        ready: service.ready_addresses.len(),
    }];
    if service.headless || service.kind == ServiceType::ExternalName {
        return answers;
    }
    let gateway = &cluster.settings().gateway_addresses;
    for port in &service.ports {
        let ready = port.endpoints.iter().filter(|endpoint| endpoint.ready).count();
        let listeners = [
            ("ClusterIP", &service.cluster_ips, Some(port.port)),
            ("NodePort", gateway, port.node_port),
            ("LoadBalancer", &service.load_balancer_ips, Some(port.port)),
            ("external IP", &service.external_ips, Some(port.port)),
        ];
        for (via, addresses, number) in listeners {
            let Some(number) = number else { continue };
            answers.extend(addresses.iter().map(|address| Answer {
                via: if is_own_dns(cluster, *address, number, port.protocol) { "gateway" } else { via }.to_owned(),
                address: format!("{}/{}", std::net::SocketAddr::new(*address, number), port.protocol),
                port_name: port.name.clone(),
                ready,
            }));
        }
    }
    answers
}

/// What DNS has of the Service.
fn dns_answer(service: &ResolvedService, domain: &str) -> String {
    let name = format!("{}.{}.svc", service.name.name, service.name.namespace);
    let Some(target) = &service.external_name else { return name };
    match Target::of(&service.name, target, domain) {
        Target::Address => format!("{name} does not exist"),
        Target::Itself => format!("{name} has no records"),
        Target::OneLabel | Target::Name => format!("{name} is an alias of {target}"),
    }
}

/// Whether the gateway answers DNS queries there itself, so that no Service has the port.
fn is_own_dns(cluster: &Cluster, address: IpAddr, port: u16, protocol: Protocol) -> bool {
    let settings = cluster.settings();
    let by_tcp = || {
        let mut gateway = settings.gateway_addresses.iter();
        settings.has_pair && gateway.any(|own| own.is_ipv4() == address.is_ipv4())
    };
    port == message::PORT
        && settings.dns_addresses.contains(&address)
        && match protocol {
            Protocol::Udp => true,
            Protocol::Tcp => by_tcp(),
            Protocol::Sctp => false,
        }
}

fn verdicts(
    cluster: &Cluster,
    name: &ServiceName,
    spec: &ServiceSpec,
    selector: &BTreeMap<String, String>,
) -> Vec<PodVerdict> {
    let pods = cluster.objects(Kind::Pod, Some(&name.namespace));
    let mut verdicts: Vec<PodVerdict> =
        pods.filter_map(|object| Some(pod_verdict(cluster, spec, selector, object, object.as_pod()?))).collect();
    verdicts.sort_by(|a, b| {
        let rank = |pod: &PodVerdict| match pod.verdict {
            Verdict::Ready => 0,
            Verdict::NotReady | Verdict::Terminating => 1,
            _ => 2,
        };
        rank(a).cmp(&rank(b)).then(b.matched.cmp(&a.matched)).then_with(|| a.name.cmp(&b.name))
    });
    verdicts
}

fn pod_verdict(
    cluster: &Cluster,
    spec: &ServiceSpec,
    selector: &BTreeMap<String, String>,
    object: &Object,
    pod: &Pod,
) -> PodVerdict {
    let addresses = pod_addresses(pod);
    let verdict = label_verdict(selector, object).unwrap_or_else(|| match_verdict(cluster, spec, pod));
    let endpoints = if verdict.is_endpoint() { pod_endpoints(spec, pod) } else { Vec::new() };
    PodVerdict {
        name: object.name().to_owned(),
        address: addresses.first().map(ToString::to_string).unwrap_or_default(),
        verdict,
        matched: selector.iter().filter(|(key, value)| object.label(key) == Some(value)).count(),
        endpoints,
    }
}

fn label_verdict(selector: &BTreeMap<String, String>, pod: &Object) -> Option<Verdict> {
    // A wrong value says more about what the writer meant than a missing label; yet the first rule is the first pair.
    let (key, wanted) = selector.iter().find(|(key, wanted)| pod.label(key) != Some(wanted))?;
    let (key, wanted) = (key.clone(), wanted.clone());
    Some(match pod.label(&key) {
        Some(found) => Verdict::LabelDiffers { found: found.to_owned(), key, wanted },
        None => Verdict::LabelMissing { key, wanted },
    })
}

fn match_verdict(cluster: &Cluster, spec: &ServiceSpec, pod: &Pod) -> Verdict {
    let conditions = match membership(spec, pod, cluster.node_missing(node_name(pod))) {
        Ok(conditions) => conditions,
        Err(Exclusion::Finished(phase)) => return Verdict::Finished { phase },
        Err(Exclusion::NoAddress) => return Verdict::NoAddress,
        Err(Exclusion::NodeMissing(node)) => return Verdict::NodeMissing { node },
    };
    let families = spec.families();
    if !pod_addresses(pod).into_iter().any(|address| families.contains(&Family::of(address))) {
        let families: Vec<&str> = families.into_iter().map(Family::as_str).collect();
        return Verdict::NoAddressOfFamily { families: families.join(", ") };
    }
    let unknown = spec.ports().iter().find(|port| find_port(pod, port).is_none());
    if let (Some(port), true) = (unknown, spec.ports().iter().all(|port| find_port(pod, port).is_none())) {
        let name = port.target_port.as_ref().map(target_name).unwrap_or_default();
        return Verdict::PortNotFound { port: name };
    }
    match conditions {
        conditions if conditions.ready => Verdict::Ready,
        conditions if conditions.terminating => Verdict::Terminating,
        _ => Verdict::NotReady,
    }
}

fn target_name(target: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString) -> String {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    match target {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

fn pod_endpoints(spec: &ServiceSpec, pod: &Pod) -> Vec<String> {
    let families = spec.families();
    let mut endpoints = Vec::new();
    for address in pod_addresses(pod).into_iter().filter(|address| families.contains(&Family::of(*address))) {
        for port in spec.ports() {
            let number = find_port(pod, port).and_then(|number| u16::try_from(number).ok());
            let protocol = crate::objects::service::parse_protocol(port.protocol.as_deref()).unwrap_or(Protocol::Tcp);
            endpoints.extend(number.map(|number| format!("{}/{protocol}", std::net::SocketAddr::new(address, number))));
        }
        if spec.ports().is_empty() {
            endpoints.push(address.to_string());
        }
    }
    endpoints
}

fn foreign_slices(cluster: &Cluster, name: &ServiceName) -> Vec<ForeignSlice> {
    let manager = cluster.settings().slice_manager;
    let foreign = cluster.slices(name).filter(|slice| !slices::is_ours(manager, slice));
    foreign
        .map(|slice| ForeignSlice {
            name: slice.name().to_owned(),
            managed_by: slice.label(MANAGED_BY_LABEL).unwrap_or_default().to_owned(),
            endpoints: slice.as_slice().map_or(0, |slice| slice.endpoints.len()),
        })
        .collect()
}

fn notes(
    cluster: &Cluster,
    service: &Service,
    spec: &ServiceSpec,
    resolved: &ResolvedService,
    explanation: &Explanation,
) -> Vec<String> {
    let mut notes = Vec::new();
    if !resolved.proxied {
        notes.push(
            "Labels assign this Service to another proxy: it has DNS names here, but its traffic is not balanced."
                .to_owned(),
        );
    }
    notes.extend(selector_note(cluster, explanation));
    let own = own_dns_note(cluster, resolved);
    if resolved.kind != ServiceType::ExternalName && resolved.proxied && !own.as_ref().is_some_and(|own| own.is_all) {
        notes.extend(empty_note(resolved));
    }
    notes.extend(own.map(|own| own.note));
    let circle = alias::circle(cluster, &resolved.name);
    notes.extend(circle.map(|circle| format!("spec.externalName: {circle}.")));
    notes.extend(locality::notes(cluster, resolved));
    notes.extend(weights::notes(resolved));
    notes.extend(partial_port_notes(resolved));
    notes.extend(vain_notes(cluster, service));
    notes.extend(balancer_note(cluster, service, spec));
    notes
}

/// The first note about a Service that says that clients are not served, for a list of many: of those that need no look at its Pods.
pub(crate) fn trouble(cluster: &Cluster, name: &ServiceName, resolved: &ResolvedService) -> Option<String> {
    if resolved.kind == ServiceType::ExternalName {
        return alias::circle(cluster, name).map(|circle| format!("spec.externalName: {circle}."));
    }
    let service = cluster.object(&name.key())?.as_service()?;
    let own = own_dns_note(cluster, resolved);
    let empty = || empty_note(resolved).filter(|_| resolved.proxied && !own.as_ref().is_some_and(|own| own.is_all));
    let partial = || partial_port_notes(resolved).into_iter().next();
    let balancer = || balancer_note(cluster, service, service.spec.as_ref()?);
    empty().or_else(partial).or_else(balancer)
}

fn selector_note(cluster: &Cluster, explanation: &Explanation) -> Option<String> {
    let selector = &explanation.selector;
    if selector.is_empty() {
        return (explanation.kind != "ExternalName").then(|| unmanaged_note(explanation).to_owned());
    }
    if explanation.pods.iter().any(|pod| pod.matched == selector.len()) {
        return None;
    }
    let mut note = format!("The selector matches no Pod in namespace {}.", explanation.namespace);
    let nearest = explanation.pods.iter().max_by_key(|pod| (pod.matched, std::cmp::Reverse(pod.name.clone())));
    if let Some(pod) = nearest.filter(|pod| pod.matched > 0) {
        let _ = write!(
            note,
            " Nearest: Pod {}, {} of {} pairs; {}.",
            pod.name,
            pod.matched,
            selector.len(),
            pod.verdict.reason()
        );
    }
    let elsewhere = cluster.objects(Kind::Pod, None).filter(|pod| {
        pod.namespace() != explanation.namespace
            && crate::objects::service::selects(selector, pod.metadata().labels.as_ref())
    });
    let mut namespaces: Vec<&str> = elsewhere.map(|pod| pod.namespace()).collect();
    namespaces.dedup();
    if !namespaces.is_empty() {
        let _ = write!(note, " Pods that match are in another namespace: {}.", namespaces.join(", "));
    }
    Some(note)
}

/// Ports of a Service that the gateway's own DNS has.
struct OwnDns {
    note: String,
    /// Whether nothing else is left of the Service.
    is_all: bool,
}

fn own_dns_note(cluster: &Cluster, service: &ResolvedService) -> Option<OwnDns> {
    let all = || service.cluster_ips.iter().flat_map(|ip| service.ports.iter().map(move |port| (*ip, port)));
    let is_own = |(ip, port): &(IpAddr, &ResolvedPort)| is_own_dns(cluster, *ip, port.port, port.protocol);
    let own: Vec<String> = all()
        .filter(is_own)
        .map(|(ip, port)| format!("{}/{}", std::net::SocketAddr::new(ip, port.port), port.protocol))
        .collect();
    let has_other = !all().all(|port| is_own(&port)) || service.ports.iter().any(|port| port.node_port.is_some());
    (!own.is_empty()).then(|| OwnDns {
        note: format!(
            "The gateway answers DNS queries to {} itself (`dns.address`): the endpoints of this Service get none of them.",
            own.join(", ")
        ),
        is_all: !has_other && service.load_balancer_ips.is_empty() && service.external_ips.is_empty(),
    })
}

fn unmanaged_note(explanation: &Explanation) -> &'static str {
    let slices = &explanation.foreign_slices;
    if slices.is_empty() {
        "No selector, and no EndpointSlice or Endpoints names it: it has no endpoints until a client writes one."
    } else if slices.iter().all(ForeignSlice::is_mirror) {
        "No selector: the endpoints come from its Endpoints, which the gateway does not update."
    } else {
        "No selector: the endpoints come from its EndpointSlices, which the gateway does not update."
    }
}

fn empty_note(service: &ResolvedService) -> Option<String> {
    if service.headless {
        return service
            .ready_addresses
            .is_empty()
            .then(|| "No address is ready: the name does not exist (NXDOMAIN).".to_owned());
    }
    let endpoints = || service.ports.iter().flat_map(|port| &port.endpoints);
    if endpoints().any(|endpoint| endpoint.ready) {
        return None;
    }
    let leaving = endpoints().any(|endpoint| endpoint.serving && endpoint.terminating);
    Some(match leaving {
        true => "No endpoint is ready: terminating endpoints are used while they exist.".to_owned(),
        false => "No endpoint is ready: connections are refused.".to_owned(),
    })
}

/// Ports without an endpoint while others have some.
fn partial_port_notes(service: &ResolvedService) -> Vec<String> {
    let served = |port: &&ResolvedPort| !port.endpoints.is_empty();
    if service.headless || !service.ports.iter().any(|port| served(&port)) {
        return Vec::new();
    }
    let idle = service.ports.iter().filter(|port| !served(port));
    idle.map(|port| format!("Port {} ({}/{}) has no endpoint.", port.name, port.port, port.protocol)).collect()
}

/// What the Service asks for in vain, of what no other note is about.
fn vain_notes(cluster: &Cluster, service: &Service) -> impl Iterator<Item = String> {
    const OTHERS: [&str; 4] = ["metadata.labels", "spec.type", "spec.loadBalancerClass", "spec.trafficDistribution"];
    let told = |field: &str| OTHERS.iter().any(|other| field.starts_with(other)) || field.ends_with("TrafficPolicy");
    let vain = unserved::of_service(service, cluster.settings()).into_iter();
    vain.filter(move |warning| !told(&warning.field)).map(|warning| format!("{warning}."))
}

fn balancer_note(cluster: &Cluster, service: &Service, spec: &ServiceSpec) -> Option<String> {
    let waiting = crate::cluster::index::ingress_addresses(service).next().is_none();
    if spec.service_type() != ServiceType::LoadBalancer || !waiting {
        return None;
    }
    let pools = &cluster.settings().load_balancer_pools;
    Some(match (&spec.load_balancer_class, &spec.load_balancer_ip) {
        (Some(class), _) => {
            format!("No LoadBalancer address: class {class} belongs to another implementation.")
        }
        _ if pools.is_empty() => {
            "No LoadBalancer address: set cluster.loadBalancerPools in the configuration.".to_owned()
        }
        (None, Some(wanted)) => {
            format!("No LoadBalancer address: {wanted} is in no pool (cluster.loadBalancerPools), or already in use.")
        }
        (None, None) => "No LoadBalancer address: every address of cluster.loadBalancerPools is in use.".to_owned(),
    })
}

impl Explanation {
    /// For people: notes first, then where it answers, then every Pod.
    pub fn text(&self) -> String {
        let selector: Vec<String> = self.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let selects =
            if selector.is_empty() { "no selector".to_owned() } else { format!("selects {}", selector.join(", ")) };
        let mut text = format!("Service {}/{} ({}), {selects}\n", self.namespace, self.name, self.kind);
        for note in &self.notes {
            let _ = writeln!(text, "  ! {note}");
        }
        text.push_str("\nAnswers on\n");
        text.push_str(&self.answer_lines());
        if !self.foreign_slices.is_empty() {
            text.push_str("\nEndpointSlices written by other clients, used as they are\n");
            for slice in &self.foreign_slices {
                let by = match slice.managed_by.as_str() {
                    "" => "without a manager".to_owned(),
                    _ if slice.is_mirror() => "mirrored from Endpoints".to_owned(),
                    by => format!("managed by {by}"),
                };
                let _ = writeln!(text, "  {} ({by}): {}", slice.name, counted(slice.endpoints, "endpoint"));
            }
        }
        if !self.selector.is_empty() {
            text.push_str(&self.pod_lines());
        }
        text
    }

    fn answer_lines(&self) -> String {
        let lines: Vec<Vec<String>> = self
            .answers
            .iter()
            .map(|answer| {
                let name = if answer.port_name.is_empty() { String::new() } else { format!(" ({})", answer.port_name) };
                let ready = match answer.via.as_str() {
                    "DNS" if self.kind != "headless" => String::new(),
                    "gateway" => "the gateway's own DNS".to_owned(),
                    _ => format!("{} ready", answer.ready),
                };
                vec![format!("  {}", answer.via), format!("{}{name}", answer.address), ready]
            })
            .collect();
        columns(&lines)
    }

    fn pod_lines(&self) -> String {
        let endpoints = self.pods.iter().filter(|pod| pod.verdict.is_endpoint()).count();
        let mut text =
            format!("\nPods in namespace {}: {endpoints} of {} are endpoints\n", self.namespace, self.pods.len());
        if self.pods.is_empty() {
            return text;
        }
        let pairs = self.selector.len();
        let (shown, strangers) = self.shown_pods();
        let header = ["  POD", "IP", "ENDPOINT", "LABELS", "WHY"].map(str::to_owned).to_vec();
        let lines = shown.into_iter().map(|pod| {
            let to = pod.endpoints.join(", ");
            let why = match pod.verdict.reason() {
                reason if reason.is_empty() => to,
                reason => reason,
            };
            let ip = if pod.address.is_empty() { "-".to_owned() } else { pod.address.clone() };
            vec![format!("  {}", pod.name), ip, pod.verdict.word().to_owned(), format!("{}/{pairs}", pod.matched), why]
        });
        text.push_str(&columns(&std::iter::once(header).chain(lines).collect::<Vec<_>>()));
        if strangers > 0 {
            let _ = writeln!(text, "  and {} without any label of the selector", counted(strangers, "more Pod"));
        }
        text
    }

    /// The Pods worth a line, and the number of others.
    fn shown_pods(&self) -> (Vec<&PodVerdict>, usize) {
        let mut strangers = 0;
        let mut worth = |pod: &&PodVerdict| {
            strangers += usize::from(pod.matched == 0);
            pod.matched > 0 || strangers <= STRANGERS_SHOWN
        };
        let shown: Vec<&PodVerdict> = self.pods.iter().filter(|pod| worth(pod)).collect();
        (shown, strangers.saturating_sub(STRANGERS_SHOWN))
    }
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests;

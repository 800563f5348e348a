//! A DNS query: what the cluster's DNS server answers, and why.
//!
//! ```text
//!  zone ────▶ the answer, as clients get it ─▶ response: its records in text
//!  zone ────▶ steps: the object and the rule behind it
//!  cluster ─▶ missing: why a name does not exist
//! ```

mod missing;
mod response;

use std::net::IpAddr;

use pollgate_common::dns::answer::{CHAIN, NoAnswer, Rule, outside_name, respond};
use pollgate_common::dns::message::{self, Query, Rcode};
use pollgate_common::dns::name::{Name, from_wire, to_wire};
use pollgate_common::dns::records::{self, rr};
use pollgate_common::dns::reverse::{Place, Reverse, from_label};
use pollgate_common::dns::zone::{Found, Owner, Zone};
use pollgate_common::flow::Protocol;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::{FrontendKey, Tables};

use super::{Answer, Report};
use crate::cluster::Cluster;
use crate::compile::local::DNS_NAME;
use crate::observe::dump::type_name;

/// A name or type that no query can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadQuestion {
    /// The name.
    Name,
    /// The type.
    Type,
}

/// Who answers over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// What the tables of a running gateway say.
    Running,
    /// What a gateway would start, with or without the host pair.
    Planned {
        /// `host.pair`
        has_pair: bool,
    },
}

/// The types that have a name, besides those of the zone.
const TYPES: [(&str, u16); 11] = [
    ("A", rr::A),
    ("NS", rr::NS),
    ("CNAME", rr::CNAME),
    ("SOA", rr::SOA),
    ("PTR", rr::PTR),
    ("HINFO", rr::HINFO),
    ("MX", 15),
    ("TXT", rr::TXT),
    ("AAAA", rr::AAAA),
    ("SRV", rr::SRV),
    ("ANY", rr::ANY),
];

/// Labels of an endpoint's name above the zone: its own, the Service's, the Namespace's, and `svc`.
const ENDPOINT: usize = 4;

/// The number of a record type: its name, `TYPE` and a number (RFC 3597 §5), or a number.
pub fn record_type(text: &str) -> Option<u16> {
    let named = TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    let number = || text.get(..4).filter(|prefix| prefix.eq_ignore_ascii_case("TYPE")).map_or(text, |_| &text[4..]);
    named.map(|(_, rtype)| *rtype).or_else(|| number().parse().ok())
}

/// What a client gets that asks for `name` (without a search list) and `rtype`, by UDP and without EDNS. `cluster` has the objects
/// that the tables were made from.
///
/// # Errors
/// If no query can ask that.
pub fn dns(
    tables: &Tables,
    cluster: &Cluster,
    listener: Listener,
    name: &str,
    rtype: &str,
) -> Result<Report, BadQuestion> {
    let wire = to_wire(name).ok_or(BadQuestion::Name)?;
    let number = record_type(rtype).ok_or(BadQuestion::Type)?;
    let zone = tables.zone();
    let mut message = message::query(&wire, number);
    let len = message.len();
    message.resize(message::PLAIN_SIZE, 0);
    let mut report = Report { generation: tables.generation(), ..Report::default() };
    let asked = format!("{} {}", from_wire(&wire), type_text(number));
    report.step("query", &asked, "as a client sends it: one name, without a search list, by UDP without EDNS");
    if tables.settings().dns.is_empty() {
        return Ok(unanswered(report));
    }
    server(&mut report, tables, listener);
    let mut query = Query { can_forward: true, ..Query::default() };
    query.read(&message, len, zone.names().seed()).ok_or(BadQuestion::Name)?;
    let tracer = Tracer { zone, cluster, name: &query.name, rtype: number };
    let answered = match respond(&query, &mut message, zone, None) {
        Ok(answered) => answered,
        Err(NoAnswer::Forward) => return tracer.outside(report).ok_or(BadQuestion::Name),
        // A query is well formed, and its answer fits: it is cut to what the client accepts.
        Err(NoAnswer::NotAQuery | NoAnswer::NoRoom) => return Err(BadQuestion::Name),
    };
    tracer.look_up(&mut report, answered.rule);
    let records = response::answers(&message[..answered.len]).ok_or(BadQuestion::Name)?;
    let rcode = rcode_name(answered.rcode).to_owned();
    tracer.close(&mut report, Answer { rcode, truncated: answered.truncated, records });
    Ok(report)
}

/// Without an address there is no server.
fn unanswered(mut report: Report) -> Report {
    report.step("server", "none", "`dns.address` is empty: no DNS query is answered");
    report.result = "unanswered".to_owned();
    report.summary = "`dns.address` is empty: no query is answered, and clients wait in vain".to_owned();
    report
}

fn server(report: &mut Report, tables: &Tables, listener: Listener) {
    let settings = tables.settings();
    let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (by_tcp, not): (Vec<IpAddr>, Vec<IpAddr>) =
        settings.dns.iter().partition(|address| listener.is_at(tables, **address));
    let over_tcp = match (by_tcp.is_empty(), not.is_empty()) {
        (_, true) => "by TCP, the gateway's listener gives the same answer".to_owned(),
        (true, false) => format!("not by TCP, {}", without_listener(settings, listener, &not)),
        (false, false) => format!(
            "by TCP, the gateway's listener gives the same answer at {}, but not at {}, {}",
            list(&by_tcp),
            list(&not),
            without_listener(settings, listener, &not)
        ),
    };
    report.step(
        "server",
        format!("{}, port {}", list(&settings.dns), message::PORT),
        format!("`dns.address`: a worker answers in place; {over_tcp}"),
    );
}

/// Why the gateway does not listen at these addresses.
fn without_listener(settings: &DataplaneSettings, listener: Listener, addresses: &[IpAddr]) -> String {
    let has_pair = match listener {
        Listener::Running => settings.host_pair,
        Listener::Planned { has_pair } => has_pair,
    };
    let lacks = |v4: bool| {
        let is_its = |address: &IpAddr| address.is_ipv4() == v4;
        addresses.iter().any(is_its) && !settings.gateway_addresses().any(|address| is_its(&address))
    };
    match (has_pair, lacks(true), lacks(false)) {
        (false, ..) => "without the host pair".to_owned(),
        (true, true, _) => "without an IPv4 address in `addresses`".to_owned(),
        (true, false, true) => "without an IPv6 address in `addresses`".to_owned(),
        (true, false, false) => "because the listener could not be opened".to_owned(),
    }
}

impl Listener {
    /// Whether the gateway answers by TCP at this address.
    fn is_at(self, tables: &Tables, address: IpAddr) -> bool {
        match self {
            Listener::Running => {
                let key = FrontendKey { address, port: message::PORT, protocol: Protocol::Tcp };
                let service = tables.frontend(&key).and_then(|frontend| tables.service(frontend.service));
                service.is_some_and(|service| *service.name == *DNS_NAME)
            }
            Listener::Planned { has_pair } => {
                let mut gateway = tables.settings().gateway_addresses();
                has_pair && gateway.any(|own| own.is_ipv4() == address.is_ipv4())
            }
        }
    }
}

/// Where the alias of a question leads.
enum AliasEnd {
    /// To a name that has the type.
    Records,
    /// To this name, which does not exist.
    Missing(Name),
    /// To this name, which has no records of the type.
    NoData(Name),
    /// Outside the cluster, to this name, which no other server is asked for.
    Outside(Name),
    /// Back to this name.
    Loop(Name),
    /// Too far.
    TooLong,
}

/// A question, and where its answer comes from.
struct Tracer<'a> {
    zone: &'a Zone,
    cluster: &'a Cluster,
    name: &'a Name,
    rtype: u16,
}

impl Tracer<'_> {
    fn origin(&self) -> String {
        from_wire(&self.zone.settings().origin)
    }

    fn step_outside(&self, report: &mut Report) {
        report.step("zone", "outside", format!("the gateway serves only {} and what is below it", self.origin()));
    }

    /// A query that takes other servers. They are not asked.
    fn outside(&self, mut report: Report) -> Option<Report> {
        let (target, at) = outside_name(self.zone, self.name.clone(), |_| {})?;
        let forward = self.zone.settings().forward.get(at)?;
        let text = from_wire(target.as_bytes());
        match target.as_bytes() == self.name.as_bytes() {
            true => self.step_outside(&mut report),
            false => {
                report.step("zone", format!("in {}", self.origin()), "");
                let why = format!("an alias of {text}, which is outside the cluster");
                report.step("name", existing(self.object(self.name)), why);
            }
        }
        let servers: Vec<String> = forward.upstreams.iter().map(ToString::to_string).collect();
        let asked = match servers.len() {
            1 => "",
            _ => ", in this order, but those that were silent last",
        };
        let why = match &*forward.zone {
            [0] => {
                format!("`dns.upstreams`: the servers for all names outside{asked}, unless the cache has the answer")
            }
            zone => {
                let zone = from_wire(zone);
                format!("`dns.zones`: the servers for {zone}{asked}, unless the cache has the answer")
            }
        };
        let servers = servers.join(", ");
        report.step("resolver", format!("forwarded to {servers}"), why);
        report.delivered = true;
        report.result = "forwarded".to_owned();
        report.summary = format!("to {servers}, which a trace does not ask");
        self.hint(&mut report);
        Some(report)
    }

    /// The steps of the answer (RFC 1035 §4.3.2).
    fn look_up(&self, report: &mut Report, rule: Rule) {
        if !self.zone.holds(self.name) {
            return match rule {
                Rule::Outside => self.step_outside(report),
                Rule::Transfer => report.step("type", type_text(self.rtype), rule.sentence()),
                _ => self.reverse(report, rule),
            };
        }
        report.step("zone", format!("in {}", self.origin()), "");
        if rule == Rule::Transfer {
            return report.step("type", type_text(self.rtype), rule.sentence());
        }
        let object = self.object(self.name);
        let (Found::Node(node) | Found::Port(node)) = self.zone.find(self.name) else {
            match rule {
                Rule::Missing => report.step("name", "does not exist", self.why_missing(self.name)),
                Rule::NotLoaded => report.step("name", "not known yet", rule.sentence()),
                _ => report.step("name", existing(object), rule.sentence()),
            }
            return self.any(report);
        };
        let why = match self.zone.above(self.name) {
            Some(ENDPOINT) => "an endpoint's hostname, or the name of its Pod (`dns.endpointPodNames`)",
            _ => "",
        };
        report.step("name", existing(object), why);
        match node.answer(self.rtype) {
            Some(set) if set.rtype == rr::CNAME => {
                report.step("type", "an alias", "a CNAME answers every type (RFC 1034 §3.6.2)");
                self.alias(report);
            }
            Some(set) => report.step("type", format!("{} of type {}", set.count, type_text(self.rtype)), ""),
            None if self.rtype == rr::ANY => self.any(report),
            None if self.rtype == rr::SOA && self.zone.above(self.name) == Some(0) => {
                report.step("type", "1 of type SOA", "the zone's own record");
            }
            None => {
                let types: Vec<String> = node.sets().map(|set| type_text(set.rtype)).collect();
                let why = match types.is_empty() {
                    false => format!("the name has {}", types.join(", ")),
                    true => self.why_empty(self.name).unwrap_or_else(|| "the name has no records".to_owned()),
                };
                report.step("type", "no records of this type", why);
            }
        }
    }

    fn any(&self, report: &mut Report) {
        if self.rtype == rr::ANY {
            report.step("type", "ANY", "one HINFO record in place of all of them (RFC 8482)");
        }
    }

    /// A name in the reverse zone of a range.
    fn reverse(&self, report: &mut Report, rule: Rule) {
        let ranges = &self.zone.settings().reverse;
        let reverse = Reverse::read(self.name);
        let found = reverse.and_then(|name| ranges.iter().find_map(|net| Some((name.within(net)?.0, net))));
        let Some((place, net)) = found else {
            return report.step("zone", "a reverse zone", rule.sentence());
        };
        report.step("zone", format!("the reverse zone of {net}"), "");
        let Place::Address(address) = place else {
            let (decision, why) = match rule {
                Rule::Missing => ("does not exist", "it spells no address"),
                _ => ("exists", Rule::Above.sentence()),
            };
            return report.step("name", decision, why);
        };
        let owners = self.zone.owners(address);
        match owners {
            [] if rule == Rule::NotLoaded => report.step("name", address.to_string(), rule.sentence()),
            [] => report.step(
                "name",
                format!("{address}: does not exist"),
                "no Service has this address as ClusterIP, or as a ready endpoint",
            ),
            owners => {
                let named: Vec<String> = owners.iter().map(|owner| self.owner(owner)).collect();
                let why = match owners.iter().any(|owner| !owner.is_endpoint) && owners.len() > 1 {
                    true => "a ClusterIP's Service comes before endpoints: the others have no record",
                    false => "",
                };
                report.step("name", format!("{address}: {}", named.join(", ")), why);
            }
        }
        match (self.rtype, owners.is_empty()) {
            (_, true) | (rr::PTR, false) => {}
            (rr::ANY, false) => self.any(report),
            (_, false) => report.step("type", "no records of this type", "the name has PTR"),
        }
    }

    fn owner(&self, owner: &Owner) -> String {
        let service = Name::of(&[&owner.service], self.zone.names().seed());
        let service = service.map(|name| format!("{}/{}", label(&name, 1), label(&name, 0))).unwrap_or_default();
        match owner.is_endpoint {
            true => format!("an endpoint of Service {service}"),
            false => format!("ClusterIP of Service {service}"),
        }
    }

    /// Where the alias leads.
    fn alias(&self, report: &mut Report) {
        let Some(target) = self.target(self.name) else { return };
        let decision = format!("an alias of {}", from_wire(target.as_bytes()));
        let why = match self.alias_end() {
            AliasEnd::Records => String::new(),
            end => self.told(&end),
        };
        report.step("alias", decision, why);
    }

    /// What the name is an alias of.
    fn target(&self, name: &Name) -> Option<Name> {
        let (Found::Node(node) | Found::Port(node)) = self.zone.find(name) else { return None };
        let alias = node.answer(rr::CNAME).filter(|records| records.rtype == rr::CNAME)?;
        Name::of(&[alias.data()?], self.zone.names().seed())
    }

    fn alias_end(&self) -> AliasEnd {
        let mut seen = vec![self.name.clone()];
        let mut name = self.name.clone();
        while let Some(target) = self.target(&name) {
            if seen.iter().any(|known| known.as_bytes() == target.as_bytes()) {
                return AliasEnd::Loop(target);
            }
            if seen.len() > CHAIN {
                return AliasEnd::TooLong;
            }
            seen.push(target.clone());
            name = target;
        }
        match self.zone.find(&name) {
            Found::Node(node) | Found::Port(node) => match node.answer(self.rtype) {
                Some(_) => AliasEnd::Records,
                None => AliasEnd::NoData(name),
            },
            Found::Endpoint(_, ports) if self.rtype == rr::SRV && !ports.is_empty() => AliasEnd::Records,
            Found::Endpoint(address, _) | Found::Pod(address) => match records::address(&address).0 == self.rtype {
                true => AliasEnd::Records,
                false => AliasEnd::NoData(name),
            },
            Found::Empty => AliasEnd::NoData(name),
            Found::Missing | Found::Unknown => AliasEnd::Missing(name),
            Found::Outside => AliasEnd::Outside(name),
        }
    }

    fn told(&self, end: &AliasEnd) -> String {
        let text = |name: &Name| from_wire(name.as_bytes());
        match end {
            AliasEnd::Records => "it leads to records".to_owned(),
            AliasEnd::Missing(name) => format!("{} does not exist: {}", text(name), self.why_missing(name)),
            AliasEnd::NoData(name) => format!("{} has no records of type {}", text(name), type_text(self.rtype)),
            AliasEnd::Outside(name) if self.zone.settings().forward.is_empty() => {
                format!("{} is outside the cluster, and there is no other server to ask (`dns.upstreams`)", text(name))
            }
            AliasEnd::Outside(name) => {
                format!("{} is outside the cluster, and no other server is asked for it", text(name))
            }
            AliasEnd::Loop(name) => format!("the aliases lead back to {}", text(name)),
            AliasEnd::TooLong => "the aliases lead on for too long".to_owned(),
        }
    }

    fn close(&self, report: &mut Report, answer: Answer) {
        let data: Vec<&str> = answer.records.iter().map(|record| record.data.as_str()).collect();
        // Alone, an alias leaves its client without what was asked for.
        let is_enough = matches!(self.rtype, rr::CNAME | rr::ANY) || self.target(self.name).is_none();
        let end = (!is_enough).then(|| self.alias_end()).filter(|end| !matches!(end, AliasEnd::Records));
        report.delivered = !answer.records.is_empty() && end.is_none();
        report.result = "answered".to_owned();
        report.summary = match (answer.rcode.as_str(), &end, data.is_empty(), answer.truncated) {
            ("NOERROR", Some(end), ..) => format!("NOERROR, an alias that leads to no records: {}", self.told(end)),
            ("NOERROR", None, false, _) => format!("NOERROR, {}", data.join(", ")),
            ("NOERROR", None, true, true) => {
                "NOERROR, truncated: the records need more than 512 bytes, so the client is to ask by TCP".to_owned()
            }
            ("NOERROR", None, true, false) => "NOERROR without records: the name exists, the type does not".to_owned(),
            (rcode, ..) => rcode.to_owned(),
        };
        if !report.delivered && end.is_none() {
            self.hint(report);
        }
        report.answer = Some(answer);
    }

    /// Names what a client with a search list would have got.
    fn hint(&self, report: &mut Report) {
        if let Some(meant) = self.suggestion() {
            report.summary.push_str(&format!("; did you mean {meant}? A Pod's search list adds that"));
        }
    }

    /// The name below the Services' part of the zone, if that exists.
    fn suggestion(&self) -> Option<String> {
        let (name, origin) = (from_wire(self.name.as_bytes()), self.origin());
        let with = ["svc.", "default.svc.", ""].map(|between| format!("{name}{between}{origin}"));
        let has_records = |name: &String| {
            let name = to_wire(name).and_then(|wire| Name::of(&[&wire], self.zone.names().seed()));
            let node = name.as_ref().and_then(|name| self.zone.names().get(name));
            node.is_some_and(|node| node.sets().next().is_some())
        };
        with.into_iter().find(has_records)
    }

    /// The object behind a name of the zone that exists.
    fn object(&self, name: &Name) -> Option<String> {
        let above = self.zone.above(name)?;
        let text = |at: usize| label(name, at);
        match (name.label(above.checked_sub(1)?), above) {
            (b"svc" | b"pod", 2) => Some(format!("Namespace {}", text(0))),
            (b"svc", ENDPOINT) => Some(format!("an endpoint of Service {}/{}", text(2), text(1))),
            (b"svc", 3..) => Some(format!("Service {}/{}", text(above - 2), text(above - 3))),
            (b"pod", 3) => {
                let residents = self.zone.residents(from_label(name.label(0))?);
                let pod = residents.iter().find(|pod| *pod.namespace == *name.label(1))?;
                Some(format!("Pod {}/{}", text(1), pod.name))
            }
            _ => None,
        }
    }
}

fn label(name: &Name, at: usize) -> String {
    String::from_utf8_lossy(name.label(at)).into_owned()
}

fn existing(object: Option<String>) -> String {
    object.map_or_else(|| "exists".to_owned(), |object| format!("exists: {object}"))
}

fn type_text(rtype: u16) -> String {
    TYPES.iter().find(|(_, number)| *number == rtype).map_or_else(|| type_name(rtype), |(name, _)| (*name).to_owned())
}

fn rcode_name(rcode: Rcode) -> &'static str {
    match rcode {
        Rcode::NoError => "NOERROR",
        Rcode::FormErr => "FORMERR",
        Rcode::ServFail => "SERVFAIL",
        Rcode::NxDomain => "NXDOMAIN",
        Rcode::NotImp => "NOTIMP",
        Rcode::Refused => "REFUSED",
        Rcode::BadVers => "BADVERS",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pollgate_common::counters::Counters;
    use serde_json::json;

    use super::*;
    use crate::compile::Compiler;
    use crate::compile::sink::TableSink;
    use crate::objects::Kind;
    use crate::observe::dump::tests::options;
    use crate::testing::{World, service};

    /// What each step decides about `name`, at a gateway that has loaded its objects or not.
    fn decisions(name: &str, is_loaded: bool) -> (Vec<(String, String)>, Report) {
        let mut world = World::new();
        world.apply([service("web", json!({"clusterIP": "10.96.0.50", "ports": [{"port": 80}]}))]);
        let mut compiler = Compiler::new(options(), Arc::new(Counters::new(1)));
        compiler.changed(&world.cluster, &world.cluster.all_of(Kind::ALL));
        if is_loaded {
            compiler.loaded(true);
        }
        compiler.publish();
        let reader = compiler.source().reader();
        let report = dns(reader.pin().load(), &world.cluster, Listener::Running, name, "A").expect("a question");
        (report.steps.iter().map(|step| (step.stage.clone(), step.decision.clone())).collect(), report)
    }

    #[test]
    fn what_is_not_loaded_is_not_said_to_exist_or_not() {
        for (is_loaded, decision, rcode) in [(false, "not known yet", "SERVFAIL"), (true, "does not exist", "NXDOMAIN")]
        {
            let (steps, report) = decisions("gone.default.svc.cluster.local", is_loaded);
            assert!(steps.contains(&("name".to_owned(), decision.to_owned())), "{steps:?}");
            assert_eq!((report.summary.as_str(), report.delivered), (rcode, false));
        }
    }

    #[test]
    fn a_running_gateways_listener_is_the_one_in_its_tables() {
        let (_, report) = decisions("web.default.svc.cluster.local", true);
        assert!(report.delivered && report.steps[1].why.ends_with("not by TCP, without the host pair"), "{report:?}");
    }
}

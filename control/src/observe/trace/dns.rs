//! A DNS query: what the cluster's DNS server answers, and why.

use std::net::IpAddr;

use pollgate_common::dns::answer::{Answered, NoAnswer, Rule, respond, way_out};
use pollgate_common::dns::message::{self, Query, Rcode};
use pollgate_common::dns::name::{Name, from_wire, to_wire};
use pollgate_common::dns::records::rr;
use pollgate_common::dns::reverse::from_label;
use pollgate_common::dns::zone::{Found, Zone};
use pollgate_common::flow::Protocol;
use pollgate_common::tables::{FrontendKey, Tables};

use super::{Answer, RecordItem, Report};
use crate::compile::local::DNS_NAME;
use crate::observe::dump::{records, type_name};

/// A name or type that no query can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadQuestion {
    /// The name.
    Name,
    /// The type.
    Type,
}

/// The types that have a name, besides those of the zone.
const TYPES: [(&str, u16); 10] = [
    ("A", rr::A),
    ("NS", rr::NS),
    ("CNAME", rr::CNAME),
    ("SOA", rr::SOA),
    ("PTR", rr::PTR),
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

/// What a client gets that asks for `name` (without a search list) and `rtype`, by UDP and without EDNS.
///
/// # Errors
/// If no query can ask that.
pub fn dns(tables: &Tables, name: &str, rtype: &str) -> Result<Report, BadQuestion> {
    let wire = to_wire(name).ok_or(BadQuestion::Name)?;
    let number = record_type(rtype).ok_or(BadQuestion::Type)?;
    let zone = tables.zone();
    let mut message = message::query(&wire, number);
    let len = message.len();
    message.resize(message::PLAIN_SIZE, 0);
    let mut report = Report { generation: tables.generation(), ..Report::default() };
    let asked = format!("{} {}", from_wire(&wire), type_text(number));
    report.step("query", &asked, "as a client sends it: one name, without a search list, by UDP without EDNS");
    server(&mut report, tables);
    let mut query = Query { can_forward: true, ..Query::default() };
    query.read(&message, len, zone.names().seed()).ok_or(BadQuestion::Name)?;
    let answered = match respond(&query, &mut message, zone, None) {
        Ok(answered) => answered,
        Err(NoAnswer::Forward) => return outside(report, zone, &wire, &query.name).ok_or(BadQuestion::Name),
        // A query is well formed, and its answer fits: it is cut to what the client accepts.
        Err(NoAnswer::NotAQuery | NoAnswer::NoRoom) => return Err(BadQuestion::Name),
    };
    look_up(&mut report, zone, &wire, number, answered.rule);
    let answer = read(&message[len..answered.len], &answered);
    close(&mut report, zone, &wire, answer);
    report.delivered &= !tables.settings().dns.is_empty();
    Ok(report)
}

/// A query that takes other servers. They are not asked.
fn outside(mut report: Report, zone: &Zone, wire: &[u8], name: &Name) -> Option<Report> {
    let (target, at) = way_out(zone, name.clone(), |_| {})?;
    let forward = zone.settings().forward.get(at)?;
    let origin = from_wire(&zone.settings().origin);
    let text = from_wire(target.as_bytes());
    match target.as_bytes() == name.as_bytes() {
        true => report.step("zone", "outside", format!("the gateway serves only {origin} and what is below it")),
        false => {
            report.step("zone", format!("in {origin}"), "");
            report.step(
                "name",
                existing(object(zone, name)),
                format!("an alias of {text}, which is outside the cluster"),
            );
        }
    }
    let servers: Vec<String> = forward.upstreams.iter().map(ToString::to_string).collect();
    let why = match &*forward.zone {
        [0] => "`dns.upstreams`: these servers, in this order, unless the answer is in the cache".to_owned(),
        zone => format!("`dns.zones`: {} has these servers", from_wire(zone)),
    };
    let to = format!("forwarded to {}", servers.join(", "));
    report.step("resolver", &to, why);
    report.delivered = !zone.settings().servers.is_empty();
    report.result = "forwarded".to_owned();
    report.summary = format!("to {}, which a trace does not ask", servers.join(", "));
    hint(&mut report, zone, wire);
    Some(report)
}

fn server(report: &mut Report, tables: &Tables) {
    let addresses: Vec<String> = tables.settings().dns.iter().map(ToString::to_string).collect();
    match addresses.is_empty() {
        true => report.step("server", "none", "`dns.address` is empty: no DNS query is answered"),
        false => report.step(
            "server",
            format!("{}, port {}", addresses.join(", "), message::PORT),
            match tables.settings().dns.iter().all(|address| has_stream(tables, *address)) {
                true => {
                    "`dns.address`: a worker answers in place; by TCP, the gateway's listener gives the same answer"
                }
                false => "`dns.address`: a worker answers in place; not by TCP, without the host pair",
            },
        ),
    }
}

/// Whether the gateway answers by TCP at this address.
fn has_stream(tables: &Tables, address: IpAddr) -> bool {
    let key = FrontendKey { address, port: message::PORT, protocol: Protocol::Tcp };
    let service = tables.frontend(&key).and_then(|frontend| tables.service(frontend.service));
    service.is_some_and(|service| *service.name == *DNS_NAME)
}

/// The steps of the answer (RFC 1035 §4.3.2).
fn look_up(report: &mut Report, zone: &Zone, wire: &[u8], rtype: u16, rule: Rule) {
    let origin = from_wire(&zone.settings().origin);
    let name = Name::of(&[wire], zone.names().seed()).filter(|name| zone.holds(name));
    let Some(name) = name else {
        return match rule {
            Rule::Outside => {
                report.step("zone", "outside", format!("the gateway serves only {origin} and what is below it"))
            }
            _ => report.step("zone", "a reverse zone", rule.sentence()),
        };
    };
    report.step("zone", format!("in {origin}"), "");
    let object = object(zone, &name);
    let (Found::Node(node) | Found::Port(node)) = zone.find(&name) else {
        return match rule {
            Rule::Missing => report.step("name", "does not exist", "no Service has this name"),
            _ => report.step("name", existing(object), rule.sentence()),
        };
    };
    let why = match zone.above(&name) {
        Some(ENDPOINT) => "an endpoint's hostname, or the name of its Pod (`dns.endpointPodNames`)",
        _ => "",
    };
    report.step("name", existing(object), why);
    match node.answer(rtype) {
        Some(set) if set.rtype == rr::CNAME => {
            report.step("type", "an alias", "a CNAME answers every type (RFC 1034 §3.6.2)");
        }
        Some(set) => report.step("type", format!("{} of type {}", set.count, type_text(rtype)), ""),
        None => {
            let types: Vec<String> = node.sets().map(|set| type_text(set.rtype)).collect();
            let has = if types.is_empty() { "no records".to_owned() } else { types.join(", ") };
            report.step("type", "no records of this type", format!("the name has {has}"));
        }
    }
}

fn existing(object: Option<String>) -> String {
    object.map_or_else(|| "exists".to_owned(), |object| format!("exists: {object}"))
}

/// The object behind a name of the zone that exists.
fn object(zone: &Zone, name: &Name) -> Option<String> {
    let above = zone.above(name)?;
    let text = |label: usize| String::from_utf8_lossy(name.label(label)).into_owned();
    match (name.label(above.checked_sub(1)?), above) {
        (b"svc" | b"pod", 2) => Some(format!("Namespace {}", text(0))),
        (b"svc", ENDPOINT) => Some(format!("an endpoint of Service {}/{}", text(2), text(1))),
        (b"svc", 3..) => Some(format!("Service {}/{}", text(above - 2), text(above - 3))),
        (b"pod", 3) => {
            let residents = zone.residents(from_label(name.label(0))?);
            let pod = residents.iter().find(|pod| *pod.namespace == *name.label(1))?;
            Some(format!("Pod {}/{}", text(1), pod.name))
        }
        _ => None,
    }
}

fn close(report: &mut Report, zone: &Zone, wire: &[u8], answer: Answer) {
    let data: Vec<&str> = answer.records.iter().map(|record| record.data.as_str()).collect();
    report.delivered = !answer.records.is_empty();
    report.result = "answered".to_owned();
    report.summary = match (answer.rcode.as_str(), data.is_empty(), answer.truncated) {
        ("NOERROR", false, _) => format!("NOERROR, {}", data.join(", ")),
        ("NOERROR", true, true) => {
            "NOERROR, truncated: the records need more than 512 bytes, so the client is to ask by TCP".to_owned()
        }
        ("NOERROR", true, false) => "NOERROR without records: the name exists, the type does not".to_owned(),
        (rcode, ..) => rcode.to_owned(),
    };
    if !report.delivered {
        hint(report, zone, wire);
    }
    report.answer = Some(answer);
}

/// Names what a client with a search list would have got.
fn hint(report: &mut Report, zone: &Zone, wire: &[u8]) {
    if let Some(meant) = suggestion(zone, wire) {
        report.summary.push_str(&format!("; did you mean {meant}? A Pod's search list adds that"));
    }
}

/// The name below the Services' part of the zone, if that exists.
fn suggestion(zone: &Zone, wire: &[u8]) -> Option<String> {
    let (name, origin) = (from_wire(wire), from_wire(&zone.settings().origin));
    let with = ["svc.", "default.svc.", ""].map(|between| format!("{name}{between}{origin}"));
    let has_records = |name: &String| {
        let name = to_wire(name).and_then(|wire| Name::of(&[&wire], zone.names().seed()));
        let node = name.as_ref().and_then(|name| zone.names().get(name));
        node.is_some_and(|node| node.sets().next().is_some())
    };
    with.into_iter().find(has_records)
}

/// The records behind the question of a response.
fn read(sections: &[u8], answered: &Answered) -> Answer {
    let records = records(sections).take(answered.answers.into());
    let item = |record: crate::observe::dump::Record<'_>| RecordItem {
        rtype: type_name(record.rtype),
        ttl: record.ttl,
        data: record.text(),
    };
    let rcode = rcode_name(answered.rcode).to_owned();
    Answer { rcode, truncated: answered.truncated, records: records.map(item).collect() }
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

//! A DNS query: what the cluster's DNS server answers, and why.

use pollgate_common::dns::answer::answer;
use pollgate_common::dns::message::{self, Rcode};
use pollgate_common::dns::zone::{Zone, from_wire, rr, to_wire};
use pollgate_common::tables::Tables;

use super::{Answer, RecordItem, Report};
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
    ("NS", 2),
    ("CNAME", rr::CNAME),
    ("SOA", rr::SOA),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", rr::AAAA),
    ("SRV", 33),
    ("ANY", 255),
];

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
    let query = message.len();
    message.resize(message::PLAIN_SIZE, 0);
    let mut report = Report { generation: tables.generation(), ..Report::default() };
    let asked = format!("{} {}", from_wire(&wire), type_text(number));
    report.step("query", &asked, "as a client sends it: one name, without a search list, by UDP without EDNS");
    server(&mut report, tables);
    look_up(&mut report, zone, &wire, number);
    // A query is well formed, and its answer fits: it is cut to what the client accepts.
    let len = answer(&mut message, query, zone).unwrap_or(0);
    let answer = read(&message[..len], query).ok_or(BadQuestion::Name)?;
    close(&mut report, zone, &wire, answer);
    report.delivered &= !tables.settings().dns.is_empty();
    Ok(report)
}

fn server(report: &mut Report, tables: &Tables) {
    let addresses: Vec<String> = tables.settings().dns.iter().map(ToString::to_string).collect();
    match addresses.is_empty() {
        true => report.step("server", "none", "`dns.address` is empty: no DNS query is answered"),
        false => report.step(
            "server",
            format!("{}, port 53/UDP", addresses.join(", ")),
            "`dns.address`: a worker answers in place",
        ),
    }
}

/// The steps of the answer (RFC 1035 §4.3.2).
fn look_up(report: &mut Report, zone: &Zone, wire: &[u8], rtype: u16) {
    let origin = from_wire(&zone.origin);
    if !zone.holds(wire) {
        return report.step("zone", "outside", format!("the gateway serves only {origin} and what is below it"));
    }
    report.step("zone", format!("in {origin}"), "");
    let Some(node) = zone.find(wire) else {
        return report.step("name", "does not exist", "no Service has this name");
    };
    report.step("name", "exists", "");
    match (&node.cname, node.answer(rtype)) {
        (Some(_), _) => report.step("type", "an alias", "a CNAME answers every type (RFC 1034 §3.6.2)"),
        (None, Some(set)) => report.step("type", format!("{} of type {}", set.count, type_text(rtype)), ""),
        (None, None) => {
            let types: Vec<String> = node.sets.iter().map(|(rtype, _)| type_text(*rtype)).collect();
            let has = if types.is_empty() { "no records".to_owned() } else { types.join(", ") };
            report.step("type", "no records of this type", format!("the name has {has}"));
        }
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
    if let Some(meant) = suggestion(zone, wire).filter(|_| !report.delivered) {
        report.summary.push_str(&format!("; did you mean {meant}? A Pod's search list adds that"));
    }
    report.answer = Some(answer);
}

/// The name below the Services' part of the zone, if that exists.
fn suggestion(zone: &Zone, wire: &[u8]) -> Option<String> {
    let (name, origin) = (from_wire(wire), from_wire(&zone.origin));
    let with = ["svc.", "default.svc.", ""].map(|between| format!("{name}{between}{origin}"));
    with.into_iter().find(|name| {
        to_wire(name)
            .is_some_and(|wire| zone.find(&wire).is_some_and(|node| node.cname.is_some() || !node.sets.is_empty()))
    })
}

/// A response whose question ends at `end`.
fn read(response: &[u8], end: usize) -> Option<Answer> {
    let (rcode, truncated, count) = message::outcome(response)?;
    let records = records(response.get(end..)?).take(count.into());
    let item = |record: crate::observe::dump::Record<'_>| RecordItem {
        rtype: type_name(record.rtype),
        ttl: record.ttl,
        data: record.text(),
    };
    Some(Answer { rcode: rcode_name(rcode).to_owned(), truncated, records: records.map(item).collect() })
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

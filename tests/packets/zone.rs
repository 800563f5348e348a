//! What the zone answers, name by name: Kubernetes' DNS specification 1.1.0, CoreDNS' `plugin/kubernetes`, and the RFCs of DNS.
//!
//! Responses are read by the library `domain`, apart from the gateway's code. An answer is shown as
//! `RCODE TYPE data, … + owner TYPE data, … ~ zone of the SOA`: answers, additional records, authority.

use std::collections::BTreeMap;

use domain::base::Message;
use domain::base::iana::{Opcode, Rcode, Rtype};
use domain::base::message::RecordSection;
use domain::rdata::AllRecordData;
use proptest::prelude::*;

use super::support::builder::{Sendable, query, udp};
use super::support::lab::{Lab, OUTSIDE, OWN, PODS};
use super::support::objects::{endpoints, service, web};
use super::support::seen::Seen;

const SERVER: &str = "10.96.0.10:53";
const CLIENT: &str = "10.244.1.5:40000";

/// The same from a client that accepts 1232 bytes.
fn edns(name: &str, rtype: Rtype) -> Vec<u8> {
    let mut message = query(name, rtype, 7);
    message[11] = 1;
    message.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    message
}

fn ask(lab: &mut Lab, message: Vec<u8>) -> Message<Vec<u8>> {
    let seen: Seen = lab.through(PODS, udp(CLIENT, SERVER).payload(message), PODS);
    Message::from_octets(seen.payload).expect("a message")
}

/// A record of a section, and whose it is.
fn records(message: &Message<Vec<u8>>) -> [Vec<(String, Rtype, String)>; 3] {
    let sections = [message.answer(), message.authority(), message.additional()].map(|section| section.expect("sound"));
    sections.map(|section| {
        let record = |record: Result<_, _>| {
            let record: domain::base::ParsedRecord<'_, Vec<u8>> = record.expect("sound");
            let record = record.to_any_record::<AllRecordData<_, _>>().expect("sound data");
            let (rtype, mut data) = (record.rtype(), record.data().to_string());
            if rtype == Rtype::SRV {
                // The library ends names of all other types with a dot.
                data.push('.');
            }
            (format!("{}.", record.owner()), rtype, data)
        };
        section.map(record).filter(|(_, rtype, _)| *rtype != Rtype::OPT).collect()
    })
}

/// The times to live of a section's records.
fn seconds(section: RecordSection<'_, Vec<u8>>) -> Vec<u32> {
    section.map(|record| record.expect("sound").ttl().as_secs()).collect()
}

fn shown(message: &Message<Vec<u8>>) -> String {
    let [mut answers, authorities, mut additionals] = records(message);
    // The order of addresses is another one for each query.
    answers.sort_by_key(|(owner, rtype, data)| (*rtype != Rtype::CNAME, owner.clone(), data.clone()));
    additionals.sort_by_key(|(owner, _, data)| (owner.clone(), data.clone()));
    let mut text = match message.header().rcode() {
        Rcode::NOERROR => "NOERROR".to_owned(),
        other => other.to_string(),
    };
    if message.header().tc() {
        text += " TC";
    }
    let list = |records: &[(String, Rtype, String)], with_owner: bool| {
        let one = |(owner, rtype, data): &(String, Rtype, String)| {
            if with_owner { format!("{owner} {rtype} {data}") } else { format!("{rtype} {data}") }
        };
        records.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    if !answers.is_empty() {
        text += &format!(" {}", list(&answers, false));
    }
    if !additionals.is_empty() {
        text += &format!(" + {}", list(&additionals, true));
    }
    for (owner, rtype, _) in &authorities {
        assert_eq!(*rtype, Rtype::SOA);
        text += &format!(" ~ {owner}");
    }
    text
}

/// Endpoints of a Service, each `ADDRESS` or `ADDRESS=HOSTNAME`, in a slice with a port of this name.
fn slice(of: &str, number: u8, family: &str, port: &str, addresses: &[&str]) -> String {
    let endpoint = |endpoint: &&str| match endpoint.split_once('=') {
        Some((address, hostname)) => format!("  - {{addresses: ['{address}'], hostname: {hostname}}}\n"),
        None => format!("  - {{addresses: ['{endpoint}']}}\n"),
    };
    let list: String = addresses.iter().map(endpoint).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
         metadata: {{name: {of}-{number}, labels: {{kubernetes.io/service-name: {of}}}}}\nports: {port}\nendpoints:\n{list}---\n"
    )
}

pub(super) fn objects() -> String {
    let http = "[{name: http, port: 80}]";
    [
        web(&["10.244.1.10"]),
        service("two", "clusterIP: 10.96.0.51, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]"),
        service("hdls", "clusterIP: None, ports: [{name: http, port: 80}]"),
        slice("hdls", 1, "IPv4", http, &["10.244.0.2", "10.244.0.3", "10.244.0.4=dup-name", "10.244.0.5=dup-name"]),
        slice("hdls", 2, "IPv6", http, &["5678:abcd::1", "5678:abcd::2"]),
        service("wide", "clusterIP: None, ports: [{name: http-metrics, port: 80}]"),
        slice(
            "wide",
            1,
            "IPv4",
            "[{name: http-metrics, port: 80}]",
            &["10.244.3.1", "10.244.3.2", "10.244.3.3", "10.244.3.4", "10.244.3.5", "10.244.3.6"],
        ),
        service("prtls", "clusterIP: None, ports: []"),
        slice("prtls", 1, "IPv4", "[]", &["10.244.0.20"]),
        service("ports", "clusterIP: None, ports: [{name: dns, port: 53}]"),
        slice(
            "ports",
            1,
            "IPv4",
            "[{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}, {name: metrics, port: 9153}]",
            &["10.244.0.40"],
        ),
        service("to-endpoint", "type: ExternalName, externalName: 10-244-0-40.ports.default.svc.cluster.local"),
        service("unready", "clusterIP: None, ports: [{port: 80}]"),
        endpoints("unready", "TCP", 80, &["10.244.0.30~"]),
        service("ext", "type: ExternalName, externalName: db.example.com"),
        service("inside", "type: ExternalName, externalName: web.default.svc.cluster.local"),
        service("chain", "type: ExternalName, externalName: inside.default.svc.cluster.local"),
        service("dangling", "type: ExternalName, externalName: nope.default.svc.cluster.local"),
        service("ping", "type: ExternalName, externalName: pong.default.svc.cluster.local"),
        service("pong", "type: ExternalName, externalName: ping.default.svc.cluster.local"),
        service("self", "type: ExternalName, externalName: self.default.svc.cluster.local"),
        service("number", "type: ExternalName, externalName: 192.0.2.1"),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: bare}\n---\n".to_owned(),
    ]
    .concat()
}

#[test]
fn every_name_has_the_records_of_the_specification() {
    let mut lab = Lab::new(&objects());
    let zone = |text: &str| text.replace("@", "default.svc.cluster.local.");
    let cases: Vec<(&str, Rtype, String)> = [
        // Specification §2.2: the version.
        ("dns-version", Rtype::TXT, "NOERROR TXT \"1.1.0\""),
        // It exists, whatever the type: with NXDOMAIN, as from CoreDNS, a resolver would deny the TXT record too (RFC 8020 §2).
        ("dns-version", Rtype::A, "NOERROR ~ cluster.local."),
        // §2.3.1, §2.3.2: ClusterIP. SRV at the Service's own name is CoreDNS' (ci: srv_test.go).
        ("web.default.svc", Rtype::A, "NOERROR A 10.96.0.50"),
        ("web.default.svc", Rtype::AAAA, "NOERROR ~ cluster.local."),
        ("web.default.svc", Rtype::SRV, "NOERROR SRV 0 100 80 web.@ + web.@ A 10.96.0.50"),
        ("two.default.svc", Rtype::SRV, "NOERROR SRV 0 50 53 two.@, SRV 0 50 80 two.@ + two.@ A 10.96.0.51"),
        ("_http._tcp.two.default.svc", Rtype::SRV, "NOERROR SRV 0 100 80 two.@ + two.@ A 10.96.0.51"),
        ("_dns._udp.two.default.svc", Rtype::SRV, "NOERROR SRV 0 100 53 two.@ + two.@ A 10.96.0.51"),
        // CoreDNS parse.go: underscores are optional; port and protocol only filter.
        ("http.tcp.two.default.svc", Rtype::SRV, "NOERROR SRV 0 100 80 two.@"),
        ("_http._tcp.two.default.svc", Rtype::A, "NOERROR A 10.96.0.51"),
        ("_bogus._tcp.two.default.svc", Rtype::SRV, "NXDOMAIN ~ cluster.local."),
        ("_http._udp.two.default.svc", Rtype::SRV, "NXDOMAIN ~ cluster.local."),
        ("_tcp.two.default.svc", Rtype::SRV, "NXDOMAIN ~ cluster.local."),
        ("a._http._tcp.two.default.svc", Rtype::SRV, "NXDOMAIN ~ cluster.local."),
        ("*.web.default.svc", Rtype::A, "NXDOMAIN ~ cluster.local."),
        // CoreDNS (ci: address_test.go): endpoints of ClusterIP Services have names too.
        ("10-244-1-10.web.default.svc", Rtype::A, "NOERROR A 10.244.1.10"),
        ("10-244-1-10.web.default.svc", Rtype::AAAA, "NOERROR ~ cluster.local."),
        ("10-244-1-10.two.default.svc", Rtype::A, "NXDOMAIN ~ cluster.local."),
        // CoreDNS findServices: an endpoint's own name has SRV records of its ports.
        (
            "10-244-1-10.web.default.svc",
            Rtype::SRV,
            "NOERROR SRV 0 100 8080 10-244-1-10.web.@ + 10-244-1-10.web.@ A 10.244.1.10",
        ),
        ("10-244-1-10.web.default.svc", Rtype::MX, "NOERROR ~ cluster.local."),
        ("10-244-1-10.web.default.svc", Rtype::ANY, "NOERROR HINFO RFC8482 \"\""),
        // §2.4.1: headless.
        ("hdls.default.svc", Rtype::A, "NOERROR A 10.244.0.2, A 10.244.0.3, A 10.244.0.4, A 10.244.0.5"),
        ("hdls.default.svc", Rtype::AAAA, "NOERROR AAAA 5678:abcd::1, AAAA 5678:abcd::2"),
        ("dup-name.hdls.default.svc", Rtype::A, "NOERROR A 10.244.0.4, A 10.244.0.5"),
        ("dup-name.hdls.default.svc", Rtype::AAAA, "NOERROR ~ cluster.local."),
        ("10-244-0-2.hdls.default.svc", Rtype::A, "NOERROR A 10.244.0.2"),
        ("10-244-0-4.hdls.default.svc", Rtype::A, "NXDOMAIN ~ cluster.local."),
        ("10-244-0-2.hdls.default.svc", Rtype::SRV, "NOERROR SRV 0 100 80 10-244-0-2.hdls.@ + 10-244-0-2.hdls.@ A 10.244.0.2"),
        (
            "5678-abcd--1.hdls.default.svc",
            Rtype::SRV,
            "NOERROR SRV 0 100 80 5678-abcd--1.hdls.@ + 5678-abcd--1.hdls.@ AAAA 5678:abcd::1",
        ),
        // Two endpoints with one hostname share its weight; what is the same of both is there once (plugin/backend_lookup.go).
        (
            "dup-name.hdls.default.svc",
            Rtype::SRV,
            "NOERROR SRV 0 50 80 dup-name.hdls.@ + dup-name.hdls.@ A 10.244.0.4, dup-name.hdls.@ A 10.244.0.5",
        ),
        // One number of two protocols, and another: three candidates, two records.
        (
            "10-244-0-40.ports.default.svc",
            Rtype::SRV,
            "NOERROR SRV 0 33 53 10-244-0-40.ports.@, SRV 0 33 9153 10-244-0-40.ports.@ + 10-244-0-40.ports.@ A 10.244.0.40",
        ),
        ("to-endpoint.default.svc", Rtype::SRV, "NOERROR CNAME 10-244-0-40.ports.@, SRV 0 33 53 10-244-0-40.ports.@, SRV 0 33 9153 10-244-0-40.ports.@"),
        ("5678-abcd--1.hdls.default.svc", Rtype::AAAA, "NOERROR AAAA 5678:abcd::1"),
        ("bogus.hdls.default.svc", Rtype::A, "NXDOMAIN ~ cluster.local."),
        ("prtls.default.svc", Rtype::A, "NOERROR A 10.244.0.20"),
        ("prtls.default.svc", Rtype::SRV, "NOERROR ~ cluster.local."),
        ("10-244-0-20.prtls.default.svc", Rtype::A, "NOERROR A 10.244.0.20"),
        ("10-244-0-20.prtls.default.svc", Rtype::SRV, "NOERROR ~ cluster.local."),
        ("unready.default.svc", Rtype::A, "NXDOMAIN ~ cluster.local."),
        // §2.5: ExternalName; a target in the zone is followed.
        ("ext.default.svc", Rtype::A, "NOERROR CNAME db.example.com."),
        ("ext.default.svc", Rtype::CNAME, "NOERROR CNAME db.example.com."),
        ("x.ext.default.svc", Rtype::A, "NXDOMAIN ~ cluster.local."),
        ("inside.default.svc", Rtype::A, "NOERROR CNAME web.@, A 10.96.0.50"),
        ("chain.default.svc", Rtype::A, "NOERROR CNAME inside.@, CNAME web.@, A 10.96.0.50"),
        ("dangling.default.svc", Rtype::A, "NOERROR CNAME nope.@ ~ cluster.local."),
        ("self.default.svc", Rtype::A, "NOERROR ~ cluster.local."),
        ("number.default.svc", Rtype::A, "NXDOMAIN ~ cluster.local."),
        // RFC 8020: what has something below it exists, also a Namespace without Services.
        ("default.svc", Rtype::A, "NOERROR ~ cluster.local."),
        ("bare.svc", Rtype::A, "NOERROR ~ cluster.local."),
        ("none.svc", Rtype::A, "NXDOMAIN ~ cluster.local."),
        ("svc", Rtype::A, "NOERROR ~ cluster.local."),
        ("pod", Rtype::A, "NOERROR ~ cluster.local."),
        ("foo", Rtype::A, "NXDOMAIN ~ cluster.local."),
        ("10-244-1-5.default.pod", Rtype::A, "NXDOMAIN ~ cluster.local."),
        ("default.pod", Rtype::A, "NXDOMAIN ~ cluster.local."),
        // Name servers: CoreDNS kubernetes_apex_test.go.
        ("ns.dns", Rtype::A, "NOERROR A 10.96.0.10"),
        ("svc", Rtype::NS, "NOERROR ~ cluster.local."),
        ("web.default.svc", Rtype::SOA, "NOERROR ~ cluster.local."),
        // Types nobody has (CoreDNS TestServeDNS), and ANY (RFC 8482 §4.2).
        ("web.default.svc", Rtype::MX, "NOERROR ~ cluster.local."),
        ("nope.default.svc", Rtype::MX, "NXDOMAIN ~ cluster.local."),
        ("web.default.svc", Rtype::ANY, "NOERROR HINFO RFC8482 \"\""),
        ("nope.default.svc", Rtype::ANY, "NXDOMAIN ~ cluster.local."),
        ("ext.default.svc", Rtype::ANY, "NOERROR CNAME db.example.com."),
        // Zones are not transferred.
        ("svc", Rtype::AXFR, "REFUSED"),
        ("svc", Rtype::IXFR, "REFUSED"),
    ]
    .map(|(name, rtype, expected)| (name, rtype, zone(expected)))
    .to_vec();
    let mut wrong = Vec::new();
    for (name, rtype, expected) in &cases {
        let message = ask(&mut lab, edns(&format!("{name}.cluster.local."), *rtype));
        let found = shown(&message).replace("HINFO \"RFC8482\"", "HINFO RFC8482");
        if found != *expected {
            wrong.push(format!("{name} {rtype}: {found}, not {expected}"));
        }
        assert_eq!(message.header().aa(), message.header().rcode() != Rcode::REFUSED, "{name} {rtype}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A circle of aliases ends where it began: no record is there twice (RFC 2181 §5).
    let circle = shown(&ask(&mut lab, edns("ping.default.svc.cluster.local.", Rtype::A)));
    assert_eq!(circle, zone("NOERROR CNAME pong.@, CNAME ping.@"));
    let apex = shown(&ask(&mut lab, edns("cluster.local.", Rtype::NS)));
    assert_eq!(apex, "NOERROR NS ns.dns.cluster.local. + ns.dns.cluster.local. A 10.96.0.10");
    let soa = shown(&ask(&mut lab, edns("cluster.local.", Rtype::SOA)));
    assert!(soa.starts_with("NOERROR SOA ns.dns.cluster.local. hostmaster.cluster.local. "), "{soa}");
    assert!(soa.ends_with(" 7200 1800 86400 5"), "{soa}");
    balanced(&lab, cases.len() as u64 + 3);
}

/// Every query was answered, and counted once by its code and once by its type.
fn balanced(lab: &Lab, queries: u64) {
    let totals = lab.totals();
    assert_eq!((totals.rx, totals.tx, totals.dropped()), (queries, queries, 0));
    let types = [totals.dns_a, totals.dns_aaaa, totals.dns_srv, totals.dns_ptr, totals.dns_other];
    let codes = [totals.dns_answered, totals.dns_no_data, totals.dns_nxdomain, totals.dns_servfail, totals.dns_refused];
    let odd = [totals.dns_notimp, totals.dns_bad_name, totals.dns_bad_counts, totals.dns_bad_opt, totals.dns_trailing];
    let odd: u64 = odd.iter().sum();
    assert_eq!(types.iter().sum::<u64>() + odd, queries, "by type: {types:?}");
    assert_eq!(codes.iter().sum::<u64>() + odd + totals.dns_badvers, queries, "by code: {codes:?}");
}

#[test]
fn an_srv_record_is_there_for_each_endpoint_and_port() {
    let mut lab = Lab::new(&objects());
    // Six candidates, one hundred sixth each; two with one hostname are one record (CoreDNS TestServeDNS).
    let message = ask(&mut lab, edns("_http._tcp.hdls.default.svc.cluster.local.", Rtype::SRV));
    let z = "hdls.default.svc.cluster.local.";
    let targets = ["10-244-0-2", "10-244-0-3", "5678-abcd--1", "5678-abcd--2", "dup-name"];
    let answers = targets.map(|target| format!("SRV 0 16 80 {target}.{z}")).join(", ");
    let extras = [
        ("10-244-0-2", "A 10.244.0.2"),
        ("10-244-0-3", "A 10.244.0.3"),
        ("5678-abcd--1", "AAAA 5678:abcd::1"),
        ("5678-abcd--2", "AAAA 5678:abcd::2"),
        ("dup-name", "A 10.244.0.4"),
        ("dup-name", "A 10.244.0.5"),
    ];
    let extras = extras.map(|(target, data)| format!("{target}.{z} {data}")).join(", ");
    assert_eq!(shown(&message), format!("NOERROR {answers} + {extras}"));
    // Without EDNS the additional records do not fit: they are left out, and the answer is whole (RFC 2181 §9).
    let plain = ask(&mut lab, query("_http-metrics._tcp.wide.default.svc.cluster.local.", Rtype::SRV, 7));
    let [answers, _, additionals] = records(&plain);
    assert_eq!((answers.len(), additionals.len(), plain.header().tc()), (6, 0, false));
    lab.counters(&[("rx", 2), ("tx", 2), ("dns_srv", 2), ("dns_answered", 2)]);
}

#[test]
fn addresses_have_names_in_the_reverse_zones() {
    let mut lab = Lab::new(&objects());
    let z = "default.svc.cluster.local.";
    let cases = [
        // Specification §2.3.3, §2.4.3; CoreDNS TestReverse.
        ("50.0.96.10.in-addr.arpa.", Rtype::PTR, format!("NOERROR PTR web.{z}")),
        ("10.1.244.10.in-addr.arpa.", Rtype::PTR, format!("NOERROR PTR 10-244-1-10.web.{z}")),
        ("4.0.244.10.in-addr.arpa.", Rtype::PTR, format!("NOERROR PTR dup-name.hdls.{z}")),
        ("99.0.96.10.in-addr.arpa.", Rtype::PTR, "NXDOMAIN ~ 96.10.in-addr.arpa.".to_owned()),
        ("50.0.96.10.in-addr.arpa.", Rtype::A, "NOERROR ~ 96.10.in-addr.arpa.".to_owned()),
        ("50.0.96.10.in-addr.arpa.", Rtype::ANY, "NOERROR HINFO RFC8482 \"\"".to_owned()),
        ("0.96.10.in-addr.arpa.", Rtype::PTR, "NOERROR ~ 96.10.in-addr.arpa.".to_owned()),
        ("x.0.96.10.in-addr.arpa.", Rtype::PTR, "NXDOMAIN ~ 96.10.in-addr.arpa.".to_owned()),
        ("96.10.in-addr.arpa.", Rtype::NS, "NOERROR NS ns.dns.cluster.local.".to_owned()),
        // Outside the ranges of Pods and Services.
        ("1.2.0.192.in-addr.arpa.", Rtype::PTR, "REFUSED".to_owned()),
        ("10.in-addr.arpa.", Rtype::PTR, "REFUSED".to_owned()),
        ("web.default.svc.cluster.local.", Rtype::PTR, "NOERROR ~ cluster.local.".to_owned()),
    ];
    for (name, rtype, expected) in &cases {
        let found = shown(&ask(&mut lab, query(name, *rtype, 7))).replace("HINFO \"RFC8482\"", "HINFO RFC8482");
        assert_eq!(&found, expected, "{name} {rtype}");
    }
    let soa = shown(&ask(&mut lab, query("96.10.in-addr.arpa.", Rtype::SOA, 7)));
    assert!(soa.starts_with("NOERROR SOA ns.dns.96.10.in-addr.arpa. "), "{soa}");
    balanced(&lab, cases.len() as u64 + 1);
}

#[test]
fn records_follow_the_endpoints() {
    let mut lab = Lab::new(&objects());
    let check = |lab: &mut Lab, name: &str, rtype, expected: &str| {
        assert_eq!(shown(&ask(lab, query(name, rtype, 7))), expected, "{name}");
    };
    lab.apply(&endpoints("web", "TCP", 8080, &["10.244.1.11"]));
    check(&mut lab, "10-244-1-10.web.default.svc.cluster.local.", Rtype::A, "NXDOMAIN ~ cluster.local.");
    check(&mut lab, "10-244-1-11.web.default.svc.cluster.local.", Rtype::A, "NOERROR A 10.244.1.11");
    check(&mut lab, "10.1.244.10.in-addr.arpa.", Rtype::PTR, "NXDOMAIN ~ 244.10.in-addr.arpa.");
    lab.apply(&slice("hdls", 1, "IPv4", "[{name: http, port: 81}]", &["10.244.0.4=dup-name"]));
    let z = "hdls.default.svc.cluster.local.";
    check(&mut lab, z, Rtype::A, "NOERROR A 10.244.0.4");
    check(&mut lab, "10-244-0-2.hdls.default.svc.cluster.local.", Rtype::A, "NXDOMAIN ~ cluster.local.");
    let srv = shown(&ask(&mut lab, edns(&format!("_http._tcp.{z}"), Rtype::SRV)));
    assert!(srv.contains(&format!("SRV 0 33 81 dup-name.{z}")) && srv.contains("SRV 0 33 80 5678"), "{srv}");
    lab.delete(pollgate_control::objects::Kind::Service, "web");
    check(&mut lab, "50.0.96.10.in-addr.arpa.", Rtype::PTR, "NXDOMAIN ~ 96.10.in-addr.arpa.");
    check(&mut lab, "10-244-1-11.web.default.svc.cluster.local.", Rtype::A, "NXDOMAIN ~ cluster.local.");
}

fn pod(namespace: &str, name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{containers: [{{name: c, image: i}}]}}\n\
         status: {{phase: Running, podIP: {address}, podIPs: [{{ip: {address}}}]}}\n---\n"
    )
}

#[test]
fn pods_have_records_if_the_configuration_says_so() {
    let pods = [pod("default", "p", "10.244.1.7"), pod("other", "q", "10.244.1.8")].concat();
    let names =
        ["10-244-1-7.default.pod", "10-244-1-8.default.pod", "x.default.pod", "10-244-1-7.none.pod", "default.pod"];
    let (a7, a8, nx, empty) =
        ("NOERROR A 10.244.1.7", "NOERROR A 10.244.1.8", "NXDOMAIN ~ cluster.local.", "NOERROR ~ cluster.local.");
    // CoreDNS handler_pod_{disabled,insecure,verified}_test.go.
    for (mode, expected) in [
        ("disabled", [nx, nx, nx, nx, nx]),
        ("insecure", [a7, a8, nx, nx, empty]),
        ("verified", [a7, nx, nx, nx, empty]),
    ] {
        let mut lab = Lab::configured(&format!("dns: {{address: 10.96.0.10, pods: {mode}}}\n"), &pods);
        for (name, expected) in names.iter().zip(expected) {
            let found = shown(&ask(&mut lab, query(&format!("{name}.cluster.local."), Rtype::A, 7)));
            assert_eq!(found, expected, "{mode}: {name}");
        }
        if mode == "verified" {
            lab.delete(pollgate_control::objects::Kind::Pod, "p");
            assert_eq!(shown(&ask(&mut lab, query("10-244-1-7.default.pod.cluster.local.", Rtype::A, 7))), nx);
        }
    }
}

#[test]
fn endpoints_have_their_pods_names_if_the_configuration_says_so() {
    let name = "db-0.hdls.default.svc.cluster.local.";
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {name: hdls-1, labels: {kubernetes.io/service-name: hdls}}\nports: [{name: http, port: 80}]\nendpoints:\n\
         - {addresses: [10.244.0.2], targetRef: {kind: Pod, name: db-0}}\n\
         - {addresses: [10.244.0.3], targetRef: {kind: Pod, name: db-1}, hostname: other}\n\
         - {addresses: [10.244.0.4], targetRef: {kind: Pod, name: a.b}}\n---\n";
    let objects = [service("hdls", "clusterIP: None, ports: [{name: http, port: 80}]"), slice.to_owned()].concat();
    // CoreDNS `plugin/kubernetes/README.md`, endpoint_pod_names: the hostname, else the Pod's name, else the address.
    let cases = [
        (name, Rtype::A, ["NXDOMAIN ~ cluster.local.".to_owned(), "NOERROR A 10.244.0.2".to_owned()]),
        (
            "2.0.244.10.in-addr.arpa.",
            Rtype::PTR,
            [format!("NOERROR PTR 10-244-0-2.{}", &name[5..]), format!("NOERROR PTR {name}")],
        ),
        (
            "10-244-0-2.hdls.default.svc.cluster.local.",
            Rtype::A,
            ["NOERROR A 10.244.0.2".to_owned(), "NXDOMAIN ~ cluster.local.".to_owned()],
        ),
        ("other.hdls.default.svc.cluster.local.", Rtype::A, ["NOERROR A 10.244.0.3"; 2].map(str::to_owned)),
        ("10-244-0-4.hdls.default.svc.cluster.local.", Rtype::A, ["NOERROR A 10.244.0.4"; 2].map(str::to_owned)),
    ];
    for (at, value) in ["false", "true"].into_iter().enumerate() {
        let mut lab = Lab::configured(&format!("dns: {{address: 10.96.0.10, endpointPodNames: {value}}}\n"), &objects);
        for (name, rtype, expected) in &cases {
            assert_eq!(shown(&ask(&mut lab, query(name, *rtype, 7))), expected[at], "{value}: {name}");
        }
        balanced(&lab, cases.len() as u64);
    }
}

/// CoreDNS `plugin/kubernetes`: a denial is kept for five minutes at most, whatever the TTL of the records.
#[test]
fn a_denial_is_kept_for_five_minutes_at_most() {
    for (ttl, soa) in [(5, 5), (300, 300), (3600, 300)] {
        let mut lab = Lab::configured(&format!("dns: {{address: 10.96.0.10, ttl: {ttl}}}\n"), &objects());
        for name in ["nope.default.svc.cluster.local.", "99.0.96.10.in-addr.arpa."] {
            let denial = ask(&mut lab, query(name, Rtype::A, 7));
            assert_eq!(seconds(denial.authority().expect("sound")), [soa], "{name}");
        }
        let answer = ask(&mut lab, query("web.default.svc.cluster.local.", Rtype::A, 7));
        assert_eq!(seconds(answer.answer().expect("sound")), [ttl]);
        balanced(&lab, 3);
    }
}

#[test]
fn the_search_list_of_a_pod_is_walked_in_one_answer() {
    let objects = [
        pod("default", "client", "10.244.1.5"),
        service("web", "clusterIP: 10.96.0.50, ports: [{port: 80}]"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: prod}\nspec: {clusterIP: 10.96.0.61, ports: [{port: 80}]}\n".to_owned(),
    ]
    .concat();
    let mut lab = Lab::configured("dns: {address: 10.96.0.10, autopath: true}\n", &objects);
    let z = "cluster.local.";
    let cases = [
        // CoreDNS plugin/autopath: an alias leads from the name asked for to the one that was found.
        (format!("api.prod.default.svc.{z}"), Rtype::A, format!("NOERROR CNAME api.prod.svc.{z}, A 10.96.0.61")),
        (format!("api.prod.svc.default.svc.{z}"), Rtype::A, format!("NOERROR CNAME api.prod.svc.{z}, A 10.96.0.61")),
        // A whole name is tried last, as it is (CoreDNS ci: autopath_test.go, "Valid fqdn for internal service").
        (
            format!("api.prod.svc.cluster.local.default.svc.{z}"),
            Rtype::A,
            format!("NOERROR CNAME api.prod.svc.{z}, A 10.96.0.61"),
        ),
        // It stops at the first name that exists, whatever the type: musl takes one NXDOMAIN for the end of both queries.
        (format!("api.prod.default.svc.{z}"), Rtype::AAAA, format!("NOERROR CNAME api.prod.svc.{z} ~ {z}")),
        (format!("api.prod.default.svc.{z}"), Rtype::TXT, format!("NOERROR CNAME api.prod.svc.{z} ~ {z}")),
        (format!("api.prod.default.svc.{z}"), Rtype::ANY, format!("NOERROR CNAME api.prod.svc.{z}")),
        (format!("prod.default.svc.{z}"), Rtype::A, format!("NOERROR CNAME prod.svc.{z} ~ {z}")),
        // What is found in no domain, or is not the first step of the walk, is denied as ever.
        (format!("www.example.com.default.svc.{z}"), Rtype::A, format!("NXDOMAIN ~ {z}")),
        (format!("web.default.prod.svc.{z}"), Rtype::A, format!("NXDOMAIN ~ {z}")),
        (format!("web.default.svc.{z}"), Rtype::A, "NOERROR A 10.96.0.50".to_owned()),
    ];
    for (name, rtype, expected) in &cases {
        assert_eq!(&shown(&ask(&mut lab, query(name, *rtype, 7))), expected, "{name} {rtype}");
    }
    lab.counters(&[
        ("rx", 10),
        ("tx", 10),
        ("dns_a", 7),
        ("dns_aaaa", 1),
        ("dns_other", 2),
        ("dns_answered", 8),
        ("dns_nxdomain", 2),
        ("dns_search_list", 7),
    ]);
    // A client that is no Pod has no search list.
    let seen =
        lab.through(OUTSIDE, udp("192.168.50.100:40000", SERVER).payload(query(&cases[0].0, Rtype::A, 7)), OUTSIDE);
    assert_eq!(shown(&Message::from_octets(seen.payload).expect("a message")), format!("NXDOMAIN ~ {z}"));
}

#[test]
fn each_query_gets_the_addresses_from_another_one_on() {
    let mut lab = Lab::new(&objects());
    let mut firsts = BTreeMap::new();
    for id in 0..64u16 {
        let message = ask(&mut lab, query("hdls.default.svc.cluster.local.", Rtype::A, id << 10));
        let [answers, ..] = records(&message);
        let all: Vec<String> = answers.into_iter().map(|(_, _, data)| data).collect();
        assert_eq!(all.len(), 4);
        *firsts.entry(all[0].clone()).or_insert(0) += 1;
    }
    assert_eq!(firsts.into_values().collect::<Vec<_>>(), [16; 4]);
}

#[test]
fn rd_and_cd_come_back_and_nothing_else_does() {
    let mut lab = Lab::new(&objects());
    for flags in [0u16, 0x0100, 0x0010, 0x0110, 0x02f0] {
        let mut message = query("web.default.svc.cluster.local.", Rtype::A, 7);
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        let answer = ask(&mut lab, message);
        let header = answer.header();
        assert_eq!((header.qr(), header.aa(), header.ra(), header.opcode()), (true, true, false, Opcode::QUERY));
        assert_eq!((header.rd(), header.cd()), (flags & 0x0100 != 0, flags & 0x0010 != 0));
        assert_eq!((header.tc(), header.z(), header.ad()), (false, false, false));
    }
}

#[test]
fn beyond_its_rate_a_client_prefix_gets_every_other_time_a_truncated_response() {
    let mut lab = Lab::configured("dns: {address: 10.96.0.10, responsesPerSecond: 10}\n", &objects());
    let message = query("web.default.svc.cluster.local.", Rtype::A, 7);
    // Forty from one /24, then one from another.
    lab.send_all(PODS, (0..40).map(|n| udp(&format!("10.244.1.{}:40000", n + 1), SERVER).payload(message.clone())));
    let seen = lab.take(PODS);
    let is_slipped = |seen: &Seen| seen.payload[2] & 2 != 0;
    assert_eq!((seen.len(), seen.iter().filter(|seen| is_slipped(seen)).count()), (25, 15));
    assert!(seen.iter().filter(|seen| is_slipped(seen)).all(|seen| seen.payload.len() == message.len()));
    let other = lab.through(PODS, udp("10.244.2.15:40000", SERVER).payload(message), PODS);
    assert!(!is_slipped(&other));
    lab.counters(&[("rx", 41), ("tx", 26), ("dns_a", 11), ("dns_answered", 11), ("dns_slipped", 15), ("dns_rate", 15)]);
}

#[test]
fn until_the_objects_are_loaded_nothing_is_denied() {
    use std::sync::Arc;

    use pollgate_common::dns::answer::answer;
    use pollgate_common::dns::name::to_wire;
    use pollgate_common::dns::zone::{Zone, ZoneSettings};

    let settings =
        ZoneSettings { origin: to_wire("cluster.local").expect("a name"), ttl: 5, ..ZoneSettings::default() };
    let mut zone = Zone::new(Arc::new(settings));
    let ask = |zone: &Zone, name: &str| {
        let mut buffer = query(name, Rtype::A, 7);
        let len = buffer.len();
        buffer.resize(512, 0);
        let answered = answer(&mut buffer, len, zone, None).expect("room");
        buffer.truncate(answered.len);
        shown(&Message::from_octets(buffer).expect("a message"))
    };
    // CoreDNS TestNotSyncedServeDNS.
    assert_eq!(ask(&zone, "web.default.svc.cluster.local."), "SERVFAIL ~ cluster.local.");
    assert_eq!(ask(&zone, "svc.cluster.local."), "NOERROR ~ cluster.local.");
    zone.services_are_loaded();
    assert_eq!(ask(&zone, "web.default.svc.cluster.local."), "NXDOMAIN ~ cluster.local.");
}

/// What the naive zone has: names and addresses, from the same numbers as the objects.
#[derive(Clone, Debug)]
enum Model {
    ClusterIp(u8),
    Headless(Vec<u8>),
    Alias(u8),
}

fn model() -> impl Strategy<Value = Vec<Option<Model>>> {
    let one = prop_oneof![
        // Those before belong to the API and to DNS.
        (11..=200u8).prop_map(Model::ClusterIp),
        proptest::collection::vec(1..=20u8, 0..5).prop_map(Model::Headless),
        (0..6u8).prop_map(Model::Alias),
    ];
    proptest::collection::vec(proptest::option::of(one), 6)
}

fn manifests(model: &[Option<Model>]) -> String {
    let object = |(n, model): (usize, &Option<Model>)| match model {
        None => String::new(),
        // No two Services can have one address.
        Some(Model::ClusterIp(ip)) => {
            service(&format!("s{n}"), &format!("clusterIP: 10.96.{n}.{ip}, ports: [{{port: 80}}]"))
        }
        Some(Model::Headless(ips)) => {
            let ips: Vec<String> = ips.iter().map(|ip| format!("10.244.{n}.{ip}")).collect();
            let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
            service(&format!("s{n}"), "clusterIP: None, ports: [{port: 80}]")
                + &endpoints(&format!("s{n}"), "TCP", 80, &ips)
        }
        Some(Model::Alias(to)) => {
            service(&format!("s{n}"), &format!("type: ExternalName, externalName: s{to}.default.svc.cluster.local"))
        }
    };
    model.iter().enumerate().map(object).collect()
}

/// The addresses of a Service, sorted; `None` if its name does not exist.
fn addresses(model: &[Option<Model>], n: usize, depth: usize) -> Option<Vec<String>> {
    match model[n].as_ref()? {
        Model::ClusterIp(ip) => Some(vec![format!("10.96.{n}.{ip}")]),
        Model::Headless(ips) if ips.is_empty() => None,
        Model::Headless(ips) => {
            let ips: std::collections::BTreeSet<String> = ips.iter().map(|ip| format!("10.244.{n}.{ip}")).collect();
            Some(ips.into_iter().collect())
        }
        Model::Alias(_) if depth > 10 => Some(vec![]),
        Model::Alias(to) => Some(addresses(model, usize::from(*to), depth + 1).unwrap_or_default()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_zone_agrees_with_a_map_of_sets_after_any_changes(first in model(), second in model()) {
        let mut lab = Lab::new(&manifests(&first));
        for model in [&first, &second] {
            for (n, service) in model.iter().enumerate() {
                let name = format!("s{n}.default.svc.cluster.local.");
                let message = ask(&mut lab, edns(&name, Rtype::A));
                let [answers, ..] = records(&message);
                let mut found: Vec<String> =
                    answers.into_iter().filter(|(_, rtype, _)| *rtype == Rtype::A).map(|(_, _, data)| data).collect();
                found.sort();
                match addresses(model, n, 0) {
                    Some(mut expected) => {
                        expected.sort();
                        prop_assert_eq!((message.header().rcode(), found), (Rcode::NOERROR, expected), "{} {:?}", name, service);
                    }
                    None => prop_assert_eq!((message.header().rcode(), found), (Rcode::NXDOMAIN, vec![]), "{}", name),
                }
                if let Some(Model::Headless(ips)) = service {
                    for ip in ips {
                        let reverse = format!("{ip}.{n}.244.10.in-addr.arpa.");
                        let found = shown(&ask(&mut lab, query(&reverse, Rtype::PTR, 7)));
                        prop_assert_eq!(found, format!("NOERROR PTR 10-244-{n}-{ip}.{name}"));
                    }
                }
            }
            // Then everything is replaced.
            for n in 0..6 {
                if first[n].is_some() && std::ptr::eq(model, &first) {
                    lab.delete(pollgate_control::objects::Kind::Service, &format!("s{n}"));
                    if matches!(first[n], Some(Model::Headless(_))) {
                        let ended = shown(&ask(&mut lab, edns(&format!("s{n}.default.svc.cluster.local."), Rtype::A)));
                        prop_assert_eq!(ended, "NXDOMAIN ~ cluster.local.");
                    }
                }
            }
            if std::ptr::eq(model, &first) {
                lab.apply(&manifests(&second));
            }
        }
    }
}

#[test]
fn a_query_by_ipv4_with_options_has_room_for_its_answer() {
    let mut lab = Lab::new(&objects());
    let packet =
        udp(CLIENT, SERVER).payload(edns("hdls.default.svc.cluster.local.", Rtype::A)).ip_options([148, 4, 0, 0]);
    assert_eq!(packet.clone().frame(OWN[PODS]).bytes[14] & 15, 6);
    let seen = lab.through(PODS, packet, PODS);
    assert_eq!(seen.payload.len(), 12 + 32 + 4 + 4 * 16 + 11);
    lab.counters(&[("rx", 1), ("tx", 1), ("dns_a", 1), ("dns_answered", 1)]);
}

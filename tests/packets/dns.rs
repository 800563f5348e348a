//! DNS, answered in the query's own buffer. Messages are written and read here by hand, apart from the gateway's code.

use super::support::builder::udp;
use super::support::lab::{Lab, OUTSIDE, PODS};
use super::support::objects::{endpoints, service, web};

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const SERVER: &str = "10.96.0.10:53";
const CLIENT: &str = "10.244.1.5:40000";

fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

fn query(name: &str, rtype: u16) -> Vec<u8> {
    let mut message = b"\xab\xcd\x01\x00\0\x01\0\0\0\0\0\0".to_vec();
    message.extend(wire(name));
    message.extend(rtype.to_be_bytes());
    message.extend([0, 1]);
    message
}

fn with_edns(mut message: Vec<u8>, size: u16, version: u8, flags: u16) -> Vec<u8> {
    message[11] = 1;
    message.extend([0, 0, 41]);
    message.extend(size.to_be_bytes());
    message.extend([0, version]);
    message.extend(flags.to_be_bytes());
    message.extend([0, 0]);
    message
}

#[derive(Debug, PartialEq)]
struct Record {
    name: String,
    rtype: u16,
    class: u16,
    ttl: u32,
    data: Vec<u8>,
}

/// A response: flags, then the sections.
#[derive(Debug)]
struct Answer {
    id: u16,
    flags: u16,
    question: Vec<u8>,
    sections: [Vec<Record>; 3],
}

impl Answer {
    fn read(message: &[u8]) -> Answer {
        let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        let mut at = 12;
        for _ in 0..word(4) {
            at = name(message, at).1 + 4;
        }
        let question = message[12..at].to_vec();
        let sections = [6, 8, 10].map(|count| {
            let one = |_| {
                let (owner, end) = name(message, at);
                let len = usize::from(word(end + 8));
                let ttl = u32::from(word(end + 4)) << 16 | u32::from(word(end + 6));
                at = end + 10 + len;
                let data = message[end + 10..at].to_vec();
                Record { name: owner, rtype: word(end), class: word(end + 2), ttl, data }
            };
            (0..word(count)).map(one).collect()
        });
        assert_eq!(at, message.len(), "nothing behind the last record");
        Answer { id: word(0), flags: word(2), question, sections }
    }

    fn rcode(&self) -> u16 {
        self.flags & 0xf
    }

    fn addresses(&self) -> Vec<Vec<u8>> {
        self.sections[0].iter().map(|record| record.data.clone()).collect()
    }
}

/// The name at `at`, and where it ends.
fn name(message: &[u8], mut at: usize) -> (String, usize) {
    let (mut text, mut end) = (String::new(), None);
    loop {
        let len = usize::from(message[at]);
        if len >= 0xc0 {
            end.get_or_insert(at + 2);
            at = (len & 0x3f) << 8 | usize::from(message[at + 1]);
        } else if len == 0 {
            return (text, end.unwrap_or(at + 1));
        } else {
            text += std::str::from_utf8(&message[at + 1..=at + len]).expect("ASCII");
            text.push('.');
            at += len + 1;
        }
    }
}

fn ask(lab: &mut Lab, message: Vec<u8>) -> Answer {
    let seen = lab.through(PODS, udp(CLIENT, SERVER).payload(message), PODS);
    assert_eq!(seen.to_string(), "udp 10.96.0.10:53 > 10.244.1.5:40000 ttl 64");
    Answer::read(&seen.payload)
}

fn cluster() -> Lab {
    let headless = service("db", "clusterIP: None, ports: [{port: 5432}]");
    let slice = |name: &str, count: u8| {
        let all: Vec<String> = (1..=count).map(|n| format!("10.244.1.{n}")).collect();
        endpoints(name, "TCP", 5432, &all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    Lab::new(
        &[
            web(&["10.244.1.10"]),
            headless,
            endpoints("db", "TCP", 5432, &["10.244.2.15", "10.244.1.11"]),
            service("empty", "clusterIP: None, ports: [{port: 5432}]"),
            service("many", "clusterIP: None, ports: [{port: 5432}]"),
            slice("many", 40),
            service("crowd", "clusterIP: None, ports: [{port: 5432}]"),
            slice("crowd", 90),
            service("ext", "type: ExternalName, externalName: db.example.com"),
        ]
        .concat(),
    )
}

#[test]
fn a_cluster_ip_is_answered_with_its_address() {
    let mut lab = cluster();
    let sent = query("web.default.svc.cluster.local", A);
    let answer = ask(&mut lab, sent.clone());
    // QR, AA, RD as asked, NOERROR.
    assert_eq!((answer.id, answer.flags), (0xabcd, 0x8500));
    assert_eq!(answer.question, sent[12..]);
    let name = "web.default.svc.cluster.local.".to_owned();
    let record = Record { name, rtype: A, class: 1, ttl: 5, data: vec![10, 96, 0, 50] };
    assert_eq!(answer.sections, [vec![record], vec![], vec![]]);
    lab.counters(&[("rx", 1), ("tx", 1), ("dns_a", 1), ("dns_answered", 1)]);
}

#[test]
fn a_headless_service_is_answered_with_its_ready_endpoints_or_does_not_exist() {
    let mut lab = cluster();
    let mut found = ask(&mut lab, query("db.default.svc.cluster.local", A)).addresses();
    found.sort();
    assert_eq!(found, [[10, 244, 1, 11], [10, 244, 2, 15]]);
    let none = ask(&mut lab, query("empty.default.svc.cluster.local", A));
    assert_eq!((none.rcode(), none.sections[1].len()), (3, 1));
    lab.counters(&[("rx", 2), ("tx", 2), ("dns_a", 2), ("dns_answered", 1), ("dns_nxdomain", 1)]);
}

#[test]
fn what_does_not_exist_is_denied_with_the_zones_soa() {
    let mut lab = cluster();
    let names = ["nope.default.svc", "web.nope.svc", "nope.svc", "foo", "x.web.default.svc", "1-2-3-4.default.pod"];
    for name in names {
        let answer = ask(&mut lab, query(&format!("{name}.cluster.local"), A));
        assert_eq!((answer.flags, answer.sections[0].len()), (0x8503, 0), "{name}");
        let [soa] = &answer.sections[1][..] else { panic!("{name}: one SOA") };
        assert_eq!((&*soa.name, soa.rtype, soa.class, soa.ttl), ("cluster.local.", SOA, 1, 5), "{name}");
    }
    lab.counters(&[("rx", 6), ("tx", 6), ("dns_a", 6), ("dns_nxdomain", 6)]);
}

#[test]
fn what_exists_without_that_type_has_no_data() {
    let mut lab = cluster();
    let cases = [
        ("web.default.svc.cluster.local", AAAA),
        ("web.default.svc.cluster.local", TXT),
        ("db.default.svc.cluster.local", AAAA),
        ("default.svc.cluster.local", A),
        ("svc.cluster.local", A),
        ("pod.cluster.local", A),
        ("cluster.local", A),
    ];
    for (name, rtype) in cases {
        let answer = ask(&mut lab, query(name, rtype));
        assert_eq!((answer.flags, answer.sections[0].len()), (0x8500, 0), "{name}");
        assert_eq!(answer.sections[1].iter().map(|r| r.rtype).collect::<Vec<_>>(), [SOA], "{name}");
    }
    lab.counters(&[("rx", 7), ("tx", 7), ("dns_a", 4), ("dns_aaaa", 2), ("dns_other", 1), ("dns_no_data", 7)]);
}

#[test]
fn an_external_name_is_an_alias_for_every_type() {
    let mut lab = cluster();
    for rtype in [A, AAAA, CNAME] {
        let answer = ask(&mut lab, query("ext.default.svc.cluster.local", rtype));
        let [alias] = &answer.sections[0][..] else { panic!("one record") };
        assert_eq!((alias.rtype, &alias.data), (CNAME, &wire("db.example.com")));
    }
    lab.counters(&[("rx", 3), ("tx", 3), ("dns_a", 1), ("dns_aaaa", 1), ("dns_other", 1), ("dns_answered", 3)]);
}

#[test]
fn the_spelling_of_the_question_comes_back() {
    let mut lab = cluster();
    let sent = query("wEb.DEFAULT.svc.Cluster.LOCAL", A);
    let answer = ask(&mut lab, sent.clone());
    assert_eq!(answer.question, sent[12..]);
    assert_eq!(answer.sections[0][0].name, "wEb.DEFAULT.svc.Cluster.LOCAL.");
    let denial = ask(&mut lab, query("nope.default.svc.CLUSTER.local", A));
    assert_eq!(denial.sections[1][0].name, "CLUSTER.local.");
    lab.counters(&[("rx", 2), ("tx", 2), ("dns_a", 2), ("dns_answered", 1), ("dns_nxdomain", 1)]);
}

#[test]
fn edns_is_echoed_where_it_was_used_and_other_versions_are_told() {
    let mut lab = cluster();
    let plain = query("web.default.svc.cluster.local", A);
    let answer = ask(&mut lab, with_edns(plain.clone(), 4096, 0, 0x8000));
    let [opt] = &answer.sections[2][..] else { panic!("one OPT") };
    // Class is the size we take; the TTL holds extended rcode, version and the DO bit.
    assert_eq!((opt.rtype, opt.class, opt.ttl, answer.rcode()), (OPT, 1232, 0x8000, 0));
    assert_eq!(answer.sections[0].len(), 1);
    let answer = ask(&mut lab, with_edns(plain, 4096, 1, 0));
    let [opt] = &answer.sections[2][..] else { panic!("one OPT") };
    assert_eq!((opt.ttl >> 24, answer.rcode(), answer.sections[0].len()), (1, 0, 0), "BADVERS is 16");
    lab.counters(&[("rx", 2), ("tx", 2), ("dns_a", 2), ("dns_answered", 1), ("dns_badvers", 1)]);
}

#[test]
fn an_answer_longer_than_the_client_takes_is_truncated_to_nothing() {
    let mut lab = cluster();
    let (many, crowd) = (query("many.default.svc.cluster.local", A), query("crowd.default.svc.cluster.local", A));
    let cases = [
        ("40 records, 512 bytes", many.clone(), None),
        ("40 records, the client says 100 and gets 512", with_edns(many.clone(), 100, 0, 0), None),
        ("40 records, 1232 bytes", with_edns(many, 1232, 0, 0), Some(40)),
        ("90 records, never", with_edns(crowd, 65535, 0, 0), None),
    ];
    for (what, message, records) in cases {
        let answer = ask(&mut lab, message);
        assert_eq!(answer.flags & 0x0200 != 0, records.is_none(), "{what}");
        assert_eq!(answer.sections[0].len(), records.unwrap_or(0), "{what}");
    }
    lab.counters(&[("rx", 4), ("tx", 4), ("dns_a", 4), ("dns_answered", 4), ("dns_truncated", 3)]);
}

#[test]
fn what_cannot_be_answered_is_told_by_its_code() {
    let mut lab = cluster();
    let good = query("web.default.svc.cluster.local", A);
    let with = |at: usize, value: u8| {
        let mut message = good.clone();
        message[at] = value;
        message
    };
    let chaos = good.len() - 1;
    let cases = [
        ("not our zone", query("www.example.com", A), 5),
        ("the root", query("", A), 5),
        ("class CHAOS", with(chaos, 3), 5),
        ("no question", with(5, 0)[..12].to_vec(), 1),
        ("two questions", with(5, 2), 1),
        ("a status query", with(2, 0x10), 4),
        ("a pointer in the question", with(12, 0xc0), 1),
        ("a cut question", good[..good.len() - 1].to_vec(), 1),
    ];
    let count = cases.len() as u64;
    for (what, message, rcode) in cases {
        let answer = ask(&mut lab, message);
        assert_eq!((answer.rcode(), answer.flags & 0x8400, answer.id), (rcode, 0x8000, 0xabcd), "{what}");
    }
    lab.counters(&[
        ("rx", count),
        ("tx", count),
        ("dns_a", 3),
        ("dns_refused", 3),
        ("dns_notimp", 1),
        ("dns_bad_counts", 3),
        ("dns_bad_name", 1),
    ]);
}

#[test]
fn a_response_or_a_scrap_is_never_answered() {
    let mut lab = cluster();
    let mut response = query("web.default.svc.cluster.local", A);
    response[2] |= 0x80;
    for payload in [response.clone(), response[..12].to_vec(), vec![], vec![0; 11]] {
        lab.send(PODS, udp(CLIENT, SERVER).payload(payload));
    }
    lab.counters(&[("rx", 4), ("dns_malformed", 4)]);
}

#[test]
fn a_query_is_answered_whatever_way_it_comes() {
    let mut lab = cluster();
    let message = || query("web.default.svc.cluster.local", A);
    let from_outside = lab.through(OUTSIDE, udp("8.8.8.8:53", SERVER).payload(message()), OUTSIDE);
    assert_eq!(from_outside.to_string(), "udp 10.96.0.10:53 > 8.8.8.8:53 ttl 64");
    for packet in [
        udp(CLIENT, SERVER).payload(message()).partial(),
        udp(CLIENT, SERVER).payload(message()).no_checksum(),
        udp(CLIENT, SERVER).payload(message()).ip_options([148, 4, 0, 0]),
        udp(CLIENT, SERVER).payload(message()).ttl(1),
        udp(CLIENT, SERVER).payload(message()).padding(20),
    ] {
        let seen = lab.through(PODS, packet, PODS);
        assert!(!seen.packet.offload.is_partial(), "the answer's sum is complete");
        assert_eq!(Answer::read(&seen.payload).addresses(), [[10, 96, 0, 50]]);
    }
    lab.counters(&[("rx", 6), ("tx", 6), ("dns_a", 6), ("dns_answered", 6)]);
}

#[test]
fn names_follow_the_objects() {
    let mut lab = cluster();
    let found =
        |lab: &mut Lab, name: &str| ask(lab, query(&format!("{name}.default.svc.cluster.local"), A)).addresses();
    lab.apply(&service("new", "clusterIP: 10.96.0.99, ports: [{port: 1}]"));
    assert_eq!(found(&mut lab, "new"), [[10, 96, 0, 99]]);
    lab.delete(pollgate_control::objects::Kind::Service, "new");
    assert_eq!(ask(&mut lab, query("new.default.svc.cluster.local", A)).rcode(), 3);
    lab.apply(&endpoints("db", "TCP", 5432, &["10.244.1.12"]));
    assert_eq!(found(&mut lab, "db"), [[10, 244, 1, 12]]);
    lab.counters(&[("rx", 3), ("tx", 3), ("dns_a", 3), ("dns_answered", 2), ("dns_nxdomain", 1)]);
}

//! DNS queries for names outside the cluster: given to the resolver, whose responses are sent.

use pollgate_common::dns::forward::REQUESTS;
use pollgate_common::dns::message::HEAD;

use super::support::builder::udp;
use super::support::lab::{Lab, OUTSIDE, PODS};
use super::support::objects::{service, web};

const A: u16 = 1;
const SOA: u16 = 6;
const SERVER: &str = "10.96.0.10:53";
const CLIENT: &str = "10.244.1.5:40000";
const UPSTREAMS: &str = "dns: {address: 10.96.0.10, upstreams: [192.0.2.53]}\n";

fn query(name: &str, rtype: u16) -> Vec<u8> {
    let mut message = b"\xab\xcd\x01\x00\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).expect("a label"));
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend([rtype.to_be_bytes(), [0, 1]].concat());
    message
}

fn lab(config: &str) -> Lab {
    Lab::configured(
        config,
        &[web(&["10.244.1.10"]), service("ext", "type: ExternalName, externalName: db.example.com")].concat(),
    )
}

/// The code of a response.
fn code(message: &[u8]) -> u8 {
    message[3] & 15
}

/// RFC 1034 §4.3.1: a server that offers recursion asks others.
#[test]
fn a_name_outside_goes_to_the_resolver_and_its_response_to_the_client() {
    for (port, client) in [(PODS, CLIENT), (OUTSIDE, "192.168.50.100:53")] {
        let mut lab = lab(UPSTREAMS);
        let asked = query("Www.example.com", A);
        lab.send(port, udp(client, SERVER).payload(asked.clone()));
        let request = lab.forwarded().expect("it is forwarded");
        assert!(lab.forwarded().is_none());
        assert_eq!(request.head[..request.len], asked[..], "in its letters");
        assert!(request.edns.is_none());
        assert_eq!(lab.client_of(&request), client.split(':').next().expect("an address"));
        lab.counters(&[("rx", 1), ("consumed", 1), ("dns_forwarded", 1)]);
        for response in [vec![7; 12], (0..=255).cycle().take(1232).collect()] {
            lab.resolve(&request, &response);
            let seen = lab.expect(port);
            assert_eq!(seen.to_string(), format!("udp {SERVER} > {client} ttl 64"));
            assert_eq!(seen.payload, response);
        }
        lab.counters(&[("rx", 1), ("consumed", 1), ("dns_forwarded", 1), ("originated", 2), ("tx", 2)]);
    }
}

/// RFC 6891 §6.1.1: the OPT record goes along; nothing else does.
#[test]
fn what_follows_the_question_is_read_before() {
    let mut lab = lab(UPSTREAMS);
    let mut asked = query("www.example.com", A);
    let question = asked.len();
    asked[11] = 1;
    asked.extend(b"\0\0\x29\x04\0\0\0\x80\0\0\x0c\0\x0a\0\x0812345678");
    lab.send(PODS, udp(CLIENT, SERVER).payload(asked));
    let request = lab.forwarded().expect("it is forwarded");
    let opt = request.edns.expect("an OPT record");
    assert_eq!((request.len, opt.size(), opt.dnssec_ok()), (question, 1024, true));
    assert_eq!(request.head[11], 0, "the head counts no other record");
    lab.counters(&[("rx", 1), ("consumed", 1), ("dns_forwarded", 1)]);
}

/// RFC 1035 §4.1.1: what the zone has needs no other server. A type that is not served is not asked for either.
#[test]
fn what_the_zone_can_answer_is_not_forwarded() {
    const AXFR: u16 = 252;
    const CNAME: u16 = 5;
    let names = [("web.default.svc.cluster.local", A, 0), ("ext.default.svc.cluster.local", CNAME, 0)];
    let refused = [("no-such.cluster.local", A, 3), ("example.com", AXFR, 5)];
    let mut lab = lab(UPSTREAMS);
    for (name, rtype, expected) in names.into_iter().chain(refused) {
        let seen = lab.through(PODS, udp(CLIENT, SERVER).payload(query(name, rtype)), PODS);
        assert_eq!(code(&seen.payload), expected, "{name}");
    }
    assert!(lab.forwarded().is_none());
    // The target of the alias is outside.
    lab.send(PODS, udp(CLIENT, SERVER).payload(query("ext.default.svc.cluster.local", A)));
    assert!(lab.forwarded().is_some());
}

#[test]
fn without_upstreams_names_outside_are_refused() {
    for config in ["dns: {address: 10.96.0.10}\n", "dns: {address: 10.96.0.10, upstreams: []}\n"] {
        let mut lab = lab(config);
        let seen = lab.through(PODS, udp(CLIENT, SERVER).payload(query("example.com", A)), PODS);
        assert_eq!(code(&seen.payload), 5);
        let seen = lab.through(PODS, udp(CLIENT, SERVER).payload(query("ext.default.svc.cluster.local", A)), PODS);
        assert_eq!((code(&seen.payload), seen.payload[7]), (0, 1), "the alias alone");
        assert!(lab.forwarded().is_none());
        lab.counters(&[("rx", 2), ("tx", 2), ("dns_a", 2), ("dns_refused", 1), ("dns_answered", 1)]);
    }
}

/// Anybody can send queries faster than the resolver takes them: they are not kept, and other queries are answered.
#[test]
fn a_full_queue_means_servfail_at_once() {
    let mut lab = lab(UPSTREAMS);
    let outside = || udp(CLIENT, SERVER).payload(query("www.example.com", A));
    lab.send_all(PODS, (0..REQUESTS).map(|_| outside()));
    let seen = lab.through(PODS, outside(), PODS);
    assert_eq!((code(&seen.payload), seen.payload.len()), (2, query("www.example.com", A).len()));
    let seen = lab.through(PODS, udp(CLIENT, SERVER).payload(query("cluster.local", SOA)), PODS);
    assert_eq!(code(&seen.payload), 0);
    let taken = REQUESTS as u64;
    let counters = [("rx", taken + 2), ("consumed", taken), ("dns_forwarded", taken), ("tx", 2)];
    let answered = [("dns_a", 1), ("dns_other", 1), ("dns_no_room", 1), ("dns_servfail", 1), ("dns_answered", 1)];
    lab.counters(&[&counters[..], &answered].concat());
}

/// RFC 1035 §2.3.4: the longest name and its question fit.
#[test]
fn the_longest_name_fits_a_request() {
    let mut lab = lab(UPSTREAMS);
    let name = format!("{}.{}", [&"x".repeat(63)[..]; 3].join("."), "y".repeat(61));
    let asked = query(&name, A);
    assert_eq!(asked.len(), HEAD);
    lab.send(PODS, udp(CLIENT, SERVER).payload(asked.clone()));
    assert_eq!(lab.forwarded().expect("it is forwarded").head[..], asked[..]);
    lab.counters(&[("rx", 1), ("consumed", 1), ("dns_forwarded", 1)]);
}

//! SCTP (RFC 9260) through a Service: translation, life, refusals, errors. Everything that leaves has its CRC32c verified by a
//! library ([`super::support::builder::crc32c`]).

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use pollgate_dataplane::port::Offload;
use proptest::prelude::*;

use super::support::builder::{Ip, Sendable, about, crc32c, init, link_mac, sctp, tcp, udp};
use super::support::family::{ERRORS, HEADER, HOPS};
use super::support::lab::{GATEWAY, Lab, OUTSIDE, OWN, PODS, Setup};
use super::support::objects::{echo, endpoints, registry, registry_with, service, web};
use super::support::seen::Seen;

const VIP: &str = "10.96.0.80:2905";
const NODE_PORT: &str = "192.168.50.10:30905";
const LOAD_BALANCER: &str = "203.0.113.8:2905";
const EXTERNAL: &str = "198.51.100.8:2905";
const ALL: [&str; 4] = [VIP, NODE_PORT, LOAD_BALANCER, EXTERNAL];
const SERVER: &str = "10.244.1.10:3905";
const POD: &str = "10.244.1.5:40000";
const STRANGER: &str = "192.168.50.100:50000";

/// The tags of an association: what the client expects, what the backend expects.
const C: u32 = 100;
const B: u32 = 900;

/// Where the checksum is in a frame.
const SUM: Range<usize> = 14 + HEADER + 8..14 + HEADER + 12;

/// Types of chunks, with flags (RFC 9260 §3.2).
const DATA: (u8, u8) = (0, 3);
const SACK: (u8, u8) = (3, 0);
const HEARTBEAT: (u8, u8) = (4, 0);
const ABORT: (u8, u8) = (6, 0);
const ABORT_T: (u8, u8) = (6, 1);
const SHUTDOWN: (u8, u8) = (7, 0);
const SHUTDOWN_ACK: (u8, u8) = (8, 0);
const ERROR: (u8, u8) = (9, 0);
const COOKIE_ECHO: (u8, u8) = (10, 0);
const COOKIE_ACK: (u8, u8) = (11, 0);
const SHUTDOWN_COMPLETE: (u8, u8) = (14, 0);
const SHUTDOWN_COMPLETE_T: (u8, u8) = (14, 1);

fn one() -> Lab {
    Lab::new(&registry(&["10.244.1.10"]))
}

/// A packet of one chunk from the Pod to the Service, and one from the backend to the Pod.
fn there(tag: u32, chunk: (u8, u8)) -> Ip {
    sctp(POD, VIP, tag).chunk(chunk, &value(chunk))
}

fn back(tag: u32, chunk: (u8, u8)) -> Ip {
    sctp(SERVER, POD, tag).chunk(chunk, &value(chunk))
}

/// A value as the chunk has it, as far as anybody looks at it.
fn value((kind, _): (u8, u8)) -> Vec<u8> {
    match kind {
        0 => [&[0; 12][..], b"hello"].concat(),
        3 => vec![0; 12],
        7 => vec![0; 4],
        10 => b"a cookie".to_vec(),
        _ => Vec::new(),
    }
}

/// INIT to COOKIE ACK (RFC 9260 §5.1).
fn associate(lab: &mut Lab) {
    associate_with(lab, C, B);
}

/// The same with these tags: what the client expects, what the backend expects.
fn associate_with(lab: &mut Lab, client: u32, backend: u32) {
    lab.through(PODS, init(POD, VIP, 1, 0, client), PODS);
    lab.through(PODS, init(SERVER, POD, 2, client, backend), PODS);
    lab.through(PODS, there(backend, COOKIE_ECHO), PODS);
    lab.through(PODS, back(client, COOKIE_ACK), PODS);
}

#[test]
fn an_association_goes_to_an_endpoint_and_back() {
    let mut lab = one();
    // RFC 9260 §5.1, §6: both ports and nothing else of the packet change; the checksum is correct (§6.8).
    let cases: [(Ip, &str); 8] = [
        (init(POD, VIP, 1, 0, C), "sctp 10.244.1.5:40000 > 10.244.1.10:3905 INIT tag 0 ttl 63"),
        (init(SERVER, POD, 2, C, B), "sctp 10.96.0.80:2905 > 10.244.1.5:40000 INIT-ACK tag 100 ttl 63"),
        (
            there(B, COOKIE_ECHO).chunk(DATA, &value(DATA)),
            "sctp 10.244.1.5:40000 > 10.244.1.10:3905 COOKIE-ECHO+DATA tag 900 ttl 63",
        ),
        (
            back(C, COOKIE_ACK).chunk(SACK, &value(SACK)),
            "sctp 10.96.0.80:2905 > 10.244.1.5:40000 COOKIE-ACK+SACK tag 100 ttl 63",
        ),
        (there(B, HEARTBEAT), "sctp 10.244.1.5:40000 > 10.244.1.10:3905 HEARTBEAT tag 900 ttl 63"),
        (back(C, SHUTDOWN), "sctp 10.96.0.80:2905 > 10.244.1.5:40000 SHUTDOWN tag 100 ttl 63"),
        (there(B, SHUTDOWN_ACK), "sctp 10.244.1.5:40000 > 10.244.1.10:3905 SHUTDOWN-ACK tag 900 ttl 63"),
        (back(C, SHUTDOWN_COMPLETE), "sctp 10.96.0.80:2905 > 10.244.1.5:40000 SHUTDOWN-COMPLETE tag 100 ttl 63"),
    ];
    for (packet, expected) in cases {
        let sent = Seen::read(packet.clone().frame(OWN[PODS]));
        let seen = lab.through(PODS, packet, PODS);
        assert_eq!(seen.to_string(), expected);
        assert_eq!(seen.payload, sent.payload);
    }
    lab.counters(&[("rx", 8), ("tx", 8), ("flows_opened", 1), ("flows_live", 1)]);
    assert_eq!(lab.carried("default/registry:2905"), (8, 1));
}

#[test]
fn new_addresses_alone_leave_the_checksum() {
    // RFC 9260 §6.8: it has no pseudo-header.
    let spec = "clusterIP: 10.96.0.80, ports: [{port: 3905, protocol: SCTP}]";
    let mut lab = Lab::new(&(service("registry", spec) + &endpoints("registry", "SCTP", 3905, &["10.244.1.10"])));
    let packet = init(POD, "10.96.0.80:3905", 1, 0, C);
    let sent = Seen::read(packet.clone().frame(OWN[PODS]));
    let seen = lab.through(PODS, packet, PODS);
    assert_eq!((seen.dst().to_string(), seen.crc()), (SERVER.to_owned(), sent.crc()));
    lab.counters(&[("rx", 1), ("tx", 1), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn a_checksum_left_to_hardware_is_computed() {
    // Linux, net/sctp/output.c: a sender whose device has the offload leaves the field zero. No virtio header can pass that on.
    let mut lab = Lab::new(&registry(&["10.244.1.10"]));
    for (port, packet) in [
        (PODS, init(POD, VIP, 1, 0, C)),
        (PODS, init(SERVER, POD, 2, C, B)),
        (PODS, there(B, COOKIE_ECHO)),
        (PODS, back(C, COOKIE_ACK)),
        (OUTSIDE, init(STRANGER, LOAD_BALANCER, 1, 0, C)),
    ] {
        let seen = lab.through(port, packet.partial(), PODS);
        assert_eq!(seen.packet.offload, Offload::default(), "{seen}");
        assert_ne!(seen.crc(), 0, "{seen}");
    }
    lab.counters(&[("rx", 5), ("tx", 5), ("flows_opened", 2), ("flows_live", 2), ("flows_half_open", 1)]);
}

#[test]
fn no_checksum_stays_none() {
    // RFC 9653: the receiver has said that it accepts that.
    let mut lab = one();
    let mut through = |packet: Ip| {
        lab.send(PODS, packet.no_checksum());
        let mut frame = lab.pop(PODS).expect("sent on");
        assert_eq!(frame.bytes[SUM], [0; 4]);
        // All the rest of it is read and verified with the checksum in its place.
        let right = crc32c(&frame.bytes[14 + HEADER..]);
        frame.bytes[SUM].copy_from_slice(&right.to_le_bytes());
        let seen = Seen::read(frame);
        assert_eq!((seen.from, seen.to), (OWN[PODS], link_mac(seen.ip.destination)));
        seen
    };
    assert_eq!(through(init(POD, VIP, 1, 0, C)).dst().to_string(), SERVER);
    assert_eq!(through(init(SERVER, POD, 2, C, B)).src().to_string(), VIP);
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn every_address_of_a_service_serves_it_and_translates_the_source_as_for_tcp() {
    // Kubernetes pkg/proxy/iptables/proxier_test.go, TestInternalExternalMasquerade.
    let mut lab = one();
    for address in ALL {
        let seen = lab.through(OUTSIDE, init(STRANGER, address, 1, 0, C), PODS);
        let source = seen.src().to_string();
        assert!(source.starts_with(GATEWAY) && seen.dst().to_string() == SERVER, "{seen}");
        let seen = lab.through(PODS, init(SERVER, &source, 2, C, B), OUTSIDE);
        assert_eq!(seen.to_string(), format!("sctp {address} > {STRANGER} INIT-ACK tag 100 ttl 63"));
        let echo = sctp(STRANGER, address, B).chunk(COOKIE_ECHO, b"a cookie");
        assert_eq!(lab.through(OUTSIDE, echo, PODS).src().to_string(), source);
        let seen = lab.through(PODS, sctp(SERVER, &source, C).chunk(COOKIE_ACK, b""), OUTSIDE);
        assert_eq!(seen.to_string(), format!("sctp {address} > {STRANGER} COOKIE-ACK tag 100 ttl 63"));
    }
    lab.counters(&[("rx", 16), ("tx", 16), ("flows_opened", 4), ("flows_live", 4)]);
}

#[test]
fn a_pod_that_reaches_itself_sees_the_gateway() {
    // Kubernetes pkg/proxy/iptables/proxier.go: hairpin traffic is always masqueraded.
    let mut lab = one();
    let seen = lab.through(PODS, init("10.244.1.10:40000", VIP, 1, 0, C), PODS);
    assert!(seen.src().to_string().starts_with(GATEWAY), "{seen}");
    let seen = lab.through(PODS, init(SERVER, &seen.src().to_string(), 2, C, B), PODS);
    assert_eq!(seen.to_string(), "sctp 10.96.0.80:2905 > 10.244.1.10:40000 INIT-ACK tag 100 ttl 63");
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn source_ports_of_each_protocol_are_its_own() {
    // RFC 4787 REQ-3, RFC 5382 REQ-1: a mapping is of one protocol.
    let tcp_too = service("web", "clusterIP: 10.96.0.50, ports: [{port: 80, targetPort: 3905}]")
        + &endpoints("web", "TCP", 3905, &["10.244.1.10"]);
    let mut lab = Lab::configured("nat: {ports: 2000-2001}\n", &(registry(&["10.244.1.10"]) + &tcp_too));
    let mut ports = BTreeSet::new();
    for n in 0..2 {
        let client = format!("192.168.50.100:{}", 50_000 + n);
        ports.insert(("sctp", lab.through(OUTSIDE, init(&client, VIP, 1, 0, C), PODS).src().port()));
        ports.insert(("tcp", lab.through(OUTSIDE, tcp(&client, "10.96.0.50:80"), PODS).src().port()));
    }
    assert_eq!(ports, BTreeSet::from([("sctp", 2000), ("sctp", 2001), ("tcp", 2000), ("tcp", 2001)]));
    // All are taken; the one opened first has not been confirmed.
    lab.through(OUTSIDE, init("192.168.50.100:50002", VIP, 1, 0, C), PODS);
    let flows = [("flows_opened", 5), ("flows_live", 4), ("flows_half_open", 4), ("ports_taken_over", 1)];
    lab.counters(&[&[("rx", 5), ("tx", 5)], &flows[..]].concat());
}

#[test]
fn two_services_with_one_endpoint_are_told_apart() {
    // RFC 5382 REQ-3 for SCTP: the client keeps its address and gets another port.
    let spec = "clusterIP: 10.96.0.81, ports: [{port: 2905, protocol: SCTP, targetPort: 3905}]";
    let alt = service("alt", spec) + &endpoints("alt", "SCTP", 3905, &["10.244.1.10"]);
    let mut lab = Lab::new(&(registry(&["10.244.1.10"]) + &alt));
    for vip in [VIP, "10.96.0.81:2905"] {
        let seen = lab.through(PODS, init(POD, vip, 1, 0, C), PODS);
        assert_eq!((seen.src().ip().to_string(), seen.src().port() == 40_000), ("10.244.1.5".into(), vip == VIP));
        let seen = lab.through(PODS, init(SERVER, &seen.src().to_string(), 2, C, B), PODS);
        assert_eq!(seen.to_string(), format!("sctp {vip} > {POD} INIT-ACK tag 100 ttl 63"));
    }
    lab.counters(&[("rx", 4), ("tx", 4), ("flows_opened", 2), ("flows_live", 2), ("flows_half_open", 2)]);
}

/// A name; what makes the flow; its time-out in seconds.
type Case = (&'static str, &'static [(char, u32, (u8, u8))], u64);

#[test]
fn each_state_has_its_time_and_no_packet_revives_what_is_over() {
    const END: (u8, u8) = SHUTDOWN_COMPLETE;
    // RFC 9260 §4; the time-outs are TCP's.
    let cases: [Case; 8] = [
        ("an INIT and its reply", &[], 60),
        ("a guessed cookie", &[('>', B + 1, COOKIE_ECHO)], 60),
        ("an association", &[('>', B, COOKIE_ECHO)], 86_400),
        (
            "an association with data",
            &[('>', B, COOKIE_ECHO), ('<', C, COOKIE_ACK), ('>', B, DATA), ('<', C, SACK)],
            86_400,
        ),
        ("an aborted association", &[('>', B, COOKIE_ECHO), ('<', C, ABORT)], 60),
        ("half a shutdown", &[('>', B, COOKIE_ECHO), ('>', B, SHUTDOWN), ('<', C, DATA)], 86_400),
        ("a shutdown", &[('>', B, COOKIE_ECHO), ('>', B, SHUTDOWN), ('<', C, SHUTDOWN_ACK), ('>', B, END)], 60),
        ("a shutdown from both", &[('>', B, COOKIE_ECHO), ('>', B, SHUTDOWN), ('<', C, SHUTDOWN)], 60),
    ];
    for (what, packets, seconds) in cases {
        let open = || {
            let mut lab = one();
            lab.through(PODS, init(POD, VIP, 1, 0, C), PODS);
            lab.through(PODS, init(SERVER, POD, 2, C, B), PODS);
            for &(arrow, tag, chunk) in packets {
                lab.through(PODS, if arrow == '>' { there(tag, chunk) } else { back(tag, chunk) }, PODS);
            }
            lab
        };
        let mut lab = open();
        lab.jump(Duration::from_secs(seconds));
        lab.through(PODS, back(C, HEARTBEAT), PODS);
        assert_eq!((lab.totals().flows_live, lab.totals().flows_expired), (1, 0), "{what}: within its time");
        let mut lab = open();
        let before = lab.totals();
        lab.jump(Duration::from_secs(seconds + 3));
        lab.send(PODS, back(C, HEARTBEAT));
        let over = [("flows_opened", 1), ("flows_expired", 1), ("not_owned", 1)];
        lab.counters(&[&[("rx", before.rx + 1), ("tx", before.tx)], &over[..]].concat());
    }
}

#[test]
fn heartbeats_keep_an_association_alive() {
    // RFC 9260 §8.3.
    let mut lab = one();
    associate(&mut lab);
    for _ in 0..3 {
        lab.jump(Duration::from_secs(80_000));
        lab.through(PODS, there(B, HEARTBEAT), PODS);
    }
    lab.counters(&[("rx", 7), ("tx", 7), ("flows_opened", 1), ("flows_live", 1)]);
}

#[test]
fn what_ends_an_association_without_its_tag_is_sent_on_and_changes_nothing() {
    // RFC 9260 §8.5, §8.5.1: a receiver discards them; the T bit asks for the other tag.
    let mut lab = one();
    associate(&mut lab);
    for chunk in [ABORT, SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE] {
        lab.through(PODS, there(C, chunk), PODS);
        lab.through(PODS, back(B, chunk), PODS);
    }
    for chunk in [ABORT_T, SHUTDOWN_COMPLETE_T] {
        lab.through(PODS, there(B, chunk), PODS);
        lab.through(PODS, back(C, chunk), PODS);
    }
    lab.jump(Duration::from_secs(3600));
    lab.through(PODS, back(C, DATA), PODS);
    let flows = [("flows_opened", 1), ("flows_live", 1), ("sctp_wrong_tag", 12)];
    lab.counters(&[&[("rx", 17), ("tx", 17)], &flows[..]].concat());
    // With the T bit, the backend's ABORT has the tag that it was sent.
    lab.through(PODS, back(B, ABORT_T), PODS);
    lab.wait(Duration::from_secs(63));
    let flows = [("flows_opened", 1), ("flows_expired", 1), ("sctp_wrong_tag", 12)];
    lab.counters(&[&[("rx", 18), ("tx", 18)], &flows[..]].concat());
}

#[test]
fn a_backend_that_refuses_ends_the_flow() {
    // RFC 9260 §5.1, §8.4 (3): ABORT with the initiate tag.
    let mut lab = one();
    lab.through(PODS, init(POD, VIP, 1, 0, C), PODS);
    let seen = lab.through(PODS, back(C, ABORT), PODS);
    assert_eq!(seen.to_string(), format!("sctp {VIP} > {POD} ABORT tag 100 ttl 63"));
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 1), ("flows_live", 1)]);
}

#[test]
fn an_init_on_an_association_that_is_over_gets_a_fresh_choice() {
    // RFC 9260 §5.2.2, as RFC 9293 §3.10.7.4 for TCP.
    let mut lab = one();
    associate(&mut lab);
    lab.apply(&endpoints("registry", "SCTP", 3905, &["10.244.1.11"]));
    assert_eq!(lab.through(PODS, init(POD, VIP, 1, 0, C + 1), PODS).dst().to_string(), SERVER, "established: it stays");
    lab.through(PODS, there(B, SHUTDOWN), PODS);
    lab.through(PODS, back(C, SHUTDOWN_ACK), PODS);
    assert_eq!(lab.through(PODS, init(POD, VIP, 1, 0, C + 2), PODS).dst().to_string(), "10.244.1.11:3905");
    lab.counters(&[("rx", 8), ("tx", 8), ("flows_opened", 2), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn strangers_who_know_no_tag_end_no_association_by_a_forged_restart() {
    // RFC 9260 §8.5: the ends discard packets with another tag; §5.2.2, §5.2.4: no packet of a restart shows the tags before it.
    let mut lab = one();
    associate(&mut lab);
    lab.through(PODS, init(POD, VIP, 1, 0, 7), PODS);
    lab.through(PODS, back(7, COOKIE_ACK), PODS);
    lab.through(PODS, back(7, SHUTDOWN_ACK), PODS);
    lab.through(PODS, back(7, ABORT), PODS);
    lab.through(PODS, init(POD, VIP, 1, 0, 7), PODS);
    lab.jump(Duration::from_secs(3600));
    lab.through(PODS, back(C, DATA), PODS);
    lab.through(PODS, there(B, DATA), PODS);
    let flow = [("flows_opened", 1), ("flows_live", 1), ("sctp_wrong_tag", 2)];
    lab.counters(&[&[("rx", 11), ("tx", 11)], &flow[..]].concat());
}

#[test]
fn a_client_that_restarts_keeps_its_endpoint_and_its_end_is_not_followed() {
    // RFC 9260 §5.2.4 (A); §8.5.
    let mut lab = one();
    associate(&mut lab);
    associate_with(&mut lab, 200, 800);
    lab.through(PODS, there(800, DATA), PODS);
    lab.through(PODS, there(800, ABORT), PODS);
    lab.jump(Duration::from_secs(3600));
    assert_eq!(lab.through(PODS, init(POD, VIP, 1, 0, 300), PODS).dst().to_string(), SERVER);
    let flow = [("flows_opened", 1), ("flows_live", 1), ("sctp_wrong_tag", 1)];
    lab.counters(&[&[("rx", 11), ("tx", 11)], &flow[..]].concat());
}

#[test]
fn a_client_that_begins_again_after_an_abort_is_followed() {
    // RFC 9260 §9.1, §5.2.4.
    let mut lab = one();
    associate(&mut lab);
    lab.through(PODS, there(B, ABORT), PODS);
    associate_with(&mut lab, 200, 800);
    lab.through(PODS, there(800, DATA), PODS);
    lab.through(PODS, there(B, ABORT), PODS);
    lab.counters(&[("rx", 11), ("tx", 11), ("flows_opened", 1), ("flows_live", 1), ("sctp_wrong_tag", 1)]);
    lab.through(PODS, there(800, ABORT), PODS);
    lab.wait(Duration::from_secs(63));
    lab.counters(&[("rx", 12), ("tx", 12), ("flows_opened", 1), ("flows_expired", 1), ("sctp_wrong_tag", 1)]);
}

#[test]
fn a_gateway_that_takes_over_continues_associations_where_nothing_is_translated() {
    // As for TCP: both gateways choose by the same ring.
    let three = ["10.244.1.10", "10.244.1.11", "10.244.1.12"];
    let (mut failed, mut heir) = (Lab::new(&registry(&three)), Lab::new(&registry(&three)));
    for n in 0..20 {
        let client = format!("10.244.1.5:{}", 40_000 + n);
        let chosen = failed.through(PODS, init(&client, VIP, 1, 0, C), PODS).dst();
        let chunk = [COOKIE_ECHO, DATA, SACK, HEARTBEAT, SHUTDOWN, SHUTDOWN_ACK][n % 6];
        let packet = sctp(&client, VIP, B).chunk(chunk, &value(chunk));
        assert_eq!(heir.through(PODS, packet, PODS).dst(), chosen);
        let reply = sctp(&chosen.to_string(), &client, C).chunk(HEARTBEAT, b"");
        assert_eq!(heir.through(PODS, reply, PODS).src().to_string(), VIP);
        heir.through(PODS, sctp(&client, VIP, B).chunk(DATA, &value(DATA)), PODS);
    }
    heir.counters(&[("rx", 60), ("tx", 60), ("flows_opened", 20), ("flows_live", 20)]);
    failed.take(PODS);
}

#[test]
fn what_no_association_in_the_middle_sends_opens_nothing() {
    // RFC 9260 §8.4: ABORT and what says that there is no association get no reply, the others an ABORT with their tag.
    let mut lab = one();
    for (tag, chunk) in [(B, ABORT), (B, ABORT_T), (0, DATA), (0, SHUTDOWN_ACK)] {
        lab.send(PODS, there(tag, chunk));
    }
    // An INIT with a verification tag, one without initiate tag (§3.3.2), an INIT ACK.
    lab.send(PODS, init(POD, VIP, 1, 7, C));
    lab.send(PODS, init(POD, VIP, 1, 0, 0));
    lab.counters(&[("rx", 6), ("sctp_no_flow", 6)]);
    let seen = lab.through(PODS, init(POD, VIP, 2, B, C), PODS);
    assert_eq!(seen.to_string(), format!("sctp {VIP} > {POD} ABORT(T) tag 900 ttl 64"));
    lab.counters(&[("rx", 7), ("sctp_no_flow", 7), ("originated", 1), ("tx", 1)]);
}

#[test]
fn a_translated_association_cannot_be_joined_in_the_middle() {
    let mut lab = one();
    for address in ALL {
        for chunk in [COOKIE_ECHO, DATA, SACK, HEARTBEAT, SHUTDOWN] {
            let seen = lab.through(OUTSIDE, sctp(STRANGER, address, B).chunk(chunk, &value(chunk)), OUTSIDE);
            assert_eq!(seen.to_string(), format!("sctp {address} > {STRANGER} ABORT(T) tag 900 ttl 64"));
        }
        // RFC 9260 §8.4 (5).
        let seen = lab.through(OUTSIDE, sctp(STRANGER, address, B).chunk(SHUTDOWN_ACK, b""), OUTSIDE);
        assert_eq!(seen.to_string(), format!("sctp {address} > {STRANGER} SHUTDOWN-COMPLETE(T) tag 900 ttl 64"));
        lab.send(OUTSIDE, sctp(STRANGER, address, B).chunk(ABORT, b""));
    }
    lab.counters(&[("rx", 28), ("sctp_no_flow", 28), ("originated", 24), ("tx", 24)]);
}

#[test]
fn a_late_packet_to_a_source_port_gets_an_abort_and_an_init_does_not() {
    let mut lab = one();
    let late = |tag, chunk| sctp(SERVER, "192.168.50.10:5000", tag).chunk(chunk, &value(chunk));
    let seen = lab.through(PODS, late(C, DATA), PODS);
    assert_eq!(seen.to_string(), "sctp 192.168.50.10:5000 > 10.244.1.10:3905 ABORT(T) tag 100 ttl 64");
    lab.send(PODS, late(C, ABORT));
    lab.send(PODS, init(SERVER, "192.168.50.10:5000", 1, 0, B));
    lab.counters(&[("rx", 3), ("stale_reply", 3), ("originated", 1), ("tx", 1)]);
}

#[test]
fn a_service_without_endpoints_refuses_with_the_abort_of_rfc_9260() {
    let mut lab = Lab::new(&registry(&[]));
    // §8.4 (3): the tag is the initiate tag. Kubernetes pkg/proxy/iptables/proxier.go: REJECT.
    let seen = lab.through(PODS, init(POD, VIP, 1, 0, C), PODS);
    assert_eq!(seen.to_string(), format!("sctp {VIP} > {POD} ABORT tag 100 ttl 64"));
    assert_eq!(seen.payload, [6, 0, 0, 4]);
    let seen = lab.through(PODS, init(POD, VIP, 1, 0, C).partial(), PODS);
    assert_eq!(seen.packet.offload, Offload::default(), "left to offload");
    // §8.4 (8): the tag goes back; (5): SHUTDOWN COMPLETE.
    for chunk in [COOKIE_ECHO, DATA, SACK, HEARTBEAT, SHUTDOWN] {
        let seen = lab.through(PODS, there(B, chunk), PODS);
        assert_eq!(seen.to_string(), format!("sctp {VIP} > {POD} ABORT(T) tag 900 ttl 64"));
    }
    let seen = lab.through(PODS, there(B, SHUTDOWN_ACK), PODS);
    assert_eq!(seen.to_string(), format!("sctp {VIP} > {POD} SHUTDOWN-COMPLETE(T) tag 900 ttl 64"));
    // §8.4 (2), (6), (7): no reply.
    for chunk in [ABORT, ABORT_T, SHUTDOWN_COMPLETE, SHUTDOWN_COMPLETE_T, COOKIE_ACK, ERROR] {
        lab.send(PODS, there(B, chunk));
    }
    lab.counters(&[("rx", 14), ("originated", 8), ("tx", 8), ("reject_no_endpoints", 14)]);
}

#[test]
fn an_undefined_port_is_refused_on_a_cluster_ip_and_dropped_elsewhere() {
    // Kubernetes pkg/proxy/nftables/README.md.
    let mut lab = one();
    let seen = lab.through(PODS, init(POD, "10.96.0.80:2906", 1, 0, C), PODS);
    assert_eq!(seen.to_string(), "sctp 10.96.0.80:2906 > 10.244.1.5:40000 ABORT tag 100 ttl 64");
    // The same port of another protocol is another port.
    let seen = lab.through(PODS, tcp(POD, VIP), PODS);
    assert_eq!(seen.to_string(), "tcp 10.96.0.80:2905 > 10.244.1.5:40000 RA ttl 64");
    for address in ["192.168.50.10:30906", "203.0.113.8:2906", "198.51.100.8:2906"] {
        lab.send(OUTSIDE, init(STRANGER, address, 1, 0, C));
    }
    let refused = [("originated", 2), ("tx", 2), ("reject_undefined_port", 2)];
    lab.counters(&[&[("rx", 5), ("undefined_port", 3)], &refused[..]].concat());
}

#[test]
fn policies_and_source_ranges_are_those_of_tcp() {
    // Kubernetes pkg/proxy/topology.go; spec.loadBalancerSourceRanges.
    let more = ", externalTrafficPolicy: Local, loadBalancerSourceRanges: [192.168.50.0/25]";
    let slice = ["10.244.1.10@node-1", "10.244.2.15@node-2"];
    let mut lab = Lab::configured("node: node-1\n", &registry_with(more, &slice));
    let seen = lab.through(OUTSIDE, init(STRANGER, LOAD_BALANCER, 1, 0, C), PODS);
    assert_eq!(seen.to_string(), format!("sctp {STRANGER} > {SERVER} INIT tag 0 ttl 63"), "local, untranslated");
    let seen = lab.through(PODS, init(SERVER, STRANGER, 2, C, B), OUTSIDE);
    assert_eq!(seen.src().to_string(), LOAD_BALANCER);
    lab.send(OUTSIDE, init("192.168.50.200:50000", LOAD_BALANCER, 1, 0, C));
    lab.apply(&endpoints("registry", "SCTP", 3905, &["10.244.2.15@node-2"]));
    lab.send(OUTSIDE, init("192.168.50.101:50001", NODE_PORT, 1, 0, C));
    let flows = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];
    let drops = [("source_not_allowed", 1), ("no_local_endpoints", 1)];
    lab.counters(&[&[("rx", 4), ("tx", 2)], &flows[..], &drops[..]].concat());
}

#[test]
fn aborts_share_the_rate_of_resets() {
    // A tenth of 10,000 per second for each source prefix.
    let mut lab = one();
    let lost = |n: u16| sctp(&format!("192.168.50.100:{}", 20_000 + n), LOAD_BALANCER, B).chunk(HEARTBEAT, b"");
    lab.send_all(OUTSIDE, (0..1_050).map(lost));
    assert_eq!(lab.take(OUTSIDE).len(), 1_000);
    lab.send(OUTSIDE, tcp(STRANGER, VIP));
    let drops = [("sctp_no_flow", 1_050), ("reject_undefined_port", 1)];
    lab.counters(&[&[("rx", 1_051), ("originated", 1_000), ("tx", 1_000)], &drops[..]].concat());
}

#[test]
fn a_terminating_endpoint_keeps_its_associations_and_one_that_is_gone_too() {
    // KEP-1669; Kubernetes pkg/proxy/conntrack: only flows of UDP are cleared.
    let mut lab = Lab::new(&registry(&["10.244.1.10", "10.244.1.11"]));
    let clients: Vec<String> = (0..20).map(|n| format!("10.244.1.5:{}", 40_000 + n)).collect();
    let before: Vec<_> =
        clients.iter().map(|client| lab.through(PODS, init(client, VIP, 1, 0, C), PODS).dst().to_string()).collect();
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 2);
    for slice in [&["10.244.1.10~", "10.244.1.11"][..], &["10.244.1.11"]] {
        lab.apply(&endpoints("registry", "SCTP", 3905, slice));
        for (client, server) in clients.iter().zip(&before) {
            let seen = lab.through(PODS, sctp(client, VIP, B).chunk(HEARTBEAT, b""), PODS);
            assert_eq!(seen.dst().to_string(), *server);
        }
        let fresh = lab.through(PODS, init(&format!("10.244.1.6:{}", slice.len()), VIP, 1, 0, C), PODS);
        assert_eq!(fresh.dst().to_string(), "10.244.1.11:3905");
    }
    let flows = [("flows_opened", 22), ("flows_live", 22), ("flows_half_open", 22)];
    lab.counters(&[&[("rx", 62), ("tx", 62)], &flows[..]].concat());
}

#[test]
fn a_client_under_affinity_keeps_its_endpoint() {
    // Kubernetes spec.sessionAffinity: ClientIP.
    let three = ["10.244.1.10", "10.244.1.11", "10.244.1.12"];
    let mut lab = Lab::new(&registry_with(", sessionAffinity: ClientIP", &three));
    let from = |port: u16| format!("192.168.7.9:{port}");
    let first = lab.through(OUTSIDE, init(&from(50_000), LOAD_BALANCER, 1, 0, C), PODS);
    lab.through(PODS, init(&first.dst().to_string(), &first.src().to_string(), 2, C, B), OUTSIDE);
    lab.through(OUTSIDE, sctp(&from(50_000), LOAD_BALANCER, B).chunk(COOKIE_ECHO, b"a cookie"), PODS);
    let kept = first.dst().ip().to_string();
    lab.apply(&endpoints("registry", "SCTP", 3905, &[&kept, "10.244.1.20", "10.244.1.21", "10.244.1.22"]));
    for port in 50_001..50_010 {
        assert_eq!(lab.through(OUTSIDE, init(&from(port), NODE_PORT, 1, 0, C), PODS).dst(), first.dst());
    }
    let flows = [("flows_opened", 10), ("flows_live", 10), ("flows_half_open", 9), ("affinity_remembered", 1)];
    lab.counters(&[&[("rx", 12), ("tx", 12)], &flows[..]].concat());
}

#[test]
fn beyond_their_bound_unconfirmed_associations_make_room() {
    let mut lab = Lab::configured("flows: {max: 40, unconfirmedPercent: 10}\n", &registry(&["10.244.1.10"]));
    associate(&mut lab);
    for n in 1..=6 {
        lab.through(PODS, init(&format!("10.244.1.6:{n}"), VIP, 1, 0, C), PODS);
    }
    for n in 1..=2 {
        lab.send(PODS, init(SERVER, &format!("10.244.1.6:{n}"), 2, C, B));
    }
    lab.through(PODS, back(C, DATA), PODS);
    let flows = [("flows_opened", 7), ("flows_live", 5), ("flows_half_open", 4), ("flows_displaced", 2)];
    lab.counters(&[&[("rx", 13), ("tx", 11), ("not_owned", 2)], &flows[..]].concat());
}

#[test]
fn a_full_table_never_gives_up_an_association() {
    let mut lab = Lab::configured("flows: {max: 1}\n", &registry(&["10.244.1.10"]));
    associate(&mut lab);
    lab.send(PODS, init("10.244.1.6:1", VIP, 1, 0, C));
    lab.through(PODS, back(C, DATA), PODS);
    // Until it is over.
    lab.through(PODS, back(C, ABORT), PODS);
    lab.through(PODS, init("10.244.1.6:1", VIP, 1, 0, C), PODS);
    let flows = [("flows_opened", 2), ("flows_live", 1), ("flows_half_open", 1), ("flows_evicted", 1)];
    lab.counters(&[&[("rx", 8), ("tx", 7), ("flow_table_full", 1)], &flows[..]].concat());
}

#[test]
fn both_directions_meet_on_one_worker() {
    let mut lab = Lab::with(Setup { workers: 2, ..Setup::default() }, &registry(&["10.244.1.10"]));
    for n in 0..20usize {
        let client = format!("192.168.50.100:{}", 50_000 + n);
        lab.push(n % 2, OUTSIDE, init(&client, LOAD_BALANCER, 1, 0, C));
        lab.run();
        let seen = lab.expect(PODS);
        lab.push(n / 2 % 2, PODS, init(SERVER, &seen.src().to_string(), 2, C, B));
        lab.run();
        assert_eq!(lab.expect(OUTSIDE).dst().to_string(), client);
        lab.push(n / 4 % 2, OUTSIDE, sctp(&client, LOAD_BALANCER, B).chunk(COOKIE_ECHO, b"a cookie"));
        lab.run();
        lab.expect(PODS);
    }
    let handed = lab.totals().handed_over;
    assert!(handed > 15, "{handed} of 60");
    let flows = [("flows_opened", 20), ("flows_live", 20), ("handed_over", handed), ("handed_in", handed)];
    lab.counters(&[&[("rx", 60), ("tx", 60)], &flows[..]].concat());
}

#[test]
fn malformed_chunks_are_counted() {
    // RFC 9260 §3.2: a chunk has at least its header, and ends within the packet.
    let mut lab = one();
    for chunks in [&[][..], &[0], &[0, 3, 0], &[0, 3, 0, 0], &[0, 3, 0, 3], &[0, 3, 0, 5], &[0, 3, 0xff, 0xff]] {
        lab.send(PODS, sctp(POD, VIP, B).payload(chunks));
    }
    lab.counters(&[("rx", 7), ("l4_header", 7)]);
}

/// How many bytes an error may quote: up to the verification tag (RFC 792), the common header, all.
const LENGTHS: [usize; 3] = [HEADER + 8, HEADER + 12, 1000];

/// Verifies that an error quotes `sent`, with any number of hops left.
fn quotes(error: &Seen, sent: &[u8]) {
    let (mut quoted, mut sent) = (error.payload.clone(), sent[..error.payload.len()].to_vec());
    for bytes in [&mut quoted, &mut sent] {
        HOPS.iter().for_each(|&at| bytes[at] = 0);
    }
    assert_eq!(quoted, sent, "{error}");
}

#[test]
fn an_error_about_an_association_reaches_the_end_that_sent_the_packet() {
    // RFC 5508 §4.2, RFC 4443 §2.4; RFC 9260 §10, ICMP6: it looks at ports and verification tag.
    let mut lab = one();
    associate(&mut lab);
    for (request, host, shown) in [
        (there(B, DATA), "10.244.1.7", "10.244.1.7"),
        (there(B, DATA), "10.244.1.10", "10.96.0.80"),
        (back(C, DATA), "10.244.1.7", "10.244.1.7"),
    ] {
        let seen = lab.through(PODS, request.clone(), PODS);
        let sender = Seen::read(request.clone().frame(OWN[PODS])).src().ip().to_string();
        for kind in ERRORS {
            for len in LENGTHS {
                let error = lab.through(PODS, about(host, &seen, kind, len), PODS);
                assert_eq!(
                    (error.src().ip().to_string(), error.dst().ip().to_string()),
                    (shown.into(), sender.clone())
                );
                quotes(&error, &request.datagram());
            }
        }
    }
    lab.counters(&[("rx", 34), ("tx", 34), ("flows_opened", 1), ("flows_live", 1)]);
}

#[test]
fn where_the_source_is_translated_both_ends_still_learn_of_errors() {
    let mut lab = one();
    let request = init(STRANGER, LOAD_BALANCER, 1, 0, C);
    let there = lab.through(OUTSIDE, request.clone(), PODS);
    let reply = init(SERVER, &there.src().to_string(), 2, C, B);
    let back = lab.through(PODS, reply.clone(), OUTSIDE);
    for len in LENGTHS {
        let error = lab.through(PODS, about("10.244.1.10", &there, ERRORS[1], len), OUTSIDE);
        assert_eq!(error.to_string(), "icmp 203.0.113.8 > 192.168.50.100 port-unreachable ttl 63");
        quotes(&error, &request.datagram());
        let error = lab.through(OUTSIDE, about("192.168.50.100", &back, ERRORS[0], len), PODS);
        assert_eq!(error.to_string(), format!("icmp {GATEWAY} > 10.244.1.10 time-exceeded ttl 63"));
        quotes(&error, &reply.datagram());
    }
    lab.counters(&[("rx", 8), ("tx", 8), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

#[test]
fn a_packet_larger_than_the_next_link_is_reported_to_its_sender() {
    // RFC 1191 §4, RFC 8201 §4: SCTP finds the path MTU by that (RFC 9260 §7.3).
    let mut lab = one();
    associate(&mut lab);
    lab.network(|facts| facts.links[PODS].mtu = 1300);
    let seen = lab.through(PODS, sctp(POD, VIP, B).chunk(DATA, &[0; 1300]), PODS);
    assert_eq!(seen.to_string(), "icmp 192.168.50.10 > 10.244.1.5 too-big ttl 64");
    let flow = [("flows_opened", 1), ("flows_live", 1), ("originated", 1), ("tx_too_long", 1)];
    lab.counters(&[&[("rx", 5), ("tx", 5)], &flow[..]].concat());
}

#[derive(Clone, Copy, Debug)]
enum Carried {
    Tcp,
    Udp,
    Sctp(u32),
}

impl Carried {
    fn packet(self, from: &str, payload: &[u8]) -> Ip {
        match self {
            Carried::Tcp => tcp(from, "10.96.0.50:80").payload(payload),
            Carried::Udp => udp(from, "10.96.0.60:7").payload(payload),
            Carried::Sctp(tag) => init(from, VIP, 1, 0, tag.max(1)).chunk(DATA, payload),
        }
    }
}

fn carried() -> impl Strategy<Value = Carried> {
    prop_oneof![Just(Carried::Tcp), Just(Carried::Udp), any::<u32>().prop_map(Carried::Sctp)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What the endpoint got, translated back, is what the client sent, bit for bit; with the source translated or not.
    #[test]
    fn there_and_back_is_the_same_packet(
        sends in proptest::collection::vec((carried(), any::<bool>(), 1024u16.., proptest::collection::vec(any::<u8>(), 0..1200)), 1..20),
    ) {
        let mut lab = Lab::new(&[web(&["10.244.1.10"]), echo(&["10.244.1.10"]), registry(&["10.244.1.10"])].concat());
        for (carried, is_outside, port, payload) in sends {
            let (side, client) = if is_outside { (OUTSIDE, "192.168.50.100") } else { (PODS, "10.244.1.5") };
            let packet = carried.packet(&format!("{client}:{port}"), &payload);
            let seen = lab.through(side, packet.clone(), PODS);
            let error = lab.through(PODS, about("10.244.1.10", &seen, ERRORS[1], 1400), side);
            quotes(&error, &packet.datagram());
        }
        prop_assert_eq!(lab.totals().dropped(), 0);
        lab.balance();
    }

    /// A checksum that was wrong is wrong by as much after the translation, and one that was correct is correct.
    #[test]
    fn damage_is_carried_and_not_repaired(damage in any::<u32>(), port in 1024u16.., is_outside in any::<bool>()) {
        let mut lab = one();
        let (side, client) = if is_outside { (OUTSIDE, "192.168.50.100") } else { (PODS, "10.244.1.5") };
        let client = format!("{client}:{port}");
        let sound = lab.through(side, init(&client, VIP, 1, 0, C), PODS);
        let mut frame = init(&client, VIP, 1, 0, C).frame(OWN[side]);
        prop_assume!(frame.bytes[SUM] != damage.to_le_bytes());
        frame.bytes[SUM].iter_mut().zip(damage.to_le_bytes()).for_each(|(byte, with)| *byte ^= with);
        lab.send(side, frame);
        let seen = lab.pop(PODS).expect("sent on");
        let crc = u32::from_le_bytes(*seen.bytes[SUM].first_chunk().expect("a field"));
        prop_assert_eq!(crc, sound.crc() ^ damage);
    }
}

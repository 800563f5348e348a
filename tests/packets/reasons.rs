//! Every reason in the lists has a scene that provokes it, it alone, and it once. A reason added to the lists does not
//! compile until it has one.

use std::sync::{Arc, Mutex};

use etherparse::ArpOperation;
use pollgate_common::net::{Link, Route};
use pollgate_common::reasons::{DropReason, PassReason};
use pollgate_control::objects::Kind;
use pollgate_dataplane::port::memory::MemoryPort;
use pollgate_dataplane::port::{BURST, Backlog, Port};

use super::support::builder::{Ip, Sendable, arp, icmp, other, sctp, solicitation, tcp, udp};
use super::support::faulty::{Backlogged, Refusing, Sole, Tight};
use super::support::lab::{Lab, OUTSIDE, OWN, PODS, Setup};
use super::support::objects::{self, echo, endpoints, service, shop, web};

/// A frame of one kind of damage.
fn damaged(at: usize, value: u8) -> Vec<u8> {
    let mut frame = syn().frame(OWN[PODS]).bytes;
    frame[at] = value;
    frame
}

fn syn() -> Ip {
    tcp("10.244.1.5:40000", "10.96.0.50:80")
}

/// A datagram of 72 bytes.
fn long() -> Ip {
    udp("10.244.1.5:40000", "10.96.0.60:7").payload(vec![0; 64])
}

fn one() -> Lab {
    Lab::new(&[web(&["10.244.1.10"]), echo(&["10.244.1.10"]), shop("", &["10.244.1.10"])].concat())
}

fn registry() -> Lab {
    Lab::new(&objects::registry(&["10.244.1.10"]))
}

fn after(mut lab: Lab, port: usize, packet: impl Sendable) -> Lab {
    lab.send(port, packet);
    lab
}

fn with_port(wrap: impl Fn(MemoryPort) -> Box<dyn Port> + 'static) -> Lab {
    Lab::with(Setup { wrap: Box::new(move |_, port| wrap(port)), ..Setup::default() }, &web(&["10.244.1.10"]))
}

fn refusing(reason: DropReason) -> Lab {
    after(with_port(move |inner| Box::new(Refusing { inner, reason })), PODS, syn())
}

fn without_network(change: impl FnOnce(&mut pollgate_common::net::Facts)) -> Lab {
    let mut lab = one();
    lab.network(change);
    after(lab, PODS, syn())
}

fn dropped(reason: DropReason) -> Lab {
    match reason {
        DropReason::Runt => after(one(), PODS, vec![0; 13]),
        DropReason::IpHeader => after(one(), PODS, damaged(14, 0x44)),
        DropReason::IpLength => after(one(), PODS, damaged(16, 0x44)),
        DropReason::IpChecksum => after(one(), PODS, damaged(22, 63)),
        DropReason::BadSource => after(one(), PODS, tcp("127.0.0.1:40000", "10.96.0.50:80")),
        DropReason::TtlExpired => after(one(), PODS, syn().ttl(1)),
        DropReason::FragmentTiny => after(one(), PODS, syn().payload(vec![0; 4]).fragment(1, true)),
        DropReason::FragmentLength => after(one(), PODS, long().fragment(8191, true)),
        DropReason::FragmentOverlap => {
            let lab = after(one(), PODS, long().fragment(0, true));
            after(lab, PODS, long().payload(vec![0; 64]).fragment(4, true))
        }
        DropReason::FragmentDuplicate => {
            after(after(one(), PODS, long().fragment(0, true)), PODS, long().fragment(0, true))
        }
        DropReason::FragmentTimeout => {
            let mut lab = after(one(), PODS, long().fragment(9, true));
            lab.wait(std::time::Duration::from_secs(2));
            lab
        }
        DropReason::FragmentsTooMany => {
            let mut lab = one();
            lab.send_all(PODS, (0..129).map(|n| long().payload(vec![0; 32]).fragment(n * 5, true)));
            lab
        }
        DropReason::FragmentsFull => {
            let mut lab = one();
            lab.send_all(PODS, (0..129).map(|n| long().fragment(9 + n, true)));
            lab
        }
        DropReason::DnsFragment => {
            after(one(), PODS, udp("10.244.1.5:40000", "10.96.0.10:53").payload(vec![0; 32]).fragment(0, true))
        }
        DropReason::L4Header => after(one(), PODS, damaged(46, 0x40)),
        DropReason::Protocol => after(one(), PODS, other("10.244.1.5", "10.96.0.50", 47)),
        DropReason::Icmp => after(one(), PODS, icmp("10.244.1.5", "10.96.0.50", 0, 0, [0; 4])),
        DropReason::NeighbourSolicitation => {
            let mut frame = solicitation("fe80::5", "2001:db8::10");
            // As if it had been forwarded.
            frame[21] = 254;
            after(Lab::configured("addresses: \"2001:db8::10\"\n", ""), PODS, frame)
        }
        DropReason::UndefinedPort => after(one(), OUTSIDE, tcp("192.168.50.100:40000", "203.0.113.7:81")),
        DropReason::StaleReply => after(one(), PODS, tcp("10.244.1.10:8080", "192.168.50.10:5000")),
        DropReason::NoSuchClusterIp => after(one(), PODS, tcp("10.244.1.5:40000", "10.96.9.9:80")),
        DropReason::RejectNoEndpoints => after(Lab::new(&web(&[])), PODS, syn()),
        DropReason::RejectUndefinedPort => after(one(), PODS, tcp("10.244.1.5:40000", "10.96.0.50:81")),
        DropReason::NoLocalEndpoints => {
            let lab =
                Lab::configured("node: node-1\n", &shop(", externalTrafficPolicy: Local", &["10.244.1.10@node-2"]));
            after(lab, OUTSIDE, tcp("192.168.50.100:40000", "203.0.113.7:80"))
        }
        DropReason::SourceNotAllowed => {
            let lab = Lab::new(&shop(", loadBalancerSourceRanges: [192.0.2.0/24]", &["10.244.1.10"]));
            after(lab, OUTSIDE, tcp("192.168.50.100:40000", "203.0.113.7:80"))
        }
        DropReason::FlowTableFull => {
            let mut lab = Lab::configured("flows: {max: 1}\n", &web(&["10.244.1.10"]));
            lab.send(PODS, syn());
            lab.send(PODS, tcp("10.244.1.10:8080", "10.244.1.5:40000").flags("SA"));
            lab.send(PODS, syn().flags("A"));
            after(lab, PODS, tcp("10.244.1.5:40001", "10.96.0.50:80"))
        }
        DropReason::SnatPortsExhausted => {
            let mut lab = Lab::configured("nat: {ports: 2000-2001}\n", &web(&["10.244.1.10"]));
            for port in [1, 2] {
                let client = tcp(&format!("192.168.50.100:{port}"), "10.96.0.50:80");
                let translated = lab.through(OUTSIDE, client.clone(), PODS).src().to_string();
                lab.send(PODS, tcp("10.244.1.10:8080", &translated).flags("SA"));
                lab.send(OUTSIDE, client.flags("A"));
                lab.take(PODS);
            }
            after(lab, OUTSIDE, tcp("192.168.50.100:3", "10.96.0.50:80"))
        }
        DropReason::TcpNoFlow => after(one(), PODS, syn().flags("R")),
        DropReason::SctpNoFlow => {
            after(registry(), PODS, sctp("10.244.1.5:40000", "10.96.0.80:2905", 7).chunk((6, 0), &[]))
        }
        DropReason::NewFlowRate => {
            let mut lab = Lab::configured("flows: {newPerSecond: 1}\n", &web(&["10.244.1.10"]));
            lab.send(PODS, syn());
            after(lab, PODS, tcp("10.244.1.5:40001", "10.96.0.50:80"))
        }
        DropReason::Overload => {
            let backlog = Arc::new(Mutex::new(Backlog::Large));
            let mut lab = with_port(move |inner| Box::new(Backlogged { inner, backlog: Arc::clone(&backlog) }));
            lab.send(PODS, syn());
            // Of new flows that come alone, one of sixteen is never shed.
            for port in 40_001..40_100 {
                if lab.totals().drops_of(reason) > 0 {
                    break;
                }
                let known = (1..BURST).map(|_| syn());
                lab.send_all(PODS, known.chain([tcp(&format!("10.244.1.5:{port}"), "10.96.0.50:80")]));
            }
            lab
        }
        DropReason::NoRoute => without_network(|facts| facts.routes.clear()),
        DropReason::UnpolledInterface => without_network(|facts| {
            // The same network, by a link that nobody polls.
            facts.links.push(Link { index: 9, port: None, ..facts.links[PODS].clone() });
            facts.routes.retain(|route| route.link != 2);
            facts.routes.push(Route { to: "10.244.0.0/16".parse().expect("a prefix"), via: None, link: 9, metric: 0 });
        }),
        DropReason::LinkDown => without_network(|facts| facts.links[PODS].up = false),
        DropReason::NeighbourUnresolved => {
            let mut lab = without_network(|facts| facts.neighbours.clear());
            lab.wait(std::time::Duration::from_secs(4));
            lab
        }
        DropReason::NeighbourQueueFull => {
            let mut lab = without_network(|facts| facts.neighbours.clear());
            lab.send_all(PODS, (0..16).map(|_| syn()));
            lab
        }
        DropReason::HandoverFull => {
            let setup = Setup { workers: 2, ..Setup::default() };
            let mut lab = Lab::with(setup, &web(&["10.244.1.10"]));
            // Only one worker runs, until its ring to the other has overflowed by one.
            let mut port = 20_000;
            while lab.totals().drops_of(DropReason::HandoverFull) == 0 {
                lab.push(0, PODS, tcp(&format!("10.244.1.5:{port}"), "10.96.0.50:80"));
                lab.poll(0);
                port += 1;
            }
            lab
        }
        DropReason::HandedOverTwice => {
            // A Service at a port of a gateway address is deleted while its frame is on the way between two workers.
            let spec = "clusterIP: 10.96.0.80, externalIPs: [192.168.50.10], ports: [{ port: 5000, targetPort: 8080 }]";
            let manifests = service("edge", spec) + &endpoints("edge", "TCP", 8080, &["10.244.1.10"]);
            let mut lab = Lab::with(Setup { workers: 2, ..Setup::default() }, &manifests);
            // With the Service its client owns the frame, here by worker 1; without it the port's share, of worker 0.
            let mut client = 20_000;
            while lab.totals().handed_over == 0 {
                lab.push(0, OUTSIDE, tcp(&format!("192.168.50.100:{client}"), "192.168.50.10:5000"));
                lab.poll(0);
                client += 1;
            }
            lab.delete(Kind::Service, "edge");
            lab.poll(1);
            lab
        }
        DropReason::TxTooLong => after(one(), PODS, syn().flags("A").payload(vec![0; 2000])),
        DropReason::TxFull | DropReason::TxLinkDown | DropReason::TxError => refusing(reason),
        DropReason::TxClosed => {
            let mut lab = Lab::new(&shop("", &["10.244.1.10"]));
            lab.close(PODS);
            after(lab, OUTSIDE, tcp("192.168.50.100:50000", "203.0.113.7:80"))
        }
        DropReason::DnsRate => {
            let mut lab = Lab::configured("dns: {address: 10.96.0.10, responsesPerSecond: 1}\n", "");
            let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
            lab.send_all(PODS, (0..2).map(|_| udp("10.244.1.5:40000", "10.96.0.10:53").payload(&query[..])));
            lab
        }
        DropReason::DnsMalformed => after(one(), PODS, udp("10.244.1.5:40000", "10.96.0.10:53")),
        DropReason::NotPassed => {
            let lab = with_port(|inner| Box::new(Sole { inner }));
            after(lab, PODS, tcp("10.244.1.5:40000", "192.0.2.1:80"))
        }
        DropReason::NoRoomForAnswer => {
            let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03web\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01";
            let lab = with_port(|inner| Box::new(Tight::new(inner)));
            after(lab, PODS, udp("10.244.1.5:40000", "10.96.0.10:53").payload(&query[..]))
        }
    }
}

fn passed(reason: PassReason) -> Lab {
    let ethernet = |high: u8, low: u8| {
        let mut frame = OWN[PODS].to_vec();
        frame.extend([2, 0, 0, 0, 0, 7, high, low]);
        frame.resize(60, 0);
        frame
    };
    match reason {
        PassReason::OtherMac => after(one(), PODS, syn().addressed([2, 0, 0, 0, 0, 7])),
        PassReason::Group => after(one(), PODS, syn().addressed([0xff; 6])),
        PassReason::EtherType => after(one(), PODS, ethernet(0x81, 0)),
        PassReason::Arp => after(one(), PODS, arp(ArpOperation::REQUEST, "10.244.1.5", "10.244.0.1")),
        PassReason::NeighbourDiscovery => after(one(), PODS, solicitation("fe80::5", "2001:db8::2")),
        PassReason::NotOwned => after(one(), PODS, tcp("10.244.1.5:40000", "192.0.2.1:80")),
    }
}

#[test]
fn every_drop_is_provoked_alone() {
    for &reason in DropReason::ALL {
        let lab = dropped(reason);
        lab.balance();
        let totals = lab.totals();
        assert_eq!((totals.drops_of(reason), totals.dropped(), totals.passed()), (1, 1, 0), "{reason:?}: {totals:?}");
    }
}

#[test]
fn every_pass_is_provoked_alone() {
    for &reason in PassReason::ALL {
        let lab = passed(reason);
        lab.balance();
        let totals = lab.totals();
        assert_eq!((totals.passes_of(reason), totals.passed(), totals.dropped()), (1, 1, 0), "{reason:?}: {totals:?}");
    }
}

#[test]
fn what_a_port_refuses_to_send_is_not_sent() {
    let mut lab = refusing(DropReason::TxFull);
    lab.send(PODS, icmp("10.244.1.5", "10.96.0.50", 8, 0, [0; 4]));
    lab.send(PODS, tcp("10.244.1.5:40000", "10.96.0.50:81"));
    let flow = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];
    let drops = [("originated", 1), ("reject_undefined_port", 1), ("tx_full", 3)];
    lab.counters(&[&[("rx", 3)], &drops[..], &flow].concat());
}

#[test]
fn where_there_is_no_room_for_an_error_the_packet_is_dropped_for_its_reason_alone() {
    let mut lab = with_port(|inner| Box::new(Tight::new(inner)));
    lab.send(PODS, udp("10.244.1.5:40000", "10.96.0.50:81"));
    lab.counters(&[("rx", 1), ("reject_undefined_port", 1)]);
}

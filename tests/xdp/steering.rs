//! What the steering program takes, by running it in the kernel on frames of every kind (BPF_PROG_TEST_RUN).

use std::net::Ipv6Addr;

use etherparse::{Icmpv6Type, IpNumber, PacketBuilder, PacketBuilderStep, VlanId};
use pollgate_common::flow::Protocol;
use pollgate_common::net::Mac;

use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, Lab};
use crate::xdp::support::{Cable, LEFT, RIGHT};

tests! {
    [Lab, Bpf] =>
        ipv4_is_taken_by_owned_destination_or_served_source,
        ipv6_is_taken_by_the_same_rules,
        questions_for_owned_addresses_are_taken,
        errors_about_packets_to_endpoints_are_taken,
        what_hosts_say_that_use_an_owned_address_is_taken,
        frames_to_others_groups_and_vlans_are_the_kernels,
        rules_come_and_go_and_a_queue_without_a_socket_is_the_kernels,
        the_tables_hold_what_a_large_cluster_has;
}

const OWNED: [u8; 4] = [10, 0, 0, 2];
const HOST: [u8; 4] = [10, 0, 0, 9];
const POD: [u8; 4] = [10, 244, 1, 10];
const CLIENT: [u8; 4] = [198, 51, 100, 7];

fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().expect("an address").octets()
}

fn owned6() -> [u8; 16] {
    v6("2001:db8::2")
}

fn pod6() -> [u8; 16] {
    v6("2001:db8:244::10")
}

fn client6() -> [u8; 16] {
    v6("2001:db8:99::7")
}

/// A cable whose program has one of each: an owned address, an endpoint (TCP 8080, UDP 53 over IPv6, SCTP 2905 over both) and a host
/// address of each family; and a socket, or there would be nothing to redirect to.
fn site() -> (Cable, impl Sized) {
    let cable = Cable::new();
    let port = cable.open();
    cable.rules.own(owned6().into()).expect("owned");
    cable.rules.serve(POD.into(), 8080, Protocol::Tcp).expect("served");
    cable.rules.serve(pod6().into(), 53, Protocol::Udp).expect("served");
    cable.rules.take_fragments(POD.into()).expect("taken");
    cable.rules.take_fragments(pod6().into()).expect("taken");
    for pod in [POD.into(), pod6().into()] {
        cable.rules.serve(pod, 2905, Protocol::Sctp).expect("served");
    }
    cable.rules.add_host_address(HOST.into()).expect("added");
    cable.rules.add_host_address(v6("2001:db8::9").into()).expect("added");
    (cable, port)
}

fn ethernet() -> PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(LEFT.0, RIGHT.0)
}

fn tcp(from: [u8; 4], port: u16, to: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ethernet().ipv4(from, to, 64).tcp(port, 1000, 1, 512).write(&mut bytes, b"data").expect("a packet");
    bytes
}

fn udp(from: [u8; 4], port: u16, to: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ethernet().ipv4(from, to, 64).udp(port, 1000).write(&mut bytes, b"data").expect("a packet");
    bytes
}

fn udp6(from: [u8; 16], port: u16, to: [u8; 16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ethernet().ipv6(from, to, 64).udp(port, 1000).write(&mut bytes, b"data").expect("a packet");
    bytes
}

fn other(from: [u8; 4], to: [u8; 4], protocol: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ip = ethernet().ipv4(from, to, 64);
    ip.write(&mut bytes, IpNumber(protocol), &[0; 40]).expect("a packet");
    bytes
}

fn tagged(to: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let tag = VlanId::try_new(7).expect("a VLAN");
    ethernet().single_vlan(tag).ipv4(CLIENT, to, 64).udp(1, 2).write(&mut bytes, b"").expect("a packet");
    bytes
}

fn solicitation(target: [u8; 16], to: [u8; 16]) -> Vec<u8> {
    discovery(135, client6(), target, to)
}

fn discovery(kind: u8, from: [u8; 16], target: [u8; 16], to: [u8; 16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
    let payload = [&target[..], &[1, 1], &LEFT.0].concat();
    ethernet().ipv6(from, to, 255).icmpv6(kind).write(&mut bytes, &payload).expect("a packet");
    bytes
}

fn arp(operation: u8, target: [u8; 4]) -> Vec<u8> {
    arp_from(operation, CLIENT, target)
}

fn arp_from(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = [RIGHT.0, LEFT.0].concat();
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    bytes.extend(LEFT.0);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes.resize(60, 0);
    bytes
}

/// IPv4 options: three words of no operation, then the transport header.
fn with_options(mut frame: Vec<u8>) -> Vec<u8> {
    frame[14] = 0x48;
    frame.splice(34..34, [1; 12]);
    frame
}

fn fragment(mut frame: Vec<u8>, offset: u16, more: bool) -> Vec<u8> {
    frame[20..22].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
    frame
}

fn addressed(mut frame: Vec<u8>, to: Mac) -> Vec<u8> {
    frame[..6].copy_from_slice(&to.0);
    frame
}

fn cut(frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame[..length].to_vec()
}

fn changed(mut frame: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    frame[at] = to;
    frame
}

const SOMEBODY: Mac = Mac([2, 9, 9, 9, 9, 9]);
const GROUP: Mac = Mac([0x33, 0x33, 0xff, 0, 0, 2]);
const NEARLY: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 3]), Mac([4, 0, 0, 0, 0, 2])];

#[track_caller]
fn check(cable: &Cable, cases: &[(&str, Vec<u8>, bool)]) {
    for (what, frame, taken) in cases {
        let takes = cable.program.takes(frame).unwrap_or_else(|error| panic!("running the program on {what}: {error}"));
        assert_eq!(takes, *taken, "{what}");
    }
}

fn ipv4_is_taken_by_owned_destination_or_served_source() {
    let (cable, _port) = site();
    let reply = || tcp(POD, 8080, CLIENT);
    let cases = [
        ("UDP to an owned address", udp(CLIENT, 1, OWNED), true),
        ("TCP to an owned address", tcp(CLIENT, 1, OWNED), true),
        ("ICMP to an owned address", other(CLIENT, OWNED, 1), true),
        ("any protocol to an owned address", other(CLIENT, OWNED, 253), true),
        ("to an owned address, with options", with_options(udp(CLIENT, 1, OWNED)), true),
        ("the first fragment to an owned address", fragment(udp(CLIENT, 1, OWNED), 0, true), true),
        ("a later fragment to an owned address", fragment(udp(CLIENT, 1, OWNED), 100, false), true),
        ("a bare header to an owned address", cut(udp(CLIENT, 1, OWNED), 34), true),
        ("to nobody's address", udp(CLIENT, 1, [10, 0, 0, 3]), false),
        ("from an owned address", udp(OWNED, 1, [10, 0, 0, 3]), false),
        ("an endpoint's reply", reply(), true),
        ("an endpoint's reply, with options", with_options(reply()), true),
        ("an endpoint's first fragment", fragment(reply(), 0, true), true),
        ("an endpoint's later fragment", fragment(reply(), 100, false), true),
        ("a fragment from another port of an endpoint", fragment(tcp(POD, 8081, CLIENT), 0, true), true),
        ("an endpoint's fragment to the host", fragment(tcp(POD, 8080, HOST), 100, false), false),
        ("a fragment from the endpoint's neighbour", fragment(tcp([10, 244, 1, 11], 8080, CLIENT), 100, false), false),
        ("an endpoint to the host", tcp(POD, 8080, HOST), false),
        ("an endpoint to an owned address", tcp(POD, 8080, OWNED), true),
        ("an endpoint from another port", tcp(POD, 8081, CLIENT), false),
        ("an endpoint by another protocol", udp(POD, 8080, CLIENT), false),
        ("an endpoint's SCTP", changed(udp(POD, 2905, CLIENT), 23, 132), true),
        ("SCTP from a port of another protocol", changed(tcp(POD, 8080, CLIENT), 23, 132), false),
        ("SCTP to an owned address", other(CLIENT, OWNED, 132), true),
        ("from the endpoint's neighbour", tcp([10, 244, 1, 11], 8080, CLIENT), false),
        ("an endpoint's reply cut before its ports", cut(reply(), 37), false),
        ("an endpoint's reply cut behind its ports", cut(reply(), 38), true),
        ("options that end before the header does", changed(reply(), 14, 0x44), false),
        ("options that end behind the frame", changed(cut(reply(), 58), 14, 0x4f), false),
    ];
    check(&cable, &cases);
}

fn ipv6_is_taken_by_the_same_rules() {
    let (cable, _port) = site();
    let reply = || udp6(pod6(), 53, client6());
    let icmp = solicitation(client6(), owned6());
    let cases = [
        ("UDP to an owned address", udp6(client6(), 1, owned6()), true),
        ("a fragment to an owned address", changed(udp6(client6(), 1, owned6()), 20, 44), true),
        ("a bare header to an owned address", cut(udp6(client6(), 1, owned6()), 54), true),
        ("ICMP to an owned address", icmp, true),
        ("to nobody's address", udp6(client6(), 1, v6("2001:db8::3")), false),
        ("an endpoint's reply", reply(), true),
        ("an endpoint's reply with an extension header", changed(reply(), 20, 60), false),
        ("an endpoint's fragment", changed(reply(), 20, 44), true),
        ("an endpoint's fragment to the host", changed(udp6(pod6(), 53, v6("2001:db8::9")), 20, 44), false),
        ("a fragment of somebody else", changed(udp6(client6(), 53, v6("2001:db8::3")), 20, 44), false),
        ("an endpoint to the host", udp6(pod6(), 53, v6("2001:db8::9")), false),
        ("an endpoint from another port", udp6(pod6(), 54, client6()), false),
        ("an endpoint by another protocol", changed(reply(), 20, 6), false),
        ("an endpoint's SCTP", changed(udp6(pod6(), 2905, client6()), 20, 132), true),
        ("SCTP from a port of another protocol", changed(reply(), 20, 132), false),
        ("an endpoint's reply cut before its ports", cut(reply(), 57), false),
        ("an endpoint's reply cut behind its ports", cut(reply(), 58), true),
        ("a header that is cut", cut(udp6(client6(), 1, owned6()), 53), false),
    ];
    check(&cable, &cases);
}

fn questions_for_owned_addresses_are_taken() {
    let (cable, _port) = site();
    let group6 = v6("ff02::1:ff00:2");
    let echo = changed(solicitation(owned6(), group6), 54, 128);
    let cases = [
        ("ARP asking everybody for an owned address", addressed(arp(1, OWNED), Mac::BROADCAST), true),
        ("ARP asking us for an owned address", arp(1, OWNED), true),
        ("an ARP reply to an owned address", arp(2, OWNED), true),
        ("ARP asking everybody for the host's address", addressed(arp(1, HOST), Mac::BROADCAST), false),
        ("ARP that is cut", cut(arp(1, OWNED), 41), false),
        ("ARP for another protocol", changed(arp(1, OWNED), 17, 1), false),
        ("ARP with other sizes", changed(arp(1, OWNED), 18, 8), false),
        ("ND asking the group for an owned address", addressed(solicitation(owned6(), group6), GROUP), true),
        ("ND asking us for an owned address", solicitation(owned6(), owned6()), true),
        ("ND asking the group for another", addressed(solicitation(client6(), group6), GROUP), false),
        ("ND that is cut", addressed(cut(solicitation(owned6(), group6), 77), GROUP), false),
        ("other ICMPv6 to a group", addressed(echo, GROUP), false),
    ];
    check(&cable, &cases);
}

/// An ICMP error to `to` about this frame, from a router.
fn error(kind: u8, to: [u8; 4], about: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let quoted = [&[kind, 0, 0, 0, 0, 0, 0, 0], &about[14..]].concat();
    ethernet().ipv4([10, 244, 9, 9], to, 64).write(&mut bytes, IpNumber(1), &quoted).expect("a packet");
    bytes
}

/// The same for IPv6.
fn error6(kind: u8, to: [u8; 16], about: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let quoted = [&[kind, 0, 0, 0, 0, 0, 0, 0], &about[14..]].concat();
    let ip = ethernet().ipv6(v6("2001:db8:244::99"), to, 64);
    ip.write(&mut bytes, IpNumber(58), &quoted).expect("a packet");
    bytes
}

/// What the client sent: TCP from port 1000 to an endpoint, and UDP over IPv6.
fn to_pod(port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    ethernet().ipv4(CLIENT, POD, 64).tcp(1000, port, 1, 512).write(&mut bytes, b"data").expect("a packet");
    bytes
}

fn to_pod6(port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    ethernet().ipv6(client6(), pod6(), 64).udp(1000, port).write(&mut bytes, b"data").expect("a packet");
    bytes
}

/// An extension header of this type in front of what follows the IPv6 header at `at`.
fn extended(mut frame: Vec<u8>, at: usize, kind: u8, header: [u8; 8]) -> Vec<u8> {
    let mut header = header;
    header[0] = std::mem::replace(&mut frame[at + 6], kind);
    frame.splice(at + 40..at + 40, header);
    frame
}

/// RFC 792 and RFC 4443 §2.4: an error goes to the source of the packet that it quotes. RFC 8200 §4: extension headers.
fn errors_about_packets_to_endpoints_are_taken() {
    let (cable, _port) = site();
    let about = || error(3, CLIENT, &to_pod(8080));
    let from_host = {
        let mut frame = to_pod(8080);
        frame[26..30].copy_from_slice(&HOST);
        frame
    };
    let to_owned = |from: [u8; 4]| {
        let mut frame = to_pod(9999);
        frame[26..30].copy_from_slice(&from);
        frame[30..34].copy_from_slice(&OWNED);
        frame
    };
    check(
        &cable,
        &[
            ("unreachable", about(), true),
            ("time exceeded", error(11, CLIENT, &to_pod(8080)), true),
            ("parameter problem", error(12, CLIENT, &to_pod(8080)), true),
            ("an echo request that looks so", error(8, CLIENT, &to_pod(8080)), false),
            ("source quench, which is obsolete", error(4, CLIENT, &to_pod(8080)), false),
            ("about another port", error(3, CLIENT, &to_pod(8081)), false),
            ("about another protocol", changed(about(), 14 + 20 + 8 + 9, 17), false),
            ("about another host's packet", error(3, [198, 51, 100, 8], &to_pod(8080)), false),
            ("about the host's own packet", error(3, HOST, &from_host), false),
            ("about a packet to an owned address", error(3, CLIENT, &to_owned(CLIENT)), true),
            ("the same, sent by the host", error(3, HOST, &to_owned(HOST)), false),
            ("with options", with_options(about()), true),
            ("about a packet with options", error(3, CLIENT, &with_options(to_pod(8080))), true),
            ("about a first fragment", error(3, CLIENT, &fragment(to_pod(8080), 0, true)), true),
            ("about a later fragment", error(3, CLIENT, &fragment(to_pod(8080), 100, false)), false),
            ("quoting the ports and no more", cut(about(), 14 + 20 + 8 + 20 + 4), true),
            ("quoting less", cut(about(), 14 + 20 + 8 + 20 + 3), false),
            ("quoting no header", cut(about(), 14 + 20 + 8 + 19), false),
            ("quoting another version", changed(about(), 14 + 20 + 8, 0x65), false),
            ("to another MAC", addressed(about(), SOMEBODY), false),
            (
                "an error of the endpoint itself",
                {
                    let mut frame = about();
                    frame[26..30].copy_from_slice(&POD);
                    frame
                },
                true,
            ),
        ],
    );
    let about = || error6(2, client6(), &to_pod6(53));
    let (hop_by_hop, routed) = ([0; 8], [0, 0, 0, 1, 0, 0, 0, 0]);
    let (first, later) = ([0, 0, 0, 1, 0, 0, 0, 7], [0, 0, 0, 8, 0, 0, 0, 7]);
    let quoting = |kind, header| error6(1, client6(), &extended(to_pod6(53), 14, kind, header));
    let chain = |count: usize| (0..count).fold(to_pod6(53), |frame, _| extended(frame, 14, 60, [0; 8]));
    check(
        &cable,
        &[
            ("unreachable", error6(1, client6(), &to_pod6(53)), true),
            ("too big", about(), true),
            ("time exceeded", error6(3, client6(), &to_pod6(53)), true),
            ("parameter problem", error6(4, client6(), &to_pod6(53)), true),
            ("an error of an unknown type", error6(5, client6(), &to_pod6(53)), false),
            ("about another port", error6(2, client6(), &to_pod6(54)), false),
            ("about another host's packet", error6(2, v6("2001:db8:99::8"), &to_pod6(53)), false),
            ("behind a hop-by-hop header", extended(about(), 14, 0, hop_by_hop), true),
            ("behind a routing header that is done", extended(about(), 14, 43, hop_by_hop), true),
            ("behind a routing header with stops ahead", extended(about(), 14, 43, routed), false),
            ("about a packet with destination options", quoting(60, hop_by_hop), true),
            ("about a packet that another router routes", quoting(43, routed), false),
            ("about a first fragment", quoting(44, first), true),
            ("about a later fragment", quoting(44, later), false),
            ("about a packet with eight extension headers", error6(1, client6(), &chain(8)), true),
            ("about a packet with nine", error6(1, client6(), &chain(9)), false),
            ("quoting the ports and no more", cut(about(), 14 + 40 + 8 + 40 + 4), true),
            ("quoting less", cut(about(), 14 + 40 + 8 + 40 + 3), false),
            (
                "an endpoint's reply behind destination options",
                extended(udp6(pod6(), 53, client6()), 14, 60, [0; 8]),
                true,
            ),
        ],
    );
}

fn what_hosts_say_that_use_an_owned_address_is_taken() {
    let (cable, _port) = site();
    let all = v6("ff02::1");
    let host = v6("2001:db8::9");
    let group = |frame| addressed(frame, GROUP);
    let cases = [
        ("gratuitous ARP", addressed(arp_from(1, OWNED, OWNED), Mac::BROADCAST), true),
        ("a gratuitous ARP reply", addressed(arp_from(2, OWNED, OWNED), Mac::BROADCAST), true),
        ("its question for another host", addressed(arp_from(1, OWNED, CLIENT), Mac::BROADCAST), true),
        ("its question for the host, which has to reply", addressed(arp_from(1, OWNED, HOST), Mac::BROADCAST), false),
        ("its reply to the host", arp_from(2, OWNED, HOST), true),
        ("a reply to the host by another", arp_from(2, CLIENT, HOST), false),
        ("another's gratuitous ARP", addressed(arp_from(1, CLIENT, CLIENT), Mac::BROADCAST), false),
        ("an advertisement to all", group(discovery(136, client6(), owned6(), all)), true),
        ("an advertisement to the host", discovery(136, owned6(), owned6(), host), true),
        ("an advertisement of another", group(discovery(136, client6(), client6(), all)), false),
        ("an advertisement that is cut", group(cut(discovery(136, client6(), owned6(), all), 77)), false),
        ("its solicitation of another", group(discovery(135, owned6(), client6(), all)), true),
        ("its solicitation of the host", group(discovery(135, owned6(), host, all)), false),
        ("its advertisement of another", group(discovery(136, owned6(), client6(), all)), false),
        ("a probe", group(discovery(135, [0; 16], owned6(), all)), true),
    ];
    check(&cable, &cases);
}

fn frames_to_others_groups_and_vlans_are_the_kernels() {
    let (cable, _port) = site();
    let ours = || udp(CLIENT, 1, OWNED);
    let cases = [
        ("to another MAC", addressed(ours(), SOMEBODY), false),
        ("to a MAC that differs at its end", addressed(ours(), NEARLY[0]), false),
        ("to a MAC that differs at its start", addressed(ours(), NEARLY[1]), false),
        ("IPv4 to everybody", addressed(ours(), Mac::BROADCAST), false),
        ("IPv6 to a group", addressed(udp6(client6(), 1, owned6()), GROUP), false),
        ("ARP to another MAC", addressed(arp(1, OWNED), SOMEBODY), false),
        ("ND to another MAC", addressed(solicitation(owned6(), owned6()), SOMEBODY), false),
        ("tagged with a VLAN", tagged(OWNED), false),
        ("another EtherType", changed(ours(), 13, 0x99), false),
        ("an Ethernet header alone", cut(ours(), 14), false),
        ("an IPv4 header that is cut", cut(ours(), 33), false),
    ];
    check(&cable, &cases);
    cable.program.set_mac(SOMEBODY).expect("set");
    check(&cable, &[("to the new MAC", addressed(ours(), SOMEBODY), true), ("to the old MAC", ours(), false)]);
}

fn rules_come_and_go_and_a_queue_without_a_socket_is_the_kernels() {
    let (cable, port) = site();
    let (to_us, reply, to_host) = (udp(CLIENT, 1, OWNED), tcp(POD, 8080, CLIENT), tcp(POD, 8080, HOST));
    check(&cable, &[("owned", to_us.clone(), true), ("served", reply.clone(), true), ("host", to_host.clone(), false)]);
    let rules = &cable.rules;
    rules.disown(OWNED.into()).expect("disowned");
    rules.disown(OWNED.into()).expect("twice is fine");
    rules.unserve(POD.into(), 8080, Protocol::Udp).expect("never was");
    rules.remove_host_address(HOST.into()).expect("removed");
    check(
        &cable,
        &[("disowned", to_us.clone(), false), ("still served", reply.clone(), true), ("no host", to_host, true)],
    );
    let piece = fragment(reply.clone(), 100, false);
    rules.unserve(POD.into(), 8080, Protocol::Tcp).expect("unserved");
    rules.own(OWNED.into()).expect("owned again");
    let cases =
        [("owned again", to_us.clone(), true), ("unserved", reply, false), ("its fragments", piece.clone(), true)];
    check(&cable, &cases);
    rules.leave_fragments(POD.into()).expect("left");
    rules.leave_fragments(POD.into()).expect("twice is fine");
    check(&cable, &[("an address without endpoints", piece, false)]);
    drop(port);
    check(&cable, &[("no socket", to_us, false)]);
}

fn the_tables_hold_what_a_large_cluster_has() {
    let (cable, _port) = site();
    let address = |n: u32| std::net::Ipv4Addr::from(0x0a60_0000 + n);
    for n in 0..20_000 {
        cable.rules.own(address(n).into()).expect("owned");
    }
    for n in 0..200_000u32 {
        cable.rules.serve(address(n).into(), 8080, Protocol::Tcp).expect("served");
    }
    let last = address(199_999).octets();
    check(
        &cable,
        &[
            ("the last owned", udp(CLIENT, 1, address(19_999).octets()), true),
            ("the next", udp(CLIENT, 1, address(20_000).octets()), false),
            ("the last served", tcp(last, 8080, CLIENT), true),
        ],
    );
    let full = (20_000..40_000).find_map(|n| cable.rules.own(address(n).into()).err()).expect("there is an end");
    let told = full.to_string();
    assert!(told.starts_with("owning 10.96.127.") && told.contains("the table is full"), "{told}");
}

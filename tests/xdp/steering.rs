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
    rules.serve(POD.into(), 8081, Protocol::Tcp).expect("served");
    rules.unserve(POD.into(), 8080, Protocol::Tcp).expect("unserved");
    rules.own(OWNED.into()).expect("owned again");
    let cases =
        [("owned again", to_us.clone(), true), ("unserved", reply, false), ("another port", piece.clone(), true)];
    check(&cable, &cases);
    rules.unserve(POD.into(), 8081, Protocol::Tcp).expect("unserved");
    check(&cable, &[("another protocol", piece.clone(), true)]);
    rules.unserve(POD.into(), 2905, Protocol::Sctp).expect("unserved");
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

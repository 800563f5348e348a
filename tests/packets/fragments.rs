//! IP fragments: each case in every order that matters, put together again by another reassembler.

use std::time::Duration;

use pollgate_dataplane::port::memory::Packet;
use proptest::prelude::*;

use super::IS_V6;
use super::support::builder::{Ip, about, icmp, init, sctp, tcp, udp};
use super::support::family::{ECHO_REQUEST, ERRORS, HEADER};
use super::support::lab::{GATEWAY, Lab, OUTSIDE, PODS, Setup};
use super::support::objects::{echo, endpoints, registry, service, web};
use super::support::pieces::{Piece, Receiver, cut, piece};
use super::support::seen::Seen;

const CLIENT: &str = "10.244.1.5:40000";
const VIP: &str = "10.96.0.60:7";
const SERVER: &str = "10.244.1.10:7007";
const OPENED: [(&str, u64); 3] = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];

/// A Service behind which the source is translated.
fn media(addresses: &[&str]) -> String {
    let spec = "type: LoadBalancer, clusterIP: 10.96.0.90, loadBalancerIP: 203.0.113.9, \
                ports: [{port: 9, protocol: UDP, targetPort: 9009}]";
    service("media", spec) + &endpoints("media", "UDP", 9009, addresses)
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n * 7 % 251).expect("small")).collect()
}

fn datagram(len: usize) -> Ip {
    udp(CLIENT, VIP).payload(bytes(len))
}

/// All orders of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The transport header and what is behind it.
fn data(seen: &Seen) -> &[u8] {
    &seen.packet.bytes[14 + HEADER..]
}

/// Sends the fragments one by one, and verifies that what comes out is what the whole packet becomes.
fn same_as_whole(lab: &mut Lab, (from, to): (usize, usize), packet: &Ip, pieces: &[Piece]) {
    let whole = lab.through(from, packet.clone(), to);
    for at_once in [false, true] {
        let mut receiver = Receiver::default();
        match at_once {
            true => lab.send_all(from, pieces.to_vec()),
            false => pieces.iter().for_each(|piece| lab.send(from, piece.clone())),
        }
        let seen = receiver.take(lab, to);
        assert_eq!(seen.len(), 1, "{} fragments came", receiver.ids.len());
        assert_eq!(seen[0].to_string(), whole.to_string());
        assert_eq!((data(&seen[0]), seen[0].to), (data(&whole), whole.to), "{whole}");
        assert!(receiver.ids.iter().all(|id| *id == receiver.ids[0]), "one identification: {:?}", receiver.ids);
    }
}

/// In every order, one by one and in one burst: RFC 791 §3.2, RFC 8200 §4.5.
#[test]
fn three_fragments_in_every_order_are_the_whole_datagram_both_ways() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    for (packet, id) in [(datagram(100), 1), (udp(SERVER, CLIENT).payload(bytes(99)), 2)] {
        for order in ORDERS {
            let pieces = cut(&packet, id, 40);
            same_as_whole(&mut lab, (PODS, PODS), &packet, &order.map(|n| pieces[n].clone()));
        }
    }
    assert_eq!(lab.carried("default/echo:7"), (84, 1), "every fragment is a packet");
    lab.counters(&[("rx", 84), ("tx", 84), ("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)]);
}

/// No checksum stays none (RFC 768); IPv6 has no such datagram (RFC 8200 §8.1).
#[test]
fn a_datagram_without_checksum_stays_without_one() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let packet = if IS_V6 { datagram(100) } else { datagram(100).no_checksum() };
    same_as_whole(&mut lab, (PODS, PODS), &packet, &cut(&packet, 1, 40));
    lab.counters(&[&[("rx", 7), ("tx", 7)], &OPENED[..]].concat());
}

/// RFC 9293 §3.7.1 lets IP fragment segments. Only the first fragment is part of the connection's life.
#[test]
fn segments_are_translated_in_fragments_and_the_first_counts_for_the_connection() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    let (client, vip, server) = (CLIENT, "10.96.0.50:80", "10.244.1.10:8080");
    for order in ORDERS {
        let syn = tcp(client, vip).payload(bytes(90));
        let pieces = cut(&syn, 1, 40);
        same_as_whole(&mut lab, (PODS, PODS), &syn, &order.map(|n| pieces[n].clone()));
    }
    for order in ORDERS {
        let reply = tcp(server, client).flags("SA").payload(bytes(90));
        let pieces = cut(&reply, 1, 40);
        same_as_whole(&mut lab, (PODS, PODS), &reply, &order.map(|n| pieces[n].clone()));
    }
    lab.counters(&[&[("rx", 84), ("tx", 84)], &OPENED[..]].concat());
    // The acknowledgement in fragments makes it established.
    let ack = tcp(client, vip).flags("A").payload(bytes(90));
    same_as_whole(&mut lab, (PODS, PODS), &ack, &cut(&ack, 1, 40));
    lab.counters(&[("rx", 91), ("tx", 91), ("flows_opened", 1), ("flows_live", 1)]);
}

/// RFC 9260 §6.8: the checksum is of the whole packet, so new ports change it by its length. The first fragment waits for the last, which
/// tells the length.
#[test]
fn sctp_in_fragments_keeps_a_correct_checksum() {
    let mut lab = Lab::new(&registry(&["10.244.1.10"]));
    let data = |from: &str, to: &str, len| sctp(from, to, 9).chunk((0, 3), &bytes(len));
    // The Pod keeps its port, and the Service's becomes the endpoint's; from outside both change.
    lab.through(PODS, init(CLIENT, "10.96.0.80:2905", 1, 0, 7), PODS);
    let outside = "192.168.50.100:50000";
    let translated = lab.through(OUTSIDE, init(outside, "203.0.113.8:2905", 1, 0, 7), PODS).src().to_string();
    let cases = [
        (data(CLIENT, "10.96.0.80:2905", 100), (PODS, PODS)),
        (data("10.244.1.10:3905", CLIENT, 97), (PODS, PODS)),
        (data(outside, "203.0.113.8:2905", 100), (OUTSIDE, PODS)),
        (data("10.244.1.10:3905", &translated, 81), (PODS, OUTSIDE)),
    ];
    for (id, (packet, ports)) in (0..).zip(cases) {
        for order in ORDERS {
            let pieces = cut(&packet, id, 40);
            assert_eq!(pieces.len(), 3);
            same_as_whole(&mut lab, ports, &packet, &order.map(|n| pieces[n].clone()));
        }
    }
    let flows = [("flows_opened", 2), ("flows_live", 2), ("flows_half_open", 2)];
    lab.counters(&[&[("rx", 170), ("tx", 170)], &flows[..]].concat());
}

/// Without the last fragment, the first one waits in vain.
#[test]
fn sctp_without_its_last_fragment_is_not_sent() {
    let mut lab = Lab::new(&registry(&["10.244.1.10"]));
    let pieces = cut(&init(CLIENT, "10.96.0.80:2905", 1, 0, 7).chunk((0, 3), &bytes(100)), 1, 40);
    lab.send_all(PODS, pieces[..2].to_vec());
    lab.counters(&[("rx", 2), ("held", 2)]);
    lab.wait(Duration::from_millis(1001));
    lab.counters(&[("rx", 2), ("fragment_timeout", 2)]);
    // A port that is not the Service's: the ABORT comes once all is known.
    let pieces = cut(&init(CLIENT, "10.96.0.80:1", 1, 0, 7).chunk((0, 3), &bytes(60)), 2, 40);
    lab.send_all(PODS, pieces);
    lab.expect(PODS);
    lab.counters(&[("rx", 5), ("originated", 1), ("tx", 1), ("fragment_timeout", 2), ("reject_undefined_port", 3)]);
}

/// Frames whose wait ends find their datagrams displaced by one another, if there are more than a source may have. Each goes through
/// the pipeline once more and no oftener.
#[test]
fn more_datagrams_than_are_remembered_do_not_go_round() {
    for count in [33, 40, 64] {
        let mut lab = Lab::new(&registry(&["10.244.1.10"]));
        let packet = init(CLIENT, "10.96.0.80:2905", 1, 0, 7).chunk((0, 3), &bytes(60));
        let [firsts, lasts] = [0, 1].map(|at| (0..count).map(move |id| (id, at)));
        let piece = |(id, at): (u32, usize)| cut(&packet, id, 64)[at].clone();
        lab.send_all(PODS, firsts.clone().take(32).map(piece));
        lab.send_all(PODS, lasts.take(32).chain(firsts.skip(32).flat_map(|(id, _)| [(id, 1), (id, 0)])).map(piece));
        let sent = std::iter::from_fn(|| lab.pop(PODS)).count() as u64;
        lab.wait(Duration::from_millis(1001));
        let rx = u64::from(2 * count);
        lab.counters(&[&[("rx", rx), ("tx", sent), ("fragment_timeout", rx - sent)], &OPENED[..]].concat());
    }
}

/// RFC 792, RFC 4443 §4.2: owned addresses reply to echo requests of any length.
#[test]
fn echo_requests_in_fragments_are_replied_to_in_fragments() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    for order in ORDERS {
        let request = icmp("10.244.1.5", "10.96.0.60", ECHO_REQUEST, 0, [1, 2, 3, 4]).payload(bytes(100));
        let pieces = cut(&request, 77, 40);
        let mut receiver = Receiver::default();
        lab.send_all(PODS, order.map(|n| pieces[n].clone()));
        let seen = receiver.take(&mut lab, PODS);
        assert_eq!(seen[0].to_string(), "icmp 10.96.0.60 > 10.244.1.5 echo-reply ttl 64");
        assert_eq!(seen[0].payload, bytes(100));
        assert_eq!(receiver.ids, [77; 3]);
    }
    lab.counters(&[("rx", 18), ("tx", 18)]);
}

/// An error that quotes much may come in fragments too: RFC 5508 §4.2 holds for all of it.
#[test]
fn errors_in_fragments_reach_the_end_that_sent_the_packet() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let seen = lab.through(PODS, datagram(400), PODS);
    let error = about("10.244.1.10", &seen, ERRORS[1], 200);
    for order in ORDERS {
        let pieces = cut(&error, 5, 80);
        same_as_whole(&mut lab, (PODS, PODS), &error, &order.map(|n| pieces[n].clone()));
    }
    lab.counters(&[&[("rx", 43), ("tx", 43)], &OPENED[..]].concat());
}

/// A duplicate spoils nothing (RFC 8200 errata 4980). One that comes after the datagram was complete waits in vain.
#[test]
fn duplicates_are_dropped_alone() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let mut receiver = Receiver::default();
    for (id, order) in (0..).zip([[0, 0, 1, 1, 2], [1, 1, 0, 0, 2], [2, 0, 2, 0, 1], [2, 2, 1, 1, 0]]) {
        let pieces = cut(&datagram(100), id, 40);
        order.iter().for_each(|&n| lab.send(PODS, pieces[n].clone()));
        assert_eq!(receiver.take(&mut lab, PODS).len(), 1);
    }
    lab.counters(&[&[("rx", 20), ("tx", 12), ("fragment_duplicate", 7), ("held", 1)], &OPENED[..]].concat());
    lab.wait(Duration::from_millis(1001));
    let dropped = [("fragment_duplicate", 7), ("fragment_timeout", 1)];
    lab.counters(&[&[("rx", 20), ("tx", 12)], &dropped[..], &OPENED].concat());
}

/// RFC 5722 §4, RFC 8200 §4.5: the datagram is never complete, whatever follows.
#[test]
fn overlapping_fragments_spoil_their_datagram() {
    let packet = datagram(100);
    let whole = packet.datagram()[HEADER..].to_vec();
    let overlaps: [Piece; 7] = [
        // Within another one, across two, around one; one byte.
        piece(&packet, 1, 8, &whole[8..16], true),
        piece(&packet, 1, 32, &whole[32..64], true),
        piece(&packet, 1, 0, &whole[..48], true),
        piece(&packet, 1, 72, &whole[72..81], false),
        // The datagram would end twice, or earlier than what has come.
        piece(&packet, 1, 40, &whole[40..80], false),
        piece(&packet, 1, 16, &whole[16..24], false),
        // Another first one.
        piece(
            &udp("10.244.1.5:40001", VIP).payload(bytes(100)),
            1,
            0,
            &udp("10.244.1.5:40001", VIP).payload(bytes(100)).datagram()[HEADER..HEADER + 40],
            true,
        ),
    ];
    for overlap in overlaps {
        let mut lab = Lab::new(&echo(&["10.244.1.10"]));
        let pieces = cut(&packet, 1, 40);
        let mut receiver = Receiver::default();
        for piece in [&pieces[0], &pieces[1], &overlap, &pieces[2], &pieces[0], &overlap] {
            lab.send(PODS, piece.clone());
        }
        assert!(receiver.take(&mut lab, PODS).is_empty());
        lab.counters(&[&[("rx", 6), ("tx", 2), ("fragment_overlap", 4)], &OPENED[..]].concat());
        // A second later the identification may be used again.
        lab.wait(Duration::from_millis(1001));
        lab.send_all(PODS, pieces);
        assert_eq!(Receiver::default().take(&mut lab, PODS).len(), 1);
        lab.counters(&[&[("rx", 9), ("tx", 5), ("fragment_overlap", 4)], &OPENED[..]].concat());
    }
}

/// Overlaps among fragments that came before the first.
#[test]
fn overlaps_are_found_when_the_first_comes_last() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let packet = datagram(100);
    let whole = packet.datagram()[HEADER..].to_vec();
    let pieces = cut(&packet, 1, 40);
    let overlap = piece(&packet, 1, 72, &whole[72..88], true);
    lab.send_all(PODS, [pieces[1].clone(), overlap, pieces[2].clone(), pieces[0].clone()]);
    assert!(Receiver::default().take(&mut lab, PODS).is_empty());
    lab.counters(&[&[("rx", 4), ("tx", 2), ("fragment_overlap", 2)], &OPENED[..]].concat());
}

/// RFC 1858 §3, RFC 3128, RFC 7112: filters and translators need the whole header in the first fragment.
#[test]
fn first_fragments_without_the_whole_header_are_dropped() {
    let mut lab = Lab::new(&[web(&["10.244.1.10"]), echo(&["10.244.1.10"])].concat());
    let segment = tcp(CLIENT, "10.96.0.50:80").tcp_options(&[1, 1, 1, 0]).payload(bytes(80));
    let whole = segment.datagram()[HEADER..].to_vec();
    lab.send(PODS, piece(&segment, 1, 0, &whole[..8], true));
    lab.send(PODS, piece(&segment, 2, 0, &whole[..16], true));
    lab.send(PODS, piece(&segment, 3, 8, &whole[8..32], true));
    lab.send(PODS, piece(&segment, 4, 16, &whole[16..32], false));
    // Exactly the header is enough.
    lab.send(PODS, piece(&segment, 5, 0, &whole[..24], true));
    lab.send(PODS, piece(&segment, 5, 24, &whole[24..], false));
    assert_eq!(Receiver::default().take(&mut lab, PODS).len(), 1);
    let ping = icmp("10.244.1.5", "10.96.0.60", ECHO_REQUEST, 0, [0; 4]).payload(bytes(32));
    lab.send(PODS, piece(&ping, 6, 0, &[], true));
    lab.counters(&[&[("rx", 7), ("tx", 2), ("fragment_tiny", 5)], &OPENED[..]].concat());
}

/// RFC 791 §3.2, RFC 8200 §4.5: what cannot be a part of any packet.
#[test]
fn impossible_lengths_are_dropped() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let packet = datagram(100);
    // Not a multiple of eight; empty; one byte beyond the longest packet.
    lab.send(PODS, piece(&packet, 1, 0, &bytes(41), true));
    lab.send(PODS, piece(&packet, 1, 40, &[], false));
    let most = 65_535 - if IS_V6 { 0 } else { HEADER };
    let start = 65_512 - if IS_V6 { 0 } else { 24 };
    lab.send(PODS, piece(&packet, 1, start, &bytes(most - start + 1), false));
    lab.counters(&[("rx", 3), ("fragment_length", 3)]);
    lab.send(PODS, piece(&packet, 1, start, &bytes(most - start), false));
    lab.counters(&[("rx", 4), ("fragment_length", 3), ("held", 1)]);
    lab.wait(Duration::from_millis(1001));
    lab.counters(&[("rx", 4), ("fragment_length", 3), ("fragment_timeout", 1)]);
}

/// RFC 8200 §4.5 and RFC 791 §3.2 let a host give up; here it is after a second. No ICMP error is sent: that is for the host whose packet it is.
#[test]
fn what_waits_for_a_first_fragment_waits_for_a_second() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let pieces = cut(&datagram(100), 1, 40);
    lab.send_all(PODS, pieces[1..].to_vec());
    lab.counters(&[("rx", 2), ("held", 2)]);
    lab.wait(Duration::from_millis(1000));
    lab.counters(&[("rx", 2), ("held", 2)]);
    lab.wait(Duration::from_millis(1));
    lab.counters(&[("rx", 2), ("fragment_timeout", 2)]);
    // The first one, alone.
    lab.send(PODS, pieces[0].clone());
    lab.wait(Duration::from_millis(1001));
    lab.send(PODS, pieces[1].clone());
    lab.wait(Duration::from_millis(1001));
    assert!(Receiver::default().take(&mut lab, PODS).is_empty());
    lab.counters(&[&[("rx", 4), ("tx", 1), ("fragment_timeout", 3)], &OPENED[..]].concat());
}

/// A fragment to an unowned address may be part of a reply. If not, it is the kernel's, at once if the first says so.
#[test]
fn fragments_that_are_not_ours_are_left_to_the_kernel() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let pieces = cut(&udp(CLIENT, "192.0.2.1:7").payload(bytes(100)), 1, 40);
    lab.send_all(PODS, [pieces[1].clone(), pieces[0].clone(), pieces[2].clone()]);
    lab.counters(&[("rx", 3), ("not_owned", 3)]);
    lab.send(PODS, pieces[1].clone());
    lab.counters(&[("rx", 4), ("not_owned", 3), ("held", 1)]);
    lab.wait(Duration::from_millis(1001));
    lab.counters(&[("rx", 4), ("not_owned", 4)]);
    // To an address of the host, to a ClusterIP that no Service has, from an address that cannot be a source.
    let host = cut(&udp(CLIENT, "10.244.0.1:7").payload(bytes(100)), 1, 40);
    lab.send(PODS, host[1].clone());
    lab.send(PODS, cut(&udp(CLIENT, "10.96.9.9:7").payload(bytes(100)), 1, 40)[1].clone());
    lab.send(PODS, cut(&udp(&format!("{GATEWAY}:9"), VIP).payload(bytes(100)), 1, 40)[1].clone());
    lab.counters(&[("rx", 7), ("not_owned", 5), ("no_such_cluster_ip", 1), ("bad_source", 1)]);
}

/// The first fragment decides; the sender gets one reply (RFC 1812 §4.3.2.7: none about later fragments).
#[test]
fn fragments_of_a_refused_packet_are_dropped_for_its_reason() {
    let mut lab = Lab::new(&[web(&["10.244.1.10"]), echo(&[])].concat());
    for order in ORDERS {
        let pieces = cut(&datagram(100), 1, 40);
        lab.send_all(PODS, order.map(|n| pieces[n].clone()));
        assert_eq!(lab.expect(PODS).to_string(), "icmp 192.168.50.10 > 10.244.1.5 port-unreachable ttl 64");
        let pieces = cut(&tcp(CLIENT, "10.96.0.50:81").payload(bytes(90)), 1, 40);
        lab.send_all(PODS, order.map(|n| pieces[n].clone()));
        assert_eq!(lab.expect(PODS).to_string(), "tcp 10.96.0.50:81 > 10.244.1.5:40000 RA ttl 64");
    }
    let refused = [("reject_no_endpoints", 18), ("reject_undefined_port", 18)];
    lab.counters(&[&[("rx", 36), ("originated", 12), ("tx", 12)], &refused[..]].concat());
    // Another protocol; a query to the DNS address; at the last hop; another port of a load-balancer address.
    let mut lab = Lab::new(&[media(&["10.244.1.10"]), echo(&["10.244.1.10"])].concat());
    lab.send_all(PODS, cut(&super::support::builder::other("10.244.1.5", "10.96.0.60", 47), 1, 16));
    lab.send_all(PODS, cut(&udp(CLIENT, "10.96.0.10:53").payload(bytes(100)), 1, 40));
    lab.send_all(PODS, cut(&datagram(100).ttl(1), 1, 40));
    assert_eq!(lab.expect(PODS).to_string(), "icmp 192.168.50.10 > 10.244.1.5 time-exceeded ttl 64");
    lab.send_all(OUTSIDE, cut(&udp("192.168.50.100:40000", "203.0.113.9:1").payload(bytes(100)), 1, 40));
    let dropped = [("protocol", 2), ("dns_fragment", 3), ("ttl_expired", 3), ("undefined_port", 3)];
    lab.counters(&[&[("rx", 11), ("originated", 1), ("tx", 1)], &dropped[..]].concat());
}

/// Every fragment has its own number of hops (RFC 791 §3.2), and its own length.
#[test]
fn a_later_fragment_that_cannot_go_on_is_dropped_without_reply() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let pieces = cut(&datagram(2000), 1, 800);
    lab.send(PODS, pieces[0].clone());
    lab.send(PODS, pieces[1].clone().ttl(1));
    lab.network(|facts| facts.links[PODS].mtu = 400);
    lab.send(PODS, pieces[2].clone());
    assert!(Receiver::default().take(&mut lab, PODS).is_empty());
    lab.counters(&[&[("rx", 3), ("tx", 1), ("ttl_expired", 1), ("tx_too_long", 1)], &OPENED[..]].concat());
}

/// RFC 6864 §5.3: behind a translated source, identifications of two senders are those of one.
#[test]
fn datagrams_of_two_clients_with_one_identification_do_not_mix() {
    let mut lab = Lab::new(&media(&["10.244.1.10"]));
    let clients = ["192.168.50.100:40000", "192.168.50.101:40000"];
    let cuts = clients.map(|client| cut(&udp(client, "203.0.113.9:9").payload(client.repeat(10)), 7, 80));
    let mut receiver = Receiver::default();
    for n in 0..3 {
        cuts.iter().for_each(|pieces| lab.send(OUTSIDE, pieces[n].clone()));
    }
    let seen = receiver.take(&mut lab, PODS);
    let payloads: Vec<_> = seen.iter().map(|seen| seen.payload.clone()).collect();
    assert_eq!(payloads, clients.map(|client| client.repeat(10).into_bytes()), "each its own");
    assert!(seen.iter().all(|seen| seen.src().ip().to_string() == GATEWAY));
    // And back: two endpoints with one identification, to one client, who sees one address.
    let mut lab = Lab::new(&media(&["10.244.1.10", "10.244.1.11"]));
    let mut backends = std::collections::BTreeMap::new();
    for port in 40000..40020 {
        let there = lab.through(OUTSIDE, udp(&format!("192.168.50.100:{port}"), "203.0.113.9:9"), PODS);
        backends.insert(there.dst().to_string(), there.src().to_string());
    }
    assert_eq!(backends.len(), 2);
    let replies: Vec<_> =
        backends.iter().map(|(from, to)| cut(&udp(from, to).payload(from.repeat(10)), 9, 80)).collect();
    let mut receiver = Receiver::default();
    for n in 0..3 {
        replies.iter().for_each(|pieces| lab.send(PODS, pieces[n].clone()));
    }
    let seen = receiver.take(&mut lab, OUTSIDE);
    let payloads: Vec<_> = seen.iter().map(|seen| String::from_utf8_lossy(&seen.payload).into_owned()).collect();
    assert_eq!(payloads, backends.keys().map(|from| from.repeat(10)).collect::<Vec<_>>());
    lab.counters(&[("rx", 26), ("tx", 26), ("flows_opened", 20), ("flows_live", 20), ("flows_half_open", 20)]);
}

/// Where the source stays, its identifications are its own.
#[test]
fn identifications_stay_where_the_source_stays() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let mut receiver = Receiver::default();
    lab.send_all(PODS, cut(&datagram(100), 4711, 40));
    receiver.take(&mut lab, PODS);
    assert_eq!(receiver.ids, [4711; 3]);
    lab.counters(&[&[("rx", 3), ("tx", 3)], &OPENED[..]].concat());
}

/// Fragments meet wherever they arrive: every worker for every fragment, and the flow's owner any of three.
#[test]
fn fragments_find_each_other_and_the_flow_over_three_workers() {
    let mut lab = Lab::with(Setup { workers: 3, ..Setup::default() }, &media(&["10.244.1.10"]));
    let mut sent = 0;
    for n in 0..60u16 {
        let client = format!("192.168.50.{}:{}", 100 + n % 2, 40000 + n);
        let packet = udp(&client, "203.0.113.9:9").payload(bytes(120 + usize::from(n % 24)));
        let order = ORDERS[usize::from(n) % 6];
        let pieces = cut(&packet, n.into(), 56);
        let mut receiver = Receiver::default();
        for (step, at) in order.into_iter().enumerate() {
            lab.push((usize::from(n) / 6 + step * usize::from(n / 30)) % 3, OUTSIDE, pieces[at].clone());
            lab.run();
        }
        let seen = receiver.take(&mut lab, PODS);
        assert_eq!(seen.len(), 1, "{client} {order:?} {:?}", lab.totals());
        assert_eq!(seen[0].payload, bytes(120 + usize::from(n % 24)));
        let reply = udp(&seen[0].dst().to_string(), &seen[0].src().to_string()).payload(bytes(100));
        let pieces = cut(&reply, n.into(), 48);
        for (step, at) in order.into_iter().enumerate() {
            lab.push((usize::from(n) / 6 + step) % 3, PODS, pieces[at].clone());
            lab.run();
        }
        let seen = receiver.take(&mut lab, OUTSIDE);
        assert_eq!(seen[0].to_string(), format!("udp 203.0.113.9:9 > {client} ttl 63"));
        sent += 6;
    }
    let handed = lab.totals().handed_over;
    assert!(handed > sent && handed < 2 * sent, "{handed} of {sent}, some twice");
    let flows = [("flows_opened", 60), ("flows_live", 60), ("flows_half_open", lab.totals().flows_half_open)];
    lab.counters(&[&[("rx", sent), ("tx", sent), ("handed_over", handed), ("handed_in", handed)], &flows[..]].concat());
}

/// Two workers with different tables can each name the other: a fragment is handed over twice, and no more.
#[test]
fn a_fragment_is_not_handed_over_a_third_time() {
    let spec = "clusterIP: 10.96.0.80, externalIPs: [192.168.50.10], \
                ports: [{ port: 5001, protocol: UDP, targetPort: 7007 }]";
    let manifests = service("edge", spec) + &endpoints("edge", "UDP", 7007, &["10.244.1.10"]);
    let mut lab = Lab::with(Setup { workers: 2, ..Setup::default() }, &manifests);
    let pieces =
        |port: u16, id| cut(&udp(&format!("192.168.50.100:{port}"), "192.168.50.10:5001").payload(bytes(100)), id, 40);
    // From worker 0 to worker 1, where the source's fragments meet, and back to the flow's owner.
    let mut tries = 0;
    let (client, at) = loop {
        let (client, at) = (20_000 + tries / 2, usize::from(tries % 2));
        let before = lab.totals().handed_over;
        lab.push(at, OUTSIDE, pieces(client, tries.into())[0].clone());
        lab.run();
        lab.pop(PODS).expect("sent");
        tries += 1;
        // Without the Service the port's share decides: it is of worker 1.
        if lab.totals().handed_over == before + 2 && at == 0 {
            break (client, at);
        }
    };
    let totals = lab.totals();
    lab.push(at, OUTSIDE, pieces(client, 1000)[0].clone());
    lab.poll(at);
    lab.poll(1 - at);
    lab.delete(pollgate_control::objects::Kind::Service, "edge");
    lab.run();
    lab.push(1 - at, OUTSIDE, pieces(client, 1000)[1].clone());
    lab.run();
    let handed = totals.handed_over + 3;
    let flows = totals.flows_opened;
    let came = [("rx", u64::from(tries) + 2), ("tx", u64::from(tries)), ("handed_over_twice", 2)];
    let handed = [("handed_over", handed), ("handed_in", handed)];
    let flows = [("flows_opened", flows), ("flows_live", flows - 1), ("flows_half_open", flows - 1)];
    lab.counters(&[&came[..], &handed, &flows].concat());
}

/// At each of two workers the first fragment waits for the last.
#[test]
fn sctp_in_fragments_finds_the_flow_over_three_workers() {
    let mut lab = Lab::with(Setup { workers: 3, ..Setup::default() }, &registry(&["10.244.1.10"]));
    for n in 0..36u16 {
        let client = format!("10.244.1.5:{}", 40000 + n);
        lab.push(usize::from(n) % 3, PODS, init(&client, "10.96.0.80:2905", 1, 0, 7));
        lab.run();
        lab.expect(PODS);
        let packet = sctp(&client, "10.96.0.80:2905", 9).chunk((0, 3), &bytes(100));
        let pieces = cut(&packet, n.into(), 40);
        for (step, at) in ORDERS[usize::from(n) % 6].into_iter().enumerate() {
            lab.push((usize::from(n) / 6 + step) % 3, PODS, pieces[at].clone());
            lab.run();
        }
        let seen = Receiver::default().take(&mut lab, PODS);
        assert_eq!(seen.len(), 1, "{client}");
        assert_eq!(seen[0].dst().to_string(), "10.244.1.10:3905");
    }
    let handed = lab.totals().handed_over;
    let flows = [("flows_opened", 36), ("flows_live", 36), ("flows_half_open", 36)];
    lab.counters(&[&[("rx", 144), ("tx", 144), ("handed_over", handed), ("handed_in", handed)], &flows[..]].concat());
}

/// The share of held frames of one source is its own, and its oldest go.
#[test]
fn one_source_holds_no_more_than_its_share() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let pieces = cut(&udp("10.244.1.6:1", VIP).payload(bytes(100)), 1, 40);
    lab.send(PODS, pieces[1].clone());
    for id in 0..1000 {
        lab.send(PODS, cut(&datagram(100), id, 40)[2].clone());
    }
    lab.counters(&[("rx", 1001), ("held", 129), ("fragments_full", 1000 - 128)]);
    lab.send_all(PODS, [pieces[0].clone(), pieces[2].clone()]);
    assert_eq!(Receiver::default().take(&mut lab, PODS).len(), 1, "another source is served");
    lab.counters(&[&[("rx", 1003), ("tx", 3), ("held", 128), ("fragments_full", 872)], &OPENED[..]].concat());
    lab.wait(Duration::from_millis(1001));
    lab.counters(
        &[&[("rx", 1003), ("tx", 3), ("fragments_full", 872), ("fragment_timeout", 128)], &OPENED[..]].concat(),
    );
}

/// Forged fragments from any address, between all fragments of a client that sends them in any order.
#[test]
fn a_flood_of_fragments_without_first_one_keeps_no_client_out() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let mut forged = (0u32..).map(|n| {
        let source = format!("198.18.{}.{}:9", n / 250 % 250, n % 250);
        cut(&udp(&source, VIP).payload(bytes(60)), n, 40)[1].clone()
    });
    let (mut served, mut strangers) = (0, 0);
    for id in 0..100 {
        let pieces = cut(&datagram(100), id, 40);
        let mut receiver = Receiver::default();
        for n in ORDERS[usize::try_from(id).expect("small") % 6] {
            lab.send_all(PODS, forged.by_ref().take(100));
            strangers += 100;
            lab.send(PODS, pieces[n].clone());
        }
        served += receiver.take(&mut lab, PODS).len();
    }
    assert_eq!(served, 100);
    // The client's last two had their place among the 512.
    let came = [("rx", 300 + strangers), ("tx", 300), ("held", 510), ("fragments_full", strangers - 510)];
    lab.counters(&[&came[..], &OPENED].concat());
}

/// First fragments that are refused cost the sender nothing and are of no worth: they do not displace those of a served client.
#[test]
fn a_flood_of_refused_first_fragments_keeps_no_client_out() {
    let mut lab = Lab::new(&media(&["10.244.1.10"]));
    let pieces = cut(&udp("192.168.50.100:40000", "203.0.113.9:9").payload(bytes(100)), 1, 40);
    lab.send(OUTSIDE, pieces[0].clone());
    for n in 0..20_000u32 {
        let source = format!("198.18.{}.{}:9", n / 250, n % 250);
        lab.send(OUTSIDE, cut(&udp(&source, "203.0.113.9:1").payload(bytes(60)), n, 40)[0].clone());
    }
    lab.send_all(OUTSIDE, pieces[1..].to_vec());
    assert_eq!(Receiver::default().take(&mut lab, PODS).len(), 1);
    lab.counters(&[&[("rx", 20_003), ("tx", 3), ("undefined_port", 20_000)], &OPENED[..]].concat());
}

/// First fragments that are served, of one source: its oldest datagrams are given up, not those of another.
#[test]
fn a_source_with_many_unfinished_datagrams_gives_up_its_own() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let other = cut(&udp("10.244.1.6:1", VIP).payload(bytes(100)), 1, 40);
    lab.send(PODS, other[0].clone());
    for id in 0..5000 {
        lab.send(PODS, cut(&datagram(100), id, 40)[0].clone());
    }
    lab.send_all(PODS, other[1..].to_vec());
    // The newest 32 are remembered; of the others, what follows waits in vain.
    for id in [4999, 4968, 4967, 0] {
        lab.send_all(PODS, cut(&datagram(100), id, 40)[1..].to_vec());
    }
    assert_eq!(Receiver::default().take(&mut lab, PODS).len(), 3);
    let flows = [("flows_opened", 2), ("flows_live", 2), ("flows_half_open", 2)];
    lab.counters(&[&[("rx", 5011), ("tx", 5007), ("held", 4)], &flows[..]].concat());
}

/// More fragments than any sender makes.
#[test]
fn a_datagram_has_at_most_128_fragments() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let pieces = cut(&datagram(8 * 129 - 8), 1, 8);
    assert_eq!(pieces.len(), 129);
    lab.send_all(PODS, pieces);
    assert!(Receiver::default().take(&mut lab, PODS).is_empty());
    lab.send_all(PODS, cut(&datagram(8 * 128 - 8), 2, 8));
    assert_eq!(Receiver::default().take(&mut lab, PODS).len(), 1);
    lab.counters(&[&[("rx", 257), ("tx", 256), ("fragments_too_many", 1)], &OPENED[..]].concat());
}

/// RFC 6946 §4: an IPv6 packet in one piece that has a fragment header is processed alone. IPv4 has no such packet.
#[test]
fn a_packet_in_one_piece_is_never_mixed_with_fragments() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    let packet = datagram(100);
    let pieces = cut(&packet, 1, 40);
    let whole = packet.datagram()[HEADER..].to_vec();
    lab.send_all(PODS, [pieces[0].clone(), piece(&packet, 1, 0, &whole, false), pieces[2].clone(), pieces[1].clone()]);
    let mut receiver = Receiver::default();
    let frames: Vec<Packet> = std::iter::from_fn(|| lab.pop(PODS)).collect();
    assert_eq!(frames.iter().filter_map(|frame| receiver.add(frame)).count(), 1);
    assert_eq!(frames[1].bytes.len(), 14 + HEADER + whole.len() + if IS_V6 { 8 } else { 0 });
    lab.counters(&[&[("rx", 4), ("tx", 4)], &OPENED[..]].concat());
}

/// A fragment as a receiver sees it: identification, start, end, whether it is the last.
fn seen(frame: &Packet) -> (u32, usize, usize, bool) {
    let packet = &frame.bytes[14..];
    let two = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let len = usize::from(two(if IS_V6 { 4 } else { 2 }));
    let (id, start, more, data) = match IS_V6 {
        true => {
            (u32::from_be_bytes([packet[44], packet[45], packet[46], packet[47]]), two(42) & !7, two(42) & 1, len - 8)
        }
        false => (two(4).into(), (two(6) & 0x1fff) * 8, two(6) >> 13 & 1, len - HEADER),
    };
    (id, start.into(), usize::from(start) + data, more == 0)
}

/// Fragments as `program` has it, four bytes each: few identifications, at any of two workers, in any place of a datagram. Every frame is
/// counted, and no receiver ever gets two that overlap.
fn fuzz(program: &[u8]) {
    let mut lab = Lab::with(Setup { workers: 2, ..Setup::default() }, &echo(&["10.244.1.10"]));
    let mut received: std::collections::BTreeMap<u32, Vec<(usize, usize, bool)>> = std::collections::BTreeMap::new();
    for step in program.chunks_exact(4) {
        let [who, place, len, more] = [step[0], step[1], step[2], step[3]].map(usize::from);
        if who > 250 {
            lab.wait(Duration::from_millis(1001));
            received.clear();
            continue;
        }
        let packet = udp(if more & 2 == 0 { CLIENT } else { "10.244.1.5:40001" }, VIP).payload(bytes(200));
        let (start, more) = (place % 12 * 8, more & 1 == 0);
        let end = start + if more { (1 + len % 5) * 8 } else { 1 + len % 40 };
        let data = &packet.datagram()[HEADER..][start..end];
        lab.push(who / 4 % 2, PODS, piece(&packet, u32::try_from(who % 4).expect("small"), start, data, more));
        lab.run();
        lab.balance();
        while let Some(frame) = lab.pop(PODS) {
            let (id, start, end, is_last) = seen(&frame);
            let parts = received.entry(id).or_default();
            assert!(parts.iter().all(|part| end <= part.0 || part.1 <= start), "{id}: {start}..{end} of {parts:?}");
            parts.push((start, end, is_last));
            let all: usize = parts.iter().map(|part| part.1 - part.0).sum();
            if parts.iter().any(|part| part.2 && part.1 == all) {
                received.remove(&id);
            }
        }
    }
    lab.wait(Duration::from_millis(1001));
    lab.balance();
    assert_eq!(lab.totals().held, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_fragments_make_it_panic_lose_count_or_send_overlaps(program in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz(&program);
    }

    /// Any datagram, cut anywhere, in any order, some fragments twice, comes out as the whole packet does.
    #[test]
    fn what_is_put_together_is_the_translation_of_the_whole(
        len in 100usize..3000, size in 3usize..60, transport in 0..3, seed in any::<u64>(), id in any::<u32>(),
        twice in proptest::collection::vec(any::<usize>(), 0..3),
    ) {
        let packet = match transport {
            0 => tcp(CLIENT, "10.96.0.50:80").payload(bytes(len)),
            1 => datagram(len),
            _ => init(CLIENT, "10.96.0.80:2905", 1, 0, 7).chunk((0, 3), &bytes(len)),
        };
        let pieces = cut(&packet, id, size * 8);
        prop_assume!(pieces.len() > 1 && pieces.len() <= 128);
        put_together(packet, pieces, id, seed, &twice);
    }
}

/// Datagrams that the property above has failed with.
#[test]
fn what_was_once_put_together_wrong_is_put_together_right() {
    for (len, size, seed, twice) in
        [(1473, 3, 0, &[][..]), (201, 5, 273_000_576_010_046_556, &[0]), (141, 7, 1_470_933_279_718_524_735, &[0])]
    {
        let packet = datagram(len);
        let pieces = cut(&packet, 0, size * 8);
        put_together(packet, pieces, 0, seed, twice);
    }
}

/// Sends the fragments in the order that `seed` gives, those whose numbers are `twice` two times, and verifies that what comes out is
/// what the whole packet becomes.
fn put_together(packet: Ip, mut pieces: Vec<Piece>, id: u32, seed: u64, twice: &[usize]) {
    let mut lab = Lab::new(&[web(&["10.244.1.10"]), echo(&["10.244.1.10"]), registry(&["10.244.1.10"])].concat());
    let count = pieces.len();
    let last = usize::try_from(seed % count as u64).expect("small");
    let end = pieces.swap_remove(last);
    // What comes when all has come belongs to another datagram.
    let copies: Vec<Piece> = twice.iter().map(|number| pieces[number % pieces.len()].clone()).collect();
    pieces.extend(copies);
    let mut random = seed;
    for at in (1..pieces.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        pieces.swap(at, usize::try_from(random >> 33).expect("small") % (at + 1));
    }
    lab.network(|facts| facts.links[PODS].mtu = 9000);
    let whole = lab.through(PODS, packet, PODS);
    let mut receiver = Receiver::default();
    lab.send_all(PODS, pieces);
    lab.send(PODS, end);
    let seen = receiver.take(&mut lab, PODS);
    assert_eq!(seen.len(), 1);
    assert_eq!(data(&seen[0]), data(&whole));
    let kept = if IS_V6 { id } else { id & 0xffff };
    assert_eq!(receiver.ids, vec![kept; count]);
    lab.balance();
}

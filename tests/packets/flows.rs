//! The life of a flow: opening, closing, running out of time or room.

use std::time::Duration;

use super::support::builder::{Ip, tcp, udp};
use super::support::lab::{Lab, PODS};
use super::support::objects::{echo, endpoints, web};

const SERVER: &str = "10.244.1.10:8080";

fn both() -> String {
    web(&["10.244.1.10"]) + &echo(&["10.244.1.10"])
}

fn client(port: u16) -> String {
    format!("10.244.1.5:{port}")
}

fn there(port: u16, flags: &str) -> Ip {
    tcp(&client(port), "10.96.0.50:80").flags(flags)
}

fn back(port: u16, flags: &str) -> Ip {
    tcp(SERVER, &client(port)).flags(flags)
}

fn shake_hands(lab: &mut Lab, port: u16) {
    lab.through(PODS, there(port, "S"), PODS);
    lab.through(PODS, back(port, "SA"), PODS);
    lab.through(PODS, there(port, "A"), PODS);
}

fn exchange(lab: &mut Lab, port: u16) {
    lab.through(PODS, udp(&client(port), "10.96.0.60:7"), PODS);
    lab.through(PODS, udp("10.244.1.10:7007", &client(port)), PODS);
    lab.through(PODS, udp(&client(port), "10.96.0.60:7"), PODS);
}

/// A name; what makes the flow; its time-out in seconds; a reply that only a live flow translates.
type Case = (&'static str, fn(&mut Lab), u64, fn() -> Ip);

#[test]
fn each_state_has_its_time_and_no_packet_revives_what_is_over() {
    let cases: [Case; 8] = [
        (
            "one datagram",
            |lab| drop(lab.through(PODS, udp(&client(1), "10.96.0.60:7"), PODS)),
            30,
            || udp("10.244.1.10:7007", &client(1)),
        ),
        (
            "a datagram and its reply",
            |lab| {
                lab.through(PODS, udp(&client(1), "10.96.0.60:7"), PODS);
                lab.through(PODS, udp("10.244.1.10:7007", &client(1)), PODS);
            },
            30,
            || udp("10.244.1.10:7007", &client(1)),
        ),
        ("datagrams after a reply", |lab| exchange(lab, 1), 180, || udp("10.244.1.10:7007", &client(1))),
        ("a SYN", |lab| drop(lab.through(PODS, there(1, "S"), PODS)), 60, || back(1, "SA")),
        (
            "a SYN and its reply",
            |lab| {
                lab.through(PODS, there(1, "S"), PODS);
                lab.through(PODS, back(1, "SA"), PODS);
            },
            60,
            || back(1, "SA"),
        ),
        ("a connection", |lab| shake_hands(lab, 1), 86_400, || back(1, "A")),
        (
            "a reset connection",
            |lab| {
                shake_hands(lab, 1);
                lab.through(PODS, back(1, "R"), PODS);
            },
            60,
            || back(1, "A"),
        ),
        (
            "a finished connection",
            |lab| {
                shake_hands(lab, 1);
                lab.through(PODS, there(1, "FA"), PODS);
                lab.through(PODS, back(1, "FA"), PODS);
            },
            60,
            || back(1, "A"),
        ),
    ];
    for (what, open, seconds, reply) in cases {
        let mut lab = Lab::new(&both());
        open(&mut lab);
        lab.jump(Duration::from_secs(seconds));
        lab.through(PODS, reply(), PODS);
        assert_eq!((lab.totals().flows_live, lab.totals().flows_expired), (1, 0), "{what}: within its time");
        let mut lab = Lab::new(&both());
        open(&mut lab);
        let before = lab.totals();
        // Time has a grain of 1.07 s, and is never short.
        lab.jump(Duration::from_secs(seconds + 3));
        lab.send(PODS, reply());
        let over = [("flows_opened", 1), ("flows_expired", 1), ("not_owned", 1)];
        lab.counters(&[&[("rx", before.rx + 1), ("tx", before.tx)], &over[..]].concat());
    }
}

#[test]
fn the_sweeper_needs_no_packet() {
    let mut lab = Lab::new(&both());
    (1..=100).for_each(|port| drop(lab.through(PODS, udp(&client(port), "10.96.0.60:7"), PODS)));
    lab.wait(Duration::from_secs(33));
    lab.counters(&[("rx", 100), ("tx", 100), ("flows_opened", 100), ("flows_expired", 100)]);
}

#[test]
fn half_a_close_is_no_close_and_the_last_segments_still_pass() {
    let mut lab = Lab::new(&both());
    shake_hands(&mut lab, 1);
    lab.through(PODS, there(1, "FA"), PODS);
    lab.jump(Duration::from_secs(3600));
    lab.through(PODS, back(1, "PA"), PODS);
    lab.through(PODS, back(1, "FA"), PODS);
    let last = lab.through(PODS, there(1, "A"), PODS);
    assert_eq!(last.to_string(), "tcp 10.244.1.5:1 > 10.244.1.10:8080 A ttl 63");
    lab.counters(&[("rx", 7), ("tx", 7), ("flows_opened", 1), ("flows_live", 1)]);
}

#[test]
fn a_syn_on_a_closed_flow_gets_a_fresh_choice() {
    for close in [["FA", "FA"], ["A", "R"]] {
        let mut lab = Lab::new(&web(&["10.244.1.10"]));
        shake_hands(&mut lab, 1);
        lab.apply(&endpoints("web", "TCP", 8080, &["10.244.1.11"]));
        // Established: stays.
        assert_eq!(lab.through(PODS, there(1, "S"), PODS).dst().to_string(), SERVER);
        lab.through(PODS, there(1, close[0]), PODS);
        lab.through(PODS, back(1, close[1]), PODS);
        assert_eq!(lab.through(PODS, there(1, "S"), PODS).dst().to_string(), "10.244.1.11:8080");
        lab.counters(&[("rx", 7), ("tx", 7), ("flows_opened", 2), ("flows_live", 1), ("flows_half_open", 1)]);
    }
}

#[test]
fn a_full_table_gives_up_half_open_flows_then_datagrams_and_never_connections() {
    let mut lab = Lab::configured("flows: {max: 3}\n", &both());
    shake_hands(&mut lab, 1);
    exchange(&mut lab, 2);
    lab.through(PODS, there(3, "S"), PODS);
    // The half-open one goes, then the datagrams.
    shake_hands(&mut lab, 4);
    let flows = [("flows_opened", 4), ("flows_live", 3), ("flows_evicted", 1)];
    lab.counters(&[&[("rx", 10), ("tx", 10)], &flows[..]].concat());
    lab.through(PODS, udp("10.244.1.10:7007", &client(2)), PODS);
    shake_hands(&mut lab, 5);
    // Three connections: nothing to give up.
    lab.send(PODS, there(6, "S"));
    lab.send(PODS, udp(&client(7), "10.96.0.60:7"));
    for port in [1, 4, 5] {
        lab.through(PODS, back(port, "A"), PODS);
    }
    let flows = [("flows_opened", 5), ("flows_live", 3), ("flows_evicted", 2), ("flow_table_full", 2)];
    lab.counters(&[&[("rx", 19), ("tx", 17)], &flows[..]].concat());
}

#[test]
fn beyond_the_bound_the_oldest_unconfirmed_flow_makes_room_and_no_other() {
    let mut lab = Lab::configured("flows: {max: 40, unconfirmedPercent: 10}\n", &both());
    shake_hands(&mut lab, 1);
    (2..=7).for_each(|port| drop(lab.through(PODS, there(port, "S"), PODS)));
    // Of six, the first two are gone.
    for port in 2..=3 {
        lab.send(PODS, back(port, "SA"));
    }
    for port in 4..=7 {
        lab.through(PODS, back(port, "SA"), PODS);
        lab.through(PODS, there(port, "A"), PODS);
    }
    let flows = [("flows_opened", 7), ("flows_live", 5), ("flows_displaced", 2), ("not_owned", 2)];
    lab.counters(&[&[("rx", 19), ("tx", 17)], &flows[..]].concat());
}

#[test]
fn an_acknowledgement_of_something_else_confirms_nothing() {
    let mut lab = Lab::new(&both());
    lab.through(PODS, there(1, "S").numbers(5_000_000, 0), PODS);
    lab.through(PODS, back(1, "SA").numbers(7_000_000, 5_000_001), PODS);
    // It goes on to the backend, which knows better (RFC 9293 §3.10.7.4), and whose RST comes back.
    lab.through(PODS, there(1, "A").numbers(5_000_001, 1), PODS);
    let flows = [("flows_opened", 1), ("flows_live", 1)];
    lab.counters(&[&[("rx", 3), ("tx", 3), ("flows_half_open", 1)], &flows[..]].concat());
    lab.through(PODS, there(1, "A").numbers(5_000_001, 7_000_001), PODS);
    lab.counters(&[&[("rx", 4), ("tx", 4)], &flows[..]].concat());
}

#[test]
fn a_blind_reset_or_fin_is_sent_on_and_the_connection_lives_on() {
    let mut lab = Lab::new(&both());
    lab.through(PODS, there(1, "S").numbers(5_000_000, 0), PODS);
    lab.through(PODS, back(1, "SA").numbers(7_000_000, 5_000_001), PODS);
    lab.through(PODS, there(1, "A").numbers(5_000_001, 7_000_001), PODS);
    for flags in ["R", "RA", "FA"] {
        // Its receiver knows the numbers exactly, and ignores it or sends a challenge (RFC 5961 §3).
        lab.through(PODS, there(1, flags).numbers(0x9000_0000, 7_000_001), PODS);
        lab.through(PODS, back(1, flags).numbers(0x9000_0000, 5_000_001), PODS);
    }
    lab.jump(Duration::from_secs(3600));
    lab.through(PODS, back(1, "PA").numbers(7_000_001, 5_000_001), PODS);
    let flows = [("flows_opened", 1), ("flows_live", 1)];
    lab.counters(&[&[("rx", 10), ("tx", 10), ("tcp_out_of_window", 6)], &flows[..]].concat());
    // The real one ends it.
    lab.through(PODS, there(1, "R").numbers(5_000_001, 0), PODS);
    lab.wait(Duration::from_secs(63));
    lab.counters(&[("rx", 11), ("tx", 11), ("tcp_out_of_window", 6), ("flows_opened", 1), ("flows_expired", 1)]);
}

#[test]
fn numbers_may_wrap_and_a_connection_that_moves_gigabytes_is_followed() {
    let mut lab = Lab::new(&both());
    let (mut seq, mut ack) = (u32::MAX - 10, 0x7fff_ff00u32);
    lab.through(PODS, there(1, "S").numbers(seq, 0), PODS);
    lab.through(PODS, back(1, "SA").numbers(ack, seq.wrapping_add(1)), PODS);
    (seq, ack) = (seq.wrapping_add(1), ack.wrapping_add(1));
    lab.through(PODS, there(1, "A").numbers(seq, ack), PODS);
    // Once round and on, in steps of what a window without scaling holds.
    for _ in 0..(5 << 30) / 65_000u64 {
        lab.send(PODS, back(1, "A").numbers(ack, seq));
        ack = ack.wrapping_add(65_000);
        lab.send(PODS, there(1, "A").numbers(seq, ack));
        lab.take(PODS);
    }
    lab.through(PODS, back(1, "R").numbers(ack.wrapping_sub(1 << 30), seq), PODS);
    assert_eq!(lab.totals().tcp_out_of_window, 1, "a blind one");
    lab.through(PODS, back(1, "R").numbers(ack, seq), PODS);
    assert_eq!(lab.totals().tcp_out_of_window, 1);
}

/// The connection of client 1, shaken hands, from these numbers on.
fn connected(lab: &mut Lab, client: u32, backend: u32) {
    lab.through(PODS, there(1, "S").numbers(client, 0), PODS);
    lab.through(PODS, back(1, "SA").numbers(backend, client + 1), PODS);
    lab.through(PODS, there(1, "A").numbers(client + 1, backend + 1), PODS);
}

#[test]
fn a_blind_reset_that_fits_by_chance_ends_nothing_if_both_sides_go_on() {
    let mut lab = Lab::new(&both());
    connected(&mut lab, 5_000_000, 7_000_000);
    lab.through(PODS, there(1, "R").numbers(5_000_900, 0), PODS);
    // A blind SYN on top of it does not open another flow.
    lab.through(PODS, there(1, "S").numbers(1, 0), PODS);
    lab.through(PODS, back(1, "A").numbers(7_000_001, 5_000_001), PODS);
    lab.through(PODS, there(1, "PA").numbers(5_000_001, 7_000_001), PODS);
    lab.jump(Duration::from_secs(3600));
    lab.through(PODS, back(1, "PA").numbers(7_000_001, 5_000_001), PODS);
    lab.counters(&[("rx", 8), ("tx", 8), ("flows_opened", 1), ("flows_live", 1)]);
}

#[test]
fn a_client_that_lost_its_connection_connects_again_from_the_same_port() {
    let mut lab = Lab::new(&both());
    connected(&mut lab, 5_000_000, 7_000_000);
    // The backend has lost it as well, and accepts: the numbers of the new connection count from here on.
    connected(&mut lab, 3_000_000_000, 2_000_000_000);
    lab.through(PODS, there(1, "R").numbers(5_000_001, 0), PODS);
    assert_eq!(lab.totals().tcp_out_of_window, 1, "a late one of the first connection");
    lab.through(PODS, there(1, "FA").numbers(3_000_000_001, 2_000_000_001), PODS);
    lab.through(PODS, back(1, "FA").numbers(2_000_000_001, 3_000_000_002), PODS);
    lab.wait(Duration::from_secs(63));
    lab.counters(&[("rx", 9), ("tx", 9), ("tcp_out_of_window", 1), ("flows_opened", 1), ("flows_expired", 1)]);
}

#[test]
fn a_client_that_connects_again_from_the_same_port_does_not_wait_for_a_dead_endpoint() {
    let mut lab = Lab::new(&both());
    connected(&mut lab, 5_000_000, 7_000_000);
    lab.through(PODS, there(2, "S"), PODS);
    // The Pod dies without a word, and another takes its place.
    lab.apply(&endpoints("web", "TCP", 8080, &["10.244.1.11"]));
    let again =
        |lab: &mut Lab, port: u16| lab.through(PODS, there(port, "S").numbers(9_000_000, 0), PODS).dst().to_string();
    assert_eq!(again(&mut lab, 2), "10.244.1.11:8080", "it was never connected");
    assert_eq!(again(&mut lab, 1), SERVER, "it may still be there");
    lab.wait(Duration::from_secs(5));
    assert_eq!(again(&mut lab, 1), SERVER, "the first of this time");
    assert_eq!(again(&mut lab, 1), "10.244.1.11:8080");
    lab.counters(&[("rx", 8), ("tx", 8), ("flows_opened", 4), ("flows_live", 2), ("flows_half_open", 2)]);
}

#[test]
fn a_blind_reset_and_a_blind_fin_together_end_nothing_either() {
    let mut lab = Lab::new(&both());
    connected(&mut lab, 5_000_000, 7_000_000);
    for flags in ["FA", "R", "FA"] {
        // They fit by chance, but for the acknowledgement of the FIN.
        lab.through(PODS, there(1, flags).numbers(5_000_900, 0x9000_0000), PODS);
    }
    lab.through(PODS, back(1, "A").numbers(7_000_001, 5_000_001), PODS);
    lab.through(PODS, there(1, "PA").numbers(5_000_001, 7_000_001), PODS);
    lab.jump(Duration::from_secs(3600));
    lab.through(PODS, back(1, "PA").numbers(7_000_001, 5_000_001), PODS);
    lab.counters(&[("rx", 9), ("tx", 9), ("tcp_out_of_window", 2), ("flows_opened", 1), ("flows_live", 1)]);
}

#[test]
fn after_a_reset_the_same_port_connects_to_the_same_backend_while_it_serves() {
    let mut lab = Lab::new(&both());
    connected(&mut lab, 5_000_000, 7_000_000);
    lab.through(PODS, there(1, "R").numbers(5_000_001, 0), PODS);
    connected(&mut lab, 6_000_000, 8_000_000);
    lab.counters(&[("rx", 7), ("tx", 7), ("flows_opened", 1), ("flows_live", 1)]);
}

//! `pollgate run --check` on hosts that are as they should be, and on others.

use pollgate::config::{Config, Purpose};
use pollgate::host::Machine;
use pollgate::lab::{Namespace, Veth};
use std::net::TcpListener;

use pollgate::preflight;

use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;

tests! {
    [Lab] =>
        a_veth_is_polled_by_packet_whatever_it_could_do,
        xdp_on_a_veth_is_taken_or_refused_with_the_reason,
        everything_that_run_refuses_is_told_at_once_and_nothing_is_changed;
}

fn configuration(backend: &str, more: &str) -> Config {
    let text = format!("interfaces: [{{ name: eth0, backend: {backend} }}]\naddresses: 10.0.0.10\n{more}");
    Config::parse("gateway.yaml", &text, Purpose::Run).expect("a valid configuration")
}

fn site(queues: u32) -> Namespace {
    let gateway = Namespace::new("gateway").expect("a namespace");
    Veth::new((&gateway, "eth0"), (&gateway, "peer")).queues(queues).make().expect("a veth pair");
    gateway.add_address("eth0", "10.0.0.1/24".parse().expect("an address")).expect("the address");
    gateway
}

/// What is printed, and the faults, if there are any.
fn check(gateway: &Namespace, config: &Config) -> (String, Option<String>) {
    let mut told = Vec::new();
    let failure = gateway.run(|| preflight::run(config, &mut told)).err();
    (String::from_utf8(told).expect("text"), failure.map(|failure| failure.to_string()))
}

fn a_veth_is_polled_by_packet_whatever_it_could_do() {
    let (told, failure) = check(&site(1), &configuration("auto", "workers: { count: 1 }"));
    assert_eq!(failure, None);
    assert!(told.contains("\n    polled by packet, "), "{told}");
    assert!(told.starts_with("eth0: veth, 10 Gb/s, MTU 1500, 1 of 1 receive queues\n"), "{told}");
}

fn xdp_on_a_veth_is_taken_or_refused_with_the_reason() {
    let config = configuration("xdp", "workers: { count: 2 }");
    let (told, failure) = check(&site(2), &config);
    if let Err(why) = Machine::ask(0).bpf {
        let fault = format!("it would not run:\neth0: backend: xdp: {why}, or use backend: packet");
        return assert_eq!(failure, Some(fault), "{told}");
    }
    assert_eq!(failure, None);
    assert!(told.contains("\n    polled by xdp, ") && !told.contains("zero copy"), "{told}");
    let (told, failure) = check(&site(1), &config);
    let failure = failure.expect("a fault");
    let start = "it would not run:\neth0: backend: xdp: AF_XDP needs a receive queue for every worker";
    assert!(failure.starts_with(start) && failure.lines().count() == 2, "{failure}");
    assert!(told.contains("    not polled: see the error\n"), "{told}");
}

fn everything_that_run_refuses_is_told_at_once_and_nothing_is_changed() {
    let gateway = site(1);
    let key = "net.ipv4.conf.eth0.forwarding";
    gateway.sysctl(key, "1").expect("set");
    // An address that is not the host's.
    let mut config = configuration("auto", "metrics: { listen: 192.0.2.1:9090 }\napi: { listen: 127.0.0.1:6443 }");
    let taken = gateway.run(|| TcpListener::bind("127.0.0.1:6443")).expect("a listener");
    config.addresses.push("10.0.0.1".parse().expect("an address"));
    let (told, failure) = check(&gateway, &config);
    let failure = failure.expect("faults");
    let starts = [
        "it would not run:",
        "api.listen: cannot listen on 127.0.0.1:6443: ",
        "metrics.listen: cannot listen on 192.0.2.1:9090: ",
        "the kernel has 10.0.0.1 on eth0",
        key,
    ];
    assert_eq!(failure.lines().count(), starts.len(), "{failure}");
    for (line, start) in failure.lines().zip(starts) {
        assert!(line.starts_with(start), "{line:?} should start with {start:?}");
    }
    assert!(!told.contains("It would run."));
    drop(taken);

    let (told, failure) = check(&gateway, &configuration("auto", "host: { disableForwarding: true }"));
    assert_eq!(failure, None);
    assert!(told.contains(&format!("at start: sets {key}=0")) && told.ends_with("\nIt would run.\n"), "{told}");
    assert_eq!(gateway.read_sysctl(key).expect("a value"), "1", "checking changes nothing");
}

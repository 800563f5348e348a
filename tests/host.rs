//! What the kernel says of an interface and of the host, and what is refused or changed because of it.

use std::net::IpAddr;

use pollgate::config::Backend;
use pollgate::host::{
    Changed, Feature, HostFault, Machine, Needs, Nic, OffloadSwitch, Queues, check, look, receive_queues, unrouted,
};
use pollgate::lab::{Namespace, Veth};

use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;

tests! {
    [Lab] =>
        the_interface_of_the_namespace_is_asked_not_one_of_the_same_name,
        a_veth_says_what_it_is,
        features_follow_their_switches,
        a_veth_runs_programs_itself_and_copies,
        a_host_that_is_as_it_should_be_is_left_alone,
        all_faults_are_told_with_what_to_do,
        an_ipv6_address_needs_a_route_that_keeps_the_kernel_silent,
        forwarding_is_switched_off_where_that_is_allowed_and_nothing_else_is_wrong;
}

fn polled<'a>(names: &[&'a str]) -> Vec<(&'a str, Backend)> {
    names.iter().map(|name| (*name, Backend::Auto)).collect()
}

fn the_interface_of_the_namespace_is_asked_not_one_of_the_same_name() {
    let lab = Namespace::new("lab").expect("a namespace");
    // The machine's own lo and eth0 may well be in /sys.
    Veth::new((&lab, "eth0"), (&lab, "peer")).queues(2).mtu(9000).make().expect("a veth pair");
    lab.sysctl("net.ipv4.conf.eth0.rp_filter", "1").expect("set");
    let nic = lab.run(|| Nic::ask("eth0")).expect("an interface");
    assert_eq!((nic.driver.as_str(), nic.mtu, nic.receive_queues()), ("veth", 9000, 2));
    assert!(nic.has_link && nic.has("tx-tcp-segmentation") && !nic.has("rx-lro"));
    assert_eq!((nic.rings, nic.indirection, nic.node), (None, 0, None));
    assert_eq!((nic.interrupts, nic.receive_cpus), (Vec::new(), Vec::new()));
    assert_eq!(nic.reverse_path_filter, 1);
    assert_eq!(lab.run(|| receive_queues("eth0")), 2);
    assert_eq!(lab.run(|| receive_queues("nosuch0")), 1);
    let missing = lab.run(|| Nic::ask("nosuch0")).expect_err("no such interface");
    assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
}

fn a_veth_says_what_it_is() {
    let lab = Namespace::new("lab").expect("a namespace");
    Veth::new((&lab, "left"), (&lab, "right")).queues(3).mtu(1400).make().expect("a veth pair");
    let nic = lab.run(|| Nic::ask("left")).expect("an interface");
    assert_eq!(nic.driver, "veth");
    assert_eq!(nic.queues, Some(Queues { now: 3, max: 3, are_combined: false }));
    assert_eq!(nic.mtu, 1400);
    assert_eq!(nic.speed, Some(10_000), "what veth calls itself");
    assert_eq!(nic.rings, None, "veth has no rings");
    assert_eq!(nic.indirection, 0);
    assert!(nic.has_link);
}

fn features_follow_their_switches() {
    let lab = Namespace::new("lab").expect("a namespace");
    Veth::new((&lab, "left"), (&lab, "right")).make().expect("a veth pair");
    let find = |name: &str| {
        let nic = lab.run(|| Nic::ask("left")).expect("an interface");
        nic.features.into_iter().find(|feature| feature.name == name).expect("the feature")
    };
    for on in [true, false] {
        lab.offload("left", OffloadSwitch::Tso, on).expect("set");
        assert_eq!(lab.has_offload("left", OffloadSwitch::Tso).expect("read"), on);
        let told = Feature { name: "tx-tcp-segmentation".into(), is_on: on, can_change: true };
        assert_eq!(find("tx-tcp-segmentation"), told);
    }
    let fixed = find("rx-lro");
    assert!(!fixed.is_on && !fixed.can_change, "veth has no LRO");
}

fn a_veth_runs_programs_itself_and_copies() {
    let lab = Namespace::new("lab").expect("a namespace");
    Veth::new((&lab, "left"), (&lab, "right")).make().expect("a veth pair");
    let told = lab.run(|| Nic::ask("left")).expect("an interface").xdp;
    if Machine::ask(0).kernel >= (6, 3) {
        let features = told.expect("this kernel tells");
        assert!(features.is_native() && !features.has_zero_copy(), "{features:?}");
    } else {
        assert_eq!(told, None);
    }
}

fn site() -> Namespace {
    let gateway = Namespace::new("gateway").expect("a namespace");
    Veth::new((&gateway, "eth0"), (&gateway, "eth1")).make().expect("a veth pair");
    gateway.add_address("eth0", "10.0.0.1/24".parse().expect("an address")).expect("the address");
    gateway
}

fn check_in(gateway: &Namespace, needs: &Needs<'_>) -> Result<Vec<Changed>, Vec<HostFault>> {
    gateway.run(|| check(needs, 1))
}

fn a_host_that_is_as_it_should_be_is_left_alone() {
    let owned = vec![IpAddr::from([10, 0, 0, 10])];
    let needs = Needs { interfaces: polled(&["eth0", "eth1"]), owned, disable_forwarding: true };
    assert_eq!(check_in(&site(), &needs), Ok(Vec::new()));
}

fn all_faults_are_told_with_what_to_do() {
    let gateway = site();
    gateway.down("eth1").expect("down");
    gateway.sysctl("net.ipv4.conf.eth0.forwarding", "1").expect("set");
    let owned = vec![IpAddr::from([10, 0, 0, 1])];
    let needs = Needs { interfaces: polled(&["eth0", "eth1", "eth2", "lo"]), owned, disable_forwarding: false };
    let faults = check_in(&gateway, &needs).expect_err("faults");
    let told: Vec<String> = faults.iter().map(HostFault::to_string).collect();
    let starts = [
        "the interface eth1 is down: ip link set eth1 up",
        "the interface eth2 does not exist; the host has lo, eth1, eth0:",
        "the interface lo is not an Ethernet device",
        "the kernel has 10.0.0.1 on eth0",
        "net.ipv4.conf.eth0.forwarding is 1, so the kernel would also forward",
    ];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (told, start) in told.iter().zip(starts) {
        assert!(told.starts_with(start), "{told:?} should start with {start:?}");
    }
}

fn forwarding_is_switched_off_where_that_is_allowed_and_nothing_else_is_wrong() {
    let gateway = site();
    let key = "net.ipv4.conf.eth0.forwarding";
    gateway.sysctl(key, "1").expect("set");
    let owned = vec![IpAddr::from([10, 0, 0, 10])];
    let wrong = Needs { interfaces: polled(&["eth0", "eth9"]), owned, disable_forwarding: true };
    assert_eq!(check_in(&gateway, &wrong).expect_err("a fault").len(), 1);
    assert_eq!(gateway.read_sysctl(key).expect("a value"), "1", "nothing half done");
    let right = Needs { interfaces: polled(&["eth0"]), ..wrong };
    assert_eq!(gateway.run(|| look(&right, 1)), Ok(vec![key.to_owned()]));
    assert_eq!(gateway.read_sysctl(key).expect("a value"), "1", "looking changes nothing");
    let changed = check_in(&gateway, &right).expect("switched off");
    assert_eq!(
        changed[0].what,
        "set net.ipv4.conf.eth0.forwarding=0; it stays set (undo: sysctl -w net.ipv4.conf.eth0.forwarding=1)"
    );
    assert_eq!(gateway.read_sysctl(key).expect("a value"), "0");
}

fn an_ipv6_address_needs_a_route_that_keeps_the_kernel_silent() {
    let space = Namespace::new("host").expect("made");
    let owned = ["10.96.0.10", "fd00:10:96::10"].map(|text| text.parse().expect("an address"));
    assert_eq!(space.run(|| unrouted(&owned)), owned[1..]);
    space.discard_unrouted_v6().expect("a route");
    assert!(space.run(|| unrouted(&owned)).is_empty());
}

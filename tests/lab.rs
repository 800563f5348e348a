//! The laboratories themselves.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pollgate::lab::topology::{Network, Segment, guide};
use pollgate::lab::traffic::{Server, ask_http, ask_tcp, ask_udp, connect, echo_bulk, greeting};
use pollgate::lab::{Namespace, OffloadSwitch, Veth};

use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::shared::{PATIENCE, until};

tests! {
    [Lab] =>
        servers_say_who_they_are_across_a_veth_pair,
        a_namespace_is_quiet_and_its_settings_are_its_own,
        what_is_missing_is_named,
        nothing_is_left_behind_after_a_panic,
        hosts_of_a_network_reach_the_gateway_and_only_it,
        the_guides_network_stands_in_a_moment_and_leads_to_the_gateway,
        a_child_process_runs_inside,
        a_kept_namespace_outlives_its_handle_until_it_is_removed;
}

fn pair() -> (Namespace, Namespace) {
    let (left, right) = (Namespace::new("left").expect("a namespace"), Namespace::new("right").expect("a namespace"));
    Veth::new((&left, "eth0"), (&right, "eth0")).make().expect("a veth pair");
    left.add_address("eth0", "10.0.0.1/24".parse().expect("an address")).expect("the address");
    right.add_address("eth0", "10.0.0.2/24".parse().expect("an address")).expect("the address");
    (left, right)
}

fn servers_say_who_they_are_across_a_veth_pair() {
    let (left, right) = pair();
    let at = |port: u16| SocketAddr::new("10.0.0.2".parse::<IpAddr>().expect("an address"), port);
    let tcp = Server::tcp(&right, at(7000), "pod-a").expect("a server");
    let _udp = Server::udp(&right, at(7000), "pod-b").expect("a server");
    let _http = Server::http(&right, at(80), "pod-c").expect("a server");
    assert_eq!(ask_tcp(&left, at(7000), PATIENCE).expect("an answer"), "pod-a");
    assert_eq!(ask_udp(&left, at(7000), "hello", PATIENCE).expect("an answer"), "pod-b");
    assert_eq!(ask_http(&left, at(80), "/", PATIENCE).expect("an answer"), "pod-c");
    let stream = connect(&left, at(7000), PATIENCE).expect("a connection");
    assert_eq!(greeting(&stream).expect("a greeting"), "pod-a");
    echo_bulk(&stream, 10 << 20).expect("the same bytes back");
    assert_eq!(tcp.served(), 2);
}

fn a_namespace_is_quiet_and_its_settings_are_its_own() {
    let (left, right) = pair();
    assert_eq!(left.read_sysctl("net.ipv4.conf.eth0.forwarding").expect("a value"), "0");
    right.sysctl("net.ipv4.conf.eth0.forwarding", "1").expect("set");
    assert_eq!(left.read_sysctl("net.ipv4.conf.eth0.forwarding").expect("a value"), "0");
    assert!(right.has_offload("eth0", OffloadSwitch::TxChecksum).expect("a switch"));
    right.offload("eth0", OffloadSwitch::TxChecksum, false).expect("switched off");
    assert!(!right.has_offload("eth0", OffloadSwitch::TxChecksum).expect("a switch"));
    let mac = "02:00:00:00:00:07".parse().expect("a MAC");
    left.set_mac("eth0", mac).expect("set");
    assert_eq!(left.mac("eth0").expect("a MAC"), mac);
}

fn what_is_missing_is_named() {
    let alone = Namespace::new("alone").expect("a namespace");
    let error = alone.up("eth9").expect_err("there is no eth9").to_string();
    assert!(error.starts_with("bringing eth9 up in the namespace alone: No such device"), "{error}");
}

fn nothing_is_left_behind_after_a_panic() {
    let (left, right) = pair();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let inside = right.clone();
        inside.run(|| panic!("on purpose"));
    }));
    assert!(panicked.is_err());
    drop(right);
    // The kernel takes a namespace down in its own time; its half of the pair goes with it.
    until("the other half of the pair is gone", || left.index("eth0").is_err());
}

fn hosts_of_a_network_reach_the_gateway_and_only_it() {
    let segments = [
        Segment::new("one", "10.1.0.1/24", &[("a", "10.1.0.10/32"), ("b", "10.1.0.11/32")]),
        Segment::new("two", "10.2.0.1/24", &[("c", "10.2.0.10/24")]),
    ];
    let network = Network::new(&segments, 2).expect("a network");
    let gateway = SocketAddr::from(([10, 1, 0, 1], 7000));
    let _server = Server::tcp(network.gateway(), gateway, "kernel").expect("a server");
    let hosts = network.hosts();
    for host in hosts {
        let answer = ask_tcp(&host.namespace, gateway, PATIENCE);
        assert_eq!(answer.expect("an answer"), "kernel", "{}", host.namespace.name());
    }
    let other = SocketAddr::new(network.host("b").address, 7000);
    let _b = Server::tcp(&network.host("b").namespace, other, "b").expect("a server");
    for name in ["a", "c"] {
        let answer = ask_tcp(&network.host(name).namespace, other, Duration::from_millis(300));
        assert!(answer.is_err(), "{name} reached b although nothing forwards");
    }
}

fn the_guides_network_stands_in_a_moment_and_leads_to_the_gateway() {
    let started = std::time::Instant::now();
    let network = Network::new(&guide(), 1).expect("the guide's network");
    println!("made in {:?}", started.elapsed());
    assert_eq!(network.interfaces(), ["node-1", "node-2", "outside"]);
    let names: Vec<&str> = network.hosts().iter().map(|host| host.namespace.name()).collect();
    assert_eq!(names, ["frontend-app", "backend-1", "frontend-2", "backend-2", "backend-v2", "outside-client"]);
    let kernel = SocketAddr::from(([10, 244, 2, 1], 7000));
    let _server = Server::udp(network.gateway(), kernel, "kernel").expect("a server");
    for host in network.hosts() {
        let answer = ask_udp(&host.namespace, kernel, "hello", PATIENCE);
        assert_eq!(answer.expect("an answer"), "kernel", "{}", host.namespace.name());
    }
}

fn a_child_process_runs_inside() {
    let namespace = Namespace::new("inside").expect("a namespace");
    let own = fs::read_link("/proc/self/ns/net").expect("our own namespace");
    let expected = namespace.run(|| fs::read_link("/proc/thread-self/ns/net")).expect("its link");
    let output = namespace.command("readlink").arg("/proc/self/ns/net").output().expect("a child");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), expected.display().to_string());
    assert_ne!(expected, own);
}

fn a_kept_namespace_outlives_its_handle_until_it_is_removed() {
    let name = format!("test-{}", std::process::id());
    let namespace = Namespace::new(&name).expect("a namespace");
    assert!(namespace.entry().exists());
    let path = match namespace.keep() {
        Ok(path) => path,
        // /run belongs to root outside the user namespace.
        Err(error) => return assert!(error.to_string().starts_with("keeping the namespace test-"), "{error}"),
    };
    drop(namespace);
    // An empty file on the file system of /run, unless a namespace is mounted on it.
    let kept = fs::metadata(&path).map(|kept| std::os::unix::fs::MetadataExt::dev(&kept));
    let run = fs::metadata("/run").map(|run| std::os::unix::fs::MetadataExt::dev(&run));
    Namespace::remove_kept(&name).expect("removed");
    assert_ne!(kept.expect("the kept file"), run.expect("/run"));
    assert!(!path.exists());
    Namespace::remove_kept(&name).expect("removing nothing is fine");
}

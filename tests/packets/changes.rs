//! Objects change while packets flow.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use pollgate_control::objects::Kind;
use pollgate_control::observe::stats::Values;

use super::support::builder::{Ip, tcp, udp, who_has};
use super::support::family::{RESOLUTION, wire};
use super::support::lab::{Lab, PODS};
use super::support::objects::{echo, endpoints, service, web};
use super::support::seen::Seen;

const FOUR: [&str; 4] = ["10.244.1.10", "10.244.1.11", "10.244.1.12", "10.244.1.13"];
const CHANGED: [&str; 3] = ["10.244.1.10", "10.244.1.12", "10.244.1.20"];

fn stream(port: u16) -> Ip {
    tcp(&format!("10.244.1.5:{port}"), "10.96.0.50:80")
}

fn acknowledges(port: u16) -> Ip {
    stream(port).flags("A")
}

fn datagram(port: u16) -> Ip {
    udp(&format!("10.244.1.5:{port}"), "10.96.0.60:7")
}

/// Opens flows, has their endpoints reply and the clients confirm; which endpoint each client port has.
fn establish(
    lab: &mut Lab,
    ports: std::ops::Range<u16>,
    packet: fn(u16) -> Ip,
    confirm: fn(u16) -> Ip,
    reply: fn(&str, &str) -> Ip,
) -> BTreeMap<u16, SocketAddrV4> {
    let mut flows = BTreeMap::new();
    for port in ports {
        let there = lab.through(PODS, packet(port), PODS).dst();
        lab.through(PODS, reply(&there.to_string(), &format!("10.244.1.5:{port}")), PODS);
        lab.through(PODS, confirm(port), PODS);
        flows.insert(port, there);
    }
    flows
}

fn accepts(from: &str, to: &str) -> Ip {
    tcp(from, to).flags("SA")
}

#[test]
fn an_established_connection_outlives_every_change_of_its_service() {
    let mut lab = Lab::new(&web(&FOUR));
    let flows = establish(&mut lab, 40000..40200, stream, acknowledges, accepts);
    let follow = |lab: &mut Lab, what: &str| {
        for (&port, there) in &flows {
            assert_eq!(lab.through(PODS, stream(port).flags("A"), PODS).dst(), *there, "{what}");
            let back = lab.through(PODS, tcp(&there.to_string(), &format!("10.244.1.5:{port}")).flags("A"), PODS);
            assert_eq!(back.src().to_string(), "10.96.0.50:80", "{what}");
        }
    };
    lab.apply(&endpoints("web", "TCP", 8080, &CHANGED));
    follow(&mut lab, "endpoints left and joined");
    for port in 41000..41100 {
        let there = lab.through(PODS, stream(port), PODS).dst().ip().to_string();
        assert!(CHANGED.contains(&&*there), "a new connection goes where endpoints are, not to {there}");
    }
    lab.delete(Kind::Service, "web");
    follow(&mut lab, "the Service is gone");
    lab.send(PODS, stream(42000));
    let flows = [("flows_opened", 300), ("flows_live", 300), ("flows_half_open", 100)];
    lab.counters(&[&[("rx", 1501), ("tx", 1500), ("no_such_cluster_ip", 1)], &flows[..]].concat());
}

#[test]
fn a_datagram_flow_leaves_a_removed_endpoint_with_its_next_packet_and_others_stay() {
    let mut lab = Lab::new(&echo(&FOUR));
    let flows = establish(&mut lab, 40000..40100, datagram, datagram, udp);
    lab.apply(&endpoints("echo", "UDP", 7007, &CHANGED));
    let mut moved = 0;
    for (port, before) in flows {
        let after = lab.through(PODS, datagram(port), PODS).dst();
        let stays = CHANGED.contains(&&*before.ip().to_string());
        assert!(
            if stays { after == before } else { CHANGED.contains(&&*after.ip().to_string()) },
            "{before} then {after}"
        );
        moved += u64::from(!stays);
    }
    assert!(moved > 20, "about half of 100");
    let flows = [("flows_opened", 100 + moved), ("flows_live", 100), ("flows_half_open", moved)];
    lab.counters(&[&[("rx", 400), ("tx", 400)], &flows[..]].concat());
}

#[test]
fn a_datagram_flow_of_a_deleted_service_ends() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    establish(&mut lab, 40000..40001, datagram, datagram, udp);
    lab.delete(Kind::Service, "echo");
    lab.send(PODS, datagram(40000));
    lab.counters(&[("rx", 4), ("tx", 3), ("no_such_cluster_ip", 1), ("flows_opened", 1)]);
}

#[test]
fn a_thousand_changes_elsewhere_touch_no_flow() {
    let mut lab = Lab::new(&format!("{}{}", web(&FOUR), echo(&FOUR)));
    let streams = establish(&mut lab, 40000..40020, stream, acknowledges, accepts);
    let datagrams = establish(&mut lab, 40000..40020, datagram, datagram, udp);
    for n in 0..1000 {
        let ip = format!("10.244.1.{}", 20 + n % 7);
        let ip = [&*ip];
        lab.apply(
            &(service("noisy", "clusterIP: 10.96.0.90, ports: [{port: 80, targetPort: 8080}]")
                + &endpoints("noisy", "TCP", 8080, &ip)),
        );
        let port = 40000 + u16::try_from(n % 20).expect("small");
        assert_eq!(lab.through(PODS, stream(port).flags("A"), PODS).dst(), streams[&port]);
        assert_eq!(lab.through(PODS, datagram(port), PODS).dst(), datagrams[&port]);
    }
    lab.counters(&[("rx", 2120), ("tx", 2120), ("flows_opened", 40), ("flows_live", 40)]);
}

/// An endpoint as it is on the wire.
fn endpoint(at: SocketAddrV4) -> String {
    SocketAddr::new(wire(*at.ip()), at.port()).to_string()
}

/// Adds a packet and its frame's bytes.
fn count(carried: &mut BTreeMap<String, Values>, of: SocketAddrV4, seen: &Seen) {
    let values = carried.entry(endpoint(of)).or_default();
    values.packets += 1;
    values.bytes += seen.packet.bytes.len() as u64;
}

#[test]
fn what_each_endpoint_carried_is_counted_and_a_new_one_begins_at_nothing() {
    let mut lab = Lab::new(&web(&FOUR));
    let mut carried = BTreeMap::new();
    for port in 40000..40100 {
        let there = lab.through(PODS, stream(port), PODS);
        count(&mut carried, there.dst(), &there);
        carried.get_mut(&endpoint(there.dst())).expect("counted").flows += 1;
        for _ in 0..port % 3 {
            let back = accepts(&there.dst().to_string(), &format!("10.244.1.5:{port}"))
                .payload("x".repeat(usize::from(port - 39990)));
            count(&mut carried, there.dst(), &lab.through(PODS, back, PODS));
        }
    }
    assert_eq!(carried.len(), 4, "{carried:?}");
    let service = lab.service("default/web:80");
    assert_eq!((&service.backends, service.others), (&carried, None));
    let packets = carried.values().map(|values| values.packets).sum();
    assert_eq!(lab.carried("default/web:80"), (packets, 100));

    // An endpoint takes the place of another one. The Service port has carried what it has carried.
    let [_, kept @ ..] = FOUR;
    lab.apply(&endpoints("web", "TCP", 8080, &kept));
    assert_eq!(lab.service("default/web:80"), service);
    lab.apply(&endpoints("web", "TCP", 8080, &[&kept[..], &["10.244.2.77"]].concat()));
    let gone = carried.remove(&endpoint(format!("{}:8080", FOUR[0]).parse().expect("an address")));
    let after = lab.service("default/web:80");
    assert_eq!((after.all, after.backends, after.others), (service.all, carried, gone));
}

#[test]
fn a_slot_reused_by_another_endpoint_does_not_inherit_datagram_flows() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    establish(&mut lab, 40000..40010, datagram, datagram, udp);
    lab.apply(&endpoints("echo", "UDP", 7007, &[]));
    lab.apply(&endpoints("echo", "UDP", 7007, &["10.244.1.11"]));
    for port in 40000..40010 {
        assert_eq!(lab.through(PODS, datagram(port), PODS).dst().to_string(), "10.244.1.11:7007");
    }
    lab.counters(&[("rx", 40), ("tx", 40), ("flows_opened", 20), ("flows_live", 10), ("flows_half_open", 10)]);
}

#[test]
fn a_place_reused_by_another_service_inherits_neither_flows_nor_counts() {
    let mut lab = Lab::new(&echo(&["10.244.1.10"]));
    establish(&mut lab, 40000..40010, datagram, datagram, udp);
    lab.delete(Kind::Service, "echo");
    // Places rest before they are used again: so many Services come and go that the first place's turn comes.
    for n in 0..1100 {
        lab.apply(&service(&format!("s{n}"), "clusterIP: 10.96.0.91, ports: [{port: 9, protocol: UDP}]"));
        lab.delete(Kind::Service, &format!("s{n}"));
    }
    let spec = "clusterIP: 10.96.0.60, ports: [{port: 7, protocol: UDP, targetPort: 7007}]";
    lab.apply(&(service("other", spec) + &endpoints("other", "UDP", 7007, &["10.244.1.11"])));
    for port in 40000..40010 {
        assert_eq!(lab.through(PODS, datagram(port), PODS).dst().to_string(), "10.244.1.11:7007");
    }
    assert_eq!(lab.carried("default/other:7"), (10, 10));
    lab.counters(&[("rx", 40), ("tx", 40), ("flows_opened", 20), ("flows_live", 10), ("flows_half_open", 10)]);
}

#[test]
fn what_is_applied_serves_and_what_is_deleted_does_not() {
    let mut lab = Lab::new("");
    lab.send(PODS, stream(40000));
    lab.apply(&web(&[]));
    assert_eq!(lab.through(PODS, stream(40000), PODS).to_string(), "tcp 10.96.0.50:80 > 10.244.1.5:40000 RA ttl 64");
    lab.apply(&endpoints("web", "TCP", 8080, &["10.244.1.10"]));
    assert_eq!(lab.through(PODS, stream(40000), PODS).dst().to_string(), "10.244.1.10:8080");
    lab.delete(Kind::Service, "web");
    lab.send(PODS, stream(40001));
    let flow = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];
    let refused = [("originated", 1), ("reject_no_endpoints", 1), ("no_such_cluster_ip", 2)];
    lab.counters(&[&[("rx", 4), ("tx", 2)], &refused[..], &flow].concat());
}

/// A Service at 10.96.0.8`n`:80 and at the external address both want; its one endpoint is 10.244.1.1`n`.
fn wants(name: &str, n: u8) -> String {
    let spec = format!("clusterIP: 10.96.0.8{n}, externalIPs: [198.51.100.9], ports: [{{port: 80, targetPort: 8080}}]");
    service(name, &spec) + &endpoints(name, "TCP", 8080, &[&format!("10.244.1.1{n}")])
}

#[test]
fn an_address_two_services_want_is_the_first_ones_until_it_goes() {
    let mut lab = Lab::new(&format!("{}{}", wants("first", 1), wants("second", 2)));
    lab.send(PODS, tcp("10.244.1.5:40000", "198.51.100.9:80"));
    assert_eq!(lab.expect(PODS).dst().to_string(), "10.244.1.11:8080");
    lab.send(PODS, tcp("10.244.1.5:40000", "10.96.0.82:80"));
    assert_eq!(lab.expect(PODS).dst().to_string(), "10.244.1.12:8080", "its own address it has all the same");
    lab.delete(Kind::Service, "first");
    lab.send(PODS, tcp("10.244.1.5:40001", "198.51.100.9:80"));
    assert_eq!(lab.expect(PODS).dst().to_string(), "10.244.1.12:8080");
    lab.counters(&[("rx", 3), ("tx", 3), ("flows_opened", 3), ("flows_live", 3), ("flows_half_open", 3)]);
}

#[test]
fn an_address_the_kernel_takes_is_left_to_it_and_served_again_when_it_lets_go() {
    let mut lab = Lab::new(&wants("web", 1));
    let ask = || who_has("10.244.1.5", "198.51.100.9");
    lab.send(PODS, ask());
    assert!(lab.pop(PODS).is_some(), "ours at first");
    lab.network(|facts| facts.addresses.push((1, "198.51.100.9/32".parse().expect("an address"))));
    lab.send(PODS, ask());
    lab.send(PODS, tcp("10.244.1.5:40000", "198.51.100.9:80"));
    lab.network(|facts| facts.addresses.truncate(facts.addresses.len() - 1));
    lab.send(PODS, tcp("10.244.1.5:40000", "198.51.100.9:80"));
    assert_eq!(lab.expect(PODS).dst().to_string(), "10.244.1.11:8080");
    let flows = [("flows_opened", 1), ("flows_live", 1), ("flows_half_open", 1)];
    lab.counters(&[&[("rx", 4), ("tx", 2), (RESOLUTION, 1), ("not_owned", 1)], &flows[..]].concat());
}

/// Kubernetes `cmd/kube-proxy/app/server.go`: either label takes a Service from this proxy for as long as it is there. An address
/// of the Service CIDR without a Service is dropped (`pkg/proxy/nftables/proxier.go`).
#[test]
fn a_label_hides_a_service_and_its_removal_brings_it_back() {
    for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
        let mut lab = Lab::new(&web(&FOUR));
        let labelled = |labels: &str| {
            let spec = "clusterIP: 10.96.0.50, ports: [{port: 80, targetPort: 8080}]";
            service("web", spec).replace("name: web}", &format!("name: web, labels: {{{labels}}}}}"))
        };
        lab.through(PODS, stream(40000), PODS);
        lab.apply(&labelled(&format!("{label}: other")));
        lab.send(PODS, stream(40001));
        lab.apply(&labelled(""));
        lab.through(PODS, stream(40002), PODS);
        let flows = [("flows_opened", 2), ("flows_live", 2), ("flows_half_open", 2)];
        lab.counters(&[&[("rx", 3), ("tx", 2), ("no_such_cluster_ip", 1)], &flows[..]].concat());
    }
}

/// What is logged while `act` runs.
fn logged(act: impl FnOnce()) -> String {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&lines);
    let subscriber = tracing_subscriber::fmt().with_writer(move || Lines(Arc::clone(&writer))).finish();
    tracing::subscriber::with_default(subscriber, act);
    String::from_utf8(lines.lock().expect("not poisoned").clone()).expect("text")
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A node port that one Service gives up and another takes in the same publication is no conflict; an address of the host's kernel is a conflict, and logged once.
#[test]
fn a_node_port_that_changes_hands_is_no_conflict() {
    let of = |name: &str, node_port: u16, address: &str| {
        let spec = format!("type: NodePort, ports: [{{port: 80, targetPort: 8080, nodePort: {node_port}}}]");
        service(name, &spec) + &endpoints(name, "TCP", 8080, &[address])
    };
    let mut lab = Lab::new(&(of("a", 30_001, FOUR[0]) + &of("b", 30_002, FOUR[1])));
    let changed = of("b", 30_003, FOUR[1]) + &of("a", 30_002, FOUR[0]);
    assert_eq!(logged(|| lab.apply(&changed)), "");
    for (port, address) in [(30_003, FOUR[1]), (30_002, FOUR[0])] {
        let seen = lab.through(PODS, tcp("10.244.1.5:40000", &format!("192.168.50.10:{port}")), PODS);
        assert_eq!(seen.dst().ip().to_string(), address);
    }
    lab.counters(&[("rx", 2), ("tx", 2), ("flows_opened", 2), ("flows_live", 2), ("flows_half_open", 2)]);
    let external = |more: &str| service("c", &format!("externalIPs: [192.168.50.2], ports: [{{port: 80}}]{more}"));
    let told = logged(|| lab.apply(&external("")));
    assert!(told.contains("not served at ") && told.contains("the host's kernel has this address"), "{told}");
    assert_eq!(logged(|| lab.apply(&external(", sessionAffinity: ClientIP"))), "", "known");
}

//! Several workers on one interface, and which of them the kernel chooses.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant as Clock;

use pollgate_common::flow::{FlowKey, Protocol, V4};
use pollgate_common::hash::RingHash;
use pollgate_common::settings::{DataplaneSettings, Masquerade};
use pollgate_common::tables::FrontendKey;
use pollgate_dataplane::port::Frame;
use pollgate_dataplane::port::packet::FanoutRules;
use pollgate_dataplane::steer::{Steering, Towards};

use crate::socket_ports::support::*;

/// What steering depends on: one gateway address, and the ports of translated sources.
fn settings() -> DataplaneSettings {
    DataplaneSettings {
        gateway_v4: vec![Ipv4Addr::new(10, 0, 0, 10)],
        gateway_v6: vec![],
        dns: vec![],
        pod_cidrs: vec![],
        service_cidrs: vec![],
        masquerade: Masquerade::Kubernetes,
        host_pair: false,
        snat_ports: 1024..=29999,
        ring_hash: RingHash::new(""),
    }
}

/// A UDP datagram without payload or checksum, on the wire as `tag` says.
fn datagram(key: &FlowKey<V4>, tag: &[u8]) -> Vec<u8> {
    let mut frame = [&RIGHT.0[..], &LEFT.0, tag, &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
    frame.extend(key.src.0.octets());
    frame.extend(key.dst.0.octets());
    frame.extend(key.src_port.to_be_bytes());
    frame.extend(key.dst_port.to_be_bytes());
    frame.extend([0, 8, 0, 0]);
    frame.resize(64, 0);
    frame
}

fn key(src: [u8; 4], src_port: u16, dst: [u8; 4], dst_port: u16) -> FlowKey<V4> {
    FlowKey { src: V4(src.into()), dst: V4(dst.into()), src_port, dst_port, protocol: 17 }
}

/// Which of two workers each datagram goes to, by the ports in it.
fn owners_by_kernel<P: Kind>(cable: &Cable, ports: &mut [P; 2], keys: &[FlowKey<V4>], tag: &[u8]) -> Vec<u16> {
    inject::<P>(cable, &keys.iter().map(|key| datagram(key, tag)).collect::<Vec<_>>());
    let ours = |frame: &Frame| frame.bytes().get(tag.len() + 12..tag.len() + 15) == Some(&[8, 0, 0x45]);
    let deadline = Clock::now() + PATIENCE;
    let mut got: [Vec<Frame>; 2] = Default::default();
    while got.iter().flatten().filter(|f| ours(f)).count() < keys.len() {
        ports.iter_mut().zip(&mut got).for_each(|(port, frames)| port.rx(NOW, 64, frames));
        assert!(Clock::now() < deadline, "{:?} frames of {}", got.each_ref().map(Vec::len), keys.len());
    }
    let mut owners = vec![u16::MAX; keys.len()];
    for (worker, frames) in (0..).zip(&got) {
        for frame in frames.iter().filter(|frame| ours(frame)) {
            let ip = &frame.bytes()[tag.len() + 14..];
            let same = |key: &FlowKey<V4>| datagram(key, &[])[14..42] == ip[..28];
            let at = keys.iter().position(same).expect("one that was sent");
            assert_eq!(owners[at], u16::MAX, "it came twice");
            owners[at] = worker;
        }
    }
    ports.iter_mut().zip(got).for_each(|(port, frames)| release(port, frames));
    owners
}

pub(crate) fn workers_share_an_interface_and_each_frame_goes_to_one<P: Kind>() {
    let cable = Cable::new();
    let mut ports = open_two::<P>(&cable, None, 256);
    let client = socket(&cable.left);
    for port in 1000..1064u16 {
        client.send_to(&port.to_be_bytes(), (address(2), port)).expect("sent");
    }
    // What one worker sends, no other may take for a frame from outside.
    send_raw(&mut ports[0], &experimental(1, 60));
    let deadline = Clock::now() + PATIENCE;
    let mut got: [Vec<Frame>; 2] = Default::default();
    while got.iter().flatten().filter(|f| is_udp(f)).count() < 64 && Clock::now() < deadline {
        ports.iter_mut().zip(&mut got).for_each(|(port, frames)| port.rx(NOW, 64, frames));
    }
    let mut seen: Vec<u16> = got
        .iter()
        .flatten()
        .filter(|f| is_udp(f))
        .map(|f| u16::from_be_bytes([f.bytes()[36], f.bytes()[37]]))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (1000..1064).collect::<Vec<u16>>(), "each datagram at one worker, once");
    assert!(got.iter().all(|frames| frames.iter().any(is_udp)), "both workers have a share");
    assert!(!got.iter().flatten().any(is_experimental), "our own frame came back");
    ports.iter_mut().zip(got).for_each(|(port, frames)| release(port, frames));
}

pub(crate) fn the_kernel_chooses_the_worker_that_owns_the_flow<P: Kind>() {
    const FLOWS: u16 = 200;
    const GATEWAY: [u8; 4] = [10, 0, 0, 10];
    let cable = Cable::new();
    let (steering, settings) = (Steering::new(2, [5, 6, 7, 8]), settings());
    let range = |last: [u8; 4], first: [u8; 4]| IpAddr::from(first)..=IpAddr::from(last);
    let mut owned = vec![range([10, 96, 255, 255], [10, 96, 0, 0]), range(GATEWAY, GATEWAY)];
    let mut services = Vec::new();
    let rules = FanoutRules { steering: &steering, settings: &settings, owned: &owned, services: &services };
    let mut ports = open_two::<P>(&cable, Some(&rules.program()), 1024);
    let group = ports[0].fanout().expect("a handle");
    let owners = |keys: &[FlowKey<V4>], towards: Towards| -> Vec<u16> {
        keys.iter().map(|key| steering.owner(key, towards, &settings)).collect()
    };
    let all = |f: &dyn Fn(u16) -> FlowKey<V4>| (0..FLOWS).map(f).collect::<Vec<_>>();
    let there = all(&|n| key([10, 244, 1, 5], 40000 + n, [10, 96, 0, 50], 80));
    let back = all(&|n| key([10, 244, 2, 9], 8080, [10, 244, 1, 5], 40000 + n));
    for tag in [&[][..], &[0x81, 0, 0, 7]] {
        let sent = owners_by_kernel(&cable, &mut ports, &there, tag);
        assert_eq!(sent, owners(&there, Towards::Service), "to a Service, tag {tag:?}");
        assert_eq!(owners_by_kernel(&cable, &mut ports, &back, tag), sent, "both directions, tag {tag:?}");
        assert!([0, 1].iter().all(|worker| sent.iter().filter(|w| *w == worker).count() > 60), "{sent:?}");
    }
    let translated = all(&|n| key([10, 244, 2, 9], 8080, GATEWAY, 2000 + n));
    let chosen = owners_by_kernel(&cable, &mut ports, &translated, &[]);
    assert_eq!(chosen, owners(&translated, Towards::SnatPort));
    // What is owned later, and a Service where replies come in: with the workers' sockets in use.
    let external = all(&|n| key([192, 168, 9, 9], 50000 + n, [203, 0, 113, 7], 443));
    let before = owners_by_kernel(&cable, &mut ports, &external, &[]);
    assert_eq!(before, owners(&external, Towards::Client));
    owned.push(range([203, 0, 113, 7], [203, 0, 113, 7]));
    services.push(FrontendKey { address: GATEWAY.into(), port: 2000, protocol: Protocol::Udp });
    let rules = FanoutRules { steering: &steering, settings: &settings, owned: &owned, services: &services };
    let started = Clock::now();
    group.update(&rules).expect("the kernel takes another program");
    println!("changed within {:?}", started.elapsed());
    let after = owners_by_kernel(&cable, &mut ports, &external, &[]);
    assert_eq!(after, owners(&external, Towards::Service));
    assert_ne!(after, before);
    let served = all(&|n| key([192, 168, 9, 9], 50000 + n, GATEWAY, 2000));
    assert_eq!(owners_by_kernel(&cable, &mut ports, &served, &[]), owners(&served, Towards::Service));
}

/// io_uring closes its sockets late: those of a former opening may still be there.
pub(crate) fn a_group_that_is_opened_again_has_an_order_of_its_own<P: Kind>() {
    let cable = Cable::new();
    let (steering, settings) = (Steering::new(2, [5, 6, 7, 8]), settings());
    let network = IpAddr::from([10, 96, 0, 0])..=IpAddr::from([10, 96, 255, 255]);
    let rules = FanoutRules { steering: &steering, settings: &settings, owned: &[network], services: &[] };
    let keys: Vec<_> = (0..100).map(|n| key([10, 244, 1, 5], 40000 + n, [10, 96, 0, 50], 80)).collect();
    let expected: Vec<u16> = keys.iter().map(|key| steering.owner(key, Towards::Service, &settings)).collect();
    let former = open_two::<P>(&cable, Some(&rules.program()), 1024);
    let mut ports = open_two::<P>(&cable, Some(&rules.program()), 1024);
    assert_eq!(owners_by_kernel(&cable, &mut ports, &keys, &[]), expected);
    drop(former);
    assert_eq!(owners_by_kernel(&cable, &mut ports, &keys, &[]), expected);
}

pub(crate) fn the_largest_program_is_taken<P: Kind>() {
    let cable = Cable::new();
    let mut settings = settings();
    settings.gateway_v4 = (0..50).map(|n| Ipv4Addr::new(192, 0, 2, n)).collect();
    settings.gateway_v6 = (0..50u128).map(|n| (0xfd01u128 << 112 | n).into()).collect();
    let v4 = (0..1000u32).map(|n| IpAddr::from((0x0a00_0000 + 2 * n).to_be_bytes()));
    let v6 = (0..1000u128).map(|n| IpAddr::from((0xfd00 << 112 | n << 80 | n << 33).to_be_bytes()));
    let owned: Vec<_> = v4.chain(v6).map(|address| address..=address).collect();
    let service =
        |n: u16| FrontendKey { address: settings.gateway_v4[0].into(), port: 2000 + n, protocol: Protocol::Tcp };
    let services: Vec<_> = (0..500).map(service).collect();
    let rules = FanoutRules {
        steering: &Steering::new(2, [5, 6, 7, 8]),
        settings: &settings,
        owned: &owned,
        services: &services,
    };
    drop(open_two::<P>(&cable, Some(&rules.program()), 1024));
}

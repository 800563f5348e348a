//! Two ports of one worker: what comes in by one goes out by the other as it lies.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pollgate::lab::traffic::{Server, connect, echo_bulk, greeting};
use pollgate::lab::{Namespace, OffloadSwitch, Veth};
use pollgate_common::net::{Mac, PortId};
use pollgate_dataplane::port::xdp::{self, Program, Rules, XdpOptions, XdpPort};
use pollgate_dataplane::port::{Frame, Origin, Port, Returned};

use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, Lab};
use crate::xdp::support::{
    FRAMES, LEFT, NOW, PATIENCE, RIGHT, attach, beside, drain, ip, numbered, numbers, receive, release, send,
};

tests! {
    [Lab, Bpf] =>
        a_frame_is_forwarded_where_it_lies_and_its_buffer_comes_home,
        tcp_sockets_at_both_ends_accept_what_is_sent_with_checksums_left_or_done,
        two_workers_forward_side_by_side,
        what_the_way_out_does_not_take_is_counted_and_every_buffer_comes_home;
}

/// A client 10.0.0.1 and a server 10.0.0.2 on links of their own; a gateway between them that owns both addresses.
struct Site {
    client: Namespace,
    server: Namespace,
    middle: Namespace,
    programs: [Program; 2],
}

fn macs(n: u8) -> (Mac, Mac) {
    if n == 1 { (LEFT, RIGHT) } else { (Mac([2, 0, 0, 0, n, 1]), Mac([2, 0, 0, 0, n, 2])) }
}

impl Site {
    fn new(queues: u32) -> Site {
        let [client, middle, server] =
            ["client", "middle", "server"].map(|name| Namespace::new(name).expect("a namespace"));
        for (n, host, name) in [(1u8, &client, "c"), (2, &server, "s")] {
            let veth = Veth::new((host, "eth0"), (&middle, name)).macs(macs(n).0, macs(n).1).queues(queues);
            veth.make().expect("a veth pair");
            host.add_address("eth0", format!("10.0.0.{n}/24").parse().expect("an address")).expect("the address");
            host.add_neighbour("eth0", ip(&format!("10.0.0.{}", 3 - n)), macs(n).1).expect("the neighbour");
        }
        let rules = Rules::new().expect("tables");
        rules.own(ip("10.0.0.1")).expect("owned");
        rules.own(ip("10.0.0.2")).expect("owned");
        let programs = ["c", "s"].map(|name| attach(&middle, name, &rules));
        Site { client, server, middle, programs }
    }

    fn open(&self, worker: u16, workers: u16, frames: u32) -> [XdpPort; 2] {
        let interfaces = [(&self.programs[0], PortId(0)), (&self.programs[1], PortId(1))];
        let options = XdpOptions { interfaces: &interfaces, worker, workers, frames, busy_poll: false };
        let ports = self.middle.run(|| xdp::open(&options)).expect("open ports");
        ports.try_into().expect("two ports")
    }
}

/// Gives buffers back to whose they are.
fn give_back(ports: &mut [XdpPort; 2], back: &mut Vec<Returned>) -> usize {
    let mut given = 0;
    for returned in back.drain(..) {
        let Origin::Port(port) = returned.frame.origin() else { panic!("a frame of nobody's") };
        ports[usize::from(port.0)].release(returned.frame);
        given += 1;
    }
    given
}

fn a_frame_is_forwarded_where_it_lies_and_its_buffer_comes_home() {
    let site = Site::new(1);
    let mut ports = site.open(0, 1, FRAMES);
    let mut sender = beside(&site.client, "eth0");
    let mut listener = beside(&site.server, "eth0");
    let (mut back, mut home) = (Vec::new(), 0);
    // Many times over what either port has in chunks.
    for start in (0..4000u16).step_by(50) {
        let burst: Vec<Vec<u8>> = (start..start + 50).map(numbered).collect();
        assert_eq!(send(&mut sender, &burst), [None; 50]);
        let mut frames = receive(&mut ports[0], |frames| frames.len() == 50);
        let lay: Vec<*const u8> = frames.iter().map(Frame::as_ptr).collect();
        let sent = ports[1].tx(NOW, &mut frames, &mut back);
        assert_eq!(sent.frames, 50);
        let got = receive(&mut listener, |frames| numbers(frames).len() == 50);
        assert_eq!(numbers(&got), (start..start + 50).collect::<Vec<_>>());
        release(&mut listener, got);
        drain(&mut ports[1], &mut back);
        let came: Vec<*const u8> = back.iter().map(|returned| returned.frame.as_ptr()).collect();
        assert!(came.iter().all(|at| lay.contains(at)), "the very buffers that came in, not copies");
        assert!(back.iter().all(|returned| returned.frame.origin() == Origin::Port(PortId(0))));
        home += give_back(&mut ports, &mut back);
    }
    assert_eq!(home, 4000);
    assert_eq!(ports.each_mut().map(crate::xdp::support::missed), [0, 0]);
}

#[derive(Debug, Default)]
struct Forwarded {
    frames: u64,
    partial: u64,
    dropped: u64,
    missed: u64,
}

/// A worker with nothing in its head, as the real one calls its ports.
fn forward(mut ports: [XdpPort; 2], stop: &AtomicBool) -> Forwarded {
    let mut seen = Forwarded::default();
    let (mut frames, mut back) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        for from in 0..2u8 {
            let to = usize::from(1 - from);
            ports[usize::from(from)].rx(NOW, 64, &mut frames);
            let (next, own) = macs(2 - from);
            for frame in &mut frames {
                seen.frames += 1;
                seen.partial += u64::from(frame.offload().is_partial());
                frame.bytes_mut()[..6].copy_from_slice(&next.0);
                frame.bytes_mut()[6..12].copy_from_slice(&own.0);
            }
            if !frames.is_empty() || ports[to].is_sending() {
                ports[to].tx(NOW, &mut frames, &mut back);
            }
            seen.dropped += back.iter().filter(|returned| returned.dropped.is_some()).count() as u64;
            give_back(&mut ports, &mut back);
            seen.missed += ports[usize::from(from)].missed();
        }
    }
    seen
}

/// Bulk TCP through workers, both ways at once, by one connection after the other.
fn bulk(site: &Site, workers: Vec<[XdpPort; 2]>, connections: u32, megabytes: u64) -> Vec<Forwarded> {
    let server = SocketAddr::new(ip("10.0.0.2"), 7);
    let _server = Server::tcp(&site.server, server, "server").expect("a server");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = workers.into_iter().map(|ports| scope.spawn(|| forward(ports, &stop))).collect();
        let result = (0..connections).try_for_each(|_| {
            let stream = connect(&site.client, server, PATIENCE)?;
            assert_eq!(greeting(&stream)?, "server");
            echo_bulk(&stream, megabytes << 20)
        });
        stop.store(true, Ordering::Relaxed);
        let seen: Vec<Forwarded> = threads.into_iter().map(|thread| thread.join().expect("it ended well")).collect();
        result.unwrap_or_else(|error| panic!("the bulk transfer: {error}; forwarded {seen:?}"));
        seen
    })
}

fn tcp_sockets_at_both_ends_accept_what_is_sent_with_checksums_left_or_done() {
    for offload in [true, false] {
        let site = Site::new(1);
        for host in [&site.client, &site.server] {
            host.offload("eth0", OffloadSwitch::TxChecksum, offload).expect("switched");
        }
        let ports = site.open(0, 1, 4096);
        let seen = bulk(&site, vec![ports], 1, 16).remove(0);
        println!("transmit checksums {offload}: {seen:?}");
        assert!(seen.frames > 20_000, "32 MB in frames of 1500 bytes are more: {seen:?}");
        assert_eq!(seen.partial > seen.frames / 2, offload, "{seen:?}");
    }
}

fn two_workers_forward_side_by_side() {
    let site = Site::new(2);
    let workers = vec![site.open(0, 2, 2048), site.open(1, 2, 2048)];
    let seen = bulk(&site, workers, 16, 1);
    println!("{seen:?}");
    assert!(seen.iter().all(|seen| seen.frames > 500), "both have a share of the connections: {seen:?}");
}

fn what_the_way_out_does_not_take_is_counted_and_every_buffer_comes_home() {
    let site = Site::new(1);
    let mut ports = site.open(0, 1, FRAMES);
    let mut sender = beside(&site.client, "eth0");
    let (mut sent, mut dropped, mut home) = (0, 0, 0);
    site.server.down("eth0").expect("down");
    let mut back = Vec::new();
    for start in (0..2000u16).step_by(100) {
        send(&mut sender, &(start..start + 100).map(numbered).collect::<Vec<_>>());
        let mut frames = receive(&mut ports[0], |frames| frames.len() == 100);
        sent += ports[1].tx(NOW, &mut frames, &mut back).frames;
        drain(&mut ports[1], &mut back);
        dropped += back.iter().filter(|returned| returned.dropped.is_some()).count();
        home += give_back(&mut ports, &mut back);
    }
    assert_eq!((sent, dropped, home), (0, 2000, 2000), "no carrier: none is sent, all are told and all come home");
    site.server.up("eth0").expect("up");
    send(&mut sender, &[numbered(1)]);
    let mut frames = receive(&mut ports[0], |frames| !frames.is_empty());
    assert_eq!(ports[1].tx(NOW, &mut frames, &mut back).frames, 1);
    drain(&mut ports[1], &mut back);
    give_back(&mut ports, &mut back);
}

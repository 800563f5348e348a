//! Super-frames: whole through the port, with what was left to offload.

use std::net::SocketAddr;
use std::thread;

use pollgate::lab::traffic::{Server, connect, echo_bulk, greeting};
use pollgate::lab::{Namespace, OffloadSwitch, Veth};
use pollgate_common::net::Mac;
use pollgate_dataplane::port::Offload;

use crate::socket_ports::support::*;

/// A worker with nothing in its head: what comes in at one port goes out by the other, hardware addresses rewritten.
fn forward<P: Kind>(mut ports: [(P, Mac, Mac); 2], stop: &std::sync::atomic::AtomicBool) -> Forwarded {
    let mut seen = Forwarded::default();
    let (mut frames, mut back) = (Vec::new(), Vec::new());
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        for from in 0..2 {
            ports[from].0.rx(NOW, 64, &mut frames);
            let (_, own, next) = ports[1 - from];
            for frame in &mut frames {
                seen.frames += 1;
                seen.largest = seen.largest.max(frame.len());
                frame.bytes_mut()[..6].copy_from_slice(&next.0);
                frame.bytes_mut()[6..12].copy_from_slice(&own.0);
            }
            ports[1 - from].0.tx(NOW, &mut frames, &mut back);
            for returned in back.drain(..) {
                seen.dropped += u64::from(returned.dropped.is_some());
                ports[from].0.release(returned.frame);
            }
        }
    }
    seen.missed = ports.iter_mut().map(|port| missed(&mut port.0)).sum();
    seen
}

#[derive(Debug, Default)]
struct Forwarded {
    frames: u64,
    largest: usize,
    dropped: u64,
    missed: u64,
}

/// Bulk TCP between two namespaces through `forward`, both ways at once.
fn bulk<P: Kind>(segmentation_offload: bool) -> Forwarded {
    let names = ["client", "middle", "server"];
    let [client, middle, server] = names.map(|name| Namespace::new(name).expect("a namespace"));
    let macs = |n| (Mac([2, 0, 0, 0, n, 1]), Mac([2, 0, 0, 0, n, 2]));
    for (n, host, name) in [(1u8, &client, "c"), (2, &server, "s")] {
        Veth::new((host, "eth0"), (&middle, name)).macs(macs(n).0, macs(n).1).make().expect("a veth pair");
        host.add_address("eth0", format!("10.0.0.{n}/24").parse().expect("an address")).expect("the address");
        host.add_neighbour("eth0", address(3 - n), macs(n).1).expect("the neighbour");
        middle.offload(name, OffloadSwitch::Tso, segmentation_offload).expect("switched");
    }
    let port = |name, n: u8| (open::<P>(&middle, name, 1024), macs(n).1, macs(n).0);
    let ports = [port("c", 1), port("s", 2)];
    let _server = Server::tcp(&server, SocketAddr::new(address(2), 7), "server").expect("a server");
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| forward(ports, &stop));
        let result = connect(&client, SocketAddr::new(address(2), 7), PATIENCE).and_then(|stream| {
            assert_eq!(greeting(&stream)?, "server");
            echo_bulk(&stream, 64 << 20)
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let seen = worker.join().expect("the worker ended well");
        result.unwrap_or_else(|error| panic!("the bulk transfer: {error}; forwarded {seen:?}"));
        seen
    })
}

pub(crate) fn super_frames_pass_whole_in_and_out<P: Kind>() {
    let seen = bulk::<P>(true);
    println!("{seen:?}");
    assert!(seen.largest > 30_000, "no super-frames came: {seen:?}");
    assert!(
        seen.frames < 60_000,
        "128 MB in frames of 1500 bytes would be 88,000 and their acknowledgements: {seen:?}"
    );
}

pub(crate) fn super_frames_are_cut_up_by_the_kernel_where_the_device_cannot<P: Kind>() {
    let seen = bulk::<P>(false);
    println!("{seen:?}");
    assert!(seen.largest > 30_000, "no super-frames came: {seen:?}");
}

/// A UDP super-frame of 44 segments, marked with its number, and what it leaves to offload.
fn super_frame(number: u16) -> (Vec<u8>, Offload) {
    const SEGMENT: u16 = 1400;
    let udp = 8 + 44 * SEGMENT;
    let mut frame = [RIGHT.0, LEFT.0].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + udp).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([7, 7, 7, 7]);
    frame.extend(udp.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(number.to_be_bytes());
    frame.resize(34 + usize::from(udp), 0xa5);
    let offload = Offload {
        flags: Offload::NEEDS_CSUM,
        gso_type: 5, // VIRTIO_NET_HDR_GSO_UDP_L4
        hdr_len: 42,
        gso_size: SEGMENT,
        csum_start: 34,
        csum_offset: 6,
    };
    (frame, offload)
}

pub(crate) fn super_frames_are_taken_whole_or_counted_and_wait_for_a_buffer<P: Kind>() {
    const MANY: u16 = 1000;
    let cable = Cable::new();
    let mut port = cable.open::<P>(2048);
    let mut sender = open::<P>(&cable.left, "eth0", 256);
    for number in 0..MANY {
        let (mut bytes, offload) = super_frame(number);
        let (mut batch, mut back) = (vec![frame_over(&mut bytes).with_offload(offload)], Vec::new());
        sender.tx(NOW, &mut batch, &mut back);
        assert_eq!(outcomes(&back), [None]);
    }
    // All that fits the side buffers is taken and kept; the rest waits.
    let mut frames = Vec::new();
    (0..100).for_each(|_| port.rx(NOW, 64, &mut frames));
    assert!((1..=256).contains(&frames.len()), "{} side buffers", frames.len());
    let (mut whole, mut last) = (0u64, None);
    while !frames.is_empty() {
        for frame in frames.drain(..) {
            let number = u16::from_be_bytes([frame.bytes()[42], frame.bytes()[43]]);
            let (bytes, offload) = super_frame(number);
            assert!(frame.bytes() == bytes, "number {number} is not as it was sent");
            // How much of a frame is header is the kernel's own guess.
            assert_eq!(*frame.offload(), Offload { hdr_len: frame.offload().hdr_len, ..offload });
            assert!(last < Some(number), "{number} after {last:?}");
            last = Some(number);
            whole += 1;
            port.release(frame);
        }
        port.rx(NOW, 64, &mut frames);
    }
    let lost = missed(&mut port);
    assert_eq!(whole + lost, u64::from(MANY), "{whole} whole, {lost} counted");
    assert!(lost > 0, "the queue has a bound, and a thousand are more");
    println!("{whole} whole, {lost} counted");
}

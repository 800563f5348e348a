//! The AF_PACKET port over real veth pairs: what goes in comes out whole, with what was left to offload.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ptr::NonNull;
use std::thread;
use std::time::{Duration, Instant as Clock};

use pollgate::lab::traffic::{Server, connect, echo_bulk, greeting};
use pollgate::lab::{Namespace, OffloadSwitch, Veth, in_lab};
use pollgate_common::drops::Drop as Reason;
use pollgate_common::flow::{FlowKey, Protocol, V4};
use pollgate_common::hash::RingHash;
use pollgate_common::net::{Mac, PortId};
use pollgate_common::tables::{FrontendKey, Settings};
use pollgate_common::time::Instant;
use pollgate_dataplane::bpf::classic::Program;
use pollgate_dataplane::port::packet::{FanoutRules, OpenError, PacketOptions, PacketPort};
use pollgate_dataplane::port::{Frame, Offload, Origin, Port, Returned};
use pollgate_dataplane::steer::{Steering, Towards};

const NOW: Instant = Instant(0);
const PATIENCE: Duration = Duration::from_secs(5);
const LEFT: Mac = Mac([2, 0, 0, 0, 0, 1]);
const RIGHT: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// Two namespaces and a cable. The left one has an address and the right one is polled: no kernel answers there.
struct Cable {
    left: Namespace,
    right: Namespace,
}

impl Cable {
    fn new() -> Cable {
        let left = Namespace::new("left").expect("a namespace");
        let right = Namespace::new("right").expect("a namespace");
        Veth::new((&left, "eth0"), (&right, "eth0")).macs(LEFT, RIGHT).make().expect("a veth pair");
        left.add_address("eth0", "10.0.0.1/24".parse().expect("an address")).expect("the address");
        left.add_neighbour("eth0", address(2), RIGHT).expect("the neighbour");
        Cable { left, right }
    }

    fn open(&self, ring_frames: u32) -> PacketPort {
        open(&self.right, "eth0", ring_frames)
    }
}

fn open(namespace: &Namespace, interface: &str, ring_frames: u32) -> PacketPort {
    open_as(namespace, interface, ring_frames, (0, 1))
}

fn open_as(namespace: &Namespace, interface: &str, ring_frames: u32, (worker, workers): (u16, u16)) -> PacketPort {
    let options = PacketOptions { interface, port: PortId(0), worker, workers, fanout: None, ring_frames };
    namespace.run(|| PacketPort::open(&options)).expect("an open port")
}

/// What steering depends on: one gateway address, and the ports of translated sources.
fn settings() -> Settings {
    Settings {
        gateway_v4: vec![Ipv4Addr::new(10, 0, 0, 10)],
        gateway_v6: vec![],
        dns: vec![],
        pod_cidrs: vec![],
        service_cidrs: vec![],
        masquerade_all: false,
        snat_ports: 1024..=29999,
        ring_hash: RingHash::new(""),
    }
}

fn workers_of(cable: &Cable, program: &Program) -> [PacketPort; 2] {
    [0, 1].map(|worker| {
        let (interface, port, fanout) = ("eth0", PortId(0), Some(program));
        let options = PacketOptions { interface, port, worker, workers: 2, fanout, ring_frames: 1024 };
        cable.right.run(|| PacketPort::open(&options)).expect("an open port")
    })
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
fn owners_by_kernel(cable: &Cable, ports: &mut [PacketPort; 2], keys: &[FlowKey<V4>], tag: &[u8]) -> Vec<u16> {
    inject(cable, &keys.iter().map(|key| datagram(key, tag)).collect::<Vec<_>>());
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

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn socket(namespace: &Namespace) -> UdpSocket {
    namespace.run(|| UdpSocket::bind((address(1), 0))).expect("a socket")
}

/// Takes frames until `enough` says so.
fn receive(port: &mut PacketPort, enough: impl Fn(&[Frame]) -> bool) -> Vec<Frame> {
    let mut frames = Vec::new();
    let deadline = Clock::now() + PATIENCE;
    while !enough(&frames) {
        port.rx(NOW, 64, &mut frames);
        assert!(Clock::now() < deadline, "after {PATIENCE:?} there are only {} frames", frames.len());
    }
    frames
}

/// What was lost, once nothing more comes.
fn missed(port: &mut PacketPort) -> u64 {
    let mut frames = Vec::new();
    (0..64).for_each(|_| port.rx(NOW, 64, &mut frames));
    release(port, frames);
    port.missed()
}

fn release(port: &mut PacketPort, frames: Vec<Frame>) {
    frames.into_iter().for_each(|frame| port.release(frame));
}

fn is_udp(frame: &Frame) -> bool {
    frame.bytes().get(12..14) == Some(&[8, 0]) && frame.bytes().get(23) == Some(&17)
}

/// The frame as it would go back to its sender: addresses of both layers and ports exchanged, sums unchanged by that.
fn turn_round(frame: &mut Frame) {
    let bytes = frame.bytes_mut();
    let (to, from) = bytes[..12].split_at_mut(6);
    to.swap_with_slice(from);
    let (source, destination) = bytes[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = bytes[34..38].split_at_mut(2);
    source.swap_with_slice(destination);
}

fn outcomes(back: &[Returned]) -> Vec<Option<Reason>> {
    back.iter().map(|returned| returned.dropped).collect()
}

#[test]
fn a_frame_comes_in_as_sent_with_its_partial_checksum_and_goes_back_finished_by_the_kernel() {
    in_lab("a_frame_comes_in_as_sent_with_its_partial_checksum_and_goes_back_finished_by_the_kernel", || {
        for (checksum_offload, sum_left) in [(true, true), (false, false)] {
            let cable = Cable::new();
            cable.left.offload("eth0", OffloadSwitch::TxChecksum, checksum_offload).expect("switched");
            let mut port = cable.open(256);
            let client = socket(&cable.left);
            client.connect((address(2), 7)).expect("connected");
            client.set_read_timeout(Some(PATIENCE)).expect("set");
            client.send(b"a datagram through the port").expect("sent");
            let mut frames = receive(&mut port, |frames| frames.iter().any(is_udp));
            frames.retain(is_udp);
            let frame = &mut frames[0];
            assert_eq!(&frame.bytes()[..6], &RIGHT.0);
            assert!(frame.bytes().ends_with(b"a datagram through the port"));
            assert_eq!(frame.offload().is_partial(), sum_left, "transmit checksums {checksum_offload}");
            assert!(frame.room() >= frame.len() + 1000, "room for an answer, not {}", frame.room());
            turn_round(frame);
            let mut back = Vec::new();
            let sent = port.tx(NOW, &mut frames, &mut back);
            assert_eq!((sent.frames, sent.bytes), (1, 14 + 20 + 8 + 27));
            assert_eq!(outcomes(&back), [None]);
            let mut answer = [0; 64];
            let length = client.recv(&mut answer).expect("the kernel took the frame's checksum for right");
            assert_eq!(&answer[..length], b"a datagram through the port");
            release(&mut port, back.into_iter().map(|returned| returned.frame).collect());
            assert_eq!(missed(&mut port), 0);
        }
    });
}

/// A worker with nothing in its head: what comes in at one port goes out by the other, hardware addresses rewritten.
fn forward(mut ports: [(PacketPort, Mac, Mac); 2], stop: &std::sync::atomic::AtomicBool) -> Forwarded {
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
fn bulk(segmentation_offload: bool) -> Forwarded {
    let names = ["client", "middle", "server"];
    let [client, middle, server] = names.map(|name| Namespace::new(name).expect("a namespace"));
    let macs = |n| (Mac([2, 0, 0, 0, n, 1]), Mac([2, 0, 0, 0, n, 2]));
    for (n, host, name) in [(1u8, &client, "c"), (2, &server, "s")] {
        Veth::new((host, "eth0"), (&middle, name)).macs(macs(n).0, macs(n).1).make().expect("a veth pair");
        host.add_address("eth0", format!("10.0.0.{n}/24").parse().expect("an address")).expect("the address");
        host.add_neighbour("eth0", address(3 - n), macs(n).1).expect("the neighbour");
        middle.offload(name, OffloadSwitch::Tso, segmentation_offload).expect("switched");
    }
    let port = |name, n: u8| (open(&middle, name, 1024), macs(n).1, macs(n).0);
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

#[test]
fn super_frames_pass_whole_in_and_out() {
    in_lab("super_frames_pass_whole_in_and_out", || {
        let seen = bulk(true);
        println!("{seen:?}");
        assert!(seen.largest > 30_000, "no super-frames came: {seen:?}");
        assert!(
            seen.frames < 60_000,
            "128 MB in frames of 1500 bytes would be 88,000 and their acknowledgements: {seen:?}"
        );
    });
}

#[test]
fn super_frames_are_cut_up_by_the_kernel_where_the_device_cannot() {
    in_lab("super_frames_are_cut_up_by_the_kernel_where_the_device_cannot", || {
        let seen = bulk(false);
        println!("{seen:?}");
        assert!(seen.largest > 30_000, "no super-frames came: {seen:?}");
    });
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

#[test]
fn super_frames_are_taken_whole_or_counted_and_wait_for_a_buffer() {
    in_lab("super_frames_are_taken_whole_or_counted_and_wait_for_a_buffer", || {
        const MANY: u16 = 1000;
        let cable = Cable::new();
        let mut port = cable.open(2048);
        let mut sender = open(&cable.left, "eth0", 256);
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
    });
}

/// A small Ethernet frame of an experimental EtherType (IEEE 802 local experimental 1).
fn experimental(number: u8, length: usize) -> Vec<u8> {
    let mut frame = [RIGHT.0, LEFT.0].concat();
    frame.extend([0x88, 0xb5, number]);
    frame.resize(length, number);
    frame
}

/// A frame over bytes of the test's own. They must outlive it and be left alone meanwhile.
fn frame_over(bytes: &mut [u8]) -> Frame {
    let length = u32::try_from(bytes.len()).expect("a small frame");
    let pointer = NonNull::new(bytes.as_mut_ptr()).expect("never null");
    // SAFETY: every caller keeps the bytes until the frame is back from `tx`, and does not touch them before.
    unsafe { Frame::new(pointer, length, length, Origin::Worker(0), PortId(0), 0) }
}

/// One raw frame out of `port`.
fn send_raw(port: &mut PacketPort, bytes: &[u8]) {
    let mut memory = bytes.to_vec();
    let (mut batch, mut back) = (vec![frame_over(&mut memory)], Vec::new());
    port.tx(NOW, &mut batch, &mut back);
    assert_eq!(outcomes(&back), [None]);
}

/// Raw frames out of the cable's left end, through a port of their own.
fn inject(cable: &Cable, frames: &[Vec<u8>]) {
    let mut port = open(&cable.left, "eth0", 256);
    frames.iter().for_each(|bytes| send_raw(&mut port, bytes));
}

fn is_experimental(frame: &Frame) -> bool {
    frame.bytes().get(12..14) == Some(&[0x88, 0xb5])
}

#[test]
fn a_vlan_tag_that_the_kernel_took_out_is_put_back() {
    in_lab("a_vlan_tag_that_the_kernel_took_out_is_put_back", || {
        let cable = Cable::new();
        let mut port = cable.open(256);
        let mut tagged = [RIGHT.0, LEFT.0].concat();
        tagged.extend([0x81, 0x00, 0x20, 0x07, 0x88, 0xb5]);
        tagged.extend(b"tagged with VLAN 7, priority 1, and padded to sixty bytes at least");
        inject(&cable, std::slice::from_ref(&tagged));
        let frames = receive(&mut port, |frames| frames.iter().any(|f| f.bytes()[12..14] == [0x81, 0]));
        let frame = frames.iter().find(|f| f.bytes()[12..14] == [0x81, 0]).expect("the tagged frame");
        assert_eq!(frame.bytes(), tagged);
        release(&mut port, frames);
    });
}

#[test]
fn frames_for_others_are_seen_and_our_own_are_not() {
    in_lab("frames_for_others_are_seen_and_our_own_are_not", || {
        let cable = Cable::new();
        let mut port = cable.open(256);
        let mut foreign = experimental(1, 60);
        foreign[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
        send_raw(&mut port, &experimental(9, 60));
        inject(&cable, &[foreign.clone(), experimental(2, 60)]);
        let frames = receive(&mut port, |frames| frames.iter().filter(|f| is_experimental(f)).count() == 2);
        let got: Vec<&[u8]> = frames.iter().filter(|f| is_experimental(f)).map(Frame::bytes).collect();
        assert_eq!(got, [foreign.as_slice(), &experimental(2, 60)]);
        release(&mut port, frames);
    });
}

#[test]
fn a_full_ring_loses_the_newest_counts_them_and_goes_on() {
    in_lab("a_full_ring_loses_the_newest_counts_them_and_goes_on", || {
        let cable = Cable::new();
        let mut port = cable.open(64);
        let many: Vec<Vec<u8>> = (0..100).map(|n| experimental(n, 60)).collect();
        inject(&cable, &many);
        let mut frames = receive(&mut port, |frames| frames.len() == 64);
        let lost = missed(&mut port);
        let ours = frames.iter().filter(|f| is_experimental(f)).count() as u64;
        assert_eq!(lost, 100 - ours, "each of the hundred is either here or counted");
        assert_eq!(missed(&mut port), 0, "and counted once");
        let numbers: Vec<u8> = frames.iter().filter(|f| is_experimental(f)).map(|f| f.bytes()[14]).collect();
        assert!(numbers.is_sorted(), "in the order they were sent: {numbers:?}");
        // Out of order, and one kept: the ring goes on up to it.
        let kept = frames.remove(10);
        let bytes = kept.bytes().to_vec();
        frames.reverse();
        release(&mut port, frames);
        inject(&cable, &many[..30]);
        let again = receive(&mut port, |frames| frames.len() >= 10);
        assert_eq!(again.len(), 10, "no further than the slot that is kept");
        assert_eq!(kept.bytes(), bytes, "and what is kept is left alone");
        port.release(kept);
        release(&mut port, again);
        inject(&cable, &many[..5]);
        let rest = receive(&mut port, |frames| frames.len() == 5);
        assert_eq!(port.missed(), 20, "the rest of the thirty, told by the first frame that came after them");
        release(&mut port, rest);
    });
}

#[test]
fn what_cannot_be_sent_has_its_reason_and_the_rest_is_sent() {
    in_lab("what_cannot_be_sent_has_its_reason_and_the_rest_is_sent", || {
        let cable = Cable::new();
        let mut port = cable.open(256);
        let mut listener = open(&cable.left, "eth0", 256);
        let mut memory: Vec<Vec<u8>> =
            vec![experimental(1, 60), experimental(2, 1600), Vec::new(), experimental(4, 60)];
        let mut batch: Vec<Frame> = memory.iter_mut().map(|bytes| frame_over(bytes)).collect();
        let mut back = Vec::new();
        let sent = port.tx(NOW, &mut batch, &mut back);
        assert_eq!((sent.frames, sent.bytes), (2, 120));
        assert_eq!(outcomes(&back), [None, Some(Reason::TxTooLong), Some(Reason::TxError), None]);
        let frames = receive(&mut listener, |frames| frames.iter().filter(|f| is_experimental(f)).count() == 2);
        let numbers: Vec<u8> = frames.iter().filter(|f| is_experimental(f)).map(|f| f.bytes()[14]).collect();
        assert_eq!(numbers, [1, 4]);
        release(&mut listener, frames);
    });
}

#[test]
fn a_link_that_goes_down_and_comes_back_is_polled_on() {
    in_lab("a_link_that_goes_down_and_comes_back_is_polled_on", || {
        let cable = Cable::new();
        let mut port = cable.open(256);
        cable.right.down("eth0").expect("down");
        let mut memory = experimental(1, 60);
        let (mut batch, mut back) = (vec![frame_over(&mut memory)], Vec::new());
        port.tx(NOW, &mut batch, &mut back);
        assert_eq!(outcomes(&back), [Some(Reason::TxLinkDown)]);
        cable.right.up("eth0").expect("up");
        // Down and up once more, so that the error it leaves is met by a sender on a link that is up.
        cable.right.down("eth0").expect("down");
        cable.right.up("eth0").expect("up");
        batch.extend(back.drain(..).map(|returned| returned.frame));
        port.tx(NOW, &mut batch, &mut back);
        assert_eq!(outcomes(&back), [None], "an old error costs no frame");
        inject(&cable, &[experimental(3, 60)]);
        let frames = receive(&mut port, |frames| frames.iter().any(is_experimental));
        release(&mut port, frames);
    });
}

#[test]
fn workers_share_an_interface_and_each_frame_goes_to_one() {
    in_lab("workers_share_an_interface_and_each_frame_goes_to_one", || {
        let cable = Cable::new();
        let mut ports = [0, 1].map(|worker| open_as(&cable.right, "eth0", 256, (worker, 2)));
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
    });
}

#[test]
fn the_kernel_chooses_the_worker_that_owns_the_flow() {
    in_lab("the_kernel_chooses_the_worker_that_owns_the_flow", || {
        const FLOWS: u16 = 200;
        const GATEWAY: [u8; 4] = [10, 0, 0, 10];
        let cable = Cable::new();
        let (steering, settings) = (Steering::new(2, [5, 6, 7, 8]), settings());
        let range = |last: [u8; 4], first: [u8; 4]| IpAddr::from(first)..=IpAddr::from(last);
        let mut owned = vec![range([10, 96, 255, 255], [10, 96, 0, 0]), range(GATEWAY, GATEWAY)];
        let mut services = Vec::new();
        let rules = FanoutRules { steering: &steering, settings: &settings, owned: &owned, services: &services };
        let mut ports = workers_of(&cable, &rules.program());
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
    });
}

#[test]
fn the_largest_program_is_taken() {
    in_lab("the_largest_program_is_taken", || {
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
        drop(workers_of(&cable, &rules.program()));
    });
}

#[test]
fn opening_says_what_is_missing() {
    in_lab("opening_says_what_is_missing", || {
        let cable = Cable::new();
        let refused = |interface: &str| {
            let options =
                PacketOptions { interface, port: PortId(0), worker: 0, workers: 1, fanout: None, ring_frames: 64 };
            cable.right.run(|| PacketPort::open(&options)).expect_err("refused")
        };
        let missing = refused("eth7").to_string();
        assert_eq!(
            missing,
            "there is no interface \"eth7\" here; there is lo, eth0: correct interfaces[].name or create it"
        );
        assert!(matches!(refused("a-name-longer-than-fifteen"), OpenError::NoInterface { .. }));
        assert!(matches!(refused("lo"), OpenError::NotEthernet { kind: 772, .. }));
    });
}

#[test]
fn a_sleeping_worker_is_woken_by_a_frame_and_not_for_long_by_a_link_error() {
    in_lab("a_sleeping_worker_is_woken_by_a_frame_and_not_for_long_by_a_link_error", || {
        let cable = Cable::new();
        let mut port = cable.open(256);
        let mut frames = receive(&mut port, |_| true);
        cable.right.down("eth0").expect("down");
        cable.right.up("eth0").expect("up");
        let quiet = (0..200).any(|_| {
            port.rx(NOW, 64, &mut frames);
            release(&mut port, std::mem::take(&mut frames));
            !readable(&port, 20)
        });
        assert!(quiet, "the socket stays readable although there is nothing to read");
        inject(&cable, &[experimental(3, 60)]);
        assert!(readable(&port, 1000), "a frame wakes");
    });
}

fn readable(port: &PacketPort, milliseconds: i32) -> bool {
    use std::os::fd::AsRawFd;
    let fd = port.wait_on().expect("a socket").as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, live for the call.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) == 1 }
}

#[test]
fn the_kernel_keeps_its_own_copy_of_what_is_polled() {
    in_lab("the_kernel_keeps_its_own_copy_of_what_is_polled", || {
        let cable = Cable::new();
        let mut port = cable.open(256);
        cable.right.add_address("eth0", "10.0.0.2/24".parse().expect("an address")).expect("the address");
        let listener = cable.right.run(|| TcpListener::bind((address(2), 80))).expect("a listener");
        let to = SocketAddr::new(address(2), 80);
        cable.left.run(|| TcpStream::connect_timeout(&to, PATIENCE)).expect("the kernel answered");
        drop(listener);
        let frames = receive(&mut port, |frames| frames.iter().any(|f| f.bytes().get(23) == Some(&6)));
        release(&mut port, frames);
    });
}

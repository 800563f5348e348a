//! One port at the end of a cable: what comes in, what goes out, what is lost and counted, what opening refuses.

use std::net::UdpSocket;
use std::time::Instant as Clock;

use pollgate::lab::{OffloadSwitch, Veth};
use pollgate_common::net::PortId;
use pollgate_common::reasons::DropReason as Reason;
use pollgate_dataplane::port::packet::{PacketOptions, PacketPort};
use pollgate_dataplane::port::xdp::{self, Mode, Program, XdpOptions, XdpPort};
use pollgate_dataplane::port::{Backlog, Frame, Offload, OpenError, Origin, Port};

use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, Lab};
use crate::shared::until;
use crate::xdp::support::{
    Cable, FRAMES, NOW, PATIENCE, RIGHT, attach, beside, drain, frame_over, ip, is_empty, missed, number, numbered,
    numbers, receive, release, reply_in_place, send, until_missed,
};

tests! {
    [Lab, Bpf] =>
        a_datagram_comes_in_whole_and_goes_back_with_a_complete_checksum,
        what_is_not_ours_goes_to_the_kernel_and_tagged_frames_too,
        an_address_is_owned_and_disowned_while_frames_pass,
        more_than_it_can_take_is_counted_and_it_goes_on,
        frames_from_elsewhere_are_copied_and_what_cannot_be_sent_has_its_reason,
        a_partial_checksum_from_another_kind_of_port_is_finished,
        a_full_send_ring_is_a_drop_with_its_reason,
        a_link_that_goes_down_and_comes_back_is_polled_on,
        an_interface_may_be_down_when_its_port_is_opened,
        a_program_that_ends_leaves_everything_to_the_kernel,
        a_port_is_opened_again_at_once_on_the_queue_it_had,
        several_queues_are_one_port_or_are_shared_by_workers,
        a_sleeping_worker_is_woken_by_a_frame_on_any_queue,
        opening_says_what_is_wrong_and_what_to_do,
        frames_up_to_the_largest_mtu_are_carried_and_a_larger_one_is_refused,
        a_super_frame_from_another_kind_of_port_is_too_long,
        super_frames_are_cut_up_for_a_native_port_and_missed_by_a_generic_one,
        a_port_beside_it_sees_nothing_of_what_was_taken;
}

fn socket(cable: &Cable) -> UdpSocket {
    cable.left.run(|| UdpSocket::bind((ip("10.0.0.1"), 0))).expect("a socket")
}

fn a_datagram_comes_in_whole_and_goes_back_with_a_complete_checksum() {
    for (checksum_offload, sum_left) in [(true, true), (false, false)] {
        let cable = Cable::new();
        cable.left.offload("eth0", OffloadSwitch::TxChecksum, checksum_offload).expect("switched");
        let mut port = cable.open();
        assert_eq!(port.mode(), Mode::NativeCopy);
        let client = socket(&cable);
        client.connect((ip("10.0.0.2"), 7)).expect("connected");
        client.set_read_timeout(Some(PATIENCE)).expect("set");
        client.send(b"a datagram through the port").expect("sent");
        let mut frames = receive(&mut port, |frames| !frames.is_empty());
        assert_eq!(frames.len(), 1, "and nothing else is ours");
        let frame = &mut frames[0];
        assert_eq!(&frame.bytes()[..6], &RIGHT.0);
        assert!(frame.bytes().ends_with(b"a datagram through the port"));
        assert_eq!(frame.offload().is_partial(), sum_left, "transmit checksums {checksum_offload}");
        assert_eq!((frame.origin(), frame.received_on()), (Origin::Port(PortId(0)), PortId(0)));
        assert!(frame.room() >= frame.len() + 250, "room for an answer, not {}", frame.room());
        reply_in_place(frame);
        let mut back = Vec::new();
        let sent = port.tx(NOW, &mut frames, &mut back);
        assert_eq!((sent.frames, sent.bytes), (1, 14 + 20 + 8 + 27));
        let mut answer = [0; 64];
        let length = client.recv(&mut answer).expect("the kernel took the frame's checksum for right");
        assert_eq!(&answer[..length], b"a datagram through the port");
        drain(&mut port, &mut back);
        assert!(back.is_empty(), "its own buffer came home by itself");
        assert_eq!(missed(&mut port), 0);
    }
}

fn what_is_not_ours_goes_to_the_kernel_and_tagged_frames_too() {
    let cable = Cable::new();
    cable.right.add_address("eth0", "10.0.0.9/24".parse().expect("an address")).expect("the address");
    let mut port = cable.open();
    let mut kernel = beside(&cable.right, "eth0");
    let mut tagged = numbered(1);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let mut other = numbered(2);
    other[33] = 9;
    let mut sender = beside(&cable.left, "eth0");
    assert_eq!(send(&mut sender, &[tagged.clone(), numbered(3), other.clone()]), [None; 3]);
    let ours = receive(&mut port, |frames| !frames.is_empty());
    assert_eq!(numbers(&ours), [3]);
    let theirs = receive(&mut kernel, |frames| frames.iter().any(|frame| frame.bytes() == other));
    assert!(theirs.iter().any(|frame| frame.bytes() == tagged), "the tagged frame is the kernel's, tag and all");
    assert!(!numbers(&theirs).contains(&3), "what we took, the kernel has not");
    assert!(!port.kernel_has_copy());
    release(&mut port, ours);
    release(&mut kernel, theirs);
}

fn an_address_is_owned_and_disowned_while_frames_pass() {
    let cable = Cable::new();
    let mut port = cable.open();
    let mut kernel = beside(&cable.right, "eth0");
    let mut sender = beside(&cable.left, "eth0");
    for (owned, n) in [(true, 1), (false, 2), (true, 3)] {
        let change = if owned { cable.rules.own(ip("10.0.0.2")) } else { cable.rules.disown(ip("10.0.0.2")) };
        change.expect("changed");
        send(&mut sender, &[numbered(n)]);
        // It goes to one of the two, whole.
        if owned {
            let frames = receive(&mut port, |frames| !frames.is_empty());
            assert_eq!(numbers(&frames), [n]);
            release(&mut port, frames);
        } else {
            let frames = receive(&mut kernel, |frames| numbers(frames) == [n]);
            release(&mut kernel, frames);
            assert!(is_empty(&mut port));
        }
    }
}

fn more_than_it_can_take_is_counted_and_it_goes_on() {
    let cable = Cable::new();
    let mut port = cable.open();
    let mut sender = beside(&cable.left, "eth0");
    let many: Vec<Vec<u8>> = (0..200).map(numbered).collect();
    send(&mut sender, &many);
    let fits = u16::try_from(FRAMES / 2).expect("few");
    until_missed(&mut port, 200 - u64::from(fits));
    assert_eq!(port.backlog(), Backlog::Large);
    let frames = receive(&mut port, |frames| frames.len() == usize::from(fits));
    assert_eq!(port.backlog(), Backlog::Little, "what is lent does not wait");
    let got = numbers(&frames);
    assert_eq!(got, (0..fits).collect::<Vec<_>>(), "the oldest, in order");
    assert!(is_empty(&mut port), "the rest is lost");
    assert_eq!(missed(&mut port), 0, "and counted once");
    // Frames that are kept are not written to, and the port goes on with what it has left.
    send(&mut sender, &many[..20]);
    let more = receive(&mut port, |frames| frames.len() == 20);
    assert_eq!(numbers(&more), (0..20).collect::<Vec<_>>());
    assert_eq!(numbers(&frames), got);
    release(&mut port, frames);
    release(&mut port, more);
    for round in 0..20 {
        send(&mut sender, &many[..100]);
        let frames = receive(&mut port, |frames| frames.len() == 100);
        assert_eq!(numbers(&frames), (0..100).collect::<Vec<_>>(), "round {round}");
        release(&mut port, frames);
    }
    assert_eq!(missed(&mut port), 0);
}

fn frames_from_elsewhere_are_copied_and_what_cannot_be_sent_has_its_reason() {
    let cable = Cable::new();
    let mut port = cable.open();
    let mut listener = beside(&cable.left, "eth0");
    let full = {
        let mut full = numbered(1);
        full.resize(1514, 7);
        full
    };
    let long = {
        let mut long = numbered(2);
        long.resize(1600, 7);
        long
    };
    let frames = [full.clone(), long, Vec::new(), vec![0; 13], numbered(3)];
    let dropped = [None, Some(Reason::TxTooLong), Some(Reason::TxError), Some(Reason::TxError), None];
    assert_eq!(send(&mut port, &frames), dropped);
    let got = receive(&mut listener, |frames| numbers(frames) == [3]);
    assert!(got.iter().any(|frame| frame.bytes() == full));
    release(&mut listener, got);
    // Many times over what the port has in chunks: copies come home.
    for start in (0..2000u16).step_by(50) {
        let burst: Vec<Vec<u8>> = (start..start + 50).map(numbered).collect();
        assert_eq!(send(&mut port, &burst), [None; 50]);
        let got = receive(&mut listener, |frames| numbers(frames).len() == 50);
        assert_eq!(numbers(&got), (start..start + 50).collect::<Vec<_>>());
        release(&mut listener, got);
        drain(&mut port, &mut Vec::new());
    }
}

fn a_partial_checksum_from_another_kind_of_port_is_finished() {
    let cable = Cable::new();
    let mut port = cable.open();
    let client = socket(&cable);
    client.set_read_timeout(Some(PATIENCE)).expect("set");
    let to = client.local_addr().expect("an address").port();
    let builder = etherparse::PacketBuilder::ethernet2(RIGHT.0, [2, 0, 0, 0, 0, 1])
        .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
        .udp(7, to);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"partial").expect("a packet");
    // 10.0 + 0.2 + 10.0 + 0.1 + UDP + its length, as the kernel leaves it to a device.
    bytes[40..42].copy_from_slice(&(0x0a00u16 + 2 + 0x0a00 + 1 + 17 + 15).to_be_bytes());
    let offload = Offload { flags: Offload::NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..Offload::default() };
    let (mut batch, mut back) = (vec![frame_over(&mut bytes).with_offload(offload)], Vec::new());
    assert_eq!(port.tx(NOW, &mut batch, &mut back).frames, 1);
    let mut answer = [0; 64];
    let length = client.recv(&mut answer).expect("the kernel took the checksum for right");
    assert_eq!(&answer[..length], b"partial");
}

fn a_full_send_ring_is_a_drop_with_its_reason() {
    let cable = Cable::new();
    let mut port = cable.open();
    // All in one call: half of the chunks are for receiving, the other half can be on their way.
    let mut memory: Vec<Vec<u8>> = (0..2000).map(numbered).collect();
    let mut batch: Vec<Frame> = memory.iter_mut().map(|bytes| frame_over(bytes)).collect();
    let mut back = Vec::new();
    let sent = port.tx(NOW, &mut batch, &mut back);
    let full = back.iter().filter(|returned| returned.dropped == Some(Reason::TxFull)).count() as u64;
    assert_eq!(back.len(), 2000);
    assert_eq!(sent.frames + full, 2000, "each is sent or has its reason");
    assert_eq!(sent.frames, u64::from(FRAMES / 2), "completions come home by the next call only");
    drain(&mut port, &mut Vec::new());
    assert_eq!(send(&mut port, &[numbered(1)]), [None], "and then there is room again");
}

fn a_link_that_goes_down_and_comes_back_is_polled_on() {
    let cable = Cable::new();
    let mut port = cable.open();
    let works = |port: &mut dyn Port| {
        let mut listener = beside(&cable.left, "eth0");
        assert_eq!(send(port, &[numbered(1)]), [None]);
        let got = receive(&mut listener, |frames| !numbers(frames).is_empty());
        release(&mut listener, got);
        send(&mut listener, &[numbered(2)]);
        let got = receive(port, |frames| !frames.is_empty());
        assert_eq!(numbers(&got), [2]);
        release(port, got);
    };
    works(&mut port);
    cable.right.down("eth0").expect("down");
    let down = [Some(Reason::TxLinkDown); 3];
    assert_eq!(send(&mut port, &[numbered(7), numbered(8), numbered(9)]), down, "switched off");
    assert_eq!(send(&mut port, &[numbered(7), numbered(8), numbered(9)]), down, "still off");
    cable.right.up("eth0").expect("up");
    works(&mut port);
    cable.left.down("eth0").expect("down");
    without_carrier(&mut port);
    cable.left.up("eth0").expect("up");
    drain(&mut port, &mut Vec::new());
    works(&mut port);
    cable.right.remove("eth0").expect("removed");
    assert_eq!(send(&mut port, &[numbered(7), numbered(8), numbered(9)]), down, "gone for good");
    assert!(is_empty(&mut port) && !port.is_sending());
}

/// Nothing is sent, and as soon as the kernel says why, so does the port.
fn without_carrier(port: &mut XdpPort) {
    let deadline = Clock::now() + PATIENCE;
    loop {
        let outcomes = send(port, &[numbered(7), numbered(8), numbered(9)]);
        assert!(outcomes.iter().all(Option::is_some), "{outcomes:?} without a carrier");
        drain(port, &mut Vec::new());
        if outcomes == [Some(Reason::TxLinkDown); 3] {
            return;
        }
        assert!(Clock::now() < deadline, "still {outcomes:?}");
    }
}

fn an_interface_may_be_down_when_its_port_is_opened() {
    let cable = Cable::new();
    cable.right.down("eth0").expect("down");
    let mut port = cable.open();
    cable.right.up("eth0").expect("up");
    let mut sender = beside(&cable.left, "eth0");
    send(&mut sender, &[numbered(1)]);
    let got = receive(&mut port, |frames| !frames.is_empty());
    assert_eq!(numbers(&got), [1]);
    release(&mut port, got);
}

fn a_program_that_ends_leaves_everything_to_the_kernel() {
    let cable = Cable::new();
    let mut port = cable.open();
    let mut kernel = beside(&cable.right, "eth0");
    let mut sender = beside(&cable.left, "eth0");
    drop(cable.program);
    send(&mut sender, &[numbered(1)]);
    let theirs = receive(&mut kernel, |frames| numbers(frames) == [1]);
    release(&mut kernel, theirs);
    assert!(is_empty(&mut port));
}

fn a_port_is_opened_again_at_once_on_the_queue_it_had() {
    let cable = Cable::new();
    for round in 0..5 {
        let mut port = cable.open();
        send(&mut port, &[numbered(1)]);
        let mut sender = beside(&cable.left, "eth0");
        send(&mut sender, &[numbered(round)]);
        let got = receive(&mut port, |frames| !frames.is_empty());
        assert_eq!(numbers(&got), [round]);
        release(&mut port, got);
    }
}

fn several_queues_are_one_port_or_are_shared_by_workers() {
    let cable = Cable::with_queues(2);
    let clients: Vec<UdpSocket> = (0..32).map(|_| socket(&cable)).collect();
    let send_all = || {
        for (n, client) in clients.iter().enumerate() {
            client.send_to(&[u8::try_from(n).expect("few"); 40], (ip("10.0.0.2"), 5000)).expect("sent");
        }
    };
    let marks = |frames: &[Frame]| frames.iter().map(|frame| frame.bytes()[42]).collect::<Vec<u8>>();
    let mut one = cable.open();
    send_all();
    let frames = receive(&mut one, |frames| frames.len() == 32);
    let mut seen = marks(&frames);
    seen.sort_unstable();
    assert_eq!(seen, (0..32).collect::<Vec<u8>>(), "both queues are polled");
    drop(frames);
    drop(one);
    let mut ports = [0, 1].map(|worker| cable.try_open(worker, 2).expect("an open port"));
    send_all();
    let mut got = [Vec::new(), Vec::new()];
    until("all have come", || {
        ports.iter_mut().zip(&mut got).for_each(|(port, frames)| port.rx(NOW, 64, frames));
        got.iter().map(Vec::len).sum::<usize>() >= 32
    });
    let mut seen: Vec<u8> = got.iter().flat_map(|frames| marks(frames)).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..32).collect::<Vec<u8>>(), "each frame at one worker, once");
    assert!(got.iter().all(|frames| !frames.is_empty()), "both workers have a share");
    for (port, frames) in ports.iter_mut().zip(got) {
        release(port, frames);
        let mut listener = beside(&cable.left, "eth0");
        assert_eq!(send(port, &[numbered(9)]), [None], "and each can send");
        let got = receive(&mut listener, |frames| !numbers(frames).is_empty());
        release(&mut listener, got);
    }
}

fn a_sleeping_worker_is_woken_by_a_frame_on_any_queue() {
    for queues in [1, 2] {
        let cable = Cable::with_queues(queues);
        let mut port = cable.open();
        let mut woken = 0;
        for client in (0..8).map(|_| socket(&cable)) {
            assert!(!readable(&port, 5), "nothing is there");
            client.send_to(b"wake up", (ip("10.0.0.2"), 5000)).expect("sent");
            woken += u32::from(readable(&port, 60_000));
            let frames = receive(&mut port, |frames| !frames.is_empty());
            release(&mut port, frames);
        }
        assert_eq!(woken, 8, "with {queues} queues");
    }
}

fn readable(port: &dyn Port, milliseconds: i32) -> bool {
    use std::os::fd::AsRawFd;
    let fd = port.wait_on().expect("a descriptor").as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, live for the call.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) == 1 }
}

fn opening_says_what_is_wrong_and_what_to_do() {
    let cable = Cable::new();
    let attach_to = |name: &str| cable.right.run(|| Program::attach(name, &cable.rules)).expect_err("refused");
    assert_eq!(
        attach_to("eth7").to_string(),
        "the interface \"eth7\" does not exist; the host has lo, eth0: correct interfaces[].name or create it"
    );
    assert!(matches!(attach_to("lo"), OpenError::NotEthernet { kind: 772, .. }));
    let told = attach_to("eth0").to_string();
    assert!(told.starts_with("eth0 already has an XDP program"), "{told}");
    let told = cable.try_open(0, 2).expect_err("refused").to_string();
    assert!(told.starts_with("eth0 has 1 receive queue and 2 workers would poll it"), "{told}");
    assert!(told.contains("use fewer workers, more queues (ethtool -L eth0 combined 2"), "{told}");
    let _first = cable.open();
    let told = cable.try_open(0, 1).expect_err("refused").to_string();
    assert!(
        told.starts_with("receive queue 0 of eth0 is still in use by another AF_XDP socket after 2030 ms"),
        "{told}"
    );
}

fn frames_up_to_the_largest_mtu_are_carried_and_a_larger_one_is_refused() {
    let sizes = [(1774u32, 2048, Mode::NativeCopy), (1775, 4096, Mode::NativeCopy), (3822, 4096, Mode::Generic)];
    for (mtu, chunk, mode) in sizes {
        let cable = with_mtu(mtu);
        let mut port = cable.open();
        assert_eq!(port.mode(), mode, "veth's driver takes XDP up to some 3500 bytes");
        let client = socket(&cable);
        client.send_to(&vec![7; mtu as usize - 28], (ip("10.0.0.2"), 5000)).expect("sent");
        let mut frames = receive(&mut port, |frames| !frames.is_empty());
        assert_eq!(frames[0].len(), mtu as usize + 14, "MTU {mtu}");
        assert_eq!(frames[0].room(), chunk - 256);
        let mut back = Vec::new();
        assert_eq!(port.tx(NOW, &mut frames, &mut back).frames, 1);
        drain(&mut port, &mut back);
    }
    let told = with_mtu(3823).try_open(0, 1).expect_err("refused").to_string();
    assert_eq!(
        told,
        "the MTU of eth0 is 3823, but an AF_XDP port supports at most 3822: ip link set eth0 mtu 3822, or use \
         backend: packet"
    );
}

/// The cable, made anew with this MTU.
fn with_mtu(mtu: u32) -> Cable {
    let old = Cable::new();
    let Cable { left, right, rules, program } = old;
    drop(program);
    left.set_mtu("eth0", mtu).expect("set");
    right.set_mtu("eth0", mtu).expect("set");
    let program = attach(&right, "eth0", &rules);
    Cable { left, right, rules, program }
}

fn a_super_frame_from_another_kind_of_port_is_too_long() {
    let cable = Cable::new();
    let mut port = cable.open();
    let mut bytes = vec![0; 9000];
    let offload = Offload { gso_type: 1, gso_size: 1448, hdr_len: 66, ..Offload::default() };
    let (mut batch, mut back) = (vec![frame_over(&mut bytes).with_offload(offload)], Vec::new());
    assert_eq!(port.tx(NOW, &mut batch, &mut back).frames, 0);
    assert_eq!(back[0].dropped, Some(Reason::TxTooLong));
}

/// A UDP super-frame of many segments to the owned address, and what it leaves to offload.
fn super_frame() -> (Vec<u8>, Offload) {
    const SEGMENT: u16 = 1400;
    let mut bytes = numbered(1);
    let udp = 8 + 20 * SEGMENT;
    bytes.resize(34 + usize::from(udp), 7);
    bytes[16..18].copy_from_slice(&(20 + udp).to_be_bytes());
    bytes[38..40].copy_from_slice(&udp.to_be_bytes());
    let (flags, gso_type) = (Offload::NEEDS_CSUM, 5); // VIRTIO_NET_HDR_GSO_UDP_L4
    (bytes, Offload { flags, gso_type, hdr_len: 42, gso_size: SEGMENT, csum_start: 34, csum_offset: 6 })
}

fn super_frames_are_cut_up_for_a_native_port_and_missed_by_a_generic_one() {
    for (mtu, mode, segments, lost) in [(1500, Mode::NativeCopy, 20, 0), (3822, Mode::Generic, 0, 1)] {
        let cable = with_mtu(mtu);
        let mut port = cable.open();
        assert_eq!(port.mode(), mode);
        let mut sender = beside(&cable.left, "eth0");
        let (mut bytes, offload) = super_frame();
        let (mut batch, mut back) = (vec![frame_over(&mut bytes).with_offload(offload)], Vec::new());
        sender.tx(NOW, &mut batch, &mut back);
        assert_eq!(back[0].dropped, None);
        until_missed(&mut port, lost);
        let frames = receive(&mut port, |frames| frames.len() >= segments);
        assert_eq!(frames.len(), segments, "{mode}");
        assert!(frames.iter().all(|frame| frame.len() == 42 + 1400), "{mode}");
        release(&mut port, frames);
        assert!(is_empty(&mut port), "{mode}");
        assert_eq!(missed(&mut port), 0, "{mode}");
    }
}

fn a_port_beside_it_sees_nothing_of_what_was_taken() {
    // Two interfaces of one worker, one of each kind: their numbers and buffers do not get mixed up.
    let cable = Cable::new();
    Veth::new((&cable.left, "eth1"), (&cable.right, "eth1")).make().expect("a veth pair");
    let interfaces = [(&cable.program, PortId(1))];
    let options = XdpOptions { interfaces: &interfaces, worker: 0, workers: 1, frames: FRAMES, busy_poll: false };
    let mut port = cable.right.run(|| xdp::open(&options)).expect("open").pop().expect("one");
    let packet = PacketOptions {
        interface: "eth1",
        port: PortId(0),
        worker: 0,
        workers: 1,
        group: None,
        fanout: None,
        ring_frames: 256,
    };
    let mut packet = cable.right.run(|| PacketPort::open(&packet)).expect("a packet port");
    let mut sender = beside(&cable.left, "eth1");
    send(&mut sender, &[numbered(5)]);
    let mut frames = receive(&mut packet, |frames| !numbers(frames).is_empty());
    frames.retain(|frame| number(frame.bytes()).is_some());
    let mut listener = beside(&cable.left, "eth0");
    let mut back = Vec::new();
    assert_eq!(port.tx(NOW, &mut frames, &mut back).frames, 1);
    assert_eq!(back.len(), 1, "a copy is on its way, the frame itself is free at once");
    assert_eq!((back[0].frame.origin(), back[0].dropped), (Origin::Port(PortId(0)), None));
    packet.release(back.remove(0).frame);
    let got = receive(&mut listener, |frames| numbers(frames) == [5]);
    release(&mut listener, got);
}

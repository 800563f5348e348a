//! Single frames: whole, in order, and each that is lost or refused told of.

use std::net::{SocketAddr, TcpListener, TcpStream};

use pollgate::lab::OffloadSwitch;
use pollgate_common::net::PortId;
use pollgate_common::reasons::DropReason as Reason;
use pollgate_dataplane::port::Frame;
use pollgate_dataplane::port::packet::{OpenError, PacketOptions};

use crate::socket_ports::support::*;

pub(crate) fn a_frame_comes_in_as_sent_with_its_partial_checksum_and_goes_back_finished_by_the_kernel<P: Kind>() {
    for (checksum_offload, sum_left) in [(true, true), (false, false)] {
        let cable = Cable::new();
        cable.left.offload("eth0", OffloadSwitch::TxChecksum, checksum_offload).expect("switched");
        let mut port = cable.open::<P>(256);
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
        reply_in_place(frame);
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
}

pub(crate) fn a_vlan_tag_that_the_kernel_took_out_is_put_back<P: Kind>() {
    let cable = Cable::new();
    let mut port = cable.open::<P>(256);
    let mut tagged = [RIGHT.0, LEFT.0].concat();
    tagged.extend([0x81, 0x00, 0x20, 0x07, 0x88, 0xb5]);
    tagged.extend(b"tagged with VLAN 7, priority 1, and padded to sixty bytes at least");
    inject::<P>(&cable, std::slice::from_ref(&tagged));
    let frames = receive(&mut port, |frames| frames.iter().any(|f| f.bytes()[12..14] == [0x81, 0]));
    let frame = frames.iter().find(|f| f.bytes()[12..14] == [0x81, 0]).expect("the tagged frame");
    assert_eq!(frame.bytes(), tagged);
    release(&mut port, frames);
}

pub(crate) fn frames_for_others_are_seen_and_our_own_are_not<P: Kind>() {
    let cable = Cable::new();
    let mut port = cable.open::<P>(256);
    let mut foreign = experimental(1, 60);
    foreign[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    send_raw(&mut port, &experimental(9, 60));
    inject::<P>(&cable, &[foreign.clone(), experimental(2, 60)]);
    let frames = receive(&mut port, |frames| frames.iter().filter(|f| is_experimental(f)).count() == 2);
    let got: Vec<&[u8]> = frames.iter().filter(|f| is_experimental(f)).map(Frame::bytes).collect();
    assert_eq!(got, [foreign.as_slice(), &experimental(2, 60)]);
    release(&mut port, frames);
}

pub(crate) fn what_cannot_be_sent_has_its_reason_and_the_rest_is_sent<P: Kind>() {
    let cable = Cable::new();
    let mut port = cable.open::<P>(256);
    let mut listener = open::<P>(&cable.left, "eth0", 256);
    let mut memory: Vec<Vec<u8>> = vec![experimental(1, 60), experimental(2, 1600), Vec::new(), experimental(4, 60)];
    let mut batch: Vec<Frame> = memory.iter_mut().map(|bytes| frame_over(bytes)).collect();
    let mut back = Vec::new();
    let sent = port.tx(NOW, &mut batch, &mut back);
    assert_eq!((sent.frames, sent.bytes), (2, 120));
    assert_eq!(outcomes(&back), [None, Some(Reason::TxTooLong), Some(Reason::TxError), None]);
    let frames = receive(&mut listener, |frames| frames.iter().filter(|f| is_experimental(f)).count() == 2);
    let numbers: Vec<u8> = frames.iter().filter(|f| is_experimental(f)).map(|f| f.bytes()[14]).collect();
    assert_eq!(numbers, [1, 4]);
    release(&mut listener, frames);
}

pub(crate) fn a_link_that_goes_down_and_comes_back_is_polled_on<P: Kind>() {
    let cable = Cable::new();
    let mut port = cable.open::<P>(256);
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
    inject::<P>(&cable, &[experimental(3, 60)]);
    let frames = receive(&mut port, |frames| frames.iter().any(is_experimental));
    release(&mut port, frames);
}

pub(crate) fn opening_says_what_is_missing<P: Kind>() {
    let cable = Cable::new();
    let refused = |interface: &str| {
        let options = PacketOptions {
            interface,
            port: PortId(0),
            worker: 0,
            workers: 1,
            group: None,
            fanout: None,
            ring_frames: 64,
        };
        cable.right.run(|| P::open(&options)).err().expect("refused")
    };
    let missing = refused("eth7").to_string();
    assert_eq!(
        missing,
        "the interface \"eth7\" does not exist; the host has lo, eth0: correct interfaces[].name or create it"
    );
    assert!(matches!(refused("a-name-longer-than-fifteen"), OpenError::NoInterface { .. }));
    assert!(matches!(refused("lo"), OpenError::NotEthernet { kind: 772, .. }));
}

pub(crate) fn a_sleeping_worker_is_woken_by_a_frame_and_not_for_long_by_a_link_error<P: Kind>() {
    let cable = Cable::new();
    let mut port = cable.open::<P>(256);
    let mut frames = receive(&mut port, |_| true);
    cable.right.down("eth0").expect("down");
    cable.right.up("eth0").expect("up");
    let quiet = (0..200).any(|_| {
        port.rx(NOW, 64, &mut frames);
        release(&mut port, std::mem::take(&mut frames));
        !readable(&port, 20)
    });
    assert!(quiet, "the socket stays readable although there is nothing to read");
    let sleeper = std::fs::read_link("/proc/thread-self").expect("procfs");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until_asleep(&sleeper);
            inject::<P>(&cable, &[experimental(3, 60)]);
        });
        assert!(readable(&port, 60_000), "a frame wakes who sleeps");
    });
    let frames = receive(&mut port, |frames| frames.iter().any(is_experimental));
    release(&mut port, frames);
}

pub(crate) fn the_kernel_keeps_its_own_copy_of_what_is_polled<P: Kind>() {
    let cable = Cable::new();
    let mut port = cable.open::<P>(256);
    cable.right.add_address("eth0", "10.0.0.2/24".parse().expect("an address")).expect("the address");
    let listener = cable.right.run(|| TcpListener::bind((address(2), 80))).expect("a listener");
    let to = SocketAddr::new(address(2), 80);
    cable.left.run(|| TcpStream::connect_timeout(&to, PATIENCE)).expect("the kernel answered");
    drop(listener);
    let frames = receive(&mut port, |frames| frames.iter().any(|f| f.bytes().get(23) == Some(&6)));
    release(&mut port, frames);
}

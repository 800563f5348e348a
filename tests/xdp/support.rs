//! A cable with a steering program and ports at one end.

use std::net::IpAddr;
use std::ptr::NonNull;
use std::time::Instant as Clock;

use pollgate::lab::{Namespace, Veth};
use pollgate_common::net::{Mac, PortId};
use pollgate_common::reasons::DropReason as Reason;
use pollgate_dataplane::port::packet::{PacketOptions, PacketPort};
use pollgate_dataplane::port::xdp::{self, Program, Rules, XdpOptions, XdpPort};
use pollgate_dataplane::port::{Frame, OpenError, Origin, Port, Returned};

pub(crate) use crate::shared::frames::{NOW, PATIENCE, missed, receive, release, reply_in_place};
use crate::shared::until;

/// The MAC of the cable's left end, where clients are.
pub(crate) const LEFT: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// The MAC of the cable's right end, which is polled.
pub(crate) const RIGHT: Mac = Mac([2, 0, 0, 0, 0, 2]);
/// Chunks of a port in these tests.
pub(crate) const FRAMES: u32 = 256;

/// Two namespaces and a cable. The left one has the address 10.0.0.1, the right one none; 10.0.0.2 is owned there.
pub(crate) struct Cable {
    pub(crate) left: Namespace,
    pub(crate) right: Namespace,
    pub(crate) rules: Rules,
    pub(crate) program: Program,
}

impl Cable {
    pub(crate) fn new() -> Cable {
        Cable::with_queues(1)
    }

    pub(crate) fn with_queues(queues: u32) -> Cable {
        let left = Namespace::new("left").expect("a namespace");
        let right = Namespace::new("right").expect("a namespace");
        let veth = Veth::new((&left, "eth0"), (&right, "eth0")).macs(LEFT, RIGHT).queues(queues);
        veth.make().expect("a veth pair");
        left.add_address("eth0", "10.0.0.1/24".parse().expect("an address")).expect("the address");
        left.add_neighbour("eth0", ip("10.0.0.2"), RIGHT).expect("the neighbour");
        let rules = Rules::new().expect("tables");
        rules.own(ip("10.0.0.2")).expect("owned");
        let program = attach(&right, "eth0", &rules);
        Cable { left, right, rules, program }
    }

    /// The one worker's port, number 0.
    pub(crate) fn open(&self) -> XdpPort {
        self.try_open(0, 1).expect("an open port")
    }

    pub(crate) fn try_open(&self, worker: u16, workers: u16) -> Result<XdpPort, OpenError> {
        let interfaces = [(&self.program, PortId(0))];
        let options = XdpOptions { interfaces: &interfaces, worker, workers, frames: FRAMES, busy_poll: false };
        self.right.run(|| xdp::open(&options)).map(|mut ports| ports.pop().expect("one port"))
    }
}

pub(crate) fn attach(namespace: &Namespace, interface: &str, rules: &Rules) -> Program {
    namespace.run(|| Program::attach(interface, rules)).expect("the steering program")
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An AF_PACKET port, to look at an interface from beside and to send any bytes.
pub(crate) fn beside(namespace: &Namespace, interface: &str) -> PacketPort {
    let options = PacketOptions {
        interface,
        port: PortId(0),
        worker: 0,
        workers: 1,
        group: None,
        fanout: None,
        ring_frames: 4096,
    };
    namespace.run(|| PacketPort::open(&options)).expect("a packet port")
}

/// Whether nothing has come.
pub(crate) fn is_empty(port: &mut dyn Port) -> bool {
    let mut frames = Vec::new();
    (0..64).for_each(|_| port.rx(NOW, 64, &mut frames));
    frames.is_empty()
}

/// Waits, without taking frames, until so many were lost.
pub(crate) fn until_missed(port: &mut dyn Port, count: u64) {
    let mut lost = 0;
    until("frames are missed", || {
        // It only asks the kernel when it has looked for frames a while.
        (0..64).for_each(|_| port.rx(NOW, 0, &mut Vec::new()));
        lost += port.missed();
        lost >= count
    });
    assert_eq!(lost, count);
}

/// Calls `tx` with nothing to send until nothing is under way.
pub(crate) fn drain(port: &mut dyn Port, back: &mut Vec<Returned>) {
    let deadline = Clock::now() + PATIENCE;
    while port.is_sending() {
        port.tx(NOW, &mut Vec::new(), back);
        assert!(Clock::now() < deadline, "still sending after {PATIENCE:?}");
    }
}

/// A frame over bytes of the test's own. They must outlive it and be left alone meanwhile.
pub(crate) fn frame_over(bytes: &mut [u8]) -> Frame {
    let length = u32::try_from(bytes.len()).expect("a small frame");
    let pointer = NonNull::new(bytes.as_mut_ptr()).expect("never null");
    // SAFETY: every caller keeps the bytes until the frame is back from `tx`, and does not touch them before.
    unsafe { Frame::new(pointer, length, length, Origin::Worker(0), PortId(0), 0) }
}

/// Sends raw frames out of a port; what became of each.
pub(crate) fn send(port: &mut dyn Port, frames: &[Vec<u8>]) -> Vec<Option<Reason>> {
    let mut memory = frames.to_vec();
    let mut outcomes = Vec::new();
    for burst in memory.chunks_mut(64) {
        let mut batch: Vec<Frame> = burst.iter_mut().map(|bytes| frame_over(bytes)).collect();
        let mut back = Vec::new();
        port.tx(NOW, &mut batch, &mut back);
        outcomes.extend(back.iter().filter(|b| b.frame.origin() == Origin::Worker(0)).map(|b| b.dropped));
    }
    outcomes
}

/// A UDP datagram from the left's kernel address to the owned one, marked with its number.
pub(crate) fn numbered(number: u16) -> Vec<u8> {
    let builder =
        etherparse::PacketBuilder::ethernet2(LEFT.0, RIGHT.0).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 5000);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &number.to_be_bytes().repeat(20)).expect("a packet");
    bytes
}

/// The number, if it is such a datagram.
pub(crate) fn number(bytes: &[u8]) -> Option<u16> {
    let ours = bytes.len() == 82 && bytes.get(36..38) == Some(&5000u16.to_be_bytes());
    ours.then(|| u16::from_be_bytes([bytes[42], bytes[43]]))
}

pub(crate) fn numbers(frames: &[Frame]) -> Vec<u16> {
    frames.iter().filter_map(|frame| number(frame.bytes())).collect()
}

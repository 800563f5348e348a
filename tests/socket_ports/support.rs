//! A cable to poll one end of, and what every case does with it.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::ptr::NonNull;

use pollgate::lab::{Namespace, Veth};
use pollgate_common::net::{Mac, PortId};
use pollgate_common::reasons::DropReason as Reason;
use pollgate_dataplane::bpf::classic::Program;
use pollgate_dataplane::port::packet::{Fanout, OpenError, PacketOptions, PacketPort};
use pollgate_dataplane::port::uring::UringPort;
use pollgate_dataplane::port::{Frame, Origin, Port, Returned};

pub(crate) use crate::shared::frames::{NOW, PATIENCE, missed, receive, release, reply_in_place};

/// A kind of port over an AF_PACKET socket.
pub(crate) trait Kind: Port + Sized {
    fn open(options: &PacketOptions<'_>) -> Result<Self, OpenError>;
    fn fanout(&self) -> std::io::Result<Fanout>;
}

impl Kind for PacketPort {
    fn open(options: &PacketOptions<'_>) -> Result<Self, OpenError> {
        PacketPort::open(options)
    }

    fn fanout(&self) -> std::io::Result<Fanout> {
        PacketPort::fanout(self)
    }
}

impl Kind for UringPort {
    fn open(options: &PacketOptions<'_>) -> Result<Self, OpenError> {
        UringPort::open(options)
    }

    fn fanout(&self) -> std::io::Result<Fanout> {
        UringPort::fanout(self)
    }
}

pub(crate) const LEFT: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const RIGHT: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// Two namespaces and a cable. The left one has an address and the right one is polled: no kernel answers there.
pub(crate) struct Cable {
    pub(crate) left: Namespace,
    pub(crate) right: Namespace,
}

impl Cable {
    pub(crate) fn new() -> Cable {
        let left = Namespace::new("left").expect("a namespace");
        let right = Namespace::new("right").expect("a namespace");
        Veth::new((&left, "eth0"), (&right, "eth0")).macs(LEFT, RIGHT).make().expect("a veth pair");
        left.add_address("eth0", "10.0.0.1/24".parse().expect("an address")).expect("the address");
        left.add_neighbour("eth0", address(2), RIGHT).expect("the neighbour");
        Cable { left, right }
    }

    pub(crate) fn open<P: Kind>(&self, ring_frames: u32) -> P {
        open::<P>(&self.right, "eth0", ring_frames)
    }
}

pub(crate) fn open<P: Kind>(namespace: &Namespace, interface: &str, ring_frames: u32) -> P {
    let (port, workers) = (PortId(0), 1);
    let options = PacketOptions { interface, port, worker: 0, workers, group: None, fanout: None, ring_frames };
    namespace.run(|| P::open(&options)).expect("an open port")
}

/// The ports of two workers, in one group of their own.
pub(crate) fn open_two<P: Kind>(cable: &Cable, program: Option<&Program>, ring_frames: u32) -> [P; 2] {
    let open = |worker, group: Option<&Fanout>| {
        let (interface, port, workers, fanout) = ("eth0", PortId(0), 2, program);
        let options = PacketOptions { interface, port, worker, workers, group, fanout, ring_frames };
        cable.right.run(|| P::open(&options)).expect("an open port")
    };
    let first = open(0, None);
    let group = first.fanout().expect("a handle");
    [first, open(1, Some(&group))]
}

pub(crate) fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

pub(crate) fn socket(namespace: &Namespace) -> UdpSocket {
    namespace.run(|| UdpSocket::bind((address(1), 0))).expect("a socket")
}

pub(crate) fn is_udp(frame: &Frame) -> bool {
    frame.bytes().get(12..14) == Some(&[8, 0]) && frame.bytes().get(23) == Some(&17)
}

pub(crate) fn outcomes(back: &[Returned]) -> Vec<Option<Reason>> {
    back.iter().map(|returned| returned.dropped).collect()
}

/// A small Ethernet frame of an experimental EtherType (IEEE 802 local experimental 1).
pub(crate) fn experimental(number: u8, length: usize) -> Vec<u8> {
    let mut frame = [RIGHT.0, LEFT.0].concat();
    frame.extend([0x88, 0xb5, number]);
    frame.resize(length, number);
    frame
}

/// A frame over bytes of the test's own. They must outlive it and be left alone meanwhile.
pub(crate) fn frame_over(bytes: &mut [u8]) -> Frame {
    let length = u32::try_from(bytes.len()).expect("a small frame");
    let pointer = NonNull::new(bytes.as_mut_ptr()).expect("never null");
    // SAFETY: every caller keeps the bytes until the frame is back from `tx`, and does not touch them before.
    unsafe { Frame::new(pointer, length, length, Origin::Worker(0), PortId(0), 0) }
}

/// One raw frame out of `port`.
pub(crate) fn send_raw(port: &mut impl Port, bytes: &[u8]) {
    let mut memory = bytes.to_vec();
    let (mut batch, mut back) = (vec![frame_over(&mut memory)], Vec::new());
    port.tx(NOW, &mut batch, &mut back);
    assert_eq!(outcomes(&back), [None]);
}

/// Raw frames out of the cable's left end, through a port of their own.
pub(crate) fn inject<P: Kind>(cable: &Cable, frames: &[Vec<u8>]) {
    let mut port = open::<P>(&cable.left, "eth0", 256);
    frames.iter().for_each(|bytes| send_raw(&mut port, bytes));
}

pub(crate) fn is_experimental(frame: &Frame) -> bool {
    frame.bytes().get(12..14) == Some(&[0x88, 0xb5])
}

/// Waits until a thread, by its directory in procfs, waits for something itself.
pub(crate) fn until_asleep(thread: &std::path::Path) {
    let stat = std::path::Path::new("/proc").join(thread).join("stat");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !std::fs::read_to_string(&stat).expect("it runs").contains(") S ") {
        assert!(std::time::Instant::now() < deadline, "it never waits");
        std::thread::yield_now();
    }
}

pub(crate) fn readable(port: &impl Port, milliseconds: i32) -> bool {
    use std::os::fd::AsRawFd;
    let fd = port.wait_on().expect("a socket").as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, live for the call.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) == 1 }
}

//! Bytes to a script: what is sent, and what happens meanwhile.
//!
//! Most packets are of clients, of flows that are there, or of their endpoints; some are damaged, cut into fragments or left to offload.
//! A few are bytes of the input as they are.

use std::net::{IpAddr, SocketAddr};

use pollgate_dataplane::port::Offload;
use pollgate_dataplane::port::memory::Packet;

use super::super::choices::Choices;
use super::checker::Flow;
use super::site::{DNS, Frontend, OUTSIDE, OWN, PODS, STATES, WORKERS, dns, gateway, link, outsiders, pod};
use super::view::{ETHERNET, ICMP, SCTP, TCP, UDP, View};

/// What happens next.
pub(super) enum Step {
    /// These frames arrive: worker, interface, frame.
    Send(Vec<(usize, usize, Packet)>),
    /// So many milliseconds pass.
    Wait(u64),
    /// The cluster changes.
    Cluster(usize),
    /// The kernel forgets or learns the MACs of some endpoints.
    Neighbours(bool),
}

/// The longest frame that is made.
const LONGEST: usize = 9000;

/// `number`: of packets so far. Each packet carries its own, so that it is known again when it leaves.
pub(super) fn step(choices: &mut Choices<'_>, flows: &[Flow], number: &mut u16) -> Step {
    match choices.byte() {
        0..=229 => Step::Send(burst(choices, flows, number)),
        230..=239 => Step::Wait(choices.of_list(&[1, 20, 600, 1100, 40_000, 70_000, 200_000])),
        240..=247 => Step::Cluster(choices.below(STATES)),
        248..=255 => Step::Neighbours(choices.one_in(2)),
    }
}

fn burst(choices: &mut Choices<'_>, flows: &[Flow], number: &mut u16) -> Vec<(usize, usize, Packet)> {
    let count = choices.of_list(&[1, 1, 1, 2, 3, 8]);
    let worker = choices.below(WORKERS);
    let mut burst = Vec::new();
    for _ in 0..count {
        let made = Making { choices, flows, number }.packets();
        let port = if choices.one_in(16) { PODS + OUTSIDE - made.port } else { made.port };
        burst.extend(made.packets.into_iter().map(|packet| (worker, port, packet)));
    }
    burst
}

/// Packets that arrive by an interface.
struct Made {
    port: usize,
    packets: Vec<Packet>,
}

struct Making<'a, 'b> {
    choices: &'a mut Choices<'b>,
    flows: &'a [Flow],
    number: &'a mut u16,
}

/// An IP packet before its headers.
struct Content {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: Vec<u8>,
}

impl Making<'_, '_> {
    fn packets(&mut self) -> Made {
        let kind = self.choices.byte() % 32;
        let content = match kind {
            0..=11 => self.of_client(),
            12..=17 => self.of_flow(),
            18..=23 => self.reply(),
            24..=26 => self.error(),
            27 => self.echo(),
            28 => self.query(),
            29 => return self.resolution(),
            30 => self.other(),
            _ => return self.raw(),
        };
        let port = link(content.source).0;
        let mut packets = self.with_headers(content, port);
        for packet in &mut packets {
            self.damage(packet);
        }
        if packets.len() > 1 && self.choices.one_in(3) {
            packets.reverse();
        }
        Made { port, packets }
    }

    fn client(&mut self, family: usize) -> IpAddr {
        let [near, far] = outsiders(family);
        let odd = if family == 1 { "ff02::1" } else { "127.0.0.1" };
        let all = [pod(5, family), near, far, pod(0x10, family), pod(0x11, family), gateway(family)];
        if self.choices.one_in(40) { odd.parse().expect("an address") } else { self.choices.of_list(&all) }
    }

    fn of_client(&mut self) -> Content {
        let frontend = self.choices.of_list(Frontend::all());
        let client = self.client(usize::from(frontend.at.is_ipv6()));
        let source = SocketAddr::new(client, 40_000 + u16::from(self.choices.byte() % 4));
        let mut destination = frontend.at;
        if self.choices.one_in(16) {
            destination.set_port(self.choices.half());
        }
        let protocol =
            if self.choices.one_in(16) { self.choices.of_list(&[TCP, UDP, SCTP]) } else { frontend.service.protocol };
        self.content(source, destination, protocol)
    }

    fn flow(&mut self) -> Option<Flow> {
        (!self.flows.is_empty()).then(|| self.flows[self.choices.below(self.flows.len())])
    }

    fn of_flow(&mut self) -> Content {
        match self.flow() {
            Some(flow) => self.content(flow.client, flow.frontend, flow.protocol),
            None => self.of_client(),
        }
    }

    fn reply(&mut self) -> Content {
        match self.flow() {
            Some(flow) => self.content(flow.backend, flow.source, flow.protocol),
            None => self.of_client(),
        }
    }

    fn content(&mut self, source: SocketAddr, destination: SocketAddr, protocol: u8) -> Content {
        let transport = self.transport(source.port(), destination.port(), protocol);
        Content { source: source.ip(), destination: destination.ip(), protocol, transport }
    }

    fn payload(&mut self) -> Vec<u8> {
        let size = self.choices.of_list(&[0, 0, 1, 7, 64, 500, 1300, 1372, 1380, 1440]);
        let first = self.choices.byte();
        (0..size).map(|at: usize| first.wrapping_add(at.to_le_bytes()[0])).collect()
    }

    fn transport(&mut self, source: u16, destination: u16, protocol: u8) -> Vec<u8> {
        let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        match protocol {
            TCP => {
                let numbers = [1000u32, 1001, 1002, 0, 5000, u32::MAX];
                let (sequence, acknowledged) = (self.choices.of_list(&numbers), self.choices.of_list(&numbers));
                // SYN, ACK, SYN ACK, PSH ACK, FIN ACK, RST, RST ACK, and none.
                let flags = self.choices.of_list(&[2, 2, 16, 16, 18, 24, 17, 4, 20, 0]);
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledged.to_be_bytes());
                bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes.extend(self.payload());
            }
            SCTP => {
                bytes.extend(self.choices.of_list(&[0u32, 100, 900]).to_be_bytes());
                bytes.extend([0; 4]);
                self.chunks(&mut bytes);
            }
            _ => {
                let payload = self.payload();
                bytes.extend(u16::try_from(8 + payload.len()).expect("short").to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
            }
        }
        bytes
    }

    /// RFC 9260 §3.2.
    fn chunks(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.choices.below(2) {
            let kind = self.choices.of_list(&[1, 2, 10, 11, 0, 3, 4, 6, 7, 8, 9, 14]);
            let flags = self.choices.byte() & 1;
            let value = match kind {
                1 | 2 => [
                    &self.choices.of_list(&[100u32, 900, 0]).to_be_bytes()[..],
                    &[0, 0, 255, 255, 0, 1, 0, 1, 0, 0, 0, 7],
                ]
                .concat(),
                0 | 3 => vec![9; 12],
                _ => vec![0; 4],
            };
            bytes.extend([kind, flags]);
            bytes.extend(u16::try_from(4 + value.len()).expect("short").to_be_bytes());
            bytes.extend(value);
        }
    }

    /// An ICMP error about a packet that the gateway has sent, or would send.
    fn error(&mut self) -> Content {
        let Some(flow) = self.flow() else { return self.of_client() };
        let (sent_from, sent_to) =
            if self.choices.one_in(2) { (flow.frontend, flow.client) } else { (flow.source, flow.backend) };
        let quoted = self.content(sent_from, sent_to, flow.protocol);
        let family = usize::from(sent_from.is_ipv6());
        let mut quoted = self.header(&quoted);
        self.seal(&mut quoted, false);
        quoted.truncate(self.choices.of_list(&[28, 48, 60, 68, 200, 1400]));
        let [kind, code] = match family {
            0 => self.choices.of_list(&[[3, 3], [3, 4], [11, 0], [12, 0], [3, 1]]),
            _ => self.choices.of_list(&[[1, 4], [2, 0], [3, 0], [4, 0], [1, 0]]),
        };
        let transport = [&[kind, code, 0, 0, 0, 0, 5, 0][..], &quoted].concat();
        let [near, far] = outsiders(family);
        let source = self.choices.of_list(&[sent_to.ip(), near, far]);
        Content { source, destination: sent_from.ip(), protocol: ICMP[family], transport }
    }

    fn echo(&mut self) -> Content {
        let family = self.choices.below(2);
        let frontend = self.choices.of_list(Frontend::all()).at.ip();
        let destination = if usize::from(frontend.is_ipv6()) == family { frontend } else { gateway(family) };
        let kind = self.choices.of_list(&[[8, 128], [8, 128], [8, 128], [0, 129], [13, 133]])[family];
        let transport = [&[kind, 0, 0, 0, 1, 2, 3, 4][..], &self.payload()].concat();
        Content { source: self.client(family), destination, protocol: ICMP[family], transport }
    }

    fn query(&mut self) -> Content {
        const NAMES: [&[u8]; 4] = [
            b"\x03web\x07default\x03svc\x07cluster\x05local\0",
            b"\x04none\x07default\x03svc\x07cluster\x05local\0",
            b"\x07example\x03org\0",
            b"\x0250\x010\x0296\x0210\x07in-addr\x04arpa\0",
        ];
        let family = self.choices.below(2);
        let source = SocketAddr::new(self.client(family), 40_000);
        let mut message = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(self.choices.of_list(&NAMES));
        message.extend([0, self.choices.of_list(&[1, 28, 33, 12, 16]), 0, 1]);
        if self.choices.one_in(4) {
            message = self.choices.bytes(200).to_vec();
        }
        let mut transport = [source.port().to_be_bytes(), DNS.to_be_bytes()].concat();
        transport.extend(u16::try_from(8 + message.len()).expect("short").to_be_bytes());
        transport.extend([0, 0]);
        transport.extend(message);
        Content { source: source.ip(), destination: dns(family), protocol: UDP, transport }
    }

    /// Something with no flow: another protocol, or an address that is not the gateway's.
    fn other(&mut self) -> Content {
        let family = self.choices.below(2);
        let [near, far] = outsiders(family);
        let source = SocketAddr::new(self.client(family), self.choices.half());
        let to = self.choices.of_list(&[near, far, pod(0x10, family), gateway(family)]);
        let protocol = self.choices.of_list(&[TCP, UDP, SCTP, 47, 50, 2]);
        let port = self.choices.of_list(&[80, 1024, 8080, 40_000, 30_080, DNS]);
        self.content(source, SocketAddr::new(to, port), protocol)
    }

    /// Of IPv4: who has an address. Of IPv6: a neighbour solicitation (RFC 4861 §4.3).
    fn resolution(&mut self) -> Made {
        let frontend = self.choices.of_list(Frontend::all()).at.ip();
        let port = self.choices.below(OWN.len());
        let [asking, _] = outsiders(usize::from(frontend.is_ipv6()));
        let (_, mac) = link(asking);
        let bytes = match (asking, frontend) {
            (IpAddr::V4(asking), IpAddr::V4(target)) => {
                let head = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac].concat();
                [&head[..], &asking.octets(), &[0; 6], &target.octets()].concat()
            }
            (IpAddr::V6(from), IpAddr::V6(target)) => {
                let [.., x, y, z] = target.octets();
                let group: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z];
                let transport = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[1, 1], &mac].concat();
                let content = Content { source: from.into(), destination: group.into(), protocol: 58, transport };
                let mut ip = self.header(&content);
                ip[7] = 255;
                self.seal(&mut ip, false);
                [&[0x33, 0x33, 0xff, x, y, z][..], &mac, &[0x86, 0xdd], &ip].concat()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
        };
        let mut packet = Packet::from(bytes);
        self.damage(&mut packet);
        Made { port, packets: vec![packet] }
    }

    fn raw(&mut self) -> Made {
        let port = self.choices.below(OWN.len());
        let kind = self.choices.of_list(&[[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]]);
        let bytes = self.choices.bytes(200);
        let bytes = [&OWN[port][..], &[2, 0, 0, 0, 0, 9], &kind, bytes].concat();
        Made { port, packets: vec![bytes.into()] }
    }

    /// The IP packet, its sums zero.
    fn header(&mut self, content: &Content) -> Vec<u8> {
        let hops = if self.choices.one_in(16) { self.choices.byte() } else { 64 };
        let length = |more: usize| u16::try_from(content.transport.len() + more).expect("short").to_be_bytes();
        *self.number += 1;
        let [a, b] = self.number.to_be_bytes();
        match (content.source, content.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let flags = if self.choices.one_in(3) { 0 } else { 0x40 };
                let options: &[u8] = if self.choices.one_in(32) { &[1, 1, 1, 0] } else { &[] };
                let first = 0x45 + u8::from(!options.is_empty());
                let [high, low] = length(20 + options.len());
                let head = [first, self.choices.byte() & 3, high, low, a, b, flags, 0, hops, content.protocol, 0, 0];
                [&head[..], &source.octets(), &destination.octets(), options, &content.transport].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let options: &[u8] = if self.choices.one_in(32) { &[0, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
                let [high, low] = length(options.len());
                let (next, mut options) =
                    if options.is_empty() { (content.protocol, vec![]) } else { (60, options.to_vec()) };
                if let Some(after) = options.first_mut() {
                    *after = content.protocol;
                }
                let head = [0x60, 0, a, b, high, low, next, hops];
                [&head[..], &source.octets(), &destination.octets(), &options, &content.transport].concat()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
        }
    }

    /// Computes the sums of an IP packet.
    fn seal(&mut self, ip: &mut Vec<u8>, is_partial: bool) {
        let kind = if ip.first().is_some_and(|first| first >> 4 == 4) { [8, 0] } else { [0x86, 0xdd] };
        let mut frame = [&[0; 12][..], &kind, ip].concat();
        if let Some(view) = View::of_frame(&frame) {
            view.set_sums(&mut frame, is_partial);
        }
        *ip = frame.split_off(ETHERNET);
    }

    /// The frames of a packet: one, or fragments.
    fn with_headers(&mut self, content: Content, port: usize) -> Vec<Packet> {
        let (source, destination) = (link(content.source).1, OWN[port]);
        let is_partial = [TCP, UDP].contains(&content.protocol) && self.choices.one_in(8);
        let mut ip = self.header(&content);
        self.seal(&mut ip, is_partial);
        let pieces = if self.choices.one_in(12) { self.cut(&ip) } else { vec![ip] };
        let is_whole = pieces.len() == 1;
        let kind = if content.source.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        let frame = |ip: Vec<u8>| Packet::from([&destination[..], &source, &kind, &ip].concat());
        let mut packets: Vec<Packet> = pieces.into_iter().map(frame).collect();
        if is_partial && is_whole {
            let offset = if content.protocol == TCP { 16 } else { 6 };
            let start = View::of_frame(&packets[0].bytes).map_or(34, |view| view.l4);
            packets[0].offload = Offload {
                flags: Offload::NEEDS_CSUM,
                csum_start: u16::try_from(start).expect("short"),
                csum_offset: offset,
                ..Offload::default()
            };
        }
        packets
    }

    /// Two or three fragments of an IP packet without options.
    fn cut(&mut self, ip: &[u8]) -> Vec<Vec<u8>> {
        let is_v4 = ip.first().is_some_and(|first| first >> 4 == 4);
        let header = if is_v4 { 20 } else { 40 };
        let data = ip.get(header..).unwrap_or_default();
        let size = self.choices.of_list(&[8, 24, 64, 512, 1280]);
        let id = u32::from(self.choices.byte() % 4) + 7;
        let starts: Vec<usize> = (0..data.len()).step_by(size).take(4).collect();
        let piece = |start: &usize| {
            let (part, more) = match starts.last() == Some(start) {
                true => (&data[*start..], 0),
                false => (&data[*start..*start + size], 1u16),
            };
            let mut head = ip[..header].to_vec();
            let offset = u16::try_from(*start).expect("short");
            if is_v4 {
                head[2..4].copy_from_slice(&u16::try_from(header + part.len()).expect("short").to_be_bytes());
                head[4..6].copy_from_slice(&id.to_be_bytes()[2..]);
                head[6..8].copy_from_slice(&((offset / 8) | (more << 13)).to_be_bytes());
                head[10..12].fill(0);
                let sum = !super::view::folded(&[&head]);
                head[10..12].copy_from_slice(&sum.to_be_bytes());
                return [&head, part].concat();
            }
            head[4..6].copy_from_slice(&u16::try_from(8 + part.len()).expect("short").to_be_bytes());
            let next = std::mem::replace(&mut head[6], 44);
            [&head[..], &[next, 0], &(offset | more).to_be_bytes(), &id.to_be_bytes(), part].concat()
        };
        starts.iter().map(piece).collect()
    }

    fn damage(&mut self, packet: &mut Packet) {
        if !self.choices.one_in(10) {
            return;
        }
        let bytes = &mut packet.bytes;
        match self.choices.below(5) {
            0 => bytes.truncate(usize::from(self.choices.half()) % (bytes.len() + 1)),
            1 => bytes.extend(std::iter::repeat_n(0x5a, self.choices.below(60))),
            2 => bytes.resize(bytes.len() + usize::from(self.choices.half()) % LONGEST, 0),
            _ => {
                for _ in 0..=self.choices.below(3) {
                    let at = usize::from(self.choices.byte());
                    let value = self.choices.byte();
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = value;
                    }
                }
            }
        }
    }
}

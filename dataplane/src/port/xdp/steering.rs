//! The steering program. It decides which frames of an interface go to pollgate, before the kernel processes them.
//!
//! ```text
//!                   ┌ to our MAC ─┬ IPv4 ─┬ destination owned ───────────────────────────────▶ worker
//!  frame ─▶ MAC? ───┤             ├ IPv6 ─┼ source is a served endpoint, destination not the host's ▶ worker
//!                   │             │       └ ICMP error about a packet to one, likewise ─────▶ worker
//!                   └ to a group ─┴ ARP, neighbour discovery: target or sender owned ────────▶ worker
//!                       everything else, VLAN-tagged frames too ─────────────────────────────▶ kernel
//! ```
//!
//! "Worker" is the AF_XDP socket of the frame's own receive queue; the kernel allows no other. Frames of a queue without a
//! socket go to the kernel.
//!
//! **Only our frames.** With AF_PACKET the kernel has its own copy of each frame. Here there is only one copy, for the worker
//! or for the kernel. So the program takes only what it must, by tables that the control thread updates ([`super::Rules`]):
//! * frames to an owned destination, with any protocol, including fragments and ICMP;
//! * replies of endpoints to clients that were not translated (the destination is the client), recognised by source address,
//!   port and protocol;
//! * fragments, but without the port, which only the first one has: all from an address that has a served endpoint. Both kinds are taken, so
//!   that the worker knows from the first what the others are. Those of an endpoint's other traffic by way of this host are
//!   given back by the host pair; replies in fragments that were left to the kernel would all be lost;
//! * ICMP errors that go to such a client, from any router on the way to the endpoint, recognised by the packet that they quote: it
//!   went to an endpoint's address, port and protocol, or to an owned address, and its source is the error's destination;
//! * but no such frames to the host's own addresses: health checks and ssh, and errors about them, stay with the kernel.
//!
//! Extension headers of IPv6 packets are skipped as a worker does it, at most eight: hop-by-hop and destination options, and routing
//! headers without stops ahead.
//!
//! For ARP and neighbour discovery the target counts, whatever the message does: who announces an owned address uses it. The sender
//! counts too, since a host that asks or replies with an owned address uses it. But what such a host asks of the host's own
//! addresses stays with the kernel, or it could not reach them.
//!
//! Keys are 16 bytes, with IPv4 addresses mapped (RFC 4291 §2.5.5.2), so one table serves both families. An IPv6 packet *to*
//! a mapped address would match the IPv4 address. Such packets do not occur on a wire, and a worker drops them.
//!
//! **Tags.** The program looks for a tag in the frame's bytes. A device that removes tags from received frames (`ethtool -k`:
//! rx-vlan-offload) hides them from XDP, and tagged frames look like untagged ones ([`super::Program::strips_tags`]). A veth
//! peer with VLAN devices has the same effect: it passes tags outside the frame (its tx-vlan-offload).

use std::os::fd::BorrowedFd;

use crate::bpf::{AsmError, Assembler, Condition, Insn, Reg, Width};

use Condition::{AnyBit, Equal, Greater, Less, NotEqual};
use Reg::{Fp, R0, R1, R2, R3, R4, R6, R7, R8, R9};
use Width::{Byte, Double, Half, Word};

/// Result of the program: the kernel processes the frame (linux/bpf.h).
pub(super) const XDP_PASS: i32 = 2;
/// The frame went to a socket.
pub(super) const XDP_REDIRECT: u32 = 4;

// Helpers.
const MAP_LOOKUP: i32 = 1;
const REDIRECT_MAP: i32 = 51;

// `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RECEIVE_QUEUE: i16 = 16;

// Offsets in a frame, from its first byte.
const ETHER_TYPE: i16 = 12;
const IP: i16 = 14;
const V4_FRAGMENT: i16 = IP + 6;
const V4_PROTOCOL: i16 = IP + 9;
const V4_SOURCE: i16 = IP + 12;
const V4_DESTINATION: i16 = IP + 16;
const V4_END: i32 = 34;
const V6_NEXT: i16 = IP + 6;
const V6_SOURCE: i16 = IP + 8;
const V6_DESTINATION: i16 = IP + 24;
const V6_L4: i16 = IP + 40;
const V6_END: i32 = 54;
/// Bytes of a header of ICMP or ICMPv6. The packet that an error quotes follows.
const ICMP: i16 = 8;
/// Bytes of an IP header without options or extension headers.
const V4_HEADER: i16 = 20;
const V6_HEADER: i16 = 40;
const ND_TARGET: i16 = V6_L4 + 8;
const ND_END: i32 = 78;
const ARP_SIZES: i16 = 18;
const ARP_OPERATION: i16 = 20;
const ARP_SENDER: i16 = 28;
const ARP_TARGET: i16 = 38;
const ARP_END: i32 = 42;

// Offsets of keys on the stack. The sender's takes the place of the endpoint's.
const ADDRESS: i16 = -16;
const SENDER: i16 = ENDPOINT;
const ENDPOINT: i16 = -40;
const ENDPOINT_PORT: i16 = ENDPOINT + 16;
const ENDPOINT_PROTOCOL: i16 = ENDPOINT + 18;

const ICMPV4: i32 = 1;
const ICMPV6: i32 = 58;
/// Unreachable, time exceeded, parameter problem (RFC 792).
const ICMPV4_ERRORS: [i32; 3] = [3, 11, 12];
/// Unreachable, too big, time exceeded and parameter problem are the types from 1 to this one (RFC 4443 §2.1).
const LAST_ICMPV6_ERROR: i32 = 4;
/// Extension headers (RFC 8200 §4).
const HOP_BY_HOP: i32 = 0;
const ROUTING: i32 = 43;
const DESTINATION_OPTIONS: i32 = 60;
/// So many are skipped.
const MOST_EXTENSIONS: i32 = 8;
const V6_FRAGMENT: i32 = 44;
/// More fragments, or an offset.
const FRAGMENT: u16 = 0x3fff;
const NEIGHBOUR_SOLICITATION: i32 = 135;
const NEIGHBOUR_ADVERTISEMENT: i32 = 136;
const ARP_REPLY: u16 = 2;

/// The tables that the program reads.
#[derive(Clone, Copy)]
pub(super) struct Tables<'a> {
    pub(super) owned: BorrowedFd<'a>,
    pub(super) served: BorrowedFd<'a>,
    pub(super) host: BorrowedFd<'a>,
    pub(super) mac: BorrowedFd<'a>,
    pub(super) sockets: BorrowedFd<'a>,
}

/// The program. R6 is the context. R7 and R8 are the frame's bounds. R9 is 1 for a frame to our own MAC, 0 for one to a group; later
/// it is where a header starts.
pub(super) fn assemble(tables: Tables<'_>) -> Result<Vec<Insn>, AsmError> {
    let mut program = Steering { code: Assembler::new(), tables };
    program.ethernet();
    program.arp();
    program.ipv4();
    program.icmp_v4();
    program.ipv6();
    program.icmp_v6();
    program.ends();
    program.code.finish()
}

struct Steering<'a> {
    code: Assembler,
    tables: Tables<'a>,
}

impl Steering<'_> {
    fn ethernet(&mut self) {
        let code = &mut self.code;
        code.mov(R6, R1);
        code.load(Word, R7, R6, DATA);
        code.load(Word, R8, R6, DATA_END);
        self.needs(i32::from(IP), "pass");
        let code = &mut self.code;
        code.mov(R9, 0);
        code.map_value(R1, self.tables.mac);
        code.load(Word, R2, R7, 0);
        code.load(Word, R3, R1, 0);
        code.jump_if(R2, NotEqual, R3, "not to our MAC");
        code.load(Half, R2, R7, 4);
        code.load(Half, R3, R1, 4);
        code.jump_if(R2, NotEqual, R3, "not to our MAC");
        code.mov(R9, 1);
        code.jump("by type");
        code.label("not to our MAC");
        code.load(Byte, R2, R7, 0);
        code.jump_if(R2, AnyBit, 1, "by type");
        code.jump("pass");
        code.label("by type");
        code.load(Half, R2, R7, ETHER_TYPE);
        code.jump_if(R2, Equal, wire16(0x0800), "IPv4");
        code.jump_if(R2, Equal, wire16(0x86dd), "IPv6");
        code.jump_if(R2, NotEqual, wire16(0x0806), "pass");
    }

    fn arp(&mut self) {
        self.needs(ARP_END, "pass");
        let code = &mut self.code;
        // ARP for IPv4 over Ethernet: addresses of six and four bytes.
        code.load(Word, R2, R7, IP);
        code.jump_if(R2, NotEqual, wire32(0x0001_0800), "pass");
        code.load(Half, R2, R7, ARP_SIZES);
        code.jump_if(R2, NotEqual, wire16(0x0604), "pass");
        self.copy_v4(ADDRESS, R7, ARP_TARGET);
        self.look_up(self.tables.owned, ADDRESS);
        self.code.jump_if(R0, NotEqual, 0, "redirect");
        self.copy_v4(SENDER, R7, ARP_SENDER);
        self.look_up(self.tables.owned, SENDER);
        let code = &mut self.code;
        code.jump_if(R0, Equal, 0, "pass");
        code.load(Half, R2, R7, ARP_OPERATION);
        code.jump_if(R2, Equal, wire16(ARP_REPLY), "redirect");
        code.jump("not to the host?");
    }

    fn ipv4(&mut self) {
        self.code.label("IPv4");
        self.code.jump_if(R9, Equal, 0, "pass");
        self.needs(V4_END, "pass");
        self.copy_v4(ADDRESS, R7, V4_DESTINATION);
        self.look_up(self.tables.owned, ADDRESS);
        let code = &mut self.code;
        code.jump_if(R0, NotEqual, 0, "redirect");
        code.load(Half, R2, R7, V4_FRAGMENT);
        code.jump_if(R2, AnyBit, wire16(FRAGMENT), "IPv4 fragment");
        // The transport header starts after the options.
        code.load(Byte, R9, R7, IP);
        code.and(R9, 0x0f);
        code.shift_left(R9, 2);
        code.jump_if(R9, Less, 20, "pass");
        code.add(R9, i32::from(IP));
        code.add(R9, R7);
        code.load(Byte, R3, R7, V4_PROTOCOL);
        code.jump_if(R3, Equal, ICMPV4, "ICMP");
        self.endpoint(0);
        self.copy_v4(ENDPOINT, R7, V4_SOURCE);
        self.code.jump("an endpoint's?");
        self.code.label("IPv4 fragment");
        self.address_of_an_endpoint();
        self.copy_v4(ENDPOINT, R7, V4_SOURCE);
        self.code.jump("an endpoint's?");
    }

    /// An ICMP error; R9 is where it starts.
    fn icmp_v4(&mut self) {
        self.code.label("ICMP");
        self.has(ICMP + V4_HEADER, "pass");
        let code = &mut self.code;
        code.load(Byte, R2, R9, 0);
        ICMPV4_ERRORS.into_iter().for_each(|kind| code.jump_if(R2, Equal, kind, "ICMP error"));
        code.jump("pass");
        code.label("ICMP error");
        code.add(R9, i32::from(ICMP));
        // It goes to the sender of what it quotes.
        code.load(Word, R2, R9, V4_SOURCE - IP);
        code.load(Word, R3, R7, V4_DESTINATION);
        code.jump_if(R2, NotEqual, R3, "pass");
        self.copy_v4(ENDPOINT, R9, V4_DESTINATION - IP);
        self.look_up(self.tables.owned, ENDPOINT);
        let code = &mut self.code;
        code.jump_if(R0, NotEqual, 0, "not to the host?");
        code.load(Half, R2, R9, V4_FRAGMENT - IP);
        code.jump_if(R2, AnyBit, wire16(0x1fff), "pass");
        code.load(Byte, R3, R9, V4_PROTOCOL - IP);
        code.load(Byte, R2, R9, 0);
        code.jump_if(R2, Less, 0x45, "pass");
        code.jump_if(R2, Greater, 0x4f, "pass");
        code.and(R2, 0x0f);
        code.shift_left(R2, 2);
        code.add(R9, R2);
        self.endpoint(2);
        self.code.jump("an endpoint's?");
    }

    fn ipv6(&mut self) {
        self.code.label("IPv6");
        self.needs(V6_END, "pass");
        let code = &mut self.code;
        code.load(Byte, R2, R7, V6_NEXT);
        code.jump_if(R2, NotEqual, ICMPV6, "IPv6 to our MAC");
        self.needs(ND_END, "IPv6 to our MAC");
        let code = &mut self.code;
        code.load(Byte, R2, R7, V6_L4);
        code.jump_if(R2, Equal, NEIGHBOUR_SOLICITATION, "discovery");
        code.jump_if(R2, NotEqual, NEIGHBOUR_ADVERTISEMENT, "IPv6 to our MAC");
        code.label("discovery");
        self.copy_v6(ADDRESS, R7, ND_TARGET);
        self.look_up(self.tables.owned, ADDRESS);
        let code = &mut self.code;
        code.jump_if(R0, NotEqual, 0, "redirect");
        code.load(Byte, R2, R7, V6_L4);
        code.jump_if(R2, NotEqual, NEIGHBOUR_SOLICITATION, "IPv6 to our MAC");
        self.copy_v6(SENDER, R7, V6_SOURCE);
        self.look_up(self.tables.owned, SENDER);
        let code = &mut self.code;
        code.jump_if(R0, NotEqual, 0, "not to the host?");
        code.label("IPv6 to our MAC");
        code.jump_if(R9, Equal, 0, "pass");
        self.copy_v6(ADDRESS, R7, V6_DESTINATION);
        self.look_up(self.tables.owned, ADDRESS);
        let code = &mut self.code;
        code.jump_if(R0, NotEqual, 0, "redirect");
        code.mov(R9, R7);
        code.add(R9, V6_END);
        code.load(Byte, R3, R7, V6_NEXT);
        self.skip_extensions(["next header", "header", "IPv6 fragment", "transport header"]);
        self.code.jump_if(R3, Equal, ICMPV6, "ICMPv6");
        self.endpoint(0);
        self.copy_v6(ENDPOINT, R7, V6_SOURCE);
        self.code.jump("an endpoint's?");
        self.code.label("IPv6 fragment");
        self.address_of_an_endpoint();
        self.copy_v6(ENDPOINT, R7, V6_SOURCE);
        self.code.jump("an endpoint's?");
    }

    /// An ICMPv6 error; R9 is where it starts.
    fn icmp_v6(&mut self) {
        self.code.label("ICMPv6");
        self.has(ICMP + V6_HEADER, "pass");
        let code = &mut self.code;
        code.load(Byte, R2, R9, 0);
        code.jump_if(R2, Equal, 0, "pass");
        code.jump_if(R2, Greater, LAST_ICMPV6_ERROR, "pass");
        code.add(R9, i32::from(ICMP));
        for word in [0, 4, 8, 12] {
            code.load(Word, R2, R9, V6_SOURCE - IP + word);
            code.load(Word, R3, R7, V6_DESTINATION + word);
            code.jump_if(R2, NotEqual, R3, "pass");
        }
        self.copy_v6(ENDPOINT, R9, V6_DESTINATION - IP);
        self.look_up(self.tables.owned, ENDPOINT);
        let code = &mut self.code;
        code.jump_if(R0, NotEqual, 0, "not to the host?");
        code.load(Byte, R2, R9, 0);
        code.and(R2, 0xf0);
        code.jump_if(R2, NotEqual, 0x60, "pass");
        code.load(Byte, R3, R9, V6_NEXT - IP);
        code.add(R9, i32::from(V6_HEADER));
        self.skip_extensions(["quoted next header", "quoted header", "quoted fragment", "quoted transport header"]);
        let code = &mut self.code;
        code.jump("quoted port");
        // The first one has the port, and no extension headers behind the fragment header but in error.
        code.label("quoted fragment");
        self.has(8, "pass");
        let code = &mut self.code;
        code.load(Half, R2, R9, 2);
        code.jump_if(R2, AnyBit, wire16(0xfff8), "pass");
        code.load(Byte, R3, R9, 0);
        code.add(R9, 8);
        code.label("quoted port");
        self.endpoint(2);
    }

    /// Moves R9 behind the extension headers of which the first is there, with R3 as its type. Then R3 is the type of what follows.
    /// At a fragment header it jumps. The headers are counted in R4.
    fn skip_extensions(&mut self, [next, skip, fragment, done]: [&'static str; 4]) {
        let code = &mut self.code;
        code.mov(R4, MOST_EXTENSIONS);
        code.label(next);
        code.jump_if(R4, Equal, 0, done);
        code.add(R4, -1);
        code.jump_if(R3, Equal, V6_FRAGMENT, fragment);
        code.jump_if(R3, Equal, HOP_BY_HOP, skip);
        code.jump_if(R3, Equal, DESTINATION_OPTIONS, skip);
        code.jump_if(R3, NotEqual, ROUTING, done);
        self.has(8, "pass");
        let code = &mut self.code;
        // Stops ahead.
        code.load(Byte, R2, R9, 3);
        code.jump_if(R2, NotEqual, 0, done);
        code.label(skip);
        self.has(8, "pass");
        let code = &mut self.code;
        code.load(Byte, R3, R9, 0);
        code.load(Byte, R2, R9, 1);
        code.add(R2, 1);
        code.shift_left(R2, 3);
        code.add(R9, R2);
        code.jump(next);
        code.label(done);
    }

    fn ends(&mut self) {
        self.code.label("an endpoint's?");
        self.look_up(self.tables.served, ENDPOINT);
        self.code.jump_if(R0, Equal, 0, "pass");
        self.code.label("not to the host?");
        self.look_up(self.tables.host, ADDRESS);
        let code = &mut self.code;
        code.jump_if(R0, NotEqual, 0, "pass");
        code.label("redirect");
        code.map(R1, self.tables.sockets);
        code.load(Word, R2, R6, RECEIVE_QUEUE);
        code.mov(R3, XDP_PASS);
        code.call(REDIRECT_MAP);
        code.exit();
        code.label("pass");
        code.mov(R0, XDP_PASS);
        code.exit();
    }

    /// Jumps to `otherwise` if the frame has fewer than `bytes` bytes.
    fn needs(&mut self, bytes: i32, otherwise: &'static str) {
        self.code.mov(R2, R7);
        self.code.add(R2, bytes);
        self.code.jump_if(R2, Greater, R8, otherwise);
    }

    /// Writes the end of the key for an address that has an endpoint: it names no port, and is none of an endpoint.
    fn address_of_an_endpoint(&mut self) {
        self.code.store(Word, Fp, ENDPOINT_PORT, wire32(1));
    }

    /// Jumps to `otherwise` if the frame has fewer than `bytes` bytes behind R9.
    fn has(&mut self, bytes: i16, otherwise: &'static str) {
        self.code.mov(R2, R9);
        self.code.add(R2, i32::from(bytes));
        self.code.jump_if(R2, Greater, R8, otherwise);
    }

    /// Writes the end of an endpoint's key: protocol R3, and the port at this offset from R9, where the transport header starts.
    /// A frame that ends before its ports do goes to the kernel.
    fn endpoint(&mut self, port: i16) {
        self.has(4, "pass");
        self.code.load(Half, R2, R9, port);
        self.code.store(Word, Fp, ENDPOINT_PORT, 0);
        self.code.store(Half, Fp, ENDPOINT_PORT, R2);
        self.code.store(Byte, Fp, ENDPOINT_PROTOCOL, R3);
    }

    /// Copies the IPv4 address at this offset to the stack, mapped.
    fn copy_v4(&mut self, to: i16, at: Reg, from: i16) {
        self.code.store(Double, Fp, to, 0);
        self.code.store(Word, Fp, to + 8, wire32(0x0000_ffff));
        self.code.load(Word, R2, at, from);
        self.code.store(Word, Fp, to + 12, R2);
    }

    /// Copies the IPv6 address at this offset to the stack, in words: the stack is aligned, the frame is not.
    fn copy_v6(&mut self, to: i16, at: Reg, from: i16) {
        for word in [0, 4, 8, 12] {
            self.code.load(Word, R2, at, from + word);
            self.code.store(Word, Fp, to + word, R2);
        }
    }

    /// R0 = the address of the entry for the key on the stack, or 0.
    fn look_up(&mut self, table: BorrowedFd<'_>, key: i16) {
        self.code.map(R1, table);
        self.code.mov(R2, Fp);
        self.code.add(R2, i32::from(key));
        self.code.call(MAP_LOOKUP);
    }
}

/// The value that loading two bytes in network order gives for `number`.
fn wire16(number: u16) -> i32 {
    i32::from(number.to_be())
}

/// The value that loading four bytes gives. The numbers used here have no sign bit to extend.
fn wire32(number: u32) -> i32 {
    number.to_be().cast_signed()
}

//! One direction of a flow.
//!
//! ```text
//!  IPv4, 64 bytes = one cache line
//!  ┌ key 14 ─────────────────────┬ state 1 ┬ pad 1 ┬ new tuple 12 ───────────┬ deltas 4 ┐
//!  │ src dst sport dport proto   │ bits    │       │ src dst sport dport     │ l3, l4   │
//!  ├ peer 4 ┬ last seen 4 ┬ service 4 ┬ incarnation 2 ┬ backend 2 ┬ incarnation 2 ┬ pad 2 ┤
//!  ├ tables' generation 4 ┬ hop 4 ┬ hops' epoch 4 ─────────────────────────────────────────┘
//! ```
//!
//! A flow is two entries, one per direction, each naming the other as its peer. Everything a packet needs is in its own
//! direction's entry; the peer is touched only when the flow's state changes and when the sweeper looks at both clocks.

use pollgate_common::flow::{Address, FlowKey, Protocol};
use pollgate_common::tables::ServiceId;
use pollgate_common::time::Ticks;

use crate::memory::Zeroed;

/// The entry lives in the table.
pub const USED: u8 = 1 << 0;
/// It is the direction from backend to client.
pub const REPLY_DIRECTION: u8 = 1 << 1;
/// Packets of both directions have been seen.
pub const ASSURED: u8 = 1 << 2;
/// A FIN has gone in this direction.
pub const FIN: u8 = 1 << 3;
/// The connection is over: FIN both ways, or RST.
pub const CLOSING: u8 = 1 << 4;

/// The tuple a packet gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl<A: Address> From<FlowKey<A>> for Tuple<A> {
    fn from(key: FlowKey<A>) -> Tuple<A> {
        Tuple { src: key.src, dst: key.dst, src_port: key.src_port, dst_port: key.dst_port }
    }
}

/// How packets of one direction are rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Translation<A> {
    /// What they get.
    pub to: Tuple<A>,
    /// What the addresses add to a checksum.
    pub addresses: u16,
    /// What addresses and ports add.
    pub whole: u16,
}

/// One direction of a flow; see the module's text.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Entry<A> {
    /// What its packets look like when they come.
    pub key: FlowKey<A>,
    /// [`USED`], [`REPLY_DIRECTION`], ...
    pub state: u8,
    /// How they are rewritten.
    pub translation: Translation<A>,
    /// The other direction's index.
    pub peer: u32,
    /// When a packet last came.
    pub last_seen: Ticks,
    /// The service's index.
    pub service: u32,
    /// The service's incarnation.
    pub service_incarnation: u16,
    /// The backend's slot in the service.
    pub backend: u16,
    /// The slot's incarnation.
    pub backend_incarnation: u16,
    /// Generation of the tables the backend was last found serving in (low 32 bits).
    pub generation: u32,
    /// The next hop's index in the worker's list.
    pub hop: u32,
    /// Epoch of that list.
    pub hop_epoch: u32,
}

// SAFETY: every field is an integer or an array of bytes; zero is a value of each. (V4 and V6 are bytes.)
unsafe impl<A: Address> Zeroed for Entry<A> {}

const _: () = assert!(size_of::<Entry<pollgate_common::flow::V4>>() == 64);
const _: () = assert!(size_of::<Entry<pollgate_common::flow::V6>>() == 128);

impl<A: Address> Entry<A> {
    /// Whether all bits of `state` are set.
    #[inline]
    pub fn is(&self, state: u8) -> bool {
        self.state & state == state
    }

    /// Whether it is TCP.
    #[inline]
    pub fn is_tcp(&self) -> bool {
        self.key.protocol == Protocol::Tcp.number()
    }

    /// The service's id.
    pub fn service_id(&self) -> ServiceId {
        ServiceId { index: self.service, incarnation: self.service_incarnation }
    }

    /// Whether an established TCP connection: never evicted for a new one.
    pub fn is_precious(&self) -> bool {
        self.is_tcp() && self.is(ASSURED) && !self.is(CLOSING)
    }
}

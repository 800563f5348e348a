//! One direction of a flow.
//!
//! ```text
//!  IPv4, 64 bytes = one cache line
//!  ┌ key 14 ─────────────────────┬ state 1 ┬ scale 1 ┬ new tuple 12 ─────────┬ deltas 4 ┐
//!  │ src dst sport dport proto   │         │         │ src dst sport dport   │ l3, l4   │
//!  ├ last seen 4 ┬ service 4 ┬ incarnation 2 ┬ backend 2 ┬ incarnation 2 ┬ hop 2 ───────┤
//!  ├ hops' epoch 4 ┬ expects 4 ┬ mark 4 ┬ link 4 ────────────────────────────────────────┘
//! ```
//!
//! A flow is two entries side by side, one per direction: the client's at an even index, the backend's at the next. All a
//! packet needs is in its own direction's entry; the other is touched only when the flow's life changes, when its
//! acknowledgements have moved far, and when the sweeper looks at both clocks.

#![allow(unsafe_code, reason = "declares that all-zero bytes are an entry")]

use pollgate_common::flow::{Address, FlowKey, Protocol};
use pollgate_common::tables::ServiceId;
use pollgate_common::time::Ticks;

use super::life::{Life, Side};
use super::sequence::{Expected, Scale};
use crate::memory::Zeroed;

/// What an entry is, in one byte; zero: free.
///
/// ```text
///  bit 7   quiet: an ordinary packet of this direction does not change the flow's life
///  2 … 5   life: 0 … 5 opening (replied × FIN), 6 … 8 established (FIN), 9 … 11 reset (who goes on), 12 closing
///  0 … 1   side: 0 none, 1 client, 2 backend
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct State(u8);

impl State {
    const QUIET: u8 = 1 << 7;
    const SIDE: u8 = 0b11;
    const LIFE_SHIFT: u32 = 2;
    const ESTABLISHED: u8 = 6;
    const RESET: u8 = 9;
    const CLOSING: u8 = 12;

    /// The state of the direction that `side` sends in, of a flow in `life`.
    pub fn new(side: Side, life: Life) -> State {
        let number = |side| match side {
            None => 0,
            Some(Side::Client) => 1,
            Some(Side::Backend) => 2,
        };
        let code = match life {
            Life::Opening { replied, fin } => u8::from(replied) * 3 + number(fin),
            Life::Established { fin } => State::ESTABLISHED + number(fin),
            Life::Reset { spoken } => State::RESET + number(spoken),
            Life::Closing => State::CLOSING,
        };
        let is_quiet = match (life, side) {
            (Life::Opening { replied, .. }, Side::Client) => !replied,
            (Life::Opening { replied, .. }, Side::Backend) => replied,
            (Life::Established { .. } | Life::Closing, _) => true,
            (Life::Reset { spoken }, side) => spoken == Some(side),
        };
        State(number(Some(side)) | code << State::LIFE_SHIFT | if is_quiet { State::QUIET } else { 0 })
    }

    /// Whether the entry is in use.
    #[inline]
    pub fn is_used(self) -> bool {
        self.0 != 0
    }

    /// Whether an ordinary packet of this direction leaves the flow's life as it is.
    #[inline]
    pub fn is_quiet(self) -> bool {
        self.0 & State::QUIET != 0
    }

    /// Who sends in this direction. Of a free entry it says nothing.
    #[inline]
    pub fn side(self) -> Side {
        if self.0 & State::SIDE == 2 { Side::Backend } else { Side::Client }
    }

    /// The flow's life.
    #[inline]
    pub fn life(self) -> Life {
        let code = (self.0 & !State::QUIET) >> State::LIFE_SHIFT;
        let side = match code % 3 {
            1 => Some(Side::Client),
            2 => Some(Side::Backend),
            _ => None,
        };
        match code {
            0..State::ESTABLISHED => Life::Opening { replied: code >= 3, fin: side },
            State::ESTABLISHED..State::RESET => Life::Established { fin: side },
            State::RESET..State::CLOSING => Life::Reset { spoken: side },
            State::CLOSING.. => Life::Closing,
        }
    }
}

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

/// One direction of a flow, in one cache line (IPv4).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Entry<A> {
    /// What its packets look like when they come.
    pub key: FlowKey<A>,
    /// Which direction of a flow in which life.
    pub state: State,
    /// TCP: the window that belongs to `expects`; with SCTP too, whether that is known.
    pub scale: Scale,
    /// How they are rewritten.
    pub translation: Translation<A>,
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
    /// The next hop's index in the worker's list.
    pub hop: u16,
    /// Epoch of that list.
    pub hop_epoch: u32,
    /// What who sends here expects of the other side. TCP: the next sequence number. SCTP: the verification tag.
    pub expects: u32,
    /// The client's direction: generation of the tables the backend was last found serving in (low 32 bits). The backend's:
    /// the flow's number in the order of opening while it is opening, then the number after the client's last SYN, or the tag of
    /// its last INIT.
    pub mark: u32,
    /// In the table's list that the flow is in: the client's direction names the next flow, the backend's the one before.
    pub link: u32,
}

// SAFETY: every field is an integer or an array of bytes; zero is a value of each. (V4 and V6 are bytes.)
unsafe impl<A: Address> Zeroed for Entry<A> {}

const _: () = assert!(size_of::<Entry<pollgate_common::flow::V4>>() == 64);
const _: () = assert!(size_of::<Entry<pollgate_common::flow::V6>>() == 128);

impl<A: Address> Entry<A> {
    /// Its transport protocol.
    #[inline]
    pub fn protocol(&self) -> Option<Protocol> {
        Protocol::from_number(self.key.protocol)
    }

    /// The service's id.
    pub fn service_id(&self) -> ServiceId {
        ServiceId { index: self.service, incarnation: self.service_incarnation }
    }

    /// What its sender expects of the other side.
    pub fn expected(&self) -> Expected {
        Expected { next: self.expects, scale: self.scale }
    }

    /// Notes what its sender expects of the other side.
    pub fn expect(&mut self, expected: Expected) {
        (self.expects, self.scale) = (expected.next, expected.scale);
    }
}

#[cfg(test)]
mod tests {
    use super::super::life::{self, Signal};
    use super::*;

    #[test]
    fn a_byte_holds_every_state_and_a_free_entry_is_none() {
        let sides = [None, Some(Side::Client), Some(Side::Backend)];
        let opening = sides.iter().flat_map(|&fin| [true, false].map(|replied| Life::Opening { replied, fin }));
        let established = sides.iter().map(|&fin| Life::Established { fin });
        let reset = sides.iter().map(|&spoken| Life::Reset { spoken });
        for life in opening.chain(established).chain(reset).chain([Life::Closing]) {
            for side in [Side::Client, Side::Backend] {
                let state = State::new(side, life);
                assert!(state.is_used());
                assert_eq!((state.side(), state.life()), (side, life));
                let stays = |signal| life::next(life, side, signal) == life;
                let is_quiet = stays(Signal::Datagram) && stays(Signal::Segment);
                assert_eq!(state.is_quiet(), is_quiet, "{side:?} {life:?}");
            }
        }
        assert!(!State::default().is_used());
    }
}

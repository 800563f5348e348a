//! What the stages of the pipeline need of an IP family: everything that differs between IPv4 and IPv6.
//!
//! Stages are generic over [`Ip`] and compiled once per family; no stage asks which family it has.

use pollgate_common::flow::Address;
use pollgate_common::header::Header;
use pollgate_common::reasons::DropReason;

/// What a packet is of the IP packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// All of it.
    Whole,
    /// Its first fragment: the transport header is there.
    First,
    /// A later fragment: the transport header is not there.
    Later,
}

/// The fixed header of one IP family.
pub trait Ip: Header + Copy {
    /// The family's address.
    type Address: Address;
    /// Bytes of a header without options or extensions, as [`Ip::make`] writes it.
    const LEN: usize;
    /// IANA protocol number of the family's control messages.
    const ICMP: u8;

    /// The header at `at` of `frame`, proved: lengths lie within each other and the frame, and the family's own header sum is
    /// correct. Trailing Ethernet padding is ignored.
    fn check(frame: &[u8], at: usize) -> Result<&Self, DropReason>;

    /// Source address.
    fn src(&self) -> Self::Address;

    /// Destination address.
    fn dst(&self) -> Self::Address;

    /// Bytes from the start of the header to the transport header.
    fn header_len(&self) -> usize;

    /// Bytes of header and payload.
    fn total_len(&self) -> usize;

    /// Hops left: IPv4's time to live, IPv6's hop limit.
    fn hop_limit(&self) -> u8;

    /// IANA number of the transport protocol.
    fn protocol(&self) -> u8;

    /// Whether it is a fragment, and which.
    fn piece(&self) -> Piece;

    /// New addresses and one hop less. `delta` is what the addresses add to a sum ([`super::checksum::delta`]).
    fn translate(&mut self, src: Self::Address, dst: Self::Address, delta: u16);

    /// Swaps source and destination and sets the hop limit to 64: a reply in the same buffer.
    fn reply_in_place(&mut self);

    /// Sets how many bytes header and payload have.
    fn set_total_len(&mut self, total_len: u16);

    /// A header without options for a packet of `total_len` bytes from pollgate itself.
    fn make(src: Self::Address, dst: Self::Address, protocol: u8, total_len: u16) -> Self;
}

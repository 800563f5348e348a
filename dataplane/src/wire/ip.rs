//! The interface of an IP family to the stages of the pipeline. It covers all differences between IPv4 and IPv6.
//!
//! Stages are generic over [`Ip`] and compiled once per family. No stage checks which family it handles.

use pollgate_common::flow::Address;
use pollgate_common::header::Header;
use pollgate_common::reasons::DropReason;

use super::Control;

/// Which part of the original IP packet a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The whole packet.
    Whole,
    /// The first fragment, which has the transport header.
    First,
    /// A later fragment, without the transport header.
    Later,
}

/// What follows the IP header with its options or extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// IANA number of the protocol.
    pub protocol: u8,
    /// Where it starts, from the start of the IP header.
    pub offset: usize,
    /// Which part of the original packet this one is.
    pub piece: Piece,
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The datagram's identification.
    pub identification: u32,
    /// The protocol number if it belongs to the identification, otherwise 0.
    pub protocol: u8,
    /// Where its data belongs in the datagram, in bytes.
    pub offset: usize,
    /// Whether it is not the last one.
    pub more: bool,
    /// Where its data starts, from the start of the IP header.
    pub data: usize,
    /// Bytes of headers that count towards the length of the whole datagram.
    pub counted: usize,
}

/// The fixed header of one IP family.
pub trait Ip: Header + Copy {
    /// The family's address.
    type Address: Address;
    /// The family's control messages.
    type Control: Control<Address = Self::Address>;
    /// Bytes of a header without options or extensions, as [`Ip::make`] writes it.
    const LEN: usize;
    /// EtherType of the family.
    const ETHER_TYPE: u16;
    /// How many identifications of fragmented datagrams there are.
    const IDENTIFICATIONS: u64;

    /// The verified header at `at` of `frame`, and what follows it. Its lengths lie within each other and the frame, and the
    /// family's own header sum is correct. Trailing Ethernet padding is ignored.
    fn check(frame: &[u8], at: usize) -> Result<(&Self, Upper), DropReason>;

    /// The header at the start of `packet`, which an error quotes and which may end before its lengths say, and what follows it.
    /// `None`: it ends within the headers, or is of another family.
    fn quoted(packet: &[u8]) -> Option<(&Self, Upper)>;

    /// Whether this fixed header is all there is of IP in front of the protocol that it names, the packet is not a fragment,
    /// and the header's sum, if it has one, is correct. Lengths are not checked.
    fn is_plain(&self) -> bool;

    /// The protocol number in the fixed header.
    fn protocol(&self) -> u8;

    /// Source address.
    fn src(&self) -> Self::Address;

    /// Destination address.
    fn dst(&self) -> Self::Address;

    /// Bytes of header and payload.
    fn total_len(&self) -> usize;

    /// The fragment whose IP packet starts with `packet`; `None` if it is truncated or is no fragment.
    fn fragment(packet: &[u8]) -> Option<Fragment>;

    /// Gives the fragment whose IP packet starts with `packet` another identification.
    fn set_identification(packet: &mut [u8], identification: u32);

    /// Remaining hops: IPv4's time to live, IPv6's hop limit.
    fn hop_limit(&self) -> u8;

    /// Whether a router may fragment the packet.
    fn may_fragment(&self) -> bool;

    /// Sets both addresses and decrements the hop limit. `delta` is the difference that the addresses make to a sum
    /// ([`super::checksum::delta`]).
    fn translate(&mut self, src: Self::Address, dst: Self::Address, delta: u16);

    /// Sets both addresses of a quoted packet, and nothing else.
    fn set_addresses(&mut self, src: Self::Address, dst: Self::Address, delta: u16);

    /// Swaps source and destination and sets the hop limit to 64, for a reply in the same buffer.
    fn reply_in_place(&mut self);

    /// Sets the length of header and payload.
    fn set_total_len(&mut self, total_len: u16);

    /// A header without options for a packet of `total_len` bytes from pollgate itself.
    fn make(src: Self::Address, dst: Self::Address, protocol: u8, total_len: u16) -> Self;
}

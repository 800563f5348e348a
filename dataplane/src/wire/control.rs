//! The interface of a family's control messages, ICMP and ICMPv6, to the stages of the pipeline.

use pollgate_common::flow::Address;
use pollgate_common::header::Header;
use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The start of a TCP, UDP or SCTP header. Of the transport header, an error need not quote more than eight bytes (RFC 792).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Ports {
    src: U16,
    dst: U16,
}

impl Header for Ports {}

impl Ports {
    /// Source port.
    pub fn src(&self) -> u16 {
        self.src.get()
    }

    /// Destination port.
    pub fn dst(&self) -> u16 {
        self.dst.get()
    }

    /// Sets both ports.
    pub fn set(&mut self, src: u16, dst: u16) {
        (self.src, self.dst) = (U16::new(src), U16::new(dst));
    }
}

/// The errors pollgate originates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No service listens on that port.
    PortUnreachable,
    /// The time to live, or the hop limit, is exceeded.
    TimeExceeded,
    /// The packet is larger than the next link's MTU, which is this many bytes, and may not be fragmented.
    TooBig(u16),
}

/// The messages that pollgate distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An echo request.
    EchoRequest,
    /// An error about a packet, which it quotes.
    Error,
    /// Any other message.
    Other,
}

/// The header of one family's control messages.
pub trait Control: Header {
    /// The family's address.
    type Address: Address;
    /// IANA protocol number.
    const PROTOCOL: u8;
    /// Most bytes that an error has, IP header included.
    const ERROR_LEN: usize;

    /// The kind of message.
    fn kind(&self) -> Kind;

    /// Turns an echo request into its reply. Only the type changes, and the sum by the same amount: exchanging the addresses
    /// does not change a sum.
    fn reply_in_place(&mut self);

    /// Adjusts the checksum for words of the message that changed by `data`, and for addresses in the IP header that changed by
    /// `addresses` (differences as in [`super::checksum::update`]).
    fn adjust(&mut self, data: u16, addresses: u16);

    /// The header of an error message over `data`, from `src` to `dst`, with its checksum.
    fn error(error: Error, src: Self::Address, dst: Self::Address, data: &[u8]) -> Self;
}

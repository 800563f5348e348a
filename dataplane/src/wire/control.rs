//! The interface of a family's control messages, ICMP and ICMPv6, to the stages of the pipeline.

use pollgate_common::flow::Address;

use super::Header;

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

    /// The header of an error message over `data`, from `src` to `dst`, with its checksum.
    fn error(error: Error, src: Self::Address, dst: Self::Address, data: &[u8]) -> Self;
}

//! ICMPv6 (RFC 4443): the messages that a gateway sends or answers itself. The sum covers a pseudo-header (§2.3).
//!
//! ```text
//!  0      1      2          4      8
//!  │ type │ code │ checksum │ rest │ data
//! ```

use pollgate_common::flow::V6;
use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::control::{Control, Error, Kind};
use super::{Header, checksum};

const UNREACHABLE: u8 = 1;
const TOO_BIG: u8 = 2;
const TIME_EXCEEDED: u8 = 3;
const PARAMETER_PROBLEM: u8 = 4;
const ECHO: u8 = 128;
const ECHO_REPLY: u8 = 129;
const PORT: u8 = 4;

/// An ICMPv6 header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Icmpv6 {
    kind: u8,
    code: u8,
    checksum: U16,
    rest: [u8; 4],
}

impl Header for Icmpv6 {}

impl Control for Icmpv6 {
    type Address = V6;
    const PROTOCOL: u8 = 58;
    /// The least MTU of IPv6 (RFC 4443 §2.4 (c)).
    const ERROR_LEN: usize = 1280;

    fn kind(&self) -> Kind {
        match (self.kind, self.code) {
            (ECHO, 0) => Kind::EchoRequest,
            (UNREACHABLE | TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM, _) => Kind::Error,
            _ => Kind::Other,
        }
    }

    fn reply_in_place(&mut self) {
        self.kind = ECHO_REPLY;
        // The type is the high byte of its word. Of the two zeros of one's complement either is correct: the pseudo-header
        // is never zero.
        self.checksum = U16::new(checksum::update(self.checksum.get(), u32::from(ECHO_REPLY - ECHO) << 8));
    }

    fn adjust(&mut self, data: u16, addresses: u16) {
        self.checksum = U16::new(checksum::update(self.checksum.get(), u32::from(data) + u32::from(addresses)));
    }

    fn error(error: Error, src: V6, dst: V6, data: &[u8]) -> Icmpv6 {
        let (kind, code, mtu) = match error {
            Error::PortUnreachable => (UNREACHABLE, PORT, 0),
            Error::TimeExceeded => (TIME_EXCEEDED, 0, 0),
            Error::TooBig(mtu) => (TOO_BIG, 0, mtu),
        };
        let rest = u32::from(mtu).to_be_bytes();
        let mut icmp = Icmpv6 { kind, code, checksum: U16::new(0), rest };
        let pseudo = checksum::pseudo(src, dst, Self::PROTOCOL, size_of::<Icmpv6>() + data.len());
        let sum = pseudo + checksum::sum(icmp.as_bytes()) + checksum::sum(data);
        icmp.checksum = U16::new(!checksum::fold(sum));
        icmp
    }
}

#[cfg(test)]
mod tests {
    use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode};
    use etherparse::{Icmpv6Slice, Icmpv6Type};

    use super::*;

    const SRC: V6 = V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    const DST: V6 = V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

    fn is_valid(message: &[u8]) -> bool {
        Icmpv6Slice::from_slice(message).expect("a message").is_checksum_valid(SRC.0.octets(), DST.0.octets())
    }

    #[test]
    fn an_echo_is_answered_with_a_correct_sum() {
        let mut message = vec![ECHO, 0, 0, 0, 0x12, 0x34, 0, 1, b'p', b'i', b'n', b'g'];
        let sum = checksum::pseudo(SRC, DST, Icmpv6::PROTOCOL, message.len()) + checksum::sum(&message);
        message[2..4].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        let icmp = Icmpv6::at_mut(&mut message, 0).expect("long enough");
        assert_eq!(icmp.kind(), Kind::EchoRequest);
        icmp.reply_in_place();
        assert_eq!((message[0], is_valid(&message)), (ECHO_REPLY, true));
    }

    #[test]
    fn another_parser_reads_the_errors() {
        let data = [1, 2, 3, 4, 5];
        for (error, expected) in [
            (Error::PortUnreachable, Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port)),
            (Error::TimeExceeded, Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded)),
            (Error::TooBig(1300), Icmpv6Type::PacketTooBig { mtu: 1300 }),
        ] {
            let mut bytes = Icmpv6::error(error, SRC, DST, &data).as_bytes().to_vec();
            bytes.extend(data);
            assert!(is_valid(&bytes));
            assert_eq!(Icmpv6Slice::from_slice(&bytes).expect("a message").icmp_type(), expected);
        }
    }
}

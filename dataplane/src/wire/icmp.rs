//! ICMP for IPv4 (RFC 792): the messages that a gateway sends or answers itself.
//!
//! ```text
//!  0      1      2          4      8
//!  │ type │ code │ checksum │ rest │ data
//! ```

use pollgate_common::flow::V4;
use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::control::{Control, Error, Kind};
use super::{Header, checksum};

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
const PORT: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;

/// An ICMP header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Icmp {
    kind: u8,
    code: u8,
    checksum: U16,
    rest: [u8; 4],
}

impl Header for Icmp {}

impl Control for Icmp {
    type Address = V4;
    const PROTOCOL: u8 = 1;
    const ERROR_LEN: usize = 576;

    fn kind(&self) -> Kind {
        match (self.kind, self.code) {
            (ECHO, 0) => Kind::EchoRequest,
            (UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM, _) => Kind::Error,
            _ => Kind::Other,
        }
    }

    fn reply_in_place(&mut self) {
        self.kind = ECHO_REPLY;
        // The type is the high byte of its word: −0x0800 is +0xf7ff in one's complement.
        let sum = checksum::update(self.checksum.get(), 0xf7ff);
        // One's complement has two zeros. For a message of zeros alone only this one is correct. (Identifier, sequence
        // number and data may all be zero; in TCP, UDP and IP some field never is.) For other messages both are correct.
        self.checksum = U16::new(if sum == 0 { 0xffff } else { sum });
    }

    /// The sum does not cover the addresses.
    fn adjust(&mut self, data: u16, _addresses: u16) {
        self.checksum = U16::new(checksum::update(self.checksum.get(), data.into()));
    }

    /// The sum does not cover the addresses.
    fn error(error: Error, _src: V4, _dst: V4, data: &[u8]) -> Icmp {
        let (kind, code, mtu) = match error {
            Error::PortUnreachable => (UNREACHABLE, PORT, 0),
            Error::TimeExceeded => (TIME_EXCEEDED, 0, 0),
            Error::TooBig(mtu) => (UNREACHABLE, FRAGMENTATION_NEEDED, mtu),
        };
        // RFC 1191 §4: the low half of the second word.
        let [high, low] = mtu.to_be_bytes();
        let mut icmp = Icmp { kind, code, checksum: U16::new(0), rest: [0, 0, high, low] };
        let sum = checksum::sum(icmp.as_bytes()) + checksum::sum(data);
        icmp.checksum = U16::new(!checksum::fold(sum));
        icmp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_answered_with_a_correct_sum() {
        let mut message = vec![ECHO, 0, 0, 0, 0x12, 0x34, 0, 1, b'p', b'i', b'n', b'g'];
        let sum = !checksum::fold(checksum::sum(&message));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let icmp = Icmp::at_mut(&mut message, 0).expect("long enough");
        assert_eq!(icmp.kind(), Kind::EchoRequest);
        icmp.reply_in_place();
        assert_eq!(message[0], ECHO_REPLY);
        assert_eq!(checksum::fold(checksum::sum(&message)), 0xffff);
    }

    #[test]
    fn a_reply_of_zeros_alone_has_a_correct_sum() {
        let mut message = vec![ECHO, 0, 0xf7, 0xff, 0, 0, 0, 0, 0, 0];
        Icmp::at_mut(&mut message, 0).expect("long enough").reply_in_place();
        assert_eq!(checksum::fold(checksum::sum(&message)), 0xffff);
    }

    #[test]
    fn an_error_sums_over_its_data() {
        let data = [1, 2, 3, 4, 5];
        let mut bytes = Icmp::error(Error::TimeExceeded, V4::default(), V4::default(), &data).as_bytes().to_vec();
        bytes.extend(data);
        assert_eq!(checksum::fold(checksum::sum(&bytes)), 0xffff);
    }
}

//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A flow's translation always changes the same words by the same amount. So the difference is computed once, when the
//! flow opens, and each packet needs one addition: `HC' = ~(~HC + Σ~m + Σm')` (RFC 1624, equation 3).
//!
//! **Partial sums.** A frame from a virtual peer may leave its TCP or UDP sum to offload. The field then contains the folded
//! sum of the pseudo-header alone, *not* complemented (the kernel's CHECKSUM_PARTIAL). It includes the addresses but not the
//! ports. So there is a second difference for it, which is applied without complements. [`Transport`] is one of the two.

use std::net::IpAddr;

use pollgate_common::flow::Address;

/// Sum of the 16-bit words of `bytes` in network order, an odd last byte as the high half; not folded.
pub fn sum(bytes: &[u8]) -> u32 {
    // Adds four bytes at a time into 64 bits: two words per addition, which the final fold separates.
    let mut chunks = bytes.chunks_exact(4);
    let mut wide: u64 = chunks.by_ref().map(|c| u64::from(u32::from_be_bytes([c[0], c[1], c[2], c[3]]))).sum();
    wide += match *chunks.remainder() {
        [a] => u64::from(u16::from_be_bytes([a, 0])),
        [a, b] => u64::from(u16::from_be_bytes([a, b])),
        [a, b, c] => u64::from(u16::from_be_bytes([a, b])) + u64::from(u16::from_be_bytes([c, 0])),
        _ => 0,
    };
    let low = |x: u64| u32::try_from(x & 0xffff).unwrap_or(0);
    low(wide) + low(wide >> 16) + low(wide >> 32) + low(wide >> 48)
}

/// Whether the checksum of a 20-byte header is correct. The sum of a correct header is all ones, in either byte order
/// (RFC 1071 §2 (B)).
#[inline]
pub fn is_right(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    // Folds 35 bits to 33, then to 17. A correct sum is all ones, or twice that.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum == 0xffff || sum == 0x1_fffe
}

/// Folds a sum to 16 bits and adds the carries back in.
#[inline]
pub fn fold(mut sum: u32) -> u16 {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from(sum & 0xffff).unwrap_or(0)
}

/// Updates the checksum `old` for words that changed by `delta` (a folded or unfolded one's-complement sum).
#[inline]
pub fn update(old: u16, delta: u32) -> u16 {
    !fold(u32::from(!old) + delta)
}

/// The difference that replacing the words of `old` with those of `new` makes to a sum.
pub fn delta(old: &[Words], new: &[Words]) -> u16 {
    let added: u32 = new.iter().map(|words| words.0).sum();
    let gone = fold(old.iter().map(|words| words.0).sum());
    fold(added + u32::from(!gone))
}

/// The pseudo-header's sum (RFC 9293 §3.1, RFC 768) for `len` bytes of transport header and payload; not folded.
pub fn pseudo<A: Address>(src: A, dst: A, protocol: u8, len: usize) -> u32 {
    let len = u32::try_from(len).unwrap_or(0);
    src.word_sum() + dst.word_sum() + u32::from(protocol) + (len >> 16) + (len & 0xffff)
}

/// The sum of a value's 16-bit words, not folded.
#[derive(Clone, Copy, Debug)]
pub struct Words(u32);

impl From<u16> for Words {
    fn from(port: u16) -> Words {
        Words(u32::from(port))
    }
}

impl From<std::net::Ipv4Addr> for Words {
    fn from(address: std::net::Ipv4Addr) -> Words {
        Words(pollgate_common::flow::V4(address).word_sum())
    }
}

impl From<IpAddr> for Words {
    fn from(address: IpAddr) -> Words {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Words(pollgate_common::flow::V6(v6).word_sum()),
        }
    }
}

/// The difference to apply to a packet's transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The field is a complete checksum, which includes addresses and ports.
    Full(u16),
    /// The field is a pseudo-header's sum, which includes only the addresses.
    Partial(u16),
}

impl Transport {
    /// The difference for a complete checksum.
    pub fn full(delta: u16) -> Transport {
        Transport::Full(delta)
    }

    /// The difference for a pseudo-header's sum.
    pub fn partial(delta: u16) -> Transport {
        Transport::Partial(delta)
    }

    /// Whether the field is a pseudo-header's sum.
    #[inline]
    pub fn is_partial(self) -> bool {
        matches!(self, Transport::Partial(_))
    }

    /// The new value of the field.
    #[inline]
    pub fn apply(self, field: u16) -> u16 {
        match self {
            Transport::Full(delta) => update(field, u32::from(delta)),
            Transport::Partial(delta) => fold(u32::from(field) + u32::from(delta)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    /// The definition, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).expect("folded")
    }

    proptest! {
        #[test]
        fn the_sum_is_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            prop_assert_eq!(fold(sum(&bytes)), naive(&bytes));
        }

        /// One's complement has two zeros. Recomputing a checksum over data that is not all zero never gives 0xffff, and
        /// neither does equation 3 of RFC 1624.
        #[test]
        fn an_update_equals_recomputing(
            mut packet in proptest::collection::vec(any::<u8>(), 12..60),
            src in any::<u32>(), dst in any::<u32>(), ports in any::<(u16, u16)>(),
        ) {
            packet.push(1);
            let old = !naive(&packet);
            let was = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
            let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
            let before = [was(0).into(), was(4).into(), port(8).into(), port(10).into()];
            let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
            let after = [src.into(), dst.into(), ports.0.into(), ports.1.into()];
            let change = delta(&before, &after);
            packet[..4].copy_from_slice(&src.octets());
            packet[4..8].copy_from_slice(&dst.octets());
            packet[8..10].copy_from_slice(&ports.0.to_be_bytes());
            packet[10..12].copy_from_slice(&ports.1.to_be_bytes());
            prop_assert_eq!(Transport::full(change).apply(old), !naive(&packet));
        }
    }
}

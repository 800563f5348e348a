//! Protocols and flow keys.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The transport protocols a Service port can have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
}

impl Protocol {
    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// From the IANA number.
    pub fn from_number(number: u8) -> Option<Protocol> {
        match number {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            132 => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// The name that Kubernetes uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address of one family. Generic keys and flow entries use it to have an IPv4 and an IPv6 size.
pub trait Address: Copy + Eq + Hash + Debug + Default + Send + Into<IpAddr> + 'static {
    /// Whether the family is IPv4, whose addresses fit half a word.
    const IS_V4: bool;

    /// Two addresses as words, in memory order. Two IPv4 addresses share the first word; the other words are zero.
    fn pair(first: Self, second: Self) -> [u64; 4];

    /// Sum of the address's 16-bit words in network order (RFC 1071), without the final fold to 16 bits.
    fn word_sum(self) -> u32;

    /// From an address of either family; `None` if it is the other one.
    fn from_ip(ip: IpAddr) -> Option<Self>;

    /// The address in two words, for hashing.
    fn words(self) -> [u64; 2];
}

/// An [`Ipv4Addr`] that has a default, so that table entries can be made of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct V4(pub Ipv4Addr);

/// An [`Ipv6Addr`] that has a default.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct V6(pub Ipv6Addr);

impl Default for V4 {
    fn default() -> V4 {
        V4(Ipv4Addr::UNSPECIFIED)
    }
}

impl Default for V6 {
    fn default() -> V6 {
        V6(Ipv6Addr::UNSPECIFIED)
    }
}

impl Debug for V4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Debug for V6 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<V4> for IpAddr {
    fn from(address: V4) -> IpAddr {
        IpAddr::V4(address.0)
    }
}

impl From<V6> for IpAddr {
    fn from(address: V6) -> IpAddr {
        IpAddr::V6(address.0)
    }
}

impl Address for V4 {
    const IS_V4: bool = true;

    #[inline]
    fn pair(first: V4, second: V4) -> [u64; 4] {
        [first.words()[0] | second.words()[0] << 32, 0, 0, 0]
    }

    fn word_sum(self) -> u32 {
        let [a, b, c, d] = self.0.octets();
        u32::from(u16::from_be_bytes([a, b])) + u32::from(u16::from_be_bytes([c, d]))
    }

    fn from_ip(ip: IpAddr) -> Option<V4> {
        match ip {
            IpAddr::V4(v4) => Some(V4(v4)),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn words(self) -> [u64; 2] {
        [u64::from(u32::from_ne_bytes(self.0.octets())), 0]
    }
}

impl Address for V6 {
    const IS_V4: bool = false;

    #[inline]
    fn pair(first: V6, second: V6) -> [u64; 4] {
        let ([a, b], [c, d]) = (first.words(), second.words());
        [a, b, c, d]
    }

    fn word_sum(self) -> u32 {
        self.0.segments().iter().map(|&word| u32::from(word)).sum()
    }

    fn from_ip(ip: IpAddr) -> Option<V6> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(V6(v6)),
        }
    }

    #[inline]
    fn words(self) -> [u64; 2] {
        let bits = u128::from_ne_bytes(self.0.octets()).to_ne_bytes();
        let half = |from: usize| {
            let mut word = [0u8; 8];
            word.copy_from_slice(&bits[from..from + 8]);
            u64::from_ne_bytes(word)
        };
        [half(0), half(8)]
    }
}

/// The 5-tuple of one direction of a flow: 13 bytes for IPv4, 37 for IPv6.
///
/// Ports are in host order; `protocol` is the IANA number.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

impl<A: Address> FlowKey<A> {
    /// The other direction of the same tuple.
    pub fn reversed(self) -> FlowKey<A> {
        FlowKey { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..self }
    }

    /// Ports and protocol in one word, in memory order.
    #[inline]
    pub fn port_word(&self) -> u64 {
        u64::from(self.src_port) | u64::from(self.dst_port) << 16 | u64::from(self.protocol) << 32
    }
}

impl<A: Address> PartialEq for FlowKey<A> {
    /// Compares words, not fields: this runs for every packet, and the keys are nearly always equal. Each word is compared by
    /// itself: to compare the arrays, the compiler goes through the stack and waits for its own stores.
    #[inline]
    fn eq(&self, other: &FlowKey<A>) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (A::pair(self.src, self.dst), A::pair(other.src, other.dst));
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) | (self.port_word() ^ other.port_word()) == 0
    }
}

impl<A: Address> Eq for FlowKey<A> {}

impl<A: Address> Hash for FlowKey<A> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (A::pair(self.src, self.dst), self.port_word()).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_reverse_and_add_up() {
        let key = FlowKey {
            src: V4(Ipv4Addr::new(10, 0, 0, 1)),
            dst: V4(Ipv4Addr::new(10, 96, 0, 50)),
            src_port: 40000,
            dst_port: 80,
            protocol: 6,
        };
        assert_eq!(key.reversed().reversed(), key);
        assert_eq!(key.src.word_sum(), 0x0a00 + 1);
        assert_eq!(V6(Ipv6Addr::LOCALHOST).word_sum(), 1);
        assert!(size_of::<FlowKey<V4>>() <= 14 && size_of::<FlowKey<V6>>() <= 38);
    }
}

//! The two kinds of hash.
//!
//! * **Inside this process** (hash tables): [`ahash`], seeded. It is fast, but differs between versions and CPUs, so its
//!   values must not leave the process.
//! * **Between gateways** (which backend a new flow gets): SipHash-1-3 with a key made from `maglev.seed` ([`RingHash`]). The
//!   algorithm is published and gives the same value on every CPU and in every version. It is keyed, so a client that does
//!   not know the seed cannot aim at one backend.

use std::hash::{Hasher, RandomState};
use std::net::IpAddr;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher128};

use crate::flow::Protocol;

/// A hash map with a seed of this process, for the control side and for immutable tables.
pub type HashMap<K, V> = std::collections::HashMap<K, V, ahash::RandomState>;
/// A hash set with a seed of this process.
pub type HashSet<K> = std::collections::HashSet<K, ahash::RandomState>;

/// An empty map.
pub fn new_map<K, V>() -> HashMap<K, V> {
    HashMap::with_hasher(ahash::RandomState::new())
}

/// Four random words from the operating system's entropy, for seeds that must not be guessed.
pub fn random_seed() -> [u64; 4] {
    // RandomState is the only source of entropy in the standard library. Each one has a new key.
    std::array::from_fn(|i| {
        use std::hash::BuildHasher;
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_usize(i);
        hasher.finish()
    })
}

/// The hash that all gateways of a fleet share: SipHash-1-3 (Aumasson, Bernstein 2012), 64 bits.
///
/// The key is SipHash-128 (1-3, zero key) of the bytes of `maglev.seed`. The input has a fixed encoding
/// ([`RingHash::flow`], [`RingHash::source`]) with all numbers in network byte order. Any change to this moves every flow
/// of every fleet, so the tests compare it with golden values.
#[derive(Clone, Copy, Debug)]
pub struct RingHash {
    key: [u8; 16],
}

impl RingHash {
    /// The hash for `maglev.seed`.
    pub fn new(seed: &str) -> RingHash {
        let mut hasher = SipHasher128::new();
        hasher.write(seed.as_bytes());
        RingHash { key: hasher.finish128().as_bytes() }
    }

    /// The hash of a 5-tuple: source address, destination address (16 bytes each, IPv4 as `::ffff:a.b.c.d`), source port,
    /// destination port, IP protocol number.
    pub fn flow(&self, src: IpAddr, dst: IpAddr, src_port: u16, dst_port: u16, protocol: Protocol) -> u64 {
        let mut input = [0u8; 37];
        input[..16].copy_from_slice(&wide(src));
        input[16..32].copy_from_slice(&wide(dst));
        input[32..34].copy_from_slice(&src_port.to_be_bytes());
        input[34..36].copy_from_slice(&dst_port.to_be_bytes());
        input[36] = protocol.number();
        self.bytes(&input)
    }

    /// The hash of a source address alone (16 bytes): the first choice under ClientIP affinity.
    pub fn source(&self, src: IpAddr) -> u64 {
        self.bytes(&wide(src))
    }

    /// The hash of any bytes. Maglev's permutations hash a backend's identity with it.
    pub fn bytes(&self, input: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(input);
        hasher.finish()
    }
}

/// The address as 16 bytes; IPv4 is mapped (RFC 4291 §2.5.5.2).
pub fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden values: two gateways of different versions must agree on them.
    #[test]
    fn the_ring_hash_never_changes() {
        let hash = RingHash::new("pollgate");
        let client: IpAddr = "10.244.1.5".parse().expect("an address");
        let vip: IpAddr = "10.96.0.50".parse().expect("an address");
        assert_eq!(hash.flow(client, vip, 40000, 8080, Protocol::Tcp), GOLDEN_FLOW);
        assert_eq!(hash.source(client), GOLDEN_SOURCE);
        assert_ne!(RingHash::new("other").source(client), GOLDEN_SOURCE);
    }

    const GOLDEN_FLOW: u64 = 779119294374906055;
    const GOLDEN_SOURCE: u64 = 10365994882013608377;
}

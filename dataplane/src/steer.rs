//! Which worker owns a flow.
//!
//! ```text
//!  to a SNAT port of a gateway address, no Service there → the worker whose share the port is in
//!  to an owned address otherwise                         → hash(source address, source port)
//!  to an unowned address (a reply without SNAT)          → hash(destination address, destination port)
//! ```
//!
//! Of fragments, only the first has ports. Those of a source meet at the worker of hash(source address, 0), which learns the owner from
//! the first and gives them to it (`fragment`).
//!
//! Both directions of a flow have the same owner by construction: the client is the source of its own packets and the
//! destination of the replies. Nothing depends on how the NIC or the kernel spreads frames. A worker finds the flow of most
//! frames in its own table and computes the owner only on a miss. It hands a frame of another worker over
//! ([`crate::egress::mesh`]).
//!
//! The kernel's classic BPF can also compute the hash (32 bits, shifts, xor and multiplication), so a fanout program
//! (`port::packet`) gives most frames to their owner at once. The address is 32-bit words in network order, one for IPv4
//! and four for IPv6. All arithmetic is modulo 2³²:
//!
//! ```text
//!  h = seed₀
//!  for each word w:   h = (h ⊕ w) · 0x85ebca6b      h = h ⊕ (h >> 15)
//!                     h = (h ⊕ seed₁ ⊕ port) · 0xc2b2ae35
//!  worker = (h >> 16) · workers >> 16
//! ```
//!
//! Two rounds of multiplication by a large odd number (those of MurmurHash3's finaliser) spread sequential ports and
//! addresses evenly. The seeds are secret, so a sender cannot choose flows of one worker in advance. A cryptographic hash is
//! not needed: flows chosen for one worker load only that worker, within its own limits.

use std::net::IpAddr;

use pollgate_common::flow::{Address, FlowKey};
use pollgate_common::settings::DataplaneSettings;

use crate::snat;

/// Multiplier of the rounds over the address.
pub(crate) const C1: u32 = 0x85eb_ca6b;
/// Multiplier of the round over the port.
pub(crate) const C2: u32 = 0xc2b2_ae35;

/// Computes the owner of a flow among a number of workers.
#[derive(Clone)]
pub struct Steering {
    workers: u16,
    seeds: [u32; 2],
}

/// The kinds of destination that the steering rule distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// A Service, or another owned address that is not a gateway address. The source is the client.
    Service,
    /// A port of a gateway address without a Service, or of the workers' address on the host pair. A flow's packet is then the reply
    /// to a translated source.
    SnatPort,
    /// An unowned address. A flow's packet is then the reply to a client whose source was not translated.
    Client,
}

impl Steering {
    /// The rule for `workers` workers. `seeds` must be the same for all workers of a process.
    pub fn new(workers: u16, seeds: [u64; 4]) -> Steering {
        let [a, b, c, d] = seeds.map(fold);
        Steering { workers: workers.max(1), seeds: [a ^ c, b ^ d] }
    }

    /// Number of workers.
    pub fn workers(&self) -> u16 {
        self.workers
    }

    /// The secret seeds of the hash.
    pub(crate) fn seeds(&self) -> [u32; 2] {
        self.seeds
    }

    /// The owner of the flow that a packet with `key` belongs to, or would open.
    pub fn owner<A: Address>(&self, key: &FlowKey<A>, towards: Towards, settings: &DataplaneSettings) -> u16 {
        if self.workers == 1 {
            return 0;
        }
        match towards {
            Towards::Client => self.by_client(key.dst, key.dst_port),
            Towards::Service => self.by_client(key.src, key.src_port),
            Towards::SnatPort => snat::worker_of(key.dst_port, &settings.snat_ports, self.workers)
                .unwrap_or_else(|| self.by_client(key.src, key.src_port)),
        }
    }

    /// The worker where the fragments of a source meet: the one that the kernel's program gives them to, because it sees no ports.
    pub(crate) fn of_fragments<A: Address>(&self, source: A) -> u16 {
        self.by_client(source, 0)
    }

    fn by_client<A: Address>(&self, address: A, port: u16) -> u16 {
        let hash = match address.into() {
            IpAddr::V4(v4) => self.hash([v4.to_bits()], port),
            IpAddr::V6(v6) => self.hash(words(v6.to_bits()), port),
        };
        let worker = ((hash >> 16) * u32::from(self.workers)) >> 16;
        u16::try_from(worker).unwrap_or(0)
    }

    fn hash<const N: usize>(&self, words: [u32; N], port: u16) -> u32 {
        let round = |hash: u32, word: u32| {
            let mixed = (hash ^ word).wrapping_mul(C1);
            mixed ^ (mixed >> 15)
        };
        let address = words.into_iter().fold(self.seeds[0], round);
        (address ^ self.seeds[1] ^ u32::from(port)).wrapping_mul(C2)
    }
}

/// An IPv6 address as a BPF program loads it: four words, in network order.
pub(crate) fn words(address: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| u32::try_from((address >> shift) & 0xffff_ffff).unwrap_or(0))
}

fn fold(seed: u64) -> u32 {
    u32::try_from((seed ^ (seed >> 32)) & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use pollgate_common::flow::{V4, V6};

    use super::*;

    const PORTS: u16 = 2000;

    /// How unevenly clients are spread over the workers: χ² with `workers − 1` degrees of freedom.
    fn unevenness<A: Address>(steering: &Steering, clients: impl Iterator<Item = (A, u16)>) -> f64 {
        let mut counts = vec![0u32; usize::from(steering.workers())];
        clients.for_each(|(address, port)| counts[usize::from(steering.by_client(address, port))] += 1);
        let expected = f64::from(counts.iter().sum::<u32>()) / f64::from(steering.workers());
        counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
    }

    /// A bound that random values exceed about once in 10⁵ tries, for up to seven degrees of freedom.
    const BOUND: f64 = 36.0;

    fn v4(bits: u32) -> V4 {
        V4(bits.into())
    }

    fn v6(bits: u128) -> V6 {
        V6(bits.into())
    }

    #[test]
    fn sequential_clients_are_spread_evenly() {
        let network = 0x2001_0db8_0000_0000_0000_0000_0000_0000u128;
        for workers in 1..=8 {
            for seed in 0..32u64 {
                let steering = Steering::new(
                    workers,
                    [1u64, 2, 3, 4].map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (seed << 7)),
                );
                let rows = [
                    ("ports", unevenness(&steering, (0..PORTS).map(|n| (v4(0x0af4_0105), 40000 + n)))),
                    ("even ports", unevenness(&steering, (0..PORTS).map(|n| (v4(0x0af4_0105), 32768 + 2 * n)))),
                    ("addresses", unevenness(&steering, (0..2000).map(|n| (v4(0x0af4_0000 + n), 40000)))),
                    ("networks", unevenness(&steering, (0..2000).map(|n| (v4(0x0a00_0005 + (n << 8)), 40000)))),
                    (
                        "both",
                        unevenness(&steering, (0..2000).map(|n| (v4(0x0af4_0000 + u32::from(n % 50)), 1024 + n / 50))),
                    ),
                    ("IPv6 hosts", unevenness(&steering, (0..2000).map(|n| (v6(network + n), 40000)))),
                    ("IPv6 networks", unevenness(&steering, (0..2000).map(|n| (v6(network + (n << 64)), 40000)))),
                ];
                for (what, found) in rows {
                    assert!(found < BOUND, "{what} over {workers} workers, seed {seed}: {found}");
                }
            }
        }
    }

    #[test]
    fn the_hash_is_the_documented_one() {
        let steering = Steering { workers: 1000, seeds: [0x0123_4567, 0x89ab_cdef] };
        let round = |h: u64| {
            let h = (h * 0x85eb_ca6b) & 0xffff_ffff;
            h ^ (h >> 15)
        };
        let end = |h: u64| (((h ^ 0x89ab_cdef ^ 80) * 0xc2b2_ae35) & 0xffff_ffff) >> 16;
        let one = end(round(0x0123_4567 ^ 0x0a00_0001));
        assert_eq!(u64::from(steering.by_client(v4(0x0a00_0001), 80)), (one * 1000) >> 16);
        let six = [1u64, 2, 3].iter().fold(round(0x0123_4567 ^ 0x2001_0db8), |h, w| round(h ^ w));
        let address = v6(0x2001_0db8_0000_0001_0000_0002_0000_0003);
        assert_eq!(u64::from(steering.by_client(address, 80)), (end(six) * 1000) >> 16);
    }

    #[test]
    fn other_seeds_are_other_choices() {
        let [a, b] = [1, 2].map(|seed| Steering::new(2, [seed, 0, 0, 0]));
        let same = (0..1000).filter(|&n| a.by_client(v4(n), 80) == b.by_client(v4(n), 80)).count();
        assert!((400..600).contains(&same), "{same} of 1000 clients have the same worker");
    }
}

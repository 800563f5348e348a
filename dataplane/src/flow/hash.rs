//! The hash of a flow's key: AES rounds where the CPU has them, ahash elsewhere.
//!
//! ```text
//!  key (16 bytes a block) ─⊕ k0─▶ AES round ─⊕ next block─▶ … ─▶ two more rounds ─▶ low 64 bits
//! ```
//!
//! ahash itself uses AES only if the whole build is told that every CPU has it; a build for any x86-64 would silently
//! multiply instead. Here the CPU is asked once, when the table is made, and whole bursts are hashed behind that one
//! decision ([`FlowHasher::each`]), so that nothing is decided per packet. The keys are random for each process, the hash
//! never leaves it, and all 128 bits of state have gone through three keyed rounds: two spread every bit of the input over
//! the whole state (Daemen, Rijmen 2002, §9.5), the third mixes in the last block.
//!
//! One of the few modules with `unsafe`: instructions that not every CPU has.

#![allow(unsafe_code, reason = "AES instructions exist only on some CPUs")]

use pollgate_common::flow::{Address, FlowKey};

/// A key's hash, computed once and used for tag and both buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowHash(pub(super) u64);

impl FlowHash {
    /// All of its bits.
    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

/// Hashes keys with the seeds of this process.
pub(super) struct FlowHasher {
    #[cfg(target_arch = "x86_64")]
    aes: Option<aes::Keys>,
    elsewhere: ahash::RandomState,
}

impl FlowHasher {
    /// Keyed by `seeds`: all of them go into every round key.
    pub(super) fn new(seeds: [u64; 4]) -> FlowHasher {
        let [a, b, c, d] = seeds;
        FlowHasher {
            #[cfg(target_arch = "x86_64")]
            aes: aes::Keys::new(|n| seeds.iter().fold(n, |state, seed| mix(state ^ seed))),
            elsewhere: ahash::RandomState::with_seeds(a, b, c, d),
        }
    }

    /// Of one key.
    #[inline]
    pub(super) fn one<A: Address>(&self, key: &FlowKey<A>) -> FlowHash {
        let mut hash = FlowHash::default();
        self.each(std::iter::once((key, &mut hash)), |_| {});
        hash
    }

    /// Of many keys: each hash is written, then shown to `then`.
    #[inline]
    pub(super) fn each<'a, A: Address>(
        &self,
        keys: impl Iterator<Item = (&'a FlowKey<A>, &'a mut FlowHash)>,
        then: impl Fn(FlowHash),
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(aes) = &self.aes {
            // SAFETY: there are Keys only where the CPU has AES and SSE4.1.
            return unsafe { aes::each(aes, keys, then) };
        }
        for (key, hash) in keys {
            *hash = FlowHash(self.by_multiplying(key));
            then(*hash);
        }
    }

    #[inline]
    fn by_multiplying<A: Address>(&self, key: &FlowKey<A>) -> u64 {
        let [a, b, c, d] = A::pair(key.src, key.dst);
        if A::IS_V4 {
            self.elsewhere.hash_one((a, key.port_word()))
        } else {
            self.elsewhere.hash_one((a, b, c, d, key.port_word()))
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014, §5): every bit of the input turns about half of the output's.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(target_arch = "x86_64")]
mod aes {
    use std::arch::x86_64::{__m128i, _mm_aesenc_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_xor_si128};

    use pollgate_common::flow::{Address, FlowKey};

    use super::FlowHash;

    /// Round keys. To have them is to know that the CPU has the instructions.
    pub(super) struct Keys([__m128i; 4]);

    impl Keys {
        pub(super) fn new(random: impl Fn(u64) -> u64) -> Option<Keys> {
            if !is_x86_feature_detected!("aes") || !is_x86_feature_detected!("sse4.1") {
                return None;
            }
            Some(Keys([0, 2, 4, 6].map(|n| block(random(n), random(n + 1)))))
        }
    }

    #[inline(always)]
    fn block(high: u64, low: u64) -> __m128i {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_set_epi64x(high.cast_signed(), low.cast_signed()) }
    }

    /// # Safety
    /// The CPU must have AES and SSE4.1.
    #[target_feature(enable = "aes,sse4.1")]
    pub(super) unsafe fn each<'a, A: Address>(
        keys: &Keys,
        all: impl Iterator<Item = (&'a FlowKey<A>, &'a mut FlowHash)>,
        then: impl Fn(FlowHash),
    ) {
        for (key, hash) in all {
            *hash = FlowHash(one(keys, key));
            then(*hash);
        }
    }

    #[target_feature(enable = "aes,sse4.1")]
    #[inline]
    fn one<A: Address>(Keys([k0, k1, k2, k3]): &Keys, key: &FlowKey<A>) -> u64 {
        let [a, b, c, d] = A::pair(key.src, key.dst);
        let mut state = if A::IS_V4 {
            _mm_xor_si128(block(a, key.port_word()), *k0)
        } else {
            let state = _mm_aesenc_si128(_mm_xor_si128(block(a, b), *k0), *k1);
            let state = _mm_aesenc_si128(_mm_xor_si128(state, block(c, d)), *k2);
            _mm_xor_si128(state, block(0, key.port_word()))
        };
        state = _mm_aesenc_si128(state, *k1);
        state = _mm_aesenc_si128(state, *k2);
        state = _mm_aesenc_si128(state, *k3);
        _mm_cvtsi128_si64(state).cast_unsigned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollgate_common::flow::{V4, V6};
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(n: u32) -> FlowKey<V4> {
        let port = u16::try_from(n & 0xfff).expect("small");
        FlowKey {
            src: V4(Ipv4Addr::from(0x0a00_0000 + (n >> 12))),
            dst: V4(Ipv4Addr::new(10, 96, 0, 50)),
            src_port: 1024 + port,
            dst_port: 80,
            protocol: 6,
        }
    }

    fn v6(n: u32) -> FlowKey<V6> {
        let wide = |low: u32| V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(low)));
        let key = v4(n);
        FlowKey { src: wide(n >> 12), dst: wide(1), src_port: key.src_port, dst_port: 80, protocol: 6 }
    }

    fn both_ways() -> [FlowHasher; 2] {
        let with = FlowHasher::new([1, 2, 3, 4]);
        #[cfg(target_arch = "x86_64")]
        let without = FlowHasher { aes: None, elsewhere: ahash::RandomState::with_seeds(1, 2, 3, 4) };
        #[cfg(not(target_arch = "x86_64"))]
        let without = FlowHasher::new([1, 2, 3, 4]);
        [with, without]
    }

    /// Sequential clients are what traffic looks like: every byte of their hashes must still be spread evenly.
    fn is_even<A: Address>(hash: &FlowHasher, key: impl Fn(u32) -> FlowKey<A>) {
        const N: u32 = 1 << 16;
        let mut counts = [[0u32; 256]; 8];
        for n in 0..N {
            for (count, byte) in counts.iter_mut().zip(hash.one(&key(n)).0.to_le_bytes()) {
                count[usize::from(byte)] += 1;
            }
        }
        let expected = f64::from(N) / 256.0;
        for count in counts {
            let chi: f64 = count.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
            // 255 degrees of freedom: 255 ± 23; six deviations off would be chance once in 10⁹.
            assert!((120.0..400.0).contains(&chi), "chi square {chi}");
        }
    }

    #[test]
    fn sequential_flows_are_spread_evenly() {
        for hash in both_ways() {
            is_even(&hash, v4);
            is_even(&hash, v6);
        }
    }

    #[test]
    fn each_field_counts() {
        for hash in both_ways() {
            let key = v4(7);
            let others = [
                FlowKey { src: V4(Ipv4Addr::new(10, 0, 0, 9)), ..key },
                FlowKey { dst: V4(Ipv4Addr::new(10, 96, 0, 51)), ..key },
                FlowKey { src_port: 9, ..key },
                FlowKey { dst_port: 81, ..key },
                FlowKey { protocol: 17, ..key },
                key.reversed(),
            ];
            assert!(others.iter().all(|other| hash.one(other) != hash.one(&key)));
        }
    }

    #[test]
    fn another_seed_is_another_hash() {
        let first = FlowHasher::new([1, 2, 3, 4]).one(&v4(1));
        for at in 0..4 {
            let mut seeds = [1, 2, 3, 4];
            seeds[at] ^= 1 << 40;
            assert_ne!(FlowHasher::new(seeds).one(&v4(1)), first, "seed {at}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_cpu_with_aes_uses_it() {
        let [with, _] = both_ways();
        assert_eq!(with.aes.is_some(), is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse4.1"));
    }
}

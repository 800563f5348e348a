//! Generated names and uids. They are hashes and not random, so that a replay gives the same ones.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::objects::Key;

/// Longest prefix of a generated name: with its five characters it is still a DNS label (K `names.SimpleNameGenerator`).
const MAX_PREFIX: usize = 58;

/// SipHash-1-3 of a text: published and fixed, so that any two gateways agree.
pub(crate) fn hash(text: &str, key: u64) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key, 0);
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// A prefix, cut if it is long, and five characters that follow from a seed.
pub(crate) fn generated_name(prefix: &str, seed: &str) -> String {
    let most = prefix.char_indices().nth(MAX_PREFIX).map_or(prefix.len(), |(cut, _)| cut);
    format!("{}{}", &prefix[..most], suffix(seed))
}

/// Five characters from the hash of a seed, in the alphabet Kubernetes uses for generated names (no vowels, no words).
fn suffix(seed: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = hash(seed, 0);
    let mut text = String::with_capacity(5);
    for _ in 0..5 {
        let index = usize::try_from(hash % ALPHABET.len() as u64).unwrap_or_default();
        text.push(char::from(ALPHABET[index]));
        hash /= ALPHABET.len() as u64;
    }
    text
}

/// A UUID of version 8 (RFC 9562 5.8): its content is free to choose, so a replay gives the same one.
pub(crate) fn uid(key: &Key, revision: u64) -> String {
    let seed = format!("{key}@{revision}");
    let (high, low) = (hash(&seed, 1), hash(&seed, 2));
    let high = (high & !0xf000) | 0x8000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff)
}

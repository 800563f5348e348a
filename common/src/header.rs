//! Headers laid over bytes. Every wire format in this workspace is read and written this way.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A header that can be laid over bytes. Once it is there, its accessors cannot fail.
pub trait Header: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Sized {
    /// The header at offset `at`; `None` if `bytes` ends inside it.
    #[inline]
    fn at(bytes: &[u8], at: usize) -> Option<&Self> {
        Self::ref_from_prefix(bytes.get(at..)?).ok().map(|(header, _)| header)
    }

    /// The same, mutable.
    #[inline]
    fn at_mut(bytes: &mut [u8], at: usize) -> Option<&mut Self> {
        Self::mut_from_prefix(bytes.get_mut(at..)?).ok().map(|(header, _)| header)
    }
}

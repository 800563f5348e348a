//! Headers laid over bytes: how every wire format in this workspace is read and written.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A header that can be laid over bytes. Accessors of a header that was found cannot fail.
pub trait Header: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Sized {
    /// The header at `at`, if all of it is there.
    #[inline]
    fn at(bytes: &[u8], at: usize) -> Option<&Self> {
        Self::ref_from_prefix(bytes.get(at..)?).ok().map(|(header, _)| header)
    }

    /// The same, to be changed.
    #[inline]
    fn at_mut(bytes: &mut [u8], at: usize) -> Option<&mut Self> {
        Self::mut_from_prefix(bytes.get_mut(at..)?).ok().map(|(header, _)| header)
    }
}

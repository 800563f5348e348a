//! Large, zeroed, fixed arrays on pages of their own, huge pages where the kernel has them; and prefetching.
//!
//! A flow table of a million flows is 160 MB touched at random: with 4 kB pages most look-ups would miss the TLB as well.
//! The array is mapped once at start (the kernel gives zeroed pages when they are first touched, so an idle gateway does
//! not pay for its maximum) and advised to use transparent huge pages.
//!
//! One of the few modules with `unsafe`: a mapping has no owner the borrow checker could know.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Types for which all bits zero is a value.
///
/// # Safety
/// All-zero bytes must be a valid value of the type, and the type must need no `Drop`.
pub(crate) unsafe trait Zeroed: Copy {}

/// A fixed array of `T`, all zero at first.
pub(crate) struct Mapped<T: Zeroed> {
    ptr: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its memory as a Box would, and T may be sent.
unsafe impl<T: Zeroed + Send> Send for Mapped<T> {}

impl<T: Zeroed> Mapped<T> {
    /// Maps room for `len` elements; fails with the kernel's error if there is no such room.
    pub(crate) fn new(len: usize) -> io::Result<Mapped<T>> {
        let bytes = Self::bytes(len).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
        let ptr = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if ptr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: exactly the mapping made above. Advice: a kernel without huge pages says no, and that is fine.
        unsafe { libc::madvise(ptr, bytes, libc::MADV_HUGEPAGE) };
        let ptr = NonNull::new(ptr.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Mapped { ptr, len })
    }

    fn bytes(len: usize) -> Option<usize> {
        len.max(1).checked_mul(size_of::<T>())
    }
}

impl<T: Zeroed> Deref for Mapped<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `len` elements, page aligned; zero is a value of T (its contract).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Zeroed> DerefMut for Mapped<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Zeroed> Drop for Mapped<T> {
    fn drop(&mut self) {
        if let Some(bytes) = Self::bytes(self.len) {
            // SAFETY: the mapping made in `new`, which nobody can use any more.
            unsafe { libc::munmap(self.ptr.as_ptr().cast(), bytes) };
        }
    }
}

/// Asks for the cache line at `at` to be fetched. Any address will do: it is a hint and touches nothing.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch does not fault, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;

    // SAFETY: zero is a number.
    unsafe impl Zeroed for u64 {}

    #[test]
    fn it_is_zero_and_keeps_what_is_written() {
        let mut array = Mapped::<u64>::new(100_000).expect("memory");
        assert!(array.iter().all(|&x| x == 0));
        array[99_999] = 7;
        assert_eq!((array.len(), array[99_999]), (100_000, 7));
        assert!(Mapped::<u64>::new(usize::MAX / 8).is_err());
    }
}

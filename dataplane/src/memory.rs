//! Large, zeroed, fixed arrays on their own pages (huge pages if the kernel has them), and prefetching.
//!
//! A flow table of a million flows is 160 MB of randomly accessed memory. With 4 kB pages most look-ups would also miss the
//! TLB. The array is mapped once at start, and the kernel is advised to use transparent huge pages. The kernel allocates
//! zeroed pages on first access, so an idle gateway does not use its maximum.

#![allow(unsafe_code, reason = "mmap(2) returns memory without an owner that the compiler knows")]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Types for which all-zero bytes are a valid value.
///
/// # Safety
/// All-zero bytes must be a valid value of the type, and the type must need no `Drop`.
pub(crate) unsafe trait Zeroed {}

/// A fixed array of `T` in its own mapping, initially all zero.
pub(crate) struct Mapped<T: Zeroed> {
    ptr: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its memory like a Box, and T is Send.
unsafe impl<T: Zeroed + Send> Send for Mapped<T> {}

// SAFETY: a shared reference to it gives shared references to T, and T is Sync.
unsafe impl<T: Zeroed + Sync> Sync for Mapped<T> {}

impl<T: Zeroed> Mapped<T> {
    /// Maps memory for `len` elements. Fails with the kernel's error if there is not enough memory.
    pub(crate) fn new(len: usize) -> io::Result<Mapped<T>> {
        let bytes = Self::bytes(len).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address chosen by the kernel touches no memory of ours.
        let ptr = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if ptr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: exactly the mapping made above. It is only advice: a kernel without huge pages may refuse it.
        unsafe { libc::madvise(ptr, bytes, libc::MADV_HUGEPAGE) };
        let ptr = NonNull::new(ptr.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Mapped { ptr, len })
    }

    /// Where `count` elements begin at `start`, without a reference to any: for memory whose parts are lent.
    pub(crate) fn part(&self, start: usize, count: usize) -> Option<NonNull<T>> {
        start.checked_add(count).filter(|end| *end <= self.len)?;
        // SAFETY: `start` is within the mapping.
        Some(unsafe { self.ptr.add(start) })
    }

    fn bytes(len: usize) -> Option<usize> {
        len.max(1).checked_mul(size_of::<T>())
    }
}

impl<T: Zeroed> Deref for Mapped<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `len` elements and is page aligned. Zero is a value of T (contract of `Zeroed`).
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
            // SAFETY: the mapping made in `new`, to which no reference is left.
            unsafe { libc::munmap(self.ptr.as_ptr().cast(), bytes) };
        }
    }
}

/// Prefetches the cache line at `at`. Any address is allowed: a prefetch is a hint and never faults.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch does not fault at any address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;

    // SAFETY: zero is a valid number.
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

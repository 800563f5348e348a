//! The rings between an AF_XDP socket and the kernel. One side of a ring writes entries, the other reads them.
//!
//! ```text
//!  fill, transmit:        we ──▶ entries ──▶ kernel       Producer
//!  receive, completion:   kernel ──▶ entries ──▶ we       Consumer
//!
//!        consumer ┐          ┌ producer         free-running counters of 32 bits; an entry's index is its number
//!   │ free │ free ▼ full │ full ▼ free │          modulo the size, a power of two
//! ```
//!
//! The writer of a counter stores it with Release, and the other side loads it with Acquire. So an entry is visible before
//! its number, and is not overwritten before it was read (Documentation/networking/af_xdp.rst).
//!
//! `unsafe` here: the kernel also writes this memory. [`Shared::map`] derives all pointers from the kernel's own offsets into
//! a mapping whose size follows from them. Only entries that are ours by the counters are accessed.

#![allow(unsafe_code, reason = "the kernel writes the mapped rings")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Types of ring entries.
///
/// # Safety
/// Any bytes must be a valid value of the type.
pub(super) unsafe trait Entry: Copy {}

// SAFETY: any bytes are a valid number.
unsafe impl Entry for u64 {}
// SAFETY: three numbers, for which any bytes are valid.
unsafe impl Entry for libc::xdp_desc {}

/// A mapped ring.
#[derive(Debug)]
struct Shared<T: Entry> {
    base: NonNull<u8>,
    bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is used only through this handle.
unsafe impl<T: Entry> Send for Shared<T> {}

impl<T: Entry> Shared<T> {
    /// Maps the ring of `size` entries that was requested on the socket.
    fn map(socket: BorrowedFd<'_>, size: u32, which: i64, at: &libc::xdp_ring_offset) -> io::Result<Shared<T>> {
        let wrong = || io::Error::other("the kernel's ring offsets are invalid");
        let offset = |bytes: u64| usize::try_from(bytes).map_err(|_| wrong());
        let entries = offset(at.desc)?;
        let bytes = entries + size as usize * size_of::<T>();
        let counters = [offset(at.producer)?, offset(at.consumer)?, offset(at.flags)?];
        if !size.is_power_of_two() || counters.iter().any(|at| at % 4 != 0 || at + 4 > bytes) || entries % 8 != 0 {
            return Err(wrong());
        }
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at an address chosen by the kernel touches no memory of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, socket.as_raw_fd(), which) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base: NonNull<u8> = NonNull::new(base.cast()).ok_or_else(wrong)?;
        // SAFETY: all four lie in the mapping and are aligned, as checked above.
        let [producer, consumer, flags] = counters.map(|at| unsafe { base.add(at).cast() });
        // SAFETY: as above.
        let entries = unsafe { base.add(entries).cast() };
        Ok(Shared { base, bytes, producer, consumer, flags, entries, size })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: in the mapping, aligned, only accessed atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: in the mapping, aligned, only accessed atomically.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: in the mapping, aligned, only accessed atomically.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, number: u32) -> NonNull<T> {
        // SAFETY: below `size` after the mask, so in the mapping.
        unsafe { self.entries.add((number & (self.size - 1)) as usize) }
    }
}

impl<T: Entry> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, which has no other user.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The writing side of a ring.
#[derive(Debug)]
pub(super) struct Producer<T: Entry> {
    ring: Shared<T>,
    /// The number of the next entry.
    next: u32,
    /// Our counter as the kernel sees it. It is written only when it changes, because the kernel reads this cache line on
    /// another CPU.
    shown: u32,
    /// The kernel's counter as last seen.
    consumed: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps a ring for writing.
    pub(super) fn map(fd: BorrowedFd<'_>, size: u32, which: i64, at: &libc::xdp_ring_offset) -> io::Result<Self> {
        Ok(Producer { ring: Shared::map(fd, size, which, at)?, next: 0, shown: 0, consumed: 0 })
    }

    /// Writes an entry. The kernel sees it after [`Producer::submit`]. Returns whether there was room.
    #[inline]
    pub(super) fn push(&mut self, value: T) -> bool {
        if self.pending() == self.ring.size {
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
            if self.pending() == self.ring.size {
                return false;
            }
        }
        // SAFETY: the kernel has consumed the old entry at this index and may not see the new one yet, so it is ours.
        unsafe { self.ring.entry(self.next).write(value) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Makes all pushed entries visible to the kernel.
    #[inline]
    pub(super) fn submit(&mut self) {
        if self.shown != self.next {
            self.shown = self.next;
            self.ring.producer().store(self.next, Ordering::Release);
        }
    }

    /// Takes back the entries from number `next` on. Only for entries that the kernel has not read and cannot be reading.
    pub(super) fn withdraw_to(&mut self, next: u32) {
        self.next = next;
        self.submit();
    }

    /// The entry with this number, as it was last pushed.
    pub(super) fn peek(&self, number: u32) -> T {
        // SAFETY: in the mapping. Both sides only read the entry until we push to its index again.
        unsafe { self.ring.entry(number).read() }
    }

    /// The number of the next entry to be pushed.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// The number of the first entry that the kernel has not consumed, read again from the ring.
    pub(super) fn consumed(&mut self) -> u32 {
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.consumed
    }

    /// Number of entries not yet consumed, by the counter as last read.
    pub(super) fn pending(&self) -> u32 {
        self.next.wrapping_sub(self.consumed)
    }

    /// Whether the kernel needs a system call to process the ring.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// The reading side of a ring.
#[derive(Debug)]
pub(super) struct Consumer<T: Entry> {
    ring: Shared<T>,
    /// The number of the next entry.
    next: u32,
    /// Our counter as the kernel sees it.
    shown: u32,
    /// The kernel's counter as last seen.
    produced: u32,
}

impl<T: Entry> Consumer<T> {
    /// Maps a ring for reading.
    pub(super) fn map(fd: BorrowedFd<'_>, size: u32, which: i64, at: &libc::xdp_ring_offset) -> io::Result<Self> {
        Ok(Consumer { ring: Shared::map(fd, size, which, at)?, next: 0, shown: 0, produced: 0 })
    }

    /// Reads the next entry. [`Consumer::release`] gives its space back to the kernel.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            self.produced = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.produced {
                return None;
            }
        }
        // SAFETY: the kernel has written the entry and we have not given it back yet, so we may read it.
        let value = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(value)
    }

    /// Number of entries that wait.
    pub(super) fn waiting(&mut self) -> u32 {
        self.produced = self.ring.producer().load(Ordering::Acquire);
        self.produced.wrapping_sub(self.next)
    }

    /// Gives the space of all popped entries back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        if self.shown != self.next {
            self.shown = self.next;
            self.ring.consumer().store(self.next, Ordering::Release);
        }
    }
}

//! The rings between an AF_XDP socket and its kernel: each has one side that writes entries and one that reads them.
//!
//! ```text
//!  fill, transmit:        we ──▶ entries ──▶ kernel       Producer
//!  receive, completion:   kernel ──▶ entries ──▶ we       Consumer
//!
//!        consumer ┐          ┌ producer         free-running counters of 32 bits; an entry's place is its number
//!   │ free │ free ▼ full │ full ▼ free │          modulo the size, a power of two
//! ```
//!
//! The writer of a counter stores it with Release and the other side loads it with Acquire, so that an entry is seen
//! before its number is, and is not overwritten before it was read (Documentation/networking/af_xdp.rst).
//!
//! `unsafe` here: the kernel writes this memory too. Every access is through pointers that [`Shared::map`] has derived
//! from the kernel's own offsets into a mapping of the size those imply, to entries that the counters say are ours.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Values that may lie in a ring.
///
/// # Safety
/// Any bytes must be a value.
pub(super) unsafe trait Entry: Copy {}

// SAFETY: any bytes are a number.
unsafe impl Entry for u64 {}
// SAFETY: three numbers.
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

// SAFETY: the mapping belongs to the process, not to a thread, and is used through this one handle only.
unsafe impl<T: Entry> Send for Shared<T> {}

impl<T: Entry> Shared<T> {
    /// Maps the ring of `size` entries that was asked for on the socket.
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
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
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
        // SAFETY: the mapping made in `map`, used by nobody else.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The side that writes.
#[derive(Debug)]
pub(super) struct Producer<T: Entry> {
    ring: Shared<T>,
    /// The number of the next entry.
    next: u32,
    /// Our counter as the kernel sees it. It is written only when it moves: the kernel reads that line on another CPU.
    shown: u32,
    /// The kernel's counter as last seen.
    consumed: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps a ring to write to.
    pub(super) fn map(fd: BorrowedFd<'_>, size: u32, which: i64, at: &libc::xdp_ring_offset) -> io::Result<Self> {
        Ok(Producer { ring: Shared::map(fd, size, which, at)?, next: 0, shown: 0, consumed: 0 })
    }

    /// Writes an entry; the kernel sees it after [`Producer::submit`]. Whether there was room.
    #[inline]
    pub(super) fn push(&mut self, value: T) -> bool {
        if self.pending() == self.ring.size {
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
            if self.pending() == self.ring.size {
                return false;
            }
        }
        // SAFETY: the entry is between what the kernel has consumed and what it may see, so it is ours.
        unsafe { self.ring.entry(self.next).write(value) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the kernel all that was pushed.
    #[inline]
    pub(super) fn submit(&mut self) {
        if self.shown != self.next {
            self.shown = self.next;
            self.ring.producer().store(self.next, Ordering::Release);
        }
    }

    /// Takes back the entries from number `next` on. Only for entries the kernel has not looked at and cannot be looking
    /// at.
    pub(super) fn withdraw_to(&mut self, next: u32) {
        self.next = next;
        self.submit();
    }

    /// The entry of that number, as it was last pushed.
    pub(super) fn peek(&self, number: u32) -> T {
        // SAFETY: in the mapping; both sides only read it until the place is pushed to again, by us.
        unsafe { self.ring.entry(number).read() }
    }

    /// The number the next entry will have.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// The number of the first entry that the kernel has not consumed, asked anew.
    pub(super) fn consumed(&mut self) -> u32 {
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.consumed
    }

    /// Entries not yet consumed, as last seen.
    pub(super) fn pending(&self) -> u32 {
        self.next.wrapping_sub(self.consumed)
    }

    /// Whether the kernel wants a system call before it looks.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// The side that reads.
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
    /// Maps a ring to read from.
    pub(super) fn map(fd: BorrowedFd<'_>, size: u32, which: i64, at: &libc::xdp_ring_offset) -> io::Result<Self> {
        Ok(Consumer { ring: Shared::map(fd, size, which, at)?, next: 0, shown: 0, produced: 0 })
    }

    /// Reads the next entry. The kernel gets its place back by [`Consumer::release`].
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            self.produced = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.produced {
                return None;
            }
        }
        // SAFETY: the entry is between what we have given back and what the kernel has written, so it is ours to read.
        let value = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(value)
    }

    /// Gives the kernel back the places of all that was popped.
    #[inline]
    pub(super) fn release(&mut self) {
        if self.shown != self.next {
            self.shown = self.next;
            self.ring.consumer().store(self.next, Ordering::Release);
        }
    }
}

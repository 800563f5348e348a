//! Code that the benches share.
//!
//! * [`frames`]: packets generated from the number of their flow.
//! * [`endless`]: a port that receives a full burst of them per poll.
//! * [`cluster`]: any number of Services with endpoints.
//! * [`control`]: the control side over them, without threads and disk.
//! * [`site`]: a gateway over the first three, whose polls the bench calls.
//!
//! **Set-up is lazy.** criterion calls a bench's function for every sample, and never if the filter on the command line
//! excludes it. So expensive data is made inside that function, once, with `Option::get_or_insert_with`.

#![allow(dead_code, reason = "every bench is a program of its own and uses a part of this")]
#![allow(unused_imports, reason = "likewise")]

pub(crate) mod cluster;
pub(crate) mod control;
pub(crate) mod endless;
pub(crate) mod frames;
pub(crate) mod site;

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mimalloc::MiMalloc;

pub(crate) use endless::{Endless, Make, Remote};
pub(crate) use frames::{Mix, Order, Source};
pub(crate) use site::{Scene, Site};

/// The binary's allocator, counting.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on unchanged to the binary's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.dealloc(ptr, layout) }
    }
}

/// Runs `work` and fails if it allocates.
pub(crate) fn without_allocation(what: &str, work: impl FnOnce()) {
    let before = ALLOCATIONS.load(Relaxed);
    work();
    assert_eq!(ALLOCATIONS.load(Relaxed) - before, 0, "allocations: {what}");
}

/// Whether each bench runs only once, to check that it works (`cargo bench -- --test`).
pub(crate) fn is_trial() -> bool {
    std::env::args().any(|arg| arg == "--test") || !std::env::args().any(|arg| arg == "--bench")
}

/// The sizes to measure, ascending. A trial run uses only those up to `enough`.
pub(crate) fn sizes(all: &'static [u32], enough: u32) -> impl Iterator<Item = u32> {
    let most = if is_trial() { enough } else { u32::MAX };
    all.iter().copied().filter(move |&size| size <= most)
}

/// A cheap generator of random numbers, the same in every run (xorshift64, Marsaglia 2003).
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Random {
        Random(0x9e37_79b9_7f4a_7c15)
    }

    /// The next number, below `limit`.
    #[inline]
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * u128::from(limit)) >> 64) as u32
    }
}

/// Prefetches a cache line, as the pipeline does.
#[inline]
pub(crate) fn prefetch<T>(line: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch does not fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(line).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

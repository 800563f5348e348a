//! The frame memory that a worker's AF_XDP ports share, and the part of each port.
//!
//! ```text
//!  memory │ port 0: chunk 0 … n-1 │ port 1: chunk n … 2n-1 │ …        owner of a chunk = its number / n, both powers of two
//!  chunk  │ 256 bytes of the kernel, then free: room for a VLAN tag │ frame … │ free room │
//! ```
//!
//! Every socket has the whole memory registered, so a frame from one port can be sent by another with a descriptor, and we
//! copy no bytes. The parts are fixed, so the owner of a chunk follows from its number. Each port keeps its own list of free
//! chunks without a lock.
//!
//! A chunk has one holder at a time: its owner's free list, the kernel (fill ring, receive ring, a transmit ring, or before a
//! completion ring), or a [`Frame`]. The memory is freed with the last port. If frames are still out it is leaked, which is
//! the only sound option. Ports count the frames that they hand out and take in, and the counts are added up when ports are
//! dropped.
//!
//! Reserved huge pages (vm.nr_hugepages) are tried first, then transparent ones by advice. A child process does not get the
//! memory (MADV_DONTFORK): pages that the kernel has pinned must not be copied on write.
//!
//! `unsafe` here: the memory is shared with the kernel, and frames point into it.

#![allow(unsafe_code, reason = "frames point into memory that the kernel also writes")]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pollgate_common::net::PortId;

use super::super::{Frame, Origin};

/// Bytes that the kernel keeps free before a received frame (XDP_PACKET_HEADROOM).
pub(super) const HEADROOM: usize = 256;
const ETHERNET_AND_TAG: usize = 18;
const HUGE_PAGE: usize = 2 << 20;

/// The size of a chunk for frames of this MTU; `None` if no size fits. The kernel accepts powers of two up to a page.
pub(super) fn chunk_size(mtu: usize) -> Option<usize> {
    [2048, 4096].into_iter().find(|&size| mtu <= largest_mtu(size))
}

/// The largest MTU that a chunk can carry.
pub(super) fn most() -> usize {
    largest_mtu(4096)
}

fn largest_mtu(chunk: usize) -> usize {
    chunk - HEADROOM - ETHERNET_AND_TAG
}

/// The frame memory of all AF_XDP ports of a worker.
#[derive(Debug)]
pub(super) struct Umem {
    base: NonNull<u8>,
    mapped: usize,
    /// Both are powers of two, kept as exponents: a division per frame would be measurable.
    chunk_shift: u32,
    port_shift: u32,
    ports: Box<[PortId]>,
    /// Frames handed out minus frames taken in, of the ports that were dropped.
    out: AtomicI64,
}

// SAFETY: the mapping belongs to the process. The fields are written only in `new`, except for an atomic one. Frames and
// rings, which are not shared, control the access to the bytes.
unsafe impl Send for Umem {}
// SAFETY: as above.
unsafe impl Sync for Umem {}

impl Umem {
    /// Maps memory for `chunks_per_port` chunks of each of the ports. Both numbers must be powers of two.
    pub(super) fn new(ports: &[PortId], chunks_per_port: u32, chunk_size: usize) -> io::Result<Umem> {
        debug_assert!(chunks_per_port.is_power_of_two() && chunk_size.is_power_of_two());
        let (chunk_shift, port_shift) = (chunk_size.trailing_zeros(), chunks_per_port.trailing_zeros());
        let bytes = ports.len() << (chunk_shift + port_shift);
        let mapped = bytes.next_multiple_of(HUGE_PAGE);
        let base = map(mapped, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB).or_else(|_| map(mapped, 0))?;
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTFORK] {
            // SAFETY: exactly the mapping made above. It is only advice, which the kernel may refuse.
            unsafe { libc::madvise(base.as_ptr().cast(), mapped, advice) };
        }
        Ok(Umem { base, mapped, chunk_shift, port_shift, ports: ports.into(), out: AtomicI64::new(0) })
    }

    /// The argument of XDP_UMEM_REG.
    pub(super) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.base.as_ptr() as u64,
            len: (self.ports.len() as u64) << (self.chunk_shift + self.port_shift),
            chunk_size: 1 << self.chunk_shift,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    /// The address of this frame's packet in the memory; `None` if the packet is not in it.
    pub(super) fn address(&self, frame: &Frame) -> Option<u64> {
        let offset = (frame.as_ptr() as usize).checked_sub(self.base.as_ptr() as usize)?;
        (offset < self.mapped).then_some(offset as u64)
    }

    /// The chunk that contains an address.
    pub(super) fn chunk(&self, address: u64) -> u32 {
        u32::try_from(address >> self.chunk_shift).unwrap_or(u32::MAX)
    }

    /// The address of a chunk.
    pub(super) fn start(&self, chunk: u32) -> u64 {
        u64::from(chunk) << self.chunk_shift
    }

    /// The chunks of the port with this index.
    fn chunks(&self, index: usize) -> std::ops::Range<u32> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        index << self.port_shift..(index + 1) << self.port_shift
    }

    /// The frame of `length` bytes at `address`; `None` if it is not within one chunk.
    ///
    /// # Safety
    /// The chunk must have no other holder: its address has just left a ring of the kernel.
    #[inline]
    pub(super) unsafe fn frame(&self, address: u64, length: u32, received_on: Option<PortId>) -> Option<Frame> {
        let chunk = self.chunk(address);
        let owner = *self.ports.get((chunk >> self.port_shift) as usize)?;
        let room = u32::try_from((self.start(chunk) + (1 << self.chunk_shift)) - address)
            .ok()
            .filter(|&room| length <= room)?;
        // SAFETY: a chunk of one of the ports lies in the mapping, and `address` lies in the chunk.
        let first = unsafe { self.base.add(usize::try_from(address).ok()?) };
        let received_on = received_on.unwrap_or(owner);
        // SAFETY: `room` bytes to the chunk's end, zeroed when mapped. The chunk has no other holder (contract). The
        // mapping stays while frames are out.
        Some(unsafe { Frame::new(first, length, room, Origin::Port(owner), received_on, u64::from(chunk)) })
    }

    /// Copies a packet into a chunk, at the offset of a received packet. Returns its address; `None` if it does not fit.
    ///
    /// # Safety
    /// The caller must be the only holder of the chunk: it has just left the list of free chunks.
    unsafe fn write(&self, chunk: u32, bytes: &[u8]) -> Option<u64> {
        let address = self.start(chunk) + HEADROOM as u64;
        if bytes.len() > (1 << self.chunk_shift) - HEADROOM {
            return None;
        }
        // SAFETY: the chunk lies in the mapping, and the packet fits the chunk (checked above). It has no other holder.
        unsafe {
            let to = self.base.add(usize::try_from(address).ok()?);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len());
        }
        Some(address)
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        if *self.out.get_mut() == 0 {
            // SAFETY: the mapping made in `new`. No port and no frame is left. The kernel has pinned what it still sends.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
        }
    }
}

fn map(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags);
    // SAFETY: an anonymous mapping at an address chosen by the kernel touches no memory of ours.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped it at address 0"))
}

/// One port's part of the memory.
#[derive(Debug)]
pub(super) struct Share {
    umem: Arc<Umem>,
    index: usize,
    /// Free chunks. The last used is used next, because it is in the cache.
    free: Vec<u32>,
    /// Frames handed out minus frames taken in.
    out: i64,
}

impl Share {
    /// The part of the port with this index. Only one may be made per port.
    pub(super) fn new(umem: Arc<Umem>, index: usize) -> Share {
        let free = umem.chunks(index).rev().collect();
        Share { umem, index, free, out: 0 }
    }

    /// The whole memory.
    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Takes a free chunk. Returns its address.
    #[inline]
    pub(super) fn take(&mut self) -> Option<u64> {
        self.free.pop().map(|chunk| self.umem.start(chunk))
    }

    /// Number of free chunks.
    pub(super) fn free(&self) -> u32 {
        u32::try_from(self.free.len()).unwrap_or(u32::MAX)
    }

    /// Number of chunks.
    pub(super) fn size(&self) -> u32 {
        1 << self.umem.port_shift
    }

    /// Whether the chunk at `address` belongs to this part.
    #[inline]
    pub(super) fn owns(&self, address: u64) -> bool {
        (self.umem.chunk(address) >> self.umem.port_shift) as usize == self.index
    }

    /// Takes back the chunk at `address`. It must belong to this part and have no holder.
    #[inline]
    pub(super) fn put(&mut self, address: u64) {
        let chunk = self.umem.chunk(address);
        debug_assert!(self.owns(address), "chunk {chunk} belongs to another port");
        debug_assert!(self.free.len() < 1 << self.umem.port_shift, "chunk {chunk} came back twice");
        self.free.push(chunk);
    }

    /// The frame at `address`, as in [`Umem::frame`].
    ///
    /// # Safety
    /// As for [`Umem::frame`].
    #[inline]
    pub(super) unsafe fn hand_out(&mut self, address: u64, length: u32, received_on: Option<PortId>) -> Option<Frame> {
        // SAFETY: guaranteed by the caller.
        let frame = unsafe { self.umem.frame(address, length, received_on)? };
        self.out += 1;
        Some(frame)
    }

    /// Takes in a frame of this memory, so that its chunk is no longer in a frame. Returns the address of the packet.
    #[inline]
    pub(super) fn take_in(&mut self, frame: Frame) -> Option<u64> {
        let address = self.umem.address(&frame)?;
        self.out -= 1;
        Some(address)
    }

    /// Copies a packet from other memory into a chunk of this part. Returns its address; `None` if no chunk is free or the
    /// packet does not fit.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Option<u64> {
        let chunk = self.free.pop()?;
        // SAFETY: the chunk was free until now.
        let address = unsafe { self.umem.write(chunk, bytes) };
        if address.is_none() {
            self.free.push(chunk);
        }
        address
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // The last part to be dropped sees the sum: the reference count of the Arc orders the counter's accesses.
        self.umem.out.fetch_add(self.out, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [PortId; 2] = [PortId(3), PortId(5)];

    fn shares() -> [Share; 2] {
        let umem = Arc::new(Umem::new(&PORTS, 4, 2048).expect("memory"));
        [0, 1].map(|index| Share::new(Arc::clone(&umem), index))
    }

    #[test]
    fn chunks_carry_frames_of_their_mtu() {
        assert_eq!(chunk_size(1500), Some(2048));
        assert_eq!(chunk_size(1774), Some(2048));
        assert_eq!(chunk_size(1775), Some(4096));
        assert_eq!(chunk_size(3822), Some(4096));
        assert_eq!((chunk_size(3823), most()), (None, 3822));
    }

    #[test]
    fn a_chunk_has_its_owner_by_number_and_comes_back() {
        let [mut left, mut right] = shares();
        let address = right.take().expect("a chunk") + 256;
        assert_eq!((address, right.owns(address), left.owns(address)), (4 * 2048 + 256, true, false));
        // SAFETY: the chunk has just left the free list.
        let frame = unsafe { right.hand_out(address, 60, None) }.expect("a frame");
        assert_eq!((frame.origin(), frame.room(), frame.token()), (Origin::Port(PortId(5)), 2048 - 256, 4));
        assert_eq!(left.take_in(frame), Some(address));
        right.put(address);
        assert_eq!((left.free(), right.free()), (4, 4));
        let mut bytes = [1; 10];
        let pointer = NonNull::from(&mut bytes).cast();
        // SAFETY: the array outlives the frame.
        let elsewhere = unsafe { Frame::new(pointer, 10, 10, Origin::Worker(0), PortId(3), 0) };
        assert_eq!(left.umem().address(&elsewhere), None);
    }

    #[test]
    fn a_frame_must_lie_in_one_chunk() {
        let [mut share, _other] = shares();
        for (address, length) in [(256, 1793), (8 * 2048, 1), (u64::MAX, 0)] {
            // SAFETY: no frame is made.
            assert!(unsafe { share.hand_out(address, length, None) }.is_none(), "{length} at {address}");
        }
    }

    #[test]
    fn a_copy_has_the_offset_of_a_received_frame_or_takes_no_chunk() {
        let [mut share, _other] = shares();
        assert_eq!(share.copy(&[7; 1793]), None);
        assert_eq!(share.free(), 4);
        let address = share.copy(&[7; 1792]).expect("it fits");
        assert_eq!(address, 256);
        (0..3).for_each(|_| assert!(share.take().is_some()));
        assert_eq!(share.copy(&[7; 60]), None, "no chunk is left");
        // SAFETY: the chunk of the copy is ours.
        let frame = unsafe { share.hand_out(address, 1792, None) }.expect("a frame");
        assert!(frame.bytes().iter().all(|&byte| byte == 7));
        share.take_in(frame);
    }
}

//! The frame memory that a worker's AF_XDP ports share, and each port's part of it.
//!
//! ```text
//!  memory │ port 0: chunk 0 … n-1 │ port 1: chunk n … 2n-1 │ …        owner of a chunk = its number / n, both powers of two
//!  chunk  │ 256 bytes of the kernel's, then free: room for a VLAN tag │ frame … │ free room │
//! ```
//!
//! Because the kernel knows the whole memory on every socket, a frame that came in by one port goes out by another as a
//! descriptor: no byte is copied by us. Because the parts are fixed, whose a chunk is follows from its number, and each
//! port keeps its own list of free ones without a lock.
//!
//! A chunk is in one place at a time: in its owner's list, with the kernel (fill ring, receive ring, a transmit ring, on
//! its way to a completion ring), or in a [`Frame`]. The memory goes when the last port does, unless frames are still out:
//! then it is leaked, which is the only sound way. Ports count the frames they hand out and take in, and add that up when
//! they end.
//!
//! Huge pages are asked for twice: reserved ones (vm.nr_hugepages), and failing that transparent ones by advice. A child
//! process does not get the memory (MADV_DONTFORK): pages that the kernel has pinned must not be copied on write.
//!
//! `unsafe` here: the memory is shared with the kernel, and frames point into it.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pollgate_common::net::PortId;

use super::super::{Frame, Origin};

/// What the kernel keeps free in front of a received frame (XDP_PACKET_HEADROOM).
pub(super) const HEADROOM: usize = 256;
const ETHERNET_AND_TAG: usize = 18;
const HUGE_PAGE: usize = 2 << 20;

/// The size of a chunk that carries frames of this MTU, if there is one. The kernel takes powers of two up to a page.
pub(super) fn chunk_size(mtu: usize) -> Option<usize> {
    [2048, 4096].into_iter().find(|&size| mtu <= largest_mtu(size))
}

/// The largest MTU any chunk carries.
pub(super) fn most() -> usize {
    largest_mtu(4096)
}

fn largest_mtu(chunk: usize) -> usize {
    chunk - HEADROOM - ETHERNET_AND_TAG
}

/// The memory.
#[derive(Debug)]
pub(super) struct Umem {
    base: NonNull<u8>,
    mapped: usize,
    /// Both are powers of two, kept as exponents: a division a frame would be felt.
    chunk_shift: u32,
    port_shift: u32,
    ports: Box<[PortId]>,
    /// Frames handed out less frames taken in, by the ports that have ended.
    out: AtomicI64,
}

// SAFETY: the mapping belongs to the process; the fields are written only in `new`, except for an atomic one. Who may touch
// which bytes is the business of frames and rings, which are not shared.
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
            // SAFETY: exactly the mapping made above. Advice: a kernel that cannot says no, and that is fine.
            unsafe { libc::madvise(base.as_ptr().cast(), mapped, advice) };
        }
        Ok(Umem { base, mapped, chunk_shift, port_shift, ports: ports.into(), out: AtomicI64::new(0) })
    }

    /// What XDP_UMEM_REG wants to know.
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

    /// Where this frame's packet starts in the memory, if it lies in it.
    pub(super) fn address(&self, frame: &Frame) -> Option<u64> {
        let offset = (frame.as_ptr() as usize).checked_sub(self.base.as_ptr() as usize)?;
        (offset < self.mapped).then_some(offset as u64)
    }

    /// The chunk that an address lies in.
    pub(super) fn chunk(&self, address: u64) -> u32 {
        u32::try_from(address >> self.chunk_shift).unwrap_or(u32::MAX)
    }

    /// Where a chunk starts.
    pub(super) fn start(&self, chunk: u32) -> u64 {
        u64::from(chunk) << self.chunk_shift
    }

    /// The chunks of the port in this place.
    fn chunks(&self, place: usize) -> std::ops::Range<u32> {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        place << self.port_shift..(place + 1) << self.port_shift
    }

    /// The frame of `length` bytes at `address`; `None` if that is not within one chunk.
    ///
    /// # Safety
    /// The chunk must be in nobody else's hands: its address has just come off a ring of the kernel's.
    #[inline]
    pub(super) unsafe fn frame(&self, address: u64, length: u32, received_on: Option<PortId>) -> Option<Frame> {
        let chunk = self.chunk(address);
        let owner = *self.ports.get((chunk >> self.port_shift) as usize)?;
        let room = u32::try_from((self.start(chunk) + (1 << self.chunk_shift)) - address)
            .ok()
            .filter(|&room| length <= room)?;
        // SAFETY: a chunk of one of the ports lies in the mapping, and `address` in the chunk.
        let first = unsafe { self.base.add(usize::try_from(address).ok()?) };
        let received_on = received_on.unwrap_or(owner);
        // SAFETY: `room` bytes to the chunk's end, zeroed when mapped; nobody else has the chunk, by the contract; the
        // mapping stays while frames are out.
        Some(unsafe { Frame::new(first, length, room, Origin::Port(owner), received_on, u64::from(chunk)) })
    }

    /// Copies a packet into a chunk, where a received one would lie; answers its address. It must fit.
    ///
    /// # Safety
    /// The chunk must be the caller's: one that has just left its list of free ones.
    unsafe fn write(&self, chunk: u32, bytes: &[u8]) -> Option<u64> {
        let address = self.start(chunk) + HEADROOM as u64;
        if bytes.len() > (1 << self.chunk_shift) - HEADROOM {
            return None;
        }
        // SAFETY: the chunk lies in the mapping and the packet, checked above, in the chunk; nobody else has it.
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
            // SAFETY: the mapping made in `new`; no port and no frame is left. What the kernel still sends it has pinned.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
        }
    }
}

fn map(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags);
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped it at address 0"))
}

/// One port's part.
#[derive(Debug)]
pub(super) struct Share {
    umem: Arc<Umem>,
    place: usize,
    /// Chunks that nobody has. The last used is used next: it is warm.
    free: Vec<u32>,
    /// Frames handed out less frames taken in.
    out: i64,
}

impl Share {
    /// The part of the port in this place. Only one may be made of each.
    pub(super) fn new(umem: Arc<Umem>, place: usize) -> Share {
        let free = umem.chunks(place).rev().collect();
        Share { umem, place, free, out: 0 }
    }

    /// The whole memory.
    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// A free chunk, and where it starts.
    #[inline]
    pub(super) fn take(&mut self) -> Option<u64> {
        self.free.pop().map(|chunk| self.umem.start(chunk))
    }

    /// Free chunks.
    pub(super) fn free(&self) -> u32 {
        u32::try_from(self.free.len()).unwrap_or(u32::MAX)
    }

    /// Whether the chunk at `address` is of this part.
    #[inline]
    pub(super) fn owns(&self, address: u64) -> bool {
        (self.umem.chunk(address) >> self.umem.port_shift) as usize == self.place
    }

    /// Takes back the chunk at `address`, one of this part that its last holder is done with.
    #[inline]
    pub(super) fn put(&mut self, address: u64) {
        let chunk = self.umem.chunk(address);
        debug_assert!(self.owns(address), "chunk {chunk} is another port's");
        debug_assert!(self.free.len() < 1 << self.umem.port_shift, "chunk {chunk} came back twice");
        self.free.push(chunk);
    }

    /// The frame at `address`; see [`Umem::frame`].
    ///
    /// # Safety
    /// As there.
    #[inline]
    pub(super) unsafe fn hand_out(&mut self, address: u64, length: u32, received_on: Option<PortId>) -> Option<Frame> {
        // SAFETY: the caller's promise.
        let frame = unsafe { self.umem.frame(address, length, received_on)? };
        self.out += 1;
        Some(frame)
    }

    /// Takes a frame that lies in the memory: its chunk is no longer in a frame. Answers where the packet starts.
    #[inline]
    pub(super) fn take_in(&mut self, frame: Frame) -> Option<u64> {
        let address = self.umem.address(&frame)?;
        self.out -= 1;
        Some(address)
    }

    /// A copy of a packet from elsewhere in a chunk of this part: where it starts. `None` when no chunk is free or it does
    /// not fit.
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
        // The last of them to go sees the sum: the counter's release and acquire are the Arc's.
        self.umem.out.fetch_add(self.out, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [PortId; 2] = [PortId(3), PortId(5)];

    fn shares() -> [Share; 2] {
        let umem = Arc::new(Umem::new(&PORTS, 4, 2048).expect("memory"));
        [0, 1].map(|place| Share::new(Arc::clone(&umem), place))
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
    fn a_chunk_is_known_by_its_number_and_comes_home() {
        let [mut left, mut right] = shares();
        let address = right.take().expect("a chunk") + 256;
        assert_eq!((address, right.owns(address), left.owns(address)), (4 * 2048 + 256, true, false));
        // SAFETY: the chunk has just left its list.
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
    fn what_does_not_lie_in_one_chunk_is_no_frame() {
        let [mut share, _other] = shares();
        for (address, length) in [(256, 1793), (8 * 2048, 1), (u64::MAX, 0)] {
            // SAFETY: no frame is made.
            assert!(unsafe { share.hand_out(address, length, None) }.is_none(), "{length} at {address}");
        }
    }

    #[test]
    fn a_copy_lies_where_a_received_frame_would_or_takes_no_chunk() {
        let [mut share, _other] = shares();
        assert_eq!(share.copy(&[7; 1793]), None);
        assert_eq!(share.free(), 4);
        let address = share.copy(&[7; 1792]).expect("it fits");
        assert_eq!(address, 256);
        (0..3).for_each(|_| assert!(share.take().is_some()));
        assert_eq!(share.copy(&[7; 60]), None, "no chunk is left");
        // SAFETY: the copy's chunk is ours.
        let frame = unsafe { share.hand_out(address, 1792, None) }.expect("a frame");
        assert!(frame.bytes().iter().all(|&byte| byte == 7));
        share.take_in(frame);
    }
}

//! A frame: a buffer that belongs to somebody, lent to the pipeline.
//!
//! ```text
//!   ptr                    ptr+len                 ptr+room
//!    │ Ethernet │ IP │ L4 │ ... │ free room at the tail │
//! ```
//!
//! The memory belongs to the frame's [`Origin`] (a port's ring, a worker's reserve); the
//! frame is the only handle to it and is not `Clone`, so whoever has the frame may read and write those bytes, and nobody
//! else does. It must go back to its origin (or be sent); merely dropping it leaks the slot, not memory safety.
//!
//! This is one of the few modules with `unsafe`: rings mapped from the kernel have no owner the borrow checker could know.

use std::ptr::NonNull;

use pollgate_common::net::PortId;

/// Whose memory a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A port of this worker: give it back with `Port::release`.
    Port(PortId),
    /// The reserve of this worker (this one's own number, or another's that handed the frame over).
    Worker(u16),
}

/// What the sender left to the hardware: the kernel's `struct virtio_net_hdr` (linux/virtio_net.h), host byte order.
///
/// Offsets count from the first byte of the Ethernet header. All zero: a plain frame with complete checksums.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// [`Offload::NEEDS_CSUM`], [`Offload::DATA_VALID`].
    pub flags: u8,
    /// 0 for none; the kind of segmentation otherwise (`VIRTIO_NET_HDR_GSO_*`).
    pub gso_type: u8,
    /// Length of all headers, bytes; 0 if unknown.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where summing starts.
    pub csum_start: u16,
    /// Where the sum goes, from `csum_start`.
    pub csum_offset: u16,
}

impl Offload {
    /// The checksum field holds only the pseudo-header's sum, not complemented (CHECKSUM_PARTIAL).
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum was verified (CHECKSUM_UNNECESSARY).
    pub const DATA_VALID: u8 = 2;

    /// Whether the transport checksum is left to whoever sends the frame out.
    pub fn is_partial(&self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }

    /// Whether the frame stands for several segments.
    pub fn is_gso(&self) -> bool {
        self.gso_type != 0
    }
}

/// One frame on loan; see the module's text.
#[derive(Debug)]
pub struct Frame {
    ptr: NonNull<u8>,
    token: u64,
    len: u32,
    room: u32,
    owner: FrameOwner,
    received_on: PortId,
    offload: Offload,
}

/// An [`Origin`] in one word. Plain, so that `Option<Frame>` tells `None` by the pointer: a frame is then moved in whole
/// registers, not field by field.
#[derive(Clone, Copy, Debug)]
struct FrameOwner(u32);

impl FrameOwner {
    const WORKER: u32 = 1 << 16;

    #[inline]
    fn new(origin: Origin) -> FrameOwner {
        match origin {
            Origin::Port(port) => FrameOwner(u32::from(port.0)),
            Origin::Worker(worker) => FrameOwner(FrameOwner::WORKER | u32::from(worker)),
        }
    }

    #[inline]
    fn origin(self) -> Origin {
        let number = u16::try_from(self.0 & 0xffff).unwrap_or(0);
        if self.0 & FrameOwner::WORKER == 0 { Origin::Port(PortId(number)) } else { Origin::Worker(number) }
    }
}

// SAFETY: a Frame is the only handle to its bytes (the contract of `Frame::new`), so moving it to another thread moves
// all access with it.
unsafe impl Send for Frame {}

impl Frame {
    /// A frame over `room` bytes at `ptr`, of which the first `len` are the packet. `token` is the origin's own business.
    ///
    /// # Safety
    /// `ptr` must be valid for reads and writes of `room` bytes, initialised, and nothing else may touch them until the
    /// frame has gone back to its origin. `len <= room`.
    pub unsafe fn new(ptr: NonNull<u8>, len: u32, room: u32, origin: Origin, received_on: PortId, token: u64) -> Frame {
        debug_assert!(len <= room);
        Frame { ptr, token, len, room, owner: FrameOwner::new(origin), received_on, offload: Offload::default() }
    }

    /// With what the sender left to offload.
    pub fn with_offload(mut self, offload: Offload) -> Frame {
        self.offload = offload;
        self
    }

    /// The packet, from its Ethernet header on, without FCS.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: valid for `room >= len` bytes and not touched by others, by the contract of `new`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len as usize) }
    }

    /// The packet, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len as usize) }
    }

    /// The whole buffer, free room included.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes_mut`, for all of `room`.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.room as usize) }
    }

    /// Bytes of the packet.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no packet in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes the buffer could hold.
    pub fn room(&self) -> usize {
        self.room as usize
    }

    /// Makes the packet `len` bytes long; bytes beyond the old end hold whatever the buffer held. Longer than the buffer
    /// is cut to it.
    pub fn set_len(&mut self, len: usize) {
        self.len = u32::try_from(len).unwrap_or(u32::MAX).min(self.room);
    }

    /// Whose buffer it is.
    pub fn origin(&self) -> Origin {
        self.owner.origin()
    }

    /// The port it came in by (for a frame of our own: the one it answers to).
    pub fn received_on(&self) -> PortId {
        self.received_on
    }

    /// What the origin wrote on it.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// What is left to offload.
    pub fn offload(&self) -> &Offload {
        &self.offload
    }

    /// Sets it; answers built from scratch clear it.
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// The address of its first byte, for prefetching.
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }
}

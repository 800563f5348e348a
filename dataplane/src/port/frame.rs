//! A frame: a buffer of a port or worker, lent to the pipeline.
//!
//! ```text
//!   ptr                    ptr+len                 ptr+room
//!    │ Ethernet │ IP │ L4 │ ... │ free room at the tail │
//! ```
//!
//! The memory belongs to the frame's [`Origin`] (a port's ring, a worker's buffer pool). The frame is the only handle to it
//! and is not `Clone`, so only the holder of the frame reads and writes those bytes. A frame must go back to its origin or
//! be sent. Dropping it leaks the slot, but is memory safe.
//!
//! `unsafe` here: a frame points into memory that the borrow checker knows nothing of, such as rings mapped from the kernel.

#![allow(unsafe_code, reason = "a frame is a raw pointer to lent memory")]

use std::ptr::NonNull;

use pollgate_common::net::PortId;

/// The owner of a frame's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A port of this worker. Return the frame with `Port::release`.
    Port(PortId),
    /// The buffer pool of a worker: this one, or another one that handed the frame over.
    Worker(u16),
}

/// Work left to the hardware: the kernel's `struct virtio_net_hdr` (linux/virtio_net.h), in host byte order.
///
/// Offsets count from the first byte of the Ethernet header. All zero means a plain frame with complete checksums.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// [`Offload::NEEDS_CSUM`], [`Offload::DATA_VALID`].
    pub flags: u8,
    /// The kind of segmentation (`VIRTIO_NET_HDR_GSO_*`); 0 for none.
    pub gso_type: u8,
    /// Length of all headers in bytes; 0 if unknown.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Offset at which the summed data starts.
    pub csum_start: u16,
    /// Offset of the checksum field, from `csum_start`.
    pub csum_offset: u16,
}

impl Offload {
    /// The checksum field contains only the pseudo-header's sum, not complemented (CHECKSUM_PARTIAL).
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum was verified (CHECKSUM_UNNECESSARY).
    pub const DATA_VALID: u8 = 2;

    /// Whether the sender of the frame must complete the transport checksum.
    pub fn is_partial(&self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }

    /// Whether the frame stands for several segments.
    pub fn is_gso(&self) -> bool {
        self.gso_type != 0
    }
}

/// The only handle to a lent buffer with one packet.
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

/// An [`Origin`] in one word. It has no niche, so `Option<Frame>` uses the pointer for `None`. A frame is then moved in
/// whole registers, not field by field.
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

// SAFETY: a Frame is the only handle to its bytes (contract of `Frame::new`). Moving it to another thread moves all access.
unsafe impl Send for Frame {}

impl Frame {
    /// A frame over `room` bytes at `ptr`, of which the first `len` are the packet. Only the origin uses `token`.
    ///
    /// # Safety
    /// `ptr` must be valid for reads and writes of `room` initialised bytes. Nothing else may access them until the frame
    /// has gone back to its origin. `len <= room`.
    pub unsafe fn new(ptr: NonNull<u8>, len: u32, room: u32, origin: Origin, received_on: PortId, token: u64) -> Frame {
        debug_assert!(len <= room);
        Frame { ptr, token, len, room, owner: FrameOwner::new(origin), received_on, offload: Offload::default() }
    }

    /// The frame with this offload.
    pub fn with_offload(mut self, offload: Offload) -> Frame {
        self.offload = offload;
        self
    }

    /// The packet from its Ethernet header on, without FCS.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: valid for `room >= len` bytes and not accessed by others (contract of `new`).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len as usize) }
    }

    /// The packet, mutable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len as usize) }
    }

    /// The whole buffer, including free room.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes_mut`, for all of `room`.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.room as usize) }
    }

    /// Length of the packet in bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the packet has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Capacity of the buffer in bytes.
    pub fn room(&self) -> usize {
        self.room as usize
    }

    /// Sets the packet's length, at most the buffer's capacity. Bytes after the old end keep the old contents of the
    /// buffer.
    pub fn set_len(&mut self, len: usize) {
        self.len = u32::try_from(len).unwrap_or(u32::MAX).min(self.room);
    }

    /// The owner of the buffer.
    pub fn origin(&self) -> Origin {
        self.owner.origin()
    }

    /// The port that received the frame (for a frame of our own: the port of the frame that it answers).
    pub fn received_on(&self) -> PortId {
        self.received_on
    }

    /// The origin's own number for this buffer.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Work left to the hardware.
    pub fn offload(&self) -> &Offload {
        &self.offload
    }

    /// Sets the work left to the hardware. New replies clear it.
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// The address of the packet's first byte, for prefetching.
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }
}

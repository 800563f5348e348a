//! The receive ring: memory shared with the kernel, in slots that the kernel and this process own in turn.
//!
//! ```text
//!  slot   ┌ tpacket2_hdr ┬ … ┬ virtio_net_hdr ┬ frame ┬ free room ┐
//!  offset 0              32      tp_mac - 10   tp_mac              slot size
//! ```
//!
//! `tp_status` at the front is the owner of a slot: 0 for the kernel, otherwise this process. It is read with Acquire, so
//! that the frame is read after it. It is written with Release, so that our accesses happen before the kernel owns the slot.
//!
//! The kernel fills slots in order and stops at one that is still ours. [`Ring::take`] stops at one that is lent. So slots
//! can be released in any order: a slot released early waits until the others before it are free.
//!
//! `unsafe` here: no type can express that another owner, the kernel, writes this memory. Every access is to a slot whose
//! status was read as ours, through a pointer that was checked to lie in the mapping.

#![allow(unsafe_code, reason = "the kernel writes the mapped ring")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use pollgate_common::net::PortId;

use super::super::socket::{self, TAG_LEN, Tag};
use super::super::{Backlog, Frame, Offload, Origin};

/// Upper bound of the end of the kernel's own headers. A frame starts there or before.
const HEADROOM: usize = 96;
/// Wanted room after a full-sized frame.
const TAILROOM: usize = 256;
/// Size of the blocks in which the kernel allocates the ring: a multiple of every slot size and of the page size.
const BLOCK: usize = 128 << 10;
const SLOT_MIN: usize = 2 << 10;
const SLOT_MAX: usize = 16 << 10;
const ETHERNET_AND_TAG: usize = 18;

/// Number of slots, and their size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    slots: u32,
    slot_size: usize,
}

impl Layout {
    /// A layout with at least `frames` slots for a device with this MTU. Frames that do not fit the largest slot come
    /// through the queue.
    pub(super) fn new(frames: u32, mtu: usize) -> Layout {
        let whole = mtu.saturating_add(HEADROOM + ETHERNET_AND_TAG + TAILROOM);
        let slot_size = whole.min(SLOT_MAX).next_power_of_two().clamp(SLOT_MIN, SLOT_MAX);
        let per_block = u32::try_from(BLOCK / slot_size).unwrap_or(1);
        Layout { slots: frames.clamp(per_block, 1 << 16).next_multiple_of(per_block), slot_size }
    }

    /// Largest frame that fits a slot, in bytes.
    pub(super) fn slot_size(&self) -> usize {
        self.slot_size
    }

    fn bytes(&self) -> usize {
        self.slots as usize * self.slot_size
    }

    /// The argument of PACKET_RX_RING.
    pub(super) fn request(&self) -> libc::tpacket_req {
        let int = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        libc::tpacket_req {
            tp_block_size: int(BLOCK),
            tp_block_nr: int(self.bytes() / BLOCK),
            tp_frame_size: int(self.slot_size),
            tp_frame_nr: self.slots,
        }
    }
}

/// The contents of a slot.
#[derive(Debug)]
pub(super) enum Taken {
    /// A whole frame in the slot.
    Frame(Frame),
    /// The frame is on the socket's queue. The slot belongs to the kernel again.
    OnQueue(Option<Tag>),
    /// The frame was truncated and is not available whole. The slot belongs to the kernel again.
    Cut,
}

/// The mapped ring.
#[derive(Debug)]
pub(super) struct Ring {
    base: NonNull<u8>,
    layout: Layout,
    /// The slot of the next frame.
    next: u32,
    /// Slots whose frame is lent.
    lent: Box<[bool]>,
    lent_count: u32,
    /// Whether a frame reported that frames before it were lost.
    loss: bool,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `base` is used only through this handle.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring that was requested on the socket.
    pub(super) fn map(socket: BorrowedFd<'_>, layout: Layout) -> io::Result<Ring> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address chosen by the kernel touches no memory of ours.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), layout.bytes(), protection, flags, socket.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped it at address 0"))?;
        Ok(Ring { base, layout, next: 0, lent: vec![false; layout.slots as usize].into(), lent_count: 0, loss: false })
    }

    /// Takes the contents of the next slot, if there are any. `queue`: whether a frame on the socket's queue could be taken
    /// now. If not, its slot is left for later, and so are all slots after it.
    pub(super) fn take(&mut self, port: PortId, queue: bool) -> Option<Taken> {
        let slot = self.next;
        if self.lent[slot as usize] {
            return None;
        }
        let status = self.status(slot).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 || (status & libc::TP_STATUS_COPY != 0 && !queue) {
            return None;
        }
        self.loss |= status & libc::TP_STATUS_LOSING != 0;
        self.next = if slot + 1 == self.layout.slots { 0 } else { slot + 1 };
        // SAFETY: the slot is ours by its status, so the kernel does not write it. A header is at its front.
        let header = unsafe { self.slot(slot).cast::<libc::tpacket2_hdr>().read() };
        let tag = Tag::stripped(status, header.tp_vlan_tpid, header.tp_vlan_tci);
        let taken = if status & libc::TP_STATUS_COPY != 0 {
            Taken::OnQueue(tag)
        } else {
            self.frame(slot, &header, tag, port).map_or(Taken::Cut, Taken::Frame)
        };
        if !matches!(taken, Taken::Frame(_)) {
            self.status(slot).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        Some(taken)
    }

    /// How many frames wait in the ring. The kernel fills slots in order, so a look at two of them tells.
    pub(super) fn backlog(&self) -> Backlog {
        let slots = self.layout.slots;
        match (self.waits_at(Backlog::standing(slots)), self.waits_at(Backlog::large(slots))) {
            (false, _) => Backlog::Little,
            (true, false) => Backlog::Standing,
            (true, true) => Backlog::Large,
        }
    }

    /// Whether so many frames wait: the last of their slots holds a frame that was not taken.
    fn waits_at(&self, count: u32) -> bool {
        let slot = (self.next + count - 1) % self.layout.slots;
        !self.lent[slot as usize] && self.status(slot).load(Ordering::Relaxed) & libc::TP_STATUS_USER != 0
    }

    /// Whether a frame since the last call reported that frames before it were lost. The kernel reports this on every frame
    /// until its count of lost frames is read.
    pub(super) fn saw_loss(&mut self) -> bool {
        std::mem::take(&mut self.loss)
    }

    fn frame(&mut self, slot: u32, header: &libc::tpacket2_hdr, tag: Option<Tag>, port: PortId) -> Option<Frame> {
        let mut start = usize::from(header.tp_mac);
        let mut length = header.tp_snaplen as usize;
        let offload_at = start.checked_sub(size_of::<Offload>())?;
        if header.tp_len != header.tp_snaplen || start + length > self.layout.slot_size {
            return None;
        }
        // SAFETY: the slot is ours and not lent, so there is no other reference to its bytes. They lie in the mapping and
        // are initialised, because the kernel has zeroed the ring.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.slot(slot).as_ptr(), self.layout.slot_size) };
        // SAFETY: any ten bytes are an Offload, and `offload_at + 10 = start` lies in the slot. It need not be aligned.
        let mut offload = unsafe { bytes.as_ptr().add(offload_at).cast::<Offload>().read_unaligned() };
        if let Some(tag) = tag {
            start = tag.insert(bytes, start)?;
            length += TAG_LEN;
            offload = socket::shifted(offload);
        }
        let first = NonNull::new(bytes[start..].as_mut_ptr())?;
        let room = u32::try_from(bytes.len() - start).ok()?;
        self.lent[slot as usize] = true;
        self.lent_count += 1;
        let length = u32::try_from(length).ok()?;
        // SAFETY: `room` bytes of the slot from `first` on. The slot is marked as lent, so we do not access it until
        // `release`. Its status is ours, so the kernel does not either. Drop keeps the mapping while any slot is lent.
        let frame = unsafe { Frame::new(first, length, room, Origin::Port(port), port, u64::from(slot)) };
        Some(frame.with_offload(offload))
    }

    /// Gives a lent slot back to the kernel.
    pub(super) fn release(&mut self, slot: u32) {
        let Some(lent) = self.lent.get_mut(slot as usize) else { return };
        if std::mem::take(lent) {
            self.lent_count -= 1;
            self.status(slot).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
    }

    /// Whether any slot is lent.
    pub(super) fn is_lent(&self) -> bool {
        self.lent_count > 0
    }

    fn slot(&self, slot: u32) -> NonNull<u8> {
        debug_assert!(slot < self.layout.slots);
        // SAFETY: `slot` is below the number of slots (it is our own field, which wraps there, or checked against `lent`), so
        // the sum stays inside the mapping.
        unsafe { self.base.add(slot as usize * self.layout.slot_size) }
    }

    fn status(&self, slot: u32) -> &AtomicU32 {
        // SAFETY: the status is the header's first field, aligned like every slot, and only accessed atomically.
        unsafe { self.slot(slot).cast::<AtomicU32>().as_ref() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.lent_count > 0 {
            // A frame is still lent. Leaking the mapping is the only sound option.
            return;
        }
        // SAFETY: the mapping made in `map`. No frame into it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.layout.bytes()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_have_room_for_a_full_frame_and_a_reply() {
        assert_eq!(Layout::new(4096, 1500), Layout { slots: 4096, slot_size: 2048 });
        assert_eq!(Layout::new(1000, 9000), Layout { slots: 1000, slot_size: 16384 });
        assert_eq!(Layout::new(100, 1500), Layout { slots: 128, slot_size: 2048 }, "whole blocks");
        assert_eq!(Layout::new(u32::MAX, usize::MAX), Layout { slots: 65536, slot_size: 16384 }, "bounded");
        assert_eq!(Layout::new(0, 0), Layout { slots: 64, slot_size: 2048 });
    }

    #[test]
    fn the_request_adds_up_as_the_kernel_checks_it() {
        for (frames, mtu) in [(64, 1500), (4096, 1500), (777, 4000), (4096, 65535)] {
            let request = Layout::new(frames, mtu).request();
            let per_block = request.tp_block_size / request.tp_frame_size;
            assert_eq!(per_block * request.tp_block_nr, request.tp_frame_nr, "{frames} frames, MTU {mtu}");
            assert_eq!(request.tp_block_size % 65536, 0, "a multiple of every page size");
        }
    }
}

//! The buffers into which the kernel writes received frames, and the ring through which it gets them.
//!
//! ```text
//!  buffer ┌ io_uring_recvmsg_out ┬ control data ┬ virtio_net_hdr ┬ frame … 64 KB ┬ free room ┐
//!  offset 0                      16             56               66
//! ```
//!
//! A VLAN tag is written over the end of the `virtio_net_hdr`, after that has been read.
//!
//! `unsafe` here: the kernel writes this memory, but only inside our own calls (DEFER_TASKRUN) and only to buffers in the
//! ring. A buffer that has left the ring belongs to us, or to the holder of its frame, until it is put back.

#![allow(unsafe_code, reason = "the kernel writes the buffers, and frames point into them")]

use std::io;
use std::mem::{ManuallyDrop, size_of};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, RecvMsgOut};
use pollgate_common::net::PortId;

use super::super::socket::{self, TAG_LEN, Tag};
use super::super::{Frame, Offload, Origin};
use super::ring::Ring;
use crate::memory::{Mapped, Zeroed};

/// Number of buffers, a power of two: enough for a burst, for frames that the worker still sends, and as many again for the
/// kernel to fill.
pub(super) const COUNT: u16 = 256;
/// 64 KB of IP packet, the Ethernet header, and room for a reply in place. Three cache lines more than whole pages, so that
/// the headers of a burst do not compete for the same lines of the cache.
const LENGTH: u32 = (68 << 10) + 192;
const SIZE: usize = LENGTH as usize;
/// Length of a message's control data: the one kind that we request.
const CONTROL: usize =
    size_of::<libc::cmsghdr>() + size_of::<libc::tpacket_auxdata>().next_multiple_of(size_of::<usize>());

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Buffer([u8; SIZE]);

// SAFETY: zero is a valid byte.
unsafe impl Zeroed for Buffer {}

#[derive(Clone, Copy)]
#[repr(C)]
struct Entry([u64; 2]);

// SAFETY: zero is a valid number.
unsafe impl Zeroed for Entry {}

/// The buffers of one port.
pub(super) struct Buffers {
    memory: ManuallyDrop<Mapped<Buffer>>,
    first: NonNull<Buffer>,
    entries: ManuallyDrop<Mapped<Entry>>,
    ring: NonNull<BufRingEntry>,
    tail: u16,
    /// Number of buffers in the ring.
    inside: u16,
    lent: [bool; COUNT as usize],
    /// The layout of a message: no address, and CONTROL bytes of control data.
    message: Box<libc::msghdr>,
}

// SAFETY: the memory belongs to the buffers and is used only through this handle.
unsafe impl Send for Buffers {}

impl Buffers {
    /// All buffers, in their ring.
    pub(super) fn new() -> io::Result<Buffers> {
        let mut memory = Mapped::<Buffer>::new(usize::from(COUNT))?;
        let mut entries = Mapped::<Entry>::new(usize::from(COUNT))?;
        // SAFETY: all zero is a valid msghdr.
        let mut message: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        message.msg_controllen = CONTROL as _;
        let mut buffers = Buffers {
            first: NonNull::from(&mut *memory).cast(),
            memory: ManuallyDrop::new(memory),
            ring: NonNull::from(&mut *entries).cast(),
            entries: ManuallyDrop::new(entries),
            tail: 0,
            inside: 0,
            lent: [false; COUNT as usize],
            message,
        };
        (0..COUNT).for_each(|buffer| buffers.put(buffer));
        Ok(buffers)
    }

    /// Registers the buffers with the kernel.
    pub(super) fn register(&self, ring: &Ring) -> io::Result<()> {
        // SAFETY: COUNT entries at the start of a mapping that outlives the port's ring.
        unsafe { ring.register_buffers(self.ring.as_ptr(), COUNT) }
    }

    /// The layout of messages for the standing request.
    pub(super) fn message(&self) -> *const libc::msghdr {
        &raw const *self.message
    }

    /// Whether the kernel has any buffers.
    pub(super) fn has_some(&self) -> bool {
        self.inside > 0
    }

    /// Records that the kernel took a buffer from the ring.
    pub(super) fn taken(&mut self) {
        self.inside -= 1;
    }

    /// The frame in a buffer that the kernel filled with `length` bytes. If there is no frame, the buffer goes back to the
    /// kernel.
    pub(super) fn frame(&mut self, buffer: u16, length: usize, port: PortId) -> Option<Frame> {
        debug_assert!(!self.lent[usize::from(buffer)], "the kernel used a buffer that is lent");
        let frame = self.read(buffer, length, port);
        match frame {
            Some(_) => self.lent[usize::from(buffer)] = true,
            None => self.put(buffer),
        }
        frame
    }

    fn read(&self, buffer: u16, length: usize, port: PortId) -> Option<Frame> {
        // SAFETY: the number is one of ours, so it is below COUNT. The kernel has taken the buffer from the ring and filled
        // it, and no frame of it is lent.
        let bytes: &mut [u8] = unsafe { &mut (*self.first.as_ptr().add(usize::from(buffer))).0 };
        let message = RecvMsgOut::parse(bytes.get(..length)?, &self.message).ok()?;
        if message.is_payload_truncated() {
            return None;
        }
        let tag = tag(message.control_data());
        let mut length = message.payload_data().len().checked_sub(size_of::<Offload>())?;
        // SAFETY: any ten bytes are an Offload, and the payload has at least ten.
        let mut offload = unsafe { message.payload_data().as_ptr().cast::<Offload>().read_unaligned() };
        let mut start = message.payload_data().as_ptr() as usize - bytes.as_ptr() as usize + size_of::<Offload>();
        if let Some(tag) = tag {
            start = tag.insert(bytes, start)?;
            length += TAG_LEN;
            offload = socket::shifted(offload);
        }
        let first = NonNull::new(bytes[start..].as_mut_ptr())?;
        let (length, room) = (u32::try_from(length).ok()?, u32::try_from(SIZE - start).ok()?);
        // SAFETY: `room` bytes of the buffer, which was zeroed once. It is not in the ring and is marked as lent until
        // `release`. Drop keeps the memory while any buffer is lent.
        let frame = unsafe { Frame::new(first, length, room, Origin::Port(port), port, buffer.into()) };
        Some(frame.with_offload(offload))
    }

    /// Takes a lent buffer back and gives it to the kernel.
    pub(super) fn release(&mut self, frame: &Frame) {
        let Ok(buffer) = u16::try_from(frame.token()) else { return };
        let Some(lent) = self.lent.get_mut(usize::from(buffer)) else { return };
        if std::mem::take(lent) {
            self.put(buffer);
        }
    }

    /// Whether any is lent.
    pub(super) fn are_lent(&self) -> bool {
        self.lent.contains(&true)
    }

    fn put(&mut self, buffer: u16) {
        let at = usize::from(self.tail % COUNT);
        // SAFETY: both indices are below COUNT. The kernel reads an entry only after the tail is beyond it.
        unsafe {
            let entry = &mut *self.ring.as_ptr().add(at);
            entry.set_addr(self.first.as_ptr().add(usize::from(buffer)) as u64);
            entry.set_len(LENGTH);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        self.inside += 1;
        // SAFETY: the tail lies in the first entry, where nothing else is written. Release orders it after the entry.
        unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr()).cast_mut()) }
            .store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: not used again. The kernel holds the pages of the entries itself for as long as it needs them.
        unsafe { ManuallyDrop::drop(&mut self.entries) };
        if self.are_lent() {
            // A frame is still lent. Leaking the memory is the only sound option.
            return;
        }
        // SAFETY: not used again. The ring is closed, and no frame is lent.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
    }
}

/// The tag that the kernel removed, from a message's control data.
fn tag(control: &[u8]) -> Option<Tag> {
    if control.len() < size_of::<libc::cmsghdr>() + size_of::<libc::tpacket_auxdata>() {
        return None;
    }
    // SAFETY: there are enough bytes, and any bytes are a value of these types.
    let (header, data) = unsafe {
        let header = control.as_ptr().cast::<libc::cmsghdr>();
        (header.read_unaligned(), header.add(1).cast::<libc::tpacket_auxdata>().read_unaligned())
    };
    let ours = header.cmsg_level == libc::SOL_PACKET && header.cmsg_type == libc::PACKET_AUXDATA;
    ours.then(|| Tag::stripped(data.tp_status, data.tp_vlan_tpid, data.tp_vlan_tci)).flatten()
}

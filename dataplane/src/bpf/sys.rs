//! The system call bpf(2): a command number and one structure per command.
//!
//! `unsafe` here: the structures contain addresses as numbers. Each caller keeps the memory alive during the call.

#![allow(unsafe_code, reason = "bpf(2) takes addresses as numbers")]

use std::io;
use std::mem::size_of;
use std::os::fd::{FromRawFd, OwnedFd};

/// Commands of `enum bpf_cmd` (linux/bpf.h).
#[derive(Clone, Copy)]
pub(super) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    ProgLoad = 5,
    ProgTestRun = 10,
    LinkCreate = 28,
}

/// A command's part of `union bpf_attr`: plain numbers. The kernel may read any of them and writes some of them.
///
/// # Safety
/// The type must be `repr(C)`, without padding, and have the kernel's layout.
pub(super) unsafe trait Attributes {}

/// Runs a command.
///
/// # Safety
/// The addresses in `attributes` must be valid for what the command reads and writes there.
pub(super) unsafe fn bpf<A: Attributes>(command: Command, attributes: &mut A) -> io::Result<i32> {
    let attributes = std::ptr::from_mut(attributes);
    // SAFETY: the structure is alive and has the given size. The caller guarantees the memory it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attributes, size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// Runs a command that returns a new descriptor.
///
/// # Safety
/// As for [`bpf`], and the command must return a new descriptor.
pub(super) unsafe fn bpf_fd<A: Attributes>(command: Command, attributes: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: guaranteed by the caller. The descriptor is new and has no other owner.
    unsafe { bpf(command, attributes).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// An object's name for the kernel's tools: up to 15 of the characters that they accept.
pub(super) fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    name[..15].iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    name
}

/// An address in the kernel's format.
pub(super) fn address<T: ?Sized>(of: *const T) -> u64 {
    of.cast::<u8>() as u64
}

/// A length in the kernel's format.
pub(super) fn length(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

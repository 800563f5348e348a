//! Maps: tables that this process writes while a program reads them, without a lock of ours.
//!
//! Keys and values are plain bytes whose size is part of the type, so the kernel never reads or writes beyond them.

#![allow(unsafe_code, reason = "commands contain the addresses of keys and values")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::sys::{self, Attributes, Command};

/// The kinds of map that pollgate uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// BPF_MAP_TYPE_ARRAY: keys are indices, and all entries exist.
    Array,
    /// BPF_MAP_TYPE_HASH with entries allocated on demand (BPF_F_NO_PREALLOC): a large capacity costs only its buckets.
    Hash,
    /// BPF_MAP_TYPE_XSKMAP: AF_XDP sockets by index.
    Sockets,
}

impl Kind {
    fn numbers(self) -> (u32, u32) {
        const NO_PREALLOC: u32 = 1;
        match self {
            Kind::Hash => (1, NO_PREALLOC),
            Kind::Array => (2, 0),
            Kind::Sockets => (17, 0),
        }
    }
}

/// A map with keys of `K` bytes and values of `V`.
#[derive(Debug)]
pub struct Map<const K: usize, const V: usize> {
    fd: OwnedFd,
}

#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    node: u32,
    name: [u8; 16],
}

// SAFETY: `struct { /* anonymous struct used by BPF_MAP_CREATE command */ }` of linux/bpf.h, up to its name.
unsafe impl Attributes for Create {}

#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

// SAFETY: the structure of the BPF_MAP_*_ELEM commands, with explicit padding.
unsafe impl Attributes for Element {}

impl<const K: usize, const V: usize> Map<K, V> {
    /// An empty map with room for `entries`.
    pub fn new(kind: Kind, name: &str, entries: u32) -> io::Result<Map<K, V>> {
        let (kind, flags) = kind.numbers();
        let (key_size, value_size) = (sys::length(K), sys::length(V));
        let name = sys::name(name);
        let mut create = Create { kind, key_size, value_size, entries, flags, inner: 0, node: 0, name };
        // SAFETY: the structure contains no addresses, and the command returns a descriptor.
        let fd = unsafe { sys::bpf_fd(Command::MapCreate, &mut create)? };
        Ok(Map { fd })
    }

    /// Adds or replaces an entry.
    pub fn insert(&self, key: &[u8; K], value: &[u8; V]) -> io::Result<()> {
        let mut element = self.element(key, sys::address(value));
        // SAFETY: the kernel reads K bytes of the key and V bytes of the value, which are both alive.
        unsafe { sys::bpf(Command::MapUpdate, &mut element) }.map(drop)
    }

    /// Removes an entry. Returns whether it existed.
    pub fn remove(&self, key: &[u8; K]) -> io::Result<bool> {
        let mut element = self.element(key, 0);
        // SAFETY: the kernel reads K bytes of the key, which is alive.
        found(unsafe { sys::bpf(Command::MapDelete, &mut element) })
    }

    /// The value of an entry.
    pub fn get(&self, key: &[u8; K]) -> io::Result<Option<[u8; V]>> {
        let mut value = [0; V];
        let mut element = self.element(key, sys::address(&raw mut value));
        // SAFETY: the kernel reads K bytes of the key and writes V bytes of the value, which are both alive. (For a per-CPU
        // map it would write more, but no kind is one.)
        let found = found(unsafe { sys::bpf(Command::MapLookup, &mut element) })?;
        Ok(found.then_some(value))
    }

    fn element(&self, key: &[u8; K], value: u64) -> Element {
        Element { map: self.fd.as_raw_fd().cast_unsigned(), padding: 0, key: sys::address(key), value, flags: 0 }
    }
}

impl<const K: usize, const V: usize> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

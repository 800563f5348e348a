//! A packet socket that only sends: for the few frames that no worker sends.
//!
//! It has no protocol and is bound to no interface, so the kernel passes it no frame.

#![allow(unsafe_code, reason = "sendto(2) takes raw pointers")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use super::socket::raw_socket;

/// The socket, for all interfaces of the network namespace in which it was opened.
#[derive(Debug)]
pub struct SendOnly {
    socket: OwnedFd,
}

impl SendOnly {
    /// Opens the socket in the calling thread's network namespace. Needs CAP_NET_RAW.
    pub fn open() -> io::Result<SendOnly> {
        Ok(SendOnly { socket: raw_socket(false)? })
    }

    /// Sends a frame by the interface with this index. Never waits: if the interface's queue is full, it fails.
    pub fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all zero is a valid sockaddr_ll.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
        to.sll_ifindex = interface.cast_signed();
        if let Some(ether_type) = frame.get(12..14) {
            to.sll_protocol = u16::from_ne_bytes([ether_type[0], ether_type[1]]);
        }
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
        // SAFETY: the frame and the address are alive and have the given lengths. The kernel only reads them.
        let sent = unsafe {
            let to = (&raw const to).cast();
            libc::sendto(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to, length)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

//! AF_XDP: takes frames before the kernel makes packets of them, in memory shared with the kernel.
//!
//! ```text
//!                 ┌ not ours ─▶ kernel            fill ring ◀── free chunks ◀── release ──┐
//!  device ─▶ steering program                         │                                   │
//!                 └ ours ─▶ socket of the queue ─▶ receive ring ─▶ Frame ─▶ pipeline ─────┤
//!  device ◀─ kick ◀─ transmit ring ◀─────── descriptor, no copy ◀─────────────────────────┤
//!     └──── completion ring ─▶ back to the port that owns the chunk ──────────────────────┘
//! ```
//!
//! A port is one worker's part of an interface: the sockets of its share of the receive queues ([`open()`]). All ports of a
//! worker share their memory (`umem`), so forwarding from one to another needs only a descriptor. The interface's [`Program`]
//! and the [`Rules`] decide which frames are received. All workers share the program, and all programs share the rules.
//!
//! **The kernel has no copy.** If the program takes a frame that is not ours, the frame is lost: the worker counts a drop
//! instead of passing it to the kernel ([`Port::kernel_has_copy`]).
//!
//! **Three modes**; the port uses the best one that device and driver support ([`XdpPort::mode`]). Zero copy: the driver
//! reads and writes the memory itself. Native: the kernel copies once in the driver's receive path. Generic: the kernel makes
//! a packet of the frame first. veth supports native at best. Native XDP on one end of a veth pair turns off TCP segmentation
//! offload on the *other* end. In generic mode this must be done by hand, because a super-frame fits no chunk and counts as
//! missed. So does any frame longer than the MTU had allowed when the port was opened: it must be opened anew after the MTU was raised.
//!
//! **No super-frames, no offloads.** A sent frame is at most one MTU long and has a complete checksum (`checksum`). Longer
//! frames, including GSO frames from another kind of port, are dropped ([`DropReason::TxTooLong`]).
//!
//! **Busy polling** ([`XdpOptions::busy_poll`]) is off by default. It costs a system call per empty poll. veth has no
//! interrupts to save, and no gain could be measured over it (2.6 µs of CPU per forwarded packet with it, 2.9 without; medians
//! of six interleaved rounds between 2.3 and 3.2).
//!
//! To open ports, with one set of rules and one program per interface for all workers:
//!
//! ```no_run
//! use pollgate_common::net::PortId;
//! use pollgate_dataplane::port::xdp::{self, Program, Rules, XdpOptions};
//!
//! let rules = Rules::new()?;
//! let programs = [Program::attach("eth1", &rules)?, Program::attach("eth2", &rules)?];
//! let interfaces = [(&programs[0], PortId(0)), (&programs[1], PortId(1))];
//! let options = XdpOptions { interfaces: &interfaces, worker: 0, workers: 1, frames: 4096, busy_poll: false };
//! for port in xdp::open(&options)? {
//!     println!("port {}: {}", port.port().0, port.mode());
//! }
//! rules.own("192.168.50.10".parse()?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! (Documentation/networking/af_xdp.rst)
//!
//! [`Port::kernel_has_copy`]: super::Port::kernel_has_copy
//! [`DropReason::TxTooLong`]: pollgate_common::reasons::DropReason::TxTooLong

mod checksum;
mod open;
mod port;
mod program;
mod ring;
mod rules;
mod socket;
mod steering;
mod transmit;
mod umem;

pub use open::{XdpOptions, open};
pub use port::{Mode, XdpPort};
pub use program::Program;
pub use rules::{RuleError, Rules};

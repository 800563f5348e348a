//! AF_XDP: frames taken before the kernel makes packets of them, in memory that both share.
//!
//! ```text
//!                 ┌ not ours ─▶ kernel            fill ring ◀── free chunks ◀── release ──┐
//!  device ─▶ steering program                         │                                   │
//!                 └ ours ─▶ socket of the queue ─▶ receive ring ─▶ Frame ─▶ pipeline ─────┤
//!  device ◀─ kick ◀─ transmit ring ◀─────── descriptor, no copy ◀─────────────────────────┤
//!     └──── completion ring ─▶ back to the port whose chunk it was ───────────────────────┘
//! ```
//!
//! A port is an interface as one worker polls it: the sockets of its share of the receive queues ([`open`]). All of a
//! worker's ports share their memory (`umem`), which makes forwarding from one to the other a descriptor. Which
//! frames come is decided by the interface's [`Program`], which all workers share, and by the [`Rules`], which all programs
//! share.
//!
//! **The kernel has no copy.** What the program takes and a worker finds to be none of ours is lost: a counted drop
//! instead of a pass ([`Port::kernel_has_copy`]).
//!
//! **Three modes**, the best that device and driver have ([`XdpPort::mode`]): zero copy, where the driver reads and writes
//! the memory itself; native, where the kernel copies once in the driver's receive path; generic, where it has made a
//! packet of the frame first. veth is native at best. Native XDP on one end of a veth pair switches the *other* end's TCP
//! segmentation offload off; in generic mode that has to be done by hand, since a super-frame fits no chunk and counts as
//! missed. So do other frames longer than the MTU the port was opened with allows: after raising it, restart.
//!
//! **No super-frames, no offloads.** A frame sent out here is at most one MTU long ([`DropReason::TxTooLong`] otherwise, a GSO
//! frame from another kind of port included) and leaves with its checksum complete (`checksum`).
//!
//! **Busy polling** ([`XdpOptions::busy_poll`]) is off by default: it costs a system call for each look that finds nothing,
//! and over veth, which has no interrupts to save, no gain could be measured (2.6 µs of CPU a forwarded packet with it, 2.9
//! without, medians of six interleaved rounds that spread from 2.3 to 3.2).
//!
//! Opening, with one set of rules and one program an interface for all workers:
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
#[allow(unsafe_code, reason = "takes frames out of the memory shared with the kernel, and calls epoll(7)")]
mod port;
mod program;
#[allow(unsafe_code, reason = "the kernel writes the mapped rings")]
mod ring;
mod rules;
#[allow(unsafe_code, reason = "socket calls take raw pointers and descriptors")]
mod socket;
mod steering;
#[allow(unsafe_code, reason = "takes completed chunks out of the memory shared with the kernel")]
mod transmit;
#[allow(unsafe_code, reason = "frames point into memory that the kernel also writes")]
mod umem;

pub use open::{XdpOptions, open};
pub use port::{Mode, XdpPort};
pub use program::Program;
pub use rules::{RuleError, Rules};

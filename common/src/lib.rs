//! The vocabulary and the contract of pollgate: what the control side and the packet side both speak.
//!
//! * [`flow`], [`net`], [`time`], [`hash`]: addresses, keys, the kernel's view of the network, time as a number.
//! * [`reasons`], [`counters`]: every way a packet can end, declared once, and where it is counted.
//! * [`settings`], [`tables`], [`dns::zone`]: what the control thread compiles Services into, with the one builder that proves every index.
//! * [`sharded`]: maps whose generations share what did not change.
//! * [`epoch`]: how a new set of tables reaches the workers without a lock.
//!
//! No I/O, no threads, no clock, nothing of Kubernetes' formats.

#![deny(unsafe_code)]

pub mod counters;
pub mod dns;
pub mod epoch;
pub mod flow;
pub mod hash;
pub mod header;
pub mod net;
pub mod reasons;
pub mod settings;
pub mod sharded;
pub mod tables;
pub mod time;

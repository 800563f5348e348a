//! Types that the control side and the packet side share.
//!
//! * [`flow`], [`net`], [`time`], [`hash`]: addresses, keys, the kernel's view of the network, time as a number.
//! * [`pair`], [`clients`]: names and addresses of the link between the kernel and the workers, and who uses it.
//! * [`reasons`], [`counters`]: every outcome of a packet, declared once, and the counter of each.
//! * [`settings`], [`tables`], [`dns::zone`]: what the control thread compiles Services into. One builder proves every index.
//! * [`sharded`]: maps whose generations share unchanged parts.
//! * [`epoch`]: hands new tables to the workers without a lock.
//! * [`sleep`]: wakes a thread whose queues were empty.
//!
//! This crate has no I/O, no threads, no clock, and no Kubernetes formats.

#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::duplicate_mod, reason = "`loom` explores sources a second time"))]

pub mod clients;
pub mod conflicts;
pub mod counters;
pub mod dns;
pub mod epoch;
pub mod flow;
pub mod hash;
pub mod header;
pub mod inspect;
pub mod net;
pub mod pair;
pub mod reasons;
pub mod settings;
pub mod sharded;
pub mod sleep;
mod sync;
pub mod tables;
pub mod time;
pub mod trace;

#[cfg(test)]
mod loomed;

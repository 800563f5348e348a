//! The sources of [`crate::epoch`] and [`crate::sleep`] over `loom`, which runs every interleaving (of the epoch those with at most two preemptions), and every value that a load may
//! return.
//!
//! What is explored is the protocol of this crate: who frees which generation and when, and that no sleeper misses what it is woken
//! for. crossbeam's collector and queue are replaced by plain models of what they promise ([`sync`]); their own code is not explored.

#![allow(dead_code, unreachable_pub, reason = "a part of each source is used")]

#[path = "../epoch.rs"]
mod epoch;
#[path = "../sleep.rs"]
mod sleep;
mod sync;
mod tests;
mod unfenced;

//! Packets: the poll-mode half of pollgate.
//!
//! A [`worker`] polls its [`port`]s, runs each burst through the `pipeline` and sends the results. All it needs to know
//! about Services is in the tables of `pollgate-common`. The crate does not depend on Kubernetes.
//!
//! ```text
//!  port.rx → parse → DNS? → flow ──hit───────────────────────────→ rewrite → next hop → port.tx
//!                            └─miss→ classify → steer → select → open ──↗
//!         a fragment gets its ports from the first of its datagram (`fragment`), between parse and flow
//!            any step may stop with a Verdict; only `egress::dispatch` sends, counts and gives buffers back
//! ```
//!
//! `unsafe` is denied, except in the modules that allow it and give the reason.

#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::duplicate_mod, reason = "`loom` explores sources a second time"))]

pub mod affinity;
pub mod announce;
pub mod bpf;
mod burst;
mod classify;
pub mod egress;
#[allow(unsafe_code, reason = "ioctl(2) takes raw pointers")]
pub mod ethtool;
pub mod flow;
mod fragment;
pub mod idle;
mod inspect;
mod memory;
mod open;
mod overload;
mod owned;
mod packet;
mod parse;
mod pipeline;
pub mod port;
mod rate;
mod reply;
mod rewrite;
mod select;
mod snat;
pub mod stages;
mod state;
pub mod steer;
mod trace;
pub mod wire;
pub mod worker;

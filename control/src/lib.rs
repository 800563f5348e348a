//! The control plane: Kubernetes objects in, compiled tables out.
//!
//! ```text
//! manifest ─▶ objects ─▶ registry ─┬─ admission                  what was typed becomes what is valid
//!                                  ├─ controllers/allocate       addresses and ports
//!                                  ├─ controllers/endpoint_slices  Pods become EndpointSlices
//!                                  └─▶ Commit ─▶ store, cluster.adopt ─▶ resolve ─▶ compile ─▶ publish
//! ```
//!
//! Everything from the manifest to [`compile::resolve`] is pure: no clock, no thread, no I/O besides reading manifest files.
//! So `replay` and `check` give the results of the running gateway, and tests need no fixtures.

#![forbid(unsafe_code)]

pub mod api;
pub mod cluster;
pub mod compile;
pub mod dns;
pub mod explain;
pub mod health;
pub mod local;
pub mod netlink;
pub mod objects;
pub mod observe;
pub mod printers;
pub mod runtime;
pub mod sources;
pub mod store;
pub mod threads;
pub mod yaml;

mod admission;
mod controllers;
mod registry;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod testing;

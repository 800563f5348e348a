//! Cluster DNS beside the workers: what needs a stream, and what needs another server.
//!
//! ```text
//!  workers ── queries for names outside ──▶ door ─┐
//!                                                 ├─▶ resolver: cache ─▶ flights ─▶ upstreams
//!  TCP connections ── the same ───────────────────┘
//! ```
//!
//! One thread does both ([`DnsServer`]).

mod door;
mod framing;
pub mod resolver;
mod server;
mod slots;
pub mod tcp;

pub use self::door::{Bell, ReplyTo, requests};
pub use self::server::{DnsParts, DnsServer, OPEN_FILES};

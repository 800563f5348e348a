//! DNS over TCP (RFC 7766): the same answers as the workers give, from the same tables.
//!
//! ```text
//!  client ─▶ DNS address : 53 ─▶ workers ─▶ pg-host ─▶ listener ─ accept ─▶ connection: queries in, responses out
//!            (the client's address: common::clients) ─────────────────────┘     │ answer::respond
//!                                                                  published zone ┘
//! ```
//!
//! **What strangers cost.** Everybody who reaches the DNS address may connect. There are at most 1024 connections, and at most 128 of
//! one client (an IPv4 address, an IPv6 /64); a further one closes the oldest that had no query, or else the one that was used least
//! recently, of that client or of all. A connection is closed when neither a whole query nor a response has come for ten seconds, and
//! when the client does not take its responses within that time. It holds at most 4096 bytes of queries, 64 that wait for other
//! servers, and one response besides 16 KiB of others: a query is read only after the responses to earlier ones were taken.

mod server;

pub use self::server::Listeners;
pub(super) use self::server::OPEN_FILES;

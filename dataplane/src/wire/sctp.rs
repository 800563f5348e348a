//! SCTP (RFC 9260 §3): only what identifies the protocol.

/// IANA protocol number.
pub const PROTOCOL: u8 = 132;

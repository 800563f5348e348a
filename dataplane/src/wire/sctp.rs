//! SCTP (RFC 9260 §3), as far as it is told from other protocols.

/// IANA protocol number.
pub const PROTOCOL: u8 = 132;

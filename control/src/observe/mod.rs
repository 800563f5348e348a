//! What the gateway shows of itself.

pub mod dump;
pub mod stats;
pub mod trace;

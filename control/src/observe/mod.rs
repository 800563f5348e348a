//! What the gateway shows of itself.

pub mod stats;

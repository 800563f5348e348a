//! What the gateway shows of itself.

pub mod checks;
pub mod dump;
pub mod live;
pub mod metrics;
pub mod stats;
pub mod trace;

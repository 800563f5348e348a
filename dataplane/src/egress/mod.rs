//! Egress: what a verdict sets in motion.
//!
//! * [`dispatch`]: the one place that sends, counts and gives buffers back.
//! * [`nexthop`]: the next hops a worker remembers.
//! * [`pending`]: frames that wait for a neighbour's MAC address.
//! * [`pool`]: buffers for frames that outlive their burst.

pub(crate) mod dispatch;
pub(crate) mod nexthop;
pub(crate) mod pending;
pub(crate) mod pool;

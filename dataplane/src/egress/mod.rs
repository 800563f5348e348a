//! Egress: what a verdict sets in motion.
//!
//! * [`dispatch`]: the one place that sends, counts and gives buffers back.
//! * [`mesh`]: queues between workers, for frames that belong to another one.
//! * [`nexthop`]: the next hops a worker remembers.
//! * [`pending`]: frames that wait for a neighbour's MAC address.
//! * [`pool`]: buffers for frames that outlive their burst.

pub(crate) mod dispatch;
pub mod mesh;
pub(crate) mod nexthop;
pub(crate) mod pending;
pub(crate) mod pool;

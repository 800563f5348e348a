//! Egress: carries out verdicts.
//!
//! * `dispatch`: sends, counts and gives buffers back. No other module does.
//! * [`mesh`]: queues between workers, for frames that belong to another worker.
//! * `nexthop`: the cache of next hops.
//! * `pending`: frames that wait for a neighbour's MAC address.
//! * `slots`: fragments that wait for the first of their datagram.
//! * `pool`: buffers for frames that outlive their burst.

pub(crate) mod dispatch;
pub mod exchange;
pub mod mesh;
pub(crate) mod nexthop;
pub(crate) mod pending;
pub(crate) mod pool;
pub(crate) mod slots;
mod sync;

#[cfg(test)]
mod loomed;

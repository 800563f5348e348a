//! What follows from a write: addresses, EndpointSlices, Endpoints, and objects that must always exist.
//!
//! ```text
//! start            namespaces and default/kubernetes are recreated
//! allocate         LoadBalancers that wait get freed addresses
//! endpoint_slices  Service with a selector ── Pods ──▶ EndpointSlices (with hints), Endpoints
//! mirror           Service without one ── Endpoints written by hand ──▶ EndpointSlices
//! events           the oldest Events are removed
//! ```
//!
//! In Kubernetes each controller watches, queues and retries on its own; a client sees the steps in between. Here they
//! run once at the end of the batch, inside the same commit: an applied Service and its endpoints become visible together.
//! Each looks only at what the batch touched, those before it included, so one changed Pod costs its own Services.

pub(crate) mod allocate;
mod endpoint_slices;
pub(crate) mod membership;
pub(crate) mod mirror;
pub(crate) mod slices;
pub(crate) mod start;

mod endpoints_v1;
mod events;
mod hints;

use crate::cluster::overlay::Overlay;

/// Runs every controller on what the batch touched.
pub(crate) fn run(view: &mut Overlay<'_>) {
    start::run(view);
    allocate::serve_waiting(view);
    endpoint_slices::run(view);
    mirror::run(view);
    events::run(view);
}

//! What follows from a write without anybody asking: addresses, and EndpointSlices.
//!
//! In Kubernetes each controller watches, queues and retries on its own; a client sees the steps in between. Here they
//! run once at the end of the batch, inside the same commit: an applied Service and its endpoints become visible together.

pub(crate) mod allocate;
pub(crate) mod endpoints;

use crate::transaction::Transaction;

/// Runs every controller on what the batch touched.
pub(crate) fn run(tx: &mut Transaction<'_>) {
    allocate::serve_waiting(tx);
    endpoints::run(tx);
}

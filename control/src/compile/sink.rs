//! Where the control thread's results go.

use std::collections::BTreeSet;
use std::sync::Arc;

use pollgate_common::net::Net;

use crate::cluster::Cluster;
use crate::objects::service::ServiceName;

/// The compiler and the publisher of the workers' tables.
///
/// Compiling and publishing are apart so that compiling can go on while the disk syncs, and so that what is staged and
/// not yet durable is never seen by a worker.
pub trait TableSink {
    /// Compiles these Services from `cluster` and keeps the result staged. May be called again for the same Services
    /// before [`TableSink::publish`]; the later state counts. A name that `cluster` no longer has is removed.
    fn changed(&mut self, cluster: &Cluster, services: &BTreeSet<ServiceName>);

    /// Makes everything staged visible to the workers: it is on disk now.
    fn publish(&mut self);

    /// What was staged last is what is published already: the batch before could not be stored.
    fn undone(&mut self) {}

    /// Takes a new state of the network and makes it visible at once, together with what is already
    /// published. What is staged stays staged.
    fn network(&mut self, net: Arc<Net>);

    /// Housekeeping, such as freeing retired tables. Called at least every 100 ms.
    fn tick(&mut self);
}

/// A sink that discards everything: for tests of the API and the store, without workers.
#[derive(Debug)]
pub struct NoTables;

impl TableSink for NoTables {
    fn changed(&mut self, _cluster: &Cluster, _services: &BTreeSet<ServiceName>) {}
    fn publish(&mut self) {}
    fn network(&mut self, _net: Arc<Net>) {}
    fn tick(&mut self) {}
}

//! Where the control thread's results go.

use std::sync::Arc;
use std::time::Duration;

use pollgate_common::net::Net;

use crate::cluster::{Cluster, Touched};

/// The compiler and the publisher of the workers' tables.
///
/// Compiling and publishing are apart so that compiling can go on while the disk syncs, and so that what is staged and
/// not yet durable is never seen by a worker.
pub trait TableSink {
    /// Compiles these objects from `cluster` and keeps the result staged. May be called again for the same objects
    /// before [`TableSink::publish`]; the later state counts. A name that `cluster` no longer has is removed.
    fn changed(&mut self, cluster: &Cluster, touched: &Touched);

    /// Whether changes of Pods matter by themselves, besides what they change of EndpointSlices.
    fn needs_pods(&self) -> bool {
        true
    }

    /// Everything that [`TableSink::changed`] was told of is all there is, but for Pods if not `with_pods`. From the next publication
    /// on, a name of DNS that is not found does not exist.
    fn loaded(&mut self, with_pods: bool);

    /// Makes everything staged visible to the workers: it is on disk now.
    fn publish(&mut self);

    /// What was staged last is what is published already: the batch before could not be stored.
    fn undone(&mut self) {}

    /// Takes a new state of the network and makes it visible at once, together with what is already
    /// published. What is staged stays staged.
    fn network(&mut self, net: Arc<Net>);

    /// Notes which publications every worker has. If some worker has not yet, returns how long ago the newest was made: it is called
    /// again after a part of that.
    fn confirm(&mut self) -> Option<Duration> {
        None
    }

    /// Housekeeping, such as freeing retired tables. Called at least every 100 ms.
    fn tick(&mut self);
}

/// A sink that discards everything: for tests of the API and the store, without workers.
#[derive(Debug)]
pub struct NoTables;

impl TableSink for NoTables {
    fn changed(&mut self, _cluster: &Cluster, _touched: &Touched) {}
    fn loaded(&mut self, _with_pods: bool) {}
    fn publish(&mut self) {}
    fn network(&mut self, _net: Arc<Net>) {}
    fn tick(&mut self) {}
}

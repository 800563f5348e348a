//! Commands to the control thread, and their outcomes.

use std::sync::Arc;

use pollgate_common::net::Net;

use crate::cluster::{Commit, Refusal, Write};

/// A command to the control thread.
pub enum Command {
    /// Change objects.
    Write(WriteRequest),
    /// The host's links, addresses, routes and neighbours have changed.
    Network(Arc<Net>),
}

/// Writes that happen together or not at all.
pub struct WriteRequest {
    /// In the order they are to be planned; each sees those before it.
    pub writes: Vec<Write>,
    /// Only plan: report what would happen.
    pub dry_run: bool,
    /// Called once with the outcome, by [`Settled::answer`].
    pub reply: Reply,
}

/// Returns the outcome to the sender of the request.
pub type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// The result of a request; for a dry run, what it would have been.
pub type Outcome = Result<Arc<Commit>, WriteError>;

/// Why a request changed nothing.
#[derive(Debug, Clone)]
pub enum WriteError {
    /// The objects or their state forbid it; every refusal of the request.
    Refused(Vec<Refusal>),
    /// The disk failed, so nothing can be made durable. The text says how.
    Store(String),
}

/// Requests that are done: their commits are to be applied to the replica, then their outcomes sent.
pub struct Settled {
    pub(super) commits: Vec<Arc<Commit>>,
    pub(super) answers: Vec<(Reply, Outcome)>,
    pub(super) store_failure: Option<String>,
}

impl Settled {
    /// Why nothing can be made durable at this time, if the disk has failed.
    pub fn store_failure(&self) -> Option<&str> {
        self.store_failure.as_deref()
    }

    /// The commits that are durable and published now, in order; the dry runs among the requests have none here.
    pub fn commits(&self) -> &[Arc<Commit>] {
        &self.commits
    }

    /// Sends every outcome. A replica must apply [`Settled::commits`] first.
    pub fn answer(self) {
        for (reply, outcome) in self.answers {
            reply(outcome);
        }
    }
}

/// Where settled requests go. Called on the control thread: it must not block.
pub type SettledSink = Box<dyn FnMut(Settled) + Send>;

//! What the control thread is asked, and what it replies.

use std::sync::Arc;

use pollgate_common::net::Net;

use crate::cluster::{Commit, Refusal, Write};

/// What the control thread can be asked.
pub enum Command {
    /// Change objects.
    Write(WriteRequest),
    /// The mirror's news: links, addresses, routes and neighbours of the host.
    Network(Arc<Net>),
}

/// Writes that happen together or not at all.
pub struct WriteRequest {
    /// In the order they are to be planned; each sees those before it.
    pub writes: Vec<Write>,
    /// Say what would happen, and do not do it.
    pub dry_run: bool,
    /// Called once with the outcome, by [`Settled::answer`].
    pub reply: Reply,
}

/// The way back to whoever asked.
pub type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// What became of a request: for a dry run what it would have been.
pub type Outcome = Result<Arc<Commit>, WriteError>;

/// Why a request changed nothing.
#[derive(Debug, Clone)]
pub enum WriteError {
    /// The objects or their state forbid it; every refusal of the request.
    Refused(Vec<Refusal>),
    /// The disk failed, so nothing can be made durable. The text says how.
    Store(String),
}

/// Requests that are done, to be applied to the replica and then answered.
pub struct Settled {
    pub(super) commits: Vec<Arc<Commit>>,
    pub(super) answers: Vec<(Reply, Outcome)>,
    pub(super) store_failure: Option<String>,
}

impl Settled {
    /// Why nothing can be made durable at this time, if so.
    pub fn store_failure(&self) -> Option<&str> {
        self.store_failure.as_deref()
    }

    /// The commits that are durable and published now, in order; the dry runs among the requests have none here.
    pub fn commits(&self) -> &[Arc<Commit>] {
        &self.commits
    }

    /// Answers every request. Whoever keeps a replica applies [`Settled::commits`] first.
    pub fn answer(self) {
        for (reply, outcome) in self.answers {
            reply(outcome);
        }
    }
}

/// Where settled requests go. Called on the control thread: it must not block.
pub type SettledSink = Box<dyn FnMut(Settled) + Send>;

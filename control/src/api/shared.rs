//! The state that handlers share, and their way to the control thread.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;
use tokio::sync::{Semaphore, oneshot, watch as signal};
use tokio::time::{Instant, timeout};

use super::body::{Budget, Claim};
use super::lines::Lines;
use super::live::Live;
use super::server::Limits;
use super::status::Status;
use super::view::Replica;
use crate::cluster::{Commit, Write};
use crate::observe::checks::Checks;
use crate::observe::dump::DumpSource;
use crate::observe::stats::Stats;
use crate::runtime::{Command, WriteError, WriteRequest};

/// How long a client waits for its write before it is told that the outcome is unknown.
const WRITE_TIME: Duration = Duration::from_secs(60);

/// Returns the statistics. Called on the API's thread: it must not block.
pub type StatsSource = Arc<dyn Fn() -> Stats + Send + Sync>;

/// A handle to the shared state.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

impl std::ops::Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The state behind an [`Api`].
pub(crate) struct Shared {
    pub(super) replica: Replica,
    commands: Sender<Command>,
    pub(super) stats: StatsSource,
    pub(super) checks: Arc<Checks>,
    /// Where to read what is dumped; `None` if there are no tables.
    pub(super) dump: Option<DumpSource>,
    /// Held by the client whose request a worker has.
    pub(super) worker_turn: tokio::sync::Mutex<()>,
    pub(super) budget: Budget,
    pub(super) limits: Limits,
    /// One permit per watch that may be open.
    pub(super) watches: Arc<Semaphore>,
    /// The events of watches, encoded.
    pub(super) lines: Lines,
    /// What open pages share.
    pub(super) live: Live,
    /// Changes when the server stops.
    pub(super) stop: signal::Receiver<()>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    pub(super) fn new(
        replica: Replica,
        commands: Sender<Command>,
        (stats, checks): (StatsSource, Arc<Checks>),
        dump: Option<DumpSource>,
        limits: Limits,
        stop: signal::Receiver<()>,
    ) -> Self {
        Self(Arc::new(Shared {
            replica,
            commands,
            stats,
            checks,
            dump,
            worker_turn: tokio::sync::Mutex::default(),
            budget: Budget::new(),
            limits,
            watches: Arc::new(Semaphore::new(limits.watches as usize)),
            lines: Lines::default(),
            live: Live::default(),
            stop,
        }))
    }

    /// Hands writes to the control thread and waits for their outcome. `claim` is held until then, whether the
    /// client still waits or not. The outer error is that there is no outcome.
    pub(super) async fn write(
        &self,
        writes: Vec<Write>,
        dry_run: bool,
        claim: Claim,
    ) -> Result<Result<Arc<Commit>, WriteError>, Status> {
        let (reply, outcome) = oneshot::channel();
        let reply = Box::new(move |outcome| {
            drop(claim);
            // The client may have disconnected.
            drop(reply.send(outcome));
        });
        let request = WriteRequest { writes, dry_run, reply };
        let start = Instant::now();
        self.commands.send(Command::Write(request)).map_err(|_| Status::stopping())?;
        let outcome = timeout(WRITE_TIME, outcome).await.map_err(|_| Status::timed_out(WRITE_TIME.as_secs()))?;
        let outcome = outcome.map_err(|_| Status::stopping())?;
        if let Ok(commit) = &outcome
            && !dry_run
        {
            self.live.published(commit.revision, start.elapsed());
        }
        Ok(outcome)
    }
}

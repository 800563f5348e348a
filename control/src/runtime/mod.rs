//! The control thread: the one owner of the cluster's state and of the tables made from it.
//!
//! ```text
//!  API ──Command──▶ control thread ──commits──▶ disk thread
//!                   plan, adopt                 one transaction, one sync
//!                   compile (meanwhile) ◀──on disk──┘
//!                   publish ──▶ workers
//!  API ◀──Settled── (replica applies, then the client gets its response)
//! ```
//!
//! **One batch at a time.** While a batch is written to disk, further writes wait; then all that wait become the next
//! batch: one plan after the other, one transaction, one compile, one publish. So the busier the gateway, the larger the
//! batch, and the cost of a sync is shared without a timer to tune. Nothing is planned on top of what is not yet
//! durable, which keeps the rollback short: a batch the disk refuses is undone by its own changes, in reverse, and no
//! reader has seen it. A deeper pipeline would hide a little planning behind the sync, at the price of tables that hold
//! what a power cut removes.
//!
//! **What an acknowledgement means.** A write is acknowledged only after it is on disk, *and* the tables with it are
//! published to the workers, *and* the API's replica shows it. A client that applies a Service and then connects to
//! it, or reads it back, finds it.
//!
//! **What must not block it.** The disk has its own thread, and so has the API. Changes of the network never wait for the
//! disk: neighbours keep changing while a disk hangs.
//!
//! **A disk that fails.** Every write is refused with the reason, while reads and packets continue from the last durable
//! state. The state file is opened again after a second, then with back-off; once that works, writes are accepted again.
//! A gateway that had to be restarted because its disk was full for a minute would lose its flows for no reason.

mod command;
mod disk;
mod schedule;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvError, Sender, after, bounded, never, select, tick};
use pollgate_common::net::Net;

pub use self::command::{Command, Outcome, Reply, Settled, SettledSink, WriteError, WriteRequest};
pub use self::schedule::Schedule;

use self::disk::{Disk, Job};
use crate::cluster::{Cluster, Commit, Touched, Write};
use crate::compile::sink::TableSink;
use crate::objects::Kind;
use crate::store::Store;
use crate::threads::{self, Role};

/// How often [`TableSink::tick`] is called when nothing else happens.
const TICK: Duration = Duration::from_millis(100);

/// How long to wait until the workers are looked at after a publication: at least.
const FIRST_LOOK: Duration = Duration::from_micros(100);

/// How long to wait after a disk failed; twice as long after each further failure, up to [`LONGEST_REST`].
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest wait. Each attempt reads the whole file, while the workers run.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// What the control thread is made of.
pub struct RuntimeParts {
    /// The state as restored from `store`.
    pub cluster: Cluster,
    /// The open state file.
    pub store: Store,
    /// The compiler and publisher.
    pub sink: Box<dyn TableSink + Send>,
    /// Requests. The thread also ends when every sender is gone.
    pub commands: Receiver<Command>,
    /// Where the outcomes go.
    pub settled: SettledSink,
}

/// The running control thread. Dropping it stops it.
pub struct ControlHandle {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ControlHandle {
    /// Finishes what is queued, closes the state file, and waits for the thread to end.
    ///
    /// Stop what sends commands first: a command sent later gets no reply.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

impl Drop for ControlHandle {
    fn drop(&mut self) {
        self.join();
    }
}

/// Compiles and publishes a restored state that has no Pods yet, before [`spawn`].
pub fn publish_restored(cluster: &Cluster, sink: &mut dyn TableSink) {
    sink.changed(cluster, &cluster.all_of([Kind::Service, Kind::Namespace]));
    sink.loaded(false);
    sink.publish();
}

/// The same for its Pods, once they are read.
pub fn publish_pods(cluster: &Cluster, sink: &mut dyn TableSink) {
    if sink.needs_pods() {
        sink.changed(cluster, &cluster.all_of([Kind::Pod]));
    }
    sink.loaded(true);
    sink.publish();
}

/// Starts the control thread and its disk thread. What `sink` publishes is that of `parts.cluster` already.
///
/// # Errors
/// The system's, if no thread can be started.
pub fn spawn(parts: RuntimeParts) -> io::Result<ControlHandle> {
    let disk = Disk::spawn(parts.store)?;
    let (stop, stopped) = bounded(0);
    let control = Control {
        terminating: Schedule::of(&parts.cluster),
        cluster: parts.cluster,
        sink: parts.sink,
        settled: parts.settled,
        disk,
        waiting: Vec::new(),
        in_flight: None,
        net: None,
        broken: None,
    };
    let commands = parts.commands;
    let thread = threads::spawn(Role::Control, "control", move || control.run(&commands, &stopped))?;
    Ok(ControlHandle { stop: Some(stop), thread: Some(thread) })
}

struct Control {
    cluster: Cluster,
    /// Pods that are to be removed when their time is over.
    terminating: Schedule,
    sink: Box<dyn TableSink + Send>,
    settled: SettledSink,
    disk: Disk,
    /// Writes that wait for the batch in flight.
    waiting: Vec<WriteRequest>,
    in_flight: Option<Batch>,
    /// The latest picture of the network that the sink has not been given.
    net: Option<Arc<Net>>,
    /// Why the disk takes no writes.
    broken: Option<Broken>,
}

/// State of a disk that failed.
struct Broken {
    reason: String,
    /// What it was writing then: some of it may be in the file.
    failed: Vec<Arc<Commit>>,
    /// When to try again; never while that is under way, or without a disk thread.
    again: Option<Instant>,
    rest: Duration,
}

/// Requests that share one transaction, and what they made.
#[derive(Default)]
struct Batch {
    commits: Vec<Arc<Commit>>,
    answers: Vec<(Reply, Outcome)>,
    touched: Touched,
}

impl Control {
    fn run(mut self, commands: &Receiver<Command>, stopped: &Receiver<()>) {
        let ticks = tick(TICK);
        loop {
            let done = self.disk.done.clone();
            let look = match self.sink.confirm() {
                Some(age) => after((age / 4).clamp(FIRST_LOOK, TICK)),
                None => never(),
            };
            select! {
                recv(look) -> _ => {},
                recv(commands) -> command => match command {
                    Ok(command) => self.take(command),
                    Err(_) => break,
                },
                recv(done) -> written => self.written(written),
                recv(ticks) -> _ => self.tick(),
                recv(stopped) -> _ => break,
            }
            self.drain(commands);
        }
        self.finish(commands);
    }

    /// Takes everything that is queued, then starts a batch if none is in flight.
    fn drain(&mut self, commands: &Receiver<Command>) {
        for command in commands.try_iter() {
            self.take(command);
        }
        if let Some(net) = self.net.take() {
            self.sink.network(net);
        }
        if self.in_flight.is_none() && !self.waiting.is_empty() {
            self.start_batch();
        }
    }

    fn tick(&mut self) {
        self.sink.tick();
        match &mut self.broken {
            // Not while a batch may fail: what is due is taken from the schedule only once.
            None if self.in_flight.is_none() => self.expire(),
            None => {}
            Some(broken) if broken.again.is_some_and(|again| again <= Instant::now()) => {
                broken.again = None;
                self.disk.start(Job::Recover(broken.failed.clone()));
            }
            Some(_) => {}
        }
    }

    /// Removes Pods whose grace period is over.
    fn expire(&mut self) {
        let due = self.terminating.due(jiff::Timestamp::now());
        if !due.is_empty() {
            let writes = due.into_iter().map(Write::Expire).collect();
            // No client waits for it. What a failing disk undoes is due again.
            self.waiting.push(WriteRequest { writes, dry_run: false, reply: Box::new(|_| ()) });
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Write(request) => self.waiting.push(request),
            Command::Network(net) => self.net = Some(net),
        }
    }

    fn start_batch(&mut self) {
        let mut batch = Batch::default();
        for request in std::mem::take(&mut self.waiting) {
            let outcome = self.plan(request.writes, request.dry_run, &mut batch);
            batch.answers.push((request.reply, outcome));
        }
        if batch.commits.is_empty() {
            return self.settle(batch);
        }
        self.disk.start(Job::Write(batch.commits.clone()));
        self.sink.changed(&self.cluster, &batch.touched);
        self.in_flight = Some(batch);
    }

    fn plan(&mut self, writes: Vec<Write>, dry_run: bool, batch: &mut Batch) -> Outcome {
        if let Some(broken) = self.broken.as_ref().filter(|_| !dry_run) {
            return Err(WriteError::Store(broken.reason.clone()));
        }
        let commit = self.cluster.plan(writes, jiff::Timestamp::now()).map_err(WriteError::Refused)?;
        let commit = Arc::new(commit);
        if !dry_run && !commit.changes.is_empty() {
            self.cluster.adopt(&commit);
            self.terminating.follow(&commit);
            batch.touched.extend(commit.touched());
            batch.commits.push(Arc::clone(&commit));
        }
        Ok(commit)
    }

    /// The disk is done with the batch in flight, or with its recovery.
    fn written(&mut self, report: Result<Result<(), String>, RecvError>) {
        let report = report.unwrap_or_else(|RecvError| {
            self.disk.done = never();
            Err("the disk thread died".to_owned())
        });
        if self.broken.is_some() {
            return self.recovered(report);
        }
        let mut batch = self.in_flight.take().unwrap_or_default();
        match report {
            Ok(()) => self.sink.publish(),
            Err(reason) => self.undo(&mut batch, reason),
        }
        self.settle(batch);
    }

    /// Returns to the last durable state. What the batch staged is staged again as it was before.
    fn undo(&mut self, batch: &mut Batch, reason: String) {
        tracing::error!("writes are refused until the disk works again; reads and packets continue: {reason}");
        let failed = std::mem::take(&mut batch.commits);
        for commit in failed.iter().rev() {
            let back = commit.inverse();
            self.cluster.adopt(&back);
            self.terminating.follow(&back);
        }
        self.sink.changed(&self.cluster, &batch.touched);
        self.sink.undone();
        for (_, outcome) in &mut batch.answers {
            if outcome.as_ref().is_ok_and(|commit| !commit.changes.is_empty()) {
                *outcome = Err(WriteError::Store(reason.clone()));
            }
        }
        self.broken = Some(Broken { reason, failed, again: Some(Instant::now() + FIRST_REST), rest: FIRST_REST });
    }

    fn recovered(&mut self, report: Result<(), String>) {
        match (report, &mut self.broken) {
            (Err(reason), Some(broken)) => {
                broken.rest = (broken.rest * 2).min(LONGEST_REST);
                broken.again = Some(Instant::now() + broken.rest);
                broken.reason = reason;
            }
            _ => {
                tracing::info!("the disk works again: writes are accepted");
                self.broken = None;
            }
        }
        // No client waits for it, but the API reports whether the gateway is ready.
        self.settle(Batch::default());
    }

    fn settle(&mut self, batch: Batch) {
        let store_failure = self.broken.as_ref().map(|broken| broken.reason.clone());
        (self.settled)(Settled { commits: batch.commits, answers: batch.answers, store_failure });
    }

    /// Clean stop: queued commands are still executed.
    fn finish(mut self, commands: &Receiver<Command>) {
        loop {
            self.drain(commands);
            if self.in_flight.is_none() {
                break;
            }
            let written = self.disk.done.recv();
            self.written(written);
        }
        self.disk.close();
    }
}

#[cfg(test)]
mod tests;

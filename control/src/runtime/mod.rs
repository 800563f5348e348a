//! The control thread: the one owner of the cluster's state and of the tables made from it.
//!
//! ```text
//!  API ──Command──▶ control thread ──commits──▶ disk thread
//!                   plan, adopt                 one transaction, one sync
//!                   compile (meanwhile) ◀──on disk──┘
//!                   publish ──▶ workers
//!  API ◀──Settled── (replica applies, then the client is answered)
//! ```
//!
//! **One batch at a time.** While a batch is on its way to the disk, further writes wait; when it is there, all that
//! wait become the next batch: one plan after the other, one transaction, one compile, one publish. So the busier the
//! gateway, the larger the batch, and the price of a sync is shared without a timer to tune. Nothing is planned on top of
//! what is not yet durable, which keeps the way back short: a batch the disk refuses is undone by its own changes, in
//! reverse, and nobody has seen it. A deeper pipeline would hide a little planning behind the sync, and pay with tables
//! that hold what a power cut takes away.
//!
//! **What an acknowledgement means.** A write is answered only after it is on disk, *and* the tables with it are
//! published to the workers, *and* the API's replica shows it. A client that applies a Service and then connects to
//! it, or reads it back, finds it.
//!
//! **What may not hold it up.** The disk has a thread of its own, and so has the API. News of the network never wait for
//! the disk: neighbours keep changing while a disk hangs.
//!
//! **A disk that fails.** Every write is refused with the reason, while reads and packets go on from the last durable state.
//! The state file is opened again after a second, and then ever more seldom; once that works, writes are taken again.
//! A gateway that had to be restarted because its disk was full for a minute would lose its flows for nothing.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvError, Sender, bounded, never, select, tick};
use pollgate_common::net::Net;

use crate::cluster::termination::Schedule;
use crate::cluster::{Cluster, Commit, Refusal, Write};
use crate::compile::resolve::{ServiceName, touched};
use crate::objects::Kind;
use crate::store::Store;

/// How often [`TableSink::tick`] is called when nothing else happens.
const TICK: Duration = Duration::from_millis(100);

/// How long a disk that failed is left alone; twice as long after each further failure, up to [`LONGEST_REST`].
const FIRST_REST: Duration = Duration::from_secs(1);
/// See [`FIRST_REST`]. Each attempt reads the whole file, beside the workers.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Where the control thread's results go: the compiler and the publisher of the workers' tables.
///
/// Compiling and publishing are apart so that compiling can go on while the disk syncs, and so that what is staged and
/// not yet durable is never seen by a worker.
pub trait TableSink {
    /// Compiles these Services from `cluster` and keeps the result staged. May be called again for the same Services
    /// before [`TableSink::publish`]; the later state counts. A name that `cluster` no longer has is to be removed.
    fn changed(&mut self, cluster: &Cluster, services: &BTreeSet<ServiceName>);

    /// Makes everything staged visible to the workers: it is on disk now.
    fn publish(&mut self);

    /// Takes a new picture of the network and makes it visible at once, together with what is already
    /// published. What is staged stays staged.
    fn network(&mut self, net: Arc<Net>);

    /// Housekeeping, such as freeing retired tables. Called at least every 100 ms.
    fn tick(&mut self);
}

/// Tables for nobody: a control plane without workers, as tests of the API and the store want it.
#[derive(Debug)]
pub struct NoTables;

impl TableSink for NoTables {
    fn changed(&mut self, _cluster: &Cluster, _services: &BTreeSet<ServiceName>) {}
    fn publish(&mut self) {}
    fn network(&mut self, _net: Arc<Net>) {}
    fn tick(&mut self) {}
}

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
    commits: Vec<Arc<Commit>>,
    answers: Vec<(Reply, Outcome)>,
    store_failure: Option<String>,
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
    /// Where the answers go.
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
    /// Stop what sends commands first: a command sent later is never answered.
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

/// Compiles and publishes every Service of a restored state, before [`spawn`].
pub fn publish_restored(cluster: &Cluster, sink: &mut dyn TableSink) {
    sink.changed(cluster, &every_service(cluster));
    sink.publish();
}

/// Starts the control thread and its disk thread. What `sink` publishes is that of `parts.cluster` already.
///
/// # Errors
/// The system's, if it has no thread to give.
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
        news: None,
        broken: None,
    };
    let commands = parts.commands;
    let thread = thread::Builder::new().name("control".into()).spawn(move || control.run(&commands, &stopped))?;
    Ok(ControlHandle { stop: Some(stop), thread: Some(thread) })
}

fn every_service(cluster: &Cluster) -> BTreeSet<ServiceName> {
    cluster
        .objects(Kind::Service, None)
        .map(|service| ServiceName { namespace: service.namespace().to_owned(), name: service.name().to_owned() })
        .collect()
}

struct Control {
    cluster: Cluster,
    /// Pods that go by themselves.
    terminating: Schedule,
    sink: Box<dyn TableSink + Send>,
    settled: SettledSink,
    disk: Disk,
    /// Writes that wait for the batch in flight.
    waiting: Vec<WriteRequest>,
    in_flight: Option<Batch>,
    /// The latest picture of the network that the sink has not been given.
    news: Option<Arc<Net>>,
    /// Why the disk takes no writes.
    broken: Option<Broken>,
}

/// What is known of a disk that failed.
struct Broken {
    reason: String,
    /// What it was writing then: some of it may have got there.
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
    services: BTreeSet<ServiceName>,
}

impl Control {
    fn run(mut self, commands: &Receiver<Command>, stopped: &Receiver<()>) {
        let ticks = tick(TICK);
        loop {
            let done = self.disk.done.clone();
            select! {
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

    /// Folds a burst: takes all that is queued, then starts a batch if none is under way.
    fn drain(&mut self, commands: &Receiver<Command>) {
        for command in commands.try_iter() {
            self.take(command);
        }
        if let Some(net) = self.news.take() {
            self.sink.network(net);
        }
        if self.in_flight.is_none() && !self.waiting.is_empty() {
            self.start_batch();
        }
    }

    fn tick(&mut self) {
        self.sink.tick();
        match &mut self.broken {
            // Not behind a batch that may fail: what is due is told once.
            None if self.in_flight.is_none() => self.expire(),
            None => {}
            Some(broken) if broken.again.is_some_and(|again| again <= Instant::now()) => {
                broken.again = None;
                self.disk.start(Job::Recover(broken.failed.clone()));
            }
            Some(_) => {}
        }
    }

    /// Lets Pods go whose time of terminating is over.
    fn expire(&mut self) {
        let due = self.terminating.due(jiff::Timestamp::now());
        if !due.is_empty() {
            let writes = due.into_iter().map(Write::Expire).collect();
            // Nobody waits for it. What a failing disk undoes is due again.
            self.waiting.push(WriteRequest { writes, dry_run: false, reply: Box::new(|_| ()) });
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Write(request) => self.waiting.push(request),
            Command::Network(net) => self.news = Some(net),
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
        self.sink.changed(&self.cluster, &batch.services);
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
            batch.services.extend(touched(&commit));
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

    /// Goes back to the last durable state. What the batch staged is staged anew as it was.
    fn undo(&mut self, batch: &mut Batch, reason: String) {
        tracing::error!("writes are refused until the disk works again; reads and packets continue: {reason}");
        let failed = std::mem::take(&mut batch.commits);
        for commit in failed.iter().rev() {
            let back = commit.inverse();
            self.cluster.adopt(&back);
            self.terminating.follow(&back);
        }
        self.sink.changed(&self.cluster, &batch.services);
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
        // Nobody waits for it; but the API tells whether it is ready.
        self.settle(Batch::default());
    }

    fn settle(&mut self, batch: Batch) {
        let store_failure = self.broken.as_ref().map(|broken| broken.reason.clone());
        (self.settled)(Settled { commits: batch.commits, answers: batch.answers, store_failure });
    }

    /// Clean stop: what was queued is still done.
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

/// The disk thread, seen from the control thread.
struct Disk {
    jobs: Option<Sender<Job>>,
    done: Receiver<Result<(), String>>,
    thread: Option<JoinHandle<()>>,
}

/// What the disk thread can be asked, one at a time.
enum Job {
    Write(Vec<Arc<Commit>>),
    /// To take writes again after these have failed.
    Recover(Vec<Arc<Commit>>),
}

impl Disk {
    fn spawn(mut store: Store) -> io::Result<Self> {
        let (jobs, queue) = bounded(1);
        let (report, done) = bounded(1);
        let thread = thread::Builder::new().name("disk".into()).spawn(move || {
            for job in queue {
                let done = match job {
                    Job::Write(commits) => store.commit(&commits),
                    Job::Recover(failed) => store.recover(&failed),
                };
                if report.send(done.map_err(|error| error.to_string())).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { jobs: Some(jobs), done, thread: Some(thread) })
    }

    /// Never blocks: one job is under way at a time, and there is room for one.
    fn start(&self, job: Job) {
        // A dead disk thread shows as a closed `done`, which every caller watches.
        if let Some(jobs) = &self.jobs {
            drop(jobs.send(job));
        }
    }

    fn close(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the disk thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use crossbeam::channel::unbounded;
    use serde_json::json;

    use super::*;
    use crate::cluster::ClusterSettings;
    use crate::objects::{Key, Object};
    use crate::store::faulty::{self, State};

    const SOON: Duration = Duration::from_secs(20);

    /// What happened, in order.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Event {
        /// Services compiled, each with whether it is there.
        Staged(BTreeMap<String, bool>),
        Published,
        Network,
        /// A transaction of so many commits is durable and about to be answered.
        Settled(usize),
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<Event>>>);

    impl Log {
        fn push(&self, event: Event) {
            self.0.lock().expect("no panic holds it").push(event);
        }

        fn take(&self) -> Vec<Event> {
            std::mem::take(&mut self.0.lock().expect("no panic holds it"))
        }

        fn wait_for(&self, event: &Event) {
            for _ in 0..2000 {
                if self.0.lock().expect("no panic holds it").contains(event) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
            panic!("{event:?} never came, but {:?}", self.take());
        }
    }

    impl TableSink for Log {
        fn changed(&mut self, cluster: &Cluster, services: &BTreeSet<ServiceName>) {
            let there = |name: &ServiceName| {
                let key = Key::new(Kind::Service, name.namespace.as_str(), name.name.as_str());
                (name.name.clone(), cluster.object(&key).is_some())
            };
            self.push(Event::Staged(services.iter().map(there).collect()));
        }

        fn publish(&mut self) {
            self.push(Event::Published);
        }

        fn network(&mut self, _net: Arc<Net>) {
            self.push(Event::Network);
        }

        fn tick(&mut self) {}
    }

    struct Fixture {
        commands: Sender<Command>,
        log: Log,
        control: ControlHandle,
    }

    impl Fixture {
        fn new(store: Store) -> Self {
            Self::with(store, Cluster::new(ClusterSettings::default()))
        }

        fn with(store: Store, cluster: Cluster) -> Self {
            let (commands, receiver) = unbounded();
            let log = Log::default();
            let settled = log.clone();
            let parts = RuntimeParts {
                cluster,
                store,
                sink: Box::new(log.clone()),
                commands: receiver,
                settled: Box::new(move |done| {
                    settled.push(Event::Settled(done.commits().len()));
                    done.answer();
                }),
            };
            let control = spawn(parts).expect("threads");
            Self { commands, log, control }
        }

        /// Creates a Service as soon as writes are taken again.
        fn until_taken(&self, name: &str) -> Arc<Commit> {
            let deadline = Instant::now() + SOON;
            loop {
                match outcome(&self.send(create(name))) {
                    Ok(commit) => return commit,
                    Err(error) => assert!(Instant::now() < deadline, "still refused: {error:?}"),
                }
                thread::sleep(TICK);
            }
        }

        fn send(&self, write: Write) -> Receiver<Outcome> {
            self.send_as(write, false)
        }

        fn send_as(&self, write: Write, dry_run: bool) -> Receiver<Outcome> {
            let (reply, outcome) = bounded(1);
            let reply = Box::new(move |outcome| drop(reply.send(outcome)));
            self.commands.send(Command::Write(WriteRequest { writes: vec![write], dry_run, reply })).expect("running");
            outcome
        }
    }

    fn service(name: &str) -> Object {
        let value = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": [{"port": 80}]},
        });
        Object::from_value(&value, "").expect("a Service")
    }

    fn create(name: &str) -> Write {
        Write::Create(service(name))
    }

    fn staged(name: &str, there: bool) -> Event {
        Event::Staged(BTreeMap::from([(name.to_owned(), there)]))
    }

    fn outcome(receiver: &Receiver<Outcome>) -> Outcome {
        receiver.recv_timeout(SOON).expect("an answer")
    }

    #[test]
    fn an_answer_comes_after_disk_and_publish() {
        let (store, disk) = faulty::store();
        let fixture = Fixture::new(store);
        disk.set(State::Hangs);
        let answer = fixture.send(create("web"));
        // Compiling does not wait for the disk; publishing does.
        fixture.log.wait_for(&staged("web", true));
        assert!(answer.recv_timeout(Duration::from_millis(50)).is_err(), "answered before it was on disk");
        assert_eq!(fixture.log.take(), [staged("web", true)]);
        disk.set(State::Works);
        let commit = outcome(&answer).expect("done");
        assert_eq!(commit.written, [service("web").key()]);
        assert_eq!(fixture.log.take(), [Event::Published, Event::Settled(1)]);
    }

    #[test]
    fn writes_that_wait_for_the_disk_share_one_transaction_compile_and_publish() {
        let (store, disk) = faulty::store();
        let fixture = Fixture::new(store);
        disk.set(State::Hangs);
        let first = fixture.send(create("first"));
        fixture.log.wait_for(&staged("first", true));
        let names: Vec<String> = (0..50).map(|n| format!("web-{n}")).collect();
        let answers: Vec<_> = names.iter().map(|name| fixture.send(create(name))).collect();
        disk.set(State::Works);
        for answer in answers.iter().chain([&first]) {
            outcome(answer).expect("done");
        }
        let together = Event::Staged(names.iter().map(|name| (name.clone(), true)).collect());
        let expected = [
            staged("first", true),
            Event::Published,
            Event::Settled(1),
            together,
            Event::Published,
            Event::Settled(50),
        ];
        assert_eq!(fixture.log.take(), expected);
    }

    #[test]
    fn each_of_a_batch_sees_those_before_it() {
        let (store, disk) = faulty::store();
        let fixture = Fixture::new(store);
        disk.set(State::Hangs);
        let answers = [fixture.send(create("web")), fixture.send(create("web")), fixture.send_as(create("web"), true)];
        disk.set(State::Works);
        let [first, second, dry] = answers.map(|answer| outcome(&answer));
        first.expect("done");
        for refused in [second, dry] {
            let Err(WriteError::Refused(refusals)) = refused else { panic!("created twice") };
            assert_eq!(refusals[0].reason.as_str(), "AlreadyExists");
        }
    }

    #[test]
    fn a_dry_run_changes_nothing() {
        let (store, _disk) = faulty::store();
        let fixture = Fixture::new(store);
        let planned = outcome(&fixture.send_as(create("web"), true)).expect("planned");
        assert!(planned.change(&service("web").key()).is_some());
        assert_eq!(fixture.log.take(), [Event::Settled(0)]);
        outcome(&fixture.send(create("web"))).expect("still free");
    }

    #[test]
    fn a_disk_error_refuses_writes_and_leaves_the_last_durable_state() {
        let (store, disk) = faulty::store();
        let fixture = Fixture::new(store);
        outcome(&fixture.send(create("kept"))).expect("done");
        fixture.log.take();
        disk.set(State::Hangs);
        let doomed = fixture.send(create("lost"));
        fixture.log.wait_for(&staged("lost", true));
        let waiting = fixture.send(create("waiting"));
        disk.set(State::Fails);
        for answer in [doomed, waiting, fixture.send(create("later"))] {
            let Err(WriteError::Store(reason)) = outcome(&answer) else { panic!("acknowledged") };
            assert!(reason.contains("Input/output error"), "{reason}");
        }
        let events = fixture.log.take();
        assert_eq!(events[..3], [staged("lost", true), staged("lost", false), Event::Settled(0)]);
        assert!(!events.contains(&Event::Published), "{events:?}");
        // The state is that before the failed write: its name is free, the kept one is not.
        assert!(outcome(&fixture.send_as(create("lost"), true)).is_ok());
        assert!(matches!(outcome(&fixture.send_as(create("kept"), true)), Err(WriteError::Refused(_))));
        fixture.control.stop();
    }

    #[test]
    fn a_disk_that_works_again_takes_writes_and_holds_nothing_that_was_refused() {
        let (store, disk) = faulty::store();
        let fixture = Fixture::new(store);
        let kept = outcome(&fixture.send(create("kept"))).expect("done").revision;
        disk.set(State::Fails);
        assert!(matches!(outcome(&fixture.send(create("lost"))), Err(WriteError::Store(_))));
        // Long enough for an attempt to recover that fails as well.
        thread::sleep(FIRST_REST + TICK * 5);
        assert!(matches!(outcome(&fixture.send(create("lost"))), Err(WriteError::Store(_))));
        disk.set(State::Works);
        let commit = fixture.until_taken("later");
        assert_eq!(commit.revision, kept + 1, "what was refused took no revision");
        outcome(&fixture.send_as(create("lost"), true)).expect("its name is free");
        let Fixture { commands, control, .. } = fixture;
        drop(commands);
        control.stop();
        let names = faulty::names(&disk);
        assert_eq!(names, ["kept", "later"]);
    }

    #[test]
    fn news_of_the_network_do_not_wait_for_the_disk() {
        let (store, disk) = faulty::store();
        let fixture = Fixture::new(store);
        disk.set(State::Hangs);
        let answer = fixture.send(create("web"));
        fixture.log.wait_for(&staged("web", true));
        fixture.commands.send(Command::Network(Arc::new(Net::default()))).expect("running");
        fixture.log.wait_for(&Event::Network);
        assert!(!fixture.log.take().contains(&Event::Published));
        disk.set(State::Works);
        outcome(&answer).expect("done");
    }

    #[test]
    fn a_stop_finishes_what_is_queued() {
        let (store, disk) = faulty::store();
        let Fixture { commands, log, control } = Fixture::new(store);
        let fixture = Fixture { commands, log: log.clone(), control: ControlHandle { stop: None, thread: None } };
        disk.set(State::Hangs);
        let answers: Vec<_> = (0..10).map(|n| fixture.send(create(&format!("web-{n}")))).collect();
        let stopping = thread::spawn(move || control.stop());
        thread::sleep(Duration::from_millis(20));
        disk.set(State::Works);
        stopping.join().expect("stopped");
        assert!(answers.iter().all(|answer| outcome(answer).is_ok()));
    }

    #[test]
    fn everything_restored_is_published() {
        let mut cluster = Cluster::new(ClusterSettings::default());
        let commit = cluster.plan(vec![create("web")], jiff::Timestamp::UNIX_EPOCH).expect("planned");
        cluster.adopt(&commit);
        let mut log = Log::default();
        publish_restored(&cluster, &mut log);
        let all = [("kubernetes".to_owned(), true), ("web".to_owned(), true)];
        assert_eq!(log.take(), [Event::Staged(all.into()), Event::Published]);
    }
}

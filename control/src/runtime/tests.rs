use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use crossbeam::channel::unbounded;
use serde_json::json;

use super::*;
use crate::cluster::{ClusterSettings, Preconditions};
use crate::objects::service::ServiceName;
use crate::objects::{Key, Object};
use crate::store::faulty::{self, State};

const SOON: Duration = Duration::from_secs(60);

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
        let deadline = Instant::now() + SOON;
        while !self.0.lock().expect("no panic holds it").contains(event) {
            assert!(Instant::now() < deadline, "{event:?} never came, but {:?}", self.take());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl TableSink for Log {
    fn changed(&mut self, cluster: &Cluster, touched: &Touched) {
        let there = |name: &ServiceName| {
            let key = Key::new(Kind::Service, name.namespace.as_str(), name.name.as_str());
            (name.name.clone(), cluster.object(&key).is_some())
        };
        self.push(Event::Staged(touched.services.iter().map(there).collect()));
    }

    fn loaded(&mut self, _with_pods: bool) {}

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
    let expected =
        [staged("first", true), Event::Published, Event::Settled(1), together, Event::Published, Event::Settled(50)];
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
fn a_deletion_in_a_batch_meets_the_object_as_the_batch_has_it() {
    let (store, disk) = faulty::store();
    let fixture = Fixture::new(store);
    let made = outcome(&fixture.send(create("web"))).expect("done");
    let read = made.change(&service("web").key()).and_then(|change| change.new.clone()).expect("made");
    let metadata = read.metadata().clone();
    let meant = Preconditions { uid: metadata.uid, resource_version: metadata.resource_version };
    let mut changed = (*read).clone();
    changed.metadata_mut().labels = Some([("x".to_owned(), "1".to_owned())].into());
    disk.set(State::Hangs);
    let delete = || Write::Delete(read.key(), meant.clone());
    let answers = [create("other"), Write::Replace(changed), delete(), Write::delete(read.key()), delete()];
    let answers = answers.map(|write| fixture.send(write));
    disk.set(State::Works);
    let [other, replaced, conflict, deleted, gone] = answers.map(|answer| outcome(&answer));
    for done in [other, replaced, deleted] {
        done.expect("done");
    }
    for (refused, reason) in [(conflict, "Conflict"), (gone, "NotFound")] {
        let Err(WriteError::Refused(refusals)) = refused else { panic!("deleted another version") };
        assert_eq!(refusals[0].reason.as_str(), reason);
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
    // An attempt to recover fails as well.
    disk.wait_for_failure(SOON);
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

/// Waits until a thread, by its directory in procfs, waits for something itself.
fn until_asleep(thread: &std::path::Path) {
    let stat = std::path::Path::new("/proc").join(thread).join("stat");
    let deadline = Instant::now() + SOON;
    while !std::fs::read_to_string(&stat).expect("it runs").contains(") S ") {
        assert!(Instant::now() < deadline, "it never waits");
        thread::yield_now();
    }
}

#[test]
fn a_stop_finishes_what_is_queued() {
    let (store, disk) = faulty::store();
    let Fixture { commands, log, control } = Fixture::new(store);
    let fixture = Fixture { commands, log: log.clone(), control: ControlHandle { stop: None, thread: None } };
    disk.set(State::Hangs);
    let answers: Vec<_> = (0..10).map(|n| fixture.send(create(&format!("web-{n}")))).collect();
    let (me, itself) = std::sync::mpsc::channel();
    let stopping = thread::spawn(move || {
        me.send(std::fs::read_link("/proc/thread-self").expect("procfs")).expect("awaited");
        control.stop();
    });
    until_asleep(&itself.recv().expect("started"));
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

//! Files beside a real control thread and its state file.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, ClusterSettings, Touched};
use crate::compile::sink::TableSink;
use crate::objects::{Kind, Object};
use crate::runtime::{self, ControlHandle, RuntimeParts, Settled};
use crate::store::Store;
use crossbeam::channel::unbounded;
use pollgate_common::net::Net;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const SOON: Duration = Duration::from_secs(60);

/// The Services of the last publication, each with its first port.
#[derive(Clone, Default)]
struct Published(Arc<Mutex<BTreeMap<String, i32>>>);

impl TableSink for Published {
    fn changed(&mut self, cluster: &Cluster, _: &Touched) {
        let port = |object: &Arc<Object>| {
            let ports = object.as_service()?.spec.as_ref()?.ports.as_ref()?;
            Some((object.name().to_owned(), ports.first()?.port))
        };
        let services = cluster.objects(Kind::Service, None).filter(|object| object.name() != "kubernetes");
        *self.0.lock().unwrap() = services.filter_map(port).collect();
    }

    fn loaded(&mut self, _: bool) {}
    fn publish(&mut self) {}
    fn network(&mut self, _: Arc<Net>) {}
    fn tick(&mut self) {}
}

/// A control thread over the state in a directory that survives it.
struct Control {
    _thread: ControlHandle,
    commands: Sender<Command>,
    theirs: BTreeSet<Key>,
    published: Published,
}

impl Control {
    fn start(directory: &TempDir) -> Control {
        let (store, restored) = Store::open(&directory.path().join("state.db")).unwrap();
        let cluster = Cluster::restore(ClusterSettings::default(), restored.objects, restored.revision).unwrap();
        let theirs = cluster.followed().collect();
        let (commands, received) = unbounded();
        let mut published = Published::default();
        runtime::publish_restored(&cluster, &mut published);
        let thread = runtime::spawn(RuntimeParts {
            cluster,
            store,
            sink: Box::new(published.clone()),
            commands: received,
            settled: Box::new(Settled::answer),
        });
        Control { _thread: thread.unwrap(), commands, theirs, published }
    }

    fn follower(&self, path: &Path) -> Follower {
        Follower::new(path, self.theirs.clone(), self.commands.clone())
    }

    fn apply(&self, value: &Value) {
        let (reply, outcome) = bounded(1);
        let reply = Box::new(move |outcome| drop(reply.send(outcome)));
        let writes = vec![Write::Apply(Object::from_value(value, "default").unwrap())];
        self.commands.send(Command::Write(WriteRequest { writes, dry_run: false, reply })).unwrap();
        outcome.recv_timeout(SOON).unwrap().unwrap();
    }

    fn services(&self) -> BTreeMap<String, i32> {
        self.published.0.lock().unwrap().clone()
    }

    fn comes_to(&self, expected: &[(&str, i32)]) {
        let expected: BTreeMap<String, i32> = expected.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
        let deadline = Instant::now() + SOON;
        while self.services() != expected {
            assert!(Instant::now() < deadline, "expected {expected:?}, found {:?}", self.services());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn service(name: &str, port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": port}]}})
}

fn manifests(directory: &TempDir, files: &[(&str, &[Value])]) -> PathBuf {
    let path = directory.path().join("manifests");
    fs::create_dir_all(&path).unwrap();
    for (name, objects) in files {
        let documents: Vec<String> = objects.iter().map(ToString::to_string).collect();
        fs::write(path.join(name), documents.join("\n---\n")).unwrap();
    }
    path
}

#[test]
fn files_are_loaded_and_followed() {
    let directory = TempDir::new().unwrap();
    let path = manifests(&directory, &[("a.yaml", &[service("a", 80), service("b", 80)])]);
    let control = Control::start(&directory);
    control.apply(&service("applied", 1));
    let mut follower = control.follower(&path);
    follower.load().expect("sound files");
    control.comes_to(&[("a", 80), ("applied", 1), ("b", 80)]);
    let status = follower.status();
    let _following = follower.spawn().unwrap();

    manifests(&directory, &[("a.yaml", &[service("a", 81)]), ("c.yaml", &[service("c", 80)])]);
    control.comes_to(&[("a", 81), ("applied", 1), ("c", 80)]);
    fs::write(path.join("c.yaml"), "kind: Service\nmetadata: {name: c}\nspec: {prots: []}\n").unwrap();
    let deadline = Instant::now() + SOON;
    while status.faults().is_empty() {
        assert!(Instant::now() < deadline, "the fault is not told");
        thread::sleep(Duration::from_millis(10));
    }
    let told = status.to_stats();
    let faults = &told.faults;
    let file = path.join("c.yaml").display().to_string();
    assert!(faults[0].starts_with(&format!("{file}:1: apiVersion: Required value")), "{told:?}");
    assert_eq!(faults[1], format!("{file}:3: spec.prots: unknown field"), "{told:?}");
    assert_eq!(control.services().len(), 3, "the last good state stays");
    fs::remove_file(path.join("c.yaml")).unwrap();
    control.comes_to(&[("a", 81), ("applied", 1)]);
    while !status.faults().is_empty() {
        assert!(Instant::now() < deadline, "the fault is told for ever");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_restart_deletes_what_left_the_files_meanwhile() {
    let directory = TempDir::new().unwrap();
    let path = manifests(&directory, &[("a.yaml", &[service("a", 80)]), ("b.yaml", &[service("b", 80)])]);
    {
        let control = Control::start(&directory);
        control.apply(&service("applied", 1));
        control.follower(&path).load().expect("sound files");
    }
    fs::remove_file(path.join("b.yaml")).unwrap();
    let control = Control::start(&directory);
    assert_eq!(control.services().len(), 3, "until the files are read");
    control.follower(&path).load().expect("sound files");
    control.comes_to(&[("a", 80), ("applied", 1)]);
}

#[test]
fn faults_keep_a_gateway_from_starting_that_has_nothing_to_go_on_with() {
    let directory = TempDir::new().unwrap();
    let path = manifests(&directory, &[("a.yaml", &[service("a", 0)])]);
    let control = Control::start(&directory);
    let faults = control.follower(&path).load().expect_err("a port that is none");
    let file = path.join("a.yaml").display().to_string();
    let told = |field: &str| {
        format!("{file}:1: spec.ports[0].{field}: Invalid value: 0: must be between 1 and 65535, inclusive")
    };
    assert_eq!(faults, [told("port"), told("targetPort")]);
    let faults = control.follower(&directory.path().join("missing")).load().expect_err("no such directory");
    assert!(faults[0].contains("missing: cannot be read: "), "{faults:?}");
    fs::write(path.join("a.yaml"), "{apiVersion: v1, kind: Pod, metadata: {generateName: a}}").unwrap();
    let faults = control.follower(&path).load().expect_err("another Pod at each reading");
    assert!(faults[0].starts_with(&format!("{file}:1: metadata.name: Required value")), "{faults:?}");
    assert!(control.services().is_empty());

    manifests(&directory, &[("a.yaml", &[service("a", 80)])]);
    control.follower(&path).load().expect("sound files");
    drop(control);
    manifests(&directory, &[("a.yaml", &[service("a", 0)])]);
    let control = Control::start(&directory);
    control.follower(&path).load().expect("goes on with what there is");
    control.comes_to(&[("a", 80)]);
    fs::remove_dir_all(&path).unwrap();
    control.follower(&path).load().expect("a directory that is gone says nothing");
    control.comes_to(&[("a", 80)]);
}

#[test]
fn what_the_cluster_refuses_is_tried_again() {
    let directory = TempDir::new().unwrap();
    let mut wanted = service("a", 80);
    wanted["spec"]["clusterIP"] = json!("10.96.0.77");
    let path = manifests(&directory, &[]);
    let control = Control::start(&directory);
    let mut holder = service("holder", 1);
    holder["spec"]["clusterIP"] = json!("10.96.0.77");
    control.apply(&holder);
    let mut follower = control.follower(&path);
    follower.load().expect("nothing is no fault");
    let status = follower.status();
    let _following = follower.spawn().unwrap();
    manifests(&directory, &[("a.yaml", &[wanted])]);
    let deadline = Instant::now() + SOON;
    while status.faults().is_empty() {
        assert!(Instant::now() < deadline, "the refusal is not told");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(status.faults()[0].contains("a.yaml:1: spec.clusterIP"), "{:?}", status.faults());
    let (reply, outcome) = bounded(1);
    let reply = Box::new(move |outcome| drop(reply.send(outcome)));
    let writes = vec![Write::delete(Key::new(Kind::Service, "default", "holder"))];
    control.commands.send(Command::Write(WriteRequest { writes, dry_run: false, reply })).unwrap();
    outcome.recv_timeout(SOON).unwrap().unwrap();
    control.comes_to(&[("a", 80)]);
}

//! `kill -9` at any moment, under writers that never stop: what was acknowledged is there, what was refused is not.
//!
//! ```text
//!  writers ══ Unix socket ══▶ child: API, control thread, state file      killed after some acknowledgements,
//!     └ what each was told                                                started again, asked for everything, compared
//! ```
//!
//! The child is a process of its own with everything between the socket and the disk, and no packets. Each writer has names
//! of its own, so that it knows what must be there; addresses and node ports are few and for all. A request that was
//! under way at the kill may have happened or not, but wholly: that is the only freedom.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;
use pollgate_control::api::{self, APPLY_PATH};
use pollgate_control::cluster::{Cluster, ClusterSettings};
use pollgate_control::compile::sink::NoTables;
use pollgate_control::runtime::{self, RuntimeParts};
use pollgate_control::store::Store;
use serde_json::{Value, json};

use crate::shared::api_parts;
use crate::shared::harness::tests;

tests! {
    [] =>
        kill_minus_nine_loses_nothing_acknowledged_and_keeps_nothing_refused;
}

const ROUNDS: u64 = 100;
const WRITERS: u64 = 4;
/// Names of each writer.
const NAMES: u64 = 6;
/// Acknowledgements of a round, at most.
const MOST: u64 = 25;
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DIRECTORY: &str = "POLLGATE_CRASH_DIRECTORY";
const PATIENCE: Duration = Duration::from_secs(60);

fn kill_minus_nine_loses_nothing_acknowledged_and_keeps_nothing_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
    let (started, mut random, mut acknowledged) = (Instant::now(), Random(1), 0);
    for round in 0..ROUNDS {
        let gateway = Gateway::start(directory.path());
        compare(&gateway, &mut writers, round);
        let (acks, limit) = (AtomicU64::new(0), 1 + random.below(MOST));
        thread::scope(|scope| {
            for writer in &mut writers {
                let (socket, acks) = (gateway.socket.clone(), &acks);
                scope.spawn(move || writer.write_until_killed(&socket, acks));
            }
            let deadline = Instant::now() + PATIENCE;
            while acks.load(Relaxed) < limit {
                assert!(Instant::now() < deadline, "round {round}: only {acks:?} acknowledgements");
                thread::sleep(Duration::from_micros(200));
            }
            drop(gateway);
        });
        acknowledged += acks.load(Relaxed);
    }
    compare(&Gateway::start(directory.path()), &mut writers, ROUNDS);
    println!("{ROUNDS} kills, {acknowledged} acknowledged writes, in {:?}", started.elapsed());
}

/// Set in the child: where its files are.
pub(crate) fn child_directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// The other half of the test above.
pub(crate) fn child(directory: &Path) {
    let settings = ClusterSettings {
        service_cidrs: vec!["10.96.0.0/25".parse().expect("a CIDR")],
        node_port_range: 30_000..=30_039,
        ..ClusterSettings::default()
    };
    let (store, restored) = Store::open(&directory.join("state.db")).expect("whole after a crash");
    let cluster = Cluster::restore(settings, restored.objects, restored.revision).expect("nothing is held twice");
    let (sender, commands) = unbounded();
    let socket = directory.join("socket");
    let api = api::spawn(api_parts(socket, cluster.clone(), sender)).expect("a socket");
    let settled = api.settled_sink();
    let _control = runtime::spawn(RuntimeParts { cluster, store, sink: Box::new(NoTables), commands, settled });
    println!("ready");
    // Until it is killed, or whoever should do that is gone.
    drop(io::stdin().read_to_end(&mut Vec::new()));
}

/// A child that is killed when this is dropped.
struct Gateway {
    child: Child,
    socket: PathBuf,
}

impl Gateway {
    fn start(directory: &Path) -> Gateway {
        let child = Command::new(std::env::current_exe().expect("this test"))
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut gateway = Gateway { child, socket: directory.join("socket") };
        let mut lines = BufReader::new(gateway.child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("ready")), "the child does not start");
        gateway
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("a child");
    }
}

/// What a writer knows of one of its Services.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// The label it gave it.
    version: String,
    cluster_ip: String,
    node_port: i64,
}

/// A name, and what is there, if anything is.
type Fact = (String, Option<Known>);

/// One client, and what it was told.
struct Writer {
    random: Random,
    prefix: String,
    writes: u64,
    known: BTreeMap<String, Known>,
    /// What the request under way at the kill would have made; all of it or nothing.
    in_doubt: Vec<(String, Option<String>)>,
    /// The highest revision it has seen.
    revision: u64,
}

impl Writer {
    fn new(number: u64) -> Writer {
        let (known, in_doubt) = (BTreeMap::new(), Vec::new());
        Writer { random: Random(number + 100), prefix: format!("w{number}"), writes: 0, known, in_doubt, revision: 1 }
    }

    fn write_until_killed(&mut self, socket: &Path, acks: &AtomicU64) {
        while self.write(socket).is_ok() {
            acks.fetch_add(1, Relaxed);
        }
    }

    /// One request, of any kind. An error is that there was no answer.
    fn write(&mut self, socket: &Path) -> io::Result<()> {
        self.writes += 1;
        let (name, other) = (self.name(), self.name());
        let path = format!("{SERVICES}/{name}");
        match (self.random.below(8), self.known.contains_key(&name)) {
            (0, true) => self.send(socket, "DELETE", &path, &Value::Null, &[(name, None)], 200),
            (1, true) => self.send(socket, "POST", SERVICES, &self.service(&name), &[], 409),
            (1 | 2, _) => {
                // One of the two is no Service, so neither is applied.
                let bad = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "refused"},
                    "spec": {"ports": [{"port": 0}]}});
                let body = json!({"apiVersion": "v1", "kind": "List", "items": [self.service(&name), bad]});
                self.send(socket, "POST", APPLY_PATH, &body, &[], 422)
            }
            (3 | 4, _) if name != other => {
                let body =
                    json!({"apiVersion": "v1", "kind": "List", "items": [self.service(&name), self.service(&other)]});
                let version = Some(self.version());
                self.send(socket, "POST", APPLY_PATH, &body, &[(name, version.clone()), (other, version)], 200)
            }
            (_, true) => self.send(socket, "PUT", &path, &self.service(&name), &[(name, Some(self.version()))], 200),
            (_, false) => {
                self.send(socket, "POST", SERVICES, &self.service(&name), &[(name, Some(self.version()))], 201)
            }
        }
    }

    /// Sends a request that leads to `facts` if it is answered with `code`, and to nothing otherwise.
    fn send(
        &mut self,
        socket: &Path,
        method: &str,
        path: &str,
        body: &Value,
        facts: &[(String, Option<String>)],
        code: u16,
    ) -> io::Result<()> {
        self.in_doubt = facts.to_vec();
        let (answered, answer) = request(socket, method, path, body)?;
        self.in_doubt.clear();
        // A node port that somebody else has.
        if answered == 422 && answer.to_string().contains("already allocated") {
            return Ok(());
        }
        assert_eq!(answered, code, "{method} {path}: {answer}");
        let objects = match answer.get("items").and_then(Value::as_array) {
            Some(items) => items.iter().map(|item| &item["object"]).collect(),
            None => vec![&answer],
        };
        for ((name, version), object) in facts.iter().zip(objects) {
            match version {
                None => drop(self.known.remove(name)),
                Some(version) => {
                    let known = known(object);
                    assert_eq!(known.version, *version);
                    self.known.insert(name.clone(), known);
                    self.revision = self.revision.max(revision(object));
                }
            }
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        format!("{}-{}", self.prefix, self.random.below(NAMES))
    }

    fn version(&self) -> String {
        self.writes.to_string()
    }

    /// A Service whose ClusterIP is the gateway's choice; its node port is, or one that may be taken.
    fn service(&self, name: &str) -> Value {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "labels": {"version": self.version()}},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]},
        });
        if self.writes.is_multiple_of(3) {
            service["spec"]["ports"][0]["nodePort"] = json!(30_000 + self.writes % 40);
        }
        service
    }

    /// What must be there, given whether the request that was under way has happened.
    fn expects(&self, happened: bool, found: &BTreeMap<String, Known>) -> Vec<Fact> {
        let mut facts: BTreeMap<String, Option<Known>> =
            self.known.iter().map(|(name, known)| (name.clone(), Some(known.clone()))).collect();
        for (name, version) in self.in_doubt.iter().filter(|_| happened) {
            // Which address it got nobody was told; the version says that it is this one.
            let new = version.as_ref().map(|version| match found.get(name) {
                Some(found) => Known { version: version.clone(), ..found.clone() },
                None => Known { version: version.clone(), cluster_ip: String::new(), node_port: 0 },
            });
            facts.insert(name.clone(), new);
        }
        facts.into_iter().filter(|(_, known)| known.is_some()).collect()
    }
}

/// Asks a gateway that has just started for everything, and compares it with what the writers were told.
fn compare(gateway: &Gateway, writers: &mut [Writer], round: u64) {
    let (code, list) = request(&gateway.socket, "GET", SERVICES, &Value::Null).expect("an answer");
    assert_eq!(code, 200, "{list}");
    let services = list["items"].as_array().expect("a list");
    nothing_twice(services, round);
    let (now, seen) = (revision(&list), writers.iter().map(|writer| writer.revision).max());
    assert!(Some(now) >= seen, "round {round}: revision {now} after {seen:?}");
    assert!(services.iter().all(|service| revision(service) <= now), "round {round}: objects of the future");
    let mut found: BTreeMap<String, Known> =
        services.iter().filter(|service| name(service) != "kubernetes").map(|s| (name(s), known(s))).collect();
    for writer in writers {
        let prefix = format!("{}-", writer.prefix);
        let own: BTreeMap<String, Known> = found.extract_if(.., |name, _| name.starts_with(&prefix)).collect();
        let facts: Vec<Fact> = own.iter().map(|(name, known)| (name.clone(), Some(known.clone()))).collect();
        let (without, with) = (writer.expects(false, &own), writer.expects(true, &own));
        assert!(
            facts == without || facts == with,
            "round {round}: found {facts:?}\nafter what was acknowledged: {without:?}\nand what was in doubt: {with:?}"
        );
        (writer.known, writer.revision) = (own, writer.revision.max(now));
        writer.in_doubt.clear();
    }
    assert!(found.is_empty(), "round {round}: nobody made {found:?}");
}

fn nothing_twice(services: &[Value], round: u64) {
    let mut held = BTreeSet::new();
    for service in services {
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let ports = ports.filter_map(|port| port["nodePort"].as_i64()).map(|port| port.to_string());
        let addresses = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for thing in ports.chain(addresses.map(str::to_owned)) {
            assert!(held.insert(thing.clone()), "round {round}: {thing} is held twice: {services:?}");
        }
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("a name").to_owned()
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a revision")
}

fn known(service: &Value) -> Known {
    Known {
        version: service["metadata"]["labels"]["version"].as_str().expect("the label").to_owned(),
        cluster_ip: service["spec"]["clusterIP"].as_str().expect("an address").to_owned(),
        node_port: service["spec"]["ports"][0]["nodePort"].as_i64().expect("a node port"),
    }
}

/// One request in HTTP/1.0, whose answer ends with the connection. An error is that there was no answer.
fn request(socket: &Path, method: &str, path: &str, body: &Value) -> io::Result<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).map_err(io::Error::other)?;
    let whole = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let code = head.split(' ').nth(1)?.parse().ok()?;
        // Cut off by the kill: as good as none.
        Some((code, serde_json::from_str(body).ok()?))
    });
    whole.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// xorshift64 (Marsaglia 2003): the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

//! Thousands of watchers on one gateway: what they cost, and that everybody else is still answered.
//!
//! It measures the memory of its process, and needs many file descriptors. The figures it prints
//! (`cargo test --release --test system watchers -- --nocapture`) are those in docs/operations.md.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;
use pollgate::host;
use pollgate_control::api::{self, ApiHandle};
use pollgate_control::cluster::{Cluster, ClusterSettings};
use pollgate_control::compile::sink::NoTables;
use pollgate_control::runtime::{self, ControlHandle, RuntimeParts};
use pollgate_control::store::Store;
use serde_json::{Value, json};

use crate::shared::api_parts;
use crate::shared::harness::tests;

tests! {
    [] =>
        two_thousand_watchers_are_told_and_others_are_answered;
}

const WATCHERS: usize = 2_000;
const WRITES: usize = 20;
/// Objects of one commit that all watchers are told of.
const BULK: usize = 100;
const SERVICES: &str = "/api/v1/namespaces/default/services";

struct Gateway {
    // Dropped in this order: the API needs the control thread until it has stopped.
    _api: ApiHandle,
    _control: ControlHandle,
    directory: tempfile::TempDir,
}

impl Gateway {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&directory.path().join("state.db")).unwrap();
        let cluster = Cluster::new(ClusterSettings::default());
        let (sender, commands) = unbounded();
        let socket = socket(directory.path());
        let api = api::spawn(api_parts(socket, cluster.clone(), sender)).unwrap();
        let settled = api.settled_sink();
        let parts = RuntimeParts { cluster, store, sink: Box::new(NoTables), commands, settled };
        let control = runtime::spawn(parts).unwrap();
        Self { _api: api, _control: control, directory }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(socket(self.directory.path())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// A request of its own connection, and the code it is answered with.
    fn send(&self, method: &str, path: &str, body: &str) -> u16 {
        let mut stream = self.connect();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no code: {answer}"))
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("socket")
}

/// Reads until what was read holds `text`.
fn read_until(stream: &mut UnixStream, text: &str) {
    let mut read = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "the end came before {text:?}: {}", String::from_utf8_lossy(&read));
        // The end of what was read before, too: the text may have come in two pieces.
        let unseen = read.len().saturating_sub(text.len());
        read.extend_from_slice(&piece[..length]);
        if read[unseen..].windows(text.len()).any(|window| window == text.as_bytes()) {
            break;
        }
    }
}

/// Memory of this process that is in use, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn service(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
        .to_string()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn two_thousand_watchers_are_told_and_others_are_answered() {
    // Both ends of every connection are in this process.
    let needed = 2 * u64::try_from(WATCHERS).unwrap() + api::OPEN_FILES;
    host::allow_open_files(needed).unwrap();
    let gateway = Gateway::start();
    assert_eq!(gateway.send("POST", SERVICES, &service("warm")), 201);

    let before = resident();
    let watch = format!("GET {SERVICES}?watch=true&resourceVersion=2 HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut watchers: Vec<UnixStream> = (0..WATCHERS)
        .map(|_| {
            let mut stream = gateway.connect();
            stream.write_all(watch.as_bytes()).unwrap();
            stream
        })
        .collect();
    watchers.iter_mut().for_each(|stream| read_until(stream, "\r\n\r\n"));
    let each = (resident() - before) as f64 / WATCHERS as f64;

    let (mut told, mut answered) = (Vec::new(), Vec::new());
    for number in 0..WRITES {
        let name = format!("s-{number}");
        let began = Instant::now();
        assert_eq!(gateway.send("POST", SERVICES, &service(&name)), 201);
        // Asked while the watchers are being told.
        let asked = Instant::now();
        assert_eq!(gateway.send("GET", &format!("{SERVICES}/{name}"), ""), 200);
        answered.push(asked.elapsed());
        watchers.iter_mut().for_each(|stream| read_until(stream, "}\n"));
        told.push(began.elapsed());
    }
    // Many at once: while the gateway tells everybody of everything, others are answered in between.
    let services: Vec<Value> =
        (0..BULK).map(|n| serde_json::from_str(&service(&format!("bulk-{n}"))).unwrap()).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": services}).to_string();
    let began = Instant::now();
    assert_eq!(gateway.send("POST", api::APPLY_PATH, &list), 200);
    let (mut slowest, last) = (Duration::ZERO, format!("\"name\":\"bulk-{}\"", BULK - 1));
    for watchers in watchers.chunks_mut(WATCHERS / 20) {
        let asked = Instant::now();
        assert_eq!(gateway.send("GET", "/livez", ""), 200);
        slowest = slowest.max(asked.elapsed());
        watchers.iter_mut().for_each(|stream| read_until(stream, &last));
    }
    let bulk = began.elapsed();
    let grown = (resident() - before) as f64 / WATCHERS as f64;
    let (told, answered) = (median(told), median(answered));
    println!("{WATCHERS} watchers: {each:.1} KiB each, {grown:.1} KiB after {WRITES} events");
    println!("{BULK} objects in one commit: {bulk:?} until all have all; a read meanwhile: at most {slowest:?}");
    println!("from a write until all have it: {told:?}; a read meanwhile: {answered:?}");
    assert!(grown < 64.0, "{grown} KiB a watcher");
    // However slow the machine is: a read comes in between, and does not wait until everybody has been told.
    assert!(answered < told, "a read took {answered:?}, and telling all watchers {told:?}");
    assert!(slowest < bulk / 2, "a read took {slowest:?} of {bulk:?}");
}

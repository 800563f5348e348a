//! The API over its real socket, with the real control thread and store behind it; only the workers' tables are left out.

mod apply;
mod conformance;
mod dump;
mod encodings;
pub(crate) mod fuzz;
mod https;
mod live;
mod objects;
mod patches;
mod races;
mod trouble;
mod upstream;
mod watching;

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use crossbeam::channel::unbounded;
use serde_json::{Value, json};

use super::*;
use crate::cluster::ClusterSettings;
use crate::compile::sink::NoTables;
use crate::observe::checks::Check;
use crate::observe::stats::Stats;
use crate::runtime::{self, ControlHandle, RuntimeParts};
use crate::store::Store;
use crate::store::faulty::{self, State};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn stats() -> Stats {
    serde_json::from_value(json!({"counters": {"rx": 7}})).expect("statistics")
}

struct Gateway {
    // In the order they are to be dropped.
    api: ApiHandle,
    control: ControlHandle,
    checks: Arc<Checks>,
    directory: tempfile::TempDir,
}

impl Gateway {
    fn new() -> Self {
        Self::on(faulty::store().0, Cluster::new(ClusterSettings::default()))
    }

    fn on(store: Store, cluster: Cluster) -> Self {
        Self::with(store, cluster, Limits::default())
    }

    /// On a state file, with what it holds; as after a restart.
    fn restored(state: &Path) -> Self {
        let (store, restored) = Store::open(state).expect("the file");
        let mut cluster =
            Cluster::restore(ClusterSettings::default(), restored.objects, restored.revision).expect("consistent");
        cluster.begin_at(restored.created);
        Self::on(store, cluster)
    }

    fn limited(limits: Limits) -> Self {
        Self::with(faulty::store().0, Cluster::new(ClusterSettings::default()), limits)
    }

    fn with(store: Store, cluster: Cluster, limits: Limits) -> Self {
        Self::start(store, cluster, limits, None)
    }

    /// `listen`: where HTTPS is spoken too.
    fn start(store: Store, cluster: Cluster, limits: Limits, listen: Option<SocketAddr>) -> Self {
        Self::dumping(store, cluster, limits, listen, None)
    }

    fn dumping(
        store: Store,
        cluster: Cluster,
        limits: Limits,
        listen: Option<SocketAddr>,
        dump: Option<DumpSource>,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let https = listen.map(|listen| Https::beside(&directory.path().join("state.db"), listen));
        let (commands, receiver) = unbounded();
        let checks = Arc::<Checks>::default();
        checks.set(Vec::new());
        let parts = ApiParts {
            socket: directory.path().join("run/api.sock"),
            https,
            replica: cluster.clone(),
            commands,
            stats: Arc::new(stats),
            checks: Arc::clone(&checks),
            dump,
        };
        let api = spawn_with(parts, limits).expect("a socket");
        let settled = api.settled_sink();
        let parts = RuntimeParts { cluster, store, sink: Box::new(NoTables), commands: receiver, settled };
        let control = runtime::spawn(parts).expect("threads");
        Self { api, control, checks, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/api.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("listening");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a valid time");
        stream
    }

    fn stop(self) {
        self.api.stop();
        self.control.stop();
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], &body.to_string())
    }

    fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[], &body.to_string())
    }

    fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], "")
    }

    /// Patches with a patch of this type: `json`, `merge`, `strategic-merge`.
    fn patch(&self, path: &str, kind: &str, patch: &Value) -> Answer {
        let media = format!("application/{kind}-patch+json");
        self.send("PATCH", path, &[("Content-Type", &media)], &patch.to_string())
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.send_bytes(method, path, headers, body.as_bytes())
    }

    fn send_bytes(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: pollgate\r\nConnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).expect("open");
        // The server may answer and close before it has read all of a body it refuses.
        let _ = stream.write_all(body);
        Answer::read(&mut stream)
    }
}

struct Answer {
    code: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    /// The body, if it is a text.
    text: String,
}

impl Answer {
    fn read(stream: &mut impl Read) -> Self {
        Self::read_on(stream, Vec::new())
    }

    /// The answer of which these bytes have been read.
    fn read_on(stream: &mut impl Read, mut bytes: Vec<u8>) -> Self {
        stream.read_to_end(&mut bytes).expect("an answer in time");
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        let (head, body) = (std::str::from_utf8(&bytes[..end]).expect("UTF-8"), &bytes[end + 4..]);
        let mut lines = head.lines();
        let code = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a code").parse().expect("a number");
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            // One that comes several times is a list.
            let line = headers.entry(name.to_ascii_lowercase()).or_default();
            let comma = if line.is_empty() { "" } else { ", " };
            *line += &format!("{comma}{value}");
        }
        let chunked = headers.get("transfer-encoding").is_some_and(|value| value == "chunked");
        let body = if chunked { unchunk(body) } else { body.to_owned() };
        let text = String::from_utf8_lossy(&body).into_owned();
        Self { code, headers, body, text }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    fn at(&self, pointer: &str) -> Value {
        self.json().pointer(pointer).cloned().unwrap_or_default()
    }

    /// The answer, if it has this code.
    #[track_caller]
    fn expect(self, code: u16) -> Self {
        assert_eq!(self.code, code, "{}", self.text);
        self
    }

    /// Whether it is a whole and honest `Status` of this code, reason and message.
    #[track_caller]
    fn refused(self, code: u16, reason: &str, message: &str) -> Self {
        let answer = self.expect(code);
        assert_eq!(answer.headers.get("content-type").map(String::as_str), Some("application/json"));
        assert_eq!(answer.at("/kind"), "Status");
        assert_eq!(answer.at("/status"), "Failure");
        assert_eq!(answer.at("/code"), code);
        assert_eq!(answer.at("/reason"), reason);
        assert_eq!(answer.at("/message"), message);
        answer
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n").expect("a chunk");
        let size = std::str::from_utf8(&body[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let (size, rest) = (size.expect("a size"), &body[end + 2..]);
        if size == 0 {
            return whole;
        }
        whole.extend(&rest[..size]);
        body = rest[size..].strip_prefix(b"\r\n").expect("the end of a chunk");
    }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

fn pod(name: &str, app: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                   "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

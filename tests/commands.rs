//! Commands against the real control plane: its API on a real socket, its state file, and no workers behind it.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Parser;
use crossbeam::channel::unbounded;
use pollgate::cli::{Cli, Command, Failure};
use pollgate_control::api::{self, ApiHandle, ApiParts, Https};
use pollgate_control::cluster::{Cluster, ClusterSettings};
use pollgate_control::compile::sink::NoTables;
use pollgate_control::runtime::{self, ControlHandle, RuntimeParts};
use pollgate_control::store::Store;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A control plane and a directory for its socket, state and the test's manifests.
struct Gateway {
    // Dropped in this order: the API needs the control thread until it has stopped.
    _api: ApiHandle,
    _control: ControlHandle,
    directory: TempDir,
}

impl Gateway {
    fn start() -> Self {
        Self::listening(None)
    }

    /// With HTTPS at a loopback address.
    fn listening(listen: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let https = listen.map(|listen| Https::beside(&directory.path().join("state.db"), listen.parse().unwrap()));
        let settings = || ClusterSettings {
            load_balancer_pools: vec!["192.0.2.8/30".parse().unwrap()],
            gateway_addresses: vec!["192.168.50.10".parse().unwrap()],
            ..ClusterSettings::default()
        };
        let (store, _) = Store::open(&directory.path().join("state.db")).unwrap();
        let (sender, commands) = unbounded();
        let api = api::spawn(ApiParts {
            socket: directory.path().join("socket"),
            https,
            replica: Cluster::new(settings()),
            commands: sender,
            dump: None,
            checks: Arc::default(),
            stats: Arc::new(|| {
                serde_json::from_value(json!({"counters": {"rx": 7, "tx": 7}, "generation": 3})).unwrap()
            }),
        })
        .unwrap();
        let control = runtime::spawn(RuntimeParts {
            cluster: Cluster::new(settings()),
            store,
            sink: Box::new(NoTables),
            commands,
            settled: api.settled_sink(),
        })
        .unwrap();
        Self { _api: api, _control: control, directory }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// What `pollgate LINE` prints; the test's directory is written as `@`.
    fn try_run(&self, line: &str) -> (String, Result<(), Failure>) {
        let here = self.directory.path().display().to_string();
        let line = format!("pollgate {line} --socket @/socket").replace('@', &here);
        let cli = Cli::try_parse_from(line.split_whitespace()).expect(&line);
        let Command::Client(command) = cli.command else { panic!("{line}: not for a client") };
        let mut out = Vec::new();
        let result = command.run(&mut out);
        (String::from_utf8(out).unwrap(), result)
    }

    fn run(&self, line: &str) -> String {
        let (out, result) = self.try_run(line);
        result.unwrap_or_else(|failure| panic!("{line}: {failure}"));
        out
    }

    /// The words of a refusal; the test's directory is written as `@`.
    fn refused(&self, line: &str) -> String {
        match self.try_run(line).1 {
            Err(failure @ Failure::Refused(_)) => {
                failure.to_string().replace(&self.directory.path().display().to_string(), "@")
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(line)).unwrap()
    }
}

fn guide() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/guide.yaml")).unwrap()
}

#[test]
fn the_example_is_applied_read_explained_and_deleted() {
    let gateway = Gateway::start();
    gateway.file("guide.yaml", &guide());
    let applied = gateway.run("apply -f @/guide.yaml");
    assert_eq!(applied.lines().count(), 11, "{applied}");
    assert!(applied.lines().all(|line| line.ends_with(" created")), "{applied}");
    assert!(applied.contains("service/backend-service created\n"), "{applied}");
    let again = gateway.run("apply -f @/guide.yaml");
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");

    let table = gateway.run("get svc backend-service");
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("NAME              TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)    AGE"));
    let row = lines.next().unwrap();
    assert!(row.starts_with("backend-service   ClusterIP   10.96.0.50   <none>        8080/TCP   "), "{table}");
    assert_eq!(lines.next(), None);

    let endpoints = gateway.run("get endpoints backend-service");
    assert!(endpoints.contains("10.244.1.10:8080,10.244.2.15:8080"), "{endpoints}");
    let described = gateway.run("describe service backend-service");
    assert!(described.contains("Endpoints:") && described.contains("10.244.2.15:8080"), "{described}");
    let described = gateway.run("describe endpoints backend-service");
    assert!(described.contains("Addresses:          10.244.1.10,10.244.2.15\n"), "{described}");
    let described = gateway.run("describe endpointslices");
    assert!(described.contains("\n\n\nName:") && described.contains("TargetRef:  Pod/backend-1\n"), "{described}");
    assert!(!described.contains("Events:"), "not of several: {described}");
    let uid = gateway.json("get svc backend-service -o json")["metadata"]["uid"].clone();
    let event = format!(
        "apiVersion: v1\nkind: Event\nmetadata: {{name: e}}\ntype: Normal\nreason: Told\nmessage: all is well\n\
         involvedObject: {{kind: Service, namespace: default, name: backend-service, uid: {uid}}}\n"
    );
    gateway.file("event.yaml", &event);
    gateway.run("apply -f @/event.yaml");
    let described = gateway.run("describe svc/backend-service");
    assert!(described.ends_with("  Normal  Told    <unknown>        all is well\n"), "{described}");
    assert!(gateway.run("describe event e").contains("\nInvolved Object:\n"));
    let described = gateway.run("describe pod backend-1");
    assert!(described.contains("\n  Pod IP:") && described.contains(" 10.244.1.10\n"), "{described}");
    let described = gateway.run("describe node node-1");
    assert!(described.contains("\nKind:         Node\n") && described.contains("\n  Conditions:\n"), "{described}");
    let described = gateway.run("describe ns default");
    assert!(described.ends_with("\nStatus:       Active\n"), "no Events of it: {described}");
    assert!(gateway.run("describe svc/nodeport-service").ends_with("Events:                   <none>\n"));
    let refused = gateway.refused("describe svc/backend-service ep/none");
    assert_eq!(refused, "Error from server (NotFound): endpoints \"none\" not found");
    let explained = gateway.run("explain service backend-service");
    assert!(explained.contains("v2 ≠ v1"), "{explained}");
    let explanation = gateway.json("explain service backend-service -o json");
    assert_eq!(explanation["name"], "backend-service");

    assert_eq!(
        gateway.run("delete svc backend-service"),
        "service \"backend-service\" deleted from default namespace\n"
    );
    assert_eq!(
        gateway.refused("delete svc/backend-service svc/external-service"),
        "Error from server (NotFound): services \"backend-service\" not found"
    );
    assert_eq!(gateway.run("delete svc external-service --ignore-not-found"), "", "the other was deleted");
    let rest = gateway.run("delete -f @/guide.yaml --ignore-not-found");
    assert!(rest.contains("node \"node-1\" deleted\n"), "{rest}");
}

/// The backup that docs/operations.md describes.
#[test]
fn what_is_dumped_and_applied_to_an_empty_gateway_is_the_same() {
    let gateway = Gateway::start();
    gateway.file("guide.yaml", &guide());
    gateway.run("apply -f @/guide.yaml");
    let dynamic = "apiVersion: v1\nkind: Service\nmetadata: {name: any}\nspec: {type: NodePort, ports: [{port: 80}]}\n";
    gateway.file("dynamic.yaml", dynamic);
    gateway.run("apply -f @/dynamic.yaml");
    let dump = |gateway: &Gateway| -> Vec<Value> {
        let kinds = ["nodes", "pods", "services", "endpoints", "endpointslices"];
        let texts = kinds.map(|kind| gateway.run(&format!("get {kind} -A -o yaml")));
        let documents = pollgate_control::objects::manifest::parse("backup.yaml", &texts.join("---\n")).unwrap();
        documents.into_iter().map(|document| document.value).collect()
    };
    let before = dump(&gateway);
    let other = Gateway::start();
    other.file("backup.json", &json!({"apiVersion": "v1", "kind": "List", "items": before}).to_string());
    other.run("apply -f @/backup.json");
    let specs = |objects: &[Value]| -> Vec<(Value, Value, Value)> {
        let part =
            |object: &Value| (object["metadata"]["name"].clone(), object["spec"].clone(), object["endpoints"].clone());
        objects.iter().map(part).collect()
    };
    assert_eq!(specs(&dump(&other)), specs(&before));
}

#[test]
fn who_owns_which_field_is_not_printed() {
    let gateway = Gateway::start();
    let body = r#"{"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}}"#;
    let mut stream = UnixStream::connect(gateway.directory.path().join("socket")).unwrap();
    let path = "/api/v1/namespaces/default/services/applied?fieldManager=m";
    let head = format!("PATCH {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{head}Content-Type: application/apply-patch+yaml\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("201 Created") && answer.contains("managedFields"), "{answer}");
    let printed = gateway.json("get svc applied -o json");
    assert_eq!((&printed["metadata"]["name"], printed["metadata"].get("managedFields")), (&json!("applied"), None));
}

#[test]
fn output_for_programs() {
    let gateway = Gateway::start();
    gateway.file("guide.yaml", &guide());
    gateway.run("apply -f @/guide.yaml");
    let one = gateway.json("get svc backend-service -o json");
    assert_eq!(one["spec"]["clusterIP"], "10.96.0.50");
    assert_eq!(gateway.json("get ep backend-service -o json")["kind"], "Endpoints");
    let list = gateway.json("get pods -l app=backend,version!=v2 -o json");
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("List"), 2));
    assert_eq!(list["items"][0]["kind"], "Pod");
    assert_eq!(gateway.run("get pods -l version=v2 -o name"), "pod/backend-canary\n");
    assert!(gateway.run("get svc -A -o wide").starts_with("NAMESPACE "));
    assert!(gateway.run("get svc/backend-service pod/backend-1").contains("pod/backend-1 "));

    gateway.file("again.yaml", &gateway.run("get svc nodeport-service -o yaml"));
    assert_eq!(gateway.run("apply -f @/again.yaml --dry-run server").lines().count(), 1, "its own YAML is read back");
    let yaml = pollgate_control::objects::manifest::parse("yaml", &gateway.run("get pods -o yaml")).unwrap();
    let json = gateway.json("get pods -o json");
    assert_eq!(
        yaml.iter().map(|document| &document.value).collect::<Vec<_>>(),
        json["items"].as_array().unwrap().iter().collect::<Vec<_>>()
    );
}

#[test]
fn faults_of_a_manifest_are_told_with_their_lines_and_nothing_is_applied() {
    let gateway = Gateway::start();
    gateway.file("snippet.yaml", "kind: Service\nspec:\n  selector:\n    app: backend\n  ports:\n  - port: 8080\n");
    gateway.file(
        "b.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n  ports:\n  - port: many\n",
    );
    let told = gateway.refused("apply -f @/snippet.yaml -f @/b.yaml -f @/missing.yaml");
    let lines: Vec<_> = told.lines().collect();
    assert!(lines[0].starts_with("@/missing.yaml: cannot be read"), "{told}");
    assert!(lines[1].starts_with("@/snippet.yaml:1: apiVersion: Required value"), "{told}");
    assert!(lines[2].starts_with("@/snippet.yaml:1: metadata.name: Required value"), "{told}");
    assert!(lines[3].starts_with("@/b.yaml:12: spec.ports[0].port: "), "{told}");
    assert_eq!(lines.len(), 4, "{told}");
    assert!(gateway.refused("get svc good").contains("NotFound"));
}

#[test]
fn faults_that_only_the_gateway_can_find_are_told_with_their_lines_too() {
    let gateway = Gateway::start();
    gateway.file(
        "c.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n  type: NodePort\n  ports:\n  - port: 80\n    \
         nodePort: 99\n",
    );
    let told = gateway.refused("apply -f @/c.yaml");
    assert!(told.starts_with("@/c.yaml:14: spec.ports[0].nodePort: Invalid value: 99"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(gateway.refused("get svc good").contains("NotFound"), "all or nothing");
    assert!(gateway.refused("create -f @/c.yaml").starts_with("@/c.yaml:14: spec.ports[0].nodePort: "));
    assert_eq!(gateway.run("get svc good -o name"), "service/good\n", "create goes object by object");
    let exists = gateway.refused("create -f @/c.yaml");
    assert!(
        exists.starts_with("@/c.yaml:1: Error from server (AlreadyExists): services \"good\" already exists"),
        "{exists}"
    );
}

#[test]
fn namespaces_of_manifest_and_command_line_must_agree() {
    let gateway = Gateway::start();
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  namespace: x\nspec: {ports: [{port: 80}]}\n";
    gateway.file("x.yaml", text);
    gateway.file("none.yaml", &text.replace("  namespace: x\n", ""));
    assert_eq!(
        gateway.refused("apply -n y -f @/x.yaml"),
        "@/x.yaml:5: metadata.namespace: the object's namespace is \"x\", but --namespace is \"y\""
    );
    gateway.run("apply -n x -f @/x.yaml");
    gateway.run("apply -n y -f @/none.yaml");
    assert_eq!(gateway.run("get svc -n y -o name"), "service/a\n");
    assert_eq!(gateway.run("get ns/x -o name"), "namespace/x\n");
    assert_eq!(gateway.run("delete -n y -f @/none.yaml"), "service \"a\" deleted from y namespace\n");
    gateway.file("z.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: z}\nspec: {ports: [{port: 80}]}\n");
    assert_eq!(gateway.run("create -n y -f @/z.yaml"), "service/z created\n");
    assert_eq!(gateway.run("get svc -n y -o name"), "service/z\n");
}

#[test]
fn what_only_its_meaning_shows_to_be_wrong_is_wrong_usage() {
    let gateway = Gateway::start();
    for line in
        ["get gizmos", "get svc a -A", "get svc a -l x=y", "explain service", "delete svc", "describe svc a node/b"]
    {
        let (out, result) = gateway.try_run(line);
        assert!(matches!(result, Err(Failure::Usage(_))), "{line}: {result:?}");
        assert_eq!(out, "", "{line}");
    }
}

/// What a command prints while it runs.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn wait_for(&self, text: &str) {
        let began = Instant::now();
        while !self.text().contains(text) {
            assert!(began.elapsed() < Duration::from_secs(20), "no {text:?} in {:?}", self.text());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// `pollgate LINE` in a thread of its own, which ends with the gateway.
fn in_background(gateway: &Gateway, line: &str) -> (Seen, thread::JoinHandle<Result<(), Failure>>) {
    let here = gateway.directory.path().display().to_string();
    let line = format!("pollgate {line} --socket {here}/socket");
    let seen = Seen::default();
    let mut out = seen.clone();
    let Command::Client(command) = Cli::try_parse_from(line.split_whitespace()).expect(&line).command else {
        panic!("{line}: not for a client")
    };
    (seen, thread::spawn(move || command.run(&mut out)))
}

#[test]
fn a_watch_prints_what_there_is_and_what_changes_until_the_gateway_stops() {
    let gateway = Gateway::start();
    let service = |name: &str, more: &str| {
        let spec = "spec: {clusterIP: 10.96.0.77, ports: [{port: 80}]}";
        gateway.file("s.yaml", &format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}{more}}}\n{spec}\n"));
        gateway.run("apply -f @/s.yaml");
    };
    service("web", "");
    let (table, rows) = in_background(&gateway, "get svc -l provider!=kubernetes -w");
    let (names, plain) = in_background(&gateway, "get svc web -w -o name");
    let (yaml, documents) = in_background(&gateway, "get svc -l tier=front --watch -o yaml");
    table.wait_for("80/TCP");
    names.wait_for("service/web\n");
    // An empty list prints nothing. Whether this watch begins before the change or after it, it prints the Service as changed.
    service("web", ", labels: {tier: front}");
    yaml.wait_for("tier: front");
    gateway.run("delete svc web");
    service("longer-than-web", "");
    table.wait_for("longer-than-web");
    drop(gateway);
    for command in [rows, plain, documents] {
        command.join().unwrap().unwrap();
    }
    let lines: Vec<String> =
        table.text().lines().map(|line| line.rsplit_once(' ').unwrap().0.trim_end().to_owned()).collect();
    let web = "web    ClusterIP   10.96.0.77   <none>        80/TCP";
    let longer = "longer-than-web   ClusterIP   10.96.0.77   <none>        80/TCP";
    assert_eq!(lines, ["NAME   TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)", web, web, web, longer]);
    assert_eq!(names.text(), "service/web\n".repeat(3), "there, changed, gone");
    let documents = pollgate_control::objects::manifest::parse("yaml", &yaml.text()).unwrap();
    assert_eq!(documents.len(), 2, "changed so that it is selected, gone");
}

#[test]
fn a_watch_that_cannot_begin_says_so() {
    let gateway = Gateway::start();
    assert_eq!(gateway.refused("get svc none -w"), "Error from server (NotFound): services \"none\" not found");
    for line in ["get svc/a pod/b -w", "get svc a b -w"] {
        assert!(matches!(gateway.try_run(line).1, Err(Failure::Usage(_))), "{line}");
    }
}

#[test]
fn the_counters_come_as_text_and_json() {
    let gateway = Gateway::start();
    assert!(gateway.run("stats").contains("It adds up"));
    assert_eq!(gateway.json("stats -o json")["counters"]["rx"], 7);
}

#[test]
fn a_kubeconfig_is_printed_or_written_for_its_owner_alone() {
    let gateway = Gateway::listening(Some("127.0.0.1:0"));
    let printed = gateway.run("kubeconfig");
    assert!(
        printed.starts_with("# Made by `pollgate kubeconfig`.") && printed.contains("\nkind: Config\n"),
        "{printed}"
    );
    assert!(
        printed.contains("current-context: pollgate\n") && printed.contains("server: https://127.0.0.1:"),
        "{printed}"
    );
    assert!(!printed.contains(": https://127.0.0.1:0"), "the port that the system gave: {printed}");
    // One line each, for whoever takes a value out of it with grep.
    assert_eq!(printed.lines().count(), 18, "{printed}");

    let file = gateway.directory.path().join("kubeconfig");
    let text = || fs::read_to_string(&file).unwrap();
    for before in [None, Some(printed.lines().next().unwrap().to_owned() + "\nold: true\n")] {
        if let Some(before) = before {
            fs::write(&file, before).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        }
        let told = gateway.run("kubeconfig --output @/kubeconfig");
        assert_eq!(told, format!("kubeconfig written to {}\n", file.display()));
        assert_eq!(text(), printed);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    }
    for foreign in ["", "apiVersion: v1\nkind: Config\n"] {
        fs::write(&file, foreign).unwrap();
        let told = gateway.refused("kubeconfig --output @/kubeconfig");
        assert!(told.starts_with("error: @/kubeconfig: exists and was not created by `pollgate kubeconfig`"), "{told}");
        assert_eq!(text(), foreign);
    }
    let told = gateway.refused("kubeconfig --output @/missing/kubeconfig");
    assert!(told.starts_with("error: @/missing/kubeconfig: cannot write the kubeconfig: No such file"), "{told}");
}

#[test]
fn without_a_listener_there_is_no_kubeconfig_and_it_is_said_how_to_have_one() {
    let told = Gateway::start().refused("kubeconfig");
    assert_eq!(
        told,
        "Error from server (NotFound): api.listen is off: set it to a loopback address and port such as \
         127.0.0.1:6443 in gateway.yaml and restart the gateway"
    );
}

/// What a terminal would act on: an operating system command, BEL, CSI in one character, DEL, a return and a NUL.
const HOSTILE: &str = "a\u{1b}]0;owned\u{7}\u{9b}31m\u{7f}\r\u{0}\u{85}b";

/// An object of each kind with a text in as many fields as are shown anywhere.
fn decorated() -> Vec<Value> {
    let meta = |name: &str| {
        json!({"name": name, "namespace": "default", "labels": {"app": "x"}, "annotations": {"a": "b"},
        "finalizers": ["a/b"], "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u"}]})
    };
    let condition = json!([{"type": "Ready", "status": "True", "reason": "R", "message": "M"}]);
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "h", "annotations": {"a": "b"}},
            "status": {"phase": "Active", "conditions": condition}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "h", "labels": {"a": "b"}, "annotations": {"a": "b"}},
            "spec": {"providerID": "p", "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]},
            "status": {"nodeInfo": {"osImage": "o", "kernelVersion": "k", "containerRuntimeVersion": "c", "kubeletVersion": "v",
                "architecture": "a", "bootID": "b", "kubeProxyVersion": "", "machineID": "m", "operatingSystem": "s", "systemUUID": "u"},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "h"}], "conditions": condition}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta("h"),
            "spec": {"nodeName": "h", "serviceAccountName": "s", "priorityClassName": "p",
                "nodeSelector": {"a": "b"}, "schedulerName": "s", "readinessGates": [{"conditionType": "g"}],
                "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute"}],
                "containers": [{"name": "c", "image": "i", "command": ["c"], "args": ["a"], "workingDir": "w",
                    "ports": [{"name": "http", "containerPort": 80}], "env": [{"name": "E", "value": "v"}]}]},
            "status": {"phase": "Running", "reason": "R", "message": "M", "podIP": "10.244.0.9", "hostIP": "10.0.0.1",
                "nominatedNodeName": "n", "qosClass": "q", "conditions": condition,
                "containerStatuses": [{"name": "c", "image": "i", "imageID": "d", "containerID": "x", "ready": true, "restartCount": 0,
                    "state": {"waiting": {"reason": "R", "message": "M"}}, "lastState": {"terminated": {"reason": "R", "message": "M", "exitCode": 1}}}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("h"),
            "spec": {"selector": {"app": "x"}, "ports": [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "a"}],
                "externalIPs": ["192.0.2.1"], "loadBalancerClass": "c/d", "type": "LoadBalancer"},
            "status": {"conditions": [{"type": "T", "status": "True", "reason": "R", "message": "M"}],
                "loadBalancer": {"ingress": [{"hostname": "h"}]}}}),
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e", "namespace": "default", "annotations": {"a": "b"}},
            "subsets": [{"addresses": [{"ip": "10.0.0.9", "hostname": "h", "nodeName": "n", "targetRef": {"kind": "K", "name": "t"}}],
                "ports": [{"name": "p", "port": 80, "appProtocol": "a"}]}]}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "h", "namespace": "default", "labels": {"kubernetes.io/service-name": "h"}, "annotations": {"a": "b"}},
            "ports": [{"name": "http", "port": 8080, "appProtocol": "a"}],
            "endpoints": [{"addresses": ["10.0.0.9"], "hostname": "h", "nodeName": "n", "zone": "z",
                "targetRef": {"kind": "Pod", "name": "h", "namespace": "default"}, "deprecatedTopology": {"a": "b"}}]}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("h"), "data": {"a": "b"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta("h"), "type": "t", "stringData": {"a": "b"}}),
        json!({"apiVersion": "v1", "kind": "Event", "metadata": meta("h"), "reason": "R", "message": "M", "type": "Normal", "action": "A",
            "source": {"component": "c", "host": "h"}, "reportingComponent": "c", "reportingInstance": "i",
            "involvedObject": {"kind": "Service", "namespace": "default", "name": "h", "fieldPath": "f"}}),
    ]
}

/// The places of all texts in a value.
fn texts(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(place.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| texts(item, &format!("{place}/{index}"), found));
        }
        Value::Object(fields) => {
            fields
                .iter()
                .for_each(|(name, field)| texts(field, &format!("{place}/{}", name.replace('/', "~1")), found));
        }
        _ => {}
    }
}

/// Everything that the binary prints.
fn printed(gateway: &Gateway, line: &str) -> Vec<u8> {
    let here = gateway.directory.path().display().to_string();
    let line = line.replace('@', &here);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pollgate"))
        .args(line.split_whitespace())
        .env("POLLGATE_SOCKET", gateway.directory.path().join("socket"))
        .output()
        .expect("the binary");
    [output.stdout, output.stderr].concat()
}

/// Where a text has a control character that a terminal would act on.
fn control_character(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let at = text.find(|c: char| c.is_control() && c != '\n' && c != '\t')?;
    Some(text[..at].lines().last().unwrap_or_default().to_owned())
}

#[test]
fn no_field_of_an_object_reaches_the_terminal_as_control_characters() {
    let gateway = Gateway::start();
    let mut hostile_fields = 0;
    let check = |line: &str| assert_eq!(control_character(&printed(&gateway, line)), None, "{line}");
    for mut object in decorated() {
        let kind = object["kind"].as_str().unwrap().to_lowercase();
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap().to_owned();
        let mut places = Vec::new();
        texts(&object, "", &mut places);
        // Each text becomes hostile, unless the API refuses it there. Its refusal is printed too.
        for place in places {
            let before = std::mem::replace(object.pointer_mut(&place).unwrap(), json!(HOSTILE));
            let mut attempt = object.clone();
            if place != "/metadata/name" {
                attempt["metadata"]["name"] = json!(format!("attempt{hostile_fields}"));
            }
            let file = gateway.file("object.json", &attempt.to_string());
            let created = gateway.try_run(&format!("create -f {}", file.display()));
            assert_eq!(control_character(created.0.as_bytes()), None, "create with {kind} {place}");
            match created.1 {
                Ok(()) => hostile_fields += 1,
                Err(failure) => {
                    assert_eq!(control_character(failure.to_string().as_bytes()), None, "refusal of {kind} {place}");
                    *object.pointer_mut(&place).unwrap() = before;
                }
            }
        }
        gateway.file("object.json", &object.to_string());
        gateway.file(
            "refused.json",
            &object.to_string().replace("\"apiVersion\":\"v1\"", &format!("\"apiVersion\":{}", json!(HOSTILE))),
        );
        let applied = gateway.try_run("apply -f @/object.json").1;
        assert!(applied.is_ok(), "{kind}: {applied:?}");
        check("apply -f @/object.json");
        check("apply -f @/refused.json");
        check("check -f @/object.json");
        check("check -f @/refused.json");
        for format in ["", "-o wide", "-o yaml", "-o json", "-o name"] {
            check(&format!("get {kind} {format}"));
            check(&format!("get {kind} {name} {format}"));
        }
        check(&format!("describe {kind} {name}"));
        // What is printed for programs is still the object.
        let stored = gateway.json(&format!("get {kind} {name} -o json"));
        let yaml: Value =
            pollgate_control::yaml::parse(&gateway.run(&format!("get {kind} {name} -o yaml"))).trees.remove(0).value;
        assert_eq!(yaml, stored, "{kind}");
    }
    assert!(hostile_fields > 60, "{hostile_fields} fields took the text");
    for line in [
        "explain service h",
        "explain service h -o json",
        "stats",
        "stats -o json",
        "describe services",
        "get all -A",
        "get events -A -o wide",
        "trace --from 10.0.0.1 --to 10.96.0.1:80",
        "dump services",
        "describe service none\u{1b}[2J",
        "get pods -l a=\u{9b}",
        "check -f @/none\u{1b}[2J.yaml",
        "delete -f @/object.json",
    ] {
        check(line);
    }
}

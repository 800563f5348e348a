//! Helm: charts of Services and Secrets are installed, upgraded, listed and removed.
//!
//! It keeps its releases in Secrets, which it writes and reads as protobuf. The program is Helm's library behind a protocol of
//! JSON lines.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::clients::support::Place;
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Helm as HelmClient, Kubectl, Lab};
use crate::shared::needs::helm;

tests! {
    [Lab, Kubectl, HelmClient] =>
        a_chart_is_installed_upgraded_listed_and_removed,
        a_chart_with_a_kind_that_is_not_served_is_refused;
}

struct Helm {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    kubeconfig: String,
    version: &'static str,
    id: u64,
}

impl Helm {
    fn new(place: &Place, version: &'static str) -> Helm {
        let mut command = place.command(helm());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("started");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let kubeconfig = place.kubeconfig().display().to_string();
        let mut helm = Helm { child, input, output: BufReader::new(output), kubeconfig, version, id: 0 };
        let client = json!({"name": "tests", "version": "1"});
        helm.ask("initialize", json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client}));
        helm.tell(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        helm
    }

    fn tell(&mut self, message: &Value) {
        writeln!(self.input, "{message}").expect("written");
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.id += 1;
        let id = self.id;
        self.tell(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("read") > 0, "helm has ended");
            let answer: Value = serde_json::from_str(&line).expect("JSON");
            if answer["id"] == id {
                return answer["result"].clone();
            }
        }
    }

    /// What an action prints, and whether it failed.
    fn run(&mut self, action: &str, arguments: Value) -> (String, bool) {
        let mut arguments = arguments;
        arguments["kubeconfig"] = json!(self.kubeconfig);
        arguments["helm_version"] = json!(self.version);
        let result = self.ask("tools/call", json!({"name": action, "arguments": arguments}));
        let text = result["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        (text, result["isError"] == true)
    }

    #[track_caller]
    fn done(&mut self, action: &str, arguments: Value) -> String {
        let (text, failed) = self.run(action, arguments);
        assert!(!failed, "{action}: {text}");
        text
    }
}

impl Drop for Helm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: { name: {{ .Release.Name }}-web, labels: { app: web } }
spec: { type: NodePort, selector: { app: web }, ports: [{ port: {{ .Values.port }} }] }
";
const SECRET: &str = "\
apiVersion: v1
kind: Secret
metadata: { name: {{ .Release.Name }}-pass }
stringData: { word: geheim }
";
const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: { name: {{ .Release.Name }}-web }
spec: { selector: { matchLabels: { app: web } } }
";

fn chart(place: &Place, name: &str, templates: &[(&str, &str)]) -> String {
    let path = place.path(name);
    fs::create_dir_all(path.join("templates")).expect("made");
    let about = format!("apiVersion: v2\nname: {name}\nversion: 1.2.3\n");
    fs::write(path.join("Chart.yaml"), about).expect("written");
    fs::write(path.join("values.yaml"), "port: 80\n").expect("written");
    for (file, text) in templates {
        fs::write(path.join("templates").join(file), text).expect("written");
    }
    path.display().to_string()
}

fn a_chart_is_installed_upgraded_listed_and_removed() {
    let place = &Place::new();
    let chart = chart(place, "shop", &[("service.yaml", SERVICE), ("secret.yaml", SECRET)]);
    for version in ["v3", "v4"] {
        let helm = &mut Helm::new(place, version);
        let release = json!({"release_name": "one", "namespace": "sales", "chart": chart, "create_namespace": true});
        helm.done("helm_install", release);
        let field = |path: &str| {
            place.kubectl(&["get", "service", "one-web", "-n", "sales", "-o", &format!("jsonpath={{{path}}}")])
        };
        assert_eq!(field(".spec.ports[0].port"), "80");
        assert_eq!(field(".metadata.annotations.meta\\.helm\\.sh/release-name"), "one");
        let node_port = field(".spec.ports[0].nodePort");
        let listed = helm.done("helm_list", json!({"namespace": "sales"}));
        let listed: Value = serde_json::from_str(&listed).expect("a list");
        assert_eq!((&listed[0]["name"], &listed[0]["chart"]), (&json!("one"), &json!("shop")), "{listed}");
        let upgrade = json!({"release_name": "one", "namespace": "sales", "chart": chart, "values": {"port": 81}});
        helm.done("helm_upgrade", upgrade);
        assert_eq!((field(".spec.ports[0].port"), field(".spec.ports[0].nodePort") == node_port), ("81".into(), true));
        helm.done("helm_rollback", json!({"release_name": "one", "namespace": "sales", "revision": 1}));
        assert_eq!(field(".spec.ports[0].port"), "80");
        let kept = place.kubectl(&["get", "secrets", "-n", "sales", "-o", "name", "-l", "owner=helm,name=one"]);
        assert_eq!(kept.lines().count(), 3, "{kept}");
        helm.done("helm_uninstall", json!({"release_name": "one", "namespace": "sales"}));
        assert_eq!(place.kubectl(&["get", "services,secrets", "-n", "sales", "-o", "name"]), "");
    }
}

fn a_chart_with_a_kind_that_is_not_served_is_refused() {
    let place = &Place::new();
    let chart = chart(place, "shop", &[("service.yaml", SERVICE), ("deployment.yaml", DEPLOYMENT)]);
    let helm = &mut Helm::new(place, "v3");
    let (told, failed) =
        helm.run("helm_install", json!({"release_name": "one", "namespace": "default", "chart": chart}));
    assert!(failed && told.contains("no matches for kind \"Deployment\" in version \"apps/v1\""), "{told}");
}

//! kubectl and the Python client on what changes objects in place, watches them, and reads the schema.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::clients::support::{Place, ageless, text};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Kubectl, Lab, PythonClient};

tests! {
    [Lab, Kubectl] =>
        it_lists_the_resources,
        it_creates_what_is_typed,
        it_applies_as_the_client_sees_it,
        it_applies_as_the_server_sees_it,
        it_labels_and_annotates,
        it_patches_in_three_ways,
        it_edits_and_replaces,
        it_watches_and_waits,
        it_shows_differences,
        it_explains_fields,
        it_gets_endpoints,
        it_lists_in_pieces_and_deletes_all,
        it_does_not_wait_for_what_comes_back,
        what_needs_a_kubelet_fails_with_a_word,
        replace_makes_what_is_not_there;
    [Lab, PythonClient] =>
        the_python_client_watches_pages_and_patches;
}

const WEB: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  labels: { tier: front }
spec:
  clusterIP: 10.96.1.10
  selector: { app: web }
  ports:
    - { name: http, port: 80, targetPort: 8080 }
    - { name: admin, port: 9000 }
";

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: { name: web-1, namespace: shop, labels: { app: web } }
spec: { nodeName: node-1, containers: [{ name: c, image: web }] }
status:
  phase: Running
  podIP: 10.244.1.31
  podIPs: [{ ip: 10.244.1.31 }]
  conditions: [{ type: Ready, status: \"True\" }]
";

/// With the Service and the Pod behind it.
fn shop() -> Place {
    let place = Place::new();
    place.site.apply(&format!("{WEB}---\n{POD}"));
    place
}

fn field(place: &Place, path: &str) -> String {
    place.kubectl(&["get", "service", "web", "-n", "shop", "-o", &format!("jsonpath={{{path}}}")])
}

fn it_lists_the_resources() {
    let place = &Place::new();
    let resources = place.kubectl(&["api-resources", "--no-headers"]);
    let mut rows: Vec<Vec<&str>> = resources.lines().map(|line| line.split_whitespace().collect()).collect();
    rows.sort();
    for expected in [
        &["namespaces", "ns", "v1", "false", "Namespace"][..],
        &["nodes", "no", "v1", "false", "Node"],
        &["pods", "po", "v1", "true", "Pod"],
        &["services", "svc", "v1", "true", "Service"],
        &["endpointslices", "discovery.k8s.io/v1", "true", "EndpointSlice"],
    ] {
        assert!(rows.iter().any(|row| row == expected), "{expected:?} is not among\n{resources}");
    }
}

fn it_creates_what_is_typed() {
    let place = &Place::new();
    assert_eq!(place.kubectl(&["create", "namespace", "shop"]), "namespace/shop created\n");
    let create = ["create", "service", "clusterip", "cache", "--tcp=6379:6380", "-n", "shop"];
    assert_eq!(place.kubectl(&create), "service/cache created\n");
    let again = place.kubectl_refused(&create);
    assert!(again.contains("services \"cache\" already exists"), "{again}");
    let cache = place.kubectl_json(&["get", "service", "cache", "-n", "shop"]);
    assert_eq!(cache["spec"]["ports"][0]["targetPort"], 6380);
    assert_eq!(cache["spec"]["selector"]["app"], "cache");
}

fn it_applies_as_the_client_sees_it() {
    let place = &Place::new();
    let file = place.write("web.yaml", WEB);
    assert_eq!(place.kubectl(&["apply", "-f", &file]), "service/web created\n");
    assert_eq!(place.kubectl(&["apply", "-f", &file]), "service/web unchanged\n");
    let changed =
        place.write("changed.yaml", &WEB.replace("tier: front", "side: left").replace("port: 9000", "port: 9001"));
    assert_eq!(place.kubectl(&["apply", "-f", &changed]), "service/web configured\n");
    assert_eq!(field(place, ".metadata.labels"), r#"{"side":"left"}"#, "what the manifest no longer has is gone");
    assert_eq!(field(place, ".spec.ports[*].port"), "80 9001");
    assert_eq!(field(place, ".spec.clusterIP"), "10.96.1.10");
    let pod = place.write("pod.yaml", POD);
    let both = place.kubectl(&["apply", "-f", &changed, "-f", &pod]);
    assert_eq!(both, "service/web unchanged\npod/web-1 created\n");
    let typo = place.write("typo.yaml", &WEB.replace("selector:", "selecter:"));
    let told = place.kubectl_refused(&["apply", "-f", &typo]);
    assert!(told.contains("unknown field \"spec.selecter\""), "{told}");
}

fn it_applies_as_the_server_sees_it() {
    let place = &Place::new();
    let file = place.write("web.yaml", WEB);
    let apply = ["apply", "--server-side", "-f"];
    assert_eq!(place.kubectl(&[&apply[..], &[&file]].concat()), "service/web serverside-applied\n");
    let before = field(place, ".metadata.resourceVersion");
    assert_eq!(place.kubectl(&[&apply[..], &[&file]].concat()), "service/web serverside-applied\n");
    assert_eq!(field(place, ".metadata.resourceVersion"), before, "nothing changed");
    let changed = place.write("changed.yaml", &WEB.replace("port: 9000", "port: 9001"));
    let dry = place.kubectl(&[&apply[..], &[&changed, "--dry-run=server"]].concat());
    assert_eq!(dry, "service/web serverside-applied (server dry run)\n");
    assert_eq!(field(place, ".spec.ports[*].port"), "80 9000");
    place.kubectl(&[&apply[..], &[&changed]].concat());
    assert_eq!(field(place, ".spec.ports[*].port"), "80 9001");
}

fn it_labels_and_annotates() {
    let place = &shop();
    let on_web =
        |words: &[&str]| place.kubectl(&[&words[..1], &["service", "web", "-n", "shop"], &words[1..]].concat());
    assert_eq!(on_web(&["label", "side=left"]), "service/web labeled\n");
    assert_eq!(field(place, ".metadata.labels"), r#"{"side":"left","tier":"front"}"#);
    assert_eq!(on_web(&["label", "tier-"]), "service/web unlabeled\n");
    assert_eq!(field(place, ".metadata.labels"), r#"{"side":"left"}"#);
    let told = place.kubectl_refused(&["label", "service", "web", "-n", "shop", "side=right"]);
    assert!(told.contains("'side' already has a value (left), and --overwrite is false"), "{told}");
    assert_eq!(on_web(&["annotate", "note=by hand"]), "service/web annotated\n");
    assert_eq!(field(place, ".metadata.annotations.note"), "by hand");
}

fn it_patches_in_three_ways() {
    let place = &shop();
    let patch = |kind: &str, patch: &str| {
        place.kubectl(&["patch", "service", "web", "-n", "shop", "--type", kind, "-p", patch])
    };
    // By the ports' own key: the other one stays.
    let strategic = r#"{"spec":{"ports":[{"port":9000,"name":"metrics"}]}}"#;
    assert_eq!(patch("strategic", strategic), "service/web patched\n");
    assert_eq!(field(place, ".spec.ports[*].name"), "http metrics");
    assert_eq!(patch("merge", r#"{"metadata":{"labels":{"tier":null}}}"#), "service/web patched\n");
    assert_eq!(field(place, ".metadata.labels"), "");
    let json = r#"[{"op":"test","path":"/spec/sessionAffinity","value":"None"},
                   {"op":"replace","path":"/spec/sessionAffinity","value":"ClientIP"}]"#;
    assert_eq!(patch("json", json), "service/web patched\n");
    assert_eq!(field(place, ".spec.sessionAffinityConfig.clientIP.timeoutSeconds"), "10800");
    assert_eq!(patch("merge", r#"{"spec":{"sessionAffinity":"ClientIP"}}"#), "service/web patched (no change)\n");
    let failed = place.kubectl_refused(&["patch", "service", "web", "-n", "shop", "--type=json", "-p", json]);
    assert!(failed.contains("value did not match"), "{failed}");
}

fn it_edits_and_replaces() {
    let place = &shop();
    let editor = place.write("editor", "#!/bin/sh\nsed -i 's/port: 9000/port: 9001/' \"$1\"\n");
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let mut command = place.kubectl_command();
    command.args(["edit", "service", "web", "-n", "shop"]).env("KUBE_EDITOR", &editor);
    let output = command.output().expect("started");
    assert_eq!(text(output.stdout), "service/web edited\n", "{}", text(output.stderr));
    assert_eq!(field(place, ".spec.ports[*].port"), "80 9001");

    let stale = place.write("stale.yaml", &place.kubectl(&["get", "service", "web", "-n", "shop", "-o", "yaml"]));
    let file = place.write("web.yaml", WEB);
    assert_eq!(place.kubectl(&["replace", "-f", &file]), "service/web replaced\n");
    assert_eq!(field(place, ".spec.ports[*].port"), "80 9000");
    let told = place.kubectl_refused(&["replace", "-f", &stale]);
    assert!(told.contains("(Conflict)") && told.contains("the object has been modified"), "{told}");
}

fn it_watches_and_waits() {
    let place = &shop();
    let mut command = place.kubectl_command();
    command.args(["get", "services", "-n", "shop", "-w", "--output-watch-events", "--no-headers"]);
    let mut watcher = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("started");
    let mut lines = BufReader::new(watcher.stdout.take().expect("piped")).lines();
    let mut next = || {
        let line = lines.next().expect("it goes on").expect("a line");
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(next(), "ADDED web");
    let cache =
        place.write("cache.yaml", &WEB.replace("name: web", "name: cache").replace("  clusterIP: 10.96.1.10\n", ""));
    place.kubectl(&["label", "service", "web", "-n", "shop", "side=left"]);
    assert_eq!(next(), "MODIFIED web");
    place.kubectl(&["create", "-f", &cache]);
    assert_eq!(next(), "ADDED cache");
    place.kubectl(&["delete", "service", "cache", "-n", "shop"]);
    assert_eq!(next(), "DELETED cache");
    watcher.kill().expect("ours");
    watcher.wait().expect("ours");

    let wait = |words: &[&str]| place.kubectl(&[&["wait", "-n", "shop", "--timeout=20s"], words].concat());
    assert_eq!(wait(&["--for=condition=Ready", "pod/web-1"]), "pod/web-1 condition met\n");
    assert_eq!(wait(&["--for=jsonpath={.spec.clusterIP}=10.96.1.10", "service/web"]), "service/web condition met\n");
    let mut waiting = place.kubectl_command();
    waiting.args(["wait", "-n", "shop", "--timeout=20s", "--for=delete", "service/web"]).stdout(Stdio::piped());
    let waiting = waiting.spawn().expect("started");
    place.kubectl(&["delete", "service", "web", "-n", "shop"]);
    let waited = waiting.wait_with_output().expect("ended");
    assert!(waited.status.success(), "{waited:?}");
    // If it is gone before kubectl has looked for the first time, there was nothing to wait for, and it says nothing.
    let told = text(waited.stdout);
    assert!(told == "service/web condition met\n" || told.is_empty(), "{told}");
}

fn it_shows_differences() {
    let place = &shop();
    let same = place.write("web.yaml", WEB);
    place.kubectl(&["apply", "-f", &same]);
    assert_eq!(place.kubectl(&["diff", "-f", &same]), "");
    let changed = place.write("changed.yaml", &WEB.replace("port: 9000", "port: 9001"));
    let output = place.kubectl_output(&["diff", "-f", &changed]);
    assert_eq!(output.status.code(), Some(1), "{}", text(output.stderr));
    let told = text(output.stdout);
    assert!(told.contains("\n-    port: 9000\n") && told.contains("\n+    port: 9001\n"), "{told}");
    assert_eq!(field(place, ".spec.ports[*].port"), "80 9000", "only shown");
}

fn it_explains_fields() {
    let place = &Place::new();
    let told = place.kubectl(&["explain", "service.spec.ports"]);
    assert!(told.starts_with("KIND:       Service\nVERSION:    v1\n\nFIELD: ports <[]ServicePort>\n"), "{told}");
    assert!(told.contains("\n  nodePort\t<integer>\n") && told.contains("\n  port\t<integer> -required-\n"), "{told}");
    let told = place.kubectl_refused(&["explain", "service.spec.prots"]);
    assert!(told.contains("field \"prots\" does not exist"), "{told}");
    place.kubectl(&["explain", "endpointslices.endpoints.conditions"]);
}

fn it_gets_endpoints() {
    let place = &shop();
    let output = place.kubectl_output(&["get", "endpoints", "-n", "shop"]);
    assert_eq!(
        ageless(&text(output.stdout)),
        "NAME   ENDPOINTS                           AGE\nweb    10.244.1.31:9000,10.244.1.31:8080   -\n"
    );
    let warned = text(output.stderr);
    assert!(warned.is_empty() || warned.starts_with("Warning: v1 Endpoints is deprecated"), "{warned}");
}

fn it_lists_in_pieces_and_deletes_all() {
    let place = &Place::new();
    let service = |n: u32| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: s-{n:02}, namespace: many }}\nspec: {{ ports: [{{ port: 80 }}] }}\n"
        )
    };
    place.site.apply(&(0..25).map(service).collect::<Vec<_>>().join("---\n"));
    let listed = place.kubectl(&["get", "services", "-n", "many", "-o", "name", "--chunk-size=10"]);
    let expected: String = (0..25).map(|n| format!("service/s-{n:02}\n")).collect();
    assert_eq!(listed, expected);
    let deleted = place.kubectl(&["delete", "services", "--all", "-n", "many"]);
    assert_eq!(deleted.lines().count(), 25, "{deleted}");
    assert_eq!(place.kubectl(&["get", "services", "-n", "many", "-o", "name"]), "");
}

fn it_does_not_wait_for_what_comes_back() {
    let place = &Place::new();
    let deleted = place.kubectl(&["delete", "service", "kubernetes", "--timeout=20s"]);
    assert_eq!(deleted, "service \"kubernetes\" deleted from default namespace\n");
    let deleted = place.kubectl(&["delete", "namespace", "kube-node-lease", "--timeout=20s"]);
    assert_eq!(deleted, "namespace \"kube-node-lease\" deleted\n");
    place.kubectl(&["get", "service/kubernetes", "namespace/kube-node-lease"]);
}

fn what_needs_a_kubelet_fails_with_a_word() {
    let place = &shop();
    for (words, absent) in [
        (&["logs", "web-1"][..], "pods/log"),
        (&["exec", "web-1", "--", "true"], "pods/exec"),
        (&["port-forward", "pod/web-1", "8080"], "pods/portforward"),
        (&["debug", "web-1", "--image=busybox"], "pods/ephemeralcontainers"),
        (&["scale", "service/web", "--replicas=2"], "services/scale"),
    ] {
        let told = place.kubectl_refused(&[&["-n", "shop"], words].concat());
        assert!(told.contains(&format!("{absent} is not served here")), "{words:?}: {told}");
    }
    let told = place.kubectl_refused(&["rollout", "status", "deployment/web", "-n", "shop"]);
    assert_eq!(told, "error: the server doesn't have a resource type \"deployment\"\n");
    let bulk = place.kubectl(&["api-resources", "--verbs=deletecollection", "-o", "name"]);
    assert!(bulk.lines().any(|line| line == "services") && !bulk.contains("namespaces"), "{bulk}");
}

fn replace_makes_what_is_not_there() {
    let place = &shop();
    let file = place.write("new.yaml", &WEB.replace("name: web", "name: new").replace("10.96.1.10", "10.96.1.12"));
    assert_eq!(place.kubectl(&["replace", "-f", &file]), "service/new replaced\n");
    assert_eq!(place.kubectl(&["get", "service", "new", "-n", "shop", "-o", "name"]), "service/new\n");
}

fn the_python_client_watches_pages_and_patches() {
    let place = &Place::new();
    assert_eq!(place.python("watch.py"), "all as it should be\n");
}

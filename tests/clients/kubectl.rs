//! kubectl: reading and printing, creating, deleting, and being told what is wrong.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;

use crate::clients::support::{Place, ageless, text};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Kubectl, Lab};

tests! {
    [Lab, Kubectl] =>
        it_finds_out_what_there_is,
        get_prints_the_tables,
        get_prints_for_programs,
        describe_tells_a_service,
        it_creates_and_deletes,
        it_is_told_what_is_wrong,
        a_kubeconfig_from_a_pipe_will_do,
        another_token_or_ca_is_refused;
}

/// What the tests here look at, in a namespace of its own.
const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop, labels: { tier: front } }
spec:
  type: NodePort
  clusterIP: 10.96.1.10
  selector: { app: web, version: v1 }
  ports:
    - { name: http, port: 80, targetPort: web, nodePort: 30090 }
    - { name: dns, protocol: UDP, port: 53, targetPort: 5353, nodePort: 30091 }
---
apiVersion: v1
kind: Service
metadata: { name: db, namespace: shop }
spec: { clusterIP: None, selector: { app: db }, ports: [{ port: 5432 }] }
---
apiVersion: v1
kind: Service
metadata: { name: lb, namespace: shop }
spec:
  type: LoadBalancer
  clusterIP: 10.96.1.11
  loadBalancerIP: 192.168.50.205
  selector: { app: web }
  ports: [{ port: 443, nodePort: 30092 }]
---
apiVersion: v1
kind: Service
metadata: { name: ext, namespace: shop }
spec: { type: ExternalName, externalName: ext.example.com }
---
apiVersion: v1
kind: Pod
metadata: { name: web-1, namespace: shop, labels: { app: web, version: v1 } }
spec: { nodeName: node-1, containers: [{ name: c, image: web, ports: [{ name: web, containerPort: 8080 }] }] }
status:
  phase: Running
  podIP: 10.244.1.31
  podIPs: [{ ip: 10.244.1.31 }]
  conditions: [{ type: Ready, status: "True" }]
---
apiVersion: v1
kind: Pod
metadata: { name: web-2, namespace: shop, labels: { app: web, version: v1 } }
spec: { nodeName: node-2, containers: [{ name: c, image: web, ports: [{ name: web, containerPort: 8080 }] }] }
status:
  phase: Running
  podIP: 10.244.2.32
  podIPs: [{ ip: 10.244.2.32 }]
  conditions: [{ type: Ready, status: "False" }]
"#;

fn shop() -> Place {
    let place = Place::new();
    place.site.apply(SHOP);
    place
}

fn it_finds_out_what_there_is() {
    let place = &Place::new();
    let output = place.kubectl_output(&["version"]);
    let told = text(output.stdout);
    assert!(output.status.success() && told.contains("\nServer Version: v1.36.0+pollgate-"), "{told}");
    let versions = place.kubectl(&["api-versions"]);
    assert!(["v1", "discovery.k8s.io/v1"].iter().all(|one| versions.lines().any(|line| line == *one)), "{versions}");
    assert!(place.kubectl(&["cluster-info"]).contains("https://127.0.0.1:6443"));
    assert_eq!(place.kubectl(&["config", "current-context"]), "pollgate\n");
    assert_eq!(place.kubectl(&["get", "--raw", "/readyz"]), "ok");
    assert_eq!(place.kubectl(&["auth", "can-i", "create", "services"]), "yes\n");
    assert!(place.kubectl(&["auth", "can-i", "--list"]).contains("*.*"));
    assert_eq!(place.kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.groups[0]}"]), "system:masters");
}

fn get_prints_the_tables() {
    let place = &shop();
    let get = |words: &[&str]| ageless(&place.kubectl(&[&["get", "-n", "shop"], words].concat()));
    assert_eq!(
        get(&["services"]),
        "\
NAME   TYPE           CLUSTER-IP   EXTERNAL-IP       PORT(S)                     AGE
db     ClusterIP      None         <none>            5432/TCP                    -
ext    ExternalName   <none>       ext.example.com   <none>                      -
lb     LoadBalancer   10.96.1.11   192.168.50.205    443:30092/TCP               -
web    NodePort       10.96.1.10   <none>            80:30090/TCP,53:30091/UDP   -
"
    );
    assert_eq!(
        get(&["svc", "web", "-o", "wide"]),
        "\
NAME   TYPE       CLUSTER-IP   EXTERNAL-IP   PORT(S)                     AGE   SELECTOR
web    NodePort   10.96.1.10   <none>        80:30090/TCP,53:30091/UDP   -     app=web,version=v1
"
    );
    assert_eq!(get(&["svc", "-l", "tier=front", "--no-headers", "-o", "custom-columns=N:.metadata.name"]), "web\n");
    let slices = get(&["endpointslices", "-l", "kubernetes.io/service-name=web"]);
    let (header, row) = slices.split_once('\n').expect("a row");
    let columns: Vec<_> = header.split_whitespace().collect();
    assert_eq!(columns, ["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]);
    let cells: Vec<_> = row.split_whitespace().collect();
    assert!(cells[0].starts_with("web-"), "{slices}");
    assert_eq!(cells[1..], ["IPv4", "8080,5353", "10.244.1.31,10.244.2.32", "-"]);
    let everywhere = place.kubectl(&["get", "services", "-A"]);
    assert!(everywhere.starts_with("NAMESPACE   NAME "), "{everywhere}");
    for row in ["default     backend-service ", "shop        web "] {
        assert!(everywhere.lines().any(|line| line.starts_with(row)), "{everywhere}");
    }
    let both = place.kubectl(&["get", "-n", "shop", "svc/web", "pod/web-1"]);
    assert!(both.contains("\nservice/web ") && both.contains("\npod/web-1 "), "{both}");
}

fn get_prints_for_programs() {
    let place = &shop();
    let get = |words: &[&str]| place.kubectl(&[&["get", "-n", "shop"], words].concat());
    assert_eq!(get(&["services", "-o", "name"]), "service/db\nservice/ext\nservice/lb\nservice/web\n");
    assert_eq!(get(&["svc", "web", "-o", "jsonpath={.spec.clusterIP} {.spec.ports[*].port}"]), "10.96.1.10 80 53");
    assert_eq!(
        get(&["svc", "-o", "custom-columns=NAME:.metadata.name,IP:.spec.clusterIP", "--sort-by=.spec.clusterIP"]),
        "NAME   IP\next    <none>\nweb    10.96.1.10\nlb     10.96.1.11\ndb     None\n"
    );
    assert_eq!(get(&["svc", "web", "-o", "go-template={{.spec.type}}"]), "NodePort");
    let one = place.kubectl_json(&["get", "-n", "shop", "service", "web"]);
    assert_eq!(
        (&one["kind"], &one["apiVersion"], &one["metadata"]["name"]),
        (&"Service".into(), &"v1".into(), &"web".into())
    );
    let list = place.kubectl_json(&["get", "-n", "shop", "pods", "--field-selector", "metadata.name!=web-1"]);
    assert_eq!(list["kind"], "List");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["items"][0]["status"]["podIP"], "10.244.2.32");
    let yaml = get(&["svc", "ext", "-o", "yaml"]);
    assert!(yaml.starts_with("apiVersion: v1\nkind: Service\nmetadata:\n"), "{yaml}");
    assert!(yaml.contains("\nspec:\n  externalName: ext.example.com\n"), "{yaml}");
}

fn describe_tells_a_service() {
    let place = &shop();
    let told = place.kubectl(&["describe", "service", "web", "-n", "shop"]);
    let fields: Vec<String> = told
        .lines()
        .filter(|line| !line.starts_with("Annotations:") && line.starts_with(|first: char| first.is_ascii_uppercase()))
        .map(str::to_owned)
        .collect();
    let expected = "\
Name:                     web
Namespace:                shop
Labels:                   tier=front
Selector:                 app=web,version=v1
Type:                     NodePort
IP Family Policy:         SingleStack
IP Families:              IPv4
IP:                       10.96.1.10
IPs:                      10.96.1.10
Port:                     http  80/TCP
TargetPort:               web/TCP
NodePort:                 http  30090/TCP
Endpoints:                10.244.1.31:8080
Port:                     dns  53/UDP
TargetPort:               5353/UDP
NodePort:                 dns  30091/UDP
Endpoints:                10.244.1.31:5353
Session Affinity:         None
External Traffic Policy:  Cluster
Internal Traffic Policy:  Cluster
Events:                   <none>";
    assert_eq!(fields.join("\n"), expected);
    let load_balancer = place.kubectl(&["describe", "service", "lb", "-n", "shop"]);
    assert!(load_balancer.contains("\nDesired LoadBalancer IP:  192.168.50.205\n"), "{load_balancer}");
    assert!(load_balancer.contains("\nLoadBalancer Ingress:     192.168.50.205 (VIP)\n"), "{load_balancer}");
    // Its own command prints the same.
    let own = place.site.cli(&["describe", "service", "web", "-n", "shop"]).expect("described");
    assert_eq!(own, told);
}

fn it_creates_and_deletes() {
    let place = &shop();
    let manifest = "apiVersion: v1\nkind: Service\nmetadata: { name: queue }\nspec: { ports: [{ port: 5672 }] }\n";
    let file = place.write("queue.yaml", manifest);
    let created = place.kubectl(&["create", "-f", &file, "-n", "shop", "--validate=false"]);
    assert_eq!(created, "service/queue created\n");
    let again = place.kubectl_refused(&["create", "-f", &file, "-n", "shop", "--validate=false"]);
    assert!(again.contains("services \"queue\" already exists"), "{again}");
    let queue = place.kubectl_json(&["get", "service", "queue", "-n", "shop"]);
    assert_eq!(queue["spec"]["ports"][0]["targetPort"], 5672, "defaulted");
    assert!(queue["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.96.")), "{queue}");
    let dry = place.kubectl(&["delete", "-f", &file, "-n", "shop", "--dry-run=server"]);
    assert_eq!(dry, "service \"queue\" deleted from shop namespace (server dry run)\n");
    let deleted = place.kubectl(&["delete", "-f", &file, "-n", "shop", "--wait=false"]);
    assert_eq!(deleted, "service \"queue\" deleted from shop namespace\n");
    let deleted = place.kubectl(&["delete", "service", "db", "-n", "shop", "--wait=false"]);
    assert_eq!(deleted, "service \"db\" deleted from shop namespace\n");
    for name in ["queue", "db"] {
        let gone = place.kubectl_refused(&["get", "service", name, "-n", "shop"]);
        assert_eq!(gone, format!("Error from server (NotFound): services \"{name}\" not found\n"));
    }
    let nothing = place.kubectl(&["delete", "service", "db", "-n", "shop", "--ignore-not-found"]);
    assert_eq!(nothing, "");
}

fn it_is_told_what_is_wrong() {
    let place = &shop();
    let manifest = "apiVersion: v1\nkind: Service\nmetadata: { name: bad }\nspec: { ports: [{ port: 70000 }] }\n";
    let file = place.write("bad.yaml", manifest);
    let told = place.kubectl_refused(&["create", "-f", &file, "-n", "shop", "--validate=false"]);
    // As from kube-apiserver: a target port that is not given is the port, and is as wrong.
    let range = "Invalid value: 70000: must be between 1 and 65535, inclusive";
    let faults = format!("* spec.ports[0].port: {range}\n* spec.ports[0].targetPort: {range}\n");
    assert_eq!(told, format!("The Service \"bad\" is invalid: \n{faults}"));
    let unknown = place.kubectl_refused(&["get", "deployments"]);
    assert_eq!(unknown, "error: the server doesn't have a resource type \"deployments\"\n");
    let output = place.kubectl_output(&["get", "services", "-n", "empty"]);
    assert_eq!(text(output.stderr), "No resources found in empty namespace.\n");
}

fn a_kubeconfig_from_a_pipe_will_do() {
    let place = &Place::new();
    // As the shell does for `kubectl --kubeconfig <(pollgate kubeconfig)`: a pipe that can be read once.
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let text = place.site.cli(&["kubeconfig"]).expect("printed");
    std::io::Write::write_all(&mut writer, text.as_bytes()).expect("it fits the pipe");
    drop(writer);
    let mut command = place.kubectl_command_with(&format!("/dev/fd/{}", reader.as_raw_fd()));
    command.args(["get", "service", "backend-service", "-o", "name"]);
    let fd = reader.as_raw_fd();
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let output = command.output().expect("started");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "service/backend-service\n", "{told}");
}

fn another_token_or_ca_is_refused() {
    let place = &Place::new();
    let text = fs::read_to_string(place.kubeconfig()).expect("the kubeconfig");
    let token = text.lines().find_map(|line| line.trim().strip_prefix("token: ")).expect("a token");
    let refused = |name: &str, text: &str| {
        let file = place.write(name, text);
        let output = place.kubectl_command_with(&file).args(["get", "services"]).output().expect("started");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = refused("token", &text.replace(token, &"f".repeat(64)));
    assert!(told.contains("You must be logged in to the server"), "{told}");
    let without_ca: String = text
        .lines()
        .filter(|line| !line.contains("certificate-authority-data"))
        .map(|line| format!("{line}\n"))
        .collect();
    let told = refused("ca", &without_ca);
    assert!(told.contains("certificate signed by unknown authority"), "{told}");
}

//! `describe` by kubectl and by pollgate: byte for byte the same for Services, their endpoints, Namespaces and Events.

use std::process::Command;

use crate::clients::support::{Place, ageless, text};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Kubectl, Lab};

tests! {
    [Lab, Kubectl] =>
        services_and_their_endpoints_read_the_same,
        pods_and_nodes_are_described_field_by_field,
        dates_are_in_the_time_zone_of_the_reader,
        namespaces_read_the_same,
        events_are_told_with_their_object_and_read_the_same;
}

/// Services of every type, an Endpoints object and a slice with a text in nearly every line of their descriptions.
const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: rich
  namespace: shop
  labels: { app: web, tier: front }
  annotations: { note: by hand }
spec:
  type: LoadBalancer
  clusterIP: 10.96.1.20
  loadBalancerIP: 192.168.50.207
  externalIPs: [192.168.50.208]
  externalTrafficPolicy: Local
  healthCheckNodePort: 30299
  loadBalancerSourceRanges: [192.168.0.0/16, 10.0.0.0/8]
  sessionAffinity: ClientIP
  trafficDistribution: PreferClose
  selector: { app: web }
  ports:
    - { name: http, port: 80, targetPort: web, nodePort: 30290, appProtocol: http }
    - { name: dns, protocol: UDP, port: 53, targetPort: 5353, nodePort: 30291 }
---
apiVersion: v1
kind: Service
metadata: { name: alias, namespace: shop }
spec: { type: ExternalName, externalName: ext.example.com }
---
apiVersion: v1
kind: Service
metadata: { name: written, namespace: shop }
spec: { clusterIP: None, ports: [{ port: 5432 }] }
---
apiVersion: v1
kind: Endpoints
metadata: { name: written, namespace: shop }
subsets:
  - addresses: [{ ip: 10.244.9.1 }, { ip: 10.244.9.2, nodeName: node-1 }]
    notReadyAddresses: [{ ip: 10.244.9.3 }]
    ports: [{ port: 5432 }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: by-hand, namespace: shop, labels: { kubernetes.io/service-name: written, of: tests } }
addressType: IPv4
ports: [{ name: http, port: 80, protocol: TCP }, { name: all, protocol: UDP }]
endpoints:
  - { addresses: [10.244.9.4], conditions: { ready: true }, hostname: h, nodeName: n1, zone: z, targetRef: { kind: Pod, name: web-1 } }
  - { addresses: [10.244.9.5] }
---
apiVersion: v1
kind: Pod
metadata: { name: web-1, namespace: shop, labels: { app: web } }
spec: { nodeName: node-1, containers: [{ name: c, image: c, ports: [{ name: web, containerPort: 8080 }] }] }
status: { phase: Running, podIP: 10.244.1.90, podIPs: [{ ip: 10.244.1.90 }], conditions: [{ type: Ready, status: "True" }] }
"#;

const NAMESPACES: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: marked
  labels: { team: web, env: test }
  annotations:
    note: by hand
    long: "0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789"
    page: "one\n\n  two\nthree\n"
    red: "\e[31mred\e[0m"
status:
  phase: Active
  conditions:
    - { type: NamespaceContentRemaining, status: "True", reason: SomeResourcesRemain, message: there is more }
    - { type: NamespaceFinalizersRemaining, status: "False", lastTransitionTime: "2026-01-02T03:04:05Z" }
---
apiVersion: v1
kind: Namespace
metadata: { name: plain }
"#;

/// Both descriptions, taken anew while a second passed between them.
#[track_caller]
fn same(place: &Place, words: &[&str]) -> String {
    let words = [&["describe"], words].concat();
    let mut own = String::new();
    // Byte for byte, but for ages: the two are asked one after the other. While one gets another digit, columns may differ.
    for _ in 0..20 {
        own = place.site.cli(&words).expect("described");
        if ageless(&own) == ageless(&place.kubectl(&words)) {
            return own;
        }
    }
    let theirs = place.kubectl(&words);
    let differing: Vec<_> = own.lines().zip(theirs.lines()).filter(|(own, theirs)| own != theirs).collect();
    panic!("{words:?}: {} lines and {}; (own, kubectl's) {differing:#?}", own.lines().count(), theirs.lines().count());
}

fn uid(place: &Place, words: &[&str]) -> String {
    place.kubectl(&[&["get"], words, &["-o", "jsonpath={.metadata.uid}"]].concat())
}

/// Of an object, by the uid that whoever wrote it knew.
fn event(name: &str, kind: &str, about: &str, namespace: &str, uid: &str) -> String {
    let place = if namespace.is_empty() { "default" } else { namespace };
    format!(
        r#"
apiVersion: v1
kind: Event
metadata: {{ name: {name}, namespace: {place} }}
type: Warning
reason: Failing
message: " told\nin two lines "
count: 3
firstTimestamp: "2026-01-02T03:04:05Z"
lastTimestamp: "2026-01-03T03:04:05Z"
source: {{ component: kubelet, host: big }}
involvedObject: {{ kind: {kind}, name: {about}, namespace: "{namespace}", uid: "{uid}" }}
---
"#
    )
}

fn services_and_their_endpoints_read_the_same() {
    let place = &Place::new();
    place.site.apply(SERVICES);
    let described = same(place, &["service", "rich", "-n", "shop"]);
    assert!(described.contains("10.244.1.90:8080\n"), "{described}");
    same(place, &["services", "-n", "shop"]);
    same(place, &["endpoints", "-n", "shop"]);
    same(place, &["endpointslice", "by-hand", "-n", "shop"]);
}

/// kubectl has more about them; here everything the object says is there.
fn pods_and_nodes_are_described_field_by_field() {
    let place = &Place::new();
    place.site.apply(SERVICES);
    let described = place.site.cli(&["describe", "pod", "web-1", "-n", "shop"]).expect("described");
    for line in ["Name: web-1", "Labels: app=web", "Pod IP: 10.244.1.90", "- Container Port: 8080", "Name: web"] {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(described.lines().any(|other| words(other) == line), "{line:?} is missing in\n{described}");
    }
    let described = place.site.cli(&["describe", "node", "node-1"]).expect("described");
    assert!(described.starts_with("Name:") && described.contains("Kind:         Node\n"), "{described}");
}

fn dates_are_in_the_time_zone_of_the_reader() {
    let place = &Place::new();
    place.site.apply(NAMESPACES);
    let words = ["describe", "namespace", "marked"];
    let told = |mut command: Command| {
        let output = command.args(words).env("TZ", "Asia/Kolkata").output().expect("started");
        assert!(output.status.success(), "{}", text(output.stderr));
        text(output.stdout)
    };
    let mut own = Command::new(env!("CARGO_BIN_EXE_pollgate"));
    own.env("POLLGATE_SOCKET", place.site.socket());
    let own = told(own);
    assert_eq!(own, told(place.kubectl_command()));
    assert!(own.contains("Fri, 02 Jan 2026 08:34:05 +0530"), "is tzdata installed? {own}");
}

fn namespaces_read_the_same() {
    let place = &Place::new();
    place.site.apply(NAMESPACES);
    for name in ["marked", "plain", "kube-system"] {
        same(place, &["namespace", name]);
    }
}

fn events_are_told_with_their_object_and_read_the_same() {
    let place = &Place::new();
    place.site.apply(SERVICES);
    let service = uid(place, &["service", "written", "-n", "shop"]);
    let events = [
        event("e1", "Service", "written", "shop", &service),
        event("e2", "Service", "written", "shop", "of-its-forerunner"),
    ];
    place.site.apply(&events.concat());
    let told = same(place, &["service", "written", "-n", "shop"]);
    assert_eq!(told.matches("Failing").count(), 1, "{told}");
    assert!(same(place, &["event", "e1", "-n", "shop"]).contains("\nInvolved Object:\n"));
    // An Event about a Node may name it by its uid or by its name.
    let node = uid(place, &["node", "node-1"]);
    let events = [event("e3", "Node", "node-1", "", &node), event("e4", "Node", "node-1", "", "node-1")];
    place.site.apply(&events.concat());
    let told = place.site.cli(&["describe", "node", "node-1"]).expect("described");
    assert_eq!(told.matches("Failing").count(), 2, "{told}");
}

//! `describe` in kubectl's words and in our own: of the same objects, byte for byte the same.

use std::process::Command;

use crate::clients::support::{Place, ageless, text};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Kubectl, Lab};

tests! {
    [Lab, Kubectl] =>
        pods_read_the_same,
        a_terminating_pod_reads_the_same,
        nodes_read_the_same,
        dates_are_in_the_time_zone_of_the_reader,
        namespaces_read_the_same,
        events_are_told_with_their_object_and_read_the_same;
}

/// A Pod that has something to say in nearly every line of its description, one that is told of and has nothing to say, and one
/// that is on its way out.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: rich
  namespace: shop
  labels: { app: web, tier: front }
  annotations:
    note: by hand
    long: "0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789"
    page: "one\n\n  two\nthree\n"
    red: "\e[31mred\e[0m"
  ownerReferences:
    - { apiVersion: apps/v1, kind: Watcher, name: other, uid: u-0 }
    - { apiVersion: apps/v1, kind: ReplicaSet, name: web-5d8, uid: u-1, controller: true }
spec:
  priority: 1000
  priorityClassName: high
  runtimeClassName: gvisor
  serviceAccountName: web
  nodeName: big
  securityContext: { seccompProfile: { type: Localhost, localhostProfile: web.json } }
  overhead: { cpu: 10m, memory: 16Mi }
  nodeSelector: { zone: a, disk: fast }
  readinessGates: [{ conditionType: example.com/warm }, { conditionType: Ready }]
  tolerations:
    - { key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 300 }
    - { key: dedicated, operator: Equal, value: web, effect: NoSchedule }
    - { key: any, operator: Exists }
    - { operator: Exists }
  topologySpreadConstraints:
    - { maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: { matchLabels: { app: web } } }
    - maxSkew: 2
      topologyKey: host
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: { b: "2" }
        matchExpressions:
          - { key: a, operator: In, values: [y, x] }
          - { key: c, operator: NotIn, values: [z] }
          - { key: d, operator: Exists }
          - { key: e, operator: DoesNotExist }
    - { maxSkew: 3, topologyKey: rack, whenUnsatisfiable: ScheduleAnyway }
  initContainers:
    - name: prepare
      image: prepare:1
      command: [sh, -c, "echo one\necho two"]
      resources: { requests: { cpu: "2", memory: 64Mi } }
      volumeMounts: [{ name: scratch, mountPath: /scratch }]
    - name: sidecar
      image: proxy:2
      restartPolicy: Always
      resources: { limits: { cpu: 200m, memory: 128Mi }, requests: { cpu: 100m, memory: 128Mi } }
  containers:
    - name: web
      image: registry.example.com/web:3
      command: [/web]
      args: [--listen, ":8080"]
      ports:
        - { name: http, containerPort: 8080, protocol: TCP }
        - { name: dns, containerPort: 53, hostPort: 5353, protocol: UDP }
      securityContext: { seccompProfile: { type: RuntimeDefault } }
      resources:
        limits: { cpu: "1.5", memory: 1024Mi, example.com/gpu: 2, ephemeral-storage: 2G, hugepages-2Mi: 4Mi }
        requests: { cpu: 0.5, memory: 512Mi, example.com/gpu: 2, ephemeral-storage: 1e9, hugepages-2Mi: 4Mi }
      livenessProbe:
        httpGet: { path: "/live?z=a b/ü", port: 8080, scheme: HTTP }
        initialDelaySeconds: 5
        timeoutSeconds: 1
        periodSeconds: 10
        successThreshold: 1
        failureThreshold: 3
      readinessProbe: { exec: { command: [cat, /ready now] } }
      startupProbe: { tcpSocket: { port: http } }
      envFrom:
        - { configMapRef: { name: settings } }
        - { prefix: KEY_, secretRef: { name: keys, optional: true } }
      env:
        - { name: PLAIN, value: text }
        - { name: EMPTY }
        - { name: LINES, value: "one\ntwo\n" }
        - { name: TABS, value: "one\ttwo" }
        - { name: NAME, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: metadata.name } } }
        - { name: NAMESPACE, valueFrom: { fieldRef: { fieldPath: metadata.namespace } } }
        - { name: UID, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: metadata.uid } } }
        - { name: APP, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: "metadata.labels['app']" } } }
        - { name: IP, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: status.podIP } } }
        - { name: CPU, valueFrom: { resourceFieldRef: { resource: limits.cpu } } }
        - { name: CPU_MILLI, valueFrom: { resourceFieldRef: { resource: requests.cpu, divisor: 1m } } }
        - { name: MEMORY, valueFrom: { resourceFieldRef: { resource: limits.memory, divisor: 1Mi } } }
        - { name: PAGES, valueFrom: { resourceFieldRef: { resource: limits.hugepages-2Mi } } }
        - { name: STORAGE, valueFrom: { resourceFieldRef: { resource: requests.ephemeral-storage } } }
        - { name: PASSWORD, valueFrom: { secretKeyRef: { name: keys, key: password } } }
        - { name: COLOUR, valueFrom: { configMapKeyRef: { name: settings, key: colour, optional: true } } }
      volumeMounts:
        - { name: token, mountPath: /var/run/secrets, readOnly: true }
        - { name: settings, mountPath: /etc/settings, subPath: deep/file }
        - { name: scratch, mountPath: /scratch }
    - name: helper
      image: helper:4
      ports: [{ containerPort: 9000, protocol: TCP }]
      livenessProbe: { httpGet: { port: status, host: "::1", path: live, scheme: HTTPS } }
      readinessProbe: { grpc: { port: 9001, service: "" } }
      startupProbe: { tcpSocket: { host: localhost, port: 9002 } }
      env: [{ name: NO_LIMIT, valueFrom: { resourceFieldRef: { resource: limits.memory } } }]
      volumeDevices: [{ name: disk, devicePath: /dev/b }, { name: disk, devicePath: /dev/a }]
    - { name: waiting, image: "waiting:5" }
    - { name: ended, image: "ended:6" }
  ephemeralContainers:
    - { name: debugger, image: "debug:7", targetContainerName: web, stdin: true, tty: true }
  volumes:
    - { name: scratch, emptyDir: {} }
    - { name: cache, emptyDir: { medium: Memory, sizeLimit: 1.5Gi } }
    - { name: settings, configMap: { name: settings } }
    - { name: keys, secret: { secretName: keys, optional: true } }
    - { name: logs, hostPath: { path: /var/log, type: Directory } }
    - { name: root, hostPath: { path: / } }
    - name: token
      projected:
        sources:
          - serviceAccountToken: { path: token, expirationSeconds: 3607 }
          - configMap: { name: kube-root-ca.crt, optional: true }
          - secret: { name: keys }
          - downwardAPI: { items: [{ path: name, fieldRef: { apiVersion: v1, fieldPath: metadata.name } }] }
    - name: self
      downwardAPI:
        items:
          - { path: labels, fieldRef: { apiVersion: v1, fieldPath: metadata.labels } }
          - { path: cpu, resourceFieldRef: { containerName: web, resource: limits.cpu } }
    - { name: disk, persistentVolumeClaim: { claimName: disk, readOnly: true } }
    - { name: share, nfs: { server: 10.0.0.9, path: /share } }
    - { name: driven, csi: { driver: csi.example.com, fsType: ext4, readOnly: true, volumeAttributes: { b: "2", a: "1" } } }
    - { name: idle, csi: { driver: csi.example.com } }
    - { name: art, image: { reference: "art:8", pullPolicy: Always } }
status:
  phase: Running
  reason: Testing
  message: "all is well,\nas far as is known"
  hostIP: 192.168.7.1
  podIP: 10.244.1.40
  podIPs: [{ ip: 10.244.1.40 }, { ip: "fd00::40" }]
  nominatedNodeName: other
  startTime: "2026-01-02T03:04:05Z"
  conditions:
    - { type: Initialized, status: "True" }
    - { type: Ready, status: "False" }
    - { type: PodReadyToStartContainers, status: Unknown }
  initContainerStatuses:
    - name: prepare
      image: prepare:1
      imageID: sha256:prepare
      containerID: containerd://prepare
      ready: true
      restartCount: 0
      state:
        terminated: { exitCode: 0, reason: Completed, startedAt: "2026-01-02T03:04:05Z", finishedAt: "2026-01-02T03:04:06Z" }
  containerStatuses:
    - name: web
      image: web:3
      imageID: sha256:web
      containerID: containerd://web
      ready: true
      restartCount: 2
      state: { running: { startedAt: "2026-01-02T03:04:07Z" } }
      lastState:
        terminated:
          exitCode: 137
          signal: 9
          reason: OOMKilled
          message: too much
          startedAt: "2026-01-02T03:04:05Z"
    - name: waiting
      image: waiting:5
      imageID: ""
      ready: false
      restartCount: 0
      state: { waiting: { reason: ImagePullBackOff, message: no such image } }
    - { name: ended, image: "ended:6", imageID: "", ready: false, restartCount: 7, lastState: { waiting: {} } }
  ephemeralContainerStatuses:
    - { name: debugger, image: "debug:7", imageID: "", ready: false, restartCount: 0, state: { running: {} } }
---
apiVersion: v1
kind: Pod
metadata: { name: bare, namespace: shop }
spec: { containers: [{ name: c }] }
---
apiVersion: v1
kind: Pod
metadata: { name: stuck, namespace: shop, deletionTimestamp: "2026-01-02T03:04:05Z", deletionGracePeriodSeconds: 30 }
spec: { containers: [{ name: c }] }
---
apiVersion: v1
kind: Pod
metadata: { name: guaranteed, namespace: other }
spec:
  nodeName: big
  containers:
    - name: a
      image: a
      resources: { limits: { cpu: 290m, memory: 1Gi }, requests: { cpu: 290m, memory: 1Gi } }
    - name: b
      image: b
      resources: { limits: { cpu: "1", memory: 512Mi }, requests: { cpu: 1000m, memory: 0.5Gi } }
status: { phase: Pending }
---
apiVersion: v1
kind: Pod
metadata: { name: sized, namespace: other }
spec:
  nodeName: big
  resources: { limits: { cpu: "3" }, requests: { cpu: "2", memory: 3Gi } }
  containers: [{ name: a, image: a, resources: { requests: { cpu: 250m } } }]
---
apiVersion: v1
kind: Pod
metadata: { name: resized, namespace: other }
spec:
  nodeName: big
  containers:
    - { name: a, image: a, resources: { requests: { cpu: 100m }, limits: { cpu: 100m } } }
    - { name: b, image: b, resources: { requests: { cpu: 400m, memory: 1Mi }, limits: { cpu: 400m } } }
status:
  phase: Running
  containerStatuses:
    - name: a
      image: a
      imageID: a
      ready: true
      restartCount: 0
      allocatedResources: { cpu: 150m }
      resources: { requests: { cpu: 200m }, limits: { cpu: 300m } }
    - name: b
      image: b
      imageID: b
      ready: true
      restartCount: 0
      allocatedResources: { cpu: 60m, memory: 3Mi }
      resources: { requests: { cpu: 50m, memory: 2Mi } }
---
apiVersion: v1
kind: Pod
metadata: { name: too-big, namespace: other }
spec:
  nodeName: big
  containers:
    - { name: a, image: a, resources: { requests: { cpu: 800m }, limits: { cpu: 800m } } }
    - { name: b, image: b, resources: { requests: { cpu: 400m, memory: 1Mi }, limits: { cpu: 400m } } }
status:
  conditions: [{ type: PodResizePending, status: "True", reason: Infeasible }]
  containerStatuses:
    - name: a
      image: a
      imageID: a
      ready: true
      restartCount: 0
      allocatedResources: { cpu: 150m }
      resources: { requests: { cpu: 200m }, limits: { cpu: 300m } }
---
apiVersion: v1
kind: Pod
metadata: { name: over, namespace: other }
spec: { nodeName: big, containers: [{ name: a, image: a, resources: { requests: { cpu: 7 } } }] }
status: { phase: Succeeded }
---
apiVersion: v1
kind: Pod
metadata: { name: lost, namespace: other }
spec: { nodeName: unknown, containers: [{ name: a, image: a, resources: { requests: { cpu: 7 } } }] }
status: { phase: Running }
"#;

const NODES: &str = r#"
apiVersion: v1
kind: Node
metadata:
  name: big
  labels: { node-role.kubernetes.io/worker: "", kubernetes.io/role: edge, kubernetes.io/hostname: big }
  annotations: { note: by hand }
spec:
  podCIDR: 10.244.1.0/24
  podCIDRs: [10.244.1.0/24, "fd00:1::/64"]
  providerID: metal://big
  unschedulable: true
  taints:
    - { key: dedicated, value: web, effect: NoSchedule }
    - { key: down, effect: NoExecute, timeAdded: "2026-01-02T03:04:05Z" }
    - { key: busy, effect: NoSchedule }
status:
  addresses:
    - { type: InternalIP, address: 192.168.7.1 }
    - { type: Hostname, address: big }
  capacity: { cpu: "8", memory: 32780412Ki, pods: "110", ephemeral-storage: 100Gi, hugepages-2Mi: 8Mi, example.com/gpu: "4" }
  allocatable: { cpu: 7900m, memory: 31Gi, pods: "110", ephemeral-storage: "99000000000", hugepages-2Mi: 8Mi, example.com/gpu: "4" }
  conditions:
    - type: MemoryPressure
      status: "False"
      lastHeartbeatTime: "2026-01-02T03:04:05Z"
      lastTransitionTime: "2026-01-01T03:04:05Z"
      reason: KubeletHasSufficientMemory
      message: kubelet has sufficient memory available
    - { type: Ready, status: "True" }
  nodeInfo:
    architecture: amd64
    bootID: b-1
    containerRuntimeVersion: containerd://2.1.0
    kernelVersion: 6.18.0
    kubeProxyVersion: v1.37.0
    kubeletVersion: v1.37.0
    machineID: m-1
    operatingSystem: linux
    osImage: Linux
    systemUUID: s-1
---
apiVersion: v1
kind: Node
metadata: { name: small }
---
apiVersion: v1
kind: Node
metadata: { name: half }
status:
  capacity: { cpu: "1" }
  nodeInfo:
    { architecture: "", bootID: "", containerRuntimeVersion: "", kernelVersion: "", kubeProxyVersion: "", kubeletVersion: "",
      machineID: "", operatingSystem: "", osImage: "", systemUUID: "" }
---
apiVersion: v1
kind: Pod
metadata: { name: alone, namespace: other }
spec: { nodeName: small, containers: [{ name: a, image: a, resources: { requests: { cpu: 100m, memory: 1Mi } } }] }
"#;

const NAMESPACES: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: marked, labels: { team: web, env: test }, annotations: { note: by hand } }
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
    for _ in 0..5 {
        own = place.site.cli(&words).expect("described");
        if own == place.kubectl(&words) {
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

fn pods_read_the_same() {
    let place = &Place::new();
    place.site.apply(&format!("{PODS}---{NODES}"));
    let told = same(place, &["pod", "rich", "-n", "shop"]);
    assert!(told.contains("\nControlled By:      ReplicaSet/web-5d8\n"), "{told}");
    assert!(same(place, &["pod", "bare", "-n", "shop"]).contains("\nQoS Class:        BestEffort\n"));
    assert!(same(place, &["pod", "guaranteed", "-n", "other"]).contains("Guaranteed\n"));
    same(place, &["pods", "sized", "resized", "over", "-n", "other"]);
    same(place, &["pods", "-n", "shop"]);
}

fn a_terminating_pod_reads_the_same() {
    let place = &Place::new();
    place.site.apply(PODS);
    place.kubectl(&["delete", "pod", "bare", "-n", "shop", "--grace-period=600", "--wait=false"]);
    let told = same(place, &["pod", "bare", "-n", "shop"]);
    assert!(told.contains("Terminating (lasts <invalid>)\nTermination Grace Period:  600s\n"), "{told}");
    let told = same(place, &["pod", "stuck", "-n", "shop"]);
    assert!(told.contains("Termination Grace Period:  30s\n"), "{told}");
}

fn nodes_read_the_same() {
    let place = &Place::new();
    place.site.apply(&format!("{PODS}---{NODES}"));
    let told = same(place, &["node", "big"]);
    assert!(told.contains("\nNon-terminated Pods:          (5 in total)\n"), "{told}");
    same(place, &["node", "half"]);
    // Of a Node that does not say how much it has, kubectl takes shares all the same and shows what its processor makes of
    // a division by nothing; its widest cells are wider for it.
    let words = ["describe", "node", "small"];
    let theirs =
        place.kubectl(&words).replace(&format!("({}%)", i64::MIN), "(0%)").replace(&format!("({}%)", i64::MAX), "(0%)");
    let own = place.site.cli(&words).expect("described");
    let cells = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells(&ageless(&own)), cells(&ageless(&theirs)));
}

fn dates_are_in_the_time_zone_of_the_reader() {
    let place = &Place::new();
    place.site.apply(PODS);
    let words = ["describe", "pod", "rich", "-n", "shop"];
    let told = |mut command: Command| {
        let output = command.args(words).env("TZ", "Asia/Kolkata").output().expect("started");
        assert!(output.status.success(), "{}", text(output.stderr));
        text(output.stdout)
    };
    let mut own = Command::new(env!("CARGO_BIN_EXE_pollgate"));
    own.env("POLLGATE_SOCKET", place.site.socket());
    let own = told(own);
    assert_eq!(own, told(place.kubectl_command()));
    assert!(own.contains("\nStart Time:           Fri, 02 Jan 2026 08:34:05 +0530\n"), "is tzdata installed? {own}");
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
    place.site.apply(&format!("{PODS}---{NODES}"));
    let pod = uid(place, &["pod", "bare", "-n", "shop"]);
    let node = uid(place, &["node", "half"]);
    let events = [
        event("e1", "Pod", "bare", "shop", &pod),
        event("e2", "Pod", "bare", "shop", "of-its-forerunner"),
        event("e3", "Node", "half", "", &node),
        event("e4", "Node", "half", "", "half"),
    ];
    place.site.apply(&events.concat());
    let told = same(place, &["pod", "bare", "-n", "shop"]);
    assert_eq!(told.matches("Failing").count(), 1, "{told}");
    assert_eq!(same(place, &["node", "half"]).matches("Failing").count(), 2);
    assert!(same(place, &["event", "e1", "-n", "shop"]).contains("\nInvolved Object:\n"));
}

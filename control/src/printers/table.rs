//! `kubectl get`: one row an object.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Endpoints, Event, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::text::{SHOWN, age, align_after, joined, pairs};
use crate::controllers::membership::{node_name, pod_addresses};
use crate::objects::service::{ServiceType, SpecExt};
use crate::objects::{Kind, Object};

/// Longest LoadBalancer address that is shown whole in a narrow table.
const BALANCER_WIDTH: usize = 16;

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, as the API serves it: `Cluster-IP`. The terminal shows it in capitals.
    pub name: &'static str,
    /// Shown only by `-o wide`.
    pub wide: bool,
}

/// One object's cells, one for each column of its table, wide ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The object's namespace; empty if its kind has none.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The cells.
    pub cells: Vec<String>,
}

/// Columns and rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The kind of object it shows.
    pub kind: Kind,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows.
    pub rows: Vec<Row>,
}

impl Table {
    /// The table of objects of one kind; objects of another kind are left out. `wide` does not cut long addresses.
    pub fn of<'a>(kind: Kind, objects: impl IntoIterator<Item = &'a Object>, wide: bool, now: Timestamp) -> Table {
        let objects = objects.into_iter().filter(|object| object.kind() == kind);
        let rows = objects.map(|object| row(object, cells(object, wide, now))).collect();
        Table { kind, columns: columns(kind).to_vec(), rows }
    }

    /// As kubectl prints it; `namespaced` puts the namespace first (`-A`). Without rows there is nothing but "" to print.
    pub fn text(&self, wide: bool, namespaced: bool) -> String {
        self.text_below(&mut Vec::new(), wide, namespaced)
    }

    /// The same, row by row as they come: `widths` are those of the columns printed so far, empty before the first, which
    /// is preceded by the names of the columns.
    pub fn text_below(&self, widths: &mut Vec<usize>, wide: bool, namespaced: bool) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let shown: Vec<usize> = (0..self.columns.len()).filter(|i| wide || !self.columns[*i].wide).collect();
        let pick = |cells: &[String]| shown.iter().filter_map(|i| cells.get(*i).cloned()).collect::<Vec<_>>();
        let line = |namespace: &str, cells: Vec<String>| match namespaced {
            true => [vec![namespace.to_owned()], cells].concat(),
            false => cells,
        };
        let names: Vec<String> = self.columns.iter().map(|column| column.name.to_uppercase()).collect();
        let heading = widths.is_empty().then(|| line("NAMESPACE", pick(&names)));
        let rows = self.rows.iter().map(|row| line(&row.namespace, pick(&row.cells)));
        align_after(&heading.into_iter().chain(rows).collect::<Vec<_>>(), 3, widths)
    }
}

const fn column(name: &'static str) -> Column {
    Column { name, wide: false }
}

const fn wide(name: &'static str) -> Column {
    Column { name, wide: true }
}

fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Service => {
            &const {
                [
                    column("Name"),
                    column("Type"),
                    column("Cluster-IP"),
                    column("External-IP"),
                    column("Port(s)"),
                    column("Age"),
                    wide("Selector"),
                ]
            }
        }
        Kind::EndpointSlice => {
            &const { [column("Name"), column("AddressType"), column("Ports"), column("Endpoints"), column("Age")] }
        }
        Kind::Endpoints => &const { [column("Name"), column("Endpoints"), column("Age")] },
        Kind::ConfigMap => &const { [column("Name"), column("Data"), column("Age")] },
        Kind::Secret => &const { [column("Name"), column("Type"), column("Data"), column("Age")] },
        Kind::Namespace => &const { [column("Name"), column("Status"), column("Age")] },
        Kind::Event => {
            &const {
                [
                    column("Last Seen"),
                    column("Type"),
                    column("Reason"),
                    column("Object"),
                    wide("Subobject"),
                    wide("Source"),
                    column("Message"),
                    wide("First Seen"),
                    wide("Count"),
                    wide("Name"),
                ]
            }
        }
        Kind::Pod => {
            &const {
                [
                    column("Name"),
                    column("Ready"),
                    column("Status"),
                    column("Restarts"),
                    column("Age"),
                    wide("IP"),
                    wide("Node"),
                    wide("Nominated Node"),
                    wide("Readiness Gates"),
                ]
            }
        }
        Kind::Node => {
            &const {
                [
                    column("Name"),
                    column("Status"),
                    column("Roles"),
                    column("Age"),
                    column("Version"),
                    wide("Internal-IP"),
                    wide("External-IP"),
                    wide("OS-Image"),
                    wide("Kernel-Version"),
                    wide("Container-Runtime"),
                ]
            }
        }
    }
}

fn row(object: &Object, cells: Vec<String>) -> Row {
    Row { namespace: object.namespace().to_owned(), name: object.name().to_owned(), cells }
}

fn cells(object: &Object, wide: bool, now: Timestamp) -> Vec<String> {
    let name = object.name().to_owned();
    let age = age(object.metadata().creation_timestamp.as_ref().map(|time| time.0), now);
    match object {
        Object::Service(service) => service_cells(service, name, age, wide),
        Object::Endpoints(endpoints) => vec![name, ready_endpoints(endpoints), age],
        Object::EndpointSlice(slice) => slice_cells(slice, name, age),
        Object::Event(event) => event_cells(event, name, now),
        Object::ConfigMap(map) => {
            let count = map.data.as_ref().map_or(0, BTreeMap::len) + map.binary_data.as_ref().map_or(0, BTreeMap::len);
            vec![name, count.to_string(), age]
        }
        Object::Secret(secret) => {
            let count = secret.data.as_ref().map_or(0, BTreeMap::len);
            vec![name, secret.type_.clone().unwrap_or_default(), count.to_string(), age]
        }
        Object::Namespace(namespace) => vec![name, namespace_status(namespace), age],
        Object::Pod(pod) => pod_cells(pod, name, age),
        Object::Node(node) => node_cells(node, name, age),
    }
}

fn service_cells(service: &Service, name: String, age: String, wide: bool) -> Vec<String> {
    let spec = service.spec.clone().unwrap_or_default();
    let ip = spec.cluster_ips.iter().flatten().next().or(spec.cluster_ip.as_ref());
    let ip = ip.filter(|ip| !ip.is_empty()).cloned().unwrap_or_else(|| "<none>".to_owned());
    let ports: Vec<String> = spec
        .ports()
        .iter()
        .map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            match port.node_port.filter(|node_port| *node_port != 0) {
                Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
                None => format!("{}/{protocol}", port.port),
            }
        })
        .collect();
    let selector = joined(&pairs(spec.selector.as_ref()), "<none>");
    let kind = spec.type_.clone().unwrap_or_default();
    vec![name, kind, ip, external_ip(service, wide), joined(&ports, "<none>"), age, selector]
}

fn external_ip(service: &Service, wide: bool) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let external_ips = spec.external_ips.clone().unwrap_or_default();
    match spec.service_type() {
        ServiceType::ClusterIp | ServiceType::NodePort => joined(&external_ips, "<none>"),
        ServiceType::ExternalName => spec.external_name.unwrap_or_default(),
        ServiceType::LoadBalancer => {
            let mut shown = Vec::new();
            let ingress = ingress_text(service, wide);
            if !ingress.is_empty() {
                shown.push(ingress);
            }
            shown.extend(external_ips);
            joined(&shown, "<pending>")
        }
    }
}

fn ingress_text(service: &Service, wide: bool) -> String {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mut names: Vec<String> =
        points.filter_map(|point| named(&point.ip).or_else(|| named(&point.hostname))).collect();
    names.sort();
    names.dedup();
    let text = names.join(",");
    match text.char_indices().nth(BALANCER_WIDTH - 3) {
        Some((cut, _)) if !wide && text.chars().count() > BALANCER_WIDTH => {
            format!("{}...", &text[..cut])
        }
        _ => text,
    }
}

/// The first three, then how many more there are.
fn some_of(items: &[String], nothing: &str) -> String {
    match items.len() {
        0 => nothing.to_owned(),
        count if count > SHOWN => {
            format!("{} + {} more...", items[..SHOWN].join(","), count - SHOWN)
        }
        _ => items.join(","),
    }
}

fn slice_cells(slice: &EndpointSlice, name: String, age: String) -> Vec<String> {
    let ports = slice.ports.iter().flatten().map(|port| port.port.map_or_else(|| "*".to_owned(), |p| p.to_string()));
    let addresses: Vec<String> = slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
    let ports: Vec<String> = ports.collect();
    vec![name, slice.address_type.clone(), some_of(&ports, "<unset>"), some_of(&addresses, "<unset>"), age]
}

/// Each port with each ready address; nothing at all where there are addresses and none is ready.
fn ready_endpoints(endpoints: &Endpoints) -> String {
    let subsets = endpoints.subsets.as_deref().unwrap_or_default();
    let mut shown = Vec::new();
    for subset in subsets {
        let addresses = || subset.addresses.iter().flatten().map(|address| address.ip.as_str());
        let ports = subset.ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            shown.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            shown.extend(addresses().map(|address| host_port(address, port.port)));
        }
    }
    some_of(&shown, if subsets.is_empty() { "<none>" } else { "" })
}

fn event_cells(event: &Event, name: String, now: Timestamp) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (first, last, count) = event_times(event);
    let about = &event.involved_object;
    let kind = text(&about.kind).to_lowercase();
    let object = match about.name.as_deref().unwrap_or_default() {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        age(last, now),
        text(&event.type_),
        text(&event.reason),
        object,
        text(&about.field_path),
        event_source(event),
        text(&event.message).trim().to_owned(),
        age(first, now),
        count.to_string(),
        name,
    ]
}

/// First seen, last seen, how often.
fn event_times(event: &Event) -> (Option<Timestamp>, Option<Timestamp>, i32) {
    let event_time = event.event_time.as_ref().map(|time| time.0);
    let first = event.first_timestamp.as_ref().map(|time| time.0).or(event_time);
    let last = event.last_timestamp.as_ref().map(|time| time.0).or(first);
    match &event.series {
        Some(series) => {
            (first, series.last_observed_time.as_ref().map(|time| time.0), series.count.unwrap_or_default())
        }
        None => (first, last, event.count.filter(|count| *count != 0).unwrap_or(1)),
    }
}

fn event_source(event: &Event) -> String {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let source = event.source.as_ref();
    let component = source.and_then(|source| given(&source.component)).or_else(|| given(&event.reporting_component));
    let host = source.and_then(|source| given(&source.host)).or_else(|| given(&event.reporting_instance));
    let component = component.unwrap_or_default();
    host.map_or_else(|| component.clone(), |host| format!("{component}, {host}"))
}

/// `10.0.0.1:80`, `[fd00::1]:80`.
pub(super) fn host_port(address: &str, port: i32) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

fn namespace_status(namespace: &Namespace) -> String {
    namespace.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default()
}

fn pod_cells(pod: &Pod, name: String, age: String) -> Vec<String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let states = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let ready = states.iter().filter(|state| state.ready).count();
    let restarts: i32 = states.iter().map(|state| state.restart_count).fold(0, i32::saturating_add);
    let none = || "<none>".to_owned();
    let gates = spec.readiness_gates.as_ref().filter(|gates| !gates.is_empty());
    vec![
        name,
        format!("{ready}/{}", spec.containers.len()),
        pod_status(pod),
        restarts.to_string(),
        age,
        pod_addresses(pod).first().map_or_else(none, ToString::to_string),
        node_name(pod).map_or_else(none, str::to_owned),
        pod.status.as_ref().and_then(|s| s.nominated_node_name.clone()).filter(|n| !n.is_empty()).unwrap_or_else(none),
        gates.map_or_else(none, |gates| format!("0/{}", gates.len())),
    ]
}

/// The most telling word about a Pod (K `printPod`): how it ends, else what a container waits for, else its phase.
fn pod_status(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_else(|| "Unknown".to_owned());
    let mut reason = status.reason.filter(|reason| !reason.is_empty()).unwrap_or(phase);
    for state in status.container_statuses.iter().flatten().rev().filter_map(|status| status.state.as_ref()) {
        let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        let ended = state.terminated.as_ref().and_then(|terminated| terminated.reason.clone());
        if let Some(word) = waiting.or(ended).filter(|word| !word.is_empty()) {
            reason = word;
        }
    }
    match pod.metadata.deletion_timestamp {
        Some(_) if !matches!(reason.as_str(), "Failed" | "Succeeded") => "Terminating".to_owned(),
        _ => reason,
    }
}

fn node_cells(node: &Node, name: String, age: String) -> Vec<String> {
    let status = node.status.clone().unwrap_or_default();
    let address = |kind: &str| {
        let mut found = status.addresses.iter().flatten().filter(|address| address.type_ == kind);
        found.next().map_or_else(|| "<none>".to_owned(), |address| address.address.clone())
    };
    let info = status.node_info.clone().unwrap_or_default();
    let known = |text: String| {
        if text.is_empty() { "<unknown>".to_owned() } else { text }
    };
    vec![
        name,
        node_status(node),
        node_roles(node),
        age,
        info.kubelet_version,
        address("InternalIP"),
        address("ExternalIP"),
        known(info.os_image),
        known(info.kernel_version),
        known(info.container_runtime_version),
    ]
}

fn node_status(node: &Node) -> String {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    let mut words = vec![ready.next().map_or("Unknown", |c| if c.status == "True" { "Ready" } else { "NotReady" })];
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

pub(super) fn node_roles(node: &Node) -> String {
    let labels = node.metadata.labels.iter().flatten();
    let roles: BTreeSet<String> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role.to_owned()),
            _ => (key == "kubernetes.io/role" && !value.is_empty()).then(|| value.clone()),
        })
        .collect();
    joined(&Vec::from_iter(roles), "<none>")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn object(mut value: Value, age_seconds: i64) -> Object {
        value["metadata"]["creationTimestamp"] = json!(Timestamp::from_second(NOW - age_seconds).unwrap().to_string());
        Object::from_value(&value, "default").unwrap()
    }

    fn service(name: &str, age_seconds: i64, spec: Value, ingress: &[&str]) -> Object {
        let ingress: Vec<Value> = ingress.iter().map(|ip| json!({"ip": ip})).collect();
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}}});
        object(value, age_seconds)
    }

    fn text(kind: Kind, objects: &[Object], wide: bool, namespaced: bool) -> String {
        Table::of(kind, objects, wide, Timestamp::from_second(NOW).unwrap()).text(wide, namespaced)
    }

    #[test]
    fn services_look_as_kubectl_shows_them() {
        let port = |port: i32, node_port: i32| json!({"port": port, "protocol": "TCP", "nodePort": node_port});
        let services = [
            service(
                "kubernetes",
                5 * 86_400,
                json!({"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [port(443, 0)]}),
                &[],
            ),
            service(
                "web",
                120,
                json!({"type": "LoadBalancer", "clusterIP": "10.96.10.2", "clusterIPs": ["10.96.10.2"], "ports": [port(80, 30080), port(443, 30443)]}),
                &[],
            ),
            service(
                "db",
                12_000,
                json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "ports": [port(5432, 0)]}),
                &[],
            ),
            service("ext", 10, json!({"type": "ExternalName", "externalName": "ext.example.com"}), &[]),
        ];
        let expected = "\
NAME         TYPE           CLUSTER-IP   EXTERNAL-IP       PORT(S)                      AGE
kubernetes   ClusterIP      10.96.0.1    <none>            443/TCP                      5d
web          LoadBalancer   10.96.10.2   <pending>         80:30080/TCP,443:30443/TCP   2m
db           ClusterIP      None         <none>            5432/TCP                     3h20m
ext          ExternalName   <none>       ext.example.com   <none>                       10s
";
        assert_eq!(text(Kind::Service, &services, false, false), expected);
    }

    #[test]
    fn long_balancer_addresses_are_cut_unless_wide() {
        let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.2", "ports": [{"port": 80, "protocol": "TCP"}], "selector": {"b": "2", "a": "1"}});
        let services = [service("web", 5, spec, &["192.0.2.200", "192.0.2.100", "192.0.2.100"])];
        let narrow = "NAME   TYPE           CLUSTER-IP   EXTERNAL-IP        PORT(S)   AGE\nweb    LoadBalancer   10.96.0.2    192.0.2.100,1...   80/TCP    5s\n";
        assert_eq!(text(Kind::Service, &services, false, false), narrow);
        let wide = "NAMESPACE   NAME   TYPE           CLUSTER-IP   EXTERNAL-IP               PORT(S)   AGE   SELECTOR\ndefault     web    LoadBalancer   10.96.0.2    192.0.2.100,192.0.2.200   80/TCP    5s    a=1,b=2\n";
        assert_eq!(text(Kind::Service, &services, true, true), wide);
    }

    fn slice(name: &str, ports: Value, addresses: &[(&str, bool)]) -> Object {
        let endpoints: Vec<Value> =
            addresses.iter().map(|(ip, ready)| json!({"addresses": [ip], "conditions": {"ready": ready}})).collect();
        let value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}}, "ports": ports, "endpoints": endpoints});
        object(value, 60)
    }

    #[test]
    fn slices_show_three_and_count_the_rest() {
        let slices = [
            slice(
                "web-a",
                json!([{"name": "", "port": 80, "protocol": "TCP"}]),
                &[("10.0.0.1", true), ("10.0.0.2", false), ("10.0.0.3", true), ("10.0.0.4", true), ("10.0.0.5", true)],
            ),
            slice("web-b", json!([]), &[]),
            slice("web-c", json!([{"name": "x"}]), &[("10.0.1.1", false)]),
        ];
        let expected = "\
NAME    ADDRESSTYPE   PORTS     ENDPOINTS                                AGE
web-a   IPv4          80        10.0.0.1,10.0.0.2,10.0.0.3 + 2 more...   60s
web-b   IPv4          <unset>   <unset>                                  60s
web-c   IPv4          *         10.0.1.1                                 60s
";
        assert_eq!(text(Kind::EndpointSlice, &slices, false, false), expected);
    }

    #[test]
    fn endpoints_show_three_ready_ones_and_count_the_rest() {
        let endpoints = |name: &str, subsets: Value| {
            object(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name}, "subsets": subsets}), 60)
        };
        let list = |ips: &[&str]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        let two = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
        let all = [
            endpoints("empty", json!(null)),
            endpoints("headless", json!([{"addresses": list(&["10.0.0.1"])}])),
            endpoints("unready", json!([{"notReadyAddresses": list(&["10.0.0.1"]), "ports": two}])),
            endpoints(
                "web",
                json!([{"addresses": list(&["10.0.0.1", "fd00::2"]), "notReadyAddresses": list(&["10.0.0.3"]), "ports": two}]),
            ),
        ];
        let expected = "\
NAME       ENDPOINTS                                          AGE
empty      <none>                                             60s
headless   10.0.0.1                                           60s
unready                                                       60s
web        10.0.0.1:80,[fd00::2]:80,10.0.0.1:81 + 1 more...   60s
";
        assert_eq!(text(Kind::Endpoints, &all, false, false), expected);
    }

    #[test]
    fn events_look_as_kubectl_shows_them() {
        let event = |more: Value| {
            let mut value = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "type": "Warning", "reason": "Odd",
                "message": "told ", "involvedObject": {"kind": "Service", "name": "web"}});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            object(value, 60)
        };
        let time = |seconds: i64| Timestamp::from_second(NOW - seconds).unwrap().to_string();
        let events = [
            event(
                json!({"firstTimestamp": time(300), "lastTimestamp": time(30), "count": 4, "source": {"component": "c", "host": "h"}}),
            ),
            event(json!({"eventTime": time(90), "reportingComponent": "r"})),
        ];
        let expected = "\
LAST SEEN   TYPE      REASON   OBJECT        MESSAGE
30s         Warning   Odd      service/web   told
90s         Warning   Odd      service/web   told
";
        assert_eq!(text(Kind::Event, &events, false, false), expected);
        let expected = "\
LAST SEEN   TYPE      REASON   OBJECT        SUBOBJECT   SOURCE   MESSAGE   FIRST SEEN   COUNT   NAME
30s         Warning   Odd      service/web               c, h     told      5m           4       e
90s         Warning   Odd      service/web               r        told      90s          1       e
";
        assert_eq!(text(Kind::Event, &events, true, false), expected);
    }

    #[test]
    fn pods_nodes_and_namespaces_have_their_columns() {
        let pod = object(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"name": "c", "ready": true, "restartCount": 2, "image": "i", "imageID": ""}]}}),
            30,
        );
        let expected = "NAME   READY   STATUS    RESTARTS   AGE   IP         NODE   NOMINATED NODE   READINESS GATES\na      1/1     Running   2          30s   10.0.0.1   n1     <none>           <none>\n";
        assert_eq!(text(Kind::Pod, &[pod], true, false), expected);
        let node = object(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.33.0", "architecture": "", "bootID": "", "containerRuntimeVersion": "",
            "kernelVersion": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}}}),
            30,
        );
        let expected = "NAME   STATUS   ROLES           AGE   VERSION\nn1     Ready    control-plane   30s   v1.33.0\n";
        assert_eq!(text(Kind::Node, &[node], false, false), expected);
        let namespace = object(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}, "status": {"phase": "Active"}}),
            30,
        );
        assert_eq!(text(Kind::Namespace, &[namespace], false, false), "NAME   STATUS   AGE\nx      Active   30s\n");
    }
}

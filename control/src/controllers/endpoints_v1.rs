//! Endpoints, the older form of EndpointSlices: written for Services with a selector, for clients that still read it.
//!
//! ```text
//! port ─▶ who offers it          ports offered by the same Pods share a subset
//! http    {a, b, c}  ┐
//! https   {a, b, c}  ┴─▶ subset 1: a b c × http https
//! admin   {a}        ──▶ subset 2: a     × admin
//! ```
//!
//! The rules are the endpoints controller's (K `pkg/controller/endpoint/endpoints_controller.go`, `RepackSubsets` in
//! `pkg/api/v1/endpoints/util.go`): one family, the Service's first; terminating Pods are left out unless the Service publishes what
//! is not ready; a Pod that has none of the ports is left out; at most 1,000 addresses, ready ones first. Two things differ. Upstream
//! sorts ports and subsets by a hash of their Go structures; here they are sorted by name, which is easy to check. And the Pods
//! are those of the slices, a missing Node included, so that the two forms never disagree.
//!
//! Nothing here is read again: workers are given what slices say.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Service};

use super::membership::{Member, SlicePort, hostname, node_name, pod_addresses, reference};
use crate::cluster::overlay::Overlay;
use crate::objects::service::{Family, HEADLESS_LABEL, ServiceName, SpecExt};
use crate::objects::trigger::TRIGGER_TIME;
use crate::objects::{Key, Kind, Object};

/// Whose Endpoints these are; the value is upstream's, for there is one controller of them in a cluster.
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
/// Says that not all addresses are listed.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses of one object.
const CAPACITY: usize = 1000;

/// One port of a Pod; nothing for a headless Service without ports.
type Port<'a> = Option<&'a SlicePort>;

/// Writes the Endpoints of a Service from its members.
pub(super) fn write(view: &mut Overlay<'_>, name: &ServiceName, service: &Service, members: &[Member], family: Family) {
    let before = view.object(&key(name)).and_then(|object| object.as_endpoints()).cloned();
    let mut endpoints = before.clone().unwrap_or_default();
    endpoints.metadata.name = Some(name.name.clone());
    endpoints.metadata.namespace = Some(name.namespace.clone());
    endpoints.metadata.labels = Some(labels(service));
    let mut subsets = subsets(name, service, members, family);
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    match truncate(&mut subsets) {
        true => drop(annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned())),
        false => drop(annotations.remove(OVER_CAPACITY)),
    }
    endpoints.subsets = (!subsets.is_empty()).then_some(subsets);
    if before.as_ref() != Some(&endpoints) {
        let annotations = endpoints.metadata.annotations.get_or_insert_default();
        annotations.insert(TRIGGER_TIME.to_owned(), view.now().to_string());
        view.put(Object::Endpoints(Box::new(endpoints)));
    }
}

/// Removes the Endpoints of a Service that can no longer have any.
pub(super) fn remove(view: &mut Overlay<'_>, name: &ServiceName) {
    let key = key(name);
    let ours = |object: &Object| object.label(MANAGED_BY.0) == Some(MANAGED_BY.1);
    if view.object(&key).is_some_and(|object| ours(object)) {
        view.remove(&key);
    }
}

fn key(name: &ServiceName) -> Key {
    Key::new(Kind::Endpoints, &*name.namespace, &*name.name)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if service.spec.as_ref().is_some_and(SpecExt::is_headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

fn subsets(name: &ServiceName, service: &Service, members: &[Member], family: Family) -> Vec<EndpointSubset> {
    let publish = service.spec.as_ref().is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    let portless = service.spec.as_ref().is_some_and(|spec| spec.is_headless() && spec.ports().is_empty());
    let listed = members.iter().filter(|member| publish || !member.conditions.terminating);
    let addresses: Vec<(EndpointAddress, &Member)> =
        listed.filter_map(|member| Some((address(member, name, family)?, member))).collect();
    let mut together: BTreeMap<Vec<usize>, Vec<Port<'_>>> = BTreeMap::new();
    for (port, by) in offers(&addresses, portless) {
        together.entry(by).or_default().push(port);
    }
    let mut groups: Vec<_> = together.into_iter().map(|(by, ports)| (ports, by)).collect();
    groups.sort();
    groups.into_iter().map(|(ports, by)| subset(&ports, &by, &addresses)).collect()
}

/// Which Pods offer which port, by index.
fn offers<'a>(addresses: &[(EndpointAddress, &'a Member)], portless: bool) -> BTreeMap<Port<'a>, Vec<usize>> {
    let mut offered: BTreeMap<Port<'_>, Vec<usize>> = BTreeMap::new();
    for (at, (_, member)) in addresses.iter().enumerate() {
        let none = portless.then_some(None);
        for port in member.ports.iter().map(Some).chain(none) {
            offered.entry(port).or_default().push(at);
        }
    }
    offered
}

fn subset(ports: &[Port<'_>], by: &[usize], addresses: &[(EndpointAddress, &Member)]) -> EndpointSubset {
    let (mut ready, mut not_ready) = (Vec::new(), Vec::new());
    for (address, member) in by.iter().map(|at| &addresses[*at]) {
        let list = if member.conditions.ready { &mut ready } else { &mut not_ready };
        list.push(address.clone());
    }
    let ports: Vec<EndpointPort> = ports.iter().filter_map(|port| endpoint_port((*port)?)).collect();
    EndpointSubset { addresses: sorted(ready), not_ready_addresses: sorted(not_ready), ports: nonempty(ports) }
}

fn endpoint_port((name, port, protocol, app_protocol): &SlicePort) -> Option<EndpointPort> {
    let name = Some(name.clone()).filter(|name| !name.is_empty());
    Some(EndpointPort { name, port: (*port)?, protocol: protocol.clone(), app_protocol: app_protocol.clone() })
}

/// By address as text, then by Pod, as upstream has it.
fn sorted(mut addresses: Vec<EndpointAddress>) -> Option<Vec<EndpointAddress>> {
    let uid = |address: &EndpointAddress| address.target_ref.as_ref().and_then(|target| target.uid.clone());
    addresses.sort_by(|a, b| a.ip.cmp(&b.ip).then_with(|| uid(a).cmp(&uid(b))));
    nonempty(addresses)
}

fn nonempty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn address(member: &Member, service: &ServiceName, family: Family) -> Option<EndpointAddress> {
    let pod = member.pod.as_pod()?;
    let ip = pod_addresses(pod).into_iter().find(|address| Family::of(*address) == family)?;
    Some(EndpointAddress {
        ip: ip.to_string(),
        hostname: hostname(pod, service),
        node_name: node_name(pod).map(str::to_owned),
        target_ref: Some(reference(&member.pod)),
    })
}

/// Cuts to the capacity: not-ready addresses go first; what is cut is shared out among the subsets by their size, rounded
/// up, so that the last may keep less. Returns whether anything was cut.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let not_ready: usize = subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum();
    if ready + not_ready <= CAPACITY {
        return false;
    }
    let cut_ready = ready > CAPACITY;
    let (total, most) = if cut_ready { (ready, CAPACITY) } else { (not_ready, CAPACITY - ready) };
    let mut room = most;
    for subset in subsets {
        let list = if cut_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let keep = (count(list) * most).div_ceil(total).min(room);
        room -= keep.min(count(list));
        shorten(list, keep);
        if cut_ready {
            subset.not_ready_addresses = None;
        }
    }
    true
}

fn shorten(list: &mut Option<Vec<EndpointAddress>>, keep: usize) {
    if let Some(addresses) = list {
        addresses.truncate(keep);
    }
    *list = list.take().and_then(nonempty);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{World, node, pod, service, web};

    fn endpoints(world: &World, name: &str) -> Value {
        let object = world.cluster.object(&Key::new(Kind::Endpoints, "default", name));
        object.unwrap_or_else(|| panic!("no Endpoints {name}")).to_value()
    }

    /// Each subset as `ready | not ready : ports`.
    fn shown(world: &World, name: &str) -> Vec<String> {
        let list = |value: &Value, field: &str| -> String {
            let items = value.as_array().into_iter().flatten().map(|item| item[field].to_string().replace('"', ""));
            items.collect::<Vec<_>>().join(" ")
        };
        let value = endpoints(world, name);
        let subsets = value["subsets"].as_array().into_iter().flatten();
        let shown = subsets.map(|subset| {
            let (ready, not_ready) = (list(&subset["addresses"], "ip"), list(&subset["notReadyAddresses"], "ip"));
            format!("{ready} | {not_ready} : {}", list(&subset["ports"], "port"))
        });
        shown.collect()
    }

    fn unready(mut pod: Value) -> Value {
        pod["status"]["conditions"] = json!([]);
        pod
    }

    #[test]
    fn ready_and_not_ready_addresses_of_one_subset() {
        let mut world = World::new();
        let mut first = pod("p1", "a", "10.0.0.10");
        first["spec"]["nodeName"] = json!("n1");
        first["spec"]["hostname"] = json!("h");
        first["spec"]["subdomain"] = json!("a");
        let mut web = web("a");
        web["metadata"]["labels"] = json!({"team": "x"});
        world.apply([web, node("n1", "z"), first, pod("p2", "a", "10.0.0.2"), unready(pod("p3", "a", "10.0.0.3"))]);
        assert_eq!(shown(&world, "a"), ["10.0.0.10 10.0.0.2 | 10.0.0.3 : 80"]);
        let value = endpoints(&world, "a");
        assert_eq!(
            value["metadata"]["labels"],
            json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller", "team": "x"})
        );
        let address = &value["subsets"][0]["addresses"][0];
        assert_eq!(
            (&address["hostname"], &address["nodeName"], &address["targetRef"]["name"]),
            (&json!("h"), &json!("n1"), &json!("p1"))
        );
        assert_eq!(value["subsets"][0]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        assert_eq!(value["metadata"]["annotations"][TRIGGER_TIME], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn ports_of_the_same_pods_share_a_subset() {
        let mut world = World::new();
        let has = |name: &str, ip: &str, ports: Value| {
            let mut pod = pod(name, "a", ip);
            pod["spec"]["containers"][0]["ports"] = ports;
            pod
        };
        let admin = json!([{"name": "admin", "containerPort": 9}]);
        world.apply([
            service(
                "a",
                json!({"selector": {"app": "a"}, "ports": [{"name": "x", "port": 80}, {"name": "y", "port": 81, "targetPort": 8081},
                    {"name": "admin", "port": 82, "targetPort": "admin"}]}),
            ),
            has("p1", "10.0.0.1", admin.clone()),
            has("p2", "10.0.0.2", json!([])),
            has("p3", "10.0.0.3", json!([{"name": "admin", "containerPort": 10}])),
        ]);
        let expected = ["10.0.0.1 |  : 9", "10.0.0.3 |  : 10", "10.0.0.1 10.0.0.2 10.0.0.3 |  : 80 8081"];
        assert_eq!(shown(&world, "a"), expected);
    }

    #[test]
    fn who_is_left_out() {
        let mut world = World::new();
        let gone = json!({"name": "p1", "labels": {"app": "a"}, "deletionTimestamp": "2024-01-01T00:00:00Z"});
        let mut leaving = pod("p1", "a", "10.0.0.1");
        leaving["metadata"] = gone;
        let of = |publish: bool, target: &str| {
            service(
                "a",
                json!({"selector": {"app": "a"}, "publishNotReadyAddresses": publish, "ports": [{"port": 80, "targetPort": target}]}),
            )
        };
        world.apply([of(false, "http"), leaving, pod("p2", "a", "fd00::2"), pod("p3", "a", "10.0.0.3")]);
        assert_eq!(shown(&world, "a"), ["10.0.0.3 |  : 8080"]);
        world.apply([of(true, "http")]);
        assert_eq!(shown(&world, "a"), ["10.0.0.1 10.0.0.3 |  : 8080"]);
        world.apply([of(true, "nope")]);
        assert_eq!(shown(&world, "a"), Vec::<String>::new());
    }

    #[test]
    fn headless_services_need_no_ports() {
        let mut world = World::new();
        world.apply([service("a", json!({"clusterIP": "None", "selector": {"app": "a"}})), pod("p", "a", "10.0.0.1")]);
        assert_eq!(shown(&world, "a"), ["10.0.0.1 |  : "]);
        assert_eq!(endpoints(&world, "a")["metadata"]["labels"][HEADLESS_LABEL], "");
    }

    #[test]
    fn what_others_do_to_them_is_put_right_and_they_go_with_the_service() {
        let mut world = World::new();
        world.apply([web("a"), pod("p", "a", "10.0.0.1")]);
        let mut tampered = endpoints(&world, "a");
        tampered["subsets"] = json!([{"addresses": [{"ip": "10.9.9.9"}], "ports": [{"port": 1}]}]);
        world.apply([tampered]);
        assert_eq!(shown(&world, "a"), ["10.0.0.1 |  : 80"]);
        world.delete(Kind::Endpoints, "a");
        assert_eq!(shown(&world, "a"), ["10.0.0.1 |  : 80"]);
        assert!(world.apply([web("a")]).changes.is_empty(), "nothing new, no new trigger time");
        world.apply([service("a", json!({"type": "ExternalName", "externalName": "x.example"}))]);
        assert_eq!(world.cluster.objects(Kind::Endpoints, None).count(), 0);
        world.apply([web("b")]);
        assert_eq!(shown(&world, "b"), Vec::<String>::new());
        world.delete(Kind::Service, "b");
        assert_eq!(world.cluster.objects(Kind::Endpoints, None).count(), 0);
    }

    /// K TestTruncateEndpoints, by its rules.
    #[test]
    fn over_capacity_ready_addresses_are_kept_first() {
        let list = |count: usize| {
            let addresses = (0..count).map(|at| EndpointAddress { ip: at.to_string(), ..Default::default() });
            nonempty(addresses.collect::<Vec<_>>())
        };
        let cases = [
            (vec![(900, 100)], false, vec![(900, 100)]),
            (vec![(900, 101)], true, vec![(900, 100)]),
            (vec![(1001, 5)], true, vec![(1000, 0)]),
            (vec![(500, 600), (300, 300)], true, vec![(500, 134), (300, 66)]),
            (vec![(1000, 10), (500, 10), (500, 0)], true, vec![(500, 0), (250, 0), (250, 0)]),
            (vec![(1, 0), (1, 0), (1500, 0)], true, vec![(1, 0), (1, 0), (998, 0)]),
        ];
        for (sizes, cut, expected) in cases {
            let subset = |(ready, not_ready): &(usize, usize)| EndpointSubset {
                addresses: list(*ready),
                not_ready_addresses: list(*not_ready),
                ports: None,
            };
            let mut subsets: Vec<EndpointSubset> = sizes.iter().map(subset).collect();
            assert_eq!(truncate(&mut subsets), cut, "{sizes:?}");
            let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
            let left: Vec<_> = subsets.iter().map(|s| (count(&s.addresses), count(&s.not_ready_addresses))).collect();
            assert_eq!(left, expected, "{sizes:?}");
        }
    }

    #[test]
    fn a_crowd_is_cut_and_says_so() {
        let mut world = World::new();
        let pods = (0..1001).map(|i| pod(&format!("p{i:04}"), "a", &format!("10.0.{}.{}", i / 200, i % 200 + 1)));
        world.apply(pods.chain([web("a")]));
        let value = endpoints(&world, "a");
        assert_eq!(value["subsets"][0]["addresses"].as_array().map(Vec::len), Some(1000));
        assert_eq!(value["metadata"]["annotations"][OVER_CAPACITY], "truncated");
        world.delete(Kind::Pod, "p0000");
        assert_eq!(endpoints(&world, "a")["metadata"]["annotations"].get(OVER_CAPACITY), None);
    }
}

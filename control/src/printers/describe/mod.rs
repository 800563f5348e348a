//! `describe`: Services, Endpoints, EndpointSlices, Namespaces and Events as `kubectl describe` prints them
//! (kubernetes/kubectl `pkg/describe/describe.go`); Pods and Nodes field by field.
//!
//! ```text
//! object, its slices ─▶ service, endpoints, namespace, generic ─▶ Page ─▶ text
//! ```

mod data;
mod endpoints;
mod generic;
mod namespace;
mod page;
mod service;

use jiff::{Timestamp, Zoned};
use k8s_openapi::api::core::v1::Event;

use super::text::age;
use crate::objects::Object;
use generic::Items;
use page::Page;

/// The description of an object, at a time and in the time zone of the reader. `slices` are the EndpointSlices of a Service,
/// in order of their names. `events` are the Events about the object; `None` leaves their section out.
pub fn describe(object: &Object, slices: &[Object], events: Option<&[Object]>, now: &Zoned) -> String {
    let mut page = Page::new(now);
    match object {
        Object::Service(service) => {
            let slices: Vec<_> = slices.iter().filter_map(Object::as_slice).collect();
            service::describe(&mut page, service, &slices);
        }
        Object::Endpoints(endpoints) => endpoints::describe(&mut page, endpoints),
        Object::EndpointSlice(slice) => endpoints::describe_slice(&mut page, slice),
        Object::Namespace(namespace) => namespace::describe(&mut page, namespace),
        Object::ConfigMap(map) => data::describe_config_map(&mut page, map),
        Object::Secret(secret) => data::describe_secret(&mut page, secret),
        Object::Event(_) => generic::describe(&mut page, object, Items::Plain),
        Object::Pod(_) | Object::Node(_) => generic::describe(&mut page, object, Items::Marked),
    }
    let events: Option<Vec<&Event>> = events.map(|events| events.iter().filter_map(Object::as_event).collect());
    let mut table = String::new();
    match events {
        None => {}
        Some(none) if none.is_empty() => page.line("Events:", "<none>"),
        Some(events) => table = event_table(events, now),
    }
    page.text() + &table
}

/// `DescribeEvents`: a separate table, the most recent last.
fn event_table(mut events: Vec<&Event>, now: &Zoned) -> String {
    events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    let mut page = Page::new(now);
    page.cells(["Events:"]);
    page.cells(["  Type", "Reason", "Age", "From", "Message"]);
    page.cells(["  ----", "------", "----", "----", "-------"]);
    for event in events {
        let kind = format!("  {}", event.type_.as_deref().unwrap_or_default());
        let source = event.source.as_ref().and_then(|source| source.component.clone()).filter(|from| !from.is_empty());
        let from = source.or_else(|| event.reporting_component.clone()).unwrap_or_default();
        let message = event.message.as_deref().unwrap_or_default().trim();
        page.cells([
            &kind,
            event.reason.as_deref().unwrap_or_default(),
            &interval(event, now.timestamp()),
            &from,
            message,
        ]);
    }
    page.text()
}

/// `5m`, or `10s (x3 over 5m)` if it happened more than once.
fn interval(event: &Event, now: Timestamp) -> String {
    let event_time = event.event_time.as_ref().map(|time| time.0);
    let first = age(event_time.or_else(|| event.first_timestamp.as_ref().map(|time| time.0)), now);
    let series = event.series.as_ref();
    let last = match series {
        Some(series) => series.last_observed_time.as_ref().map(|time| time.0),
        None => event.last_timestamp.as_ref().map(|time| time.0),
    };
    match series.map_or(event.count, |series| series.count) {
        Some(count) if count > 1 || series.is_some() => format!("{} (x{count} over {first})", age(last, now)),
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::{Value, json};

    use super::service::endpoints;
    use super::*;
    use crate::admission::apply::LAST_APPLIED;

    /// Tuesday, in the afternoon, in UTC.
    pub(super) fn now() -> Zoned {
        Timestamp::from_second(1_700_000_000).unwrap().to_zoned(TimeZone::UTC)
    }

    pub(super) fn described(object: &Object, slices: &[Object], events: &[Object]) -> String {
        describe(object, slices, Some(events), &now())
    }

    pub(super) fn object(value: Value) -> Object {
        Object::from_value(&value, "foo").unwrap()
    }

    fn slice(endpoints: &[(&str, Option<bool>)]) -> Object {
        let endpoints: Vec<Value> =
            endpoints.iter().map(|(ip, ready)| json!({"addresses": [ip], "conditions": {"ready": ready}})).collect();
        object(
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": {"name": "bar-a"},
            "ports": [{"name": "port-tcp", "port": 9527, "protocol": "TCP"}], "endpoints": endpoints}),
        )
    }

    /// kubectl's own TestDescribeService, case "test2".
    #[test]
    fn a_load_balancer_reads_as_kubectl_describes_it() {
        let service = object(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bar", "namespace": "foo"},
            "spec": {"type": "LoadBalancer", "ports": [{"name": "port-tcp", "port": 8080, "protocol": "TCP", "targetPort": "targetPort", "nodePort": 31111}],
                "selector": {"blah": "heh"}, "clusterIP": "1.2.3.4", "ipFamilies": ["IPv4"], "loadBalancerIP": "5.6.7.8", "sessionAffinity": "None",
                "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "healthCheckNodePort": 32222},
            "status": {"loadBalancer": {"ingress": [{"ip": "5.6.7.8"}]}}}),
        );
        let ready = Some(true);
        let slice = slice(&[
            ("10.244.0.1", ready),
            ("10.244.0.2", None),
            ("10.244.0.3", Some(false)),
            ("10.244.0.4", ready),
            ("10.244.0.5", ready),
        ]);
        let expected = "\
Name:                     bar
Namespace:                foo
Labels:                   <none>
Annotations:              <none>
Selector:                 blah=heh
Type:                     LoadBalancer
IP Families:              IPv4
IP:                       1.2.3.4
IPs:                      <none>
Desired LoadBalancer IP:  5.6.7.8
LoadBalancer Ingress:     5.6.7.8
Port:                     port-tcp  8080/TCP
TargetPort:               targetPort/TCP
NodePort:                 port-tcp  31111/TCP
Endpoints:                10.244.0.1:9527,10.244.0.2:9527,10.244.0.4:9527 + 1 more...
Session Affinity:         None
External Traffic Policy:  Local
Internal Traffic Policy:  Local
HealthCheck NodePort:     32222
Events:                   <none>
";
        assert_eq!(described(&service, &[slice], &[]), expected);
    }

    #[test]
    fn quirks_are_kubectls_too() {
        let three = [("10.0.0.1", None), ("10.0.0.2", None), ("10.0.0.3", None), ("10.0.0.4", Some(false))];
        let slice = slice(&three);
        let slice = [slice.as_slice().unwrap()];
        assert_eq!(endpoints("port-tcp", &slice), "10.0.0.1:9527,10.0.0.2:9527,10.0.0.3:9527 + 0 more...");
        assert_eq!(endpoints("other", &slice), "");
        assert_eq!(endpoints("port-tcp", &[]), "<none>");
    }

    #[test]
    fn an_alias_with_labels_and_annotations() {
        let service = object(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "ext", "labels": {"b": "2", "a": "1"}, "annotations": {"note": "short", "page": "one\ntwo", LAST_APPLIED: "{}"}},
            "spec": {"type": "ExternalName", "externalName": "ext.example.com", "sessionAffinity": "None"}}));
        let expected = "\
Name:              ext
Namespace:         foo
Labels:            a=1
                   b=2
Annotations:       note: short
                   page:
                     one
                     two
Selector:          <none>
Type:              ExternalName
IP Families:       <none>
IP:                \nIPs:               <none>
External Name:     ext.example.com
Session Affinity:  None
Events:            <none>
";
        assert_eq!(described(&service, &[], &[]), expected);
    }

    #[test]
    fn slices_read_as_kubectl_describes_them() {
        let slice = object(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "", "protocol": "UDP"}],
            "endpoints": [
                {"addresses": ["10.0.0.1", "10.0.0.2"], "conditions": {"ready": true}, "hostname": "h", "nodeName": "n1", "zone": "z",
                 "targetRef": {"kind": "Pod", "name": "web-1"}},
                {"addresses": ["10.0.0.3"]}]}));
        let expected = "\
Name:         web-x
Namespace:    foo
Labels:       kubernetes.io/service-name=web
Annotations:  <none>
AddressType:  IPv4
Ports:
  Name     Port     Protocol
  ----     ----     --------
  http     80       TCP
  <unset>  <unset>  UDP
Endpoints:
  - Addresses:  10.0.0.1, 10.0.0.2
    Conditions:
      Ready:    true
    Hostname:   h
    TargetRef:  Pod/web-1
    NodeName:   n1
    Zone:       z
  - Addresses:  10.0.0.3
    Conditions:
      Ready:   <unset>
    Hostname:  <unset>
    NodeName:  <unset>
    Zone:      <unset>
Events:        <none>
";
        assert_eq!(described(&slice, &[], &[]), expected);
        let empty = object(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv6",
            "metadata": {"name": "web-y"}, "endpoints": []}));
        let expected = "\
Name:         web-y
Namespace:    foo
Labels:       <none>
Annotations:  <none>
AddressType:  IPv6
Ports: <unset>
Endpoints: <none>
Events:  <none>
";
        assert_eq!(described(&empty, &[], &[]), expected);
    }

    #[test]
    fn endpoints_read_as_kubectl_describes_them() {
        let endpoints = object(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"},
            "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]},
                {"notReadyAddresses": [{"ip": "10.0.0.3"}]}]}));
        let expected = "\
Name:         web
Namespace:    foo
Labels:       <none>
Annotations:  <none>
Subsets:
  Addresses:          10.0.0.1,10.0.0.2
  NotReadyAddresses:  <none>
  Ports:
    Name   Port  Protocol
    ----   ----  --------
    https  6443  TCP

  Addresses:          <none>
  NotReadyAddresses:  10.0.0.3

Events:  <none>
";
        assert_eq!(described(&endpoints, &[], &[]), expected);
        let unasked = describe(&endpoints, &[], None, &now());
        assert_eq!(unasked, expected.replace("Events:  <none>\n", ""));
    }

    #[test]
    fn events_are_a_table_of_their_own() {
        let endpoints = object(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"}}));
        let event = |name: &str, seen: i64, more: Value| {
            let time = |seconds: i64| Timestamp::from_second(1_700_000_000 - seconds).unwrap().to_string();
            let mut value = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "type": "Normal", "reason": "Sync",
                "firstTimestamp": time(600), "lastTimestamp": time(seen), "involvedObject": {"kind": "Endpoints", "name": "web"}});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            object(value)
        };
        let events = [
            event("b", 10, json!({"count": 3, "source": {"component": "me"}, "message": " again "})),
            event("a", 600, json!({"reportingComponent": "you", "message": "once"})),
        ];
        let text = described(&endpoints, &[], &events);
        let expected = "\
Events:
  Type    Reason  Age                From  Message
  ----    ------  ----               ----  -------
  Normal  Sync    10m                you   once
  Normal  Sync    10s (x3 over 10m)  me    again
";
        assert_eq!(&text[text.find("Events:").unwrap()..], expected);
    }
}

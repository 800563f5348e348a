//! What Kubernetes' own end-to-end tests do to Services, Endpoints and EndpointSlices (K `test/e2e/network/{service,endpointslice,
//! endpointslicemirroring}.go`), as far as they need no kubelet. Each scenario with JSON and with protobuf.

use prost::Message;

use super::encodings::raw;
use super::*;
use crate::api::protobuf::tests::decode;
use crate::api::protobuf::{PROTOBUF, encode};

const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// A client that speaks one of the two.
struct Client<'a> {
    gateway: &'a Gateway,
    protobuf: bool,
}

fn with_each_encoding(scenario: impl Fn(&Client<'_>)) {
    for protobuf in [false, true] {
        scenario(&Client { gateway: &Gateway::new(), protobuf });
    }
}

impl Client<'_> {
    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let media = if self.protobuf { PROTOBUF } else { "application/json" };
        let bytes = match body {
            None => Vec::new(),
            Some(body) if self.protobuf => encode(body),
            Some(body) => body.to_string().into_bytes(),
        };
        self.gateway.send_bytes(method, path, &[("Content-Type", media), ("Accept", media)], &bytes)
    }

    /// An object, or a `Status`.
    #[track_caller]
    fn object(&self, answer: Answer, code: u16) -> Value {
        let answer = answer.expect(code);
        match answer.headers["content-type"].as_str() {
            PROTOBUF => decode(&answer.body).expect("an object"),
            _ => answer.json(),
        }
    }

    #[track_caller]
    fn create(&self, path: &str, body: &Value) -> Value {
        self.object(self.send("POST", path, Some(body)), 201)
    }

    #[track_caller]
    fn read(&self, path: &str) -> Value {
        self.object(self.send("GET", path, None), 200)
    }

    #[track_caller]
    fn replace(&self, path: &str, body: &Value) -> Value {
        self.object(self.send("PUT", path, Some(body)), 200)
    }

    #[track_caller]
    fn patch(&self, path: &str, kind: &str, patch: &Value) -> Value {
        let headers = [("Content-Type", &*format!("application/{kind}-patch+json")), ("Accept", "application/json")];
        let accept = if self.protobuf { [headers[0], ("Accept", PROTOBUF)] } else { headers };
        self.object(self.gateway.send("PATCH", path, &accept, &patch.to_string()), 200)
    }

    #[track_caller]
    fn delete(&self, path: &str) {
        self.send("DELETE", path, Some(&json!({"apiVersion": "v1", "kind": "DeleteOptions"}))).expect(200);
    }

    /// The message of a request that is refused.
    #[track_caller]
    fn refused(&self, method: &str, path: &str, body: Option<&Value>, code: u16) -> String {
        self.object(self.send(method, path, body), code)["message"].as_str().unwrap_or_default().to_owned()
    }

    /// The names of a list.
    #[track_caller]
    fn names(&self, path: &str) -> Vec<String> {
        #[derive(Clone, PartialEq, Message)]
        struct List {
            #[prost(message, repeated, tag = "2")]
            items: Vec<Item>,
        }
        #[derive(Clone, PartialEq, Message)]
        struct Item {
            #[prost(message, optional, tag = "1")]
            metadata: Option<k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
        }
        let answer = self.send("GET", path, None).expect(200);
        if self.protobuf {
            let list = List::decode(&raw(&answer.body)[..]).expect("a list");
            return list.items.into_iter().filter_map(|item| item.metadata?.name).collect();
        }
        let items = answer.at("/items").as_array().cloned().unwrap_or_default();
        items.iter().filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
    }

    /// The slices of a Service.
    #[track_caller]
    fn slices(&self, service: &str) -> Vec<Value> {
        let names = self.names(&format!("{SLICES}?labelSelector=kubernetes.io/service-name%3D{service}"));
        names.iter().map(|name| self.read(&format!("{SLICES}/{name}"))).collect()
    }

    /// What a watcher has seen since a version: the kinds of events.
    fn events(&self, path: &str, selector: &str, since: &Value) -> Vec<String> {
        let since = since.as_str().expect("a version");
        let query = format!("watch=1&timeoutSeconds=1&resourceVersion={since}&labelSelector={selector}");
        let seen = self.gateway.get(&format!("{path}?{query}")).expect(200).text;
        let events = seen.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
        events.map(|event| event["type"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn of(path: &str, name: &str) -> String {
    format!("{path}/{name}")
}

fn node_port(name: &str, port: i32) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": port}]}})
}

#[test]
fn a_service_is_found_in_a_list_of_all_namespaces() {
    with_each_encoding(|client| {
        client.create("/api/v1/namespaces/shop/services", &service("web"));
        let names = client.names("/api/v1/services");
        assert!(["kubernetes", "web"].iter().all(|name| names.iter().any(|found| found == name)), "{names:?}");
    });
}

#[test]
fn the_service_of_the_api_is_secure() {
    with_each_encoding(|client| {
        let master = client.read(&of(SERVICES, "kubernetes"));
        let port = &master["spec"]["ports"][0];
        assert_eq!((&port["name"], &port["port"], &port["protocol"]), (&json!("https"), &json!(443), &json!("TCP")));
    });
}

#[test]
fn a_collection_of_services_is_deleted_by_label() {
    with_each_encoding(|client| {
        for (name, group) in [("a", "one"), ("b", "one"), ("c", "two")] {
            let mut service = service(name);
            service["metadata"]["labels"] = json!({"group": group});
            client.create(SERVICES, &service);
        }
        client.delete(&format!("{SERVICES}?labelSelector=group%3Done"));
        assert_eq!(client.names(SERVICES), ["c", "kubernetes"]);
    });
}

#[test]
fn node_ports_do_not_collide_and_are_released() {
    with_each_encoding(|client| {
        let first = client.create(SERVICES, &node_port("first", 0));
        let port = first["spec"]["ports"][0]["nodePort"].as_i64().expect("assigned");
        let second = node_port("second", i32::try_from(port).expect("a port"));
        let told = client.refused("POST", SERVICES, Some(&second), 422);
        assert!(told.contains(&format!("{port}: provided port is already allocated")), "{told}");
        client.delete(&of(SERVICES, "first"));
        for _ in 0..2 {
            assert_eq!(client.create(SERVICES, &second)["spec"]["ports"][0]["nodePort"], port);
            client.delete(&of(SERVICES, "second"));
        }
    });
}

#[test]
fn a_node_port_out_of_range_is_refused_when_made_and_when_changed() {
    with_each_encoding(|client| {
        let mut made = client.create(SERVICES, &node_port("web", 0));
        let port = made["spec"]["ports"][0]["nodePort"].clone();
        made["spec"]["ports"][0]["nodePort"] = json!(29_999);
        let range = "29999: provided port is not in the valid range. The range of valid ports is 30000-32767";
        let told = client.refused("PUT", &of(SERVICES, "web"), Some(&made), 422);
        assert!(told.contains(range), "{told}");
        assert_eq!(client.read(&of(SERVICES, "web"))["spec"]["ports"][0]["nodePort"], port);
        client.delete(&of(SERVICES, "web"));
        let told = client.refused("POST", SERVICES, Some(&node_port("web", 29_999)), 422);
        assert!(told.contains(range), "{told}");
    });
}

#[test]
fn endpoints_are_made_found_changed_and_deleted() {
    with_each_encoding(|client| {
        let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "testservice", "labels": {"test-endpoint-static": "true"}},
            "subsets": [{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}]});
        let mut made = client.create(ENDPOINTS, &endpoints);
        let since = made["metadata"]["resourceVersion"].clone();
        let path = of(ENDPOINTS, "testservice");
        assert_eq!(client.names("/api/v1/endpoints?labelSelector=test-endpoint-static%3Dtrue"), ["testservice"]);
        made["metadata"]["labels"]["test-service"] = json!("updated");
        assert_eq!(client.replace(&path, &made)["metadata"]["labels"]["test-service"], "updated");
        let patch = json!({"metadata": {"labels": {"test-service": "patched"}},
            "subsets": [{"addresses": [{"ip": "10.0.0.25"}], "ports": [{"name": "http-test", "port": 8080, "protocol": "TCP"}]}]});
        client.patch(&path, "strategic-merge", &patch);
        let read = client.read(&path);
        assert_eq!(read["metadata"]["labels"]["test-service"], "patched");
        assert_eq!(read["subsets"][0]["addresses"][0]["ip"], "10.0.0.25");
        assert_eq!(
            (&read["subsets"][0]["ports"][0]["name"], &read["subsets"][0]["ports"][0]["port"]),
            (&json!("http-test"), &json!(8080))
        );
        client.delete(&format!("{ENDPOINTS}?labelSelector=test-endpoint-static%3Dtrue"));
        assert_eq!(client.refused("GET", &path, None, 404), r#"endpoints "testservice" not found"#);
        let seen = client.events(ENDPOINTS, "test-endpoint-static%3Dtrue", &since);
        assert_eq!(seen, ["MODIFIED", "MODIFIED", "DELETED"]);
    });
}

#[test]
fn every_operation_of_slices_is_supported() {
    with_each_encoding(|client| {
        let resources = client.gateway.get("/apis/discovery.k8s.io/v1").expect(200).json();
        let slices =
            resources["resources"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "endpointslices"));
        let verbs = &slices.expect("endpointslices")["verbs"];
        for verb in ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"] {
            assert!(verbs.as_array().is_some_and(|verbs| verbs.contains(&json!(verb))), "{verb}: {verbs}");
        }
        let slice = |name: &str| {
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name, "labels": {"special-label": "one"}},
                "addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4", "5.6.7.8"]}]})
        };
        let made = client.create(SLICES, &slice("a"));
        let since = made["metadata"]["resourceVersion"].clone();
        assert_eq!(client.read(&of(SLICES, "a"))["metadata"]["uid"], made["metadata"]["uid"]);
        for list in [SLICES, "/apis/discovery.k8s.io/v1/endpointslices"] {
            assert_eq!(client.names(&format!("{list}?labelSelector=special-label%3Done")), ["a"]);
        }
        let patched =
            client.patch(&of(SLICES, "a"), "merge", &json!({"metadata": {"annotations": {"patched": "true"}}}));
        assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
        let mut updated = patched;
        updated["metadata"]["annotations"]["updated"] = json!("true");
        updated["endpoints"] = json!([{"addresses": ["4.3.2.1", "8.7.6.5"]}]);
        let updated = client.replace(&of(SLICES, "a"), &updated);
        assert_eq!(
            (&updated["metadata"]["annotations"]["updated"], &updated["endpoints"][0]["addresses"][0]),
            (&json!("true"), &json!("4.3.2.1"))
        );
        client.delete(&of(SLICES, "a"));
        let told = client.refused("GET", &of(SLICES, "a"), None, 404);
        assert_eq!(told, r#"endpointslices.discovery.k8s.io "a" not found"#);
        for name in ["b", "c"] {
            client.create(SLICES, &slice(name));
        }
        client.delete(&format!("{SLICES}?labelSelector=special-label%3Done"));
        assert_eq!(client.names(&format!("{SLICES}?labelSelector=special-label%3Done")), Vec::<String>::new());
        let seen = client.events(SLICES, "special-label%3Done", &since);
        assert_eq!(seen, ["MODIFIED", "MODIFIED", "DELETED", "ADDED", "ADDED", "DELETED", "DELETED"]);
    });
}

#[test]
fn endpoints_are_mirrored_through_create_update_and_delete() {
    with_each_encoding(|client| {
        let custom = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "custom"},
            "spec": {"ports": [{"name": "example", "port": 80, "protocol": "TCP"}]}});
        client.create(SERVICES, &custom);
        let mut endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "custom"},
            "subsets": [{"ports": [{"port": 80}], "addresses": [{"ip": "10.1.2.3"}]}]});
        client.create(ENDPOINTS, &endpoints);
        let mirrored = |address: &str| {
            let slices = client.slices("custom");
            assert_eq!(slices.len(), 1, "{slices:?}");
            let slice = &slices[0];
            assert_eq!((&slice["ports"][0]["port"], &slice["ports"][0]["protocol"]), (&json!(80), &json!("TCP")));
            assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(1));
            assert_eq!(slice["endpoints"][0]["addresses"], json!([address]));
            let manager = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
            assert_eq!(manager, "endpointslicemirroring-controller.k8s.io");
        };
        mirrored("10.1.2.3");
        endpoints["subsets"][0]["addresses"][0]["ip"] = json!("10.2.3.4");
        client.replace(&of(ENDPOINTS, "custom"), &endpoints);
        mirrored("10.2.3.4");
        client.delete(&of(ENDPOINTS, "custom"));
        assert_eq!(client.slices("custom"), Vec::<Value>::new());
    });
}

#[test]
fn a_selector_without_pods_has_a_slice_and_endpoints_until_its_service_goes() {
    with_each_encoding(|client| {
        let made = client.create(SERVICES, &service("nobody"));
        let endpoints = client.read(&of(ENDPOINTS, "nobody"));
        assert!(endpoints["subsets"].as_array().is_none_or(Vec::is_empty), "{endpoints}");
        let slices = client.slices("nobody");
        assert_eq!(slices.len(), 1, "{slices:?}");
        assert!(slices[0]["endpoints"].as_array().is_none_or(Vec::is_empty), "{slices:?}");
        let owner = &slices[0]["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Service"), &made["metadata"]["uid"]));
        let manager = &slices[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
        assert_eq!(manager, "endpointslice-controller.k8s.io");
        client.delete(&of(SERVICES, "nobody"));
        assert_eq!(client.slices("nobody"), Vec::<Value>::new());
        client.refused("GET", &of(ENDPOINTS, "nobody"), None, 404);
    });
}

#[test]
fn the_status_of_a_service_is_read_patched_and_replaced() {
    with_each_encoding(|client| {
        let balancer = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "lb"},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "example.com/x", "ports": [{"port": 80}]}});
        client.create(SERVICES, &balancer);
        let status = of(SERVICES, "lb/status");
        assert_eq!(client.read(&status)["status"]["loadBalancer"]["ingress"], Value::Null);
        let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
        let mut patched = client.patch(&status, "merge", &patch);
        assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
        patched["status"]["conditions"] = json!([{"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "m",
            "lastTransitionTime": "2026-01-02T03:04:05Z"}]);
        let replaced = client.replace(&status, &patched);
        assert_eq!(replaced["status"]["conditions"][0]["type"], "StatusUpdate");
        assert_eq!(replaced["status"]["loadBalancer"]["ingress"][0]["ip"], "203.0.113.1");
        client.patch(&of(SERVICES, "lb"), "merge", &json!({"metadata": {"labels": {"test-service-static": "true"}}}));
        client.delete(&format!("{SERVICES}?labelSelector=test-service-static%3Dtrue"));
        client.refused("GET", &of(SERVICES, "lb"), None, 404);
    });
}

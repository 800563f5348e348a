//! What a kube-apiserver 1.36 answers, request by request, beside what the gateway answers.
//!
//! Each row is a request and the upstream answer: its code, of an error the reason and the causes, of an object the fields that
//! are worth a look. The rows of a case run one after the other on one gateway.

use super::*;

/// A request, and the answer.
struct Row {
    method: &'static str,
    path: &'static str,
    /// Empty: JSON.
    media: &'static str,
    body: Value,
    code: u16,
    /// Of an error.
    reason: &'static str,
    /// Field and message of each cause.
    causes: Vec<(&'static str, &'static str)>,
    /// Pointers into the response, and what is there; `null` is also what is not there.
    object: Value,
}

fn row(method: &'static str, path: &'static str, body: Value, code: u16) -> Row {
    let (media, reason, causes, object) = ("", "", Vec::new(), json!({}));
    Row { method, path, media, body, code, reason, causes, object }
}

impl Row {
    fn sent_as(mut self, media: &'static str) -> Row {
        self.media = media;
        self
    }

    fn refused(mut self, reason: &'static str, causes: &[(&'static str, &'static str)]) -> Row {
        (self.reason, self.causes) = (reason, causes.to_vec());
        self
    }

    fn with(mut self, object: Value) -> Row {
        self.object = object;
        self
    }

    fn check(&self, gateway: &Gateway) {
        let headers: Vec<(&str, &str)> =
            [("Content-Type", self.media)].into_iter().filter(|(_, m)| !m.is_empty()).collect();
        let body = match &self.body {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            body => body.to_string(),
        };
        let answer = gateway.send(self.method, self.path, &headers, &body);
        let request = format!("{} {} {body}: {}", self.method, self.path, answer.text);
        assert_eq!(answer.code, self.code, "{request}");
        if !self.reason.is_empty() {
            assert_eq!(answer.at("/reason"), self.reason, "{request}");
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> =
                self.causes.iter().map(|(field, message)| json!({"field": field, "message": message})).collect();
            let mut told = answer.at("/details/causes").as_array().cloned().unwrap_or_default();
            told.iter_mut().filter_map(Value::as_object_mut).for_each(|cause| drop(cause.remove("reason")));
            assert_eq!(told, causes, "{request}");
        }
        for (pointer, expected) in self.object.as_object().into_iter().flatten() {
            assert_eq!(answer.at(pointer), *expected, "{pointer} of {request}");
        }
    }
}

fn check(rows: impl IntoIterator<Item = Row>) {
    let gateway = Gateway::new();
    rows.into_iter().for_each(|row| row.check(&gateway));
}

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const ONE: &str = "/api/v1/namespaces/default/services/web";
const ONE_STATUS: &str = "/api/v1/namespaces/default/services/web/status";
const PODS: &str = "/api/v1/namespaces/default/pods";
const POD: &str = "/api/v1/namespaces/default/pods/p";
const POD_STATUS: &str = "/api/v1/namespaces/default/pods/p/status";
const NODE: &str = "/api/v1/nodes/n";

fn typed(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
}

/// `test/e2e/network/service.go`: "should complete a service status lifecycle".
#[test]
fn the_status_of_a_service_has_metadata_and_conditions() {
    let balancer =
        typed(json!({"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerClass": "example.com/x"}));
    let condition = json!({"type": "StatusPatched", "status": "True", "reason": "E2E patchStatus", "message": "m", "lastTransitionTime": null});
    check([
        row("POST", SERVICES, balancer, 201),
        row("GET", ONE_STATUS, Value::Null, 200).with(json!({"/status/loadBalancer": {}})),
        row(
            "PATCH",
            ONE_STATUS,
            json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}),
            200,
        )
        .sent_as(MERGE_PATCH)
        .with(json!({
            "/metadata/annotations/patchedstatus": "true",
            "/status/loadBalancer/ingress/0": {"ip": "203.0.113.1", "ipMode": "VIP"},
        })),
        row("PATCH", ONE_STATUS, json!({"status": {"conditions": [condition]}}), 200)
            .sent_as(MERGE_PATCH)
            .with(json!({"/status/conditions/0": condition, "/status/loadBalancer/ingress/0/ip": "203.0.113.1"})),
        row("PATCH", ONE_STATUS, json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["example.com/f"]}, "spec": {"type": "NodePort"}}), 200)
            .sent_as(STRATEGIC)
            .with(json!({"/metadata/labels/a": "b", "/metadata/finalizers/0": "example.com/f", "/spec/type": "LoadBalancer"})),
        // What a PUT does not have is gone, in the metadata too.
        row("PUT", ONE_STATUS, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"c": "d"}}, "spec": {"ports": [{"port": 1}]}, "status": {"loadBalancer": {}}}), 200)
            .with(json!({"/metadata/labels": {"c": "d"}, "/metadata/annotations": null, "/spec/ports/0/port": 80, "/status/loadBalancer": {}})),
    ]);
}

/// `Convert_v1_PodStatus_To_core_PodStatus`: of two that differ, `podIP` counts.
#[test]
fn the_address_of_a_pod_is_one() {
    check([
        row("POST", PODS, pod("p", "a", "10.0.0.1"), 201),
        row("PATCH", POD_STATUS, json!({"status": {"podIP": "10.0.0.2"}}), 200)
            .sent_as(MERGE_PATCH)
            .with(json!({"/status/podIP": "10.0.0.2", "/status/podIPs": [{"ip": "10.0.0.2"}]})),
        row(
            "PATCH",
            POD_STATUS,
            json!({"status": {"podIP": null, "podIPs": [{"ip": "10.0.0.3"}, {"ip": "fd00::3"}]}}),
            200,
        )
        .sent_as(MERGE_PATCH)
        .with(json!({"/status/podIP": "10.0.0.3", "/status/podIPs/1/ip": "fd00::3"})),
        row(
            "PATCH",
            POD_STATUS,
            json!({"status": {"podIP": "10.0.0.4", "podIPs": [{"ip": "10.0.0.4"}, {"ip": "10.0.0.5"}]}}),
            422,
        )
        .sent_as(MERGE_PATCH)
        .refused(
            "Invalid",
            &[(
                "status.podIPs",
                "Invalid value: [\"10.0.0.4\",\"10.0.0.5\"]: may specify no more than one IP for each IP family",
            )],
        ),
    ]);
}

/// `patchAllocatedValues`, `dropTypeDependentFields`, `initNodePorts`, `updateNodePorts`.
#[test]
fn node_ports_are_given_kept_and_given_back() {
    let balancer = |allocate: bool| {
        typed(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": allocate, "ports": [{"port": 80}]}))
    };
    let requested = typed(json!({"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30500}]}));
    check([
        row("POST", SERVICES, requested, 201).with(json!({"/spec/ports/0/nodePort": 30500})),
        // Without a number, and with 0, a port keeps the one it has.
        row("PATCH", ONE, json!([{"op": "remove", "path": "/spec/ports/0/nodePort"}]), 200)
            .sent_as(JSON_PATCH)
            .with(json!({"/spec/ports/0/nodePort": 30500})),
        row("PATCH", ONE, json!([{"op": "replace", "path": "/spec/ports/0/nodePort", "value": 0}]), 200)
            .sent_as(JSON_PATCH)
            .with(json!({"/spec/ports/0/nodePort": 30500})),
        // Declined, it is given back.
        row("PATCH", ONE, json!({"spec": {"allocateLoadBalancerNodePorts": false}}), 200)
            .sent_as(MERGE_PATCH)
            .with(json!({"/spec/ports/0/nodePort": null})),
        row("PATCH", ONE, json!({"spec": {"ports": [{"port": 80, "nodePort": 30501}]}}), 200)
            .sent_as(MERGE_PATCH)
            .with(json!({"/spec/ports/0/nodePort": 30501})),
        row("PUT", ONE, balancer(false), 200).with(json!({"/spec/ports/0/nodePort": null})),
        row("DELETE", ONE, Value::Null, 200),
        // Two protocols of one port share a node port when a Service is created.
        row("POST", SERVICES, typed(json!({"type": "NodePort", "ports": [
            {"name": "t", "port": 53, "nodePort": 30053}, {"name": "u", "port": 53, "protocol": "UDP"}]})), 201)
            .with(json!({"/spec/ports/0/nodePort": 30053, "/spec/ports/1/nodePort": 30053})),
        row("DELETE", ONE, Value::Null, 200),
        // A type without node ports may carry a number, which is taken by nobody.
        row("POST", SERVICES, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "e"}, "spec": {
            "type": "ExternalName", "externalName": "example.com", "ports": [{"port": 80, "nodePort": 30054}]}}), 201)
            .with(json!({"/spec/ports/0/nodePort": 30054})),
        row("POST", SERVICES, typed(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30054}]})), 201),
        row("DELETE", ONE, Value::Null, 200),
        // Two ports do not.
        row("POST", SERVICES, typed(json!({"type": "NodePort", "ports": [
            {"name": "t", "port": 53, "nodePort": 30053}, {"name": "u", "port": 54, "protocol": "UDP", "nodePort": 30053}]})), 422)
            .refused("Invalid", &[("spec.ports[1].nodePort", "Invalid value: 30053: provided port is already allocated")]),
    ]);
}

#[test]
fn a_port_that_is_added_later_has_a_node_port_of_its_own() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &typed(json!({"type": "NodePort", "ports": [{"name": "t", "port": 53}]}))).expect(201);
    let added = json!({"spec": {"ports": [{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]}});
    let ports = gateway.patch(ONE, "merge", &added).expect(200).at("/spec/ports");
    let ports: Vec<i64> = ports.as_array().unwrap().iter().map(|port| port["nodePort"].as_i64().unwrap()).collect();
    assert!(ports.len() == 2 && ports[0] != ports[1], "{ports:?}");
    // But it may be told to share.
    let shared = json!({"spec": {"ports": [{"name": "t", "port": 53, "nodePort": ports[0]},
        {"name": "u", "port": 54, "protocol": "UDP", "nodePort": ports[0]}]}});
    gateway.patch(ONE, "merge", &shared).expect(200);
}

#[test]
fn pods_and_nodes_are_checked_and_defaulted() {
    let container = |port: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "ports": [port]}]}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {
        "topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"}}, "spec": {"podCIDR": "10.1.0.0/24"}});
    check([
        row("POST", PODS, container(json!({"name": "not_a_port", "containerPort": 80})), 422).refused(
            "Invalid",
            &[("spec.containers[0].ports[0].name", "Invalid value: \"not_a_port\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")],
        ),
        row("POST", PODS, container(json!({})), 422)
            .refused("Invalid", &[("spec.containers[0].ports[0].containerPort", "Required value")]),
        row("POST", "/api/v1/nodes", node, 201).with(json!({"/spec/podCIDRs": ["10.1.0.0/24"]})),
        row("PATCH", NODE, json!({"spec": {"podCIDR": "10.2.0.0/24"}}), 422).sent_as(MERGE_PATCH).refused(
            "Invalid",
            &[("spec.podCIDRs", "Forbidden: node updates may not change podCIDR except from \"\" to valid")],
        ),
        row("POST", PODS, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c"}]}}), 201)
            .with(json!({
                "/metadata/labels": {"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"},
                "/spec/restartPolicy": "Always", "/spec/schedulerName": "default-scheduler",
            })),
        row("GET", "/api/v1/pods?fieldSelector=spec.restartPolicy%3DAlways,spec.schedulerName!%3Dother,", Value::Null, 200)
            .with(json!({"/items/0/metadata/name": "p", "/items/0/kind": null})),
        row("DELETE", "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=30", Value::Null, 200)
            .with(json!({"/metadata/deletionGracePeriodSeconds": 30})),
        row("PATCH", POD_STATUS, json!({"status": {"phase": "Succeeded"}}), 200).sent_as(MERGE_PATCH),
        row("DELETE", "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=30", Value::Null, 200),
        row("GET", POD, Value::Null, 404).refused("NotFound", &[]),
    ]);
}

#[test]
fn a_client_is_told_who_it_is_and_what_it_may() {
    let review =
        |spec: Value| json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    check([
        row("POST", path, review(json!({"resourceAttributes": {"verb": "create", "resource": "services"}})), 201)
            .with(json!({"/kind": "SelfSubjectAccessReview", "/status/allowed": true, "/spec/resourceAttributes/verb": "create"})),
        row("POST", path, review(json!({})), 422).refused("Invalid", &[(
            "spec.resourceAttributes",
            "Invalid value: []: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )]),
        row("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", json!({"spec": {"namespace": "default"}}), 201)
            .with(json!({"/status/resourceRules/0/verbs": ["*"], "/status/incomplete": false})),
        row("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({}), 201)
            .with(json!({"/status/userInfo/groups/0": "system:masters"})),
        row("GET", "/apis/authorization.k8s.io/v1", Value::Null, 200)
            .with(json!({"/resources/0/name": "selfsubjectaccessreviews", "/resources/0/singularName": "selfsubjectaccessreview"})),
        row("GET", path, Value::Null, 405).refused("MethodNotAllowed", &[]),
        row("GET", "/livez/none", Value::Null, 404),
    ]);
    for path in ["/livez/ping", "/readyz/ping", "/healthz/ping"] {
        assert_eq!(Gateway::new().get(path).expect(200).text, "ok");
    }
}

#[test]
fn what_is_empty_is_shown_as_go_shows_it() {
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]});
    let gateway = Gateway::new();
    let made = gateway.post(slices, &slice).expect(201);
    assert!(made.text.contains(r#""ports":null"#) && made.at("/endpoints/0/conditions") == json!({}), "{}", made.text);
    let events = "/api/v1/namespaces/default/events";
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}, "reason": "r"});
    let made = gateway.post(events, &event).expect(201);
    assert!(made.text.contains(r#""eventTime":null"#) && made.at("/source") == json!({}), "{}", made.text);
    let labels = json!({"metadata": {"name": "l", "labels": {"a": null}}, "spec": {"ports": [{"port": 80}]}});
    assert_eq!(gateway.post(SERVICES, &labels).expect(201).at("/metadata/labels"), json!({"a": ""}));
}

/// A client that is still sending when it is refused sees why.
#[test]
fn an_answer_before_the_body_was_read_arrives() {
    let gateway = Gateway::new();
    let body = vec![b'x'; 8 << 20];
    let text = [("Content-Type", "text/plain")];
    for (method, path, headers, code) in [
        ("POST", SERVICES, &text[..], 415),
        ("POST", "/api/v1/nothing", &[], 404),
        ("PUT", SERVICES, &[], 405),
        ("POST", SERVICES, &[("Accept", "text/html")], 406),
    ] {
        let mut stream = gateway.connect();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("open");
        stream.write_all(&body).expect("it is read on");
        assert_eq!(Answer::read(&mut stream).code, code, "{method} {path}");
    }
}

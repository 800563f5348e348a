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
    /// Of an error; empty: not compared.
    message: &'static str,
    /// Reason, field and message of each cause; without a reason, it is not compared.
    causes: Vec<(&'static str, &'static str, &'static str)>,
    /// Pointers into the response, and what is there; `null` is also what is not there.
    object: Value,
}

fn row(method: &'static str, path: &'static str, body: Value, code: u16) -> Row {
    let (media, reason, message, causes, object) = ("", "", "", Vec::new(), json!({}));
    Row { method, path, media, body, code, reason, message, causes, object }
}

impl Row {
    fn sent_as(mut self, media: &'static str) -> Row {
        self.media = media;
        self
    }

    fn refused(mut self, reason: &'static str, causes: &[(&'static str, &'static str)]) -> Row {
        self.causes = causes.iter().map(|(field, message)| ("", *field, *message)).collect();
        self.reason = reason;
        self
    }

    /// The whole text of an error.
    fn told(mut self, reason: &'static str, message: &'static str) -> Row {
        (self.reason, self.message) = (reason, message);
        self
    }

    /// An `Invalid` object: reason, field and message of each cause.
    fn because(mut self, causes: &[(&'static str, &'static str, &'static str)]) -> Row {
        (self.reason, self.causes) = ("Invalid", causes.to_vec());
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
        if !self.message.is_empty() {
            assert_eq!(answer.at("/message"), self.message, "{request}");
        }
        if !self.causes.is_empty() {
            let told = answer.at("/details/causes").as_array().cloned().unwrap_or_default();
            assert_eq!(told.len(), self.causes.len(), "{request}");
            for (cause, (reason, field, message)) in told.iter().zip(&self.causes) {
                assert_eq!((&cause["field"], &cause["message"]), (&json!(field), &json!(message)), "{request}");
                assert!(reason.is_empty() || cause["reason"] == *reason, "{reason} of {request}");
            }
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

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";

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

/// `pkg/controller/endpointslice`, from 1.36 on: the label is on slices of headless Services alone, and selects them.
#[test]
fn slices_of_headless_services_are_selected_by_their_label() {
    let none = |name: &str| {
        let mut none = service(name);
        none["spec"]["clusterIP"] = json!("None");
        none
    };
    let selected = |operator: &'static str| match operator {
        "" => {
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=service.kubernetes.io/headless"
        }
        _ => {
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=%21service.kubernetes.io/headless"
        }
    };
    let service_name = "/items/0/metadata/labels/kubernetes.io~1service-name";
    check([
        row("POST", SERVICES, none("headless"), 201),
        row("POST", SERVICES, service("plain"), 201),
        row("GET", selected(""), Value::Null, 200).with(json!({service_name: "headless", "/items/1": null})),
        row("GET", selected("!"), Value::Null, 200).with(json!({service_name: "plain", "/items/1": null})),
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

/// The errors of the request itself: apimachinery `pkg/api/errors/errors.go`, apiserver `pkg/endpoints/handlers`.
#[test]
fn requests_fail_in_the_api_servers_words() {
    let web = || typed(json!({"ports": [{"port": 80}]}));
    let named = |field: &str, value: &str| {
        let mut web = web();
        web["metadata"][field] = json!(value);
        web
    };
    let text = |text: &str| Value::String(text.to_owned());
    let missing = "/api/v1/namespaces/default/services/none";
    let rv_gone = json!({"preconditions": {"resourceVersion": "0"}});
    let mut stale = web();
    stale["metadata"]["resourceVersion"] = json!("1");
    check([
        row("GET", missing, Value::Null, 404).told("NotFound", r#"services "none" not found"#),
        row("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/none", Value::Null, 404)
            .told("NotFound", r#"endpointslices.discovery.k8s.io "none" not found"#),
        row("POST", SERVICES, web(), 201),
        row("POST", SERVICES, web(), 409).told("AlreadyExists", r#"services "web" already exists"#),
        row("PUT", ONE, stale, 409).told(
            "Conflict",
            "Operation cannot be fulfilled on services \"web\": the object has been modified; please apply your changes \
             to the latest version and try again",
        ),
        row("DELETE", ONE, rv_gone, 409).told(
            "Conflict",
            "Operation cannot be fulfilled on Service \"web\": the ResourceVersion in the precondition (0) does not match \
             the ResourceVersion in record (2). The object might have been modified",
        ).with(json!({"/details/kind": "Service"})),
        row("DELETE", "/api/v1/namespaces/default", Value::Null, 403)
            .told("Forbidden", r#"namespaces "default" is forbidden: this namespace may not be deleted"#),
        row("PUT", ONE, named("name", "other"), 400)
            .told("BadRequest", "the name of the object (other) does not match the name on the URL (web)"),
        row("PUT", ONE, named("namespace", "other"), 400).told(
            "BadRequest",
            "the namespace of the object (other) does not match the namespace on the request (default)",
        ),
        row("POST", SERVICES, named("namespace", "other"), 400).told(
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        row("POST", SERVICES, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}), 400).told(
            "BadRequest",
            r#"Pod in version "v1" cannot be handled as a Service: converting (v1.Pod) to (core.Service): unknown conversion"#,
        ),
        row("POST", SLICES, web(), 400).told(
            "BadRequest",
            "Service in version \"v1\" cannot be handled as a EndpointSlice: converting (v1.Service) to \
             (discovery.EndpointSlice): unknown conversion",
        ),
        row("POST", SERVICES, text("{"), 400).told(
            "BadRequest",
            "the object provided is unrecognized (must be of type Service): couldn't get version/kind; json parse error: \
             unexpected end of JSON input ({)",
        ),
        row("POST", SERVICES, text("x"), 415).sent_as("text/plain").told(
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf",
        ),
        row("PATCH", ONE, json!({}), 415).told(
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
             application/apply-patch+yaml",
        ),
        row("PATCH", ONE, json!([{"op": "remove", "path": "/spec/none"}]), 422)
            .sent_as(JSON_PATCH)
            .told("Invalid", "the server rejected our request due to an error in our request"),
        row("PATCH", ONE, json!([]), 400).sent_as(MERGE_PATCH).told(
            "BadRequest",
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        row("PATCH", ONE, json!("x"), 400).sent_as(STRATEGIC),
        row("PATCH", "/api/v1/namespaces/default/services/web?fieldValidation=Strict", json!({"spec": {"prots": [1, null]}}), 422)
            .sent_as(STRATEGIC)
            .told(
                "Invalid",
                r#" "" is invalid: patch: Invalid value: "map[spec:map[prots:[1 <nil>]]]": strict decoding error: unknown field "spec.prots""#,
            )
            .because(&[(
                "FieldValueInvalid",
                "patch",
                r#"Invalid value: "map[spec:map[prots:[1 <nil>]]]": strict decoding error: unknown field "spec.prots""#,
            )]),
        row("POST", "/api/v1/namespaces/default/services?fieldValidation=Strict", typed(json!({"prots": []})), 400).told(
            "BadRequest",
            r#"Service in version "v1" cannot be handled as a Service: strict decoding error: unknown field "spec.prots""#,
        ),
    ]);
}

/// The errors of options: apimachinery `pkg/apis/meta/v1/validation`, `pkg/apis/meta/internalversion/validation`, `pkg/labels`.
#[test]
fn options_fail_in_the_api_servers_words() {
    let web = || typed(json!({"ports": [{"port": 80}]}));
    let list = |query: &'static str| row("GET", query, Value::Null, 400);
    let continued = "/api/v1/services?resourceVersionMatch=Exact&continue=x&resourceVersion=1";
    check([
        row("POST", "/api/v1/namespaces/default/services?dryRun=Some", web(), 422)
            .told(
                "Invalid",
                r#"CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]: supported values: "All""#,
            )
            .because(&[("FieldValueNotSupported", "dryRun", r#"Unsupported value: ["Some"]: supported values: "All""#)]),
        row("PUT", "/api/v1/namespaces/default/services/web?fieldValidation=Maybe", web(), 422).because(&[(
            "FieldValueNotSupported",
            "fieldValidation",
            r#"Unsupported value: "Maybe": supported values: "", "Ignore", "Strict", "Warn""#,
        )]),
        row("PATCH", "/api/v1/namespaces/default/services/web?force=true", json!({}), 422)
            .sent_as(MERGE_PATCH)
            .told("Invalid", r#"PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch"#),
        row("PATCH", ONE, web(), 422).sent_as("application/apply-patch+yaml").because(&[(
            "FieldValueRequired",
            "fieldManager",
            "Required value: is required for apply patch",
        )]),
        row("DELETE", "/api/v1/namespaces/default/services/web?propagationPolicy=Never", Value::Null, 422).because(&[(
            "FieldValueNotSupported",
            "propagationPolicy",
            r#"Unsupported value: "Never": supported values: "Foreground", "Background", "Orphan", "nil""#,
        )]),
        // Requests that only read have no such options.
        row("GET", "/api/v1/services?dryRun=Some&fieldValidation=Maybe&propagationPolicy=Never", Value::Null, 200),
        row("GET", continued, Value::Null, 422).because(&[(
            "FieldValueForbidden",
            "resourceVersionMatch",
            "Forbidden: resourceVersionMatch is forbidden when continue is provided",
        )]),
        list("/api/v1/services?limit=ten").told("BadRequest", r#"strconv.ParseInt: parsing "ten": invalid syntax"#),
        list("/api/v1/services?resourceVersion=ten").told(
            "BadRequest",
            r#"invalid resource version: resourceVersion: Invalid value: "ten": strconv.ParseUint: parsing "ten": invalid syntax"#,
        ),
        list("/api/v1/services?labelSelector=a%20near%20b").told(
            "BadRequest",
            "unable to parse requirement: found 'near', expected: in, notin, =, ==, !=, gt, lt",
        ),
        list("/api/v1/services?fieldSelector=spec.none%3Da").told("BadRequest", "field label not supported: spec.none"),
        list("/api/v1/endpoints?fieldSelector=spec.none%3Da").told(
            "BadRequest",
            r#""spec.none" is not a known field selector: only "metadata.name", "metadata.namespace""#,
        ),
    ]);
    let gateway = Gateway::new();
    let accept = |query: &str, accept: &str| gateway.send("GET", query, &[("Accept", accept)], "").expect(406);
    assert_eq!(
        accept(SERVICES, "text/html").at("/message"),
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
    assert_eq!(
        accept("/api/v1/services?watch=1", "application/yaml").at("/message"),
        "only the following media types are accepted: application/json;stream=watch, \
         application/vnd.kubernetes.protobuf;stream=watch"
    );
}

/// `pkg/registry/core/service/{storage/alloc.go,portallocator,ipallocator}`: what is allocated fails before anything else.
#[test]
fn allocations_fail_in_the_api_servers_words() {
    let node_port = |name: &str, port: i32| {
        let mut value = typed(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
        value["metadata"]["name"] = json!(name);
        value
    };
    let taken =
        [("FieldValueInvalid", "spec.ports[0].nodePort", "Invalid value: 30100: provided port is already allocated")];
    let twice = typed(json!({"type": "NodePort", "ports": [
        {"name": "a", "port": 80, "nodePort": 30200}, {"name": "b", "port": 81, "nodePort": 30200}]}));
    let same = typed(json!({"type": "NodePort", "ports": [
        {"name": "a", "port": 80, "nodePort": 30200}, {"name": "b", "port": 80, "nodePort": 30200}]}));
    check([
        row("POST", SERVICES, node_port("one", 30100), 201),
        row("POST", SERVICES, node_port("two", 30100), 422).because(&taken),
        // Whatever else is wrong.
        row("POST", SERVICES, node_port("Two", 30100), 422).because(&taken),
        row("POST", SERVICES, node_port("two", 80), 422)
            .told(
                "Invalid",
                "Service \"two\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid \
                 range. The range of valid ports is 30000-32767",
            ),
        row("POST", SERVICES, twice, 422).because(&[(
            "FieldValueInvalid",
            "spec.ports[1].nodePort",
            "Invalid value: 30200: provided port is already allocated",
        )]),
        row("POST", SERVICES, same, 422).because(&[
            ("FieldValueDuplicate", "spec.ports[1].nodePort", "Duplicate value: 30200"),
            (
                "FieldValueDuplicate",
                "spec.ports[1]",
                r#"Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}"#,
            ),
        ]),
        row("POST", SERVICES, typed(json!({"clusterIP": "192.0.2.1", "ports": [{"port": 80}]})), 422).because(&[(
            "FieldValueInvalid",
            "spec.clusterIPs",
            r#"Invalid value: ["192.0.2.1"]: failed to allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16"#,
        )]),
        row("POST", SERVICES, typed(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]})), 422).because(&[(
            "FieldValueInvalid",
            "spec.clusterIPs",
            r#"Invalid value: ["10.96.0.1"]: failed to allocate IP 10.96.0.1: provided IP is already allocated"#,
        )]),
        row("POST", SERVICES, typed(json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]})), 422).because(&[(
            "FieldValueInvalid",
            "spec.ipFamilyPolicy",
            r#"Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
        )]),
        row("POST", SERVICES, typed(json!({"clusterIP": "fd00::5", "ports": [{"port": 80}]})), 422).because(&[(
            "FieldValueInvalid",
            "spec.clusterIPs[0]",
            r#"Invalid value: ["fd00::5"]: IPv6 is not configured on this cluster"#,
        )]),
        row("POST", SERVICES, typed(json!({"ipFamilyPolicy": "Both", "ipFamilies": ["IPv4", "IPv4"]})), 422).because(&[
            ("FieldValueDuplicate", "spec.ipFamilies[1]", r#"Duplicate value: "IPv4""#),
            (
                "FieldValueNotSupported",
                "spec.ipFamilyPolicy",
                r#"Unsupported value: "Both": supported values: "PreferDualStack", "RequireDualStack", "SingleStack""#,
            ),
        ]),
    ]);
}

/// `pkg/apis/core/validation`, `pkg/apis/discovery/validation`: the faults of objects, in their order.
#[test]
fn objects_fail_in_the_api_servers_words() {
    let slice = |kind: &str, address: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
            "addressType": kind, "endpoints": [{"addresses": [address]}]})
    };
    let endpoints = |ip: &str| json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": ip}]}]});
    let node = json!({"metadata": {"name": "n"}, "spec": {"taints": [
        {"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "Never"}]}});
    let not_ip = "Invalid value: \"ten\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    let large = json!({"metadata": {"name": "c"}, "data": {"a": "x".repeat((1 << 20) + 1)}});
    let mut balancer = typed(json!({"type": "LoadBalancer", "ports": [{"port": 80}]}));
    balancer["metadata"]["name"] = json!("balancer");
    check([
        row("POST", SERVICES, typed(json!({"type": "Magic", "ports": [{"port": 0, "protocol": "<b>"}]})), 422).because(&[
            ("FieldValueInvalid", "spec.ports[0].port", "Invalid value: 0: must be between 1 and 65535, inclusive"),
            (
                "FieldValueNotSupported",
                "spec.ports[0].protocol",
                r#"Unsupported value: "\u003cb\u003e": supported values: "SCTP", "TCP", "UDP""#,
            ),
            ("FieldValueInvalid", "spec.ports[0].targetPort", "Invalid value: 0: must be between 1 and 65535, inclusive"),
            (
                "FieldValueNotSupported",
                "spec.type",
                r#"Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
            ),
        ]),
        row("POST", SERVICES, typed(json!({"ports": [{"port": 80, "name": "a.b"}], "loadBalancerSourceRanges": ["10.0.0.0/8"]})), 422)
            .because(&[
                ("FieldValueInvalid", "spec.ports[0].name", "Invalid value: \"a.b\": must not contain dots"),
                (
                    "FieldValueForbidden",
                    "spec.LoadBalancerSourceRanges",
                    "Forbidden: may only be used when `type` is 'LoadBalancer'",
                ),
            ]),
        row("POST", SERVICES, balancer, 201),
        row("PATCH", "/api/v1/namespaces/default/services/balancer", json!({"spec": {"loadBalancerClass": "a/b"}}), 422)
            .sent_as(MERGE_PATCH)
            .because(&[("FieldValueInvalid", "spec.loadBalancerClass", "Invalid value: \"a/b\": may not change once set")]),
        row("POST", SLICES, slice("IPv4", "ten"), 422).because(&[("FieldValueInvalid", "endpoints[0].addresses[0]", not_ip)]),
        row("POST", SLICES, slice("IPv6", "10.0.0.1"), 422).because(&[(
            "FieldValueInvalid",
            "endpoints[0].addresses[0]",
            "Invalid value: \"10.0.0.1\": must be an IPv6 address",
        )]),
        row("POST", SLICES, slice("IP", "10.0.0.1"), 422).because(&[(
            "FieldValueNotSupported",
            "addressType",
            r#"Unsupported value: "IP": supported values: "FQDN", "IPv4", "IPv6""#,
        )]),
        row("POST", ENDPOINTS, endpoints("ten"), 422).because(&[
            ("FieldValueInvalid", "subsets[0].addresses[0].ip", not_ip),
            ("FieldValueInvalid", "subsets[0].addresses[0].ip", "Invalid value: \"ten\": must be a valid IP address"),
        ]),
        row("POST", "/api/v1/nodes", node, 422).because(&[
            (
                "FieldValueDuplicate",
                "metadata.taints[1]",
                r#"Duplicate value: {"Key":"a","Value":"","Effect":"NoSchedule","TimeAdded":null}: taints must be unique by key and effect pair"#,
            ),
            (
                "FieldValueNotSupported",
                "metadata.taints[2].effect",
                r#"Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#,
            ),
        ]),
        row("POST", "/api/v1/namespaces/default/configmaps", large, 422)
            .told("Invalid", "ConfigMap \"c\" is invalid: []: Too long: may not be more than 1048576 bytes")
            .because(&[("FieldValueTooLong", "[]", "Too long: may not be more than 1048576 bytes")]),
    ]);
}

//! Patches, statuses, strict and lenient reading, deletion with a grace period, discovery and OpenAPI.

use super::*;

fn web(gateway: &Gateway) -> String {
    gateway.post(SERVICES, &service("web")).expect(201);
    format!("{SERVICES}/web")
}

#[test]
fn an_address_is_reported_of_a_balancer_or_refused() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &service("web")).expect(201);
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}});
    let path = format!("{SERVICES}/web/status");
    let message = "Service \"web\" is invalid: status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'";
    gateway.patch(&path, "merge", &status).refused(422, "Invalid", message);
    let mut whole = service("web");
    whole["status"] = status["status"].clone();
    gateway.put(&path, &whole).refused(422, "Invalid", message);
    let applied = json!({"apiVersion": "v1", "kind": "Service", "status": status["status"]}).to_string();
    let media = [("Content-Type", "application/apply-patch+yaml")];
    gateway.send("PATCH", &format!("{path}?fieldManager=m"), &media, &applied).refused(422, "Invalid", message);
    gateway.patch(&format!("{SERVICES}/web"), "merge", &json!({"spec": {"type": "LoadBalancer"}})).expect(200);
    let reported = gateway.patch(&path, "merge", &status).expect(200);
    assert_eq!(reported.at("/status/loadBalancer/ingress/0/ip"), "192.0.2.9");
}

#[test]
fn every_kind_of_patch_changes_what_it_names() {
    let gateway = Gateway::new();
    let path = web(&gateway);
    let operations = json!([
        {"op": "test", "path": "/spec/ports/0/port", "value": 80},
        {"op": "add", "path": "/metadata/labels/x", "value": "y"},
    ]);
    let patched = gateway.patch(&path, "json", &operations).expect(200);
    assert_eq!(patched.at("/metadata/labels"), json!({"app": "web", "x": "y"}));
    let port =
        json!({"spec": {"ports": [{"port": 81, "name": "b"}], "$setElementOrder/ports": [{"port": 81}, {"port": 80}]}});
    gateway.patch(&path, "strategic-merge", &port).expect(422);
    let port = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
    let patched = gateway.patch(&path, "strategic-merge", &port).expect(200);
    assert_eq!(patched.at("/spec/ports/0/targetPort"), 8080, "what the patch does not name stays");
    assert_eq!(patched.at("/spec/ports/1/name"), "b");
    let port = json!({"spec": {"ports": [{"port": 81, "$patch": "delete"}]}});
    let patched = gateway.patch(&path, "strategic-merge", &port).expect(200);
    assert_eq!(patched.at("/spec/ports").as_array().map(Vec::len), Some(1));
    let replaced = gateway.patch(&path, "merge", &json!({"spec": {"ports": [{"port": 82}]}})).expect(200);
    assert_eq!(replaced.at("/spec/ports/0/port"), 82);
    assert_eq!(gateway.get(&path).json(), replaced.json());
}

#[test]
fn a_patch_that_does_not_go_is_told_and_changes_nothing() {
    let gateway = Gateway::new();
    let path = web(&gateway);
    let before = gateway.get(&path).json();
    let failed = gateway.patch(&path, "json", &json!([{"op": "test", "path": "/spec/type", "value": "x"}]));
    let failed = failed.expect(422);
    assert_eq!(failed.at("/reason"), "Invalid");
    assert_eq!(failed.at("/message"), "the server rejected our request due to an error in our request");
    assert!(failed.at("/details/causes/0/message").to_string().contains("operation 0"), "{}", failed.text);
    gateway.patch(&path, "json", &json!({"op": "add"})).expect(400);
    gateway.patch(&path, "strategic-merge", &json!({"spec": {"ports": [{"name": "x"}]}})).expect(400);
    gateway.patch(&path, "merge", &json!({"spec": {"ports": [{"port": 0}]}})).expect(422);
    for other in [json!({"metadata": {"name": "b"}}), json!({"metadata": {"namespace": "b"}}), json!({"kind": "Pod"})] {
        gateway.patch(&path, "merge", &other).expect(400);
    }
    gateway.patch(&path, "merge", &json!({"metadata": {"uid": "x"}})).expect(409);
    gateway.patch(&path, "merge", &json!({"metadata": {"resourceVersion": "1"}})).expect(409);
    gateway.patch(&format!("{path}?dryRun=All"), "merge", &json!({"metadata": {"labels": null}})).expect(200);
    gateway.patch(&format!("{path}?force=true"), "merge", &json!({})).expect(422);
    assert_eq!(gateway.get(&path).json(), before);
}

/// Each adds a label of its own; all of them are there in the end.
#[test]
fn patches_at_the_same_time_all_happen() {
    let gateway = Gateway::new();
    let path = web(&gateway);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (gateway, path) = (&gateway, &path);
            scope.spawn(move || {
                for n in 0..10 {
                    let patch = json!({"metadata": {"labels": {format!("w{writer}-{n}"): "x"}}});
                    while gateway.patch(path, "merge", &patch).code == 409 {}
                }
            });
        }
    });
    let labels = gateway.get(&path).at("/metadata/labels");
    assert_eq!(labels.as_object().map(serde_json::Map::len), Some(41));
}

#[test]
fn a_status_is_written_by_itself_and_kept_by_other_writes() {
    let gateway = Gateway::new();
    let path = web(&gateway);
    let status = format!("{path}/status");
    let balancer = json!({"metadata": {"labels": {"x": "y"}}, "spec": {"type": "LoadBalancer"},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "r", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let patched = gateway.patch(&status, "merge", &balancer).expect(200);
    assert_eq!(patched.at("/status/conditions/0/type"), "Ready");
    assert_eq!((patched.at("/spec/type"), patched.at("/metadata/labels/x")), (json!("ClusterIP"), json!("y")));
    assert_eq!(gateway.get(&status).json(), patched.json());
    let mut cleared = patched.json();
    cleared["status"] = json!({"loadBalancer": {}});
    cleared["spec"]["ports"][0]["port"] = json!(99);
    let cleared = gateway.put(&status, &cleared).expect(200);
    assert_eq!((cleared.at("/status/conditions"), cleared.at("/spec/ports/0/port")), (Value::Null, json!(80)));
    gateway.put(&status, &patched.json()).expect(409);

    let pods = "/api/v1/namespaces/default/pods";
    gateway.post(pods, &pod("p", "web", "10.244.0.9")).expect(201);
    let mut without = pod("p", "web", "10.244.0.9");
    without.as_object_mut().expect("fields").remove("status");
    without["metadata"]["labels"]["x"] = json!("y");
    let replaced = gateway.put(&format!("{pods}/p"), &without).expect(200);
    assert_eq!((replaced.at("/status/podIP"), replaced.at("/metadata/labels/x")), (json!("10.244.0.9"), json!("y")));
    let condition = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let patched = gateway.patch(&format!("{pods}/p/status"), "strategic-merge", &condition).expect(200);
    assert_eq!(
        (patched.at("/status/conditions/0/status"), patched.at("/status/podIP")),
        (json!("False"), json!("10.244.0.9"))
    );
    for path in
        ["/api/v1/namespaces/default/status", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/a/status"]
    {
        let answer = gateway.get(path);
        assert_eq!(answer.code, if path.starts_with("/apis") { 404 } else { 200 }, "{path}");
    }
}

#[test]
fn unknown_and_repeated_fields_are_refused_warned_of_or_ignored() {
    let gateway = Gateway::new();
    let body = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","name":"web"},"spec":{"prots":[],"ports":[{"port":80}]}}"#;
    let post = |validation: &str| gateway.send("POST", &format!("{SERVICES}?dryRun=All{validation}"), &[], body);
    let message = r#"Service in version "v1" cannot be handled as a Service: strict decoding error: unknown field "spec.prots", duplicate field "metadata.name""#;
    post("&fieldValidation=Strict").refused(400, "BadRequest", message);
    let expected = r#"299 - "unknown field \"spec.prots\"", 299 - "duplicate field \"metadata.name\"""#;
    for warn in ["", "&fieldValidation=Warn"] {
        assert_eq!(post(warn).expect(201).headers.get("warning").map(String::as_str), Some(expected));
    }
    assert_eq!(post("&fieldValidation=Ignore").expect(201).headers.get("warning"), None);
    post("&fieldValidation=Maybe").expect(422);
    let path = web(&gateway);
    let patch = json!({"spec": {"prots": 1}});
    gateway.patch(&format!("{path}?fieldValidation=Strict"), "merge", &patch).expect(422);
    let warned = gateway.patch(&path, "strategic-merge", &patch).expect(200);
    assert_eq!(warned.headers.get("warning").map(String::as_str), Some(r#"299 - "unknown field \"spec.prots\"""#));
    let mut headless = service("headless");
    headless["spec"]["clusterIP"] = json!("None");
    headless["spec"]["sessionAffinity"] = json!("ClientIP");
    let told = gateway.post(SERVICES, &headless).expect(201);
    assert!(told.headers["warning"].contains("SessionAffinity is ignored for headless services"));
}

/// A Pod that a Node runs: others go at once.
fn placed(name: &str) -> Value {
    let mut value = pod(name, "web", "10.244.0.9");
    value["spec"]["nodeName"] = json!("n");
    value
}

#[test]
fn a_pod_deleted_with_a_grace_period_is_terminating_and_then_goes_by_itself() {
    let gateway = Gateway::new();
    web(&gateway);
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["p", "q"] {
        gateway.post(pods, &placed(name)).expect(201);
    }
    let deleted = gateway.delete(&format!("{pods}/p?gracePeriodSeconds=600")).expect(200);
    assert_eq!(deleted.at("/metadata/deletionGracePeriodSeconds"), 600);
    assert!(gateway.get(&format!("{pods}/p")).expect(200).at("/metadata/deletionTimestamp").is_string());
    let options =
        r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":1,"propagationPolicy":"Background"}"#;
    gateway.send("DELETE", &format!("{pods}/p"), &[], options).expect(200);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while gateway.get(&format!("{pods}/p")).code != 404 {
        assert!(std::time::Instant::now() < deadline, "it is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    gateway.delete(&format!("{pods}/q?gracePeriodSeconds=600")).expect(200);
    gateway.delete(&format!("{pods}/q?gracePeriodSeconds=0")).expect(200);
    gateway.get(&format!("{pods}/q")).expect(404);
    gateway.delete(&format!("{SERVICES}/web?gracePeriodSeconds=soon")).expect(400);
    gateway.delete(&format!("{SERVICES}/web?propagationPolicy=Never")).expect(422);
    gateway.delete(&format!("{SERVICES}/web?propagationPolicy=Foreground&gracePeriodSeconds=30")).expect(200);
    gateway.get(&format!("{SERVICES}/web")).expect(404);
}

#[test]
fn a_terminating_pod_goes_after_a_restart_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.db");
    let restarted = || Gateway::restored(&path);
    let pods = "/api/v1/namespaces/default/pods";
    let gateway = restarted();
    for (name, grace) in [("soon", 1), ("later", 600)] {
        gateway.post(pods, &placed(name)).expect(201);
        gateway.delete(&format!("{pods}/{name}?gracePeriodSeconds={grace}")).expect(200);
    }
    gateway.stop();
    let gateway = restarted();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while gateway.get(&format!("{pods}/soon")).code != 404 {
        assert!(std::time::Instant::now() < deadline, "it is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    gateway.get(&format!("{pods}/later")).expect(200);
}

#[test]
fn groups_come_all_at_once_or_one_by_one() {
    let gateway = Gateway::new();
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let kubectls = format!("{aggregated},{},application/json", aggregated.replace("v=v2", "v=v2beta1"));
    for (path, plain, groups) in [("/api", "APIVersions", 1), ("/apis", "APIGroupList", 4)] {
        let answer = gateway.send("GET", path, &[("Accept", &kubectls)], "").expect(200);
        assert_eq!(answer.headers["content-type"], aggregated);
        assert_eq!(answer.at("/kind"), "APIGroupDiscoveryList");
        assert_eq!(answer.at("/items").as_array().map(Vec::len), Some(groups));
        for accept in ["application/json", "application/json;as=Other,application/json", "*/*"] {
            assert_eq!(gateway.send("GET", path, &[("Accept", accept)], "").expect(200).at("/kind"), plain);
        }
    }
    let core = gateway.send("GET", "/api", &[("Accept", aggregated)], "").expect(200);
    let resources = core.at("/items/0/versions/0/resources");
    let services =
        resources.as_array().and_then(|list| list.iter().find(|r| r["resource"] == "services")).expect("there");
    assert_eq!((&services["scope"], &services["categories"]), (&json!("Namespaced"), &json!(["all"])));
    assert_eq!(services["subresources"][0]["subresource"], "status");
}

#[test]
fn openapi_is_found_by_its_index_and_tells_the_parameters_of_a_patch() {
    let gateway = Gateway::new();
    let index = gateway.get("/openapi/v3").expect(200).at("/paths");
    let paths: Vec<String> = index
        .as_object()
        .expect("paths")
        .values()
        .map(|p| p["serverRelativeURL"].as_str().expect("a path").to_owned())
        .collect();
    assert_eq!(paths.len(), 2);
    for path in paths {
        assert_eq!(gateway.get(&path).expect(200).at("/openapi"), "3.0.0");
    }
    let core = gateway.get("/openapi/v3/api/v1").json();
    let patch = &core["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
    let parameters: Vec<&str> =
        patch["parameters"].as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(parameters, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    assert_eq!(gateway.get("/openapi/v2").expect(200).at("/swagger"), "2.0");
    let protobuf = [("Accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")];
    let document = gateway.send("GET", "/openapi/v2", &protobuf, "").expect(200);
    assert_eq!(document.headers["content-type"], protobuf[0].1.replace('@', "."));
    assert!(document.text.contains("x-kubernetes-patch-merge-key") && document.text.contains("fieldValidation"));
    gateway.send("GET", "/openapi/v2", &[("Accept", "application/vnd.kubernetes.protobuf")], "").expect(406);
}

#[test]
fn what_the_gateway_does_not_do_is_a_warning_wherever_an_object_is_written() {
    const EXPECTED: &str = r#"299 - "spec.loadBalancerClass: no address is assigned here, because class \"a.io/b\" belongs to another implementation""#;
    let gateway = Gateway::new();
    let mut balancer = service("web");
    (balancer["spec"]["type"], balancer["spec"]["loadBalancerClass"]) = (json!("LoadBalancer"), json!("a.io/b"));
    let applied = gateway.post(&format!("{APPLY_PATH}?dryRun=All"), &balancer).expect(200);
    assert_eq!(applied.at("/items/0/warnings/0/field"), "spec.loadBalancerClass");
    let warning = |answer: &Answer| answer.headers.get("warning").cloned();
    let created = gateway.post(SERVICES, &balancer).expect(201);
    assert_eq!(warning(&created).as_deref(), Some(EXPECTED));
    let path = format!("{SERVICES}/web");
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(warning(&gateway.patch(&path, "merge", &labelled).expect(200)).as_deref(), Some(EXPECTED));
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.77"}]}}});
    assert_eq!(warning(&gateway.patch(&format!("{path}/status"), "merge", &status).expect(200)), None);
    assert_eq!(warning(&gateway.get(&path).expect(200)), None);
}

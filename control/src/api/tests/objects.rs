//! What clients do when all goes well, and what they are answered.

use super::*;

#[test]
fn an_object_lives_and_dies() {
    let gateway = Gateway::new();
    let made = gateway.post(SERVICES, &service("web")).expect(201);
    assert_eq!(made.at("/kind"), "Service");
    assert!(made.at("/spec/clusterIP").as_str().is_some_and(|ip| ip.starts_with("10.96.")));
    let path = format!("{SERVICES}/web");
    let read = gateway.get(&path).expect(200);
    assert_eq!(read.json(), made.json(), "what was answered is what can be read");

    let mut changed = read.json();
    changed["spec"]["ports"][0]["port"] = json!(81);
    let replaced = gateway.put(&path, &changed).expect(200);
    assert_eq!(replaced.at("/spec/ports/0/port"), 81);
    assert_eq!(replaced.at("/spec/clusterIP"), made.at("/spec/clusterIP"));

    let deleted = gateway.delete(&path).expect(200);
    assert_eq!((deleted.at("/kind"), deleted.at("/metadata/name")), (json!("Service"), json!("web")));
    gateway.get(&path).refused(404, "NotFound", r#"services "web" not found"#);
    gateway.delete(&path).refused(404, "NotFound", r#"services "web" not found"#);
    gateway.stop();
}

#[test]
fn a_deletion_is_answered_with_what_went_not_with_what_came_instead() {
    let gateway = Gateway::new();
    let path = format!("{SERVICES}/kubernetes");
    let before = gateway.get(&path).expect(200).at("/metadata/uid");
    assert_eq!(gateway.delete(&path).expect(200).at("/metadata/uid"), before);
    assert_ne!(gateway.get(&path).expect(200).at("/metadata/uid"), before, "a client that waits sees that it went");
    let path = "/api/v1/namespaces/kube-node-lease";
    let before = gateway.get(path).expect(200).at("/metadata/uid");
    assert_eq!(gateway.delete(path).expect(200).at("/details/uid"), before);
    assert_ne!(gateway.get(path).expect(200).at("/metadata/uid"), before);
    let uid = json!({"preconditions": {"uid": "other"}}).to_string();
    let refused = gateway.send("DELETE", path, &[], &uid).expect(409).at("/message").to_string();
    assert!(refused.contains("the UID in the precondition (other) does not match the UID in record ("), "{refused}");
}

#[test]
fn a_replacement_of_nothing_makes_the_kinds_that_kubernetes_makes_so() {
    let gateway = Gateway::new();
    let path = format!("{SERVICES}/web");
    let made = gateway.put(&path, &service("web")).expect(201);
    gateway.put(&path, &service("web")).expect(200);
    let mut other = service("web");
    other["metadata"]["uid"] = json!("other");
    let refused = gateway.put(&path, &other).expect(409).at("/message").to_string();
    assert!(refused.contains("Precondition failed: UID in precondition: other, UID in object meta: "), "{refused}");
    gateway.delete(&path).expect(200);
    let mut value = service("web");
    value["metadata"]["uid"] = made.at("/metadata/uid");
    gateway.put(&path, &value).refused(404, "NotFound", r#"services "web" not found"#);
    // A version is that of an object that is no more: it does not count.
    let mut value = service("web");
    value["metadata"]["resourceVersion"] = made.at("/metadata/resourceVersion");
    gateway.put(&path, &value).expect(201);
    let pod_path = "/api/v1/namespaces/default/pods/p";
    gateway.put(pod_path, &pod("p", "web", "10.244.0.1")).refused(404, "NotFound", r#"pods "p" not found"#);
}

#[test]
fn only_pods_terminate() {
    let gateway = Gateway::new();
    let dumped = |mut value: Value| {
        value["metadata"]["deletionTimestamp"] = json!("2001-01-01T00:00:00Z");
        value["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        value
    };
    let made = gateway.post(SERVICES, &dumped(service("web"))).expect(201);
    assert_eq!(
        (made.at("/metadata/deletionTimestamp"), made.at("/metadata/deletionGracePeriodSeconds")),
        (Value::Null, Value::Null)
    );
    let made = gateway.post("/api/v1/namespaces/default/pods", &dumped(pod("p", "web", "10.244.0.1"))).expect(201);
    assert_eq!(made.at("/metadata/deletionTimestamp"), "2001-01-01T00:00:00Z");
}

#[test]
fn a_pod_has_what_clients_take_for_granted() {
    let gateway = Gateway::new();
    let value = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
    let made = gateway.post("/api/v1/namespaces/default/pods", &value).expect(201);
    assert_eq!((made.at("/spec/securityContext"), made.at("/status/phase")), (json!({}), json!("Pending")));
}

#[test]
fn what_is_not_here_is_told_by_name() {
    let gateway = Gateway::new();
    let told = |what: &str| format!("the server could not find the requested resource: {what} is not served here");
    let pod = "/api/v1/namespaces/default/pods/p";
    gateway.get(&format!("{pod}/log")).refused(404, "NotFound", &told("pods/log"));
    gateway.send("POST", &format!("{pod}/exec"), &[], "").refused(404, "NotFound", &told("pods/exec"));
    gateway.get(&format!("{SERVICES}/web/scale")).refused(404, "NotFound", &told("services/scale"));
    let unknown = "the server could not find the requested resource";
    gateway.get("/api/v1/namespaces/default/limitranges").refused(404, "NotFound", unknown);
}

#[test]
fn another_version_of_a_kind_is_refused_as_such() {
    let gateway = Gateway::new();
    let mut value = service("web");
    value["apiVersion"] = json!("v2");
    let message = "Service in version \"v2\" cannot be handled as a Service: no kind \"Service\" is registered for version \"v2\"";
    gateway.post(SERVICES, &value).refused(400, "BadRequest", message);
}

#[test]
fn an_object_need_not_say_the_kind_that_its_path_says() {
    let gateway = Gateway::new();
    let typed = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    let created = gateway.post(SERVICES, &typed("web")).expect(201);
    assert_eq!((created.at("/kind"), created.at("/apiVersion")), (json!("Service"), json!("v1")));
    let mut again = typed("web");
    again["kind"] = json!("");
    again["apiVersion"] = json!(null);
    again["metadata"]["resourceVersion"] = created.at("/metadata/resourceVersion");
    gateway.put(&format!("{SERVICES}/web"), &again).expect(200);
    let mut other = typed("other");
    other["kind"] = json!("Pod");
    gateway.post(SERVICES, &other).expect(400);
}

#[test]
fn of_two_writers_to_one_version_one_is_told_of_the_conflict() {
    let gateway = Gateway::new();
    let made = gateway.post(SERVICES, &service("web")).expect(201).json();
    let path = format!("{SERVICES}/web");
    let codes: Vec<u16> = std::thread::scope(|scope| {
        let writers: Vec<_> = ["one", "two"]
            .map(|writer| {
                let (gateway, path, mut value) = (&gateway, &path, made.clone());
                value["metadata"]["labels"]["writer"] = json!(writer);
                scope.spawn(move || gateway.put(path, &value))
            })
            .into_iter()
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("an answer").code).collect()
    });
    assert!(codes == [200, 409] || codes == [409, 200], "{codes:?}");
    gateway.put(&path, &made).refused(
        409,
        "Conflict",
        "Operation cannot be fulfilled on services \"web\": the object has been modified; please apply your changes to the latest version and try again",
    );
}

#[test]
fn lists_select_by_namespace_label_and_field() {
    let gateway = Gateway::new();
    for name in ["a", "b"] {
        gateway.post(SERVICES, &service(name)).expect(201);
    }
    gateway.post("/api/v1/namespaces/other/services", &service("a")).expect(201);
    let names = |path: &str| -> Vec<String> {
        let list = gateway.get(path).expect(200).json();
        assert_eq!(list["kind"], "ServiceList");
        assert!(list["metadata"]["resourceVersion"].is_string());
        let name = |item: &Value| format!("{}/{}", item["metadata"]["namespace"], item["metadata"]["name"]);
        list["items"].as_array().expect("items").iter().map(|item| name(item).replace('"', "")).collect()
    };
    assert_eq!(names("/api/v1/services"), ["default/a", "default/b", "default/kubernetes", "other/a"]);
    assert_eq!(names(SERVICES), ["default/a", "default/b", "default/kubernetes"]);
    assert_eq!(names("/api/v1/services?labelSelector=app%3Da"), ["default/a", "other/a"]);
    assert_eq!(names("/api/v1/services?labelSelector=app%20notin%20(a)"), ["default/b", "default/kubernetes"]);
    assert_eq!(names("/api/v1/services?fieldSelector=metadata.namespace%3Dother"), ["other/a"]);
    assert_eq!(names("/api/v1/namespaces/none/services"), Vec::<String>::new());
    let refused = gateway.get("/api/v1/services?fieldSelector=spec.nodeName%3Da");
    refused.refused(400, "BadRequest", "field label not supported: spec.nodeName");
}

#[test]
fn endpoints_follow_pods() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &service("web")).expect(201);
    gateway.post("/api/v1/namespaces/default/pods", &pod("web-1", "web", "10.244.1.10")).expect(201);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let list = gateway.get(&format!("{slices}?labelSelector=kubernetes.io/service-name%3Dweb")).expect(200);
    assert_eq!(list.at("/items/0/endpoints/0/addresses/0"), "10.244.1.10");
    let explained = "/apis/pollgate.io/v1alpha1/namespaces/default/services/web/explain";
    assert!(gateway.get(explained).expect(200).text.contains("web-1"));
    gateway.get(&explained.replace("/web/", "/none/")).refused(404, "NotFound", r#"services "none" not found"#);
}

#[test]
fn endpoints_are_written_for_those_who_read_them_and_read_from_those_who_write_them() {
    let gateway = Gateway::new();
    let all = "/api/v1/namespaces/default/endpoints";
    gateway.post(SERVICES, &service("web")).expect(201);
    gateway.post("/api/v1/namespaces/default/pods", &pod("web-1", "web", "10.244.1.10")).expect(201);
    assert_eq!(gateway.get(&format!("{all}/web")).expect(200).at("/subsets/0/addresses/0/ip"), "10.244.1.10");

    let by_hand = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes"},
        "subsets": [{"addresses": [{"ip": "192.0.2.6"}], "ports": [{"name": "https", "port": 6443}]}]});
    gateway.post(all, &by_hand).expect(201);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let list = gateway.get(&format!("{slices}?labelSelector=kubernetes.io/service-name%3Dkubernetes")).expect(200);
    assert_eq!(list.at("/items/0/endpoints/0/addresses/0"), "192.0.2.6");
    let accept = [("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = gateway.send("GET", all, &accept, "").expect(200);
    assert_eq!(table.at("/rows/0/cells/1"), "192.0.2.6:6443");
    gateway.delete(&format!("{all}/kubernetes")).expect(200);
    assert_eq!(gateway.get(slices).expect(200).at("/items").as_array().map(Vec::len), Some(1));
}

#[test]
fn events_can_be_written_and_asked_for_by_what_they_are_about() {
    let gateway = Gateway::new();
    let events = "/api/v1/namespaces/default/events";
    for (name, about) in [("e1", "web"), ("e2", "db")] {
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "reason": "Test", "type": "Normal",
            "involvedObject": {"kind": "Service", "namespace": "default", "name": about}});
        gateway.post(events, &event).expect(201);
    }
    let query =
        "fieldSelector=involvedObject.name%3Ddb,involvedObject.kind%3DService,involvedObject.namespace%3Ddefault";
    let found = gateway.get(&format!("{events}?{query}")).expect(200);
    assert_eq!((found.at("/items/0/metadata/name"), found.at("/items/1")), (json!("e2"), Value::Null));
}

#[test]
fn a_merge_patch_changes_what_it_names() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &service("web")).expect(201);
    let path = format!("{SERVICES}/web");
    let merge = [("Content-Type", "application/merge-patch+json")];
    let patched = gateway.send("PATCH", &path, &merge, r#"{"metadata":{"labels":{"app":null,"x":"y"}}}"#).expect(200);
    assert_eq!(patched.at("/metadata/labels"), json!({"x": "y"}));
    assert_eq!(patched.at("/spec/selector"), json!({"app": "web"}));
    let stale = r#"{"metadata":{"resourceVersion":"1"}}"#;
    assert_eq!(gateway.send("PATCH", &path, &merge, stale).expect(409).at("/reason"), "Conflict");
    gateway.send("PATCH", &path, &[("Content-Type", "application/json")], "{}").expect(415);
    gateway.send("PATCH", &path, &[], "{}").expect(415);
    gateway.send("PATCH", &format!("{SERVICES}/none"), &merge, "{}").expect(404);
    gateway.send("PATCH", &path, &merge, "[]").expect(400);
}

#[test]
fn a_dry_run_answers_and_leaves_no_trace() {
    let gateway = Gateway::new();
    let dry = gateway.post(&format!("{SERVICES}?dryRun=All"), &service("web")).expect(201);
    assert_eq!(dry.at("/metadata/resourceVersion"), Value::Null);
    gateway.get(&format!("{SERVICES}/web")).expect(404);
    let made = gateway.post(SERVICES, &service("web")).expect(201);
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    let dry = gateway.patch(&format!("{SERVICES}/web?dryRun=All"), "merge", &label).expect(200);
    assert_eq!(dry.at("/metadata/labels/x"), "y");
    assert_eq!(dry.at("/metadata/resourceVersion"), made.at("/metadata/resourceVersion"));
    gateway.delete(&format!("{SERVICES}/web?dryRun=All")).expect(200);
    let options = r#"{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"]}"#;
    gateway.send("DELETE", &format!("{SERVICES}/web"), &[], options).expect(200);
    gateway.get(&format!("{SERVICES}/web")).expect(200);
    gateway.delete(&format!("{SERVICES}/web?dryRun=Some")).expect(422);
    let options = r#"{"preconditions":{"uid":"another"}}"#;
    gateway.send("DELETE", &format!("{SERVICES}/web"), &[], options).expect(409);
    gateway.get(&format!("{SERVICES}/web")).expect(200);
}

#[test]
fn yaml_is_read_where_json_is() {
    let gateway = Gateway::new();
    let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";
    gateway.send("POST", SERVICES, &[("Content-Type", "application/yaml; charset=utf-8")], yaml).expect(201);
    gateway.send("POST", SERVICES, &[("Content-Type", "application/yaml")], "a: [").expect(400);
    // Of several documents the first counts.
    let two = format!("{}---\n{yaml}", yaml.replace("web", "first"));
    let made = gateway.send("POST", SERVICES, &[("Content-Type", "application/yaml")], &two).expect(201);
    assert_eq!(made.at("/metadata/name"), "first");
    let list = format!("kind: List\napiVersion: v1\nitems:\n- {}", yaml.trim_end().replace('\n', "\n  "));
    let message = "List in version \"v1\" cannot be handled as a Service: converting (v1.List) to (core.Service): unknown conversion";
    gateway.send("POST", SERVICES, &[("Content-Type", "application/yaml")], &list).refused(400, "BadRequest", message);
    let list = json!({"kind": "List", "apiVersion": "v1", "items": [service("web")]});
    gateway.post(SERVICES, &list).refused(400, "BadRequest", message);
}

/// As the official Python client sends it.
#[test]
fn an_object_may_leave_its_kind_to_the_path() {
    let gateway = Gateway::new();
    let mut web = service("web");
    for field in ["apiVersion", "kind"] {
        web.as_object_mut().expect("fields").remove(field);
    }
    assert_eq!(gateway.post(SERVICES, &web).expect(201).at("/kind"), "Service");
    gateway.put(&format!("{SERVICES}/web"), &web).expect(200);
    web["kind"] = json!("Pod");
    gateway.post(SERVICES, &web).expect(400);
}

#[test]
fn discovery_tells_what_is_served() {
    let gateway = Gateway::new();
    assert_eq!(gateway.get("/version").expect(200).at("/major"), "1");
    assert_eq!(gateway.get("/api").expect(200).at("/versions"), json!(["v1"]));
    let groups = gateway.get("/apis").expect(200);
    let groups: Vec<Value> =
        groups.at("/groups").as_array().into_iter().flatten().map(|group| group["name"].clone()).collect();
    assert_eq!(groups, ["authentication.k8s.io", "authorization.k8s.io", "discovery.k8s.io", "pollgate.io"]);
    for group in ["/api/v1", "/apis/discovery.k8s.io/v1"] {
        let resources = gateway.get(group).expect(200).at("/resources");
        for resource in resources.as_array().expect("a list") {
            let name = resource["name"].as_str().expect("a name");
            if name.contains('/') {
                assert_eq!(resource["verbs"], json!(["get", "patch", "update"]), "{name}");
                continue;
            }
            let path = format!("{group}/{name}");
            let list = gateway.get(&path).expect(200);
            assert_eq!(list.at("/kind"), format!("{}List", resource["kind"].as_str().expect("a kind")));
        }
    }
    for path in ["/version", "/api", "/apis", "/api/v1", "/apis/discovery.k8s.io/v1"] {
        assert_eq!(gateway.get(&format!("{path}/")).expect(200).json(), gateway.get(path).json());
    }
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(gateway.get(path).expect(200).text, "ok");
    }
    assert_eq!(gateway.get("/apis/pollgate.io/v1alpha1/stats").expect(200).at("/counters/rx"), 7);
}

/// K `staging/src/k8s.io/apiserver/pkg/server/healthz/healthz.go`.
#[test]
fn health_is_said_check_by_check() {
    let gateway = Gateway::new();
    let fault = Some("it is down".to_owned());
    gateway.checks.set(vec![Check::live("worker-0", None), Check::ready("interface-eth0", fault)]);
    let text = |path: &str, code| gateway.get(path).expect(code).text;
    assert_eq!(text("/livez", 200), "ok");
    let lines = "[+]ping ok\n[+]worker-0 ok\n[+]checks ok\nlivez check passed\n";
    assert_eq!(text("/livez?verbose", 200), lines);
    for path in ["readyz", "healthz"] {
        let lines = "[+]ping ok\n[+]store ok\n[+]worker-0 ok\n[-]interface-eth0 failed: it is down\n[+]checks ok\n";
        assert_eq!(text(&format!("/{path}"), 500), format!("{lines}{path} check failed\n"));
        assert_eq!(text(&format!("/{path}?exclude=interface-eth0"), 200), "ok");
    }
    let lines = "[+]ping ok\n[+]store excluded: ok\n[+]worker-0 ok\n[+]interface-eth0 excluded: ok\n[+]checks ok\n\
        warn: some health checks cannot be excluded: no matches for \"etcd\"\nreadyz check passed\n";
    assert_eq!(text("/readyz?verbose&exclude=interface-eth0&exclude=store&exclude=etcd", 200), lines);
    assert_eq!(text("/readyz/worker-0", 200), "ok");
    assert_eq!(text("/readyz/interface-eth0", 500), "internal server error: it is down\n");
    // It is no check of this path.
    gateway.get("/livez/interface-eth0").expect(404);
    let stats = gateway.get("/apis/pollgate.io/v1alpha1/stats").expect(200);
    assert_eq!(stats.at("/checks/3"), json!({"name": "interface-eth0", "scope": "ready", "fault": "it is down"}));
}

#[test]
fn tables_have_kubectls_columns() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &service("web")).expect(201);
    let accept = [("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let table = gateway.send("GET", SERVICES, &accept, "").expect(200);
    assert_eq!((table.at("/kind"), table.at("/apiVersion")), (json!("Table"), json!("meta.k8s.io/v1")));
    assert_eq!(table.at("/columnDefinitions/0/name"), "Name");
    assert_eq!((table.at("/rows/0/cells/0"), table.at("/rows/1/cells/0")), (json!("kubernetes"), json!("web")));
    assert_eq!(table.at("/rows/0/object/kind"), "PartialObjectMetadata");
    let columns = table.at("/columnDefinitions").as_array().map(Vec::len);
    assert_eq!(table.at("/rows/0/cells").as_array().map(Vec::len), columns);
    let whole = gateway.send("GET", &format!("{SERVICES}/web?includeObject=Object"), &accept, "").expect(200);
    assert_eq!(whole.at("/rows/0/object/kind"), "Service");
    let only = [("Accept", "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io")];
    gateway.send("GET", SERVICES, &only, "").expect(406);
    let either = [("Accept", "application/cbor,application/json")];
    assert_eq!(gateway.send("GET", SERVICES, &either, "").expect(200).at("/kind"), "ServiceList");
}

#[test]
fn apply_is_all_or_nothing_and_tells_what_it_did() {
    let gateway = Gateway::new();
    let list = |items: Value| json!({"apiVersion": "v1", "kind": "List", "items": items});
    let results = |answer: &Answer| -> Vec<Value> {
        assert_eq!(answer.at("/kind"), "ApplyResult");
        let items = answer.at("/items");
        items.as_array().expect("items").iter().map(|item| item["result"].clone()).collect()
    };
    let first = gateway.post(APPLY_PATH, &list(json!([service("a"), service("b")]))).expect(200);
    assert_eq!(results(&first), ["created", "created"]);
    assert_eq!(first.at("/items/1/object/metadata/name"), "b");
    let mut b = service("b");
    b["spec"]["ports"][0]["port"] = json!(81);
    let changed = list(json!([service("a"), b, pod("p", "a", "10.0.0.1")]));
    assert_eq!(
        results(&gateway.post(&format!("{APPLY_PATH}?dryRun=All"), &changed).expect(200)),
        ["unchanged", "configured", "created"]
    );
    let second = gateway.post(APPLY_PATH, &changed).expect(200);
    assert_eq!(results(&second), ["unchanged", "configured", "created"]);
    let revision = |answer: &Answer| answer.at("/metadata/resourceVersion");
    assert_eq!(second.at("/items/1/object/metadata/resourceVersion"), revision(&second));

    let mut bad = service("c");
    bad["spec"]["ports"][0]["port"] = json!(70000);
    let refused = gateway.post(APPLY_PATH, &list(json!([service("d"), bad, {"kind": "Service"}]))).expect(422);
    let causes = refused.at("/details/causes").to_string();
    assert!(causes.contains(r#""field":"items[2].metadata.name""#), "{causes}");
    let refused = gateway.post(APPLY_PATH, &list(json!([service("d"), bad]))).expect(422);
    assert_eq!(refused.at("/details/causes/0/field"), "items[1].spec.ports[0].port");
    gateway.get(&format!("{SERVICES}/d")).expect(404);

    let third = gateway.post(&format!("{APPLY_PATH}?namespace=other"), &service("a")).expect(200);
    assert_eq!(third.at("/items/0/object/metadata/namespace"), "other");
    let yaml = [("Content-Type", "application/yaml")];
    let documents =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: m}\n";
    assert_eq!(results(&gateway.send("POST", APPLY_PATH, &yaml, documents).expect(200)), ["created", "created"]);
}

#[test]
fn a_long_list_is_whole() {
    let gateway = Gateway::new();
    let items: Vec<Value> =
        (0..1500).map(|n| pod(&format!("p-{n}"), "a", &format!("10.1.{}.{}", n / 250, n % 250 + 1))).collect();
    gateway.post(APPLY_PATH, &json!({"apiVersion": "v1", "kind": "List", "items": items})).expect(200);
    let list = gateway.get("/api/v1/pods").expect(200);
    assert!(list.text.len() > 4 * 65536, "long enough to be sent in pieces");
    assert_eq!(list.at("/items").as_array().map(Vec::len), Some(1500));
}

#[test]
fn a_restart_keeps_the_state() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.db");
    let restarted = || Gateway::restored(&path);
    let gateway = restarted();
    gateway.post(SERVICES, &service("web")).expect(201);
    gateway.post("/api/v1/namespaces/default/pods", &pod("web-1", "web", "10.244.1.10")).expect(201);
    let lists = [
        "/api/v1/services",
        "/api/v1/endpoints",
        "/api/v1/pods",
        "/api/v1/namespaces",
        "/apis/discovery.k8s.io/v1/endpointslices",
    ];
    let before = lists.map(|list| gateway.get(list).expect(200).json());
    for item in before.iter().flat_map(|list| list["items"].as_array().into_iter().flatten()) {
        assert!(item["metadata"]["creationTimestamp"].is_string(), "from the start: {item}");
    }
    gateway.stop();
    let gateway = restarted();
    assert_eq!(lists.map(|list| gateway.get(list).expect(200).json()), before);
}

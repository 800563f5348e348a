//! Watches, pages and the deletion of collections, as a client meets them.

use std::io::{BufRead, BufReader};

use super::*;
use crate::api::server::STOP_TIME;

/// A namespace where nothing is from the start.
const SERVICES: &str = "/api/v1/namespaces/shop/services";

/// A watch that is open.
pub(super) struct Watch {
    stream: BufReader<UnixStream>,
    pub(super) code: u16,
    /// Of the chunk that is being read.
    line: String,
}

impl Watch {
    pub(super) fn open(gateway: &Gateway, path: &str) -> Self {
        Self::accepting(gateway, path, "application/json")
    }

    fn accepting(gateway: &Gateway, path: &str, accept: &str) -> Self {
        let mut stream = gateway.connect();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("open");
        let mut watch = Self { stream: BufReader::new(stream), code: 0, line: String::new() };
        watch.code = watch.text().split(' ').nth(1).expect("a code").parse().expect("a number");
        while !watch.text().is_empty() {}
        watch
    }

    /// A line of the protocol.
    fn text(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line in time");
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    /// The next event; nothing at the clean end.
    pub(super) fn next(&mut self) -> Option<Value> {
        while !self.line.contains('\n') {
            let size = usize::from_str_radix(&self.text(), 16).expect("a chunk");
            if size == 0 {
                return None;
            }
            let mut chunk = vec![0; size];
            self.stream.read_exact(&mut chunk).expect("a whole chunk");
            self.line += std::str::from_utf8(&chunk).expect("UTF-8");
            assert_eq!(self.text(), "", "the end of the chunk");
        }
        let (line, rest) = self.line.split_once('\n').expect("just found");
        let event = serde_json::from_str(line).expect("JSON");
        self.line = rest.to_owned();
        Some(event)
    }

    /// The next event as its type and the name of its object.
    fn told(&mut self) -> (String, String) {
        let event = self.next().expect("an event");
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }
}

fn told(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

fn revision(answer: &Answer) -> String {
    answer.at("/metadata/resourceVersion").as_str().expect("a revision").to_owned()
}

fn labelled(name: &str, color: &str) -> Value {
    let mut service = service(name);
    service["metadata"]["labels"] = json!({"color": color});
    service
}

/// A gateway that was restored at revision 50.
fn restored() -> Gateway {
    let (store, _) = faulty::store();
    Gateway::on(store, Cluster::restore(ClusterSettings::default(), [], 50).expect("consistent"))
}

#[test]
fn a_watch_goes_on_from_its_list() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &service("old")).expect(201);
    let at = revision(&gateway.get(SERVICES).expect(200));
    let mut watch = Watch::open(&gateway, &format!("{SERVICES}?watch=true&resourceVersion={at}"));
    assert_eq!(watch.code, 200);
    let made = gateway.post(SERVICES, &service("web")).expect(201).json();
    gateway.post("/api/v1/namespaces/other/services", &service("web")).expect(201);
    gateway.put(&format!("{SERVICES}/web"), &labelled("web", "red")).expect(200);
    let before = gateway.delete(&format!("{SERVICES}/web")).expect(200).json();

    let added = watch.next().expect("an event");
    assert_eq!((&added["type"], &added["object"]), (&json!("ADDED"), &made), "whole objects");
    assert_eq!(watch.told(), told("MODIFIED", "web"));
    let deleted = watch.next().expect("an event");
    assert_eq!((&deleted["type"], &deleted["object"]["spec"]), (&json!("DELETED"), &before["spec"]));
    let end = deleted["object"]["metadata"]["resourceVersion"].as_str().expect("a revision");
    assert_eq!(end, revision(&gateway.get(SERVICES).expect(200)), "of the deletion");

    let mut late = Watch::open(&gateway, &format!("{SERVICES}?watch=1&resourceVersion={at}"));
    assert_eq!([late.told(), late.told(), late.told()].map(|(kind, _)| kind), ["ADDED", "MODIFIED", "DELETED"]);
}

#[test]
fn a_watch_from_nowhere_begins_with_what_there_is() {
    let gateway = Gateway::new();
    for n in 0..150 {
        gateway.post(SERVICES, &service(&format!("s-{n:03}"))).expect(201);
    }
    gateway.post("/api/v1/namespaces/other/services", &service("z")).expect(201);
    for query in ["watch=true", "watch=true&resourceVersion=0"] {
        let mut watch = Watch::open(&gateway, &format!("/api/v1/services?{query}"));
        for first in ["kubernetes", "z"] {
            assert_eq!(watch.told(), told("ADDED", first));
        }
        for n in 0..150 {
            assert_eq!(watch.told(), told("ADDED", &format!("s-{n:03}")));
        }
    }
    let mut one = Watch::open(&gateway, &format!("{SERVICES}?watch=true&fieldSelector=metadata.name%3Ds-007"));
    assert_eq!(one.told(), told("ADDED", "s-007"));
    gateway.delete(&format!("{SERVICES}/s-006")).expect(200);
    gateway.delete(&format!("{SERVICES}/s-007")).expect(200);
    assert_eq!(one.told(), told("DELETED", "s-007"));
}

#[test]
fn who_selects_sees_objects_come_and_go_as_they_match() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &labelled("web", "blue")).expect(201);
    let mut watch = Watch::open(&gateway, &format!("{SERVICES}?watch=true&labelSelector=color%3Dred"));
    for color in ["red", "red", "blue", "green", "red"] {
        let mut service = labelled("web", color);
        service["metadata"]["annotations"] = json!({"at": format!("{:?}", std::time::Instant::now())});
        gateway.put(&format!("{SERVICES}/web"), &service).expect(200);
    }
    let kinds = [watch.told(), watch.told(), watch.told(), watch.told()].map(|(kind, _)| kind);
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED", "ADDED"]);
}

#[test]
fn initial_events_end_with_a_bookmark_if_asked() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &service("web")).expect(201);
    let path = format!("{SERVICES}?watch=true&sendInitialEvents=true");
    let asked = format!("{path}&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let at = revision(&gateway.get(SERVICES).expect(200));
    let mut watch = Watch::open(&gateway, &format!("{asked}&resourceVersion={at}"));
    assert_eq!(watch.told(), told("ADDED", "web"));
    let bookmark = watch.next().expect("a bookmark");
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Service")));
    assert_eq!(bookmark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], at);
    gateway.post(SERVICES, &service("new")).expect(201);
    assert_eq!(watch.told(), told("ADDED", "new"));

    let none = path.replace("=true&sendInitialEvents=true", "=true&sendInitialEvents=false");
    let mut watch = Watch::open(&gateway, &format!("{none}&resourceVersionMatch=NotOlderThan"));
    gateway.post(SERVICES, &service("newer")).expect(201);
    assert_eq!(watch.told(), told("ADDED", "newer"));

    gateway.get(&path).refused(
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
         resourceVersionMatch to NotOlderThan",
    );
    gateway.get(&format!("{SERVICES}?watch=true&resourceVersionMatch=Exact")).expect(422);
}

#[test]
fn a_watch_ends_in_time_and_says_how_far_it_came() {
    let gateway = Gateway::new();
    let path = format!("{SERVICES}?watch=true&timeoutSeconds=1&resourceVersion=1");
    let mut quiet = Watch::open(&gateway, &path);
    let mut marked = Watch::open(&gateway, &format!("{path}&allowWatchBookmarks=true"));
    gateway.post("/api/v1/namespaces/other/pods", &pod("p", "a", "10.0.0.1")).expect(201);
    let now = revision(&gateway.get(SERVICES).expect(200));
    let bookmark = marked.next().expect("a bookmark");
    assert_eq!(
        (&bookmark["type"], &bookmark["object"]["metadata"]["resourceVersion"]),
        (&json!("BOOKMARK"), &json!(now))
    );
    assert_eq!((quiet.next(), marked.next()), (None, None));
}

#[test]
fn what_is_forgotten_and_what_has_not_come_is_told() {
    let gateway = restored();
    let mut old = Watch::open(&gateway, &format!("{SERVICES}?watch=true&resourceVersion=10"));
    let error = old.next().expect("an event");
    assert_eq!((old.code, &error["type"], &error["object"]["code"]), (200, &json!("ERROR"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert_eq!(error["object"]["message"], "too old resource version: 10 (50)");
    assert_eq!(old.next(), None);

    let mut future = Watch::open(&gateway, &format!("{SERVICES}?watch=true&resourceVersion=60"));
    let error = future.next().expect("an event");
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(504)));
    let list = gateway.get(&format!("{SERVICES}?resourceVersion=60"));
    let list = list.refused(504, "Timeout", "Timeout: Too large resource version: 60, current: 50");
    assert_eq!(list.at("/details/causes/0/reason"), "ResourceVersionTooLarge");
    assert_eq!(list.at("/details/retryAfterSeconds"), 1);

    let exact = format!("{SERVICES}?resourceVersionMatch=Exact&resourceVersion");
    gateway.get(&format!("{exact}=49")).refused(
        410,
        "Expired",
        "The resourceVersion for the provided list is too old.",
    );
    gateway.get(&format!("{exact}=50")).expect(200);
    gateway.get(&format!("{SERVICES}?watch=true&resourceVersion=x")).expect(400);
}

#[test]
fn a_list_waits_for_a_revision_that_is_about_to_come() {
    let gateway = restored();
    let answer = std::thread::scope(|scope| {
        let list = scope.spawn(|| gateway.get(&format!("{SERVICES}?resourceVersion=51")));
        gateway.post(SERVICES, &service("web")).expect(201);
        list.join().expect("an answer")
    });
    assert_eq!(answer.expect(200).at("/items/0/metadata/name"), "web");
}

#[test]
fn a_watch_of_tables_names_its_columns_once() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &service("a")).expect(201);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut initial = Watch::accepting(&gateway, &format!("{SERVICES}?watch=true"), accept);
    let mut news = Watch::accepting(&gateway, &format!("{SERVICES}?watch=true&resourceVersion=2"), accept);
    gateway.post(SERVICES, &service("b")).expect(201);
    gateway.delete(&format!("{SERVICES}/b")).expect(200);
    for (watch, names) in [(&mut initial, ["a", "b", "b"].as_slice()), (&mut news, &["b", "b"])] {
        for (index, name) in names.iter().enumerate() {
            let event = watch.next().expect("an event");
            let table = &event["object"];
            assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!(name)));
            assert_eq!(table["columnDefinitions"].is_array(), index == 0, "{event}");
            assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        }
    }
}

#[test]
fn pages_show_the_state_of_the_first() {
    let gateway = Gateway::new();
    for name in ["a", "b", "c", "d", "e"] {
        gateway.post(SERVICES, &service(name)).expect(201);
    }
    let names = |answer: &Answer| -> Vec<Value> {
        answer.at("/items").as_array().expect("items").iter().map(|item| item["metadata"]["name"].clone()).collect()
    };
    let next = |answer: &Answer| answer.at("/metadata/continue").as_str().expect("more").to_owned();
    let first = gateway.get(&format!("{SERVICES}?limit=2")).expect(200);
    assert_eq!((names(&first), first.at("/metadata/remainingItemCount")), (vec![json!("a"), json!("b")], json!(3)));

    for name in ["a", "c", "e"] {
        gateway.delete(&format!("{SERVICES}/{name}")).expect(200);
    }
    gateway.post(SERVICES, &service("bb")).expect(201);
    gateway.put(&format!("{SERVICES}/d"), &labelled("d", "red")).expect(200);

    let second = gateway.get(&format!("{SERVICES}?limit=2&continue={}", next(&first))).expect(200);
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second.at("/items/1/metadata/labels"), json!({"app": "d"}), "as it was");
    assert_eq!(revision(&second), revision(&first));
    let third = gateway.get(&format!("{SERVICES}?limit=2&continue={}", next(&second))).expect(200);
    assert_eq!((names(&third), third.at("/metadata/continue")), (vec![json!("e")], Value::Null));
    let exact = format!("{SERVICES}?resourceVersionMatch=Exact&resourceVersion={}", revision(&first));
    assert_eq!(names(&gateway.get(&exact).expect(200)), ["a", "b", "c", "d", "e"]);
    assert_eq!(names(&gateway.get(SERVICES).expect(200)), ["b", "bb", "d"]);

    let selected = gateway.get(&format!("{SERVICES}?limit=1&labelSelector=app")).expect(200);
    assert_eq!(selected.at("/metadata/remainingItemCount"), Value::Null, "nobody counts what is selected");
    let accept = [("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = gateway.send("GET", &format!("{SERVICES}?limit=1"), &accept, "").expect(200);
    assert_eq!((table.at("/rows/0/cells/0"), table.at("/metadata/remainingItemCount")), (json!("b"), json!(2)));
    let other = format!("/api/v1/namespaces/other/services?limit=2&continue={}", next(&first));
    assert_eq!(gateway.get(&other).expect(400).at("/reason"), "BadRequest");
    gateway.get(&format!("{SERVICES}?limit=2&continue=nonsense")).expect(400);
    gateway.get(&format!("{SERVICES}?limit=many")).expect(400);
}

#[test]
fn a_list_shows_one_state_however_slowly_it_is_read() {
    let gateway = Gateway::new();
    let pods = |prefix: &str| -> Value {
        let pods =
            (0..2000).map(|n| pod(&format!("{prefix}-{n:04}"), "a", &format!("10.1.{}.{}", n / 250, n % 250 + 1)));
        json!({"apiVersion": "v1", "kind": "List", "items": pods.collect::<Vec<_>>()})
    };
    gateway.post(APPLY_PATH, &pods("p")).expect(200);
    let at = revision(&gateway.get("/api/v1/pods?limit=1").expect(200));
    let mut slow = gateway.connect();
    slow.write_all(b"GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("open");
    let mut first = [0; 4096];
    slow.read_exact(&mut first).expect("a beginning");
    gateway.delete("/api/v1/namespaces/default/pods").expect(200);
    gateway.post(APPLY_PATH, &pods("q")).expect(200);
    let list = Answer::read_on(&mut slow, first.to_vec()).expect(200);
    assert!(list.text.len() > 512 << 10, "more than sockets and buffers hold");
    let items = list.at("/items");
    let names = items.as_array().expect("items").iter().map(|item| item["metadata"]["name"].as_str().expect("a name"));
    assert!(names.eq((0..2000).map(|n| format!("p-{n:04}"))), "all of the first state, nothing else");
    assert_eq!(list.at("/metadata/resourceVersion"), at);
}

#[test]
fn a_list_whose_state_is_forgotten_can_be_gone_on_with_as_it_is() {
    let gateway = restored();
    for name in ["a", "b", "c"] {
        gateway.post(SERVICES, &service(name)).expect(201);
    }
    let json = r#"{"name":"a","ns":"shop","rv":10}"#;
    let hex: String = json.bytes().map(|byte| format!("{byte:02x}")).collect();
    let gone = gateway.get(&format!("{SERVICES}?limit=1&continue={hex}")).expect(410);
    assert_eq!(gone.at("/reason"), "Expired");
    let message = gone.at("/message").as_str().map(str::to_owned).expect("a message");
    assert!(
        message.starts_with("The provided continue parameter is too old to display a consistent list"),
        "{message}"
    );
    let token = gone.at("/metadata/continue").as_str().map(str::to_owned).expect("a token");
    let rest = gateway.get(&format!("{SERVICES}?limit=1&continue={token}")).expect(200);
    assert_eq!(rest.at("/items/0/metadata/name"), "b");
    let token = rest.at("/metadata/continue").as_str().map(str::to_owned).expect("a token");
    let rest = gateway.get(&format!("{SERVICES}?limit=1&continue={token}")).expect(200);
    assert_eq!((rest.at("/items/0/metadata/name"), rest.at("/metadata/continue")), (json!("c"), Value::Null));
}

#[test]
fn a_collection_goes_in_one_commit() {
    let gateway = Gateway::new();
    for (name, color) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        gateway.post(SERVICES, &labelled(name, color)).expect(201);
    }
    gateway.post("/api/v1/namespaces/other/services", &labelled("d", "red")).expect(201);
    let at = revision(&gateway.get(SERVICES).expect(200));
    let red = format!("{SERVICES}?labelSelector=color%3Dred");
    let names = |answer: &Answer| -> Vec<Value> {
        answer.at("/items").as_array().expect("items").iter().map(|item| item["metadata"]["name"].clone()).collect()
    };
    let dry = gateway.delete(&format!("{red}&dryRun=All")).expect(200);
    assert_eq!((dry.at("/kind"), names(&dry)), (json!("ServiceList"), vec![json!("a"), json!("c")]));
    let dry = gateway.send("DELETE", &red, &[], r#"{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"]}"#);
    assert_eq!(names(&dry.expect(200)), ["a", "c"]);
    let gone = gateway.delete(&red).expect(200);
    assert_eq!(names(&gone), ["a", "c"]);
    let mut watch = Watch::open(&gateway, &format!("/api/v1/services?watch=true&resourceVersion={at}"));
    let revisions = [watch.next(), watch.next()].map(|event| {
        let event = event.expect("an event");
        assert_eq!(event["type"], "DELETED");
        event["object"]["metadata"]["resourceVersion"].clone()
    });
    assert_eq!(revisions[0], revisions[1], "all in one");
    assert_eq!(revisions[0], json!(revision(&gone)));
    assert_eq!(names(&gateway.get("/api/v1/services").expect(200)), ["kubernetes", "d", "b"]);
    assert_eq!(names(&gateway.delete(&red).expect(200)), Vec::<Value>::new());
    gateway.delete(&format!("{SERVICES}?limit=1")).expect(400);
    gateway.delete(&format!("{SERVICES}?labelSelector=%3D")).expect(400);
    gateway.delete("/api/v1/namespaces").expect(405);
    assert_eq!(names(&gateway.delete(SERVICES).expect(200)), ["b"]);
}

#[test]
fn what_is_told_to_be_possible_is() {
    let gateway = Gateway::new();
    let resources = gateway.get("/api/v1").expect(200).at("/resources");
    for resource in resources.as_array().expect("a list") {
        let verbs = resource["verbs"].as_array().expect("verbs");
        let status = resource["name"].as_str().is_some_and(|name| name.ends_with("/status"));
        assert_eq!(verbs.contains(&json!("watch")), !status, "{resource}");
        assert_eq!(
            verbs.contains(&json!("deletecollection")),
            !status && resource["name"] != "namespaces",
            "{resource}"
        );
    }
    let accept = [("Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let all = gateway.send("GET", "/api", &accept, "").expect(200).at("/items/0/versions/0/resources");
    for resource in all.as_array().expect("a list") {
        let verbs = |list: &Value| list["verbs"].clone();
        let plain = resources.as_array().into_iter().flatten().find(|plain| plain["name"] == resource["resource"]);
        assert_eq!(verbs(resource), verbs(plain.expect("both know it")), "the two forms say the same");
    }
}

#[test]
fn watches_end_when_the_server_stops() {
    let gateway = Gateway::new();
    let mut watch = Watch::open(&gateway, &format!("{SERVICES}?watch=true&resourceVersion=1"));
    let before = std::time::Instant::now();
    gateway.stop();
    assert!(before.elapsed() < STOP_TIME, "nobody was waited for");
    assert_eq!(watch.next(), None, "a clean end");
}

//! The stream of the live page, the page's files, and whose requests are refused.

use std::sync::Arc;

use pollgate_common::counters::Counters;

use super::https::Site;
use super::watching::Watch;
use super::*;
use crate::compile::Compiler;
use crate::observe::dump::tests::options;

/// With empty tables and a worker that never had a packet.
fn gateway() -> Gateway {
    let counters = Arc::new(Counters::new(1));
    let tables = Compiler::new(options(), Arc::clone(&counters)).source();
    let dump = DumpSource { tables, mailboxes: Arc::default(), counters, max_flows: 1024 };
    let cluster = Cluster::new(ClusterSettings::default());
    Gateway::dumping(faulty::store().0, cluster, Limits::default(), None, Some(dump))
}

/// The value of the next line of this kind.
fn line(stream: &mut Watch, kind: &str) -> Value {
    loop {
        let mut line = stream.next().expect("a line");
        if line.get(kind).is_some() {
            return line[kind].take();
        }
    }
}

#[test]
fn a_page_gets_the_list_the_numbers_and_one_service_as_they_change() {
    let gateway = gateway();
    gateway.post(SERVICES, &service("web")).expect(201);
    gateway.post("/api/v1/namespaces/default/pods", &pod("a", "other", "10.244.0.1")).expect(201);
    let mut stream = Watch::open(&gateway, &format!("{LIVE_PATH}?service=default/web"));
    assert_eq!(stream.code, 200);
    let hello = stream.next().expect("a line");
    assert_eq!(hello["hello"]["domain"], "cluster.local");
    let reason = &hello["hello"]["drops"][0];
    assert_eq!((&reason["name"], &reason["severity"]), (&json!("runt"), &json!("notice")));

    let detail = line(&mut stream, "detail");
    assert_eq!(detail["explanation"]["selector"], json!({"app": "web"}));
    assert_eq!(detail["pods"][0]["reason"], "label differs: app: other ≠ web");
    assert_eq!((&detail["pods"][0]["endpoint"], &detail["podCount"]), (&json!("no"), &json!(1)));
    let list = line(&mut stream, "list");
    assert_eq!((&list["reset"], &list["more"]), (&json!(true), &json!(false)));
    let web = list["rows"].as_array().expect("rows").iter().find(|row| row["name"] == "default/web").expect("a row");
    assert_eq!(web["trouble"], "No endpoint is ready: connections are refused.");
    let tick = line(&mut stream, "tick");
    assert_eq!((&tick["counters"]["rx"], &tick["flows"]["max"]), (&json!(0), &json!(1024)));
    assert_eq!(tick["workers"].as_array().map(Vec::len), Some(1));
    let next = line(&mut stream, "tick");
    assert!(next["number"].as_u64() > tick["number"].as_u64() && next["elapsed"].as_u64() > Some(0), "{next}");

    // A change reaches the Service and the list; nothing else comes of the list.
    gateway.post("/api/v1/namespaces/default/pods", &pod("b", "web", "10.244.0.2")).expect(201);
    let detail = line(&mut stream, "detail");
    assert_eq!(detail["pods"][0]["name"], "b");
    assert_eq!(detail["pods"][0]["endpoints"], json!(["10.244.0.2:8080/TCP"]));
    let list = line(&mut stream, "list");
    assert_eq!((list["rows"].as_array().map(Vec::len), &list["reset"]), (Some(1), &json!(false)));
    assert_eq!((&list["rows"][0]["ready"], list["rows"][0].get("trouble")), (&json!(1), None));
    gateway.delete(&format!("{SERVICES}/web")).expect(200);
    assert_eq!(line(&mut stream, "detail")["explanation"], Value::Null);
    assert_eq!(line(&mut stream, "list")["gone"], json!([web["id"]]));
}

#[test]
fn a_page_that_comes_again_gets_only_what_changed() {
    let gateway = gateway();
    gateway.post(SERVICES, &service("web")).expect(201);
    let mut first = Watch::open(&gateway, LIVE_PATH);
    let list = line(&mut first, "list");
    drop(first);
    gateway.post(SERVICES, &service("api")).expect(201);
    let seen = format!("{}.{}", list["epoch"], list["version"]);
    let again = line(&mut Watch::open(&gateway, &format!("{LIVE_PATH}?list={seen}")), "list");
    assert_eq!((&again["reset"], &again["epoch"]), (&json!(false), &list["epoch"]));
    let names: Vec<&Value> = again["rows"].as_array().expect("rows").iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["default/api"]);
    // What it says of another list is void.
    let other = line(&mut Watch::open(&gateway, &format!("{LIVE_PATH}?list=1.{}", list["version"])), "list");
    assert_eq!(other["reset"], true);
}

#[test]
fn who_joins_and_leaves_is_told_also_to_a_page_that_opens_later() {
    let gateway = gateway();
    gateway.post(SERVICES, &service("web")).expect(201);
    gateway.post("/api/v1/namespaces/default/pods", &pod("a", "web", "10.244.0.1")).expect(201);
    let mut stream = Watch::open(&gateway, LIVE_PATH);
    let news = line(&mut stream, "news");
    assert_eq!((&news[0]["service"], &news[0]["joined"]), (&json!("default/web"), &json!(["a 10.244.0.1:8080"])));
    assert_eq!(news[0]["causes"], json!(["Pod a: created"]));
    assert!(news[0]["took"].as_u64() > Some(0) && news[0]["time"].as_u64() > Some(1_600_000_000_000), "{news}");
    // What a dry run would move is in its response, and nowhere else.
    let apply = |query: &str| {
        let moved = gateway.post(&format!("{APPLY_PATH}{query}"), &pod("a", "api", "10.244.0.1")).expect(200).json();
        moved.get("moved").cloned()
    };
    let moved = apply("?dryRun=All").expect("a dry run");
    assert_eq!(
        (&moved[0]["left"], &moved[0]["causes"]),
        (&json!(["a 10.244.0.1:8080"]), &json!(["Pod a: label app: web → api"]))
    );
    assert_eq!(apply(""), None);
    let news = line(&mut stream, "news");
    assert_eq!((news.as_array().map(Vec::len), &news[0]["left"]), (Some(1), &json!(["a 10.244.0.1:8080"])));
}

#[test]
fn pages_are_bounded() {
    let gateway = gateway();
    let open = || Watch::open(&gateway, LIVE_PATH);
    let mut pages: Vec<Watch> = (0..16).map(|_| open()).collect();
    assert!(pages.iter().all(|page| page.code == 200));
    let refused = gateway.get(LIVE_PATH).expect(429);
    assert_eq!(refused.headers.get("retry-after").map(String::as_str), Some("5"));
    assert!(refused.text.contains("16 pages are open"), "{}", refused.text);
    pages.pop();
    // Noticed with the next line that is sent there.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while open().code != 200 {
        assert!(std::time::Instant::now() < deadline, "no page is let in again");
    }
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let gateway = gateway();
    gateway.get(&format!("{LIVE_PATH}?service=web")).refused(
        400,
        "BadRequest",
        "service: Invalid value: \"web\": expected NAMESPACE/NAME",
    );
    gateway.get(&format!("{LIVE_PATH}?limit=1")).expect(400);
    // Without tables there is nothing to show.
    Gateway::new().get(LIVE_PATH).expect(404);
}

const FILES: [(&str, &str); 4] = [
    ("/ui/", "text/html; charset=utf-8"),
    ("/ui/app.js", "text/javascript; charset=utf-8"),
    ("/ui/style.css", "text/css; charset=utf-8"),
    ("/ui/icon.svg", "image/svg+xml"),
];

#[test]
fn the_page_is_served_with_its_policy_and_what_it_shows_only_with_the_token() {
    let site = Site::new();
    for (path, media) in FILES {
        // A browser that opens an address has no token yet.
        for answer in [site.gateway.get(path), site.request("GET", path, &[], "")] {
            let answer = answer.expect(200);
            let header = |name: &str| answer.headers.get(name).map(String::as_str).unwrap_or_default();
            assert_eq!(header("content-type"), media);
            assert!(header("content-security-policy").starts_with("default-src 'self';"), "{path}");
            assert!(!header("content-security-policy").contains("unsafe"), "{path}");
            assert_eq!((header("x-content-type-options"), header("referrer-policy")), ("nosniff", "no-referrer"));
            assert_eq!(header("cache-control"), "no-cache");
            // No other host has anything to do with it. A namespace is no address.
            let text = answer.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{path}");
        }
    }
    for path in [LIVE_PATH, "/ui/none.js", "/ui/../version", "/uix"] {
        site.request("GET", path, &[], "").refused(401, "Unauthorized", "Unauthorized");
    }
    site.request("POST", "/ui", &[], "").expect(401);
    site.send("POST", "/ui", "").expect(405);
    site.send("GET", "/ui/none.js", "").expect(404);
}

#[test]
fn requests_of_other_pages_are_refused() {
    let site = Site::new();
    let ask = |host: &str, more: &str, path: &str| {
        let mut stream = site.shaken();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}");
        let head = format!("{head}{}\r\n\r\n", site.authorization());
        stream.write_all(head.as_bytes()).expect("open");
        Answer::read(&mut stream)
    };
    let own = site.address.to_string();
    for path in ["/ui/", SERVICES, "/livez", LIVE_PATH] {
        // A name that its owner lets point here, and a page of another host.
        ask("rebound.example:6443", "", path).expect(403);
        ask(&own, "Origin: https://evil.example\r\n", path).expect(403);
        ask(&own, "Origin: null\r\n", path).expect(403);
    }
    ask(&own, &format!("Origin: https://{own}\r\n"), SERVICES).expect(200);
    ask("localhost:6443", "", SERVICES).expect(200);
    // The Unix socket, too: it may be forwarded to a port that a browser reaches.
    let origin = [("Origin", "https://evil.example")];
    site.gateway.send("POST", SERVICES, &origin, &service("web").to_string()).expect(403);
    site.gateway.get(&format!("{SERVICES}/web")).expect(404);
}

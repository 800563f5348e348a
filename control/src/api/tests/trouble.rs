//! What clients do when it does not: nonsense, too much, too slow, a failing disk, somebody else's socket.

use super::*;

#[test]
fn what_is_not_an_object_is_told_as_a_status() {
    let gateway = Gateway::new();
    gateway.send("POST", SERVICES, &[], "{").expect(400);
    gateway.send("POST", SERVICES, &[], "").expect(400);
    gateway.send("POST", SERVICES, &[], "[1,2]").refused(
        400,
        "BadRequest",
        "the object provided is unrecognized (must be of type Service): couldn't get version/kind; json parse error: \
         expected an object (5b312c325d)",
    );
    gateway.send("POST", SERVICES, &[], &"[".repeat(100_000)).expect(400);
    gateway.send("POST", SERVICES, &[("Content-Type", "text/plain")], "x").refused(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    );
    let nameless = gateway.send("POST", SERVICES, &[], r#"{"spec":{"ports":[{"port":80}]}}"#).expect(422);
    assert_eq!(nameless.at("/details/causes/0/field"), "metadata.name");
    assert_eq!(nameless.at("/details/kind"), "Service", "its kind is the path's");
    gateway.post(SERVICES, &pod("a", "b", "10.0.0.1")).expect(400);
    let mut elsewhere = service("web");
    elsewhere["metadata"]["namespace"] = json!("other");
    gateway.post(SERVICES, &elsewhere).refused(
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    gateway.put(&format!("{SERVICES}/other"), &service("web")).refused(
        400,
        "BadRequest",
        "the name of the object (web) does not match the name on the URL (other)",
    );
    let mut typo = service("web");
    typo["spec"]["prots"] = json!([]);
    gateway.post(&format!("{SERVICES}?fieldValidation=Strict"), &typo).refused(
        400,
        "BadRequest",
        "Service in version \"v1\" cannot be handled as a Service: strict decoding error: unknown field \"spec.prots\"",
    );
    let mut invalid = service("web");
    invalid["spec"]["ports"][0]["port"] = json!(0);
    let invalid = gateway.post(SERVICES, &invalid).expect(422);
    assert_eq!(invalid.at("/details/causes/0/field"), "spec.ports[0].port");
    assert_eq!(invalid.at("/details/causes/0/reason"), "FieldValueInvalid");
    assert_eq!(invalid.at("/details/kind"), "Service");
    gateway.get(SERVICES).expect(200);
}

#[test]
fn a_body_over_the_limit_is_refused_however_it_comes() {
    let gateway = Gateway::new();
    let long = " ".repeat(body::OBJECT_LIMIT + 1);
    let refused = gateway.send("POST", SERVICES, &[], &long).expect(413);
    assert_eq!(refused.at("/reason"), "RequestEntityTooLarge");
    let mut stream = gateway.connect();
    let head = format!("POST {SERVICES} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", long.len());
    stream.write_all(head.as_bytes()).expect("open");
    let _ = stream.write_all(long.as_bytes());
    Answer::read(&mut stream).expect(413);
    let mut stream = gateway.connect();
    let head = format!("POST {SERVICES} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("open");
    Answer::read(&mut stream).expect(413);
}

#[test]
fn writes_over_the_budget_are_told_to_come_again() {
    let gateway = Gateway::new();
    // Two bodies that were announced and do not come hold their share of the budget.
    let announced = format!("POST {APPLY_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 48 << 20);
    let waiting = [gateway.connect(), gateway.connect()].map(|mut stream| {
        stream.write_all(announced.as_bytes()).expect("open");
        stream
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let refused = loop {
        let answer = gateway.post(SERVICES, &service("web"));
        if answer.code == 429 || std::time::Instant::now() > deadline {
            break answer;
        }
        gateway.delete(&format!("{SERVICES}/web"));
    };
    assert_eq!(refused.expect(429).headers.get("retry-after").map(String::as_str), Some("1"));
    gateway.get(SERVICES).expect(200);
    drop(waiting);
    while gateway.post(SERVICES, &service("web")).code != 201 {
        assert!(std::time::Instant::now() < deadline, "the budget was not given back");
    }
}

#[test]
fn unknown_paths_and_methods_are_statuses() {
    let gateway = Gateway::new();
    for path in
        ["/", "/api/v1/limitranges", "/api/v2", "/apis/apps/v1/deployments", "/api/v1/namespaces/a/services/b/c/d"]
    {
        gateway.get(path).refused(404, "NotFound", "the server could not find the requested resource");
    }
    let refused = gateway.send("PUT", SERVICES, &[], "{}");
    refused.refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
    gateway.post("/api/v1/services", &service("web")).expect(405);
}

#[test]
fn a_path_may_end_in_a_slash() {
    let gateway = Gateway::new();
    for path in ["/version", "/api", "/apis", "/api/v1", "/apis/discovery.k8s.io", SERVICES] {
        assert_eq!(gateway.get(&format!("{path}/")).expect(200).json(), gateway.get(path).expect(200).json());
    }
    gateway.post(SERVICES, &service("web")).expect(201);
    let one = gateway.get(&format!("{SERVICES}/?labelSelector=app=web&x=/")).expect(200);
    assert_eq!(one.at("/items").as_array().map(Vec::len), Some(1));
    let none = gateway.get(&format!("{SERVICES}/?labelSelector=app=other")).expect(200);
    assert_eq!(none.at("/items").as_array().map(Vec::len), Some(0));
    for path in ["//", "/version//", "/"] {
        gateway.get(path).expect(404);
    }
}

#[test]
fn a_client_that_dawdles_is_cut_off() {
    // Long enough for the test to get as far as that on a busy machine.
    let soon = Duration::from_secs(2);
    let gateway = Gateway::limited(Limits { head_time: soon, ..Limits::default() });
    let mut stream = gateway.connect();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost:").expect("open");
    let mut silent = gateway.connect();
    for stream in [&mut stream, &mut silent] {
        stream.read_to_end(&mut Vec::new()).expect("closed before the test's own time is up");
    }
    gateway.get("/livez").expect(200);
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let gateway =
        Gateway::limited(Limits { connections: 1, unread_time: Duration::from_millis(100), ..Limits::default() });
    let items: Vec<Value> = (0..3000).map(|n| pod(&format!("p-{n}"), "a", "10.1.0.1")).collect();
    gateway.post(APPLY_PATH, &json!({"apiVersion": "v1", "kind": "List", "items": items})).expect(200);
    let mut stalled = gateway.connect();
    stalled.write_all(b"GET /api/v1/pods HTTP/1.1\r\nHost: x\r\n\r\n").expect("open");
    // Once its answer has begun it is no idle connection, which would have to make way.
    let mut bytes = vec![0];
    stalled.read_exact(&mut bytes).expect("an answer");
    // There is one connection to be had, so the next client is only served once this one is gone.
    gateway.get("/livez").expect(200);
    let _ = stalled.read_to_end(&mut bytes);
    assert!(!bytes.ends_with(b"0\r\n\r\n"), "the answer was cut short");
}

/// A client that asks for a watch of all Pods, whatever becomes of it.
fn watching(gateway: &Gateway) -> UnixStream {
    let mut stream = gateway.connect();
    stream.write_all(b"GET /api/v1/pods?watch=true&resourceVersion=1 HTTP/1.1\r\nHost: x\r\n\r\n").expect("open");
    stream
}

/// Waits, without reading, until the other side has closed its end.
fn until_closed(stream: &UnixStream) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).expect("a live socket");
    assert!(fds[0].revents().contains(PollFlags::HUP), "still open");
}

/// Reads until what was read ends with `end`.
fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        assert_eq!(stream.read(&mut byte).expect("more in time"), 1, "the end came first: {text}");
        text.push(char::from(byte[0]));
    }
    text
}

#[test]
fn connections_that_send_nothing_make_way() {
    let gateway = Gateway::limited(Limits { connections: 4, ..Limits::default() });
    let silent: Vec<UnixStream> = (0..40).map(|_| gateway.connect()).collect();
    for _ in 0..5 {
        gateway.get("/livez").expect(200);
    }
    drop(silent);
}

#[test]
fn a_request_that_breaks_off_is_forgotten_and_others_are_answered() {
    let gateway = Gateway::new();
    let body = service("web").to_string();
    let head = format!("POST {SERVICES} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let whole = head + &body;
    for length in [1, 20, whole.len() - body.len(), whole.len() - 1] {
        let mut stream = gateway.connect();
        stream.write_all(&whole.as_bytes()[..length]).expect("open");
        gateway.get("/livez").expect(200);
        stream.shutdown(std::net::Shutdown::Write).expect("open");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("closed");
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
    }
    gateway.get(&format!("{SERVICES}/web")).expect(404);
}

#[test]
fn a_request_head_without_end_is_cut_off() {
    let gateway = Gateway::limited(Limits { head_time: Duration::from_secs(2), ..Limits::default() });
    let mut endless = gateway.connect();
    endless.write_all(b"GET /livez HTTP/1.1\r\nX: ").expect("open");
    // The server stops reading, so sending more than it and the socket hold would block.
    endless.write_all(&[b'x'; 48 << 10]).expect("taken");
    assert!(read_until(&mut endless, "\r\n").starts_with("HTTP/1.1 431 "));
    let mut slow = gateway.connect();
    let began = std::time::Instant::now();
    while slow.write_all(b"x").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(60), "never cut off");
        gateway.get("/livez").expect(200);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn watches_leave_room_for_others() {
    let gateway = Gateway::limited(Limits { connections: 4, watches: 2, ..Limits::default() });
    let mut watches = [watching(&gateway), watching(&gateway)];
    for watch in &mut watches {
        assert!(read_until(watch, "\r\n\r\n").starts_with("HTTP/1.1 200 "));
    }
    let path = "/api/v1/pods?watch=true";
    let message = "2 watches are open, which is the limit; please try again later";
    let refused = gateway.get(path).refused(429, "TooManyRequests", message);
    assert_eq!(refused.headers.get("retry-after").map(String::as_str), Some("10"));
    gateway.post("/api/v1/namespaces/default/pods", &pod("p", "a", "10.0.0.1")).expect(201);
    for watch in &mut watches {
        assert!(read_until(watch, "}\n").contains("ADDED"));
    }
    drop(watches);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let mut again = watching(&gateway);
        if read_until(&mut again, "\r\n\r\n").starts_with("HTTP/1.1 200 ") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the places were not given back");
    }
}

#[test]
fn a_watcher_that_does_not_read_is_cut_off_and_others_are_told() {
    let gateway = Gateway::limited(Limits { unread_time: Duration::from_millis(300), ..Limits::default() });
    let mut stalled = watching(&gateway);
    let mut reader = watching(&gateway);
    let mut big = pod("big", "a", "10.0.0.1");
    for n in 0..12 {
        big["metadata"]["annotations"] = json!({"n": n.to_string(), "text": "x".repeat(100_000)});
        gateway.post(APPLY_PATH, &big).expect(200);
        assert!(read_until(&mut reader, "}\n").contains(&format!("\"n\":\"{n}\"")));
    }
    until_closed(&stalled);
    gateway.get("/livez").expect(200);
    let mut bytes = Vec::new();
    let _ = stalled.read_to_end(&mut bytes);
    assert!(!bytes.ends_with(b"0\r\n\r\n"), "it was cut short");
    let events = bytes.windows(8).filter(|window| window == b"{\"type\":").count();
    assert!(events < 12, "what it did not read was not kept for it: {events}");
}

#[test]
fn a_disk_error_refuses_writes_and_serves_reads() {
    let (store, disk) = faulty::store();
    let gateway = Gateway::on(store, Cluster::new(ClusterSettings::default()));
    gateway.post(SERVICES, &service("kept")).expect(201);
    disk.set(State::Fails);
    for name in ["lost", "later"] {
        let refused = gateway.post(SERVICES, &service(name)).expect(500);
        assert_eq!(refused.at("/reason"), "InternalError");
        assert!(refused.at("/message").to_string().contains("Input/output error"), "{}", refused.text);
        gateway.get(&format!("{SERVICES}/{name}")).expect(404);
    }
    gateway.get(&format!("{SERVICES}/kept")).expect(200);
    assert!(gateway.get("/readyz").expect(500).text.contains("Input/output error"));
    gateway.get("/livez").expect(200);
}

#[test]
fn the_socket_is_for_its_group_and_goes_with_the_server() {
    let gateway = Gateway::new();
    let socket = gateway.socket();
    let mode = std::fs::metadata(&socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    gateway.get("/livez").expect(200);
    let Gateway { directory: _directory, api, control, .. } = gateway;
    api.stop();
    control.stop();
    assert!(!socket.exists());
}

#[test]
fn a_dead_servers_socket_is_replaced_and_a_living_ones_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("api.sock");
    let parts = || ApiParts {
        socket: path.clone(),
        https: None,
        replica: Cluster::new(ClusterSettings::default()),
        commands: unbounded().0,
        stats: Arc::new(Stats::default),
        checks: Arc::default(),
        dump: None,
    };
    drop(UnixListener::bind(&path).expect("a socket"));
    let api = spawn(parts()).expect("the dead one's place");
    let error = spawn(parts()).expect_err("somebody listens");
    assert!(matches!(error, ApiError::InUse { .. }), "{error}");
    api.stop();
    std::fs::write(&path, "precious").expect("writable");
    let error = spawn(parts()).expect_err("not a socket");
    assert!(matches!(error, ApiError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("left alone"), "precious");
}

#[test]
fn a_write_without_a_control_thread_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let (commands, receiver) = unbounded();
    drop(receiver);
    let replica = Cluster::new(ClusterSettings::default());
    let socket = directory.path().join("run/api.sock");
    let api = spawn(ApiParts {
        socket,
        https: None,
        replica,
        commands,
        stats: Arc::new(Stats::default),
        checks: Arc::default(),
        dump: None,
    })
    .expect("a socket");
    let (_, receiver) = unbounded();
    let settled = api.settled_sink();
    let (store, _disk) = faulty::store();
    let cluster = Cluster::new(ClusterSettings::default());
    let parts = RuntimeParts { cluster, store, sink: Box::new(NoTables), commands: receiver, settled };
    let control = runtime::spawn(parts).expect("threads");
    let gateway = Gateway { api, control, checks: Arc::default(), directory };
    gateway.post(SERVICES, &service("web")).refused(503, "ServiceUnavailable", "the gateway is stopping");
}

//! A panic in a request ends that request, and nothing else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use pollgate_control::api;
use serde_json::Value;

use self::support::Gateway;

mod support;

/// One request on a connection that stays open: the code and the body of its response.
fn ask(stream: &mut UnixStream, path: &str) -> (u16, Value) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("open");
    let mut bytes = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        length += stream.read(&mut bytes[length..]).expect("an answer");
        let text = std::str::from_utf8(&bytes[..length]).expect("text");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if let Ok(body) = serde_json::from_str(body) {
            return (head[9..12].parse().expect("a code"), body);
        }
    }
}

#[test]
fn a_panic_in_a_handler_ends_its_request_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::with(directory, "api.sock", Arc::new(|| panic!("a bug in a handler")));
    let mut stream = UnixStream::connect(gateway.socket()).expect("listening");
    for count in 1..=3 {
        let (code, status) = ask(&mut stream, api::STATS_PATH);
        assert_eq!((code, status["kind"].as_str(), status["code"].as_u64()), (500, Some("Status"), Some(500)));
        assert_eq!(status["reason"], "InternalError");
        assert_eq!(api::panicked_requests(), count);
        // The same connection, and others, go on; so do writes.
        assert_eq!(ask(&mut stream, "/api/v1/namespaces/default").0, 200);
        let map = br#"{"metadata": {"generateName": "a-"}}"#;
        assert_eq!(gateway.request("POST", "/api/v1/namespaces/default/configmaps", "application/json", map), 201);
    }
    assert!(!api::panic_is_contained(), "this thread serves nobody");
    drop(gateway.stop());
}

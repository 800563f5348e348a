//! The state file is no larger for long than its objects need.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pollgate_control::cluster::{Change, Commit};
use pollgate_control::objects::Object;
use pollgate_control::store::Store;
use serde_json::json;

use self::support::Gateway;

mod support;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

/// Creates and deletes 24 MB of objects.
fn fill_and_empty(gateway: &Gateway) {
    for index in 0..24 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{index}")},
            "data": {"a": "x".repeat(1_000_000)}});
        assert_eq!(gateway.request("POST", MAPS, JSON, map.to_string().as_bytes()), 201);
    }
    let kept = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept", "namespace": "other"}});
    assert_eq!(gateway.request("POST", "/api/v1/namespaces/other/configmaps", JSON, kept.to_string().as_bytes()), 201);
    assert_eq!(gateway.request("DELETE", MAPS, JSON, b""), 200);
}

fn length(directory: &Path) -> u64 {
    fs::metadata(directory.join("state.db")).expect("the state file").len()
}

/// Waits for the file to become small: the disk thread does it after the response.
fn becomes_small(directory: &Path) -> u64 {
    let end = Instant::now() + Duration::from_secs(60);
    while length(directory) > 4 << 20 && Instant::now() < end {
        sleep(Duration::from_millis(20));
    }
    length(directory)
}

#[test]
fn it_shrinks_when_its_objects_go() {
    let gateway = Gateway::new();
    fill_and_empty(&gateway);
    let directory = gateway.socket().parent().expect("a directory").to_owned();
    assert!(becomes_small(&directory) <= 4 << 20);
    assert_eq!(gateway.request("GET", "/api/v1/namespaces/other/configmaps/kept", JSON, b""), 200);
    let directory = gateway.stop();
    let restarted = Gateway::on(directory);
    assert_eq!(restarted.request("GET", "/api/v1/namespaces/other/configmaps/kept", JSON, b""), 200);
    assert_eq!(restarted.request("GET", &format!("{MAPS}/m1"), JSON, b""), 404);
    drop(restarted.stop());
}

/// A version without compaction, or a process that was killed before it, leaves such a file.
#[test]
fn one_that_is_large_at_the_start_shrinks_then() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut store, _) = Store::open(&directory.path().join("state.db")).expect("a store");
    let object = |name: &str, text: String| {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": text}});
        Object::from_value(&value, "default").expect("an object")
    };
    let put = |object: Object| Change { key: object.key(), old: None, new: Some(Arc::new(object)) };
    let mut commit = |revision: u64, changes: Vec<Change>| {
        store.commit(&[Arc::new(Commit { revision, changes, written: Vec::new() })]).expect("written");
    };
    commit(2, (0..24).map(|index| put(object(&format!("m{index}"), "x".repeat(1_000_000)))).collect());
    let gone = |index: usize| Change { key: object(&format!("m{index}"), String::new()).key(), old: None, new: None };
    commit(3, (0..24).map(gone).chain([put(object("kept", String::new()))]).collect());
    // As after a kill: a store that is closed cuts off some of it.
    let killed = tempfile::tempdir().expect("a directory");
    fs::copy(directory.path().join("state.db"), killed.path().join("state.db")).expect("a copy");
    drop(store);
    assert!(length(killed.path()) > 24 << 20, "{}", length(killed.path()));
    let gateway = Gateway::on(killed);
    let directory = gateway.socket().parent().expect("a directory").to_owned();
    assert!(becomes_small(&directory) <= 4 << 20);
    assert_eq!(gateway.request("GET", &format!("{MAPS}/kept"), JSON, b""), 200);
    drop(gateway.stop());
}

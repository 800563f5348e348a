//! What a request may cost: memory in proportion to its body, on every path of the API that reads one.
//!
//! A counting allocator sees what the whole gateway (API, control thread, store) allocates while one request is served. The bound:
//! 8 bytes per byte of the body, what the request left behind (its objects), and the constant [`SLACK`].

#![expect(unsafe_code, reason = "an allocator is unsafe to implement")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

use serde_json::{Value, json};

use self::support::Gateway;

/// What every request may take besides: what a small body may become, and buffers of the server and the store.
const SLACK: usize = 8 << 20;

struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: usize, sign: isize) {
    let bytes = sign * isize::try_from(bytes).unwrap_or(isize::MAX);
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: everything is the system's allocator's; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old and the new may both be in memory.
        count(size, 1);
        count(layout.size(), -1);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a request cost.
struct Cost {
    code: u16,
    /// The most that was allocated during it.
    peak: usize,
    /// What is left of it afterwards.
    stored: usize,
    body: usize,
}

/// What was not as expected, so that one run shows all of it.
static NOTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note(text: String) {
    NOTED.lock().expect("no panic").push(text);
}

/// Sends a request, and says what it cost.
fn send(gateway: &Gateway, method: &str, path: &str, media: &str, body: &[u8]) -> Cost {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let code = gateway.request(method, path, media, body);
    let size = |bytes: isize| usize::try_from(bytes).unwrap_or_default();
    let (peak, stored) = (PEAK.load(Relaxed) - before, LIVE.load(Relaxed) - before);
    Cost { code, peak: size(peak), stored: size(stored), body: body.len() }
}

impl Cost {
    /// Notes whether the code and the bound are as expected.
    fn check(&self, what: &str, code: u16) {
        let Cost { code: found, peak, stored, body } = *self;
        let bound = 8 * body + stored + SLACK;
        let ratio = peak / body.max(1);
        println!("{what}: {found}, {body} bytes, peak {peak} ({ratio} per byte), stored {stored}");
        if found != code {
            note(format!("{what}: code {found}, expected {code}"));
        }
        if peak > bound {
            note(format!("{what}: {peak} bytes for a body of {body}, expected at most {bound}"));
        }
    }
}

const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = "/api/v1/namespaces/default/pods";
const APPLY: &str = "/apis/pollgate.io/v1alpha1/apply";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Just below the longest body of one object.
const LONG: usize = (3 << 20) - (64 << 10);

/// As many of `part` as make a body of about `size` bytes, separated by commas.
fn many(part: &str, size: usize) -> String {
    vec![part; size / (part.len() + 1)].join(",")
}

/// A Service with this as the value of a field.
fn service_with(pointer: &str, value: &str) -> String {
    let head = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a""#;
    match pointer {
        "labels" => format!(r#"{head},"labels":{value}}},"spec":{{"ports":[{{"port":80}}]}}}}"#),
        "managedFields" => format!(r#"{head},"managedFields":{value}}},"spec":{{"ports":[{{"port":80}}]}}}}"#),
        field => format!(r#"{head}}},"spec":{{"ports":[{{"port":80}}],"{field}":{value}}}}}"#),
    }
}

fn pod_with(containers: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a"}},"spec":{{"containers":{containers}}}}}"#)
}

/// Bodies of one Service in JSON that are much larger in memory than as text, and the code they get.
fn dense_services() -> Vec<(&'static str, String, u16)> {
    let numbered = |count: usize| {
        let pairs: Vec<String> = (0..count).map(|index| format!("\"{index}\":\"\"")).collect();
        format!("{{{}}}", pairs.join(","))
    };
    let deep = r#"{"fieldsV1":{"a":{"a":{"a":{}}}}}"#;
    vec![
        // Unknown fields are left out, with a warning, and never built.
        ("unknown numbers", service_with("x", &format!("[{}]", many("0", LONG))), 201),
        ("unknown objects", service_with("x", &format!("[{}]", many(r#"{"a":{}}"#, LONG))), 201),
        ("empty ports", service_with("ports", &format!("[{}]", many("{}", LONG))), 413),
        ("empty texts", service_with("externalIPs", &format!("[{}]", many(r#""""#, LONG))), 413),
        ("faulty texts", service_with("externalIPs", &format!("[{}]", many(r#""x-no-address""#, LONG))), 422),
        ("many labels", service_with("labels", &numbered(200_000)), 413),
        ("fields of managers", service_with("managedFields", &format!("[{}]", many(deep, LONG))), 413),
        ("repeated fields", service_with("x", &format!("{{{}}}", many(r#""a":0"#, LONG))), 201),
        ("no end", service_with("x", &format!("[{}", many("0", LONG))), 400),
    ]
}

#[test]
fn every_request_takes_memory_in_proportion_to_its_body() {
    let gateway = Gateway::new();
    one_object(&gateway);
    other_encodings(&gateway);
    patches(&gateway);
    bulk(&gateway);
    options(&gateway);
    large_objects(&gateway);
    drop(gateway.stop());
    let noted = NOTED.lock().expect("no panic");
    assert!(noted.is_empty(), "{}", noted.join("\n"));
}

/// The Service that the bodies are about, as it is before each of them.
fn fresh(gateway: &Gateway, exists: bool) {
    send(gateway, "DELETE", &format!("{SERVICES}/a"), JSON, b"");
    if exists {
        let body = service_with("clusterIP", "null");
        send(gateway, "POST", SERVICES, JSON, body.as_bytes()).check("a small Service", 201);
    }
}

fn one_object(gateway: &Gateway) {
    for (what, body, code) in dense_services() {
        fresh(gateway, false);
        send(gateway, "POST", SERVICES, JSON, body.as_bytes()).check(&format!("create, {what}"), code);
    }
    for (what, body, code) in dense_services() {
        fresh(gateway, true);
        let code = if code == 201 { 200 } else { code };
        send(gateway, "PUT", &format!("{SERVICES}/a"), JSON, body.as_bytes()).check(&format!("replace, {what}"), code);
    }
    let containers = pod_with(&format!("[{}]", many("{}", LONG)));
    send(gateway, "POST", PODS, JSON, containers.as_bytes()).check("create, empty containers", 413);
}

fn other_encodings(gateway: &Gateway) {
    for (what, body, code) in dense_services() {
        let code = match what {
            // It is read as a whole, unknown fields too, and no key may be there twice.
            "unknown numbers" | "unknown objects" | "no end" => 413,
            "repeated fields" => 400,
            _ => code,
        };
        fresh(gateway, false);
        send(gateway, "POST", SERVICES, YAML, body.as_bytes()).check(&format!("create in YAML, {what}"), code);
    }
    let flow = format!("{{kind: Service, x: [{}]}}", many("0", LONG));
    send(gateway, "POST", SERVICES, YAML, flow.as_bytes()).check("create in YAML, brackets that are no JSON", 413);
    let block = format!("kind: Service\nx:\n{}", "- a: {}\n".repeat(300_000));
    send(gateway, "POST", SERVICES, YAML, block.as_bytes()).check("create in YAML, a long list", 413);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..8 {
        let list = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{list}]\n");
    }
    send(gateway, "POST", SERVICES, YAML, bomb.as_bytes()).check("an alias bomb", 413);
    send(gateway, "POST", APPLY, YAML, bomb.as_bytes()).check("an alias bomb, applied", 413);
    // spec (2) with as many empty containers (2) as there is room for.
    let spec = [0x12, 0].repeat(LONG / 2);
    let body = protobuf("Pod", &[&field(1, &field(1, b"a"))[..], &field(2, &spec)].concat());
    send(gateway, "POST", PODS, PROTOBUF, &body).check("create in protobuf, empty containers", 413);
    let ports = [0x0a, 0].repeat(LONG / 2);
    let body = protobuf("Service", &[&field(1, &field(1, b"a"))[..], &field(2, &ports)].concat());
    send(gateway, "PUT", &format!("{SERVICES}/a"), PROTOBUF, &body).check("replace in protobuf, empty ports", 413);
    send(gateway, "POST", APPLY, PROTOBUF, &body).check("apply in protobuf, empty ports", 413);
}

fn patches(gateway: &Gateway) {
    let path = format!("{SERVICES}/a");
    for media in
        ["application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"]
    {
        for (what, body, _) in dense_services().into_iter().step_by(2) {
            let code = match what {
                "repeated fields" if media.contains("yaml") => 400,
                "repeated fields" => 200,
                _ => 413,
            };
            fresh(gateway, true);
            let path = format!("{path}?fieldManager=test");
            send(gateway, "PATCH", &path, media, body.as_bytes()).check(&format!("{media}, {what}"), code);
        }
    }
    fresh(gateway, true);
    for (what, operations, code) in [
        // More than 10,000, as kube-apiserver allows.
        ("many operations", many(r#"{"op":"remove","path":"/x"}"#, LONG), 413),
        ("a dense value", format!(r#"{{"op":"add","path":"/x","value":[{}]}}"#, many("0", LONG)), 413),
        ("dense objects", format!(r#"{{"op":"add","path":"/x","value":[{}]}}"#, many("{}", LONG)), 413),
    ] {
        let body = format!("[{operations}]");
        send(gateway, "PATCH", &path, "application/json-patch+json", body.as_bytes()).check(what, code);
    }
    let status = format!(r#"{{"status":{{"conditions":[{}]}}}}"#, many("{}", LONG));
    send(gateway, "PUT", &format!("{path}/status"), JSON, status.as_bytes()).check("replace status", 413);
}

fn bulk(gateway: &Gateway) {
    let list =
        |item: &str, size: usize| format!(r#"{{"kind":"List","apiVersion":"v1","items":[{}]}}"#, many(item, size));
    let cases = [
        ("items that are nothing", list(r#"{"a":{}}"#, 4 << 20), 413),
        ("numbers", list("0", 4 << 20), 413),
        ("faulty items", list(r#"{"a":{}}"#, 1 << 20), 422),
        ("one dense item", list(&pod_with(&format!("[{}]", many("{}", LONG))), 2 * LONG), 413),
        ("a long item", list(&pod_with(&format!("[{}]", many(r#"{"name":"a long name"}"#, LONG * 2))), 3 * LONG), 413),
        ("refused by admission", list(&service_with("externalName", r#""x""#).replace("\"a\"", "\"-\""), 1 << 20), 422),
    ];
    for (what, body, code) in cases {
        send(gateway, "POST", APPLY, JSON, body.as_bytes()).check(&format!("apply, {what}"), code);
    }
    let documents = "a: {}\n---\n".repeat(210_000);
    send(gateway, "POST", APPLY, YAML, documents.as_bytes()).check("apply, many documents", 413);
    let pods: Vec<Value> = (0..5_000)
        .map(|index| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{index}"), "labels": {"app": "x"}},
                "status": {"podIP": "10.244.0.9"}})
        })
        .collect();
    let body = json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string();
    let first = send(gateway, "POST", APPLY, JSON, body.as_bytes());
    first.check("apply, 5,000 small Pods", 200);
    // They are in memory once more, and then found to be unchanged.
    let again = send(gateway, "POST", APPLY, JSON, body.as_bytes());
    Cost { stored: first.stored, ..again }.check("apply, the same again", 200);
    send(gateway, "DELETE", PODS, JSON, b"").check("delete them", 200);
}

fn options(gateway: &Gateway) {
    let dense = format!(r#"{{"x":[{}]}}"#, many("0", LONG));
    send(gateway, "DELETE", &format!("{PODS}/none"), JSON, dense.as_bytes()).check("options of a deletion", 413);
    send(gateway, "DELETE", PODS, JSON, dense.as_bytes()).check("options of a deletion of all", 413);
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    send(gateway, "POST", review, JSON, dense.as_bytes()).check("a review", 413);
}

/// Objects that are as large as they may be, and what an administrator would write.
fn large_objects(gateway: &Gateway) {
    let ports: Vec<Value> = (1..=20_000)
        .map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP", "targetPort": port}))
        .collect();
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "large", "namespace": "default"},
        "spec": {"selector": {"app": "x"}, "ports": ports}});
    let create = service.to_string();
    send(gateway, "POST", SERVICES, JSON, create.as_bytes()).check("create, 20,000 ports", 201);
    service["metadata"]["labels"] = json!({"a": "b"});
    let path = format!("{SERVICES}/large");
    send(gateway, "PUT", &path, JSON, service.to_string().as_bytes()).check("replace, 20,000 ports", 200);
    let data = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "x".repeat(1_000_000)}});
    let maps = "/api/v1/namespaces/default/configmaps";
    send(gateway, "POST", maps, JSON, data.to_string().as_bytes()).check("create, a megabyte of text", 201);
}

/// A field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        out.push((length & 0x7f).to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    out.push(length.to_le_bytes()[0]);
    out.extend_from_slice(bytes);
    out
}

/// An object of a kind in version v1.
fn protobuf(kind: &str, raw: &[u8]) -> Vec<u8> {
    let header = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &header), field(2, raw)].concat()
}

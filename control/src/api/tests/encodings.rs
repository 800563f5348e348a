//! The same objects as JSON, YAML and protobuf, whole or their metadata alone.

use std::io::Read;

use k8s_pb::api::core::v1 as core;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use prost::Message;

use super::*;
use crate::api::protobuf::tests::decode;
use crate::api::protobuf::{PROTOBUF, encode};

const AS_PROTOBUF: [(&str, &str); 1] = [("Accept", PROTOBUF)];
const IN_PROTOBUF: [(&str, &str); 2] = [("Content-Type", PROTOBUF), ("Accept", PROTOBUF)];

/// The object's own bytes, as Kubernetes' clients find them.
pub(super) fn raw(body: &[u8]) -> Vec<u8> {
    #[derive(Clone, PartialEq, Message)]
    struct Unknown {
        #[prost(bytes, tag = "2")]
        raw: Vec<u8>,
    }
    Unknown::decode(body.strip_prefix(b"k8s\0").expect("the mark")).expect("an envelope").raw
}

#[test]
fn what_go_sends_is_created_replaced_and_deleted() {
    let gateway = Gateway::new();
    let body = protobuf::tests::service();
    let made = gateway.send_bytes("POST", SERVICES, &IN_PROTOBUF[..1], &body).expect(201);
    assert_eq!((made.at("/metadata/name"), made.at("/spec/ports/0/targetPort")), (json!("web"), json!(8080)));
    gateway.send_bytes("POST", SERVICES, &IN_PROTOBUF, &body).refused(
        409,
        "AlreadyExists",
        "services \"web\" already exists",
    );
    gateway.send_bytes("POST", SERVICES, &IN_PROTOBUF, &body[..body.len() / 2]).expect(400);
    let path = format!("{SERVICES}/web");
    let read = gateway.send("GET", &path, &AS_PROTOBUF, "").expect(200);
    assert_eq!(read.headers["content-type"], PROTOBUF);
    assert_eq!(decode(&read.body), Ok(gateway.get(&path).json()));
    let mut changed = gateway.get(&path).json();
    changed["spec"]["ports"][0]["port"] = json!(81);
    let put = gateway.send_bytes("PUT", &path, &IN_PROTOBUF, &encode(&changed)).expect(200);
    assert_eq!(decode(&put.body).expect("an object")["spec"]["ports"][0]["port"], 81);
    let stale = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    gateway.send_bytes("DELETE", &path, &IN_PROTOBUF, &encode(&stale)).expect(409);
    let deleted = gateway.send_bytes(
        "DELETE",
        &path,
        &IN_PROTOBUF,
        &encode(&json!({"apiVersion": "v1", "kind": "DeleteOptions"})),
    );
    assert_eq!(decode(&deleted.expect(200).body).expect("an object")["kind"], "Service");
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"}});
    gateway.post("/api/v1/namespaces/default/endpoints", &endpoints).expect(201);
    let deleted = gateway.send("DELETE", "/api/v1/namespaces/default/endpoints/e", &AS_PROTOBUF, "").expect(200);
    let status = meta::Status::decode(&raw(&deleted.body)[..]).expect("a Status");
    assert_eq!(status.status.as_deref(), Some("Success"));
}

#[test]
fn lists_are_what_other_decoders_read() {
    let gateway = Gateway::new();
    let items: Vec<Value> = (0..700).map(|n| service(&format!("s{n:03}"))).collect();
    gateway.post(APPLY_PATH, &json!({"apiVersion": "v1", "kind": "List", "items": items})).expect(200);
    let list = gateway.send("GET", SERVICES, &AS_PROTOBUF, "").expect(200);
    let list = core::ServiceList::decode(&raw(&list.body)[..]).expect("a list");
    let names: Vec<String> = list.items.iter().filter_map(|item| item.metadata.as_ref()?.name.clone()).collect();
    assert_eq!((names.len(), names[1].as_str(), names[700].as_str()), (701, "s000", "s699"));
    assert_eq!(list.items[1].spec.as_ref().unwrap().ports[0].port, Some(80));
    let version = gateway.get(SERVICES).at("/metadata/resourceVersion");
    assert_eq!(list.metadata.unwrap().resource_version.map(Value::from), Some(version));
    let page = gateway.send("GET", &format!("{SERVICES}?limit=2"), &AS_PROTOBUF, "").expect(200);
    let page = core::ServiceList::decode(&raw(&page.body)[..]).expect("a list");
    let metadata = page.metadata.unwrap();
    assert_eq!((page.items.len(), metadata.remaining_item_count, metadata.r#continue.is_some()), (2, Some(699), true));
}

#[test]
fn a_watch_in_protobuf_is_a_sequence_of_frames() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &service("web")).expect(201);
    let mut stream = gateway.connect();
    let request = format!(
        "GET {SERVICES}?watch=1&timeoutSeconds=2&fieldSelector=metadata.name%3Dweb HTTP/1.1\r\nHost: x\r\n\
         Connection: close\r\nAccept: {PROTOBUF}\r\n\r\n"
    );
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("written");
    gateway.delete(&format!("{SERVICES}/web")).expect(200);
    let answer = Answer::read(&mut stream).expect(200);
    assert_eq!(answer.headers["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let (mut rest, mut events) = (&answer.body[..], Vec::new());
    let mut length = [0; 4];
    while rest.read_exact(&mut length).is_ok() {
        let (frame, behind) = rest.split_at(u32::from_be_bytes(length) as usize);
        let event = meta::WatchEvent::decode(frame).expect("an event");
        let object = decode(event.object.unwrap().raw.as_deref().unwrap_or_default()).expect("an object");
        events.push((event.r#type.unwrap_or_default(), object["metadata"]["name"].clone()));
        rest = behind;
    }
    assert_eq!(events, [("ADDED".to_owned(), json!("web")), ("DELETED".to_owned(), json!("web"))]);
}

#[test]
fn metadata_can_be_asked_for_alone() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &service("web")).expect(201);
    let accept = [("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")];
    let list = gateway.send("GET", SERVICES, &accept, "").expect(200);
    assert_eq!(
        (list.at("/kind"), list.at("/apiVersion")),
        (json!("PartialObjectMetadataList"), json!("meta.k8s.io/v1"))
    );
    let item = list.at("/items/1");
    assert_eq!((&item["kind"], &item["metadata"]["labels"]["app"]), (&json!("PartialObjectMetadata"), &json!("web")));
    assert_eq!(item["spec"], Value::Null);
    let one = [("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1beta1")];
    let one = gateway.send("GET", &format!("{SERVICES}/web"), &one, "").expect(200);
    assert_eq!(one.at("/apiVersion"), "meta.k8s.io/v1beta1");
    let accept = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = gateway.send("GET", SERVICES, &[("Accept", accept)], "").expect(200);
    let list = meta::PartialObjectMetadataList::decode(&raw(&list.body)[..]).expect("a list");
    assert_eq!(list.items[1].metadata.as_ref().unwrap().name.as_deref(), Some("web"));
    let watch = format!("{SERVICES}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true");
    let accept = [("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")];
    let events = gateway.send("GET", &watch, &accept, "").expect(200);
    for line in events.text.lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(
            (&event["object"]["kind"], &event["object"]["spec"]),
            (&json!("PartialObjectMetadata"), &Value::Null)
        );
    }
    assert!(events.text.lines().count() >= 2, "{}", events.text);
}

#[test]
fn yaml_is_written_too() {
    let gateway = Gateway::new();
    gateway.post(SERVICES, &service("web")).expect(201);
    let yaml = [("Accept", "application/yaml")];
    let path = format!("{SERVICES}/web");
    let one = gateway.send("GET", &path, &yaml, "").expect(200);
    assert_eq!(one.headers["content-type"], "application/yaml");
    let read = |text: &str| crate::objects::manifest::parse("test", text).expect("YAML");
    assert_eq!(read(&one.text)[0].value, gateway.get(&path).json());
    let list = gateway.send("GET", SERVICES, &yaml, "").expect(200);
    assert!(list.text.contains("\nitems:\n- "), "{}", list.text);
    // A list is taken apart when it is read.
    assert_eq!(read(&list.text).len(), 2);
    let none = gateway.send("GET", "/api/v1/namespaces/none/services", &yaml, "").expect(200);
    assert!(none.text.contains("items: []"), "{}", none.text);
    gateway.send("GET", &format!("{SERVICES}?watch=1"), &yaml, "").expect(406);
}

//! Objects as Kubernetes' protobuf, which clients in Go send and ask for unless they are told otherwise.
//!
//! ```text
//! object, list  "k8s\0"  Unknown { typeMeta { apiVersion, kind }, raw }      raw: the object, fields by number
//! watch         length, 4 bytes  WatchEvent { type, object { raw } }         raw: an object as above
//! ```
//!
//! Objects are converted from and to their JSON, along a description of the messages: see [`message`]. So whatever is checked,
//! stored and shown is the same in both forms.

mod message;
pub(super) mod openapi;
mod wire;

use serde_json::{Map, Value, json};

pub(crate) use self::message::Unreadable;
use self::wire::{Wire, put_bytes, put_head};
use crate::objects::Kind;
use crate::objects::allowance::Allowance;

/// The media type.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// Types that are no kinds and are read or written alone.
const OTHERS: [&str; 6] = [
    "DeleteOptions",
    "Status",
    "PartialObjectMetadata",
    "SelfSubjectAccessReview",
    "SelfSubjectRulesReview",
    "SelfSubjectReview",
];

/// The object in a body.
///
/// # Errors
/// What is wrong with it, that its kind is unknown, or that it takes too much memory.
pub(crate) fn decode(bytes: &[u8], allowance: &Allowance) -> Result<Value, Unreadable> {
    let mut bytes = bytes.strip_prefix(MAGIC).ok_or("it does not begin with \"k8s\\0\"")?;
    let (mut header, mut raw) = ([String::new(), String::new()], None);
    while !bytes.is_empty() {
        match wire::field(&mut bytes)? {
            (1, Some(Wire::Bytes(bytes))) => header = type_meta(bytes)?,
            (2, Some(Wire::Bytes(bytes))) => raw = Some(bytes),
            _ => {}
        }
    }
    let [version, kind] = header;
    let known = Kind::from_name(&kind).is_some_and(|known| known.api_version() == version);
    let message = message::find(&kind).filter(|_| known || OTHERS.contains(&kind.as_str()));
    let message = message.ok_or_else(|| format!("no kind {kind:?} is registered for version {version:?}"))?;
    let mut object = Map::new();
    message.read(raw.ok_or("it holds no object")?, &mut object, allowance)?;
    object.insert("apiVersion".to_owned(), json!(version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

fn type_meta(mut bytes: &[u8]) -> Result<[String; 2], String> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| error.to_string());
    let mut texts = [String::new(), String::new()];
    while !bytes.is_empty() {
        match wire::field(&mut bytes)? {
            (1, Some(Wire::Bytes(bytes))) => texts[0] = text(bytes)?,
            (2, Some(Wire::Bytes(bytes))) => texts[1] = text(bytes)?,
            _ => {}
        }
    }
    Ok(texts)
}

/// An object, from its JSON. `apiVersion` and `kind` are those that the JSON has.
pub(crate) fn encode(object: &Value) -> Vec<u8> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let raw = fields(text("kind"), object);
    let mut out = head(text("apiVersion"), text("kind"), raw.len());
    out.extend(raw);
    out
}

/// The bytes of an object before its fields, which are `length` bytes.
pub(crate) fn head(version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, 1, &meta);
    put_head(&mut out, 2, length);
    out
}

/// The fields of a list before its items.
pub(crate) fn list_head(meta: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &fields("ListMeta", meta));
    out
}

/// An item of a list.
pub(crate) fn list_item(kind: &str, object: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 2, &fields(kind, object));
    out
}

/// An event of a watch.
pub(crate) fn watch_event(event: &str, object: &Value) -> Vec<u8> {
    let (mut extension, mut body) = (Vec::new(), Vec::new());
    put_bytes(&mut extension, 1, &encode(object));
    put_bytes(&mut body, 1, event.as_bytes());
    put_bytes(&mut body, 2, &extension);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &body].concat()
}

fn fields(message: &str, object: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let (Some(message), Some(object)) = (message::find(message), object.as_object()) {
        message.write(object, &mut out);
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_pb::api::authentication::v1 as authentication;
    use k8s_pb::api::authorization::v1 as authorization;
    use k8s_pb::api::core::v1 as core;
    use k8s_pb::api::discovery::v1 as discovery;
    use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::message::samples;
    use super::*;

    /// An object, or what is wrong with it, without a bound.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Value, String> {
        super::decode(bytes, &Allowance::unlimited()).map_err(|unreadable| match unreadable {
            Unreadable::Bad(reason) => reason,
            Unreadable::TooMuch(too_much) => too_much.to_string(),
        })
    }

    /// What `kubectl create service clusterip web --tcp=80:8080` sends: Go writes what is empty, too.
    pub(crate) fn service() -> Vec<u8> {
        let text = |text: &str| Some(text.to_owned());
        let labels = [("app".to_owned(), "web".to_owned())];
        let service = core::Service {
            metadata: Some(meta::ObjectMeta {
                name: text("web"),
                generate_name: text(""),
                namespace: text(""),
                creation_timestamp: Some(meta::Time::default()),
                labels: labels.clone().into(),
                ..Default::default()
            }),
            spec: Some(core::ServiceSpec {
                ports: vec![core::ServicePort {
                    name: text("80-8080"),
                    protocol: text("TCP"),
                    port: Some(80),
                    target_port: Some(k8s_pb::apimachinery::pkg::util::intstr::IntOrString {
                        r#type: Some(0),
                        int_val: Some(8080),
                        str_val: text(""),
                    }),
                    node_port: Some(0),
                    ..Default::default()
                }],
                selector: labels.into(),
                cluster_ip: text(""),
                r#type: text("ClusterIP"),
                session_affinity: text(""),
                health_check_node_port: Some(0),
                publish_not_ready_addresses: Some(false),
                ..Default::default()
            }),
            status: Some(core::ServiceStatus {
                load_balancer: Some(core::LoadBalancerStatus::default()),
                ..Default::default()
            }),
        };
        let raw = service.encode_to_vec();
        [head("v1", "Service", raw.len()), raw].concat()
    }

    #[test]
    fn a_service_is_read_as_its_json_would_be() {
        let expected = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {"type": "ClusterIP", "selector": {"app": "web"},
                "ports": [{"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080}]},
            "status": {"loadBalancer": {}},
        });
        assert_eq!(decode(&service()), Ok(expected));
    }

    /// `raw`, decoded and encoded by k8s-pb, which drops what it does not know.
    fn by_others(kind: &str, raw: &[u8]) -> Vec<u8> {
        fn again<M: prost::Message + Default>(raw: &[u8]) -> Vec<u8> {
            M::decode(raw).expect("decoded").encode_to_vec()
        }
        match kind {
            "Namespace" => again::<core::Namespace>(raw),
            "Node" => again::<core::Node>(raw),
            "Pod" => again::<core::Pod>(raw),
            "Service" => again::<core::Service>(raw),
            "Endpoints" => again::<core::Endpoints>(raw),
            "EndpointSlice" => again::<discovery::EndpointSlice>(raw),
            "ConfigMap" => again::<core::ConfigMap>(raw),
            "Secret" => again::<core::Secret>(raw),
            "Event" => again::<core::Event>(raw),
            "DeleteOptions" => again::<meta::DeleteOptions>(raw),
            "Status" => again::<meta::Status>(raw),
            "PartialObjectMetadata" => again::<meta::PartialObjectMetadata>(raw),
            "SelfSubjectAccessReview" => again::<authorization::SelfSubjectAccessReview>(raw),
            "SelfSubjectRulesReview" => again::<authorization::SelfSubjectRulesReview>(raw),
            "SelfSubjectReview" => again::<authentication::SelfSubjectReview>(raw),
            other => panic!("no message for {other}"),
        }
    }

    #[test]
    fn every_field_of_every_type_is_where_others_look_for_it() {
        for kind in Kind::ALL.map(Kind::name).into_iter().chain(OTHERS) {
            let mut object = samples::full(message::find(kind).expect("described"), 6);
            let raw = fields(kind, &Value::Object(object.clone()));
            let version = Kind::from_name(kind).map_or("v1", Kind::api_version);
            let theirs = by_others(kind, &raw);
            object.insert("apiVersion".to_owned(), json!(version));
            object.insert("kind".to_owned(), json!(kind));
            let read = decode(&[head(version, kind, theirs.len()), theirs].concat());
            assert_eq!(read, Ok(Value::Object(object)), "{kind}");
        }
    }

    #[test]
    fn a_zero_is_a_value_only_in_a_pointer() {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        assert_eq!(decode(&encode(&options)), Ok(options));
        let ports = json!([{"name": "", "protocol": "TCP", "port": 0}]);
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "", "ports": ports,
            "endpoints": [{"conditions": {"ready": false}}]});
        let expected = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "ports": ports,
            "endpoints": [{"conditions": {"ready": false}}]});
        assert_eq!(decode(&encode(&slice)), Ok(expected));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let object = |kind: &str, raw: &[u8]| [head("v1", kind, raw.len()), raw.to_vec()].concat();
        let mut truncated = object("Service", &[1 << 3 | 2, 100]);
        for (body, expected) in [
            (b"{}".to_vec(), "does not begin with"),
            (MAGIC.to_vec(), "no kind \"\" is registered for version \"\""),
            (object("Deployment", b""), "no kind \"Deployment\" is registered for version \"v1\""),
            (object("Service", &[1 << 3, 1]), "metadata: it is of another type"),
            (truncated.clone(), "it is truncated"),
            (object("Service", &[1 << 3 | 2, 3, 1 << 3 | 2, 1, 0xff]), "metadata: name: invalid utf-8"),
        ] {
            let told = decode(&body).unwrap_err();
            assert!(told.contains(expected), "{told}");
        }
        truncated.truncate(8);
        assert_eq!(decode(&truncated), Err("it is truncated".to_owned()));
        // A field of a later version is skipped, as Go's decoders do.
        let later = decode(&object("Service", &[0xfa, 0x7f, 1, b'x'])).expect("read");
        assert_eq!(later, json!({"apiVersion": "v1", "kind": "Service"}));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_an_answer(tail in prop::collection::vec(any::<u8>(), 0..64), at in 0..64usize, to: u8) {
            let _ = decode(&[MAGIC, &tail].concat());
            let mut damaged = service();
            let at = at % damaged.len();
            damaged[at] = to;
            let _ = decode(&damaged);
        }
    }
}

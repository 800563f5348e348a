//! Objects as Kubernetes' protobuf: reading the few that `kubectl` sends in no other form.
//!
//! ```text
//! "k8s\0"  Unknown { typeMeta { apiVersion, kind }, raw }  raw: the object, fields by number
//! ```
//!
//! `kubectl create namespace` and `kubectl create service` (unlike `create -f`, which sends JSON) use typed clients, and those
//! write protobuf without asking. So what these two commands can say is read here: Namespaces and Services, without
//! their status. The numbers are those of k8s.io/api `core/v1/generated.proto` and apimachinery `generated.proto`,
//! which never change a number once given. A field that is not in the tables is refused rather than lost. A protobuf
//! library would want the whole description, ten thousand lines, to read these fields.

use serde_json::{Map, Value, json};

/// The media type.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
/// Deepest message in a message; an object here needs five.
const MAX_DEPTH: usize = 16;

/// A message: its fields by number, with their JSON names.
type Message = &'static [(u64, &'static str, Field)];

/// What a field holds.
#[derive(Clone, Copy)]
enum Field {
    Text,
    Number,
    Bool,
    /// A truth value of which `false` is "not given".
    Flag,
    /// Bytes that are another message.
    Message(Message),
    /// `map<string, string>`.
    Map,
    /// `meta/v1 Time`: seconds, nanoseconds.
    Time,
    /// `IntOrString`: which, number, text.
    IntOrString,
    /// Repeated texts.
    Texts,
    /// Repeated messages.
    Messages(Message),
    /// Not read: what the server writes by itself.
    Skip,
}

use Field::{Bool, Flag, IntOrString, Map as Pairs, Message as Of, Messages, Number, Skip, Text, Texts, Time};

const METADATA: Message = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (4, "selfLink", Skip),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Skip),
    (8, "creationTimestamp", Time),
    (9, "deletionTimestamp", Time),
    (10, "deletionGracePeriodSeconds", Number),
    (11, "labels", Pairs),
    (12, "annotations", Pairs),
    (14, "finalizers", Texts),
    (17, "managedFields", Skip),
];
const NAMESPACE: Message = &[
    (1, "metadata", Of(METADATA)),
    (2, "spec", Of(&[(1, "finalizers", Texts)])),
    (3, "status", Of(&[(1, "phase", Text)])),
];
const PORT: Message = &[
    (1, "name", Text),
    (2, "protocol", Text),
    (3, "port", Number),
    (4, "targetPort", IntOrString),
    (5, "nodePort", Number),
    (6, "appProtocol", Text),
];
const SERVICE_SPEC: Message = &[
    (1, "ports", Messages(PORT)),
    (2, "selector", Pairs),
    (3, "clusterIP", Text),
    (4, "type", Text),
    (5, "externalIPs", Texts),
    (7, "sessionAffinity", Text),
    (8, "loadBalancerIP", Text),
    (9, "loadBalancerSourceRanges", Texts),
    (10, "externalName", Text),
    (11, "externalTrafficPolicy", Text),
    (12, "healthCheckNodePort", Number),
    (13, "publishNotReadyAddresses", Flag),
    (14, "sessionAffinityConfig", Of(&[(1, "clientIP", Of(&[(1, "timeoutSeconds", Number)]))])),
    (17, "ipFamilyPolicy", Text),
    (18, "clusterIPs", Texts),
    (19, "ipFamilies", Texts),
    (20, "allocateLoadBalancerNodePorts", Bool),
    (21, "loadBalancerClass", Text),
    (22, "internalTrafficPolicy", Text),
    (23, "trafficDistribution", Text),
];
const SERVICE: Message =
    &[(1, "metadata", Of(METADATA)), (2, "spec", Of(SERVICE_SPEC)), (3, "status", Of(&[(1, "loadBalancer", Of(&[]))]))];
const UNKNOWN: Message = &[
    (1, "typeMeta", Of(&[(1, "apiVersion", Text), (2, "kind", Text)])),
    (2, "raw", Skip),
    (3, "contentEncoding", Text),
    (4, "contentType", Text),
];

/// The object in a body.
///
/// # Errors
/// What is wrong with it, or that its kind is not read in this form.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, String> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or("it does not begin with \"k8s\\0\"")?;
    let envelope = message(bytes, UNKNOWN, 0)?;
    let text = |pointer: &str| envelope.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("/typeMeta/apiVersion"), text("/typeMeta/kind"));
    let object = match (version, kind) {
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "Service") => SERVICE,
        _ => return Err(format!("a {kind} of {version:?} is not accepted as protobuf; send it as JSON or YAML")),
    };
    let raw = raw(bytes)?;
    let mut value = message(raw, object, 0)?;
    value["apiVersion"] = json!(version);
    value["kind"] = json!(kind);
    Ok(value)
}

/// The object's own bytes: field 2 of the envelope.
fn raw(mut bytes: &[u8]) -> Result<&[u8], String> {
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (2, Wire::Bytes(raw)) => return Ok(raw),
            _ => continue,
        }
    }
    Err("it holds no object".to_owned())
}

fn message(mut bytes: &[u8], fields: Message, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err("it is nested too deep".to_owned());
    }
    let mut object = Map::new();
    while !bytes.is_empty() {
        let (number, wire) = field(&mut bytes)?;
        let Some((_, name, kind)) = fields.iter().find(|(known, ..)| *known == number) else {
            return Err(format!("field {number} is not known in protobuf; send the object as JSON or YAML"));
        };
        add(&mut object, name, *kind, wire, depth).map_err(|reason| format!("{name}: {reason}"))?;
    }
    Ok(Value::Object(object))
}

fn add(object: &mut Map<String, Value>, name: &str, kind: Field, wire: Wire<'_>, depth: usize) -> Result<(), String> {
    let value = match (kind, wire) {
        (Skip, _) => return Ok(()),
        // Empty texts are how this form says "not given".
        (Text, Wire::Bytes(bytes)) => match text(bytes)? {
            "" => return Ok(()),
            text => json!(text),
        },
        (Number, Wire::Number(number)) => match number.cast_signed() {
            0 => return Ok(()),
            number => json!(number),
        },
        (Flag, Wire::Number(0)) => return Ok(()),
        (Bool | Flag, Wire::Number(number)) => json!(number != 0),
        (Of(fields), Wire::Bytes(bytes)) => message(bytes, fields, depth + 1)?,
        (Time, Wire::Bytes(bytes)) => match time(bytes)? {
            Some(time) => json!(time),
            None => return Ok(()),
        },
        (IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Pairs, Wire::Bytes(bytes)) => {
            let pair = message(bytes, &[(1, "key", Text), (2, "value", Text)], depth + 1)?;
            let part = |name: &str| pair.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let pairs = object.entry(name).or_insert_with(|| json!({}));
            pairs[part("key")] = json!(part("value"));
            return Ok(());
        }
        (Texts, Wire::Bytes(bytes)) => return push(object, name, json!(text(bytes)?)),
        (Messages(fields), Wire::Bytes(bytes)) => return push(object, name, message(bytes, fields, depth + 1)?),
        _ => return Err("it is of another type".to_owned()),
    };
    object.insert(name.to_owned(), value);
    Ok(())
}

fn push(object: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), String> {
    if let Value::Array(list) = object.entry(name).or_insert_with(|| json!([])) {
        list.push(value);
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| error.to_string())
}

fn time(bytes: &[u8]) -> Result<Option<String>, String> {
    let parts = message(bytes, &[(1, "seconds", Number), (2, "nanos", Number)], MAX_DEPTH)?;
    let Some(seconds) = parts.get("seconds").and_then(Value::as_i64) else {
        return Ok(None);
    };
    jiff::Timestamp::from_second(seconds).map(|time| Some(time.to_string())).map_err(|error| error.to_string())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let parts = message(bytes, &[(1, "type", Number), (2, "number", Number), (3, "text", Text)], MAX_DEPTH)?;
    Ok(match parts.get("type") {
        None => parts.get("number").cloned().unwrap_or_else(|| json!(0)),
        Some(_) => parts.get("text").cloned().unwrap_or_else(|| json!("")),
    })
}

/// A value as it stands in the bytes.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Takes one field off the front: its number and value.
fn field<'a>(bytes: &mut &'a [u8]) -> Result<(u64, Wire<'a>), String> {
    let tag = varint(bytes)?;
    let wire = match tag & 7 {
        0 => Wire::Number(varint(bytes)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).unwrap_or(usize::MAX);
            let (value, rest) = bytes.split_at_checked(length).ok_or("it is truncated")?;
            *bytes = rest;
            Wire::Bytes(value)
        }
        other => return Err(format!("wire type {other} is used by no field here")),
    };
    Ok((tag >> 3, wire))
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("it is truncated")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long".to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A field with bytes.
    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).expect("short");
        assert!(length < 0x80 && number < 16, "one byte each");
        [&[number << 3 | 2, length], value].concat()
    }

    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, b"v1"), bytes(2, kind.as_bytes())].concat();
        // As Go writes it: the empty encoding and content type are there.
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
    }

    /// What `kubectl create service clusterip web --tcp=80:8080` sends.
    pub(crate) fn service() -> Vec<u8> {
        let label = [bytes(1, b"app"), bytes(2, b"web")].concat();
        let metadata = [bytes(1, b"web"), bytes(2, b""), bytes(3, b""), bytes(8, b""), bytes(11, &label)].concat();
        let target = [number(1, 0), vec![2 << 3, 0x90, 0x3f], bytes(3, b"")].concat();
        let port = [bytes(1, b"80-8080"), bytes(2, b"TCP"), number(3, 80), bytes(4, &target), number(5, 0)].concat();
        let spec =
            [bytes(1, &port), bytes(2, &label), bytes(3, b""), bytes(4, b"ClusterIP"), bytes(7, b""), number(13, 0)];
        envelope("Service", &[bytes(1, &metadata), bytes(2, &spec.concat()), bytes(3, &bytes(1, b""))].concat())
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

    #[test]
    fn texts_lists_and_times_are_read() {
        let time = [vec![1 << 3, 0xe8, 0x07], number(2, 0)].concat();
        let metadata = [bytes(1, b"n"), bytes(8, &time), bytes(14, b"a"), bytes(14, b"b")].concat();
        let read = decode(&envelope("Namespace", &bytes(1, &metadata))).unwrap();
        let expected = json!({"name": "n", "creationTimestamp": "1970-01-01T00:16:40Z", "finalizers": ["a", "b"]});
        assert_eq!(read["metadata"], expected);
        let named = [number(1, 1), number(2, 0), bytes(3, b"http")].concat();
        assert_eq!(int_or_string(&named), Ok(json!("http")));
    }

    #[test]
    fn what_is_not_read_is_told() {
        let cases = [
            (b"{}".to_vec(), "does not begin with"),
            (MAGIC.to_vec(), "is not accepted as protobuf"),
            (envelope("Pod", b""), "a Pod of \"v1\" is not accepted as protobuf"),
            (envelope("Service", &bytes(9, b"x")), "field 9 is not known"),
            (envelope("Service", &number(1, 1)), "metadata: it is of another type"),
            (envelope("Service", &[1 << 3 | 2, 100]), "it is truncated"),
            (envelope("Service", &[0xff; 11]), "a number is too long"),
            (envelope("Service", &bytes(1, &bytes(1, &[0xff]))), "metadata: name: invalid utf-8"),
        ];
        for (body, expected) in cases {
            let told = decode(&body).unwrap_err();
            assert!(told.contains(expected), "{told}");
        }
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

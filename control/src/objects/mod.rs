//! The kinds pollgate understands, and typed objects of them.
//!
//! ```text
//! YAML/JSON ─ manifest ─▶ Value ─ Object::from_value ─▶ Object ─ to_value ─▶ JSON of the API, the store, the CLI
//! ```
//!
//! The types are `k8s-openapi`'s, generated from Kubernetes' own description, so that every field of a Pod survives
//! a round trip even where pollgate does not look at it. They decode leniently (unknown fields are dropped), which
//! is wrong for a hand-written manifest: a mistyped `prots:` would silently mean "no ports". So [`Object::from_value`]
//! compares the input with what was decoded and reports each difference. That costs one more serialisation than a
//! decoder that reports ignored fields would, and saves three hundred lines of wrapper around every serde call.

pub mod fault;
pub mod manifest;
pub(crate) mod merge;
pub(crate) mod schema;
pub mod service;
pub(crate) mod shown;
pub mod weight;

use std::fmt;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::objects::fault::{Fault, FaultReason};

/// The label that ties an EndpointSlice to its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Declares every kind once: what is the same for all of them follows from this list.
macro_rules! kinds {
    ($(
        $(#[$doc:meta])*
        $kind:ident, $as:ident, $version:literal, [$singular:literal, $plural:literal $(, $short:literal)?],
        namespaced: $namespaced:literal, status: $status:literal, categories: [$($category:literal)?];
    )*) => {
        /// The kinds of object, in the order in which a listing of everything shows them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: [Kind; [$($singular),*].len()] = [$(Kind::$kind),*];

            /// `apiVersion` of the kind.
            pub fn api_version(self) -> &'static str {
                match self { $(Kind::$kind => $version),* }
            }

            /// `kind` as manifests spell it.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => stringify!($kind)),* }
            }

            /// Lower-case singular, as `kubectl get -o name` prints it (there with the group).
            pub fn singular(self) -> &'static str {
                match self { $(Kind::$kind => $singular),* }
            }

            /// The resource name in API paths.
            pub fn plural(self) -> &'static str {
                match self { $(Kind::$kind => $plural),* }
            }

            /// kubectl's short names.
            pub fn short_names(self) -> &'static [&'static str] {
                match self { $(Kind::$kind => &[$($short)?]),* }
            }

            /// Whether objects of the kind live in a namespace.
            pub fn namespaced(self) -> bool {
                match self { $(Kind::$kind => $namespaced),* }
            }

            /// Whether objects of the kind have a status that is written by itself.
            pub fn has_status(self) -> bool {
                match self { $(Kind::$kind => $status),* }
            }

            /// The groups of kinds, such as that of `kubectl get all`, the kind belongs to.
            pub fn categories(self) -> &'static [&'static str] {
                match self { $(Kind::$kind => &[$($category)?]),* }
            }

            /// The JSON schema of the kind's objects.
            pub(crate) fn subschema(self, generator: &mut SchemaGenerator) -> Schema {
                match self { $(Kind::$kind => generator.subschema_for::<$kind>()),* }
            }
        }

        /// An object of one of the kinds.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $($(#[$doc])* $kind(Box<$kind>),)*
        }

        impl Object {
            /// The object's kind.
            pub fn kind(&self) -> Kind {
                match self { $(Object::$kind(_) => Kind::$kind),* }
            }

            /// The object's metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self { $(Object::$kind(object) => &object.metadata),* }
            }

            /// The object's metadata, to be changed.
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self { $(Object::$kind(object) => &mut object.metadata),* }
            }

            /// The object as JSON, with `apiVersion` and `kind`.
            pub fn to_value(&self) -> Value {
                match self { $(Object::$kind(object) => serde_json::to_value(object)),* }.unwrap_or_default()
            }

            /// The object whose [`Object::to_value`] this is. Only the types are checked: the rest was when it was written.
            ///
            /// # Errors
            /// If it is not the JSON of an object of that kind.
            pub(crate) fn from_stored(kind: Kind, json: &[u8]) -> Result<Object, serde_json::Error> {
                match kind { $(Kind::$kind => serde_json::from_slice(json).map(Object::$kind)),* }
            }

            fn decode(kind: Kind, value: &Value, faults: &mut Vec<Fault>) -> Option<Object> {
                match kind { $(Kind::$kind => typed(kind, value, faults).map(Object::$kind)),* }
            }

            $(
                #[doc = concat!("The ", stringify!($kind), ", if it is one.")]
                pub fn $as(&self) -> Option<&$kind> {
                    match self {
                        Object::$kind(object) => Some(object),
                        _ => None,
                    }
                }
            )*
        }
    };
}

kinds! {
    /// `v1 Namespace`
    Namespace, as_namespace, "v1", ["namespace", "namespaces", "ns"], namespaced: false, status: true, categories: [];
    /// `v1 Node`
    Node, as_node, "v1", ["node", "nodes", "no"], namespaced: false, status: true, categories: [];
    /// `v1 Pod`
    Pod, as_pod, "v1", ["pod", "pods", "po"], namespaced: true, status: true, categories: ["all"];
    /// `v1 Service`
    Service, as_service, "v1", ["service", "services", "svc"], namespaced: true, status: true, categories: ["all"];
    /// `v1 Endpoints`
    Endpoints, as_endpoints, "v1", ["endpoints", "endpoints", "ep"], namespaced: true, status: false, categories: [];
    /// `discovery.k8s.io/v1 EndpointSlice`
    EndpointSlice, as_slice, "discovery.k8s.io/v1", ["endpointslice", "endpointslices"],
        namespaced: true, status: false, categories: [];
    /// `v1 ConfigMap`
    ConfigMap, as_config_map, "v1", ["configmap", "configmaps", "cm"], namespaced: true, status: false, categories: [];
    /// `v1 Secret`
    Secret, as_secret, "v1", ["secret", "secrets"], namespaced: true, status: false, categories: [];
    /// `v1 Event`
    Event, as_event, "v1", ["event", "events", "ev"], namespaced: true, status: false, categories: [];
}

impl Kind {
    /// API group; empty for the core group.
    pub fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// The kind a user means by `svc`, `service`, `Services` or `endpointslices.discovery.k8s.io`.
    pub fn from_alias(alias: &str) -> Option<Kind> {
        let alias = alias.to_ascii_lowercase();
        let (resource, group) = alias.split_once('.').unwrap_or((&alias, ""));
        let kind = Kind::ALL.into_iter().find(|kind| {
            resource == kind.singular() || resource == kind.plural() || kind.short_names().contains(&resource)
        })?;
        (group.is_empty() || group == kind.group()).then_some(kind)
    }

    /// The kind with exactly this `kind:` in a manifest.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds that have none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of an object; `namespace` is ignored for kinds that have none.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Key {
        let namespace = if kind.namespaced() { namespace.into() } else { String::new() };
        Key { kind, namespace, name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => write!(f, "{}/{}", self.kind.singular(), self.name),
            false => write!(f, "{}/{}/{}", self.kind.singular(), self.namespace, self.name),
        }
    }
}

impl Object {
    /// The object a manifest or request body describes.
    ///
    /// A namespaced object without a namespace is put into `default_namespace`. Only the shape is checked here:
    /// `apiVersion`, `kind`, `metadata.name`, types and unknown fields; values are checked when the object is written.
    ///
    /// # Errors
    /// Every fault that could be found, in the order of the fields a reader expects.
    pub fn from_value(value: &Value, default_namespace: &str) -> Result<Object, Vec<Fault>> {
        match Object::read(value, default_namespace) {
            (Some(object), faults) if faults.is_empty() => Ok(object),
            (_, faults) => Err(faults),
        }
    }

    /// The same, but unknown fields are left out and returned separately.
    ///
    /// # Errors
    /// Every other fault that could be found.
    pub fn from_value_lenient(value: &Value, default_namespace: &str) -> Result<(Object, Vec<Fault>), Vec<Fault>> {
        let (object, faults) = Object::read(value, default_namespace);
        let (unknown, others): (Vec<Fault>, Vec<Fault>) =
            faults.into_iter().partition(|fault| fault.reason == FaultReason::UnknownField);
        match object {
            Some(object) if others.is_empty() => Ok((object, unknown)),
            _ => Err(others),
        }
    }

    fn read(value: &Value, default_namespace: &str) -> (Option<Object>, Vec<Fault>) {
        let Some(fields) = value.as_object() else {
            let fault = Fault::wrong_type("", &format!("expected an object, found {}", type_name(value)));
            return (None, vec![fault]);
        };
        let mut faults = Vec::new();
        let kind = check_header(fields, &mut faults);
        check_name(fields, &mut faults);
        let mut object = kind.and_then(|kind| Object::decode(kind, value, &mut faults));
        if let Some(object) = &mut object {
            object.settle_namespace(default_namespace);
        }
        (object, faults)
    }

    /// The object's key.
    pub fn key(&self) -> Key {
        Key::new(self.kind(), self.namespace(), self.name())
    }

    /// The object's name; empty while it has none.
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// The object's namespace; empty for kinds that have none.
    pub fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata().labels.as_ref()?.get(key).map(String::as_str)
    }

    fn settle_namespace(&mut self, default_namespace: &str) {
        let namespaced = self.kind().namespaced();
        let namespace = &mut self.metadata_mut().namespace;
        if !namespaced {
            *namespace = None;
        } else if namespace.as_deref().unwrap_or_default().is_empty() {
            *namespace = Some(default_namespace.to_owned());
        }
    }
}

fn check_header(fields: &Map<String, Value>, faults: &mut Vec<Fault>) -> Option<Kind> {
    let expected = match fields.get("kind").and_then(Value::as_str).and_then(Kind::from_name) {
        Some(kind) => format!("expected {} for a {}", kind.api_version(), kind.name()),
        None => "expected the version of the kind, such as v1".to_owned(),
    };
    let version = required_text(fields, "apiVersion", "apiVersion", &expected, faults);
    let kinds = format!("expected one of {}", Kind::ALL.map(Kind::name).join(", "));
    let name = required_text(fields, "kind", "kind", &kinds, faults)?;
    let Some(kind) = Kind::from_name(name) else {
        faults.push(Fault::not_supported("kind", name, &Kind::ALL.map(Kind::name)));
        return None;
    };
    if let Some(version) = version.filter(|version| *version != kind.api_version()) {
        faults.push(Fault::not_supported("apiVersion", version, &[kind.api_version()]));
    }
    Some(kind)
}

fn check_name(fields: &Map<String, Value>, faults: &mut Vec<Fault>) {
    let empty = Map::new();
    let metadata = match fields.get("metadata") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(metadata)) => metadata,
        Some(other) => {
            let detail = format!("expected an object, found {}", type_name(other));
            return faults.push(Fault::wrong_type("metadata", &detail));
        }
    };
    if !metadata.contains_key("generateName") {
        required_text(metadata, "name", "metadata.name", "name or generateName is required", faults);
    }
}

fn required_text<'a>(
    fields: &'a Map<String, Value>,
    key: &str,
    path: &str,
    expected: &str,
    faults: &mut Vec<Fault>,
) -> Option<&'a str> {
    match fields.get(key) {
        Some(Value::String(text)) if !text.is_empty() => return Some(text),
        None | Some(Value::Null | Value::String(_)) => faults.push(Fault::required(path, expected)),
        Some(other) => {
            let detail = format!("expected a string, found {}", type_name(other));
            faults.push(Fault::wrong_type(path, &detail));
        }
    }
    None
}

/// Go's time that is not given. The generated types have one for the condition of a Service, which must have a time.
pub(crate) const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// What Kubernetes reads and the generated types do not: no value for a label, no time for the condition of a Service.
fn fill_nulls(kind: Kind, value: &mut Value) {
    for pointer in ["/metadata/labels", "/metadata/annotations", "/spec/selector", "/data"] {
        let pairs = value.pointer_mut(pointer).and_then(Value::as_object_mut);
        pairs.into_iter().flatten().filter(|(_, value)| value.is_null()).for_each(|(_, value)| *value = "".into());
    }
    let conditions = value.pointer_mut("/status/conditions").filter(|_| kind == Kind::Service);
    for condition in conditions.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        let time = condition.entry("lastTransitionTime").or_insert(Value::Null);
        if time.is_null() {
            *time = NO_TIME.into();
        }
    }
}

/// Decodes, and reports the first wrong type or else every unknown field.
fn typed<T: DeserializeOwned + Serialize>(kind: Kind, value: &Value, faults: &mut Vec<Fault>) -> Option<Box<T>> {
    let mut value = value.clone();
    quantities_to_text(&mut value);
    fill_nulls(kind, &mut value);
    // Their faults have been reported already; the decoder would report them again, or stop at them.
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|key, _| key != "apiVersion" && key != "kind");
    }
    let object: T = match serde_path_to_error::deserialize(&value) {
        Ok(object) => object,
        Err(error) => {
            let path = error.path().to_string();
            let told = faults.iter().any(|fault| fault.field == path);
            if !told {
                faults.push(Fault::wrong_type(path, &error.into_inner().to_string()));
            }
            return None;
        }
    };
    let understood = serde_json::to_value(&object).unwrap_or_default();
    unknown_fields(&value, &understood, "", faults);
    Some(Box::new(object))
}

/// Kubernetes reads `cpu: 1` and `cpu: "1"` alike; the generated type knows only text.
fn quantities_to_text(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(quantities_to_text),
        Value::Object(fields) => {
            for (key, field) in fields {
                match (key.as_str(), field) {
                    ("limits" | "requests" | "capacity" | "allocatable" | "overhead", Value::Object(amounts)) => {
                        amounts.values_mut().for_each(number_to_text);
                    }
                    ("sizeLimit", field) => number_to_text(field),
                    // Labels and annotations are text already; a number there is a fault.
                    ("labels" | "annotations" | "selector", _) => {}
                    (_, field) => quantities_to_text(field),
                }
            }
        }
        _ => {}
    }
}

fn number_to_text(value: &mut Value) {
    if let Value::Number(number) = value {
        *value = Value::String(number.to_string());
    }
}

fn unknown_fields(given: &Value, understood: &Value, path: &str, faults: &mut Vec<Fault>) {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match understood.get(key) {
                    Some(known) => unknown_fields(value, known, &path, faults),
                    None => faults.push(Fault::unknown_field(path)),
                }
            }
        }
        (Value::Array(given), Value::Array(understood)) => {
            for (index, (value, known)) in given.iter().zip(understood).enumerate() {
                unknown_fields(value, known, &format!("{path}[{index}]"), faults);
            }
        }
        _ => {}
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(value: Value) -> Vec<String> {
        Object::from_value(&value, "default").unwrap_err().iter().map(Fault::to_string).collect()
    }

    #[test]
    fn everything_missing_is_told_at_once() {
        let value = json!({"kind": "Service", "spec": {"ports": [{"port": 80}]}});
        let name = "metadata.name: Required value: name or generateName is required";
        assert_eq!(faults(value), ["apiVersion: Required value: expected v1 for a Service", name]);
        assert_eq!(
            faults(json!({})),
            [
                "apiVersion: Required value: expected the version of the kind, such as v1",
                "kind: Required value: expected one of Namespace, Node, Pod, Service, Endpoints, EndpointSlice, ConfigMap, Secret, Event",
                name
            ]
        );
    }

    #[test]
    fn faults_of_shape_carry_their_path() {
        let service =
            |spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec});
        let cases = [
            (json!([1]), "Invalid value: expected an object, found a list"),
            (service(json!({"prots": []})), "spec.prots: unknown field"),
            (service(json!({"ports": [{"port": 80, "portt": 1}]})), "spec.ports[0].portt: unknown field"),
            (
                service(json!({"ports": [{"port": "80"}]})),
                "spec.ports[0].port: Invalid value: invalid type: string \"80\", expected i32",
            ),
            (
                json!({"apiVersion": "v1", "kind": "Deployment", "metadata": {"name": "a"}}),
                r#"kind: Unsupported value: "Deployment": supported values: "Namespace", "Node", "Pod", "Service", "Endpoints", "EndpointSlice", "ConfigMap", "Secret", "Event""#,
            ),
            (
                json!({"apiVersion": "v1", "kind": "EndpointSlice", "metadata": {"name": "a"}}),
                r#"apiVersion: Unsupported value: "v1": supported values: "discovery.k8s.io/v1""#,
            ),
            (
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": 5}),
                "metadata: Invalid value: expected an object, found a number",
            ),
        ];
        for (value, text) in cases {
            let told = faults(value.clone());
            assert!(told.iter().any(|fault| fault == text), "{value}: {told:?}");
        }
    }

    #[test]
    fn a_label_that_is_a_number_is_a_fault_and_a_quantity_that_is_one_is_not() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"version": 1}}});
        assert!(faults(pod)[0].starts_with("metadata.labels.version: Invalid value:"));
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 1}}}]}});
        assert!(Object::from_value(&pod, "default").is_ok());
    }

    #[test]
    fn an_object_survives_the_round_trip() {
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b"},
            "spec": {"ports": [{"port": 80, "targetPort": "http"}], "selector": {"app": "a"}}});
        let object = Object::from_value(&value, "default").unwrap();
        assert_eq!(object.to_value(), value);
        assert_eq!(object.key().to_string(), "service/b/a");
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "namespace": "b"}});
        assert_eq!(Object::from_value(&node, "default").unwrap().key().to_string(), "node/n");
    }

    #[test]
    fn aliases_are_kubectls() {
        for (alias, kind) in [
            ("svc", Some(Kind::Service)),
            ("Services", Some(Kind::Service)),
            ("po", Some(Kind::Pod)),
            ("ns", Some(Kind::Namespace)),
            ("endpointslices.discovery.k8s.io", Some(Kind::EndpointSlice)),
            ("services.discovery.k8s.io", None),
            ("ep", Some(Kind::Endpoints)),
            ("endpoints", Some(Kind::Endpoints)),
            ("ev", Some(Kind::Event)),
            ("deploy", None),
        ] {
            assert_eq!(Kind::from_alias(alias), kind, "{alias}");
        }
    }
}

//! The kinds pollgate understands, and typed objects of them.
//!
//! ```text
//! JSON ─────────────────────────┐
//! YAML ─ manifest ─▶ Value ─────┴ decode ─▶ Draft ─▶ Object ─▶ JSON of the API, the store, the CLI
//! ```
//!
//! The types are `k8s-openapi`'s, generated from Kubernetes' own description, so that every field of a Pod survives
//! a round trip even where pollgate does not look at it. They decode leniently (unknown fields are dropped), which
//! is wrong for a hand-written manifest: a mistyped `prots:` would silently mean "no ports". So `decode` watches what the
//! types drop.

pub(crate) mod allowance;
pub(crate) mod decode;
pub mod fault;
pub mod manifest;
pub(crate) mod merge;
pub(crate) mod schema;
pub mod service;
pub(crate) mod shown;
pub(crate) mod trigger;
pub mod weight;

use std::fmt;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value};

use self::allowance::{Allowance, TooMuch};
use self::decode::{Source, Typed, Untyped};
use self::fault::{Fault, Faults};

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

            /// Writes the object's JSON, as [`Object::to_value`] has it.
            ///
            /// # Errors
            /// The writer's.
            pub(crate) fn write_json(&self, out: impl std::io::Write) -> Result<(), serde_json::Error> {
                match self { $(Object::$kind(object) => serde_json::to_writer(out, object)),* }
            }

            /// The object whose JSON this is. Only the types are checked: the rest was when it was written.
            ///
            /// # Errors
            /// If it is not the JSON of an object of that kind.
            pub(crate) fn from_stored(kind: Kind, json: &[u8]) -> Result<Object, serde_json::Error> {
                match kind { $(Kind::$kind => serde_json::from_slice(json).map(Object::$kind)),* }
            }

            fn decode(kind: Kind, source: Source<'_>, allowance: &Allowance) -> Result<Typed<Object>, Untyped> {
                match kind { $(Kind::$kind => source.typed(allowance).map(|typed| typed.map(Object::$kind))),* }
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
    pub fn from_value(value: &Value, default_namespace: &str) -> Result<Object, Faults> {
        Draft::of_value(value).and_then(|draft| draft.strictly(default_namespace))
    }

    /// Bytes of the object's JSON.
    pub(crate) fn json_length(&self) -> usize {
        struct Count(usize);
        impl std::io::Write for Count {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0 += bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut count = Count(0);
        // Counting cannot fail, and every object can be serialised.
        let _ = self.write_json(&mut count);
        count.0
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

/// What was read of an object: the object, if there is one, and everything that is wrong with its shape.
#[derive(Debug)]
pub(crate) struct Draft {
    object: Option<Object>,
    /// What must be there, as far as it is: see `Source::outline`.
    pub(crate) header: Value,
    /// Wrong types, and what is missing.
    faults: Faults,
    /// Fields that the kind does not have.
    pub(crate) unknown: Faults,
    /// Fields that are given more than once.
    pub(crate) repeated: Vec<String>,
}

/// Why nothing was read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It is not JSON.
    NotJson(serde_json::Error),
    /// It takes too much memory.
    TooMuch(TooMuch),
}

impl Draft {
    /// Reads an object. One that is `expected` to be of a kind need not name it.
    pub(crate) fn read(source: Source<'_>, expected: Option<Kind>, allowance: &Allowance) -> Result<Draft, Unread> {
        let mut header = source.outline().map_err(Unread::NotJson)?;
        let (mut faults, mut unknown, mut repeated) = (Faults::new(), Faults::new(), Vec::new());
        let Some(fields) = header.as_object_mut() else {
            faults.push(Fault::wrong_type("", &format!("expected an object, found {}", type_name(&header))));
            return Ok(Draft { object: None, header, faults, unknown, repeated });
        };
        expected.into_iter().for_each(|kind| fill_header(kind, fields));
        let kind = check_header(fields, &mut faults);
        check_name(fields, &mut faults);
        let object = match kind.map(|kind| Object::decode(kind, source, allowance)) {
            Some(Ok(typed)) => {
                (unknown, repeated) = (typed.unknown, typed.repeated);
                Some(*typed.object)
            }
            Some(Err(Untyped::TooMuch(too_much))) => return Err(Unread::TooMuch(too_much)),
            Some(Err(Untyped::Wrong(fault))) => {
                if faults.iter().all(|told| told.field != fault.field) {
                    faults.push(fault);
                }
                None
            }
            None => None,
        };
        Ok(Draft { object, header, faults, unknown, repeated })
    }

    fn of_value(value: &Value) -> Result<Draft, Faults> {
        let told = |unread| Fault::wrong_type("", &format!("{unread:?}")).into();
        Draft::read(Source::Value(value), None, &Allowance::unlimited()).map_err(told)
    }

    /// The object, if there is nothing wrong with it. One without a namespace is put into the default one.
    pub(crate) fn strictly(mut self, default_namespace: &str) -> Result<Object, Faults> {
        let unknown = std::mem::take(&mut self.unknown);
        self.faults.append(unknown);
        self.leniently(default_namespace)
    }

    /// The same, whatever fields the kind does not have.
    pub(crate) fn leniently(self, default_namespace: &str) -> Result<Object, Faults> {
        match self.object {
            Some(mut object) if self.faults.is_empty() => {
                object.settle_namespace(default_namespace);
                Ok(object)
            }
            _ => Err(self.faults),
        }
    }
}

/// What an object of this kind may leave to the path: the official Python client does.
fn fill_header(kind: Kind, fields: &mut Map<String, Value>) {
    for (field, text) in [("apiVersion", kind.api_version()), ("kind", kind.name())] {
        let given = fields.entry(field).or_insert(Value::Null);
        if given.is_null() || given == "" {
            *given = text.into();
        }
    }
}

fn check_header(fields: &Map<String, Value>, faults: &mut Faults) -> Option<Kind> {
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

fn check_name(fields: &Map<String, Value>, faults: &mut Faults) {
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
    faults: &mut Faults,
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

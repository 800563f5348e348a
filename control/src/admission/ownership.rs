//! Who owns which field: `metadata.managedFields`, as far as server-side apply needs it.
//!
//! ```text
//! fieldsV1                          a set of paths
//! f:spec:
//!   f:ports:
//!     k:{"port":80,"protocol":"TCP"}:
//!       .: {}                       [f:spec, f:ports, k:{…}]
//!       f:targetPort: {}            [f:spec, f:ports, k:{…}, f:targetPort]
//! ```
//!
//! The steps of a path are kept as `fieldsV1` spells them, so that reading and writing is only unfolding the tree, and
//! union, difference and the search for other managers are those of an ordinary set. sigs.k8s.io/structured-merge-diff keeps a
//! trie with typed steps, which pays at a thousand appliers and not at three.
//!
//! Only entries of operation `Apply` are kept. Any other write that changes a field removes it from its managers; its
//! writer is not recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
use serde_json::{Map, Value};

use crate::objects::Object;
use crate::objects::merge::{Merge, Rules};
use crate::objects::schema::{Shape, key_value};

/// The way to a field or item: steps such as `f:spec`, `k:{"port":80}` or `v:"a"`.
pub(crate) type Path = Vec<String>;

/// Most fields one applier may set. Looking one of them up in a long list costs the list.
const MAX_FIELDS: usize = 5_000;

/// What belongs to the server in every object, and so to no manager.
const SERVER_FIELDS: [&[&str]; 11] = [
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:managedFields"],
];

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet(pub(crate) BTreeSet<Path>);

impl FieldSet {
    /// The fields an applied object names: its plain values, its lists and maps that are one value, its items.
    ///
    /// # Errors
    /// An item of a list by keys that lacks one or repeats another's, in the API server's words; too many fields.
    pub(crate) fn of(shape: &'static Shape, value: &Value) -> Result<Self, String> {
        let mut set = Self::default();
        set.add(shape, value, &mut Vec::new())?;
        if set.0.len() > MAX_FIELDS {
            return Err(too_many_fields());
        }
        set.0.retain(|path| !SERVER_FIELDS.iter().any(|known| path.as_slice() == *known));
        Ok(set)
    }

    pub(crate) fn from_v1(tree: &Value) -> Self {
        let mut set = Self::default();
        set.unfold(tree, &mut Vec::new());
        set
    }

    pub(crate) fn to_v1(&self) -> Value {
        let mut tree = Map::new();
        for path in &self.0 {
            fold(&mut tree, path);
        }
        Value::Object(tree)
    }

    fn unfold(&mut self, tree: &Value, path: &mut Path) {
        let Some(children) = tree.as_object() else {
            return;
        };
        if !path.is_empty() && (children.is_empty() || children.contains_key(".")) {
            self.0.insert(path.clone());
        }
        for (step, child) in children.iter().filter(|(step, _)| *step != ".") {
            path.push(step.clone());
            self.unfold(child, path);
            path.pop();
        }
    }

    fn add(&mut self, shape: &'static Shape, value: &Value, path: &mut Path) -> Result<(), String> {
        if self.0.len() > MAX_FIELDS {
            return Err(too_many_fields());
        }
        match (shape, value) {
            (Shape::Struct { atomic: true, .. } | Shape::Map { atomic: true, .. }, _) => {}
            (Shape::Struct { .. } | Shape::Map { .. }, Value::Object(fields)) if !fields.is_empty() => {
                for (name, value) in fields {
                    path.push(format!("f:{name}"));
                    self.add(shape.field(name), value, path)?;
                    path.pop();
                }
                return Ok(());
            }
            (Shape::List { items, merge }, Value::Array(list)) if !list.is_empty() => {
                match Rules::ServerSide.of(merge) {
                    Merge::Replace => {}
                    Merge::Union => return self.add_values(list, path),
                    Merge::ByKeys(keys) => return self.add_items(items, &keys, list, path),
                }
            }
            _ => {}
        }
        self.0.insert(path.clone());
        Ok(())
    }

    fn add_values(&mut self, list: &[Value], path: &[String]) -> Result<(), String> {
        for value in list {
            self.insert_item(path, format!("v:{value}"))?;
        }
        Ok(())
    }

    fn add_items(
        &mut self,
        shape: &'static Shape,
        keys: &[&str],
        list: &[Value],
        path: &mut Path,
    ) -> Result<(), String> {
        for (index, item) in list.iter().enumerate() {
            let step = item_step(item, keys).map_err(|key| {
                let path = told(path);
                format!(
                    "{path}: element {index}: associative list with keys has an element that omits key field {key:?} \
                     (and doesn't have default value)"
                )
            })?;
            self.insert_item(path, step.clone())?;
            path.push(step);
            if !matches!(shape, Shape::Struct { atomic: true, .. }) {
                self.add(shape, item, path)?;
            }
            path.pop();
        }
        Ok(())
    }

    fn insert_item(&mut self, path: &[String], step: String) -> Result<(), String> {
        let item = [path, &[step]].concat();
        let text = told(&item);
        match self.0.insert(item) {
            true => Ok(()),
            false => Err(format!("{}: duplicate entries for key {}", told(path), &text[told(path).len()..])),
        }
    }
}

fn too_many_fields() -> String {
    format!("it sets more than {MAX_FIELDS} fields, which is the most that can be tracked")
}

fn fold(tree: &mut Map<String, Value>, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    let there = tree.contains_key(step);
    let child = tree.entry(step.clone()).or_insert_with(|| Value::Object(Map::new()));
    let Some(child) = child.as_object_mut() else {
        return;
    };
    // Paths come in order: an item before what is in it, and an empty tree is the item itself.
    if !rest.is_empty() && there && child.is_empty() {
        child.insert(".".to_owned(), Value::Object(Map::new()));
    }
    fold(child, rest);
}

/// `k:{"port":80,"protocol":"TCP"}`, or the key that is missing.
fn item_step<'a>(item: &Value, keys: &[&'a str]) -> Result<String, &'a str> {
    let mut values = Map::new();
    for key in keys {
        values.insert((*key).to_owned(), key_value(item, key).ok_or(*key)?);
    }
    Ok(format!("k:{}", Value::Object(values)))
}

/// A path as the API server prints it: `.spec.ports[port=80,protocol="TCP"].targetPort`.
pub(crate) fn told(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        // Writing to a text does not fail.
        let _ = match step.split_once(':') {
            Some(("f", name)) => write!(text, ".{name}"),
            Some(("v", value)) => write!(text, "[={value}]"),
            Some(("k", keys)) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(text, "[{}]", pairs.join(","))
            }
            _ => write!(text, "[{step}]"),
        };
    }
    text
}

/// What is at the end of a path.
pub(crate) fn find<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match Step::of(step) {
        Step::Field(name) => value.get(name),
        step => value.as_array()?.iter().find(|item| step.is(item)),
    })
}

/// Removes what is at the end of a path, and what that leaves empty.
pub(crate) fn remove(value: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    match (value, Step::of(step)) {
        (Value::Object(fields), Step::Field(name)) => {
            let whole = rest.is_empty();
            if whole || fields.get_mut(name).is_some_and(|field| leaves_nothing(field, rest)) {
                fields.remove(name);
            }
        }
        (Value::Array(items), step) => {
            let Some(index) = items.iter().position(|item| step.is(item)) else {
                return;
            };
            if rest.is_empty() || leaves_nothing(&mut items[index], rest) {
                items.remove(index);
            }
        }
        _ => {}
    }
}

fn leaves_nothing(value: &mut Value, path: &[String]) -> bool {
    let empty = |value: &Value| match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    let was_empty = empty(value);
    remove(value, path);
    !was_empty && empty(value)
}

/// A step, taken apart.
enum Step<'a> {
    Field(&'a str),
    Item(Map<String, Value>),
    Value(Value),
}

impl<'a> Step<'a> {
    fn of(step: &'a str) -> Self {
        let json = |text: &str| serde_json::from_str::<Value>(text).ok();
        match step.split_once(':') {
            Some(("k", keys)) => {
                json(keys).and_then(|keys| keys.as_object().cloned()).map_or(Step::Field(step), Step::Item)
            }
            Some(("v", value)) => json(value).map_or(Step::Field(step), Step::Value),
            Some(("f", name)) => Step::Field(name),
            _ => Step::Field(step),
        }
    }

    fn is(&self, item: &Value) -> bool {
        match self {
            Step::Field(_) => false,
            Step::Item(keys) => keys.iter().all(|(key, value)| key_value(item, key).as_ref() == Some(value)),
            Step::Value(value) => item == value,
        }
    }
}

/// A field manager (one applier) and its fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FieldManager {
    pub(crate) name: String,
    /// `status`, or empty for the object itself.
    pub(crate) subresource: String,
    pub(crate) fields: FieldSet,
    api_version: Option<String>,
    time: Option<Time>,
}

impl FieldManager {
    pub(crate) fn new(object: &Object, name: &str, subresource: &str, fields: FieldSet, now: jiff::Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            fields,
            api_version: Some(object.kind().api_version().to_owned()),
            time: Some(Time(now)),
        }
    }

    fn from_entry(entry: &ManagedFieldsEntry) -> Option<Self> {
        if entry.operation.as_deref() != Some("Apply") {
            return None;
        }
        Some(Self {
            name: entry.manager.clone().unwrap_or_default(),
            subresource: entry.subresource.clone().unwrap_or_default(),
            fields: entry.fields_v1.as_ref().map(|fields| FieldSet::from_v1(&fields.0)).unwrap_or_default(),
            api_version: entry.api_version.clone(),
            time: entry.time.clone(),
        })
    }

    fn into_entry(self) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            api_version: self.api_version,
            fields_type: Some("FieldsV1".to_owned()),
            fields_v1: Some(FieldsV1(self.fields.to_v1())),
            manager: Some(self.name),
            operation: Some("Apply".to_owned()),
            subresource: (!self.subresource.is_empty()).then_some(self.subresource),
            time: self.time,
        }
    }
}

/// The field managers of an object.
pub(crate) fn managers(object: &Object) -> Vec<FieldManager> {
    object.metadata().managed_fields.iter().flatten().filter_map(FieldManager::from_entry).collect()
}

/// Records the field managers; those without a field are left out.
pub(crate) fn record(object: &mut Object, managers: Vec<FieldManager>) {
    let managers = managers.into_iter().filter(|manager| !manager.fields.0.is_empty());
    let entries: Vec<ManagedFieldsEntry> = managers.map(FieldManager::into_entry).collect();
    object.metadata_mut().managed_fields = (!entries.is_empty()).then_some(entries);
}

/// Carries the managers of `old` over to the object that replaces it. Fields that it changes lose theirs.
///
/// An object that says `managedFields: [{}]` removes all managers, as with the API server.
pub(crate) fn carry(old: &Object, new: &mut Object) {
    let reset = new
        .metadata()
        .managed_fields
        .as_deref()
        .is_some_and(|entries| matches!(entries, [entry] if *entry == ManagedFieldsEntry::default()));
    let mut managers = if reset { Vec::new() } else { managers(old) };
    if !managers.is_empty() {
        let (before, after) = (old.to_value(), new.to_value());
        for manager in &mut managers {
            // An item stays its manager's as long as it exists, whatever happens to its fields.
            let same = |path: &Path| match path.last() {
                Some(step) if step.starts_with("k:") => find(&after, path).is_some(),
                _ => find(&before, path) == find(&after, path),
            };
            manager.fields.0.retain(same);
        }
    }
    record(new, managers);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::Kind;
    use crate::testing::{object, service};

    fn applied() -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "a", "labels": {"app": "a"}, "finalizers": ["x.example/y"]},
            "spec": {"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": "http"}], "externalIPs": []}})
    }

    #[test]
    fn fields_are_written_as_kubectl_shows_them() {
        let set = FieldSet::of(Shape::of(Kind::Service), &applied()).unwrap();
        let tree = json!({
            "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {"v:\"x.example/y\"": {}}},
            "f:spec": {"f:selector": {}, "f:externalIPs": {},
                "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:targetPort": {}}}},
        });
        assert_eq!(set.to_v1(), tree);
        assert_eq!(FieldSet::from_v1(&tree), set);
        let paths: Vec<String> = set.0.iter().map(|path| told(path)).collect();
        assert!(paths.contains(&".spec.ports[port=80,protocol=\"TCP\"].targetPort".to_owned()), "{paths:?}");
        assert!(paths.contains(&".metadata.finalizers[=\"x.example/y\"]".to_owned()), "{paths:?}");
    }

    #[test]
    fn every_path_leads_to_its_value_and_taking_all_away_leaves_the_rest() {
        let mut value = applied();
        let set = FieldSet::of(Shape::of(Kind::Service), &value).unwrap();
        assert!(set.0.iter().all(|path| find(&value, path).is_some()));
        for path in &set.0 {
            remove(&mut value, path);
        }
        assert_eq!(value, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}));
    }

    #[test]
    fn items_without_their_key_or_twice_are_told() {
        let fault =
            |ports: Value| FieldSet::of(Shape::of(Kind::Service), &json!({"spec": {"ports": ports}})).unwrap_err();
        let missing = ".spec.ports: element 0: associative list with keys has an element that omits key field \"port\" \
                       (and doesn't have default value)";
        assert_eq!(fault(json!([{"name": "x"}])), missing);
        let twice = ".spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]";
        assert_eq!(fault(json!([{"port": 80}, {"port": 80, "protocol": "TCP"}])), twice);
    }

    #[test]
    fn who_changes_a_field_takes_it_from_its_owner() {
        let mut old = object(service("a", json!({"ports": [{"port": 80, "targetPort": 1}], "externalName": "x"})));
        let fields = FieldSet::of(Shape::of(Kind::Service), &old.to_value()).unwrap();
        let manager = FieldManager::new(&old, "m", "", fields, jiff::Timestamp::UNIX_EPOCH);
        record(&mut old, vec![manager]);
        let mut new = object(service("a", json!({"ports": [{"port": 80, "targetPort": 2}]})));
        carry(&old, &mut new);
        let left = managers(&new)[0].fields.to_v1();
        assert_eq!(
            left,
            json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}})
        );
        new.metadata_mut().managed_fields = Some(vec![ManagedFieldsEntry::default()]);
        carry(&old, &mut new);
        assert_eq!(new.metadata().managed_fields, None);
    }
}

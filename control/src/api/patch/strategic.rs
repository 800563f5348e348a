//! Strategic merge patches: merge patches that know which lists are maps in disguise.
//!
//! | in the patch | means |
//! |---|---|
//! | a field, `null` | merge it, remove it |
//! | an item of a list with a key | merge it into the item with that key, or add it |
//! | `$patch: delete` in an item | remove the item with that key |
//! | `$patch: replace` in a map or in an item | the patch's map or list instead of what is there |
//! | `$patch: delete` in a map | empty it |
//! | `$retainKeys: [a, b]` | drop the map's other fields |
//! | `$deleteFromPrimitiveList/x: [1]` | take these values out of the list `x` |
//! | `$setElementOrder/x: [...]` | the order of the list `x`; what it does not name keeps its place |
//!
//! Which list merges by what is in [`crate::objects::schema`]. apimachinery's `strategicpatch` finds an item by one key and merges
//! into the first that fits, so that 53/UDP overwrites 53/TCP. Here an item that fits in all keys of its list goes
//! first, and one that was merged into is not merged into again by the same patch.

use ahash::{HashMap, HashSet};
use serde_json::{Map, Value};

use crate::objects::merge::in_order;
use crate::objects::schema::{List, ListType, Patch, Shape, key_value};

/// Most items of a list that is merged by key.
const MOST_ITEMS: usize = 10_000;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// The object with the patch merged into it.
///
/// # Errors
/// A directive that does not exist or does not fit, an item without its key.
pub(super) fn merge(shape: &'static Shape, mut value: Value, patch: &Value) -> Result<Value, String> {
    merge_value(shape, &mut value, patch)?;
    Ok(value)
}

fn merge_value(shape: &'static Shape, value: &mut Value, patch: &Value) -> Result<(), String> {
    match (&mut *value, patch) {
        (Value::Object(fields), Value::Object(patch)) => merge_map(shape, fields, patch),
        // What is not there yet takes the patch as what is there would: without its directives.
        (_, Value::Object(patch)) => {
            let mut fields = Map::new();
            merge_map(shape, &mut fields, patch)?;
            *value = Value::Object(fields);
            Ok(())
        }
        (_, Value::Array(_)) => merge_list(shape, value, patch, None),
        (_, patch) => {
            *value = patch.clone();
            Ok(())
        }
    }
}

fn merge_map(shape: &'static Shape, fields: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), String> {
    match directive(patch)? {
        Some("replace") => fields.clear(),
        Some("delete") => {
            fields.clear();
            return Ok(());
        }
        _ => {}
    }
    if let Some(kept) = patch.get(RETAIN) {
        retain(fields, patch, kept)?;
    }
    for (name, values) in with_prefix(patch, DELETE_FROM) {
        let (Some(Value::Array(list)), Value::Array(values)) = (fields.get_mut(name), values) else {
            continue;
        };
        let values: HashSet<String> = values.iter().map(Value::to_string).collect();
        list.retain(|value| !values.contains(&value.to_string()));
    }
    for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        match value {
            Value::Null => drop(fields.remove(name)),
            value => {
                let order = patch.get(&format!("{ORDER}{name}"));
                merge_field(shape.field(name), fields.entry(name.clone()).or_insert(Value::Null), value, order)?;
            }
        }
    }
    for (name, order) in with_prefix(patch, ORDER).filter(|(name, _)| !patch.contains_key(*name)) {
        if let Some(list) = fields.get_mut(name) {
            merge_list(shape.field(name), list, &Value::Array(Vec::new()), Some(order))?;
        }
    }
    Ok(())
}

fn merge_field(shape: &'static Shape, field: &mut Value, patch: &Value, order: Option<&Value>) -> Result<(), String> {
    match patch {
        Value::Array(_) => merge_list(shape, field, patch, order),
        _ => merge_value(shape, field, patch),
    }
}

fn with_prefix<'a>(patch: &'a Map<String, Value>, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    patch.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
}

fn directive(patch: &Map<String, Value>) -> Result<Option<&str>, String> {
    match patch.get(DIRECTIVE) {
        None => Ok(None),
        Some(Value::String(text)) if ["replace", "delete", "merge"].contains(&text.as_str()) => Ok(Some(text)),
        Some(other) => Err(format!("unknown patch type {other}: expected \"replace\", \"merge\" or \"delete\"")),
    }
}

fn retain(fields: &mut Map<String, Value>, patch: &Map<String, Value>, kept: &Value) -> Result<(), String> {
    let kept: Option<Vec<&str>> = kept.as_array().and_then(|names| names.iter().map(Value::as_str).collect());
    let kept = kept.ok_or_else(|| format!("{RETAIN} must be a list of names"))?;
    let set = patch.iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null());
    if let Some((name, _)) = set.into_iter().find(|(name, _)| !kept.contains(&name.as_str())) {
        return Err(format!("{RETAIN} lists {kept:?} and the patch sets {name:?}"));
    }
    fields.retain(|name, _| kept.contains(&name.as_str()));
    Ok(())
}

fn merge_list(shape: &'static Shape, value: &mut Value, patch: &Value, order: Option<&Value>) -> Result<(), String> {
    let list = match value.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    let (patch, order) = (patch.as_array().map(Vec::as_slice).unwrap_or_default(), order.and_then(Value::as_array));
    let merged = match shape {
        Shape::List { items, merge } => match merge.patch {
            Patch::MergeBy(key) => merge_items(items, &Keys::of(merge, key), list, patch, order.map(Vec::as_slice))?,
            Patch::Add => add_values(list, patch, order.map(Vec::as_slice)),
            Patch::Replace => plain_items(patch),
        },
        _ => plain_items(patch),
    };
    *value = Value::Array(merged);
    Ok(())
}

fn plain_items(patch: &[Value]) -> Vec<Value> {
    patch.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned().collect()
}

fn add_values(list: Vec<Value>, patch: &[Value], order: Option<&[Value]>) -> Vec<Value> {
    let mut there: HashSet<String> = list.iter().map(Value::to_string).collect();
    let mut all = list;
    all.extend(patch.iter().filter(|value| there.insert(value.to_string())).cloned());
    let identified = |value: &Value| (value.to_string(), value.clone());
    match order {
        Some(order) => {
            let ours = order.iter().map(identified).filter(|(text, _)| there.contains(text)).collect();
            in_order(all.iter().map(identified).collect(), ours)
        }
        None => all,
    }
}

/// What tells the items of a list apart.
struct Keys {
    /// The key a patch must name.
    key: &'static str,
    /// All of them.
    all: Vec<&'static str>,
}

impl Keys {
    fn of(list: &ListType, key: &'static str) -> Self {
        let all = match list.list {
            List::Map(keys) => keys.to_vec(),
            _ => vec![key],
        };
        Self { key, all }
    }

    fn of_item<'a>(&self, item: &'a Value) -> Result<&'a Value, String> {
        item.get(self.key).ok_or_else(|| format!("map {item} does not contain declared merge key: {}", self.key))
    }
}

/// The items of a list while a patch is merged into it: some go, new ones come behind.
struct Places<'a> {
    keys: &'a Keys,
    items: Vec<Option<Value>>,
    /// Those the patch was merged into already.
    taken: Vec<bool>,
    /// Where to look for a value of the key.
    by_key: HashMap<String, Vec<usize>>,
}

impl<'a> Places<'a> {
    fn new(keys: &'a Keys, list: Vec<Value>) -> Self {
        let mut places = Self { keys, items: Vec::new(), taken: Vec::new(), by_key: HashMap::default() };
        for item in list {
            let place = places.add(&item);
            places.items[place] = Some(item);
        }
        places
    }

    /// A new place for an item with the key of this one.
    fn add(&mut self, item: &Value) -> usize {
        let place = self.items.len();
        self.items.push(None);
        self.taken.push(false);
        self.by_key.entry(self.key(item)).or_default().push(place);
        place
    }

    fn key(&self, item: &Value) -> String {
        item.get(self.keys.key).map(Value::to_string).unwrap_or_default()
    }

    /// Does what an item that is a directive says.
    fn obey(&mut self, item: &Value) -> Result<(), String> {
        match item.as_object().map(directive).transpose()?.flatten() {
            Some("replace") => self.items.fill(None),
            Some("delete") => {
                self.keys.of_item(item)?;
                for place in self.by_key.get(&self.key(item)).into_iter().flatten() {
                    self.items[*place] = None;
                }
            }
            _ => return Err("merging lists cannot be specified in the patch".to_owned()),
        }
        Ok(())
    }

    /// Takes the place of the item that `wanted` is about: one that fits in all keys, or else in the first.
    fn take(&mut self, wanted: &Value) -> Option<usize> {
        let candidates = self.by_key.get(&self.key(wanted))?;
        let free = || candidates.iter().copied().filter(|place| !self.taken[*place] && self.items[*place].is_some());
        let fits = |item: &Value| {
            let fits = |key: &&str| wanted.get(*key).is_none() || key_value(item, key) == key_value(wanted, key);
            self.keys.all.iter().all(fits)
        };
        let wholly = free().find(|place| self.items[*place].as_ref().is_some_and(fits));
        let place = wholly.or_else(|| free().next())?;
        self.taken[place] = true;
        Some(place)
    }
}

fn merge_items(
    shape: &'static Shape,
    keys: &Keys,
    list: Vec<Value>,
    patch: &[Value],
    order: Option<&[Value]>,
) -> Result<Vec<Value>, String> {
    if patch.len().max(list.len()).max(order.map_or(0, <[Value]>::len)) > MOST_ITEMS {
        return Err(format!("lists of more than {MOST_ITEMS} items cannot be merged by key"));
    }
    let (special, plain): (Vec<&Value>, Vec<&Value>) = patch.iter().partition(|item| item.get(DIRECTIVE).is_some());
    let mut places = Places::new(keys, list);
    for item in special {
        places.obey(item)?;
    }
    let theirs: Vec<usize> = (0..places.items.len()).filter(|place| places.items[*place].is_some()).collect();
    let mut ours = Vec::with_capacity(plain.len());
    for item in plain {
        keys.of_item(item)?;
        let place = match places.take(item) {
            Some(place) => place,
            None => places.add(item),
        };
        places.taken[place] = true;
        merge_value(shape, places.items[place].get_or_insert(Value::Null), item)?;
        ours.push(place);
    }
    if let Some(order) = order {
        ours = ordered(&mut places, &ours, order)?;
    }
    let identified = |places: Vec<usize>| places.into_iter().map(|place| (place, place)).collect();
    let merged = in_order(identified(theirs), identified(ours));
    Ok(merged.into_iter().filter_map(|place| places.items[place].take()).collect())
}

/// The places in the order a patch wants them; those it merged and does not name come last.
fn ordered(places: &mut Places<'_>, merged: &[usize], order: &[Value]) -> Result<Vec<usize>, String> {
    places.taken.fill(false);
    let mut ours = Vec::with_capacity(order.len());
    for item in order {
        places.keys.of_item(item)?;
        ours.extend(places.take(item));
    }
    let rest = merged.iter().copied().filter(|place| !places.taken[*place]);
    ours.extend(rest.collect::<Vec<_>>());
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::objects::Kind;

    fn merged(kind: Kind, value: Value, patch: Value) -> Value {
        merge(Shape::of(kind), value, &patch).unwrap_or_else(|reason| panic!("{patch}: {reason}"))
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"containers": list}})
    }

    #[test]
    fn items_merge_by_key_and_other_lists_are_replaced() {
        let pod = containers(json!([{"name": "a", "image": "a:1", "args": ["x"]}, {"name": "b"}]));
        let cases = [
            (
                json!([{"name": "c"}]),
                json!([{"name": "c"}, {"name": "a", "image": "a:1", "args": ["x"]}, {"name": "b"}]),
            ),
            (
                json!([{"name": "a", "image": null, "args": ["y"]}]),
                json!([{"name": "a", "args": ["y"]}, {"name": "b"}]),
            ),
            (json!([{"name": "a", "$patch": "delete"}]), json!([{"name": "b"}])),
            (json!([{"name": "c"}, {"$patch": "replace"}]), json!([{"name": "c"}])),
            (
                json!([{"name": "b", "image": "b:2"}, {"name": "a", "$patch": "delete"}]),
                json!([{"name": "b", "image": "b:2"}]),
            ),
        ];
        for (patch, expected) in cases {
            assert_eq!(merged(Kind::Pod, pod.clone(), containers(patch)), containers(expected));
        }
        let slice = json!({"endpoints": [{"addresses": ["10.0.0.1"]}]});
        let patch = json!({"endpoints": [{"addresses": ["10.0.0.2"]}]});
        assert_eq!(merged(Kind::EndpointSlice, slice, patch.clone()), patch);
    }

    #[test]
    fn maps_merge_unless_told_otherwise() {
        let labels = |labels: Value| json!({"metadata": {"labels": labels}});
        let there = labels(json!({"a": "1", "b": "2"}));
        let cases = [
            (json!({"a": null, "c": "3"}), json!({"b": "2", "c": "3"})),
            (json!({"$patch": "replace", "c": "3"}), json!({"c": "3"})),
            (json!({"$patch": "delete"}), json!({})),
            (json!({"$retainKeys": ["b", "c"], "c": "3"}), json!({"b": "2", "c": "3"})),
        ];
        for (patch, expected) in cases {
            assert_eq!(merged(Kind::Pod, there.clone(), labels(patch)), labels(expected));
        }
        let volume = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}});
        let expected = json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}});
        assert_eq!(merged(Kind::Pod, volume, patch), expected);
    }

    #[test]
    fn values_are_added_to_a_set_taken_out_of_it_and_put_in_order() {
        let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
        let there = finalizers(json!(["a", "b", "c"]));
        let added = merged(Kind::Pod, there.clone(), finalizers(json!(["d", "a"])));
        assert_eq!(added, finalizers(json!(["a", "b", "c", "d"])));
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}});
        assert_eq!(merged(Kind::Pod, there.clone(), patch), finalizers(json!(["a", "c"])));
        let patch = json!({"metadata": {"$setElementOrder/finalizers": ["c", "a"]}});
        assert_eq!(merged(Kind::Pod, there, patch), finalizers(json!(["b", "c", "a"])));
    }

    #[test]
    fn an_order_puts_items_where_it_says_and_leaves_the_others() {
        let pod = containers(json!([{"name": "a"}, {"name": "theirs"}, {"name": "b"}]));
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
            "containers": [{"name": "new"}]}});
        let names = merged(Kind::Pod, pod, patch)["spec"]["containers"].clone();
        assert_eq!(names, json!([{"name": "theirs"}, {"name": "b"}, {"name": "new"}, {"name": "a"}]));
    }

    #[test]
    fn ports_of_one_number_and_two_protocols_are_two() {
        let ports = |ports: Value| json!({"spec": {"ports": ports}});
        let tcp = json!({"name": "t", "port": 53, "protocol": "TCP"});
        let udp = json!({"name": "u", "port": 53, "protocol": "UDP"});
        let one = merged(Kind::Service, ports(json!([tcp])), ports(json!([tcp, udp])));
        assert_eq!(one, ports(json!([tcp, udp])));
        let swapped = json!([{"port": 53, "protocol": "UDP", "name": "v"}]);
        let two = merged(Kind::Service, ports(json!([tcp, udp])), ports(swapped));
        assert_eq!(two, ports(json!([tcp, {"name": "v", "port": 53, "protocol": "UDP"}])));
        let only = merged(Kind::Service, ports(json!([tcp])), ports(json!([{"port": 53, "protocol": "UDP"}])));
        assert_eq!(only, ports(json!([{"name": "t", "port": 53, "protocol": "UDP"}])), "its protocol was changed");
    }

    #[test]
    fn directives_never_stay_in_the_object() {
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}],
            "containers": [{"name": "a", "ports": [{"containerPort": 1}], "$retainKeys": ["name", "ports"]}],
            "securityContext": {"$patch": "replace", "runAsUser": 1}}});
        let merged = merged(Kind::Pod, json!({}), patch);
        assert!(!merged.to_string().contains('$'), "{merged}");
        assert_eq!(merged["spec"]["securityContext"], json!({"runAsUser": 1}));
    }

    /// Merging is no more than the lists are long, also where every item has one key.
    #[test]
    fn long_lists_merge_in_time_and_longer_ones_are_refused() {
        let list = |n: usize| {
            json!({"metadata": {"finalizers": (0..n).map(|i| format!("x/{i}")).collect::<Vec<_>>()},
            "spec": {"containers": vec![json!({"name": "a"}); n]}})
        };
        let merged = merged(Kind::Pod, list(MOST_ITEMS), list(MOST_ITEMS));
        assert_eq!(merged["spec"]["containers"].as_array().map(Vec::len), Some(MOST_ITEMS));
        let told = merge(Shape::of(Kind::Pod), json!({}), &list(MOST_ITEMS + 1)).unwrap_err();
        assert_eq!(told, "lists of more than 10000 items cannot be merged by key");
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let cases = [
            (containers(json!([{"image": "x"}])), "does not contain declared merge key: name"),
            (containers(json!([{"name": "a", "$patch": "turn"}])), "unknown patch type \"turn\""),
            (containers(json!([{"name": "a", "$patch": "merge"}])), "merging lists cannot be specified"),
            (json!({"metadata": {"$retainKeys": ["a"], "b": 1}}), "and the patch sets \"b\""),
            (json!({"metadata": {"$retainKeys": 1}}), "must be a list of names"),
        ];
        for (patch, expected) in cases {
            let told = merge(Shape::of(Kind::Pod), json!({}), &patch).unwrap_err();
            assert!(told.contains(expected), "{patch}: {told}");
        }
    }

    /// Any JSON without directives, and without objects in lists.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            (0..3i32).prop_map(Value::from),
            prop::collection::vec(0..3i32, 0..3).prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Where no type is known, it is a plain merge patch.
        #[test]
        fn without_types_it_is_a_merge_patch(value in any_json(), patch in any_json()) {
            let mut expected = value.clone();
            json_patch::merge(&mut expected, &patch);
            prop_assert_eq!(merge(&Shape::Plain, value, &patch), Ok(expected));
        }
    }
}

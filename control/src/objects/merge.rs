//! Laying one object over another, with lists merged as their types say.
//!
//! ```text
//! live    [ a  l  b ]      l was added by another client
//! wanted  [ a  x  b ]      x is new
//! merged  [ a  x  l  b ]   what both have takes wanted's order, the rest stays before and behind it
//! ```
//!
//! Used by `kubectl apply`'s three-way merge and by server-side apply, which differ only in which lists and maps they take
//! for one value ([`Rules`]). Order matters: two appliers that each own an item of one list must not reorder it with
//! every apply, or every apply would be a change.

use std::hash::Hash;

use ahash::{HashMap, HashSet};
use serde_json::{Map, Value};

use crate::objects::schema::{List, ListType, Patch, Shape, key_value};

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// `patchStrategy`, as `kubectl apply` has it. Items are identified by all keys of the list, where kubectl
    /// looks at the first alone and cannot keep 53/TCP and 53/UDP apart.
    Kubectl,
    /// `listType`, `mapType` and `structType`, as server-side apply has it.
    ServerSide,
}

/// How one list is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    Replace,
    Union,
    ByKeys(Vec<&'static str>),
}

impl Rules {
    pub(crate) fn of(self, list: &ListType) -> Merge {
        match (self, list.list, list.patch) {
            (Rules::Kubectl, _, Patch::Replace) | (Rules::ServerSide, List::Atomic, _) => Merge::Replace,
            (_, List::Map(keys), _) => Merge::ByKeys(keys.to_vec()),
            (Rules::Kubectl, _, Patch::MergeBy(key)) => Merge::ByKeys(vec![key]),
            _ => Merge::Union,
        }
    }

    /// Whether a map or struct is one value.
    fn whole(self, shape: &Shape) -> bool {
        self == Rules::ServerSide
            && matches!(shape, Shape::Struct { atomic: true, .. } | Shape::Map { atomic: true, .. })
    }
}

/// Lays `wanted` over `live`. Nulls in it mean nothing.
pub(crate) fn overlay(rules: Rules, shape: &'static Shape, live: &mut Value, wanted: Value) {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) if !rules.whole(shape) => {
            for (name, value) in wanted.into_iter().filter(|(_, value)| !value.is_null()) {
                let shape = shape.field(&name);
                match live.get_mut(&name) {
                    Some(live) => overlay(rules, shape, live, value),
                    None => drop(live.insert(name, without_nulls(value))),
                }
            }
        }
        (Value::Array(live), Value::Array(wanted)) => match shape {
            Shape::List { items, merge } => overlay_list(rules, items, &rules.of(merge), live, wanted),
            _ => *live = wanted,
        },
        (live, wanted) => *live = without_nulls(wanted),
    }
}

fn overlay_list(rules: Rules, shape: &'static Shape, merge: &Merge, live: &mut Vec<Value>, wanted: Vec<Value>) {
    let Some(theirs) = merge.identities(live) else {
        *live = wanted;
        return;
    };
    let ours = merge.identities(&wanted).unwrap_or_default();
    let positions: HashMap<&String, usize> =
        theirs.iter().enumerate().rev().map(|(position, identity)| (identity, position)).collect();
    let merged = wanted.into_iter().zip(&ours).map(|(wanted, identity)| match positions.get(identity) {
        Some(position) => {
            let mut item = live[*position].clone();
            overlay(rules, shape, &mut item, wanted);
            item
        }
        None => without_nulls(wanted),
    });
    let merged: Vec<Value> = merged.collect();
    let theirs = theirs.iter().zip(std::mem::take(live)).collect();
    *live = in_order(theirs, ours.iter().zip(merged).collect());
}

impl Merge {
    /// What identifies the items of a list; `None` if the list is one value.
    pub(crate) fn identities(&self, list: &[Value]) -> Option<Vec<String>> {
        match self {
            Merge::Replace => None,
            Merge::Union => Some(list.iter().map(Value::to_string).collect()),
            Merge::ByKeys(keys) => Some(list.iter().map(|item| identity(item, keys)).collect()),
        }
    }
}

fn identity(item: &Value, keys: &[&str]) -> String {
    let values: Vec<Value> = keys.iter().map(|key| key_value(item, key).unwrap_or_default()).collect();
    Value::from(values).to_string()
}

/// One list of the items of both, each with its identity: those of `ours` in their order; those only in `theirs` in
/// theirs, each before the first of ours that came after it there. What is new comes as early as that lets it, as an API
/// server puts it (K `strategicpatch/patch.go`, `mergeSortedSlice`).
pub(crate) fn in_order<K: Eq + Hash, V>(theirs: Vec<(K, V)>, ours: Vec<(K, V)>) -> Vec<V> {
    let in_ours: HashSet<&K> = ours.iter().map(|(key, _)| key).collect();
    let only_theirs: Vec<bool> = theirs.iter().map(|(key, _)| !in_ours.contains(key)).collect();
    let in_theirs: HashMap<&K, usize> = theirs.iter().enumerate().map(|(at, (key, _))| (key, at)).collect();
    let there: Vec<Option<usize>> = ours.iter().map(|(key, _)| in_theirs.get(key).copied()).collect();
    let mut merged = Vec::with_capacity(theirs.len() + ours.len());
    let theirs = theirs.into_iter().enumerate().zip(only_theirs);
    let mut rest = theirs.filter_map(|((at, (_, item)), only)| only.then_some((at, item))).peekable();
    for ((_, our), there) in ours.into_iter().zip(there) {
        while let Some((_, item)) = rest.next_if(|(at, _)| there.is_some_and(|there| *at < there)) {
            merged.push(item);
        }
        merged.push(our);
    }
    merged.extend(rest.map(|(_, item)| item));
    merged
}

/// The value without the fields that are null.
pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(name, value)| (name, without_nulls(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::objects::Kind;

    fn ordered(theirs: Value, ours: Value) -> Value {
        let list = |value: Value| value.as_array().cloned().unwrap().into_iter().map(|v| (v.to_string(), v)).collect();
        Value::Array(in_order(list(theirs), list(ours)))
    }

    #[test]
    fn what_is_new_goes_where_it_was_written_and_the_rest_stays() {
        let cases = [
            (json!(["a", "l", "b"]), json!(["a", "x", "b"]), json!(["a", "x", "l", "b"])),
            (json!(["a", "b"]), json!(["b", "a"]), json!(["b", "a"])),
            (json!(["a"]), json!(["n", "a"]), json!(["n", "a"])),
            (json!([]), json!(["a", "b"]), json!(["a", "b"])),
            (json!(["a", "b"]), json!([]), json!(["a", "b"])),
            (json!(["l", "a", "m"]), json!(["a", "z"]), json!(["l", "a", "z", "m"])),
        ];
        for (theirs, ours, merged) in cases {
            assert_eq!(ordered(theirs.clone(), ours.clone()), merged, "{theirs} {ours}");
        }
    }

    #[test]
    fn lists_and_maps_follow_the_rules_of_whoever_merges() {
        let live = json!({"spec": {"selector": {"a": "1"}, "externalIPs": ["192.0.2.1"],
            "ports": [{"port": 53, "protocol": "TCP", "nodePort": 30053}, {"port": 53, "protocol": "UDP"}]}});
        let wanted = json!({"spec": {"selector": {"b": "2"}, "externalIPs": ["192.0.2.2"],
            "ports": [{"port": 53, "name": "dns-tcp"}, {"port": 80}], "type": null}});
        let merged = |rules| {
            let mut value = live.clone();
            overlay(rules, Shape::of(Kind::Service), &mut value, wanted.clone());
            value["spec"].take()
        };
        let ports = json!([{"port": 53, "protocol": "TCP", "nodePort": 30053, "name": "dns-tcp"},
            {"port": 80}, {"port": 53, "protocol": "UDP"}]);
        let kubectls = merged(Rules::Kubectl);
        assert_eq!((&kubectls["ports"], &kubectls["externalIPs"]), (&ports, &json!(["192.0.2.2"])));
        assert_eq!(kubectls["selector"], json!({"a": "1", "b": "2"}));
        let servers = merged(Rules::ServerSide);
        assert_eq!((&servers["ports"], &servers["selector"]), (&ports, &json!({"b": "2"})));
        assert!(servers.get("type").is_none());
    }

    /// Distinct numbers in any order.
    fn numbers() -> impl Strategy<Value = Vec<u8>> {
        prop::sample::subsequence((0..8).collect::<Vec<u8>>(), 0..6).prop_shuffle()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Nothing is lost or doubled, both orders hold as far as they can, and merging again changes nothing.
        #[test]
        fn order_is_kept_and_settles(theirs in numbers(), ours in numbers()) {
            let both = |list: &[u8]| list.iter().map(|n| (*n, *n)).collect::<Vec<_>>();
            let merged = in_order(both(&theirs), both(&ours));
            let kept = |list: &[u8]| merged.iter().filter(|item| list.contains(item)).copied().collect::<Vec<_>>();
            prop_assert_eq!(kept(&ours), ours.clone());
            let only_theirs: Vec<u8> = theirs.iter().filter(|item| !ours.contains(item)).copied().collect();
            prop_assert_eq!(kept(&only_theirs), only_theirs.clone());
            prop_assert_eq!(merged.len(), ours.len() + only_theirs.len());
            prop_assert_eq!(in_order(both(&merged), both(&ours)), merged);
        }
    }
}

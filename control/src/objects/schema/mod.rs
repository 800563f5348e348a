//! What the kinds look like: the types of their fields, and how their lists and maps are merged.
//!
//! ```text
//! k8s-openapi's JSON schemas ─┬─▶ shapes: type, field ─▶ struct, map, list ─┬─▶ strategic merge patch
//! lists.rs, by hand ──────────┘                                             ├─▶ apply, server-side apply
//!                             └─▶ definitions ─▶ /openapi                   └─▶ who owns which field
//! ```
//!
//! A merge needs to know where it is: `ports` are keyed in a Service and one value in an EndpointSlice. Walking the schema
//! along with the object shows this, for any depth and without a path language. The schemas are built once, when first used:
//! some milliseconds, and 150 types of text that only patches and OpenAPI use.

mod lists;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use ahash::HashMap;
use k8s_openapi::schemars::SchemaGenerator;
use k8s_openapi::schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::objects::Kind;

pub(crate) use lists::{List, ListType, Patch};

/// What a value is made of.
#[derive(Debug)]
pub(crate) enum Shape {
    /// A plain value, or one without a description.
    Plain,
    /// The fields of a type; server-side apply may take it as one value.
    Struct {
        /// The type's name, without the package.
        name: String,
        atomic: bool,
    },
    /// Any keys, values of one shape; server-side apply may take it as one value.
    Map { values: Box<Shape>, atomic: bool },
    /// A list.
    List { items: Box<Shape>, merge: &'static ListType },
}

static PLAIN: Shape = Shape::Plain;

impl Shape {
    /// The shape of a whole object.
    pub(crate) fn of(kind: Kind) -> &'static Shape {
        SHAPES.roots.get(&kind).unwrap_or(&PLAIN)
    }

    /// The shape of a field, or of a value of a map.
    pub(crate) fn field(&'static self, name: &str) -> &'static Shape {
        match self {
            Shape::Struct { name: owner, .. } => {
                SHAPES.structs.get(owner).and_then(|fields| fields.get(name)).unwrap_or(&PLAIN)
            }
            Shape::Map { values, .. } => values,
            Shape::Plain | Shape::List { .. } => &PLAIN,
        }
    }
}

/// Every type by its name, and the type of every kind.
struct Shapes {
    structs: HashMap<String, BTreeMap<String, Shape>>,
    roots: HashMap<Kind, Shape>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    let definitions = definitions();
    let structs = definitions.iter().map(|(name, schema)| (short(name).to_owned(), fields(short(name), schema)));
    let roots = Kind::ALL.into_iter().map(|kind| (kind, structure(kind.name())));
    Shapes { structs: structs.collect(), roots: roots.collect() }
});

/// The JSON schemas of the kinds and of everything in them, by their full names; they refer to each other by [`REFERENCE`].
pub(crate) fn definitions() -> Map<String, Value> {
    let mut generator = SchemaGenerator::new(SchemaSettings::openapi3());
    for kind in Kind::ALL {
        kind.subschema(&mut generator);
    }
    generator.take_definitions(false)
}

/// What a reference in [`definitions`] begins with.
pub(crate) const REFERENCE: &str = "#/components/schemas/";

/// A type's name without its package: `ServiceSpec` of `io.k8s.api.core.v1.ServiceSpec`.
pub(crate) fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// How a field of a type is merged, if it is a list.
pub(crate) fn list_type(owner: &str, field: &str) -> Option<&'static ListType> {
    lists::find(owner, field)
}

/// Whether a field is a map that is one value.
pub(crate) fn is_atomic_map(owner: &str, field: &str) -> bool {
    lists::ATOMIC_MAPS.contains(&(owner, field))
}

/// The value of a field that is a key of a list; a protocol that is not given is TCP.
pub(crate) fn key_value(item: &Value, key: &str) -> Option<Value> {
    match item.get(key) {
        Some(value) if !value.is_null() => Some(value.clone()),
        _ => (key == "protocol").then(|| Value::from("TCP")),
    }
}

fn fields(owner: &str, schema: &Value) -> BTreeMap<String, Shape> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let field = |(name, schema): (&String, &Value)| (name.clone(), shape(owner, name, schema));
    properties.into_iter().flatten().map(field).collect()
}

fn shape(owner: &str, field: &str, schema: &Value) -> Shape {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return structure(short(reference));
    }
    if let Some(items) = schema.get("items") {
        let merge = lists::find(owner, field).unwrap_or(&lists::UNKNOWN);
        return Shape::List { items: Box::new(shape("", "", items)), merge };
    }
    match schema.get("additionalProperties") {
        Some(values) if values.is_object() => {
            Shape::Map { values: Box::new(shape("", "", values)), atomic: is_atomic_map(owner, field) }
        }
        _ => Shape::Plain,
    }
}

fn structure(name: &str) -> Shape {
    Shape::Struct { name: name.to_owned(), atomic: lists::ATOMIC_TYPES.contains(&name) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The oracle is the generated types' own schemas: they know every field, and which of them are lists.
    #[test]
    fn every_list_of_every_kind_is_in_the_table_and_nothing_else() {
        let lists = |(owner, schema): (&String, &Value)| {
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            let lists = properties.into_iter().filter(|(_, schema)| schema["type"] == "array");
            let owner = short(owner).to_owned();
            lists.map(move |(field, _)| (owner.clone(), field)).collect::<Vec<_>>()
        };
        let definitions = definitions();
        let there: BTreeSet<(String, String)> = definitions.iter().flat_map(lists).collect();
        let written: BTreeSet<(String, String)> =
            lists::LISTS.iter().map(|list| (list.owner.to_owned(), list.field.to_owned())).collect();
        assert_eq!(there.difference(&written).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "not in the table");
        assert_eq!(
            written.difference(&there).collect::<Vec<_>>(),
            Vec::<&(String, String)>::new(),
            "in the table only"
        );
        assert_eq!(written.len(), lists::LISTS.len(), "a list twice");
    }

    #[test]
    fn every_kind_has_a_shape() {
        for kind in Kind::ALL {
            assert!(matches!(Shape::of(kind).field("metadata"), Shape::Struct { .. }), "{}", kind.name());
        }
    }

    #[test]
    fn keys_and_atomic_parts_are_what_the_types_have() {
        for list in lists::LISTS {
            let Some(shape @ Shape::List { items, .. }) =
                SHAPES.structs.get(list.owner).and_then(|fields| fields.get(list.field))
            else {
                continue;
            };
            let keys = match (list.list, list.patch) {
                (List::Map(keys), _) => keys.to_vec(),
                (_, Patch::MergeBy(key)) => vec![key],
                _ => continue,
            };
            let Shape::Struct { name, .. } = &**items else { panic!("{shape:?} has plain items") };
            assert!(keys.iter().all(|key| SHAPES.structs[name].contains_key(*key)), "{shape:?}");
        }
        for (owner, field) in lists::ATOMIC_MAPS {
            assert!(matches!(SHAPES.structs[owner][field], Shape::Map { atomic: true, .. }), "{owner}.{field}");
        }
        for name in lists::ATOMIC_TYPES {
            assert!(SHAPES.structs.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_place_in_an_object_is_found_by_walking() {
        let spec = Shape::of(Kind::Service).field("spec");
        let Shape::List { merge, items } = spec.field("ports") else { panic!("no list") };
        assert_eq!(merge.list, List::Map(&["port", "protocol"]));
        assert!(matches!(items.field("targetPort"), Shape::Plain | Shape::Struct { .. }));
        let Shape::List { merge, .. } = Shape::of(Kind::EndpointSlice).field("ports") else { panic!("no list") };
        assert_eq!(merge.list, List::Atomic);
        assert!(matches!(spec.field("none"), Shape::Plain));
    }
}

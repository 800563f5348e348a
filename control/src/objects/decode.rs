//! From JSON text, or a value, to a typed object, and what the text had besides.
//!
//! ```text
//! text or value ─ serde ─▶ Watched ─▶ k8s-openapi's types
//!                            ├ the path, for faults
//!                            ├ unknown fields        (the types drop them)
//!                            ├ repeated fields       (the types take the last)
//!                            ├ what Go reads and the types do not: null for a text in a map, no time for a condition
//!                            └ the memory that is about to be allocated
//! ```
//!
//! The object is built directly, not by way of a tree of values: such a tree takes up to 70 bytes for a byte of text, and
//! the object is what is kept.

use std::cell::RefCell;
use std::fmt;
use std::mem::size_of;

use ahash::{HashSet, RandomState};
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use super::allowance::{Allowance, Growth, TooMuch, take_entry};
use super::fault::{Fault, Faults, LONGEST};
use super::{NO_TIME, Unread};

/// Keys of one mapping that are compared one by one.
const FEW: usize = 32;
/// Most repeated fields that are noted.
const MAX_REPEATED: usize = 64;

/// An object, and what was noticed while it was read.
#[derive(Debug)]
pub(crate) struct Typed<T> {
    pub(crate) object: Box<T>,
    /// Fields that the type does not have.
    pub(crate) unknown: Faults,
    /// Fields that are given more than once.
    pub(crate) repeated: Vec<String>,
}

impl<T> Typed<T> {
    /// The same with another object.
    pub(crate) fn map<U>(self, make: impl FnOnce(Box<T>) -> U) -> Typed<U> {
        Typed { object: Box::new(make(self.object)), unknown: self.unknown, repeated: self.repeated }
    }
}

/// Why there is no object.
#[derive(Debug)]
pub(crate) enum Untyped {
    /// A value of another type, or that does not parse.
    Wrong(Fault),
    /// It takes too much memory.
    TooMuch(TooMuch),
}

/// What an object is read from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// JSON.
    Text(&'a [u8]),
    /// A value that was read from YAML or protobuf, or is the result of a patch.
    Value(&'a Value),
}

impl<'a> Source<'a> {
    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&'a [u8]> {
        match self {
            Source::Text(text) => Some(text),
            Source::Value(_) => None,
        }
    }

    /// Reads an object.
    pub(crate) fn typed<T: DeserializeOwned>(self, allowance: &Allowance) -> Result<Typed<T>, Untyped> {
        match self {
            Source::Text(text) => read(&mut serde_json::Deserializer::from_slice(text), allowance),
            Source::Value(value) => read(value, allowance),
        }
    }

    /// What its header is made of: `apiVersion`, `kind`, and the names in `metadata`. Everything else is left out, and texts
    /// are cut that are longer than any of these may be.
    ///
    /// # Errors
    /// If it is not JSON.
    pub(crate) fn outline(self) -> Result<Value, serde_json::Error> {
        match self {
            Source::Text(text) => {
                let mut from = serde_json::Deserializer::from_slice(text);
                let outline = Outline::Object.deserialize(&mut from)?;
                from.end().map(|()| outline)
            }
            Source::Value(value) => Outline::Object.deserialize(value),
        }
    }
}

/// Which part of an object is outlined.
#[derive(Clone, Copy)]
enum Outline {
    Object,
    Metadata,
    Field,
}

impl Outline {
    /// What is kept of a field.
    fn of_field(self, name: &str) -> Option<Outline> {
        match (self, name) {
            (Outline::Object, "metadata") => Some(Outline::Metadata),
            (Outline::Object, "apiVersion" | "kind") | (Outline::Metadata, "name" | "generateName") => {
                Some(Outline::Field)
            }
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Outline {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Outline {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(&text[..text.floor_char_boundary(LONGEST)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        let mut name = String::new();
        while map.next_key_seed(Into(&mut name))?.is_some() {
            match self.of_field(&name) {
                Some(outline) => drop(kept.insert(name.clone(), map.next_value_seed(outline)?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
            name.clear();
        }
        Ok(Value::Object(kept))
    }
}

/// Reads any JSON, as a value, and notes the fields that it gives more than once.
///
/// # Errors
/// If it is not JSON, or takes too much memory.
pub(crate) fn value(text: &[u8], allowance: &Allowance) -> Result<(Value, Vec<String>), Unread> {
    let mut from = serde_json::Deserializer::from_slice(text);
    let notes = Notes::new(allowance, false);
    let value = Value::deserialize(Watched { inner: &mut from, place: Place::root(&notes), null: None });
    let Found { repeated, too_much, .. } = notes.found.into_inner();
    match (value.and_then(|value| from.end().map(|()| value)), too_much) {
        (_, Some(too_much)) => Err(Unread::TooMuch(too_much)),
        (Ok(value), None) => Ok((value, repeated)),
        (Err(error), None) => Err(Unread::NotJson(error)),
    }
}

fn read<'de, T, D>(from: D, allowance: &Allowance) -> Result<Typed<T>, Untyped>
where
    T: DeserializeOwned,
    D: Deserializer<'de, Error = serde_json::Error>,
{
    allowance.take(size_of::<T>()).map_err(Untyped::TooMuch)?;
    let notes = Notes::new(allowance, true);
    let read = T::deserialize(Watched { inner: from, place: Place::root(&notes), null: None });
    let Found { unknown, repeated, failed_at, too_much } = notes.found.into_inner();
    match (read, too_much) {
        (_, Some(too_much)) => Err(Untyped::TooMuch(too_much)),
        (Ok(object), None) => Ok(Typed { object: Box::new(object), unknown, repeated }),
        (Err(error), None) => {
            Err(Untyped::Wrong(Fault::wrong_type(failed_at.unwrap_or_default(), &without_position(&error))))
        }
    }
}

/// The error without the line and column that end it: the path of the field says more.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).map(str::to_owned).unwrap_or(text)
}

/// What is noticed during one read.
struct Notes<'a> {
    allowance: &'a Allowance,
    hasher: RandomState,
    /// Whether the header is left out: its faults are known already.
    headless: bool,
    found: RefCell<Found>,
}

#[derive(Default)]
struct Found {
    unknown: Faults,
    repeated: Vec<String>,
    failed_at: Option<String>,
    too_much: Option<TooMuch>,
}

impl<'a> Notes<'a> {
    fn new(allowance: &'a Allowance, headless: bool) -> Self {
        Self { allowance, headless, hasher: RandomState::new(), found: RefCell::default() }
    }

    fn take<E: Error>(&self, taken: Result<(), TooMuch>) -> Result<(), E> {
        taken.map_err(|too_much| {
            self.found.borrow_mut().too_much = Some(too_much);
            E::custom("too large")
        })
    }
}

/// Where in the object the reader is.
#[derive(Clone, Copy)]
struct Place<'a> {
    notes: &'a Notes<'a>,
    step: Step<'a>,
    above: Option<&'a Place<'a>>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Item(usize),
}

impl<'a> Place<'a> {
    fn root(notes: &'a Notes<'a>) -> Self {
        Self { notes, step: Step::Root, above: None }
    }

    fn is_root(&self) -> bool {
        self.above.is_none()
    }

    /// Notes the innermost place of an error.
    fn failed(&self) {
        let failed_at = &mut self.notes.found.borrow_mut().failed_at;
        if failed_at.is_none() {
            *failed_at = Some(self.to_string());
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(above) = self.above else { return Ok(()) };
        above.fmt(f)?;
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if above.is_root() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Item(index) => write!(f, "[{index}]"),
        }
    }
}

/// A deserializer, a visitor or a seed that is watched.
struct Watched<'a, T> {
    inner: T,
    place: Place<'a>,
    /// What null means here, if the type needs a text.
    null: Option<&'static str>,
}

impl<'a, T> Watched<'a, T> {
    fn with<U>(place: Place<'a>, null: Option<&'static str>, inner: U) -> Watched<'a, U> {
        Watched { inner, place, null }
    }
}

/// Forwards with a visitor that is watched.
macro_rules! forward {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($name,)* Seen::new(visitor, self.place))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Watched<'_, D> {
    type Error = D::Error;

    forward! {
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_seq();
        deserialize_map();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let seen = Seen { null: self.null, ..Seen::new(visitor, self.place) };
        if self.null.is_some() { self.inner.deserialize_any(seen) } else { self.inner.deserialize_str(seen) }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        let seen = Seen { null: self.null, ..Seen::new(visitor, self.place) };
        self.inner.deserialize_newtype_struct(name, seen)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let seen = Seen { of: Mapping::Struct(name), ..Seen::new(visitor, self.place) };
        self.inner.deserialize_struct(name, fields, seen)
    }

    /// A field that the type does not have. Null is what Go writes for nothing.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        if !self.inner.deserialize_any(IsNull)? {
            self.place.notes.found.borrow_mut().unknown.push(Fault::unknown_field(self.place.to_string()));
        }
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Whether a value, which is not kept, is null.
struct IsNull;

impl<'de> Visitor<'de> for IsNull {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(false)
    }
}

/// What a mapping in the text becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mapping {
    Struct(&'static str),
    Entries,
}

/// A visitor that is watched.
struct Seen<'a, V> {
    visitor: V,
    place: Place<'a>,
    null: Option<&'static str>,
    of: Mapping,
}

impl<'a, V> Seen<'a, V> {
    fn new(visitor: V, place: Place<'a>) -> Self {
        Self { visitor, place, null: None, of: Mapping::Entries }
    }

    fn text<E: Error>(&self, text: &str) -> Result<(), E> {
        let notes = self.place.notes;
        notes.take(notes.allowance.take(text.len()))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Seen<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<V::Value, E> {
        self.visitor.visit_bool(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<V::Value, E> {
        self.visitor.visit_i64(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<V::Value, E> {
        self.visitor.visit_u64(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        self.visitor.visit_f64(value)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        self.text(text)?;
        self.visitor.visit_str(text)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<V::Value, E> {
        self.text(text)?;
        self.visitor.visit_borrowed_str(text)
    }

    fn visit_string<E: Error>(self, text: String) -> Result<V::Value, E> {
        self.text(&text)?;
        self.visitor.visit_string(text)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        match self.null {
            Some(text) => self.visitor.visit_str(text),
            None => self.visitor.visit_unit(),
        }
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let Self { visitor, place, null, .. } = self;
        visitor.visit_some(Watched { inner, place, null })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let Self { visitor, place, null, .. } = self;
        visitor.visit_newtype_struct(Watched { inner, place, null })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Items { inner, place: self.place, index: 0, growth: Growth::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { visitor, place, of, .. } = self;
        let keys = Keys::new(place.notes);
        visitor.visit_map(Fields { inner, place, of, key: String::new(), keys, is_new: true, time: None, key_size: 0 })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(inner)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Watched<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        let Self { inner: seed, place, null } = self;
        seed.deserialize(Watched { inner: from, place, null }).inspect_err(|_| place.failed())
    }
}

/// The items of a list.
struct Items<'a, A> {
    inner: A,
    place: Place<'a>,
    index: usize,
    growth: Growth,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let notes = self.place.notes;
        let place = Place { notes, step: Step::Item(self.index), above: Some(&self.place) };
        let item = self.inner.next_element_seed(Watched::<S>::with(place, None, seed))?;
        if item.is_some() {
            notes.take(self.growth.push(size_of::<S::Value>(), notes.allowance))?;
            self.index += 1;
        }
        Ok(item)
    }
}

/// The fields of a mapping.
struct Fields<'a, A> {
    inner: A,
    place: Place<'a>,
    of: Mapping,
    key: String,
    keys: Keys<'a>,
    /// Whether the key is there for the first time.
    is_new: bool,
    /// The time of a condition: whether one was given, or is made up now.
    time: Option<Given>,
    key_size: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    InText,
    MadeUp,
}

impl<A> Fields<'_, A> {
    /// The type of a Service's conditions must have a time, and Kubernetes need not.
    fn is_condition(&self) -> bool {
        self.of == Mapping::Struct("Condition")
    }

    fn note_key(&mut self) -> Result<(), TooMuch> {
        let notes = self.place.notes;
        self.is_new = self.keys.insert(&self.key)?;
        if !self.is_new {
            let place = Place { notes, step: Step::Field(&self.key), above: Some(&self.place) };
            let repeated = &mut notes.found.borrow_mut().repeated;
            if repeated.len() < MAX_REPEATED {
                repeated.push(place.to_string());
            }
        }
        Ok(())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let notes = self.place.notes;
        loop {
            self.key.clear();
            if self.inner.next_key_seed(Into(&mut self.key))?.is_none() {
                if !self.is_condition() || self.time.is_some() {
                    return Ok(None);
                }
                self.key.push_str(TIME);
                self.time = Some(Given::MadeUp);
                break;
            }
            let noted = self.note_key();
            notes.take(noted)?;
            if notes.headless && self.place.is_root() && matches!(self.key.as_str(), "apiVersion" | "kind") {
                self.inner.next_value::<IgnoredAny>()?;
                continue;
            }
            if self.is_condition() && self.key == TIME {
                self.time = Some(Given::InText);
            }
            break;
        }
        if self.of == Mapping::Entries && self.is_new {
            notes.take(notes.allowance.take(self.key.len()))?;
        }
        self.key_size = size_of::<S::Value>();
        let key: StrDeserializer<'_, A::Error> = self.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        if self.time == Some(Given::MadeUp) {
            return seed.deserialize(NoTime(std::marker::PhantomData));
        }
        let notes = self.place.notes;
        if self.of == Mapping::Entries && self.is_new {
            let size = self.key_size + size_of::<S::Value>();
            notes.take(take_entry(self.keys.count - 1, size, notes.allowance))?;
        }
        let null = match self.of {
            Mapping::Entries => Some(""),
            Mapping::Struct(_) if self.is_condition() && self.key == TIME => Some(NO_TIME),
            Mapping::Struct(_) => None,
        };
        let place = Place { notes, step: Step::Field(&self.key), above: Some(&self.place) };
        self.inner.next_value_seed(Watched::<S>::with(place, null, seed))
    }
}

const TIME: &str = "lastTransitionTime";

/// The time of a condition that has none.
struct NoTime<E>(std::marker::PhantomData<E>);

impl<'de, E: Error> Deserializer<'de> for NoTime<E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_str(NO_TIME)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

/// Reads a key into a text that is used again.
struct Into<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Into<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Into<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}

/// The keys of a mapping so far, by their hashes.
struct Keys<'a> {
    few: [u64; FEW],
    many: HashSet<u64>,
    notes: &'a Notes<'a>,
    count: usize,
    taken: usize,
}

/// A hash in a table that grows to twice its size.
const HASH_SIZE: usize = 3 * 2 * (size_of::<u64>() + 1);

impl<'a> Keys<'a> {
    fn new(notes: &'a Notes<'a>) -> Self {
        Self { few: [0; FEW], many: HashSet::default(), notes, count: 0, taken: 0 }
    }

    /// Whether it is a new one.
    fn insert(&mut self, key: &str) -> Result<bool, TooMuch> {
        let hash = self.notes.hasher.hash_one(key);
        if self.few[..self.count.min(FEW)].contains(&hash) {
            return Ok(false);
        }
        if let Some(free) = self.few.get_mut(self.count) {
            *free = hash;
        } else {
            self.notes.allowance.take(HASH_SIZE)?;
            self.taken += HASH_SIZE;
            if !self.many.insert(hash) {
                return Ok(false);
            }
        }
        self.count += 1;
        Ok(true)
    }
}

impl Drop for Keys<'_> {
    fn drop(&mut self) {
        self.notes.allowance.give_back(self.taken);
    }
}

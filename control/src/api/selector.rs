//! Label and field selectors, as a list request gives them.
//!
//! The grammar is Kubernetes' (apimachinery `pkg/labels/selector.go`): requirements joined by commas, all of which must
//! hold: `app=web`, `app==web`, `tier!=db`, `env in (prod, test)`, `env notin (dev)`, `app`, `!app`, `n>3`, `n<3`. As there, `!=` and
//! `notin` also select objects that lack the label.
//!
//! Field selectors support `=`, `==` and `!=`, and for each kind the fields that the API server supports.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::admission::validate::names;
use crate::objects::{Key, Kind, Object};

/// The objects of a list or watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    /// `None`: all of them.
    pub(crate) namespace: Option<String>,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Wanted {
    /// Whether an object of this key can be among them.
    pub(crate) fn covers(&self, key: &Key) -> bool {
        key.kind == self.kind && self.namespace.as_ref().is_none_or(|namespace| key.namespace == *namespace)
    }

    /// Whether the selectors match an object of the kind and namespace.
    pub(crate) fn selects(&self, object: &Object) -> bool {
        self.fields.matches(object) && self.labels.matches(object.metadata().labels.as_ref())
    }

    /// Whether the selectors match everything.
    pub(crate) fn selects_all(&self) -> bool {
        self.labels.0.is_empty() && self.fields.0.is_empty()
    }
}

/// A parsed label selector. The empty one selects everything.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        split_outside_parentheses(text)?
            .into_iter()
            .map(|part| parse_requirement(part).ok_or_else(|| format!("unable to parse requirement: {part:?}")))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(crate) fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.and_then(|labels| labels.get(&requirement.key));
            requirement.test.holds(value)
        })
    }
}

impl Test {
    fn holds(&self, value: Option<&String>) -> bool {
        match self {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
            Test::GreaterThan(than) => number(value).is_some_and(|number| number > *than),
            Test::LessThan(than) => number(value).is_some_and(|number| number < *than),
        }
    }
}

fn number(value: Option<&String>) -> Option<i64> {
    value?.parse().ok()
}

/// The requirements of `text`; an empty or blank text has none.
fn split_outside_parentheses(text: &str) -> Result<Vec<&str>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1).ok_or("unable to parse requirement: found ')' without '('")?,
            b',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    Ok(parts)
}

fn parse_requirement(text: &str) -> Option<Requirement> {
    let (key, test) = if let Some(key) = text.strip_prefix('!') {
        (key, Test::Missing)
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Test::NotIn(vec![label_value(value)?]))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, Test::In(vec![label_value(value)?]))
    } else if let Some((key, value)) = text.split_once('>') {
        (key, Test::GreaterThan(value.trim().parse().ok()?))
    } else if let Some((key, value)) = text.split_once('<') {
        (key, Test::LessThan(value.trim().parse().ok()?))
    } else if let Some((key, rest)) = text.split_once(char::is_whitespace) {
        (key, parse_set(rest.trim())?)
    } else {
        (text, Test::Exists)
    };
    let key = key.trim();
    is_label_key(key).then(|| Requirement { key: key.to_owned(), test })
}

/// `in (a, b)` or `notin (a, b)`.
fn parse_set(text: &str) -> Option<Test> {
    let (negated, rest) = match text.strip_prefix("notin") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("in")?),
    };
    let list = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
    let values = list.split(',').map(label_value).collect::<Option<_>>()?;
    Some(if negated { Test::NotIn(values) } else { Test::In(values) })
}

fn label_value(text: &str) -> Option<String> {
    let text = text.trim();
    names::label_value(text).is_empty().then(|| text.to_owned())
}

fn is_label_key(text: &str) -> bool {
    names::qualified(text).is_empty()
}

/// A parsed field selector of one kind. The empty one selects everything.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<FieldTest>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTest {
    field: Field,
    value: String,
    equal: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// A JSON pointer into the object, for what has no faster way.
    At(String),
}

impl FieldSelector {
    pub(crate) fn parse(text: &str, kind: Kind) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let terms = split_terms(text).into_iter().filter(|term| !term.is_empty());
        terms.map(|term| parse_field_test(text, term, kind)).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.0.iter().all(|test| {
            let equal = match &test.field {
                Field::Name => object.name() == test.value,
                Field::Namespace => object.namespace() == test.value,
                Field::At(pointer) => value_at(object, pointer) == test.value,
            };
            equal == test.equal
        })
    }
}

/// The terms of a field selector, which commas part that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// A value without its escapes: `\,`, `\=`, `\\`.
fn unescape(text: &str) -> Result<String, String> {
    let (mut value, mut characters) = (String::new(), text.chars());
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => value.push(escaped),
                other => {
                    let sequence: String = ['\\'].into_iter().chain(other).collect();
                    return Err(format!("invalid field selector: invalid escape sequence: {sequence}"));
                }
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {character}")),
            plain => value.push(plain),
        }
    }
    Ok(value)
}

/// Field, value, and whether they are to be equal; the operator that comes first counts.
fn split_term(term: &str) -> Option<(&str, &str, bool)> {
    term.char_indices().find_map(|(at, _)| {
        let (field, rest) = term.split_at(at);
        let operators = [("!=", false), ("==", true), ("=", true)];
        let found = operators.into_iter().find_map(|(operator, equal)| Some((rest.strip_prefix(operator)?, equal)));
        found.map(|(value, equal)| (field, value, equal))
    })
}

fn parse_field_test(text: &str, term: &str, kind: Kind) -> Result<FieldTest, String> {
    let split = split_term(term).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"));
    let (field, value, equal) = split?;
    let value = unescape(value)?;
    let field = match field.trim() {
        "metadata.name" => Field::Name,
        "metadata.namespace" if kind.namespaced() => Field::Namespace,
        other if selectable(kind).contains(&other) => Field::At(format!("/{}", other.replace('.', "/"))),
        other => return Err(format!("field label not supported: {other}")),
    };
    Ok(FieldTest { field, value, equal })
}

/// The fields beside the metadata that the API server can select `kind` by.
fn selectable(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Pod => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        Kind::Service => &["spec.clusterIP", "spec.type"],
        Kind::Namespace => &["status.phase"],
        Kind::Node => &["spec.unschedulable"],
        Kind::Event => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        Kind::Secret => &["type"],
        Kind::Endpoints | Kind::EndpointSlice | Kind::ConfigMap => &[],
    }
}

/// A missing field is compared as the empty text, a missing boolean as `false`.
fn value_at(object: &Object, pointer: &str) -> String {
    if let (Object::Event(event), "/source") = (object, pointer) {
        let component = event.source.as_ref().and_then(|source| source.component.clone());
        let component = component.filter(|component| !component.is_empty());
        return component.or_else(|| event.reporting_component.clone()).unwrap_or_default();
    }
    if let Some(text) = text_at(object, pointer) {
        return text.to_owned();
    }
    match object.to_value().pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        None if matches!(pointer, "/spec/unschedulable" | "/spec/hostNetwork") => "false".to_owned(),
        None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The fields that clients select by, read without JSON: every change is compared with every watcher's selector.
fn text_at<'a>(object: &'a Object, pointer: &str) -> Option<&'a str> {
    match (object, pointer) {
        (Object::Pod(pod), "/spec/nodeName") => pod.spec.as_ref()?.node_name.as_deref(),
        (Object::Pod(pod), "/status/phase") => pod.status.as_ref()?.phase.as_deref(),
        (Object::Pod(pod), "/status/podIP") => pod.status.as_ref()?.pod_ip.as_deref(),
        (Object::Service(service), "/spec/clusterIP") => service.spec.as_ref()?.cluster_ip.as_deref(),
        (Object::Service(service), "/spec/type") => service.spec.as_ref()?.type_.as_deref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_operator_selects_as_in_kubernetes() {
        let web = labels(&[("app", "web"), ("env", "prod"), ("example.com/tier", "1")]);
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("none!=x", true),
            ("app", true),
            ("none", false),
            ("!none", true),
            ("! app", false),
            ("env in (prod, test)", true),
            ("env in (dev)", false),
            ("env notin (dev)", true),
            ("none notin (dev)", true),
            ("env notin (prod,test)", false),
            ("app=web,env in (prod,test),!none", true),
            ("app=web, env=dev", false),
            ("example.com/tier=1", true),
            ("app=", false),
            ("example.com/tier>0", true),
            ("example.com/tier > 1", false),
            ("example.com/tier<2", true),
            ("app>0", false),
            ("none<1", false),
        ];
        for (text, expected) in cases {
            let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(selector.matches(Some(&web)), expected, "{text}");
        }
        assert!(!LabelSelector::parse("app=web").expect("valid").matches(None));
    }

    #[test]
    fn a_selector_that_does_not_parse_is_told() {
        for text in [
            "=web",
            ",",
            "app=web,",
            "env in prod",
            "env near (a)",
            "env in (a",
            "a)b",
            "app=w b",
            "app=(x)",
            "-app",
            "a/b/c",
            "a>b",
            "a>",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_select_by_kind() {
        let pod = Object::from_value(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n"},
                    "spec": {"containers": [], "nodeName": "one"}, "status": {"phase": "Running"}}),
            "",
        )
        .expect("a pod");
        for (text, expected) in [
            ("metadata.name=a", true),
            ("metadata.name!=a", false),
            ("metadata.namespace=n,spec.nodeName=one", true),
            ("status.phase!=Running", false),
            ("status.podIP=", true),
            ("spec.hostNetwork=false", true),
            ("spec.schedulerName=mine", false),
            ("metadata.name=a,", true),
            (",,metadata.name==a", true),
            ("metadata.name=a\\,b", false),
            ("metadata.name!=a\\=b", true),
        ] {
            assert_eq!(FieldSelector::parse(text, Kind::Pod).expect("valid").matches(&pod), expected, "{text}");
        }
        let error = FieldSelector::parse("spec.nodeName=one", Kind::Service).expect_err("not a Service's field");
        assert_eq!(error, "field label not supported: spec.nodeName");
        for (text, expected) in [
            ("metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
            ("metadata.name=a=b", "invalid field selector: unescaped character in value: ="),
            ("metadata.name=a\\b", "invalid field selector: invalid escape sequence: \\b"),
        ] {
            assert_eq!(FieldSelector::parse(text, Kind::Pod), Err(expected.to_owned()));
        }
        let event = |more: serde_json::Value| {
            let mut value =
                json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {}});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Object::from_value(&value, "default").expect("an event")
        };
        let selector = FieldSelector::parse("source=kubelet", Kind::Event).expect("valid");
        assert!(selector.matches(&event(json!({"source": {"component": "kubelet"}}))));
        assert!(selector.matches(&event(json!({"source": {}, "reportingComponent": "kubelet"}))));
        assert!(!selector.matches(&event(json!({"source": {"component": "other"}, "reportingComponent": "kubelet"}))));
    }
}

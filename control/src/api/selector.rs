//! Label and field selectors, as a list request gives them.
//!
//! The grammar is Kubernetes' (apimachinery `pkg/labels/selector.go`): requirements joined by commas, all of which must
//! hold: `app=web`, `app==web`, `tier!=db`, `env in (prod, test)`, `env notin (dev)`, `app`, `!app`, `n>3`, `n<3`. As there, `!=` and
//! `notin` also select objects that lack the label.
//!
//! Field selectors support `=`, `==` and `!=`, and for each kind the fields that the API server supports.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::admission::validate::names;
use crate::objects::fault::{Fault, Faults};
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
        Parser { tokens: tokens(text), next: 0 }.requirements().map(Self)
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

/// A piece of a label selector. `in` and `notin` are words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'static str),
    End,
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn tokens(text: &str) -> Vec<Token<'_>> {
    let space = [' ', '\t', '\r', '\n'];
    let (mut tokens, mut rest) = (Vec::new(), text.trim_start_matches(space));
    while !rest.is_empty() {
        let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
        let length =
            symbol.map_or_else(|| rest.find(|c| space.contains(&c) || "=!(),<>".contains(c)), |s| Some(s.len()));
        let (token, behind) = rest.split_at(length.unwrap_or(rest.len()));
        tokens.push(symbol.map_or(Token::Word(token), Token::Symbol));
        rest = behind.trim_start_matches(space);
    }
    tokens.push(Token::End);
    tokens
}

/// Reads requirements; a fault is told as the API server tells it.
struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.next).copied().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token<'a> {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn requirements(mut self) -> Result<Vec<Requirement>, String> {
        let begins = |token| matches!(token, Token::Word(_) | Token::Symbol("!"));
        let mut requirements = Vec::new();
        if self.peek() == Token::End {
            return Ok(requirements);
        }
        if !begins(self.peek()) {
            return Err(expected(self.peek(), "!, identifier, or 'end of string'"));
        }
        loop {
            let requirement = self.requirement().map_err(|fault| format!("unable to parse requirement: {fault}"))?;
            requirements.push(requirement);
            match self.take() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") if begins(self.peek()) => {}
                Token::Symbol(",") => return Err(expected(self.peek(), "identifier after ','")),
                other => return Err(expected(other, "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let missing = self.peek() == Token::Symbol("!");
        self.next += usize::from(missing);
        let key = match self.take() {
            Token::Word(key) => key,
            other => return Err(expected(other, "identifier")),
        };
        let faults = names::qualified(key);
        if !faults.is_empty() {
            return Err(Fault::invalid("<nil>", key, &faults.join("; ")).to_string());
        }
        let test = match self.peek() {
            _ if missing => Test::Missing,
            Token::End | Token::Symbol(",") => Test::Exists,
            _ => self.test(key)?,
        };
        Ok(Requirement { key: key.to_owned(), test })
    }

    fn test(&mut self, key: &str) -> Result<Test, String> {
        let operator = self.take();
        let values = match operator {
            Token::Word("in" | "notin") => self.list()?,
            Token::Symbol("=" | "==" | "!=" | ">" | "<") => vec![self.value()?],
            other => return Err(expected(other, "in, notin, =, ==, !=, gt, lt")),
        };
        let mut faults = Faults::new();
        let compared = matches!(operator, Token::Symbol(">" | "<"));
        let number = values.first().and_then(|value| value.parse().ok()).filter(|_| compared);
        if compared && number.is_none() {
            let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
            faults.push(Fault::invalid("values[0]", values.first().copied().unwrap_or_default(), detail));
        }
        for (index, value) in values.iter().copied().enumerate() {
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                faults.push(Fault::invalid(format!("values[{index}][{key}]"), value, &wrong.join("; ")));
            }
        }
        if !faults.is_empty() {
            return Err(faults.to_string());
        }
        let values = values.into_iter().map(str::to_owned).collect();
        Ok(match (operator, number) {
            (Token::Symbol(">"), Some(number)) => Test::GreaterThan(number),
            (Token::Symbol("<"), Some(number)) => Test::LessThan(number),
            (Token::Word("notin") | Token::Symbol("!="), _) => Test::NotIn(values),
            _ => Test::In(values),
        })
    }

    /// The value of a comparison; nothing is the empty text.
    fn value(&mut self) -> Result<&'a str, String> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(""),
            Token::Word(value) => {
                self.next += 1;
                Ok(value)
            }
            other => Err(expected(other, "identifier")),
        }
    }

    /// Values in parentheses, in order and each once; nothing between two commas is the empty text.
    fn list(&mut self) -> Result<Vec<&'a str>, String> {
        let open = self.take();
        if open != Token::Symbol("(") {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        if !matches!(self.peek(), Token::Word(_) | Token::Symbol("," | ")")) {
            return Err(expected(self.peek(), "',', ')' or identifier"));
        }
        let mut values = BTreeSet::new();
        loop {
            let value = match self.peek() {
                Token::Word(value) => {
                    self.next += 1;
                    value
                }
                Token::Symbol("," | ")") => "",
                other => return Err(expected(other, "',', or identifier")),
            };
            values.insert(value);
            match self.take() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => return Ok(values.into_iter().collect()),
                other => return Err(expected(other, "',' or ')'")),
            }
        }
    }
}

fn expected(found: Token<'_>, what: &str) -> String {
    format!("found '{}', expected: {what}", found.text())
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
        other if !has_fields_of_its_own(kind) => {
            let known = "only \"metadata.name\", \"metadata.namespace\"";
            return Err(format!("{other:?} is not a known field selector: {known}"));
        }
        other => return Err(format!("field label not supported: {other}")),
    };
    Ok(FieldTest { field, value, equal })
}

fn has_fields_of_its_own(kind: Kind) -> bool {
    !selectable(kind).is_empty()
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
            ("env in(prod)", true),
            ("none notin ()", true),
            ("app in (,web)", true),
            ("app=in", false),
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
        for (text, told) in [
            ("=web", "found '=', expected: !, identifier, or 'end of string'"),
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("app=web,", "found '', expected: identifier after ','"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("env in prod", "unable to parse requirement: found 'prod' expected: '('"),
            ("env near (a)", "unable to parse requirement: found 'near', expected: in, notin, =, ==, !=, gt, lt"),
            ("env in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("env in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
            ("env in (a,=)", "unable to parse requirement: found '=', expected: ',', or identifier"),
            ("a)b", "unable to parse requirement: found ')', expected: in, notin, =, ==, !=, gt, lt"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("app=w b", "found 'b', expected: ',' or 'end of string'"),
            ("app=(x)", "unable to parse requirement: found '(', expected: identifier"),
            ("-app", "unable to parse requirement: <nil>: Invalid value: \"-app\": name part must consist of"),
            (
                "a/b/c",
                "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must consist of",
            ),
            (
                "a=b_",
                "unable to parse requirement: values[0][a]: Invalid value: \"b_\": a valid label must be an empty",
            ),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must",
            ),
            (
                "a>",
                "unable to parse requirement: values[0]: Invalid value: \"\": for 'Gt', 'Lt' operators, the value must",
            ),
        ] {
            let error = LabelSelector::parse(text).expect_err(text);
            assert!(error.starts_with(told), "{text}: {error}");
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

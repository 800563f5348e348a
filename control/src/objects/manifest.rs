//! Manifests: YAML or JSON text to documents that remember their lines.
//!
//! A fault that says only `spec.ports[0].port` sends the reader of a thousand-line file searching. So the text is parsed
//! into events with positions and composed here, and every field keeps the line of its key. `serde` alone would give a line
//! for a syntax error or a wrong type, and none for a port that is taken.
//!
//! What is accepted is what kubectl accepts: several documents, `kind: List` and `kind: <Kind>List`, anchors, merge
//! keys, plain JSON. What is bounded: nesting and the size of what aliases expand to, so a few lines of YAML cannot
//! fill the memory. A key given twice is an error: one of the two would be lost.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde_json::{Map, Number, Value};

use crate::objects::fault::Fault;

/// Deepest nesting; a Pod needs about a dozen levels.
const MAX_DEPTH: usize = 64;
/// Most values in one text, aliases expanded.
const MAX_VALUES: usize = 4_000_000;
/// Documents of one text that cannot be read, after which the rest is not looked at.
const MAX_ERRORS: usize = 20;

/// One object of a manifest, not yet looked at.
#[derive(Clone, Debug)]
pub struct Document {
    /// The object as it was written.
    pub value: Value,
    source: Arc<str>,
    line: usize,
    lines: BTreeMap<String, usize>,
}

/// What could be read, and what could not.
#[derive(Debug, Default)]
pub struct Read {
    /// Every document that is YAML or JSON.
    pub documents: Vec<Document>,
    /// Every place where it is neither.
    pub errors: Vec<ManifestError>,
}

/// A manifest that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    source_name: String,
    line: Option<usize>,
    message: String,
    /// Not YAML at all, as opposed to YAML that is not wanted.
    syntax: bool,
}

impl ManifestError {
    /// The file.
    pub fn source(&self) -> &str {
        &self.source_name
    }

    /// What is wrong there.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The line; 0 for the file as a whole.
    pub fn line(&self) -> usize {
        self.line.unwrap_or_default()
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.source_name, self.message),
            None => write!(f, "{}: {}", self.source_name, self.message),
        }
    }
}

impl Document {
    /// The file it stands in.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The line of a field, from 1; of what is nearest around it if the field is not there.
    pub fn line_of(&self, field: &str) -> usize {
        let mut field = field;
        loop {
            // `clusterIPs`, `podIPs` and the like are filled from the field that holds the first of them.
            let singular = field.strip_suffix('s').filter(|singular| singular.ends_with("IP"));
            if let Some(line) = self.lines.get(field).or_else(|| self.lines.get(singular?)) {
                return *line;
            }
            match field.rfind(['.', '[']) {
                Some(end) => field = &field[..end],
                None => return self.line,
            }
        }
    }

    /// A fault of this document as a line for the user: `FILE:LINE: FIELD: message`.
    pub fn tell(&self, fault: &Fault) -> String {
        format!("{}:{}: {fault}", self.source, self.line_of(&fault.field))
    }

    /// The documents of a list, or the document itself.
    fn items(self) -> Vec<Document> {
        let kind = self.value.get("kind").and_then(Value::as_str).unwrap_or_default();
        if !kind.ends_with("List") || !self.value.get("items").is_some_and(Value::is_array) {
            return vec![self];
        }
        let Document { mut value, source, line, lines } = self;
        let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) else {
            return Vec::new();
        };
        let header = header_of_items(&value);
        let documents = items.into_iter().enumerate().map(|(index, mut value)| {
            inherit_kind(&mut value, &header);
            let prefix = format!("items[{index}]");
            let line = lines.get(&prefix).copied().unwrap_or(line);
            let inner = format!("{prefix}.");
            let of_item = lines.range(inner.clone()..).take_while(|(path, _)| path.starts_with(&inner));
            let lines = of_item.map(|(path, line)| (path[inner.len()..].to_owned(), *line)).collect();
            Document { value, source: source.clone(), line, lines }
        });
        documents.collect()
    }
}

/// What the items of a `ServiceList` need not say of themselves, as an API server's answer does not: version and kind.
fn header_of_items(list: &Value) -> Vec<(&'static str, Value)> {
    let kind = list.get("kind").and_then(Value::as_str).and_then(|kind| kind.strip_suffix("List"));
    let kind = kind.filter(|kind| !kind.is_empty()).map(|kind| ("kind", Value::from(kind)));
    let version = list.get("apiVersion").filter(|_| kind.is_some()).map(|version| ("apiVersion", version.clone()));
    kind.into_iter().chain(version).collect()
}

fn inherit_kind(item: &mut Value, header: &[(&'static str, Value)]) {
    let Some(fields) = item.as_object_mut() else { return };
    for (field, value) in header {
        fields.entry(*field).or_insert_with(|| value.clone());
    }
}

/// The documents of a text; empty ones are left out, lists are taken apart.
///
/// # Errors
/// The first place where it is neither YAML nor JSON, or beyond what is read.
pub fn parse(source: &str, text: &str) -> Result<Vec<Document>, ManifestError> {
    parse_all(source, text).whole()
}

/// The documents of a text, and what is no document. After one that cannot be read the next is looked for.
pub fn parse_all(source: &str, text: &str) -> Read {
    let mut read = Read::default();
    let (mut from, mut values) = (0, 0);
    loop {
        // As many empty lines as were left out, for the numbers of those that follow.
        let rest = "\n".repeat(from) + &text.lines().skip(from).collect::<Vec<_>>().join("\n");
        let mut composer = Composer::new(source, if from == 0 { text } else { &rest }, values);
        let error = composer.documents(&mut read.documents).err();
        let Some(mut error) = error else { break };
        // What is missing at the end is told of the line behind it.
        error.line = error.line.map(|line| line.min(text.lines().count().max(1)));
        values = composer.values;
        let may_be_json = error.syntax && from == 0 && read.documents.is_empty();
        if let Some(document) = may_be_json.then(|| json(source, text)).flatten() {
            match document {
                Ok(document) => read.documents.push(document),
                Err(error) => read.errors.push(error),
            }
            break;
        }
        // The line of the fault may be that of the next document's marker.
        let at = error.line().saturating_sub(1).max(from + 1);
        read.errors.push(error);
        let next = text.lines().enumerate().skip(at).find(|(_, line)| line.starts_with("---"));
        match next {
            Some((index, _)) if read.errors.len() < MAX_ERRORS => from = index,
            _ => break,
        }
    }
    let documents = std::mem::take(&mut read.documents).into_iter().flat_map(Document::items);
    read.documents = documents.filter(|document| !document.value.is_null()).collect();
    read
}

/// The documents of a file, or of every `*.yaml`, `*.yml` and `*.json` in a directory, in order of their names.
///
/// # Errors
/// The file that cannot be read, or what [`parse`] says.
pub fn read(path: &Path) -> Result<Vec<Document>, ManifestError> {
    let documents = read_all(path).whole()?;
    match documents.is_empty() {
        true => Err(whole_file(path, "no objects found; expected YAML or JSON manifests".to_owned())),
        false => Ok(documents),
    }
}

/// As [`read`], with all that is wrong; and nothing at all is not wrong.
pub fn read_all(path: &Path) -> Read {
    let mut all = Read::default();
    let files = match files(path) {
        Ok(files) => files,
        Err(error) => {
            all.errors.push(unreadable(path, &error));
            return all;
        }
    };
    for file in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let Read { documents, errors } = parse_all(&file.display().to_string(), &text);
                all.documents.extend(documents);
                all.errors.extend(errors);
            }
            Err(error) => all.errors.push(unreadable(&file, &error)),
        }
    }
    all
}

impl Read {
    fn whole(self) -> Result<Vec<Document>, ManifestError> {
        self.errors.into_iter().next().map_or(Ok(self.documents), Err)
    }
}

/// That a file cannot be read.
pub fn unreadable(path: &Path, error: &std::io::Error) -> ManifestError {
    whole_file(path, format!("cannot be read: {error}"))
}

fn whole_file(path: &Path, message: String) -> ManifestError {
    ManifestError { source_name: path.display().to_string(), line: None, message, syntax: false }
}

/// The file, or the manifests in the directory. Names that begin with a dot are an editor's or a tool's own.
///
/// # Errors
/// The system's, if there is neither.
pub fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let manifest = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        matches!(extension, Some("yaml" | "yml" | "json")) && !hidden && path.is_file()
    };
    let entries: std::io::Result<Vec<PathBuf>> =
        std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut files: Vec<PathBuf> = entries?.into_iter().filter(manifest).collect();
    files.sort();
    Ok(files)
}

/// JSON that is no YAML (surrogate pairs, tabs in odd places); nothing if it is no JSON either.
fn json(source: &str, text: &str) -> Option<Result<Document, ManifestError>> {
    let value = serde_json::from_str(text).ok()?;
    let mut scan = JsonLines { bytes: text.as_bytes(), at: 0, line: 1, lines: BTreeMap::new() };
    scan.blank();
    let line = scan.line;
    let twice = scan.value("").err().map(|(line, key, first)| ManifestError {
        source_name: source.to_owned(),
        line: Some(line),
        message: given_twice(&key, first),
        syntax: false,
    });
    Some(twice.map_or_else(|| Ok(Document { value, source: source.into(), line, lines: scan.lines }), Err))
}

fn given_twice(key: &str, first: usize) -> String {
    format!("duplicate key {key:?}, first used on line {first}")
}

/// The lines of the fields of a text that is known to be JSON, and no deeper than serde_json takes it.
struct JsonLines<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
    lines: BTreeMap<String, usize>,
}

/// A key that is there twice: its line, itself, its first line.
type Twice = (usize, String, usize);

impl JsonLines<'_> {
    fn value(&mut self, path: &str) -> Result<(), Twice> {
        self.blank();
        match self.next() {
            b'{' => self.members(path),
            b'[' => self.elements(path),
            b'"' => {
                self.text();
                Ok(())
            }
            _ => {
                while !matches!(self.peek(), b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n' | 0) {
                    self.at += 1;
                }
                Ok(())
            }
        }
    }

    fn members(&mut self, path: &str) -> Result<(), Twice> {
        while self.goes_on(b'}') {
            let line = self.line;
            self.at += 1;
            let key = self.text();
            let field = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if let Some(first) = self.lines.insert(field.clone(), line) {
                return Err((line, key, first));
            }
            self.blank();
            // The colon.
            self.at += 1;
            self.value(&field)?;
        }
        Ok(())
    }

    fn elements(&mut self, path: &str) -> Result<(), Twice> {
        let mut index = 0;
        while self.goes_on(b']') {
            let field = format!("{path}[{index}]");
            self.lines.insert(field.clone(), self.line);
            self.value(&field)?;
            index += 1;
        }
        Ok(())
    }

    /// Whether another member or element comes before the end.
    fn goes_on(&mut self, end: u8) -> bool {
        self.blank();
        if self.peek() == b',' {
            self.at += 1;
            self.blank();
        }
        match self.peek() {
            byte if byte == end || byte == 0 => {
                self.at += 1;
                false
            }
            _ => true,
        }
    }

    /// What stands between the quotes; its end is behind the second one.
    fn text(&mut self) -> String {
        let start = self.at.saturating_sub(1);
        loop {
            match self.next() {
                b'\\' => self.at += 1,
                b'"' | 0 => break,
                _ => {}
            }
        }
        let quoted = self.bytes.get(start..self.at).unwrap_or_default();
        serde_json::from_slice(quoted).unwrap_or_default()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\r' | b'\n') {
            self.line += usize::from(self.peek() == b'\n');
            self.at += 1;
        }
    }

    /// Zero at the end, which no JSON holds otherwise.
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or_default()
    }

    fn next(&mut self) -> u8 {
        let byte = self.peek();
        self.at += 1;
        byte
    }
}

/// Builds values from the parser's events.
struct Composer<'a> {
    source: Arc<str>,
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, (Value, usize)>,
    lines: BTreeMap<String, usize>,
    values: usize,
}

impl<'a> Composer<'a> {
    /// `values`: how many of the same text were there before.
    fn new(source: &str, text: &'a str, values: usize) -> Composer<'a> {
        Composer {
            source: source.into(),
            parser: Parser::new_from_str(text),
            anchors: BTreeMap::new(),
            lines: BTreeMap::new(),
            values,
        }
    }

    /// Adds the documents up to the end, or to the first that cannot be read.
    fn documents(&mut self, documents: &mut Vec<Document>) -> Result<(), ManifestError> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), _) => documents.push(self.document()?),
                _ => {}
            }
        }
    }

    fn document(&mut self) -> Result<Document, ManifestError> {
        self.anchors.clear();
        let (event, span) = self.next()?;
        let line = span.start.line();
        let value = self.value(event, span, "", 0)?;
        Ok(Document { value, source: self.source.clone(), line, lines: std::mem::take(&mut self.lines) })
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), ManifestError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(ManifestError { syntax: true, ..self.error(error.marker().line(), error.info()) }),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn value(&mut self, event: Event<'a>, span: Span, path: &str, depth: usize) -> Result<Value, ManifestError> {
        let line = span.start.line();
        if depth > MAX_DEPTH {
            return Err(self.error(line, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let before = self.values;
        self.count(1, line)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.is_some_and(|tag| tag.suffix == "str");
                let plain = style == ScalarStyle::Plain && !text_tag;
                (if plain { plain_scalar(&text) } else { Value::String(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.sequence(path, depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(path, depth)?, anchor),
            Event::Alias(anchor) => {
                let Some((value, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.error(line, "alias inside the value that it refers to"));
                };
                self.count(size, line)?;
                return Ok(value);
            }
            other => return Err(self.error(line, &format!("expected a value, found {other:?}"))),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.values - before));
        }
        Ok(value)
    }

    fn sequence(&mut self, path: &str, depth: usize) -> Result<Value, ManifestError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            let path = format!("{path}[{}]", items.len());
            self.lines.insert(path.clone(), span.start.line());
            items.push(self.value(event, span, &path, depth + 1)?);
        }
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Value, ManifestError> {
        let mut fields = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let (key, plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(key, style, ..) => (key.into_owned(), style == ScalarStyle::Plain),
                _ => return Err(self.error(line, "expected a name as key")),
            };
            let field = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let (event, span) = self.next()?;
            if plain && key == "<<" {
                merged.push((line, self.value(event, span, &field, depth + 1)?));
                continue;
            }
            if fields.contains_key(&key) {
                let first = self.lines.get(&field).copied().unwrap_or(line);
                return Err(self.error(line, &given_twice(&key, first)));
            }
            self.lines.insert(field.clone(), line);
            let value = self.value(event, span, &field, depth + 1)?;
            fields.insert(key, value);
        }
        for (line, value) in merged {
            self.merge(&mut fields, value, line)?;
        }
        Ok(Value::Object(fields))
    }

    /// A merge key: fields of one mapping, or of several in a list, where the mapping itself says nothing.
    fn merge(&self, fields: &mut Map<String, Value>, value: Value, line: usize) -> Result<(), ManifestError> {
        match value {
            Value::Object(others) => {
                for (key, value) in others {
                    fields.entry(key).or_insert(value);
                }
                Ok(())
            }
            Value::Array(items) => items.into_iter().try_for_each(|item| self.merge(fields, item, line)),
            _ => Err(self.error(line, "expected a mapping, or a list of mappings, after the merge key")),
        }
    }

    fn count(&mut self, values: usize, line: usize) -> Result<(), ManifestError> {
        self.values = self.values.saturating_add(values);
        match self.values > MAX_VALUES {
            true => Err(self.error(line, &format!("expands to more than {MAX_VALUES} values"))),
            false => Ok(()),
        }
    }

    fn error(&self, line: usize, message: &str) -> ManifestError {
        ManifestError {
            source_name: self.source.to_string(),
            line: Some(line),
            message: message.to_owned(),
            syntax: false,
        }
    }
}

/// YAML's core schema (YAML 1.2.2, 10.3), as far as JSON has a word for it.
fn plain_scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok().map(Number::from);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return i64::from_str_radix(octal, 8).ok().map(Number::from);
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !digits.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let whole = text.parse::<i64>().ok().map(Number::from);
    let whole = whole.or_else(|| text.parse::<u64>().ok().map(Number::from));
    whole.or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(text: &str) -> String {
        parse("f.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn items_of_a_list_of_one_kind_need_not_say_it() {
        let text = r#"{"kind": "ServiceList", "apiVersion": "v1", "items": [{"metadata": {"name": "a"}}, {"kind": "Pod"}, 5]}"#;
        let values: Vec<Value> = parse("f.json", text).unwrap().into_iter().map(|document| document.value).collect();
        let whole = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a"}});
        assert_eq!(values, [whole, json!({"kind": "Pod", "apiVersion": "v1"}), json!(5)]);
        let bare = parse("f.yaml", "kind: List\napiVersion: v1\nitems: [{metadata: {name: a}}]\n").unwrap();
        assert_eq!(bare[0].value, json!({"metadata": {"name": "a"}}));
    }

    #[test]
    fn documents_remember_their_lines() {
        let text = "# a comment\nkind: Service\nmetadata:\n  name: a\nspec:\n  ports:\n  - port: 80\n    name: x\n---\n---\nkind: Pod\n";
        let documents = parse("f.yaml", text).unwrap();
        assert_eq!(documents.len(), 2);
        let lines =
            ["kind", "metadata.name", "spec.ports[0].name", "spec.ports[0].nodePort", "spec.type", "apiVersion"];
        assert_eq!(lines.map(|field| documents[0].line_of(field)), [2, 4, 8, 7, 5, 2]);
        assert_eq!(documents[1].line_of("kind"), 11);
        let one = &parse("f.yaml", "spec:\n  type: ClusterIP\n  clusterIP: x\n").unwrap()[0];
        assert_eq!(["spec.clusterIPs", "spec.clusterIPs[0]"].map(|field| one.line_of(field)), [3, 3]);
        let fault = Fault::required("spec.ports[0].port", "");
        assert_eq!(documents[0].tell(&fault), "f.yaml:7: spec.ports[0].port: Required value");
    }

    #[test]
    fn lists_are_taken_apart() {
        let text = "kind: List\napiVersion: v1\nitems:\n- kind: Pod\n  metadata: {name: a}\n- kind: Service\n  metadata:\n    name: b\n";
        let documents = parse("f.yaml", text).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[1].value, json!({"kind": "Service", "metadata": {"name": "b"}}));
        assert_eq!(documents[1].line_of("metadata.name"), 8);
        assert_eq!(documents[1].line_of("spec"), 6);
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let text = "[null, ~, true, no, 1, -2, 0x1f, 0o17, 1.5, 1e3, '1', !!str 5, 10.0.0.1, 1_000, .inf, 18446744073709551615]";
        let value = &parse("f", text).unwrap()[0].value;
        let expected = json!([
            null,
            null,
            true,
            "no",
            1,
            -2,
            31,
            15,
            1.5,
            1000.0,
            "1",
            "5",
            "10.0.0.1",
            "1_000",
            ".inf",
            18446744073709551615u64
        ]);
        assert_eq!(*value, expected);
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        let text = "base: &b {x: 1, y: 2}\none: *b\ntwo:\n  <<: *b\n  y: 3\n";
        let value = &parse("f", text).unwrap()[0].value;
        assert_eq!(*value, json!({"base": {"x": 1, "y": 2}, "one": {"x": 1, "y": 2}, "two": {"x": 1, "y": 3}}));
    }

    #[test]
    fn json_is_read_too_even_where_yaml_could_not() {
        let value = &parse("f.json", "{\"a\":\t[1,\n\t\"\\ud83d\\ude00\"]}").unwrap()[0].value;
        assert_eq!(*value, json!({"a": [1, "😀"]}));
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        assert_eq!(error("a: 1\nb: 2\na: 3\n"), "f.yaml:3: duplicate key \"a\", first used on line 1");
        assert_eq!(error("a: 1\n? [x]\n: 2\n"), "f.yaml:2: expected a name as key");
        assert_eq!(error("a:\n  <<: 5\n"), "f.yaml:2: expected a mapping, or a list of mappings, after the merge key");
        assert!(error("{\"a\": 1, \"a\": 2}").contains("duplicate key"));
        assert!(error("a: [1, 2\n").starts_with("f.yaml:1: "));
        assert!(error("a: b: c\n").starts_with("f.yaml:1: "));
        assert!(error(&format!("{}1{}", "[".repeat(100), "]".repeat(100))).contains("nested deeper than 64 levels"));
        assert!(error("a: &a [*a]\n").contains("alias"));
    }

    #[test]
    fn json_that_is_no_yaml_has_its_lines_too() {
        let text = "\n{\n\t\"kind\": \"\\ud83d\\ude00\", \"list\":\n\t[\n\t\t1,\n\t\t{\"a\\\"b\": null}, []],\n\t\"end\": -1.5e3\n}\n";
        let document = &parse("f.json", text).unwrap()[0];
        assert_eq!(document.value["list"][1]["a\"b"], Value::Null);
        let fields = ["", "kind", "list", "list[0]", "list[1].a\"b", "list[2]", "end"];
        assert_eq!(fields.map(|field| document.line_of(field)), [2, 3, 3, 5, 6, 6, 7]);
        let twice = "{\"a\": \"\\ud83d\\ude00\",\n\t\"b\": {\"c\": 1},\n\t\"a\": 2}";
        assert_eq!(error(twice), "f.yaml:3: duplicate key \"a\", first used on line 1");
    }

    #[test]
    fn what_follows_a_broken_document_is_read() {
        let text = "kind: A\n---\na: [b\n---\nkind: B\n---\nx: 1\nx: 2\n---\n  kind: C\n";
        let Read { documents, errors } = parse_all("f.yaml", text);
        let found: Vec<_> = documents.iter().map(|d| (d.value["kind"].as_str().unwrap(), d.line_of("kind"))).collect();
        assert_eq!(found, [("A", 1), ("B", 5), ("C", 10)]);
        let lines: Vec<_> = errors.iter().map(ManifestError::line).collect();
        assert!(lines.len() == 2 && (3..=4).contains(&lines[0]) && lines[1] == 8, "{errors:?}");
        let broken = "a: b: c\n---\n".repeat(1000);
        assert_eq!(parse_all("f.yaml", &broken).errors.len(), MAX_ERRORS);
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let list = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(error(&text).contains("expands to more than"), "{}", error(&text));
    }

    #[test]
    fn a_directory_is_read_in_the_order_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("b.yml", "kind: B"), ("a.yaml", "kind: A"), ("c.json", "{\"kind\": \"C\"}"), ("d.txt", "kind: D")]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let documents = read(dir.path()).unwrap();
        let kinds: Vec<&str> = documents.iter().filter_map(|d| d.value["kind"].as_str()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert!(read(&dir.path().join("none.yaml")).unwrap_err().to_string().contains("none.yaml: cannot be read"));
        let empty = tempfile::tempdir().unwrap();
        assert!(read(empty.path()).unwrap_err().to_string().contains("no objects found"));
    }

    #[test]
    fn any_text_is_an_answer() {
        for text in [
            "",
            "\0",
            "---\n...\n---",
            "%YAML 9\n",
            "\t",
            "- - -",
            "{",
            "}",
            "&a",
            "*a",
            "!!x y",
            "|",
            "? ?",
            "a: |\n b\n c",
        ] {
            let _ = parse("f", text);
        }
    }
}

//! YAML and JSON text to values that remember their lines.
//!
//! A fault that says only `spec.ports[0].port` sends the reader of a thousand-line file searching. So the text is parsed
//! into events with positions and composed here, and every field keeps the line of its key. `serde` alone would give a line
//! for a syntax error or a wrong type, and none for a port that is taken.
//!
//! Accepted: several documents, anchors, merge keys, plain JSON. Bounded: nesting and the size of what aliases expand to,
//! so that a few lines of YAML cannot fill the memory; for the API also what is built of a text of some length (`documents`). A key given twice is an error: one of the two would be lost.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde::de::IgnoredAny;
use serde_json::{Map, Number, Value};

use crate::objects::allowance::{Allowance, Growth, TooMuch, take_entry};
use crate::objects::{Unread, decode};

/// Deepest nesting; a Pod needs about a dozen levels.
const MAX_DEPTH: usize = 64;
/// Most values in one text, aliases expanded.
const MAX_VALUES: usize = 4_000_000;
/// Documents of one text that cannot be read, after which the rest is not looked at.
const MAX_ERRORS: usize = 20;

/// One document.
#[derive(Clone, Debug)]
pub struct Tree {
    /// What it says.
    pub value: Value,
    /// The line it begins on, from 1.
    pub line: usize,
    /// The line of each field by its path, such as `spec.ports[0].port`: that of the key, or of the item of a list.
    pub lines: BTreeMap<String, usize>,
}

/// What could be read of a text, and what could not.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Every document that is YAML or JSON.
    pub trees: Vec<Tree>,
    /// Every place where it is neither.
    pub errors: Vec<YamlError>,
}

/// A place that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
    /// Not YAML at all, as opposed to YAML that is not accepted.
    syntax: bool,
    /// It takes too much memory.
    pub(crate) too_much: Option<TooMuch>,
}

impl YamlError {
    fn new(line: usize, message: &str) -> YamlError {
        YamlError { line, message: message.to_owned(), syntax: false, too_much: None }
    }

    fn too_much(line: usize, too_much: TooMuch) -> YamlError {
        YamlError { too_much: Some(too_much), ..YamlError::new(line, &too_much.to_string()) }
    }
}

/// The path of a field in the mapping at `path`.
pub fn field_path(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The documents of a text, and what is no document. After one that cannot be read the next is looked for.
pub fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let (mut from, mut values) = (0, 0);
    loop {
        // As many empty lines as were left out, for the numbers of those that follow.
        let rest = "\n".repeat(from) + &text.lines().skip(from).collect::<Vec<_>>().join("\n");
        let allowance = Allowance::unlimited();
        let mut composer = Composer::new(if from == 0 { text } else { &rest }, values, &allowance, true);
        let error = composer.documents(&mut |tree| parsed.trees.push(tree)).err();
        let Some(mut error) = error else { break };
        // What is missing at the end is reported on the line after it.
        error.line = error.line.min(text.lines().count().max(1));
        values = composer.values;
        let may_be_json = error.syntax && from == 0 && parsed.trees.is_empty();
        if may_be_json && is_json(text) {
            let text = json_as_yaml(text);
            let mut composer = Composer::new(&text, 0, &allowance, true);
            parsed.errors.extend(composer.documents(&mut |tree| parsed.trees.push(tree)).err());
            break;
        }
        // The line of the fault may be that of the next document's marker.
        let at = error.line.saturating_sub(1).max(from + 1);
        parsed.errors.push(error);
        let next = text.lines().enumerate().skip(at).find(|(_, line)| line.starts_with("---"));
        match next {
            Some((index, _)) if parsed.errors.len() < MAX_ERRORS => from = index,
            _ => break,
        }
    }
    parsed
}

/// Hands over the documents of a text one by one, without their lines, within an allowance.
///
/// JSON is read as JSON. The parser of YAML keeps the tokens of a list or mapping in brackets until its end, for it might be a
/// key; so these are counted first.
///
/// # Errors
/// The first place that cannot be read. The documents before it were handed over.
pub(crate) fn documents(text: &str, allowance: &Allowance, each: &mut dyn FnMut(Value)) -> Result<(), YamlError> {
    if text.trim_start().starts_with(['{', '[']) {
        match decode::value(text.as_bytes(), allowance) {
            Ok((value, repeated)) => {
                return match repeated.first() {
                    None => {
                        each(value);
                        Ok(())
                    }
                    Some(path) => Err(YamlError::new(1, &format!("duplicate key {path:?}"))),
                };
            }
            Err(Unread::TooMuch(too_much)) => return Err(YamlError::too_much(1, too_much)),
            Err(Unread::NotJson(_)) => {}
        }
    }
    let tokens = flow_tokens(text) * TOKEN;
    allowance.take(tokens).map_err(|too_much| YamlError::too_much(1, too_much))?;
    let read = Composer::new(text, 0, allowance, false).documents(&mut |tree| each(tree.value));
    allowance.give_back(tokens);
    read
}

/// Memory of a token that waits, in a queue that grows.
const TOKEN: usize = 256;

/// Most tokens of one list or mapping in brackets. Brackets in texts are counted too.
fn flow_tokens(text: &str) -> usize {
    let (mut depth, mut tokens, mut most) = (0usize, 0, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                tokens += 2;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth > 0 => tokens += 2,
            b':' if depth > 0 => tokens += 3,
            _ => {}
        }
        most = most.max(tokens);
        if depth == 0 {
            tokens = 0;
        }
    }
    most
}

/// Whether a text that is no YAML is JSON: with tabs, or with characters that are written as two escapes.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The same JSON, line by line, as YAML reads it.
fn json_as_yaml(text: &str) -> String {
    let mut yaml = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('"') {
        let (between, from_quote) = rest.split_at(start);
        yaml += &between.replace('\t', " ");
        let (quoted, after) = from_quote.split_at(end_of_string(from_quote));
        yaml += &serde_json::from_str::<Value>(quoted).unwrap_or_default().to_string();
        rest = after;
        // A colon stands on the line of its key.
        let blank = &after[..after.len() - after.trim_start().len()];
        if let Some(value) = after[blank.len()..].strip_prefix(':') {
            yaml += ":";
            yaml += &blank.replace('\t', " ");
            rest = value;
        }
    }
    yaml + &rest.replace('\t', " ")
}

/// The length of the string that begins with the first byte, quotes included.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    let mut ends = text.char_indices().skip(1).filter(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    ends.next().map_or(text.len(), |(quote, _)| quote + 1)
}

/// Builds values from the parser's events.
struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Anchor>,
    lines: BTreeMap<String, usize>,
    /// Whether the lines are asked for.
    with_lines: bool,
    values: usize,
    allowance: &'a Allowance,
}

/// What an alias refers to.
#[derive(Clone)]
struct Anchor {
    value: Value,
    /// Values in it, and their memory.
    values: usize,
    bytes: usize,
}

impl<'a> Composer<'a> {
    /// `values`: how many of the same text were there before.
    fn new(text: &'a str, values: usize, allowance: &'a Allowance, with_lines: bool) -> Composer<'a> {
        let parser = Parser::new_from_str(text);
        Composer { parser, anchors: BTreeMap::new(), lines: BTreeMap::new(), with_lines, values, allowance }
    }

    /// Hands over the documents up to the end, or to the first that cannot be read.
    fn documents(&mut self, each: &mut dyn FnMut(Tree)) -> Result<(), YamlError> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), _) => each(self.document()?),
                _ => {}
            }
        }
    }

    fn document(&mut self) -> Result<Tree, YamlError> {
        self.anchors.clear();
        let (event, span) = self.next()?;
        let line = span.start.line();
        let value = self.value(event, span, "", 0)?;
        Ok(Tree { value, line, lines: std::mem::take(&mut self.lines) })
    }

    fn take(&self, bytes: usize, line: usize) -> Result<(), YamlError> {
        self.allowance.take(bytes).map_err(|too_much| YamlError::too_much(line, too_much))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(YamlError { syntax: true, ..YamlError::new(error.marker().line(), error.info()) }),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn value(&mut self, event: Event<'a>, span: Span, path: &str, depth: usize) -> Result<Value, YamlError> {
        let line = span.start.line();
        if depth > MAX_DEPTH {
            return Err(YamlError::new(line, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let (before, bytes) = (self.values, self.allowance.taken());
        self.count(1, line)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.is_some_and(|tag| tag.suffix == "str");
                let plain = style == ScalarStyle::Plain && !text_tag;
                self.take(text.len(), line)?;
                (if plain { plain_scalar(&text) } else { Value::String(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.sequence(path, depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(path, depth)?, anchor),
            Event::Alias(anchor) => {
                let Some((values, bytes)) = self.anchors.get(&anchor).map(|anchor| (anchor.values, anchor.bytes))
                else {
                    return Err(YamlError::new(line, "alias inside the value that it refers to"));
                };
                self.count(values, line)?;
                self.take(bytes, line)?;
                return Ok(self.anchors.get(&anchor).map(|anchor| anchor.value.clone()).unwrap_or_default());
            }
            other => return Err(YamlError::new(line, &format!("expected a value, found {other:?}"))),
        };
        if anchor != 0 {
            let bytes = self.allowance.taken().saturating_sub(bytes);
            self.take(bytes, line)?;
            self.anchors.insert(anchor, Anchor { value: value.clone(), values: self.values - before, bytes });
        }
        Ok(value)
    }

    fn sequence(&mut self, path: &str, depth: usize) -> Result<Value, YamlError> {
        let (mut items, mut growth) = (Vec::new(), Growth::default());
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            let line = span.start.line();
            growth.push(size_of::<Value>(), self.allowance).map_err(|too_much| YamlError::too_much(line, too_much))?;
            let path = if self.with_lines { format!("{path}[{}]", items.len()) } else { String::new() };
            self.note_line(&path, line);
            items.push(self.value(event, span, &path, depth + 1)?);
        }
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Value, YamlError> {
        let mut fields = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let (key, plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(key, style, ..) => (key.into_owned(), style == ScalarStyle::Plain),
                _ => return Err(YamlError::new(line, "expected a name as key")),
            };
            let field = if self.with_lines { field_path(path, &key) } else { String::new() };
            let (event, span) = self.next()?;
            if plain && key == "<<" {
                merged.push((line, self.value(event, span, &field, depth + 1)?));
                continue;
            }
            if fields.contains_key(&key) {
                let first = self.lines.get(&field).map(|first| format!(", first used on line {first}"));
                return Err(YamlError::new(line, &format!("duplicate key {key:?}{}", first.unwrap_or_default())));
            }
            self.note_line(&field, line);
            self.take(key.len(), line)?;
            take_entry(fields.len(), size_of::<(String, Value)>(), self.allowance)
                .map_err(|too_much| YamlError::too_much(line, too_much))?;
            let value = self.value(event, span, &field, depth + 1)?;
            fields.insert(key, value);
        }
        for (line, value) in merged {
            merge(&mut fields, value, line)?;
        }
        Ok(Value::Object(fields))
    }

    fn note_line(&mut self, path: &str, line: usize) {
        if self.with_lines {
            self.lines.insert(path.to_owned(), line);
        }
    }

    fn count(&mut self, values: usize, line: usize) -> Result<(), YamlError> {
        self.values = self.values.saturating_add(values);
        match self.values > MAX_VALUES {
            true => Err(YamlError::new(line, &format!("expands to more than {MAX_VALUES} values"))),
            false => Ok(()),
        }
    }
}

/// A merge key: fields of one mapping, or of several in a list, where the mapping itself says nothing.
fn merge(fields: &mut Map<String, Value>, value: Value, line: usize) -> Result<(), YamlError> {
    match value {
        Value::Object(others) => {
            for (key, value) in others {
                fields.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(items) => items.into_iter().try_for_each(|item| merge(fields, item, line)),
        _ => Err(YamlError::new(line, "expected a mapping, or a list of mappings, after the merge key")),
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

    fn tree(text: &str) -> Tree {
        let Parsed { mut trees, errors } = parse(text);
        assert_eq!(errors, []);
        trees.remove(0)
    }

    /// The first error, as `LINE: MESSAGE`.
    fn error(text: &str) -> String {
        let error = &parse(text).errors[0];
        format!("{}: {}", error.line, error.message)
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let text = "[null, ~, true, no, 1, -2, 0x1f, 0o17, 1.5, 1e3, '1', !!str 5, 10.0.0.1, 1_000, .inf, 18446744073709551615]";
        let value = &tree(text).value;
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
        let value = &tree(text).value;
        assert_eq!(*value, json!({"base": {"x": 1, "y": 2}, "one": {"x": 1, "y": 2}, "two": {"x": 1, "y": 3}}));
    }

    #[test]
    fn json_is_read_too_even_where_yaml_could_not() {
        let value = &tree("{\"a\":\t[1,\n\t\"\\ud83d\\ude00\"]}").value;
        assert_eq!(*value, json!({"a": [1, "😀"]}));
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        assert_eq!(error("a: 1\nb: 2\na: 3\n"), "3: duplicate key \"a\", first used on line 1");
        assert_eq!(error("a: 1\n? [x]\n: 2\n"), "2: expected a name as key");
        assert_eq!(error("a:\n  <<: 5\n"), "2: expected a mapping, or a list of mappings, after the merge key");
        assert!(error("{\"a\": 1, \"a\": 2}").contains("duplicate key"));
        assert!(error("a: [1, 2\n").starts_with("1: "));
        assert!(error("a: b: c\n").starts_with("1: "));
        assert!(error(&format!("{}1{}", "[".repeat(100), "]".repeat(100))).contains("nested deeper than 64 levels"));
        assert!(error("a: &a [*a]\n").contains("alias"));
    }

    #[test]
    fn json_that_is_no_yaml_has_its_lines_too() {
        let text = "\n{\n\t\"kind\": \"\\ud83d\\ude00\", \"list\":\n\t[\n\t\t1,\n\t\t{\"a\\\"b\": null}, []],\n\t\"end\": -1.5e3\n}\n";
        let tree = tree(text);
        assert_eq!(tree.value["list"][1]["a\"b"], Value::Null);
        let fields = ["kind", "list", "list[0]", "list[1].a\"b", "list[2]", "end"];
        assert_eq!((tree.line, fields.map(|field| tree.lines[field])), (2, [3, 3, 5, 6, 6, 7]));
        let tree = self::tree("{\"a\\\\\"\t\n:\t\"\\u0000\\ud83d\\ude00\\\"\",\n\"b\": [\"\", {}]}");
        assert_eq!((&tree.value, tree.lines["b"]), (&json!({"a\\": "\0😀\"", "b": ["", {}]}), 3));
        let twice = "{\"a\": \"\\ud83d\\ude00\",\n\t\"b\": {\"c\": 1},\n\t\"a\": 2}";
        assert_eq!(error(twice), "3: duplicate key \"a\", first used on line 1");
    }

    #[test]
    fn what_follows_a_broken_document_is_read() {
        let text = "kind: A\n---\na: [b\n---\nkind: B\n---\nx: 1\nx: 2\n---\n  kind: C\n";
        let Parsed { trees, errors } = parse(text);
        let found: Vec<_> =
            trees.iter().map(|tree| (tree.value["kind"].as_str().unwrap(), tree.lines["kind"])).collect();
        assert_eq!(found, [("A", 1), ("B", 5), ("C", 10)]);
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert!(lines.len() == 2 && (3..=4).contains(&lines[0]) && lines[1] == 8, "{errors:?}");
        let broken = "a: b: c\n---\n".repeat(1000);
        assert_eq!(parse(&broken).errors.len(), MAX_ERRORS);
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
    fn the_tokens_that_wait_are_those_of_the_longest_brackets() {
        assert_eq!(flow_tokens("a: b, c\nd:\n- e\n"), 0);
        assert_eq!(flow_tokens("a: [b, c]\nd: {e: f}\n"), 5);
        assert_eq!(flow_tokens("a: [b, [c], {d: 5}, x]"), 2 + 2 + 2 + 2 + 2 + 3 + 2);
        let open = "[".repeat(100);
        assert_eq!((flow_tokens(&open), flow_tokens("}]}")), (200, 0));
    }

    #[test]
    fn what_an_allowance_has_no_room_for_is_not_built() {
        let read = |text: &str| {
            let mut values = Vec::new();
            documents(text, &Allowance::of_text(text.len()), &mut |value| values.push(value)).map(|()| values)
        };
        assert_eq!(read("a: 1\n---\n- b\n"), Ok(vec![json!({"a": 1}), json!(["b"])]));
        assert_eq!(read("{\"a\":\t[1]}"), Ok(vec![json!({"a": [1]})]), "JSON with a tab");
        assert_eq!(read("{a: [1]}"), Ok(vec![json!({"a": [1]})]), "brackets that are no JSON");
        assert!(read("{\"a\": 1, \"a\": 2}").unwrap_err().message.contains("duplicate key"));
        for dense in [
            "- a: {}\n".repeat(100_000),
            format!("[{}]", "0,".repeat(1_000_000)),
            format!("{{a: [{}]}}", "0,".repeat(1_000_000)),
        ] {
            assert!(read(&dense).unwrap_err().too_much.is_some());
        }
        let large = "x".repeat(1000);
        let alias = format!("a: &a [{large}]\nb: [{}]\n", "*a,".repeat(10_000));
        assert!(read(&alias).unwrap_err().too_much.is_some());
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
            let _ = parse(text);
        }
    }
}

//! Manifests: text or files to documents that remember where they stand.
//!
//! What is accepted is what kubectl accepts: everything [`crate::yaml`] reads, `kind: List` and `kind: <Kind>List`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::objects::fault::Fault;
use crate::yaml::{self, Tree, YamlError};

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
        // Two paths of the API server are not those of the fields.
        let corrected = field
            .strip_prefix("metadata.taints")
            .map(|rest| format!("spec.taints{rest}"))
            .or_else(|| field.strip_prefix("spec.LoadBalancer").map(|rest| format!("spec.loadBalancer{rest}")));
        let mut field = corrected.as_deref().unwrap_or(field);
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
        if !is_list(&self.value) {
            return vec![self];
        }
        let Document { value, source, line, lines } = self;
        let documents = items(value).into_iter().enumerate().map(|(index, value)| {
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

fn is_list(value: &Value) -> bool {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    kind.ends_with("List") && value.get("items").is_some_and(Value::is_array)
}

/// The items of a list, or the object itself, without their lines.
pub(crate) fn items(mut value: Value) -> Vec<Value> {
    if !is_list(&value) {
        return vec![value];
    }
    let Some(Value::Array(mut items)) = value.get_mut("items").map(Value::take) else {
        return Vec::new();
    };
    let header = header_of_items(&value);
    items.iter_mut().for_each(|item| inherit_kind(item, &header));
    items
}

/// What the items of a `ServiceList` may leave out, as in an API server's response: version and kind.
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
    let yaml::Parsed { trees, errors } = yaml::parse(text);
    let source: Arc<str> = source.into();
    let document = |Tree { value, line, lines }| Document { value, source: source.clone(), line, lines };
    let documents = trees.into_iter().map(document).flat_map(Document::items);
    let error =
        |YamlError { line, message, .. }| ManifestError { source_name: source.to_string(), line: Some(line), message };
    Read {
        documents: documents.filter(|document| !document.value.is_null()).collect(),
        errors: errors.into_iter().map(error).collect(),
    }
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
    ManifestError { source_name: path.display().to_string(), line: None, message }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
}

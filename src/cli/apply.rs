//! `pollgate apply`, `create` and `delete`: sends manifests to the gateway, and prints the result for each object.
//!
//! ```text
//! files ──▶ documents with lines ──▶ shape checked here ──▶ one List ──▶ gateway: all or nothing
//!                                     │ FILE:LINE: FIELD: what              │ items[i].FIELD: what
//!                                     └──────────── exit 1 ◀────────────────┘ (each with FILE:LINE)
//! ```
//!
//! All errors that can be found without the gateway are reported before anything is sent. Errors that only the gateway can
//! find (addresses in use, immutable fields) come back with the index of the object and are reported at the line to edit.
//! Unlike with kubectl, an apply of many files is one transaction: all objects are served or none.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use pollgate_control::api::APPLY_PATH;
use pollgate_control::explain::warnings::Warning;
use pollgate_control::objects::manifest::{self, Document, Read as Manifest};
use pollgate_control::objects::{Key, Object};
use pollgate_control::sources::files::Diagnostic;
use serde::Deserialize;
use serde_json::{Value, json};

use super::args::{ApplyArgs, CreateArgs, DeleteArgs, DryRun, Manifests};
use super::client::{Cause, Client, ClientError, Status, escaped};
use super::names;
use crate::failure::Failure;
use crate::terminal;

/// The namespace of objects that do not specify one.
const DEFAULT_NAMESPACE: &str = "default";

/// The gateway's response to an apply.
#[derive(Debug, Deserialize)]
struct ApplyResult {
    items: Vec<Applied>,
}

/// The result for one object.
#[derive(Debug, Deserialize)]
struct Applied {
    result: String,
    #[serde(default)]
    warnings: Vec<Warning>,
}

/// A document and the object it describes.
struct Item {
    document: Document,
    key: Key,
}

/// `pollgate apply`
///
/// # Errors
/// Every fault of the manifests as `FILE:LINE: FIELD: what`, or why the gateway refused or could not be reached.
/// Nothing was changed then.
pub fn apply(args: &ApplyArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Manifests { files, namespace, dry_run } = &args.manifests;
    let items = load(files, namespace.as_deref())?;
    let values: Vec<&Value> = items.iter().map(|item| &item.document.value).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": values});
    let mut path = format!("{APPLY_PATH}?namespace={}", escaped(namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)));
    path.push_str(dry_run.parameter("&"));
    let answer = Client::new(&args.connection.socket)?.post(&path, &list).map_err(|error| located(error, &items))?;
    let results: ApplyResult = serde_json::from_value(answer)
        .map_err(|error| Failure::refused(format!("error: unexpected response from the gateway: {error}")))?;
    for (item, applied) in items.iter().zip(&results.items) {
        writeln!(out, "{} {}{}", named(&item.key), applied.result, dry_run.suffix())?;
        for Warning { field, message } in &applied.warnings {
            let warning = Diagnostic::new(&item.document, field, message).warning();
            // Nothing can be done if stderr is closed.
            drop(writeln!(terminal::stderr(), "{warning}"));
        }
    }
    Ok(())
}

/// `pollgate create`
///
/// # Errors
/// As [`apply`]. But objects are created one by one, and those before a refused one stay, as with kubectl.
pub fn create(args: &CreateArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Manifests { files, namespace, dry_run } = &args.manifests;
    let items = load(files, namespace.as_deref())?;
    let client = Client::new(&args.connection.socket)?;
    for_each(&items, |item| {
        let path = names::collection(item.key.kind, Some(&item.key.namespace)) + dry_run.parameter("?");
        client.post(&path, &item.document.value).map_err(|error| located(error, std::slice::from_ref(item)))?;
        Ok(writeln!(out, "{} created{}", named(&item.key), dry_run.suffix())?)
    })
}

/// `pollgate delete`
///
/// # Errors
/// If an object does not exist (unless `--ignore-not-found`) or cannot be deleted. The others are deleted.
pub fn delete(args: &DeleteArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let keys = if args.files.is_empty() { typed_keys(args)? } else { manifest_keys(args)? };
    let client = Client::new(&args.connection.socket)?;
    for_each(&keys, |key| match client.delete(&names::object(key)) {
        Ok(_) => Ok(writeln!(out, "{}", deleted(key))?),
        Err(ClientError::Refused(status)) if args.ignore_not_found && status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    })
}

/// Runs `each` for all, and returns all refusals together. Any other failure would affect the rest too, and ends it.
fn for_each<T>(items: &[T], mut act: impl FnMut(&T) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut refused = Vec::new();
    for item in items {
        match act(item) {
            Ok(()) => {}
            Err(Failure::Refused(text)) => refused.push(text),
            Err(other) if refused.is_empty() => return Err(other),
            Err(other) => {
                refused.push(other.to_string());
                break;
            }
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(Failure::Refused(refused.join("\n"))) }
}

impl DryRun {
    fn parameter(self, separator: &'static str) -> &'static str {
        match (self, separator) {
            (Self::None, _) => "",
            (Self::Server, "?") => "?dryRun=All",
            (Self::Server, _) => "&dryRun=All",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Server => " (server dry run)",
        }
    }
}

/// `service/web`, as kubectl names what it changed.
fn named(key: &Key) -> String {
    format!("{}/{}", names::qualified(key.kind), key.name)
}

fn deleted(key: &Key) -> String {
    let kind = names::qualified(key.kind);
    match key.namespace.as_str() {
        "" => format!("{kind} \"{}\" deleted", key.name),
        namespace => format!("{kind} \"{}\" deleted from {namespace} namespace", key.name),
    }
}

fn typed_keys(args: &DeleteArgs) -> Result<Vec<Key>, Failure> {
    let namespace = args.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let mut keys = Vec::new();
    for selection in names::selections(&args.objects)? {
        let kind = selection.kind;
        if selection.names.is_empty() {
            return Err(Failure::usage(format!("which {}? specify their names", kind.plural())));
        }
        keys.extend(selection.names.into_iter().map(|name| Key::new(kind, namespace, name)));
    }
    Ok(keys)
}

fn manifest_keys(args: &DeleteArgs) -> Result<Vec<Key>, Failure> {
    Ok(load(&args.files, args.namespace.as_deref())?.into_iter().map(|item| item.key).collect())
}

/// Reads manifests and checks their shape; returns all faults of all of them.
fn load(files: &[PathBuf], namespace: Option<&str>) -> Result<Vec<Item>, Failure> {
    let Manifest { documents, errors } = read_all(files);
    let mut faults: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let mut items = Vec::new();
    for document in documents {
        match checked(&document, namespace) {
            Ok(key) => items.push(Item { document, key }),
            Err(told) => faults.extend(told),
        }
    }
    if !faults.is_empty() {
        return Err(Failure::Refused(faults.join("\n")));
    }
    if items.is_empty() {
        let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        return Err(Failure::refused(format!("error: no objects in {}", files.join(", "))));
    }
    Ok(items)
}

/// The documents of all files, directories and stdin (`-`), and the errors where there is none.
pub(super) fn read_all(files: &[PathBuf]) -> Manifest {
    let mut all = Manifest::default();
    for file in files {
        let Manifest { documents, errors } =
            if file == Path::new("-") { read_stdin() } else { manifest::read_all(file) };
        all.documents.extend(documents);
        all.errors.extend(errors);
    }
    all
}

fn read_stdin() -> Manifest {
    let mut text = String::new();
    match std::io::stdin().read_to_string(&mut text) {
        Ok(_) => manifest::parse_all("stdin", &text),
        Err(error) => {
            Manifest { documents: Vec::new(), errors: vec![manifest::unreadable(Path::new("stdin"), &error)] }
        }
    }
}

fn checked(document: &Document, namespace: Option<&str>) -> Result<Key, Vec<String>> {
    let object = Object::from_value(&document.value, namespace.unwrap_or(DEFAULT_NAMESPACE))
        .map_err(|faults| faults.iter().map(|fault| document.tell(fault)).collect::<Vec<_>>())?;
    let key = object.key();
    match namespace {
        Some(namespace) if key.kind.namespaced() && key.namespace != namespace => {
            let field = "metadata.namespace";
            let text = format!("the object's namespace is {:?}, but --namespace is {namespace:?}", key.namespace);
            Err(vec![line(document, field, &text)])
        }
        _ => Ok(key),
    }
}

/// `FILE:LINE: FIELD: message`
fn line(document: &Document, field: &str, message: &str) -> String {
    let place = format!("{}:{}", document.source(), document.line_of(field));
    if field.is_empty() { format!("{place}: {message}") } else { format!("{place}: {field}: {message}") }
}

/// A refusal with every cause at its line; causes that name no item stay as the gateway sent them.
fn located(error: ClientError, items: &[Item]) -> Failure {
    let ClientError::Refused(status) = error else {
        return error.into();
    };
    let told: Option<Vec<_>> = status.details.causes.iter().map(|cause| located_cause(cause, items)).collect();
    match told {
        Some(lines) if !lines.is_empty() => Failure::Refused(lines.join("\n")),
        _ => unlocated(status, items),
    }
}

/// A refusal without causes of fields (for example: already exists). If there is one object, its line is known.
fn unlocated(status: Status, items: &[Item]) -> Failure {
    match (items, Failure::from(ClientError::Refused(status))) {
        ([item], Failure::Refused(text)) => {
            let document = &item.document;
            Failure::refused(format!("{}:{}: {text}", document.source(), document.line_of("")))
        }
        (_, failure) => failure,
    }
}

fn located_cause(cause: &Cause, items: &[Item]) -> Option<String> {
    let (index, field) = split_item(&cause.field).unwrap_or((0, cause.field.as_str()));
    let known = items.len() == 1 || split_item(&cause.field).is_some();
    let item = items.get(index).filter(|_| known)?;
    Some(line(&item.document, field, &cause.message))
}

/// `items[3].spec.ports` is field `spec.ports` of item 3.
fn split_item(field: &str) -> Option<(usize, &str)> {
    let (index, rest) = field.strip_prefix("items[")?.split_once(']')?;
    Some((index.parse().ok()?, rest.strip_prefix('.').unwrap_or(rest)))
}

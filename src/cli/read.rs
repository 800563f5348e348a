//! `pollgate get`, `describe` and `explain`: what the gateway has, printed as kubectl prints it.
//!
//! The gateway sends objects; the printers that also make its Tables for kubectl print them here.

use std::io::Write;

use jiff::{Timestamp, Zoned};
use pollgate_control::explain::Explanation;
use pollgate_control::objects::{Key, Kind, Object, SERVICE_NAME_LABEL};
use pollgate_control::printers::{self, Table};
use serde_json::{Value, json};

use super::args::{ExplainArgs, Format, GetArgs, NamedArgs};
use super::client::{Client, ClientError, escaped};
use super::names::{self, Selection};
use super::watch;
use crate::failure::Failure;
use crate::output::{Machine, items, name_of, object, objects, strange, yaml};
use crate::terminal;

/// The annotation with the uid that a kubelet knows a static Pod by.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What was found of one kind, and the refusals for what was not.
struct Found {
    kind: Kind,
    objects: Vec<Value>,
    refused: Vec<String>,
}

/// `pollgate get`
///
/// # Errors
/// If a named object does not exist (those that do are printed first) or the gateway cannot be reached.
pub fn get(args: &GetArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let selections = merged(names::selections(&args.objects)?);
    check_usage(args, &selections)?;
    if args.watch {
        return watch::watch(args, &selections, out);
    }
    let client = Client::new(&args.connection.socket)?;
    let fetch = |selection| fetch(&client, args, selection);
    let found: Vec<Found> = selections.iter().map(fetch).collect::<Result<_, _>>()?;
    match args.output {
        None | Some(Format::Wide) => tables(args, &found, out)?,
        Some(Format::Name) => names_only(&found, out)?,
        Some(Format::Json) => writeln!(out, "{:#}", together(args, found.iter()))?,
        Some(Format::Yaml) => write!(out, "{}", yaml(&together(args, found.iter()))?)?,
    }
    refusals(found.into_iter().flat_map(|found| found.refused))
}

/// `pollgate describe`
///
/// # Errors
/// As [`get`].
pub fn describe(args: &NamedArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let selections = names::selections(&args.objects)?;
    let client = Client::new(&args.connection.socket)?;
    let mut keys = Vec::new();
    for Selection { kind, names } in selections {
        let names = names_or_all(&client, kind, &args.namespace, names)?;
        keys.extend(names.into_iter().map(|name| Key::new(kind, args.namespace.as_str(), name)));
    }
    let (mut refused, mut separator) = (Vec::new(), "");
    for key in &keys {
        // As kubectl does: it does not request the Events of every object of a list.
        match description(&client, key, keys.len() == 1) {
            Ok(text) => write!(out, "{separator}{text}")?,
            Err(Failure::Refused(text)) => refused.push(text),
            Err(other) => return Err(other),
        }
        separator = "\n\n";
    }
    refusals(refused)
}

fn names_or_all(client: &Client, kind: Kind, namespace: &str, names: Vec<String>) -> Result<Vec<String>, Failure> {
    if !names.is_empty() {
        return Ok(names);
    }
    Ok(list(client, kind, Some(namespace), "")?.iter().map(|object| name_of(object).to_owned()).collect())
}

fn description(client: &Client, key: &Key, with_events: bool) -> Result<String, Failure> {
    let object = object(&client.get(&names::object(key))?, key.kind)?;
    let slices = match key.kind {
        Kind::Service => objects(&slices_of(client, &key.namespace, &key.name)?, Kind::EndpointSlice)?,
        _ => Vec::new(),
    };
    let events = match with_events && !matches!(key.kind, Kind::Namespace | Kind::Secret) {
        true => Some(events_about(client, &object)?),
        false => None,
    };
    Ok(printers::describe(&object, &slices, events.as_deref(), &Zoned::now()))
}

/// By uid too: Events about an earlier object of that name are not about this one.
fn events_about(client: &Client, object: &Object) -> Result<Vec<Object>, Failure> {
    let (name, namespace) = (object.name(), object.namespace());
    let mut events = Vec::new();
    for uid in known_as(object) {
        let mut about =
            format!("involvedObject.name={name},involvedObject.namespace={namespace},involvedObject.uid={uid}");
        // The one kind for which kubectl does not filter by kind.
        if object.kind() != Kind::Pod {
            about += &format!(",involvedObject.kind={}", object.kind().name());
        }
        let place = Some(namespace).filter(|namespace| !namespace.is_empty());
        events.extend(selected(client, Kind::Event, place, &about)?);
    }
    Ok(events)
}

/// The uids by which Events know an object. A kubelet names its Node by the name, and a static Pod by the uid of its file.
fn known_as(object: &Object) -> Vec<&str> {
    let metadata = object.metadata();
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let of_file = metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR_ANNOTATION));
    match (object.kind(), of_file) {
        (Kind::Node, _) => vec![uid, object.name()],
        (Kind::Pod, Some(of_file)) => vec![of_file],
        _ => vec![uid],
    }
}

/// The objects that match a field selector.
fn selected(client: &Client, kind: Kind, namespace: Option<&str>, fields: &str) -> Result<Vec<Object>, Failure> {
    let path = format!("{}?fieldSelector={}", names::collection(kind, namespace), escaped(fields));
    objects(&items(&mut client.get(&path)?, kind), kind)
}

/// `pollgate explain`
///
/// # Errors
/// As [`get`].
pub fn explain(args: &ExplainArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let names = service_names(&args.named)?;
    if names.is_empty() {
        return Err(Failure::usage("which Service? use `explain service NAME`"));
    }
    let client = Client::new(&args.named.connection.socket)?;
    let namespace = escaped(&args.named.namespace);
    let mut refused = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let path = format!("/apis/pollgate.io/v1alpha1/namespaces/{namespace}/services/{}/explain", escaped(name));
        let answer = match client.get(&path) {
            Ok(answer) => answer,
            Err(error) => {
                refused.push(refusal(error)?);
                continue;
            }
        };
        if args.output == Some(Machine::Json) {
            writeln!(out, "{answer:#}")?;
            continue;
        }
        let explanation: Explanation = serde_json::from_value(answer).map_err(|error| strange(&error))?;
        let separator = if index == 0 { "" } else { "\n" };
        write!(out, "{separator}{}", explanation.text())?;
    }
    refusals(refused)
}

/// Selections of the same kind as one: `svc/a svc/b` is one table.
fn merged(selections: Vec<Selection>) -> Vec<Selection> {
    let mut merged: Vec<Selection> = Vec::new();
    for selection in selections {
        match merged.iter_mut().find(|other| other.kind == selection.kind) {
            Some(other) => other.names.extend(selection.names),
            None => merged.push(selection),
        }
    }
    merged
}

fn check_usage(args: &GetArgs, selections: &[Selection]) -> Result<(), Failure> {
    let by_name = selections.iter().any(|selection| !selection.names.is_empty());
    if by_name && args.all_namespaces {
        return Err(Failure::usage("a name cannot be combined with all namespaces; select a namespace with -n"));
    }
    if by_name && args.selector.is_some() {
        return Err(Failure::usage("use either names or a selector"));
    }
    Ok(())
}

/// The objects of a selection.
fn fetch(client: &Client, args: &GetArgs, selection: &Selection) -> Result<Found, Failure> {
    let namespace = (!args.all_namespaces).then_some(args.namespace.as_str());
    let mut found = Found { kind: selection.kind, objects: Vec::new(), refused: Vec::new() };
    if selection.names.is_empty() {
        let selector = args.selector.as_deref().unwrap_or_default();
        found.objects = list(client, selection.kind, namespace, selector)?;
    }
    for name in &selection.names {
        match client.get(&names::object(&Key::new(selection.kind, args.namespace.as_str(), name.as_str()))) {
            Ok(object) => found.objects.push(object),
            Err(error) => found.refused.push(refusal(error)?),
        }
    }
    Ok(found)
}

fn slices_of(client: &Client, namespace: &str, service: &str) -> Result<Vec<Value>, ClientError> {
    list(client, Kind::EndpointSlice, Some(namespace), &format!("{SERVICE_NAME_LABEL}={service}"))
}

fn list(client: &Client, kind: Kind, namespace: Option<&str>, selector: &str) -> Result<Vec<Value>, ClientError> {
    let mut path = names::collection(kind, namespace);
    if !selector.is_empty() {
        path.push_str(&format!("?labelSelector={}", escaped(selector)));
    }
    Ok(items(&mut client.get(&path)?, kind))
}

fn tables(args: &GetArgs, found: &[Found], out: &mut dyn Write) -> Result<(), Failure> {
    let wide = args.output == Some(Format::Wide);
    let mut printed = false;
    for found in found {
        let mut table = table(found, wide)?;
        if table.rows.is_empty() {
            continue;
        }
        if found_more_than_one(args) {
            prefix_kind(&mut table);
        }
        let separator = if printed { "\n" } else { "" };
        write!(out, "{separator}{}", table.text(wide, args.all_namespaces && found.kind.namespaced()))?;
        printed = true;
    }
    if !printed && found.iter().all(|found| found.refused.is_empty()) {
        let scoped = !args.all_namespaces && found.iter().all(|found| found.kind.namespaced());
        let place = if scoped { format!(" in {} namespace.", args.namespace) } else { String::new() };
        // For people only: stdout stays empty, as scripts expect.
        drop(writeln!(terminal::stderr(), "No resources found{place}"));
    }
    Ok(())
}

/// Whether several kinds were requested, so that rows need their kind.
fn found_more_than_one(args: &GetArgs) -> bool {
    let kind = |word: &String| word.split_once('/').map(|(kind, _)| kind.to_owned());
    let kinds: Vec<_> = args.objects.iter().filter_map(kind).filter_map(|kind| Kind::from_alias(&kind)).collect();
    kinds.windows(2).any(|pair| pair[0] != pair[1])
}

fn table(found: &Found, wide: bool) -> Result<Table, Failure> {
    let objects = objects(&found.objects, found.kind)?;
    Ok(Table::of(found.kind, &objects, wide, Timestamp::now()))
}

fn prefix_kind(table: &mut Table) {
    let prefix = names::qualified(table.kind);
    for row in &mut table.rows {
        if let Some(name) = row.cells.first_mut() {
            *name = format!("{prefix}/{name}");
        }
    }
}

fn names_only(found: &[Found], out: &mut dyn Write) -> Result<(), Failure> {
    for found in found {
        let prefix = names::qualified(found.kind);
        for row in table(found, false)?.rows {
            writeln!(out, "{prefix}/{}", row.name)?;
        }
    }
    Ok(())
}

/// The one object that was named, or a list of all.
fn together<'a>(args: &GetArgs, found: impl Iterator<Item = &'a Found>) -> Value {
    let objects: Vec<Value> = found.flat_map(|found| &found.objects).map(without_owners).collect();
    let one_named = args.objects.len() == 2 || args.objects.iter().all(|word| word.contains('/'));
    match objects.as_slice() {
        [object] if one_named => object.clone(),
        _ => {
            json!({"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}})
        }
    }
}

/// `managedFields` are half of the text of an applied object; left out, as kubectl does.
fn without_owners(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// The names of the Services to `explain`, which supports no other kind.
fn service_names(args: &NamedArgs) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for selection in names::selections(&args.objects)? {
        if selection.kind != Kind::Service {
            return Err(Failure::usage("explain supports only Services: use `explain service NAME`"));
        }
        names.extend(selection.names);
    }
    Ok(names)
}

/// The text of a refusal; anything else ends the command.
fn refusal(error: ClientError) -> Result<String, Failure> {
    match Failure::from(error) {
        Failure::Refused(text) => Ok(text),
        other => Err(other),
    }
}

fn refusals(refused: impl IntoIterator<Item = String>) -> Result<(), Failure> {
    let refused: Vec<String> = refused.into_iter().collect();
    if refused.is_empty() { Ok(()) } else { Err(Failure::Refused(refused.join("\n"))) }
}

//! `pollgate get --watch`: the objects there are, then each change, until it is interrupted.
//!
//! ```text
//! list ─▶ rows, at revision r ─▶ watch from r ─▶ one row per event, with the same column widths
//! ```
//!
//! As kubectl: a deleted object is printed once more in its last state, and JSON and YAML are printed object by object. When
//! the gateway ends the watch (after half an hour to an hour, and when it stops) the command ends too, with exit code 0.
//! kubectl does that silently; here stderr reports it.

use std::io::{self, Write};

use jiff::Timestamp;
use pollgate_control::objects::{Key, Kind};
use pollgate_control::printers::Table;
use serde_json::Value;

use super::args::{Format, GetArgs};
use super::client::{Client, escaped};
use super::names::{self, Selection};
use crate::failure::Failure;
use crate::output::{items, object, objects, yaml};

/// Prints the selected objects and their changes.
pub(super) fn watch(args: &GetArgs, selections: &[Selection], out: &mut dyn Write) -> Result<(), Failure> {
    let (kind, name) = one(selections)?;
    let client = Client::new(&args.connection.socket)?;
    if let Some(name) = name {
        // Requested by its name first: an empty list would not be an error if it does not exist.
        client.get(&names::object(&Key::new(kind, args.namespace.as_str(), name)))?;
    }
    let path = path(args, kind, name);
    let mut answer = client.get(&path)?;
    let revision = text(&answer, "/metadata/resourceVersion").to_owned();
    let mut printer = Printer { args, kind, widths: Vec::new(), printed: 0, out };
    printer.print(&items(&mut answer, kind))?;
    let path = format!("{path}&watch=true&resourceVersion={}", escaped(&revision));
    client.watch(&path, &mut |event| match text(&event, "/type") {
        "ERROR" => {
            Err(Failure::refused(format!("error: the gateway ended the watch: {}", text(&event, "/object/message"))))
        }
        "BOOKMARK" => Ok(()),
        _ => printer.print(&[event["object"].clone()]),
    })?;
    // For people only: as with kubectl, the exit code is 0.
    drop(writeln!(io::stderr(), "the gateway ended the watch; repeat the command to continue"));
    Ok(())
}

/// The kind to watch, and the name if it is one object of it.
fn one(selections: &[Selection]) -> Result<(Kind, Option<&str>), Failure> {
    match selections {
        [Selection { kind, names }] if names.len() < 2 => Ok((*kind, names.first().map(String::as_str))),
        _ => Err(Failure::usage("only one kind or one object can be watched at a time")),
    }
}

fn path(args: &GetArgs, kind: Kind, name: Option<&str>) -> String {
    let namespace = (!args.all_namespaces).then_some(args.namespace.as_str());
    let labels = escaped(args.selector.as_deref().unwrap_or_default());
    let fields = name.map(|name| format!("&fieldSelector=metadata.name%3D{}", escaped(name)));
    format!("{}?labelSelector={labels}{}", names::collection(kind, namespace), fields.unwrap_or_default())
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Prints objects as they come.
struct Printer<'a> {
    args: &'a GetArgs,
    kind: Kind,
    /// The widths of the columns, so far.
    widths: Vec<usize>,
    /// How many objects were printed.
    printed: usize,
    out: &'a mut dyn Write,
}

impl Printer<'_> {
    fn print(&mut self, values: &[Value]) -> Result<(), Failure> {
        match self.args.output {
            None | Some(Format::Wide) => self.rows(values)?,
            Some(_) => values.iter().try_for_each(|value| self.whole(value))?,
        }
        Ok(self.out.flush()?)
    }

    fn rows(&mut self, values: &[Value]) -> Result<(), Failure> {
        let wide = self.args.output == Some(Format::Wide);
        let table = Table::of(self.kind, &objects(values, self.kind)?, wide, Timestamp::now());
        let namespaced = self.args.all_namespaces && self.kind.namespaced();
        Ok(write!(self.out, "{}", table.text_below(&mut self.widths, wide, namespaced))?)
    }

    fn whole(&mut self, value: &Value) -> Result<(), Failure> {
        match self.args.output {
            Some(Format::Name) => {
                let name = object(value, self.kind)?.name().to_owned();
                writeln!(self.out, "{}/{name}", names::qualified(self.kind))?;
            }
            Some(Format::Json) => writeln!(self.out, "{value:#}")?,
            _ => {
                let separator = if self.printed == 0 { "" } else { "---\n" };
                write!(self.out, "{separator}{}", yaml(value)?)?;
            }
        }
        self.printed += 1;
        Ok(())
    }
}

//! A request: the object or objects that its path names, and the options in its query.
//!
//! Every option is read here, in [`Options`]. Parameters that affect only the form of a response (`pretty`) are ignored, as
//! Kubernetes allows; one that would change what happens is never ignored.

use std::collections::HashMap;

use axum::extract::{Extension, FromRequestParts, Path};
use axum::http::Method;
use axum::http::request::Parts;

use super::decode::Expected;
use super::deletion::Deletion;
use super::form::Form;
use super::query::{Parameters, dry_run, flag, query};
use super::selector::{FieldSelector, LabelSelector, Wanted};
use super::status::Status;
use crate::objects::fault::{Fault, Faults};
use crate::objects::{Key, Kind};

/// The part of an object that a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// Its subresource `status`: a write changes nothing else.
    Status,
}

/// What the path names, and the options of the query.
pub(crate) struct Target {
    pub(super) kind: Kind,
    pub(super) part: Part,
    /// Empty for a cluster-scoped kind; `None` for a list of all namespaces.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    /// Whether the request has a whole object to replace another.
    replaces: bool,
    pub(super) options: Options,
}

/// The query of a request. Parameters not named here are ignored.
#[derive(Debug, Default)]
pub(super) struct Options {
    labels: LabelSelector,
    fields: FieldSelector,
    pub(super) dry_run: bool,
    pub(super) form: Form,
    pub(super) validation: FieldValidation,
    /// The field manager, for server-side apply.
    pub(super) manager: String,
    /// Whether server-side apply takes fields over from other managers; `None` if not given.
    pub(super) force: Option<bool>,
    pub(super) deletion: Deletion,
    /// All parameters, for lists and watches.
    pub(super) parameters: Parameters,
}

impl Target {
    pub(super) fn key(&self) -> Key {
        Key::new(self.kind, self.namespace(), self.name.as_str())
    }

    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// What an object in the body must be.
    pub(super) fn expected(&self) -> Expected {
        Expected {
            kind: self.kind,
            namespace: self.namespace().to_owned(),
            name: self.name.clone(),
            validation: self.options.validation,
            replaces: self.replaces,
        }
    }

    /// The objects of a list, and the options.
    pub(super) fn into_wanted(self) -> (Wanted, Options) {
        let Options { labels, fields, .. } = &self.options;
        let (labels, fields) = (labels.clone(), fields.clone());
        (Wanted { kind: self.kind, namespace: self.namespace, labels, fields }, self.options)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Status;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Status> {
        let Extension(kind) = Extension::<Kind>::from_request_parts(parts, state)
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let Extension(part) = Extension::<Part>::from_request_parts(parts, state)
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let Path(mut path) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
            .await
            .map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Self {
            kind,
            part,
            namespace: path.remove("namespace"),
            name: path.remove("name").unwrap_or_default(),
            replaces: parts.method == Method::PUT,
            options: Options::from_parts(parts, kind)?,
        })
    }
}

impl Options {
    fn from_parts(parts: &Parts, kind: Kind) -> Result<Self, Status> {
        let query = query(parts)?;
        let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let (mut written, mut faults) = (Written::default(), Faults::new());
        if let Some(options) = options_of(&parts.method) {
            written.dry_run = dry_run(text("dryRun"), &mut faults);
            match options {
                "DeleteOptions" => {
                    written.deletion =
                        Deletion::parse(text("gracePeriodSeconds"), text("propagationPolicy"), &mut faults)?;
                }
                _ => {
                    text("fieldManager").clone_into(&mut written.manager);
                    check_manager(&written.manager, &mut faults);
                    written.validation = FieldValidation::parse(text("fieldValidation"), &mut faults);
                }
            }
            if !faults.is_empty() {
                return Err(Status::invalid_options(options, &faults));
            }
        }
        let Written { dry_run, validation, manager, deletion } = written;
        Ok(Self {
            labels: LabelSelector::parse(text("labelSelector")).map_err(Status::bad_request)?,
            fields: FieldSelector::parse(text("fieldSelector"), kind).map_err(Status::bad_request)?,
            dry_run,
            form: Form::of(&parts.headers, text("includeObject"))?,
            validation,
            manager,
            force: flag(&query, "force"),
            deletion,
            parameters: query,
        })
    }
}

/// The options that only requests that write have.
#[derive(Default)]
struct Written {
    dry_run: bool,
    validation: FieldValidation,
    manager: String,
    deletion: Deletion,
}

/// What Kubernetes calls the options of a request that writes.
fn options_of(method: &Method) -> Option<&'static str> {
    match method.as_str() {
        "POST" => Some("CreateOptions"),
        "PUT" => Some("UpdateOptions"),
        "PATCH" => Some("PatchOptions"),
        "DELETE" => Some("DeleteOptions"),
        _ => None,
    }
}

fn check_manager(manager: &str, faults: &mut Faults) {
    const MOST: usize = 128;
    if manager.len() > MOST {
        faults.push(Fault::too_long("fieldManager", MOST));
    }
    for (at, character) in manager.char_indices().filter(|(_, character)| character.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(character));
        faults.push(Fault::invalid("fieldManager", manager, &detail));
    }
}

/// What to do about unknown fields.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Strict,
    #[default]
    Warn,
    Ignore,
}

impl FieldValidation {
    pub(crate) fn parse(text: &str, faults: &mut Faults) -> Self {
        match text {
            "" | "Warn" => Self::Warn,
            "Strict" => Self::Strict,
            "Ignore" => Self::Ignore,
            other => {
                faults.push(Fault::not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]));
                Self::Warn
            }
        }
    }
}

//! A request: the object or objects that its path names, and the options in its query.
//!
//! Every option is read here, in [`Options`]. Parameters that affect only the form of a response (`pretty`) are ignored, as
//! Kubernetes allows; one that would change what happens is never ignored.

use std::collections::HashMap;

use axum::extract::{Extension, FromRequestParts, Path};
use axum::http::request::Parts;

use super::decode::Expected;
use super::deletion::Deletion;
use super::form::Form;
use super::query::{Parameters, boolean, dry_run, query};
use super::selector::{FieldSelector, LabelSelector, Wanted};
use super::status::Status;
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
            options: Options::from_parts(parts, kind)?,
        })
    }
}

impl Options {
    fn from_parts(parts: &Parts, kind: Kind) -> Result<Self, Status> {
        let query = query(parts)?;
        let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        Ok(Self {
            labels: LabelSelector::parse(text("labelSelector")).map_err(Status::bad_request)?,
            fields: FieldSelector::parse(text("fieldSelector"), kind).map_err(Status::bad_request)?,
            dry_run: dry_run(text("dryRun"))?,
            form: Form::of(&parts.headers, text("includeObject"))?,
            validation: FieldValidation::parse(text("fieldValidation"))?,
            manager: text("fieldManager").to_owned(),
            force: boolean("force", text("force"))?,
            deletion: Deletion::parse(text("gracePeriodSeconds"), text("propagationPolicy"))?,
            parameters: query,
        })
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
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            "Ignore" => Ok(Self::Ignore),
            other => Err(Status::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

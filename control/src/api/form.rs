//! The form a client wants objects in, from its `Accept` header.
//!
//! ```text
//! application/json, application/yaml, application/vnd.kubernetes.protobuf     Media
//!   ;as=Table;v=v1;g=meta.k8s.io                  what `kubectl get` asks for   View
//!   ;as=PartialObjectMetadata[List];v=v1;…        what metadata informers ask for
//! ```
//!
//! The first range that can be served counts, as with the API server.

use axum::http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use super::protobuf::PROTOBUF;
use super::status::Status;
use crate::objects::Object;
use crate::objects::shown::shown;

const SERVED: &[&str] = &["application/json", "application/yaml", PROTOBUF];
const STREAMED: &[&str] = &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// How objects are encoded, and what is shown of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    pub(crate) media: Media,
    pub(crate) view: View,
}

/// An encoding.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Media {
    #[default]
    Json,
    Yaml,
    Protobuf,
}

/// What is shown of objects.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum View {
    /// All of them.
    #[default]
    Whole,
    /// `PartialObjectMetadata`: their metadata.
    Metadata(MetaVersion),
    /// Rows of a `Table`, each with the requested part of the object.
    Table(MetaVersion, Include),
}

/// The version of `meta.k8s.io`; what it has is the same in both.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum MetaVersion {
    #[default]
    V1,
    V1beta1,
}

/// What a row of a Table holds besides its cells.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Include {
    /// The object's metadata, as a `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
    /// Nothing.
    Nothing,
}

impl Form {
    /// The first form in `Accept` that is supported; `include` is the parameter `includeObject`.
    pub(crate) fn of(headers: &HeaderMap, include: &str) -> Result<Self, Status> {
        let mut accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
        if accepts.peek().is_none() {
            return Ok(Self::default());
        }
        accepts
            .flat_map(|value| value.split(','))
            .find_map(|range| Self::of_range(range, include).transpose())
            .unwrap_or_else(|| Err(Status::not_acceptable(SERVED)))
    }

    /// The form that one media range asks for; `None` if it is not supported.
    fn of_range(range: &str, include: &str) -> Result<Option<Self>, Status> {
        let mut parts = range.split(';').map(str::trim);
        let media = match parts.next() {
            Some("application/json" | "application/*" | "*/*") => Media::Json,
            Some("application/yaml") => Media::Yaml,
            Some(PROTOBUF) => Media::Protobuf,
            _ => return Ok(None),
        };
        let parameter = |name: &str| {
            range.split(';').skip(1).filter_map(|part| part.trim().split_once('=')).find(|(key, _)| *key == name)
        };
        let version = match parameter("v") {
            Some((_, "v1")) => Some(MetaVersion::V1),
            Some((_, "v1beta1")) => Some(MetaVersion::V1beta1),
            _ => None,
        };
        let view = match (parameter("as"), version) {
            (None, _) => View::Whole,
            (Some((_, "PartialObjectMetadata" | "PartialObjectMetadataList")), Some(version)) => {
                View::Metadata(version)
            }
            // A Table has no protobuf.
            (Some((_, "Table")), Some(version)) if media != Media::Protobuf => {
                View::Table(version, Include::parse(include)?)
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { media, view }))
    }

    /// The form of a watch's events: a stream of YAML documents is not defined.
    pub(crate) fn of_stream(self) -> Result<Self, Status> {
        if self.media == Media::Yaml { Err(Status::not_acceptable(STREAMED)) } else { Ok(self) }
    }
}

impl Media {
    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => PROTOBUF,
        })
    }

    /// The type of a watch's events.
    pub(crate) fn stream_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json | Self::Yaml => "application/json",
            Self::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        })
    }
}

impl View {
    /// The object that shows `object`; `None` for a row of a Table.
    pub(crate) fn of(self, object: &Object) -> Option<Value> {
        match self {
            Self::Whole => Some(shown(object)),
            Self::Metadata(version) => Some(partial(object, version)),
            Self::Table(..) => None,
        }
    }
}

impl MetaVersion {
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

impl Include {
    fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            "None" => Ok(Self::Nothing),
            other => Err(Status::bad_request(format!(
                "includeObject: Unsupported value: {other:?}: supported values: \"None\", \"Metadata\", \"Object\""
            ))),
        }
    }

    pub(crate) fn of(self, object: &Object, version: MetaVersion) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Object => shown(object),
            Self::Metadata => partial(object, version),
        }
    }
}

fn partial(object: &Object, version: MetaVersion) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": version.api_version(), "metadata": object.metadata()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_that_can_be_served_counts() {
        let form = |media, view| Form { media, view };
        let table = |version| View::Table(version, Include::Metadata);
        let cases = [
            ("*/*", Some(form(Media::Json, View::Whole))),
            ("application/yaml", Some(form(Media::Yaml, View::Whole))),
            ("text/html, application/json;q=0.9", Some(form(Media::Json, View::Whole))),
            ("application/cbor,application/vnd.kubernetes.protobuf", Some(form(Media::Protobuf, View::Whole))),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Some(form(Media::Json, table(MetaVersion::V1))),
            ),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Some(form(Media::Json, table(MetaVersion::V1beta1)))),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
                Some(form(Media::Protobuf, View::Metadata(MetaVersion::V1))),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                Some(form(Media::Json, View::Whole)),
            ),
            ("application/json;as=Table;v=v2", None),
            ("application/json;as=Secret;v=v1", None),
            ("text/html", None),
        ];
        for (accept, expected) in cases {
            let headers = [(header::ACCEPT, HeaderValue::from_static(accept))].into_iter().collect();
            assert_eq!(Form::of(&headers, "").ok(), expected, "{accept}");
        }
        assert_eq!(Form::of(&HeaderMap::new(), "").ok(), Some(Form::default()));
    }
}

//! Reviews: who a client is, and what it may do.
//!
//! Whoever has come this far may do everything: the socket's permissions or the token are the whole access control. `kubectl auth`
//! asks for these reviews, and so do controllers before they start.

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::post;
use serde_json::{Value, json};

use super::body::{self, OBJECT_LIMIT, OBJECT_TYPES};
use super::form::Form;
use super::render;
use super::shared::Api;
use super::status::Status;

/// A kind of review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    /// Whether the client may do one thing.
    Access,
    /// What it may do.
    Rules,
    /// Who it is.
    Identity,
}

impl Review {
    pub(crate) const ALL: [Review; 3] = [Review::Access, Review::Rules, Review::Identity];
    /// The groups of reviews; all have one version, `v1`.
    pub(crate) const GROUPS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];

    pub(crate) fn group(self) -> &'static str {
        match self {
            Review::Access | Review::Rules => "authorization.k8s.io",
            Review::Identity => "authentication.k8s.io",
        }
    }

    pub(crate) fn kind(self) -> &'static str {
        match self {
            Review::Access => "SelfSubjectAccessReview",
            Review::Rules => "SelfSubjectRulesReview",
            Review::Identity => "SelfSubjectReview",
        }
    }

    /// Its resource in paths; in singular without the last letter.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Review::Access => "selfsubjectaccessreviews",
            Review::Rules => "selfsubjectrulesreviews",
            Review::Identity => "selfsubjectreviews",
        }
    }

    fn status(self) -> Value {
        match self {
            Review::Access => json!({"allowed": true}),
            Review::Rules => json!({
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "incomplete": false,
            }),
            Review::Identity => {
                json!({"userInfo": {"username": "pollgate-client", "groups": ["system:masters", "system:authenticated"]}})
            }
        }
    }
}

pub(crate) fn router() -> Router<Api> {
    Review::ALL.into_iter().fold(Router::new(), |router, review| {
        let path = format!("/apis/{}/v1/{}", review.group(), review.plural());
        router.merge(Router::new().route(&path, post(create)).layer(Extension(review)))
    })
}

async fn create(
    State(api): State<Api>,
    Extension(review): Extension<Review>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Status> {
    let form = Form::of(&headers, "")?;
    let (_claim, bytes, media) = body::read(&api.budget, &headers, body, OBJECT_TYPES, OBJECT_LIMIT).await?;
    let mut value = body::decode(bytes, media).await?;
    let given = |field: &str| value.get("spec").and_then(|spec| spec.get(field)).is_some_and(|given| !given.is_null());
    if review == Review::Access && given("resourceAttributes") == given("nonResourceAttributes") {
        return Err(Status::incomplete_access_review());
    }
    let Some(fields) = value.as_object_mut() else {
        return Err(Status::bad_request("a review must be an object"));
    };
    fields.insert("kind".to_owned(), json!(review.kind()));
    fields.insert("apiVersion".to_owned(), json!(format!("{}/v1", review.group())));
    fields.entry("metadata").or_insert_with(|| json!({}));
    fields.insert("status".to_owned(), review.status());
    Ok(render::value(StatusCode::CREATED, &value, form.media))
}

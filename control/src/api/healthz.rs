//! `/livez`, `/readyz` and `/healthz`: whether the gateway works, in the form of the Kubernetes API server.
//!
//! ```text
//!  /readyz             ok                         /readyz?verbose     [+]ping ok
//!  /readyz/store       ok                                             [-]interface-eth0 failed: …
//!  /readyz?exclude=store                                              readyz check failed
//! ```
//!
//! Texts, parameters and codes are upstream's (K `staging/src/k8s.io/apiserver/pkg/server/healthz/healthz.go`), but that a failed check
//! says why to those who may ask anything. `/livez` has the checks whose failure only a restart mends; `/readyz` and `/healthz` have all.

use std::fmt::Write;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};

use super::shared::Api;
use super::status::Status;
use crate::observe::checks::{Check, Checks, Scope};

/// The three paths, whose names the texts repeat, and whether they have only the checks of [`Scope::Live`].
pub(super) const PATHS: [(&str, bool); 3] = [("livez", true), ("readyz", false), ("healthz", false)];

/// Marks a request without the token: it does not learn why a check fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stranger;

pub(crate) fn router() -> Router<Api> {
    PATHS.into_iter().fold(Router::new(), |router, (name, only_live)| {
        let all = move |State(api): State<Api>,
                        stranger: Option<Extension<Stranger>>,
                        Query(parameters): Query<Parameters>| async move {
            page(name, &checks(&api.checks, only_live, stranger.is_none()), &parameters)
        };
        let one = move |State(api): State<Api>, Path(wanted): Path<String>| async move {
            single(&checks(&api.checks, only_live, true), &wanted)
        };
        router.route(&format!("/{name}"), get(all)).route(&format!("/{name}/{{check}}"), get(one))
    })
}

type Parameters = Vec<(String, String)>;

/// What those learn who have no token and no right to the socket; `None`: the path is not one of the three.
pub(crate) fn for_strangers(all: &Checks, uri: &Uri) -> Option<Response> {
    let (name, only_live) = PATHS.into_iter().find(|(name, _)| uri.path().strip_prefix('/') == Some(name))?;
    let parameters = Query::<Parameters>::try_from_uri(uri).map(|Query(parameters)| parameters).unwrap_or_default();
    Some(page(name, &checks(all, only_live, false), &parameters))
}

fn checks(all: &Checks, only_live: bool, with_reasons: bool) -> Vec<Check> {
    let mut checks: Vec<Check> =
        all.all().into_iter().filter(|check| !only_live || check.scope == Scope::Live).collect();
    if !with_reasons {
        let faults = checks.iter_mut().filter_map(|check| check.fault.as_mut());
        faults.for_each(|fault| "reason withheld".clone_into(fault));
    }
    checks
}

/// All checks together.
fn page(path: &str, checks: &[Check], parameters: &[(String, String)]) -> Response {
    let mut excluded: Vec<&str> =
        parameters.iter().filter(|(key, _)| key == "exclude").map(|(_, value)| value.as_str()).collect();
    let is_verbose = parameters.iter().any(|(key, _)| key == "verbose");
    let (mut text, mut has_failed) = (String::new(), false);
    for Check { name, fault, .. } in checks {
        let is_excluded = excluded.iter().any(|other| other == name);
        excluded.retain(|other| other != name);
        // Writing to a String cannot fail.
        let _ = match fault {
            _ if is_excluded => writeln!(text, "[+]{name} excluded: ok"),
            None => writeln!(text, "[+]{name} ok"),
            Some(fault) => writeln!(text, "[-]{name} failed: {fault}"),
        };
        has_failed |= fault.is_some() && !is_excluded;
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(", ");
        let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    match (has_failed, is_verbose) {
        (true, _) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{text}{path} check failed\n")),
        (false, true) => plain(StatusCode::OK, format!("{text}{path} check passed\n")),
        (false, false) => plain(StatusCode::OK, "ok".to_owned()),
    }
}

/// One check.
fn single(checks: &[Check], wanted: &str) -> Response {
    match checks.iter().find(|check| check.name == wanted) {
        Some(Check { fault: None, .. }) => plain(StatusCode::OK, "ok".to_owned()),
        Some(Check { fault: Some(fault), .. }) => {
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {fault}\n"))
        }
        None => Status::no_resource().into_response(),
    }
}

fn plain(code: StatusCode, text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (code, headers, text).into_response()
}

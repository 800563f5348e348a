//! The parameters of a request's query.

use std::collections::HashMap;

use axum::extract::Query;
use axum::http::request::Parts;

use pollgate_common::flow::Protocol;

use super::status::Status;
use crate::objects::fault::{Fault, Faults};

/// The parameters of a request.
pub(crate) type Parameters = HashMap<String, String>;

/// The query's parameters. If one is given twice, the last one counts.
pub(super) fn query(parts: &Parts) -> Result<Parameters, Status> {
    let query = Query::<Parameters>::try_from_uri(&parts.uri);
    query.map(|Query(query)| query).map_err(|error| Status::bad_request(error.to_string()))
}

/// A number, as the API server reads one; its message does not name the parameter.
pub(super) fn number(text: &str) -> Result<Option<i64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let fault = |_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
    text.parse().map(Some).map_err(fault)
}

/// Whether nothing is to be changed.
pub(super) fn dry_run(value: &str, faults: &mut Faults) -> bool {
    if !matches!(value, "" | "All") {
        let detail = "supported values: \"All\"";
        faults.push(Fault::not_supported_values("dryRun", &[value.to_owned()], detail));
    }
    value == "All"
}

/// A boolean as the API server reads it: everything but `false` and `0` is true.
pub(crate) fn flag(parameters: &Parameters, name: &str) -> Option<bool> {
    parameters.get(name).map(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
}

/// A parameter's value; empty if it is not given.
pub(crate) fn text<'a>(parameters: &'a Parameters, name: &str) -> &'a str {
    parameters.get(name).map(String::as_str).unwrap_or_default()
}

/// Refuses parameters that are not `known`: a filter that is not known would be taken for none at all.
pub(super) fn only(parameters: &Parameters, known: &[&str]) -> Result<(), Status> {
    match parameters.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Status::bad_request(format!("{name}: no such parameter; there are {}", known.join(", ")))),
        None => Ok(()),
    }
}

/// A parameter's value; `None` if it is not given, or empty.
pub(super) fn given<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a str> {
    Some(text(parameters, name)).filter(|text| !text.is_empty())
}

/// The same, parsed. `expected`: what it must be.
pub(super) fn parsed<T>(
    parameters: &Parameters,
    name: &str,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Status> {
    let Some(text) = given(parameters, name) else { return Ok(None) };
    let fault = || Status::bad_request(format!("{name}: Invalid value: {text:?}: expected {expected}"));
    parse(text).map(Some).ok_or_else(fault)
}

/// A transport protocol, in any case.
pub(super) fn protocol(text: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|known| known.as_str().eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_is_read_as_the_api_server_reads_it() {
        let given = [("a", "true"), ("b", "1"), ("c", ""), ("d", "false"), ("e", "0"), ("f", "False"), ("g", "yes")];
        let parameters = given.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        for name in ["a", "b", "c", "g"] {
            assert_eq!(flag(&parameters, name), Some(true), "{name}");
        }
        for name in ["d", "e", "f"] {
            assert_eq!(flag(&parameters, name), Some(false), "{name}");
        }
        assert_eq!(flag(&parameters, "h"), None);
    }
}

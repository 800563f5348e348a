//! `GET dump/TABLE`: the compiled tables and the flows, in pages.
//!
//! | parameter | |
//! |---|---|
//! | `limit` | items of the page at most; 500 if it is not given, 10,000 at most |
//! | `continue` | from the page before |
//! | `address`, `port`, `protocol`, `service` | only matching items; `service` is `namespace/name` or `namespace/name:port` |
//!
//! Tables are read on a thread of their own. Flows are copied by one worker after the other, for one client at a time: the
//! others wait their turn. A page of flows ends early if it takes too long, and says where it goes on.

use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use pollgate_common::inspect::{FlowRequest, Request};

use super::ask::Turn;
use super::query::{given, only, parsed, protocol, query};
use super::shared::Api;
use super::status::Status;
use crate::observe::dump::{
    BadToken, DumpSource, Filter, Items, LIMIT, MAX_LIMIT, Page, Query, Table, flow_filter, flow_item, flow_place,
    flow_token, page,
};

/// Where the tables are.
pub const DUMP_PATH: &str = "/apis/pollgate.io/v1alpha1/dump";

const PARAMETERS: [&str; 6] = ["limit", "continue", "address", "port", "protocol", "service"];

pub(crate) fn router() -> Router<Api> {
    Router::new().route(&format!("{DUMP_PATH}/{{table}}"), get(dump))
}

/// The query, read.
struct Asked(Query);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Status;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Status> {
        let parameters = query(parts)?;
        only(&parameters, &PARAMETERS)?;
        let limit = parsed(&parameters, "limit", "a number", |text| text.parse().ok().filter(|limit| *limit > 0))?;
        let filter = Filter {
            address: parsed(&parameters, "address", "an IP address", |text| text.parse().ok())?,
            port: parsed(&parameters, "port", "a port", |text| text.parse().ok())?,
            protocol: parsed(&parameters, "protocol", "TCP, UDP or SCTP", protocol)?,
            service: given(&parameters, "service").map(str::to_owned),
        };
        let after = given(&parameters, "continue").map(str::to_owned);
        Ok(Self(Query { filter, limit: limit.unwrap_or(LIMIT).min(MAX_LIMIT), after }))
    }
}

async fn dump(State(api): State<Api>, Path(table): Path<String>, Asked(query): Asked) -> Result<Response, Status> {
    let table: Table = table.parse().map_err(|()| Status::no_resource())?;
    let source = api.dump.clone().ok_or_else(Status::no_resource)?;
    let page = match table {
        Table::Flows => flows(&api, &source, &query).await?,
        _ => tables(source, table, query).await?,
    };
    Ok(Json(page).into_response())
}

async fn tables(source: DumpSource, table: Table, query: Query) -> Result<Page, Status> {
    let read = move || page(source.tables.reader().pin().load(), table, &query);
    let page = tokio::task::spawn_blocking(read).await.map_err(|error| Status::internal(error.to_string()))?;
    page.map_err(bad_token)?.ok_or_else(Status::no_resource)
}

/// A page of flows: those of one worker, and if there is room, of the next.
async fn flows(api: &Api, source: &DumpSource, query: &Query) -> Result<Page, Status> {
    let (first, mut from) = flow_place(query.after.as_deref()).map_err(bad_token)?;
    let filter = flow_filter(source.tables.reader().pin().load(), &query.filter);
    let turn = Turn::wait(api).await?;
    let (mut found, mut rest) = (Vec::new(), None);
    for worker in first..source.mailboxes.len() {
        if found.len() == query.limit || turn.is_over() {
            rest = Some(flow_token(worker, from));
            break;
        }
        let request = Request::Flows(FlowRequest::new(filter.clone(), from, query.limit - found.len()));
        let Request::Flows(answer) = turn.ask(&source.mailboxes, worker, request).await? else { break };
        found.extend(answer.flows().iter().map(|flow| (worker, *flow)));
        if let Some(next) = answer.rest() {
            rest = Some(flow_token(worker, next));
            break;
        }
        from = 0;
    }
    let reader = source.tables.reader();
    let pin = reader.pin();
    let tables = pin.load();
    let items = found.iter().map(|(worker, flow)| flow_item(tables, *worker, flow)).collect();
    Ok(Page { generation: tables.generation(), rest, items: Items::Flows(items) })
}

fn bad_token(_: BadToken) -> Status {
    Status::bad_request("continue: the token is not from a page of this table")
}

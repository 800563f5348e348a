//! `GET stats`: the counters, and how many flows each Service port and endpoint has.
//!
//! Counters are read. Live flows are counted when they are asked for, from the copies that the workers give of their flows: to
//! count each flow that ends would cost a cache miss. If that takes too long they are left out, and the counters are returned all
//! the same.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use pollgate_common::inspect::{FlowFilter, FlowRequest, Request};

use super::ask::Turn;
use super::shared::Api;
use crate::observe::dump::{DumpSource, MAX_LIMIT};
use crate::observe::stats::{LiveFlows, Stats};

/// Where the statistics are.
pub const STATS_PATH: &str = "/apis/pollgate.io/v1alpha1/stats";

pub(crate) fn router() -> Router<Api> {
    Router::new().route(STATS_PATH, get(stats))
}

async fn stats(State(api): State<Api>) -> Response {
    let mut stats = Stats { checks: api.checks.all(), ..(api.stats)() };
    if let Some(source) = api.dump.clone()
        && let Some(flows) = live_flows(&api, &source).await
    {
        stats.count(&flows, source.tables.reader().pin().load());
    }
    Json(stats).into_response()
}

/// The flows of all workers; `None` if they cannot all be counted in time.
async fn live_flows(api: &Api, source: &DumpSource) -> Option<LiveFlows> {
    let turn = Turn::wait(api).await.ok()?;
    let mut flows = LiveFlows::default();
    for worker in 0..source.mailboxes.len() {
        let mut from = Some(0);
        while let Some(next) = from {
            let request = Request::Flows(FlowRequest::new(FlowFilter::default(), next, MAX_LIMIT));
            let Request::Flows(answer) = turn.ask(&source.mailboxes, worker, request).await.ok()? else { return None };
            answer.flows().iter().for_each(|flow| flows.add(flow));
            from = answer.rest();
            if turn.is_over() && from.is_some() {
                return None;
            }
        }
    }
    Some(flows)
}
